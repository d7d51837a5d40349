/*
 * May it start?  Reserves for a request, with what the user said in the reserve's record, and goes
 * on when that is on disk.  Worker process.
 */
#include "daemon/begin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "daemon/api.h"
#include "daemon/budget.h"
#include "daemon/history_context.h"
#include "daemon/limit.h"
#include "daemon/messages_request.h"
#include "daemon/metrics.h"
#include "daemon/quote.h"
#include "daemon/relay.h"
#include "daemon/repeat.h"
#include "daemon/sight.h"
#include "daemon/stream.h"
#include "daemon/turn.h"
#include "daemon/worker.h"
#include "shm/clock.h"
#include "shm/fault.h"

/* Of a worker's holds, what one account may have when few are left; of small tables nothing. */
#define FAIR_PART 16
#define FAIR_MIN 4

static void gone(void *, struct conn *);

static const struct conn_ops ops = {gone, NULL};

static void
refuse_credit(struct conn *c, const struct quote *q, const char *code, struct span more,
    const char *message)
{
	struct buf b = {0};

	buf_str(&b, ",\"required\":");
	buf_money(&b, q->required);
	buf_str(&b, ",\"available\":");
	/* What the reserve saw: the books may not know yet of what others are taking. */
	buf_money(&b, quote_available(conn_caller(c)->account, conn_caller(c)->purse, NULL));
	buf_add(&b, more.p, more.len);
	conn_header(c, "x-should-retry", "false");
	conn_error_with(c, 402, "insufficient_quota", code, NULL,
	    (struct span){b.data, b.len}, message);
	buf_free(&b);
}

/* Which of its budgets, and when that begins anew: waiting helps, but for a client's retries it is
 * too long. */
static void
refuse_budget(struct conn *c, unsigned which, const struct quote *q)
{
	static const char *const name[BUDGETS] = {"day", "month"};
	const struct account *a = conn_caller(c)->account;
	struct buf more = {0};
	char message[160], when[32];
	struct budget_now now;
	time_t resets;
	struct tm tm;

	(void)budget_now(a, which, &now); /* it may be gone by now */
	resets = (time_t)now.resets_at;
	buf_printf(&more, ",\"budget_%s\":", name[which]);
	budget_put(&more, a, which);
	if (gmtime_r(&resets, &tm) == NULL ||
	    strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", &tm) == 0)
		when[0] = '\0';
	snprintf(message, sizeof message,
	    "the account's budget for this %s does not cover the prompt and one token of an "
	    "answer; it begins anew at %s", name[which], when);
	refuse_credit(c, q, "budget_exceeded", (struct span){more.data, more.len}, message);
	buf_free(&more);
}

static void
refuse_overloaded(struct conn *c, enum reserve_kind kind, const char *message)
{
	metrics_reserve(kind);
	/* Whoever waits for the disk has been waiting for seconds: not at once again. */
	conn_header(c, "Retry-After", kind == RESERVE_UNAVAILABLE ? "5" : "1");
	conn_error(c, 503, "server_error", "overloaded", NULL, "%s", message);
}

void
begin_refuse(struct conn *c, const struct chat_fault *f)
{
	/* It was read, whatever it said. */
	limit_request_count(((struct worker *)conn_arg(c))->config, conn_caller(c));
	if (f->status == 503)
		refuse_overloaded(c, RESERVE_MEMORY, f->message);
	else
		conn_error(c, f->status, "invalid_request_error", f->code, f->param, "%s",
		    f->message);
}

/*
 * Open streams that the account may have.  Of a worker's table that is nearly full nobody takes
 * what is left: who has many open waits until one of them ends.
 */
static uint32_t
streams_allowed(const struct worker *w, const struct account *a)
{
	uint32_t own = limit_account_streams(w->config, a), all = w->region->h->holds_per_proc;
	uint32_t fair = all / FAIR_PART;

	if (fair < FAIR_MIN || ledger_holds_free(w->ledger) > all / 4 || (own != 0 && own < fair))
		return own;
	return fair;
}

static void
refuse(struct conn *c, enum ledger_result r, const struct quote *q)
{
	switch (r) {
	case LEDGER_SHORT:
		metrics_reserve(RESERVE_SHORT);
		refuse_credit(c, q, "insufficient_credit", SPAN(""),
		    "the account's credit does not cover the prompt and one token of an answer");
		return;
	case LEDGER_CLOSED:
		metrics_reserve(RESERVE_CLOSED);
		refuse_credit(c, q, "insufficient_credit", SPAN(""), "the account is closed or frozen");
		return;
	case LEDGER_CAPPED:
		metrics_reserve(RESERVE_CAPPED);
		refuse_credit(c, q, "key_cap_reached", SPAN(""),
		    "this key's cap does not cover the prompt and one token of an answer");
		return;
	case LEDGER_BUDGET_DAY:
	case LEDGER_BUDGET_MONTH:
		metrics_reserve(RESERVE_BUDGET);
		refuse_budget(c, r == LEDGER_BUDGET_DAY ? BUDGET_DAY : BUDGET_MONTH, q);
		return;
	case LEDGER_SEATS:
		metrics_reserve(RESERVE_LIMITED);
		limit_refuse_streams(
		    c, "account", streams_allowed(conn_arg(c), conn_caller(c)->account));
		return;
	case LEDGER_KEY_SEATS:
		metrics_reserve(RESERVE_LIMITED);
		limit_refuse_streams(c, "key", conn_caller(c)->key->concurrent_streams);
		return;
	default:
		refuse_overloaded(c, r == LEDGER_FULL ? RESERVE_FULL : RESERVE_BUSY,
		    r == LEDGER_FULL ? "too many open streams" : "the journal is behind");
	}
}

static void
refuse_journal(struct conn *c)
{
	refuse_overloaded(c, RESERVE_UNAVAILABLE, "the journal cannot be written");
}

/* The record's payload: who it is for, and what the user said. */
static void
payload(struct buf *b, const struct stream *st, const struct chat_request *r,
    const uint8_t message_id[static 16])
{
	const char *model = st->config->model[r->model].name;
	struct json_value said = chat_request_said(r);
	struct journal_reserve j = {
	    .generation = st->w->generation,
	    .model_len = (uint16_t)strlen(model),
	    .keyed = !st->has_key ? 0 : st->api != NULL ? JOURNAL_KEYED_ANSWER : JOURNAL_KEYED,
	};

	memcpy(j.stream_id, st->id.secret, sizeof j.stream_id);
	memcpy(j.session_id, r->session_id, sizeof j.session_id);
	memcpy(j.message_id, message_id, sizeof j.message_id);
	buf_add(b, &j, sizeof j);
	buf_str(b, model);
	if (st->has_key)
		buf_add(b, &st->keyed, sizeof st->keyed);
	/* On /v1 the client keeps its own history; and where none is kept nobody needs it again. */
	if (!r->v1 && st->config->history.enabled)
		buf_add(b, said.p, said.len);
}

static void
reserved_cb(void *arg, uint64_t position)
{
	struct stream *st = arg;
	struct conn *c = st->sender;
	struct ring *ring = ledger_ring(st->w->ledger);
	int64_t available;
	enum ring_status status = ring_result(ring, position, &available);
	uint64_t first = ring_first(ring, position);

	FAULT("send.durable");
	st->sender = NULL;
	if (status != RING_APPLIED)
		stream_close(st, OUTCOME_CANCELLED, "overloaded", "the reserve was refused");
	stream_acknowledged(st);
	if (st->has_key)
		turn_over(st->w, st->account->number, &st->keyed);
	if (c == NULL)
		return;
	if (status == RING_REPEATED) {
		repeat_answer(st->w, c, first, available);
		return;
	}
	if (status == RING_CONFLICT) {
		repeat_conflict(c);
		return;
	}
	if (status == RING_NOSPACE) {
		refuse_overloaded(c, RESERVE_REFS, "too many requests with an Idempotency-Key today");
		return;
	}
	if (st->stop_wanted) {
		if (status == RING_CLOSED)
			metrics_reserve(RESERVE_CLOSED);
		conn_header(c, "Retry-After", "1");
		conn_error(c, 503, "server_error", st->w->draining ? "draining" : "overloaded",
		    NULL, "the gateway could not take the request");
		return;
	}
	metrics_reserve(RESERVE_OK);
	st->begun(st, c, available);
	FAULT("send.answered");
}

/*
 * The record is in the ring and becomes durable some day.  Nobody knows its id then, so it is
 * given back at once, like that of a sender who left; but for one with an Idempotency-Key, who may
 * come back and be told.
 */
void
begin_give_up(struct stream *st)
{
	struct conn *c = st->sender;

	if (c == NULL)
		return;
	st->sender = NULL;
	if (!st->has_key || st->api != NULL)
		stream_cancel(st, OUTCOME_CANCELLED);
	refuse_journal(c);
}

void
begin_give_up_asked(struct worker *w)
{
	repeat_give_up(w, refuse_journal);
	sight_give_up(w);
}

/* Unless it has an Idempotency-Key, nobody will ever know the stream's id. */
static void
gone(void *arg, struct conn *c)
{
	struct stream *st = arg;

	(void)c;
	st->sender = NULL;
	if (!st->has_key || st->api != NULL)
		stream_cancel(st, OUTCOME_CANCELLED);
}

/*
 * "00-<32 hex>-<16 hex>-<2 hex>", W3C's trace context: what is not exactly that, or names nothing (all
 * zeros, the version ff), is not passed on.
 */
static void
trace_context(struct stream *st, struct span v)
{
	static const char form[] = "xx-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx-xxxxxxxxxxxxxxxx-xx";

	if (v.len != sizeof form - 1)
		return;
	for (size_t i = 0; i < v.len; i++)
		if (form[i] == 'x' ? strchr("0123456789abcdef", v.p[i]) == NULL || v.p[i] == '\0'
				   : v.p[i] != form[i])
			return;
	if (memcmp(v.p, "ff", 2) == 0 || strspn(v.p + 3, "0") >= 32 || strspn(v.p + 36, "0") >= 16)
		return;
	memcpy(st->traceparent, v.p, v.len);
	st->traceparent[v.len] = '\0';
}

static struct stream *
make_stream(struct conn *c, struct chat_request *r, const struct http_request *h,
    struct buf request[static DIALECTS], uint8_t message_id[static 16])
{
	struct worker *w = conn_arg(c);
	struct stream *st = stream_new(w->streams);

	if (st == NULL)
		return NULL;
	if (!stream_take_requests(st, request)) {
		stream_drop(st);
		return NULL;
	}
	snprintf(st->request_id, sizeof st->request_id, "%s", conn_request_id(c));
	trace_context(st, http_header(h, "traceparent"));
	if (!r->has_session)
		id_random(r->session_id, sizeof r->session_id);
	id_random(message_id, 16);
	id_format(r->session_id, st->session_text);
	id_format(message_id, st->message_text);
	st->model = r->model;
	st->include_usage = r->include_usage;
	st->max_completion_tokens = r->max_completion_tokens;
	st->choices = r->choices;
	st->prompt_tokens = r->prompt_tokens;
	st->prompt_bytes = r->prompt_bytes;
	st->max_tokens = r->max_tokens;
	st->deadline_us = st->created_us + (uint64_t)w->config->ledger.hold_ttl * 1000000;
	return st;
}

static enum ledger_result
reserve(struct stream *st, struct key_entry *key, const struct chat_request *r,
    const struct quote *q,
    const struct price *price, uint32_t price_id, const uint8_t message_id[static 16],
    uint64_t *position)
{
	uint64_t now_us = realtime_us();
	struct hold_terms t = {
	    .account = st->account,
	    .purse = st->purse,
	    .price = *price,
	    .price_id = price_id,
	    .prompt = r->prompt_tokens,
	    .max_tokens = r->max_tokens,
	    .min_tokens = q->min_tokens,
	    .want_tokens = q->want_tokens,
	    .seats = streams_allowed(st->w, st->account),
	    .key = key,
	    .key_seats = key == NULL ? 0 : key->concurrent_streams,
	    .model = (uint16_t)r->model,
	    .reserved_us = now_us,
	    .deadline_us = now_us + (st->deadline_us - st->created_us),
	};
	struct buf b = {0};
	enum ledger_result result = LEDGER_BUSY;

	memcpy(t.stream_id, st->id.secret, sizeof t.stream_id);
	memcpy(t.session_id, r->session_id, sizeof t.session_id);
	payload(&b, st, r, message_id);
	if (!b.failed)
		result = ledger_reserve(st->w->ledger, &t, b.data, b.len, &st->hold, position);
	buf_free(&b);
	return result;
}

/* Nothing could be reserved for a request with a key that is not known. */
struct refusal {
	enum ledger_result result;
	struct quote quote;
};

static void
unknown_cb(struct conn *c, void *arg)
{
	const struct refusal *x = arg;

	refuse(c, x->result, &x->quote);
}

/* Was it the first request with this key that took what is missing now? */
static void
ask_or_refuse(struct worker *w, struct conn *c, const struct journal_keyed *keyed,
    enum ledger_result result, const struct quote *q)
{
	struct refusal *x = keyed == NULL || result == LEDGER_BUSY ? NULL : malloc(sizeof *x);

	if (x == NULL) {
		refuse(c, result, q);
		return;
	}
	*x = (struct refusal){result, *q};
	repeat_ask(w, c, keyed, unknown_cb, x);
}

/* May anything start now?  False: answered. */
static bool
open_for_requests(struct worker *w, struct conn *c)
{
	/* Relaxed: whoever is in time to be taken is taken. */
	if (w->draining ||
	    atomic_load_explicit(&w->region->h->draining, memory_order_relaxed) != 0) {
		conn_header(c, "Retry-After", "1");
		conn_error(c, 503, "server_error", "draining", NULL, "the gateway is draining");
		return false;
	}
	/* Relaxed: a hint; without it the answer would only wait for the disk. */
	if (w->stalled ||
	    atomic_load_explicit(&w->region->h->journal_ok, memory_order_relaxed) == 0) {
		refuse_journal(c);
		return false;
	}
	return true;
}

/* May it, by what its account and key did in the last minute?  False: answered. */
static bool
within_limits(struct worker *w, struct conn *c, uint32_t prompt, uint32_t completion,
    struct limit_taken *taken)
{
	struct limit_verdict v;

	limit_request_take(w->config, conn_caller(c), prompt, completion, taken, &v);
	limit_headers(c, &v);
	if (!v.allowed)
		limit_refuse(c, &v);
	return v.allowed;
}

static int
write_requests(const struct config *cfg, const struct chat_request *r, const struct api *api,
    struct buf request[static DIALECTS], struct chat_fault *f)
{
	if (api != NULL && api->write != NULL)
		return api->write(cfg, r, &request[dialect_index(api->dialect)], f);
	return dialect_write_all(cfg, r, request, f);
}

bool
begin(struct conn *c, const struct http_request *h, struct begin *x)
{
	struct worker *w = conn_arg(c);
	struct chat_request *r = &x->request;
	struct chat_fault f;
	struct quote q;
	struct price price;
	struct stream *st;
	uint8_t message_id[16];
	uint64_t position;
	uint32_t price_id;
	enum ledger_result result;
	struct limit_taken limited;
	struct buf request[DIALECTS] = {{0}};

	if (!auth_model(conn_caller(c), w->config->model[r->model].name)) {
		route_refuse_model(c);
		return false;
	}
	if (!open_for_requests(w, c))
		return false;
	if (write_requests(w->config, r, x->api, request, &f) != 0) {
		if (r->native != NULL)
			messages_request_fault(r->native, &f);
		begin_refuse(c, &f);
		return false;
	}
	r->in_one_piece =
	    r->whole && x->api != NULL && request[dialect_index(x->api->dialect)].len > 0;
	price_id = quote_price(w->region, r->model, &price);
	quote_make(w->config, w->region, r, &price, &q);
	if (!within_limits(w, c, r->prompt_tokens, q.want_tokens, &limited)) {
		for (int k = 0; k < DIALECTS; k++)
			buf_free(&request[k]);
		return false;
	}
	st = make_stream(c, r, h, request, message_id);
	if (st == NULL) {
		limit_request_settle(&limited, 0);
		for (int k = 0; k < DIALECTS; k++)
			buf_free(&request[k]);
		refuse_overloaded(c, RESERVE_MEMORY, "no memory for more requests now");
		return false;
	}
	st->limited = limited;
	st->account = conn_caller(c)->account;
	st->purse = conn_caller(c)->purse;
	st->begun = x->begun;
	st->api = x->api;
	if ((x->api != NULL &&
	        (st->relay = relay_new(r->whole, x->keyed != NULL)) == NULL) ||
	    (x->beta.len > 0 && (st->beta = strndup(x->beta.p, x->beta.len)) == NULL)) {
		limit_request_settle(&st->limited, 0);
		stream_drop_requests(st);
		stream_drop(st);
		refuse_overloaded(c, RESERVE_MEMORY, "out of memory");
		return false;
	}
	if (st->relay != NULL)
		st->relay->prepaid = r->in_one_piece;
	if (x->keyed != NULL) {
		st->keyed = *x->keyed;
		st->keyed.expires_s = stream_expires_s(st);
		st->has_key = true;
	}
	result = reserve(st, conn_caller(c)->key, r, &q, &price, price_id, message_id, &position);
	if (result != LEDGER_OK) {
		limit_request_settle(&st->limited, 0);
		stream_drop(st);
		ask_or_refuse(w, c, x->keyed, result, &q);
		return false;
	}
	FAULT("send.reserved");
	st->reserved = st->hold->amount;
	st->sender = c;
	conn_later(c, &ops, st);
	durable_wait(w->durable, position, reserved_cb, st);
	return true;
}

bool
begin_chat(struct conn *c, const struct http_request *h, struct span body, struct begin *x)
{
	struct worker *w = conn_arg(c);
	struct buf past = {0};
	struct chat_fault f;
	bool pushed = false;

	if (!limit_may_read(w->config, c, body.len))
		return false;
	if (chat_request_parse(w->config, body, &x->request, &f) == 0 &&
	    history_context(w, conn_caller(c)->account, &x->request, &past, &f) == 0)
		pushed = begin(c, h, x);
	else
		begin_refuse(c, &f);
	buf_free(&past);
	return pushed;
}
