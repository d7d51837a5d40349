#ifndef DAEMON_RESPONSE_H
#define DAEMON_RESPONSE_H

/*
 * A provider's HTTP/1.1 response (RFC 9112): head, transfer coding, where it ends.  Pure: bytes
 * in, head and body out, fed any number at a time, without copying the body.  Laxer than the
 * request parser in one thing only: a bare LF ends a line, as the RFC allows a recipient.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/buf.h"

#define RESPONSE_HEAD_MAX 65536
#define RESPONSE_MEDIA_MAX 64

enum response_result {
	RESPONSE_MORE,     /* not whole yet */
	RESPONSE_COMPLETE, /* whole; what came beyond it makes the connection unusable */
	RESPONSE_STOPPED,  /* a callback said so */
	RESPONSE_BAD,      /* not HTTP; see why */
};

struct response {
	int state;
	int status;
	int64_t retry_after; /* seconds, at most INT32_MAX; 0: not said */
	char media_type[RESPONSE_MEDIA_MAX]; /* lower case, without parameters; "" if none */
	const char *why;
	struct buf head;  /* until it is whole */
	size_t scanned;   /* of head */
	uint64_t left;    /* of the body or the chunk */
	uint32_t line;    /* bytes of the chunk's line or of trailers so far */
	bool chunked, has_length, keep_alive, leftover, line_empty;
	bool coded; /* the body is compressed, though nobody asked for that */
};

typedef bool response_head_fn(void *arg, const struct response *);
typedef bool response_body_fn(void *arg, const char *, size_t);

void response_init(struct response *);
void response_fini(struct response *);
/*
 * Bytes of the response.  What of them is body is given in one piece, closed up in place.
 * Callbacks return false to stop.
 */
enum response_result response_feed(struct response *, char *, size_t, response_head_fn *,
    response_body_fn *, void *arg);
/* The connection was closed: is it COMPLETE thereby, or was there MORE to come? */
enum response_result response_eof(struct response *);
/* Has the head come? */
bool response_has_head(const struct response *);
/* After COMPLETE: may the connection be used again? */
bool response_reusable(const struct response *);

#endif
