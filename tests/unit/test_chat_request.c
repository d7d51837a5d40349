/*
 * Goal:   what /chat/preview and /chat/send take is checked field by field, counted whole, and
 *         reaches the provider as it was said, but for what is ours to set.
 * Method: bodies and what must come of them; every message field that a provider may read as a
 *         prompt must be within the bound on its count; bodies mutated at random.
 *
 * objs: daemon/tokenizer.o daemon/tokenizer_stream.o daemon/tokenizer_merge.o
 * objs: daemon/tokenizer_split.o
 * objs: daemon/tokenizer_class.o daemon/tokenizer_table.o
 * objs: daemon/openai_request.o
 * objs: daemon/chat_request.o daemon/chat_keys.o daemon/chat_tokens.o daemon/calibrate.o daemon/json.o
 * objs: daemon/json_value.o daemon/ids.o daemon/log.o
 * objs: daemon/utf8.o daemon/buf.o shm/money.o
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/chat_request.h"
#include "daemon/ids.h"
#include "daemon/openai.h"

static struct config config;

/* In place of daemon/config.c, which needs all of the config's parser. */
int
config_model(const struct config *c, const char *name, size_t len)
{
	for (int i = 0; i < c->model_count; i++)
		if (strlen(c->model[i].name) == len && memcmp(c->model[i].name, name, len) == 0)
			return i;
	return -1;
}

static int
setup(void **state)
{
	static char name[] = "small", upstream[] = "org/small \"1\"", other[] = "big",
	            standard[] = "small";

	const struct tokenizer *tokenizer;
	char why[256];

	(void)state;
	tokenizer = tokenizer_open("o200k_base", why, sizeof why);
	assert_non_null(tokenizer);
	config.model_count = 2;
	config.model[0] = (struct config_model){
	    .name = name, .upstream = upstream, .context = 1000, .max_completion = 400};
	config.model[1] = (struct config_model){
	    .name = other, .upstream = other, .context = 1000000, .max_completion = 100000};
	config.model[0].tokenizer = config.model[1].tokenizer = tokenizer;
	config.default_model = standard;
	return 0;
}

static struct span
span_of(const char *text)
{
	return (struct span){text, strlen(text)};
}

static void
good(const char *body, struct chat_request *r)
{
	struct chat_fault f;

	if (chat_request_parse(&config, span_of(body), r, &f) != 0)
		fail_msg("%s: %s (%s)", body, f.message, f.code);
}

/* The provider's request, a checked document; the caller frees *b. */
static struct json_value
provider_request(const struct chat_request *r, struct buf *b)
{
	struct json_value root;

	*b = (struct buf){0};
	assert_int_equal(openai_write(&config, r, b, NULL), 0);
	openai_limit(b, r->max_completion_tokens, r->max_tokens);
	assert_false(b->failed);
	assert_int_equal(json_check(b->data, b->len, &root, NULL), JSON_OK);
	assert_int_equal(root.type, JSON_OBJECT);
	return root;
}

static void
expect_raw(struct json_value root, const char *key, const char *raw)
{
	struct json_value v;

	assert_true(json_get(root, key, &v));
	if (v.len != strlen(raw) || memcmp(v.p, raw, v.len) != 0)
		fail_msg("%s is %.*s, not %s", key, (int)v.len, v.p, raw);
}

static void
test_message(void **state)
{
	struct chat_request r;
	struct json_value root, v;
	struct buf b;

	(void)state;
	good("{\"message\":\"hi "
	     "\\\"you\\\"\",\"temperature\":0.25,\"stop\":[\"\\n\"],\"stream\":false,"
	     "\"user\":\"u\\u0031\",\"stream_options\":{\"include_usage\":true,\"x\":1},\"n\":1}",
	    &r);
	assert_int_equal(r.model, 0);
	assert_true(r.include_usage);
	assert_false(r.has_session);
	assert_int_equal(r.max_tokens, 400);
	root = provider_request(&r, &b);
	expect_raw(root, "model", "\"org/small \\\"1\\\"\"");
	expect_raw(root, "messages", "[{\"role\":\"user\",\"content\":\"hi \\\"you\\\"\"}]");
	expect_raw(root, "temperature", "0.25");
	expect_raw(root, "stop", "[\"\\n\"]");
	expect_raw(root, "user", "\"u\\u0031\"");
	expect_raw(root, "stream", "true");
	expect_raw(root, "stream_options", "{\"include_usage\":true}");
	expect_raw(root, "max_tokens", "400");
	assert_false(json_get(root, "message", &v));
	assert_false(json_get(root, "n", &v));
	assert_false(json_get(root, "max_completion_tokens", &v));
	v = chat_request_said(&r);
	assert_true(json_is(v, "hi \"you\""));
	buf_free(&b);
}

static void
test_messages(void **state)
{
	static const char messages[] =
	    "[ {\"role\":\"system\",\"content\":\"be brief\"},"
	    "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"one\"}]},"
	    "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"c\"}]},"
	    "{\"role\":\"tool\",\"tool_call_id\":\"c\",\"content\":\"42\"} ]";
	struct buf body = {0}, b;
	struct chat_request r;
	struct json_value said;

	(void)state;
	buf_printf(
	    &body, "{\"model\":\"big\",\"messages\":%s,\"max_completion_tokens\":7}", messages);
	buf_add(&body, "", 1);
	good(body.data, &r);
	assert_int_equal(r.model, 1);
	expect_raw(provider_request(&r, &b), "messages", messages);
	buf_free(&b);
	expect_raw(provider_request(&r, &b), "max_completion_tokens", "7");
	buf_free(&b);
	said = chat_request_said(&r);
	expect_raw(said, "content", "\"42\"");
	buf_free(&body);
}

static void
test_faults(void **state)
{
	static const struct {
		const char *body, *code, *param;
		int status;
	} samples[] = {
	    {"", "invalid_json", NULL, 400},
	    {"{\"message\":\"x\"", "invalid_json", NULL, 400},
	    {"{\"message\":\"x\"} {}", "invalid_json", NULL, 400},
	    {"{\"message\":\"\xff\"}", "invalid_json", NULL, 400},
	    {"[]", "invalid_json", NULL, 400},
	    {"{\"message\":\"x\",\"m\\u0065ssage\":\"y\"}", "invalid_json", NULL, 400},
	    {"{\"model\":\"none\",\"message\":\"x\"}", "model_not_found", "model", 404},
	    {"{\"model\":\"smal\",\"message\":\"x\"}", "model_not_found", "model", 404},
	    {"{\"model\":7,\"message\":\"x\"}", "invalid_request", "model", 400},
	    {"{}", "invalid_request", "message", 400},
	    {"{\"message\":\"\"}", "invalid_request", "message", 400},
	    {"{\"message\":[\"x\"]}", "invalid_request", "message", 400},
	    {"{\"message\":\"x\",\"messages\":[]}", "invalid_request", "messages", 400},
	    {"{\"messages\":[]}", "invalid_request", "messages", 400},
	    {"{\"messages\":{}}", "invalid_request", "messages", 400},
	    {"{\"messages\":[1]}", "invalid_request", "messages", 400},
	    {"{\"messages\":[{\"content\":\"x\"}]}", "invalid_request", "messages", 400},
	    {"{\"messages\":[{\"role\":\"root\",\"content\":\"x\"}]}", "invalid_request",
	        "messages", 400},
	    {"{\"messages\":[{\"role\":\"user\",\"content\":1}]}", "invalid_request", "messages",
	        400},
	    {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]}",
	        "invalid_request", "messages", 400},
	    {"{\"message\":\"x\",\"max_tokens\":0}", "invalid_request", "max_tokens", 400},
	    {"{\"message\":\"x\",\"max_tokens\":-1}", "invalid_request", "max_tokens", 400},
	    {"{\"message\":\"x\",\"max_tokens\":1.5}", "invalid_request", "max_tokens", 400},
	    {"{\"message\":\"x\",\"max_tokens\":99999999999999999999}", "invalid_request",
	        "max_tokens", 400},
	    {"{\"message\":\"x\",\"max_completion_tokens\":\"5\"}", "invalid_request",
	        "max_completion_tokens", 400},
	    {"{\"message\":\"x\",\"n\":2}", "invalid_request", "n", 400},
	    {"{\"message\":\"x\",\"n\":\"1\"}", "invalid_request", "n", 400},
	    {"{\"message\":\"x\",\"session_id\":\"AAAAAAAAAAAAAAAAAAAAAB\"}", "invalid_request",
	        "session_id", 400},
	    {"{\"message\":\"x\",\"session_id\":5}", "invalid_request", "session_id", 400},
	};

	(void)state;
	for (size_t i = 0; i < sizeof samples / sizeof *samples; i++) {
		struct chat_request r;
		struct chat_fault f;

		if (chat_request_parse(&config, span_of(samples[i].body), &r, &f) == 0)
			fail_msg("%s was accepted", samples[i].body);
		assert_int_equal(f.status, samples[i].status);
		assert_string_equal(f.code, samples[i].code);
		if (samples[i].param == NULL)
			assert_null(f.param);
		else
			assert_string_equal(f.param, samples[i].param);
		assert_int_not_equal(f.message[0], '\0');
	}
}

static void
test_session(void **state)
{
	struct chat_request r;
	uint8_t id[16];
	char text[ID_LEN + 1], body[128];

	(void)state;
	id_random(id, sizeof id);
	id_format(id, text);
	snprintf(body, sizeof body, "{\"message\":\"x\",\"session_id\":\"%s\"}", text);
	good(body, &r);
	assert_true(r.has_session);
	assert_memory_equal(r.session_id, id, sizeof id);
	good("{\"message\":\"x\",\"session_id\":null,\"n\":null,\"max_tokens\":null}", &r);
	assert_false(r.has_session);
	assert_int_equal(r.max_tokens, 400);
}

static void
test_limits(void **state)
{
	struct buf long_body = {0};
	struct chat_request r;
	struct chat_fault f;

	(void)state;
	good("{\"message\":\"x\",\"max_tokens\":1}", &r);
	assert_int_equal(r.max_tokens, 1);
	good("{\"message\":\"x\",\"max_tokens\":9223372036854775807}", &r);
	assert_int_equal(r.max_tokens, 400);
	/* The newer name wins, and is the one that is passed on. */
	good("{\"message\":\"x\",\"max_tokens\":5,\"max_completion_tokens\":6}", &r);
	assert_int_equal(r.max_tokens, 6);
	assert_true(r.max_completion_tokens);
	/* What the prompt leaves of the context. */
	buf_str(&long_body, "{\"message\":\"");
	while (long_body.len < 3500)
		buf_str(&long_body, "tree ");
	buf_str(&long_body, "\"}");
	assert_int_equal(
	    chat_request_parse(&config, (struct span){long_body.data, long_body.len}, &r, &f), 0);
	assert_true(r.prompt_tokens > 600 && r.prompt_tokens < 1000);
	assert_int_equal(r.max_tokens, 1000 - r.prompt_tokens);
	long_body.len -= 2;
	while (long_body.len < 8000)
		buf_str(&long_body, "tree ");
	buf_str(&long_body, "\"}");
	assert_int_equal(
	    chat_request_parse(&config, (struct span){long_body.data, long_body.len}, &r, &f), -1);
	assert_int_equal(f.status, 400);
	assert_string_equal(f.param, "message");
	buf_free(&long_body);
}

/*
 * OpenAI's cookbook publishes these conversations and what the API counted of them, in gpt-4o's
 * vocabulary and in gpt-4's.
 */
static void
test_published_examples(void **state)
{
	static const char messages[] =
	    "{\"role\":\"system\",\"content\":\"You are a helpful, pattern-following assistant "
	    "that translates corporate jargon into plain English.\"},"
	    "{\"role\":\"system\",\"name\":\"example_user\",\"content\":\"New synergies will "
	    "help drive top-line growth.\"},"
	    "{\"role\":\"system\",\"name\":\"example_assistant\",\"content\":\"Things working "
	    "well together will increase revenue.\"},"
	    "{\"role\":\"system\",\"name\":\"example_user\",\"content\":\"Let's circle back when "
	    "we have more bandwidth to touch base on opportunities for increased leverage.\"},"
	    "{\"role\":\"system\",\"name\":\"example_assistant\",\"content\":\"Let's talk later "
	    "when we're less busy about how to do better.\"},"
	    "{\"role\":\"user\",\"content\":\"This late pivot means we don't have time to boil "
	    "the ocean for the client deliverable.\"}";
	static const char tools[] =
	    "{\"role\":\"system\",\"content\":\"You are a helpful assistant that can answer to "
	    "questions about the weather.\"},"
	    "{\"role\":\"user\",\"content\":\"What's the weather like in San Francisco?\"}],"
	    "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"get_current_weather\","
	    "\"description\":\"Get the current weather in a given location\",\"parameters\":"
	    "{\"type\":\"object\",\"properties\":{\"location\":{\"type\":\"string\","
	    "\"description\":\"The city and state, e.g. San Francisco, CA\"},\"unit\":{\"type\":"
	    "\"string\",\"description\":\"The unit of temperature to return\",\"enum\":"
	    "[\"celsius\",\"fahrenheit\"]}},\"required\":[\"location\"]}}}";
	static const struct {
		const char *tokenizer, *rest;
		uint32_t tokens;
	} examples[] = {
	    {"o200k_base", messages, 124},
	    {"cl100k_base", messages, 129},
	    {"o200k_base", tools, 101},
	    {"cl100k_base", tools, 105},
	};
	const struct tokenizer *before = config.model[1].tokenizer;
	struct chat_request r;
	char body[4096], why[256];

	(void)state;
	for (size_t i = 0; i < sizeof examples / sizeof *examples; i++) {
		config.model[1].tokenizer = tokenizer_open(examples[i].tokenizer, why, sizeof why);
		assert_non_null(config.model[1].tokenizer);
		(void)snprintf(body, sizeof body, "{\"model\":\"big\",\"messages\":[%s]}",
		    examples[i].rest);
		good(body, &r);
		assert_int_equal(r.prompt_tokens, examples[i].tokens);
	}
	config.model[1].tokenizer = before;
}

/* Schemas within schemas, and what is none: counted, and no deeper than is safe. */
static void
test_odd_tools(void **state)
{
	static const char *const odd[] = {"[]", "{}", "null", "\"x\"", "[1,null,\"x\",[],{}]",
	    "[{\"function\":{\"name\":7,\"parameters\":[]}}]",
	    "[{\"name\":\"old\",\"parameters\":{\"properties\":{\"a\":7,\"b\":{\"enum\":[1,{}]}}}}]"};
	struct chat_request plain, r;
	struct buf b = {0};
	char body[512];

	(void)state;
	good("{\"message\":\"x\"}", &plain);
	for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
		(void)snprintf(body, sizeof body, "{\"message\":\"x\",\"tools\":%s}", odd[i]);
		good(body, &r);
		assert_in_range(r.prompt_tokens, plain.prompt_tokens, plain.prompt_tokens + 200);
		assert_true(r.prompt_bytes >= r.prompt_tokens);
	}
	buf_str(&b, "{\"message\":\"x\",\"tools\":[{\"name\":\"deep\",\"parameters\":");
	for (int i = 0; i < 25; i++)
		buf_str(&b, "{\"items\":{\"properties\":{\"p\":");
	buf_str(&b, "1");
	for (int i = 0; i < 25; i++)
		buf_str(&b, "}}}");
	buf_str(&b, "}]}");
	if (chat_request_parse(&config, (struct span){b.data, b.len}, &r, &(struct chat_fault){0}) == 0)
		assert_in_range(r.prompt_tokens, plain.prompt_tokens + 20, plain.prompt_tokens + 300);
	buf_free(&b);
}

/* Ours under another spelling must not reach the provider beside ours. */
static void
test_escaped_keys(void **state)
{
	struct chat_request r;
	struct json_value root, v;
	struct buf b;

	(void)state;
	good("{\"\\u006dessage\":\"x\",\"max\\u005ftokens\":3,\"str\\u0065am\":false,"
	     "\"stream\\u005foptions\":{\"include_usage\":false}}",
	    &r);
	assert_int_equal(r.max_tokens, 3);
	root = provider_request(&r, &b);
	expect_raw(root, "max_tokens", "3");
	expect_raw(root, "stream", "true");
	expect_raw(root, "stream_options", "{\"include_usage\":true}");
	assert_false(json_get(root, "message", &v));
	buf_free(&b);
}

/*
 * A provider's usage above the bound is not believed, and our count is charged instead: so a
 * field that is passed on and counted by the provider must be within the bound, wherever it is.
 */
static void
test_bound_holds_whatever_is_passed_on(void **state)
{
	static const char *const around[] = {
	    "{\"model\":\"big\",\"message\":\"%s\"}",
	    "{\"model\":\"big\",\"messages\":[{\"role\":\"user\",\"content\":\"%s\"}]}",
	    "{\"model\":\"big\",\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\","
	    "\"text\":\"%s\"}]}]}",
	    "{\"model\":\"big\",\"messages\":[{\"role\":\"user\",\"content\":\"x\",\"name\":\"%s\"}"
	    "]}",
	    "{\"model\":\"big\",\"messages\":[{\"role\":\"assistant\",\"refusal\":\"%s\"}]}",
	    "{\"model\":\"big\",\"messages\":[{\"role\":\"assistant\",\"function_call\":"
	    "{\"name\":\"f\",\"arguments\":\"%s\"}}]}",
	    "{\"model\":\"big\",\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{"
	    "\"function\":"
	    "{\"name\":\"f\",\"arguments\":\"%s\"}}]}]}",
	    "{\"model\":\"big\",\"message\":\"x\",\"tools\":[{\"function\":{\"description\":\"%s\"}"
	    "}]}",
	    "{\"model\":\"big\",\"message\":\"x\",\"functions\":[{\"description\":\"%s\"}]}",
	    "{\"model\":\"big\",\"message\":\"x\",\"response_format\":{\"x\":\"%s\"}}",
	    /* From here on not counted by us. */
	    "{\"model\":\"big\",\"messages\":[{\"role\":\"user\",\"content\":\"x\",\"new\":\"%s\"}]"
	    "}",
	    "{\"model\":\"big\",\"message\":\"x\",\"prediction\":{\"content\":\"%s\"}}",
	};
	enum { COUNTED = 10, LEN = 20000 };
	static char text[LEN + 1], body[LEN + 256];

	(void)state;
	for (size_t i = 0; i < LEN; i++)
		text[i] = "tree house "[i % 11];
	for (size_t i = 0; i < sizeof around / sizeof *around; i++) {
		const char *at = strstr(around[i], "%s");
		struct chat_request r;

		snprintf(
		    body, sizeof body, "%.*s%s%s", (int)(at - around[i]), around[i], text, at + 2);
		good(body, &r);
		assert_true(r.prompt_bytes >= LEN);
		assert_true(r.prompt_bytes >= r.prompt_tokens);
		if (i < COUNTED && r.prompt_tokens < LEN / 8)
			fail_msg("%s: %u tokens", around[i], r.prompt_tokens);
	}
}

/* Whatever comes: refused, or a provider's request that is JSON and holds to the limit. */
static void
test_mutations(void **state)
{
	static const char body[] =
	    "{\"model\":\"big\",\"messages\":[{\"role\":\"user\",\"content\":"
	    "\"h\\u00e9 "
	    "\\ud83c\\udf32\"},{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{}]}],"
	    "\"max_tokens\":17,\"n\":1,\"stream\":true,\"stream_options\":{\"include_usage\":true},"
	    "\"tools\":[{\"a\":1}],\"logit_bias\":{\"5\":-1e2}}";
	static const char bytes[] = "{}[]\",:\\0159-e.untrlafse \n\xc3\xff";
	uint32_t seed = 12345;
	int accepted = 0;

	(void)state;
	for (int round = 0; round < 100000; round++) {
		size_t len = sizeof body - 1;
		/* Exactly as long as it is: a read beyond its end is seen by the sanitizer. */
		char *text = malloc(len);
		struct chat_request r;
		struct chat_fault f;
		struct json_value v;
		struct buf b;

		assert_non_null(text);
		memcpy(text, body, len);
		for (int n = 0; n < 1 + round % 3; n++) {
			seed = seed * 1664525 + 1013904223;
			text[(seed >> 8) % len] = bytes[(seed >> 3) % (sizeof bytes - 1)];
		}
		if (chat_request_parse(&config, (struct span){text, len}, &r, &f) == 0) {
			struct json_value root = provider_request(&r, &b);
			int64_t limit = 0;

			accepted++;
			assert_true(json_get(root,
			    r.max_completion_tokens ? "max_completion_tokens" : "max_tokens", &v));
			assert_true(json_int(v, &limit) && limit >= 1 && limit <= 100000);
			buf_free(&b);
		}
		free(text);
	}
	assert_in_range(accepted, 1000, 90000);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_message),
	    cmocka_unit_test(test_messages),
	    cmocka_unit_test(test_faults),
	    cmocka_unit_test(test_session),
	    cmocka_unit_test(test_limits),
	    cmocka_unit_test(test_published_examples),
	    cmocka_unit_test(test_odd_tools),
	    cmocka_unit_test(test_escaped_keys),
	    cmocka_unit_test(test_bound_holds_whatever_is_passed_on),
	    cmocka_unit_test(test_mutations),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
