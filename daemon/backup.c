/*
 * The backup's helper.  backup_start, backup_kill and backup_finish run in the admin process, the
 * rest in a child of it.
 *
 * The child is a fork and has the parent's LMDB environments in its memory; it must not touch
 * them, and opens the journal for itself.  Everything that it inherited is closed, or a client of
 * the admin socket would not see its connection's end before the backup's.
 */
#include "daemon/backup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/journal_copy.h"
#include "daemon/log.h"
#include "daemon/title.h"

#define SECRET_LEN 32

struct job {
	const char *state_dir, *dir;
	const uint8_t *secret;
	char part[64];
	struct backup_result result;
};

static int
complain(struct job *j, const char *what, const char *why)
{
	(void)snprintf(j->result.why, sizeof j->result.why, "%.60s: %.150s", what, why);
	return -1;
}

/* The folder is there, is ours, and nothing is in it. */
static int
make_dir(struct job *j)
{
	const struct dirent *e;
	DIR *d;
	int n = 0;

	if (mkdir(j->dir, 0700) < 0 && errno != EEXIST)
		return complain(j, "cannot make the folder", strerror(errno));
	d = opendir(j->dir);
	if (d == NULL)
		return complain(j, "cannot open the folder", strerror(errno));
	while ((e = readdir(d)) != NULL)
		n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
	closedir(d);
	return n == 0 ? 0 : complain(j, "the folder is not empty", "a backup is put into a new one");
}

static int
sync_dir(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int result = fd < 0 ? -1 : fsync(fd);

	if (fd >= 0)
		close(fd);
	return result;
}

static int
put_secret(int folder, const uint8_t *secret)
{
	int fd = openat(folder, "key.secret", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	int result = fd < 0 ? -1 : 0;

	if (fd >= 0 && (write(fd, secret, SECRET_LEN) != SECRET_LEN || fsync(fd) < 0))
		result = -1;
	if (fd >= 0)
		close(fd);
	return result;
}

/*
 * The journal first and the secret last: a daemon refuses to start with a journal and no secret,
 * so what was broken off is never taken for a backup.
 */
static int
put_files(struct job *j)
{
	const char *why;
	int folder, result = 0;

	if (journal_copy(j->state_dir, j->dir, j->part, &j->result.records, &j->result.bytes,
		&why) < 0)
		return complain(j, "the journal cannot be copied", why);
	folder = open(j->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (folder < 0 || renameat(folder, j->part, folder, "journal.mdb") < 0) {
		result = complain(j, "the copy cannot be named", strerror(errno));
		if (folder >= 0)
			(void)unlinkat(folder, j->part, 0);
	} else if (put_secret(folder, j->secret) < 0 || fsync(folder) < 0) {
		result = complain(j, "key.secret cannot be written", strerror(errno));
		(void)unlinkat(folder, "key.secret", 0);
		(void)unlinkat(folder, "journal.mdb", 0);
	}
	if (folder >= 0)
		close(folder);
	return result;
}

static void
sync_parent(const char *dir)
{
	char parent[PATH_MAX];
	char *slash;

	(void)snprintf(parent, sizeof parent, "%s", dir);
	slash = strrchr(parent, '/');
	if (slash == NULL)
		return;
	slash[slash == parent] = '\0';
	/* Not ours to insist on: we may not be let to read it. */
	(void)sync_dir(parent);
}

static void work(struct job *, int out, pid_t parent) __attribute__((noreturn));

static void
work(struct job *j, int out, pid_t parent)
{
	unsigned last = (unsigned)out;

	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent)
		_exit(1);
	if (last > 3)
		(void)close_range(3, last - 1, 0);
	(void)close_range(last + 1, ~0u, 0);
	title_set("tolld: backup");
	j->result.ok = make_dir(j) == 0 && put_files(j) == 0;
	if (j->result.ok)
		sync_parent(j->dir);
	/* Smaller than a pipe's atomic write. */
	_exit(write(out, &j->result, sizeof j->result) == (ssize_t)sizeof j->result ? 0 : 1);
}

static void
part_name(char name[static 64], pid_t pid)
{
	(void)snprintf(name, 64, "journal.mdb.part-%d", (int)pid);
}

int
backup_start(struct backup *b, const char *state_dir, const char *dir,
    const uint8_t secret[static SECRET_LEN])
{
	struct job j = {.state_dir = state_dir, .dir = dir, .secret = secret};
	pid_t parent = getpid();
	char name[64];
	int fds[2], saved;

	if (pipe2(fds, O_CLOEXEC) < 0)
		return -1;
	b->pid = fork();
	if (b->pid == 0) {
		part_name(j.part, getpid());
		work(&j, fds[1], parent);
	}
	saved = errno;
	close(fds[1]);
	b->fd = fds[0];
	if (b->pid < 0) {
		close(fds[0]);
		errno = saved;
		return -1;
	}
	part_name(name, b->pid);
	if ((size_t)snprintf(b->part, sizeof b->part, "%s/%s", dir, name) >= sizeof b->part)
		b->part[0] = '\0'; /* then it could not be made either */
	return 0;
}

void
backup_kill(struct backup *b)
{
	(void)kill(b->pid, SIGKILL);
}

void
backup_finish(struct backup *b, struct backup_result *result)
{
	if (read(b->fd, result, sizeof *result) != (ssize_t)sizeof *result) {
		*result = (struct backup_result){.why = "it was broken off"};
		/* Named after the helper: nobody else's. */
		(void)unlink(b->part);
	}
	result->why[sizeof result->why - 1] = '\0';
	close(b->fd);
	/* It has written or closed its pipe, as the last thing that it did: this does not wait. */
	while (waitpid(b->pid, NULL, 0) < 0 && errno == EINTR)
		;
}
