/*
 * state.mdb as a file, and the books from it.  Runs in the keeper; how it is filled is in
 * state_job.c.
 *
 * It has LMDB's default sync mode like the journal: without it a power cut may leave a file that
 * looks whole and is not, and nothing would tell us to rebuild it.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/journal_private.h"
#include "daemon/log.h"
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
	if ((rc = mdb_env_set_maxdbs(*env, 16)) == 0 &&
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
	    {"price_sets", MDB_INTEGERKEY, &db->price_sets},
	    {"ids", 0, &db->ids},
	    {"slots", MDB_INTEGERKEY, &db->slots},
	    {"streams", MDB_INTEGERKEY, &db->streams},
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

int
state_put_meta(const struct state *st, MDB_txn *txn, const struct state_progress *progress)
{
	struct state_meta_row row = {.format = STATE_FORMAT, .progress = *progress};
	MDB_val key = meta_key(), value = {sizeof row, &row};

	return mdb_put(txn, st->db.meta, &key, &value, 0);
}

/* Best effort: without it those who run now do not find the next state.mdb. */
static void
make_next_lock(const struct state *st)
{
	char path[PATH_MAX];
	int fd;

	(void)snprintf(path, sizeof path, "%s/" STATE_NEXT_LOCK_FILE, st->state_dir);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd >= 0)
		close(fd);
}

static int
open_file(struct state *st, size_t map_bytes)
{
	MDB_txn *txn;
	int rc = state_env(&st->env, st->state_dir, map_bytes, 0);

	if (rc == 0)
		make_next_lock(st);
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
			rc = state_put_meta(st, txn, &st->progress);
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
	char path[PATH_MAX], next[PATH_MAX];

	(void)snprintf(path, sizeof path, "%s/" STATE_FILE, state_dir);
	(void)unlink(path);
	(void)snprintf(path, sizeof path, "%s/" STATE_LOCK_FILE, state_dir);
	(void)snprintf(next, sizeof next, "%s/" STATE_NEXT_LOCK_FILE, state_dir);
	/* A lock file is never used again for another file: it is empty, so LMDB begins it. */
	if (rename(next, path) < 0)
		(void)unlink(path);
}

const struct state_progress *
state_progress(const struct state *st)
{
	return &st->progress;
}

MDB_dbi
state_database(const struct state *st, enum books_table table)
{
	const MDB_dbi dbi[ROWS_TABLES] = {
	    [ROWS_ACCOUNTS] = st->db.accounts,
	    [ROWS_PRICES] = st->db.prices,
	    [ROWS_HOLDS] = st->db.holds,
	    [ROWS_KEYS] = st->db.keys,
	    [ROWS_REFS] = st->db.refs,
	    [ROWS_PRICE_SETS] = st->db.price_sets,
	};

	return dbi[table];
}

struct load {
	struct books *books;
	state_tell *tell;
	void *arg;
	uint64_t done, of; /* rows, of all tables */
};

static int
load_table(struct state *st, MDB_txn *txn, enum books_table table, struct load *l)
{
	MDB_cursor *cursor;
	MDB_val key, value;
	int rc = mdb_cursor_open(txn, state_database(st, table), &cursor);

	if (rc != 0)
		return rc;
	while ((rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0) {
		if (books_row_load(l->books, table, key.mv_data, key.mv_size, value.mv_data,
			value.mv_size) < 0) {
			rc = MDB_CORRUPTED;
			break;
		}
		if (++l->done % STATE_TELL_ROWS == 0 && l->tell != NULL)
			l->tell(l->arg, l->done, l->of);
	}
	mdb_cursor_close(cursor);
	return rc == MDB_NOTFOUND ? 0 : rc;
}

int
state_load(struct state *st, struct books *b, state_tell *tell, void *arg)
{
	struct load l = {.books = b, .tell = tell, .arg = arg};
	MDB_txn *txn;
	MDB_stat stat;
	int rc = mdb_txn_begin(st->env, NULL, MDB_RDONLY, &txn);

	if (rc != 0)
		return -1;
	for (int table = 0; table < ROWS_TABLES; table++)
		if (mdb_stat(txn, state_database(st, (enum books_table)table), &stat) == 0)
			l.of += stat.ms_entries;
	for (int table = 0; table < ROWS_TABLES && rc == 0; table++)
		rc = load_table(st, txn, (enum books_table)table, &l);
	mdb_txn_abort(txn);
	/* The rows came in the order of their ids. */
	books_refs_sort(b);
	books_changes_clear(b);
	return rc == 0 ? 0 : -1;
}
