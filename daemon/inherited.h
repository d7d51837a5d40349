#ifndef DAEMON_INHERITED_H
#define DAEMON_INHERITED_H

/*
 * Listening sockets that a service manager made and passes at each start (systemd's socket
 * activation, sd_listen_fds(3)): $LISTEN_FDS of them from descriptor 3 on, meant for process
 * $LISTEN_PID, with names in $LISTEN_FDNAMES.  It keeps copies, so a client that comes between two
 * daemons waits in the queue.  Master, before any fork.
 */
#include <stddef.h>

#include "daemon/address.h"

#define INHERITED_MAX 64

struct inherited {
	struct {
		int fd; /* -1 once it was taken */
		struct address a;
		char text[160]; /* name and address, for messages */
	} socket[INHERITED_MAX];
	size_t count; /* 0: none were passed, or they are for another process */
};

/*
 * What was passed to this process.  The variables are unset, so that they mean nothing to whom we
 * become or start.  -1 after a log line if one of them is not a listening stream socket; the
 * descriptors stay the caller's then, too (inherited_close).
 */
int inherited_read(struct inherited *) __attribute__((warn_unused_result));
/* Take the next one that is bound to this address; -1: there is none, or no more. */
int inherited_take(struct inherited *, const struct address *);
/* One that nobody has taken, as a text for a message; NULL: there is none. */
const char *inherited_left(const struct inherited *);
/* Close what nobody has taken. */
void inherited_close(struct inherited *);

#endif
