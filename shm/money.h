#ifndef SHM_MONEY_H
#define SHM_MONEY_H

/*
 * Credits as 64-bit counts of micro-credits (1e-6), prices, and what tokens cost.
 * Pure; any process.  No float ever touches an amount.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MONEY_CREDIT 1000000 /* micro-credits in a credit */
#define MONEY_TEXT_MAX 24    /* "-9223372036854.775808" and its NUL */

/* Micro-credits per million tokens, so that cost = ceil(tokens x price / 1e6); all 64 bits. */
struct price {
	int64_t prompt;      /* input tokens that the provider's cache had no part in */
	int64_t cached;      /* input tokens served from it */
	int64_t completion;  /* output tokens that are not reasoning */
	int64_t reasoning;   /* output tokens that are */
	int64_t cache_write; /* input tokens that were written to the cache */
	int64_t request;     /* for each request: micro-credits, not per million */
};

/* The kinds, in the order of the fields; their names as the config and tollctl write them. */
enum price_kind {
	PRICE_PROMPT,
	PRICE_CACHED,
	PRICE_COMPLETION,
	PRICE_REASONING,
	PRICE_CACHE_WRITE,
	PRICE_REQUEST,
	PRICE_KINDS
};
extern const char *const price_kind_name[PRICE_KINDS];
/* The kind of that name, or PRICE_KINDS. */
enum price_kind price_kind(const char *name, size_t len);
int64_t *price_field(struct price *, enum price_kind);

/* A kind for which nothing is said. */
#define PRICE_UNSET INT64_C(-1)
#define PRICE_ALL_UNSET                                                                            \
	{                                                                                          \
		PRICE_UNSET, PRICE_UNSET, PRICE_UNSET, PRICE_UNSET, PRICE_UNSET, PRICE_UNSET       \
	}
/*
 * What is charged: for each kind what `over` says, else what `base` says, else its default: that
 * of prompt for cached and cache_write, that of completion for reasoning, nothing for request (and
 * for prompt and completion, which a config must name).
 */
struct price price_resolve(const struct price *base, const struct price *over);

/* What is charged for. */
struct tokens {
	uint64_t prompt;      /* input, without what was cached */
	uint64_t cached;
	uint64_t completion;  /* all output */
	uint64_t reasoning;   /* of completion */
	uint64_t cache_write; /* of prompt */
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
 * What a request of so many tokens costs, in micro-credits, rounded up once; INT64_MAX if it
 * exceeds that.  Prices must not be negative.
 */
int64_t price_cost_of(const struct price *, const struct tokens *);
/* The same without reasoning and without writing to a cache. */
int64_t price_cost(const struct price *, uint64_t prompt, uint64_t cached, uint64_t completion);

/*
 * The most completion tokens that an amount pays if all beyond those in `t` are reasoning (or none
 * is): those of the other kind in `t` are there already.  -1 if not even these and the input can be
 * paid, INT64_MAX if more tokens are free.
 */
int64_t price_covers_of(
    const struct price *, const struct tokens *t, bool reasoning, int64_t amount);
/*
 * The most completion tokens n with price_cost(prompt, cached, n) <= amount;
 * -1 if not even the input can be paid, INT64_MAX if completion tokens are free.
 */
int64_t price_covers(const struct price *, uint64_t prompt, uint64_t cached, int64_t amount);
/* Take away completion tokens until the rest costs no more; the input stays. */
void price_fit(const struct price *, struct tokens *, int64_t amount);

/* The dearer of the two kinds of completion tokens: what is not known yet is paid ahead as it. */
static inline bool
price_dear_reasoning(const struct price *p)
{
	return p->reasoning > p->completion;
}
/* The most that so many tokens of an answer may cost. */
int64_t price_cost_most(const struct price *, uint64_t prompt, uint64_t completion);
/* How many an amount pays, whatever they are, and at the best; as price_covers. */
int64_t price_covers_least(const struct price *, uint64_t prompt, int64_t amount);
int64_t price_covers_most(const struct price *, uint64_t prompt, int64_t amount);

#endif
