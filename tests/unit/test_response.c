/*
 * Goal:   a provider's response ends where RFC 9112 says, whatever it is cut into; what is
 *         ambiguous is refused, and only a clean end lets the connection be used again.
 * Method: a table of responses with their outcome, each fed whole, byte by byte, and in every
 *         two pieces.
 *
 * objs: daemon/response.o daemon/buf.o shm/money.o
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

#include "daemon/response.h"

struct wanted {
	const char *text;
	int result; /* enum response_result before the connection ends */
	int at_eof;
	int status;
	const char *body;
	bool reusable;
};

#define OK "HTTP/1.1 200 OK\r\n"
#define CHUNKED OK "Transfer-Encoding: chunked\r\n\r\n"

static const struct wanted table[] = {
    {OK "Content-Length: 5\r\n\r\nhello", RESPONSE_COMPLETE, -1, 200, "hello", true},
    {OK "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", RESPONSE_COMPLETE, -1, 200,
	"hello", true},
    {OK "Content-Length: 5\r\nConnection: close\r\n\r\nhello", RESPONSE_COMPLETE, -1, 200,
	"hello", false},
    {OK "Content-Length: 5\r\n\r\nhello!", RESPONSE_COMPLETE, -1, 200, "hello", false},
    {OK "Content-Length: 0\r\n\r\n", RESPONSE_COMPLETE, -1, 200, "", true},
    {OK "Content-Length: 6\r\n\r\nhello", RESPONSE_MORE, RESPONSE_MORE, 200, "hello", false},
    {OK "\r\nhello", RESPONSE_MORE, RESPONSE_COMPLETE, 200, "hello", false},
    {"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", RESPONSE_COMPLETE, -1, 200, "hi", false},
    {"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi",
	RESPONSE_COMPLETE, -1, 200, "hi", true},
    {"HTTP/1.1 204\r\n\r\n", RESPONSE_COMPLETE, -1, 204, "", true},
    {"HTTP/1.1 100 Continue\r\n\r\n" OK "Content-Length: 1\r\n\r\nx", RESPONSE_COMPLETE, -1, 200,
	"x", true},
    {"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 404 No\ncontent-length: 1\n\nx",
	RESPONSE_COMPLETE, -1, 404, "x", true},
    {CHUNKED "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", RESPONSE_COMPLETE, -1, 200, "hello world",
	true},
    {CHUNKED "5;ext=\"1\"\r\nhello\r\n0;x\r\nTrailer: y\r\n\r\n", RESPONSE_COMPLETE, -1, 200,
	"hello", true},
    {CHUNKED "000A \r\n0123456789\r\n00\r\n\r\n", RESPONSE_COMPLETE, -1, 200, "0123456789", true},
    {CHUNKED "5\nhello\n0\n\n", RESPONSE_COMPLETE, -1, 200, "hello", true},
    {CHUNKED "5\r\nhello\r\n0\r\n\r\nHTTP/1.1", RESPONSE_COMPLETE, -1, 200, "hello", false},
    {CHUNKED "5\r\nhello\r\n", RESPONSE_MORE, RESPONSE_MORE, 200, "hello", false},
    {CHUNKED "5\r\nhel", RESPONSE_MORE, RESPONSE_MORE, 200, "hel", false},
    {CHUNKED "5\r\nhello\r\n0\r\n", RESPONSE_MORE, RESPONSE_MORE, 200, "hello", false},
    {"HTTP/1.1 200 OK", RESPONSE_MORE, RESPONSE_MORE, 0, "", false},
    {"", RESPONSE_MORE, RESPONSE_MORE, 0, "", false},
    {OK "Content-Length : 1\r\n\r\nx", RESPONSE_COMPLETE, -1, 200, "x", true},
    {"HTTP/1.1 429 No\r\nContent-Encoding: br\r\nContent-Length: 1\r\n\r\nx",
	RESPONSE_COMPLETE, -1, 429, "x", true},
    /* Refused. */
    {CHUNKED "5\r\nhello!\r\n", RESPONSE_BAD, -1, 200, "hello", false},
    {CHUNKED "0x5\r\nhello\r\n", RESPONSE_BAD, -1, 200, "", false},
    {CHUNKED "\r\nhello", RESPONSE_BAD, -1, 200, "", false},
    {CHUNKED "-1\r\n", RESPONSE_BAD, -1, 200, "", false},
    {CHUNKED "fffffffffffffffff\r\n", RESPONSE_BAD, -1, 200, "", false},
    {OK "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", RESPONSE_BAD, -1, 0, "", false},
    {OK "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", RESPONSE_BAD, -1, 0, "", false},
    {OK "Content-Length: +5\r\n\r\n", RESPONSE_BAD, -1, 0, "", false},
    {OK "Content-Length: 5x\r\n\r\n", RESPONSE_BAD, -1, 0, "", false},
    {OK "Content-Length: \r\n\r\n", RESPONSE_BAD, -1, 0, "", false},
    {OK "Content-Length: 99999999999999999999\r\n\r\n", RESPONSE_BAD, -1, 0, "", false},
    {OK "Transfer-Encoding: gzip, chunked\r\n\r\n", RESPONSE_BAD, -1, 0, "", false},
    {OK "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", RESPONSE_BAD, -1, 0,
	"", false},
    {OK "Content-Encoding: gzip\r\n\r\n", RESPONSE_BAD, -1, 0, "", false},
    {OK "Content-Length: 5\r\nTransfer-Encoding : chunked\r\n\r\n", RESPONSE_BAD, -1, 0, "", false},
    {OK " folded: 1\r\n\r\n", RESPONSE_BAD, -1, 0, "", false},
    {OK "no colon\r\n\r\n", RESPONSE_BAD, -1, 0, "", false},
    {"HTTP/1.1 101 Switching\r\n\r\n", RESPONSE_BAD, -1, 0, "", false},
    {"HTTP/2 200 OK\r\n\r\n", RESPONSE_BAD, -1, 0, "", false},
    {"HTTP/1.1 20 OK\r\n\r\n", RESPONSE_BAD, -1, 0, "", false},
    {"HTTP/1.1 2000\r\n\r\n", RESPONSE_BAD, -1, 0, "", false},
    {"SSH-2.0-OpenSSH\r\n\r\n", RESPONSE_BAD, -1, 0, "", false},
    {"<html>\n\n", RESPONSE_BAD, -1, 0, "", false},
};

struct seen {
	int heads, status;
	struct buf body;
};

static bool
head(void *arg, const struct response *r)
{
	struct seen *s = arg;

	s->heads++;
	s->status = r->status;
	return true;
}

static bool
body(void *arg, const char *p, size_t n)
{
	struct seen *s = arg;

	assert_int_equal(s->heads, 1);
	buf_add(&s->body, p, n);
	return true;
}

/* Fed in pieces of the given sizes, each in memory of its own; the last size goes on. */
static void
feed(const struct wanted *w, const size_t *sizes, size_t count)
{
	struct response r;
	struct seen s = {0};
	size_t len = strlen(w->text), at = 0, i = 0, n;
	int result = RESPONSE_MORE;
	bool reusable;

	response_init(&r);
	while (at < len && result == RESPONSE_MORE) {
		char *copy;

		n = sizes[i < count ? i : count - 1];
		n = n < len - at ? n : len - at;
		copy = malloc(n);
		memcpy(copy, w->text + at, n);
		result = response_feed(&r, copy, n, head, body, &s);
		free(copy);
		at += n;
		i++;
	}
	reusable = response_reusable(&r) && at == len;
	if (result != w->result || s.status != w->status)
		print_message("%s\n", w->text);
	assert_int_equal(result, w->result);
	assert_int_equal(s.status, w->status);
	assert_int_equal(s.body.len, strlen(w->body));
	if (s.body.len > 0)
		assert_memory_equal(s.body.data, w->body, s.body.len);
	assert_int_equal(reusable, w->reusable);
	if (w->at_eof >= 0)
		assert_int_equal(response_eof(&r), w->at_eof);
	buf_free(&s.body);
	response_fini(&r);
}

static void
ends_where_it_should_in_any_pieces(void **state)
{
	const size_t whole[] = {SIZE_MAX}, bytes[] = {1};

	(void)state;
	for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
		feed(&table[i], whole, 1);
		feed(&table[i], bytes, 1);
		for (size_t cut = 1; cut < strlen(table[i].text); cut++) {
			const size_t two[] = {cut, SIZE_MAX};

			feed(&table[i], two, 2);
		}
	}
}

static bool
keep_head(void *arg, const struct response *r)
{
	*(struct response *)arg = *r;
	return true;
}

static void
reads_what_matters(void **state)
{
	char text[] = OK "content-TYPE: Text/Event-Stream; charset=utf-8\r\n"
				      "RETRY-after:  17 \r\nContent-Length: 0\r\n\r\n";
	struct response r, seen;

	(void)state;
	response_init(&r);
	assert_int_equal(response_feed(&r, text, sizeof text - 1, keep_head, body, &seen),
	    RESPONSE_COMPLETE);
	assert_string_equal(seen.media_type, "text/event-stream");
	assert_int_equal(seen.retry_after, 17);
	response_fini(&r);
}

static int64_t
retry_after(const char *field)
{
	struct response r, seen;
	char text[400];

	snprintf(text, sizeof text, "HTTP/1.1 103 Wait\r\nRetry-After: 3\r\n\r\n"
	    "HTTP/1.1 503 No\r\n%s\r\nContent-Length: 0\r\n\r\n", field);
	response_init(&r);
	assert_int_equal(
	    response_feed(&r, text, strlen(text), keep_head, body, &seen), RESPONSE_COMPLETE);
	response_fini(&r);
	return seen.retry_after;
}

/* A date in each of HTTP's three forms. */
static void
write_date(char *to, size_t size, int form, time_t at)
{
	size_t length;
	struct tm tm;

	gmtime_r(&at, &tm);
	if (form == 0) {
		strftime(to, size, "Retry-After: %a, %d %b %Y %H:%M:%S GMT", &tm);
	} else if (form == 1) {
		length = strftime(to, size, "retry-after: %A, %d-%b-", &tm);
		snprintf(to + length, size - length, "%02d %02d:%02d:%02d GMT", tm.tm_year % 100,
		    tm.tm_hour, tm.tm_min, tm.tm_sec);
	} else {
		strftime(to, size, "Retry-After: %a %b %e %H:%M:%S %Y", &tm);
	}
}

static void
reads_when_to_come_back(void **state)
{
	char field[100];
	time_t now = time(NULL);

	(void)state;
	assert_int_equal(retry_after("X: 1"), 0); /* not that of the interim response */
	assert_int_equal(retry_after("Retry-After: 0"), 0);
	assert_int_equal(retry_after("Retry-After: 999999999"), 999999999);
	assert_int_equal(retry_after("Retry-After: 99999999999999999999999999"), INT32_MAX);
	assert_int_equal(retry_after("Retry-After: Fri, 31 Dec 9999 23:59:59 GMT"), INT32_MAX);
	assert_int_equal(retry_after("Retry-After: 1.5"), 2);
	assert_int_equal(retry_after("Retry-After: 0.25"), 1);
	assert_int_equal(retry_after("Retry-After: 99999999999.5"), INT32_MAX);
	assert_int_equal(retry_after("Retry-After: .5"), 0);
	assert_int_equal(retry_after("Retry-After: 1.5s"), 0);
	assert_int_equal(retry_after("Retry-After: -5"), 0);
	assert_int_equal(retry_after("Retry-After: soon"), 0);
	assert_int_equal(retry_after("Retry-After:"), 0);
	for (int form = 0; form < 3; form++) {
		write_date(field, sizeof field, form, now + 1000);
		assert_in_range(retry_after(field), 900, 1000);
		write_date(field, sizeof field, form, now - 1000);
		assert_int_equal(retry_after(field), 0);
		write_date(field, sizeof field, form, now + 1000);
		strcat(field, "x");
		assert_int_equal(retry_after(field), 0);
	}
}

static void
bounds_heads_lines_and_trailers(void **state)
{
	static const char *const begin[] = {OK "X: ", CHUNKED "5;", CHUNKED "0\r\nX: "};
	char filler[1000], start[100];
	struct seen s = {0};

	(void)state;
	memset(filler, 'a', sizeof filler);
	for (size_t i = 0; i < sizeof begin / sizeof *begin; i++) {
		struct response r;
		int result;
		size_t fed = 0;

		s.heads = 0;
		response_init(&r);
		strcpy(start, begin[i]);
		result = response_feed(&r, start, strlen(start), head, body, &s);
		while (result == RESPONSE_MORE && fed < 1000000) {
			result = response_feed(&r, filler, sizeof filler, head, body, &s);
			fed += sizeof filler;
		}
		assert_int_equal(result, RESPONSE_BAD);
		response_fini(&r);
	}
	buf_free(&s.body);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(ends_where_it_should_in_any_pieces),
	    cmocka_unit_test(reads_what_matters),
	    cmocka_unit_test(reads_when_to_come_back),
	    cmocka_unit_test(bounds_heads_lines_and_trailers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
