/*
 * The audit: the journal proved (daemon/proof.h), and what comes out of it held against state.mdb
 * and against itself.  Runs in the admin process.
 */
#include "daemon/audit.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/books.h"
#include "daemon/proof.h"

enum phase {
	LOAD,    /* the checkpoint, if there is one */
	REPLAY,  /* records up to state.mdb's sequence */
	ROWS,    /* state.mdb's accounts against the books; then the rest of the records */
	SUMS,    /* each account's books in themselves */
	ENDED,
};

struct audit {
	enum phase phase;
	struct proof *proof;
	const struct books *books; /* the proof's */
	struct state_walk *rows;
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

/*
 * state.mdb is further back than the journal begins.  Right for one that was just made anew: the
 * keeper has still to put its first row in.
 */
static void
check_behind(struct audit *a)
{
	struct state_account row;

	a->rows_done = true;
	if (state_walk_progress(a->rows)->applied != 0 || state_walk_next(a->rows, &row) != 0)
		differs(a, "state.mdb is at record %llu, the journal begins after %llu",
		    (unsigned long long)state_walk_progress(a->rows)->applied,
		    (unsigned long long)proof_base(a->proof)->sequence);
}

struct audit *
audit_new(struct journal_reader *journal, struct state_reader *state)
{
	struct audit *a = calloc(1, sizeof *a);

	if (a == NULL)
		return NULL;
	/* The rows' snapshot first: then the journal's has all that they were made of. */
	if ((a->rows = state_walk_new(state)) == NULL ||
	    (a->proof = proof_new(journal)) == NULL) {
		audit_free(a);
		return NULL;
	}
	a->books = proof_books(a->proof);
	if (state_walk_progress(a->rows)->applied > proof_last(a->proof))
		differs(a, "state.mdb is at record %llu, the journal ends at %llu",
		    (unsigned long long)state_walk_progress(a->rows)->applied,
		    (unsigned long long)proof_last(a->proof));
	else if (state_walk_progress(a->rows)->applied < proof_base(a->proof)->sequence)
		check_behind(a);
	return a;
}

void
audit_free(struct audit *a)
{
	if (a == NULL)
		return;
	state_walk_free(a->rows);
	proof_free(a->proof);
	free(a->held);
	free(a);
}

void
audit_expect(struct audit *a, uint64_t sequence, const uint8_t link[static JOURNAL_LINK_LEN])
{
	proof_expect(a->proof, sequence, link);
}

void
audit_result(const struct audit *a, struct audit_result *out)
{
	*out = a->result;
	out->base = *proof_base(a->proof);
	out->records = proof_sequence(a->proof) - out->base.sequence;
	out->head = proof_sequence(a->proof);
	memcpy(out->link, proof_link(a->proof), sizeof out->link);
	out->ok = a->phase == ENDED && a->result.first_difference[0] == '\0';
}

static void
load(struct audit *a, uint32_t max)
{
	/* A piece of the checkpoint has some hundred rows. */
	switch (proof_load(a->proof, max / 128 + 1)) {
	case PROOF_MORE:
		break;
	case PROOF_END:
		a->phase = REPLAY;
		break;
	case PROOF_DIFFERS:
		differs(a, "%s", proof_difference(a->proof));
		break;
	}
}

static void
replay(struct audit *a, uint32_t max_records)
{
	uint64_t applied = state_walk_progress(a->rows)->applied;

	for (; max_records > 0; max_records--) {
		if (!a->rows_done && proof_sequence(a->proof) == applied) {
			a->phase = ROWS;
			return;
		}
		switch (proof_record(a->proof)) {
		case PROOF_MORE:
			continue;
		case PROOF_END:
			a->phase = SUMS;
			return;
		case PROOF_DIFFERS:
			differs(a, "%s", proof_difference(a->proof));
			return;
		}
	}
}

static bool
same_budgets(const struct books_account *b, const struct state_account *row)
{
	for (int i = 0; i < BUDGETS; i++) {
		const struct state_budget *g = &row->budget[i];
		const struct books_used *spent = &b->budget[i].spent;

		if (b->budget[i].cap != g->cap ||
		    memcmp(spent->used, g->used, sizeof g->used) != 0 ||
		    memcmp(spent->window, g->window, sizeof g->window) != 0)
			return false;
	}
	return true;
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
	else if (!same_budgets(b, row))
		differs(a, "state.mdb: account %.*s has other budgets, or has used them otherwise, "
		    "than by the journal", (int)row->id_len, row->id);
	else if (b->balance != row->balance || b->held != row->held ||
	    b->overdraft != row->overdraft || b->charged != row->charged ||
	    b->topups != row->topups || b->adjustments != row->adjustments ||
	    b->uncollected != row->uncollected)
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
	case LOAD:
		load(a, max_records);
		break;
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
