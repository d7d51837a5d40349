/*
 * Taking and giving back an account's seats.
 */
#include "shm/seat.h"

#include "shm/fault.h"
#include "shm/word.h"

static struct account_word
read_seats(const struct account *a)
{
	struct account_word w;

	/* As in word_read: acquire each, and the same tag twice means one instant. */
	w.tag = __atomic_load_n(&a->seats.tag, __ATOMIC_ACQUIRE);
	for (;;) {
		uint64_t tag;

		w.available = (int64_t)__atomic_load_n(&a->seats.taken, __ATOMIC_ACQUIRE);
		tag = __atomic_load_n(&a->seats.tag, __ATOMIC_ACQUIRE);
		if (tag == w.tag)
			return w;
		w.tag = tag;
	}
}

/* Replace what was read by `count`; false if it changed meanwhile. */
static bool
replace(const struct region *region, struct account *a, struct account_word old, int64_t count,
    uint64_t tag)
{
	if (old.tag != 0 && TAG_SLOT(old.tag) < hold_count(region))
		tag_applied(&hold_at(region, TAG_SLOT(old.tag))->seat.applied, TAG_SEQ(old.tag));
	return cas16(
	    (struct account_word *)(void *)&a->seats, old, (struct account_word){count, tag});
}

/* Did the operation under way change the count?  The tag first, as in ledger_took. */
static bool
took(const struct account *a, const struct hold *h, uint64_t tag)
{
	if (__atomic_load_n(&a->seats.tag, __ATOMIC_ACQUIRE) == tag)
		return true;
	return atomic_load_explicit(&h->seat.applied, memory_order_relaxed) >= TAG_SEQ(tag);
}

/* As hold_move, for the same reasons. */
static void
move(struct hold *h, uint64_t seq, enum seat_state state)
{
	atomic_store_explicit(&h->seat.state, seq << 8 | state, memory_order_release);
	atomic_signal_fence(memory_order_seq_cst);
}

/* Relaxed: asked by the one who alone stores it. */
static uint64_t
state_of(const struct hold *h)
{
	return atomic_load_explicit(&h->seat.state, memory_order_relaxed);
}

bool
seat_take(const struct region *region, struct hold *h, struct account *a, uint32_t most)
{
	uint64_t seq = (state_of(h) >> 8) + 1, tag = tag_of(hold_slot(region, h), seq);
	struct account_word w;

	h->seat.account = a->number;
	atomic_signal_fence(memory_order_seq_cst);
	move(h, seq, SEAT_TAKING);
	FAULT("seat.taking");
	do {
		w = read_seats(a);
		if (most != 0 && w.available >= most) {
			move(h, seq, SEAT_NONE);
			return false;
		}
	} while (!replace(region, a, w, w.available + 1, tag));
	FAULT("seat.taken");
	move(h, seq, SEAT_TAKEN);
	return true;
}

/* The count is lowered by this operation, which has not been applied. */
static void
lower(const struct region *region, struct account *a, uint64_t tag)
{
	struct account_word w;

	do
		w = read_seats(a);
	/* Never below none, though somebody wrote over it. */
	while (!replace(region, a, w, w.available > 0 ? w.available - 1 : 0, tag));
}

void
seat_give(const struct region *region, struct hold *h)
{
	uint64_t seq = (state_of(h) >> 8) + 1;

	if ((state_of(h) & 0xff) != SEAT_TAKEN)
		return;
	move(h, seq, SEAT_GIVING);
	FAULT("seat.giving");
	lower(region, account_at(region, h->seat.account), tag_of(hold_slot(region, h), seq));
	FAULT("seat.given");
	move(h, seq, SEAT_NONE);
}

void
seat_reap(const struct region *region, struct hold *h)
{
	uint64_t state = state_of(h), seq = state >> 8;
	uint64_t tag = tag_of(hold_slot(region, h), seq);
	struct account *a;

	if ((state & 0xff) == SEAT_NONE)
		return;
	/* Acquire, pairs with the keeper's insert.  No such account: it was written over. */
	if (h->seat.account >= atomic_load_explicit(&region->h->accounts, memory_order_acquire)) {
		move(h, seq, SEAT_NONE);
		return;
	}
	a = account_at(region, h->seat.account);
	switch ((enum seat_state)(state & 0xff)) {
	case SEAT_TAKING:
		if (!took(a, h, tag)) {
			move(h, seq, SEAT_NONE);
			return;
		}
		move(h, seq, SEAT_TAKEN);
		break;
	case SEAT_GIVING:
		if (!took(a, h, tag))
			lower(region, a, tag);
		move(h, seq, SEAT_NONE);
		return;
	default:
		break;
	}
	seat_give(region, h);
}

uint64_t
seat_count(const struct account *a)
{
	/* Relaxed: one word of a value that may change at any time anyway. */
	return __atomic_load_n(&a->seats.taken, __ATOMIC_RELAXED);
}
