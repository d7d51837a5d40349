/*
 * Goal:   what each provider streams in OpenAI's dialect becomes the same few facts, and what it
 *         should not send does no harm.
 * Method: streams written after each provider's documentation (tests/fixtures/openai), read
 *         through the SSE parser; then a table of single events, whole and malformed.
 *
 * objs: daemon/delta_read.o
 * objs: daemon/openai.o daemon/json.o daemon/json_value.o daemon/utf8.o daemon/sse.o
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

#include "daemon/openai.h"
#include "daemon/sse.h"
#include "daemon/utf8.h"

#define LEN(array) (sizeof(array) / sizeof((array)[0]))

struct stream {
	struct buf text, refusal, reasoning, tools, other, message, scratch;
	struct usage usage;
	uint8_t finish;
	unsigned events, errors, invalid, done;
};

static bool
event_cb(void *arg, const struct sse_event *e)
{
	struct stream *s = arg;
	struct delta d;

	openai_decode(e->data.p, e->data.len, &s->scratch, &d);
	buf_span(&s->text, d.text);
	buf_span(&s->refusal, d.refusal);
	buf_span(&s->reasoning, d.reasoning);
	buf_span(&s->tools, d.tool_arguments);
	buf_span(&s->other, d.other);
	buf_span(&s->message, d.message);
	s->events++;
	s->errors += d.kind == DELTA_ERROR;
	s->invalid += d.kind == DELTA_INVALID;
	s->done += d.kind == DELTA_DONE;
	if (d.finish != OUTCOME_NONE)
		s->finish = d.finish;
	if (d.usage.present)
		s->usage = d.usage;
	return true;
}

static void
check_text(const struct buf *b, const char *text)
{
	struct span s = {b->data, b->len};

	if (!span_eq(s, text != NULL ? text : ""))
		fail_msg("got \"%.*s\", not \"%s\"", (int)b->len, b->data, text);
}

static const struct fixture {
	const char *name, *text, *refusal, *reasoning, *tools, *other, *message;
	unsigned events, done, errors;
	uint8_t finish;
	struct usage usage;
} fixtures[] = {
    {.name = "openai", .text = "Hello, \"w\xc3\xb6rld\" \xf0\x9f\x98\x80\n", .events = 6,
        .done = 1, .finish = OUTCOME_STOP, .usage = {true, 19, 4, 10, 3, 0}},
    {.name = "openai_tools", .tools = "get_weather{\"city\":\"Oslo\"}now{}", .events = 5,
        .done = 1, .finish = OUTCOME_TOOL_CALLS},
    {.name = "openai_n2", .text = "A1A2", .refusal = "No.", .other = "B1B2b", .events = 4,
        .done = 1, .finish = OUTCOME_CONTENT_FILTER},
    {.name = "openai_function", .tools = "f{}", .events = 4, .done = 1,
        .finish = OUTCOME_TOOL_CALLS},
    {.name = "azure", .text = "Azure", .events = 7, .done = 1, .finish = OUTCOME_LENGTH,
        .usage = {true, 9, 0, 1, 0, 0}},
    {.name = "openrouter", .text = "Routed", .reasoning = "Think", .events = 5, .done = 1,
        .finish = OUTCOME_STOP, .usage = {true, 8, 0, 12, 9, 0}},
    {.name = "openrouter_error", .text = "Half",
        .message = "Provider disconnected \xe2\x80\x94 unexpectedly", .events = 2, .errors = 1},
    {.name = "vllm", .text = "vLLM \xe5\xa5\xbd", .reasoning = "Hm", .events = 6, .done = 1,
        .finish = OUTCOME_STOP, .usage = {true, 5, 0, 5, 0, 0}},
    {.name = "vllm_error", .text = "x", .message = "CUDA out of memory", .events = 2,
        .errors = 1},
    {.name = "deepseek", .text = "Deep", .reasoning = "First", .events = 5, .done = 1,
        .finish = OUTCOME_STOP, .usage = {true, 17, 16, 9, 5, 0}},
    {.name = "mistral", .text = "Mistral", .reasoning = "Let me", .events = 4, .done = 1,
        .finish = OUTCOME_LENGTH, .usage = {true, 14, 0, 30, 0, 0}},
    {.name = "groq", .text = "Groq", .events = 4, .done = 1, .finish = OUTCOME_STOP,
        .usage = {true, 18, 0, 2, 0, 0}},
};

static void
check_usage(struct usage got, struct usage want)
{
	assert_int_equal(got.present, want.present);
	assert_int_equal(got.prompt, want.prompt);
	assert_int_equal(got.cached, want.cached);
	assert_int_equal(got.completion, want.completion);
	assert_int_equal(got.reasoning, want.reasoning);
}

static void
check_fixture(const struct fixture *f, size_t piece)
{
	struct stream s = {0};
	struct sse sse;
	char path[128], bytes[4096];
	FILE *file;
	size_t n;

	(void)snprintf(path, sizeof(path), "tests/fixtures/openai/%s.sse", f->name);
	file = fopen(path, "r");
	if (file == NULL)
		fail_msg("no %s", path);
	sse_init(&sse, 65536);
	while ((n = fread(bytes, 1, piece, file)) > 0)
		assert_int_equal(sse_feed(&sse, bytes, n, event_cb, &s), SSE_OK);
	(void)fclose(file);
	sse_free(&sse);
	assert_int_equal(s.events, f->events);
	assert_int_equal(s.done, f->done);
	assert_int_equal(s.errors, f->errors);
	assert_int_equal(s.invalid, 0);
	assert_int_equal(s.finish, f->finish);
	check_text(&s.text, f->text);
	check_text(&s.refusal, f->refusal);
	check_text(&s.reasoning, f->reasoning);
	check_text(&s.tools, f->tools);
	check_text(&s.other, f->other);
	check_text(&s.message, f->message);
	check_usage(s.usage, f->usage);
	struct buf *const all[] = {&s.text, &s.refusal, &s.reasoning, &s.tools, &s.other,
	    &s.message, &s.scratch};
	for (size_t i = 0; i < LEN(all); i++)
		buf_free(all[i]);
}

static void
test_providers(void **state)
{
	(void)state;
	for (size_t i = 0; i < LEN(fixtures); i++) {
		check_fixture(&fixtures[i], 4096);
		check_fixture(&fixtures[i], 1);
		check_fixture(&fixtures[i], 37);
	}
}

static const struct single {
	struct span data;
	enum delta_kind kind;
	const char *text; /* or the message, or what was counted only */
	uint8_t finish;
} singles[] = {
    {SPAN("[DONE]"), DELTA_DONE, NULL, 0},
    {SPAN(" \t[DONE] \r"), DELTA_DONE, NULL, 0},
    {SPAN("[DONE]x"), DELTA_INVALID, NULL, 0},
    {SPAN("[done]"), DELTA_INVALID, NULL, 0},
    {SPAN(""), DELTA_EMPTY, NULL, 0},
    {SPAN("  "), DELTA_EMPTY, NULL, 0},
    {SPAN("{}"), DELTA_EMPTY, NULL, 0},
    {SPAN("{\"choices\":null,\"usage\":null,\"error\":null}"), DELTA_EMPTY, NULL, 0},
    {SPAN("{\"choices\":[{\"delta\":null,\"finish_reason\":null}]}"), DELTA_EMPTY, NULL, 0},
    {SPAN("{\"choices\":[{\"delta\":{\"tool_calls\":null,\"content\":null}}]}"), DELTA_EMPTY,
        NULL, 0},
    {SPAN("{\"choices\":[{\"delta\":{\"content\":\"x\"}}]}"), DELTA_PART, "x", 0},
    {SPAN("{\"\\u0063hoices\":[{\"d\\u0065lta\":{\"conten\\u0074\":\"x\"}}]}"), DELTA_PART, "x",
        0},
    {SPAN("{\"choices\":[{\"delta\":{\"content\":\"\\ud800\"}}]}"), DELTA_PART,
        UTF8_REPLACEMENT, 0},
    {SPAN("{\"choices\":[{\"finish_reason\":\"stop\"}]}"), DELTA_PART, NULL, OUTCOME_STOP},
    {SPAN("{\"choices\":[{\"finish_reason\":\"eos\"}]}"), DELTA_PART, NULL, OUTCOME_STOP},
    {SPAN("{\"choices\":[{\"finish_reason\":\"\"}]}"), DELTA_EMPTY, NULL, 0},
    {SPAN("{\"choices\":[{\"finish_reason\":\"error\"}]}"), DELTA_ERROR, "", 0},
    {SPAN("{\"choices\":[{\"finish_reason\":\"insufficient_system_resource\"}]}"), DELTA_ERROR,
        "", 0},
    {SPAN("{\"choices\":[{\"index\":1,\"finish_reason\":\"length\",\"delta\":{}}]}"),
        DELTA_EMPTY, NULL, 0},
    {SPAN("{\"error\":{\"message\":\"m\\n\",\"code\":500}}"), DELTA_ERROR, "m\n", 0},
    {SPAN("{\"error\":\"text\"}"), DELTA_ERROR, "text", 0},
    {SPAN("{\"error\":{}}"), DELTA_ERROR, "", 0},
    {SPAN("{\"error\":{\"message\":null}}"), DELTA_ERROR, "", 0},
    {SPAN("{\"error\":true}"), DELTA_ERROR, "", 0},
    {SPAN("{\"error\":\"\"}"), DELTA_EMPTY, NULL, 0},
    {SPAN("{\"x_groq\":{\"error\":\"over capacity\"}}"), DELTA_ERROR, "over capacity", 0},
    {SPAN("{\"message\":\"no error\",\"object\":\"x\"}"), DELTA_EMPTY, NULL, 0},
    /* Not what it should be. */
    {SPAN("nonsense"), DELTA_INVALID, NULL, 0},
    {SPAN("[]"), DELTA_INVALID, NULL, 0},
    {SPAN("\"x\""), DELTA_INVALID, NULL, 0},
    {SPAN("{\"choices\":[{\"delta\":{\"content\":\"x\"}}]"), DELTA_INVALID, NULL, 0},
    {SPAN("{\"choices\":[{\"delta\":{\"content\":\"x\"}}]}}"), DELTA_INVALID, NULL, 0},
    {SPAN("{\"choices\":[{\"delta\":{\"content\":\"x\",\"content\":\"y\"}}]}"), DELTA_INVALID,
        NULL, 0},
    {SPAN("{\"choices\":{\"delta\":{\"content\":\"x\"}}}"), DELTA_INVALID, NULL, 0},
    {SPAN("{\"choices\":[\"x\"]}"), DELTA_INVALID, NULL, 0},
    {SPAN("{\"choices\":[{\"delta\":\"x\"}]}"), DELTA_INVALID, NULL, 0},
    {SPAN("{\"choices\":[{\"delta\":{\"content\":5}}]}"), DELTA_INVALID, NULL, 0},
    {SPAN("{\"choices\":[{\"index\":\"0\",\"delta\":{\"content\":\"x\"}}]}"), DELTA_INVALID,
        NULL, 0},
    {SPAN("{\"choices\":[{\"delta\":{\"content\":\"x\n\"}}]}"), DELTA_INVALID, NULL, 0},
    {SPAN("{\"a\":\"\xff\",\"choices\":["), DELTA_INVALID, NULL, 0},
};

static void
test_single_events(void **state)
{
	struct buf scratch = {0};
	struct delta d;

	(void)state;
	for (size_t i = 0; i < LEN(singles); i++) {
		const struct single *s = &singles[i];
		/* Memory of its own, for the address sanitizer. */
		char *data = malloc(s->data.len + 1);

		memcpy(data, s->data.p, s->data.len);
		openai_decode(data, s->data.len, &scratch, &d);
		free(data);
		if (d.kind != s->kind || d.finish != s->finish)
			fail_msg("%s: kind %d, finish %d", s->data.p, d.kind, d.finish);
		if (!span_eq(d.kind == DELTA_ERROR ? d.message : d.text, s->text ? s->text : ""))
			fail_msg("%s: wrong text", s->data.p);
		if (d.kind != DELTA_ERROR)
			assert_int_equal(d.message.len, 0);
		assert_false(d.utf8_repaired && s->data.p[1] != '"');
	}
	buf_free(&scratch);
}

static const struct {
	const char *usage;
	struct usage want;
	bool bad;
} usages[] = {
    {"null", {0}, false},
    {"{}", {0}, false},
    {"{\"total_tokens\":5}", {0}, false},
    {"{\"prompt_tokens\":null,\"completion_tokens\":null}", {0}, false},
    {"{\"prompt_tokens\":0,\"completion_tokens\":0}", {.present = true}, false},
    {"{\"prompt_tokens\":3,\"completion_tokens\":2}", {true, 3, 0, 2, 0, 0}, false},
    {"{\"prompt_tokens\":3}", {true, 3, 0, 0, 0, 0}, false},
    {"{\"prompt_tokens\":9,\"completion_tokens\":2,\"prompt_tokens_details\":"
     "{\"cached_tokens\":2,\"cache_write_tokens\":7,\"audio_tokens\":1}}",
        {true, 9, 2, 2, 0, 7}, false},
    {"{\"prompt_tokens\":9,\"completion_tokens\":2,\"prompt_tokens_details\":"
     "{\"cached_tokens\":2,\"cache_write_tokens\":8}}",
        {0}, true},
    {"{\"prompt_tokens\":4294967295,\"completion_tokens\":1}", {true, 4294967295, 0, 1, 0, 0}, false},
    {"{\"prompt_tokens\":3,\"completion_tokens\":2,\"prompt_tokens_details\":null}",
        {true, 3, 0, 2, 0, 0}, false},
    {"{\"prompt_tokens\":3,\"completion_tokens\":2,\"prompt_cache_hit_tokens\":3}",
        {true, 3, 3, 2, 0, 0}, false},
    /* Reasoning beside the completion, as the total says. */
    {"{\"prompt_tokens\":3,\"completion_tokens\":2,\"total_tokens\":15,"
     "\"completion_tokens_details\":{\"reasoning_tokens\":10}}",
        {true, 3, 0, 12, 10, 0}, false},
    {"{\"prompt_tokens\":3,\"completion_tokens\":12,\"total_tokens\":15,"
     "\"completion_tokens_details\":{\"reasoning_tokens\":10}}",
        {true, 3, 0, 12, 10, 0}, false},
    {"{\"prompt_tokens\":-1,\"completion_tokens\":2}", {0}, true},
    {"{\"prompt_tokens\":1,\"completion_tokens\":4294967296}", {0}, true},
    {"{\"prompt_tokens\":1,\"completion_tokens\":99999999999999999999}", {0}, true},
    {"{\"prompt_tokens\":1,\"completion_tokens\":2.5}", {0}, true},
    {"{\"prompt_tokens\":1,\"completion_tokens\":1e3}", {0}, true},
    {"{\"prompt_tokens\":\"1\",\"completion_tokens\":2}", {0}, true},
    {"{\"prompt_tokens\":3,\"completion_tokens\":2,\"prompt_tokens_details\":"
     "{\"cached_tokens\":4}}",
        {0}, true},
    {"{\"prompt_tokens\":3,\"completion_tokens\":2,\"completion_tokens_details\":"
     "{\"reasoning_tokens\":-4}}",
        {0}, true},
    {"17", {0}, true},
    {"[]", {0}, true},
};

static void
test_usage(void **state)
{
	struct buf scratch = {0}, event = {0};
	struct delta d;

	(void)state;
	for (size_t i = 0; i < LEN(usages); i++) {
		event.len = 0;
		buf_printf(&event, "{\"choices\":[],\"usage\":%s}", usages[i].usage);
		openai_decode(event.data, event.len, &scratch, &d);
		if (d.usage_bad != usages[i].bad || d.usage.present != usages[i].want.present)
			fail_msg("%s", usages[i].usage);
		check_usage(d.usage, usages[i].want);
		assert_int_equal(d.kind, d.usage.present || d.usage_bad ? DELTA_PART : DELTA_EMPTY);
	}
	buf_free(&event);
	buf_free(&scratch);
}

/* A bad usage costs no text: both may be in one event. */
static void
test_bad_usage_keeps_text(void **state)
{
	struct buf scratch = {0};
	struct delta d;
	struct span data = SPAN("{\"usage\":{\"prompt_tokens\":-1},"
				"\"choices\":[{\"delta\":{\"content\":\"kept\"}}]}");

	(void)state;
	openai_decode(data.p, data.len, &scratch, &d);
	assert_int_equal(d.kind, DELTA_PART);
	assert_true(d.usage_bad && span_eq(d.text, "kept"));
	buf_free(&scratch);
}

static void
test_invalid_utf8_is_repaired(void **state)
{
	static const struct {
		struct span content;
		const char *text;
	} samples[] = {
	    {SPAN("a\xff" "b"), "a" UTF8_REPLACEMENT "b"},
	    {SPAN("\xe4\xb8"), UTF8_REPLACEMENT},
	    {SPAN("\xed\xa0\x80"), UTF8_REPLACEMENT UTF8_REPLACEMENT UTF8_REPLACEMENT},
	    {SPAN("\xff\\n\\u00e9\xfe"), UTF8_REPLACEMENT "\n\xc3\xa9" UTF8_REPLACEMENT},
	};
	struct buf scratch = {0}, event = {0};
	struct delta d;

	(void)state;
	for (size_t i = 0; i < LEN(samples); i++) {
		event.len = 0;
		buf_str(&event, "{\"choices\":[{\"delta\":{\"content\":\"");
		buf_span(&event, samples[i].content);
		buf_str(&event, "\",\"refusal\":\"r\"}}]}");
		openai_decode(event.data, event.len, &scratch, &d);
		assert_int_equal(d.kind, DELTA_PART);
		assert_true(d.utf8_repaired && span_eq(d.text, samples[i].text));
		assert_true(span_eq(d.refusal, "r"));
	}
	openai_decode("{}", 2, &scratch, &d);
	assert_false(d.utf8_repaired);
	buf_free(&event);
	buf_free(&scratch);
}

static void
test_error_message(void **state)
{
	static const struct {
		struct span body;
		const char *message;
	} samples[] = {
	    {SPAN("{\"error\":{\"message\":\"Rate limit\",\"type\":\"x\"}}"), "Rate limit"},
	    {SPAN("{\"error\":\"model not found\"}"), "model not found"},
	    {SPAN("[{\"error\":{\"code\":400,\"message\":\"bad\"}}]"), "bad"},
	    {SPAN("{\"object\":\"error\",\"message\":\"old vLLM\"}"), "old vLLM"},
	    {SPAN("{\"detail\":\"Not Found\"}"), "Not Found"},
	    {SPAN("{\"error\":{\"message\":\"\xff\"}}"), UTF8_REPLACEMENT},
	    {SPAN("{\"error\":{\"message\":5}}"), ""},
	    {SPAN("{\"error\":null}"), ""},
	    {SPAN("[]"), ""},
	    {SPAN("<html>502</html>"), ""},
	    {SPAN(""), ""},
	};
	struct buf scratch = {0};

	(void)state;
	for (size_t i = 0; i < LEN(samples); i++)
		if (!span_eq(openai_error_message(samples[i].body.p, samples[i].body.len, &scratch),
		        samples[i].message))
			fail_msg("%s", samples[i].body.p);
	buf_free(&scratch);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_providers),
	    cmocka_unit_test(test_single_events),
	    cmocka_unit_test(test_usage),
	    cmocka_unit_test(test_bad_usage_keeps_text),
	    cmocka_unit_test(test_invalid_utf8_is_repaired),
	    cmocka_unit_test(test_error_message),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
