/*
 * journal.mdb as a file: its environment, its databases, and what has to be on disk before
 * anything is built on it.  Whoever opens it; making and settling it is the keeper's.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "daemon/journal_private.h"

#define DRAFT_FILE JOURNAL_FILE ".new"

size_t
journal_map_bytes(size_t want)
{
	/* Reserved and given back at once.  LMDB's maps grow when they are full, so a small one
	 * is only work later. */
	for (; want > JOURNAL_MAP_MIN; want /= 2) {
		void *p = mmap(NULL, want, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		    -1, 0);

		if (p != MAP_FAILED) {
			munmap(p, want);
			break;
		}
	}
	return want;
}

int
journal_env(MDB_env **env, const char *state_dir, const char *file, size_t map_bytes,
    unsigned flags)
{
	char path[PATH_MAX];
	int rc = mdb_env_create(env);

	if (rc != 0) {
		*env = NULL;
		return rc;
	}
	if ((size_t)snprintf(path, sizeof path, "%s/%s", state_dir, file) >= sizeof path)
		return ENAMETOOLONG;
	if ((rc = mdb_env_set_maxdbs(*env, 16)) == 0 &&
	    (rc = mdb_env_set_maxreaders(*env, JOURNAL_READERS_MAX)) == 0 &&
	    (map_bytes == 0 || (rc = mdb_env_set_mapsize(*env, map_bytes)) == 0))
		/* NOTLS: a read transaction belongs to its object and not to the thread, so that
		 * an audit may walk while something else is looked up. */
		rc = mdb_env_open(*env, path, MDB_NOSUBDIR | MDB_NOTLS | flags, 0600);
	return rc;
}

struct named {
	const char *name;
	unsigned flags;
	MDB_dbi *dbi;
};

/* Tables that a journal of an earlier tolld lacks; the keeper makes them. */
static int
later_databases(const struct named *all, size_t n, MDB_txn *txn, unsigned flags, bool *there)
{
	int rc = 0;

	for (size_t i = 0; i < n && rc == 0; i++)
		rc = mdb_dbi_open(txn, all[i].name, all[i].flags | flags, all[i].dbi);
	*there = rc == 0;
	return rc == MDB_NOTFOUND ? 0 : rc;
}

static int
history_databases(struct journal_reader *r, MDB_txn *txn, unsigned flags)
{
	struct journal_history_databases *h = &r->history;
	const struct named all[] = {
	    {"history_sessions", 0, &h->sessions},
	    {"history_list", 0, &h->list},
	    {"history_counts", MDB_INTEGERKEY, &h->counts},
	    {"history_turns", 0, &h->turns},
	    {"history_texts", 0, &h->texts},
	    {"history_open", MDB_INTEGERKEY, &h->open},
	    {"history_gone", 0, &h->gone},
	};

	return later_databases(all, sizeof all / sizeof all[0], txn, flags, &r->has_history);
}

int
journal_databases(struct journal_reader *r, MDB_txn *txn, unsigned flags)
{
	int rc;

	if ((rc = mdb_dbi_open(txn, "records", MDB_INTEGERKEY | flags, &r->records)) == 0 &&
	    (rc = mdb_dbi_open(txn, "payloads", MDB_INTEGERKEY | flags, &r->payloads)) == 0 &&
	    (rc = mdb_dbi_open(txn, "batches", MDB_INTEGERKEY | flags, &r->batches)) == 0)
		rc = mdb_dbi_open(txn, "meta", flags, &r->meta);
	if (rc == 0)
		rc = mdb_dbi_open(txn, "checkpoint", MDB_INTEGERKEY | flags, &r->checkpoint);
	if (rc == 0)
		rc = history_databases(r, txn, flags);
	if (rc == 0)
		rc = later_databases(&(struct named){"receipts", 0, &r->receipts}, 1, txn, flags,
		    &r->has_receipts);
	return rc;
}

int
journal_last_key(MDB_txn *txn, MDB_dbi dbi, uint64_t *key)
{
	MDB_cursor *cursor;
	MDB_val k, v;
	int rc = mdb_cursor_open(txn, dbi, &cursor);

	*key = 0;
	if (rc != 0)
		return rc;
	rc = mdb_cursor_get(cursor, &k, &v, MDB_LAST);
	if (rc == 0)
		*key = journal_u64(&k);
	mdb_cursor_close(cursor);
	return rc == MDB_NOTFOUND ? 0 : rc;
}

/* So that the names in it are there after a power cut; an error number. */
int
journal_flush_folder(const char *state_dir)
{
	int fd = open(state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc;

	if (fd < 0)
		return errno;
	rc = fsync(fd) < 0 ? errno : 0;
	close(fd);
	return rc;
}

/*
 * A new file gets its name when it is whole.  LMDB writes the first two pages without a flush:
 * what a power cut leaves of them may be no database, and then nothing would tell a file that
 * never held anything from a damaged journal, which must not be begun anew.  An LMDB code.
 */
int
journal_make_file(const char *state_dir)
{
	char path[PATH_MAX], draft[PATH_MAX], lock[PATH_MAX];
	struct journal_reader r = {0};
	MDB_txn *txn;
	int rc;

	if ((size_t)snprintf(lock, sizeof lock, "%s/" DRAFT_FILE "-lock", state_dir) >= sizeof lock)
		return ENAMETOOLONG;
	(void)snprintf(path, sizeof path, "%s/" JOURNAL_FILE, state_dir);
	(void)snprintf(draft, sizeof draft, "%s/" DRAFT_FILE, state_dir);
	if (access(path, F_OK) == 0)
		return 0;
	if ((unlink(draft) < 0 && errno != ENOENT) || (unlink(lock) < 0 && errno != ENOENT))
		return errno;
	rc = journal_env(&r.env, state_dir, DRAFT_FILE, 0, 0);
	if (rc == 0 && (rc = mdb_txn_begin(r.env, NULL, 0, &txn)) == 0) {
		if ((rc = journal_databases(&r, txn, MDB_CREATE)) == 0)
			rc = mdb_txn_commit(txn);
		else
			mdb_txn_abort(txn);
	}
	if (r.env != NULL)
		mdb_env_close(r.env);
	(void)unlink(lock);
	if (rc == 0 && rename(draft, path) < 0)
		rc = errno;
	return rc;
}

/*
 * If the last commit failed at its last page, that page may be on disk all the same, while LMDB
 * has put back the one before it, in memory alone.  The next commit uses the failed one's pages
 * again; a power cut in the middle of that would leave the failed commit's root over pages that
 * are not its own.  So both roots go to disk as this process finds them, before anything is built
 * on them.  They are written and not just flushed: after a flush that failed, another one proves
 * nothing.
 */
int
journal_settle_roots(MDB_env *env)
{
	MDB_stat stat;
	int fd, rc;
	char *page;

	if ((rc = mdb_env_get_fd(env, &fd)) != 0 || (rc = mdb_env_stat(env, &stat)) != 0)
		return rc;
	page = malloc(stat.ms_psize);
	if (page == NULL)
		return ENOMEM;
	for (off_t i = 0; i < 2 && rc == 0; i++) {
		ssize_t len = (ssize_t)stat.ms_psize, there = pread(fd, page, (size_t)len, i * len);

		if (there >= 0 && there < len) {
			rc = MDB_INVALID; /* cut off: it never was whole, or is damaged */
			break;
		}
		errno = EIO; /* of a part */
		if (there < 0 || pwrite(fd, page, (size_t)len, i * len) != len)
			rc = errno;
	}
	if (rc == 0 && fdatasync(fd) < 0)
		rc = errno;
	free(page);
	return rc;
}
