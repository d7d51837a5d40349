/*
 * From bytes to requests: reads a client's socket, calls the handlers in turn.  Worker.
 *
 * All connections read into the server's one buffer; a connection keeps only what is left over,
 * so that an idle or streaming one costs next to nothing.  A request that came in one piece is
 * handled where it lies.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "daemon/conn_state.h"
#include "daemon/log.h"

static uint64_t
deadline_in(uint32_t seconds)
{
	return conn_now_ms() + (uint64_t)seconds * 1000;
}

/* Answer what never became a request. */
void
conn_refuse(struct conn *c, const struct http_fault *fault)
{
	static const struct {
		int status;
		const char *code;
	} codes[] = {
	    {408, "request_timeout"},
	    {413, "body_too_large"},
	    {414, "uri_too_long"},
	    {431, "headers_too_large"},
	    {501, "not_implemented"},
	    {503, "overloaded"},
	    {505, "http_version_not_supported"},
	};
	const char *code = "invalid_request";

	for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++)
		if (codes[i].status == fault->status)
			code = codes[i].code;
	c->deadline_ms = 0;
	c->keep_alive = false;
	c->unread = true;
	conn_move(c, CONN_HANDLER);
	conn_error(c, fault->status, "invalid_request_error", code, NULL, "%s", fault->why);
	buf_free(&c->head);
	buf_free(&c->body);
}

static bool
request_id_ok(struct span id)
{
	if (id.p == NULL || id.len == 0 || id.len > CONN_REQUEST_ID_MAX)
		return false;
	for (size_t i = 0; i < id.len; i++) {
		char c = id.p[i];

		if (!((c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') ||
		        c == '.' || c == '_' || c == '-'))
			return false;
	}
	return true;
}

/* Unique among this worker's, and unlikely to meet another's: it is for looking up, not secret. */
static void
request_id_make(struct conn *c)
{
	static const char hex[] = "0123456789abcdef";
	uint64_t x = c->server->id_seed + c->server->id_count++ * UINT64_C(0x9e3779b97f4a7c15);

	x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
	x ^= x >> 31;
	memcpy(c->request_id, "req_", 4);
	for (int i = 0; i < 16; i++)
		c->request_id[4 + i] = hex[x >> (60 - 4 * i) & 15];
	c->request_id[20] = '\0';
}

static void
begin_head(struct conn *c)
{
	conn_move(c, CONN_HEAD);
	if (!c->fresh)
		c->deadline_ms = deadline_in(c->server->config->timeouts.header);
	c->scanned = 0;
	c->route = NULL;
	c->minor = 1;
	c->cors = CORS_NONE;
	c->is_head = c->keep_alive = c->unread = false;
	request_id_make(c);
}

/* The request is whole; `ahead` is what was read beyond it. */
static void
dispatch(struct conn *c, const struct http_request *rq, struct span body, struct span ahead)
{
	conn_move(c, CONN_HANDLER);
	c->deadline_ms = 0;
	if (c->verdict != VERDICT_OK) {
		route_refuse(c, rq);
		return;
	}
	c->ahead = &ahead;
	if (c->route->scope != ROUTE_OPEN && c->caller.account == NULL)
		c->server->unseen(c, rq, body);
	else
		c->route->handler(c, rq, body);
	c->ahead = NULL;
	if (c->state == CONN_HANDLER)
		conn_error(c, 500, "server_error", "internal_error", NULL, "no answer was given");
}

/* Reply now, although the body has not been read. */
static size_t
refuse_unread(struct conn *c, const struct http_request *rq, size_t len)
{
	c->keep_alive = false;
	c->unread = true;
	dispatch(c, rq, SPAN(""), SPAN(""));
	return len;
}

/* A whole head at p: route it, then call its handler or wait for the body.  Bytes taken. */
static size_t
on_request(struct conn *c, const struct http_request *rq, char *p, size_t head_len, size_t len)
{
	struct span id = http_header(rq, "x-request-id");

	if (request_id_ok(id)) {
		memcpy(c->request_id, id.p, id.len);
		c->request_id[id.len] = '\0';
	}
	c->minor = (uint8_t)rq->minor;
	c->is_head = rq->method == HTTP_HEAD;
	c->keep_alive = rq->keep_alive && !c->server->draining && !c->server->leaving;
	c->chunked_in = rq->chunked;
	c->verdict = (uint8_t)route_check(c, rq);
	if (rq->chunked || rq->content_length > 0) {
		bool too_large = rq->content_length > route_body_max(c);

		if (too_large && c->verdict == VERDICT_OK)
			c->verdict = VERDICT_TOO_LARGE;
		if (too_large || (c->verdict != VERDICT_OK && rq->expect_continue))
			return refuse_unread(c, rq, len);
		if (rq->chunked || rq->content_length != len - head_len) {
			conn_move(c, CONN_BODY);
			/* Who is refused has no time to lose. */
			c->deadline_ms = deadline_in(c->verdict == VERDICT_OK
			                                 ? c->server->config->timeouts.request
			                                 : c->server->config->timeouts.header);
			buf_add(&c->head, p, head_len);
			c->body_left = rq->content_length;
			c->body_dropped = 0;
			c->chunked = (struct http_chunked){0};
			if (rq->expect_continue && len == head_len)
				conn_send_continue(c);
			return head_len;
		}
		/* It ends where the bytes end, and behind those there is room for one more: see
		 * server->recv and conn_run_input. */
		p[len] = '\0';
		dispatch(c, rq, (struct span){p + head_len, len - head_len}, SPAN(""));
		return len;
	}
	dispatch(c, rq, SPAN(""), (struct span){p + head_len, len - head_len});
	return head_len;
}

static size_t
on_head(struct conn *c, char *p, size_t len)
{
	struct http_request rq;
	struct http_fault fault;
	size_t head_len;

	switch (http_parse_head(p, len, &c->scanned, &rq, &head_len, &fault)) {
	case HTTP_PARSE_MORE:
		return 0;
	case HTTP_PARSE_BAD:
		conn_refuse(c, &fault);
		return len;
	case HTTP_PARSE_OK:
		break;
	}
	return on_request(c, &rq, p, head_len, len);
}

/* The body's last byte has come. */
static void
on_body_end(struct conn *c, struct span ahead)
{
	static const struct http_fault nomem = {503, "out of memory"};
	struct http_request rq;
	struct http_fault fault;
	size_t head_len, scanned = 0;

	if (buf_reserve(&c->body, 1) == NULL || c->head.failed) {
		conn_refuse(c, &nomem);
		return;
	}
	c->body.data[c->body.len] = '\0';
	if (http_parse_head(c->head.data, c->head.len, &scanned, &rq, &head_len, &fault) !=
	    HTTP_PARSE_OK)
		fatalx("conn: a head that was parsed is no head any more");
	dispatch(c, &rq, (struct span){c->body.data, c->body.len}, ahead);
	buf_free(&c->head);
	buf_free(&c->body);
}

static size_t
on_body(struct conn *c, char *p, size_t len)
{
	size_t max = route_body_max(c), used = len;
	struct http_fault fault;

	if (c->chunked_in) {
		enum http_parse r = http_chunked_feed(
		    &c->chunked, p, len, &used, &c->body, max - c->body_dropped, &fault);

		if (r == HTTP_PARSE_BAD) {
			conn_refuse(c, &fault);
			return len;
		}
		if (c->verdict != VERDICT_OK) {
			c->body_dropped += c->body.len;
			c->body.len = 0;
		}
		if (r == HTTP_PARSE_MORE)
			return used;
	} else {
		if (used > c->body_left)
			used = (size_t)c->body_left;
		if (c->verdict == VERDICT_OK)
			buf_add(&c->body, p, used);
		c->body_left -= used;
		if (c->body_left > 0)
			return used;
	}
	on_body_end(c, (struct span){p + used, len - used});
	return used;
}

/* Serve the requests in these bytes; how many of them were taken.  p[len] may be written to. */
static size_t
conn_run(struct conn *c, char *p, size_t len)
{
	size_t at = 0, n;

	c->running = true;
	while (at < len) {
		if (c->state == CONN_IDLE)
			begin_head(c);
		if (c->state == CONN_HEAD)
			n = on_head(c, p + at, len - at);
		else if (c->state == CONN_BODY)
			n = on_body(c, p + at, len - at);
		else
			break;
		if (n == 0)
			break;
		at += n;
	}
	c->running = false;
	return c->state == CONN_LINGER || c->state == CONN_DEAD ? len : at;
}

/* Note what the connection keeps; false: it is refused, for all of them together keep too much. */
static bool
within_held(struct conn *c)
{
	static const struct http_fault full = {503, "too many requests are half sent"};
	size_t now = c->in.cap + c->head.cap + c->body.cap;

	c->server->held += now - c->held;
	c->held = now;
	if (c->server->held <= CONN_HELD_MAX || now <= CONN_HELD_SMALL || c->state != CONN_BODY)
		return true;
	conn_header(c, "Retry-After", "1");
	conn_refuse(c, &full);
	return false;
}

/* What follows any conn_run: keep memory and the read-ahead within bounds. */
static void
ran(struct conn *c)
{
	bool request = c->state == CONN_IDLE || c->state == CONN_HEAD || c->state == CONN_BODY;

	if (c->state == CONN_DEAD)
		return;
	if (!within_held(c)) {
		ran(c);
		return;
	}
	if (c->in.failed) {
		conn_close(c, "out of memory");
		return;
	}
	if (c->in.len == 0 && c->in.cap > 0)
		buf_free(&c->in);
	if (c->state == CONN_UPGRADED) {
		if (c->in.len > 0)
			conn_defer(c);
		return;
	}
	if (request && c->eof)
		conn_close(c, "closed by the client");
	else if (request || c->state == CONN_LINGER || c->in.len < CONN_AHEAD_MAX)
		conn_read_start(c);
	else
		conn_read_stop(c);
}

/* Serve what is in c->in. */
void
conn_run_input(struct conn *c)
{
	if (c->in.len > 0 && buf_reserve(&c->in, 1) != NULL)
		buf_consume(&c->in, conn_run(c, c->in.data, c->in.len));
	ran(c);
}

static void
read_request(struct conn *c)
{
	struct server *s = c->server;
	ssize_t n = recv(c->fd, s->recv, CONN_RECV_MAX, 0);
	size_t used;

	if (n < 0) {
		if (errno != EAGAIN && errno != EINTR)
			conn_close(c, strerror(errno));
		return;
	}
	if (n == 0) {
		conn_close(c, c->state == CONN_IDLE ? "closed" : "closed in mid-request");
		return;
	}
	if (c->in.len > 0) {
		buf_add(&c->in, s->recv, (size_t)n);
		conn_run_input(c);
		return;
	}
	used = conn_run(c, s->recv, (size_t)n);
	buf_add(&c->in, s->recv + used, (size_t)n - used);
	ran(c);
}

/* A reply is under way: keep a little of what comes, and notice when the client goes away. */
static void
read_ahead(struct conn *c)
{
	struct server *s = c->server;
	ssize_t n;

	n = recv(c->fd, s->recv, CONN_AHEAD_MAX - c->in.len, 0);
	if (n < 0) {
		if (errno != EAGAIN && errno != EINTR)
			conn_close(c, strerror(errno));
		return;
	}
	if (n == 0) {
		if (c->state != CONN_FLUSH) {
			conn_close(c, "client gone");
			return;
		}
		/* All is said, part of it is queued: the client may well have closed its side. */
		conn_read_stop(c);
		c->eof = true;
		return;
	}
	buf_add(&c->in, s->recv, (size_t)n);
	if (c->in.failed)
		conn_close(c, "out of memory");
	else if (c->in.len >= CONN_AHEAD_MAX)
		conn_read_stop(c);
}

static void
read_and_drop(struct conn *c)
{
	ssize_t n = 0;

	for (int i = 0; i < 4; i++) {
		n = recv(c->fd, c->server->recv, CONN_RECV_MAX, 0);
		if (n <= 0)
			break;
	}
	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
		conn_close(c, "done");
}

void
conn_read_cb(evutil_socket_t fd, short what, void *arg)
{
	struct conn *c = arg;

	(void)fd;
	(void)what;
	assert(c->magic == CONN_MAGIC);
	switch (c->state) {
	case CONN_IDLE:
	case CONN_HEAD:
	case CONN_BODY:
		read_request(c);
		break;
	case CONN_LATER:
	case CONN_STREAM:
	case CONN_FLUSH:
		read_ahead(c);
		break;
	case CONN_UPGRADED:
		conn_upgraded_read(c);
		break;
	case CONN_LINGER:
		read_and_drop(c);
		break;
	}
}
