/*
 * Goal:   what is asked in OpenAI's words reaches a provider of another dialect in its own, and
 *         what has no place there is refused by its name, never dropped.
 * Method: bodies and the requests that must come of them, compared as text; bodies and the fields
 *         that their refusal must name; bodies mutated at random must give JSON or a refusal.
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
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/dialect.h"
#include "daemon/utf8.h"

#define LEN(array) (sizeof(array) / sizeof((array)[0]))

static struct config config;

/* In place of daemon/config.c, which needs all of the config's parser. */
int
config_model(const struct config *c, const char *name, size_t len)
{
	(void)c;
	(void)name;
	(void)len;
	return 0;
}

static int
setup(void **state)
{
	static char name[] = "m", upstream[] = "up \"1\"";
	const struct tokenizer *tokenizer;
	char why[256];

	(void)state;
	config.model_count = 1;
	tokenizer = tokenizer_open("o200k_base", why, sizeof why);
	assert_non_null(tokenizer);
	config.model[0] = (struct config_model){
	    .name = name, .upstream = upstream, .context = 100000, .max_completion = 400,
	    .tokenizer = tokenizer};
	config.default_model = name;
	config.provider[0].dialect = DIALECT_OPENAI;
	config.provider[1].dialect = DIALECT_OLLAMA;
	config.provider[2].dialect = DIALECT_ANTHROPIC;
	config.provider_count = 3;
	return 0;
}

/* A body with messages is one of /v1's, which may hold more than texts. */
static int
parse(struct span body, struct chat_request *r, struct chat_fault *f)
{
	if (memmem(body.p, body.len, "\"messages\"", 10) != NULL)
		return chat_request_parse_v1(&config, body, r, f);
	return chat_request_parse(&config, body, r, f);
}

/* The request in a dialect, closed; -1 with *f. */
static int
request(enum config_dialect d, const char *body, struct buf *b, struct chat_fault *f)
{
	struct chat_request r;

	b->len = 0;
	if (parse((struct span){body, strlen(body)}, &r, f) != 0)
		fail_msg("%s: %s", body, f->message);
	if (dialect_of(d)->write(&config, &r, b, f) != 0)
		return -1;
	dialect_of(d)->limit(b, r.max_completion_tokens, r.max_tokens);
	assert_int_equal(json_check(b->data, b->len, NULL, NULL), JSON_OK);
	return 0;
}

static const struct {
	const char *body, *ollama, *anthropic;
} good[] = {
    {"{\"message\":\"hi \\\"you\\\"\"}",
        "{\"model\":\"up \\\"1\\\"\",\"messages\":[{\"role\":\"user\",\"content\":\"hi "
        "\\\"you\\\"\"}],"
        "\"stream\":true,\"options\":{\"num_predict\":400}}",
        "{\"model\":\"up \\\"1\\\"\",\"messages\":[{\"role\":\"user\",\"content\":\"hi "
        "\\\"you\\\"\"}],"
        "\"stream\":true,\"max_tokens\":400}"},
    {"{\"messages\":[{\"role\":\"system\",\"content\":\"Be brief.\"},"
     "{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":\"b\","
     "\"refusal\":null,\"tool_calls\":[]},{\"role\":\"developer\",\"content\":[{\"type\":\"text\","
     "\"text\":\"x\"},{\"type\":\"text\",\"text\":\"y\"}]},{\"role\":\"user\",\"content\":"
     "[{\"type\":\"text\",\"text\":\"c\\n\"},{\"type\":\"text\",\"text\":\"d\"}]}],"
     "\"max_completion_tokens\":7,\"temperature\":0.5,\"top_p\":1,\"top_k\":40,"
     "\"stop\":\"END\",\"presence_penalty\":0,\"frequency_penalty\":0.0,\"seed\":null,"
     "\"logprobs\":false,\"tools\":[],\"logit_bias\":{},\"n\":1,\"stream\":true,"
     "\"response_format\":{\"type\":\"text\"},\"stream_options\":{\"include_usage\":true}}",
        "{\"model\":\"up \\\"1\\\"\",\"messages\":[{\"role\":\"system\",\"content\":\"Be brief.\"},"
        "{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":\"b\"},"
        "{\"role\":\"system\",\"content\":\"x\\ny\"},{\"role\":\"user\",\"content\":\"c\\n\\nd\"}],"
        "\"stream\":true,\"options\":{\"temperature\":0.5,\"top_p\":1,\"top_k\":40,"
        "\"presence_penalty\":0,\"frequency_penalty\":0.0,\"stop\":[\"END\"],\"num_predict\":7}}",
        "{\"model\":\"up \\\"1\\\"\",\"messages\":[{\"role\":\"user\",\"content\":\"a\"},"
        "{\"role\":\"assistant\",\"content\":\"b\"},{\"role\":\"user\",\"content\":"
        "[{\"type\":\"text\",\"text\":\"c\\n\"},{\"type\":\"text\",\"text\":\"d\"}]}],"
        "\"system\":[{\"type\":\"text\",\"text\":\"Be brief.\"},{\"type\":\"text\",\"text\":\"x\"},"
        "{\"type\":\"text\",\"text\":\"y\"}],\"stream\":true,\"temperature\":0.5,\"top_p\":1,"
        "\"top_k\":40,\"stop_sequences\":[\"END\"],\"max_tokens\":7}"},
    /* For Ollama alone. */
    {"{\"message\":\"a\",\"seed\":-5,\"temperature\":2,\"stop\":[\"a\",\"\\n\"],"
     "\"presence_penalty\":-0.5,\"frequency_penalty\":2,"
     "\"response_format\":{\"type\":\"json_object\"}}",
        "{\"model\":\"up \\\"1\\\"\",\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],"
        "\"stream\":true,\"format\":\"json\",\"options\":{\"temperature\":2,\"seed\":-5,"
        "\"presence_penalty\":-0.5,\"frequency_penalty\":2,\"stop\":[\"a\",\"\\n\"],"
        "\"num_predict\":400}}",
        NULL},
    {"{\"messages\":[{\"role\":\"user\",\"content\":null}],\"response_format\":{\"type\":"
     "\"json_schema\",\"json_schema\":{\"name\":\"n\",\"schema\":{\"type\":\"object\"}}}}",
        "{\"model\":\"up \\\"1\\\"\",\"messages\":[{\"role\":\"user\",\"content\":\"\"}],"
        "\"stream\":true,\"format\":{\"type\":\"object\"},\"options\":{\"num_predict\":400}}",
        NULL},
    /* For Anthropic alone. */
    {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\","
     "\"cache_control\":{\"type\":\"ephemeral\"}}]}],\"user\":\"u\\u0031\",\"max_tokens\":1}",
        NULL,
        "{\"model\":\"up "
        "\\\"1\\\"\",\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\","
        "\"text\":\"a\",\"cache_control\":{\"type\":\"ephemeral\"}}]}],\"stream\":true,"
        "\"metadata\":{\"user_id\":\"u\\u0031\"},\"max_tokens\":1}"},
    /* Tools: asked for, called, answered; pictures. */
    {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},"
     "{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:image\\/png;base64,QUJD\","
     "\"detail\":\"auto\"}}]},"
     "{\"role\":\"assistant\",\"content\":\"I look\",\"reasoning_content\":\"hm\",\"tool_calls\":"
     "[{\"id\":\"c1\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":"
     "\"{\\\"x\\\": [1]}\"}},{\"id\":\"c2\",\"function\":{\"name\":\"g\",\"arguments\":\"\"}}]},"
     "{\"role\":\"tool\",\"tool_call_id\":\"c1\",\"content\":\"sun\"},"
     "{\"role\":\"tool\",\"tool_call_id\":\"c2\",\"content\":[{\"type\":\"text\",\"text\":"
     "\"rain\"}]},{\"role\":\"user\",\"content\":\"b\"}],\"tools\":[{\"type\":\"function\","
     "\"function\":{\"name\":\"f\",\"description\":\"d\",\"parameters\":{\"type\":\"object\"},"
     "\"strict\":false}},{\"type\":\"function\",\"function\":{\"name\":\"g\"}}],"
     "\"tool_choice\":\"auto\",\"parallel_tool_calls\":true}",
        "{\"model\":\"up \\\"1\\\"\",\"messages\":[{\"role\":\"user\",\"content\":\"a\",\"images\":"
        "[\"QUJD\"]},{\"role\":\"assistant\",\"content\":\"I look\",\"tool_calls\":[{\"id\":\"c1\","
        "\"function\":{\"name\":\"f\",\"arguments\":{\"x\": [1]}}},{\"id\":\"c2\",\"function\":"
        "{\"name\":\"g\",\"arguments\":{}}}]},{\"role\":\"tool\",\"content\":\"sun\","
        "\"tool_name\":\"f\"},{\"role\":\"tool\",\"content\":\"rain\",\"tool_name\":\"g\"},"
        "{\"role\":\"user\",\"content\":\"b\"}],\"stream\":true,\"tools\":[{\"type\":\"function\","
        "\"function\":{\"name\":\"f\",\"description\":\"d\",\"parameters\":{\"type\":\"object\"}}},"
        "{\"type\":\"function\",\"function\":{\"name\":\"g\",\"parameters\":{\"type\":\"object\","
        "\"properties\":{}}}}],\"options\":{\"num_predict\":400}}",
        "{\"model\":\"up \\\"1\\\"\",\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":"
        "\"text\",\"text\":\"a\"},{\"type\":\"image\",\"source\":{\"type\":\"base64\",\"media_type\":"
        "\"image/png\",\"data\":\"QUJD\"}}]},{\"role\":\"assistant\",\"content\":[{\"type\":\"text\","
        "\"text\":\"I look\"},{\"type\":\"tool_use\",\"id\":\"c1\",\"name\":\"f\",\"input\":{\"x\": "
        "[1]}},{\"type\":\"tool_use\",\"id\":\"c2\",\"name\":\"g\",\"input\":{}}]},"
        "{\"role\":\"user\",\"content\":[{\"type\":\"tool_result\",\"tool_use_id\":\"c1\","
        "\"content\":[{\"type\":\"text\",\"text\":\"sun\"}]},{\"type\":\"tool_result\","
        "\"tool_use_id\":\"c2\",\"content\":[{\"type\":\"text\",\"text\":\"rain\"}]}]},"
        "{\"role\":\"user\",\"content\":\"b\"}],\"stream\":true,\"tools\":[{\"name\":\"f\","
        "\"description\":\"d\",\"input_schema\":{\"type\":\"object\"}},{\"name\":\"g\","
        "\"input_schema\":{\"type\":\"object\",\"properties\":{}}}],\"tool_choice\":{\"type\":"
        "\"auto\"},\"max_tokens\":400}"},
    {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":"
     "{\"url\":\"https://x.example/a.png\"}}]}],\"tools\":[{\"type\":\"function\",\"function\":"
     "{\"name\":\"f\",\"strict\":true,\"parameters\":{}}}],\"tool_choice\":{\"type\":"
     "\"function\",\"function\":{\"name\":\"f\"}},\"parallel_tool_calls\":false,"
     "\"thinking\":{\"type\":\"enabled\",\"budget_tokens\":1024}}",
        NULL,
        "{\"model\":\"up \\\"1\\\"\",\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":"
        "\"image\",\"source\":{\"type\":\"url\",\"url\":\"https://x.example/a.png\"}}]}],"
        "\"stream\":true,\"thinking\":{\"type\":\"enabled\",\"budget_tokens\":1024},\"tools\":"
        "[{\"name\":\"f\",\"input_schema\":{\"type\":\"object\",\"properties\":{}},\"strict\":"
        "true}],\"tool_choice\":{\"type\":\"tool\",\"name\":\"f\","
        "\"disable_parallel_tool_use\":true},\"max_tokens\":400}"},
    {"{\"message\":\"a\",\"reasoning_effort\":\"high\",\"tool_choice\":\"none\",\"tools\":"
     "[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]}",
        "{\"model\":\"up \\\"1\\\"\",\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],"
        "\"stream\":true,\"think\":\"high\",\"options\":{\"num_predict\":400}}",
        NULL},
    {"{\"message\":\"a\",\"tool_choice\":\"none\",\"tools\":"
     "[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]}",
        NULL,
        "{\"model\":\"up \\\"1\\\"\",\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],"
        "\"stream\":true,\"tools\":[{\"name\":\"f\",\"input_schema\":{\"type\":\"object\","
        "\"properties\":{}}}],\"tool_choice\":{\"type\":\"none\"},\"max_tokens\":400}"},
};

static void
check_good(enum config_dialect d, const char *body, const char *want)
{
	struct buf b = {0};
	struct chat_fault f;

	if (request(d, body, &b, &f) != 0)
		fail_msg("%s: %s", body, f.message);
	if (!span_eq((struct span){b.data, b.len}, want))
		fail_msg("%.*s\nis not\n%s", (int)b.len, b.data, want);
	buf_free(&b);
}

static void
test_good(void **state)
{
	(void)state;
	for (size_t i = 0; i < LEN(good); i++) {
		if (good[i].ollama != NULL)
			check_good(DIALECT_OLLAMA, good[i].body, good[i].ollama);
		if (good[i].anthropic != NULL)
			check_good(DIALECT_ANTHROPIC, good[i].body, good[i].anthropic);
	}
}

#define ASK(field) "{\"message\":\"a\"," field "}"
#define SAY(message) "{\"messages\":[" message "]}"
#define TOOLS(function) "\"tools\":[{\"type\":\"function\",\"function\":{" function "}}]"
#define CALL(call) \
	"{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"tool_calls\":[" call "]}"
#define IMAGE(image) \
	SAY("{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":" \
	    "\"image_url\",\"image_url\":{" image "}}]}")

/* A dialect that refuses it, and the field that the refusal names. */
static const struct {
	const char *body, *ollama, *anthropic, *said;
} refused[] = {
    {ASK("\"seed\":5"), NULL, "seed", "anthropic dialect"},
    {ASK("\"seed\":0"), NULL, "seed", "anthropic dialect"},
    {ASK("\"seed\":1.5"), "seed", "seed", "seed"},
    {ASK("\"temperature\":1.2"), NULL, "temperature", "from 0 to 1"},
    {ASK("\"temperature\":2.1"), "temperature", "temperature", "from 0 to"},
    {ASK("\"temperature\":-1"), "temperature", "temperature", "from 0 to"},
    {ASK("\"temperature\":\"hot\""), "temperature", "temperature", "must be a number"},
    {ASK("\"temperature\":true"), "temperature", "temperature", "must be a number"},
    {ASK("\"temperature\":0.00000000000000000000000000000000000000001"), "temperature",
        "temperature", "must be a number"},
    {ASK("\"top_p\":1.5"), "top_p", "top_p", "from 0 to 1"},
    {ASK("\"top_k\":1.5"), "top_k", "top_k", "whole number"},
    {ASK("\"top_k\":-1"), "top_k", "top_k", "whole number"},
    {ASK("\"stop\":5"), "stop", "stop", "stop"},
    {ASK("\"stop\":\"\""), "stop", "stop", "stop"},
    {ASK("\"stop\":[\"a\",5]"), "stop", "stop", "must hold texts"},
    {ASK("\"stop\":{\"a\":1}"), "stop", "stop", "stop"},
    {ASK("\"stop\":[\"x\",\"\\n\"]"), NULL, "stop", "white space"},
    {ASK("\"stop\":\" \""), NULL, "stop", "white space"},
    {ASK("\"user\":\"u\""), "user", NULL, "ollama dialect"},
    {ASK("\"user\":{\"u\":1}"), "user", "user", "user"},
    {ASK("\"presence_penalty\":0.5"), NULL, "presence_penalty", "anthropic dialect"},
    {ASK("\"frequency_penalty\":-2.5"), "frequency_penalty", "frequency_penalty", "penalty"},
    {ASK("\"response_format\":{\"type\":\"json_object\"}"), NULL, "response_format", "anthropic"},
    {ASK("\"response_format\":{\"type\":\"yaml\"}"), "response_format", "response_format",
        "format"},
    {ASK("\"response_format\":\"json\""), "response_format", "response_format", "object"},
    {ASK("\"response_format\":{\"type\":\"json_schema\"}"), "response_format", "response_format",
        "format"},
    {ASK("\"tools\":[{\"type\":\"function\"}]"), "tools", "tools", "without a 'function'"},
    {ASK("\"tools\":[{\"type\":\"web_search\"}]"), "tools", "tools", "a tool that is no function"},
    {ASK("\"tools\":[5]"), "tools", "tools", "a tool that is no function"},
    {ASK("\"tools\":{\"f\":1}"), "tools", "tools", "must be a list"},
    {ASK(TOOLS("\"name\":\"\"")), "tools", "tools", "without a name"},
    {ASK(TOOLS("\"name\":5")), "tools", "tools", "without a name"},
    {ASK(TOOLS("\"name\":\"f\",\"description\":5")), "tools", "tools", "'description'"},
    {ASK(TOOLS("\"name\":\"f\",\"parameters\":\"x\"")), "tools", "tools", "'parameters'"},
    {ASK(TOOLS("\"name\":\"f\",\"extra\":1")), "tools", "tools", "a function with 'extra'"},
    {ASK(TOOLS("\"name\":\"f\",\"strict\":true")), "tools", NULL, "'strict'"},
    {ASK("\"tool_choice\":\"required\""), "tool_choice", "tool_choice", "there are no 'tools'"},
    {ASK("\"tool_choice\":\"always\""), "tool_choice", "tool_choice", "must be auto"},
    {ASK("\"tool_choice\":{\"type\":\"allowed_tools\"}"), "tool_choice", "tool_choice",
        "must be auto"},
    {ASK(TOOLS("\"name\":\"f\"") ",\"tool_choice\":\"required\""), "tool_choice", NULL,
        "a call that must be made"},
    {ASK(TOOLS("\"name\":\"f\"") ",\"tool_choice\":{\"type\":\"function\",\"function\":"
                                      "{\"name\":\"f\"}}"),
        "tool_choice", NULL, "a call that must be made"},
    {ASK(TOOLS("\"name\":\"f\"") ",\"parallel_tool_calls\":false"), "parallel_tool_calls", NULL,
        "a false"},
    {ASK("\"parallel_tool_calls\":1"), "parallel_tool_calls", "parallel_tool_calls",
        "true or false"},
    {ASK("\"thinking\":{\"type\":\"enabled\",\"budget_tokens\":1024}"), "thinking", NULL,
        "ollama dialect"},
    {ASK("\"thinking\":true"), "thinking", "thinking", "thinking"},
    {ASK("\"reasoning_effort\":\"most\""), "reasoning_effort", "reasoning_effort", "reasoning"},
    {ASK("\"reasoning_effort\":5"), "reasoning_effort", "reasoning_effort", "reasoning"},
    {ASK("\"logprobs\":true"), "logprobs", "logprobs", "logprobs"},
    {ASK("\"logit_bias\":{\"5\":1}"), "logit_bias", "logit_bias", "logit_bias"},
    {ASK("\"reasoning_effort\":\"low\""), NULL, "reasoning_effort", "reasoning"},
    {ASK("\"options\":{\"num_predict\":-1}"), "options", "options", "options"},
    {ASK("\"system\":\"x\""), "system", "system", "system"},
    {ASK("\"b\\u0061d\":1"), "bad", "bad", "'bad'"},
    {ASK("\"0123456789012345678901234567890123456789012345678901234567890\xc3\xa9\xc3\xa9\":1"),
        "0123456789012345678901234567890123456789012345678901234567890\xc3\xa9",
        "0123456789012345678901234567890123456789012345678901234567890\xc3\xa9", "no place"},
    {SAY("{\"role\":\"tool\",\"content\":\"a\"}"), "messages", "messages", "a tool's answer"},
    {SAY("{\"role\":\"tool\",\"content\":\"a\",\"tool_call_id\":\"x\"}"), "messages", NULL,
        "that the calls before it do not have"},
    {SAY("{\"role\":\"function\",\"name\":\"f\",\"content\":\"a\"}"), "messages", "messages",
        "a message with 'name'"},
    {SAY("{\"role\":\"function\",\"content\":\"a\"}"), "messages", "messages",
        "the role 'function'"},
    {SAY("{\"role\":\"user\",\"content\":\"a\",\"tool_call_id\":\"x\"}"), "messages",
        "messages", "'tool_call_id'"},
    {SAY("{\"role\":\"user\",\"content\":\"a\",\"tool_calls\":[{}]}"), "messages", "messages",
        "not the assistant's"},
    {SAY(CALL("{\"function\":{\"name\":\"f\"}}")), "messages", "messages", "without an 'id'"},
    {SAY(CALL("{\"id\":\"x\",\"type\":\"custom\",\"custom\":{}}")), "messages", "messages",
        "not of the type 'function'"},
    {SAY(CALL("{\"id\":\"x\",\"function\":{}}")), "messages", "messages", "without a name"},
    {SAY(CALL("{\"id\":\"x\",\"function\":{\"name\":\"f\",\"arguments\":{}}}")), "messages",
        "messages", "are no text"},
    {SAY(CALL("{\"id\":\"x\",\"function\":{\"name\":\"f\",\"arguments\":\"[1]\"}}")),
        "messages", "messages", "are no JSON object"},
    {SAY(CALL("{\"id\":\"x\",\"function\":{\"name\":\"f\",\"arguments\":\"{\"}}")), "messages",
        "messages", "are no JSON object"},
    {IMAGE("\"url\":\"https://x.example/a.png\""), "messages", NULL, "an image by its URL"},
    {IMAGE("\"url\":\"ftp://x.example/a.png\""), "messages", "messages", "'url'"},
    {IMAGE("\"url\":\"data:image/png,abc\""), "messages", "messages", "not in base64"},
    {IMAGE("\"url\":\"data:image/png;base64,a b\""), "messages", "messages", "is not base64"},
    {IMAGE("\"url\":\"data:image/png;base64,\""), "messages", "messages", "is not base64"},
    {IMAGE("\"url\":5"), "messages", "messages", "'url'"},
    {IMAGE("\"url\":\"data:image/png;base64,QUJD\",\"detail\":\"high\""), "messages", "messages",
        "an image with 'detail'"},
    {SAY("{\"role\":\"system\",\"content\":[{\"type\":\"image_url\",\"image_url\":{\"url\":"
         "\"data:image/png;base64,QUJD\"}}]},{\"role\":\"user\",\"content\":\"a\"}"),
        "messages", "messages", "not the user's"},
    {SAY("{\"role\":\"user\",\"content\":\"a\",\"name\":\"bob\"}"), "messages", "messages",
        "a message with 'name'"},
    {SAY("{\"role\":\"assistant\",\"content\":null,\"function_call\":{\"name\":\"x\"}},"
         "{\"role\":\"user\",\"content\":\"a\"}"),
        "messages", "messages", "a message with 'function_call'"},
    {SAY("{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\",\"x\":1}]}"),
        "messages", NULL, "a content part with 'x'"},
    {SAY("{\"role\":\"user\",\"content\":\"\"}"), NULL, "messages", "a message without a text"},
    {SAY("{\"role\":\"user\",\"content\":[]}"), NULL, "messages", "a message without a text"},
    {SAY("{\"role\":\"system\",\"content\":\"a\"}"), NULL, "messages", "one of the user's"},
};

static void
check_refused(enum config_dialect d, const char *body, const char *param, const char *said)
{
	struct buf b = {0};
	struct chat_fault f = {0};

	if (request(d, body, &b, &f) == 0) {
		if (param != NULL)
			fail_msg("%s: not refused", body);
	} else if (param == NULL) {
		fail_msg("%s: %s", body, f.message);
	} else {
		assert_int_equal(f.status, 400);
		assert_string_equal(f.code, "invalid_request");
		if (strcmp(f.param, param) != 0 || strstr(f.message, said) == NULL)
			fail_msg("%s: %s (%s)", body, f.message, f.param);
		assert_true(utf8_valid(f.message, strlen(f.message)));
	}
	buf_free(&b);
}

static void
test_refused(void **state)
{
	(void)state;
	for (size_t i = 0; i < LEN(refused); i++) {
		check_refused(DIALECT_OLLAMA, refused[i].body, refused[i].ollama, refused[i].said);
		check_refused(
		    DIALECT_ANTHROPIC, refused[i].body, refused[i].anthropic, refused[i].said);
	}
}

static int
write_all(const char *body, struct buf b[DIALECTS], struct chat_fault *f)
{
	struct chat_request r;

	for (int i = 0; i < DIALECTS; i++)
		b[i] = (struct buf){0};
	assert_int_equal(parse((struct span){body, strlen(body)}, &r, f), 0);
	return dialect_write_all(&config, &r, b, f);
}

/* The first provider decides; one that stands in for it and cannot is left out. */
static void
test_mixed_providers(void **state)
{
	struct config_model *m = &config.model[0];
	struct buf b[DIALECTS];
	struct chat_fault f;

	(void)state;
	m->provider_count = 3;
	memcpy(m->providers, (int[]){0, 1, 2}, 3 * sizeof(int));
	assert_int_equal(write_all(ASK("\"seed\":5"), b, &f), 0);
	assert_true(b[DIALECT_OPENAI].len > 0 && b[DIALECT_OLLAMA].len > 0);
	assert_int_equal(b[DIALECT_ANTHROPIC].len, 0);
	for (int i = 0; i < DIALECTS; i++)
		buf_free(&b[i]);
	memcpy(m->providers, (int[]){2, 0, 1}, 3 * sizeof(int));
	assert_int_equal(write_all(ASK("\"seed\":5"), b, &f), -1);
	assert_string_equal(f.param, "seed");
	for (int i = 0; i < DIALECTS; i++)
		assert_null(b[i].data);
	m->provider_count = 0;
}

static void
test_mutations(void **state)
{
	static const char bytes[] = "\"\\{}[]:,x0. \n\xff\xc3\xa9"
	                            "eu-";
	struct buf b = {0};
	unsigned written = 0, not_written = 0;

	(void)state;
	srand(1);
	for (int i = 0; i < 200000; i++) {
		const char *body = good[i % (int)LEN(good)].body;
		size_t len = strlen(body);
		char *changed = malloc(len);
		struct chat_request r;
		struct chat_fault f;

		memcpy(changed, body, len);
		for (int n = rand() % 3; n >= 0; n--)
			changed[(size_t)rand() % len] = bytes[(size_t)rand() % (sizeof bytes - 1)];
		if (parse((struct span){changed, len}, &r, &f) == 0)
			for (enum config_dialect d = DIALECT_OPENAI; d < DIALECT_AUTO; d++) {
				b.len = 0;
				if (dialect_of(d)->write(&config, &r, &b, &f) != 0) {
					assert_true(utf8_valid(f.message, strlen(f.message)));
					not_written++;
					continue;
				}
				dialect_of(d)->limit(&b, false, 1);
				if (json_check(b.data, b.len, NULL, NULL) != JSON_OK)
					fail_msg("%.*s gave %.*s", (int)len, changed, (int)b.len,
					    b.data);
				written++;
			}
		free(changed);
	}
	assert_true(written > 10000 && not_written > 1000);
	buf_free(&b);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_good),
	    cmocka_unit_test(test_refused),
	    cmocka_unit_test(test_mixed_providers),
	    cmocka_unit_test(test_mutations),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
