#ifndef SHM_CLAIM_H
#define SHM_CLAIM_H

/*
 * Who is just sending with an Idempotency-Key: one word for each 65536th part of all keys, 0 or the
 * process slot of its claimant.
 *
 * The keeper alone decides which RESERVE is a key's first (daemon/repeat.h), so no money depends on
 * a claim.  It makes a repetition that comes while the first is on its way wait for its outcome:
 * else that would find the account's credit taken by the first, and the keeper would not know it
 * yet.  Two keys of one word wait for each other, which is a commit at most.
 *
 *   W1  claim_take: CAS 0 -> us; else wait, then again
 *   W2  reserve and push the RESERVE with the key (shm/ledger.h); nothing reserved: W4
 *   W3  wait until it is durable
 *   W4  claim_release
 *
 * Killed in W1..W4: the master releases it (claim_release_dead) when all that the dead process had
 * published is durable and its holds are finished, so whoever comes then is told by the keeper what
 * there is: the answer if the RESERVE was pushed, else nothing, and it is tried afresh.  The keeper
 * takes no part in it and may be killed at any time.  A left-over region's are released as its
 * process slots are reaped; a new region has none.
 */
#include <stdbool.h>
#include <stdint.h>

#include "shm/region.h"

#define CLAIM_WORDS 65536u

/* Worker.  False: somebody else's, or of another request of ours. */
bool claim_take(struct region *, uint32_t proc, uint16_t word) __attribute__((warn_unused_result));
/* Worker: its claim, if it still is. */
void claim_release(struct region *, uint32_t proc, uint16_t word);
/* Master: a dead process's. */
void claim_release_dead(struct region *, uint32_t proc);

#endif
