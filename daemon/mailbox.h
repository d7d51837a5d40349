#ifndef DAEMON_MAILBOX_H
#define DAEMON_MAILBOX_H

/*
 * What an operator asks for: ending one of this worker's streams.  Worker.
 */
#include "daemon/worker.h"

/* After every wake-up, and once at the start: do what is asked for. */
void mailbox_poll(struct worker *);

#endif
