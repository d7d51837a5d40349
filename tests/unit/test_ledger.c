/*
 * Goal:   reserve, extend, overdraw, settle, void and credit are exact to the micro-credit; no
 *         concurrency crosses the floor or loses anything.
 * Method: a keeper of pretend (books.c) checks every record against its own books; single calls
 *         first, then threads with a ledger each on one account.
 * objs: shm/money.o shm/ring.o shm/region.o shm/account.o shm/hold.o shm/ledger.o shm/seat.o shm/reap.o tests/unit/books.o shm/purse.o
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "shm/ledger.h"
#include "shm/ring.h"
#include "shm/seat.h"
#include "shm/purse.h"
#include "tests/unit/books.h"

struct bench {
	struct region region;
	struct books books;
	struct account *account;
	struct ledger *ledger;
	struct hold_terms terms;
};

static const struct region_dims dims = {.workers = 4, .max_accounts = 16, .max_keys = 16,
    .max_holds = 9 * 12, .ring_records = 256, .ring_arena = 4096};

/* 0.5 and 2 credits per thousand tokens: 500 micro-credits a prompt token, 2000 a completion's. */
static const struct price price = {.prompt = 500000000, .cached = 250000000,
    .completion = 2000000000,
    .reasoning = 2000000000, .cache_write = 500000000};

static struct bench *
bench_new(int64_t balance, int64_t overdraft)
{
	struct bench *b = calloc(1, sizeof *b);

	assert_non_null(b);
	assert_int_equal(region_anonymous(&b->region, &dims), 0);
	*region_price(&b->region, 0) = price;
	b->account = books_open(&b->books, &b->region, "user:1", balance, overdraft);
	b->ledger = ledger_new(&b->region, PROC_WORKER);
	assert_non_null(b->ledger);
	b->terms = (struct hold_terms){.account = b->account, .price = price, .price_id = 0,
	    .prompt = 10, .max_tokens = 1000, .min_tokens = 1, .want_tokens = 300,
	    .deadline_us = 77};
	return b;
}

static void
bench_free(struct bench *b)
{
	ledger_free(b->ledger);
	region_unmap(&b->region);
	free(b);
}

static struct ring_entry *
last_entry(struct bench *b)
{
	return ring_peek(ledger_ring(b->ledger), ring_head(ledger_ring(b->ledger)));
}

static void
commit(struct bench *b)
{
	books_drain(&b->books, &b->region, PROC_WORKER);
	assert_int_equal(b->books.refusals, 0);
	assert_int_equal(b->books.account[0].balance - b->books.account[0].held +
		b->books.account[0].overdraft >= 0 || b->books.account[0].indulged, 1);
}

static struct hold *
reserve(struct bench *b, enum ledger_result want)
{
	struct hold *h = NULL;
	uint64_t position = 0;

	assert_int_equal(
	    ledger_reserve(b->ledger, &b->terms, "text", 4, &h, &position), want);
	if (want != LEDGER_OK)
		return NULL;
	assert_int_equal(position, ring_head(ledger_ring(b->ledger)));
	commit(b);
	ring_ack(ledger_ring(b->ledger), position);
	return h;
}

static void
settle(struct bench *b, struct hold *h, int64_t charge, uint32_t completion, int64_t uncollected)
{
	struct settlement s = {.charge = charge, .uncollected = uncollected, .prompt = 10,
	    .completion = completion, .outcome = OUTCOME_STOP};
	uint64_t position;
	int64_t value;

	if (charge == 0)
		s = (struct settlement){.voided = true, .outcome = OUTCOME_CANCELLED};
	assert_int_equal(ledger_settle(b->ledger, h, &s, NULL, 0, &position), LEDGER_OK);
	commit(b);
	assert_int_equal(ledger_close(b->ledger, h, position, &value), RING_APPLIED);
	assert_int_equal(value, b->books.account[0].balance);
	ring_ack(ledger_ring(b->ledger), position);
}

/* Both must have one free: the account's, and its key's.  Who finds none at the key keeps none. */
static void
seats_of_a_key(void **state)
{
	struct bench *b = bench_new(1000000, 0);
	struct key_entry made = {.key_id = 1, .concurrent_streams = 1}, *key;
	struct hold *h, *g;

	(void)state;
	assert_int_equal(region_grow_keys(&b->region, 1), 0);
	key = key_insert(&b->region, &made);
	assert_non_null(key);
	b->terms.want_tokens = 10;
	b->terms.seats = 3;
	b->terms.key = key;
	b->terms.key_seats = 1;
	h = reserve(b, LEDGER_OK);
	(void)reserve(b, LEDGER_KEY_SEATS);
	assert_int_equal(seat_count(&b->account->seats), 1);
	assert_int_equal(seat_count(&key->seats), 1);
	/* Without that key, and with it again. */
	b->terms.key_seats = 0;
	g = reserve(b, LEDGER_OK);
	assert_int_equal(seat_count(&key->seats), 1);
	settle(b, h, 7000, 1, 0);
	assert_int_equal(seat_count(&key->seats), 0);
	b->terms.key_seats = 1;
	b->terms.seats = 1;
	(void)reserve(b, LEDGER_SEATS);
	assert_int_equal(seat_count(&key->seats), 0);
	b->terms.seats = 2;
	b->terms.min_tokens = b->terms.want_tokens = 1000;
	(void)reserve(b, LEDGER_SHORT);
	assert_int_equal(seat_count(&key->seats), 0);
	settle(b, g, 0, 0, 0);
	assert_int_equal(seat_count(&b->account->seats), 0);
	bench_free(b);
}

/* The third hold is one too many, of whichever process; a refusal for want of credit keeps none. */
static void
seats(void **state)
{
	struct bench *b = bench_new(1000000, 0);
	struct ledger *other = ledger_new(&b->region, PROC_WORKER + 1);
	struct hold *h, *g, *more = NULL;
	uint64_t position;

	(void)state;
	b->terms.seats = 2;
	b->terms.want_tokens = 10;
	h = reserve(b, LEDGER_OK);
	assert_int_equal(ledger_reserve(other, &b->terms, NULL, 0, &g, &position), LEDGER_OK);
	assert_int_equal(seat_count(&b->account->seats), 2);
	(void)reserve(b, LEDGER_SEATS);
	assert_int_equal(seat_count(&b->account->seats), 2);
	settle(b, h, 7000, 1, 0);
	assert_int_equal(seat_count(&b->account->seats), 1);
	b->terms.min_tokens = b->terms.want_tokens = 1000;
	(void)reserve(b, LEDGER_SHORT);
	assert_int_equal(seat_count(&b->account->seats), 1);
	b->terms.min_tokens = b->terms.want_tokens = 1;
	h = reserve(b, LEDGER_OK);
	/* A credit takes none, and what is not limited is counted all the same. */
	assert_int_equal(ledger_credit(b->ledger, b->account, JOURNAL_TOPUP, 5, NULL, 0, &more,
			     &position), LEDGER_OK);
	commit(b);
	assert_int_equal(ledger_close(b->ledger, more, position, NULL), RING_APPLIED);
	assert_int_equal(seat_count(&b->account->seats), 2);
	b->terms.seats = 0;
	more = reserve(b, LEDGER_OK);
	assert_int_equal(seat_count(&b->account->seats), 3);
	settle(b, more, 0, 0, 0);
	settle(b, h, 0, 0, 0);
	assert_int_equal(seat_count(&b->account->seats), 1);
	ledger_free(other);
	bench_free(b);
}

static int64_t
available(struct bench *b)
{
	return account_available(b->account);
}

static void
reserve_takes_prompt_and_slice_settle_gives_the_rest(void **state)
{
	struct bench *b = bench_new(10000000, 0);
	struct hold *h = reserve(b, LEDGER_OK);
	const struct journal_record *r = &last_entry(b)->record;

	(void)state;
	assert_int_equal(h->amount, 10 * 500 + 300 * 2000);
	assert_int_equal(available(b), 10000000 - 605000);
	assert_int_equal(hold_covers(h, h->amount, false), 300);
	assert_int_equal(r->type, JOURNAL_RESERVE);
	assert_int_equal(r->amount, 605000);
	assert_int_equal(r->extra, 77);
	assert_int_equal(r->proc, PROC_WORKER);
	assert_int_equal(r->slot, hold_slot(&b->region, h));
	assert_int_equal(r->op, 1);
	assert_int_equal(r->payload_len, 4);
	settle(b, h, 5000 + 7 * 2000, 7, 0);
	assert_int_equal(available(b), 10000000 - 19000);
	assert_null(books_wrong(&b->books, &b->region));

	h = reserve(b, LEDGER_OK);
	settle(b, h, 0, 0, 0);
	assert_int_equal(available(b), 10000000 - 19000);
	assert_int_equal(b->books.voids, 1);
	assert_null(books_wrong(&b->books, &b->region));
	bench_free(b);
}

static void
reserve_takes_what_is_payable_down_to_the_floor(void **state)
{
	struct bench *b = bench_new(1000, 5000 + 3 * 2000 - 1000 + 1999);
	struct hold *h;

	(void)state;
	b->terms.min_tokens = 4;
	reserve(b, LEDGER_SHORT);
	assert_int_equal(available(b), 5000 + 3 * 2000 + 1999);
	assert_int_equal(ledger_holds_free(b->ledger), 12);
	b->terms.min_tokens = 3;
	h = reserve(b, LEDGER_OK);
	assert_int_equal(h->amount, 11000);
	assert_int_equal(available(b), 1999);
	b->terms.prompt = 0;
	b->terms.min_tokens = 1;
	reserve(b, LEDGER_SHORT);
	settle(b, h, 11000, 3, 0);
	assert_null(books_wrong(&b->books, &b->region));
	bench_free(b);
}

static void
sixty_four_reserves_on_credit_for_ten_admit_ten(void **state)
{
	struct bench *b = bench_new(0, 10 * 605000 + 604999);
	struct hold *h[64];
	int admitted = 0;

	(void)state;
	b->terms.min_tokens = 300;
	for (int i = 0; i < 64; i++) {
		uint64_t position;

		if (ledger_reserve(b->ledger, &b->terms, NULL, 0, &h[admitted], &position) ==
		    LEDGER_OK)
			admitted++;
	}
	assert_int_equal(admitted, 10);
	assert_int_equal(available(b), 604999);
	commit(b);
	while (admitted > 0)
		settle(b, h[--admitted], 605000, 300, 0);
	assert_null(books_wrong(&b->books, &b->region));
	bench_free(b);
}

static void
extend_takes_whole_tokens_and_refuses_without_harm(void **state)
{
	struct bench *b = bench_new(605000 + 100 * 2000 + 50 * 2000 + 1, 0);
	struct hold *h = reserve(b, LEDGER_OK);
	uint64_t position;

	(void)state;
	assert_int_equal(
	    ledger_extend(b->ledger, h, 300, false, NULL, 0, &position), LEDGER_OK);
	assert_int_equal(position, 0);
	ledger_meter(h, 250, 0);
	ledger_meter(h, 240, 0);
	assert_int_equal(ledger_extend(b->ledger, h, 400, false, "abc", 3, &position), LEDGER_OK);
	assert_int_equal(h->amount, 805000);
	assert_int_equal(last_entry(b)->record.type, JOURNAL_EXTEND);
	assert_int_equal(last_entry(b)->record.amount, 200000);
	assert_int_equal(last_entry(b)->record.extra, 805000);
	assert_int_equal(last_entry(b)->record.completion, 250);
	commit(b);
	assert_int_equal(ledger_extend(b->ledger, h, 700, false, NULL, 0, &position), LEDGER_OK);
	assert_int_equal(hold_covers(h, h->amount, false), 450);
	assert_int_equal(available(b), 1);
	commit(b);
	assert_int_equal(ledger_extend(b->ledger, h, 700, false, NULL, 0, &position), LEDGER_SHORT);
	assert_int_equal(available(b), 1);
	assert_int_equal(hold_covers(h, h->amount, false), 450);
	assert_int_equal(ledger_mark(b->ledger, h, NULL, 0, &position), LEDGER_OK);
	assert_int_equal(last_entry(b)->record.completion, 250);
	commit(b);
	settle(b, h, 5000 + 449 * 2000, 449, 0);
	assert_int_equal(available(b), 2001);
	assert_null(books_wrong(&b->books, &b->region));
	bench_free(b);
}

static void
overdraw_stops_at_the_floor(void **state)
{
	struct bench *b = bench_new(605000 + 1234, 0);
	struct hold *h = reserve(b, LEDGER_OK);
	uint64_t position;

	(void)state;
	assert_int_equal(ledger_overdraw(b->ledger, h, 605000, &position), LEDGER_OK);
	assert_int_equal(position, 0);
	assert_int_equal(ledger_overdraw(b->ledger, h, 605001, &position), LEDGER_OK);
	assert_int_not_equal(position, 0);
	assert_int_equal(h->amount, 605001);
	assert_int_equal(ledger_overdraw(b->ledger, h, 700000, &position), LEDGER_OK);
	assert_int_equal(h->amount, 605000 + 1234);
	assert_int_equal(available(b), 0);
	assert_int_equal(ledger_overdraw(b->ledger, h, 700000, &position), LEDGER_OK);
	assert_int_equal(position, 0);
	settle(b, h, 606234, 347, 5000 + 347 * 2000 - 606234);
	assert_int_equal(b->books.uncollected, 92766);
	assert_int_equal(available(b), 0);
	assert_null(books_wrong(&b->books, &b->region));
	bench_free(b);
}

static void
free_models_cost_nothing_even_at_the_floor(void **state)
{
	struct bench *b = bench_new(0, 0);
	struct hold *h;
	uint64_t position;

	(void)state;
	b->terms.price = (struct price){0};
	b->terms.price_id = 1;
	h = reserve(b, LEDGER_OK);
	assert_int_equal(h->amount, 0);
	assert_int_equal(hold_covers(h, h->amount, false), UINT32_MAX);
	assert_int_equal(ledger_extend(b->ledger, h, 5000, false, NULL, 0, &position), LEDGER_OK);
	ledger_meter(h, 5000, 0);
	struct settlement s = {.prompt = 10, .completion = 5000, .outcome = OUTCOME_STOP};
	assert_int_equal(ledger_settle(b->ledger, h, &s, NULL, 0, &position), LEDGER_OK);
	commit(b);
	assert_int_equal(ledger_close(b->ledger, h, position, NULL), RING_APPLIED);
	assert_int_equal(b->books.settles, 1);
	assert_null(books_wrong(&b->books, &b->region));
	bench_free(b);
}

static enum ring_status
credit(struct bench *b, enum journal_type type, int64_t amount, uint64_t ref)
{
	struct hold *h;
	uint64_t position;
	int64_t before = available(b), value;
	enum ring_status status;

	assert_int_equal(ledger_credit(b->ledger, b->account, type, amount, &ref, sizeof ref, &h,
			     &position),
	    LEDGER_OK);
	assert_int_equal(available(b), before);
	commit(b);
	assert_int_equal(available(b), before);
	status = ledger_close(b->ledger, h, position, &value);
	assert_int_equal(value, b->books.account[0].balance);
	assert_int_equal(available(b), before + (status == RING_APPLIED ? amount : 0));
	return status;
}

static void
credit_comes_after_its_record_and_once(void **state)
{
	struct bench *b = bench_new(0, 1000);

	(void)state;
	assert_int_equal(credit(b, JOURNAL_TOPUP, 5000, 11), RING_APPLIED);
	assert_int_equal(credit(b, JOURNAL_TOPUP, 5000, 11), RING_REPEATED);
	assert_int_equal(available(b), 6000);
	assert_int_equal(credit(b, JOURNAL_ADJUST, -9000, 12), RING_APPLIED);
	assert_int_equal(available(b), -3000);
	reserve(b, LEDGER_SHORT);
	assert_int_equal(credit(b, JOURNAL_ADJUST, 2000, 13), RING_APPLIED);
	assert_null(books_wrong(&b->books, &b->region));
	bench_free(b);
}

static void
an_overdraft_changes_after_its_record(void **state)
{
	static const int64_t change[] = {5000, -16000, 0};
	struct bench *b = bench_new(10000, 1000);
	int64_t now = 11000;
	uint64_t position;
	struct hold *h;

	(void)state;
	/* A frozen account too. */
	atomic_store(&b->account->flags, ACCOUNT_FROZEN);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(ledger_account_set(b->ledger, b->account, change[i], NULL, 0, &h,
				     &position),
		    LEDGER_OK);
		commit(b);
		assert_int_equal(available(b), now);
		assert_int_equal(ledger_close(b->ledger, h, position, NULL), RING_APPLIED);
		now += change[i];
		assert_int_equal(available(b), now);
	}
	assert_int_equal(now, 0);
	assert_int_equal(b->books.sets, 3);
	assert_null(books_wrong(&b->books, &b->region));
	bench_free(b);
}

static void
closed_and_frozen_accounts_are_refused(void **state)
{
	struct bench *b = bench_new(10000000, 0);
	struct hold *h = reserve(b, LEDGER_OK), *other;
	uint64_t position;

	(void)state;
	atomic_store(&b->account->flags, ACCOUNT_CLOSED);
	reserve(b, LEDGER_CLOSED);
	assert_int_equal(ledger_extend(b->ledger, h, 301, false, NULL, 0, &position), LEDGER_OK);
	atomic_store(&b->account->flags, ACCOUNT_FROZEN);
	reserve(b, LEDGER_CLOSED);
	assert_int_equal(ledger_extend(b->ledger, h, 302, false, NULL, 0, &position), LEDGER_CLOSED);
	assert_int_equal(ledger_credit(b->ledger, b->account, JOURNAL_TOPUP, 1, NULL, 0, &other,
			     &position),
	    LEDGER_CLOSED);
	settle(b, h, 605000, 300, 0);
	assert_null(books_wrong(&b->books, &b->region));
	bench_free(b);
}

static void
no_slot_and_no_room_change_nothing(void **state)
{
	struct bench *b = bench_new(INT64_MAX / 2, 0);
	struct hold *h[12], *more;
	uint64_t position;
	static char text[4097];

	(void)state;
	for (int i = 0; i < 12; i++)
		h[i] = reserve(b, LEDGER_OK);
	reserve(b, LEDGER_FULL);
	settle(b, h[11], 5000, 0, 0);
	assert_int_equal(ledger_reserve(b->ledger, &b->terms, text, sizeof text, &more, &position),
	    LEDGER_BUSY);
	while (ledger_mark(b->ledger, h[0], NULL, 0, &position) == LEDGER_OK)
		;
	int64_t before = available(b);
	uint64_t word = atomic_load(&h[0]->state);
	struct settlement s = {.voided = true};

	assert_int_equal(
	    ledger_reserve(b->ledger, &b->terms, NULL, 0, &more, &position), LEDGER_BUSY);
	assert_int_equal(ledger_extend(b->ledger, h[0], 999, false, NULL, 0, &position), LEDGER_BUSY);
	assert_int_equal(ledger_overdraw(b->ledger, h[0], 999999, &position), LEDGER_BUSY);
	assert_int_equal(ledger_settle(b->ledger, h[0], &s, NULL, 0, &position), LEDGER_BUSY);
	assert_int_equal(ledger_credit(b->ledger, b->account, JOURNAL_TOPUP, 1, NULL, 0, &more,
			     &position),
	    LEDGER_BUSY);
	assert_int_equal(available(b), before);
	assert_int_equal(atomic_load(&h[0]->state), word);
	commit(b);
	ring_ack(ledger_ring(b->ledger), ring_durable(ledger_ring(b->ledger)));
	for (int i = 0; i < 11; i++)
		settle(b, h[i], 0, 0, 0);
	assert_null(books_wrong(&b->books, &b->region));
	bench_free(b);
}

static void
sequences_go_on_from_the_books(void **state)
{
	struct bench *b = bench_new(10000000, 0);
	uint32_t slot = hold_first(&b->region, PROC_WORKER);
	struct hold *h;

	(void)state;
	hold_resume(&b->region, slot, 41);
	hold_resume(&b->region, slot, 17);
	h = reserve(b, LEDGER_OK);
	assert_int_equal(hold_slot(&b->region, h), slot);
	assert_int_equal(HOLD_SEQ(atomic_load(&h->state)), 42);
	hold_resume(&b->region, slot, 99);
	assert_int_equal(HOLD_SEQ(atomic_load(&h->state)), 42);
	/* A ledger made while a slot is taken leaves it alone. */
	struct ledger *second = ledger_new(&b->region, PROC_WORKER);
	assert_int_equal(ledger_holds_free(second), 11);
	ledger_free(second);
	settle(b, h, 0, 0, 0);
	bench_free(b);
}

/* --- threads ------------------------------------------------------------------------------ */

#define THREADS 4
#define ROUNDS 4000

static struct bench *shared;
static atomic_int running, below_floor, above_budget, short_extends, short_reserves;

/* Sleep: on a busy machine yielding threads pass the processor around for a slice each. */
static void
nap(void)
{
	const struct timespec ts = {.tv_nsec = 10000};

	nanosleep(&ts, NULL);
}

static void
wait_durable(struct ring *ring, uint64_t position)
{
	for (int i = 0; ring_durable(ring) < position; i++)
		if (i > 1000)
			nap();
}

static void
one_stream(struct ledger *l, unsigned int *seed)
{
	struct hold_terms t = shared->terms;
	struct settlement s = {.prompt = 10, .outcome = OUTCOME_STOP};
	uint64_t position;
	struct hold *h;
	uint32_t n;

	t.want_tokens = 1 + (uint32_t)rand_r(seed) % 20;
	if (ledger_reserve(l, &t, "x", 1, &h, &position) != LEDGER_OK) {
		short_reserves++;
		nap();
		return;
	}
	n = hold_covers(h, h->amount, false);
	while (rand_r(seed) % 2) {
		if (ledger_extend(l, h, n + 5, false, NULL, 0, &position) == LEDGER_OK)
			n = hold_covers(h, h->amount, false);
		else
			short_extends++;
	}
	s.completion = (uint32_t)rand_r(seed) % (n + 1);
	ledger_meter(h, s.completion, 0);
	s.voided = s.completion == 0;
	if (s.voided)
		s.prompt = 0;
	else
		s.charge = price_cost(&t.price, 10, 0, s.completion);
	while (ledger_settle(l, h, &s, NULL, 0, &position) == LEDGER_BUSY)
		nap();
	wait_durable(ledger_ring(l), position);
	ledger_close(l, h, position, NULL);
	ring_ack(ledger_ring(l), position);
}

static void *
worker_main(void *arg)
{
	uint32_t proc = PROC_WORKER + (uint32_t)(uintptr_t)arg;
	struct ledger *l = ledger_new(&shared->region, proc);
	unsigned int seed = proc;

	for (int i = 0; i < ROUNDS; i++) {
		struct hold *h;
		uint64_t position;

		one_stream(l, &seed);
		/* Put back about what is charged. */
		if (rand_r(&seed) % 4 != 0 ||
		    ledger_credit(l, shared->account, JOURNAL_TOPUP, 70000, NULL, 0, &h,
			&position) != LEDGER_OK)
			continue;
		wait_durable(ledger_ring(l), position);
		ledger_close(l, h, position, NULL);
		ring_ack(ledger_ring(l), position);
	}
	ledger_free(l);
	running--;
	return NULL;
}

static void *
keeper_main(void *arg)
{
	bool last = false;

	for (;;) {
		uint32_t n = 0;

		if (running == 0)
			last = true;
		for (uint32_t p = PROC_WORKER; p < PROC_WORKER + THREADS; p++)
			n += books_drain(&shared->books, &shared->region, p);
		if (account_available(shared->account) < 0)
			below_floor++;
		for (int i = 0; i < BUDGETS; i++) {
			const struct purse *p = &shared->account->budget[i];

			if (purse_cap(p) != 0 && purse_used(p, 0) > purse_cap(p))
				above_budget++;
		}
		if (last && n == 0)
			return arg;
		if (n == 0)
			nap();
	}
}

static void
threads(int64_t balance, int64_t budget)
{
	pthread_t worker[THREADS], keeper;

	shared = bench_new(balance, 0);
	for (int i = 0; i < BUDGETS && budget != 0; i++)
		purse_set_cap(&shared->account->budget[i], budget + i);
	running = THREADS;
	below_floor = above_budget = short_reserves = short_extends = 0;
	pthread_create(&keeper, NULL, keeper_main, NULL);
	for (uintptr_t i = 0; i < THREADS; i++)
		pthread_create(&worker[i], NULL, worker_main, (void *)i);
	for (int i = 0; i < THREADS; i++)
		pthread_join(worker[i], NULL);
	pthread_join(keeper, NULL);
	const char *wrong = books_wrong(&shared->books, &shared->region);
	if (wrong != NULL)
		fail_msg("%s", wrong);
	assert_int_equal(below_floor, 0);
	assert_int_equal(above_budget, 0);
	assert_true(shared->books.settles > 1000 && shared->books.extends > 1000);
	/* Once a budget is used up nothing is left that could be extended: only some runs meet that. */
	assert_true(short_reserves > 0 && (short_extends > 0 || budget != 0));
	if (budget != 0)
		assert_in_range(shared->books.account[0].charged, budget - 100000, budget);
	bench_free(shared);
}

static void
threads_on_one_account_conserve_and_keep_the_floor(void **state)
{
	(void)state;
	/* Room for two ordinary holds: nearly every reserve is contended or short. */
	threads(100000, 0);
}

static void
threads_on_one_account_keep_its_budgets(void **state)
{
	(void)state;
	threads(INT64_C(1) << 50, 60000000);
}

static enum ledger_result
reserve_any(struct bench *b)
{
	struct hold *h;
	uint64_t position;

	return ledger_reserve(b->ledger, &b->terms, NULL, 0, &h, &position);
}

/* What the worker says of a stream goes in front of its text, with the kinds that the hold has. */
static void
an_end_says_how_it_went(void **state)
{
	static const char name[] = "a provider whose name is sixty-four bytes long, and no byte more";
	struct bench *b = bench_new(100000000, 0);
	const struct journal_end said = {.split = {77, 77},
	    .opened_ms = 3,
	    .first_ms = 9,
	    .counted = COUNTED_PROVIDERS,
	    .attempts = 2,
	    .provider_len = 1};
	char text[256], payload[sizeof text + JOURNAL_END_MAX];

	(void)state;
	memset(text, 'x', sizeof text);
	for (uint8_t len = 0; len <= JOURNAL_PROVIDER_MAX; len += 32) {
		for (int voided = 0; voided < 2; voided++) {
			struct settlement s = {.voided = voided != 0,
			    .outcome = OUTCOME_STOP,
			    .end = &said,
			    .provider = name,
			    .provider_len = len};
			struct hold *h = reserve(b, LEDGER_OK);
			struct journal_end end;
			struct ring_entry *e;
			uint64_t position;

			if (!s.voided) {
				s.prompt = 10;
				s.completion = 5;
				s.reasoning = 4;
				s.cache_write = 3;
				s.charge = price_cost(&b->terms.price, 10, 0, 5);
			}
			assert_int_equal(
			    ledger_settle(b->ledger, h, &s, text, sizeof text, &position),
			    LEDGER_OK);
			e = ring_peek(ledger_ring(b->ledger), position);
			assert_int_equal(e->record.version, JOURNAL_VERSION_TOLD);
			assert_int_equal(
			    e->record.payload_len, sizeof end + len + sizeof text);
			ring_payload(ledger_ring(b->ledger), e, payload);
			memcpy(&end, payload, sizeof end);
			assert_int_equal(end.split.reasoning, s.reasoning);
			assert_int_equal(end.split.cache_write, s.cache_write);
			assert_int_equal(end.opened_ms, 3);
			assert_int_equal(end.first_ms, 9);
			assert_int_equal(end.counted, COUNTED_PROVIDERS);
			assert_int_equal(end.attempts, 2);
			assert_int_equal(end.provider_len, len);
			assert_memory_equal(payload + sizeof end, name, len);
			assert_int_equal(
			    journal_head_len(&e->record, payload, e->record.payload_len),
			    sizeof end + len);
			assert_memory_equal(payload + sizeof end + len, text, sizeof text);
			commit(b);
			assert_int_equal(
			    ledger_close(b->ledger, h, position, NULL), RING_APPLIED);
			ring_ack(ledger_ring(b->ledger), position);
		}
	}
	bench_free(b);
}

/* With dear reasoning the whole slice is claimed at that price, and an extend at what it takes. */
static void
a_budget_pays_as_much_as_credit_would(void **state)
{
	struct bench *b = bench_new(100000000, 0);
	struct purse *day = &b->account->budget[BUDGET_DAY];
	struct settlement s = {.prompt = 10, .completion = 400, .reasoning = 200,
	    .outcome = OUTCOME_STOP};
	struct hold *h;
	uint64_t position;

	(void)state;
	b->terms.price.reasoning = 3000000000;
	*region_price(&b->region, 0) = b->terms.price;
	purse_set_cap(day, 5000 + 300 * 3000 + 100 * 2000);
	h = reserve(b, LEDGER_OK);
	assert_int_equal(h->amount, 5000 + 300 * 3000);
	assert_int_equal(purse_used(day, 0), h->amount);
	commit(b);
	ledger_meter(h, 200, 200);
	assert_int_equal(ledger_extend(b->ledger, h, 600, false, NULL, 0, &position), LEDGER_OK);
	assert_int_equal(hold_covers(h, h->amount, false), 450);
	assert_int_equal(purse_used(day, 0), h->amount);
	commit(b);
	assert_int_equal(ledger_extend(b->ledger, h, 600, false, NULL, 0, &position),
	    LEDGER_BUDGET_DAY);
	assert_int_equal(reserve_any(b), LEDGER_BUDGET_DAY);
	/* The month's has no more than the day's. */
	ledger_meter(h, 400, 200);
	s.charge = 5000 + 200 * 3000 + 200 * 2000;
	assert_int_equal(ledger_settle(b->ledger, h, &s, NULL, 0, &position), LEDGER_OK);
	commit(b);
	assert_int_equal(ledger_close(b->ledger, h, position, NULL), RING_APPLIED);
	ring_ack(ledger_ring(b->ledger), position);
	assert_int_equal(purse_used(day, 0), s.charge);
	purse_set_cap(&b->account->budget[BUDGET_MONTH], 7999);
	assert_int_equal(reserve_any(b), LEDGER_BUDGET_MONTH);
	assert_int_equal(purse_used(day, 0), s.charge);
	/* Without an end: also what began under one. */
	purse_set_cap(&b->account->budget[BUDGET_MONTH], 0);
	h = reserve(b, LEDGER_OK);
	purse_set_cap(day, 0);
	commit(b);
	assert_int_equal(ledger_extend(b->ledger, h, 1000, true, NULL, 0, &position), LEDGER_OK);
	assert_int_equal(h->amount, 5000 + 1000 * 3000);
	assert_int_equal(purse_used(day, 0), s.charge + h->amount);
	bench_free(b);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(seats),
	    cmocka_unit_test(seats_of_a_key),
	    cmocka_unit_test(reserve_takes_prompt_and_slice_settle_gives_the_rest),
	    cmocka_unit_test(reserve_takes_what_is_payable_down_to_the_floor),
	    cmocka_unit_test(sixty_four_reserves_on_credit_for_ten_admit_ten),
	    cmocka_unit_test(extend_takes_whole_tokens_and_refuses_without_harm),
	    cmocka_unit_test(overdraw_stops_at_the_floor),
	    cmocka_unit_test(free_models_cost_nothing_even_at_the_floor),
	    cmocka_unit_test(credit_comes_after_its_record_and_once),
	    cmocka_unit_test(an_overdraft_changes_after_its_record),
	    cmocka_unit_test(closed_and_frozen_accounts_are_refused),
	    cmocka_unit_test(no_slot_and_no_room_change_nothing),
	    cmocka_unit_test(sequences_go_on_from_the_books),
	    cmocka_unit_test(a_budget_pays_as_much_as_credit_would),
	    cmocka_unit_test(an_end_says_how_it_went),
	    cmocka_unit_test(threads_on_one_account_conserve_and_keep_the_floor),
	    cmocka_unit_test(threads_on_one_account_keep_its_budgets),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
