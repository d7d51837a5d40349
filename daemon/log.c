/*
 * Log lines to stderr: logfmt or JSON, one write(2) each.  Any process.
 *
 * A line is built in a buffer on the stack, so logging cannot fail for want of memory, and goes
 * out in one write, so lines of several processes do not mix.  Text is appended in whole units
 * (a character or its escape): a line that is cut is still well-formed.
 */
#include "daemon/log.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "daemon/utf8.h"

#define CUT_LOGFMT "\" cut=true\n"
#define CUT_JSON "\",\"cut\":\"true\"}\n"
#define TAIL_ROOM 24 /* for either of these */

struct line {
	char text[LOG_LINE_MAX];
	size_t len;
	bool json, cut;
};

static const char *const level_name[] = { "debug", "info", "warn", "error" };

static char log_proc[32] = "tolld";
static enum log_format log_format_now = LOG_LOGFMT;

/*
 * The level stands in memory that forked processes share, so that the master can change it for
 * all of them.  A lone word, read relaxed: nothing else depends on it.
 */
static _Atomic int level_private = LOG_INFO;
static _Atomic int *level_now = &level_private;

void
log_init(const char *proc, enum log_format format, enum log_level level)
{
	if (level_now == &level_private) {
		void *page = mmap(NULL, sizeof(*level_now), PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		if (page != MAP_FAILED)
			level_now = page;
	}
	log_format_now = format;
	log_set_proc(proc);
	log_set_level(level);
}

void
log_set_proc(const char *proc)
{
	snprintf(log_proc, sizeof(log_proc), "%s", proc);
}

void
log_set_level(enum log_level level)
{
	atomic_store_explicit(level_now, (int)level, memory_order_relaxed);
}

void
log_set_format(enum log_format format)
{
	log_format_now = format;
}

bool
log_enabled(enum log_level level)
{
	return (int)level >= atomic_load_explicit(level_now, memory_order_relaxed);
}

/* Append a whole unit, or mark the line as cut; after that nothing more is taken. */
static void
put(struct line *l, const char *unit, size_t len)
{
	if (l->cut || l->len + len > sizeof(l->text) - TAIL_ROOM) {
		l->cut = true;
		return;
	}
	memcpy(l->text + l->len, unit, len);
	l->len += len;
}

static void
put_text(struct line *l, const char *text)
{
	put(l, text, strlen(text));
}

/* C0, DEL and C1 controls: they must reach neither a terminal nor a line-based reader. */
static bool
is_control(const char *p, size_t len)
{
	unsigned char c = (unsigned char)p[0];
	return c < 0x20 || c == 0x7f || (len == 2 && c == 0xc2 && (unsigned char)p[1] < 0xa0);
}

/* A control character as JSON escapes it; logfmt's readers understand that too. */
static void
put_control(struct line *l, const char *p, size_t len)
{
	char unit[8];
	switch (*p) {
	case '\n':
		put(l, "\\n", 2);
		break;
	case '\r':
		put(l, "\\r", 2);
		break;
	case '\t':
		put(l, "\\t", 2);
		break;
	default: /* of the two-byte ones the second byte is the code point */
		snprintf(unit, sizeof(unit), "\\u%04x", (unsigned)(unsigned char)p[len - 1]);
		put(l, unit, 6);
	}
}

/* The inside of a quoted string. */
static void
put_escaped(struct line *l, const char *p)
{
	while (*p && !l->cut) {
		size_t bad, n = utf8_char(p, strnlen(p, 4), &bad);
		if (n == 0) {
			put(l, UTF8_REPLACEMENT, 3);
			n = bad;
		} else if (*p == '"' || *p == '\\') {
			put(l, *p == '"' ? "\\\"" : "\\\\", 2);
		} else if (is_control(p, n)) {
			put_control(l, p, n);
		} else {
			put(l, p, n);
		}
		p += n;
	}
}

/* May it stand in logfmt without quotes? */
static bool
is_bare(const char *p)
{
	if (!*p)
		return false;
	while (*p) {
		size_t bad, n = utf8_char(p, strnlen(p, 4), &bad);
		if (n == 0 || strchr(" \"=\\", *p) || is_control(p, n))
			return false;
		p += n;
	}
	return true;
}

static void
put_field(struct line *l, const char *key, const char *value)
{
	size_t before = l->len;
	/* A bare value that has to be cut needs quotes as well, to hold the cut's mark off. */
	bool quoted = l->json || !is_bare(value) ||
	    l->len + strlen(key) + strlen(value) + 2 > sizeof(l->text) - TAIL_ROOM;
	if (l->json)
		put_text(l, l->len ? ",\"" : "{\"");
	else if (l->len)
		put_text(l, " ");
	put_text(l, key);
	put_text(l, l->json ? "\":\"" : quoted ? "=\"" : "=");
	if (l->cut) { /* not even its key fits: leave the field out */
		l->len = before;
		return;
	}
	put_escaped(l, value);
	if (quoted && !l->cut)
		put(l, "\"", 1);
}

static void
finish(struct line *l, bool inside)
{
	const char *tail = l->json ? "}\n" : "\n";
	if (l->cut)
		tail = (l->json ? CUT_JSON : CUT_LOGFMT) + (inside ? 0 : 1);
	memcpy(l->text + l->len, tail, strlen(tail)); /* TAIL_ROOM is kept for it */
	l->len += strlen(tail);
}

static void
start(struct line *l, enum log_level level, const char *msg)
{
	struct timespec now;
	struct tm tm;
	char stamp[40], with_ms[48];

	l->len = 0;
	l->cut = false;
	l->json = log_format_now == LOG_JSON;
	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &tm);
	strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(with_ms, sizeof(with_ms), "%s.%03dZ", stamp, (int)(now.tv_nsec / 1000000));
	put_field(l, "time", with_ms);
	put_field(l, "level", level_name[level]);
	put_field(l, "proc", log_proc);
	put_field(l, "msg", msg);
}

/*
 * A reader that stopped reading must not stop the daemon: where stderr does not take the line
 * (EAGAIN, a closed pipe) it is lost.
 */
static void
send_line(const struct line *l)
{
	int saved = errno;
	ssize_t n;
	do
		n = write(STDERR_FILENO, l->text, l->len);
	while (n < 0 && errno == EINTR);
	errno = saved;
}

void
log_event(enum log_level level, const char *msg, ...)
{
	if (!log_enabled(level))
		return;

	struct line l;
	va_list ap;
	const char *key;
	bool inside;
	start(&l, level, msg);
	inside = l.cut;
	va_start(ap, msg);
	while (!l.cut && (key = va_arg(ap, const char *))) {
		const char *value = va_arg(ap, const char *);
		size_t before = l.len;
		if (!value)
			continue;
		put_field(&l, key, value);
		inside = l.cut && l.len > before; /* the cut fell into this value */
	}
	va_end(ap);
	finish(&l, inside);
	send_line(&l);
}

__attribute__((format(printf, 3, 0))) static void
log_text(enum log_level level, int with_errno, const char *fmt, va_list ap)
{
	char msg[LOG_LINE_MAX];
	int n;
	if (!log_enabled(level))
		return;
	n = vsnprintf(msg, sizeof(msg), fmt, ap);
	if (with_errno && n >= 0 && (size_t)n < sizeof(msg))
		snprintf(msg + n, sizeof(msg) - (size_t)n, ": %s", strerror(with_errno));
	log_event(level, msg, NULL);
}

void
log_info(const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	log_text(LOG_INFO, 0, fmt, ap);
	va_end(ap);
}

void
log_warn(const char *fmt, ...)
{
	int error = errno;
	va_list ap;
	va_start(ap, fmt);
	log_text(LOG_WARN, error, fmt, ap);
	va_end(ap);
}

void
log_warnx(const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	log_text(LOG_WARN, 0, fmt, ap);
	va_end(ap);
}

void
fatal(const char *fmt, ...)
{
	int error = errno;
	va_list ap;
	va_start(ap, fmt);
	log_text(LOG_ERROR, error, fmt, ap);
	va_end(ap);
	exit(1);
}

void
fatalx(const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	log_text(LOG_ERROR, 0, fmt, ap);
	va_end(ap);
	exit(1);
}
