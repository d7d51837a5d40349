#ifndef DAEMON_STATE_ROWS_H
#define DAEMON_STATE_ROWS_H

/*
 * What lies in state.mdb; for state*.c only.  Rows are of fixed size, then text of the length
 * that they say.  A change bumps STATE_FORMAT, and the file is rebuilt.
 *
 *   meta      "progress"           -> struct state_meta_row
 *   accounts  number (32 bits)     -> struct account_row, id
 *   holds     slot (32 bits)       -> struct hold_row
 *   keys      key id (64 bits)     -> struct key_row, label
 *   refs      16 bytes             -> struct ref_row
 *   prices    price id (32 bits)   -> struct price, model
 *   slots     slot (32 bits)       -> id of the stream that its records belong to
 *   streams   stream id (16 bytes) -> struct stream_row up to model_len
 *   texts     stream id, sequence  -> a piece of its text (sequence big-endian: they sort)
 *   ends      end time, stream id  -> nothing (time big-endian; for expiry)
 */
#include <lmdb.h>

#include "daemon/state.h"

#define STATE_FILE "state.mdb"
#define STATE_FORMAT 2
#define STATE_MAP_BYTES (UINT64_C(64) << 30)
#define STATE_READERS_MAX 1024

struct state_meta_row {
	uint32_t format, pad;
	struct state_progress progress;
};

struct account_row {
	int64_t balance, held, overdraft, charged, topups, adjustments, slack, ending;
	uint64_t ending_us;
	uint32_t requests_per_minute, tokens_per_minute, concurrent_streams;
	uint32_t flags; /* ACCOUNT_... */
	uint32_t id_len, pad;
};

struct hold_row {
	uint64_t op;
	int64_t amount, slack;
	uint64_t opened_us;
	uint32_t account, price, prompt, mark, open;
	uint32_t type; /* of op */
};

struct key_row {
	uint8_t hash[32];
	uint64_t key_id, expires_us, created_us;
	uint32_t account, scopes, flags, label_len;
};

struct ref_row {
	uint64_t sequence;
	int64_t amount, balance;
};

struct text_key {
	uint8_t id[16];
	uint8_t sequence[8];
};

struct end_key {
	uint8_t time[8];
	uint8_t id[16];
};

struct state_databases {
	MDB_dbi meta, accounts, holds, keys, refs, prices, slots, streams, texts, ends;
};

struct state {
	MDB_env *env;
	struct state_databases db;
	struct state_progress progress;
	char *state_dir;
};

/* Make and open an environment; an LMDB code. */
int state_env(MDB_env **, const char *state_dir, size_t map_bytes, unsigned flags);
int state_databases(struct state_databases *, MDB_txn *, unsigned flags);
/* MDB_INCOMPATIBLE if it is of another format, MDB_NOTFOUND if it is new. */
int state_read_meta(MDB_txn *, const struct state_databases *, struct state_progress *);
/* Replay stream records and expire; in state_streams.c.  LMDB codes. */
int state_put_streams(struct state *, MDB_txn *, struct journal_reader *, uint64_t last,
    size_t max_records, const struct books *, uint64_t now_us, uint64_t *streams);
int state_expire(struct state *, MDB_txn *, uint64_t now_us);

static inline void
state_put_be64(uint8_t out[static 8], uint64_t n)
{
	n = __builtin_bswap64(n);
	__builtin_memcpy(out, &n, 8);
}

static inline uint64_t
state_get_be64(const uint8_t in[static 8])
{
	uint64_t n;

	__builtin_memcpy(&n, in, 8);
	return __builtin_bswap64(n);
}

#endif
