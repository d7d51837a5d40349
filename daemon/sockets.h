#ifndef DAEMON_SOCKETS_H
#define DAEMON_SOCKETS_H

/*
 * The descriptors of struct heritage: listeners, admin sockets, eventfds, inboxes.  The master
 * makes them before the first fork; each child closes what is not its own.
 */
#include "daemon/dirs.h"
#include "daemon/heritage.h"
#include "daemon/inherited.h"

/*
 * Make all of them, for `workers` worker slots (a listening SO_REUSEPORT socket that nobody
 * reads swallows connections).  Listeners that were passed are taken from the
 * inherited.  -1 after a log line; sockets_close is to be called even then.
 * Calls for h->config and h->region.
 */
int sockets_open(struct heritage *, struct inherited *, uint32_t workers, const struct owner *)
    __attribute__((warn_unused_result));
/* All descriptors are -1; nothing to close. */
void sockets_init(struct heritage *);
/* The unix sockets that are to be unlinked at the end, by number; NULL: no more. */
const char *sockets_bound(size_t);
/* After an exec: one more of them. */
void sockets_adopt(const char *path);
/* Master: what waits in an inbox that nobody reads, for the worker in another slot. */
void sockets_forward(const struct heritage *, uint32_t from, uint32_t to);
/* Master, when a drain begins: clients' listeners live on in their workers only. */
void sockets_stop_listening(struct heritage *);
/* Master, at the end: close all and unlink the unix sockets. */
void sockets_close(struct heritage *);
/* Child: close all that process slot `proc` has no use for. */
void sockets_keep(struct heritage *, uint32_t proc);

#endif
