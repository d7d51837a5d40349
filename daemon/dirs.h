#ifndef DAEMON_DIRS_H
#define DAEMON_DIRS_H

/*
 * state_dir and runtime_dir: the folders, who holds them, and the secret of the API keys.
 * Master, before any fork.  Each call logs what is wrong before it returns -1.
 */
#include <stdint.h>
#include <sys/types.h>

/* Whom the children become; `change` only after a start as root. */
struct owner {
	int change;
	uid_t uid;
	gid_t gid;
	const char *name;
};

/* Make a folder that belongs to the owner, or check the one that is there. */
int dirs_make(const char *path, mode_t, const struct owner *)
    __attribute__((warn_unused_result));

/*
 * Lock a file that holds our pid, as long as any process has the descriptor.  Waits a while for
 * the children of a master that is gone; refuses at once if a live one has it.
 */
int dirs_lock(const char *path) __attribute__((warn_unused_result));

/* Read state_dir/key.secret, or make it where there is no journal yet. */
int dirs_secret(const char *state_dir, const struct owner *, uint8_t secret[static 32])
    __attribute__((warn_unused_result));

#endif
