#ifndef DAEMON_RELAY_H
#define DAEMON_RELAY_H

/*
 * The answer of a stream whose client speaks a dialect of /v1: frames, not text.  An event is
 * metered, then its frame is let out; what waits for a slice waits here, event by event.  Nothing
 * is kept that the one watcher has got.  What a provider of another dialect says is written anew,
 * piece by piece, as it is let out.  Worker.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/answer.h"
#include "daemon/api.h"
#include "daemon/buf.h"

/* A body that came in one piece; more of it is a failure. */
#define RELAY_BODY_MAX (16u << 20)
/* So much may a provider say of its answer's end; more of it is a failure. */
#define RELAY_END_MAX (1u << 20)

struct stream;

struct relay {
	struct buf text;   /* what events say that wait for the meter: hidden, then shown, of each */
	struct buf frames; /* theirs, one after the other; or of whom their text is */
	struct buf marks;  /* struct relay_mark, one for each event, or piece of one */
	size_t mark_at, text_at, frame_at; /* what is done of them */
	size_t begin_at;   /* where the text of the present mark begins */
	struct answer_place pushed; /* where all events that came have led */
	struct answer answer;       /* and those that are out; the answer put together, if it is */
	struct buf out;    /* paid: for the watcher */
	struct buf last, usage; /* for the end: see struct api_end */
	struct buf head;   /* how frames of ours begin */
	struct buf body;   /* of a provider that was asked for one piece */
	uint64_t said;     /* bytes of what its events say, let out or waiting */
	bool begun;        /* head is what the first event made of it */
	bool usage_said;   /* `last` has it */
	bool stuck;        /* an event waits for a record */
	bool some_anew;    /* of the marks */
	bool whole;        /* the client wants one piece */
	bool prepaid;      /* and so may the provider be asked: all that it may say is held */
	/* With an Idempotency-Key all of the answer stays in `out`, for daemon/kept.h. */
	bool keep;
	bool unkept;       /* it became too long for that */
	bool sealed;       /* nothing is added to what is kept any more */
	bool ended;        /* out holds the end, too, from end_at on: told when it is durable */
	size_t saved;      /* bytes of out that are in the journal */
	size_t body_at;    /* where in out the answer begins, behind its head */
	size_t end_at;
};

/* For a stream of an api; NULL without memory.  relay_free(NULL) is nothing. */
struct relay *relay_new(bool whole, bool keep) __attribute__((warn_unused_result));
void relay_free(struct relay *);
/* A provider is asked anew: what the last one said is forgotten. */
void relay_forget(struct relay *);
/* No more will come, and what is not paid will not be: only what is out stays. */
void relay_drop(struct relay *);

/* An event that is text alone, and any other; they are metered by relay_run. */
void relay_text(struct stream *, struct span text, const struct decoder_event *);
void relay_delta(struct stream *, const struct delta *, const struct decoder_event *);
/*
 * Meter what waits and let it out.  False: go no further; either a record is on its way to disk,
 * or the stream is closed at the last token that its account can pay.
 */
bool relay_run(struct stream *);
/* Does an event wait for the meter? */
bool relay_waits(const struct relay *);
bool relay_failed(const struct relay *); /* out of memory */

#endif
