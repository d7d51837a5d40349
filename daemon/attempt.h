#ifndef DAEMON_ATTEMPT_H
#define DAEMON_ATTEMPT_H

/*
 * Asking providers until one begins to answer: which, when again, and what the client is told
 * when none does.  All of it before the first token; the hold, the meter and the watchers see one
 * stream.  Worker.
 */
#include <event2/event.h>
#include <stdbool.h>
#include <stdint.h>

#include "daemon/buf.h"
#include "daemon/retry.h"

/* Calls made for one stream, however many providers and retries there are. */
#define ATTEMPTS_MAX 12
/* Who wants to be asked again later than this is not waited for. */
#define ATTEMPT_WAIT_MAX_S 20

struct stream;

/* A stream's part of it; zeroed before the first attempt. */
struct attempt {
	int at;                 /* index in the model's list of providers */
	int target;             /* of the present provider */
	unsigned count, here;   /* calls in all; and after the first at this provider */
	uint64_t tried;         /* targets of this provider that failed, a bit each */
	uint64_t due_us;        /* the present call must have its first token by then */
	struct event *timer;    /* until the next one */
	bool calling;           /* the breaker waits to hear of the present call */
	bool hope;              /* somebody failed, or was left alone, in a way that may pass */
	uint64_t chunks, bytes; /* of the stream's, that were counted for a provider */
};

struct failure {
	enum upstream_kind kind;
	int status;          /* the provider's; 0: none came */
	int64_t retry_after; /* seconds; 0: not said */
	struct span message; /* the provider's words, may be empty; */
	const char *text;    /* then these */
	const char *code;    /* NULL: the kind's */
};

/* Make the first call; CALLING. */
void attempt_start(struct stream *);
/*
 * The present call has failed, and is cancelled if it has not ended.  There will be another one
 * (from the event loop, not now), or the stream is closed with this failure.
 */
void attempt_failed(struct stream *, const struct failure *);
/* The first token has come: there will be no other call. */
void attempt_worked(struct stream *);
/* The present call has no longer than this for its first token, or to fail. */
void attempt_hurry(struct stream *, uint64_t us);
/* Every tick while CALLING. */
void attempt_tick(struct stream *, uint64_t now_us);
/* The stream's calls are over, however they ended. */
void attempt_fini(struct stream *);
/* Name of the provider that was asked last; NULL before the first call. */
const char *attempt_provider(const struct stream *);

#endif
