#ifndef DAEMON_BACKUP_H
#define DAEMON_BACKUP_H

/*
 * A copy of what a daemon needs to start: journal.mdb and key.secret.  (state.mdb is a projection;
 * it is rebuilt.)  Made by a helper process, so that nobody waits for its disk.
 */
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct backup_result {
	bool ok;
	uint64_t records, bytes;
	char why[256]; /* if not ok */
};

struct backup {
	pid_t pid;
	int fd; /* readable when the helper has ended */
	char part[PATH_MAX]; /* what grows while it works */
};

/* Admin: start the helper; `dir` is absolute, and is made or is empty.  -1 with errno. */
int backup_start(struct backup *, const char *state_dir, const char *dir,
    const uint8_t secret[static 32]) __attribute__((warn_unused_result));
/* End it before its time; backup_finish is due when `fd` becomes readable. */
void backup_kill(struct backup *);
/* When `fd` is readable: what became of it.  Nothing half made is left. */
void backup_finish(struct backup *, struct backup_result *);

#endif
