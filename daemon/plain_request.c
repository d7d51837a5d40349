/*
 * OpenAI's request fields, for who speaks another dialect.  Pure.
 */
#include "daemon/plain_request.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/utf8.h"

#define NUMBER_MAX 40 /* bytes of a number whose size is asked */

static const struct {
	const char *name;
	enum json_type type;
	double max; /* of a number, from -max or 0 */
} fields[PLAIN_FIELDS] = {
    [PLAIN_TEMPERATURE] = {"temperature", JSON_NUMBER, 2},
    [PLAIN_TOP_P] = {"top_p", JSON_NUMBER, 1},
    [PLAIN_TOP_K] = {"top_k", JSON_NUMBER, 1e9},
    [PLAIN_STOP] = {"stop", JSON_ARRAY, 0},
    [PLAIN_SEED] = {"seed", JSON_NUMBER, 0},
    [PLAIN_USER] = {"user", JSON_STRING, 0},
    [PLAIN_PRESENCE_PENALTY] = {"presence_penalty", JSON_NUMBER, 2},
    [PLAIN_FREQUENCY_PENALTY] = {"frequency_penalty", JSON_NUMBER, 2},
    [PLAIN_RESPONSE_FORMAT] = {"response_format", JSON_OBJECT, 0},
    [PLAIN_TOOLS] = {"tools", JSON_ARRAY, 0},
    [PLAIN_TOOL_CHOICE] = {"tool_choice", JSON_OBJECT, 0},
    [PLAIN_PARALLEL_TOOL_CALLS] = {"parallel_tool_calls", JSON_TRUE, 0},
    [PLAIN_REASONING_EFFORT] = {"reasoning_effort", JSON_STRING, 0},
    [PLAIN_THINKING] = {"thinking", JSON_OBJECT, 0},
};

bool
plain_says_nothing(struct json_value v)
{
	const char *it = NULL;
	struct json_value member;

	if (v.type == JSON_ARRAY || v.type == JSON_OBJECT)
		return !json_each(v, &it, NULL, &member);
	return v.type == JSON_NULL || v.type == JSON_FALSE || v.type == JSON_NONE;
}

static bool
is_penalty(enum plain_field field)
{
	return field == PLAIN_PRESENCE_PENALTY || field == PLAIN_FREQUENCY_PENALTY;
}

static int
no_place(const struct plain_dialect *dialect, const char *param, struct chat_fault *f)
{
	return chat_request_refuse(f, param,
	    "'%s' has no place in the %s dialect, which this model's provider speaks", param,
	    dialect->name);
}

/* -1 if it is none that a double holds well enough. */
static int
number(struct json_value v, double *out)
{
	char text[NUMBER_MAX + 1];

	if (v.type != JSON_NUMBER || v.len > NUMBER_MAX)
		return -1;
	memcpy(text, v.p, v.len);
	text[v.len] = '\0';
	*out = strtod(text, NULL);
	return 0;
}

static int
check_number(const struct plain_dialect *dialect, enum plain_field field, struct json_value v,
    struct chat_fault *f)
{
	const char *name = fields[field].name;
	double n, max = field == PLAIN_TEMPERATURE ? dialect->temperature_max : fields[field].max;
	double min = is_penalty(field) ? -max : 0;
	int64_t whole;

	if (field == PLAIN_SEED || field == PLAIN_TOP_K) {
		if (!json_int(v, &whole) || (field == PLAIN_TOP_K && whole < 0))
			return chat_request_refuse(f, name, "'%s' must be a whole number", name);
		return 0;
	}
	if (number(v, &n) != 0)
		return chat_request_refuse(f, name, "'%s' must be a number", name);
	if (n > max || n < min)
		return chat_request_refuse(f, name,
		    "'%s' must be from %g to %g for a model of the %s dialect", name, min, max,
		    dialect->name);
	return 0;
}

static int
check_stop(struct json_value v, struct chat_fault *f)
{
	const char *it = NULL;
	struct json_value one;

	if (v.type == JSON_STRING && v.len > 2)
		return 0;
	while (v.type == JSON_ARRAY && json_each(v, &it, NULL, &one))
		if (one.type != JSON_STRING || one.len <= 2)
			return chat_request_refuse(f, "stop", "'stop' must hold texts");
	if (v.type != JSON_ARRAY)
		return chat_request_refuse(f, "stop", "'stop' must be a text or a list of texts");
	return 0;
}

static int
check_format(const struct plain_dialect *dialect, struct json_value v, struct json_value *out,
    struct chat_fault *f)
{
	static const char name[] = "response_format";
	struct json_value type, schema;

	if (v.type != JSON_OBJECT || !json_get(v, "type", &type))
		return chat_request_refuse(f, name, "'%s' must be an object with a type", name);
	if (json_is(type, "text"))
		return 0;
	if ((dialect->takes & 1u << PLAIN_RESPONSE_FORMAT) == 0)
		return no_place(dialect, name, f);
	if (json_is(type, "json_object")) {
		*out = type;
		return 0;
	}
	if (!json_is(type, "json_schema") || !json_get(v, "json_schema", &schema) ||
	    !json_get(schema, "schema", &schema) || schema.type != JSON_OBJECT)
		return chat_request_refuse(f, name,
		    "'%s' must be of type text, json_object, or json_schema with a schema", name);
	*out = schema;
	return 0;
}

static int
check_field(const struct plain_dialect *dialect, enum plain_field field, struct json_value v,
    struct plain_request *p, struct chat_fault *f)
{
	const char *name = fields[field].name;
	double n;

	if (field == PLAIN_RESPONSE_FORMAT)
		return check_format(dialect, v, &p->field[field], f);
	if ((dialect->takes & 1u << field) == 0) {
		/* A penalty of zero is none. */
		if (is_penalty(field) && number(v, &n) == 0 && n == 0)
			return 0;
		return no_place(dialect, name, f);
	}
	if ((field == PLAIN_USER || field == PLAIN_REASONING_EFFORT) && v.type != JSON_STRING)
		return chat_request_refuse(f, name, "'%s' must be a text", name);
	if (field == PLAIN_TOOLS && v.type != JSON_ARRAY)
		return chat_request_refuse(f, name, "'%s' must be a list", name);
	if (field == PLAIN_THINKING && v.type != JSON_OBJECT)
		return chat_request_refuse(f, name, "'%s' must be an object", name);
	if (field == PLAIN_PARALLEL_TOOL_CALLS && v.type != JSON_TRUE && v.type != JSON_FALSE)
		return chat_request_refuse(f, name, "'%s' must be true or false", name);
	if (field == PLAIN_STOP && check_stop(v, f) != 0)
		return -1;
	if (fields[field].type == JSON_NUMBER && check_number(dialect, field, v, f) != 0)
		return -1;
	p->field[field] = v;
	return 0;
}

/* A field by its name, as far as there is room for that, never half a character. */
static int
refuse_unknown(const struct plain_dialect *dialect, struct json_value key, struct chat_fault *f)
{
	struct buf name = {0};
	size_t n;

	json_decode_buf(key, &name);
	n = name.len < sizeof f->field - 1 ? name.len : sizeof f->field - 1;
	if (n > 0)
		memcpy(f->field, name.data, n);
	buf_free(&name);
	f->field[utf8_valid_prefix(f->field, n)] = '\0';
	return no_place(dialect, f->field, f);
}

int
plain_request_read(const struct plain_dialect *dialect, const struct chat_request *r,
    struct plain_request *p, struct chat_fault *f)
{
	const char *it = NULL;
	struct json_value key, v;
	int64_t n;
	int i;

	*p = (struct plain_request){0};
	while (json_each(r->root, &it, &key, &v)) {
		for (i = 0; i < PLAIN_FIELDS; i++)
			if (json_is(key, fields[i].name))
				break;
		/* Of all fields false says something only here. */
		if (plain_says_nothing(v) &&
		    (i != PLAIN_PARALLEL_TOOL_CALLS || v.type != JSON_FALSE))
			continue;
		if (json_is(key, "n")) {
			if (!json_int(v, &n) || n != 1)
				return chat_request_refuse(f, "n",
				    "'n' must be 1 for a model of the %s dialect", dialect->name);
			continue;
		}
		if (i == PLAIN_FIELDS && chat_request_is_ours(r, key))
			continue;
		if (i == PLAIN_FIELDS)
			return refuse_unknown(dialect, key, f);
		if (check_field(dialect, (enum plain_field)i, v, p, f) != 0)
			return -1;
	}
	return 0;
}

int
plain_refuse(
    const struct plain_dialect *dialect, const char *param, const char *what, struct chat_fault *f)
{
	return chat_request_refuse(f, param,
	    "'%s' has %s, which has no place in the %s dialect that this model's provider "
	    "speaks",
	    param, what, dialect->name);
}

int
plain_refuse_key(const struct plain_dialect *dialect, const char *param, const char *where,
    struct json_value key, struct chat_fault *f)
{
	char what[100];

	(void)refuse_unknown(dialect, key, f);
	snprintf(what, sizeof what, "%s with '%s'", where, f->field);
	return plain_refuse(dialect, param, what, f);
}

void
plain_content_write(struct json_value content, struct buf *b)
{
	const char *it = NULL;
	struct json_value part, text;
	bool first = true;

	buf_str(b, "\"");
	if (content.type == JSON_STRING)
		buf_add(b, content.p + 1, content.len - 2);
	while (content.type == JSON_ARRAY && json_each(content, &it, NULL, &part)) {
		if (!json_get(part, "text", &text) || text.type != JSON_STRING)
			continue;
		if (!first)
			buf_str(b, "\\n");
		first = false;
		buf_add(b, text.p + 1, text.len - 2);
	}
	buf_str(b, "\"");
}

void
plain_field_write(
    const struct plain_request *p, enum plain_field field, const char *key, struct buf *b)
{
	struct json_value v = p->field[field];

	if (v.type == JSON_NONE)
		return;
	buf_printf(b, "\"%s\":", key);
	buf_add(b, v.p, v.len);
	buf_str(b, ",");
}

void
plain_stop_write(const struct plain_request *p, const char *key, struct buf *b)
{
	struct json_value v = p->field[PLAIN_STOP];

	if (v.type == JSON_NONE)
		return;
	buf_printf(b, v.type == JSON_STRING ? "\"%s\":[" : "\"%s\":", key);
	buf_add(b, v.p, v.len);
	buf_str(b, v.type == JSON_STRING ? "]," : ",");
}
