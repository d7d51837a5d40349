/*
 * Process titles: the kernel shows what stands where argv stood at exec.  Any process.
 *
 * argv and the environment are one piece of memory; both are copied away first, so that a title
 * longer than the command line has room.  Where the last byte of argv's part is not NUL any more
 * the kernel goes on reading into the environment's.
 */
#include "daemon/title.h"

#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "daemon/log.h"

static char *area;
static size_t area_len;

void
title_init(int argc, char **argv)
{
	char *end;
	if (argc < 1 || !argv[0])
		return;
	end = argv[0];
	for (int i = 0; i < argc; i++)
		if (argv[i] == end)
			end += strlen(argv[i]) + 1;
	for (int i = 0; environ && environ[i]; i++) {
		char *copy;
		if (environ[i] != end)
			break;
		end += strlen(environ[i]) + 1;
		copy = strdup(environ[i]);
		if (!copy)
			fatal("environment");
		environ[i] = copy;
	}
	area = argv[0];
	area_len = (size_t)(end - argv[0]);
	for (int i = 0; i < argc; i++) {
		argv[i] = strdup(argv[i]);
		if (!argv[i])
			fatal("arguments");
	}
}

void
title_set(const char *title)
{
	prctl(PR_SET_NAME, title); /* ps -o comm, top: its first 15 bytes */
	if (!area)
		return;
	memset(area, 0, area_len);
	snprintf(area, area_len, "%s", title);
}
