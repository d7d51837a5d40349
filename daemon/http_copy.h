#ifndef DAEMON_HTTP_COPY_H
#define DAEMON_HTTP_COPY_H

/* Keeping a request beyond its handler's return. */
#include <stdbool.h>

#include "daemon/buf.h"
#include "daemon/http.h"

/*
 * Move all that the request's spans and the body point to into the (empty) buffer, and them with
 * it; the body stays NUL-terminated.  False, with nothing moved, when there is no memory.
 */
bool http_copy(struct http_request *, struct span *body, struct buf *)
    __attribute__((warn_unused_result));

#endif
