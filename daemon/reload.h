#ifndef DAEMON_RELOAD_H
#define DAEMON_RELOAD_H

/*
 * The config, anew, in a running daemon.  Master; never blocks.
 *
 *   IDLE ─ asked ─► CHECKING ─ good ─► KEEPER ─ prices are there ─► ALL ─ all have it ─► IDLE
 *                       └─ bad, refused ─► IDLE    └─ refused ─► IDLE
 *
 * CHECKING  a child of its own, with the master's rights, reads the file and all that it names, and
 *           leaves a record of that: neither a file that hangs nor one that brings the parser down
 *           is the master's business.
 * KEEPER    the master has made its config from the record, but does not go by it yet: the keeper
 *           first brings the new prices to disk and into the shared memory.
 * ALL       it is in force, for whoever is started from now on and, as soon as they have taken it,
 *           for all others.
 *
 * Who asks meanwhile is answered by a reload that begins after this one.
 */
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "daemon/buf.h"
#include "daemon/config.h"
#include "daemon/heritage.h"
#include "daemon/supervise.h"

enum reload_state { RELOAD_IDLE, RELOAD_CHECKING, RELOAD_KEEPER, RELOAD_ALL };

struct reload {
	struct heritage *h;
	struct supervisor *s;
	enum reload_state state;
	bool again;             /* asked for since this one began */
	uint64_t asked, served; /* the admin process's numbers: asked for; of this one's askers */
	uint32_t generation;    /* of this one, or the last */
	uint64_t began_us, deadline_us;
	pid_t checker, keeper;  /* CHECKING; KEEPER: who was told, or 0 */
	int record, said;       /* files in memory; -1 */
	int tokenizers;         /* how many there were before */
	struct config *next;    /* KEEPER */
	struct buf changed, restart, report;
};

void reload_init(struct reload *, struct heritage *, struct supervisor *);
/* By the admin process's number; 0: by a signal. */
void reload_ask(struct reload *, uint64_t number);
/* A child that is no process slot's has ended: was it ours? */
bool reload_ended(struct reload *, pid_t, int status);
/* As far as it goes now.  `serving`: a new one may begin; if not `alive` none will any more. */
void reload_step(struct reload *, bool serving, bool alive);
/* Is one under way, or asked for? */
bool reload_pending(const struct reload *);
/* When it is to be looked at without any event (CLOCK_MONOTONIC); UINT64_MAX: never. */
uint64_t reload_next_us(const struct reload *);
/* At the end of the master. */
void reload_close(struct reload *);

#endif
