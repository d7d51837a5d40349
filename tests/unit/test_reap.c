/*
 * Goal:   SIGKILL at any moment, of workers and of the reaper, costs nobody anything but what
 *         the meter said; every hold ends once.
 * Method: fork real workers on one account in shared memory, kill them at random moments
 *         thousands of times, reap while others go on, compare memory with the books.  Then
 *         single slots brought into each state by hand.
 * objs: shm/money.o shm/ring.o shm/region.o shm/account.o shm/hold.o shm/ledger.o shm/seat.o shm/claim.o shm/reap.o tests/unit/books.o shm/purse.o
 */
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "shm/claim.h"
#include "shm/hold.h"
#include "shm/ring.h"
#include "shm/seat.h"
#include "tests/unit/books.h"

#define WORKERS 2
#define SEATS_MOST 15 /* of 20 streams that they try */

/* More by the environment variable KILLS. */
#define KILLS 700

/* A ring with room for fewer records than there are holds: reaping has to go on in rounds. */
static const struct region_dims dims = {.workers = 1, .max_accounts = 4, .max_keys = 4,
    .max_holds = 3 * 12, .ring_records = 8, .ring_arena = 256};
static const struct price price = {.prompt = 1500000, .cached = 0, .completion = 2700001,
    .reasoning = 2700001, .request = 3, .cache_write = 1500000};

static struct region region;
static struct books books;
static struct account *account;

static struct hold_terms
terms(void)
{
	return (struct hold_terms){.account = account, .price = price, .prompt = 7,
	    .max_tokens = 100, .min_tokens = 1, .want_tokens = 6, .seats = SEATS_MOST,
	    .reserved_us = 1};
}

/* --- workers that are killed ---------------------------------------------------------------- */

struct stream {
	struct hold *h;
	uint64_t position; /* wait for this */
	bool closing;
};

/* One step of one stream, none of which waits. */
static void
stream_step(struct ledger *l, struct stream *st, unsigned int *seed)
{
	struct hold_terms t = terms();
	struct settlement s = {.prompt = 7, .outcome = OUTCOME_STOP};
	uint64_t position = 0;
	uint32_t tokens, n;

	if (ring_durable(ledger_ring(l)) < st->position)
		return;
	if (st->h == NULL) {
		if (rand_r(seed) % 8 == 0)
			st->closing = ledger_credit(l, account, JOURNAL_TOPUP, 31, NULL, 0,
					  &st->h, &st->position) == LEDGER_OK;
		else if (ledger_reserve(l, &t, "hi", 2, &st->h, &st->position) != LEDGER_OK)
			st->h = NULL;
		return;
	}
	if (st->closing) {
		ledger_close(l, st->h, st->position, NULL);
		*st = (struct stream){0};
		return;
	}
	n = (uint32_t)price_covers(&price, 7, 0, st->h->amount);
	/* Now and then ahead of what is paid. */
	tokens = (uint32_t)rand_r(seed) % (n + 3);
	ledger_meter(st->h, tokens, (uint32_t)rand_r(seed) % (tokens + 1));
	switch (rand_r(seed) % 4) {
	case 0:
		if (ledger_extend(l, st->h, n + 4, false, "text", 4, &position) == LEDGER_OK) {
			/* As a worker that does not wait: the reaper must cope. */
			n = (uint32_t)price_covers(&price, 7, 0, st->h->amount);
			ledger_meter(st->h, n, n / 2);
			st->position = position;
		}
		break;
	case 1:
		s.completion = METER_TOKENS(atomic_load(&st->h->meter));
		if (s.completion > n)
			s.completion = n;
		s.voided = s.completion == 0;
		s.charge = s.voided ? 0 : price_cost(&price, 7, 0, s.completion);
		st->closing = ledger_settle(l, st->h, &s, "bye", 3, &st->position) == LEDGER_OK;
		break;
	default:
		break;
	}
}

static void
worker(uint32_t proc, unsigned int seed)
{
	struct ledger *l = ledger_new(&region, proc);
	struct stream streams[10] = {0};

	/* Not to outlive a test that failed. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (;;) {
		uint64_t unread = ring_durable(ledger_ring(l));

		for (int i = 0; i < 10; i++)
			stream_step(l, &streams[i], &seed);
		/* Those that closed have read their results, the others' come later or are not
		 * needed; but keep what is still waited for. */
		for (int i = 0; i < 10; i++)
			if (streams[i].closing && streams[i].position <= unread)
				unread = streams[i].position - 1;
		ring_ack(ledger_ring(l), unread);
	}
}

static void
nap(unsigned int us)
{
	struct timespec ts, now;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	/* The keeper's work meanwhile, and finer than a sleep. */
	do {
		for (uint32_t p = PROC_WORKER; p < PROC_WORKER + WORKERS; p++)
			books_drain(&books, &region, p);
		sched_yield();
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while ((now.tv_sec - ts.tv_sec) * 1000000 + (now.tv_nsec - ts.tv_nsec) / 1000 < us);
}

/* A reaper may have ended by itself, but is there until waited for. */
static void
kill_child(pid_t pid)
{
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

/* Reap in a process that is killed too, some times, and then to the end. */
static void
reap_with_kills(uint32_t proc, unsigned int *seed, int kills)
{
	struct reap r;
	int pushed;

	for (int i = 0; i < kills; i++) {
		pid_t pid = fork();

		assert_true(pid >= 0);
		if (pid == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			reap_start(&r, &region, proc, 1);
			while (reap_step(&r, &pushed) != REAP_DONE)
				;
			_exit(0);
		}
		nap((unsigned int)rand_r(seed) % 300);
		kill_child(pid);
	}
	reap_start(&r, &region, proc, 1);
	while (reap_step(&r, &pushed) != REAP_DONE) {
		assert_int_equal(pushed, 1);
		nap(0);
	}
}

static pid_t
worker_start(uint32_t proc, unsigned int seed)
{
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0)
		worker(proc, seed);
	return pid;
}

static void
check_refusals(int i)
{
	if (books.refusals != 0)
		fail_msg("kill %d: the keeper refused a record", i);
	if (account_available(account) < 0)
		fail_msg("kill %d: below the floor", i);
	if (seat_count(&account->seats) > SEATS_MOST)
		fail_msg("kill %d: %lu holds are open", i, (unsigned long)seat_count(&account->seats));
}

static void
killed_at_random(void **state)
{
	const char *more = getenv("KILLS");
	int kills = more != NULL ? atoi(more) : KILLS;
	unsigned int seed = 12345;
	pid_t pid[WORKERS];
	const char *wrong;

	(void)state;
	assert_int_equal(region_anonymous(&region, &dims), 0);
	*region_price(&region, 0) = price;
	memset(&books, 0, sizeof books);
	books.meter_exact = true;
	account = books_open(&books, &region, "a", 400, 0);
	for (uint32_t w = 0; w < WORKERS; w++)
		pid[w] = worker_start(PROC_WORKER + w, w);
	for (int i = 0; i < kills; i++) {
		uint32_t w = (uint32_t)rand_r(&seed) % WORKERS;

		nap((unsigned int)rand_r(&seed) % 500);
		kill_child(pid[w]);
		reap_with_kills(PROC_WORKER + w, &seed, rand_r(&seed) % 4 == 0);
		check_refusals(i);
		pid[w] = worker_start(PROC_WORKER + w, (unsigned int)rand_r(&seed));
	}
	for (uint32_t w = 0; w < WORKERS; w++)
		kill_child(pid[w]);
	for (uint32_t w = 0; w < WORKERS; w++)
		reap_with_kills(PROC_WORKER + w, &seed, 0);
	wrong = books_wrong(&books, &region);
	if (wrong != NULL)
		fail_msg("%s", wrong);
	print_message("%d kills: %lu reserves, %lu extends, %lu settled, %lu voided, %lu credits, "
		      "%lu repeated records\n",
	    kills, books.reserves, books.extends, books.settles, books.voids, books.credits,
	    books.repeats);
	assert_true(books.settles > 100 && books.extends > 100 && books.voids > 100 &&
	    books.credits > 100 && books.repeats > 10);
	region_unmap(&region);
}

/* --- one slot at a time --------------------------------------------------------------------- */

static struct ledger *ledger;

static void
begin(int64_t balance)
{
	assert_int_equal(region_anonymous(&region, &dims), 0);
	*region_price(&region, 0) = price;
	memset(&books, 0, sizeof books);
	account = books_open(&books, &region, "a", balance, 0);
	ledger = ledger_new(&region, PROC_WORKER);
}

static struct hold *
held(void)
{
	struct hold_terms t = terms();
	struct hold *h;
	uint64_t position;

	assert_int_equal(ledger_reserve(ledger, &t, NULL, 0, &h, &position), LEDGER_OK);
	return h;
}

static struct reap
finish(void)
{
	struct reap r;
	const char *wrong;

	books_reap(&books, &region, PROC_WORKER, &r);
	wrong = books_wrong(&books, &region);
	if (wrong != NULL)
		fail_msg("%s", wrong);
	assert_int_equal(ring_head(region_ring(&region, PROC_WORKER)),
	    ring_durable(region_ring(&region, PROC_WORKER)));
	ledger_free(ledger);
	ledger = ledger_new(&region, PROC_WORKER);
	assert_int_equal(ledger_holds_free(ledger), 12);
	ledger_free(ledger);
	region_unmap(&region);
	return r;
}

static void
zero_tokens_are_void_and_others_are_charged(void **state)
{
	struct reap r;

	(void)state;
	begin(1000);
	held();
	ledger_meter(held(), 1, 0);
	ledger_meter(held(), 6, 0);
	ledger_meter(held(), 4000, 0);
	r = finish();
	assert_int_equal(r.voided, 1);
	assert_int_equal(r.settled, 3);
	assert_int_equal(books.account[0].charged,
	    price_cost(&price, 7, 0, 1) + 2 * price_cost(&price, 7, 0, 6));
}

static void
more_holds_than_the_ring_has_room(void **state)
{
	struct reap r;

	(void)state;
	begin(100000);
	for (int i = 0; i < 12; i++) {
		ledger_meter(held(), 2, 0);
		books_drain(&books, &region, PROC_WORKER);
		ring_ack(ledger_ring(ledger), ring_durable(ledger_ring(ledger)));
	}
	r = finish();
	assert_int_equal(r.settled, 12);
	assert_int_equal(books.account[0].charged, 12 * price_cost(&price, 7, 0, 2));
}

static void
nothing_to_reap_is_done_at_once(void **state)
{
	struct reap r;
	int pushed;

	(void)state;
	begin(0);
	reap_start(&r, &region, PROC_WORKER, 1);
	r.last = true;
	assert_int_equal(reap_step(&r, &pushed), REAP_DONE);
	assert_int_equal(pushed, 0);
	/* With an heir, the keeper says first that its books have nothing either. */
	reap_start(&r, &region, PROC_WORKER, 1);
	assert_int_equal(reap_step(&r, &pushed), REAP_GONE);
	assert_int_equal(pushed, 1);
	assert_int_equal(reap_step(&r, &pushed), REAP_GONE);
	assert_int_equal(books_drain(&books, &region, PROC_WORKER), 1);
	assert_int_equal(reap_step(&r, &pushed), REAP_DONE);
	assert_int_equal(pushed, 0);
	finish();
}

/* Somebody has written FREE over them: what was metered is paid, the rest comes back, once. */
static void
lost_holds_are_found(void **state)
{
	struct hold *metered, *extended, *silent;
	struct reap r;
	uint64_t position;

	(void)state;
	begin(10000);
	metered = held();
	extended = held();
	silent = held();
	ledger_meter(metered, 3, 0);
	assert_int_equal(ledger_extend(ledger, extended, 20, false, NULL, 0, &position), LEDGER_OK);
	ledger_meter(extended, 15, 0);
	assert_int_equal(books_drain(&books, &region, PROC_WORKER), 4);
	for (struct hold *h = metered;; h = h == metered ? extended : silent) {
		hold_move(h, HOLD_SEQ(atomic_load(&h->state)), HOLD_FREE);
		if (h == silent)
			break;
	}
	r = finish();
	assert_int_equal(r.settled, 2);
	assert_int_equal(r.voided, 1);
	assert_int_equal(books.account[0].charged,
	    price_cost(&price, 7, 0, 3) + price_cost(&price, 7, 0, 15));
}

static void
a_credit_counts_if_it_was_published(void **state)
{
	struct hold *h;
	uint64_t position;

	(void)state;
	begin(5);
	assert_int_equal(ledger_credit(ledger, account, JOURNAL_TOPUP, 100, NULL, 0, &h, &position),
	    LEDGER_OK);
	finish();
	assert_int_equal(books.account[0].balance, 105);

	begin(5);
	h = hold_at(&region, hold_first(&region, PROC_WORKER));
	h->take = 100;
	h->account = 0;
	hold_move(h, 1, HOLD_CREDITING);
	finish();
	assert_int_equal(books.account[0].balance, 5);
}

static void
a_dead_one_s_claims_are_released(void **state)
{
	struct reap r;
	int pushed;

	(void)state;
	begin(1000);
	assert_true(claim_take(&region, PROC_WORKER, 0));
	assert_true(claim_take(&region, PROC_WORKER, 65535));
	assert_true(claim_take(&region, PROC_WORKER + 1, 7));
	assert_false(claim_take(&region, PROC_WORKER + 1, 0));
	assert_false(claim_take(&region, PROC_WORKER, 0));
	(void)held();
	/* Not before what it published is durable and its holds are finished. */
	reap_start(&r, &region, PROC_WORKER, 1);
	assert_int_not_equal(reap_step(&r, &pushed), REAP_DONE);
	assert_false(claim_take(&region, PROC_WORKER + 1, 0));
	books_drain(&books, &region, PROC_WORKER);
	assert_int_not_equal(reap_step(&r, &pushed), REAP_DONE);
	assert_false(claim_take(&region, PROC_WORKER + 1, 0));
	books_drain(&books, &region, PROC_WORKER);
	assert_int_equal(reap_step(&r, &pushed), REAP_GONE);
	books_drain(&books, &region, PROC_WORKER);
	assert_int_equal(reap_step(&r, &pushed), REAP_DONE);
	claim_release_dead(&region, PROC_WORKER);
	assert_true(claim_take(&region, PROC_WORKER + 1, 0));
	assert_true(claim_take(&region, PROC_WORKER + 1, 65535));
	assert_false(claim_take(&region, PROC_WORKER, 7));
	claim_release(&region, PROC_WORKER, 7); /* not ours */
	assert_false(claim_take(&region, PROC_WORKER, 7));
	claim_release(&region, PROC_WORKER + 1, 7);
	assert_true(claim_take(&region, PROC_WORKER, 7));
	ledger_free(ledger);
	region_unmap(&region);
}

static void
a_refused_settlement_gives_nothing(void **state)
{
	struct hold *h;
	struct reap r;

	(void)state;
	begin(1000);
	h = held();
	books_drain(&books, &region, PROC_WORKER);
	/* Forged: more than was ever debited. */
	h->amount = 1 << 30;
	ledger_meter(h, 1000000, 0);
	books_reap(&books, &region, PROC_WORKER, &r);
	assert_int_equal(books.refusals, 1);
	assert_true(account_available(account) < 1000);
	assert_int_equal(HOLD_STATE(atomic_load(&h->state)), HOLD_FREE);
	ledger_free(ledger);
	region_unmap(&region);
}

static void
garbage_in_a_slot_does_not_hurt_the_reaper(void **state)
{
	unsigned int seed = 7;

	(void)state;
	begin(1000);
	for (int round = 0; round < 2000; round++) {
		struct hold *h = hold_at(&region, hold_first(&region, PROC_WORKER));
		unsigned char *bytes = (unsigned char *)h;
		struct reap r;

		for (size_t i = 0; i < sizeof *h; i++)
			bytes[i] = (unsigned char)rand_r(&seed);
		if (round % 2)
			h->account = 0;
		atomic_store(&h->state, HOLD_WORD(HOLD_SEQ(atomic_load(&h->state)) >> 16,
					    rand_r(&seed) % 7));
		memset(&books, 0, sizeof books);
		books_reap(&books, &region, PROC_WORKER, &r);
		assert_int_equal(HOLD_STATE(atomic_load(&h->state)), HOLD_FREE);
	}
	ledger_free(ledger);
	region_unmap(&region);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(zero_tokens_are_void_and_others_are_charged),
	    cmocka_unit_test(more_holds_than_the_ring_has_room),
	    cmocka_unit_test(nothing_to_reap_is_done_at_once),
	    cmocka_unit_test(lost_holds_are_found),
	    cmocka_unit_test(a_credit_counts_if_it_was_published),
	    cmocka_unit_test(a_refused_settlement_gives_nothing),
	    cmocka_unit_test(garbage_in_a_slot_does_not_hurt_the_reaper),
	    cmocka_unit_test(a_dead_one_s_claims_are_released),
	    cmocka_unit_test(killed_at_random),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
