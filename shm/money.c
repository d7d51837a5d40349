/*
 * Amounts as text, and what tokens cost.  Pure; any process.
 */
#include "shm/money.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

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

const char *const price_kind_name[PRICE_KINDS] = {
    [PRICE_PROMPT] = "prompt",
    [PRICE_CACHED] = "cached",
    [PRICE_COMPLETION] = "completion",
    [PRICE_REASONING] = "reasoning",
    [PRICE_CACHE_WRITE] = "cache_write",
    [PRICE_REQUEST] = "request",
};

enum price_kind
price_kind(const char *name, size_t len)
{
	int k = 0;

	while (k < PRICE_KINDS &&
	       (strlen(price_kind_name[k]) != len || memcmp(price_kind_name[k], name, len) != 0))
		k++;
	return (enum price_kind)k;
}

int64_t *
price_field(struct price *p, enum price_kind kind)
{
	int64_t *const field[PRICE_KINDS] = {
	    &p->prompt, &p->cached, &p->completion, &p->reasoning, &p->cache_write, &p->request};

	return field[kind];
}

static int64_t
said(int64_t over, int64_t base, int64_t otherwise)
{
	return over >= 0 ? over : base >= 0 ? base : otherwise;
}

struct price
price_resolve(const struct price *base, const struct price *over)
{
	struct price p;

	p.prompt = said(over->prompt, base->prompt, 0);
	p.cached = said(over->cached, base->cached, p.prompt);
	p.completion = said(over->completion, base->completion, 0);
	p.reasoning = said(over->reasoning, base->reasoning, p.completion);
	p.cache_write = said(over->cache_write, base->cache_write, p.prompt);
	p.request = said(over->request, base->request, 0);
	return p;
}

/* Tokens times price of one kind; a price below 0 cannot come from a checked config. */
static u128
part_of(uint64_t tokens, int64_t price)
{
	return price > 0 ? (u128)tokens * (uint64_t)price : 0;
}

/* In millionths of a micro-credit; false: more than 128 bits.  Two parts always fit. */
static bool
sum_of(const struct price *price, const struct tokens *t, u128 *sum)
{
	uint64_t written = t->cache_write < t->prompt ? t->cache_write : t->prompt;
	uint64_t thought = t->reasoning < t->completion ? t->reasoning : t->completion;

	*sum = part_of(t->prompt - written, price->prompt) + part_of(t->cached, price->cached);
	return !__builtin_add_overflow(
	           *sum, part_of(t->completion - thought, price->completion), sum) &&
	       (thought == 0 ||
	           !__builtin_add_overflow(*sum, part_of(thought, price->reasoning), sum)) &&
	       (written == 0 ||
	           !__builtin_add_overflow(*sum, part_of(written, price->cache_write), sum)) &&
	       !__builtin_add_overflow(*sum, part_of(MILLION, price->request), sum);
}

int64_t
price_cost_of(const struct price *price, const struct tokens *t)
{
	uint64_t small;
	u128 sum;

	if (!sum_of(price, t, &sum))
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
price_cost(const struct price *price, uint64_t prompt, uint64_t cached, uint64_t completion)
{
	return price_cost_of(
	    price, &(struct tokens){.prompt = prompt, .cached = cached, .completion = completion});
}

int64_t
price_covers_of(
    const struct price *price, const struct tokens *tokens, bool reasoning, int64_t amount)
{
	int64_t each = reasoning ? price->reasoning : price->completion;
	struct tokens t = *tokens;
	u128 input, budget, n;

	if (t.reasoning > t.completion)
		t.reasoning = t.completion;
	/* Those of the other kind. */
	t.completion = reasoning ? t.completion - t.reasoning : t.reasoning;
	t.reasoning = reasoning ? 0 : t.completion;
	/* ceil(sum / 1e6) <= amount says the same as sum <= amount * 1e6, without rounding. */
	if (amount < 0 || !sum_of(price, &t, &input))
		return -1;
	budget = (u128)(uint64_t)amount * MILLION;
	if (input > budget)
		return -1;
	if (each <= 0)
		return INT64_MAX;
	budget -= input;
	if (budget <= UINT64_MAX)
		n = (uint64_t)budget / (uint64_t)each;
	else
		n = budget / (uint64_t)each;
	n += t.completion;
	return n > INT64_MAX ? INT64_MAX : (int64_t)n;
}

int64_t
price_covers(const struct price *price, uint64_t prompt, uint64_t cached, int64_t amount)
{
	return price_covers_of(
	    price, &(struct tokens){.prompt = prompt, .cached = cached}, false, amount);
}

void
price_fit(const struct price *price, struct tokens *t, int64_t amount)
{
	uint64_t text =
	    t->completion - (t->reasoning < t->completion ? t->reasoning : t->completion);
	uint64_t thought = t->completion - text;
	int64_t n;

	if (price_cost_of(price, t) <= amount)
		return;
	/* What was thought came first, mostly. */
	t->completion = t->reasoning = 0;
	n = price_covers_of(price, t, true, amount);
	t->completion = t->reasoning = n < 0 ? 0 : (uint64_t)n < thought ? (uint64_t)n : thought;
	n = price_covers_of(price, t, false, amount);
	if (n > 0)
		t->completion =
		    (uint64_t)n < t->reasoning + text ? (uint64_t)n : t->reasoning + text;
}

int64_t
price_cost_most(const struct price *price, uint64_t prompt, uint64_t completion)
{
	return price_cost_of(price, &(struct tokens){.prompt = prompt,
	                                .completion = completion,
	                                .reasoning = price_dear_reasoning(price) ? completion : 0});
}

int64_t
price_covers_least(const struct price *price, uint64_t prompt, int64_t amount)
{
	return price_covers_of(
	    price, &(struct tokens){.prompt = prompt}, price_dear_reasoning(price), amount);
}

int64_t
price_covers_most(const struct price *price, uint64_t prompt, int64_t amount)
{
	return price_covers_of(price, &(struct tokens){.prompt = prompt},
	    price->reasoning < price->completion, amount);
}
