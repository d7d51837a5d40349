/*
 * Filling state.mdb from the books, and the books from it.  Runs in the keeper.
 *
 * It has LMDB's default sync mode like the journal: without it a power cut may leave a file that
 * looks whole and is not, and nothing would tell us to rebuild it.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/journal_private.h"
#include "daemon/log.h"
#include "shm/fault.h"
#include "daemon/state_rows.h"

int
state_env(MDB_env **env, const char *state_dir, size_t map_bytes, unsigned flags)
{
	char path[PATH_MAX];
	int rc = mdb_env_create(env);

	if (rc != 0) {
		*env = NULL;
		return rc;
	}
	if ((size_t)snprintf(path, sizeof path, "%s/%s", state_dir, STATE_FILE) >= sizeof path)
		return ENAMETOOLONG;
	if ((rc = mdb_env_set_maxdbs(*env, 10)) == 0 &&
	    (rc = mdb_env_set_maxreaders(*env, STATE_READERS_MAX)) == 0 &&
	    (map_bytes == 0 || (rc = mdb_env_set_mapsize(*env, map_bytes)) == 0))
		rc = mdb_env_open(*env, path, MDB_NOSUBDIR | MDB_NOTLS | flags, 0600);
	return rc;
}

int
state_databases(struct state_databases *db, MDB_txn *txn, unsigned flags)
{
	const struct {
		const char *name;
		unsigned flags;
		MDB_dbi *dbi;
	} all[] = {
	    {"meta", 0, &db->meta},
	    {"accounts", MDB_INTEGERKEY, &db->accounts},
	    {"holds", MDB_INTEGERKEY, &db->holds},
	    {"keys", MDB_INTEGERKEY, &db->keys},
	    {"refs", 0, &db->refs},
	    {"prices", MDB_INTEGERKEY, &db->prices},
	    {"slots", MDB_INTEGERKEY, &db->slots},
	    {"streams", 0, &db->streams},
	    {"texts", 0, &db->texts},
	    {"ends", 0, &db->ends},
	};
	int rc = 0;

	for (size_t i = 0; i < sizeof all / sizeof all[0] && rc == 0; i++)
		rc = mdb_dbi_open(txn, all[i].name, all[i].flags | flags, all[i].dbi);
	return rc;
}

static MDB_val
meta_key(void)
{
	static char name[] = "progress";

	return (MDB_val){sizeof name - 1, name};
}

int
state_read_meta(MDB_txn *txn, const struct state_databases *db, struct state_progress *progress)
{
	struct state_meta_row row;
	MDB_val key = meta_key(), value;
	int rc = mdb_get(txn, db->meta, &key, &value);

	if (rc != 0)
		return rc;
	if (value.mv_size != sizeof row)
		return MDB_INCOMPATIBLE;
	memcpy(&row, value.mv_data, sizeof row);
	if (row.format != STATE_FORMAT)
		return MDB_INCOMPATIBLE;
	*progress = row.progress;
	return 0;
}

static int
put_meta(const struct state *st, MDB_txn *txn, const struct state_progress *progress)
{
	struct state_meta_row row = {.format = STATE_FORMAT, .progress = *progress};
	MDB_val key = meta_key(), value = {sizeof row, &row};

	return mdb_put(txn, st->db.meta, &key, &value, 0);
}

static int
open_file(struct state *st, size_t map_bytes)
{
	MDB_txn *txn;
	int rc = state_env(&st->env, st->state_dir, map_bytes, 0);

	if (rc == 0)
		rc = journal_settle_roots(st->env);
	if (rc == 0)
		rc = mdb_txn_begin(st->env, NULL, 0, &txn);
	if (rc != 0)
		return rc;
	rc = state_databases(&st->db, txn, MDB_CREATE);
	if (rc == 0) {
		rc = state_read_meta(txn, &st->db, &st->progress);
		if (rc == MDB_NOTFOUND) {
			st->progress = (struct state_progress){0};
			rc = put_meta(st, txn, &st->progress);
		}
	}
	if (rc == 0)
		return mdb_txn_commit(txn);
	mdb_txn_abort(txn);
	return rc;
}

struct state *
state_open(const char *state_dir, size_t map_bytes, const char **why)
{
	struct state *st = calloc(1, sizeof *st);
	int rc = ENOMEM;

	if (map_bytes == 0)
		map_bytes = journal_map_bytes(STATE_MAP_BYTES);
	if (st == NULL || (st->state_dir = strdup(state_dir)) == NULL)
		goto fail;
	rc = open_file(st, map_bytes);
	/* LMDB's own codes: not a database, damaged, of another version.  Nothing is lost by
	 * beginning anew.  (A full map can't be: the file has room for these rows.) */
	if (rc < 0) {
		log_warnx("state.mdb: %s; it is rebuilt from the journal", mdb_strerror(rc));
		if (st->env != NULL)
			mdb_env_close(st->env);
		st->env = NULL;
		state_remove(state_dir);
		rc = open_file(st, map_bytes);
	}
	if (rc == 0)
		return st;
fail:
	*why = mdb_strerror(rc);
	state_close(st);
	errno = rc > 0 ? rc : EINVAL;
	return NULL;
}

void
state_close(struct state *st)
{
	if (st == NULL)
		return;
	if (st->env != NULL)
		mdb_env_close(st->env);
	free(st->state_dir);
	free(st);
}

void
state_remove(const char *state_dir)
{
	char path[PATH_MAX];

	(void)snprintf(path, sizeof path, "%s/%s", state_dir, STATE_FILE);
	(void)unlink(path);
	(void)snprintf(path, sizeof path, "%s/%s-lock", state_dir, STATE_FILE);
	(void)unlink(path);
}

const struct state_progress *
state_progress(const struct state *st)
{
	return &st->progress;
}

void
state_check_readers(struct state *st)
{
	int dead = 0;

	if (mdb_reader_check(st->env, &dead) == 0 && dead > 0)
		log_info("state.mdb: %d dead readers forgotten", dead);
}

/* From rows to books: one loader per database. */

static int
load_account(struct books *b, const MDB_val *key, const MDB_val *value)
{
	struct account_row row;
	struct books_account a = {0};
	uint32_t number;

	memcpy(&number, key->mv_data, sizeof number);
	memcpy(&row, value->mv_data, sizeof row);
	if (value->mv_size != sizeof row + row.id_len)
		return -1;
	a.balance = row.balance;
	a.held = row.held;
	a.overdraft = row.overdraft;
	a.charged = row.charged;
	a.topups = row.topups;
	a.adjustments = row.adjustments;
	a.slack = row.slack;
	a.ending = row.ending;
	a.ending_us = row.ending_us;
	a.requests_per_minute = row.requests_per_minute;
	a.tokens_per_minute = row.tokens_per_minute;
	a.concurrent_streams = row.concurrent_streams;
	a.flags = (uint8_t)row.flags;
	return books_load_account(b, number, &a, (const char *)value->mv_data + sizeof row,
	    row.id_len);
}

static int
load_hold(struct books *b, const MDB_val *key, const MDB_val *value)
{
	struct hold_row row;
	struct books_hold h = {0};
	uint32_t slot;

	memcpy(&slot, key->mv_data, sizeof slot);
	memcpy(&row, value->mv_data, sizeof row);
	h.op = row.op;
	h.amount = row.amount;
	h.slack = row.slack;
	h.opened_us = row.opened_us;
	h.account = row.account;
	h.price = row.price;
	h.prompt = row.prompt;
	h.mark = row.mark;
	h.open = row.open != 0;
	h.answered_op = row.op;
	h.type = h.answered_type = (uint8_t)row.type;
	h.answered_status = RING_APPLIED;
	return books_load_hold(b, slot, &h);
}

static int
load_key(struct books *b, const MDB_val *key, const MDB_val *value)
{
	struct key_row row;
	struct books_key k = {0};

	(void)key;
	memcpy(&row, value->mv_data, sizeof row);
	if (value->mv_size != sizeof row + row.label_len)
		return -1;
	memcpy(k.hash, row.hash, sizeof k.hash);
	k.key_id = row.key_id;
	k.expires_us = row.expires_us;
	k.created_us = row.created_us;
	k.account = row.account;
	k.scopes = row.scopes;
	k.flags = row.flags;
	k.label_len = row.label_len;
	return books_load_key(b, &k, (const char *)value->mv_data + sizeof row);
}

static int
load_ref(struct books *b, const MDB_val *key, const MDB_val *value)
{
	struct ref_row row;
	struct books_ref ref;

	if (key->mv_size != sizeof ref.id)
		return -1;
	memcpy(&row, value->mv_data, sizeof row);
	memcpy(ref.id, key->mv_data, sizeof ref.id);
	ref.sequence = row.sequence;
	ref.amount = row.amount;
	ref.balance = row.balance;
	return books_load_ref(b, &ref);
}

static int
load_price(struct books *b, const MDB_val *key, const MDB_val *value)
{
	struct price price;
	uint32_t id;

	memcpy(&id, key->mv_data, sizeof id);
	memcpy(&price, value->mv_data, sizeof price);
	return books_load_price(b, id, &price, (const char *)value->mv_data + sizeof price,
	    value->mv_size - sizeof price);
}

static int
load_all(MDB_txn *txn, MDB_dbi dbi, size_t row_size, struct books *b,
    int (*load)(struct books *, const MDB_val *, const MDB_val *))
{
	MDB_cursor *cursor;
	MDB_val key, value;
	int rc = mdb_cursor_open(txn, dbi, &cursor);

	if (rc != 0)
		return rc;
	while ((rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0)
		if (value.mv_size < row_size || load(b, &key, &value) < 0) {
			rc = MDB_CORRUPTED;
			break;
		}
	mdb_cursor_close(cursor);
	return rc == MDB_NOTFOUND ? 0 : rc;
}

int
state_load(struct state *st, struct books *b)
{
	MDB_txn *txn;
	int rc = mdb_txn_begin(st->env, NULL, MDB_RDONLY, &txn);

	if (rc != 0)
		return -1;
	/* Accounts and prices first: the others refer to them. */
	if ((rc = load_all(txn, st->db.accounts, sizeof(struct account_row), b,
		 load_account)) == 0 &&
	    (rc = load_all(txn, st->db.prices, sizeof(struct price), b, load_price)) == 0 &&
	    (rc = load_all(txn, st->db.holds, sizeof(struct hold_row), b, load_hold)) == 0 &&
	    (rc = load_all(txn, st->db.keys, sizeof(struct key_row), b, load_key)) == 0)
		rc = load_all(txn, st->db.refs, sizeof(struct ref_row), b, load_ref);
	mdb_txn_abort(txn);
	books_changes_clear(b);
	return rc == 0 ? 0 : -1;
}

/* From books to rows. */

/* A row and the text behind it. */
static int
put_row(MDB_txn *txn, MDB_dbi dbi, MDB_val key, const void *row, size_t row_size,
    const void *text, size_t text_len)
{
	MDB_val value = {row_size + text_len, NULL};
	int rc = mdb_put(txn, dbi, &key, &value, MDB_RESERVE);

	if (rc != 0)
		return rc;
	memcpy(value.mv_data, row, row_size);
	if (text_len > 0)
		memcpy((char *)value.mv_data + row_size, text, text_len);
	return 0;
}

static int
put_account(struct state *st, MDB_txn *txn, const struct books *b, uint32_t number)
{
	const struct books_account *a = books_account(b, number);
	size_t id_len;
	const char *id = books_account_id(b, number, &id_len);
	struct account_row row = {
	    .balance = a->balance,
	    .held = a->held,
	    .overdraft = a->overdraft,
	    .charged = a->charged,
	    .topups = a->topups,
	    .adjustments = a->adjustments,
	    .slack = a->slack,
	    .ending = a->ending,
	    .ending_us = a->ending_us,
	    .requests_per_minute = a->requests_per_minute,
	    .tokens_per_minute = a->tokens_per_minute,
	    .concurrent_streams = a->concurrent_streams,
	    .flags = a->flags,
	    .id_len = (uint32_t)id_len,
	};

	return put_row(txn, st->db.accounts, (MDB_val){sizeof number, &number}, &row, sizeof row,
	    id, id_len);
}

static int
put_hold(struct state *st, MDB_txn *txn, const struct books *b, uint32_t slot)
{
	const struct books_hold *h = books_hold(b, slot);
	struct hold_row row = {
	    .op = h->op,
	    .amount = h->amount,
	    .slack = h->slack,
	    .opened_us = h->opened_us,
	    .account = h->account,
	    .price = h->price,
	    .prompt = h->prompt,
	    .mark = h->mark,
	    .open = h->open,
	    .type = h->type,
	};

	return put_row(txn, st->db.holds, (MDB_val){sizeof slot, &slot}, &row, sizeof row, NULL, 0);
}

static int
put_key(struct state *st, MDB_txn *txn, const struct books *b, uint32_t index)
{
	const struct books_key *k = books_key(b, index);
	uint64_t key_id = k->key_id;
	struct key_row row = {
	    .key_id = k->key_id,
	    .expires_us = k->expires_us,
	    .created_us = k->created_us,
	    .account = k->account,
	    .scopes = k->scopes,
	    .flags = k->flags,
	    .label_len = k->label_len,
	};

	memcpy(row.hash, k->hash, sizeof row.hash);
	return put_row(txn, st->db.keys, (MDB_val){sizeof key_id, &key_id}, &row, sizeof row,
	    books_key_label(b, k), k->label_len);
}

static int
put_ref(struct state *st, MDB_txn *txn, const struct books *b, uint32_t index)
{
	const struct books_ref *ref = books_ref(b, index);
	struct ref_row row = {ref->sequence, ref->amount, ref->balance};

	return put_row(txn, st->db.refs, (MDB_val){sizeof ref->id, (void *)(uintptr_t)ref->id},
	    &row, sizeof row, NULL, 0);
}

static int
put_price(struct state *st, MDB_txn *txn, const struct books *b, uint32_t id)
{
	const struct books_price *p = books_price(b, id);

	return put_row(txn, st->db.prices, (MDB_val){sizeof id, &id}, &p->price, sizeof p->price,
	    books_price_model(b, p), p->model_len);
}

static int
put_books(struct state *st, MDB_txn *txn, const struct books *b)
{
	struct books_changes c;
	int rc = 0;

	books_changes(b, &c);
	for (size_t i = 0; i < c.accounts && rc == 0; i++)
		rc = put_account(st, txn, b, c.account[i]);
	for (size_t i = 0; i < c.slots && rc == 0; i++)
		rc = put_hold(st, txn, b, c.slot[i]);
	for (size_t i = 0; i < c.keys && rc == 0; i++)
		rc = put_key(st, txn, b, c.key[i]);
	for (uint32_t i = c.refs_from; i < books_refs(b) && rc == 0; i++)
		rc = put_ref(st, txn, b, i);
	for (uint32_t i = c.prices_from; i < books_prices(b) && rc == 0; i++)
		rc = put_price(st, txn, b, i);
	return rc;
}

static int
project(struct state *st, const struct books *b, struct journal_reader *journal, uint64_t last,
    size_t max_records, uint64_t now_us, struct state_progress *progress)
{
	MDB_txn *txn;
	int rc = mdb_txn_begin(st->env, NULL, 0, &txn);

	if (rc != 0)
		return rc;
	*progress = st->progress;
	rc = put_books(st, txn, b);
	progress->applied = last;
	if (rc == 0)
		rc = state_put_streams(st, txn, journal, last, max_records, b, now_us,
		    &progress->streams);
	if (rc == 0)
		rc = state_expire(st, txn, now_us);
	if (rc == 0 && memcmp(progress, &st->progress, sizeof *progress) != 0)
		rc = put_meta(st, txn, progress);
	FAULT("project.put");
	if (rc == 0)
		return mdb_txn_commit(txn);
	mdb_txn_abort(txn);
	return rc;
}

int
state_project(struct state *st, struct books *b, struct journal_reader *journal, uint64_t last,
    size_t max_records, uint64_t now_us)
{
	struct state_progress progress;
	MDB_envinfo info;
	int rc;

	while ((rc = project(st, b, journal, last, max_records, now_us, &progress)) ==
	    MDB_MAP_FULL) {
		rc = mdb_env_info(st->env, &info);
		if (rc == 0)
			rc = mdb_env_set_mapsize(st->env, 2 * info.me_mapsize);
		if (rc != 0)
			break;
	}
	if (rc != 0) {
		log_warnx("state.mdb: %s", mdb_strerror(rc));
		/* Its own codes mean that the file is damaged: it can be rebuilt, so away. */
		if (rc < 0)
			state_remove(st->state_dir);
		errno = rc > 0 ? rc : EIO;
		return -1;
	}
	FAULT("project.committed");
	st->progress = progress;
	books_changes_clear(b);
	return 0;
}
