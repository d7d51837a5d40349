#ifndef DAEMON_CONN_H
#define DAEMON_CONN_H

/*
 * Client connections of one worker, on plain libevent events: accept, read a request, hand it
 * to a handler, send the reply or the stream, keep alive.
 *
 * A handler is called once per request, when the body is complete.  It either replies at once,
 * or says conn_later and replies from a later event, or starts a stream.  From conn_later or
 * conn_stream_start until the end of the reply the conn stays valid, with one exception: when
 * the client is gone (closed, reset, stalled) ops->gone is called, from the event loop only,
 * never from inside a conn_ call; after it the conn is freed.  Writes to a connection that has
 * failed do nothing until then.
 */
#include <event2/event.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/auth.h"
#include "daemon/buf.h"
#include "daemon/heritage.h"
#include "daemon/http.h"

struct conn;
struct server;

struct conn_ops {
	/* The client is gone; forget the conn. */
	void (*gone)(void *arg, struct conn *);
	/* All that was queued is sent (after conn_queued was above zero).  May be NULL. */
	void (*writable)(void *arg, struct conn *);
};

/* What would have been an error's reply, of a request inside of another protocol. */
struct conn_refusal {
	int status;
	const char *type, *code, *param, *message; /* param may be NULL */
	struct span members;                       /* more of them, each with its comma before it */
	unsigned long retry_after;                 /* seconds; 0: not known */
};

/*
 * What runs on a connection that was upgraded (RFC 9110, 7.8).  Inside of it one request at a time
 * may take the road of any other: conn_caller, conn_later and conn_error work as ever, but an error
 * comes to `refused`.
 */
struct conn_protocol {
	/*
	 * Bytes came; how many were taken.  Fewer than all only while something is queued: the
	 * rest comes again when that was sent, and nothing is read meanwhile.
	 */
	size_t (*input)(void *arg, struct conn *, const char *, size_t);
	/* The request inside was refused, and is over. */
	void (*refused)(void *arg, struct conn *, const struct conn_refusal *);
	/* The server drains. */
	void (*drain)(void *arg, struct conn *);
	/* The last call, from the loop: the conn is freed after it.  Not after server_free. */
	void (*gone)(void *arg, struct conn *);
};

/* body is NUL-terminated beyond len.  Request and body are valid only during the call. */
typedef void conn_handler(struct conn *, const struct http_request *, struct span body);

#define ROUTE_OPEN 0u /* needs no key */
#define ROUTE_ANY_KEY KEY_SCOPES
/* Among a route's methods: its bodies are a few words, whatever the config's max_body is. */
#define ROUTE_SMALL_BODY (1u << 31)
#define ROUTE_SMALL_BODY_MAX 4096

/* A path may stand in several routes, with different methods. */
struct route {
	const char *path;      /* exact; one that ends in '*' takes all that begin like it */
	unsigned methods;      /* enum http_method, or-ed, and ROUTE_SMALL_BODY; HEAD is served
	                          where GET is */
	uint32_t scope;        /* ROUTE_OPEN, ROUTE_ANY_KEY, or one KEY_SCOPE_... that is needed:
	                          then conn_caller is set when the handler runs */
	int id;                /* enum route_id, for the request counter */
	conn_handler *handler;
};

/*
 * Serve the worker's listeners with these routes (ended by path NULL).  `arg` is what
 * server_arg gives to handlers.
 */
struct server *server_new(struct event_base *, struct heritage *, uint32_t proc,
    const struct route *, void *arg) __attribute__((warn_unused_result));
void *server_arg(const struct server *);
/*
 * Who is called in place of a route's handler when the caller has no account yet; it answers, or
 * calls conn_seen when there is one.
 */
void server_on_unseen(struct server *, conn_handler *);
/* The caller's account is this: call the handler, now or from a later event. */
void conn_seen(struct conn *, struct account *, const struct http_request *, struct span body);
/* Stop accepting; close idle connections; the rest as they finish ("Connection: close"). */
void server_drain(struct server *);
/*
 * Accept no more, for others do, on the same listeners.  Connections go on; each is closed after
 * its next reply, which says so, or when it was idle for as long as any may be.
 */
void server_leave(struct server *);
/* Another config is in force; the one before it may be freed. */
void server_renew(struct server *, const struct config *);
/* Open connections. */
size_t server_conns(const struct server *);
/* Once a second or so: header, body, keep-alive and write time-outs. */
void server_tick(struct server *);
/* Closes what is open; no ops->gone is called any more. */
void server_free(struct server *);

struct server *conn_server(const struct conn *);
void *conn_arg(const struct conn *); /* server_arg of its server */

/* Who calls: set when the route has a scope; in a handler it has an account. */
const struct caller *conn_caller(const struct conn *);

/* The x-request-id of the present request: the client's, or made.  Never NULL. */
const char *conn_request_id(const struct conn *);

/* Add a header to the coming reply ("name: value" is checked for control bytes). */
void conn_header(struct conn *, const char *name, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Reply and go on with the next request.  HEAD gets the headers only. */
void conn_reply(struct conn *, int status, const char *content_type, const char *body, size_t len);
void conn_reply_buf(struct conn *, int status, const char *content_type, const struct buf *);
/* {"error":{...}} in OpenAI's shape, on ROUTE_ANTHROPIC in Anthropic's; param may be NULL. */
void conn_error(struct conn *, int status, const char *type, const char *code, const char *param,
    const char *fmt, ...) __attribute__((format(printf, 6, 7)));
/* The 404 for a model that there isn't, or that the caller may not use (auth_model). */
void route_refuse_model(struct conn *);
/* The 401 for a key that is not good (any more). */
void route_refuse_key(struct conn *, const char *message);

/* The same with more members of the error object, each with its comma before it. */
void conn_error_with(struct conn *, int status, const char *type, const char *code,
    const char *param, struct span members, const char *message);

/* The reply comes later. */
void conn_later(struct conn *, const struct conn_ops *, void *arg);

/*
 * Begin a body of unknown length: chunked, or until close for HTTP/1.0.  Nothing is sent before
 * the first write, so that head and first event leave together; conn_stream_flush sends it.
 */
void conn_stream_start(struct conn *, int status, const char *content_type,
    const struct conn_ops *, void *arg);
/* Send now what the socket takes, as one chunk; queue the rest. */
void conn_stream_write(struct conn *, const char *, size_t);
void conn_stream_flush(struct conn *);
/* conn_stream_write and conn_stream_end(false) in one. */
void conn_stream_finish(struct conn *, const char *, size_t);
/* The last chunk; then the connection goes on or closes.  `abort`: reset instead, so that the
 * client can't take it for a whole body. */
void conn_stream_end(struct conn *, bool abort);
/* Bytes that wait for the socket. */
size_t conn_queued(const struct conn *);

/*
 * From a handler, or later: reply 101 with the headers so far, "Upgrade: name", and let `protocol` have what
 * comes.  What was read beyond the request comes from the loop.
 */
void conn_upgrade(
    struct conn *, const char *name, const struct conn_protocol *protocol, void *arg);
void *conn_protocol_arg(const struct conn *);
/* Send now what the socket takes; queue the rest. */
void conn_write(struct conn *, const char *, size_t);
/* A request inside begins, of this caller. */
void conn_request(struct conn *, const struct caller *);
/* Its owner is done with it; the conn's death is not told to it any more. */
void conn_request_over(struct conn *);
/* Nobody wants its answer any more: its owner is told that the client is gone. */
void conn_request_abandon(struct conn *);
/*
 * The protocol has said its last word: what is queued is sent, then the connection is closed.
 * `unread`: the peer may still be sending.
 */
void conn_upgrade_end(struct conn *, bool unread);

/* Inside a handler: the bytes read beyond the current request, and the descriptor. */
struct span conn_ahead(const struct conn *);
int conn_fd(const struct conn *);
/*
 * Take the connection away from this worker (to hand it to another): its descriptor, and the
 * bytes read beyond the current request added to `input` (NULL: not wanted).  The conn is freed;
 * only from inside a handler.  -1 without memory for `input`: then it is still ours, reply as
 * ever.
 */
int conn_detach(struct conn *, struct buf *input);
/* Serve a connection that another worker accepted; `input` is read before the socket.  Its
 * request is handled from the loop, not from inside this call. */
void conn_adopt(struct server *, int fd, const char *input, size_t len);
/* Did this connection come by conn_adopt, with its current request?  (Don't pass it on again.) */
bool conn_adopted(const struct conn *);

#endif
