/*
 * A provider's response, byte by byte where it matters and in one piece where it does not.
 * Pure.
 *
 * Providers' bytes are hostile.  What decides where a body ends must be unambiguous: lengths that
 * differ, a length beside chunks, or a coding that we don't know are refused, since a response
 * that is taken for shorter than it is would leave its rest to the next call.
 */
#include "daemon/response.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

enum state {
	HEAD,
	BODY_LENGTH,
	BODY_CLOSE,   /* ends with the connection */
	CHUNK_SIZE,   /* in the hex digits */
	CHUNK_EXT,    /* behind them, up to the line's end */
	CHUNK_DATA,
	CHUNK_END,    /* the line end behind the data */
	TRAILERS,
	DONE,
};

#define LINE_MAX_BYTES 4096

void
response_init(struct response *r)
{
	*r = (struct response){.why = ""};
}

void
response_fini(struct response *r)
{
	buf_free(&r->head);
}

bool
response_has_head(const struct response *r)
{
	return r->state != HEAD;
}

bool
response_reusable(const struct response *r)
{
	return r->state == DONE && r->keep_alive && !r->leftover;
}

static bool
bad(struct response *r, const char *why)
{
	r->why = why;
	return false;
}

static bool
read_length(struct response *r, struct span v)
{
	uint64_t n = 0;

	if (v.len == 0 || v.len > 18)
		return bad(r, "a bad Content-Length");
	for (size_t i = 0; i < v.len; i++) {
		if (v.p[i] < '0' || v.p[i] > '9')
			return bad(r, "a bad Content-Length");
		n = n * 10 + (uint64_t)(v.p[i] - '0');
	}
	if (r->has_length && r->left != n)
		return bad(r, "two lengths");
	r->has_length = true;
	r->left = n;
	return true;
}

/* Is a word in a comma-separated list? */
static bool
lists(struct span v, const char *word)
{
	while (v.len > 0) {
		const char *comma = memchr(v.p, ',', v.len);
		size_t n = comma != NULL ? (size_t)(comma - v.p) : v.len;

		if (span_case_eq(span_trim((struct span){v.p, n}), word))
			return true;
		n += comma != NULL;
		v = (struct span){v.p + n, v.len - n};
	}
	return false;
}

static void
read_media_type(struct response *r, struct span v)
{
	size_t n = 0;

	while (n < v.len && n < sizeof r->media_type - 1 && v.p[n] != ';' && v.p[n] != ' ' &&
	    v.p[n] != '\t') {
		r->media_type[n] = (char)(v.p[n] >= 'A' && v.p[n] <= 'Z' ? v.p[n] + 32 : v.p[n]);
		n++;
	}
	r->media_type[n] = '\0';
}

/* Seconds, which some give a fraction of, or a date in one of HTTP's three forms. */
static void
read_retry_after(struct response *r, struct span v)
{
	static const char *const forms[] = {
	    "%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y"};
	char text[64], *end = NULL;
	struct tm tm;
	int64_t left;
	size_t digits;

	if (v.len == 0 || v.len >= sizeof text)
		return;
	memcpy(text, v.p, v.len);
	text[v.len] = '\0';
	digits = strspn(text, "0123456789");
	if (digits > 0 && text[digits] == '.' &&
	    strspn(text + digits + 1, "0123456789") == v.len - digits - 1) {
		r->retry_after = digits < 10 ? atoll(text) + 1 : INT32_MAX;
		return;
	}
	if (digits == v.len) {
		r->retry_after = digits < 10 ? atoll(text) : INT32_MAX;
		return;
	}
	for (size_t i = 0; i < sizeof forms / sizeof *forms && end == NULL; i++) {
		tm = (struct tm){0};
		end = strptime(text, forms[i], &tm);
		if (end != NULL && *end != '\0')
			end = NULL;
	}
	if (end == NULL)
		return;
	left = (int64_t)timegm(&tm) - (int64_t)time(NULL);
	if (left > 0)
		r->retry_after = left < INT32_MAX ? left : INT32_MAX;
}

static bool
read_field(struct response *r, struct span line)
{
	const char *colon = memchr(line.p, ':', line.len);
	struct span name, value;

	if (line.len == 0 || line.p[0] == ' ' || line.p[0] == '\t' || colon == NULL)
		return bad(r, "a bad header line");
	name = (struct span){line.p, (size_t)(colon - line.p)};
	value = span_trim((struct span){colon + 1, line.len - name.len - 1});
	/* A length or a coding must not go unseen for a blank before its colon. */
	name = span_trim(name);
	if (span_case_eq(name, "content-length"))
		return read_length(r, value);
	if (span_case_eq(name, "transfer-encoding")) {
		if (r->chunked || !span_case_eq(value, "chunked"))
			return bad(r, "an unknown transfer coding");
		r->chunked = true;
	} else if (span_case_eq(name, "connection")) {
		if (lists(value, "close"))
			r->keep_alive = false;
		else if (lists(value, "keep-alive"))
			r->keep_alive = true;
	} else if (span_case_eq(name, "content-type")) {
		read_media_type(r, value);
	} else if (span_case_eq(name, "retry-after")) {
		read_retry_after(r, value);
	} else if (span_case_eq(name, "content-encoding") && !span_case_eq(value, "identity")) {
		r->coded = true;
	}
	return true;
}

/* "HTTP/1.1 200 OK" */
static bool
read_status(struct response *r, struct span line)
{
	if (line.len < 12 || memcmp(line.p, "HTTP/1.", 7) != 0 ||
	    (line.p[7] != '0' && line.p[7] != '1') || line.p[8] != ' ')
		return bad(r, "not an HTTP/1 response");
	r->status = 0;
	for (int i = 9; i < 12; i++) {
		if (line.p[i] < '0' || line.p[i] > '9')
			return bad(r, "a bad status");
		r->status = r->status * 10 + (line.p[i] - '0');
	}
	if (r->status < 100 || (line.len > 12 && line.p[12] != ' '))
		return bad(r, "a bad status");
	r->keep_alive = line.p[7] == '1';
	return true;
}

static bool
read_head(struct response *r, const char *p, size_t len)
{
	const char *end = p + len;
	bool first = true;

	/* Of an interim response nothing is kept. */
	r->chunked = r->has_length = r->coded = false;
	r->left = 0;
	r->retry_after = 0;
	r->media_type[0] = '\0';
	while (p < end) {
		const char *lf = memchr(p, '\n', (size_t)(end - p));
		struct span line = {p, (size_t)(lf - p)};

		p = lf + 1;
		if (line.len > 0 && line.p[line.len - 1] == '\r')
			line.len--;
		if (line.len == 0)
			break;
		if (memchr(line.p, '\0', line.len) != NULL)
			return bad(r, "a NUL in the head");
		if (!(first ? read_status(r, line) : read_field(r, line)))
			return false;
		first = false;
	}
	if (first)
		return bad(r, "not an HTTP/1 response");
	if (r->chunked && r->has_length)
		return bad(r, "a length beside chunks");
	/* A refusal's status says enough without its body. */
	if (r->coded && r->status == 200)
		return bad(r, "an encoding that was not asked for");
	return true;
}

/* The end of a head: an empty line.  Its length with that, or 0. */
static size_t
head_end(const char *p, size_t len, size_t *scanned)
{
	size_t at = *scanned;

	while (at < len) {
		const char *lf = memchr(p + at, '\n', len - at);

		if (lf == NULL)
			break;
		at = (size_t)(lf - p) + 1;
		if (at < len && p[at] == '\n')
			return at + 1;
		if (at + 1 < len && p[at] == '\r' && p[at + 1] == '\n')
			return at + 2;
		if (at + 1 >= len) {
			/* Perhaps the next byte is that of the empty line: look here again. */
			*scanned = at - 1;
			return 0;
		}
	}
	*scanned = at;
	return 0;
}

/* What the head says of the body. */
static void
begin_body(struct response *r)
{
	if (r->status == 204 || r->status == 304 || (r->has_length && r->left == 0))
		r->state = DONE;
	else if (r->chunked)
		r->state = CHUNK_SIZE;
	else if (r->has_length)
		r->state = BODY_LENGTH;
	else
		r->state = BODY_CLOSE;
	r->left = r->state == BODY_LENGTH ? r->left : 0;
	r->line = 0;
	buf_free(&r->head);
}

/*
 * Take what belongs to the head; *used bytes.  MORE while it is not whole, COMPLETE when it is
 * (which is not yet the response).
 */
static enum response_result
feed_head(struct response *r, const char *p, size_t len, size_t *used)
{
	size_t before, n;

	for (;;) {
		before = r->head.len;
		buf_add(&r->head, p + *used, len - *used);
		if (r->head.failed) {
			bad(r, "out of memory");
			return RESPONSE_BAD;
		}
		n = head_end(r->head.data, r->head.len, &r->scanned);
		if (n == 0) {
			*used = len;
			if (r->head.len <= RESPONSE_HEAD_MAX)
				return RESPONSE_MORE;
			bad(r, "a head of over 64 KiB");
			return RESPONSE_BAD;
		}
		*used += n - before;
		if (!read_head(r, r->head.data, n))
			return RESPONSE_BAD;
		r->scanned = 0;
		r->head.len = 0;
		if (r->status >= 200)
			break;
		if (r->status == 101) {
			bad(r, "a switch of protocols that was not asked for");
			return RESPONSE_BAD;
		}
		/* An interim response: the next head follows. */
	}
	begin_body(r);
	return RESPONSE_COMPLETE;
}

static int
hex(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c = (char)(c | 0x20);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool
end_size_line(struct response *r)
{
	r->state = r->left == 0 ? TRAILERS : CHUNK_DATA;
	r->line = 0;
	r->line_empty = true;
	return true;
}

/* One byte of what is between chunks' data. */
static bool
frame_byte(struct response *r, char c)
{
	int v;

	if (++r->line > LINE_MAX_BYTES)
		return bad(r, "a chunk's line or trailers without end");
	switch (r->state) {
	case CHUNK_SIZE:
		v = hex(c);
		if (v >= 0) {
			if (r->left >> 56 != 0)
				return bad(r, "a chunk beyond all size");
			r->left = r->left << 4 | (uint64_t)v;
			return true;
		}
		if (r->line == 1)
			return bad(r, "a chunk without a size");
		if (c != ';' && c != ' ' && c != '\t' && c != '\r' && c != '\n')
			return bad(r, "a bad chunk size");
		r->state = CHUNK_EXT;
		return c == '\n' ? end_size_line(r) : true;
	case CHUNK_EXT:
		return c == '\n' ? end_size_line(r) : true;
	case CHUNK_END:
		if (c == '\r' && r->line == 1)
			return true;
		if (c != '\n')
			return bad(r, "a chunk longer than its size");
		r->state = CHUNK_SIZE;
		r->line = 0;
		r->left = 0;
		return true;
	default: /* TRAILERS */
		if (c == '\n') {
			if (r->line_empty)
				r->state = DONE;
			r->line_empty = true;
		} else if (c != '\r') {
			r->line_empty = false;
		}
		return true;
	}
}

/*
 * From the end of one chunk's data to the next one's, if it is all here and has nothing unusual;
 * else nothing, and frame_byte takes it.  Its length.
 */
static size_t
frame_run(struct response *r, const char *p, size_t len)
{
	uint64_t size = 0;
	size_t at = 0, digits;
	int v;

	if (r->line != 0)
		return 0;
	if (r->state == CHUNK_END) {
		if (len < 2 || p[0] != '\r' || p[1] != '\n')
			return 0;
		at = 2;
	} else if (r->state != CHUNK_SIZE || r->left != 0) {
		return 0;
	}
	for (digits = 0; at < len && digits < 8 && (v = hex(p[at])) >= 0; digits++, at++)
		size = size << 4 | (uint64_t)v;
	if (digits == 0 || size == 0 || len - at < 2 || p[at] != '\r' || p[at + 1] != '\n')
		return 0;
	r->left = size;
	end_size_line(r);
	return at + 2;
}

/* As much of the body as is here in one piece; its length. */
static size_t
body_run(struct response *r, size_t len)
{
	size_t n = len;

	if (r->state == BODY_CLOSE)
		return n;
	if (r->left < n)
		n = (size_t)r->left;
	r->left -= n;
	if (r->left == 0) {
		r->state = r->state == CHUNK_DATA ? CHUNK_END : DONE;
		r->line = 0;
	}
	return n;
}

enum response_result
response_feed(struct response *r, char *p, size_t len, response_head_fn *head,
    response_body_fn *body, void *arg)
{
	enum response_result result;
	size_t at = 0, from, to, n;
	bool good = true;

	if (r->state == HEAD) {
		result = feed_head(r, p, len, &at);
		if (result != RESPONSE_COMPLETE)
			return result;
		if (!head(arg, r))
			return RESPONSE_STOPPED;
	}
	/* What stands between chunks is closed up. */
	from = to = at;
	while (at < len && r->state != DONE && good) {
		if (r->state == BODY_LENGTH || r->state == BODY_CLOSE || r->state == CHUNK_DATA) {
			n = body_run(r, len - at);
			if (to != at)
				memmove(p + to, p + at, n);
			to += n;
			at += n;
		} else if ((n = frame_run(r, p + at, len - at)) > 0) {
			at += n;
		} else {
			good = frame_byte(r, p[at++]);
		}
	}
	if (to > from && !body(arg, p + from, to - from))
		return RESPONSE_STOPPED;
	if (!good)
		return RESPONSE_BAD;
	r->leftover = at < len;
	return r->state == DONE ? RESPONSE_COMPLETE : RESPONSE_MORE;
}

enum response_result
response_eof(struct response *r)
{
	r->keep_alive = false;
	if (r->state == BODY_CLOSE)
		r->state = DONE;
	return r->state == DONE ? RESPONSE_COMPLETE : RESPONSE_MORE;
}
