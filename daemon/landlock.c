/*
 * Landlock.  Any process.
 *
 * Numbers and structures are the kernel's interface; headers of Debian 12 know the first versions
 * alone, while the running kernel may be newer.
 */
#include "daemon/landlock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The same on all architectures. */
#define NR_CREATE_RULESET 444
#define NR_ADD_RULE 445
#define NR_RESTRICT_SELF 446

#define CREATE_RULESET_VERSION 1u
#define RULE_PATH_BENEATH 1

#define FS_WRITE_FILE (UINT64_C(1) << 1)
#define FS_READ_FILE (UINT64_C(1) << 2)
#define FS_READ_DIR (UINT64_C(1) << 3)
#define FS_REMOVE_DIR (UINT64_C(1) << 4)
#define FS_REMOVE_FILE (UINT64_C(1) << 5)
#define FS_MAKE_DIR (UINT64_C(1) << 7)
#define FS_MAKE_REG (UINT64_C(1) << 8)
#define FS_REFER (UINT64_C(1) << 13)
#define FS_TRUNCATE (UINT64_C(1) << 14)
#define FS_IOCTL_DEV (UINT64_C(1) << 15)
#define FS_FIRST ((UINT64_C(1) << 13) - 1) /* all of version 1 */

#define NET_BIND_TCP UINT64_C(1)
#define NET_CONNECT_TCP UINT64_C(2)
#define SCOPE_ALL UINT64_C(3) /* abstract unix sockets, signals */

struct ruleset {
	uint64_t fs, net, scoped;
};

struct path_beneath {
	uint64_t access;
	int32_t parent;
} __attribute__((packed));

int
landlock_version(void)
{
	long n = syscall(NR_CREATE_RULESET, NULL, 0, CREATE_RULESET_VERSION);

	return n > 0 ? (int)n : 0;
}

static uint64_t
handled(int version)
{
	return FS_FIRST | (version >= 2 ? FS_REFER : 0) | (version >= 3 ? FS_TRUNCATE : 0) |
	       (version >= 5 ? FS_IOCTL_DEV : 0);
}

int
landlock_begin(bool connect)
{
	int version = landlock_version();
	struct ruleset r = {.fs = handled(version)};
	size_t size = sizeof r.fs;

	if (version >= 4) {
		r.net = NET_BIND_TCP | (connect ? 0 : NET_CONNECT_TCP);
		size += sizeof r.net;
	}
	if (version >= 6) {
		r.scoped = SCOPE_ALL;
		size += sizeof r.scoped;
	}
	return (int)syscall(NR_CREATE_RULESET, &r, size, 0);
}

int
landlock_allow(int list, const char *path, unsigned what)
{
	struct path_beneath rule = {.parent = open(path, O_PATH | O_CLOEXEC)};
	struct stat st;
	int saved;
	long rc;

	if (rule.parent < 0)
		return errno == ENOENT || errno == ENOTDIR ? 0 : -1;
	if (what & LANDLOCK_READ)
		rule.access |= FS_READ_FILE | FS_READ_DIR;
	if (what & LANDLOCK_WRITE)
		rule.access |= FS_WRITE_FILE | FS_TRUNCATE;
	if (what & LANDLOCK_CHANGE)
		rule.access |= FS_MAKE_REG | FS_MAKE_DIR | FS_REMOVE_FILE | FS_REMOVE_DIR;
	/* What is only said of folders is refused for files. */
	if (fstat(rule.parent, &st) == 0 && !S_ISDIR(st.st_mode))
		rule.access &= FS_READ_FILE | FS_WRITE_FILE | FS_TRUNCATE;
	rule.access &= handled(landlock_version());
	rc = syscall(NR_ADD_RULE, list, RULE_PATH_BENEATH, &rule, 0);
	saved = errno;
	close(rule.parent);
	errno = saved;
	return (int)rc;
}

int
landlock_enforce(int list)
{
	long rc = -1;
	int saved;

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0)
		rc = syscall(NR_RESTRICT_SELF, list, 0);
	saved = errno;
	close(list);
	errno = saved;
	return (int)rc;
}
