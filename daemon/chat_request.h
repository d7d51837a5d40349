#ifndef DAEMON_CHAT_REQUEST_H
#define DAEMON_CHAT_REQUEST_H

/*
 * The body of /chat/preview and /chat/send, or of /v1/chat/completions: what is asked of which
 * model, checked field by field.  What the provider gets for it is its dialect's to write
 * (daemon/dialect.h).  Pure.
 */
#include <stdbool.h>
#include <stdint.h>

#include "daemon/buf.h"
#include "daemon/config.h"
#include "daemon/json.h"

struct messages_request;

struct chat_request {
	int model;               /* index in the config */
	struct json_value messages; /* an array, or JSON_NONE */
	struct json_value message;  /* a string, if the client gave no messages */
	struct json_value root;
	uint32_t max_tokens;     /* what the client asked for, or the model's maximum; of all choices */
	uint32_t choices;        /* OpenAI's n */
	bool v1;                 /* OpenAI's own contract: what we don't know is not ours */
	bool whole;              /* the answer is wanted in one body */
	bool in_one_piece;       /* and a provider may be asked for it so */
	/* What this says in OpenAI's words, of a client of Anthropic's; NULL: of one of OpenAI's. */
	const struct messages_request *native;
	uint32_t least;          /* tokens that a provider must be allowed; 0: any */
	bool max_completion_tokens; /* it used that name */
	bool include_usage;
	bool has_session;
	uint8_t session_id[16];
	uint32_t prompt_tokens;  /* by our count */
	uint64_t prompt_bytes;   /* no provider makes more prompt tokens of it than this */
};

struct chat_fault {
	int status; /* 400, 404 */
	const char *code, *param; /* param: a literal, or in `field` */
	char field[64];
	char message[200];
};

/* Check a body; the request points into it.  -1 with *fault. */
int chat_request_parse(const struct config *, struct span body, struct chat_request *,
    struct chat_fault *) __attribute__((warn_unused_result));

/* The same of OpenAI's own contract: any content, several choices, an answer in one body. */
int chat_request_parse_v1(const struct config *, struct span body, struct chat_request *,
    struct chat_fault *) __attribute__((warn_unused_result));

/* Only that it is an object, and which model it names: for what is no chat. */
int chat_request_parse_model(const struct config *, struct span body, struct chat_request *,
    struct chat_fault *) __attribute__((warn_unused_result));

/* Is this member of the body for us, and not the provider's as it came? */
bool chat_request_is_ours(const struct chat_request *, struct json_value key);
/* Fill in a 400 that names a field; -1. */
int chat_request_refuse(struct chat_fault *, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/*
 * The session's past goes in front of the message: `messages` is an array that ends with it, whose other
 * ones are so many tokens; it must outlive the request.  There is room in the model's context.
 */
void chat_request_put_past(const struct config *, struct chat_request *,
    struct json_value messages, uint32_t tokens);

/* The user's own words, as they are stored: the message, or the last of the messages. */
struct json_value chat_request_said(const struct chat_request *);

#endif
