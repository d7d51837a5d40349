#ifndef DAEMON_EMIT_H
#define DAEMON_EMIT_H

/*
 * What a watcher gets, framed in its dialect: typed, openai, content, text.  Pure: appends to a
 * buf.  Every frame is whole UTF-8.  The OpenAI dialects have no id: lines.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/buf.h"
#include "daemon/openai.h"

enum emit_format { EMIT_TYPED, EMIT_OPENAI, EMIT_CONTENT, EMIT_TEXT };

/* "typed", "openai", "content", "text"; -1 for anything else. */
int emit_format_by_name(struct span);

/* What stays the same during a stream. */
struct emit_stream {
	const char *stream_id, *session_id, *message_id, *model;
	uint32_t prompt_tokens;
	int64_t reserved;
	int64_t created; /* seconds since the epoch */
	bool include_usage;
	uint32_t choices; /* how many answers at once; 0 is 1 */
	const char *provider; /* who answers; NULL: not known yet */
	/* What emit_template() wrote for this stream; optional, makes the openai dialect faster. */
	struct span openai_head;
};

struct emit_end {
	uint8_t outcome; /* enum journal_outcome */
	uint32_t prompt_tokens, cached_tokens, completion_tokens;
	int64_t cost, balance;
	struct span full_text;
	const char *provider; /* who was asked last; NULL: nobody, or it is not known any more */
	const char *short_of; /* OUTCOME_CREDIT: for want of what; NULL: not known any more */
	/* Errors only: */
	const char *error_code, *error_type;
	int64_t retry_after; /* seconds; 0: not known */
	const char *request_id;
	const char *error_kind; /* how the provider failed; NULL: it is not that */
	struct span error_message;
};

/* The contract's finish_reason for an outcome ("stop", "credit", ...); NULL for failures. */
const char *emit_finish_reason(uint8_t outcome);

/* The beginning of each of the stream's openai chunks, for openai_head; the caller keeps buf. */
void emit_template(struct buf *, const struct emit_stream *);

/* offset: where the watcher begins; who came back inside the text is not to be sent to its start
 * by this event's id. */
void emit_begin(struct buf *, enum emit_format, const struct emit_stream *, uint64_t offset);
/* offset: UTF-8 bytes of the whole text after this piece; it becomes the event's id. */
void emit_text(struct buf *, enum emit_format, const struct emit_stream *, const char *text,
    size_t len, uint64_t offset);
/* Typed only; nothing in the others. */
void emit_meter(struct buf *, enum emit_format, uint64_t offset, uint32_t completion_tokens,
    int64_t cost, int64_t available);
/* The good end: done event, or finish chunk, usage chunk and [DONE].  An outcome that is a
 * failure (emit_finish_reason() is NULL) goes to emit_error. */
void emit_done(struct buf *, enum emit_format, const struct emit_stream *, const struct emit_end *,
    uint64_t offset);
/* For /v1: the finish chunk of an answer that we ended, and what is told of the usage. */
void emit_finish(struct buf *, const struct emit_stream *, const struct emit_end *);
void emit_usage(struct buf *, const struct emit_stream *, const struct emit_end *);
/* What it came to: ,"short_of"?,"usage":{...},"cost","balance". */
void emit_bill(struct buf *, const struct emit_end *);
/* What those hear who know OpenAI's own reasons only; NULL for failures. */
const char *emit_openai_reason(uint8_t outcome);
/* A member of our own for the last chunk: ,"tolld":{"finish","short_of"?,"cost"}. */
void emit_tolld(struct buf *, const struct emit_end *);
/* The bad end: an error event, never [DONE].  In the text format nothing can be said: the caller
 * aborts the connection. */
void emit_error(struct buf *, enum emit_format, const struct emit_stream *,
    const struct emit_end *, uint64_t offset);
/* The same as a whole JSON body, where nothing was sent yet. */
void emit_error_end(struct buf *, const struct emit_end *);
void emit_keepalive(struct buf *, enum emit_format);

/* Last-Event-ID: the text offset in it, and whether it is the last event's (the end was seen).
 * False if it is not one of ours. */
bool emit_parse_id(struct span, uint64_t *offset, bool *ended);

/* {"error":{"message","type","code","param"}...}; param NULL prints null. */
void emit_error_body(struct buf *, const char *type, const char *code, const char *param,
    struct span message);

#endif
