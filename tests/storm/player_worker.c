/*
 * The storm's worker: streams on accounts with little credit.  It uses the real shm/ledger.h, and
 * writes into `told` what a client would know: before the act what may become true, after the
 * acknowledgement what must be.
 */
#include <string.h>

#include "shm/account.h"
#include "shm/claim.h"
#include "shm/clock.h"
#include "shm/mail.h"
#include "shm/ring.h"
#include "tests/storm/player.h"

#define STREAMS 10

struct stream {
	struct hold *h;
	struct told_stream *t;
	uint64_t position; /* nothing more before this is durable; 0: nothing to wait for */
	uint64_t mark;     /* a mark on its way */
	int64_t taken;     /* by the extend that is waited for */
	uint32_t paid;     /* tokens that durable records pay for */
	bool reserving, closing;
	bool refused;  /* the account was closed meanwhile: the reserve was not taken */
	uint8_t mail;  /* a letter came: enum mail_verb */
	uint32_t once; /* its key + 1, and its claim is ours; 0: none */
	bool asking;   /* nothing was reserved: is the key known? */
	bool other;    /* with another body than its key's first */
};

static void
meter(struct stream *s, uint32_t tokens)
{
	if (tokens <= METER_TOKENS(atomic_load(&s->h->meter)))
		return;
	atomic_store(&s->t->meter_before, tokens);
	ledger_meter(s->h, tokens, 0);
	atomic_store(&s->t->meter_after, tokens);
	told_count(OP_METER);
}

static void
raise_mark(struct player *p, struct stream *s, uint64_t position)
{
	uint32_t tokens = ring_peek(p->ring, position)->record.completion;

	if (tokens > atomic_load(&s->t->marked))
		atomic_store(&s->t->marked, tokens);
}

static uint16_t
once_word(uint32_t once)
{
	/* A few words, so that keys share them. */
	return (uint16_t)(once % 64 * 1021);
}

static struct journal_keyed
once_keyed(uint32_t once, bool other)
{
	struct journal_keyed keyed = {.expires_s = 1};

	memcpy(keyed.key, &once, sizeof once);
	memcpy(keyed.body, &once, sizeof once);
	keyed.body[15] = other;
	return keyed;
}

static uint64_t
myself(const struct player *p)
{
	uint32_t generation = atomic_load(&region_proc(p->region, p->proc)->generation);

	return (uint64_t)atomic_load(&told->life) << 40 | (uint64_t)p->proc << 32 | generation;
}

static void
once_over(struct player *p, struct stream *s)
{
	atomic_store(&told->once[s->once - 1].claimant, 0);
	claim_release(p->region, p->proc, once_word(s->once - 1));
	s->once = 0;
}

/*
 * Now and then with a key: a new one, or one of those that others are just using.  False: it is
 * somebody's turn.
 */
static bool
once_begin(struct player *p, struct stream *s, uint32_t *account)
{
	uint32_t n = atomic_load(&told->onces), back = storm_draw(&p->rng, 12), once;
	struct told_once *o;
	uint64_t was;

	if (storm_draw(&p->rng, 3) != 0)
		return true;
	if (back < n && back > 1 && n - back >= atomic_load(&told->onces_from)) {
		once = n - back;
	} else if ((once = atomic_fetch_add(&told->onces, 1)) < STORM_ONCE_MAX) {
		told->once[once].account = *account;
		atomic_store(&told->once[once].made, 1);
	}
	if (once >= STORM_ONCE_MAX || !atomic_load(&told->once[once].made))
		return true;
	o = &told->once[once];
	if (!claim_take(p->region, p->proc, once_word(once))) {
		told_count(OP_ONCE_WAITED);
		return false;
	}
	was = atomic_exchange(&o->claimant, myself(p));
	/* Who died with it has been finished, and has a successor at the most. */
	if (was >> 40 == atomic_load(&told->life) &&
	    (uint32_t)was == atomic_load(&region_proc(p->region, was >> 32 & 0xff)->generation))
		storm_fail("key %u: two at the same time, %llx and %llx", once,
		    (unsigned long long)was, (unsigned long long)myself(p));
	*account = o->account;
	s->once = once + 1;
	s->other = atomic_load(&o->granted) && storm_draw(&p->rng, 8) == 0;
	told_count(OP_ONCE);
	return true;
}

/* Nothing could be reserved with this key. */
static bool
once_ask(struct player *p, struct stream *s, struct account *account)
{
	struct journal_keyed keyed = once_keyed(s->once - 1, s->other);
	struct journal_record ask = {.type = JOURNAL_ASK,
	    .version = JOURNAL_VERSION,
	    .slot = JOURNAL_NONE,
	    .account = account->number,
	    .price = JOURNAL_NONE,
	    .time_us = realtime_us()};

	s->position = ring_push(p->ring, &ask, &keyed, sizeof keyed);
	if (s->position == 0) {
		once_over(p, s);
		return false;
	}
	s->asking = true;
	told_count(OP_ONCE_ASKED);
	player_wake_keeper(p, false);
	return true;
}

/* What the keeper said to a reserve or a question with a key; false: it is a failure. */
static void
once_answered(struct player *p, struct stream *s, enum ring_status status)
{
	struct told_once *o = &told->once[s->once - 1];
	uint64_t first = ring_first(p->ring, s->position), none = 0;

	if (status == RING_REPEATED) {
		told_count(OP_ONCE_AGAIN);
		if (!atomic_compare_exchange_strong(&o->repeated_of, &none, first) && none != first)
			storm_fail("key %u: repetitions were told of records %llu and %llu",
			    s->once - 1, (unsigned long long)none, (unsigned long long)first);
	}
	if (s->other != (status == RING_CONFLICT))
		storm_fail(
		    "key %u: body %d, the keeper said %d", s->once - 1, s->other, (int)status);
	if (atomic_load(&o->granted) && status != RING_REPEATED && status != RING_CONFLICT)
		storm_fail("key %u: granted, and the keeper said %d", s->once - 1, (int)status);
	if (!s->asking && status == RING_APPLIED)
		atomic_store(&o->granted, 1);
	once_over(p, s);
}

/* One of its account's with a cap, if there is one near by; revoked or not. */
static struct key_entry *
draw_key(struct player *p, uint32_t account)
{
	/* Acquire, pairs with the keeper's insert. */
	uint32_t keys = atomic_load_explicit(&p->region->h->keys, memory_order_acquire);
	uint32_t at = storm_draw(&p->rng, keys + 1);

	if (storm_draw(&p->rng, 3) != 0)
		return NULL;
	for (uint32_t i = at; i < keys && i < at + 2 * STORM_ACCOUNTS; i++) {
		struct key_entry *k = key_at(p->region, i);

		if (k->account == account && k->purse.per != KEY_PER_NONE)
			return k;
	}
	return NULL;
}

static bool
begin(struct player *p, struct stream *s)
{
	uint32_t number = p->spare != 0 ? p->spare - 1 : atomic_fetch_add(&told->streams, 1);
	uint32_t account = atomic_load(&told->active[storm_draw(&p->rng, STORM_ACCOUNTS)]);
	struct journal_reserve head = {.model_len = 5};
	struct journal_keyed keyed;
	unsigned char payload[sizeof head + 5 + sizeof keyed + STORM_SAID];
	size_t len = sizeof head + 5;
	enum ledger_result result;
	struct hold_terms t = {.prompt = STORM_PROMPT,
	    .max_tokens = 1000,
	    .min_tokens = 1 + storm_draw(&p->rng, 3),
	    .want_tokens = 3 + storm_draw(&p->rng, 30),
	    .reserved_us = realtime_us(),
	    .deadline_us = UINT64_MAX / 2};

	*s = (struct stream){0};
	p->spare = number + 1;
	if (number >= STORM_STREAMS_MAX) {
		storm_fail("too many streams for this program's table");
		return false;
	}
	if (!once_begin(p, s, &account))
		return false;
	if ((t.account = player_account(p, account)) == NULL) {
		if (s->once != 0)
			once_over(p, s);
		return false; /* not made yet */
	}
	/* Acquire, pairs with the keeper: who sees the number sees the price. */
	t.price_id = atomic_load_explicit(region_model_price(p->region, 0), memory_order_acquire);
	t.price = *region_price(p->region, t.price_id);
	t.purse = t.key = draw_key(p, account);
	t.key_seats = t.key != NULL ? t.key->concurrent_streams : 0;
	s->t = &told->stream[number];
	s->t->account = account;
	s->t->boot = atomic_load(&told->boots);
	s->t->price = t.price;
	memcpy(t.stream_id, &number, sizeof number);
	memcpy(head.stream_id, t.stream_id, sizeof head.stream_id);
	if (s->once != 0) {
		head.keyed = 1;
		keyed = once_keyed(s->once - 1, s->other);
		memcpy(payload + len, &keyed, sizeof keyed);
		len += sizeof keyed;
	}
	head.session_id[0] = (uint8_t)(number / 2 % STORM_SESSIONS);
	if (storm_talks(number))
		len += (size_t)snprintf((char *)payload + len, STORM_SAID, "%u", number);
	memcpy(payload, &head, sizeof head);
	memcpy(payload + sizeof head, "model", 5);
	result = ledger_reserve(p->ledger, &t, payload, len, &s->h, &s->position);
	switch (result) {
	case LEDGER_OK:
		s->reserving = true;
		p->spare = 0;
		told_count(OP_RESERVE);
		player_wake_keeper(p, false);
		return true;
	case LEDGER_SHORT:
	case LEDGER_CAPPED:
	case LEDGER_BUDGET_DAY:
	case LEDGER_BUDGET_MONTH:
		told_count(result == LEDGER_SHORT ? OP_SHORT
			: result == LEDGER_CAPPED ? OP_CAPPED
						  : OP_BUDGET);
		return s->once != 0 && once_ask(p, s, t.account);
	case LEDGER_CLOSED:
		if (!atomic_load(&told->account[account].closing))
			storm_fail("account %u is frozen or closed", account);
		return s->once != 0 && once_ask(p, s, t.account);
	default:
		if (s->once != 0)
			once_over(p, s);
		return false;
	}
}

/* Ask for more, sometimes without waiting for it before it is used: the reaper must cope. */
static void
extend(struct player *p, struct stream *s)
{
	uint64_t position;
	int64_t before = s->h->amount;
	uint32_t want = hold_covers(s->h, s->h->amount, false) + 1 + storm_draw(&p->rng, 20);

	if (ledger_extend(p->ledger, s->h, want, false, "more", 4, &position) != LEDGER_OK ||
	    position == 0)
		return;
	told_count(OP_EXTEND);
	s->position = position;
	s->taken = s->h->amount - before;
	if (storm_draw(&p->rng, 8) == 0)
		meter(s, hold_covers(s->h, s->h->amount, false));
	if (storm_draw(&p->rng, 2) == 0)
		player_wake_keeper(p, true);
}

static void
mark(struct player *p, struct stream *s)
{
	uint64_t position;

	if (ledger_mark(p->ledger, s->h, "mark", 4, &position) != LEDGER_OK)
		return;
	s->mark = position;
	told_count(OP_MARK);
}

/* By the meter, or by a usage that differs from it: also above the hold. */
static void
settle(struct player *p, struct stream *s)
{
	uint32_t usage = METER_TOKENS(atomic_load(&s->h->meter));
	struct settlement x = {.prompt = STORM_PROMPT, .outcome = OUTCOME_STOP};
	uint64_t position;

	if (usage > 0 && storm_draw(&p->rng, 4) == 0)
		usage += storm_draw(&p->rng, 60);
	if (!ring_room(p->ring, 16)) /* so that what is told is decided once */
		return;
	if (s->mail == MAIL_VOID)
		usage = 0;
	else if (s->mail == MAIL_CANCEL)
		usage = METER_TOKENS(atomic_load(&s->h->meter));
	if (s->mail != MAIL_NONE)
		x.outcome = OUTCOME_CANCELLED;
	x.completion = usage;
	x.voided = usage == 0;
	x.charge = x.voided ? 0 : price_cost(&s->t->price, STORM_PROMPT, 0, usage);
	if (x.voided) {
		x.prompt = 0;
		if (s->mail == MAIL_NONE)
			x.outcome = OUTCOME_EXPIRED;
	}
	atomic_store(&s->t->usage, usage);
	if (x.charge > s->h->amount) {
		if (ledger_overdraw(p->ledger, s->h, x.charge, &position) != LEDGER_OK)
			return;
		if (position != 0)
			told_count(OP_OVERDRAW);
		if (x.charge > s->h->amount) {
			x.uncollected = x.charge - s->h->amount;
			x.charge = s->h->amount;
		}
	}
	if (ledger_settle(p->ledger, s->h, &x, "end", 3, &s->position) != LEDGER_OK)
		return;
	s->closing = true;
	told_count(x.voided ? OP_VOID : OP_SETTLE);
	player_wake_keeper(p, false);
}

/* What was waited for is durable. */
static void
acknowledged(struct player *p, struct stream *s)
{
	enum ring_status status = ring_result(p->ring, s->position, NULL);
	bool keyed = s->once != 0;

	if (keyed && (s->asking || status != RING_CLOSED))
		once_answered(p, s, status);
	else if (keyed)
		once_over(p, s);
	if (s->asking) {
		*s = (struct stream){0};
		return;
	}
	if (keyed && (status == RING_REPEATED || status == RING_CONFLICT)) {
		s->refused = true;
		s->reserving = false;
		s->position = 0;
		return;
	}
	if (status == RING_CLOSED && s->reserving &&
	    atomic_load(&told->account[s->t->account].closing)) {
		s->refused = true;
		s->reserving = false;
		s->position = 0;
		return;
	}
	if (status != RING_APPLIED) {
		storm_fail(
		    "stream %ld: the keeper said %d", (long)(s->t - told->stream), (int)status);
		return;
	}
	if (s->closing) {
		int64_t charge = s->h->actual;

		(void)ledger_close(p->ledger, s->h, s->position, NULL);
		if (!s->refused) {
			atomic_store(&s->t->charge, charge);
			atomic_store(&s->t->ended, 1);
		}
		s->h = NULL;
	} else if (s->reserving) {
		atomic_store(&s->t->reserved, 1);
		s->reserving = false;
	} else {
		raise_mark(p, s, s->position);
		atomic_fetch_add(&s->t->extended, s->taken);
	}
	s->position = 0;
	if (s->h != NULL)
		s->paid = hold_covers(s->h, s->h->amount, false);
}

/* True if something was done. */
static bool
step(struct player *p, struct stream *s, uint64_t durable, bool ending)
{
	uint32_t tokens;

	if (s->h != NULL && s->mark != 0 && s->mark <= durable) {
		raise_mark(p, s, s->mark);
		s->mark = 0;
	}
	if (s->h == NULL && !s->asking)
		return !ending && begin(p, s);
	if (s->position > durable)
		return false;
	if (s->position != 0) {
		acknowledged(p, s);
		return true;
	}
	switch (ending || s->refused || s->mail != MAIL_NONE ? 0 : storm_draw(&p->rng, 8)) {
	case 0:
		settle(p, s);
		return s->closing;
	case 1:
		extend(p, s);
		break;
	case 2:
		if (s->mark == 0)
			mark(p, s);
		break;
	default:
		tokens = METER_TOKENS(atomic_load(&s->h->meter)) + 1 + storm_draw(&p->rng, 8);
		meter(s, tokens < s->paid ? tokens : s->paid);
		break;
	}
	return true;
}

/* What operators want; a letter that is not about a stream of ours is thrown away. */
static void
read_mail(struct player *p, struct stream stream[static STREAMS])
{
	struct mail m;

	while (mail_take(p->region, p->proc, &m))
		for (int i = 0; i < STREAMS; i++) {
			struct stream *s = &stream[i];

			if (s->h == NULL || s->closing || s->mail != MAIL_NONE ||
			    m.generation != s->h->generation ||
			    memcmp(m.stream_id, s->h->stream_id, sizeof m.stream_id) != 0)
				continue;
			s->mail = (uint8_t)m.verb;
			told_count(OP_BY_MAIL);
		}
}

int
player_worker(struct heritage *h, uint32_t proc, uint64_t seed)
{
	uint32_t generation = atomic_load(&region_proc(&h->region, proc)->generation);
	struct stream stream[STREAMS] = {0};
	struct player p;

	if (!player_start(&p, h, proc, seed))
		return 1;
	for (;;) {
		bool busy = false, did = false, ending = atomic_load(&told->quiesce) != 0 ||
		    atomic_load(&told->leaving[proc]) == generation;
		/* One look for all: what is durable by it is read before it is acked. */
		uint64_t durable = ring_durable(p.ring);

		read_mail(&p, stream);
		for (int i = 0; i < STREAMS; i++) {
			did |= step(&p, &stream[i], durable, ending);
			busy |= stream[i].h != NULL || stream[i].asking;
		}
		ring_ack(p.ring, durable);
		if (atomic_load(&told->failed))
			return 1;
		if (ending && !busy)
			return 0;
		if (!did) {
			player_wake_keeper(&p, ending || storm_draw(&p.rng, 4) == 0);
			player_rest(&p, durable);
		}
	}
}
