#ifndef DAEMON_ANTHROPIC_H
#define DAEMON_ANTHROPIC_H

/* Anthropic's Messages API: named server-sent events.  Pure. */
#include "daemon/chat_request.h"
#include "daemon/delta.h"

/* What the beginning of a stream says of its input; zeroed at its start. */
struct anthropic {
	int64_t input, cache_read, cache_creation;
};

/*
 * Decode one event's data.  Spans point into scratch, which is reset here, until the next call.
 * Usage is given once, with the stop_reason: input_tokens counts what was neither read from nor
 * written to the cache, so the prompt is the sum of the three.  message_stop is DELTA_DONE; an
 * event of a type that is not known says nothing.
 */
void anthropic_decode(struct anthropic *, struct span data, struct buf *scratch, struct delta *);

/* The same of an answer in one body: a message. */
void anthropic_decode_whole(struct span body, struct buf *scratch, struct delta *);

/*
 * The request for /v1/messages, up to and without the token limit; anthropic_limit closes it.  -1
 * with *fault where something of it has no place in this dialect.
 */
int anthropic_write(const struct config *, const struct chat_request *, struct buf *,
    struct chat_fault *) __attribute__((warn_unused_result));
void anthropic_limit(struct buf *, bool max_completion_tokens, uint32_t max_tokens);

#endif
