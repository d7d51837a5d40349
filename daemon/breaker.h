#ifndef DAEMON_BREAKER_H
#define DAEMON_BREAKER_H

/*
 * A circuit breaker: who failed so and so often in a row is left alone for a while, then one call
 * tries it.  Pure; times are the caller's, in microseconds.
 *
 *   CLOSED ── failures in a row ──► OPEN ── its time is over ──► HALF ── the probe works ─► CLOSED
 *                                    ▲                            │
 *                                    └──── the probe fails ───────┘  (twice as long, up to 8 times)
 *
 * Each worker has its own.  In shared memory all would open at the first one's failures, and
 * save a few calls of an outage; but a worker killed in its probe would have to be found out, and
 * one that a peer made misbehave could close a provider for all.
 */
#include <stdbool.h>
#include <stdint.h>

enum breaker_state { BREAKER_CLOSED, BREAKER_OPEN, BREAKER_HALF };

struct breaker_policy {
	uint32_t failures; /* in a row; 0: it never opens */
	uint64_t open_us;
};

struct breaker {           /* zeroed: closed */
	uint32_t failures; /* in a row */
	uint32_t opened;   /* times in a row */
	bool open, probing;
	uint64_t until_us;
};

enum breaker_state breaker_state(const struct breaker *, uint64_t now_us);
/* May a call start?  In HALF one at a time. */
bool breaker_allows(const struct breaker *, uint64_t now_us);
/* When it will allow one again, as far as that is known: now, if it does. */
uint64_t breaker_until(const struct breaker *, uint64_t now_us);
/* A call starts, which was allowed. */
void breaker_begin(struct breaker *, uint64_t now_us);
/* How it ended: true if the breaker opened by that. */
bool breaker_failed(struct breaker *, const struct breaker_policy *, uint64_t now_us);
void breaker_worked(struct breaker *);
/* It ended before it said anything about the provider (the client left). */
void breaker_left(struct breaker *);

#endif
