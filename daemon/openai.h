#ifndef DAEMON_OPENAI_H
#define DAEMON_OPENAI_H

/*
 * OpenAI's chat completions: the request, and events of the stream, from JSON to a delta.  Pure.
 * Knows what OpenRouter, vLLM, Azure, DeepSeek, Mistral and Groq do differently.
 */
#include "daemon/chat_request.h"
#include "daemon/delta.h"

/*
 * Decode one event's data.  Spans point into scratch, which is reset here, until the next call.
 * A finish_reason that means failure ("error", "abort", "insufficient_system_resource") is a
 * DELTA_ERROR too; others that are not known are OUTCOME_STOP.
 */
void openai_decode(const char *data, size_t len, struct buf *scratch, struct delta *);

/* The same of an answer in one body: chat.completion. */
void openai_decode_whole(struct span body, struct buf *scratch, struct delta *);

/* The message inside a JSON error body of any dialect, decoded into scratch; "" if it is none. */
struct span openai_error_message(const char *body, size_t len, struct buf *scratch);

/*
 * The request for /chat/completions (streaming, usage asked for), up to and without the token
 * limit; openai_limit closes it.  Always 0: what is not ours goes as it came.
 */
int openai_write(const struct config *, const struct chat_request *, struct buf *,
    struct chat_fault *);
void openai_limit(struct buf *, bool max_completion_tokens, uint32_t max_tokens);

#endif
