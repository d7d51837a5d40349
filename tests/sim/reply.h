/*
 * One answer of the simulated provider, as a producer of bytes: it is asked to fill a buffer and
 * says what comes next.  It knows nothing of sockets.
 */
#ifndef TOLLD_SIM_REPLY_H
#define TOLLD_SIM_REPLY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "request.h"
#include "script.h"

/* A buffer that grows; out of memory ends the process. */
struct buf {
	char *p;
	size_t len, cap;
};

void buf_need(struct buf *, size_t more);
void buf_free(struct buf *);
void buf_put(struct buf *, const char *s, size_t len);
void buf_printf(struct buf *, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

enum reply_next {
	REPLY_MORE,  /* the buffer is full, call again once it is sent */
	REPLY_WAIT,  /* nothing until due_ns */
	REPLY_END,   /* whole */
	REPLY_FAULT, /* whole, but with a fault in it that the script asked for */
	REPLY_CUT,   /* close the connection now */
	REPLY_RESET, /* abort it */
	REPLY_STALL, /* say nothing more until the client leaves */
};

struct speech;

enum reply_phase {
	PHASE_DELAY,       /* nothing sent; ends when delay is over */
	PHASE_HEADER,      /* the head, or its first line, is next */
	PHASE_HEADER_REST, /* the head without its first line is next */
	PHASE_ROLE,        /* what comes before the first token is next */
	PHASE_TOKENS,      /* until `visible` tokens are out */
	PHASE_FINISH,      /* finish reason, usage and end mark are next */
	PHASE_BODY,        /* a plain body is next */
	PHASE_OVER,
};

struct reply {
	enum reply_phase phase;
	struct script sc;
	bool stream, chunked, keepalive, show_usage, usage_null, length_finish, faulted, no_reason;
	uint64_t due_ns;       /* of the next thing that waits */
	uint64_t first_due_ns; /* of the first token */
	double token_ns;       /* between tokens; 0 at full speed */
	const struct pieces *pieces;
	struct pieces literal; /* what pieces points to where the answer is a literal */
	size_t piece_at;
	int64_t visible; /* tokens that will be shown */
	int64_t hidden;  /* reasoning tokens, only reported */
	int64_t prompt;
	int64_t sent;     /* tokens shown so far, in each choice */
	unsigned choices; /* how many answers at once, OpenAI's n */
	bool logprobs;
	size_t event_max;      /* bytes of the largest content event */
	int64_t chunk_events;  /* events in the open HTTP chunk */
	size_t chunk_at;       /* where it begins in the buffer */
	unsigned chunk_digits; /* of its size, as guessed from the one before */
	bool chunk_open;
	int status;
	const char *content_type;
	int64_t retry_after;
	uint64_t id;
	long created;
	const struct speech *speech; /* its dialect */
	const char *eol, *event_eol; /* the ends of a line and of an event */
	char head[320];              /* of a content event, up to the text */
	size_t index_at;             /* where a choice's number stands in it (openai) */
	size_t head_len;
	size_t base_len; /* of it, what other events begin with, too (openai) */
	char tail[256];  /* of a content event, after the text */
	size_t tail_len;
	struct buf body; /* of a plain reply */
};

/* Answer a chat call as the script says; takes the script over.  The body is what echo=1 echoes. */
void reply_chat(struct reply *, struct script *, const struct chat *, const struct request *,
    const char *body, size_t body_len, uint64_t id, uint64_t now_ns);

/* An answer with embeddings, and one with a count of tokens. */
void reply_embeddings(
    struct reply *, const struct script *, const struct embed *, const struct request *);
void reply_count(struct reply *, const struct chat *, const struct request *);

/* A plain reply with a body that the caller puts into r->body. */
void reply_plain(struct reply *, const struct request *, int status, const char *content_type);

/* An error in the shape of the request's dialect; code and param may be NULL. */
void reply_error(struct reply *, const struct request *, int status, const char *code,
    const char *param, const char *message);

/* Append what is due, about `goal` bytes at most. */
enum reply_next reply_fill(struct reply *, struct buf *, size_t goal);

void reply_fini(struct reply *);

uint64_t clock_ns(void);

#endif
