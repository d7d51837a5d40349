/*
 * Watchers.  Worker process.
 *
 * A watcher owns no queue of its own: what its connection could not send stays in the connection
 * (at most one feed's worth), and the rest stays in the stream's text until it is writable
 * again.  So a slow reader costs one frame's memory, and a thousand of them share one text.
 */
#include "daemon/quote.h"
#include "daemon/relay.h"
#include "daemon/watch_private.h"
#include "shm/clock.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FEED_MAX 16384 /* bytes framed at a time for one watcher */
#define FRAMES_MAX 65536 /* of frames that are there already */

static void gone(void *, struct conn *);
static void writable(void *, struct conn *);
static void feed(struct watcher *);

static const struct conn_ops ops = {gone, writable};

static const char *
content_type(enum emit_format f)
{
	return f == EMIT_TEXT ? "text/plain; charset=utf-8" : "text/event-stream";
}

void
watch_unlink(struct watcher *x)
{
	struct stream *st = x->stream;

	for (struct watcher **p = &st->watchers; *p != NULL; p = &(*p)->next) {
		if (*p == x) {
			*p = x->next;
			break;
		}
	}
	if (st->watchers == NULL) {
		st->left_us = monotonic_us();
		st->left_len = st->text.len;
	}
	free(x);
}

static void
gone(void *arg, struct conn *c)
{
	struct stream *st = ((struct watcher *)arg)->stream;

	(void)c;
	watch_unlink(arg);
	/* Nobody can come back to it. */
	if (st->api != NULL || (st->attended && st->watchers == NULL))
		stream_cancel(st, OUTCOME_CANCELLED);
	stream_touch(st); /* whether the provider is paused may change */
	streams_flush(st->w->streams);
}

static void
writable(void *arg, struct conn *c)
{
	struct stream *st = ((struct watcher *)arg)->stream;

	(void)c;
	stream_touch(st);
	streams_flush(st->w->streams);
}

/* The piece that starts at byte `piece` of the lengths: its size; *used lengths' bytes. */
static size_t
piece_len(const struct buf *pieces, size_t piece, size_t *used)
{
	size_t n = 0, i = piece;

	while (i < pieces->len) {
		unsigned char c = (unsigned char)pieces->data[i++];

		n += c == PIECE_MORE ? PIECE_MAX : c;
		if (c != PIECE_MORE)
			break;
	}
	*used = i - piece;
	return n;
}

/* Is it known whether a token comes, or none? */
static bool
has_begun(const struct stream *st)
{
	return st->first_us != 0 || st->text.len > 0 || stream_is_over(st);
}

/* What a stream's only client hears of us. */
void
watch_headers(const struct watcher *x, bool whole)
{
	const struct stream *st = x->stream;
	uint64_t ours = st->call_us - st->created_us, now = monotonic_us();
	const char *reason = emit_finish_reason(st->outcome), *provider = attempt_provider(st);
	char available[MONEY_TEXT_MAX], cost[MONEY_TEXT_MAX], ms[24];

	if (st->first_us != 0)
		ours += now - st->first_us;
	money_format(available, account_available(st->account));
	snprintf(ms, sizeof ms, "%" PRIu64 ".%03" PRIu64, ours / 1000, ours % 1000);
	conn_header(x->conn, "x-tolld-stream-id", "%s", st->id_text);
	conn_header(x->conn, "x-tolld-available", "%s", available);
	conn_header(x->conn, "x-tolld-overhead-ms", "%s", ms);
	if (!whole)
		return;
	money_format(cost, st->settlement.charge);
	conn_header(x->conn, "x-tolld-cost", "%s", cost);
	if (reason != NULL)
		conn_header(x->conn, "x-tolld-finish", "%s", reason);
	if (st->outcome == OUTCOME_CREDIT)
		conn_header(x->conn, "x-tolld-short-of", "%s", quote_short_of(st->short_of));
	if (provider != NULL)
		conn_header(x->conn, "x-tolld-provider", "%s", provider);
}

static void
begin_reply(struct watcher *x)
{
	const char *provider = attempt_provider(x->stream);

	if (x->stream->api != NULL || x->stream->attended)
		watch_headers(x, false);
	conn_header(x->conn, "Cache-Control", "no-cache, no-transform");
	conn_header(x->conn, "X-Accel-Buffering", "no");
	if (provider != NULL && x->stream->first_us != 0)
		conn_header(x->conn, "x-tolld-provider", "%s", provider);
	conn_stream_start(x->conn, 200, content_type(x->format), &ops, x);
	x->held = false;
}

void
watch_refusal(const struct stream *st, bool settled, struct refusal *x, struct buf *body)
{
	static const char cancelled[] = "the request was cancelled";
	struct emit_end end;

	if (settled)
		stream_settled_end(st, &end);
	else
		stream_end(st, &end);
	/* By an operator, or by its client: a part of a body is no answer. */
	x->no_retry = end.error_code == NULL;
	if (x->no_retry) {
		end.error_code = "cancelled";
		end.error_message = (struct span){cancelled, sizeof cancelled - 1};
	}
	x->status = st->error_status != 0 ? st->error_status : 503;
	x->retry_after = x->no_retry		       ? 0
	    : st->retry_after > 0 || st->error_status != 0 ? st->retry_after
							   : 1;
	x->no_retry |= st->error_final;
	if (st->api != NULL)
		st->api->refuse(body, &end);
	else
		emit_error_end(body, &end);
}

void
watch_refuse(struct watcher *x)
{
	const struct stream *st = x->stream;
	struct conn *c = x->conn;
	const char *provider = attempt_provider(st);
	struct buf b = {0};
	struct refusal r;

	watch_refusal(st, st->state == STREAM_ENDED, &r, &b);
	if (r.retry_after > 0)
		conn_header(c, "Retry-After", "%lld", (long long)r.retry_after);
	if (r.no_retry)
		conn_header(c, "x-should-retry", "false");
	if (provider != NULL)
		conn_header(c, "x-tolld-provider", "%s", provider);
	conn_header(c, "x-tolld-stream-id", "%s", st->id_text);
	conn_reply_buf(c, r.status, "application/json", &b);
	buf_free(&b);
	watch_unlink(x);
}

int
watch_start(struct stream *st, struct conn *c, enum emit_format format, uint64_t offset)
{
	struct watcher *x = calloc(1, sizeof *x);
	size_t used, begin = 0;

	if (x == NULL)
		return -1;
	x->stream = st;
	x->conn = c;
	x->format = format;
	x->heard_us = monotonic_us();
	/* A place that the client made up is moved to the start of a character. */
	if (offset > st->text.len)
		offset = st->text.len;
	while (offset < st->text.len && (st->text.data[offset] & 0xc0) == 0x80)
		offset++;
	x->at = (size_t)offset;
	while (x->piece < st->pieces.len) {
		size_t n = piece_len(&st->pieces, x->piece, &used);

		if (begin + n > offset) {
			x->skip = (size_t)offset - begin;
			break;
		}
		begin += n;
		x->piece += used;
	}
	if (format == EMIT_OPENAI && !has_begun(st)) {
		x->held = true;
		conn_later(c, &ops, x);
	} else {
		begin_reply(x);
	}
	x->next = st->watchers;
	st->watchers = x;
	st->left_us = 0;
	stream_touch(st);
	return 0;
}

void
watch_open_one(
    struct stream *st, struct conn *c, enum emit_format format, void (*feed_it)(struct watcher *))
{
	struct watcher *x = calloc(1, sizeof *x);

	if (x == NULL) {
		conn_error(c, 503, "server_error", "overloaded", NULL, "out of memory");
		stream_cancel(st, OUTCOME_CANCELLED);
		return;
	}
	x->stream = st;
	x->conn = c;
	x->feed = feed_it;
	x->format = format;
	x->heard_us = monotonic_us();
	x->held = true;
	conn_later(c, &ops, x);
	st->attended = true;
	st->watchers = x;
	st->left_us = 0;
	stream_run(st);
	stream_touch(st);
	streams_flush(st->w->streams);
}

void
watch_open_api(struct stream *st, struct conn *c, int64_t available)
{
	(void)available;
	watch_open_one(st, c, EMIT_OPENAI, NULL);
}

/* Frame text from where the watcher is, piece by piece as it came, up to FEED_MAX bytes. */
static void
feed_text(struct watcher *x, const struct emit_stream *es, struct buf *b)
{
	struct stream *st = x->stream;
	size_t used, n;

	while (x->piece < st->pieces.len && b->len < FEED_MAX) {
		n = piece_len(&st->pieces, x->piece, &used) - x->skip;
		emit_text(b, x->format, es, st->text.data + x->at, n, x->at + n);
		x->skip = 0;
		x->at += n;
		x->piece += used;
	}
}

static void
feed_end(struct watcher *x, const struct emit_stream *es, struct buf *b)
{
	struct stream *st = x->stream;
	struct emit_end end;

	stream_end(st, &end);
	if (end.error_code != NULL)
		emit_error(b, x->format, es, &end, st->text.len);
	else
		emit_done(b, x->format, es, &end, st->text.len);
}

/*
 * One feed; true when there is more that the socket would take.  The last one is left in scratch
 * for the caller to send; without memory scratch is left failed, and nothing was sent.
 */
static bool
feed_some(struct watcher *x, const struct emit_stream *es, bool *last)
{
	struct stream *st = x->stream;
	struct buf *b = &st->w->scratch;

	b->len = 0;
	if (!x->begun) {
		emit_begin(b, x->format, es, x->at);
		x->begun = true;
	}
	feed_text(x, es, b);
	*last = stream_is_over(st) && x->piece >= st->pieces.len;
	if (*last)
		feed_end(x, es, b);
	if (b->failed || *last)
		return false;
	if (b->len > 0) {
		x->heard_us = monotonic_us();
		conn_stream_write(x->conn, b->data, b->len);
	} else {
		conn_stream_flush(x->conn);
	}
	b->len = 0;
	return x->piece < st->pieces.len && conn_queued(x->conn) == 0;
}

static void
feed(struct watcher *x)
{
	struct stream *st = x->stream;
	struct conn *c = x->conn;
	struct buf *b = &st->w->scratch;
	struct emit_stream es;
	bool last = false;

	if (conn_queued(c) > 0 || (x->held && !has_begun(st)))
		return;
	if (x->held && st->first_us == 0 &&
	    (st->error_code != NULL || st->state != STREAM_ENDED)) {
		watch_refuse(x);
		return;
	}
	if (x->held)
		begin_reply(x);
	stream_describe(st, &es);
	while (feed_some(x, &es, &last))
		continue;
	if (b->failed) {
		/* A hole in the text would not show: break the transfer, the client may come
		 * back. */
		buf_free(b);
		conn_stream_end(c, true);
	} else if (!last) {
		return;
	} else if (x->format == EMIT_TEXT &&
	    (st->error_code != NULL || st->state != STREAM_ENDED)) {
		/* Bare text has no words for an error: only a broken transfer says so. */
		conn_stream_write(c, b->data, b->len);
		conn_stream_end(c, true);
	} else {
		conn_stream_finish(c, b->data, b->len);
	}
	b->len = 0;
	watch_unlink(x);
}

void
watch_api_end(const struct stream *st, bool settled, struct buf *b)
{
	const struct relay *r = st->relay;
	struct answer a = r->answer; /* of a stream it keeps no text */
	struct api_end e = {.believed = st->usage_believed};
	struct emit_stream es;

	stream_describe(st, &es);
	if (settled)
		stream_settled_end(st, &e.end);
	else
		stream_end(st, &e.end);
	/* The provider's end is the answer's only if all of it was paid: there may be text in it. */
	if (st->complete) {
		e.last = (struct span){r->last.data, r->last.len};
		e.usage_said = r->usage_said;
		if (st->usage_believed)
			e.usage = (struct span){r->usage.data, r->usage.len};
	}
	st->api->end(b, &es, &a, &e);
}

void
watch_put_together(struct stream *st, bool settled)
{
	struct relay *r = st->relay;
	struct emit_stream es;
	struct emit_end end;

	if (r->body.len > 0 || st->api->say_whole == NULL)
		return;
	stream_describe(st, &es);
	if (settled)
		stream_settled_end(st, &end);
	else
		stream_end(st, &end);
	st->api->say_whole(&r->body, &es, &r->answer, &end);
}

/* Frames that are out; true when there is more that the socket would take. */
static bool
feed_frames(struct watcher *x)
{
	struct relay *r = x->stream->relay;
	struct buf *out = &r->out;
	size_t end = r->ended ? r->end_at : out->len, n;

	if (x->at < r->body_at)
		x->at = r->body_at;
	n = end - x->at < FRAMES_MAX ? end - x->at : FRAMES_MAX;
	if (n > 0) {
		x->heard_us = monotonic_us();
		conn_stream_write(x->conn, out->data + x->at, n);
		x->at += n;
	}
	if (x->at < end)
		return conn_queued(x->conn) == 0;
	if (!r->keep)
		out->len = x->at = r->body_at = 0;
	return false;
}

static void
feed_api(struct watcher *x)
{
	struct stream *st = x->stream;
	struct relay *r = st->relay;
	struct buf *b = &st->w->scratch;

	while (feed_frames(x))
		continue;
	if (x->at < (r->ended ? r->end_at : r->out.len) || !stream_is_over(st))
		return;
	b->len = 0;
	if (r->ended && st->state == STREAM_ENDED)
		buf_add(b, r->out.data + r->end_at, r->out.len - r->end_at);
	else
		watch_api_end(st, st->state == STREAM_ENDED, b);
	if (b->failed) {
		buf_free(b);
		conn_stream_end(x->conn, true);
	} else {
		conn_stream_finish(x->conn, b->data, b->len);
	}
	b->len = 0;
	watch_unlink(x);
}

/* An answer in one piece: all of it is known, and so is what it cost. */
static void
reply_whole(struct watcher *x)
{
	struct stream *st = x->stream;
	struct conn *c = x->conn;

	watch_put_together(st, st->state == STREAM_ENDED);
	watch_headers(x, true);
	if (st->relay->body.failed || st->relay->body.len == 0)
		conn_error(c, 503, "server_error", "overloaded", NULL,
		    "the answer was not kept");
	else
		conn_reply_buf(c, 200, "application/json", &st->relay->body);
	watch_unlink(x);
}

bool
watch_refuses(const struct stream *st)
{
	/* One that was put together here may end where the credit does. */
	if (st->relay->whole)
		return !st->complete &&
		       (st->error_code != NULL || !st->relay->answer.at.begun ||
		           st->outcome == OUTCOME_CANCELLED ||
		           emit_finish_reason(st->outcome) == NULL);
	return st->first_us == 0 &&
	    (st->error_code != NULL || emit_finish_reason(st->outcome) == NULL);
}

/* An api's client: waits for the first event, or for all of a whole answer. */
static void
feed_api_held(struct watcher *x)
{
	struct stream *st = x->stream;
	bool whole = st->relay->whole;

	if (whole ? !stream_is_over(st) : !has_begun(st))
		return;
	if (stream_is_over(st) &&
	    (watch_refuses(st) || (st->state != STREAM_ENDED && (whole || st->first_us == 0)))) {
		watch_refuse(x);
	} else if (whole) {
		reply_whole(x);
	} else {
		begin_reply(x);
		feed_api(x);
	}
}

void
watch_feed(struct stream *st)
{
	struct watcher *x, *next;

	for (x = st->watchers; x != NULL; x = next) {
		next = x->next;
		if (x->feed != NULL)
			x->feed(x);
		else if (st->api == NULL)
			feed(x);
		else if (conn_queued(x->conn) > 0)
			continue;
		else if (x->held)
			feed_api_held(x);
		else
			feed_api(x);
	}
}

void
watch_free(struct stream *st)
{
	struct watcher *x;

	while ((x = st->watchers) != NULL) {
		st->watchers = x->next;
		free(x);
	}
}

/* A frame that can be done without; scratch is empty afterwards. */
static void
write_frame(struct watcher *x, struct buf *b)
{
	if (b->failed)
		buf_free(b);
	else if (b->len > 0)
		conn_stream_write(x->conn, b->data, b->len);
	b->len = 0;
}

void
watch_keepalive(struct stream *st, uint64_t now_us, uint64_t silence_us)
{
	struct buf *b = &st->w->scratch;

	for (struct watcher *x = st->watchers; x != NULL; x = x->next) {
		if (x->held || now_us - x->heard_us < silence_us || conn_queued(x->conn) > 0)
			continue;
		x->heard_us = now_us;
		b->len = 0;
		emit_keepalive(b, x->format);
		write_frame(x, b);
	}
}

void
watch_slice(struct stream *st)
{
	struct buf *b = &st->w->scratch;

	if (st->api != NULL)
		return;
	for (struct watcher *x = st->watchers; x != NULL; x = x->next) {
		if (conn_queued(x->conn) > 0 || x->piece < st->pieces.len || !x->begun)
			continue;
		b->len = 0;
		emit_meter(b, x->format, st->text.len, meter_tokens(&st->meter),
		    meter_cost(&st->meter), account_available(st->account));
		write_frame(x, b);
	}
}

size_t
watch_lag(const struct stream *st)
{
	size_t least = SIZE_MAX;

	for (const struct watcher *x = st->watchers; x != NULL; x = x->next) {
		size_t have = st->relay != NULL ? st->relay->out.len : st->text.len;
		size_t lag = have - x->at + conn_queued(x->conn);

		if (lag < least)
			least = lag;
	}
	return least;
}
