/*
 * Taking secrets out of a provider's words.  Pure.
 *
 * Masked while it is copied: what the end of the room cuts off might be a part of a key.
 */
#include "daemon/redact.h"

#include <string.h>
#include <strings.h>

#define PREFIX_MIN 6 /* so much of a key's beginning gives it away */
#define WORD_MIN 8

static bool
in_word(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
	       c == '-' || c == '_' || c == '*';
}

static size_t
word_len(struct span rest)
{
	size_t n = 0;

	while (n < rest.len && in_word(rest.p[n]))
		n++;
	return n;
}

/* Bytes of a whole key that stands here; 0: none. */
static size_t
key_at(struct span rest, char *const *keys, int n)
{
	for (int i = 0; i < n; i++) {
		size_t len = strlen(keys[i]);

		if (len > 0 && rest.len >= len && memcmp(rest.p, keys[i], len) == 0)
			return len;
	}
	return 0;
}

/* Of letters alone, as a word of a language is and the rest of a key is not. */
static bool
is_plain(struct span word)
{
	for (size_t i = 0; i < word.len; i++)
		if ((word.p[i] | 0x20) < 'a' || (word.p[i] | 0x20) > 'z')
			return false;
	return true;
}

static bool
looks_secret(struct span word, char *const *keys, int n)
{
	for (int i = 0; i < n; i++)
		if (word.len >= PREFIX_MIN && !is_plain(word) &&
		    strncmp(word.p, keys[i], PREFIX_MIN) == 0)
			return true;
	return word.len >= WORD_MIN &&
	       (strncasecmp(word.p, "sk-", 3) == 0 || memmem(word.p, word.len, "**", 2) != NULL);
}

static bool
announces_secret(struct span word)
{
	return span_case_eq(word, "bearer") || span_case_eq(word, "basic");
}

static bool
is_continuation(char c)
{
	return ((unsigned char)c & 0xc0) == 0x80;
}

void
redact(char *to, size_t size, struct span message, char *const *keys, int n)
{
	size_t i = 0, out = 0, skip;
	bool announced = false, word_begins = true;

	while (i < message.len && out < size - 1) {
		struct span rest = {message.p + i, message.len - i};
		struct span word = {rest.p, word_len(rest)};

		skip = key_at(rest, keys, n);
		if (skip == 0 && word_begins && word.len > 0) {
			if (announced || looks_secret(word, keys, n))
				skip = word.len;
			announced = skip == 0 && announces_secret(word);
		}
		if (skip > 0) {
			to[out++] = '*';
			i += skip;
			word_begins = announced = false;
			continue;
		}
		word_begins = !in_word(rest.p[0]);
		to[out++] = rest.p[0];
		i++;
	}
	if (i < message.len && is_continuation(message.p[i])) {
		while (out > 0 && is_continuation(to[out - 1]))
			out--;
		if (out > 0)
			out--;
	}
	to[out] = '\0';
}
