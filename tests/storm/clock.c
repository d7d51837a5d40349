/*
 * The storm's clock: CLOCK_REALTIME, in place of the C library's, by as much ahead as `told` says.
 * It is set forward while nothing runs, to a little before a midnight; that passes by itself.
 */
#include <stddef.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "shm/clock.h"
#include "tests/storm/told.h"

#define DAY_US UINT64_C(86400000000)

int
clock_gettime(clockid_t clock, struct timespec *ts)
{
	long rc = syscall(SYS_clock_gettime, clock, ts);
	uint64_t ahead;

	if (rc != 0 || clock != CLOCK_REALTIME || told == NULL)
		return (int)rc;
	ahead = atomic_load(&told->ahead_us) + (uint64_t)ts->tv_nsec / 1000;
	ts->tv_sec += (time_t)(ahead / 1000000);
	ts->tv_nsec = (long)(ahead % 1000000 * 1000) + ts->tv_nsec % 1000;
	return 0;
}

/* The next midnight after so many days, or that of the month's end. */
static uint64_t
midnight(uint64_t *rng, uint64_t now_us)
{
	time_t t = (time_t)(now_us / 1000000);
	struct tm tm;

	if (storm_draw(rng, 2) == 0 || gmtime_r(&t, &tm) == NULL)
		return (now_us / DAY_US + 1 + storm_draw(rng, 3)) * DAY_US;
	tm = (struct tm){.tm_year = tm.tm_year, .tm_mon = tm.tm_mon + 1, .tm_mday = 1};
	return (uint64_t)timegm(&tm) * 1000000;
}

void
clock_begin(uint64_t *rng)
{
	uint64_t now_us = realtime_us(), end_us;

	if (storm_draw(rng, 3) == 0)
		return;
	end_us = midnight(rng, now_us) - storm_draw(rng, 700000);
	if (end_us <= now_us)
		return;
	atomic_fetch_add(&told->ahead_us, end_us - now_us);
	atomic_fetch_add(&told->midnights, 1);
	atomic_store(&told->onces_from, atomic_load(&told->onces));
	atomic_store(&told->credits_from, atomic_load(&told->credits));
}
