/*
 * tollctl reload | drain
 */
#include <stdio.h>

#include "admin/tollctl.h"

static void
print_lines(const msgpack_object *result, const char *key, const char *before)
{
	const msgpack_object *list = proto_get(result, key);

	if (list == NULL || list->type != MSGPACK_OBJECT_ARRAY)
		return;
	for (uint32_t i = 0; i < list->via.array.size; i++) {
		const msgpack_object *line = &list->via.array.ptr[i];

		if (line->type != MSGPACK_OBJECT_STR)
			continue;
		(void)printf("%s", before);
		print_text(line->via.str.ptr, line->via.str.size);
		(void)printf("\n");
	}
}

static enum ctl_exit
reload(struct ctl *ctl, const struct command *c)
{
	const msgpack_object *result = ctl_call(ctl, c, NULL), *changed;
	bool ok;

	if (result == NULL)
		return ctl->exit;
	ok = proto_get_bool(result, "ok");
	if (ctl->json) {
		print_json(result);
		(void)printf("\n");
		return ok ? CTL_DONE : CTL_REFUSED;
	}
	print_lines(result, "warnings", "");
	print_lines(result, "errors", "");
	if (!ok) {
		(void)printf("refused: the config before it stays in force\n");
		return CTL_REFUSED;
	}
	changed = proto_get(result, "changed");
	if (changed != NULL && changed->type == MSGPACK_OBJECT_ARRAY &&
	    changed->via.array.size == 0)
		(void)printf("nothing has changed\n");
	print_lines(result, "changed", "changed         ");
	print_lines(result, "needs_restart", "needs a restart ");
	print_lines(result, "late", "not yet taken by ");
	return CTL_DONE;
}

const struct command cmd_reload = {
    "reload", "daemon.reload", "Read the configuration again; say what changed, or what is wrong.",
    {{0}},
    reload,
};

enum { ARG_KEEP, ARG_RESUME };

static enum ctl_exit
drain(struct ctl *ctl, const struct command *c)
{
	const msgpack_object *result = ctl_call(ctl, c, NULL);
	long long streams;

	if (result == NULL)
		return ctl->exit;
	if (ctl->json) {
		print_json(result);
		(void)printf("\n");
		return CTL_DONE;
	}
	streams = (long long)proto_get_int(result, "streams", 0);
	if (ctl->given[ARG_RESUME] != NULL)
		(void)printf("requests are taken again\n");
	else if (ctl->given[ARG_KEEP] != NULL)
		(void)printf("nothing new is taken until \"tollctl drain --resume\"; %lld streams run\n",
		    streams);
	else
		(void)printf("draining: %lld streams have up to %lld s to end, then tolld exits\n",
		    streams, (long long)proto_get_int(result, "seconds", 0));
	return CTL_DONE;
}

const struct command cmd_drain = {
    "drain", "daemon.drain", "Take no new streams, let those that run end, then exit.",
    {
        [ARG_KEEP] = {"--keep", NULL, "keep", CMD_FLAG, false,
            "stay, and answer 503 until it is resumed"},
        [ARG_RESUME] = {"--resume", NULL, "resume", CMD_FLAG, false, "the end of --keep"},
    },
    drain,
};
