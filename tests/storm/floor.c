/*
 * The storm's guard of the floor: a process that looks at every account all the while.
 */
#include <poll.h>

#include "shm/account.h"
#include "shm/clock.h"
#include "shm/purse.h"
#include "tests/storm/told.h"

static void
look_at_budgets(uint32_t number, const struct account *a)
{
	uint64_t now_us = realtime_us();

	for (unsigned i = 0; i < BUDGETS; i++) {
		const struct purse *b = &a->budget[i];
		int64_t used = purse_used(b, purse_window(KEY_PER_DAY + i, now_us));

		if (purse_cap(b) != 0 && used > purse_cap(b))
			storm_fail("account %u: %lld is used of its budget of %lld", number,
			    (long long)used, (long long)purse_cap(b));
	}
}

static void
look_at_keys(const struct region *region)
{
	/* Acquire, pairs with the keeper's insert. */
	uint32_t n = atomic_load_explicit(&region->h->keys, memory_order_acquire);

	for (uint32_t i = 0; i < n; i++) {
		const struct purse *p = &key_at(region, i)->purse;
		int64_t used = purse_used(p, purse_window(p->per, realtime_us()));

		if (p->per != KEY_PER_NONE && used > p->cap)
			storm_fail("key %u: %lld is used of its cap of %lld", i, (long long)used,
			    (long long)p->cap);
	}
}

/* The invariant's guard: the floor, at every instant; and caps and budgets. */
void
player_checker(struct heritage *h)
{
	struct region *region = &h->region;

	while (!atomic_load(&told->failed)) {
		/* Acquire, pairs with the keeper's insert. */
		uint32_t n = atomic_load_explicit(&region->h->accounts, memory_order_acquire);

		for (uint32_t i = 0; i < n; i++) {
			struct account *a = account_at(region, i);
			struct account_books books;
			int64_t available = account_available(a);

			account_books(a, &books);
			if ((atomic_load(&a->flags) & ACCOUNT_CLOSED) != 0 &&
			    !atomic_load(&told->account[i].closing))
				storm_fail("account %u is closed by nobody", i);
			if ((atomic_load(&a->flags) & ACCOUNT_FROZEN) != 0)
				storm_fail("account %u has flags %x: a record was refused", i,
				    atomic_load(&a->flags));
			if (STORM_BUDGETED(i))
				look_at_budgets(i, a);
			if (STORM_ADJUSTED(i))
				continue;
			if (available < 0)
				storm_fail("account %u: available is %lld", i,
				    (long long)available);
			if (books.balance - books.held < -books.overdraft)
				storm_fail("account %u: balance %lld, held %lld, overdraft %lld: "
				    "below the floor", i, (long long)books.balance,
				    (long long)books.held, (long long)books.overdraft);
		}
		look_at_keys(region);
		atomic_fetch_add(&told->looks, 1);
		(void)poll(NULL, 0, storm_draw(&(uint64_t){atomic_load(&told->looks)}, 8) == 0);
	}
}
