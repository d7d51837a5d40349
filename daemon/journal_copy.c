/*
 * A copy of journal.mdb while it is written to.  Runs in the backup's helper process.
 *
 * Compacting, for two reasons: what is free in the file is not copied, and it takes nothing but a
 * read transaction.  LMDB's other way of copying holds the writers' lock while it writes two
 * pages: a slow disk under the copy would hold up the keeper's commits.
 */
#include "daemon/journal_copy.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/journal_private.h"

/* What the copy says about itself: that it can be opened, and its records.  An LMDB code. */
static int
look_at(const char *dir, const char *file, uint64_t *records)
{
	struct journal_reader r = {0};
	struct journal_base base;
	MDB_txn *txn;
	/* Without a lock: nobody else has it, and none is left behind. */
	int rc = journal_env(&r.env, dir, file, 0, MDB_RDONLY | MDB_NOLOCK);

	if (rc == 0 && (rc = mdb_txn_begin(r.env, NULL, MDB_RDONLY, &txn)) == 0) {
		if ((rc = journal_databases(&r, txn, 0)) == 0)
			rc = journal_last_key(txn, r.records, records);
		if (rc == 0 && (rc = journal_read_base(&r, txn, &base)) == 0)
			*records -= base.sequence;
		mdb_txn_abort(txn);
	}
	if (r.env != NULL)
		mdb_env_close(r.env);
	return rc;
}

int
journal_copy(const char *state_dir, const char *dir, const char *file, uint64_t *records,
    uint64_t *bytes, const char **why)
{
	int folder = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC), fd = -1, rc = 0;
	struct journal_reader *r = NULL;
	struct stat st;

	*why = NULL;
	if (folder < 0 ||
	    (fd = openat(folder, file, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600)) < 0)
		rc = errno;
	else if ((r = journal_reader_open(state_dir, why)) == NULL)
		rc = errno;
	else if ((rc = mdb_env_copyfd2(r->env, fd, MDB_CP_COMPACT)) == 0 &&
	    (fsync(fd) < 0 || fstat(fd, &st) < 0))
		rc = errno;
	journal_reader_close(r);
	if (rc == 0) {
		*bytes = (uint64_t)st.st_size;
		rc = look_at(dir, file, records);
	}
	if (rc != 0) {
		if (*why == NULL)
			*why = mdb_strerror(rc);
		if (fd >= 0)
			(void)unlinkat(folder, file, 0);
	}
	if (fd >= 0)
		close(fd);
	if (folder >= 0)
		close(folder);
	errno = rc > 0 ? rc : EIO;
	return rc == 0 ? 0 : -1;
}
