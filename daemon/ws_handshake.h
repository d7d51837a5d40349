#ifndef DAEMON_WS_HANDSHAKE_H
#define DAEMON_WS_HANDSHAKE_H

/*
 * The opening handshake of a WebSocket, by RFC 6455, 4.2, and no more lenient than it.  Pure.
 */
#include <stdbool.h>

#include "daemon/config.h"
#include "daemon/http.h"

#define WS_ACCEPT_LEN 28
#define WS_SUBPROTOCOL "tolld"

struct ws_handshake {
	char accept[WS_ACCEPT_LEN + 1]; /* Sec-WebSocket-Accept */
	bool subprotocol;               /* WS_SUBPROTOCOL was offered: it is to be answered */
};

struct ws_fault {
	int status; /* 400; 403: the origin; 405; 426: it asks for something else than we speak */
	const char *code, *param, *message; /* param: a header's name, or NULL */
};

/* Is it a handshake that can be answered with 101?  False: *fault. */
bool ws_handshake_check(const struct http_request *, const struct config *, struct ws_handshake *,
    struct ws_fault *fault);

#endif
