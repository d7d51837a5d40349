/*
 * Keys' caps and accounts' budgets in the books: what is charged and held under each, by window.
 * Keeper (and admin, for an audit).
 *
 * What memory claimed (shm/purse.h) is never less than what is used here: it claims before a record
 * is pushed, and gives back after one is durable.  So a record that would pass a cap is forged; but
 * for an operator's change of a budget, which memory learns after its record is durable.  Until it
 * has, and for a while after, the former one is good as well.
 */
#include "daemon/books_private.h"
#include "shm/account.h"
#include "shm/purse.h"

/* How long a former budget is good after memory is known to have the new one: for records that were
 * granted before and are still on their way, as with an overdraft's slack (books_check.c). */
#define FORMER_US UINT64_C(10000000)

static uint64_t
capped_id(const struct journal_record *r)
{
	return (uint64_t)r->completion << 32 | r->cached;
}

/* The cap of a reserve's key; NULL if there is no such key, or it has none. */
static struct books_key *
capped_by(const struct books *b, uint64_t key_id)
{
	uint32_t index = books_key_find(b, key_id);
	struct books_key *k;

	if (index == JOURNAL_NONE)
		return NULL;
	k = (struct books_key *)b->keys.data + index;
	return k->per == KEY_PER_NONE ? NULL : k;
}

/*
 * The window that ends with these bits: the record's own or, around midnight, the next to it.  One
 * of another time would take the place of one that is in use.
 */
static bool
window_of(uint32_t per, uint64_t time_us, unsigned last, unsigned bits, uint16_t *window)
{
	uint16_t now = purse_window(per, time_us);
	unsigned off = (last - now) & ((1u << bits) - 1); /* -1, 0 or 1 in so many bits */

	*window = (uint16_t)(off <= 1 ? now + off : now - 1u);
	return off <= 1 || off == (1u << bits) - 1;
}

static bool
cap_window(const struct books_key *k, const struct journal_record *r, uint16_t *window)
{
	return window_of(k->per, r->time_us, r->outcome, 8, window);
}

/* Of a reserve: is it under this budget, and in which window?  *sound: can there be such a one? */
static bool
budget_window(const struct journal_record *r, unsigned which, uint16_t *window, bool *sound)
{
	unsigned of = JOURNAL_RESERVE_BUDGETS(r->extra) >> 4 * which;

	*sound = window_of(KEY_PER_DAY + which, r->time_us, of & 7u, 3, window);
	return (of & 8u) != 0;
}

/* What is used in a window; false if one after it has taken its place. */
static bool
used_in(const struct books_used *s, uint16_t window, int64_t *used)
{
	bool none = s->used[window & 1] == 0;
	int16_t ahead = none ? 0 : (int16_t)(uint16_t)(s->window[window & 1] - window);

	*used = ahead == 0 ? s->used[window & 1] : 0;
	return ahead <= 0;
}

static void
use(struct books_used *s, uint16_t window, int64_t amount)
{
	int64_t used;

	if (amount == 0 || !used_in(s, window, &used))
		return;
	if (__builtin_add_overflow(used, amount, &used))
		used = amount > 0 ? INT64_MAX : 0;
	s->window[window & 1] = window;
	s->used[window & 1] = used < 0 ? 0 : used;
}

int
books_caps_open(struct books *b, struct books_hold *h, const struct journal_record *r)
{
	const struct books_key *k;
	bool sound;

	h->key_id = capped_id(r);
	if (h->key_id != 0 &&
	    ((k = capped_by(b, h->key_id)) == NULL || !cap_window(k, r, &h->window)))
		return -1;
	h->budgets = 0;
	for (unsigned i = 0; i < BUDGETS; i++) {
		if (!budget_window(r, i, &h->budget_window[i], &sound))
			continue;
		if (!sound)
			return -1;
		h->budgets |= (uint8_t)(1u << i);
	}
	return 0;
}

int
books_caps_use(struct books *b, struct books_account *a, const struct books_hold *h, int64_t amount)
{
	struct books_key *k;

	if (amount == 0)
		return 0;
	k = h->key_id == 0 ? NULL : capped_by(b, h->key_id);
	if (h->key_id != 0 && k == NULL)
		return -1;
	if (k != NULL) {
		use(&k->spent, h->window, amount);
		books_key_changed(b, (uint32_t)(k - (struct books_key *)b->keys.data));
	}
	for (unsigned i = 0; i < BUDGETS; i++)
		if (h->budgets & 1u << i)
			use(&a->budget[i].spent, h->budget_window[i], amount);
	return 0;
}

/* Is the former one good no more, for a record of that time? */
static bool
former_ended(const struct books_budget *g, uint64_t time_us)
{
	return g->pending == 0 && (g->ending_us == 0 || (time_us > g->ending_us &&
	                                                    time_us - g->ending_us > FORMER_US));
}

/* The most that may be used under a budget. */
static int64_t
most(int64_t cap)
{
	return cap != 0 ? cap : PURSE_MAX;
}

static bool
within(const struct books_budget *g, uint16_t window, const struct journal_record *r)
{
	int64_t used, cap = most(g->cap);

	if (!former_ended(g, r->time_us) && g->former > cap)
		cap = g->former;
	return !used_in(&g->spent, window, &used) || used + r->amount <= cap;
}

const char *
books_caps_reserve(
    const struct books *b, const struct books_account *a, const struct journal_record *r)
{
	uint64_t id = capped_id(r);
	const struct books_key *k = id == 0 ? NULL : capped_by(b, id);
	uint16_t window;
	int64_t used;
	bool sound;

	if (id != 0 && (k == NULL || !cap_window(k, r, &window) ||
	                   !used_in(&k->spent, window, &used) || used + r->amount > k->cap))
		return "the key's cap would be passed";
	for (unsigned i = 0; i < BUDGETS; i++)
		if (budget_window(r, i, &window, &sound) &&
		    (!sound || !used_in(&a->budget[i].spent, window, &used) ||
		        !within(&a->budget[i], window, r)))
			return "the account's budget would be passed";
	return NULL;
}

const char *
books_caps_extend(const struct books *b, const struct books_hold *h, const struct journal_record *r)
{
	const struct books_key *k = h->key_id == 0 ? NULL : capped_by(b, h->key_id);
	const struct books_account *a = books_account(b, h->account);
	int64_t used;

	if (k != NULL && used_in(&k->spent, h->window, &used) && used + r->amount > k->cap)
		return "the key's cap would be passed";
	for (unsigned i = 0; i < BUDGETS; i++)
		if ((h->budgets & 1u << i) != 0 && !within(&a->budget[i], h->budget_window[i], r))
			return "the account's budget would be passed";
	return NULL;
}

bool
books_budgets_ok(const struct journal_budgets *set, uint32_t what)
{
	for (unsigned i = 0; i < BUDGETS; i++)
		if ((what & JOURNAL_SET_BUDGET(i)) != 0 &&
		    (set->cap[i] < 0 || set->cap[i] > PURSE_MAX))
			return false;
	return true;
}

void
books_budgets_set(struct books_account *a, struct books_hold *h, const struct journal_budgets *set,
    uint32_t what, uint64_t time_us)
{
	for (unsigned i = 0; i < BUDGETS; i++) {
		struct books_budget *g = &a->budget[i];

		if ((what & JOURNAL_SET_BUDGET(i)) == 0)
			continue;
		if (former_ended(g, time_us) || most(g->cap) > g->former)
			g->former = most(g->cap);
		g->cap = set->cap[i];
		g->pending++;
		h->budgets_set |= (uint8_t)(1u << i);
	}
}

void
books_budgets_shown(struct books_account *a, struct books_hold *h, uint64_t time_us)
{
	for (unsigned i = 0; i < BUDGETS; i++) {
		if ((h->budgets_set & 1u << i) == 0)
			continue;
		a->budget[i].pending--;
		if (time_us > a->budget[i].ending_us)
			a->budget[i].ending_us = time_us;
	}
	h->budgets_set = 0;
}
