/*
 * tollctl: the operator's command line.  Finds the command, checks its arguments, runs it.
 */
#include "admin/tollctl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "shm/money.h"

#define DEFAULT_SOCKET "/run/tolld/admin.sock"

static const struct command *const commands[] = {
    &cmd_account_create,
    &cmd_account_show,
    &cmd_account_list,
    &cmd_account_set,
    &cmd_account_close,
    &cmd_topup,
    &cmd_adjust,
    &cmd_key_create,
    &cmd_key_list,
    &cmd_key_revoke,
    &cmd_price_list,
    &cmd_price_set,
    &cmd_price_reset,
    &cmd_hold_list,
    &cmd_hold_void,
    &cmd_stream_list,
    &cmd_stream_cancel,
    &cmd_stats,
    &cmd_top,
    &cmd_workers,
    &cmd_reload,
    &cmd_drain,
    &cmd_journal,
    &cmd_export,
    &cmd_audit,
    &cmd_backup,
    &cmd_compact,
    &cmd_tokens,
    &cmd_tokenizer_build,
    &cmd_ping,
    &cmd_version,
    NULL,
};

static bool
is_option(const struct cmd_arg *a)
{
	return a->name[0] == '-';
}

static void
print_synopsis(FILE *to, const struct command *c)
{
	(void)fprintf(to, "%s", c->name);
	for (const struct cmd_arg *a = c->args; a->name != NULL; a++) {
		if (!is_option(a))
			(void)fprintf(to, a->required || a->type != CMD_FILES ? " %s" : " [%s]", a->name);
		else if (a->type == CMD_FLAG)
			(void)fprintf(to, " [%s]", a->name);
		else if (a->required)
			(void)fprintf(to, " %s %s", a->name, a->value);
		else
			(void)fprintf(to, " [%s %s]", a->name, a->value);
	}
	(void)fprintf(to, "\n");
}

static void
print_command_help(const struct command *c)
{
	char left[64];

	(void)printf("usage: tollctl [-s SOCKET] [--json] ");
	print_synopsis(stdout, c);
	(void)printf("\n%s\n", c->help);
	if (c->args[0].name != NULL)
		(void)printf("\n");
	for (const struct cmd_arg *a = c->args; a->name != NULL; a++) {
		(void)snprintf(left, sizeof left, "%s%s%s", a->name, a->value != NULL ? " " : "",
		    a->value != NULL ? a->value : "");
		(void)printf("  %-18s %s\n", left, a->help);
	}
}

static void
print_help(FILE *to)
{
	(void)fprintf(to, "usage: tollctl [-s SOCKET] [--json] COMMAND ...\n\n");
	for (int i = 0; commands[i] != NULL; i++) {
		(void)fprintf(to, "  ");
		print_synopsis(to, commands[i]);
	}
	(void)fprintf(to,
	    "  help [COMMAND]\n\n"
	    "  -s SOCKET   the daemon's control socket; else $TOLLD_SOCKET, else\n"
	    "              " DEFAULT_SOCKET "\n"
	    "  --json      print one JSON object, or an array for lists; money in credits\n"
	    "              (help --json: this table)\n"
	    "  -V          print the version\n\n"
	    "Amounts are credits with at most six decimals.  Exit status: 0 done, 1 refused by\n"
	    "the daemon, 2 usage, 3 cannot reach it.\n");
}

static void
print_json_field(const char *key, const char *text, const char *end)
{
	(void)printf("\"%s\":", key);
	if (text == NULL)
		(void)printf("null");
	else
		print_json_text(text, strlen(text));
	(void)printf("%s", end);
}

/* The table of commands, for who makes completions or documents of it. */
static void
print_json_help(void)
{
	static const char *const types[] = {[CMD_TEXT] = "text", [CMD_MONEY] = "money",
	    [CMD_COUNT] = "count", [CMD_DURATION] = "duration", [CMD_TIME] = "time",
	    [CMD_FLAG] = "flag", [CMD_FILES] = "files"};

	for (int i = 0; commands[i] != NULL; i++) {
		(void)printf(i == 0 ? "[{" : ",\n{");
		print_json_field("command", commands[i]->name, ",");
		print_json_field("help", commands[i]->help, ",\"arguments\":[");
		for (const struct cmd_arg *a = commands[i]->args; a->name != NULL; a++) {
			(void)printf(a == commands[i]->args ? "{" : ",{");
			print_json_field("name", a->name, ",");
			print_json_field("value", a->value, ",");
			print_json_field("type", types[a->type], ",");
			(void)printf("\"required\":%s,", a->required ? "true" : "false");
			print_json_field("help", a->help, "}");
		}
		(void)printf("]}");
	}
	(void)printf("]\n");
}

/* The command that these words name, and how many of them it takes. */
static const struct command *
find_command(int argc, char **argv, int *words)
{
	char two[64] = "";

	if (argc >= 2)
		(void)snprintf(two, sizeof two, "%s %s", argv[0], argv[1]);
	for (int i = 0; commands[i] != NULL; i++) {
		*words = strchr(commands[i]->name, ' ') != NULL ? 2 : 1;
		if (argc >= *words && strcmp(commands[i]->name, *words == 2 ? two : argv[0]) == 0)
			return commands[i];
	}
	return NULL;
}

/* No such command: show those that begin with its first word, or all. */
static enum ctl_exit
unknown_command(int argc, char **argv)
{
	bool some = false;

	for (int i = 0; commands[i] != NULL; i++) {
		size_t n = strlen(argv[0]);

		if (strncmp(commands[i]->name, argv[0], n) != 0 || commands[i]->name[n] != ' ')
			continue;
		if (!some && argc >= 2)
			(void)fprintf(stderr, "tollctl: %s has no %s\n", argv[0], argv[1]);
		(void)fprintf(stderr, "%s", some ? "       tollctl " : "usage: tollctl ");
		print_synopsis(stderr, commands[i]);
		some = true;
	}
	if (!some)
		(void)fprintf(stderr, "tollctl: no command %s; see \"tollctl help\"\n", argv[0]);
	return CTL_USAGE;
}

/* 90s, 15m, 1h, 7d, or bare seconds. */
static bool
parse_duration(const char *text, int64_t *seconds)
{
	static const struct {
		char unit;
		int64_t seconds;
	} units[] = {{'s', 1}, {'m', 60}, {'h', 3600}, {'d', 86400}, {'\0', 1}};
	int64_t n = 0;
	const char *p = text;

	for (; *p >= '0' && *p <= '9'; p++) {
		n = n * 10 + (*p - '0');
		if (n > INT32_MAX)
			return false;
	}
	if (p == text || (*p != '\0' && p[1] != '\0'))
		return false;
	for (size_t i = 0; i < sizeof units / sizeof units[0]; i++)
		if (*p == units[i].unit) {
			*seconds = n * units[i].seconds;
			return true;
		}
	return false;
}

static bool
parse_count(const char *text, int64_t *n)
{
	const char *p = text;

	for (*n = 0; *p >= '0' && *p <= '9' && *n <= UINT32_MAX; p++)
		*n = *n * 10 + (*p - '0');
	return p != text && *p == '\0';
}

/* 2026-11-21, 2026-11-21T08:30[:00][Z], seconds since 1970, or a duration with its unit: ago. */
static bool
parse_time(const char *text, int64_t *seconds)
{
	static const char *const forms[] = {"%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M"};
	size_t digits = strspn(text, "0123456789");

	if (digits > 0 && digits < 13 && text[digits] == '\0') {
		*seconds = strtoll(text, NULL, 10);
		return true;
	}
	if (parse_duration(text, seconds)) {
		*seconds = (int64_t)time(NULL) - *seconds;
		return *seconds >= 0;
	}
	for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
		struct tm tm = {0};
		const char *end = strptime(text, forms[i], &tm);

		if (end == NULL || (*end != '\0' && (i == 0 || strcmp(end, "Z") != 0)))
			continue;
		*seconds = (int64_t)timegm(&tm);
		return *seconds >= 0;
	}
	return false;
}

/* What an argument means; false after having said what is wrong. */
static bool
take_value(struct ctl *ctl, const struct command *c, int i, const char *text)
{
	const struct cmd_arg *a = &c->args[i];
	const char *want = NULL;

	if (a->type == CMD_MONEY && money_parse(text, strlen(text), &ctl->number[i]) != 0)
		want = "credits, such as 12 or 0.000001, with at most six decimals";
	else if (a->type == CMD_COUNT && !parse_count(text, &ctl->number[i]))
		want = "a number";
	else if (a->type == CMD_DURATION && !parse_duration(text, &ctl->number[i]))
		want = "a duration, such as 90s, 15m, 1h or 7d";
	else if (a->type == CMD_TIME && !parse_time(text, &ctl->number[i]))
		want = "a time, such as 2026-11-21, 2026-11-21T08:30:00Z, or 1h for an hour ago";
	else if (ctl->given[i] != NULL && a->type != CMD_FILES)
		want = "given once";
	ctl->given[i] = text;
	if (want != NULL)
		(void)fprintf(stderr, "tollctl: %s: %s is to be %s\n", c->name, a->name, want);
	return want == NULL;
}

/* --name, --name=value: the option's index, or -1. */
static int
find_option(const struct command *c, const char *word)
{
	size_t n = strcspn(word, "=");

	for (int i = 0; c->args[i].name != NULL; i++)
		if (is_option(&c->args[i]) && strlen(c->args[i].name) == n &&
		    memcmp(c->args[i].name, word, n) == 0)
			return i;
	return -1;
}

/* The next argument by position that is not there yet, or -1. */
static int
next_place(const struct ctl *ctl, const struct command *c)
{
	for (int i = 0; c->args[i].name != NULL; i++)
		if (!is_option(&c->args[i]) &&
		    (ctl->given[i] == NULL || c->args[i].type == CMD_FILES))
			return i;
	return -1;
}

static enum ctl_exit
usage(const struct command *c)
{
	(void)fprintf(stderr, "usage: tollctl ");
	print_synopsis(stderr, c);
	return CTL_USAGE;
}

static enum ctl_exit
run_command(struct ctl *ctl, const struct command *c, int argc, char **argv)
{
	bool options = true;

	ctl->files = argv;
	for (int n = 0; n < argc; n++) {
		const char *word = argv[n], *value = word;
		int i;

		if (options && strcmp(word, "--") == 0) {
			options = false;
			continue;
		}
		/* "-5" is an amount: but for a few, options have two dashes. */
		if (options && (strncmp(word, "--", 2) == 0 || find_option(c, word) >= 0)) {
			if (strcmp(word, "--help") == 0) {
				print_command_help(c);
				return CTL_DONE;
			}
			i = find_option(c, word);
			if (i < 0) {
				(void)fprintf(stderr, "tollctl: %s: no option %s\n", c->name, word);
				return usage(c);
			}
			if (c->args[i].type == CMD_FLAG && strchr(word, '=') == NULL)
				value = "";
			else if (c->args[i].type == CMD_FLAG)
				return usage(c);
			else
				value = strchr(word, '=') != NULL ? strchr(word, '=') + 1 : argv[++n];
		} else
			i = next_place(ctl, c);
		if (i < 0 || value == NULL)
			return usage(c);
		if (!take_value(ctl, c, i, value))
			return CTL_USAGE;
		/* Gathered at the front of argv, over what has been read. */
		if (c->args[i].type == CMD_FILES)
			argv[ctl->file_count++] = argv[n];
	}
	for (int i = 0; c->args[i].name != NULL; i++)
		if (c->args[i].required && ctl->given[i] == NULL) {
			(void)fprintf(
			    stderr, "tollctl: %s: %s is missing\n", c->name, c->args[i].name);
			return usage(c);
		}
	return c->run(ctl, c);
}

static enum ctl_exit
help(const struct ctl *ctl, int argc, char **argv)
{
	const struct command *c;
	int words;

	if (argc == 0) {
		if (ctl->json)
			print_json_help();
		else
			print_help(stdout);
		return CTL_DONE;
	}
	c = find_command(argc, argv, &words);
	if (c == NULL)
		return unknown_command(argc, argv);
	print_command_help(c);
	return CTL_DONE;
}

/* Global options before the command, and --json anywhere, are taken out of argv; -1, or an exit
 * status. */
static int
global_options(struct ctl *ctl, int *argc, char **argv)
{
	int kept = 0;

	for (int i = 0; i < *argc; i++) {
		if (strcmp(argv[i], "--") == 0) {
			while (i < *argc)
				argv[kept++] = argv[i++];
		} else if (strcmp(argv[i], "--json") == 0)
			ctl->json = true;
		else if (kept > 0)
			argv[kept++] = argv[i];
		else if (strcmp(argv[i], "-s") == 0 && i + 1 < *argc)
			ctl->socket = argv[++i];
		else if (strncmp(argv[i], "-s", 2) == 0 && argv[i][2] != '\0')
			ctl->socket = argv[i] + 2;
		else if (strcmp(argv[i], "-V") == 0 || strcmp(argv[i], "--version") == 0) {
			(void)printf("tollctl " TOLLD_VERSION "\n");
			return CTL_DONE;
		} else if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
			print_help(stdout);
			return CTL_DONE;
		} else if (argv[i][0] == '-') {
			(void)fprintf(stderr, "tollctl: no option %s\n", argv[i]);
			print_help(stderr);
			return CTL_USAGE;
		} else
			argv[kept++] = argv[i];
	}
	argv[kept] = NULL;
	*argc = kept;
	return -1;
}

int
main(int argc, char **argv)
{
	struct ctl ctl = {.fd = -1, .socket = getenv("TOLLD_SOCKET")};
	const struct command *c;
	enum ctl_exit status;
	int words, done;

	argc--;
	argv++;
	done = global_options(&ctl, &argc, argv);
	if (done >= 0)
		return done;
	if (ctl.socket == NULL || ctl.socket[0] == '\0')
		ctl.socket = DEFAULT_SOCKET;
	if (argc == 0) {
		print_help(stderr);
		return CTL_USAGE;
	}
	if (strcmp(argv[0], "help") == 0)
		return (int)help(&ctl, argc - 1, argv + 1);
	c = find_command(argc, argv, &words);
	status = c == NULL ? unknown_command(argc, argv)
			   : run_command(&ctl, c, argc - words, argv + words);
	ctl_close(&ctl);
	if (fflush(stdout) != 0 || ferror(stdout)) {
		perror("tollctl: stdout");
		return status != CTL_DONE ? (int)status : CTL_UNREACHABLE;
	}
	return (int)status;
}
