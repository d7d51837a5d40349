/*
 * What a worker sends to a client: whole replies, streams, errors.
 *
 * While nothing is queued a write goes straight to the socket, head, chunk frame and data in one
 * system call and without a malloc; only what the socket refuses is copied.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "daemon/anthropic_error.h"
#include "daemon/conn_state.h"
#include "daemon/log.h"
#include "daemon/metrics.h"

/* iov[0] is for what is queued; head, chunk head, data, chunk end. */
#define IOV_MAX_USED 4
/* Up to so many bytes a copy is cheaper than what the kernel does for a list of pieces. */
#define FLAT_MAX 2048

static void
arm_write(struct conn *c)
{
	c->deadline_ms = conn_now_ms() + (uint64_t)c->server->config->timeouts.idle * 1000;
	if (c->writing)
		return;
	if (event_add(&c->wr, NULL) == 0)
		c->writing = true;
	else
		conn_close(c, "out of memory");
}

/* Queue what is left of iov after its first `sent` bytes. */
static void
queue(struct conn *c, const struct iovec *iov, int n, size_t sent)
{
	/* Dropping the sent part when it is the larger one keeps this linear. */
	if (c->out_at > 0 && c->out_at >= c->out.len / 2) {
		buf_consume(&c->out, c->out_at);
		c->out_at = 0;
	}
	for (int i = 0; i < n; i++) {
		size_t skip = sent < iov[i].iov_len ? sent : iov[i].iov_len;

		if (skip < iov[i].iov_len)
			buf_add(&c->out, (const char *)iov[i].iov_base + skip, iov[i].iov_len - skip);
		sent -= skip;
	}
	if (c->out.failed)
		conn_close(c, "out of memory");
	else
		arm_write(c);
}

static ssize_t
send_pieces(int fd, struct iovec *iov, int n, size_t total)
{
	struct msghdr m = {.msg_iov = iov, .msg_iovlen = (size_t)n};
	char flat[FLAT_MAX];
	size_t len = 0;

	if (total > sizeof flat)
		return sendmsg(fd, &m, MSG_NOSIGNAL);
	for (int i = 0; i < n; i++) {
		if (iov[i].iov_len > 0)
			memcpy(flat + len, iov[i].iov_base, iov[i].iov_len);
		len += iov[i].iov_len;
	}
	return send(fd, flat, len, MSG_NOSIGNAL);
}

void
conn_push(struct conn *c, struct iovec *iov, int n)
{
	size_t waiting = c->out.len - c->out_at, total = 0, sent = 0;
	ssize_t r;

	if (c->state == CONN_DEAD)
		return;
	if (c->writing) {
		queue(c, iov + 1, n - 1, 0);
		return;
	}
	iov[0] = (struct iovec){waiting > 0 ? c->out.data + c->out_at : NULL, waiting};
	for (int i = 0; i < n; i++)
		total += iov[i].iov_len;
	do {
		r = send_pieces(c->fd, iov, n, total);
	} while (r < 0 && errno == EINTR);
	if (r < 0 && errno != EAGAIN && errno != EWOULDBLOCK) {
		conn_close(c, strerror(errno));
		return;
	}
	if (r > 0)
		sent = (size_t)r;
	if (sent == total) {
		if (c->out.cap > 0)
			buf_free(&c->out);
		c->out_at = 0;
		return;
	}
	if (sent < waiting) {
		c->out_at += sent;
		sent = 0;
	} else {
		c->out_at = c->out.len;
		sent -= waiting;
	}
	queue(c, iov + 1, n - 1, sent);
}

void
conn_write_cb(evutil_socket_t fd, short what, void *arg)
{
	struct conn *c = arg;
	ssize_t n = send(c->fd, c->out.data + c->out_at, c->out.len - c->out_at, MSG_NOSIGNAL);

	(void)fd;
	(void)what;
	if (n < 0) {
		if (errno != EAGAIN && errno != EINTR)
			conn_close(c, strerror(errno));
		return;
	}
	c->out_at += (size_t)n;
	if (c->out_at < c->out.len) {
		arm_write(c);
		return;
	}
	buf_free(&c->out);
	c->out_at = 0;
	c->deadline_ms = 0;
	event_del(&c->wr);
	c->writing = false;
	if (c->state == CONN_FLUSH) {
		conn_flushed(c);
		return;
	}
	if (c->ops != NULL && c->ops->writable != NULL)
		c->ops->writable(c->arg, c);
	if (c->state == CONN_UPGRADED)
		conn_upgraded_again(c);
}

void
conn_send_continue(struct conn *c)
{
	static const char text[] = "HTTP/1.1 100 Continue\r\n\r\n";

	/* Nothing is queued before a reply, so the socket has room for this much. */
	if (send(c->fd, text, sizeof(text) - 1, MSG_NOSIGNAL) != (ssize_t)sizeof(text) - 1)
		conn_close(c, "100 Continue could not be sent");
}

static const char *
date(struct server *s)
{
	struct timespec now;
	struct tm tm;

	clock_gettime(CLOCK_REALTIME_COARSE, &now);
	if (now.tv_sec != s->date_at) {
		s->date_at = now.tv_sec;
		gmtime_r(&now.tv_sec, &tm);
		strftime(s->date, sizeof(s->date), "%a, %d %b %Y %H:%M:%S GMT", &tm);
	}
	return s->date;
}

static void
add_field(struct buf *b, const char *name, const char *value)
{
	buf_str(b, name);
	buf_add(b, ": ", 2);
	buf_str(b, value);
	buf_add(b, "\r\n", 2);
}

void
conn_head_begin(struct conn *c, struct buf *b, int status, const char *content_type)
{
	buf_add(b, "HTTP/1.1 ", 9);
	buf_u64(b, (uint64_t)status);
	buf_add(b, " ", 1);
	buf_str(b, http_reason(status));
	buf_add(b, "\r\n", 2);
	add_field(b, "Server", "tolld");
	add_field(b, "Date", date(c->server));
	if (content_type != NULL)
		add_field(b, "Content-Type", content_type);
	add_field(b, "x-request-id", c->request_id);
	if (c->route != NULL && c->route->id == ROUTE_ANTHROPIC)
		add_field(b, "request-id", c->request_id);
	route_cors(c, b);
	if (c->headers.len > 0)
		buf_add(b, c->headers.data, c->headers.len);
	b->failed |= c->headers.failed;
	buf_free(&c->headers);
	if (!c->keep_alive)
		add_field(b, "Connection", "close");
	else if (c->minor == 0)
		add_field(b, "Connection", "keep-alive");
	metrics_request(c->route != NULL ? (enum route_id)c->route->id : ROUTE_OTHER, status);
}

void
conn_header(struct conn *c, const char *name, const char *fmt, ...)
{
	size_t from = c->headers.len;
	va_list ap;

	buf_str(&c->headers, name);
	buf_add(&c->headers, ": ", 2);
	va_start(ap, fmt);
	buf_vprintf(&c->headers, fmt, ap);
	va_end(ap);
	if (c->headers.failed)
		return;
	for (size_t i = from; i < c->headers.len; i++) {
		unsigned char b = (unsigned char)c->headers.data[i];

		/* A line break in a value would begin a header, or a reply, of its choosing. */
		if ((b < 0x20 && b != '\t') || b == 0x7f) {
			log_warnx("header %s left out: control byte in its value", name);
			c->headers.len = from;
			return;
		}
	}
	buf_add(&c->headers, "\r\n", 2);
}

/* May a reply begin?  On a dead connection the owner's part is over with it. */
static bool
may_begin(struct conn *c)
{
	if (c->state == CONN_HANDLER || c->state == CONN_LATER)
		return true;
	if (c->state != CONN_DEAD)
		log_warnx("conn: reply to no request");
	return false;
}

/* The reply's last byte is sent or queued: the owner is rid of the conn. */
static void
reply_done(struct conn *c)
{
	c->ops = NULL;
	c->arg = NULL;
	buf_free(&c->headers);
	if (c->state == CONN_DEAD)
		return;
	conn_move(c, CONN_FLUSH);
	if (!c->writing)
		conn_flushed(c);
}

void
conn_reply(struct conn *c, int status, const char *content_type, const char *body, size_t len)
{
	struct buf *head = &c->server->scratch;
	struct iovec iov[3];

	if (!may_begin(c)) {
		if (c->state == CONN_DEAD)
			reply_done(c);
		return;
	}
	head->len = 0;
	if (c->server->draining || c->server->leaving)
		c->keep_alive = false;
	conn_head_begin(c, head, status, content_type);
	if (status != 204 && status != 304) {
		buf_str(head, "Content-Length: ");
		buf_u64(head, len);
		buf_add(head, "\r\n\r\n", 4);
	} else {
		buf_add(head, "\r\n", 2);
		len = 0;
	}
	if (head->failed) {
		buf_free(head);
		conn_close(c, "out of memory");
	} else {
		iov[1] = (struct iovec){head->data, head->len};
		iov[2] = (struct iovec){(void *)(uintptr_t)body, c->is_head ? 0 : len};
		conn_push(c, iov, 3);
	}
	reply_done(c);
}

void
conn_reply_buf(struct conn *c, int status, const char *content_type, const struct buf *b)
{
	if (b->failed)
		conn_error(c, 503, "server_error", "overloaded", NULL, "out of memory");
	else
		conn_reply(c, status, content_type, b->data, b->len);
}

static void
add_text(struct buf *b, const char *name, const char *text)
{
	buf_str(b, name);
	if (text != NULL)
		buf_json(b, text, strlen(text));
	else
		buf_str(b, "null");
}

void
conn_error_with(struct conn *c, int status, const char *type, const char *code, const char *param,
    struct span members, const char *message)
{
	struct buf *b = &c->server->error;
	bool anthropic = c->route != NULL && c->route->id == ROUTE_ANTHROPIC;

	if (c->state == CONN_UPGRADED) {
		conn_upgraded_refuse(c, &(struct conn_refusal){.status = status, .type = type,
		    .code = code, .param = param, .message = message, .members = members});
		return;
	}
	b->len = 0;
	if (anthropic) {
		add_text(b, "{\"type\":\"error\",\"error\":{\"type\":", anthropic_error_type(status));
		add_text(b, ",\"message\":", message);
	} else {
		add_text(b, "{\"error\":{\"message\":", message);
		add_text(b, ",\"type\":", type);
	}
	if (!anthropic || param != NULL)
		add_text(b, ",\"param\":", param);
	add_text(b, ",\"code\":", code);
	buf_span(b, members);
	buf_str(b, "}");
	if (anthropic)
		add_text(b, ",\"request_id\":", conn_request_id(c));
	buf_str(b, "}");
	if (b->failed) {
		buf_free(b);
		conn_reply(c, status, "application/json", "{}", 2);
		return;
	}
	conn_reply(c, status, "application/json", b->data, b->len);
}

void
conn_error(struct conn *c, int status, const char *type, const char *code, const char *param,
    const char *fmt, ...)
{
	char message[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(message, sizeof(message), fmt, ap);
	va_end(ap);
	conn_error_with(c, status, type, code, param, SPAN(""), message);
}

void
conn_later(struct conn *c, const struct conn_ops *ops, void *arg)
{
	if (c->state == CONN_HANDLER)
		conn_move(c, CONN_LATER);
	c->ops = ops;
	c->arg = arg;
}

void
conn_stream_start(
    struct conn *c, int status, const char *content_type, const struct conn_ops *ops, void *arg)
{
	if (!may_begin(c) && c->state != CONN_DEAD)
		return;
	c->ops = ops;
	c->arg = arg;
	if (c->state == CONN_DEAD)
		return;
	c->chunked_out = c->minor == 1;
	if (!c->chunked_out || c->server->draining || c->server->leaving)
		c->keep_alive = false;
	conn_head_begin(c, &c->out, status, content_type);
	if (c->chunked_out)
		add_field(&c->out, "Transfer-Encoding", "chunked");
	buf_add(&c->out, "\r\n", 2);
	conn_move(c, CONN_STREAM);
	if (c->out.failed)
		conn_close(c, "out of memory");
}

/* A chunk of a body, and perhaps the last one behind it, in one system call. */
static void
write_chunk(struct conn *c, const char *data, size_t len, bool last)
{
	static const char hex[] = "0123456789abcdef";
	char size[20];
	size_t at = sizeof(size);
	struct iovec iov[IOV_MAX_USED];

	iov[2] = (struct iovec){(void *)(uintptr_t)data, len};
	if (!c->chunked_out) {
		iov[1] = (struct iovec){NULL, 0};
		conn_push(c, iov, 3);
		return;
	}
	size[--at] = '\n';
	size[--at] = '\r';
	for (; len > 0; len >>= 4)
		size[--at] = hex[len & 15];
	iov[1] = (struct iovec){size + at, sizeof(size) - at};
	iov[3] = (struct iovec){(void *)(uintptr_t) "\r\n0\r\n\r\n", last ? 7 : 2};
	conn_push(c, iov, 4);
}

void
conn_stream_write(struct conn *c, const char *data, size_t len)
{
	/* An empty chunk would end the body. */
	if (c->state != CONN_STREAM || len == 0)
		return;
	if (c->is_head)
		conn_stream_flush(c);
	else
		write_chunk(c, data, len, false);
}

void
conn_stream_finish(struct conn *c, const char *data, size_t len)
{
	if (c->state != CONN_STREAM || len == 0 || c->is_head) {
		conn_stream_end(c, false);
		return;
	}
	write_chunk(c, data, len, true);
	reply_done(c);
}

void
conn_stream_flush(struct conn *c)
{
	struct iovec iov[1];

	if (c->state == CONN_STREAM && c->out.len > 0 && !c->writing)
		conn_push(c, iov, 1);
}

void
conn_stream_end(struct conn *c, bool abort)
{
	static const struct linger reset = {.l_onoff = 1, .l_linger = 0};
	struct iovec iov[2];

	if (c->state == CONN_STREAM && abort) {
		(void)setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
		conn_close(c, "aborted");
	} else if (c->state == CONN_STREAM) {
		iov[1] = (struct iovec){(void *)(uintptr_t) "0\r\n\r\n", 5};
		if (!c->chunked_out || c->is_head)
			iov[1].iov_len = 0;
		if (c->out.len > 0 || iov[1].iov_len > 0)
			conn_push(c, iov, 2);
	} else if (c->state != CONN_DEAD) {
		log_warnx("conn: end of no stream");
		return;
	}
	reply_done(c);
}

size_t
conn_queued(const struct conn *c)
{
	return c->writing ? c->out.len - c->out_at : 0;
}
