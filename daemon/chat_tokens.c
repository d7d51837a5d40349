/*
 * Tokens of a prompt.  Pure.
 *
 * What OpenAI's models read of a tool is not its JSON but a shorter text made of it, which is not
 * published.  The costs here are those that OpenAI's cookbook found by trying, and which give the
 * counts of its examples exactly.  It says nothing of schemas within schemas: their properties
 * count as if they were the tool's own.
 */
#include "daemon/chat_tokens.h"

#include <string.h>

#include "daemon/calibrate.h"

#define TOOL 7         /* a function */
#define TOOL_CL100K 10 /* of the models of that vocabulary */
#define PROPERTIES 3   /* once, where there are any */
#define PROPERTY 3
#define CHOICES (-3) /* a property with "enum" */
#define CHOICE 3
#define TOOLS_END 12
#define SCHEMA_DEPTH_MAX 16

struct chat_counter
chat_counter(const struct config_model *m)
{
	return (struct chat_counter){m->tokenizer, calibrate_scale(m), m->image_tokens};
}

uint32_t
chat_tokens_bytes(const struct chat_counter *c, const char *text, size_t len)
{
	return tokenizer_count(c->tokenizer, c->scale, text, len);
}

int
chat_tokens_text(const struct chat_counter *c, struct json_value text, uint32_t *tokens)
{
	struct buf b = {0};

	json_decode_buf(text, &b);
	if (b.failed)
		return -1;
	*tokens += chat_tokens_bytes(c, b.data, b.len);
	buf_free(&b);
	return 0;
}

uint32_t
chat_tokens_json(const struct chat_counter *c, struct json_value v)
{
	return chat_tokens_bytes(c, v.p, v.len);
}

/* Words, as a text has them and what stands for sounds or pictures has not? */
static bool
has_blank(struct json_value text)
{
	return memchr(text.p, ' ', text.len) != NULL || memmem(text.p, text.len, "\\n", 2) != NULL;
}

int
chat_tokens_unknown(const struct chat_counter *c, struct json_value v, uint32_t *tokens)
{
	const char *it = NULL;
	struct json_value text;

	while (json_each_string(v, &it, &text))
		if (!has_blank(text))
			*tokens += (uint32_t)(text.len / 16);
		else if (chat_tokens_text(c, text, tokens) != 0)
			return -1;
	return 0;
}

/* "name:type:description", without a full stop at the end. */
static int
count_line(const struct chat_counter *c, const struct json_value *part, size_t parts, int *tokens)
{
	struct buf b = {0};

	for (size_t i = 0; i < parts; i++) {
		if (i > 0)
			buf_str(&b, ":");
		if (part[i].type == JSON_STRING)
			json_decode_buf(part[i], &b);
	}
	if (b.failed)
		return -1;
	if (b.len > 0 && b.data[b.len - 1] == '.')
		b.len--;
	*tokens += (int)chat_tokens_bytes(c, b.data, b.len);
	buf_free(&b);
	return 0;
}

/* A property's schema beside its line: its choices, and the properties within it. */
static int count_schema(const struct chat_counter *, struct json_value schema, int depth, int *);

static int
count_property(const struct chat_counter *c, struct json_value name, struct json_value p, int depth,
    int *tokens)
{
	static const char *const keys[] = {"type", "description", "enum"};
	struct json_value v[3], choice;
	const char *it = NULL;

	json_get_many(p, keys, v, 3);
	*tokens += PROPERTY;
	if (count_line(c, (struct json_value[]){name, v[0], v[1]}, 3, tokens) != 0)
		return -1;
	if (v[2].type == JSON_ARRAY)
		*tokens += CHOICES;
	while (v[2].type == JSON_ARRAY && json_each(v[2], &it, NULL, &choice)) {
		uint32_t n = 0;

		if (choice.type != JSON_STRING)
			n = chat_tokens_json(c, choice);
		else if (chat_tokens_text(c, choice, &n) != 0)
			return -1;
		*tokens += CHOICE + (int)n;
	}
	return count_schema(c, p, depth + 1, tokens);
}

static int
count_schema(const struct chat_counter *c, struct json_value schema, int depth, int *tokens)
{
	static const char *const keys[] = {"properties", "items"};
	struct json_value v[2], name, p;
	const char *it = NULL;
	bool some = false;

	if (schema.type != JSON_OBJECT || depth > SCHEMA_DEPTH_MAX)
		return 0;
	json_get_many(schema, keys, v, 2);
	while (v[0].type == JSON_OBJECT && json_each(v[0], &it, &name, &p)) {
		if (!some)
			*tokens += PROPERTIES;
		some = true;
		if (count_property(c, name, p, depth, tokens) != 0)
			return -1;
	}
	return count_schema(c, v[1], depth + 1, tokens);
}

int
chat_tokens_tools(const struct chat_counter *c, struct json_value tools, uint32_t *tokens)
{
	static const char *const keys[] = {"name", "description", "parameters"};
	bool old = strcmp(tokenizer_name(c->tokenizer), "cl100k_base") == 0;
	struct json_value tool, function, v[3];
	const char *it = NULL;
	int n = 0;

	if (!tokenizer_exact(c->tokenizer) || tools.type != JSON_ARRAY) {
		*tokens += chat_tokens_json(c, tools);
		return 0;
	}
	while (json_each(tools, &it, NULL, &tool)) {
		if (!json_get(tool, "function", &function) || function.type != JSON_OBJECT)
			function = tool;
		json_get_many(function, keys, v, 3);
		n += old ? TOOL_CL100K : TOOL;
		if (count_line(c, v, 2, &n) != 0 || count_schema(c, v[2], 0, &n) != 0)
			return -1;
	}
	n += n > 0 ? TOOLS_END : 0;
	/* Of JSON that is no tool a model makes no more than it is. */
	*tokens += (size_t)n < tools.len ? (uint32_t)n : (uint32_t)tools.len;
	return 0;
}
