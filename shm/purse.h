#ifndef SHM_PURSE_H
#define SHM_PURSE_H

/*
 * A key's purse: what of its cap is left in the present day, month, or at all.  Reserves and
 * extends claim from it before they debit the account; what a settlement did not charge is given
 * back when that is durable.  So claimed >= held at any instant, and the sum of what was charged
 * and what is held never passes the cap, whoever is killed between any two instructions.
 *
 * By the same two rules as an account's word (shm/ledger.h), with a sequence of a slot's own:
 * an operation's tag is in the purse, or its slot was told before another one replaced it.
 * A stream is paid from the window (day or month, in UTC) in which it was reserved, also after
 * midnight.  There are two words, for the present window and the one before; a stream that is
 * older still can extend no more.
 */
#include <stdbool.h>
#include <stdint.h>

#include "shm/account.h"
#include "shm/ledger.h"
#include "shm/region.h"

/* The number of the window that a time (CLOCK_REALTIME, us) is in. */
uint16_t purse_window(uint32_t per, uint64_t time_us);
/* Keeper, before the purse is published: so much is used of a window. */
void purse_set(struct purse *, uint16_t window, int64_t used);
/* Any process: what may still be claimed in this window, and what is used of it. */
int64_t purse_left(const struct purse *, uint16_t window);
int64_t purse_used(const struct purse *, uint16_t window);

/* The slot's owner; `h` is free.  From here on it claims from this key's purse. */
void purse_open(
    const struct region *, struct hold *h, const struct key_entry *, uint64_t reserved_us);
/* Claim so much that h->purse.claimed is `want`, or less, but at least `least`; else nothing. */
bool purse_claim(const struct region *, struct hold *h, int64_t want, int64_t least);
/* Give back what is claimed above `keep`. */
void purse_keep(const struct region *, struct hold *h, int64_t keep);
/* The same, for the last time: `charged` stays used. */
void purse_close(const struct region *, struct hold *h, int64_t charged);
/* Reaper, of a dead owner's slot: find out what the operation under way came to.  May be called
 * again. */
void purse_reap(const struct region *, struct hold *h);

#endif
