/*
 * Tokenizers by name, each a row of one table.  Pure.
 */
#include "daemon/tokenizer.h"

#include <string.h>

#include "daemon/tokenizer_ops.h"

static const struct tokenizer_ops table[TOKENIZER_COUNT] = {
    [TOKENIZER_ESTIMATE] = {"estimate", false, estimate_append, estimate_fit},
    [TOKENIZER_O200K_BASE] = {"o200k_base", false, estimate_append, estimate_fit},
    [TOKENIZER_CL100K_BASE] = {"cl100k_base", false, estimate_append, estimate_fit},
};

int
tokenizer_by_name(const char *name)
{
	for (int i = 0; i < TOKENIZER_COUNT; i++)
		if (strcmp(name, table[i].name) == 0)
			return i;
	return -1;
}

const char *
tokenizer_name(enum tokenizer t)
{
	return table[t].name;
}

bool
tokenizer_exact(enum tokenizer t)
{
	return table[t].exact;
}

uint32_t
tokenizer_count(enum tokenizer t, const char *text, size_t len)
{
	struct token_stream ts;

	token_stream_init(&ts, t);
	return token_stream_append(&ts, text, len);
}

void
token_stream_init(struct token_stream *ts, enum tokenizer t)
{
	*ts = (struct token_stream){.tokenizer = t};
}

uint32_t
token_stream_append(struct token_stream *ts, const char *text, size_t len)
{
	return table[ts->tokenizer].append(ts, text, len);
}

size_t
token_stream_fit(struct token_stream *ts, const char *text, size_t len, uint32_t limit)
{
	return table[ts->tokenizer].fit(ts, text, len, limit);
}
