/*
 * Goal:   what is learnt of a model's tokenizer stays within its bounds whatever providers say, is
 *         found again after a restart, and never taken for another model's.
 * Method: a file of its own; answers of every ratio; configs that change.
 *
 * objs: daemon/calibrate.o shm/money.o
 * objs: daemon/tokenizer.o daemon/tokenizer_stream.o daemon/tokenizer_merge.o
 * objs: daemon/tokenizer_split.o daemon/tokenizer_class.o daemon/tokenizer_table.o
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/calibrate.h"

static char path[] = "/tmp/test_calibrate.XXXXXX";
static struct config config;
static const struct tokenizer *estimate, *exact;
#define FIRST (TOKENS_SCALE * 7 / 5)

static int
setup(void **state)
{
	char why[256];
	int fd = mkstemp(path);

	(void)state;
	estimate = tokenizer_open("estimate", why, sizeof why);
	exact = tokenizer_open("o200k_base", why, sizeof why);
	if (fd < 0 || estimate == NULL || exact == NULL)
		return -1;
	close(fd);
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	return unlink(path);
}

static struct config_model *
open_models(int n, const char *const names[], const struct tokenizer *t)
{
	memset(&config, 0, sizeof config);
	config.model_count = n;
	for (int i = 0; i < n; i++)
		config.model[i] = (struct config_model){.name = (char *)(uintptr_t)names[i],
		    .upstream = (char *)(uintptr_t)names[i],
		    .tokenizer = t};
	assert_int_equal(calibrate_open(&config, path, geteuid()), 0);
	return config.model;
}

static void
fresh(void)
{
	assert_int_equal(truncate(path, 0), 0);
}

static void
learn(const struct config_model *m, unsigned times, uint32_t ours, uint32_t theirs)
{
	while (times-- > 0)
		(void)calibrate_learn(m, ours, theirs);
}

static void
test_unknown(void **state)
{
	struct config_model alone = {.tokenizer = estimate};

	(void)state;
	assert_int_equal(calibrate_scale(&alone), FIRST);
	assert_false(calibrate_learn(&alone, 1000, 2000));
	assert_int_equal(calibrate_scale(&alone), FIRST);
}

static void
test_bounds(void **state)
{
	static const char *const name[] = {"m"};
	/* theirs for a thousand of ours, and the factor that comes of many such answers. */
	static const struct {
		uint32_t theirs, low, high;
	} cases[] = {
	    {1000, 1070, 1080},
	    {1200, 1285, 1295},
	    {1500, 1605, 1620},
	    {700, 1024, 1024},
	    {300, 1024, 1024},
	    {1900, 2035, 2048},
	    {3000, 2048, 2048},
	    {3999, 2048, 2048},
	    /* Not believed: as if nothing had been said. */
	    {5000, FIRST, FIRST},
	    {0, FIRST, FIRST},
	    {UINT32_MAX, FIRST, FIRST},
	    {100, FIRST, FIRST},
	};

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct config_model *m;

		fresh();
		m = open_models(1, name, estimate);
		assert_int_equal(calibrate_scale(m), FIRST);
		learn(m, 200, 1000, cases[i].theirs);
		assert_in_range(calibrate_scale(m), cases[i].low, cases[i].high);
	}
}

static void
test_few_answers_do_not_lower_it(void **state)
{
	static const char *const name[] = {"m"};
	struct config_model *m;

	(void)state;
	fresh();
	m = open_models(1, name, estimate);
	for (int i = 0; i < CALIBRATE_SAMPLES - 1; i++) {
		learn(m, 1, 1000, 1000);
		assert_true(calibrate_scale(m) >= FIRST);
	}
	learn(m, 10, 1000, 1000);
	assert_true(calibrate_scale(m) < FIRST);
	/* Nor do short ones. */
	fresh();
	m = open_models(1, name, estimate);
	learn(m, 100, CALIBRATE_TOKENS_MIN - 1, CALIBRATE_TOKENS_MIN - 1);
	assert_int_equal(calibrate_scale(m), FIRST);
}

/* Answers that scatter are covered: the factor is seldom below what comes next. */
static void
test_scatter_is_covered(void **state)
{
	static const char *const name[] = {"m"};
	unsigned below = 0, x = 12345;
	struct config_model *m;

	(void)state;
	fresh();
	m = open_models(1, name, estimate);
	for (int i = 0; i < 2000; i++) {
		uint32_t theirs;

		x = x * 1664525 + 1013904223;
		theirs = 1000 + (x >> 16) % 400; /* 1.0 to 1.4 */
		if (i >= 100 &&
		    (uint64_t)theirs * TOKENS_SCALE > (uint64_t)calibrate_scale(m) * 1000)
			below++;
		learn(m, 1, 1000, theirs);
	}
	assert_true(below < 60);
}

static void
test_restart_and_change(void **state)
{
	static const char *const before[] = {"a", "b", "c"}, *const after[] = {"c", "new", "a"};
	struct config_model *m;
	uint32_t a, c;

	(void)state;
	fresh();
	m = open_models(3, before, estimate);
	learn(&m[0], 50, 1000, 1100);
	learn(&m[1], 50, 1000, 1200);
	learn(&m[2], 50, 1000, 1300);
	a = calibrate_scale(&m[0]);
	c = calibrate_scale(&m[2]);
	assert_true(a < c);
	m = open_models(3, after, estimate);
	assert_int_equal(calibrate_scale(&m[0]), c);
	assert_int_equal(calibrate_scale(&m[1]), FIRST);
	assert_int_equal(calibrate_scale(&m[2]), a);
	/* Another tokenizer's is another's. */
	m = open_models(3, before, exact);
	assert_int_equal(calibrate_mean(&m[0]), 0);
	assert_int_equal(calibrate_scale(&m[0]), TOKENS_SCALE);
	/* What is damaged is nothing. */
	assert_int_equal(truncate(path, 10), 0);
	m = open_models(3, before, estimate);
	assert_int_equal(calibrate_scale(&m[0]), FIRST);
}

static void
test_wrong_tokenizer_is_told_once(void **state)
{
	static const char *const name[] = {"wrong", "right", "off by one"};
	struct config_model *m;
	unsigned told = 0, others = 0;

	(void)state;
	fresh();
	m = open_models(3, name, exact);
	for (int i = 0; i < 200; i++) {
		told += calibrate_learn(&m[0], 1000, 1030);
		others += calibrate_learn(&m[1], 1000, 1000);
		others += calibrate_learn(&m[2], 100, 101);
		assert_true(told == 0 || i >= CALIBRATE_DRIFT_SAMPLES - 1);
	}
	assert_int_equal(told, 1);
	assert_int_equal(others, 0);
	assert_int_equal(calibrate_scale(&m[0]), TOKENS_SCALE);
	m = open_models(3, name, exact); /* a start later */
	assert_true(calibrate_learn(&m[0], 1000, 1030));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_unknown),
	    cmocka_unit_test(test_bounds),
	    cmocka_unit_test(test_few_answers_do_not_lower_it),
	    cmocka_unit_test(test_scatter_is_covered),
	    cmocka_unit_test(test_restart_and_change),
	    cmocka_unit_test(test_wrong_tokenizer_is_told_once),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
