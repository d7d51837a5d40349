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
reference_of(const struct price *p, const struct tokens *t)
{
	u128 part[5] = {(u128)(t->prompt - t->cache_write) * (uint64_t)p->prompt,
	    (u128)t->cached * (uint64_t)p->cached,
	    (u128)(t->completion - t->reasoning) * (uint64_t)p->completion,
	    (u128)t->reasoning * (uint64_t)p->reasoning,
	    (u128)t->cache_write * (uint64_t)p->cache_write};
	u128 whole = (uint64_t)p->request, rest = 0;

	for (int i = 0; i < 5; i++) {
		whole += part[i] / 1000000;
		rest += part[i] % 1000000;
	}
	whole += (rest + 999999) / 1000000;
	return whole > INT64_MAX ? INT64_MAX : (int64_t)whole;
}

static int64_t
reference(const struct price *p, uint64_t prompt, uint64_t cached, uint64_t completion)
{
	return reference_of(
	    p, &(struct tokens){.prompt = prompt, .cached = cached, .completion = completion});
}

static struct price
rnd_price(int bits)
{
	struct price p;

	for (int kind = 0; kind < PRICE_KINDS; kind++)
		*price_field(&p, (enum price_kind)kind) =
		    rnd() % 8 == 0 ? 0 : (int64_t)rnd_wide(bits);
	return p;
}

static struct tokens
rnd_tokens(int bits)
{
	struct tokens t = {.prompt = rnd_wide(bits), .cached = rnd_wide(bits),
	    .completion = rnd_wide(bits)};

	t.reasoning = rnd() % 4 == 0 ? t.completion : rnd() % (t.completion / 2 + 1);
	t.cache_write = rnd() % 4 == 0 ? t.prompt : rnd() % (t.prompt / 2 + 1);
	return t;
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
kinds_have_prices_of_their_own(void **state)
{
	const struct price p = {.prompt = 1000000, .cached = 2000000, .completion = 4000000,
	    .reasoning = 8000000, .cache_write = 16000000, .request = 32};
	const struct price huge = {INT64_MAX, INT64_MAX, INT64_MAX, INT64_MAX, INT64_MAX, INT64_MAX};
	const uint64_t most = UINT64_MAX;

	(void)state;
	assert_int_equal(price_cost_of(&p, &(struct tokens){0}), 32);
	assert_int_equal(price_cost_of(&p, &(struct tokens){3, 1, 5, 2, 1}),
	    32 + 2 * 1 + 1 * 2 + 3 * 4 + 2 * 8 + 1 * 16);
	/* More than there are is all of them. */
	assert_int_equal(price_cost_of(&p, &(struct tokens){3, 0, 5, 9, 9}), 32 + 5 * 8 + 3 * 16);
	assert_true(price_cost_of(&huge, &(struct tokens){0}) == INT64_MAX);
	assert_true(price_cost_of(&huge, &(struct tokens){most, most, most, most / 2, most / 2}) ==
	            INT64_MAX);
	assert_true(price_covers_of(&huge, &(struct tokens){most, most, most, most / 2, most / 2},
	                true, INT64_MAX) == -1);
	for (int i = 0; i < 1000000; i++) {
		struct price any = rnd_price(i & 1 ? 40 : 63);
		struct tokens t = rnd_tokens(i & 1 ? 32 : 64);

		assert_true(price_cost_of(&any, &t) == reference_of(&any, &t));
	}
}

/* With so many tokens of one kind there already, how many of the other does it pay? */
static void
covers_and_fits_with_two_kinds(void **state)
{
	(void)state;
	for (int i = 0; i < 1000000; i++) {
		struct price p = rnd_price(i & 1 ? 40 : 60);
		struct tokens t = rnd_tokens(i & 1 ? 20 : 32), fit = t, more;
		int64_t amount = (int64_t)rnd_wide(62), n;
		bool thought = rnd() & 1;

		n = price_covers_of(&p, &t, thought, amount);
		more = t;
		more.completion = thought ? t.completion - t.reasoning : t.reasoning;
		more.reasoning = thought ? 0 : t.reasoning;
		if (n == -1) {
			assert_true(reference_of(&p, &more) > amount);
		} else if (n < INT64_MAX) {
			assert_true(n >= (int64_t)more.completion);
			for (int k = 0; k < 2; k++) {
				more.reasoning += thought ? (uint64_t)n + (uint64_t)k - more.completion : 0;
				more.completion = (uint64_t)n + (uint64_t)k;
				assert_true((reference_of(&p, &more) <= amount) == (k == 0));
			}
		}
		price_fit(&p, &fit, amount);
		assert_true(fit.completion <= t.completion && fit.reasoning <= t.reasoning &&
		            fit.reasoning <= fit.completion && fit.prompt == t.prompt);
		assert_true(reference_of(&p, &fit) <= amount || fit.completion == 0);
		if (reference_of(&p, &t) <= amount)
			assert_memory_equal(&fit, &t, sizeof t);
		assert_true(price_cost_most(&p, t.prompt, t.completion) >=
		            price_cost(&p, t.prompt, 0, t.completion));
		assert_true(price_covers_least(&p, t.prompt, amount) <=
		            price_covers_most(&p, t.prompt, amount));
	}
}

static void
what_is_not_said_follows(void **state)
{
	const struct price unset = PRICE_ALL_UNSET;
	struct price config = {.prompt = 10, .cached = PRICE_UNSET, .completion = 20,
	    .reasoning = PRICE_UNSET, .cache_write = PRICE_UNSET, .request = PRICE_UNSET};
	struct price over = unset, p = price_resolve(&config, &unset);

	(void)state;
	assert_memory_equal(&p, (&(struct price){10, 10, 20, 20, 10, 0}), sizeof p);
	over.completion = 0;
	over.prompt = 7;
	p = price_resolve(&config, &over);
	assert_memory_equal(&p, (&(struct price){7, 7, 0, 0, 7, 0}), sizeof p);
	config.cached = config.reasoning = 5;
	over.request = 3;
	p = price_resolve(&config, &over);
	assert_memory_equal(&p, (&(struct price){7, 5, 0, 5, 7, 3}), sizeof p);
	for (int kind = 0; kind < PRICE_KINDS; kind++) {
		const char *name = price_kind_name[kind];

		assert_int_equal(price_kind(name, strlen(name)), kind);
		assert_int_equal(price_kind(name, strlen(name) - 1), PRICE_KINDS);
	}
	assert_int_equal(price_kind("", 0), PRICE_KINDS);
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
	    cmocka_unit_test(kinds_have_prices_of_their_own),
	    cmocka_unit_test(covers_and_fits_with_two_kinds),
	    cmocka_unit_test(what_is_not_said_follows),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
