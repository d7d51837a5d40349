/*
 * Reading the history: a snapshot of one account's conversations.  Workers.
 *
 * Only rows of that account can be reached: its number is the first part of every key that is looked
 * for, and texts are found by the turns of a session that was found so.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/journal_history_rows.h"

struct history_view {
	struct journal_reader *reader;
	MDB_txn *txn;
	uint32_t account;
};

/* 1, 0, -1 with errno. */
static int
result(int rc)
{
	if (rc == 0)
		return 1;
	if (rc == MDB_NOTFOUND)
		return 0;
	errno = rc > 0 ? rc : EIO;
	return -1;
}

struct history_view *
history_view_new(struct journal_reader *r, uint32_t account)
{
	struct history_view *v = malloc(sizeof *v);
	int rc;

	if (v == NULL)
		return NULL;
	*v = (struct history_view){.reader = r, .account = account};
	rc = r->has_history ? journal_snapshot(r, &v->txn) : ENOENT;
	if (rc != 0) {
		free(v);
		(void)result(rc);
		return NULL;
	}
	return v;
}

void
history_view_free(struct history_view *v)
{
	if (v == NULL)
		return;
	mdb_txn_abort(v->txn);
	free(v);
}

int
history_session_get(struct history_view *v, const uint8_t id[static 16], struct history_session *s)
{
	struct history_session_key key;
	struct history_session_row row;
	MDB_val k = {sizeof key, &key}, value;
	int rc;

	journal_put_be32(key.account, v->account);
	memcpy(key.session, id, sizeof key.session);
	rc = mdb_get(v->txn, v->reader->history.sessions, &k, &value);
	if (rc == 0 && value.mv_size != sizeof row)
		rc = MDB_NOTFOUND;
	if (rc != 0)
		return result(rc);
	memcpy(&row, value.mv_data, sizeof row);
	memcpy(s->id, id, sizeof s->id);
	s->first = row.first;
	s->latest = row.latest;
	s->created_us = row.created_us;
	s->updated_us = row.updated_us;
	s->turns = row.turns;
	return 1;
}

/* The last entry below a key, and only if it begins with the same `same` bytes. */
static int
last_below(struct history_view *v, MDB_dbi dbi, const void *bound, size_t len, size_t same,
    MDB_val *key, MDB_val *value)
{
	MDB_cursor *cursor;
	int rc = mdb_cursor_open(v->txn, dbi, &cursor);

	if (rc != 0)
		return rc;
	*key = (MDB_val){len, (void *)(uintptr_t)bound};
	rc = mdb_cursor_get(cursor, key, value, MDB_SET_RANGE);
	rc = rc == MDB_NOTFOUND ? mdb_cursor_get(cursor, key, value, MDB_LAST)
	     : rc == 0          ? mdb_cursor_get(cursor, key, value, MDB_PREV)
	                        : rc;
	mdb_cursor_close(cursor);
	if (rc == 0 && (key->mv_size != len || memcmp(key->mv_data, bound, same) != 0))
		return MDB_NOTFOUND;
	return rc;
}

int
history_session_before(struct history_view *v, uint64_t before, struct history_session *s)
{
	struct history_list_key bound;
	struct history_list_row row;
	MDB_val key, value;
	int rc;

	journal_put_be32(bound.account, v->account);
	journal_put_be64(bound.latest, before);
	rc = last_below(
	    v, v->reader->history.list, &bound, sizeof bound, sizeof bound.account, &key, &value);
	if (rc == 0 && value.mv_size != sizeof row)
		rc = MDB_CORRUPTED;
	if (rc != 0)
		return result(rc);
	memcpy(&row, value.mv_data, sizeof row);
	/* The two are written together. */
	if ((rc = history_session_get(v, row.session, s)) != 0)
		return rc;
	return result(MDB_CORRUPTED);
}

/* Does the slot of a turn that has not ended still run it? */
static bool
is_open(struct history_view *v, uint32_t slot, uint64_t turn)
{
	struct history_open_row open;
	MDB_val key = {sizeof slot, &slot}, value;

	if (mdb_get(v->txn, v->reader->history.open, &key, &value) != 0 ||
	    value.mv_size != sizeof open)
		return false;
	memcpy(&open, value.mv_data, sizeof open);
	return open.turn == turn;
}

int
history_turn_before(struct history_view *v, const struct history_session *s, uint64_t before,
    struct history_turn *t)
{
	struct history_turn_key bound;
	struct history_turn_row row;
	MDB_val key, value;
	int rc;

	journal_put_be32(bound.session.account, v->account);
	memcpy(bound.session.session, s->id, sizeof bound.session.session);
	journal_put_be64(bound.turn, before);
	rc = last_below(
	    v, v->reader->history.turns, &bound, sizeof bound, sizeof bound.session, &key, &value);
	if (rc == 0 && (value.mv_size < sizeof row || value.mv_size > sizeof row + sizeof t->model))
		rc = MDB_CORRUPTED;
	if (rc != 0)
		return result(rc);
	memcpy(&bound, key.mv_data, sizeof bound);
	memcpy(&row, value.mv_data, sizeof row);
	/* A namesake's that was forgotten and is not removed yet. */
	if (journal_get_be64(bound.turn) < s->first)
		return 0;
	*t = (struct history_turn){
	    .sequence = journal_get_be64(bound.turn),
	    .opened_us = row.opened_us,
	    .ended_us = row.ended_us,
	    .charge = row.charge,
	    .generation = row.generation,
	    .prompt = row.prompt + row.cached,
	    .completion = row.completion,
	    .proc = row.proc,
	    .outcome = row.outcome,
	    .short_of = row.ended >> HISTORY_SHORT_SHIFT,
	    .model_len = (uint8_t)(value.mv_size - sizeof row),
	};
	memcpy(t->stream_id, row.stream_id, sizeof t->stream_id);
	memcpy(t->message_id, row.message_id, sizeof t->message_id);
	memcpy(t->model, (const char *)value.mv_data + sizeof row, t->model_len);
	t->lost = row.ended_us == 0 && !is_open(v, row.slot, t->sequence);
	return 1;
}

int
history_said(struct history_view *v, uint64_t turn, struct span *said)
{
	struct history_text_key first;
	MDB_val key = {sizeof first, &first}, value;
	int rc;

	journal_put_be64(first.turn, turn);
	journal_put_be64(first.sequence, turn);
	rc = mdb_get(v->txn, v->reader->history.texts, &key, &value);
	*said = rc == 0 ? (struct span){value.mv_data, value.mv_size} : (struct span){"", 0};
	return result(rc);
}

int
history_answer(struct history_view *v, uint64_t turn, struct buf *text, size_t *len)
{
	struct history_text_key from;
	MDB_val key = {sizeof from, &from}, value;
	MDB_cursor *cursor;
	int rc = mdb_cursor_open(v->txn, v->reader->history.texts, &cursor);

	*len = 0;
	if (rc != 0)
		return result(rc);
	journal_put_be64(from.turn, turn);
	journal_put_be64(from.sequence, turn + 1);
	for (rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
	     rc == 0 && key.mv_size == sizeof from &&
	     memcmp(key.mv_data, from.turn, sizeof from.turn) == 0;
	     rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) {
		*len += value.mv_size;
		if (text != NULL)
			buf_add(text, value.mv_data, value.mv_size);
	}
	mdb_cursor_close(cursor);
	if (text != NULL && text->failed)
		rc = ENOMEM;
	return rc == 0 || rc == MDB_NOTFOUND ? 1 : result(rc);
}
