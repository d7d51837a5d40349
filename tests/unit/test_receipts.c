/*
 * Goal:   a stream's id leads to the records that opened and ended it, from the commit that made them
 *         durable to the one that made a checkpoint stand for them, and nothing is left behind then;
 *         what is not such an id, or not such a record, leads nowhere.
 * Method: random streams in slots that are used again and again, ended by records of every version,
 *         beside a plain model; reopened files and a full map in between; compactions, after which the
 *         tables are counted; files without these tables, and payloads that are noise.
 * objs: daemon/journal.o daemon/journal_history.o daemon/journal_receipts.o daemon/journal_file.o daemon/journal_compact.o daemon/journal_chain.o daemon/journal_read.o daemon/buf.o daemon/log.o daemon/utf8.o shm/money.o
 */
#include <lmdb.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/journal_private.h"
#include "daemon/journal_receipts.h"

#define SLOTS 16
#define STREAMS_MAX 20000

struct told {
	uint8_t id[16];
	uint64_t reserve, settle; /* 0: it is open */
	struct journal_end end;
	char provider[JOURNAL_PROVIDER_MAX];
	uint32_t slot;
	uint8_t type;
};

static struct told *streams;
static size_t stream_count;
static int slot_stream[SLOTS]; /* the open stream of each, or -1 */
static unsigned seed;
static char dir[64];
static struct journal *journal;
static struct journal_positions rings = {.epoch = 1};

static unsigned
pick(unsigned n)
{
	return (unsigned)rand_r(&seed) % n;
}

static void
open_journal(size_t map_bytes)
{
	const char *why;

	journal = journal_open(dir, map_bytes, &why);
	assert_non_null(journal);
}

static void
commit(void)
{
	assert_int_equal(journal_commit(journal, &rings), 0);
}

static int
setup(void **state)
{
	(void)state;
	(void)snprintf(dir, sizeof dir, "/tmp/tolld-receipts-XXXXXX");
	assert_non_null(mkdtemp(dir));
	streams = calloc(STREAMS_MAX, sizeof *streams);
	assert_non_null(streams);
	stream_count = 0;
	for (int i = 0; i < SLOTS; i++)
		slot_stream[i] = -1;
	return 0;
}

static int
teardown(void **state)
{
	char command[128];

	(void)state;
	journal_close(journal);
	free(streams);
	(void)snprintf(command, sizeof command, "rm -rf %s", dir);
	return system(command);
}

static uint64_t
append(uint8_t type, uint8_t version, uint32_t slot, const struct buf *payload)
{
	struct journal_record r = {.type = type,
	    .version = version,
	    .slot = slot,
	    .account = 3,
	    .price = JOURNAL_NONE,
	    .amount = type,
	    .payload_len = (uint32_t)payload->len};

	return journal_append(journal, &r, payload->len > 0 ? payload->data : "");
}

static void
reserve(uint32_t slot, size_t model_len)
{
	struct journal_reserve head = {.model_len = (uint16_t)model_len, .generation = 3};
	struct told *t = &streams[stream_count];
	struct buf b = {0};

	assert_true(stream_count < STREAMS_MAX);
	for (size_t i = 0; i < sizeof t->id; i++)
		t->id[i] = (uint8_t)pick(256);
	t->slot = slot;
	memcpy(head.stream_id, t->id, sizeof t->id);
	buf_add(&b, &head, sizeof head);
	for (size_t i = 0; i < model_len; i++)
		buf_str(&b, "m");
	if (pick(2) == 0)
		buf_str(&b, "what was said");
	slot_stream[slot] = (int)stream_count++;
	t->reserve = append(JOURNAL_RESERVE, JOURNAL_VERSION, slot, &b);
	buf_free(&b);
}

static void
end(uint32_t slot)
{
	struct told *t = &streams[slot_stream[slot]];
	uint8_t version = (uint8_t)(JOURNAL_VERSION + pick(3));
	struct buf b = {0};

	t->type = pick(3) == 0 ? JOURNAL_VOID : JOURNAL_SETTLE;
	t->end = (struct journal_end){.opened_ms = JOURNAL_NONE, .first_ms = JOURNAL_NONE};
	if (version == JOURNAL_VERSION_TOLD) {
		t->end = (struct journal_end){.split = {pick(9), pick(9)},
		    .opened_ms = pick(100),
		    .first_ms = 100 + pick(100),
		    .counted = (uint8_t)pick(COUNTED_MAX),
		    .short_of = (uint8_t)pick(SHORT_MAX),
		    .attempts = (uint8_t)pick(256),
		    .provider_len = (uint8_t)pick(JOURNAL_PROVIDER_MAX + 1)};
		for (size_t i = 0; i < t->end.provider_len; i++)
			t->provider[i] = (char)('a' + pick(26));
		buf_add(&b, &t->end, sizeof t->end);
		buf_add(&b, t->provider, t->end.provider_len);
	} else if (version == JOURNAL_VERSION_KINDS) {
		t->end.split = (struct journal_split){pick(9), pick(9)};
		buf_add(&b, &t->end.split, sizeof t->end.split);
	}
	if (pick(2) == 0)
		buf_str(&b, "the rest of the text, which may be as long as it likes");
	t->settle = append(t->type, version, slot, &b);
	slot_stream[slot] = -1;
	buf_free(&b);
}

static void
step(void)
{
	uint32_t slot = pick(SLOTS);
	struct buf b = {0};

	if (slot_stream[slot] < 0)
		reserve(slot, pick(20));
	else if (pick(3) == 0)
		end(slot);
	else
		(void)append(JOURNAL_MARK, JOURNAL_VERSION, slot, &b);
}

/* A stream as it is, or that it is not there (any more). */
static void
compare_one(struct journal_reader *r, const struct told *t, uint64_t upto)
{
	struct journal_receipt x;

	bool there = t->reserve > upto, ended = t->settle != 0;

	assert_int_equal(journal_receipt_open(r, t->slot, t->id, &x), there && !ended);
	if (ended)
		assert_int_equal(journal_receipt_get(r, t->id, &x), there);
	if (!there)
		return;
	assert_int_equal(x.reserve_seq, t->reserve);
	assert_int_equal(x.settle_seq, t->settle);
	assert_int_equal(x.reserve.type, JOURNAL_RESERVE);
	assert_memory_equal(x.head.stream_id, t->id, sizeof t->id);
	assert_int_equal(x.model_len, x.head.model_len);
	for (size_t i = 0; i < x.model_len; i++)
		assert_int_equal(x.model[i], 'm');
	assert_int_equal(x.settle.type, t->settle != 0 ? t->type : 0);
	if (t->settle == 0)
		return;
	assert_memory_equal(&x.end, &t->end, sizeof x.end);
	assert_memory_equal(x.provider, t->provider, t->end.provider_len);
}

static void
compare(struct journal_reader *r, uint64_t upto)
{
	struct journal_receipt x;
	uint8_t id[16];

	for (size_t i = 0; i < stream_count; i++)
		compare_one(r, &streams[i], upto);
	for (int i = 0; i < 20 && stream_count > 0; i++) {
		memcpy(id, streams[pick((unsigned)stream_count)].id, sizeof id);
		id[pick(16)] ^= (uint8_t)(1 + pick(255));
		assert_int_equal(journal_receipt_get(r, id, &x), 0);
		assert_int_equal(journal_receipt_open(r, pick(SLOTS), id, &x), 0);
	}
}

static size_t
rows(MDB_dbi dbi)
{
	MDB_stat stat;
	MDB_txn *txn;

	assert_int_equal(mdb_txn_begin(journal->reader.env, NULL, MDB_RDONLY, &txn), 0);
	assert_int_equal(mdb_stat(txn, dbi, &stat), 0);
	mdb_txn_abort(txn);
	return stat.ms_entries;
}

static size_t
open_streams(void)
{
	size_t n = 0;

	for (int s = 0; s < SLOTS; s++)
		n += slot_stream[s] >= 0;
	return n;
}

static void
test_random(void **state)
{
	const char *why;
	struct journal_reader *r;

	(void)state;
	seed = 3;
	open_journal(1 << 20); /* it has to grow */
	for (int n = 0; n < 12; n++) {
		for (int batch = 0; batch < 40; batch++) {
			for (unsigned i = pick(60); i > 0; i--)
				step();
			commit();
		}
		compare(journal_reader(journal), 0);
		journal_close(journal);
		r = journal_reader_open(dir, &why);
		assert_non_null(r);
		compare(r, 0);
		journal_reader_close(r);
		open_journal(0);
	}
	assert_true(stream_count > 2000);
}

/* What was not committed is not there. */
static void
test_abort(void **state)
{
	struct journal_receipt x;

	(void)state;
	seed = 5;
	open_journal(0);
	reserve(0, 3);
	commit();
	end(0);
	reserve(1, 3);
	journal_abort(journal);
	assert_int_equal(journal_receipt_get(journal_reader(journal), streams[0].id, &x), 0);
	assert_int_equal(journal_receipt_open(journal_reader(journal), 0, streams[0].id, &x), 1);
	assert_int_equal(journal_receipt_open(journal_reader(journal), 1, streams[1].id, &x), 0);
}

/* From the checkpoint's commit on, and whatever is removed meanwhile; then nothing is left. */
static void
test_compaction(void **state)
{
	struct journal_base base = {.sequence = 0};
	uint64_t upto = 0;

	(void)state;
	seed = 7;
	open_journal(0);
	for (int n = 0; n < 8; n++) {
		size_t ended = 0;

		for (int batch = 0; batch < 20; batch++) {
			for (unsigned i = 1 + pick(60); i > 0; i--)
				step();
			commit();
			if (batch == 9)
				upto = journal_last(journal);
		}
		/* What is open then is never compacted. */
		for (int s = 0; s < SLOTS; s++)
			if (slot_stream[s] >= 0 && streams[slot_stream[s]].reserve <= upto)
				upto = streams[slot_stream[s]].reserve - 1;
		base.sequence = upto;
		journal_stage_piece(journal, 0, "piece", 5);
		journal_stage_base(journal, &base);
		commit();
		compare(journal_reader(journal), upto);
		while (journal_leftovers(journal) == 1) {
			journal_stage_removal(journal, 1 + pick(50));
			step();
			commit();
			if (pick(4) == 0)
				compare(journal_reader(journal), upto);
		}
		compare(journal_reader(journal), upto);
		for (size_t i = 0; i < stream_count; i++)
			ended += streams[i].reserve > upto && streams[i].settle != 0;
		assert_int_equal(rows(journal->reader.receipts), ended);
		/* The version, the rings, the checkpoint. */
		assert_int_equal(rows(journal->reader.meta), 3 + open_streams());
	}
	assert_true(upto > 1000);
}

/* What is somebody's id stays his. */
static void
test_the_same_id(void **state)
{
	struct journal_receipt x;
	struct told first;

	(void)state;
	seed = 11;
	open_journal(0);
	reserve(0, 3);
	end(0);
	commit();
	first = streams[0];
	for (int i = 0; i < 3; i++) {
		struct journal_reserve head = {.generation = 9};
		struct buf b = {0};

		memcpy(head.stream_id, first.id, sizeof first.id);
		buf_add(&b, &head, sizeof head);
		(void)append(JOURNAL_RESERVE, JOURNAL_VERSION, 1, &b);
		commit();
		buf_free(&b);
		slot_stream[1] = 1;
		end(1);
		commit();
		compare_one(journal_reader(journal), &first, 0);
	}
	/* Removing theirs does not remove his. */
	x.reserve_seq = 0;
	assert_int_equal(journal_receipt_get(journal_reader(journal), first.id, &x), 1);
	assert_int_equal(x.reserve_seq, 1);
}

/* A file of before there were receipts: it can be read, and the keeper adds what is missing. */
static void
test_former_file(void **state)
{
	struct journal_receipt x;
	struct journal_reader *r;
	const char *why;
	MDB_txn *txn;

	(void)state;
	seed = 13;
	open_journal(0);
	reserve(0, 3);
	reserve(1, 3);
	commit();
	assert_int_equal(mdb_txn_begin(journal->reader.env, NULL, 0, &txn), 0);
	assert_int_equal(mdb_drop(txn, journal->reader.receipts, 1), 0);
	for (uint8_t slot = 0; slot < 2; slot++)
		assert_int_equal(
		    mdb_del(txn, journal->reader.meta,
		        &(MDB_val){8, (uint8_t[8]){'h', 'o', 'l', 'd', 0, 0, 0, slot}}, NULL),
		    0);
	assert_int_equal(mdb_txn_commit(txn), 0);
	journal_close(journal);
	r = journal_reader_open(dir, &why);
	assert_non_null(r);
	assert_int_equal(journal_receipt_get(r, streams[0].id, &x), 0);
	journal_reader_close(r);
	open_journal(0);
	end(0); /* of a stream that no table knows */
	reserve(2, 3);
	end(2);
	commit();
	assert_int_equal(journal_receipt_get(journal_reader(journal), streams[0].id, &x), 0);
	compare_one(journal_reader(journal), &streams[2], 0);
}

/* Payloads that are not what they should be: an answer, or none, or that it is damaged. */
static void
test_odd(void **state)
{
	struct journal_receipt x;
	struct journal_base base;

	(void)state;
	seed = 17;
	open_journal(0);
	for (int n = 0; n < 2000; n++) {
		uint8_t version = (uint8_t)(JOURNAL_VERSION + pick(3));
		struct buf b = {0};
		uint8_t id[16];

		for (unsigned i = pick(160); i > 0; i--)
			buf_add(&b, &(char){(char)(pick(3) == 0 ? pick(256) : 1)}, 1);
		memset(id, 0, sizeof id);
		memcpy(id, b.len > 0 ? b.data : "", b.len < 16 ? b.len : 16);
		(void)append(JOURNAL_RESERVE, JOURNAL_VERSION, pick(4), &b);
		(void)append(pick(2) == 0 ? JOURNAL_SETTLE : JOURNAL_VOID, version, pick(4), &b);
		commit();
		if (journal_receipt_get(journal_reader(journal), id, &x) == 1) {
			assert_true(x.end.provider_len <= sizeof x.provider);
			assert_true(x.model_len <= sizeof x.model);
		}
		buf_free(&b);
	}
	base = (struct journal_base){.sequence = journal_last(journal)};
	journal_stage_base(journal, &base);
	commit();
	while (journal_leftovers(journal) == 1) {
		journal_stage_removal(journal, 300);
		commit();
	}
	assert_int_equal(rows(journal->reader.receipts), 0);
}

/* A model's name that is longer than there is room ends with a whole character. */
static void
test_long_model(void **state)
{
	struct journal_reserve head = {.model_len = 300};
	struct journal_receipt x;
	struct buf b = {0};

	(void)state;
	open_journal(0);
	buf_add(&b, &head, sizeof head);
	buf_str(&b, "x");
	for (int i = 0; i < 100; i++)
		buf_str(&b, "\xe2\x82\xac");
	(void)append(JOURNAL_RESERVE, JOURNAL_VERSION, 0, &b);
	commit();
	buf_free(&b);
	assert_int_equal(journal_receipt_open(journal_reader(journal), 0, head.stream_id, &x), 1);
	assert_int_equal(x.model_len, 127);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_random, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_abort, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_compaction, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_the_same_id, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_former_file, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_odd, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_long_model, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
