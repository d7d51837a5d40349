#ifndef SHM_STRANGER_H
#define SHM_STRANGER_H

/*
 * Addresses of clients that showed no good key, and how many requests each has made: a table of
 * fixed size, for all workers.  An entry is what the address is (hashed with the region's seed, so
 * that nobody can choose two that collide) and a limit's arrival time (shm/limit.h); both change
 * by one 16-byte compare-and-swap.
 *
 * An address has its place in one set of four.  Who finds no place takes that of an address whose
 * requests have drained away, or else of the one that owes least: it begins anew, so a flood of
 * addresses makes the limit milder for others and never harder.
 */
#include <stdbool.h>
#include <stdint.h>

#include "shm/account.h"
#include "shm/limit.h"
#include "shm/region.h"

#define STRANGER_WAYS 4
#define STRANGER_SETS 16384

struct stranger_set {
	_Alignas(
	    64) struct account_word entry[STRANGER_WAYS]; /* {arrival_ns, hash}; hash 0: free */
};
_Static_assert(sizeof(struct stranger_set) == 64, "stranger_set");

/* What counts as one address: IPv4 in its mapped form, IPv6 by its first 64 bits. */
uint64_t stranger_hash(const struct region *, const uint8_t address[static 16]);
/* Take one request of `per_minute`; false if that would be above it. */
bool stranger_take(const struct region *, uint64_t hash, uint32_t per_minute, uint64_t now_ns,
    struct limit_state *) __attribute__((warn_unused_result));
/* How it stands; changes nothing. */
void stranger_look(const struct region *, uint64_t hash, uint32_t per_minute, uint64_t now_ns,
    struct limit_state *);

#endif
