#ifndef TESTS_STORM_DAEMON_H
#define TESTS_STORM_DAEMON_H

#include <stdbool.h>

/* Before the first one.  `dir` has everything, and stays the caller's. */
void daemon_init(char *dir);
/* The master's life; it ends at rest with 0, with 1 after storm_fail, or by a kill from outside. */
int daemon_run(bool keep_region);
/* All are dead: the memory is lost as well. */
void daemon_reboot(void);

#endif
