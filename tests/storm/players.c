/*
 * The storm's stand-ins: a worker that runs streams on accounts with little credit, an admin that
 * tops up, and one who looks at the floor all the while.  All use the real shm/ledger.h, and each
 * writes into `told` what a client would know: before the act what may become true, after the
 * acknowledgement what must be.
 */
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "shm/ledger.h"
#include "shm/ring.h"
#include "shm/wake.h"
#include "tests/storm/told.h"

#define STREAMS 10
#define CREDITS 6

struct player {
	struct heritage *h;
	struct region *region;
	struct ledger *ledger;
	struct ring *ring;
	uint32_t proc;
	uint32_t spare; /* a stream's number that a refused reserve did not use, + 1 */
	uint64_t rng;
};

/* Until the keeper has said something new, but not for long. */
static void
rest(struct player *p, uint64_t seen)
{
	struct pollfd fd = {.fd = p->h->wake_fd[p->proc], .events = POLLIN};

	wake_prepare(p->region, p->proc);
	if (ring_durable(p->ring) == seen)
		(void)poll(&fd, 1, 1);
	wake_done(p->region, p->proc, fd.fd);
}

static void
wake_keeper(struct player *p, bool now)
{
	int fd = p->h->wake_fd[PROC_KEEPER];

	if (now)
		wake_keeper_now(p->region, fd);
	else
		wake(p->region, PROC_KEEPER, fd);
}

static void
count(enum op_kind kind)
{
	atomic_fetch_add_explicit(&told->ops[kind], 1, memory_order_relaxed);
}

void
storm_account_id(uint32_t account, char id[static 16])
{
	(void)snprintf(id, 16, "account-%u", account);
}

static bool
start(struct player *p, struct heritage *h, uint32_t proc, uint64_t seed)
{
	*p = (struct player){.h = h, .region = &h->region, .proc = proc, .rng = seed};
	p->ledger = ledger_new(p->region, proc);
	if (p->ledger == NULL) {
		storm_fail("no memory");
		return false;
	}
	p->ring = ledger_ring(p->ledger);
	return true;
}

/* Workers. */

struct stream {
	struct hold *h;
	struct told_stream *t;
	uint64_t position; /* nothing more before this is durable; 0: nothing to wait for */
	uint64_t mark;     /* a mark on its way */
	int64_t taken;     /* by the extend that is waited for */
	uint32_t paid;     /* tokens that durable records pay for */
	bool reserving, closing;
};

static void
meter(struct stream *s, uint32_t tokens)
{
	if (tokens <= METER_TOKENS(atomic_load(&s->h->meter)))
		return;
	atomic_store(&s->t->meter_before, tokens);
	ledger_meter(s->h, tokens);
	atomic_store(&s->t->meter_after, tokens);
	count(OP_METER);
}

static void
raise_mark(struct player *p, struct stream *s, uint64_t position)
{
	uint32_t tokens = ring_peek(p->ring, position)->record.completion;

	if (tokens > atomic_load(&s->t->marked))
		atomic_store(&s->t->marked, tokens);
}

static bool
begin(struct player *p, struct stream *s)
{
	uint32_t number = p->spare != 0 ? p->spare - 1 : atomic_fetch_add(&told->streams, 1);
	uint32_t account = storm_draw(&p->rng, STORM_ACCOUNTS);
	struct journal_reserve head = {.model_len = 5};
	unsigned char payload[sizeof head + 5];
	char id[16];
	struct hold_terms t = {.price = storm_price, .prompt = STORM_PROMPT, .max_tokens = 1000,
	    .min_tokens = 1 + storm_draw(&p->rng, 3), .want_tokens = 3 + storm_draw(&p->rng, 30),
	    .reserved_us = 1, .deadline_us = UINT64_MAX / 2};

	*s = (struct stream){0};
	p->spare = number + 1;
	if (number >= STORM_STREAMS_MAX) {
		storm_fail("too many streams for this program's table");
		return false;
	}
	storm_account_id(account, id);
	if ((t.account = account_find(p->region, id, strlen(id))) == NULL)
		return false; /* not made yet */
	s->t = &told->stream[number];
	s->t->account = account;
	s->t->boot = atomic_load(&told->boots);
	memcpy(t.stream_id, &number, sizeof number);
	memcpy(head.stream_id, t.stream_id, sizeof head.stream_id);
	memcpy(payload, &head, sizeof head);
	memcpy(payload + sizeof head, "model", 5);
	switch (ledger_reserve(p->ledger, &t, payload, sizeof payload, &s->h, &s->position)) {
	case LEDGER_OK:
		s->reserving = true;
		p->spare = 0;
		count(OP_RESERVE);
		wake_keeper(p, false);
		return true;
	case LEDGER_SHORT:
		count(OP_SHORT);
		return false;
	case LEDGER_CLOSED:
		storm_fail("account %s is frozen", id);
		return false;
	default:
		return false;
	}
}

/* Ask for more, sometimes without waiting for it before it is used: the reaper must cope. */
static void
extend(struct player *p, struct stream *s)
{
	uint64_t position;
	int64_t before = s->h->amount;
	uint32_t want = hold_covers(s->h) + 1 + storm_draw(&p->rng, 20);

	if (ledger_extend(p->ledger, s->h, want, "more", 4, &position) != LEDGER_OK ||
	    position == 0)
		return;
	count(OP_EXTEND);
	s->position = position;
	s->taken = s->h->amount - before;
	if (storm_draw(&p->rng, 8) == 0)
		meter(s, hold_covers(s->h));
	if (storm_draw(&p->rng, 2) == 0)
		wake_keeper(p, true);
}

static void
mark(struct player *p, struct stream *s)
{
	uint64_t position;

	if (ledger_mark(p->ledger, s->h, "mark", 4, &position) != LEDGER_OK)
		return;
	s->mark = position;
	count(OP_MARK);
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
	x.completion = usage;
	x.voided = usage == 0;
	x.charge = x.voided ? 0 : price_cost(&storm_price, STORM_PROMPT, 0, usage);
	if (x.voided) {
		x.prompt = 0;
		x.outcome = OUTCOME_EXPIRED;
	}
	atomic_store(&s->t->usage, usage);
	if (x.charge > s->h->amount) {
		if (ledger_overdraw(p->ledger, s->h, x.charge, &position) != LEDGER_OK)
			return;
		if (position != 0)
			count(OP_OVERDRAW);
		if (x.charge > s->h->amount) {
			x.uncollected = x.charge - s->h->amount;
			x.charge = s->h->amount;
		}
	}
	if (ledger_settle(p->ledger, s->h, &x, "end", 3, &s->position) != LEDGER_OK)
		return;
	s->closing = true;
	count(x.voided ? OP_VOID : OP_SETTLE);
	wake_keeper(p, false);
}

/* What was waited for is durable. */
static void
acknowledged(struct player *p, struct stream *s)
{
	enum ring_status status = ring_result(p->ring, s->position, NULL);

	if (status != RING_APPLIED) {
		storm_fail("stream %ld: the keeper said %d", (long)(s->t - told->stream),
		    (int)status);
		return;
	}
	if (s->closing) {
		int64_t charge = s->h->actual;

		(void)ledger_close(p->ledger, s->h, s->position, NULL);
		atomic_store(&s->t->charge, charge);
		atomic_store(&s->t->ended, 1);
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
		s->paid = hold_covers(s->h);
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
	if (s->h == NULL)
		return !ending && begin(p, s);
	if (s->position > durable)
		return false;
	if (s->position != 0) {
		acknowledged(p, s);
		return true;
	}
	switch (ending ? 0 : storm_draw(&p->rng, 8)) {
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

int
player_worker(struct heritage *h, uint32_t proc, uint64_t seed)
{
	struct stream stream[STREAMS] = {0};
	struct player p;

	if (!start(&p, h, proc, seed))
		return 1;
	for (;;) {
		bool ending = atomic_load(&told->quiesce) != 0, busy = false, did = false;
		/* One look for all: what is durable by it is read before it is acked. */
		uint64_t durable = ring_durable(p.ring);

		for (int i = 0; i < STREAMS; i++) {
			did |= step(&p, &stream[i], durable, ending);
			busy |= stream[i].h != NULL;
		}
		ring_ack(p.ring, durable);
		if (atomic_load(&told->failed))
			return 1;
		if (ending && !busy)
			return 0;
		if (!did) {
			wake_keeper(&p, ending || storm_draw(&p.rng, 4) == 0);
			rest(&p, durable);
		}
	}
}

/* The admin. */

struct credit {
	struct hold *h;
	struct told_credit *t;
	uint64_t position;
};

/* -1: failed. */
static int
push_and_wait(struct player *p, const struct journal_record *r, const void *payload, size_t len)
{
	uint64_t position = ring_push(p->ring, r, payload, len), durable;

	if (position == 0)
		return -1;
	wake_keeper(p, false);
	while ((durable = ring_durable(p->ring)) < position) {
		if (atomic_load(&told->failed))
			return -1;
		rest(p, durable);
	}
	return 0;
}

static void
make_accounts(struct player *p)
{
	for (uint32_t i = 0; i < STORM_ACCOUNTS; i++) {
		struct journal_record r = {.type = JOURNAL_ACCOUNT, .version = JOURNAL_VERSION,
		    .slot = JOURNAL_NONE, .account = JOURNAL_NONE, .price = JOURNAL_NONE,
		    .amount = STORM_OVERDRAFT};
		struct journal_account head = {0};
		unsigned char payload[sizeof head + 16];
		char id[16];

		storm_account_id(i, id);
		if (account_find(p->region, id, strlen(id)) != NULL)
			continue;
		head.id_len = (uint16_t)strlen(id);
		memcpy(payload, &head, sizeof head);
		memcpy(payload + sizeof head, id, head.id_len);
		if (push_and_wait(p, &r, payload, sizeof head + head.id_len) < 0)
			return;
		ring_ack(p->ring, ring_durable(p->ring));
	}
}

static bool
give(struct player *p, struct credit *c)
{
	uint32_t number = atomic_fetch_add(&told->credits, 1), first;
	char payload[64], ref[16], reason[16], id[16];
	struct journal_ref head;
	enum journal_type type = JOURNAL_TOPUP;
	struct told_credit *t;

	if (number >= STORM_CREDITS_MAX) {
		storm_fail("too many credits for this program's table");
		return false;
	}
	t = &told->credit[number];
	t->account = storm_draw(&p->rng, STORM_ACCOUNTS);
	t->amount = 1 + storm_draw(&p->rng, 1200);
	ref[0] = '\0';
	switch (storm_draw(&p->rng, 6)) {
	case 0: /* a ref of before, if there is one: the amount may be another */
		first = number - 1 - storm_draw(&p->rng, 40);
		if (first < number && told->credit[first].ref == first + 1) {
			t->account = told->credit[first].account;
			t->ref = first + 1;
		}
		break;
	case 1:
	case 2:
		break;
	case 3:
		type = JOURNAL_ADJUST;
		if (STORM_ADJUSTED(t->account))
			t->amount = -t->amount;
		break;
	default:
		t->ref = number + 1;
		break;
	}
	if (t->ref != 0)
		(void)snprintf(ref, sizeof ref, "ref-%u", t->ref);
	(void)snprintf(reason, sizeof reason, "%u", number);
	head = (struct journal_ref){(uint16_t)strlen(ref), (uint16_t)strlen(reason)};
	memcpy(payload, &head, sizeof head);
	memcpy(payload + sizeof head, ref, head.ref_len);
	memcpy(payload + sizeof head + head.ref_len, reason, head.reason_len);
	storm_account_id(t->account, id);
	if (ledger_credit(p->ledger, account_find(p->region, id, strlen(id)), type, t->amount,
		payload, sizeof head + head.ref_len + head.reason_len, &c->h, &c->position) !=
	    LEDGER_OK) {
		c->h = NULL;
		return false;
	}
	c->t = t;
	count(type == JOURNAL_TOPUP ? OP_TOPUP : OP_ADJUST);
	return true;
}

static void
given(struct player *p, struct credit *c)
{
	int64_t value;
	enum ring_status status = ledger_close(p->ledger, c->h, c->position, &value);

	c->h = NULL;
	if (status != RING_APPLIED && !(status == RING_REPEATED && c->t->ref != 0)) {
		storm_fail("credit %ld: the keeper said %d", (long)(c->t - told->credit),
		    (int)status);
		return;
	}
	if (status == RING_REPEATED)
		count(OP_REPEATED);
	atomic_store(&c->t->value, value);
	atomic_store(&c->t->status, (uint8_t)status);
}

/* What is durable is in state.mdb once this is answered. */
static void
sync_now(struct player *p)
{
	struct journal_record r = {.type = JOURNAL_SYNC, .version = JOURNAL_VERSION,
	    .slot = JOURNAL_NONE, .account = JOURNAL_NONE, .price = JOURNAL_NONE};
	uint64_t sequence = atomic_load(&p->region->h->journal_seq);

	if (push_and_wait(p, &r, NULL, 0) < 0)
		return;
	count(OP_SYNC);
	if (atomic_load(&p->region->h->projected_seq) < sequence)
		storm_fail("a SYNC was answered, but the projection is at %llu, the journal was at "
		    "%llu", (unsigned long long)atomic_load(&p->region->h->projected_seq),
		    (unsigned long long)sequence);
}

int
player_admin(struct heritage *h, uint64_t seed)
{
	struct credit credit[CREDITS] = {0};
	struct player p;

	if (!start(&p, h, PROC_ADMIN, seed))
		return 1;
	make_accounts(&p);
	for (;;) {
		bool ending = atomic_load(&told->quiesce) != 0, busy = false, did = false;
		uint64_t durable = ring_durable(p.ring);

		for (int i = 0; i < CREDITS; i++) {
			if (credit[i].h != NULL && credit[i].position <= durable) {
				given(&p, &credit[i]);
				did = true;
			} else if (credit[i].h == NULL && !ending &&
			    storm_draw(&p.rng, 3) == 0)
				did |= give(&p, &credit[i]);
			busy |= credit[i].h != NULL;
		}
		ring_ack(p.ring, durable);
		if (atomic_load(&told->failed))
			return 1;
		if (ending && !busy)
			return 0;
		if (!busy && storm_draw(&p.rng, 200) == 0)
			sync_now(&p);
		if (did)
			wake_keeper(&p, false);
		rest(&p, durable);
	}
}

/* The invariant's guard: the floor, at every instant. */
void
player_checker(struct heritage *h)
{
	struct region *region = &h->region;

	while (!atomic_load(&told->failed)) {
		/* Acquire, pairs with the keeper's insert. */
		uint32_t n = atomic_load_explicit(&region->h->accounts, memory_order_acquire);

		for (uint32_t i = 0; i < n; i++) {
			struct account *a = account_at(region, i);
			struct account_books books;
			int64_t available = account_available(a);

			account_books(a, &books);
			if (atomic_load(&a->flags) != 0)
				storm_fail("account %u has flags %x: a record was refused", i,
				    atomic_load(&a->flags));
			if (STORM_ADJUSTED(i))
				continue;
			if (available < 0)
				storm_fail("account %u: available is %lld", i,
				    (long long)available);
			if (books.balance - books.held < -books.overdraft)
				storm_fail("account %u: balance %lld, held %lld, overdraft %lld: "
				    "below the floor", i, (long long)books.balance,
				    (long long)books.held, (long long)books.overdraft);
		}
		atomic_fetch_add(&told->looks, 1);
		(void)poll(NULL, 0, storm_draw(&(uint64_t){atomic_load(&told->looks)}, 8) == 0);
	}
}
