/*
 * GET /ws/chat/{account}: questions and answers on a WebSocket.  Worker process.
 *
 * One question at a time: each is a stream of its own, on the road of any other (begin.c), and this
 * connection is its one watcher.  A second question while one is answered is refused, so that
 * each error and each end has one question that it can be about.
 *
 * A key may be revoked while its connection stays: so the key is kept, and looked at again with
 * each question.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "daemon/begin.h"
#include "daemon/log.h"
#include "daemon/metrics.h"
#include "daemon/watch_private.h"
#include "daemon/worker.h"
#include "daemon/ws.h"
#include "daemon/ws_handshake.h"
#include "daemon/ws_message.h"

/* A question's message, if max_body allows more. */
#define MESSAGE_MAX (1u << 20)
/* Text of an answer in one message. */
#define CHUNK_MAX 16384
/* So long may the peer take for its part of closing. */
#define CLOSE_US (5 * UINT64_C(1000000))
#define CLOSE_DRAIN_US (1 * UINT64_C(1000000))

struct ws_chat {
	struct ws_chat *prev, *next; /* of the worker's */
	struct worker *w;
	struct conn *conn;
	struct ws *ws;
	struct stream *stream; /* that is answered: ours until its watcher is unlinked; or NULL */
	bool asked;            /* a question is on its way, or is answered */
	bool cancel;           /* and it is to end as soon as it has begun */
	uint64_t idle_us;      /* since when none is */
	uint64_t pinged_us;    /* 0: no ping is under way */
	size_t key_len;
	char key[];
};

static const struct http_request no_headers;

static void
say(struct ws_chat *x, struct buf *b)
{
	/* Without a message of ours the client would wait for ever: better no connection. */
	if (b->failed)
		ws_close(x->ws, WS_INTERNAL, "out of memory");
	else
		ws_send(x->ws, b->data, b->len);
}

static void
say_error(struct ws_chat *x, const struct conn_refusal *why)
{
	struct buf b = {0};

	ws_message_error(&b, why);
	say(x, &b);
	buf_free(&b);
}

static void
answered(struct ws_chat *x)
{
	x->stream = NULL;
	x->asked = x->cancel = false;
	x->idle_us = monotonic_us();
	if (x->w->draining)
		ws_close(x->ws, WS_GOING_AWAY, "the gateway is draining");
}

/* A watcher's feed: one message for all that came together. */

/* Where a message ends that begins here: not inside a character. */
static size_t
chunk_len(const struct buf *text, size_t at)
{
	size_t n = text->len - at;

	if (n <= CHUNK_MAX)
		return n;
	for (n = CHUNK_MAX; (text->data[at + n] & 0xc0) == 0x80;)
		n--;
	return n;
}

static void
feed_end(struct watcher *watcher, struct ws_chat *x)
{
	struct stream *st = watcher->stream;
	struct emit_stream es;
	struct emit_end end;
	struct buf b = {0};

	stream_describe(st, &es);
	stream_end(st, &end);
	ws_message_end(&b, &es, &end);
	conn_request_over(x->conn);
	watch_unlink(watcher);
	say(x, &b);
	buf_free(&b);
	answered(x);
}

static void
feed(struct watcher *watcher)
{
	struct stream *st = watcher->stream;
	struct ws_chat *x = conn_protocol_arg(watcher->conn);
	struct buf *b = &st->w->scratch;

	while (watcher->at < st->text.len && conn_queued(x->conn) == 0) {
		size_t n = chunk_len(&st->text, watcher->at);

		b->len = 0;
		ws_message_chunk(b, st->text.data + watcher->at, n);
		/* A hole in the text would not show.  The watcher is gone after this. */
		if (b->failed) {
			buf_free(b);
			ws_close(x->ws, WS_INTERNAL, "out of memory");
			return;
		}
		ws_send(x->ws, b->data, b->len);
		b->len = 0;
		watcher->at += n;
	}
	if (watcher->at >= st->text.len && stream_is_over(st) && conn_queued(x->conn) == 0)
		feed_end(watcher, x);
}

static void
begun(struct stream *st, struct conn *c, int64_t available)
{
	struct ws_chat *x = conn_protocol_arg(c);

	(void)available;
	x->stream = st;
	watch_open_one(st, c, EMIT_TYPED, feed);
	/* It may have failed, and be over, by now. */
	if (x->cancel && x->stream == st) {
		stream_cancel(st, OUTCOME_CANCELLED);
		streams_flush(st->w->streams);
	}
}

/* A question's way in. */

/* Is the key still good for a question?  False: said, and it closes. */
static bool
check_key(struct ws_chat *x, struct caller *caller)
{
	const struct caller *first = conn_caller(x->conn);

	if (auth_again(x->w->heritage, (struct span){x->key, x->key_len}, first, realtime_us(),
		caller) == AUTH_OK &&
	    (caller->scopes & KEY_SCOPE_CHAT) != 0 && caller->account == first->account)
		return true;
	say_error(
	    x, &(struct conn_refusal){.code = "invalid_api_key",
	           .message = "the API key is no longer good: it was revoked, or has expired"});
	ws_close(x->ws, WS_POLICY, "the API key is no longer good");
	return false;
}

/* May the account ask once more in this minute?  False: said. */
static bool
check_limit(struct ws_chat *x, struct account *a)
{
	uint32_t most = x->w->config->limits.ws_questions_per_minute;
	struct limit_state s;
	struct timespec now;
	char message[96];

	clock_gettime(CLOCK_MONOTONIC, &now);
	if (most == 0 ||
	    limit_take(&a->questions, most, 1,
	        (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec, &s))
		return true;
	metrics_limited(LIMITED_REQUESTS);
	snprintf(message, sizeof message, "the account's limit of %u questions a minute is reached",
	    most);
	say_error(x, &(struct conn_refusal){.code = "rate_limit_exceeded",
	                 .message = message,
	                 .retry_after = (unsigned long)(s.retry_ns / 1000000000 +
	                                                (s.retry_ns % 1000000000 != 0))});
	return false;
}

static void
say_fault(struct ws_chat *x, const struct chat_fault *f)
{
	say_error(
	    x, &(struct conn_refusal){.code = f->code, .param = f->param, .message = f->message});
}

static void
ask(struct ws_chat *x, struct span body)
{
	struct begin begin_with = {.begun = begun};
	struct caller caller;

	/* The limit first: to read a long question takes a while. */
	if (!check_key(x, &caller) || !check_limit(x, caller.account))
		return;
	conn_request(x->conn, &caller);
	x->asked = true;
	/* Where it is not begun, on_refused() was. */
	(void)begin_chat(x->conn, &no_headers, body, &begin_with);
}

static void
cancel(struct ws_chat *x)
{
	x->cancel = x->asked;
	if (x->stream == NULL)
		return;
	stream_cancel(x->stream, OUTCOME_CANCELLED);
	stream_touch(x->stream);
	streams_flush(x->w->streams);
}

static void
on_text(void *arg, struct span text)
{
	struct ws_chat *x = arg;
	struct buf body = {0};
	struct chat_fault f;
	enum ws_kind kind = ws_message_read(text, &body, &f);

	if (kind == WS_CANCEL)
		cancel(x);
	else if (kind == WS_INVALID)
		say_fault(x, &f);
	else if (x->asked)
		say_error(x,
		    &(struct conn_refusal){.code = "busy",
		        .message = "a question is being answered: wait for its end, or cancel it"});
	else if (body.failed)
		say_error(
		    x, &(struct conn_refusal){
		           .code = "overloaded", .message = "out of memory", .retry_after = 1});
	else
		ask(x, (struct span){body.data, body.len});
	buf_free(&body);
}

static void
on_closing(void *arg)
{
	struct ws_chat *x = arg;

	x->stream = NULL;
	x->asked = x->cancel = false;
	conn_request_abandon(x->conn);
}

static const struct ws_owner owner = {on_text, on_closing};

/* The connection's part. */

static size_t
on_input(void *arg, struct conn *c, const char *bytes, size_t len)
{
	struct ws_chat *x = arg;

	(void)c;
	return ws_input(x->ws, bytes, len);
}

static void
on_refused(void *arg, struct conn *c, const struct conn_refusal *why)
{
	struct ws_chat *x = arg;

	(void)c;
	say_error(x, why);
	answered(x);
}

static void
on_drain(void *arg, struct conn *c)
{
	struct ws_chat *x = arg;

	(void)c;
	if (!x->asked)
		ws_close(x->ws, WS_GOING_AWAY, "the gateway is draining");
}

static void
forget(struct ws_chat *x)
{
	if (x->prev != NULL)
		x->prev->next = x->next;
	else
		x->w->ws_chats = x->next;
	if (x->next != NULL)
		x->next->prev = x->prev;
	ws_free(x->ws);
	explicit_bzero(x->key, x->key_len);
	free(x);
}

static void
on_gone(void *arg, struct conn *c)
{
	(void)c;
	forget(arg);
}

static const struct conn_protocol protocol = {on_input, on_refused, on_drain, on_gone};

static void
tick(struct ws_chat *x, uint64_t now_us)
{
	const struct config *cfg = x->w->config;
	uint64_t idle_us = (uint64_t)cfg->timeouts.ws_idle * 1000000;
	uint64_t ping_us = (uint64_t)cfg->timeouts.ws_ping * 1000000;
	uint64_t silence_us = now_us - ws_heard_us(x->ws);
	char message[64];

	/* Who reads slowly hears a ping late; for what is queued the connection has a time-out. */
	if (x->pinged_us < ws_heard_us(x->ws) || conn_queued(x->conn) > 0)
		x->pinged_us = 0;
	ws_tick(x->ws, now_us, x->w->draining ? CLOSE_DRAIN_US : CLOSE_US);
	if (ws_is_closing(x->ws))
		return;
	if (!x->asked && now_us - x->idle_us > idle_us) {
		snprintf(
		    message, sizeof message, "no question came for %u s", cfg->timeouts.ws_idle);
		say_error(x, &(struct conn_refusal){.code = "idle_timeout", .message = message});
		ws_close(x->ws, WS_GOING_AWAY, "idle");
	} else if (x->pinged_us != 0 && now_us - x->pinged_us > idle_us) {
		/* Also while something is asked: its answer would be nobody's. */
		ws_close(x->ws, WS_INTERNAL, "pings are not answered");
	} else if (x->pinged_us == 0 && silence_us > ping_us && conn_queued(x->conn) == 0) {
		x->pinged_us = now_us;
		ws_ping(x->ws);
	}
}

void
ws_chat_tick(struct worker *w)
{
	uint64_t now_us = monotonic_us();

	/* Nobody is freed in there. */
	for (struct ws_chat *x = w->ws_chats; x != NULL; x = x->next)
		tick(x, now_us);
}

void
ws_chat_fini(struct worker *w)
{
	while (w->ws_chats != NULL)
		forget(w->ws_chats);
}

/* The handshake. */

/* Is the account in the path the caller's?  False: answered. */
static bool
check_account(struct conn *c, const struct http_request *h)
{
	static const char prefix[] = "/ws/chat/";
	const struct account *a = conn_caller(c)->account;
	struct span rest = {h->path.p + sizeof prefix - 1, h->path.len - (sizeof prefix - 1)};
	char id[ACCOUNT_ID_MAX + 1];
	size_t len;

	if (http_unescape(rest, id, sizeof id, &len) && len == a->id_len &&
	    memcmp(id, a->id, len) == 0)
		return true;
	conn_error(c, 403, "permission_error", "account_mismatch", NULL,
	    "the account in the path is not that of the API key");
	return false;
}

static void
refuse_handshake(struct conn *c, const struct ws_fault *f)
{
	if (f->status == 405)
		conn_header(c, "Allow", "GET");
	if (f->status == 426) {
		conn_header(c, "Upgrade", "websocket");
		conn_header(c, "Sec-WebSocket-Version", "13");
	}
	conn_error(c, f->status, f->status == 403 ? "permission_error" : "invalid_request_error",
	    f->code, f->param, "%s", f->message);
}

static struct ws_chat *
chat_new(struct worker *w, struct conn *c, const struct http_request *h)
{
	size_t max = w->config->max_body < MESSAGE_MAX ? w->config->max_body : MESSAGE_MAX;
	struct ws_chat *x;
	struct span key;

	/* It was let in by it. */
	if (auth_shown(h, true, &key) != AUTH_OK || (x = calloc(1, sizeof *x + key.len)) == NULL)
		return NULL;
	x->ws = ws_new(c, max, &owner, x);
	if (x->ws == NULL) {
		free(x);
		return NULL;
	}
	memcpy(x->key, key.p, key.len);
	x->key_len = key.len;
	x->w = w;
	x->conn = c;
	x->idle_us = monotonic_us();
	x->next = w->ws_chats;
	if (x->next != NULL)
		x->next->prev = x;
	w->ws_chats = x;
	return x;
}

void
ws_chat_handler(struct conn *c, const struct http_request *h, struct span body)
{
	struct worker *w = conn_arg(c);
	struct ws_handshake hs;
	struct ws_fault f;
	struct ws_chat *x;

	(void)body;
	if (!ws_handshake_check(h, w->config, &hs, &f)) {
		refuse_handshake(c, &f);
		return;
	}
	if (!check_account(c, h))
		return;
	if (w->draining || (x = chat_new(w, c, h)) == NULL) {
		conn_header(c, "Retry-After", "1");
		conn_error(c, 503, "server_error", w->draining ? "draining" : "overloaded", NULL,
		    w->draining ? "the gateway is draining" : "out of memory");
		return;
	}
	conn_header(c, "Sec-WebSocket-Accept", "%s", hs.accept);
	if (hs.subprotocol)
		conn_header(c, "Sec-WebSocket-Protocol", WS_SUBPROTOCOL);
	conn_upgrade(c, "websocket", &protocol, x);
}
