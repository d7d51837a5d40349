/*
 * One event of OpenAI's chat completions stream, from JSON to a delta, in one pass.  Pure.
 */
#include "daemon/openai.h"

#include <string.h>

#include "daemon/delta_read.h"
#include "daemon/json.h"
#include "daemon/utf8.h"

#define IS DELTA_KEY

/* Mistral's content in parts: {"type":"text","text"}, {"type":"thinking","thinking":[parts]}. */
static void
read_parts(struct delta_reader *c, enum delta_field to)
{
	struct json_level parts, part;
	struct json_value key;

	if (json_peek(&c->r) != JSON_ARRAY) {
		delta_read_text(c, to);
		return;
	}
	for ((void)json_enter(&c->r, JSON_ARRAY, &parts); json_next(&c->r, &parts, &key);)
		for ((void)delta_enter(c, JSON_OBJECT, &part); json_next(&c->r, &part, &key);) {
			if (IS(key, "text"))
				delta_read_text(c, to);
			else if (IS(key, "thinking"))
				read_parts(c, FIELD_REASONING);
			else
				(void)json_skip(&c->r);
		}
}

static void
read_function(struct delta_reader *c)
{
	struct json_level l;
	struct json_value key;

	for ((void)delta_enter(c, JSON_OBJECT, &l); json_next(&c->r, &l, &key);) {
		if (IS(key, "name"))
			delta_read_call(c, CALL_NAME);
		else if (IS(key, "arguments"))
			delta_read_call(c, CALL_ARGUMENTS);
		else
			(void)json_skip(&c->r);
	}
}

/* How calls were asked for before there were several. */
static void
read_function_call(struct delta_reader *c)
{
	delta_call_begin(c, 0);
	read_function(c);
	delta_call_end(c);
}

static void
read_index(struct delta_reader *c, int64_t *index)
{
	struct json_value v;

	if (json_read(&c->r, &v) && v.type != JSON_NULL && !json_int(v, index))
		c->malformed = true;
}

/* Without an index, as some send them, a call's place in the event stands for it. */
static void
read_tool_calls(struct delta_reader *c)
{
	struct json_level calls, call;
	struct json_value key;
	int64_t place = 0, index;

	for ((void)delta_enter(c, JSON_ARRAY, &calls); json_next(&c->r, &calls, &key); place++) {
		index = place;
		delta_call_begin(c, 0);
		for ((void)delta_enter(c, JSON_OBJECT, &call); json_next(&c->r, &call, &key);) {
			if (IS(key, "function"))
				read_function(c);
			else if (IS(key, "id"))
				delta_read_call(c, CALL_ID);
			else if (IS(key, "index"))
				read_index(c, &index);
			else
				(void)json_skip(&c->r);
		}
		delta_call_index(c, index < 0 ? place : index);
		delta_call_end(c);
	}
}

static void
read_delta(struct delta_reader *c)
{
	struct json_level l;
	struct json_value key;
	bool reasoned = false;

	for ((void)delta_enter(c, JSON_OBJECT, &l); json_next(&c->r, &l, &key);) {
		if (IS(key, "content")) {
			read_parts(c, FIELD_TEXT);
		} else if (IS(key, "refusal")) {
			delta_read_text(c, FIELD_REFUSAL);
		} else if (IS(key, "reasoning") || IS(key, "reasoning_content")) {
			size_t before = c->len[FIELD_REASONING];

			/* Some send the same text under both names: count it once. */
			if (reasoned)
				(void)json_skip(&c->r);
			else
				delta_read_text(c, FIELD_REASONING);
			reasoned = c->len[FIELD_REASONING] > before || reasoned;
		} else if (IS(key, "tool_calls")) {
			read_tool_calls(c);
		} else if (IS(key, "function_call")) {
			read_function_call(c);
		} else {
			(void)json_skip(&c->r);
		}
	}
}

static uint8_t
finish_of(struct delta_reader *c, struct json_value v)
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

/* The reader's state is NULL but for whole bodies: some streams repeat all so far as a message. */
static void
read_choice(struct delta_reader *c)
{
	struct json_level l;
	struct json_value key, v;
	uint8_t finish = OUTCOME_NONE;
	int64_t index = 0;
	size_t before[FIELD_OTHER];
	uint16_t low, high;
	unsigned calls = c->d->calls;

	memcpy(before, c->len, sizeof(before));
	low = c->d->low;
	high = c->d->high;
	for ((void)delta_enter(c, JSON_OBJECT, &l); json_next(&c->r, &l, &key);) {
		if (c->state == NULL ? IS(key, "delta") : IS(key, "message")) {
			read_delta(c);
		} else if (IS(key, "finish_reason")) {
			if (json_read(&c->r, &v))
				finish = finish_of(c, v);
		} else if (IS(key, "index")) {
			read_index(c, &index);
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
	c->d->low = low;
	c->d->high = high;
	c->d->calls = calls;
	for (enum delta_field f = FIELD_TEXT; f < FIELD_OTHER; f++) {
		memcpy(c->region + c->stride * FIELD_OTHER + c->len[FIELD_OTHER],
		    c->region + c->stride * f + before[f], c->len[f] - before[f]);
		c->len[FIELD_OTHER] += c->len[f] - before[f];
		c->len[f] = before[f];
	}
}

/* Counts that say of what tokens were. */
static void
read_details(struct delta_reader *c, int64_t *cached, int64_t *cache_write, int64_t *reasoning)
{
	struct json_level l;
	struct json_value key;

	if (!json_enter(&c->r, JSON_OBJECT, &l)) {
		(void)json_skip(&c->r);
		return;
	}
	while (json_next(&c->r, &l, &key)) {
		if (IS(key, "cached_tokens"))
			delta_read_count(c, cached);
		else if (IS(key, "cache_write_tokens")) /* OpenRouter */
			delta_read_count(c, cache_write);
		else if (IS(key, "reasoning_tokens"))
			delta_read_count(c, reasoning);
		else
			(void)json_skip(&c->r);
	}
}

static void
read_usage(struct delta_reader *c, struct usage *u)
{
	int64_t prompt = -1, completion = -1, total = -1, cached = -1, hit = -1, reasoning = -1;
	int64_t written = -1, none;
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
			delta_read_count(c, &prompt);
		else if (IS(key, "completion_tokens"))
			delta_read_count(c, &completion);
		else if (IS(key, "total_tokens"))
			delta_read_count(c, &total);
		else if (IS(key, "prompt_tokens_details"))
			read_details(c, &cached, &written, &none);
		else if (IS(key, "completion_tokens_details"))
			read_details(c, &none, &none, &reasoning);
		else if (IS(key, "prompt_cache_hit_tokens")) /* DeepSeek */
			delta_read_count(c, &hit);
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
	u->cache_write = written > 0 ? written : 0;
	c->d->usage_bad |= u->cached > u->prompt || u->cache_write > u->prompt - u->cached;
}

/* Groq's own: an error, and usage where it was not asked for in the usual way. */
static void
read_groq(struct delta_reader *c, struct usage *u)
{
	struct json_level l;
	struct json_value key;

	for ((void)delta_enter(c, JSON_OBJECT, &l); json_next(&c->r, &l, &key);) {
		if (IS(key, "usage"))
			read_usage(c, u);
		else if (IS(key, "error"))
			delta_read_error(c);
		else
			(void)json_skip(&c->r);
	}
}

static void
read_event(struct delta_reader *c)
{
	struct json_level l, choices;
	struct json_value key, v, message = {0};
	struct usage groq = {0};
	bool error_object = false;

	if (!json_enter(&c->r, JSON_OBJECT, &l))
		c->malformed = true;
	while (json_next(&c->r, &l, &key)) {
		if (IS(key, "choices")) {
			(void)delta_enter(c, JSON_ARRAY, &choices);
			while (json_next(&c->r, &choices, &v))
				read_choice(c);
		} else if (IS(key, "usage")) {
			read_usage(c, &c->d->usage);
		} else if (IS(key, "error")) {
			delta_read_error(c);
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
			delta_put(c, FIELD_MESSAGE, message);
	}
}

void
openai_decode(const char *data, size_t len, struct buf *scratch, struct delta *d)
{
	struct span text = delta_trim((struct span){data, len});

	if (text.len == 0 || text.p[0] != '[' || !span_eq(text, "[DONE]")) {
		delta_read(text, read_event, NULL, scratch, d);
		return;
	}
	delta_read((struct span){"", 0}, read_event, NULL, scratch, d);
	d->kind = DELTA_DONE;
}

void
openai_decode_whole(struct span body, struct buf *scratch, struct delta *d)
{
	static char whole;

	delta_read(delta_trim(body), read_event, &whole, scratch, d);
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
