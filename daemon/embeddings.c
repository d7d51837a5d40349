/*
 * POST /v1/embeddings: OpenAI's own contract.  The prompt is all that it costs.  Worker process;
 * what reads and writes is pure.
 */
#include <string.h>

#include "daemon/api.h"
#include "daemon/begin.h"
#include "daemon/limit.h"
#include "daemon/chat_keys.h"
#include "daemon/chat_tokens.h"
#include "daemon/json.h"
#include "daemon/openai.h"
#include "daemon/turn.h"
#include "daemon/watch.h"
#include "daemon/worker.h"

/* OpenAI's own bounds: inputs of one request. */
#define INPUTS_MAX 2048

static int
bad_input(struct chat_fault *f, const char *what)
{
	return chat_request_refuse(f, "input", "'input' %s", what);
}

/* Ids of tokens, as who has counted sends them. */
static int
count_ids(struct json_value ids, struct chat_request *r, struct chat_fault *f)
{
	const char *it = NULL;
	struct json_value v;
	int64_t id;
	uint32_t n = 0;

	while (json_each(ids, &it, NULL, &v)) {
		if (!json_int(v, &id) || id < 0)
			return bad_input(f, "has a token that is no whole number");
		n++;
	}
	if (n == 0)
		return bad_input(f, "has an empty list of tokens");
	r->prompt_tokens += n;
	return 0;
}

static int
count_text(const struct chat_counter *c, struct json_value text, struct chat_request *r,
    struct chat_fault *f)
{
	if (text.len <= 2)
		return bad_input(f, "has an empty text");
	if (chat_tokens_text(c, text, &r->prompt_tokens) == 0)
		return 0;
	*f = (struct chat_fault){.status = 503, .code = "overloaded", .message = "out of memory"};
	return -1;
}

static int
count_input(const struct chat_counter *c, struct json_value input, struct chat_request *r,
    struct chat_fault *f)
{
	const char *it = NULL;
	struct json_value v;
	size_t n = 0;

	if (input.type == JSON_STRING)
		return count_text(c, input, r, f);
	if (input.type != JSON_ARRAY)
		return bad_input(f, "must be a text or an array");
	while (json_each(input, &it, NULL, &v)) {
		if (n == 0 && v.type == JSON_NUMBER)
			return count_ids(input, r, f);
		if (++n > INPUTS_MAX)
			return bad_input(f, "has more than 2048 texts");
		if (v.type == JSON_STRING ? count_text(c, v, r, f) != 0
		    : v.type == JSON_ARRAY
			? count_ids(v, r, f) != 0
			: bad_input(f, "must hold texts, or lists of tokens") != 0)
			return -1;
	}
	return n > 0 ? 0 : bad_input(f, "must not be empty");
}

static int
parse(const struct config *cfg, struct span body, struct chat_request *r, struct chat_fault *f)
{
	static const char *const keys[] = {"model", "input", NULL};
	struct json_value input;
	struct chat_counter c;

	if (chat_request_parse_model(cfg, body, r, f) != 0 ||
	    chat_keys_check(r->root, keys, f) != 0 ||
	    chat_keys_check_refused(cfg, r->model, r->root, f) != 0)
		return -1;
	r->v1 = r->whole = true;
	r->prompt_bytes = r->root.len + 64;
	if (!json_get(r->root, "input", &input))
		return bad_input(f, "is missing");
	c = chat_counter(&cfg->model[r->model]);
	return count_input(&c, input, r, f);
}

static int
write_request(const struct config *cfg, const struct chat_request *r, struct buf *b,
    struct chat_fault *f)
{
	const struct config_model *m = &cfg->model[r->model];
	const char *it = NULL;
	struct json_value key, value;

	for (int i = 0; i < m->provider_count; i++)
		if (dialect_of(cfg->provider[m->providers[i]].dialect) !=
		    dialect_of(DIALECT_OPENAI))
			return chat_request_refuse(f, "model",
			    "the model '%s' has a provider that makes no embeddings", m->name);
	buf_str(b, "{\"model\":");
	buf_json(b, m->upstream, strlen(m->upstream));
	while (json_each(r->root, &it, &key, &value)) {
		if (json_is(key, "model"))
			continue;
		buf_str(b, ",");
		buf_add(b, key.p, key.len);
		buf_str(b, ":");
		buf_add(b, value.p, value.len);
	}
	buf_str(b, "}");
	if (!b->failed)
		return 0;
	buf_free(b);
	*f = (struct chat_fault){.status = 503, .code = "overloaded", .message = "out of memory"};
	return -1;
}

/* The answer's usage; nothing else of it is ours to look at. */
static void
decode_whole(struct span body, struct buf *scratch, struct delta *d)
{
	struct json_value root, data, usage, prompt;
	int64_t n;

	*d = (struct delta){.kind = DELTA_INVALID};
	d->text = d->refusal = d->reasoning = d->tool_arguments = d->other = SPAN("");
	d->message = SPAN("");
	if (json_check(body.p, body.len, &root, NULL) != JSON_OK || root.type != JSON_OBJECT)
		return;
	if (!json_get(root, "data", &data) || data.type != JSON_ARRAY) {
		d->message = openai_error_message(body.p, body.len, scratch);
		d->kind = d->message.len > 0 ? DELTA_ERROR : DELTA_INVALID;
		return;
	}
	d->kind = DELTA_PART;
	if (!json_get(root, "usage", &usage) || usage.type != JSON_OBJECT ||
	    !json_get(usage, "prompt_tokens", &prompt))
		return;
	d->usage_bad = !json_int(prompt, &n) || n < 0 || n > UINT32_MAX;
	d->usage = (struct usage){.present = !d->usage_bad, .prompt = d->usage_bad ? 0 : n};
}

static void
refuse(struct buf *b, const struct emit_end *e)
{
	emit_error_end(b, e);
}

const struct api api_embeddings = {
    .path = "/v1/embeddings",
    .dialect = DIALECT_OPENAI,
    .upstream_path = "/embeddings",
    .prompt_only = true,
    .write = write_request,
    .decode_whole = decode_whole,
    .refuse = refuse,
};

static bool
embeddings_turn(struct conn *c, const struct http_request *h, struct span body,
    const struct journal_keyed *keyed)
{
	struct worker *w = conn_arg(c);
	struct begin x = {.begun = watch_open_api, .api = &api_embeddings, .keyed = keyed};
	struct chat_fault f;

	if (!limit_may_read(w->config, c, body.len))
		return false;
	if (parse(w->config, body, &x.request, &f) == 0)
		return begin(c, h, &x);
	begin_refuse(c, &f);
	return false;
}

void
embeddings_handler(struct conn *c, const struct http_request *h, struct span body)
{
	turn_request(c, h, body, api_embeddings.path, embeddings_turn);
}
