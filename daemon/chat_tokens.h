#ifndef DAEMON_CHAT_TOKENS_H
#define DAEMON_CHAT_TOKENS_H

/*
 * Tokens of a prompt: its texts, and what the chat format puts around them, as OpenAI's models
 * count it (docs/metering.md says how well it is known).  Pure.
 */
#include <stdint.h>

#include "daemon/config.h"
#include "daemon/json.h"

/* Once a request, for the beginning of the answer; once a message, beside its role. */
#define CHAT_TOKENS_REQUEST 3
#define CHAT_TOKENS_MESSAGE 3
#define CHAT_TOKENS_NAME 1

/* How much a model's counts are worth: taken once a request. */
struct chat_counter {
	const struct tokenizer *tokenizer;
	uint32_t scale;
	uint32_t image_tokens;
};

struct chat_counter chat_counter(const struct config_model *);
/* A text as it is; a JSON string's text (-1: no memory); a JSON value as it is written. */
uint32_t chat_tokens_bytes(const struct chat_counter *, const char *text, size_t len);
int chat_tokens_text(const struct chat_counter *, struct json_value text, uint32_t *tokens)
    __attribute__((warn_unused_result));
uint32_t chat_tokens_json(const struct chat_counter *, struct json_value);
/*
 * A value that only the provider knows.  Its words count as a prompt's; what has none (speech, a
 * file) is far less than a token for sixteen bytes of it.  -1: no memory.
 */
int chat_tokens_unknown(const struct chat_counter *, struct json_value, uint32_t *tokens)
    __attribute__((warn_unused_result));
/*
 * What a list of tools (or of functions, as it was before) adds.  Where we have the model's
 * tokenizer it is counted as the provider rewrites it, otherwise as it is written, which is more.
 */
int chat_tokens_tools(const struct chat_counter *, struct json_value tools, uint32_t *tokens)
    __attribute__((warn_unused_result));

#endif
