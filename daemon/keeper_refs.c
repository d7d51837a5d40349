/*
 * Whose refs have a place in the table that all accounts share.  Keeper.
 *
 * A key of a request costs its sender nothing, and stays for a day: one account could have all of
 * the table.  So when three quarters are taken, an account that had a sixty-fourth of the table of
 * late gets no more, and the last sixteenth is for operators' refs alone.  Who had how many is
 * counted in buckets and by half days, which is not exact, and forgotten at a restart; it decides
 * nothing that lasts.
 */
#include "daemon/keeper.h"

#include <string.h>

#define WINDOW_US (UINT64_C(13) * 3600 * 1000000)
#define SMALL 64 /* a table of fewer is not shared out */

static uint32_t
bucket(uint32_t account)
{
	return account % KEEPER_REF_BUCKETS;
}

bool
keeper_refs_room(const struct keeper *k, const struct journal_record *r)
{
	uint32_t max = k->heritage->config->ledger.max_refs; /* 0 in tests: no bound */
	uint32_t kept = books_refs_kept(k->books), b = bucket(r->account);

	if (max == 0 || kept >= max)
		return max == 0;
	if (max < SMALL || r->type != JOURNAL_RESERVE || kept < max - max / 4)
		return true;
	return kept < max - max / 16 && k->refs_of[0][b] + k->refs_of[1][b] < max / 64;
}

void
keeper_refs_note(struct keeper *k, const struct journal_record *r)
{
	if (k->batch_us - k->refs_since_us > WINDOW_US) {
		memcpy(k->refs_of[1], k->refs_of[0], sizeof k->refs_of[1]);
		memset(k->refs_of[0], 0, sizeof k->refs_of[0]);
		k->refs_since_us = k->batch_us;
	}
	k->refs_of[0][bucket(r->account)]++;
}
