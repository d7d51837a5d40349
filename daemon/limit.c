/*
 * An account's limits and a key's, and how a client hears of them.
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

/* One of at most four things that a request takes. */
struct take {
	struct limit *word;
	uint32_t per_minute;
	uint64_t n;
	struct limit_state *unit; /* in the verdict */
	struct limit_state state;
};

struct takes {
	struct take take[4];
	unsigned count;
};

static void
add(struct takes *ts, struct limit *word, uint32_t per_minute, uint64_t n, struct limit_state *unit)
{
	if (per_minute != 0)
		ts->take[ts->count++] =
		    (struct take){.word = word, .per_minute = per_minute, .n = n, .unit = unit};
}

/* Take its tokens from one limit: who may use more than that needs all of it. */
static void
add_tokens(struct takes *ts, struct limit *word, uint32_t per_minute, uint32_t prompt,
    uint32_t completion, struct limit_share *share, struct limit_state *unit)
{
	uint64_t tokens = (uint64_t)prompt + completion;

	if (per_minute == 0)
		return;
	if (tokens > per_minute)
		tokens = prompt > per_minute ? prompt : per_minute;
	*share = (struct limit_share){word, per_minute, tokens};
	add(ts, word, per_minute, tokens, unit);
}

/* Is it this one of two limits that the client is to know of? */
static bool
tighter(const struct limit_state *s, const struct limit_state *than)
{
	if (than->limit == 0 || s->retry_ns != than->retry_ns)
		return than->limit == 0 || s->retry_ns > than->retry_ns;
	return s->remaining < than->remaining;
}

/* All of them or none; and how they stand then. */
static bool
take_all(struct takes *ts, uint64_t now)
{
	unsigned done = 0, i;

	while (done < ts->count && limit_take(ts->take[done].word, ts->take[done].per_minute,
	                               ts->take[done].n, now, &ts->take[done].state))
		done++;
	if (done == ts->count)
		return true;
	for (i = done; i-- > 0;)
		limit_give(ts->take[i].word, ts->take[i].per_minute, ts->take[i].n, now, now);
	/* It may have to wait for another one for longer. */
	for (i = 0; i < ts->count; i++)
		if (i != done)
			limit_look(ts->take[i].word, ts->take[i].per_minute, ts->take[i].n, now,
			    &ts->take[i].state);
	return false;
}

/* The limits of requests alone. */
static void
add_requests(struct takes *ts, const struct config *cfg, const struct caller *who,
    struct limit_state *unit)
{
	struct account *a = who->account;
	struct key_entry *key = who->key;

	add(ts, &a->requests, own_or(&a->requests_per_minute, cfg->limits.requests_per_minute), 1,
	    unit);
	if (key != NULL)
		add(ts, &key->requests, key->requests_per_minute, 1, unit);
}

void
limit_request_take(const struct config *cfg, const struct caller *who, uint32_t prompt,
    uint32_t completion, struct limit_taken *taken, struct limit_verdict *v)
{
	struct account *a = who->account;
	struct key_entry *key = who->key;
	struct takes ts = {.count = 0};

	*taken = (struct limit_taken){.taken_ns = now_ns()};
	*v = (struct limit_verdict){.allowed = false};
	/* Tokens first: they can be given back at once and whole, if the request is refused. */
	add_tokens(&ts, &a->tokens, own_or(&a->tokens_per_minute, cfg->limits.tokens_per_minute),
	    prompt, completion, &taken->share[0], &v->tokens);
	if (key != NULL)
		add_tokens(&ts, &key->tokens, key->tokens_per_minute, prompt, completion,
		    &taken->share[1], &v->tokens);
	add_requests(&ts, cfg, who, &v->requests);
	v->allowed = take_all(&ts, taken->taken_ns);
	for (unsigned i = 0; i < ts.count; i++)
		if (tighter(&ts.take[i].state, ts.take[i].unit))
			*ts.take[i].unit = ts.take[i].state;
	v->by_tokens = v->tokens.retry_ns > v->requests.retry_ns;
	if (!v->allowed)
		*taken = (struct limit_taken){.taken_ns = 0};
}

bool
limit_may_read(const struct config *cfg, struct conn *c, size_t body_len)
{
	struct limit_verdict v = {.allowed = true};
	struct takes ts = {.count = 0};
	uint64_t now = now_ns();

	if (body_len <= LIMIT_LONG_BODY)
		return true;
	add_requests(&ts, cfg, conn_caller(c), &v.requests);
	for (unsigned i = 0; i < ts.count; i++) {
		struct take *t = &ts.take[i];

		limit_look(t->word, t->per_minute, t->n, now, &t->state);
		if (tighter(&t->state, t->unit))
			*t->unit = t->state;
		v.allowed &= t->state.retry_ns == 0;
	}
	if (v.allowed)
		return true;
	limit_headers(c, &v);
	limit_refuse(c, &v);
	return false;
}

void
limit_request_count(const struct config *cfg, const struct caller *who)
{
	struct limit_state any;
	struct takes ts = {.count = 0};

	add_requests(&ts, cfg, who, &any);
	(void)take_all(&ts, now_ns());
}

void
limit_request_used(struct limit_taken *t, uint64_t tokens)
{
	for (int i = 0; i < 2; i++) {
		struct limit_share *s = &t->share[i];

		if (s->word == NULL || tokens <= s->tokens)
			continue;
		limit_use(s->word, s->per_minute, tokens - s->tokens, now_ns());
		s->tokens = tokens;
	}
}

void
limit_request_settle(struct limit_taken *t, uint64_t tokens)
{
	limit_request_used(t, tokens);
	for (int i = 0; i < 2; i++) {
		struct limit_share *s = &t->share[i];

		if (s->word != NULL && tokens < s->tokens)
			limit_give(
			    s->word, s->per_minute, s->tokens - tokens, t->taken_ns, now_ns());
		s->word = NULL;
	}
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
		    "the prompt has more tokens than the %" PRIu32 " a minute that may be used",
		    s->limit);
		return;
	}
	conn_header(c, "Retry-After", "%" PRIu64, (s->retry_ns + SECOND_NS - 1) / SECOND_NS);
	conn_error(c, 429, unit, "rate_limit_exceeded", NULL,
	    "the limit of %" PRIu32 " %s a minute is reached", s->limit, unit);
}

void
limit_refuse_streams(struct conn *c, const char *whose, uint32_t most)
{
	metrics_limited(LIMITED_STREAMS);
	/* When one of them ends, nobody knows. */
	conn_header(c, "Retry-After", "1");
	conn_error(c, 429, "requests", "rate_limit_exceeded", NULL,
	    "the %s has %" PRIu32 " streams open, as many as it may", whose, most);
}
