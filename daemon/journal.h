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
 *             "checkpoint"             -> struct journal_base, the valid one
 *   checkpoint  generation << 32 | n   -> piece n of a checkpoint (daemon/checkpoint.h)
 *
 *   history_...                        -> daemon/journal_history.h
 *   receipts                           -> daemon/journal_receipts.h, and rows of its in meta
 *
 * After a compaction it begins with record base.sequence + 1; what is still there of older ones,
 * or of pieces of another generation than base.generation, is on its way out and means nothing.
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

#define JOURNAL_FILE "journal.mdb"
#define JOURNAL_LOCK_FILE JOURNAL_FILE "-lock" /* LMDB's, of readers and of the writer */
#define JOURNAL_FORMAT 2 /* 1: without checkpoints; taken over as it is */
#define JOURNAL_LINK_LEN 32
#define JOURNAL_PIECE_LEN 16368 /* four pages, less LMDB's head of them */

/* The checkpoint that stands for all records up to `sequence`, which ends a batch. */
struct journal_base {
	uint64_t sequence;   /* 0: there is none, the journal begins with record 1 */
	uint64_t record;     /* the CHECKPOINT record that binds it into the chain */
	uint64_t bytes;      /* of all its pieces */
	uint64_t time_us;    /* no record up to `sequence` is later */
	uint32_t generation; /* of its pieces; 0: none */
	uint32_t pad;
	uint8_t link[JOURNAL_LINK_LEN]; /* of the batch that ends with `sequence` */
	uint8_t hash[JOURNAL_LINK_LEN]; /* SHA-256 of all pieces' bytes */
};

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

/*
 * Called before a commit makes the map larger, which pulls it from under every snapshot of this
 * process: it has to wait until no other thread has one.
 */
void journal_on_growth(struct journal *, void (*wait)(void *), void *arg);

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
/*
 * Compacting, beside the records of a batch: staged like them, done by the same commit, forgotten
 * by the next journal_begin.  Pieces of a new checkpoint are numbered from 0, belong to the
 * generation after the valid one's, and mean nothing until journal_stage_base.
 */
void journal_stage_piece(struct journal *, uint32_t n, const void *, size_t len);
/* The pieces are whole and these: from this commit on, records up to base->sequence may go. */
void journal_stage_base(struct journal *, const struct journal_base *);
/* Remove at most so many records or pieces that mean nothing any more. */
void journal_stage_removal(struct journal *, size_t max);
/* Is there anything of that kind?  -1. */
int journal_leftovers(struct journal *) __attribute__((warn_unused_result));
/* How many the last commit removed: 0 when there was nothing left to be. */
size_t journal_removed(const struct journal *);
const struct journal_base *journal_base(const struct journal *);

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

/* The valid checkpoint; -1. */
int journal_reader_base(struct journal_reader *, struct journal_base *)
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
/* Begin there after all: before the first step. */
void journal_cursor_from(struct journal_cursor *, uint64_t from);
/* Last sequence in the snapshot. */
uint64_t journal_cursor_last(const struct journal_cursor *);
/* 1, 0 at the end, -1 if it can't be read. */
int journal_cursor_next(struct journal_cursor *, struct journal_entry *)
    __attribute__((warn_unused_result));
/* The first batch that ends at or after `from`, then each next one.  1, 0, -1. */
int journal_cursor_batch(struct journal_cursor *, uint64_t *last, struct journal_batch *)
    __attribute__((warn_unused_result));
/* Payloads that were passed, at the end all from `from` on, that no record has. */
size_t journal_cursor_orphans(struct journal_cursor *);
/* The snapshot's checkpoint. */
const struct journal_base *journal_cursor_base(const struct journal_cursor *);
/* A piece of it, valid as long as the cursor.  1, 0, -1. */
int journal_cursor_piece(struct journal_cursor *, uint32_t n, const void **, size_t *len)
    __attribute__((warn_unused_result));
/* Any record of the snapshot, as journal_cursor_next gives it, beside the walk.  1, 0, -1. */
int journal_cursor_at(struct journal_cursor *, uint64_t sequence, struct journal_entry *)
    __attribute__((warn_unused_result));

/* The chain: start with the previous batch's link, add all records, take the link. */
struct journal_chain;

struct journal_chain *journal_chain_new(void) __attribute__((warn_unused_result));
void journal_chain_free(struct journal_chain *);
void journal_chain_start(struct journal_chain *); /* with no link before: a hash of its own */
void journal_chain_begin(struct journal_chain *, const uint8_t previous[static JOURNAL_LINK_LEN]);
void journal_chain_add(struct journal_chain *, const void *, size_t);
void journal_chain_end(struct journal_chain *, uint8_t link[static JOURNAL_LINK_LEN]);

#endif
