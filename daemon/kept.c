/*
 * Answers that are kept for who asks again.  Worker process.
 *
 * The first client's answer and the kept one are the same bytes: a stream's end is written once,
 * into what is kept, and told from there when the settlement is durable.
 *
 * Who asks again is answered from state.mdb alone, whoever ran the stream and whether that one
 * still lives.  It follows the journal a little behind: it is looked at on every tick.
 */
#include "daemon/kept.h"

#include <stdlib.h>
#include <string.h>

#include "daemon/api.h"
#include "daemon/conn.h"
#include "daemon/past.h"
#include "daemon/relay.h"
#include "daemon/stream.h"
#include "daemon/watch.h"
#include "daemon/worker.h"
#include "shm/clock.h"

/* Beyond the longest stream: a settlement, and a dead worker's reaping. */
#define PATIENCE_S 30
/* Of a stream that is told again: so much is queued for a client that does not read. */
#define REPLAY_PIECE KEPT_BODY_MAX

struct kept {
	struct kept *next;
	struct worker *w;
	struct stream_id id;
	struct conn *conn;
	uint64_t asked_seq; /* the journal's last record when we were asked */
	uint64_t asked_us;
	bool leaving; /* a stream that is told again; else it is waited for */
	size_t at;    /* bytes of it that were told */
};

static void gone(void *, struct conn *);
static void writable(void *, struct conn *);

static const struct conn_ops ops = {gone, NULL}, leaving = {gone, writable};

static void
put_head(struct stream *st, struct kept_head h)
{
	const char *provider = attempt_provider(st);
	struct relay *r = st->relay;

	h.dialect = (uint8_t)st->api->dialect;
	h.provider_len = (uint16_t)(provider != NULL ? strlen(provider) : 0);
	buf_add(&r->out, &h, sizeof h);
	if (h.provider_len > 0)
		buf_add(&r->out, provider, h.provider_len);
	r->body_at = r->out.len;
}

void
kept_begin(struct stream *st)
{
	put_head(st, (struct kept_head){.status = 200, .event_stream = 1});
}

struct span
kept_unsaved(const struct stream *st)
{
	const struct relay *r = st->relay;

	if (!r->keep || r->saved >= r->out.len)
		return SPAN("");
	return (struct span){r->out.data + r->saved, r->out.len - r->saved};
}

/* Nothing was told of it yet: what is kept is what the client will be told. */
static void
keep_refusal(struct stream *st)
{
	struct refusal x;
	struct buf b = {0};

	watch_refusal(st, true, &x, &b);
	st->relay->out.len = st->relay->saved = 0;
	put_head(st, (struct kept_head){.status = (uint16_t)x.status});
	buf_add(&st->relay->out, b.data, b.len);
	st->relay->out.failed |= b.failed;
	buf_free(&b);
}

static void
keep_end(struct stream *st)
{
	struct relay *r = st->relay;
	struct buf b = {0};

	if (watch_refuses(st)) {
		keep_refusal(st);
	} else if (r->whole) {
		watch_put_together(st, true);
		put_head(st, (struct kept_head){.status = 200});
		r->unkept = r->body.len > KEPT_BODY_MAX;
		if (!r->unkept)
			buf_add(&r->out, r->body.data, r->body.len);
	} else {
		if (r->out.len == 0)
			kept_begin(st);
		r->end_at = r->out.len;
		watch_api_end(st, true, &b);
		buf_add(&r->out, b.data, b.len);
		r->out.failed |= b.failed;
		buf_free(&b);
		r->ended = true;
	}
}

struct span
kept_rest(struct stream *st)
{
	struct relay *r = st->relay;

	if (r == NULL || (!r->keep && !r->unkept))
		return SPAN("");
	if (!r->sealed && r->keep)
		keep_end(st);
	r->sealed = true;
	/* Without memory it is lost, too. */
	if (r->out.failed || (r->keep && r->out.len - r->saved > KEPT_RECORD_MAX))
		r->unkept = true;
	return r->unkept ? (struct span){"\0", 1} : kept_unsaved(st);
}

static void
unlink_kept(struct kept *x)
{
	for (struct kept **p = &x->w->kept; *p != NULL; p = &(*p)->next) {
		if (*p == x) {
			*p = x->next;
			return;
		}
	}
}

static void
gone(void *arg, struct conn *c)
{
	(void)c;
	unlink_kept(arg);
	free(arg);
}

static void
not_kept(struct conn *c, int status, const char *code, const char *why)
{
	conn_header(c, "x-should-retry", "false");
	conn_error(c, status, "invalid_request_error", code, "Idempotency-Key", "%s", why);
}

/* The worker died: what it had told is all that there is, and how it ended must be said. */
static void
put_lost(struct buf *b, const struct kept_head *h, const struct stream_row *row)
{
	static const char why[] = "the process that ran this stream died; what it had delivered is above";
	struct emit_stream es = {
	    .stream_id = "", .model = "", .created = (int64_t)(row->opened_us / 1000000)};
	struct answer a = {0};
	struct api_end e = {.end = {
		.outcome = row->outcome,
		.prompt_tokens = row->prompt + row->cached,
		.completion_tokens = row->completion,
		.cost = row->charge,
		.error_code = "stream_lost",
		.error_type = "server_error",
		.error_message = {why, sizeof why - 1},
		.full_text = SPAN(""),
	}};

	(h->dialect == (uint8_t)DIALECT_ANTHROPIC ? &api_anthropic : &api_openai)
	    ->end(b, &es, &a, &e);
}

/*
 * A stream that is told again, as far as its client takes it: who asks for many and reads none of
 * them has us hold no more than a piece for each.  True: it is told.
 */
static bool
leave(struct kept *x, const struct kept_head *h, const struct stream_row *row, struct span body)
{
	struct conn *c = x->conn;
	struct buf b = {0};

	for (; body.len - x->at > REPLAY_PIECE; x->at += REPLAY_PIECE) {
		if (conn_queued(c) > 0)
			return false;
		conn_stream_write(c, body.p + x->at, REPLAY_PIECE);
	}
	if (conn_queued(c) > 0)
		return false;
	buf_add(&b, body.p + x->at, body.len - x->at);
	if (row->outcome == OUTCOME_WORKER_DIED)
		put_lost(&b, h, row);
	if (b.failed)
		conn_stream_end(c, true);
	else
		conn_stream_finish(c, b.data, b.len);
	buf_free(&b);
	return true;
}

/* True: it is told. */
static bool
tell(struct kept *x, const struct kept_head *h, const struct stream_row *row, struct span provider,
    struct span body)
{
	const char *reason = emit_finish_reason(row->outcome);
	struct conn *c = x->conn;
	char money[MONEY_TEXT_MAX], id[STREAM_ID_LEN + 1];

	conn_header(c, "idempotent-replayed", "true");
	stream_id_format(&x->id, id);
	conn_header(c, "x-tolld-stream-id", "%s", id);
	if (provider.len > 0)
		conn_header(c, "x-tolld-provider", "%.*s", (int)provider.len, provider.p);
	/* It will be the same ever again. */
	if (h->status != 200)
		conn_header(c, "x-should-retry", "false");
	if (h->status == 200) {
		money_format(money, account_available(conn_caller(c)->account));
		conn_header(c, "x-tolld-available", "%s", money);
	}
	if (!h->event_stream) {
		money_format(money, row->charge);
		if (h->status == 200)
			conn_header(c, "x-tolld-cost", "%s", money);
		if (h->status == 200 && reason != NULL)
			conn_header(c, "x-tolld-finish", "%s", reason);
		conn_reply(c, h->status, "application/json", body.p, body.len);
		return true;
	}
	conn_header(c, "Cache-Control", "no-cache, no-transform");
	conn_header(c, "X-Accel-Buffering", "no");
	x->leaving = true;
	conn_stream_start(c, 200, "text/event-stream", &leaving, x);
	return leave(x, h, row, body);
}

/* What is kept, in its parts; false: it is damaged. */
static bool
take_apart(const struct buf *text, struct kept_head *h, struct span *provider, struct span *body)
{
	if (text->len < sizeof *h)
		return false;
	memcpy(h, text->data, sizeof *h);
	if (h->provider_len > text->len - sizeof *h || h->status < 200 || h->status > 599)
		return false;
	*provider = (struct span){text->data + sizeof *h, h->provider_len};
	*body = (struct span){
	    provider->p + provider->len, text->len - sizeof *h - provider->len};
	return true;
}

/* True: it is told. */
static bool
answer(struct kept *x, const struct stream_row *row, const struct buf *text)
{
	struct kept_head h;
	struct span provider, body;

	if (text->len == 0)
		not_kept(x->conn, 410, "stream_lost",
		    "the process that ran the first request with this Idempotency-Key died before it "
		    "answered");
	else if (text->data[text->len - 1] == '\0')
		not_kept(x->conn, 410, "answer_not_kept",
		    "the answer to this Idempotency-Key was too long to be kept");
	else if (!take_apart(text, &h, &provider, &body))
		not_kept(x->conn, 410, "answer_not_kept",
		    "the answer to this Idempotency-Key is damaged");
	else
		return tell(x, &h, row, provider, body);
	return true;
}

/* The next piece.  It is read anew each time: nothing of it is held while a client is slow. */
static void
writable(void *arg, struct conn *c)
{
	struct kept *x = arg;
	struct state_reader *r = past_reader(x->w);
	struct stream_row row;
	struct buf text = {0};
	struct kept_head h;
	struct span provider, body;

	if (r == NULL || state_stream_get(r, x->id.secret, &row, &text) != 1 ||
	    !take_apart(&text, &h, &provider, &body) || body.len < x->at) {
		/* It was forgotten meanwhile: only a broken transfer says so. */
		conn_stream_end(c, true);
	} else if (!leave(x, &h, &row, body)) {
		buf_free(&text);
		return;
	}
	buf_free(&text);
	unlink_kept(x);
	free(x);
}

/* 1: the row is there, and has ended; 0: there is none; -1: not known yet. */
static int
look(struct kept *x, struct stream_row *row, struct buf *text)
{
	struct state_reader *r = past_reader(x->w);
	int found = r == NULL ? -1 : state_stream_get(r, x->id.secret, row, NULL);

	if (found == 1)
		return row->outcome != OUTCOME_NONE &&
			state_stream_get(r, x->id.secret, row, text) == 1
		    ? 1
		    : -1;
	if (found < 0)
		return -1;
	return atomic_load_explicit(&x->w->region->h->projected_seq, memory_order_acquire) >=
		x->asked_seq
	    ? 0
	    : -1;
}

/* False: it is waited for, or leaves.  Else it is done with, and freed. */
static bool
attempt(struct kept *x)
{
	const struct config *cfg = x->w->config;
	uint64_t patience_us =
	    ((uint64_t)cfg->timeouts.stream + cfg->timeouts.request + PATIENCE_S) * 1000000;
	struct conn *c = x->conn;
	struct stream_row row;
	struct buf text = {0};
	int known = look(x, &row, &text);
	bool done = known >= 0 || monotonic_us() - x->asked_us >= patience_us;

	if (known == 1) {
		done = answer(x, &row, &text);
	} else if (known == 0) {
		not_kept(c, 410, "answer_not_kept",
		    "the answer to this Idempotency-Key is not kept any more");
	} else if (done) {
		conn_header(c, "Retry-After", "5");
		conn_error(c, 503, "server_error", "overloaded", NULL,
		    "the first request with this Idempotency-Key has not ended yet");
	}
	buf_free(&text);
	if (done) {
		unlink_kept(x);
		free(x);
	}
	return done;
}

void
kept_replay(struct worker *w, struct conn *c, const struct stream_id *id)
{
	struct kept *x = malloc(sizeof *x);

	if (x == NULL) {
		conn_error(c, 503, "server_error", "overloaded", NULL, "out of memory");
		return;
	}
	*x = (struct kept){
	    .next = w->kept,
	    .w = w,
	    .id = *id,
	    .conn = c,
	    .asked_us = monotonic_us(),
	    .asked_seq =
		atomic_load_explicit(&w->region->h->journal_seq, memory_order_acquire),
	};
	w->kept = x;
	if (!attempt(x) && !x->leaving)
		conn_later(c, &ops, x);
}

void
kept_tick(struct worker *w)
{
	struct kept *next;

	for (struct kept *x = w->kept; x != NULL; x = next) {
		next = x->next;
		if (!x->leaving)
			(void)attempt(x);
	}
}

void
kept_fini(struct worker *w)
{
	struct kept *x;

	while ((x = w->kept) != NULL) {
		w->kept = x->next;
		free(x);
	}
}
