/*
 * Goal:   events come out as WHATWG's standard says, however the bytes were cut.
 * Method: a table of streams with the events they hold; each is fed whole, byte by byte, and in
 *         two pieces at every place, each piece in memory of its own.
 *
 * objs: daemon/sse.o daemon/buf.o shm/money.o
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/sse.h"

#define LINE_BYTES_MAX 64
#define A16 "aaaaaaaaaaaaaaaa"
#define A64 A16 A16 A16 A16

struct sample {
	const char *name;
	struct span stream;
	const char *events; /* [event|data|id] each */
	enum sse_result result;
};

static const struct sample samples[] = {
    {"nothing", SPAN(""), "", SSE_OK},
    {"one", SPAN("data: x\n\n"), "[|x|]", SSE_OK},
    {"no space", SPAN("data:x\n\n"), "[|x|]", SSE_OK},
    {"one space only is dropped", SPAN("data:  x \n\n"), "[| x |]", SSE_OK},
    {"CR LF", SPAN("data: x\r\n\r\ndata: y\r\n\r\n"), "[|x|][|y|]", SSE_OK},
    {"CR", SPAN("data: x\r\rdata: y\r\r"), "[|x|][|y|]", SSE_OK},
    {"mixed", SPAN("data: x\r\ndata: y\n\rdata: z\r\n\n"), "[|x\ny|][|z|]", SSE_OK},
    {"several lines", SPAN("data: a\ndata: b\ndata:\ndata: c\n\n"), "[|a\nb\n\nc|]", SSE_OK},
    {"field without colon", SPAN("data\n\ndata\ndata\n\n"), "[||][|\n|]", SSE_OK},
    {"empty data", SPAN("data:\n\n"), "[||]", SSE_OK},
    {"unfinished event is dropped", SPAN("data: x\n\ndata: y\n"), "[|x|]", SSE_OK},
    {"unfinished line is dropped", SPAN("data: x\n\ndata: y"), "[|x|]", SSE_OK},
    {"comment", SPAN(": keep-alive\n\n:\n\ndata: x\n: between\ndata: y\n\n"), "[|x\ny|]",
        SSE_OK},
    {"event name", SPAN("event: add\ndata: 1\n\ndata: 2\n\n"), "[add|1|][|2|]", SSE_OK},
    {"event without data is none", SPAN("event: add\n\ndata: 2\n\n"), "[|2|]", SSE_OK},
    {"last event name counts", SPAN("event: a\nevent: b\ndata: 1\n\n"), "[b|1|]", SSE_OK},
    {"id stays", SPAN("id: 7\ndata: 1\n\ndata: 2\n\nid\ndata: 3\n\n"), "[|1|7][|2|7][|3|]",
        SSE_OK},
    {"id without data stays", SPAN("id: 7\n\ndata: 2\n\n"), "[|2|7]", SSE_OK},
    {"id with NUL is ignored", SPAN("id: 7\ndata: 1\n\nid: 8\0\ndata: 2\n\n"),
        "[|1|7][|2|7]", SSE_OK},
    {"retry and others are skipped", SPAN("retry: 10\nfoo: bar\nfoo\ndata: 1\n\n"), "[|1|]",
        SSE_OK},
    {"names are exact", SPAN("Data: x\n data: y\ndata : z\ndata: 1\n\n"), "[|1|]", SSE_OK},
    {"BOM", SPAN("\xef\xbb\xbf" "data: x\n\n"), "[|x|]", SSE_OK},
    {"BOM alone on its line", SPAN("\xef\xbb\xbf\ndata: x\n\n"), "[|x|]", SSE_OK},
    {"one BOM only", SPAN("\xef\xbb\xbf\xef\xbb\xbf" "data: x\n\ndata: y\n\n"), "[|y|]", SSE_OK},
    {"BOM later is none", SPAN("data: x\n\n\xef\xbb\xbf" "data: y\n\n"), "[|x|]", SSE_OK},
    {"blank lines first", SPAN("\n\r\n\rdata: x\n\n"), "[|x|]", SSE_OK},
    {"colon in value", SPAN("data: a:b\n\n"), "[|a:b|]", SSE_OK},
    {"bytes are passed on", SPAN("data: \xff\xc3\n\n"), "[|\xff\xc3|]", SSE_OK},
    {"line as long as may be", SPAN("data:" A16 A16 A16 "aaaaaaaaaaa\n\n"),
        "[|" A16 A16 A16 "aaaaaaaaaaa|]", SSE_OK},
    {"BOM does not count", SPAN("\xef\xbb\xbf" "data:" A16 A16 A16 "aaaaaaaaaaa\n\n"),
        "[|" A16 A16 A16 "aaaaaaaaaaa|]", SSE_OK},
    {"line too long", SPAN("data: x\n\ndata:" A16 A16 A16 "aaaaaaaaaaaa\n\ndata: y\n\n"),
        "[|x|]", SSE_OVERSIZE},
    {"line without end", SPAN("data: x\n\n" A64 "a"), "[|x|]", SSE_OVERSIZE},
    {"comment too long", SPAN(":" A64 "\n\ndata: x\n\n"), "", SSE_OVERSIZE},
    {"event too long", SPAN("data:" A16 A16 "\ndata:" A16 A16 "\n\n"), "", SSE_OVERSIZE},
    {"event as long as may be", SPAN("data:" A16 A16 "\ndata:" A16 "aaaaaaaaaaaaaaa\n\n"),
        "[|" A16 A16 "\n" A16 "aaaaaaaaaaaaaaa|]", SSE_OK},
    {"stopped", SPAN("data: 1\n\ndata: stop\n\ndata: 2\n\n"), "[|1|][|stop|]", SSE_STOPPED},
};

static bool
event_cb(void *arg, const struct sse_event *e)
{
	struct buf *b = arg;

	buf_add(b, "[", 1);
	buf_span(b, e->event);
	buf_add(b, "|", 1);
	buf_span(b, e->data);
	buf_add(b, "|", 1);
	buf_span(b, e->id);
	buf_add(b, "]", 1);
	return !span_eq(e->data, "stop");
}

/* Feed a piece from memory that is gone afterwards. */
static void
feed(struct sse *sse, const char *p, size_t len, struct buf *seen)
{
	char *piece = malloc(len + 1);

	memcpy(piece, p, len);
	(void)sse_feed(sse, piece, len, event_cb, seen);
	memset(piece, '#', len);
	free(piece);
}

/* In pieces of `first` bytes, then of `more`. */
static void
check(const struct sample *s, size_t first, size_t more)
{
	struct sse sse;
	struct buf seen = {0};
	size_t at, n;

	sse_init(&sse, LINE_BYTES_MAX);
	for (at = 0; at < s->stream.len; at += n) {
		n = at == 0 ? first : more;
		if (n > s->stream.len - at)
			n = s->stream.len - at;
		feed(&sse, s->stream.p + at, n, &seen);
	}
	buf_add(&seen, "", 1);
	if (strcmp(seen.data, s->events) != 0)
		fail_msg("%s (%zu, %zu): %s", s->name, first, more, seen.data);
	if (sse.result != s->result)
		fail_msg("%s (%zu, %zu): result %d", s->name, first, more, (int)sse.result);
	/* What ended stays so. */
	if (s->result != SSE_OK)
		assert_int_equal(sse_feed(&sse, "data: z\n\n", 9, event_cb, &seen), s->result);
	buf_free(&seen);
	sse_free(&sse);
}

static void
test_whole(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(samples) / sizeof(samples[0]); i++)
		check(&samples[i], SIZE_MAX, 1);
}

static void
test_byte_by_byte(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(samples) / sizeof(samples[0]); i++)
		check(&samples[i], 1, 1);
}

static void
test_every_cut(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(samples) / sizeof(samples[0]); i++)
		for (size_t cut = 1; cut < samples[i].stream.len; cut++) {
			check(&samples[i], cut, SIZE_MAX);
			check(&samples[i], cut, 3);
		}
}

/* The whole event lies in the input: its data must not be a copy. */
static bool
where_cb(void *arg, const struct sse_event *e)
{
	*(const char **)arg = e->data.p;
	return true;
}

static void
test_no_copy(void **state)
{
	static const char stream[] = "event: x\ndata: here\n\n";
	const char *where = NULL;
	struct sse sse;

	(void)state;
	sse_init(&sse, LINE_BYTES_MAX);
	assert_int_equal(sse_feed(&sse, stream, sizeof(stream) - 1, where_cb, &where), SSE_OK);
	assert_ptr_equal(where, stream + 15);
	sse_free(&sse);
}

/* Megabytes of short lines must cost as much each as the first ones. */
static void
test_no_quadratic_work(void **state)
{
	static const char *const lines[] = {"data:\r", "data:\n", ":\r\n", "\r", "id:1\n"};
	struct buf stream = {0}, seen = {0};
	struct sse sse;

	(void)state;
	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
		stream.len = 0;
		while (stream.len < 4000000)
			buf_str(&stream, lines[i]);
		sse_init(&sse, 8000000);
		assert_int_equal(sse_feed(&sse, stream.data, stream.len, event_cb, &seen), SSE_OK);
		sse_free(&sse);
	}
	buf_free(&stream);
	buf_free(&seen);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_whole),
	    cmocka_unit_test(test_byte_by_byte),
	    cmocka_unit_test(test_every_cut),
	    cmocka_unit_test(test_no_copy),
	    cmocka_unit_test(test_no_quadratic_work),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
