#ifndef DAEMON_LOG_H
#define DAEMON_LOG_H

/*
 * Log lines to stderr, one write each, logfmt or JSON:
 *   time=2026-11-20T10:00:00.123Z level=info proc=worker-1 msg="stream ended" account=alice ...
 * Fields come as key/value pairs of strings, ended by NULL; a pair whose value is NULL is left
 * out.  Values may be any bytes; what is not printable UTF-8 is escaped.  A line is at most
 * LOG_LINE_MAX bytes; a longer one is cut and ends with cut=true.  Never pass a secret or a
 * message's text.  Any process; async-signal-unsafe.
 */
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>

#define LOG_LINE_MAX 8192

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };
enum log_format { LOG_LOGFMT, LOG_JSON };

void log_init(const char *proc, enum log_format, enum log_level);
void log_set_proc(const char *proc); /* after fork: "worker-1", "keeper", "admin" */
/* The level of this process and of all that were forked since log_init; takes effect at once. */
void log_set_level(enum log_level);
/* The form of this process's lines. */
void log_set_format(enum log_format);
/* Would a line of this level be written?  (To save the work of preparing one.) */
bool log_enabled(enum log_level);

/* A line with fields: log_event(LOG_INFO, "account created", "account", id, NULL). */
void log_event(enum log_level, const char *msg, ...) __attribute__((sentinel));
/* Free text, OpenBSD's names: warn adds errno, the x ones don't; fatal exits with 1. */
void log_info(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_warn(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_warnx(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void fatal(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));
void fatalx(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));

#endif
