/*
 * tollctl audit
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "admin/tollctl.h"

static time_t
seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec;
}

static time_t began, shown;

/* On a terminal, and once it takes longer than a second: one line that is written over. */
static void
progress(struct ctl *ctl, const char *method, size_t len, const msgpack_object *args)
{
	(void)ctl;
	if (len != strlen("audit.progress") || memcmp(method, "audit.progress", len) != 0)
		return;
	if (isatty(STDERR_FILENO) == 0 || seconds() - began < 1 || seconds() == shown)
		return;
	shown = seconds();
	(void)fprintf(stderr, "\r%" PRId64 " of %" PRId64 " records",
	    proto_get_int(args, "records", 0), proto_get_int(args, "of", 0));
}

static enum ctl_exit
audit(struct ctl *ctl, const struct command *c)
{
	const msgpack_object *result;
	size_t len;
	const char *text;
	bool ok;

	began = seconds();
	ctl->notified = progress;
	result = ctl_call(ctl, c, NULL);
	if (shown != 0)
		(void)fprintf(stderr, "\r\033[K");
	if (result == NULL)
		return ctl->exit;
	ok = proto_get_bool(result, "ok");
	if (ctl->json) {
		print_json(result);
		(void)printf("\n");
	} else {
		(void)printf("%s  %" PRId64 " records, %" PRId64 " accounts\n",
		    ok ? "ok" : "DIFFERENCE", proto_get_int(result, "records", 0),
		    proto_get_int(result, "accounts", 0));
		text = proto_get_text(result, "first_difference", &len);
		if (!ok && len > 0) {
			print_text(text, len);
			(void)printf("\n");
		}
	}
	return ok ? CTL_DONE : CTL_REFUSED;
}

const struct command cmd_audit = {
    "audit", "audit.run",
    "Play the journal again and compare it with every account's balance and holds.\n"
    "Exit status 1 on any difference.",
    {{0}},
    audit,
};
