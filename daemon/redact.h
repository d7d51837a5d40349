#ifndef DAEMON_REDACT_H
#define DAEMON_REDACT_H

/* Taking secrets out of a provider's words before a client or a log sees them.  Pure. */
#include <stddef.h>

#include "daemon/buf.h"

/*
 * Copy a message into `to` (size bytes, NUL-terminated, never half a character), with '*' for each
 * of the n keys, for words that look like a key or the rest of one ("sk-…", "prov***6789"), and
 * for what follows "Bearer" or "Basic".
 */
void redact(char *to, size_t size, struct span message, char *const *keys, int n);

#endif
