#ifndef DAEMON_MESSAGES_WRITE_H
#define DAEMON_MESSAGES_WRITE_H

/* What the writers of Anthropic's requests in OpenAI's words share.  Pure; for them only. */
#include "daemon/messages_request.h"

/* One request being read. */
struct reading {
	struct messages_request *r;
	struct buf *b;
	struct chat_fault *f;
};

void messages_raw(struct reading *, struct json_value);
void messages_comma(struct reading *, bool *first);
/* Note what is lost; the first thing is the one that is told. */
void messages_lose(struct chat_fault *lost, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Members of an object that are none of these (a list ended by NULL) are lost. */
void messages_lose_others(struct reading *, struct json_value object, const char *const known[],
    const char *param, const char *where);
/* A name from the request, cut to what there is room for; returns out. */
const char *messages_name(struct json_value, char out[static 40]);
/* null, false, and empty lists and objects. */
bool messages_say_nothing(struct json_value);

/* ,"messages":[...], the system's ahead; -1 with *f. */
int messages_write(struct reading *, struct json_value system, struct json_value list)
    __attribute__((warn_unused_result));

#endif
