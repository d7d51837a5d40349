/*
 * POST /v1/messages and /v1/messages/count_tokens: Anthropic's own contract.  Worker process.
 */
#include "daemon/api.h"
#include "daemon/auth.h"
#include "daemon/begin.h"
#include "daemon/limit.h"
#include "daemon/chat_keys.h"
#include "daemon/messages_request.h"
#include "daemon/turn.h"
#include "daemon/watch.h"
#include "daemon/worker.h"

/* The only version whose streams are named events. */
#define VERSION "2023-06-01"
#define BETA_MAX 1024
/* What the tools that a provider runs itself find is prompt, too, by the time the answer ends. */
#define FOUND_TOKENS_MAX 200000

/* False: answered. */
static bool
check_headers(struct conn *c, const struct http_request *h)
{
	struct span version = http_header(h, "anthropic-version");

	if (version.p != NULL && !span_eq(version, VERSION)) {
		conn_error(c, 400, NULL, "invalid_request", "anthropic-version",
		    "'anthropic-version' must be " VERSION);
		return false;
	}
	if (http_header(h, "anthropic-beta").len > BETA_MAX) {
		conn_error(c, 400, NULL, "invalid_request", "anthropic-beta",
		    "'anthropic-beta' is longer than %d bytes", BETA_MAX);
		return false;
	}
	return true;
}

static bool
first_speaks_it(const struct config *cfg, int model)
{
	return cfg->provider[cfg->model[model].providers[0]].dialect == DIALECT_ANTHROPIC;
}

static int
parse(const struct config *cfg, const struct messages_request *m, struct chat_request *r,
    struct chat_fault *f)
{
	struct span openai = {m->openai.data, m->openai.len};

	if (chat_request_parse_v1(cfg, openai, r, f) != 0) {
		messages_request_fault(m, f);
		return -1;
	}
	if (chat_keys_check_refused(cfg, r->model, m->root, f) != 0)
		return -1;
	r->native = m;
	r->include_usage = true;
	r->prompt_bytes += m->root.len;
	if (m->lost.param != NULL)
		r->prompt_bytes += FOUND_TOKENS_MAX;
	/* Models that think unseen are those that know the limit by its newer name only. */
	r->max_completion_tokens = cfg->model[r->model].hidden_tokens;
	if (m->thinking == 0 || !first_speaks_it(cfg, r->model))
		return 0;
	if (m->thinking >= r->max_tokens)
		return chat_request_refuse(f, "thinking",
		    "'budget_tokens' of 'thinking' must be less than the %u tokens that the answer "
		    "may have",
		    r->max_tokens);
	r->least = m->thinking + 1;
	return 0;
}

static bool
turn(struct conn *c, const struct http_request *h, struct span body,
    const struct journal_keyed *keyed)
{
	struct worker *w = conn_arg(c);
	struct begin x = {.begun = watch_open_api,
	    .api = &api_anthropic,
	    .keyed = keyed,
	    .beta = http_header(h, "anthropic-beta")};
	struct messages_request m;
	struct chat_fault f;
	bool begun = false;

	if (!limit_may_read(w->config, c, body.len))
		return false;
	if (messages_request_read(body, false, &m, &f) != 0 ||
	    parse(w->config, &m, &x.request, &f) != 0)
		begin_refuse(c, &f);
	else
		begun = begin(c, h, &x);
	messages_request_free(&m);
	return begun;
}

void
messages_handler(struct conn *c, const struct http_request *h, struct span body)
{
	if (check_headers(c, h))
		turn_request(c, h, body, api_anthropic.path, turn);
}

/* Our own count, of any provider's model: what would be reserved for. */
void
count_tokens_handler(struct conn *c, const struct http_request *h, struct span body)
{
	struct worker *w = conn_arg(c);
	struct messages_request m;
	struct chat_request r = {0};
	struct chat_fault f = {0};
	struct buf b = {0};

	if (!check_headers(c, h) || !limit_may_read(w->config, c, body.len))
		return;
	if (body.len > LIMIT_LONG_BODY)
		limit_request_count(w->config, conn_caller(c));
	/* A prompt that no context holds is refused last: its count is what is asked for. */
	if (messages_request_read(body, true, &m, &f) != 0 ||
	    (parse(w->config, &m, &r, &f) != 0 &&
	        (r.prompt_tokens == 0 || f.status != 400 ||
	            r.prompt_tokens < w->config->model[r.model].context))) {
		begin_refuse(c, &f);
	} else if (!auth_model(conn_caller(c), w->config->model[r.model].name)) {
		route_refuse_model(c);
	} else {
		buf_printf(&b, "{\"input_tokens\":%u}", r.prompt_tokens);
		conn_reply_buf(c, 200, "application/json", &b);
	}
	buf_free(&b);
	messages_request_free(&m);
}
