/*
 * The metrics listener: a small HTTP/1.x responder.  Admin process.
 *
 * Each connection gets one reply and is closed.  All is bounded: connections, the request's
 * head, five seconds for everything together.
 */
#include "daemon/metrics_http.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/buf.h"
#include "daemon/http.h"
#include "daemon/log.h"
#include "daemon/metrics.h"
#include "shm/clock.h"

#define CONNS_MAX 64
#define CONN_SECONDS 5
/* It says that it lives four times a second, but in a flush. */
#define KEEPER_SILENCE_US (5 * UINT64_C(1000000))

struct metrics_conn {
	struct metrics_http *server;
	TAILQ_ENTRY(metrics_conn) link;
	int fd;
	struct event *ev; /* EV_READ while the request comes, then EV_WRITE, then EV_READ */
	char in[HTTP_HEAD_MAX];
	size_t in_len, scanned;
	struct buf out;
	size_t sent;
	uint64_t until_us; /* CLOCK_MONOTONIC: all must be over by then */
	enum { CONN_READS, CONN_WRITES, CONN_LINGERS } state;
};

struct metrics_http {
	struct event_base *base;
	const struct region *region;
	const struct config *config;
	struct event *listen;
	unsigned count;
	TAILQ_HEAD(, metrics_conn) conns;
};

static void
conn_free(struct metrics_conn *c)
{
	TAILQ_REMOVE(&c->server->conns, c, link);
	c->server->count--;
	if (c->ev != NULL)
		event_free(c->ev);
	close(c->fd);
	buf_free(&c->out);
	free(c);
}

/* NULL when a worker may be sent clients, else the reason why not. */
static const char *
not_ready(const struct region *r)
{
	const struct region_header *h = r->h;
	uint64_t heard;

	/* Acquire as everywhere; for a report relaxed would do. */
	if (atomic_load_explicit(&h->filled, memory_order_acquire) != REGION_FILLED)
		return "accounts are not loaded yet";
	if (atomic_load_explicit(&h->journal_ok, memory_order_relaxed) == 0)
		return "the journal cannot be written";
	/* Relaxed: a report.  0: it has only begun. */
	heard = atomic_load_explicit(&region_proc(r, PROC_KEEPER)->heartbeat_us,
	    memory_order_relaxed);
	if (heard != 0 && monotonic_us() > heard + KEEPER_SILENCE_US)
		return "the disk does not answer";
	if (atomic_load_explicit(&h->draining, memory_order_relaxed) != 0)
		return "draining";
	for (uint32_t p = PROC_WORKER; p < h->procs; p++)
		if (atomic_load_explicit(&region_proc(r, p)->pid, memory_order_relaxed) != 0)
			return NULL;
	return "no worker runs";
}

static void
reply(struct metrics_conn *c, bool head_only, int status, const char *type, const struct buf *body)
{
	size_t len = body->failed ? 0 : body->len;

	buf_printf(&c->out,
	    "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n"
	    "Cache-Control: no-store\r\n%sConnection: close\r\n\r\n",
	    status, http_reason(status), type, len, status == 405 ? "Allow: GET, HEAD\r\n" : "");
	if (!head_only && len > 0)
		buf_add(&c->out, body->data, len);
}

static void
respond(struct metrics_conn *c, const struct http_request *q)
{
	const struct region *r = c->server->region;
	const char *type = "text/plain; charset=utf-8", *why;
	struct buf body = {0};
	int status = 200;

	if (q->method != HTTP_GET && q->method != HTTP_HEAD) {
		status = 405;
		buf_str(&body, "method not allowed\n");
	} else if (span_eq(q->path, "/metrics")) {
		type = "text/plain; version=0.0.4; charset=utf-8";
		metrics_print(&body, r, c->server->config);
		if (body.failed)
			status = 503;
	} else if (span_eq(q->path, "/healthz"))
		buf_str(&body, "ok\n");
	else if (span_eq(q->path, "/readyz")) {
		type = "application/json";
		why = not_ready(r);
		if (why != NULL)
			status = 503;
		buf_printf(&body, why != NULL ? "{\"ready\":false,\"reason\":\"%s\"}\n"
					      : "{\"ready\":true}\n", why);
	} else {
		status = 404;
		buf_str(&body, "not found\n");
	}
	reply(c, q->method == HTTP_HEAD, status, type, &body);
	buf_free(&body);
}

/* Read the head; true when there is a reply to send. */
static bool
conn_request(struct metrics_conn *c)
{
	struct http_request q;
	struct http_fault fault = {0};
	struct buf body = {0};
	size_t head_len;

	switch (http_parse_head(c->in, c->in_len, &c->scanned, &q, &head_len, &fault)) {
	case HTTP_PARSE_OK:
		respond(c, &q);
		return true;
	case HTTP_PARSE_MORE:
		if (c->in_len < sizeof c->in)
			return false;
		fault = (struct http_fault){431, "headers too large"};
		break;
	case HTTP_PARSE_BAD:
		break;
	}
	buf_printf(&body, "%s\n", fault.why);
	reply(c, false, fault.status, "text/plain; charset=utf-8", &body);
	buf_free(&body);
	return true;
}

static void conn_cb(evutil_socket_t, short, void *);

/* Wait for this next, for what is left of the connection's time. */
static void
conn_wait(struct metrics_conn *c, short what)
{
	uint64_t now = monotonic_us(), left = c->until_us > now ? c->until_us - now : 1;
	struct timeval tv = {(time_t)(left / 1000000), (suseconds_t)(left % 1000000)};

	event_del(c->ev);
	/* Cannot fail for a descriptor that was just good; if it does, tick ends it. */
	if (event_assign(c->ev, c->server->base, c->fd, what, conn_cb, c) == 0)
		(void)event_add(c->ev, &tv);
}

/* False when the connection is over. */
static bool
conn_write(struct metrics_conn *c)
{
	while (!c->out.failed && c->sent < c->out.len) {
		ssize_t n = send(c->fd, c->out.data + c->sent, c->out.len - c->sent,
		    MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN || errno == EWOULDBLOCK;
		c->sent += (size_t)n;
	}
	if (c->out.failed)
		return false;
	/* Closing with input unread would reset the connection and take the reply with it. */
	(void)shutdown(c->fd, SHUT_WR);
	c->state = CONN_LINGERS;
	return true;
}

static void
conn_cb(evutil_socket_t fd, short what, void *arg)
{
	struct metrics_conn *c = arg;
	ssize_t n;

	if (what & EV_TIMEOUT) {
		conn_free(c);
		return;
	}
	if (c->state == CONN_READS) {
		n = recv(fd, c->in + c->in_len, sizeof c->in - c->in_len, 0);
		if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
			conn_free(c);
			return;
		}
		if (n > 0)
			c->in_len += (size_t)n;
		if (conn_request(c))
			c->state = CONN_WRITES;
	} else if (c->state == CONN_LINGERS) {
		n = recv(fd, c->in, sizeof c->in, 0);
		if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
			conn_free(c);
			return;
		}
	}
	if (c->state == CONN_WRITES && !conn_write(c)) {
		conn_free(c);
		return;
	}
	conn_wait(c, c->state == CONN_WRITES ? EV_WRITE : EV_READ);
}

static void
accept_cb(evutil_socket_t listener, short what, void *arg)
{
	struct metrics_http *m = arg;
	struct metrics_conn *c;
	int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	(void)what;
	if (fd < 0) {
		/* Out of descriptors the listener would spin: the next tick adds it again. */
		if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
			event_del(m->listen);
		return;
	}
	c = m->count < CONNS_MAX ? malloc(sizeof *c) : NULL;
	if (c == NULL) {
		close(fd);
		return;
	}
	/* Not calloc: the input needs no clearing. */
	c->server = m;
	c->fd = fd;
	c->in_len = c->scanned = c->sent = 0;
	c->out = (struct buf){0};
	c->state = CONN_READS;
	c->until_us = monotonic_us() + CONN_SECONDS * UINT64_C(1000000);
	TAILQ_INSERT_TAIL(&m->conns, c, link);
	m->count++;
	c->ev = event_new(m->base, fd, EV_READ, conn_cb, c);
	if (c->ev == NULL)
		conn_free(c);
	else
		conn_wait(c, EV_READ);
}

struct metrics_http *
metrics_http_new(struct event_base *base, int listen_fd, const struct region *r,
    const struct config *config)
{
	struct metrics_http *m = calloc(1, sizeof *m);

	if (m == NULL)
		return NULL;
	m->base = base;
	m->region = r;
	m->config = config;
	TAILQ_INIT(&m->conns);
	if (listen_fd < 0)
		return m;
	m->listen = event_new(base, listen_fd, EV_READ | EV_PERSIST, accept_cb, m);
	if (m->listen == NULL || evutil_make_socket_nonblocking(listen_fd) != 0 ||
	    event_add(m->listen, NULL) != 0) {
		metrics_http_free(m);
		return NULL;
	}
	return m;
}

void
metrics_http_renew(struct metrics_http *m, const struct config *config)
{
	m->config = config;
}

void
metrics_http_tick(struct metrics_http *m)
{
	uint64_t now = monotonic_us();
	struct metrics_conn *c, *next;

	if (m->listen != NULL)
		event_add(m->listen, NULL);
	for (c = TAILQ_FIRST(&m->conns); c != NULL; c = next) {
		next = TAILQ_NEXT(c, link);
		if (now > c->until_us + 1000000)
			conn_free(c);
	}
}

void
metrics_http_free(struct metrics_http *m)
{
	struct metrics_conn *c;

	if (m == NULL)
		return;
	while ((c = TAILQ_FIRST(&m->conns)) != NULL)
		conn_free(c);
	if (m->listen != NULL)
		event_free(m->listen);
	free(m);
}
