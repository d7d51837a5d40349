/*
 * What the storm's admin does for operators beside giving credit: overdrafts up and down, limits,
 * closing an account and making its successor, keys, and letters to workers about their streams.
 */
#include "tests/storm/player_operator.h"

#include <stdio.h>
#include <string.h>

#include "shm/clock.h"
#include "shm/mail.h"
#include "shm/purse.h"
#include "shm/ring.h"
#include "shm/wake.h"

static void
make_account(struct player *p, uint32_t number)
{
	struct journal_record r = {.type = JOURNAL_ACCOUNT, .version = JOURNAL_VERSION,
	    .slot = JOURNAL_NONE, .account = JOURNAL_NONE, .price = JOURNAL_NONE,
	    .amount = STORM_OVERDRAFT};
	struct journal_account head = {0};
	const struct journal_budgets budgets = {.cap = {
	    [BUDGET_DAY] = STORM_BUDGET(number, BUDGET_DAY),
	    [BUDGET_MONTH] = STORM_BUDGET(number, BUDGET_MONTH)}};
	unsigned char payload[sizeof head + 16 + sizeof budgets];
	char id[16];
	size_t len;

	storm_account_id(number, id);
	if (account_find(p->region, id, strlen(id)) != NULL)
		return;
	head.id_len = (uint16_t)strlen(id);
	head.budgets = STORM_BUDGETED(number);
	memcpy(payload, &head, sizeof head);
	memcpy(payload + sizeof head, id, head.id_len);
	len = sizeof head + head.id_len;
	if (head.budgets) {
		memcpy(payload + len, &budgets, sizeof budgets);
		len += sizeof budgets;
	}
	if (player_push_and_wait(p, &r, payload, len) < 0)
		return;
	ring_ack(p->ring, ring_durable(p->ring));
}

/* A closed one's place is taken by a new one, as long as there are numbers. */
static void
replace_closed(struct player *p)
{
	for (uint32_t i = 0; i < STORM_ACCOUNTS; i++) {
		struct account *a = player_account(p, atomic_load(&told->active[i]));
		uint32_t next;

		if (a == NULL || (atomic_load(&a->flags) & ACCOUNT_CLOSED) == 0)
			continue;
		next = atomic_load(&told->accounts);
		if (next == STORM_ACCOUNTS_MAX)
			continue;
		atomic_store(&told->accounts, next + 1);
		make_account(p, next);
		atomic_store(&told->active[i], next);
	}
}

void
operator_accounts(struct player *p)
{
	for (uint32_t i = 0; i < STORM_ACCOUNTS && atomic_load(&told->accounts) == 0; i++)
		atomic_store(&told->active[i], i);
	if (atomic_load(&told->accounts) == 0)
		atomic_store(&told->accounts, STORM_ACCOUNTS);
	/* In their order, so that an account's number is ours. */
	for (uint32_t i = 0; i < atomic_load(&told->accounts); i++)
		make_account(p, i);
	replace_closed(p);
}

/* Settings. */

/* What to set; the change of the overdraft. */
static int64_t
draw_setting(struct player *p, struct account *a, struct journal_account_set *set,
    struct journal_budgets *budgets)
{
	struct account_books books;
	int64_t used;

	account_books(a, &books);
	/* A closed one needs a successor. */
	if (storm_draw(&p->rng, 100) == 0 && atomic_load(&told->accounts) < STORM_ACCOUNTS_MAX) {
		set->what = JOURNAL_SET_CLOSED;
		return 0;
	}
	switch (storm_draw(&p->rng, 8)) {
	case 0:
		/* There is nothing to unfreeze: it changes nothing. */
		set->what = JOURNAL_SET_UNFROZEN;
		return 0;
	case 2:
	case 3:
		if (!STORM_REBUDGETED(a->number))
			break;
		for (unsigned i = 0; i < BUDGETS; i++) {
			if (storm_draw(&p->rng, 2) == 0)
				continue;
			used = purse_used(&a->budget[i],
			    purse_window(KEY_PER_DAY + i, realtime_us()));
			set->what |= JOURNAL_SET_BUDGET(i);
			/* Some more than is used, or less, or none any more. */
			switch (storm_draw(&p->rng, 6)) {
			case 0:
				budgets->cap[i] = 0;
				break;
			case 1:
				budgets->cap[i] = used / 2 + 1;
				break;
			default:
				budgets->cap[i] = used + 1 + storm_draw(&p->rng, 30000);
				break;
			}
		}
		if (set->what == 0)
			break;
		told_count(OP_REBUDGET);
		return 0;
	case 1:
		set->what = JOURNAL_SET_REQUESTS | JOURNAL_SET_STREAMS;
		set->requests_per_minute = storm_draw(&p->rng, 1000);
		set->concurrent_streams = storm_draw(&p->rng, 1000);
		return 0;
	default:
		break;
	}
	set->what = JOURNAL_SET_OVERDRAFT;
	set->overdraft = STORM_ADJUSTED(a->number) ? (int64_t)storm_draw(&p->rng, 600)
						   : books.overdraft + 1 + storm_draw(&p->rng, 4);
	return set->overdraft - books.overdraft;
}

static bool
begin_setting(struct player *p, struct operator *o)
{
	uint32_t number = atomic_fetch_add(&told->settings, 1);
	uint32_t account = atomic_load(&told->active[storm_draw(&p->rng, STORM_ACCOUNTS)]);
	struct account *a = player_account(p, account);
	struct journal_account_set set = {0};
	struct journal_budgets budgets = {{0}};
	char payload[sizeof set + sizeof budgets + 16], reason[16];
	size_t len = sizeof set;
	struct told_setting *t;

	if (number >= STORM_SETTINGS_MAX) {
		storm_fail("too many settings for this program's table");
		return false;
	}
	if (a == NULL)
		return false;
	t = &told->setting[number];
	t->account = account;
	t->change = draw_setting(p, a, &set, &budgets);
	t->what = set.what;
	(void)snprintf(reason, sizeof reason, "%u", number);
	set.reason_len = (uint16_t)strlen(reason);
	memcpy(payload, &set, sizeof set);
	if ((set.what & JOURNAL_SET_BUDGETS) != 0) {
		memcpy(payload + len, &budgets, sizeof budgets);
		len += sizeof budgets;
	}
	memcpy(payload + len, reason, set.reason_len);
	if (set.what == JOURNAL_SET_CLOSED)
		atomic_store(&told->account[account].closing, 1);
	if (ledger_account_set(p->ledger, a, t->change, payload, len + set.reason_len, &o->h,
		&o->position) != LEDGER_OK) {
		o->h = NULL;
		return false;
	}
	o->setting = t;
	told_count(OP_SETTING);
	return true;
}

static void
end_setting(struct player *p, struct operator *o)
{
	struct told_setting *t = o->setting;
	enum ring_status status = ledger_close(p->ledger, o->h, o->position, NULL);
	struct account *a = player_account(p, t->account);
	bool closed = atomic_load(&told->account[t->account].closing) != 0;

	o->h = NULL;
	if (status != RING_APPLIED && !(closed && (status == RING_CLOSED || status == RING_REPEATED)))
		storm_fail("setting %ld: the keeper said %d", (long)(t - told->setting), (int)status);
	if (status == RING_APPLIED && t->what == JOURNAL_SET_CLOSED) {
		atomic_store(&told->account[t->account].closed, 1);
		if ((atomic_load(&a->flags) & ACCOUNT_CLOSED) == 0)
			storm_fail("account %u was closed, and is not", t->account);
		told_count(OP_CLOSED);
	}
	atomic_store(&t->status, (uint8_t)status);
}

/* Keys. */

static void
key_hash(uint32_t number, uint8_t hash[static 32])
{
	uint64_t word = storm_mix(number);

	memset(hash, 0, 32);
	memcpy(hash, &word, sizeof word);
	memcpy(hash + 8, &number, sizeof number);
}

/* Revoked or not, it is what was said last. */
static void
make_key(struct player *p)
{
	uint32_t number = atomic_load(&told->keys);
	uint32_t account = atomic_load(&told->active[storm_draw(&p->rng, STORM_ACCOUNTS)]);
	struct journal_record r = {.type = JOURNAL_KEY, .version = JOURNAL_VERSION,
	    .slot = JOURNAL_NONE, .account = account, .price = JOURNAL_NONE};
	struct journal_key key = {.key_id = number + 1};
	enum ring_status status;

	if (number == STORM_KEYS_MAX)
		return;
	atomic_store(&told->keys, number + 1);
	told->key[number].account = account;
	if (storm_draw(&p->rng, 4) != 0) {
		told->key[number].cap = r.amount = 500 + storm_draw(&p->rng, 20000);
		r.prompt = KEY_PER_DAY + storm_draw(&p->rng, 3); /* day, month, in all */
		told->key[number].per = r.prompt;
		r.extra = 3 + storm_draw(&p->rng, 5); /* streams at once */
	}
	key_hash(number, key.hash);
	if (player_push_and_wait(p, &r, &key, sizeof key) < 0)
		return;
	status = ring_result(p->ring, ring_head(p->ring), NULL);
	if (status == RING_APPLIED && key_find(p->region, key.hash) == NULL)
		storm_fail("key %u was made, and is not there", number);
	if (status != RING_APPLIED && status != RING_NOSPACE && status != RING_CLOSED)
		storm_fail("key %u: the keeper said %d", number, (int)status);
	atomic_store(&told->key[number].made, (uint8_t)status);
	told_count(status == RING_APPLIED ? OP_KEY : OP_TABLE_FULL);
}

static void
revoke_key(struct player *p)
{
	uint32_t keys = atomic_load(&told->keys), number = storm_draw(&p->rng, keys + 1);
	struct journal_record r = {.type = JOURNAL_KEY_REVOKE, .version = JOURNAL_VERSION,
	    .slot = JOURNAL_NONE, .account = JOURNAL_NONE, .price = JOURNAL_NONE,
	    .extra = (int64_t)number + 1};
	enum ring_status status;
	struct key_entry *k;
	uint8_t hash[32];

	if (number == keys || player_push_and_wait(p, &r, NULL, 0) < 0)
		return;
	status = ring_result(p->ring, ring_head(p->ring), NULL);
	key_hash(number, hash);
	k = key_find(p->region, hash);
	if (status == RING_UNKNOWN ? k != NULL
		: k == NULL || (atomic_load(&k->flags) & KEY_REVOKED) == 0)
		storm_fail("key %u was to be revoked: the keeper said %d", number, (int)status);
	if (status != RING_UNKNOWN)
		atomic_store(&told->key[number].revoked, 1);
	told_count(OP_REVOKE);
}

/* Prices: a few, so that they do not fill their table. */
static void
set_price(struct player *p)
{
	static const char model[] = "model";
	static const enum price_kind kinds[] = {PRICE_PROMPT, PRICE_COMPLETION, PRICE_REQUEST};
	uint32_t kind = storm_draw(&p->rng, 3), n = storm_draw(&p->rng, 4);
	struct journal_price_set set = {.kind = (uint16_t)kinds[kind], .model_len = 5};
	struct journal_record r = {.type = JOURNAL_PRICE_SET, .version = JOURNAL_VERSION,
	    .slot = JOURNAL_NONE, .account = JOURNAL_NONE, .price = JOURNAL_NONE};
	unsigned char payload[sizeof set + 5];
	enum ring_status status;

	r.amount = n == 0 ? PRICE_UNSET : (int64_t)n * (kind == 2 ? 600 : 1100000);
	memcpy(payload, &set, sizeof set);
	memcpy(payload + sizeof set, model, 5);
	if (player_push_and_wait(p, &r, payload, sizeof payload) < 0)
		return;
	status = ring_result(p->ring, ring_head(p->ring), NULL);
	if (status != RING_APPLIED)
		storm_fail("a price was set: the keeper said %d", (int)status);
	told_count(OP_PRICE);
}

/* Letters. */

static void
post(struct player *p)
{
	uint32_t proc = PROC_WORKER + storm_draw(&p->rng, 2 * STORM_WORKERS);
	uint32_t slot = hold_first(p->region, proc) +
	    storm_draw(&p->rng, p->region->h->holds_per_proc);
	struct hold *h = hold_at(p->region, slot);
	struct mail m = {.verb = storm_draw(&p->rng, 2) == 0 ? MAIL_VOID : MAIL_CANCEL,
	    .slot = slot,
	    /* Relaxed: one that is not meant any more is thrown away. */
	    .generation = atomic_load(&region_proc(p->region, proc)->generation)};

	if (HOLD_STATE(atomic_load(&h->state)) != HOLD_HELD)
		return;
	/* It may change while it is copied: then no stream is meant, or another one. */
	memcpy(m.stream_id, h->stream_id, sizeof m.stream_id);
	if (!mail_post(p->region, proc, &m))
		return;
	told_count(OP_LETTER);
	wake(p->region, proc, p->h->wake_fd[proc]);
}

bool
operator_step(struct player *p, struct operator *o, uint64_t durable, bool ending)
{
	if (o->h != NULL && o->position <= durable) {
		end_setting(p, o);
		return true;
	}
	if (ending || o->h != NULL)
		return false;
	if (storm_draw(&p->rng, 6) == 0)
		post(p);
	return storm_draw(&p->rng, 8) == 0 && begin_setting(p, o);
}

void
operator_alone(struct player *p)
{
	replace_closed(p);
	switch (storm_draw(&p->rng, 4)) {
	case 0:
		make_key(p);
		break;
	case 1:
		revoke_key(p);
		break;
	case 2:
		set_price(p);
		break;
	default:
		break;
	}
	ring_ack(p->ring, ring_durable(p->ring));
}
