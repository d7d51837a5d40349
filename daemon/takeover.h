#ifndef DAEMON_TAKEOVER_H
#define DAEMON_TAKEOVER_H

/*
 * Another program in the place of this one, while clients are served.  Master; never blocks.
 *
 *   IDLE ─ asked ─► ASKING ─ it can ─► READY ─ all children run ─► exec ─► KEEPER ─► ADMIN ─► WORKERS
 *                     └─ it cannot, refused ─► IDLE          (the new one)                      │
 *                                                                     IDLE ◄────────────────────┘
 *
 * ASKING   the new program is run with what it would have to agree with (legacy_abi, legacy.h) and
 *          the record of the config in force, and says whether it can go on from here.  Until the
 *          exec nothing has changed.
 * exec     keeps the process, hence the children, descriptors and the shared memory.  Nobody else
 *          notices: workers serve, the keeper commits.
 * KEEPER   the old one makes its last commit, the new one loads the books: first, since it has to
 *          understand what the others will hand it.
 * WORKERS  each in turn: the new one, in the other half of the slots, shares the listeners; when it
 *          runs, the old one is told to leave (ORDER_LEAVE): it takes no connection any more, and
 *          goes with its last stream.
 */
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "daemon/legacy.h"
#include "daemon/reload.h"
#include "daemon/setup.h"
#include "daemon/supervise.h"

enum takeover_state {
	TAKEOVER_IDLE,
	TAKEOVER_ASKING,
	TAKEOVER_READY,
	TAKEOVER_KEEPER,
	TAKEOVER_ADMIN,
	TAKEOVER_WORKERS
};

struct takeover {
	struct setup *up;
	struct supervisor *s;
	const struct reload *reload; /* what is asked of it meanwhile is the new program's */
	enum takeover_state state;
	bool again;
	uint64_t began_us, deadline_us;
	pid_t asked; /* ASKING: the child that runs the new program */
	int said;
	/* From KEEPER on. */
	char from[REGION_PROGRAM_LEN]; /* the version before */
	pid_t old;       /* who is being replaced, or 0: nobody is yet */
	uint32_t worker; /* which is next, from 0 */
	uint32_t leaver, comer; /* its slots */
	bool started, waits_said;
};

/* How the program was started; from main. */
void takeover_program(char **argv);
/* "tolld -U ABI": can this program go on where one that says this of itself is?  The config's
 * record is descriptor 3.  Says why not on stdout.  The exit status. */
int takeover_answer(const char *abi, const char *path);

void takeover_init(struct takeover *, struct setup *, struct supervisor *, const struct reload *);
void takeover_ask(struct takeover *);
/* After the exec: replace the children, who run the program before. */
void takeover_begin(struct takeover *, const struct legacy *);
bool takeover_ended(struct takeover *, pid_t, int status);
/* As far as it goes now.  `may`: nothing else is under way; `alive`: the daemon does not end. */
void takeover_step(struct takeover *, bool may, bool alive);
/* Is it under way?  Then nothing else should begin.  (But while it waits for old workers, which may
 * take as long as their streams do.) */
bool takeover_pending(const struct takeover *);
uint64_t takeover_next_us(const struct takeover *);
/* At the end of the master. */
void takeover_close(struct takeover *);

#endif
