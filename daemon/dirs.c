/*
 * state_dir and runtime_dir.  Master, before any fork.
 */
#include "daemon/dirs.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "daemon/log.h"

/* How long the children of a killed master may take to be gone (they are being killed too). */
#define ORPHANS_MS_MAX 5000
#define ORPHANS_STEP_MS 10

#define SECRET_LEN 32

static int
complain(const char *what, const char *path, int error)
{
	log_event(LOG_ERROR, what, "path", path, "error", error ? strerror(error) : NULL, NULL);
	return -1;
}

/* Flush a folder, so that a name made in it is there after a power cut. */
static int
sync_dir(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int result = fd < 0 ? -1 : fsync(fd);
	if (result < 0)
		complain("cannot flush the folder", path, errno);
	if (fd >= 0)
		close(fd);
	return result;
}

static int
sync_parent(const char *path)
{
	char *copy = strdup(path);
	int result;

	if (copy == NULL)
		return complain("cannot flush the folder above", path, ENOMEM);
	result = sync_dir(dirname(copy));
	free(copy);
	return result;
}

int
dirs_make(const char *path, mode_t mode, const struct owner *owner)
{
	struct stat st;
	bool made = mkdir(path, mode) == 0;
	int fd;

	if (!made && errno != EEXIST)
		return complain("cannot make the folder", path, errno);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0) {
		complain("cannot open the folder", path, errno);
		goto fail;
	}
	/* Only one that we made gets another owner or mode: a slip of the config must not give
	 * away /tmp or /var/lib. */
	if (made) {
		if (fchmod(fd, mode) < 0 ||
		    (owner->change && fchown(fd, owner->uid, owner->gid) < 0)) {
			complain("cannot set the owner of the folder", path, errno);
			goto fail;
		}
	} else if (owner->change && st.st_uid != owner->uid) {
		log_event(LOG_ERROR, "the folder belongs to someone else than `user`", "path", path,
		    "user", owner->name, NULL);
		goto fail;
	} else if (mode == 0700 && (st.st_mode & 022)) {
		complain("others may write to the folder", path, 0);
		goto fail;
	}
	close(fd);
	fd = -1;
	/* Or a power cut takes the new folder with all that was ever acknowledged in it. */
	if (made && sync_parent(path) < 0)
		goto fail;
	return 0;
fail:
	if (fd >= 0)
		close(fd);
	if (made)
		rmdir(path);
	return -1;
}

/* The pid that stands in a lock file, or 0. */
static pid_t
read_pid(int fd)
{
	char text[24] = "";
	long pid;
	if (pread(fd, text, sizeof(text) - 1, 0) <= 0)
		return 0;
	pid = strtol(text, NULL, 10);
	return pid > 0 && pid < INT_MAX ? (pid_t)pid : 0;
}

/* Lock the open file; -1 if someone else has it for good. */
static int
wait_for_lock(int fd, const char *path)
{
	const struct timespec step = { .tv_nsec = ORPHANS_STEP_MS * 1000000L };
	char text[24];
	for (int waited = 0;; waited += ORPHANS_STEP_MS) {
		/* flock: it goes with the open file, hence with the last child that has it. */
		if (flock(fd, LOCK_EX | LOCK_NB) == 0)
			return 0;
		if (errno != EWOULDBLOCK)
			return complain("cannot lock", path, errno);
		pid_t pid = read_pid(fd);
		bool alive = pid > 0 && (kill(pid, 0) == 0 || errno == EPERM);
		if (alive || waited >= ORPHANS_MS_MAX) {
			snprintf(text, sizeof(text), "%d", (int)pid);
			log_event(LOG_ERROR, "another tolld is running", "path", path, "pid",
			    pid > 0 ? text : NULL, NULL);
			return -1;
		}
		if (waited == 0)
			log_event(LOG_INFO, "waiting for a former daemon's processes to end",
			    "path", path, NULL);
		nanosleep(&step, NULL);
	}
}

int
dirs_lock(const char *path)
{
	char text[24];
	struct stat mine, there;
	int fd, len;
	for (;;) {
		fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0644);
		if (fd < 0)
			return complain("cannot open", path, errno);
		/* In a folder of `user`'s, root must not be led to write to something else. */
		if (fstat(fd, &mine) < 0 || !S_ISREG(mine.st_mode) || mine.st_nlink > 1) {
			complain("not a plain file", path, 0);
			goto fail;
		}
		if (wait_for_lock(fd, path) < 0)
			goto fail;
		/* The one that had it may have unlinked it: then this is nobody's file. */
		if (stat(path, &there) == 0 &&
		    mine.st_ino == there.st_ino && mine.st_dev == there.st_dev)
			break;
		close(fd);
	}
	len = snprintf(text, sizeof(text), "%d\n", (int)getpid());
	if (ftruncate(fd, 0) < 0 || pwrite(fd, text, (size_t)len, 0) != len) {
		complain("cannot write", path, errno);
		unlink(path);
		goto fail;
	}
	return fd;
fail:
	close(fd);
	return -1;
}

/* Is there a journal in state_dir already? */
static bool
has_journal(const char *state_dir)
{
	char path[PATH_MAX];
	snprintf(path, sizeof(path), "%s/journal.mdb", state_dir);
	return access(path, F_OK) == 0;
}

/* Make the secret under another name first: what has its real name is whole. */
static int
make_secret(const char *state_dir, const char *path, const struct owner *owner,
    uint8_t secret[static SECRET_LEN])
{
	char draft[PATH_MAX];
	int fd;
	snprintf(draft, sizeof(draft), "%s/key.secret.new", state_dir);
	if (unlink(draft) < 0 && errno != ENOENT)
		return complain("cannot remove", draft, errno);
	fd = open(draft, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return complain("cannot make", draft, errno);
	if (getrandom(secret, SECRET_LEN, 0) != SECRET_LEN ||
	    write(fd, secret, SECRET_LEN) != SECRET_LEN ||
	    (owner->change && fchown(fd, owner->uid, owner->gid) < 0) || fsync(fd) < 0) {
		complain("cannot write", draft, errno);
		close(fd);
		unlink(draft);
		return -1;
	}
	close(fd);
	if (rename(draft, path) < 0) {
		complain("cannot make", path, errno);
		unlink(draft);
		return -1;
	}
	log_event(LOG_INFO, "made a new secret for API keys", "path", path, NULL);
	return sync_dir(state_dir);
}

static int
read_secret(int fd, const char *path, const struct owner *owner,
    uint8_t secret[static SECRET_LEN])
{
	struct stat st;
	uid_t wanted = owner->change ? owner->uid : geteuid();
	if (fstat(fd, &st) < 0)
		return complain("cannot read", path, errno);
	if (!S_ISREG(st.st_mode) || st.st_size != SECRET_LEN)
		return complain("not a file of 32 bytes", path, 0);
	if (st.st_mode & 077)
		return complain("others than its owner have access (it must have mode 0600)", path,
		    0);
	if (st.st_uid != wanted && st.st_uid != 0)
		return complain("belongs to someone else", path, 0);
	if (read(fd, secret, SECRET_LEN) != SECRET_LEN)
		return complain("cannot read", path, errno);
	return 0;
}

int
dirs_secret(const char *state_dir, const struct owner *owner, uint8_t secret[static SECRET_LEN])
{
	char path[PATH_MAX];
	int fd, result;
	snprintf(path, sizeof(path), "%s/key.secret", state_dir);
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0 && errno == ENOENT) {
		/* A new one would make every key that was ever given out worthless. */
		if (has_journal(state_dir))
			return complain("is missing though there is a journal: put it back from a "
			    "backup", path, 0);
		return make_secret(state_dir, path, owner, secret);
	}
	if (fd < 0)
		return complain("cannot open", path, errno);
	result = read_secret(fd, path, owner, secret);
	close(fd);
	return result;
}
