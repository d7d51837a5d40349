/*
 * Goal:   preview and send mean the same: what a quote calls allowed is what a reserve grants, to
 *         the micro-credit; the estimate follows how long answers were.
 * Method: quotes against a real ledger on an anonymous region, around the edge of the credit.
 *
 * objs: shm/money.o shm/ring.o shm/region.o shm/account.o shm/hold.o shm/ledger.o shm/seat.o shm/reap.o shm/purse.o
 * objs: daemon/quote.o tests/unit/books.o
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/quote.h"
#include "shm/ring.h"
#include "tests/unit/books.h"

static const struct price price = {.prompt = 150000, .cached = 75000, .completion = 600000,
    .reasoning = 600000, .cache_write = 150000};

static struct config config;

static void
configure(uint32_t slice, bool hidden)
{
	memset(&config, 0, sizeof config);
	config.ledger.slice_tokens = slice;
	config.model_count = 1;
	config.model[0].hidden_tokens = hidden;
	config.model[0].max_completion = 4096;
}

static void
make_region(struct region *region)
{
	static const struct region_dims dims = {.workers = 1,
	    .max_accounts = 4,
	    .max_keys = 4,
	    .max_holds = 9 * 4,
	    .ring_records = 256,
	    .ring_arena = 4096};

	assert_int_equal(region_anonymous(region, &dims), 0);
	*region_price(region, 5) = price;
	atomic_store(region_model_price(region, 0), 5);
}

static void
test_price_in_force(void **state)
{
	struct region region;
	struct price got;

	(void)state;
	make_region(&region);
	assert_int_equal(quote_price(&region, 0, &got), 5);
	assert_memory_equal(&got, &price, sizeof got);
	region_unmap(&region);
}

static void
test_want(void **state)
{
	struct region region;
	struct chat_request r = {.choices = 1, .model = 0, .prompt_tokens = 1000, .max_tokens = 700};
	struct quote q;

	(void)state;
	make_region(&region);
	configure(300, false);
	quote_make(&config, &region, &r, &price, &q);
	assert_int_equal(q.min_tokens, 1);
	assert_int_equal(q.want_tokens, 300);
	assert_int_equal(q.required, price_cost(&price, 1000, 0, 1));
	assert_int_equal(q.max_cost, price_cost(&price, 1000, 0, 700));
	r.max_tokens = 20;
	quote_make(&config, &region, &r, &price, &q);
	assert_int_equal(q.want_tokens, 20);
	assert_int_equal(q.estimated_cost, q.max_cost);
	/* What can't be counted in flight is reserved whole. */
	configure(300, true);
	r.max_tokens = 700;
	quote_make(&config, &region, &r, &price, &q);
	assert_int_equal(q.want_tokens, 700);
	region_unmap(&region);
}

static enum ledger_result
try_reserve(struct region *region, struct ledger *l, struct account *a,
    const struct chat_request *r, const struct quote *q)
{
	struct hold_terms t = {.account = a,
	    .price = price,
	    .price_id = 5,
	    .prompt = r->prompt_tokens,
	    .max_tokens = r->max_tokens,
	    .min_tokens = q->min_tokens,
	    .want_tokens = q->want_tokens};
	struct settlement none = {.voided = true};
	struct books unused = {0};
	uint64_t position;
	struct hold *h;
	enum ledger_result result = ledger_reserve(l, &t, NULL, 0, &h, &position);

	if (result != LEDGER_OK)
		return result;
	assert_int_equal(ledger_settle(l, h, &none, NULL, 0, &position), LEDGER_OK);
	unused.account[a->number].indulged = true;
	books_drain(&unused, region, PROC_WORKER);
	assert_int_equal(ledger_close(l, h, position, NULL), RING_APPLIED);
	ring_ack(ledger_ring(l), position);
	return result;
}

static void
test_allowed_is_granted(void **state)
{
	struct region region;
	struct books books = {0};
	struct ledger *l;
	struct account *a;
	struct quote q;

	(void)state;
	make_region(&region);
	configure(300, false);
	a = books_open(&books, &region, "a", 0, 0);
	l = ledger_new(&region, PROC_WORKER);
	assert_non_null(l);
	for (uint32_t prompt = 4; prompt < 4000; prompt = prompt * 2 + 1) {
		struct chat_request r = {.choices = 1, .prompt_tokens = prompt, .max_tokens = 900};

		quote_make(&config, &region, &r, &price, &q);
		for (int64_t more = -2; more <= 2; more++) {
			a->word.available = q.required + more;
			assert_int_equal(quote_ask(a, NULL, &q), more >= 0 ? LEDGER_OK : LEDGER_SHORT);
			assert_int_equal(try_reserve(&region, l, a, &r, &q),
			    more >= 0 ? LEDGER_OK : LEDGER_SHORT);
			assert_int_equal(account_available(a), q.required + more);
		}
	}
	for (uint32_t flag = ACCOUNT_CLOSED; flag <= ACCOUNT_FROZEN; flag <<= 1) {
		struct chat_request r = {.choices = 1, .prompt_tokens = 10, .max_tokens = 900};

		if ((flag & (ACCOUNT_CLOSED | ACCOUNT_FROZEN)) == 0)
			continue;
		a->word.available = 1000000;
		atomic_store(&a->flags, flag);
		quote_make(&config, &region, &r, &price, &q);
		assert_int_equal(quote_ask(a, NULL, &q), LEDGER_CLOSED);
		assert_int_equal(try_reserve(&region, l, a, &r, &q), LEDGER_CLOSED);
	}
	ledger_free(l);
	region_unmap(&region);
}

static void
test_mean(void **state)
{
	struct region region;
	struct chat_request r = {.choices = 1, .prompt_tokens = 100, .max_tokens = 4000};
	struct quote q;

	(void)state;
	make_region(&region);
	configure(300, false);
	/* Nothing known: a slice. */
	quote_make(&config, &region, &r, &price, &q);
	assert_int_equal(q.estimated_cost, price_cost(&price, 100, 0, 300));
	quote_learn(&region, 0, 1000);
	quote_make(&config, &region, &r, &price, &q);
	assert_int_equal(q.estimated_cost, price_cost(&price, 100, 0, 1000));
	/* It follows, and stays where the answers are. */
	for (int i = 0; i < 200; i++)
		quote_learn(&region, 0, 40);
	quote_make(&config, &region, &r, &price, &q);
	assert_in_range(
	    q.estimated_cost, price_cost(&price, 100, 0, 39), price_cost(&price, 100, 0, 41));
	/* A length that cannot be does not wrap it. */
	for (int i = 0; i < 100; i++)
		quote_learn(&region, 0, UINT32_MAX);
	quote_make(&config, &region, &r, &price, &q);
	assert_int_equal(q.estimated_cost, q.max_cost);
	region_unmap(&region);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_price_in_force),
	    cmocka_unit_test(test_want),
	    cmocka_unit_test(test_allowed_is_granted),
	    cmocka_unit_test(test_mean),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
