/*
 * Process titles: the kernel shows what stands where argv stood at exec.  Any process.
 *
 * argv and the environment are one piece of memory; both are copied away first, so that a title
 * longer than the command line has room.  Where the last byte of argv's part is not NUL any more
 * the kernel goes on reading into the environment's.
 */
#include "daemon/title.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "daemon/log.h"

static char *area;
static size_t area_len;

/* What stood there.  Kept here too: who unsets a variable takes away the last pointer to it. */
static char *copy;

/* A string of the area, where it stands now. */
static char *
moved(char *text)
{
	return text >= area && text < area + area_len ? copy + (text - area) : text;
}

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
	for (int i = 0; environ && environ[i] == end; i++)
		end += strlen(environ[i]) + 1;
	area = argv[0];
	area_len = (size_t)(end - area);
	copy = malloc(area_len);
	if (!copy)
		fatal("arguments");
	memcpy(copy, area, area_len);
	for (int i = 0; i < argc; i++)
		argv[i] = moved(argv[i]);
	for (int i = 0; environ && environ[i]; i++)
		environ[i] = moved(environ[i]);
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
