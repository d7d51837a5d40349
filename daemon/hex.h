#ifndef DAEMON_HEX_H
#define DAEMON_HEX_H

/* A hexadecimal digit's value, or -1.  Pure. */
static inline int
hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c = (char)(c | 0x20);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

#endif
