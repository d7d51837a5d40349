/*
 * The part of state.mdb that is made of records and not of books: streams, their texts, and
 * their expiry.  Runs in the keeper.
 *
 * It may be behind the books' rows: after a rebuild it catches up in pieces, beside the
 * acknowledging path.
 */
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "daemon/state_rows.h"

/* Rows that one transaction expires at most. */
#define EXPIRE_MAX 1024
/* A reserve older than this, whose hold is not open any more, has no stream that is kept. */
#define FORGOTTEN_US (24 * STATE_STREAM_KEPT_US)

#define ROW_FIXED offsetof(struct stream_row, model)

struct projection {
	struct state *st;
	MDB_txn *txn;
	uint64_t now_us;
};

static int
get_row(struct projection *p, const uint8_t id[static 16], struct stream_row *row)
{
	MDB_val key = {16, (void *)(uintptr_t)id}, value;
	int rc = mdb_get(p->txn, p->st->db.streams, &key, &value);

	if (rc != 0)
		return rc;
	if (value.mv_size < ROW_FIXED || value.mv_size > sizeof *row)
		return MDB_CORRUPTED;
	memset(row, 0, sizeof *row);
	memcpy(row, value.mv_data, value.mv_size);
	return 0;
}

static int
put_row(struct projection *p, const uint8_t id[static 16], const struct stream_row *row)
{
	MDB_val key = {16, (void *)(uintptr_t)id};
	MDB_val value = {ROW_FIXED + row->model_len, (void *)(uintptr_t)row};

	return mdb_put(p->txn, p->st->db.streams, &key, &value, 0);
}

/* Is the hold that this reserve opened still open?  By the books' rows, which are written. */
static bool
is_open(struct projection *p, const struct journal_record *r)
{
	uint32_t slot = r->slot;
	MDB_val key = {sizeof slot, &slot}, value;
	struct hold_row hold;

	if (mdb_get(p->txn, p->st->db.holds, &key, &value) != 0 || value.mv_size != sizeof hold)
		return false;
	memcpy(&hold, value.mv_data, sizeof hold);
	return hold.open != 0 && hold.opened_us == r->time_us;
}

/* Is it of no use to anybody: ended so long ago that nobody may ask for it? */
static bool
forgotten(struct projection *p, const struct journal_record *r)
{
	return r->time_us + FORGOTTEN_US < p->now_us && !is_open(p, r);
}

static int
put_reserve(struct projection *p, const struct journal_entry *e)
{
	const struct journal_record *r = &e->record;
	uint32_t slot = r->slot;
	struct journal_reserve head;
	struct stream_row row;
	MDB_val key = {sizeof slot, &slot}, value;
	size_t model_len;
	int rc;

	if (e->payload_len < sizeof head)
		return MDB_CORRUPTED;
	memcpy(&head, e->payload, sizeof head);
	if (sizeof head + head.model_len > e->payload_len)
		return MDB_CORRUPTED;
	rc = get_row(p, head.stream_id, &row);
	if (rc != 0 && rc != MDB_NOTFOUND)
		return rc;
	/* Known already: nobody draws the same 128 random bits, so somebody else's row is not
	 * given away for it. */
	if (rc == 0 || forgotten(p, r)) {
		rc = mdb_del(p->txn, p->st->db.slots, &key, NULL);
		return rc == MDB_NOTFOUND ? 0 : rc;
	}
	model_len = head.model_len < STATE_MODEL_MAX ? head.model_len : STATE_MODEL_MAX;
	row = (struct stream_row){
	    .reserved = r->amount,
	    .opened_us = r->time_us,
	    .reserve_seq = e->sequence,
	    .account = r->account,
	    .price = r->price,
	    .prompt = r->prompt,
	    .generation = head.generation,
	    .proc = r->proc,
	    .model_len = (uint8_t)model_len,
	    .keyed = (uint8_t)head.keyed,
	};
	memcpy(row.session_id, head.session_id, sizeof row.session_id);
	memcpy(row.message_id, head.message_id, sizeof row.message_id);
	memcpy(row.model, (const char *)e->payload + sizeof head, model_len);
	value = (MDB_val){sizeof head.stream_id, head.stream_id};
	if ((rc = mdb_put(p->txn, p->st->db.slots, &key, &value, 0)) != 0)
		return rc;
	return put_row(p, head.stream_id, &row);
}

static int
put_text(struct projection *p, const uint8_t id[static 16], const struct journal_entry *e)
{
	size_t split = journal_split_len(&e->record, e->payload_len);
	struct text_key text;
	MDB_val key = {sizeof text, &text};
	MDB_val value = {e->payload_len - split, (char *)(uintptr_t)e->payload + split};

	memcpy(text.id, id, sizeof text.id);
	state_put_be64(text.sequence, e->sequence);
	return mdb_put(p->txn, p->st->db.texts, &key, &value, 0);
}

static int
end_row(struct projection *p, const uint8_t id[static 16], const struct journal_entry *e,
    struct stream_row *row)
{
	const struct journal_record *r = &e->record;
	struct journal_split split = {0};
	struct end_key end;
	MDB_val key = {sizeof end, &end}, value = {0, NULL};

	row->voided = r->type == JOURNAL_VOID;
	row->outcome = r->outcome;
	row->charge = r->amount;
	row->uncollected = r->extra;
	row->cached = r->cached;
	row->completion = r->completion;
	if (journal_split_len(r, e->payload_len) > 0)
		memcpy(&split, e->payload, sizeof split);
	row->reasoning = split.reasoning;
	row->cache_write = split.cache_write;
	if (!row->voided)
		row->prompt = r->prompt;
	row->ended_us = r->time_us;
	row->settle_seq = e->sequence;
	/* Expiry goes by what an ordinary one has left. */
	state_put_be64(end.time,
	    r->time_us + (row->keyed != 0 ? STATE_KEYED_KEPT_US - STATE_STREAM_KEPT_US : 0));
	memcpy(end.id, id, sizeof end.id);
	return mdb_put(p->txn, p->st->db.ends, &key, &value, 0);
}

/* EXTEND, MARK, SETTLE, VOID. */
static int
put_progress(struct projection *p, const struct journal_entry *e)
{
	const struct journal_record *r = &e->record;
	size_t split = journal_split_len(r, e->payload_len);
	uint32_t slot = r->slot;
	struct stream_row row;
	MDB_val key = {sizeof slot, &slot}, value;
	uint8_t id[16];
	int rc = mdb_get(p->txn, p->st->db.slots, &key, &value);

	if (rc != 0)
		return rc == MDB_NOTFOUND ? 0 : rc; /* its reserve was passed over */
	if (value.mv_size != sizeof id)
		return MDB_CORRUPTED;
	memcpy(id, value.mv_data, sizeof id);
	if ((rc = get_row(p, id, &row)) != 0)
		return rc == MDB_NOTFOUND ? 0 : rc;
	if (e->payload_len > split) {
		if ((rc = put_text(p, id, e)) != 0)
			return rc;
		row.text_len += e->payload_len - split;
	}
	if (r->type == JOURNAL_SETTLE || r->type == JOURNAL_VOID) {
		if ((rc = end_row(p, id, e, &row)) != 0)
			return rc;
	} else {
		if (r->completion > row.completion)
			row.completion = r->completion;
		if (r->type == JOURNAL_EXTEND)
			row.reserved = r->extra;
	}
	return put_row(p, id, &row);
}

int
state_put_streams(struct state *st, MDB_txn *txn, struct journal_reader *journal,
    struct state_job *job, uint64_t *streams)
{
	struct projection p = {.st = st, .txn = txn, .now_us = job->order.now_us};
	uint64_t last = job->order.last;
	size_t max_records = job->order.max_records;
	struct journal_cursor *c;
	struct journal_entry e;
	int rc = 0, more;

	if (*streams >= last)
		return 0;
	c = journal_cursor_new(journal, *streams + 1);
	if (c == NULL)
		return errno;
	for (; max_records > 0 && (more = journal_cursor_next(c, &e)) != 0; max_records--) {
		if (more < 0) {
			rc = errno;
			break;
		}
		/* Committed after the rows were taken: the next job's. */
		if (e.sequence > last)
			break;
		if (e.record.type == JOURNAL_RESERVE)
			rc = put_reserve(&p, &e);
		else if (e.record.type >= JOURNAL_EXTEND && e.record.type <= JOURNAL_VOID)
			rc = put_progress(&p, &e);
		if (rc != 0)
			break;
		*streams = e.sequence;
		state_job_step(job);
	}
	journal_cursor_free(c);
	return rc;
}

static int
delete_texts(struct state *st, MDB_txn *txn, const uint8_t id[static 16])
{
	struct text_key text = {.sequence = {0}};
	MDB_val key = {sizeof text, &text}, value;
	MDB_cursor *cursor;
	int rc = mdb_cursor_open(txn, st->db.texts, &cursor);

	if (rc != 0)
		return rc;
	memcpy(text.id, id, sizeof text.id);
	rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
	while (rc == 0 && key.mv_size == sizeof text && memcmp(key.mv_data, id, 16) == 0) {
		if ((rc = mdb_cursor_del(cursor, 0)) != 0)
			break;
		/* What the cursor points at after a deletion at a page's end is not said. */
		key = (MDB_val){sizeof text, &text};
		rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
	}
	mdb_cursor_close(cursor);
	return rc == MDB_NOTFOUND ? 0 : rc;
}

int
state_expire(struct state *st, MDB_txn *txn, uint64_t now_us)
{
	for (int i = 0; i < EXPIRE_MAX; i++) {
		MDB_cursor *cursor;
		MDB_val key, value, id;
		struct end_key end;
		int rc = mdb_cursor_open(txn, st->db.ends, &cursor);

		if (rc != 0)
			return rc;
		rc = mdb_cursor_get(cursor, &key, &value, MDB_FIRST);
		if (rc == 0 && key.mv_size == sizeof end)
			memcpy(&end, key.mv_data, sizeof end);
		mdb_cursor_close(cursor);
		if (rc != 0)
			return rc == MDB_NOTFOUND ? 0 : rc;
		if (state_get_be64(end.time) + STATE_STREAM_KEPT_US > now_us)
			return 0;
		key = (MDB_val){sizeof end, &end};
		id = (MDB_val){sizeof end.id, end.id};
		if ((rc = delete_texts(st, txn, end.id)) != 0 ||
		    (rc = mdb_del(txn, st->db.ends, &key, NULL)) != 0)
			return rc;
		rc = mdb_del(txn, st->db.streams, &id, NULL);
		if (rc != 0 && rc != MDB_NOTFOUND)
			return rc;
	}
	return 0;
}
