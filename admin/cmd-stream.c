/*
 * tollctl stream list | cancel
 */
#include "admin/tollctl.h"

static enum ctl_exit
list(struct ctl *ctl, const struct command *c)
{
	static const struct column columns[] = {
	    {"stream_id", "STREAM", false},
	    {"account", "ACCOUNT", false},
	    {"model", "MODEL", false},
	    {"state", "STATE", false},
	    {"worker", "WORKER", true},
	    {"metered", "TOKENS", true},
	    {"cost", "COST", true},
	    {"amount", "HELD", true},
	    {"age", "AGE", true},
	    {NULL, NULL, false},
	};

	return print_pages(ctl, c, "streams", columns);
}

const struct command cmd_stream_list = {
    "stream list", "stream.list", "List the streams that hold credit.",
    {{0}},
    list,
};

const struct command cmd_stream_cancel = {
    "stream cancel", "stream.cancel",
    "End a stream; what it produced up to now is charged.  Returns when that is done.",
    {
	{"ID", NULL, "stream_id", CMD_TEXT, true, "as stream list shows it"},
	{0},
    },
    ctl_show,
};
