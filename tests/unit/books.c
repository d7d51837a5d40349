#include "tests/unit/books.h"

#include <assert.h>
#include <string.h>

#include "shm/purse.h"
#include "shm/seat.h"
#include "shm/ring.h"

struct account *
books_open(struct books *b, struct region *region, const char *id, int64_t balance,
    int64_t overdraft)
{
	struct account_books first = {.balance = balance, .held = 0, .overdraft = overdraft};
	struct account *a = account_insert(region, id, strlen(id), &first, balance + overdraft);

	assert(a != NULL && a->number < BOOKS_ACCOUNTS);
	b->account[a->number].balance = b->account[a->number].credited = balance;
	b->account[a->number].overdraft = overdraft;
	return a;
}

static bool
covered(const struct books *b, uint32_t account, int64_t amount)
{
	return b->account[account].indulged ||
	    b->account[account].balance - b->account[account].held - amount >=
		-b->account[account].overdraft;
}

/* The meter of a hold, as far as the hold pays for it. */
static uint32_t
metered(const struct books *b, const struct region *region, const struct journal_record *r)
{
	uint64_t meter = atomic_load(&hold_at(region, r->slot)->meter);
	struct tokens t = {.prompt = r->prompt,
	    .completion = METER_TOKENS(meter),
	    .reasoning = METER_REASONING(meter)};

	price_fit(region_price(region, r->price), &t, b->hold[r->slot].amount);
	return (uint32_t)t.completion;
}

/* Is it what the tokens of the record cost?  Not above the hold, if it is a mark. */
static bool
costs(const struct books *b, const struct region *region, const struct journal_record *r,
    const struct journal_split *split)
{
	struct tokens t = {r->prompt, r->cached, r->completion, split->reasoning,
	    split->cache_write};
	int64_t cost = price_cost_of(region_price(region, r->price), &t);

	if (split->reasoning > r->completion || split->cache_write > r->prompt)
		return false;
	if (r->type == JOURNAL_SETTLE)
		return cost == r->amount + r->extra;
	return r->completion == 0 || cost <= b->hold[r->slot].amount;
}

static enum ring_status
end_hold(struct books *b, const struct region *region, const struct journal_record *r,
    const struct journal_split *split)
{
	bool voided = r->type == JOURNAL_VOID;

	if (r->op == b->hold[r->slot].op && !b->hold[r->slot].open)
		return RING_REPEATED;
	if (r->op <= b->hold[r->slot].op)
		return RING_REFUSED;
	if (!b->hold[r->slot].open) {
		/* The reserve was never published: its owner died before. */
		if (!voided)
			return RING_REFUSED;
		b->hold[r->slot].op = r->op;
		b->voids++;
		return RING_APPLIED;
	}
	if (r->amount < 0 || r->amount > b->hold[r->slot].amount || (voided && r->amount != 0))
		return RING_REFUSED;
	if (!voided && !costs(b, region, r, split))
		return RING_REFUSED;
	if (b->meter_exact && (voided ? 0 : r->completion) != metered(b, region, r))
		return RING_REFUSED;
	b->account[r->account].balance -= r->amount;
	b->account[r->account].charged += r->amount;
	b->account[r->account].held -= b->hold[r->slot].amount;
	b->uncollected += r->extra;
	b->hold[r->slot].open = false;
	b->hold[r->slot].op = r->op;
	if (voided)
		b->voids++;
	else
		b->settles++;
	return RING_APPLIED;
}

static enum ring_status
credit(struct books *b, const struct journal_record *r, uint64_t ref)
{
	if (r->op <= b->hold[r->slot].op || b->hold[r->slot].open)
		return RING_REFUSED;
	b->hold[r->slot].op = r->op;
	for (int i = 0; ref != 0 && i < BOOKS_REFS; i++) {
		if (b->refs[i] == ref)
			return RING_REPEATED;
		if (b->refs[i] == 0) {
			b->refs[i] = ref;
			break;
		}
	}
	b->account[r->account].balance += r->amount;
	b->account[r->account].credited += r->amount;
	if (r->amount < 0)
		b->account[r->account].indulged = true;
	b->credits++;
	return RING_APPLIED;
}

static enum ring_status
apply(struct books *b, const struct region *region, const struct journal_record *r, uint64_t ref,
    const struct journal_split *split)
{
	assert(r->slot < BOOKS_HOLDS && r->account < BOOKS_ACCOUNTS);
	switch ((enum journal_type)r->type) {
	case JOURNAL_RESERVE:
		if (r->op <= b->hold[r->slot].op || b->hold[r->slot].open || r->amount < 0 ||
		    !covered(b, r->account, r->amount))
			return RING_REFUSED;
		b->hold[r->slot].open = true;
		b->hold[r->slot].op = r->op;
		b->hold[r->slot].amount = r->amount;
		b->hold[r->slot].account = r->account;
		b->account[r->account].held += r->amount;
		b->reserves++;
		return RING_APPLIED;
	case JOURNAL_EXTEND:
		if (r->op == b->hold[r->slot].op)
			return RING_REPEATED;
		if (!b->hold[r->slot].open || r->op < b->hold[r->slot].op || r->amount <= 0 ||
		    r->extra != b->hold[r->slot].amount + r->amount ||
		    r->completion > metered(b, region, r) || !costs(b, region, r, split) ||
		    !covered(b, r->account, r->amount))
			return RING_REFUSED;
		b->hold[r->slot].op = r->op;
		b->hold[r->slot].amount += r->amount;
		b->account[r->account].held += r->amount;
		b->extends++;
		return RING_APPLIED;
	case JOURNAL_MARK:
		b->marks++;
		return b->hold[r->slot].open && r->completion <= metered(b, region, r) &&
		        costs(b, region, r, split)
		    ? RING_APPLIED
		    : RING_REFUSED;
	case JOURNAL_SETTLE:
	case JOURNAL_VOID:
		return end_hold(b, region, r, split);
	case JOURNAL_TOPUP:
	case JOURNAL_ADJUST:
		return credit(b, r, ref);
	case JOURNAL_ACCOUNT_SET:
		if (r->op <= b->hold[r->slot].op || b->hold[r->slot].open)
			return RING_REFUSED;
		b->hold[r->slot].op = r->op;
		b->account[r->account].overdraft += r->amount;
		if (r->amount < 0)
			b->account[r->account].indulged = true;
		b->sets++;
		return RING_APPLIED;
	default:
		return RING_REFUSED;
	}
}

uint32_t
books_drain(struct books *b, struct region *region, uint32_t proc)
{
	struct ring *ring = region_ring(region, proc);
	uint64_t from = ring_durable(ring), head = ring_head(ring);

	for (uint64_t p = from + 1; p <= head; p++) {
		struct ring_entry *e = ring_peek(ring, p);
		const struct journal_record *r = &e->record;
		unsigned char payload[4096];
		struct journal_split split = {0};
		uint64_t ref = 0;
		enum ring_status status;

		/* No hold is ever open that its slot knows nothing of. */
		if (r->type == JOURNAL_GONE)
			continue;
		if (r->payload_len == sizeof ref)
			ring_payload(ring, e, &ref);
		if (r->version != JOURNAL_VERSION && r->payload_len >= sizeof split &&
		    r->payload_len <= sizeof payload) {
			ring_payload(ring, e, payload);
			memcpy(&split, payload, sizeof split);
		}
		status = apply(b, region, r, ref, &split);
		b->repeats += status == RING_REPEATED;
		b->refusals += status == RING_REFUSED;
		e->value = b->account[r->account].balance;
		e->status = status;
	}
	for (uint64_t p = from + 1; p <= head; p++) {
		struct ring_entry *e = ring_peek(ring, p);

		if (e->record.type != JOURNAL_MARK && e->record.type != JOURNAL_GONE)
			atomic_store_explicit(&hold_at(region, e->record.slot)->journaled,
			    HOLD_WORD(e->record.op, e->status), memory_order_relaxed);
	}
	if (head != from)
		ring_publish(ring, head);
	return (uint32_t)(head - from);
}

void
books_reap(struct books *b, struct region *region, uint32_t proc, struct reap *reap)
{
	int pushed;

	reap_start(reap, region, proc, 1);
	while (reap_step(reap, &pushed) != REAP_DONE)
		books_drain(b, region, proc);
}

const char *
books_wrong(const struct books *b, const struct region *region)
{
	if (b->refusals != 0)
		return "the keeper refused a record";
	for (uint32_t i = 0; i < hold_count(region); i++) {
		if (HOLD_STATE(atomic_load(&hold_at(region, i)->state)) != HOLD_FREE)
			return "a slot is not free";
		if (b->hold[i].open)
			return "a hold is open in the books";
		for (enum purse_kind kind = 0; kind < PURSE_KINDS; kind++)
			if (hold_at(region, i)->purse[kind].whose != 0)
				return "a slot claims from a purse";
	}
	for (uint32_t i = 0; i < atomic_load(&region->h->accounts); i++) {
		if (b->account[i].held != 0)
			return "something is held";
		if (b->account[i].balance != b->account[i].credited - b->account[i].charged)
			return "the balance is not credits less charges";
		if (account_available(account_at(region, i)) !=
		    b->account[i].balance + b->account[i].overdraft)
			return "memory and books disagree on what is available";
		if (seat_count(&account_at(region, i)->seats) != 0)
			return "a seat was not given back";
		/* With a budget all charges were under it, in its first window. */
		for (int j = 0; j < BUDGETS; j++) {
			const struct purse *p = &account_at(region, i)->budget[j];

			if (purse_cap(p) != 0 && purse_used(p, 0) != b->account[i].charged)
				return "what is used of a budget is not what was charged";
		}
	}
	if (atomic_load(&region->h->keys) > 0 && seat_count(&key_at(region, 0)->seats) != 0)
		return "a seat of the key was not given back";
	/* With a key all charges were under its cap. */
	if (atomic_load(&region->h->keys) > 0 &&
	    purse_used(&key_at(region, 0)->purse, 0) != b->account[0].charged)
		return "what is used of the cap is not what was charged";
	return NULL;
}
