/*
 * Between the daemon and its disk (LD_PRELOAD): notes every change of the state folder's files
 * and every flush, in order, for tests/power/run.py to replay; and lets chosen calls fail.
 *
 * A note is one write() to a file opened with O_APPEND, so the notes of several processes and
 * threads do not mix.  A write is noted once it is done, a flush once it has returned, and both
 * before the caller goes on: so whatever the daemon acknowledges, what it rests on is in the notes
 * already.  Threads: each file has one that writes it, so its notes are in its order; between those
 * of two files there is none that anything rests on.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "tests/power/record.h"

#define FDS 65536
#define IOVS 1024
#define MOMENT_MS 10

struct watched {
	uint64_t inode; /* 0: not watched */
	bool dsync, folder;
	enum disk_file file;
};

static struct watched watched[FDS];
static char folder[PATH_MAX];
static size_t folder_len;
static int notes = -1;
static struct disk_faults *faults;

/* The real calls are made past libc: nothing of ours can be called by accident. */

__attribute__((constructor)) static void
begin(void)
{
	const char *dir = getenv("TOLLD_DISK_DIR"), *log = getenv("TOLLD_DISK_LOG"),
		   *file = getenv("TOLLD_DISK_FAULTS");
	int fd;

	if (dir == NULL)
		return;
	snprintf(folder, sizeof folder, "%s", dir);
	folder_len = strlen(folder);
	if (log != NULL)
		notes = (int)syscall(SYS_openat, AT_FDCWD, log,
		    O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
	if (file == NULL)
		return;
	fd = (int)syscall(SYS_openat, AT_FDCWD, file, O_RDWR | O_CLOEXEC, 0);
	if (fd < 0)
		return;
	faults = mmap(NULL, sizeof *faults, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (faults == MAP_FAILED)
		faults = NULL;
	syscall(SYS_close, fd);
}

static void
note(enum disk_event event, uint64_t inode, uint64_t offset, const struct iovec *iov, int n,
    size_t len)
{
	struct disk_entry e = {.length = (uint32_t)(sizeof e + len), .event = event, .inode = inode,
	    .offset = offset, .pid = (uint32_t)getpid()};
	struct iovec all[IOVS + 1] = {{&e, sizeof e}};
	int count = 1;

	if (notes < 0)
		return;
	for (int i = 0; i < n && len > 0; i++) {
		all[count] = iov[i];
		if (all[count].iov_len > len)
			all[count].iov_len = len;
		len -= all[count++].iov_len;
	}
	if (syscall(SYS_writev, notes, all, count) != (ssize_t)e.length)
		abort(); /* a hole in the notes would look like a defect of the daemon's */
}

static void
note_names(enum disk_event event, uint64_t inode, const char *a, const char *b)
{
	struct iovec iov[2] = {{(void *)(uintptr_t)a, strlen(a) + (b != NULL)},
	    {(void *)(uintptr_t)(b == NULL ? "" : b), b == NULL ? 0 : strlen(b)}};

	note(event, inode, 0, iov, 2, iov[0].iov_len + iov[1].iov_len);
}

/* Do the faults concern this file? */
static bool
is_meant(const struct watched *w)
{
	return faults != NULL && (faults->only == DISK_ANY || faults->only == (int32_t)w->file);
}

/* Is this call to fail?  errno says how.  (Others may be asking.) */
static bool
fails(const struct watched *w, struct disk_fault *f)
{
	int32_t left;

	if (!is_meant(w))
		return false;
	left = __atomic_load_n(&f->left, __ATOMIC_RELAXED);
	do
		if (left == 0)
			return false;
	while (left > 0 && !__atomic_compare_exchange_n(&f->left, &left, left - 1, false,
	                       __ATOMIC_RELAXED, __ATOMIC_RELAXED));
	(void)__atomic_fetch_add(&f->hits, 1, __ATOMIC_RELAXED);
	errno = f->error;
	return true;
}

/* The name inside the folder, or NULL: somebody else's file, or LMDB's locks. */
static const char *
ours(const char *path)
{
	const char *name = path + folder_len + 1;
	size_t len;

	if (folder_len == 0 || strncmp(path, folder, folder_len) != 0 || path[folder_len] != '/')
		return NULL;
	len = strlen(name);
	if (len > 5 && strcmp(name + len - 5, "-lock") == 0)
		return NULL;
	return name;
}

static int
opened(int fd, int at, const char *path, int flags, bool existed)
{
	const char *name = at >= 0 && at < FDS && watched[at].folder ? path : ours(path);
	struct stat st;

	if (fd < 0 || fd >= FDS)
		return fd;
	watched[fd] = (struct watched){0};
	if (folder_len > 0 && strcmp(path, folder) == 0) {
		watched[fd] = (struct watched){.inode = 1, .folder = true};
	} else if (name != NULL && (flags & O_ACCMODE) != O_RDONLY && fstat(fd, &st) == 0) {
		watched[fd] = (struct watched){.inode = st.st_ino, .dsync = (flags & O_DSYNC) != 0,
		    .file = strcmp(name, "journal.mdb") == 0 ? DISK_JOURNAL
			: strcmp(name, "state.mdb") == 0     ? DISK_STATE
							     : DISK_ANY};
		if (!existed)
			note_names(DISK_CREATE, st.st_ino, name, NULL);
	}
	return fd;
}

static int
open_any(int at, const char *path, int flags, va_list ap)
{
	struct stat st;
	bool existed = (flags & O_CREAT) == 0 || stat(path, &st) == 0;
	mode_t mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(ap, mode_t) : 0;

	return opened((int)syscall(SYS_openat, at, path, flags, mode), at, path, flags, existed);
}

#define OPEN(name)                                                                                \
	int name(const char *path, int flags, ...);                                               \
	int name(const char *path, int flags, ...)                                                \
	{                                                                                         \
		va_list ap;                                                                       \
		int fd;                                                                           \
                                                                                                  \
		va_start(ap, flags);                                                              \
		fd = open_any(AT_FDCWD, path, flags, ap);                                         \
		va_end(ap);                                                                       \
		return fd;                                                                        \
	}
#define OPENAT(name)                                                                              \
	int name(int at, const char *path, int flags, ...);                                       \
	int name(int at, const char *path, int flags, ...)                                        \
	{                                                                                         \
		va_list ap;                                                                       \
		int fd;                                                                           \
                                                                                                  \
		va_start(ap, flags);                                                              \
		fd = open_any(at, path, flags, ap);                                               \
		va_end(ap);                                                                       \
		return fd;                                                                        \
	}
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

int
close(int fd)
{
	if (fd >= 0 && fd < FDS)
		watched[fd] = (struct watched){0};
	return (int)syscall(SYS_close, fd);
}

static struct watched *
watch_of(int fd)
{
	return fd >= 0 && fd < FDS && watched[fd].inode != 0 && !watched[fd].folder ? &watched[fd]
										    : NULL;
}

/* All writing calls end here; offset -1: at the descriptor's place. */
static ssize_t
put(int fd, const struct iovec *iov, int n, off_t offset)
{
	struct watched *w = watch_of(fd);
	struct iovec half;
	off_t at = offset;
	ssize_t done;

	if (w != NULL && fails(w, &faults->write))
		return -1;
	if (w != NULL && at < 0)
		at = (off_t)syscall(SYS_lseek, fd, 0, SEEK_CUR);
	if (w != NULL && iov[0].iov_len > 1 && fails(w, &faults->part)) {
		half = (struct iovec){iov[0].iov_base, iov[0].iov_len / 2};
		iov = &half;
		n = 1;
	}
	done = offset < 0 ? syscall(SYS_writev, fd, iov, n)
			  : syscall(SYS_pwritev, fd, iov, n, (long)offset, 0L);
	if (w == NULL || done <= 0)
		return done;
	note(DISK_WRITE, w->inode, (uint64_t)at, iov, n, (size_t)done);
	if (!w->dsync)
		return done;
	if (fails(w, &faults->meta)) {
		note(DISK_LOST, w->inode, 0, NULL, 0, 0);
		return -1;
	}
	note(DISK_RANGE, w->inode, 0, NULL, 0, 0);
	return done;
}

ssize_t
write(int fd, const void *bytes, size_t len)
{
	struct iovec iov = {(void *)(uintptr_t)bytes, len};

	return watch_of(fd) == NULL ? syscall(SYS_write, fd, bytes, len) : put(fd, &iov, 1, -1);
}

ssize_t
writev(int fd, const struct iovec *iov, int n)
{
	return watch_of(fd) == NULL ? syscall(SYS_writev, fd, iov, n) : put(fd, iov, n, -1);
}

#define PWRITE(name, type)                                                                        \
	ssize_t name(int fd, const void *bytes, size_t len, type offset);                         \
	ssize_t name(int fd, const void *bytes, size_t len, type offset)                          \
	{                                                                                         \
		struct iovec iov = {(void *)(uintptr_t)bytes, len};                               \
                                                                                                  \
		return put(fd, &iov, 1, offset);                                                  \
	}
#define PWRITEV(name, type)                                                                       \
	ssize_t name(int fd, const struct iovec *iov, int n, type offset);                        \
	ssize_t name(int fd, const struct iovec *iov, int n, type offset)                         \
	{                                                                                         \
		return put(fd, iov, n, offset);                                                   \
	}
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)
PWRITEV(pwritev, off_t)
PWRITEV(pwritev64, off64_t)

static int
sync_file(int fd, long call)
{
	struct watched *w = fd >= 0 && fd < FDS && watched[fd].inode != 0 ? &watched[fd] : NULL;
	static const struct timespec moment = {0, MOMENT_MS * 1000000L};

	if (w == NULL)
		return (int)syscall(call, fd);
	for (int ms = 0; is_meant(w) && ms < faults->slow_ms; ms += MOMENT_MS)
		nanosleep(&moment, NULL);
	if (fails(w, &faults->sync)) {
		note(DISK_LOST, w->inode, 0, NULL, 0, 0);
		return -1;
	}
	/* Not the real one: there is no power to lose, and it would only make the test slow. */
	note(w->folder ? DISK_FOLDER : DISK_SYNC, w->inode, 0, NULL, 0, 0);
	return 0;
}

int
fdatasync(int fd)
{
	return sync_file(fd, SYS_fdatasync);
}

int
fsync(int fd)
{
	return sync_file(fd, SYS_fsync);
}

int
msync(void *at, size_t len, int flags)
{
	/* LMDB uses it with MDB_WRITEMAP alone, which the daemon does not. */
	return (int)syscall(SYS_msync, at, len, flags);
}

#define FTRUNCATE(name, type)                                                                     \
	int name(int fd, type size);                                                              \
	int name(int fd, type size)                                                               \
	{                                                                                         \
		struct watched *w = watch_of(fd);                                                 \
		int result;                                                                       \
                                                                                                  \
		if (w != NULL && fails(w, &faults->write))                                        \
			return -1;                                                                \
		result = (int)syscall(SYS_ftruncate, fd, (long)size);                             \
		if (w != NULL && result == 0)                                                     \
			note(DISK_SIZE, w->inode, (uint64_t)size, NULL, 0, 0);                    \
		return result;                                                                    \
	}
FTRUNCATE(ftruncate, off_t)
FTRUNCATE(ftruncate64, off64_t)

int
rename(const char *from, const char *to)
{
	int result = (int)syscall(SYS_renameat, AT_FDCWD, from, AT_FDCWD, to);

	if (result == 0 && ours(from) != NULL && ours(to) != NULL)
		note_names(DISK_RENAME, 1, ours(from), ours(to));
	return result;
}

int
unlink(const char *path)
{
	int result = (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);

	if (result == 0 && ours(path) != NULL)
		note_names(DISK_UNLINK, 1, ours(path), NULL);
	return result;
}
