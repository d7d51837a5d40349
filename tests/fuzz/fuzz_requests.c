/*
 * Goal:   whatever a client asks for, each dialect's request for it is JSON with our limit in it,
 *         or a refusal that names a field in valid UTF-8.
 * Method: libFuzzer or AFL++; the input is a body of /chat/send.
 *
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
#include "daemon/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(condition) \
	do { \
		if (!(condition)) \
			abort(); \
	} while (0)

/* In place of daemon/config.c, which needs all of the config's parser. */
int
config_model(const struct config *c, const char *name, size_t len)
{
	(void)c;
	return len == 1 && name[0] == 'm' ? 0 : -1;
}

/* The limit is ours, and there is but one of that name (json_check refuses two). */
static void
check_limit(struct json_value root, enum config_dialect d)
{
	struct json_value v;
	int64_t n;

	if (d == DIALECT_OLLAMA) {
		CHECK(json_get(root, "options", &v));
		root = v;
	}
	CHECK(json_get(root, d == DIALECT_OLLAMA ? "num_predict" : "max_tokens", &v));
	CHECK(json_int(v, &n) && n == 7);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct tokenizer *tokenizer;
	static char name[] = "m";
	static struct config config = {.default_model = name, .model_count = 1, .provider_count = 1};
	struct chat_request r;
	struct chat_fault f = {0};
	struct json_value root, v;
	struct buf b = {0};
	char *body = malloc(size + 1), why[256];

	if (tokenizer == NULL && (tokenizer = tokenizer_open("o200k_base", why, sizeof why)) == NULL)
		abort();
	config.model[0] = (struct config_model){
	    .name = name, .upstream = name, .context = 100000, .max_completion = 400,
	    .tokenizer = tokenizer};
	memcpy(body, data, size);
	if ((size % 2 == 0
	            ? chat_request_parse(&config, (struct span){body, size}, &r, &f)
	            : chat_request_parse_v1(&config, (struct span){body, size}, &r, &f)) != 0) {
		CHECK(f.status >= 400 && utf8_valid(f.message, strlen(f.message)));
		free(body);
		return 0;
	}
	for (enum config_dialect d = DIALECT_OPENAI; d < DIALECT_AUTO; d++) {
		b.len = 0;
		if (dialect_of(d)->write(&config, &r, &b, &f) != 0) {
			CHECK(f.status == 400 && f.param != NULL && d != DIALECT_OPENAI);
			CHECK(utf8_valid(f.message, strlen(f.message)));
			CHECK(utf8_valid(f.param, strlen(f.param)));
			continue;
		}
		dialect_of(d)->limit(&b, false, 7);
		CHECK(json_check(b.data, b.len, &root, NULL) == JSON_OK);
		CHECK(json_get(root, "stream", &v) &&
		    v.type == (r.whole && d == DIALECT_OPENAI ? JSON_FALSE : JSON_TRUE));
		CHECK(json_get(root, "messages", &v) && v.type == JSON_ARRAY);
		check_limit(root, d);
	}
	buf_free(&b);
	free(body);
	return 0;
}
