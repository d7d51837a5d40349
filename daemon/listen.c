/*
 * A worker's listeners, and the server as a whole: accept, tick, drain.
 *
 * Each worker has its own SO_REUSEPORT sockets, made and kept by the master; those that a service
 * manager passed may be shared.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/conn_state.h"
#include "daemon/log.h"
#include "daemon/metrics.h"

#define RESUME_US 100000 /* after running out of descriptors */

static const char full[] =
    "HTTP/1.1 503 Service Unavailable\r\n"
    "Server: tolld\r\n"
    "Content-Type: application/json\r\n"
    "Retry-After: 1\r\n"
    "Connection: close\r\n"
    "Content-Length: 99\r\n"
    "\r\n"
    "{\"error\":{\"message\":\"too many connections\",\"type\":\"server_error\",\"param\":null,"
    "\"code\":\"overloaded\"}}";

static void
listeners_enable(struct server *s, bool on)
{
	for (int i = 0; i < s->listeners; i++) {
		if (!on)
			event_del(s->listener[i].ev);
		else if (event_add(s->listener[i].ev, NULL) != 0)
			log_warnx("listener: event_add failed");
	}
}

static void
resume_cb(evutil_socket_t fd, short what, void *arg)
{
	struct server *s = arg;

	(void)fd;
	(void)what;
	if (!s->draining && !s->leaving)
		listeners_enable(s, true);
}

static void accept_cb(evutil_socket_t, short, void *);

/*
 * Take who stands in the queue, then close: who comes later is refused at once.  Where a service
 * manager has the socket too, who stands there waits for the next daemon.
 */
static void
listeners_close(struct server *s)
{
	for (int i = 0; i < s->listeners; i++) {
		struct listener *l = &s->listener[i];
		size_t before;

		if (l->fd < 0)
			continue;
		do {
			before = s->count;
			if (!l->passed)
				accept_cb(l->fd, EV_READ, l);
		} while (s->count > before);
		event_del(l->ev);
		close(l->fd);
		l->fd = -1;
	}
	event_del(s->resume);
}

/*
 * No descriptor left.  The spare one is given up to answer who waits; then accepting rests,
 * since a level-triggered listener would spin.
 */
static void
out_of_descriptors(struct server *s, int listen_fd)
{
	static const struct timeval rest = {0, RESUME_US};
	char drop[4096];

	for (int i = 0; i < CONN_ACCEPT_MAX && s->spare_fd >= 0; i++) {
		int fd;

		close(s->spare_fd);
		fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (fd >= 0) {
			metrics_connection_refused(CONNECTION_DESCRIPTORS);
			(void)!send(fd, full, sizeof(full) - 1, MSG_NOSIGNAL);
			shutdown(fd, SHUT_WR);
			/* Unread bytes would make close() reset the connection, reply and all. */
			for (int n = 0; n < 16 && recv(fd, drop, sizeof(drop), 0) > 0; n++)
				continue;
			close(fd);
		}
		s->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			break;
	}
	listeners_enable(s, false);
	event_add(s->resume, &rest);
}

/*
 * May it be closed for somebody who has something to ask?  One that waits between requests may; so
 * may one that has begun none for a second, or is as long about its head.
 */
static bool
is_idle(const struct conn *c, uint64_t now)
{
	uint64_t begun = c->deadline_ms - (uint64_t)c->server->config->timeouts.header * 1000;

	if (c->state == CONN_IDLE && !c->fresh)
		return c->in.len == 0;
	return (c->state == CONN_IDLE || c->state == CONN_HEAD) && now >= begun + 1000;
}

/* Close those of the idle connections that would time out first; false: there are none. */
static bool
make_room(struct server *s)
{
	struct conn *idlest[CONN_ROOM], *c;
	uint64_t now = conn_now_ms();
	size_t n = 0, at;

	TAILQ_FOREACH(c, &s->all, all)
	{
		if (!is_idle(c, now) ||
		    (n == CONN_ROOM && c->deadline_ms >= idlest[n - 1]->deadline_ms))
			continue;
		at = n < CONN_ROOM ? n++ : n - 1;
		for (; at > 0 && idlest[at - 1]->deadline_ms > c->deadline_ms; at--)
			idlest[at] = idlest[at - 1];
		idlest[at] = c;
	}
	for (size_t i = 0; i < n; i++)
		conn_close(idlest[i], "room for others");
	return n > 0;
}

static void
accept_cb(evutil_socket_t listen_fd, short what, void *arg)
{
	struct listener *l = arg;

	(void)what;
	for (int i = 0; i < CONN_ACCEPT_MAX; i++) {
		int fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd < 0) {
			/* Those closed for room are gone before the listener is asked again. */
			if ((errno == EMFILE || errno == ENFILE || errno == ENOBUFS ||
			        errno == ENOMEM) &&
			    !make_room(l->server))
				out_of_descriptors(l->server, listen_fd);
			/* EAGAIN: done.  Anything else is about one connection, which is gone. */
			return;
		}
		if (conn_new(l->server, fd) == NULL) {
			metrics_connection_refused(CONNECTION_MEMORY);
			close(fd);
		}
	}
}

static int
listen_on(struct server *s, int fd, bool passed)
{
	struct listener *l = &s->listener[s->listeners];

	l->fd = fd;
	l->passed = passed;
	l->server = s;
	l->ev = event_new(s->base, fd, EV_READ | EV_PERSIST, accept_cb, l);
	if (l->ev == NULL)
		return -1;
	s->listeners++;
	return event_add(l->ev, NULL);
}

static bool
any_origin(const struct config *c)
{
	for (int i = 0; i < c->origin_count; i++)
		if (strcmp(c->origins[i], "*") == 0)
			return true;
	return false;
}

/* Where an origin of one config stands in another. */
static int8_t
same_origin(const struct config *here, const char *origin)
{
	for (int i = 0; i < here->origin_count; i++)
		if (strcmp(here->origins[i], origin) == 0)
			return (int8_t)i;
	return any_origin(here) ? CORS_ANY : CORS_NONE;
}

void
server_renew(struct server *s, const struct config *next)
{
	struct conn *c;

	/* Replies that are still to begin. */
	TAILQ_FOREACH(c, &s->all, all)
		if (c->cors >= 0)
			c->cors = same_origin(next, s->config->origins[c->cors]);
	s->config = next;
	s->cors_any = any_origin(next);
}

struct server *
server_new(struct event_base *base, struct heritage *h, uint32_t proc, const struct route *routes,
    void *arg)
{
	struct server *s = calloc(1, sizeof(*s));

	if (s == NULL)
		return NULL;
	s->base = base;
	s->heritage = h;
	s->config = h->config;
	s->routes = routes;
	s->arg = arg;
	TAILQ_INIT(&s->all);
	TAILQ_INIT(&s->deferred);
	s->cors_any = any_origin(s->config);
	if (getrandom(&s->id_seed, sizeof(s->id_seed), 0) != (ssize_t)sizeof(s->id_seed))
		s->id_seed = (uint64_t)getpid();
	s->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	s->resume = event_new(base, -1, 0, resume_cb, s);
	s->kick = event_new(base, -1, 0, conn_deferred_cb, s);
	if (s->resume == NULL || s->kick == NULL)
		goto fail;
	for (int i = 0; i < s->config->listen_count; i++) {
		int fd = h->listen_fd[i][proc - PROC_WORKER];

		if (fd >= 0 && listen_on(s, fd, h->listen_passed[i]) != 0)
			goto fail;
	}
	return s;
fail:
	server_free(s);
	return NULL;
}

void *
server_arg(const struct server *s)
{
	return s->arg;
}

size_t
server_conns(const struct server *s)
{
	return s->count;
}

void
server_leave(struct server *s)
{
	s->leaving = true;
	listeners_close(s);
}

void
server_drain(struct server *s)
{
	struct conn *c, *next;

	if (s->draining)
		return;
	listeners_close(s);
	s->draining = true;
	for (c = TAILQ_FIRST(&s->all); c != NULL; c = next) {
		next = TAILQ_NEXT(c, all);
		if (c->state == CONN_UPGRADED)
			c->protocol->drain(c->protocol_arg, c);
		if (c->state != CONN_IDLE || c->in.len > 0)
			continue;
		/* One that was just accepted most likely has its request on the way. */
		if (!c->fresh)
			conn_close(c, "draining");
		else if (c->deadline_ms > conn_now_ms() + 1000)
			c->deadline_ms = conn_now_ms() + 1000;
	}
}

void
server_tick(struct server *s)
{
	uint64_t now = conn_now_ms();
	struct conn *c, *next;

	/* conn_timeout frees nothing, so next stays good. */
	for (c = TAILQ_FIRST(&s->all); c != NULL; c = next) {
		next = TAILQ_NEXT(c, all);
		if (c->deadline_ms != 0 && c->deadline_ms <= now)
			conn_timeout(c);
	}
}

void
server_free(struct server *s)
{
	struct conn *c;

	while ((c = TAILQ_FIRST(&s->all)) != NULL)
		conn_free(c);
	for (int i = 0; i < s->listeners; i++)
		event_free(s->listener[i].ev);
	if (s->resume != NULL)
		event_free(s->resume);
	if (s->kick != NULL)
		event_free(s->kick);
	if (s->spare_fd >= 0)
		close(s->spare_fd);
	buf_free(&s->scratch);
	buf_free(&s->error);
	free(s);
}
