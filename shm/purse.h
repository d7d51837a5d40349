#ifndef SHM_PURSE_H
#define SHM_PURSE_H

/*
 * A purse: what of a key's cap is left in the present day, month, or at all, or of an account's
 * budget of the day or of the month.  A hold may claim from one of each kind.  Reserves and extends
 * claim from them before they debit the account; what a settlement did not charge is given back
 * when that is durable.  So claimed >= held at any instant, and the sum of what was charged and
 * what is held never passes the cap, whoever is killed between any two instructions.
 *
 * By the same two rules as an account's word (shm/ledger.h), with a sequence of a slot's own:
 * an operation's tag is in the purse, or its slot was told before another one replaced it.
 * A stream is paid from the window (day or month, in UTC) in which it was reserved, also after
 * midnight.  There are two words, for the present window and the one before; a stream that is
 * older still can extend no more.
 *
 * A key's cap never changes.  An operator may change a budget: what is claimed stays, and from then
 * on nothing is claimed above the new one.  A hold that claims from a budget which was taken away
 * goes on as if that were without end; one that was reserved without a budget never claims.
 */
#include <stdbool.h>
#include <stdint.h>

#include "shm/account.h"
#include "shm/ledger.h"
#include "shm/region.h"

/* A tag in a purse speaks of its slot's place for purses of this kind. */
enum purse_kind { PURSE_KEY, PURSE_DAY, PURSE_MONTH, PURSE_KINDS };

#define PURSE_ALL INT64_MAX

/* The number of the window that a time (CLOCK_REALTIME, us) is in. */
uint16_t purse_window(uint32_t per, uint64_t time_us);
/* When a day's or month's window ends and the next one begins, in seconds since 1970. */
int64_t purse_window_end(uint32_t per, uint16_t window);
/* Keeper, before the purse is published: so much is used of a window. */
void purse_set(struct purse *, uint16_t window, int64_t used);
/* Keeper: a budget's new amount, for all claims that begin from now on. */
void purse_set_cap(struct purse *, int64_t cap);
/* Any process.  A cap; of a budget, 0: there is none. */
int64_t purse_cap(const struct purse *);
/* What may still be claimed in this window, and what is used of it. */
int64_t purse_left(const struct purse *, uint16_t window);
int64_t purse_used(const struct purse *, uint16_t window);

/* The slot's owner; `h` is free.  From here on it claims from the purse of this key (index), or
 * from this account's (number) budget, in this window. */
void purse_open(struct hold *h, enum purse_kind, uint32_t whose, uint16_t window);
/* Claim so much that `claimed` is `want`, or less, but at least `least`; else nothing. */
bool purse_claim(
    const struct region *, struct hold *h, enum purse_kind, int64_t want, int64_t least);
/* What is claimed of the one with the least, and which that is; INT64_MAX if there is none. */
int64_t purse_claimed(const struct hold *h, enum purse_kind *);
/* Give back what is claimed above `keep`, to all. */
void purse_keep(const struct region *, struct hold *h, int64_t keep);
/* The same, for the last time: `charged` stays used, or PURSE_ALL of it. */
void purse_close(const struct region *, struct hold *h, int64_t charged);
/* Reaper, of a dead owner's slot: find out what the operations under way came to.  May be called
 * again. */
void purse_reap(const struct region *, struct hold *h);

#endif
