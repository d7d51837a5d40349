/*
 * Goal:   the audit passes a clean journal and finds any difference, saying where it is.
 * Method: make a journal of random valid records and its projection; audit; then change one
 *         record, payload, batch or row at a time behind the keeper's back and audit again.
 * objs: daemon/audit.o daemon/proof.o daemon/checkpoint.o daemon/journal.o daemon/journal_file.o daemon/journal_compact.o daemon/journal_chain.o daemon/journal_read.o daemon/books_rows.o daemon/state.o daemon/state_job.o daemon/state_streams.o daemon/state_read.o daemon/books.o daemon/books_refs.o daemon/books_apply.o daemon/books_caps.o daemon/books_check.o daemon/buf.o daemon/log.o daemon/utf8.o tests/unit/records.o shm/money.o shm/account.o shm/region.o shm/ring.o shm/hold.o shm/ledger.o shm/seat.o shm/purse.o daemon/journal_history.o daemon/journal_receipts.o
 */
#include <lmdb.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "daemon/audit.h"
#include "daemon/books_rows.h"
#include "tests/unit/project.h"
#include "tests/unit/records.h"

#define RECORDS 600
#define BATCH 20

static char *dir;
static const char *why;

static uint64_t
now_us(void)
{
	return (uint64_t)time(NULL) * 1000000;
}

/* A journal, and state.mdb up to a record in its midst. */
static int
setup(void **state)
{
	struct books *b = books_new();
	struct journal_positions rings = {.epoch = 1};
	unsigned int seed = 3;
	struct journal *j;
	struct state *st;
	struct rec rec;

	(void)state;
	dir = dir_new();
	j = journal_open(dir, 0, &why);
	st = state_open(dir, 0, &why);
	assert_non_null(j);
	assert_non_null(st);
	while (journal_last(j) < RECORDS) {
		if (rec_random(b, &seed, 6, 10, &rec))
			rec_journal(j, b, &rec);
		if (journal_staged(j) < BATCH)
			continue;
		assert_int_equal(journal_commit(j, &rings), 0);
		if (journal_last(j) == RECORDS - 3 * BATCH)
			assert_int_equal(project_now(st, b, j, RECORDS, now_us()), 0);
	}
	books_free(b);
	state_close(st);
	journal_close(j);
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	dir_remove(dir);
	return 0;
}

static struct audit_result
audit(void)
{
	struct journal_reader *j = journal_reader_open(dir, &why);
	struct state_reader *st = state_reader_open(dir, &why);
	struct audit_result result;
	struct audit *a;
	int steps = 0;

	assert_non_null(j);
	assert_non_null(st);
	a = audit_new(j, st);
	assert_non_null(a);
	while (audit_step(a, 7))
		steps++;
	audit_result(a, &result);
	audit_free(a);
	state_reader_close(st);
	journal_reader_close(j);
	assert_true(!result.ok || steps > RECORDS / 7);
	return result;
}

static void
finds(const char *what)
{
	struct audit_result result = audit();

	if (result.ok || strstr(result.first_difference, what) == NULL)
		print_error("found \"%s\" instead of \"%s\"\n", result.first_difference, what);
	assert_false(result.ok);
	assert_non_null(strstr(result.first_difference, what));
}

static void
open_file(const char *name, const char *database, unsigned flags, MDB_env **env, MDB_txn **txn,
    MDB_dbi *dbi)
{
	char path[128];

	(void)snprintf(path, sizeof path, "%s/%s", dir, name);
	assert_int_equal(mdb_env_create(env), 0);
	assert_int_equal(mdb_env_set_maxdbs(*env, 16), 0);
	assert_int_equal(mdb_env_set_mapsize(*env, 1 << 30), 0);
	assert_int_equal(mdb_env_open(*env, path, MDB_NOSUBDIR, 0600), 0);
	assert_int_equal(mdb_txn_begin(*env, NULL, 0, txn), 0);
	assert_int_equal(mdb_dbi_open(*txn, database, flags, dbi), 0);
}

static void
close_file(MDB_env *env, MDB_txn *txn)
{
	assert_int_equal(mdb_txn_commit(txn), 0);
	mdb_env_close(env);
}

/* Flip a bit of the value at the first key from n on; the key that it was. */
static uint64_t
flip(const char *file, const char *database, uint64_t n, size_t byte, unsigned bit)
{
	unsigned char copy[4096];
	MDB_env *env;
	MDB_txn *txn;
	MDB_dbi dbi;
	MDB_cursor *c;
	MDB_val key = {sizeof n, &n}, value;

	open_file(file, database, MDB_INTEGERKEY, &env, &txn, &dbi);
	assert_int_equal(mdb_cursor_open(txn, dbi, &c), 0);
	assert_int_equal(mdb_cursor_get(c, &key, &value, MDB_SET_RANGE), 0);
	assert_true(value.mv_size <= sizeof copy);
	memcpy(copy, value.mv_data, value.mv_size);
	memcpy(&n, key.mv_data, sizeof n);
	copy[byte % value.mv_size] ^= (unsigned char)(1u << bit);
	value.mv_data = copy;
	key = (MDB_val){sizeof n, &n};
	mdb_cursor_close(c);
	assert_int_equal(mdb_put(txn, dbi, &key, &value, 0), 0);
	close_file(env, txn);
	return n;
}

static void
erase(const char *database, uint64_t n)
{
	MDB_env *env;
	MDB_txn *txn;
	MDB_dbi dbi;
	MDB_val key = {sizeof n, &n};

	open_file("journal.mdb", database, MDB_INTEGERKEY, &env, &txn, &dbi);
	assert_int_equal(mdb_del(txn, dbi, &key, NULL), 0);
	close_file(env, txn);
}

static void
a_clean_journal_passes(void **state)
{
	struct audit_result result = audit();

	(void)state;
	if (!result.ok)
		print_error("%s\n", result.first_difference);
	assert_true(result.ok);
	assert_int_equal(result.records, RECORDS);
	assert_int_equal(result.accounts, 6);
	assert_string_equal(result.first_difference, "");
}

/* The difference names the record, or the batch that it is in. */
static void
finds_at(uint64_t n)
{
	char record[32], batch[64];
	uint64_t first = (n - 1) / BATCH * BATCH + 1;
	struct audit_result result = audit();

	(void)snprintf(record, sizeof record, "record %llu:", (unsigned long long)n);
	(void)snprintf(batch, sizeof batch, "batch %llu-%llu:", (unsigned long long)first,
	    (unsigned long long)(first + BATCH - 1));
	assert_false(result.ok);
	if (strstr(result.first_difference, record) == NULL &&
	    strstr(result.first_difference, batch) == NULL &&
	    result.records + 1 - n > BATCH) /* a consequence within the same batch */
		fail_msg("record %llu was changed, found: %s", (unsigned long long)n,
		    result.first_difference);
}

static void
any_changed_record_is_found(void **state)
{
	unsigned int seed = 5;

	(void)state;
	for (int i = 0; i < 150; i++) {
		uint64_t n = 1 + (uint64_t)rand_r(&seed) % RECORDS;
		size_t byte = (size_t)rand_r(&seed) % 64;
		unsigned bit = (unsigned)rand_r(&seed) % 8;

		(void)flip("journal.mdb", "records", n, byte, bit);
		finds_at(n);
		(void)flip("journal.mdb", "records", n, byte, bit);
	}
	assert_true(audit().ok);
}

static void
any_changed_payload_is_found(void **state)
{
	unsigned int seed = 6;

	(void)state;
	for (int i = 0; i < 80; i++) {
		uint64_t n = 1 + (uint64_t)rand_r(&seed) % (RECORDS - BATCH);
		size_t byte = (size_t)rand_r(&seed) % 64;

		n = flip("journal.mdb", "payloads", n, byte, 1);
		finds_at(n);
		(void)flip("journal.mdb", "payloads", n, byte, 1);
	}
}

static void
any_changed_batch_is_found(void **state)
{
	unsigned int seed = 8;

	(void)state;
	for (int i = 0; i < 30; i++) {
		uint64_t n = 1 + (uint64_t)rand_r(&seed) % RECORDS;
		size_t byte = (size_t)rand_r(&seed) % sizeof(struct journal_batch);

		n = flip("journal.mdb", "batches", n, byte, 2);
		finds_at(n);
		(void)flip("journal.mdb", "batches", n, byte, 2);
	}
}

static void
missing_things_are_found(void **state)
{
	(void)state;
	erase("records", RECORDS);
	finds("the journal ends at record 599");
	erase("records", 300);
	finds("record 300: it is missing");
	erase("batches", 200);
	finds("batch 181-220: it says that it begins with record 201");
}

static void
a_payload_of_nobody_is_found(void **state)
{
	const uint64_t places[] = {0, RECORDS / 2, RECORDS + 7};

	(void)state;
	for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
		uint64_t n = places[i];
		struct journal_record r;
		MDB_env *env;
		MDB_txn *txn;
		MDB_dbi records, payloads;
		MDB_val key = {sizeof n, &n}, value;

		/* In the midst: the first record after it that has none. */
		open_file("journal.mdb", "records", MDB_INTEGERKEY, &env, &txn, &records);
		assert_int_equal(mdb_dbi_open(txn, "payloads", MDB_INTEGERKEY, &payloads), 0);
		for (; mdb_get(txn, records, &key, &value) == 0; n++) {
			memcpy(&r, value.mv_data, sizeof r);
			if (r.payload_len == 0)
				break;
		}
		value = (MDB_val){4, (char[]){"junk"}};
		assert_int_equal(mdb_put(txn, payloads, &key, &value, 0), 0);
		close_file(env, txn);
		if (places[i] == RECORDS / 2)
			finds("its payload has 4 bytes instead of 0");
		else
			finds("1 payloads that no record has");
		erase("payloads", n);
	}
	assert_true(audit().ok);
}

static void
a_changed_account_row_is_found(void **state)
{
	MDB_env *env;
	MDB_txn *txn;
	MDB_dbi dbi;
	uint32_t number = 2;
	MDB_val key = {sizeof number, &number}, value;
	unsigned char copy[512];

	(void)state;
	open_file("state.mdb", "accounts", MDB_INTEGERKEY, &env, &txn, &dbi);
	assert_int_equal(mdb_get(txn, dbi, &key, &value), 0);
	memcpy(copy, value.mv_data, value.mv_size);
	copy[0] ^= 1;
	value.mv_data = copy;
	assert_int_equal(mdb_put(txn, dbi, &key, &value, 0), 0);
	close_file(env, txn);
	finds("state.mdb: account user-2 has balance");
	/* What it has spent of its budget. */
	copy[0] ^= 1;
	copy[offsetof(struct account_row, budget[BUDGET_MONTH].used[0])] ^= 1;
	open_file("state.mdb", "accounts", MDB_INTEGERKEY, &env, &txn, &dbi);
	value.mv_data = copy;
	assert_int_equal(mdb_put(txn, dbi, &key, &value, 0), 0);
	close_file(env, txn);
	finds("state.mdb: account user-2 has other budgets, or has used them otherwise");
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	    TEST(a_clean_journal_passes),
	    TEST(any_changed_record_is_found),
	    TEST(any_changed_payload_is_found),
	    TEST(any_changed_batch_is_found),
	    TEST(missing_things_are_found),
	    TEST(a_payload_of_nobody_is_found),
	    TEST(a_changed_account_row_is_found),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
