#ifndef DAEMON_SETUP_H
#define DAEMON_SETUP_H

/*
 * All that has to be there before the first fork: limits, folders, locks, secret, shared memory,
 * sockets.  Master.
 */
#include <stdbool.h>
#include <stdint.h>

#include "daemon/dirs.h"
#include "daemon/heritage.h"

struct setup {
	struct heritage heritage;
	struct owner owner;
	uint32_t workers_end; /* worker slots in use: PROC_WORKER up to this */
	int signal_fd;        /* signalfd of the master's signals, which are blocked */
	int pid_fd, state_fd; /* locked files */
	char *region_path, *pid_path;
};

/* -1 after a log line; setup_close is to be called even then. */
int setup_open(struct setup *, struct config *) __attribute__((warn_unused_result));
/* Undo it.  `clean`: nothing in the shared memory is needed any more. */
void setup_close(struct setup *, bool clean);

#endif
