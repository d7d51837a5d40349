#ifndef DAEMON_TITLE_H
#define DAEMON_TITLE_H

/*
 * A process's title, as ps -o args shows it.  Master before the forks, then each child.
 */

/* Take over the memory that argv and the environment stand in.  Before anything keeps pointers
 * into either; argv itself stays readable. */
void title_init(int argc, char **argv);
/* "tolld: master" */
void title_set(const char *title);

#endif
