/* Connections of the simulated provider. */
#ifndef TOLLD_SIM_CONN_H
#define TOLLD_SIM_CONN_H

#include <stdint.h>
#include <stdio.h>

struct event_base;

/* What GET /sim/stats shows; POST /sim/reset zeroes all but the two that say what is open. */
struct stats {
	uint64_t requests; /* chat calls that were read whole */
	uint64_t open;     /* of them, answers under way */
	uint64_t completed;
	uint64_t cancelled; /* the client left first */
	uint64_t faults;    /* ended as a fault wanted it */
	uint64_t tokens;
	uint64_t bytes;       /* accepted by the sockets */
	uint64_t connections; /* since the start */
	uint64_t connections_open;
};

/* tick_us: how fine the pacing is. */
int conn_init(struct event_base *, FILE *log, unsigned tick_us);
/* Take over a non-blocking socket. */
void conn_new(int fd);
/* Close all connections. */
void conn_fini(void);

#endif
