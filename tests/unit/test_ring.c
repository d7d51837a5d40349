/*
 * Goal:   records and payloads arrive whole and in order, a full ring refuses, and a result
 *         stays until it is acked.
 * Method: small rings made to wrap many times, single-threaded with random sizes, then a
 *         producer and a consumer thread.
 * objs: shm/ring.o
 */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "shm/ring.h"

static struct ring *
ring_new(uint32_t records, uint32_t arena_len)
{
	struct ring *ring = aligned_alloc(64, ring_size(records, arena_len));

	assert_non_null(ring);
	memset(ring, 0xaa, ring_size(records, arena_len));
	ring_init(ring, records, arena_len);
	return ring;
}

static void
fill(unsigned char *text, size_t len, uint64_t position)
{
	for (size_t i = 0; i < len; i++)
		text[i] = (unsigned char)(position * 31 + i);
}

/* Is the record at this position what was pushed? */
static void
check_entry(const struct ring *ring, struct ring_entry *e, uint64_t position)
{
	unsigned char want[256], got[256];

	assert_non_null(e);
	assert_int_equal(e->record.op, position);
	assert_true(e->record.payload_len <= sizeof got);
	ring_payload(ring, e, got);
	fill(want, e->record.payload_len, position);
	assert_memory_equal(got, want, e->record.payload_len);
}

static uint64_t
push(struct ring *ring, size_t len)
{
	uint64_t position = ring_head(ring) + 1;
	struct journal_record r = {.op = position, .payload_len = 99999};
	unsigned char text[256];
	size_t cut = len / 3;

	fill(text, len, position);
	if (position % 2)
		return ring_push(ring, &r, text, len);
	return ring_push2(ring, &r, text, cut, text + cut, len - cut);
}

static void
empty_ring_has_nothing(void **state)
{
	struct ring *ring = ring_new(4, 64);

	(void)state;
	assert_null(ring_peek(ring, 1));
	assert_int_equal(ring_head(ring), 0);
	assert_int_equal(ring_durable(ring), 0);
	assert_true(ring_room(ring, 64));
	assert_false(ring_room(ring, 65));
	free(ring);
}

static void
entries_are_kept_until_acked(void **state)
{
	struct ring *ring = ring_new(4, 64);
	int64_t value;

	(void)state;
	for (uint64_t p = 1; p <= 3; p++)
		assert_int_equal(push(ring, 0), p);
	assert_int_equal(push(ring, 0), 0);
	for (uint64_t p = 1; p <= 3; p++) {
		ring_peek(ring, p)->status = RING_REPEATED;
		ring_peek(ring, p)->value = (int64_t)p * 10;
	}
	ring_publish(ring, 3);
	/* Durable, but nobody has read the results. */
	assert_int_equal(push(ring, 0), 0);
	ring_ack(ring, 1);
	ring_ack(ring, 0);
	assert_int_equal(push(ring, 0), 4);
	assert_int_equal(push(ring, 0), 0);
	for (uint64_t p = 2; p <= 3; p++) {
		assert_int_equal(ring_result(ring, p, &value), RING_REPEATED);
		assert_int_equal(value, p * 10);
	}
	assert_int_equal(ring_result(ring, 4, NULL), 0);
	assert_null(ring_peek(ring, 5));
	free(ring);
}

static void
arena_is_free_once_durable(void **state)
{
	struct ring *ring = ring_new(8, 64);

	(void)state;
	assert_int_equal(push(ring, 40), 1);
	assert_false(ring_room(ring, 25));
	assert_int_equal(push(ring, 25), 0);
	assert_int_equal(push(ring, 24), 2);
	assert_int_equal(push(ring, 1), 0);
	assert_int_equal(push(ring, 0), 3);
	check_entry(ring, ring_peek(ring, 1), 1);
	ring_publish(ring, 1);
	assert_int_equal(push(ring, 41), 0);
	assert_int_equal(push(ring, 40), 4); /* around the end */
	check_entry(ring, ring_peek(ring, 2), 2);
	check_entry(ring, ring_peek(ring, 4), 4);
	free(ring);
}

static void
a_producer_killed_in_a_push_leaves_nothing(void **state)
{
	struct ring *ring = ring_new(4, 64);

	(void)state;
	for (int i = 0; i < 20; i++) {
		assert_int_not_equal(push(ring, 30), 0);
		/* All of the next push but its last store. */
		if (ring_room(ring, 30)) {
			uint64_t head = ring_head(ring);

			push(ring, 30);
			atomic_store(&ring->head, head);
		}
		check_entry(ring, ring_peek(ring, ring_head(ring)), ring_head(ring));
		assert_null(ring_peek(ring, ring_head(ring) + 1));
		ring_publish(ring, ring_head(ring));
		ring_ack(ring, ring_head(ring));
	}
	free(ring);
}

static void
wraps_at_random_sizes(void **state)
{
	struct ring *ring = ring_new(16, 512);
	uint64_t durable = 0, acked = 0;
	long refused = 0;

	(void)state;
	srand(1);
	for (int i = 0; i < 300000; i++) {
		size_t len = (size_t)(rand() % 200);
		bool room = ring_room(ring, len);
		uint64_t head = ring_head(ring), position = push(ring, len);

		assert_int_equal(position, room ? head + 1 : 0);
		refused += position == 0;
		if (rand() % 3 == 0) {
			for (; durable < ring_head(ring) && rand() % 8 != 0; durable++)
				check_entry(ring, ring_peek(ring, durable + 1), durable + 1);
			ring_publish(ring, durable);
		}
		if (rand() % 3 == 0 && acked < durable)
			ring_ack(ring, acked += 1 + (uint64_t)rand() % (durable - acked));
	}
	assert_true(refused > 1000 && ring_head(ring) > 10000);
	free(ring);
}

#define RECORDS 200000

static void *
produce(void *arg)
{
	struct ring *ring = arg;
	uint64_t acked = 0;
	unsigned int seed = 5;

	for (uint64_t p = 1; p <= RECORDS;) {
		size_t len = (size_t)(rand_r(&seed) % 100);

		if (push(ring, len) == p) {
			p++;
			continue;
		}
		for (; acked < ring_durable(ring); acked++) {
			int64_t value = 0;
			enum ring_status status = ring_result(ring, acked + 1, &value);

			if (status != RING_APPLIED || value != (int64_t)(acked + 1) * 3)
				abort();
		}
		ring_ack(ring, acked);
		sched_yield();
	}
	return NULL;
}

static void
two_threads(void **state)
{
	struct ring *ring = ring_new(32, 1024);
	pthread_t thread;
	uint64_t p = 0;

	(void)state;
	pthread_create(&thread, NULL, produce, ring);
	while (p < RECORDS) {
		struct ring_entry *e;
		uint64_t from = p;

		while ((e = ring_peek(ring, p + 1)) != NULL) {
			check_entry(ring, e, ++p);
			e->status = RING_APPLIED;
			e->value = (int64_t)p * 3;
		}
		if (p != from)
			ring_publish(ring, p);
		else
			sched_yield();
	}
	pthread_join(thread, NULL);
	free(ring);
}

/* Whatever was written over a dead producer's ring, its successor's records go through. */
static void
a_forged_ring_is_mended(void **state)
{
	struct journal_record r = {.type = JOURNAL_MARK};

	(void)state;
	for (int what = 0; what < 6; what++) {
		struct ring *ring = ring_new(8, 64);

		assert_int_equal(ring_push(ring, &r, "0123456789", 10), 1);
		ring_publish(ring, 1);
		assert_int_equal(ring_push(ring, &r, "lost", 4), 2);
		assert_false(ring_wrong(ring, 8, 64, 1));
		switch (what) {
		case 0:
			atomic_store(&ring->head, 1000);
			break;
		case 1:
			atomic_store(&ring->head, 0);
			break;
		case 2:
			atomic_store(&ring->acked, 2);
			break;
		case 3:
			ring->records = 1u << 31;
			break;
		case 4:
			ring->records = 0;
			break;
		default:
			ring->arena_len = 128;
			break;
		}
		assert_true(ring_wrong(ring, 8, 64, 1));
		ring_mend(ring, 8, 64, 1);
		assert_false(ring_wrong(ring, 8, 64, 1));
		assert_int_equal(ring_durable(ring), 1);
		assert_null(ring_peek(ring, 2));
		for (uint64_t p = 2; p < 30; p++) {
			char text[8] = "";

			assert_int_equal(ring_push(ring, &r, "after", 5), p);
			ring_payload(ring, ring_peek(ring, p), text);
			assert_string_equal(text, "after");
			ring_publish(ring, p);
			ring_ack(ring, p);
		}
		free(ring);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(empty_ring_has_nothing),
	    cmocka_unit_test(entries_are_kept_until_acked),
	    cmocka_unit_test(arena_is_free_once_durable),
	    cmocka_unit_test(a_producer_killed_in_a_push_leaves_nothing),
	    cmocka_unit_test(wraps_at_random_sizes),
	    cmocka_unit_test(two_threads),
	    cmocka_unit_test(a_forged_ring_is_mended),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
