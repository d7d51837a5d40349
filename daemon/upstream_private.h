#ifndef DAEMON_UPSTREAM_PRIVATE_H
#define DAEMON_UPSTREAM_PRIVATE_H

/*
 * What the files of upstream.h share: upstream.c (libcurl on the event loop), upstream_target.c
 * (whom to call), upstream_link.c (connections), upstream_call.c (calls).  Nobody else includes
 * it.  Worker.
 */
#include <curl/curl.h>
#include <event2/event_struct.h>

#include "daemon/gather.h"
#include "daemon/response.h"
#include "daemon/upstream.h"

#define READ_SIZE 65536
#define WRITE_SIZE 16384 /* what fits a TLS record */

enum link_state {
	LINK_CONNECTING, /* libcurl watches its socket; ends with its word */
	LINK_BUSY,       /* a call is on it */
	LINK_IDLE,       /* in its provider's list; ends by a call, the peer's close, or its age */
};

struct link {
	struct upstream *u;
	CURL *easy;    /* NULL: it is connected, and plain */
	CURLSH *alone; /* of TLS: where libcurl keeps this connection and no other */
	struct target *target;
	enum link_state state;
	int fd; /* once it is connected; ours if it is plain, else libcurl's */
	struct event rd, wr;
	bool closing; /* the end is there, perhaps behind bytes that were not read yet */
	struct gathered gathered; /* instead of rd, once the call says so */
	struct call *call;
	struct link *next; /* idle ones */
	uint64_t idle_us;
	char error[CURL_ERROR_SIZE];
};

struct target { /* a base URL of a provider with one of its keys */
	struct pool *pool;
	char *url; /* for the connection */
	char *start;     /* of every request: the method and the URL's own path */
	char *head;      /* what follows the path, without Content-Length; secret.h */
	size_t head_len;
	struct link *idle;
	int idle_count;
	bool tls;
	size_t calls; /* under way */
	struct breaker breaker;
};

struct pool { /* a provider's targets, for as long as it is called in the same way */
	unsigned refs; /* views and calls */
	enum config_dialect dialect;
	char *ca; /* whom to trust, PEM; or NULL */
	size_t ca_len;
	struct target *target;
	int targets;
	int turn;     /* where the next search begins */
	bool retired; /* the present view does not have it: nothing is kept for later */
};

struct upstream_view {
	unsigned refs; /* streams, and the upstream itself for the present one */
	struct upstream *u;
	struct config *config;
	struct pool *pool[CONFIG_PROVIDERS_MAX]; /* NULL: no such provider */
};

struct upstream {
	struct event_base *base;
	struct upstream_view *view; /* the present one */
	CURLM *multi;
	struct event *timer;
	struct gather *gather;
	size_t calls;
	char *out; /* WRITE_SIZE bytes of requests on their way out: with keys, so secret.h */
	char read[READ_SIZE];
};

struct call {
	struct upstream *u;
	struct link *link;
	struct target *target;
	const char *path;       /* below the target's URL; a literal */
	struct buf head;        /* what follows the target's; freed when the answer begins */
	const struct buf *body; /* the owner's; NULL when the answer begins */
	size_t sent;
	struct response response;
	const struct call_ops *ops;
	void *arg;
	bool paused, reused, heard;
	bool gathered;
	bool cut_short;       /* the answer came before the request was out */
	bool busy, cancelled; /* cancelled while one of its callbacks runs: freed after that */
};

/* upstream_target.c */

/* Each URL of a provider with each key; NULL without memory.  Its targets point to it. */
struct pool *pool_new(const struct config_provider *);
/* One user fewer; the last one frees it with its connections. */
void pool_free(struct pool *);
/* Nobody new will call it: let go of its connections that wait. */
void pool_retire(struct pool *);

/* upstream_link.c.  A new one is CONNECTING; its call hears of the end of that. */
struct link *link_new(struct upstream *, struct target *);
/* One that waited, or NULL; then it is BUSY. */
struct link *link_reuse(struct target *);
/* The answer is whole and the connection can take another request. */
void link_rest(struct link *);
/* The peer said something to a connection that waits, or closed it. */
void link_discard(struct link *);
void link_free(struct link *);
/* Be told of what there is to read, with others' if the call says so; or no more. */
void link_watch(struct link *);
void link_unwatch(struct link *);
/*
 * Read or write what is there to be read or taken.  Plain connections go straight to the socket:
 * libcurl looks for a handle's connection among all of them, at every call, and with a thousand
 * open that is 6 us.  With TLS there is no way around it.  CURLE_AGAIN: nothing now; *n 0: closed.
 */
CURLcode link_read(struct link *, char *, size_t, size_t *n);
CURLcode link_write(struct link *, const char *, size_t, size_t *n);
/* libcurl has connected it, or failed to. */
void link_connected(struct link *, CURLcode);

/* upstream_call.c: the link's call can send, or will never. */
void call_connected(struct call *);
void call_failed(struct call *, enum call_result, const char *why);

#endif
