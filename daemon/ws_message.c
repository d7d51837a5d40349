/*
 * Messages of the chat on a WebSocket.  Pure.
 *
 * A question is a /chat/send in other words: so its fields are read by chat_request.c, and what
 * that knows, a question may say.
 */
#include "daemon/ws_message.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "daemon/json.h"

static enum ws_kind
invalid_json(struct chat_fault *f, const char *why, size_t at)
{
	*f = (struct chat_fault){.status = 400, .code = "invalid_json"};
	snprintf(f->message, sizeof f->message, "the message is not a JSON object: %s at byte %zu",
	    why, at);
	return WS_INVALID;
}

static enum ws_kind
question(struct json_value root, struct json_value text, struct buf *body, struct chat_fault *f)
{
	struct json_value key, value;
	const char *it = NULL;

	if (text.type != JSON_STRING || text.len <= 2) {
		(void)chat_request_refuse(f, "question",
		    text.type == JSON_NONE ? "'question' is missing"
		                           : "'question' must be a text that is not empty");
		return WS_INVALID;
	}
	buf_str(body, "{\"message\":");
	buf_add(body, text.p, text.len);
	while (json_each(root, &it, &key, &value)) {
		if (json_is(key, "question") || json_is(key, "type"))
			continue;
		if (json_is(key, "message") || json_is(key, "messages")) {
			(void)chat_request_refuse(f, "question", "it is 'question' here");
			return WS_INVALID;
		}
		buf_str(body, ",");
		buf_add(body, key.p, key.len);
		buf_str(body, ":");
		buf_add(body, value.p, value.len);
	}
	buf_str(body, "}");
	return WS_QUESTION;
}

enum ws_kind
ws_message_read(struct span text, struct buf *body, struct chat_fault *f)
{
	static const char *const keys[] = {"type", "question"};
	struct json_value root, v[2];
	enum json_error e;
	size_t at = 0;

	e = json_check(text.p, text.len, &root, &at);
	if (e != JSON_OK)
		return invalid_json(f, json_error_text(e), at);
	if (root.type != JSON_OBJECT)
		return invalid_json(f, "another value", 0);
	json_get_many(root, keys, v, 2);
	if (v[0].type == JSON_STRING && json_is(v[0], "cancel"))
		return WS_CANCEL;
	if (v[0].type != JSON_NONE && !(v[0].type == JSON_STRING && json_is(v[0], "question"))) {
		(void)chat_request_refuse(f, "type", "'type' must be question or cancel");
		return WS_INVALID;
	}
	return question(root, v[1], body, f);
}

static void
text(struct buf *b, const char *before, const char *value)
{
	buf_str(b, before);
	buf_json(b, value, strlen(value));
}

void
ws_message_chunk(struct buf *b, const char *piece, size_t len)
{
	buf_str(b, "{\"type\":\"chunk\",\"content\":");
	buf_json(b, piece, len);
	buf_str(b, "}");
}

void
ws_message_end(struct buf *b, const struct emit_stream *s, const struct emit_end *e)
{
	const char *reason = emit_finish_reason(e->outcome);

	if (reason == NULL || e->error_code != NULL) {
		buf_str(b, "{\"type\":\"error\",\"message\":");
		buf_json(b, e->error_message.p, e->error_message.len);
		text(b, ",\"code\":", e->error_code != NULL ? e->error_code : "internal_error");
		if (e->error_kind != NULL)
			text(b, ",\"kind\":", e->error_kind);
		if (e->retry_after > 0)
			buf_printf(b, ",\"retry_after\":%" PRId64, e->retry_after);
	} else {
		text(b, "{\"type\":\"end\",\"finish_reason\":", reason);
	}
	emit_bill(b, e);
	text(b, ",\"model\":", s->model);
	text(b, ",\"session_id\":", s->session_id);
	text(b, ",\"message_id\":", s->message_id);
	text(b, ",\"stream_id\":", s->stream_id);
	buf_str(b, "}");
}

void
ws_message_error(struct buf *b, const struct conn_refusal *x)
{
	text(b, "{\"type\":\"error\",\"message\":", x->message);
	text(b, ",\"code\":", x->code);
	/* Which field of a /chat/send it is. */
	if (x->param != NULL)
		text(b, ",\"param\":", strcmp(x->param, "message") == 0 ? "question" : x->param);
	buf_span(b, x->members);
	if (x->retry_after > 0)
		buf_printf(b, ",\"retry_after\":%lu", x->retry_after);
	buf_str(b, "}");
}
