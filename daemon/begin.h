#ifndef DAEMON_BEGIN_H
#define DAEMON_BEGIN_H

/*
 * From a request that was read and found good to a stream whose reserve is durable: the one road
 * of /chat/send and /v1.  Worker.
 */
#include "daemon/chat_request.h"
#include "daemon/conn.h"
#include "daemon/dialect.h"
#include "daemon/stream.h"

struct begin {
	struct chat_request request;
	const struct journal_keyed *keyed; /* of the Idempotency-Key, whose turn it is; or NULL */
	struct span beta;           /* for providers of Anthropic's dialect: its header */
	const struct api *api;      /* whose dialect the client speaks; NULL: of /chat */
	/* The stream is WAITING, and its sender hears what is available now. */
	void (*begun)(struct stream *, struct conn *, int64_t available);
};

/*
 * Reserve for the connection's caller.  True: begun is called from a later event, or it is answered
 * then, and a keyed one's turn_over is called.  False: the connection was (or, when the keeper has
 * been asked about the key, will be) answered: 402, 503, or what the provider's dialect cannot carry.
 */
bool begin(struct conn *, const struct http_request *, struct begin *);
/* Likewise from the body of a /chat/send: read, with its session's past in front of its message. */
bool begin_chat(struct conn *, const struct http_request *, struct span body, struct begin *);
/* Answer with what is wrong with a request. */
void begin_refuse(struct conn *, const struct chat_fault *);

#endif
