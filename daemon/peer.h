#ifndef DAEMON_PEER_H
#define DAEMON_PEER_H

/*
 * Who is at the other end: the address that a request came from, and what it may still ask
 * without a key (docs/limits.md).  Worker.
 */
#include <stdbool.h>
#include <stdint.h>

#include "daemon/config.h"
#include "daemon/http.h"
#include "shm/limit.h"
#include "shm/region.h"

/*
 * The client's address, IPv4 in its mapped form.  Behind a trusted proxy it is the last one in
 * X-Forwarded-For that is no trusted proxy itself.  False for unix sockets.
 */
bool peer_client(
    const struct config *, int fd, const struct http_request *, uint8_t out[static 16]);

/* May it ask for something without a key now?  Always, where there is no limit. */
bool peer_may_ask(const struct config *, const struct region *, int fd, const struct http_request *,
    struct limit_state *);
/* It did.  False: it may not, any more. */
bool peer_asked(const struct config *, const struct region *, int fd, const struct http_request *,
    struct limit_state *);

#endif
