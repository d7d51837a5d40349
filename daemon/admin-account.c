/*
 * account.create, account.show, account.list.  Admin process.
 */
#include <stdio.h>
#include <string.h>

#include "daemon/admin.h"
#include "daemon/budget.h"
#include "daemon/log.h"
#include "shm/clock.h"

static const char *
status_text(const struct account *a)
{
	/* Relaxed: one word, true at this instant or the one before. */
	uint32_t flags = atomic_load_explicit(&a->flags, memory_order_relaxed);

	return flags & ACCOUNT_FROZEN ? "frozen" : flags & ACCOUNT_CLOSED ? "closed" : "open";
}

/* A budget, what is charged and held under it now, and when it begins anew; nil: there is none. */
static void
put_budget(struct proto_out *out, const char *key, const struct account *a, unsigned which)
{
	struct budget_now now;

	proto_put_str(out, key);
	if (!budget_now(a, which, &now)) {
		proto_put_nil(out);
		return;
	}
	proto_put_map(out, 4);
	proto_put_kint(out, "limit", now.limit);
	proto_put_kint(out, "spent", now.spent);
	proto_put_kint(out, "left", now.left);
	proto_put_kint(out, "resets_at", now.resets_at);
}

void
admin_put_account(struct proto_out *out, const struct account *a, const int64_t *balance,
    bool repeated)
{
	struct account_books books;

	account_books(a, &books);
	if (balance != NULL)
		books.balance = *balance;
	proto_put_map(out, repeated ? 12 : 11);
	proto_put_ktext(out, "id", a->id, a->id_len);
	proto_put_kint(out, "balance", books.balance);
	proto_put_kint(out, "held", books.held);
	/* Wraps for sums that the keeper has refused to book. */
	proto_put_kint(out, "available",
	    (int64_t)((uint64_t)books.balance - (uint64_t)books.held + (uint64_t)books.overdraft));
	proto_put_kint(out, "overdraft", books.overdraft);
	proto_put_kstr(out, "status", status_text(a));
	/* Relaxed: each a word of its own. */
	proto_put_kint(
	    out, "rpm", atomic_load_explicit(&a->requests_per_minute, memory_order_relaxed));
	proto_put_kint(
	    out, "tpm", atomic_load_explicit(&a->tokens_per_minute, memory_order_relaxed));
	proto_put_kint(
	    out, "streams", atomic_load_explicit(&a->concurrent_streams, memory_order_relaxed));
	put_budget(out, "budget_day", a, BUDGET_DAY);
	put_budget(out, "budget_month", a, BUDGET_MONTH);
	if (repeated)
		proto_put_kbool(out, "repeated", true);
}

struct account *
admin_account(struct admin_call *call, const struct proto_value *id)
{
	struct account *a;

	if (!account_id_ok(id->text, id->len)) {
		(void)admin_error(call, "invalid_argument", "id",
		    "an account id is 1 to %d of A-Z a-z 0-9 . _ : @ -", ACCOUNT_ID_MAX);
		return NULL;
	}
	a = account_find(call->admin->region, id->text, id->len);
	if (a == NULL)
		(void)admin_error(call, "account_not_found", "id", "no account %.*s", (int)id->len,
		    id->text);
	return a;
}

void
admin_log(const struct admin_call *call, const char *what)
{
	char id[ACCOUNT_ID_MAX + 1] = "", amount[MONEY_TEXT_MAX] = "", key_id[AUTH_KEY_ID_LEN + 1];
	char peer[12];

	(void)snprintf(peer, sizeof peer, "%u", (unsigned)call->peer);
	if (call->account != NULL)
		(void)snprintf(
		    id, sizeof id, "%.*s", (int)call->account->id_len, call->account->id);
	if (call->amount != 0)
		(void)money_format(amount, call->amount);
	if (call->key_id != 0)
		auth_format_key_id(call->key_id, key_id);
	log_event(LOG_INFO, what, "account", call->account != NULL ? id : NULL, "amount",
	    call->amount != 0 ? amount : NULL, "key_id", call->key_id != 0 ? key_id : NULL, "uid",
	    peer, NULL);
}

enum admin_step
admin_refused(struct admin_call *call, enum ring_status status)
{
	switch (status) {
	case RING_UNKNOWN:
		return admin_error(call, "not_found", "id", "no such account or key");
	case RING_EXISTS:
		return admin_error(call, "account_exists", "id", "this account id is taken");
	case RING_CLOSED:
		return admin_error(call, "account_closed", "id", "the account is closed");
	case RING_NOSPACE:
		return admin_error(call, "no_space", NULL,
		    "the table of accounts or keys is full (max_accounts in the configuration), or "
		    "runtime_dir has no room left");
	case RING_STALE:
		return admin_error(call, "busy", "id",
		    "the account was changed at the same time; nothing was done, try again");
	case RING_RANGE:
		return admin_error(
		    call, "invalid_argument", "amount", "the balance would leave its range");
	default:
		return admin_error(
		    call, "refused", NULL, "the keeper refused it; see the daemon's log");
	}
}

/*
 * The account exists; book its first balance.  Its ref makes it safe to do by hand, should we
 * be killed between the two records: the caller then has no answer, and "topup --ref initial"
 * books it once.
 */
static void
initial_balance(struct admin_call *call)
{
	const struct proto_value ref = {.given = true, .text = "initial", .len = 7};

	switch (admin_credit(call, JOURNAL_TOPUP, &ref, NULL)) {
	case ADMIN_LATER:
		break;
	case ADMIN_BUSY: /* all hold slots of ours are on their way: at the next wake-up */
		TAILQ_INSERT_TAIL(&call->admin->starved, call, starved);
		break;
	case ADMIN_DONE:
		admin_finish(call);
		break;
	}
}

static void
created_cb(void *arg, uint64_t position)
{
	struct admin_call *call = arg;
	struct admin *a = call->admin;
	enum ring_status status;
	int64_t number;

	status = ring_result(ledger_ring(a->ledger), position, &number);
	if (status != RING_APPLIED) {
		(void)admin_refused(call, status);
		admin_finish(call);
		return;
	}
	call->account = account_at(a->region, (uint32_t)number);
	admin_log(call, "account created");
	if (call->amount == 0)
		admin_put_account(admin_result(call), call->account, NULL, false);
	else {
		/* This result and all before it have been read; it makes room for the next. */
		ring_ack(ledger_ring(a->ledger), position);
		initial_balance(call);
		return;
	}
	admin_finish(call);
}

void
admin_balances_retry(struct admin *a)
{
	struct admin_call *call;
	unsigned n = 0;

	/* Each once: those that are starved again go to the end. */
	TAILQ_FOREACH(call, &a->starved, starved)
		n++;
	while (n-- > 0) {
		call = TAILQ_FIRST(&a->starved);
		TAILQ_REMOVE(&a->starved, call, starved);
		initial_balance(call);
	}
}

enum admin_step
admin_account_create(struct admin_call *call, const struct proto_value *v)
{
	struct admin *a = call->admin;
	char text[ACCOUNT_ID_MAX + sizeof(struct journal_budgets)];
	size_t len = v[0].len;
	struct journal_budgets budgets = {.cap = {
	    [BUDGET_DAY] = v[6].number, [BUDGET_MONTH] = v[7].number}};
	struct journal_account payload = {
	    .requests_per_minute = (uint32_t)v[3].number,
	    .tokens_per_minute = (uint32_t)v[4].number,
	    .concurrent_streams = (uint32_t)v[5].number,
	    .id_len = (uint16_t)v[0].len,
	    .budgets = v[6].given || v[7].given,
	};
	struct journal_record record = {
	    .type = JOURNAL_ACCOUNT,
	    .version = JOURNAL_VERSION,
	    .proc = PROC_ADMIN,
	    .slot = JOURNAL_NONE,
	    .account = JOURNAL_NONE,
	    .price = JOURNAL_NONE,
	    .time_us = realtime_us(),
	    .amount = v[2].given ? v[2].number : a->heritage->config->ledger.overdraft,
	};
	uint64_t position;

	if (!account_id_ok(v[0].text, v[0].len)) {
		(void)admin_account(call, &v[0]); /* says why */
		return ADMIN_DONE;
	}
	if (account_find(a->region, v[0].text, v[0].len) != NULL)
		return admin_refused(call, RING_EXISTS);
	call->amount = v[1].number;
	memcpy(text, v[0].text, v[0].len); /* is one: bounded */
	if (payload.budgets) {
		memcpy(text + len, &budgets, sizeof budgets);
		len += sizeof budgets;
	}
	position =
	    ring_push2(ledger_ring(a->ledger), &record, &payload, sizeof payload, text, len);
	if (position == 0)
		return ADMIN_BUSY;
	durable_wait(a->durable, position, created_cb, call);
	return ADMIN_LATER;
}

enum admin_step
admin_account_show(struct admin_call *call, const struct proto_value *v)
{
	struct account *a = admin_account(call, &v[0]);

	if (a != NULL)
		admin_put_account(admin_result(call), a, NULL, false);
	return ADMIN_DONE;
}

/* A page: {"accounts": [...], "next": where to go on, or nil}. */
enum admin_step
admin_account_list(struct admin_call *call, const struct proto_value *v)
{
	struct region *r = call->admin->region;
	/* Acquire, pairs with the keeper's insert: accounts below the count are whole. */
	int64_t count = atomic_load_explicit(&r->h->accounts, memory_order_acquire);
	int64_t at = v[0].number, limit = v[1].given ? v[1].number : ADMIN_PAGE_MAX;
	int64_t end = count - at > limit ? at + limit : count;
	struct proto_out *out = admin_result(call);

	if (end < at)
		end = at;
	proto_put_map(out, 2);
	proto_put_str(out, "accounts");
	proto_put_array(out, (size_t)(end - at));
	for (; at < end; at++)
		admin_put_account(out, account_at(r, (uint32_t)at), NULL, false);
	proto_put_str(out, "next");
	if (end < count)
		proto_put_int(out, end);
	else
		proto_put_nil(out);
	return ADMIN_DONE;
}
