/*
 * Goal:   a kill after any machine instruction of a reserve, extend, overdraw, mark, settle,
 *         void or credit, or of the reaper itself, loses nothing, invents nothing and charges
 *         what the meter said.
 * Method: step a process through them by ptrace; after each instruction copy the shared memory
 *         (which is what a kill would leave), reap the copy and compare it with the books:
 *         alone, with another process working on the account after the kill, and with one that
 *         works on it between the instructions.  Some points are killed in earnest too.
 * objs: shm/money.o shm/ring.o shm/region.o shm/account.o shm/ledger.o shm/reap.o tests/unit/books.o
 */
#include <limits.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "shm/ledger.h"
#include "shm/ring.h"
#include "tests/unit/books.h"

#define VICTIM PROC_WORKER
#define RIVAL (PROC_WORKER + 1)

/* Seconds that the interleaved runs may take; instrumented builds get through fewer. */
#define BUDGET_S 2.5

static const struct region_dims dims = {.workers = 1, .max_accounts = 4, .max_keys = 4,
    .max_holds = 3 * 4, .ring_records = 8, .ring_arena = 256};
static const struct price price = {.prompt = 1500000, .cached = 0, .completion = 2700001};

static struct region live, copy;
static struct books live_books;
static struct account *account;
static struct ledger *rival; /* in the live region */
static long points;
static long stride = 1; /* 1, unless instrumentation makes ten instructions of one */

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

/* --- what is stepped through ---------------------------------------------------------------- */

static struct ledger *victim; /* in the child */

static void
wait_durable(uint64_t position)
{
	while (ring_durable(ledger_ring(victim)) < position)
		;
}

static struct hold_terms
terms(void)
{
	return (struct hold_terms){.account = account_at(&live, 0), .price = price,
	    .prompt = 7, .max_tokens = 100, .min_tokens = 1, .want_tokens = 6,
	    .reserved_us = 1};
}

static void
end(struct hold *h, const struct settlement *s)
{
	uint64_t position;

	if (ledger_settle(victim, h, s, "bye", 3, &position) != LEDGER_OK)
		_exit(2);
	wait_durable(position);
	ledger_close(victim, h, position, NULL);
	ring_ack(ledger_ring(victim), position);
}

static void
stream(void)
{
	struct hold_terms t = terms();
	struct settlement s = {.prompt = 7, .outcome = OUTCOME_STOP};
	struct hold *h;
	uint64_t position;

	if (ledger_reserve(victim, &t, "hello", 5, &h, &position) != LEDGER_OK)
		_exit(1);
	wait_durable(position);
	ledger_meter(h, 3);
	/* Ahead of the hold: between debit and record the reaper has to bring the record, for
	 * it charges for these tokens. */
	ledger_meter(h, 9);
	if (ledger_extend(victim, h, 11, "abc", 3, &position) != LEDGER_OK)
		_exit(1);
	wait_durable(position);
	ledger_meter(h, 10);
	/* Against an account that has nothing left it is LEDGER_SHORT. */
	if (ledger_extend(victim, h, 1000, NULL, 0, &position) == LEDGER_OK)
		wait_durable(position);
	s.completion = 10;
	s.charge = price_cost(&price, 7, 0, 10);
	end(h, &s);
}

static void
overdraw_void_credit(void)
{
	struct hold_terms t = terms();
	struct settlement s = {.prompt = 7, .completion = 9, .outcome = OUTCOME_STOP};
	struct settlement nothing = {.voided = true, .outcome = OUTCOME_CANCELLED};
	struct hold *h;
	uint64_t position;

	if (ledger_reserve(victim, &t, NULL, 0, &h, &position) != LEDGER_OK)
		_exit(1);
	wait_durable(position);
	ledger_meter(h, 6);
	s.charge = price_cost(&price, 7, 0, 9);
	if (ledger_overdraw(victim, h, s.charge, &position) != LEDGER_OK)
		_exit(1);
	s.uncollected = s.charge - h->amount;
	s.charge = h->amount;
	end(h, &s);
	if (ledger_reserve(victim, &t, NULL, 0, &h, &position) != LEDGER_OK)
		_exit(1);
	if (ledger_mark(victim, h, NULL, 0, &position) != LEDGER_OK)
		_exit(1);
	end(h, &nothing);
	if (ledger_credit(victim, t.account, JOURNAL_TOPUP, 23, NULL, 0, &h, &position) !=
	    LEDGER_OK)
		_exit(1);
	wait_durable(position);
	ledger_close(victim, h, position, NULL);
	ring_ack(ledger_ring(victim), position);
}

/* A higher overdraft, a lower one, and an adjustment below zero. */
static void
settings(void)
{
	static const int64_t change[] = {40, -60, 0, -9};
	struct hold_terms t = terms();
	uint64_t position;
	struct hold *h;

	for (int i = 0; i < 4; i++) {
		if ((i == 3 ? ledger_credit(victim, t.account, JOURNAL_ADJUST, change[i], NULL, 0,
				  &h, &position)
			    : ledger_account_set(victim, t.account, change[i], NULL, 0, &h,
				  &position)) != LEDGER_OK)
			_exit(1);
		wait_durable(position);
		ledger_close(victim, h, position, NULL);
		ring_ack(ledger_ring(victim), position);
	}
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

/* --- stepping ------------------------------------------------------------------------------- */

static pid_t
trace_start(void (*run)(void))
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		victim = ledger_new(&live, VICTIM);
		if (victim == NULL || ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
			_exit(77);
		raise(SIGSTOP);
		run();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
		print_message("no ptrace here\n");
		skip();
	}
	/* A failing test leaves by longjmp: do not let the child outlive us then. */
	assert_int_equal(ptrace(PTRACE_SETOPTIONS, pid, NULL, PTRACE_O_EXITKILL), 0);
	return pid;
}

/* One instruction further; false when the child has ended, which must be well. */
static bool
trace_step(pid_t pid)
{
	int status;

	assert_int_equal(ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFSTOPPED(status))
		return true;
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		fail_msg("the stepped process ended with status %x", (unsigned int)status);
	return false;
}

/* A whole stream of the other process, or its first half. */
static struct hold *
rival_begins(struct ledger *l, struct region *region, struct books *books)
{
	struct hold_terms t = terms();
	struct hold *h;
	uint64_t position;

	t.account = account_at(region, 0);
	t.want_tokens = 1;
	if (ledger_reserve(l, &t, NULL, 0, &h, &position) != LEDGER_OK)
		return NULL;
	books_drain(books, region, RIVAL);
	ring_ack(ledger_ring(l), position);
	ledger_meter(h, 1);
	return h;
}

static void
rival_ends(struct ledger *l, struct region *region, struct books *books, struct hold *h)
{
	struct settlement s = {.prompt = 7, .completion = 1};
	uint64_t position;

	if (h == NULL)
		return;
	s.charge = price_cost(&price, 7, 0, 1);
	assert_int_equal(ledger_settle(l, h, &s, NULL, 0, &position), LEDGER_OK);
	books_drain(books, region, RIVAL);
	ledger_close(l, h, position, NULL);
	ring_ack(ledger_ring(l), position);
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

	bytes_copy(copy.base, live.base);
	if (with_rival) {
		l = ledger_new(&copy, RIVAL);
		h = rival_begins(l, &copy, &books);
	}
	books_reap(&books, &copy, VICTIM, &r);
	rival_ends(l, &copy, &books, h);
	ledger_free(l);
	wrong = books_wrong(&books, &copy);
	if (wrong == NULL && books.settles + books.voids != books.reserves &&
	    books.settles + books.voids != books.reserves + 1)
		wrong = "a hold ended more than once";
	if (wrong != NULL)
		fail_msg("%s, instruction %ld: %s", how, k, wrong);
	points++;
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
			rival_ends(rival, &live, &live_books,
			    rival_begins(rival, &live, &live_books));
		k++;
	} while (trace_step(pid));
	return k;
}

static void
world(struct image *start, int64_t balance)
{
	memset(&live_books, 0, sizeof live_books);
	assert_int_equal(region_anonymous(&live, &dims), 0);
	*region_price(&live, 0) = price;
	account = books_open(&live_books, &live, "a", balance, 0);
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
every_instruction(void (*run)(void), const char *name, bool meter_exact)
{
	struct image start;
	long steps, runs;
	double until;

	/* Enough for the victim and, now and then, the rival; not for the last extend. */
	world(&start, 200);
	start.books.meter_exact = meter_exact;
	image_restore(&start);
	stride = LONG_MAX;
	steps = step_through(run, "unwatched", false, 0, 0);
	stride = 1 + steps / 6000;
	points = 0;
	image_restore(&start);
	step_through(run, "alone", false, 0, 0);
	image_restore(&start);
	step_through(run, "rival after the kill", true, 0, 0);
	until = now_s() + BUDGET_S;
	for (runs = 0; runs < 101 && now_s() < until; runs++) {
		image_restore(&start);
		/* 101 is prime: the phases come in a scattered order and none twice. */
		step_through(run, "rival between", runs % 2, 303 * stride,
		    runs * 37 % 101 * 3 * stride);
	}
	print_message("%s: %ld instructions, %ld points (each %ld.), %ld runs against a rival\n",
	    name, steps, points, stride, runs);
	world_end(&start);
}

static void
a_stream_killed_anywhere_is_charged_at_its_meter(void **state)
{
	(void)state;
	every_instruction(stream, "stream", true);
}

static void
overdraw_void_and_credit_killed_anywhere_conserve(void **state)
{
	(void)state;
	every_instruction(overdraw_void_credit, "overdraw, void, credit", false);
}

static void
settings_and_adjustments_killed_anywhere_count_if_they_are_durable(void **state)
{
	(void)state;
	every_instruction(settings, "settings, adjustment", false);
}

static void
the_reaper_killed_anywhere_is_begun_again(void **state)
{
	struct image start, before;
	long k = 0, reaped = 0, last = 0;
	double until = now_s() + BUDGET_S;
	bool going = true;

	(void)state;
	world(&start, 200);
	before.bytes = NULL;
	points = 0;
	/* Bring the victim to a spread of points, each a little further on, and step the reaper
	 * from there. */
	while (going && now_s() < until) {
		pid_t pid;

		image_restore(&start);
		pid = trace_start(stream);
		for (k = 0; going && k < last; k++) {
			books_drain(&live_books, &live, VICTIM);
			going = trace_step(pid);
		}
		if (going) {
			kill(pid, SIGKILL);
			waitpid(pid, NULL, 0);
			image_take(&before);
			step_through(reaper, "reaper", reaped % 2, reaped % 3 ? 211 : 0, k % 211);
			assert_null(books_wrong(&live_books, &live));
			reaped++;
		}
		last += 41;
	}
	print_message("reaper: %ld starting points, %ld points\n", reaped, points);
	free(before.bytes);
	world_end(&start);
}

static void
killed_in_earnest(void **state)
{
	struct image start;
	bool going = true;
	int kills = 0;

	(void)state;
	world(&start, 200);
	live_books.meter_exact = start.books.meter_exact = true;
	for (long at = 0; going; at += 97 * stride) {
		struct reap r;
		const char *wrong;
		pid_t pid;

		image_restore(&start);
		pid = trace_start(stream);
		for (long k = 0; going && k < at; k++) {
			books_drain(&live_books, &live, VICTIM);
			going = trace_step(pid);
		}
		if (going) {
			kill(pid, SIGKILL);
			waitpid(pid, NULL, 0);
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

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_stream_killed_anywhere_is_charged_at_its_meter),
	    cmocka_unit_test(overdraw_void_and_credit_killed_anywhere_conserve),
	    cmocka_unit_test(settings_and_adjustments_killed_anywhere_count_if_they_are_durable),
	    cmocka_unit_test(the_reaper_killed_anywhere_is_begun_again),
	    cmocka_unit_test(killed_in_earnest),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
