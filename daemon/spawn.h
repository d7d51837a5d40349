#ifndef DAEMON_SPAWN_H
#define DAEMON_SPAWN_H

/*
 * Forking one child: everything between fork and its main.  Master.
 */
#include <sys/types.h>

#include "daemon/dirs.h"
#include "daemon/heritage.h"

/* How many workers there are: slots beyond that are their successors'. */
void spawn_workers(uint32_t);
/* "keeper", "admin", "worker-3": as the log calls a process slot.  text has room for 16. */
const char *spawn_name(uint32_t proc, char text[static 16]);

/* Whom a start as root turns its children into; -1 after a log line if there is no such user. */
int spawn_owner(const char *user, struct owner *) __attribute__((warn_unused_result));

/*
 * Fork the process for a slot; it never returns here.  -1 with errno if there is no process to
 * be had.  signal_fd is the master's own, closed in the child.
 */
pid_t spawn(struct heritage *, uint32_t proc, const struct owner *, int signal_fd)
    __attribute__((warn_unused_result));

#endif
