#ifndef DAEMON_JOURNAL_RECEIPTS_H
#define DAEMON_JOURNAL_RECEIPTS_H

/*
 * From a stream's id to the records that say what it cost.  The commit that makes a SETTLE or VOID
 * durable writes this table too, and the one that removes a compacted RESERVE removes what points to
 * it: so a receipt lasts as long as its records do, and no text is in it.  docs/ledger.md tells why.
 *
 *   receipts  the id's 16 random bytes    -> struct receipt_row
 *   meta      "hold", slot (big-endian)   -> struct receipt_hold_row, while the slot's hold is open
 *
 * What runs is found by its hold: the row of its slot lies beside the one that every commit writes
 * anyway.
 */
#include <stdint.h>

#include "daemon/journal.h"

#define RECEIPT_MODEL_MAX 128

/* What the journal says of a stream.  All of it is of one snapshot. */
struct journal_receipt {
	uint64_t reserve_seq, settle_seq; /* settle_seq 0: it is open */
	struct journal_record reserve, settle;
	struct journal_reserve head;
	struct journal_end end; /* of one whose record does not say: JOURNAL_NONE, zeros */
	uint8_t model_len;
	char model[RECEIPT_MODEL_MAX];       /* no NUL; cut if longer */
	char provider[JOURNAL_PROVIDER_MAX]; /* no NUL; end.provider_len bytes of UTF-8 */
};

/* Any process, both: 1; 0: there is none, or none any more; -1 with errno. */

/* A stream that has ended. */
int journal_receipt_get(struct journal_reader *, const uint8_t id[static 16],
    struct journal_receipt *) __attribute__((warn_unused_result));
/* One that is open in this slot. */
int journal_receipt_open(struct journal_reader *, uint32_t slot, const uint8_t id[static 16],
    struct journal_receipt *) __attribute__((warn_unused_result));

#endif
