#ifndef DAEMON_STATE_ROWS_H
#define DAEMON_STATE_ROWS_H

/*
 * What lies in state.mdb; for state*.c only.  Rows are of fixed size, then text of the length
 * that they say.  A change bumps STATE_FORMAT, and the file is rebuilt.  The rows of the books
 * are drawn in daemon/books_rows.h.
 *
 *   meta      "progress"           -> struct state_meta_row
 *   accounts, holds, keys, refs, prices, price_sets: the books
 *   ids       stream id (16 bytes) -> its number: the sequence of its reserve (64 bits)
 *   slots     slot (32 bits)       -> number of the stream that its records belong to
 *   streams   number (64 bits)     -> struct stream_row up to model_len
 *   texts     number, sequence     -> a piece of its text (both big-endian: they sort)
 *   ends      end time, number     -> nothing (both big-endian; for expiry)
 */
#include <lmdb.h>
#include <stdatomic.h>

#include "daemon/books_rows.h"
#include "daemon/state.h"

#define STATE_FORMAT 9
#define STATE_MAP_BYTES (UINT64_C(64) << 30)
#define STATE_READERS_MAX 1024

struct state_meta_row {
	uint32_t format, pad;
	struct state_progress progress;
};

struct text_key {
	uint8_t stream[8];
	uint8_t sequence[8];
};

struct end_key {
	uint8_t time[8];
	uint8_t stream[8];
};

struct state_databases {
	MDB_dbi meta, accounts, holds, keys, refs, prices, price_sets, ids, slots, streams, texts, ends;
};

struct state {
	MDB_env *env;
	struct state_databases db;
	struct state_progress progress;
	char *state_dir;
};

/* What one transaction brings: state_job.c. */
struct state_job {
	struct state_order order;
	struct buf rows; /* struct job_row, key, value; of all tables */
	bool taking;     /* not all rows are in it */
	size_t left;     /* so many were to be taken */
	struct job_ref { /* refs that are over: their rows, not those of a namesake that came later */
		uint8_t id[16];
		uint64_t sequence;
	} *refs;
	uint32_t refs_over;
	struct job_streams *streams; /* state_streams.c */
	size_t played;               /* records of the journal */
	_Atomic uint64_t steps;
	/* What became of it. */
	struct state_progress progress;
	int rc; /* an LMDB code */
	int dead_readers;
};

/* Make and open an environment; an LMDB code. */
int state_env(MDB_env **, const char *state_dir, size_t map_bytes, unsigned flags);
int state_databases(struct state_databases *, MDB_txn *, unsigned flags);
/* MDB_INCOMPATIBLE if it is of another format, MDB_NOTFOUND if it is new. */
int state_read_meta(MDB_txn *, const struct state_databases *, struct state_progress *);
int state_put_meta(const struct state *, MDB_txn *, const struct state_progress *);
/* The database of each of the books' tables. */
MDB_dbi state_database(const struct state *, enum books_table);
/* Replay stream records and expire; in state_streams.c.  LMDB codes. */
int state_put_streams(struct state *, MDB_txn *, struct journal_reader *, struct state_job *,
    uint64_t *streams);
int state_expire(struct state *, MDB_txn *, struct state_job *);
void state_streams_free(struct job_streams *);

/* It gets on.  Only its own thread counts, so no read-modify-write is needed. */
static inline void
state_job_step(struct state_job *job)
{
	atomic_store_explicit(&job->steps,
	    atomic_load_explicit(&job->steps, memory_order_relaxed) + 1, memory_order_relaxed);
}

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
