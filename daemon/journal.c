/*
 * Writing journal.mdb.  Runs in the keeper.
 *
 * Default sync mode only: of NOSYNC, NOMETASYNC and WRITEMAP the first two lose acknowledged
 * commits in a power cut and the third turns a full disk into a SIGBUS.
 */
#include "daemon/journal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/journal_private.h"
#include "daemon/log.h"
#include "shm/fault.h"

/*
 * What the file says about itself; creates it if there is nothing.  Returns an LMDB code, or 0
 * with *why if it is not one that we can go on with.
 */
static int
read_meta(struct journal *j, MDB_txn *txn, const char **why)
{
	MDB_val key = journal_text("version"), value;
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
	if (value.mv_size == sizeof version)
		memcpy(&version, value.mv_data, sizeof version);
	if (value.mv_size != sizeof version || version < 1 || version > JOURNAL_FORMAT) {
		*why = "journal.mdb is of another version";
		return 0;
	}
	/* From here on it is one that a tolld before checkpoints must not begin with. */
	if (version < JOURNAL_FORMAT) {
		version = JOURNAL_FORMAT;
		value = (MDB_val){sizeof version, &version};
		if ((rc = mdb_put(txn, j->reader.meta, &key, &value, 0)) != 0)
			return rc;
	}
	if ((rc = journal_read_base(&j->reader, txn, &j->base)) != 0)
		return rc;
	key = journal_text("rings");
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

struct journal *
journal_open(const char *state_dir, size_t map_bytes, const char **why)
{
	struct journal *j = calloc(1, sizeof *j);
	MDB_txn *txn = NULL;
	int rc = ENOMEM;

	*why = NULL;
	if (j == NULL || (j->chain = journal_chain_new()) == NULL)
		goto fail;
	rc = journal_make_file(state_dir);
	if (rc == 0)
		rc = journal_env(&j->reader.env, state_dir, JOURNAL_FILE,
		    map_bytes == 0 ? journal_map_bytes(JOURNAL_MAP_BYTES) : map_bytes, 0);
	if (rc == 0)
		rc = journal_settle_roots(j->reader.env);
	/* Always: a keeper before us may have died between making the file and this. */
	if (rc == 0)
		rc = journal_flush_folder(state_dir);
	if (rc == 0)
		rc = mdb_txn_begin(j->reader.env, NULL, 0, &txn);
	if (rc == 0)
		rc = journal_databases(&j->reader, txn, MDB_CREATE);
	if (rc == 0)
		rc = read_meta(j, txn, why);
	if (rc == 0 && *why == NULL)
		rc = journal_history_open(j, txn);
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
	buf_free(&j->upkeep.bytes);
	free(j);
}

void
journal_on_growth(struct journal *j, void (*wait)(void *), void *arg)
{
	j->wait = wait;
	j->wait_arg = arg;
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
	journal_upkeep_clear(&j->upkeep);
	j->history.drops = j->history.sweep = 0;
}

void
journal_abort(struct journal *j)
{
	journal_begin(j);
}

uint64_t
journal_append(struct journal *j, const struct journal_record *r, const void *payload)
{
	struct journal_staged *s;

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
		struct journal_staged *s = &j->staged[i];
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
	if ((rc = journal_put_upkeep(j, txn)) != 0 || (rc = journal_put_history(j, txn)) != 0 ||
	    (rc = journal_put_receipts(j, txn)) != 0)
		return rc;
	key = journal_text("rings");
	value = (MDB_val){sizeof *rings, (void *)(uintptr_t)rings};
	return mdb_put(txn, j->reader.meta, &key, &value, 0);
}

static void
make_link(struct journal *j, struct journal_batch *batch)
{
	batch->first = j->last + 1;
	journal_chain_begin(j->chain, j->link);
	for (size_t i = 0; i < j->count; i++) {
		const struct journal_staged *s = &j->staged[i];

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

	if (j->wait != NULL)
		j->wait(j->wait_arg);
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
	journal_upkeep_done(j);
	journal_history_done(j);
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
