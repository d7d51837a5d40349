/* Reads what a client of the simulated provider sent.  Trusts none of it. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "request.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static void
copy_bounded(char *dst, size_t size, const char *src, size_t len)
{
	if (len >= size)
		len = size - 1;
	memcpy(dst, src, len);
	dst[len] = '\0';
}

static bool
value_has(const char *v, size_t len, const char *word)
{
	size_t n = strlen(word);

	for (size_t i = 0; i + n <= len; i++)
		if (strncasecmp(v + i, word, n) == 0)
			return true;
	return false;
}

static int
header_take(struct request *rq, const char *name, size_t name_len, const char *v, size_t len)
{
#define IS(s) (name_len == sizeof(s) - 1 && strncasecmp(name, s, sizeof(s) - 1) == 0)
	if (IS("content-length")) {
		if (len == 0 || len > 18)
			return -1;
		rq->length = 0;
		for (size_t i = 0; i < len; i++) {
			if (v[i] < '0' || v[i] > '9')
				return -1;
			rq->length = rq->length * 10 + (v[i] - '0');
		}
	} else if (IS("transfer-encoding")) {
		rq->chunked = value_has(v, len, "chunked");
	} else if (IS("connection")) {
		if (value_has(v, len, "close"))
			rq->keepalive = false;
		else if (value_has(v, len, "keep-alive"))
			rq->keepalive = true;
	} else if (IS("expect")) {
		rq->expect = value_has(v, len, "100-continue");
	} else if (IS("user-agent")) {
		copy_bounded(rq->ua, sizeof(rq->ua), v, len);
	} else if (IS("x-request-id")) {
		copy_bounded(rq->id, sizeof(rq->id), v, len);
	} else if (IS("authorization")) {
		rq->auth = true;
		if (len > 7 && strncasecmp(v, "bearer ", 7) == 0)
			copy_bounded(rq->bearer, sizeof(rq->bearer), v + 7, len - 7);
	} else if (IS("x-api-key")) {
		rq->auth = true;
		copy_bounded(rq->api_key, sizeof(rq->api_key), v, len);
	} else if (IS("anthropic-version")) {
		copy_bounded(rq->version, sizeof(rq->version), v, len);
	}
	return 0;
#undef IS
}

static int
request_line(struct request *rq, const char *p, size_t len)
{
	const char *sp = memchr(p, ' ', len), *sp2, *target, *query;
	size_t target_len;

	if (sp == NULL || (size_t)(sp - p) >= sizeof(rq->method))
		return -1;
	copy_bounded(rq->method, sizeof(rq->method), p, (size_t)(sp - p));
	target = sp + 1;
	sp2 = memchr(target, ' ', len - (size_t)(target - p));
	if (sp2 == NULL || len - (size_t)(sp2 - p) != 9 || memcmp(sp2, " HTTP/1.", 8) != 0)
		return -1;
	rq->http10 = sp2[8] == '0';
	rq->keepalive = !rq->http10;
	target_len = (size_t)(sp2 - target);
	query = memchr(target, '?', target_len);
	if (query != NULL)
		target_len = (size_t)(query - target);
	copy_bounded(rq->target, sizeof(rq->target), target, target_len);
	if (strcmp(rq->target, "/api/chat") == 0)
		rq->dialect = SPEAK_OLLAMA;
	else if (strcmp(rq->target, "/v1/messages") == 0)
		rq->dialect = SPEAK_ANTHROPIC;
	else if (strcmp(rq->target, "/v1/messages/count_tokens") == 0) {
		rq->dialect = SPEAK_ANTHROPIC;
		rq->count = true;
	}
	return 0;
}

ssize_t
request_head(struct request *rq, const char *buf, size_t len)
{
	const char *end = memmem(buf, len, "\r\n\r\n", 4), *p, *eol;

	if (end == NULL)
		return len > REQUEST_HEAD_MAX ? -431 : 0;
	if (end - buf > REQUEST_HEAD_MAX)
		return -431;
	*rq = (struct request){0};
	eol = memmem(buf, len, "\r\n", 2);
	if (request_line(rq, buf, (size_t)(eol - buf)) != 0)
		return -400;
	while (eol < end) {
		const char *colon, *v;

		p = eol + 2;
		eol = memmem(p, (size_t)(end + 2 - p), "\r\n", 2);
		colon = memchr(p, ':', (size_t)(eol - p));
		if (colon == NULL || colon == p)
			return -400;
		for (v = colon + 1; v < eol && (*v == ' ' || *v == '\t'); v++)
			;
		if (header_take(rq, p, (size_t)(colon - p), v, (size_t)(eol - v)) != 0)
			return -400;
	}
	return end + 4 - buf;
}

/* One pass over a chunked body; moves the data to the front only where `move` says so. */
static ssize_t
unchunk_pass(char *buf, size_t len, size_t *body_len, bool move)
{
	size_t at = 0, out = 0;

	for (;;) {
		char *eol = memmem(buf + at, len - at, "\r\n", 2);
		size_t size = 0, digits = 0;

		if (eol == NULL)
			return len - at > 1024 ? -400 : 0;
		for (char *p = buf + at; p < eol && *p != ';'; p++, digits++) {
			int d = *p >= '0' && *p <= '9'                     ? *p - '0'
			        : (*p | 0x20) >= 'a' && (*p | 0x20) <= 'f' ? (*p | 0x20) - 'a' + 10
			                                                   : -1;

			if (d < 0 || digits >= 7)
				return -400;
			size = size * 16 + (size_t)d;
		}
		if (digits == 0)
			return -400;
		at = (size_t)(eol + 2 - buf);
		if (size == 0)
			break;
		if (len - at < size + 2)
			return 0;
		if (move)
			memmove(buf + out, buf + at, size);
		out += size;
		at += size + 2;
	}
	/* Trailers, if any, then an empty line. */
	for (;;) {
		char *eol = memmem(buf + at, len - at, "\r\n", 2);

		if (eol == NULL)
			return 0;
		if (eol == buf + at)
			break;
		at = (size_t)(eol + 2 - buf);
	}
	*body_len = out;
	return (ssize_t)(at + 2);
}

ssize_t
request_unchunk(char *buf, size_t len, size_t *body_len)
{
	ssize_t r = unchunk_pass(buf, len, body_len, false);

	return r > 0 ? unchunk_pass(buf, len, body_len, true) : r;
}

/* Bytes of a message's content: a string, or parts of which the texts count. */
static int64_t
content_bytes(const json_t *content)
{
	int64_t n = 0;
	size_t i;
	json_t *part;

	if (json_is_string(content))
		return (int64_t)json_string_length(content);
	json_array_foreach(content, i, part) n +=
	    (int64_t)json_string_length(json_object_get(part, "text"));
	return n;
}

/* The token limit, by each dialect's name for it; NULL if there is none. */
static const json_t *
limit_of(enum speak dialect, const json_t *root, const char **param)
{
	const json_t *v;

	*param = dialect == SPEAK_OLLAMA ? "options.num_predict" : "max_tokens";
	if (dialect == SPEAK_OLLAMA)
		return json_object_get(json_object_get(root, "options"), "num_predict");
	v = dialect == SPEAK_OPENAI ? json_object_get(root, "max_completion_tokens") : NULL;
	return json_is_integer(v) ? v : json_object_get(root, "max_tokens");
}

/* A model's name, which is the script; the caller's to free. */
static int
model_of(const json_t *root, char **model, size_t *len, const char **err, const char **param)
{
	const json_t *v = json_object_get(root, "model");

	*param = "model";
	if (!json_is_string(v)) {
		*err = "you must provide a model parameter";
		return -1;
	}
	*len = json_string_length(v);
	*model = strndup(json_string_value(v), *len);
	if (*model == NULL || strlen(*model) != *len) {
		*err = "bad model parameter";
		return -1;
	}
	return 0;
}

static int
choices_of(const json_t *root, struct chat *ch, const char **err, const char **param)
{
	const json_t *n = json_object_get(root, "n");

	if (n == NULL)
		return 0;
	*param = "n";
	if (!json_is_integer(n) || json_integer_value(n) < 1 ||
	    json_integer_value(n) > CHOICES_MAX) {
		*err = "n must be between 1 and 9";
		return -1;
	}
	ch->choices = (unsigned)json_integer_value(n);
	return 0;
}

static int
chat_parse_new(enum speak dialect, struct chat *ch, const char *body, size_t len, const char **err,
    const char **param)
{
	const json_t *limit;
	json_t *root = json_loadb(body, len, JSON_ALLOW_NUL, NULL), *v, *message;
	size_t i;
	int r = -1;

	*ch = (struct chat){.max_tokens = -1, .choices = 1};
	*param = NULL;
	if (!json_is_object(root)) {
		*err = "We could not parse the JSON body of your request.";
		goto out;
	}
	if (model_of(root, &ch->model, &ch->model_len, err, param) != 0)
		goto out;
	if (dialect == SPEAK_OPENAI && choices_of(root, ch, err, param) != 0)
		goto out;
	ch->logprobs = dialect == SPEAK_OPENAI && json_is_true(json_object_get(root, "logprobs"));
	v = json_object_get(root, "messages");
	*param = "messages";
	if (!json_is_array(v) || json_array_size(v) == 0) {
		*err = "'messages' must be an array of at least one message";
		goto out;
	}
	json_array_foreach(v, i, message) ch->prompt_bytes +=
	    content_bytes(json_object_get(message, "content"));
	ch->prompt_bytes += content_bytes(json_object_get(root, "system"));
	/* Ollama streams unless it is told not to, and counts without being asked. */
	v = json_object_get(root, "stream");
	ch->stream = dialect == SPEAK_OLLAMA ? !json_is_false(v) : json_is_true(v);
	v = json_object_get(root, "stream_options");
	ch->include_usage =
	    dialect != SPEAK_OPENAI || json_is_true(json_object_get(v, "include_usage"));
	limit = limit_of(dialect, root, param);
	if (json_is_integer(limit)) {
		ch->max_tokens = json_integer_value(limit);
		if (ch->max_tokens < 1) {
			*err = "the token limit must be at least 1";
			goto out;
		}
	} else if (dialect == SPEAK_ANTHROPIC) {
		*err = "max_tokens: Field required";
		goto out;
	}
	*param = NULL;
	r = 0;
out:
	json_decref(root);
	return r;
}

int
embed_parse(struct embed *e, const char *body, size_t len, const char **err, const char **param)
{
	json_t *root = json_loadb(body, len, JSON_ALLOW_NUL, NULL), *v, *part;
	size_t i;
	int r = -1;

	*e = (struct embed){.inputs = 1, .dimensions = 8};
	*param = NULL;
	if (!json_is_object(root)) {
		*err = "We could not parse the JSON body of your request.";
		goto out;
	}
	if (model_of(root, &e->model, &e->model_len, err, param) != 0)
		goto out;
	*param = "input";
	*err = "'input' must be a string or an array";
	v = json_object_get(root, "input");
	if (json_is_string(v)) {
		e->prompt_tokens = ((int64_t)json_string_length(v) + 3) / 4;
	} else if (json_is_array(v) && json_array_size(v) > 0) {
		/* An array of numbers is one input of tokens; of arrays, one each. */
		if (!json_is_integer(json_array_get(v, 0)))
			e->inputs = json_array_size(v);
		json_array_foreach(v, i, part) e->prompt_tokens +=
		    json_is_string(part)  ? ((int64_t)json_string_length(part) + 3) / 4
		    : json_is_array(part) ? (int64_t)json_array_size(part)
		                          : 1;
	} else {
		goto out;
	}
	v = json_object_get(root, "dimensions");
	if (json_is_integer(v) && json_integer_value(v) > 0 && json_integer_value(v) <= 4096)
		e->dimensions = json_integer_value(v);
	v = json_object_get(root, "encoding_format");
	e->base64 = json_is_string(v) && strcmp(json_string_value(v), "base64") == 0;
	*param = NULL;
	r = 0;
out:
	json_decref(root);
	return r;
}

/*
 * A load sends the same call again and again, and parsing it would be a third of what a short
 * answer costs; so the last good one is remembered.
 */
int
chat_parse(enum speak dialect, struct chat *ch, const char *body, size_t len, const char **err,
    const char **param)
{
	static enum speak last_dialect;
	static char last_body[4096], last_model[1024];
	static size_t last_len;
	static struct chat last;

	if (len > 0 && len == last_len && dialect == last_dialect &&
	    memcmp(body, last_body, len) == 0) {
		*ch = last;
		ch->model = strdup(last_model);
		if (ch->model == NULL)
			abort();
		return 0;
	}
	if (chat_parse_new(dialect, ch, body, len, err, param) != 0)
		return -1;
	if (len <= sizeof(last_body) && ch->model_len < sizeof(last_model)) {
		memcpy(last_body, body, len);
		memcpy(last_model, ch->model, ch->model_len + 1);
		last_len = len;
		last_dialect = dialect;
		last = *ch;
		last.model = NULL;
	}
	return 0;
}
