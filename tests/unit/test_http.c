/*
 * Goal:   the parser accepts what RFC 9112 wants accepted, refuses the rest, and no cut of the
 *         bytes changes what it says.
 * Method: tables; each request is parsed whole, cut in two at every place, and byte by byte,
 *         always from memory that ends where the bytes end.
 *
 * objs: daemon/buf.o daemon/http.o daemon/http_chunked.o shm/money.o
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/http.h"

struct result {
	enum http_parse parse;
	struct http_fault fault;
	size_t head_len;
	struct http_request rq;
};

/* Parse what has come so far, from a copy without a byte to spare. */
static void
parse(const char *bytes, size_t len, size_t *scanned, struct result *r)
{
	char *copy = malloc(len > 0 ? len : 1);
	struct http_request *rq = &r->rq;

	memcpy(copy, bytes, len);
	r->fault = (struct http_fault){0};
	r->head_len = 0;
	r->parse = http_parse_head(copy, len, scanned, rq, &r->head_len, &r->fault);
	if (r->parse != HTTP_PARSE_OK) {
		free(copy);
		return;
	}
	/* The same spans, in the caller's bytes. */
#define MOVE(s) ((s).p = (s).p >= copy && (s).p < copy + len ? bytes + ((s).p - copy) : (s).p)
	MOVE(rq->method_text);
	MOVE(rq->target);
	MOVE(rq->path);
	MOVE(rq->query);
	for (int i = 0; i < rq->headers; i++) {
		MOVE(rq->header[i].name);
		MOVE(rq->header[i].value);
	}
#undef MOVE
	free(copy);
}

static void
assert_span(struct span a, struct span b)
{
	assert_int_equal(a.len, b.len);
	assert_memory_equal(a.p, b.p, a.len);
}

static void
assert_same(const struct result *a, const struct result *b)
{
	assert_int_equal(a->parse, b->parse);
	if (a->parse == HTTP_PARSE_BAD) {
		assert_int_equal(a->fault.status, b->fault.status);
		assert_string_equal(a->fault.why, b->fault.why);
	}
	if (a->parse != HTTP_PARSE_OK)
		return;
	assert_int_equal(a->head_len, b->head_len);
	assert_int_equal(a->rq.method, b->rq.method);
	assert_int_equal(a->rq.minor, b->rq.minor);
	assert_int_equal(a->rq.keep_alive, b->rq.keep_alive);
	assert_int_equal(a->rq.chunked, b->rq.chunked);
	assert_int_equal(a->rq.expect_continue, b->rq.expect_continue);
	assert_int_equal(a->rq.has_length, b->rq.has_length);
	assert_int_equal(a->rq.content_length, b->rq.content_length);
	assert_span(a->rq.path, b->rq.path);
	assert_span(a->rq.query, b->rq.query);
	assert_int_equal(a->rq.headers, b->rq.headers);
	for (int i = 0; i < a->rq.headers; i++) {
		assert_span(a->rq.header[i].name, b->rq.header[i].name);
		assert_span(a->rq.header[i].value, b->rq.header[i].value);
	}
}

/* Whole; then at every cut and byte by byte with the same result. */
static void
parse_all_ways(const char *bytes, size_t len, struct result *whole)
{
	struct result r;
	size_t scanned = 0;

	parse(bytes, len, &scanned, whole);
	for (size_t cut = 0; cut < len; cut++) {
		scanned = 0;
		parse(bytes, cut, &scanned, &r);
		if (r.parse == HTTP_PARSE_MORE)
			parse(bytes, len, &scanned, &r);
		assert_same(whole, &r);
	}
	scanned = 0;
	for (size_t n = 0; n <= len; n++) {
		parse(bytes, n, &scanned, &r);
		if (r.parse != HTTP_PARSE_MORE)
			break;
	}
	assert_same(whole, &r);
}

struct head {
	const char *bytes;
	int status; /* 0: accepted; -1: more is needed */
	size_t len; /* 0: strlen */
};

#define G "GET / HTTP/1.1\r\n"
#define H "Host: x\r\n"
#define NUL(text) text, 400, sizeof(text) - 1

static const struct head heads[] = {
    {G H "\r\n", 0, 0},
    {"\r\n" G H "\r\n", 0, 0},
    {G H "\r\nrest", 0, 0},
    {"GET / HTTP/1.0\r\n\r\n", 0, 0},
    {"POST /a?b HTTP/1.1\r\n" H "Content-Length: 3\r\n\r\nabc", 0, 0},
    {"POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n", 0, 0},
    {"OPTIONS * HTTP/1.1\r\n" H "\r\n", 0, 0},
    {"BREW /pot HTTP/1.1\r\n" H "\r\n", 0, 0},
    {"GET http://a:1/b?c HTTP/1.1\r\n" H "\r\n", 0, 0},
    {"GET http://a HTTP/1.1\r\n" H "\r\n", 0, 0},
    {G "Host:\r\n\r\n", 0, 0},
    {G "Host: [::1]:8080\r\nX:\t a\tb \t\r\n\r\n", 0, 0},
    {G H "X: \xe9\xff\r\n\r\n", 0, 0},
    {G H "Expect: 100-continue\r\nConnection: a, Close ,b\r\n\r\n", 0, 0},

    {"", -1, 0},
    {"\r", -1, 0},
    {"\r\n", -1, 0},
    {"G", -1, 0},
    {"GET / HTTP/1.1\r\nHost: x\r\n", -1, 0},
    {"GET / HTTP/1.1\r\nHost: x\r\n\r", -1, 0},

    {"\r\n\r\n" G H "\r\n", 400, 0},
    {"\n" G H "\r\n", 400, 0},
    {"\rG", 400, 0},
    {" GET / HTTP/1.1\r\n" H "\r\n", 400, 0},
    {"\x16\x03\x01", 400, 0},
    {"GET / HTTP/1.1\nHost: x\r\n\r\n", 400, 0},
    {"GET / HTTP/1.1\r\r\n" H "\r\n", 400, 0},
    {G "Host: x\n\r\n", 400, 0},
    {G "Host: x\r\n\n", 400, 0},
    {G "Host: x\r\n\r\r\n\r\n", 400, 0},
    {G "Host: x\ry\r\n\r\n", 400, 0},
    {"GET  / HTTP/1.1\r\n" H "\r\n", 400, 0},
    {"GET /  HTTP/1.1\r\n" H "\r\n", 400, 0},
    {"GET / HTTP/1.1 \r\n" H "\r\n", 400, 0},
    {"GET\t/ HTTP/1.1\r\n" H "\r\n", 400, 0},
    {"GET /\t HTTP/1.1\r\n" H "\r\n", 400, 0},
    {"GET /\x7f HTTP/1.1\r\n" H "\r\n", 400, 0},
    {"GET /\xc3\xa9 HTTP/1.1\r\n" H "\r\n", 400, 0},
    {"GET /#a HTTP/1.1\r\n" H "\r\n", 400, 0},
    {"GET a HTTP/1.1\r\n" H "\r\n", 400, 0},
    {"GET * HTTP/1.1\r\n" H "\r\n", 400, 0},
    {"OPTIONS ** HTTP/1.1\r\n" H "\r\n", 400, 0},
    {"GET http:// HTTP/1.1\r\n" H "\r\n", 400, 0},
    {"GET http:///x HTTP/1.1\r\n" H "\r\n", 400, 0},
    {"GET http://u@a/x HTTP/1.1\r\n" H "\r\n", 400, 0},
    {"GET ftp://a/x HTTP/1.1\r\n" H "\r\n", 400, 0},
    {"G@T / HTTP/1.1\r\n" H "\r\n", 400, 0},
    {"GET /\r\n", -1, 0},
    {"GET /\r\n\r\n", 400, 0},
    {"\r\nGET\r\n\r\n", 400, 0},
    {"GET / http/1.1\r\n" H "\r\n", 400, 0},
    {"GET / HTTP/1.10\r\n" H "\r\n", 400, 0},
    {"GET / HTTP/1\r\n" H "\r\n", 400, 0},
    {"GET / HTTP/1.2\r\n" H "\r\n", 505, 0},
    {"GET / HTTP/0.9\r\n" H "\r\n", 505, 0},
    {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, 0},
    {"CONNECT a:1 HTTP/1.1\r\n" H "\r\n", 501, 0},
    {NUL("GET /\0 HTTP/1.1\r\n" H "\r\n")},
    {NUL("G\0T / HTTP/1.1\r\n" H "\r\n")},
    {NUL(G H "X\0: y\r\n\r\n")},
    {NUL(G H "X: \0\r\n\r\n")},
    {G "\r\n", 400, 0},
    {G H H "\r\n", 400, 0},
    {G "Host: x y\r\n\r\n", 400, 0},
    {G "Host: x,y\r\n\r\n", 400, 0},
    {G "Host: a@b\r\n\r\n", 400, 0},
    {G "Host: x:1x\r\n\r\n", 400, 0},
    {G "Host: [::1\r\n\r\n", 400, 0},
    {G "Host: []\r\n\r\n", 400, 0},
    {G "Host: ::1\r\n\r\n", 400, 0},
    {G "Host: a]\r\n\r\n", 400, 0},
    {G "Host : x\r\n\r\n", 400, 0},
    {G " Host: x\r\n\r\n", 400, 0},
    {G H " folded: x\r\n\r\n", 400, 0},
    {G H "X: a\r\n\tb\r\n\r\n", 400, 0},
    {G H ": a\r\n\r\n", 400, 0},
    {G H "X\r\n\r\n", 400, 0},
    {G H "X Y: a\r\n\r\n", 400, 0},
    {G H "X\x80: a\r\n\r\n", 400, 0},
    {G H "X: \x7f\r\n\r\n", 400, 0},
    {G H "X: \x0b\r\n\r\n", 400, 0},
    {G H "Content-Length: 1\r\nContent-Length: 1\r\n\r\n", 400, 0},
    {G H "Content-Length:\r\n\r\n", 400, 0},
    {G H "Content-Length: +1\r\n\r\n", 400, 0},
    {G H "Content-Length: -1\r\n\r\n", 400, 0},
    {G H "Content-Length: 1 1\r\n\r\n", 400, 0},
    {G H "Content-Length: 1, 1\r\n\r\n", 400, 0},
    {G H "Content-Length: 0x1\r\n\r\n", 400, 0},
    {G H "Content-Length: 1\t\r\n\r\n", 400, 0},
    {G H "Content-Length: 18446744073709551617\r\n\r\n", 400, 0},
    {G H "Content-Length: 9999999999999999999\r\n\r\n", 0, 0},
    {G H "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400, 0},
    {G H "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n", 400, 0},
    {G H "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400, 0},
    {G H "Transfer-Encoding:\r\n\r\n", 400, 0},
    {G H "Transfer-Encoding : chunked\r\n\r\n", 400, 0},
    {G H "Transfer-Encoding: xchunked\r\n\r\n", 501, 0},
    {G H "Transfer-Encoding: gzip, chunked\r\n\r\n", 501, 0},
    {G H "Transfer-Encoding: chunked, chunked\r\n\r\n", 501, 0},
    {G H "Transfer-Encoding: chunked;a\r\n\r\n", 501, 0},
    {"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400, 0},
};

static void
heads_by_table(void **state)
{
	struct result r;

	(void)state;
	for (size_t i = 0; i < sizeof(heads) / sizeof(heads[0]); i++) {
		const struct head *h = &heads[i];

		parse_all_ways(h->bytes, h->len > 0 ? h->len : strlen(h->bytes), &r);
		if ((h->status == 0 && r.parse != HTTP_PARSE_OK) ||
		    (h->status < 0 && r.parse != HTTP_PARSE_MORE) ||
		    (h->status > 0 && (r.parse != HTTP_PARSE_BAD || r.fault.status != h->status)))
			fail_msg("%s: parse %d, status %d", h->bytes, r.parse, r.fault.status);
	}
}

/* Every byte value where it matters. */
static void
bytes_by_place(void **state)
{
	static const char tchars[] = "!#$%&'*+-.^_`|~0123456789"
	                             "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
	char name[] = G H "Xa: y\r\n\r\n", value[] = G H "X: ab\r\n\r\n";
	char method[] = "GaT / HTTP/1.1\r\n" H "\r\n", target[] = "GET /a HTTP/1.1\r\n" H "\r\n";
	struct result r;
	size_t scanned;

	(void)state;
	for (int b = 0; b < 256; b++) {
		bool token = b != 0 && strchr(tchars, b) != NULL;

		name[sizeof(G H) - 1 + 1] = (char)b;
		scanned = 0;
		parse(name, sizeof(name) - 1, &scanned, &r);
		/* A colon just ends the name sooner. */
		assert_int_equal(r.parse == HTTP_PARSE_OK, token || b == ':');
		value[sizeof(G H) - 1 + 4] = (char)b;
		scanned = 0;
		parse(value, sizeof(value) - 1, &scanned, &r);
		assert_int_equal(r.parse == HTTP_PARSE_OK, b == '\t' || (b >= ' ' && b != 0x7f));
		method[1] = (char)b;
		scanned = 0;
		parse(method, sizeof(method) - 1, &scanned, &r);
		assert_int_equal(r.parse == HTTP_PARSE_OK, token);
		target[5] = (char)b;
		scanned = 0;
		parse(target, sizeof(target) - 1, &scanned, &r);
		assert_int_equal(r.parse == HTTP_PARSE_OK, b > ' ' && b < 0x7f && b != '#');
	}
}

static void
fields_of_a_request(void **state)
{
	static const char text[] =
	    "POST /chat/send?a=1?2 HTTP/1.1\r\nhOsT: h:1\r\nContent-Length: 12\r\n"
	    "X-A: \t one two \t \r\nx-a: second\r\nEmpty:\r\nExpect: 100-Continue\r\n\r\nbody";
	struct result r;

	(void)state;
	parse_all_ways(text, sizeof(text) - 1, &r);
	assert_int_equal(r.parse, HTTP_PARSE_OK);
	assert_int_equal(r.head_len, sizeof(text) - 1 - 4);
	assert_int_equal(r.rq.method, HTTP_POST);
	assert_int_equal(r.rq.minor, 1);
	assert_true(r.rq.keep_alive && r.rq.expect_continue && r.rq.has_length);
	assert_int_equal(r.rq.content_length, 12);
	assert_true(span_eq(r.rq.path, "/chat/send"));
	assert_true(span_eq(r.rq.query, "a=1?2"));
	assert_true(span_eq(http_header(&r.rq, "X-a"), "one two"));
	assert_non_null(http_header(&r.rq, "empty").p);
	assert_int_equal(http_header(&r.rq, "empty").len, 0);
	assert_null(http_header(&r.rq, "absent").p);
	assert_int_equal(r.rq.headers, 6);
}

static bool
keeps_alive(const char *version, const char *connection)
{
	char text[200];
	struct result r;
	size_t scanned = 0;

	snprintf(text, sizeof(text), "GET / HTTP/1.%s\r\nHost: x\r\n%s\r\n", version, connection);
	parse(text, strlen(text), &scanned, &r);
	assert_int_equal(r.parse, HTTP_PARSE_OK);
	return r.rq.keep_alive;
}

static void
keep_alive(void **state)
{
	(void)state;
	assert_true(keeps_alive("1", ""));
	assert_false(keeps_alive("1", "Connection: close\r\n"));
	assert_false(keeps_alive("1", "Connection: foo ,\tCLOSE\r\n"));
	assert_false(keeps_alive("1", "Connection: keep-alive\r\nConnection: close\r\n"));
	assert_true(keeps_alive("1", "Connection: closed\r\n"));
	assert_true(keeps_alive("1", "Connection: ,,\r\n"));
	assert_false(keeps_alive("0", ""));
	assert_true(keeps_alive("0", "Connection: Keep-Alive\r\n"));
	assert_false(keeps_alive("0", "Connection: keep-alive, close\r\n"));
}

static void
absolute_targets(void **state)
{
	static const struct {
		const char *target, *path, *query;
	} table[] = {
	    {"http://a", "/", ""},
	    {"http://a/", "/", ""},
	    {"HTTPS://a:1/b/c?d", "/b/c", "d"},
	    {"http://a?b", "/", "b"},
	    {"http://[::1]:1/x", "/x", ""},
	    {"/?", "/", ""},
	    {"//a/b", "//a/b", ""},
	    {"/http://a", "/http://a", ""},
	};
	char text[200];
	struct result r;

	(void)state;
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		snprintf(text, sizeof(text), "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", table[i].target);
		parse_all_ways(text, strlen(text), &r);
		assert_int_equal(r.parse, HTTP_PARSE_OK);
		assert_true(span_eq(r.rq.path, table[i].path));
		assert_true(span_eq(r.rq.query, table[i].query));
	}
}

/* `count` times `piece` between two texts: its status, or 0. */
static int
long_head(const char *before, const char *piece, size_t count, const char *after)
{
	struct buf b = {0};
	struct result r;
	size_t scanned = 0;

	buf_str(&b, before);
	for (size_t i = 0; i < count; i++)
		buf_str(&b, piece);
	buf_str(&b, after);
	parse(b.data, b.len, &scanned, &r);
	/* The same in pieces of 1,000. */
	scanned = 0;
	for (size_t n = 0;; n = n + 1000 < b.len ? n + 1000 : b.len) {
		struct result piecewise;

		parse(b.data, n, &scanned, &piecewise);
		if (piecewise.parse == HTTP_PARSE_MORE && n < b.len)
			continue;
		assert_same(&r, &piecewise);
		break;
	}
	buf_free(&b);
	return r.parse == HTTP_PARSE_OK ? 0 : r.parse == HTTP_PARSE_MORE ? -1 : r.fault.status;
}

static void
limits(void **state)
{
	(void)state;
	/* "GET " and " HTTP/1.1\r\n" are 15 of a line's bytes. */
	assert_int_equal(long_head("GET /", "a", HTTP_LINE_MAX - 16, " HTTP/1.1\r\n" H "\r\n"), 0);
	assert_int_equal(
	    long_head("GET /", "a", HTTP_LINE_MAX - 15, " HTTP/1.1\r\n" H "\r\n"), 414);
	assert_int_equal(long_head("GET /", "a", HTTP_LINE_MAX - 6, ""), -1);
	assert_int_equal(long_head("GET /", "a", HTTP_LINE_MAX - 5, ""), 414);
	assert_int_equal(long_head(G H "X: ", "a", HTTP_LINE_MAX - 5, "\r\n\r\n"), 0);
	assert_int_equal(long_head(G H "X: ", "a", HTTP_LINE_MAX - 4, "\r\n\r\n"), 431);
	assert_int_equal(long_head(G H "X: ", "a", HTTP_LINE_MAX - 3, ""), 431);
	assert_int_equal(long_head(G H, "X: y\r\n", HTTP_HEADERS_MAX - 1, "\r\n"), 0);
	assert_int_equal(long_head(G H, "X: y\r\n", HTTP_HEADERS_MAX, "\r\n"), 431);
	assert_int_equal(long_head(G H, "X: y\r\n", 10000, "\r\n"), 431);
	assert_int_equal(long_head(G H, "X: y\r\n", HTTP_HEAD_MAX / 6 + 1, ""), 431);
}

static bool
query_is(const char *query, const char *name, const char *want)
{
	char out[8];
	size_t len;

	if (!http_query((struct span){query, strlen(query)}, name, out, sizeof(out), &len))
		return want == NULL;
	return want != NULL && len == strlen(want) && strcmp(out, want) == 0;
}

static void
queries(void **state)
{
	(void)state;
	assert_true(query_is("id=abc", "id", "abc"));
	assert_true(query_is("a=1&id=x%20+%2By&b", "id", "x  +y"));
	assert_true(query_is("id=1&id=2", "id", "1"));
	assert_true(query_is("id", "id", ""));
	assert_true(query_is("id=", "id", ""));
	assert_true(query_is("id=a=b", "id", "a=b"));
	assert_true(query_is("", "id", NULL));
	assert_true(query_is("xid=1&idx=2&&", "id", NULL));
	assert_true(query_is("id=%", "id", NULL));
	assert_true(query_is("id=%4", "id", NULL));
	assert_true(query_is("id=%4g", "id", NULL));
	assert_true(query_is("id=%00", "id", NULL));
	assert_true(query_is("id=1234567", "id", "1234567"));
	assert_true(query_is("id=12345678", "id", NULL));
	assert_true(query_is("id=%4&x", "id", NULL));
}

struct chunked {
	const char *bytes;
	int status; /* 0: whole, -1: more is needed */
	const char *body;
	size_t rest; /* bytes left over */
};

static const struct chunked chunks[] = {
    {"0\r\n\r\n", 0, "", 0},
    {"5\r\nhello\r\n0\r\n\r\n", 0, "hello", 0},
    {"5\r\nhello\r\n0\r\n\r\nGET", 0, "hello", 3},
    {"00a\r\n0123456789\r\n1\r\n!\r\n000\r\n\r\n", 0, "0123456789!", 0},
    {"A;x\r\n0123456789\r\n0;y=z;q=\"a\\\"\t b\"\r\n\r\n", 0, "0123456789", 0},
    {"1\r\na\r\n0\r\nX: y\r\nZ:\r\n\r\n", 0, "a", 0},
    {"0000000000000001\r\na\r\n0\r\n\r\n", 0, "a", 0},
    {"1\r\na\r\n0\r\nContent-Lengthy-and-more-than-twenty-bytes: 1\r\n\r\n", 0, "a", 0},
    {"5\r\nhel", -1, "hel", 0},
    {"0\r\n", -1, "", 0},
    {"0\r\n\r", -1, "", 0},
    {"", -1, "", 0},
    {"\r\n", 400, NULL, 0},
    {"0x5\r\nhello", 400, NULL, 0},
    {"+5\r\nhello", 400, NULL, 0},
    {"-5\r\nhello", 400, NULL, 0},
    {" 5\r\nhello", 400, NULL, 0},
    {"5 \r\nhello", 400, NULL, 0},
    {"5\t\r\nhello", 400, NULL, 0},
    {"5\nhello", 400, NULL, 0},
    {"5\rhello", 400, NULL, 0},
    {"5\r\nhello\n", 400, NULL, 0},
    {"5\r\nhello!", 400, NULL, 0},
    {"5\r\nhello\r\r", 400, NULL, 0},
    {"g\r\n", 400, NULL, 0},
    {"00000000000000001\r\na\r\n", 400, NULL, 0},
    {"10000000000000001\r\na\r\n", 400, NULL, 0},
    {"ffffffffffffffff\r\na\r\n", 413, NULL, 0},
    {"65\r\n", 413, NULL, 0},
    {"64\r\n", -1, "", 0},
    {"1\r\na\r\n64\r\n", 413, NULL, 0},
    {"1;\r\n", 400, NULL, 0},
    {"1; a\r\n", 400, NULL, 0},
    {"1 ;a\r\n", 400, NULL, 0},
    {"1;a =b\r\n", 400, NULL, 0},
    {"1;a=\r\n", 400, NULL, 0},
    {"1;a=\"b\r\n", 400, NULL, 0},
    {"1;a=\"b\"c\r\n", 400, NULL, 0},
    {"1;a=\"\x80\"\r\n", 400, NULL, 0},
    {"1;a\n", 400, NULL, 0},
    {"0\r\nX\r\n\r\n", 400, NULL, 0},
    {"0\r\n: y\r\n\r\n", 400, NULL, 0},
    {"0\r\nX : y\r\n\r\n", 400, NULL, 0},
    {"0\r\n X: y\r\n\r\n", 400, NULL, 0},
    {"0\r\nX: \x01\r\n\r\n", 400, NULL, 0},
    {"0\r\nX: y\n", 400, NULL, 0},
    {"0\r\nHost: y\r\n\r\n", 400, NULL, 0},
    {"0\r\ncontent-LENGTH: 1\r\n\r\n", 400, NULL, 0},
    {"0\r\nTransfer-Encoding: chunked\r\n\r\n", 400, NULL, 0},
    {"0\r\n\n", 400, NULL, 0},
    {"0\r\n\r\r", 400, NULL, 0},
};

/* Feed up to n bytes at a time; the status as in the table. */
static int
feed(const char *bytes, size_t len, size_t first, size_t step, struct buf *body, size_t *taken)
{
	struct http_chunked ch = {0};
	struct http_fault fault = {0};
	enum http_parse r = HTTP_PARSE_MORE;
	size_t used, n = first;

	*taken = 0;
	for (size_t at = 0; at < len && r == HTTP_PARSE_MORE; at += n, n = step) {
		char *copy;

		if (n > len - at)
			n = len - at;
		copy = malloc(n > 0 ? n : 1);
		memcpy(copy, bytes + at, n);
		r = http_chunked_feed(&ch, copy, n, &used, body, 100, &fault);
		*taken += used;
		if (r == HTTP_PARSE_MORE)
			assert_int_equal(used, n);
		free(copy);
	}
	return r == HTTP_PARSE_OK ? 0 : r == HTTP_PARSE_MORE ? -1 : fault.status;
}

static void
chunks_by_table(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(chunks) / sizeof(chunks[0]); i++) {
		const struct chunked *c = &chunks[i];
		size_t len = strlen(c->bytes), taken;

		/* Cut at every place, len standing for whole; then byte by byte. */
		for (size_t cut = 0; cut <= len + 1; cut++) {
			struct buf body = {0};
			int status = cut <= len ? feed(c->bytes, len, cut, len, &body, &taken)
			                        : feed(c->bytes, len, 1, 1, &body, &taken);

			if (status != c->status)
				fail_msg("%s: %d, cut %zu", c->bytes, status, cut);
			if (c->body != NULL) {
				assert_int_equal(body.len, strlen(c->body));
				if (body.len > 0)
					assert_memory_equal(body.data, c->body, body.len);
				assert_int_equal(taken, len - c->rest);
			}
			buf_free(&body);
		}
	}
}

static int
many_chunks(const char *before, const char *piece, size_t count)
{
	struct buf b = {0}, body = {0};
	size_t taken;
	int status;

	buf_str(&b, before);
	for (size_t i = 0; i < count; i++)
		buf_str(&b, piece);
	status = feed(b.data, b.len, b.len, b.len, &body, &taken);
	buf_free(&b);
	buf_free(&body);
	return status;
}

static void
chunk_limits(void **state)
{
	(void)state;
	assert_int_equal(many_chunks("", "1\r\na\r\n", 100), -1);
	assert_int_equal(many_chunks("", "1\r\na\r\n", 101), 413);
	assert_int_equal(many_chunks("1;", "a", 4000), -1);
	assert_int_equal(many_chunks("1;", "a", 5000), 400);
	assert_int_equal(
	    many_chunks("", "1;aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\na\r\n", 100),
	    400);
	assert_int_equal(many_chunks("0\r\n", "a: b\r\n", 600), -1);
	assert_int_equal(many_chunks("0\r\n", "a: b\r\n", 1000), 431);
	assert_int_equal(many_chunks("0\r\n", "a", 5000), 431);
}

static void
reasons(void **state)
{
	(void)state;
	assert_string_equal(http_reason(200), "OK");
	assert_string_equal(http_reason(431), "Request Header Fields Too Large");
	assert_non_null(http_reason(999));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(heads_by_table),
	    cmocka_unit_test(bytes_by_place),
	    cmocka_unit_test(fields_of_a_request),
	    cmocka_unit_test(keep_alive),
	    cmocka_unit_test(absolute_targets),
	    cmocka_unit_test(limits),
	    cmocka_unit_test(queries),
	    cmocka_unit_test(chunks_by_table),
	    cmocka_unit_test(chunk_limits),
	    cmocka_unit_test(reasons),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
