/* Ollama's /api/chat, as the simulated provider speaks it: a JSON document a line. */
#include <stdio.h>
#include <time.h>

#include "speech.h"

#define DURATIONS                                                  \
	"\"total_duration\":4883583458,\"load_duration\":1334875," \
	"\"prompt_eval_duration\":342546000,\"eval_duration\":4535599000"

static void
line_begin(const struct reply *r, struct buf *b)
{
	char when[32];
	struct tm tm;
	time_t at = (time_t)r->created;

	strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%S", gmtime_r(&at, &tm));
	buf_printf(b, "{\"model\":\"sim\",\"created_at\":\"%s.%06lluZ\",", when,
	    (unsigned long long)(r->id % 1000000));
}

static void
prepare(struct reply *r)
{
	struct buf b = {0};

	line_begin(r, &b);
	buf_printf(&b, "\"message\":{\"role\":\"assistant\",\"content\":\"");
	memcpy(r->head, b.p, b.len);
	r->head_len = b.len;
	b.len = 0;
	buf_printf(&b, "\"},\"done\":false}%s", r->event_eol);
	memcpy(r->tail, b.p, b.len);
	r->tail_len = b.len;
	buf_free(&b);
}

static void
tool_put(const struct reply *r, struct buf *b)
{
	buf_printf(b, "\"tool_calls\":[{\"function\":{\"name\":\"");
	escaped_put(b, r->sc.tool);
	buf_printf(b, "\",\"arguments\":%s}}]", r->sc.text);
}

/* Before the text: what was thought, and the call of a function, which comes whole. */
static void
first(struct reply *r, struct buf *b)
{
	if (r->sc.think != NULL) {
		chunk_begin(r, b);
		line_begin(r, b);
		buf_printf(
		    b, "\"message\":{\"role\":\"assistant\",\"content\":\"\",\"thinking\":\"");
		escaped_put(b, r->sc.think);
		buf_printf(b, "\"},\"done\":false}%s", r->event_eol);
		event_end(r, b);
	}
	if (r->sc.tool != NULL) {
		chunk_begin(r, b);
		line_begin(r, b);
		buf_printf(b, "\"message\":{\"role\":\"assistant\",\"content\":\"\",");
		tool_put(r, b);
		buf_printf(b, "},\"done\":false}%s", r->event_eol);
		event_end(r, b);
		r->sent = r->visible;
	}
}

static void
usage_put(const struct reply *r, struct buf *b)
{
	struct counts n = reply_counts(r);

	buf_printf(b, ",\"prompt_eval_count\":%lld,", (long long)n.prompt);
	if (n.huge)
		buf_printf(b, "\"eval_count\":99999999999999999999");
	else
		buf_printf(b, "\"eval_count\":%lld", (long long)n.completion);
}

/* The last line says it all at once, so it is the mark's. */
static void
finish(struct reply *r, struct buf *b, bool with_reason)
{
	(void)b;
	r->no_reason = !with_reason;
}

static void
mark(struct reply *r, struct buf *b)
{
	chunk_begin(r, b);
	line_begin(r, b);
	buf_printf(b, "\"message\":{\"role\":\"assistant\",\"content\":\"\"},\"done\":true,");
	if (!r->no_reason)
		buf_printf(b, "\"done_reason\":\"%s\",", r->length_finish ? "length" : "stop");
	buf_printf(b, DURATIONS);
	if (r->show_usage)
		usage_put(r, b);
	buf_printf(b, "}%s", r->event_eol);
	event_end(r, b);
}

static void
error(struct reply *r, struct buf *b)
{
	chunk_begin(r, b);
	buf_printf(b, "{\"error\":\"%s\"}%s", reply_error_message, r->event_eol);
	event_end(r, b);
}

static void
garbage(struct reply *r, struct buf *b)
{
	line_event(r, b, "<<< this is not JSON >>> {\"message\":[{]");
}

static void
comment(struct reply *r, struct buf *b)
{
	line_event(r, b, "");
}

static void
refusal(struct buf *b, int status, const char *code, const char *param, const char *message)
{
	char text[1024];
	int len = reply_escape(text, sizeof(text), message);

	(void)status;
	(void)code;
	(void)param;
	buf_printf(b, "{\"error\":\"%.*s\"}\n", len, text);
}

static void
whole(struct reply *r)
{
	struct buf *b = &r->body;

	line_begin(r, b);
	buf_printf(b, "\"message\":{\"role\":\"assistant\",\"content\":\"");
	if (r->sc.tool != NULL) {
		buf_printf(b, "\",");
		tool_put(r, b);
		r->sent = r->visible;
	} else {
		reply_text(r, b);
		buf_printf(b, "\"");
	}
	if (r->sc.think != NULL) {
		buf_printf(b, ",\"thinking\":\"");
		escaped_put(b, r->sc.think);
		buf_printf(b, "\"");
	}
	buf_printf(b, "},\"done\":true,");
	if (r->sc.fault != FAULT_NOFINISH)
		buf_printf(b, "\"done_reason\":\"%s\",", r->length_finish ? "length" : "stop");
	buf_printf(b, DURATIONS);
	if (r->sc.usage != USAGE_NO)
		usage_put(r, b);
	buf_printf(b, "}\n");
}

const struct speech speech_ollama = {
    .stream_type = "application/x-ndjson",
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
