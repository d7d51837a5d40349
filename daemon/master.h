#ifndef DAEMON_MASTER_H
#define DAEMON_MASTER_H

#include "daemon/config.h"

/*
 * Be the master: make what is shared, start the other processes, keep them running, and end all
 * in order when told so.  Takes the config over.  The exit status: 0 after a clean end, 1 if it
 * could not start or had to leave something to the next start's recovery.
 */
int master_run(struct config *);

#endif
