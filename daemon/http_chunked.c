/*
 * Chunked transfer coding of request bodies (RFC 9112 7.1), as a machine over single bytes, so
 * that cuts in the input can't matter.  Pure; runs in workers.
 *
 * Extensions and trailers are checked, bounded and dropped.  Their bounds hold for the body as a
 * whole: else a body of one-byte chunks could cost thousands of times its size.
 */
#include <string.h>

#include "daemon/hex.h"
#include "daemon/http.h"
#include "daemon/http_chars.h"

#define SIZE_DIGITS_MAX 16
#define EXTENSIONS_MAX 4096
#define TRAILERS_MAX 4096

enum {
	SIZE_FIRST, /* the first digit must follow */
	SIZE,
	EXT_NAME_FIRST, /* after ';' */
	EXT_NAME,
	EXT_VALUE_FIRST, /* after '=' */
	EXT_VALUE,
	EXT_QUOTED,
	EXT_ESCAPED, /* after '\' in a quoted string */
	EXT_CLOSED,  /* after the closing quote */
	SIZE_LF,
	DATA,
	DATA_CR,
	DATA_LF,
	TRAILER_FIRST,
	TRAILER_NAME,
	TRAILER_VALUE,
	TRAILER_LF,
	LAST_LF,
	DONE,
};

static int
refuse(struct http_fault *fault, int status, const char *why)
{
	fault->status = status;
	fault->why = why;
	return -1;
}

/* The next state, or -1. */
static int
step_size(struct http_chunked *ch, char c, struct http_fault *fault)
{
	int digit = hex_digit(c);

	if (digit >= 0) {
		/* 16 digits are 64 bits: no overflow to look for. */
		if (ch->line++ >= SIZE_DIGITS_MAX)
			return refuse(fault, 400, "chunk size too long");
		ch->left = ch->left << 4 | (uint64_t)digit;
		return SIZE;
	}
	if (ch->state == SIZE && c == '\r')
		return SIZE_LF;
	if (ch->state == SIZE && c == ';')
		return EXT_NAME_FIRST;
	return refuse(fault, 400, "malformed chunk size");
}

static int
step_extension(struct http_chunked *ch, char c, struct http_fault *fault)
{
	bool token = http_char(c, HTTP_TCHAR), text = http_char(c, HTTP_FIELD) && (c & 0x80) == 0;
	bool may_end = ch->state == EXT_NAME || ch->state == EXT_VALUE || ch->state == EXT_CLOSED;

	if (++ch->extensions > EXTENSIONS_MAX)
		return refuse(fault, 400, "chunk extensions too long");
	if (may_end && c == '\r')
		return SIZE_LF;
	if (may_end && c == ';')
		return EXT_NAME_FIRST;
	switch (ch->state) {
	case EXT_NAME_FIRST:
	case EXT_NAME:
		if (token)
			return EXT_NAME;
		if (c == '=' && ch->state == EXT_NAME)
			return EXT_VALUE_FIRST;
		break;
	case EXT_VALUE_FIRST:
	case EXT_VALUE:
		if (token)
			return EXT_VALUE;
		if (c == '"' && ch->state == EXT_VALUE_FIRST)
			return EXT_QUOTED;
		break;
	case EXT_QUOTED:
		if (c == '"')
			return EXT_CLOSED;
		if (c == '\\')
			return EXT_ESCAPED;
		if (text)
			return EXT_QUOTED;
		break;
	case EXT_ESCAPED:
		if (text)
			return EXT_QUOTED;
		break;
	}
	return refuse(fault, 400, "malformed chunk extension");
}

/* A trailer must not frame or route (RFC 9110 6.5.1); we would drop it, others might not. */
static bool
trailer_forbidden(const struct http_chunked *ch)
{
	struct span name = {ch->name, ch->name_len};

	return span_case_eq(name, "content-length") || span_case_eq(name, "transfer-encoding") ||
	       span_case_eq(name, "host");
}

static int
step_trailer(struct http_chunked *ch, char c, struct http_fault *fault)
{
	if (++ch->trailers > TRAILERS_MAX)
		return refuse(fault, 431, "trailers too large");
	switch (ch->state) {
	case TRAILER_FIRST:
		if (c == '\r')
			return LAST_LF;
		ch->name_len = 0;
		/* FALLTHROUGH */
	case TRAILER_NAME:
		if (http_char(c, HTTP_TCHAR)) {
			/* Beyond its size nothing is remembered: no forbidden name is that long. */
			if (ch->name_len < sizeof(ch->name))
				ch->name[ch->name_len] = c;
			if (ch->name_len <= sizeof(ch->name))
				ch->name_len++;
			return TRAILER_NAME;
		}
		if (c != ':' || ch->state == TRAILER_FIRST)
			break;
		if (ch->name_len <= sizeof(ch->name) && trailer_forbidden(ch))
			break;
		return TRAILER_VALUE;
	case TRAILER_VALUE:
		if (c == '\r')
			return TRAILER_LF;
		if (http_char(c, HTTP_FIELD))
			return TRAILER_VALUE;
		break;
	}
	return refuse(fault, 400, "malformed trailer");
}

/* CR or LF exactly where it must be; a chunk's size is complete at its LF. */
static int
step_line_end(
    struct http_chunked *ch, char c, const struct buf *body, size_t max, struct http_fault *fault)
{
	if (c != (ch->state == DATA_CR ? '\r' : '\n'))
		return refuse(fault, 400, "malformed chunk");
	switch (ch->state) {
	case SIZE_LF:
		if (ch->left == 0)
			return TRAILER_FIRST;
		if (body->len > max || ch->left > max - body->len)
			return refuse(fault, 413, "body too large");
		return DATA;
	case DATA_CR:
		return DATA_LF;
	case DATA_LF:
		ch->line = 0;
		return SIZE_FIRST;
	case TRAILER_LF:
		return TRAILER_FIRST;
	}
	return DONE;
}

static int
step(struct http_chunked *ch, char c, const struct buf *body, size_t max, struct http_fault *fault)
{
	if (ch->state <= SIZE)
		return step_size(ch, c, fault);
	if (ch->state <= EXT_CLOSED)
		return step_extension(ch, c, fault);
	if (ch->state >= TRAILER_FIRST && ch->state <= TRAILER_VALUE)
		return step_trailer(ch, c, fault);
	return step_line_end(ch, c, body, max, fault);
}

enum http_parse
http_chunked_feed(struct http_chunked *ch, const char *bytes, size_t len, size_t *used,
    struct buf *body, size_t max, struct http_fault *fault)
{
	size_t at = 0, n;
	int next;

	while (at < len && ch->state != DONE) {
		if (ch->state != DATA) {
			next = step(ch, bytes[at++], body, max, fault);
			*used = at;
			if (next < 0)
				return HTTP_PARSE_BAD;
			ch->state = next;
			continue;
		}
		n = ch->left < len - at ? (size_t)ch->left : len - at;
		buf_add(body, bytes + at, n);
		if (body->failed) {
			refuse(fault, 503, "out of memory");
			return HTTP_PARSE_BAD;
		}
		at += n;
		ch->left -= n;
		if (ch->left == 0)
			ch->state = DATA_CR;
	}
	*used = at;
	return ch->state == DONE ? HTTP_PARSE_OK : HTTP_PARSE_MORE;
}
