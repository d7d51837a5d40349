/*
 * Goal:   a kill after any machine instruction of a reserve (granted or refused), extend,
 *         overdraw, mark, settle (with or without something uncollected), void, top-up, adjustment
 *         or setting, or of the reaper itself, loses nothing, invents nothing, leaks no hold and
 *         charges what the meter said; and at that instruction memory is neither below the floor
 *         nor richer than the disk.
 * Method: step a process through them (victim.c) by ptrace; after each instruction copy the shared
 *         memory (which is what a kill would leave), reap the copy and compare it with the books:
 *         alone, with another process working on the account after the kill, and with one that
 *         works on it between the instructions.  Some points are killed in earnest too.
 *         tests/unit/test_step_mail.c does the same with letters.
 * objs: shm/money.o shm/ring.o shm/region.o shm/account.o shm/hold.o shm/ledger.o shm/seat.o shm/reap.o tests/unit/books.o tests/unit/trace.o tests/unit/victim.o shm/purse.o
 */
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "shm/ledger.h"
#include "shm/purse.h"
#include "shm/ring.h"
#include "shm/word.h"
#include "tests/unit/books.h"
#include "tests/unit/trace.h"
#include "tests/unit/victim.h"

#define RIVAL (PROC_WORKER + 1)

/* Seconds that the interleaved runs may take; instrumented builds get through fewer. */
#define BUDGET_S 1.5

static const struct region_dims dims = {.workers = 1,
    .max_accounts = 4,
    .max_keys = 4,
    .max_holds = 3 * 4,
    .ring_records = 8,
    .ring_arena = 256};

static struct region live, copy;
static struct books live_books;
static struct account *account;
static struct ledger *rival; /* in the live region */
static long points, all_points;
static bool capped; /* the account has much, its key's cap and its budgets have little left */
static bool neighbour_dead; /* RIVAL has been killed too, and is reaped as late */
static long stride = 1;     /* `least`, unless instrumentation makes ten instructions of one */
static long least = 1;      /* $TOLLD_STEPS: each so many instructions, where there is little time */

struct image { /* a state of the world to begin from */
	struct books books;
	unsigned char *bytes;
};

/* What changes: header, rings, holds, accounts; prices once. */
static void
bytes_copy(unsigned char *to, const unsigned char *from)
{
	const struct region_header *h = live.h;

	memcpy(to, from, 4096);
	memcpy(to + h->prices_at, from + h->prices_at, 16 * sizeof(struct price));
	memcpy(to + h->rings_at, from + h->rings_at, h->key_index_at - h->rings_at);
	memcpy(to + h->keys_at, from + h->keys_at, sizeof(struct key_entry));
	memcpy(to + h->accounts_at, from + h->accounts_at, 4 * sizeof(struct account));
}

static void
image_take(struct image *image)
{
	if (image->bytes == NULL)
		image->bytes = calloc(1, live.h->size);
	assert_non_null(image->bytes);
	image->books = live_books;
	bytes_copy(image->bytes, live.base);
}

static void
image_restore(const struct image *image)
{
	live_books = image->books;
	bytes_copy(live.base, image->bytes);
}

static void
reaper(void)
{
	struct reap r;
	int pushed;

	reap_start(&r, &live, VICTIM, 1);
	while (reap_step(&r, &pushed) != REAP_DONE)
		;
}

/* A whole stream of the other process, or its first half. */
static struct hold *
rival_begins(struct ledger *l, struct region *region, struct books *books)
{
	struct hold_terms t = victim_terms(region);
	struct hold *h;
	uint64_t position;

	t.want_tokens = 1;
	if (ledger_reserve(l, &t, NULL, 0, &h, &position) != LEDGER_OK)
		return NULL;
	books_drain(books, region, RIVAL);
	ring_ack(ledger_ring(l), position);
	ledger_meter(h, 1, 0);
	return h;
}

static void
rival_ends(struct ledger *l, struct region *region, struct books *books, struct hold *h)
{
	struct settlement s = {.prompt = 7, .completion = 1};
	uint64_t position;

	if (h == NULL)
		return;
	s.charge = price_cost(&victim_price, 7, 0, 1);
	assert_int_equal(ledger_settle(l, h, &s, NULL, 0, &position), LEDGER_OK);
	books_drain(books, region, RIVAL);
	ledger_close(l, h, position, NULL);
	ring_ack(ledger_ring(l), position);
}

/* NULL, or what is wrong at this very moment, whatever is under way. */
static const char *
floor_wrong(const struct books *b, const struct region *region)
{
	int64_t available = account_available(account_at(region, 0));
	const struct purse *const all[] = {&key_at(region, 0)->purse,
	    &account_at(region, 0)->budget[BUDGET_DAY],
	    &account_at(region, 0)->budget[BUDGET_MONTH]};

	for (int i = 0; i < 3 && capped; i++) {
		if (purse_used(all[i], 0) > purse_cap(all[i]))
			return "above the cap or a budget";
		if (purse_used(all[i], 0) < b->account[0].charged + b->account[0].held)
			return "less is used of the cap or a budget than the disk knows of";
	}
	/* An operator may put it under its floor, and memory follows the disk then. */
	if (b->account[0].indulged)
		return NULL;
	if (available < 0)
		return "below the floor";
	if (available > b->account[0].balance - b->account[0].held + b->account[0].overdraft)
		return "more is available than the disk knows of";
	return NULL;
}

/* The victim is killed here: is all well after reaping the copy? */
static void
check_point(long k, const char *how, bool with_rival)
{
	struct books books = live_books;
	struct ledger *l = NULL;
	struct hold *h = NULL;
	struct reap r;
	const char *wrong;

	wrong = floor_wrong(&books, &live);
	if (wrong != NULL)
		fail_msg("%s, instruction %ld: %s", how, k, wrong);
	bytes_copy(copy.base, live.base);
	if (with_rival) {
		l = ledger_new(&copy, RIVAL);
		h = rival_begins(l, &copy, &books);
	}
	if (neighbour_dead && k % 2)
		books_reap(&books, &copy, RIVAL, &r);
	books_reap(&books, &copy, VICTIM, &r);
	if (neighbour_dead && k % 2 == 0)
		books_reap(&books, &copy, RIVAL, &r);
	rival_ends(l, &copy, &books, h);
	ledger_free(l);
	wrong = books_wrong(&books, &copy);
	if (wrong == NULL)
		wrong = floor_wrong(&books, &copy);
	/* A reserve that was never journaled is voided all the same; of each dead process one. */
	if (wrong == NULL && (books.settles + books.voids < books.reserves ||
	                         books.settles + books.voids > books.reserves + 1 + neighbour_dead))
		wrong = "a hold ended more than once";
	if (wrong != NULL)
		fail_msg("%s, instruction %ld: %s", how, k, wrong);
	points++;
	all_points++;
}

/*
 * Step through, checking at every instruction.  period: the rival works every so often, but not
 * so often that it would spend what the victim needs.
 */
static long
step_through(void (*run)(void), const char *how, bool rival_after, long period, long phase)
{
	pid_t pid = trace_start(run);
	long k = 0, rivals = 0;

	do {
		if (k % stride == 0)
			check_point(k, how, rival_after);
		/* After the point: published and not yet durable is a point too. */
		books_drain(&live_books, &live, VICTIM);
		if (period != 0 && k % period == phase && rivals++ < 8)
			rival_ends(
			    rival, &live, &live_books, rival_begins(rival, &live, &live_books));
		k++;
	} while (trace_step(pid));
	return k;
}

static void
world(struct image *start, int64_t balance)
{
	memset(&live_books, 0, sizeof live_books);
	assert_int_equal(region_anonymous(&live, &dims), 0);
	*region_price(&live, 0) = victim_price;
	account = books_open(&live_books, &live, "a", capped ? balance + 500 : balance, 0);
	/* The day's binds first: what was claimed from the others before is given back. */
	for (int i = 0; i < BUDGETS && capped; i++)
		purse_set_cap(&account->budget[i], balance + i);
	if (capped) {
		struct key_entry key = {.key_id = 1,
		    .purse = {.cap = balance + 2, .per = KEY_PER_TOTAL}};

		assert_int_equal(region_grow_keys(&live, 1), 0);
		assert_non_null(key_insert(&live, &key));
	}
	victim_region(&live, VICTIM);
	rival = ledger_new(&live, RIVAL);
	copy = live;
	copy.base = calloc(1, live.h->size);
	assert_non_null(copy.base);
	copy.h = (struct region_header *)(void *)copy.base;
	start->bytes = NULL;
	image_take(start);
}

static void
world_end(struct image *start)
{
	free(copy.base);
	free(start->bytes);
	ledger_free(rival);
	region_unmap(&live);
}

static double
now_s(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void
every_instruction(const struct victim *v)
{
	struct image start;
	long steps, runs;
	double until;

	world(&start, v->balance);
	start.books.meter_exact = v->meter_exact;
	image_restore(&start);
	stride = LONG_MAX;
	steps = step_through(v->run, "unwatched", false, 0, 0);
	stride = least * (1 + steps / 6000);
	points = 0;
	image_restore(&start);
	step_through(v->run, "alone", false, 0, 0);
	image_restore(&start);
	step_through(v->run, "rival after the kill", true, 0, 0);
	until = now_s() + (capped ? BUDGET_S / 2 : BUDGET_S);
	for (runs = 0; runs < 101 && now_s() < until; runs++) {
		image_restore(&start);
		/* 101 is prime: the phases come in a scattered order and none twice. */
		step_through(
		    v->run, "rival between", runs % 2, 303 * stride, runs * 37 % 101 * 3 * stride);
	}
	print_message("%s: %ld instructions, %ld points (each %ld.), %ld runs against a rival\n",
	    v->name, steps, points, stride, runs);
	world_end(&start);
}

static void
every_operation_killed_anywhere_counts_once_or_not_at_all(void **state)
{
	(void)state;
	for (size_t i = 0; i < victim_count; i++)
		every_instruction(&victims[i]);
}

/* Bring a victim to a spread of points, each a little further on, and step the reaper from there. */
static void
step_the_reaper(const struct victim *v)
{
	struct image start, before;
	long k = 0, reaped = 0, last = 0;
	double until = now_s() + BUDGET_S;
	bool going = true;

	world(&start, v->balance);
	before.bytes = NULL;
	points = 0;
	while (going && now_s() < until) {
		pid_t pid;

		image_restore(&start);
		pid = trace_start(v->run);
		for (k = 0; going && k < last; k++) {
			books_drain(&live_books, &live, VICTIM);
			going = trace_step(pid);
		}
		if (going) {
			trace_kill(pid);
			image_take(&before);
			step_through(reaper, "reaper", reaped % 2, reaped % 3 ? 211 : 0, k % 211);
			assert_null(books_wrong(&live_books, &live));
			reaped++;
		}
		last += 83 * stride;
	}
	print_message("reaper of %s: %ld starting points, %ld points\n", v->name, reaped, points);
	free(before.bytes);
	world_end(&start);
}

static void
the_reaper_killed_anywhere_is_begun_again(void **state)
{
	(void)state;
	for (size_t i = 0; i < victim_count; i++)
		step_the_reaper(&victims[i]);
}

/* Has an operation of this process just changed the account? */
static bool
moved(uint32_t proc, uint64_t *tag)
{
	uint64_t now = __atomic_load_n(&account->word.tag, __ATOMIC_ACQUIRE), was = *tag;

	*tag = now;
	return now != was && hold_proc(&live, TAG_SLOT(now)) == proc;
}

/*
 * Take a process to its n-th change of the account and kill it right after that one instruction,
 * when nothing but the tag tells of it.  False if it makes fewer.
 */
static bool
kill_after_change(const struct victim *v, uint32_t proc, int n)
{
	pid_t pid;
	uint64_t tag = 0;
	bool going = true;

	victim_region(&live, proc);
	pid = trace_start(v->run);
	victim_region(&live, VICTIM);
	while (going && n > 0) {
		books_drain(&live_books, &live, proc);
		going = trace_step(pid);
		if (going && moved(proc, &tag))
			n--;
	}
	if (going)
		trace_kill(pid);
	return going;
}

static void
a_tag_that_is_replaced_has_told_its_slot(void **state)
{
	struct image start, before;
	long all = 0;
	int deaths = 0;

	(void)state;
	for (size_t i = 0; i < victim_count; i++) {
		for (int n = 1;; n++) {
			bool there;

			world(&start, victims[i].balance);
			before.bytes = NULL;
			there = kill_after_change(&victims[i], RIVAL, n);
			neighbour_dead = there;
			points = 0;
			if (there) {
				image_take(&before);
				/* Its first change is a credit: it comes whatever the other left. */
				step_through(victims[victim_count - 1].run, "beside a dead one",
				    false, 0, 0);
				deaths++;
			}
			all += points;
			neighbour_dead = false;
			free(before.bytes);
			world_end(&start);
			if (!there)
				break;
		}
	}
	print_message("beside a dead one: %d of its deaths, %ld points\n", deaths, all);
}

static void
drain(void)
{
	books_drain(&live_books, &live, VICTIM);
}

static uint64_t
states(void)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < live.h->holds_per_proc; i++)
		sum = sum * 31 + atomic_load(&hold_at(&live, hold_first(&live, VICTIM) + i)->state);
	return sum;
}

/* Where in the reaper's way a slot's state changes; how many places. */
#define WINDOW (40 * stride) /* before each of them it looks at the tag */
static int
state_changes(const struct image *from, long at[static 8])
{
	int n = 0;
	long k = 0;
	uint64_t was;
	pid_t pid;

	image_restore(from);
	was = states();
	pid = trace_start(reaper);
	do {
		drain();
		if (states() != was && n < 8)
			at[n++] = k;
		was = states();
		k++;
	} while (trace_step(pid));
	return n;
}

/* The reaper asks whether a change took effect, and at that very moment its tag is replaced. */
static void
a_tag_may_go_while_the_reaper_looks_for_it(void **state)
{
	struct image start, before;
	long runs = 0, at[8];

	(void)state;
	for (size_t i = 0; i < victim_count; i++) {
		for (int n = 1;; n++) {
			int changes;
			bool there;

			world(&start, victims[i].balance);
			before.bytes = NULL;
			there = kill_after_change(&victims[i], VICTIM, n);
			if (there)
				image_take(&before);
			changes = there ? state_changes(&before, at) : 0;
			for (int c = 0; c < changes; c++) {
				for (long j = at[c] < WINDOW ? 0 : at[c] - WINDOW; j < at[c];
				     j += stride) {
					const char *wrong;
					pid_t pid;

					image_restore(&before);
					pid = trace_start(reaper);
					for (long k = 0; k < j; k++) {
						drain();
						assert_true(trace_step(pid));
					}
					rival_ends(rival, &live, &live_books,
					    rival_begins(rival, &live, &live_books));
					trace_run(pid, drain);
					wrong = books_wrong(&live_books, &live);
					if (wrong != NULL)
						fail_msg("%s, change %d, instruction %ld of the "
						         "reaper: %s",
						    victims[i].name, n, j, wrong);
					runs++;
				}
			}
			free(before.bytes);
			world_end(&start);
			if (!there)
				break;
		}
	}
	all_points += runs;
	print_message("reaper's looks at the tag: %ld runs\n", runs);
}

static void
killed_in_earnest(void **state)
{
	struct image start;
	bool going = true;
	int kills = 0;

	(void)state;
	world(&start, victims[0].balance);
	live_books.meter_exact = start.books.meter_exact = true;
	for (long at = 0; going; at += 97 * stride) {
		struct reap r;
		const char *wrong;
		pid_t pid;

		image_restore(&start);
		pid = trace_start(victims[0].run);
		for (long k = 0; going && k < at; k++) {
			books_drain(&live_books, &live, VICTIM);
			going = trace_step(pid);
		}
		if (going) {
			trace_kill(pid);
			kills++;
		}
		books_reap(&live_books, &live, VICTIM, &r);
		wrong = books_wrong(&live_books, &live);
		if (wrong != NULL)
			fail_msg("killed after %ld instructions: %s", at, wrong);
	}
	print_message("killed in earnest: %d\n", kills);
	world_end(&start);
}

static int
under_a_cap_and_budgets(void **state)
{
	(void)state;
	capped = true;
	return 0;
}

static int
without(void **state)
{
	(void)state;
	capped = false;
	return 0;
}

#define UNDER_ALL(test)                                                                            \
	{                                                                                          \
		#test " (under a cap and budgets)", test, under_a_cap_and_budgets, without, NULL   \
	}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(every_operation_killed_anywhere_counts_once_or_not_at_all),
	    cmocka_unit_test(the_reaper_killed_anywhere_is_begun_again),
	    cmocka_unit_test(a_tag_that_is_replaced_has_told_its_slot),
	    cmocka_unit_test(a_tag_may_go_while_the_reaper_looks_for_it),
	    cmocka_unit_test(killed_in_earnest),
	    UNDER_ALL(every_operation_killed_anywhere_counts_once_or_not_at_all),
	    UNDER_ALL(the_reaper_killed_anywhere_is_begun_again),
	    UNDER_ALL(killed_in_earnest),
	};
	const char *steps = getenv("TOLLD_STEPS");
	int failed;

	if (steps != NULL && atol(steps) > 0)
		least = atol(steps);
	failed = cmocka_run_group_tests(tests, NULL, NULL);

	print_message("points of death: %ld\n", all_points);
	return failed;
}
