#ifndef TESTS_STORM_EXAMINE_H
#define TESTS_STORM_EXAMINE_H

/* What the examiner's files share: examine.c, and purses.c for caps and budgets. */
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>

#include "daemon/journal.h"
#include "shm/region.h"
#include "tests/storm/told.h"

#define WRONG(...)                       \
	do {                             \
		storm_fail(__VA_ARGS__); \
		return false;            \
	} while (0)

/* Under whose cap and which budgets a RESERVE is, into its stream. */
bool purses_enter(const struct journal_entry *, struct told_stream *);
/* So much more, or less, is held and charged under them. */
bool purses_spend(const struct journal_entry *, const struct told_stream *, int64_t amount);
/* At rest: does memory say what was entered of an account's budgets? */
bool purses_agree(const struct purse *, unsigned place, uint16_t window, int64_t spent);
bool purses_judge(const struct region *, uint32_t account);

#endif
