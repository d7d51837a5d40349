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
	uint32_t tokens; /* 1, or what it is by a real tokenizer (words_exact) */
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
 * The same texts cut where a real tokenizer cuts them, so that what was sent is as many tokens as
 * its pieces say, wherever it ends: by npm's tiktoken, in words_exact.h, for texts that go round.
 */
enum exact { EXACT_NONE, EXACT_O200K, EXACT_CL100K };
/* "o200k_base" or "cl100k_base"; -1. */
int words_exact_find(const char *name);
const struct pieces *words_exact(enum lang, enum exact);
/* All texts as JSON, for who makes words_exact.h. */
void words_print(void);

/*
 * Cut a text into pieces of at most piece_max bytes (but always whole characters).  Put together
 * they are the text, byte for byte.  The caller frees the result with words_free().
 */
void words_cut(struct pieces *out, const char *text, size_t len, size_t piece_max);
void words_free(struct pieces *);

/* Escape for a JSON string; dst holds at least 6 * len bytes.  Returns the length written. */
size_t words_escape(char *dst, const char *src, size_t len);

#endif
