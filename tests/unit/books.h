#ifndef TESTS_UNIT_BOOKS_H
#define TESTS_UNIT_BOOKS_H

/*
 * A keeper of pretend for the ledger's tests: it drains rings as the real one does, checks every
 * record against its own books, and keeps those in a struct that can be copied.
 */
#include <stdbool.h>
#include <stdint.h>

#include "shm/ledger.h"
#include "shm/reap.h"
#include "shm/region.h"

#define BOOKS_ACCOUNTS 4
#define BOOKS_HOLDS 256
#define BOOKS_REFS 16

struct books {
	struct {
		int64_t balance, overdraft, held;
		int64_t credited, charged; /* totals: balance == credited - charged */
		bool indulged; /* an operator put it under its floor */
	} account[BOOKS_ACCOUNTS];
	struct {
		int64_t amount;
		uint64_t op;
		uint32_t account;
		bool open;
	} hold[BOOKS_HOLDS];
	uint64_t refs[BOOKS_REFS]; /* of credits, by their payload; 0: none */
	uint64_t reserves, extends, marks, settles, voids, credits, sets, repeats, refusals;
	int64_t uncollected;
	bool meter_exact; /* a settlement must be at its hold's meter, if paid */
};

/* An account with this balance in the books and the region. */
struct account *books_open(struct books *, struct region *, const char *id, int64_t balance,
    int64_t overdraft);
/* Commit all that a process has published; how many records that were. */
uint32_t books_drain(struct books *, struct region *, uint32_t proc);
/* Reap a process slot to its end, committing what comes. */
void books_reap(struct books *, struct region *, uint32_t proc, struct reap *);
/* NULL, or what is wrong: nothing may be open, and books and memory must agree. */
const char *books_wrong(const struct books *, const struct region *);

#endif
