/*
 * Goal:   a letter is taken once and whole, or not at all.
 * Method: post and take in turn; then a poster and a taker as threads, each letter's fields
 *         telling its number.
 * objs: shm/mail.o shm/region.o shm/ring.o shm/money.o shm/account.o
 */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "shm/mail.h"

#define LETTERS 200000

static const struct region_dims dims = {.workers = 1, .max_accounts = 4, .max_keys = 4,
    .max_holds = 12, .ring_records = 8, .ring_arena = 1024};
static struct region region;

static int
setup(void **state)
{
	(void)state;
	return region_anonymous(&region, &dims);
}

static int
teardown(void **state)
{
	(void)state;
	region_unmap(&region);
	return 0;
}

static struct mail
letter(uint32_t n)
{
	struct mail m = {.verb = n % 2 ? MAIL_VOID : MAIL_CANCEL, .slot = n, .generation = ~n};

	memset(m.stream_id, (int)(n & 0xff), sizeof m.stream_id);
	return m;
}

static void
same(const struct mail *a, const struct mail *b)
{
	assert_int_equal(a->verb, b->verb);
	assert_int_equal(a->slot, b->slot);
	assert_int_equal(a->generation, b->generation);
	assert_memory_equal(a->stream_id, b->stream_id, sizeof a->stream_id);
}

static void
a_box_holds_one_letter(void **state)
{
	struct mail one = letter(1), two = letter(2), got;

	(void)state;
	assert_false(mail_take(&region, PROC_WORKER, &got));
	assert_true(mail_post(&region, PROC_WORKER, &one));
	assert_false(mail_post(&region, PROC_WORKER, &two));
	assert_false(mail_take(&region, PROC_WORKER + 1, &got));
	assert_true(mail_post(&region, PROC_WORKER + 1, &two));
	assert_true(mail_take(&region, PROC_WORKER, &got));
	same(&got, &one);
	assert_false(mail_take(&region, PROC_WORKER, &got));
	assert_true(mail_post(&region, PROC_WORKER, &two));
	assert_true(mail_take(&region, PROC_WORKER, &got));
	same(&got, &two);
}

static void *
poster(void *arg)
{
	for (uint32_t n = 0; n < LETTERS; n++) {
		struct mail m = letter(n);

		while (!mail_post(&region, PROC_WORKER, &m))
			sched_yield();
	}
	return arg;
}

static void
every_letter_comes_once_and_whole(void **state)
{
	pthread_t thread;

	(void)state;
	assert_int_equal(pthread_create(&thread, NULL, poster, NULL), 0);
	for (uint32_t n = 0; n < LETTERS; n++) {
		struct mail got, want = letter(n);

		while (!mail_take(&region, PROC_WORKER, &got))
			sched_yield();
		same(&got, &want);
	}
	pthread_join(thread, NULL);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(a_box_holds_one_letter, setup, teardown),
	    cmocka_unit_test_setup_teardown(every_letter_comes_once_and_whole, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
