#ifndef DAEMON_HERITAGE_H
#define DAEMON_HERITAGE_H

/*
 * All that a child inherits at fork, made by the master before the first one.  LMDB
 * environments, event bases and curl handles are never here: each process makes its own.
 */
#include <stdbool.h>
#include <stdint.h>

#include "daemon/config.h"
#include "shm/region.h"

#define ADMIN_ALL ((gid_t)-1)

struct heritage {
	struct config *config;
	uint32_t generation; /* which config that is: region_config */
	int config_record;   /* what it was made from (config_record.h); the master's alone */
	struct region region;
	uint8_t key_secret[32]; /* of the API keys' HMAC */

	/* listen_fd[i][w]: the listener of address i for worker w (0-based slot), with
	 * SO_REUSEPORT, so that a worker's death drops nothing queued.  A unix socket is one
	 * descriptor shared by all; sockets that a service manager passed are dealt out in turn. */
	int listen_fd[CONFIG_LISTEN_MAX][2 * REGION_WORKERS_MAX];
	/* Passed, and kept open by who passed it: the next daemon serves who waits there. */
	bool listen_passed[CONFIG_LISTEN_MAX];
	int admin_http_fd; /* /metrics; -1 for none */
	int admin_unix_fd; /* runtime_dir/admin.sock */
	gid_t admin_full_gid; /* who of its users may change anything; ADMIN_ALL: all of them */

	int wake_fd[REGION_PROCS_MAX]; /* eventfds, by process slot (shm/wake.h) */
	/* Pair of message sockets (SOCK_SEQPACKET, non-blocking) per worker slot, by process slot:
	 * connections handed to that worker.
	 * Kept by the master, so that a dead worker's successor finds what was queued. */
	int inbox_rd[REGION_PROCS_MAX], inbox_wr[REGION_PROCS_MAX];
	/* Pair of message sockets per child, by process slot: what the master tells it, and the admin
	 * process asks of the master (daemon/order.h).  Ours is the master's end. */
	int order_ours[REGION_PROCS_MAX], order_theirs[REGION_PROCS_MAX];
};

/* The processes' mains: run after the fork, privileges dropped, signals set.  Exit status. */
int keeper_main(struct heritage *);
int admin_main(struct heritage *);
int worker_main(struct heritage *, uint32_t proc);

/*
 * How a child is told to stop by the master (the group's signals are ignored in children):
 * SIGUSR1 drain (finish what runs, take nothing new, exit when empty), SIGUSR2 stop now
 * (settle everything, then exit).  A child that has nothing left exits with 0.
 */
#define CHILD_SIG_DRAIN SIGUSR1
#define CHILD_SIG_STOP SIGUSR2

#endif
