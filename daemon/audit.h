#ifndef DAEMON_AUDIT_H
#define DAEMON_AUDIT_H

/*
 * Recompute every balance from the journal and compare: the proof of conservation.  Works in
 * steps, so that the admin process goes on answering; on one snapshot, so that the keeper goes
 * on writing (its pages are pinned meanwhile: don't leave an audit lying about).
 *
 * It begins with the journal's checkpoint, if it was compacted: its books, which are what its hash
 * and the record say that binds it into the chain.
 *
 * Checked: sequences without gaps; the chain of all batches; every record by the same rules as
 * the keeper's (each hold opened once and ended once, charges within holds and equal to price x
 * tokens, refs unique, the floor never crossed in durable order); that no payload lacks a
 * record; that for every account top-ups + adjustments - charges = balance, and held = the sum
 * of its open holds; and that the accounts in state.mdb are exactly that at their sequence.
 */
#include <stdbool.h>
#include <stdint.h>

#include "daemon/journal.h"
#include "daemon/state.h"

struct audit;

struct audit_result {
	bool ok;
	uint32_t accounts; /* that were compared */
	uint64_t records;  /* that were played: those after the checkpoint */
	uint32_t holds_open;
	struct journal_base base; /* base.sequence 0: there is no checkpoint */
	uint64_t head;            /* the last record of the last batch that was played */
	uint8_t link[JOURNAL_LINK_LEN]; /* the chain's, there */
	char first_difference[256]; /* "" if ok */
};

/* The readers stay the caller's (a process can open each file only once).  NULL with errno. */
struct audit *audit_new(struct journal_reader *, struct state_reader *)
    __attribute__((warn_unused_result));
/* Before the first step: the chain's link after this record was written down once.  It is to be
 * the same still: of a batch, of the checkpoint or of one before it. */
void audit_expect(struct audit *, uint64_t sequence, const uint8_t link[static JOURNAL_LINK_LEN]);
/* Go on with so many records or accounts; false when it has ended. */
bool audit_step(struct audit *, uint32_t max_records) __attribute__((warn_unused_result));
/* What was found; valid after the end, what is known so far before. */
void audit_result(const struct audit *, struct audit_result *);
void audit_free(struct audit *);

#endif
