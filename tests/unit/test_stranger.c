/*
 * Goal:   addresses without a key are counted each for itself, by all processes together; the
 *         table stays as large as it is, and whoever is driven out owed least.
 * Method: single takes; a flood of addresses; processes at once on one address.
 * objs: shm/stranger.o shm/limit.o shm/region.o shm/account.o shm/hold.o shm/ledger.o shm/seat.o
 * objs: shm/ring.o shm/money.o shm/purse.o
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "shm/stranger.h"

#define SECOND UINT64_C(1000000000)
#define NOW (5000 * SECOND)

static struct region region;

static int
setup(void **state)
{
	static const struct region_dims dims = {.workers = 1,
	    .max_accounts = 1,
	    .max_keys = 1,
	    .max_holds = 3,
	    .ring_records = 2,
	    .ring_arena = 64};

	(void)state;
	return region_anonymous(&region, &dims);
}

static int
teardown(void **state)
{
	(void)state;
	region_unmap(&region);
	return 0;
}

static uint64_t
v4(uint32_t n)
{
	uint8_t a[16] = {[10] = 0xff,
	    [11] = 0xff,
	    [12] = (uint8_t)(n >> 24),
	    [13] = (uint8_t)(n >> 16),
	    [14] = (uint8_t)(n >> 8),
	    [15] = (uint8_t)n};

	return stranger_hash(&region, a);
}

static void
each_for_itself(void **state)
{
	struct limit_state s;

	(void)state;
	for (uint32_t a = 1; a <= 3; a++) {
		for (int i = 0; i < 5; i++)
			assert_true(stranger_take(&region, v4(a), 5, NOW, &s));
		stranger_look(&region, v4(a), 5, NOW, &s);
		assert_int_equal(s.retry_ns, 12 * SECOND);
		assert_false(stranger_take(&region, v4(a), 5, NOW, &s));
		assert_int_equal(s.retry_ns, 12 * SECOND);
	}
	stranger_look(&region, v4(4), 5, NOW, &s);
	assert_int_equal(s.retry_ns, 0);
	assert_true(stranger_take(&region, v4(1), 5, NOW + 12 * SECOND, &s));
	assert_false(stranger_take(&region, v4(1), 5, NOW + 12 * SECOND, &s));
}

static void
sixty_four_bits_of_ipv6(void **state)
{
	uint8_t a[16] = {0x20, 1, 0xd, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8}, b[16];

	(void)state;
	memcpy(b, a, sizeof b);
	b[8] = b[15] = 99;
	assert_true(stranger_hash(&region, a) == stranger_hash(&region, b));
	b[7] ^= 1;
	assert_true(stranger_hash(&region, a) != stranger_hash(&region, b));
	assert_true(v4(1) != v4(2));
}

/* Who owes much stays while those come and go who owe little. */
static void
a_flood(void **state)
{
	struct limit_state s;

	(void)state;
	for (int i = 0; i < 100; i++)
		assert_true(stranger_take(&region, v4(77), 100, NOW, &s));
	for (uint32_t n = 1000; n < 1000 + 20 * STRANGER_SETS; n++)
		assert_true(stranger_take(&region, v4(n), 100, NOW, &s));
	assert_false(stranger_take(&region, v4(77), 100, NOW, &s));
	/* A minute later it owes nothing any more, and its place is free. */
	for (uint32_t n = 1000; n < 1000 + 20 * STRANGER_SETS; n++)
		assert_true(stranger_take(&region, v4(n), 100, NOW + 61 * SECOND, &s));
	assert_true(stranger_take(&region, v4(77), 100, NOW + 61 * SECOND, &s));
}

static void
processes(void **state)
{
	_Atomic uint64_t *allowed = region_counters(&region, 0);
	struct limit_state s;

	(void)state;
	for (int p = 0; p < 8; p++) {
		pid_t pid = fork();

		assert_true(pid >= 0);
		if (pid == 0) {
			for (int i = 0; i < 2000; i++) {
				if (stranger_take(&region, v4(1), 500, NOW, &s))
					atomic_fetch_add(allowed, 1);
				(void)!stranger_take(&region, v4((uint32_t)rand()), 500, NOW, &s);
			}
			_exit(0);
		}
	}
	for (int p = 0; p < 8; p++)
		assert_true(wait(NULL) > 0);
	assert_int_equal(atomic_load(allowed), 500);
}

int
main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
	    TEST(each_for_itself),
	    TEST(sixty_four_bits_of_ipv6),
	    TEST(a_flood),
	    TEST(processes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
