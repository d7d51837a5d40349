/*
 * A request in OpenAI's dialect, which is the one that clients speak: nearly as it came.  Pure.
 */
#include <string.h>

#include "daemon/openai.h"

/* Streams are to end with their usage, whatever else the client wants of them. */
static void
write_manner(const struct chat_request *r, struct buf *b)
{
	const char *it = NULL;
	struct json_value options, key, value;

	if (r->whole && r->native == NULL) {
		buf_str(b, ",\"stream\":false,");
		return;
	}
	buf_str(b, ",\"stream\":true,\"stream_options\":{\"include_usage\":true");
	if (r->v1 && json_get(r->root, "stream_options", &options) && options.type == JSON_OBJECT)
		while (json_each(options, &it, &key, &value)) {
			if (json_is_like(key, "include_usage"))
				continue;
			buf_str(b, ",");
			buf_add(b, key.p, key.len);
			buf_str(b, ":");
			buf_add(b, value.p, value.len);
		}
	buf_str(b, "},");
}

int
openai_write(
    const struct config *cfg, const struct chat_request *r, struct buf *b, struct chat_fault *f)
{
	const char *upstream = cfg->model[r->model].upstream;
	const char *it = NULL;
	struct json_value key, value;

	(void)f;
	buf_str(b, "{\"model\":");
	buf_json(b, upstream, strlen(upstream));
	buf_str(b, ",\"messages\":");
	if (r->messages.type == JSON_ARRAY) {
		buf_add(b, r->messages.p, r->messages.len);
	} else {
		buf_str(b, "[{\"role\":\"user\",\"content\":");
		buf_add(b, r->message.p, r->message.len);
		buf_str(b, "}]");
	}
	while (json_each(r->root, &it, &key, &value)) {
		if (chat_request_is_ours(r, key))
			continue;
		buf_str(b, ",");
		buf_add(b, key.p, key.len);
		buf_str(b, ":");
		buf_add(b, value.p, value.len);
	}
	write_manner(r, b);
	return 0;
}

void
openai_limit(struct buf *b, bool max_completion_tokens, uint32_t max_tokens)
{
	buf_printf(b, "\"%s\":%u}", max_completion_tokens ? "max_completion_tokens" : "max_tokens",
	    max_tokens);
}
