#ifndef DAEMON_TURN_H
#define DAEMON_TURN_H

/*
 * Requests with one Idempotency-Key, one after the other (shm/claim.h): who repeats a request that
 * is still on its way waits for it, at any worker, and then gets its answer.  Worker process.
 *
 * How a route uses it.  Its handler is one line:
 *
 *	turn_request(c, h, body, "/v1/chat/completions", chat_turn);
 *
 *   begin     chat_turn(c, h, body, keyed) is called when nobody else is at work on the key, now or
 *             from a later event; at once, with keyed NULL, if the request has none.  It parses and
 *             calls begin() with the key (struct begin.keyed), and returns what that says.
 *             The endpoint is part of the key's hash: one key may be used at several endpoints.
 *   wait      is done here: for 5 seconds and 16 MiB of requests in each worker, then 503
 *             `overloaded` with Retry-After.  A waiter whose client leaves is forgotten.  When the
 *             process of the first one dies, a waiter's turn comes when the master has finished its
 *             holds.
 *   conflict  is for the keeper to see: the RESERVE is answered RING_CONFLICT, and begin.c replies
 *             409 (repeat_conflict).
 *   answered  RING_REPEATED comes with the first one's sequence.  What the first answer was is in
 *             that record (repeat_answer): for a stream its id, which is attached to or replayed
 *             from there by whatever the route does with a stream that there is already.
 *   over      begin() calls turn_over when the RESERVE is durable, whatever became of it, also if
 *             the client has left.  A route that does not go through begin() must do the same.
 */
#include <stdbool.h>

#include "daemon/conn.h"
#include "daemon/worker.h"
#include "shm/journal_record.h"

struct turn; /* somebody who waits */

/*
 * True: a record with the key was pushed, and turn_over is called when that is durable.  False: it
 * was replied to, or nothing was pushed, and the turn is over.  The request and `keyed` (NULL: the
 * request has no key) are valid only during the call, as a handler's.
 */
typedef bool turn_fn(
    struct conn *, const struct http_request *, struct span body, const struct journal_keyed *);

/* From a handler. */
void turn_request(
    struct conn *, const struct http_request *, struct span body, const char *endpoint, turn_fn *);
/* Once for each turn_fn that said true, by its account and key. */
void turn_over(struct worker *, uint32_t account, const struct journal_keyed *);
/* At the worker's end. */
void turn_fini(struct worker *);

#endif
