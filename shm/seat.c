/*
 * Taking and giving back an account's seats, and a key's.
 */
#include "shm/seat.h"

#include "shm/fault.h"
#include "shm/word.h"

/* Whose seats these are; NULL if there is no such account or key: it was written over. */
static struct seats *
seats_of(const struct region *region, enum seat_kind kind, uint32_t whose)
{
	/* Acquire, pairs with the keeper's insert. */
	if (kind == SEAT_KEY)
		return whose < atomic_load_explicit(&region->h->keys, memory_order_acquire)
		    ? &key_at(region, whose)->seats
		    : NULL;
	return whose < atomic_load_explicit(&region->h->accounts, memory_order_acquire)
	    ? &account_at(region, whose)->seats
	    : NULL;
}

static struct account_word
read_seats(const struct seats *s)
{
	struct account_word w;

	/* As in word_read: acquire each, and the same tag twice means one instant. */
	w.tag = __atomic_load_n(&s->tag, __ATOMIC_ACQUIRE);
	for (;;) {
		uint64_t tag;

		w.available = (int64_t)__atomic_load_n(&s->taken, __ATOMIC_ACQUIRE);
		tag = __atomic_load_n(&s->tag, __ATOMIC_ACQUIRE);
		if (tag == w.tag)
			return w;
		w.tag = tag;
	}
}

/* Replace what was read by `count`; false if it changed meanwhile. */
static bool
replace(const struct region *region, enum seat_kind kind, struct seats *s, struct account_word old,
    int64_t count, uint64_t tag)
{
	if (old.tag != 0 && TAG_SLOT(old.tag) < hold_count(region))
		tag_applied(&hold_at(region, TAG_SLOT(old.tag))->seat[kind].applied,
		    TAG_SEQ(old.tag));
	return cas16((struct account_word *)(void *)s, old, (struct account_word){count, tag});
}

/* Did the operation under way change the count?  The tag first, as in ledger_took. */
static bool
took(const struct seats *s, const struct hold_seat *seat, uint64_t tag)
{
	if (__atomic_load_n(&s->tag, __ATOMIC_ACQUIRE) == tag)
		return true;
	return atomic_load_explicit(&seat->applied, memory_order_relaxed) >= TAG_SEQ(tag);
}

/* As hold_move, for the same reasons. */
static void
move(struct hold_seat *seat, uint64_t seq, enum seat_state state)
{
	atomic_store_explicit(&seat->state, seq << 8 | state, memory_order_release);
	atomic_signal_fence(memory_order_seq_cst);
}

/* Relaxed: asked by the one who alone stores it. */
static uint64_t
state_of(const struct hold_seat *seat)
{
	return atomic_load_explicit(&seat->state, memory_order_relaxed);
}

bool
seat_take(const struct region *region, struct hold *h, enum seat_kind kind, uint32_t whose,
    uint32_t most)
{
	struct hold_seat *seat = &h->seat[kind];
	struct seats *s = seats_of(region, kind, whose);
	uint64_t seq = (state_of(seat) >> 8) + 1, tag = tag_of(hold_slot(region, h), seq);
	struct account_word w;

	if (s == NULL)
		return false;
	seat->whose = whose;
	atomic_signal_fence(memory_order_seq_cst);
	move(seat, seq, SEAT_TAKING);
	FAULT("seat.taking");
	do {
		w = read_seats(s);
		if (most != 0 && w.available >= most) {
			move(seat, seq, SEAT_NONE);
			return false;
		}
	} while (!replace(region, kind, s, w, w.available + 1, tag));
	FAULT("seat.taken");
	move(seat, seq, SEAT_TAKEN);
	return true;
}

/* The count is lowered by this operation, which has not been applied. */
static void
lower(const struct region *region, enum seat_kind kind, struct seats *s, uint64_t tag)
{
	struct account_word w;

	do
		w = read_seats(s);
	/* Never below none, though somebody wrote over it. */
	while (!replace(region, kind, s, w, w.available > 0 ? w.available - 1 : 0, tag));
}

static void
give(const struct region *region, struct hold *h, enum seat_kind kind)
{
	struct hold_seat *seat = &h->seat[kind];
	struct seats *s = seats_of(region, kind, seat->whose);
	uint64_t seq = (state_of(seat) >> 8) + 1;

	if ((state_of(seat) & 0xff) != SEAT_TAKEN)
		return;
	move(seat, seq, SEAT_GIVING);
	FAULT("seat.giving");
	if (s != NULL)
		lower(region, kind, s, tag_of(hold_slot(region, h), seq));
	FAULT("seat.given");
	move(seat, seq, SEAT_NONE);
}

void
seat_give(const struct region *region, struct hold *h)
{
	for (enum seat_kind kind = 0; kind < SEAT_KINDS; kind++)
		give(region, h, kind);
}

static void
reap(const struct region *region, struct hold *h, enum seat_kind kind)
{
	struct hold_seat *seat = &h->seat[kind];
	uint64_t state = state_of(seat), seq = state >> 8;
	uint64_t tag = tag_of(hold_slot(region, h), seq);
	struct seats *s = seats_of(region, kind, seat->whose);

	if ((state & 0xff) == SEAT_NONE)
		return;
	if (s == NULL) {
		move(seat, seq, SEAT_NONE);
		return;
	}
	switch ((enum seat_state)(state & 0xff)) {
	case SEAT_TAKING:
		if (!took(s, seat, tag)) {
			move(seat, seq, SEAT_NONE);
			return;
		}
		move(seat, seq, SEAT_TAKEN);
		break;
	case SEAT_GIVING:
		if (!took(s, seat, tag))
			lower(region, kind, s, tag);
		move(seat, seq, SEAT_NONE);
		return;
	default:
		break;
	}
	give(region, h, kind);
}

void
seat_reap(const struct region *region, struct hold *h)
{
	for (enum seat_kind kind = 0; kind < SEAT_KINDS; kind++)
		reap(region, h, kind);
}

uint64_t
seat_count(const struct seats *s)
{
	/* Relaxed: one word of a value that may change at any time anyway. */
	return __atomic_load_n(&s->taken, __ATOMIC_RELAXED);
}
