/*
 * tollctl hold list | void
 */
#include "admin/tollctl.h"

static enum ctl_exit
list(struct ctl *ctl, const struct command *c)
{
	static const struct column columns[] = {
	    {"hold", "HOLD", false},
	    {"account", "ACCOUNT", false},
	    {"amount", "AMOUNT", true},
	    {"metered", "TOKENS", true},
	    {"age", "AGE", true},
	    {"stream_id", "STREAM", false},
	    {NULL, NULL, false},
	};

	return print_pages(ctl, c, "holds", columns);
}

const struct command cmd_hold_list = {
    "hold list", "hold.list", "List open holds: credit set aside for streams.",
    {{0}},
    list,
};

const struct command cmd_hold_void = {
    "hold void", "hold.void",
    "End a hold and its stream; nothing is charged for it.  Returns when that is done.",
    {
	{"HOLD", NULL, "hold", CMD_TEXT, true, "as hold list shows it"},
	{0},
    },
    ctl_show,
};
