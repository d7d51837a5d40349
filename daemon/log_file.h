#ifndef DAEMON_LOG_FILE_H
#define DAEMON_LOG_FILE_H

/*
 * The log in a file, in the place of stderr.  All processes write to it, each line whole.
 */
#include <sys/types.h>

/*
 * Master, before the first fork: open it, or make it for this owner with mode 0640, and turn
 * stderr to it.  `path` must last.  -1 after a log line.
 */
int log_file_open(const char *path, uid_t, gid_t) __attribute__((warn_unused_result));
/*
 * Master: what stands under its name now, after somebody renamed it.  The other processes follow
 * with their next line, or at their next log_tick().  Nothing without log_file_open.
 */
void log_file_reopen(void);

#endif
