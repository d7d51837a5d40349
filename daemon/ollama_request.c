/*
 * A request in Ollama's dialect.  Pure.
 */
#include <string.h>

#include "daemon/ollama.h"
#include "daemon/plain_request.h"

static const struct plain_dialect dialect = {
    .name = "ollama",
    .takes = 1u << PLAIN_TEMPERATURE | 1u << PLAIN_TOP_P | 1u << PLAIN_TOP_K | 1u << PLAIN_STOP |
             1u << PLAIN_SEED | 1u << PLAIN_PRESENCE_PENALTY | 1u << PLAIN_FREQUENCY_PENALTY |
             1u << PLAIN_RESPONSE_FORMAT | 1u << PLAIN_TOOLS | 1u << PLAIN_TOOL_CHOICE |
             1u << PLAIN_PARALLEL_TOOL_CALLS | 1u << PLAIN_REASONING_EFFORT,
    .temperature_max = 2,
    .empty_messages = true,
};

static void
write_raw(struct buf *b, struct json_value v)
{
	buf_add(b, v.p, v.len);
}

/* Images stand beside the text, without their media types. */
static int
write_images(struct buf *b, struct json_value content, struct chat_fault *f)
{
	struct buf scratch = {0};
	struct plain_image image;
	const char *it = NULL;
	struct json_value part;
	unsigned n = 0;
	int r = 0;

	while (r == 0 && content.type == JSON_ARRAY && json_each(content, &it, NULL, &part)) {
		if (!plain_is_image(part))
			continue;
		r = plain_image_read(&dialect, part, &scratch, &image, f);
		if (r != 0)
			break;
		buf_str(b, n++ == 0 ? ",\"images\":[" : ",");
		buf_json(b, image.data.p, image.data.len);
	}
	if (n > 0)
		buf_str(b, "]");
	buf_free(&scratch);
	return r;
}

/* The calls of the last turn that made some: an answer is told by its function's name. */
#define CALLS_MAX 128

struct asked {
	unsigned n;
	struct json_value id[CALLS_MAX], name[CALLS_MAX];
};

static int
write_calls(struct buf *b, struct json_value calls, struct asked *asked, struct chat_fault *f)
{
	struct plain_call c = {0};
	const char *it = NULL;
	struct json_value call;
	int r = 0;

	if (calls.type == JSON_NONE)
		return 0;
	asked->n = 0;
	while (r == 0 && json_each(calls, &it, NULL, &call)) {
		if (asked->n == CALLS_MAX)
			r = chat_request_refuse(f, "messages",
			    "'messages' has more than %d tool calls in a message", CALLS_MAX);
		else
			r = plain_call_read(call, &c, f);
		if (r != 0)
			break;
		buf_str(b, asked->n == 0 ? ",\"tool_calls\":[" : ",");
		asked->id[asked->n] = c.id;
		asked->name[asked->n++] = c.name;
		buf_str(b, "{\"id\":");
		write_raw(b, c.id);
		buf_str(b, ",\"function\":{\"name\":");
		write_raw(b, c.name);
		buf_str(b, ",\"arguments\":");
		buf_add(b, c.arguments.data, c.arguments.len);
		buf_str(b, "}}");
	}
	if (asked->n > 0)
		buf_str(b, "]");
	buf_free(&c.arguments);
	return r;
}

static bool
same_text(struct json_value a, struct json_value b)
{
	return a.len == b.len && memcmp(a.p, b.p, a.len) == 0;
}

static int
write_answered(struct buf *b, struct json_value id, const struct asked *asked, struct chat_fault *f)
{
	unsigned i = 0;

	while (i < asked->n && !same_text(asked->id[i], id))
		i++;
	if (i == asked->n)
		return chat_request_refuse(f, "messages",
		    "'messages' has a tool's answer with a 'tool_call_id' that the calls before "
		    "it do not have");
	buf_str(b, ",\"tool_name\":");
	write_raw(b, asked->name[i]);
	return 0;
}

static int
write_message(
    struct buf *b, const struct plain_message *m, struct asked *asked, struct chat_fault *f)
{
	static const char *const name[] = {[PLAIN_SYSTEM] = "system",
	    [PLAIN_USER_SAYS] = "user",
	    [PLAIN_ASSISTANT] = "assistant",
	    [PLAIN_TOOL] = "tool"};

	buf_printf(b, "{\"role\":\"%s\",\"content\":", name[m->role]);
	plain_content_write(m->content, b);
	if (write_images(b, m->content, f) != 0 || write_calls(b, m->calls, asked, f) != 0)
		return -1;
	if (m->role == PLAIN_TOOL && write_answered(b, m->call_id, asked, f) != 0)
		return -1;
	buf_str(b, "}");
	return 0;
}

static int
write_messages(const struct chat_request *r, struct buf *b, struct chat_fault *f)
{
	struct plain_message m = {.role = PLAIN_USER_SAYS, .content = r->message};
	const char *it = NULL;
	struct json_value v;
	struct asked asked;
	bool first = true;

	asked.n = 0;
	if (r->messages.type != JSON_ARRAY)
		return write_message(b, &m, &asked, f);
	while (json_each(r->messages, &it, NULL, &v)) {
		if (plain_message_read(&dialect, v, &m, f) != 0)
			return -1;
		if (!first)
			buf_str(b, ",");
		first = false;
		if (write_message(b, &m, &asked, f) != 0)
			return -1;
	}
	return 0;
}

static int
write_tool(struct buf *b, struct json_value tool, struct chat_fault *f)
{
	struct plain_tool t;

	if (plain_tool_read(&dialect, tool, &t, f) != 0)
		return -1;
	if (t.strict.type == JSON_TRUE)
		return plain_refuse(&dialect, "tools", "a function with 'strict'", f);
	buf_str(b, "{\"type\":\"function\",\"function\":{\"name\":");
	write_raw(b, t.name);
	if (t.description.type != JSON_NONE) {
		buf_str(b, ",\"description\":");
		write_raw(b, t.description);
	}
	buf_str(b, ",\"parameters\":");
	if (t.parameters.type == JSON_NONE || t.parameters.len == 2)
		buf_str(b, "{\"type\":\"object\",\"properties\":{}}");
	else
		write_raw(b, t.parameters);
	buf_str(b, "}}");
	return 0;
}

/* The model chooses, or is not told of them; there is no word for more. */
static int
write_tools(struct buf *b, const struct plain_request *p, struct chat_fault *f)
{
	const char *it = NULL;
	struct json_value tool;
	struct plain_tools t;
	bool first = true;

	if (plain_tools_read(p, &t, f) != 0)
		return -1;
	if (t.choice == CHOICE_REQUIRED || t.choice == CHOICE_ONE)
		return plain_refuse(&dialect, "tool_choice", "a call that must be made", f);
	if (t.one_at_a_time)
		return plain_refuse(&dialect, "parallel_tool_calls", "a false", f);
	if (t.list.type == JSON_NONE || t.choice == CHOICE_NONE)
		return 0;
	buf_str(b, "\"tools\":[");
	while (json_each(t.list, &it, NULL, &tool)) {
		if (!first)
			buf_str(b, ",");
		first = false;
		if (write_tool(b, tool, f) != 0)
			return -1;
	}
	buf_str(b, "],");
	return 0;
}

/* As Ollama's own OpenAI-style endpoint has it. */
static int
write_think(struct buf *b, const struct plain_request *p, struct chat_fault *f)
{
	struct json_value v = p->field[PLAIN_REASONING_EFFORT];

	if (v.type == JSON_NONE)
		return 0;
	if (json_is(v, "none"))
		buf_str(b, "\"think\":false,");
	else if (json_is(v, "low") || json_is(v, "medium") || json_is(v, "high"))
		plain_field_write(p, PLAIN_REASONING_EFFORT, "think", b);
	else
		return chat_request_refuse(f, "reasoning_effort",
		    "'reasoning_effort' must be none, low, medium or high for a model of the "
		    "ollama dialect");
	return 0;
}

/* "json", or a schema as it came. */
static void
write_format(const struct plain_request *p, struct buf *b)
{
	if (p->field[PLAIN_RESPONSE_FORMAT].type == JSON_STRING)
		buf_str(b, "\"format\":\"json\",");
	else
		plain_field_write(p, PLAIN_RESPONSE_FORMAT, "format", b);
}

int
ollama_write(
    const struct config *cfg, const struct chat_request *r, struct buf *b, struct chat_fault *f)
{
	const char *upstream = cfg->model[r->model].upstream;
	struct plain_request p;

	if (plain_request_read(&dialect, r, &p, f) != 0)
		return -1;
	buf_str(b, "{\"model\":");
	buf_json(b, upstream, strlen(upstream));
	buf_str(b, ",\"messages\":[");
	if (write_messages(r, b, f) != 0)
		return -1;
	buf_str(b, "],\"stream\":true,");
	write_format(&p, b);
	if (write_tools(b, &p, f) != 0 || write_think(b, &p, f) != 0)
		return -1;
	buf_str(b, "\"options\":{");
	plain_field_write(&p, PLAIN_TEMPERATURE, "temperature", b);
	plain_field_write(&p, PLAIN_TOP_P, "top_p", b);
	plain_field_write(&p, PLAIN_TOP_K, "top_k", b);
	plain_field_write(&p, PLAIN_SEED, "seed", b);
	plain_field_write(&p, PLAIN_PRESENCE_PENALTY, "presence_penalty", b);
	plain_field_write(&p, PLAIN_FREQUENCY_PENALTY, "frequency_penalty", b);
	plain_stop_write(&p, "stop", b);
	return 0;
}

void
ollama_limit(struct buf *b, bool max_completion_tokens, uint32_t max_tokens)
{
	(void)max_completion_tokens;
	buf_printf(b, "\"num_predict\":%u}}", max_tokens);
}
