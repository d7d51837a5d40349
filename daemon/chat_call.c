/*
 * POST /api/chat/stream and POST /api/chat: a request that is its own stream, for clients that
 * keep no session.  Worker process.
 *
 * The request is that of /chat/send.  The first answers in the dialect `content` and with a status
 * that waits for the first token; the second, for those whom a stream does not reach, with all of
 * it at once.  Nobody can come back to either: a client that leaves ends the call.
 */
#include <string.h>

#include "daemon/begin.h"
#include "daemon/watch_private.h"
#include "daemon/worker.h"

static void
text(struct buf *b, const char *before, const char *value)
{
	buf_str(b, before);
	buf_json(b, value, strlen(value));
}

static void
reply_whole(struct watcher *x)
{
	const struct stream *st = x->stream;
	struct emit_stream es;
	struct emit_end end;
	struct buf b = {0};

	stream_describe(st, &es);
	stream_end(st, &end);
	buf_str(&b, "{\"message\":");
	buf_json(&b, end.full_text.p, end.full_text.len);
	text(&b, ",\"finish_reason\":", emit_finish_reason(end.outcome));
	emit_bill(&b, &end);
	text(&b, ",\"model\":", es.model);
	text(&b, ",\"stream_id\":", es.stream_id);
	text(&b, ",\"session_id\":", es.session_id);
	text(&b, ",\"message_id\":", es.message_id);
	buf_str(&b, "}");
	watch_headers(x, true);
	conn_reply_buf(x->conn, 200, "application/json", &b);
	buf_free(&b);
	watch_unlink(x);
}

static void
feed_whole(struct watcher *x)
{
	const struct stream *st = x->stream;

	/* It takes whatever comes: the text is the stream's, and bounded there. */
	x->at = st->text.len;
	if (!stream_is_over(st))
		return;
	if (st->state != STREAM_ENDED || st->error_code != NULL ||
	    emit_finish_reason(st->outcome) == NULL)
		watch_refuse(x);
	else
		reply_whole(x);
}

static void
begun_stream(struct stream *st, struct conn *c, int64_t available)
{
	(void)available;
	watch_open_one(st, c, EMIT_CONTENT, NULL);
}

static void
begun_whole(struct stream *st, struct conn *c, int64_t available)
{
	(void)available;
	st->whole = true;
	watch_open_one(st, c, EMIT_CONTENT, feed_whole);
}

static void
call(struct conn *c, const struct http_request *h, struct span body,
    void (*begun)(struct stream *, struct conn *, int64_t))
{
	struct begin x = {.begun = begun};

	/* These answers are not kept: a repetition would be another call, and charged again. */
	if (http_header(h, "Idempotency-Key").p != NULL) {
		conn_error(c, 400, "invalid_request_error", "invalid_request", "Idempotency-Key",
		    "there is no Idempotency-Key here: use /chat/send or /v1/chat/completions");
		return;
	}
	(void)begin_chat(c, h, body, &x);
}

void
chat_call_stream_handler(struct conn *c, const struct http_request *h, struct span body)
{
	call(c, h, body, begun_stream);
}

void
chat_call_handler(struct conn *c, const struct http_request *h, struct span body)
{
	call(c, h, body, begun_whole);
}
