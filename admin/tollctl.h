#ifndef ADMIN_TOLLCTL_H
#define ADMIN_TOLLCTL_H

/*
 * tollctl: what its files share.  A new command: a struct command in a cmd-*.c, copied from a
 * neighbour, and its name in the table of tollctl.c; help, usage and parsing follow from it.
 */
#include <stdbool.h>
#include <stdint.h>

#include "admin/proto.h"

enum ctl_exit {
	CTL_DONE = 0,
	CTL_REFUSED = 1,     /* by the daemon; audit: a difference */
	CTL_USAGE = 2,
	CTL_UNREACHABLE = 3, /* no daemon, or it fell silent */
};

enum cmd_type {
	CMD_TEXT,
	CMD_MONEY,    /* decimal credits; travels as micro-credits */
	CMD_COUNT,    /* an integer, not below 0 */
	CMD_DURATION, /* 90s, 15m, 1h, 7d, or seconds; travels as seconds */
	CMD_TIME,     /* a time, or how long ago; travels as seconds since 1970 */
	CMD_FLAG,     /* an option without a value; travels as true */
	CMD_FILES,    /* all that is left, in ctl->files; stays here */
};

#define CMD_ARGS_MAX 16

struct cmd_arg {
	const char *name;  /* "ID": by position; "--ref": an option.  NULL ends a list */
	const char *value; /* of an option, for the usage: "REF" */
	const char *key;   /* its name on the wire; NULL: it is for tollctl alone */
	enum cmd_type type;
	bool required;
	const char *help;
};

struct ctl;

struct command {
	const char *name; /* one or two words */
	const char *method;
	const char *help;
	struct cmd_arg args[CMD_ARGS_MAX];
	enum ctl_exit (*run)(struct ctl *, const struct command *);
};

struct ctl {
	const char *socket;
	bool json;
	const char *given[CMD_ARGS_MAX]; /* argument i as it was written, or NULL */
	int64_t number[CMD_ARGS_MAX];    /* and what it means, if it is not text */
	char *const *files; /* of CMD_FILES */
	int file_count;
	int fd;                          /* -1 until the first call */
	uint32_t id;
	char *in; /* what was read; messages point into it */
	size_t in_len, in_cap, in_used;
	struct proto_message answer; /* of the last call */
	bool has_answer;
	enum ctl_exit exit; /* why the last call has no result */
	/* Told of notifications during a call.  May be NULL. */
	void (*notified)(struct ctl *, const char *method, size_t len, const msgpack_object *args);
};

/*
 * Call a method with the command's arguments and, if page is not NULL, that integer as "after".
 * The result, valid until the next call; or NULL after having said why, with ctl->exit set.
 */
const msgpack_object *ctl_call(struct ctl *, const struct command *, const int64_t *page)
    __attribute__((warn_unused_result));
void ctl_close(struct ctl *);

/* For commands whose result is one object and whose --json is that object. */
enum ctl_exit ctl_show(struct ctl *, const struct command *);

/* Printing, admin/print.c.  Fields whose name says so are money: print_is_money. */
bool print_is_money(const char *key, size_t len);
void print_json(const msgpack_object *);
void print_json_text(const char *, size_t);
void print_json_pair(const msgpack_object_kv *);
void print_time(int64_t unix_seconds); /* as ISO 8601, UTC */
/* Text for a terminal: control characters become '?'. */
void print_text(const char *, size_t);
/* The fields of an object, one a line. */
void print_object(const msgpack_object *);

/*
 * admin/progress.c: until progress_end, show notifications of this method on a terminal as
 * "<done> of <of> <unit>", both numbers divided.
 */
void progress_begin(struct ctl *, const char *method, const char *done, const char *unit,
    int64_t divide);
void progress_end(struct ctl *);
/* The same without a notification. */
void progress_show(int64_t done, int64_t of);

/*
 * Lists: pages of {list_key: [objects], "next"} are fetched until there is no next.  With --json
 * one array, else a table with these columns.
 */
struct column {
	const char *key, *title; /* key NULL ends a list */
	bool right;
};
enum ctl_exit print_pages(struct ctl *, const struct command *, const char *list_key,
    const struct column *);
/* The same for a result that is the array itself. */
void print_table(const msgpack_object *array, const struct column *);

extern const struct command cmd_account_create, cmd_account_show, cmd_account_list;
extern const struct command cmd_account_set, cmd_account_close;
extern const struct command cmd_topup, cmd_adjust;
extern const struct command cmd_key_create, cmd_key_list, cmd_key_revoke;
extern const struct command cmd_price_list, cmd_price_set, cmd_price_reset;
extern const struct command cmd_hold_list, cmd_hold_void, cmd_stream_list, cmd_stream_cancel;
extern const struct command cmd_journal, cmd_export, cmd_backup, cmd_compact;
extern const struct command cmd_tokens, cmd_tokenizer_build;
extern const struct command cmd_reload, cmd_drain;
extern const struct command cmd_stats, cmd_top, cmd_workers, cmd_audit, cmd_ping, cmd_version;

#endif
