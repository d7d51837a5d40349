/*
 * Writing journal.mdb.  Runs in the keeper.
 *
 * Default sync mode only: of NOSYNC, NOMETASYNC and WRITEMAP the first two lose acknowledged
 * commits in a power cut and the third turns a full disk into a SIGBUS.
 */
#include "daemon/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "daemon/journal_private.h"
#include "daemon/log.h"
#include "shm/fault.h"

#define DRAFT_FILE JOURNAL_FILE ".new"

struct staged {
	uint64_t sequence;
	struct journal_record record;
	size_t payload_at;
};

struct journal {
	struct journal_reader reader; /* the environment and its databases */
	struct journal_chain *chain;
	uint8_t link[JOURNAL_LINK_LEN]; /* of the last committed batch */
	uint64_t last;
	struct journal_positions rings;
	struct staged *staged;
	size_t count, cap;
	struct buf payloads;
};

struct journal_chain {
	EVP_MD *md;
	EVP_MD_CTX *ctx;
};

struct journal_chain *
journal_chain_new(void)
{
	struct journal_chain *c = calloc(1, sizeof *c);

	if (c == NULL)
		return NULL;
	/* Fetched once: a look-up in the provider per batch would cost more than the hash. */
	c->md = EVP_MD_fetch(NULL, "SHA256", NULL);
	c->ctx = EVP_MD_CTX_new();
	if (c->md == NULL || c->ctx == NULL) {
		journal_chain_free(c);
		return NULL;
	}
	return c;
}

void
journal_chain_free(struct journal_chain *c)
{
	if (c == NULL)
		return;
	EVP_MD_CTX_free(c->ctx);
	EVP_MD_free(c->md);
	free(c);
}

void
journal_chain_begin(struct journal_chain *c, const uint8_t previous[static JOURNAL_LINK_LEN])
{
	if (EVP_DigestInit_ex2(c->ctx, c->md, NULL) != 1)
		fatalx("SHA-256 failed");
	journal_chain_add(c, previous, JOURNAL_LINK_LEN);
}

void
journal_chain_add(struct journal_chain *c, const void *bytes, size_t len)
{
	if (EVP_DigestUpdate(c->ctx, bytes, len) != 1)
		fatalx("SHA-256 failed");
}

void
journal_chain_end(struct journal_chain *c, uint8_t link[static JOURNAL_LINK_LEN])
{
	unsigned int len;

	if (EVP_DigestFinal_ex(c->ctx, link, &len) != 1 || len != JOURNAL_LINK_LEN)
		fatalx("SHA-256 failed");
}

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
	if ((rc = mdb_env_set_maxdbs(*env, 4)) == 0 &&
	    (rc = mdb_env_set_maxreaders(*env, JOURNAL_READERS_MAX)) == 0 &&
	    (map_bytes == 0 || (rc = mdb_env_set_mapsize(*env, map_bytes)) == 0))
		/* NOTLS: a read transaction belongs to its object and not to the thread, so that
		 * an audit may walk while something else is looked up. */
		rc = mdb_env_open(*env, path, MDB_NOSUBDIR | MDB_NOTLS | flags, 0600);
	return rc;
}

int
journal_databases(struct journal_reader *r, MDB_txn *txn, unsigned flags)
{
	int rc;

	if ((rc = mdb_dbi_open(txn, "records", MDB_INTEGERKEY | flags, &r->records)) == 0 &&
	    (rc = mdb_dbi_open(txn, "payloads", MDB_INTEGERKEY | flags, &r->payloads)) == 0 &&
	    (rc = mdb_dbi_open(txn, "batches", MDB_INTEGERKEY | flags, &r->batches)) == 0)
		rc = mdb_dbi_open(txn, "meta", flags, &r->meta);
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

static MDB_val
text_val(const char *text)
{
	return (MDB_val){strlen(text), (void *)(uintptr_t)text};
}

/*
 * What the file says about itself; creates it if there is nothing.  Returns an LMDB code, or 0
 * with *why if it is not one that we can go on with.
 */
static int
read_meta(struct journal *j, MDB_txn *txn, const char **why)
{
	MDB_val key = text_val("version"), value;
	uint32_t version = JOURNAL_FORMAT;
	struct journal_batch batch;
	uint64_t last_batch;
	int rc;

	if ((rc = journal_last_key(txn, j->reader.records, &j->last)) != 0 ||
	    (rc = journal_last_key(txn, j->reader.batches, &last_batch)) != 0)
		return rc;
	rc = mdb_get(txn, j->reader.meta, &key, &value);
	if (rc == MDB_NOTFOUND && j->last == 0) {
		value = (MDB_val){sizeof version, &version};
		return mdb_put(txn, j->reader.meta, &key, &value, 0);
	}
	if (rc != 0)
		return rc;
	if (value.mv_size != sizeof version ||
	    memcmp(value.mv_data, &version, sizeof version) != 0) {
		*why = "journal.mdb is of another version";
		return 0;
	}
	key = text_val("rings");
	rc = mdb_get(txn, j->reader.meta, &key, &value);
	if (rc == 0 && value.mv_size == sizeof j->rings)
		memcpy(&j->rings, value.mv_data, sizeof j->rings);
	else if (rc != MDB_NOTFOUND)
		return rc != 0 ? rc : MDB_CORRUPTED;
	if (j->last != last_batch) {
		*why = "journal.mdb is damaged: its last record is in no batch";
		return 0;
	}
	if (j->last == 0)
		return 0;
	key = (MDB_val){sizeof j->last, &j->last};
	if ((rc = mdb_get(txn, j->reader.batches, &key, &value)) != 0)
		return rc;
	if (value.mv_size != sizeof batch)
		return MDB_CORRUPTED;
	memcpy(&batch, value.mv_data, sizeof batch);
	memcpy(j->link, batch.link, sizeof j->link);
	return 0;
}

/* So that the names in it are there after a power cut; an error number. */
static int
flush_folder(const char *state_dir)
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
static int
make_file(const char *state_dir)
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

struct journal *
journal_open(const char *state_dir, size_t map_bytes, const char **why)
{
	struct journal *j = calloc(1, sizeof *j);
	MDB_txn *txn = NULL;
	int rc = ENOMEM;

	*why = NULL;
	if (j == NULL || (j->chain = journal_chain_new()) == NULL)
		goto fail;
	rc = make_file(state_dir);
	if (rc == 0)
		rc = journal_env(&j->reader.env, state_dir, JOURNAL_FILE,
		    map_bytes == 0 ? journal_map_bytes(JOURNAL_MAP_BYTES) : map_bytes, 0);
	if (rc == 0)
		rc = journal_settle_roots(j->reader.env);
	/* Always: a keeper before us may have died between making the file and this. */
	if (rc == 0)
		rc = flush_folder(state_dir);
	if (rc == 0)
		rc = mdb_txn_begin(j->reader.env, NULL, 0, &txn);
	if (rc == 0)
		rc = journal_databases(&j->reader, txn, MDB_CREATE);
	if (rc == 0)
		rc = read_meta(j, txn, why);
	if (rc != 0 || *why != NULL)
		goto fail;
	rc = mdb_txn_commit(txn);
	txn = NULL;
	if (rc == 0)
		return j;
fail:
	if (txn != NULL)
		mdb_txn_abort(txn);
	if (*why == NULL)
		*why = mdb_strerror(rc);
	journal_close(j);
	/* LMDB's own codes are below zero: not a database, another version, damaged. */
	errno = rc > 0 ? rc : EINVAL;
	return NULL;
}

void
journal_close(struct journal *j)
{
	if (j == NULL)
		return;
	if (j->reader.env != NULL)
		mdb_env_close(j->reader.env);
	journal_chain_free(j->chain);
	free(j->staged);
	buf_free(&j->payloads);
	free(j);
}

uint64_t
journal_last(const struct journal *j)
{
	return j->last;
}

const struct journal_positions *
journal_rings(const struct journal *j)
{
	return &j->rings;
}

struct journal_reader *
journal_reader(struct journal *j)
{
	return &j->reader;
}

void
journal_begin(struct journal *j)
{
	j->count = 0;
	j->payloads.len = 0;
}

void
journal_abort(struct journal *j)
{
	journal_begin(j);
}

uint64_t
journal_append(struct journal *j, const struct journal_record *r, const void *payload)
{
	struct staged *s;

	if (j->count == j->cap) {
		size_t cap = j->cap == 0 ? 256 : 2 * j->cap;

		s = realloc(j->staged, cap * sizeof *s);
		if (s == NULL)
			fatal("journal: batch");
		j->staged = s;
		j->cap = cap;
	}
	s = &j->staged[j->count];
	s->sequence = j->last + ++j->count;
	s->record = *r;
	s->payload_at = j->payloads.len;
	buf_add(&j->payloads, payload, r->payload_len);
	if (j->payloads.failed)
		fatal("journal: batch");
	return s->sequence;
}

size_t
journal_staged(const struct journal *j)
{
	return j->count;
}

/* All records and payloads, each at the end of its database; an LMDB code. */
static int
put_records(struct journal *j, MDB_txn *txn)
{
	MDB_cursor *records = NULL, *payloads = NULL;
	int rc;

	if ((rc = mdb_cursor_open(txn, j->reader.records, &records)) != 0 ||
	    (rc = mdb_cursor_open(txn, j->reader.payloads, &payloads)) != 0)
		goto out;
	for (size_t i = 0; i < j->count && rc == 0; i++) {
		struct staged *s = &j->staged[i];
		MDB_val key = {sizeof s->sequence, &s->sequence};
		MDB_val value = {sizeof s->record, &s->record};

		rc = mdb_cursor_put(records, &key, &value, MDB_APPEND);
		if (rc != 0 || s->record.payload_len == 0)
			continue;
		value = (MDB_val){s->record.payload_len, j->payloads.data + s->payload_at};
		rc = mdb_cursor_put(payloads, &key, &value, MDB_APPEND);
	}
out:
	if (payloads != NULL)
		mdb_cursor_close(payloads);
	if (records != NULL)
		mdb_cursor_close(records);
	return rc;
}

static int
put_batch(struct journal *j, MDB_txn *txn, const struct journal_batch *batch,
    const struct journal_positions *rings)
{
	uint64_t last = j->last + j->count;
	MDB_val key = {sizeof last, &last}, value = {sizeof *batch, (void *)(uintptr_t)batch};
	int rc;

	if (j->count > 0) {
		if ((rc = put_records(j, txn)) != 0)
			return rc;
		if ((rc = mdb_put(txn, j->reader.batches, &key, &value, MDB_APPEND)) != 0)
			return rc;
	}
	key = text_val("rings");
	value = (MDB_val){sizeof *rings, (void *)(uintptr_t)rings};
	return mdb_put(txn, j->reader.meta, &key, &value, 0);
}

static void
make_link(struct journal *j, struct journal_batch *batch)
{
	batch->first = j->last + 1;
	journal_chain_begin(j->chain, j->link);
	for (size_t i = 0; i < j->count; i++) {
		const struct staged *s = &j->staged[i];

		journal_chain_add(j->chain, &s->record, sizeof s->record);
		if (s->record.payload_len > 0)
			journal_chain_add(j->chain, j->payloads.data + s->payload_at,
			    s->record.payload_len);
	}
	journal_chain_end(j->chain, batch->link);
}

/* A full map is no fault of the disk: double it; an LMDB code. */
static int
grow_map(struct journal *j)
{
	MDB_envinfo info;
	int rc = mdb_env_info(j->reader.env, &info);

	if (rc == 0)
		rc = mdb_env_set_mapsize(j->reader.env, 2 * info.me_mapsize);
	if (rc == 0)
		log_warnx("journal.mdb's map has grown to %zu MiB", info.me_mapsize >> 19);
	return rc;
}

int
journal_commit(struct journal *j, const struct journal_positions *rings)
{
	struct journal_batch batch;
	MDB_txn *txn;
	int rc;

	make_link(j, &batch);
	do {
		rc = mdb_txn_begin(j->reader.env, NULL, 0, &txn);
		if (rc != 0)
			break;
		rc = put_batch(j, txn, &batch, rings);
		FAULT("journal.put");
		if (rc == 0)
			rc = mdb_txn_commit(txn);
		else
			mdb_txn_abort(txn);
	} while (rc == MDB_MAP_FULL && (rc = grow_map(j)) == 0);
	if (rc != 0) {
		log_warnx("journal.mdb: commit failed: %s", mdb_strerror(rc));
		errno = rc > 0 ? rc : EIO;
		return -1;
	}
	j->last += j->count;
	if (j->count > 0)
		memcpy(j->link, batch.link, sizeof j->link);
	j->rings = *rings;
	journal_begin(j);
	return 0;
}

void
journal_check_readers(struct journal *j)
{
	int dead = 0;

	if (mdb_reader_check(j->reader.env, &dead) == 0 && dead > 0)
		log_info("journal.mdb: %d dead readers forgotten", dead);
}
