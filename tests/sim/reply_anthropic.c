/* Anthropic's Messages API, as the simulated provider speaks it: named server-sent events. */
#include <stdio.h>

#include "speech.h"

static void
event_begin(struct reply *r, struct buf *b, const char *type)
{
	chunk_begin(r, b);
	buf_printf(b, "event: %s%sdata: {\"type\":\"%s\"", type, r->eol, type);
}

/* An event, from what follows its type on. */
static void
event(struct reply *r, struct buf *b, const char *type, const char *rest)
{
	event_begin(r, b, type);
	buf_printf(b, "%s}%s", rest, r->event_eol);
	event_end(r, b);
}

/* What was read from the cache is no part of input_tokens. */
static void
input_put(const struct reply *r, struct buf *b)
{
	struct counts n = reply_counts(r);

	buf_printf(b,
	    "\"input_tokens\":%lld,\"cache_creation_input_tokens\":0,"
	    "\"cache_read_input_tokens\":%lld,",
	    (long long)(n.prompt - n.cached), (long long)n.cached);
}

static void
output_put(const struct reply *r, struct buf *b)
{
	struct counts n = reply_counts(r);

	if (n.huge)
		buf_printf(b, "\"output_tokens\":99999999999999999999");
	else
		buf_printf(b, "\"output_tokens\":%lld", (long long)n.completion);
}

static const char *
stop_reason(const struct reply *r)
{
	return r->length_finish ? "max_tokens" : r->sc.tool != NULL ? "tool_use" : "end_turn";
}

/* Thoughts are a block of their own, before the answer's. */
static int
block(const struct reply *r)
{
	return r->sc.think != NULL ? 1 : 0;
}

static void
prepare(struct reply *r)
{
	int n = snprintf(r->head, sizeof(r->head),
	    "event: content_block_delta%sdata: {\"type\":\"content_block_delta\",\"index\":%d,"
	    "\"delta\":{\"type\":\"%s\":\"",
	    r->eol, block(r),
	    r->sc.tool != NULL ? "input_json_delta\",\"partial_json" : "text_delta\",\"text");

	r->head_len = (size_t)n;
	n = snprintf(r->tail, sizeof(r->tail), "\"}}%s", r->event_eol);
	r->tail_len = (size_t)n;
}

static void
think_events(struct reply *r, struct buf *b)
{
	event(r, b, "content_block_start",
	    ",\"index\":0,\"content_block\":{\"type\":\"thinking\",\"thinking\":\"\","
	    "\"signature\":\"\"}");
	event_begin(r, b, "content_block_delta");
	buf_printf(b, ",\"index\":0,\"delta\":{\"type\":\"thinking_delta\",\"thinking\":\"");
	escaped_put(b, r->sc.think);
	buf_printf(b, "\"}}%s", r->event_eol);
	event_end(r, b);
	event(r, b, "content_block_delta",
	    ",\"index\":0,\"delta\":{\"type\":\"signature_delta\",\"signature\":\"c2ln\"}");
	event(r, b, "content_block_stop", ",\"index\":0");
}

static void
tool_put(const struct reply *r, struct buf *b, const char *input)
{
	buf_printf(b, "{\"type\":\"tool_use\",\"id\":\"toolu_sim%08llx\",\"name\":\"",
	    (unsigned long long)r->id);
	escaped_put(b, r->sc.tool);
	buf_printf(b, "\",\"input\":%s}", input);
}

static void
first(struct reply *r, struct buf *b)
{
	event_begin(r, b, "message_start");
	buf_printf(b,
	    ",\"message\":{\"id\":\"msg_sim%08llx\",\"type\":\"message\",\"role\":\"assistant\","
	    "\"model\":\"sim\",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null",
	    (unsigned long long)r->id);
	if (r->show_usage) {
		buf_printf(b, ",\"usage\":{");
		input_put(r, b);
		buf_printf(b, "\"output_tokens\":1}");
	}
	buf_printf(b, "}}%s", r->event_eol);
	event_end(r, b);
	if (r->sc.think != NULL)
		think_events(r, b);
	event_begin(r, b, "content_block_start");
	buf_printf(b, ",\"index\":%d,\"content_block\":", block(r));
	if (r->sc.tool != NULL)
		tool_put(r, b, "{}");
	else
		buf_printf(b, "{\"type\":\"text\",\"text\":\"\"}");
	buf_printf(b, "}%s", r->event_eol);
	event_end(r, b);
	event(r, b, "ping", "");
}

static void
finish(struct reply *r, struct buf *b, bool with_reason)
{
	event_begin(r, b, "content_block_stop");
	buf_printf(b, ",\"index\":%d}%s", block(r), r->event_eol);
	event_end(r, b);
	if (!with_reason)
		return;
	event_begin(r, b, "message_delta");
	buf_printf(b, ",\"delta\":{\"stop_reason\":\"%s\",\"stop_sequence\":null}", stop_reason(r));
	if (r->show_usage) {
		buf_printf(b, ",\"usage\":{");
		output_put(r, b);
		buf_printf(b, "}");
	}
	buf_printf(b, "}%s", r->event_eol);
	event_end(r, b);
}

static void
mark(struct reply *r, struct buf *b)
{
	event(r, b, "message_stop", "");
}

static void
error(struct reply *r, struct buf *b)
{
	event_begin(r, b, "error");
	buf_printf(b, ",\"error\":{\"type\":\"api_error\",\"message\":\"%s\"}}%s",
	    reply_error_message, r->event_eol);
	event_end(r, b);
}

static void
garbage(struct reply *r, struct buf *b)
{
	chunk_begin(r, b);
	buf_printf(b, "event: content_block_delta%sdata: <<< this is not JSON >>>%s", r->eol,
	    r->event_eol);
	event_end(r, b);
}

static void
comment(struct reply *r, struct buf *b)
{
	event(r, b, "ping", "");
}

static const char *
error_type(int status)
{
	switch (status) {
	case 401:
		return "authentication_error";
	case 403:
		return "permission_error";
	case 404:
		return "not_found_error";
	case 413:
		return "request_too_large";
	case 429:
		return "rate_limit_error";
	case 529:
		return "overloaded_error";
	default:
		return status >= 500 ? "api_error" : "invalid_request_error";
	}
}

static void
refusal(struct buf *b, int status, const char *code, const char *param, const char *message)
{
	char text[1024];
	int len = reply_escape(text, sizeof(text), message);

	(void)code;
	(void)param;
	buf_printf(b, "{\"type\":\"error\",\"error\":{\"type\":\"%s\",\"message\":\"%.*s\"}}\n",
	    error_type(status), len, text);
}

static void
whole(struct reply *r)
{
	struct buf *b = &r->body;

	buf_printf(b,
	    "{\"id\":\"msg_sim%08llx\",\"type\":\"message\",\"role\":\"assistant\","
	    "\"model\":\"sim\",\"content\":[",
	    (unsigned long long)r->id);
	if (r->sc.think != NULL) {
		buf_printf(b, "{\"type\":\"thinking\",\"thinking\":\"");
		escaped_put(b, r->sc.think);
		buf_printf(b, "\",\"signature\":\"c2ln\"},");
	}
	if (r->sc.tool != NULL) {
		tool_put(r, b, r->sc.text);
		r->sent = r->visible;
	} else {
		buf_printf(b, "{\"type\":\"text\",\"text\":\"");
		reply_text(r, b);
		buf_printf(b, "\"}");
	}
	buf_printf(b, "],\"stop_sequence\":null");
	if (r->sc.fault != FAULT_NOFINISH)
		buf_printf(b, ",\"stop_reason\":\"%s\"", stop_reason(r));
	if (r->sc.usage != USAGE_NO) {
		buf_printf(b, ",\"usage\":{");
		input_put(r, b);
		output_put(r, b);
		buf_printf(b, "}");
	}
	buf_printf(b, "}\n");
}

const struct speech speech_anthropic = {
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
