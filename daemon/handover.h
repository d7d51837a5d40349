#ifndef DAEMON_HANDOVER_H
#define DAEMON_HANDOVER_H

/*
 * A stream lives in the worker that took its send; a request for it that another worker
 * accepted goes there with its connection (SCM_RIGHTS over a datagram socket per worker, which
 * the master keeps, so that a dead worker's successor finds what was queued).  Worker.
 */
#include <stdbool.h>
#include <stdint.h>

#include "daemon/conn.h"
#include "daemon/worker.h"

/* Serve what other workers hand over. */
int handover_listen(struct worker *) __attribute__((warn_unused_result));
void handover_close(struct worker *);

/*
 * Hand the connection over, with a request for path and query made from this one.  False when
 * the owner's inbox is full: then the conn is still ours.  Only from inside a handler.
 */
bool handover_send(struct worker *, uint32_t proc, struct conn *, const struct http_request *,
    const char *path_and_query);

#endif
