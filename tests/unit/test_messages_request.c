/*
 * Goal:   what is asked in Anthropic's words is said in OpenAI's, and from there in Ollama's; what
 *         cannot be said there is noted by its name, and what is wrong is refused by it.
 * Method: bodies and what must come of them, compared as text; bodies and the names of what is lost
 *         or wrong; bodies mutated at random must give JSON or a refusal.
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
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/dialect.h"
#include "daemon/messages_request.h"
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
	static char name[] = "m";
	const struct tokenizer *tokenizer;
	char why[256];

	(void)state;
	tokenizer = tokenizer_open("o200k_base", why, sizeof why);
	assert_non_null(tokenizer);
	config.model_count = 1;
	config.model[0] = (struct config_model){.name = name,
	    .upstream = name,
	    .context = 1000000,
	    .max_completion = 400000,
	    .tokenizer = tokenizer};
	config.default_model = name;
	return 0;
}

#define ASK(messages, more) "{\"model\":\"m\",\"max_tokens\":9,\"messages\":[" messages "]" more "}"
#define HI "{\"role\":\"user\",\"content\":\"hi\"}"
#define USER(blocks) "{\"role\":\"user\",\"content\":[" blocks "]}"
#define SAYS(blocks) "{\"role\":\"assistant\",\"content\":[" blocks "]}"
#define TEXT(text) "{\"type\":\"text\",\"text\":\"" text "\"}"
#define OURS(messages, more) \
	"{\"stream\":false,\"model\":\"m\",\"messages\":[" messages "]" more ",\"max_tokens\":9}"

static const struct {
	const char *body, *openai;
} good[] = {
    {ASK(HI, ""), OURS(HI, "")},
    {ASK(HI, ",\"stream\":true"),
        "{\"stream\":true,\"model\":\"m\",\"messages\":[" HI "],\"max_tokens\":9}"},
    {ASK(HI,
         ",\"system\":\"Be \\u00e9\",\"temperature\":0.5,\"top_p\":1,\"stop_sequences\":[\"a\"],"
         "\"metadata\":{\"user_id\":\"u\"},\"service_tier\":\"auto\",\"thinking\":{\"type\":"
         "\"disabled\"}"),
        OURS("{\"role\":\"system\",\"content\":\"Be \\u00e9\"}," HI,
            ",\"temperature\":0.5,\"top_p\":1,\"stop\":[\"a\"]")},
    {ASK(HI, ",\"system\":[{\"type\":\"text\",\"text\":\"a\",\"cache_control\":{\"type\":"
             "\"ephemeral\"}}," TEXT("b") "],\"stop_sequences\":[],\"top_p\":null"),
        OURS("{\"role\":\"system\",\"content\":[" TEXT("a") "," TEXT("b") "]}," HI, "")},
    {ASK(USER(TEXT("a") ",{\"type\":\"image\",\"source\":{\"type\":\"base64\",\"media_type\":"
                        "\"image/png\",\"data\":\"QUJD\"}},{\"type\":\"image\",\"source\":{"
                        "\"type\":\"url\",\"url\":\"https://x.example/a.png\"}}"),
         ""),
        OURS(USER(TEXT("a") ",{\"type\":\"image_url\",\"image_url\":{\"url\":"
                            "\"data:image/png;base64,QUJD\"}},{\"type\":\"image_url\","
                            "\"image_url\":{\"url\":\"https://x.example/a.png\"}}"),
            "")},
    /* A call, its answers, and what else is said with them. */
    {ASK(HI "," SAYS("{\"type\":\"thinking\",\"thinking\":\"hm\",\"signature\":\"s\"}," TEXT(
             "I look") ",{\"type\":\"tool_use\",\"id\":\"t1\",\"name\":\"f\",\"input\":{\"x\": "
                       "\"\\\"\"}},{\"type\":\"tool_use\",\"id\":\"t2\",\"name\":\"g\","
                       "\"input\":{}}") "," USER(TEXT("go on") ",{\"type\":\"tool_result\","
                                                               "\"tool_use_id\":\"t1\",\"content\":"
                                                               "\"sun\"},{\"type\":\"tool_result\","
                                                               "\"tool_use_id\":\"t2\",\"content\":"
                                                               "[" TEXT(
                                                                   "no") "],\"is_error\":true},"
                                                                         "{\"type\":\"tool_"
                                                                         "result\",\"tool_use_id\":"
                                                                         "\"t3\"}"),
         ""),
        OURS(HI
            ",{\"role\":\"assistant\",\"content\":[" TEXT(
                "I look") "],\"tool_calls\":[{\"id\":"
                          "\"t1\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":"
                          "\"{\\\"x\\\": "
                          "\\\"\\\\\\\"\\\"}\"}},{\"id\":\"t2\",\"type\":\"function\",\"function\":"
                          "{\"name\":\"g\",\"arguments\":\"{}\"}}]},{\"role\":\"tool\",\"tool_call_"
                          "id\":\"t1\","
                          "\"content\":\"sun\"},{\"role\":\"tool\",\"tool_call_id\":\"t2\","
                          "\"content\":[" TEXT("Error:") "," TEXT(
                              "no") "]},{\"role\":\"tool\",\"tool_call_id\":\"t3\","
                                    "\"content\":\"\"}," USER(TEXT("go on")),
            "")},
    {ASK(HI "," SAYS("{\"type\":\"tool_use\",\"id\":\"t\",\"name\":\"f\",\"input\":{}}") "," USER(
             "{\"type\":\"tool_result\",\"tool_use_id\":\"t\",\"content\":\"x\",\"is_error\":"
             "true}"),
         ""),
        OURS(HI ",{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"t\",\"type\":"
                "\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}]},{\"role\":"
                "\"tool\",\"tool_call_id\":\"t\",\"content\":\"Error: x\"}",
            "")},
    {ASK(HI "," SAYS("{\"type\":\"redacted_thinking\",\"data\":\"x\"}"), ""),
        OURS(HI ",{\"role\":\"assistant\",\"content\":\"\"}", "")},
    /* Tools and the choice among them. */
    {ASK(HI, ",\"tools\":[{\"name\":\"f\",\"description\":\"d\",\"input_schema\":{\"type\":"
             "\"object\"},\"cache_control\":{\"type\":\"ephemeral\"}},{\"type\":\"custom\","
             "\"name\":\"g\",\"input_schema\":{},\"strict\":true}],\"tool_choice\":{\"type\":"
             "\"tool\",\"name\":\"f\",\"disable_parallel_tool_use\":true}"),
        OURS(HI, ",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"description\":"
                 "\"d\",\"parameters\":{\"type\":\"object\"}}},{\"type\":\"function\",\"function\":"
                 "{\"name\":\"g\",\"parameters\":{},\"strict\":true}}],\"tool_choice\":{\"type\":"
                 "\"function\",\"function\":{\"name\":\"f\"}},\"parallel_tool_calls\":false")},
    {ASK(HI,
         ",\"tools\":[{\"name\":\"f\",\"input_schema\":{}}],\"tool_choice\":{\"type\":\"any\"}"),
        OURS(HI, ",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":"
                 "{}}}],\"tool_choice\":\"required\"")},
    {ASK(HI,
         ",\"tools\":[{\"name\":\"f\",\"input_schema\":{}}],\"tool_choice\":{\"type\":\"none\"}"),
        OURS(HI, ",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":"
                 "{}}}],\"tool_choice\":\"none\"")},
    {ASK(HI, ",\"tools\":[],\"tool_choice\":{\"type\":\"auto\"}"), OURS(HI, "")},
    /* Thoughts. */
    {"{\"model\":\"m\",\"max_tokens\":3000,\"messages\":[" HI
     "],\"thinking\":{\"type\":\"enabled\","
     "\"budget_tokens\":2048}}",
        "{\"stream\":false,\"model\":\"m\",\"messages\":[" HI "],\"reasoning_effort\":\"low\","
        "\"max_tokens\":3000}"},
    {"{\"model\":\"m\",\"max_tokens\":30000,\"messages\":[" HI
     "],\"thinking\":{\"type\":\"enabled\","
     "\"budget_tokens\":8193}}",
        "{\"stream\":false,\"model\":\"m\",\"messages\":[" HI "],\"reasoning_effort\":\"high\","
        "\"max_tokens\":30000}"},
};

static void
test_good(void **state)
{
	struct messages_request m;
	struct chat_request r;
	struct chat_fault f;
	struct buf b = {0};

	(void)state;
	for (size_t i = 0; i < LEN(good); i++) {
		struct span body = {good[i].body, strlen(good[i].body)};

		if (messages_request_read(body, false, &m, &f) != 0)
			fail_msg("%s: %s", good[i].body, f.message);
		if (m.lost.param != NULL || m.lost_openai.param != NULL)
			fail_msg("%s: lost %s", good[i].body, m.lost.param);
		if (!span_eq((struct span){m.openai.data, m.openai.len}, good[i].openai))
			fail_msg(
			    "%.*s\nis not\n%s", (int)m.openai.len, m.openai.data, good[i].openai);
		/* And OpenAI's readers take it. */
		if (chat_request_parse_v1(
		        &config, (struct span){m.openai.data, m.openai.len}, &r, &f) != 0)
			fail_msg("%s: %s", good[i].openai, f.message);
		assert_true(r.prompt_tokens > 0);
		b.len = 0;
		assert_int_equal(dialect_of(DIALECT_OPENAI)->write(&config, &r, &b, &f), 0);
		messages_request_free(&m);
	}
	buf_free(&b);
}

/* All the way to Ollama, which knows less: its refusals name Anthropic's fields. */
static void
test_to_ollama(void **state)
{
	static const struct {
		const char *body, *param, *ollama;
	} cases[] = {
	    {ASK(HI "," SAYS("{\"type\":\"tool_use\",\"id\":\"t\",\"name\":\"f\",\"input\":{\"a\":"
	                     "1}}") "," USER(
	             "{\"type\":\"tool_result\",\"tool_use_id\":\"t\",\"content\":\"x\"}"),
	         ",\"top_k\":5,\"stop_sequences\":[\"a\"],\"tools\":[{\"name\":\"f\",\"input_"
	         "schema\":{}}]"),
	        NULL,
	        "{\"model\":\"m\",\"messages\":[" HI ",{\"role\":\"assistant\",\"content\":\"\","
	        "\"tool_calls\":[{\"id\":\"t\",\"function\":{\"name\":\"f\",\"arguments\":{\"a\":1}"
	        "}}]},"
	        "{\"role\":\"tool\",\"content\":\"x\",\"tool_name\":\"f\"}],\"stream\":true,"
	        "\"tools\":"
	        "[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"type\":"
	        "\"object\",\"properties\":{}}}}],\"options\":{\"top_k\":5,\"stop\":[\"a\"],"
	        "\"num_predict\":9}}"},
	    {ASK(HI, ",\"tools\":[{\"name\":\"f\",\"input_schema\":{}}],\"tool_choice\":{\"type\":"
	             "\"auto\",\"disable_parallel_tool_use\":true}"),
	        "tool_choice", NULL},
	    {ASK(HI, ",\"tools\":[{\"name\":\"f\",\"input_schema\":{}}],\"tool_choice\":{\"type\":"
	             "\"any\"}"),
	        "tool_choice", NULL},
	    {ASK(HI, ",\"stop_sequences\":[\"\"]"), "stop_sequences", NULL},
	    {ASK(USER("{\"type\":\"image\",\"source\":{\"type\":\"url\",\"url\":"
	              "\"https://x.example/a.png\"}}"),
	         ""),
	        "messages", NULL},
	};
	struct messages_request m;
	struct chat_request r;
	struct chat_fault f;
	struct buf b = {0};

	(void)state;
	for (size_t i = 0; i < LEN(cases); i++) {
		struct span body = {cases[i].body, strlen(cases[i].body)};

		assert_int_equal(messages_request_read(body, false, &m, &f), 0);
		assert_null(m.lost.param);
		assert_int_equal(chat_request_parse_v1(
		                     &config, (struct span){m.openai.data, m.openai.len}, &r, &f),
		    0);
		b.len = 0;
		if (dialect_of(DIALECT_OLLAMA)->write(&config, &r, &b, &f) != 0) {
			messages_request_fault(&m, &f);
			if (cases[i].param == NULL || strcmp(f.param, cases[i].param) != 0)
				fail_msg("%s: %s (%s)", cases[i].body, f.message, f.param);
		} else {
			dialect_of(DIALECT_OLLAMA)->limit(&b, false, r.max_tokens);
			if (cases[i].ollama == NULL ||
			    !span_eq((struct span){b.data, b.len}, cases[i].ollama))
				fail_msg("%s: %.*s", cases[i].body, (int)b.len, b.data);
		}
		messages_request_free(&m);
	}
	buf_free(&b);
}

static const struct {
	const char *body, *param, *said;
} refused[] = {
    {"{", NULL, "not JSON"},
    {"[]", NULL, "JSON object"},
    {"{\"model\":\"m\",\"max_tokens\":9}", "messages", "missing"},
    {"{\"model\":\"m\",\"messages\":[" HI "]}", "max_tokens", "missing"},
    {"{\"model\":\"m\",\"max_tokens\":0,\"messages\":[" HI "]}", "max_tokens", "above zero"},
    {"{\"model\":\"m\",\"max_tokens\":1.5,\"messages\":[" HI "]}", "max_tokens", "above zero"},
    {"{\"model\":\"m\",\"max_tokens\":9,\"messages\":\"hi\"}", "messages", "array"},
    {ASK("", ""), "messages", "empty"},
    {ASK("5", ""), "messages", "role"},
    {ASK("{\"role\":\"system\",\"content\":\"x\"}", ""), "messages", "role"},
    {ASK("{\"role\":\"user\"}", ""), "messages", "neither text nor blocks"},
    {ASK("{\"role\":\"user\",\"content\":[]}", ""), "messages", "neither text nor blocks"},
    {ASK(USER("5"), ""), "messages", "without a type"},
    {ASK(USER("{\"text\":\"x\"}"), ""), "messages", "without a type"},
    {ASK(USER("{\"type\":\"text\"}"), ""), "messages", "without a 'text'"},
    {ASK(USER("{\"type\":\"image\"}"), ""), "messages", "'source'"},
    {ASK(USER("{\"type\":\"image\",\"source\":{\"type\":\"base64\"}}"), ""), "messages", "'data'"},
    {ASK(USER("{\"type\":\"image\",\"source\":{\"type\":\"url\"}}"), ""), "messages", "'url'"},
    {ASK(USER("{\"type\":\"tool_result\"}"), ""), "messages", "'tool_use_id'"},
    {ASK(USER("{\"type\":\"tool_result\",\"tool_use_id\":\"t\",\"content\":5}"), ""), "messages",
        "neither text nor blocks"},
    {ASK(SAYS("{\"type\":\"tool_use\",\"id\":\"t\",\"name\":\"f\"}"), ""), "messages", "'input'"},
    {ASK(SAYS("{\"type\":\"tool_use\",\"id\":\"t\",\"name\":\"f\",\"input\":\"{}\"}"), ""),
        "messages", "'input'"},
    {ASK(HI, ",\"system\":5"), "system", "a text or a list"},
    {ASK(HI, ",\"system\":[{\"type\":\"image\"}]"), "system", "no text"},
    {ASK(HI, ",\"stream\":1"), "stream", "true or false"},
    {ASK(HI, ",\"temperature\":\"x\""), "temperature", "number"},
    {ASK(HI, ",\"stop_sequences\":\"x\""), "stop_sequences", "list"},
    {ASK(HI, ",\"tools\":{\"a\":1}"), "tools", "list"},
    {ASK(HI, ",\"tools\":[{\"name\":\"f\"}]"), "tools", "'input_schema'"},
    {ASK(HI, ",\"tools\":[{\"input_schema\":{}}]"), "tools", "'name'"},
    {ASK(HI, ",\"tools\":[{\"name\":\"f\",\"input_schema\":{}}],\"tool_choice\":\"auto\""),
        "tool_choice", "of the type"},
    {ASK(HI, ",\"thinking\":{\"type\":\"enabled\"}"), "thinking", "budget_tokens"},
    {ASK(HI, ",\"thinking\":{\"type\":\"enabled\",\"budget_tokens\":9}"), "max_tokens",
        "more than"},
};

static void
test_refused(void **state)
{
	struct messages_request m;
	struct chat_fault f;

	(void)state;
	for (size_t i = 0; i < LEN(refused); i++) {
		struct span body = {refused[i].body, strlen(refused[i].body)};

		if (messages_request_read(body, false, &m, &f) == 0)
			fail_msg("%s: not refused", refused[i].body);
		assert_int_equal(f.status, 400);
		if (strstr(f.message, refused[i].said) == NULL ||
		    (f.param == NULL) != (refused[i].param == NULL) ||
		    (f.param != NULL && strcmp(f.param, refused[i].param) != 0))
			fail_msg("%s: %s (%s)", refused[i].body, f.message, f.param);
		messages_request_free(&m);
	}
}

static const struct {
	const char *body, *param, *said;
} lost[] = {
    {ASK(HI, ",\"container\":\"c\""), "container", "'container' has no place"},
    {ASK(HI, ",\"mcp_servers\":[{\"url\":\"x\"}]"), "mcp_servers", "'mcp_servers'"},
    {ASK(HI, ",\"service_tier\":\"standard_only\""), "service_tier", "'service_tier'"},
    {ASK(HI, ",\"a\\u00e9\":1"), "a\xc3\xa9", "'a\xc3\xa9'"},
    {ASK(HI, ",\"tools\":[{\"type\":\"bash_20250124\",\"name\":\"bash\"}]"), "tools",
        "'bash_20250124'"},
    {ASK(HI, ",\"tools\":[{\"name\":\"f\",\"input_schema\":{},\"defer_loading\":true}]"), "tools",
        "'defer_loading'"},
    {ASK(USER("{\"type\":\"document\",\"source\":{\"type\":\"text\",\"data\":\"x\"}}"), ""),
        "messages", "'document'"},
    {ASK(USER("{\"type\":\"image\",\"source\":{\"type\":\"file\",\"file_id\":\"x\"}}"), ""),
        "messages", "file's id"},
    {ASK(USER("{\"type\":\"tool_result\",\"tool_use_id\":\"t\",\"content\":[{\"type\":\"image\","
              "\"source\":{}}]}"),
         ""),
        "messages", "'image'"},
    {ASK(USER("{\"type\":\"text\",\"text\":\"x\",\"citations\":[{\"a\":1}]}"), ""), "messages",
        "'citations'"},
    {ASK(SAYS("{\"type\":\"server_tool_use\",\"id\":\"t\",\"name\":\"f\",\"input\":{}}"), ""),
        "messages", "'server_tool_use'"},
    {ASK("{\"role\":\"user\",\"content\":\"x\",\"name\":\"y\"}", ""), "messages", "'name'"},
};

/* What only Anthropic's own providers can be asked is counted all the same. */
static void
test_lost(void **state)
{
	struct messages_request m;
	struct chat_request r;
	struct chat_fault f;

	(void)state;
	for (size_t i = 0; i < LEN(lost); i++) {
		struct span body = {lost[i].body, strlen(lost[i].body)};

		if (messages_request_read(body, false, &m, &f) != 0)
			fail_msg("%s: %s", lost[i].body, f.message);
		if (m.lost.param == NULL || strcmp(m.lost.param, lost[i].param) != 0 ||
		    strstr(m.lost.message, lost[i].said) == NULL)
			fail_msg("%s: %s (%s)", lost[i].body, m.lost.message, m.lost.param);
		if (chat_request_parse_v1(
		        &config, (struct span){m.openai.data, m.openai.len}, &r, &f) != 0)
			fail_msg("%s: %s", lost[i].body, f.message);
		messages_request_free(&m);
	}
	assert_int_equal(messages_request_read(SPAN(ASK(HI, ",\"top_k\":5")), false, &m, &f), 0);
	assert_null(m.lost.param);
	assert_string_equal(m.lost_openai.param, "top_k");
	messages_request_free(&m);
	assert_int_equal(messages_request_read(SPAN("{\"messages\":[" HI "]}"), true, &m, &f), 0);
	messages_request_free(&m);
}

static void
test_mutations(void **state)
{
	static const char bytes[] = "\"\\{}[]:,x0. \n\xff\xc3\xa9"
	                            "eu-";
	unsigned read = 0, not_read = 0;

	(void)state;
	srand(1);
	for (int i = 0; i < 100000; i++) {
		const char *body = i % 2 == 0 ? good[i / 2 % (int)LEN(good)].body
		                              : lost[i / 2 % (int)LEN(lost)].body;
		size_t len = strlen(body);
		char *changed = malloc(len);
		struct messages_request m;
		struct chat_fault f;

		memcpy(changed, body, len);
		for (int n = rand() % 3; n >= 0; n--)
			changed[(size_t)rand() % len] = bytes[(size_t)rand() % (sizeof bytes - 1)];
		if (messages_request_read((struct span){changed, len}, i % 3 == 0, &m, &f) == 0) {
			if (json_check(m.openai.data, m.openai.len, NULL, NULL) != JSON_OK)
				fail_msg("%.*s gave %.*s", (int)len, changed, (int)m.openai.len,
				    m.openai.data);
			read++;
		} else {
			assert_true(f.status == 400 && utf8_valid(f.message, strlen(f.message)));
			not_read++;
		}
		messages_request_free(&m);
		free(changed);
	}
	assert_true(read > 5000 && not_read > 5000);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_good),
	    cmocka_unit_test(test_to_ollama),
	    cmocka_unit_test(test_refused),
	    cmocka_unit_test(test_lost),
	    cmocka_unit_test(test_mutations),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
