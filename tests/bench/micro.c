/*
 * Goal:   what the hot path costs per chunk, beside what it would cost with others' parsers.
 * Method: the same inputs in one run, in turns; the best of several rounds each, so that a
 *         noisy neighbour does not decide.  Prints nanoseconds for each operation.
 *
 * objs: daemon/tokenizer.o daemon/tokenizer_stream.o daemon/tokenizer_merge.o
 * objs: daemon/tokenizer_split.o
 * objs: daemon/tokenizer_class.o daemon/tokenizer_table.o
 * objs: daemon/json.o daemon/json_value.o daemon/utf8.o daemon/sse.o daemon/openai.o
 * objs: daemon/delta_read.o daemon/decoder.o daemon/dialect.o daemon/ndjson.o
 * objs: daemon/openai_template.o daemon/openai_request.o daemon/ollama.o daemon/ollama_request.o
 * objs: daemon/anthropic.o daemon/anthropic_request.o daemon/plain_request.o
 * objs: daemon/plain_message.o daemon/plain_tools.o
 * objs: daemon/chat_request.o daemon/chat_keys.o daemon/chat_tokens.o daemon/calibrate.o daemon/ids.o daemon/log.o
 * objs: daemon/emit.o daemon/buf.o shm/money.o
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/unit/jansson_beside.h"

#include "daemon/decoder.h"
#include "daemon/emit.h"
#include "daemon/json.h"
#include "daemon/ollama.h"
#include "daemon/openai.h"
#include "daemon/sse.h"
#include "daemon/tokenizer.h"

#define ROUNDS 15
#define LOOPS 20000

static const char chunk[] =
    "{\"id\":\"chatcmpl-AbCdEfGhIjKlMnOpQrStUvWxYz012\",\"object\":\"chat.completion.chunk\","
    "\"created\":1718345013,\"model\":\"gpt-4o-mini-2024-07-18\",\"system_fingerprint\":"
    "\"fp_44709d6fcb\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" word\"},"
    "\"logprobs\":null,\"finish_reason\":null}]}";

static const char ollama_line[] =
    "{\"model\":\"llama3.2\",\"created_at\":\"2025-10-26T17:15:24.097767Z\",\"message\":"
    "{\"role\":\"assistant\",\"content\":\" word\"},\"done\":false}";
static const char anthropic_event[] =
    "{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\","
    "\"text\":\" word\"}}";

static struct buf scratch, out, events;
static struct emit_stream stream = {.stream_id = "0123456789abcdef0123456789abcdef",
    .session_id = "s",
    .message_id = "m",
    .model = "gpt-4o-mini",
    .created = 1718345013};
static struct token_stream tokens;
static unsigned long sink;

static void
decode(void)
{
	struct delta d;

	openai_decode(chunk, sizeof(chunk) - 1, &scratch, &d);
	sink += d.text.len;
}

static void
decode_ollama(void)
{
	struct delta d;

	ollama_decode((struct span){ollama_line, sizeof(ollama_line) - 1}, &scratch, &d);
	sink += d.text.len;
}

static void
decode_anthropic(void)
{
	struct anthropic state = {0};
	struct delta d;

	anthropic_decode(&state, (struct span){anthropic_event, sizeof(anthropic_event) - 1},
	    &scratch, &d);
	sink += d.text.len;
}

/* In place of daemon/config.c: nothing here is asked of a model. */
int
config_model(const struct config *c, const char *name, size_t len)
{
	(void)c;
	(void)name;
	(void)len;
	return -1;
}

static bool
text_cb(void *arg, struct span text, const struct decoder_event *ev)
{
	(void)ev;
	(void)arg;
	sink += text.len;
	return true;
}

static bool
delta_cb(void *arg, const struct delta *d, const struct decoder_event *ev)
{
	(void)ev;
	return text_cb(arg, d->text, ev);
}

/* As a stream does: ten events a read, all but the first by the template. */
static void
feed_decoder(void)
{
	static const struct decoder_ops ops = {text_cb, delta_cb};
	static struct decoder d;

	if (d.dialect == NULL)
		decoder_init(&d, dialect_of(DIALECT_OPENAI), "", 65536, &scratch);
	sink += decoder_feed(&d, events.data, events.len, &ops, NULL);
}

static void
check(void)
{
	struct json_value root;

	sink += json_check(chunk, sizeof(chunk) - 1, &root, NULL);
}

static void
with_jansson(void)
{
	json_t *j = json_loadb(chunk, sizeof(chunk) - 1, JSON_REJECT_DUPLICATES, NULL);
	json_t *choice = json_array_get(json_object_get(j, "choices"), 0);

	sink += json_string_length(json_object_get(json_object_get(choice, "delta"), "content"));
	json_decref(j);
}

static void
emit(enum emit_format format)
{
	out.len = 0;
	emit_text(&out, format, &stream, " word", 5, 12345);
	sink += out.len;
}

static void
emit_typed(void)
{
	emit(EMIT_TYPED);
}

static void
emit_openai(void)
{
	emit(EMIT_OPENAI);
}

static void
emit_content(void)
{
	emit(EMIT_CONTENT);
}

static void
emit_jansson(void)
{
	json_t *j = json_pack("{s:s,s:{s:s}}", "type", "token", "data", "token", " word");
	char *text = json_dumps(j, JSON_COMPACT);

	sink += strlen(text);
	free(text);
	json_decref(j);
}

static void
emit_printf(void)
{
	char text[256];

	sink += (unsigned long)snprintf(text, sizeof(text),
	    "id: %d\ndata: {\"type\":\"token\",\"data\":{\"token\":\"%s\"}}\n\n", 12345, " word");
}

static bool
event_cb(void *arg, const struct sse_event *e)
{
	(void)arg;
	sink += e->data.len;
	return true;
}

/* Ten events, as a read brings them under load; the figure is for one. */
static void
feed(void)
{
	static struct sse sse = {.line_max = 65536};

	sink += sse_feed(&sse, events.data, events.len, event_cb, NULL);
}

static void
count(void)
{
	sink += token_stream_append(&tokens, " wor", 4);
}

static double
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

int
main(void)
{
	struct {
		const char *name;
		void (*run)(void);
		double per, best;
	} all[] = {
	    {"openai_decode, one chunk", decode, 1, 0},
	    {"decoder_feed, one event of it", feed_decoder, 10, 0},
	    {"ollama_decode, one line", decode_ollama, 1, 0},
	    {"anthropic_decode, one event", decode_anthropic, 1, 0},
	    {"json_check, the same", check, 1, 0},
	    {"  jansson, load and find, the same", with_jansson, 1, 0},
	    {"sse_feed, one event of it", feed, 10, 0},
	    {"emit_text typed, 5 bytes", emit_typed, 1, 0},
	    {"emit_text openai", emit_openai, 1, 0},
	    {"emit_text content", emit_content, 1, 0},
	    {"  snprintf, typed, unescaped", emit_printf, 1, 0},
	    {"  jansson, pack and dump, typed", emit_jansson, 1, 0},
	    {"token_stream_append, 4 bytes", count, 1, 0},
	};
	struct buf head = {0};
	double from, ns;

	for (int i = 0; i < 10; i++)
		buf_printf(&events, "data: %s\n\n", chunk);
	emit_template(&head, &stream);
	stream.openai_head = (struct span){head.data, head.len};
	char why[256];
	const struct tokenizer *t = tokenizer_open("o200k_base", why, sizeof why);

	if (t == NULL) {
		fprintf(stderr, "%s\n", why);
		return 1;
	}
	token_stream_init(&tokens, t, TOKENS_SCALE);
	for (int round = 0; round < ROUNDS; round++)
		for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
			from = now();
			for (int n = 0; n < LOOPS; n++)
				all[i].run();
			ns = (now() - from) / LOOPS / all[i].per;
			if (round == 0 || ns < all[i].best)
				all[i].best = ns;
		}
	printf("ns per operation, best of %d rounds (chunk: %zu bytes)\n", ROUNDS,
	    sizeof(chunk) - 1);
	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		printf("%-36s %8.1f\n", all[i].name, all[i].best);
	buf_free(&head);
	buf_free(&scratch);
	buf_free(&out);
	buf_free(&events);
	return sink == 0;
}
