/*
 * tollctl backup
 */
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <unistd.h>

#include "admin/tollctl.h"

static enum ctl_exit
backup(struct ctl *ctl, const struct command *c)
{
	char here[PATH_MAX], dir[2 * PATH_MAX];
	const msgpack_object *result;

	/* The daemon is somewhere else. */
	if (ctl->given[0][0] != '/') {
		if (getcwd(here, sizeof here) == NULL) {
			perror("tollctl: the working directory");
			return CTL_USAGE;
		}
		(void)snprintf(dir, sizeof dir, "%s/%s", here, ctl->given[0]);
		ctl->given[0] = dir;
	}
	progress_begin(ctl, "backup.progress", "bytes", "MiB", 1 << 20);
	result = ctl_call(ctl, c, NULL);
	progress_end(ctl);
	if (result == NULL)
		return ctl->exit;
	if (ctl->json) {
		print_json(result);
		(void)printf("\n");
	} else
		(void)printf("%" PRId64 " records, %" PRId64 " bytes in %s\n",
		    proto_get_int(result, "records", 0), proto_get_int(result, "bytes", 0),
		    ctl->given[0]);
	return CTL_DONE;
}

const struct command cmd_backup = {
    "backup", "backup.run",
    "Copy the journal and the keys' secret, as they are at one moment, while the daemon goes on.\n"
    "Keep the copy as secret as the original.",
    {
	{"DIR", NULL, "dir", CMD_TEXT, true,
	    "a new or empty folder on the daemon's host, which the daemon's user may write to"},
	{0},
    },
    backup,
};
