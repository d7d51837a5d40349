/*
 * What a client may say to /chat/preview, /chat/send and /v1/chat/completions.  Pure.
 *
 * Our own fields are model, message or messages, session_id, and the token limit; everything
 * else is a sampling field of OpenAI's and goes to the provider as it came.  What would change
 * how the answer is metered (n, stream options) is ours to set.  On /v1 there are neither message
 * nor session_id, and n may be more than one.
 */
#include "daemon/chat_request.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/chat_keys.h"
#include "daemon/chat_tokens.h"
#include "daemon/ids.h"

enum field {
	F_MODEL,
	F_MESSAGE,
	F_MESSAGES,
	F_SESSION,
	F_MAX_TOKENS,
	F_MAX_COMPLETION_TOKENS,
	F_N,
	F_STREAM,
	F_STREAM_OPTIONS,
	FIELDS
};

/* OpenAI's bound for n. */
#define CHOICES_MAX 128
/*
 * Content that is no text is prompt, too, and how much of it is the provider's secret.  Of a
 * picture the config says what it may count (image_tokens); this is the most that any model of
 * OpenAI's makes of one.  Anything else is inside the request (a token is a byte at least), or is
 * only named there.
 */
#define IMAGE_TOKENS_MAX 50000
#define NAMED_TOKENS_MAX 200000
#define TOOLS_TOKENS_MAX 1024

/* Also the list of what is not passed on as it came. */
static const char *const field_name[FIELDS + 1] = {
    "model",
    "message",
    "messages",
    "session_id",
    "max_tokens",
    "max_completion_tokens",
    "n",
    "stream",
    "stream_options",
};

static int fault(struct chat_fault *, int status, const char *code, const char *param,
    const char *fmt, ...) __attribute__((format(printf, 5, 6)));

static int
fault(struct chat_fault *f, int status, const char *code, const char *param, const char *fmt, ...)
{
	va_list ap;

	f->status = status;
	f->code = code;
	f->param = param;
	va_start(ap, fmt);
	vsnprintf(f->message, sizeof f->message, fmt, ap);
	va_end(ap);
	return -1;
}

int
chat_request_refuse(struct chat_fault *f, const char *param, const char *fmt, ...)
{
	va_list ap;

	f->status = 400;
	f->code = "invalid_request";
	f->param = param;
	va_start(ap, fmt);
	vsnprintf(f->message, sizeof f->message, fmt, ap);
	va_end(ap);
	return -1;
}

static int
invalid(struct chat_fault *f, const char *param, const char *what)
{
	return fault(f, 400, "invalid_request", param, "'%s' %s", param, what);
}

/* A part of a content that is no text: by its kind, and what it may cost at most. */
static int
count_part(const struct chat_counter *c, struct chat_request *r, struct json_value part,
    struct json_value type, struct chat_fault *f)
{
	if (!r->v1)
		return invalid(f, "messages", "has a content part that is not text");
	if (type.type != JSON_STRING)
		return invalid(f, "messages", "has a content part without a type");
	if (json_is(type, "image_url")) {
		r->prompt_tokens += c->image_tokens;
		r->prompt_bytes += IMAGE_TOKENS_MAX;
		return 0;
	}
	r->prompt_bytes += NAMED_TOKENS_MAX;
	return chat_tokens_unknown(c, part, &r->prompt_tokens);
}

/* A message's content: a string, an array of parts, or null (an assistant's tool call). */
static int
count_content(const struct chat_counter *c, struct chat_request *r, struct json_value content,
    struct chat_fault *f)
{
	const char *it = NULL;
	struct json_value part, type, text;

	if (content.type == JSON_STRING)
		return chat_tokens_text(c, content, &r->prompt_tokens);
	if (content.type == JSON_NULL || content.type == JSON_NONE)
		return 0;
	if (content.type != JSON_ARRAY)
		return invalid(f, "messages", "has a content that is neither text nor parts");
	while (json_each(content, &it, NULL, &part)) {
		if (part.type != JSON_OBJECT || !json_get(part, "type", &type))
			type = (struct json_value){0};
		if (!json_is(type, "text") || !json_get(part, "text", &text) ||
		    text.type != JSON_STRING) {
			if (count_part(c, r, part, type, f) != 0)
				return -1;
		} else if (chat_tokens_text(c, text, &r->prompt_tokens) != 0) {
			return -1;
		}
	}
	return 0;
}

static bool
known_role(struct json_value role)
{
	static const char *const roles[] = {"user", "assistant", "system", "developer", "tool",
	    "function"};

	for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
		if (json_is(role, roles[i]))
			return true;
	return false;
}

static int
count_messages(const struct chat_counter *c, struct chat_request *r, struct chat_fault *f)
{
	static const char *const keys[] = {"role", "content", "name", "refusal", "tool_calls",
	    "function_call"};
	const char *it = NULL;
	struct json_value m, v[6];
	size_t n = 0;

	while (json_each(r->messages, &it, NULL, &m)) {
		if (m.type != JSON_OBJECT)
			return invalid(f, "messages", "must hold objects");
		json_get_many(m, keys, v, 6);
		if (v[0].type != JSON_STRING || !known_role(v[0]))
			return invalid(f, "messages", "has a message without a known role");
		r->prompt_tokens += CHAT_TOKENS_MESSAGE;
		r->prompt_bytes += 64;
		if (chat_tokens_text(c, v[0], &r->prompt_tokens) != 0 ||
		    count_content(c, r, v[1], f) != 0)
			return -1;
		if (v[2].type == JSON_STRING)
			r->prompt_tokens += CHAT_TOKENS_NAME;
		for (int i = 2; i < 4; i++)
			if (v[i].type == JSON_STRING &&
			    chat_tokens_text(c, v[i], &r->prompt_tokens) != 0)
				return -1;
		/* A tool call's JSON is prompt too; its text is at least as long as what counts. */
		for (int i = 4; i < 6; i++)
			if (v[i].type == JSON_ARRAY || v[i].type == JSON_OBJECT)
				r->prompt_tokens += chat_tokens_json(c, v[i]);
		n++;
	}
	if (n == 0)
		return invalid(f, "messages", "must not be empty");
	return 0;
}

/*
 * Fields that only the provider knows may hold a prompt (documents, say): who leaves before the
 * usage comes would have it read for nothing.
 */
static int
count_others(const struct chat_counter *c, struct chat_request *r)
{
	static const char *const none[] = {"tools", "functions", "response_format", "metadata",
	    "user", "stop", "safety_identifier", "prompt_cache_key"};
	const char *it = NULL;
	struct json_value key, v;

	while (json_each(r->root, &it, &key, &v)) {
		bool known = false;

		for (int i = 0; i < FIELDS && !known; i++)
			known = json_is(key, field_name[i]);
		for (size_t i = 0; i < sizeof none / sizeof *none && !known; i++)
			known = json_is(key, none[i]);
		if (!known && chat_tokens_unknown(c, v, &r->prompt_tokens) != 0)
			return -1;
	}
	return 0;
}

/* What the provider adds to the prompt out of other fields. */
static int
count_extras(const struct chat_counter *c, struct chat_request *r)
{
	static const char *const keys[] = {"tools", "functions", "response_format"};
	struct json_value v[3];

	json_get_many(r->root, keys, v, 3);
	for (int i = 0; i < 3; i++) {
		if (v[i].type == JSON_NONE || v[i].type == JSON_NULL)
			continue;
		if (i == 2)
			r->prompt_tokens += chat_tokens_json(c, v[i]);
		else if (chat_tokens_tools(c, v[i], &r->prompt_tokens) != 0)
			return -1;
		/* A template may write it longer, and Anthropic's models are told of tools in some
		 * 500 tokens of their own. */
		r->prompt_bytes += v[i].len + TOOLS_TOKENS_MAX;
	}
	return count_others(c, r);
}

static int
parse_model(const struct config *cfg, struct json_value v, struct chat_request *r,
    struct chat_fault *f)
{
	char name[256];
	size_t n;

	if (v.type == JSON_NONE) {
		if (cfg->default_model[0] == '\0')
			return invalid(f, "model", "is missing");
		r->model = config_model(cfg, cfg->default_model, strlen(cfg->default_model));
		return 0;
	}
	if (v.type != JSON_STRING || v.len > sizeof name)
		return invalid(f, "model", "must be a model's name");
	n = json_decode(v, name);
	r->model = config_model(cfg, name, n);
	if (r->model < 0)
		return fault(f, 404, "model_not_found", "model",
		    "there is no model of that name here for this key");
	return 0;
}

static int
parse_limit(const struct config *cfg, const struct json_value v[], struct chat_request *r,
    struct chat_fault *f)
{
	const struct config_model *m = &cfg->model[r->model];
	struct json_value limit = v[F_MAX_TOKENS];
	const char *name = "max_tokens";
	int64_t n;

	if (v[F_MAX_COMPLETION_TOKENS].type != JSON_NONE &&
	    v[F_MAX_COMPLETION_TOKENS].type != JSON_NULL) {
		limit = v[F_MAX_COMPLETION_TOKENS];
		name = "max_completion_tokens";
		r->max_completion_tokens = true;
	}
	r->max_tokens = m->max_completion;
	if (limit.type != JSON_NONE && limit.type != JSON_NULL) {
		if (!json_int(limit, &n) || n < 1)
			return invalid(f, name, "must be a whole number above zero");
		if (n < r->max_tokens)
			r->max_tokens = (uint32_t)n;
	}
	if (m->context > 0) {
		if (r->prompt_tokens >= m->context)
			return fault(f, 400, "invalid_request",
			    r->messages.type == JSON_NONE ? "message" : "messages",
			    "the prompt is about %u tokens; the model's context holds %u",
			    r->prompt_tokens, m->context);
		if (r->max_tokens > m->context - r->prompt_tokens)
			r->max_tokens = m->context - r->prompt_tokens;
	}
	r->max_tokens = r->max_tokens <= UINT32_MAX / r->choices ? r->max_tokens * r->choices
								  : UINT32_MAX;
	return 0;
}

/* How many answers, and how they are to come. */
static int
parse_manner(const struct json_value v[], struct chat_request *r, struct chat_fault *f)
{
	struct json_value usage;
	int64_t n = 1;

	if (v[F_N].type != JSON_NONE && v[F_N].type != JSON_NULL &&
	    (!json_int(v[F_N], &n) || n < 1 || n > CHOICES_MAX || (n > 1 && !r->v1)))
		return invalid(f, "n", r->v1 ? "must be from 1 to 128" : "must be 1 here");
	r->choices = (uint32_t)n;
	if (v[F_STREAM_OPTIONS].type == JSON_OBJECT &&
	    json_get(v[F_STREAM_OPTIONS], "include_usage", &usage))
		r->include_usage = usage.type == JSON_TRUE;
	if (!r->v1)
		return 0;
	if (v[F_STREAM].type != JSON_NONE && v[F_STREAM].type != JSON_NULL &&
	    v[F_STREAM].type != JSON_TRUE && v[F_STREAM].type != JSON_FALSE)
		return invalid(f, "stream", "must be true or false");
	r->whole = v[F_STREAM].type != JSON_TRUE;
	if (v[F_STREAM_OPTIONS].type != JSON_NONE && v[F_STREAM_OPTIONS].type != JSON_NULL &&
	    (v[F_STREAM_OPTIONS].type != JSON_OBJECT || r->whole))
		return invalid(f, "stream_options",
		    r->whole ? "is only for streams" : "must be an object");
	return 0;
}

static int
parse_prompt(const struct config *cfg, const struct json_value v[], struct chat_request *r,
    struct chat_fault *f)
{
	struct chat_counter c = chat_counter(&cfg->model[r->model]);

	if (r->v1 && v[F_MESSAGES].type == JSON_NONE)
		return invalid(f, "messages", "is missing");
	f->status = 0;
	r->prompt_tokens = CHAT_TOKENS_REQUEST;
	/* Any field that is passed on may be prompt to the provider: if the bound were less than
	 * all of them, what is sent in one that we don't count would not be charged. */
	r->prompt_bytes = r->root.len + 64;
	if (!r->v1 && (v[F_MESSAGE].type == JSON_NONE) == (v[F_MESSAGES].type == JSON_NONE))
		return invalid(f, v[F_MESSAGE].type == JSON_NONE ? "message" : "messages",
		    v[F_MESSAGE].type == JSON_NONE ? "is missing"
						   : "and 'message' can't both be given");
	if (!r->v1 && v[F_MESSAGE].type != JSON_NONE) {
		if (v[F_MESSAGE].type != JSON_STRING || v[F_MESSAGE].len <= 2)
			return invalid(f, "message", "must be a text that is not empty");
		r->message = v[F_MESSAGE];
		r->prompt_tokens += CHAT_TOKENS_MESSAGE + chat_tokens_bytes(&c, "user", 4);
		r->prompt_bytes += 64;
		if (chat_tokens_text(&c, r->message, &r->prompt_tokens) != 0)
			return -1;
	} else {
		if (v[F_MESSAGES].type != JSON_ARRAY)
			return invalid(f, "messages", "must be an array");
		r->messages = v[F_MESSAGES];
		if (count_messages(&c, r, f) != 0)
			return -1;
	}
	return count_extras(&c, r);
}

static int
parse_object(struct span body, struct chat_request *r, struct chat_fault *f)
{
	enum json_error e;
	size_t at;

	e = json_check(body.p, body.len, &r->root, &at);
	if (e != JSON_OK)
		return fault(f, 400, "invalid_json", NULL, "the body is not JSON: %s at byte %zu",
		    json_error_text(e), at);
	if (r->root.type != JSON_OBJECT)
		return fault(f, 400, "invalid_json", NULL, "the body must be a JSON object");
	return 0;
}

int
chat_request_parse_model(const struct config *cfg, struct span body, struct chat_request *r,
    struct chat_fault *f)
{
	struct json_value model;

	*r = (struct chat_request){0};
	if (parse_object(body, r, f) != 0)
		return -1;
	if (!json_get(r->root, "model", &model))
		model = (struct json_value){0};
	return parse_model(cfg, model, r, f);
}

static int
parse(const struct config *cfg, struct span body, struct chat_request *r, struct chat_fault *f)
{
	struct json_value v[FIELDS];

	if (parse_object(body, r, f) != 0 || chat_keys_check(r->root, field_name, f) != 0 ||
	    chat_keys_check_words(r->root, f) != 0)
		return -1;
	json_get_many(r->root, field_name, v, FIELDS);
	if (parse_model(cfg, v[F_MODEL], r, f) != 0 ||
	    chat_keys_check_refused(cfg, r->model, r->root, f) != 0)
		return -1;
	if (!r->v1 && v[F_SESSION].type != JSON_NONE && v[F_SESSION].type != JSON_NULL) {
		if (v[F_SESSION].type != JSON_STRING || v[F_SESSION].len != ID_LEN + 2 ||
		    !id_parse(v[F_SESSION].p + 1, ID_LEN, r->session_id))
			return invalid(f, "session_id", "is not one that was given out here");
		r->has_session = true;
	}
	if (parse_manner(v, r, f) != 0)
		return -1;
	if (parse_prompt(cfg, v, r, f) != 0) {
		if (f->status == 0)
			return fault(f, 503, "overloaded", NULL, "out of memory");
		return -1;
	}
	return parse_limit(cfg, v, r, f);
}

int
chat_request_parse(const struct config *cfg, struct span body, struct chat_request *r,
    struct chat_fault *f)
{
	*r = (struct chat_request){0};
	return parse(cfg, body, r, f);
}

int
chat_request_parse_v1(const struct config *cfg, struct span body, struct chat_request *r,
    struct chat_fault *f)
{
	*r = (struct chat_request){.v1 = true};
	return parse(cfg, body, r, f);
}

bool
chat_request_is_ours(const struct chat_request *r, struct json_value key)
{
	for (int i = 0; i < FIELDS; i++)
		if (json_is(key, field_name[i]))
			return !r->v1 || (i != F_MESSAGE && i != F_SESSION && i != F_N);
	return false;
}

void
chat_request_put_past(const struct config *cfg, struct chat_request *r, struct json_value messages,
    uint32_t tokens)
{
	uint32_t context = cfg->model[r->model].context;

	r->messages = messages;
	r->prompt_tokens += tokens;
	/* What is around each message in the JSON is more than what a model's template puts there. */
	r->prompt_bytes += messages.len;
	if (context > 0 && r->max_tokens > context - r->prompt_tokens)
		r->max_tokens = context - r->prompt_tokens;
}

struct json_value
chat_request_said(const struct chat_request *r)
{
	const char *it = NULL;
	struct json_value m, last = {0};

	if (r->message.type == JSON_STRING || r->messages.type != JSON_ARRAY)
		return r->message;
	while (json_each(r->messages, &it, NULL, &m))
		last = m;
	return last;
}
