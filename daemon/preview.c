/*
 * POST /chat/preview: what would it cost, and would it be let in?  Takes nothing, reserves
 * nothing.  Worker process.
 */
#include <string.h>

#include "daemon/chat_request.h"
#include "daemon/history_context.h"
#include "daemon/limit.h"
#include "daemon/metrics.h"
#include "daemon/dialect.h"
#include "daemon/quote.h"
#include "daemon/worker.h"

static void
number(struct buf *b, const char *name, uint64_t n)
{
	buf_printf(b, "\"%s\":", name);
	buf_u64(b, n);
	buf_str(b, ",");
}

static void
money(struct buf *b, const char *name, int64_t amount)
{
	buf_printf(b, "\"%s\":", name);
	buf_money(b, amount);
	buf_str(b, ",");
}

void
preview_handler(struct conn *c, const struct http_request *h, struct span body)
{
	struct worker *w = conn_arg(c);
	const struct account *a = conn_caller(c)->account;
	struct chat_request r;
	struct chat_fault f;
	struct account_books books;
	struct price price;
	enum ledger_result asked;
	struct quote q;
	struct buf b = {0}, past = {0}, request[DIALECTS] = {{0}};
	int fits;

	(void)h;
	if (!limit_may_read(w->config, c, body.len))
		return;
	if (body.len > LIMIT_LONG_BODY)
		limit_request_count(w->config, conn_caller(c));
	if (chat_request_parse(w->config, body, &r, &f) != 0) {
		conn_error(c, f.status, "invalid_request_error", f.code, f.param, "%s", f.message);
		return;
	}
	if (!auth_model(conn_caller(c), w->config->model[r.model].name)) {
		route_refuse_model(c);
		return;
	}
	/* What send would refuse is refused here. */
	fits = history_context(w, a, &r, &past, &f);
	if (fits == 0)
		fits = dialect_write_all(w->config, &r, request, &f);
	buf_free(&past);
	if (fits != 0) {
		if (f.status == 503)
			conn_header(c, "Retry-After", "1");
		conn_error(c, f.status, f.status == 503 ? "server_error" : "invalid_request_error",
		    f.code, f.param, "%s", f.message);
		return;
	}
	for (int i = 0; i < DIALECTS; i++)
		buf_free(&request[i]);
	quote_price(w->region, r.model, &price);
	quote_make(w->config, w->region, &r, &price, &q);
	account_books(a, &books);
	buf_str(&b, "{\"model\":");
	buf_json(&b, w->config->model[r.model].name, strlen(w->config->model[r.model].name));
	buf_str(&b, ",");
	number(&b, "prompt_tokens", r.prompt_tokens);
	number(&b, "max_completion_tokens", r.max_tokens);
	money(&b, "estimated_cost", q.estimated_cost);
	money(&b, "max_cost", q.max_cost);
	money(&b, "balance", books.balance);
	money(&b, "held", books.held);
	money(&b, "available", books.balance - books.held + books.overdraft);
	money(&b, "overdraft", books.overdraft);
	asked = quote_ask(a, conn_caller(c)->purse, &q);
	buf_str(&b, asked == LEDGER_OK ? "\"allowed\":true" : "\"allowed\":false");
	if (LEDGER_CANNOT_PAY(asked))
		buf_printf(&b, ",\"short_of\":\"%s\"", quote_short_of(asked));
	buf_str(&b, "}");
	conn_reply_buf(c, 200, "application/json", &b);
	buf_free(&b);
}
