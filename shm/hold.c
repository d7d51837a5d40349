/*
 * What a hold's slot says, by itself: no account is touched here.
 *
 * tests/model/ledger.pml is the model of the states and of who stores them.
 */
#include "shm/hold.h"

#include "shm/purse.h"
#include "shm/ring.h"

void
hold_resume(struct region *region, uint32_t slot, uint64_t seq)
{
	struct hold *h = hold_at(region, slot);
	/* Relaxed: before the slot's owner exists or while it waits for `filled`. */
	uint64_t state = atomic_load_explicit(&h->state, memory_order_relaxed);

	if (HOLD_STATE(state) == HOLD_FREE && HOLD_SEQ(state) < seq)
		hold_move(h, seq, HOLD_FREE);
}

/*
 * The one place where a hold changes state.  What was written before is there when the new
 * state is (release, for reports by other processes; the reaper needs only program order), and
 * nothing written later slips in front of it (the signal fence: release alone lets the compiler
 * do that, and then a kill could leave the old state with the new fields).
 */
void
hold_move(struct hold *h, uint64_t seq, enum hold_state state)
{
	atomic_store_explicit(&h->state, HOLD_WORD(seq, state), memory_order_release);
	atomic_signal_fence(memory_order_seq_cst);
}

uint32_t
hold_covers(const struct hold *h, int64_t amount, bool reasoning)
{
	struct tokens t = hold_metered(h);
	int64_t n = price_covers_of(&h->price, &t, reasoning, amount);

	return n < 0 ? 0 : n > UINT32_MAX ? UINT32_MAX : (uint32_t)n;
}

/*
 * What a mark says: the meter, as far as the keeper knows the hold to pay for it.  After a
 * power cut the mark is charged, and no charge may be above its hold.
 */
static void
mark_at(const struct hold *h, int64_t known, struct journal_record *r, struct journal_split *split)
{
	struct tokens t = hold_metered(h);

	price_fit(&h->price, &t, known);
	r->completion = (uint32_t)t.completion;
	split->reasoning = (uint32_t)(t.reasoning < t.completion ? t.reasoning : t.completion);
}

/* Under whose cap and which budgets it is, in which windows. */
static void
reserve_purses(const struct hold *h, struct journal_record *r)
{
	const struct hold_purse *key = &h->purse[PURSE_KEY];
	uint32_t budgets = 0;

	for (unsigned i = 0; i < BUDGETS; i++)
		if (h->purse[PURSE_DAY + i].whose != 0)
			budgets |= JOURNAL_BUDGET(i, h->purse[PURSE_DAY + i].window);
	r->extra = JOURNAL_RESERVE_EXTRA(h->deadline_us, budgets);
	if (key->whose == 0)
		return;
	r->cached = (uint32_t)h->capped_by;
	r->completion = (uint32_t)(h->capped_by >> 32);
	r->outcome = (uint8_t)key->window;
}

void
hold_record(const struct region *region, const struct hold *h, uint8_t type, uint64_t time_us,
    struct journal_record *r, struct journal_split *split)
{
	uint32_t slot = hold_slot(region, h);

	*split = (struct journal_split){0};
	*r = (struct journal_record){
	    .type = type,
	    .version = JOURNAL_VERSION,
	    .proc = (uint8_t)hold_proc(region, slot),
	    .slot = slot,
	    .op = hold_seq(h),
	    .account = h->account,
	    .price = h->price_id,
	    .prompt = h->prompt,
	    .time_us = time_us,
	};
	switch ((enum journal_type)type) {
	case JOURNAL_RESERVE:
		r->amount = h->amount;
		reserve_purses(h, r);
		break;
	case JOURNAL_EXTEND:
		r->amount = h->take;
		r->extra = h->amount;
		mark_at(h, h->base, r, split);
		break;
	case JOURNAL_MARK:
		mark_at(h, h->amount, r, split);
		break;
	case JOURNAL_SETTLE:
	case JOURNAL_VOID:
		r->amount = h->actual;
		r->extra = h->uncollected;
		r->prompt = h->settle_prompt;
		r->cached = h->settle_cached;
		r->completion = h->settle_completion;
		r->outcome = h->outcome;
		if (type == JOURNAL_SETTLE)
			*split = (struct journal_split){
			    h->settle_reasoning, h->settle_cache_write};
		break;
	default: /* JOURNAL_TOPUP, JOURNAL_ADJUST, JOURNAL_ACCOUNT_SET */
		r->amount = h->take;
		break;
	}
	if (split->reasoning != 0 || split->cache_write != 0)
		r->version = JOURNAL_VERSION_KINDS;
}

uint64_t
hold_push(struct ring *ring, const struct journal_record *r, const struct journal_split *split,
    const void *payload, size_t payload_len)
{
	if (r->version == JOURNAL_VERSION_KINDS)
		return ring_push2(ring, r, split, sizeof *split, payload, payload_len);
	return ring_push(ring, r, payload, payload_len);
}
