/*
 * account.set, account.close.  Admin process.
 *
 * One record a change, by way of a hold slot like a top-up: what raises the overdraft is given
 * when it is durable, what lowers it is taken then (docs/ledger.md, "Overdrafts").  The record
 * says by how much the overdraft changes, counted from what the books show; so one change waits
 * for the other, and the keeper turns away one that began with another overdraft.
 */
#include <string.h>

#include "daemon/admin.h"

static void
set_cb(void *arg, uint64_t position)
{
	struct admin_call *call = arg;
	enum ring_status status;

	call->admin->setting = NULL;
	call->amount = 0; /* no booking: not to be logged as one */
	status = ledger_close(call->admin->ledger, call->hold, position, NULL);
	if (status == RING_APPLIED)
		admin_log(call, call->done);
	if (status == RING_APPLIED || status == RING_REPEATED)
		admin_put_account(
		    admin_result(call), call->account, NULL, status == RING_REPEATED);
	else
		(void)admin_refused(call, status);
	admin_finish(call);
}

static enum admin_step
push(struct admin_call *call, struct journal_account_set *set,
    const struct journal_budgets *budgets, const struct proto_value *reason)
{
	char payload[sizeof *set + sizeof *budgets + 512];
	size_t len = sizeof *set;
	struct admin *a = call->admin;
	struct account_books books;
	int64_t change = 0;
	uint64_t position;

	if (a->setting != NULL)
		return ADMIN_BUSY;
	if ((set->what & JOURNAL_SET_OVERDRAFT) != 0) {
		account_books(call->account, &books);
		change = set->overdraft - books.overdraft;
	}
	set->reason_len = reason->given ? (uint16_t)reason->len : 0; /* bounded by the table */
	memcpy(payload, set, sizeof *set);
	if ((set->what & JOURNAL_SET_BUDGETS) != 0) {
		memcpy(payload + len, budgets, sizeof *budgets);
		len += sizeof *budgets;
	}
	if (set->reason_len > 0)
		memcpy(payload + len, reason->text, set->reason_len);
	if (ledger_account_set(a->ledger, call->account, change, payload,
		len + set->reason_len, &call->hold, &position) != LEDGER_OK)
		return ADMIN_BUSY; /* no slot or no room in the ring */
	a->setting = call;
	durable_wait(a->durable, position, set_cb, call);
	return ADMIN_LATER;
}

enum admin_step
admin_account_set(struct admin_call *call, const struct proto_value *v)
{
	struct journal_account_set set = {
	    .overdraft = v[1].number,
	    .requests_per_minute = (uint32_t)v[2].number,
	    .tokens_per_minute = (uint32_t)v[3].number,
	    .concurrent_streams = (uint32_t)v[4].number,
	    .what = (v[1].given ? JOURNAL_SET_OVERDRAFT : 0) |
		(v[2].given ? JOURNAL_SET_REQUESTS : 0) | (v[3].given ? JOURNAL_SET_TOKENS : 0) |
		(v[4].given ? JOURNAL_SET_STREAMS : 0) |
		(v[5].given ? JOURNAL_SET_DAY : 0) | (v[6].given ? JOURNAL_SET_MONTH : 0) |
		(v[7].number != 0 ? JOURNAL_SET_UNFROZEN : 0),
	};
	const struct journal_budgets budgets = {.cap = {
	    [BUDGET_DAY] = v[5].number, [BUDGET_MONTH] = v[6].number}};

	call->account = admin_account(call, &v[0]);
	if (call->account == NULL)
		return ADMIN_DONE;
	if (set.what == 0)
		return admin_error(call, "invalid_argument", NULL, "nothing is to be set");
	if (v[7].number != 0 && !v[8].given)
		return admin_error(
		    call, "invalid_argument", "reason", "lifting a freeze needs a reason");
	call->done = v[7].number != 0 ? "account unfrozen" : "account set";
	return push(call, &set, &budgets, &v[8]);
}

enum admin_step
admin_account_close(struct admin_call *call, const struct proto_value *v)
{
	struct journal_account_set set = {.what = JOURNAL_SET_CLOSED};

	call->account = admin_account(call, &v[0]);
	if (call->account == NULL)
		return ADMIN_DONE;
	call->done = "account closed";
	return push(call, &set, NULL, &v[1]);
}
