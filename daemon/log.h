#ifndef DAEMON_LOG_H
#define DAEMON_LOG_H

/*
 * Log lines to stderr, one write each, logfmt or JSON:
 *   time=2026-11-20T10:00:00.123Z level=info proc=worker-1 msg="stream ended" account=alice ...
 * Fields come as key/value pairs of strings, ended by NULL; a pair whose value is NULL is left
 * out.  Values may be any bytes; what is not printable UTF-8 is escaped.  A line is at most
 * LOG_LINE_MAX bytes; a longer one is cut and ends with cut=true.  Never pass a secret or a
 * message's text.  Any process; async-signal-unsafe.
 *
 * A warning or an error that comes again and again is not: after LOG_REPEATS of the same message
 * within LOG_REPEAT_S seconds the process counts the others, and says how many they were.
 *
 * Where else lines go: log_file.h, log_journal.h.
 */
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LOG_LINE_MAX 8192
#define LOG_FIELDS_MAX 48
#define LOG_REPEATS 20
#define LOG_REPEAT_S 10
#define LOG_MODULES_MAX 16
#define LOG_MODULE_LEN 32

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };
enum log_format { LOG_LOGFMT, LOG_JSON };

/* A level of its own for files of the source whose name begins with this: "upstream", "settle". */
struct log_module {
	char name[LOG_MODULE_LEN];
	enum log_level level;
};

void log_init(const char *proc, enum log_format, enum log_level);
void log_set_proc(const char *proc); /* after fork: "worker-1", "keeper", "admin" */
/* The level of this process and of all that were forked since log_init; takes effect at once. */
void log_set_level(enum log_level);
/* The form of this process's lines. */
void log_set_format(enum log_format);
/* The same of modules; the longest name that fits counts.  n is at most LOG_MODULES_MAX. */
void log_set_modules(const struct log_module *, size_t n);
/* Now and then: say what was counted, take a new log file.  Any line does the same. */
void log_tick(void);

/* For who has to write a line by itself (daemon/crash.c): async-signal-safe. */
const char *log_proc_name(void);
bool log_is_json(void);
int log_descriptor(void);
const char *log_prefix(void); /* of an error, for a service manager; "" for none */

/* Would a line of this level be written?  (To save the work of preparing one.) */
#define log_enabled(level) log_enabled_at(__FILE__, level)
/* A line with fields: log_event(LOG_INFO, "account created", "account", id, NULL). */
#define log_event(level, ...) log_event_at(__FILE__, level, __VA_ARGS__)
/* Free text, OpenBSD's names: warn adds errno, the x ones don't; fatal exits with 1. */
#define log_info(...) log_text_at(__FILE__, LOG_INFO, false, __VA_ARGS__)
#define log_warn(...) log_text_at(__FILE__, LOG_WARN, true, __VA_ARGS__)
#define log_warnx(...) log_text_at(__FILE__, LOG_WARN, false, __VA_ARGS__)
void fatal(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));
void fatalx(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));

bool log_enabled_at(const char *file, enum log_level);
void log_event_at(const char *file, enum log_level, const char *msg, ...)
    __attribute__((sentinel));
void log_text_at(const char *file, enum log_level, bool with_errno, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* Another way out than stderr. */
struct log_field {
	const char *key, *value;
};
struct log_sink {
	/* Take a line; false: it goes to stderr, behind the prefix of a service manager. */
	bool (*take)(enum log_level, const char *module, const char *msg, const struct log_field *,
	    size_t fields);
	/* Before each line, and at log_tick. */
	void (*ready)(void);
};
extern struct log_sink log_sink;
/* "msg key=value …", logfmt without the head; cut to the size, with a NUL. */
void log_format_message(char *to, size_t size, const char *msg, const struct log_field *, size_t n);

#endif
