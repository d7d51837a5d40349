#ifndef DAEMON_HISTORY_TEXT_H
#define DAEMON_HISTORY_TEXT_H

/*
 * What a user said, as it stands in the history: a JSON string, or one of the messages that a client
 * gave.  It was checked when it came, but is read as if it never had been.  Pure.
 */
#include <stdbool.h>

#include "daemon/buf.h"
#include "daemon/json.h"

#define HISTORY_TITLE_CHARS 80

struct history_said {
	const char *role;          /* a literal */
	struct json_value content; /* a string, parts, or null */
};

/* False: it is nothing of that kind.  It points into the JSON. */
bool history_said_read(struct span json, struct history_said *);
/* Its text as one JSON string, with the quotes. */
void history_said_write(const struct history_said *, struct buf *);
/* The first line of it that is not empty, as a JSON string of whole characters; cut if longer. */
void history_title_write(const struct history_said *, struct buf *);

#endif
