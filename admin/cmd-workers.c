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
	    {"up", "UP_S", true},
	    {"streams", "STREAMS", true},
	    {"connections", "CONNECTIONS", true},
	    {"holds", "HOLDS", true},
	    {"restarts", "RESTARTS", true},
	    {"heartbeat_ms", "HEARTBEAT_MS", true},
	    {"config", "CONFIG", true},
	    {"version", "VERSION", false},
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
