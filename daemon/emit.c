/*
 * Frames for watchers: typed, openai, content, text.  Pure.
 *
 * emit_text runs for every delta and every watcher: a head, the escaped text and a tail, each
 * copied, and the event's id written by hand.
 */
#include "daemon/emit.h"

#include <string.h>

#include "daemon/utf8.h"
#include "shm/journal_record.h"

#define U64_DIGITS 20

#define LIT(b, text) buf_add(b, text, sizeof(text) - 1)

int
emit_format_by_name(struct span name)
{
	static const char *const names[] = {
	    [EMIT_TYPED] = "typed",
	    [EMIT_OPENAI] = "openai",
	    [EMIT_CONTENT] = "content",
	    [EMIT_TEXT] = "text",
	};

	for (int i = 0; i < (int)(sizeof(names) / sizeof(names[0])); i++)
		if (span_eq(name, names[i]))
			return i;
	return -1;
}

const char *
emit_finish_reason(uint8_t outcome)
{
	switch (outcome) {
	case OUTCOME_STOP:
		return "stop";
	case OUTCOME_LENGTH:
		return "length";
	case OUTCOME_TOOL_CALLS:
		return "tool_calls";
	case OUTCOME_CONTENT_FILTER:
		return "content_filter";
	case OUTCOME_CREDIT:
		return "credit";
	case OUTCOME_CANCELLED:
		return "cancelled";
	default:
		return NULL;
	}
}

static void
json_text(struct buf *b, const char *text)
{
	if (text == NULL)
		LIT(b, "null");
	else
		buf_json(b, text, strlen(text));
}

/* "key":value with what goes before it, for the frames that are not in a hurry. */
static void
member_text(struct buf *b, const char *before, const char *text)
{
	buf_str(b, before);
	json_text(b, text);
}

static void
member_if(struct buf *b, const char *before, const char *text)
{
	if (text != NULL)
		member_text(b, before, text);
}

static void
member_u64(struct buf *b, const char *before, uint64_t n)
{
	buf_str(b, before);
	buf_u64(b, n);
}

static void
member_money(struct buf *b, const char *before, int64_t amount)
{
	buf_str(b, before);
	buf_money(b, amount);
}

static void
id_line(struct buf *b, uint64_t offset, const char *suffix)
{
	LIT(b, "id: ");
	buf_u64(b, offset);
	buf_str(b, suffix);
	LIT(b, "\n");
}

/* OpenAI's chunks. */

static void
chunk_head(struct buf *b, const struct emit_stream *s)
{
	if (s->openai_head.len > 0) {
		buf_span(b, s->openai_head);
		return;
	}
	LIT(b, "data: {\"id\":\"chatcmpl-");
	buf_json_bare(b, s->stream_id, strlen(s->stream_id));
	LIT(b, "\",\"object\":\"chat.completion.chunk\",\"created\":");
	buf_u64(b, s->created > 0 ? (uint64_t)s->created : 0);
	member_text(b, ",\"model\":", s->model);
}

void
emit_template(struct buf *b, const struct emit_stream *s)
{
	struct emit_stream bare = *s;

	bare.openai_head = (struct span){0};
	chunk_head(b, &bare);
}

/* Ends a chunk.  Who asked for usage gets "usage":null in all chunks but the last, as OpenAI's. */
static void
chunk_tail(struct buf *b, const struct emit_stream *s)
{
	if (s->include_usage)
		LIT(b, ",\"usage\":null}\n\n");
	else
		LIT(b, "}\n\n");
}

static void
usage_members(struct buf *b, const struct emit_end *e)
{
	member_u64(b, "{\"prompt_tokens\":", e->prompt_tokens);
	member_u64(b, ",\"completion_tokens\":", e->completion_tokens);
	member_u64(b, ",\"total_tokens\":", (uint64_t)e->prompt_tokens + e->completion_tokens);
}

void
emit_bill(struct buf *b, const struct emit_end *e)
{
	member_if(b, ",\"short_of\":", e->short_of);
	LIT(b, ",\"usage\":");
	usage_members(b, e);
	member_money(b, "},\"cost\":", e->cost);
	member_money(b, ",\"balance\":", e->balance);
}

void
emit_tolld(struct buf *b, const struct emit_end *e)
{
	const char *reason = emit_finish_reason(e->outcome);

	member_text(b, ",\"tolld\":{\"finish\":", reason != NULL ? reason : "error");
	member_if(b, ",\"short_of\":", e->short_of);
	member_money(b, ",\"cost\":", e->cost);
	LIT(b, "}");
}

/* Who knows OpenAI's own reasons only takes an answer that was ended early for one cut at a limit. */
const char *
emit_openai_reason(uint8_t outcome)
{
	return outcome == OUTCOME_CREDIT || outcome == OUTCOME_CANCELLED
	    ? "length"
	    : emit_finish_reason(outcome);
}

void
emit_usage(struct buf *b, const struct emit_stream *s, const struct emit_end *e)
{
	chunk_head(b, s);
	LIT(b, ",\"choices\":[],\"usage\":");
	usage_members(b, e);
	member_u64(b, ",\"prompt_tokens_details\":{\"cached_tokens\":", e->cached_tokens);
	LIT(b, "}}");
	emit_tolld(b, e);
	LIT(b, "}\n\n");
}

void
emit_finish(struct buf *b, const struct emit_stream *s, const struct emit_end *e)
{
	chunk_head(b, s);
	LIT(b, ",\"choices\":[");
	for (uint32_t i = 0; i == 0 || i < s->choices; i++) {
		member_u64(b, i > 0 ? ",{\"index\":" : "{\"index\":", i);
		member_text(b, ",\"delta\":{},\"finish_reason\":", emit_openai_reason(e->outcome));
		LIT(b, "}");
	}
	LIT(b, "]");
	if (!s->include_usage)
		emit_tolld(b, e);
	chunk_tail(b, s);
	if (s->include_usage)
		emit_usage(b, s, e);
}

static void
usage_chunk(struct buf *b, const struct emit_stream *s, const struct emit_end *e)
{
	if (!s->include_usage)
		return;
	chunk_head(b, s);
	LIT(b, ",\"choices\":[],\"usage\":");
	usage_members(b, e);
	member_u64(b, ",\"prompt_tokens_details\":{\"cached_tokens\":", e->cached_tokens);
	LIT(b, "}}}\n\n");
}

void
emit_begin(struct buf *b, enum emit_format format, const struct emit_stream *s, uint64_t offset)
{
	if (format == EMIT_TYPED) {
		id_line(b, offset, "-b");
		LIT(b, "data: {\"type\":\"metadata\",\"data\":");
		member_text(b, "{\"stream_id\":", s->stream_id);
		member_text(b, ",\"session_id\":", s->session_id);
		member_text(b, ",\"message_id\":", s->message_id);
		member_text(b, ",\"model\":", s->model);
		member_u64(b, ",\"prompt_tokens\":", s->prompt_tokens);
		member_money(b, ",\"reserved\":", s->reserved);
		member_if(b, ",\"provider\":", s->provider);
		LIT(b, "}}\n\n");
	} else if (format == EMIT_OPENAI) {
		chunk_head(b, s);
		LIT(b, ",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\","
		       "\"content\":\"\"},\"finish_reason\":null}]");
		chunk_tail(b, s);
	}
}

/* The digits of n at `to`; what follows them. */
static char *
put_u64(char *to, uint64_t n)
{
	char digits[U64_DIGITS];
	size_t at = sizeof(digits);

	do {
		digits[--at] = (char)('0' + n % 10);
		n /= 10;
	} while (n > 0);
	memcpy(to, digits + at, sizeof(digits) - at);
	return to + (sizeof(digits) - at);
}

static char *
put(char *to, struct span s)
{
	memcpy(to, s.p, s.len);
	return to + s.len;
}

static inline bool
is_plain(char c)
{
	return (unsigned char)c >= 0x20 && c != '"' && c != '\\';
}

/* A text, escaped, between head and tail. */
static void
frame(struct buf *b, struct span head, const char *text, size_t len, struct span tail)
{
	char *to = buf_reserve(b, head.len + len + tail.len);
	size_t i = 0;

	if (to == NULL)
		return;
	to = put(to, head);
	/* Nearly every delta is short and plain. */
	for (; i < len && i < 32 && is_plain(text[i]); i++)
		to[i] = text[i];
	b->len = (size_t)(to - b->data) + i;
	if (i < len || !utf8_valid(text, i)) {
		b->len -= i;
		buf_json_bare(b, text, len);
	}
	buf_span(b, tail);
}

void
emit_text(struct buf *b, enum emit_format format, const struct emit_stream *s, const char *text,
    size_t len, uint64_t offset)
{
	char head[64], *end;

	if (len == 0)
		return;
	switch (format) {
	case EMIT_TYPED:
		end = put_u64(put(head, SPAN("id: ")), offset);
		end = put(end, SPAN("\ndata: "));
		buf_add(b, head, (size_t)(end - head));
		frame(b, SPAN("{\"type\":\"token\",\"data\":{\"token\":\""), text, len,
		    SPAN("\"}}\n\n"));
		break;
	case EMIT_OPENAI:
		chunk_head(b, s);
		frame(b, SPAN(",\"choices\":[{\"index\":0,\"delta\":{\"content\":\""), text, len,
		    s->include_usage ? SPAN("\"},\"finish_reason\":null}],\"usage\":null}\n\n")
		                     : SPAN("\"},\"finish_reason\":null}]}\n\n"));
		break;
	case EMIT_CONTENT:
		frame(b, SPAN("data: {\"content\":\""), text, len, SPAN("\"}\n\n"));
		break;
	case EMIT_TEXT:
		if (utf8_valid(text, len))
			buf_add(b, text, len);
		else
			utf8_repair(b, text, len);
		break;
	}
}

void
emit_meter(struct buf *b, enum emit_format format, uint64_t offset, uint32_t completion_tokens,
    int64_t cost, int64_t available)
{
	if (format != EMIT_TYPED)
		return;
	id_line(b, offset, "-m");
	LIT(b, "data: {\"type\":\"meter\",\"data\":");
	member_u64(b, "{\"completion_tokens\":", completion_tokens);
	member_money(b, ",\"cost\":", cost);
	member_money(b, ",\"available\":", available);
	LIT(b, "}}\n\n");
}

void
emit_done(struct buf *b, enum emit_format format, const struct emit_stream *s,
    const struct emit_end *e, uint64_t offset)
{
	const char *reason = emit_finish_reason(e->outcome);

	if (reason == NULL) {
		emit_error(b, format, s, e, offset);
		return;
	}
	switch (format) {
	case EMIT_TYPED:
		id_line(b, offset, "-e");
		member_text(b, "data: {\"type\":\"done\",\"data\":{\"finish_reason\":", reason);
		emit_bill(b, e);
		member_if(b, ",\"provider\":", e->provider);
		LIT(b, ",\"full_text\":");
		buf_json(b, e->full_text.p, e->full_text.len);
		LIT(b, "}}\n\n");
		break;
	case EMIT_OPENAI:
		chunk_head(b, s);
		LIT(b, ",\"choices\":[{\"index\":0,\"delta\":{}");
		member_text(b, ",\"finish_reason\":", reason);
		LIT(b, "}]");
		member_if(b, ",\"short_of\":", e->short_of);
		chunk_tail(b, s);
		usage_chunk(b, s, e);
		LIT(b, "data: [DONE]\n\n");
		break;
	case EMIT_CONTENT:
		/* An answer that was cut says so, to those who look: for others it is no text. */
		if (e->outcome != OUTCOME_STOP) {
			member_text(b, "data: {\"content\":\"\",\"finish_reason\":", reason);
			emit_bill(b, e);
			LIT(b, "}\n\n");
		}
		LIT(b, "data: [DONE]\n\n");
		break;
	case EMIT_TEXT:
		break;
	}
}

static void
error_object(struct buf *b, const char *type, const char *code, const char *param,
    const char *kind, int64_t retry_after, struct span message)
{
	LIT(b, "{\"message\":");
	buf_json(b, message.p, message.len);
	member_text(b, ",\"type\":", type);
	member_text(b, ",\"code\":", code);
	member_text(b, ",\"param\":", param);
	member_if(b, ",\"kind\":", kind);
	if (retry_after > 0)
		member_u64(b, ",\"retry_after\":", (uint64_t)retry_after);
	LIT(b, "}");
}

static void
end_error(struct buf *b, const struct emit_end *e)
{
	error_object(b, e->error_type, e->error_code, NULL, e->error_kind, e->retry_after,
	    e->error_message);
}

void
emit_error(struct buf *b, enum emit_format format, const struct emit_stream *s,
    const struct emit_end *e, uint64_t offset)
{
	switch (format) {
	case EMIT_TYPED:
		id_line(b, offset, "-e");
		LIT(b, "data: {\"type\":\"error\",\"data\":{\"error\":");
		end_error(b, e);
		member_money(b, ",\"cost\":", e->cost);
		member_money(b, ",\"balance\":", e->balance);
		member_if(b, ",\"provider\":", e->provider);
		LIT(b, "}}\n\n");
		break;
	case EMIT_OPENAI:
		usage_chunk(b, s, e);
		chunk_head(b, s);
		LIT(b, ",\"error\":");
		end_error(b, e);
		LIT(b, ",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"error\"}]");
		chunk_tail(b, s);
		break;
	case EMIT_CONTENT:
		LIT(b, "data: ");
		emit_error_end(b, e);
		LIT(b, "\n\n");
		break;
	case EMIT_TEXT:
		break;
	}
}

void
emit_error_end(struct buf *b, const struct emit_end *e)
{
	LIT(b, "{\"error\":");
	end_error(b, e);
	LIT(b, "}");
}

void
emit_keepalive(struct buf *b, enum emit_format format)
{
	if (format != EMIT_TEXT)
		LIT(b, ": keep-alive\n\n");
}

bool
emit_parse_id(struct span id, uint64_t *offset, bool *ended)
{
	uint64_t n = 0;
	size_t i = 0;

	for (; i < id.len && id.p[i] >= '0' && id.p[i] <= '9'; i++)
		if (__builtin_mul_overflow(n, 10, &n) ||
		    __builtin_add_overflow(n, (uint64_t)(id.p[i] - '0'), &n))
			return false;
	if (i == 0 || (id.p[0] == '0' && i > 1))
		return false;
	id = (struct span){id.p + i, id.len - i};
	if (id.len > 0 && !span_eq(id, "-m") && !span_eq(id, "-e") && !span_eq(id, "-b"))
		return false;
	*offset = n;
	*ended = span_eq(id, "-e");
	return true;
}

void
emit_error_body(struct buf *b, const char *type, const char *code, const char *param,
    struct span message)
{
	LIT(b, "{\"error\":");
	error_object(b, type, code, param, NULL, 0, message);
	LIT(b, "}");
}
