/*
 * A client connection's life in a worker: made, moved from state to state, closed, freed.
 *
 * Two rules keep this simple.  Nothing is freed and no owner is told anything from inside a call
 * that an owner made: conn_close only takes the connection out of the loop, the deferred list
 * does the rest.  And requests are only looked at from the loop (conn_read.c).
 */
#include "daemon/conn.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "daemon/conn_state.h"
#include "daemon/log.h"
#include "daemon/metrics.h"

uint64_t
conn_now_ms(void)
{
	struct timespec t;

	/* The coarse clock is a few ms late and costs next to nothing. */
	clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

void
conn_move(struct conn *c, enum conn_state to)
{
#define MAY(state) (1u << CONN_##state)
	static const unsigned allowed[CONN_STATES] = {
	    [CONN_IDLE] = MAY(HEAD) | MAY(DEAD),
	    [CONN_HEAD] = MAY(BODY) | MAY(HANDLER) | MAY(DEAD),
	    [CONN_BODY] = MAY(HANDLER) | MAY(DEAD),
	    [CONN_HANDLER] =
	        MAY(LATER) | MAY(STREAM) | MAY(UPGRADED) | MAY(FLUSH) | MAY(DEAD),
	    [CONN_LATER] = MAY(STREAM) | MAY(UPGRADED) | MAY(FLUSH) | MAY(DEAD),
	    [CONN_STREAM] = MAY(FLUSH) | MAY(DEAD),
	    [CONN_UPGRADED] = MAY(FLUSH) | MAY(DEAD),
	    [CONN_FLUSH] = MAY(IDLE) | MAY(LINGER) | MAY(DEAD),
	    [CONN_LINGER] = MAY(DEAD),
	};
#undef MAY

	assert(c->magic == CONN_MAGIC);
	assert(allowed[c->state] & (1u << to));
	c->state = (uint8_t)to;
}

void
conn_read_start(struct conn *c)
{
	if (!c->reading && !c->eof && event_add(&c->rd, NULL) == 0)
		c->reading = true;
}

/* Without EV_READ a hang-up shows at the next write only; with it, epoll would report the bytes
 * that we don't want for ever. */
void
conn_read_stop(struct conn *c)
{
	if (c->reading)
		event_del(&c->rd);
	c->reading = false;
}

void
conn_defer(struct conn *c)
{
	struct server *s = c->server;

	if (c->is_deferred)
		return;
	c->is_deferred = true;
	if (TAILQ_EMPTY(&s->deferred))
		event_active(s->kick, EV_TIMEOUT, 0);
	TAILQ_INSERT_TAIL(&s->deferred, c, deferred);
}

void
conn_close(struct conn *c, const char *why)
{
	if (c->state == CONN_DEAD)
		return;
	log_event(LOG_DEBUG, "connection closed", "why", why, "request", c->request_id, NULL);
	/* A reply that never got a status line; 499 is nginx's word for it. */
	if (c->state == CONN_LATER)
		metrics_request((enum route_id)c->route->id, 499);
	conn_read_stop(c);
	if (c->writing)
		event_del(&c->wr);
	c->writing = false;
	c->deadline_ms = 0;
	buf_free(&c->out);
	c->out_at = 0;
	conn_move(c, CONN_DEAD);
	conn_defer(c);
}

void
conn_free(struct conn *c)
{
	struct server *s = c->server;

	assert(c->magic == CONN_MAGIC);
	event_del(&c->rd);
	event_del(&c->wr);
	if (c->fd >= 0)
		close(c->fd);
	buf_free(&c->in);
	buf_free(&c->head);
	buf_free(&c->body);
	buf_free(&c->headers);
	buf_free(&c->out);
	if (c->is_deferred)
		TAILQ_REMOVE(&s->deferred, c, deferred);
	TAILQ_REMOVE(&s->all, c, all);
	s->count--;
	s->held -= c->held;
	c->magic = 0;
	free(c);
}

/* Start lingering: a close with unread bytes in the socket would reset the connection, and the
 * reset could overtake our reply. */
static void
linger(struct conn *c)
{
	shutdown(c->fd, SHUT_WR);
	/* While conn_run is at it, what is in there goes when that returns. */
	if (!c->running)
		buf_free(&c->in);
	conn_move(c, CONN_LINGER);
	c->deadline_ms =
	    conn_now_ms() + (c->server->draining ? CONN_LINGER_MS / 5 : CONN_LINGER_MS);
	conn_read_start(c);
	if (!c->reading)
		conn_close(c, "closed by both");
}

void
conn_flushed(struct conn *c)
{
	c->route = NULL;
	c->caller = (struct caller){0};
	if (!c->keep_alive || c->server->draining) {
		if ((c->unread || !c->reading || (c->in.len > 0 && !c->running)) && !c->eof)
			linger(c);
		else
			conn_close(c, "done");
		return;
	}
	conn_move(c, CONN_IDLE);
	c->fresh = false;
	c->adopted = false;
	c->deadline_ms = conn_now_ms() + CONN_KEEPALIVE_MS;
	if (c->running)
		return;
	if (c->in.len > 0)
		conn_defer(c);
	else if (c->eof)
		conn_close(c, "closed by the client");
	else
		conn_read_start(c);
}

void
conn_timeout(struct conn *c)
{
	static const struct http_fault late = {408, "the request took too long to arrive"};

	switch (c->state) {
	case CONN_HEAD:
	case CONN_BODY:
		conn_refuse(c, &late);
		break;
	case CONN_IDLE:
		conn_close(c, "idle");
		break;
	case CONN_LINGER:
		conn_close(c, "done");
		break;
	default:
		conn_close(c, "stalled");
	}
}

void
conn_deferred_cb(evutil_socket_t fd, short what, void *arg)
{
	struct server *s = arg;
	struct conn_list list = TAILQ_HEAD_INITIALIZER(list);
	struct conn *c;

	(void)fd;
	(void)what;
	/* Those that come while we are here get a turn of their own. */
	TAILQ_CONCAT(&list, &s->deferred, deferred);
	while ((c = TAILQ_FIRST(&list)) != NULL) {
		TAILQ_REMOVE(&list, c, deferred);
		c->is_deferred = false;
		if (c->state != CONN_DEAD) {
			if (c->state == CONN_IDLE || c->state == CONN_HEAD)
				conn_run_input(c);
			else if (c->state == CONN_UPGRADED)
				conn_upgraded_again(c);
			continue;
		}
		if (c->ops != NULL)
			c->ops->gone(c->arg, c);
		if (c->protocol != NULL)
			c->protocol->gone(c->protocol_arg, c);
		conn_free(c);
	}
}

struct conn *
conn_new(struct server *s, int fd)
{
	struct conn *c = calloc(1, sizeof(*c));

	if (c == NULL)
		return NULL;
	c->magic = CONN_MAGIC;
	c->fd = fd;
	c->server = s;
	c->state = CONN_IDLE;
	c->fresh = true;
	c->cors = CORS_NONE;
	event_assign(&c->rd, s->base, fd, EV_READ | EV_PERSIST, conn_read_cb, c);
	event_assign(&c->wr, s->base, fd, EV_WRITE | EV_PERSIST, conn_write_cb, c);
	c->deadline_ms = conn_now_ms() + (uint64_t)s->config->timeouts.header * 1000;
	TAILQ_INSERT_TAIL(&s->all, c, all);
	s->count++;
	conn_read_start(c);
	if (!c->reading) {
		c->fd = -1;
		conn_free(c);
		return NULL;
	}
	return c;
}

struct span
conn_ahead(const struct conn *c)
{
	assert(c->ahead != NULL);
	return *c->ahead;
}

int
conn_fd(const struct conn *c)
{
	return c->fd;
}

int
conn_detach(struct conn *c, struct buf *input)
{
	int fd = c->fd;

	assert(c->ahead != NULL && c->state == CONN_HANDLER);
	if (input != NULL) {
		buf_span(input, *c->ahead);
		if (input->failed)
			return -1;
	}
	conn_close(c, "handed over");
	c->fd = -1;
	return fd;
}

void
conn_adopt(struct server *s, int fd, const char *input, size_t len)
{
	struct conn *c = conn_new(s, fd);

	if (c == NULL) {
		close(fd);
		return;
	}
	c->adopted = true;
	buf_add(&c->in, input, len);
	conn_defer(c);
}

bool
conn_adopted(const struct conn *c)
{
	return c->adopted;
}

struct server *
conn_server(const struct conn *c)
{
	return c->server;
}

void *
conn_arg(const struct conn *c)
{
	return c->server->arg;
}

void
server_on_unseen(struct server *s, conn_handler *unseen)
{
	s->unseen = unseen;
}

void
conn_seen(struct conn *c, struct account *account, const struct http_request *rq, struct span body)
{
	c->caller.account = account;
	c->route->handler(c, rq, body);
}

const struct caller *
conn_caller(const struct conn *c)
{
	return &c->caller;
}

const char *
conn_request_id(const struct conn *c)
{
	return c->request_id;
}
