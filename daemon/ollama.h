#ifndef DAEMON_OLLAMA_H
#define DAEMON_OLLAMA_H

/* Ollama's native dialect: /api/chat, a JSON document a line.  Pure. */
#include "daemon/chat_request.h"
#include "daemon/delta.h"

/*
 * Decode one line.  Spans point into scratch, which is reset here, until the next call.  The last
 * line ("done":true) is DELTA_DONE with finish and usage; a line with "error" is DELTA_ERROR.
 */
void ollama_decode(struct span line, struct buf *scratch, struct delta *);

/*
 * The request for /api/chat, up to and without the token limit; ollama_limit closes it.  -1 with
 * *fault where something of it has no place in this dialect.
 */
int ollama_write(const struct config *, const struct chat_request *, struct buf *,
    struct chat_fault *) __attribute__((warn_unused_result));
void ollama_limit(struct buf *, bool max_completion_tokens, uint32_t max_tokens);

#endif
