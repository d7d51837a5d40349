#include "tests/unit/victim.h"

#include <unistd.h>

#include "shm/ring.h"

const struct price victim_price = {.prompt = 1500000, .cached = 0, .completion = 2700001,
    .reasoning = 2700001, .cache_write = 1500000};

static struct region *region;
static uint32_t proc;
static struct ledger *ledger; /* in the child */

void
victim_region(struct region *r, uint32_t owner)
{
	region = r;
	proc = owner;
}

/* Six tokens, 27 micro-credits; one would do. */
struct hold_terms
victim_terms(struct region *r)
{
	struct key_entry *key = atomic_load(&r->h->keys) > 0 ? key_at(r, 0) : NULL;

	return (struct hold_terms){.account = account_at(r, 0),
	    .purse = key,
	    .key = key,
	    .key_seats = key != NULL ? 100 : 0,
	    .price = victim_price,
	    .prompt = 7,
	    .max_tokens = 100,
	    .min_tokens = 1,
	    .want_tokens = 6,
	    .reserved_us = 1};
}

static void
must(bool ok)
{
	if (!ok)
		_exit(1);
}

static void
begin(void)
{
	ledger = ledger_new(region, proc);
	must(ledger != NULL);
}

static void
wait_durable(uint64_t position)
{
	while (ring_durable(ledger_ring(ledger)) < position)
		;
}

/* Wait, give back, free. */
static void
finish(struct hold *h, uint64_t position)
{
	wait_durable(position);
	ledger_close(ledger, h, position, NULL);
	ring_ack(ledger_ring(ledger), position);
}

static void
end(struct hold *h, const struct settlement *s)
{
	uint64_t position;

	must(ledger_settle(ledger, h, s, "bye", 3, &position) == LEDGER_OK);
	finish(h, position);
}

/* Reserve, meter, extend by whole and by what there is, settle. */
static void
stream(void)
{
	struct hold_terms t = victim_terms(region);
	struct settlement s = {.prompt = 7, .outcome = OUTCOME_STOP};
	struct hold *h;
	uint64_t position;

	begin();
	must(ledger_reserve(ledger, &t, "hello", 5, &h, &position) == LEDGER_OK);
	wait_durable(position);
	ledger_meter(h, 3, 0);
	/* Ahead of the hold: between debit and record the reaper has to bring the record, for
	 * it charges for these tokens. */
	ledger_meter(h, 9, 0);
	must(ledger_extend(ledger, h, 11, false, "abc", 3, &position) == LEDGER_OK);
	wait_durable(position);
	ledger_meter(h, 10, 0);
	/* Against an account that has nothing left it is LEDGER_SHORT. */
	if (ledger_extend(ledger, h, 1000, false, NULL, 0, &position) == LEDGER_OK)
		wait_durable(position);
	s.completion = 10;
	s.charge = price_cost(&victim_price, 7, 0, 10);
	end(h, &s);
}

/* A usage above the hold, all of it there; a mark, a void; a top-up. */
static void
overdraw_void_credit(void)
{
	struct hold_terms t = victim_terms(region);
	struct settlement s = {.prompt = 7, .completion = 9, .outcome = OUTCOME_STOP};
	struct settlement nothing = {.voided = true, .outcome = OUTCOME_CANCELLED};
	struct hold *h;
	uint64_t position;

	begin();
	must(ledger_reserve(ledger, &t, NULL, 0, &h, &position) == LEDGER_OK);
	wait_durable(position);
	ledger_meter(h, 6, 0);
	s.charge = price_cost(&victim_price, 7, 0, 9);
	must(ledger_overdraw(ledger, h, s.charge, &position) == LEDGER_OK);
	s.uncollected = s.charge - h->amount;
	s.charge = h->amount;
	end(h, &s);
	must(ledger_reserve(ledger, &t, NULL, 0, &h, &position) == LEDGER_OK);
	must(ledger_mark(ledger, h, NULL, 0, &position) == LEDGER_OK);
	end(h, &nothing);
	must(ledger_credit(ledger, t.account, JOURNAL_TOPUP, 23, NULL, 0, &h, &position) ==
	     LEDGER_OK);
	finish(h, position);
}

/*
 * On an account that cannot pay: a reserve is refused, the next one granted for what there is; an
 * extend takes the last whole tokens, the next none; an overdraw the last micro-credits, the next
 * none; the rest stays uncollected.
 */
static void
poor(void)
{
	struct hold_terms t = victim_terms(region);
	struct settlement s = {.prompt = 7, .completion = 30, .outcome = OUTCOME_STOP};
	enum ledger_result got;
	struct hold *h;
	uint64_t position;

	begin();
	t.min_tokens = 50;
	got = ledger_reserve(ledger, &t, NULL, 0, &h, &position);
	must(LEDGER_CANNOT_PAY(got));
	t.min_tokens = 1;
	got = ledger_reserve(ledger, &t, "hello", 5, &h, &position);
	must(got == LEDGER_OK || LEDGER_CANNOT_PAY(got));
	if (got != LEDGER_OK)
		return;
	wait_durable(position);
	ledger_meter(h, hold_covers(h, h->amount, false), 0);
	for (int i = 0; i < 2; i++) {
		got = ledger_extend(ledger, h, 1000, false, "abc", 3, &position);
		must(got == LEDGER_OK || LEDGER_CANNOT_PAY(got));
	}
	must(ledger_mark(ledger, h, "def", 3, &position) == LEDGER_OK);
	wait_durable(position);
	ring_ack(ledger_ring(ledger), position);
	s.charge = price_cost(&victim_price, 7, 0, 30);
	for (int i = 0; i < 2; i++)
		must(ledger_overdraw(ledger, h, s.charge, &position) == LEDGER_OK);
	s.uncollected = s.charge - h->amount;
	s.charge = h->amount;
	must(s.uncollected > 0);
	end(h, &s);
}

/* A higher overdraft, a lower one, and an adjustment below zero. */
static void
settings(void)
{
	static const int64_t change[] = {40, -60, 0, -9};
	struct hold_terms t = victim_terms(region);
	uint64_t position;
	struct hold *h;

	begin();
	for (int i = 0; i < 4; i++) {
		must((i == 3 ? ledger_credit(ledger, t.account, JOURNAL_ADJUST, change[i], NULL, 0,
		                   &h, &position)
		             : ledger_account_set(ledger, t.account, change[i], NULL, 0, &h,
		                   &position)) == LEDGER_OK);
		finish(h, position);
	}
}

/* The first has enough for itself and, now and then, the rival; not for its last extend. */
const struct victim victims[] = {
    {"stream", stream, 200, true},
    {"overdraw, void, credit", overdraw_void_credit, 200, false},
    {"refused, short, uncollected", poor, 60, false},
    {"settings, adjustment", settings, 200, false},
};
const size_t victim_count = sizeof victims / sizeof victims[0];
