/*
 * GET and POST /stream (alias /chat/stream): open a stream or come back to one.
 * DELETE /stream: cancel it.  Worker process.
 *
 * Whoever has the id may do this.  The stream is found in three places: here, at the live worker
 * that its id names (the connection is handed over), or in state.mdb.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/emit.h"
#include "daemon/handover.h"
#include "daemon/json.h"
#include "daemon/past.h"
#include "daemon/stream.h"
#include "daemon/watch.h"
#include "daemon/worker.h"

/* What is wanted of a stream. */
struct want {
	struct stream_id id;
	char id_text[STREAM_ID_LEN + 1];
	enum emit_format format;
	uint64_t offset; /* from Last-Event-ID */
	bool seen_end;   /* the client has had the last event */
	bool head, cancel;
};

struct canceller {
	struct end_waiter waiter; /* first: the stream's list points here */
	struct stream *st;
	struct conn *conn;
};

static void
not_found(struct conn *c)
{
	conn_error(c, 404, "invalid_request_error", "not_found", "id", "there is no such stream");
}

static void
answer_cancel(struct conn *c, const struct stream *st)
{
	const char *reason = emit_finish_reason(st->outcome);
	struct buf b = {0};

	buf_str(&b, "{\"ok\":true,\"finish_reason\":");
	if (reason == NULL)
		reason = "error";
	buf_json(&b, reason, strlen(reason));
	buf_str(&b, ",\"cost\":");
	buf_money(&b, st->settlement.charge);
	buf_str(&b, ",\"balance\":");
	buf_money(&b, st->balance);
	buf_str(&b, "}");
	conn_reply_buf(c, 200, "application/json", &b);
	buf_free(&b);
}

static void
canceller_ended(struct end_waiter *e, struct stream *st)
{
	struct canceller *x = (struct canceller *)e;

	if (st->state == STREAM_ENDED) {
		answer_cancel(x->conn, st);
	} else {
		conn_header(x->conn, "Retry-After", "5");
		conn_error(x->conn, 503, "server_error", "journal_unavailable", NULL,
		    "the stream was stopped; it is settled when the journal can be written");
	}
	free(x);
}

static void
canceller_gone(void *arg, struct conn *c)
{
	struct canceller *x = arg;

	(void)c;
	for (struct end_waiter **p = &x->st->end_waiters; *p != NULL; p = &(*p)->next) {
		if (*p == &x->waiter) {
			*p = x->waiter.next;
			break;
		}
	}
	free(x);
}

static const struct conn_ops cancel_ops = {canceller_gone, NULL};

static void
cancel(struct conn *c, struct stream *st)
{
	struct canceller *x;

	if (st->state == STREAM_ENDED) {
		answer_cancel(c, st);
		return;
	}
	x = calloc(1, sizeof *x);
	if (x == NULL) {
		conn_error(c, 503, "server_error", "overloaded", NULL, "out of memory");
		return;
	}
	x->waiter.ended = canceller_ended;
	x->st = st;
	x->conn = c;
	x->waiter.next = st->end_waiters;
	st->end_waiters = &x->waiter;
	conn_later(c, &cancel_ops, x);
	stream_cancel(st, OUTCOME_CANCELLED);
	streams_flush(st->w->streams);
}

static void
serve(struct conn *c, struct stream *st, const struct want *want)
{
	/* What a client of /v1 got has one reader and its own dialect. */
	if (st == NULL || st->state == STREAM_RESERVING || (st->api != NULL && !want->cancel)) {
		not_found(c);
		return;
	}
	if (want->cancel) {
		cancel(c, st);
		return;
	}
	if (want->head) {
		conn_reply(c, 200, "text/event-stream", NULL, 0);
		return;
	}
	/* EventSource comes back after an end as after a failure, until it gets a 204.  An end that
	 * is not of this text is some other stream's: there is something to tell, then. */
	if (want->seen_end && st->state == STREAM_ENDED && want->offset >= st->text.len) {
		conn_reply(c, 204, NULL, NULL, 0);
		return;
	}
	if (watch_start(st, c, want->format, want->offset) != 0) {
		conn_error(c, 503, "server_error", "overloaded", NULL, "out of memory");
		return;
	}
	if (st->state == STREAM_WAITING)
		stream_run(st);
	streams_flush(st->w->streams);
}

static void
found(struct conn *c, struct stream *st, void *arg)
{
	serve(c, st, arg);
	free(arg);
}

/* Is the stream's worker somebody else who lives? */
static bool
elsewhere(const struct worker *w, const struct stream_id *id)
{
	const struct proc_slot *p;

	if (id->proc == w->proc || id->proc < PROC_WORKER || id->proc >= w->region->h->procs)
		return false;
	p = region_proc(w->region, id->proc);
	return atomic_load_explicit(&p->generation, memory_order_acquire) == id->generation &&
	    atomic_load_explicit(&p->pid, memory_order_acquire) != 0;
}

static void
find(struct conn *c, const struct http_request *h, const struct want *want)
{
	static const char *const format_name[] = {"typed", "openai", "content", "text"};
	struct worker *w = conn_arg(c);
	struct stream *st = stream_find(w->streams, &want->id);
	struct want *copy;
	char target[96];

	if (st != NULL) {
		serve(c, st, want);
		return;
	}
	if (elsewhere(w, &want->id) && !conn_adopted(c)) {
		snprintf(target, sizeof target, "/stream?id=%s&format=%s", want->id_text,
		    format_name[want->format]);
		if (!handover_send(w, want->id.proc, c, h, target)) {
			conn_header(c, "Retry-After", "1");
			conn_error(c, 503, "server_error", "overloaded", NULL,
			    "the stream's worker is busy");
		}
		return;
	}
	copy = malloc(sizeof *copy);
	if (copy == NULL) {
		conn_error(c, 503, "server_error", "overloaded", NULL, "out of memory");
		return;
	}
	*copy = *want;
	past_find(w, &want->id, c, found, copy);
}

/* Id and format, wherever they came from.  False: answered. */
static bool
parse(struct conn *c, const struct http_request *h, struct span id, struct span format,
    struct want *want)
{
	struct span last = http_header(h, "Last-Event-ID");
	int f;

	memset(want, 0, sizeof *want);
	if (id.len == 0) {
		conn_error(c, 400, "invalid_request_error", "invalid_request", "id",
		    "'id' is missing");
		return false;
	}
	if (!stream_id_parse(id.p, id.len, &want->id)) {
		not_found(c);
		return false;
	}
	stream_id_format(&want->id, want->id_text);
	f = format.len == 0 ? EMIT_TYPED : emit_format_by_name(format);
	if (f < 0) {
		conn_error(c, 400, "invalid_request_error", "invalid_request", "format",
		    "'format' must be typed, openai, content or text");
		return false;
	}
	want->format = (enum emit_format)f;
	want->head = h->method == HTTP_HEAD;
	/* An id that is not ours is no reason to refuse: from the start, then. */
	if (last.p != NULL && !emit_parse_id(last, &want->offset, &want->seen_end))
		want->offset = 0;
	return true;
}

static bool
parse_query(struct conn *c, const struct http_request *h, struct want *want)
{
	char id[STREAM_ID_LEN + 8], format[16];
	size_t id_len, format_len;

	if (!http_query(h->query, "id", id, sizeof id, &id_len))
		id_len = 0;
	if (!http_query(h->query, "format", format, sizeof format, &format_len))
		format_len = 0;
	return parse(c, h, (struct span){id, id_len}, (struct span){format, format_len}, want);
}

void
stream_get_handler(struct conn *c, const struct http_request *h, struct span body)
{
	struct want want;

	(void)body;
	if (parse_query(c, h, &want))
		find(c, h, &want);
}

void
stream_delete_handler(struct conn *c, const struct http_request *h, struct span body)
{
	struct want want;

	(void)body;
	if (!parse_query(c, h, &want))
		return;
	want.cancel = true;
	find(c, h, &want);
}

void
stream_post_handler(struct conn *c, const struct http_request *h, struct span body)
{
	static const char *const keys[] = {"id", "format"};
	struct json_value root, v[2];
	char id[64], format[64];
	size_t at, id_len = 0, format_len = 0;
	enum json_error e = json_check(body.p, body.len, &root, &at);
	struct want want;

	if (e != JSON_OK) {
		conn_error(c, 400, "invalid_request_error", "invalid_json", NULL,
		    "the body is not JSON: %s at byte %zu", json_error_text(e), at);
		return;
	}
	if (root.type != JSON_OBJECT) {
		conn_error(c, 400, "invalid_request_error", "invalid_json", NULL,
		    "the body must be a JSON object");
		return;
	}
	json_get_many(root, keys, v, 2);
	for (int i = 0; i < 2; i++) {
		if (v[i].type == JSON_NONE)
			continue;
		if (v[i].type != JSON_STRING || v[i].len > sizeof id) {
			conn_error(c, 400, "invalid_request_error", "invalid_request", keys[i],
			    "'%s' must be a short string", keys[i]);
			return;
		}
	}
	if (v[0].type == JSON_STRING)
		id_len = json_decode(v[0], id);
	if (v[1].type == JSON_STRING)
		format_len = json_decode(v[1], format);
	if (parse(c, h, (struct span){id, id_len}, (struct span){format, format_len}, &want))
		find(c, h, &want);
}
