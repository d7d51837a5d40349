#ifndef DAEMON_JOURNAL_PRIVATE_H
#define DAEMON_JOURNAL_PRIVATE_H

/* What journal.c and journal_read.c share. */
#include <lmdb.h>

#include "daemon/journal.h"

#define JOURNAL_FILE "journal.mdb"
#define JOURNAL_MAP_BYTES (UINT64_C(64) << 30)
#define JOURNAL_MAP_MIN (UINT64_C(1) << 30)
/* Readers: each worker and admin one or two, tools a few. */
#define JOURNAL_READERS_MAX 1024

struct journal_reader {
	MDB_env *env;
	MDB_dbi records, payloads, batches, meta;
};

/* A 64-bit key or value that may lie at any address. */
static inline uint64_t
journal_u64(const MDB_val *v)
{
	uint64_t n;

	__builtin_memcpy(&n, v->mv_data, sizeof n);
	return n;
}

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
