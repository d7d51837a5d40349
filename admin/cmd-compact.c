/*
 * tollctl compact
 */
#include <inttypes.h>
#include <stdio.h>

#include "admin/tollctl.h"

static enum ctl_exit
compact(struct ctl *ctl, const struct command *c)
{
	const msgpack_object *result;
	int64_t removed, first;

	if (ctl->given[0] != NULL && ctl->given[1] != NULL) {
		(void)fprintf(stderr, "tollctl: compact: --before or --keep, not both\n");
		return CTL_USAGE;
	}
	progress_begin(ctl, "compact.progress", "done", "percent", 1);
	result = ctl_call(ctl, c, NULL);
	progress_end(ctl);
	if (result == NULL)
		return ctl->exit;
	if (ctl->json) {
		print_json(result);
		(void)printf("\n");
		return CTL_DONE;
	}
	removed = proto_get_int(result, "removed", 0);
	first = proto_get_int(result, "first", 1);
	if (removed == 0)
		(void)printf(
		    "nothing to remove; the journal begins with record %" PRId64 "\n", first);
	else
		(void)printf("%" PRId64 " records removed; the journal begins with record %" PRId64
		             "\n",
		    removed, first);
	return CTL_DONE;
}

const struct command cmd_compact = {
    "compact",
    "journal.compact",
    "Replace old records of the journal by a checkpoint, while the daemon goes on.  They are "
    "proved\n"
    "first; the checkpoint's hash and the chain's link go into the journal.  Without an option:\n"
    "those older than the configuration's keep_days.  What is younger than a day is kept, and "
    "what\n"
    "open holds need.",
    {
        {"--before", "T", "before", CMD_TIME, false,
            "records before 2026-11-21, 2026-11-21T08:30:00Z (UTC), seconds since 1970, or 7d ago"},
        {"--keep", "DURATION", "keep", CMD_DURATION, false, "all but the last 7d, 36h, ..."},
        {0},
    },
    compact,
};
