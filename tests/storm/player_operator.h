#ifndef TESTS_STORM_PLAYER_OPERATOR_H
#define TESTS_STORM_PLAYER_OPERATOR_H

/* The operators behind the storm's admin (player_admin.c), who calls these. */
#include "tests/storm/player.h"

struct operator {
	struct hold *h; /* of the setting under way, or NULL */
	uint64_t position;
	struct told_setting *setting;
};

/* At the start: the accounts are there, closed ones have successors. */
void operator_accounts(struct player *);
/* One thing, perhaps; true if the keeper is to be woken.  While o->h is set the admin is busy. */
bool operator_step(struct player *, struct operator *, uint64_t durable, bool ending);
/* What waits for its answer; nothing else may be under way. */
void operator_alone(struct player *);

#endif
