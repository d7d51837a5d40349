/*
 * tolld's command line.  What it starts in the foreground is the master (master.c).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/config.h"
#include "daemon/crash.h"
#include "daemon/master.h"
#include "daemon/sandbox.h"
#include "daemon/secret.h"
#include "daemon/title.h"

#define DEFAULT_CONFIG "/etc/tolld/tolld.conf"

static const char usage[] =
    "usage: tolld [-c FILE] [-t] [-V] [-h]\n"
    "  -c FILE  read this config (default: " DEFAULT_CONFIG ")\n"
    "  -t       check the config and exit\n"
    "  -V       print the version and exit\n"
    "  -h       print this and exit\n"
    "Runs in the foreground and logs to stderr.  Signals: TERM drains and exits, INT and QUIT\n"
    "settle and exit now, HUP applies changed log levels, USR1 opens log_file anew.\n";

static int
check(const char *path)
{
	struct config *config = config_load(path, stderr);
	char sandbox[64];
	if (!config)
		return 1;
	sandbox_describe(config, sandbox, sizeof(sandbox));
	printf("%s: ok\nsandbox: %s\n", path, sandbox);
	config_free(config);
	return fflush(stdout) == 0 ? 0 : 1;
}

static int
misused(void)
{
	fputs(usage, stderr);
	return 2;
}

int
main(int argc, char **argv)
{
	const char *path = DEFAULT_CONFIG;
	int check_only = 0, option;
	struct config *config;

	title_init(argc, argv);
	while ((option = getopt(argc, argv, "c:tVh")) != -1) {
		switch (option) {
		case 'c':
			path = optarg;
			break;
		case 't':
			check_only = 1;
			break;
		case 'V':
			puts("tolld " TOLLD_VERSION);
			return fflush(stdout) == 0 ? 0 : 1;
		case 'h':
			fputs(usage, stdout);
			return fflush(stdout) == 0 ? 0 : 1;
		default:
			return misused();
		}
	}
	if (optind < argc) {
		fprintf(stderr, "tolld: what is \"%s\"?\n", argv[optind]);
		return misused();
	}
	if (check_only)
		return check(path);
	secret_no_core();
	crash_init();
	config = config_load(path, stderr);
	if (!config)
		return 1;
	return master_run(config);
}
