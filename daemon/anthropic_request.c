/*
 * A request in the dialect of Anthropic's Messages API.  Pure.
 *
 * Its messages are the user's and the assistant's; what systems and developers say stands apart,
 * all of it in front, wherever it stood.
 */
#include <string.h>

#include "daemon/anthropic.h"
#include "daemon/messages_request.h"
#include "daemon/plain_request.h"

static const struct plain_dialect dialect = {
    .name = "anthropic",
    .takes = 1u << PLAIN_TEMPERATURE | 1u << PLAIN_TOP_P | 1u << PLAIN_TOP_K | 1u << PLAIN_STOP |
             1u << PLAIN_USER | 1u << PLAIN_TOOLS | 1u << PLAIN_TOOL_CHOICE |
             1u << PLAIN_PARALLEL_TOOL_CALLS | 1u << PLAIN_THINKING,
    .temperature_max = 1,
    .parts = true,
    .image_urls = true,
};

static bool
is_blank(struct json_value text)
{
	char bytes[32];
	size_t n = 0;

	if (text.len > sizeof bytes)
		return false; /* or the provider's to refuse */
	n = json_decode(text, bytes);
	for (size_t i = 0; i < n; i++)
		if (bytes[i] != ' ' && bytes[i] != '\t' && bytes[i] != '\r' && bytes[i] != '\n')
			return false;
	return true;
}

/* Its stop sequences must hold more than white space. */
static int
check_stop(struct json_value v, struct chat_fault *f)
{
	const char *it = NULL;
	struct json_value one;
	bool blank = v.type == JSON_STRING && is_blank(v);

	while (json_each(v, &it, NULL, &one))
		blank |= is_blank(one);
	return blank ? chat_request_refuse(f, "stop",
	                   "'stop' must hold more than white space for "
	                   "a model of the anthropic dialect")
	             : 0;
}

static void
comma(struct buf *b, bool *first)
{
	if (!*first)
		buf_str(b, ",");
	*first = false;
}

static void
write_raw(struct buf *b, struct json_value v)
{
	buf_add(b, v.p, v.len);
}

static int
write_image(struct buf *b, struct json_value part, struct chat_fault *f)
{
	struct buf scratch = {0};
	struct plain_image i;
	int r = plain_image_read(&dialect, part, &scratch, &i, f);

	if (r == 0 && i.inlined) {
		buf_str(b, "{\"type\":\"image\",\"source\":{\"type\":\"base64\",\"media_type\":");
		buf_json(b, i.media.p, i.media.len);
		buf_str(b, ",\"data\":");
		buf_json(b, i.data.p, i.data.len);
		buf_str(b, "}}");
	} else if (r == 0) {
		buf_str(b, "{\"type\":\"image\",\"source\":{\"type\":\"url\",\"url\":");
		buf_json(b, i.url.p, i.url.len);
		buf_str(b, "}}");
	}
	buf_free(&scratch);
	return r;
}

/* A content's blocks, without their brackets; an empty text is none. */
static int
write_blocks(struct buf *b, struct json_value content, bool *first, struct chat_fault *f)
{
	const char *it = NULL;
	struct json_value part;

	if (content.type == JSON_STRING && content.len > 2) {
		comma(b, first);
		buf_str(b, "{\"type\":\"text\",\"text\":");
		write_raw(b, content);
		buf_str(b, "}");
	}
	while (content.type == JSON_ARRAY && json_each(content, &it, NULL, &part)) {
		comma(b, first);
		if (!plain_is_image(part))
			write_raw(b, part); /* a text looks the same in both dialects */
		else if (write_image(b, part, f) != 0)
			return -1;
	}
	return 0;
}

static int
write_calls(struct buf *b, struct json_value calls, bool *first, struct chat_fault *f)
{
	struct plain_call c = {0};
	const char *it = NULL;
	struct json_value call;
	int r = 0;

	while (r == 0 && calls.type == JSON_ARRAY && json_each(calls, &it, NULL, &call)) {
		r = plain_call_read(call, &c, f);
		if (r != 0)
			break;
		comma(b, first);
		buf_str(b, "{\"type\":\"tool_use\",\"id\":");
		write_raw(b, c.id);
		buf_str(b, ",\"name\":");
		write_raw(b, c.name);
		buf_str(b, ",\"input\":");
		buf_add(b, c.arguments.data, c.arguments.len);
		buf_str(b, "}");
	}
	buf_free(&c.arguments);
	return r;
}

/* The answers to one turn's calls are one message of the user's. */
static int
write_result(
    struct buf *b, const struct plain_message *m, bool more, bool *first, struct chat_fault *f)
{
	bool none = true;

	if (!more) {
		comma(b, first);
		buf_str(b, "{\"role\":\"user\",\"content\":[");
	} else {
		b->len -= b->failed ? 0 : 2; /* "]}" */
		buf_str(b, ",");
	}
	buf_str(b, "{\"type\":\"tool_result\",\"tool_use_id\":");
	write_raw(b, m->call_id);
	buf_str(b, ",\"content\":[");
	if (write_blocks(b, m->content, &none, f) != 0)
		return -1;
	buf_str(b, "]}]}");
	return 0;
}

static int
write_turn(struct buf *b, const struct plain_message *m, bool *first, struct chat_fault *f)
{
	bool none = true;

	comma(b, first);
	buf_printf(
	    b, "{\"role\":\"%s\",\"content\":", m->role == PLAIN_ASSISTANT ? "assistant" : "user");
	if (m->content.type == JSON_STRING && m->calls.type == JSON_NONE) {
		write_raw(b, m->content);
	} else {
		buf_str(b, "[");
		if (write_blocks(b, m->content, &none, f) != 0 ||
		    write_calls(b, m->calls, &none, f) != 0)
			return -1;
		buf_str(b, "]");
	}
	buf_str(b, "}");
	return 0;
}

static int
write_messages(const struct chat_request *r, struct buf *b, unsigned *systems, struct chat_fault *f)
{
	const char *it = NULL;
	struct json_value v;
	struct plain_message m = {.role = PLAIN_USER_SAYS, .content = r->message};
	bool first = true, results = false;

	*systems = 0;
	if (r->messages.type != JSON_ARRAY)
		return write_turn(b, &m, &first, f);
	while (json_each(r->messages, &it, NULL, &v)) {
		int failed = 0;

		if (plain_message_read(&dialect, v, &m, f) != 0)
			return -1;
		if (m.role == PLAIN_SYSTEM)
			++*systems;
		else if (m.role == PLAIN_TOOL)
			failed = write_result(b, &m, results, &first, f);
		else
			failed = write_turn(b, &m, &first, f);
		if (failed)
			return -1;
		results = m.role == PLAIN_TOOL || (results && m.role == PLAIN_SYSTEM);
	}
	if (first)
		return chat_request_refuse(f, "messages",
		    "'messages' must hold one of the user's "
		    "for a model of the anthropic dialect");
	return 0;
}

static int
write_tool(struct buf *b, struct json_value tool, struct chat_fault *f)
{
	struct plain_tool t;

	if (plain_tool_read(&dialect, tool, &t, f) != 0)
		return -1;
	buf_str(b, "{\"name\":");
	write_raw(b, t.name);
	if (t.description.type != JSON_NONE) {
		buf_str(b, ",\"description\":");
		write_raw(b, t.description);
	}
	buf_str(b, ",\"input_schema\":");
	if (t.parameters.type == JSON_NONE || t.parameters.len == 2)
		buf_str(b, "{\"type\":\"object\",\"properties\":{}}");
	else
		write_raw(b, t.parameters);
	if (t.strict.type == JSON_TRUE)
		buf_str(b, ",\"strict\":true");
	buf_str(b, "}");
	return 0;
}

static void
write_choice(struct buf *b, const struct plain_tools *t)
{
	static const char *const type[] = {[CHOICE_AUTO] = "auto",
	    [CHOICE_NONE] = "none",
	    [CHOICE_REQUIRED] = "any",
	    [CHOICE_ONE] = "tool"};

	if (!t->chosen && !t->one_at_a_time)
		return;
	buf_printf(b, "\"tool_choice\":{\"type\":\"%s\"", type[t->choice]);
	if (t->choice == CHOICE_ONE) {
		buf_str(b, ",\"name\":");
		write_raw(b, t->name);
	}
	if (t->one_at_a_time && t->choice != CHOICE_NONE)
		buf_str(b, ",\"disable_parallel_tool_use\":true");
	buf_str(b, "},");
}

static int
write_tools(struct buf *b, const struct plain_request *p, struct chat_fault *f)
{
	const char *it = NULL;
	struct json_value tool;
	struct plain_tools t;
	bool first = true;

	if (plain_tools_read(p, &t, f) != 0)
		return -1;
	if (t.list.type == JSON_NONE)
		return 0;
	buf_str(b, "\"tools\":[");
	while (json_each(t.list, &it, NULL, &tool)) {
		comma(b, &first);
		if (write_tool(b, tool, f) != 0)
			return -1;
	}
	buf_str(b, "],");
	write_choice(b, &t);
	return 0;
}

/* Each of them is a block of text, or as many as it has parts. */
static void
write_systems(const struct chat_request *r, struct buf *b)
{
	const char *it = NULL, *parts;
	struct json_value m, role, content, part;
	bool first = true;

	buf_str(b, ",\"system\":[");
	while (json_each(r->messages, &it, NULL, &m)) {
		if (!json_get(m, "role", &role) || !json_get(m, "content", &content) ||
		    !(json_is(role, "system") || json_is(role, "developer")))
			continue;
		if (content.type == JSON_STRING) {
			buf_printf(b, "%s{\"type\":\"text\",\"text\":", first ? "" : ",");
			buf_add(b, content.p, content.len);
			buf_str(b, "}");
			first = false;
		}
		for (parts = NULL; json_each(content, &parts, NULL, &part); first = false) {
			buf_str(b, first ? "" : ",");
			buf_add(b, part.p, part.len);
		}
	}
	buf_str(b, "]");
}

/* Of a client that speaks it: as it came, but for what is ours to set. */
static void
write_native(const char *upstream, const struct chat_request *r, struct buf *b)
{
	const char *it = NULL;
	struct json_value key, v;

	buf_str(b, "{\"model\":");
	buf_json(b, upstream, strlen(upstream));
	while (json_each(r->native->root, &it, &key, &v)) {
		if (json_is(key, "model") || json_is(key, "stream") || json_is(key, "max_tokens"))
			continue;
		buf_str(b, ",");
		write_raw(b, key);
		buf_str(b, ":");
		write_raw(b, v);
	}
	buf_str(b, r->whole ? ",\"stream\":false," : ",\"stream\":true,");
}

int
anthropic_write(
    const struct config *cfg, const struct chat_request *r, struct buf *b, struct chat_fault *f)
{
	const char *upstream = cfg->model[r->model].upstream;
	struct plain_request p;
	unsigned systems;

	if (r->native != NULL) {
		write_native(upstream, r, b);
		return 0;
	}
	if (plain_request_read(&dialect, r, &p, f) != 0 || check_stop(p.field[PLAIN_STOP], f) != 0)
		return -1;
	buf_str(b, "{\"model\":");
	buf_json(b, upstream, strlen(upstream));
	buf_str(b, ",\"messages\":[");
	if (write_messages(r, b, &systems, f) != 0)
		return -1;
	buf_str(b, "]");
	if (systems > 0)
		write_systems(r, b);
	buf_str(b, ",\"stream\":true,");
	plain_field_write(&p, PLAIN_TEMPERATURE, "temperature", b);
	plain_field_write(&p, PLAIN_TOP_P, "top_p", b);
	plain_field_write(&p, PLAIN_TOP_K, "top_k", b);
	plain_stop_write(&p, "stop_sequences", b);
	plain_field_write(&p, PLAIN_THINKING, "thinking", b);
	if (write_tools(b, &p, f) != 0)
		return -1;
	if (p.field[PLAIN_USER].type != JSON_NONE) {
		buf_str(b, "\"metadata\":{");
		plain_field_write(&p, PLAIN_USER, "user_id", b);
		b->len -= b->failed ? 0 : 1; /* the comma */
		buf_str(b, "},");
	}
	return 0;
}

void
anthropic_limit(struct buf *b, bool max_completion_tokens, uint32_t max_tokens)
{
	(void)max_completion_tokens;
	buf_printf(b, "\"max_tokens\":%u}", max_tokens);
}
