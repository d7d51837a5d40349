/* The texts that the simulated provider answers with, cut into pieces as a BPE would cut them. */
#ifndef TOLLD_SIM_WORDS_H
#define TOLLD_SIM_WORDS_H

#include <stddef.h>
#include <stdint.h>

enum lang { LANG_EN, LANG_RU, LANG_ZH, LANG_CODE, LANG_EMOJI, LANG_JSON, LANG_EVEN, LANG_MAX };

/* One token's text, escaped already for a JSON string. */
struct piece {
	const char *text;
	uint32_t len;
};

struct pieces {
	struct piece *v;
	size_t n;
	size_t len_max; /* of the longest piece */
	char *store;    /* what the pieces point into */
};

/* Index of a language's name, or -1. */
int words_lang_find(const char *name, size_t len);

/* The pieces of a language; made on first use, never freed. */
const struct pieces *words_lang(enum lang);

/*
 * Cut a text into pieces of at most piece_max bytes (but always whole characters).  Put together
 * they are the text, byte for byte.  The caller frees the result with words_free().
 */
void words_cut(struct pieces *out, const char *text, size_t len, size_t piece_max);
void words_free(struct pieces *);

/* Escape for a JSON string; dst holds at least 6 * len bytes.  Returns the length written. */
size_t words_escape(char *dst, const char *src, size_t len);

#endif
