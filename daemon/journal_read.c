/*
 * Reading journal.mdb: the keeper at start and for its projection, admin for audit and export,
 * workers for receipts.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/journal_private.h"

struct journal_cursor {
	struct journal_reader *reader;
	MDB_txn *txn;
	MDB_cursor *records, *payloads, *batches;
	uint64_t from, last;
	bool begun, batches_begun;
	MDB_val payload_key, payload;
	bool has_payload;  /* payload_key and payload are the next one */
	bool payloads_end; /* there are no more */
	bool taken;        /* payload_key is a record's */
	size_t orphans;
	struct journal_base base;
};

struct journal_reader *
journal_reader_open(const char *state_dir, const char **why)
{
	struct journal_reader *r = calloc(1, sizeof *r);
	MDB_txn *txn = NULL;
	int rc = ENOMEM;

	if (r == NULL)
		goto fail;
	/* Map size 0: as large as the writer made it. */
	if ((rc = journal_env(&r->env, state_dir, JOURNAL_FILE, 0, MDB_RDONLY)) != 0 ||
	    (rc = mdb_txn_begin(r->env, NULL, MDB_RDONLY, &txn)) != 0)
		goto fail;
	rc = journal_databases(r, txn, 0);
	if (rc == 0)
		rc = mdb_txn_commit(txn); /* keeps the database handles */
	else
		mdb_txn_abort(txn);
	if (rc == 0)
		return r;
fail:
	*why = mdb_strerror(rc);
	journal_reader_close(r);
	errno = rc > 0 ? rc : EINVAL;
	return NULL;
}

void
journal_reader_close(struct journal_reader *r)
{
	if (r == NULL)
		return;
	if (r->env != NULL)
		mdb_env_close(r->env);
	free(r);
}

int
journal_snapshot(struct journal_reader *r, MDB_txn **txn)
{
	int rc = mdb_txn_begin(r->env, NULL, MDB_RDONLY, txn);

	if (rc == MDB_MAP_RESIZED) {
		/* The writer's map has grown: take its size over.  Refused while this process
		 * has another snapshot open; the caller may try again later. */
		rc = mdb_env_set_mapsize(r->env, 0);
		if (rc == 0)
			rc = mdb_txn_begin(r->env, NULL, MDB_RDONLY, txn);
	}
	return rc;
}

static int
failed(int rc)
{
	errno = rc > 0 ? rc : EIO;
	return -1;
}

int
journal_reader_base(struct journal_reader *r, struct journal_base *base)
{
	MDB_txn *txn;
	int rc = journal_snapshot(r, &txn);

	if (rc == 0) {
		rc = journal_read_base(r, txn, base);
		mdb_txn_abort(txn);
	}
	return rc == 0 ? 0 : failed(rc);
}

int
journal_get(struct journal_reader *r, uint64_t sequence, struct journal_record *record,
    struct buf *payload)
{
	MDB_val key = {sizeof sequence, &sequence}, value;
	MDB_txn *txn;
	int rc = journal_snapshot(r, &txn);

	if (rc != 0)
		return failed(rc);
	rc = mdb_get(txn, r->records, &key, &value);
	if (rc == 0 && value.mv_size != sizeof *record)
		rc = MDB_CORRUPTED;
	if (rc == 0) {
		memcpy(record, value.mv_data, sizeof *record);
		if (payload != NULL && record->payload_len > 0 &&
		    (rc = mdb_get(txn, r->payloads, &key, &value)) == 0)
			buf_add(payload, value.mv_data, value.mv_size);
		else if (rc == MDB_NOTFOUND)
			rc = MDB_CORRUPTED;
	}
	mdb_txn_abort(txn);
	if (rc == MDB_NOTFOUND)
		return 0;
	return rc == 0 ? 1 : failed(rc);
}

struct journal_cursor *
journal_cursor_new(struct journal_reader *r, uint64_t from)
{
	struct journal_cursor *c = calloc(1, sizeof *c);
	int rc;

	if (c == NULL)
		return NULL;
	c->reader = r;
	c->from = from;
	if ((rc = journal_snapshot(r, &c->txn)) != 0) {
		c->txn = NULL;
		goto fail;
	}
	if ((rc = mdb_cursor_open(c->txn, r->records, &c->records)) != 0 ||
	    (rc = mdb_cursor_open(c->txn, r->payloads, &c->payloads)) != 0 ||
	    (rc = mdb_cursor_open(c->txn, r->batches, &c->batches)) != 0 ||
	    (rc = journal_last_key(c->txn, r->records, &c->last)) != 0 ||
	    (rc = journal_read_base(r, c->txn, &c->base)) != 0)
		goto fail;
	return c;
fail:
	journal_cursor_free(c);
	(void)failed(rc);
	return NULL;
}

void
journal_cursor_free(struct journal_cursor *c)
{
	if (c == NULL)
		return;
	if (c->records != NULL)
		mdb_cursor_close(c->records);
	if (c->payloads != NULL)
		mdb_cursor_close(c->payloads);
	if (c->batches != NULL)
		mdb_cursor_close(c->batches);
	if (c->txn != NULL)
		mdb_txn_abort(c->txn);
	free(c);
}

void
journal_cursor_from(struct journal_cursor *c, uint64_t from)
{
	c->from = from;
}

uint64_t
journal_cursor_last(const struct journal_cursor *c)
{
	return c->last;
}

/* Step to the first entry (at or after `from`) or the next one; an LMDB code. */
static int
step(MDB_cursor *cursor, bool *begun, uint64_t from, MDB_val *key, MDB_val *value)
{
	bool first = !*begun;

	*begun = true;
	if (!first)
		return mdb_cursor_get(cursor, key, value, MDB_NEXT);
	*key = (MDB_val){sizeof from, &from};
	return mdb_cursor_get(cursor, key, value, MDB_SET_RANGE);
}

/* The next payload, if the present one is not a record's it is nobody's; an LMDB code. */
static int
next_payload(struct journal_cursor *c)
{
	bool begun = c->has_payload;
	int rc;

	c->orphans += begun && !c->taken;
	c->taken = false;
	rc = step(c->payloads, &begun, c->from, &c->payload_key, &c->payload);
	c->has_payload = rc == 0;
	c->payloads_end = rc != 0;
	return rc == MDB_NOTFOUND ? 0 : rc;
}

/*
 * The payload of a sequence.  Both databases are walked at once, since a look-up for each
 * record would cost more than the record.  An LMDB code.
 */
static int
payload_of(struct journal_cursor *c, struct journal_entry *e)
{
	int rc = 0;

	e->payload = NULL;
	e->payload_len = 0;
	while (!c->payloads_end &&
	    (!c->has_payload || journal_u64(&c->payload_key) < e->sequence))
		if ((rc = next_payload(c)) != 0)
			return rc;
	if (c->has_payload && journal_u64(&c->payload_key) == e->sequence) {
		e->payload = c->payload.mv_data;
		e->payload_len = c->payload.mv_size;
		c->taken = true;
	}
	return 0;
}

size_t
journal_cursor_orphans(struct journal_cursor *c)
{
	while (!c->payloads_end)
		if (next_payload(c) != 0)
			return c->orphans + 1; /* it cannot be read: not nothing */
	return c->orphans;
}

int
journal_cursor_next(struct journal_cursor *c, struct journal_entry *e)
{
	MDB_val key, value;
	int rc = step(c->records, &c->begun, c->from, &key, &value);

	if (rc == MDB_NOTFOUND)
		return 0;
	if (rc == 0 && value.mv_size != sizeof e->record)
		rc = MDB_CORRUPTED;
	if (rc != 0)
		return failed(rc);
	e->sequence = journal_u64(&key);
	memcpy(&e->record, value.mv_data, sizeof e->record);
	if ((rc = payload_of(c, e)) != 0)
		return failed(rc);
	return 1;
}

int
journal_cursor_batch(struct journal_cursor *c, uint64_t *last, struct journal_batch *batch)
{
	MDB_val key, value;
	int rc = step(c->batches, &c->batches_begun, c->from, &key, &value);

	if (rc == MDB_NOTFOUND)
		return 0;
	if (rc == 0 && value.mv_size != sizeof *batch)
		rc = MDB_CORRUPTED;
	if (rc != 0)
		return failed(rc);
	*last = journal_u64(&key);
	memcpy(batch, value.mv_data, sizeof *batch);
	return 1;
}

const struct journal_base *
journal_cursor_base(const struct journal_cursor *c)
{
	return &c->base;
}

int
journal_cursor_piece(struct journal_cursor *c, uint32_t n, const void **bytes, size_t *len)
{
	uint64_t at = (uint64_t)c->base.generation << 32 | n;
	MDB_val key = {sizeof at, &at}, value;
	int rc = mdb_get(c->txn, c->reader->checkpoint, &key, &value);

	if (rc == MDB_NOTFOUND)
		return 0;
	if (rc != 0)
		return failed(rc);
	*bytes = value.mv_data;
	*len = value.mv_size;
	return 1;
}

int
journal_cursor_at(struct journal_cursor *c, uint64_t sequence, struct journal_entry *e)
{
	MDB_val key = {sizeof sequence, &sequence}, value;
	int rc = mdb_get(c->txn, c->reader->records, &key, &value);

	if (rc == 0 && value.mv_size != sizeof e->record)
		rc = MDB_CORRUPTED;
	if (rc == MDB_NOTFOUND)
		return 0;
	if (rc != 0)
		return failed(rc);
	*e = (struct journal_entry){.sequence = sequence};
	memcpy(&e->record, value.mv_data, sizeof e->record);
	rc = mdb_get(c->txn, c->reader->payloads, &key, &value);
	if (rc == 0) {
		e->payload = value.mv_data;
		e->payload_len = value.mv_size;
	}
	return rc == 0 || rc == MDB_NOTFOUND ? 1 : failed(rc);
}
