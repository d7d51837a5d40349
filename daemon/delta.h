#ifndef DAEMON_DELTA_H
#define DAEMON_DELTA_H

/* What one event of a provider's stream says, whatever its dialect. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "daemon/buf.h"
#include "shm/journal_record.h"

struct usage {
	bool present;
	int64_t prompt;     /* all input, cached included */
	int64_t cached;     /* of it, what came from the provider's cache */
	int64_t completion; /* all output, reasoning included */
	int64_t reasoning;
	int64_t cache_write; /* of prompt, what was written to the cache; none of it is cached */
};

/*
 * A call of a tool, or a piece of one.  A call begins with its name; what follows under the same
 * index (of its choice) are pieces of its arguments.  Arguments are JSON only when all are there.
 */
#define DELTA_CALL_WHOLE (-1) /* an index: this one is complete, and is its own */
#define DELTA_CALLS_MAX 64    /* in one event */

struct delta_call {
	int64_t index;
	struct span id, name, arguments; /* "" where this event does not say it */
};

enum delta_kind {
	DELTA_EMPTY,   /* nothing to show: role, empty choices, usage: null, a ping */
	DELTA_PART,    /* text, reasoning, tool call, finish reason or usage: see the fields */
	DELTA_DONE,    /* the end mark; the fields hold what came with it */
	DELTA_ERROR,   /* the provider's error in mid-stream; message */
	DELTA_INVALID, /* not the JSON that it should be */
};

/*
 * Spans are decoded, valid UTF-8, in the decoder's scratch buffer, "" where absent.  Text belongs
 * to the choice of index 0 unless said otherwise.  With DELTA_ERROR the other fields hold what
 * came with it in the same event.
 */
struct delta {
	enum delta_kind kind;
	struct span text;           /* content */
	struct span refusal;        /* shown as text */
	struct span reasoning;      /* counted, not shown by the typed dialect */
	struct span tool_arguments; /* names and arguments of calls, in their order; counted */
	struct span other;          /* all that other choices (n > 1) said; counted, not shown */
	struct span message;        /* DELTA_ERROR: what the provider said */
	uint16_t low, high; /* half of a surrogate pair that the text begins or ends with, and
				  which stands in it as U+FFFD; 0: none */
	uint8_t finish;     /* enum journal_outcome; OUTCOME_NONE: not yet */
	bool utf8_repaired; /* the event had invalid UTF-8; it became U+FFFD */
	bool usage_bad;     /* a usage came whose numbers cannot be: it is not present */
	bool no_memory;     /* DELTA_INVALID for want of memory, not the provider's fault */
	bool calls_missing; /* there were more calls than `call` holds; all were counted */
	struct usage usage;
	unsigned calls;
	struct delta_call call[DELTA_CALLS_MAX]; /* last: only what `calls` counts is set */
};

/* Everything but the calls themselves, which are too long to clear for every event. */
static inline void
delta_clear(struct delta *d)
{
	memset(d, 0, offsetof(struct delta, call));
}

#endif
