#ifndef SHM_MONEY_H
#define SHM_MONEY_H

/*
 * Credits as 64-bit counts of micro-credits (1e-6), prices, and what tokens cost.
 * Pure; any process.  No float ever touches an amount.
 */
#include <stddef.h>
#include <stdint.h>

#define MONEY_CREDIT 1000000 /* micro-credits in a credit */
#define MONEY_TEXT_MAX 24    /* "-9223372036854.775808" and its NUL */

/* Micro-credits per million tokens, so that cost = ceil(tokens x price / 1e6). */
struct price {
	int64_t prompt;     /* uncached input tokens */
	int64_t cached;     /* input tokens served from the provider's cache */
	int64_t completion; /* output tokens, reasoning included */
};

/*
 * Read decimal credits ("12", "-0.5", "+3.000001"): an optional sign, digits, at most six
 * decimals, nothing else.  0, or -1 with errno EINVAL (not such a text) or ERANGE.
 */
int money_parse(const char *text, size_t len, int64_t *amount)
    __attribute__((warn_unused_result));

/* Write an amount as decimal credits, shortest form ("-200", "0.000001"); its length. */
size_t money_format(char text[static MONEY_TEXT_MAX], int64_t amount);

/*
 * What so many tokens cost, in micro-credits, rounded up once; INT64_MAX if it exceeds that.
 * Prices must not be negative.
 */
int64_t price_cost(const struct price *, uint64_t prompt, uint64_t cached, uint64_t completion);

/*
 * The most completion tokens n with price_cost(prompt, cached, n) <= amount;
 * -1 if not even the input can be paid, INT64_MAX if completion tokens are free.
 */
int64_t price_covers(const struct price *, uint64_t prompt, uint64_t cached, int64_t amount);

#endif
