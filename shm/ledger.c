/*
 * Reserve, extend, settle, credit.  Workers and the admin process, each on its own holds.
 *
 * A kill takes a process away between two instructions: all its earlier stores in program order
 * are there for whoever reaps it after waitpid, no later one is.  So for the reaper it is the
 * compiler that must keep the order; hold_move (hold.c) and the CAS in word.h are its barriers.  What
 * other living processes look at is little: an account's word, a slot's `applied`, the ring's
 * head.  Each has its ordering told where it is used.
 *
 * tests/model/ledger.pml is the model of this file and reap.c: change them together.
 */
#include "shm/ledger.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "shm/fault.h"
#include "shm/hold.h"
#include "shm/purse.h"
#include "shm/ring.h"
#include "shm/seat.h"
#include "shm/word.h"
#include "shm/clock.h"

/* What we know of our holds, in our own memory: a stray write into a slot is noticed by it. */
struct kept {
	int64_t held; /* debited for it, or to be given when its last record is durable */
	struct price price;
	uint32_t account, price_id, prompt;
};

struct ledger {
	struct region *region;
	struct ring *ring;
	uint32_t proc;
	uint32_t generation;
	uint32_t first; /* slot */
	struct kept *kept; /* by slot, less `first` */
	uint32_t free_count;
	uint32_t free[]; /* slots; the last freed is taken first, its lines are warm */
};

struct ledger *
ledger_new(struct region *region, uint32_t proc)
{
	uint32_t per_proc = region->h->holds_per_proc, first = hold_first(region, proc);
	struct ledger *l = calloc(1, sizeof *l + per_proc * sizeof l->free[0]);

	if (l == NULL)
		return NULL;
	l->first = first;
	l->kept = calloc(per_proc, sizeof l->kept[0]);
	if (l->kept == NULL) {
		free(l);
		return NULL;
	}
	l->region = region;
	l->ring = region_ring(region, proc);
	l->proc = proc;
	/* Relaxed: written by the master before it forked us. */
	l->generation =
	    atomic_load_explicit(&region_proc(region, proc)->generation, memory_order_relaxed);
	for (uint32_t i = per_proc; i-- > 0;) {
		/* Relaxed: ours, or finished by the reaper before we were forked. */
		uint64_t state = atomic_load_explicit(
		    &hold_at(region, first + i)->state, memory_order_relaxed);

		if (HOLD_STATE(state) == HOLD_FREE && HOLD_SEQ(state) < HOLD_SEQ_USED_UP)
			l->free[l->free_count++] = first + i;
	}
	return l;
}

void
ledger_free(struct ledger *l)
{
	if (l != NULL)
		free(l->kept);
	free(l);
}

struct region *
ledger_region(const struct ledger *l)
{
	return l->region;
}

struct ring *
ledger_ring(const struct ledger *l)
{
	return l->ring;
}

uint32_t
ledger_holds_free(const struct ledger *l)
{
	return l->free_count;
}

/*
 * Did operation (slot, seq) change the account?  Only of a slot's latest operation, by its
 * owner or reaper.  The tag first: looked at in the other order, it could be replaced between
 * the two looks, after we had found `applied` not yet raised.
 */
/* Model: TOOK in tests/model/reap.pml. */
bool
ledger_took(const struct account *a, uint32_t slot, const struct hold *h, uint64_t seq)
{
	/* Acquire, pairs with the release of the CAS that replaced our tag. */
	if (__atomic_load_n(&a->word.tag, __ATOMIC_ACQUIRE) == tag_of(slot, seq))
		return true;
	return atomic_load_explicit(&h->applied, memory_order_relaxed) >= seq;
}

/* Raise (or, for an adjustment below zero, lower) what is available; never refused. */
void
ledger_give(struct region *region, struct account *a, uint32_t slot, uint64_t seq, int64_t amount)
{
	struct account_word w;
	int64_t sum;

	do {
		w = word_read(a);
		/* The keeper keeps books within int64; this only keeps a forged slot from
		 * turning the sign. */
		if (__builtin_add_overflow(w.available, amount, &sum))
			sum = amount > 0 ? INT64_MAX : INT64_MIN;
	} while (!word_replace(region, a, w, sum, tag_of(slot, seq)));
}

/* Is there room for a record of a hold with so much payload? */
static bool
room(const struct ledger *l, size_t payload_len)
{
	return ring_room(l->ring, JOURNAL_END_MAX + payload_len);
}

/* Journal what the hold says.  There is room: the caller looked before its first step. */
static uint64_t
push(struct ledger *l, const struct hold *h, enum journal_type type, const void *payload,
    size_t payload_len)
{
	struct journal_split split;
	struct journal_record r;
	uint64_t position;

	hold_record(l->region, h, (uint8_t)type, realtime_us(), &r, &split);
	position = hold_push(l->ring, &r, &split, payload, payload_len);
	assert(position != 0);
	return position;
}

/* The same for a hold's end, with how it went. */
static uint64_t
push_end(struct ledger *l, const struct hold *h, const struct settlement *s, const void *payload,
    size_t payload_len)
{
	enum journal_type type = s->voided ? JOURNAL_VOID : JOURNAL_SETTLE;
	unsigned char head[JOURNAL_END_MAX];
	struct journal_record r;
	struct journal_end end;
	uint64_t position;

	if (s->end == NULL)
		return push(l, h, type, payload, payload_len);
	assert(s->provider_len <= JOURNAL_PROVIDER_MAX);
	end = *s->end;
	hold_record(l->region, h, (uint8_t)type, realtime_us(), &r, &end.split);
	r.version = JOURNAL_VERSION_TOLD;
	end.provider_len = s->provider_len;
	memcpy(head, &end, sizeof end);
	if (s->provider_len > 0)
		memcpy(head + sizeof end, s->provider, s->provider_len);
	position = ring_push2(
	    l->ring, &r, head, sizeof end + s->provider_len, payload, payload_len);
	assert(position != 0);
	return position;
}

static struct kept *
kept(const struct ledger *l, const struct hold *h)
{
	return &l->kept[hold_slot(l->region, h) - l->first];
}

/* Does a held hold still say what we wrote? */
static bool
intact(const struct ledger *l, const struct hold *h)
{
	const struct kept *k = kept(l, h);

	return h->amount == k->held && h->account == k->account && h->price_id == k->price_id &&
	    h->prompt == k->prompt && memcmp(&h->price, &k->price, sizeof h->price) == 0;
}

/*
 * Somebody wrote over a hold.  What we know it to be is put back, so that neither we nor the reaper
 * give back what was never taken; and the keeper is sent an extend by nothing, which no correct
 * process sends: it freezes the account and has us killed.  False: the ring is full.
 */
static bool
put_right(struct ledger *l, struct hold *h)
{
	const struct kept *k = kept(l, h);

	if (intact(l, h))
		return true;
	if (!room(l, 0))
		return false;
	h->take = 0; /* as in take_more */
	atomic_signal_fence(memory_order_seq_cst);
	h->base = h->amount = k->held;
	h->account = k->account;
	h->price_id = k->price_id;
	h->prompt = k->prompt;
	h->price = k->price;
	hold_move(h, hold_seq(h) + 1, HOLD_HELD);
	(void)push(l, h, JOURNAL_EXTEND, NULL, 0);
	return true;
}

/* Is the account under a flag that forbids this?  Acquire: with the books that set it. */
static bool
barred(const struct account *a, uint32_t by)
{
	return (atomic_load_explicit(&a->flags, memory_order_acquire) & by) != 0;
}

/* Who it is that cannot pay, if it is a purse of this kind. */
static enum ledger_result
purse_short(enum purse_kind kind)
{
	return kind == PURSE_KEY ? LEDGER_CAPPED
	    : kind == PURSE_DAY  ? LEDGER_BUDGET_DAY
				 : LEDGER_BUDGET_MONTH;
}

/* Of what an account has available: as much as the hold has claimed for it from its key's cap and
 * from its budgets.  *by: who has no more, LEDGER_SHORT if that is the account. */
static int64_t
under_caps(const struct hold *h, int64_t available, enum ledger_result *by)
{
	enum purse_kind kind = 0;
	int64_t claimed = purse_claimed(h, &kind);

	*by = LEDGER_SHORT;
	if (claimed == INT64_MAX || claimed - h->base >= available)
		return available;
	*by = purse_short(kind);
	return claimed - h->base;
}

/* The purses that a reserve claims from. */
static void
open_purses(struct ledger *l, struct hold *h, const struct hold_terms *t)
{
	const struct account *a = t->account;

	if (t->purse != NULL) {
		h->capped_by = t->purse->key_id;
		purse_open(h, PURSE_KEY, key_number(l->region, t->purse),
		    purse_window(t->purse->purse.per, t->reserved_us));
	}
	for (unsigned i = 0; i < BUDGETS; i++)
		if (purse_cap(&a->budget[i]) != 0)
			purse_open(h, PURSE_DAY + i, a->number,
			    purse_window(KEY_PER_DAY + i, t->reserved_us));
}

/*
 * Claim what a hold is to grow to, or what there is, but at least so much, from one purse after the
 * other: from each no more than the one before it gave.  What is too much the caller gives back.
 */
static enum ledger_result
claim(struct ledger *l, struct hold *h, int64_t want, int64_t least)
{
	for (enum purse_kind kind = 0; kind < PURSE_KINDS; kind++) {
		if (h->purse[kind].whose == 0)
			continue;
		if (!purse_claim(l->region, h, kind, want, least))
			return purse_short(kind);
		if (h->purse[kind].claimed < want)
			want = h->purse[kind].claimed;
	}
	return LEDGER_OK;
}

/* Its account's seat, and its key's if that has a limit: both or none. */
static enum ledger_result
sit_down(struct ledger *l, struct hold *h, const struct hold_terms *t)
{
	if (!seat_take(l->region, h, SEAT_ACCOUNT, t->account->number, t->seats))
		return LEDGER_SEATS;
	if (t->key_seats == 0 ||
	    seat_take(l->region, h, SEAT_KEY, key_number(l->region, t->key), t->key_seats))
		return LEDGER_OK;
	seat_give(l->region, h);
	return LEDGER_KEY_SEATS;
}

/* Debit a claimed hold's first amount; false if the account cannot pay min_tokens. */
static bool
take_first(struct ledger *l, struct hold *h, uint64_t tag, const struct hold_terms *t)
{
	enum ledger_result by;
	struct account_word w;
	int64_t n;

	do {
		w = word_read(t->account);
		n = price_covers_least(&t->price, t->prompt, under_caps(h, w.available, &by));
		if (n > t->want_tokens)
			n = t->want_tokens;
		if (n < (int64_t)t->min_tokens)
			return false;
		/* Before each CAS, so that the slot says what was taken if that one did it. */
		h->amount = price_cost_most(&t->price, t->prompt, (uint64_t)n);
	} while (!word_replace(l->region, t->account, w, w.available - h->amount, tag));
	return true;
}

/* Model: reserve() in tests/model/worker.pml. */
enum ledger_result
ledger_reserve(struct ledger *l, const struct hold_terms *t, const void *payload,
    size_t payload_len, struct hold **out, uint64_t *position)
{
	enum ledger_result result;
	struct hold *h;
	uint32_t slot;
	uint64_t seq;

	if (barred(t->account, ACCOUNT_CLOSED | ACCOUNT_FROZEN))
		return LEDGER_CLOSED;
	if (l->free_count == 0)
		return LEDGER_FULL;
	/* First, so that a hold once taken can be journaled. */
	if (!room(l, payload_len))
		return LEDGER_BUSY;
	slot = l->free[l->free_count - 1];
	h = hold_at(l->region, slot);
	seq = hold_seq(h) + 1;

	/* FREE: a reaper gives back what is claimed, and looks at none of what follows. */
	open_purses(l, h, t);
	FAULT("reserve.purse");
	result = claim(l, h, price_cost_most(&t->price, t->prompt, t->want_tokens),
	    price_cost_most(&t->price, t->prompt, t->min_tokens));
	if (result != LEDGER_OK) {
		purse_close(l->region, h, 0);
		return result;
	}
	atomic_store_explicit(&h->meter, 0, memory_order_relaxed);
	atomic_store_explicit(&h->opened, 0, memory_order_relaxed);
	h->amount = h->base = h->take = h->actual = h->uncollected = 0;
	h->account = t->account->number;
	h->price_id = t->price_id;
	h->price = t->price;
	h->prompt = t->prompt;
	h->max_tokens = t->max_tokens;
	h->model = t->model;
	h->voided = 0;
	h->generation = l->generation;
	memcpy(h->stream_id, t->stream_id, sizeof h->stream_id);
	memcpy(h->session_id, t->session_id, sizeof h->session_id);
	h->reserved_us = t->reserved_us;
	h->deadline_us = t->deadline_us;

	result = sit_down(l, h, t);
	if (result != LEDGER_OK) {
		purse_close(l->region, h, 0);
		return result;
	}
	FAULT("reserve.seated");
	/* Last: a free slot without an outcome is taken for one that was written over (reap.c), and
	 * then nothing of its former hold may be there any more. */
	atomic_signal_fence(memory_order_seq_cst);
	h->outcome = OUTCOME_NONE;
	hold_move(h, seq, HOLD_CLAIMED);
	FAULT("reserve.claimed");
	if (!take_first(l, h, tag_of(slot, seq), t)) {
		hold_move(h, seq, HOLD_FREE);
		purse_close(l->region, h, 0);
		seat_give(l->region, h);
		return LEDGER_SHORT;
	}
	FAULT("reserve.debited");
	hold_move(h, seq, HOLD_HELD);
	FAULT("reserve.held");
	*kept(l, h) = (struct kept){.held = h->amount, .price = t->price,
	    .account = t->account->number, .price_id = t->price_id, .prompt = t->prompt};
	l->free_count--;
	purse_keep(l->region, h, h->amount);
	*position = push(l, h, JOURNAL_RESERVE, payload, payload_len);
	FAULT("reserve.pushed");
	*out = h;
	return LEDGER_OK;
}

/* What a hold costs with so many tokens in all; those not metered yet are reasoning, or none is. */
static int64_t
cost_of_all(const struct hold *h, uint64_t tokens, bool reasoning)
{
	struct tokens t = hold_metered(h);

	if (reasoning && tokens > t.completion)
		t.reasoning += tokens - t.completion;
	t.completion = tokens;
	return price_cost_of(&h->price, &t);
}

/*
 * What an extend to so many tokens takes from this much credit: whole tokens, 0 for none.  Those
 * that are not metered yet are reasoning, or none of them is.
 */
static int64_t
extend_take(const struct hold *h, uint32_t tokens, bool reasoning, int64_t available)
{
	struct tokens t = hold_metered(h);
	int64_t pays, n, cost;

	if (available <= 0)
		return 0;
	if (__builtin_add_overflow(h->base, available, &pays))
		pays = INT64_MAX;
	n = price_covers_of(&h->price, &t, reasoning, pays);
	if (n > tokens)
		n = tokens;
	if (n < 0)
		return 0;
	cost = cost_of_all(h, (uint64_t)n, reasoning);
	return cost > h->base ? cost - h->base : 0;
}

/*
 * The debit of a held hold: up to `tokens` whole tokens, or, if `amount` is not 0, up to that
 * total.  Leaves it HELD, one sequence further on; what was taken is in `take`.  If that is nothing:
 * for whose sake.
 */
/* Model: extend() in tests/model/worker.pml. */
static enum ledger_result
take_more(struct ledger *l, struct hold *h, uint32_t tokens, bool reasoning, int64_t amount)
{
	struct account *a = account_at(l->region, h->account);
	uint32_t slot = hold_slot(l->region, h);
	uint64_t seq = hold_seq(h) + 1;
	enum ledger_result by;
	struct account_word w;

	h->take = 0; /* first: HELD with base + take == amount says "the last extend took" */
	atomic_signal_fence(memory_order_seq_cst);
	h->base = h->amount;
	/* Of what is claimed already nothing is too little. */
	(void)claim(l, h, amount != 0 ? amount : cost_of_all(h, tokens, reasoning), h->base);
	hold_move(h, seq, HOLD_EXTENDING);
	FAULT("extend.begun");
	do {
		int64_t available;

		w = word_read(a);
		available = under_caps(h, w.available, &by);
		if (amount == 0)
			h->take = extend_take(h, tokens, reasoning, available);
		else if (available <= 0)
			h->take = 0;
		else
			h->take = amount - h->base < available ? amount - h->base : available;
		if (h->take == 0)
			break;
	} while (!word_replace(l->region, a, w, w.available - h->take, tag_of(slot, seq)));
	FAULT("extend.debited");
	h->amount = h->base + h->take;
	hold_move(h, seq, HOLD_HELD);
	kept(l, h)->held = h->amount;
	FAULT("extend.held");
	purse_keep(l->region, h, h->amount);
	return h->take != 0 ? LEDGER_OK : by;
}

enum ledger_result
ledger_extend(struct ledger *l, struct hold *h, uint32_t tokens, bool reasoning,
    const void *payload, size_t payload_len, uint64_t *position)
{
	enum ledger_result result;

	assert(hold_state(h) == HOLD_HELD);
	*position = 0;
	if (!put_right(l, h))
		return LEDGER_BUSY;
	if (tokens <= hold_covers(h, h->amount, reasoning))
		return LEDGER_OK;
	if (barred(account_at(l->region, h->account), ACCOUNT_FROZEN))
		return LEDGER_CLOSED;
	if (!room(l, payload_len))
		return LEDGER_BUSY;
	result = take_more(l, h, tokens, reasoning, 0);
	if (result != LEDGER_OK)
		return result;
	*position = push(l, h, JOURNAL_EXTEND, payload, payload_len);
	FAULT("extend.pushed");
	return LEDGER_OK;
}

enum ledger_result
ledger_overdraw(struct ledger *l, struct hold *h, int64_t amount, uint64_t *position)
{
	assert(hold_state(h) == HOLD_HELD);
	*position = 0;
	if (!put_right(l, h))
		return LEDGER_BUSY;
	if (amount <= h->amount || barred(account_at(l->region, h->account), ACCOUNT_FROZEN))
		return LEDGER_OK;
	if (!room(l, 0))
		return LEDGER_BUSY;
	(void)take_more(l, h, 0, false, amount); /* all, a part or nothing */
	FAULT("overdraw.held");
	if (h->take != 0)
		*position = push(l, h, JOURNAL_EXTEND, NULL, 0);
	FAULT("overdraw.pushed");
	return LEDGER_OK;
}

/* Model: mark() in tests/model/worker.pml. */
enum ledger_result
ledger_mark(struct ledger *l, struct hold *h, const void *payload, size_t payload_len,
    uint64_t *position)
{
	assert(hold_state(h) == HOLD_HELD);
	if (!put_right(l, h) || !room(l, payload_len))
		return LEDGER_BUSY;
	*position = push(l, h, JOURNAL_MARK, payload, payload_len);
	FAULT("mark.pushed");
	return LEDGER_OK;
}

/* Model: settle_push() in tests/model/worker.pml. */
enum ledger_result
ledger_settle(struct ledger *l, struct hold *h, const struct settlement *s, const void *payload,
    size_t payload_len, uint64_t *position)
{
	assert(hold_state(h) == HOLD_HELD);
	if (!intact(l, h)) {
		/* The charge was worked out by what was forged: once more, please. */
		(void)put_right(l, h);
		return LEDGER_BUSY;
	}
	if (!room(l, payload_len))
		return LEDGER_BUSY;
	assert(s->charge >= 0 && s->charge <= h->amount && !(s->voided && s->charge != 0));
	kept(l, h)->held = h->amount - s->charge;
	/* HELD: a reaper looks at none of these. */
	h->actual = s->charge;
	h->uncollected = s->uncollected;
	h->settle_prompt = s->prompt;
	h->settle_cached = s->cached;
	h->settle_completion = s->completion;
	h->settle_reasoning = s->reasoning;
	h->settle_cache_write = s->cache_write;
	h->outcome = s->outcome;
	h->voided = s->voided;
	hold_move(h, hold_seq(h) + 1, HOLD_SETTLING);
	FAULT("settle.decided");
	*position = push_end(l, h, s, payload, payload_len);
	FAULT("settle.pushed");
	return LEDGER_OK;
}

/* Journal a change of what is available, to be applied when it is durable. */
/* Model: credit() in tests/model/worker.pml. */
static enum ledger_result
credit(struct ledger *l, struct account *a, enum journal_type type, int64_t amount,
    const void *payload, size_t payload_len, struct hold **out, uint64_t *position)
{
	struct hold *h;

	if (l->free_count == 0)
		return LEDGER_FULL;
	if (!room(l, payload_len))
		return LEDGER_BUSY;
	h = hold_at(l->region, l->free[--l->free_count]);
	atomic_store_explicit(&h->meter, 0, memory_order_relaxed);
	h->amount = h->base = h->actual = h->uncollected = 0;
	h->take = amount;
	*kept(l, h) = (struct kept){.held = amount, .account = a->number};
	h->account = a->number;
	h->price_id = JOURNAL_NONE;
	h->prompt = 0;
	h->generation = l->generation;
	hold_move(h, hold_seq(h) + 1, HOLD_CREDITING);
	FAULT("credit.begun");
	*position = push(l, h, type, payload, payload_len);
	FAULT("credit.pushed");
	*out = h;
	return LEDGER_OK;
}

enum ledger_result
ledger_credit(struct ledger *l, struct account *a, enum journal_type type, int64_t amount,
    const void *payload, size_t payload_len, struct hold **out, uint64_t *position)
{
	assert(type == JOURNAL_ADJUST || (type == JOURNAL_TOPUP && amount > 0));
	if (barred(a, ACCOUNT_FROZEN))
		return LEDGER_CLOSED;
	return credit(l, a, type, amount, payload, payload_len, out, position);
}

enum ledger_result
ledger_account_set(struct ledger *l, struct account *a, int64_t change, const void *payload,
    size_t payload_len, struct hold **out, uint64_t *position)
{
	return credit(l, a, JOURNAL_ACCOUNT_SET, change, payload, payload_len, out, position);
}

/* Model: settle_close() in tests/model/worker.pml. */
enum ring_status
ledger_close(struct ledger *l, struct hold *h, uint64_t position, int64_t *value)
{
	struct account *a = account_at(l->region, kept(l, h)->account);
	uint32_t slot = hold_slot(l->region, h);
	uint64_t seq = hold_seq(h);
	enum ring_status status;
	int64_t give = kept(l, h)->held;

	assert(hold_state(h) == HOLD_SETTLING || hold_state(h) == HOLD_CREDITING);
	/* Acquire inside: the result is there. */
	assert(ring_durable(l->ring) >= position);
	status = ring_result(l->ring, position, value);
	/* Anything else changed nothing in the books, so nothing here. */
	FAULT("close.durable");
	if (status == RING_APPLIED && give != 0)
		ledger_give(l->region, a, slot, seq, give);
	FAULT("close.given");
	/* A refused settlement leaves in the purses what it claimed: the keeper ended the hold. */
	purse_close(l->region, h, status == RING_APPLIED ? h->actual : PURSE_ALL);
	seat_give(l->region, h); /* credits have none */
	hold_move(h, seq, HOLD_FREE);
	FAULT("close.freed");
	l->free[l->free_count++] = slot;
	return status;
}
