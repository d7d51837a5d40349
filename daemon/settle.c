/*
 * Settling: our count or the provider's usage, never above the floor, exactly once.
 * Worker process.
 *
 *   never opened, or nothing produced            void
 *   ended by the provider, with a usage that     what the usage says; above the hold as far as
 *     can be believed                              the account can bear, the rest uncollected
 *   an operator's void                           void
 *   anything else                                the prompt and what was produced, by our count
 */
#include "daemon/settle.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "daemon/api.h"
#include "daemon/calibrate.h"
#include "daemon/decode.h"
#include "daemon/kept.h"
#include "daemon/log.h"
#include "daemon/metrics.h"
#include "daemon/quote.h"
#include "daemon/utf8.h"
#include "daemon/watch.h"
#include "shm/fault.h"

static void settled_cb(void *, uint64_t);

/* A usage counts only if it is possible: a provider's slip must not empty an account. */
static bool
believable(const struct stream *st)
{
	const struct usage *u = &st->usage;

	if (!u->present || st->usage_odd || st->usage_stale)
		return false;
	if (u->prompt < 0 || u->completion < 0 || u->cached < 0 || u->cache_write < 0 ||
	    u->cached > u->prompt || u->cache_write > u->prompt - u->cached)
		return false;
	if (u->completion > (int64_t)st->sent_limit * st->choices ||
	    (uint64_t)u->prompt > st->prompt_bytes)
		return false;
	/* With an answer delivered a count of zero is one that is missing. */
	if (st->api != NULL && st->api->prompt_only)
		return u->prompt > 0;
	return meter_tokens(&st->meter) == 0 || (u->completion > 0 && u->prompt > 0);
}

static void
disbelieve(struct stream *st)
{
	metrics_defect((unsigned)st->provider, DEFECT_USAGE);
	st->defects++;
	log_event(LOG_WARN, "usage not believed", "message", st->message_text, "provider",
	    st->config->provider[st->provider].name, NULL);
}

static void
charge_count(struct stream *st)
{
	struct settlement *x = &st->settlement;

	x->prompt = st->prompt_tokens;
	x->cached = 0;
	x->completion = meter_tokens(&st->meter);
	x->reasoning = meter_reasoning(&st->meter);
	x->charge = meter_cost(&st->meter);
}

/*
 * An answer in one piece that is far longer than its limit was delivered as a whole: it costs what
 * it is, as far as the account can bear that.  The provider's count is not more than ours.
 */
static void
charge_overrun(struct stream *st)
{
	struct settlement *x = &st->settlement;
	const struct usage *u = &st->usage;
	uint32_t said = meter_overrun(&st->meter);

	decode_note_overrun(st);
	if (u->present && !st->usage_odd && u->completion > x->completion && u->completion < said)
		said = (uint32_t)u->completion;
	x->completion = said;
	x->charge = price_cost_of(&st->hold->price,
	    &(struct tokens){.prompt = x->prompt, .completion = said, .reasoning = x->reasoning});
}

/*
 * What the provider says.  Those that do not say how much of it was reasoning (Anthropic, Ollama)
 * stream it: then it is what we counted.
 */
static void
charge_usage(struct stream *st)
{
	struct settlement *x = &st->settlement;
	const struct usage *u = &st->usage;

	x->prompt = (uint32_t)(u->prompt - u->cached);
	x->cached = (uint32_t)u->cached;
	x->cache_write = (uint32_t)u->cache_write;
	x->completion = (uint32_t)u->completion;
	x->reasoning = u->reasoning > 0 ? (uint32_t)(u->reasoning < UINT32_MAX ? u->reasoning : UINT32_MAX)
	    : st->opened_us != 0	? meter_reasoning(&st->meter)
					: 0;
	if (x->reasoning > x->completion)
		x->reasoning = x->completion;
	x->charge = price_cost_of(&st->hold->price,
	    &(struct tokens){x->prompt, x->cached, x->completion, x->reasoning, x->cache_write});
}

/* Our count and the provider's.  What it bills and did not stream is nobody's miscount. */
static void
compare(const struct stream *st, uint32_t theirs)
{
	const struct config_model *m = &st->config->model[st->model];
	uint32_t ours = meter_counted(&st->meter);
	char mean[16];

	metrics_drift(tokenizer_exact(m->tokenizer) ? ours : meter_tokens(&st->meter), theirs);
	/* Nor does it say anything of text. */
	if (m->hidden_tokens || (st->usage.reasoning > 0 && st->meter.thought.now == 0) ||
	    !calibrate_learn(m, ours, theirs))
		return;
	snprintf(mean, sizeof mean, "%.3f", (double)calibrate_mean(m) / TOKENS_SCALE);
	log_event(LOG_WARN, "the provider counts otherwise than this model's tokenizer", "model",
	    m->name, "tokenizer", tokenizer_name(m->tokenizer), "theirs_to_ours", mean, NULL);
}

/* Milliseconds from the reserve to a time of the stream's, or that there was none. */
static uint32_t
since_reserve(const struct stream *st, uint64_t us)
{
	uint64_t ms = us > st->created_us ? (us - st->created_us) / 1000 : 0;

	if (us == 0)
		return JOURNAL_NONE;
	return ms < JOURNAL_NONE ? (uint32_t)ms : JOURNAL_NONE - 1;
}

/* How it went, for its receipt.  What nobody opened has nothing to tell. */
static void
tell(struct stream *st)
{
	struct settlement *x = &st->settlement;
	const char *provider = attempt_provider(st);
	size_t len = provider != NULL ? strlen(provider) : 0;

	if (st->opened_us == 0)
		return;
	st->told = (struct journal_end){
	    .opened_ms = since_reserve(st, st->opened_us),
	    .first_ms = since_reserve(st, st->first_us),
	    .counted = x->voided             ? COUNTED_NOBODYS
	               : st->usage_believed ? COUNTED_PROVIDERS
	                                    : COUNTED_OURS,
	    .short_of = st->outcome == OUTCOME_CREDIT ? quote_short_code(st->short_of)
	                                              : SHORT_UNKNOWN,
	    .attempts = (uint8_t)(st->attempt.count < UINT8_MAX ? st->attempt.count : UINT8_MAX),
	};
	x->end = &st->told;
	/* The config lets no other name in; the keeper would take one for a forgery. */
	if (len <= JOURNAL_PROVIDER_MAX && utf8_valid(len > 0 ? provider : "", len)) {
		x->provider = provider;
		x->provider_len = (uint8_t)len;
	}
}

static void
work_out(struct stream *st)
{
	struct settlement *x = &st->settlement;
	bool opened = st->opened_us != 0;
	uint32_t ours = opened ? meter_tokens(&st->meter) : 0;
	/* Also of an answer that broke off after the provider had said what it took. */
	bool said = st->complete || (st->usage_final && ours > 0 && !st->void_wanted &&
	    st->outcome == OUTCOME_UPSTREAM);
	bool believed = said && believable(st);

	st->usage_believed = believed;
	*x = (struct settlement){.outcome = st->outcome};
	if (said && !believed && (st->usage.present || st->usage_odd))
		disbelieve(st);
	if (believed) {
		charge_usage(st);
		if (ours > 0)
			compare(st, x->completion);
	} else if ((ours > 0 || (st->complete && st->api != NULL && st->api->prompt_only)) &&
	    !st->void_wanted) {
		charge_count(st);
		if (st->meter.unbounded && meter_overrun(&st->meter) > 0)
			charge_overrun(st);
	} else {
		x->voided = true;
	}
	/* Nothing was produced: the provider's failure is nobody's cost. */
	if (x->prompt + x->cached == 0 && x->completion == 0)
		x->voided = true;
	if (x->voided)
		x->charge = 0;
	tell(st);
}

/* Above the hold: take what the account can bear.  False: the ring is full. */
static bool
cover(struct stream *st)
{
	struct settlement *x = &st->settlement;
	uint64_t position;

	if (x->charge <= st->hold->amount)
		return true;
	if (ledger_overdraw(st->w->ledger, st->hold, x->charge, &position) != LEDGER_OK)
		return false;
	if (position != 0)
		durable_wait(st->w->durable, position, NULL, NULL);
	if (x->charge > st->hold->amount) {
		x->uncollected += x->charge - st->hold->amount;
		x->charge = st->hold->amount;
	}
	return true;
}

static void
journal(struct stream *st)
{
	struct span rest = {st->text.data + st->saved, st->text.len - st->saved};
	uint64_t position;
	bool covered = cover(st);

	if (covered && st->relay != NULL)
		rest = kept_rest(st);
	if (rest.len == 0)
		rest.p = "";
	if (!covered ||
	    ledger_settle(st->w->ledger, st->hold, &st->settlement, rest.p, rest.len, &position) !=
		LEDGER_OK) {
		settle_later(st);
		durable_hurry(st->w->durable);
		return;
	}
	st->saved = st->text.len;
	stream_move(st, STREAM_SETTLING);
	st->settle_position = position;
	durable_wait(st->w->durable, position, settled_cb, st);
}

void
settle_begin(struct stream *st)
{
	stream_move(st, STREAM_CLOSING);
	work_out(st);
	FAULT("settle.worked_out");
	journal(st);
}

void
settle_later(struct stream *st)
{
	if (st->retrying)
		return;
	st->retrying = true;
	st->retry_next = st->w->retry;
	st->w->retry = st;
}

void
settle_retry(struct worker *w)
{
	struct stream *st = w->retry, *next;

	/* Who finds it full again puts itself on the new list. */
	w->retry = NULL;
	for (; st != NULL; st = next) {
		next = st->retry_next;
		st->retrying = false;
		if (st->state == STREAM_CLOSING)
			journal(st);
		else if (st->state == STREAM_CALLING || st->state == STREAM_RUNNING)
			decode_retry(st);
	}
}

static void
log_line(const struct stream *st)
{
	const struct settlement *x = &st->settlement;
	char cost[MONEY_TEXT_MAX], tokens[32], ms[24], first[24], chunks[24], id[80];
	char counted[16], reported[24], attempts[16], trace_id[33];

	money_format(cost, x->charge);
	snprintf(tokens, sizeof tokens, "%" PRIu32 "+%" PRIu32, x->prompt + x->cached,
	    x->completion);
	snprintf(ms, sizeof ms, "%" PRIu64, (st->ended_us - st->created_us) / 1000);
	snprintf(first, sizeof first, "%" PRIu64,
	    st->first_us == 0 ? 0 : (st->first_us - st->opened_us) / 1000);
	snprintf(chunks, sizeof chunks, "%" PRIu64, st->chunks);
	snprintf(id, sizeof id, "%.*s", (int)st->account->id_len, st->account->id);
	snprintf(counted, sizeof counted, "%" PRIu32,
	    st->opened_us != 0 ? meter_tokens(&st->meter) : 0);
	snprintf(reported, sizeof reported, "%" PRId64, (int64_t)st->usage.completion);
	snprintf(attempts, sizeof attempts, "%u", st->attempt.count);
	/* Of "00-<trace>-<span>-<flags>". */
	snprintf(trace_id, sizeof trace_id, "%.32s",
	    st->traceparent[0] != '\0' ? st->traceparent + 3 : "");
	/* The stream's id opens it for whoever has it: only its message is named. */
	log_event(LOG_INFO, "stream ended", "request", st->request_id, "message",
	    st->message_text, "account", id, "model", st->config->model[st->model].name,
	    "provider", attempt_provider(st), "attempts", attempts, "outcome", journal_outcome_text(st->outcome), "error",
	    st->error_code == NULL ? "" : st->error_code, "tokens", tokens, "cost", cost, "ms", ms,
	    "first_token_ms", first, "chunks", chunks, "counted", counted, "reported",
	    st->usage.present ? reported : NULL, "trace_id",
	    trace_id[0] != '\0' ? trace_id : NULL, NULL);
}

static void
count(const struct stream *st)
{
	const struct settlement *x = &st->settlement;
	unsigned model = (unsigned)st->model;

	metrics_stream(model, st->outcome, st->ended_us - st->created_us);
	metrics_tokens(model, TOKENS_PROMPT, x->prompt);
	metrics_tokens(model, TOKENS_CACHED, x->cached);
	metrics_tokens(model, TOKENS_COMPLETION, x->completion);
	metrics_charged(model, x->charge, x->uncollected);
	if (st->complete && x->completion > 0)
		quote_learn(st->w->region, st->model, x->completion);
}

static void
settled_cb(void *arg, uint64_t position)
{
	struct stream *st = arg;
	struct account_books books;
	struct end_waiter *e;

	if (ledger_close(st->w->ledger, st->hold, position, NULL) != RING_APPLIED)
		log_event(LOG_ERROR, "settlement refused by the keeper", "message",
		    st->message_text, NULL);
	FAULT("settle.closed");
	st->hold = NULL;
	account_books(st->account, &books);
	st->balance = books.balance;
	stream_move(st, STREAM_ENDED);
	limit_request_settle(&st->limited, (uint64_t)st->settlement.prompt +
		st->settlement.cached + st->settlement.completion);
	count(st);
	log_line(st);
	while ((e = st->end_waiters) != NULL) {
		st->end_waiters = e->next;
		e->ended(e, st);
	}
	stream_touch(st);
	FAULT("settle.told");
	streams_flush(st->w->streams);
}

void
settle_from_row(struct stream *st, const struct stream_row *row)
{
	struct settlement *x = &st->settlement;

	st->model = config_model(st->config, row->model, row->model_len);
	/* Acquire, pairs with the keeper's insert. */
	if (row->account <
	    atomic_load_explicit(&st->w->region->h->accounts, memory_order_acquire))
		st->account = account_at(st->w->region, row->account);
	id_format(row->session_id, st->session_text);
	id_format(row->message_id, st->message_text);
	st->prompt_tokens = row->prompt + row->cached;
	st->reserved = row->reserved;
	st->created_s = row->opened_us / 1000000;
	st->outcome = row->outcome;
	st->short_of = quote_short_result(row->short_of);
	*x = (struct settlement){
	    .charge = row->charge,
	    .uncollected = row->uncollected,
	    .prompt = row->prompt,
	    .cached = row->cached,
	    .completion = row->completion,
	    .reasoning = row->reasoning,
	    .cache_write = row->cache_write,
	    .outcome = row->outcome,
	    .voided = row->voided != 0,
	};
	if (st->account != NULL) {
		struct account_books books;

		account_books(st->account, &books);
		st->balance = books.balance;
	}
	if (emit_finish_reason(row->outcome) != NULL)
		return;
	st->error_code = row->outcome == OUTCOME_WORKER_DIED ? "stream_lost"
	    : row->outcome == OUTCOME_EXPIRED		     ? "expired"
	    : row->outcome == OUTCOME_SHUTDOWN		     ? "draining"
	    : row->outcome == OUTCOME_JOURNAL		     ? "journal_unavailable"
							     : "upstream_error";
	snprintf(st->error_message, sizeof st->error_message, "%s",
	    row->outcome == OUTCOME_WORKER_DIED
		? "the process that ran this stream died; what it had delivered is above"
		: "the stream did not end well");
}
