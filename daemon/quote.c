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

int64_t
quote_available(const struct account *a, const struct key_entry *purse)
{
	int64_t available = account_available(a), left;

	if (purse == NULL)
		return available;
	left = purse_left(&purse->purse, purse_window(purse->purse.per, realtime_us()));
	return left < available ? left : available;
}

bool
quote_allowed(const struct account *a, const struct key_entry *purse, const struct quote *q)
{
	return (atomic_load_explicit(&a->flags, memory_order_acquire) &
		   (ACCOUNT_CLOSED | ACCOUNT_FROZEN)) == 0 &&
	    quote_available(a, purse) >= q->required;
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
