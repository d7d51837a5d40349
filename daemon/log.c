/*
 * Log lines to stderr: logfmt or JSON, one write(2) each.  Any process.
 *
 * A line is built in a buffer on the stack, so logging cannot fail for want of memory, and goes
 * out in one write, so lines of several processes do not mix.  Text is appended in whole units
 * (a character or its escape): a line that is cut is still well-formed.
 *
 * A message is known by its literal's address: all that one log_warn() says is one message,
 * whatever it says of whom.
 */
#include "daemon/log.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
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
 * Levels stand in memory that forked processes share, so that the master can change them for all.
 * Lone words, read relaxed: nothing else depends on them.  A name that is read while it changes
 * may be a mixture of two, for one line.
 */
struct levels {
	_Atomic int all, least; /* least: of all and of every module */
	_Atomic int modules;
	struct log_module module[LOG_MODULES_MAX];
};

static struct levels levels_private = {.all = LOG_INFO, .least = LOG_INFO};
static struct levels *levels = &levels_private;

struct log_sink log_sink;

void
log_init(const char *proc, enum log_format format, enum log_level level)
{
	if (levels == &levels_private) {
		void *page = mmap(NULL, sizeof(*levels), PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		if (page != MAP_FAILED)
			levels = page;
	}
	log_format_now = format;
	log_set_proc(proc);
	log_set_modules(NULL, 0);
	log_set_level(level);
}

/*
 * Messages that come again.  A small table is enough: who makes many different ones is not
 * repeating itself; a row that is needed for another message is given up, with what it counted.
 */
#define REPEATS_ROWS 32

static struct repeat {
	const char *msg; /* the literal; NULL: free */
	const char *file;
	enum log_level level;
	time_t since;
	unsigned seen, counted;
} repeats[REPEATS_ROWS];
static unsigned repeats_counted; /* rows that have counted something */

void
log_set_proc(const char *proc)
{
	memset(repeats, 0, sizeof(repeats)); /* they were the parent's */
	repeats_counted = 0;
	snprintf(log_proc, sizeof(log_proc), "%s", proc);
}

/* Whoever can write there might be a process that was taken over. */
static int
module_count(void)
{
	int n = atomic_load_explicit(&levels->modules, memory_order_relaxed);
	return n < 0 || n > LOG_MODULES_MAX ? 0 : n;
}

static void
set_least(void)
{
	int least = atomic_load_explicit(&levels->all, memory_order_relaxed);
	int n = module_count();
	for (int i = 0; i < n; i++)
		if ((int)levels->module[i].level < least)
			least = (int)levels->module[i].level;
	atomic_store_explicit(&levels->least, least, memory_order_relaxed);
}

void
log_set_level(enum log_level level)
{
	atomic_store_explicit(&levels->all, (int)level, memory_order_relaxed);
	set_least();
}

void
log_set_modules(const struct log_module *module, size_t n)
{
	atomic_store_explicit(&levels->modules, 0, memory_order_relaxed);
	for (size_t i = 0; i < n; i++)
		levels->module[i] = module[i];
	atomic_store_explicit(&levels->modules, (int)n, memory_order_relaxed);
	set_least();
}

/* "daemon/upstream_call.c" is "upstream_call". */
static void
module_name(const char *file, char name[static LOG_MODULE_LEN])
{
	const char *slash = strrchr(file, '/');
	size_t n;
	file = slash ? slash + 1 : file;
	n = strcspn(file, ".");
	snprintf(name, LOG_MODULE_LEN, "%.*s", (int)n, file);
}

void
log_set_format(enum log_format format)
{
	log_format_now = format;
}

bool
log_enabled_at(const char *file, enum log_level level)
{
	int found = atomic_load_explicit(&levels->all, memory_order_relaxed);
	int n = module_count();
	size_t longest = 0;
	char name[LOG_MODULE_LEN];
	if ((int)level < atomic_load_explicit(&levels->least, memory_order_relaxed))
		return false;
	if (n == 0)
		return (int)level >= found;
	module_name(file, name);
	for (int i = 0; i < n; i++) {
		size_t len = strnlen(levels->module[i].name, LOG_MODULE_LEN);
		if (len > longest && strncmp(name, levels->module[i].name, len) == 0) {
			longest = len;
			found = (int)levels->module[i].level;
		}
	}
	return (int)level >= found;
}

const char *
log_proc_name(void)
{
	return log_proc;
}

bool
log_is_json(void)
{
	return log_format_now == LOG_JSON;
}

int
log_descriptor(void)
{
	return STDERR_FILENO;
}

/* What systemd reads at the beginning of a line of stderr (sd-daemon(3)). */
static const char *
prefix_of(enum log_level level)
{
	static const char *const prefix[] = {"<7>", "<6>", "<4>", "<3>"};
	return log_sink.take ? prefix[level] : "";
}

const char *
log_prefix(void)
{
	return prefix_of(LOG_ERROR);
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
send_line(const struct line *l, const char *prefix)
{
	struct iovec out[] = {{(void *)(uintptr_t)prefix, strlen(prefix)},
	    {(void *)(uintptr_t)l->text, l->len}};
	ssize_t n;
	do
		n = *prefix ? writev(STDERR_FILENO, out, 2) : write(STDERR_FILENO, l->text, l->len);
	while (n < 0 && errno == EINTR);
}

void
log_format_message(char *to, size_t size, const char *msg, const struct log_field *field, size_t n)
{
	struct line l;
	l.len = 0;
	l.json = l.cut = false;
	put_escaped(&l, msg);
	for (size_t i = 0; i < n && !l.cut; i++)
		put_field(&l, field[i].key, field[i].value);
	snprintf(to, size, "%.*s", (int)l.len, l.text);
}

static void
write_line(enum log_level level, const char *file, const char *msg, const struct log_field *field,
    size_t n)
{
	char module[LOG_MODULE_LEN];
	struct line l;
	bool inside;
	module_name(file, module);
	if (log_sink.take && log_sink.take(level, module, msg, field, n))
		return;
	start(&l, level, msg);
	inside = l.cut;
	for (size_t i = 0; i < n && !l.cut; i++) {
		size_t before = l.len;
		put_field(&l, field[i].key, field[i].value);
		inside = l.cut && l.len > before; /* the cut fell into this value */
	}
	/* Which level would hide it. */
	if (level == LOG_DEBUG && !l.cut) {
		size_t before = l.len;
		put_field(&l, "module", module);
		inside = l.cut && l.len > before;
	}
	finish(&l, inside);
	send_line(&l, prefix_of(level));
}

static time_t
seconds(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec;
}

/* The row is over: say what it counted. */
static void
end_row(struct repeat *r)
{
	struct repeat old = *r;
	char times[16];
	*r = (struct repeat){0};
	if (old.counted == 0)
		return;
	repeats_counted--;
	snprintf(times, sizeof(times), "%u", old.counted);
	write_line(old.level, old.file, "left out what came again and again",
	    (struct log_field[]){{"of", old.msg}, {"times", times}}, 2);
}

static void
end_old_rows(time_t now)
{
	for (size_t i = 0; i < REPEATS_ROWS && repeats_counted > 0; i++)
		if (repeats[i].msg && now - repeats[i].since >= LOG_REPEAT_S)
			end_row(&repeats[i]);
}

/* Is it one too many? */
static bool
is_repeat(enum log_level level, const char *file, const char *msg)
{
	size_t at = ((uintptr_t)msg >> 3) % REPEATS_ROWS;
	struct repeat *r = &repeats[at];
	time_t now;
	if (level < LOG_WARN)
		return false;
	now = seconds();
	if (r->msg != msg || r->level != level || now - r->since >= LOG_REPEAT_S) {
		end_row(r);
		*r = (struct repeat){.msg = msg, .file = file, .level = level, .since = now};
	}
	if (r->seen++ < LOG_REPEATS)
		return false;
	repeats_counted += r->counted++ == 0;
	return true;
}

void
log_tick(void)
{
	if (log_sink.ready)
		log_sink.ready();
	if (repeats_counted > 0)
		end_old_rows(seconds());
}

void
log_event_at(const char *file, enum log_level level, const char *msg, ...)
{
	struct log_field field[LOG_FIELDS_MAX];
	int saved = errno;
	size_t n = 0;
	va_list ap;
	const char *key;
	if (!log_enabled_at(file, level))
		return;
	log_tick();
	if (!is_repeat(level, file, msg)) {
		va_start(ap, msg);
		while (n < LOG_FIELDS_MAX && (key = va_arg(ap, const char *))) {
			field[n] = (struct log_field){key, va_arg(ap, const char *)};
			n += field[n].value != NULL;
		}
		va_end(ap);
		write_line(level, file, msg, field, n);
	}
	errno = saved;
}

__attribute__((format(printf, 4, 0))) static void
log_text(const char *file, enum log_level level, int with_errno, const char *fmt, va_list ap)
{
	char msg[LOG_LINE_MAX];
	int n;
	log_tick();
	if (is_repeat(level, file, fmt))
		return;
	n = vsnprintf(msg, sizeof(msg), fmt, ap);
	if (with_errno && n >= 0 && (size_t)n < sizeof(msg))
		snprintf(msg + n, sizeof(msg) - (size_t)n, ": %s", strerror(with_errno));
	write_line(level, file, msg, NULL, 0);
}

void
log_text_at(const char *file, enum log_level level, bool with_errno, const char *fmt, ...)
{
	int saved = errno;
	va_list ap;
	if (!log_enabled_at(file, level))
		return;
	va_start(ap, fmt);
	log_text(file, level, with_errno ? saved : 0, fmt, ap);
	va_end(ap);
	errno = saved;
}

void
fatal(const char *fmt, ...)
{
	int error = errno;
	va_list ap;
	va_start(ap, fmt);
	log_text("fatal", LOG_ERROR, error, fmt, ap);
	va_end(ap);
	exit(1);
}

void
fatalx(const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	log_text("fatal", LOG_ERROR, 0, fmt, ap);
	va_end(ap);
	exit(1);
}
