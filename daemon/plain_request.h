#ifndef DAEMON_PLAIN_REQUEST_H
#define DAEMON_PLAIN_REQUEST_H

/*
 * An OpenAI-style request for a provider that speaks something else: what it says, member by
 * member, checked for what that dialect has a place for.  Nothing is dropped in silence: what has
 * none is refused by its name.  null, false, and empty lists and objects say nothing.  Pure; for
 * the dialects' writers.
 */
#include "daemon/chat_request.h"

enum plain_field {
	PLAIN_TEMPERATURE,
	PLAIN_TOP_P,
	PLAIN_TOP_K,
	PLAIN_STOP,
	PLAIN_SEED,
	PLAIN_USER,
	PLAIN_PRESENCE_PENALTY,
	PLAIN_FREQUENCY_PENALTY,
	PLAIN_RESPONSE_FORMAT,
	PLAIN_TOOLS,
	PLAIN_TOOL_CHOICE,
	PLAIN_PARALLEL_TOOL_CALLS,
	PLAIN_REASONING_EFFORT,
	PLAIN_THINKING, /* Anthropic's own, as its OpenAI-style endpoint takes it too */
	PLAIN_FIELDS
};

/* What a dialect takes. */
struct plain_dialect {
	const char *name;
	unsigned takes; /* a bit for each plain_field */
	double temperature_max;
	bool empty_messages; /* it takes messages without a text */
	bool parts;          /* and parts of text, as they came */
	bool image_urls;     /* images need not be in the request */
};

struct plain_request {
	struct json_value field[PLAIN_FIELDS]; /* checked; JSON_NONE: not said */
};

/* How a request says which tool is to be called. */
enum plain_choice { CHOICE_AUTO, CHOICE_NONE, CHOICE_REQUIRED, CHOICE_ONE };

struct plain_tools {
	struct json_value list; /* JSON_NONE: there are none */
	enum plain_choice choice;
	bool chosen;            /* it was said */
	struct json_value name; /* CHOICE_ONE */
	bool one_at_a_time;
};

struct plain_tool {
	/* Strings, an object, a flag; JSON_NONE where not said. */
	struct json_value name, description, parameters, strict;
};

enum plain_role { PLAIN_SYSTEM, PLAIN_USER_SAYS, PLAIN_ASSISTANT, PLAIN_TOOL };

struct plain_message {
	enum plain_role role;
	struct json_value content; /* a string, parts, or null */
	struct json_value calls;   /* an assistant's, or JSON_NONE */
	struct json_value call_id; /* of the call that a tool answers */
};

struct plain_call {
	struct json_value id, name; /* strings */
	struct buf arguments;       /* a JSON object; the caller frees */
};

struct plain_image {
	bool inlined; /* media type and base64, else a URL */
	struct span media, data, url;
};

/* -1 with *fault: a field of the request is not for this dialect, or is not what it should be. */
int plain_request_read(const struct plain_dialect *, const struct chat_request *,
    struct plain_request *, struct chat_fault *) __attribute__((warn_unused_result));
/* Likewise its tools, and each of them. */
int plain_tools_read(const struct plain_request *,
    struct plain_tools *, struct chat_fault *) __attribute__((warn_unused_result));
int plain_tool_read(const struct plain_dialect *, struct json_value tool, struct plain_tool *,
    struct chat_fault *) __attribute__((warn_unused_result));
/* Likewise one of its messages, whose parts are texts and images; and an assistant's call. */
int plain_message_read(const struct plain_dialect *, struct json_value message,
    struct plain_message *, struct chat_fault *) __attribute__((warn_unused_result));
int plain_call_read(struct json_value call, struct plain_call *, struct chat_fault *)
    __attribute__((warn_unused_result));
/* An image among the parts of a message that was read; its spans point into scratch. */
bool plain_is_image(struct json_value part);
int plain_image_read(const struct plain_dialect *, struct json_value part, struct buf *scratch,
    struct plain_image *, struct chat_fault *) __attribute__((warn_unused_result));

/* A content as one JSON string: texts are joined by line feeds; null is "". */
void plain_content_write(struct json_value content, struct buf *);
/* "key":value, for a field that was said; nothing otherwise. */
void plain_field_write(
    const struct plain_request *, enum plain_field, const char *key, struct buf *);
/* "key":[stops], likewise: one text becomes a list of one. */
void plain_stop_write(const struct plain_request *, const char *key, struct buf *);

/* For the readers of messages and tools: "'PARAM' has WHAT, which has no place ..."; -1. */
int plain_refuse(const struct plain_dialect *, const char *param, const char *what,
    struct chat_fault *);
int plain_refuse_key(const struct plain_dialect *, const char *param, const char *where,
    struct json_value key, struct chat_fault *);
/* null, false, and empty lists and objects. */
bool plain_says_nothing(struct json_value);

#endif
