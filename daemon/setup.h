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

/*
 * `record`: what the config was made from (config_record.h).  -1 after a log line; setup_close is
 * to be called even then.
 */
int setup_open(struct setup *, struct config *, int record) __attribute__((warn_unused_result));
struct legacy;
/* The same where a program before us has left all that there is to be opened (daemon/legacy.h). */
int setup_adopt(struct setup *, struct config *, const struct legacy *)
    __attribute__((warn_unused_result));
/* Undo it.  `clean`: nothing in the shared memory is needed any more. */
void setup_close(struct setup *, bool clean);

#endif
