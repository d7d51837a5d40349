/*
 * Goal:   how a provider's bytes are cut never shows in the events, and no bytes hurt the
 *         decoders behind them.
 * Method: libFuzzer; the first bytes say how to cut the rest.  It is fed whole, in these pieces
 *         and byte by byte (each piece in memory of its own, so that a span kept too long is
 *         seen); events and result must be the same.  Each event goes through openai_decode,
 *         which must give valid UTF-8; and that through the token counter, cut and at once.
 *
 * objs: daemon/tokenizer.o daemon/tokenizer_stream.o daemon/tokenizer_merge.o
 * objs: daemon/tokenizer_split.o
 * objs: daemon/tokenizer_class.o daemon/tokenizer_table.o
 * objs: daemon/sse.o daemon/openai.o daemon/delta_read.o daemon/json.o daemon/json_value.o
 * objs: daemon/utf8.o
 * objs: daemon/buf.o shm/money.o
 */
#include <stdlib.h>
#include <string.h>

#include "daemon/openai.h"
#include "daemon/sse.h"
#include "daemon/tokenizer.h"
#include "daemon/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(condition) \
	do { \
		if (!(condition)) \
			abort(); \
	} while (0)
#define LINE_MAX 200
#define EVENTS_MAX 300

struct seen {
	struct buf log;
	unsigned events;
	bool decode;
	struct buf scratch;
};

static const struct tokenizer *tokenizer;

static void
check_tokens(struct span text)
{
	struct token_stream whole, cut;
	uint32_t count;
	size_t half = text.len / 2, fit;

	half -= utf8_partial(text.p, half);
	token_stream_init(&whole, tokenizer, TOKENS_SCALE);
	token_stream_init(&cut, tokenizer, TOKENS_SCALE);
	count = token_stream_append(&whole, text.p, text.len);
	(void)token_stream_append(&cut, text.p, half);
	CHECK(token_stream_append(&cut, text.p + half, text.len - half) >= count);
	CHECK(cut.now == whole.now);
	token_stream_fini(&whole);
	token_stream_fini(&cut);
	token_stream_init(&cut, tokenizer, TOKENS_SCALE);
	fit = token_stream_fit(&cut, text.p, text.len, count / 2);
	CHECK(cut.count <= count / 2 && utf8_valid(text.p, fit));
	CHECK(cut.count == tokenizer_count(tokenizer, TOKENS_SCALE, text.p, fit));
	token_stream_fini(&cut);
}

static void
check_delta(struct seen *s, struct span data)
{
	struct delta d;
	struct span *const all[] = {
	    &d.text, &d.refusal, &d.reasoning, &d.tool_arguments, &d.other, &d.message};

	openai_decode(data.p, data.len, &s->scratch, &d);
	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		CHECK(utf8_valid(all[i]->p, all[i]->len));
		CHECK(all[i]->len == 0 || d.kind != DELTA_INVALID);
		check_tokens(*all[i]);
	}
	CHECK(!(d.usage.present && d.usage_bad));
	CHECK(d.usage.prompt >= d.usage.cached && d.usage.cached >= 0);
	CHECK(!d.no_memory);
	(void)openai_error_message(data.p, data.len, &s->scratch);
}

static bool
event_cb(void *arg, const struct sse_event *e)
{
	struct seen *s = arg;

	buf_printf(&s->log, "%zu,%zu,%zu:", e->event.len, e->data.len, e->id.len);
	buf_span(&s->log, e->event);
	buf_span(&s->log, e->data);
	buf_span(&s->log, e->id);
	CHECK(e->data.len <= LINE_MAX);
	if (s->decode)
		check_delta(s, e->data);
	return ++s->events < EVENTS_MAX;
}

static void
run(struct seen *s, const uint8_t *data, size_t size, const uint8_t *cuts, size_t cuts_len)
{
	struct sse sse;
	size_t at = 0, n, i = 0;
	enum sse_result result = SSE_OK;
	char *piece;

	sse_init(&sse, LINE_MAX);
	while (at < size) {
		n = cuts_len > 0 ? cuts[i++ % cuts_len] % 64 : size;
		n = n < size - at ? n : size - at;
		n = n > 0 ? n : 1;
		piece = malloc(n);
		memcpy(piece, data + at, n);
		result = sse_feed(&sse, piece, n, event_cb, s);
		free(piece);
		at += n;
	}
	buf_printf(&s->log, "result %d", result);
	sse_free(&sse);
	buf_free(&s->scratch);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint8_t ones[] = {1};
	struct seen whole = {.decode = true}, cut = {0}, bytes = {0};

	char why[256];

	if (tokenizer == NULL)
		tokenizer = tokenizer_open("o200k_base", why, sizeof why);
	CHECK(tokenizer != NULL);
	if (size < 8)
		return 0;
	run(&whole, data + 8, size - 8, NULL, 0);
	run(&cut, data + 8, size - 8, data, 8);
	run(&bytes, data + 8, size - 8, ones, 1);
	CHECK(whole.log.len == cut.log.len && whole.log.len == bytes.log.len);
	CHECK(memcmp(whole.log.data, cut.log.data, cut.log.len) == 0);
	CHECK(memcmp(whole.log.data, bytes.log.data, bytes.log.len) == 0);
	buf_free(&whole.log);
	buf_free(&cut.log);
	buf_free(&bytes.log);
	return 0;
}
