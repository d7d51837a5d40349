/*
 * tolld's command line.  What it starts in the foreground is the master (master.c).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/config.h"
#include "daemon/config_record.h"
#include "daemon/legacy.h"
#include "daemon/crash.h"
#include "daemon/master.h"
#include "daemon/sandbox.h"
#include "daemon/secret.h"
#include "daemon/takeover.h"
#include "daemon/title.h"

#define DEFAULT_CONFIG "/etc/tolld/tolld.conf"

static const char usage[] =
    "usage: tolld [-c FILE] [-t] [-V] [-h]\n"
    "  -c FILE  read this config (default: " DEFAULT_CONFIG ")\n"
    "  -t       check the config and exit\n"
    "  -V       print the version and exit\n"
    "  -h       print this and exit\n"
    "Runs in the foreground and logs to stderr.  Signals: TERM drains and exits, INT and QUIT\n"
    "settle and exit now, HUP reads the config again, USR1 opens log_file anew, USR2 puts the\n"
    "program that is at its path now in its place.\n";

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
	const char *abi = NULL;
	int legacy = legacy_given(); /* before the environment is copied */
	int record;
	struct config *config;

	title_init(argc, argv);
	while ((option = getopt(argc, argv, "c:tU:Vh")) != -1) {
		switch (option) {
		case 'c':
			path = optarg;
			break;
		case 't':
			check_only = 1;
			break;
		case 'U': /* asked by another program (daemon/takeover.h), so not in the usage */
			abi = optarg;
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
	if (abi)
		return takeover_answer(abi, path);
	crash_init();
	takeover_program(argv);
	if (legacy >= 0)
		return master_resume(path, legacy);
	record = config_record_new();
	config = config_record_load(record, path, stderr);
	if (!config)
		return 1;
	return master_run(config, record);
}
