/*
 * The log in a file.
 *
 * The descriptor is stderr's, so that what libraries and the C library say in their last moments
 * (an assertion's text) is in the same file.  A counter in shared memory says that the name is to
 * be opened anew; each process does it for itself, since a descriptor cannot be changed from
 * outside.  The master alone makes files: the others have no right to.
 */
#include "daemon/log_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/log.h"

#define FLAGS (O_WRONLY | O_APPEND | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK)

static const char *path;
static uid_t uid;
static gid_t gid;
static _Atomic uint32_t *opened; /* how often, by the master */
static uint32_t opened_here;

/* Turn stderr to what is there; errno. */
static int
take_over(int fd)
{
	struct stat st;
	int error = fd < 0 ? errno : 0;

	if (error == 0 && fstat(fd, &st) < 0)
		error = errno;
	if (error == 0 && !S_ISREG(st.st_mode))
		error = EINVAL;
	if (error == 0 && dup2(fd, STDERR_FILENO) < 0)
		error = errno;
	if (fd >= 0)
		close(fd);
	return error;
}

/* Relaxed: whose turn it is to open is found with any later line. */
static void
follow(void)
{
	uint32_t now = atomic_load_explicit(opened, memory_order_relaxed);
	int error;

	if (now == opened_here)
		return;
	opened_here = now;
	error = take_over(open(path, FLAGS));
	if (error != 0)
		log_event(LOG_ERROR, "cannot open the log anew: going on in the old one", "path",
		    path, "error", strerror(error), NULL);
}

/* A new one is the owner's; one that is there stays whose it is. */
static int
open_or_make(void)
{
	int fd = open(path, FLAGS | O_CREAT | O_EXCL, 0640);

	if (fd >= 0) {
		if (geteuid() == 0 && fchown(fd, uid, gid) < 0) {
			int error = errno;

			close(fd);
			return error;
		}
		return take_over(fd);
	}
	return errno == EEXIST ? take_over(open(path, FLAGS)) : errno;
}

int
log_file_open(const char *name, uid_t owner, gid_t group)
{
	void *page =
	    mmap(NULL, sizeof *opened, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int error = page == MAP_FAILED ? errno : 0;

	path = name;
	uid = owner;
	gid = group;
	if (error == 0) {
		opened = page;
		error = open_or_make();
	}
	if (error != 0) {
		log_event(
		    LOG_ERROR, "cannot open the log", "path", name, "error", strerror(error), NULL);
		return -1;
	}
	log_sink.ready = follow;
	return 0;
}

void
log_file_reopen(void)
{
	int error;

	if (opened == NULL) {
		log_info("the log goes to stderr: there is nothing to open anew");
		return;
	}
	error = open_or_make();
	if (error != 0) {
		log_event(LOG_ERROR, "cannot open the log anew: going on in the old one", "path",
		    path, "error", strerror(error), NULL);
		return;
	}
	opened_here = atomic_fetch_add_explicit(opened, 1, memory_order_relaxed) + 1;
	log_info("log opened anew");
}
