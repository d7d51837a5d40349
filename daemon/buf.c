/*
 * A growable byte buffer and the JSON string writer over it.  Any process; pure but for malloc.
 */
#include "daemon/buf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "shm/money.h"

#define BUF_CAP_MIN 64

bool
span_eq(struct span s, const char *text)
{
	size_t len = strlen(text);

	return s.len == len && (len == 0 || memcmp(s.p, text, len) == 0);
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

static bool
json_plain(unsigned char c)
{
	return c >= 0x20 && c < 0x80 && c != '"' && c != '\\';
}

/* How many bytes from p on are ASCII that JSON takes as it is. */
static size_t
plain_run(const unsigned char *p, size_t len)
{
	size_t i = 0;

#ifdef __SSE2__
	const __m128i quote = _mm_set1_epi8('"'), backslash = _mm_set1_epi8('\\');
	const __m128i space = _mm_set1_epi8(0x20);

	for (; i + 16 <= len; i += 16) {
		__m128i v = _mm_loadu_si128((const __m128i *)(const void *)(p + i));
		/* Signed: bytes from 0x80 on are below 0x20 too. */
		__m128i stop = _mm_or_si128(_mm_cmplt_epi8(v, space),
		    _mm_or_si128(_mm_cmpeq_epi8(v, quote), _mm_cmpeq_epi8(v, backslash)));
		int mask = _mm_movemask_epi8(stop);

		if (mask != 0)
			return i + (size_t)__builtin_ctz((unsigned)mask);
	}
#endif
	while (i < len && json_plain(p[i]))
		i++;
	return i;
}

/*
 * The length of the UTF-8 character at p (a byte from 0x80 on); 0 if there is none, and then
 * *bad is how many bytes one U+FFFD replaces (the maximal subpart, as Unicode recommends).
 */
static size_t
utf8_run(const unsigned char *p, size_t len, size_t *bad)
{
	unsigned char low = 0x80, high = 0xbf;
	size_t need, i;

	*bad = 1;
	if (p[0] < 0xc2 || p[0] > 0xf4)
		return 0;
	need = p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
	/* The second byte's range rules out overlong forms, surrogates, what is past U+10FFFF. */
	if (p[0] == 0xe0)
		low = 0xa0;
	else if (p[0] == 0xed)
		high = 0x9f;
	else if (p[0] == 0xf0)
		low = 0x90;
	else if (p[0] == 0xf4)
		high = 0x8f;
	for (i = 1; i < need; i++) {
		if (i >= len || p[i] < low || p[i] > high) {
			*bad = i;
			return 0;
		}
		low = 0x80;
		high = 0xbf;
	}
	return need;
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
	const unsigned char *p = (const unsigned char *)text;
	size_t from = 0, at = 0, n, bad;

	/* One growth for the usual case, where next to nothing is escaped. */
	if (len == 0 || buf_reserve(b, len + 2) == NULL)
		return;
	for (;;) {
		at += plain_run(p + at, len - at);
		if (at == len)
			break;
		if (p[at] >= 0x80) {
			n = utf8_run(p + at, len - at, &bad);
			if (n > 0) {
				at += n;
				continue;
			}
			buf_add(b, text + from, at - from);
			buf_add(b, "\xef\xbf\xbd", 3);
			at += bad;
		} else {
			buf_add(b, text + from, at - from);
			json_escape(b, p[at]);
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
