/*
 * What goes out, as bytes: growing buffers, and the HTTP around an answer: its head, and the chunks
 * around a stream's events.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "speech.h"

/* What badlen=1 announces in front of a stream, whose length nobody knows beforehand. */
#define BADLEN_STREAM (1u << 30)

uint64_t
clock_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

void
buf_need(struct buf *b, size_t more)
{
	size_t cap = b->cap;

	if (b->cap - b->len >= more)
		return;
	while (cap - b->len < more)
		cap = cap < 512 ? 512 : cap * 2;
	b->p = realloc(b->p, cap);
	if (b->p == NULL) {
		perror("tolld-sim");
		exit(1);
	}
	b->cap = cap;
}

void
buf_free(struct buf *b)
{
	free(b->p);
	*b = (struct buf){0};
}

void
buf_put(struct buf *b, const char *s, size_t len)
{
	if (len == 0)
		return;
	buf_need(b, len);
	buf_put_there(b, s, len);
}

void
buf_printf(struct buf *b, const char *fmt, ...)
{
	va_list ap;
	int n;

	buf_need(b, 256);
	va_start(ap, fmt);
	n = vsnprintf(b->p + b->len, b->cap - b->len, fmt, ap);
	va_end(ap);
	if (n > 0 && (size_t)n >= b->cap - b->len) {
		buf_need(b, (size_t)n + 1);
		va_start(ap, fmt);
		n = vsnprintf(b->p + b->len, b->cap - b->len, fmt, ap);
		va_end(ap);
	}
	b->len += n > 0 ? (size_t)n : 0;
}

void
escaped_put(struct buf *b, const char *text)
{
	size_t len = strlen(text);

	buf_need(b, 6 * len + 1);
	b->len += words_escape(b->p + b->len, text, len);
}

/*
 * An HTTP chunk's size stands before its data.  Room for as many digits as the last chunk had is
 * left open; a wrong guess costs a memmove.
 */
void
chunk_begin(struct reply *r, struct buf *b)
{
	if (r->chunk_open)
		return;
	r->chunk_open = true;
	r->chunk_events = 0;
	r->chunk_at = b->len;
	if (r->chunked) {
		buf_need(b, r->chunk_digits + 2);
		b->len += r->chunk_digits + 2;
	}
}

void
chunk_end(struct reply *r, struct buf *b)
{
	static const char hex[] = "0123456789abcdef";
	size_t data_at = r->chunk_at + r->chunk_digits + 2, len;
	unsigned digits = 1;
	char *p;

	if (!r->chunk_open)
		return;
	r->chunk_open = false;
	if (!r->chunked)
		return;
	len = b->len - data_at;
	for (size_t rest = len >> 4; rest != 0; rest >>= 4)
		digits++;
	buf_need(b, digits + 4);
	if (digits != r->chunk_digits) {
		memmove(b->p + r->chunk_at + digits + 2, b->p + data_at, len);
		b->len = r->chunk_at + digits + 2 + len;
		r->chunk_digits = digits;
	}
	p = b->p + r->chunk_at + digits;
	p[0] = '\r';
	p[1] = '\n';
	for (size_t rest = len; digits-- > 0; rest >>= 4)
		*--p = hex[rest & 15];
	buf_put_there(b, "\r\n", 2);
}

void
event_end(struct reply *r, struct buf *b)
{
	if (++r->chunk_events >= r->sc.pack)
		chunk_end(r, b);
}

/* One line as an event of its own. */
void
line_event(struct reply *r, struct buf *b, const char *line)
{
	chunk_begin(r, b);
	buf_printf(b, "%s%s", line, r->event_eol);
	event_end(r, b);
}

static const char *
status_text(int status)
{
	switch (status) {
	case 200:
		return "OK";
	case 400:
		return "Bad Request";
	case 401:
		return "Unauthorized";
	case 403:
		return "Forbidden";
	case 404:
		return "Not Found";
	case 405:
		return "Method Not Allowed";
	case 413:
		return "Payload Too Large";
	case 429:
		return "Too Many Requests";
	case 431:
		return "Request Header Fields Too Large";
	case 500:
		return "Internal Server Error";
	case 502:
		return "Bad Gateway";
	case 503:
		return "Service Unavailable";
	case 504:
		return "Gateway Timeout";
	default:
		return "Other";
	}
}

void
status_line_put(const struct reply *r, struct buf *b)
{
	buf_printf(b, "HTTP/1.1 %d %s\r\n", r->status, status_text(r->status));
}

void
header_rest_put(const struct reply *r, struct buf *b)
{
	buf_printf(b, "Content-Type: %s\r\nx-request-id: req_%08llx\r\n", r->content_type,
	    (unsigned long long)r->id);
	if (r->stream)
		buf_printf(b, "Cache-Control: no-cache\r\n");
	if (r->retry_after >= 0)
		buf_printf(b, "Retry-After: %lld\r\n", (long long)r->retry_after);
	if (r->chunked)
		buf_printf(b, "Transfer-Encoding: chunked\r\n");
	else if (r->sc.badlen)
		buf_printf(
		    b, "Content-Length: %zu\r\n", r->stream ? BADLEN_STREAM : r->body.len + 100);
	else if (!r->stream && !r->sc.close)
		buf_printf(b, "Content-Length: %zu\r\n", r->body.len);
	buf_printf(b, "Connection: %s\r\n\r\n", r->keepalive ? "keep-alive" : "close");
}
