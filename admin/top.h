#ifndef ADMIN_TOP_H
#define ADMIN_TOP_H

/*
 * tollctl top: what goes on now, from two looks at the daemon (admin/top.c); cmd-top.c shows it.
 *
 * Rates by model are of counters and of what streams under way have metered, so none is missed.
 * There are no counters by account: those rates are of the streams that both looks found.
 */
#include <stdbool.h>
#include <stdint.h>

#include "admin/tollctl.h"

#define TOP_NAME_MAX 128
#define TOP_BUCKETS_MAX 32
#define TOP_WINDOW 10 /* looks that a quantile of the time to the first token is of */

struct top_row {
	char name[TOP_NAME_MAX + 1]; /* cut if longer; control characters are '?' */
	uint32_t streams, waiting;   /* waiting: not opened yet */
	int64_t tokens, credits;     /* a second; credits in micro-credits */
	int64_t p50_us, p99_us;      /* time to the first token; -1: there was none lately */
};

struct top_table {
	struct top_row *row;
	uint32_t count;
};

struct top {
	struct top_row all;
	struct top_table models, accounts;
	struct top_past *past; /* what the next look is held against */
};

enum top_order { TOP_BY_TOKENS, TOP_BY_CREDITS, TOP_BY_STREAMS, TOP_BY_NAME, TOP_ORDERS };

/* Look again; the first look has no rates.  CTL_DONE, or why not (told on stderr). */
enum ctl_exit top_look(struct ctl *, struct top *) __attribute__((warn_unused_result));
void top_sort(struct top *, enum top_order);
void top_free(struct top *);

#endif
