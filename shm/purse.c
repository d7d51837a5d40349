/*
 * Keys' purses and accounts' budgets.  Workers, and the master for a dead one.
 *
 * A word is {window << 48 | used, tag}, replaced as a whole by one 16-byte compare-and-swap: a
 * window that has begun since takes the place of the one two before it with its first claim, and
 * no clock has to set a purse back.
 */
#include "shm/purse.h"

#include <time.h>

#include "shm/fault.h"
#include "shm/word.h"

#define USED_BITS 48
#define USED_MASK ((UINT64_C(1) << USED_BITS) - 1)
_Static_assert(PURSE_MAX < (INT64_C(1) << (USED_BITS - 1)), "a cap fits into a word");

enum { PURSE_RESTS = 0, PURSE_MOVES = 1 };

static int64_t
pack(uint16_t window, int64_t used)
{
	return (int64_t)((uint64_t)window << USED_BITS | (uint64_t)used);
}

/* How many windows the word is ahead of this one; 0: it is this one's. */
static int16_t
ahead(int64_t packed, uint16_t window)
{
	if (packed == 0) /* of no window yet */
		return -1;
	return (int16_t)(uint16_t)((uint16_t)((uint64_t)packed >> USED_BITS) - window);
}

static int64_t
used_in(int64_t packed, uint16_t window)
{
	return ahead(packed, window) == 0 ? (int64_t)((uint64_t)packed & USED_MASK) : 0;
}

uint16_t
purse_window(uint32_t per, uint64_t time_us)
{
	time_t t = (time_t)(time_us / 1000000);
	struct tm tm;

	if (per == KEY_PER_DAY)
		return (uint16_t)(t / 86400);
	if (per == KEY_PER_MONTH && gmtime_r(&t, &tm) != NULL)
		return (uint16_t)((tm.tm_year - 70) * 12 + tm.tm_mon);
	return 0;
}

int64_t
purse_window_end(uint32_t per, uint16_t window)
{
	struct tm tm = {.tm_year = 70 + window / 12, .tm_mon = window % 12 + 1, .tm_mday = 1};

	return per == KEY_PER_DAY ? ((int64_t)window + 1) * 86400 : (int64_t)timegm(&tm);
}

void
purse_set(struct purse *p, uint16_t window, int64_t used)
{
	if (used > 0)
		p->word[window & 1].available = pack(window, used < PURSE_MAX ? used : PURSE_MAX);
}

void
purse_set_cap(struct purse *p, int64_t cap)
{
	/* Release, pairs with purse_cap: what was set before is there for whoever goes by it.  A
	 * claim that is quicker than this goes by the one before. */
	__atomic_store_n(&p->cap, cap, __ATOMIC_RELEASE);
}

int64_t
purse_cap(const struct purse *p)
{
	return __atomic_load_n(&p->cap, __ATOMIC_ACQUIRE); /* pairs with purse_set_cap */
}

int64_t
purse_used(const struct purse *p, uint16_t window)
{
	/* Relaxed: one word of a value that may change at any time anyway. */
	return used_in(__atomic_load_n(&p->word[window & 1].available, __ATOMIC_RELAXED), window);
}

/* A budget that was taken away binds nobody any more. */
static int64_t
bound(const struct purse *p)
{
	int64_t cap = purse_cap(p);

	return cap != 0 ? cap : PURSE_MAX;
}

int64_t
purse_left(const struct purse *p, uint16_t window)
{
	int64_t packed = __atomic_load_n(&p->word[window & 1].available, __ATOMIC_RELAXED);
	int64_t used = used_in(packed, window), cap = bound(p);

	return ahead(packed, window) > 0 || used >= cap ? 0 : cap - used;
}

/* What a slot claims from; NULL if it is nothing.  No number in a slot is believed. */
static struct purse *
purse_of(const struct region *region, const struct hold *h, enum purse_kind kind)
{
	const struct hold_purse *hp = &h->purse[kind];

	if (hp->whose == 0)
		return NULL;
	/* Acquire, pairs with the keeper's insert. */
	if (kind == PURSE_KEY)
		return hp->whose > atomic_load_explicit(&region->h->keys, memory_order_acquire)
		    ? NULL
		    : &key_at(region, hp->whose - 1)->purse;
	return hp->whose > atomic_load_explicit(&region->h->accounts, memory_order_acquire)
	    ? NULL
	    : &account_at(region, hp->whose - 1)->budget[kind - PURSE_DAY];
}

/* As hold_move: what was written before is there, for a reaper, and nothing later. */
static void
mark(struct hold_purse *hp, uint64_t seq, uint64_t state)
{
	atomic_store_explicit(&hp->state, seq << 8 | state, memory_order_release);
	atomic_signal_fence(memory_order_seq_cst);
}

/* Relaxed: asked by the one who alone stores it. */
static uint64_t
state_of(const struct hold_purse *hp)
{
	return atomic_load_explicit(&hp->state, memory_order_relaxed);
}

/* Rule "help", as in shm/word.h. */
static void
purse_help(const struct region *region, enum purse_kind kind, uint64_t tag)
{
	if (tag != 0 && TAG_SLOT(tag) < hold_count(region))
		tag_applied(&hold_at(region, TAG_SLOT(tag))->purse[kind].applied, TAG_SEQ(tag));
}

/* What to add to `used`: of a claim between least and change; 0: nothing can be done. */
static int64_t
change_now(const struct purse *p, int64_t packed, uint16_t window, int64_t change, int64_t least)
{
	int64_t used = used_in(packed, window), left = bound(p) - used;

	if (change < 0) /* what another window has taken the place of is nobody's any more */
		return ahead(packed, window) != 0 ? 0 : change < -used ? -used : change;
	if (ahead(packed, window) > 0 || left < least || left <= 0)
		return 0;
	return change < left ? change : left;
}

/*
 * One operation: `claimed` becomes base + delta.  base and delta are written before the CAS that
 * may put them into effect, so that whoever finds the slot can tell what was done.
 */
static void
move(const struct region *region, struct hold *h, enum purse_kind kind, struct purse *p,
    int64_t change, int64_t least)
{
	struct hold_purse *hp = &h->purse[kind];
	uint16_t window = (uint16_t)hp->window;
	struct account_word *word = &p->word[window & 1], old, new;
	uint64_t seq = (state_of(hp) >> 8) + 1;

	hp->base = hp->claimed;
	hp->delta = 0;
	mark(hp, seq, PURSE_MOVES);
	FAULT("purse.begun");
	new.tag = tag_of(hold_slot(region, h), seq);
	do {
		old = word_read_at(word);
		hp->delta = change_now(p, old.available, window, change, least);
		if (hp->delta == 0)
			break;
		new.available = pack(window, used_in(old.available, window) + hp->delta);
		purse_help(region, kind, old.tag);
	} while (!cas16(word, old, new));
	FAULT("purse.moved");
	/* Given back to a window that is gone: it is not claimed any more all the same. */
	hp->claimed = hp->base + (change < 0 ? change : hp->delta);
	mark(hp, seq, PURSE_RESTS);
	FAULT("purse.done");
}

void
purse_open(struct hold *h, enum purse_kind kind, uint32_t whose, uint16_t window)
{
	struct hold_purse *hp = &h->purse[kind];

	hp->claimed = 0;
	hp->window = window;
	atomic_signal_fence(memory_order_seq_cst);
	hp->whose = whose + 1;
}

bool
purse_claim(
    const struct region *region, struct hold *h, enum purse_kind kind, int64_t want, int64_t least)
{
	struct hold_purse *hp = &h->purse[kind];
	struct purse *p = purse_of(region, h, kind);

	if (p != NULL && want > hp->claimed)
		move(region, h, kind, p, want - hp->claimed, least - hp->claimed);
	return hp->claimed >= least;
}

int64_t
purse_claimed(const struct hold *h, enum purse_kind *which)
{
	int64_t claimed = INT64_MAX;

	for (enum purse_kind kind = 0; kind < PURSE_KINDS; kind++)
		if (h->purse[kind].whose != 0 && h->purse[kind].claimed < claimed) {
			claimed = h->purse[kind].claimed;
			*which = kind;
		}
	return claimed;
}

void
purse_keep(const struct region *region, struct hold *h, int64_t keep)
{
	for (enum purse_kind kind = 0; kind < PURSE_KINDS; kind++) {
		struct purse *p = purse_of(region, h, kind);

		if (p != NULL && keep >= 0 && keep < h->purse[kind].claimed)
			move(region, h, kind, p, keep - h->purse[kind].claimed, 0);
	}
}

void
purse_close(const struct region *region, struct hold *h, int64_t charged)
{
	purse_keep(region, h, charged);
	for (enum purse_kind kind = 0; kind < PURSE_KINDS; kind++) {
		if (h->purse[kind].whose == 0)
			continue;
		FAULT("purse.closing");
		h->purse[kind].whose = 0;
	}
	atomic_signal_fence(memory_order_seq_cst);
}

void
purse_reap(const struct region *region, struct hold *h)
{
	for (enum purse_kind kind = 0; kind < PURSE_KINDS; kind++) {
		struct hold_purse *hp = &h->purse[kind];
		struct purse *p = purse_of(region, h, kind);
		uint64_t state = state_of(hp), seq = state >> 8;
		bool took;

		if ((state & 0xff) != PURSE_MOVES)
			continue;
		if (p == NULL) {
			mark(hp, seq, PURSE_RESTS);
			continue;
		}
		/* The tag first, as in ledger_took.  Acquire, pairs with the CAS that replaced
		 * it. */
		took = __atomic_load_n(&p->word[hp->window & 1].tag, __ATOMIC_ACQUIRE) ==
		           tag_of(hold_slot(region, h), seq) ||
		       atomic_load_explicit(&hp->applied, memory_order_relaxed) >= seq;
		hp->claimed = hp->base + (took ? hp->delta : 0);
		mark(hp, seq, PURSE_RESTS);
	}
}
