/*
 * Keys' purses.  Workers, and the master for a dead one.
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

void
purse_set(struct purse *p, uint16_t window, int64_t used)
{
	if (used > 0)
		p->word[window & 1].available = pack(window, used < PURSE_MAX ? used : PURSE_MAX);
}

int64_t
purse_used(const struct purse *p, uint16_t window)
{
	/* Relaxed: one word of a value that may change at any time anyway. */
	return used_in(__atomic_load_n(&p->word[window & 1].available, __ATOMIC_RELAXED), window);
}

int64_t
purse_left(const struct purse *p, uint16_t window)
{
	int64_t packed = __atomic_load_n(&p->word[window & 1].available, __ATOMIC_RELAXED);
	int64_t used = used_in(packed, window);

	return ahead(packed, window) > 0 || used >= p->cap ? 0 : p->cap - used;
}

static struct purse *
purse_of(const struct region *region, const struct hold *h)
{
	/* Acquire, pairs with the keeper's insert.  No number in a slot is believed. */
	if (h->purse.key == 0 ||
	    h->purse.key > atomic_load_explicit(&region->h->keys, memory_order_acquire))
		return NULL;
	return &key_at(region, h->purse.key - 1)->purse;
}

/* As hold_move: what was written before is there, for a reaper, and nothing later. */
static void
mark(struct hold *h, uint64_t seq, uint64_t state)
{
	atomic_store_explicit(&h->purse.state, seq << 8 | state, memory_order_release);
	atomic_signal_fence(memory_order_seq_cst);
}

/* Relaxed: asked by the one who alone stores it. */
static uint64_t
state_of(const struct hold *h)
{
	return atomic_load_explicit(&h->purse.state, memory_order_relaxed);
}

/* Rule "help", as in shm/word.h. */
static void
purse_help(const struct region *region, uint64_t tag)
{
	if (tag != 0 && TAG_SLOT(tag) < hold_count(region))
		tag_applied(&hold_at(region, TAG_SLOT(tag))->purse.applied, TAG_SEQ(tag));
}

/* What to add to `used`: of a claim between least and change; 0: nothing can be done. */
static int64_t
change_now(const struct purse *p, int64_t packed, uint16_t window, int64_t change, int64_t least)
{
	int64_t used = used_in(packed, window), left = p->cap - used;

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
move(const struct region *region, struct hold *h, struct purse *p, int64_t change, int64_t least)
{
	uint16_t window = (uint16_t)h->purse.window;
	struct account_word *word = &p->word[window & 1], old, new;
	uint64_t seq = (state_of(h) >> 8) + 1;

	h->purse.base = h->purse.claimed;
	h->purse.delta = 0;
	mark(h, seq, PURSE_MOVES);
	FAULT("purse.begun");
	new.tag = tag_of(hold_slot(region, h), seq);
	do {
		old = word_read_at(word);
		h->purse.delta = change_now(p, old.available, window, change, least);
		if (h->purse.delta == 0)
			break;
		new.available = pack(window, used_in(old.available, window) + h->purse.delta);
		purse_help(region, old.tag);
	} while (!cas16(word, old, new));
	FAULT("purse.moved");
	/* Given back to a window that is gone: it is not claimed any more all the same. */
	h->purse.claimed = h->purse.base + (change < 0 ? change : h->purse.delta);
	mark(h, seq, PURSE_RESTS);
	FAULT("purse.done");
}

void
purse_open(
    const struct region *region, struct hold *h, const struct key_entry *key, uint64_t reserved_us)
{
	h->purse.claimed = 0;
	h->purse.window = purse_window(key->purse.per, reserved_us);
	atomic_signal_fence(memory_order_seq_cst);
	h->purse.key = key_number(region, key) + 1;
}

bool
purse_claim(const struct region *region, struct hold *h, int64_t want, int64_t least)
{
	struct purse *p = purse_of(region, h);

	if (p != NULL && want > h->purse.claimed)
		move(region, h, p, want - h->purse.claimed, least - h->purse.claimed);
	return h->purse.claimed >= least;
}

void
purse_keep(const struct region *region, struct hold *h, int64_t keep)
{
	struct purse *p = purse_of(region, h);

	if (p != NULL && keep >= 0 && keep < h->purse.claimed)
		move(region, h, p, keep - h->purse.claimed, 0);
}

void
purse_close(const struct region *region, struct hold *h, int64_t charged)
{
	if (h->purse.key == 0)
		return;
	purse_keep(region, h, charged);
	FAULT("purse.closing");
	h->purse.key = 0;
	atomic_signal_fence(memory_order_seq_cst);
}

void
purse_reap(const struct region *region, struct hold *h)
{
	struct purse *p = purse_of(region, h);
	uint64_t state = state_of(h), seq = state >> 8;
	bool took;

	if ((state & 0xff) != PURSE_MOVES)
		return;
	if (p == NULL) {
		mark(h, seq, PURSE_RESTS);
		return;
	}
	/* The tag first, as in ledger_took.  Acquire, pairs with the CAS that replaced it. */
	took = __atomic_load_n(&p->word[h->purse.window & 1].tag, __ATOMIC_ACQUIRE) ==
	           tag_of(hold_slot(region, h), seq) ||
	       atomic_load_explicit(&h->purse.applied, memory_order_relaxed) >= seq;
	h->purse.claimed = h->purse.base + (took ? h->purse.delta : 0);
	mark(h, seq, PURSE_RESTS);
}
