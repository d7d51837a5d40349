#ifndef DAEMON_KEEPER_H
#define DAEMON_KEEPER_H

/*
 * What keeper*.c, compact.c and recover.c share; nobody else's.
 * keeper_main is in daemon/heritage.h.
 */
#include <stdbool.h>
#include <stdint.h>

#include "daemon/books.h"
#include "daemon/heritage.h"
#include "daemon/journal.h"
#include "daemon/journal_history.h"
#include "daemon/projector.h"
#include "daemon/state.h"

#define KEEPER_BATCH_RECORDS 4096
#define KEEPER_BATCH_BYTES (8u << 20)

/* A record on its way: judged, not yet on disk. */
struct keeper_pending {
	uint64_t op;
	int64_t number;   /* ACCOUNT: the account's; KEY, KEY_REVOKE: the key's index */
	uint32_t slot;    /* JOURNAL_NONE if it is no next operation of a slot of its sender */
	uint32_t account; /* whose books may have changed, or JOURNAL_NONE */
	uint8_t type, status;
};

#define KEEPER_REF_BUCKETS 4096

struct keeper {
	struct heritage *heritage;
	struct region *region;
	struct journal *journal;
	struct state *state;
	struct projector *projector; /* keeper_project.c; it has the state while it is busy */
	struct books *books;
	struct journal_positions rings; /* what the next commit makes durable */
	struct keeper_pending pending[KEEPER_BATCH_RECORDS];
	size_t count;                     /* of pending */
	/* A SYNC of that ring waits for the projection to get so far; 0: none does. */
	uint64_t sync_to[REGION_PROCS_MAX];
	bool distrusted[REGION_PROCS_MAX]; /* the ring itself was forged: not read any more */
	struct buf payload;
	uint32_t first;                   /* ring that the next batch begins with */
	uint64_t looked[REGION_PROCS_MAX]; /* records that were looked at for whether they wait */
	bool due;                         /* somebody waits for the next batch */
	size_t batch_records;             /* how many the last batch had */
	uint64_t now_us;                  /* CLOCK_MONOTONIC, refreshed once a round */
	uint64_t batch_us;                /* CLOCK_REALTIME when the batch began to be taken */
	uint64_t committed_us;            /* when the last commit ended */
	uint64_t unprojected_us;          /* when the oldest unprojected commit ended; 0: none */
	uint64_t swept_us;                /* when expiry and dead readers were last looked after */
	bool sweep;                       /* with the next job */
	bool taking;                      /* the next job's rows are being copied */
	uint64_t steps, steps_us;         /* of the job under way: so many, when it was last more */
	struct compact *compact;          /* compact.c; NULL before it begins */
	uint32_t offered;                 /* the last config that was looked for */
	uint32_t refs_of[2][KEEPER_REF_BUCKETS]; /* keeper_refs.c: of this half day, and the last */
	uint64_t refs_since_us;
	struct {                          /* keeper_history.c */
		struct history_walk walk; /* for what is too old; its drops are still to be made */
		uint64_t look_us;         /* when the next step of it is due */
		uint64_t busy_us;         /* when a commit last had records */
	} history;
	int signal_fd;
	bool serving; /* recovered; before that the master waits without a sign of life */
	bool stop;    /* CHILD_SIG_STOP came */
};

/* recover.c: from "journal opened" to "the region says what the journal says". */

/* Books from state.mdb and the journal's rest.  -1: the disk (errno) or a damaged journal (0). */
int recover_books(struct keeper *) __attribute__((warn_unused_result));
/* Make the region agree, close what a power cut left open, register prices, set `filled`. */
int recover_region(struct keeper *) __attribute__((warn_unused_result));

/* keeper.c */
uint64_t keeper_realtime_us(void);
/* Now is k->now_us, and the master may know that all goes on. */
void keeper_heartbeat(struct keeper *);

/* keeper_project.c: what is done beside the acknowledging path.  All -1: the disk failed. */

/* Begin; the state and the journal are open. */
int keeper_project_begin(struct keeper *) __attribute__((warn_unused_result));
/* Wait for what is under way, whatever becomes of it. */
void keeper_project_end(struct keeper *);
/* Records that state.mdb lacks. */
uint64_t keeper_unprojected(const struct keeper *);
/* Take over what has been written, and answer who waited for it. */
int keeper_projected(struct keeper *) __attribute__((warn_unused_result));
/* Start a job if one is due; `idle`: nobody has come for a while. */
void keeper_project(struct keeper *, bool idle);
/* Project up to the last record, and answer all SYNCs: before the end. */
int keeper_project_all(struct keeper *) __attribute__((warn_unused_result));
/* Does anybody wait for the projection? */
bool keeper_syncing(const struct keeper *);
/* Has the job under way not got on for too long? */
bool keeper_project_hangs(struct keeper *);

/* keeper_refs.c: may this record have a place for its ref?  It has got one. */
bool keeper_refs_room(const struct keeper *, const struct journal_record *);
void keeper_refs_note(struct keeper *, const struct journal_record *);

/* keeper_batch.c */

/* Does anybody wait for what the rings hold? */
bool keeper_due(struct keeper *);
/* Records in the rings that were not taken yet. */
size_t keeper_waiting(const struct keeper *);
/* One batch.  1, 0 if there was nothing, -1 if the disk failed: then the books are wrong. */
int keeper_batch(struct keeper *) __attribute__((warn_unused_result));
/* Journal a record of the keeper's own, and enter it. */
void keeper_append(struct keeper *, struct journal_record *, const void *payload);
int keeper_commit(struct keeper *) __attribute__((warn_unused_result));
/* A commit of no ring's: what the keeper has staged itself. */
int keeper_commit_own(struct keeper *) __attribute__((warn_unused_result));
/* Publish an account's books, or insert it if the region does not have it. */
int keeper_show_account(struct keeper *, uint32_t number) __attribute__((warn_unused_result));
/* Publish an account's limits and flags. */
void keeper_show_settings(struct keeper *, uint32_t number);
int keeper_show_key(struct keeper *, uint32_t index) __attribute__((warn_unused_result));
/* Publish the rings that took part in batches, but for those whose SYNC still waits. */
void keeper_publish_rings(struct keeper *);
/* Note what became of a slot's operation. */
void keeper_show_hold(struct keeper *, uint32_t slot, uint64_t op, uint8_t status);

/* keeper_gone.c */

/* Freeze an account; why: a constant text, for the journal. */
void keeper_freeze(struct keeper *, uint32_t number, const char *why);
/* The reaper says that this process is gone: end what the books still have open in its slots. */
void keeper_end_gone(struct keeper *, uint32_t proc);
/* Once that is on disk: say what the books say of each of its slots. */
int keeper_show_gone(struct keeper *, uint32_t proc) __attribute__((warn_unused_result));

/* keeper_history.c */

/* After the journal was opened: how much is kept. */
void keeper_history_begin(struct keeper *);
/* Before each commit: what of the history goes with it beside its records. */
void keeper_history_stage(struct keeper *);
/* Between two batches; `idle`: nobody waits for one.  -1: the disk failed. */
int keeper_history_tend(struct keeper *, bool idle) __attribute__((warn_unused_result));
/* Has keeper_history_tend more to do at once? */
bool keeper_history_busy(const struct keeper *);

/* keeper_prices.c */

/* Journal the prices of the config's models that are new; -1: there are too many. */
int keeper_prices_enter(struct keeper *) __attribute__((warn_unused_result));
/* Has the table of prices room for what a PRICE_SET brings about? */
bool keeper_prices_room(const struct keeper *, const struct journal_record *, const void *payload);
/* Publish prices (all, or the new ones) and which are in force; they are on disk. */
int keeper_prices_show(struct keeper *, bool all) __attribute__((warn_unused_result));

#endif
