/*
 * credit.topup, credit.adjust.  Admin process.
 *
 * The order is the ledger's: journal first, wait until that is durable, then give (ledger_close),
 * then answer.  A kill anywhere in between leaves a slot that the master finishes.
 */
#include <string.h>

#include "daemon/admin.h"
#include "shm/fault.h"

static void
booked_cb(void *arg, uint64_t position)
{
	struct admin_call *call = arg;
	enum ring_status status;
	int64_t balance;

	status = ledger_close(call->admin->ledger, call->hold, position, &balance);
	FAULT("credit.closed");
	switch (status) {
	case RING_APPLIED:
		admin_log(call, call->done);
		admin_put_account(admin_result(call), call->account, &balance, false);
		break;
	case RING_REPEATED:
		/* Even if the amount is another one now: what counts is what was booked. */
		admin_put_account(admin_result(call), call->account, &balance, true);
		break;
	default:
		(void)admin_refused(call, status);
		break;
	}
	admin_finish(call);
}

enum admin_step
admin_credit(struct admin_call *call, enum journal_type type, const struct proto_value *ref,
    const struct proto_value *reason)
{
	char payload[sizeof(struct journal_ref) + 128 + 512];
	size_t ref_len = ref->given ? ref->len : 0;
	size_t reason_len = reason != NULL && reason->given ? reason->len : 0;
	struct journal_ref head = {(uint16_t)ref_len, (uint16_t)reason_len};
	uint64_t position;

	/* The table of methods bounds both. */
	memcpy(payload, &head, sizeof head);
	if (ref_len > 0)
		memcpy(payload + sizeof head, ref->text, ref_len);
	if (reason_len > 0)
		memcpy(payload + sizeof head + ref_len, reason->text, reason_len);
	switch (ledger_credit(call->admin->ledger, call->account, type, call->amount, payload,
	    sizeof head + ref_len + reason_len, &call->hold, &position)) {
	case LEDGER_OK:
		break;
	case LEDGER_CLOSED:
		return admin_error(call, "account_frozen", "id",
		    "the account is frozen: its books were contradicted");
	default: /* no slot or no room in the ring: both come back with the keeper's next commit */
		return ADMIN_BUSY;
	}
	call->done = type == JOURNAL_TOPUP ? "credit topped up" : "credit adjusted";
	durable_wait(call->admin->durable, position, booked_cb, call);
	return ADMIN_LATER;
}

enum admin_step
admin_credit_topup(struct admin_call *call, const struct proto_value *v)
{
	call->account = admin_account(call, &v[0]);
	call->amount = v[1].number;
	if (call->account == NULL)
		return ADMIN_DONE;
	return admin_credit(call, JOURNAL_TOPUP, &v[2], NULL);
}

enum admin_step
admin_credit_adjust(struct admin_call *call, const struct proto_value *v)
{
	call->account = admin_account(call, &v[0]);
	call->amount = v[1].number;
	if (call->account == NULL)
		return ADMIN_DONE;
	if (call->amount == 0)
		return admin_error(
		    call, "invalid_argument", "amount", "an adjustment is not zero");
	return admin_credit(call, JOURNAL_ADJUST, &v[2], &v[3]);
}
