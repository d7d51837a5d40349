#ifndef DAEMON_NOTIFY_H
#define DAEMON_NOTIFY_H

#include <stdint.h>

/* Tell the service manager (systemd's protocol): "READY=1", "STOPPING=1".  Nothing happens where
 * $NOTIFY_SOCKET is not set.  Master. */
void notify(const char *state);
/*
 * How often the service manager wants to hear "WATCHDOG=1", in microseconds: half of what it
 * allows; 0: never.
 */
uint64_t notify_watchdog_us(void);

#endif
