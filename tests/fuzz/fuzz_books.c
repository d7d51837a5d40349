/*
 * Goal:   no record that a worker or the admin process can write into its ring stops the keeper, and
 *         none that the books take in makes or loses money: what is judged good can be entered, the
 *         sums are those of what was entered, and no worker spends below a floor or above a cap.
 * Method: libFuzzer or AFL++; the input is a row of records, each field as the books would have it or
 *         from the input, taken as the keeper does (daemon/keeper_batch.c).  At the end the books
 *         become rows and are read again, and then once more with bytes of the input over them.
 *
 * objs: daemon/books.o daemon/books_refs.o daemon/books_apply.o daemon/books_caps.o
 * objs: daemon/books_check.o daemon/books_rows.o daemon/log.o daemon/utf8.o daemon/buf.o
 * objs: shm/account.o shm/money.o shm/purse.o shm/region.o shm/ring.o
 */
#include <stdlib.h>
#include <string.h>

#include "daemon/books.h"
#include "daemon/books_rows.h"
#include "shm/ledger.h"
#include "shm/purse.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(condition)          \
	do {                      \
		if (!(condition)) \
			abort();  \
	} while (0)
#define ACCOUNTS_MAX 8
#define SLOTS 4 /* the worker's; as many are the admin process's, and as many the keeper's */
#define PAYLOAD_MAX 200
#define RECORDS_MAX 200
#define NOW_US (UINT64_C(1800000000) * 1000000)

/* What stays of an input, and the books that it is told to. */
struct play {
	const uint8_t *p;
	size_t left;
	struct books *books;
	uint64_t sequence, now_us;
	/* By the records that were entered, and nothing else. */
	int64_t balance[ACCOUNTS_MAX], charged[ACCOUNTS_MAX];
};

static uint8_t
byte(struct play *g)
{
	if (g->left == 0)
		return 0;
	g->left--;
	return *g->p++;
}

static void
bytes(struct play *g, void *out, size_t n)
{
	size_t have = n < g->left ? n : g->left;

	memset(out, 0, n);
	memcpy(out, g->p, have);
	g->p += have;
	g->left -= have;
}

/* The good one, a small one, one at a bound, or any. */
static int64_t
number(struct play *g, int64_t good)
{
	static const int64_t odd[] = {INT64_MAX, INT64_MIN, INT64_MAX / 8, INT64_MAX / 8 + 1,
	    -INT64_MAX / 8, UINT32_MAX, INT64_C(1) << 47, PURSE_MAX, PURSE_MAX + 1, -1};
	uint8_t how = byte(g);
	int64_t any;

	if (how < 100)
		return good;
	if (how < 200)
		return how - 100;
	if (how < 200 + sizeof odd / sizeof *odd)
		return odd[how - 200];
	if (how < 220)
		return (int64_t)((uint64_t)good + how - 215);
	bytes(g, &any, sizeof any);
	return any;
}

static uint32_t
number32(struct play *g, uint32_t good)
{
	return (uint32_t)number(g, good);
}

/* What must hold whatever was sent. */
static void
check_books(const struct play *g)
{
	int64_t held[ACCOUNTS_MAX] = {0};

	for (uint32_t i = 0; i < books_slots(g->books); i++) {
		const struct books_hold *h = books_hold(g->books, i);

		CHECK(h->amount >= 0 && (h->open || h->amount == 0));
		if (h->open) {
			CHECK(h->account < books_accounts(g->books));
			held[h->account] += h->amount;
		}
	}
	CHECK(books_accounts(g->books) <= ACCOUNTS_MAX);
	for (uint32_t i = 0; i < books_accounts(g->books); i++) {
		const struct books_account *a = books_account(g->books, i);

		CHECK(a->balance == g->balance[i] && a->charged == g->charged[i]);
		CHECK(a->balance == a->topups + a->adjustments - a->charged);
		CHECK(
		    a->held == held[i] && a->slack >= 0 && a->ending >= 0 && a->ending <= a->slack);
		for (int k = 0; k < BUDGETS; k++)
			CHECK(a->budget[k].spent.used[0] >= 0 && a->budget[k].spent.used[1] >= 0);
	}
	for (uint32_t i = 0; i < books_keys(g->books); i++) {
		const struct books_key *k = books_key(g->books, i);

		CHECK(k->spent.used[0] >= 0 && k->spent.used[1] >= 0);
		CHECK(k->per == KEY_PER_NONE ||
		      (k->spent.used[0] <= k->cap && k->spent.used[1] <= k->cap));
	}
}

static void
enter(struct play *g, struct journal_record *r, const void *payload)
{
	uint32_t account = r->account;

	CHECK(books_apply(g->books, r, payload, ++g->sequence) == 0);
	switch (r->type) {
	case JOURNAL_TOPUP:
	case JOURNAL_ADJUST:
	case JOURNAL_SIGHT:
		g->balance[account] += r->amount;
		break;
	case JOURNAL_SETTLE:
		g->balance[account] -= r->amount;
		g->charged[account] += r->amount;
		break;
	default:
		break;
	}
}

/* As the keeper does for an end that it refused, and for a process that is gone. */
static void
end_hold(struct play *g, uint32_t slot, uint64_t op)
{
	struct journal_record end;
	struct journal_split split;
	int64_t held = books_hold(g->books, slot)->amount;

	books_end_record(g->books, slot, op, g->now_us, &end, &split);
	CHECK(end.amount >= 0 && end.amount <= held);
	enter(g, &end, &split);
	CHECK(!books_hold(g->books, slot)->open);
}

static void
end_all(struct play *g)
{
	for (uint32_t i = 0; i < books_slots(g->books); i++) {
		const struct books_hold *h = books_hold(g->books, i);

		if (h->open)
			end_hold(g, i, (h->op > h->answered_op ? h->op : h->answered_op) + 1);
	}
}

/* No worker's record takes an account below its floor. */
static void
check_floor(const struct play *g, const struct journal_record *r)
{
	const struct books_account *a = books_account(g->books, r->account);

	if (r->type == JOURNAL_RESERVE || r->type == JOURNAL_EXTEND)
		CHECK(a->balance - a->held + a->overdraft + a->slack >= 0);
}

static void
take(struct play *g, const struct books_input *in, struct journal_record *r, const void *payload)
{
	bool next = books_next(g->books, in);
	const struct books_hold *h;
	struct books_verdict v;

	if (r->time_us > g->now_us)
		r->time_us = g->now_us;
	books_check(g->books, in, &v);
	CHECK(v.contradicts == NULL || (v.status == RING_REFUSED && !v.store));
	CHECK(v.freeze == JOURNAL_NONE || v.freeze < books_accounts(g->books));
	if (v.store && (r->type == JOURNAL_ACCOUNT || r->type == JOURNAL_SIGHT) &&
	    books_accounts(g->books) == ACCOUNTS_MAX) {
		v.store = false;
		v.status = RING_NOSPACE;
	}
	if (v.store && r->type == JOURNAL_SIGHT) {
		r->amount = 5;
		r->extra = 7;
	}
	if (v.store) {
		if (r->type == JOURNAL_ACCOUNT || r->type == JOURNAL_KEY_REVOKE ||
		    r->type == JOURNAL_SIGHT)
			r->account = (uint32_t)v.value;
		enter(g, r, payload);
		check_floor(g, r);
		return;
	}
	h = books_hold(g->books, r->slot);
	if (v.contradicts != NULL && next && h != NULL && h->open &&
	    (r->type == JOURNAL_SETTLE || r->type == JOURNAL_VOID))
		end_hold(g, r->slot, r->op);
	if (next)
		books_answer(g->books, r->slot, r->op, r->type, v.status, v.value);
}

/* A payload of what the type has, its lengths now and then too long. */
static size_t
make_payload(struct play *g, const struct journal_record *r, uint8_t *to)
{
	static const uint8_t fixed[JOURNAL_TYPES] = {
	    [JOURNAL_RESERVE] = sizeof(struct journal_reserve),
	    [JOURNAL_EXTEND] = sizeof(struct journal_split),
	    [JOURNAL_MARK] = sizeof(struct journal_split),
	    [JOURNAL_SETTLE] = sizeof(struct journal_split),
	    [JOURNAL_TOPUP] = sizeof(struct journal_ref),
	    [JOURNAL_ADJUST] = sizeof(struct journal_ref),
	    [JOURNAL_ACCOUNT] = sizeof(struct journal_account),
	    [JOURNAL_KEY] = sizeof(struct journal_key),
	    [JOURNAL_PRICE_SET] = sizeof(struct journal_price_set),
	    [JOURNAL_SIGHT] = sizeof(struct journal_sight),
	    [JOURNAL_ASK] = sizeof(struct journal_keyed),
	    [JOURNAL_ACCOUNT_SET] = sizeof(struct journal_account_set),
	    [JOURNAL_CHECKPOINT] = sizeof(struct journal_checkpoint),
	    [JOURNAL_FORGET] = JOURNAL_FORGET_LEN};
	size_t head = r->type < JOURNAL_TYPES ? fixed[r->type] : 0, more = byte(g);

	if (more >= 200)
		head = more % (head + 1), more = 0; /* cut off */
	more = more < PAYLOAD_MAX - head ? more : PAYLOAD_MAX - head;
	bytes(g, to, head + more);
	return head + more;
}

/* Of a reserve: under its key's cap, and its account's budgets. */
static void
under_caps(struct play *g, struct journal_record *r)
{
	uint8_t which = byte(g), off = byte(g);
	uint32_t bits = 0;

	if ((which & 1) != 0) {
		r->cached = number32(g, 2);
		r->completion = number32(g, 0);
		r->outcome =
		    (uint8_t)(purse_window(KEY_PER_DAY, r->time_us) + (off >= 250 ? off : 0));
	}
	for (unsigned i = 0; i < BUDGETS; i++)
		if ((which & 2u << i) != 0)
			bits |= JOURNAL_BUDGET(
			    i, purse_window(KEY_PER_DAY + i, r->time_us) + off / 64u);
	if (bits != 0)
		r->extra = JOURNAL_RESERVE_EXTRA((uint64_t)r->extra, bits);
}

/* What the books would have it be, but for what the input wants otherwise. */
static void
make_record(struct play *g, struct books_input *in, struct journal_record *r)
{
	uint8_t what = byte(g), who = byte(g);
	const struct books_hold *h;
	const struct books_account *a;

	*r = (struct journal_record){.type = what % (JOURNAL_TYPES + 1),
	    .version = (who & 4) != 0 ? JOURNAL_VERSION_KINDS : JOURNAL_VERSION,
	    .outcome = who >> 4};
	in->slot_first = (who & 1) != 0 ? SLOTS : 0;
	in->slot_count = SLOTS;
	in->types = (who & 1) != 0 ? BOOKS_FROM_ADMIN : BOOKS_FROM_WORKER;
	if ((who & 2) != 0)
		in->types |= BOOKS_FROM_REAPER;
	r->slot = number32(g, in->slot_first + (who >> 4) % SLOTS);
	h = books_hold(g->books, r->slot);
	r->op = (uint64_t)number(g, h == NULL ? 1 : (int64_t)h->op + (r->type != JOURNAL_MARK));
	r->account = number32(g, h != NULL && h->open ? h->account : 0);
	a = books_account(g->books, r->account);
	r->price = number32(g, h != NULL && h->open ? h->price : 0);
	r->prompt = number32(g, 3);
	r->cached = number32(g, 0);
	r->completion = number32(g, 0);
	r->amount = number(g, 10);
	if (r->type == JOURNAL_EXTEND && h != NULL)
		r->extra = number(g, (int64_t)((uint64_t)h->amount + (uint64_t)r->amount));
	else if (r->type == JOURNAL_SETTLE && h != NULL &&
	         books_price(g->books, r->price) != NULL) {
		int64_t cost = price_cost(
		    &books_price(g->books, r->price)->price, r->prompt, r->cached, r->completion);

		r->amount = number(g, cost < h->amount ? cost : h->amount);
		r->extra = number(g, (int64_t)((uint64_t)cost - (uint64_t)r->amount));
	} else
		r->extra = number(g, 0);
	if (r->type == JOURNAL_ACCOUNT_SET && a != NULL)
		r->amount = number(g, 0);
	r->time_us = g->now_us + (uint64_t)number(g, 0);
	if (r->type == JOURNAL_RESERVE)
		under_caps(g, r);
}

static struct books_verdict
begin_with(struct play *g, struct journal_record r, const void *payload, size_t len)
{
	struct books_input in = {.record = &r,
	    .payload = payload,
	    .types = BOOKS_FROM_JOURNAL,
	    .slot_first = 0,
	    .slot_count = 3 * SLOTS};
	struct books_verdict v;

	r.version = r.type == JOURNAL_PRICE ? JOURNAL_VERSION_KINDS : JOURNAL_VERSION;
	r.time_us = g->now_us;
	r.payload_len = (uint32_t)len;
	books_check(g->books, &in, &v);
	CHECK(v.store);
	enter(g, &r, payload);
	return v;
}

/* Two accounts with credit, two prices, a key that may name users and one with a cap. */
static void
begin(struct play *g)
{
	static const struct price prices[] = {
	    {1500000, 500000, 3000000, 3000000, 1500000, 0}, {INT64_MAX, 1, INT64_MAX, 0, 0, 1}};
	struct {
		struct journal_account head;
		char id[4];
	} account = {.head = {.id_len = 4}, .id = "u--0"};
	struct {
		struct journal_price head;
		char model[8];
	} price = {.head = {.former = {.model_len = 1}}, .model = "m"};
	struct journal_key key = {.scopes = KEY_SCOPE_CHAT | KEY_TRUST_USER};

	for (uint32_t i = 0; i < 2; i++) {
		const struct price *p = &prices[i];

		price.head.former.prompt = p->prompt;
		price.head.former.cached = p->cached;
		price.head.former.completion = p->completion;
		price.head.reasoning = p->reasoning;
		price.head.cache_write = p->cache_write;
		price.head.request = p->request;
		(void)begin_with(g, (struct journal_record){.type = JOURNAL_PRICE, .price = i},
		    &price, sizeof price.head + 1);
		account.id[3] = (char)('0' + i);
		(void)begin_with(g,
		    (struct journal_record){
		        .type = JOURNAL_ACCOUNT, .account = i, .amount = 50 * i},
		    &account, sizeof account.head + 4);
		(void)begin_with(g,
		    (struct journal_record){.type = JOURNAL_TOPUP,
		        .slot = 2 * SLOTS,
		        .op = i + 1,
		        .account = i,
		        .amount = 1000},
		    NULL, 0);
		key.key_id = i + 1;
		key.hash[0] = (uint8_t)i;
		(void)begin_with(g,
		    (struct journal_record){.type = JOURNAL_KEY,
		        .account = i,
		        .amount = 500 * i,
		        .prompt = i == 0 ? KEY_PER_NONE : KEY_PER_DAY},
		    &key, sizeof key);
		key.scopes = KEY_SCOPE_CHAT;
	}
}

/* Rows of one table of `from`, entered into `to` with bytes of the input over their values. */
static bool
load_table(struct play *g, const struct books *from, struct books *to, enum books_table table,
    bool damaged)
{
	for (uint32_t i = 0; i < books_rows(from, table); i++) {
		struct books_row row;
		uint8_t *value;
		size_t len;
		int loaded;

		books_row_make(from, table, i, &row);
		len = row.fixed_len + row.text_len;
		value = malloc(len + 8);
		CHECK(value != NULL);
		memcpy(value, &row.fixed, row.fixed_len);
		if (row.text_len > 0)
			memcpy(value + row.fixed_len, row.text, row.text_len);
		for (uint8_t n = damaged ? byte(g) % 4 : 0; n > 0; n--) {
			size_t at = byte(g);

			if (at == 255)
				len = len > 8 ? len - 8 : len;
			else if (len > 0)
				value[at % len] = byte(g);
		}
		value = realloc(value, len > 0 ? len : 1);
		CHECK(value != NULL);
		loaded = (damaged && byte(g) == 1 ? books_row_load_former : books_row_load)(
		    to, table, row.key, row.key_len, value, len);
		free(value);
		CHECK(loaded == 0 || damaged);
		if (loaded != 0)
			return false;
	}
	return true;
}

/* What was read is what was there. */
static void
check_same(const struct books *a, const struct books *b, enum books_table table)
{
	CHECK(books_rows(a, table) == books_rows(b, table));
	for (uint32_t i = 0; i < books_rows(a, table); i++) {
		struct books_row x, y;

		books_row_make(a, table, i, &x);
		books_row_make(b, table, i, &y);
		CHECK(x.key_len == y.key_len && memcmp(x.key, y.key, x.key_len) == 0);
		CHECK(x.fixed_len == y.fixed_len && x.text_len == y.text_len);
		CHECK(memcmp(&x.fixed, &y.fixed, x.fixed_len) == 0);
		CHECK(x.text_len == 0 || memcmp(x.text, y.text, x.text_len) == 0);
	}
}

static void
check_rows(struct play *g, bool damaged)
{
	struct books *again = books_new(), *kept = g->books;
	bool whole = true;

	CHECK(again != NULL);
	for (int t = 0; t < ROWS_TABLES && whole; t++) {
		whole = load_table(g, g->books, again, (enum books_table)t, damaged);
		if (!damaged)
			check_same(g->books, again, (enum books_table)t);
	}
	/* Whatever was taken for rows: nothing that comes after it hurts. */
	g->books = again;
	for (int i = 0; i < 10 && whole && damaged; i++) {
		struct journal_record r;
		struct books_input in = {.record = &r};
		uint8_t payload[PAYLOAD_MAX];
		struct books_verdict v;

		make_record(g, &in, &r);
		r.payload_len = (uint32_t)make_payload(g, &r, payload);
		in.payload = payload;
		books_check(again, &in, &v);
		if (v.store && r.type != JOURNAL_ACCOUNT && r.type != JOURNAL_SIGHT &&
		    r.type != JOURNAL_KEY_REVOKE && books_apply(again, &r, payload, 1) < 0)
			break;
	}
	g->books = kept;
	books_free(again);
}

/* As the keeper does when all that was committed is in state.mdb. */
static void
project(struct play *g)
{
	struct books_changes changes;
	uint32_t from, n = books_refs_over(g->books, g->now_us, 1000, &from);

	books_changes(g->books, &changes);
	for (size_t i = 0; i < changes.accounts; i++)
		CHECK(changes.account[i] < books_accounts(g->books));
	for (size_t i = 0; i < changes.slots; i++)
		CHECK(changes.slot[i] < books_slots(g->books));
	books_changes_clear(g->books);
	CHECK(from + n <= books_refs(g->books));
	books_refs_forget(g->books, n);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct play g = {.p = data, .left = size, .now_us = NOW_US, .books = books_new()};

	CHECK(g.books != NULL);
	begin(&g);
	for (int i = 0; i < RECORDS_MAX && g.left > 0; i++) {
		struct journal_record r;
		struct books_input in = {.record = &r};
		uint8_t payload[PAYLOAD_MAX], *exact, pause;

		make_record(&g, &in, &r);
		r.payload_len = (uint32_t)make_payload(&g, &r, payload);
		exact = malloc(r.payload_len > 0 ? r.payload_len : 1);
		CHECK(exact != NULL);
		memcpy(exact, payload, r.payload_len);
		in.payload = exact;
		take(&g, &in, &r, exact);
		free(exact);
		if (r.type == JOURNAL_GONE && (in.types & BOOKS_FROM_REAPER) != 0)
			end_all(&g);
		pause = byte(&g);
		g.now_us += (uint64_t)pause << (pause < 250 ? 20 : 30);
		if (pause > 200)
			project(&g);
		check_books(&g);
	}
	check_rows(&g, false);
	check_rows(&g, true);
	end_all(&g);
	check_books(&g);
	books_free(g.books);
	return 0;
}
