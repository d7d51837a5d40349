/*
 * Anthropic's request, checked, and in OpenAI's words.  Pure.
 *
 * What OpenAI's words cannot say is noted by its name and written as it came: the translation is
 * then good for counting only.  Three things are left out and said nothing about, because no
 * answer would be another for them: cache_control, metadata, and what was thought in earlier turns
 * (nobody else can check its signature).
 */
#include "daemon/messages_write.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "daemon/chat_keys.h"
#include "daemon/utf8.h"

#define THINK_LOW 2048    /* tokens of a budget up to which it is a low effort */
#define THINK_MEDIUM 8192 /* and a medium one */

static const char messages[] = "messages";

void
messages_raw(struct reading *x, struct json_value v)
{
	buf_add(x->b, v.p, v.len);
}

void
messages_comma(struct reading *x, bool *first)
{
	if (!*first)
		buf_str(x->b, ",");
	*first = false;
}

void
messages_lose(struct chat_fault *lost, const char *param, const char *fmt, ...)
{
	char what[120];
	va_list ap;

	if (lost->param != NULL)
		return;
	va_start(ap, fmt);
	vsnprintf(what, sizeof what, fmt, ap);
	va_end(ap);
	what[utf8_valid_prefix(what, strlen(what))] = '\0';
	(void)chat_request_refuse(
	    lost, param, "%s has no place in the dialect of this model's provider", what);
}

const char *
messages_name(struct json_value v, char out[static 40])
{
	struct buf b = {0};
	size_t n;

	json_decode_buf(v, &b);
	n = b.len < 39 ? b.len : 39;
	if (n > 0)
		memcpy(out, b.data, n);
	out[utf8_valid_prefix(out, n)] = '\0';
	buf_free(&b);
	return out;
}

bool
messages_say_nothing(struct json_value v)
{
	const char *it = NULL;
	struct json_value member;

	if (v.type == JSON_ARRAY || v.type == JSON_OBJECT)
		return !json_each(v, &it, NULL, &member);
	return v.type == JSON_NULL || v.type == JSON_FALSE || v.type == JSON_NONE;
}

void
messages_lose_others(struct reading *x, struct json_value object, const char *const known[],
    const char *param, const char *where)
{
	const char *it = NULL;
	struct json_value key, v;
	char name[40];

	while (json_each(object, &it, &key, &v)) {
		const char *const *k = known;

		while (*k != NULL && !json_is(key, *k))
			k++;
		if (*k == NULL && !messages_say_nothing(v) && !json_is(key, "cache_control"))
			messages_lose(&x->r->lost, param, "'%s' of %s in '%s'",
			    messages_name(key, name), where, param);
	}
}

static int
write_tool(struct reading *x, struct json_value tool)
{
	static const char *const known[] = {
	    "name", "description", "input_schema", "type", "strict", NULL};
	struct json_value v[5];
	char name[40];

	json_get_many(tool, known, v, 5);
	if (v[0].type != JSON_STRING)
		return chat_request_refuse(x->f, "tools", "'tools' has a tool without a 'name'");
	if (v[3].type == JSON_STRING && !json_is(v[3], "custom")) {
		messages_lose(&x->r->lost, "tools", "a tool of the type '%s' in 'tools'",
		    messages_name(v[3], name));
		messages_raw(x, tool);
		return 0;
	}
	if (v[2].type != JSON_OBJECT)
		return chat_request_refuse(
		    x->f, "tools", "'tools' has a tool without an 'input_schema'");
	messages_lose_others(x, tool, known, "tools", "a tool");
	buf_str(x->b, "{\"type\":\"function\",\"function\":{\"name\":");
	messages_raw(x, v[0]);
	if (v[1].type == JSON_STRING) {
		buf_str(x->b, ",\"description\":");
		messages_raw(x, v[1]);
	}
	buf_str(x->b, ",\"parameters\":");
	messages_raw(x, v[2]);
	buf_str(x->b, v[4].type == JSON_TRUE ? ",\"strict\":true}}" : "}}");
	return 0;
}

static int
write_choice(struct reading *x, struct json_value v)
{
	static const char *const keys[] = {"type", "name", "disable_parallel_tool_use"};
	struct json_value m[3];

	if (v.type == JSON_NONE || v.type == JSON_NULL)
		return 0;
	json_get_many(v, keys, m, 3);
	if (json_is(m[0], "auto")) {
		buf_str(x->b, ",\"tool_choice\":\"auto\"");
	} else if (json_is(m[0], "none")) {
		buf_str(x->b, ",\"tool_choice\":\"none\"");
	} else if (json_is(m[0], "any")) {
		buf_str(x->b, ",\"tool_choice\":\"required\"");
	} else if (json_is(m[0], "tool") && m[1].type == JSON_STRING) {
		buf_str(x->b, ",\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":");
		messages_raw(x, m[1]);
		buf_str(x->b, "}}");
	} else {
		return chat_request_refuse(x->f, "tool_choice",
		    "'tool_choice' must be of the type auto, any, none, or tool with a name");
	}
	if (m[2].type == JSON_TRUE && !json_is(m[0], "none"))
		buf_str(x->b, ",\"parallel_tool_calls\":false");
	return 0;
}

static int
write_tools(struct reading *x, struct json_value list, struct json_value choice)
{
	const char *it = NULL;
	struct json_value tool;
	bool first = true;

	if (list.type != JSON_NONE && list.type != JSON_NULL && list.type != JSON_ARRAY)
		return chat_request_refuse(x->f, "tools", "'tools' must be a list");
	if (list.type != JSON_ARRAY || messages_say_nothing(list))
		return 0;
	buf_str(x->b, ",\"tools\":[");
	while (json_each(list, &it, NULL, &tool)) {
		messages_comma(x, &first);
		if (write_tool(x, tool) != 0)
			return -1;
	}
	buf_str(x->b, "]");
	return write_choice(x, choice);
}

/* A budget becomes the effort that is nearest. */
static int
write_thinking(struct reading *x, struct json_value v)
{
	static const char *const keys[] = {"type", "budget_tokens"};
	struct json_value m[2];
	int64_t n;

	if (v.type == JSON_NONE || v.type == JSON_NULL)
		return 0;
	json_get_many(v, keys, m, 2);
	if (json_is(m[0], "disabled") || json_is(m[0], "adaptive"))
		return 0;
	if (!json_is(m[0], "enabled") || !json_int(m[1], &n) || n < 1 || n > UINT32_MAX - 1)
		return chat_request_refuse(x->f, "thinking",
		    "'thinking' must be of the type disabled, adaptive, or enabled with "
		    "'budget_tokens'");
	x->r->thinking = (uint32_t)n;
	buf_printf(x->b, ",\"reasoning_effort\":\"%s\"",
	    n <= THINK_LOW      ? "low"
	    : n <= THINK_MEDIUM ? "medium"
	                        : "high");
	return 0;
}

enum field {
	F_MODEL,
	F_MESSAGES,
	F_SYSTEM,
	F_MAX_TOKENS,
	F_STREAM,
	F_STOP,
	F_TEMPERATURE,
	F_TOP_P,
	F_TOP_K,
	F_TOOLS,
	F_TOOL_CHOICE,
	F_THINKING,
	F_METADATA,
	F_SERVICE_TIER,
	FIELDS
};

static const char *const field_name[FIELDS + 1] = {"model", "messages", "system", "max_tokens",
    "stream", "stop_sequences", "temperature", "top_p", "top_k", "tools", "tool_choice", "thinking",
    "metadata", "service_tier", NULL};

/* What is a number, or a list of texts, in both dialects. */
static int
write_sampling(struct reading *x, const struct json_value v[])
{
	static const struct {
		enum field field;
		const char *name;
	} numbers[] = {{F_TEMPERATURE, "temperature"}, {F_TOP_P, "top_p"}, {F_TOP_K, "top_k"}};

	for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
		struct json_value n = v[numbers[i].field];

		if (n.type == JSON_NONE || n.type == JSON_NULL)
			continue;
		if (n.type != JSON_NUMBER)
			return chat_request_refuse(
			    x->f, numbers[i].name, "'%s' must be a number", numbers[i].name);
		buf_printf(x->b, ",\"%s\":", numbers[i].name);
		messages_raw(x, n);
		if (numbers[i].field == F_TOP_K)
			messages_lose(&x->r->lost_openai, "top_k", "'top_k'");
	}
	if (messages_say_nothing(v[F_STOP]))
		return 0;
	if (v[F_STOP].type != JSON_ARRAY)
		return chat_request_refuse(
		    x->f, "stop_sequences", "'stop_sequences' must be a list of texts");
	buf_str(x->b, ",\"stop\":");
	messages_raw(x, v[F_STOP]);
	return 0;
}

static void
lose_fields(struct reading *x)
{
	const char *it = NULL;
	struct json_value key, v;
	struct chat_fault *lost = &x->r->lost;

	while (json_each(x->r->root, &it, &key, &v)) {
		int i = 0;

		while (i < FIELDS && !json_is(key, field_name[i]))
			i++;
		if (messages_say_nothing(v) || lost->param != NULL)
			continue;
		if (i == F_SERVICE_TIER && !json_is(v, "auto"))
			messages_lose(lost, "service_tier", "'service_tier'");
		if (i < FIELDS)
			continue;
		(void)messages_name(key, lost->field);
		messages_lose(lost, lost->field, "'%s'", lost->field);
	}
}

static int
check_limit(struct reading *x, struct json_value v, bool bare)
{
	int64_t n;

	if (v.type == JSON_NONE && bare)
		return 0;
	if (v.type == JSON_NONE)
		return chat_request_refuse(x->f, "max_tokens", "'max_tokens' is missing");
	if (!json_int(v, &n) || n < 1)
		return chat_request_refuse(
		    x->f, "max_tokens", "'max_tokens' must be a whole number above zero");
	if (x->r->thinking > 0 && n <= x->r->thinking)
		return chat_request_refuse(x->f, "max_tokens",
		    "'max_tokens' must be more than 'budget_tokens' of 'thinking'");
	buf_str(x->b, ",\"max_tokens\":");
	messages_raw(x, v);
	return 0;
}

static int
write(struct reading *x, bool bare)
{
	struct json_value v[FIELDS];

	json_get_many(x->r->root, field_name, v, FIELDS);
	if (v[F_STREAM].type != JSON_NONE && v[F_STREAM].type != JSON_TRUE &&
	    v[F_STREAM].type != JSON_FALSE)
		return chat_request_refuse(x->f, "stream", "'stream' must be true or false");
	buf_printf(x->b, "{\"stream\":%s", v[F_STREAM].type == JSON_TRUE ? "true" : "false");
	if (v[F_MODEL].type != JSON_NONE) {
		buf_str(x->b, ",\"model\":");
		messages_raw(x, v[F_MODEL]);
	}
	if (v[F_MESSAGES].type == JSON_NONE)
		return chat_request_refuse(x->f, messages, "'messages' is missing");
	if (messages_write(x, v[F_SYSTEM], v[F_MESSAGES]) != 0 ||
	    write_tools(x, v[F_TOOLS], v[F_TOOL_CHOICE]) != 0 || write_sampling(x, v) != 0 ||
	    write_thinking(x, v[F_THINKING]) != 0 || check_limit(x, v[F_MAX_TOKENS], bare) != 0)
		return -1;
	buf_str(x->b, "}");
	lose_fields(x);
	return 0;
}

int
messages_request_read(struct span body, bool bare, struct messages_request *r, struct chat_fault *f)
{
	struct reading x = {r, &r->openai, f};
	enum json_error e;
	size_t at;

	*r = (struct messages_request){0};
	*f = (struct chat_fault){0};
	e = json_check(body.p, body.len, &r->root, &at);
	if (e != JSON_OK || r->root.type != JSON_OBJECT) {
		f->status = 400;
		f->code = "invalid_json";
		if (e != JSON_OK)
			snprintf(f->message, sizeof f->message,
			    "the body is not JSON: %s at byte %zu", json_error_text(e), at);
		else
			snprintf(f->message, sizeof f->message, "the body must be a JSON object");
		return -1;
	}
	if (chat_keys_check(r->root, field_name, f) != 0 || write(&x, bare) != 0)
		return -1;
	if (r->openai.failed) {
		*f = (struct chat_fault){
		    .status = 503, .code = "overloaded", .message = "out of memory"};
		return -1;
	}
	return 0;
}

void
messages_request_free(struct messages_request *r)
{
	buf_free(&r->openai);
}

void
messages_request_fault(const struct messages_request *r, struct chat_fault *f)
{
	static const struct {
		const char *theirs, *ours;
	} names[] = {{"stop", "stop_sequences"}, {"parallel_tool_calls", "tool_choice"},
	    {"reasoning_effort", "thinking"}, {"max_completion_tokens", "max_tokens"}};

	/* What was lost has the client's name already. */
	if (f->param == NULL || f->param == r->lost.param)
		return;
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		if (strcmp(f->param, names[i].theirs) == 0)
			(void)chat_request_refuse(f, names[i].ours,
			    "'%s', as it is here, has no place in the dialect of this model's "
			    "provider",
			    names[i].ours);
}
