/*
 * tollctl ping | version
 */
#include <stdio.h>

#include "admin/tollctl.h"

const struct command cmd_ping = {
    "ping", "daemon.ping", "Ask whether the daemon is there, and how it is.",
    {{0}},
    ctl_show,
};

static enum ctl_exit
version(struct ctl *ctl, const struct command *c)
{
	const msgpack_object *result;
	const char *text;
	size_t len;

	result = ctl_call(ctl, c, NULL);
	if (result == NULL)
		return ctl->exit;
	text = proto_get_text(result, "version", &len);
	if (ctl->json) {
		(void)printf("{\"tollctl\":\"" TOLLD_VERSION "\",\"tolld\":");
		print_json_text(text, len);
		(void)printf("}\n");
		return CTL_DONE;
	}
	(void)printf("tollctl  " TOLLD_VERSION "\ntolld    ");
	print_text(text, len);
	(void)printf("\n");
	return CTL_DONE;
}

const struct command cmd_version = {
    "version", "daemon.ping", "Print the versions of tollctl and of the daemon.",
    {{0}},
    version,
};
