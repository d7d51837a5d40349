/*
 * tollctl audit
 */
#include <inttypes.h>
#include <stdio.h>

#include "admin/tollctl.h"

static enum ctl_exit
audit(struct ctl *ctl, const struct command *c)
{
	const msgpack_object *result;
	size_t len;
	const char *text;
	bool ok;

	progress_begin(ctl, "audit.progress", "records", "records", 1);
	result = ctl_call(ctl, c, NULL);
	progress_end(ctl);
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
    "Play the journal again, from its checkpoint if it was compacted, and compare it with every\n"
    "account's balance and holds.\n"
    "Exit status 1 on any difference.",
    {
	{"--link", "N:LINK", "link", CMD_TEXT, false,
	    "a former audit's \"head\" and \"link\" (--json), which must still hold"},
	{0},
    },
    audit,
};
