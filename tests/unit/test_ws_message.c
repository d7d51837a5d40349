/*
 * Goal:   a question on a WebSocket is the /chat/send that it stands for, and what is said there is
 *         JSON, byte by byte as documented.
 * Method: messages and what must come of them; each kind of answer compared as text.
 *
 * objs: daemon/tokenizer.o daemon/tokenizer_stream.o daemon/tokenizer_merge.o
 * objs: daemon/tokenizer_split.o daemon/tokenizer_class.o daemon/tokenizer_table.o
 * objs: daemon/chat_request.o daemon/chat_keys.o daemon/chat_tokens.o daemon/calibrate.o daemon/ids.o daemon/log.o
 * objs: daemon/ws_message.o daemon/emit.o daemon/openai.o daemon/delta_read.o
 * objs: daemon/json.o daemon/json_value.o daemon/utf8.o daemon/buf.o shm/money.o
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/json.h"
#include "daemon/ws_message.h"
#include "shm/journal_record.h"

#define LEN(array) (sizeof(array) / sizeof((array)[0]))

/* In place of daemon/config.c, which needs all of the config's parser. */
int
config_model(const struct config *c, const char *name, size_t len)
{
	(void)c;
	(void)name;
	(void)len;
	return -1;
}

static void
questions(void **state)
{
	static const struct {
		const char *message, *body;
	} cases[] = {
	    {"{\"question\":\"hi\"}", "{\"message\":\"hi\"}"},
	    {" {\"type\" : \"question\", \"question\" : \"a\\u0000\\\"\" } ",
	        "{\"message\":\"a\\u0000\\\"\"}"},
	    {"{\"model\":\"m\",\"question\":\"x\",\"session_id\":\"s\",\"stop\":[1, 2]}",
	        "{\"message\":\"x\",\"model\":\"m\",\"session_id\":\"s\",\"stop\":[1, 2]}"},
	    {"{\"quest\\u0069on\":\"x\",\"typ\\u0065\":\"question\"}", "{\"message\":\"x\"}"},
	};
	struct chat_fault f;

	(void)state;
	for (size_t i = 0; i < LEN(cases); i++) {
		struct span text = {cases[i].message, strlen(cases[i].message)};
		struct buf b = {0};

		assert_int_equal(ws_message_read(text, &b, &f), WS_QUESTION);
		assert_int_equal(b.len, strlen(cases[i].body));
		assert_memory_equal(b.data, cases[i].body, b.len);
		assert_int_equal(json_check(b.data, b.len, NULL, NULL), JSON_OK);
		buf_free(&b);
	}
}

static void
cancels(void **state)
{
	struct chat_fault f;
	struct buf b = {0};

	(void)state;
	assert_int_equal(ws_message_read(SPAN("{\"type\":\"cancel\"}"), &b, &f), WS_CANCEL);
	assert_int_equal(
	    ws_message_read(SPAN("{\"x\":1,\"type\":\"c\\u0061ncel\"}"), &b, &f), WS_CANCEL);
	buf_free(&b);
}

static void
neither(void **state)
{
	static const struct {
		const char *message, *code, *param;
	} cases[] = {
	    {"", "invalid_json", NULL},
	    {"null", "invalid_json", NULL},
	    {"[{\"question\":\"x\"}]", "invalid_json", NULL},
	    {"{\"question\":\"x\"}}", "invalid_json", NULL},
	    {"{\"question\":\"x\",\"question\":\"y\"}", "invalid_json", NULL},
	    {"{}", "invalid_request", "question"},
	    {"{\"type\":\"question\"}", "invalid_request", "question"},
	    {"{\"question\":\"\"}", "invalid_request", "question"},
	    {"{\"question\":null}", "invalid_request", "question"},
	    {"{\"question\":[\"x\"]}", "invalid_request", "question"},
	    {"{\"question\":\"x\",\"message\":\"y\"}", "invalid_request", "question"},
	    {"{\"question\":\"x\",\"m\\u0065ssages\":[]}", "invalid_request", "question"},
	    {"{\"question\":\"x\",\"type\":\"chunk\"}", "invalid_request", "type"},
	    {"{\"question\":\"x\",\"type\":null}", "invalid_request", "type"},
	    {"{\"type\":[\"cancel\"]}", "invalid_request", "type"},
	};

	(void)state;
	for (size_t i = 0; i < LEN(cases); i++) {
		struct span text = {cases[i].message, strlen(cases[i].message)};
		struct chat_fault f = {0};
		struct buf b = {0};

		assert_int_equal(ws_message_read(text, &b, &f), WS_INVALID);
		assert_string_equal(f.code, cases[i].code);
		assert_true((f.param == NULL) == (cases[i].param == NULL));
		if (f.param != NULL)
			assert_string_equal(f.param, cases[i].param);
		assert_true(f.message[0] != '\0');
		buf_free(&b);
	}
}

/* What is in b is this, and one whole JSON object; b is empty afterwards. */
static void
expect(struct buf *b, const char *text)
{
	struct json_value root;

	assert_false(b->failed);
	assert_int_equal(b->len, strlen(text));
	assert_memory_equal(b->data, text, b->len);
	assert_int_equal(json_check(b->data, b->len, &root, NULL), JSON_OK);
	assert_int_equal(root.type, JSON_OBJECT);
	b->len = 0;
}

static const struct emit_stream stream = {
    .stream_id = "st", .session_id = "se", .message_id = "me", .model = "m\"1"};
#define IDS "\"model\":\"m\\\"1\",\"session_id\":\"se\",\"message_id\":\"me\",\"stream_id\":\"st\"}"

static void
answers(void **state)
{
	struct emit_end end = {.outcome = OUTCOME_CREDIT,
	    .prompt_tokens = 12,
	    .completion_tokens = 3,
	    .cost = 2500,
	    .balance = -1250001};
	struct buf b = {0};

	(void)state;
	ws_message_chunk(&b, "a\"b\n", 4);
	expect(&b, "{\"type\":\"chunk\",\"content\":\"a\\\"b\\n\"}");
	ws_message_end(&b, &stream, &end);
	expect(&b, "{\"type\":\"end\",\"finish_reason\":\"credit\",\"usage\":{\"prompt_tokens\":12,"
	           "\"completion_tokens\":3,\"total_tokens\":15},\"cost\":0.0025,"
	           "\"balance\":-1.250001," IDS);
	end.outcome = OUTCOME_UPSTREAM;
	end.error_code = "upstream_error";
	end.error_message = SPAN("it said \"no\"");
	end.error_kind = "refused";
	end.retry_after = 7;
	ws_message_end(&b, &stream, &end);
	expect(&b,
	    "{\"type\":\"error\",\"message\":\"it said \\\"no\\\"\",\"code\":\"upstream_error\","
	    "\"kind\":\"refused\",\"retry_after\":7,\"usage\":{\"prompt_tokens\":12,"
	    "\"completion_tokens\":3,\"total_tokens\":15},\"cost\":0.0025,"
	    "\"balance\":-1.250001," IDS);
	buf_free(&b);
}

static void
errors(void **state)
{
	struct buf b = {0};

	(void)state;
	ws_message_error(&b, &(struct conn_refusal){.code = "busy", .message = "no \"now\""});
	expect(&b, "{\"type\":\"error\",\"message\":\"no \\\"now\\\"\",\"code\":\"busy\"}");
	ws_message_error(&b, &(struct conn_refusal){.code = "c",
	                         .message = "m",
	                         .param = "message",
	                         .members = SPAN(",\"required\":0.5"),
	                         .retry_after = 6});
	expect(&b, "{\"type\":\"error\",\"message\":\"m\",\"code\":\"c\",\"param\":\"question\","
	           "\"required\":0.5,\"retry_after\":6}");
	buf_free(&b);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(questions),
	    cmocka_unit_test(cancels),
	    cmocka_unit_test(neither),
	    cmocka_unit_test(answers),
	    cmocka_unit_test(errors),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
