#ifndef DAEMON_TOKENIZER_VOCAB_H
#define DAEMON_TOKENIZER_VOCAB_H

/* What a tokenizer is: between tokenizer.c and tokenizer_stream.c. */
#include "daemon/tokenizer_merge.h"
#include "daemon/tokenizer_table.h"

struct tokenizer {
	char *name; /* as it was asked for */
	bool exact;
	struct split_rule rule;
	struct token_table table;
	struct merge_cache *cache; /* this process's */
};

#endif
