#ifndef DAEMON_WATCH_H
#define DAEMON_WATCH_H

/*
 * Those who watch a stream.  The text is kept once, in the stream; each watcher has a place in
 * it and a dialect, and is fed only while its socket takes what it gets.  Worker.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/conn.h"
#include "daemon/emit.h"
#include "daemon/stream.h"

#define WATCH_LAG_MAX 65536 /* the provider is paused when everybody is further behind */

/* Answer a connection with the stream from a byte offset of its text on; -1 without memory. */
int watch_start(struct stream *, struct conn *, enum emit_format, uint64_t offset)
    __attribute__((warn_unused_result));
/* Run an api's stream for the one client that it has: struct begin's begun. */
void watch_open_api(struct stream *, struct conn *, int64_t available);
/* What a client is told of an api's stream in a status and a body, where it is no answer. */
struct refusal {
	int status;
	int64_t retry_after; /* seconds; 0: nothing is said */
	bool no_retry;
};
/* Is that how it ends?  Its end was decided. */
bool watch_refuses(const struct stream *);
/* settled: as it is once the settlement is durable.  Else it is not, if it has not ended. */
void watch_refusal(const struct stream *, bool settled, struct refusal *, struct buf *body);
/* The end of an api's stream, for its client; the same. */
void watch_api_end(const struct stream *, bool settled, struct buf *);
/* The whole answer of a provider that streamed it, into its relay's body; once. */
void watch_put_together(struct stream *, bool settled);
/* Feed every watcher; ends their replies when the stream has ended. */
void watch_feed(struct stream *);
/* A comment to those who heard nothing for so long. */
void watch_keepalive(struct stream *, uint64_t now_us, uint64_t silence_us);
/* A slice has begun: tell the watchers that are up to date. */
void watch_slice(struct stream *);
/* At the worker's end, when there are no connections any more: drop who still watches. */
void watch_free(struct stream *);
/* How far the nearest watcher is behind, in bytes; SIZE_MAX if there is none. */
size_t watch_lag(const struct stream *);

#endif
