/*
 * Goal:   a rate limit lets no more through than it says, in any stretch of time and at any
 *         number of processes; what is given back is never more than what others left unused.
 * Method: single takes by the definition; random takes, uses and gifts held against a replay
 *         that never took what was given back; processes that hammer one word.
 * objs: shm/limit.o
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "shm/limit.h"

#define SECOND UINT64_C(1000000000)
#define START (1000 * SECOND) /* a machine that is up for a while */

static void
takes(void **state)
{
	struct limit l = {0};
	struct limit_state s;

	(void)state;
	for (uint32_t i = 1; i <= 6; i++) {
		assert_true(limit_take(&l, 6, 1, START, &s));
		assert_int_equal(s.limit, 6);
		assert_int_equal(s.remaining, 6 - i);
		assert_int_equal(s.reset_ns, i * 10 * SECOND);
	}
	assert_false(limit_take(&l, 6, 1, START, &s));
	assert_int_equal(s.remaining, 0);
	assert_int_equal(s.retry_ns, 10 * SECOND);
	/* One comes back each ten seconds, not a nanosecond before. */
	assert_false(limit_take(&l, 6, 1, START + 10 * SECOND - 1, &s));
	assert_int_equal(s.retry_ns, 1);
	assert_true(limit_take(&l, 6, 1, START + 10 * SECOND, &s));
	assert_false(limit_take(&l, 6, 1, START + 10 * SECOND, &s));
	/* A refusal takes nothing, and a look says how long it would be. */
	limit_look(&l, 6, 2, START + 20 * SECOND, &s);
	assert_int_equal(s.retry_ns, 10 * SECOND);
	limit_look(&l, 6, 7, START + 20 * SECOND, &s);
	assert_true(s.retry_ns == LIMIT_NEVER);
	limit_look(&l, 6, 1, START + 20 * SECOND, &s);
	assert_int_equal(s.retry_ns, 0);
	assert_true(limit_take(&l, 6, 1, START + 20 * SECOND, NULL));
	/* All of it after a minute of rest, and no more than that after a year. */
	limit_look(&l, 6, 0, START + 80 * SECOND, &s);
	assert_int_equal(s.remaining, 6);
	assert_int_equal(s.reset_ns, 0);
	assert_false(limit_take(&l, 6, 7, START + 31536000 * SECOND, &s));
	assert_true(s.retry_ns == LIMIT_NEVER);
	assert_true(limit_take(&l, 6, 6, START + 31536000 * SECOND, NULL));
}

static void
extremes(void **state)
{
	struct limit l = {0};
	struct limit_state s;

	(void)state;
	assert_true(limit_take(&l, 1, 1, START, &s));
	assert_int_equal(s.reset_ns, 60 * SECOND);
	l = (struct limit){0};
	assert_true(limit_take(&l, UINT32_MAX, UINT32_MAX, START, &s));
	assert_int_equal(s.remaining, 0);
	assert_false(limit_take(&l, UINT32_MAX, 1, START, NULL));
	assert_false(limit_take(&l, 1, UINT64_MAX, START, NULL));
	for (int i = 0; i < 5; i++)
		limit_use(&l, 1, UINT64_MAX, START);
	assert_false(limit_take(&l, UINT32_MAX, 1, START, &s));
	assert_int_equal(s.remaining, 0);
	limit_give(&l, 1, UINT64_MAX, START, START);
	limit_give(&l, 1, UINT64_MAX, START, START);
	assert_true(limit_take(&l, 5, 5, START, NULL));
}

static void
gifts(void **state)
{
	struct limit l = {0};
	struct limit_state s;

	(void)state;
	/* At once: as if it had never been taken. */
	assert_true(limit_take(&l, 60, 60, START, NULL));
	limit_give(&l, 60, 40, START, START);
	limit_look(&l, 60, 0, START, &s);
	assert_int_equal(s.remaining, 40);
	/* Half drained, and taken by another: that half is not given twice. */
	l = (struct limit){0};
	assert_true(limit_take(&l, 60, 60, START, NULL));
	assert_true(limit_take(&l, 60, 30, START + 30 * SECOND, NULL));
	limit_give(&l, 60, 60, START, START + 30 * SECOND);
	limit_look(&l, 60, 0, START + 30 * SECOND, &s);
	assert_int_equal(s.remaining, 30);
	/* Used beyond what was taken: the next one waits. */
	limit_use(&l, 60, 45, START + 30 * SECOND);
	assert_false(limit_take(&l, 60, 1, START + 30 * SECOND, &s));
	assert_int_equal(s.retry_ns, 16 * SECOND);
}

#define OPS 400

struct op {
	uint64_t at_ns, n, used; /* used: of n, after what was given back */
	bool given;
};

/* What was used in any stretch of time is within N + t * N / minute. */
static void
within(const struct op *op, int count, uint32_t per_minute)
{
	for (int from = 0; from < count; from++) {
		uint64_t sum = 0;

		for (int to = from; to < count; to++) {
			unsigned __int128 most;

			sum += op[to].used;
			most = (unsigned __int128)per_minute *
			       (LIMIT_PERIOD_NS + op[to].at_ns - op[from].at_ns);
			assert_true((unsigned __int128)sum * LIMIT_PERIOD_NS <= most);
		}
	}
}

static void
any_stretch(void **state)
{
	static struct op op[OPS];

	(void)state;
	srand(20261);
	for (int round = 0; round < 300; round++) {
		static const uint32_t rates[] = {1, 7, 60, 1000, 90001, 10000000};
		uint32_t per_minute = rates[rand() % 6];
		struct limit l = {0};
		uint64_t now_ns = START;
		int count = 0;

		for (int i = 0; i < OPS; i++) {
			uint64_t n =
			    1 + (uint64_t)rand() % (1 + per_minute / (1 + (unsigned)rand() % 9));
			int k = count == 0 ? 0 : rand() % count;

			if (rand() % 3 == 0)
				now_ns += (uint64_t)rand() % (20 * SECOND);
			if (rand() % 2 == 0 && limit_take(&l, per_minute, n, now_ns, NULL))
				op[count++] = (struct op){now_ns, n, n, false};
			else if (count > 0 && !op[k].given) {
				uint64_t back = (uint64_t)rand() % (op[k].n + 1);

				limit_give(&l, per_minute, back, op[k].at_ns, now_ns);
				op[k].used -= back;
				op[k].given = true;
			}
		}
		within(op, count, per_minute);
	}
}

#define HAMMER_LIMIT 1000

struct shared {
	struct limit l;
	_Atomic uint64_t allowed, now_ns;
	_Atomic int go;
};

/* The clock stands still, then goes on by 30 s: so many may pass, and exactly so many. */
static void
hammer(struct shared *x, int processes, uint64_t want)
{
	pid_t pid[8];

	atomic_store(&x->allowed, 0);
	atomic_store(&x->go, 0);
	for (int p = 0; p < processes; p++) {
		pid[p] = fork();
		assert_true(pid[p] >= 0);
		if (pid[p] == 0) {
			while (atomic_load(&x->go) == 0)
				;
			for (int i = 0; i < 4 * HAMMER_LIMIT; i++)
				if (limit_take(
				        &x->l, HAMMER_LIMIT, 1, atomic_load(&x->now_ns), NULL))
					atomic_fetch_add(&x->allowed, 1);
			_exit(0);
		}
	}
	atomic_store(&x->go, 1);
	for (int p = 0; p < processes; p++) {
		int status;

		assert_int_equal(waitpid(pid[p], &status, 0), pid[p]);
		assert_int_equal(status, 0);
	}
	assert_int_equal(atomic_load(&x->allowed), want);
}

static void
processes(void **state)
{
	static const int counts[] = {1, 2, 8};
	struct shared *x =
	    mmap(NULL, sizeof *x, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	(void)state;
	assert_true(x != MAP_FAILED);
	for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
		memset(x, 0, sizeof *x);
		atomic_store(&x->now_ns, START);
		hammer(x, counts[i], HAMMER_LIMIT);
		atomic_fetch_add(&x->now_ns, 30 * SECOND);
		hammer(x, counts[i], HAMMER_LIMIT / 2);
	}
	munmap(x, sizeof *x);
}

/* Killed in the middle: what was taken is taken, and the rest is still there. */
static void
killed(void **state)
{
	struct shared *x =
	    mmap(NULL, sizeof *x, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	uint64_t allowed;
	int status;
	pid_t pid;

	(void)state;
	assert_true(x != MAP_FAILED);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		for (;;)
			if (limit_take(&x->l, 1000000000, 1, START, NULL))
				atomic_fetch_add(&x->allowed, 1);
	while (atomic_load(&x->allowed) < 1000)
		;
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	allowed = atomic_load(&x->allowed);
	/* Its last take may not have been counted. */
	assert_in_range(
	    atomic_load(&x->l.arrival_ns), START + allowed * 60, START + (allowed + 1) * 60);
	assert_true(limit_take(&x->l, 1000000000, 999999999 - allowed, START, NULL));
	munmap(x, sizeof *x);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(takes),
	    cmocka_unit_test(extremes),
	    cmocka_unit_test(gifts),
	    cmocka_unit_test(any_stretch),
	    cmocka_unit_test(processes),
	    cmocka_unit_test(killed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
