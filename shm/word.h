#ifndef SHM_WORD_H
#define SHM_WORD_H

/*
 * An account's word: read, help, replace.  Every change of what is available goes through
 * word_replace; only shm/ledger.c does that.  (shm/purse.c and shm/seat.c have words of the same make.)
 */
#include "shm/account.h"
#include "shm/cas16.h"
#include "shm/ledger.h"

/* A tag: hold slot + 1 in 20 bits, its sequence in 44 (18 years at 30,000 a second each). */
#define TAG_SEQ_BITS 44
#define TAG_SEQ(tag) ((tag) & ((UINT64_C(1) << TAG_SEQ_BITS) - 1))
#define TAG_SLOT(tag) ((uint32_t)((tag) >> TAG_SEQ_BITS) - 1) /* of a tag that is not 0 */

static inline uint64_t
tag_of(uint32_t slot, uint64_t seq)
{
	return (uint64_t)(slot + 1) << TAG_SEQ_BITS | seq;
}

/*
 * An account's word, both halves of one instant: a tag is put there once ever (sequences never
 * come back), so the same tag before and after means that it was there all the time, and what
 * was available between the two belongs to it.
 */
static inline struct account_word
word_read_at(const struct account_word *word)
{
	struct account_word w;

	/* Acquire each, so that the three loads stay in order (pairs with the CAS's release). */
	w.tag = __atomic_load_n(&word->tag, __ATOMIC_ACQUIRE);
	for (;;) {
		uint64_t tag;

		w.available = __atomic_load_n(&word->available, __ATOMIC_ACQUIRE);
		tag = __atomic_load_n(&word->tag, __ATOMIC_ACQUIRE);
		if (tag == w.tag)
			return w;
		w.tag = tag;
	}
}

static inline struct account_word
word_read(const struct account *a)
{
	return word_read_at(&a->word);
}

/* Raise a slot's word for "applied" to this sequence. */
static inline void
tag_applied(_Atomic uint64_t *applied, uint64_t seq)
{
	/* Relaxed: the CAS that replaces the tag comes after it and releases it; who finds the
	 * tag gone (with acquire) finds this. */
	uint64_t seen = atomic_load_explicit(applied, memory_order_relaxed);

	while (seen < seq &&
	    !atomic_compare_exchange_weak_explicit(
		applied, &seen, seq, memory_order_relaxed, memory_order_relaxed))
		;
}

/*
 * Rule "help": tell the slot of the operation whose tag we are about to replace that it was
 * applied.  True whether or not our CAS succeeds then, for the tag was there.
 */
static inline void
help(const struct region *region, uint64_t tag)
{
	/* A slot that does not exist: a stray write.  Do not add another one. */
	if (tag == 0 || TAG_SLOT(tag) >= hold_count(region))
		return;
	tag_applied(&hold_at(region, TAG_SLOT(tag))->applied, TAG_SEQ(tag));
}

/* Replace the word that was read; false if it changed meanwhile: read again. */
/* Model: move() in tests/model/shm.pml. */
static inline bool
word_replace(const struct region *region, struct account *a, struct account_word old,
    int64_t available, uint64_t tag)
{
	help(region, old.tag);
	return cas16(&a->word, old, (struct account_word){available, tag});
}

#endif
