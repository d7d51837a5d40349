#ifndef DAEMON_JOURNAL_H
#define DAEMON_JOURNAL_H

/*
 * journal.mdb in state_dir: what happened, in the order in which it became durable.  The keeper
 * alone writes it; admin, workers and tools read it through an environment of their own, opened
 * after the fork.  Databases:
 *
 *   records   sequence (64 bits)       -> struct journal_record
 *   payloads  the same sequence        -> record.payload_len bytes, where there are any
 *   batches   last sequence of a batch -> struct journal_batch: first sequence and the chain's
 *                                         link, SHA-256(previous link, each record and payload)
 *   meta      "version"                -> JOURNAL_FORMAT
 *             "rings"                  -> struct journal_positions
 *
 * A commit is one transaction in LMDB's default sync mode: two flushes, and a power cut leaves
 * either all of it or nothing.  Nothing is written in between.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/buf.h"
#include "shm/journal_record.h"
#include "shm/region.h"

#define JOURNAL_FORMAT 1
#define JOURNAL_LINK_LEN 32

/* How far each process slot's ring is in the journal; they belong to one region (epoch). */
struct journal_positions {
	uint64_t epoch;
	uint64_t position[REGION_PROCS_MAX];
};

/* The largest of want, want/2, ... that this process's address space has room for: it may be
 * limited (RLIMIT_AS, valgrind).  For the maps of both files. */
size_t journal_map_bytes(size_t want);

struct journal; /* the writer */

/*
 * Open or create.  NULL with *why; errno EINVAL: of another version or damaged, trying again
 * does not help; anything else: the disk.  map_bytes 0: the default, 64 GiB; it grows when full.
 */
struct journal *journal_open(const char *state_dir, size_t map_bytes, const char **why)
    __attribute__((warn_unused_result));
void journal_close(struct journal *);

/* Last committed sequence; 0: none. */
uint64_t journal_last(const struct journal *);
const struct journal_positions *journal_rings(const struct journal *);

/* A batch: begin, append each, then commit or abort.  Staged in memory, so no read transaction
 * of this process is in the way of a growing map. */
void journal_begin(struct journal *);
/* The record's sequence, if the batch is committed. */
uint64_t journal_append(struct journal *, const struct journal_record *, const void *payload);
size_t journal_staged(const struct journal *);
/*
 * 0, or -1 with errno and a log line.  After -1 the caller must not go on: what is on disk is
 * unknown until the journal is opened anew, by another process.
 */
int journal_commit(struct journal *, const struct journal_positions *)
    __attribute__((warn_unused_result));
void journal_abort(struct journal *);
/* Forget readers that were killed: they pin pages. */
void journal_check_readers(struct journal *);

/*
 * Reading.  A process opens a reader once and keeps it: LMDB breaks if one process has a file
 * open twice.  The keeper reads through its writer.
 */
struct journal_reader;

struct journal_reader *journal_reader_open(const char *state_dir, const char **why)
    __attribute__((warn_unused_result));
void journal_reader_close(struct journal_reader *);
struct journal_reader *journal_reader(struct journal *);

/* One record; its payload is appended to the buf (which may be NULL).  1, 0: none such, -1. */
int journal_get(struct journal_reader *, uint64_t sequence, struct journal_record *, struct buf *)
    __attribute__((warn_unused_result));

/* A walk over one snapshot.  Keep it short: it pins pages while it lasts. */
struct journal_cursor;

struct journal_entry {
	uint64_t sequence;
	struct journal_record record;
	const void *payload; /* valid until the next step; NULL if there is none */
	size_t payload_len;  /* differs from record.payload_len only in a damaged journal */
};

struct journal_batch {
	uint64_t first;
	uint8_t link[JOURNAL_LINK_LEN];
};

struct journal_cursor *journal_cursor_new(struct journal_reader *, uint64_t from)
    __attribute__((warn_unused_result));
void journal_cursor_free(struct journal_cursor *);
/* Last sequence in the snapshot. */
uint64_t journal_cursor_last(const struct journal_cursor *);
/* 1, 0 at the end, -1 if it can't be read. */
int journal_cursor_next(struct journal_cursor *, struct journal_entry *)
    __attribute__((warn_unused_result));
/* The first batch that ends at or after `from`, then each next one.  1, 0, -1. */
int journal_cursor_batch(struct journal_cursor *, uint64_t *last, struct journal_batch *)
    __attribute__((warn_unused_result));
/* How many payloads there are (an audit finds those without a record). */
size_t journal_cursor_payloads(const struct journal_cursor *);

/* The chain: start with the previous batch's link, add all records, take the link. */
struct journal_chain;

struct journal_chain *journal_chain_new(void) __attribute__((warn_unused_result));
void journal_chain_free(struct journal_chain *);
void journal_chain_begin(struct journal_chain *, const uint8_t previous[static JOURNAL_LINK_LEN]);
void journal_chain_add(struct journal_chain *, const void *, size_t);
void journal_chain_end(struct journal_chain *, uint8_t link[static JOURNAL_LINK_LEN]);

#endif
