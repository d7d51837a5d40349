/*
 * Goal:   a region is found again after a crash and only then; whatever else is in the file is
 *         discarded or refused; there is memory behind all that is ever touched.
 * Method: make files in a temporary directory, damage them, open them again.
 * objs: shm/money.o shm/ring.o shm/region.o shm/account.o shm/hold.o shm/ledger.o shm/seat.o shm/wake.o shm/purse.o
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "shm/account.h"
#include "shm/ledger.h"
#include "shm/region.h"
#include "shm/wake.h"

static const struct region_dims dims = {.workers = 2, .max_accounts = 20000, .max_keys = 5000,
    .max_holds = 100, .ring_records = 64, .ring_arena = 4096};

static char dir[64], path[80];

static int
setup(void **state)
{
	(void)state;
	snprintf(dir, sizeof dir, "/tmp/test_region.XXXXXX");
	if (mkdtemp(dir) == NULL)
		return -1;
	snprintf(path, sizeof path, "%s/shm", dir);
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	unlink(path);
	return rmdir(dir);
}

/* Open; the reason why a former file was discarded, or "" for none. */
static const char *
open_region(struct region *region)
{
	const char *why = "?";

	if (region_open(region, path, &dims, &why) < 0)
		fail_msg("region_open: %s", strerror(errno));
	return why == NULL ? "" : why;
}

/* As after a crash: unmapped and unlocked, the file stays. */
static void
crash(struct region *region)
{
	region_unmap(region);
}

static void
patch(off_t at, const void *bytes, size_t len)
{
	int fd = open(path, O_WRONLY);

	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, bytes, len, at), len);
	close(fd);
}

static void
made_anew_then_found_after_a_crash(void **state)
{
	struct region region;
	struct stat st;
	uint64_t epoch;

	(void)state;
	assert_string_equal(open_region(&region), "");
	assert_false(region.leftover);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal((uint64_t)st.st_size, region.h->size);
	assert_int_equal(region.h->procs, PROC_WORKER + 4);
	assert_int_equal(region.h->holds_per_proc, 20);
	assert_int_equal(hold_count(&region), 100);
	assert_int_equal(hold_proc(&region, hold_first(&region, PROC_WORKER + 3)),
	    PROC_WORKER + 3);
	assert_int_equal(hold_proc(&region, 19), PROC_ADMIN);
	epoch = region.h->epoch;
	hold_at(&region, 99)->amount = 4711;
	region_price(&region, PRICE_MAX - 1)->prompt = 12;
	atomic_store(&region_counters(&region, region.h->procs - 1)[REGION_COUNTERS - 1], 13);
	crash(&region);

	/* Other dims do not matter to what a crash left. */
	struct region_dims other = dims;
	const char *why;
	other.workers = 5;
	assert_int_equal(region_open(&region, path, &other, &why), 0);
	assert_null(why);
	assert_true(region.leftover);
	assert_int_equal(region.h->dims.workers, 2);
	assert_true(region.h->epoch == epoch);
	assert_int_equal(hold_at(&region, 99)->amount, 4711);
	assert_int_equal(region_price(&region, PRICE_MAX - 1)->prompt, 12);
	atomic_store(&region.h->clean, 1);
	crash(&region);

	assert_string_equal(open_region(&region), "was closed cleanly");
	assert_false(region.leftover);
	assert_true(region.h->epoch != epoch);
	assert_int_equal(hold_at(&region, 99)->amount, 0);
	region_remove(&region, path);
	assert_int_equal(stat(path, &st), -1);
}

static void
locked_as_long_as_any_process_lives(void **state)
{
	struct region region, second;
	const char *why;
	int pipes[2];
	char byte;

	(void)state;
	open_region(&region);
	assert_int_equal(region_open(&second, path, &dims, &why), -1);
	assert_int_equal(errno, EBUSY);
	assert_int_equal(pipe(pipes), 0);
	pid_t pid = fork();
	if (pid == 0) {
		close(pipes[1]);
		_exit((int)read(pipes[0], &byte, 1));
	}
	crash(&region);
	assert_int_equal(region_open(&second, path, &dims, &why), -1);
	assert_int_equal(errno, EBUSY);
	close(pipes[0]);
	close(pipes[1]);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	open_region(&second);
	assert_true(second.leftover);
	region_remove(&second, path);
}

static void
discarded(const char *want)
{
	struct region region;

	assert_string_equal(open_region(&region), want);
	assert_false(region.leftover);
	assert_true(region.h->magic == REGION_MAGIC);
	assert_int_equal(hold_at(&region, 0)->amount, 0);
	hold_at(&region, 0)->amount = 1;
	crash(&region);
}

static void
whatever_is_not_ours_is_discarded(void **state)
{
	const uint64_t zero = 0;
	const uint32_t version = REGION_VERSION + 1, many = 1 << 30;
	struct stat st;

	(void)state;
	discarded("");
	patch(offsetof(struct region_header, magic), &zero, sizeof zero);
	discarded("was never finished");
	patch(offsetof(struct region_header, version), &version, sizeof version);
	discarded("has another version's layout");
	patch(offsetof(struct region_header, header_size), &zero, 4);
	discarded("has another version's layout");
	patch(offsetof(struct region_header, boot_id), "0", 1);
	patch(offsetof(struct region_header, boot_id) + 1, "-", 1);
	discarded("is from before a reboot");
	patch(offsetof(struct region_header, holds_at), &zero, sizeof zero);
	discarded("is damaged");
	patch(offsetof(struct region_header, account_index_len), &many, sizeof many);
	discarded("is damaged");
	patch(offsetof(struct region_header, dims), &many, sizeof many);
	discarded("is damaged");
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(truncate(path, st.st_size - 1), 0);
	discarded("has the wrong size");
	assert_int_equal(truncate(path, 100), 0);
	discarded("has the wrong size");
	assert_int_equal(truncate(path, 0), 0);
	discarded("");
}

static void
no_file_of_ours_is_refused(void **state)
{
	struct region region;
	const char *why;
	struct region_dims bad = dims;

	(void)state;
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(region_open(&region, path, &dims, &why), -1);
	assert_int_equal(errno, EINVAL);
	assert_non_null(why);
	unlink(path);
	assert_int_equal(symlink("/dev/null", path), 0);
	assert_int_equal(region_open(&region, path, &dims, &why), -1);
	assert_int_equal(errno, ELOOP);
	unlink(path);
	bad.ring_records = 100;
	assert_int_equal(region_open(&region, path, &bad, &why), -1);
	assert_int_equal(errno, EINVAL);
	bad = dims;
	bad.workers = 0;
	assert_int_equal(region_anonymous(&region, &bad), -1);
	bad.workers = REGION_WORKERS_MAX;
	bad.max_holds = 128;
	assert_int_equal(region_anonymous(&region, &bad), -1);
	bad.max_holds = 129;
	assert_int_equal(region_anonymous(&region, &bad), 0);
	region_unmap(&region);
}

/* A small tmpfs that nobody else sees; root may have it, others as root of their own. */
static bool
little_space(void)
{
	char map[32];
	uid_t uid = geteuid();
	int fd;

	if (unshare(CLONE_NEWNS) < 0) {
		if (unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0)
			return false;
		fd = open("/proc/self/uid_map", O_WRONLY);
		snprintf(map, sizeof map, "0 %u 1", (unsigned int)uid);
		if (fd < 0 || write(fd, map, strlen(map)) < 0)
			return false;
		close(fd);
	}
	return mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
	    mount("none", dir, "tmpfs", 0, "size=5m") == 0;
}

/* 0, or what went wrong. */
static int
in_little_space(void)
{
	struct region region;
	struct region_dims little = dims;
	struct stat st;
	const char *why;

	if (!little_space())
		return 77;
	little.max_holds = 60000;
	if (region_open(&region, path, &little, &why) == 0 || errno != ENOSPC)
		return 1;
	if (stat(path, &st) == 0)
		return 2;
	little.max_holds = 100;
	if (region_open(&region, path, &little, &why) < 0)
		return 3;
	/* It fits, but 20,000 accounts of 256 bytes do not, in 5 MiB less the rest. */
	for (uint32_t n = 0;; n++) {
		struct account_books books = {0};
		char id[16];

		snprintf(id, sizeof id, "a%u", n);
		if (account_insert(&region, id, strlen(id), &books, 0) == NULL)
			return errno == ENOSPC && n > 1000 && n < 20000 ? 0 : 4;
	}
}

static void
no_space_is_an_error_and_no_signal(void **state)
{
	int status;
	pid_t pid = fork();

	(void)state;
	if (pid == 0)
		_exit(in_little_space());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
		print_message("no mount namespace here\n");
		skip();
	}
	assert_int_equal(status, 0);
}

static void
sections_do_not_overlap(void **state)
{
	struct region region;

	(void)state;
	assert_int_equal(region_anonymous(&region, &dims), 0);
	const struct region_header *h = region.h;
	for (uint32_t p = PROC_ADMIN; p < h->procs; p++)
		assert_int_equal(region_ring(&region, p)->records, 64);
	assert_true((unsigned char *)(region_proc(&region, h->procs - 1) + 1) <=
	    region.base + h->prices_at);
	assert_true((unsigned char *)(region_price(&region, PRICE_MAX - 1) + 1) <=
	    region.base + h->counters_at);
	assert_true((unsigned char *)(region_counters(&region, h->procs - 1) +
			REGION_COUNTERS) <= region.base + h->rings_at);
	assert_true((unsigned char *)region_ring(&region, h->procs - 1) + h->ring_stride <=
	    region.base + h->holds_at);
	assert_true((unsigned char *)(hold_at(&region, hold_count(&region) - 1) + 1) <=
	    region.base + h->key_index_at);
	assert_true(h->key_index_at + 8ull * h->key_index_len <= h->keys_at);
	assert_true(h->keys_at + 64ull * dims.max_keys <= h->account_index_at);
	assert_true(h->account_index_at + 8ull * h->account_index_len <= h->accounts_at);
	assert_true(h->accounts_at + sizeof(struct account) * dims.max_accounts <= h->size);
	assert_int_equal(region_grow_accounts(&region, dims.max_accounts), 0);
	assert_int_equal(region_grow_accounts(&region, dims.max_accounts + 1), -1);
	assert_int_equal(errno, ENOSPC);
	memset(account_at(&region, 0), 1, sizeof(struct account) * dims.max_accounts);
	region_unmap(&region);
}

#define WAKES 50000

static struct region waking;
static int waking_fd;
static atomic_uint work;

static void *
waker(void *arg)
{
	for (int i = 0; i < WAKES; i++) {
		atomic_fetch_add_explicit(&work, 1, memory_order_release);
		wake(&waking, PROC_KEEPER, waking_fd);
		if (i % 64 == 0)
			sched_yield();
	}
	return arg;
}

static void
no_wake_up_is_lost(void **state)
{
	struct pollfd pfd;
	pthread_t thread;
	unsigned int done = 0;

	(void)state;
	assert_int_equal(region_anonymous(&waking, &dims), 0);
	waking_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	pfd = (struct pollfd){.fd = waking_fd, .events = POLLIN};
	pthread_create(&thread, NULL, waker, NULL);
	while (done < WAKES) {
		unsigned int now = atomic_load_explicit(&work, memory_order_acquire);

		if (now != done) {
			done = now;
			continue;
		}
		wake_prepare(&waking, PROC_KEEPER);
		if (atomic_load_explicit(&work, memory_order_acquire) == done)
			assert_int_equal(poll(&pfd, 1, 60000), 1);
		wake_done(&waking, PROC_KEEPER, waking_fd);
	}
	pthread_join(thread, NULL);
	/* Awake: not written to. */
	wake(&waking, PROC_KEEPER, waking_fd);
	assert_int_equal(poll(&pfd, 1, 0), 0);
	close(waking_fd);
	region_unmap(&waking);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(made_anew_then_found_after_a_crash, setup, teardown),
	    cmocka_unit_test_setup_teardown(locked_as_long_as_any_process_lives, setup, teardown),
	    cmocka_unit_test_setup_teardown(whatever_is_not_ours_is_discarded, setup, teardown),
	    cmocka_unit_test_setup_teardown(no_file_of_ours_is_refused, setup, teardown),
	    cmocka_unit_test_setup_teardown(no_space_is_an_error_and_no_signal, setup, teardown),
	    cmocka_unit_test(sections_do_not_overlap),
	    cmocka_unit_test(no_wake_up_is_lost),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
