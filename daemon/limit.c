/*
 * An account's limits, and how a client hears of them.
 */
#include "daemon/limit.h"

#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#include "daemon/metrics.h"

#define SECOND_NS UINT64_C(1000000000)

static uint64_t
now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * SECOND_NS + (uint64_t)ts.tv_nsec;
}

/* Relaxed: one word, the keeper's. */
static uint32_t
own_or(const _Atomic uint32_t *own, uint32_t otherwise)
{
	uint32_t limit = atomic_load_explicit(own, memory_order_relaxed);

	return limit != 0 ? limit : otherwise;
}

uint32_t
limit_account_streams(const struct config *cfg, const struct account *a)
{
	return own_or(&a->concurrent_streams, cfg->limits.concurrent_streams);
}

void
limit_account_take(const struct config *cfg, struct account *a, uint32_t prompt,
    uint32_t completion, struct limit_taken *taken, struct limit_verdict *v)
{
	uint64_t tokens = (uint64_t)prompt + completion;
	uint32_t requests = own_or(&a->requests_per_minute, cfg->limits.requests_per_minute);
	uint32_t per_minute = own_or(&a->tokens_per_minute, cfg->limits.tokens_per_minute);
	uint64_t now = now_ns();

	if (per_minute != 0 && tokens > per_minute)
		tokens = prompt > per_minute ? prompt : per_minute;
	*v = (struct limit_verdict){.allowed = true};
	*taken = (struct limit_taken){
	    .account = a, .taken_ns = now, .per_minute = per_minute, .tokens = tokens};
	/* Tokens first: they can be given back at once and whole, if the request is refused. */
	if (per_minute != 0 && !limit_take(&a->tokens, per_minute, tokens, now, &v->tokens)) {
		v->allowed = false;
		v->by_tokens = true;
		taken->account = NULL;
		if (requests != 0)
			limit_look(&a->requests, requests, now, &v->requests);
	} else if (requests != 0 && !limit_take(&a->requests, requests, 1, now, &v->requests)) {
		v->allowed = false;
		if (per_minute != 0) {
			limit_give(&a->tokens, per_minute, tokens, now, now);
			limit_look(&a->tokens, per_minute, now, &v->tokens);
		}
		taken->account = NULL;
	}
}

void
limit_account_used(struct limit_taken *t, uint64_t tokens)
{
	if (t->account == NULL || t->per_minute == 0 || tokens <= t->tokens)
		return;
	limit_use(&t->account->tokens, t->per_minute, tokens - t->tokens, now_ns());
	t->tokens = tokens;
}

void
limit_account_settle(struct limit_taken *t, uint64_t tokens)
{
	if (t->account == NULL)
		return;
	limit_account_used(t, tokens);
	if (t->per_minute != 0 && tokens < t->tokens)
		limit_give(
		    &t->account->tokens, t->per_minute, t->tokens - tokens, t->taken_ns, now_ns());
	t->account = NULL;
}

void
limit_time(char text[static LIMIT_TIME_MAX], uint64_t ns)
{
	uint64_t ms = ns / 1000000 + (ns % 1000000 != 0), minutes = ms / 60000;
	size_t at = 0;

	if (ms < 1000 && ms > 0) {
		snprintf(text, LIMIT_TIME_MAX, "%" PRIu64 "ms", ms);
		return;
	}
	if (minutes >= 60)
		at += (size_t)snprintf(text, LIMIT_TIME_MAX, "%" PRIu64 "h", minutes / 60);
	if (minutes > 0)
		at +=
		    (size_t)snprintf(text + at, LIMIT_TIME_MAX - at, "%" PRIu64 "m", minutes % 60);
	ms %= 60000;
	if (ms % 1000 == 0)
		snprintf(text + at, LIMIT_TIME_MAX - at, "%" PRIu64 "s", ms / 1000);
	else
		snprintf(text + at, LIMIT_TIME_MAX - at, "%" PRIu64 ".%03" PRIu64 "s", ms / 1000,
		    ms % 1000);
}

void
limit_headers(struct conn *c, const struct limit_verdict *v)
{
	const struct limit_state *states[] = {&v->requests, &v->tokens};
	static const char *const unit[] = {"requests", "tokens"};

	for (int i = 0; i < 2; i++) {
		const struct limit_state *s = states[i];
		char name[48], time[LIMIT_TIME_MAX];

		if (s->limit == 0)
			continue;
		snprintf(name, sizeof name, "x-ratelimit-limit-%s", unit[i]);
		conn_header(c, name, "%" PRIu32, s->limit);
		snprintf(name, sizeof name, "x-ratelimit-remaining-%s", unit[i]);
		conn_header(c, name, "%" PRIu32, s->remaining);
		snprintf(name, sizeof name, "x-ratelimit-reset-%s", unit[i]);
		limit_time(time, s->reset_ns);
		conn_header(c, name, "%s", time);
	}
}

void
limit_refuse(struct conn *c, const struct limit_verdict *v)
{
	const struct limit_state *s = v->by_tokens ? &v->tokens : &v->requests;
	const char *unit = v->by_tokens ? "tokens" : "requests";

	metrics_limited(v->by_tokens ? LIMITED_TOKENS : LIMITED_REQUESTS);
	if (s->retry_ns == LIMIT_NEVER) {
		/* Waiting does not help: that many were never allowed at once. */
		conn_header(c, "x-should-retry", "false");
		conn_header(c, "Retry-After", "60");
		conn_error(c, 429, unit, "rate_limit_exceeded", NULL,
		    "the prompt has more tokens than the %" PRIu32 " a minute that the account may"
		    " use",
		    s->limit);
		return;
	}
	conn_header(c, "Retry-After", "%" PRIu64, (s->retry_ns + SECOND_NS - 1) / SECOND_NS);
	conn_error(c, 429, unit, "rate_limit_exceeded", NULL,
	    "the account's limit of %" PRIu32 " %s a minute is reached", s->limit, unit);
}

void
limit_refuse_streams(struct conn *c, uint32_t most)
{
	metrics_limited(LIMITED_STREAMS);
	/* When one of them ends, nobody knows. */
	conn_header(c, "Retry-After", "1");
	conn_error(c, 429, "requests", "rate_limit_exceeded", NULL,
	    "the account has %" PRIu32 " streams open, as many as it may", most);
}
