#ifndef DAEMON_NOTIFY_H
#define DAEMON_NOTIFY_H

/* Tell the service manager (systemd's protocol): "READY=1", "STOPPING=1".  Nothing happens where
 * $NOTIFY_SOCKET is not set.  Master. */
void notify(const char *state);

#endif
