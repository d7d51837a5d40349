/*
 * Goal:   what was inserted is found, what was not is not; a reader of the books never sees two
 *         commits mixed; a keeper killed in an insert leaves nothing behind.
 * Method: 100,000 accounts; threads that look up and read while the keeper's thread inserts and
 *         publishes; the index as a killed keeper leaves it.
 * objs: shm/money.o shm/ring.o shm/region.o shm/account.o shm/hold.o shm/ledger.o shm/seat.o shm/purse.o
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "shm/account.h"

#define MANY 100000u

static const struct region_dims dims = {.workers = 1, .max_accounts = MANY, .max_keys = MANY,
    .max_holds = 3, .ring_records = 2, .ring_arena = 64};

static struct region region;

static int
setup(void **state)
{
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

static size_t
name(char id[static ACCOUNT_ID_MAX + 1], unsigned int n)
{
	/* Lengths on both sides of the hash's 16 bytes. */
	return (size_t)snprintf(id, ACCOUNT_ID_MAX + 1, n % 2 ? "%u" : "customer:%012u@example.org", n);
}

static struct account *
insert(unsigned int n)
{
	char id[ACCOUNT_ID_MAX + 1];
	size_t len = name(id, n);
	struct account_books books = {.balance = n, .held = 0, .overdraft = 5};

	return account_insert(&region, id, len, &books, (int64_t)n + 5);
}

static struct account *
find(unsigned int n)
{
	char id[ACCOUNT_ID_MAX + 1];
	size_t len = name(id, n);

	return account_find(&region, id, len);
}

static void
ids_are_checked(void **state)
{
	char longest[ACCOUNT_ID_MAX + 2];
	struct account_books books = {0};

	(void)state;
	memset(longest, 'a', sizeof longest);
	assert_true(account_id_ok("a", 1));
	assert_true(account_id_ok("Az09._:@-", 9));
	assert_true(account_id_ok(longest, 64));
	assert_false(account_id_ok(longest, 65));
	assert_false(account_id_ok("", 0));
	for (int c = 0; c < 256; c++) {
		char id = (char)c;
		bool ok = c != 0 && strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
					   "0123456789._:@-", c) != NULL;

		assert_int_equal(account_id_ok(&id, 1), ok);
	}
	assert_null(account_insert(&region, "a b", 3, &books, 0));
	assert_int_equal(errno, EINVAL);
	assert_null(account_find(&region, longest, 65));
	assert_null(account_find(&region, "", 0));
	assert_non_null(account_insert(&region, longest, 64, &books, 0));
	assert_non_null(account_find(&region, longest, 64));
	assert_null(account_find(&region, longest, 63));
}

static void
found_among_many(void **state)
{
	(void)state;
	for (unsigned int n = 0; n < MANY; n++) {
		struct account *a = insert(n);

		assert_non_null(a);
		assert_int_equal(a->number, n);
		assert_int_equal((uintptr_t)a % 64, 0);
	}
	for (unsigned int n = 0; n < MANY; n++) {
		struct account *a = find(n);
		struct account_books books;

		assert_true(a == account_at(&region, n));
		assert_int_equal(account_available(a), (int64_t)n + 5);
		account_books(a, &books);
		assert_true(books.balance == n && books.held == 0 && books.overdraft == 5);
		assert_null(find(n + MANY));
	}
	assert_null(insert(77));
	assert_int_equal(errno, EEXIST);
	assert_null(insert(MANY));
	assert_int_equal(errno, ENOSPC);
}

static void
a_keeper_killed_in_an_insert_leaves_nothing(void **state)
{
	(void)state;
	for (unsigned int n = 0; n < 500; n++) {
		/* All of an insert but its last store, the count; then it is another's turn. */
		assert_non_null(insert(n + 1000));
		atomic_store(&region.h->accounts, n);
		assert_null(find(n + 1000));
		assert_non_null(insert(n));
		assert_int_equal(find(n)->number, n);
		assert_null(find(n + 1000));
	}
	/* And the same one again. */
	assert_non_null(insert(600));
	atomic_store(&region.h->accounts, 500);
	assert_int_equal(insert(600)->number, 500);
	for (unsigned int n = 0; n < 500; n++)
		assert_int_equal(find(n)->number, n);
}

static void
keys_are_found_by_their_hash(void **state)
{
	struct key_entry key;

	(void)state;
	memset(&key, 0, sizeof key);
	srand(3);
	for (uint32_t n = 0; n < MANY; n++) {
		for (int i = 0; i < 32; i++)
			key.hash[i] = (uint8_t)rand();
		/* Many with the same beginning: only the whole hash counts. */
		if (n % 100 == 0)
			memset(key.hash, 7, 28);
		memcpy(key.hash + 28, &n, 4);
		key.key_id = n;
		key.account = n / 2;
		assert_non_null(key_insert(&region, &key));
		if (n % 1000 == 0) {
			assert_null(key_insert(&region, &key));
			assert_int_equal(errno, EEXIST);
		}
	}
	for (uint32_t n = 0; n < MANY; n++) {
		uint8_t hash[32];

		memcpy(hash, key_at(&region, n)->hash, 32);
		assert_true(key_find(&region, hash) == key_at(&region, n));
		assert_int_equal(key_at(&region, n)->account, n / 2);
		hash[n % 28] ^= 1;
		assert_null(key_find(&region, hash));
	}
	key.hash[0] ^= 1;
	assert_null(key_insert(&region, &key));
	assert_int_equal(errno, ENOSPC);
}

#define COMMITS 300000

static atomic_bool stop;
static atomic_uint torn, reads;

static void *
read_books(void *arg)
{
	const struct account *a = arg;
	int64_t last = 0;

	while (!stop) {
		struct account_books books;

		account_books(a, &books);
		if (books.held != books.balance * 3 || books.overdraft != ~books.balance ||
		    books.balance < last)
			torn++;
		last = books.balance;
		reads++;
	}
	return NULL;
}

static void *
look_up(void *arg)
{
	unsigned int n = 0;

	while (!stop) {
		uint32_t count = atomic_load(&region.h->accounts);

		/* What is counted is found, whole. */
		n = n * 1664525u + 1013904223u;
		if (find(n % count) != account_at(&region, n % count) ||
		    account_available(account_at(&region, n % count)) != (int64_t)(n % count) + 5)
			torn++;
	}
	return arg;
}

static void
readers_never_see_a_torn_state(void **state)
{
	struct account_books books = {.balance = 0, .held = 0, .overdraft = -1};
	struct account *a = account_insert(&region, "0", 1, &books, 0);
	pthread_t thread[2];

	(void)state;
	pthread_create(&thread[0], NULL, read_books, a);
	for (int64_t n = 1; n <= COMMITS || reads < 1000; n++) {
		books = (struct account_books){.balance = n, .held = n * 3, .overdraft = ~n};
		account_publish(a, &books);
	}
	stop = true;
	pthread_join(thread[0], NULL);
	assert_int_equal(torn, 0);

	region_unmap(&region);
	assert_int_equal(region_anonymous(&region, &dims), 0);
	stop = false;
	insert(0);
	for (int i = 0; i < 2; i++)
		pthread_create(&thread[i], NULL, look_up, NULL);
	for (unsigned int n = 1; n < MANY; n++)
		assert_non_null(insert(n));
	stop = true;
	for (int i = 0; i < 2; i++)
		pthread_join(thread[i], NULL);
	assert_int_equal(torn, 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(ids_are_checked, setup, teardown),
	    cmocka_unit_test_setup_teardown(found_among_many, setup, teardown),
	    cmocka_unit_test_setup_teardown(
		a_keeper_killed_in_an_insert_leaves_nothing, setup, teardown),
	    cmocka_unit_test_setup_teardown(keys_are_found_by_their_hash, setup, teardown),
	    cmocka_unit_test_setup_teardown(readers_never_see_a_torn_state, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
