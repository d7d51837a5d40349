#ifndef DAEMON_LEGACY_H
#define DAEMON_LEGACY_H

/*
 * What a master leaves to the program that takes its place by exec: descriptors, children, the
 * config in force.  Same process, so the children stay its own.  Master.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/config.h"
#include "daemon/heritage.h"
#include "daemon/setup.h"
#include "daemon/supervise.h"

/* A change of struct legacy, of the messages between processes (daemon/order.h, handover.c), or of
 * what the signals mean bumps it. */
#define LEGACY_VERSION 1
#define LEGACY_VARIABLE "TOLLD_LEGACY"

struct legacy_child {
	int32_t pid; /* 0: no process */
	uint32_t wanted, leaving, starts;
	uint64_t started_us;
};

struct legacy_fds { /* int32_t and nothing else */
	int32_t region, pid, state, record, admin_http, admin_unix;
	int32_t listen[CONFIG_LISTEN_MAX][2 * REGION_WORKERS_MAX];
	int32_t wake[REGION_PROCS_MAX], inbox_rd[REGION_PROCS_MAX], inbox_wr[REGION_PROCS_MAX];
	int32_t order_ours[REGION_PROCS_MAX], order_theirs[REGION_PROCS_MAX];
};

#define LEGACY_TEXT 16384

struct legacy {
	uint64_t magic;
	uint32_t version, size;
	uint32_t generation;
	uint32_t workers, max_accounts, max_holds, max_body; /* config_carry */
	uint32_t sandbox, core_files, admin_full_gid;
	uint32_t listen_count, bound_count;
	uint8_t listen_passed[CONFIG_LISTEN_MAX];
	uint32_t reload, upgrade; /* 1: one more was asked for */
	uint64_t reload_number;   /* by the admin process, its last */
	struct legacy_fds fd;
	struct legacy_child child[REGION_PROCS_MAX];
	char program[REGION_PROGRAM_LEN]; /* its version */
	char text[LEGACY_TEXT]; /* put_config of legacy.c */
};

/* Everything that both programs have to see alike, as a text. */
#define LEGACY_ABI 512
const char *legacy_abi(char text[static LEGACY_ABI]);

/*
 * Before the exec: *l as it is but for what it says of what was asked for, which is the caller's,
 * in a file that the exec does not close; -1 with errno.
 */
int legacy_write(struct legacy *l, const struct setup *, const struct supervisor *)
    __attribute__((warn_unused_result));
/* Do exec's children inherit all that it names? */
void legacy_inherit(const struct setup *, bool);

/* After it: the descriptor that the environment names, or -1; it is not inherited any further. */
int legacy_given(void);
/* NULL with a reason: it is none that we can go on with. */
const struct legacy *legacy_read(int fd, const char **why) __attribute__((warn_unused_result));
/* The config in force, as it was before the exec; NULL with a line in the log. */
struct config *legacy_config(const struct legacy *, const char *path)
    __attribute__((warn_unused_result));
void legacy_children(const struct legacy *, struct supervisor *);

#endif
