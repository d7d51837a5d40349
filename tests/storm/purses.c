/*
 * The examiner's account of caps and budgets: what the journal's records come to, entered beside the
 * books and not by them, and against what was promised.
 */
#include "shm/account.h"
#include "shm/purse.h"
#include "tests/storm/examine.h"

/* A window takes the place of the one two before it; what comes late for that one is nothing. */
static void
spend(uint16_t *window, int64_t *spent, uint16_t of, int64_t amount)
{
	if (of < *window)
		return;
	if (of != *window)
		*spent = 0;
	*window = of;
	*spent += amount;
}

bool
purses_spend(const struct journal_entry *e, const struct told_stream *t, int64_t amount)
{
	struct told_account *a = &told->account[t->account];

	if (t->j_key != 0) {
		struct told_key *k = &told->key[t->j_key - 1];
		int w = t->j_key_window & 1;

		spend(&k->j_window[w], &k->j_used[w], t->j_key_window, amount);
		if (k->j_used[w] > k->cap || k->account != t->account)
			WRONG("record %" PRIu64 ": %lld is used of key %u's cap of %lld",
			    e->sequence, (long long)k->j_used[w], t->j_key - 1, (long long)k->cap);
	}
	for (unsigned i = 0; i < BUDGETS; i++) {
		uint16_t window = t->j_window[i], w = window & 1;

		if ((t->j_budgets & 1u << i) == 0)
			continue;
		spend(&a->j_budget[i].window[w], &a->j_budget[i].spent[w], window, amount);
		if (STORM_BUDGETED(t->account) &&
		    a->j_budget[i].spent[w] > STORM_BUDGET(t->account, i))
			WRONG("record %" PRIu64 ": account %u has spent %lld of its budget %u",
			    e->sequence, t->account, (long long)a->j_budget[i].spent[w], i);
	}
	return true;
}

bool
purses_enter(const struct journal_entry *e, struct told_stream *t)
{
	const struct journal_record *r = &e->record;
	uint64_t key_id = (uint64_t)r->completion << 32 | r->cached;

	if (key_id > atomic_load(&told->keys))
		WRONG("record %" PRIu64 ": there is no key %" PRIu64, e->sequence, key_id);
	t->j_key = (uint32_t)key_id;
	if (t->j_key != 0) {
		t->j_key_window = purse_window(told->key[key_id - 1].per, r->time_us);
		if ((t->j_key_window & 0xff) != r->outcome) /* midnight, again */
			t->j_key_window--;
		if ((t->j_key_window & 0xff) != r->outcome)
			WRONG("record %" PRIu64 ": its key's window is of another time",
			    e->sequence);
	}
	for (unsigned i = 0; i < BUDGETS; i++) {
		unsigned bits = JOURNAL_RESERVE_BUDGETS(r->extra) >> 4 * i;
		uint16_t window = purse_window(KEY_PER_DAY + i, r->time_us);

		if ((bits & 8) == 0)
			continue;
		/* Around midnight it may be the one before. */
		if ((window & 7) != (bits & 7))
			window--;
		if ((window & 7) != (bits & 7))
			WRONG("record %" PRIu64 ": in a window of another time", e->sequence);
		t->j_budgets |= (uint8_t)(1u << i);
		t->j_window[i] = window;
	}
	if (STORM_BUDGETED(t->account) && t->j_budgets != 3)
		WRONG("record %" PRIu64 ": account %u has budgets, the reserve is under %d",
		    e->sequence, t->account, t->j_budgets);
	return true;
}

/*
 * So much by the journal, in memory: the same, or nothing in a window after it, which was claimed
 * in and given back by somebody who could not reserve after all.  `window` may be one that was never
 * used; then it may be another place's.
 */
bool
purses_agree(const struct purse *p, unsigned place, uint16_t window, int64_t spent)
{
	uint64_t word = (uint64_t)p->word[place].available;
	uint16_t shown = (uint16_t)(word >> 48);
	int64_t used = (int64_t)(word & ((UINT64_C(1) << 48) - 1));

	if ((window & 1) != place)
		return used == 0;
	return used == (shown == window ? spent : 0) && (spent == 0 || shown >= window);
}

bool
purses_judge(const struct region *region, uint32_t account)
{
	const struct told_account *a = &told->account[account];

	for (unsigned i = 0; i < BUDGETS * 2; i++) {
		uint16_t window = a->j_budget[i / 2].window[i % 2];
		int64_t spent = a->j_budget[i / 2].spent[i % 2];
		const struct purse *p = &account_at(region, account)->budget[i / 2];

		if (!purses_agree(p, i % 2, window, spent))
			WRONG("account %u: %llx stands in budget %u, by the journal %lld in %x",
			    account, (unsigned long long)p->word[i % 2].available, i / 2,
			    (long long)spent, window);
	}
	return true;
}
