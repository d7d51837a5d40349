/*
 * The messages of Anthropic's request, block by block, in OpenAI's words.  Pure.
 */
#include "daemon/messages_write.h"

static const char messages[] = "messages";

static int
bad(struct reading *x, const char *what)
{
	return chat_request_refuse(x->f, messages, "'messages' has %s", what);
}

/* {"type":"text","text":...}: what both dialects have. */
static int
write_text(struct reading *x, struct json_value block, const char *param)
{
	static const char *const known[] = {"type", "text", NULL};
	struct json_value text;

	if (!json_get(block, "text", &text) || text.type != JSON_STRING)
		return chat_request_refuse(
		    x->f, param, "'%s' has a text block without a 'text'", param);
	messages_lose_others(x, block, known, param, "a text");
	buf_str(x->b, "{\"type\":\"text\",\"text\":");
	messages_raw(x, text);
	buf_str(x->b, "}");
	return 0;
}

static int
write_image(struct reading *x, struct json_value block)
{
	static const char *const known[] = {"type", "source", NULL};
	static const char *const keys[] = {"type", "media_type", "data", "url"};
	struct json_value source, v[4];

	if (!json_get(block, "source", &source) || source.type != JSON_OBJECT)
		return bad(x, "an image without a 'source'");
	messages_lose_others(x, block, known, messages, "an image");
	json_get_many(source, keys, v, 4);
	buf_str(x->b, "{\"type\":\"image_url\",\"image_url\":{\"url\":");
	if (json_is(v[0], "base64")) {
		if (v[1].type != JSON_STRING || v[2].type != JSON_STRING)
			return bad(x, "an image without its 'media_type' or 'data'");
		buf_str(x->b, "\"data:");
		buf_add(x->b, v[1].p + 1, v[1].len - 2);
		buf_str(x->b, ";base64,");
		buf_add(x->b, v[2].p + 1, v[2].len - 2);
		buf_str(x->b, "\"");
	} else if (json_is(v[0], "url")) {
		if (v[3].type != JSON_STRING)
			return bad(x, "an image without its 'url'");
		messages_raw(x, v[3]);
	} else {
		messages_lose(&x->r->lost, messages, "an image by a file's id in 'messages'");
		buf_str(x->b, "\"\"");
	}
	buf_str(x->b, "}}");
	return 0;
}

/* A block that nobody else knows, as it came. */
static void
write_foreign(struct reading *x, struct json_value block, struct json_value type)
{
	char name[40];

	messages_lose(&x->r->lost, messages, "a block of the type '%s' in 'messages'",
	    messages_name(type, name));
	messages_raw(x, block);
}

static int
block_type(struct reading *x, struct json_value block, struct json_value *type)
{
	if (block.type != JSON_OBJECT || !json_get(block, "type", type) ||
	    type->type != JSON_STRING)
		return bad(x, "a content block without a type");
	return 0;
}

/* The blocks of a tool's answer; a failure is said in words, there is no other way. */
static int
write_result_content(struct reading *x, struct json_value content, bool failed)
{
	const char *it = NULL;
	struct json_value block, type;
	bool first = true;

	if (content.type != JSON_ARRAY) {
		if (content.type != JSON_STRING && content.type != JSON_NONE &&
		    content.type != JSON_NULL)
			return bad(x, "a tool's result that is neither text nor blocks");
		buf_str(x->b, failed ? "\"Error: " : "\"");
		if (content.type == JSON_STRING)
			buf_add(x->b, content.p + 1, content.len - 2);
		buf_str(x->b, "\"");
		return 0;
	}
	buf_str(x->b, "[");
	if (failed) {
		messages_comma(x, &first);
		buf_str(x->b, "{\"type\":\"text\",\"text\":\"Error:\"}");
	}
	while (json_each(content, &it, NULL, &block)) {
		if (block_type(x, block, &type) != 0)
			return -1;
		messages_comma(x, &first);
		if (!json_is(type, "text"))
			write_foreign(x, block, type);
		else if (write_text(x, block, messages) != 0)
			return -1;
	}
	if (first)
		buf_str(x->b, "{\"type\":\"text\",\"text\":\"\"}");
	buf_str(x->b, "]");
	return 0;
}

static int
write_result(struct reading *x, struct json_value block)
{
	static const char *const known[] = {"type", "tool_use_id", "content", "is_error", NULL};
	struct json_value v[4];

	json_get_many(block, known, v, 4);
	if (v[1].type != JSON_STRING)
		return bad(x, "a tool's result without a 'tool_use_id'");
	messages_lose_others(x, block, known, messages, "a tool's result");
	buf_str(x->b, "{\"role\":\"tool\",\"tool_call_id\":");
	messages_raw(x, v[1]);
	buf_str(x->b, ",\"content\":");
	if (write_result_content(x, v[2], v[3].type == JSON_TRUE) != 0)
		return -1;
	buf_str(x->b, "}");
	return 0;
}

/* Answers of tools are messages of their own, and go first. */
static int
write_user(struct reading *x, struct json_value content, bool *first)
{
	const char *it = NULL;
	struct json_value block, type;
	bool none = true;

	while (json_each(content, &it, NULL, &block)) {
		if (block_type(x, block, &type) != 0)
			return -1;
		if (!json_is(type, "tool_result"))
			continue;
		messages_comma(x, first);
		if (write_result(x, block) != 0)
			return -1;
	}
	for (it = NULL; json_each(content, &it, NULL, &block);) {
		int failed = 0;

		(void)json_get(block, "type", &type);
		if (json_is(type, "tool_result"))
			continue;
		if (none)
			messages_comma(x, first);
		buf_str(x->b, none ? "{\"role\":\"user\",\"content\":[" : ",");
		none = false;
		if (json_is(type, "text"))
			failed = write_text(x, block, messages);
		else if (json_is(type, "image"))
			failed = write_image(x, block);
		else
			write_foreign(x, block, type);
		if (failed)
			return -1;
	}
	if (!none)
		buf_str(x->b, "]}");
	return 0;
}

static int
write_call(struct reading *x, struct json_value block)
{
	static const char *const known[] = {"type", "id", "name", "input", NULL};
	struct json_value v[4];

	json_get_many(block, known, v, 4);
	if (v[1].type != JSON_STRING || v[2].type != JSON_STRING || v[3].type != JSON_OBJECT)
		return bad(x, "a 'tool_use' without its 'id', 'name' or 'input'");
	messages_lose_others(x, block, known, messages, "a 'tool_use'");
	buf_str(x->b, "{\"id\":");
	messages_raw(x, v[1]);
	buf_str(x->b, ",\"type\":\"function\",\"function\":{\"name\":");
	messages_raw(x, v[2]);
	buf_str(x->b, ",\"arguments\":");
	buf_json(x->b, v[3].p, v[3].len);
	buf_str(x->b, "}}");
	return 0;
}

static int
write_assistant(struct reading *x, struct json_value content)
{
	const char *it = NULL;
	struct json_value block, type;
	bool none = true, calls = false;

	buf_str(x->b, "{\"role\":\"assistant\",\"content\":");
	while (json_each(content, &it, NULL, &block)) {
		if (block_type(x, block, &type) != 0)
			return -1;
		if (json_is(type, "thinking") || json_is(type, "redacted_thinking"))
			continue;
		if (json_is(type, "tool_use")) {
			calls = true;
			continue;
		}
		buf_str(x->b, none ? "[" : ",");
		none = false;
		if (!json_is(type, "text"))
			write_foreign(x, block, type);
		else if (write_text(x, block, messages) != 0)
			return -1;
	}
	buf_str(x->b, none ? calls ? "null" : "\"\"" : "]");
	for (it = NULL, none = true; calls && json_each(content, &it, NULL, &block);) {
		(void)json_get(block, "type", &type);
		if (!json_is(type, "tool_use"))
			continue;
		buf_str(x->b, none ? ",\"tool_calls\":[" : ",");
		none = false;
		if (write_call(x, block) != 0)
			return -1;
	}
	buf_str(x->b, calls ? "]}" : "}");
	return 0;
}

static int
write_message(struct reading *x, struct json_value m, bool *first)
{
	static const char *const known[] = {"role", "content", NULL};
	struct json_value v[2];
	const char *it = NULL;
	struct json_value block;
	bool user;

	json_get_many(m, known, v, 2);
	user = json_is(v[0], "user");
	if (m.type != JSON_OBJECT || (!user && !json_is(v[0], "assistant")))
		return bad(x, "a message whose role is neither user nor assistant");
	messages_lose_others(x, m, known, messages, "a message");
	if (v[1].type == JSON_STRING) {
		messages_comma(x, first);
		buf_printf(x->b, "{\"role\":\"%s\",\"content\":", user ? "user" : "assistant");
		messages_raw(x, v[1]);
		buf_str(x->b, "}");
		return 0;
	}
	if (v[1].type != JSON_ARRAY || !json_each(v[1], &it, NULL, &block))
		return bad(x, "a content that is neither text nor blocks");
	if (user)
		return write_user(x, v[1], first);
	messages_comma(x, first);
	return write_assistant(x, v[1]);
}

static int
write_system(struct reading *x, struct json_value v, bool *first)
{
	const char *it = NULL;
	struct json_value block, type;
	bool none = true;

	if (v.type == JSON_NONE || (v.type == JSON_ARRAY && messages_say_nothing(v)))
		return 0;
	messages_comma(x, first);
	buf_str(x->b, "{\"role\":\"system\",\"content\":");
	if (v.type == JSON_STRING) {
		messages_raw(x, v);
	} else if (v.type == JSON_ARRAY) {
		while (json_each(v, &it, NULL, &block)) {
			if (!json_get(block, "type", &type) || !json_is(type, "text"))
				return chat_request_refuse(
				    x->f, "system", "'system' has a block that is no text");
			buf_str(x->b, none ? "[" : ",");
			none = false;
			if (write_text(x, block, "system") != 0)
				return -1;
		}
		buf_str(x->b, "]");
	} else {
		return chat_request_refuse(
		    x->f, "system", "'system' must be a text or a list of texts");
	}
	buf_str(x->b, "}");
	return 0;
}

int
messages_write(struct reading *x, struct json_value system, struct json_value list)
{
	const char *it = NULL;
	struct json_value m;
	bool first = true, none = true;

	if (list.type != JSON_ARRAY)
		return chat_request_refuse(x->f, messages, "'messages' must be an array");
	buf_str(x->b, ",\"messages\":[");
	if (write_system(x, system, &first) != 0)
		return -1;
	for (; json_each(list, &it, NULL, &m); none = false)
		if (write_message(x, m, &first) != 0)
			return -1;
	if (none)
		return chat_request_refuse(x->f, messages, "'messages' must not be empty");
	buf_str(x->b, "]");
	return 0;
}
