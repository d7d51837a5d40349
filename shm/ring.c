/*
 * A ring of journal records and their payloads: one producer, one consumer, shared memory.
 * The producer is a worker or the admin process (after its death the master), the consumer the
 * keeper.
 *
 * `head` is the only thing a producer changes that others look at, and it is stored last.  Where
 * a payload goes is derived from the entry before it and not kept in a word of its own: a
 * producer killed between two such words would leave them in disagreement.
 */
#include "shm/ring.h"

#include <string.h>
#include "shm/fault.h"

/* Round a size up to whole cache lines. */
#define LINES(n) (((n) + 63) & ~(size_t)63)

size_t
ring_size(uint32_t records, uint32_t arena_len)
{
	return LINES(sizeof(struct ring) + (size_t)records * sizeof(struct ring_entry)) + arena_len;
}

void
ring_init(struct ring *ring, uint32_t records, uint32_t arena_len)
{
	/* Before anyone else sees it. */
	atomic_init(&ring->head, 0);
	atomic_init(&ring->durable, 0);
	atomic_init(&ring->acked, 0);
	ring->records = records;
	ring->arena_len = arena_len;
}

static struct ring_entry *
entry_at(const struct ring *ring, uint64_t position)
{
	const struct ring_entry *e = &ring->entry[(position - 1) & (ring->records - 1)];

	return (struct ring_entry *)(uintptr_t)e;
}

static unsigned char *
arena(const struct ring *ring)
{
	uintptr_t base = (uintptr_t)ring;

	return (unsigned char *)(base +
	    LINES(sizeof *ring + ring->records * sizeof(struct ring_entry)));
}

/*
 * Arena position just after the payload of the record at `position`.  Its entry is intact for
 * acked <= position <= head: ring_room leaves one entry unused, so that the last acked one is
 * not overwritten before its successor is acked.
 */
static uint64_t
payload_end(const struct ring *ring, uint64_t position)
{
	const struct ring_entry *e;

	if (position == 0)
		return 0;
	e = entry_at(ring, position);
	return e->payload_at + e->record.payload_len;
}

bool
ring_room(const struct ring *ring, size_t payload_len)
{
	/* Relaxed: head and acked are the producer's own words. */
	uint64_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
	uint64_t acked = atomic_load_explicit(&ring->acked, memory_order_relaxed);
	/* Acquire, pairs with ring_publish: the keeper is done with those payloads before we
	 * write over them. */
	uint64_t durable = atomic_load_explicit(&ring->durable, memory_order_acquire);
	uint64_t used;

	if (head - acked >= ring->records - 1)
		return false;
	used = payload_end(ring, head) - payload_end(ring, durable);
	return used <= ring->arena_len && payload_len <= ring->arena_len - used;
}

/* Copy bytes into the arena at a position, around its end. */
static void
arena_put(struct ring *ring, uint64_t at, const void *from, size_t len)
{
	size_t offset = (size_t)(at & (ring->arena_len - 1));
	size_t first = ring->arena_len - offset;

	if (len == 0)
		return;
	if (first > len)
		first = len;
	memcpy(arena(ring) + offset, from, first);
	memcpy(arena(ring), (const unsigned char *)from + first, len - first);
}

uint64_t
ring_push2(struct ring *ring, const struct journal_record *record, const void *a, size_t a_len,
    const void *b, size_t b_len)
{
	uint64_t head = atomic_load_explicit(&ring->head, memory_order_relaxed); /* our own */
	uint64_t at = payload_end(ring, head);
	struct ring_entry *e = entry_at(ring, head + 1);

	if (!ring_room(ring, a_len + b_len))
		return 0;
	arena_put(ring, at, a, a_len);
	arena_put(ring, at + a_len, b, b_len);
	e->record = *record;
	e->record.payload_len = (uint32_t)(a_len + b_len);
	e->payload_at = at;
	e->value = 0;
	e->status = 0;
	FAULT("ring.written");
	/* Release, pairs with ring_peek's acquire: entry and payload are whole before the
	 * record counts.  For a kill the compiler's order matters, which release gives too. */
	atomic_store_explicit(&ring->head, head + 1, memory_order_release);
	return head + 1;
}

/* Model: push() in tests/model/shm.pml. */
uint64_t
ring_push(struct ring *ring, const struct journal_record *record, const void *payload,
    size_t payload_len)
{
	return ring_push2(ring, record, payload, payload_len, NULL, 0);
}

void
ring_ack(struct ring *ring, uint64_t position)
{
	/* Relaxed: only the producer looks at acked, to know what it may overwrite. */
	if (position > atomic_load_explicit(&ring->acked, memory_order_relaxed))
		atomic_store_explicit(&ring->acked, position, memory_order_relaxed);
}

enum ring_status
ring_result(const struct ring *ring, uint64_t position, int64_t *value)
{
	const struct ring_entry *e = entry_at(ring, position);

	/* The caller saw position <= ring_durable() with acquire: status and value were written
	 * before that, and nobody writes them after it. */
	if (value != NULL)
		*value = e->value;
	return (enum ring_status)e->status;
}

uint64_t
ring_first(const struct ring *ring, uint64_t position)
{
	return entry_at(ring, position)->first;
}

uint64_t
ring_head(const struct ring *ring)
{
	/* Acquire, pairs with ring_push2: whoever sees the count may read the entries. */
	return atomic_load_explicit(&ring->head, memory_order_acquire);
}

uint64_t
ring_durable(const struct ring *ring)
{
	/* Acquire, pairs with ring_publish: results come with the count. */
	return atomic_load_explicit(&ring->durable, memory_order_acquire);
}

struct ring_entry *
ring_peek(struct ring *ring, uint64_t position)
{
	return position <= ring_head(ring) ? entry_at(ring, position) : NULL;
}

void
ring_payload(const struct ring *ring, const struct ring_entry *e, void *out)
{
	size_t offset = (size_t)(e->payload_at & (ring->arena_len - 1));
	size_t len = e->record.payload_len;
	size_t first = ring->arena_len - offset;

	if (len == 0)
		return;
	if (first > len)
		first = len;
	memcpy(out, arena(ring) + offset, first);
	memcpy((unsigned char *)out + first, arena(ring), len - first);
}

void
ring_publish(struct ring *ring, uint64_t position)
{
	/* Release, pairs with ring_durable's and ring_room's acquire: results are written and
	 * payloads copied before the producer is told. */
	atomic_store_explicit(&ring->durable, position, memory_order_release);
}

bool
ring_wrong(const struct ring *ring, uint32_t records, uint32_t arena_len, uint64_t position)
{
	/* Relaxed: its producer raises it to what it saw durable, never above. */
	uint64_t acked = atomic_load_explicit(&ring->acked, memory_order_relaxed);

	return ring->records != records || ring->arena_len != arena_len ||
	    ring_head(ring) - position > records || acked > position;
}

void
ring_mend(struct ring *ring, uint32_t records, uint32_t arena_len, uint64_t position)
{
	ring->records = records;
	ring->arena_len = arena_len;
	/* Relaxed: the producer is dead; who reaps it goes by `durable`, which comes last. */
	atomic_store_explicit(&ring->acked, position, memory_order_relaxed);
	atomic_store_explicit(&ring->head, position, memory_order_relaxed);
	ring_publish(ring, position);
}
