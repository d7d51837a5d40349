/*
 * Goal:   texts are counted as OpenAI's own tokenizer counts them, in whatever pieces they come
 *         and at every character; the count that is shown never goes back; a text is cut exactly
 *         at a limit; no text takes more than its share of time or memory.
 * Method: golden counts of npm's tiktoken, of whole texts and of every prefix; each text whole,
 *         by characters and in random pieces; all limits; runs of 100,000 of one thing.
 *
 * objs: daemon/utf8.o daemon/buf.o shm/money.o
 * objs: daemon/tokenizer.o daemon/tokenizer_stream.o daemon/tokenizer_merge.o
 * objs: daemon/tokenizer_split.o daemon/tokenizer_class.o daemon/tokenizer_table.o
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>
#include <jansson.h>

#include "daemon/tokenizer.h"
#include "daemon/utf8.h"

#define LEN(array) (sizeof(array) / sizeof((array)[0]))

static json_t *golden;
static const char *const names[] = {"o200k_base", "cl100k_base"};
static const struct tokenizer *exact[LEN(names)], *estimate;

static const struct tokenizer *
open_one(const char *name)
{
	char why[256] = "";
	const struct tokenizer *t = tokenizer_open(name, why, sizeof why);

	if (t == NULL)
		fail_msg("%s: %s", name, why);
	return t;
}

static int
setup(void **state)
{
	(void)state;
	golden = json_load_file("tests/fixtures/tokenizer/golden.json", JSON_ALLOW_NUL, NULL);
	for (size_t i = 0; i < LEN(names); i++)
		exact[i] = open_one(names[i]);
	estimate = open_one("estimate");
	return golden == NULL ? -1 : 0;
}

static int
teardown(void **state)
{
	(void)state;
	json_decref(golden);
	return 0;
}

/* xorshift: the same run everywhere. */
static uint32_t
next_random(void)
{
	static uint32_t x = 88172645u;

	x ^= x << 13;
	x ^= x >> 17;
	x ^= x << 5;
	return x;
}

static size_t
char_len(const char *p, size_t left)
{
	size_t bad, n = utf8_char(p, left, &bad);

	return n > 0 ? n : 1;
}

static void
test_names(void **state)
{
	static const char *const none[] = {"gpt2", "", ".", "o200k base", "..", "/", "/etc/passwd",
	    "tests/fixtures/tokenizer/golden.json", "no/such/file"};
	char why[256];

	(void)state;
	for (size_t i = 0; i < LEN(names); i++) {
		assert_string_equal(tokenizer_name(exact[i]), names[i]);
		assert_true(tokenizer_exact(exact[i]));
		assert_int_equal(tokenizer_scale(exact[i]), TOKENS_SCALE);
		assert_ptr_equal(open_one(names[i]), exact[i]);
	}
	assert_false(tokenizer_exact(estimate));
	assert_true(tokenizer_scale(estimate) > TOKENS_SCALE);
	for (size_t i = 0; i < LEN(none); i++) {
		why[0] = '\0';
		assert_null(tokenizer_open(none[i], why, sizeof why));
		assert_true(strlen(why) > 0);
	}
}

static void
test_golden(void **state)
{
	size_t n;
	json_t *sample;

	(void)state;
	assert_true(json_array_size(golden) > 200);
	json_array_foreach(golden, n, sample)
	{
		json_t *text = json_object_get(sample, "text");

		for (size_t i = 0; i < LEN(names); i++) {
			uint32_t count = tokenizer_count(exact[i], TOKENS_SCALE,
			    json_string_value(text), json_string_length(text));
			json_int_t real = json_integer_value(json_object_get(sample, names[i]));

			if (count != real)
				fail_msg("%s of sample %zu (%s): %u, not %d", names[i], n,
				    json_string_value(json_object_get(sample, "name")), count,
				    (int)real);
		}
	}
}

static void
check_prefixes(const struct tokenizer *t, const char *text, size_t len, const json_t *counts)
{
	struct token_stream ts;
	uint32_t before = 0;
	size_t i = 0, n;

	token_stream_init(&ts, t, TOKENS_SCALE);
	for (size_t at = 0; at < len; at += n) {
		n = char_len(text + at, len - at);
		assert_true(token_stream_append(&ts, text + at, n) >= before);
		before = ts.count;
		assert_int_equal(ts.now, json_integer_value(json_array_get(counts, i++)));
		assert_true(ts.count >= ts.now);
	}
	assert_int_equal(i, json_array_size(counts));
	token_stream_fini(&ts);
}

static void
test_every_prefix(void **state)
{
	size_t n, checked = 0;
	json_t *sample;

	(void)state;
	json_array_foreach(golden, n, sample)
	{
		json_t *text = json_object_get(sample, "text");
		json_t *counts = json_object_get(sample, "prefixes");

		for (size_t i = 0; counts != NULL && i < LEN(names); i++, checked++)
			check_prefixes(exact[i], json_string_value(text), json_string_length(text),
			    json_object_get(counts, names[i]));
	}
	assert_true(checked > 30);
}

/* Appended in pieces of 1 to `most` characters. */
static void
check_pieces(const struct tokenizer *t, const char *text, size_t len, uint32_t most)
{
	struct token_stream ts;
	uint32_t before = 0;
	size_t at = 0, n;

	token_stream_init(&ts, t, TOKENS_SCALE);
	while (at < len) {
		n = 0;
		for (uint32_t i = next_random() % most + 1; i > 0 && at + n < len; i--)
			n += char_len(text + at + n, len - at - n);
		assert_true(token_stream_append(&ts, text + at, n) >= before);
		before = ts.count;
		at += n;
	}
	assert_int_equal(ts.now, tokenizer_count(t, TOKENS_SCALE, text, len));
	token_stream_fini(&ts);
}

static void
test_any_pieces(void **state)
{
	size_t n;
	json_t *sample;

	(void)state;
	json_array_foreach(golden, n, sample)
	{
		json_t *text = json_object_get(sample, "text");
		const char *p = json_string_value(text);
		size_t len = json_string_length(text);

		for (uint32_t most = 1; most < 300; most = most * 2 + 1) {
			check_pieces(exact[0], p, len, most);
			check_pieces(exact[1], p, len, most);
			check_pieces(estimate, p, len, most);
		}
	}
}

/* Appended as far as each limit lets it, after a prefix. */
static void
check_fit(const struct tokenizer *t, uint32_t scale, const char *text, size_t len, size_t prefix,
    uint32_t step)
{
	struct token_stream ts, one;
	size_t fit = 0, n;

	for (uint32_t limit = 0; fit < len - prefix; limit += step) {
		uint32_t before;

		token_stream_init(&ts, t, scale);
		before = token_stream_append(&ts, text, prefix);
		if (before > limit)
			limit = before;
		fit = token_stream_fit(&ts, text + prefix, len - prefix, limit);
		assert_true(fit <= len - prefix && utf8_valid(text + prefix, fit));
		assert_true(ts.count <= limit);
		/* It was appended, and no more. */
		assert_int_equal(ts.now, tokenizer_count(t, TOKENS_SCALE, text, prefix + fit));
		/* No longer prefix is within the limit. */
		token_stream_init(&one, t, scale);
		(void)token_stream_append(&one, text, prefix);
		for (size_t at = prefix; at < len; at += n) {
			n = char_len(text + at, len - at);
			(void)token_stream_append(&one, text + at, n);
			if (at >= prefix + fit)
				assert_true(
				    (uint64_t)one.now * scale > (uint64_t)limit * TOKENS_SCALE);
		}
		token_stream_fini(&one);
		/* And one can go on. */
		(void)token_stream_append(&ts, text + prefix + fit, len - prefix - fit);
		assert_int_equal(ts.now, tokenizer_count(t, TOKENS_SCALE, text, len));
		token_stream_fini(&ts);
	}
}

static void
test_fit(void **state)
{
	size_t n;
	json_t *sample;

	(void)state;
	json_array_foreach(golden, n, sample)
	{
		json_t *text = json_object_get(sample, "text");
		const char *p = json_string_value(text);
		size_t len = json_string_length(text), prefix = next_random() % (len + 1);

		if (len > 700 && n % 4 != 0)
			continue;
		prefix -= utf8_partial(p, prefix);
		check_fit(exact[n % 2], TOKENS_SCALE, p, len, 0, 1 + (uint32_t)len / 40);
		check_fit(exact[n % 2], TOKENS_SCALE, p, len, prefix, 1 + (uint32_t)len / 40);
		check_fit(estimate, 1500, p, len, prefix, 1 + (uint32_t)len / 40);
	}
}

static void
test_factor(void **state)
{
	struct token_stream ts;

	(void)state;
	assert_int_equal(tokenizer_count(exact[0], TOKENS_SCALE, " tree tree tree", 15), 3);
	assert_int_equal(tokenizer_count(exact[0], TOKENS_SCALE + 1, " tree tree tree", 15), 4);
	assert_int_equal(tokenizer_count(exact[0], 2 * TOKENS_SCALE, " tree tree tree", 15), 6);
	token_stream_init(&ts, exact[0], 2 * TOKENS_SCALE);
	assert_int_equal(token_stream_fit(&ts, " tree tree tree", 15, 5), 10);
	assert_int_equal(ts.count, 4);
	assert_int_equal(ts.now, 2);
	token_stream_fini(&ts);
	/* A digit a token. */
	assert_int_equal(tokenizer_count(estimate, TOKENS_SCALE, "123456", 6), 6);
	assert_int_equal(tokenizer_count(exact[1], TOKENS_SCALE, "123456", 6), 2);
}

static void
test_small(void **state)
{
	struct token_stream ts;

	(void)state;
	assert_int_equal(tokenizer_count(exact[0], TOKENS_SCALE, "", 0), 0);
	assert_int_equal(tokenizer_count(exact[0], TOKENS_SCALE, NULL, 0), 0);
	token_stream_init(&ts, exact[0], TOKENS_SCALE);
	assert_int_equal(token_stream_append(&ts, NULL, 0), 0);
	assert_int_equal(token_stream_fit(&ts, NULL, 0, 0), 0);
	assert_int_equal(token_stream_fit(&ts, "a", 1, 0), 0);
	assert_int_equal(token_stream_fit(&ts, "a", 1, 1), 1);
	assert_true(sizeof ts <= 200);
	token_stream_fini(&ts);
}

/* What is not UTF-8 must not hang it or read beyond the end. */
static void
test_invalid_input(void **state)
{
	(void)state;
	for (int round = 0; round < 20000; round++) {
		size_t n = next_random() % (round % 20 == 0 ? 400 : 6) + 1;
		char *copy = malloc(n);

		assert_non_null(copy);
		for (size_t i = 0; i < n; i++)
			copy[i] =
			    (char)(round % 2 == 0 ? 0x70 + next_random() % 0x90 : next_random());
		assert_in_range(tokenizer_count(exact[round % 2], TOKENS_SCALE, copy, n), 1, n);
		free(copy);
	}
}

/* Nothing but bytes that continue a character: no text, but it ends. */
static void
test_continuation_bytes(void **state)
{
	static char bytes[5000];
	struct token_stream ts;

	(void)state;
	memset(bytes, 0x80, sizeof bytes);
	assert_in_range(
	    tokenizer_count(exact[0], TOKENS_SCALE, bytes, sizeof bytes), 1, sizeof bytes);
	token_stream_init(&ts, exact[0], TOKENS_SCALE);
	assert_in_range(token_stream_fit(&ts, bytes, sizeof bytes, 100), 100, sizeof bytes - 1);
	assert_true(ts.count <= 100);
	(void)token_stream_append(&ts, bytes, sizeof bytes);
	token_stream_fini(&ts);
}

static double
cpu_seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* A megabyte that is paid a slice at a time is not counted whole for each slice. */
static void
test_long_text_in_slices(void **state)
{
	static char text[1 << 20];
	size_t taken;

	(void)state;
	for (int kind = 0; kind < 2; kind++) {
		struct token_stream ts;
		double begin = cpu_seconds();
		uint32_t limit = 0;

		for (size_t i = 0; i < sizeof text; i++)
			text[i] = kind == 0 ? 'a' : " tree"[i % 5];
		token_stream_init(&ts, exact[0], TOKENS_SCALE);
		for (size_t at = 0; at < sizeof text; at += taken) {
			limit += 300;
			taken = token_stream_fit(&ts, text + at, sizeof text - at, limit);
			assert_true(taken > 0 && ts.count <= limit);
		}
		assert_int_equal(
		    ts.now, tokenizer_count(exact[0], TOKENS_SCALE, text, sizeof text));
		if (cpu_seconds() - begin > 8)
			fail_msg("kind %d took %.1f s", kind, cpu_seconds() - begin);
		token_stream_fini(&ts);
	}
}

/*
 * 100,000 of one thing: milliseconds, where a square of the length would be many seconds.  The
 * bound is loose enough for sanitizers and busy machines.
 */
static void
test_long_runs(void **state)
{
	static const char *const units[] = {"a", "A", "7", " ", "\n", "=", "я", "中", "😀", "aA",
	    " \n",
	    "\xe4\xb8\xad"
	    "A",
	    "'", "\xcc\x81"};

	(void)state;
	for (size_t i = 0; i < LEN(units) + 1; i++) {
		size_t unit = i < LEN(units) ? strlen(units[i]) : 1, len = 100000 * unit;
		char *text = malloc(len);
		struct token_stream ts;
		double begin;
		uint32_t whole;

		assert_non_null(text);
		for (size_t at = 0; at < len; at += unit)
			if (i < LEN(units))
				memcpy(text + at, units[i], unit);
			else
				text[at] = (char)('a' + next_random() % 26);
		begin = cpu_seconds();
		whole = tokenizer_count(exact[0], TOKENS_SCALE, text, len);
		token_stream_init(&ts, exact[0], TOKENS_SCALE);
		for (size_t at = 0; at < len; at += unit)
			(void)token_stream_append(&ts, text + at, unit);
		assert_int_equal(ts.now, whole);
		if (cpu_seconds() - begin > 3)
			fail_msg("run %zu took %.1f s", i, cpu_seconds() - begin);
		/* Its end gives the room back. */
		(void)token_stream_append(&ts, "\nx y1", 5);
		assert_null(ts.grown);
		token_stream_fini(&ts);
		free(text);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_names),
	    cmocka_unit_test(test_golden),
	    cmocka_unit_test(test_every_prefix),
	    cmocka_unit_test(test_any_pieces),
	    cmocka_unit_test(test_fit),
	    cmocka_unit_test(test_factor),
	    cmocka_unit_test(test_small),
	    cmocka_unit_test(test_invalid_input),
	    cmocka_unit_test(test_continuation_bytes),
	    cmocka_unit_test(test_long_text_in_slices),
	    cmocka_unit_test(test_long_runs),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
