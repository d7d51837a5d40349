/*
 * Goal:   compacting changes what the journal takes of the disk, and nothing of what it says: at
 *         every commit on the way it proves, and gives the same books; and no byte of a checkpoint
 *         can be changed unseen.
 * Method: a journal of random valid records; take the steps of a compaction one commit after the
 *         other, and look at the folder after each as the next keeper would find it; flip bytes of
 *         every piece and of what is said about it; put former checkpoints back.
 * objs: daemon/compact_make.o daemon/title.o daemon/checkpoint.o daemon/proof.o daemon/audit.o daemon/books_rows.o daemon/journal.o daemon/journal_file.o daemon/journal_compact.o daemon/journal_chain.o daemon/journal_read.o daemon/state.o daemon/state_job.o daemon/state_streams.o daemon/state_read.o daemon/books.o daemon/books_refs.o daemon/books_apply.o daemon/books_caps.o daemon/books_check.o daemon/buf.o daemon/log.o daemon/utf8.o tests/unit/records.o shm/money.o shm/account.o shm/region.o shm/ring.o shm/hold.o shm/ledger.o shm/seat.o shm/purse.o daemon/journal_history.o daemon/journal_receipts.o
 */
#include <fcntl.h>
#include <lmdb.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/audit.h"
#include "daemon/books_rows.h"
#include "daemon/checkpoint.h"
#include "daemon/compact.h"
#include "daemon/proof.h"
#include "tests/unit/records.h"

#define RECORDS 3000
#define BATCH 20
#define ACCOUNTS 400
#define SLOTS 60

static char *dir;
static const char *why;
static struct books *reference; /* what the journal says */
static struct journal_positions rings = {.epoch = 1};
static unsigned int seed;

/* More records behind what there is. */
static void
write_records(uint64_t up_to)
{
	struct journal *j = journal_open(dir, 0, &why);
	struct rec rec;

	assert_non_null(j);
	while (journal_last(j) < up_to) {
		if (rec_random(reference, &seed, ACCOUNTS, SLOTS, &rec))
			rec_journal(j, reference, &rec);
		if (journal_staged(j) == BATCH)
			assert_int_equal(journal_commit(j, &rings), 0);
	}
	journal_close(j);
}

static int
setup(void **state)
{
	struct state *st;

	(void)state;
	dir = dir_new();
	seed = 11;
	reference = books_new();
	write_records(RECORDS);
	/* As after its loss: empty. */
	st = state_open(dir, 0, &why);
	assert_non_null(st);
	state_close(st);
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	books_free(reference);
	dir_remove(dir);
	return 0;
}

/* Row by row, refs and keys in whatever order. */
static void
same_books(const struct books *a, const struct books *b)
{
	struct books_row x, y;

	for (int t = 0; t < ROWS_TABLES; t++) {
		enum books_table table = (enum books_table)t;

		assert_int_equal(books_rows(a, table), books_rows(b, table));
		for (uint32_t i = 0; i < books_rows(a, table); i++) {
			books_row_make(a, table, i, &x);
			books_row_make(b, table, i, &y);
			assert_int_equal(x.text_len, y.text_len);
			assert_memory_equal(x.key, y.key, sizeof x.key);
			assert_memory_equal(&x.fixed, &y.fixed, sizeof x.fixed);
			if (x.text_len > 0)
				assert_memory_equal(x.text, y.text, x.text_len);
		}
	}
}

static struct audit_result
audit(uint64_t expect, const uint8_t *link)
{
	struct journal_reader *j = journal_reader_open(dir, &why);
	struct state_reader *st = state_reader_open(dir, &why);
	struct audit_result result;
	struct audit *a;

	assert_non_null(j);
	assert_non_null(st);
	a = audit_new(j, st);
	assert_non_null(a);
	if (expect != 0)
		audit_expect(a, expect, link);
	while (audit_step(a, 1000))
		continue;
	audit_result(a, &result);
	audit_free(a);
	state_reader_close(st);
	journal_reader_close(j);
	return result;
}

/* The journal proves and says what it said before. */
static struct audit_result
proves(void)
{
	struct audit_result result = audit(0, NULL);
	struct journal_reader *j = journal_reader_open(dir, &why);
	struct proof *p = proof_new(j);
	enum proof_step step;

	if (!result.ok)
		print_error("%s\n", result.first_difference);
	assert_true(result.ok);
	while ((step = proof_load(p, 1)) == PROOF_MORE)
		continue;
	while (step != PROOF_DIFFERS && (step = proof_record(p)) == PROOF_MORE)
		continue;
	assert_int_equal(step, PROOF_END);
	same_books(proof_books(p), reference);
	proof_free(p);
	journal_reader_close(j);
	return result;
}

struct making {
	struct compact_report report;
	int file;
	uint64_t stored;
	uint32_t piece;
	struct journal_chain *hash;
};

static void
make(struct making *m, uint64_t up_to)
{
	_Atomic uint64_t done = 0, of = 0;
	struct compact_order order = {
	    .state_dir = dir, .before_us = UINT64_MAX, .up_to = up_to, .done = &done, .of = &of};

	memset(m, 0, sizeof *m);
	m->file = memfd_create("checkpoint", MFD_CLOEXEC);
	compact_make(&order, m->file, &m->report);
	if (!m->report.ok)
		print_error("%s\n", m->report.why);
	assert_true(m->report.ok);
	assert_int_equal(done, of);
	m->hash = journal_chain_new();
	journal_chain_start(m->hash);
}

static void
made(struct making *m)
{
	close(m->file);
	journal_chain_free(m->hash);
}

/* One commit's share; false when there is no more. */
static bool
store_piece(struct making *m, struct journal *j)
{
	char bytes[JOURNAL_PIECE_LEN];
	ssize_t n = pread(m->file, bytes, sizeof bytes, (off_t)m->stored);
	struct journal_base base = {.sequence = m->report.sequence,
	    .bytes = m->report.bytes,
	    .time_us = m->report.time_us,
	    .record = journal_last(j) + 1};
	struct journal_checkpoint bound = {.sequence = base.sequence};
	struct journal_record r = {.type = JOURNAL_CHECKPOINT,
	    .version = JOURNAL_VERSION,
	    .slot = JOURNAL_NONE,
	    .account = JOURNAL_NONE,
	    .price = JOURNAL_NONE,
	    .payload_len = sizeof bound};

	journal_begin(j);
	if (n > 0) {
		journal_chain_add(m->hash, bytes, (size_t)n);
		journal_stage_piece(j, m->piece++, bytes, (size_t)n);
		m->stored += (uint64_t)n;
	} else {
		memcpy(base.link, m->report.link, sizeof base.link);
		journal_chain_end(m->hash, base.hash);
		memcpy(bound.link, base.link, sizeof bound.link);
		memcpy(bound.hash, base.hash, sizeof bound.hash);
		journal_stage_base(j, &base);
		assert_int_equal(journal_append(j, &r, &bound), base.record);
	}
	assert_int_equal(journal_commit(j, &rings), 0);
	return n > 0;
}

static bool
remove_some(struct journal *j, size_t n)
{
	journal_begin(j);
	journal_stage_removal(j, n);
	assert_int_equal(journal_commit(j, &rings), 0);
	assert_true(journal_removed(j) <= n + n / 16 + 1);
	return journal_removed(j) > 0;
}

static void
compact(uint64_t up_to)
{
	struct making m;
	struct journal *j;

	make(&m, up_to);
	j = journal_open(dir, 0, &why);
	assert_non_null(j);
	while (store_piece(&m, j))
		continue;
	while (remove_some(j, 200))
		continue;
	journal_close(j);
	made(&m);
}

/* The writer ends after each commit, as if it had been killed, and what it left is looked at. */
static void
every_step_proves(void **state)
{
	struct making m;
	struct journal *j;
	uint64_t first = 0;
	bool more = true;
	int steps = 0;

	(void)state;
	make(&m, 2011); /* in the midst of a batch: the one before it is the last to go */
	assert_int_equal(m.report.sequence, 2000);
	for (; more; steps++) {
		j = journal_open(dir, 0, &why);
		assert_non_null(j);
		more = store_piece(&m, j);
		journal_close(j);
		assert_int_equal(proves().base.sequence, more ? 0 : 2000);
	}
	assert_true(steps > 2);
	for (more = true; more; steps++) {
		j = journal_open(dir, 0, &why);
		assert_int_equal(journal_base(j)->sequence, 2000);
		if (steps < 8)
			assert_int_equal(journal_leftovers(j), 1);
		more = remove_some(j, 150);
		journal_close(j);
		assert_int_equal(proves().records, RECORDS + 1 - 2000);
	}
	assert_true(steps > 15);
	j = journal_open(dir, 0, &why);
	assert_int_equal(journal_leftovers(j), 0);
	for (uint64_t n = 1; n <= RECORDS && first == 0; n++) {
		struct journal_record r;

		if (journal_get(journal_reader(j), n, &r, NULL) == 1)
			first = n;
	}
	journal_close(j);
	assert_int_equal(first, 2001);
	made(&m);
	/* It goes on, and once more. */
	write_records(RECORDS + 1 + 1000);
	(void)proves();
	compact(3500);
	assert_true(proves().base.sequence >= 3480);
}

/* A keeper that died while it stored: the next one removes what is in, and begins anew. */
static void
a_half_stored_one_leaves_nothing(void **state)
{
	struct making m;
	struct journal *j;

	(void)state;
	make(&m, 2000);
	j = journal_open(dir, 0, &why);
	assert_true(store_piece(&m, j));
	assert_true(store_piece(&m, j));
	journal_close(j);
	made(&m);
	j = journal_open(dir, 0, &why);
	assert_int_equal(journal_leftovers(j), 1);
	assert_true(remove_some(j, 16));
	while (remove_some(j, 16))
		continue;
	assert_int_equal(journal_leftovers(j), 0);
	journal_close(j);
	(void)proves();
	compact(2000);
	assert_int_equal(proves().base.sequence, 2000);
}

static void
the_pages_are_used_again(void **state)
{
	char path[128];
	struct stat before, after;

	(void)state;
	(void)snprintf(path, sizeof path, "%s/journal.mdb", dir);
	for (uint64_t n = 1; n <= 4; n++) {
		compact(RECORDS * n - 100);
		write_records(RECORDS * (n + 1));
		if (n == 1)
			assert_int_equal(stat(path, &before), 0);
	}
	assert_int_equal(stat(path, &after), 0);
	/* Four times the records, and more accounts and refs in the checkpoint. */
	if (after.st_size > before.st_size * 2)
		fail_msg(
		    "%lld bytes, then %lld", (long long)before.st_size, (long long)after.st_size);
}

/* Change a byte of a value; the key is 64 bits or text. */
static void
flip(const char *database, MDB_val key, unsigned flags, size_t byte, unsigned bit)
{
	static unsigned char copy[JOURNAL_PIECE_LEN];
	char path[128];
	MDB_env *env;
	MDB_txn *txn;
	MDB_dbi dbi;
	MDB_val value;

	(void)snprintf(path, sizeof path, "%s/journal.mdb", dir);
	assert_int_equal(mdb_env_create(&env), 0);
	assert_int_equal(mdb_env_set_maxdbs(env, 16), 0);
	assert_int_equal(mdb_env_set_mapsize(env, 1 << 30), 0);
	assert_int_equal(mdb_env_open(env, path, MDB_NOSUBDIR | MDB_NOSYNC, 0600), 0);
	assert_int_equal(mdb_txn_begin(env, NULL, 0, &txn), 0);
	assert_int_equal(mdb_dbi_open(txn, database, flags, &dbi), 0);
	assert_int_equal(mdb_get(txn, dbi, &key, &value), 0);
	assert_true(value.mv_size <= sizeof copy);
	memcpy(copy, value.mv_data, value.mv_size);
	copy[byte % value.mv_size] ^= (unsigned char)(1u << bit);
	value.mv_data = copy;
	assert_int_equal(mdb_put(txn, dbi, &key, &value, 0), 0);
	assert_int_equal(mdb_txn_commit(txn), 0);
	mdb_env_close(env);
}

static void
found(const char *what)
{
	struct audit_result result = audit(0, NULL);

	if (result.ok || strstr(result.first_difference, what) == NULL)
		fail_msg("found \"%s\" instead of \"%s\"", result.first_difference, what);
}

static void
any_changed_byte_is_found(void **state)
{
	static char name[] = "checkpoint";
	MDB_val meta = {sizeof name - 1, name};

	uint64_t pieces;

	(void)state;
	compact(2000);
	pieces = (proves().base.bytes + JOURNAL_PIECE_LEN - 1) / JOURNAL_PIECE_LEN;
	assert_true(pieces > 1);
	for (int i = 0; i < 250; i++) {
		uint64_t piece = UINT64_C(1) << 32 | (uint64_t)rand_r(&seed) % pieces;
		MDB_val key = {sizeof piece, &piece};
		size_t byte = (size_t)rand_r(&seed);
		unsigned bit = (unsigned)rand_r(&seed) % 8;

		flip("checkpoint", key, MDB_INTEGERKEY, byte, bit);
		found("the checkpoint of record 2000");
		flip("checkpoint", key, MDB_INTEGERKEY, byte, bit);
	}
	for (size_t byte = 0; byte < sizeof(struct journal_base); byte++) {
		flip("meta", meta, 0, byte, 3);
		found("");
		flip("meta", meta, 0, byte, 3);
	}
	assert_true(proves().ok);
}

/* meta's row and the pieces as they were before, by hand. */
static void
a_former_checkpoint_is_found(void **state)
{
	struct journal *j;
	struct journal_base former, none = {0};

	(void)state;
	compact(1000);
	j = journal_open(dir, 0, &why);
	former = *journal_base(j);
	/* Without it: what it stands for is missing. */
	journal_begin(j);
	journal_stage_base(j, &none);
	assert_int_equal(journal_commit(j, &rings), 0);
	journal_close(j);
	found("record 1: it is missing, the next one is 1001");
	j = journal_open(dir, 0, &why);
	former.sequence = 1020;
	journal_begin(j);
	journal_stage_base(j, &former);
	assert_int_equal(journal_commit(j, &rings), 0);
	journal_close(j);
	found("the checkpoint of record 1020");
}

static void
what_was_written_down_still_holds(void **state)
{
	struct audit_result early, first, second, wrong;

	(void)state;
	early = proves();
	assert_int_equal(early.head, RECORDS);
	assert_true(audit(RECORDS, early.link).ok);
	compact(1000);
	first = proves();
	assert_true(audit(RECORDS, early.link).ok);
	assert_true(audit(1000, first.base.link).ok);
	write_records(RECORDS + 1 + 500);
	compact(RECORDS);
	second = proves();
	assert_true(second.base.sequence == RECORDS);
	/* A link after it, its own, and that of the one before it. */
	assert_true(audit(second.head, second.link).ok);
	assert_true(audit(RECORDS, early.link).ok);
	assert_true(audit(1000, first.base.link).ok);
	wrong = audit(1000, early.link);
	assert_non_null(strstr(wrong.first_difference, "not the one that was written down"));
	wrong = audit(RECORDS, first.base.link);
	assert_non_null(strstr(wrong.first_difference, "not the one that was written down"));
	wrong = audit(second.head, first.base.link);
	assert_non_null(strstr(wrong.first_difference, "not the one that was written down"));
	wrong = audit(500, first.base.link);
	assert_non_null(strstr(wrong.first_difference, "it was compacted"));
	wrong = audit(second.head + 5, first.base.link);
	assert_non_null(strstr(wrong.first_difference, "no batch ends with it"));
}

/* Nothing is removed of what does not prove. */
static void
a_changed_journal_makes_no_checkpoint(void **state)
{
	_Atomic uint64_t done = 0, of = 0;
	struct compact_order order = {
	    .state_dir = dir, .before_us = UINT64_MAX, .up_to = RECORDS, .done = &done, .of = &of};
	struct compact_report report;
	uint64_t n = 1234;
	int file = memfd_create("checkpoint", MFD_CLOEXEC);

	(void)state;
	flip("records", (MDB_val){sizeof n, &n}, MDB_INTEGERKEY, 17, 1);
	compact_make(&order, file, &report);
	assert_false(report.ok);
	assert_non_null(strstr(report.why, "nothing is removed"));
	close(file);
}

static void
the_first_late_record_ends_it(void **state)
{
	_Atomic uint64_t done = 0, of = 0;
	struct compact_order order = {.state_dir = dir, .up_to = RECORDS, .done = &done, .of = &of};
	struct compact_report report;
	int file = memfd_create("checkpoint", MFD_CLOEXEC);

	(void)state;
	/* All of them are later than that. */
	order.before_us = 1000000;
	compact_make(&order, file, &report);
	assert_true(report.ok);
	assert_int_equal(report.sequence, 0);
	order.before_us = UINT64_MAX;
	order.up_to = BATCH - 1; /* not even the first batch */
	compact_make(&order, file, &report);
	assert_true(report.ok);
	assert_int_equal(report.sequence, 0);
	close(file);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	    TEST(every_step_proves),
	    TEST(a_half_stored_one_leaves_nothing),
	    TEST(the_pages_are_used_again),
	    TEST(any_changed_byte_is_found),
	    TEST(a_former_checkpoint_is_found),
	    TEST(what_was_written_down_still_holds),
	    TEST(a_changed_journal_makes_no_checkpoint),
	    TEST(the_first_late_record_ends_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
