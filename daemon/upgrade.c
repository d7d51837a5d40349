/*
 * Connections that speak another protocol than HTTP, after a 101.  Worker.
 *
 * Reading stops while the protocol does not take what came: so a peer that sends and does not
 * read costs what is queued for it, and one read of its own.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "daemon/conn_state.h"

void
conn_upgrade(struct conn *c, const char *name, const struct conn_protocol *protocol, void *arg)
{
	struct buf *head = &c->server->scratch;
	struct iovec iov[2];

	/* Also on one that is dead by now: it is told so. */
	c->protocol = protocol;
	c->protocol_arg = arg;
	conn_request_over(c);
	if (c->state != CONN_HANDLER && c->state != CONN_LATER)
		return;
	c->keep_alive = true; /* or the head would say otherwise */
	head->len = 0;
	conn_head_begin(c, head, 101, NULL);
	c->keep_alive = false;
	buf_str(head, "Connection: Upgrade\r\nUpgrade: ");
	buf_str(head, name);
	buf_str(head, "\r\n\r\n");
	conn_move(c, CONN_UPGRADED);
	if (head->failed) {
		buf_free(head);
		conn_close(c, "out of memory");
		return;
	}
	iov[1] = (struct iovec){head->data, head->len};
	conn_push(c, iov, 2);
	/* What came while the reply was awaited. */
	if (c->in.len > 0)
		conn_defer(c);
}

void *
conn_protocol_arg(const struct conn *c)
{
	return c->protocol_arg;
}

void
conn_write(struct conn *c, const char *data, size_t len)
{
	struct iovec iov[2];

	if (c->state != CONN_UPGRADED || len == 0)
		return;
	iov[1] = (struct iovec){(void *)(uintptr_t)data, len};
	conn_push(c, iov, 2);
}

/* How many bytes are done with. */
static size_t
give(struct conn *c, const char *p, size_t len)
{
	size_t n;

	/* What the protocol ends must not free what it is looking at. */
	c->running = true;
	n = c->protocol->input(c->protocol_arg, c, p, len);
	c->running = false;
	return c->state == CONN_UPGRADED ? n : len;
}

void
conn_upgraded_again(struct conn *c)
{
	/* Something may have been queued again. */
	if (c->in.len == 0 || c->writing)
		return;
	buf_consume(&c->in, give(c, c->in.data, c->in.len));
	if (c->in.len > 0)
		return;
	buf_free(&c->in);
	if (c->state == CONN_UPGRADED)
		conn_read_start(c);
}

void
conn_upgraded_read(struct conn *c)
{
	struct server *s = c->server;
	size_t used;
	ssize_t n;

	/* Read beyond the handshake, and not looked at yet. */
	if (c->in.len > 0) {
		conn_read_stop(c);
		conn_upgraded_again(c);
		return;
	}
	n = recv(c->fd, s->recv, CONN_AHEAD_MAX, 0);
	if (n < 0) {
		if (errno != EAGAIN && errno != EINTR)
			conn_close(c, strerror(errno));
		return;
	}
	if (n == 0) {
		conn_close(c, "client gone");
		return;
	}
	used = give(c, s->recv, (size_t)n);
	if (used == (size_t)n)
		return;
	buf_add(&c->in, s->recv + used, (size_t)n - used);
	if (c->in.failed)
		conn_close(c, "out of memory");
	else
		conn_read_stop(c);
}

void
conn_request(struct conn *c, const struct caller *caller)
{
	c->caller = *caller;
	buf_free(&c->headers);
	conn_request_over(c);
}

void
conn_request_over(struct conn *c)
{
	c->ops = NULL;
	c->arg = NULL;
}

void
conn_request_abandon(struct conn *c)
{
	const struct conn_ops *ops = c->ops;
	void *arg = c->arg;

	conn_request_over(c);
	if (ops != NULL)
		ops->gone(arg, c);
}

/* Of the headers that such a reply would have had this is the one that is said, too. */
static unsigned long
retry_after(const struct buf *headers)
{
	static const char name[] = "Retry-After: ";
	const char *at =
	    headers->len > 0 ? memmem(headers->data, headers->len, name, sizeof name - 1) : NULL;

	/* A line end follows the digits. */
	return at == NULL ? 0 : strtoul(at + sizeof name - 1, NULL, 10);
}

void
conn_upgraded_refuse(struct conn *c, struct conn_refusal *x)
{
	x->retry_after = retry_after(&c->headers);
	buf_free(&c->headers);
	conn_request_over(c);
	c->protocol->refused(c->protocol_arg, c, x);
}

void
conn_upgrade_end(struct conn *c, bool unread)
{
	if (c->state != CONN_UPGRADED)
		return;
	conn_request_over(c);
	buf_free(&c->headers);
	/* Whatever it still sends must not make a reset of our last word. */
	c->unread = unread;
	conn_move(c, CONN_FLUSH);
	if (!c->writing)
		conn_flushed(c);
}
