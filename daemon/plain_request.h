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
	PLAIN_FIELDS
};

/* What a dialect takes. */
struct plain_dialect {
	const char *name;
	unsigned takes; /* a bit for each plain_field */
	double temperature_max;
	bool empty_messages; /* it takes messages without a text */
	bool parts;          /* and parts of text, as they came */
};

struct plain_request {
	struct json_value field[PLAIN_FIELDS]; /* checked; JSON_NONE: not said */
};

enum plain_role { PLAIN_SYSTEM, PLAIN_USER_SAYS, PLAIN_ASSISTANT };

/* -1 with *fault: a field of the request is not for this dialect, or is not what it should be. */
int plain_request_read(const struct plain_dialect *, const struct chat_request *,
    struct plain_request *, struct chat_fault *) __attribute__((warn_unused_result));
/* Likewise one of its messages: who says it, and its content, a string, parts of text, or null. */
int plain_message_read(const struct plain_dialect *, struct json_value message, enum plain_role *,
    struct json_value *content, struct chat_fault *) __attribute__((warn_unused_result));

/* A content as one JSON string: parts are joined by line feeds; null is "". */
void plain_content_write(struct json_value content, struct buf *);
/* "key":value, for a field that was said; nothing otherwise. */
void plain_field_write(
    const struct plain_request *, enum plain_field, const char *key, struct buf *);
/* "key":[stops], likewise: one text becomes a list of one. */
void plain_stop_write(const struct plain_request *, const char *key, struct buf *);

#endif
