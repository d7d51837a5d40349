/*
 * One line of Ollama's /api/chat, from JSON to a delta.  Pure.
 *
 * The counts and durations come in the last line: prompt_eval_count is the whole prompt,
 * eval_count all output, thinking included.  It says nothing of its cache.
 */
#include "daemon/ollama.h"

#include "daemon/delta_read.h"

#define IS DELTA_KEY

static void
read_function(struct delta_reader *c)
{
	struct json_level l;
	struct json_value key;

	for ((void)delta_enter(c, JSON_OBJECT, &l); json_next(&c->r, &l, &key);) {
		if (IS(key, "name"))
			delta_read_call(c, CALL_NAME);
		else if (IS(key, "arguments"))
			delta_read_call(c, CALL_ARGUMENTS); /* an object */
		else
			(void)json_skip(&c->r);
	}
}

/* Each is complete; newer servers give them an id. */
static void
read_tool_calls(struct delta_reader *c)
{
	struct json_level calls, call;
	struct json_value key;

	for ((void)delta_enter(c, JSON_ARRAY, &calls); json_next(&c->r, &calls, &key);) {
		delta_call_begin(c, DELTA_CALL_WHOLE);
		for ((void)delta_enter(c, JSON_OBJECT, &call); json_next(&c->r, &call, &key);) {
			if (IS(key, "function"))
				read_function(c);
			else if (IS(key, "id"))
				delta_read_call(c, CALL_ID);
			else
				(void)json_skip(&c->r);
		}
		delta_call_end(c);
	}
}

static void
read_message(struct delta_reader *c)
{
	struct json_level l;
	struct json_value key;

	for ((void)delta_enter(c, JSON_OBJECT, &l); json_next(&c->r, &l, &key);) {
		if (IS(key, "content"))
			delta_read_text(c, FIELD_TEXT);
		else if (IS(key, "thinking"))
			delta_read_text(c, FIELD_REASONING);
		else if (IS(key, "tool_calls"))
			read_tool_calls(c);
		else
			(void)json_skip(&c->r);
	}
}

static void
read_line(struct delta_reader *c)
{
	struct json_level l;
	struct json_value key, v, reason = {0};
	int64_t prompt = -1, completion = -1;
	bool done = false;

	if (!json_enter(&c->r, JSON_OBJECT, &l))
		c->malformed = true;
	while (json_next(&c->r, &l, &key)) {
		if (IS(key, "message"))
			read_message(c);
		else if (IS(key, "done"))
			done = json_read(&c->r, &v) && v.type == JSON_TRUE;
		else if (IS(key, "done_reason"))
			(void)json_read(&c->r, &reason);
		else if (IS(key, "prompt_eval_count"))
			delta_read_count(c, &prompt);
		else if (IS(key, "eval_count"))
			delta_read_count(c, &completion);
		else if (IS(key, "error"))
			delta_read_error(c);
		else
			(void)json_skip(&c->r);
	}
	/* A failed document leaves no trace of this: delta_read starts over. */
	if (!done)
		return;
	c->d->kind = DELTA_DONE;
	c->d->finish = IS(reason, "length") ? OUTCOME_LENGTH : OUTCOME_STOP;
	if (prompt >= 0 || completion >= 0)
		c->d->usage = (struct usage){.present = true,
		    .prompt = prompt > 0 ? prompt : 0,
		    .completion = completion > 0 ? completion : 0};
}

void
ollama_decode(struct span line, struct buf *scratch, struct delta *d)
{
	delta_read(delta_trim(line), read_line, NULL, scratch, d);
}
