/*
 * Answers in Anthropic's words, of providers that speak another dialect.  Pure.
 *
 * Whole, `content` holds the blocks so far, the last one without its end; and of a call that is
 * open `input` holds what is said of its arguments, which must be an object when it is written.
 */
#include <string.h>

#include "daemon/api.h"
#include "daemon/json.h"

static const char *
reason(uint8_t outcome)
{
	switch (outcome) {
	case OUTCOME_LENGTH:
	case OUTCOME_CREDIT:
	case OUTCOME_CANCELLED:
		return "max_tokens";
	case OUTCOME_TOOL_CALLS:
		return "tool_use";
	case OUTCOME_CONTENT_FILTER:
		return "refusal";
	default:
		return "end_turn";
	}
}

static void
event(struct buf *b, const char *type)
{
	buf_printf(b, "event: %s\ndata: {\"type\":\"%s\"", type, type);
}

static void
usage(struct buf *b, uint32_t prompt, uint32_t cached, uint32_t completion)
{
	buf_printf(b,
	    ",\"usage\":{\"input_tokens\":%u,\"cache_creation_input_tokens\":0,"
	    "\"cache_read_input_tokens\":%u,\"output_tokens\":%u}",
	    prompt - cached, cached, completion);
}

/* A message up to its content. */
static void
message(struct buf *b, const struct emit_stream *es)
{
	buf_str(b, "{\"id\":\"msg_");
	buf_json_bare(b, es->stream_id, strlen(es->stream_id));
	buf_str(b, "\",\"type\":\"message\",\"role\":\"assistant\",\"model\":");
	buf_json(b, es->model, strlen(es->model));
	buf_str(b, ",\"content\":[");
}

static void
begin(struct buf *b, const struct emit_stream *es, struct answer *a)
{
	if (!a->at.begun && !a->whole) {
		event(b, "message_start");
		buf_str(b, ",\"message\":");
		message(b, es);
		buf_str(b, "],\"stop_reason\":null,\"stop_sequence\":null");
		usage(b, es->prompt_tokens, 0, 0);
		buf_str(b, "}}\n\nevent: ping\ndata: {\"type\":\"ping\"}\n\n");
	}
	a->at.begun = true;
}

/* Half of an object is none: a call that was cut keeps nothing of it. */
static void
put_input(struct answer *a)
{
	struct json_value root;

	if (a->input.len > 0 && !a->input.failed &&
	    json_check(a->input.data, a->input.len, &root, NULL) == JSON_OK &&
	    root.type == JSON_OBJECT)
		buf_add(&a->content, root.p, root.len);
	else
		buf_str(&a->content, "{}");
	a->input.len = 0;
}

static void
end_block(struct buf *b, struct answer *a)
{
	if (a->at.open == OPEN_NONE)
		return;
	if (!a->whole) {
		event(b, "content_block_stop");
		buf_printf(b, ",\"index\":%u}\n\n", a->at.blocks - 1);
	} else if (a->at.open == OPEN_CALL) {
		put_input(a);
		buf_str(&a->content, "}");
	} else {
		buf_str(&a->content, a->at.open == OPEN_TEXT ? "\"}" : "\",\"signature\":\"\"}");
	}
	a->at.open = OPEN_NONE;
}

/* A block of text or thoughts. */
static void
begin_block(struct buf *b, struct answer *a, enum answer_open kind)
{
	const char *name = kind == OPEN_TEXT ? "text" : "thinking";

	end_block(b, a);
	a->at.open = (uint8_t)kind;
	a->at.blocks++;
	if (a->whole) {
		buf_printf(&a->content, "%s{\"type\":\"%s\",\"%s\":\"", a->at.blocks > 1 ? "," : "",
		    name, name);
		return;
	}
	event(b, "content_block_start");
	buf_printf(b, ",\"index\":%u,\"content_block\":{\"type\":\"%s\",\"%s\":\"\"%s}}\n\n",
	    a->at.blocks - 1, name, name, kind == OPEN_TEXT ? "" : ",\"signature\":\"\"");
}

static void
begin_call(
    struct buf *b, const struct emit_stream *es, struct answer *a, const struct answer_piece *p)
{
	struct buf *to = a->whole ? &a->content : b;

	end_block(b, a);
	answer_begin_call(a, p);
	if (a->whole) {
		buf_str(to, a->at.blocks > 1 ? "," : "");
	} else {
		event(to, "content_block_start");
		buf_printf(to, ",\"index\":%u,\"content_block\":", a->at.blocks - 1);
	}
	buf_str(to, "{\"type\":\"tool_use\",\"id\":");
	answer_call_id(to, a, p, "toolu_", es->message_id);
	buf_str(to, ",\"name\":");
	buf_json(to, p->name.p, p->name.len);
	buf_str(to, a->whole ? ",\"input\":" : ",\"input\":{}}}\n\n");
}

static void
delta(struct buf *b, const struct answer *a, const char *type, const char *member, struct span s)
{
	event(b, "content_block_delta");
	buf_printf(
	    b, ",\"index\":%u,\"delta\":{\"type\":\"%s\",\"%s\":", a->at.blocks - 1, type, member);
	buf_json(b, s.p, s.len);
	buf_str(b, "}}\n\n");
}

static bool
say_call(
    struct buf *b, const struct emit_stream *es, struct answer *a, const struct answer_piece *p)
{
	if (!answer_continues(a, p)) {
		if (p->name.len == 0)
			return p->text.len == 0; /* an id ahead of its name */
		begin_call(b, es, a, p);
	}
	if (a->whole)
		buf_span(&a->input, p->text);
	else if (p->text.len > 0)
		delta(b, a, "input_json_delta", "partial_json", p->text);
	return true;
}

bool
answer_anthropic_say(
    struct buf *b, const struct emit_stream *es, struct answer *a, const struct answer_piece *p)
{
	enum answer_open kind = p->kind == ANSWER_TEXT ? OPEN_TEXT : OPEN_THINKING;

	begin(b, es, a);
	if (p->kind == ANSWER_CALL)
		return say_call(b, es, a, p);
	if (p->text.len == 0)
		return true;
	if (a->at.open != kind)
		begin_block(b, a, kind);
	if (a->whole)
		buf_json_bare(&a->content, p->text.p, p->text.len);
	else if (kind == OPEN_TEXT)
		delta(b, a, "text_delta", "text", p->text);
	else
		delta(b, a, "thinking_delta", "thinking", p->text);
	return true;
}

/* How it ended.  Not every provider says that it stopped for its calls. */
static void
put_end(struct buf *b, const struct answer *a, const struct emit_end *e)
{
	struct emit_end end = *e;

	if (end.outcome == OUTCOME_STOP && a->calls > 0)
		end.outcome = OUTCOME_TOOL_CALLS;
	buf_printf(b, "\"stop_reason\":\"%s\",\"stop_sequence\":null", reason(end.outcome));
}

void
answer_anthropic_end(
    struct buf *b, const struct emit_stream *es, struct answer *a, const struct emit_end *e)
{
	begin(b, es, a);
	end_block(b, a);
	event(b, "message_delta");
	buf_str(b, ",\"delta\":{");
	put_end(b, a, e);
	buf_str(b, "}");
	usage(b, e->prompt_tokens, e->cached_tokens, e->completion_tokens);
	emit_tolld(b, e);
	buf_str(b, "}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n");
}

void
answer_anthropic_whole(
    struct buf *b, const struct emit_stream *es, struct answer *a, const struct emit_end *e)
{
	end_block(b, a);
	message(b, es);
	buf_add(b, a->content.data, a->content.len);
	buf_str(b, "],");
	put_end(b, a, e);
	usage(b, e->prompt_tokens, e->cached_tokens, e->completion_tokens);
	emit_tolld(b, e);
	buf_str(b, "}");
}
