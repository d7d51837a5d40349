#ifndef DAEMON_LANDLOCK_H
#define DAEMON_LANDLOCK_H

/*
 * Landlock: the kernel keeps a process to files that were listed before.  By system calls of our
 * own, since the C library has none.  Any process; what is enforced is inherited and never undone.
 */
#include <stdbool.h>

/* What may be done at a path, and below it if it is a folder. */
#define LANDLOCK_READ 1u
#define LANDLOCK_WRITE 2u  /* what is there */
#define LANDLOCK_CHANGE 4u /* make, remove and rename files and folders */

/* The kernel's version of it; 0: it has none, or it is off. */
int landlock_version(void);
/*
 * A new list, on which nothing is: a descriptor, or -1 with errno.  Of the network: no TCP port
 * may be bound, and with `connect` false none connected to; no signals outside, no abstract unix
 * sockets.  As far as the kernel's version goes.
 */
int landlock_begin(bool connect);
/* Put a path on it.  One that does not exist is left out; -1 with errno if that fails. */
int landlock_allow(int list, const char *path, unsigned what);
/* From now on, for this thread and those it makes.  Closes the list.  -1 with errno. */
int landlock_enforce(int list);

#endif
