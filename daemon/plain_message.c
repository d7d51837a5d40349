/*
 * OpenAI's messages and their parts, for who speaks another dialect.  Pure.
 */
#include <stdio.h>
#include <string.h>

#include "daemon/plain_request.h"

static const char messages[] = "messages";

static bool
has_text(struct json_value content)
{
	const char *it = NULL;
	struct json_value part, text;

	if (content.type == JSON_STRING)
		return content.len > 2;
	while (json_each(content, &it, NULL, &part))
		if (!plain_is_image(part) && (!json_get(part, "text", &text) || text.len <= 2))
			return false;
	return content.type == JSON_ARRAY && it != NULL;
}

bool
plain_is_image(struct json_value part)
{
	struct json_value type;

	return json_get(part, "type", &type) && json_is(type, "image_url");
}

static int
check_text_part(const struct plain_dialect *dialect, struct json_value part, struct chat_fault *f)
{
	const char *it = NULL;
	struct json_value key, v, text;

	if (!json_get(part, "text", &text) || text.type != JSON_STRING)
		return plain_refuse(dialect, messages, "a content part that is no text", f);
	/* Parts become one text: what a part says beside it would be lost. */
	while (!dialect->parts && json_each(part, &it, &key, &v))
		if (!json_is(key, "type") && !json_is(key, "text") && !plain_says_nothing(v))
			return plain_refuse_key(dialect, messages, "a content part", key, f);
	return 0;
}

static int
check_parts(
    const struct plain_dialect *dialect, const struct plain_message *m, struct chat_fault *f)
{
	const char *it = NULL;
	struct json_value part, type;

	while (m->content.type == JSON_ARRAY && json_each(m->content, &it, NULL, &part)) {
		if (!json_get(part, "type", &type) || type.type != JSON_STRING)
			return plain_refuse(dialect, messages, "a content part without a type", f);
		if (json_is(type, "text")) {
			if (check_text_part(dialect, part, f) != 0)
				return -1;
		} else if (json_is(type, "image_url")) {
			if (m->role != PLAIN_USER_SAYS)
				return plain_refuse(
				    dialect, messages, "an image that is not the user's", f);
		} else {
			return plain_refuse_key(dialect, messages, "a content part", type, f);
		}
	}
	return 0;
}

static int
read_role(const struct plain_dialect *dialect, struct json_value who, enum plain_role *role,
    struct chat_fault *f)
{
	if (json_is(who, "system") || json_is(who, "developer"))
		*role = PLAIN_SYSTEM;
	else if (json_is(who, "user"))
		*role = PLAIN_USER_SAYS;
	else if (json_is(who, "assistant"))
		*role = PLAIN_ASSISTANT;
	else if (json_is(who, "tool"))
		*role = PLAIN_TOOL;
	else
		return plain_refuse(dialect, messages, "a message of the role 'function'", f);
	return 0;
}

static int
check_message(
    const struct plain_dialect *dialect, const struct plain_message *m, struct chat_fault *f)
{
	if (m->calls.type != JSON_NONE && m->role != PLAIN_ASSISTANT)
		return plain_refuse(dialect, messages, "calls that are not the assistant's", f);
	if (m->role == PLAIN_TOOL) {
		if (m->call_id.type != JSON_STRING)
			return chat_request_refuse(
			    f, messages, "'messages' has a tool's answer without a 'tool_call_id'");
	} else if (m->call_id.type != JSON_NONE) {
		return plain_refuse(
		    dialect, messages, "a 'tool_call_id' in a message that is no tool's", f);
	} else if (!dialect->empty_messages && m->calls.type == JSON_NONE &&
	           !has_text(m->content)) {
		return plain_refuse(dialect, messages, "a message without a text", f);
	}
	return check_parts(dialect, m, f);
}

int
plain_message_read(const struct plain_dialect *dialect, struct json_value v,
    struct plain_message *m, struct chat_fault *f)
{
	const char *it = NULL;
	struct json_value key, member, who = {0};

	*m = (struct plain_message){.content = {.type = JSON_NULL, .p = "null", .len = 4}};
	while (json_each(v, &it, &key, &member)) {
		if (json_is(key, "role"))
			who = member;
		else if (json_is(key, "content"))
			m->content = member;
		else if (plain_says_nothing(member))
			continue;
		else if (json_is(key, "tool_calls") && member.type == JSON_ARRAY)
			m->calls = member;
		else if (json_is(key, "tool_call_id"))
			m->call_id = member;
		/* What the assistant thought in earlier turns: nobody asks for it again, and
		 * nobody takes it without its maker's signature. */
		else if (!json_is(key, "reasoning_content") && !json_is(key, "reasoning"))
			return plain_refuse_key(dialect, messages, "a message", key, f);
	}
	if (read_role(dialect, who, &m->role, f) != 0)
		return -1;
	return check_message(dialect, m, f);
}

static int
bad_call(struct chat_fault *f, const char *what)
{
	return chat_request_refuse(f, messages, "'messages' has a tool call %s", what);
}

int
plain_call_read(struct json_value call, struct plain_call *c, struct chat_fault *f)
{
	static const char *const keys[] = {"id", "type", "function"};
	struct json_value v[3], arguments, root;

	json_get_many(call, keys, v, 3);
	c->id = v[0];
	c->arguments.len = 0;
	if (c->id.type != JSON_STRING)
		return bad_call(f, "without an 'id'");
	if (v[1].type != JSON_NONE && !json_is(v[1], "function"))
		return bad_call(f, "that is not of the type 'function'");
	if (!json_get(v[2], "name", &c->name) || c->name.type != JSON_STRING)
		return bad_call(f, "without a name");
	if (json_get(v[2], "arguments", &arguments) && arguments.type != JSON_STRING)
		return bad_call(f, "whose 'arguments' are no text");
	json_decode_buf(arguments, &c->arguments);
	if (c->arguments.len == 0)
		buf_str(&c->arguments, "{}");
	if (c->arguments.failed) {
		*f = (struct chat_fault){
		    .status = 503, .code = "overloaded", .message = "out of memory"};
		return -1;
	}
	if (json_check(c->arguments.data, c->arguments.len, &root, NULL) != JSON_OK ||
	    root.type != JSON_OBJECT)
		return bad_call(f, "whose 'arguments' are no JSON object");
	return 0;
}

static bool
is_base64(struct span s)
{
	size_t n = s.len;

	while (n > 0 && s.len - n < 2 && s.p[n - 1] == '=')
		n--;
	for (size_t i = 0; i < n; i++) {
		char c = s.p[i];

		if (!((c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
		        c == '+' || c == '/'))
			return false;
	}
	return n > 0;
}

static bool
begins(struct span s, const char *with)
{
	size_t n = strlen(with);

	return s.len > n && memcmp(s.p, with, n) == 0;
}

/* "data:MEDIA;base64,DATA" */
static int
read_data_url(struct span url, struct plain_image *image, struct chat_fault *f)
{
	static const char mark[] = ";base64,";
	const char *p = memmem(url.p, url.len, mark, sizeof mark - 1);

	if (p == NULL)
		return chat_request_refuse(
		    f, messages, "'messages' has an image whose data URL is not in base64");
	image->inlined = true;
	image->media = (struct span){url.p + 5, (size_t)(p - url.p) - 5};
	p += sizeof mark - 1;
	image->data = (struct span){p, url.len - (size_t)(p - url.p)};
	if (!is_base64(image->data))
		return chat_request_refuse(
		    f, messages, "'messages' has an image whose data is not base64");
	return 0;
}

int
plain_image_read(const struct plain_dialect *dialect, struct json_value part, struct buf *scratch,
    struct plain_image *image, struct chat_fault *f)
{
	struct json_value whole, url = {0}, key, v;
	const char *it = NULL;
	struct span s;

	*image = (struct plain_image){0};
	if (!json_get(part, "image_url", &whole) || whole.type != JSON_OBJECT)
		return chat_request_refuse(
		    f, messages, "'messages' has an image without an 'image_url'");
	while (json_each(whole, &it, &key, &v)) {
		if (json_is(key, "url"))
			url = v;
		else if (!plain_says_nothing(v) && !(json_is(key, "detail") && json_is(v, "auto")))
			return plain_refuse_key(dialect, messages, "an image", key, f);
	}
	scratch->len = 0;
	json_decode_buf(url, scratch);
	if (scratch->failed) {
		*f = (struct chat_fault){
		    .status = 503, .code = "overloaded", .message = "out of memory"};
		return -1;
	}
	s = (struct span){scratch->data, scratch->len};
	if (begins(s, "data:"))
		return read_data_url(s, image, f);
	if (!begins(s, "https://") && !begins(s, "http://"))
		return chat_request_refuse(f, messages,
		    "'messages' has an image whose 'url' is neither a data URL nor one of the web");
	if (!dialect->image_urls)
		return plain_refuse(
		    dialect, messages, "an image by its URL, not in the request", f);
	image->url = s;
	return 0;
}
