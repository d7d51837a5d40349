#ifndef DAEMON_CRASH_H
#define DAEMON_CRASH_H

/*
 * What a process says before a signal ends it: SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, and
 * SIGSYS, which is what the sandbox stops a system call with.  Two lines in the log's format:
 *
 *   time=… level=error proc=worker-1 msg=crash signal=SIGSEGV code=1 address=0x0
 *    pc=tolld+0x1f2c0 pid=… thread=… version=0.1.0 build_id=…
 *   time=… level=error proc=worker-1 msg="crash trace" pid=… build_id=… trace="tolld+0x1f2c0 …"
 *
 * etc/tolld-trace turns the second into functions and lines.  Then the signal's default action
 * ends the process, so its parent sees the true status.  Places are told as module+offset, and
 * only those that lie in a module: nothing of memory's contents gets out.
 */

/*
 * Install the handlers.  Master, before the first fork; children inherit them.  Nothing in a build
 * under a sanitizer, whose own report says more.
 */
void crash_init(void);
/* Learn anew which modules there are, after one was loaded.  Any process, after crash_init. */
void crash_modules(void);
/*
 * The name of a system call, for SIGSYS's report.  The text must last.  Before crash_init's
 * handlers are needed; numbers beyond the table are left out.
 */
void crash_name_syscall(unsigned number, const char *name);

#endif
