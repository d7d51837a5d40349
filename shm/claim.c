/*
 * Claims.  Worker, and the master for the dead.
 */
#include "shm/claim.h"

#include <stdatomic.h>

static _Atomic uint32_t *
claim_at(const struct region *r, uint32_t word)
{
	return (_Atomic uint32_t *)(void *)(r->base + r->h->claims_at) + word;
}

/* Model: claim_take() in tests/model/claim.pml */
bool
claim_take(struct region *r, uint32_t proc, uint16_t word)
{
	/* Relaxed: only whether it may be tried at all. */
	uint32_t owner = atomic_load_explicit(claim_at(r, word), memory_order_relaxed);

	/* No process's number: somebody scribbled over it. */
	if (owner != 0 && owner < r->h->procs)
		return false;
	/* Acquire, pairs with the releases below: what the one before reserved is seen, and its
	 * record was durable before ours is pushed. */
	return atomic_compare_exchange_strong_explicit(
	    claim_at(r, word), &owner, proc, memory_order_acquire, memory_order_relaxed);
}

/* Model: claim_release() in tests/model/claim.pml */
void
claim_release(struct region *r, uint32_t proc, uint16_t word)
{
	/* A word that was scribbled over may be another's now: then it is left to that one. */
	(void)atomic_compare_exchange_strong_explicit(
	    claim_at(r, word), &proc, 0, memory_order_release, memory_order_relaxed);
}

/* Model: claim_release_dead() in tests/model/claim.pml */
void
claim_release_dead(struct region *r, uint32_t proc)
{
	for (uint32_t i = 0; i < CLAIM_WORDS; i++) {
		/* Relaxed: its claimant is dead, so it stays as it is. */
		if (atomic_load_explicit(claim_at(r, i), memory_order_relaxed) == proc)
			atomic_store_explicit(claim_at(r, i), 0, memory_order_release);
	}
}
