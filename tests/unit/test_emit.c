/*
 * Goal:   watchers get exactly the frames that are promised, each whole JSON and whole UTF-8.
 * Method: frames compared byte by byte; each frame of each dialect through the SSE parser and
 *         json_check; texts of all kinds framed as openai, read back by openai_decode.
 *
 * objs: daemon/delta_read.o
 * objs: daemon/emit.o daemon/openai.o daemon/json.o daemon/json_value.o daemon/utf8.o
 * objs: daemon/sse.o daemon/buf.o shm/money.o
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/emit.h"
#include "daemon/json.h"
#include "daemon/sse.h"
#include "daemon/utf8.h"

#define LEN(array) (sizeof(array) / sizeof((array)[0]))

static const struct emit_stream stream = {.stream_id = "ab12",
    .session_id = "sess",
    .message_id = "msg",
    .model = "m\"1",
    .prompt_tokens = 12,
    .reserved = 1500000,
    .created = 1700000000};

static const struct emit_end good = {.outcome = OUTCOME_STOP,
    .prompt_tokens = 12,
    .cached_tokens = 4,
    .completion_tokens = 3,
    .cost = 2500,
    .balance = -1250001,
    .full_text = SPAN("Hi\n")};

static const struct emit_end bad = {.outcome = OUTCOME_UPSTREAM,
    .prompt_tokens = 12,
    .completion_tokens = 3,
    .cost = 2500,
    .balance = 7000000,
    .error_code = "upstream_error",
    .error_type = "server_error",
    .error_message = SPAN("it \"broke\"")};

#define HEAD "data: {\"id\":\"chatcmpl-ab12\",\"object\":\"chat.completion.chunk\"," \
	"\"created\":1700000000,\"model\":\"m\\\"1\""
#define ERROR_OBJECT "{\"message\":\"it \\\"broke\\\"\",\"type\":\"server_error\"," \
	"\"code\":\"upstream_error\",\"param\":null}"

static void
expect(struct buf *b, const char *text)
{
	struct span got = {b->data, b->len};

	if (!span_eq(got, text))
		fail_msg("got:\n%.*s\nnot:\n%s", (int)b->len, b->len ? b->data : "", text);
	b->len = 0;
}

static void
test_typed(void **state)
{
	struct buf b = {0};

	(void)state;
	emit_begin(&b, EMIT_TYPED, &stream, 0);
	expect(&b, "id: 0-b\ndata: {\"type\":\"metadata\",\"data\":{\"stream_id\":\"ab12\","
		   "\"session_id\":\"sess\",\"message_id\":\"msg\",\"model\":\"m\\\"1\","
		   "\"prompt_tokens\":12,\"reserved\":1.5}}\n\n");
	/* Who came back at byte 17 and leaves again at once is to come back at byte 17. */
	emit_begin(&b, EMIT_TYPED, &stream, 17);
	assert_memory_equal(b.data, "id: 17-b\n", 9);
	b.len = 0;
	emit_text(&b, EMIT_TYPED, &stream, "Hi\n", 3, 3);
	expect(&b, "id: 3\ndata: {\"type\":\"token\",\"data\":{\"token\":\"Hi\\n\"}}\n\n");
	emit_meter(&b, EMIT_TYPED, 3, 300, 1, -1000000);
	expect(&b, "id: 3-m\ndata: {\"type\":\"meter\",\"data\":{\"completion_tokens\":300,"
		   "\"cost\":0.000001,\"available\":-1}}\n\n");
	emit_done(&b, EMIT_TYPED, &stream, &good, 3);
	expect(&b, "id: 3-e\ndata: {\"type\":\"done\",\"data\":{\"finish_reason\":\"stop\","
		   "\"usage\":{\"prompt_tokens\":12,\"completion_tokens\":3,\"total_tokens\":15},"
		   "\"cost\":0.0025,\"balance\":-1.250001,\"full_text\":\"Hi\\n\"}}\n\n");
	emit_error(&b, EMIT_TYPED, &stream, &bad, 3);
	expect(&b, "id: 3-e\ndata: {\"type\":\"error\",\"data\":{\"error\":" ERROR_OBJECT
		   ",\"cost\":0.0025,\"balance\":7}}\n\n");
	emit_keepalive(&b, EMIT_TYPED);
	expect(&b, ": keep-alive\n\n");
	buf_free(&b);
}

static void
test_openai(void **state)
{
	struct emit_stream s = stream;
	struct buf b = {0}, head = {0};

	(void)state;
	/* Written afresh, then from the template: the same. */
	for (int round = 0; round < 2; round++) {
		emit_begin(&b, EMIT_OPENAI, &s, 0);
		expect(&b, HEAD ",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\","
				"\"content\":\"\"},\"finish_reason\":null}]}\n\n");
		emit_text(&b, EMIT_OPENAI, &s, "\xe4\xb8\xad", 3, 3);
		expect(&b, HEAD ",\"choices\":[{\"index\":0,\"delta\":{\"content\":"
				"\"\xe4\xb8\xad\"},\"finish_reason\":null}]}\n\n");
		emit_meter(&b, EMIT_OPENAI, 3, 300, 1, 1);
		expect(&b, "");
		emit_done(&b, EMIT_OPENAI, &s, &good, 3);
		expect(&b, HEAD ",\"choices\":[{\"index\":0,\"delta\":{},"
				"\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n");
		emit_error(&b, EMIT_OPENAI, &s, &bad, 3);
		expect(&b, HEAD ",\"error\":" ERROR_OBJECT ",\"choices\":[{\"index\":0,"
				"\"delta\":{},\"finish_reason\":\"error\"}]}\n\n");
		emit_keepalive(&b, EMIT_OPENAI);
		expect(&b, ": keep-alive\n\n");
		emit_template(&head, &s);
		s.openai_head = (struct span){head.data, head.len};
	}
	buf_free(&head);
	buf_free(&b);
}

static void
test_openai_with_usage(void **state)
{
	struct emit_stream s = stream;
	struct emit_end e = good;
	struct buf b = {0};

	(void)state;
	s.include_usage = true;
	emit_text(&b, EMIT_OPENAI, &s, "x", 1, 1);
	expect(&b, HEAD ",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"},"
			"\"finish_reason\":null}],\"usage\":null}\n\n");
	e.outcome = OUTCOME_CREDIT;
	emit_done(&b, EMIT_OPENAI, &s, &e, 1);
	expect(&b, HEAD ",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"credit\"}],"
			"\"usage\":null}\n\n" HEAD
			",\"choices\":[],\"usage\":{\"prompt_tokens\":12,\"completion_tokens\":3,"
			"\"total_tokens\":15,\"prompt_tokens_details\":{\"cached_tokens\":4}}}\n\n"
			"data: [DONE]\n\n");
	emit_error(&b, EMIT_OPENAI, &s, &bad, 1);
	expect(&b, HEAD ",\"choices\":[],\"usage\":{\"prompt_tokens\":12,\"completion_tokens\":3,"
			"\"total_tokens\":15,\"prompt_tokens_details\":{\"cached_tokens\":0}}}\n\n"
			HEAD ",\"error\":" ERROR_OBJECT ",\"choices\":[{\"index\":0,\"delta\":{},"
			"\"finish_reason\":\"error\"}],\"usage\":null}\n\n");
	buf_free(&b);
}

static void
test_content(void **state)
{
	struct emit_end cut = good;
	struct buf b = {0};

	(void)state;
	cut.outcome = OUTCOME_CREDIT;
	emit_begin(&b, EMIT_CONTENT, &stream, 0);
	emit_meter(&b, EMIT_CONTENT, 3, 300, 1, 1);
	expect(&b, "");
	emit_text(&b, EMIT_CONTENT, &stream, "a\"b", 3, 3);
	expect(&b, "data: {\"content\":\"a\\\"b\"}\n\n");
	emit_done(&b, EMIT_CONTENT, &stream, &cut, 3);
	expect(&b, "data: {\"content\":\"\",\"finish_reason\":\"credit\",\"usage\":{"
		   "\"prompt_tokens\":12,\"completion_tokens\":3,\"total_tokens\":15},"
		   "\"cost\":0.0025,\"balance\":-1.250001}\n\ndata: [DONE]\n\n");
	emit_done(&b, EMIT_CONTENT, &stream, &good, 3);
	expect(&b, "data: [DONE]\n\n");
	emit_error(&b, EMIT_CONTENT, &stream, &bad, 3);
	expect(&b, "data: {\"error\":" ERROR_OBJECT "}\n\n");
	emit_keepalive(&b, EMIT_CONTENT);
	expect(&b, ": keep-alive\n\n");
	buf_free(&b);
}

static void
test_text(void **state)
{
	struct buf b = {0};

	(void)state;
	emit_begin(&b, EMIT_TEXT, &stream, 0);
	emit_text(&b, EMIT_TEXT, &stream, "a\"b\n", 4, 4);
	emit_text(&b, EMIT_TEXT, &stream, "", 0, 4);
	emit_meter(&b, EMIT_TEXT, 3, 300, 1, 1);
	emit_done(&b, EMIT_TEXT, &stream, &good, 4);
	emit_error(&b, EMIT_TEXT, &stream, &bad, 4);
	emit_keepalive(&b, EMIT_TEXT);
	expect(&b, "a\"b\n");
	buf_free(&b);
}

/* An end that is a failure never reads as a good one, whatever was called. */
static void
test_failures_are_errors(void **state)
{
	static const char *const reasons[OUTCOME_MAX] = {[OUTCOME_STOP] = "stop",
	    [OUTCOME_LENGTH] = "length",
	    [OUTCOME_TOOL_CALLS] = "tool_calls",
	    [OUTCOME_CONTENT_FILTER] = "content_filter",
	    [OUTCOME_CREDIT] = "credit",
	    [OUTCOME_CANCELLED] = "cancelled"};
	struct buf b = {0};
	struct emit_end e = bad;

	(void)state;
	for (uint8_t outcome = 0; outcome < OUTCOME_MAX; outcome++) {
		const char *reason = emit_finish_reason(outcome);

		e.outcome = outcome;
		b.len = 0;
		emit_done(&b, EMIT_OPENAI, &stream, &e, 3);
		buf_add(&b, "", 1);
		if (reasons[outcome] == NULL) {
			assert_null(reason);
			assert_null(strstr(b.data, "[DONE]"));
		} else {
			assert_string_equal(reason, reasons[outcome]);
			assert_non_null(strstr(b.data, "[DONE]"));
		}
	}
	buf_free(&b);
}

struct reader {
	struct buf text, last_id, scratch;
	unsigned events, done;
};

static bool
event_cb(void *arg, const struct sse_event *e)
{
	struct reader *r = arg;
	struct delta d;
	struct json_value root, v;

	r->events++;
	r->last_id.len = 0;
	buf_span(&r->last_id, e->id);
	assert_true(utf8_valid(e->data.p, e->data.len));
	if (span_eq(e->data, "[DONE]")) {
		r->done++;
		return true;
	}
	assert_int_equal(json_check(e->data.p, e->data.len, &root, NULL), JSON_OK);
	if (json_get(root, "content", &v)) {
		json_decode_buf(v, &r->text);
	} else if (json_get(root, "type", &v)) {
		if (json_is(v, "token") && json_get(root, "data", &v) && json_get(v, "token", &v))
			json_decode_buf(v, &r->text);
	} else {
		openai_decode(e->data.p, e->data.len, &r->scratch, &d);
		assert_int_not_equal(d.kind, DELTA_INVALID);
		buf_span(&r->text, d.text);
	}
	return true;
}

/* What is read back from the frames of this text, in pieces of some characters. */
static void
round_trip(enum emit_format format, struct span text, size_t step)
{
	struct buf b = {0}, repaired = {0};
	struct reader r = {0};
	struct emit_end e = good;
	struct sse sse;
	uint64_t offset = 0;
	bool ended;
	size_t at, n;

	emit_begin(&b, format, &stream, 0);
	for (at = 0; at < text.len; at += n) {
		n = step < text.len - at ? step : text.len - at;
		n -= utf8_partial(text.p + at, n) < n ? utf8_partial(text.p + at, n) : 0;
		emit_text(&b, format, &stream, text.p + at, n, at + n);
		emit_keepalive(&b, format);
		emit_meter(&b, format, at + n, 1, 2, 3);
	}
	e.full_text = text;
	emit_done(&b, format, &stream, &e, text.len);
	emit_error(&b, format, &stream, &bad, text.len);
	assert_true(utf8_valid(b.data, b.len));
	sse_init(&sse, 1 << 20);
	assert_int_equal(sse_feed(&sse, b.data, b.len, event_cb, &r), SSE_OK);
	utf8_repair(&repaired, text.p, text.len);
	assert_int_equal(r.text.len, repaired.len);
	if (repaired.len > 0)
		assert_memory_equal(r.text.data, repaired.data, repaired.len);
	assert_int_equal(r.done, format == EMIT_TYPED ? 0 : 1);
	if (format == EMIT_TYPED) {
		struct span id = {r.last_id.data, r.last_id.len};

		assert_true(emit_parse_id(id, &offset, &ended) && ended);
		assert_int_equal(offset, text.len);
	} else {
		assert_int_equal(r.last_id.len, 0);
	}
	sse_free(&sse);
	buf_free(&b);
	buf_free(&repaired);
	buf_free(&r.text);
	buf_free(&r.last_id);
	buf_free(&r.scratch);
}

static void
test_round_trip(void **state)
{
	static const struct span texts[] = {
	    SPAN(""),
	    SPAN("plain"),
	    SPAN("\"\\/\b\f\n\r\t\x01\x1f\x7f\0 end"),
	    SPAN("\xd0\x9f\xd1\x80\xd0\xb8\xd0\xb2\xd0\xb5\xd1\x82, \xe4\xb8\xad\xe6\x96\x87 "
		 "\xf0\x9f\x98\x80\xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x92\xbb!"),
	    SPAN("a long piece of plain text that is longer than thirty-two bytes \"quoted\""),
	    SPAN("data: x\n\ndata: [DONE]\r\rid: 5\n: comment\n\xe2\x80\xa8"),
	    SPAN("broken \xff\xc3 text"),
	};

	(void)state;
	for (size_t i = 0; i < LEN(texts); i++)
		for (size_t step = 4; step < 80; step += 5) {
			round_trip(EMIT_OPENAI, texts[i], step);
			round_trip(EMIT_TYPED, texts[i], step);
			round_trip(EMIT_CONTENT, texts[i], step);
		}
}

static void
test_ids(void **state)
{
	static const struct {
		struct span id;
		bool good, ended;
		uint64_t offset;
	} samples[] = {
	    {SPAN("0-b"), true, false, 0}, {SPAN("0"), true, false, 0},
	    {SPAN("17"), true, false, 17}, {SPAN("17-m"), true, false, 17},
	    {SPAN("17-e"), true, true, 17}, {SPAN("0-e"), true, true, 0},
	    {SPAN("18446744073709551615-e"), true, true, UINT64_MAX},
	    {SPAN("18446744073709551616"), false, false, 0}, {SPAN(""), false, false, 0},
	    {SPAN("-e"), false, false, 0}, {SPAN("17-b"), true, false, 17},
	    {SPAN("17-x"), false, false, 0}, {SPAN("17-"), false, false, 0},
	    {SPAN("17-ee"), false, false, 0}, {SPAN("017"), false, false, 0},
	    {SPAN("+17"), false, false, 0}, {SPAN(" 17"), false, false, 0},
	    {SPAN("17 "), false, false, 0}, {SPAN("x"), false, false, 0},
	};
	uint64_t offset;
	bool ended;

	(void)state;
	for (size_t i = 0; i < LEN(samples); i++) {
		offset = 0;
		ended = false;
		if (emit_parse_id(samples[i].id, &offset, &ended) != samples[i].good ||
		    ended != samples[i].ended || offset != samples[i].offset)
			fail_msg("%s", samples[i].id.p);
	}
}

static void
test_names(void **state)
{
	(void)state;
	assert_int_equal(emit_format_by_name(SPAN("typed")), EMIT_TYPED);
	assert_int_equal(emit_format_by_name(SPAN("openai")), EMIT_OPENAI);
	assert_int_equal(emit_format_by_name(SPAN("content")), EMIT_CONTENT);
	assert_int_equal(emit_format_by_name(SPAN("text")), EMIT_TEXT);
	assert_int_equal(emit_format_by_name(SPAN("Text")), -1);
	assert_int_equal(emit_format_by_name(SPAN("")), -1);
}

static void
test_error_body(void **state)
{
	struct buf b = {0};

	(void)state;
	emit_error_body(&b, "invalid_request_error", "invalid_json", NULL, SPAN("no\n"));
	expect(&b, "{\"error\":{\"message\":\"no\\n\",\"type\":\"invalid_request_error\","
		   "\"code\":\"invalid_json\",\"param\":null}}");
	emit_error_body(&b, "t", NULL, "model", SPAN(""));
	expect(&b, "{\"error\":{\"message\":\"\",\"type\":\"t\",\"code\":null,"
		   "\"param\":\"model\"}}");
	buf_free(&b);
}

/* Who failed, how, and when to come back, in every dialect that has words. */
static void
test_a_providers_failure(void **state)
{
	static const char object[] =
	    "{\"message\":\"no\",\"type\":\"server_error\",\"code\":\"overloaded\","
	    "\"param\":null,\"kind\":\"rate_limit\",\"retry_after\":7}";
	const struct emit_end e = {.outcome = OUTCOME_UPSTREAM,
	    .provider = "p",
	    .error_code = "overloaded",
	    .error_type = "server_error",
	    .error_kind = "rate_limit",
	    .retry_after = 7,
	    .error_message = SPAN("no"),
	    .full_text = SPAN("")};
	struct emit_stream s = stream;
	struct buf b = {0};

	(void)state;
	emit_error(&b, EMIT_TYPED, &stream, &e, 3);
	buf_add(&b, "", 1);
	assert_non_null(strstr(b.data, object));
	assert_non_null(strstr(b.data, ",\"balance\":0,\"provider\":\"p\"}}\n\n"));
	b.len = 0;
	emit_error(&b, EMIT_OPENAI, &stream, &e, 3);
	buf_add(&b, "", 1);
	assert_non_null(strstr(b.data, object));
	b.len = 0;
	emit_error(&b, EMIT_CONTENT, &stream, &e, 3);
	buf_add(&b, "", 1);
	assert_non_null(strstr(b.data, object));
	b.len = 0;
	emit_error_end(&b, &e);
	buf_add(&b, "", 1);
	assert_memory_equal(b.data, "{\"error\":", 9);
	assert_non_null(strstr(b.data, object));
	/* Who comes back is told who answers. */
	s.provider = "p\"q";
	b.len = 0;
	emit_begin(&b, EMIT_TYPED, &s, 0);
	buf_add(&b, "", 1);
	assert_non_null(strstr(b.data, ",\"provider\":\"p\\\"q\"}}\n\n"));
	buf_free(&b);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_typed),
	    cmocka_unit_test(test_openai),
	    cmocka_unit_test(test_openai_with_usage),
	    cmocka_unit_test(test_content),
	    cmocka_unit_test(test_text),
	    cmocka_unit_test(test_failures_are_errors),
	    cmocka_unit_test(test_round_trip),
	    cmocka_unit_test(test_ids),
	    cmocka_unit_test(test_names),
	    cmocka_unit_test(test_error_body),
	    cmocka_unit_test(test_a_providers_failure),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
