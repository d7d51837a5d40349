/*
 * What a bad process has left behind: its accounts are frozen, and when it is dead the holds that it
 * forged end.  Keeper process.
 */
#include <stdatomic.h>
#include <string.h>

#include "daemon/keeper.h"
#include "daemon/log.h"
#include "daemon/metrics.h"
#include "shm/account.h"
#include "shm/ledger.h"

/*
 * Freeze an account, in memory at once and in the journal, so that it outlasts a restart.  (If
 * the commit fails, the record that brought it about is not durable either: it comes again.)
 */
void
keeper_freeze(struct keeper *k, uint32_t number, const char *why)
{
	struct journal_record r = {.type = JOURNAL_FREEZE, .version = JOURNAL_VERSION,
	    .proc = PROC_KEEPER, .slot = JOURNAL_NONE, .account = number, .price = JOURNAL_NONE,
	    .payload_len = (uint32_t)strlen(why), .time_us = k->batch_us};

	if ((books_account(k->books, number)->flags & ACCOUNT_FROZEN) == 0)
		keeper_append(k, &r, why);
	/* Release, pairs with the ledger's acquire. */
	atomic_fetch_or_explicit(&account_at(k->region, number)->flags, ACCOUNT_FROZEN,
	    memory_order_release);
}

/*
 * A process is gone and its slots are free, but the books have a hold in one: it was opened by a
 * forged reserve, or somebody wrote over the slot.  Its next owner would be taken for a forger; so the
 * hold ends now, at its last mark, and its account is looked at.  (A slot that is not free is still to
 * be finished: then it was not the master who sent this.)
 */
/* Model: gone() in tests/model/keeper.pml. */
void
keeper_end_gone(struct keeper *k, uint32_t proc)
{
	uint32_t first = hold_first(k->region, proc), account = JOURNAL_NONE, ended = 0;
	const char *id;
	size_t len;

	for (uint32_t slot = first; slot < first + k->region->h->holds_per_proc; slot++) {
		const struct books_hold *h = books_hold(k->books, slot);
		/* Acquire: as the master left it before it pushed this. */
		uint64_t word = atomic_load_explicit(&hold_at(k->region, slot)->state,
		    memory_order_acquire);
		struct journal_split split;
		struct journal_record end;

		if (h == NULL || !h->open || HOLD_STATE(word) != HOLD_FREE)
			continue;
		books_end_record(k->books, slot,
		    (h->op > h->answered_op ? h->op : h->answered_op) + 1, k->batch_us, &end,
		    &split);
		end.proc = PROC_KEEPER;
		keeper_append(k, &end, &split);
		keeper_freeze(k, end.account, "a hold that its slot knew nothing of");
		metrics_refused(JOURNAL_GONE);
		if (ended++ == 0)
			account = end.account;
	}
	if (ended == 0)
		return;
	id = books_account_id(k->books, account, &len);
	log_warnx("process %u has left %u holds open that no slot knew of; account %.*s is frozen%s",
	    proc, ended, (int)len, id, ended == 1 ? "" : ", and those of the others");
}

/*
 * A process is gone: what the books say of each of its slots, whatever it wrote there itself, for the
 * reaper to go on from.
 */
int
keeper_show_gone(struct keeper *k, uint32_t proc)
{
	uint32_t first = hold_first(k->region, proc);

	for (uint32_t slot = first; slot < first + k->region->h->holds_per_proc; slot++) {
		const struct books_hold *h = books_hold(k->books, slot);

		if (h == NULL || h->answered_op == 0)
			keeper_show_hold(k, slot, h == NULL ? 0 : h->op, RING_APPLIED);
		else
			keeper_show_hold(k, slot, h->answered_op > h->op ? h->answered_op : h->op,
			    h->answered_op >= h->op ? h->answered_status : RING_APPLIED);
		if (h != NULL && h->account < books_accounts(k->books) &&
		    keeper_show_account(k, h->account) < 0)
			return -1;
	}
	return 0;
}
