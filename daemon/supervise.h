#ifndef DAEMON_SUPERVISE_H
#define DAEMON_SUPERVISE_H

/*
 * The master's children: who runs, who died, whose holds are being finished, who is to be
 * started again and when.  Never blocks.
 */
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "daemon/dirs.h"
#include "daemon/heritage.h"
#include "shm/reap.h"

enum child_state {
	CHILD_NONE,    /* no process is wanted here; ends by supervise_want */
	CHILD_WAITING, /* wanted; to be started at `start_us`, or never once it is not wanted */
	CHILD_RUNNING, /* has a pid; ends by its death */
	CHILD_REAPING, /* dead, its holds are being finished; ends when they are */
	CHILD_STATES
};

/* One process slot; the master's own memory. */
struct child {
	enum child_state state;
	bool wanted; /* start it again when it has died */
	pid_t pid;
	int status;          /* of the last one, as waitpid gave it */
	uint64_t started_us; /* CLOCK_MONOTONIC */
	uint64_t start_us;   /* WAITING: not before */
	unsigned quick;      /* deaths in a row within a second of the start */
	unsigned starts;
	bool condemned;      /* it was sent a SIGKILL because it hangs */
	bool leaving;        /* it was told to drain, and another one has its place */
	struct reap reap;
};

struct supervisor {
	struct heritage *heritage;
	const struct owner *owner;
	int signal_fd;
	uint32_t procs; /* slots in use */
	struct child child[REGION_PROCS_MAX];
	/* Told of the end of a child that is in no slot.  May be NULL. */
	void (*other)(void *arg, pid_t, int status);
	/* A slot is empty now, and will stay so for a while.  May be NULL. */
	void (*emptied)(void *arg, uint32_t proc);
	void *arg;
};

void supervise_init(struct supervisor *, struct heritage *, const struct owner *, int signal_fd);
/* Start the slots [first, end) as soon as they are free, and again whenever they die. */
void supervise_want(struct supervisor *, uint32_t first, uint32_t end);
/* Let them end. */
void supervise_unwant(struct supervisor *, uint32_t first, uint32_t end);
/* Its end is wanted, and no fault; whether another one comes is up to want and unwant. */
void supervise_leave(struct supervisor *, uint32_t proc);
/* A former daemon's slot: finish its holds.  All its processes are dead. */
void supervise_leftover(struct supervisor *, uint32_t proc);

/* Take note of the dead (after SIGCHLD). */
void supervise_collect(struct supervisor *);
/* Do all that can be done now: reap, kill what the keeper condemned, start what is due. */
void supervise_step(struct supervisor *);
/* When supervise_step is needed next without any event (CLOCK_MONOTONIC); UINT64_MAX: never. */
uint64_t supervise_next_us(const struct supervisor *);

/* How many of [first, end) run or are being reaped. */
unsigned supervise_left(const struct supervisor *, uint32_t first, uint32_t end);
bool supervise_reaping(const struct supervisor *);
void supervise_kill(const struct supervisor *, uint32_t first, uint32_t end, int sig);

#endif
