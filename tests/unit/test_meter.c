/*
 * Goal:   a stream goes as far as its credit and not a token further, never more than a slice
 *         ahead of what is on disk, and all that it showed is in the journal's records.
 * Method: a meter over a real ledger; a keeper of pretend (books.c) that publishes late; a queue
 *         of those who wait in place of daemon/durable.c.  Single cases first, then random pieces
 *         of text against random slices, credit and moments of publishing.
 *
 * objs: shm/money.o shm/ring.o shm/region.o shm/account.o shm/hold.o shm/ledger.o shm/seat.o shm/reap.o shm/purse.o
 * objs: daemon/meter.o daemon/utf8.o daemon/buf.o
 * objs: tests/unit/books.o
 * objs: daemon/tokenizer.o daemon/tokenizer_stream.o daemon/tokenizer_merge.o
 * objs: daemon/tokenizer_split.o
 * objs: daemon/tokenizer_class.o daemon/tokenizer_table.o
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/meter.h"
#include "daemon/utf8.h"
#include "shm/ring.h"
#include "tests/unit/books.h"

#define WAITERS 512

/* In place of daemon/durable.c: callbacks run when the test lets the keeper publish. */
struct durable {
	struct ring *ring;
	struct {
		uint64_t position;
		durable_fn *fn;
		void *arg;
	} queue[WAITERS];
	size_t head, tail;
	bool hurried;
};

void
durable_wait(struct durable *d, uint64_t position, durable_fn *fn, void *arg)
{
	assert_true(d->tail - d->head < WAITERS);
	if (d->tail > d->head)
		assert_true(position > d->queue[(d->tail - 1) % WAITERS].position);
	d->queue[d->tail % WAITERS].position = position;
	d->queue[d->tail % WAITERS].fn = fn;
	d->queue[d->tail++ % WAITERS].arg = arg;
}

void
durable_later(struct durable *d, uint64_t position, durable_fn *fn, void *arg)
{
	durable_wait(d, position, fn, arg);
}

void
durable_hurry(struct durable *d)
{
	d->hurried = true;
}

struct bench {
	struct region region;
	struct books books;
	struct account *account;
	struct ledger *ledger;
	struct durable durable;
	struct hold *hold;
	struct meter meter;
	struct buf text;      /* what was shown */
	struct buf journaled; /* what records have of it */
	size_t saved;
	const char *rest; /* of the piece that was offered last */
	size_t rest_len;
	enum meter_kind rest_kind;
	uint32_t marked; /* the meter, as durable records have it */
	unsigned resumed, slices;
};

/* 500 micro-credits a prompt token, 2000 a completion token. */
static struct price price = {
    .prompt = 500000000, .cached = 250000000, .completion = 2000000000,
    .reasoning = 2000000000, .cache_write = 500000000};
#define PROMPT 10
#define PROMPT_COST (PROMPT * 500)
#define TOKEN_COST 2000

static const struct region_dims usual = {.workers = 1,
    .max_accounts = 4,
    .max_keys = 4,
    .max_holds = 9 * 4,
    .ring_records = 256,
    .ring_arena = 1 << 20};

static void
resume(void *arg, bool slice_began)
{
	struct bench *b = arg;

	b->resumed++;
	b->slices += slice_began;
}

/* The keeper publishes what there is; who waited is told. */
static void
publish(struct bench *b)
{
	struct ring *ring = ledger_ring(b->ledger);
	uint64_t head = ring_head(ring);

	for (uint64_t p = ring_durable(ring) + 1; p <= head; p++) {
		struct ring_entry *e = ring_peek(ring, p);
		size_t split = 0;
		char *to;

		if (e->record.type != JOURNAL_EXTEND && e->record.type != JOURNAL_MARK)
			continue;
		to = buf_reserve(&b->journaled, e->record.payload_len + 1);
		assert_non_null(to);
		ring_payload(ring, e, to);
		if (e->record.version == JOURNAL_VERSION_KINDS)
			split = sizeof(struct journal_split);
		memmove(to, to + split, e->record.payload_len - split);
		b->journaled.len += e->record.payload_len - split;
		assert_true(e->record.completion >= b->marked);
		b->marked = e->record.completion;
	}
	books_drain(&b->books, &b->region, PROC_WORKER);
	while (b->durable.head < b->durable.tail) {
		size_t i = b->durable.head % WAITERS;

		assert_true(b->durable.queue[i].position <= head);
		b->durable.head++;
		b->durable.queue[i].fn(b->durable.queue[i].arg, b->durable.queue[i].position);
	}
	ring_ack(ring, head);
	b->durable.hurried = false;
}

static struct bench *
bench_new(const struct region_dims *dims, int64_t balance, uint32_t slice, uint32_t want,
    uint32_t max_tokens)
{
	struct bench *b = calloc(1, sizeof *b);
	const struct tokenizer *tokenizer;
	struct hold_terms terms;
	uint64_t position;
	char why[256];

	assert_non_null(b);
	assert_int_equal(region_anonymous(&b->region, dims), 0);
	*region_price(&b->region, 0) = price;
	b->account = books_open(&b->books, &b->region, "user:1", balance, 0);
	b->ledger = ledger_new(&b->region, PROC_WORKER);
	assert_non_null(b->ledger);
	b->durable.ring = ledger_ring(b->ledger);
	terms = (struct hold_terms){.account = b->account,
	    .price = price,
	    .prompt = PROMPT,
	    .max_tokens = max_tokens,
	    .min_tokens = 1,
	    .want_tokens = want};
	assert_int_equal(
	    ledger_reserve(b->ledger, &terms, NULL, 0, &b->hold, &position), LEDGER_OK);
	publish(b);
	tokenizer = tokenizer_open("o200k_base", why, sizeof why);
	assert_non_null(tokenizer);
	meter_init(&b->meter, b->ledger, &b->durable, b->hold, tokenizer, TOKENS_SCALE, slice,
	    resume, b);
	return b;
}

/* Settle at the meter; books and memory must agree. */
static void
bench_end(struct bench *b)
{
	struct settlement s = {.charge = meter_cost(&b->meter),
	    .prompt = PROMPT,
	    .completion = meter_tokens(&b->meter),
	    .reasoning = meter_reasoning(&b->meter),
	    .outcome = OUTCOME_STOP};
	uint64_t position;

	assert_int_equal(METER_TOKENS(atomic_load(&b->hold->meter)), meter_tokens(&b->meter));
	publish(b);
	assert_true(b->journaled.len == b->saved);
	if (b->saved > 0)
		assert_memory_equal(b->journaled.data, b->text.data, b->saved);
	assert_int_equal(ledger_settle(b->ledger, b->hold, &s, NULL, 0, &position), LEDGER_OK);
	publish(b);
	assert_int_equal(ledger_close(b->ledger, b->hold, position, NULL), RING_APPLIED);
	assert_null(books_wrong(&b->books, &b->region));
	meter_fini(&b->meter);
	ledger_free(b->ledger);
	region_unmap(&b->region);
	buf_free(&b->text);
	buf_free(&b->journaled);
	free(b);
}

/* Do durable records pay for what the meter says, and so much more of a kind? */
static bool
durably_paid(const struct bench *b, enum meter_kind kind, uint32_t more)
{
	uint32_t slot = hold_slot(&b->region, b->hold);
	struct tokens t = {.prompt = PROMPT,
	    .completion = meter_tokens(&b->meter) + more,
	    .reasoning = meter_reasoning(&b->meter) + (kind == METER_THOUGHT ? more : 0)};

	return price_cost_of(&price, &t) <= b->books.hold[slot].amount;
}

/* Offer a piece as a stream does, and look at what must hold after every step. */
static enum meter_result
again(struct bench *b)
{
	struct span unsaved = {"", b->text.len - b->saved};
	uint32_t before = meter_tokens(&b->meter), slice = b->meter.slice;
	const char *text = b->rest;
	enum meter_result r;
	bool saved_now;
	size_t taken, bad;

	if (unsaved.len > 0)
		unsaved.p = b->text.data + b->saved;
	r = meter_take(&b->meter, b->rest_kind, text, b->rest_len, unsaved, &taken, &saved_now);
	if (saved_now)
		b->saved = b->text.len;
	assert_true(taken <= b->rest_len && (r != METER_TAKEN || taken == b->rest_len));
	assert_true(utf8_valid(text, taken));
	if (b->rest_kind == METER_SHOWN)
		buf_add(&b->text, text, taken);
	b->rest += taken;
	b->rest_len -= taken;
	/* Nothing unpaid, nothing unmetered. */
	assert_true(durably_paid(b, METER_SHOWN, 0));
	assert_int_equal(METER_TOKENS(atomic_load(&b->hold->meter)), meter_tokens(&b->meter));
	assert_int_equal(
	    METER_REASONING(atomic_load(&b->hold->meter)), meter_reasoning(&b->meter));
	/* At most a slice ahead of the disk, or one character that is more than that. */
	if (taken > 0 && meter_tokens(&b->meter) - b->marked > slice) {
		assert_int_equal(before, b->marked);
		assert_true(taken == utf8_char(text, taken, &bad));
	}
	/* Who waits for what could be put off says so, or it waits for others' records. */
	if (r == METER_WAIT)
		assert_true(b->durable.hurried);
	return r;
}

static enum meter_result
offer(struct bench *b, enum meter_kind kind, const char *text, size_t len)
{
	b->rest = text;
	b->rest_len = len;
	b->rest_kind = kind;
	return again(b);
}

/* The next word, of a token or two, or what is left of one. */
static enum meter_result
offer_word(struct bench *b)
{
	return b->rest_len > 0 ? again(b) : offer(b, METER_SHOWN, " tree", 5);
}

static void
test_slices(void **state)
{
	struct bench *b = bench_new(&usual, 1000000000, 20, 20, 1000);

	(void)state;
	/* Half a slice is left: the next one is asked for, and nothing waits. */
	while (b->meter.extending == 0) {
		assert_true(meter_tokens(&b->meter) < 10 && b->saved == 0);
		assert_int_equal(offer_word(b), METER_TAKEN);
	}
	assert_in_range(meter_tokens(&b->meter), 10, 12);
	assert_int_equal(hold_covers(b->hold, b->hold->amount, false), 40);
	publish(b);
	assert_int_equal(b->meter.paid, 40);
	assert_int_equal(b->resumed, 1);
	assert_int_equal(b->slices, 1);
	bench_end(b);
}

/*
 * Somebody writes over the hold: what it was is put back before the next record, the keeper gets
 * one to refuse, and the stream goes on until it is killed instead of waiting for ever.
 */
static void
test_a_stray_write(void **state)
{
	(void)state;
	for (int what = 0; what < 4; what++) {
		struct bench *b = bench_new(&usual, 1000000000, 20, 20, 1000);
		uint32_t was = b->hold->prompt;

		switch (what) {
		case 0:
			b->hold->amount += 1000 * TOKEN_COST;
			break;
		case 1:
			b->hold->amount = 1;
			break;
		case 2:
			b->hold->price.completion = 1;
			break;
		default:
			b->hold->prompt = 0;
			break;
		}
		while (meter_tokens(&b->meter) < 100)
			if (offer_word(b) == METER_WAIT)
				publish(b);
		assert_int_equal(b->books.refusals, 1);
		assert_int_equal(b->hold->prompt, was);
		assert_int_equal(b->hold->price.completion, price.completion);
		publish(b);
		assert_int_equal(b->hold->amount, b->books.hold[hold_slot(&b->region, b->hold)].amount);
		b->books.refusals = 0;
		bench_end(b);
	}
}

/* The same at the end: nobody gets the difference. */
static void
test_a_stray_write_before_the_end(void **state)
{
	struct bench *b = bench_new(&usual, 1000000000, 20, 20, 1000);
	struct settlement s = {.prompt = PROMPT, .completion = 1, .outcome = OUTCOME_STOP,
	    .charge = PROMPT_COST + TOKEN_COST};
	uint64_t position;

	(void)state;
	while (meter_tokens(&b->meter) == 0)
		assert_int_equal(offer_word(b), METER_TAKEN);
	publish(b);
	b->hold->amount += 1000 * TOKEN_COST;
	assert_int_equal(ledger_settle(b->ledger, b->hold, &s, NULL, 0, &position), LEDGER_BUSY);
	publish(b);
	assert_int_equal(b->books.refusals, 1);
	b->books.refusals = 0;
	bench_end(b);
}

static void
test_waits_for_its_slice(void **state)
{
	struct bench *b = bench_new(&usual, 1000000000, 20, 20, 1000);
	enum meter_result r;
	size_t len;

	(void)state;
	while ((r = offer_word(b)) == METER_TAKEN)
		continue;
	assert_int_equal(r, METER_WAIT);
	assert_in_range(meter_tokens(&b->meter), 18, 20);
	/* Offered again in vain, it is not taken twice. */
	len = b->text.len;
	assert_int_equal(offer_word(b), METER_WAIT);
	assert_true(b->text.len == len);
	publish(b);
	assert_true(b->resumed > 0);
	assert_int_equal(offer_word(b), METER_TAKEN);
	bench_end(b);
}

/* The hold pays for all from the start: marks alone keep the disk near. */
static void
test_marks_without_slices(void **state)
{
	struct bench *b = bench_new(&usual, 1000000000, 20, 500, 500);
	enum meter_result r;

	(void)state;
	while ((r = offer_word(b)) == METER_TAKEN)
		continue;
	assert_int_equal(r, METER_WAIT);
	assert_in_range(meter_tokens(&b->meter), 18, 20);
	assert_int_equal(b->meter.extending, 0);
	publish(b);
	assert_true(b->resumed > 0);
	assert_int_equal(b->slices, 0);
	assert_int_equal(offer_word(b), METER_TAKEN);
	bench_end(b);
}

static void
test_extend_is_granted_in_part(void **state)
{
	/* A slice of 20, and credit for 27. */
	struct bench *b =
	    bench_new(&usual, PROMPT_COST + 27 * TOKEN_COST + TOKEN_COST - 1, 20, 20, 1000);
	enum meter_result r;

	(void)state;
	do {
		r = offer_word(b);
		if (r == METER_WAIT)
			publish(b);
	} while (r != METER_CUT);
	assert_true(durably_paid(b, METER_SHOWN, 27 - meter_tokens(&b->meter)) &&
	            !durably_paid(b, METER_SHOWN, 28 - meter_tokens(&b->meter)));
	assert_int_equal(meter_tokens(&b->meter), 27);
	assert_int_equal(account_available(b->account), TOKEN_COST - 1);
	bench_end(b);
}

static void
test_ring_full(void **state)
{
	static const struct region_dims small = {.workers = 1,
	    .max_accounts = 4,
	    .max_keys = 4,
	    .max_holds = 9 * 4,
	    .ring_records = 2,
	    .ring_arena = 4096};
	struct bench *b = bench_new(&small, 1000000000, 20, 20, 1000);
	struct ring *ring = ledger_ring(b->ledger);
	struct journal_record other = {.type = JOURNAL_MARK,
	    .version = JOURNAL_VERSION,
	    .slot = hold_slot(&b->region, b->hold)};
	enum meter_result r;

	(void)state;
	/* Somebody else's record fills it. */
	other.account = b->account->number;
	assert_int_not_equal(ring_push(ring, &other, NULL, 0), 0);
	while ((r = offer_word(b)) == METER_TAKEN)
		continue;
	assert_int_equal(r, METER_BUSY);
	assert_int_equal(b->meter.extending, 0);
	assert_in_range(meter_tokens(&b->meter), 18, 20);
	assert_int_equal(offer_word(b), METER_BUSY);
	/* Room again: the retry finds its slice on the way, then there. */
	publish(b);
	assert_int_equal(offer_word(b), METER_WAIT);
	publish(b);
	assert_int_equal(offer_word(b), METER_TAKEN);
	bench_end(b);
}

/* A long piece is delivered in parts, each when what came before is on disk: the last one too. */
static void
test_long_piece_in_parts(void **state)
{
	struct bench *b = bench_new(&usual, PROMPT_COST + 40 * TOKEN_COST, 20, 20, 1000);
	char piece[400];
	enum meter_result r;

	(void)state;
	for (size_t i = 0; i < sizeof piece; i += 5)
		memcpy(piece + i, " tree", 5);
	while (b->meter.extending == 0)
		assert_int_equal(offer_word(b), METER_TAKEN);
	publish(b); /* 40 are paid, some 10 of them on disk */
	assert_true(durably_paid(b, METER_SHOWN, 40 - meter_tokens(&b->meter)) &&
	            !durably_paid(b, METER_SHOWN, 41 - meter_tokens(&b->meter)));
	for (int i = 0; i < 8; i++)
		assert_int_equal(offer_word(b), METER_TAKEN);
	r = offer(b, METER_SHOWN, piece, sizeof piece);
	assert_int_equal(r, METER_WAIT);
	assert_in_range(meter_tokens(&b->meter), b->marked + 19, b->marked + 20);
	publish(b);
	assert_true(b->resumed > 1);
	assert_int_equal(again(b), METER_CUT);
	assert_int_equal(meter_tokens(&b->meter), 40);
	bench_end(b);
}

static void
test_character_longer_than_a_slice(void **state)
{
	struct bench *b = bench_new(&usual, 1000000000, 1, 1, 1000);
	enum meter_result r;

	(void)state;
	for (int i = 0; i < 10; i++) {
		r = offer(b, METER_SHOWN, "\xf0\x9f\x8c\xb2\xf0\x9f\x8c\xb2", 8);
		for (int n = 0; r != METER_TAKEN; n++) {
			assert_true(r == METER_WAIT && n < 20);
			publish(b);
			r = again(b);
		}
	}
	assert_true(meter_tokens(&b->meter) > 20);
	bench_end(b);
}

/* Blanks cost next to nothing: what was shown since the last record stays one that fits. */
static void
test_cheap_text_is_journaled(void **state)
{
	struct bench *b = bench_new(&usual, INT64_C(1) << 40, 1000000, 1000000, 1000000);
	static char blanks[100 << 10];
	size_t longest = 0;

	(void)state;
	memset(blanks, ' ', sizeof blanks);
	for (int i = 0; i < 40; i++) {
		enum meter_result r;

		for (r = offer(b, METER_SHOWN, blanks, sizeof blanks); r != METER_TAKEN; r = again(b)) {
			assert_int_not_equal(r, METER_CUT);
			publish(b);
		}
		if (b->text.len - b->saved > longest)
			longest = b->text.len - b->saved;
	}
	assert_true(longest <= 512 << 10);
	bench_end(b);
}

static uint64_t seed;

static uint32_t
any(uint32_t n)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (uint32_t)(seed >> 20) % n;
}

/* Whole characters, of all lengths. */
static size_t
random_piece(char *out, uint32_t words)
{
	static const char *const word[] = {" the", " road", "x", "\n", "    ", "9", "42",
	    " \xd0\xb4\xd0\xb0", "\xe6\xb0\xb4", "\xf0\x9f\x8c\xb2", " incomprehensibility",
	    "{\"a\":", ".", " QZ"};
	size_t len = 0;

	for (uint32_t n = 1 + any(words); n > 0; n--) {
		const char *w = word[any(sizeof word / sizeof *word)];

		memcpy(out + len, w, strlen(w));
		len += strlen(w);
	}
	return len;
}

/* The last payable token: one more character of what was cut would not be paid. */
static void
check_cut(struct bench *b)
{
	const struct token_stream *const all[] = {
	    &b->meter.shown, &b->meter.hidden, &b->meter.thought};
	struct token_stream more = *all[b->rest_kind];
	uint32_t other = all[0]->count + all[1]->count + all[2]->count - more.count;
	size_t bad;

	assert_true(b->account->word.available <
	            (b->rest_kind == METER_THOUGHT ? price.reasoning : price.completion) / 1000000);
	assert_true(b->rest_len > 0);
	if (more.grown != NULL) /* a copy would share it */
		return;
	token_stream_append(&more, b->rest, utf8_char(b->rest, b->rest_len, &bad));
	assert_true(!durably_paid(b, b->rest_kind, more.count + other - meter_tokens(&b->meter)));
	token_stream_fini(&more);
}

static void
one_random_stream(void)
{
	uint32_t slice = 1 + any(60), words = 1 + any(any(3) == 0 ? 200 : 6);
	uint32_t payable = 1 + any(400);
	int64_t dear = price.reasoning > price.completion ? price.reasoning : price.completion;
	struct bench *b = bench_new(&usual, PROMPT_COST + price.request + dear / 1000000 +
	    payable * TOKEN_COST + any(TOKEN_COST),
	    slice, any(4) == 0 ? 400 : slice, 1000);
	uint32_t late = 1 + any(20);
	static char piece[8192];
	enum meter_result r = METER_TAKEN;

	while (r != METER_CUT && meter_tokens(&b->meter) < 1000) {
		r = offer(b, any(8) != 0 ? METER_SHOWN : 1 + any(2), piece, random_piece(piece, words));
		while (r == METER_WAIT) {
			unsigned resumed = b->resumed;

			publish(b);
			assert_true(b->resumed > resumed);
			r = again(b);
		}
		assert_int_not_equal(r, METER_BUSY);
		if (any(late) == 0)
			publish(b);
	}
	if (r == METER_CUT)
		check_cut(b);
	assert_true(price.reasoning != price.completion ||
	            meter_tokens(&b->meter) <= payable + 1);
	assert_true(utf8_valid(b->text.data == NULL ? "" : b->text.data, b->text.len));
	bench_end(b);
}

static void
test_random(void **state)
{
	(void)state;
	for (uint64_t i = 1; i <= 2000; i++) {
		seed = i * UINT64_C(0x9e3779b97f4a7c15);
		one_random_stream();
	}
}

/* Reasoning at a price of its own, and a price of the request: the last payable token all the same. */
static void
test_random_of_two_prices(void **state)
{
	const struct price usual_price = price;

	(void)state;
	for (uint64_t i = 1; i <= 2000; i++) {
		seed = i * UINT64_C(0xd1342543de82ef95);
		price.reasoning = i % 3 == 0 ? 0 : any(1 + 8 * TOKEN_COST) * INT64_C(1000000);
		price.request = i % 4 == 0 ? any(5000) : 0;
		one_random_stream();
	}
	price = usual_price;
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_slices),
	    cmocka_unit_test(test_a_stray_write),
	    cmocka_unit_test(test_a_stray_write_before_the_end),
	    cmocka_unit_test(test_waits_for_its_slice),
	    cmocka_unit_test(test_marks_without_slices),
	    cmocka_unit_test(test_extend_is_granted_in_part),
	    cmocka_unit_test(test_ring_full),
	    cmocka_unit_test(test_long_piece_in_parts),
	    cmocka_unit_test(test_character_longer_than_a_slice),
	    cmocka_unit_test(test_cheap_text_is_journaled),
	    cmocka_unit_test(test_random),
	    cmocka_unit_test(test_random_of_two_prices),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
