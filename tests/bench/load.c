/*
 * load: drives N answers at a time through a gateway (or straight into the simulated provider)
 * and says how fast and how late the events came.  One process, one libevent loop; the hot path
 * (read, undo the chunks, find the text) allocates nothing and copies only lines that a read cut.
 *
 * A slot is one connection that runs answer after answer.  Target `plain` is OpenAI's call;
 * `tolld` is POST /chat/send and then GET /stream on the same connection.
 *
 * Lateness: a provider that paces its tokens is punctual, so the k-th token of an answer should
 * come k periods after the first one.  What came earliest so far, relative to that schedule,
 * is its zero; a token more than 100 ms behind it is late.  A gateway may merge tokens into one
 * event, so tokens are counted by the bytes of their text (--piece: all are of that length).
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <errno.h>
#include <event2/event.h>
#include <event2/event_struct.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define READ_BYTES 262144u
#define HEAD_MAX 8192u
#define LINE_MAX_BYTES (8u << 20)
#define REASONS_MAX 8
#define LATE_NS 100000000
#define SLOW_TICK_MS 50
#define CONNECT_TRIES 3

enum format { FORMAT_TYPED, FORMAT_OPENAI, FORMAT_CONTENT, FORMAT_TEXT };
static const char *const format_names[] = {"typed", "openai", "content", "text"};

static struct options {
	bool tolld, stamp, json;
	struct sockaddr_in addr;
	const char *host, *key, *model, *message;
	long streams, rounds, slow, piece, max_tokens;
	double seconds, ramp_ms, rate;
	enum format format;
} opt = {.streams = 1, .rounds = 1, .format = FORMAT_TYPED, .message = "Tell me a story, please."};

/* --- histograms: 128 buckets for each power of two, so an error below 0.8 % --- */

#define SUB_BITS 7
#define SUB (1u << SUB_BITS)

struct hist {
	uint64_t n, max, min, sum;
	uint64_t bucket[(64 - SUB_BITS + 1) * SUB];
};

static void
hist_add(struct hist *h, uint64_t v)
{
	unsigned log2 = v < SUB ? 0 : 63u - (unsigned)__builtin_clzll(v) - SUB_BITS;

	h->bucket[v < SUB ? v : (log2 + 1) * SUB + ((v >> log2) & (SUB - 1))]++;
	h->max = v > h->max ? v : h->max;
	h->min = h->n == 0 || v < h->min ? v : h->min;
	h->n++;
	h->sum += v;
}

/* The q-quantile in units of `unit` ns. */
static double
hist_at(const struct hist *h, double q, double unit)
{
	uint64_t rank = (uint64_t)(q * (double)h->n), seen = 0;

	if (h->n == 0)
		return 0;
	if (q <= 0)
		return (double)h->min / unit;
	if (q >= 1)
		return (double)h->max / unit;
	for (size_t i = 0; i < sizeof(h->bucket) / sizeof(h->bucket[0]); i++) {
		seen += h->bucket[i];
		if (seen > rank) {
			uint64_t log2 = i < SUB ? 0 : i / SUB - 1;
			uint64_t low = i < SUB ? i : (uint64_t)(SUB + i % SUB) << log2;

			return (double)(low + ((1ull << log2) >> 1)) / unit;
		}
	}
	return (double)h->max / unit;
}

/* --- slots --- */

enum step {
	STEP_IDLE,    /* nothing to do, or not begun */
	STEP_CONNECT, /* connect() under way */
	STEP_SEND,    /* POST /chat/send is out, its answer is being read */
	STEP_STREAM,  /* the stream is asked for, or being read */
};

enum coding {
	CODING_HEAD,     /* bytes of the head are collected */
	CODING_SIZE,     /* a chunk's size line */
	CODING_DATA,     /* `left` bytes of a chunk */
	CODING_DATA_END, /* the CRLF after it */
	CODING_TRAILER,  /* after the last chunk */
	CODING_LENGTH,   /* `left` bytes of a body with a length */
	CODING_CLOSE,    /* until the connection ends */
	CODING_DONE,
};

struct slot {
	int fd;
	enum step step;
	enum coding coding;
	struct event rd, wr;
	bool wr_on, fresh; /* fresh: no answer was read on this connection yet */
	bool closing;      /* the peer said Connection: close */
	int status;
	uint64_t left;
	char *out; /* of the request being sent, from out_at */
	size_t out_len, out_at;
	char *line; /* the head, a small body, or a line of which the end has not come */
	size_t line_len, line_cap;
	size_t trailer_len;
	long rounds_left;
	int tries;
	/* the answer */
	uint64_t begin_ns, get_ns, first_ns;
	uint64_t events, text_bytes, tokens;
	int64_t base_ns; /* earliest arrival, less the periods before it */
	size_t hint;     /* where the text stood in the line before */
	bool done, failed, skip_lf;
	uint64_t stamp;  /* digits of a stamp that an event cut */
	uint64_t budget; /* bytes that --slow lets it read now */
};

static struct event_base *base;
static struct slot *slots;
static struct event *ramp; /* starts the slots one after the other */
static char *read_buf;
static long active;
static bool stopping;
static uint64_t start_ns, now_ns;

static uint64_t completed, failed, events, tokens, bytes, late, sched, unfinished, reconnects;
static struct hist ttft, ttft_get, duration, oneway;
static struct reason {
	char text[160];
	uint64_t n;
} reasons[REASONS_MAX];

static void slot_next(struct slot *);
static void slot_connect(struct slot *);

static uint64_t
clock_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void
fatal(const char *what)
{
	fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void
slot_close(struct slot *s)
{
	if (s->fd < 0)
		return;
	event_del(&s->rd);
	event_del(&s->wr);
	s->wr_on = false;
	close(s->fd);
	s->fd = -1;
}

/* The answer is over.  The connection is kept where it can be. */
static void
answer_end(struct slot *s)
{
	if (!s->failed) {
		completed++;
		hist_add(&duration, now_ns - s->begin_ns);
		if (s->closing)
			slot_close(s);
	} else
		slot_close(s);
	slot_next(s);
}

static void __attribute__((format(printf, 2, 3))) answer_fail(struct slot *s, const char *fmt, ...)
{
	char text[sizeof(reasons[0].text)];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	for (char *p = text; *p != '\0'; p++)
		if ((unsigned char)*p < 0x20)
			*p = ' ';
	failed++;
	s->failed = true;
	for (size_t i = 0; i < REASONS_MAX; i++) {
		if (reasons[i].n != 0 && strcmp(reasons[i].text, text) != 0)
			continue;
		memcpy(reasons[i].text, text, sizeof(text));
		reasons[i].n++;
		break;
	}
}

static void
line_keep(struct slot *s, const char *p, size_t len)
{
	if (s->line_cap - s->line_len < len) {
		size_t cap = s->line_cap;

		while (cap - s->line_len < len)
			cap = cap == 0 ? 1024 : cap * 2;
		s->line = realloc(s->line, cap);
		if (s->line == NULL)
			fatal("realloc");
		s->line_cap = cap;
	}
	memcpy(s->line + s->line_len, p, len);
	s->line_len += len;
}

/* --- the stream's events --- */

static void
stamps_take(struct slot *s, const char *p, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		if (p[i] >= '0' && p[i] <= '9') {
			s->stamp = s->stamp * 10 + (uint64_t)(p[i] - '0');
		} else if (p[i] == ' ' && s->stamp != 0) {
			if (s->stamp <= now_ns) {
				hist_add(&oneway, now_ns - s->stamp);
				tokens++;
				s->tokens++;
			}
			s->stamp = 0;
		}
	}
}

static void
lateness(struct slot *s)
{
	double period = 1e9 / opt.rate;
	/* Of an event with several tokens the first is the oldest, but the last tells how far it is. */
	int64_t zero = (int64_t)now_ns - (int64_t)((double)s->tokens * period);

	if (s->tokens <= 1 || zero < s->base_ns)
		s->base_ns = zero;
	sched++;
	if (zero - s->base_ns > LATE_NS)
		late++;
}

/* Text of the answer came in an event of its own. */
static void
text_take(struct slot *s, const char *p, size_t len)
{
	uint64_t before = s->tokens;

	if (s->events++ == 0) {
		s->first_ns = now_ns;
		hist_add(&ttft, now_ns - s->begin_ns);
		if (opt.tolld)
			hist_add(&ttft_get, now_ns - s->get_ns);
	}
	events++;
	s->text_bytes += len;
	if (opt.stamp) {
		stamps_take(s, p, len);
	} else {
		s->tokens = opt.piece > 0 ? s->text_bytes / (uint64_t)opt.piece : s->tokens + 1;
		tokens += s->tokens - before;
	}
	if (opt.rate > 0)
		lateness(s);
}

/* Where a quoted text ends: the first quote that no backslash precedes. */
static const char *
quote_end(const char *p, const char *end)
{
	for (const char *q = p; (q = memchr(q, '"', (size_t)(end - q))) != NULL; q++) {
		size_t slashes = 0;

		while (q - slashes > p && q[-1 - (ptrdiff_t)slashes] == '\\')
			slashes++;
		if (slashes % 2 == 0)
			return q;
	}
	return NULL;
}

/* The member `key` (with quotes and colon) at the place where it stood in the line before. */
static const char *
member_find(struct slot *s, const char *p, size_t len, const char *key, size_t key_len)
{
	const char *at;

	if (s->hint + key_len < len && memcmp(p + s->hint, key, key_len) == 0)
		return p + s->hint + key_len;
	at = memmem(p, len, key, key_len);
	if (at == NULL)
		return NULL;
	s->hint = (size_t)(at - p);
	return at + key_len;
}

#define HAS(p, len, s) (memmem(p, len, s, sizeof(s) - 1) != NULL)

/* A line of the stream, without its end. */
static void
line_take(struct slot *s, const char *p, size_t len)
{
	static const char *const keys[] = {
	    "\"token\":\"", "\"content\":\"", "\"content\":\"", NULL};
	const char *key = keys[opt.format], *text, *end;

	if (len > 0 && p[len - 1] == '\r')
		len--;
	if (len < 6 || memcmp(p, "data: ", 6) != 0 || s->failed)
		return;
	p += 6;
	len -= 6;
	if (len == 6 && memcmp(p, "[DONE]", 6) == 0) {
		s->done = true;
		return;
	}
	text = member_find(s, p, len, key, strlen(key));
	if (text != NULL) {
		end = quote_end(text, p + len);
		if (end == NULL)
			answer_fail(s, "unfinished string in event");
		else if (end > text)
			text_take(s, text, (size_t)(end - text));
		return;
	}
	if (opt.format == FORMAT_TYPED) {
		if (HAS(p, len < 24 ? len : 24, "\"type\":\"done\""))
			s->done = true;
		else if (HAS(p, len < 24 ? len : 24, "\"type\":\"error\""))
			answer_fail(s, "error event: %.*s", (int)(len < 120 ? len : 120), p);
	} else if (HAS(p, len, "\"error\":"))
		answer_fail(s, "error event: %.*s", (int)(len < 120 ? len : 120), p);
}

static void
stream_bytes(struct slot *s, const char *p, size_t len)
{
	const char *end = p + len, *nl;

	if (opt.format == FORMAT_TEXT) {
		text_take(s, p, len);
		return;
	}
	while ((nl = memchr(p, '\n', (size_t)(end - p))) != NULL) {
		if (s->line_len > 0) {
			line_keep(s, p, (size_t)(nl - p));
			line_take(s, s->line, s->line_len);
			s->line_len = 0;
		} else
			line_take(s, p, (size_t)(nl - p));
		p = nl + 1;
	}
	if (p < end)
		line_keep(s, p, (size_t)(end - p));
	if (s->line_len > LINE_MAX_BYTES)
		answer_fail(s, "line too long");
}

/* --- HTTP --- */

static void
body_bytes(struct slot *s, const char *p, size_t len)
{
	if (s->failed)
		return;
	if (s->step == STEP_STREAM && s->status == 200)
		stream_bytes(s, p, len);
	else if (s->line_len < 65536)
		line_keep(s, p, len);
}

static void
write_watch(struct slot *s, bool on)
{
	if (s->wr_on == on)
		return;
	s->wr_on = on;
	if (on)
		event_add(&s->wr, NULL);
	else
		event_del(&s->wr);
}

static void
slot_write(struct slot *s)
{
	while (s->out_at < s->out_len) {
		ssize_t n = send(s->fd, s->out + s->out_at, s->out_len - s->out_at, MSG_NOSIGNAL);

		if (n < 0) {
			if (errno == EAGAIN)
				break;
			return; /* reading will tell */
		}
		s->out_at += (size_t)n;
	}
	write_watch(s, s->out_at < s->out_len);
}

static void request_send(struct slot *s, enum step step, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static void
request_send(struct slot *s, enum step step, const char *fmt, ...)
{
	va_list ap;
	int n;

	free(s->out);
	va_start(ap, fmt);
	n = vasprintf(&s->out, fmt, ap);
	va_end(ap);
	if (n < 0)
		fatal("vasprintf");
	s->out_len = (size_t)n;
	s->out_at = 0;
	s->step = step;
	s->coding = CODING_HEAD;
	s->line_len = 0;
	slot_write(s);
}

/* The answer to /chat/send is whole: ask for the stream it named. */
static void
stream_get(struct slot *s)
{
	const char *id, *end;

	id = memmem(s->line, s->line_len, "\"stream_id\":", 12);
	if (id != NULL)
		id = memchr(id + 12, '"', s->line_len - (size_t)(id + 12 - s->line));
	end = id != NULL ? memchr(id + 1, '"', s->line_len - (size_t)(id + 1 - s->line)) : NULL;
	if (end == NULL) {
		answer_fail(s, "no stream_id: %.*s", (int)(s->line_len < 100 ? s->line_len : 100),
		    s->line_len > 0 ? s->line : "");
		answer_end(s);
		return;
	}
	s->fresh = false;
	if (s->closing) {
		answer_fail(s, "connection closed after /chat/send");
		answer_end(s);
		return;
	}
	s->get_ns = clock_ns();
	request_send(s, STEP_STREAM, "GET /stream?id=%.*s&format=%s HTTP/1.1\r\nHost: %s\r\n\r\n",
	    (int)(end - id - 1), id + 1, format_names[opt.format], opt.host);
}

/* A whole response was read. */
static void
response_end(struct slot *s)
{
	s->coding = CODING_DONE;
	if (s->failed) {
		answer_end(s);
	} else if (s->status != 200) {
		answer_fail(s, "HTTP %d: %.*s", s->status,
		    (int)(s->line_len < 120 ? s->line_len : 120), s->line_len > 0 ? s->line : "");
		answer_end(s);
	} else if (s->step == STEP_SEND) {
		stream_get(s);
	} else {
		if (opt.format != FORMAT_TEXT && !s->done)
			answer_fail(s, "the stream ended without its last event");
		s->fresh = false;
		answer_end(s);
	}
}

static bool
head_take(struct slot *s)
{
	char *p = s->line, *end = s->line + s->line_len, *eol;
	bool chunked = false;
	long long length = -1;

	s->closing = false;
	if (s->line_len < 12 || memcmp(p, "HTTP/1.", 7) != 0)
		return false;
	s->status = atoi(p + 9);
	while ((eol = memmem(p, (size_t)(end - p), "\r\n", 2)) != NULL) {
		size_t len = (size_t)(eol - p);

		*eol = '\0';
		if (len > 15 && strncasecmp(p, "content-length:", 15) == 0)
			length = atoll(p + 15);
		else if (len > 18 && strncasecmp(p, "transfer-encoding:", 18) == 0)
			chunked = strcasestr(p + 18, "chunked") != NULL;
		else if (len > 11 && strncasecmp(p, "connection:", 11) == 0)
			s->closing = strcasestr(p + 11, "close") != NULL;
		p = eol + 2;
	}
	s->line_len = 0;
	s->left = 0;
	if (s->status == 204 || s->status == 304)
		length = 0;
	if (chunked)
		s->coding = CODING_SIZE;
	else if (length >= 0) {
		s->coding = CODING_LENGTH;
		s->left = (uint64_t)length;
	} else {
		s->coding = CODING_CLOSE;
		s->closing = true;
	}
	return true;
}

static int
hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c = (char)(c | 0x20);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Bytes of the head; returns how many belong to it, and sets the coding when it is whole. */
static size_t
head_bytes(struct slot *s, const char *p, size_t len)
{
	size_t before = s->line_len, take = len < HEAD_MAX ? len : HEAD_MAX;
	size_t from = before > 3 ? before - 3 : 0;
	char *end;

	line_keep(s, p, take);
	end = memmem(s->line + from, s->line_len - from, "\r\n\r\n", 4);
	if (end == NULL) {
		if (s->line_len > HEAD_MAX) {
			answer_fail(s, "response head too large");
			answer_end(s);
		}
		return take;
	}
	s->line_len = (size_t)(end + 2 - s->line);
	take = s->line_len + 2 - before;
	if (!head_take(s)) {
		answer_fail(s, "bad response head");
		answer_end(s);
		return take;
	}
	/* Informational heads precede the real one. */
	if (s->status == 100)
		s->coding = CODING_HEAD;
	else if (s->coding == CODING_LENGTH && s->left == 0)
		response_end(s);
	return take;
}

/*
 * The bytes of one read.  An answer may end within them; the connection is then free for the next
 * one, and nothing of it can have come yet.
 */
static void
response_bytes(struct slot *s, const char *p, size_t len)
{
	while (len > 0 && s->fd >= 0) {
		size_t n = 1;

		switch (s->coding) {
		case CODING_HEAD:
			if (s->step != STEP_SEND && s->step != STEP_STREAM)
				return;
			n = head_bytes(s, p, len);
			break;
		case CODING_SIZE:
			if (hex_digit(*p) >= 0)
				s->left = s->left * 16 + (uint64_t)hex_digit(*p);
			else if (*p == '\n') {
				s->coding = s->left > 0 ? CODING_DATA : CODING_TRAILER;
				s->trailer_len = 0;
			} else if (*p != '\r') {
				answer_fail(s, "bad chunk size");
				answer_end(s);
				return;
			}
			break;
		case CODING_DATA:
		case CODING_LENGTH:
			n = s->left < len ? (size_t)s->left : len;
			s->left -= n;
			body_bytes(s, p, n);
			if (s->left == 0 && s->coding == CODING_LENGTH)
				response_end(s);
			else if (s->left == 0)
				s->coding = CODING_DATA_END;
			break;
		case CODING_DATA_END:
			if (*p == '\n')
				s->coding = CODING_SIZE;
			break;
		case CODING_TRAILER:
			if (*p == '\n' && s->trailer_len == 0)
				response_end(s);
			else if (*p == '\n')
				s->trailer_len = 0;
			else if (*p != '\r')
				s->trailer_len++;
			break;
		case CODING_CLOSE:
			n = len;
			body_bytes(s, p, n);
			break;
		case CODING_DONE:
			return;
		}
		p += n;
		len -= n;
	}
}

static void
slot_eof(struct slot *s, int err)
{
	if (s->step == STEP_IDLE) {
		slot_close(s);
	} else if (s->coding == CODING_CLOSE && err == 0) {
		response_end(s);
	} else if (s->coding == CODING_HEAD && s->line_len == 0 && !s->fresh &&
	           s->step != STEP_CONNECT && s->get_ns == 0 && ++s->tries < CONNECT_TRIES) {
		/* The peer closed an idle connection just as we used it: not an answer's failure. */
		reconnects++;
		slot_close(s);
		slot_connect(s);
	} else {
		answer_fail(s, "connection lost: %s", err != 0 ? strerror(err) : "end of file");
		answer_end(s);
	}
}

/* One read of at most max bytes.  False if there is no more now. */
static bool
slot_read(struct slot *s, size_t max)
{
	ssize_t n = recv(s->fd, read_buf, max, 0);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	now_ns = clock_ns();
	if (n <= 0) {
		slot_eof(s, n < 0 ? errno : 0);
		return false;
	}
	bytes += (uint64_t)n;
	response_bytes(s, read_buf, (size_t)n);
	return (size_t)n == max;
}

static void
read_cb(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	slot_read(arg, READ_BYTES);
}

/* --- answer after answer --- */

/* A copy that may stand in a JSON string. */
static char *
json_escape(const char *s)
{
	char *out = malloc(6 * strlen(s) + 1), *p = out;

	if (out == NULL)
		fatal("malloc");
	for (; *s != '\0'; s++) {
		unsigned char c = (unsigned char)*s;

		if (c < 0x20) {
			p += sprintf(p, "\\u%04x", c);
			continue;
		}
		if (c == '"' || c == '\\')
			*p++ = '\\';
		*p++ = (char)c;
	}
	*p = '\0';
	return out;
}

static void
answer_begin(struct slot *s)
{
	static char *body;
	static size_t body_len;

	if (body == NULL) {
		char max[48] = "";

		if (opt.max_tokens > 0)
			snprintf(max, sizeof(max), ",\"max_tokens\":%ld", opt.max_tokens);
		if (asprintf(&body,
		        opt.tolld
		            ? "{\"model\":\"%s\",\"message\":\"%s\"%s}"
		            : "{\"model\":\"%s\",\"messages\":[{\"role\":\"user\",\"content\":"
		              "\"%s\"}]%s,\"stream\":true,"
		              "\"stream_options\":{\"include_usage\":true}}",
		        opt.model, opt.message, max) < 0)
			fatal("asprintf");
		body_len = strlen(body);
	}
	s->events = s->text_bytes = s->tokens = s->stamp = 0;
	s->get_ns = s->first_ns = 0;
	s->done = s->failed = false;
	s->begin_ns = clock_ns();
	request_send(s, opt.tolld ? STEP_SEND : STEP_STREAM,
	    "POST %s HTTP/1.1\r\nHost: %s\r\n%s%s%sContent-Type: application/json\r\n"
	    "Content-Length: %zu\r\n\r\n%s",
	    opt.tolld ? "/chat/send" : "/v1/chat/completions", opt.host,
	    opt.key != NULL ? "Authorization: Bearer " : "", opt.key != NULL ? opt.key : "",
	    opt.key != NULL ? "\r\n" : "", body_len, body);
}

static void
write_cb(evutil_socket_t fd, short what, void *arg)
{
	struct slot *s = arg;
	socklen_t len = sizeof(int);
	int err = 0;

	(void)what;
	if (s->step != STEP_CONNECT) {
		slot_write(s);
		return;
	}
	write_watch(s, false);
	getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len);
	now_ns = clock_ns();
	if (err != 0) {
		answer_fail(s, "connect: %s", strerror(err));
		s->rounds_left = 0; /* who refuses once would be asked in a tight loop */
		answer_end(s);
		return;
	}
	answer_begin(s);
}

static void
slot_connect(struct slot *s)
{
	int on = 1, small = 16384;

	s->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (s->fd < 0)
		fatal("socket");
	setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	if (opt.slow > 0) /* or the kernel would read ahead for the slow reader */
		setsockopt(s->fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
	event_assign(&s->rd, base, s->fd, EV_READ | EV_PERSIST, read_cb, s);
	event_assign(&s->wr, base, s->fd, EV_WRITE | EV_PERSIST, write_cb, s);
	s->fresh = true;
	s->failed = false;
	s->step = STEP_CONNECT;
	s->coding = CODING_HEAD;
	if (connect(s->fd, (struct sockaddr *)&opt.addr, sizeof(opt.addr)) != 0 &&
	    errno != EINPROGRESS) {
		answer_fail(s, "connect: %s", strerror(errno));
		s->rounds_left = 0;
		s->step = STEP_IDLE;
		answer_end(s);
		return;
	}
	if (opt.slow == 0)
		event_add(&s->rd, NULL);
	write_watch(s, true);
}

static void
slot_next(struct slot *s)
{
	if (stopping || s->rounds_left == 0) {
		s->step = STEP_IDLE;
		slot_close(s);
		if (--active == 0)
			event_base_loopbreak(base);
		return;
	}
	s->rounds_left--;
	s->tries = 0;
	s->step = STEP_IDLE;
	if (s->fd >= 0)
		answer_begin(s);
	else
		slot_connect(s);
}

static void
ramp_cb(evutil_socket_t fd, short what, void *arg)
{
	static long started;
	uint64_t ticks;
	double part;
	long goal;

	(void)what;
	(void)arg;
	if (read(fd, &ticks, sizeof(ticks)) < 0)
		return;
	now_ns = clock_ns();
	part = opt.ramp_ms > 0 ? (double)(now_ns - start_ns) / (opt.ramp_ms * 1e6) : 1;
	goal = part >= 1 ? opt.streams : (long)(part * (double)opt.streams) + 1;
	/* Not all at once even without a ramp, or the listener's queue would overflow. */
	if (goal > started + 500)
		goal = started + 500;
	for (; started < goal && started < opt.streams && !stopping; started++)
		slot_next(&slots[started]);
	if (started == opt.streams) {
		event_del(ramp);
		close(fd);
	}
}

static void
slow_cb(evutil_socket_t fd, short what, void *arg)
{
	uint64_t share = (uint64_t)opt.slow * SLOW_TICK_MS / 1000;

	(void)fd;
	(void)what;
	(void)arg;
	for (long i = 0; i < opt.streams; i++) {
		struct slot *s = &slots[i];

		if (s->fd < 0 || s->step == STEP_CONNECT || s->step == STEP_IDLE)
			continue;
		slot_read(s, share > 0 ? (size_t)share : 1);
	}
}

/* --seconds are over: what is under way is neither completed nor failed. */
static void
stop_cb(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	(void)arg;
	stopping = true;
	for (long i = 0; i < opt.streams; i++)
		if (slots[i].step != STEP_IDLE)
			unfinished++;
	event_base_loopbreak(base);
}

/* --- options and results --- */

static int
usage(void)
{
	fprintf(stderr,
	    "usage: load --target tolld|plain --url http://ADDR:PORT --model M --streams N\n"
	    "            [--key KEY] [--rounds R | --seconds S] [--ramp MS] [--message TEXT]\n"
	    "            [--max-tokens N] [--format typed|openai|content|text] [--slow "
	    "BYTES_PER_S]\n"
	    "            [--rate TOKENS_PER_S] [--piece BYTES] [--stamp] [--json]\n");
	return 2;
}

static int
url_parse(const char *url)
{
	char host[64];
	const char *colon;

	if (strncmp(url, "http://", 7) != 0 || (colon = strchr(url + 7, ':')) == NULL ||
	    (size_t)(colon - url - 7) >= sizeof(host))
		return -1;
	snprintf(host, sizeof(host), "%.*s", (int)(colon - url - 7), url + 7);
	if (strcmp(host, "localhost") == 0)
		snprintf(host, sizeof(host), "127.0.0.1");
	opt.addr = (struct sockaddr_in){
	    .sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(colon + 1))};
	opt.host = strndup(url + 7, strcspn(url + 7, "/"));
	return inet_pton(AF_INET, host, &opt.addr.sin_addr) == 1 && opt.host != NULL ? 0 : -1;
}

static int
options_parse(int argc, char **argv)
{
	const char *url = NULL;

	for (int i = 1; i < argc; i++) {
		const char *o = argv[i], *v = i + 1 < argc ? argv[i + 1] : NULL;

		if (strcmp(o, "--stamp") == 0) {
			opt.stamp = true;
			continue;
		}
		if (strcmp(o, "--json") == 0) {
			opt.json = true;
			continue;
		}
		if (v == NULL)
			return -1;
		i++;
		if (strcmp(o, "--target") == 0) {
			opt.tolld = strcmp(v, "tolld") == 0;
			if (!opt.tolld && strcmp(v, "plain") != 0)
				return -1;
		} else if (strcmp(o, "--url") == 0)
			url = v;
		else if (strcmp(o, "--key") == 0)
			opt.key = v;
		else if (strcmp(o, "--model") == 0)
			opt.model = v;
		else if (strcmp(o, "--message") == 0)
			opt.message = v;
		else if (strcmp(o, "--streams") == 0)
			opt.streams = atol(v);
		else if (strcmp(o, "--rounds") == 0)
			opt.rounds = atol(v);
		else if (strcmp(o, "--seconds") == 0)
			opt.seconds = atof(v);
		else if (strcmp(o, "--ramp") == 0)
			opt.ramp_ms = atof(v);
		else if (strcmp(o, "--rate") == 0)
			opt.rate = atof(v);
		else if (strcmp(o, "--piece") == 0)
			opt.piece = atol(v);
		else if (strcmp(o, "--max-tokens") == 0)
			opt.max_tokens = atol(v);
		else if (strcmp(o, "--slow") == 0)
			opt.slow = atol(v);
		else if (strcmp(o, "--format") == 0) {
			size_t f = 0;

			while (f < 4 && strcmp(format_names[f], v) != 0)
				f++;
			if (f == 4)
				return -1;
			opt.format = (enum format)f;
		} else
			return -1;
	}
	if (url == NULL || url_parse(url) != 0 || opt.model == NULL || opt.streams < 1 ||
	    opt.rounds < 1)
		return -1;
	if (!opt.tolld)
		opt.format = FORMAT_OPENAI;
	return 0;
}

static void
results_json(double seconds)
{
	printf("{\"seconds\":%.3f,\"completed\":%llu,\"failed\":%llu,\"unfinished\":%llu,"
	       "\"reconnects\":%llu,\"events\":%llu,\"tokens\":%llu,\"bytes\":%llu,",
	    seconds, (unsigned long long)completed, (unsigned long long)failed,
	    (unsigned long long)unfinished, (unsigned long long)reconnects,
	    (unsigned long long)events, (unsigned long long)tokens, (unsigned long long)bytes);
	printf("\"events_per_s\":%.1f,\"tokens_per_s\":%.1f,\"requests_per_s\":%.1f,",
	    (double)events / seconds, (double)tokens / seconds, (double)completed / seconds);
	printf("\"ttft_ms\":{\"min\":%.3f,\"p50\":%.3f,\"p99\":%.3f},", hist_at(&ttft, 0, 1e6),
	    hist_at(&ttft, 0.5, 1e6), hist_at(&ttft, 0.99, 1e6));
	if (opt.tolld)
		printf("\"ttft_get_ms\":{\"min\":%.3f,\"p50\":%.3f,\"p99\":%.3f},",
		    hist_at(&ttft_get, 0, 1e6), hist_at(&ttft_get, 0.5, 1e6),
		    hist_at(&ttft_get, 0.99, 1e6));
	printf("\"duration_ms\":{\"p50\":%.3f,\"p99\":%.3f,\"max\":%.3f},",
	    hist_at(&duration, 0.5, 1e6), hist_at(&duration, 0.99, 1e6),
	    hist_at(&duration, 1, 1e6));
	if (opt.stamp)
		printf("\"oneway_us\":{\"p50\":%.1f,\"p99\":%.1f,\"max\":%.1f},",
		    hist_at(&oneway, 0.5, 1e3), hist_at(&oneway, 0.99, 1e3),
		    hist_at(&oneway, 1, 1e3));
	if (opt.rate > 0)
		printf("\"late_share\":%.6f,", sched > 0 ? (double)late / (double)sched : 0);
	printf("\"reasons\":{");
	for (size_t i = 0; i < REASONS_MAX && reasons[i].n != 0; i++) {
		char *text = json_escape(reasons[i].text);

		printf("%s\"%s\":%llu", i > 0 ? "," : "", text, (unsigned long long)reasons[i].n);
		free(text);
	}
	printf("}}\n");
}

static void
results_text(double seconds)
{
	printf("answers    %llu completed, %llu failed, %llu unfinished, %.1f/s\n",
	    (unsigned long long)completed, (unsigned long long)failed,
	    (unsigned long long)unfinished, (double)completed / seconds);
	printf("events     %llu in %.3f s, %.0f/s; %llu tokens, %.1f MB\n",
	    (unsigned long long)events, seconds, (double)events / seconds,
	    (unsigned long long)tokens, (double)bytes / 1e6);
	printf("first      %.3f min  %.3f p50  %.3f p99  ms\n", hist_at(&ttft, 0, 1e6),
	    hist_at(&ttft, 0.5, 1e6), hist_at(&ttft, 0.99, 1e6));
	if (opt.tolld)
		printf("from GET   %.3f min  %.3f p50  %.3f p99  ms\n", hist_at(&ttft_get, 0, 1e6),
		    hist_at(&ttft_get, 0.5, 1e6), hist_at(&ttft_get, 0.99, 1e6));
	printf("duration   %.3f p50  %.3f p99  ms\n", hist_at(&duration, 0.5, 1e6),
	    hist_at(&duration, 0.99, 1e6));
	if (opt.stamp)
		printf("one way    %.1f p50  %.1f p99  %.1f max  us\n", hist_at(&oneway, 0.5, 1e3),
		    hist_at(&oneway, 0.99, 1e3), hist_at(&oneway, 1, 1e3));
	if (opt.rate > 0)
		printf("late       %.4f %% of events behind by more than 100 ms\n",
		    sched > 0 ? 100 * (double)late / (double)sched : 0);
	for (size_t i = 0; i < REASONS_MAX && reasons[i].n != 0; i++)
		printf("failed     %llu x %s\n", (unsigned long long)reasons[i].n, reasons[i].text);
}

int
main(int argc, char **argv)
{
	struct timeval slow_tick = {.tv_usec = SLOW_TICK_MS * 1000}, stop_in;
	struct itimerspec ramp_tick = {.it_interval.tv_nsec = 2000000, .it_value.tv_nsec = 1};
	struct event *slow, *stop;
	struct rlimit rl;
	int ramp_fd;

	if (options_parse(argc, argv) != 0)
		return usage();
	if (getrlimit(RLIMIT_NOFILE, &rl) == 0) {
		rl.rlim_cur = rl.rlim_max;
		setrlimit(RLIMIT_NOFILE, &rl);
	}
	signal(SIGPIPE, SIG_IGN);
	base = event_base_new();
	slots = calloc((size_t)opt.streams, sizeof(*slots));
	read_buf = malloc(READ_BYTES);
	ramp_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	if (base == NULL || slots == NULL || read_buf == NULL || ramp_fd < 0)
		fatal("start");
	for (long i = 0; i < opt.streams; i++) {
		slots[i].fd = -1;
		slots[i].rounds_left = opt.seconds > 0 ? INT32_MAX : opt.rounds;
	}
	active = opt.streams;
	start_ns = now_ns = clock_ns();
	timerfd_settime(ramp_fd, 0, &ramp_tick, NULL);
	ramp = event_new(base, ramp_fd, EV_READ | EV_PERSIST, ramp_cb, NULL);
	slow = event_new(base, -1, EV_PERSIST, slow_cb, NULL);
	stop = evtimer_new(base, stop_cb, NULL);
	if (ramp == NULL || slow == NULL || stop == NULL)
		fatal("start");
	event_add(ramp, NULL);
	if (opt.slow > 0)
		event_add(slow, &slow_tick);
	if (opt.seconds > 0) {
		stop_in.tv_sec = (time_t)opt.seconds;
		stop_in.tv_usec = (suseconds_t)((opt.seconds - (double)stop_in.tv_sec) * 1e6);
		event_add(stop, &stop_in);
	}
	event_base_dispatch(base);
	if (opt.json)
		results_json((double)(clock_ns() - start_ns) / 1e9);
	else
		results_text((double)(clock_ns() - start_ns) / 1e9);
	for (long i = 0; i < opt.streams; i++) {
		slot_close(&slots[i]);
		free(slots[i].out);
		free(slots[i].line);
	}
	event_free(ramp);
	event_free(slow);
	event_free(stop);
	event_base_free(base);
	free(slots);
	free(read_buf);
	return failed > 0 ? 1 : 0;
}
