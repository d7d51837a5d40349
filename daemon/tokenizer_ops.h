#ifndef DAEMON_TOKENIZER_OPS_H
#define DAEMON_TOKENIZER_OPS_H

/* The seam between tokenizer.c and the engines that count. */
#include "daemon/tokenizer.h"

struct tokenizer_ops {
	const char *name; /* the config's */
	bool exact;
	uint32_t (*append)(struct token_stream *, const char *text, size_t len);
	size_t (*fit)(struct token_stream *, const char *text, size_t len, uint32_t limit);
};

/* estimate.c */
uint32_t estimate_append(struct token_stream *, const char *text, size_t len);
size_t estimate_fit(struct token_stream *, const char *text, size_t len, uint32_t limit);

#endif
