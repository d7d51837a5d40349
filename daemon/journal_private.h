#ifndef DAEMON_JOURNAL_PRIVATE_H
#define DAEMON_JOURNAL_PRIVATE_H

/* What journal*.c share. */
#include <lmdb.h>
#include <string.h>

#include "daemon/journal.h"
#include "daemon/journal_history.h"

#define JOURNAL_MAP_BYTES (UINT64_C(64) << 30)
#define JOURNAL_MAP_MIN (UINT64_C(1) << 30)
/* Readers: each worker and admin one or two, tools a few. */
#define JOURNAL_READERS_MAX 1024

struct journal_history_databases {
	MDB_dbi sessions, list, counts, turns, texts, open, gone;
};

struct journal_reader {
	MDB_env *env;
	MDB_dbi records, payloads, batches, meta, checkpoint, receipts;
	struct journal_history_databases history;
	bool has_history; /* false: a copy of a journal from before there was one */
	bool has_receipts; /* the same */
};

struct journal_staged {
	uint64_t sequence;
	struct journal_record record;
	size_t payload_at;
};

/* What a commit does beside its records: journal_compact.c. */
struct journal_upkeep {
	struct buf bytes; /* pieces of a checkpoint, from number `piece` on */
	uint32_t piece, generation;
	bool new_base;
	struct journal_base base;
	size_t remove;    /* records or pieces, at most */
	size_t removed;   /* by this commit */
};

/* What a commit does to the history beside its records: journal_history.c. */
struct journal_history {
	struct history_rules rules;
	struct history_name drop[HISTORY_DROPS_MAX];
	size_t drops;
	size_t sweep;         /* rows to remove, at most */
	bool left, left_then; /* something is to be removed; after the commit under way */
};

struct journal { /* the writer */
	struct journal_reader reader; /* the environment and its databases */
	struct journal_chain *chain;
	uint8_t link[JOURNAL_LINK_LEN]; /* of the last committed batch */
	uint64_t last;
	struct journal_positions rings;
	struct journal_staged *staged;
	size_t count, cap;
	struct buf payloads;
	struct journal_base base;
	struct journal_upkeep upkeep;
	size_t removed; /* by the last commit */
	struct journal_history history;
	void (*wait)(void *); /* journal_on_growth */
	void *wait_arg;
};

/* A 64-bit key or value that may lie at any address. */
static inline uint64_t
journal_u64(const MDB_val *v)
{
	uint64_t n;

	__builtin_memcpy(&n, v->mv_data, sizeof n);
	return n;
}

static inline void
journal_put_be32(uint8_t out[static 4], uint32_t n)
{
	n = __builtin_bswap32(n);
	__builtin_memcpy(out, &n, 4);
}

static inline void
journal_put_be64(uint8_t out[static 8], uint64_t n)
{
	n = __builtin_bswap64(n);
	__builtin_memcpy(out, &n, 8);
}

static inline uint32_t
journal_get_be32(const uint8_t in[static 4])
{
	uint32_t n;

	__builtin_memcpy(&n, in, 4);
	return __builtin_bswap32(n);
}

static inline uint64_t
journal_get_be64(const uint8_t in[static 8])
{
	uint64_t n;

	__builtin_memcpy(&n, in, 8);
	return __builtin_bswap64(n);
}

static inline MDB_val
journal_text(const char *text)
{
	return (MDB_val){strlen(text), (void *)(uintptr_t)text};
}

/* The file's first life: journal_file.c; LMDB codes. */
int journal_make_file(const char *state_dir);
int journal_flush_folder(const char *state_dir);
/* The checkpoint that is valid; sequence 0: none.  An LMDB code. */
int journal_read_base(const struct journal_reader *, MDB_txn *, struct journal_base *);
/* Within the commit's transaction (an LMDB code), after it, and before the next. */
int journal_put_upkeep(struct journal *, MDB_txn *);
void journal_upkeep_done(struct journal *);
void journal_upkeep_clear(struct journal_upkeep *);

/* The same for the history; and at the start. */
int journal_put_history(struct journal *, MDB_txn *);
void journal_history_done(struct journal *);
int journal_history_open(struct journal *, MDB_txn *);
/*
 * The same for the receipts.  And before the first records, up to `to` and at most max of them, are
 * removed: what points to them.
 */
int journal_put_receipts(struct journal *, MDB_txn *);
int journal_drop_receipts(struct journal *, MDB_txn *, uint64_t to, size_t max);
/* A snapshot to read in; an LMDB code. */
int journal_snapshot(struct journal_reader *, MDB_txn **);

/* Make an environment with the journal's limits; an LMDB code. */
int journal_env(MDB_env **, const char *state_dir, const char *file, size_t map_bytes,
    unsigned flags);
/* Open the databases inside a transaction; an LMDB code. */
int journal_databases(struct journal_reader *, MDB_txn *, unsigned flags);
/* What a failed commit left in memory alone is on disk, or was never there; an LMDB code. */
int journal_settle_roots(MDB_env *);
/* The key of the last entry, 0 if there is none; an LMDB code. */
int journal_last_key(MDB_txn *, MDB_dbi, uint64_t *key);

#endif
