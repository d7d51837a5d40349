#ifndef DAEMON_HTTP_CHARS_H
#define DAEMON_HTTP_CHARS_H

/* Which bytes HTTP's grammar allows where (RFC 9110 5.6.2, 5.5; RFC 9112 3.2).  Pure. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HTTP_TCHAR 1  /* token */
#define HTTP_FIELD 2  /* field value: visible, space, tab, obs-text */
#define HTTP_TARGET 4 /* request target: visible ASCII but '#' */
#define HTTP_HOST 8   /* uri-host and port */

extern const uint8_t http_chars[256];

static inline bool
http_char(char c, unsigned class)
{
	return (http_chars[(unsigned char)c] & class) != 0;
}

/* Are all of them of that class? */
static inline bool
http_all(const char *p, size_t len, unsigned class)
{
	unsigned all = class;

	for (size_t i = 0; i < len; i++)
		all &= http_chars[(unsigned char)p[i]];
	return all == class;
}

#endif
