#ifndef DAEMON_CHAT_REQUEST_H
#define DAEMON_CHAT_REQUEST_H

/*
 * The body of /chat/preview and /chat/send: what is asked of which model, checked field by
 * field, and the request that the provider gets for it.  Pure.
 */
#include <stdbool.h>
#include <stdint.h>

#include "daemon/buf.h"
#include "daemon/config.h"
#include "daemon/json.h"

struct chat_request {
	int model;               /* index in the config */
	struct json_value messages; /* an array, or JSON_NONE */
	struct json_value message;  /* a string, if there are no messages */
	struct json_value root;
	uint32_t max_tokens;     /* what the client asked for, or the model's maximum */
	bool max_completion_tokens; /* it used that name */
	bool include_usage;
	bool has_session;
	uint8_t session_id[16];
	uint32_t prompt_tokens;  /* by our count */
	uint64_t prompt_bytes;   /* no provider makes more prompt tokens of it than this */
};

struct chat_fault {
	int status; /* 400, 404 */
	const char *code, *param;
	char message[160];
};

/* Check a body; the request points into it.  -1 with *fault. */
int chat_request_parse(const struct config *, struct span body, struct chat_request *,
    struct chat_fault *) __attribute__((warn_unused_result));

/*
 * The provider's request (OpenAI chat completions, streaming, usage asked for), up to and
 * without the token limit; chat_request_limit closes it.
 */
void chat_request_body(const struct config *, const struct chat_request *, struct buf *);
void chat_request_limit(struct buf *, bool max_completion_tokens, uint32_t max_tokens);

/* The user's own words, as they are stored: the message, or the last of the messages. */
struct json_value chat_request_said(const struct chat_request *);

#endif
