/*
 * How a keeper begins.  Runs in the keeper, before it takes its first record.
 *
 * Three situations, told apart by the region:
 *   not filled           a new region (first start, reboot, clean restart): what is open in the
 *                        journal ended with the power; it is closed at its last mark
 *   filled, by us        the keeper died, or the whole daemon did and left its region: holds
 *                        live in the region and their owners (or the reaper) end them; we only
 *                        say again what is durable
 *   filled, by another   the region and the journal do not belong together: refuse
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/checkpoint.h"
#include "daemon/keeper.h"
#include "daemon/log.h"
#include "daemon/metrics.h"
#include "shm/account.h"
#include "shm/clock.h"
#include "shm/fault.h"
#include "shm/ledger.h"
#include "shm/ring.h"
#include "shm/wake.h"

#define CHECKPOINT_PIECES 1024
#define TELL_US UINT64_C(1000000)
#define TELL_RECORDS 4096 /* between two looks at the clock */

/* Something that takes long with many accounts: a line a second says how far it is. */
struct loading {
	const char *what;
	uint64_t due_us;
};

static struct loading
loading_begin(const char *what)
{
	return (struct loading){what, monotonic_us() + TELL_US};
}

/* Of 0: nobody knows. */
static void
loading_tell(void *arg, uint64_t done, uint64_t of)
{
	struct loading *l = arg;
	uint64_t now_us = monotonic_us();
	char done_text[24], of_text[24];

	if (now_us < l->due_us)
		return;
	l->due_us = now_us + TELL_US;
	(void)snprintf(done_text, sizeof done_text, "%llu", (unsigned long long)done);
	(void)snprintf(of_text, sizeof of_text, "%llu", (unsigned long long)of);
	log_event(LOG_INFO, "loading", "what", l->what, "done", done_text, "of",
	    of > 0 ? of_text : NULL, NULL);
}

/* Play what the journal has after the rows. */
static int
replay(struct keeper *k, uint64_t *records)
{
	uint64_t applied = state_progress(k->state)->applied;
	uint64_t base = journal_base(k->journal)->sequence;
	uint64_t from = (applied > base ? applied : base) + 1;
	struct journal_cursor *c = journal_cursor_new(journal_reader(k->journal), from);
	struct loading loading = loading_begin("records to replay");
	struct journal_entry e;
	int more;

	*records = 0;
	if (c == NULL)
		return -1;
	while ((more = journal_cursor_next(c, &e)) > 0) {
		if (e.sequence != from + *records || e.payload_len != e.record.payload_len ||
		    books_apply(k->books, &e.record, e.payload, e.sequence) < 0) {
			log_warnx("journal.mdb is damaged: record %llu does not fit; "
			    "see tollctl audit", (unsigned long long)e.sequence);
			more = -1;
			errno = 0;
			break;
		}
		if (++*records % TELL_RECORDS == 0)
			loading_tell(&loading, *records, journal_last(k->journal) - from + 1);
	}
	journal_cursor_free(c);
	return more;
}

/* Empty books; state.mdb's rows are loaded next, or the journal's checkpoint. */
static int
open_rows(struct keeper *k)
{
	const char *why;

	k->state = state_open(k->heritage->config->state_dir, 0, &why);
	if (k->state == NULL) {
		log_warnx("state.mdb: %s", why);
		return -1;
	}
	k->books = books_new();
	return 0;
}

static void
close_rows(struct keeper *k)
{
	books_free(k->books);
	k->books = NULL;
	state_close(k->state);
	k->state = NULL;
	state_remove(k->heritage->config->state_dir);
}

/* What the journal begins with, into empty books. */
static int
load_checkpoint(struct keeper *k)
{
	struct journal_cursor *c = journal_cursor_new(journal_reader(k->journal), 1);
	struct loading loading = loading_begin("accounts of the checkpoint");
	struct checkpoint_load *load;
	const char *why;
	int more;

	if (c == NULL)
		return -1;
	if ((load = checkpoint_load_new(c, k->books)) == NULL)
		fatal("keeper: checkpoint");
	while ((more = checkpoint_load_step(load, CHECKPOINT_PIECES, &why)) > 0)
		loading_tell(&loading, books_accounts(k->books), 0);
	checkpoint_load_free(load);
	journal_cursor_free(c);
	if (more < 0) {
		log_warnx("journal.mdb is damaged: the checkpoint of record %llu: %s",
		    (unsigned long long)journal_base(k->journal)->sequence, why);
		errno = 0;
		return -1;
	}
	/* None of its rows is in state.mdb, which is empty. */
	books_changes_all(k->books);
	return 0;
}

/*
 * state.mdb's rows; it is thrown away if it can't be of this journal, or is further back than the
 * journal begins.  Then the checkpoint is what there is, if there is one.
 */
static int
load_rows(struct keeper *k)
{
	struct loading loading = loading_begin("rows of state.mdb");
	uint64_t applied;

	if (open_rows(k) < 0)
		return -1;
	applied = state_progress(k->state)->applied;
	if (applied > journal_last(k->journal) ||
	    (applied != 0 && applied < journal_base(k->journal)->sequence) ||
	    state_load(k->state, k->books, loading_tell, &loading) < 0) {
		log_warnx("state.mdb does not belong to the journal; it is rebuilt");
		close_rows(k);
		if (open_rows(k) < 0)
			return -1;
		if (state_progress(k->state)->applied != 0)
			fatalx("state.mdb can be neither read nor rebuilt");
	}
	if (state_progress(k->state)->applied < journal_base(k->journal)->sequence)
		return load_checkpoint(k);
	return 0;
}

int
recover_books(struct keeper *k)
{
	char records[24], accounts[24];
	uint64_t n;

	if (load_rows(k) < 0 || replay(k, &n) < 0 || keeper_project_begin(k) < 0)
		return -1;
	FAULT("recover.books");
	(void)snprintf(records, sizeof records, "%llu", (unsigned long long)n);
	(void)snprintf(accounts, sizeof accounts, "%u", books_accounts(k->books));
	log_event(LOG_INFO, "books loaded", "accounts", accounts, "replayed", records, NULL);
	return 0;
}

/* After a power cut: whatever is open ends at its last mark. */
static int
close_holds(struct keeper *k)
{
	uint64_t now = keeper_realtime_us();
	uint32_t settled = 0, voided = 0;

	for (uint32_t slot = 0; slot < books_slots(k->books); slot++) {
		const struct books_hold *h = books_hold(k->books, slot);
		struct journal_split split;
		struct journal_record r;

		if (!h->open)
			continue;
		books_end_record(k->books, slot, h->op + 1, now, &r, &split);
		r.proc = PROC_KEEPER;
		keeper_append(k, &r, &split);
		r.type == JOURNAL_VOID ? voided++ : settled++;
		if (journal_staged(k->journal) >= KEEPER_BATCH_RECORDS && keeper_commit(k) < 0)
			return -1;
	}
	if (settled + voided > 0)
		log_info("%u holds settled at their last mark, %u voided", settled, voided);
	return 0;
}

/* Not the disk's fault if it fails. */
static int
enter_prices(struct keeper *k)
{
	errno = 0;
	return keeper_prices_enter(k);
}

static int
show_tables(struct keeper *k)
{
	struct loading loading = loading_begin("accounts into shared memory");

	errno = 0;
	if (keeper_prices_show(k, true) < 0)
		return -1;
	for (uint32_t i = 0; i < books_accounts(k->books); i++) {
		if (keeper_show_account(k, i) < 0)
			return -1;
		keeper_show_settings(k, i);
		if (i % TELL_RECORDS == TELL_RECORDS - 1)
			loading_tell(&loading, i + 1, books_accounts(k->books));
	}
	for (uint32_t i = 0; i < books_keys(k->books); i++)
		if (keeper_show_key(k, i) < 0)
			return -1;
	return 0;
}

/* Do the ring positions in the journal belong to this region? */
static int
check_rings(struct keeper *k, bool filled)
{
	struct region_header *h = k->region->h;

	if (k->rings.epoch != h->epoch) {
		if (filled) {
			log_warnx("the region in %s belongs to another journal than the one in %s",
			    k->heritage->config->runtime_dir, k->heritage->config->state_dir);
			return -1;
		}
		memset(&k->rings, 0, sizeof k->rings);
		k->rings.epoch = h->epoch;
		return 0;
	}
	for (uint32_t p = PROC_ADMIN; p < h->procs; p++) {
		const struct ring *ring = region_ring(k->region, p);

		/* An older copy of the journal was put back under a region that has gone on. */
		if (k->rings.position[p] < ring_durable(ring)) {
			log_warnx("the journal in %s is older than the region in %s",
			    k->heritage->config->state_dir, k->heritage->config->runtime_dir);
			return -1;
		}
	}
	return 0;
}

/* What slots were told, as far as the region still knows it better than the journal. */
static void
resume_holds(struct keeper *k)
{
	for (uint32_t slot = 0; slot < hold_count(k->region); slot++) {
		const struct books_hold *h = books_hold(k->books, slot);
		/* Relaxed: written by a keeper that is dead. */
		uint64_t word = atomic_load_explicit(&hold_at(k->region, slot)->journaled,
		    memory_order_relaxed);

		uint64_t op = h == NULL ? 0 : h->op;

		/* Further on than it can be: somebody wrote there. */
		if (HOLD_SEQ(word) < op || HOLD_SEQ(word) - op > HOLD_SEQ_STEP)
			keeper_show_hold(k, slot, op, RING_APPLIED);
		else if (HOLD_SEQ(word) > op || (word & 0xff) > RING_APPLIED)
			books_answer(k->books, slot, HOLD_SEQ(word), 0,
			    (enum ring_status)(word & 0xff), 0);
	}
}

/*
 * Records that the last keeper committed and did not get to publish.  Their results stand in the
 * entries, written before the commit; their producers could not overwrite them yet.
 */
/* Model: resume() in tests/model/keeper.pml. */
static int
resume_ring(struct keeper *k, uint32_t proc)
{
	struct ring *ring = region_ring(k->region, proc);
	uint64_t position = ring_durable(ring);
	const struct region_dims *d = &k->region->h->dims;
	const struct ring_entry *e;
	bool sync = false;

	/* Its entries cannot be found; the first batch says so. */
	if (ring->records != d->ring_records)
		return 0;

	while (position < k->rings.position[proc] && (e = ring_peek(ring, ++position)) != NULL) {
		const struct journal_record *r = &e->record;
		uint32_t slot = r->slot, status = e->status;

		sync |= r->type == JOURNAL_SYNC;
		if (!books_has_slot(r->type) || r->type == JOURNAL_MARK ||
		    slot >= hold_count(k->region) || hold_proc(k->region, slot) != proc)
			continue;
		keeper_show_hold(k, slot, r->op, (uint8_t)status);
		if (status != RING_APPLIED)
			books_answer(k->books, slot, r->op, r->type, (enum ring_status)status,
			    e->value);
	}
	/* A SYNC whose position was committed is answered by this, so not before its work is done. */
	if (sync && keeper_project_all(k) < 0)
		return -1;
	ring_publish(ring, k->rings.position[proc]);
	FAULT("recover.ring");
	wake(k->region, proc, k->heritage->wake_fd[proc]);
	return 0;
}

static int
resume(struct keeper *k)
{
	struct region_header *h = k->region->h;

	/* Always a commit, be it of nothing: it shows that the disk takes one. */
	if (enter_prices(k) < 0 || keeper_commit(k) < 0)
		return -1;
	FAULT("recover.committed");
	if (show_tables(k) < 0)
		return -1;
	FAULT("recover.shown");
	resume_holds(k);
	/* Release, before the rings': who sees its record durable sees a sequence not below it. */
	atomic_store_explicit(&h->journal_seq, journal_last(k->journal), memory_order_release);
	for (uint32_t p = PROC_ADMIN; p < h->procs; p++)
		if (resume_ring(k, p) < 0)
			return -1;
	return 0;
}

/* Model: fill() in tests/model/keeper.pml. */
static int
fill(struct keeper *k)
{
	if (close_holds(k) < 0)
		return -1;
	FAULT("recover.closing");
	/* All of it durable, and the epoch with it, before anyone may take a hold. */
	if (enter_prices(k) < 0 || keeper_commit(k) < 0 || show_tables(k) < 0)
		return -1;
	FAULT("recover.closed");
	for (uint32_t slot = 0;
	     slot < books_slots(k->books) && slot < hold_count(k->region); slot++)
		hold_resume(k->region, slot, books_hold(k->books, slot)->op);
	return 0;
}

int
recover_region(struct keeper *k)
{
	struct region_header *h = k->region->h;
	/* Acquire, pairs with the release below by a keeper before us. */
	bool filled = atomic_load_explicit(&h->filled, memory_order_acquire) != 0;

	k->rings = *journal_rings(k->journal);
	metrics_accounts_frozen(books_frozen(k->books));
	errno = 0;
	if (check_rings(k, filled) < 0 || (filled ? resume(k) : fill(k)) < 0)
		return -1;
	atomic_store_explicit(&h->journal_seq, journal_last(k->journal), memory_order_relaxed);
	atomic_store_explicit(&h->projected_seq, state_progress(k->state)->streams,
	    memory_order_relaxed);
	atomic_store_explicit(&h->compaction.first_seq, journal_base(k->journal)->sequence + 1,
	    memory_order_relaxed);
	/* Release, pairs with the acquire of those who wait for it: the tables are there. */
	FAULT("recover.filling");
	atomic_store_explicit(&h->filled, REGION_FILLED, memory_order_release);
	FAULT("recover.filled");
	/* It waits for the tables at the start, and with a reaping for a keeper that died. */
	wake(k->region, PROC_MASTER, k->heritage->wake_fd[PROC_MASTER]);
	return 0;
}
