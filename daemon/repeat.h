#ifndef DAEMON_REPEAT_H
#define DAEMON_REPEAT_H

/*
 * Idempotency-Key: a request that is sent again changes nothing and gets the first answer, for
 * 24 hours (draft-ietf-httpapi-idempotency-key-header).  Worker.
 *
 * A route uses it by daemon/turn.h, where requests with one key that come together wait for each
 * other.  What a key stands for is not in shared memory: the key goes with the RESERVE, and the
 * keeper, which sees all reserves one after the other, takes only the first one with it: key and
 * hold become durable in one commit.  A later one is answered REPEATED (or CONFLICT, if its body
 * differs) and void in memory, like any reserve that the books do not take.  When nothing could be
 * reserved, the keeper is asked (JOURNAL_ASK): the credit may be what the first request has taken.
 */
#include <stdbool.h>
#include <stdint.h>

#include "daemon/conn.h"
#include "daemon/http.h"
#include "shm/journal_record.h"

struct worker;

/*
 * The request's key and body, if it has a key (*has; expires_s is left 0).  False: it is no good
 * one, and that was replied.
 */
bool repeat_key(struct conn *, const struct http_request *, const char *endpoint, struct span body,
    struct journal_keyed *, bool *has) __attribute__((warn_unused_result));
/* The answer to a send, which may be a first one or a repeated one. */
struct send_answer {
	const char *stream_id, *session_id, *message_id;
	int64_t reserved, available; /* micro-credits */
	uint64_t expires_s;
};
void repeat_write(struct conn *, const struct send_answer *);
/* The first answer again: its reserve's sequence, and what was available then. */
void repeat_answer(struct worker *, struct conn *, uint64_t first, int64_t available);
void repeat_conflict(struct conn *);

/*
 * Ask what became of a key; if it is not known, `unknown` is called with the conn (perhaps in this
 * call).  `arg` is freed after it, or when the conn is gone.
 */
void repeat_ask(struct worker *, struct conn *, const struct journal_keyed *,
    void (*unknown)(struct conn *, void *arg), void *arg);
/* The disk does not answer: neither do those who were asked wait any longer. */
void repeat_give_up(struct worker *, void (*refuse)(struct conn *));
/* At the worker's end. */
void repeat_fini(struct worker *);

#endif
