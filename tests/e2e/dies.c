/*
 * Workers that do not live (LD_PRELOAD): as long as there is the file $TOLLD_DIES, who is called a
 * worker is killed before it has done anything, a while after its start.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct event_base;
struct event_base *event_base_new(void);

struct event_base *
event_base_new(void)
{
	struct event_base *(*next)(void) =
	    (struct event_base * (*)(void)) dlsym(RTLD_NEXT, "event_base_new");
	const char *path = getenv("TOLLD_DIES");
	int fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
	char title[64] = {0};
	/* Longer than the second after which a death is none of a bad start. */
	static const struct timespec late = {1, 100000000};

	if (fd >= 0 && read(fd, title, sizeof title - 1) > 0 && path != NULL &&
	    access(path, F_OK) == 0 && strncmp(title, "tolld: worker", 13) == 0) {
		(void)nanosleep(&late, NULL);
		(void)raise(SIGKILL);
	}
	if (fd >= 0)
		close(fd);
	return next();
}
