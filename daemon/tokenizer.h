#ifndef DAEMON_TOKENIZER_H
#define DAEMON_TOKENIZER_H

/*
 * How many tokens a text is: whole texts (prompts) and texts that grow (answers).  Pure but for
 * vocabularies, which are mapped by tokenizer_open and read-only from then on; any process.  Text
 * is valid UTF-8 (what is not counts as U+FFFD would, and does no harm).
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/tokenizer_split.h"

struct tokenizer;

/*
 * By the config's name: "estimate", one that is installed ("o200k_base"), or the path of a table
 * (it has a slash).  The same one for the same name, for the life of the process; NULL with a
 * sentence in why.
 */
const struct tokenizer *tokenizer_open(const char *name, char *why, size_t why_size)
    __attribute__((warn_unused_result));
/* One that was opened already, or NULL. */
const struct tokenizer *tokenizer_find(const char *name);
/*
 * Processes that were forked before a tokenizer was opened get its file: what is opened from now
 * on keeps it (tokenizer_keep_files), number by number (how many there are is tokenizer_opened), to
 * be adopted elsewhere in the same order, without a check, and dropped when all have it.
 */
void tokenizer_keep_files(void);
int tokenizer_opened(void);
int tokenizer_file(int number, const char **name); /* -1: it has none */
void tokenizer_drop_files(void);
/* -1 with errno; the descriptor stays the caller's. */
int tokenizer_adopt(const char *name, int fd) __attribute__((warn_unused_result));

const char *tokenizer_name(const struct tokenizer *);
/* Does it count as its model does?  The estimate does not. */
bool tokenizer_exact(const struct tokenizer *);

/*
 * Counts are multiplied by a factor: 1 for exact tokenizers, for the estimate its safety margin,
 * as long as nothing is known of the model (daemon/calibrate.h).
 */
#define TOKENS_SCALE 1024u
uint32_t tokenizer_scale(const struct tokenizer *);

/* Tokens in a whole text, times scale / TOKENS_SCALE, rounded up. */
uint32_t tokenizer_count(const struct tokenizer *, uint32_t scale, const char *text, size_t len);

/*
 * A growing text's count.  TOKEN_TAIL bytes are enough for the piece that is still open; a longer
 * one takes 4.4 KB more until it ends.
 */
#define TOKEN_TAIL 96

struct token_stream {
	const struct tokenizer *tokenizer;
	struct token_grown *grown; /* an open piece longer than the tail, else NULL */
	uint32_t scale;
	uint32_t closed; /* tokens of the pieces that have ended; before the factor, as `now` is */
	uint32_t now;    /* all tokens: appending text may make it less */
	uint32_t count;  /* what the meter shows: after the factor, and it never goes back */
	struct split split;
	char tail[TOKEN_TAIL];
};

void token_stream_init(struct token_stream *, const struct tokenizer *, uint32_t scale);
void token_stream_fini(struct token_stream *);
/* Append a piece that ends on a whole character; the new count, never lower than before. */
uint32_t token_stream_append(struct token_stream *, const char *text, size_t len);
/* Tokens of what was appended, after the factor; unlike the count it may go back. */
uint32_t token_stream_now(const struct token_stream *);
/*
 * The longest prefix of `text` (whole characters) that keeps the count at or below `limit`, even
 * if the count was above it on the way; it is appended.  Returns its length in bytes.  Of a longer
 * text no more than about that is looked at.
 */
size_t token_stream_fit(struct token_stream *, const char *text, size_t len, uint32_t limit);

#endif
