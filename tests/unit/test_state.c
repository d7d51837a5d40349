/*
 * Goal:   state.mdb is never anything but what the journal says: it can be lost at any moment.
 * Method: random valid records, projected at random moments with restarts in between, against
 *         one projection of the whole journal; then streams as readers see them.
 * objs: daemon/books_rows.o daemon/state.o daemon/state_job.o daemon/projector.o daemon/state_streams.o daemon/state_read.o daemon/journal.o daemon/journal_file.o daemon/journal_compact.o daemon/journal_chain.o daemon/journal_read.o daemon/books.o daemon/books_refs.o daemon/books_apply.o daemon/books_caps.o daemon/books_check.o daemon/buf.o daemon/log.o daemon/utf8.o tests/unit/records.o shm/money.o shm/account.o shm/region.o shm/ring.o shm/hold.o shm/ledger.o shm/seat.o shm/purse.o daemon/journal_history.o daemon/journal_receipts.o
 */
#include <lmdb.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/projector.h"
#include "daemon/state.h"
#include "shm/account.h"
#include "tests/unit/project.h"
#include "tests/unit/records.h"

static char *dir;
static const char *why;
static struct journal *j;
static struct state *st;
static struct books *b;

static uint64_t
now_us(void)
{
	return (uint64_t)time(NULL) * 1000000;
}

static int
setup(void **state)
{
	(void)state;
	dir = dir_new();
	j = journal_open(dir, 0, &why);
	st = state_open(dir, 0, &why);
	b = books_new();
	assert_non_null(j);
	assert_non_null(st);
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	books_free(b);
	state_close(st);
	journal_close(j);
	dir_remove(dir);
	return 0;
}

static void
commit(void)
{
	struct journal_positions rings = {.epoch = 1};

	assert_int_equal(journal_commit(j, &rings), 0);
}

static void
project(size_t max)
{
	assert_int_equal(project_now(st, b, j, max, now_us()),
	    0);
}

/* As a keeper does at start: rows, then the journal's rest. */
static void
reload(void)
{
	struct journal_cursor *c;
	struct journal_entry e;

	state_close(st);
	books_free(b);
	st = state_open(dir, 0, &why);
	assert_non_null(st);
	b = books_new();
	assert_int_equal(state_load(st, b, NULL, NULL), 0);
	c = journal_cursor_new(journal_reader(j), state_progress(st)->applied + 1);
	assert_non_null(c);
	while (journal_cursor_next(c, &e) == 1)
		assert_int_equal(books_apply(b, &e.record, e.payload, e.sequence), 0);
	journal_cursor_free(c);
}

/* All that is in state.mdb, in one buffer. */
static void
dump(struct buf *out)
{
	static const char *const names[] = {"meta", "accounts", "holds", "keys", "refs", "prices",
	    "price_sets", "ids", "slots", "streams", "texts", "ends"};
	char path[128];
	MDB_env *env;
	MDB_txn *txn;

	(void)snprintf(path, sizeof path, "%s/state.mdb", dir);
	assert_int_equal(mdb_env_create(&env), 0);
	assert_int_equal(mdb_env_set_maxdbs(env, 16), 0);
	assert_int_equal(mdb_env_open(env, path, MDB_NOSUBDIR | MDB_RDONLY, 0600), 0);
	assert_int_equal(mdb_txn_begin(env, NULL, MDB_RDONLY, &txn), 0);
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		MDB_cursor *c;
		MDB_dbi dbi;
		MDB_val key, value;

		assert_int_equal(mdb_dbi_open(txn, names[i], 0, &dbi), 0);
		assert_int_equal(mdb_cursor_open(txn, dbi, &c), 0);
		while (mdb_cursor_get(c, &key, &value, MDB_NEXT) == 0) {
			buf_str(out, names[i]);
			buf_u64(out, key.mv_size);
			buf_add(out, key.mv_data, key.mv_size);
			buf_u64(out, value.mv_size);
			buf_add(out, value.mv_data, value.mv_size);
		}
		mdb_cursor_close(c);
	}
	mdb_txn_abort(txn);
	mdb_env_close(env);
}

/* state.mdb as it is, and as it is when it is made from the journal at once, are the same. */
static void
is_the_journals(void)
{
	struct buf pieces = {0}, whole = {0};

	project(SIZE_MAX);
	state_close(st);
	dump(&pieces);
	state_remove(dir);
	st = state_open(dir, 0, &why);
	assert_int_equal(state_progress(st)->applied, 0);
	reload();
	project(SIZE_MAX);
	state_close(st);
	dump(&whole);
	st = NULL;
	assert_int_equal(pieces.len, whole.len);
	assert_memory_equal(pieces.data, whole.data, whole.len);
	buf_free(&pieces);
	buf_free(&whole);
}

/* Rows of these databases. */
static size_t
count_rows(const char *const names[], size_t n)
{
	char path[128];
	size_t rows = 0;
	MDB_env *env;
	MDB_txn *txn;

	(void)snprintf(path, sizeof path, "%s/state.mdb", dir);
	assert_int_equal(mdb_env_create(&env), 0);
	assert_int_equal(mdb_env_set_maxdbs(env, 16), 0);
	assert_int_equal(mdb_env_open(env, path, MDB_NOSUBDIR | MDB_RDONLY, 0600), 0);
	assert_int_equal(mdb_txn_begin(env, NULL, MDB_RDONLY, &txn), 0);
	for (size_t i = 0; i < n; i++) {
		MDB_stat stat;
		MDB_dbi dbi;

		assert_int_equal(mdb_dbi_open(txn, names[i], 0, &dbi), 0);
		assert_int_equal(mdb_stat(txn, dbi, &stat), 0);
		rows += stat.ms_entries;
	}
	mdb_txn_abort(txn);
	mdb_env_close(env);
	return rows;
}

static void
any_projection_is_the_journals(void **state)
{
	unsigned int seed = 11;
	struct rec rec;

	(void)state;
	while (journal_last(j) < 6000) {
		if (rec_random(b, &seed, 20, 30, &rec))
			rec_journal(j, b, &rec);
		if (rand_r(&seed) % 20 != 0)
			continue;
		commit();
		if (rand_r(&seed) % 5 == 0)
			project((size_t)rand_r(&seed) % 200);
		/* A crash between the journal's commit and the projection. */
		if (rand_r(&seed) % 25 == 0)
			reload();
	}
	commit();
	is_the_journals();
}

static void
finish_job(struct projector *p)
{
	while (!projector_wait(p, 100))
		continue;
	projector_end(p);
	assert_int_equal(state_finish(st, projector_job(p), b), 0);
}

static void
finish_before_growth(void *arg)
{
	struct projector **p = arg;

	while (*p != NULL && projector_busy(*p) && !projector_wait(*p, 100))
		continue;
}

/*
 * The same by the thread, while records go on being entered and committed, and both files' maps
 * grow; jobs are taken at random moments, and not all of what they may.
 */
static void
a_thread_projects_while_the_journal_goes_on(void **state)
{
	struct projector *p;
	unsigned int seed = 13;
	uint64_t meanwhile = 0, was;
	struct rec rec;

	(void)state;
	state_close(st);
	journal_close(j);
	j = journal_open(dir, 256 << 10, &why);
	st = state_open(dir, 256 << 10, &why);
	assert_non_null(j);
	assert_non_null(st);
	p = projector_new(st, journal_reader(j));
	assert_non_null(p);
	journal_on_growth(j, finish_before_growth, &p);
	while (journal_last(j) < 20000) {
		if (rec_random(b, &seed, 20, 30, &rec))
			rec_journal(j, b, &rec);
		if (rand_r(&seed) % 8 != 0)
			continue;
		was = journal_last(j);
		commit();
		if (projector_busy(p) && !projector_done(p))
			meanwhile += journal_last(j) - was;
		if (projector_done(p))
			finish_job(p);
		if (!projector_busy(p) && rand_r(&seed) % 4 == 0) {
			const struct state_order order = {.last = journal_last(j),
			    .max_rows = (size_t)rand_r(&seed) % 40 + 1,
			    .max_records = (size_t)rand_r(&seed) % 500,
			    .now_us = now_us(),
			    .sweep = rand_r(&seed) % 3 == 0};

			if (state_take(projector_job(p), b, &order))
				projector_start(p);
		}
		assert_true(state_progress(st)->streams <= state_progress(st)->applied);
		/* The keeper dies, between two of its steps. */
		if (rand_r(&seed) % 400 == 0) {
			if (projector_busy(p))
				finish_job(p);
			projector_free(p);
			reload();
			p = projector_new(st, journal_reader(j));
			assert_non_null(p);
		}
	}
	commit();
	if (projector_busy(p))
		finish_job(p);
	/* Rows may have been taken already, so it is this job that has to go on. */
	assert_true(state_take(projector_job(p), b,
	    &(struct state_order){.last = journal_last(j),
	        .max_rows = SIZE_MAX / 2,
	        .max_records = 100,
	        .now_us = now_us()}));
	projector_start(p);
	finish_job(p);
	projector_free(p);
	p = NULL;
	assert_true(meanwhile > 0);
	is_the_journals();
}

static void
journal(struct rec rec)
{
	rec_journal(j, b, &rec);
}

/* What a reader in another process sees; its exit status tells. */
static void
elsewhere(bool (*look)(struct state_reader *))
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		struct state_reader *r = state_reader_open(dir, &why);

		_exit(r != NULL && look(r) ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static bool
stream_runs(struct state_reader *r)
{
	uint8_t id[16];
	struct stream_row row;
	struct buf text = {0};

	rec_stream_id(9, 1, id);
	return state_stream_get(r, id, &row, &text) == 1 && row.ended_us == 0 &&
	    row.settle_seq == 0 && row.completion == 30 && row.reserved == 135 &&
	    row.text_len == 10 && text.len == 10 && memcmp(text.data, "one, two, ", 10) == 0;
}

static bool
stream_ended(struct state_reader *r)
{
	uint8_t id[16];
	struct stream_row row;
	struct buf text = {0};
	struct state_price price;

	rec_stream_id(9, 1, id);
	if (state_stream_get(r, id, &row, &text) != 1 || row.charge != 120 ||
	    row.outcome != OUTCOME_STOP || row.completion != 35 || row.prompt != 10 ||
	    row.ended_us == 0 || row.reserve_seq != 4 || row.settle_seq != 7 ||
	    row.generation != 7 || row.proc != 3 || row.account != 0 || row.voided ||
	    row.model_len != 5 || memcmp(row.model, "model", 5) != 0 ||
	    row.session_id[0] != 's' || row.message_id[0] != 'm')
		return false;
	if (text.len != 15 || memcmp(text.data, "one, two, three", 15) != 0)
		return false;
	if (state_price_get(r, row.price, &price) != 1 || price.price.completion != 3000000 ||
	    price.model_len != 5)
		return false;
	rec_stream_id(9, 2, id);
	return state_stream_get(r, id, &row, &text) == 0;
}

static bool
stream_gone(struct state_reader *r)
{
	uint8_t id[16];
	struct stream_row row;
	struct buf text = {0};

	rec_stream_id(9, 1, id);
	return state_stream_get(r, id, &row, &text) == 0 && text.len == 0;
}

static void
streams_are_read_while_they_run_and_for_an_hour(void **state)
{
	(void)state;
	journal(rec_account(0, "alice", 0));
	journal(rec_price_of(0, "model", &rec_price));
	journal(rec_credit(JOURNAL_TOPUP, 0, 1, 0, 1000, ""));
	journal(rec_reserve(5, 1, 0, 105, 10, 9));
	journal(rec_mark(5, 1, 0, 20, "one, "));
	journal(rec_extend(5, 2, 0, 30, 135, 30, "two, "));
	commit();
	project(SIZE_MAX);
	elsewhere(stream_runs);
	journal(rec_settle(5, 3, 0, 10, 35, "three"));
	commit();
	project(SIZE_MAX);
	elsewhere(stream_ended);
	assert_int_equal(project_now(st, b, j, 100,
	    now_us() + STATE_STREAM_KEPT_US - 5000000), 0);
	elsewhere(stream_ended);
	assert_int_equal(project_now(st, b, j, 100,
	    now_us() + STATE_STREAM_KEPT_US + 5000000), 0);
	elsewhere(stream_gone);
}

static bool
first_come(struct state_reader *r)
{
	uint8_t id[16];
	struct stream_row row;
	struct buf text = {0};
	bool good;

	rec_stream_id(9, 1, id);
	good = state_stream_get(r, id, &row, &text) == 1 && row.reserve_seq == 4 &&
	    row.settle_seq == 7 && row.completion == 30 && row.ended_us != 0 && text.len == 9 &&
	    memcmp(text.data, "one, last", 9) == 0;
	buf_free(&text);
	return good;
}

/* Somebody else's stream is not given away, in one job or by record for record. */
static void
who_comes_with_a_known_stream_id_gets_no_stream(void **state)
{
	static const char *const streams[] = {"ids", "streams"}, *const texts[] = {"texts"},
				 *const slots[] = {"slots"}, *const all[] = {"ids", "streams",
				     "texts", "ends"};

	(void)state;
	journal(rec_account(0, "alice", 0));
	journal(rec_price_of(0, "model", &rec_price));
	journal(rec_credit(JOURNAL_TOPUP, 0, 1, 0, 1000, ""));
	journal(rec_reserve(5, 1, 0, 105, 10, 9));
	journal(rec_mark(5, 1, 0, 20, "one, "));
	journal(rec_reserve(6, 1, 0, 105, 10, 9));
	journal(rec_settle(5, 2, 0, 10, 30, "last"));
	journal(rec_settle(6, 2, 0, 10, 30, "other"));
	commit();
	for (int i = 0; i < 2; i++) {
		while (state_progress(st)->streams < journal_last(j))
			project(i == 0 ? SIZE_MAX : 1);
		elsewhere(first_come);
		state_close(st);
		assert_int_equal(count_rows(streams, 2), 2);
		assert_int_equal(count_rows(texts, 1), 2);
		assert_int_equal(count_rows(slots, 1), 1);
		state_remove(dir);
		st = state_open(dir, 0, &why);
		assert_non_null(st);
		reload();
	}
	/* An hour after its end nothing is left of it. */
	project(SIZE_MAX);
	assert_int_equal(project_now(st, b, j, 100, now_us() + STATE_STREAM_KEPT_US + 5000000), 0);
	state_close(st);
	st = NULL;
	assert_int_equal(count_rows(all, 4), 0);
}

static bool
keyed_kept(struct state_reader *r)
{
	uint8_t id[16];
	struct stream_row row;
	struct buf text = {0};
	bool kept;

	rec_stream_id(9, 1, id);
	kept = state_stream_get(r, id, &row, &text) == 1 && row.keyed == JOURNAL_KEYED &&
	    text.len == 6 && memcmp(text.data, "answer", 6) == 0;
	buf_free(&text);
	return kept;
}

/* As long as its key is known, so that who asks again can be answered. */
static void
streams_of_keyed_requests_are_kept_for_a_day(void **state)
{
	(void)state;
	journal(rec_account(0, "alice", 0));
	journal(rec_price_of(0, "model", &rec_price));
	journal(rec_credit(JOURNAL_TOPUP, 0, 1, 0, 1000, ""));
	journal(rec_keyed(9, 1, 0, 135, 1, 1));
	journal(rec_settle(9, 2, 0, 10, 35, "answer"));
	commit();
	project(SIZE_MAX);
	elsewhere(keyed_kept);
	assert_int_equal(project_now(st, b, j, 100,
	    now_us() + STATE_KEYED_KEPT_US - 5000000), 0);
	elsewhere(keyed_kept);
	assert_int_equal(project_now(st, b, j, 100,
	    now_us() + STATE_KEYED_KEPT_US + 5000000), 0);
	elsewhere(stream_gone);
}

static bool
tables(struct state_reader *r)
{
	struct state_account a;
	struct state_key k;
	struct state_progress progress;
	uint32_t accounts = 0;
	uint64_t from = 0, keys = 0;

	while (state_account_next(r, accounts, &a) == 1) {
		char id[16];

		(void)snprintf(id, sizeof id, "user-%u", accounts);
		if (a.number != accounts++ || a.id_len != strlen(id) ||
		    memcmp(a.id, id, a.id_len) != 0 || a.requests_per_minute != 60)
			return false;
	}
	while (state_key_next(r, from, &k) == 1) {
		if (k.label_len != 5 || memcmp(k.label, "label", 5) != 0)
			return false;
		from = k.key_id + 1;
		keys++;
	}
	return accounts == 20 && keys == books_keys(b) && keys > 10 &&
	    state_applied(r, &progress) == 1 && progress.applied == journal_last(j) &&
	    progress.streams == progress.applied;
}

static void
accounts_and_keys_are_listed(void **state)
{
	unsigned int seed = 12;
	struct rec rec;

	(void)state;
	while (journal_staged(j) < 5000)
		if (rec_random(b, &seed, 20, 30, &rec))
			rec_journal(j, b, &rec);
	commit();
	project(SIZE_MAX);
	elsewhere(tables);
}

/* A map that is too small grows in the middle of a projection, under a reader that has it open. */
static void
the_map_grows_under_its_readers(void **state)
{
	enum { ACCOUNTS = 20000 };
	int go[2], came[2], status;
	char c;
	pid_t pid;

	(void)state;
	state_close(st);
	st = state_open(dir, 1 << 20, &why);
	assert_non_null(st);
	journal(rec_account(0, "first", 0));
	commit();
	project(SIZE_MAX);
	assert_int_equal(pipe(go), 0);
	assert_int_equal(pipe(came), 0);
	pid = fork();
	if (pid == 0) {
		struct state_reader *r = state_reader_open(dir, &why);
		struct state_account a;

		if (r == NULL || state_account_next(r, 0, &a) != 1 || write(came[1], "c", 1) != 1 ||
		    read(go[0], &c, 1) != 1)
			_exit(1);
		_exit(state_account_next(r, ACCOUNTS - 1, &a) == 1 ? 0 : 2);
	}
	assert_int_equal(read(came[0], &c, 1), 1);
	for (uint32_t i = 1; i < ACCOUNTS; i++) {
		char id[32];

		(void)snprintf(id, sizeof id, "account-%u", i);
		journal(rec_account(i, id, 0));
	}
	commit();
	project(SIZE_MAX);
	assert_int_equal(write(go[1], "g", 1), 1);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	for (int i = 0; i < 2; i++) {
		close(go[i]);
		close(came[i]);
	}
	reload();
	assert_int_equal(books_accounts(b), ACCOUNTS);
	assert_int_equal(state_progress(st)->applied, journal_last(j));
}

/* A file that is no database, and one that was replaced under a reader's feet. */
static void
a_damaged_file_is_rebuilt_and_readers_notice(void **state)
{
	int go[2], came[2], status;
	char path[128], c;
	FILE *f;
	pid_t pid;

	(void)state;
	journal(rec_account(0, "alice", 0));
	commit();
	project(SIZE_MAX);
	assert_int_equal(pipe(go), 0);
	assert_int_equal(pipe(came), 0);
	pid = fork();
	if (pid == 0) {
		struct state_reader *r = state_reader_open(dir, &why);
		struct state_account a;

		if (r == NULL || state_account_next(r, 0, &a) != 1 ||
		    state_account_next(r, 1, &a) != 0 || write(came[1], "c", 1) != 1 ||
		    read(go[0], &c, 1) != 1)
			_exit(1);
		_exit(state_account_next(r, 1, &a) == 1 && a.number == 1 ? 0 : 2);
	}
	assert_int_equal(read(came[0], &c, 1), 1);
	state_close(st);
	(void)snprintf(path, sizeof path, "%s/state.mdb", dir);
	/* Not in place: the reader has it mapped. */
	assert_int_equal(unlink(path), 0);
	f = fopen(path, "w");
	assert_non_null(f);
	for (int i = 0; i < 10000; i++)
		(void)fputs("no database", f);
	(void)fclose(f);
	st = state_open(dir, 0, &why);
	assert_non_null(st);
	reload();
	journal(rec_account(1, "bob", 0));
	commit();
	project(SIZE_MAX);
	assert_int_equal(write(go[1], "g", 1), 1);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	for (int i = 0; i < 2; i++) {
		close(go[i]);
		close(came[i]);
	}
}

struct told {
	uint64_t times, done, of;
};

static void
tell(void *arg, uint64_t done, uint64_t of)
{
	struct told *t = arg;

	assert_int_equal(done, t->done + STATE_TELL_ROWS);
	t->times++;
	t->done = done;
	t->of = of;
}

static void
who_loads_many_rows_is_told_how_far_it_is(void **state)
{
	struct told told = {0};
	char id[16];

	(void)state;
	for (uint32_t i = 0; i < 3 * STATE_TELL_ROWS; i++) {
		(void)snprintf(id, sizeof id, "account-%u", i);
		journal(rec_account(i, id, 0));
	}
	commit();
	project(SIZE_MAX);
	state_close(st);
	books_free(b);
	st = state_open(dir, 0, &why);
	assert_non_null(st);
	b = books_new();
	assert_int_equal(state_load(st, b, tell, &told), 0);
	assert_int_equal(told.times, 3);
	assert_int_equal(told.of, 3 * STATE_TELL_ROWS);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	    TEST(any_projection_is_the_journals),
	    TEST(a_thread_projects_while_the_journal_goes_on),
	    TEST(streams_are_read_while_they_run_and_for_an_hour),
	    TEST(who_comes_with_a_known_stream_id_gets_no_stream),
	    TEST(streams_of_keyed_requests_are_kept_for_a_day),
	    TEST(accounts_and_keys_are_listed),
	    TEST(the_map_grows_under_its_readers),
	    TEST(a_damaged_file_is_rebuilt_and_readers_notice),
	    TEST(who_loads_many_rows_is_told_how_far_it_is),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
