/* OpenAI's chat completions, as the simulated provider speaks them. */
#include <stdio.h>

#include "speech.h"

static void
usage_put(const struct reply *r, struct buf *b)
{
	struct counts n = reply_counts(r);

	buf_printf(b, "{\"prompt_tokens\":%lld,", (long long)n.prompt);
	if (n.huge)
		buf_printf(b, "\"completion_tokens\":99999999999999999999,"
		              "\"total_tokens\":99999999999999999999,");
	else
		buf_printf(b, "\"completion_tokens\":%lld,\"total_tokens\":%lld,",
		    (long long)n.completion, (long long)(n.prompt + n.completion));
	buf_printf(b,
	    "\"prompt_tokens_details\":{\"cached_tokens\":%lld,\"audio_tokens\":0},"
	    "\"completion_tokens_details\":{\"reasoning_tokens\":%lld,"
	    "\"audio_tokens\":0}}",
	    (long long)n.cached, (long long)n.hidden);
}

static const char *
usage_null_text(const struct reply *r)
{
	return r->usage_null ? ",\"usage\":null" : "";
}

#define TOKEN_LOGPROBS                                                     \
	"{\"content\":[{\"token\":\"x\",\"logprob\":-0.5,\"bytes\":[120]," \
	"\"top_logprobs\":[]}],\"refusal\":null}"

/* A chunk of choice i, from its delta's members on; they stand between head's base and `end`. */
static void
delta_event(struct reply *r, struct buf *b, unsigned i, const char *members)
{
	chunk_begin(r, b);
	r->head[r->index_at] = (char)('0' + i);
	buf_put(b, r->head, r->base_len);
	r->head[r->index_at] = '0';
	buf_printf(b, "%s},\"logprobs\":null,\"finish_reason\":null}]%s}%s", members,
	    usage_null_text(r), r->event_eol);
	event_end(r, b);
}

static void
call_put(const struct reply *r, struct buf *b)
{
	buf_printf(b, "\"id\":\"call_sim%08llx\",\"type\":\"function\",\"function\":{\"name\":\"",
	    (unsigned long long)r->id);
	escaped_put(b, r->sc.tool);
}

static void
first(struct reply *r, struct buf *b)
{
	struct buf members = {0};

	for (unsigned i = 0; i < r->choices; i++)
		delta_event(r, b, i,
		    r->sc.tool != NULL
		        ? "\"role\":\"assistant\",\"content\":null,\"refusal\":null"
		        : "\"role\":\"assistant\",\"content\":\"\",\"refusal\":null");
	if (r->sc.think != NULL) {
		buf_printf(&members, "\"reasoning_content\":\"");
		escaped_put(&members, r->sc.think);
		buf_put(&members, "\"", sizeof("\""));
		for (unsigned i = 0; i < r->choices; i++)
			delta_event(r, b, i, members.p);
		members.len = 0;
	}
	if (r->sc.tool != NULL) {
		buf_printf(&members, "\"tool_calls\":[{\"index\":0,");
		call_put(r, &members);
		buf_printf(&members, "\",\"arguments\":\"\"}}]");
		for (unsigned i = 0; i < r->choices; i++)
			delta_event(r, b, i, members.p);
	}
	buf_free(&members);
}

static const char *
finish_reason(const struct reply *r)
{
	return r->length_finish ? "length" : r->sc.tool != NULL ? "tool_calls" : "stop";
}

static void
finish_choice(struct reply *r, struct buf *b, unsigned i)
{
	chunk_begin(r, b);
	r->head[r->index_at] = (char)('0' + i);
	buf_put(b, r->head, r->base_len);
	r->head[r->index_at] = '0';
	buf_printf(b, "},\"logprobs\":null,\"finish_reason\":\"%s\"}]", finish_reason(r));
	if (i + 1 < r->choices) {
		buf_printf(b, "%s}%s", usage_null_text(r), r->event_eol);
		event_end(r, b);
	}
}

static void
finish_event(struct reply *r, struct buf *b)
{
	for (unsigned i = 0; i < r->choices; i++)
		finish_choice(r, b, i);
	if (r->show_usage && r->sc.usage == USAGE_FINISH) {
		buf_printf(b, ",\"usage\":");
		usage_put(r, b);
	} else
		buf_printf(b, "%s", usage_null_text(r));
	buf_printf(b, "}%s", r->event_eol);
	event_end(r, b);
}

static void
usage_event(struct reply *r, struct buf *b)
{
	size_t n = r->base_len - strlen("{\"index\":0,\"delta\":{");

	chunk_begin(r, b);
	buf_put(b, r->head, n);
	buf_printf(b, "],\"usage\":");
	usage_put(r, b);
	buf_printf(b, "}%s", r->event_eol);
	event_end(r, b);
}

static void
prepare(struct reply *r)
{
	int n = snprintf(r->head, sizeof(r->head),
	    "data: {\"id\":\"chatcmpl-sim%08llx\",\"object\":\"chat.completion.chunk\","
	    "\"created\":%ld,\"model\":\"sim\",\"system_fingerprint\":\"fp_sim\","
	    "\"choices\":[{\"index\":0,\"delta\":{",
	    (unsigned long long)r->id, r->created);

	r->base_len = (size_t)n;
	r->index_at = r->base_len - strlen("0,\"delta\":{");
	n += snprintf(r->head + n, sizeof(r->head) - (size_t)n, "%s",
	    r->sc.tool != NULL ? "\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\""
	                       : "\"content\":\"");
	r->head_len = (size_t)n;
	n = snprintf(r->tail, sizeof(r->tail),
	    "\"%s},\"logprobs\":%s,\"finish_reason\":null}]%s}%s", r->sc.tool != NULL ? "}}]" : "",
	    r->logprobs ? TOKEN_LOGPROBS : "null", usage_null_text(r), r->event_eol);
	r->tail_len = (size_t)n;
}

static void
finish(struct reply *r, struct buf *b, bool with_reason)
{
	if (with_reason)
		finish_event(r, b);
	if (r->show_usage && r->sc.usage != USAGE_FINISH)
		usage_event(r, b);
}

static void
mark(struct reply *r, struct buf *b)
{
	line_event(r, b, "data: [DONE]");
}

static void
error(struct reply *r, struct buf *b)
{
	chunk_begin(r, b);
	buf_printf(b,
	    "data: {\"error\":{\"message\":\"%s\",\"type\":\"server_error\","
	    "\"param\":null,\"code\":null}}%s",
	    reply_error_message, r->event_eol);
	event_end(r, b);
}

static void
garbage(struct reply *r, struct buf *b)
{
	line_event(r, b, "data: <<< this is not JSON >>> {\"choices\":[{]");
}

static void
comment(struct reply *r, struct buf *b)
{
	line_event(r, b, ": ping");
}

static void
refusal(struct buf *b, int status, const char *code, const char *param, const char *message)
{
	const char *type = status == 429   ? "requests"
	                   : status >= 500 ? "server_error"
	                                   : "invalid_request_error";
	char text[1024];
	int len = reply_escape(text, sizeof(text), message);

	buf_printf(
	    b, "{\"error\":{\"message\":\"%.*s\",\"type\":\"%s\",\"param\":", len, text, type);
	buf_printf(
	    b, param != NULL ? "\"%s\",\"code\":" : "%s,\"code\":", param != NULL ? param : "null");
	buf_printf(b, code != NULL ? "\"%s\"}}\n" : "%s}}\n", code != NULL ? code : "null");
}

static void
whole_choice(struct reply *r, unsigned i)
{
	struct buf *b = &r->body;

	buf_printf(b, "%s{\"index\":%u,\"message\":{\"role\":\"assistant\",", i > 0 ? "," : "", i);
	if (r->sc.think != NULL) {
		buf_printf(b, "\"reasoning_content\":\"");
		escaped_put(b, r->sc.think);
		buf_printf(b, "\",");
	}
	if (r->sc.tool != NULL) {
		buf_printf(b, "\"tool_calls\":[{");
		call_put(r, b);
		buf_printf(b, "\",\"arguments\":\"");
		reply_text(r, b);
		buf_printf(b, "\"}}],\"content\":null");
	} else {
		buf_printf(b, "\"content\":\"");
		reply_text(r, b);
		buf_printf(b, "\"");
	}
	buf_printf(b, ",\"refusal\":null},\"logprobs\":%s", r->logprobs ? TOKEN_LOGPROBS : "null");
	if (r->sc.fault != FAULT_NOFINISH)
		buf_printf(b, ",\"finish_reason\":\"%s\"", finish_reason(r));
	buf_printf(b, "}");
}

/* The answer's text as one JSON body. */
static void
whole(struct reply *r)
{
	struct buf *b = &r->body;

	buf_printf(b,
	    "{\"id\":\"chatcmpl-sim%08llx\",\"object\":\"chat.completion\",\"created\":%ld,"
	    "\"model\":\"sim\",\"system_fingerprint\":\"fp_sim\",\"choices\":[",
	    (unsigned long long)r->id, r->created);
	for (unsigned i = 0; i < r->choices; i++) {
		r->sent = 0;
		r->piece_at = 0;
		whole_choice(r, i);
	}
	buf_printf(b, "]");
	if (r->sc.usage != USAGE_NO) {
		buf_printf(b, ",\"usage\":");
		usage_put(r, b);
	}
	buf_printf(b, "}\n");
}

const struct speech speech_openai = {
    .stream_type = "text/event-stream; charset=utf-8",
    .prepare = prepare,
    .first = first,
    .finish = finish,
    .mark = mark,
    .error = error,
    .garbage = garbage,
    .comment = comment,
    .refusal = refusal,
    .whole = whole,
};
