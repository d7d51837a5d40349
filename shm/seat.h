#ifndef SHM_SEAT_H
#define SHM_SEAT_H

/*
 * Seats: how many holds an account, or a key, has open at once.  Counted for every account, so that
 * a limit that is set later is right at once; for a key only if it was made with a limit.  Exact at
 * any instant, and a dead process's seats are given back by the reaper, each once.
 *
 * By the rules of an account's word (shm/ledger.h): the count and the tag of the operation that
 * changed it last are replaced together, and before a tag goes its slot is told that it was
 * applied.  The sequence is the seat's own; the keeper and the journal know nothing of it.
 */
#include <stdbool.h>
#include <stdint.h>

#include "shm/account.h"
#include "shm/ledger.h"
#include "shm/region.h"

enum seat_state {
	SEAT_NONE = 0,
	SEAT_TAKING = 1, /* the count may or may not be raised for it */
	SEAT_TAKEN = 2,
	SEAT_GIVING = 3, /* it may or may not be lowered */
};

/* Whose; a hold has a place for each, which they never share: a tag in an account's seats speaks of
 * a slot's account seat, one in a key's of its key seat. */
enum seat_kind { SEAT_ACCOUNT, SEAT_KEY, SEAT_KINDS };

/* The slot's owner: take one of this account's (number) or key's (index); false if `most` (0: any
 * number) are taken. */
bool seat_take(const struct region *, struct hold *, enum seat_kind, uint32_t whose, uint32_t most)
    __attribute__((warn_unused_result));
/* Give back those that it has. */
void seat_give(const struct region *, struct hold *);
/* Reaper, of a slot whose owner is dead: the same, whatever it was about.  Again: nothing. */
void seat_reap(const struct region *, struct hold *);
/* Any process: how many are taken now. */
uint64_t seat_count(const struct seats *);

#endif
