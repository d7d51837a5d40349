#ifndef DAEMON_METRICS_HTTP_H
#define DAEMON_METRICS_HTTP_H

/*
 * GET /metrics, /healthz and /readyz on the admin_listen listener.  Admin process.
 * Not the workers' server: one short reply a connection, nothing kept alive, nothing configured.
 */
#include <event2/event.h>

#include "daemon/config.h"
#include "shm/region.h"

struct metrics_http;

/* listen_fd stays the caller's; -1: nothing is served.  NULL when out of memory. */
struct metrics_http *metrics_http_new(struct event_base *, int listen_fd, const struct region *,
    const struct config *) __attribute__((warn_unused_result));
/* Another config is in force; the one before it may be freed. */
void metrics_http_renew(struct metrics_http *, const struct config *);
/* Once a second: time-outs, and accepting again after it failed for want of descriptors. */
void metrics_http_tick(struct metrics_http *);
void metrics_http_free(struct metrics_http *);

#endif
