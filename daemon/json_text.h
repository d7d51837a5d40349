#ifndef DAEMON_JSON_TEXT_H
#define DAEMON_JSON_TEXT_H

/*
 * The text of a JSON string, byte by byte: what json.c (which checks it) and json_value.c (which
 * decodes it) share.  Nobody else needs it.  Pure.
 */
#include <stdbool.h>
#include <stddef.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

static inline bool
json_is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* The first byte that a string's text cannot simply hold: '"', '\\', a control, not ASCII. */
static inline const char *
json_plain_end(const char *p, const char *end)
{
#ifdef __SSE2__
	const __m128i quote = _mm_set1_epi8('"'), backslash = _mm_set1_epi8('\\');
	const __m128i space = _mm_set1_epi8(0x20);

	for (; end - p >= 16; p += 16) {
		__m128i v = _mm_loadu_si128((const __m128i *)(const void *)p);
		/* Signed: bytes from 0x80 on are below 0x20 too. */
		__m128i stop = _mm_or_si128(_mm_cmplt_epi8(v, space),
		    _mm_or_si128(_mm_cmpeq_epi8(v, quote), _mm_cmpeq_epi8(v, backslash)));
		int mask = _mm_movemask_epi8(stop);

		if (mask != 0)
			return p + __builtin_ctz((unsigned)mask);
	}
#endif
	while (p < end && *p != '"' && *p != '\\' && (unsigned char)*p >= 0x20 &&
	    (unsigned char)*p < 0x80)
		p++;
	return p;
}

/* A string's decoded bytes, one at a time: for the few that have escapes and are compared. */
struct json_decoded {
	const char *p, *end;
	char out[4];
	size_t at, len;
};

/* The next decoded byte, or -1 at the end. */
int json_decoded_next(struct json_decoded *);
/* Order of two strings' decoded texts (without quotes), by bytes, a prefix first. */
int json_text_compare(const char *a, size_t a_len, const char *b, size_t b_len);

#endif
