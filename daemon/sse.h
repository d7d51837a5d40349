#ifndef DAEMON_SSE_H
#define DAEMON_SSE_H

/*
 * Server-Sent Events as WHATWG's standard defines their parsing: LF, CR, CRLF, BOM, comments,
 * several data lines, event, id; retry is skipped.  Pure; fed any number of bytes at a time: how
 * they are cut never shows.  Bytes are passed on as they came: invalid UTF-8 is the caller's.
 */
#include <stdbool.h>
#include <stddef.h>

#include "daemon/buf.h"

struct sse_event {
	struct span event; /* "" when none was given */
	struct span data;
	struct span id; /* last id of the stream */
};

/* Return false to stop parsing (what is left of the input is dropped). */
typedef bool sse_event_fn(void *arg, const struct sse_event *);

enum sse_result { SSE_OK, SSE_STOPPED, SSE_OVERSIZE, SSE_NOMEM };

struct sse {
	struct buf line;  /* an unfinished line */
	struct buf data;  /* data of the event under way */
	struct buf event, id;
	size_t line_max;  /* longer lines or events end in SSE_OVERSIZE */
	bool bom_checked, skip_lf, has_data;
	enum sse_result result; /* once it is not SSE_OK, nothing is parsed any more */
};

void sse_init(struct sse *, size_t line_max);
void sse_free(struct sse *);
/* The common case, a whole event within one input, is passed on without a copy. */
enum sse_result sse_feed(struct sse *, const char *bytes, size_t len, sse_event_fn *, void *arg);

#endif
