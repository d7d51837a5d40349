/*
 * Reading state.mdb.  Workers and admin.
 *
 * A damaged file is removed and rebuilt by the keeper under the same name; a reader that held on
 * to the old one would see the past for ever.  So each look compares the file's inode, which
 * costs a microsecond.
 */
#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "daemon/state_rows.h"

struct state_reader {
	MDB_env *env; /* NULL: the last attempt to open it anew failed */
	struct state_databases db;
	char *state_dir;
	dev_t dev;
	ino_t ino;
	unsigned walks; /* open ones: they keep the environment */
};

struct state_walk {
	struct state_reader *reader;
	MDB_txn *txn;
	MDB_cursor *cursor;
	struct state_progress progress;
};

static int
stat_file(const struct state_reader *r, struct stat *st)
{
	char path[PATH_MAX];

	(void)snprintf(path, sizeof path, "%s/%s", r->state_dir, STATE_FILE);
	return stat(path, st) == 0 ? 0 : errno;
}

/* An LMDB code. */
static int
reader_env(struct state_reader *r)
{
	struct state_progress progress;
	struct stat st;
	MDB_txn *txn;
	int rc = stat_file(r, &st);

	if (rc != 0)
		return rc;
	if ((rc = state_env(&r->env, r->state_dir, 0, MDB_RDONLY)) == 0 &&
	    (rc = mdb_txn_begin(r->env, NULL, MDB_RDONLY, &txn)) == 0) {
		if ((rc = state_databases(&r->db, txn, 0)) == 0)
			rc = state_read_meta(txn, &r->db, &progress);
		if (rc == 0)
			rc = mdb_txn_commit(txn); /* keeps the database handles */
		else
			mdb_txn_abort(txn);
	}
	if (rc != 0) {
		if (r->env != NULL)
			mdb_env_close(r->env);
		r->env = NULL;
		return rc;
	}
	r->dev = st.st_dev;
	r->ino = st.st_ino;
	return 0;
}

struct state_reader *
state_reader_open(const char *state_dir, const char **why)
{
	struct state_reader *r = calloc(1, sizeof *r);
	int rc = ENOMEM;

	if (r != NULL && (r->state_dir = strdup(state_dir)) != NULL &&
	    (rc = reader_env(r)) == 0)
		return r;
	*why = mdb_strerror(rc);
	state_reader_close(r);
	errno = rc > 0 ? rc : EINVAL;
	return NULL;
}

void
state_reader_close(struct state_reader *r)
{
	if (r == NULL)
		return;
	if (r->env != NULL)
		mdb_env_close(r->env);
	free(r->state_dir);
	free(r);
}

static int
failed(int rc)
{
	errno = rc > 0 ? rc : EIO;
	return -1;
}

/* Begin a look; an LMDB code. */
static int
begin(struct state_reader *r, MDB_txn **txn)
{
	struct stat st;
	int rc;

	if (r->walks == 0 && (r->env == NULL || stat_file(r, &st) != 0 || st.st_ino != r->ino ||
	    st.st_dev != r->dev)) {
		if (r->env != NULL)
			mdb_env_close(r->env);
		r->env = NULL;
		if ((rc = reader_env(r)) != 0)
			return rc;
	}
	rc = mdb_txn_begin(r->env, NULL, MDB_RDONLY, txn);
	if (rc == MDB_MAP_RESIZED && (rc = mdb_env_set_mapsize(r->env, 0)) == 0)
		rc = mdb_txn_begin(r->env, NULL, MDB_RDONLY, txn);
	return rc;
}

/* The end of every look. */
static int
finish(MDB_txn *txn, int rc)
{
	mdb_txn_abort(txn);
	if (rc == MDB_NOTFOUND)
		return 0;
	return rc == 0 ? 1 : failed(rc);
}

/* The first row at or after a key. */
static int
first_from(MDB_txn *txn, MDB_dbi dbi, MDB_val *key, MDB_val *value)
{
	MDB_cursor *cursor;
	int rc = mdb_cursor_open(txn, dbi, &cursor);

	if (rc == 0) {
		rc = mdb_cursor_get(cursor, key, value, MDB_SET_RANGE);
		mdb_cursor_close(cursor);
	}
	return rc;
}

static int
read_text(struct state_reader *r, MDB_txn *txn, uint64_t stream, struct buf *text)
{
	struct text_key from = {.sequence = {0}};
	MDB_val key = {sizeof from, &from}, value;
	MDB_cursor *cursor;
	int rc = mdb_cursor_open(txn, r->db.texts, &cursor);

	if (rc != 0)
		return rc;
	state_put_be64(from.stream, stream);
	for (rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
	     rc == 0 && key.mv_size == sizeof from &&
	     memcmp(key.mv_data, from.stream, sizeof from.stream) == 0;
	     rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT))
		buf_add(text, value.mv_data, value.mv_size);
	mdb_cursor_close(cursor);
	if (text->failed)
		return ENOMEM;
	return rc == MDB_NOTFOUND ? 0 : rc;
}

int
state_stream_get(struct state_reader *r, const uint8_t id[static 16], struct stream_row *row,
    struct buf *text)
{
	MDB_val key = {16, (void *)(uintptr_t)id}, value;
	uint64_t stream;
	MDB_txn *txn;
	int rc = begin(r, &txn);

	if (rc != 0)
		return failed(rc);
	rc = mdb_get(txn, r->db.ids, &key, &value);
	if (rc == 0 && value.mv_size != sizeof stream)
		rc = MDB_CORRUPTED;
	if (rc == 0) {
		memcpy(&stream, value.mv_data, sizeof stream);
		key = (MDB_val){sizeof stream, &stream};
		rc = mdb_get(txn, r->db.streams, &key, &value);
	}
	if (rc == 0 && (value.mv_size < offsetof(struct stream_row, model) ||
	    value.mv_size > sizeof *row))
		rc = MDB_CORRUPTED;
	if (rc == 0) {
		memset(row, 0, sizeof *row);
		memcpy(row, value.mv_data, value.mv_size);
		if (row->model_len > sizeof row->model)
			rc = MDB_CORRUPTED;
		else if (text != NULL)
			rc = read_text(r, txn, stream, text);
	}
	return finish(txn, rc);
}

static int
account_from(const MDB_val *key, const MDB_val *value, struct state_account *a)
{
	struct account_row row;

	if (key->mv_size != sizeof a->number || value->mv_size < sizeof row)
		return MDB_CORRUPTED;
	memcpy(&a->number, key->mv_data, sizeof a->number);
	memcpy(&row, value->mv_data, sizeof row);
	if (row.id_len > sizeof a->id || value->mv_size != sizeof row + row.id_len)
		return MDB_CORRUPTED;
	a->balance = row.balance;
	a->held = row.held;
	a->overdraft = row.overdraft;
	a->charged = row.charged;
	a->topups = row.topups;
	a->adjustments = row.adjustments;
	a->uncollected = row.uncollected;
	a->requests_per_minute = row.requests_per_minute;
	a->tokens_per_minute = row.tokens_per_minute;
	a->concurrent_streams = row.concurrent_streams;
	a->flags = row.flags;
	for (int i = 0; i < BUDGETS; i++) {
		a->budget[i].cap = row.budget[i].cap;
		memcpy(a->budget[i].used, row.budget[i].used, sizeof a->budget[i].used);
		memcpy(a->budget[i].window, row.budget[i].window, sizeof a->budget[i].window);
	}
	a->id_len = row.id_len;
	memcpy(a->id, (const char *)value->mv_data + sizeof row, row.id_len);
	return 0;
}

int
state_account_next(struct state_reader *r, uint32_t from, struct state_account *a)
{
	MDB_val key = {sizeof from, &from}, value;
	MDB_txn *txn;
	int rc = begin(r, &txn);

	if (rc != 0)
		return failed(rc);
	rc = first_from(txn, r->db.accounts, &key, &value);
	return finish(txn, rc == 0 ? account_from(&key, &value, a) : rc);
}

int
state_key_next(struct state_reader *r, uint64_t from, struct state_key *k)
{
	MDB_val key = {sizeof from, &from}, value;
	struct key_row row;
	MDB_txn *txn;
	int rc = begin(r, &txn);

	if (rc != 0)
		return failed(rc);
	rc = first_from(txn, r->db.keys, &key, &value);
	if (rc == 0 && value.mv_size < sizeof row)
		rc = MDB_CORRUPTED;
	if (rc == 0) {
		memcpy(&row, value.mv_data, sizeof row);
		if (value.mv_size != sizeof row + row.label_len + row.models_len ||
		    row.models_len > sizeof k->models)
			return finish(txn, MDB_CORRUPTED);
		k->key_id = row.key_id;
		k->expires_us = row.expires_us;
		k->created_us = row.created_us;
		k->account = row.account;
		k->scopes = row.scopes;
		k->flags = row.flags;
		k->label_len = row.label_len;
		if (k->label_len > sizeof k->label)
			k->label_len = sizeof k->label;
		memcpy(k->label, (const char *)value.mv_data + sizeof row, k->label_len);
		k->models_len = row.models_len;
		memcpy(k->models, (const char *)value.mv_data + sizeof row + row.label_len,
		    k->models_len);
	}
	return finish(txn, rc);
}

int
state_price_get(struct state_reader *r, uint32_t price_id, struct state_price *p)
{
	MDB_val key = {sizeof price_id, &price_id}, value;
	MDB_txn *txn;
	int rc = begin(r, &txn);

	if (rc != 0)
		return failed(rc);
	rc = mdb_get(txn, r->db.prices, &key, &value);
	if (rc == 0 && value.mv_size < sizeof p->price)
		rc = MDB_CORRUPTED;
	if (rc == 0) {
		size_t len = value.mv_size - sizeof p->price;

		memcpy(&p->price, value.mv_data, sizeof p->price);
		p->model_len = (uint32_t)(len < sizeof p->model ? len : sizeof p->model);
		memcpy(p->model, (const char *)value.mv_data + sizeof p->price, p->model_len);
	}
	return finish(txn, rc);
}

int
state_applied(struct state_reader *r, struct state_progress *progress)
{
	MDB_txn *txn;
	int rc = begin(r, &txn);

	if (rc != 0)
		return failed(rc);
	return finish(txn, state_read_meta(txn, &r->db, progress));
}

struct state_walk *
state_walk_new(struct state_reader *r)
{
	struct state_walk *w = calloc(1, sizeof *w);
	int rc;

	if (w == NULL)
		return NULL;
	w->reader = r;
	if ((rc = begin(r, &w->txn)) != 0) {
		free(w);
		(void)failed(rc);
		return NULL;
	}
	r->walks++;
	if ((rc = state_read_meta(w->txn, &r->db, &w->progress)) != 0 ||
	    (rc = mdb_cursor_open(w->txn, r->db.accounts, &w->cursor)) != 0) {
		state_walk_free(w);
		(void)failed(rc);
		return NULL;
	}
	return w;
}

void
state_walk_free(struct state_walk *w)
{
	if (w == NULL)
		return;
	if (w->cursor != NULL)
		mdb_cursor_close(w->cursor);
	mdb_txn_abort(w->txn);
	w->reader->walks--;
	free(w);
}

const struct state_progress *
state_walk_progress(const struct state_walk *w)
{
	return &w->progress;
}

int
state_walk_next(struct state_walk *w, struct state_account *a)
{
	MDB_val key, value;
	int rc = mdb_cursor_get(w->cursor, &key, &value, MDB_NEXT);

	if (rc == 0)
		rc = account_from(&key, &value, a);
	if (rc == MDB_NOTFOUND)
		return 0;
	return rc == 0 ? 1 : failed(rc);
}
