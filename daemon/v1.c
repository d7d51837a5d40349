/*
 * POST /v1/chat/completions, GET /v1/models: OpenAI's own contract.  Worker process.
 */
#include <string.h>

#include "daemon/api.h"
#include "daemon/begin.h"
#include "daemon/limit.h"
#include "daemon/quote.h"
#include "daemon/turn.h"
#include "daemon/watch.h"
#include "daemon/worker.h"

static bool
chat_turn(struct conn *c, const struct http_request *h, struct span body,
    const struct journal_keyed *keyed)
{
	struct worker *w = conn_arg(c);
	struct begin x = {.begun = watch_open_api, .api = &api_openai, .keyed = keyed};
	struct chat_fault f;

	if (!limit_may_read(w->config, c, body.len))
		return false;
	if (chat_request_parse_v1(w->config, body, &x.request, &f) == 0)
		return begin(c, h, &x);
	begin_refuse(c, &f);
	return false;
}

void
openai_chat_handler(struct conn *c, const struct http_request *h, struct span body)
{
	turn_request(c, h, body, api_openai.path, chat_turn);
}

/* One of OpenAI's model objects, with what it costs here: credits for a million tokens, or a
 * request. */
static void
put_model(struct worker *w, struct buf *b, int model)
{
	const struct config_model *m = &w->config->model[model];
	const char *owner = w->config->provider[m->providers[0]].name;
	struct price price;

	(void)quote_price(w->region, model, &price);
	buf_str(b, "{\"id\":");
	buf_json(b, m->name, strlen(m->name));
	buf_str(b, ",\"object\":\"model\",\"created\":0,\"owned_by\":");
	buf_json(b, owner, strlen(owner));
	buf_str(b, ",\"context_length\":");
	buf_u64(b, m->context);
	buf_str(b, ",\"max_completion_tokens\":");
	buf_u64(b, m->max_completion);
	buf_str(b, ",\"price\":");
	for (int kind = 0; kind < PRICE_KINDS; kind++) {
		buf_printf(b, "%s\"%s\":", kind == 0 ? "{" : ",", price_kind_name[kind]);
		buf_money(b, *price_field(&price, (enum price_kind)kind));
	}
	buf_str(b, "}}");
}

void
openai_models_handler(struct conn *c, const struct http_request *h, struct span body)
{
	struct worker *w = conn_arg(c);
	struct buf b = {0};

	(void)h;
	(void)body;
	buf_str(&b, "{\"object\":\"list\",\"data\":[");
	for (int i = 0, n = 0; i < w->config->model_count; i++) {
		if (w->config->model[i].name == NULL ||
		    !auth_model(conn_caller(c), w->config->model[i].name))
			continue;
		if (n++ > 0)
			buf_str(&b, ",");
		put_model(w, &b, i);
	}
	buf_str(&b, "]}");
	conn_reply_buf(c, 200, "application/json", &b);
	buf_free(&b);
}

void
openai_model_handler(struct conn *c, const struct http_request *h, struct span body)
{
	static const char prefix[] = "/v1/models/";
	struct worker *w = conn_arg(c);
	char name[256];
	size_t len;
	int model = -1;
	struct buf b = {0};

	(void)body;
	if (http_unescape((struct span){h->path.p + sizeof prefix - 1, h->path.len - (sizeof prefix - 1)},
		name, sizeof name, &len))
		model = config_model(w->config, name, len);
	if (model < 0 || !auth_model(conn_caller(c), w->config->model[model].name)) {
		route_refuse_model(c);
		return;
	}
	put_model(w, &b, model);
	conn_reply_buf(c, 200, "application/json", &b);
	buf_free(&b);
}
