#ifndef DAEMON_BUDGET_H
#define DAEMON_BUDGET_H

/* An account's budget as clients are told of it.  Any process with the region. */
#include "daemon/buf.h"
#include "shm/account.h"

struct budget_now {
	int64_t limit, spent, left; /* micro-credits; spent: charged and held */
	int64_t resets_at;          /* seconds since 1970: when the next day or month begins */
};

/* Of BUDGET_DAY or BUDGET_MONTH; false if there is none. */
bool budget_now(const struct account *, unsigned which, struct budget_now *);
/* {"limit","spent","left","resets_at"}, or null. */
void budget_put(struct buf *, const struct account *, unsigned which);

#endif
