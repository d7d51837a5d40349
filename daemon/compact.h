#ifndef DAEMON_COMPACT_H
#define DAEMON_COMPACT_H

/*
 * Compacting the journal: old records are replaced by a checkpoint that stands for them
 * (docs/ledger.md).  Keeper.
 *
 *   IDLE      nothing is to be done
 *   MAKING    the helper (compact_make.c) proves the records and writes the checkpoint to a
 *             file in memory
 *   STORING   its pieces go into journal.mdb, some with each commit; the last one's commit makes
 *             it valid, together with the record that binds it into the chain
 *   REMOVING  what it stands for is removed, some with each commit.  A keeper begins with this
 *             if one before it died in STORING or REMOVING
 *
 * What was asked for stands in the region (struct region_compaction), so that the next keeper goes
 * on with it.
 */
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "daemon/keeper.h"

/* Look what is to be done; after the recovery. */
void compact_begin(struct keeper *);
void compact_end(struct keeper *);
/* A COMPACT record: RING_APPLIED, or RING_EXISTS while one is under way; *number is its. */
enum ring_status compact_ask(struct keeper *, int64_t before_us, int64_t *number);
/* Before each commit: what it does beside its records; after it. */
void compact_stage(struct keeper *);
void compact_committed(struct keeper *);
/* Between two batches; `idle`: nobody waits for one.  -1: the disk failed. */
int compact_tend(struct keeper *, bool idle) __attribute__((warn_unused_result));
/* Has compact_tend more to do at once? */
bool compact_busy(const struct keeper *);
/* Readable when the helper has ended; -1: there is none. */
int compact_fd(const struct keeper *);

/* The helper: compact_make.c. */

#define COMPACT_WHY_LEN 200

struct compact_report {
	bool ok;
	uint64_t sequence; /* what it stands for; the base's: there is nothing to remove */
	uint64_t time_us, bytes;
	uint8_t link[JOURNAL_LINK_LEN];
	char why[COMPACT_WHY_LEN]; /* if not ok */
};

struct compact_order {
	const char *state_dir;
	uint64_t before_us; /* no record that is as late as this or later may be removed, */
	uint64_t up_to;     /* nor one after this */
	/* How far it is, for who asked; in shared memory. */
	_Atomic uint64_t *done, *of;
};

/* Start the helper: its report, or nothing if it died, can be read from *out.  -1 with errno. */
pid_t compact_fork(const struct compact_order *, int file, int *out)
    __attribute__((warn_unused_result));
/* Keeper: has the disk room for it?  A commit that fails for want of it would stop everybody. */
bool compact_room(const char *state_dir, uint64_t bytes);
/* In the helper: write the checkpoint to `file`. */
void compact_make(const struct compact_order *, int file, struct compact_report *);

#endif
