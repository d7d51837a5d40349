/*
 * One event of OpenAI's chat completions stream, from JSON to a delta, in one pass.  Pure.
 *
 * The scratch buffer has a region for each field, as long as the event itself, so pieces of a
 * field that lie apart in the event (parts, tool calls, choices) join without being moved.
 */
#include "daemon/openai.h"

#include <string.h>

#include "daemon/json.h"
#include "daemon/utf8.h"

enum field { TEXT, REFUSAL, REASONING, TOOL, OTHER, MESSAGE, FIELDS };

struct decoder {
	struct json_reader r;
	struct delta *d;
	char *region;       /* FIELDS regions of `stride` bytes */
	size_t stride;
	size_t len[FIELDS]; /* used of each */
	bool malformed;     /* JSON, but not of this shape */
	bool error;         /* the provider said so */
};

#define IS(key, literal) json_is_bytes(key, JSON_LITERAL(literal))

static void
put(struct decoder *c, enum field to, struct json_value v)
{
	char *at = c->region + c->stride * to + c->len[to];

	if (v.type == JSON_STRING) {
		c->len[to] += json_decode(v, at);
	} else {
		memcpy(at, v.p, v.len);
		c->len[to] += v.len;
	}
}

/* Strings become text; null is nothing; anything else is not what it should be. */
static void
read_text(struct decoder *c, enum field to)
{
	struct json_value v;

	if (!json_read(&c->r, &v))
		return;
	if (v.type == JSON_STRING)
		put(c, to, v);
	else if (v.type != JSON_NULL)
		c->malformed = true;
}

/* Enter an object or array; null, where such a thing is optional, is skipped. */
static bool
enter(struct decoder *c, enum json_type type, struct json_level *l)
{
	if (json_enter(&c->r, type, l))
		return true;
	if (json_peek(&c->r) != JSON_NULL)
		c->malformed = true;
	(void)json_skip(&c->r);
	return false;
}

/* Mistral's content in parts: {"type":"text","text"}, {"type":"thinking","thinking":[parts]}. */
static void
read_parts(struct decoder *c, enum field to)
{
	struct json_level parts, part;
	struct json_value key;

	if (json_peek(&c->r) != JSON_ARRAY) {
		read_text(c, to);
		return;
	}
	for ((void)json_enter(&c->r, JSON_ARRAY, &parts); json_next(&c->r, &parts, &key);)
		for ((void)enter(c, JSON_OBJECT, &part); json_next(&c->r, &part, &key);) {
			if (IS(key, "text"))
				read_text(c, to);
			else if (IS(key, "thinking"))
				read_parts(c, REASONING);
			else
				(void)json_skip(&c->r);
		}
}

static void
read_function(struct decoder *c)
{
	struct json_level l;
	struct json_value key, v;

	for ((void)enter(c, JSON_OBJECT, &l); json_next(&c->r, &l, &key);) {
		if (IS(key, "name"))
			read_text(c, TOOL);
		else if (!IS(key, "arguments"))
			(void)json_skip(&c->r);
		else if (json_read(&c->r, &v) && v.type != JSON_NULL)
			put(c, TOOL, v); /* some send the object itself */
	}
}

static void
read_tool_calls(struct decoder *c)
{
	struct json_level calls, call;
	struct json_value key;

	for ((void)enter(c, JSON_ARRAY, &calls); json_next(&c->r, &calls, &key);)
		for ((void)enter(c, JSON_OBJECT, &call); json_next(&c->r, &call, &key);) {
			if (IS(key, "function"))
				read_function(c);
			else
				(void)json_skip(&c->r);
		}
}

static void
read_delta(struct decoder *c)
{
	struct json_level l;
	struct json_value key;
	bool reasoned = false;

	for ((void)enter(c, JSON_OBJECT, &l); json_next(&c->r, &l, &key);) {
		if (IS(key, "content")) {
			read_parts(c, TEXT);
		} else if (IS(key, "refusal")) {
			read_text(c, REFUSAL);
		} else if (IS(key, "reasoning") || IS(key, "reasoning_content")) {
			size_t before = c->len[REASONING];

			/* Some send the same text under both names: count it once. */
			if (reasoned)
				(void)json_skip(&c->r);
			else
				read_text(c, REASONING);
			reasoned = c->len[REASONING] > before || reasoned;
		} else if (IS(key, "tool_calls")) {
			read_tool_calls(c);
		} else if (IS(key, "function_call")) {
			read_function(c);
		} else {
			(void)json_skip(&c->r);
		}
	}
}

static uint8_t
finish_of(struct decoder *c, struct json_value v)
{
	if (v.type != JSON_STRING || v.len == 2)
		return OUTCOME_NONE;
	if (IS(v, "length") || IS(v, "model_length") || IS(v, "max_tokens"))
		return OUTCOME_LENGTH;
	if (IS(v, "tool_calls") || IS(v, "function_call"))
		return OUTCOME_TOOL_CALLS;
	if (IS(v, "content_filter"))
		return OUTCOME_CONTENT_FILTER;
	if (IS(v, "error") || IS(v, "abort") || IS(v, "insufficient_system_resource")) {
		c->error = true;
		return OUTCOME_NONE;
	}
	return OUTCOME_STOP;
}

static void
read_choice(struct decoder *c)
{
	struct json_level l;
	struct json_value key, v;
	uint8_t finish = OUTCOME_NONE;
	int64_t index = 0;
	size_t before[OTHER];

	memcpy(before, c->len, sizeof(before));
	for ((void)enter(c, JSON_OBJECT, &l); json_next(&c->r, &l, &key);) {
		if (IS(key, "delta")) {
			read_delta(c);
		} else if (IS(key, "finish_reason")) {
			if (json_read(&c->r, &v))
				finish = finish_of(c, v);
		} else if (IS(key, "index")) {
			if (json_read(&c->r, &v) && v.type != JSON_NULL && !json_int(v, &index))
				c->malformed = true;
		} else {
			(void)json_skip(&c->r);
		}
	}
	if (index == 0) {
		if (finish != OUTCOME_NONE)
			c->d->finish = finish;
		return;
	}
	/* Whose it was may come last: move what it said. */
	for (enum field f = TEXT; f < OTHER; f++) {
		memcpy(c->region + c->stride * OTHER + c->len[OTHER],
		    c->region + c->stride * f + before[f], c->len[f] - before[f]);
		c->len[OTHER] += c->len[f] - before[f];
		c->len[f] = before[f];
	}
}

/* A count of tokens; -1 where it is absent. */
static void
read_count(struct decoder *c, int64_t *count)
{
	struct json_value v;

	if (!json_read(&c->r, &v) || v.type == JSON_NULL)
		return;
	if (!json_int(v, count) || *count < 0 || *count > UINT32_MAX)
		c->d->usage_bad = true;
}

static void
read_detail(struct decoder *c, const char *name, size_t len, int64_t *count)
{
	struct json_level l;
	struct json_value key;

	if (!json_enter(&c->r, JSON_OBJECT, &l)) {
		(void)json_skip(&c->r);
		return;
	}
	while (json_next(&c->r, &l, &key)) {
		if (json_is_bytes(key, name, len))
			read_count(c, count);
		else
			(void)json_skip(&c->r);
	}
}

static void
read_usage(struct decoder *c, struct usage *u)
{
	int64_t prompt = -1, completion = -1, total = -1, cached = -1, hit = -1, reasoning = -1;
	struct json_level l;
	struct json_value key;

	*u = (struct usage){0};
	if (!json_enter(&c->r, JSON_OBJECT, &l)) {
		enum json_type here = json_peek(&c->r);

		c->d->usage_bad |= here != JSON_NULL && here != JSON_FALSE;
		(void)json_skip(&c->r);
		return;
	}
	while (json_next(&c->r, &l, &key)) {
		if (IS(key, "prompt_tokens"))
			read_count(c, &prompt);
		else if (IS(key, "completion_tokens"))
			read_count(c, &completion);
		else if (IS(key, "total_tokens"))
			read_count(c, &total);
		else if (IS(key, "prompt_tokens_details"))
			read_detail(c, JSON_LITERAL("cached_tokens"), &cached);
		else if (IS(key, "completion_tokens_details"))
			read_detail(c, JSON_LITERAL("reasoning_tokens"), &reasoning);
		else if (IS(key, "prompt_cache_hit_tokens")) /* DeepSeek */
			read_count(c, &hit);
		else
			(void)json_skip(&c->r);
	}
	if (prompt < 0 && completion < 0)
		return;
	u->present = true;
	u->prompt = prompt > 0 ? prompt : 0;
	u->completion = completion > 0 ? completion : 0;
	u->cached = cached >= 0 ? cached : hit > 0 ? hit : 0;
	u->reasoning = reasoning > 0 ? reasoning : 0;
	/* xAI counts reasoning beside the completion; its total tells. */
	if (u->reasoning > 0 && total == u->prompt + u->completion + u->reasoning)
		u->completion += u->reasoning;
	c->d->usage_bad |= u->cached > u->prompt;
}

/* An error: an object with a message, or just a text. */
static void
read_error(struct decoder *c)
{
	struct json_level l;
	struct json_value key;
	enum json_type here = json_peek(&c->r);
	size_t before = c->len[MESSAGE];

	if (here == JSON_STRING) {
		read_text(c, MESSAGE);
		c->error |= c->len[MESSAGE] > before;
	} else if (json_enter(&c->r, JSON_OBJECT, &l)) {
		c->error = true;
		while (json_next(&c->r, &l, &key)) {
			if (IS(key, "message") && json_peek(&c->r) == JSON_STRING)
				read_text(c, MESSAGE);
			else
				(void)json_skip(&c->r);
		}
	} else {
		c->error |= here != JSON_NULL && here != JSON_FALSE;
		(void)json_skip(&c->r);
	}
}

/* Groq's own: an error, and usage where it was not asked for in the usual way. */
static void
read_groq(struct decoder *c, struct usage *u)
{
	struct json_level l;
	struct json_value key;

	for ((void)enter(c, JSON_OBJECT, &l); json_next(&c->r, &l, &key);) {
		if (IS(key, "usage"))
			read_usage(c, u);
		else if (IS(key, "error"))
			read_error(c);
		else
			(void)json_skip(&c->r);
	}
}

static void
read_event(struct decoder *c)
{
	struct json_level l, choices;
	struct json_value key, v, message = {0};
	struct usage groq = {0};
	bool error_object = false;

	if (!json_enter(&c->r, JSON_OBJECT, &l))
		c->malformed = true;
	while (json_next(&c->r, &l, &key)) {
		if (IS(key, "choices")) {
			(void)enter(c, JSON_ARRAY, &choices);
			while (json_next(&c->r, &choices, &v))
				read_choice(c);
		} else if (IS(key, "usage")) {
			read_usage(c, &c->d->usage);
		} else if (IS(key, "error")) {
			read_error(c);
		} else if (IS(key, "message")) {
			(void)json_read(&c->r, &message);
		} else if (IS(key, "object")) {
			error_object = json_read(&c->r, &v) && IS(v, "error");
		} else if (IS(key, "x_groq")) {
			read_groq(c, &groq);
		} else {
			(void)json_skip(&c->r);
		}
	}
	if (!c->d->usage.present && groq.present)
		c->d->usage = groq;
	/* vLLM's older form: {"object":"error","message":...}. */
	if (error_object && c->r.error == JSON_OK) {
		c->error = true;
		if (message.type == JSON_STRING)
			put(c, MESSAGE, message);
	}
}

static struct span
region(const struct decoder *c, enum field f)
{
	return (struct span){c->len[f] > 0 ? c->region + c->stride * f : "", c->len[f]};
}

/* Decode a text with room for its fields in scratch.  JSON_OK if it is JSON. */
static enum json_error
decode(struct decoder *c, const char *text, size_t len)
{
	enum json_error error;

	memset(c->len, 0, sizeof(c->len));
	c->malformed = c->error = false;
	*c->d = (struct delta){.utf8_repaired = c->d->utf8_repaired};
	json_read_init(&c->r, text, len);
	read_event(c);
	error = json_read_end(&c->r);
	if (error != JSON_OK || c->malformed) {
		*c->d = (struct delta){.kind = DELTA_INVALID,
		    .no_memory = error == JSON_NOMEM,
		    .utf8_repaired = c->d->utf8_repaired};
		memset(c->len, 0, sizeof(c->len));
	}
	return error;
}

static bool
make_room(struct decoder *c, struct buf *scratch, size_t len)
{
	c->stride = len;
	c->region = len <= SIZE_MAX / FIELDS ? buf_reserve(scratch, len * FIELDS) : NULL;
	return c->region != NULL;
}

/* The same after invalid UTF-8 became U+FFFD: the rest of the event is still wanted. */
static bool
decode_repaired(struct decoder *c, const char *data, size_t len, struct buf *scratch)
{
	utf8_repair(scratch, data, len);
	len = scratch->len;
	if (scratch->failed || !make_room(c, scratch, len))
		return false;
	c->d->utf8_repaired = true;
	(void)decode(c, scratch->data, len);
	return true;
}

static struct span
trim(const char *p, size_t len)
{
	while (len > 0 && (p[0] == ' ' || p[0] == '\t' || p[0] == '\r' || p[0] == '\n')) {
		p++;
		len--;
	}
	while (len > 0 && strchr(" \t\r\n", p[len - 1]) != NULL && p[len - 1] != '\0')
		len--;
	return (struct span){p, len};
}

static void
publish(struct decoder *c)
{
	struct delta *d = c->d;

	d->text = region(c, TEXT);
	d->refusal = region(c, REFUSAL);
	d->reasoning = region(c, REASONING);
	d->tool_arguments = region(c, TOOL);
	d->other = region(c, OTHER);
	d->message = region(c, MESSAGE);
	if (d->usage_bad)
		d->usage = (struct usage){0};
	if (d->kind != DELTA_EMPTY)
		return;
	if (c->error)
		d->kind = DELTA_ERROR;
	else if (d->finish != OUTCOME_NONE || d->usage.present || d->usage_bad ||
	    (c->len[TEXT] | c->len[REFUSAL] | c->len[REASONING] | c->len[TOOL] |
	        c->len[OTHER]) != 0)
		d->kind = DELTA_PART;
}

void
openai_decode(const char *data, size_t len, struct buf *scratch, struct delta *d)
{
	struct span text = trim(data, len);
	struct decoder c;
	bool room = true;

	c.d = d;
	*d = (struct delta){.kind = DELTA_EMPTY};
	scratch->len = 0;
	scratch->failed = false; /* memory may be back */
	if (text.len > 0 && text.p[0] == '[' && span_eq(text, "[DONE]"))
		d->kind = DELTA_DONE;
	memset(c.len, 0, sizeof(c.len));
	c.error = false;
	c.region = NULL;
	c.stride = 0;
	if (d->kind != DELTA_DONE && text.len > 0) {
		room = make_room(&c, scratch, text.len);
		if (room && decode(&c, text.p, text.len) == JSON_UTF8)
			room = decode_repaired(&c, text.p, text.len, scratch);
	}
	if (!room) {
		*d = (struct delta){.kind = DELTA_INVALID, .no_memory = true};
		memset(c.len, 0, sizeof(c.len));
	}
	publish(&c);
}

struct span
openai_error_message(const char *body, size_t len, struct buf *scratch)
{
	struct span text = SPAN("");
	struct json_value root, v, m;
	struct buf whole = {0};
	const char *it = NULL;

	scratch->len = 0;
	utf8_repair(&whole, body, len);
	if (!whole.failed && json_check(whole.data, whole.len, &root, NULL) == JSON_OK) {
		/* Some wrap it: [{"error":...}]. */
		if (root.type == JSON_ARRAY && !json_each(root, &it, NULL, &root))
			root = (struct json_value){0};
		if (json_get(root, "error", &v) && v.type == JSON_OBJECT)
			(void)json_get(v, "message", &v);
		else if (v.type != JSON_STRING && !json_get(root, "message", &v) &&
		    json_get(root, "detail", &m))
			v = m;
		json_decode_buf(v, scratch);
		if (!scratch->failed && scratch->len > 0)
			text = (struct span){scratch->data, scratch->len};
	}
	buf_free(&whole);
	return text;
}
