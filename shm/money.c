/*
 * Amounts as text, and what tokens cost.  Pure; any process.
 */
#include "shm/money.h"

#include <errno.h>
#include <stdbool.h>

/* Tokens (64 bits) times a price (63 bits) and the sum of two such fit; a third may not. */
typedef unsigned __int128 u128;

#define MILLION 1000000u

/* Append a digit to *n; false when it would pass 2^63, the magnitude of INT64_MIN. */
static bool
digit(uint64_t *n, char c)
{
	const uint64_t most = UINT64_C(1) << 63;
	uint64_t d = (uint64_t)(c - '0');

	if (*n > (most - d) / 10)
		return false;
	*n = *n * 10 + d;
	return true;
}

static bool
is_digit(const char *text, size_t len, size_t at)
{
	return at < len && text[at] >= '0' && text[at] <= '9';
}

int
money_parse(const char *text, size_t len, int64_t *amount)
{
	size_t at = 0, decimals = 0;
	bool minus = false, fits = true;
	uint64_t n = 0;

	if (len > 0 && (text[0] == '-' || text[0] == '+'))
		minus = text[at++] == '-';
	if (!is_digit(text, len, at))
		goto invalid;
	while (is_digit(text, len, at))
		fits = digit(&n, text[at++]) && fits;
	if (at < len && text[at] == '.') {
		at++;
		for (; is_digit(text, len, at) && decimals < 6; decimals++)
			fits = digit(&n, text[at++]) && fits;
		if (decimals == 0)
			goto invalid;
	}
	/* Look at the whole text before speaking of its size: "9...9x" is no amount at all. */
	if (at != len)
		goto invalid;
	for (; decimals < 6; decimals++)
		fits = digit(&n, '0') && fits;
	if (!fits || (!minus && n > INT64_MAX)) {
		errno = ERANGE;
		return -1;
	}
	/* Through unsigned: -INT64_MIN does not exist. */
	*amount = (int64_t)(minus ? 0 - n : n);
	return 0;
invalid:
	errno = EINVAL;
	return -1;
}

size_t
money_format(char text[static MONEY_TEXT_MAX], int64_t amount)
{
	uint64_t n = amount < 0 ? 0 - (uint64_t)amount : (uint64_t)amount;
	uint64_t whole = n / MILLION, part = n % MILLION;
	char back[MONEY_TEXT_MAX];
	size_t len = 0, at = 0;

	/* Backwards: decimals without their trailing zeros, point, whole credits, sign. */
	if (part != 0) {
		int left = 6;

		for (; part % 10 == 0; part /= 10)
			left--;
		for (; left > 0; left--, part /= 10)
			back[len++] = (char)('0' + part % 10);
		back[len++] = '.';
	}
	do
		back[len++] = (char)('0' + whole % 10);
	while ((whole /= 10) != 0);
	if (amount < 0)
		back[len++] = '-';
	while (len > 0)
		text[at++] = back[--len];
	text[at] = '\0';
	return at;
}

/* Tokens times price of one kind; a price below 0 cannot come from a checked config. */
static u128
part_of(uint64_t tokens, int64_t price)
{
	return price > 0 ? (u128)tokens * (uint64_t)price : 0;
}

int64_t
price_cost(const struct price *price, uint64_t prompt, uint64_t cached, uint64_t completion)
{
	u128 sum = part_of(prompt, price->prompt) + part_of(cached, price->cached);
	uint64_t small;

	if (__builtin_add_overflow(sum, part_of(completion, price->completion), &sum))
		return INT64_MAX;
	/* Nearly always: a 64-bit division costs a tenth of libgcc's 128-bit one. */
	if (sum <= UINT64_MAX - (MILLION - 1)) {
		small = (uint64_t)sum;
		return (int64_t)((small + MILLION - 1) / MILLION);
	}
	if (sum > (u128)INT64_MAX * MILLION)
		return INT64_MAX;
	return (int64_t)((sum + MILLION - 1) / MILLION);
}

int64_t
price_covers(const struct price *price, uint64_t prompt, uint64_t cached, int64_t amount)
{
	u128 input = part_of(prompt, price->prompt) + part_of(cached, price->cached);
	u128 budget, n;

	/* ceil(sum / 1e6) <= amount says the same as sum <= amount * 1e6, without rounding. */
	if (amount < 0)
		return -1;
	budget = (u128)(uint64_t)amount * MILLION;
	if (input > budget)
		return -1;
	if (price->completion <= 0)
		return INT64_MAX;
	budget -= input;
	if (budget <= UINT64_MAX)
		n = (uint64_t)budget / (uint64_t)price->completion;
	else
		n = budget / (uint64_t)price->completion;
	return n > INT64_MAX ? INT64_MAX : (int64_t)n;
}
