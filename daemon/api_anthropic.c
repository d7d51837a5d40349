/*
 * Anthropic's Messages, as clients of /v1/messages get them.  Pure.
 *
 * An event goes out as it came, on one line.  The one that says how the answer ended waits for the
 * settlement, which writes into it what it was for us: "tolld":{"finish","cost"}; the end mark
 * after it is ours.
 */
#include <string.h>

#include "daemon/anthropic.h"
#include "daemon/anthropic_error.h"
#include "daemon/api.h"
#include "daemon/json.h"
#include "daemon/utf8.h"

/* As it came, but for line ends, which a JSON document has only between its parts. */
static void
frame(struct buf *b, struct span type, struct span data)
{
	size_t at;

	if (type.len > 0) {
		buf_str(b, "event: ");
		buf_span(b, type);
		buf_str(b, "\n");
	}
	buf_str(b, "data: ");
	at = b->len;
	if (utf8_valid(data.p, data.len))
		buf_span(b, data);
	else
		utf8_repair(b, data.p, data.len);
	for (char *p = b->failed ? NULL : b->data + at; p != NULL && p < b->data + b->len; p++)
		if (*p == '\n' || *p == '\r')
			*p = ' ';
	buf_str(b, "\n\n");
}

/* SDKs go by the event's name: it must be there. */
static void
named_frame(struct buf *b, const struct decoder_event *ev, struct json_value type)
{
	struct span name = ev->type;

	if (name.len == 0 && type.type == JSON_STRING && memchr(type.p, '\\', type.len) == NULL)
		name = (struct span){type.p + 1, type.len - 2};
	frame(b, name, ev->data);
}

static void
note_block(struct json_value root, struct answer_place *at)
{
	struct json_value index, block, type;
	int64_t n;

	if (json_get(root, "index", &index) && json_int(index, &n) && n >= 0 && n < UINT32_MAX)
		at->blocks = (uint32_t)n + 1;
	at->open = OPEN_OTHER;
	if (!json_get(root, "content_block", &block) || !json_get(block, "type", &type))
		return;
	if (json_is(type, "text"))
		at->open = OPEN_TEXT;
	else if (json_is(type, "thinking"))
		at->open = OPEN_THINKING;
}

static enum api_place
relay(struct buf *b, const struct decoder_event *ev, const struct delta *d, bool shown,
    struct answer_place *at)
{
	struct json_value root = {0}, type = {0};

	(void)shown; /* it always is */
	if (d->kind == DELTA_DONE || d->kind == DELTA_ERROR || d->kind == DELTA_INVALID)
		return API_NOWHERE;
	if (json_check(ev->data.p, ev->data.len, &root, NULL) == JSON_OK)
		(void)json_get(root, "type", &type);
	else if (!d->utf8_repaired)
		return API_NOWHERE; /* another dialect's end mark */
	named_frame(b, ev, type);
	if (json_is(type, "message_start"))
		at->begun = true;
	else if (json_is(type, "content_block_start"))
		note_block(root, at);
	else if (json_is(type, "content_block_stop"))
		at->open = OPEN_NONE;
	return d->finish != OUTCOME_NONE ? API_END : API_NOW;
}

static void
relay_text(struct buf *b, const struct decoder_event *ev)
{
	named_frame(b, ev, (struct json_value){0});
}

/* The type of an error that comes with no status. */
static int
status_of(const char *code)
{
	if (code == NULL)
		return 500;
	if (strcmp(code, "upstream_timeout") == 0)
		return 504;
	return strcmp(code, "overloaded") == 0 || strcmp(code, "draining") == 0 ||
	               strcmp(code, "journal_unavailable") == 0
	           ? 503
	           : 502;
}

static void
text_or_null(struct buf *b, const char *before, const char *text)
{
	buf_str(b, before);
	if (text != NULL)
		buf_json(b, text, strlen(text));
	else
		buf_str(b, "null");
}

static void
error_object(struct buf *b, const struct emit_end *e)
{
	text_or_null(b, "{\"type\":\"error\",\"error\":{\"type\":",
	    anthropic_error_type(status_of(e->error_code)));
	buf_str(b, ",\"message\":");
	buf_json(b, e->error_message.p, e->error_message.len);
	text_or_null(b, ",\"code\":", e->error_code);
	if (e->error_kind != NULL)
		text_or_null(b, ",\"kind\":", e->error_kind);
	if (e->retry_after > 0)
		buf_printf(b, ",\"retry_after\":%lld", (long long)e->retry_after);
	text_or_null(b, "},\"request_id\":", e->request_id);
}

static void
refuse(struct buf *b, const struct emit_end *e)
{
	error_object(b, e);
	buf_str(b, "}");
}

/* The provider's word of how it ended, with what it was for us; false: there is none. */
static bool
put_last(struct buf *b, struct span last, const struct emit_end *e)
{
	static const char name[] = "event: message_delta\n";
	const char *p, *end;

	if (last.len == 0)
		return false;
	end = last.p + last.len;
	p = memmem(last.p, last.len, name, sizeof name - 1);
	p = p == NULL ? NULL : memmem(p, (size_t)(end - p), "\n\n", 2);
	/* Frames are on one line, and what was read of this one is an object. */
	while (p != NULL && p > last.p && *p != '}')
		p--;
	if (p == NULL || p == last.p)
		return false;
	buf_add(b, last.p, (size_t)(p - last.p));
	emit_tolld(b, e);
	buf_add(b, p, (size_t)(end - p));
	return true;
}

static void
end(struct buf *b, const struct emit_stream *es, struct answer *a, const struct api_end *e)
{
	if (emit_finish_reason(e->end.outcome) == NULL || e->end.error_code != NULL) {
		buf_str(b, "event: error\ndata: ");
		error_object(b, &e->end);
		emit_tolld(b, &e->end);
		buf_str(b, "}\n\n");
		return;
	}
	if (put_last(b, e->last, &e->end))
		buf_str(b, "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n");
	else
		answer_anthropic_end(b, es, a, &e->end);
}

const struct api api_anthropic = {
    .path = "/v1/messages",
    .dialect = DIALECT_ANTHROPIC,
    .relay = relay,
    .relay_text = relay_text,
    .say = answer_anthropic_say,
    .end = end,
    .say_whole = answer_anthropic_whole,
    .decode_whole = anthropic_decode_whole,
    .refuse = refuse,
};
