/*
 * Calls to providers before the first token: retries, the next provider, breakers.  Worker
 * process.
 *
 * The time for a first token covers all attempts.  What is left of it is shared out evenly among
 * the providers that are left, so that one that is silent leaves the others their part.
 */
#include "daemon/attempt.h"

#include <stdio.h>
#include <string.h>

#include "daemon/api.h"
#include "daemon/decode.h"
#include "daemon/log.h"
#include "daemon/metrics.h"
#include "daemon/redact.h"
#include "daemon/relay.h"
#include "daemon/stream.h"
#include "shm/clock.h"

static const struct config_provider *
provider(const struct stream *st)
{
	return &st->config->provider[st->provider];
}

/* What people say, if the operator wants it in the log; never a key that a provider repeats. */
static void
log_texts(const struct stream *st, const char *msg, const char *text, size_t len)
{
	char shown[LOG_LINE_MAX];

	redact(shown, sizeof shown, (struct span){text, len}, provider(st)->api_key,
	    provider(st)->api_keys);
	log_event(LOG_INFO, msg, "request", st->request_id, "message", st->message_text, "provider",
	    provider(st)->name, "text", shown, NULL);
}

static void
told_data(void *arg, const char *p, size_t n)
{
	log_texts(arg, "text received", p, n);
	decode_data(arg, p, n);
}

static const struct call_ops call_ops = {decode_head, decode_data, decode_flush, decode_end},
			     told_ops = {decode_head, told_data, decode_flush, decode_end};

const char *
attempt_provider(const struct stream *st)
{
	return st->attempt.count > 0 ? provider(st)->name : NULL;
}

/* When the first token must be there, whoever it comes from. */
static uint64_t
deadline(const struct stream *st)
{
	const struct config *cfg = st->config;
	uint32_t s = cfg->timeouts.first_token;

	/* One piece comes when all of it was made. */
	if (st->relay != NULL && st->relay->whole)
		return st->call_us + (uint64_t)cfg->timeouts.request * 1000000;
	return st->call_us +
	       (uint64_t)(s < cfg->timeouts.stream ? s : cfg->timeouts.stream) * 1000000;
}

static void
count_traffic(struct stream *st)
{
	struct attempt *a = &st->attempt;

	metrics_upstream((unsigned)st->provider, st->chunks - a->chunks, st->bytes - a->bytes);
	a->chunks = st->chunks;
	a->bytes = st->bytes;
}

/* The present call says no more. */
static void
drop_call(struct stream *st)
{
	if (st->call != NULL)
		call_cancel(st->call);
	st->call = NULL;
}

/* What the last call left behind. */
static void
forget_answer(struct stream *st)
{
	decoder_free(&st->decoder);
	st->decoder = (struct decoder){0};
	buf_free(&st->raw_error);
	if (st->relay != NULL)
		relay_forget(st->relay);
	st->usage = (struct usage){0};
	st->usage_odd = st->usage_stale = st->usage_final = st->done_seen = st->event_stream = false;
	st->finish = OUTCOME_NONE;
	st->status = 0;
	st->retry_after = 0;
}

/* The request in the dialect of a provider; empty where that cannot carry it. */
static struct buf *
request_for(struct stream *st, int provider)
{
	return &st->request[dialect_index(st->config->provider[provider].dialect)];
}

static void
make_call(struct stream *st)
{
	struct attempt *a = &st->attempt;
	const struct config_model *m = &st->config->model[st->model];
	struct buf headers = {0};
	uint64_t now = monotonic_us(), end = deadline(st);

	forget_answer(st);
	a->count++;
	a->due_us = now + (end > now ? end - now : 0) / (uint64_t)(m->provider_count - a->at);
	if (a->count > 1)
		metrics_retry((unsigned)st->provider);
	buf_printf(&headers, "x-request-id: %s\r\n", st->request_id);
	if (st->traceparent[0] != '\0')
		buf_printf(&headers, "traceparent: %s\r\n", st->traceparent);
	if (st->beta != NULL && provider(st)->dialect == DIALECT_ANTHROPIC)
		buf_printf(&headers, "anthropic-beta: %s\r\n", st->beta);
	if (log_enabled(LOG_DEBUG)) {
		char attempt[16];

		snprintf(attempt, sizeof attempt, "%u", a->count);
		log_event(LOG_DEBUG, "call", "request", st->request_id, "provider",
		    provider(st)->name, "attempt", attempt, NULL);
	}
	if (st->config->log_texts)
		log_texts(st, "text sent", request_for(st, st->provider)->data,
		    request_for(st, st->provider)->len);
	if (!headers.failed)
		st->call = upstream_post(st->view, st->provider, a->target,
		    st->api != NULL ? st->api->upstream_path : NULL,
		    request_for(st, st->provider), (struct span){headers.data, headers.len},
		    st->config->log_texts ? &told_ops : &call_ops, st);
	buf_free(&headers);
	if (st->call == NULL) {
		stream_close(st, OUTCOME_UPSTREAM, "overloaded", "no room for a call");
		return;
	}
	breaker_begin(upstream_breaker(st->view, st->provider, a->target), coarse_us());
	a->calling = true;
}

/* The model's next provider that may be called, from list index `at` on; false if there is none. */
static bool
choose(struct stream *st, int at, uint64_t *until_us)
{
	const struct config_model *m = &st->config->model[st->model];
	struct attempt *a = &st->attempt;

	for (*until_us = UINT64_MAX; at < m->provider_count; at++) {
		uint64_t until;
		int target;

		if (request_for(st, m->providers[at])->len == 0)
			continue;
		target = upstream_pick(st->view, m->providers[at], 0, &until);
		if (target >= 0) {
			a->at = at;
			a->target = target;
			a->here = 0;
			a->tried = 0;
			st->provider = m->providers[at];
			return true;
		}
		a->hope = true;
		if (until < *until_us)
			*until_us = until;
	}
	return false;
}

/* All have failed of late, and others are trying them already. */
static void
left_alone(struct stream *st, uint64_t until_us)
{
	uint64_t now = coarse_us();

	st->retry_after = until_us > now && until_us != UINT64_MAX
	                      ? (int64_t)((until_us - now + 999999) / 1000000)
	                      : 1;
	st->error_status = 503;
	st->error_kind = "breaker";
	stream_close(st, OUTCOME_UPSTREAM, "overloaded",
	    "the model's providers fail; ask again in %lld s", (long long)st->retry_after);
}

static void
timer_cb(evutil_socket_t fd, short what, void *arg)
{
	struct stream *st = arg;
	struct attempt *a = &st->attempt;
	uint64_t until;

	(void)fd;
	(void)what;
	/* Others may have found out meanwhile that there is no use. */
	if (breaker_allows(
	        upstream_breaker(st->view, st->provider, a->target), coarse_us()) ||
	    choose(st, a->at, &until))
		make_call(st);
	else
		left_alone(st, until);
	stream_touch(st);
	streams_flush(st->w->streams);
}

static void
make_call_later(struct stream *st, uint64_t us)
{
	struct attempt *a = &st->attempt;
	struct timeval tv = {(time_t)(us / 1000000), (suseconds_t)(us % 1000000)};

	if (a->timer == NULL)
		a->timer = evtimer_new(st->w->base, timer_cb, st);
	if (a->timer == NULL || evtimer_add(a->timer, &tv) != 0)
		stream_close(st, OUTCOME_UPSTREAM, "overloaded", "out of memory");
}

void
attempt_start(struct stream *st)
{
	uint64_t until;

	st->provider = st->config->model[st->model].providers[0];
	if (choose(st, 0, &until))
		make_call(st);
	else
		left_alone(st, until);
}

/* Tell the breaker and the counters how the present call ended. */
static void
judge(struct stream *st, const struct failure *f)
{
	struct attempt *a = &st->attempt;
	const struct config_provider *p = provider(st);
	const struct breaker_policy policy = {
	    p->breaker_failures, (uint64_t)p->breaker_seconds * 1000000};
	struct breaker *b = upstream_breaker(st->view, st->provider, a->target);

	if (!a->calling)
		return;
	a->calling = false;
	if (f == NULL || !retry_blames(f->kind, f->status)) {
		breaker_worked(b);
	} else if (breaker_failed(b, &policy, coarse_us())) {
		metrics_breaker_opened((unsigned)st->provider);
		log_event(LOG_WARN, "provider is left alone for a while", "provider", p->name,
		    "kind", retry_kind_text(f->kind), NULL);
	}
}

/*
 * Choose the next call, and how long to wait for it; false: there is none.  Another URL or key of
 * this provider comes before the same one again, and that before the next provider; but who says
 * when to come back is not waited for while another provider is there.
 */
static bool
next(struct stream *st, const struct failure *f, uint64_t *wait_us)
{
	struct attempt *a = &st->attempt;
	enum retry_verdict verdict = retry_verdict(f->kind, f->status);
	uint64_t now = monotonic_us(), end = deadline(st), until;
	uint32_t random;
	int target;

	*wait_us = 0;
	if (verdict == RETRY_NEVER || a->count >= ATTEMPTS_MAX || now >= end)
		return false;
	a->tried |= UINT64_C(1) << a->target;
	target = a->here < (unsigned)provider(st)->retries
	             ? upstream_pick(st->view, st->provider, a->tried, &until)
	             : -1;
	if (target >= 0 && (a->tried >> target & 1) == 0) {
		a->here++;
		a->target = target;
		return true;
	}
	if ((verdict == RETRY_OTHER || target < 0 || f->retry_after > 0) &&
	    choose(st, a->at + 1, &until))
		return true;
	if (verdict == RETRY_OTHER)
		return false;
	if (target >= 0) {
		id_random((uint8_t *)&random, sizeof random);
		*wait_us = retry_delay_us(a->here + 1, random);
		if (f->retry_after > 0 && (uint64_t)f->retry_after * 1000000 > *wait_us)
			*wait_us = (uint64_t)f->retry_after * 1000000;
		if (f->retry_after <= ATTEMPT_WAIT_MAX_S && now + *wait_us < end) {
			a->here++;
			a->target = target;
			return true;
		}
		*wait_us = 0;
	}
	return choose(st, a->at + 1, &until);
}

/* The client's words for it: the provider's message without secrets, or ours. */
static void
give_up(struct stream *st, const struct failure *f)
{
	st->error_kind = retry_kind_text(f->kind);
	st->error_status = retry_http_status(f->kind);
	st->error_final = !st->attempt.hope;
	st->retry_after = f->retry_after;
	redact(st->error_message, sizeof st->error_message, f->message, provider(st)->api_key,
	    provider(st)->api_keys);
	if (st->error_message[0] == '\0')
		snprintf(st->error_message, sizeof st->error_message, "%s", f->text);
	stream_close(
	    st, OUTCOME_UPSTREAM, f->code != NULL ? f->code : retry_error_code(f->kind), NULL);
}

void
attempt_failed(struct stream *st, const struct failure *f)
{
	char status[16];
	uint64_t wait_us;

	if (st->stop_wanted || st->state >= STREAM_CLOSING)
		return;
	metrics_upstream_error((unsigned)st->provider, f->kind);
	st->attempt.hope |= !retry_is_final(f->kind, f->status);
	if (st->state != STREAM_CALLING) {
		give_up(st, f);
		return;
	}
	judge(st, f);
	count_traffic(st);
	snprintf(status, sizeof status, "%d", f->status);
	log_event(f->kind == UPSTREAM_AUTH || f->kind == UPSTREAM_TLS ? LOG_WARN : LOG_INFO,
	    f->kind == UPSTREAM_AUTH ? "provider refuses the key" : "provider call failed",
	    "message", st->message_text, "provider", provider(st)->name, "kind",
	    retry_kind_text(f->kind), "status", f->status != 0 ? status : NULL, "why",
	    f->message.len == 0 ? f->text : NULL, NULL);
	if (next(st, f, &wait_us)) {
		drop_call(st);
		make_call_later(st, wait_us);
	} else {
		give_up(st, f);
	}
}

void
attempt_worked(struct stream *st)
{
	judge(st, NULL);
	stream_drop_requests(st);
}

void
attempt_hurry(struct stream *st, uint64_t us)
{
	uint64_t due = monotonic_us() + us;

	if (st->state == STREAM_CALLING && due < st->attempt.due_us)
		st->attempt.due_us = due;
}

void
attempt_tick(struct stream *st, uint64_t now_us)
{
	struct failure f = {
	    .kind = UPSTREAM_FIRST_TOKEN_TIMEOUT,
	    .status = st->status,
	    .text = "the provider sent no token in time",
	};

	if (st->relay != NULL && st->relay->whole) {
		f.kind = UPSTREAM_REQUEST_TIMEOUT;
		f.text = "the provider did not answer in time";
	}
	if (st->call == NULL || now_us <= st->attempt.due_us)
		return;
	/* Its status says more than that it took too long to say why. */
	if (st->status != 0 && st->status != 200)
		decode_refused(st);
	else
		attempt_failed(st, &f);
}

void
attempt_fini(struct stream *st)
{
	struct attempt *a = &st->attempt;

	drop_call(st);
	if (a->timer != NULL)
		event_free(a->timer);
	a->timer = NULL;
	if (a->calling)
		breaker_left(upstream_breaker(st->view, st->provider, a->target));
	a->calling = false;
	if (a->count > 0)
		count_traffic(st);
	stream_drop_requests(st);
	buf_free(&st->raw_error);
}
