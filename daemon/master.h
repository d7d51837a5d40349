#ifndef DAEMON_MASTER_H
#define DAEMON_MASTER_H

#include "daemon/config.h"

/*
 * Be the master: make what is shared, start the other processes, keep them running, and end all
 * in order when told so.  Takes the config over.  The exit status: 0 after a clean end, 1 if it
 * could not start or had to leave something to the next start's recovery.  `record`: what the
 * config was made from (config_record.h).
 */
int master_run(struct config *, int record);
/*
 * Be the master in the place of the program before, whose process this is (daemon/upgrade.h): it
 * has left this descriptor.  `path`: the config file's, for messages.
 */
int master_resume(const char *path, int legacy_fd);

#endif
