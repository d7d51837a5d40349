#ifndef DAEMON_UTF8_H
#define DAEMON_UTF8_H

/*
 * UTF-8 as RFC 3629 has it: no overlong forms, no surrogates, nothing past U+10FFFF.
 * Pure; any process.
 */
#include <stdbool.h>
#include <stddef.h>

#include "daemon/buf.h"

#define UTF8_REPLACEMENT "\xef\xbf\xbd" /* U+FFFD */

/*
 * The character at p, of which `len` > 0 bytes are there: its length, or 0 if it is none; then
 * *bad is how many bytes one U+FFFD stands for (the maximal subpart, as WHATWG decodes).
 */
static inline size_t
utf8_char(const char *text, size_t len, size_t *bad)
{
	const unsigned char *p = (const unsigned char *)text;
	unsigned char low = 0x80, high = 0xbf;
	size_t need, i;

	*bad = 1;
	if (p[0] < 0x80)
		return 1;
	if (p[0] < 0xc2 || p[0] > 0xf4)
		return 0;
	need = p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
	/* The second byte's range rules out all that is too long, a surrogate or too high. */
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

/* Length of the longest prefix that is whole, valid characters. */
size_t utf8_valid_prefix(const char *, size_t);
bool utf8_valid(const char *, size_t);
/* How many bytes at the end begin a character that more bytes could complete: 0 to 3. */
size_t utf8_partial(const char *, size_t);
/* Append the text with U+FFFD for what is invalid; at most three times as long. */
void utf8_repair(struct buf *, const char *, size_t);

#endif
