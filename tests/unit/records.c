/* Makers of journal records for tests. */
#include "tests/unit/records.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "shm/account.h"
#include "shm/purse.h"

const struct price rec_price = {1500000, 500000, 3000000, 3000000, 1500000, 0};

static uint64_t
now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

static struct rec
rec_new(enum journal_type type, uint32_t slot, uint64_t op, uint32_t account)
{
	return (struct rec){.r = {.type = (uint8_t)type, .version = JOURNAL_VERSION, .proc = 3,
	    .slot = slot, .op = op, .account = account, .price = JOURNAL_NONE,
	    .time_us = now_us()}};
}

static void
add(struct rec *rec, const void *bytes, size_t len)
{
	if (rec->r.payload_len + len > sizeof rec->payload)
		abort();
	memcpy(rec->payload + rec->r.payload_len, bytes, len);
	rec->r.payload_len += (uint32_t)len;
}

struct rec
rec_account(uint32_t number, const char *id, int64_t overdraft)
{
	struct rec rec = rec_new(JOURNAL_ACCOUNT, JOURNAL_NONE, 0, number);
	struct journal_account head = {.requests_per_minute = 60, .id_len = (uint16_t)strlen(id)};

	rec.r.amount = overdraft;
	add(&rec, &head, sizeof head);
	add(&rec, id, strlen(id));
	return rec;
}

struct rec
rec_set(uint32_t slot, uint64_t op, uint32_t account, uint32_t what, int64_t change,
    int64_t overdraft)
{
	struct rec rec = rec_new(JOURNAL_ACCOUNT_SET, slot, op, account);
	struct journal_account_set set = {.what = what, .requests_per_minute = 7,
	    .tokens_per_minute = 8, .concurrent_streams = 9, .overdraft = overdraft,
	    .reason_len = 3};

	rec.r.amount = change;
	add(&rec, &set, sizeof set);
	add(&rec, "why", 3);
	return rec;
}

struct rec
rec_budgets(uint32_t slot, uint64_t op, uint32_t account, uint32_t what, int64_t day,
    int64_t month)
{
	struct rec rec = rec_new(JOURNAL_ACCOUNT_SET, slot, op, account);
	struct journal_account_set set = {.what = what, .reason_len = 3};
	struct journal_budgets budgets = {.cap = {[BUDGET_DAY] = day, [BUDGET_MONTH] = month}};

	add(&rec, &set, sizeof set);
	add(&rec, &budgets, sizeof budgets);
	add(&rec, "why", 3);
	return rec;
}

struct rec
rec_under(struct rec rec, unsigned budgets)
{
	uint32_t bits = 0;

	for (unsigned i = 0; i < BUDGETS; i++)
		if (budgets & 1u << i)
			bits |= JOURNAL_BUDGET(i, purse_window(KEY_PER_DAY + i, rec.r.time_us));
	rec.r.extra = JOURNAL_RESERVE_EXTRA((uint64_t)rec.r.extra, bits);
	return rec;
}

struct rec
rec_freeze(uint32_t account)
{
	struct rec rec = rec_new(JOURNAL_FREEZE, JOURNAL_NONE, 0, account);

	add(&rec, "forged", 6);
	return rec;
}

struct rec
rec_key(uint32_t account, uint64_t key_id, const char *label)
{
	struct rec rec = rec_new(JOURNAL_KEY, JOURNAL_NONE, 0, account);
	struct journal_key head = {.key_id = key_id, .scopes = 1,
	    .label_len = (uint16_t)strlen(label)};

	memcpy(head.hash, &key_id, sizeof key_id);
	add(&rec, &head, sizeof head);
	add(&rec, label, strlen(label));
	return rec;
}

struct rec
rec_trusted_key(uint32_t account, uint64_t key_id)
{
	struct rec rec = rec_key(account, key_id, "");
	struct journal_key head;

	memcpy(&head, rec.payload, sizeof head);
	head.scopes = KEY_SCOPE_CHAT | KEY_TRUST_USER;
	memcpy(rec.payload, &head, sizeof head);
	return rec;
}

struct rec
rec_sight(uint64_t key_id, const char *id)
{
	struct rec rec = rec_new(JOURNAL_SIGHT, JOURNAL_NONE, 0, JOURNAL_NONE);
	struct journal_sight head = {.key_id = key_id, .id_len = (uint16_t)strlen(id)};

	add(&rec, &head, sizeof head);
	add(&rec, id, strlen(id));
	return rec;
}

struct rec
rec_revoke(uint64_t key_id)
{
	struct rec rec = rec_new(JOURNAL_KEY_REVOKE, JOURNAL_NONE, 0, JOURNAL_NONE);

	rec.r.extra = (int64_t)key_id;
	return rec;
}

struct rec
rec_price_of(uint32_t price_id, const char *model, const struct price *price)
{
	struct rec rec = rec_new(JOURNAL_PRICE, JOURNAL_NONE, 0, JOURNAL_NONE);
	struct journal_price head = {.former = {.prompt = price->prompt, .cached = price->cached,
	    .completion = price->completion, .model_len = (uint16_t)strlen(model)},
	    .reasoning = price->reasoning, .cache_write = price->cache_write,
	    .request = price->request};

	rec.r.version = JOURNAL_VERSION_KINDS;
	rec.r.price = price_id;
	add(&rec, &head, sizeof head);
	add(&rec, model, strlen(model));
	return rec;
}

struct rec
rec_credit(enum journal_type type, uint32_t slot, uint64_t op, uint32_t account, int64_t amount,
    const char *ref)
{
	struct rec rec = rec_new(type, slot, op, account);
	struct journal_ref head = {.ref_len = (uint16_t)strlen(ref)};

	rec.r.amount = amount;
	add(&rec, &head, sizeof head);
	add(&rec, ref, strlen(ref));
	return rec;
}

void
rec_stream_id(uint8_t stream, uint64_t op, uint8_t id[static 16])
{
	uint32_t low = (uint32_t)op;

	memset(id, stream, 16);
	memcpy(id + 12, &low, sizeof low);
}

static struct journal_keyed
keyed_of(uint8_t key, uint8_t body)
{
	struct journal_keyed keyed = {.expires_s = 1800000000};

	memset(keyed.key, key, sizeof keyed.key);
	memset(keyed.body, body, sizeof keyed.body);
	return keyed;
}

struct rec
rec_keyed(uint32_t slot, uint64_t op, uint32_t account, int64_t amount, uint8_t key, uint8_t body)
{
	struct rec rec = rec_new(JOURNAL_RESERVE, slot, op, account);
	struct journal_reserve head = {.generation = 7, .model_len = 5, .keyed = 1};
	struct journal_keyed keyed = keyed_of(key, body);

	rec_stream_id((uint8_t)slot, op, head.stream_id);
	rec.r.amount = amount;
	rec.r.price = 0;
	rec.r.prompt = 3;
	add(&rec, &head, sizeof head);
	add(&rec, "model", 5);
	add(&rec, &keyed, sizeof keyed);
	add(&rec, "{}", 2);
	return rec;
}

struct rec
rec_ask(uint32_t account, uint8_t key, uint8_t body)
{
	struct rec rec = rec_new(JOURNAL_ASK, JOURNAL_NONE, 0, account);
	struct journal_keyed keyed = keyed_of(key, body);

	rec.r.price = JOURNAL_NONE;
	add(&rec, &keyed, sizeof keyed);
	return rec;
}

struct rec
rec_reserve(uint32_t slot, uint64_t op, uint32_t account, int64_t amount, uint32_t prompt,
    uint8_t stream)
{
	struct rec rec = rec_new(JOURNAL_RESERVE, slot, op, account);
	struct journal_reserve head = {.generation = 7, .model_len = 5};

	rec_stream_id(stream, op, head.stream_id);
	memset(head.session_id, 's', sizeof head.session_id);
	memset(head.message_id, 'm', sizeof head.message_id);
	rec.r.amount = amount;
	rec.r.price = 0;
	rec.r.prompt = prompt;
	add(&rec, &head, sizeof head);
	add(&rec, "model{\"content\":\"hi\"}", 21);
	return rec;
}

struct rec
rec_extend(uint32_t slot, uint64_t op, uint32_t account, int64_t amount, int64_t total,
    uint32_t completion, const char *text)
{
	struct rec rec = rec_new(JOURNAL_EXTEND, slot, op, account);

	rec.r.amount = amount;
	rec.r.extra = total;
	rec.r.price = 0;
	rec.r.completion = completion;
	add(&rec, text, strlen(text));
	return rec;
}

struct rec
rec_mark(uint32_t slot, uint64_t op, uint32_t account, uint32_t completion, const char *text)
{
	struct rec rec = rec_new(JOURNAL_MARK, slot, op, account);

	rec.r.price = 0;
	rec.r.completion = completion;
	add(&rec, text, strlen(text));
	return rec;
}

struct rec
rec_settle(uint32_t slot, uint64_t op, uint32_t account, uint32_t prompt, uint32_t completion,
    const char *text)
{
	struct rec rec = rec_new(JOURNAL_SETTLE, slot, op, account);

	rec.r.price = 0;
	rec.r.prompt = prompt;
	rec.r.completion = completion;
	rec.r.amount = price_cost(&rec_price, prompt, 0, completion);
	rec.r.outcome = OUTCOME_STOP;
	add(&rec, text, strlen(text));
	return rec;
}

struct rec
rec_kinds(struct rec rec, uint32_t reasoning, uint32_t cache_write)
{
	struct journal_split split = {reasoning, cache_write};
	struct rec with = rec;

	with.r.version = JOURNAL_VERSION_KINDS;
	with.r.payload_len = 0;
	add(&with, &split, sizeof split);
	add(&with, rec.payload, rec.r.payload_len);
	return with;
}

struct rec
rec_told(struct rec rec, const struct journal_end *told, const char *provider)
{
	struct journal_end end = *told;
	struct rec with = rec;

	end.provider_len = (uint8_t)strlen(provider);
	with.r.version = JOURNAL_VERSION_TOLD;
	with.r.payload_len = 0;
	add(&with, &end, sizeof end);
	add(&with, provider, strlen(provider));
	add(&with, rec.payload, rec.r.payload_len);
	return with;
}

struct rec
rec_price_set(const char *model, unsigned kind, int64_t value)
{
	struct rec rec = rec_new(JOURNAL_PRICE_SET, JOURNAL_NONE, 0, JOURNAL_NONE);
	struct journal_price_set set = {(uint16_t)kind, (uint16_t)strlen(model)};

	rec.r.amount = value;
	rec.r.price = JOURNAL_NONE;
	add(&rec, &set, sizeof set);
	add(&rec, model, strlen(model));
	return rec;
}

struct rec
rec_void(uint32_t slot, uint64_t op, uint32_t account)
{
	struct rec rec = rec_new(JOURNAL_VOID, slot, op, account);

	rec.r.price = 0;
	rec.r.outcome = OUTCOME_EXPIRED;
	return rec;
}

struct books_verdict
rec_enter(struct books *b, struct rec *rec, uint64_t *sequence)
{
	struct books_input in = {.record = &rec->r, .payload = rec->payload,
	    .types = BOOKS_FROM_JOURNAL, .slot_first = 0, .slot_count = 1000};
	struct books_verdict v;

	books_check(b, &in, &v);
	if (v.store && books_apply(b, &rec->r, rec->payload, ++*sequence) < 0)
		abort();
	return v;
}

void
rec_journal(struct journal *j, struct books *b, struct rec *rec)
{
	uint64_t sequence = journal_append(j, &rec->r, rec->payload) - 1;

	if (!rec_enter(b, rec, &sequence).store)
		abort();
}

static uint32_t
draw(unsigned int *seed, uint32_t n)
{
	return (uint32_t)rand_r(seed) % n;
}

/* A random count of completion tokens that an open hold pays for. */
static uint32_t
draw_tokens(const struct books_hold *h, unsigned int *seed)
{
	int64_t n = price_covers(&rec_price, h->prompt, 0, h->amount);

	return n < 0 ? 0 : draw(seed, n > 1000 ? 1000 : (uint32_t)n + 1);
}

/* A SETTLE or VOID that says how the stream went. */
static struct rec
random_told(struct rec rec, unsigned int *seed)
{
	bool settled = rec.r.type == JOURNAL_SETTLE;
	struct journal_end end = {.opened_ms = draw(seed, 1000),
	    .first_ms = JOURNAL_NONE,
	    .attempts = (uint8_t)draw(seed, 4)};

	if (settled) {
		end.split = (struct journal_split){
		    draw(seed, rec.r.completion + 1), draw(seed, rec.r.prompt + 1)};
		end.first_ms = end.opened_ms + draw(seed, 1000);
		end.counted = (uint8_t)(COUNTED_OURS + draw(seed, 2));
	}
	if (draw(seed, 4) == 0) {
		rec.r.outcome = OUTCOME_CREDIT;
		end.short_of = (uint8_t)draw(seed, SHORT_MAX);
	}
	return rec_told(rec, &end, draw(seed, 2) == 0 ? "openai" : "");
}

static struct rec
random_on_open(const struct books_hold *h, uint32_t slot, unsigned int *seed)
{
	uint64_t op = h->op + 1;
	struct rec rec;

	switch (draw(seed, 5)) {
	case 0:
		return rec_extend(slot, op, h->account, 30, h->amount + 30, h->mark, "more ");
	case 1:
		rec = rec_mark(slot, h->op, h->account, draw_tokens(h, seed), "mark ");
		break;
	case 2:
		rec = rec_void(slot, op, h->account);
		return draw(seed, 2) == 0 ? rec : random_told(rec, seed);
	default:
		rec = rec_settle(slot, op, h->account, h->prompt, draw_tokens(h, seed), "end");
		break;
	}
	/* At one price for both: the charge is the same. */
	if (rec.r.type == JOURNAL_SETTLE && draw(seed, 2) == 0)
		return random_told(rec, seed);
	if (draw(seed, 2) == 0)
		rec = rec_kinds(rec, draw(seed, rec.r.completion + 1),
		    rec.r.type == JOURNAL_SETTLE ? draw(seed, rec.r.prompt + 1) : 0);
	return rec;
}

int
rec_random(const struct books *b, unsigned int *seed, uint32_t accounts, uint32_t slots,
    struct rec *rec)
{
	uint32_t slot = draw(seed, slots), account;
	const struct books_hold *h = books_hold(b, slot);
	uint64_t op = h == NULL ? 1 : h->op + 1;
	struct books_input in = {.record = &rec->r, .payload = rec->payload,
	    .types = BOOKS_FROM_JOURNAL, .slot_first = 0, .slot_count = slots};
	struct books_verdict v;
	char text[32];

	(void)snprintf(text, sizeof text, "user-%u", books_accounts(b));
	account = draw(seed, books_accounts(b) + 1);
	if (books_prices(b) == 0)
		*rec = rec_price_of(0, "model", &rec_price);
	else if (books_accounts(b) < accounts && (books_accounts(b) == 0 || draw(seed, 20) == 0))
		*rec = rec_account(books_accounts(b), text, 1000);
	else if (h != NULL && h->open)
		*rec = random_on_open(h, slot, seed);
	else if (draw(seed, 4) == 0)
		*rec = rec_credit(JOURNAL_TOPUP, slot, op, account, 200 + draw(seed, 500),
		    draw(seed, 2) == 0 ? text + 5 : "");
	else if (draw(seed, 20) == 0)
		*rec = rec_credit(JOURNAL_ADJUST, slot, op, account,
		    (int64_t)draw(seed, 60) - 40, "");
	else if (draw(seed, 20) == 0 && account < books_accounts(b)) {
		int64_t change = (int64_t)draw(seed, 60) - 30;

		*rec = rec_set(slot, op, account, JOURNAL_SET_OVERDRAFT | JOURNAL_SET_TOKENS,
		    change, books_account(b, account)->overdraft + change);
	} else if (draw(seed, 20) == 0 && account < books_accounts(b))
		*rec = rec_budgets(slot, op, account, draw(seed, 3) * JOURNAL_SET_DAY,
		    draw(seed, 3000), draw(seed, 6000));
	else if (draw(seed, 20) == 0)
		*rec = rec_key(account, draw(seed, 1000), "label");
	else if (draw(seed, 20) == 0)
		*rec = rec_price_set(draw(seed, 2) == 0 ? "model" : text, draw(seed, PRICE_KINDS),
		    (int64_t)draw(seed, 1000) - 1);
	else if (draw(seed, 20) == 0)
		*rec = rec_revoke(draw(seed, 1000));
	else
		*rec = draw(seed, 8) == 0
		    ? rec_keyed(slot, op, account, 60 + draw(seed, 60), (uint8_t)draw(seed, 256), 1)
		    : rec_under(rec_reserve(slot, op, account, 60 + draw(seed, 60), 3,
				    (uint8_t)slot), draw(seed, 4));
	books_check(b, &in, &v);
	return v.store;
}

char *
dir_new(void)
{
	char *path = strdup(access("/dev/shm", W_OK) == 0 ? "/dev/shm/tolld-test-XXXXXX"
	                                                  : "/tmp/tolld-test-XXXXXX");

	if (path == NULL || mkdtemp(path) == NULL)
		abort();
	return path;
}

void
dir_remove(char *path)
{
	DIR *dir = opendir(path);
	struct dirent *e;

	while (dir != NULL && (e = readdir(dir)) != NULL)
		if (e->d_name[0] != '.')
			(void)unlinkat(dirfd(dir), e->d_name, 0);
	if (dir != NULL)
		closedir(dir);
	(void)rmdir(path);
	free(path);
}
