/*
 * Goal:   what a provider says is said again in the client's dialect, all of it and in its order,
 *         streamed and in one piece; what was begun is ended, however the answer ends.
 * Method: recorded streams of all dialects, decoded, said in OpenAI's and Anthropic's words and
 *         decoded again: text, thoughts and calls must be the same.  Sequences of pieces and the
 *         frames that must come of them.
 *
 * objs: daemon/answer.o daemon/answer_openai.o daemon/answer_anthropic.o daemon/emit.o
 * objs: daemon/api_anthropic.o daemon/api_openai.o daemon/anthropic_error.o
 * objs: daemon/tokenizer.o daemon/tokenizer_stream.o daemon/tokenizer_merge.o
 * objs: daemon/tokenizer_split.o
 * objs: daemon/tokenizer_class.o daemon/tokenizer_table.o
 * objs: daemon/decoder.o daemon/dialect.o daemon/delta_read.o daemon/sse.o daemon/ndjson.o
 * objs: daemon/openai.o daemon/openai_template.o daemon/openai_request.o
 * objs: daemon/ollama.o daemon/ollama_request.o daemon/anthropic.o daemon/anthropic_request.o
 * objs: daemon/plain_request.o daemon/plain_message.o daemon/plain_tools.o
 * objs: daemon/chat_request.o daemon/chat_keys.o daemon/chat_tokens.o daemon/calibrate.o
 * objs: daemon/ids.o daemon/log.o
 * objs: daemon/json.o daemon/json_value.o daemon/utf8.o daemon/buf.o shm/money.o
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/api.h"
#include "daemon/utf8.h"

#define LEN(array) (sizeof(array) / sizeof((array)[0]))

/* In place of daemon/config.c: the dialects' writers are not called here. */
int
config_model(const struct config *c, const char *name, size_t len)
{
	(void)c;
	(void)name;
	(void)len;
	return -1;
}

static const struct emit_stream stream = {.stream_id = "sid",
    .session_id = "ses",
    .message_id = "mid",
    .model = "m\"1",
    .prompt_tokens = 9,
    .created = 5,
    .include_usage = true};

/* What was told of a stream, calls joined by their index. */
struct told {
	struct buf text, reasoning, calls, usage;
	int64_t index;
	uint8_t finish;
	unsigned done, errors, invalid;
	bool calling;
	/* Said on in another dialect. */
	const struct api *api;
	struct answer answer;
	struct buf out;
};

static void
told_free(struct told *t)
{
	buf_free(&t->text);
	buf_free(&t->reasoning);
	buf_free(&t->calls);
	buf_free(&t->usage);
	buf_free(&t->out);
	answer_forget(&t->answer);
}

static void
say(struct told *t, enum answer_kind kind, struct span text)
{
	struct answer_piece p = {.kind = kind, .id = SPAN(""), .name = SPAN(""), .text = text};

	if (t->api != NULL && text.len > 0)
		assert_true(t->api->say(&t->out, &stream, &t->answer, &p));
}

static bool
on_text(void *arg, struct span text, const struct decoder_event *ev)
{
	struct told *t = arg;

	(void)ev;
	buf_span(&t->text, text);
	say(t, ANSWER_TEXT, text);
	return true;
}

static void
on_call(struct told *t, const struct delta_call *c)
{
	struct answer_piece p = {.kind = ANSWER_CALL,
	    .index = c->index,
	    .id = c->id,
	    .name = c->name,
	    .text = c->arguments};

	if (c->name.len > 0)
		buf_printf(&t->calls, "|%.*s ", (int)c->name.len, c->name.p);
	/* A call without arguments has an empty object of them once it was said. */
	if (!span_eq(c->arguments, "{}"))
		buf_span(&t->calls, c->arguments);
	if (t->api != NULL)
		assert_true(t->api->say(&t->out, &stream, &t->answer, &p));
}

static void
note(struct told *t, const struct delta *d)
{
	buf_span(&t->reasoning, d->reasoning);
	say(t, ANSWER_REASONING, d->reasoning);
	(void)on_text(t, d->refusal, NULL);
	(void)on_text(t, d->text, NULL);
	for (unsigned i = 0; i < d->calls; i++)
		on_call(t, &d->call[i]);
	if (d->finish != OUTCOME_NONE)
		t->finish = d->finish;
	t->usage.len = d->usage.present ? 0 : t->usage.len;
	if (d->usage.present)
		buf_printf(&t->usage, "%lld %lld %lld", (long long)d->usage.prompt,
		    (long long)d->usage.cached, (long long)d->usage.completion);
	t->done += d->kind == DELTA_DONE;
	t->errors += d->kind == DELTA_ERROR;
	t->invalid += d->kind == DELTA_INVALID;
}

static bool
on_delta(void *arg, const struct delta *d, const struct decoder_event *ev)
{
	(void)ev;
	note(arg, d);
	return true;
}

static void
decode(enum config_dialect dialect, struct span s, struct told *t)
{
	static const struct decoder_ops ops = {on_text, on_delta};
	struct buf scratch = {0};
	struct decoder d;

	decoder_init(&d, dialect_of(dialect), "", 65536, &scratch);
	(void)decoder_feed(&d, s.p, s.len, &ops, t);
	(void)decoder_end(&d, &ops, t);
	decoder_free(&d);
	buf_free(&scratch);
}

static const struct {
	enum config_dialect dialect;
	const char *path;
} fixtures[] = {
    {DIALECT_OPENAI, "openai/openai.sse"},
    {DIALECT_OPENAI, "openai/openai_tools.sse"},
    {DIALECT_OPENAI, "openai/openai_function.sse"},
    {DIALECT_OPENAI, "openai/openrouter.sse"},
    {DIALECT_OPENAI, "openai/halves.sse"},
    {DIALECT_OPENAI, "openai/badutf8.sse"},
    {DIALECT_OPENAI, "openai/mistral.sse"},
    {DIALECT_OLLAMA, "ollama/ollama.ndjson"},
    {DIALECT_OLLAMA, "ollama/thinking.ndjson"},
    {DIALECT_OLLAMA, "ollama/tools.ndjson"},
    {DIALECT_ANTHROPIC, "anthropic/anthropic.sse"},
    {DIALECT_ANTHROPIC, "anthropic/thinking.sse"},
    {DIALECT_ANTHROPIC, "anthropic/tools.sse"},
};

static struct span
read_fixture(const char *name)
{
	static char bytes[8192];
	char path[128];
	FILE *file;
	size_t n;

	(void)snprintf(path, sizeof path, "tests/fixtures/%s", name);
	file = fopen(path, "r");
	assert_non_null(file);
	n = fread(bytes, 1, sizeof bytes, file);
	(void)fclose(file);
	assert_true(n > 0 && n < sizeof bytes);
	return (struct span){bytes, n};
}

static void
same(const char *what, const char *path, const struct buf *a, const struct buf *b)
{
	if (a->len != b->len || (a->len > 0 && memcmp(a->data, b->data, a->len) != 0))
		fail_msg("%s of %s: \"%.*s\" is not \"%.*s\"", what, path, (int)b->len, b->data,
		    (int)a->len, a->data);
}

/* With whitespace as it came in the arguments: they are strings on the way. */
static void
check_again(const char *path, struct told *first, bool whole)
{
	struct told again = {0};
	struct emit_end e = {.outcome = first->finish,
	    .prompt_tokens = 20,
	    .cached_tokens = 4,
	    .completion_tokens = 7,
	    .cost = 5};
	struct buf scratch = {0}, body = {0};
	struct delta d;

	if (whole) {
		first->api->say_whole(&body, &stream, &first->answer, &e);
		assert_int_equal(first->out.len, 0);
		assert_int_equal(json_check(body.data, body.len, NULL, NULL), JSON_OK);
		first->api->decode_whole((struct span){body.data, body.len}, &scratch, &d);
		note(&again, &d);
	} else {
		struct api_end end = {.end = e};

		first->api->end(&first->out, &stream, &first->answer, &end);
		decode(first->api->dialect, (struct span){first->out.data, first->out.len}, &again);
		assert_int_equal(again.done, 1);
	}
	assert_int_equal(again.invalid + again.errors, 0);
	same("text", path, &first->text, &again.text);
	same("reasoning", path, &first->reasoning, &again.reasoning);
	same("calls", path, &first->calls, &again.calls);
	if (!span_eq((struct span){again.usage.data, again.usage.len}, "20 4 7"))
		fail_msg("%s: usage %.*s", path, (int)again.usage.len, again.usage.data);
	/* That it stopped for its calls is said even if the provider did not. */
	assert_int_equal(again.finish, first->calls.len > 0 ? OUTCOME_TOOL_CALLS : first->finish);
	buf_free(&scratch);
	buf_free(&body);
	told_free(&again);
}

static void
test_said_again(void **state)
{
	const struct api *const apis[] = {&api_openai, &api_anthropic};

	(void)state;
	for (size_t i = 0; i < LEN(fixtures); i++)
		for (int k = 0; k < 4; k++) {
			struct told first = {.api = apis[k % 2], .answer.whole = k / 2 == 1};

			decode(fixtures[i].dialect, read_fixture(fixtures[i].path), &first);
			check_again(fixtures[i].path, &first, k / 2 == 1);
			told_free(&first);
		}
}

/* One piece: a kind, an index, an id, a name, a text. */
struct step {
	enum answer_kind kind;
	int64_t index;
	const char *id, *name, *text;
};

static bool
take(const struct api *api, struct buf *b, struct answer *a, const struct step *s)
{
	struct answer_piece p = {.kind = s->kind, .index = s->index};

	p.id = (struct span){s->id != NULL ? s->id : "", s->id != NULL ? strlen(s->id) : 0};
	p.name =
	    (struct span){s->name != NULL ? s->name : "", s->name != NULL ? strlen(s->name) : 0};
	p.text =
	    (struct span){s->text != NULL ? s->text : "", s->text != NULL ? strlen(s->text) : 0};
	return api->say(b, &stream, a, &p);
}

/* The types of Anthropic's events, or the deltas of OpenAI's, in a row. */
static void
shape(struct span frames, struct buf *out)
{
	const char *p = frames.p, *end = frames.p + frames.len, *line_end;

	for (; p < end && (line_end = memchr(p, '\n', (size_t)(end - p))) != NULL; p = line_end + 1)
		if ((size_t)(line_end - p) > 7 && memcmp(p, "event: ", 7) == 0)
			buf_printf(out, "%.*s ", (int)(line_end - p) - 7, p + 7);
}

static void
test_blocks(void **state)
{
	static const struct step steps[] = {
	    {ANSWER_REASONING, 0, NULL, NULL, "hm"},
	    {ANSWER_REASONING, 0, NULL, NULL, "m"},
	    {ANSWER_TEXT, 0, NULL, NULL, "I look"},
	    {ANSWER_CALL, 0, "c1", "f", NULL},
	    {ANSWER_CALL, 0, NULL, NULL, "{}"},
	    {ANSWER_CALL, 1, NULL, "g", NULL},
	    {ANSWER_TEXT, 0, NULL, NULL, "done"},
	};
	struct answer a = {0};
	struct buf b = {0}, s = {0};
	struct api_end e = {.end = {.outcome = OUTCOME_CREDIT, .completion_tokens = 3, .cost = 7}};

	(void)state;
	for (size_t i = 0; i < LEN(steps); i++)
		assert_true(take(&api_anthropic, &b, &a, &steps[i]));
	api_anthropic.end(&b, &stream, &a, &e);
	shape((struct span){b.data, b.len}, &s);
	buf_add(&s, "", 1);
	assert_string_equal(s.data,
	    "message_start ping content_block_start content_block_delta content_block_delta "
	    "content_block_stop content_block_start content_block_delta content_block_stop "
	    "content_block_start content_block_delta content_block_stop content_block_start "
	    "content_block_stop content_block_start content_block_delta content_block_stop "
	    "message_delta message_stop ");
	buf_add(&b, "", 1);
	assert_non_null(strstr(b.data, "\"id\":\"c1\",\"name\":\"f\",\"input\":{}"));
	assert_non_null(
	    strstr(b.data, "\"index\":3,\"content_block\":{\"type\":\"tool_use\",\"id\":"
	                   "\"toolu_mid_2\",\"name\":\"g\""));
	assert_non_null(strstr(b.data, "\"delta\":{\"stop_reason\":\"max_tokens\","
	                               "\"stop_sequence\":null},\"usage\":{\"input_tokens\":0,"));
	assert_non_null(strstr(b.data, "\"tolld\":{\"finish\":\"credit\",\"cost\":0.000007}}"));
	answer_forget(&a);
	b.len = 0;
	for (size_t i = 0; i < LEN(steps); i++)
		assert_true(take(&api_openai, &b, &a, &steps[i]));
	api_openai.end(&b, &stream, &a, &e);
	buf_add(&b, "", 1);
	/* The call without arguments gets some, as clients parse them. */
	assert_non_null(strstr(b.data, "{\"index\":1,\"id\":\"call_mid_2\",\"type\":\"function\","
	                               "\"function\":{\"name\":\"g\",\"arguments\":\"\"}}"));
	assert_non_null(strstr(b.data, "{\"index\":1,\"function\":{\"arguments\":\"{}\"}}"));
	assert_null(strstr(b.data, "{\"index\":0,\"function\":{\"arguments\":\"{}{}\"}}"));
	assert_non_null(strstr(b.data, "\"finish_reason\":\"length\""));
	answer_forget(&a);
	buf_free(&b);
	buf_free(&s);
}

/* Servers that say a call's name with every piece, or give all calls one index; and what makes
 * no sense. */
static void
test_odd_calls(void **state)
{
	static const struct step repeated[] = {{ANSWER_CALL, 0, "a", "f", "{\"x\""},
	    {ANSWER_CALL, 0, "a", "f", ":1}"}, {ANSWER_CALL, 0, "b", "g", "{}"}};
	static const struct step lost[] = {
	    {ANSWER_CALL, 3, NULL, NULL, "{}"}, {ANSWER_CALL, 1, "x", NULL, "{}"}};
	static const struct step id_alone = {ANSWER_CALL, 2, "x", NULL, NULL};
	const struct api *const apis[] = {&api_openai, &api_anthropic};
	struct told t = {0};
	struct buf b = {0};

	(void)state;
	for (int k = 0; k < 2; k++) {
		struct answer a = {0};
		struct api_end e = {.end = {.outcome = OUTCOME_STOP}};

		b.len = t.calls.len = 0;
		for (size_t i = 0; i < LEN(repeated); i++)
			assert_true(take(apis[k], &b, &a, &repeated[i]));
		apis[k]->end(&b, &stream, &a, &e);
		decode(apis[k]->dialect, (struct span){b.data, b.len}, &t);
		assert_true(span_eq((struct span){t.calls.data, t.calls.len}, "|f {\"x\":1}|g "));
		answer_forget(&a);
		for (size_t i = 0; i < LEN(lost); i++)
			assert_false(take(apis[k], &b, &a, &lost[i]));
		assert_true(take(apis[k], &b, &a, &id_alone));
		assert_int_equal(a.calls, 0);
		answer_forget(&a);
	}
	told_free(&t);
	buf_free(&b);
}

/* Nothing was said; a failure; a call that was cut. */
static void
test_ends(void **state)
{
	static const struct step half = {ANSWER_CALL, 0, "c", "f", "{\"x\":"};
	struct answer a = {0}, whole = {.whole = true};
	struct api_end e = {.end = {.outcome = OUTCOME_STOP}};
	struct emit_end failed = {.outcome = OUTCOME_UPSTREAM,
	    .error_code = "upstream_timeout",
	    .error_type = "server_error",
	    .request_id = "r1",
	    .error_kind = "idle_timeout",
	    .error_message = SPAN("too \"late\"")};
	struct buf b = {0}, s = {0};

	(void)state;
	api_anthropic.end(&b, &stream, &a, &e);
	shape((struct span){b.data, b.len}, &s);
	assert_true(span_eq(
	    (struct span){s.data, s.len}, "message_start ping message_delta message_stop "));
	b.len = 0;
	api_anthropic.refuse(&b, &failed);
	assert_true(span_eq((struct span){b.data, b.len},
	    "{\"type\":\"error\",\"error\":{\"type\":\"timeout_error\",\"message\":\"too "
	    "\\\"late\\\"\","
	    "\"code\":\"upstream_timeout\",\"kind\":\"idle_timeout\"},\"request_id\":\"r1\"}"));
	b.len = 0;
	e.end = failed;
	assert_true(take(&api_anthropic, &b, &a, &half));
	b.len = 0;
	api_anthropic.end(&b, &stream, &a, &e);
	assert_true(b.len > 13 && memcmp(b.data, "event: error\n", 13) == 0);
	answer_forget(&a);
	/* Half of an object is no input. */
	b.len = 0;
	assert_true(take(&api_anthropic, &b, &whole, &half));
	assert_int_equal(b.len, 0);
	e.end = (struct emit_end){.outcome = OUTCOME_LENGTH};
	api_anthropic.say_whole(&b, &stream, &whole, &e.end);
	buf_add(&b, "", 1);
	assert_non_null(strstr(b.data, "\"input\":{}}],\"stop_reason\":\"max_tokens\""));
	answer_forget(&whole);
	b.len = 0;
	assert_true(take(&api_openai, &b, &whole, &half));
	api_openai.say_whole(&b, &stream, &whole, &e.end);
	buf_add(&b, "", 1);
	assert_non_null(strstr(b.data, "\"arguments\":\"{\\\"x\\\":\"}}]}"));
	assert_non_null(strstr(b.data, "\"content\":null"));
	answer_forget(&whole);
	buf_free(&b);
	buf_free(&s);
}

static enum api_place
pass(struct buf *b, const char *type, const char *data, const struct delta *d,
    struct answer_place *at)
{
	struct decoder_event ev = {{type, strlen(type)}, {data, strlen(data)}};

	return api_anthropic.relay(b, &ev, d, true, at);
}

/* Events that are passed on: where they lead, and what is added to the last of them. */
static void
test_passed_on(void **state)
{
	static const char start[] = "{\"type\":\"content_block_start\",\"index\":2,"
	                            "\"content_block\":{\"type\":\"text\",\"text\":\"\"}}";
	struct delta d, stop;
	struct answer a = {0};
	struct buf b = {0}, last = {0}, out = {0};
	struct api_end e = {.end = {.outcome = OUTCOME_STOP, .cost = 3}};

	(void)state;
	delta_clear(&d);
	delta_clear(&stop);
	stop.finish = OUTCOME_STOP;
	assert_int_equal(pass(&b, "message_start", "{\"type\":\"message_start\"}", &d, &a.at), API_NOW);
	assert_true(a.at.begun);
	/* Who names no event is helped; lines become one. */
	assert_int_equal(pass(&b, "", "{\"type\":\n\"ping\"}", &d, &a.at), API_NOW);
	assert_int_equal(pass(&b, "content_block_start", start, &d, &a.at), API_NOW);
	assert_int_equal(a.at.open, OPEN_TEXT);
	assert_int_equal(a.at.blocks, 3);
	assert_int_equal(pass(&b, "", "[DONE]", &d, &a.at), API_NOWHERE);
	buf_add(&b, "", 1);
	assert_non_null(strstr(b.data, "event: ping\ndata: {\"type\": \"ping\"}\n\n"));
	/* A cut ends what is open. */
	api_anthropic.end(&out, &stream, &a, &(struct api_end){.end = {.outcome = OUTCOME_CREDIT}});
	buf_add(&out, "", 1);
	assert_ptr_equal(strstr(out.data, "event: "), strstr(out.data, "event: content_block_stop"));
	assert_non_null(strstr(out.data, "\"index\":2}"));
	assert_int_equal(
	    pass(&last, "message_delta", "{\"type\":\"message_delta\",\"delta\":{}}", &stop, &a.at),
	    API_END);
	(void)pass(&last, "ping", "{\"type\":\"ping\"}", &d, &a.at);
	e.last = (struct span){last.data, last.len};
	out.len = 0;
	api_anthropic.end(&out, &stream, &a, &e);
	assert_true(span_eq((struct span){out.data, out.len},
	    "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{},\"tolld\":{"
	    "\"finish\":\"stop\",\"cost\":0.000003}}\n\nevent: ping\ndata: {\"type\":\"ping\"}\n\n"
	    "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"));
	buf_free(&b);
	buf_free(&last);
	buf_free(&out);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_said_again),
	    cmocka_unit_test(test_blocks),
	    cmocka_unit_test(test_odd_calls),
	    cmocka_unit_test(test_ends),
	    cmocka_unit_test(test_passed_on),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
