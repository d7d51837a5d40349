#ifndef DAEMON_SANDBOX_PRIVATE_H
#define DAEMON_SANDBOX_PRIVATE_H

/*
 * The sandbox's two lists.  sandbox_calls.c knows libseccomp, sandbox_files.c knows which files
 * there are.
 */
#include "daemon/sandbox.h"

/* Is there seccomp, in this build and in this kernel? */
bool sandbox_calls_there(void);
/* Names of system calls, for reports.  Master, once. */
void sandbox_calls_name(void);
/*
 * From now on only these, for all threads.  files: Landlock watches over what is opened; without
 * it the list itself allows no writing.  log_only: SANDBOX_LOG.  -1 with errno.
 */
int sandbox_calls_enter(enum sandbox_role, bool files, bool log_only);

/* From now on only these files; -1 with errno. */
int sandbox_files_enter(const struct config *, enum sandbox_role);

#endif
