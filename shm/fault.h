#ifndef SHM_FAULT_H
#define SHM_FAULT_H

/*
 * Named points to die at, for tests/e2e/test_faults.py.  Nothing at all unless built with
 * -DTOLLD_FAULTS (make BUILD=build-faults CFLAGS=-DTOLLD_FAULTS): then the process that reaches
 * FAULT("settle.pushed") first after the file settle.pushed was put into the folder $TOLLD_FAULTS
 * is killed, as by SIGKILL from outside.  Taking the file away is what decides who is first, so a
 * point fires once for each time it is armed, in whichever process, and not in its successor.
 *
 * With $TOLLD_FAULT_ODDS instead each point kills once in so many times that it is reached, by a
 * row of random numbers that begins with $TOLLD_FAULT_SEED (tests/storm/).
 *
 * Each name stands in the source once.  What it is named after has happened when it is reached.
 */
#ifdef TOLLD_FAULTS
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static inline void
fault_at_random(const char *odds)
{
	static _Thread_local uint64_t state; /* the keeper has two threads */
	const char *seed = getenv("TOLLD_FAULT_SEED");

	if (state == 0)
		state = (seed != NULL ? strtoull(seed, NULL, 10) : 0) | 1;
	/* xorshift64* */
	state ^= state >> 12;
	state ^= state << 25;
	state ^= state >> 27;
	if ((state * UINT64_C(2685821657736338717) >> 33) % strtoull(odds, NULL, 10) == 0)
		(void)raise(SIGKILL);
}

static inline void
fault(const char *name)
{
	const char *folder = getenv("TOLLD_FAULTS"), *odds = getenv("TOLLD_FAULT_ODDS");
	char path[512];

	if (odds != NULL)
		fault_at_random(odds);
	if (folder == NULL)
		return;
	(void)snprintf(path, sizeof path, "%s/%s", folder, name);
	if (unlink(path) == 0)
		(void)raise(SIGKILL);
}
#define FAULT(name) fault(name)
#else
#define FAULT(name) ((void)0)
#endif

#endif
