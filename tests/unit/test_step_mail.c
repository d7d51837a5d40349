/*
 * Goal:   a poster or a taker of letters killed after any machine instruction leaves an empty box
 *         or one whole letter, which is taken once; so it is when the other one works meanwhile.
 * Method: step each through its call by ptrace; after each instruction look at a copy of the box
 *         as the dead one's successor would; then again with the other end at work between the
 *         instructions, at each of them in turn.
 * objs: shm/mail.o shm/region.o shm/ring.o shm/money.o shm/account.o tests/unit/trace.o
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "shm/mail.h"
#include "tests/unit/trace.h"

static const struct region_dims dims = {.workers = 1,
    .max_accounts = 4,
    .max_keys = 4,
    .max_holds = 12,
    .ring_records = 8,
    .ring_arena = 1024};
static struct region live, copy;
static long points;

/* No byte of one letter could be taken for one of another. */
static struct mail
letter(uint32_t n)
{
	struct mail m = {.verb = n % 2 ? MAIL_VOID : MAIL_CANCEL,
	    .slot = n * 0x01010101,
	    .generation = n * 0x11111111};

	memset(m.stream_id, (int)(0xa0 + n), sizeof m.stream_id);
	return m;
}

static bool
same(const struct mail *a, const struct mail *b)
{
	return a->verb == b->verb && a->slot == b->slot && a->generation == b->generation &&
	       memcmp(a->stream_id, b->stream_id, sizeof a->stream_id) == 0;
}

static void
post_first(void)
{
	struct mail m = letter(1);

	if (!mail_post(&live, PROC_WORKER, &m))
		_exit(1);
}

static void
take_first(void)
{
	struct mail got, m = letter(1);

	if (!mail_take(&live, PROC_WORKER, &got) || !same(&got, &m))
		_exit(1);
}

static int
setup(void **state)
{
	(void)state;
	if (region_anonymous(&live, &dims) != 0)
		return -1;
	copy = live;
	copy.base = calloc(1, live.h->size);
	copy.h = (struct region_header *)(void *)copy.base;
	return copy.base == NULL ? -1 : 0;
}

static int
teardown(void **state)
{
	(void)state;
	free(copy.base);
	region_unmap(&live);
	return 0;
}

static void
box_empty(struct region *region)
{
	struct mail got;

	while (mail_take(region, PROC_WORKER, &got))
		;
}

/* What a successor of either end finds in this box: nothing, or this letter; then a new one. */
static bool
look(const struct mail *m)
{
	struct mail got, next = letter(2);
	bool found;

	memcpy(copy.base, live.base, live.h->size);
	found = mail_take(&copy, PROC_WORKER, &got);
	if (found)
		assert_true(same(&got, m));
	assert_false(mail_take(&copy, PROC_WORKER, &got));
	assert_true(mail_post(&copy, PROC_WORKER, &next));
	assert_true(mail_take(&copy, PROC_WORKER, &got));
	assert_true(same(&got, &next));
	/* A poster's successor does not wait for the worker: its letter, or the box is full. */
	memcpy(copy.base, live.base, live.h->size);
	assert_int_equal(mail_post(&copy, PROC_WORKER, &next), !found);
	assert_true(mail_take(&copy, PROC_WORKER, &got));
	assert_true(same(&got, found ? m : &next));
	points++;
	return found;
}

static void
a_poster_killed_anywhere_leaves_a_whole_letter_or_none(void **state)
{
	struct mail m = letter(1), got;
	long steps = 0, k;
	bool there = false;
	pid_t pid = trace_start(post_first);

	(void)state;
	do {
		bool now = look(&m);

		assert_true(now || !there);
		there = now;
		steps++;
	} while (trace_step(pid));
	assert_true(there);
	/* The worker looks at one instruction, at each in turn: it has it then, or afterwards. */
	for (long at = 0; at < steps; at++) {
		bool had = false;

		box_empty(&live);
		pid = trace_start(post_first);
		k = 0;
		do {
			if (k++ == at)
				had = mail_take(&live, PROC_WORKER, &got);
			points++;
		} while (trace_step(pid));
		assert_true(had != mail_take(&live, PROC_WORKER, &got));
		assert_true(same(&got, &m));
	}
	print_message("post: %ld instructions, %ld points\n", steps, points);
}

static void
a_taker_killed_anywhere_leaves_it_whole_or_has_emptied_the_box(void **state)
{
	struct mail m = letter(1), next = letter(2), got;
	long steps = 0, before = points;
	bool there = true;
	pid_t pid;

	(void)state;
	assert_true(mail_post(&live, PROC_WORKER, &m));
	pid = trace_start(take_first);
	do {
		bool now = look(&m);

		assert_true(there || !now);
		there = now;
		steps++;
	} while (trace_step(pid));
	assert_false(there);
	/* The next letter comes as soon as there is room, or at each instruction after that; the
	 * worker has the first one whole nevertheless. */
	for (long at = 0; at < steps; at++) {
		bool posted = false;
		long k = 0;

		box_empty(&live);
		assert_true(mail_post(&live, PROC_WORKER, &m));
		pid = trace_start(take_first);
		do {
			if (k++ >= at && !posted)
				posted = mail_post(&live, PROC_WORKER, &next);
			points++;
		} while (trace_step(pid));
		if (!posted)
			assert_true(mail_post(&live, PROC_WORKER, &next));
		assert_true(mail_take(&live, PROC_WORKER, &got));
		assert_true(same(&got, &next));
		assert_false(mail_take(&live, PROC_WORKER, &got));
	}
	print_message("take: %ld instructions, %ld points\n", steps, points - before);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(
	        a_poster_killed_anywhere_leaves_a_whole_letter_or_none, setup, teardown),
	    cmocka_unit_test_setup_teardown(
	        a_taker_killed_anywhere_leaves_it_whole_or_has_emptied_the_box, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
