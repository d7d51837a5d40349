#ifndef DAEMON_LOG_JOURNAL_H
#define DAEMON_LOG_JOURNAL_H

/*
 * The log to systemd's journal with fields, where stderr is the journal's anyway:
 *   MESSAGE=stream ended account=alice …   PRIORITY=6   SYSLOG_IDENTIFIER=tolld
 *   TOLLD_PROC=worker-1   TOLLD_MODULE=settle   TOLLD_MSG=stream ended   TOLLD_ACCOUNT=alice …
 */
#include <stdbool.h>

#define LOG_JOURNAL_SOCKET "/run/systemd/journal/socket"

/* Is stderr what $JOURNAL_STREAM says?  Any process. */
bool log_journal_there(void);
/*
 * Master, before the first fork: from now on lines go to this socket, and to stderr, behind a
 * priority, when that does not take them.  -1 with errno; then all stays as it is.
 */
int log_journal_open(const char *socket_path) __attribute__((warn_unused_result));

#endif
