/*
 * Goal:   the JSON scanner takes RFC 8259's texts and nothing else, finds what is in them, and
 *         no document costs it more than its length warrants.
 * Method: tables of valid and invalid documents; jansson's opinion of each and of many thousand
 *         documents made by mutating valid ones (seeded); documents built to be expensive.
 *
 * objs: daemon/json.o daemon/json_value.o daemon/buf.o shm/money.o
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "tests/unit/jansson_beside.h"

#include "daemon/json.h"

#define LEN(array) (sizeof(array) / sizeof((array)[0]))

static const struct span valid[] = {
    SPAN("{}"), SPAN("[]"), SPAN(" [ ] "), SPAN("\t\r\n {\n}\n"), SPAN("null"), SPAN("true"),
    SPAN("false"), SPAN("\"\""), SPAN("0"), SPAN("-0"), SPAN("-0.0"), SPAN("1e5"), SPAN("1E+5"),
    SPAN("1.25e-3"), SPAN("123456789012345678"), SPAN("[1,2,3]"), SPAN("[[],[[]],{}]"),
    SPAN("{\"a\":1}"), SPAN("{\"a\":{\"a\":{\"a\":[]}},\"b\":null}"), SPAN("{\"\":0}"),
    SPAN("{\"a\":1,\"A\":2,\"aa\":3}"), SPAN("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\""),
    SPAN("\"\\uD83D\\uDE00\""), SPAN("\"\\u0000\""), SPAN("\"\x7f\""), SPAN("\"\xc3\xa9\""),
    SPAN("\"\xf4\x8f\xbf\xbf\""), SPAN("\"\xe2\x80\xa8\""), SPAN("\"/\""),
    SPAN("\"0123456789abcdef0123456789abcdef\\n\xe4\xb8\xad 0123456789abcdef\""),
    SPAN("[1 ,\n2\t, 3 ]"), SPAN("{ \"a\" : 1 , \"b\" : 2 }"), SPAN("\"\\u0061\\u30af\""),
};

/* jansson refuses these; RFC 8259 does not, and nor do we. */
static const struct span valid_here[] = {
    SPAN("\"\\ud800\""), SPAN("\"\\udc00\""), SPAN("\"\\ud800\\u0041\""),
    SPAN("\"\\ud800\\ud800\""), SPAN("{\"\\u0000\":1}"), SPAN("123456789012345678901234567890"),
    SPAN("1e999"), SPAN("-9223372036854775809"),
};

static const struct {
	struct span text;
	enum json_error error;
	size_t at;
} invalid[] = {
    {SPAN(""), JSON_SYNTAX, 0},
    {SPAN(" \n"), JSON_SYNTAX, 2},
    {SPAN("\xef\xbb\xbf{}"), JSON_SYNTAX, 0},
    {SPAN("nul"), JSON_SYNTAX, 0},
    {SPAN("nulL"), JSON_SYNTAX, 0},
    {SPAN("True"), JSON_SYNTAX, 0},
    {SPAN("NaN"), JSON_SYNTAX, 0},
    {SPAN("Infinity"), JSON_SYNTAX, 0},
    {SPAN("-"), JSON_SYNTAX, 1},
    {SPAN("+1"), JSON_SYNTAX, 0},
    {SPAN(".5"), JSON_SYNTAX, 0},
    {SPAN("1."), JSON_SYNTAX, 2},
    {SPAN("1.e1"), JSON_SYNTAX, 2},
    {SPAN("1e"), JSON_SYNTAX, 2},
    {SPAN("1e+"), JSON_SYNTAX, 3},
    {SPAN("01"), JSON_TRAILING, 1},
    {SPAN("-01"), JSON_TRAILING, 2},
    {SPAN("0x1"), JSON_TRAILING, 1},
    {SPAN("1_000"), JSON_TRAILING, 1},
    {SPAN("--1"), JSON_SYNTAX, 1},
    {SPAN("truefalse"), JSON_TRAILING, 4},
    {SPAN("{} {}"), JSON_TRAILING, 3},
    {SPAN("[]]"), JSON_TRAILING, 2},
    {SPAN("[]\0"), JSON_TRAILING, 2},
    {SPAN("["), JSON_SYNTAX, 1},
    {SPAN("[1"), JSON_SYNTAX, 2},
    {SPAN("[1,"), JSON_SYNTAX, 3},
    {SPAN("[1,]"), JSON_SYNTAX, 3},
    {SPAN("[,1]"), JSON_SYNTAX, 1},
    {SPAN("[1 2]"), JSON_SYNTAX, 3},
    {SPAN("[1,,2]"), JSON_SYNTAX, 3},
    {SPAN("[1}"), JSON_SYNTAX, 2},
    {SPAN("{"), JSON_SYNTAX, 1},
    {SPAN("{\"a\"}"), JSON_SYNTAX, 4},
    {SPAN("{\"a\":}"), JSON_SYNTAX, 5},
    {SPAN("{\"a\":1,}"), JSON_SYNTAX, 7},
    {SPAN("{\"a\":1 \"b\":2}"), JSON_SYNTAX, 7},
    {SPAN("{\"a\" 1}"), JSON_SYNTAX, 5},
    {SPAN("{a:1}"), JSON_SYNTAX, 1},
    {SPAN("{'a':1}"), JSON_SYNTAX, 1},
    {SPAN("{1:1}"), JSON_SYNTAX, 1},
    {SPAN("{\"a\":1]"), JSON_SYNTAX, 6},
    {SPAN("\""), JSON_SYNTAX, 1},
    {SPAN("\"abc"), JSON_SYNTAX, 4},
    {SPAN("\"\\"), JSON_SYNTAX, 1},
    {SPAN("\"\\x41\""), JSON_SYNTAX, 1},
    {SPAN("\"\\0\""), JSON_SYNTAX, 1},
    {SPAN("\"\\\0\""), JSON_SYNTAX, 1},
    {SPAN("\"\\u12\""), JSON_SYNTAX, 1},
    {SPAN("\"\\u12g4\""), JSON_SYNTAX, 1},
    {SPAN("\"\\U0041\""), JSON_SYNTAX, 1},
    {SPAN("\"\n\""), JSON_SYNTAX, 1},
    {SPAN("\"a\tb\""), JSON_SYNTAX, 2},
    {SPAN("\"\0\""), JSON_SYNTAX, 1},
    {SPAN("\"0123456789abcdef\x1f\""), JSON_SYNTAX, 17},
    {SPAN("'a'"), JSON_SYNTAX, 0},
    {SPAN("[1] // no"), JSON_TRAILING, 4},
    {SPAN("/* no */ 1"), JSON_SYNTAX, 0},
    {SPAN("[1,\f2]"), JSON_SYNTAX, 3},
    {SPAN("[\xc2\xa0]"), JSON_SYNTAX, 1},
    {SPAN("\"\xff\""), JSON_UTF8, 1},
    {SPAN("\"\x80\""), JSON_UTF8, 1},
    {SPAN("\"\xc0\x80\""), JSON_UTF8, 1},
    {SPAN("\"\xed\xa0\x80\""), JSON_UTF8, 1},
    {SPAN("\"\xf4\x90\x80\x80\""), JSON_UTF8, 1},
    {SPAN("\"\xe4\xb8\""), JSON_UTF8, 1},
    {SPAN("\"\xe4\xb8"), JSON_UTF8, 1},
    {SPAN("{\"\xc3\":1}"), JSON_UTF8, 2},
    {SPAN("\"0123456789abcdef\xe4\xb8\xad\xe4\""), JSON_UTF8, 20},
    {SPAN("{\"a\":1,\"a\":1}"), JSON_DUPLICATE, 7},
    {SPAN("{\"a\":1,\"b\":1,\"\\u0061\":1}"), JSON_DUPLICATE, 13},
    {SPAN("{\"\":1,\"\":1}"), JSON_DUPLICATE, 6},
    {SPAN("[{\"x\":{\"a\":1,\"a\":1}}]"), JSON_DUPLICATE, 13},
    {SPAN("{\"\\uD83D\\uDE00\":1,\"\xf0\x9f\x98\x80\":2}"), JSON_DUPLICATE, 18},
    {SPAN("{\"\\ud800\":1,\"\\ufffd\":2}"), JSON_DUPLICATE, 12},
    {SPAN("{\"a/b\":1,\"a\\/b\":2}"), JSON_DUPLICATE, 9},
};

static void
test_valid(void **state)
{
	json_error_t e;

	(void)state;
	for (size_t i = 0; i < LEN(valid); i++) {
		json_t *j = jansson_load(valid[i].p, valid[i].len, &e);

		if (json_check(valid[i].p, valid[i].len, NULL, NULL) != JSON_OK)
			fail_msg("refused: %s", valid[i].p);
		if (j == NULL)
			fail_msg("jansson refused: %s", valid[i].p);
		json_decref(j);
	}
	for (size_t i = 0; i < LEN(valid_here); i++) {
		if (json_check(valid_here[i].p, valid_here[i].len, NULL, NULL) != JSON_OK)
			fail_msg("refused: %s", valid_here[i].p);
		if (jansson_load(valid_here[i].p, valid_here[i].len, &e) || !jansson_alone(&e))
			fail_msg("no difference: %s", valid_here[i].p);
	}
}

static void
test_invalid(void **state)
{
	json_error_t e;
	size_t at;

	(void)state;
	for (size_t i = 0; i < LEN(invalid); i++) {
		struct span t = invalid[i].text;
		enum json_error error = json_check(t.p, t.len, NULL, &at);

		if (error != invalid[i].error || at != invalid[i].at)
			fail_msg("%s: %s at %zu", t.p, json_error_text(error), at);
		if (jansson_load(t.p, t.len, &e) != NULL)
			fail_msg("jansson takes %s", t.p);
	}
}

/* Each prefix of a document that must be closed is refused. */
static void
test_prefixes(void **state)
{
	static const char text[] =
	    "{\"a\":[1,-2.5e3,true,false,null,\"\\u00e9\xe4\xb8\xad\",{}],\"b\":{\"c\":\"d\"}}";

	(void)state;
	for (size_t n = 0; n < sizeof(text) - 1; n++) {
		char *copy = malloc(n + 1); /* of its own, for the address sanitizer */

		memcpy(copy, text, n);
		assert_int_not_equal(json_check(copy, n, NULL, NULL), JSON_OK);
		free(copy);
	}
	assert_int_equal(json_check(text, sizeof(text) - 1, NULL, NULL), JSON_OK);
}

static void
test_depth(void **state)
{
	struct buf b = {0};

	(void)state;
	for (size_t depth = JSON_DEPTH_MAX; depth <= JSON_DEPTH_MAX + 1; depth++) {
		b.len = 0;
		for (size_t i = 0; i < depth; i++)
			buf_str(&b, i % 2 ? "[" : "{\"k\":");
		buf_str(&b, "0");
		for (size_t i = depth; i-- > 0;)
			buf_str(&b, i % 2 ? "]" : "}");
		assert_int_equal(json_check(b.data, b.len, NULL, NULL),
		    depth <= JSON_DEPTH_MAX ? JSON_OK : JSON_DEPTH);
	}
	buf_free(&b);
}

/* n keys that differ in the middle only, the one at `twice` a second time at the end. */
static void
many_keys(struct buf *b, unsigned n, unsigned twice)
{
	b->len = 0;
	buf_str(b, "{");
	for (unsigned i = 0; i < n; i++)
		buf_printf(b, "%s\"key-%06u-%06u-key\":%u", i > 0 ? "," : "", i, 999999 - i, i);
	if (twice < n)
		buf_printf(b, ",\"\\u006bey-%06u-%06u-key\":0", twice, 999999 - twice);
	buf_str(b, "}");
}

static void
test_many_keys(void **state)
{
	struct buf b = {0};
	struct json_value root, v;
	size_t at;
	char name[32];
	int64_t number;

	(void)state;
	for (unsigned n = 1; n < 120; n++) {
		for (unsigned twice = 0; twice < n; twice++) {
			many_keys(&b, n, twice);
			assert_int_equal(json_check(b.data, b.len, NULL, &at), JSON_DUPLICATE);
			assert_memory_equal(b.data + at, "\"\\u006bey", 9);
		}
		many_keys(&b, n, n);
		assert_int_equal(json_check(b.data, b.len, &root, NULL), JSON_OK);
		for (unsigned i = 0; i < n; i++) {
			(void)snprintf(name, sizeof(name), "key-%06u-%06u-key", i, 999999 - i);
			assert_true(json_get(root, name, &v) && json_int(v, &number));
			assert_int_equal(number, i);
		}
	}
	buf_free(&b);
}

static double
seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* 200,000 keys of one digest: quadratic work would take minutes. */
static void
test_many_keys_are_not_quadratic(void **state)
{
	struct buf b = {0};
	double from;

	(void)state;
	many_keys(&b, 200000, 1);
	from = seconds();
	assert_int_equal(json_check(b.data, b.len, NULL, NULL), JSON_DUPLICATE);
	assert_true(seconds() - from < 10);
	buf_free(&b);
}

/* The keys of an object are still known after the objects inside it were closed. */
static void
test_keys_of_nested_objects(void **state)
{
	struct buf inner = {0}, b = {0};

	(void)state;
	for (unsigned n = 1; n < 100; n += 7) {
		many_keys(&inner, n, n);
		b.len = 0;
		buf_str(&b, "{\"first\":");
		buf_span(&b, (struct span){inner.data, inner.len});
		buf_str(&b, ",\"second\":[");
		buf_span(&b, (struct span){inner.data, inner.len});
		buf_str(&b, "],\"third\":1}");
		assert_int_equal(json_check(b.data, b.len, NULL, NULL), JSON_OK);
		b.len -= 11;
		buf_str(&b, ",\"first\":1}");
		assert_int_equal(json_check(b.data, b.len, NULL, NULL), JSON_DUPLICATE);
	}
	buf_free(&inner);
	buf_free(&b);
}

static struct json_value
parse(const char *text)
{
	struct json_value root;

	assert_int_equal(json_check(text, strlen(text), &root, NULL), JSON_OK);
	return root;
}

static void
test_values(void **state)
{
	static const char *const keys[] = {"z", "n\n", "o", "s"};
	struct json_value root = parse(" {\"s\":\"a\\tb\",\"n\\n\":-12,\"o\":{\"s\":1, \"q\":[]},"
				       "\"a\":[ 1,\"]\\\"\" ,{\"}\":[]},[]],\"t\":true} ");
	struct json_value v, key, many[4];
	const char *it = NULL;
	struct buf b = {0};
	int64_t n;

	(void)state;
	assert_int_equal(root.type, JSON_OBJECT);
	assert_true(json_get(root, "s", &v) && v.type == JSON_STRING && json_is(v, "a\tb"));
	assert_false(json_is(v, "a\\tb") || json_is(v, "a") || json_is(v, "a\tbc"));
	json_decode_buf(v, &b);
	assert_int_equal(b.len, 3);
	assert_memory_equal(b.data, "a\tb", 3);
	assert_true(json_get(root, "n\n", &v) && json_int(v, &n) && n == -12);
	assert_false(json_get(root, "q", &v));
	assert_int_equal(v.type, JSON_NONE);
	assert_true(json_get(root, "o", &v) && v.len == 15);
	assert_true(json_get(v, "q", &v) && v.type == JSON_ARRAY && v.len == 2);
	assert_false(json_each(v, &it, &key, &v));
	json_get_many(root, keys, many, 4);
	assert_int_equal(many[0].type, JSON_NONE);
	assert_int_equal(many[1].type, JSON_NUMBER);
	assert_int_equal(many[2].type, JSON_OBJECT);
	assert_int_equal(many[3].type, JSON_STRING);
	assert_true(json_get(root, "a", &root) && root.type == JSON_ARRAY);
	assert_false(json_get(root, "a", &v));
	it = NULL;
	assert_true(json_each(root, &it, NULL, &v) && json_int(v, &n) && n == 1);
	assert_true(json_each(root, &it, &key, &v) && json_is(v, "]\""));
	assert_int_equal(key.type, JSON_NONE);
	assert_true(json_each(root, &it, &key, &v) && v.type == JSON_OBJECT);
	assert_true(json_each(root, &it, &key, &v) && v.type == JSON_ARRAY);
	assert_false(json_each(root, &it, &key, &v));
	buf_free(&b);
}

static void
test_decode(void **state)
{
	static const struct {
		const char *text;
		struct span decoded;
	} samples[] = {
	    {"\"\"", SPAN("")},
	    {"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", SPAN("\"\\/\b\f\n\r\t")},
	    {"\"\\u0000\\u007f\\u0080\\u07ff\\u0800\\uffff\"",
	        SPAN("\0\x7f\xc2\x80\xdf\xbf\xe0\xa0\x80\xef\xbf\xbf")},
	    {"\"\\ud83d\\ude00\\udbff\\udfff\"", SPAN("\xf0\x9f\x98\x80\xf4\x8f\xbf\xbf")},
	    {"\"\\ud800\"", SPAN("\xef\xbf\xbd")},
	    {"\"\\udc00\\ud800\"", SPAN("\xef\xbf\xbd\xef\xbf\xbd")},
	    {"\"\\ud800\\ud83d\\ude00\"", SPAN("\xef\xbf\xbd\xf0\x9f\x98\x80")},
	    {"\"\\ud800\\n\"", SPAN("\xef\xbf\xbd\n")},
	    {"\"\\ud800x\"", SPAN("\xef\xbf\xbdx")},
	    {"\"a\xe4\xb8\xad\\u00E9z\"", SPAN("a\xe4\xb8\xad\xc3\xa9z")},
	};
	char out[128];

	(void)state;
	for (size_t i = 0; i < LEN(samples); i++) {
		struct json_value v = parse(samples[i].text);

		assert_int_equal(json_decode(v, out), samples[i].decoded.len);
		assert_memory_equal(out, samples[i].decoded.p, samples[i].decoded.len);
		assert_true(json_is_bytes(v, samples[i].decoded.p, samples[i].decoded.len));
	}
}

static void
test_integers(void **state)
{
	static const struct {
		const char *text;
		bool good;
		int64_t value;
	} samples[] = {
	    {"0", true, 0}, {"-0", true, 0}, {"42", true, 42}, {"-1", true, -1},
	    {"9223372036854775807", true, INT64_MAX}, {"-9223372036854775808", true, INT64_MIN},
	    {"9223372036854775808", false, 0}, {"-9223372036854775809", false, 0},
	    {"92233720368547758070", false, 0}, {"1.0", false, 0}, {"1e3", false, 0},
	    {"\"1\"", false, 0}, {"null", false, 0},
	};
	int64_t n;

	(void)state;
	for (size_t i = 0; i < LEN(samples); i++) {
		n = 0;
		assert_int_equal(json_int(parse(samples[i].text), &n), samples[i].good);
		assert_true(n == samples[i].value);
	}
}

/* xorshift: the same run everywhere. */
static uint32_t
next_random(void)
{
	static uint32_t x = 2463534242u;

	x ^= x << 13;
	x ^= x >> 17;
	x ^= x << 5;
	return x;
}

static void
test_mutants_against_jansson(void **state)
{
	static const char seed[] =
	    "{\"id\":\"x\",\"choices\":[{\"index\":0,"
	    "\"delta\":{\"content\":\"h\\u00e9\xe4\xb8\xad\"},"
	    "\"logprobs\":null}],\"n\":[-0.5e+3,12,true,false],\"index\":{\"\":[],\"a\":{}}}";
	static const char alphabet[] = "{}[]\",:\\u0dD8eE.-+ \n\t\x01/tfn\x80\xc3\xe4\xff" "ab";
	unsigned good = 0, bad = 0;
	json_error_t e;
	char text[256];
	size_t len, at;

	(void)state;
	for (int round = 0; round < 200000; round++) {
		len = sizeof(seed) - 1;
		memcpy(text, seed, len);
		for (uint32_t n = 1 + next_random() % 3; n > 0; n--) {
			size_t where = next_random() % len;
			char c = alphabet[next_random() % (sizeof(alphabet) - 1)];

			switch (next_random() % 3) {
			case 0:
				text[where] = c;
				break;
			case 1:
				memmove(text + where, text + where + 1, len - where - 1);
				len--;
				break;
			default:
				memmove(text + where + 1, text + where, len - where);
				text[where] = c;
				len++;
			}
		}
		json_t *j = jansson_load(text, len, &e);
		enum json_error error = json_check(text, len, NULL, &at);

		if ((j != NULL) != (error == JSON_OK) && (j != NULL || !jansson_alone(&e)))
			fail_msg("%.*s: %s; jansson: %s", (int)len, text,
			    json_error_text(error), j != NULL ? "good" : e.text);
		*(j != NULL ? &good : &bad) += 1;
		json_decref(j);
	}
	/* Both kinds must have been tried. */
	assert_true(good > 1000 && bad > 1000);
}

/* What readers that fold cases, or end a text at its NUL, take for a name that they know. */
static void
test_names_that_look_alike(void **state)
{
	static const struct {
		const char *text;
		bool like;
	} cases[] = {
	    {"\"max_tokens\"", true}, {"\"MAX_Tokens\"", true}, {"\"max_to\\u212aens\"", true},
	    {"\"max_to\xe2\x84\xaa""ens\"", true}, {"\"max_token\xc5\xbf\"", true},
	    {"\"max_token\\u017F\"", true}, {"\"\\u004dax_tokens\"", true},
	    {"\"max_tokens\\u0000\"", true}, {"\"max_tokens\\u0000x\"", true},
	    {"\"max_token\"", false}, {"\"max_tokens_\"", false}, {"\"max-tokens\"", false},
	    {"\"\"", false}, {"\"max_token\xc5\xbe\"", false}, {"\"max_to\xe2\x84\xab""ens\"", false},
	    {"\"max_token\xc3\x9f\"", false}, {"\"\\u0000max_tokens\"", false}, {"7", false}, {"null", false},
	};
	struct json_value v;

	(void)state;
	for (size_t i = 0; i < LEN(cases); i++) {
		assert_int_equal(json_check(cases[i].text, strlen(cases[i].text), &v, NULL), JSON_OK);
		if (json_is_like(v, "max_tokens") != cases[i].like)
			fail_msg("%s", cases[i].text);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_valid),
	    cmocka_unit_test(test_invalid),
	    cmocka_unit_test(test_prefixes),
	    cmocka_unit_test(test_depth),
	    cmocka_unit_test(test_many_keys),
	    cmocka_unit_test(test_many_keys_are_not_quadratic),
	    cmocka_unit_test(test_keys_of_nested_objects),
	    cmocka_unit_test(test_values),
	    cmocka_unit_test(test_decode),
	    cmocka_unit_test(test_integers),
	    cmocka_unit_test(test_names_that_look_alike),
	    cmocka_unit_test(test_mutants_against_jansson),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
