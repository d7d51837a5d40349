/*
 * The part of state.mdb that is made of records and not of books: streams, their texts, and
 * their expiry.  Runs in the keeper.
 *
 * It may be behind the books' rows: after a rebuild it catches up in pieces, beside the
 * acknowledging path.
 *
 * What a job's records say of streams is put together in memory and written at its end.  Most
 * streams begin and end within one job, so their rows are written once; and what is new goes to the
 * end of its database, since rows and texts are in the order of the reserves.  Only `ids` is
 * random, as its keys are: it is what a job costs when there are many streams.
 */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/state_rows.h"

/* Rows that one transaction expires: more than it puts, or they would become ever more. */
#define EXPIRE_MIN 1024
/* A reserve older than this, whose hold is not open any more, has no stream that is kept. */
#define FORGOTTEN_US (24 * STATE_STREAM_KEPT_US)

#define ROW_FIXED offsetof(struct stream_row, model)
#define NONE UINT32_MAX

enum job_kind {
	NEW,    /* its reserve is this job's */
	FORMER, /* an earlier one's: there is a row */
	PASSED, /* passed over: the slot is to have no stream */
	UNKNOWN /* was passed over before */
};

/* What a slot's records belong to. */
struct job_stream {
	enum job_kind kind;
	uint32_t slot;
	uint32_t text, last_text; /* in texts, or NONE */
	uint64_t sequence;        /* of its reserve */
	size_t row;               /* in rows */
};

/* A piece of its text, in the journal's map. */
struct job_text {
	uint64_t sequence;
	const char *piece;
	size_t len;
	uint32_t next;
};

struct job_streams {
	struct job_stream *streams;
	struct job_text *texts;
	uint32_t *by_slot; /* its present one, NONE: not looked at yet */
	uint32_t count, cap, text_count, text_cap, slots;
	uint32_t *order; /* for flushing; as many as there are streams */
	struct buf rows;
};

struct projection {
	struct state *st;
	MDB_txn *txn;
	struct job_streams *all;
	uint64_t now_us;
};

void
state_streams_free(struct job_streams *all)
{
	if (all == NULL)
		return;
	free(all->streams);
	free(all->texts);
	free(all->by_slot);
	free(all->order);
	buf_free(&all->rows);
	free(all);
}

/* Room for one more; an error number. */
static int
grow(void **array, uint32_t count, uint32_t *cap, size_t size)
{
	uint32_t more = *cap == 0 ? 1024 : 2 * *cap;
	void *p;

	if (count < *cap)
		return 0;
	if ((p = realloc(*array, more * size)) == NULL)
		return ENOMEM;
	*array = p;
	*cap = more;
	return 0;
}

static struct stream_row *
row_of(const struct job_streams *all, const struct job_stream *s)
{
	return (struct stream_row *)(void *)(all->rows.data + s->row);
}

/* Forget the last job, or its first attempt. */
static void
clear(struct job_streams *all)
{
	for (uint32_t i = 0; i < all->count; i++)
		all->by_slot[all->streams[i].slot] = NONE;
	all->count = all->text_count = 0;
	all->rows.len = 0;
}

static int
slot_room(struct job_streams *all, uint32_t slot)
{
	uint32_t n = all->slots == 0 ? 1024 : all->slots, *p;

	if (slot < all->slots)
		return 0;
	if (slot >= BOOKS_SLOTS_MAX)
		return MDB_CORRUPTED;
	while (n <= slot)
		n *= 2;
	if ((p = realloc(all->by_slot, n * sizeof *p)) == NULL)
		return ENOMEM;
	memset(p + all->slots, 0xff, (n - all->slots) * sizeof *p);
	all->by_slot = p;
	all->slots = n;
	return 0;
}

/* The slot's stream is another one from now on; the caller fills its row, of len bytes. */
static int
add_stream(struct job_streams *all, uint32_t slot, enum job_kind kind, uint64_t sequence,
    size_t len, struct job_stream **made)
{
	size_t room = (len + 7) / 8 * 8;
	int rc;

	if ((rc = slot_room(all, slot)) != 0 ||
	    (rc = grow((void **)&all->streams, all->count, &all->cap, sizeof *all->streams)) != 0)
		return rc;
	if (buf_reserve(&all->rows, room + 1) == NULL)
		return ENOMEM;
	*made = &all->streams[all->count];
	**made = (struct job_stream){.kind = kind,
	    .slot = slot,
	    .text = NONE,
	    .last_text = NONE,
	    .sequence = sequence,
	    .row = all->rows.len};
	all->by_slot[slot] = all->count++;
	all->rows.len += room;
	return 0;
}

/* Is the hold that this reserve opened still open?  By the books' rows, which are written. */
static bool
is_open(const struct projection *p, const struct journal_record *r)
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
forgotten(const struct projection *p, const struct journal_record *r)
{
	return r->time_us + FORGOTTEN_US < p->now_us && !is_open(p, r);
}

static int
take_reserve(struct projection *p, const struct journal_entry *e)
{
	const struct journal_record *r = &e->record;
	struct journal_reserve head;
	struct job_stream *s;
	struct stream_row *row;
	size_t model_len;
	int rc;

	if (e->payload_len < sizeof head)
		return MDB_CORRUPTED;
	memcpy(&head, e->payload, sizeof head);
	if (sizeof head + head.model_len > e->payload_len)
		return MDB_CORRUPTED;
	if (forgotten(p, r))
		return add_stream(p->all, r->slot, PASSED, e->sequence, 0, &s);
	model_len = head.model_len < STATE_MODEL_MAX ? head.model_len : STATE_MODEL_MAX;
	rc = add_stream(p->all, r->slot, NEW, e->sequence, ROW_FIXED + model_len, &s);
	if (rc != 0)
		return rc;
	row = row_of(p->all, s);
	memset(row, 0, ROW_FIXED);
	memcpy(row->stream_id, head.stream_id, sizeof row->stream_id);
	memcpy(row->session_id, head.session_id, sizeof row->session_id);
	memcpy(row->message_id, head.message_id, sizeof row->message_id);
	row->reserved = r->amount;
	row->opened_us = r->time_us;
	row->reserve_seq = e->sequence;
	row->account = r->account;
	row->price = r->price;
	row->prompt = r->prompt;
	row->generation = head.generation;
	row->proc = r->proc;
	row->model_len = (uint8_t)model_len;
	row->keyed = (uint8_t)head.keyed;
	memcpy((char *)row + ROW_FIXED, (const char *)e->payload + sizeof head, model_len);
	return 0;
}

/* The stream of a slot that no record of this job was of yet. */
static int
fetch(struct projection *p, uint32_t slot, struct job_stream **s)
{
	MDB_val key = {sizeof slot, &slot}, value;
	uint64_t sequence = 0;
	int rc = mdb_get(p->txn, p->st->db.slots, &key, &value);

	if (rc == 0 && value.mv_size != sizeof sequence)
		return MDB_CORRUPTED;
	if (rc == 0) {
		memcpy(&sequence, value.mv_data, sizeof sequence);
		key = (MDB_val){sizeof sequence, &sequence};
		rc = mdb_get(p->txn, p->st->db.streams, &key, &value);
	}
	/* Its reserve was passed over, or it is expired. */
	if (rc == MDB_NOTFOUND)
		return add_stream(p->all, slot, UNKNOWN, 0, 0, s);
	if (rc != 0)
		return rc;
	if (value.mv_size < ROW_FIXED || value.mv_size > sizeof(struct stream_row))
		return MDB_CORRUPTED;
	if ((rc = add_stream(p->all, slot, FORMER, sequence, value.mv_size, s)) != 0)
		return rc;
	memcpy(row_of(p->all, *s), value.mv_data, value.mv_size);
	return ROW_FIXED + row_of(p->all, *s)->model_len == value.mv_size ? 0 : MDB_CORRUPTED;
}

static int
take_text(struct projection *p, struct job_stream *s, const struct journal_entry *e, size_t split)
{
	struct job_streams *all = p->all;
	uint32_t n = all->text_count;
	int rc = grow((void **)&all->texts, n, &all->text_cap, sizeof *all->texts);

	if (rc != 0)
		return rc;
	all->texts[n] = (struct job_text){.sequence = e->sequence,
	    .piece = (const char *)e->payload + split,
	    .len = e->payload_len - split,
	    .next = NONE};
	if (s->text == NONE)
		s->text = n;
	else
		all->texts[s->last_text].next = n;
	s->last_text = n;
	all->text_count++;
	row_of(all, s)->text_len += e->payload_len - split;
	return 0;
}

static void
end_row(struct stream_row *row, const struct journal_entry *e)
{
	const struct journal_record *r = &e->record;
	struct journal_end told = {.short_of = SHORT_UNKNOWN};

	row->voided = r->type == JOURNAL_VOID;
	row->outcome = r->outcome;
	row->charge = r->amount;
	row->uncollected = r->extra;
	row->cached = r->cached;
	row->completion = r->completion;
	if (r->version == JOURNAL_VERSION_TOLD && e->payload_len >= sizeof told)
		memcpy(&told, e->payload, sizeof told);
	else if (r->version == JOURNAL_VERSION_KINDS && e->payload_len >= sizeof told.split)
		memcpy(&told.split, e->payload, sizeof told.split);
	row->reasoning = told.split.reasoning;
	row->cache_write = told.split.cache_write;
	row->short_of = told.short_of;
	if (!row->voided)
		row->prompt = r->prompt;
	row->ended_us = r->time_us;
	row->settle_seq = e->sequence;
}

/* EXTEND, MARK, SETTLE, VOID. */
static int
take_progress(struct projection *p, const struct journal_entry *e)
{
	const struct journal_record *r = &e->record;
	size_t split = journal_head_len(r, e->payload, e->payload_len);
	struct job_stream *s;
	struct stream_row *row;
	int rc = slot_room(p->all, r->slot);

	if (rc != 0)
		return rc;
	if (p->all->by_slot[r->slot] != NONE)
		s = &p->all->streams[p->all->by_slot[r->slot]];
	else if ((rc = fetch(p, r->slot, &s)) != 0)
		return rc;
	if (s->kind == PASSED || s->kind == UNKNOWN)
		return 0;
	if (e->payload_len > split && (rc = take_text(p, s, e, split)) != 0)
		return rc;
	row = row_of(p->all, s);
	if (r->type == JOURNAL_SETTLE || r->type == JOURNAL_VOID) {
		end_row(row, e);
		return 0;
	}
	if (r->completion > row->completion)
		row->completion = r->completion;
	if (r->type == JOURNAL_EXTEND)
		row->reserved = r->extra;
	return 0;
}

/* Flushing. */

struct by_id {
	const uint8_t *id;
	uint32_t stream;
};

static int
compare_ids(const void *x, const void *y)
{
	const struct by_id *a = x, *b = y;
	int c = memcmp(a->id, b->id, 16);

	return c != 0 ? c : a->stream < b->stream ? -1 : a->stream > b->stream;
}

/*
 * The new streams' ids, in their order: neighbours are on the same page.  One that is known already
 * is passed over: nobody draws the same 128 random bits, so somebody else's row is not given away.
 */
static int
put_ids(struct projection *p, MDB_cursor *cursor)
{
	struct job_streams *all = p->all;
	struct by_id *ids = calloc((size_t)all->count + 1, sizeof *ids);
	uint32_t n = 0;
	int rc = 0;

	if (ids == NULL)
		return ENOMEM;
	for (uint32_t i = 0; i < all->count; i++)
		if (all->streams[i].kind == NEW)
			ids[n++] = (struct by_id){row_of(all, &all->streams[i])->stream_id, i};
	qsort(ids, n, sizeof *ids, compare_ids);
	for (uint32_t i = 0; i < n && rc == 0; i++) {
		struct job_stream *s = &all->streams[ids[i].stream];
		MDB_val key = {16, (void *)(uintptr_t)ids[i].id};
		MDB_val value = {sizeof s->sequence, &s->sequence};

		rc = mdb_cursor_put(cursor, &key, &value, MDB_NOOVERWRITE);
		if (rc == MDB_KEYEXIST) {
			s->kind = PASSED;
			rc = 0;
		}
	}
	free(ids);
	return rc;
}

/* What is new is behind all that is there. */
static unsigned
append_if(const struct job_stream *s)
{
	return s->kind == NEW ? MDB_APPEND : 0;
}

static int
put_rows(struct projection *p, MDB_cursor *cursor)
{
	int rc = 0;

	for (uint32_t i = 0; i < p->all->count && rc == 0; i++) {
		struct job_stream *s = &p->all->streams[p->all->order[i]];
		struct stream_row *row = row_of(p->all, s);
		MDB_val key = {sizeof s->sequence, &s->sequence}, value;

		if (s->kind != NEW && s->kind != FORMER)
			continue;
		value = (MDB_val){ROW_FIXED + row->model_len, row};
		rc = mdb_cursor_put(cursor, &key, &value, append_if(s));
	}
	return rc;
}

static int
put_texts(struct projection *p, MDB_cursor *cursor)
{
	int rc = 0;

	for (uint32_t i = 0; i < p->all->count; i++) {
		struct job_stream *s = &p->all->streams[p->all->order[i]];
		const struct job_text *t;

		if (s->kind != NEW && s->kind != FORMER)
			continue;
		for (uint32_t n = s->text; n != NONE && rc == 0; n = t->next) {
			struct text_key text;
			MDB_val key = {sizeof text, &text}, value;

			t = &p->all->texts[n];
			state_put_be64(text.stream, s->sequence);
			state_put_be64(text.sequence, t->sequence);
			value = (MDB_val){t->len, (void *)(uintptr_t)t->piece};
			rc = mdb_cursor_put(cursor, &key, &value, append_if(s));
		}
	}
	return rc;
}

/* Those that have ended.  (A stream that had, and goes on, there is none of.) */
static int
put_ends(struct projection *p, MDB_cursor *cursor)
{
	int rc = 0;

	for (uint32_t i = 0; i < p->all->count && rc == 0; i++) {
		struct job_stream *s = &p->all->streams[p->all->order[i]];
		struct stream_row *row = row_of(p->all, s);
		struct end_key end;
		MDB_val key = {sizeof end, &end}, value = {0, NULL};

		if ((s->kind != NEW && s->kind != FORMER) || row->ended_us == 0)
			continue;
		/* Expiry goes by what an ordinary one has left. */
		state_put_be64(end.time,
		    row->ended_us +
		        (row->keyed != 0 ? STATE_KEYED_KEPT_US - STATE_STREAM_KEPT_US : 0));
		state_put_be64(end.stream, s->sequence);
		rc = mdb_cursor_put(cursor, &key, &value, 0);
	}
	return rc;
}

/* The stream that each slot has in the end. */
static int
put_slots(struct projection *p, MDB_cursor *cursor)
{
	int rc = 0;

	for (uint32_t i = 0; i < p->all->count && rc == 0; i++) {
		struct job_stream *s = &p->all->streams[i];
		MDB_val key = {sizeof s->slot, &s->slot},
		        value = {sizeof s->sequence, &s->sequence};

		if (p->all->by_slot[s->slot] != i)
			continue;
		if (s->kind == NEW)
			rc = mdb_cursor_put(cursor, &key, &value, 0);
		else if (s->kind == PASSED &&
		         (rc = mdb_del(p->txn, p->st->db.slots, &key, NULL)) == MDB_NOTFOUND)
			rc = 0;
	}
	return rc;
}

static int
with_cursor(struct projection *p, MDB_dbi dbi, int (*put)(struct projection *, MDB_cursor *))
{
	MDB_cursor *cursor;
	int rc = mdb_cursor_open(p->txn, dbi, &cursor);

	if (rc != 0)
		return rc;
	rc = put(p, cursor);
	mdb_cursor_close(cursor);
	return rc;
}

/* In the order of their reserves: the former ones, which are fewer, then the new ones, which are. */
static int
compare_former(const void *x, const void *y, void *arg)
{
	const struct job_stream *streams = arg;
	uint64_t a = streams[*(const uint32_t *)x].sequence;
	uint64_t b = streams[*(const uint32_t *)y].sequence;

	return a < b ? -1 : a > b;
}

static int
make_order(struct job_streams *all)
{
	uint32_t n = 0, former, *p = realloc(all->order, ((size_t)all->count + 1) * sizeof *p);

	if (p == NULL)
		return ENOMEM;
	all->order = p;
	for (uint32_t i = 0; i < all->count; i++)
		if (all->streams[i].kind != NEW)
			p[n++] = i;
	former = n;
	for (uint32_t i = 0; i < all->count; i++)
		if (all->streams[i].kind == NEW)
			p[n++] = i;
	qsort_r(p, former, sizeof *p, compare_former, all->streams);
	return 0;
}

static int
flush(struct projection *p)
{
	const struct state_databases *db = &p->st->db;
	int rc = make_order(p->all);

	if (rc == 0)
		rc = with_cursor(p, db->ids, put_ids);
	if (rc == 0)
		rc = with_cursor(p, db->streams, put_rows);
	if (rc == 0)
		rc = with_cursor(p, db->texts, put_texts);
	if (rc == 0)
		rc = with_cursor(p, db->ends, put_ends);
	if (rc == 0)
		rc = with_cursor(p, db->slots, put_slots);
	return rc;
}

int
state_put_streams(struct state *st, MDB_txn *txn, struct journal_reader *journal,
    struct state_job *job, uint64_t *streams)
{
	struct projection p = {.st = st, .txn = txn, .now_us = job->order.now_us};
	size_t max_records = job->order.max_records;
	struct journal_cursor *c;
	struct journal_entry e;
	int rc = 0, more;

	job->played = 0;
	if (*streams >= job->order.last)
		return 0;
	if (job->streams == NULL && (job->streams = calloc(1, sizeof *job->streams)) == NULL)
		return ENOMEM;
	p.all = job->streams;
	clear(p.all);
	c = journal_cursor_new(journal, *streams + 1);
	if (c == NULL)
		return errno;
	while (job->played < max_records && (more = journal_cursor_next(c, &e)) != 0) {
		if (more < 0) {
			rc = errno;
			break;
		}
		/* Committed after the rows were taken: the next job's. */
		if (e.sequence > job->order.last)
			break;
		if (e.record.type == JOURNAL_RESERVE)
			rc = take_reserve(&p, &e);
		else if (e.record.type >= JOURNAL_EXTEND && e.record.type <= JOURNAL_VOID)
			rc = take_progress(&p, &e);
		if (rc != 0)
			break;
		*streams = e.sequence;
		job->played++;
		state_job_step(job);
	}
	/* The texts lie in the cursor's snapshot. */
	if (rc == 0)
		rc = flush(&p);
	journal_cursor_free(c);
	return rc;
}

static int
delete_texts(struct state *st, MDB_txn *txn, const uint8_t stream[static 8])
{
	struct text_key text = {.sequence = {0}};
	MDB_val key = {sizeof text, &text}, value;
	MDB_cursor *cursor;
	int rc = mdb_cursor_open(txn, st->db.texts, &cursor);

	if (rc != 0)
		return rc;
	memcpy(text.stream, stream, sizeof text.stream);
	rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
	while (rc == 0 && key.mv_size == sizeof text && memcmp(key.mv_data, stream, 8) == 0) {
		if ((rc = mdb_cursor_del(cursor, 0)) != 0)
			break;
		/* What the cursor points at after a deletion at a page's end is not said. */
		key = (MDB_val){sizeof text, &text};
		rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
	}
	mdb_cursor_close(cursor);
	return rc == MDB_NOTFOUND ? 0 : rc;
}

/* A stream and all that is there of it. */
static int
delete_stream(struct state *st, MDB_txn *txn, const uint8_t stream[static 8])
{
	uint64_t sequence = state_get_be64(stream);
	MDB_val key = {sizeof sequence, &sequence}, value;
	uint8_t id[16];
	int rc = mdb_get(txn, st->db.streams, &key, &value);

	if (rc != 0)
		return rc == MDB_NOTFOUND ? 0 : rc;
	if (value.mv_size < ROW_FIXED)
		return MDB_CORRUPTED;
	memcpy(id, (char *)value.mv_data + offsetof(struct stream_row, stream_id), sizeof id);
	if ((rc = delete_texts(st, txn, stream)) != 0 ||
	    (rc = mdb_del(txn, st->db.streams, &key, NULL)) != 0)
		return rc;
	key = (MDB_val){sizeof id, id};
	rc = mdb_del(txn, st->db.ids, &key, NULL);
	return rc == MDB_NOTFOUND ? 0 : rc;
}

int
state_expire(struct state *st, MDB_txn *txn, struct state_job *job)
{
	for (size_t i = 0; i < EXPIRE_MIN + job->played; i++) {
		MDB_cursor *cursor;
		MDB_val key, value;
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
		if (state_get_be64(end.time) + STATE_STREAM_KEPT_US > job->order.now_us)
			return 0;
		key = (MDB_val){sizeof end, &end};
		if ((rc = delete_stream(st, txn, end.stream)) != 0 ||
		    (rc = mdb_del(txn, st->db.ends, &key, NULL)) != 0)
			return rc;
		state_job_step(job);
	}
	return 0;
}
