/*
 * Accounts' budgets as they are told.  Worker and admin processes.
 */
#include "daemon/budget.h"

#include "shm/clock.h"
#include "shm/purse.h"

bool
budget_now(const struct account *a, unsigned which, struct budget_now *now)
{
	const struct purse *p = &a->budget[which];
	uint32_t per = KEY_PER_DAY + which;
	uint16_t window = purse_window(per, realtime_us());

	now->limit = purse_cap(p);
	now->spent = purse_used(p, window);
	now->left = now->spent < now->limit ? now->limit - now->spent : 0;
	now->resets_at = purse_window_end(per, window);
	return now->limit != 0;
}

void
budget_put(struct buf *b, const struct account *a, unsigned which)
{
	struct budget_now now;

	if (!budget_now(a, which, &now)) {
		buf_str(b, "null");
		return;
	}
	buf_str(b, "{\"limit\":");
	buf_money(b, now.limit);
	buf_str(b, ",\"spent\":");
	buf_money(b, now.spent);
	buf_str(b, ",\"left\":");
	buf_money(b, now.left);
	buf_printf(b, ",\"resets_at\":%lld}", (long long)now.resets_at);
}
