/*
 * Which prices are in force: what operators set, over the config.  Keeper process.
 *
 * A price has a number for ever, by which holds and records name it; what changes is which number a
 * model has.  So a stream that runs is settled at the price of its reserve, and nobody ever reads
 * half a price: the row is written before the number is published, and not again.
 */
#include <stdatomic.h>
#include <string.h>

#include "daemon/keeper.h"
#include "daemon/log.h"

static size_t
name_len(const struct config_model *m)
{
	size_t len = strlen(m->name);

	return len < UINT16_MAX ? len : UINT16_MAX;
}

static struct price
in_force(const struct keeper *k, const struct config_model *m)
{
	struct price over = books_price_over(k->books, m->name, name_len(m));

	return price_resolve(&m->price, &over);
}

static void
append_price(struct keeper *k, const struct config_model *m, const struct price *p)
{
	struct journal_price head = {
	    .former = {.prompt = p->prompt,
	        .cached = p->cached,
	        .completion = p->completion,
	        .model_len = (uint16_t)name_len(m)},
	    .reasoning = p->reasoning,
	    .cache_write = p->cache_write,
	    .request = p->request,
	};
	struct journal_record r = {
	    .type = JOURNAL_PRICE,
	    .version = JOURNAL_VERSION_KINDS,
	    .proc = PROC_KEEPER,
	    .slot = JOURNAL_NONE,
	    .account = JOURNAL_NONE,
	    .price = books_prices(k->books),
	    .payload_len = (uint32_t)(sizeof head + name_len(m)),
	    .time_us = keeper_realtime_us(),
	};
	struct buf b = {0};

	buf_add(&b, &head, sizeof head);
	buf_add(&b, m->name, name_len(m));
	if (b.failed)
		fatal("keeper: prices");
	keeper_append(k, &r, b.data);
	buf_free(&b);
}

/* Is the price in force for it one that the journal does not have? */
static bool
is_new(const struct keeper *k, const struct config_model *m)
{
	struct price p;

	if (m->name == NULL)
		return false;
	p = in_force(k, m);
	return books_price_find(k->books, m->name, name_len(m), &p) == JOURNAL_NONE;
}

int
keeper_prices_enter(struct keeper *k)
{
	const struct config *config = k->heritage->config;
	uint32_t missing = 0;

	for (int i = 0; i < config->model_count; i++)
		missing += is_new(k, &config->model[i]);
	/* Before any is in the journal, where it would be for ever. */
	if (missing > 0 && books_prices(k->books) + missing > PRICE_MAX) {
		log_warnx("the journal has %u prices of %d, the most there can be: no room for %u new",
		    (unsigned)books_prices(k->books), PRICE_MAX, (unsigned)missing);
		return -1;
	}
	for (int i = 0; i < config->model_count; i++) {
		const struct config_model *m = &config->model[i];

		if (is_new(k, m)) {
			struct price p = in_force(k, m);

			append_price(k, m, &p);
		}
	}
	return 0;
}

bool
keeper_prices_room(const struct keeper *k, const struct journal_record *r, const void *payload)
{
	const struct config *config = k->heritage->config;
	struct journal_price_set set;
	struct price over, p;
	const char *model;
	int i = 0;

	if (!books_price_set_of(r, payload, &set, &model))
		return true;
	if (books_prices(k->books) < PRICE_MAX)
		return true;
	while (i < config->model_count &&
	       (config->model[i].name == NULL || name_len(&config->model[i]) != set.model_len ||
	           memcmp(config->model[i].name, model, set.model_len) != 0))
		i++;
	if (i == config->model_count)
		return true;
	over = books_price_over(k->books, model, set.model_len);
	books_price_change(&over, &set, r->amount);
	p = price_resolve(&config->model[i].price, &over);
	return books_price_find(k->books, model, set.model_len, &p) != JOURNAL_NONE;
}

/* Bits of what an operator set. */
static uint8_t
set_bits(struct price over)
{
	unsigned bits = 0;

	for (int kind = 0; kind < PRICE_KINDS; kind++)
		if (*price_field(&over, (enum price_kind)kind) >= 0)
			bits |= 1u << kind;
	return (uint8_t)bits;
}

int
keeper_prices_show(struct keeper *k, bool all)
{
	const struct config *config = k->heritage->config;
	struct region_header *h = k->region->h;
	uint32_t n = books_prices(k->books);
	/* Relaxed: our own count, or that of a keeper that is dead. */
	uint32_t shown = all ? 0 : atomic_load_explicit(&h->prices, memory_order_relaxed);

	if (n > PRICE_MAX) {
		log_warnx("more than %d prices in the journal", PRICE_MAX);
		return -1;
	}
	for (uint32_t i = shown; i < n; i++)
		*region_price(k->region, i) = books_price(k->books, i)->price;
	/* Release, pairs with whoever reads the count: the prices are there. */
	atomic_store_explicit(&h->prices, n, memory_order_release);
	for (int i = 0; i < config->model_count; i++) {
		const struct config_model *m = &config->model[i];
		struct price p;
		uint32_t id;

		if (m->name == NULL)
			continue;
		p = in_force(k, m);
		id = books_price_find(k->books, m->name, name_len(m), &p);
		atomic_store_explicit(&h->model_price_set[i],
		    set_bits(books_price_over(k->books, m->name, name_len(m))),
		    memory_order_relaxed);
		/* Release, pairs with quote_price: who sees the number sees the price. */
		atomic_store_explicit(
		    region_model_price(k->region, (uint32_t)i), id, memory_order_release);
	}
	return 0;
}
