/*
 * Is this UTF-8, and what to do if it is not.  Pure.
 */
#include "daemon/utf8.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

/* Length of the run of ASCII that the text begins with. */
static size_t
ascii_run(const char *text, size_t len)
{
	size_t i = 0;

#ifdef __SSE2__
	for (; i + 16 <= len; i += 16) {
		__m128i v = _mm_loadu_si128((const __m128i *)(const void *)(text + i));
		int mask = _mm_movemask_epi8(v);

		if (mask != 0)
			return i + (size_t)__builtin_ctz((unsigned)mask);
	}
#endif
	while (i < len && (unsigned char)text[i] < 0x80)
		i++;
	return i;
}

size_t
utf8_valid_prefix(const char *text, size_t len)
{
	size_t at = 0, n, bad;

	while (at < len) {
		at += ascii_run(text + at, len - at);
		/* Stay here while there is no ASCII: most scripts bring runs of it. */
		while (at < len && (unsigned char)text[at] >= 0x80) {
			n = utf8_char(text + at, len - at, &bad);
			if (n == 0)
				return at;
			at += n;
		}
	}
	return len;
}

bool
utf8_valid(const char *text, size_t len)
{
	return utf8_valid_prefix(text, len) == len;
}

size_t
utf8_partial(const char *text, size_t len)
{
	size_t back, bad;

	for (back = 1; back <= 3 && back <= len; back++) {
		unsigned char c = (unsigned char)text[len - back];

		if (c < 0x80)
			return 0;
		if (c < 0xc0)
			continue;
		/* All of its bytes were accepted and it is still not whole. */
		if (utf8_char(text + len - back, back, &bad) == 0 && bad == back && c >= 0xc2 &&
		    c <= 0xf4)
			return back;
		return 0;
	}
	return 0;
}

void
utf8_repair(struct buf *out, const char *text, size_t len)
{
	size_t at = 0, good, bad;

	while (at < len) {
		good = utf8_valid_prefix(text + at, len - at);
		buf_add(out, text + at, good);
		at += good;
		if (at == len)
			return;
		(void)utf8_char(text + at, len - at, &bad);
		buf_add(out, UTF8_REPLACEMENT, 3);
		at += bad;
	}
}
