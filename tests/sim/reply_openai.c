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

static void
first(struct reply *r, struct buf *b)
{
	chunk_begin(r, b);
	buf_put(b, r->head, r->base_len);
	buf_printf(b,
	    "\"role\":\"assistant\",\"content\":\"\",\"refusal\":null},"
	    "\"logprobs\":null,\"finish_reason\":null}]%s}%s",
	    usage_null_text(r), r->event_eol);
	event_end(r, b);
}

static void
finish_event(struct reply *r, struct buf *b)
{
	chunk_begin(r, b);
	buf_put(b, r->head, r->base_len);
	buf_printf(b, "},\"logprobs\":null,\"finish_reason\":\"%s\"}]",
	    r->length_finish ? "length" : "stop");
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
	    "\"choices\":[{\"index\":0,\"delta\":{\"content\":\"",
	    (unsigned long long)r->id, r->created);

	r->head_len = (size_t)n;
	r->base_len = r->head_len - strlen("\"content\":\"");
	n = snprintf(r->tail, sizeof(r->tail),
	    "\"},\"logprobs\":null,\"finish_reason\":null}]%s}%s", usage_null_text(r),
	    r->event_eol);
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

/* The answer's text as one JSON body. */
static void
whole(struct reply *r)
{
	struct buf *b = &r->body;

	buf_printf(b,
	    "{\"id\":\"chatcmpl-sim%08llx\",\"object\":\"chat.completion\",\"created\":%ld,"
	    "\"model\":\"sim\",\"system_fingerprint\":\"fp_sim\",\"choices\":[{\"index\":0,"
	    "\"message\":{\"role\":\"assistant\",\"content\":\"",
	    (unsigned long long)r->id, r->created);
	reply_text(r, b);
	buf_printf(b, "\",\"refusal\":null},\"logprobs\":null");
	if (r->sc.fault != FAULT_NOFINISH)
		buf_printf(b, ",\"finish_reason\":\"%s\"", r->length_finish ? "length" : "stop");
	buf_printf(b, "}]");
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
