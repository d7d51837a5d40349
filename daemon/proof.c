/*
 * The journal played once more into books of its own.
 *
 * The judge is books_check, the keeper's own.  That is enough, since what is compared in the end
 * was computed by nobody's code but the journal's arithmetic; and the chain finds what changed
 * in the file and is still plausible.
 */
#include "daemon/proof.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct proof {
	struct journal_reader *journal;
	struct journal_cursor *cursor;
	struct checkpoint_load *load;
	struct books *books;
	struct journal_chain *chain;
	struct journal_base base;
	uint8_t link[JOURNAL_LINK_LEN];
	struct journal_batch batch; /* the one under way, up to batch_last */
	uint64_t batch_last;
	uint64_t sequence; /* last record entered */
	uint64_t expect;   /* proof_expect's; 0: none, or it was met */
	uint8_t expected[JOURNAL_LINK_LEN];
	char difference[256];
};

__attribute__((format(printf, 2, 3))) static enum proof_step
differs(struct proof *p, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(p->difference, sizeof p->difference, fmt, ap);
	va_end(ap);
	return PROOF_DIFFERS;
}

struct proof *
proof_new(struct journal_reader *journal)
{
	struct proof *p = calloc(1, sizeof *p);

	if (p == NULL)
		return NULL;
	p->journal = journal;
	p->books = books_new();
	/* Where the records begin is known only with the snapshot. */
	if ((p->chain = journal_chain_new()) == NULL ||
	    (p->cursor = journal_cursor_new(journal, 0)) == NULL ||
	    (p->load = checkpoint_load_new(p->cursor, p->books)) == NULL) {
		proof_free(p);
		return NULL;
	}
	p->base = *journal_cursor_base(p->cursor);
	memcpy(p->link, p->base.link, sizeof p->link);
	p->sequence = p->batch_last = p->base.sequence;
	if (p->sequence > 0)
		journal_cursor_from(p->cursor, p->sequence + 1);
	return p;
}

void
proof_free(struct proof *p)
{
	if (p == NULL)
		return;
	checkpoint_load_free(p->load);
	journal_cursor_free(p->cursor);
	journal_chain_free(p->chain);
	books_free(p->books);
	free(p);
}

void
proof_expect(struct proof *p, uint64_t sequence, const uint8_t link[static JOURNAL_LINK_LEN])
{
	p->expect = sequence;
	memcpy(p->expected, link, sizeof p->expected);
}

/* Is this the record that something is expected after? */
static enum proof_step
meet(struct proof *p, uint64_t sequence, const uint8_t link[static JOURNAL_LINK_LEN])
{
	if (p->expect != sequence)
		return PROOF_MORE;
	p->expect = 0;
	if (memcmp(p->expected, link, sizeof p->expected) != 0)
		return differs(p,
		    "record %llu: the link after it is not the one that was written "
		    "down: the journal up to there is another one",
		    (unsigned long long)sequence);
	return PROOF_MORE;
}

/* The same for what is left of the past. */
static enum proof_step
meet_past(struct proof *p)
{
	const struct checkpoint_pasts *all = checkpoint_load_pasts(p->load);
	enum proof_step step = PROOF_MORE;

	if (p->expect == 0 || p->expect > p->base.sequence)
		return PROOF_MORE;
	for (uint32_t i = 0; i < all->count && step == PROOF_MORE; i++)
		step = meet(p, all->past[i].sequence, all->past[i].link);
	if (step == PROOF_MORE)
		step = meet(p, p->base.sequence, p->base.link);
	if (step == PROOF_MORE && p->expect != 0)
		return differs(p,
		    "record %llu: it was compacted, the journal begins after %llu; "
		    "a backup that has both can be held against it",
		    (unsigned long long)p->expect, (unsigned long long)p->base.sequence);
	return step;
}

enum proof_step
proof_load(struct proof *p, uint32_t max_pieces)
{
	const char *why;
	int more = checkpoint_load_step(p->load, max_pieces, &why);

	if (more < 0)
		return differs(p, "the checkpoint of record %llu: %s",
		    (unsigned long long)p->base.sequence, why);
	if (more > 0)
		return PROOF_MORE;
	return meet_past(p) == PROOF_DIFFERS ? PROOF_DIFFERS : PROOF_END;
}

bool
proof_whole(const struct proof *p)
{
	return p->sequence == p->batch_last;
}

int
proof_renew(struct proof *p)
{
	/* The old one first: a map that has grown is taken over only while there is none. */
	journal_cursor_free(p->cursor);
	p->cursor = journal_cursor_new(p->journal, p->sequence + 1);
	return p->cursor == NULL ? -1 : 0;
}

/* A new batch begins with the record after `sequence`. */
static enum proof_step
next_batch(struct proof *p)
{
	int more = journal_cursor_batch(p->cursor, &p->batch_last, &p->batch);

	if (more == 1 && p->batch.first == p->sequence + 1 && p->batch_last >= p->batch.first) {
		journal_chain_begin(p->chain, p->link);
		return PROOF_MORE;
	}
	if (more == 1)
		return differs(p, "batch %llu-%llu: it says that it begins with record %llu",
		    (unsigned long long)p->sequence + 1, (unsigned long long)p->batch_last,
		    (unsigned long long)p->batch.first);
	return differs(p, "record %llu: it is in no batch", (unsigned long long)p->sequence + 1);
}

/* The batch under way has ended: does its link say what was in it? */
static enum proof_step
check_link(struct proof *p)
{
	journal_chain_end(p->chain, p->link);
	if (memcmp(p->link, p->batch.link, sizeof p->link) != 0)
		return differs(p,
		    "batch %llu-%llu: the chain is broken (a record, a payload or "
		    "the link was changed)",
		    (unsigned long long)p->batch.first, (unsigned long long)p->batch_last);
	return meet(p, p->sequence, p->link);
}

/* Was a checkpoint taken away, or an older one put in its place? */
static enum proof_step
check_checkpoint(struct proof *p, const struct journal_entry *e)
{
	struct journal_checkpoint bound;

	memcpy(&bound, e->payload, sizeof bound); /* of that length: books_check */
	if (bound.sequence > p->base.sequence)
		return differs(p, "record %llu: the checkpoint of record %llu is missing",
		    (unsigned long long)e->sequence, (unsigned long long)bound.sequence);
	return PROOF_MORE;
}

/* Judge and enter one record. */
static enum proof_step
check_record(struct proof *p, const struct journal_entry *e)
{
	struct books_input in = {.record = &e->record,
	    .payload = e->payload,
	    .types = BOOKS_FROM_JOURNAL,
	    .slot_first = 0,
	    .slot_count = BOOKS_SLOTS_MAX};
	unsigned long long n = e->sequence;
	struct books_verdict v;

	if (e->payload_len != e->record.payload_len)
		return differs(p, "record %llu: its payload has %zu bytes instead of %u", n,
		    e->payload_len, e->record.payload_len);
	books_check(p->books, &in, &v);
	if (!v.store)
		return differs(p, "record %llu: %s", n,
		    v.contradicts != NULL       ? v.contradicts
		    : v.status == RING_REPEATED ? "its ref is there already"
		    : v.status == RING_RANGE    ? "its sum is out of range"
		                                : "it should not have been stored");
	if ((e->record.type == JOURNAL_ACCOUNT || e->record.type == JOURNAL_SIGHT) &&
	    e->record.account != v.value)
		return differs(
		    p, "record %llu: the account's number should be %lld", n, (long long)v.value);
	if (e->record.type == JOURNAL_CHECKPOINT && check_checkpoint(p, e) == PROOF_DIFFERS)
		return PROOF_DIFFERS;
	if (books_apply(p->books, &e->record, e->payload, e->sequence) < 0)
		return differs(p, "record %llu: it does not fit in the books", n);
	return PROOF_MORE;
}

/* The snapshot has no more records: is anything left over? */
static enum proof_step
check_rest(struct proof *p)
{
	struct journal_batch batch;
	uint64_t last;
	size_t orphans;

	if (p->sequence != p->batch_last)
		return differs(p, "batch %llu-%llu: the journal ends at record %llu",
		    (unsigned long long)p->batch.first, (unsigned long long)p->batch_last,
		    (unsigned long long)p->sequence);
	if (journal_cursor_batch(p->cursor, &last, &batch) != 0)
		return differs(p, "batch %llu-%llu: it has no records",
		    (unsigned long long)p->sequence + 1, (unsigned long long)last);
	orphans = journal_cursor_orphans(p->cursor);
	if (orphans > 0)
		return differs(p, "journal.mdb: %zu payloads that no record has", orphans);
	if (p->expect != 0)
		return differs(
		    p, "record %llu: no batch ends with it", (unsigned long long)p->expect);
	return PROOF_END;
}

enum proof_step
proof_record(struct proof *p)
{
	struct journal_entry e;
	int more = journal_cursor_next(p->cursor, &e);

	if (more < 0)
		return differs(p, "record %llu: journal.mdb can't be read there",
		    (unsigned long long)p->sequence + 1);
	if (more == 0)
		return check_rest(p);
	if (e.sequence != p->sequence + 1)
		return differs(p, "record %llu: it is missing, the next one is %llu",
		    (unsigned long long)p->sequence + 1, (unsigned long long)e.sequence);
	if (p->sequence == p->batch_last && next_batch(p) == PROOF_DIFFERS)
		return PROOF_DIFFERS;
	if (check_record(p, &e) == PROOF_DIFFERS)
		return PROOF_DIFFERS;
	journal_chain_add(p->chain, &e.record, sizeof e.record);
	if (e.payload_len > 0)
		journal_chain_add(p->chain, e.payload, e.payload_len);
	p->sequence = e.sequence;
	return p->sequence == p->batch_last ? check_link(p) : PROOF_MORE;
}

void
proof_forget(struct proof *p, uint64_t now_us)
{
	uint32_t from;

	books_refs_forget(p->books, books_refs_over(p->books, now_us, UINT32_MAX, &from));
}

const struct books *
proof_books(const struct proof *p)
{
	return p->books;
}

const struct journal_base *
proof_base(const struct proof *p)
{
	return &p->base;
}

const struct checkpoint_pasts *
proof_pasts(const struct proof *p)
{
	return checkpoint_load_pasts(p->load);
}

uint64_t
proof_sequence(const struct proof *p)
{
	return p->sequence;
}

uint64_t
proof_last(const struct proof *p)
{
	return journal_cursor_last(p->cursor);
}

const uint8_t *
proof_link(const struct proof *p)
{
	return p->link;
}

const char *
proof_difference(const struct proof *p)
{
	return p->difference;
}
