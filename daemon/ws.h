#ifndef DAEMON_WS_H
#define DAEMON_WS_H

/*
 * A WebSocket on a connection (RFC 6455): whole text messages in and out, pings, the closing
 * handshake.  libwslay does the framing; this is the only file that knows it.  Worker.
 *
 * What a peer does wrong ends the connection with the code that says what: 1002 a frame that is
 * none, 1003 a message that is no text, 1007 text that is not UTF-8 (at the first byte that can't
 * be), 1009 a message that is too long (at the header that says so).
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/buf.h"
#include "daemon/conn.h"

struct ws;

enum ws_code {
	WS_NORMAL = 1000,
	WS_GOING_AWAY = 1001,
	WS_PROTOCOL = 1002,
	WS_NO_TEXT = 1003,
	WS_NOT_UTF8 = 1007,
	WS_POLICY = 1008,
	WS_TOO_LONG = 1009,
	WS_INTERNAL = 1011,
};

struct ws_owner {
	/* A whole message, NUL-terminated behind its length; valid during the call. */
	void (*text)(void *arg, struct span);
	/* Nothing is heard or said any more, but for a close; once.  The ws stays. */
	void (*closing)(void *arg);
};

/* For a connection that was upgraded, or will be next.  NULL without memory. */
struct ws *ws_new(struct conn *, size_t message_max, const struct ws_owner *, void *arg);
/* When its conn is gone. */
void ws_free(struct ws *);

/* struct conn_protocol's input. */
size_t ws_input(struct ws *, const char *, size_t);
/* Send a message, or queue it; nothing once it closes. */
void ws_send(struct ws *, const char *, size_t);
void ws_ping(struct ws *);
/* Close: say the code and a reason of at most 123 bytes, and wait for the peer's.  Again: nothing. */
void ws_close(struct ws *, enum ws_code, const char *reason);
bool ws_is_closing(const struct ws *);
/* When bytes came last, in microseconds of CLOCK_MONOTONIC. */
uint64_t ws_heard_us(const struct ws *);
/* A few times a second: ends what the peer does not close for so long, or what memory failed. */
void ws_tick(struct ws *, uint64_t now_us, uint64_t patience_us);

#endif
