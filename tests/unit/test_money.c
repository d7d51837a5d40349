/*
 * Goal:   amounts survive being text, nothing rounds but a cost once, and covers is cost's exact
 *         inverse.
 * Method: boundaries by hand; random values against a plain 128-bit reference.
 * objs: shm/money.o
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "shm/money.h"

typedef unsigned __int128 u128;

static uint64_t rng = 88172645463325252u;

static uint64_t
rnd(void)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	return rng ^= rng << 17;
}

/* Of every magnitude alike. */
static uint64_t
rnd_wide(int bits)
{
	return rnd() >> (64 - bits) >> rnd() % (uint64_t)bits;
}

static void
parses_what_is_decimal_and_nothing_else(void **state)
{
	static const struct {
		const char *text;
		int64_t amount;
		int error;
	} table[] = {
	    {"0", 0, 0}, {"-0", 0, 0}, {"+0.000000", 0, 0}, {"12", 12000000, 0},
	    {"-0.5", -500000, 0}, {"+3.000001", 3000001, 0}, {"007.10", 7100000, 0},
	    {"0.000001", 1, 0}, {"-0.000001", -1, 0},
	    {"00000000000000000000000000000000001", 1000000, 0},
	    {"9223372036854.775807", INT64_MAX, 0}, {"-9223372036854.775808", INT64_MIN, 0},
	    {"9223372036854.775808", 0, ERANGE}, {"-9223372036854.775809", 0, ERANGE},
	    {"9223372036855", 0, ERANGE}, {"18446744073709551616", 0, ERANGE},
	    {"99999999999999999999999999999999.5", 0, ERANGE},
	    {"99999999999999999999999999999999x", 0, EINVAL},
	    {"", 0, EINVAL}, {"-", 0, EINVAL}, {"+", 0, EINVAL}, {".", 0, EINVAL},
	    {".5", 0, EINVAL}, {"5.", 0, EINVAL}, {"-.5", 0, EINVAL}, {"--1", 0, EINVAL},
	    {"+-1", 0, EINVAL}, {"1.0000000", 0, EINVAL}, {"1.0000001", 0, EINVAL},
	    {" 1", 0, EINVAL}, {"1 ", 0, EINVAL}, {"1e3", 0, EINVAL}, {"0x10", 0, EINVAL},
	    {"1,5", 0, EINVAL}, {"1.2.3", 0, EINVAL}, {"inf", 0, EINVAL}, {"1_000", 0, EINVAL},
	};

	(void)state;
	for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
		int64_t amount = 0;
		int got;

		errno = 0;
		got = money_parse(table[i].text, strlen(table[i].text), &amount);
		if (got != (table[i].error ? -1 : 0) || errno != table[i].error ||
		    amount != table[i].amount)
			fail_msg("\"%s\": %d, errno %d", table[i].text, got, errno);
	}
	/* The length counts, not a NUL. */
	int64_t amount;
	assert_int_equal(money_parse("12.5xyz", 4, &amount), 0);
	assert_int_equal(amount, 12500000);
	assert_int_equal(money_parse("1\0002", 3, &amount), -1);
}

static void
formats_the_shortest_form(void **state)
{
	static const struct {
		int64_t amount;
		const char *text;
	} table[] = {
	    {0, "0"}, {1, "0.000001"}, {-1, "-0.000001"}, {10, "0.00001"}, {500000, "0.5"},
	    {-200000000, "-200"}, {1000000, "1"}, {10000000, "10"}, {1200300, "1.2003"},
	    {INT64_MAX, "9223372036854.775807"}, {INT64_MIN, "-9223372036854.775808"},
	};
	char text[MONEY_TEXT_MAX];

	(void)state;
	for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
		assert_int_equal(money_format(text, table[i].amount), strlen(table[i].text));
		assert_string_equal(text, table[i].text);
	}
}

static void
text_and_back_is_the_same(void **state)
{
	(void)state;
	for (int i = 0; i < 300000; i++) {
		int64_t amount = (int64_t)rnd_wide(64), back = 1;
		char text[MONEY_TEXT_MAX];
		size_t len;

		if (rnd() & 1)
			amount = (int64_t)(0 - (uint64_t)amount);
		len = money_format(text, amount);
		assert_int_equal(money_parse(text, len, &back), 0);
		assert_true(back == amount);
	}
}

/* Slowly and plainly: saturates only at the end. */
static int64_t
reference(const struct price *p, uint64_t prompt, uint64_t cached, uint64_t completion)
{
	u128 part[3] = {(u128)prompt * (uint64_t)p->prompt, (u128)cached * (uint64_t)p->cached,
	    (u128)completion * (uint64_t)p->completion};
	u128 whole = 0, rest = 0;

	for (int i = 0; i < 3; i++) {
		whole += part[i] / 1000000;
		rest += part[i] % 1000000;
	}
	whole += (rest + 999999) / 1000000;
	return whole > INT64_MAX ? INT64_MAX : (int64_t)whole;
}

static struct price
rnd_price(int bits)
{
	return (struct price){.prompt = (int64_t)rnd_wide(bits),
	    .cached = (int64_t)rnd_wide(bits), .completion = (int64_t)rnd_wide(bits)};
}

static void
cost_is_exact_and_rounded_up_once(void **state)
{
	const struct price tiny = {.prompt = 1, .cached = 1, .completion = 1};
	const struct price huge = {.prompt = INT64_MAX, .cached = INT64_MAX,
	    .completion = INT64_MAX};

	(void)state;
	assert_int_equal(price_cost(&tiny, 0, 0, 0), 0);
	assert_int_equal(price_cost(&tiny, 1, 1, 1), 1);
	assert_int_equal(price_cost(&tiny, 500000, 0, 500000), 1);
	assert_int_equal(price_cost(&tiny, 500000, 1, 500000), 2);
	assert_int_equal(price_cost(&huge, UINT64_MAX, UINT64_MAX, UINT64_MAX), INT64_MAX);
	assert_int_equal(price_cost(&huge, 1000000, 0, 0), INT64_MAX);
	assert_int_equal(price_cost(&huge, 999999, 0, 0), INT64_MAX / 1000000 * 999999 +
	    (INT64_MAX % 1000000 * 999999 + 999999) / 1000000);
	for (int i = 0; i < 1000000; i++) {
		/* Half of them of sizes that occur, half beyond all bounds. */
		struct price p = rnd_price(i & 1 ? 40 : 63);
		uint64_t a = rnd_wide(i & 1 ? 32 : 64), b = rnd_wide(i & 1 ? 32 : 64),
			 c = rnd_wide(i & 1 ? 32 : 64);

		assert_true(price_cost(&p, a, b, c) == reference(&p, a, b, c));
	}
}

static void
covers_is_the_inverse_of_cost(void **state)
{
	struct price p = {.prompt = 3, .cached = 0, .completion = 0};

	(void)state;
	assert_true(price_covers(&p, 1000000, 0, 3) == INT64_MAX);
	assert_true(price_covers(&p, 1000000, 0, 2) == -1);
	assert_true(price_covers(&p, 0, 0, -1) == -1);
	p.completion = 1;
	assert_true(price_covers(&p, 0, 0, INT64_MAX) == INT64_MAX);
	for (int i = 0; i < 1000000; i++) {
		uint64_t prompt = rnd_wide(32), cached = rnd_wide(20);
		int64_t amount = (int64_t)rnd_wide(62), n;

		p = rnd_price(i & 1 ? 40 : 60);
		n = price_covers(&p, prompt, cached, amount);
		if (n == -1)
			assert_true(reference(&p, prompt, cached, 0) > amount);
		else if (p.completion == 0)
			assert_true(n == INT64_MAX);
		else
			assert_true(n >= 0 &&
			    reference(&p, prompt, cached, (uint64_t)n) <= amount &&
			    (n == INT64_MAX ||
				reference(&p, prompt, cached, (uint64_t)n + 1) > amount));
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(parses_what_is_decimal_and_nothing_else),
	    cmocka_unit_test(formats_the_shortest_form),
	    cmocka_unit_test(text_and_back_is_the_same),
	    cmocka_unit_test(cost_is_exact_and_rounded_up_once),
	    cmocka_unit_test(covers_is_the_inverse_of_cost),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
