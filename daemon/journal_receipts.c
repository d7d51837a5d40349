/*
 * Receipts as part of a commit, and reading them.
 *
 * Like the history it keeps nothing in memory, so a commit that is tried again does the same again,
 * and nothing of it is money: a row that is missing is passed over, and never a reason not to commit.
 */
#include "daemon/journal_receipts.h"

#include <errno.h>
#include <stddef.h>

#include "daemon/journal_private.h"
#include "daemon/utf8.h"

struct receipt_row {
	uint64_t reserve, end; /* sequences */
};

struct receipt_hold_row {
	uint64_t reserve;
	uint8_t id[16];
};

struct receipt_hold_key {
	char hold[4];
	uint8_t slot[4];
};

static struct receipt_hold_key
hold_key(uint32_t slot)
{
	struct receipt_hold_key key = {.hold = {'h', 'o', 'l', 'd'}};

	journal_put_be32(key.slot, slot);
	return key;
}

/* A row of a known size, or MDB_NOTFOUND; an LMDB code. */
static int
get_row(MDB_txn *txn, MDB_dbi dbi, const void *key, size_t key_len, void *row, size_t row_len)
{
	MDB_val k = {key_len, (void *)(uintptr_t)key}, v;
	int rc = mdb_get(txn, dbi, &k, &v);

	if (rc == 0 && v.mv_size != row_len)
		return MDB_NOTFOUND;
	if (rc == 0)
		memcpy(row, v.mv_data, row_len);
	return rc;
}

/* Writing.  Keeper; LMDB codes. */

static int
put_reserve(struct journal *j, MDB_txn *txn, const struct journal_staged *s, const char *payload)
{
	struct receipt_hold_key slot = hold_key(s->record.slot);
	struct receipt_hold_row row = {.reserve = s->sequence};
	MDB_val key = {sizeof slot, &slot}, value = {sizeof row, &row};
	struct journal_reserve head;

	if (s->record.payload_len < sizeof head)
		return 0;
	memcpy(&head, payload, sizeof head);
	memcpy(row.id, head.stream_id, sizeof row.id);
	return mdb_put(txn, j->reader.meta, &key, &value, 0);
}

static int
put_end(struct journal *j, MDB_txn *txn, const struct journal_staged *s)
{
	struct receipt_hold_key slot = hold_key(s->record.slot);
	struct receipt_row row = {.end = s->sequence}, other;
	struct receipt_hold_row hold;
	MDB_val key = {sizeof slot, &slot}, value = {sizeof row, &row};
	int rc = get_row(txn, j->reader.meta, &slot, sizeof slot, &hold, sizeof hold);

	/* Opened under a tolld that kept no receipts. */
	if (rc != 0)
		return rc == MDB_NOTFOUND ? 0 : rc;
	if ((rc = mdb_del(txn, j->reader.meta, &key, NULL)) != 0)
		return rc;
	row.reserve = hold.reserve;
	rc = get_row(txn, j->reader.receipts, hold.id, sizeof hold.id, &other, sizeof other);
	/* Nobody draws the same 128 random bits: whose they were first, his they stay. */
	if (rc == 0 && other.reserve < row.reserve)
		return 0;
	if (rc != 0 && rc != MDB_NOTFOUND)
		return rc;
	key = (MDB_val){sizeof hold.id, hold.id};
	return mdb_put(txn, j->reader.receipts, &key, &value, 0);
}

int
journal_put_receipts(struct journal *j, MDB_txn *txn)
{
	int rc = 0;

	for (size_t i = 0; i < j->count && rc == 0; i++) {
		const struct journal_staged *s = &j->staged[i];

		if (s->record.type == JOURNAL_RESERVE)
			rc = put_reserve(j, txn, s, j->payloads.data + s->payload_at);
		else if (s->record.type == JOURNAL_SETTLE || s->record.type == JOURNAL_VOID)
			rc = put_end(j, txn, s);
	}
	return rc;
}

/* Its RESERVE goes. */
static int
drop(struct journal *j, MDB_txn *txn, uint64_t reserve)
{
	MDB_val key = {sizeof reserve, &reserve}, value;
	struct journal_reserve head;
	struct receipt_row row;
	int rc = mdb_get(txn, j->reader.payloads, &key, &value);

	if (rc == 0 && value.mv_size < sizeof head)
		return 0;
	if (rc == 0) {
		memcpy(&head, value.mv_data, sizeof head);
		rc = get_row(txn, j->reader.receipts, head.stream_id, sizeof head.stream_id, &row,
		    sizeof row);
	}
	if (rc == 0 && row.reserve == reserve) {
		key = (MDB_val){sizeof head.stream_id, head.stream_id};
		rc = mdb_del(txn, j->reader.receipts, &key, NULL);
	}
	return rc == MDB_NOTFOUND ? 0 : rc;
}

/* Of a record that may lie at any address. */
static uint8_t
type_of(const MDB_val *value)
{
	return ((const uint8_t *)value->mv_data)[offsetof(struct journal_record, type)];
}

int
journal_drop_receipts(struct journal *j, MDB_txn *txn, uint64_t to, size_t max)
{
	MDB_val key, value;
	MDB_cursor *cursor;
	int rc = mdb_cursor_open(txn, j->reader.records, &cursor);

	if (rc != 0)
		return rc;
	/* Nothing is deleted from the table that the cursor is in. */
	rc = mdb_cursor_get(cursor, &key, &value, MDB_FIRST);
	for (; rc == 0 && max > 0 && journal_u64(&key) <= to; max--) {
		if (value.mv_size == sizeof(struct journal_record) &&
		    type_of(&value) == JOURNAL_RESERVE)
			rc = drop(j, txn, journal_u64(&key));
		if (rc == 0)
			rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
	}
	mdb_cursor_close(cursor);
	return rc == MDB_NOTFOUND ? 0 : rc;
}

/* Reading. */

static int
get_record(struct journal_reader *r, MDB_txn *txn, uint64_t sequence, struct journal_record *record,
    MDB_val *payload)
{
	MDB_val key = {sizeof sequence, &sequence}, value;
	int rc = mdb_get(txn, r->records, &key, &value);

	if (rc == 0 && value.mv_size != sizeof *record)
		rc = MDB_CORRUPTED;
	if (rc != 0)
		return rc;
	memcpy(record, value.mv_data, sizeof *record);
	*payload = (MDB_val){0, (void *)(uintptr_t) ""};
	rc = mdb_get(txn, r->payloads, &key, payload);
	return rc == MDB_NOTFOUND ? 0 : rc;
}

static int
get_reserve(struct journal_reader *r, MDB_txn *txn, struct journal_receipt *x)
{
	MDB_val payload;
	size_t len;
	int rc = get_record(r, txn, x->reserve_seq, &x->reserve, &payload);

	if (rc == 0 && (x->reserve.type != JOURNAL_RESERVE || payload.mv_size < sizeof x->head))
		rc = MDB_CORRUPTED;
	if (rc != 0)
		return rc;
	memcpy(&x->head, payload.mv_data, sizeof x->head);
	len = payload.mv_size - sizeof x->head;
	if (x->head.model_len < len)
		len = x->head.model_len;
	if (len > sizeof x->model)
		len = utf8_valid_prefix(
		    (const char *)payload.mv_data + sizeof x->head, sizeof x->model);
	x->model_len = (uint8_t)len;
	memcpy(x->model, (const char *)payload.mv_data + sizeof x->head, len);
	return 0;
}

static int
get_end(struct journal_reader *r, MDB_txn *txn, struct journal_receipt *x)
{
	MDB_val payload;
	int rc = get_record(r, txn, x->settle_seq, &x->settle, &payload);

	if (rc != 0)
		return rc;
	if (x->settle.type != JOURNAL_SETTLE && x->settle.type != JOURNAL_VOID)
		return MDB_CORRUPTED;
	if (x->settle.version == JOURNAL_VERSION_KINDS && payload.mv_size >= sizeof x->end.split)
		memcpy(&x->end.split, payload.mv_data, sizeof x->end.split);
	if (x->settle.version != JOURNAL_VERSION_TOLD || payload.mv_size < sizeof x->end)
		return 0;
	memcpy(&x->end, payload.mv_data, sizeof x->end);
	if (x->end.provider_len > sizeof x->provider ||
	    x->end.provider_len > payload.mv_size - sizeof x->end)
		return MDB_CORRUPTED;
	memcpy(x->provider, (const char *)payload.mv_data + sizeof x->end, x->end.provider_len);
	return 0;
}

/* The records that the sequences in x name. */
static int
fill(struct journal_reader *r, MDB_txn *txn, struct journal_receipt *x)
{
	struct journal_base base;
	int rc = journal_read_base(r, txn, &base);

	if (rc != 0)
		return rc;
	/* Compacted, and only not removed yet. */
	if (x->reserve_seq <= base.sequence)
		return MDB_NOTFOUND;
	rc = get_reserve(r, txn, x);
	if (rc == 0 && x->settle_seq != 0)
		rc = get_end(r, txn, x);
	return rc == MDB_NOTFOUND ? MDB_CORRUPTED : rc;
}

static int
find_ended(
    struct journal_reader *r, MDB_txn *txn, const uint8_t id[static 16], struct journal_receipt *x)
{
	struct receipt_row row;
	int rc = get_row(txn, r->receipts, id, 16, &row, sizeof row);

	if (rc != 0)
		return rc;
	x->reserve_seq = row.reserve;
	x->settle_seq = row.end;
	return fill(r, txn, x);
}

static int
find_open(struct journal_reader *r, MDB_txn *txn, uint32_t slot, const uint8_t id[static 16],
    struct journal_receipt *x)
{
	struct receipt_hold_key key = hold_key(slot);
	struct receipt_hold_row row;
	int rc = get_row(txn, r->meta, &key, sizeof key, &row, sizeof row);

	if (rc != 0)
		return rc;
	if (memcmp(row.id, id, sizeof row.id) != 0)
		return MDB_NOTFOUND;
	x->reserve_seq = row.reserve;
	return fill(r, txn, x);
}

static void
clear(struct journal_receipt *x)
{
	*x = (struct journal_receipt){.end = {.opened_ms = JOURNAL_NONE, .first_ms = JOURNAL_NONE}};
}

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

int
journal_receipt_get(
    struct journal_reader *r, const uint8_t id[static 16], struct journal_receipt *x)
{
	MDB_txn *txn;
	int rc;

	clear(x);
	if (!r->has_receipts)
		return 0;
	if ((rc = journal_snapshot(r, &txn)) == 0) {
		rc = find_ended(r, txn, id, x);
		mdb_txn_abort(txn);
	}
	return result(rc);
}

int
journal_receipt_open(
    struct journal_reader *r, uint32_t slot, const uint8_t id[static 16], struct journal_receipt *x)
{
	MDB_txn *txn;
	int rc;

	clear(x);
	if ((rc = journal_snapshot(r, &txn)) == 0) {
		rc = find_open(r, txn, slot, id, x);
		mdb_txn_abort(txn);
	}
	return result(rc);
}
