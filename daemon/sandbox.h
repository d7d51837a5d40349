#ifndef DAEMON_SANDBOX_H
#define DAEMON_SANDBOX_H

/*
 * What a worker, the keeper and the admin process cannot do any more once they serve, whoever may
 * have taken them over: no new privileges, no capabilities, system calls of a list for each kind
 * of process (seccomp), files of a list (Landlock).  The master, which has to start them and to
 * replace itself, is left as it is; it reads nothing that a peer sent.
 *
 * A system call that is not on the list ends the process by SIGSYS, with a report in the log
 * (daemon/crash.h); the master settles what it held.  A file that is not on the list is an EACCES.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct config;

enum sandbox_mode {
	SANDBOX_OFF,     /* only no new privileges and no capabilities */
	SANDBOX_LOG,     /* what would be refused is done, and told to the kernel's audit log */
	SANDBOX_ON,      /* what this kernel has of it; what it lacks is said at the start */
	SANDBOX_REQUIRE, /* no start without all of it */
};

enum sandbox_role { SANDBOX_WORKER, SANDBOX_KEEPER, SANDBOX_ADMIN };

/* In words, for `tolld -t`: "seccomp, Landlock 7".  to: "none" if there is nothing. */
void sandbox_describe(const struct config *, char *to, size_t size);

/*
 * Master, before the first fork: limits of core files, and what has to be loaded before nothing
 * can be.  Says what the kernel lacks; -1 after a log line if the config requires it.
 */
int sandbox_prepare(const struct config *) __attribute__((warn_unused_result));

/* A child, before it changes its user: which capabilities there could ever be.  To none. */
void sandbox_bound_capabilities(void);

/*
 * A child, once what it needs beyond its lists is there: a worker after its libraries were set up,
 * before it reads a byte of a peer.  Fatal if what the kernel has cannot be had.
 */
void sandbox_enter(const struct config *, enum sandbox_role);

#endif
