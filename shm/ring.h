#ifndef SHM_RING_H
#define SHM_RING_H

/*
 * A single-producer, single-consumer ring of journal records in shared memory, with a byte
 * arena for payloads.  One per producing process (workers, admin); after that process's death
 * the master is the producer until it has reaped it.  The keeper is always the consumer.
 *
 * Positions count records from the ring's first use and never wrap: position p is durable once
 * ring_durable() >= p.  An entry and its result stay readable by the producer until it calls
 * ring_ack(), so results of records that are durable cannot be overwritten unseen.
 *
 * A producer killed at any instruction leaves either a whole published record or none.
 */
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shm/journal_record.h"

/* What the keeper did with a record; valid once the record is durable. */
enum ring_status {
	RING_APPLIED = 1,  /* in the journal; value: see the record's type */
	RING_REPEATED = 2, /* this ref was there already: nothing changed; value as the first time */
	RING_REFUSED = 3,  /* the books contradict it: nothing changed */
	RING_UNKNOWN = 4,  /* no such account or key */
	RING_EXISTS = 5,   /* account id taken */
	RING_CLOSED = 6,   /* account closed */
	RING_NOSPACE = 7,  /* a table is full */
	RING_RANGE = 8,    /* the sum would leave int64 */
	RING_STALE = 9,    /* ACCOUNT_SET: its overdraft is not the one that the change began with */
	RING_CONFLICT = 10, /* RESERVE, ASK: this key was used with another body */
	RING_BOUND = 11,    /* SIGHT: the key has made as many accounts as it may */
};

struct ring_entry { /* 96 bytes */
	struct journal_record record;
	uint64_t payload_at; /* arena position of the payload's first byte; never wraps */
	/* keeper: TOPUP/ADJUST: new balance; ACCOUNT, SIGHT: its number; RESERVE: what is available after
	 * it, and when it is REPEATED, as for ASK, what was after the first one */
	int64_t value;
	uint64_t first;      /* keeper: RESERVE, ASK REPEATED: the first one's sequence */
	uint32_t status;     /* keeper: enum ring_status, written before the commit */
	uint32_t pad;
};
_Static_assert(sizeof(struct ring_entry) == 96, "ring entry");

/*
 * Lines are 64 bytes and have one writer each.
 *
 *   0    head      producer  records published (release; pairs with ring_peek's acquire)
 *   64   durable   keeper    records on disk (release; pairs with ring_durable's acquire)
 *   128  acked     producer  results it has read
 *   192  records, arena_len  (fixed at creation)
 *   256  entries[records], then the arena
 */
struct ring {
	_Alignas(64) _Atomic uint64_t head;
	_Alignas(64) _Atomic uint64_t durable;
	_Alignas(64) _Atomic uint64_t acked;
	_Alignas(64) uint32_t records; /* power of two */
	uint32_t arena_len;            /* power of two */
	_Alignas(64) struct ring_entry entry[];
};

/* Bytes that a ring of so many records and arena bytes takes (both powers of two). */
size_t ring_size(uint32_t records, uint32_t arena_len);
void ring_init(struct ring *, uint32_t records, uint32_t arena_len);

/* Producer: could a record with so much payload be pushed now? */
bool ring_room(const struct ring *, size_t payload_len);
/* Producer: publish a record (its payload_len is set here); its position, or 0 if full. */
uint64_t ring_push(struct ring *, const struct journal_record *, const void *payload,
    size_t payload_len) __attribute__((warn_unused_result));
/* As ring_push, the payload in two pieces. */
uint64_t ring_push2(struct ring *, const struct journal_record *, const void *a, size_t a_len,
    const void *b, size_t b_len) __attribute__((warn_unused_result));
/* Producer: results up to and including this position have been read. */
void ring_ack(struct ring *, uint64_t position);
/* Producer: the sequence of the record that this one repeats; 0: none. */
uint64_t ring_first(const struct ring *, uint64_t position);
/* Producer: the keeper's word on a durable, not yet acked position. */
enum ring_status ring_result(const struct ring *, uint64_t position, int64_t *value);

/* Anyone. */
uint64_t ring_head(const struct ring *);
uint64_t ring_durable(const struct ring *);

/* Keeper: the record at a position (1-based), or NULL when it is not published yet.  The entry
 * stays the keeper's to read, and its value and status to write, until ring_publish. */
struct ring_entry *ring_peek(struct ring *, uint64_t position);
/* Keeper: copy an entry's payload out of the arena (it may wrap there). */
void ring_payload(const struct ring *, const struct ring_entry *, void *out);
/*
 * Keeper and reaper: is the ring not what it was made as, or does it say what no producer says,
 * all up to `position` being on disk?  Its owner can write all over it.
 */
bool ring_wrong(const struct ring *, uint32_t records, uint32_t arena_len, uint64_t position);
/* Keeper, for a producer that is dead: a ring again, with nothing in it after `position`. */
void ring_mend(struct ring *, uint32_t records, uint32_t arena_len, uint64_t position);
/* Keeper: all up to position is on disk. */
void ring_publish(struct ring *, uint64_t position);

#endif
