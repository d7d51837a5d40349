/*
 * What a commit does beside its records: it takes in a checkpoint piece by piece, makes it the
 * valid one, and removes what it stands for, a bounded number at a time.  Runs in the keeper.
 *
 * All of it happens in transactions that are commits anyway, or that are as small as one, so
 * nobody who waits for a commit waits for a compaction; and a kill at any moment leaves the
 * former checkpoint valid or this one.
 */
#include "daemon/journal_private.h"
#include "daemon/log.h"

int
journal_read_base(const struct journal_reader *r, MDB_txn *txn, struct journal_base *base)
{
	MDB_val key = journal_text("checkpoint"), value;
	int rc = mdb_get(txn, r->meta, &key, &value);

	memset(base, 0, sizeof *base);
	if (rc == MDB_NOTFOUND)
		return 0;
	if (rc == 0 && value.mv_size != sizeof *base)
		return MDB_CORRUPTED;
	if (rc == 0)
		memcpy(base, value.mv_data, sizeof *base);
	return rc;
}

const struct journal_base *
journal_base(const struct journal *j)
{
	return &j->base;
}

/* Staging. */

void
journal_upkeep_clear(struct journal_upkeep *u)
{
	u->bytes.len = 0;
	u->new_base = false;
	u->remove = u->removed = 0;
}

void
journal_stage_piece(struct journal *j, uint32_t n, const void *bytes, size_t len)
{
	struct journal_upkeep *u = &j->upkeep;

	if (u->bytes.len == 0) {
		u->piece = n;
		u->generation = j->base.generation + 1;
	}
	buf_add(&u->bytes, bytes, len);
	if (u->bytes.failed)
		fatal("journal: checkpoint");
}

void
journal_stage_base(struct journal *j, const struct journal_base *base)
{
	j->upkeep.new_base = true;
	j->upkeep.base = *base;
	j->upkeep.base.generation = j->base.generation + 1;
}

void
journal_stage_removal(struct journal *j, size_t max)
{
	j->upkeep.remove = max;
}

size_t
journal_removed(const struct journal *j)
{
	return j->removed;
}

/* Is there a key in from..to?  An LMDB code, MDB_NOTFOUND if there is none. */
static int
any_in(MDB_txn *txn, MDB_dbi dbi, uint64_t from, uint64_t to)
{
	MDB_val key = {sizeof from, &from}, value;
	MDB_cursor *cursor;
	int rc = mdb_cursor_open(txn, dbi, &cursor);

	if (rc != 0)
		return rc;
	rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
	if (rc == 0 && journal_u64(&key) > to)
		rc = MDB_NOTFOUND;
	mdb_cursor_close(cursor);
	return rc;
}

int
journal_leftovers(struct journal *j)
{
	uint64_t first = (uint64_t)j->base.generation << 32;
	MDB_txn *txn;
	int rc = mdb_txn_begin(j->reader.env, NULL, MDB_RDONLY, &txn);

	if (rc != 0)
		return -1;
	rc = any_in(txn, j->reader.records, 0, j->base.sequence);
	if (rc == MDB_NOTFOUND)
		rc = any_in(txn, j->reader.checkpoint, first + (UINT64_C(1) << 32), UINT64_MAX);
	if (rc == MDB_NOTFOUND && first > 0)
		rc = any_in(txn, j->reader.checkpoint, 0, first - 1);
	mdb_txn_abort(txn);
	return rc == 0 ? 1 : rc == MDB_NOTFOUND ? 0 : -1;
}

void
journal_upkeep_done(struct journal *j)
{
	if (j->upkeep.new_base)
		j->base = j->upkeep.base;
	j->removed = j->upkeep.removed;
}

/* Within the commit; LMDB codes. */

static int
put_pieces(struct journal *j, MDB_txn *txn)
{
	const struct journal_upkeep *u = &j->upkeep;
	uint64_t at = (uint64_t)u->generation << 32 | u->piece;
	MDB_val key = {sizeof at, &at}, value;
	int rc = 0;

	for (size_t done = 0; done < u->bytes.len && rc == 0; done += value.mv_size, at++) {
		value.mv_size = u->bytes.len - done;
		if (value.mv_size > JOURNAL_PIECE_LEN)
			value.mv_size = JOURNAL_PIECE_LEN;
		value.mv_data = u->bytes.data + done;
		rc = mdb_put(txn, j->reader.checkpoint, &key, &value, MDB_APPEND);
	}
	return rc;
}

static int
put_base(struct journal *j, MDB_txn *txn)
{
	MDB_val key = journal_text("checkpoint");
	MDB_val value = {sizeof j->upkeep.base, &j->upkeep.base};

	return mdb_put(txn, j->reader.meta, &key, &value, 0);
}

/* Delete entries whose keys are in from..to, at most *budget, which goes down by their number. */
static int
remove_range(MDB_txn *txn, MDB_dbi dbi, uint64_t from, uint64_t to, size_t *budget, uint64_t *at)
{
	MDB_cursor *cursor;
	MDB_val key, value;
	int rc = mdb_cursor_open(txn, dbi, &cursor);

	if (rc != 0)
		return rc;
	for (; *budget > 0; --*budget) {
		/* Looked for anew: what a cursor points at after a deletion is not said. */
		key = (MDB_val){sizeof from, &from};
		rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
		if (rc != 0 || journal_u64(&key) > to)
			break;
		*at = journal_u64(&key);
		if ((rc = mdb_cursor_del(cursor, 0)) != 0)
			break;
	}
	mdb_cursor_close(cursor);
	return rc == MDB_NOTFOUND ? 0 : rc;
}

/*
 * Records, and with each one its payload and the batch that it ends: so at no time does one of the
 * three lack the others.
 */
static int
remove_records(struct journal *j, MDB_txn *txn, uint64_t to, size_t *budget)
{
	size_t all = SIZE_MAX;
	uint64_t last = 0, ignored;
	int rc = journal_drop_receipts(j, txn, to, *budget);

	if (rc == 0)
		rc = remove_range(txn, j->reader.records, 0, to, budget, &last);
	if (rc == 0 && last > 0)
		rc = remove_range(txn, j->reader.payloads, 0, last, &all, &ignored);
	all = SIZE_MAX;
	if (rc == 0 && last > 0)
		rc = remove_range(txn, j->reader.batches, 0, last, &all, &ignored);
	return rc;
}

/* What means nothing any more: pieces of other generations, records before the checkpoint. */
static int
remove_old(struct journal *j, MDB_txn *txn)
{
	struct journal_upkeep *u = &j->upkeep;
	const struct journal_base *base = u->new_base ? &u->base : &j->base;
	uint64_t first = (uint64_t)base->generation << 32, at;
	/* A piece is sixteen kilobytes: dearer than a record. */
	size_t budget = u->remove / 16 + 1, pieces = budget;
	int rc = 0;

	if (first > 0)
		rc = remove_range(txn, j->reader.checkpoint, 0, first - 1, &budget, &at);
	if (rc == 0)
		rc = remove_range(txn, j->reader.checkpoint, first + (UINT64_C(1) << 32),
		    UINT64_MAX, &budget, &at);
	u->removed = pieces - budget;
	budget = u->remove;
	if (rc == 0)
		rc = remove_records(j, txn, base->sequence, &budget);
	u->removed += u->remove - budget;
	return rc;
}

int
journal_put_upkeep(struct journal *j, MDB_txn *txn)
{
	int rc = put_pieces(j, txn);

	if (rc == 0 && j->upkeep.new_base)
		rc = put_base(j, txn);
	/* Never pieces that are on their way in. */
	if (rc == 0 && j->upkeep.remove > 0 && j->upkeep.bytes.len == 0)
		rc = remove_old(j, txn);
	return rc;
}
