#ifndef TESTS_UNIT_VICTIM_H
#define TESTS_UNIT_VICTIM_H

/*
 * What the ledger's tests kill: all of shm/ledger.h's operations in a few runs, each by the process
 * that owns some slots, VICTIM's if nobody says otherwise.  What should not happen ends the process with a status of its own; a
 * rival may leave an account with less than a run would like, so LEDGER_SHORT is none of that.
 */
#include "shm/ledger.h"

#define VICTIM PROC_WORKER

struct victim {
	const char *name;
	void (*run)(void);
	int64_t balance;  /* of the account, before */
	bool meter_exact; /* every settlement is at its hold's meter */
};

extern const struct victim victims[];
extern const size_t victim_count;
extern const struct price victim_price;

/* The region that the runs work on, and account 0 in it, under the cap of key 0 if there is one;
 * and whose slots they use. */
void victim_region(struct region *, uint32_t proc);
struct hold_terms victim_terms(struct region *);

#endif
