/*
 * tollctl workers
 */
#include <stdio.h>

#include "admin/tollctl.h"

static enum ctl_exit
workers(struct ctl *ctl, const struct command *c)
{
	static const struct column columns[] = {
	    {"worker", "WORKER", true},
	    {"pid", "PID", true},
	    {"state", "STATE", false},
	    {"generation", "GENERATION", true},
	    {"streams", "STREAMS", true},
	    {"holds", "HOLDS", true},
	    {NULL, NULL, false},
	};
	const msgpack_object *result = ctl_call(ctl, c, NULL);

	if (result == NULL)
		return ctl->exit;
	if (ctl->json) {
		print_json(result);
		(void)printf("\n");
	} else if (result->type == MSGPACK_OBJECT_ARRAY)
		print_table(result, columns);
	return CTL_DONE;
}

const struct command cmd_workers = {
    "workers", "workers.list", "Show the worker processes.",
    {{0}},
    workers,
};
