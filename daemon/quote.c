/*
 * Quotes.  Worker process.
 *
 * The mean completion length of a model is a moving average (weight 1/16) in shared memory.
 * Workers update it without a lock: a lost update loses one sample of an estimate.
 */
#include "daemon/quote.h"

#include "shm/clock.h"
#include "shm/purse.h"

#define MEAN_SHIFT 4 /* weight 1/16 */
#define MEAN_SCALE 16

uint32_t
quote_price(const struct region *region, int model, struct price *price)
{
	/* The keeper wrote the price before it published its id (acquire pairs with that). */
	uint32_t id = atomic_load_explicit(region_model_price(region, (uint32_t)model),
	    memory_order_acquire);

	*price = *region_price(region, id);
	return id;
}

void
quote_make(const struct config *cfg, const struct region *region, const struct chat_request *r,
    const struct price *price, struct quote *q)
{
	const struct config_model *m = &cfg->model[r->model];
	uint32_t mean, likely = r->max_tokens;

	q->min_tokens = r->least > r->choices ? r->least : r->choices; /* one of each answer */
	/* What can't be counted in flight is paid ahead. */
	q->want_tokens = m->hidden_tokens || r->in_one_piece || r->max_tokens < cfg->ledger.slice_tokens
	    ? r->max_tokens
	    : cfg->ledger.slice_tokens;
	if (q->want_tokens < q->min_tokens)
		q->want_tokens = q->min_tokens;
	q->required = price_cost_most(price, r->prompt_tokens, q->min_tokens);
	q->max_cost = price_cost_most(price, r->prompt_tokens, r->max_tokens);
	mean = atomic_load_explicit(region_model_mean(region, (uint32_t)r->model),
	    memory_order_relaxed) / MEAN_SCALE;
	if (mean == 0)
		mean = cfg->ledger.slice_tokens;
	if (mean < likely)
		likely = mean;
	q->estimated_cost = price_cost(price, r->prompt_tokens, 0, likely);
}

/* A purse that has less left than what was found before. */
static void
least(const struct purse *p, uint32_t per, uint64_t now_us, enum ledger_result is,
    int64_t *available, enum ledger_result *by)
{
	int64_t left = purse_left(p, purse_window(per, now_us));

	if (left >= *available)
		return;
	*available = left;
	*by = is;
}

int64_t
quote_available(const struct account *a, const struct key_entry *purse, enum ledger_result *by)
{
	static const enum ledger_result is[BUDGETS] = {LEDGER_BUDGET_DAY, LEDGER_BUDGET_MONTH};
	enum ledger_result found = LEDGER_SHORT;
	int64_t available = account_available(a);
	uint64_t now_us = realtime_us();

	if (purse != NULL)
		least(&purse->purse, purse->purse.per, now_us, LEDGER_CAPPED, &available, &found);
	for (unsigned i = 0; i < BUDGETS; i++)
		if (purse_cap(&a->budget[i]) != 0)
			least(&a->budget[i], KEY_PER_DAY + i, now_us, is[i], &available, &found);
	if (by != NULL)
		*by = found;
	return available;
}

enum ledger_result
quote_ask(const struct account *a, const struct key_entry *purse, const struct quote *q)
{
	enum ledger_result by;

	if ((atomic_load_explicit(&a->flags, memory_order_acquire) &
		(ACCOUNT_CLOSED | ACCOUNT_FROZEN)) != 0)
		return LEDGER_CLOSED;
	return quote_available(a, purse, &by) >= q->required ? LEDGER_OK : by;
}

static const struct {
	enum ledger_result result;
	const char *name;
} shorts[SHORT_MAX] = {
    [SHORT_UNKNOWN] = {LEDGER_OK, NULL},
    [SHORT_CREDIT] = {LEDGER_SHORT, "credit"},
    [SHORT_KEY_CAP] = {LEDGER_CAPPED, "key_cap"},
    [SHORT_BUDGET_DAY] = {LEDGER_BUDGET_DAY, "budget_day"},
    [SHORT_BUDGET_MONTH] = {LEDGER_BUDGET_MONTH, "budget_month"},
};

uint8_t
quote_short_code(enum ledger_result by)
{
	uint8_t code = SHORT_CREDIT;

	for (uint8_t i = 0; i < SHORT_MAX; i++)
		if (shorts[i].result == by)
			code = i;
	return code;
}

const char *
quote_short_name(uint8_t code)
{
	return code < SHORT_MAX ? shorts[code].name : NULL;
}

enum ledger_result
quote_short_result(uint8_t code)
{
	return code < SHORT_MAX ? shorts[code].result : LEDGER_OK;
}

const char *
quote_short_of(enum ledger_result by)
{
	const char *name = quote_short_name(quote_short_code(by));

	return name != NULL ? name : "credit";
}

void
quote_learn(const struct region *region, int model, uint32_t completion_tokens)
{
	_Atomic uint32_t *mean = region_model_mean(region, (uint32_t)model);
	uint32_t old = atomic_load_explicit(mean, memory_order_relaxed);
	uint32_t sample = completion_tokens < (1u << 24) ? completion_tokens * MEAN_SCALE
							 : UINT32_MAX / 2;

	if (old == 0)
		old = sample;
	else
		old = old - (old >> MEAN_SHIFT) + (sample >> MEAN_SHIFT);
	atomic_store_explicit(mean, old, memory_order_relaxed);
}
