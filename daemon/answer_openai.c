/*
 * Answers in OpenAI's words, of providers that speak another dialect.  Pure.
 *
 * Whole, `content` and `reasoning` hold the text of a JSON string each, and `tools` the calls so
 * far, the last one without its end.
 */
#include <string.h>

#include "daemon/api.h"

static void
chunk_begin(struct buf *b, const struct emit_stream *es)
{
	emit_template(b, es);
	buf_str(b, ",\"choices\":[{\"index\":0,\"delta\":");
}

static void
chunk_end(struct buf *b, const struct emit_stream *es)
{
	buf_str(b, es->include_usage ? ",\"finish_reason\":null}],\"usage\":null}\n\n"
	                             : ",\"finish_reason\":null}]}\n\n");
}

static void
arguments(struct buf *b, const struct emit_stream *es, const struct answer *a, struct span s)
{
	chunk_begin(b, es);
	buf_printf(b, "{\"tool_calls\":[{\"index\":%u,\"function\":{\"arguments\":", a->calls - 1);
	buf_json(b, s.p, s.len);
	buf_str(b, "}}]}");
	chunk_end(b, es);
}

/* The open call is complete.  Clients parse its arguments: there must be some. */
static void
end_call(struct buf *b, const struct emit_stream *es, struct answer *a)
{
	if (a->at.open == OPEN_CALL && a->whole)
		buf_str(&a->tools, a->has_arguments ? "\"}}" : "{}\"}}");
	else if (a->at.open == OPEN_CALL && !a->has_arguments)
		arguments(b, es, a, SPAN("{}"));
	a->at.open = OPEN_NONE;
}

static void
begin_call(
    struct buf *b, const struct emit_stream *es, struct answer *a, const struct answer_piece *p)
{
	struct buf *to = a->whole ? &a->tools : b;

	end_call(b, es, a);
	answer_begin_call(a, p);
	if (a->whole) {
		buf_str(to, a->calls > 1 ? ",{\"id\":" : "{\"id\":");
	} else {
		chunk_begin(to, es);
		buf_printf(to, "{\"tool_calls\":[{\"index\":%u,\"id\":", a->calls - 1);
	}
	answer_call_id(to, a, p, "call_", es->message_id);
	buf_str(to, ",\"type\":\"function\",\"function\":{\"name\":");
	buf_json(to, p->name.p, p->name.len);
	buf_str(to, ",\"arguments\":\"");
	buf_json_bare(to, p->text.p, p->text.len);
	if (a->whole)
		return;
	buf_str(to, "\"}}]}");
	chunk_end(to, es);
}

static bool
say_call(
    struct buf *b, const struct emit_stream *es, struct answer *a, const struct answer_piece *p)
{
	if (!answer_continues(a, p)) {
		if (p->name.len == 0)
			return p->text.len == 0; /* an id ahead of its name */
		begin_call(b, es, a, p);
		return true;
	}
	if (p->text.len == 0)
		return true;
	a->has_arguments = true;
	if (a->whole)
		buf_json_bare(&a->tools, p->text.p, p->text.len);
	else
		arguments(b, es, a, p->text);
	return true;
}

bool
answer_openai_say(
    struct buf *b, const struct emit_stream *es, struct answer *a, const struct answer_piece *p)
{
	if (!a->at.begun && !a->whole)
		emit_begin(b, EMIT_OPENAI, es, 0);
	a->at.begun = true;
	if (p->kind == ANSWER_CALL)
		return say_call(b, es, a, p);
	if (p->text.len == 0)
		return true;
	end_call(b, es, a);
	if (a->whole) {
		buf_json_bare(
		    p->kind == ANSWER_TEXT ? &a->content : &a->reasoning, p->text.p, p->text.len);
	} else if (p->kind == ANSWER_TEXT) {
		emit_text(b, EMIT_OPENAI, es, p->text.p, p->text.len, 0);
	} else {
		chunk_begin(b, es);
		buf_str(b, "{\"reasoning_content\":");
		buf_json(b, p->text.p, p->text.len);
		buf_str(b, "}");
		chunk_end(b, es);
	}
	return true;
}

/* Not every provider says that it stopped for its calls. */
static struct emit_end
with_calls(const struct answer *a, const struct emit_end *e)
{
	struct emit_end end = *e;

	if (end.outcome == OUTCOME_STOP && a->calls > 0)
		end.outcome = OUTCOME_TOOL_CALLS;
	return end;
}

void
answer_openai_end(
    struct buf *b, const struct emit_stream *es, struct answer *a, const struct emit_end *e)
{
	struct emit_end end = with_calls(a, e);

	if (!a->at.begun)
		emit_begin(b, EMIT_OPENAI, es, 0);
	if (end.outcome == OUTCOME_TOOL_CALLS)
		end_call(b, es, a);
	emit_finish(b, es, &end);
	buf_str(b, "data: [DONE]\n\n");
}

static void
member(struct buf *b, const char *before, const struct buf *text, const char *after)
{
	buf_str(b, before);
	buf_add(b, text->data, text->len);
	buf_str(b, after);
}

void
answer_openai_whole(
    struct buf *b, const struct emit_stream *es, struct answer *a, const struct emit_end *e)
{
	struct emit_end end = with_calls(a, e);

	end_call(b, es, a);
	buf_str(b, "{\"id\":\"chatcmpl-");
	buf_json_bare(b, es->stream_id, strlen(es->stream_id));
	buf_printf(b, "\",\"object\":\"chat.completion\",\"created\":%lld,\"model\":",
	    (long long)es->created);
	buf_json(b, es->model, strlen(es->model));
	buf_str(b, ",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":");
	if (a->content.len == 0 && a->calls > 0)
		buf_str(b, "null");
	else
		member(b, "\"", &a->content, "\"");
	buf_str(b, ",\"refusal\":null");
	if (a->reasoning.len > 0)
		member(b, ",\"reasoning_content\":\"", &a->reasoning, "\"");
	if (a->calls > 0)
		member(b, ",\"tool_calls\":[", &a->tools, "]");
	buf_printf(
	    b, "},\"logprobs\":null,\"finish_reason\":\"%s\"}]", emit_openai_reason(end.outcome));
	buf_printf(b,
	    ",\"usage\":{\"prompt_tokens\":%u,\"completion_tokens\":%u,\"total_tokens\":%llu,"
	    "\"prompt_tokens_details\":{\"cached_tokens\":%u}}",
	    end.prompt_tokens, end.completion_tokens,
	    (unsigned long long)end.prompt_tokens + end.completion_tokens, end.cached_tokens);
	emit_tolld(b, &end);
	buf_str(b, "}");
}
