/* A circuit breaker.  Pure. */
#include "daemon/breaker.h"

#define DOUBLINGS_MAX 3

enum breaker_state
breaker_state(const struct breaker *b, uint64_t now_us)
{
	return !b->open ? BREAKER_CLOSED : now_us < b->until_us ? BREAKER_OPEN : BREAKER_HALF;
}

bool
breaker_allows(const struct breaker *b, uint64_t now_us)
{
	enum breaker_state state = breaker_state(b, now_us);

	return state == BREAKER_CLOSED || (state == BREAKER_HALF && !b->probing);
}

uint64_t
breaker_until(const struct breaker *b, uint64_t now_us)
{
	return breaker_state(b, now_us) == BREAKER_OPEN ? b->until_us : now_us;
}

void
breaker_begin(struct breaker *b, uint64_t now_us)
{
	if (breaker_state(b, now_us) == BREAKER_HALF)
		b->probing = true;
}

bool
breaker_failed(struct breaker *b, const struct breaker_policy *policy, uint64_t now_us)
{
	bool was_probe = b->open && b->probing;

	if (b->failures < UINT32_MAX)
		b->failures++;
	/* Calls that began before it opened may still fail: they tell nothing new. */
	if (policy->failures == 0 || (b->open && !was_probe) ||
	    (!b->open && b->failures < policy->failures))
		return false;
	b->open = true;
	b->probing = false;
	b->until_us =
	    now_us + (policy->open_us << (b->opened < DOUBLINGS_MAX ? b->opened : DOUBLINGS_MAX));
	b->opened++;
	return true;
}

void
breaker_worked(struct breaker *b)
{
	*b = (struct breaker){0};
}

void
breaker_left(struct breaker *b)
{
	b->probing = false;
}
