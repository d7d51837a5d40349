/*
 * tollctl journal | export
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "admin/tollctl.h"
#include "shm/money.h"

enum form { FORM_TEXT, FORM_JSON, FORM_CSV };

static enum form form;
static bool array, first, progress;

/* All fields that some record has, in the order of the columns. */
static const char *const columns[] = {"sequence", "time", "type", "account", "slot", "op", "amount",
    "total", "uncollected", "price", "prompt", "cached", "cache_write", "completion", "reasoning",
    "outcome", "model", "kind",
    "session_id", "message_id", "ref", "reason", "key_id", "label", "expires_at", "overdraft",
    "rpm", "tpm", "streams", "budget_day", "budget_month", "status", "price_prompt", "price_cached",
	    "price_cache_write",
    "price_completion", "price_reasoning", "price_request",
    "covers", "link", "hash", "provider", "attempts", "opened_ms", "first_token_ms", "counted_by",
    "short_of", NULL};

static void
print_us(int64_t us)
{
	time_t t = (time_t)(us / 1000000);
	char text[32];
	struct tm tm;

	if (gmtime_r(&t, &tm) == NULL || strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &tm) == 0)
		(void)printf("%" PRId64, us);
	else
		(void)printf("%s.%06dZ", text, (int)(us % 1000000));
}

static bool
is(const msgpack_object *key, const char *name)
{
	return key->type == MSGPACK_OBJECT_STR && key->via.str.size == strlen(name) &&
	       memcmp(key->via.str.ptr, name, key->via.str.size) == 0;
}

static void
print_number(const char *key, int64_t v)
{
	char text[MONEY_TEXT_MAX];

	if (print_is_money(key, strlen(key))) {
		(void)money_format(text, v);
		(void)fputs(text, stdout);
	} else
		(void)printf("%" PRId64, v);
}

static void
json_record(const msgpack_object *record)
{
	(void)fputs(array && !first ? ",{" : "{", stdout);
	for (uint32_t i = 0; i < record->via.map.size; i++) {
		const msgpack_object_kv *kv = &record->via.map.ptr[i];
		int64_t us;

		(void)fputs(i > 0 ? "," : "", stdout);
		if (is(&kv->key, "time_us") && proto_int(&kv->val, &us)) {
			(void)fputs("\"time\":\"", stdout);
			print_us(us);
			(void)putchar('"');
		} else
			print_json_pair(kv);
	}
	(void)fputs(array ? "}" : "}\n", stdout);
}

/* RFC 4180. */
static void
csv_text(const char *text, size_t len)
{
	if (memchr(text, '"', len) == NULL && memchr(text, ',', len) == NULL) {
		(void)fwrite(text, 1, len, stdout);
		return;
	}
	(void)putchar('"');
	for (size_t i = 0; i < len; i++) {
		if (text[i] == '"')
			(void)putchar('"');
		(void)putchar(text[i]);
	}
	(void)putchar('"');
}

static void
csv_record(const msgpack_object *record)
{
	for (int i = 0; columns[i] != NULL; i++) {
		const msgpack_object *o = proto_get(record, columns[i]);
		int64_t v;

		(void)fputs(i > 0 ? "," : "", stdout);
		if (strcmp(columns[i], "time") == 0)
			print_us(proto_get_int(record, "time_us", 0));
		else if (o != NULL && o->type == MSGPACK_OBJECT_STR)
			csv_text(o->via.str.ptr, o->via.str.size);
		else if (proto_int(o, &v))
			print_number(columns[i], v);
	}
	(void)fputs("\r\n", stdout);
}

static void
text_record(const msgpack_object *record)
{
	size_t len;
	const char *text;

	(void)printf("%" PRId64 " ", proto_get_int(record, "sequence", 0));
	print_us(proto_get_int(record, "time_us", 0));
	text = proto_get_text(record, "type", &len);
	(void)printf(" %-11.*s ", (int)len, text);
	text = proto_get_text(record, "account", &len);
	if (len == 0)
		(void)putchar('-');
	print_text(text, len);
	for (int i = 4; columns[i] != NULL; i++) {
		const msgpack_object *o = proto_get(record, columns[i]);
		int64_t v;

		if (o == NULL)
			continue;
		(void)printf(" %s=", columns[i]);
		if (o->type == MSGPACK_OBJECT_STR && (memchr(o->via.str.ptr, ' ', o->via.str.size) ||
		    memchr(o->via.str.ptr, '"', o->via.str.size)))
			print_json_text(o->via.str.ptr, o->via.str.size);
		else if (o->type == MSGPACK_OBJECT_STR)
			print_text(o->via.str.ptr, o->via.str.size);
		else if (proto_int(o, &v) && strcmp(columns[i], "expires_at") == 0)
			print_time(v);
		else if (proto_int(o, &v))
			print_number(columns[i], v);
	}
	(void)putchar('\n');
}

static void
notified(struct ctl *ctl, const char *method, size_t len, const msgpack_object *record)
{
	(void)ctl;
	if (progress && len == strlen("journal.progress") &&
	    memcmp(method, "journal.progress", len) == 0)
		progress_show(proto_get_int(record, "sequence", 0), proto_get_int(record, "of", 0));
	if (len != strlen("journal.record") || memcmp(method, "journal.record", len) != 0 ||
	    record == NULL || record->type != MSGPACK_OBJECT_MAP)
		return;
	if (form == FORM_JSON)
		json_record(record);
	else if (form == FORM_CSV)
		csv_record(record);
	else
		text_record(record);
	first = false;
}

/* Was there more once of what was asked for? */
static void
say_first(const msgpack_object *result, bool since_given, int64_t since)
{
	int64_t number = proto_get_int(result, "first", 1);
	int64_t at = proto_get_int(result, "compacted_at", 0);
	char text[32];
	time_t t = (time_t)at;
	struct tm tm;

	if (number <= 1 || (since_given && since > at) || gmtime_r(&t, &tm) == NULL ||
	    strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &tm) == 0)
		return;
	(void)fprintf(stderr, "tollctl: the journal begins with record %" PRId64 "; the records "
	    "up to %s were compacted\n", number, text);
}

/* All pages; with "follow" there is always a next one. */
static enum ctl_exit
walk(struct ctl *ctl, const struct command *c, int since, bool follow)
{
	enum ctl_exit status = CTL_DONE;
	int64_t next = 0;

	/* Where the records do not go to a terminal themselves, and there is an end to reach. */
	progress = isatty(STDOUT_FILENO) == 0 && !follow;
	progress_begin(ctl, "journal.progress", "sequence", "records", 1);
	ctl->notified = notified;
	first = true;
	while (next >= 0) {
		const msgpack_object *result = ctl_call(ctl, c, &next);

		if (result == NULL) {
			status = ctl->exit;
			break;
		}
		if (next == 0)
			say_first(result, ctl->given[since] != NULL, ctl->number[since]);
		next = proto_get_int(result, "next", -1);
		if (progress && next >= 0)
			progress_show(next, proto_get_int(result, "last", 0));
		/* Who reads us through a pipe wants it now; and who has gone ends it. */
		if (fflush(stdout) != 0)
			break;
	}
	if (progress)
		progress_end(ctl);
	return status;
}

static enum ctl_exit
journal(struct ctl *ctl, const struct command *c)
{
	enum ctl_exit status;

	form = ctl->json ? FORM_JSON : FORM_TEXT;
	/* What is followed has no end, so no array: an object a line. */
	array = ctl->json && ctl->given[2] == NULL;
	if (array)
		(void)putchar('[');
	status = walk(ctl, c, 1, ctl->given[2] != NULL);
	if (array)
		(void)fputs("]\n", stdout);
	return status;
}

#define ACCOUNT                                                                                    \
	{                                                                                          \
		"--account", "ID", "account", CMD_TEXT, false, "only this account's"               \
	}
#define SINCE                                                                                      \
	{                                                                                          \
		"--since", "T", "since", CMD_TIME, false,                                          \
		    "2026-11-21, 2026-11-21T08:30:00Z (UTC), seconds since 1970, or 90s, 15m, "    \
		    "1h, 7d ago"                                                                   \
	}

const struct command cmd_journal = {
    "journal", "journal.read",
    "Print the journal's records, oldest first.  With --json an array, or with --follow too an\n"
    "object a line.",
    {
	ACCOUNT,
	SINCE,
	{"--follow", NULL, "follow", CMD_FLAG, false, "go on with new ones as they come"},
	{0},
    },
    journal,
};

static enum ctl_exit
export(struct ctl *ctl, const struct command *c)
{
	if (strcmp(ctl->given[0], "csv") == 0)
		form = FORM_CSV;
	else if (strcmp(ctl->given[0], "jsonl") == 0)
		form = FORM_JSON;
	else {
		(void)fprintf(stderr, "tollctl: export: --format is to be csv or jsonl\n");
		return CTL_USAGE;
	}
	for (int i = 0; form == FORM_CSV && columns[i] != NULL; i++)
		(void)printf("%s%s", columns[i], columns[i + 1] != NULL ? "," : "\r\n");
	return walk(ctl, c, 2, false);
}

const struct command cmd_export = {
    "export", "journal.read",
    "Write all records of the journal to the standard output, money in credits.  The texts of\n"
    "chats are not in it.",
    {
	{"--format", "csv|jsonl", NULL, CMD_TEXT, true, "a table (RFC 4180), or an object a line"},
	ACCOUNT,
	SINCE,
	{0},
    },
    export,
};
