#ifndef DAEMON_KEPT_H
#define DAEMON_KEPT_H

/*
 * The answer to a request of /v1 with an Idempotency-Key, kept in the journal as the text of its
 * stream, so that who asks again gets the same bytes: struct kept_head, the provider's name, the
 * body.  One that became too long ends with a NUL, which no body has.  Worker process.
 */
#include <stdbool.h>
#include <stdint.h>

#include "daemon/buf.h"
#include "daemon/ids.h"

/* Bytes of answers that are kept.  Streams go there slice by slice; a body in its last record. */
#define KEPT_STREAM_MAX (4u << 20)
#define KEPT_BODY_MAX (256u << 10)
/* And of one record: far below what a ring takes. */
#define KEPT_RECORD_MAX (2u << 20)

struct conn;
struct stream;
struct worker;

struct kept_head {
	uint16_t status;
	uint8_t dialect;       /* enum config_dialect, of the client */
	uint8_t event_stream;
	uint16_t provider_len; /* its name follows */
};
_Static_assert(sizeof(struct kept_head) == 6, "kept_head");

/* The head of a stream's answer into its relay: 200, and who answers. */
void kept_begin(struct stream *);
/* What was let out since the last record. */
struct span kept_unsaved(const struct stream *);
/* The settlement is worked out: all that is not in the journal yet, the answer's end included.
 * "" for a stream that keeps none. */
struct span kept_rest(struct stream *);

/* Answer again what was kept of this stream, when that has ended. */
void kept_replay(struct worker *, struct conn *, const struct stream_id *);
/* Every 250 ms, and at the worker's end. */
void kept_tick(struct worker *);
void kept_fini(struct worker *);

#endif
