#ifndef DAEMON_NDJSON_H
#define DAEMON_NDJSON_H

/*
 * JSON documents a line each: LF or CRLF ends one, blank lines and a BOM at the start say nothing.
 * Pure; fed any number of bytes at a time: how they are cut never shows.
 */
#include <stdbool.h>
#include <stddef.h>

#include "daemon/buf.h"

/* Return false to stop parsing (what is left of the input is dropped). */
typedef bool ndjson_fn(void *arg, struct span line);

enum ndjson_result { NDJSON_OK, NDJSON_STOPPED, NDJSON_OVERSIZE, NDJSON_NOMEM };

struct ndjson {
	struct buf line; /* an unfinished line */
	size_t line_max; /* a longer line ends in NDJSON_OVERSIZE */
	bool bom_checked;
	enum ndjson_result result; /* once it is not NDJSON_OK, nothing is parsed any more */
};

void ndjson_init(struct ndjson *, size_t line_max);
void ndjson_free(struct ndjson *);
/* A line that lies within one input is passed on without a copy. */
enum ndjson_result ndjson_feed(
    struct ndjson *, const char *bytes, size_t len, ndjson_fn *, void *arg);
/* The input is over: a last line without its end is one too. */
enum ndjson_result ndjson_end(struct ndjson *, ndjson_fn *, void *arg);

#endif
