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
	int64_t began_ms, shown_ms; /* 0: not yet */
} progress;

static int64_t
now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

void
progress_show(int64_t done, int64_t of)
{
	int64_t now = now_ms();

	if (now - progress.began_ms < 1000 || now - progress.shown_ms < 1000 ||
	    isatty(STDERR_FILENO) == 0)
		return;
	progress.shown_ms = now;
	(void)fprintf(stderr, "\r%" PRId64 " of %" PRId64 " %s", done / progress.divide,
	    of / progress.divide, progress.unit);
}

static void
notified(struct ctl *ctl, const char *method, size_t len, const msgpack_object *args)
{
	(void)ctl;
	if (len == strlen(progress.method) && memcmp(method, progress.method, len) == 0)
		progress_show(proto_get_int(args, progress.done, 0), proto_get_int(args, "of", 0));
}

void
progress_begin(struct ctl *ctl, const char *method, const char *done, const char *unit,
    int64_t divide)
{
	progress.method = method;
	progress.done = done;
	progress.unit = unit;
	progress.divide = divide;
	progress.began_ms = now_ms();
	progress.shown_ms = 0;
	ctl->notified = notified;
}

void
progress_end(struct ctl *ctl)
{
	ctl->notified = NULL;
	if (progress.shown_ms != 0)
		(void)fprintf(stderr, "\r\033[K");
}
