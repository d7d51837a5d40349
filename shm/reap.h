#ifndef SHM_REAP_H
#define SHM_REAP_H

/*
 * Finish a dead process's holds.  Master only, and only once waitpid has said that the owner is
 * dead (or, for a leftover region, that the whole former daemon is).  Never blocks: call
 * reap_step after each wake-up by the keeper until it says REAP_DONE.  Starting all over after
 * a crash of the master is harmless.
 */
#include <stdbool.h>
#include <stdint.h>

#include "shm/ledger.h"
#include "shm/region.h"

enum reap_state {
	REAP_DRAIN, /* what the dead process published must be durable first */
	REAP_PUSH,  /* bring every slot to FREE or SETTLING, journal the settlements */
	REAP_WAIT,  /* those must be durable */
	REAP_GONE,  /* credits given back, all slots FREE: the keeper must have heard of it */
	REAP_DONE,  /* slots and books agree; the next owner may come */
};

struct reap {
	struct region *region;
	uint32_t proc;
	enum reap_state state;
	uint32_t next;      /* slot under way in REAP_PUSH */
	uint64_t position;  /* of the last record pushed */
	uint64_t now_us;    /* CLOCK_REALTIME, stamped on the records */
	uint32_t settled, voided; /* for the log */
	bool last; /* there is no next owner in this region: the keeper need not hear of it */
	/* Called for each hold that is settled or voided, just before its slot is free; or NULL. */
	void (*ended)(const struct hold *);
};

void reap_start(struct reap *, struct region *, uint32_t proc, uint64_t now_us);
/* *pushed is 1 when the keeper has to be woken. */
enum reap_state reap_step(struct reap *, int *pushed);

#endif
