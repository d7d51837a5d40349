/*
 * Goal:   an id has one spelling, comes back as what it was, and no other text is an id.
 * Method: known answers, random ids there and back, every one-character change of a text.
 *
 * objs: daemon/ids.o daemon/log.o daemon/buf.o shm/money.o
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/ids.h"

static void
test_known(void **state)
{
	static const uint8_t zero[16], ff[16] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
	                                   0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
	struct stream_id id = {.proc = 3, .generation = 0x01020304};
	char text[STREAM_ID_LEN + 1];

	(void)state;
	id_format(zero, text);
	assert_string_equal(text, "AAAAAAAAAAAAAAAAAAAAAA");
	id_format(ff, text);
	assert_string_equal(text, "_____________________w");
	stream_id_format(&id, text);
	assert_string_equal(text, "AAAAAAAAAAAAAAAAAAAAAAMBAgME");
}

static void
test_there_and_back(void **state)
{
	char text[STREAM_ID_LEN + 1];

	(void)state;
	for (int i = 0; i < 10000; i++) {
		struct stream_id id, back;
		uint8_t raw[16], raw_back[16];

		id_random(&id.secret, sizeof id.secret);
		id_random(&id.proc, sizeof id.proc);
		id_random(&id.generation, sizeof id.generation);
		stream_id_format(&id, text);
		assert_int_equal(strlen(text), STREAM_ID_LEN);
		assert_true(stream_id_parse(text, STREAM_ID_LEN, &back));
		assert_memory_equal(id.secret, back.secret, sizeof id.secret);
		assert_int_equal(id.proc, back.proc);
		assert_int_equal(id.generation, back.generation);

		id_random(raw, sizeof raw);
		id_format(raw, text);
		assert_int_equal(strlen(text), ID_LEN);
		assert_true(id_parse(text, ID_LEN, raw_back));
		assert_memory_equal(raw, raw_back, sizeof raw);
	}
}

/* What is accepted is what would be written: a changed text is another id or none. */
static void
test_one_spelling(void **state)
{
	uint8_t id[16], other[16];
	char text[ID_LEN + 1], again[ID_LEN + 1];
	int accepted = 0;

	(void)state;
	id_random(id, sizeof id);
	id_format(id, text);
	for (size_t at = 0; at < ID_LEN; at++) {
		char was = text[at];

		for (int c = 0; c < 256; c++) {
			text[at] = (char)c;
			if (!id_parse(text, ID_LEN, other))
				continue;
			accepted++;
			id_format(other, again);
			assert_memory_equal(text, again, ID_LEN);
		}
		text[at] = was;
	}
	/* 64 characters anywhere, but at the end only those whose last four bits are zero. */
	assert_int_equal(accepted, 21 * 64 + 4);
}

static void
test_lengths(void **state)
{
	static const char text[] = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
	struct stream_id id;
	uint8_t raw[16];

	(void)state;
	for (size_t n = 0; n < sizeof text; n++) {
		assert_int_equal(id_parse(text, n, raw), n == ID_LEN);
		assert_int_equal(stream_id_parse(text, n, &id), n == STREAM_ID_LEN);
	}
	assert_false(id_parse("AAAAAAAAAAAAAAAAAAAA==", ID_LEN, raw));
	assert_false(id_parse("AAAAAAAAAAAAAAAAAAAAA+", ID_LEN, raw));
}

static void
test_random_is(void **state)
{
	uint8_t a[16], b[16];

	(void)state;
	id_random(a, sizeof a);
	id_random(b, sizeof b);
	assert_memory_not_equal(a, b, sizeof a);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_known),
	    cmocka_unit_test(test_there_and_back),
	    cmocka_unit_test(test_one_spelling),
	    cmocka_unit_test(test_lengths),
	    cmocka_unit_test(test_random_is),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
