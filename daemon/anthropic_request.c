/*
 * A request in the dialect of Anthropic's Messages API.  Pure.
 *
 * Its messages are the user's and the assistant's; what systems and developers say stands apart,
 * all of it in front, wherever it stood.
 */
#include <string.h>

#include "daemon/anthropic.h"
#include "daemon/plain_request.h"

static const struct plain_dialect dialect = {
    .name = "anthropic",
    .takes = 1u << PLAIN_TEMPERATURE | 1u << PLAIN_TOP_P | 1u << PLAIN_TOP_K | 1u << PLAIN_STOP |
             1u << PLAIN_USER,
    .temperature_max = 1,
    .parts = true,
};

static bool
is_blank(struct json_value text)
{
	char bytes[32];
	size_t n = 0;

	if (text.len > sizeof bytes)
		return false; /* or the provider's to refuse */
	n = json_decode(text, bytes);
	for (size_t i = 0; i < n; i++)
		if (bytes[i] != ' ' && bytes[i] != '\t' && bytes[i] != '\r' && bytes[i] != '\n')
			return false;
	return true;
}

/* Its stop sequences must hold more than white space. */
static int
check_stop(struct json_value v, struct chat_fault *f)
{
	const char *it = NULL;
	struct json_value one;
	bool blank = v.type == JSON_STRING && is_blank(v);

	while (json_each(v, &it, NULL, &one))
		blank |= is_blank(one);
	return blank ? chat_request_refuse(f, "stop",
	                   "'stop' must hold more than white space for "
	                   "a model of the anthropic dialect")
	             : 0;
}

static void
write_turn(struct buf *b, const char *role, struct json_value content, bool *first)
{
	buf_printf(b, "%s{\"role\":\"%s\",\"content\":", *first ? "" : ",", role);
	*first = false;
	buf_add(b, content.p, content.len); /* parts of text look the same in both dialects */
	buf_str(b, "}");
}

static int
write_messages(const struct chat_request *r, struct buf *b, unsigned *systems, struct chat_fault *f)
{
	const char *it = NULL;
	struct json_value m, content;
	enum plain_role role;
	bool first = true;

	*systems = 0;
	if (r->messages.type != JSON_ARRAY) {
		write_turn(b, "user", r->message, &first);
		return 0;
	}
	while (json_each(r->messages, &it, NULL, &m)) {
		if (plain_message_read(&dialect, m, &role, &content, f) != 0)
			return -1;
		if (role == PLAIN_SYSTEM)
			++*systems;
		else
			write_turn(
			    b, role == PLAIN_ASSISTANT ? "assistant" : "user", content, &first);
	}
	if (first)
		return chat_request_refuse(f, "messages",
		    "'messages' must hold one of the user's "
		    "for a model of the anthropic dialect");
	return 0;
}

/* Each of them is a block of text, or as many as it has parts. */
static void
write_systems(const struct chat_request *r, struct buf *b)
{
	const char *it = NULL, *parts;
	struct json_value m, role, content, part;
	bool first = true;

	buf_str(b, ",\"system\":[");
	while (json_each(r->messages, &it, NULL, &m)) {
		if (!json_get(m, "role", &role) || !json_get(m, "content", &content) ||
		    !(json_is(role, "system") || json_is(role, "developer")))
			continue;
		if (content.type == JSON_STRING) {
			buf_printf(b, "%s{\"type\":\"text\",\"text\":", first ? "" : ",");
			buf_add(b, content.p, content.len);
			buf_str(b, "}");
			first = false;
		}
		for (parts = NULL; json_each(content, &parts, NULL, &part); first = false) {
			buf_str(b, first ? "" : ",");
			buf_add(b, part.p, part.len);
		}
	}
	buf_str(b, "]");
}

int
anthropic_write(
    const struct config *cfg, const struct chat_request *r, struct buf *b, struct chat_fault *f)
{
	const char *upstream = cfg->model[r->model].upstream;
	struct plain_request p;
	unsigned systems;

	if (plain_request_read(&dialect, r, &p, f) != 0 || check_stop(p.field[PLAIN_STOP], f) != 0)
		return -1;
	buf_str(b, "{\"model\":");
	buf_json(b, upstream, strlen(upstream));
	buf_str(b, ",\"messages\":[");
	if (write_messages(r, b, &systems, f) != 0)
		return -1;
	buf_str(b, "]");
	if (systems > 0)
		write_systems(r, b);
	buf_str(b, ",\"stream\":true,");
	plain_field_write(&p, PLAIN_TEMPERATURE, "temperature", b);
	plain_field_write(&p, PLAIN_TOP_P, "top_p", b);
	plain_field_write(&p, PLAIN_TOP_K, "top_k", b);
	plain_stop_write(&p, "stop_sequences", b);
	if (p.field[PLAIN_USER].type != JSON_NONE) {
		buf_str(b, "\"metadata\":{");
		plain_field_write(&p, PLAIN_USER, "user_id", b);
		b->len -= b->failed ? 0 : 1; /* the comma */
		buf_str(b, "},");
	}
	return 0;
}

void
anthropic_limit(struct buf *b, bool max_completion_tokens, uint32_t max_tokens)
{
	(void)max_completion_tokens;
	buf_printf(b, "\"max_tokens\":%u}", max_tokens);
}
