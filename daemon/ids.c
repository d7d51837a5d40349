/*
 * Ids as base64url (RFC 4648, section 5).  Only the canonical text of an id is accepted, so that
 * one id never has two spellings.  Any process.
 */
#include "daemon/ids.h"

#include <string.h>
#include <sys/random.h>

#include "daemon/log.h"

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

void
id_random(void *out, size_t n)
{
	unsigned char *p = out;

	while (n > 0) {
		ssize_t got = getrandom(p, n, 0);

		if (got < 0)
			fatal("getrandom");
		p += got;
		n -= (size_t)got;
	}
}

static void
encode(const uint8_t *in, size_t n, char *out)
{
	uint32_t bits = 0;
	unsigned have = 0;

	for (size_t i = 0; i < n; i++) {
		bits = bits << 8 | in[i];
		for (have += 8; have >= 6; have -= 6)
			*out++ = alphabet[bits >> (have - 6) & 63];
	}
	if (have > 0)
		*out++ = alphabet[bits << (6 - have) & 63];
	*out = '\0';
}

static int
value(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == '-' ? 62 : c == '_' ? 63 : -1;
}

/* Text of exactly ceil(n * 8 / 6) characters into n bytes; left-over bits must be zero. */
static bool
decode(const char *text, size_t len, uint8_t *out, size_t n)
{
	uint32_t bits = 0;
	unsigned have = 0;
	size_t at = 0;

	if (len != (n * 8 + 5) / 6)
		return false;
	for (size_t i = 0; i < len; i++) {
		int v = value(text[i]);

		if (v < 0)
			return false;
		bits = bits << 6 | (uint32_t)v;
		have += 6;
		if (have >= 8) {
			have -= 8;
			out[at++] = (uint8_t)(bits >> have);
		}
	}
	return (bits & ((1u << have) - 1)) == 0;
}

void
id_format(const uint8_t id[static 16], char text[static ID_LEN + 1])
{
	encode(id, 16, text);
}

bool
id_parse(const char *text, size_t len, uint8_t id[static 16])
{
	return decode(text, len, id, 16);
}

void
stream_id_format(const struct stream_id *id, char text[static STREAM_ID_LEN + 1])
{
	uint8_t raw[21];

	memcpy(raw, id->secret, 16);
	raw[16] = id->proc;
	for (int i = 0; i < 4; i++)
		raw[17 + i] = (uint8_t)(id->generation >> 8 * (3 - i));
	encode(raw, sizeof raw, text);
}

bool
stream_id_parse(const char *text, size_t len, struct stream_id *id)
{
	uint8_t raw[21];

	if (!decode(text, len, raw, sizeof raw))
		return false;
	memcpy(id->secret, raw, 16);
	id->proc = raw[16];
	id->generation = 0;
	for (int i = 0; i < 4; i++)
		id->generation = id->generation << 8 | raw[17 + i];
	return true;
}
