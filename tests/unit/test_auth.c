/*
 * Goal:   only a whole, known, valid key gets in, and keys are made without bias.
 * Method: keys inserted into an anonymous region; HMAC against RFC 4231; character counts.
 *
 * objs: daemon/auth.o daemon/buf.o daemon/log.o shm/account.o shm/money.o shm/region.o shm/ring.o
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/auth.h"

static const uint8_t secret[32] = {1, 2, 3};
static const uint64_t now = 1000000;

static struct region region;
static char good[AUTH_KEY_LEN + 1], revoked[AUTH_KEY_LEN + 1], expired[AUTH_KEY_LEN + 1];
static char later[AUTH_KEY_LEN + 1];

static void
insert(char *text, uint32_t account, uint32_t flags, uint64_t expires_us)
{
	struct key_entry k;

	memset(&k, 0, sizeof(k));
	auth_make_key(text, &k.key_id);
	auth_hash(secret, text, AUTH_KEY_LEN, k.hash);
	k.account = account;
	k.flags = flags;
	k.expires_us = expires_us;
	assert_non_null(key_insert(&region, &k));
}

static int
setup(void **state)
{
	static const struct region_dims dims = {.workers = 1,
	    .max_accounts = 16,
	    .max_keys = 16,
	    .max_holds = 64,
	    .ring_records = 64,
	    .ring_arena = 4096};
	struct account_books books = {0};

	(void)state;
	assert_int_equal(region_anonymous(&region, &dims), 0);
	assert_int_equal(region_grow_accounts(&region, 2), 0);
	assert_int_equal(region_grow_keys(&region, 4), 0);
	assert_non_null(account_insert(&region, "alice", 5, &books, 0));
	assert_non_null(account_insert(&region, "bob", 3, &books, 0));
	insert(good, 1, 0, 0);
	insert(revoked, 0, KEY_REVOKED, 1);
	insert(expired, 0, 0, now);
	insert(later, 0, 0, now + 1);
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	region_unmap(&region);
	return 0;
}

static enum auth_result
check_text(const char *text, struct account **a)
{
	struct key_entry *k = (void *)1;
	enum auth_result r;

	r = auth_bearer(
	    &region, secret, (struct span){text, text != NULL ? strlen(text) : 0}, now, a, &k);
	assert_int_equal(r == AUTH_OK, k != NULL);
	assert_int_equal(r == AUTH_OK, *a != NULL);
	return r;
}

static enum auth_result
check(const char *scheme, const char *key)
{
	char text[200];
	struct account *a;

	snprintf(text, sizeof(text), "%s%s", scheme, key);
	return check_text(text, &a);
}

static void
answers(void **state)
{
	char other[AUTH_KEY_LEN + 1], text[100];
	struct account *a;
	uint64_t id;

	(void)state;
	snprintf(text, sizeof(text), "Bearer %s", good);
	assert_int_equal(check_text(text, &a), AUTH_OK);
	assert_int_equal(a->number, 1);
	assert_int_equal(check("bEARER   ", good), AUTH_OK);
	assert_int_equal(check("Bearer ", later), AUTH_OK);
	assert_int_equal(check("Bearer ", revoked), AUTH_REVOKED);
	assert_int_equal(check("Bearer ", expired), AUTH_EXPIRED);
	auth_make_key(other, &id);
	assert_int_equal(check("Bearer ", other), AUTH_UNKNOWN);
	assert_int_equal(check("Bearer ", "tolld_"), AUTH_UNKNOWN);
	assert_int_equal(check("Bearer x", good), AUTH_UNKNOWN);
	snprintf(text, sizeof(text), "Bearer %sx", good);
	assert_int_equal(check_text(text, &a), AUTH_UNKNOWN);
	for (const char **p = (const char *[]){"", "Bearer", "Bearer ", "Bearer\t", "Basic abc",
	         "Bearer:", "Token x", NULL};
	     *p != NULL; p++)
		assert_int_equal(check_text(*p, &a), AUTH_MISSING);
	assert_int_equal(check_text(NULL, &a), AUTH_MISSING);
	assert_int_equal(check("", good), AUTH_MISSING);
}

static void
every_changed_character_is_unknown(void **state)
{
	char key[AUTH_KEY_LEN + 1];

	(void)state;
	for (size_t i = 0; i < AUTH_KEY_LEN; i++) {
		memcpy(key, good, sizeof(key));
		key[i] = key[i] == 'a' ? 'b' : 'a';
		assert_int_equal(check("Bearer ", key), AUTH_UNKNOWN);
	}
}

static void
another_secret_knows_nobody(void **state)
{
	static const uint8_t other[32] = {9};
	char text[100];
	struct account *a;
	struct key_entry *k;

	(void)state;
	snprintf(text, sizeof(text), "Bearer %s", good);
	assert_int_equal(
	    auth_bearer(&region, other, (struct span){text, strlen(text)}, now, &a, &k),
	    AUTH_UNKNOWN);
}

/* A key of 32 bytes whose last twelve are zero is the HMAC key of RFC 4231's first test case. */
static void
hash_is_hmac_sha_256(void **state)
{
	static const uint8_t want[32] = {0xb0, 0x34, 0x4c, 0x61, 0xd8, 0xdb, 0x38, 0x53, 0x5c, 0xa8,
	    0xaf, 0xce, 0xaf, 0x0b, 0xf1, 0x2b, 0x88, 0x1d, 0xc2, 0x00, 0xc9, 0x83, 0x3d, 0xa7,
	    0x26, 0xe9, 0x37, 0x6c, 0x2e, 0x32, 0xcf, 0xf7};
	uint8_t key[32] = {0}, hash[32];

	(void)state;
	memset(key, 0x0b, 20);
	auth_hash(key, "Hi There", 8, hash);
	assert_memory_equal(hash, want, 32);
}

static void
keys_are_even(void **state)
{
	unsigned count[128] = {0};
	char key[AUTH_KEY_LEN + 1];
	uint64_t id, seen = 0;

	(void)state;
	for (int i = 0; i < 20000; i++) {
		auth_make_key(key, &id);
		assert_int_equal(strlen(key), AUTH_KEY_LEN);
		assert_memory_equal(key, "tolld_", 6);
		for (size_t n = 6; n < AUTH_KEY_LEN; n++)
			count[(unsigned char)key[n]]++;
		seen |= id;
	}
	assert_true(seen == UINT64_MAX);
	/* 800,000 characters, 12,903 of each expected: ten standard deviations are 1,127.  A
	 * bias of modulo 256 would make the first eight 25 % more frequent. */
	for (int c = 0; c < 128; c++) {
		bool base62 =
		    (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');

		if (base62)
			assert_in_range(count[c], 12903 - 1127, 12903 + 1127);
		else
			assert_int_equal(count[c], 0);
	}
}

static void
key_ids(void **state)
{
	static const char *const bad[] = {"", "key_", "key_00000000000000f",
	    "key_0000000000000000f", "key_000000000000000F", "key_000000000000000g",
	    "Key_000000000000000f", "tol_000000000000000f", "key_ 00000000000000f",
	    "key_+00000000000000f"};
	char text[AUTH_KEY_ID_LEN + 1];
	uint64_t id;

	(void)state;
	for (uint64_t v = 1; v != 0; v <<= 1) {
		auth_format_key_id(v, text);
		assert_int_equal(strlen(text), AUTH_KEY_ID_LEN);
		assert_int_equal(auth_parse_key_id(text, &id), 0);
		assert_true(id == v);
	}
	auth_format_key_id(0xf, text);
	assert_string_equal(text, "key_000000000000000f");
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		errno = 0;
		assert_int_equal(auth_parse_key_id(bad[i], &id), -1);
		assert_int_equal(errno, EINVAL);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(answers),
	    cmocka_unit_test(every_changed_character_is_unknown),
	    cmocka_unit_test(another_secret_knows_nobody),
	    cmocka_unit_test(hash_is_hmac_sha_256),
	    cmocka_unit_test(keys_are_even),
	    cmocka_unit_test(key_ids),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
