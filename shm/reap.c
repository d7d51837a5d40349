/*
 * Finishing a dead process's holds.  Runs in the master, on memory that a process left behind
 * which may have been killed between any two instructions (or, worse, taken over by what a peer
 * sent): so nothing here is asserted of a slot's contents, and what is journaled the keeper
 * checks against its own books.
 *
 * The dead process was the only one to write its slots and its ring's head; waitpid orders its
 * stores before our loads.  Every step can be done again from the start, since the reaper may
 * be killed as well.
 */
#include "shm/reap.h"

#include "shm/hold.h"
#include "shm/fault.h"
#include "shm/purse.h"
#include "shm/ring.h"
#include "shm/seat.h"

void
reap_start(struct reap *r, struct region *region, uint32_t proc, uint64_t now_us)
{
	*r = (struct reap){.region = region, .proc = proc, .now_us = now_us};
}

/* The keeper committed this operation, with this result. */
static bool
journaled(const struct hold *h, uint64_t seq, enum ring_status status)
{
	/* Relaxed: the caller saw the ring's durable count with acquire; what was committed
	 * before that was noted before it. */
	return atomic_load_explicit(&h->journaled, memory_order_relaxed) ==
	    HOLD_WORD(seq, status);
}

/* Push what the slot says as a record of this type; false if the ring is full. */
static bool
push(struct reap *r, const struct hold *h, uint8_t type)
{
	struct journal_split split;
	struct journal_record record;
	uint64_t position;

	hold_record(r->region, h, type, r->now_us, &record, &split);
	position = hold_push(region_ring(r->region, r->proc), &record, &split, NULL, 0);
	if (position == 0)
		return false;
	r->position = position;
	return true;
}

/* The account of a slot, or NULL if it names none. */
static struct account *
account_of(const struct region *region, const struct hold *h)
{
	/* Acquire, pairs with the keeper's insert. */
	if (h->account >= atomic_load_explicit(&region->h->accounts, memory_order_acquire))
		return NULL;
	return account_at(region, h->account);
}

/* Write down what a held hold's meter says is to be charged. */
static void
settle_at_meter(struct hold *h)
{
	/* Relaxed: its writer is dead. */
	uint64_t word = atomic_load_explicit(&h->meter, memory_order_relaxed);
	uint32_t meter = METER_TOKENS(word);
	struct tokens t = {
	    .prompt = h->prompt, .completion = meter, .reasoning = METER_REASONING(word)};
	int64_t cost = 0;

	h->uncollected = 0;
	h->settle_cached = h->settle_cache_write = 0;
	h->voided = meter == 0;
	h->outcome = OUTCOME_WORKER_DIED;
	h->settle_prompt = h->voided ? 0 : h->prompt;
	/* A meter above the hold: decoded, but not to be delivered before it was paid. */
	price_fit(&h->price, &t, h->amount);
	if (t.reasoning > t.completion)
		t.reasoning = t.completion;
	h->settle_completion = (uint32_t)t.completion;
	h->settle_reasoning = (uint32_t)t.reasoning;
	if (!h->voided)
		cost = price_cost_of(&h->price, &t);
	if (cost > h->amount)
		cost = h->amount;
	h->actual = cost > 0 ? cost : 0;
}

/*
 * A held hold whose last step was an extend may have been debited without a record of it
 * (killed before the push).  If the charge needs that extend, the keeper has to know of it
 * first, or it would find the charge above the hold.  (A second EXTEND with the same slot and
 * op changes nothing.)
 */
/* Model: UNKNOWN in tests/model/reap.pml. */
static bool
extend_unknown(const struct hold *h, uint64_t seq)
{
	/* Relaxed: as in journaled(). */
	uint64_t known = HOLD_SEQ(atomic_load_explicit(&h->journaled, memory_order_relaxed));
	int64_t total;

	return h->take > 0 && !__builtin_add_overflow(h->base, h->take, &total) &&
	    total == h->amount && h->actual > h->base && known < seq;
}

/*
 * A free slot whose last record opened or extended a hold, and that never got an outcome: somebody
 * wrote over its state.  Left so, its hold would stay open in the books, and each next owner's
 * first reserve there would be taken for a forgery.  (Killed at the very beginning of a reserve a
 * slot looks like this, too: then it holds nothing, and its void changes nothing.)
 */
static bool
lost(const struct hold *h, uint64_t seq)
{
	/* One that never had a hold, or credits only, has no time of a reserve. */
	return h->outcome == OUTCOME_NONE && h->reserved_us != 0 &&
	    journaled(h, seq, RING_APPLIED);
}

/* Bring one slot to FREE or to SETTLING with its record pushed; false if the ring is full. */
static bool
push_slot(struct reap *r, uint32_t slot)
{
	struct hold *h = hold_at(r->region, slot);
	struct account *a = account_of(r->region, h);
	/* Relaxed: its writer is dead, and after it we are the only one. */
	uint64_t word = atomic_load_explicit(&h->state, memory_order_relaxed);
	uint64_t seq = HOLD_SEQ(word);

	purse_reap(r->region, h);
	if (HOLD_STATE(word) == HOLD_FREE && !lost(h, seq))
		return true;
	if (a == NULL) {
		hold_move(h, seq, HOLD_FREE);
		return true;
	}
	switch (HOLD_STATE(word)) {
	case HOLD_CLAIMED:
		if (!ledger_took(a, slot, h, seq)) {
			hold_move(h, seq, HOLD_FREE);
			return true;
		}
		break;
	case HOLD_EXTENDING:
		if (!ledger_took(a, slot, h, seq))
			h->take = 0;
		if (__builtin_add_overflow(h->base, h->take, &h->amount))
			h->amount = h->base;
		break;
	case HOLD_CREDITING:
		/* Durable or never to be: what the dead process published is drained. */
		if (journaled(h, seq, RING_APPLIED) && !ledger_took(a, slot, h, seq))
			ledger_give(r->region, a, slot, seq, h->take);
		hold_move(h, seq, HOLD_FREE);
		return true;
	default:
		break;
	}
	if (HOLD_STATE(word) != HOLD_SETTLING) {
		hold_move(h, seq, HOLD_HELD);
		FAULT("reap.held");
		settle_at_meter(h);
		if (extend_unknown(h, seq) && !push(r, h, JOURNAL_EXTEND))
			return false;
		hold_move(h, ++seq, HOLD_SETTLING);
		FAULT("reap.settling");
	}
	/* Perhaps for the second time: the keeper ignores an operation that it knows. */
	if (!push(r, h, h->voided ? JOURNAL_VOID : JOURNAL_SETTLE))
		return false;
	FAULT("reap.pushed");
	if (h->voided)
		r->voided++;
	else
		r->settled++;
	return true;
}

/*
 * The keeper knows this end of the hold and did not refuse it.  Of another operation: somebody
 * wrote over the slot, and what it holds is not known.
 */
static bool
ended(const struct hold *h, uint64_t seq)
{
	/* Relaxed: as in journaled(). */
	uint64_t word = atomic_load_explicit(&h->journaled, memory_order_relaxed);

	return HOLD_SEQ(word) == seq && (word & 0xff) != RING_REFUSED;
}

/*
 * A free slot whose sequence is behind what the keeper knows, or too far before it, was written
 * over, or its owner sent forged records: its next owner would be taken for a forger.  `journaled`
 * is what the keeper has just said of it, whatever the dead process wrote there.
 */
static void
resume_seq(struct hold *h)
{
	/* Relaxed: ours, and as in journaled(). */
	uint64_t seq = HOLD_SEQ(atomic_load_explicit(&h->state, memory_order_relaxed));
	uint64_t known = HOLD_SEQ(atomic_load_explicit(&h->journaled, memory_order_relaxed));
	uint64_t applied = atomic_load_explicit(&h->applied, memory_order_relaxed);

	if (seq < known || seq - known > HOLD_SEQ_STEP)
		hold_move(h, seq = known, HOLD_FREE);
	/* Nobody made such an operation: the next ones would be taken for applied.  (Whoever else
	 * raises it does so to one that there was, of which nobody will ask any more.) */
	if (applied > seq)
		atomic_store_explicit(&h->applied, seq, memory_order_relaxed);
}

/* The settlement is durable: give back what it did not charge. */
static void
finish_slot(const struct reap *r, uint32_t slot)
{
	struct hold *h = hold_at(r->region, slot);
	struct account *a = account_of(r->region, h);
	/* Relaxed: ours. */
	uint64_t word = atomic_load_explicit(&h->state, memory_order_relaxed);
	uint64_t seq = HOLD_SEQ(word);
	int64_t give;

	/* Whatever its state: the hold is over, and its seat is not judged by the keeper. */
	seat_reap(r->region, h);
	if (HOLD_STATE(word) != HOLD_SETTLING) {
		purse_close(r->region, h, 0); /* killed before it held anything */
		return;
	}
	/* Refused: the slot was forged; the account is frozen, and nothing is given. */
	if (a != NULL && ended(h, seq) &&
	    !__builtin_sub_overflow(h->amount, h->actual, &give) && give > 0 &&
	    !ledger_took(a, slot, h, seq))
		ledger_give(r->region, a, slot, seq, give);
	FAULT("reap.given");
	purse_close(r->region, h, ended(h, seq) ? h->actual : PURSE_ALL);
	if (r->ended != NULL)
		r->ended(h);
	hold_move(h, seq, HOLD_FREE);
}

/*
 * All slots are free: tell the keeper, whose books may still have holds that no slot shows, if the
 * dead process sent reserves of its own making.  They would meet the slots' next owner.
 */
static void
push_gone(struct reap *r)
{
	struct journal_record record = {
	    .type = JOURNAL_GONE,
	    .version = JOURNAL_VERSION,
	    .slot = JOURNAL_NONE,
	    .account = JOURNAL_NONE,
	    .price = JOURNAL_NONE,
	    .time_us = r->now_us,
	};

	/* There is room: all before it is durable and acked.  If not, then at the next step. */
	if (ring_push(region_ring(r->region, r->proc), &record, NULL, 0) == 0)
		return;
	r->state = REAP_GONE;
	FAULT("reap.telling");
}

/* Model: reap() in tests/model/reap.pml. */
enum reap_state
reap_step(struct reap *r, int *pushed)
{
	struct ring *ring = region_ring(r->region, r->proc);
	uint32_t first = hold_first(r->region, r->proc), count = r->region->h->holds_per_proc;
	const struct region_dims *d = &r->region->h->dims;
	uint64_t durable = ring_durable(ring);
	bool behind = durable < ring_head(ring);

	/* The keeper mends what the dead process wrote over: nothing is pushed before. */
	if (r->state == REAP_DRAIN && ring_wrong(ring, d->ring_records, d->ring_arena, durable))
		behind = true;
	*pushed = 0;
	if (r->state == REAP_DRAIN && !behind)
		r->state = REAP_PUSH;
	if (r->state == REAP_PUSH) {
		/* Nobody will ask for the dead process's results: room for ours. */
		ring_ack(ring, ring_durable(ring));
		while (r->next < count && push_slot(r, first + r->next))
			r->next++;
		if (r->next == count)
			r->state = REAP_WAIT;
		behind = ring_durable(ring) < ring_head(ring);
	}
	if (r->state == REAP_WAIT && !behind) {
		for (uint32_t i = 0; i < count; i++)
			finish_slot(r, first + i);
		FAULT("reap.finished");
		ring_ack(ring, ring_head(ring));
		if (r->last)
			r->state = REAP_DONE;
		else
			push_gone(r);
		behind = ring_durable(ring) < ring_head(ring);
	}
	if (r->state == REAP_GONE && !behind) {
		for (uint32_t i = 0; i < count; i++)
			resume_seq(hold_at(r->region, first + i));
		FAULT("reap.gone");
		ring_ack(ring, ring_head(ring));
		r->state = REAP_DONE;
	}
	/* Also while draining: the dead process may have published without waking. */
	*pushed = r->state != REAP_DONE;
	return r->state;
}
