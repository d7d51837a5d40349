#ifndef DAEMON_DIALECT_H
#define DAEMON_DIALECT_H

/*
 * The dialects that providers speak: one table of how each is asked and how it answers.  A new
 * one is a file with a decoder, a file with a request writer, and a row here.  Pure; any process.
 */
#include <stdbool.h>
#include <stdint.h>

#include "daemon/anthropic.h"
#include "daemon/chat_request.h"
#include "daemon/config.h"
#include "daemon/delta.h"

#define DIALECTS 3 /* those that are spoken: "auto" is none of its own */

enum framing { FRAMING_SSE, FRAMING_NDJSON };

/* What a decoder must remember of a stream's earlier events; zeroed at its start. */
struct dialect_state {
	struct anthropic anthropic;
};

struct dialect {
	const char *name;
	/* How it is asked: POST base_url + path, with these header lines. */
	const char *path;
	const char *auth; /* in front of the key, which ends the line; none without a key */
	const char *accept;
	const char *headers; /* more of them, each with its CR LF */
	int (*write)(
	    const struct config *, const struct chat_request *, struct buf *, struct chat_fault *);
	void (*limit)(struct buf *, bool max_completion_tokens, uint32_t max_tokens);
	/* How it answers. */
	enum framing framing;
	void (*decode)(
	    struct dialect_state *, struct span data, struct buf *scratch, struct delta *);
};

/* How a provider of this dialect is asked; "auto" as OpenAI is. */
const struct dialect *dialect_of(enum config_dialect);
/* Its number, below DIALECTS. */
unsigned dialect_index(enum config_dialect);

/*
 * Write a request in each dialect that its model's providers speak, without its limit.  The first
 * provider must be able to take it, else -1 with *fault and nothing in the bufs; for one that is
 * there to stand in for it and cannot, its buf is left empty.
 */
int dialect_write_all(const struct config *, const struct chat_request *,
    struct buf request[static DIALECTS], struct chat_fault *) __attribute__((warn_unused_result));

/* End those that were written with the most tokens that may come. */
void dialect_limit_all(
    struct buf request[static DIALECTS], bool max_completion_tokens, uint32_t max_tokens);

/* Is a body of this media type (lower case, without parameters; "" if none was said) its stream? */
bool dialect_streams(const struct dialect *, const char *media_type);

#endif
