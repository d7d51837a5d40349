/*
 * A growable byte buffer and the JSON string writer over it.  Any process; pure but for malloc.
 */
#include "daemon/buf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/json_text.h"
#include "daemon/utf8.h"
#include "shm/money.h"

#define BUF_CAP_MIN 64

bool
span_eq(struct span s, const char *text)
{
	size_t len = strlen(text);

	return s.len == len && (len == 0 || memcmp(s.p, text, len) == 0);
}

struct span
span_trim(struct span s)
{
	while (s.len > 0 && (s.p[0] == ' ' || s.p[0] == '\t'))
		s = (struct span){s.p + 1, s.len - 1};
	while (s.len > 0 && (s.p[s.len - 1] == ' ' || s.p[s.len - 1] == '\t'))
		s.len--;
	return s;
}

static char
ascii_lower(char c)
{
	return c >= 'A' && c <= 'Z' ? (char)(c | 0x20) : c;
}

bool
span_case_eq(struct span s, const char *text)
{
	if (s.len != strlen(text))
		return false;
	for (size_t i = 0; i < s.len; i++)
		if (ascii_lower(s.p[i]) != ascii_lower(text[i]))
			return false;
	return true;
}

void
buf_free(struct buf *b)
{
	free(b->data);
	*b = (struct buf){0};
}

char *
buf_reserve(struct buf *b, size_t n)
{
	size_t cap = b->cap > 0 ? b->cap : BUF_CAP_MIN;
	char *data;

	if (b->failed)
		return NULL;
	if (b->data != NULL && n <= b->cap - b->len)
		return b->data + b->len;
	/* Half of the address space is a bound that no doubling can pass by wrapping. */
	if (n > SIZE_MAX / 2 - b->len) {
		b->failed = true;
		return NULL;
	}
	while (cap < b->len + n)
		cap *= 2;
	data = realloc(b->data, cap);
	if (data == NULL) {
		b->failed = true;
		return NULL;
	}
	b->data = data;
	b->cap = cap;
	return b->data + b->len;
}

void
buf_add(struct buf *b, const void *bytes, size_t n)
{
	char *to;

	if (n == 0)
		return;
	to = buf_reserve(b, n);
	if (to == NULL)
		return;
	memcpy(to, bytes, n);
	b->len += n;
}

void
buf_str(struct buf *b, const char *text)
{
	buf_add(b, text, strlen(text));
}

void
buf_span(struct buf *b, struct span s)
{
	buf_add(b, s.p, s.len);
}

void
buf_vprintf(struct buf *b, const char *fmt, va_list ap)
{
	va_list again;
	size_t room;
	int n;

	if (buf_reserve(b, 1) == NULL)
		return;
	room = b->cap - b->len;
	va_copy(again, ap);
	n = vsnprintf(b->data + b->len, room, fmt, ap);
	if (n < 0) {
		b->failed = true;
	} else if ((size_t)n < room) {
		b->len += (size_t)n;
	} else if (buf_reserve(b, (size_t)n + 1) != NULL) {
		vsnprintf(b->data + b->len, (size_t)n + 1, fmt, again);
		b->len += (size_t)n;
	}
	va_end(again);
}

void
buf_printf(struct buf *b, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	buf_vprintf(b, fmt, ap);
	va_end(ap);
}

void
buf_u64(struct buf *b, uint64_t v)
{
	char digits[20];
	size_t at = sizeof(digits);

	do {
		digits[--at] = (char)('0' + v % 10);
		v /= 10;
	} while (v > 0);
	buf_add(b, digits + at, sizeof(digits) - at);
}

void
buf_money(struct buf *b, int64_t amount)
{
	char text[MONEY_TEXT_MAX];

	buf_add(b, text, money_format(text, amount));
}

static void
json_escape(struct buf *b, unsigned char c)
{
	static const char hex[] = "0123456789abcdef";
	static const char letter[32] = {
	    ['\b'] = 'b', ['\f'] = 'f', ['\n'] = 'n', ['\r'] = 'r', ['\t'] = 't'};
	char text[6] = {'\\', (char)c, '0', '0', 0, 0};

	if (c >= 0x20) {
		buf_add(b, text, 2);
	} else if (letter[c] != 0) {
		text[1] = letter[c];
		buf_add(b, text, 2);
	} else {
		text[1] = 'u';
		text[4] = hex[c >> 4];
		text[5] = hex[c & 15];
		buf_add(b, text, 6);
	}
}

void
buf_json_bare(struct buf *b, const char *text, size_t len)
{
	size_t from = 0, at = 0, n, bad;

	/* One growth for the usual case, where next to nothing is escaped. */
	if (len == 0 || buf_reserve(b, len + 2) == NULL)
		return;
	for (;;) {
		at = (size_t)(json_plain_end(text + at, text + len) - text);
		if (at == len)
			break;
		if ((unsigned char)text[at] >= 0x80) {
			n = utf8_char(text + at, len - at, &bad);
			if (n > 0) {
				at += n;
				continue;
			}
			buf_add(b, text + from, at - from);
			buf_str(b, UTF8_REPLACEMENT);
			at += bad;
		} else {
			buf_add(b, text + from, at - from);
			json_escape(b, (unsigned char)text[at]);
			at++;
		}
		from = at;
	}
	buf_add(b, text + from, at - from);
}

void
buf_json(struct buf *b, const char *text, size_t len)
{
	if (buf_reserve(b, len + 2) == NULL)
		return;
	buf_add(b, "\"", 1);
	buf_json_bare(b, text, len);
	buf_add(b, "\"", 1);
}

void
buf_consume(struct buf *b, size_t n)
{
	if (n >= b->len) {
		b->len = 0;
		return;
	}
	if (n == 0)
		return;
	memmove(b->data, b->data + n, b->len - n);
	b->len -= n;
}
