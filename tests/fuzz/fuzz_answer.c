/*
 * Goal:   whatever a provider sends, in whichever dialect, what clients get of it in either of
 *         theirs is well formed: frames that the same dialect's decoder reads without a fault,
 *         and bodies that are JSON.
 * Method: libFuzzer or AFL++; the first byte chooses the dialect, the second how much of each piece
 *         is paid; the rest is decoded and said again, streamed and in one piece.
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
#include <stdlib.h>
#include <string.h>

#include "daemon/api.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(condition) \
	do { \
		if (!(condition)) \
			abort(); \
	} while (0)
#define LINE_MAX 65536
#define ANSWERS 4

/* In place of daemon/config.c: the dialects' writers are not called here. */
int
config_model(const struct config *c, const char *name, size_t len)
{
	(void)c;
	(void)name;
	(void)len;
	return -1;
}

static const struct emit_stream stream = {
    .stream_id = "s", .session_id = "e", .message_id = "m", .model = "m", .prompt_tokens = 9};
static const struct api *const apis[ANSWERS] = {
    &api_openai, &api_anthropic, &api_openai, &api_anthropic};

/* One answer, said in all the ways. */
struct said {
	struct answer answer[ANSWERS];
	struct buf out[ANSWERS];
	bool broken[ANSWERS];
	uint8_t paid; /* of each piece, in 256ths */
	uint8_t finish;
};

static void
say(struct said *s, const struct answer_piece *p)
{
	struct answer_piece part = *p;

	if (s->paid != 255)
		part.text.len = part.text.len * s->paid / 256;
	/* Pieces are whole characters. */
	while (part.text.len < p->text.len && part.text.len > 0 &&
	       (part.text.p[part.text.len] & 0xc0) == 0x80)
		part.text.len--;
	for (int i = 0; i < ANSWERS; i++)
		if (!s->broken[i])
			s->broken[i] = !apis[i]->say(&s->out[i], &stream, &s->answer[i], &part);
}

static void
say_text(struct said *s, enum answer_kind kind, struct span text)
{
	if (text.len > 0)
		say(s, &(struct answer_piece){
		           .kind = kind, .id = SPAN(""), .name = SPAN(""), .text = text});
}

static bool
on_text(void *arg, struct span text, const struct decoder_event *ev)
{
	(void)ev;
	say_text(arg, ANSWER_TEXT, text);
	return true;
}

static bool
on_delta(void *arg, const struct delta *d, const struct decoder_event *ev)
{
	struct said *s = arg;

	(void)ev;
	say_text(s, ANSWER_REASONING, d->reasoning);
	say_text(s, ANSWER_TEXT, d->refusal);
	say_text(s, ANSWER_TEXT, d->text);
	for (unsigned i = 0; i < d->calls; i++)
		say(s, &(struct answer_piece){.kind = ANSWER_CALL,
		           .index = d->call[i].index,
		           .id = d->call[i].id,
		           .name = d->call[i].name,
		           .text = d->call[i].arguments});
	if (d->finish != OUTCOME_NONE)
		s->finish = d->finish;
	return true;
}

static bool
check_text(void *arg, struct span text, const struct decoder_event *ev)
{
	(void)arg;
	(void)text;
	(void)ev;
	return true;
}

static bool
check_delta(void *arg, const struct delta *d, const struct decoder_event *ev)
{
	unsigned *done = arg;

	(void)ev;
	CHECK(d->kind != DELTA_INVALID && d->kind != DELTA_ERROR && !d->utf8_repaired);
	CHECK(!d->usage_bad && !d->calls_missing);
	*done += d->kind == DELTA_DONE;
	return true;
}

static void
check_frames(enum config_dialect dialect, const struct buf *b)
{
	static const struct decoder_ops ops = {check_text, check_delta};
	struct buf scratch = {0};
	struct decoder d;
	unsigned done = 0;

	decoder_init(&d, dialect_of(dialect), "", b->len + 1, &scratch);
	(void)decoder_feed(&d, b->data, b->len, &ops, &done);
	CHECK(decoder_end(&d, &ops, &done) == DECODER_OVER && done == 1);
	decoder_free(&d);
	buf_free(&scratch);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct decoder_ops ops = {on_text, on_delta};
	struct said s = {.finish = OUTCOME_CREDIT};
	struct buf scratch = {0};
	struct delta whole;
	struct decoder d;

	if (size < 2)
		return 0;
	s.paid = data[1];
	s.answer[2].whole = s.answer[3].whole = true;
	decoder_init(&d, dialect_of((enum config_dialect)(data[0] % 3)), "", LINE_MAX, &scratch);
	(void)decoder_feed(&d, (const char *)data + 2, size - 2, &ops, &s);
	(void)decoder_end(&d, &ops, &s);
	decoder_free(&d);
	for (int i = 0; i < ANSWERS; i++) {
		struct api_end e = {.end = {.outcome = s.finish, .prompt_tokens = 9}};

		if (i < 2) {
			apis[i]->end(&s.out[i], &stream, &s.answer[i], &e);
			check_frames(apis[i]->dialect, &s.out[i]);
		} else {
			apis[i]->say_whole(&s.out[i], &stream, &s.answer[i], &e.end);
			apis[i]->decode_whole(
			    (struct span){s.out[i].data, s.out[i].len}, &scratch, &whole);
			CHECK(whole.kind == DELTA_PART && !whole.utf8_repaired);
		}
		answer_forget(&s.answer[i]);
		buf_free(&s.out[i]);
	}
	buf_free(&scratch);
	return 0;
}
