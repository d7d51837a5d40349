/*
 * The disk under the storm's keepers: the calls by which LMDB writes, in place of the C library's.
 * Now and then a keeper gets one that will fail after a while, in one of the ways that disks have:
 * no space, an error, half of a write, a flush that fails, or one that is only slow.
 */
#include <errno.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "tests/storm/told.h"

/* The failed keeper's successor waits half a second, so not too often. */
#define ODDS 80

static struct {
	bool fails, failed;
	enum disk_kind kind;
	uint32_t in; /* so many calls of that kind still work */
} disk;

void
disk_begin(uint64_t seed)
{
	uint64_t rng = storm_mix(seed);

	disk.fails = storm_draw(&rng, ODDS) == 0;
	disk.kind = (enum disk_kind)storm_draw(&rng, DISK_KINDS);
	/* A commit is many writes and a flush or two. */
	disk.in = storm_draw(&rng, disk.kind >= DISK_FLUSH ? 6 : 60);
}

/* Is this call the one that fails?  All after it do, too. */
static bool
fails(bool flush)
{
	if (!disk.fails || (disk.kind >= DISK_FLUSH) != flush)
		return false;
	if (disk.in > 0) {
		disk.in--;
		return false;
	}
	if (!disk.failed)
		atomic_fetch_add(&told->disk[disk.kind], 1);
	disk.failed = true;
	return true;
}

static ssize_t
refuse(void)
{
	errno = disk.kind == DISK_FULL ? ENOSPC : EIO;
	return -1;
}

ssize_t
pwrite(int fd, const void *p, size_t n, off_t at)
{
	if (fails(false)) {
		if (disk.kind != DISK_PART || n < 2)
			return refuse();
		n /= 2;
	}
	return syscall(SYS_pwrite64, fd, p, n, at);
}

ssize_t
pwrite64(int fd, const void *p, size_t n, off64_t at)
{
	return pwrite(fd, p, n, at);
}

ssize_t
pwritev(int fd, const struct iovec *v, int n, off_t at)
{
	if (fails(false)) {
		if (disk.kind != DISK_PART || n < 2)
			return refuse();
		n /= 2;
	}
	return syscall(SYS_pwritev, fd, v, n, (unsigned long)at, 0);
}

ssize_t
pwritev64(int fd, const struct iovec *v, int n, off64_t at)
{
	return pwritev(fd, v, n, at);
}

static int
flush(int fd, long call)
{
	const struct timespec slow = {0, 3000000};

	if (fails(true)) {
		if (disk.kind == DISK_FLUSH)
			return (int)refuse();
		(void)nanosleep(&slow, NULL);
	}
	return (int)syscall(call, fd);
}

int
fdatasync(int fd)
{
	return flush(fd, SYS_fdatasync);
}

int
fsync(int fd)
{
	return flush(fd, SYS_fsync);
}
