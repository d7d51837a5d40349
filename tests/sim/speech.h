/*
 * How the simulated provider says things: what the files that render an answer share.  A dialect
 * is a table of what each kind of event looks like in it; the order of events, the pace and the
 * faults are reply.c's.
 */
#ifndef TOLLD_SIM_SPEECH_H
#define TOLLD_SIM_SPEECH_H

#include <string.h>

#include "reply.h"

struct speech {
	const char *stream_type; /* media type of a stream */
	/* Render r->head and r->tail, which stand around the text of a content event. */
	void (*prepare)(struct reply *);
	/* The event before the first token. */
	void (*first)(struct reply *, struct buf *);
	/* The finish reason and the usage; with_reason: unless the script leaves it out. */
	void (*finish)(struct reply *, struct buf *, bool with_reason);
	/* The end mark. */
	void (*mark)(struct reply *, struct buf *);
	/* An error in mid-stream; a line that is no JSON; something that says nothing. */
	void (*error)(struct reply *, struct buf *);
	void (*garbage)(struct reply *, struct buf *);
	void (*comment)(struct reply *, struct buf *);
	/* The body of a refusal; code and param may be NULL. */
	void (*refusal)(
	    struct buf *, int status, const char *code, const char *param, const char *message);
	/* The answer as one body, without streaming. */
	void (*whole)(struct reply *);
};

extern const struct speech speech_openai, speech_ollama, speech_anthropic;

/* reply_http.c */

void status_line_put(const struct reply *, struct buf *);
void header_rest_put(const struct reply *, struct buf *);
void chunk_begin(struct reply *, struct buf *);
void chunk_end(struct reply *, struct buf *);
/* An event is rendered: the chunk ends when it holds as many as the script says. */
void event_end(struct reply *, struct buf *);
/* One line as an event of its own. */
void line_event(struct reply *, struct buf *, const char *line);

/* A text for a JSON string. */
void escaped_put(struct buf *, const char *text);

/* For a buffer that buf_need() has made large enough. */
static inline void
buf_put_there(struct buf *b, const char *s, size_t len)
{
	memcpy(b->p + b->len, s, len);
	b->len += len;
}

/* reply.c */

/* The numbers of the usage, as the script wants them told. */
struct counts {
	int64_t prompt, cached, completion, hidden;
	bool huge; /* completion is beyond 64 bits instead */
};
struct counts reply_counts(const struct reply *);
/* All tokens of the answer, and what a fault puts into its text. */
void reply_text(struct reply *, struct buf *);
/* A message for a JSON string; at most what `text` holds. */
int reply_escape(char *text, size_t size, const char *message);

extern const char reply_error_message[];

#endif
