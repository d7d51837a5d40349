/*
 * The audit: the journal played once more into books of its own.  Runs in the admin process.
 *
 * Its judge is books_check, the keeper's own.  That is enough, since what is compared in the end
 * was computed by nobody's code but the journal's arithmetic; and the chain finds what changed
 * in the file and is still plausible.
 */
#include "daemon/audit.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/books.h"

enum phase {
	REPLAY,  /* records up to state.mdb's sequence */
	ROWS,    /* state.mdb's accounts against the books; then the rest of the records */
	SUMS,    /* each account's books in themselves */
	ENDED,
};

struct audit {
	enum phase phase;
	struct books *books;
	struct state_walk *rows;
	struct journal_cursor *records;
	struct journal_chain *chain;
	uint8_t link[JOURNAL_LINK_LEN];
	struct journal_batch batch; /* the one under way, up to batch_last */
	uint64_t batch_last;
	uint64_t sequence;          /* last record replayed */
	uint64_t payloads;
	bool rows_done;
	uint32_t rows_seen, sums_done;
	int64_t *held;              /* by account: sum of open holds */
	struct audit_result result;
};

__attribute__((format(printf, 2, 3))) static void
differs(struct audit *a, const char *fmt, ...)
{
	va_list ap;

	a->phase = ENDED;
	va_start(ap, fmt);
	(void)vsnprintf(a->result.first_difference, sizeof a->result.first_difference, fmt, ap);
	va_end(ap);
}

struct audit *
audit_new(struct journal_reader *journal, struct state_reader *state)
{
	struct audit *a = calloc(1, sizeof *a);

	if (a == NULL)
		return NULL;
	/* The rows' snapshot first: then the journal's has all that they were made of. */
	if ((a->rows = state_walk_new(state)) == NULL ||
	    (a->records = journal_cursor_new(journal, 1)) == NULL ||
	    (a->chain = journal_chain_new()) == NULL) {
		audit_free(a);
		return NULL;
	}
	a->books = books_new();
	if (state_walk_progress(a->rows)->applied > journal_cursor_last(a->records))
		differs(a, "state.mdb is at record %llu, the journal ends at %llu",
		    (unsigned long long)state_walk_progress(a->rows)->applied,
		    (unsigned long long)journal_cursor_last(a->records));
	return a;
}

void
audit_free(struct audit *a)
{
	if (a == NULL)
		return;
	journal_cursor_free(a->records);
	journal_chain_free(a->chain);
	state_walk_free(a->rows);
	books_free(a->books);
	free(a->held);
	free(a);
}

void
audit_result(const struct audit *a, struct audit_result *out)
{
	*out = a->result;
	out->records = a->sequence;
	out->ok = a->phase == ENDED && a->result.first_difference[0] == '\0';
}

/* A new batch begins with the record after `sequence`. */
static bool
next_batch(struct audit *a)
{
	int more = journal_cursor_batch(a->records, &a->batch_last, &a->batch);

	if (more == 1 && a->batch.first == a->sequence + 1 && a->batch_last >= a->batch.first) {
		journal_chain_begin(a->chain, a->link);
		return true;
	}
	if (more == 1)
		differs(a, "batch %llu-%llu: it says that it begins with record %llu",
		    (unsigned long long)a->sequence + 1, (unsigned long long)a->batch_last,
		    (unsigned long long)a->batch.first);
	else
		differs(a, "record %llu: it is in no batch", (unsigned long long)a->sequence + 1);
	return false;
}

/* The batch under way has ended: does its link say what was in it? */
static void
check_link(struct audit *a)
{
	journal_chain_end(a->chain, a->link);
	if (memcmp(a->link, a->batch.link, sizeof a->link) != 0)
		differs(a, "batch %llu-%llu: the chain is broken (a record, a payload or the link "
		    "was changed)", (unsigned long long)a->batch.first,
		    (unsigned long long)a->batch_last);
}

/* Judge and enter one record. */
static void
check_record(struct audit *a, const struct journal_entry *e)
{
	struct books_input in = {.record = &e->record, .payload = e->payload,
	    .types = BOOKS_FROM_JOURNAL, .slot_first = 0, .slot_count = BOOKS_SLOTS_MAX};
	unsigned long long n = e->sequence;
	struct books_verdict v;

	if (e->payload_len != e->record.payload_len) {
		differs(a, "record %llu: its payload has %zu bytes instead of %u", n,
		    e->payload_len, e->record.payload_len);
		return;
	}
	books_check(a->books, &in, &v);
	if (!v.store)
		differs(a, "record %llu: %s", n, v.contradicts != NULL ? v.contradicts :
		    v.status == RING_REPEATED ? "its ref is there already" :
		    v.status == RING_RANGE ? "its sum is out of range" :
		    "it should not have been stored");
	else if (e->record.type == JOURNAL_ACCOUNT && e->record.account != v.value)
		differs(a, "record %llu: the account's number should be %lld", n,
		    (long long)v.value);
	else if (books_apply(a->books, &e->record, e->payload, e->sequence) < 0)
		differs(a, "record %llu: it does not fit in the books", n);
}

/* The next record; false at the end or a difference. */
static bool
replay_one(struct audit *a)
{
	struct journal_entry e;
	int more = journal_cursor_next(a->records, &e);

	if (more < 0) {
		differs(a, "record %llu: journal.mdb can't be read there",
		    (unsigned long long)a->sequence + 1);
		return false;
	}
	if (more == 0) {
		if (a->sequence != a->batch_last)
			differs(a, "batch %llu-%llu: the journal ends at record %llu",
			    (unsigned long long)a->batch.first, (unsigned long long)a->batch_last,
			    (unsigned long long)a->sequence);
		return false;
	}
	if (e.sequence != a->sequence + 1) {
		differs(a, "record %llu: it is missing, the next one is %llu",
		    (unsigned long long)a->sequence + 1, (unsigned long long)e.sequence);
		return false;
	}
	if (a->sequence == a->batch_last && !next_batch(a))
		return false;
	check_record(a, &e);
	if (a->phase == ENDED)
		return false;
	journal_chain_add(a->chain, &e.record, sizeof e.record);
	if (e.payload_len > 0) {
		journal_chain_add(a->chain, e.payload, e.payload_len);
		a->payloads++;
	}
	a->sequence = e.sequence;
	if (a->sequence == a->batch_last)
		check_link(a);
	return a->phase != ENDED;
}

static void
replay(struct audit *a, uint32_t max_records)
{
	uint64_t applied = state_walk_progress(a->rows)->applied, last = 0;
	struct journal_batch batch = {0};

	for (; max_records > 0; max_records--) {
		if (!a->rows_done && a->sequence == applied) {
			a->phase = ROWS;
			return;
		}
		if (!replay_one(a))
			break;
	}
	if (max_records == 0 || a->phase == ENDED)
		return;
	if (a->sequence == a->batch_last && journal_cursor_batch(a->records, &last, &batch) != 0)
		differs(a, "batch %llu-%llu: it has no records", (unsigned long long)batch.first,
		    (unsigned long long)last);
	else if (journal_cursor_payloads(a->records) != a->payloads)
		differs(a, "journal.mdb: %zu payloads, but %llu records that have one",
		    journal_cursor_payloads(a->records), (unsigned long long)a->payloads);
	else
		a->phase = SUMS;
}

static void
check_row(struct audit *a, const struct state_account *row)
{
	const struct books_account *b = books_account(a->books, row->number);
	size_t id_len;
	const char *id = books_account_id(a->books, row->number, &id_len);

	if (row->number != a->rows_seen++ || b == NULL || id_len != row->id_len ||
	    memcmp(id, row->id, id_len) != 0)
		differs(a, "state.mdb: account %u (%.*s) is not in the journal", row->number,
		    (int)row->id_len, row->id);
	else if (b->flags != row->flags || b->requests_per_minute != row->requests_per_minute ||
	    b->tokens_per_minute != row->tokens_per_minute ||
	    b->concurrent_streams != row->concurrent_streams)
		differs(a, "state.mdb: account %.*s has other limits or flags than by the journal",
		    (int)row->id_len, row->id);
	else if (b->balance != row->balance || b->held != row->held ||
	    b->overdraft != row->overdraft || b->charged != row->charged ||
	    b->topups != row->topups || b->adjustments != row->adjustments)
		differs(a, "state.mdb: account %.*s has balance %lld and %lld held; by the journal "
		    "it is %lld and %lld", (int)row->id_len, row->id, (long long)row->balance,
		    (long long)row->held, (long long)b->balance, (long long)b->held);
}

static void
rows(struct audit *a, uint32_t max)
{
	struct state_account row;

	for (; max > 0 && a->phase == ROWS; max--) {
		int more = state_walk_next(a->rows, &row);

		if (more > 0) {
			check_row(a, &row);
			continue;
		}
		if (more < 0)
			differs(a, "state.mdb can't be read");
		else if (a->rows_seen != books_accounts(a->books))
			differs(a, "state.mdb: %u accounts instead of %u", a->rows_seen,
			    books_accounts(a->books));
		else {
			a->rows_done = true;
			a->phase = REPLAY;
		}
		return;
	}
}

/* Per account, what its open holds come to. */
static bool
sum_holds(struct audit *a)
{
	a->held = calloc((size_t)books_accounts(a->books) + 1, sizeof *a->held);
	if (a->held == NULL) {
		differs(a, "out of memory");
		return false;
	}
	for (uint32_t slot = 0; slot < books_slots(a->books); slot++) {
		const struct books_hold *h = books_hold(a->books, slot);

		if (!h->open)
			continue;
		a->held[h->account] += h->amount;
		a->result.holds_open++;
	}
	return true;
}

static void
sums(struct audit *a, uint32_t max)
{
	if (a->held == NULL && !sum_holds(a))
		return;
	for (; max > 0 && a->sums_done < books_accounts(a->books); max--, a->sums_done++) {
		const struct books_account *b = books_account(a->books, a->sums_done);
		size_t id_len;
		const char *id = books_account_id(a->books, a->sums_done, &id_len);

		if (b->topups + b->adjustments - b->charged != b->balance ||
		    b->held != a->held[a->sums_done]) {
			differs(a, "account %.*s: its sums do not come to its balance",
			    (int)id_len, id);
			return;
		}
	}
	a->result.accounts = a->sums_done;
	if (a->sums_done == books_accounts(a->books))
		a->phase = ENDED;
}

bool
audit_step(struct audit *a, uint32_t max_records)
{
	switch (a->phase) {
	case REPLAY:
		replay(a, max_records);
		break;
	case ROWS:
		rows(a, max_records);
		break;
	case SUMS:
		sums(a, max_records);
		break;
	case ENDED:
		break;
	}
	return a->phase != ENDED;
}
