#ifndef DAEMON_WATCH_PRIVATE_H
#define DAEMON_WATCH_PRIVATE_H

/*
 * A watcher, for those who tell a stream in a way of their own: an answer in one piece
 * (daemon/chat_call.c), messages of a WebSocket (daemon/ws_answer.c).  Worker.
 */
#include "daemon/watch.h"

struct watcher {
	struct watcher *next;
	struct stream *stream;
	struct conn *conn;
	/* Pass on what is new, with watch_unlink at the end; NULL: framed in `format`. */
	void (*feed)(struct watcher *);
	enum emit_format format;
	size_t at;    /* bytes of the text it got; of an api's, of what is out */
	size_t piece; /* bytes of stream->pieces it got */
	size_t skip;  /* bytes of the next piece that it has already (it came back inside one) */
	uint64_t heard_us; /* when it was last sent something */
	bool begun;
	bool held; /* its reply waits for the first token or a failure: the status says it */
};

/*
 * Run a stream that waits for the one client that it has; `begun` of struct begin calls it.  With
 * feed NULL it is framed in `format`.  Without memory the client is told so, and the stream ends.
 */
void watch_open_one(
    struct stream *, struct conn *, enum emit_format, void (*feed)(struct watcher *));
/* What is known when an answer begins, and for a whole one its price: headers. */
void watch_headers(const struct watcher *, bool whole);
/* Reply with the failure of a stream that is over, of which nothing was told; the watcher is
 * freed. */
void watch_refuse(struct watcher *);
/* It is not fed any more, and freed. */
void watch_unlink(struct watcher *);

#endif
