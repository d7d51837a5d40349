#ifndef DAEMON_VERSION_H
#define DAEMON_VERSION_H

/* The program's version.  In one place, since in an upgrade two programs are at work. */
extern const char tolld_version[];

#endif
