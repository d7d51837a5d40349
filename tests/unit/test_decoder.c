/*
 * Goal:   what each provider streams becomes the same few facts, whatever its dialect and however
 *         its bytes were cut; what "auto" makes of it is the same.
 * Method: streams written after each provider's documentation (tests/fixtures), fed whole, cut at
 *         every byte, in pieces of one to three bytes, and at pairs of places, each piece in memory
 *         of its own.  What was told must be the same, up to how text was divided.
 *
 * objs: daemon/tokenizer.o daemon/tokenizer_stream.o daemon/tokenizer_merge.o
 * objs: daemon/tokenizer_split.o
 * objs: daemon/tokenizer_class.o daemon/tokenizer_table.o
 * objs: daemon/decoder.o daemon/dialect.o daemon/delta_read.o daemon/sse.o daemon/ndjson.o
 * objs: daemon/openai.o daemon/openai_template.o daemon/openai_request.o
 * objs: daemon/ollama.o daemon/ollama_request.o daemon/anthropic.o daemon/anthropic_request.o
 * objs: daemon/plain_request.o daemon/plain_message.o daemon/plain_tools.o daemon/chat_request.o daemon/chat_keys.o daemon/chat_tokens.o daemon/calibrate.o
 * objs: daemon/ids.o daemon/log.o
 * objs: daemon/json.o daemon/json_value.o daemon/utf8.o daemon/buf.o shm/money.o
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/decoder.h"
#include "daemon/utf8.h"

#define LEN(array) (sizeof(array) / sizeof((array)[0]))
#define FFFD UTF8_REPLACEMENT
#define SMILE "\xf0\x9f\x98\x80"
#define LINE_MAX (1u << 16)

/* In place of daemon/config.c: the dialects' writers are not called here. */
int
config_model(const struct config *c, const char *name, size_t len)
{
	(void)c;
	(void)name;
	(void)len;
	return -1;
}

/* All that a stream told; what was said in one field, whatever its pieces, is one text. */
struct told {
	struct buf text, hidden, message;
	struct buf calls; /* index, id, name and arguments of each, as they came */
	struct usage usage;
	unsigned errors, invalid, done, repaired, odd, missing;
	uint8_t finish;
	enum decoder_result result;
	const struct dialect *dialect;
};

static struct buf scratch;

static bool
on_text(void *arg, struct span text, const struct decoder_event *ev)
{
	(void)ev;
	struct told *t = arg;

	assert_true(utf8_valid(text.p, text.len));
	buf_span(&t->text, text);
	return true;
}

static bool
on_delta(void *arg, const struct delta *d, const struct decoder_event *ev)
{
	(void)ev;
	struct told *t = arg;

	t->errors += d->kind == DELTA_ERROR;
	t->invalid += d->kind == DELTA_INVALID;
	t->done += d->kind == DELTA_DONE;
	t->repaired += d->utf8_repaired;
	t->odd += d->usage_bad;
	buf_span(&t->hidden, d->reasoning);
	buf_span(&t->hidden, d->tool_arguments);
	buf_span(&t->hidden, d->other);
	buf_span(&t->message, d->message);
	for (unsigned i = 0; i < d->calls; i++)
		buf_printf(&t->calls, "%lld,%.*s,%.*s,%.*s|", (long long)d->call[i].index,
		    (int)d->call[i].id.len, d->call[i].id.p, (int)d->call[i].name.len,
		    d->call[i].name.p, (int)d->call[i].arguments.len, d->call[i].arguments.p);
	t->missing += d->calls_missing;
	if (d->finish != OUTCOME_NONE)
		t->finish = d->finish;
	if (d->usage.present)
		t->usage = d->usage;
	(void)on_text(t, d->refusal, ev);
	return on_text(t, d->text, ev);
}

static const struct decoder_ops ops = {on_text, on_delta};

static void
told_free(struct told *t)
{
	buf_free(&t->text);
	buf_free(&t->hidden);
	buf_free(&t->message);
	buf_free(&t->calls);
}

/* Feed a piece from memory that is gone afterwards. */
static void
feed(struct decoder *d, struct told *t, const char *p, size_t len)
{
	char *piece;

	if (len == 0)
		return;
	piece = malloc(len);
	memcpy(piece, p, len);
	(void)decoder_feed(d, piece, len, &ops, t);
	memset(piece, '#', len);
	free(piece);
}

/* The stream in pieces up to a, up to b, and the rest; `size` at a time where that is not 0. */
static void
run(const struct dialect *dialect, const char *media, struct span s, size_t a, size_t b,
    size_t size, struct told *t)
{
	struct decoder d;

	t->text.len = t->hidden.len = t->message.len = t->calls.len = 0;
	*t = (struct told){
	    .text = t->text, .hidden = t->hidden, .message = t->message, .calls = t->calls};
	decoder_init(&d, dialect, media, LINE_MAX, &scratch);
	if (size > 0) {
		for (size_t at = 0; at < s.len; at += size)
			feed(&d, t, s.p + at, size < s.len - at ? size : s.len - at);
	} else {
		feed(&d, t, s.p, a);
		feed(&d, t, s.p + a, b - a);
		feed(&d, t, s.p + b, s.len - b);
	}
	t->result = decoder_end(&d, &ops, t);
	t->dialect = d.dialect;
	decoder_free(&d);
}

static bool
same_text(const struct buf *a, const struct buf *b)
{
	return a->len == b->len && (a->len == 0 || memcmp(a->data, b->data, a->len) == 0);
}

static bool
same(const struct told *a, const struct told *b)
{
	return same_text(&a->text, &b->text) && same_text(&a->hidden, &b->hidden) &&
	       same_text(&a->message, &b->message) && same_text(&a->calls, &b->calls) &&
	       a->missing == b->missing && a->usage.present == b->usage.present &&
	       a->usage.prompt == b->usage.prompt && a->usage.cached == b->usage.cached &&
	       a->usage.completion == b->usage.completion &&
	       a->usage.reasoning == b->usage.reasoning && a->errors == b->errors &&
	       a->invalid == b->invalid && a->done == b->done && a->repaired == b->repaired &&
	       a->odd == b->odd && a->finish == b->finish && a->result == b->result &&
	       a->dialect == b->dialect;
}

static const struct fixture {
	enum config_dialect dialect;
	const char *path, *text, *hidden, *message;
	struct usage usage;
	uint8_t finish;
	bool unfinished; /* no end mark */
	unsigned repaired;
	const char *calls;
} fixtures[] = {
    {DIALECT_OPENAI, "openai/openai.sse", "Hello, \"w\xc3\xb6rld\" " SMILE "\n",
        .finish = OUTCOME_STOP, .usage = {true, 19, 4, 10, 3}},
    {DIALECT_OPENAI, "openai/openai_tools.sse", .hidden = "get_weather{\"city\":\"Oslo\"}now{}",
        .finish = OUTCOME_TOOL_CALLS,
        .calls = "0,call_abc,get_weather,|0,,,{\"city\":|0,,,\"Oslo\"}|1,,now,{}|"},
    {DIALECT_OPENAI, "openai/openai_n2.sse", "A1A2No.", "B1B2b", .finish = OUTCOME_CONTENT_FILTER},
    {DIALECT_OPENAI, "openai/openai_function.sse", .hidden = "f{}", .finish = OUTCOME_TOOL_CALLS,
        .calls = "0,,f,|0,,,{}|"},
    {DIALECT_OPENAI, "openai/azure.sse", "Azure", .finish = OUTCOME_LENGTH,
        .usage = {true, 9, 0, 1, 0}},
    {DIALECT_OPENAI, "openai/openrouter.sse", "Routed", "Think", .finish = OUTCOME_STOP,
        .usage = {true, 8, 0, 12, 9}},
    {DIALECT_OPENAI, "openai/openrouter_error.sse", "Half",
        .message = "Provider disconnected \xe2\x80\x94 unexpectedly", .unfinished = true},
    {DIALECT_OPENAI, "openai/named_error.sse", "Half", .message = "The worker went away",
        .unfinished = true},
    {DIALECT_OPENAI, "openai/vllm.sse", "vLLM \xe5\xa5\xbd", "Hm", .finish = OUTCOME_STOP,
        .usage = {true, 5, 0, 5, 0}},
    {DIALECT_OPENAI, "openai/vllm_error.sse", "x", .message = "CUDA out of memory",
        .unfinished = true},
    {DIALECT_OPENAI, "openai/deepseek.sse", "Deep", "First", .finish = OUTCOME_STOP,
        .usage = {true, 17, 16, 9, 5}},
    {DIALECT_OPENAI, "openai/mistral.sse", "Mistral", "Let me", .finish = OUTCOME_LENGTH,
        .usage = {true, 14, 0, 30, 0}},
    {DIALECT_OPENAI, "openai/groq.sse", "Groq", .finish = OUTCOME_STOP,
        .usage = {true, 18, 0, 2, 0}},
    {DIALECT_OPENAI, "openai/framing.sse", "AB", .finish = OUTCOME_STOP},
    {DIALECT_OPENAI, "openai/halves.sse",
        "a" SMILE "b" FFFD FFFD "x" FFFD "c\xc3\xa9"
        "\\ud83d"
        "end" FFFD,
        .finish = OUTCOME_STOP},
    {DIALECT_OPENAI, "openai/badutf8.sse", "ab" FFFD FFFD "c" FFFD "d", .finish = OUTCOME_STOP,
        .repaired = 1},
    {DIALECT_OLLAMA, "ollama/ollama.ndjson", "The sky is \"blau\", sch\xc3\xb6n " SMILE "\n",
        .finish = OUTCOME_STOP, .usage = {true, 26, 0, 9, 0}},
    {DIALECT_OLLAMA, "ollama/thinking.ndjson", "Yes", "Let me see", .finish = OUTCOME_LENGTH,
        .usage = {true, 11, 0, 40, 0}},
    {DIALECT_OLLAMA, "ollama/tools.ndjson", .hidden = "get_weather{\"city\":\"Oslo\"}",
        .finish = OUTCOME_STOP, .usage = {true, 169, 0, 15, 0},
        .calls = "-1,call_1,get_weather,{\"city\":\"Oslo\"}|"},
    {DIALECT_OLLAMA, "ollama/error.ndjson", "I can",
        .message = "an error was encountered while running the model", .unfinished = true},
    {DIALECT_OLLAMA, "ollama/crlf.ndjson", "abc", .finish = OUTCOME_STOP,
        .usage = {true, 3, 0, 2, 0}},
    {DIALECT_ANTHROPIC, "anthropic/anthropic.sse", "Hallo, W\xc3\xb6rt \"x\" " SMILE,
        .finish = OUTCOME_STOP, .usage = {true, 2112, 2000, 15, 0}},
    {DIALECT_ANTHROPIC, "anthropic/thinking.sse", "12,231", "27 * 453 = 12231",
        .finish = OUTCOME_LENGTH, .usage = {true, 25, 0, 64, 0}},
    {DIALECT_ANTHROPIC, "anthropic/tools.sse", "I look.", "get_weather{\"city\": \"Oslo\"}",
        .finish = OUTCOME_TOOL_CALLS, .usage = {true, 472, 0, 89, 0},
        .calls = "1,toolu_01,get_weather,|1,,,{\"city\":|1,,, \"Oslo\"}|"},
    {DIALECT_ANTHROPIC, "anthropic/error.sse", "Half", .message = "Overloaded", .unfinished = true},
    {DIALECT_ANTHROPIC, "anthropic/refusal.sse", "No", .finish = OUTCOME_CONTENT_FILTER,
        .usage = {true, 8, 0, 2, 0}},
};

static struct span
read_fixture(const struct fixture *f)
{
	static char bytes[8192];
	char path[128];
	FILE *file;
	size_t n;

	(void)snprintf(path, sizeof path, "tests/fixtures/%s", f->path);
	file = fopen(path, "r");
	if (file == NULL)
		fail_msg("no %s", path);
	n = fread(bytes, 1, sizeof bytes, file);
	(void)fclose(file);
	assert_true(n > 0 && n < sizeof bytes);
	return (struct span){bytes, n};
}

static void
check_text(const struct fixture *f, const struct buf *b, const char *text)
{
	struct span s = {b->data, b->len};

	if (!span_eq(s, text != NULL ? text : ""))
		fail_msg("%s: got \"%.*s\", not \"%s\"", f->path, (int)b->len, b->data,
		    text != NULL ? text : "");
}

static const char *
media_of(const struct fixture *f)
{
	return f->dialect == DIALECT_OLLAMA ? "application/x-ndjson" : "text/event-stream";
}

static void
test_providers(void **state)
{
	struct told t = {0};

	(void)state;
	for (size_t i = 0; i < LEN(fixtures); i++) {
		const struct fixture *f = &fixtures[i];

		run(dialect_of(f->dialect), media_of(f), read_fixture(f), 0, 0, 0, &t);
		check_text(f, &t.text, f->text);
		check_text(f, &t.hidden, f->hidden);
		check_text(f, &t.message, f->message);
		check_text(f, &t.calls, f->calls);
		if (t.finish != f->finish || t.done != !f->unfinished || t.invalid != 0 ||
		    t.repaired != f->repaired || t.odd != 0 || t.errors != (f->message != NULL) ||
		    t.result != (f->unfinished ? DECODER_OK : DECODER_OVER))
			fail_msg("%s: finish %d done %u invalid %u repaired %u", f->path, t.finish,
			    t.done, t.invalid, t.repaired);
		if (t.usage.present != f->usage.present || t.usage.prompt != f->usage.prompt ||
		    t.usage.cached != f->usage.cached ||
		    t.usage.completion != f->usage.completion ||
		    t.usage.reasoning != f->usage.reasoning)
			fail_msg("%s: usage %lld (%lld) + %lld", f->path, (long long)t.usage.prompt,
			    (long long)t.usage.cached, (long long)t.usage.completion);
	}
	told_free(&t);
}

/* What a call says, and what is none: other choices, calls without a word, more than there is
 * room for. */
static void
test_calls(void **state)
{
	static const struct {
		enum config_dialect dialect;
		const char *event, *calls, *hidden;
	} cases[] = {
	    {DIALECT_OPENAI,
	        "{\"choices\":[{\"delta\":{\"tool_calls\":[{\"id\":\"a\",\"function\":{\"name\":"
	        "\"f\",\"arguments\":{\"x\":1}}},{\"index\":null,\"function\":{\"arguments\":"
	        "\"y\"},\"id\":\"\"}]}}]}",
	        "0,a,f,{\"x\":1}|1,,,y|", "f{\"x\":1}y"},
	    {DIALECT_OPENAI,
	        "{\"choices\":[{\"delta\":{\"tool_calls\":[{\"function\":{\"arguments\":\"1\"},"
	        "\"index\":7}]}},{\"delta\":{\"tool_calls\":[{\"function\":{\"name\":\"g\"},"
	        "\"id\":\"b\"}]},\"index\":1}]}",
	        "7,,,1|", "1g"},
	    {DIALECT_OPENAI, "{\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":3},null]}}]}", "",
	        ""},
	    {DIALECT_OPENAI,
	        "{\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":-3,\"id\":\"a\"}]}}]}",
	        "0,a,,|", ""},
	    {DIALECT_OLLAMA,
	        "{\"message\":{\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":{}}},"
	        "{\"function\":{\"name\":\"g\",\"arguments\":{\"a\":[1, 2]}}}]},\"done\":false}",
	        "-1,,f,{}|-1,,g,{\"a\":[1, 2]}|", "f{}g{\"a\":[1, 2]}"},
	    {DIALECT_ANTHROPIC,
	        "{\"type\":\"content_block_start\",\"content_block\":{\"type\":\"tool_use\","
	        "\"id\":\"t\",\"name\":\"f\",\"input\":{\"a\":1}},\"index\":2}",
	        "2,t,f,{\"a\":1}|", "f{\"a\":1}"},
	    {DIALECT_ANTHROPIC,
	        "{\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":"
	        "\"text\",\"text\":\"\"}}",
	        "", ""},
	};
	struct told t = {0};
	struct buf b = {0};
	struct delta d;
	struct dialect_state ds = {0};

	(void)state;
	for (size_t i = 0; i < LEN(cases); i++) {
		t.calls.len = t.hidden.len = 0;
		dialect_of(cases[i].dialect)
		    ->decode(&ds, (struct span){cases[i].event, strlen(cases[i].event)}, &scratch,
		        &d);
		assert_int_not_equal(d.kind, DELTA_INVALID);
		(void)on_delta(&t, &d, NULL);
		if (!span_eq((struct span){t.calls.data, t.calls.len}, cases[i].calls) ||
		    !span_eq((struct span){t.hidden.data, t.hidden.len}, cases[i].hidden))
			fail_msg("%s: %.*s", cases[i].event, (int)t.calls.len, t.calls.data);
	}
	buf_str(&b, "{\"message\":{\"tool_calls\":[");
	for (int i = 0; i <= DELTA_CALLS_MAX; i++)
		buf_printf(&b, "%s{\"function\":{\"name\":\"f\"}}", i > 0 ? "," : "");
	buf_str(&b, "]}}");
	dialect_of(DIALECT_OLLAMA)->decode(&ds, (struct span){b.data, b.len}, &scratch, &d);
	assert_int_equal(d.calls, DELTA_CALLS_MAX);
	assert_true(d.calls_missing);
	assert_int_equal(d.tool_arguments.len, DELTA_CALLS_MAX + 1);
	buf_free(&b);
	told_free(&t);
}

/*
 * Pairs of places that are near, where one piece of a stream's syntax is cut twice; of short
 * streams all.  With "all" as the program's argument all pairs of all of them, for minutes.
 */
#ifdef __SANITIZE_ADDRESS__
#define APART_MAX 8
#define SHORT_MAX 0
#else
#define APART_MAX 48
#define SHORT_MAX 600
#endif
static bool all_pairs;

static void
test_every_cut(void **state)
{
	struct told whole = {0}, cut = {0};

	(void)state;
	for (size_t i = 0; i < LEN(fixtures); i++) {
		const struct fixture *f = &fixtures[i];
		const struct dialect *dialect = dialect_of(f->dialect);
		struct span s = read_fixture(f);
		size_t apart = all_pairs || s.len <= SHORT_MAX ? s.len : APART_MAX;

		run(dialect, media_of(f), s, 0, 0, 0, &whole);
		for (size_t size = 1; size <= 3; size++) {
			run(dialect, media_of(f), s, 0, 0, size, &cut);
			if (!same(&whole, &cut))
				fail_msg("%s: in pieces of %zu", f->path, size);
		}
		for (size_t a = 0; a < s.len; a++)
			for (size_t b = a; b < s.len && b - a <= apart; b++) {
				run(dialect, media_of(f), s, a, b, 0, &cut);
				if (!same(&whole, &cut))
					fail_msg("%s: cut at %zu and %zu", f->path, a, b);
			}
	}
	told_free(&whole);
	told_free(&cut);
}

/* "auto" finds what it is, by the media type or without one, however the first bytes come. */
static void
test_auto(void **state)
{
	struct told whole = {0}, found = {0};

	(void)state;
	for (size_t i = 0; i < LEN(fixtures); i++) {
		const struct fixture *f = &fixtures[i];
		const struct dialect *dialect = dialect_of(f->dialect);
		struct span s = read_fixture(f);

		run(dialect, media_of(f), s, 0, 0, 0, &whole);
		for (size_t a = 0; a < 40; a++) {
			run(NULL, a % 2 == 0 ? media_of(f) : "text/plain", s, a / 2, a, 0, &found);
			if (found.dialect != dialect)
				fail_msg("%s: taken for %s", f->path,
				    found.dialect != NULL ? found.dialect->name : "none");
			if (!same(&whole, &found))
				fail_msg("%s: not the same", f->path);
		}
	}
	told_free(&whole);
	told_free(&found);
}

/* White space before the stream is dropped whether it came with its first byte or before it. */
static void
test_auto_leading_space(void **state)
{
	struct span s = SPAN(" \r\n data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n");
	struct told t = {0};

	(void)state;
	for (size_t a = 0; a < 8; a++) {
		run(NULL, "", s, a, a, 0, &t);
		assert_true(span_eq((struct span){t.text.data, t.text.len}, "x"));
	}
	told_free(&t);
}

static void
test_auto_refuses(void **state)
{
	static const char *const bodies[] = {
	    "<html>", " \r\n<!DOCTYPE html>", "Bad gateway", "[{\"error\":1}]", "\"x\"", "5"};
	struct told t = {0};

	(void)state;
	assert_false(decoder_accepts(NULL, "text/html"));
	assert_false(decoder_accepts(NULL, "application/json"));
	assert_true(decoder_accepts(NULL, ""));
	assert_false(decoder_accepts(dialect_of(DIALECT_OPENAI), ""));
	assert_false(decoder_accepts(dialect_of(DIALECT_OLLAMA), "application/json"));
	for (size_t i = 0; i < LEN(bodies); i++) {
		struct span s = {bodies[i], strlen(bodies[i])};

		run(NULL, "", s, 0, 0, 1, &t);
		assert_int_equal(t.result, DECODER_FOREIGN);
		assert_int_equal(t.text.len + t.done + t.invalid, 0);
	}
	run(NULL, "", SPAN(" \n"), 0, 0, 0, &t);
	assert_int_equal(t.result, DECODER_OK);
	assert_null(t.dialect);
	told_free(&t);
}

/* Only an end mark is taken without its blank line; a text is dropped, as the standard says. */
static void
test_no_final_blank_line(void **state)
{
	static const struct {
		enum config_dialect dialect;
		const char *stream, *text;
		unsigned done;
	} samples[] = {
	    {DIALECT_OPENAI, "data: [DONE]", "", 1},
	    {DIALECT_OPENAI, "data: [DONE]\n", "", 1},
	    {DIALECT_OPENAI, "data: [DONE]\r", "", 1},
	    {DIALECT_OPENAI, "data: [DON", "", 0},
	    {DIALECT_OPENAI, "data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n", "", 0},
	    {DIALECT_OPENAI,
	        "data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n"
	        "data: {\"choices\":[{\"delta\":{\"content\":\"y\"}}]}\n",
	        "x", 0},
	    {DIALECT_ANTHROPIC, "event: message_stop\ndata: {\"type\":\"message_stop\"}", "", 1},
	    {DIALECT_ANTHROPIC, "data: {\"delta\":{\"text\":\"x\"}}\n\ndata: [DONE]\n\n", "x", 0},
	    {DIALECT_OLLAMA, "{\"message\":{\"content\":\"x\"},\"done\":true}", "x", 1},
	    {DIALECT_OLLAMA, "{\"message\":{\"content\":\"x\"}}", "x", 0},
	};
	struct told t = {0};

	(void)state;
	for (size_t i = 0; i < LEN(samples); i++) {
		struct span s = {samples[i].stream, strlen(samples[i].stream)};

		run(dialect_of(samples[i].dialect), "", s, 0, 0, 0, &t);
		if (t.done != samples[i].done || t.invalid != 0 ||
		    !span_eq((struct span){t.text.data, t.text.len}, samples[i].text))
			fail_msg("%s", samples[i].stream);
	}
	told_free(&t);
}

/* What follows the end mark says nothing, not even an error. */
static void
test_nothing_after_the_end(void **state)
{
	static const struct {
		enum config_dialect dialect;
		const char *stream;
	} samples[] = {
	    {DIALECT_OPENAI,
	        "data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n"
	        "data: [DONE]\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"y\"}}]}\n\n"
	        "data: {\"error\":{\"message\":\"e\"}}\n\ndata: {\n\ndata: [DONE]\n\n"},
	    {DIALECT_OLLAMA,
	        "{\"message\":{\"content\":\"x\"},\"done\":true}\n{\"error\":\"e\"}\n{\n"
	        "{\"message\":{\"content\":\"y\"},\"done\":true}\n"},
	    {DIALECT_ANTHROPIC, "data: {\"delta\":{\"text\":\"x\"}}\n\n"
	                        "data: {\"type\":\"message_stop\"}\n\n"
	                        "data: {\"type\":\"error\",\"error\":{\"message\":\"e\"}}\n\n"},
	};
	struct told t = {0};
	struct buf whole = {0};

	(void)state;
	for (size_t i = 0; i < LEN(samples); i++) {
		/* A line over the limit is none of our business either. */
		whole.len = 0;
		buf_str(&whole, samples[i].stream);
		memset(buf_reserve(&whole, 2 * LINE_MAX), 'x', 2 * LINE_MAX);
		whole.len += 2 * LINE_MAX;
		run(dialect_of(samples[i].dialect), "", (struct span){whole.data, whole.len}, 0, 0,
		    i * 100, &t);
		assert_int_equal(t.result, DECODER_OVER);
		assert_int_equal(t.done, 1);
		assert_int_equal(t.errors + t.invalid, 0);
		assert_true(span_eq((struct span){t.text.data, t.text.len}, "x"));
	}
	buf_free(&whole);
	told_free(&t);
}

static void
add_utf8(struct buf *b, uint32_t c)
{
	char p[4];
	size_t n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;

	for (size_t i = n; i-- > 1; c >>= 6)
		p[i] = (char)(0x80 | (c & 0x3f));
	p[0] = (char)(n == 1 ? c : (0xf00u >> n & 0xff) | c);
	buf_add(b, p, n);
}

static uint32_t
random_character(void)
{
	static const char special[] = "\"\\/\b\f\n\r\t\0 {}[]:,";
	uint32_t c;

	switch (rand() % 6) {
	case 0:
		return (unsigned char)special[(size_t)rand() % (sizeof special - 1)];
	case 1:
		return 0x80 + (uint32_t)rand() % 0x780;
	case 2:
		c = 0x800 + (uint32_t)rand() % 0xf800;
		return c >= 0xd800 && c < 0xe000 ? 0xfffd : c;
	case 3:
		return 0x10000 + (uint32_t)rand() % 0x100000;
	default:
		return 0x20 + (uint32_t)rand() % 0x5f;
	}
}

/* One event with this JSON text as its content, in a dialect. */
static void
add_event(struct buf *b, enum config_dialect d, const struct buf *json)
{
	static const char *const before[] = {
	    [DIALECT_OPENAI] = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"",
	    [DIALECT_OLLAMA] = "{\"message\":{\"role\":\"assistant\",\"content\":\"",
	    [DIALECT_ANTHROPIC] = "event: content_block_delta\ndata: {\"type\":"
	                          "\"content_block_delta\",\"delta\":{\"text\":\"",
	};
	static const char *const after[] = {
	    [DIALECT_OPENAI] = "\"}}]}\n\n",
	    [DIALECT_OLLAMA] = "\"},\"done\":false}\n",
	    [DIALECT_ANTHROPIC] = "\"}}\n\n",
	};

	buf_str(b, before[d]);
	buf_add(b, json->data, json->len);
	buf_str(b, after[d]);
}

/*
 * A text of random characters, said in as many events as it happens, each character as it is or
 * escaped, a pair of surrogates in one event or in two: append the stream, and the text.
 */
static void
say_anything(struct buf *stream, struct buf *text, enum config_dialect d)
{
	static const char *const mark[] = {
	    [DIALECT_OPENAI] = "data: [DONE]\n\n",
	    [DIALECT_OLLAMA] = "{\"done\":true}\n",
	    [DIALECT_ANTHROPIC] = "data: {\"type\":\"message_stop\"}\n\n",
	};
	struct buf json = {0};

	for (int n = rand() % 30; n > 0; n--) {
		uint32_t c = random_character();

		add_utf8(text, c);
		if (rand() % 2 == 0 && c >= 0x20 && c != '"' && c != '\\') {
			add_utf8(&json, c);
		} else if (c < 0x10000) {
			buf_printf(&json, rand() % 2 ? "\\u%04x" : "\\u%04X", c);
		} else {
			buf_printf(&json, "\\u%04x", 0xd800 + ((c - 0x10000) >> 10));
			if (rand() % 2 == 0) {
				add_event(stream, d, &json);
				json.len = 0;
			}
			buf_printf(&json, "\\u%04x", 0xdc00 + (c & 0x3ff));
		}
		if (rand() % 3 == 0) {
			add_event(stream, d, &json);
			json.len = 0;
		}
	}
	if (json.len > 0)
		add_event(stream, d, &json);
	buf_str(stream, mark[d]);
	buf_free(&json);
}

static void
test_text_out_is_text_in(void **state)
{
	struct buf stream = {0}, text = {0};
	struct told t = {0};

	(void)state;
	srand(1);
	for (int i = 0; i < 30000; i++) {
		enum config_dialect d = (enum config_dialect)(i % 3);
		size_t a, b;

		stream.len = text.len = 0;
		say_anything(&stream, &text, d);
		a = (size_t)rand() % (stream.len + 1);
		b = a + (size_t)rand() % (stream.len - a + 1);
		run(dialect_of(d), "", (struct span){stream.data, stream.len}, a, b,
		    (size_t)rand() % 9, &t);
		if (t.done != 1 || t.invalid + t.errors + t.repaired != 0 ||
		    !same_text(&t.text, &text))
			fail_msg("%.*s\ngave %.*s\nnot  %.*s", (int)stream.len, stream.data,
			    (int)t.text.len, t.text.data, (int)text.len, text.data);
	}
	buf_free(&stream);
	buf_free(&text);
	told_free(&t);
}

/* Half of a pair that another choice ends with is not the text's. */
static void
test_halves_of_other_choices(void **state)
{
	struct span s =
	    SPAN("data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}},"
	         "{\"delta\":{\"content\":\"b\\ud83d\"},\"index\":1}]}\n\n"
	         "data: {\"choices\":[{\"delta\":{\"content\":\"\\ude00c\"},\"index\":1},"
	         "{\"index\":0,\"delta\":{\"content\":\"d\"}}]}\n\ndata: [DONE]\n\n");
	struct told t = {0};

	(void)state;
	run(dialect_of(DIALECT_OPENAI), "", s, 0, 0, 0, &t);
	assert_true(span_eq((struct span){t.text.data, t.text.len}, "ad"));
	assert_true(span_eq((struct span){t.hidden.data, t.hidden.len}, "b" FFFD FFFD "c"));
	told_free(&t);
}

/* A line without end costs its limit and no more. */
static void
test_line_limit(void **state)
{
	static const enum config_dialect dialects[] = {
	    DIALECT_OPENAI, DIALECT_OLLAMA, DIALECT_ANTHROPIC};
	char piece[1000];

	(void)state;
	memset(piece, 'a', sizeof piece);
	for (size_t i = 0; i < LEN(dialects); i++) {
		struct decoder d;
		struct told t = {0};
		enum decoder_result r = DECODER_OK;
		size_t fed = 0;

		decoder_init(&d, dialect_of(dialects[i]), "", LINE_MAX, &scratch);
		while (r == DECODER_OK && fed < 4 * LINE_MAX) {
			r = decoder_feed(&d, piece, sizeof piece, &ops, &t);
			fed += sizeof piece;
		}
		assert_int_equal(r, DECODER_OVERSIZE);
		assert_true(fed < LINE_MAX + 3 * sizeof piece);
		assert_int_equal(decoder_feed(&d, "\n\n", 2, &ops, &t), DECODER_OVERSIZE);
		decoder_free(&d);
		told_free(&t);
	}
}

int
main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_providers),
	    cmocka_unit_test(test_calls),
	    cmocka_unit_test(test_every_cut),
	    cmocka_unit_test(test_auto),
	    cmocka_unit_test(test_auto_leading_space),
	    cmocka_unit_test(test_auto_refuses),
	    cmocka_unit_test(test_no_final_blank_line),
	    cmocka_unit_test(test_nothing_after_the_end),
	    cmocka_unit_test(test_text_out_is_text_in),
	    cmocka_unit_test(test_halves_of_other_choices),
	    cmocka_unit_test(test_line_limit),
	};
	int failed;

	all_pairs = argc > 1 && strcmp(argv[1], "all") == 0;
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	buf_free(&scratch);
	return failed;
}
