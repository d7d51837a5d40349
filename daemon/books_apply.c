/*
 * Entering records into the books.  Keeper (and admin, for an audit).
 *
 * What comes here has been judged by books_check.c, or stands in the journal; here is only made
 * sure that it can be entered at all.
 */
#include <string.h>

#include "daemon/books_private.h"
#include "shm/account.h"
#include "shm/purse.h"

static struct books_account *
account_to_change(struct books *b, uint32_t number)
{
	struct books_account *a;

	if (number >= b->accounts.count)
		return NULL;
	a = (struct books_account *)b->accounts.data + number;
	if (!a->changed) {
		a->changed = true;
		books_add_u32(&b->changed_accounts, number);
	}
	return a;
}

/* The account's slack ends at last, by the clock of this record. */
static void
expire_slack(struct books *b, const struct journal_record *r)
{
	const struct books_account *known = books_account(b, r->account);
	struct books_account *a;

	if (known == NULL || !books_slack_ended(known, r->time_us))
		return;
	a = account_to_change(b, r->account);
	a->slack -= a->ending;
	a->ending = 0;
}

/*
 * A slot goes on to its next operation.  Whoever starts it has finished the one before, so an
 * adjustment by it has reached shared memory: its slack is to end.
 */
static struct books_hold *
slot_advance(struct books *b, const struct journal_record *r)
{
	struct books_hold *h = books_slot(b, r->slot);

	if (h == NULL)
		return NULL;
	expire_slack(b, r);
	if (h->slack != 0) {
		struct books_account *a = account_to_change(b, h->account);

		a->ending += h->slack;
		if (r->time_us > a->ending_us)
			a->ending_us = r->time_us;
		h->slack = 0;
	}
	if (h->budgets_set != 0)
		books_budgets_shown(account_to_change(b, h->account), h, r->time_us);
	if (r->op > h->op || r->type != JOURNAL_MARK) {
		h->op = r->op;
		h->type = r->type;
	}
	if (r->type != JOURNAL_MARK) {
		h->answered_op = r->op;
		h->answered_type = r->type;
		h->answered_status = RING_APPLIED;
		h->answered_value = 0;
	}
	if (!h->changed) {
		h->changed = true;
		books_add_u32(&b->changed_slots, r->slot);
	}
	return h;
}

void
books_key_changed(struct books *b, uint32_t index)
{
	struct books_key *k = (struct books_key *)b->keys.data + index;

	if (!k->changed) {
		k->changed = true;
		books_add_u32(&b->changed_keys, index);
	}
}

static int
apply_reserve(struct books *b, const struct journal_record *r, const void *payload,
    uint64_t sequence)
{
	struct books_account *a = account_to_change(b, r->account);
	struct books_hold *h = slot_advance(b, r);
	struct journal_keyed keyed;
	struct books_ref ref = {.sequence = sequence, .time_us = r->time_us, .amount = r->amount};

	if (a == NULL || h == NULL || h->open ||
	    __builtin_add_overflow(a->held, r->amount, &a->held))
		return -1;
	h->open = true;
	if (books_caps_open(b, h, r) < 0 || books_caps_use(b, a, h, r->amount) < 0)
		return -1;
	h->account = r->account;
	h->price = r->price;
	h->prompt = r->prompt;
	h->mark = h->mark_reasoning = 0;
	h->amount = r->amount;
	h->opened_us = r->time_us;
	h->answered_value = books_available(a);
	if (books_keyed_of(r, payload, &keyed, ref.id)) {
		memcpy(ref.body, keyed.body, sizeof ref.body);
		ref.balance = books_available(a);
		books_add_ref(b, &ref);
	}
	return 0;
}

/* EXTEND, MARK, SETTLE, VOID. */
static int
apply_to_open(struct books *b, const struct journal_record *r, const void *payload)
{
	struct journal_split split;
	struct books_account *a = account_to_change(b, r->account);
	struct books_hold *h = slot_advance(b, r);

	if (a == NULL || h == NULL || !h->open || h->account != r->account ||
	    !books_split_of(r, payload, &split))
		return -1;
	if (r->type == JOURNAL_EXTEND || r->type == JOURNAL_MARK) {
		int64_t more = r->type == JOURNAL_EXTEND ? r->amount : 0;

		if (books_caps_use(b, a, h, more) < 0 ||
		    __builtin_add_overflow(h->amount, more, &h->amount) ||
		    __builtin_add_overflow(a->held, more, &a->held))
			return -1;
		if (r->completion > h->mark) {
			h->mark = r->completion;
			h->mark_reasoning = split.reasoning;
		}
		return 0;
	}
	if (r->type == JOURNAL_SETTLE) {
		if (__builtin_sub_overflow(a->balance, r->amount, &a->balance) ||
		    __builtin_add_overflow(a->charged, r->amount, &a->charged))
			return -1;
		/* No money: what a worker may say of it has no bound of ours. */
		if (__builtin_add_overflow(a->uncollected, r->extra, &a->uncollected))
			a->uncollected = INT64_MAX;
	}
	if (__builtin_sub_overflow(a->held, h->amount, &a->held))
		return -1;
	if (books_caps_use(b, a, h, (r->type == JOURNAL_SETTLE ? r->amount : 0) - h->amount) < 0)
		return -1;
	h->key_id = 0;
	h->budgets = 0;
	h->open = false;
	h->amount = 0;
	h->mark = h->mark_reasoning = 0;
	return 0;
}

uint32_t
books_sight_of(const struct books *b, const struct journal_record *r, const void *payload,
    const char **id, size_t *len)
{
	struct journal_sight head;

	*id = NULL;
	*len = 0;
	if (r->payload_len < sizeof head)
		return JOURNAL_NONE;
	memcpy(&head, payload, sizeof head);
	if (sizeof head + head.id_len != r->payload_len)
		return JOURNAL_NONE;
	*id = (const char *)payload + sizeof head;
	*len = head.id_len;
	return books_key_find(b, head.key_id);
}

/*
 * The slot of a change of what is available.  What lowers it reaches shared memory only after
 * the record is durable: until the slot's next operation it is the account's slack.
 */
static struct books_hold *
credit_slot(struct books *b, struct books_account *a, const struct journal_record *r)
{
	struct books_hold *h = slot_advance(b, r);

	if (h == NULL || h->open)
		return NULL;
	h->account = r->account;
	if (r->amount < 0) {
		if (r->amount == INT64_MIN ||
		    __builtin_add_overflow(a->slack, -r->amount, &a->slack))
			return NULL;
		h->slack = -r->amount;
	}
	return h;
}

/* TOPUP, ADJUST. */
static int
apply_credit(struct books *b, const struct journal_record *r, const void *payload,
    uint64_t sequence)
{
	struct books_account *a = account_to_change(b, r->account);
	struct books_hold *h = a == NULL ? NULL : credit_slot(b, a, r);
	int64_t *sum = r->type == JOURNAL_TOPUP ? &a->topups : &a->adjustments;
	const void *ref;
	size_t len;

	if (h == NULL || !books_ref_of(r, payload, &ref, &len) ||
	    __builtin_add_overflow(*sum, r->amount, sum) ||
	    __builtin_add_overflow(a->balance, r->amount, &a->balance))
		return -1;
	h->answered_value = a->balance;
	if (len > 0) {
		struct books_ref entry = {.sequence = sequence, .time_us = r->time_us,
		    .amount = r->amount, .balance = a->balance};

		books_ref_id(r->account, ref, len, entry.id);
		books_add_ref(b, &entry);
	}
	return 0;
}

static int
apply_account(struct books *b, const struct journal_record *r, const void *payload)
{
	struct books_account a = {.overdraft = r->amount};
	struct journal_account head;
	struct journal_budgets budgets;
	const char *id;

	if (!books_account_of(r, payload, &head, &budgets, &id))
		return -1;
	a.requests_per_minute = head.requests_per_minute;
	a.tokens_per_minute = head.tokens_per_minute;
	a.concurrent_streams = head.concurrent_streams;
	for (unsigned i = 0; i < BUDGETS; i++)
		a.budget[i].cap = budgets.cap[i];
	if (books_load_account(b, r->account, &a, id, head.id_len) < 0)
		return -1;
	(void)account_to_change(b, r->account);
	return 0;
}

/* Account and first credit in one: there is no moment at which a user has the one only. */
static int
apply_sight(struct books *b, const struct journal_record *r, const void *payload)
{
	struct books_account a = {
	    .balance = r->amount, .topups = r->amount, .overdraft = r->extra};
	const char *id;
	size_t len;
	uint32_t key = books_sight_of(b, r, payload, &id, &len);

	if (key == JOURNAL_NONE || id == NULL ||
	    books_load_account(b, r->account, &a, id, len) < 0)
		return -1;
	(void)account_to_change(b, r->account);
	((struct books_key *)b->keys.data)[key].sighted++;
	books_key_changed(b, key);
	return 0;
}

static int
apply_account_set(struct books *b, const struct journal_record *r, const void *payload)
{
	struct books_account *a = account_to_change(b, r->account);
	struct books_hold *h = a == NULL ? NULL : credit_slot(b, a, r);
	struct journal_account_set set;
	struct journal_budgets budgets;

	if (h == NULL || !books_set_of(r, payload, &set, &budgets) ||
	    __builtin_add_overflow(a->overdraft, r->amount, &a->overdraft))
		return -1;
	h->answered_value = a->balance;
	if (set.what & JOURNAL_SET_REQUESTS)
		a->requests_per_minute = set.requests_per_minute;
	if (set.what & JOURNAL_SET_TOKENS)
		a->tokens_per_minute = set.tokens_per_minute;
	if (set.what & JOURNAL_SET_STREAMS)
		a->concurrent_streams = set.concurrent_streams;
	books_budgets_set(a, h, &budgets, set.what, r->time_us);
	if (set.what & JOURNAL_SET_CLOSED)
		a->flags |= ACCOUNT_CLOSED;
	if ((set.what & JOURNAL_SET_UNFROZEN) && (a->flags & ACCOUNT_FROZEN)) {
		a->flags &= (uint8_t)~ACCOUNT_FROZEN;
		b->frozen--;
	}
	return 0;
}

static int
apply_freeze(struct books *b, const struct journal_record *r)
{
	struct books_account *a = account_to_change(b, r->account);

	if (a == NULL)
		return -1;
	b->frozen += (a->flags & ACCOUNT_FROZEN) == 0;
	a->flags |= ACCOUNT_FROZEN;
	return 0;
}

static int
apply_key(struct books *b, const struct journal_record *r, const void *payload)
{
	struct journal_key head;
	struct books_key k = {0};

	if (r->payload_len < sizeof head)
		return -1;
	memcpy(&head, payload, sizeof head);
	if (sizeof head + head.label_len + head.models_len > r->payload_len)
		return -1;
	memcpy(k.hash, head.hash, sizeof k.hash);
	k.key_id = head.key_id;
	k.expires_us = head.expires_us;
	k.created_us = r->time_us;
	k.account = r->account;
	k.scopes = head.scopes;
	k.label_len = head.label_len;
	k.models_len = head.models_len;
	k.cap = r->amount;
	k.per = r->prompt;
	k.requests_per_minute = r->cached;
	k.tokens_per_minute = r->completion;
	k.concurrent_streams = (uint32_t)r->extra;
	if (books_load_key(b, &k, (const char *)payload + sizeof head) < 0)
		return -1;
	books_key_changed(b, books_keys(b) - 1);
	return 0;
}

static int
apply_price(struct books *b, const struct journal_record *r, const void *payload)
{
	struct price price;
	const char *model;
	size_t len;

	if (!books_price_of(r, payload, &price, &model, &len))
		return -1;
	return books_load_price(b, r->price, &price, model, len);
}

static int
apply_price_set(struct books *b, const struct journal_record *r, const void *payload)
{
	struct journal_price_set set;
	struct price over;
	const char *model;

	if (!books_price_set_of(r, payload, &set, &model))
		return -1;
	over = books_price_over(b, model, set.model_len);
	books_price_change(&over, &set, r->amount);
	return books_load_price_set(b, books_price_sets(b), &over, model, set.model_len);
}

/* Model: enter() in tests/model/keeper.pml. */
int
books_apply(struct books *b, const struct journal_record *r, const void *payload,
    uint64_t sequence)
{
	uint32_t key;

	switch ((enum journal_type)r->type) {
	case JOURNAL_RESERVE:
		return apply_reserve(b, r, payload, sequence);
	case JOURNAL_EXTEND:
	case JOURNAL_MARK:
	case JOURNAL_SETTLE:
	case JOURNAL_VOID:
		return apply_to_open(b, r, payload);
	case JOURNAL_TOPUP:
	case JOURNAL_ADJUST:
		return apply_credit(b, r, payload, sequence);
	case JOURNAL_ACCOUNT:
		return apply_account(b, r, payload);
	case JOURNAL_SIGHT:
		return apply_sight(b, r, payload);
	case JOURNAL_KEY:
		return apply_key(b, r, payload);
	case JOURNAL_KEY_REVOKE:
		key = books_key_find(b, (uint64_t)r->extra);
		if (key == JOURNAL_NONE)
			return -1;
		((struct books_key *)b->keys.data)[key].flags |= KEY_REVOKED;
		books_key_changed(b, key);
		return 0;
	case JOURNAL_PRICE:
		return apply_price(b, r, payload);
	case JOURNAL_PRICE_SET:
		return apply_price_set(b, r, payload);
	case JOURNAL_ACCOUNT_SET:
		return apply_account_set(b, r, payload);
	case JOURNAL_FREEZE:
		return apply_freeze(b, r);
	case JOURNAL_FORGET:
		return 0; /* nothing of it is in the books */
	case JOURNAL_CHECKPOINT:
		return 0; /* says what they were already */
	case JOURNAL_SYNC:
	case JOURNAL_COMPACT:
	case JOURNAL_ASK:
	case JOURNAL_GONE:
	case JOURNAL_TYPES:
		break;
	}
	return -1;
}

void
books_answer(struct books *b, uint32_t slot, uint64_t op, uint8_t type, enum ring_status status,
    int64_t value)
{
	struct books_hold *h = books_slot(b, slot);

	if (h == NULL || op < h->answered_op)
		return;
	h->answered_op = op;
	h->answered_type = type;
	h->answered_status = (uint8_t)status;
	h->answered_value = value;
}

void
books_end_record(const struct books *b, uint32_t slot, uint64_t op, uint64_t time_us,
    struct journal_record *r, struct journal_split *payload)
{
	const struct books_hold *h = books_hold(b, slot);

	*r = (struct journal_record){
	    .type = JOURNAL_VOID,
	    .version = JOURNAL_VERSION,
	    .outcome = OUTCOME_WORKER_DIED,
	    .slot = slot,
	    .op = op,
	    .account = h->account,
	    .price = h->price,
	    .time_us = time_us,
	};
	if (h->mark > 0) {
		const struct books_price *p = books_price(b, h->price);
		int64_t cost = price_cost_of(&p->price,
		    &(struct tokens){.prompt = h->prompt, .completion = h->mark,
			.reasoning = h->mark_reasoning});

		*payload = (struct journal_split){.reasoning = h->mark_reasoning};
		if (h->mark_reasoning != 0) {
			r->version = JOURNAL_VERSION_KINDS;
			r->payload_len = sizeof *payload;
		}
		r->type = JOURNAL_SETTLE;
		r->prompt = h->prompt;
		r->completion = h->mark;
		r->amount = cost < h->amount ? cost : h->amount;
		r->extra = cost - r->amount;
	}
}
