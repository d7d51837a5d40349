/*
 * Goal:   no bytes of a provider's hurt a decoder, of whichever dialect, and how they were cut
 *         never shows in what it told.
 * Method: libFuzzer or AFL++; the first byte chooses the dialect, or "auto", the next seven say
 *         how to cut the rest.  It is fed whole, in these pieces and byte by byte (each piece in
 *         memory of its own, so that a span kept too long is seen); what was told must be the
 *         same, and every text of it valid UTF-8.
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
#include <stdlib.h>
#include <string.h>

#include "daemon/decoder.h"
#include "daemon/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(condition) \
	do { \
		if (!(condition)) \
			abort(); \
	} while (0)
#define LINE_MAX 600
#define HEAD 8

/* In place of daemon/config.c: the dialects' writers are not called here. */
int
config_model(const struct config *c, const char *name, size_t len)
{
	(void)c;
	(void)name;
	(void)len;
	return -1;
}

struct told {
	struct buf text, rest; /* shown text; everything else, in its order */
	unsigned done, deltas;
};

static bool
on_text(void *arg, struct span text, const struct decoder_event *ev)
{
	(void)ev;
	struct told *t = arg;

	CHECK(utf8_valid(text.p, text.len));
	buf_span(&t->text, text);
	return true;
}

/* A field's texts in a row are one: how an event was taken (by a template or not) is no matter. */
static void
note(struct told *t, const char *name, struct span text)
{
	CHECK(utf8_valid(text.p, text.len));
	if (text.len > 0)
		buf_printf(&t->rest, "%s %.*s;", name, (int)text.len, text.p);
}

static bool
on_delta(void *arg, const struct delta *d, const struct decoder_event *ev)
{
	(void)ev;
	struct told *t = arg;

	CHECK(t->done == 0);
	CHECK(!d->no_memory);
	CHECK(!(d->usage.present && d->usage_bad));
	CHECK(d->usage.cached >= 0 && d->usage.prompt >= d->usage.cached);
	CHECK(d->usage.completion >= 0 && d->usage.reasoning >= 0);
	if (d->kind == DELTA_INVALID)
		CHECK(d->text.len + d->reasoning.len + d->message.len == 0 && !d->usage.present &&
		    d->finish == OUTCOME_NONE);
	t->done += d->kind == DELTA_DONE;
	(void)on_text(t, d->text, ev);
	note(t, "refusal", d->refusal);
	note(t, "reasoning", d->reasoning);
	note(t, "tool", d->tool_arguments);
	for (unsigned i = 0; i < d->calls; i++) {
		CHECK(d->call[i].index >= DELTA_CALL_WHOLE);
		buf_printf(&t->rest, "call %lld;", (long long)d->call[i].index);
		note(t, "id", d->call[i].id);
		note(t, "name", d->call[i].name);
		note(t, "arguments", d->call[i].arguments);
	}
	note(t, "other", d->other);
	note(t, "message", d->message);
	if (d->kind == DELTA_INVALID || d->kind == DELTA_ERROR || d->kind == DELTA_DONE ||
	    d->finish != OUTCOME_NONE || d->usage.present || d->usage_bad || d->utf8_repaired)
		buf_printf(&t->rest, "%d %u %d %d %lld %lld %lld at %zu;", d->kind, d->finish,
		    d->utf8_repaired, d->usage_bad, (long long)d->usage.prompt,
		    (long long)d->usage.cached, (long long)d->usage.completion, t->text.len);
	return true;
}

static void
run(struct told *t, const uint8_t *data, size_t size, uint8_t kind, const uint8_t *cuts,
    size_t cuts_len)
{
	static const struct decoder_ops ops = {on_text, on_delta};
	static const char *const media[] = {"", "text/event-stream", "application/x-ndjson"};
	const struct dialect *dialect =
	    kind % 4 == DIALECT_AUTO ? NULL : dialect_of((enum config_dialect)(kind % 4));
	struct decoder d;
	struct buf scratch = {0};
	size_t at = 0, n, i = 0;

	decoder_init(&d, dialect, media[kind / 4 % 3], LINE_MAX, &scratch);
	while (at < size) {
		char *piece;

		n = cuts_len > 0 ? cuts[i++ % cuts_len] % 64 : size;
		n = n < size - at ? n : size - at;
		n = n > 0 ? n : 1;
		piece = malloc(n);
		memcpy(piece, data + at, n);
		(void)decoder_feed(&d, piece, n, &ops, t);
		free(piece);
		at += n;
	}
	if ((kind & 0x80) == 0)
		(void)decoder_end(&d, &ops, t);
	buf_printf(&t->rest, "result %d dialect %s", d.result,
	    d.dialect != NULL ? d.dialect->name : "none");
	CHECK(!t->rest.failed && !t->text.failed);
	decoder_free(&d);
	buf_free(&scratch);
}

static bool
same(const struct buf *a, const struct buf *b)
{
	return a->len == b->len && (a->len == 0 || memcmp(a->data, b->data, a->len) == 0);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint8_t ones[] = {1};
	struct told whole = {0}, cut = {0}, bytes = {0};

	if (size < HEAD)
		return 0;
	run(&whole, data + HEAD, size - HEAD, data[0], NULL, 0);
	run(&cut, data + HEAD, size - HEAD, data[0], data + 1, HEAD - 1);
	run(&bytes, data + HEAD, size - HEAD, data[0], ones, 1);
	CHECK(same(&whole.text, &cut.text) && same(&whole.text, &bytes.text));
	CHECK(same(&whole.rest, &cut.rest) && same(&whole.rest, &bytes.rest));
	for (struct told *const *t = (struct told *[]){&whole, &cut, &bytes, NULL}; *t != NULL; t++) {
		buf_free(&(*t)->text);
		buf_free(&(*t)->rest);
	}
	return 0;
}
