/*
 * GET /receipt: what a stream cost and why.  Worker process.
 *
 * All of it but a running stream's meter is what the journal says, so it is the same from every
 * worker, after a restart, and for as long as the records are kept.  A stream of another account is
 * answered like one that there never was.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/emit.h"
#include "daemon/ids.h"
#include "daemon/journal_receipts.h"
#include "daemon/log.h"
#include "daemon/past.h"
#include "daemon/quote.h"
#include "daemon/worker.h"
#include "shm/ledger.h"

/* What is counted and what it costs: at the end what was charged for, before it what there is. */
struct bill {
	struct price price;
	struct tokens tokens;
	int64_t total;
};

/* A stream that has not ended, as its hold in shared memory shows it. */
struct running {
	bool there, opened, settling;
	int64_t held;
	struct tokens tokens;
};

static void
not_found(struct conn *c)
{
	conn_error(c, 404, "invalid_request_error", "not_found", "id", "there is no such stream");
}

static void
unreadable(struct conn *c)
{
	conn_header(c, "Retry-After", "1");
	conn_error(c, 503, "server_error", "overloaded", NULL, "the journal cannot be read now");
}

/*
 * Copy a hold of this stream that its owner may be at work on.  Its fields belong together if the
 * state's word is the same before and after; `held` may be an extend older.
 */
static void
look_at_hold(const struct hold *h, const struct stream_id *id, struct running *run)
{
	*run = (struct running){.there = false};
	/* It moves once in many tokens: more than a few times in the time of a copy it cannot. */
	for (int tries = 0; tries < 16 && !run->there; tries++) {
		/* Acquire, pairs with hold_move. */
		uint64_t word = atomic_load_explicit(&h->state, memory_order_acquire), meter;
		enum hold_state state = HOLD_STATE(word);

		if ((state != HOLD_HELD && state != HOLD_EXTENDING && state != HOLD_SETTLING) ||
		    memcmp(h->stream_id, id->secret, sizeof h->stream_id) != 0)
			return;
		*run = (struct running){.settling = state == HOLD_SETTLING,
		    .opened = atomic_load_explicit(&h->opened, memory_order_relaxed) != 0,
		    .held = h->amount};
		meter = atomic_load_explicit(&h->meter, memory_order_relaxed);
		/* Without a token it would be void. */
		if (METER_TOKENS(meter) > 0)
			run->tokens = (struct tokens){.prompt = h->prompt,
			    .completion = METER_TOKENS(meter),
			    .reasoning = METER_REASONING(meter) < METER_TOKENS(meter)
			                     ? METER_REASONING(meter)
			                     : METER_TOKENS(meter)};
		/* The second look must not slip in front of the copies. */
		atomic_thread_fence(memory_order_acquire);
		run->there = atomic_load_explicit(&h->state, memory_order_relaxed) == word;
	}
}

/* An open stream, by its hold: its id says whose slots to look through.  1, 0, -1. */
static int
find_open(struct worker *w, struct journal_reader *journal, const struct stream_id *id,
    struct journal_receipt *x, struct running *run)
{
	uint32_t first, count = w->region->h->holds_per_proc;

	if (id->proc < PROC_WORKER || id->proc >= w->region->h->procs)
		return 0;
	first = hold_first(w->region, id->proc);
	for (uint32_t slot = first; slot < first + count; slot++) {
		look_at_hold(hold_at(w->region, slot), id, run);
		if (run->there)
			return journal_receipt_open(journal, slot, id->secret, x);
	}
	return 0;
}

/* 1, 0, -1.  A stream that is not to be found where it ran, may have ended since the first look. */
static int
find(struct worker *w, const struct stream_id *id, struct journal_receipt *x, struct running *run)
{
	struct journal_reader *journal = past_journal(w);
	int found;

	if (journal == NULL)
		return -1;
	found = journal_receipt_get(journal, id->secret, x);
	if (found == 0)
		found = find_open(w, journal, id, x, run);
	if (found == 0)
		found = journal_receipt_get(journal, id->secret, x);
	return found;
}

/*
 * The tokens, and the price of the reserve, which has to say what was charged: memory that somebody
 * wrote over is no reason for a false receipt.
 */
static bool
make_bill(
    struct worker *w, const struct journal_receipt *x, const struct running *run, struct bill *bill)
{
	struct state_price kept;
	struct state_reader *state;
	bool ended = x->settle_seq != 0;

	*bill = (struct bill){.tokens = run->tokens};
	if (ended && x->settle.type == JOURNAL_VOID)
		bill->tokens = (struct tokens){0};
	else if (ended)
		bill->tokens = (struct tokens){.prompt = x->settle.prompt,
		    .cached = x->settle.cached,
		    .completion = x->settle.completion,
		    .reasoning = x->end.split.reasoning,
		    .cache_write = x->end.split.cache_write};
	/* Acquire, pairs with the keeper's: prices below the count are there. */
	if (x->reserve.price < atomic_load_explicit(&w->region->h->prices, memory_order_acquire))
		bill->price = *region_price(w->region, x->reserve.price);
	if (ended ? x->settle.type == JOURNAL_VOID : bill->tokens.completion == 0)
		return true;
	bill->total = price_cost_of(&bill->price, &bill->tokens);
	if (!ended || bill->total == x->settle.amount + x->settle.extra)
		return true;
	state = past_reader(w);
	if (state == NULL || state_price_get(state, x->reserve.price, &kept) != 1)
		return false;
	bill->price = kept.price;
	bill->total = price_cost_of(&bill->price, &bill->tokens);
	return bill->total == x->settle.amount + x->settle.extra;
}

static void
add_text(struct buf *b, const char *name, const char *text, size_t len)
{
	buf_printf(b, ",\"%s\":", name);
	if (len == 0)
		buf_str(b, "null");
	else
		buf_json(b, text, len);
}

static void
add_money(struct buf *b, const char *name, int64_t amount)
{
	buf_printf(b, ",\"%s\":", name);
	buf_money(b, amount);
}

/* In seconds like everybody's times here, but to the millisecond. */
static void
add_time(struct buf *b, const char *name, uint64_t us)
{
	buf_printf(b, ",\"%s\":", name);
	if (us == 0)
		buf_str(b, "null");
	else
		buf_printf(b, "%" PRIu64 ".%03u", us / 1000000, (unsigned)(us / 1000 % 1000));
}

/*
 * A time that was noted by another clock than its records were.  The two began to count a moment apart:
 * that is no reason to tell of a token after the end.
 */
static uint64_t
between(const struct journal_receipt *x, uint32_t after_ms)
{
	uint64_t created = x->reserve.time_us, us = created + (uint64_t)after_ms * 1000;

	if (after_ms == JOURNAL_NONE)
		return 0;
	return us > x->settle.time_us && x->settle.time_us >= created ? x->settle.time_us : us;
}

static void
add_times(struct buf *b, const struct journal_receipt *x)
{
	add_time(b, "created_at", x->reserve.time_us);
	add_time(b, "opened_at", between(x, x->end.opened_ms));
	add_time(b, "first_token_at", between(x, x->end.first_ms));
	add_time(b, "ended_at", x->settle.time_us);
}

/* Totals as in every "usage" here: the prompt with what was cached, completion with reasoning. */
static void
add_usage(struct buf *b, const struct tokens *t, const char *counted_by)
{
	uint64_t prompt = t->prompt + t->cached;

	buf_printf(b,
	    ",\"usage\":{\"prompt_tokens\":%" PRIu64 ",\"completion_tokens\":%" PRIu64
	    ",\"total_tokens\":%" PRIu64 ",\"cached_tokens\":%" PRIu64
	    ",\"cache_write_tokens\":%" PRIu64 ",\"reasoning_tokens\":%" PRIu64 "}",
	    prompt, t->completion, prompt + t->completion, t->cached, t->cache_write, t->reasoning);
	add_text(b, "counted_by", counted_by, strlen(counted_by));
}

/*
 * Each kind's share: what the kinds up to here cost together, rounded up, less what stood before.  So
 * each is its tokens times its price to the micro-credit, and their sum is the total, which is rounded
 * up once.
 */
static void
add_lines(struct buf *b, const struct bill *bill)
{
	const struct tokens *t = &bill->tokens;
	const struct {
		enum price_kind kind;
		uint64_t tokens;
	} kinds[] = {
	    {PRICE_PROMPT, t->prompt - t->cache_write},
	    {PRICE_CACHED, t->cached},
	    {PRICE_CACHE_WRITE, t->cache_write},
	    {PRICE_COMPLETION, t->completion - t->reasoning},
	    {PRICE_REASONING, t->reasoning},
	    {PRICE_REQUEST, 1},
	};
	struct price price = bill->price, upto = {0};
	int64_t before = 0, now;
	bool first = true;

	buf_str(b, ",\"lines\":[");
	for (size_t i = 0;
	     i < sizeof kinds / sizeof kinds[0] && t->completion + t->prompt + t->cached > 0; i++) {
		int64_t each = *price_field(&price, kinds[i].kind);

		if (kinds[i].tokens == 0 || (kinds[i].kind == PRICE_REQUEST && each == 0))
			continue;
		*price_field(&upto, kinds[i].kind) = each;
		now = price_cost_of(&upto, t);
		buf_printf(
		    b, "%s{\"kind\":\"%s\"", first ? "" : ",", price_kind_name[kinds[i].kind]);
		if (kinds[i].kind != PRICE_REQUEST)
			buf_printf(b, ",\"tokens\":%" PRIu64, kinds[i].tokens);
		add_money(b, "price", each);
		add_money(b, "amount", now - before);
		buf_str(b, "}");
		before = now;
		first = false;
	}
	buf_str(b, "]");
	add_money(b, "total", bill->total);
}

/* How it ended, and what was charged. */
static void
add_end(struct buf *b, const struct journal_receipt *x)
{
	const char *reason = emit_finish_reason(x->settle.outcome);
	const char *outcome = journal_outcome_text(x->settle.outcome);
	const char *short_of = quote_short_name(x->end.short_of);

	if (reason == NULL)
		reason = "error";
	add_text(b, "finish_reason", reason, strlen(reason));
	add_text(b, "outcome", outcome, strlen(outcome));
	if (short_of != NULL)
		add_text(b, "short_of", short_of, strlen(short_of));
	add_money(b, "charged", x->settle.amount);
	add_money(b, "uncollected", x->settle.extra);
}

static const char *
counted_by(const struct journal_receipt *x, const struct bill *bill)
{
	if (x->settle_seq == 0)
		return bill->tokens.completion > 0 ? "tolld" : "";
	if (x->settle.type == JOURNAL_VOID)
		return "";
	/* What a dead worker's hold was settled for is what its meter said. */
	if (x->settle.version != JOURNAL_VERSION_TOLD)
		return x->settle.outcome == OUTCOME_WORKER_DIED ? "tolld" : "";
	return x->end.counted == COUNTED_PROVIDERS ? "provider" : "tolld";
}

static void
write_receipt(struct buf *b, const char *id, const struct journal_receipt *x,
    const struct running *run, const struct bill *bill)
{
	char session[ID_LEN + 1], message[ID_LEN + 1];
	bool ended = x->settle_seq != 0;

	id_format(x->head.session_id, session);
	id_format(x->head.message_id, message);
	buf_printf(b, "{\"id\":\"%s\",\"state\":\"%s\",\"session_id\":\"%s\",\"message_id\":\"%s\"",
	    id,
	    ended                          ? "ended"
	    : !run->there || run->settling ? "settling"
	    : run->opened                  ? "running"
	                                   : "waiting",
	    session, message);
	add_text(b, "model", x->model, x->model_len);
	add_text(b, "provider", x->provider, x->end.provider_len);
	add_times(b, x);
	add_usage(b, &bill->tokens, counted_by(x, bill));
	add_lines(b, bill);
	add_money(b, "reserved", x->reserve.amount);
	if (ended)
		add_end(b, x);
	else
		add_money(b, "held", run->held);
	buf_printf(b, ",\"journal\":{\"reserve\":%" PRIu64, x->reserve_seq);
	if (ended)
		buf_printf(b, ",\"settle\":%" PRIu64, x->settle_seq);
	buf_str(b, "}}");
}

static void
reply(struct conn *c, const char *id, const struct journal_receipt *x, const struct running *run)
{
	struct buf b = {0};
	struct bill bill;

	if (!make_bill(conn_arg(c), x, run, &bill)) {
		log_warnx("the receipt of record %" PRIu64 " does not add up", x->settle_seq);
		unreadable(c);
		return;
	}
	write_receipt(&b, id, x, run, &bill);
	if (b.failed)
		unreadable(c);
	else {
		conn_header(c, "Cache-Control", "no-store");
		conn_reply_buf(c, 200, "application/json", &b);
	}
	buf_free(&b);
}

void
receipt_handler(struct conn *c, const struct http_request *h, struct span body)
{
	char text[STREAM_ID_LEN + 8];
	struct running run = {.there = false};
	struct journal_receipt x;
	struct stream_id id;
	size_t len;
	bool known;
	int found;

	(void)body;
	known = http_query(h->query, "id", text, sizeof text, &len);
	if (!http_query_has(h->query, "id") || (known && len == 0)) {
		conn_error(
		    c, 400, "invalid_request_error", "invalid_request", "id", "'id' is missing");
		return;
	}
	if (!known || !stream_id_parse(text, len, &id)) {
		not_found(c);
		return;
	}
	found = find(conn_arg(c), &id, &x, &run);
	if (found < 0)
		unreadable(c);
	else if (found == 0 || x.reserve.account != conn_caller(c)->account->number ||
	         x.reserve.proc != id.proc || x.head.generation != id.generation)
		not_found(c);
	else {
		stream_id_format(&id, text);
		reply(c, text, &x, &run);
	}
}
