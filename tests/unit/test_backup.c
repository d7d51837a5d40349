/*
 * Goal:   a copy of the journal is one commit's, whole, whatever the writer does meanwhile; a copy
 *         that cannot be made leaves nothing.
 * Method: fork a writer that commits random records without a pause; copy again and again from
 *         another process and play each copy through an audit; then what must fail.
 * objs: daemon/journal_copy.o daemon/backup.o daemon/title.o daemon/audit.o daemon/proof.o daemon/checkpoint.o daemon/books_rows.o daemon/state.o daemon/state_job.o daemon/state_streams.o daemon/state_read.o daemon/journal.o daemon/journal_file.o daemon/journal_compact.o daemon/journal_chain.o daemon/journal_read.o daemon/books.o daemon/books_refs.o daemon/books_apply.o daemon/books_caps.o daemon/books_check.o daemon/buf.o daemon/log.o daemon/utf8.o tests/unit/records.o shm/money.o shm/account.o shm/region.o shm/ring.o shm/hold.o shm/ledger.o shm/seat.o shm/purse.o daemon/journal_history.o daemon/journal_receipts.o
 */
#include <dirent.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/audit.h"
#include "daemon/backup.h"
#include "tests/unit/records.h"

static char *from, *to;

static int
setup(void **state)
{
	(void)state;
	from = dir_new();
	to = dir_new();
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	dir_remove(from);
	dir_remove(to);
	return 0;
}

/* Commit random records for ever; tells once when there are some. */
static void
write_for_ever(int ready)
{
	struct journal_positions rings = {.epoch = 1};
	struct books *b = books_new();
	unsigned int seed = 7;
	bool told = false;
	const char *why;
	struct journal *j = journal_open(from, 0, &why);

	if (j == NULL)
		_exit(1);
	for (long n = 0;; n++) {
		struct rec rec;

		if (!rec_random(b, &seed, 8, 32, &rec))
			continue;
		rec_journal(j, b, &rec);
		if (n % 16 == 0) {
			if (journal_commit(j, &rings) < 0)
				_exit(2);
			journal_begin(j);
		}
		/* Not at the 2,000th itself: that may be none that is stored. */
		if (n >= 2000 && !told && write(ready, "x", 1) != 1)
			_exit(3);
		told = n >= 2000;
	}
}

static pid_t
writer(void)
{
	int fds[2];
	char x;
	pid_t pid;

	assert_int_equal(pipe(fds), 0);
	pid = fork();
	if (pid == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		write_for_ever(fds[1]);
	}
	close(fds[1]);
	assert_int_equal(read(fds[0], &x, 1), 1);
	close(fds[0]);
	return pid;
}

static int
entries(const char *path)
{
	DIR *d = opendir(path);
	int n = 0;

	assert_non_null(d);
	while (readdir(d) != NULL)
		n++;
	closedir(d);
	return n - 2;
}

static struct backup_result
run(const char *dir, bool kill_it)
{
	uint8_t secret[32];
	struct backup_result result;
	struct backup b;
	struct pollfd pfd = {.events = POLLIN};

	memset(secret, 's', sizeof secret);
	assert_int_equal(backup_start(&b, from, dir, secret), 0);
	if (kill_it)
		backup_kill(&b);
	pfd.fd = b.fd;
	assert_int_equal(poll(&pfd, 1, 60000), 1);
	backup_finish(&b, &result);
	return result;
}

/* Play a copy with an empty projection: every record, the chain, the sums. */
static void
audit_copy(const char *dir, uint64_t records)
{
	const char *why;
	struct state *st = state_open(dir, 0, &why);
	struct state_reader *rows;
	struct journal_reader *journal;
	struct audit_result result;
	struct audit *a;

	assert_non_null(st);
	state_close(st);
	rows = state_reader_open(dir, &why);
	journal = journal_reader_open(dir, &why);
	assert_non_null(rows);
	assert_non_null(journal);
	a = audit_new(journal, rows);
	while (audit_step(a, 1000))
		;
	audit_result(a, &result);
	assert_string_equal(result.first_difference, "");
	assert_true(result.ok);
	assert_int_equal(result.records, records);
	audit_free(a);
	journal_reader_close(journal);
	state_reader_close(rows);
}

static void
every_copy_is_a_whole_journal(void **state)
{
	pid_t pid = writer();
	uint64_t before = 0;
	int grown = 0;

	(void)state;
	/* On a loaded machine the writer may not come to write between two copies. */
	for (int n = 0; n < 10 || grown < 5; n++) {
		char *dir = dir_new(), secret[64] = "";
		struct backup_result r = run(dir, false);
		char path[256];
		struct stat st;
		FILE *f;

		assert_string_equal(r.why, "");
		assert_true(r.ok);
		assert_int_equal(entries(dir), 2);
		assert_true(r.records >= before);
		assert_true(n < 1000);
		grown += r.records > before;
		before = r.records;
		(void)snprintf(path, sizeof path, "%s/key.secret", dir);
		assert_int_equal(stat(path, &st), 0);
		assert_int_equal(st.st_mode & 0777, 0600);
		f = fopen(path, "r");
		assert_non_null(f);
		assert_int_equal(fread(secret, 1, sizeof secret, f), 32);
		assert_int_equal(secret[31], 's');
		(void)fclose(f);
		(void)snprintf(path, sizeof path, "%s/journal.mdb", dir);
		assert_int_equal(stat(path, &st), 0);
		assert_int_equal(st.st_mode & 0777, 0600);
		assert_int_equal(st.st_size, r.bytes);
		audit_copy(dir, r.records);
		dir_remove(dir);
	}
	assert_int_equal(waitpid(pid, NULL, WNOHANG), 0);
	(void)kill(pid, SIGKILL);
	(void)waitpid(pid, NULL, 0);
}

static void
what_cannot_be_made_leaves_nothing(void **state)
{
	struct backup_result r;
	char path[256];
	pid_t pid;

	(void)state;
	/* No journal there. */
	r = run(to, false);
	assert_false(r.ok);
	assert_non_null(strstr(r.why, "cannot be copied"));
	assert_int_equal(entries(to), 0);
	pid = writer();
	(void)snprintf(path, sizeof path, "%s/a/b", to);
	r = run(path, false);
	assert_false(r.ok);
	assert_non_null(strstr(r.why, "cannot make the folder"));
	for (int n = 0; n < 20; n++) {
		(void)snprintf(path, sizeof path, "%s/k%d", to, n);
		r = run(path, true);
		if (r.ok)
			continue; /* it was quicker */
		if (access(path, F_OK) == 0)
			(void)snprintf(path, sizeof path, "%s/k%d/key.secret", to, n);
		assert_int_equal(access(path, F_OK), -1);
	}
	/* Something is there already. */
	(void)snprintf(path, sizeof path, "%s/k0", to);
	(void)mkdir(path, 0700);
	r = run(to, false);
	assert_non_null(strstr(r.why, "not empty"));
	(void)kill(pid, SIGKILL);
	(void)waitpid(pid, NULL, 0);
	for (int n = 0; n < 20; n++) {
		char name[300];

		for (int i = 0; i < 2; i++) {
			(void)snprintf(name, sizeof name, "%s/k%d/%s", to, n,
			    i == 0 ? "journal.mdb" : "key.secret");
			(void)unlink(name);
		}
		(void)snprintf(name, sizeof name, "%s/k%d", to, n);
		(void)rmdir(name);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(every_copy_is_a_whole_journal, setup, teardown),
	    cmocka_unit_test_setup_teardown(what_cannot_be_made_leaves_nothing, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
