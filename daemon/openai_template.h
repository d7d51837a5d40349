#ifndef DAEMON_OPENAI_TEMPLATE_H
#define DAEMON_OPENAI_TEMPLATE_H

/*
 * The usual chunk of a stream differs from the one before it in a single place: the text of
 * choices[0].delta.content.  Once one such chunk has been decoded in full, what stands before
 * and after that string is remembered; a chunk with the same bytes around another valid JSON
 * string means the same but for the text, so nothing else of it has to be parsed.  Pure.
 */
#include <stdbool.h>
#include <stddef.h>

#include "daemon/buf.h"
#include "daemon/openai.h"

struct openai_template {
	struct buf around; /* what comes before the string's text, then what comes after it */
	size_t before;     /* bytes of `around` before the text; 0: nothing learned */
	unsigned misses;   /* in a row; a provider whose chunks never match is not asked again */
};

void openai_template_free(struct openai_template *);

/*
 * The text of a chunk that matches, decoded and valid UTF-8: a part of data, or in scratch
 * (which is reset).  False: decode it in full.
 */
bool openai_template_match(struct openai_template *, const char *data, size_t len,
    struct buf *scratch, struct span *text);

/* A chunk was decoded in full, to this: remember it if it is of the usual kind. */
void openai_template_learn(struct openai_template *, const char *data, size_t len,
    const struct delta *);

#endif
