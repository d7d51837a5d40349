/*
 * Goal:   a buf grows, keeps what it is given, and writes JSON strings that any parser takes.
 * Method: tables; every byte and every pair against the rules; lengths around SSE2's 16.
 *
 * objs: daemon/buf.o shm/money.o
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/buf.h"

static void
assert_buf(const struct buf *b, const char *want, size_t len)
{
	assert_false(b->failed);
	assert_int_equal(b->len, len);
	assert_memory_equal(b->data, want, len);
}

static void
grows_and_keeps(void **state)
{
	struct buf b = {0};

	(void)state;
	for (unsigned i = 0; i < 10000; i++)
		buf_add(&b, &(unsigned char){(unsigned char)i}, 1);
	assert_int_equal(b.len, 10000);
	assert_true(b.cap < 20000);
	for (unsigned i = 0; i < 10000; i++)
		assert_int_equal((unsigned char)b.data[i], (unsigned char)i);
	buf_consume(&b, 0);
	buf_consume(&b, 9990);
	assert_buf(&b, "\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f", 10);
	buf_consume(&b, 11);
	assert_int_equal(b.len, 0);
	buf_free(&b);
	assert_null(b.data);
	buf_free(&b);
}

static void
refuses_the_impossible_and_stays_failed(void **state)
{
	struct buf b = {0};

	(void)state;
	buf_str(&b, "x");
	assert_null(buf_reserve(&b, SIZE_MAX));
	assert_true(b.failed);
	buf_str(&b, "y");
	buf_printf(&b, "%d", 1);
	buf_json(&b, "z", 1);
	assert_int_equal(b.len, 1);
	buf_free(&b);
	assert_false(b.failed);
}

static void
formats(void **state)
{
	struct buf b = {0};
	char text[3000], want[3200];

	(void)state;
	memset(text, 'a', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	buf_printf(&b, "%s|%d", text, -7);
	snprintf(want, sizeof(want), "%s|-7", text);
	assert_buf(&b, want, strlen(want));
	b.len = 0;
	/* Exactly what is left, and one more. */
	for (int n = 50; n < 80; n++) {
		buf_free(&b);
		buf_printf(&b, "%.*s", n, text);
		assert_buf(&b, text, (size_t)n);
	}
	b.len = 0;
	buf_u64(&b, 0);
	buf_str(&b, " ");
	buf_u64(&b, UINT64_MAX);
	buf_span(&b, SPAN(" s"));
	buf_money(&b, -1500000);
	assert_buf(&b, "0 18446744073709551615 s-1.5", 28);
	buf_free(&b);
}

static void
spans(void **state)
{
	(void)state;
	assert_true(span_eq(SPAN("abc"), "abc"));
	assert_false(span_eq(SPAN("abc"), "ab"));
	assert_false(span_eq(SPAN("abc"), "abC"));
	assert_true(span_eq((struct span){NULL, 0}, ""));
	assert_true(span_case_eq(SPAN("Content-LENGTH"), "content-length"));
	assert_false(span_case_eq(SPAN("@"), "`"));
	assert_false(span_case_eq(SPAN("abc"), "abcd"));
	assert_true(span_case_eq((struct span){NULL, 0}, ""));
}

static void
json_is(const char *in, size_t len, const char *want)
{
	struct buf b = {0};
	char *exact = malloc(len + 1); /* so that a sanitizer sees a read past the end */

	memcpy(exact, in, len);
	exact = realloc(exact, len > 0 ? len : 1);
	buf_json(&b, exact, len);
	assert_buf(&b, want, strlen(want));
	buf_free(&b);
	free(exact);
}

#define FFFD "\xef\xbf\xbd"

static void
json_escapes(void **state)
{
	(void)state;
	json_is("", 0, "\"\"");
	json_is("a\"b\\c/", 6, "\"a\\\"b\\\\c/\"");
	json_is("\b\f\n\r\t", 5, "\"\\b\\f\\n\\r\\t\"");
	json_is("\0\x01\x1f\x7f", 4, "\"\\u0000\\u0001\\u001f\x7f\"");
	json_is(
	    "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", 9, "\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\"");
}

/* Replacement by maximal subparts: Unicode 3.9, table 3-8 and others. */
static void
json_replaces_what_is_no_utf8(void **state)
{
	(void)state;
	json_is("a\x80z", 3, "\"a" FFFD "z\"");
	json_is("\xff\xfe", 2, "\"" FFFD FFFD "\"");
	json_is("\xc0\xaf", 2, "\"" FFFD FFFD "\""); /* overlong */
	json_is("\xc1\xbf", 2, "\"" FFFD FFFD "\"");
	json_is("\xe0\x80\xaf", 3, "\"" FFFD FFFD FFFD "\"");
	json_is("\xf0\x80\x80\xaf", 4, "\"" FFFD FFFD FFFD FFFD "\"");
	json_is("\xed\xa0\x80", 3, "\"" FFFD FFFD FFFD "\"");          /* a surrogate */
	json_is("\xf4\x90\x80\x80", 4, "\"" FFFD FFFD FFFD FFFD "\""); /* past U+10FFFF */
	json_is("\xf5\x80", 2, "\"" FFFD FFFD "\"");
	json_is("\xe2\x82", 2, "\"" FFFD "\""); /* cut */
	json_is("\xe2\x82z", 3, "\"" FFFD "z\"");
	json_is("\xf0\x9f\x98", 3, "\"" FFFD "\"");
	json_is("\xf0\x9f\x98\"", 4, "\"" FFFD "\\\"\"");
	json_is("\xc3", 1, "\"" FFFD "\"");
	json_is("\xc3\xc3\xa9", 3, "\"" FFFD "\xc3\xa9\"");
	json_is("\xf4\x8f\xbf\xbf\xed\x9f\xbf\xee\x80\x80", 10,
	    "\"\xf4\x8f\xbf\xbf\xed\x9f\xbf\xee\x80\x80\"");
}

/* A byte that needs care at every place of texts of every length around 16 and 32. */
static void
json_at_every_place(void **state)
{
	static const struct {
		char byte;
		const char *text;
	} odd[] = {{'"', "\\\""}, {'\\', "\\\\"}, {'\n', "\\n"}, {'\x1f', "\\u001f"},
	    {'\0', "\\u0000"}, {'\x80', FFFD}, {' ', " "}, {'!', "!"}, {'\x7f', "\x7f"},
	    {']', "]"}};
	char in[40], want[100];

	(void)state;
	for (size_t len = 1; len < sizeof(in); len++) {
		for (size_t at = 0; at < len; at++) {
			for (size_t o = 0; o < sizeof(odd) / sizeof(odd[0]); o++) {
				memset(in, 'a', len);
				in[at] = odd[o].byte;
				snprintf(want, sizeof(want), "\"%.*s%s%.*s\"", (int)at,
				    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", odd[o].text,
				    (int)(len - at - 1),
				    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa");
				json_is(in, len, want);
			}
		}
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(grows_and_keeps),
	    cmocka_unit_test(refuses_the_impossible_and_stays_failed),
	    cmocka_unit_test(formats),
	    cmocka_unit_test(spans),
	    cmocka_unit_test(json_escapes),
	    cmocka_unit_test(json_replaces_what_is_no_utf8),
	    cmocka_unit_test(json_at_every_place),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
