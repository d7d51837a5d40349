/*
 * Goal:   what a process may bring into the journal, and what not: no record can make money,
 *         and what a correct process sends is never refused.
 * Method: enter each type of record into empty books and compare them; then the same with one
 *         thing wrong each, which must be refused and change nothing.
 * objs: daemon/books.o daemon/books_refs.o daemon/books_apply.o daemon/books_caps.o daemon/books_check.o tests/unit/records.o daemon/journal.o daemon/journal_file.o daemon/journal_compact.o daemon/journal_chain.o daemon/journal_read.o daemon/buf.o daemon/log.o daemon/utf8.o shm/money.o shm/account.o shm/region.o shm/ring.o shm/hold.o shm/ledger.o shm/seat.o daemon/books_rows.o shm/purse.o daemon/journal_history.o daemon/journal_receipts.o
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/books_rows.h"
#include "shm/account.h"
#include "tests/unit/records.h"

#define SLOT 5

static struct books *b;
static uint64_t sequence;

static struct books_verdict
enter(struct rec rec)
{
	return rec_enter(b, &rec, &sequence);
}

static void
stored(struct rec rec)
{
	struct books_verdict v = enter(rec);

	if (v.contradicts != NULL)
		print_error("%s\n", v.contradicts);
	assert_int_equal(v.status, RING_APPLIED);
	assert_true(v.store);
}

/* Not stored, with this status, and the books are as before. */
static struct books_verdict
turned_away(struct rec rec, enum ring_status status)
{
	struct books_account before = *books_account(b, 0);
	uint64_t was = sequence;
	struct books_verdict v = enter(rec);

	assert_int_equal(v.status, status);
	assert_false(v.store);
	assert_int_equal(was, sequence);
	assert_memory_equal(&before, books_account(b, 0), sizeof before);
	assert_true((status == RING_REFUSED) == (v.contradicts != NULL));
	return v;
}

static struct rec
later(struct rec rec, unsigned seconds)
{
	rec.r.time_us += seconds * UINT64_C(1000000);
	return rec;
}

/* Account 0 with 1,000 and an overdraft of 200, account 1 with nothing, one price. */
static int
setup(void **state)
{
	(void)state;
	b = books_new();
	sequence = 0;
	stored(rec_account(0, "alice", 200));
	stored(rec_account(1, "bob", 0));
	stored(rec_price_of(0, "model", &rec_price));
	stored(rec_credit(JOURNAL_TOPUP, 0, 1, 0, 1000, "first"));
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	books_free(b);
	return 0;
}

static void
money(int64_t balance, int64_t held)
{
	const struct books_account *a = books_account(b, 0);

	assert_int_equal(a->balance, balance);
	assert_int_equal(a->held, held);
	assert_int_equal(a->balance, a->topups + a->adjustments - a->charged);
}

static void
a_hold_lives_and_is_charged(void **state)
{
	(void)state;
	/* 10 prompt tokens cost 15; 30 completion tokens 90. */
	stored(rec_reserve(SLOT, 1, 0, 105, 10, 1));
	money(1000, 105);
	stored(rec_mark(SLOT, 1, 0, 20, "twenty"));
	assert_int_equal(books_hold(b, SLOT)->mark, 20);
	stored(rec_extend(SLOT, 2, 0, 30, 135, 30, "ten more"));
	money(1000, 135);
	assert_int_equal(books_hold(b, SLOT)->mark, 30);
	stored(rec_settle(SLOT, 3, 0, 10, 35, ""));
	money(1000 - 120, 0);
	assert_false(books_hold(b, SLOT)->open);
	stored(rec_reserve(SLOT, 4, 0, 105, 10, 1));
	stored(rec_void(SLOT, 5, 0));
	money(880, 0);
}

static void
reserves_and_extends_stop_at_the_floor(void **state)
{
	(void)state;
	turned_away(rec_reserve(SLOT, 1, 0, 1201, 10, 1), RING_REFUSED);
	turned_away(rec_reserve(SLOT, 1, 0, INT64_MAX, 10, 1), RING_REFUSED);
	stored(rec_reserve(SLOT, 1, 0, 1100, 10, 1));
	turned_away(rec_reserve(SLOT + 1, 1, 0, 101, 10, 1), RING_REFUSED);
	turned_away(rec_extend(SLOT, 2, 0, 101, 1201, 0, ""), RING_REFUSED);
	stored(rec_extend(SLOT, 2, 0, 100, 1200, 0, ""));
	money(1000, 1200);
}

/* A reserve under key 42's cap, in the window that ends with these bits, at this day's noon. */
static struct rec
under_cap(uint32_t slot, uint64_t op, int64_t amount, uint8_t window, uint64_t day)
{
	struct rec rec = rec_reserve(slot, op, 0, amount, 10, 1);

	rec.r.cached = 42;
	rec.r.outcome = window;
	rec.r.time_us = (day * 86400 + 43200) * 1000000;
	return rec;
}

static void
a_cap_is_never_passed(void **state)
{
	const struct books_key *k;
	struct books_row row;
	struct rec rec;

	(void)state;
	turned_away(under_cap(SLOT, 1, 1, 0, 0), RING_REFUSED); /* there is no such key */
	rec = rec_key(0, 42, "");
	rec.r.amount = 300;
	rec.r.prompt = KEY_PER_DAY;
	stored(rec);
	stored(rec_key(0, 43, "no cap"));
	rec = under_cap(SLOT, 1, 1, 0, 0);
	rec.r.cached = 43;
	turned_away(rec, RING_REFUSED);
	k = books_key(b, books_key_find(b, 42));
	turned_away(under_cap(SLOT, 1, 301, 1000 % 256, 1000), RING_REFUSED);
	turned_away(under_cap(SLOT, 1, 1, 1002 % 256, 1000), RING_REFUSED);
	turned_away(under_cap(SLOT, 1, 1, 998 % 256, 1000), RING_REFUSED);
	stored(under_cap(SLOT, 1, 105, 1000 % 256, 1000));
	turned_away(under_cap(SLOT + 1, 1, 196, 1000 % 256, 1000), RING_REFUSED);
	stored(under_cap(SLOT + 1, 1, 195, 1000 % 256, 1000));
	assert_int_equal(k->spent.used[0], 300);
	turned_away(rec_extend(SLOT, 2, 0, 1, 106, 0, ""), RING_REFUSED);
	/* Another day's, by a record that was written just before or after midnight. */
	stored(under_cap(SLOT + 2, 1, 300, 1001 % 256, 1000));
	assert_int_equal(k->spent.window[1], 1001);
	turned_away(under_cap(SLOT + 3, 1, 1, 1001 % 256, 1001), RING_REFUSED);
	/* A void and a charge give back to the day that they were taken from. */
	stored(rec_void(SLOT + 1, 2, 0));
	assert_int_equal(k->spent.used[0], 105);
	stored(rec_extend(SLOT, 2, 0, 30, 135, 30, ""));
	stored(rec_settle(SLOT, 3, 0, 10, 35, ""));
	assert_int_equal(k->spent.used[0], 120);
	assert_int_equal(k->spent.used[1], 300);
	/* Two days later its place is another day's: what ends then concerns nobody. */
	stored(under_cap(SLOT, 4, 10, 1003 % 256, 1003));
	assert_int_equal(k->spent.used[1], 10);
	stored(rec_void(SLOT + 2, 2, 0));
	assert_int_equal(k->spent.used[1], 10);
	turned_away(under_cap(SLOT + 2, 3, 1, 1001 % 256, 1001), RING_REFUSED);
	/* Both rows say all of it. */
	books_row_make(b, ROWS_KEYS, books_key_find(b, 42), &row);
	assert_int_equal(row.fixed.key.used[0], 120);
	assert_int_equal(row.fixed.key.window[1], 1003);
	books_row_make(b, ROWS_HOLDS, SLOT, &row);
	assert_int_equal(row.fixed.hold.key_id, 42);
	assert_int_equal(row.fixed.hold.window, 1003);
}

/* A reserve under both budgets of account 0, at this day's noon. */
static struct rec
under_budgets(uint32_t slot, uint64_t op, int64_t amount, uint64_t day)
{
	struct rec rec = rec_reserve(slot, op, 0, amount, 10, 1);

	rec.r.time_us = (day * 86400 + 43200) * 1000000;
	return rec_under(rec, 3);
}

/* Days 1,002 and 1,003 are the last ones of a month, the 32nd. */
static void
a_budget_is_never_passed(void **state)
{
	const struct books_budget *day, *month;
	struct books_row row;
	struct rec rec;

	(void)state;
	rec = rec_budgets(0, 2, 0, JOURNAL_SET_BUDGETS, 300, 500);
	rec.r.time_us = UINT64_C(900) * 86400 * 1000000;
	stored(rec);
	day = &books_account(b, 0)->budget[BUDGET_DAY];
	month = &books_account(b, 0)->budget[BUDGET_MONTH];
	rec = rec_credit(JOURNAL_TOPUP, 0, 3, 0, 1000, "more"); /* that it had none is over */
	rec.r.time_us = UINT64_C(901) * 86400 * 1000000;
	stored(rec);
	turned_away(under_budgets(SLOT, 1, 301, 1002), RING_REFUSED);
	stored(under_budgets(SLOT, 1, 105, 1002));
	turned_away(under_budgets(SLOT + 1, 1, 196, 1002), RING_REFUSED);
	stored(under_budgets(SLOT + 1, 1, 195, 1002));
	assert_int_equal(day->spent.used[0], 300);
	assert_int_equal(month->spent.used[0], 300);
	assert_int_equal(month->spent.window[0], 32);
	rec = rec_extend(SLOT, 2, 0, 1, 106, 0, "");
	rec.r.time_us = UINT64_C(1002) * 86400 * 1000000;
	turned_away(rec, RING_REFUSED);
	/* Of a window of another time; by a record from just before or after midnight it is not. */
	rec = under_budgets(SLOT + 2, 1, 1, 1002);
	rec.r.extra = JOURNAL_RESERVE_EXTRA(0, JOURNAL_BUDGET(BUDGET_DAY, 1004));
	turned_away(rec, RING_REFUSED);
	rec.r.extra = JOURNAL_RESERVE_EXTRA(0, JOURNAL_BUDGET(BUDGET_DAY, 1000));
	turned_away(rec, RING_REFUSED);
	rec.r.extra = JOURNAL_RESERVE_EXTRA(0, JOURNAL_BUDGET(BUDGET_DAY, 1003));
	stored(rec);
	assert_int_equal(day->spent.used[1], 1);
	/* The month's binds, whatever the day has left. */
	turned_away(under_budgets(SLOT + 3, 1, 201, 1003), RING_REFUSED);
	stored(under_budgets(SLOT + 3, 1, 200, 1003));
	/* A void and a charge give back to where they were taken from. */
	stored(rec_void(SLOT + 1, 2, 0));
	stored(rec_settle(SLOT, 2, 0, 10, 2, ""));
	assert_int_equal(day->spent.used[0], price_cost(&rec_price, 10, 0, 2));
	assert_int_equal(day->spent.used[1], 201);
	/* Both rows say all of it. */
	books_row_make(b, ROWS_ACCOUNTS, 0, &row);
	assert_int_equal(row.fixed.account.budget[BUDGET_DAY].cap, 300);
	assert_int_equal(row.fixed.account.budget[BUDGET_DAY].used[1], 201);
	assert_int_equal(row.fixed.account.budget[BUDGET_DAY].window[1], 1003);
	books_row_make(b, ROWS_HOLDS, SLOT + 3, &row);
	assert_int_equal(row.fixed.hold.budgets, 3);
	assert_int_equal(row.fixed.hold.budget_window[BUDGET_DAY], 1003);
	/* Bad ones. */
	turned_away(rec_budgets(0, 4, 0, JOURNAL_SET_DAY, -1, 0), RING_RANGE);
	turned_away(rec_budgets(0, 5, 0, JOURNAL_SET_MONTH, 0, PURSE_MAX + 1), RING_RANGE);
	rec = rec_budgets(0, 6, 0, JOURNAL_SET_MONTH, 0, 1);
	rec.r.payload_len -= 4;
	turned_away(rec, RING_REFUSED);
	/* Taken away: who is under it goes on. */
	stored(rec_budgets(0, 6, 0, JOURNAL_SET_BUDGETS, 0, 0));
	stored(rec_extend(SLOT + 3, 2, 0, 700, 900, 0, ""));
	assert_int_equal(day->spent.used[1], 901);
}

/* Who claimed before memory had the new one comes later: seconds, if the disk is slow. */
static void
a_lowered_budget_makes_no_forger_of_anybody(void **state)
{
	struct rec rec;

	(void)state;
	stored(rec_budgets(0, 2, 0, JOURNAL_SET_DAY, 300, 0));
	stored(rec_credit(JOURNAL_TOPUP, 0, 3, 0, 1000, "second"));
	rec = rec_budgets(0, 4, 0, JOURNAL_SET_DAY, 100, 0);
	stored(later(rec, 60));
	turned_away(later(rec_under(rec_reserve(SLOT, 1, 0, 301, 10, 1), 1), 120), RING_REFUSED);
	stored(later(rec_under(rec_reserve(SLOT, 1, 0, 200, 10, 1), 1), 120));
	/* Once more, for less. */
	rec = rec_budgets(1, 1, 0, JOURNAL_SET_DAY, 50, 0);
	stored(later(rec, 130));
	stored(later(rec_extend(SLOT, 2, 0, 50, 250, 0, ""), 140));
	/* Both slots' next operations: memory has it, for ten seconds it may not be seen yet. */
	stored(later(rec_credit(JOURNAL_TOPUP, 0, 5, 0, 1000, "third"), 150));
	stored(later(rec_extend(SLOT, 3, 0, 10, 260, 0, ""), 200));
	stored(later(rec_credit(JOURNAL_TOPUP, 1, 2, 0, 1000, "fourth"), 210));
	stored(later(rec_extend(SLOT, 4, 0, 10, 270, 0, ""), 219));
	turned_away(later(rec_extend(SLOT, 5, 0, 10, 280, 0, ""), 221), RING_REFUSED);
	/* Raised, it is good at once. */
	stored(later(rec_budgets(0, 6, 0, JOURNAL_SET_DAY, 280, 0), 222));
	stored(later(rec_extend(SLOT, 5, 0, 10, 280, 0, ""), 222));
}

static void
forged_reserves_are_refused(void **state)
{
	struct rec rec;

	(void)state;
	stored(rec_reserve(SLOT, 1, 0, 100, 10, 1));
	turned_away(rec_reserve(SLOT, 2, 0, 100, 10, 1), RING_REFUSED); /* open already */
	turned_away(rec_reserve(SLOT + 1, 1, 2, 100, 10, 1), RING_REFUSED); /* no such account */
	turned_away(rec_reserve(SLOT + 1, 1, 0, -1, 10, 1), RING_REFUSED);
	turned_away(rec_reserve(1000, 1, 0, 100, 10, 1), RING_REFUSED); /* not its slot */
	turned_away(rec_reserve(SLOT + 1, 0, 0, 100, 10, 1), RING_REFUSED);
	turned_away(rec_reserve(SLOT + 1, UINT64_C(1) << 44, 0, 100, 10, 1), RING_REFUSED);
	rec = rec_reserve(SLOT + 1, 1, 0, 100, 10, 1);
	rec.r.price = 1;
	turned_away(rec, RING_REFUSED);
	rec = rec_reserve(SLOT + 1, 1, 0, 100, 10, 1);
	rec.r.payload_len = sizeof(struct journal_reserve) - 1;
	turned_away(rec, RING_REFUSED);
	rec.r.payload_len = sizeof(struct journal_reserve) + 1; /* the model has 5 letters */
	turned_away(rec, RING_REFUSED);
	rec = rec_reserve(SLOT + 1, 1, 0, 100, 10, 1);
	rec.r.version = 2;
	turned_away(rec, RING_REFUSED);
}

static void
forged_steps_of_a_hold_are_refused(void **state)
{
	struct rec rec;

	(void)state;
	turned_away(rec_extend(SLOT, 1, 0, 10, 10, 0, ""), RING_REFUSED); /* not open */
	turned_away(rec_mark(SLOT, 1, 0, 1, ""), RING_REFUSED);
	turned_away(rec_settle(SLOT, 1, 0, 1, 1, ""), RING_REFUSED);
	stored(rec_reserve(SLOT, 1, 0, 105, 10, 1));
	turned_away(rec_extend(SLOT, 2, 1, 10, 115, 0, ""), RING_REFUSED); /* other account */
	turned_away(rec_extend(SLOT, 2, 0, 10, 116, 0, ""), RING_REFUSED); /* not the sum */
	turned_away(rec_extend(SLOT, 2, 0, 0, 105, 0, ""), RING_REFUSED);
	turned_away(rec_extend(SLOT, 2, 0, -5, 100, 0, ""), RING_REFUSED);
	turned_away(rec_extend(SLOT, 2, 0, INT64_MAX, 104, 0, ""), RING_REFUSED);
	turned_away(rec_extend(SLOT, 2, 0, 30, 135, 31, ""), RING_REFUSED); /* unpaid tokens */
	turned_away(rec_mark(SLOT, 1, 0, 31, ""), RING_REFUSED);
	turned_away(rec_settle(SLOT, 2, 0, 10, 31, ""), RING_REFUSED); /* above the hold */
	rec = rec_settle(SLOT, 2, 0, 10, 20, "");
	rec.r.amount--; /* cheaper than it is */
	turned_away(rec, RING_REFUSED);
	rec.r.extra = 1; /* uncollected, though the hold has it */
	turned_away(rec, RING_REFUSED);
	rec.r.extra = -1;
	rec.r.amount += 2;
	turned_away(rec, RING_REFUSED);
	rec = rec_settle(SLOT, 2, 0, 10, 20, "");
	rec.r.amount = -rec.r.amount;
	turned_away(rec, RING_REFUSED);
	rec = rec_settle(SLOT, 2, 0, 10, 20, "");
	rec.r.outcome = OUTCOME_MAX;
	turned_away(rec, RING_REFUSED);
	rec = rec_void(SLOT, 2, 0);
	rec.r.amount = 1;
	turned_away(rec, RING_REFUSED);
	/* A hold's slot. */
	turned_away(rec_credit(JOURNAL_TOPUP, SLOT, 2, 0, 10, ""), RING_REFUSED);
	money(1000, 105);
}

static void
a_contradiction_names_the_account_that_it_concerns(void **state)
{
	(void)state;
	stored(rec_reserve(SLOT, 1, 0, 105, 10, 1));
	/* It names bob, but the hold is alice's. */
	assert_int_equal(turned_away(rec_settle(SLOT, 2, 1, 10, 1, ""), RING_REFUSED).freeze, 0);
	assert_int_equal(turned_away(rec_reserve(7, 1, 1, 1, 0, 1), RING_REFUSED).freeze, 1);
	assert_int_equal(turned_away(rec_reserve(7, 1, 9, 1, 0, 1), RING_REFUSED).freeze,
	    JOURNAL_NONE);
}

static void
what_the_floor_forbids_to_charge_is_uncollected(void **state)
{
	struct rec rec = rec_settle(SLOT, 2, 0, 10, 50, "");

	(void)state;
	stored(rec_reserve(SLOT, 1, 0, 105, 10, 1));
	rec.r.extra = rec.r.amount - 105;
	rec.r.amount = 105;
	stored(rec);
	money(895, 0);
}

static void
repetitions_change_nothing(void **state)
{
	struct books_verdict v;

	(void)state;
	stored(rec_reserve(SLOT, 1, 0, 105, 10, 1));
	turned_away(rec_reserve(SLOT, 1, 0, 105, 10, 1), RING_APPLIED);
	stored(rec_settle(SLOT, 2, 0, 10, 20, ""));
	turned_away(rec_settle(SLOT, 2, 0, 10, 20, ""), RING_APPLIED);
	/* Older, or as something else: nobody repeats that. */
	turned_away(rec_reserve(SLOT, 1, 0, 105, 10, 1), RING_REFUSED);
	turned_away(rec_void(SLOT, 2, 0), RING_REFUSED);
	stored(rec_credit(JOURNAL_TOPUP, 0, 2, 0, 50, ""));
	v = turned_away(rec_credit(JOURNAL_TOPUP, 0, 2, 0, 50, ""), RING_APPLIED);
	assert_int_equal(v.value, 1000 - 75 + 50);
	/* Also of what was turned away. */
	books_answer(b, SLOT, 3, JOURNAL_SETTLE, RING_REFUSED, 0);
	assert_int_equal(enter(rec_settle(SLOT, 3, 0, 10, 20, "")).status, RING_REFUSED);
	assert_null(enter(rec_settle(SLOT, 3, 0, 10, 20, "")).contradicts);
}

static void
a_void_of_nothing_is_no_record(void **state)
{
	(void)state;
	turned_away(rec_void(SLOT, 1, 0), RING_APPLIED);
}

static void
credits_are_judged(void **state)
{
	struct books_verdict v;
	struct rec rec;

	(void)state;
	turned_away(rec_credit(JOURNAL_TOPUP, 0, 2, 0, 0, ""), RING_REFUSED);
	turned_away(rec_credit(JOURNAL_TOPUP, 0, 2, 0, -1, ""), RING_REFUSED);
	turned_away(rec_credit(JOURNAL_TOPUP, 0, 2, 7, 1, ""), RING_UNKNOWN);
	turned_away(rec_credit(JOURNAL_TOPUP, 0, 2, 0, INT64_MAX, ""), RING_RANGE);
	turned_away(rec_credit(JOURNAL_ADJUST, 0, 2, 0, INT64_MIN, ""), RING_RANGE);
	v = turned_away(rec_credit(JOURNAL_TOPUP, 0, 2, 0, 77, "first"), RING_REPEATED);
	assert_int_equal(v.value, 1000);
	stored(rec_credit(JOURNAL_TOPUP, 0, 2, 1, 77, "first")); /* another account's ref */
	stored(rec_credit(JOURNAL_ADJUST, 0, 3, 0, -1500, "fee"));
	money(-500, 0);
	v = turned_away(rec_credit(JOURNAL_ADJUST, 0, 4, 0, -1500, "fee"), RING_REPEATED);
	assert_int_equal(v.value, -500);
	stored(rec_credit(JOURNAL_ADJUST, 0, 4, 0, 20, ""));
	money(-480, 0);
	rec = rec_credit(JOURNAL_TOPUP, 0, 5, 0, 1, "cut");
	rec.r.payload_len--;
	turned_away(rec, RING_REFUSED);
}

/* A key reserves once; the answer is the first one's, whatever became of it and of the account. */
static void
a_key_reserves_once(void **state)
{
	struct books_verdict v, first;
	struct rec rec;

	(void)state;
	assert_int_equal(enter(rec_ask(0, 'k', 1)).status, RING_APPLIED);
	rec = rec_keyed(SLOT, 1, 0, 700, 'k', 1);
	first = enter(rec);
	assert_int_equal(first.status, RING_APPLIED);
	assert_int_equal(first.value, 1000 + 200 - 700);
	v = turned_away(rec_keyed(SLOT + 1, 1, 0, 700, 'k', 1), RING_REPEATED);
	assert_int_equal(v.value, first.value);
	assert_int_equal(v.first, sequence);
	v = turned_away(rec_ask(0, 'k', 1), RING_REPEATED);
	assert_int_equal(v.first, sequence);
	turned_away(rec_keyed(SLOT + 1, 2, 0, 1, 'k', 2), RING_CONFLICT);
	turned_away(rec_ask(0, 'k', 2), RING_CONFLICT);
	/* The memory's hold of the one turned away is given back without a trace. */
	turned_away(rec_void(SLOT + 1, 3, 0), RING_APPLIED);
	assert_int_equal(enter(rec_ask(1, 'k', 1)).status, RING_APPLIED); /* another account's */
	stored(rec_void(SLOT, 2, 0));
	stored(rec_set(0, 9, 0, JOURNAL_SET_CLOSED, 0, 0));
	turned_away(rec_keyed(SLOT, 3, 0, 700, 'k', 1), RING_REPEATED);
	turned_away(rec_keyed(SLOT, 4, 0, 700, 'n', 1), RING_CLOSED);
	rec = rec_keyed(SLOT, 5, 0, 1, 'c', 1);
	rec.r.payload_len -= 3; /* "{}" and a byte of the key */
	turned_away(rec, RING_REFUSED);
	rec = rec_ask(0, 'k', 1);
	rec.r.payload_len--;
	turned_away(rec, RING_REFUSED);
}

#define DAY 86400u

#define START_US UINT64_C(1800000000000000)

static struct rec
at(struct rec rec, unsigned seconds)
{
	rec.r.time_us = START_US + seconds * UINT64_C(1000000);
	return rec;
}

/* Refs and keys are known for a day, then as if never used; their memory is given back. */
static void
refs_are_known_for_a_day(void **state)
{
	const uint64_t start = START_US;
	uint32_t from, all;

	(void)state;
	stored(at(rec_credit(JOURNAL_TOPUP, 0, 2, 0, 5, "daily"), 100));
	stored(at(rec_keyed(SLOT, 1, 1, 0, 'k', 1), 100));
	turned_away(at(rec_credit(JOURNAL_TOPUP, 0, 3, 0, 5, "daily"), DAY + 100), RING_REPEATED);
	turned_away(at(rec_ask(1, 'k', 1), DAY + 100), RING_REPEATED);
	assert_int_equal(enter(at(rec_ask(1, 'k', 1), DAY + 101)).status, RING_APPLIED);
	stored(at(rec_credit(JOURNAL_TOPUP, 0, 3, 0, 5, "daily"), DAY + 101));
	/* The new one is found, not its namesake. */
	turned_away(at(rec_credit(JOURNAL_TOPUP, 0, 4, 0, 5, "daily"), 2 * DAY + 101),
	    RING_REPEATED);
	for (unsigned i = 0; i < 3000; i++) {
		char ref[16];

		snprintf(ref, sizeof ref, "r%u", i);
		stored(at(rec_credit(JOURNAL_TOPUP, 0, 4 + i, 0, 1, ref), 2 * DAY + 200 + i));
	}
	books_changes_clear(b);
	all = books_refs(b);
	assert_int_equal(all, 1 + 3 + 3000);
	assert_int_equal(books_refs_over(b, start, 10, &from), 1); /* setup's */
	assert_int_equal(books_refs_over(b, start + 5 * DAY * UINT64_C(1000000), 10, &from), 10);
	assert_int_equal(from, 0);
	books_refs_forget(b, 10);
	assert_int_equal(books_refs_over(b, start + 5 * DAY * UINT64_C(1000000), 10, &from), 10);
	assert_int_equal(from, 10);
	assert_int_equal(books_refs(b), all);
	books_refs_forget(b, 2000);
	assert_int_equal(books_refs(b), all - 2010);
	/* Those that are left are found at their new places. */
	turned_away(at(rec_credit(JOURNAL_TOPUP, 0, 4000, 0, 1, "r2999"), 2 * DAY + 9000),
	    RING_REPEATED);
	stored(at(rec_credit(JOURNAL_TOPUP, 0, 4001, 0, 1, "r0"), 4 * DAY));
	books_refs_sort(b);
	turned_away(at(rec_credit(JOURNAL_TOPUP, 0, 4002, 0, 1, "r0"), 4 * DAY), RING_REPEATED);
	turned_away(at(rec_credit(JOURNAL_TOPUP, 0, 4003, 0, 1, "r2998"), 2 * DAY + 9000),
	    RING_REPEATED);
}

/*
 * An adjustment below zero reaches shared memory only after its record is durable.  Whoever
 * reserved there before is no forger.  The slot's next operation says that it is applied; but a
 * record that was granted before may be judged after that one: it is in another ring.
 */
static void
an_adjustment_makes_no_forger_of_anybody(void **state)
{
	(void)state;
	stored(rec_credit(JOURNAL_ADJUST, 0, 2, 0, -1000, ""));
	stored(rec_reserve(SLOT, 1, 0, 1200, 10, 1));
	money(0, 1200);
	turned_away(rec_reserve(SLOT + 1, 1, 0, 1, 0, 1), RING_REFUSED);
	stored(rec_void(SLOT, 2, 0));
	stored(rec_credit(JOURNAL_TOPUP, 0, 3, 1, 1, ""));
	stored(rec_reserve(SLOT, 3, 0, 1200, 10, 1));
	stored(rec_void(SLOT, 4, 0));
	turned_away(later(rec_reserve(SLOT, 5, 0, 201, 10, 1), 11), RING_REFUSED);
	stored(later(rec_reserve(SLOT, 5, 0, 200, 10, 1), 11));
	/* Over for good, also for who dates back. */
	turned_away(rec_reserve(SLOT + 1, 1, 0, 1, 0, 1), RING_REFUSED);
}

static void
accounts_and_keys(void **state)
{
	const struct books_key *key;
	struct rec rec;

	(void)state;
	assert_int_equal(turned_away(rec_account(2, "alice", 0), RING_EXISTS).value, 0);
	turned_away(rec_account(2, "no blanks", 0), RING_REFUSED);
	turned_away(rec_account(2, "", 0), RING_REFUSED);
	turned_away(rec_account(2, "carol", -1), RING_RANGE);
	assert_int_equal(enter(rec_account(2, "carol", 9)).value, 2);
	assert_int_equal(books_account_find(b, "carol", 5), 2);
	assert_int_equal(books_account(b, 2)->requests_per_minute, 60);
	stored(rec_key(0, 42, "laptop"));
	turned_away(rec_key(0, 42, "again"), RING_EXISTS);
	turned_away(rec_key(9, 43, "nobody's"), RING_UNKNOWN);
	rec = rec_key(0, 43, "same hash");
	memset(rec.payload, 0, 32);
	rec.payload[0] = 42;
	turned_away(rec, RING_EXISTS);
	key = books_key(b, books_key_find(b, 42));
	assert_memory_equal(books_key_text(b, key), "laptop", 6);
	rec = rec_revoke(42);
	rec.r.account = 1; /* another's */
	turned_away(rec, RING_REFUSED);
	stored(rec_revoke(42));
	assert_int_equal(key->flags, KEY_REVOKED);
	turned_away(rec_revoke(42), RING_REPEATED);
	turned_away(rec_revoke(44), RING_UNKNOWN);
	rec = rec_key(0, 45, "half a cap");
	rec.r.amount = 1;
	turned_away(rec, RING_REFUSED);
	rec.r.amount = 0;
	rec.r.prompt = KEY_PER_DAY;
	turned_away(rec, RING_REFUSED);
	rec.r.amount = 1;
	rec.r.prompt = KEY_PERS;
	turned_away(rec, RING_REFUSED);
	rec = rec_key(0, 46, "half a stream");
	rec.r.extra = -1;
	turned_away(rec, RING_REFUSED);
	rec.r.extra = INT64_C(1) << 32;
	turned_away(rec, RING_REFUSED);
	rec.r.extra = 3;
	rec.r.cached = 60;
	rec.r.completion = 1000;
	stored(rec);
	key = books_key(b, books_key_find(b, 46));
	assert_int_equal(key->requests_per_minute, 60);
	assert_int_equal(key->tokens_per_minute, 1000);
	assert_int_equal(key->concurrent_streams, 3);
}

/* A key's row as checkpoints of format 1 have it, ended by its label. */
static void
a_key_of_former_checkpoints(void **state)
{
	static const char label[] = "laptop";
	struct key_row row = {.key_id = 77, .account = 0, .scopes = 1, .label_len = 6};
	const struct books_key *key;
	char bytes[sizeof row + 6];
	struct books_row again;

	(void)state;
	memcpy(bytes, &row, KEY_ROW_1);
	memcpy(bytes + KEY_ROW_1, label, 6);
	for (size_t len = 0; len < KEY_ROW_1 + 6; len++)
		assert_int_equal(books_row_load(b, ROWS_KEYS, &row.key_id, 8, bytes, len), -1);
	assert_int_equal(books_row_load(b, ROWS_KEYS, &row.key_id, 8, bytes, KEY_ROW_1 + 6), 0);
	key = books_key(b, books_key_find(b, 77));
	assert_int_equal(key->models_len, 0);
	assert_int_equal(key->per, KEY_PER_NONE);
	assert_memory_equal(books_key_text(b, key), label, 6);
	/* As those of format 2, whose last word is not of the limits. */
	row.key_id = 78;
	row.hash[0] = 78;
	row.models_len = 3;
	row.label_len = 3;
	row.cap = 5;
	row.per = KEY_PER_DAY;
	memcpy(bytes, &row, KEY_ROW_2);
	memcpy(bytes + KEY_ROW_2, label, 6);
	for (size_t len = KEY_ROW_2; len < KEY_ROW_2 + 6; len++)
		assert_int_equal(books_row_load(b, ROWS_KEYS, &row.key_id, 8, bytes, len), -1);
	assert_int_equal(books_row_load(b, ROWS_KEYS, &row.key_id, 8, bytes, KEY_ROW_2 + 6), 0);
	key = books_key(b, books_key_find(b, 78));
	assert_int_equal(key->models_len, 3);
	assert_int_equal(key->cap, 5);
	assert_int_equal(key->requests_per_minute, 0);
	/* And as it is written now. */
	books_row_make(b, ROWS_KEYS, books_keys(b) - 1, &again);
	assert_int_equal(again.fixed_len, sizeof row);
	memcpy(bytes, &again.fixed, again.fixed_len);
	memcpy(bytes + again.fixed_len, again.text, again.text_len);
	assert_int_equal(
	    books_row_load(b, ROWS_KEYS, again.key, 8, bytes, again.fixed_len + again.text_len), -1);
	memset(bytes + offsetof(struct key_row, key_id), 1, 8); /* another id: it was taken */
	assert_int_equal(
	    books_row_load(b, ROWS_KEYS, again.key, 8, bytes, again.fixed_len + again.text_len), 0);
}

static enum ring_status
from_worker(const struct rec *rec)
{
	struct books_input in = {.record = &rec->r, .payload = rec->payload,
	    .types = BOOKS_FROM_WORKER, .slot_first = 0, .slot_count = 8};
	struct books_verdict v;

	books_check(b, &in, &v);
	assert_int_equal(v.store, v.status == RING_APPLIED);
	return v.status;
}

/* As the keeper completes and stores it. */
static struct rec
sight(uint64_t key_id, const char *id, int64_t grant, int64_t overdraft)
{
	struct rec rec = rec_sight(key_id, id);

	rec.r.account = books_accounts(b);
	rec.r.amount = grant;
	rec.r.extra = overdraft;
	return rec;
}

static void
a_user_is_made_once(void **state)
{
	const struct books_account *a;
	struct books_row row;
	struct rec rec;
	uint32_t key;

	(void)state;
	stored(rec_trusted_key(0, 42));
	rec = rec_sight(42, "owui:u1");
	assert_int_equal(from_worker(&rec), RING_APPLIED);
	assert_int_equal(enter(sight(42, "owui:u1", 700, 30)).value, 2);
	a = books_account(b, 2);
	assert_int_equal(books_account_find(b, "owui:u1", 7), 2);
	assert_int_equal(a->balance, 700);
	assert_int_equal(a->topups, 700);
	assert_int_equal(a->overdraft, 30);
	/* The second worker attaches, whatever the config says by now. */
	assert_int_equal(from_worker(&rec), RING_EXISTS);
	assert_int_equal(turned_away(sight(42, "owui:u1", 9, 9), RING_EXISTS).value, 2);
	assert_int_equal(a->balance, 700);
	/* Also of one that an operator made, and by another key. */
	stored(rec_account(3, "owui:u2", 0));
	stored(rec_trusted_key(1, 43));
	assert_int_equal(turned_away(sight(43, "owui:u2", 9, 9), RING_EXISTS).value, 3);
	/* Counted by key, and the count is in its row. */
	stored(sight(43, "owui:u3", 0, 0));
	stored(sight(42, "owui:u4", 0, 0));
	key = books_key_find(b, 42);
	assert_int_equal(books_key(b, key)->sighted, 2);
	assert_int_equal(books_key(b, books_key_find(b, 43))->sighted, 1);
	books_row_make(b, ROWS_KEYS, key, &row);
	row.fixed.key.key_id = 99;
	memset(row.fixed.key.hash, 9, sizeof row.fixed.key.hash);
	assert_int_equal(books_row_load(b, ROWS_KEYS, &row.fixed.key.key_id, 8, &row.fixed,
	    row.fixed_len), 0);
	assert_int_equal(books_key(b, books_key_find(b, 99))->sighted, 2);
}

static void
no_more_than_a_users_account_is_made(void **state)
{
	static const char *const ids[] = {"", "owui:", "u1", "xowui:u", "owui:no blanks",
	    "owui:\xc3\xa9", "OWUI:u"};
	struct rec rec, good = rec_sight(42, "owui:u1");
	struct journal_sight head;

	(void)state;
	stored(rec_trusted_key(0, 42));
	stored(rec_key(0, 43, "not trusted"));
	assert_int_equal(from_worker(&good), RING_APPLIED);
	for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++) {
		rec = rec_sight(42, ids[i]);
		assert_int_equal(from_worker(&rec), RING_REFUSED);
		turned_away(rec, RING_REFUSED); /* nor can a journal have it */
	}
	rec = rec_sight(43, "owui:u1");
	assert_int_equal(from_worker(&rec), RING_REFUSED);
	turned_away(rec, RING_REFUSED);
	rec = rec_sight(44, "owui:u1"); /* no such key */
	assert_int_equal(from_worker(&rec), RING_REFUSED);
	/* What it is worth, and its number, are not the sender's to say. */
	rec = good;
	rec.r.amount = 1;
	assert_int_equal(from_worker(&rec), RING_REFUSED);
	rec = good;
	rec.r.extra = 1;
	assert_int_equal(from_worker(&rec), RING_REFUSED);
	rec = good;
	rec.r.account = 2;
	assert_int_equal(from_worker(&rec), RING_REFUSED);
	turned_away(sight(42, "owui:u1", -1, 0), RING_REFUSED);
	turned_away(sight(42, "owui:u1", 0, -1), RING_REFUSED);
	turned_away(sight(42, "owui:u1", INT64_MAX, 0), RING_REFUSED);
	/* Longer and shorter than it says. */
	memcpy(&head, good.payload, sizeof head);
	for (int d = -1; d <= 1; d += 2) {
		rec = good;
		head.id_len = (uint16_t)(7 + d);
		memcpy(rec.payload, &head, sizeof head);
		assert_int_equal(from_worker(&rec), RING_REFUSED);
	}
	for (uint32_t n = 0; n < sizeof head; n++) {
		rec = good;
		rec.r.payload_len = n;
		assert_int_equal(from_worker(&rec), RING_REFUSED);
	}
	assert_int_equal(books_accounts(b), 2);
}

/* What a worker cannot have known yet is no contradiction. */
static void
a_key_that_is_no_longer_good_makes_no_user(void **state)
{
	struct rec key = rec_trusted_key(1, 43), rec = rec_sight(43, "owui:u1");
	struct journal_key head;

	(void)state;
	memcpy(&head, key.payload, sizeof head);
	head.expires_us = 1000;
	memcpy(key.payload, &head, sizeof head);
	stored(key);
	rec.r.time_us = 999;
	assert_int_equal(from_worker(&rec), RING_APPLIED);
	rec.r.time_us = 1000;
	assert_int_equal(from_worker(&rec), RING_CLOSED);
	stored(rec_trusted_key(1, 42));
	rec = rec_sight(42, "owui:u1");
	assert_int_equal(from_worker(&rec), RING_APPLIED);
	stored(rec_freeze(1));
	assert_int_equal(from_worker(&rec), RING_CLOSED);
	stored(rec_set(0, 2, 1, JOURNAL_SET_UNFROZEN, 0, 0));
	assert_int_equal(from_worker(&rec), RING_APPLIED);
	stored(rec_revoke(42));
	assert_int_equal(from_worker(&rec), RING_CLOSED);
	/* Who was made before stays who he is. */
	stored(rec_trusted_key(0, 45));
	stored(sight(45, "owui:u1", 5, 0));
	assert_int_equal(from_worker(&rec), RING_EXISTS);
}

static void
closed_and_frozen_accounts(void **state)
{
	(void)state;
	stored(rec_reserve(SLOT, 1, 0, 105, 10, 1));
	stored(rec_freeze(0));
	turned_away(rec_reserve(SLOT + 1, 1, 0, 10, 0, 1), RING_CLOSED);
	/* Who did not know yet that it was turned away is no forger. */
	books_answer(b, SLOT + 1, 1, JOURNAL_RESERVE, RING_CLOSED, 0);
	turned_away(rec_mark(SLOT + 1, 1, 0, 1, ""), RING_CLOSED);
	turned_away(rec_settle(SLOT + 1, 2, 0, 1, 1, ""), RING_CLOSED);
	turned_away(rec_void(SLOT + 1, 2, 0), RING_APPLIED);
	/* Open streams finish. */
	stored(rec_extend(SLOT, 2, 0, 30, 135, 1, ""));
	stored(rec_settle(SLOT, 3, 0, 10, 35, ""));
	/* Until it is lifted, closed or not. */
	stored(rec_set(0, 2, 0, JOURNAL_SET_CLOSED, 0, 0));
	assert_int_equal(books_account(b, 0)->flags, ACCOUNT_CLOSED | ACCOUNT_FROZEN);
	stored(rec_set(0, 3, 0, JOURNAL_SET_UNFROZEN, 0, 0));
	assert_int_equal(books_account(b, 0)->flags, ACCOUNT_CLOSED);
	turned_away(rec_reserve(SLOT, 4, 0, 10, 0, 1), RING_CLOSED);
	turned_away(rec_credit(JOURNAL_TOPUP, 0, 4, 0, 1, ""), RING_CLOSED);
	turned_away(rec_key(0, 1, ""), RING_CLOSED);
	turned_away(rec_set(0, 4, 0, JOURNAL_SET_CLOSED, 0, 0), RING_REPEATED);
	turned_away(rec_set(0, 4, 0, JOURNAL_SET_OVERDRAFT, 1, 201), RING_CLOSED);
	turned_away(rec_freeze(7), RING_REFUSED);
}

static void
settings_are_set(void **state)
{
	const struct books_account *a = books_account(b, 0);
	struct rec rec;

	(void)state;
	stored(rec_set(0, 2, 0, JOURNAL_SET_OVERDRAFT, 50, 250));
	assert_int_equal(a->overdraft, 250);
	assert_int_equal(a->requests_per_minute, 60);
	stored(rec_set(0, 3, 0, JOURNAL_SET_REQUESTS | JOURNAL_SET_STREAMS, 0, 0));
	assert_int_equal(a->requests_per_minute, 7);
	assert_int_equal(a->tokens_per_minute, 0);
	assert_int_equal(a->concurrent_streams, 9);
	assert_int_equal(a->overdraft, 250);
	money(1000, 0);
	/* Said once more it is the same operation. */
	turned_away(rec_set(0, 3, 0, JOURNAL_SET_REQUESTS, 0, 0), RING_APPLIED);
	turned_away(rec_set(0, 4, 0, JOURNAL_SET_OVERDRAFT, 50, 250), RING_STALE);
	turned_away(rec_set(0, 4, 0, JOURNAL_SET_OVERDRAFT, -251, -1), RING_RANGE);
	turned_away(rec_set(0, 4, 0, JOURNAL_SET_OVERDRAFT, INT64_MAX, 5), RING_RANGE);
	turned_away(rec_set(0, 4, 0, JOURNAL_SET_OVERDRAFT, 5, INT64_MAX), RING_RANGE);
	turned_away(rec_set(0, 4, 9, JOURNAL_SET_OVERDRAFT, 5, 5), RING_UNKNOWN);
	turned_away(rec_set(0, 4, 0, JOURNAL_SET_TOKENS, 5, 0), RING_REFUSED);
	turned_away(rec_set(0, 4, 0, 0, 0, 0), RING_REFUSED);
	turned_away(rec_set(0, 4, 0, JOURNAL_SET_ALL + 1, 0, 0), RING_REFUSED);
	rec = rec_set(0, 4, 0, JOURNAL_SET_TOKENS, 0, 0);
	rec.r.payload_len--;
	turned_away(rec, RING_REFUSED);
	stored(rec_reserve(SLOT, 1, 0, 105, 10, 1));
	turned_away(rec_set(SLOT, 2, 0, JOURNAL_SET_TOKENS, 0, 0), RING_REFUSED);
}

/* Like an adjustment below zero: memory learns of it after the disk. */
static void
a_lowered_overdraft_makes_no_forger_of_anybody(void **state)
{
	(void)state;
	stored(rec_set(0, 2, 0, JOURNAL_SET_OVERDRAFT, -200, 0));
	stored(rec_reserve(SLOT, 1, 0, 1200, 10, 1));
	money(1000, 1200);
	turned_away(rec_reserve(SLOT + 1, 1, 0, 1, 0, 1), RING_REFUSED);
	stored(rec_void(SLOT, 2, 0));
	stored(rec_credit(JOURNAL_TOPUP, 0, 3, 1, 1, ""));
	turned_away(later(rec_reserve(SLOT, 3, 0, 1001, 10, 1), 11), RING_REFUSED);
	stored(later(rec_reserve(SLOT, 3, 0, 1000, 10, 1), 11));
}

static void
workers_make_no_money(void **state)
{
	struct rec recs[] = {rec_credit(JOURNAL_TOPUP, 0, 2, 0, 1, ""),
	    rec_credit(JOURNAL_ADJUST, 0, 2, 0, 1, ""), rec_account(2, "carol", 5),
	    rec_key(0, 1, ""), rec_price_of(1, "model", &rec_price),
	    rec_set(0, 2, 0, JOURNAL_SET_OVERDRAFT, 1, 201), rec_freeze(0)};

	(void)state;
	for (size_t i = 0; i < sizeof recs / sizeof recs[0]; i++) {
		struct books_input in = {.record = &recs[i].r, .payload = recs[i].payload,
		    .types = BOOKS_FROM_WORKER, .slot_first = 0, .slot_count = 8};
		struct books_verdict v;

		books_check(b, &in, &v);
		assert_int_equal(v.status, RING_REFUSED);
		in.types = BOOKS_FROM_JOURNAL;
		books_check(b, &in, &v);
		assert_true(v.store);
	}
}

static void
a_hold_is_ended_at_its_last_mark(void **state)
{
	struct journal_split split;
	struct rec rec = {0};

	(void)state;
	stored(rec_reserve(SLOT, 1, 0, 105, 10, 1));
	books_end_record(b, SLOT, 2, 1, &rec.r, &split);
	assert_int_equal(rec.r.type, JOURNAL_VOID);
	stored(rec_mark(SLOT, 1, 0, 12, ""));
	books_end_record(b, SLOT, 2, 1, &rec.r, &split);
	assert_int_equal(rec.r.type, JOURNAL_SETTLE);
	assert_int_equal(rec.r.outcome, OUTCOME_WORKER_DIED);
	stored(rec);
	money(1000 - 15 - 36, 0);
}

/* Each kind at its own price; nothing that says more of a kind than there was. */
static void
kinds_are_charged(void **state)
{
	struct price p = {1000000, 500000, 2000000, 5000000, 3000000, 7};
	struct journal_split split;
	struct rec rec, mark;

	(void)state;
	stored(rec_price_of(1, "model", &p));
	rec = rec_reserve(SLOT, 1, 0, 200, 10, 1);
	rec.r.price = 1;
	stored(rec);
	/* 7 + 10 + 20 of text, or 7 + 10 + 10 x 5 of reasoning: 67, of 200. */
	mark = rec_mark(SLOT, 1, 0, 91, "");
	mark.r.price = 1;
	stored(mark);
	turned_away(rec_kinds(mark, 1, 0), RING_REFUSED);
	turned_away(rec_kinds(mark, 92, 0), RING_REFUSED);
	turned_away(rec_kinds(mark, 0, 1), RING_REFUSED);
	mark.r.completion = 92;
	turned_away(mark, RING_REFUSED);
	mark.r.completion = 5;
	mark.r.version = JOURNAL_VERSION_KINDS; /* without them */
	turned_away(mark, RING_REFUSED);
	/* At its last mark: so many of its tokens are reasoning. */
	mark = rec_void(SLOT, 2, 0);
	mark.r.price = 1;
	stored(mark);
	rec.r.op = 3;
	stored(rec);
	mark = rec_mark(SLOT, 3, 0, 10, "");
	mark.r.price = 1;
	stored(rec_kinds(mark, 6, 0));
	books_end_record(b, SLOT, 4, 1, &mark.r, &split);
	assert_int_equal(mark.r.amount, 7 + 10 + 6 * 5 + 4 * 2);
	assert_int_equal(mark.r.payload_len, sizeof split);
	memcpy(mark.payload, &split, sizeof split);
	stored(mark);
	rec.r.op = 5;
	stored(rec);
	rec = rec_settle(SLOT, 6, 0, 10, 10, "end");
	rec.r.price = 1;
	rec.r.cached = 4;
	rec.r.amount = 7 + 4 * 1 + 6 * 3 + 4 / 2 + 3 * 2 + 7 * 5;
	turned_away(rec_kinds(rec, 8, 6), RING_REFUSED);
	turned_away(rec_kinds(rec, 11, 6), RING_REFUSED);
	turned_away(rec_kinds(rec, 7, 11), RING_REFUSED);
	turned_away(rec, RING_REFUSED);
	stored(rec_kinds(rec, 7, 6));
	money(1000 - 55 - 72, 0);
}

static struct rec
told(struct rec rec, struct journal_end end)
{
	return rec_told(rec, &end, "openai");
}

/* How a stream went: whatever an honest worker may say, and nothing that contradicts itself. */
static void
how_a_stream_went_is_judged(void **state)
{
	const struct journal_end good = {.opened_ms = 5,
	    .first_ms = 5,
	    .counted = COUNTED_OURS,
	    .attempts = 1};
	struct rec ends = rec_settle(SLOT, 2, 0, 10, 5, "text"), rec;
	struct rec nothing = rec_void(SLOT, 2, 0);
	struct journal_end end;
	struct {
		struct journal_end end;
		const char *what;
	} bad[10];
	size_t n = 0;

	(void)state;
	stored(rec_reserve(SLOT, 1, 0, 105, 10, 1));
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		bad[i].end = good;
	bad[n++].end.first_ms = 4;
	bad[n++].end.opened_ms = JOURNAL_NONE;
	bad[n++].end.counted = COUNTED_NOBODYS;
	bad[n++].end.counted = COUNTED_MAX;
	bad[n++].end.counted = 255;
	bad[n++].end.short_of = SHORT_CREDIT; /* it stopped by itself */
	bad[n++].end.short_of = SHORT_MAX;
	bad[n++].end.split.reasoning = 6;
	bad[n++].end.split.cache_write = 11;
	for (size_t i = 0; i < n; i++)
		turned_away(told(ends, bad[i].end), RING_REFUSED);
	turned_away(told(nothing, good), RING_REFUSED); /* somebody's count of nothing */
	/* Names: any printable text, as long as there is room. */
	for (const char *const *name = (const char *const[]){"a\nb", "\x1b[2J", "\x7f", "\xff",
	         "\xc3", "\xed\xa0\x80", "ok\xc3\x28", NULL};
	     *name != NULL; name++)
		turned_away(rec_told(ends, &good, *name), RING_REFUSED);
	rec = rec_told(ends, &good, "123456789-123456789-123456789-123456789-123456789-123456789-12345");
	turned_away(rec, RING_REFUSED);
	/* Cut off anywhere before the text. */
	rec = told(ends, good);
	for (uint32_t len = 0; len < sizeof good + 6; len++) {
		rec.r.payload_len = len;
		turned_away(rec, RING_REFUSED);
	}
	/* Nothing else has such a payload. */
	rec = rec_told(rec_mark(SLOT, 1, 0, 5, ""), &good, "");
	turned_away(rec, RING_REFUSED);
	rec = rec_told(rec_extend(SLOT, 2, 0, 5, 110, 0, ""), &good, "");
	turned_away(rec, RING_REFUSED);

	stored(told(ends, good));
	money(1000 - 15 - 15, 0);
	/* Each way in which a stream may go. */
	for (uint64_t op = 3; op < 11; op += 2) {
		stored(rec_reserve(SLOT, op, 0, 105, 10, 1));
		rec = rec_settle(SLOT, op + 1, 0, 10, 5, "");
		end = good;
		end.counted = COUNTED_PROVIDERS;
		if (op == 3) {
			end.split = (struct journal_split){5, 10};
			stored(told(rec, end));
		} else if (op == 5) {
			rec.r.outcome = OUTCOME_CREDIT;
			end.short_of = SHORT_BUDGET_MONTH;
			end.first_ms = JOURNAL_NONE;
			stored(rec_told(rec, &end, "\xd0\xbf\xd1\x80\xd0\xbe \xe2\x82\xac"));
		} else if (op == 7) {
			/* Days later, as no clock can be set. */
			end.first_ms = end.opened_ms = JOURNAL_NONE - 1;
			stored(rec_told(rec, &end, ""));
		} else {
			end.counted = COUNTED_NOBODYS;
			stored(told(rec_void(SLOT, op + 1, 0), end));
		}
	}
	money(1000 - 4 * 30, 0);
}

static void
price_sets_are_judged(void **state)
{
	struct rec rec = rec_price_set("model", PRICE_REASONING, 5);
	struct price over;

	(void)state;
	turned_away(rec_price_set("model", PRICE_KINDS + 1, 5), RING_REFUSED);
	turned_away(rec_price_set("model", PRICE_KINDS, 5), RING_REFUSED);
	turned_away(rec_price_set("model", PRICE_PROMPT, -2), RING_REFUSED);
	rec.r.payload_len--;
	turned_away(rec, RING_REFUSED);
	rec.r.payload_len = 3;
	turned_away(rec, RING_REFUSED);
	stored(rec_price_set("model", PRICE_REASONING, 5));
	stored(rec_price_set("modem", PRICE_REASONING, 6));
	stored(rec_price_set("model", PRICE_REQUEST, 0));
	over = books_price_over(b, "model", 5);
	assert_memory_equal(&over, (&(struct price){-1, -1, -1, 5, -1, 0}), sizeof over);
	stored(rec_price_set("model", PRICE_REASONING, PRICE_UNSET));
	over = books_price_over(b, "model", 5);
	assert_memory_equal(&over, (&(struct price){-1, -1, -1, -1, -1, 0}), sizeof over);
	stored(rec_price_set("model", PRICE_KINDS, PRICE_UNSET));
	over = books_price_over(b, "model", 5);
	assert_memory_equal(&over, (&(struct price)PRICE_ALL_UNSET), sizeof over);
	over = books_price_over(b, "mode", 4);
	assert_memory_equal(&over, (&(struct price)PRICE_ALL_UNSET), sizeof over);
	assert_int_equal(books_price_sets(b), 2);
}

/* Rows as checkpoints had them before. */
static void
former_rows_are_read(void **state)
{
	struct hold_row hold = {.op = 9, .type = JOURNAL_VOID};
	struct account_row account = {.balance = 7, .topups = 7, .id_len = 5};
	char bytes[sizeof account + 5];
	const int64_t prices[3] = {3, 2, 5};
	char row[sizeof prices + 3];
	uint32_t one = 1;

	(void)state;
	memcpy(row, prices, sizeof prices);
	memcpy(row + sizeof prices, "old", 3);
	assert_int_equal(
	    books_row_load_former(b, ROWS_PRICES, &one, sizeof one, row, sizeof row), 0);
	assert_memory_equal(
	    &books_price(b, 1)->price, (&(struct price){3, 2, 5, 5, 3, 0}), sizeof(struct price));
	assert_memory_equal(books_price_model(b, books_price(b, 1)), "old", 3);
	assert_int_equal(books_row_load_former(b, ROWS_PRICES, &one, sizeof one, row, 23), -1);
	assert_int_equal(
	    books_row_load_former(b, ROWS_HOLDS, &one, sizeof one, &hold, HOLD_ROW_1), 0);
	assert_int_equal(books_hold(b, 1)->op, 9);
	assert_int_equal(
	    books_row_load_former(b, ROWS_HOLDS, &one, sizeof one, &hold, HOLD_ROW_1 - 8), -1);
	hold.op = 10;
	assert_int_equal(books_row_load(b, ROWS_HOLDS, &one, sizeof one, &hold, HOLD_ROW_2), 0);
	assert_int_equal(books_hold(b, 1)->op, 10);
	/* Accounts without budgets. */
	one = 2;
	memcpy(bytes, &account, ACCOUNT_ROW_1);
	memcpy(bytes + ACCOUNT_ROW_1, "carol", 5);
	for (size_t len = 0; len < ACCOUNT_ROW_1 + 5; len++)
		assert_int_equal(books_row_load(b, ROWS_ACCOUNTS, &one, sizeof one, bytes, len), -1);
	assert_int_equal(
	    books_row_load(b, ROWS_ACCOUNTS, &one, sizeof one, bytes, ACCOUNT_ROW_1 + 5), 0);
	assert_int_equal(books_account(b, 2)->balance, 7);
	assert_int_equal(books_account(b, 2)->budget[BUDGET_DAY].cap, 0);
}

/* Nobody's records made these: a file is damaged, and must not be gone by. */
static void
rows_that_nothing_made(void **state)
{
	static const size_t amounts[] = {offsetof(struct account_row, balance),
	    offsetof(struct account_row, held), offsetof(struct account_row, overdraft),
	    offsetof(struct account_row, charged), offsetof(struct account_row, topups),
	    offsetof(struct account_row, adjustments), offsetof(struct account_row, slack),
	    offsetof(struct account_row, budget[0].cap),
	    offsetof(struct account_row, budget[1].former),
	    offsetof(struct account_row, budget[1].used)};
	const struct account_row good = {.id_len = 5};
	const struct hold_row holds[] = {{.slack = 1, .account = 2}, {.budgets_set = 1, .account = 2},
	    {.open = 1, .account = 2}, {.open = 1, .price = 1}, {.open = 1, .amount = -1},
	    {.slack = -1}, {.open = 1, .amount = INT64_MAX}};
	const struct key_row keys[] = {{.key_id = 5, .account = 2}, {.key_id = 5, .per = KEY_PERS},
	    {.key_id = 5, .cap = -1}, {.key_id = 5, .used = {0, -1}},
	    {.key_id = 5, .used = {INT64_MAX, 0}}};
	const struct price prices[] = {{.prompt = -1}, {.request = INT64_MIN}};
	const struct price set = {.request = -2};
	char bytes[sizeof good + 5];
	uint32_t two = 2, one = 1;

	(void)state;
	for (size_t i = 0; i < sizeof amounts / sizeof *amounts; i++) {
		memcpy(bytes, &good, sizeof good);
		memcpy(bytes + sizeof good, "carol", 5);
		memcpy(bytes + amounts[i], &(int64_t){INT64_MAX}, 8);
		assert_int_equal(
		    books_row_load(b, ROWS_ACCOUNTS, &two, sizeof two, bytes, sizeof bytes), -1);
		memcpy(bytes + amounts[i], &(int64_t){INT64_MIN}, 8);
		assert_int_equal(
		    books_row_load(b, ROWS_ACCOUNTS, &two, sizeof two, bytes, sizeof bytes), -1);
	}
	assert_int_equal(books_accounts(b), 2);
	for (size_t i = 0; i < sizeof holds / sizeof *holds; i++)
		assert_int_equal(books_row_load(b, ROWS_HOLDS, &two, sizeof two, &holds[i],
		                     sizeof holds[i]), -1);
	for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
		assert_int_equal(books_row_load(b, ROWS_KEYS, &keys[i].key_id, 8, &keys[i],
		                     sizeof keys[i]), -1);
	for (size_t i = 0; i < sizeof prices / sizeof *prices; i++)
		assert_int_equal(books_row_load(b, ROWS_PRICES, &one, sizeof one, &prices[i],
		                     sizeof prices[i]), -1);
	one = 0;
	assert_int_equal(
	    books_row_load(b, ROWS_PRICE_SETS, &one, sizeof one, &set, sizeof set), -1);
}

/* A price as journals had it before there were six kinds. */
static void
a_former_price_is_read(void **state)
{
	struct journal_price_former head = {.prompt = 3, .cached = 2, .completion = 5, .model_len = 3};
	struct rec rec = rec_price_of(1, "old", &rec_price);

	(void)state;
	rec.r.version = JOURNAL_VERSION;
	memcpy(rec.payload, &head, sizeof head);
	memcpy(rec.payload + sizeof head, "old", 3);
	rec.r.payload_len = sizeof head + 3;
	stored(rec);
	assert_memory_equal(
	    &books_price(b, 1)->price, (&(struct price){3, 2, 5, 5, 3, 0}), sizeof(struct price));
	assert_memory_equal(books_price_model(b, books_price(b, 1)), "old", 3);
	rec.r.price = 2;
	rec.r.payload_len--;
	turned_away(rec, RING_REFUSED);
}

/* Any bits at all, many times: nothing crashes, and no account ends below its floor. */
static void
noise_is_no_danger(void **state)
{
	unsigned int seed = 1;

	(void)state;
	for (int i = 0; i < 200000; i++) {
		struct rec rec;

		memset(&rec, 0, sizeof rec);
		if (!rec_random(b, &seed, 4, 8, &rec) && rec.r.type == 0)
			continue;
		if (rand_r(&seed) % 2 == 0)
			((unsigned char *)&rec.r)[(size_t)rand_r(&seed) % (sizeof rec.r - 12)] ^=
			    (unsigned char)(1 << rand_r(&seed) % 8);
		if (rand_r(&seed) % 8 == 0)
			rec.payload[(size_t)rand_r(&seed) % sizeof rec.payload] ^=
			    (char)(1 << rand_r(&seed) % 8);
		(void)enter(rec);
	}
	for (uint32_t i = 0; i < books_accounts(b); i++) {
		const struct books_account *a = books_account(b, i);

		assert_int_equal(a->balance, a->topups + a->adjustments - a->charged);
		assert_true(a->held >= 0);
	}
	assert_true(sequence > 1000);
}

/* Nothing of the books, and for an account that there is; an operator does not send it. */
static void
a_session_is_forgotten(void **state)
{
	struct rec rec = {.r = {.type = JOURNAL_FORGET, .version = JOURNAL_VERSION, .proc = 3,
			      .slot = JOURNAL_NONE, .account = 0, .price = JOURNAL_NONE,
			      .payload_len = JOURNAL_FORGET_LEN}};
	struct books_account before = *books_account(b, 0);
	struct books_input in = {.record = &rec.r, .payload = rec.payload,
	    .types = BOOKS_FROM_ADMIN};
	struct books_verdict v;

	(void)state;
	stored(rec);
	assert_memory_equal(&before, books_account(b, 0), sizeof before);
	books_check(b, &in, &v);
	assert_int_equal(v.status, RING_REFUSED);
	rec.r.account = 2;
	(void)turned_away(rec, RING_REFUSED);
	rec.r.account = 0;
	rec.r.payload_len--;
	(void)turned_away(rec, RING_REFUSED);
	rec.r.payload_len = 0;
	(void)turned_away(rec, RING_REFUSED);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	    TEST(a_hold_lives_and_is_charged),
	    TEST(reserves_and_extends_stop_at_the_floor),
	    TEST(forged_reserves_are_refused),
	    TEST(forged_steps_of_a_hold_are_refused),
	    TEST(a_contradiction_names_the_account_that_it_concerns),
	    TEST(what_the_floor_forbids_to_charge_is_uncollected),
	    TEST(repetitions_change_nothing),
	    TEST(a_void_of_nothing_is_no_record),
	    TEST(credits_are_judged),
	    TEST(a_key_reserves_once),
	    TEST(refs_are_known_for_a_day),
	    TEST(an_adjustment_makes_no_forger_of_anybody),
	    TEST(accounts_and_keys),
	    TEST(a_user_is_made_once),
	    TEST(no_more_than_a_users_account_is_made),
	    TEST(a_key_that_is_no_longer_good_makes_no_user),
	    TEST(a_key_of_former_checkpoints),
	    TEST(a_cap_is_never_passed),
	    TEST(a_budget_is_never_passed),
	    TEST(a_lowered_budget_makes_no_forger_of_anybody),
	    TEST(closed_and_frozen_accounts),
	    TEST(settings_are_set),
	    TEST(a_lowered_overdraft_makes_no_forger_of_anybody),
	    TEST(workers_make_no_money),
	    TEST(kinds_are_charged),
	    TEST(how_a_stream_went_is_judged),
	    TEST(price_sets_are_judged),
	    TEST(a_former_price_is_read),
	    TEST(former_rows_are_read),
	    TEST(rows_that_nothing_made),
	    TEST(a_hold_is_ended_at_its_last_mark),
	    TEST(a_session_is_forgotten),
	    TEST(noise_is_no_danger),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
