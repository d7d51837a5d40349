/*
 * One event of Anthropic's Messages stream, from JSON to a delta.  Pure.
 *
 * An event's type may stand anywhere in it, but no two types use a name for different things, so
 * everything is read by its name and the type only tells the ends apart.
 */
#include "daemon/anthropic.h"

#include "daemon/delta_read.h"

#define IS DELTA_KEY

struct event {
	struct json_value type, stop_reason;
	int64_t index;                                     /* of the block that it is about */
	int64_t input, cache_read, cache_creation, output; /* -1: not said */
};

static uint8_t
finish_of(struct json_value reason)
{
	if (reason.type != JSON_STRING)
		return OUTCOME_NONE;
	if (IS(reason, "max_tokens") || IS(reason, "model_context_window_exceeded"))
		return OUTCOME_LENGTH;
	if (IS(reason, "tool_use"))
		return OUTCOME_TOOL_CALLS;
	if (IS(reason, "refusal"))
		return OUTCOME_CONTENT_FILTER;
	return OUTCOME_STOP; /* end_turn, stop_sequence, pause_turn */
}

static void
read_usage(struct delta_reader *c, struct event *e)
{
	struct json_level l;
	struct json_value key;

	for ((void)delta_enter(c, JSON_OBJECT, &l); json_next(&c->r, &l, &key);) {
		if (IS(key, "input_tokens"))
			delta_read_count(c, &e->input);
		else if (IS(key, "output_tokens"))
			delta_read_count(c, &e->output);
		else if (IS(key, "cache_read_input_tokens"))
			delta_read_count(c, &e->cache_read);
		else if (IS(key, "cache_creation_input_tokens"))
			delta_read_count(c, &e->cache_creation);
		else
			(void)json_skip(&c->r);
	}
}

static void
read_message(struct delta_reader *c, struct event *e)
{
	struct json_level l;
	struct json_value key;

	for ((void)delta_enter(c, JSON_OBJECT, &l); json_next(&c->r, &l, &key);) {
		if (IS(key, "usage"))
			read_usage(c, e);
		else
			(void)json_skip(&c->r);
	}
}

/* What a block's beginning says of its input is {}, but with some gateways all of it. */
static void
read_input(struct delta_reader *c)
{
	struct json_value v, member;
	const char *it = NULL;

	if (json_peek(&c->r) != JSON_OBJECT) {
		(void)json_skip(&c->r);
		return;
	}
	if (json_read(&c->r, &v) && v.len > 2 && json_each(v, &it, NULL, &member))
		delta_put_call(c, CALL_ARGUMENTS, v);
}

/* A delta, or a block that begins: text, thinking and calls; signatures and citations are not
 * what the model said. */
static void
read_delta(struct delta_reader *c, struct event *e)
{
	struct json_level l;
	struct json_value key;

	for ((void)delta_enter(c, JSON_OBJECT, &l); json_next(&c->r, &l, &key);) {
		if (IS(key, "text"))
			delta_read_text(c, FIELD_TEXT);
		else if (IS(key, "thinking"))
			delta_read_text(c, FIELD_REASONING);
		else if (IS(key, "partial_json"))
			delta_read_call(c, CALL_ARGUMENTS);
		else if (IS(key, "name"))
			delta_read_call(c, CALL_NAME);
		else if (IS(key, "id"))
			delta_read_call(c, CALL_ID);
		else if (IS(key, "input"))
			read_input(c);
		else if (IS(key, "stop_reason"))
			(void)json_read(&c->r, &e->stop_reason);
		else
			(void)json_skip(&c->r);
	}
}

static void
note_start(struct anthropic *a, const struct event *e)
{
	a->input = e->input > 0 ? e->input : 0;
	a->cache_read = e->cache_read > 0 ? e->cache_read : 0;
	a->cache_creation = e->cache_creation > 0 ? e->cache_creation : 0;
}

/* The last word: what message_delta leaves out was said at the start, and none may go down. */
static void
last_usage(const struct anthropic *a, const struct event *e, struct delta *d)
{
	int64_t input = e->input >= 0 ? e->input : a->input;
	int64_t cached = e->cache_read >= 0 ? e->cache_read : a->cache_read;
	int64_t creation = e->cache_creation >= 0 ? e->cache_creation : a->cache_creation;

	if (e->output < 0)
		return;
	d->usage_bad |= input + cached + creation < a->input + a->cache_read + a->cache_creation;
	d->usage = (struct usage){.present = true,
	    .prompt = input + cached + creation,
	    .cached = cached,
	    .cache_write = creation,
	    .completion = e->output};
}

static void
read_event(struct delta_reader *c)
{
	struct event e = {.input = -1, .cache_read = -1, .cache_creation = -1, .output = -1};
	struct json_level l;
	struct json_value key, v;

	delta_call_begin(c, 0);
	if (!json_enter(&c->r, JSON_OBJECT, &l))
		c->malformed = true;
	while (json_next(&c->r, &l, &key)) {
		if (IS(key, "type"))
			(void)json_read(&c->r, &e.type);
		else if (IS(key, "delta") || IS(key, "content_block"))
			read_delta(c, &e);
		else if (IS(key, "message") && json_peek(&c->r) == JSON_OBJECT)
			read_message(c, &e);
		else if (IS(key, "usage"))
			read_usage(c, &e);
		else if (IS(key, "index") && json_peek(&c->r) == JSON_NUMBER)
			(void)(json_read(&c->r, &v) && json_int(v, &e.index));
		else if (IS(key, "error"))
			delta_read_error(c);
		else
			(void)json_skip(&c->r);
	}
	delta_call_index(c, e.index < 0 ? 0 : e.index);
	delta_call_end(c);
	if (c->r.error != JSON_OK || c->malformed)
		return;
	if (IS(e.type, "message_start")) {
		note_start(c->state, &e);
	} else if (IS(e.type, "message_delta")) {
		c->d->finish = finish_of(e.stop_reason);
		last_usage(c->state, &e, c->d);
	} else if (IS(e.type, "message_stop")) {
		c->d->kind = DELTA_DONE;
	} else if (IS(e.type, "error")) {
		c->error = true;
	}
}

void
anthropic_decode(struct anthropic *a, struct span data, struct buf *scratch, struct delta *d)
{
	struct span text = delta_trim(data);

	/* What some gateways append, as OpenAI does: no end mark here, and no fault. */
	if (span_eq(text, "[DONE]"))
		text.len = 0;
	delta_read(text, read_event, a, scratch, d);
}

static void
read_content(struct delta_reader *c, struct event *e)
{
	struct json_level blocks;
	struct json_value key;
	int64_t index = 0;

	for ((void)delta_enter(c, JSON_ARRAY, &blocks); json_next(&c->r, &blocks, &key); index++) {
		delta_call_begin(c, index);
		read_delta(c, e);
		delta_call_end(c);
	}
}

static void
read_whole(struct delta_reader *c)
{
	static const struct anthropic nothing;
	struct event e = {.input = -1, .cache_read = -1, .cache_creation = -1, .output = -1};
	struct json_level l;
	struct json_value key;

	if (!json_enter(&c->r, JSON_OBJECT, &l))
		c->malformed = true;
	while (json_next(&c->r, &l, &key)) {
		if (IS(key, "content"))
			read_content(c, &e);
		else if (IS(key, "stop_reason"))
			(void)json_read(&c->r, &e.stop_reason);
		else if (IS(key, "usage"))
			read_usage(c, &e);
		else if (IS(key, "error"))
			delta_read_error(c);
		else
			(void)json_skip(&c->r);
	}
	if (c->r.error != JSON_OK || c->malformed)
		return;
	c->d->finish = finish_of(e.stop_reason);
	last_usage(&nothing, &e, c->d);
}

void
anthropic_decode_whole(struct span body, struct buf *scratch, struct delta *d)
{
	delta_read(delta_trim(body), read_whole, NULL, scratch, d);
}
