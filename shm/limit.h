#ifndef SHM_LIMIT_H
#define SHM_LIMIT_H

/*
 * A rate limit: the generic cell rate algorithm in its virtual scheduling form (ITU-T I.371,
 * annex A) on one 64-bit word in shared memory.  docs/limits.md tells what it promises.
 *
 * The word is the theoretical arrival time, in nanoseconds of CLOCK_MONOTONIC: when all that was
 * taken will have drained away, at N units a minute.  A take is allowed if that is at most a
 * minute from now with it.  So N units may go at once and N more in each minute that follows; in
 * no time t is more allowed than N + t * N / minute.  A word of 0 is a full allowance.
 *
 * Any process, by compare-and-swap: the same at any number of processes, and a kill at any
 * instruction leaves the take done or not done.  There is nothing to give back after a death:
 * what a dead process took drains away like everything else.
 */
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define LIMIT_PERIOD_NS UINT64_C(60000000000)
#define LIMIT_NEVER UINT64_MAX

struct limit {
	_Atomic uint64_t arrival_ns;
};

/* How a limit stands at one instant. */
struct limit_state {
	uint32_t limit, remaining; /* units */
	uint64_t reset_ns;         /* until all of it is there again */
	uint64_t retry_ns;         /* until a refused take may be allowed, or LIMIT_NEVER; else 0 */
};

/*
 * Take n units of `per_minute` (above 0), or, if that would be above the limit, nothing.  The
 * state is the one after it, and may be NULL.
 */
bool limit_take(struct limit *, uint32_t per_minute, uint64_t n, uint64_t now_ns,
    struct limit_state *) __attribute__((warn_unused_result));
/* Take n units that were used already, whatever the limit says: others wait for it. */
void limit_use(struct limit *, uint32_t per_minute, uint64_t n, uint64_t now_ns);
/*
 * Give back n units of a take made at taken_ns by the same limit, which were not used.  What
 * would have drained away since then stays away: others may have been let in by it.
 */
void limit_give(
    struct limit *, uint32_t per_minute, uint64_t n, uint64_t taken_ns, uint64_t now_ns);
/* How it stands, and how long n units would have to wait; changes nothing. */
void limit_look(
    const struct limit *, uint32_t per_minute, uint64_t n, uint64_t now_ns, struct limit_state *);

#endif
