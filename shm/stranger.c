/*
 * The table of addresses without a key.
 */
#include "shm/stranger.h"

#include <string.h>

#include "shm/cas16.h"

static uint64_t
fold(uint64_t a, uint64_t b)
{
	unsigned __int128 product = (unsigned __int128)a * b;

	return (uint64_t)product ^ (uint64_t)(product >> 64);
}

uint64_t
stranger_hash(const struct region *region, const uint8_t address[static 16])
{
	static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
	uint64_t seed = region->h->hash_seed, half[2], hash;

	memcpy(half, address, sizeof half);
	/* Who has an IPv6 address has 2^64 of them. */
	if (memcmp(address, mapped, sizeof mapped) != 0)
		half[1] = 0;
	hash = fold(half[0] ^ seed ^ UINT64_C(0x8ebc6af09c88c6e3),
	    half[1] ^ (seed >> 32 | seed << 32) ^ UINT64_C(0x589965cc75374cc3));
	hash = fold(hash ^ UINT64_C(0x1d8e4e27c47d124f), seed | 1);
	return hash != 0 ? hash : 1;
}

static struct stranger_set *
set_of(const struct region *region, uint64_t hash)
{
	return (struct stranger_set *)(void *)(region->base + region->h->strangers_at) +
	       hash % STRANGER_SETS;
}

/* Torn, if somebody writes meanwhile: then the compare-and-swap fails. */
static struct account_word
read_entry(const struct account_word *e)
{
	return (struct account_word){
	    .available = __atomic_load_n(&e->available, __ATOMIC_RELAXED),
	    .tag = __atomic_load_n(&e->tag, __ATOMIC_RELAXED),
	};
}

/* The address's entry, or the one whose place it may take; what it says is in *seen. */
static struct account_word *
find(struct stranger_set *set, uint64_t hash, struct account_word *seen)
{
	struct account_word *least = NULL;

	for (int i = 0; i < STRANGER_WAYS; i++) {
		struct account_word w = read_entry(&set->entry[i]);

		if (w.tag == hash) {
			*seen = w;
			return &set->entry[i];
		}
		/* Free ones owe nothing since ever. */
		if (least == NULL || (uint64_t)w.available < (uint64_t)seen->available) {
			least = &set->entry[i];
			*seen = w;
		}
	}
	return least;
}

bool
stranger_take(const struct region *region, uint64_t hash, uint32_t per_minute, uint64_t now_ns,
    struct limit_state *s)
{
	struct stranger_set *set = set_of(region, hash);

	for (;;) {
		struct account_word seen, *e = find(set, hash, &seen);
		struct limit own;

		atomic_init(&own.arrival_ns, seen.tag == hash ? (uint64_t)seen.available : 0);
		if (!limit_take(&own, per_minute, 1, now_ns, s))
			return false;
		if (cas16(e, seen,
		        (struct account_word){
		            (int64_t)atomic_load_explicit(&own.arrival_ns, memory_order_relaxed),
		            hash}))
			return true;
	}
}

void
stranger_look(const struct region *region, uint64_t hash, uint32_t per_minute, uint64_t now_ns,
    struct limit_state *s)
{
	struct account_word seen;
	struct limit own;

	(void)find(set_of(region, hash), hash, &seen);
	atomic_init(&own.arrival_ns, seen.tag == hash ? (uint64_t)seen.available : 0);
	/* As limit_take would judge one more. */
	if (!limit_take(&own, per_minute, 1, now_ns, s))
		return;
	s->retry_ns = 0;
}
