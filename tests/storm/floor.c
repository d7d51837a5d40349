/*
 * The storm's guard of the floor: a process that looks at every account all the while.
 */
#include <poll.h>

#include "shm/account.h"
#include "tests/storm/told.h"

/* The invariant's guard: the floor, at every instant. */
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
		atomic_fetch_add(&told->looks, 1);
		(void)poll(NULL, 0, storm_draw(&(uint64_t){atomic_load(&told->looks)}, 8) == 0);
	}
}
