#ifndef DAEMON_CONN_STATE_H
#define DAEMON_CONN_STATE_H

/*
 * What listen.c, conn.c, conn_read.c, upgrade.c, route.c and reply.c share of a client connection.
 * Only these may include it; the rest of the worker sees daemon/conn.h.
 */
#include <event2/event.h>
#include <event2/event_struct.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/uio.h>

#include "daemon/conn.h"

#define CONN_MAGIC 0x636f6e6eu
#define CONN_RECV_MAX 65536
#define CONN_AHEAD_MAX 16384 /* read beyond the request that is being answered */
#define CONN_ACCEPT_MAX 32   /* at a time */
#define CONN_KEEPALIVE_MS 60000
#define CONN_LINGER_MS 5000
#define CONN_REQUEST_ID_MAX 64
/* Parts of requests that a worker holds until the rest comes; and what one of any size may have. */
#define CONN_HELD_MAX (256u << 20)
#define CONN_HELD_SMALL (64u << 10)
/* Idle connections that are closed at a time when there are no descriptors left. */
#define CONN_ROOM 32

enum conn_state {
	CONN_IDLE,    /* no byte of a request yet; ends with one, or by time-out */
	CONN_HEAD,    /* part of a head has come; ends with the rest of it */
	CONN_BODY,    /* the head is kept in c->head; ends with the body's last byte */
	CONN_HANDLER, /* a handler (or our own refusal) runs; ends before it returns */
	CONN_LATER,   /* the owner will reply; ends by that */
	CONN_STREAM,  /* the owner writes; ends by conn_stream_end */
	CONN_UPGRADED, /* c->protocol reads and writes; ends by conn_upgrade_end */
	CONN_FLUSH,   /* the reply is complete, part of it queued; ends when that is sent */
	CONN_LINGER,  /* we have said the last word and drop what comes until the peer closes */
	CONN_DEAD,    /* no more events; on the deferred list, from where it is freed */
	CONN_STATES
};

/* What the head alone decides. */
enum verdict {
	VERDICT_OK,
	VERDICT_NOT_FOUND,
	VERDICT_METHOD,
	VERDICT_OPTIONS,
	VERDICT_KEY_MISSING,
	VERDICT_KEY_AMBIGUOUS,
	VERDICT_KEY_UNKNOWN,
	VERDICT_KEY_REVOKED,
	VERDICT_KEY_EXPIRED,
	VERDICT_LIMITED,
	VERDICT_TOKEN,
	VERDICT_TOKEN_ACCOUNT,
	VERDICT_SCOPE,
	VERDICT_USER,
	VERDICT_EXPECT,
	VERDICT_TOO_LARGE,
};

struct conn {
	uint32_t magic;
	int fd;
	struct server *server;
	TAILQ_ENTRY(conn) all, deferred;
	struct event rd, wr;
	uint64_t deadline_ms; /* CLOCK_MONOTONIC; 0: none.  What it means depends on the state */

	uint8_t state;   /* enum conn_state */
	uint8_t verdict; /* enum verdict */
	uint8_t minor;
	int8_t cors;      /* index in config->origins; CORS_ANY; CORS_NONE */
	bool fresh : 1;   /* no request was finished yet: the header time-out runs from accept */
	bool running : 1; /* conn_run is on the stack and will look at what is left */
	bool is_deferred : 1;
	bool reading : 1; /* rd is added */
	bool writing : 1; /* wr is added: c->out waits for the socket */
	bool eof : 1;     /* the peer has closed its side, and we still owe it a reply */
	bool unread : 1;  /* part of the request was never read: linger on close */
	bool keep_alive : 1;
	bool is_head : 1; /* HEAD: no body in the reply */
	bool chunked_in : 1;
	bool chunked_out : 1;
	bool adopted : 1;

	size_t held;     /* of in, head and body, as far as server->held knows */
	struct buf in;   /* read but not parsed */
	size_t scanned;  /* http_parse_head's */
	struct buf head; /* CONN_BODY: the head, parsed again when the body is complete */
	struct buf body;
	uint64_t body_left;  /* Content-Length */
	size_t body_dropped; /* of a request that will be refused */
	struct http_chunked chunked;

	struct buf headers; /* conn_header's, until the reply's head is made */
	struct buf out;     /* from out_at on: a head before its first write, or what waits */
	size_t out_at;

	const struct route *route; /* NULL before one is found */
	struct caller caller;
	const struct span *ahead; /* conn_ahead; NULL but while the handler runs */
	const struct conn_ops *ops;
	void *arg;
	const struct conn_protocol *protocol; /* from conn_upgrade to the end */
	void *protocol_arg;
	char request_id[CONN_REQUEST_ID_MAX + 1];
};

#define CORS_NONE (-1)
#define CORS_ANY (-2)

struct listener {
	int fd;
	bool passed; /* heritage.h: listen_passed */
	struct event *ev;
	struct server *server;
};

TAILQ_HEAD(conn_list, conn);

struct server {
	struct event_base *base;
	struct heritage *heritage;
	const struct config *config;
	const struct route *routes;
	conn_handler *unseen;
	void *arg;
	struct listener listener[CONFIG_LISTEN_MAX];
	int listeners;
	struct event *resume; /* accept again after running out of descriptors */
	struct event *kick;   /* runs the deferred list */
	int spare_fd;         /* given up to tell one client that we are full */
	bool draining, leaving, cors_any;
	size_t count;
	size_t held; /* bytes of requests that are not whole */
	struct conn_list all, deferred;
	uint64_t id_seed, id_count;
	time_t date_at;
	char date[32];
	struct buf scratch; /* the head being made; empty between calls */
	struct buf error;   /* an error's body */
	char recv[CONN_RECV_MAX + 1];
};

/* conn.c */
struct conn *conn_new(struct server *, int fd);
/* The only way to change c->state. */
void conn_move(struct conn *, enum conn_state);
void conn_read_start(struct conn *);
void conn_read_stop(struct conn *);
/* No more events; gone and free follow from the loop.  Any state; again: nothing happens. */
void conn_close(struct conn *, const char *why);
/* Look at it again from the loop. */
void conn_defer(struct conn *);
void conn_deferred_cb(evutil_socket_t, short, void *server);
/* The reply is sent: next request, linger or close. */
void conn_flushed(struct conn *);
/* The deadline has passed. */
void conn_timeout(struct conn *);
void conn_free(struct conn *);
uint64_t conn_now_ms(void);

/* conn_read.c */
void conn_read_cb(evutil_socket_t, short, void *conn);
/* Serve what is in c->in. */
void conn_run_input(struct conn *);
/* Answer what never became a request, and close. */
void conn_refuse(struct conn *, const struct http_fault *);

/* reply.c */
/* Send iov[1..n), behind what c->out holds; iov[0] is its own. */
void conn_push(struct conn *, struct iovec *iov, int n);
/* The head of a reply up to what tells the body's length. */
void conn_head_begin(struct conn *, struct buf *, int status, const char *content_type);
void conn_write_cb(evutil_socket_t, short, void *conn);
void conn_send_continue(struct conn *);

/* upgrade.c */
/* CONN_UPGRADED: read the socket; look again at what was not taken. */
void conn_upgraded_read(struct conn *);
void conn_upgraded_again(struct conn *);
void conn_upgraded_refuse(struct conn *, struct conn_refusal *);

/* route.c */
enum verdict route_check(struct conn *, const struct http_request *);
/* Bytes of body that the route takes. */
uint32_t route_body_max(const struct conn *);
/* Reply to what route_check didn't let through. */
void route_refuse(struct conn *, const struct http_request *);
/* The CORS headers of an actual reply. */
void route_cors(const struct conn *, struct buf *head);

#endif
