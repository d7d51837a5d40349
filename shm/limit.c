/*
 * The generic cell rate algorithm on one word.
 */
#include "shm/limit.h"

#include <stddef.h>

/* Bounded, so that no sum of two overflows: 146 years of debt. */
#define NS_MAX (UINT64_C(1) << 62)

static uint64_t
bounded(unsigned __int128 ns)
{
	return ns > NS_MAX ? NS_MAX : (uint64_t)ns;
}

/* How long n units take to drain: rounded up for what is taken, down for what is given back. */
static uint64_t
drain_ns(uint64_t n, uint32_t per_minute, bool up)
{
	return bounded(
	    ((unsigned __int128)n * LIMIT_PERIOD_NS + (up ? per_minute - 1 : 0)) / per_minute);
}

static void
state_of(uint64_t arrival_ns, uint32_t per_minute, uint64_t now_ns, struct limit_state *s)
{
	uint64_t debt = arrival_ns > now_ns ? arrival_ns - now_ns : 0;
	uint64_t left = debt < LIMIT_PERIOD_NS ? LIMIT_PERIOD_NS - debt : 0;

	*s = (struct limit_state){
	    .limit = per_minute,
	    .remaining = (uint32_t)((unsigned __int128)left * per_minute / LIMIT_PERIOD_NS),
	    .reset_ns = debt,
	};
}

/* How long a take must wait that would bring the word to `next`. */
static uint64_t
retry_ns(uint64_t next, uint64_t cost, uint64_t now_ns)
{
	if (next - now_ns <= LIMIT_PERIOD_NS)
		return 0;
	return cost > LIMIT_PERIOD_NS ? LIMIT_NEVER : next - now_ns - LIMIT_PERIOD_NS;
}

bool
limit_take(struct limit *l, uint32_t per_minute, uint64_t n, uint64_t now_ns, struct limit_state *s)
{
	uint64_t cost = drain_ns(n, per_minute, true);
	/* Relaxed throughout: the word is all there is, nothing else is published by it. */
	uint64_t old = atomic_load_explicit(&l->arrival_ns, memory_order_relaxed), next;

	do {
		next = bounded((unsigned __int128)(old > now_ns ? old : now_ns) + cost);
		if (next - now_ns > LIMIT_PERIOD_NS) {
			if (s == NULL)
				return false;
			state_of(old, per_minute, now_ns, s);
			s->retry_ns = retry_ns(next, cost, now_ns);
			return false;
		}
	} while (!atomic_compare_exchange_weak_explicit(
	    &l->arrival_ns, &old, next, memory_order_relaxed, memory_order_relaxed));
	if (s != NULL)
		state_of(next, per_minute, now_ns, s);
	return true;
}

void
limit_use(struct limit *l, uint32_t per_minute, uint64_t n, uint64_t now_ns)
{
	uint64_t cost = drain_ns(n, per_minute, true);
	uint64_t old = atomic_load_explicit(&l->arrival_ns, memory_order_relaxed);

	while (!atomic_compare_exchange_weak_explicit(&l->arrival_ns, &old,
	    bounded((unsigned __int128)(old > now_ns ? old : now_ns) + cost), memory_order_relaxed,
	    memory_order_relaxed))
		;
}

/*
 * Why not all of it: take N at 0, N / 2 more at 30 s, then give the first N back.  Without that
 * first take the second one would have left half; taking a whole minute off the word would leave
 * all.  Had the units never been taken, the word would be lower by at least what we take off
 * here: it was at or above taken_ns + their time, and is lowered by nothing but such takings-off.
 */
void
limit_give(struct limit *l, uint32_t per_minute, uint64_t n, uint64_t taken_ns, uint64_t now_ns)
{
	uint64_t give = drain_ns(n, per_minute, false);
	uint64_t gone = now_ns > taken_ns ? now_ns - taken_ns : 0;
	uint64_t old = atomic_load_explicit(&l->arrival_ns, memory_order_relaxed);

	if (give <= gone)
		return;
	give -= gone;
	while (!atomic_compare_exchange_weak_explicit(&l->arrival_ns, &old,
	    old > give ? old - give : 0, memory_order_relaxed, memory_order_relaxed))
		;
}

void
limit_look(
    const struct limit *l, uint32_t per_minute, uint64_t n, uint64_t now_ns, struct limit_state *s)
{
	uint64_t old = atomic_load_explicit(&l->arrival_ns, memory_order_relaxed);
	uint64_t cost = drain_ns(n, per_minute, true);

	state_of(old, per_minute, now_ns, s);
	s->retry_ns = retry_ns(
	    bounded((unsigned __int128)(old > now_ns ? old : now_ns) + cost), cost, now_ns);
}
