#ifndef DAEMON_MESSAGES_REQUEST_H
#define DAEMON_MESSAGES_REQUEST_H

/*
 * The body of Anthropic's /v1/messages: checked, and said again in OpenAI's words, which is how
 * its prompt is counted and how it is written for providers of other dialects.  A provider of
 * Anthropic's gets it as it came.  Pure.
 */
#include <stdbool.h>

#include "daemon/buf.h"
#include "daemon/chat_request.h"

struct messages_request {
	struct json_value root; /* as it came; points into the body */
	struct buf openai;      /* a body of /v1/chat/completions */
	uint32_t thinking;      /* tokens that it may think: it needs more than that in all */
	/*
	 * What has no place in another dialect, in any or in OpenAI's: the first of it; param NULL:
	 * nothing.
	 */
	struct chat_fault lost, lost_openai;
};

/*
 * Read a body; bare: of count_tokens, which has no max_tokens.  -1 with *fault.  Either way the
 * caller frees it.
 */
int messages_request_read(struct span body, bool bare, struct messages_request *,
    struct chat_fault *) __attribute__((warn_unused_result));
void messages_request_free(struct messages_request *);

/* A refusal of what was written in OpenAI's words names their fields: name the client's. */
void messages_request_fault(const struct messages_request *, struct chat_fault *);

#endif
