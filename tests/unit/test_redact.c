/*
 * Goal:   no key, nor the rest of one, is in what a client is told of a provider's message.
 * Method: keys whole, cut off, masked by the provider, behind "Bearer"; words that are none stay.
 * objs: daemon/redact.o daemon/buf.o daemon/utf8.o shm/money.o
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "daemon/redact.h"

static char key_a[] = "provider-secret-0123456789", key_b[] = "p/q=r.s", none[] = "";
static char *const keys[] = {key_a, none, key_b};

static const char *
told(const char *message, size_t size)
{
	static char to[256];

	memset(to, '#', sizeof to);
	redact(to, size, (struct span){message, strlen(message)}, keys, 3);
	assert_true(strlen(to) < size);
	return to;
}

static void
secrets_are_masked(void **state)
{
	static const char *const row[][2] = {
	    {"Incorrect API key provided: provider-secret-0123456789.",
		"Incorrect API key provided: *."},
	    {"xxprovider-secret-0123456789yy", "xx*yy"},
	    {"key p/q=r.s and p/q=r.s", "key * and *"},
	    {"Incorrect API key provided: sk-abc***wxyz", "Incorrect API key provided: *"},
	    {"it was provid***6789", "it was *"},
	    {"your ****************6789 is bad", "your * is bad"},
	    {"Authorization: Bearer abc.def", "Authorization: Bearer *.def"},
	    {"sent \"Authorization: basic dXNlcg==\"", "sent \"Authorization: basic *==\""},
	    {"SK-proj-12345678 expired", "* expired"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(row) / sizeof(*row); i++)
		assert_string_equal(told(row[i][0], 256), row[i][1]);
}

static void
other_words_stay(void **state)
{
	static const char *const row[] = {
	    "The model `gpt-4o` does not exist.", "risk-free task-list sk-", "a provider said no",
	    "2 * 3 ** 4", "bearers of bad news", "", "caf\xc3\xa9 \xe6\xbc\xa2"};

	(void)state;
	for (size_t i = 0; i < sizeof(row) / sizeof(*row); i++)
		assert_string_equal(told(row[i], 256), row[i]);
}

static void
no_part_at_any_cut(void **state)
{
	(void)state;
	for (size_t size = 1; size < 60; size++) {
		const char *to = told("a \xe6\xbc\xa2 provider-secret-0123456789 and more words", size);

		assert_null(strstr(to, "prov"));
		assert_null(strstr(to, "6789"));
		if (size >= 6)
			assert_memory_equal(to, "a \xe6\xbc\xa2", 5);
		else
			assert_true(strlen(to) <= 2);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(secrets_are_masked),
	    cmocka_unit_test(other_words_stay),
	    cmocka_unit_test(no_part_at_any_cut),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
