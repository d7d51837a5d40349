/*
 * From books to rows and back.  Keeper, and whoever reads a checkpoint.
 */
#include "daemon/books_rows.h"

#include <string.h>

uint32_t
books_rows(const struct books *b, enum books_table table)
{
	switch (table) {
	case ROWS_ACCOUNTS:
		return books_accounts(b);
	case ROWS_PRICES:
		return books_prices(b);
	case ROWS_HOLDS:
		return books_slots(b);
	case ROWS_KEYS:
		return books_keys(b);
	case ROWS_REFS:
		return books_refs(b);
	case ROWS_PRICE_SETS:
		return books_price_sets(b);
	case ROWS_TABLES:
		break;
	}
	return 0;
}

static void
set_key(struct books_row *row, const void *key, size_t len)
{
	memcpy(row->key, key, len);
	row->key_len = len;
}

static void
make_account(const struct books *b, uint32_t number, struct books_row *row)
{
	const struct books_account *a = books_account(b, number);

	row->text = books_account_id(b, number, &row->text_len);
	row->fixed_len = sizeof row->fixed.account;
	row->fixed.account = (struct account_row){
	    .balance = a->balance,
	    .held = a->held,
	    .overdraft = a->overdraft,
	    .charged = a->charged,
	    .topups = a->topups,
	    .adjustments = a->adjustments,
	    .uncollected = a->uncollected,
	    .slack = a->slack,
	    .ending = a->ending,
	    .ending_us = a->ending_us,
	    .requests_per_minute = a->requests_per_minute,
	    .tokens_per_minute = a->tokens_per_minute,
	    .concurrent_streams = a->concurrent_streams,
	    .flags = a->flags,
	    .id_len = (uint32_t)row->text_len,
	};
	for (int i = 0; i < BUDGETS; i++) {
		const struct books_budget *g = &a->budget[i];

		row->fixed.account.budget[i] = (struct budget_row){
		    .cap = g->cap,
		    .former = g->former,
		    .used = {g->spent.used[0], g->spent.used[1]},
		    .ending_us = g->ending_us,
		    .window = {g->spent.window[0], g->spent.window[1]},
		    .pending = g->pending,
		};
	}
}

static void
make_hold(const struct books *b, uint32_t slot, struct books_row *row)
{
	const struct books_hold *h = books_hold(b, slot);

	row->fixed_len = sizeof row->fixed.hold;
	row->fixed.hold = (struct hold_row){
	    .op = h->op,
	    .amount = h->amount,
	    .slack = h->slack,
	    .opened_us = h->opened_us,
	    .account = h->account,
	    .price = h->price,
	    .prompt = h->prompt,
	    .mark = h->mark,
	    .open = h->open,
	    .type = h->type,
	    .key_id = h->key_id,
	    .window = h->window,
	    .mark_reasoning = h->mark_reasoning,
	    .budget_window = {h->budget_window[0], h->budget_window[1]},
	    .budgets = h->budgets,
	    .budgets_set = h->budgets_set,
	};
}

static void
make_key(const struct books *b, uint32_t index, struct books_row *row)
{
	const struct books_key *k = books_key(b, index);

	row->text = books_key_text(b, k);
	row->text_len = (size_t)k->label_len + k->models_len;
	row->fixed_len = sizeof row->fixed.key;
	row->fixed.key = (struct key_row){
	    .key_id = k->key_id,
	    .expires_us = k->expires_us,
	    .created_us = k->created_us,
	    .account = k->account,
	    .scopes = k->scopes,
	    .flags = k->flags,
	    .label_len = k->label_len,
	    .cap = k->cap,
	    .per = k->per,
	    .models_len = k->models_len,
	    .used = {k->spent.used[0], k->spent.used[1]},
	    .window = {k->spent.window[0], k->spent.window[1]},
	    .sighted = k->sighted,
	    .requests_per_minute = k->requests_per_minute,
	    .tokens_per_minute = k->tokens_per_minute,
	    .concurrent_streams = k->concurrent_streams,
	};
	memcpy(row->fixed.key.hash, k->hash, sizeof k->hash);
}

void
books_row_make(const struct books *b, enum books_table table, uint32_t i, struct books_row *row)
{
	const struct books_price *price;
	const struct books_price_set *set;
	const struct books_ref *ref;

	/* All of it: padding goes to disk and into hashes. */
	memset(row, 0, sizeof *row);
	set_key(row, &i, sizeof i);
	switch (table) {
	case ROWS_ACCOUNTS:
		make_account(b, i, row);
		break;
	case ROWS_PRICES:
		price = books_price(b, i);
		row->fixed.price = price->price;
		row->fixed_len = sizeof row->fixed.price;
		row->text = books_price_model(b, price);
		row->text_len = price->model_len;
		break;
	case ROWS_HOLDS:
		make_hold(b, i, row);
		break;
	case ROWS_KEYS:
		make_key(b, i, row);
		set_key(row, &row->fixed.key.key_id, sizeof row->fixed.key.key_id);
		break;
	case ROWS_REFS:
		ref = books_ref(b, i);
		set_key(row, ref->id, sizeof ref->id);
		row->fixed.ref = (struct ref_row){.sequence = ref->sequence,
		    .time_us = ref->time_us, .amount = ref->amount, .balance = ref->balance};
		memcpy(row->fixed.ref.body, ref->body, sizeof ref->body);
		row->fixed_len = sizeof row->fixed.ref;
		break;
	case ROWS_PRICE_SETS:
		set = books_price_set(b, i);
		row->fixed.price = set->price;
		row->fixed_len = sizeof row->fixed.price;
		row->text = books_price_set_model(b, set);
		row->text_len = set->model_len;
		break;
	case ROWS_TABLES:
		break;
	}
}

static int
load_account(struct books *b, uint32_t number, const char *value, size_t len)
{
	struct books_account a = {0};
	struct account_row row = {0};
	size_t fixed = sizeof row;

	/* Its length tells which one it is. */
	memcpy(&row, value, ACCOUNT_ROW_1);
	if (len == ACCOUNT_ROW_1 + (size_t)row.id_len)
		fixed = ACCOUNT_ROW_1;
	if (len != fixed + row.id_len)
		return -1;
	memcpy(&row, value, fixed);
	a.balance = row.balance;
	a.held = row.held;
	a.overdraft = row.overdraft;
	a.charged = row.charged;
	a.topups = row.topups;
	a.adjustments = row.adjustments;
	a.uncollected = row.uncollected;
	a.slack = row.slack;
	a.ending = row.ending;
	a.ending_us = row.ending_us;
	a.requests_per_minute = row.requests_per_minute;
	a.tokens_per_minute = row.tokens_per_minute;
	a.concurrent_streams = row.concurrent_streams;
	a.flags = (uint8_t)row.flags;
	for (int i = 0; i < BUDGETS; i++) {
		struct books_budget *g = &a.budget[i];

		g->cap = row.budget[i].cap;
		g->former = row.budget[i].former;
		g->ending_us = row.budget[i].ending_us;
		g->pending = row.budget[i].pending;
		memcpy(g->spent.used, row.budget[i].used, sizeof g->spent.used);
		memcpy(g->spent.window, row.budget[i].window, sizeof g->spent.window);
	}
	return books_load_account(b, number, &a, value + fixed, row.id_len);
}

static int
load_hold(struct books *b, uint32_t slot, const char *value, size_t len)
{
	struct books_hold h = {0};
	struct hold_row row = {0};

	if (len != sizeof row && len != HOLD_ROW_2 && len != HOLD_ROW_1)
		return -1;
	memcpy(&row, value, len);
	h.key_id = row.key_id;
	h.window = (uint16_t)row.window;
	memcpy(h.budget_window, row.budget_window, sizeof h.budget_window);
	h.budgets = row.budgets;
	h.budgets_set = row.budgets_set;
	h.op = row.op;
	h.amount = row.amount;
	h.slack = row.slack;
	h.opened_us = row.opened_us;
	h.account = row.account;
	h.price = row.price;
	h.prompt = row.prompt;
	h.mark = row.mark;
	h.mark_reasoning = row.mark_reasoning;
	h.open = row.open != 0;
	h.answered_op = row.op;
	h.type = h.answered_type = (uint8_t)row.type;
	h.answered_status = RING_APPLIED;
	return books_load_hold(b, slot, &h);
}

static int
load_key(struct books *b, const char *value, size_t len)
{
	struct books_key k = {0};
	struct key_row row = {0};
	static const size_t formats[] = {KEY_ROW_1, KEY_ROW_2, sizeof row};
	size_t fixed = 0;

	/* Its length tells which one it is of; the first one knew no models. */
	for (int i = 0; i < 3 && fixed == 0; i++) {
		if (len < formats[i])
			return -1;
		memcpy(&row, value, formats[i]);
		if (len == formats[i] + row.label_len + row.models_len)
			fixed = formats[i];
	}
	if (fixed == 0)
		return -1;
	memcpy(k.hash, row.hash, sizeof k.hash);
	k.key_id = row.key_id;
	k.expires_us = row.expires_us;
	k.created_us = row.created_us;
	k.account = row.account;
	k.scopes = row.scopes;
	k.flags = row.flags;
	k.label_len = row.label_len;
	k.models_len = row.models_len;
	k.cap = row.cap;
	k.per = row.per;
	k.sighted = row.sighted;
	k.requests_per_minute = row.requests_per_minute;
	k.tokens_per_minute = row.tokens_per_minute;
	k.concurrent_streams = row.concurrent_streams;
	memcpy(k.spent.used, row.used, sizeof k.spent.used);
	memcpy(k.spent.window, row.window, sizeof k.spent.window);
	return books_load_key(b, &k, value + fixed);
}

static int
load_ref(struct books *b, const void *key, const char *value)
{
	struct books_ref ref;
	struct ref_row row;

	memcpy(&row, value, sizeof row);
	memcpy(ref.id, key, sizeof ref.id);
	memcpy(ref.body, row.body, sizeof ref.body);
	ref.sequence = row.sequence;
	ref.time_us = row.time_us;
	ref.amount = row.amount;
	ref.balance = row.balance;
	return books_load_ref(b, &ref);
}

static int
load_price(struct books *b, uint32_t id, const char *value, size_t len)
{
	struct price price;

	memcpy(&price, value, sizeof price);
	return books_load_price(b, id, &price, value + sizeof price, len - sizeof price);
}

static int
load_price_set(struct books *b, uint32_t index, const char *value, size_t len)
{
	struct price price;

	memcpy(&price, value, sizeof price);
	return books_load_price_set(b, index, &price, value + sizeof price, len - sizeof price);
}

int
books_row_load(struct books *b, enum books_table table, const void *key, size_t key_len,
    const void *value, size_t len)
{
	static const struct {
		size_t key_len, fixed_len;
	} shape[ROWS_TABLES] = {
	    [ROWS_ACCOUNTS] = {sizeof(uint32_t), ACCOUNT_ROW_1},
	    [ROWS_PRICES] = {sizeof(uint32_t), sizeof(struct price)},
	    [ROWS_HOLDS] = {sizeof(uint32_t), HOLD_ROW_1},
	    [ROWS_KEYS] = {sizeof(uint64_t), KEY_ROW_1},
	    [ROWS_REFS] = {16, sizeof(struct ref_row)},
	    [ROWS_PRICE_SETS] = {sizeof(uint32_t), sizeof(struct price)},
	};
	uint32_t i;

	if (table >= ROWS_TABLES || key_len != shape[table].key_len || len < shape[table].fixed_len)
		return -1;
	memcpy(&i, key, sizeof i);
	switch (table) {
	case ROWS_ACCOUNTS:
		return load_account(b, i, value, len);
	case ROWS_PRICES:
		return load_price(b, i, value, len);
	case ROWS_HOLDS:
		return load_hold(b, i, value, len);
	case ROWS_KEYS:
		return load_key(b, value, len);
	case ROWS_REFS:
		return load_ref(b, key, value);
	case ROWS_PRICE_SETS:
		return load_price_set(b, i, value, len);
	case ROWS_TABLES:
		break;
	}
	return -1;
}

int
books_row_load_former(struct books *b, enum books_table table, const void *key, size_t key_len,
    const void *value, size_t len)
{
	struct price price = PRICE_ALL_UNSET;
	size_t some = offsetof(struct price, reasoning);
	uint32_t id;

	if (table != ROWS_PRICES || key_len != sizeof id || len < some)
		return books_row_load(b, table, key, key_len, value, len);
	memcpy(&id, key, sizeof id);
	memcpy(&price, value, some);
	price = price_resolve(&price, &(struct price)PRICE_ALL_UNSET);
	return books_load_price(b, id, &price, (const char *)value + some, len - some);
}
