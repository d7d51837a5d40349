#ifndef SHM_CLOCK_H
#define SHM_CLOCK_H

/* The kernel's clocks in microseconds.  Any process. */
#include <stdint.h>
#include <time.h>

static inline uint64_t
clock_us(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

/* Since some time before this boot: for what passes. */
static inline uint64_t
monotonic_us(void)
{
	return clock_us(CLOCK_MONOTONIC);
}

/* The same, up to 4 ms late, at next to no cost.  Not to be mixed with it in one difference. */
static inline uint64_t
coarse_us(void)
{
	return clock_us(CLOCK_MONOTONIC_COARSE);
}

/* Since 1970: for what people read, and journals keep. */
static inline uint64_t
realtime_us(void)
{
	return clock_us(CLOCK_REALTIME);
}

#endif
