/*
 * The keeper's books: tables, look-ups, and filling them from rows.  Keeper (and admin, for an
 * audit).  Judging records is books_check.c's, entering them books_apply.c's.
 */
#include "daemon/books.h"

#include <stdlib.h>
#include <string.h>

#include "daemon/books_private.h"
#include "daemon/log.h"
#include "daemon/utf8.h"
#include "shm/account.h"

/* Room for one more of `size` bytes; not counted yet. */
void *
books_room(struct table *t, size_t more, size_t size)
{
	if (t->count + more > t->cap) {
		size_t cap = t->cap < 16 ? 16 : t->cap;
		void *data;

		while (cap < t->count + more)
			cap *= 2;
		data = realloc(t->data, cap * size);
		if (data == NULL)
			fatal("keeper: books");
		t->data = data;
		t->cap = cap;
	}
	return (char *)t->data + t->count * size;
}

void
books_add_u32(struct table *t, uint32_t value)
{
	*(uint32_t *)books_room(t, 1, sizeof value) = value;
	t->count++;
}

static uint64_t
text_add(struct books *b, const char *text, size_t len)
{
	uint64_t at = b->text.count;

	if (len > 0)
		memcpy(books_room(&b->text, len, 1), text, len);
	b->text.count += len;
	return at;
}

static const char *
text_at(const struct books *b, uint64_t at)
{
	return b->text.data == NULL ? "" : (const char *)b->text.data + at;
}

/* FNV-1a and a final mix; ids are checked and counted before they come here. */
uint64_t
books_hash(const void *bytes, size_t len)
{
	const unsigned char *p = bytes;
	uint64_t h = UINT64_C(0xcbf29ce484222325);

	for (size_t i = 0; i < len; i++)
		h = (h ^ p[i]) * UINT64_C(0x100000001b3);
	h ^= h >> 32;
	h *= UINT64_C(0xd6e8feb86659fd93);
	return h ^ h >> 32;
}

static void
lookup_put(struct lookup *l, uint64_t word)
{
	size_t at = (size_t)(word >> 32) & l->mask;

	while (l->entry[at] != 0)
		at = (at + 1) & l->mask;
	l->entry[at] = word;
}

void
books_lookup_add(struct lookup *l, uint64_t hash, uint32_t index)
{
	if (l->entry == NULL || 2 * (l->used + 1) > l->mask) {
		struct lookup bigger = {.mask = l->entry == NULL ? 63 : 2 * l->mask + 1};

		bigger.entry = calloc(bigger.mask + 1, sizeof *bigger.entry);
		if (bigger.entry == NULL)
			fatal("keeper: books");
		for (size_t i = 0; l->entry != NULL && i <= l->mask; i++)
			if (l->entry[i] != 0)
				lookup_put(&bigger, l->entry[i]);
		bigger.used = l->used;
		free(l->entry);
		*l = bigger;
	}
	lookup_put(l, (hash & ~UINT64_C(0xffffffff)) | (index + 1u));
	l->used++;
}

uint32_t
books_lookup_next(const struct lookup *l, uint64_t hash, size_t *at)
{
	if (l->entry == NULL)
		return JOURNAL_NONE;
	*at = *at == SIZE_MAX ? (size_t)(hash >> 32) & l->mask : (*at + 1) & l->mask;
	for (; l->entry[*at] != 0; *at = (*at + 1) & l->mask)
		if (l->entry[*at] >> 32 == hash >> 32)
			return (uint32_t)l->entry[*at] - 1;
	return JOURNAL_NONE;
}

struct books *
books_new(void)
{
	struct books *b = calloc(1, sizeof *b);

	if (b == NULL)
		fatal("keeper: books");
	return b;
}

void
books_free(struct books *b)
{
	if (b == NULL)
		return;
	free(b->accounts.data);
	free(b->holds.data);
	free(b->keys.data);
	free(b->refs.data);
	free(b->prices.data);
	free(b->price_sets.data);
	free(b->text.data);
	free(b->by_id.entry);
	free(b->by_key_id.entry);
	free(b->by_key_hash.entry);
	free(b->by_ref.entry);
	free(b->changed_accounts.data);
	free(b->changed_slots.data);
	free(b->changed_keys.data);
	free(b);
}

/* Looking. */

#define GETTER(name, table, type)                                                                 \
	const struct type *name(const struct books *b, uint32_t i)                                \
	{                                                                                         \
		return i < b->table.count ? (const struct type *)b->table.data + i : NULL;        \
	}
#define COUNTER(name, table)                                                                      \
	uint32_t name(const struct books *b)                                                      \
	{                                                                                         \
		return (uint32_t)b->table.count;                                                  \
	}
GETTER(books_account, accounts, books_account)
GETTER(books_hold, holds, books_hold)
GETTER(books_key, keys, books_key)
GETTER(books_ref, refs, books_ref)
GETTER(books_price, prices, books_price)
GETTER(books_price_set, price_sets, books_price_set)
COUNTER(books_accounts, accounts)
COUNTER(books_slots, holds)
COUNTER(books_keys, keys)
COUNTER(books_refs, refs)
COUNTER(books_prices, prices)
COUNTER(books_price_sets, price_sets)

uint32_t
books_frozen(const struct books *b)
{
	return b->frozen;
}

const char *
books_account_id(const struct books *b, uint32_t number, size_t *len)
{
	const struct books_account *a = books_account(b, number);

	*len = a == NULL ? 0 : a->id_len;
	return a == NULL ? NULL : text_at(b, a->id_at);
}

const char *
books_key_text(const struct books *b, const struct books_key *k)
{
	return text_at(b, k->text_at);
}

bool
books_models_next(struct books_models *m, const char **name, size_t *len)
{
	const char *stop;

	if (m->at >= m->end)
		return false;
	stop = memchr(m->at, '\n', (size_t)(m->end - m->at));
	if (stop == NULL)
		stop = m->end;
	*name = m->at;
	*len = (size_t)(stop - m->at);
	m->at = stop + 1;
	return true;
}

const char *
books_price_model(const struct books *b, const struct books_price *p)
{
	return text_at(b, p->model_at);
}

uint32_t
books_account_find(const struct books *b, const char *id, size_t len)
{
	uint64_t hash = books_hash(id, len);
	size_t at = SIZE_MAX;
	uint32_t i;

	while ((i = books_lookup_next(&b->by_id, hash, &at)) != JOURNAL_NONE) {
		const struct books_account *a = books_account(b, i);

		if (a->id_len == len && memcmp(text_at(b, a->id_at), id, len) == 0)
			break;
	}
	return i;
}

uint32_t
books_key_find(const struct books *b, uint64_t key_id)
{
	uint64_t hash = books_hash(&key_id, sizeof key_id);
	size_t at = SIZE_MAX;
	uint32_t i;

	while ((i = books_lookup_next(&b->by_key_id, hash, &at)) != JOURNAL_NONE)
		if (books_key(b, i)->key_id == key_id)
			break;
	return i;
}

bool
books_key_hash_taken(const struct books *b, const uint8_t hash[static 32])
{
	uint64_t h = books_hash(hash, 32);
	size_t at = SIZE_MAX;
	uint32_t i;

	while ((i = books_lookup_next(&b->by_key_hash, h, &at)) != JOURNAL_NONE)
		if (memcmp(books_key(b, i)->hash, hash, 32) == 0)
			return true;
	return false;
}

uint32_t
books_price_find(const struct books *b, const char *model, size_t len, const struct price *price)
{
	/* From the end: what is in force was added last. */
	for (uint32_t i = books_prices(b); i-- > 0;) {
		const struct books_price *p = books_price(b, i);

		if (p->model_len == len && memcmp(text_at(b, p->model_at), model, len) == 0 &&
		    memcmp(&p->price, price, sizeof *price) == 0)
			return i;
	}
	return JOURNAL_NONE;
}

bool
books_price_of(const struct journal_record *r, const void *payload, struct price *price,
    const char **model, size_t *model_len)
{
	struct journal_price head = {.reasoning = PRICE_UNSET, .cache_write = PRICE_UNSET};
	size_t len = r->version == JOURNAL_VERSION ? sizeof head.former : sizeof head;

	if (r->payload_len < len)
		return false;
	memcpy(&head, payload, len);
	*price = (struct price){head.former.prompt, head.former.cached, head.former.completion,
	    head.reasoning, head.cache_write, head.request};
	if (r->version == JOURNAL_VERSION) /* as it was charged then */
		*price = price_resolve(price, &(struct price)PRICE_ALL_UNSET);
	*model = (const char *)payload + len;
	*model_len = head.former.model_len;
	return len + *model_len <= r->payload_len;
}

const char *
books_price_set_model(const struct books *b, const struct books_price_set *s)
{
	return text_at(b, s->model_at);
}

static struct books_price_set *
price_set_find(const struct books *b, const char *model, size_t len)
{
	struct books_price_set *s = b->price_sets.data;

	for (size_t i = 0; i < b->price_sets.count; i++)
		if (s[i].model_len == len && memcmp(text_at(b, s[i].model_at), model, len) == 0)
			return &s[i];
	return NULL;
}

struct price
books_price_over(const struct books *b, const char *model, size_t len)
{
	const struct books_price_set *s = price_set_find(b, model, len);

	return s == NULL ? (struct price)PRICE_ALL_UNSET : s->price;
}

bool
books_price_set_of(const struct journal_record *r, const void *payload,
    struct journal_price_set *set, const char **model)
{
	if (r->payload_len < sizeof *set)
		return false;
	memcpy(set, payload, sizeof *set);
	*model = (const char *)payload + sizeof *set;
	return sizeof *set + set->model_len == r->payload_len && set->kind <= PRICE_KINDS;
}

void
books_price_change(struct price *over, const struct journal_price_set *set, int64_t value)
{
	if (set->kind < PRICE_KINDS)
		*price_field(over, (enum price_kind)set->kind) = value;
	else
		*over = (struct price)PRICE_ALL_UNSET;
}

/* A name that goes into logs, JSON and terminals. */
static bool
printable(const char *text, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if ((unsigned char)text[i] < ' ' || text[i] == 0x7f)
			return false;
	return utf8_valid(text, len);
}

bool
books_end_of(const struct journal_record *r, const void *payload, struct journal_end *end,
    const char **provider)
{
	if (r->payload_len < sizeof *end)
		return false;
	memcpy(end, payload, sizeof *end);
	*provider = (const char *)payload + sizeof *end;
	return end->provider_len <= JOURNAL_PROVIDER_MAX &&
	    end->provider_len <= r->payload_len - sizeof *end &&
	    printable(*provider, end->provider_len) && end->split.reasoning <= r->completion &&
	    end->split.cache_write <= r->prompt;
}

bool
books_split_of(const struct journal_record *r, const void *payload, struct journal_split *split)
{
	struct journal_end end;
	const char *provider;

	*split = (struct journal_split){0};
	if (r->version == JOURNAL_VERSION_TOLD) {
		if (!books_end_of(r, payload, &end, &provider))
			return false;
		*split = end.split;
		return true;
	}
	if (r->version != JOURNAL_VERSION_KINDS)
		return true;
	if (r->payload_len < sizeof *split)
		return false;
	memcpy(split, payload, sizeof *split);
	return split->reasoning <= r->completion && split->cache_write <= r->prompt;
}

bool
books_set_of(const struct journal_record *r, const void *payload, struct journal_account_set *set,
    struct journal_budgets *budgets)
{
	size_t more;

	if (r->payload_len < sizeof *set)
		return false;
	memcpy(set, payload, sizeof *set);
	*budgets = (struct journal_budgets){{0}};
	more = (set->what & JOURNAL_SET_BUDGETS) != 0 ? sizeof *budgets : 0;
	if (sizeof *set + more + set->reason_len > r->payload_len)
		return false;
	memcpy(budgets, (const char *)payload + sizeof *set, more);
	return true;
}

bool
books_account_of(const struct journal_record *r, const void *payload,
    struct journal_account *head, struct journal_budgets *budgets, const char **id)
{
	size_t more;

	if (r->payload_len < sizeof *head)
		return false;
	memcpy(head, payload, sizeof *head);
	*budgets = (struct journal_budgets){{0}};
	*id = (const char *)payload + sizeof *head;
	more = head->budgets != 0 ? sizeof *budgets : 0;
	if (sizeof *head + head->id_len + more > r->payload_len)
		return false;
	memcpy(budgets, *id + head->id_len, more);
	return true;
}

/* The slot's entry, made if need be; NULL if there can be no such slot. */
struct books_hold *
books_slot(struct books *b, uint32_t slot)
{
	if (slot >= BOOKS_SLOTS_MAX)
		return NULL;
	if (slot >= b->holds.count) {
		size_t more = slot + 1 - b->holds.count;

		memset(books_room(&b->holds, more, sizeof(struct books_hold)), 0,
		    more * sizeof(struct books_hold));
		b->holds.count += more;
	}
	return (struct books_hold *)b->holds.data + slot;
}

/* Filling. */

/*
 * Rows may be of a damaged file.  What no records can have made is refused, so that what is computed
 * from them cannot overflow and what they refer to is there; the journal then says what is right.
 */
static bool
amount_sound(int64_t amount)
{
	return amount >= -INT64_MAX / 2 && amount <= INT64_MAX / 2;
}

static bool
claim_sound(int64_t amount)
{
	return amount >= 0 && amount <= PURSE_MAX;
}

static bool
used_sound(const struct books_used *s)
{
	return claim_sound(s->used[0]) && claim_sound(s->used[1]);
}

static bool
account_sound(const struct books_account *a)
{
	for (int i = 0; i < BUDGETS; i++)
		if (!claim_sound(a->budget[i].cap) || !claim_sound(a->budget[i].former) ||
		    !used_sound(&a->budget[i].spent))
			return false;
	return amount_sound(a->balance) && amount_sound(a->held) && a->held >= 0 &&
	       amount_sound(a->overdraft) && a->overdraft >= 0 && amount_sound(a->charged) &&
	       amount_sound(a->topups) && amount_sound(a->adjustments) && a->uncollected >= 0 &&
	       amount_sound(a->slack) && a->ending >= 0 && a->ending <= a->slack;
}

int
books_load_account(struct books *b, uint32_t number, const struct books_account *row,
    const char *id, size_t id_len)
{
	struct books_account *a;

	if (number != b->accounts.count || !account_sound(row) || !account_id_ok(id, id_len) ||
	    books_account_find(b, id, id_len) != JOURNAL_NONE)
		return -1;
	a = books_room(&b->accounts, 1, sizeof *a);
	*a = *row;
	a->id_at = text_add(b, id, id_len);
	a->id_len = (uint8_t)id_len;
	a->changed = false;
	b->frozen += (a->flags & ACCOUNT_FROZEN) != 0;
	b->accounts.count++;
	books_lookup_add(&b->by_id, books_hash(id, id_len), number);
	return 0;
}

int
books_load_hold(struct books *b, uint32_t slot, const struct books_hold *row)
{
	struct books_hold *h = books_slot(b, slot);
	bool refers = row->open || row->slack != 0 || row->budgets_set != 0;

	if (h == NULL || (refers && row->account >= b->accounts.count) ||
	    (row->open && row->price >= b->prices.count))
		return -1;
	if (row->amount < 0 || !amount_sound(row->amount) || row->slack < 0 ||
	    !amount_sound(row->slack))
		return -1;
	*h = *row;
	h->changed = false;
	return 0;
}

int
books_load_key(struct books *b, const struct books_key *row, const char *text)
{
	uint32_t index = books_keys(b);
	struct books_key *k;

	if (row->account >= b->accounts.count || books_key_find(b, row->key_id) != JOURNAL_NONE ||
	    row->per >= KEY_PERS || !claim_sound(row->cap) || !used_sound(&row->spent))
		return -1;
	k = books_room(&b->keys, 1, sizeof *k);
	*k = *row;
	k->text_at = text_add(b, text, (size_t)row->label_len + row->models_len);
	k->changed = false;
	b->keys.count++;
	books_lookup_add(&b->by_key_id, books_hash(&k->key_id, sizeof k->key_id), index);
	books_lookup_add(&b->by_key_hash, books_hash(k->hash, sizeof k->hash), index);
	return 0;
}

/* Is none of its kinds below that? */
static bool
prices_from(const struct price *price, int64_t least)
{
	struct price copy = *price;

	for (int k = 0; k < PRICE_KINDS; k++)
		if (*price_field(&copy, (enum price_kind)k) < least)
			return false;
	return true;
}

int
books_load_price(struct books *b, uint32_t price_id, const struct price *price, const char *model,
    size_t model_len)
{
	struct books_price *p;

	if (price_id != b->prices.count || !prices_from(price, 0))
		return -1;
	p = books_room(&b->prices, 1, sizeof *p);
	p->price = *price;
	p->model_at = text_add(b, model, model_len);
	p->model_len = (uint32_t)model_len;
	b->prices.count++;
	return 0;
}

/* The next one, or one that is there. */
int
books_load_price_set(struct books *b, uint32_t index, const struct price *price, const char *model,
    size_t model_len)
{
	struct books_price_set *s = price_set_find(b, model, model_len);

	if (!prices_from(price, PRICE_UNSET))
		return -1;
	if (s == NULL) {
		if (index != b->price_sets.count)
			return -1;
		s = books_room(&b->price_sets, 1, sizeof *s);
		s->model_at = text_add(b, model, model_len);
		s->model_len = (uint32_t)model_len;
		b->price_sets.count++;
	}
	s->price = *price;
	b->price_sets_changed = true;
	return 0;
}

void
books_changes(const struct books *b, struct books_changes *c)
{
	*c = (struct books_changes){
	    .account = b->changed_accounts.data,
	    .slot = b->changed_slots.data,
	    .key = b->changed_keys.data,
	    .accounts = b->changed_accounts.count,
	    .slots = b->changed_slots.count,
	    .keys = b->changed_keys.count,
	    .refs_from = b->refs_from,
	    .prices_from = b->prices_from,
	    .price_sets = b->price_sets_changed,
	};
}

void
books_changes_taken(struct books *b, const struct books_changes *c)
{
	const uint32_t *n;

	n = b->changed_accounts.data;
	for (size_t i = 0; i < c->accounts; i++)
		((struct books_account *)b->accounts.data)[n[--b->changed_accounts.count]].changed =
		    false;
	n = b->changed_slots.data;
	for (size_t i = 0; i < c->slots; i++)
		((struct books_hold *)b->holds.data)[n[--b->changed_slots.count]].changed = false;
	n = b->changed_keys.data;
	for (size_t i = 0; i < c->keys; i++)
		((struct books_key *)b->keys.data)[n[--b->changed_keys.count]].changed = false;
	b->refs_from = c->refs_from;
	b->prices_from = c->prices_from;
	b->price_sets_changed = false;
}

void
books_changes_clear(struct books *b)
{
	struct books_changes c;

	books_changes(b, &c);
	c.refs_from = books_refs(b);
	c.prices_from = books_prices(b);
	books_changes_taken(b, &c);
}

void
books_changes_all(struct books *b)
{
	books_changes_clear(b);
	for (uint32_t i = 0; i < books_accounts(b); i++) {
		((struct books_account *)b->accounts.data)[i].changed = true;
		books_add_u32(&b->changed_accounts, i);
	}
	for (uint32_t i = 0; i < books_slots(b); i++) {
		((struct books_hold *)b->holds.data)[i].changed = true;
		books_add_u32(&b->changed_slots, i);
	}
	for (uint32_t i = 0; i < books_keys(b); i++) {
		((struct books_key *)b->keys.data)[i].changed = true;
		books_add_u32(&b->changed_keys, i);
	}
	b->refs_from = b->prices_from = 0;
	b->price_sets_changed = true;
}
