/*
 * Goal:   under load connections are read together, else at once; one that was removed is never
 *         told anything.
 * Method: the rule by a table; the rest with pipes on a real event loop.
 *
 * objs: daemon/gather.o
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/gather.h"

#define MAX_US 25000

struct end {
	struct gathered g; /* first */
	struct gather *gather;
	struct event_base *base;
	struct end *remove; /* when told */
	int wr, told;
	size_t note;
};

static void
rule(void **state)
{
	const struct gather_load idle = {.busy = 10, .wakes = 50, .reads = 50, .bytes = 10000};
	const struct gather_load single = {.busy = 300, .wakes = 1000, .reads = 1000, .bytes = 250000};
	const struct gather_load together = {.busy = 400, .wakes = 50, .reads = 1000, .bytes = 250000};
	const struct gather_load full = {.busy = 950, .wakes = 50, .reads = 2000, .bytes = 500000};
	const struct gather_load large = {.busy = 950, .wakes = 50, .reads = 500, .bytes = 20000000};
	const struct gather_load over = {.busy = 300, .wakes = 10, .reads = 1000, .bytes = 250000};
	const struct gather_load elsewhere = {.busy = 600, .wakes = 100, .reads = 300, .bytes = 75000};
	const struct gather_load nothing = {.busy = 500};

	(void)state;
	assert_int_equal(gather_next_pause(0, MAX_US, &idle), 0);
	assert_int_equal(gather_next_pause(0, MAX_US, &single), 1000);
	assert_int_equal(gather_next_pause(0, MAX_US, &elsewhere), 0);
	assert_int_equal(gather_next_pause(1000, MAX_US, &single), 2000);
	assert_int_equal(gather_next_pause(16000, MAX_US, &single), MAX_US);
	assert_int_equal(gather_next_pause(0, 0, &single), 0);
	assert_int_equal(gather_next_pause(2000, MAX_US, &together), 2000);
	assert_int_equal(gather_next_pause(4000, MAX_US, &full), 8000);
	assert_int_equal(gather_next_pause(4000, MAX_US, &large), 2000);
	assert_int_equal(gather_next_pause(4000, MAX_US, &over), 2000);
	assert_int_equal(gather_next_pause(4000, MAX_US, &idle), 2000);
	assert_int_equal(gather_next_pause(1000, MAX_US, &idle), 0);
	assert_true(gather_next_pause(1000, MAX_US, &nothing) <= 2000);
}

static void
told_cb(struct gathered *x, bool closing)
{
	struct end *e = (struct end *)x;
	char bytes[64];
	ssize_t n = read(x->fd, bytes, sizeof bytes);

	assert_false(closing);
	assert_true(n > 0);
	e->told++;
	gather_note(e->gather, e->note > 0 ? e->note : (size_t)n);
	if (e->remove != NULL) {
		gather_remove(e->gather, &e->remove->g);
		e->remove = NULL;
	}
}

static void
open_end(struct end *e, struct gather *g, struct event_base *base)
{
	int fd[2];

	assert_int_equal(pipe(fd), 0);
	*e = (struct end){.g = {.fd = fd[0], .ready = told_cb}, .gather = g, .base = base, .wr = fd[1]};
	assert_int_equal(gather_add(g, &e->g), 0);
}

static void
close_end(struct end *e)
{
	gather_remove(e->gather, &e->g);
	close(e->g.fd);
	close(e->wr);
}

static void
removed_while_all_are_read(void **state)
{
	struct event_base *base = event_base_new();
	struct gather *g = gather_new(base, 25);
	struct end e[3];
	int told = 0;

	(void)state;
	assert_non_null(g);
	for (int i = 0; i < 3; i++)
		open_end(&e[i], g, base);
	/* Whoever is told first has the others removed, one by one. */
	for (int i = 0; i < 3; i++) {
		e[i].remove = &e[(i + 1) % 3];
		assert_int_equal(write(e[i].wr, "x", 1), 1);
	}
	event_base_loop(base, EVLOOP_ONCE | EVLOOP_NONBLOCK);
	for (int i = 0; i < 3; i++)
		told += e[i].told;
	assert_int_equal(told, 2);
	/* Back in, it is told after all. */
	for (int i = 0; i < 3; i++) {
		e[i].remove = NULL;
		assert_int_equal(gather_add(g, &e[i].g), 0);
	}
	event_base_loop(base, EVLOOP_ONCE | EVLOOP_NONBLOCK);
	for (int i = 0; i < 3; i++)
		assert_int_equal(e[i].told, 1);
	for (int i = 0; i < 3; i++)
		close_end(&e[i]);
	gather_free(g);
	event_base_free(base);
}

static uint64_t
now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

/* A busy loop comes to pause, all is read nevertheless, and an idle one is at once again. */
static void
pauses_and_comes_back(void **state)
{
	struct event_base *base = event_base_new();
	struct gather *g = gather_new(base, 25);
	uint64_t until = now_us() + 30000000;
	struct end e;
	int written = 0;

	(void)state;
	open_end(&e, g, base);
	while (gather_pause_us(g) < 4000) {
		if (now_us() >= until) {
			/* On a machine that others fill, it cannot be busy. */
			assert_true(clock() < 20 * CLOCKS_PER_SEC);
			skip();
		}
		if (written == e.told) {
			assert_int_equal(write(e.wr, "x", 1), 1);
			written++;
		}
		event_base_loop(base, EVLOOP_ONCE | EVLOOP_NONBLOCK);
	}
	while (e.told < written)
		event_base_loop(base, EVLOOP_ONCE);
	e.told = 0;
	assert_int_equal(write(e.wr, "x", 1), 1);
	while (e.told == 0)
		event_base_loop(base, EVLOOP_ONCE);
	/* The loop sleeps from one tick to the next: nothing is computed any more. */
	until = now_us() + 60000000;
	while (gather_pause_us(g) > 0) {
		assert_true(now_us() < until);
		event_base_loop(base, EVLOOP_ONCE);
	}
	e.told = 0;
	assert_int_equal(write(e.wr, "x", 1), 1);
	event_base_loop(base, EVLOOP_ONCE);
	assert_int_equal(e.told, 1);
	close_end(&e);
	gather_free(g);
	event_base_free(base);
}

/* A worker that sleeps most of the time holds nobody up, whatever it did in one wake-up. */
static void
never_pauses_with_time_to_spare(void **state)
{
	const struct timespec ms = {.tv_nsec = 1000000};
	struct event_base *base = event_base_new();
	struct gather *g = gather_new(base, 25);
	struct end e;

	(void)state;
	nanosleep(&(struct timespec){.tv_nsec = 60000000}, NULL); /* the first look is at the start */
	open_end(&e, g, base);
	for (int i = 0; i < 300; i++) {
		assert_int_equal(write(e.wr, "x", 1), 1);
		event_base_loop(base, EVLOOP_ONCE | EVLOOP_NONBLOCK);
		assert_int_equal(gather_pause_us(g), 0);
		nanosleep(&ms, NULL);
	}
	assert_int_equal(e.told, 300);
	close_end(&e);
	gather_free(g);
	event_base_free(base);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(rule),
	    cmocka_unit_test(removed_while_all_are_read),
	    cmocka_unit_test(never_pauses_with_time_to_spare),
	    cmocka_unit_test(pauses_and_comes_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
