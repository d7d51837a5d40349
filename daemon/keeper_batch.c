/*
 * A batch of the keeper: take what the rings hold, judge it by the books, commit it, publish it,
 * wake who waits.  Keeper process.
 *
 * Order is everything here.  Books first (a record that contradicts them is not committed), then
 * the commit, then what others see: accounts and holds, then the ring's durable count, then the
 * wake-up.  If the commit fails the books are ahead of the disk, so the process ends; the one
 * that replaces it builds new books from what is durable.
 */
#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "daemon/compact.h"
#include "daemon/keeper.h"
#include "daemon/log.h"
#include "daemon/metrics.h"
#include "shm/account.h"
#include "shm/clock.h"
#include "shm/fault.h"
#include "shm/ledger.h"
#include "shm/purse.h"
#include "shm/ring.h"
#include "shm/wake.h"

#define SYNC_TAKEN UINT64_MAX /* keeper.sync_to: its batch is not committed yet */

/* Showing what is durable. */

/* Of a purse that nobody claims from yet. */
static void
show_used(struct purse *p, const struct books_used *spent)
{
	for (int i = 0; i < 2; i++)
		purse_set(p, spent->window[i], spent->used[i]);
}

/* Limits, budgets and flags; they lie beside the word that every reserve changes, so only when they did. */
static void
show_settings(const struct books_account *a, struct account *shown)
{
	/* Relaxed: a request that is quicker than this goes by the limits before. */
	atomic_store_explicit(&shown->requests_per_minute, a->requests_per_minute,
	    memory_order_relaxed);
	atomic_store_explicit(&shown->tokens_per_minute, a->tokens_per_minute,
	    memory_order_relaxed);
	atomic_store_explicit(&shown->concurrent_streams, a->concurrent_streams,
	    memory_order_relaxed);
	for (int i = 0; i < BUDGETS; i++)
		purse_set_cap(&shown->budget[i], a->budget[i].cap);
	/* Release, pairs with the ledger's acquire: who was told that the account is closed finds
	 * no reserve granted after that. */
	atomic_store_explicit(&shown->flags, a->flags, memory_order_release);
}

void
keeper_show_settings(struct keeper *k, uint32_t number)
{
	show_settings(books_account(k->books, number), account_at(k->region, number));
}

int
keeper_show_account(struct keeper *k, uint32_t number)
{
	const struct books_account *a = books_account(k->books, number);
	struct account_books books = {a->balance, a->held, a->overdraft};
	struct account *shown;
	const char *id;
	size_t len;

	/* Relaxed: our own count. */
	if (number < atomic_load_explicit(&k->region->h->accounts, memory_order_relaxed)) {
		account_publish(account_at(k->region, number), &books);
		return 0;
	}
	id = books_account_id(k->books, number, &len);
	shown = account_insert(k->region, id, len, &books, a->balance - a->held + a->overdraft);
	if (shown == NULL) {
		log_warn("account %.*s does not fit in the region", (int)len, id);
		return -1;
	}
	/* Nobody claims from its budgets before they are shown. */
	for (int i = 0; i < BUDGETS; i++)
		show_used(&shown->budget[i], &a->budget[i].spent);
	show_settings(a, shown);
	return 0;
}

static void
show_models(const struct keeper *k, const struct books_key *key, struct key_entry *entry)
{
	const char *text = books_key_text(k->books, key) + key->label_len, *name;
	struct books_models m = {text, text + key->models_len};
	size_t len;

	while (entry->models < KEY_MODELS_MAX && books_models_next(&m, &name, &len))
		entry->model[entry->models++] = key_model(name, len);
}

int
keeper_show_key(struct keeper *k, uint32_t index)
{
	const struct books_key *key = books_key(k->books, index);
	struct key_entry entry = {.key_id = key->key_id, .expires_us = key->expires_us,
	    .account = key->account, .scopes = key->scopes}, *shown;

	memcpy(entry.hash, key->hash, sizeof entry.hash);
	show_models(k, key, &entry);
	entry.purse.cap = key->cap;
	entry.purse.per = key->per;
	entry.requests_per_minute = key->requests_per_minute;
	entry.tokens_per_minute = key->tokens_per_minute;
	entry.concurrent_streams = key->concurrent_streams;
	show_used(&entry.purse, &key->spent);
	atomic_init(&entry.flags, key->flags);
	shown = key_insert(k->region, &entry);
	if (shown == NULL && errno == EEXIST)
		shown = key_find(k->region, entry.hash);
	if (shown == NULL) {
		log_warn("a key does not fit in the region");
		return -1;
	}
	/* Release: who was told that the key is revoked must not find it good after that. */
	atomic_store_explicit(&shown->flags, key->flags, memory_order_release);
	return 0;
}

void
keeper_show_hold(struct keeper *k, uint32_t slot, uint64_t op, uint8_t status)
{
	/* Release, before ring_publish's: the reaper sees the count, then this. */
	atomic_store_explicit(&hold_at(k->region, slot)->journaled, HOLD_WORD(op, status),
	    memory_order_release);
}

/* Committing. */

void
keeper_append(struct keeper *k, struct journal_record *r, const void *payload)
{
	uint64_t sequence;

	sequence = journal_append(k->journal, r, payload);
	/* Not to be entered although it was judged good: the books are broken. */
	if (books_apply(k->books, r, payload, sequence) < 0)
		fatalx("keeper: the books do not take record %llu of type %d",
		    (unsigned long long)sequence, r->type);
}

int
keeper_commit(struct keeper *k)
{
	uint64_t start = monotonic_us(), end;
	size_t records;

	compact_stage(k);
	keeper_history_stage(k);
	records = journal_staged(k->journal);
	if (journal_commit(k->journal, &k->rings) < 0)
		return -1;
	FAULT("keeper.committed");
	end = monotonic_us();
	k->committed_us = end;
	if (records > 0) {
		metrics_commit(end - start, records);
		if (k->unprojected_us == 0)
			k->unprojected_us = end;
	}
	journal_begin(k->journal);
	compact_committed(k);
	return 0;
}

static void
wake_proc(struct keeper *k, uint32_t proc)
{
	wake(k->region, proc, k->heritage->wake_fd[proc]);
	/* Relaxed, behind the full fence in wake, which pairs with the one in wake_prepare: the
	 * master sets it, prepares to sleep, looks at the ring.  One of us sees the other. */
	if (atomic_load_explicit(&region_proc(k->region, proc)->reaping, memory_order_relaxed))
		wake(k->region, PROC_MASTER, k->heritage->wake_fd[PROC_MASTER]);
}

void
keeper_publish_rings(struct keeper *k)
{
	uint64_t projected = state_progress(k->state)->streams;

	for (uint32_t p = PROC_ADMIN; p < k->region->h->procs; p++) {
		struct ring *ring = region_ring(k->region, p);

		if (k->sync_to[p] > projected)
			continue;
		k->sync_to[p] = 0;
		if (k->rings.position[p] == ring_durable(ring))
			continue;
		ring_publish(ring, k->rings.position[p]);
		FAULT("keeper.ring");
		wake_proc(k, p);
	}
}

/* The batch is on disk: make it visible, in the order in which it happened. */
/* Model: publish() in tests/model/keeper.pml. */
static int
publish(struct keeper *k)
{
	bool prices = false;

	for (size_t i = 0; i < k->count; i++) {
		const struct keeper_pending *p = &k->pending[i];

		if (p->account != JOURNAL_NONE && keeper_show_account(k, p->account) < 0)
			return -1;
		if (p->account != JOURNAL_NONE && p->type == JOURNAL_ACCOUNT_SET)
			keeper_show_settings(k, p->account);
		if (p->number >= 0 && p->type != JOURNAL_ACCOUNT &&
		    keeper_show_key(k, (uint32_t)p->number) < 0)
			return -1;
		if (p->type == JOURNAL_GONE && p->status == RING_APPLIED) {
			FAULT("keeper.forgotten");
			if (keeper_show_gone(k, (uint32_t)p->op) < 0)
				return -1;
		}
		if (p->slot != JOURNAL_NONE && p->type != JOURNAL_MARK)
			keeper_show_hold(k, p->slot, p->op, p->status);
		prices |= p->type == JOURNAL_PRICE_SET && p->status == RING_APPLIED;
	}
	if (prices && keeper_prices_show(k, false) < 0)
		return -1;
	FAULT("keeper.shown");
	/* Release, before the ring's: who sees its record durable sees a sequence not below it. */
	atomic_store_explicit(&k->region->h->journal_seq, journal_last(k->journal),
	    memory_order_release);
	atomic_store_explicit(&k->region->h->journal_ok, 1, memory_order_relaxed);
	metrics_accounts_frozen(books_frozen(k->books));
	k->count = 0;
	for (uint32_t p = PROC_ADMIN; p < k->region->h->procs; p++)
		if (k->sync_to[p] == SYNC_TAKEN)
			k->sync_to[p] = journal_last(k->journal);
	keeper_publish_rings(k);
	FAULT("keeper.published");
	return 0;
}

/* Says nothing of the disk: who waits for a record has to see that one durable. */
int
keeper_commit_own(struct keeper *k)
{
	if (keeper_commit(k) < 0)
		return -1;
	atomic_store_explicit(&k->region->h->journal_seq, journal_last(k->journal),
	    memory_order_release);
	return 0;
}

/* Taking records. */

/* Is the master finishing what it left? */
static bool
reaping(const struct keeper *k, uint32_t proc)
{
	/* Acquire: the master set it after waitpid, so the ring's owner writes no more. */
	return atomic_load_explicit(&region_proc(k->region, proc)->reaping,
	    memory_order_acquire) != 0;
}

/* Have a process killed. */
static void
mark_bad(struct keeper *k, uint32_t proc)
{
	struct proc_slot *slot = region_proc(k->region, proc);

	/* A dead one is not to be killed: the mark would meet its successor. */
	if (reaping(k, proc))
		return;
	atomic_store_explicit(&slot->bad, 1, memory_order_release);
	wake(k->region, PROC_MASTER, k->heritage->wake_fd[PROC_MASTER]);
}

/* Somebody writes in shared memory who should not. */
/* Model: distrust() in tests/model/keeper.pml. */
static void
distrust(struct keeper *k, uint32_t proc, const struct books_verdict *v,
    const struct journal_record *r)
{
	const char *id = "none";
	size_t len = 4;

	metrics_refused(r->type < JOURNAL_TYPES ? r->type : REFUSED_UNKNOWN);
	if (v->freeze != JOURNAL_NONE) {
		keeper_freeze(k, v->freeze, v->contradicts);
		id = books_account_id(k->books, v->freeze, &len);
	}
	log_warnx("forged record refused, process %u, type %u, slot %u, operation %llu: %s; "
	    "account %.*s is frozen", proc, r->type, r->slot, (unsigned long long)r->op,
	    v->contradicts, (int)len, id);
	mark_bad(k, proc);
}

/* The tables in the region must have room before the record is durable. */
static bool
has_room(struct keeper *k, const struct journal_record *r, const void *payload)
{
	bool keys = r->type == JOURNAL_KEY;
	bool accounts = r->type == JOURNAL_ACCOUNT || r->type == JOURNAL_SIGHT;
	bool refs = books_makes_ref(r, payload);

	if (refs && !keeper_refs_room(k, r)) {
		metrics_table_full(TABLE_REFS);
		return false;
	}
	if (refs)
		keeper_refs_note(k, r);
	if (r->type == JOURNAL_PRICE_SET && !keeper_prices_room(k, r, payload)) {
		metrics_table_full(TABLE_PRICES);
		return false;
	}
	if (!accounts && !keys)
		return true;
	if ((keys ? region_grow_keys(k->region, books_keys(k->books) + 1)
		  : region_grow_accounts(k->region, books_accounts(k->books) + 1)) == 0)
		return true;
	metrics_table_full(keys ? TABLE_KEYS : TABLE_ACCOUNTS);
	return false;
}

/* May its key make one more?  Then how the account begins: no worker has a say in that. */
static bool
begin_sight(struct keeper *k, struct journal_record *r, const void *payload)
{
	const struct config *c = k->heritage->config;
	const char *id;
	size_t len;
	uint32_t key = books_sight_of(k->books, r, payload, &id, &len);

	if (books_key(k->books, key)->sighted >= c->first_sight.max_accounts)
		return false;
	r->amount = c->first_sight.grant;
	r->extra = c->first_sight.overdraft;
	return true;
}

/*
 * The end of a hold was refused: end it ourselves at its last mark.  Left open, its slot would
 * contradict whatever its next owner does.  The same if the reaper names no next operation of the
 * slot: its state was written over.  Then the reaper goes on from ours.
 */
static void
end_refused(struct keeper *k, const struct books_input *in, bool next, struct keeper_pending *p)
{
	const struct journal_record *r = in->record;
	const struct books_hold *h = books_hold(k->books, r->slot);
	struct journal_split split;
	struct journal_record end;

	if ((r->type != JOURNAL_SETTLE && r->type != JOURNAL_VOID) || h == NULL || !h->open)
		return;
	if (!next) {
		if (r->slot < in->slot_first || r->slot - in->slot_first >= in->slot_count ||
		    !reaping(k, r->proc))
			return;
		p->slot = r->slot;
		p->op = (h->op > h->answered_op ? h->op : h->answered_op) + 1;
	}
	books_end_record(k->books, r->slot, p->op, keeper_realtime_us(), &end, &split);
	end.proc = PROC_KEEPER;
	p->account = end.account;
	keeper_append(k, &end, &split);
}

/* Judge one record and enter it; `p` says what is to be shown once it is on disk. */
static void
take(struct keeper *k, uint32_t proc, struct journal_record *r, const void *payload,
    struct keeper_pending *p, struct ring_entry *e)
{
	struct books_input in = {
	    .record = r,
	    .payload = payload,
	    .types = (proc == PROC_ADMIN ? BOOKS_FROM_ADMIN : BOOKS_FROM_WORKER) |
		(reaping(k, proc) ? BOOKS_FROM_REAPER : 0),
	    .slot_first = hold_first(k->region, proc),
	    .slot_count = k->region->h->holds_per_proc,
	};
	struct books_verdict v;
	bool next = books_next(k->books, &in);

	r->proc = (uint8_t)proc;
	/* Nothing has happened later than now: a row with such a time would never expire. */
	if (r->time_us > k->batch_us)
		r->time_us = k->batch_us;
	*p = (struct keeper_pending){.op = r->op, .number = -1, .account = JOURNAL_NONE,
	    .type = r->type, .slot = next ? r->slot : JOURNAL_NONE};
	books_check(k->books, &in, &v);
	if (v.store && r->type == JOURNAL_SIGHT && !begin_sight(k, r, payload)) {
		v.store = false;
		v.status = RING_BOUND;
	}
	if (v.store && !has_room(k, r, payload)) {
		v.store = false;
		v.status = RING_NOSPACE;
	}
	if (v.store) {
		if (r->type == JOURNAL_ACCOUNT || r->type == JOURNAL_KEY_REVOKE ||
		    r->type == JOURNAL_SIGHT)
			r->account = (uint32_t)v.value;
		keeper_append(k, r, payload);
		/* In the same commit as the price that it brings about. */
		if (r->type == JOURNAL_PRICE_SET && keeper_prices_enter(k) < 0)
			fatalx("keeper: the prices do not fit");
		if (r->type != JOURNAL_KEY && r->type != JOURNAL_KEY_REVOKE)
			p->account = r->account;
		else
			p->number = r->type == JOURNAL_KEY
			    ? (int64_t)books_keys(k->books) - 1
			    : (int64_t)books_key_find(k->books, (uint64_t)r->extra);
	} else if (v.contradicts != NULL) {
		distrust(k, proc, &v, r);
		end_refused(k, &in, next, p);
	}
	if (!v.store && next)
		books_answer(k->books, r->slot, r->op, r->type, v.status, v.value);
	if (r->type == JOURNAL_SYNC)
		k->sync_to[proc] = SYNC_TAKEN;
	if (r->type == JOURNAL_GONE && v.status == RING_APPLIED) {
		keeper_end_gone(k, proc);
		FAULT("keeper.gone");
		p->op = proc;
	}
	if (r->type == JOURNAL_COMPACT && v.status == RING_APPLIED)
		v.status = compact_ask(k, r->extra, &v.value);
	p->status = (uint8_t)v.status;
	e->value = v.value;
	e->first = v.first;
}

/*
 * The owner of a forged ring is dead, and the reaper only looks until all is durable: make it a
 * ring again that holds nothing but what was taken.  What else was published is as if its owner
 * had been killed before the push; nothing of it was acknowledged.  (Between two batches what was
 * taken is what is committed.)
 */
static void
mend_ring(struct keeper *k, uint32_t proc, struct ring *ring)
{
	const struct region_dims *d = &k->region->h->dims;

	ring_mend(ring, d->ring_records, d->ring_arena, k->rings.position[proc]);
	k->distrusted[proc] = false;
	k->looked[proc] = k->rings.position[proc];
	log_warnx("the ring of process %u is mended", proc);
	wake(k->region, PROC_MASTER, k->heritage->wake_fd[PROC_MASTER]);
}

/* Is the ring still what it was made as?  Its owner can write all over it. */
static bool
ring_sound(struct keeper *k, uint32_t proc, struct ring *ring)
{
	const struct region_dims *d = &k->region->h->dims;

	if (!k->distrusted[proc] &&
	    !ring_wrong(ring, d->ring_records, d->ring_arena, k->rings.position[proc]))
		return true;
	if (reaping(k, proc)) {
		mend_ring(k, proc, ring);
		return true;
	}
	if (k->distrusted[proc])
		return false;
	log_warnx("the ring of process %u is forged", proc);
	metrics_refused(REFUSED_RING);
	k->distrusted[proc] = true;
	mark_bad(k, proc);
	return false;
}

/* Take what one process has published, as far as the batch has room. */
static void
drain_ring(struct keeper *k, uint32_t proc, size_t *bytes)
{
	struct ring *ring = region_ring(k->region, proc);
	struct ring_entry *e;

	/* It becomes durable in order: what comes after a SYNC waits with it. */
	if (k->sync_to[proc] != 0 || !ring_sound(k, proc, ring))
		return;
	while (k->count < KEEPER_BATCH_RECORDS && *bytes < KEEPER_BATCH_BYTES &&
	    (e = ring_peek(ring, k->rings.position[proc] + 1)) != NULL) {
		/* One copy, judged and stored: its owner may change the original meanwhile. */
		struct ring_entry copy = *e;
		struct keeper_pending *p = &k->pending[k->count++];

		if (copy.record.payload_len > ring->arena_len) {
			copy.record.payload_len = 0;
			copy.record.version = 0; /* refused as such */
		}
		k->payload.len = 0;
		if (buf_reserve(&k->payload, copy.record.payload_len + 1) == NULL)
			fatal("keeper: payload");
		ring_payload(ring, &copy, k->payload.data);
		take(k, proc, &copy.record, k->payload.data, p, e);
		e->status = p->status;
		k->rings.position[proc]++;
		*bytes += sizeof copy + copy.record.payload_len;
	}
}

/* Does somebody wait for a record that this ring holds?  Each record is looked at once. */
static bool
ring_due(struct keeper *k, uint32_t proc)
{
	struct ring *ring = region_ring(k->region, proc);
	uint64_t head = ring_head(ring), from = k->rings.position[proc];
	const struct region_dims *d = &k->region->h->dims;

	if (k->sync_to[proc] != 0)
		return false;
	/* It may have to be mended: whoever reaps its owner waits for that. */
	if (k->distrusted[proc])
		return reaping(k, proc);
	if (head == from)
		return false;
	/* Not too many at once, and nothing that needs a closer look (it may be forged). */
	if (head - from >= d->ring_records / 4 || ring->records != d->ring_records)
		return true;
	if (k->looked[proc] < from)
		k->looked[proc] = from;
	while (k->looked[proc] < head) {
		uint8_t type = ring_peek(ring, ++k->looked[proc])->record.type;

		if (type != JOURNAL_EXTEND && type != JOURNAL_MARK)
			return true;
	}
	return false;
}

bool
keeper_due(struct keeper *k)
{
	/* Acquire: with it we see the records that it is about. */
	if (atomic_exchange_explicit(&k->region->h->hurry, 0, memory_order_acquire) != 0)
		k->due = true;
	for (uint32_t p = PROC_ADMIN; p < k->region->h->procs && !k->due; p++)
		k->due = ring_due(k, p);
	return k->due || k->stop;
}

size_t
keeper_waiting(const struct keeper *k)
{
	size_t n = 0;

	for (uint32_t p = PROC_ADMIN; p < k->region->h->procs; p++)
		if (k->sync_to[p] == 0)
			n += (size_t)(ring_head(region_ring(k->region, p)) -
			    k->rings.position[p]);
	return n;
}

/* Model: Keeper() in tests/model/keeper.pml. */
int
keeper_batch(struct keeper *k)
{
	uint32_t rings = k->region->h->procs - PROC_ADMIN;
	size_t bytes = 0;

	k->due = false;
	k->batch_us = keeper_realtime_us();
	/* A full batch begins with another ring next time, so that none waits for ever. */
	k->first = (k->first + 1) % rings;
	for (uint32_t i = 0; i < rings; i++)
		drain_ring(k, PROC_ADMIN + (k->first + i) % rings, &bytes);
	k->batch_records = k->count;
	if (k->count == 0)
		return 0;
	FAULT("keeper.judged");
	/* Also when nothing is to be stored: the ring positions are. */
	if (keeper_commit(k) < 0 || publish(k) < 0)
		return -1;
	return 1;
}
