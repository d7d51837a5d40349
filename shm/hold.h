#ifndef SHM_HOLD_H
#define SHM_HOLD_H

/*
 * A hold's slot: its state, its meter, and the record that it amounts to.  For ledger.c, on its own
 * process's slots, and reap.c, on a dead one's; the slot itself is drawn in shm/ledger.h.
 */
#include "shm/ledger.h"

/* A hold's sequence.  Relaxed: asked by the one who alone stores it. */
static inline uint64_t
hold_seq(const struct hold *h)
{
	return HOLD_SEQ(atomic_load_explicit(&h->state, memory_order_relaxed));
}

static inline enum hold_state
hold_state(const struct hold *h)
{
	return HOLD_STATE(atomic_load_explicit(&h->state, memory_order_relaxed));
}

/* What the meter says. */
static inline struct tokens
hold_metered(const struct hold *h)
{
	/* Relaxed: our own word, or a dead process's. */
	uint64_t meter = atomic_load_explicit(&h->meter, memory_order_relaxed);

	return (struct tokens){.prompt = h->prompt,
	    .completion = METER_TOKENS(meter),
	    .reasoning = METER_REASONING(meter)};
}

/* The one way in which a hold changes state. */
void hold_move(struct hold *, uint64_t seq, enum hold_state);
/*
 * The record of this type that a hold's slot amounts to, and what its payload begins with: nothing
 * in them is from elsewhere.
 */
void hold_record(const struct region *, const struct hold *, uint8_t type, uint64_t time_us,
    struct journal_record *, struct journal_split *);
/* Push it, with what its payload begins with; 0 if the ring is full. */
uint64_t hold_push(struct ring *, const struct journal_record *, const struct journal_split *,
    const void *payload, size_t payload_len);

#endif
