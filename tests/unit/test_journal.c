/*
 * Goal:   what was committed is there, in order, whatever happens to the writer; what was not is
 *         not there by half.
 * Method: commit, close, reopen, read back by the reader's ways; then fork a writer, SIGKILL it
 *         at random moments and look at what the next one finds.
 * objs: daemon/journal.o daemon/journal_file.o daemon/journal_compact.o daemon/journal_chain.o daemon/journal_read.o daemon/buf.o daemon/log.o daemon/utf8.o daemon/books.o daemon/books_refs.o daemon/books_apply.o daemon/books_caps.o daemon/books_check.o tests/unit/records.o shm/money.o shm/account.o shm/region.o shm/ring.o shm/hold.o shm/ledger.o shm/seat.o shm/purse.o daemon/journal_history.o daemon/journal_receipts.o
 */
#include <errno.h>
#include <lmdb.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/journal_private.h"
#include "tests/unit/records.h"

static char *dir;
static const char *why;

static int
setup(void **state)
{
	(void)state;
	dir = dir_new();
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	dir_remove(dir);
	return 0;
}

/* A record that says its number, with a payload for every third. */
static uint64_t
append(struct journal *j, uint64_t n)
{
	char text[64];
	struct journal_record r = {.type = JOURNAL_MARK, .version = JOURNAL_VERSION, .op = n};

	(void)snprintf(text, sizeof text, "text of %llu", (unsigned long long)n);
	r.payload_len = n % 3 == 0 ? (uint32_t)strlen(text) : 0;
	return journal_append(j, &r, text);
}

static void
commit(struct journal *j, uint64_t epoch, uint64_t position)
{
	struct journal_positions rings = {.epoch = epoch};

	rings.position[3] = position;
	assert_int_equal(journal_commit(j, &rings), 0);
}

static struct journal *
opened(void)
{
	struct journal *j = journal_open(dir, 0, &why);

	if (j == NULL)
		print_error("%s\n", why);
	assert_non_null(j);
	return j;
}

/* Walk all records: 1, 2, 3, ...; the chain holds; returns the last. */
static uint64_t
walk(struct journal_reader *r)
{
	struct journal_cursor *c = journal_cursor_new(r, 1);
	struct journal_chain *chain = journal_chain_new();
	uint8_t link[JOURNAL_LINK_LEN] = {0};
	struct journal_batch batch;
	struct journal_entry e;
	uint64_t n = 0, last = 0;

	assert_non_null(c);
	while (journal_cursor_next(c, &e) == 1) {
		char text[64];

		assert_int_equal(e.sequence, n + 1);
		assert_int_equal(e.record.op, ++n);
		(void)snprintf(text, sizeof text, "text of %llu", (unsigned long long)n);
		assert_int_equal(e.payload_len, n % 3 == 0 ? strlen(text) : 0);
		if (e.payload_len > 0)
			assert_memory_equal(e.payload, text, e.payload_len);
		if (n == last + 1) {
			assert_int_equal(journal_cursor_batch(c, &last, &batch), 1);
			assert_int_equal(batch.first, n);
			journal_chain_begin(chain, link);
		}
		journal_chain_add(chain, &e.record, sizeof e.record);
		if (e.payload_len > 0)
			journal_chain_add(chain, e.payload, e.payload_len);
		if (n == last) {
			journal_chain_end(chain, link);
			assert_memory_equal(link, batch.link, sizeof link);
		}
	}
	assert_int_equal(n, last);
	assert_int_equal(journal_cursor_last(c), n);
	assert_int_equal(journal_cursor_orphans(c), 0);
	journal_cursor_free(c);
	journal_chain_free(chain);
	return n;
}

static void
what_was_committed_is_there_after_reopening(void **state)
{
	struct journal *j = opened();
	struct journal_record r;
	struct buf text = {0};

	(void)state;
	assert_int_equal(journal_last(j), 0);
	for (uint64_t n = 1; n <= 10; n++)
		assert_int_equal(append(j, n), n);
	commit(j, 9, 10);
	assert_int_equal(append(j, 11), 11);
	journal_abort(j);
	assert_int_equal(append(j, 11), 11);
	commit(j, 9, 11);
	commit(j, 9, 12); /* positions alone */
	journal_close(j);

	j = opened();
	assert_int_equal(journal_last(j), 11);
	assert_int_equal(journal_rings(j)->epoch, 9);
	assert_int_equal(journal_rings(j)->position[3], 12);
	(void)append(j, 12);
	commit(j, 9, 13);
	assert_int_equal(walk(journal_reader(j)), 12);
	assert_int_equal(journal_get(journal_reader(j), 6, &r, &text), 1);
	assert_int_equal(r.op, 6);
	assert_int_equal(text.len, 9);
	assert_int_equal(journal_get(journal_reader(j), 7, &r, &text), 1);
	assert_int_equal(text.len, 9);
	assert_int_equal(journal_get(journal_reader(j), 13, &r, &text), 0);
	buf_free(&text);
	journal_close(j);
}

static void
a_walk_may_begin_anywhere(void **state)
{
	struct journal *j = opened();

	(void)state;
	for (uint64_t n = 1; n <= 40; n++) {
		(void)append(j, n);
		if (n % 7 == 0 || n == 40)
			commit(j, 1, n);
	}
	for (uint64_t from = 1; from <= 41; from++) {
		struct journal_cursor *c = journal_cursor_new(journal_reader(j), from);
		struct journal_entry e;
		uint64_t n = from;

		while (journal_cursor_next(c, &e) == 1) {
			assert_int_equal(e.sequence, n);
			assert_int_equal(e.payload_len > 0, n % 3 == 0);
			n++;
		}
		assert_int_equal(n, 41);
		journal_cursor_free(c);
	}
	journal_close(j);
}

/* Another process reads while this one writes, also beyond a map that has to grow. */
static void
a_reader_sees_commits_and_a_grown_map(void **state)
{
	struct journal *j = journal_open(dir, 256 << 10, &why);
	uint64_t n = 0;
	int go[2], status;
	char c;
	pid_t pid;

	(void)state;
	assert_non_null(j);
	(void)append(j, ++n);
	commit(j, 1, n);
	assert_int_equal(pipe(go), 0);
	pid = fork();
	if (pid == 0) {
		struct journal_reader *r = journal_reader_open(dir, &why);

		close(go[1]);
		if (r == NULL || walk(r) < 1 || read(go[0], &c, 1) != 1)
			_exit(1);
		_exit(walk(r) == 20001 ? 0 : 2);
	}
	while (n < 20001) {
		(void)append(j, ++n);
		if (n % 1000 == 1)
			commit(j, 1, n);
	}
	assert_int_equal(write(go[1], "g", 1), 1);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	close(go[0]);
	close(go[1]);
	journal_close(j);
}

/* Readers that were killed in the middle of reading: their places are free again. */
static void
dead_readers_are_forgotten(void **state)
{
	struct journal *j = journal_open(dir, 1 << 20, &why);
	struct journal_reader *last;

	(void)state;
	assert_non_null(j);
	(void)append(j, 1);
	commit(j, 1, 1);
	/* More than there are places. */
	for (int i = 0; i < JOURNAL_READERS_MAX + 10; i++) {
		int status;
		pid_t pid = fork();

		if (pid == 0) {
			struct journal_reader *r = journal_reader_open(dir, &why);
			struct journal_entry e;

			/* With a snapshot that would keep old pages for ever. */
			if (r == NULL || journal_cursor_next(journal_cursor_new(r, 1), &e) != 1)
				_exit(1);
			(void)kill(getpid(), SIGKILL);
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
		if (i % 100 == 99)
			journal_check_readers(j);
	}
	last = journal_reader_open(dir, &why);
	assert_non_null(last);
	assert_int_equal(walk(last), 1);
	journal_reader_close(last);
	journal_close(j);
}

static void
a_journal_of_another_version_is_refused(void **state)
{
	struct journal *j = opened();
	char path[128];
	MDB_env *env;
	MDB_txn *txn;
	MDB_dbi dbi;
	uint32_t version = 99;
	MDB_val key = {7, (char[]){"version"}}, value = {sizeof version, &version};

	(void)state;
	(void)append(j, 1);
	commit(j, 1, 1);
	journal_close(j);
	(void)snprintf(path, sizeof path, "%s/journal.mdb", dir);
	assert_int_equal(mdb_env_create(&env), 0);
	assert_int_equal(mdb_env_set_maxdbs(env, 4), 0);
	assert_int_equal(mdb_env_open(env, path, MDB_NOSUBDIR, 0600), 0);
	assert_int_equal(mdb_txn_begin(env, NULL, 0, &txn), 0);
	assert_int_equal(mdb_dbi_open(txn, "meta", 0, &dbi), 0);
	assert_int_equal(mdb_put(txn, dbi, &key, &value, 0), 0);
	assert_int_equal(mdb_txn_commit(txn), 0);
	mdb_env_close(env);
	assert_null(journal_open(dir, 0, &why));
	assert_int_equal(errno, EINVAL);
	assert_string_equal(why, "journal.mdb is of another version");
	(void)unlink(path);
	assert_null(journal_open("/nonexistent", 0, &why));
	assert_int_equal(errno, ENOENT);
}

/* A full disk, as a limit on the file's size in a child: -1, and nothing half there. */
static void
a_commit_that_fails_leaves_nothing(void **state)
{
	int status;
	pid_t pid;
	struct journal *j = opened();

	(void)state;
	(void)append(j, 1);
	commit(j, 1, 1);
	journal_close(j);
	pid = fork();
	if (pid == 0) {
		struct journal_positions rings = {.epoch = 1};
		struct rlimit limit = {128 << 10, 128 << 10};
		uint64_t n = 1;

		(void)signal(SIGXFSZ, SIG_IGN);
		(void)freopen("/dev/null", "w", stderr);
		j = opened();
		if (setrlimit(RLIMIT_FSIZE, &limit) < 0)
			_exit(1);
		for (;;) {
			for (int i = 0; i < 100; i++)
				(void)append(j, ++n);
			if (journal_commit(j, &rings) < 0)
				_exit(journal_last(j) == n - 100 ? 0 : 2);
		}
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	j = opened();
	assert_int_equal(walk(journal_reader(j)), journal_last(j));
	assert_int_equal(journal_last(j) % 100, 1);
	journal_close(j);
}

/* The writer tells each commit's end over a pipe; whatever it told must be there. */
static void
a_killed_writer_loses_nothing_that_it_told(void **state)
{
	unsigned int seed = 7;
	uint64_t told = 0;

	(void)state;
	for (int round = 0; round < 60; round++) {
		struct timespec pause = {0, rand_r(&seed) % 4000000};
		int ends[2];
		uint64_t n;
		pid_t pid;
		struct journal *j;

		assert_int_equal(pipe(ends), 0);
		pid = fork();
		if (pid == 0) {
			struct journal_positions rings = {.epoch = 1};

			j = opened();
			for (;;) {
				for (int i = rand_r(&seed) % 50; i >= 0; i--)
					rings.position[3] = append(j, journal_last(j) +
					    journal_staged(j) + 1);
				if (journal_commit(j, &rings) < 0 ||
				    write(ends[1], &rings.position[3], 8) != 8)
					_exit(1);
			}
		}
		close(ends[1]);
		/* It is under way; the rest of the time is as random as the kernel is. */
		if (read(ends[0], &n, 8) == 8)
			told = n;
		(void)nanosleep(&pause, NULL);
		(void)kill(pid, SIGKILL);
		while (read(ends[0], &n, 8) == 8)
			told = n;
		close(ends[0]);
		(void)waitpid(pid, NULL, 0);
		j = opened();
		assert_true(journal_last(j) >= told);
		assert_int_equal(journal_rings(j)->position[3], journal_last(j));
		if (round % 10 == 9)
			assert_int_equal(walk(journal_reader(j)), journal_last(j));
		journal_close(j);
	}
	assert_true(told > 100);
}

/* A power cut in the first start: only what is whole has the journal's name. */
static void
a_file_that_was_not_finished_is_begun_anew(void **state)
{
	char path[256], draft[256], junk[8192];
	struct journal *j;
	FILE *f;

	(void)state;
	(void)snprintf(path, sizeof path, "%s/journal.mdb", dir);
	(void)snprintf(draft, sizeof draft, "%s/journal.mdb.new", dir);
	memset(junk, 0, sizeof junk);
	assert_non_null(f = fopen(draft, "w"));
	assert_int_equal(fwrite(junk, 1, sizeof junk, f), sizeof junk);
	(void)fclose(f);
	j = opened();
	assert_int_equal(journal_last(j), 0);
	journal_close(j);
	assert_int_equal(access(draft, F_OK), -1);
	/* Under its own name the same bytes are a damaged journal. */
	assert_non_null(f = fopen(path, "w"));
	assert_int_equal(fwrite(junk, 1, sizeof junk, f), sizeof junk);
	(void)fclose(f);
	assert_null(journal_open(dir, 0, &why));
	assert_int_equal(errno, EINVAL);
}

/* One that was made before there were checkpoints is taken over; an older tolld refuses it then. */
static void
the_first_format_is_taken_over(void **state)
{
	char path[256], name[] = "version";
	MDB_val key = {sizeof name - 1, name}, value;
	uint32_t version = 1, found;
	MDB_env *env;
	MDB_txn *txn;
	MDB_dbi dbi;
	struct journal *j = opened();

	(void)state;
	journal_begin(j);
	(void)append(j, 1);
	commit(j, 1, 1);
	journal_close(j);
	(void)snprintf(path, sizeof path, "%s/journal.mdb", dir);
	for (int round = 0; round < 2; round++) {
		assert_int_equal(mdb_env_create(&env), 0);
		assert_int_equal(mdb_env_set_maxdbs(env, 8), 0);
		assert_int_equal(mdb_env_open(env, path, MDB_NOSUBDIR, 0600), 0);
		assert_int_equal(mdb_txn_begin(env, NULL, 0, &txn), 0);
		assert_int_equal(mdb_dbi_open(txn, "meta", 0, &dbi), 0);
		assert_int_equal(mdb_get(txn, dbi, &key, &value), 0);
		memcpy(&found, value.mv_data, sizeof found);
		assert_int_equal(found, JOURNAL_FORMAT);
		value = (MDB_val){sizeof version, &version};
		assert_int_equal(mdb_put(txn, dbi, &key, &value, 0), 0);
		assert_int_equal(mdb_dbi_open(txn, "checkpoint", MDB_INTEGERKEY, &dbi), 0);
		assert_int_equal(mdb_drop(txn, dbi, 1), 0);
		assert_int_equal(mdb_txn_commit(txn), 0);
		mdb_env_close(env);
		j = opened();
		assert_int_equal(journal_last(j), 1);
		assert_int_equal(journal_base(j)->sequence, 0);
		journal_close(j);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	    TEST(what_was_committed_is_there_after_reopening),
	    TEST(a_walk_may_begin_anywhere),
	    TEST(a_reader_sees_commits_and_a_grown_map),
	    TEST(dead_readers_are_forgotten),
	    TEST(a_journal_of_another_version_is_refused),
	    TEST(the_first_format_is_taken_over),
	    TEST(a_commit_that_fails_leaves_nothing),
	    TEST(a_file_that_was_not_finished_is_begun_anew),
	    TEST(a_killed_writer_loses_nothing_that_it_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
