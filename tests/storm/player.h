#ifndef TESTS_STORM_PLAYER_H
#define TESTS_STORM_PLAYER_H

/* A stand-in for a worker or the admin process, by the real shm/ledger.h; player_*.c are they. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shm/ledger.h"
#include "tests/storm/told.h"

struct player {
	struct heritage *h;
	struct region *region;
	struct ledger *ledger;
	struct ring *ring;
	uint32_t proc;
	uint32_t spare; /* a stream's number that a refused reserve did not use, + 1 */
	uint64_t rng;
};

/* False after storm_fail. */
bool player_start(struct player *, struct heritage *, uint32_t proc, uint64_t seed);
/* Until the keeper has said something new (durable is not `seen`), but not for long. */
void player_rest(struct player *, uint64_t seen);
void player_wake_keeper(struct player *, bool now);
/* The account of that number, or NULL: it is not made yet. */
struct account *player_account(const struct player *, uint32_t number);
/* -1: the ring is full, or somebody failed. */
int player_push_and_wait(struct player *, const struct journal_record *, const void *payload,
    size_t len);

#endif
