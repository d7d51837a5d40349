/*
 * Bringing state.mdb up to date: what the books changed is copied by who owns them, and written by
 * who has the file, which may be another thread.  Runs in the keeper.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/log.h"
#include "daemon/state_rows.h"
#include "shm/fault.h"

#define REFS_OVER_MAX 65536 /* rows that one transaction deletes: as many as it may bring */
/* What a job keeps for the next one; a first projection of many accounts takes more, once. */
#define ROWS_KEPT (UINT32_C(16) << 20)

/* Before each row in the job. */
struct job_row {
	uint32_t table, key_len, value_len;
};

struct state_job *
state_job_new(void)
{
	return calloc(1, sizeof(struct state_job));
}

void
state_job_free(struct state_job *job)
{
	if (job == NULL)
		return;
	buf_free(&job->rows);
	state_streams_free(job->streams);
	free(job->refs);
	free(job);
}

uint64_t
state_job_steps(const struct state_job *job)
{
	/* Relaxed: compared with what it was. */
	return atomic_load_explicit(&job->steps, memory_order_relaxed);
}

/* Taking. */

static void
take_row(struct state_job *job, const struct books *b, enum books_table table, uint32_t index)
{
	struct books_row row;
	struct job_row head = {.table = table};
	char *to;

	books_row_make(b, table, index, &row);
	head.key_len = (uint32_t)row.key_len;
	head.value_len = (uint32_t)(row.fixed_len + row.text_len);
	to = buf_reserve(&job->rows, sizeof head + head.key_len + head.value_len);
	/* The list of changes is all that knows of them. */
	if (to == NULL)
		fatal("state.mdb: rows");
	memcpy(to, &head, sizeof head);
	to += sizeof head;
	memcpy(to, row.key, row.key_len);
	to += row.key_len;
	memcpy(to, &row.fixed, row.fixed_len);
	if (row.text_len > 0)
		memcpy(to + row.fixed_len, row.text, row.text_len);
	job->rows.len += sizeof head + head.key_len + head.value_len;
}

static void
take_refs_over(struct state_job *job, const struct books *b)
{
	uint32_t from;

	job->refs_over = books_refs_over(b, job->order.now_us, REFS_OVER_MAX, &from);
	free(job->refs);
	job->refs = calloc((size_t)job->refs_over + 1, sizeof *job->refs);
	if (job->refs == NULL)
		fatal("state.mdb: refs");
	for (uint32_t i = 0; i < job->refs_over; i++) {
		const struct books_ref *ref = books_ref(b, from + i);

		memcpy(job->refs[i].id, ref->id, sizeof ref->id);
		job->refs[i].sequence = ref->sequence;
	}
}

/* Rows that are to be taken. */
static size_t
count_changes(const struct books *b, const struct books_changes *c)
{
	return c->accounts + c->slots + c->keys + (books_refs(b) - c->refs_from) +
	       (books_prices(b) - c->prices_from) + (c->price_sets ? books_price_sets(b) : 0);
}

/* So many of a list's last ones; *n becomes how many that were. */
static void
take_last(struct state_job *job, const struct books *b, enum books_table table,
    const uint32_t *list, size_t *n, size_t *room)
{
	size_t count = *n;

	*n = count < *room ? count : *room;
	*room -= *n;
	for (size_t i = 0; i < *n; i++)
		take_row(job, b, table, list[count - 1 - i]);
}

/* So many of those from *from on, which becomes the next one. */
static void
take_next(struct state_job *job, const struct books *b, enum books_table table, uint32_t *from,
    size_t *room)
{
	for (; *from < books_rows(b, table) && *room > 0; ++*from, --*room)
		take_row(job, b, table, *from);
}

bool
state_take(struct state_job *job, struct books *b, const struct state_order *order)
{
	struct books_changes c;
	size_t room = order->max_rows, all;

	if (!job->taking) {
		job->taking = true;
		job->left = 0;
		job->rows.len = 0;
		if (job->rows.cap > ROWS_KEPT)
			buf_free(&job->rows);
	}
	books_changes(b, &c);
	all = count_changes(b, &c);
	/* More than has come since, or there would be no end. */
	if (job->left > 0 && all > job->left)
		room += all - job->left;
	if (c.price_sets)
		for (uint32_t i = 0; i < books_price_sets(b); i++)
			take_row(job, b, ROWS_PRICE_SETS, i);
	take_last(job, b, ROWS_ACCOUNTS, c.account, &c.accounts, &room);
	take_last(job, b, ROWS_HOLDS, c.slot, &c.slots, &room);
	take_last(job, b, ROWS_KEYS, c.key, &c.keys, &room);
	take_next(job, b, ROWS_REFS, &c.refs_from, &room);
	take_next(job, b, ROWS_PRICES, &c.prices_from, &room);
	books_changes_taken(b, &c);
	books_changes(b, &c);
	job->left = count_changes(b, &c);
	if (job->left > 0)
		return false;
	job->taking = false;
	job->order = *order;
	take_refs_over(job, b);
	return true;
}

/* Writing. */

static int
put_rows(struct state *st, MDB_txn *txn, struct state_job *job)
{
	struct job_row head;
	int rc = 0;

	for (size_t at = 0; at < job->rows.len && rc == 0;) {
		MDB_val key, value;

		memcpy(&head, job->rows.data + at, sizeof head);
		at += sizeof head;
		key = (MDB_val){head.key_len, job->rows.data + at};
		at += head.key_len;
		value = (MDB_val){head.value_len, job->rows.data + at};
		at += head.value_len;
		rc =
		    mdb_put(txn, state_database(st, (enum books_table)head.table), &key, &value, 0);
		state_job_step(job);
	}
	return rc;
}

static int
delete_refs(struct state *st, MDB_txn *txn, struct state_job *job)
{
	int rc = 0;

	for (uint32_t i = 0; i < job->refs_over && rc == 0; i++) {
		MDB_val key = {sizeof job->refs[i].id, job->refs[i].id}, value;
		struct ref_row row;

		rc = mdb_get(txn, st->db.refs, &key, &value);
		if (rc == 0 && value.mv_size == sizeof row) {
			memcpy(&row, value.mv_data, sizeof row);
			if (row.sequence == job->refs[i].sequence)
				rc = mdb_del(txn, st->db.refs, &key, NULL);
		}
		if (rc == MDB_NOTFOUND)
			rc = 0;
	}
	return rc;
}

static int
write_all(struct state *st, struct state_job *job, struct journal_reader *journal)
{
	struct state_progress *progress = &job->progress;
	MDB_txn *txn;
	int rc = mdb_txn_begin(st->env, NULL, 0, &txn);

	if (rc != 0)
		return rc;
	*progress = st->progress;
	rc = put_rows(st, txn, job);
	progress->applied = job->order.last;
	/* After the rows: it looks at them. */
	if (rc == 0)
		rc = state_put_streams(st, txn, journal, job, &progress->streams);
	if (rc == 0)
		rc = state_expire(st, txn, job);
	if (rc == 0)
		rc = delete_refs(st, txn, job);
	if (rc == 0 && memcmp(progress, &st->progress, sizeof *progress) != 0)
		rc = state_put_meta(st, txn, progress);
	FAULT("project.put");
	if (rc == 0)
		return mdb_txn_commit(txn);
	mdb_txn_abort(txn);
	return rc;
}

void
state_write(struct state *st, struct state_job *job, struct journal_reader *journal)
{
	MDB_envinfo info;
	int rc;

	job->dead_readers = 0;
	if (job->order.sweep)
		(void)mdb_reader_check(st->env, &job->dead_readers);
	while ((rc = write_all(st, job, journal)) == MDB_MAP_FULL) {
		rc = mdb_env_info(st->env, &info);
		if (rc == 0)
			rc = mdb_env_set_mapsize(st->env, 2 * info.me_mapsize);
		if (rc != 0)
			break;
	}
	job->rc = rc;
	if (rc == 0)
		FAULT("project.committed");
}

int
state_finish(struct state *st, const struct state_job *job, struct books *b)
{
	if (job->rc != 0) {
		log_warnx("state.mdb: %s", mdb_strerror(job->rc));
		/* Its own codes mean that the file is damaged: it can be rebuilt, so away. */
		if (job->rc < 0)
			state_remove(st->state_dir);
		errno = job->rc > 0 ? job->rc : EIO;
		return -1;
	}
	if (job->dead_readers > 0)
		log_info("state.mdb: %d dead readers forgotten", job->dead_readers);
	st->progress = job->progress;
	books_refs_forget(b, job->refs_over);
	return 0;
}
