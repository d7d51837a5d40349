/* GET /balance: one consistent snapshot of the caller's account.  Worker process. */
#include "daemon/budget.h"
#include "daemon/worker.h"
#include "shm/purse.h"

void
balance_handler(struct conn *c, const struct http_request *h, struct span body)
{
	struct account_books books;
	struct buf b = {0};

	(void)h;
	(void)body;
	account_books(conn_caller(c)->account, &books);
	buf_str(&b, "{\"balance\":");
	buf_money(&b, books.balance);
	buf_str(&b, ",\"held\":");
	buf_money(&b, books.held);
	buf_str(&b, ",\"available\":");
	buf_money(&b, books.balance - books.held + books.overdraft);
	buf_str(&b, ",\"overdraft\":");
	buf_money(&b, books.overdraft);
	for (unsigned i = 0; i < BUDGETS; i++) {
		if (purse_cap(&conn_caller(c)->account->budget[i]) == 0)
			continue;
		buf_printf(&b, ",\"budget_%s\":", i == BUDGET_DAY ? "day" : "month");
		budget_put(&b, conn_caller(c)->account, i);
	}
	buf_str(&b, "}");
	conn_reply_buf(c, 200, "application/json", &b);
	buf_free(&b);
}
