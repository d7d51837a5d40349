/*
 * The storm's admin: accounts, top-ups and adjustments, with refs and without.  It tells as the
 * worker does (player_worker.c).
 */
#include <stdio.h>
#include <string.h>

#include "shm/ring.h"
#include "tests/storm/player_operator.h"

#define CREDITS 6

struct credit {
	struct hold *h;
	struct told_credit *t;
	uint64_t position;
};

static bool
give(struct player *p, struct credit *c)
{
	uint32_t number = atomic_fetch_add(&told->credits, 1), first;
	char payload[64], ref[16], reason[16];
	struct account *a;
	struct journal_ref head;
	enum journal_type type = JOURNAL_TOPUP;
	struct told_credit *t;

	if (number >= STORM_CREDITS_MAX) {
		storm_fail("too many credits for this program's table");
		return false;
	}
	t = &told->credit[number];
	t->account = atomic_load(&told->active[storm_draw(&p->rng, STORM_ACCOUNTS)]);
	t->amount = 1 + storm_draw(&p->rng, 1200);
	ref[0] = '\0';
	switch (storm_draw(&p->rng, 6)) {
	case 0: /* a ref of before, if there is one: the amount may be another */
		first = number - 1 - storm_draw(&p->rng, 40);
		if (first < number && first >= atomic_load(&told->credits_from) &&
		    told->credit[first].ref == first + 1) {
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
	if ((a = player_account(p, t->account)) == NULL ||
	    ledger_credit(p->ledger, a, type, t->amount, payload, sizeof head + head.ref_len + head.reason_len,
		&c->h, &c->position) != LEDGER_OK) {
		c->h = NULL;
		return false;
	}
	c->t = t;
	told_count(type == JOURNAL_TOPUP ? OP_TOPUP : OP_ADJUST);
	return true;
}

static void
given(struct player *p, struct credit *c)
{
	int64_t value;
	enum ring_status status = ledger_close(p->ledger, c->h, c->position, &value);

	c->h = NULL;
	if (status == RING_CLOSED && atomic_load(&told->account[c->t->account].closing))
		return;
	if (status != RING_APPLIED && !(status == RING_REPEATED && c->t->ref != 0)) {
		storm_fail("credit %ld: the keeper said %d", (long)(c->t - told->credit),
		    (int)status);
		return;
	}
	if (status == RING_REPEATED)
		told_count(OP_REPEATED);
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

	if (player_push_and_wait(p, &r, NULL, 0) < 0)
		return;
	told_count(OP_SYNC);
	if (atomic_load(&p->region->h->projected_seq) < sequence)
		storm_fail("a SYNC was answered, but the projection is at %llu, the journal was at "
		    "%llu", (unsigned long long)atomic_load(&p->region->h->projected_seq),
		    (unsigned long long)sequence);
}

/* What was examined already is not needed any more.  It goes on beside the rest, and whoever dies. */
static void
compact(struct player *p)
{
	struct journal_record r = {.type = JOURNAL_COMPACT, .version = JOURNAL_VERSION,
	    .slot = JOURNAL_NONE, .account = JOURNAL_NONE, .price = JOURNAL_NONE,
	    .extra = (int64_t)atomic_load(&told->walked_us)};

	if (r.extra != 0 && player_push_and_wait(p, &r, NULL, 0) == 0)
		told_count(OP_COMPACT);
}

int
player_admin(struct heritage *h, uint64_t seed)
{
	struct credit credit[CREDITS] = {0};
	struct operator o = {0};
	struct player p;

	if (!player_start(&p, h, PROC_ADMIN, seed))
		return 1;
	operator_accounts(&p);
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
		did |= operator_step(&p, &o, durable, ending);
		busy |= o.h != NULL;
		ring_ack(p.ring, durable);
		if (atomic_load(&told->failed))
			return 1;
		if (ending && !busy)
			return 0;
		if (!busy && storm_draw(&p.rng, 200) == 0)
			sync_now(&p);
		if (!ending && storm_draw(&p.rng, 200) == 0)
			compact(&p);
		if (!busy && !ending && storm_draw(&p.rng, 8) == 0)
			operator_alone(&p);
		if (did)
			player_wake_keeper(&p, false);
		player_rest(&p, durable);
	}
}
