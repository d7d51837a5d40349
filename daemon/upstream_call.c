/*
 * Calls: a request out, its answer in, on a connection of upstream_link.c.  Worker process.
 */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/dialect.h"
#include "daemon/upstream_private.h"

#define READS_MAX 4 /* of one connection at a time, when more is there */

static void
call_free(struct call *c)
{
	if (c->link != NULL)
		link_free(c->link);
	buf_free(&c->head);
	response_fini(&c->response);
	c->target->calls--;
	c->u->calls--;
	pool_free(c->target->pool);
	free(c);
}

/* Callbacks may cancel the call they are about; it is freed when they are done. */
static void
enter(struct call *c)
{
	c->busy = true;
}

static bool
leave(struct call *c)
{
	c->busy = false;
	if (!c->cancelled)
		return true;
	call_free(c);
	return false;
}

static void
end(struct call *c, enum call_result result, const char *why)
{
	struct link *l = c->link;

	/* What the owner starts now may have this connection. */
	if (l != NULL && result == CALL_COMPLETE && response_reusable(&c->response) &&
	    !c->cut_short) {
		c->link = NULL;
		link_rest(l);
	}
	c->cancelled = true;
	c->ops->end(c->arg, result, why);
	call_free(c);
}

/*
 * The connection is gone.  One that had waited may have been closed while the request was on its
 * way; if nothing came back on it, the provider has not begun, and a new one is tried.
 */
static void
lost(struct call *c, const char *why)
{
	struct link *l;

	if (c->reused && !c->heard) {
		link_free(c->link);
		c->link = NULL;
		c->reused = false;
		c->sent = 0;
		l = link_new(c->u, c->target);
		if (l != NULL) {
			l->call = c;
			c->link = l;
			return;
		}
	}
	switch (response_eof(&c->response)) {
	case RESPONSE_COMPLETE:
		end(c, CALL_COMPLETE, "");
		break;
	case RESPONSE_MORE:
		end(c, response_has_head(&c->response) ? CALL_TRUNCATED : CALL_CONNECT, why);
		break;
	default:
		end(c, CALL_PROTOCOL, why);
	}
}

static bool
body_cb(void *arg, const char *bytes, size_t len)
{
	struct call *c = arg;

	c->ops->data(c->arg, bytes, len);
	return !c->cancelled;
}

static bool
head_cb(void *arg, const struct response *r)
{
	struct call *c = arg;

	c->ops->head(c->arg, r->status, r->media_type, r->retry_after);
	return !c->cancelled;
}

static size_t
request_len(const struct call *c)
{
	return strlen(c->target->start) + strlen(c->path) + c->target->head_len + c->head.len +
	    c->body->len;
}

/* Put what is to be sent next into u->out; how much.  The target's head holds its key, and goes
 * from one piece of protected memory to another only. */
static size_t
gather(const struct call *c)
{
	struct span part[] = {{c->target->start, strlen(c->target->start)},
	    {c->path, strlen(c->path)}, {c->target->head, c->target->head_len},
	    {c->head.data, c->head.len}, {c->body->data, c->body->len}};
	size_t skip = c->sent, n = 0;

	for (size_t i = 0; i < sizeof part / sizeof *part; i++) {
		size_t from = skip < part[i].len ? skip : part[i].len;
		size_t len = part[i].len - from;

		skip -= from;
		if (len > WRITE_SIZE - n)
			len = WRITE_SIZE - n;
		if (len > 0)
			memcpy(c->u->out + n, part[i].p + from, len);
		n += len;
	}
	return n;
}

/* Bytes of the answer.  False: the call is over. */
static bool
heard(struct call *c, char *bytes, size_t len)
{
	enum response_result r;

	if (!c->heard) {
		c->heard = true;
		c->cut_short = c->sent < request_len(c);
		buf_free(&c->head);
		c->body = NULL;
	}
	enter(c);
	r = response_feed(&c->response, bytes, len, head_cb, body_cb, c);
	if (!leave(c))
		return false;
	if (r == RESPONSE_BAD) {
		end(c, CALL_PROTOCOL, c->response.why);
		return false;
	}
	if (r == RESPONSE_COMPLETE) {
		enter(c);
		c->ops->flush(c->arg);
		if (leave(c))
			end(c, CALL_COMPLETE, "");
		return false;
	}
	return true;
}

static void
link_readable(struct link *l)
{
	struct call *c = l->call;
	struct upstream *u = l->u;
	bool tls = l->target->tls, over = false;
	CURLcode code = CURLE_OK;
	size_t n = 0;
	int i;

	if (l->state == LINK_IDLE) {
		/* Closed by the peer, or it speaks without having been asked. */
		link_discard(l);
		return;
	}
	for (i = 0; i < READS_MAX && !c->paused; i++) {
		code = link_read(l, u->read, sizeof u->read, &n);
		over = code != CURLE_AGAIN && (code != CURLE_OK || n == 0);
		if (code != CURLE_OK || n == 0)
			break;
		if (c->gathered)
			gather_note(u->gather, n);
		if (!heard(c, u->read, n))
			return;
		/* What fills less than the buffer was all.  TLS gives a record at a time. */
		if (!tls && n < sizeof u->read && !l->closing)
			break;
	}
	/* There is more, which epoll does not know of (TLS), or has told once (daemon/gather.h). */
	if (code == CURLE_OK && n > 0 && (tls || i == READS_MAX))
		event_active(&l->rd, EV_READ, 0);
	if (c->heard) {
		enter(c);
		c->ops->flush(c->arg);
		if (!leave(c))
			return;
	}
	if (over)
		lost(c, code == CURLE_OK ? "closed by the provider" : curl_easy_strerror(code));
}

static void
read_cb(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	link_readable(arg);
}

static void
gathered_cb(struct gathered *x, bool closing)
{
	struct link *l = (struct link *)((char *)x - offsetof(struct link, gathered));

	if (closing)
		l->closing = true;
	link_readable(l);
}

static void
write_cb(evutil_socket_t fd, short what, void *arg)
{
	struct link *l = arg;
	struct call *c = l->call;
	CURLcode code = CURLE_OK;
	size_t n;

	(void)fd;
	(void)what;
	while (!c->heard && c->sent < request_len(c)) {
		/* After CURLE_AGAIN the same bytes from the same place: OpenSSL insists. */
		code = link_write(l, c->u->out, gather(c), &n);
		if (code != CURLE_OK)
			break;
		c->sent += n;
	}
	if (code == CURLE_AGAIN) {
		event_add(&l->wr, NULL);
	} else if (code != CURLE_OK && !c->heard && c->reused) {
		lost(c, curl_easy_strerror(code));
	}
	/* Else: sent, or the provider has closed with its answer perhaps on the way: read_cb. */
}

/* From the event loop, so that what fails is told from there. */
static void
start_sending(struct link *l)
{
	l->state = LINK_BUSY;
	event_add(&l->rd, NULL);
	event_active(&l->wr, EV_WRITE, 0);
}

void
call_connected(struct call *c)
{
	struct link *l = c->link;

	l->gathered = (struct gathered){.fd = l->fd, .ready = gathered_cb};
	event_assign(&l->rd, l->u->base, l->fd, EV_READ | EV_PERSIST, read_cb, l);
	event_assign(&l->wr, l->u->base, l->fd, EV_WRITE, write_cb, l);
	start_sending(l);
}

void
call_failed(struct call *c, enum call_result result, const char *why)
{
	end(c, result, why);
}

/* Interface. */

struct call *
upstream_post(struct upstream_view *v, int provider, int target, const char *path,
    const struct buf *body, struct span headers, const struct call_ops *ops, void *arg)
{
	struct upstream *u = v->u;
	struct target *t = &v->pool[provider]->target[target];
	struct call *c = calloc(1, sizeof *c);
	struct link *l = NULL;

	if (c != NULL) {
		buf_printf(&c->head, "Content-Length: %zu\r\n", body->len);
		buf_span(&c->head, headers);
		buf_add(&c->head, "\r\n", 2);
		if (!c->head.failed && !body->failed)
			l = link_reuse(t);
		c->reused = l != NULL;
		if (l == NULL && !c->head.failed && !body->failed)
			l = link_new(u, t);
	}
	if (l == NULL) {
		if (c != NULL)
			buf_free(&c->head);
		free(c);
		return NULL;
	}
	c->u = u;
	c->link = l;
	c->target = t;
	c->path = path != NULL ? path : dialect_of(t->pool->dialect)->path;
	c->body = body;
	c->ops = ops;
	c->arg = arg;
	response_init(&c->response);
	l->call = c;
	u->calls++;
	t->calls++;
	t->pool->refs++;
	if (l->state == LINK_BUSY)
		start_sending(l);
	return c;
}

void
call_pause(struct call *c)
{
	if (c->paused || c->cancelled)
		return;
	c->paused = true;
	if (c->link->state == LINK_BUSY)
		link_unwatch(c->link);
}

void
call_resume(struct call *c)
{
	if (!c->paused || c->cancelled)
		return;
	c->paused = false;
	if (c->link->state != LINK_BUSY)
		return;
	link_watch(c->link);
	/* TLS may hold what epoll does not know of. */
	if (c->target->tls)
		event_active(&c->link->rd, EV_READ, 0);
}

void
call_gather(struct call *c)
{
	if (c->gathered || c->cancelled)
		return;
	c->gathered = true;
	if (!c->paused && c->link->state == LINK_BUSY) {
		event_del(&c->link->rd);
		link_watch(c->link);
	}
}

bool
call_paused(const struct call *c)
{
	return c->paused;
}

void
call_cancel(struct call *c)
{
	if (c->cancelled)
		return;
	c->cancelled = true;
	if (!c->busy)
		call_free(c);
}
