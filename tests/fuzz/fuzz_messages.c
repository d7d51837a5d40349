/*
 * Goal:   whatever a client of Anthropic's asks for, it is either refused, or said in OpenAI's
 *         words as JSON that OpenAI's reader takes or refuses by a field; and from there in every
 *         dialect.
 * Method: libFuzzer or AFL++; the input is a body of /v1/messages.
 *
 * objs: daemon/messages_request.o daemon/messages_blocks.o
 * objs: daemon/tokenizer.o daemon/tokenizer_stream.o daemon/tokenizer_merge.o
 * objs: daemon/tokenizer_split.o
 * objs: daemon/tokenizer_class.o daemon/tokenizer_table.o
 * objs: daemon/dialect.o daemon/delta_read.o
 * objs: daemon/openai.o daemon/openai_request.o daemon/ollama.o daemon/ollama_request.o
 * objs: daemon/anthropic.o daemon/anthropic_request.o daemon/plain_request.o
 * objs: daemon/plain_message.o daemon/plain_tools.o
 * objs: daemon/chat_request.o daemon/chat_keys.o daemon/chat_tokens.o daemon/calibrate.o daemon/ids.o daemon/log.o
 * objs: daemon/json.o daemon/json_value.o daemon/utf8.o daemon/buf.o shm/money.o
 */
#include <stdlib.h>
#include <string.h>

#include "daemon/dialect.h"
#include "daemon/messages_request.h"
#include "daemon/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(condition)          \
	do {                      \
		if (!(condition)) \
			abort();  \
	} while (0)

/* In place of daemon/config.c, which needs all of the config's parser. */
int
config_model(const struct config *c, const char *name, size_t len)
{
	(void)c;
	return len == 1 && name[0] == 'm' ? 0 : -1;
}

static void
check_fault(const struct chat_fault *f)
{
	CHECK(f->status >= 400 && utf8_valid(f->message, strlen(f->message)));
	CHECK(f->param == NULL || utf8_valid(f->param, strlen(f->param)));
}

static void
check_writers(
    const struct config *config, const struct messages_request *m, const struct chat_request *r)
{
	struct buf b = {0};
	struct chat_fault f = {0};

	for (enum config_dialect d = DIALECT_OPENAI; d < DIALECT_AUTO; d++) {
		b.len = 0;
		if (dialect_of(d)->write(config, r, &b, &f) != 0) {
			messages_request_fault(m, &f);
			check_fault(&f);
			continue;
		}
		dialect_of(d)->limit(&b, false, 7);
		CHECK(json_check(b.data, b.len, NULL, NULL) == JSON_OK);
	}
	buf_free(&b);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct tokenizer *tokenizer;
	static char name[] = "m";
	static struct config config = {
	    .default_model = name, .model_count = 1, .provider_count = 1};
	struct messages_request m;
	struct chat_request r;
	struct chat_fault f = {0};
	char *body = malloc(size + 1), why[256];

	if (tokenizer == NULL &&
	    (tokenizer = tokenizer_open("o200k_base", why, sizeof why)) == NULL)
		abort();
	config.model[0] = (struct config_model){.name = name,
	    .upstream = name,
	    .context = 100000,
	    .max_completion = 400,
	    .tokenizer = tokenizer};
	memcpy(body, data, size);
	if (messages_request_read((struct span){body, size}, size % 2 == 0, &m, &f) != 0) {
		check_fault(&f);
	} else {
		struct span openai = {m.openai.data, m.openai.len};

		CHECK(json_check(openai.p, openai.len, NULL, NULL) == JSON_OK);
		CHECK(m.lost.param == NULL || utf8_valid(m.lost.param, strlen(m.lost.param)));
		CHECK(utf8_valid(m.lost.message, strlen(m.lost.message)));
		if (chat_request_parse_v1(&config, openai, &r, &f) != 0)
			check_fault(&f);
		else
			check_writers(&config, &m, &r);
	}
	messages_request_free(&m);
	free(body);
	return 0;
}
