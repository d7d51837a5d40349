/*
 * A request in Ollama's dialect.  Pure.
 */
#include <string.h>

#include "daemon/ollama.h"
#include "daemon/plain_request.h"

static const struct plain_dialect dialect = {
    .name = "ollama",
    .takes = 1u << PLAIN_TEMPERATURE | 1u << PLAIN_TOP_P | 1u << PLAIN_TOP_K | 1u << PLAIN_STOP |
             1u << PLAIN_SEED | 1u << PLAIN_PRESENCE_PENALTY | 1u << PLAIN_FREQUENCY_PENALTY |
             1u << PLAIN_RESPONSE_FORMAT,
    .temperature_max = 2,
    .empty_messages = true,
};

static void
write_message(struct buf *b, const char *role, struct json_value content)
{
	buf_printf(b, "{\"role\":\"%s\",\"content\":", role);
	plain_content_write(content, b);
	buf_str(b, "}");
}

static int
write_messages(const struct chat_request *r, struct buf *b, struct chat_fault *f)
{
	static const char *const name[] = {
	    [PLAIN_SYSTEM] = "system", [PLAIN_USER_SAYS] = "user", [PLAIN_ASSISTANT] = "assistant"};
	const char *it = NULL;
	struct json_value m, content;
	enum plain_role role;
	bool first = true;

	if (r->messages.type != JSON_ARRAY) {
		write_message(b, "user", r->message);
		return 0;
	}
	while (json_each(r->messages, &it, NULL, &m)) {
		if (plain_message_read(&dialect, m, &role, &content, f) != 0)
			return -1;
		if (!first)
			buf_str(b, ",");
		first = false;
		write_message(b, name[role], content);
	}
	return 0;
}

/* "json", or a schema as it came. */
static void
write_format(const struct plain_request *p, struct buf *b)
{
	if (p->field[PLAIN_RESPONSE_FORMAT].type == JSON_STRING)
		buf_str(b, "\"format\":\"json\",");
	else
		plain_field_write(p, PLAIN_RESPONSE_FORMAT, "format", b);
}

int
ollama_write(
    const struct config *cfg, const struct chat_request *r, struct buf *b, struct chat_fault *f)
{
	const char *upstream = cfg->model[r->model].upstream;
	struct plain_request p;

	if (plain_request_read(&dialect, r, &p, f) != 0)
		return -1;
	buf_str(b, "{\"model\":");
	buf_json(b, upstream, strlen(upstream));
	buf_str(b, ",\"messages\":[");
	if (write_messages(r, b, f) != 0)
		return -1;
	buf_str(b, "],\"stream\":true,");
	write_format(&p, b);
	buf_str(b, "\"options\":{");
	plain_field_write(&p, PLAIN_TEMPERATURE, "temperature", b);
	plain_field_write(&p, PLAIN_TOP_P, "top_p", b);
	plain_field_write(&p, PLAIN_TOP_K, "top_k", b);
	plain_field_write(&p, PLAIN_SEED, "seed", b);
	plain_field_write(&p, PLAIN_PRESENCE_PENALTY, "presence_penalty", b);
	plain_field_write(&p, PLAIN_FREQUENCY_PENALTY, "frequency_penalty", b);
	plain_stop_write(&p, "stop", b);
	return 0;
}

void
ollama_limit(struct buf *b, bool max_completion_tokens, uint32_t max_tokens)
{
	(void)max_completion_tokens;
	buf_printf(b, "\"num_predict\":%u}}", max_tokens);
}
