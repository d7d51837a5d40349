/*
 * How far something is that takes long: on a terminal, and once it takes longer than a second, one
 * line that is written over.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "admin/tollctl.h"

static struct {
	const char *method, *done, *unit;
	int64_t divide;
	time_t began, shown;
} progress;

static time_t
seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec;
}

static void
notified(struct ctl *ctl, const char *method, size_t len, const msgpack_object *args)
{
	(void)ctl;
	if (len != strlen(progress.method) || memcmp(method, progress.method, len) != 0)
		return;
	if (isatty(STDERR_FILENO) == 0 || seconds() - progress.began < 1 ||
	    seconds() == progress.shown)
		return;
	progress.shown = seconds();
	(void)fprintf(stderr, "\r%" PRId64 " of %" PRId64 " %s",
	    proto_get_int(args, progress.done, 0) / progress.divide,
	    proto_get_int(args, "of", 0) / progress.divide, progress.unit);
}

void
progress_begin(struct ctl *ctl, const char *method, const char *done, const char *unit,
    int64_t divide)
{
	progress.method = method;
	progress.done = done;
	progress.unit = unit;
	progress.divide = divide;
	progress.began = seconds();
	progress.shown = 0;
	ctl->notified = notified;
}

void
progress_end(struct ctl *ctl)
{
	ctl->notified = NULL;
	if (progress.shown != 0)
		(void)fprintf(stderr, "\r\033[K");
}
