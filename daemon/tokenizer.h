#ifndef DAEMON_TOKENIZER_H
#define DAEMON_TOKENIZER_H

/*
 * How many tokens a text is: whole texts (prompts) and texts that grow (answers).  Pure but for
 * tables that are read-only after tokenizer_init; any process.  Input is valid UTF-8.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum tokenizer {
	TOKENIZER_ESTIMATE,
	TOKENIZER_O200K_BASE,
	TOKENIZER_CL100K_BASE,
	TOKENIZER_COUNT
};

/* The config's name; -1 if there is none of that name. */
int tokenizer_by_name(const char *name);
const char *tokenizer_name(enum tokenizer);
/* Is the exact one built in?  If not, its counts are TOKENIZER_ESTIMATE's. */
bool tokenizer_exact(enum tokenizer);

/* Tokens in a whole text. */
uint32_t tokenizer_count(enum tokenizer, const char *text, size_t len);

/* A growing text's count.  Constant size; copy it to look ahead. */
struct token_stream {
	enum tokenizer tokenizer;
	uint32_t count; /* tokens so far; what the meter shows never goes back */
	uint64_t state; /* the tokenizer's own */
};

void token_stream_init(struct token_stream *, enum tokenizer);
/* Append a piece that ends on a whole character; the new count, never lower than before. */
uint32_t token_stream_append(struct token_stream *, const char *text, size_t len);
/*
 * The longest prefix of `text` (whole characters) that keeps the count at or below `limit`;
 * it is appended.  Returns its length in bytes.
 */
size_t token_stream_fit(struct token_stream *, const char *text, size_t len, uint32_t limit);

/* Tokens that the chat format adds: per message, and once per request. */
#define TOKENS_PER_MESSAGE 3
#define TOKENS_PER_REQUEST 3

#endif
