/*
 * A small server over daemon/conn.c for tests/http/run.py: every way to reply, with time-outs
 * from the command line.
 *
 *   echo PORT [header S] [request S] [idle S] [body BYTES] [files N] [origin URL]...
 *
 * Prints "ready PORT" once it listens; SIGUSR1 drains, and it exits when empty.
 * /stats tells what only the inside knows: connections, heap, how often `gone` was called.
 */
#include <arpa/inet.h>
#include <malloc.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/auth.h"
#include "daemon/conn.h"
#include "daemon/metrics.h"

static struct {
	struct event_base *base;
	struct server *server;
	struct config config;
	struct heritage heritage;
	char key[4][AUTH_KEY_LEN + 1];
	unsigned gone, writable, requests[6], draining;
} test;

/* Stubs: what conn.c needs from modules that have tests of their own. */
void
metrics_connection_refused(enum connection_kind kind)
{
	(void)kind;
}

void
metrics_limited(enum limited_kind kind)
{
	(void)kind;
}

void
metrics_request(enum route_id route, int status)
{
	(void)route;
	test.requests[status / 100]++;
}

static struct event_base *
base(void)
{
	return test.base;
}

/* Something to be done later, for a connection that may be gone by then. */
struct job {
	struct conn *conn;
	struct event *timer;
	size_t left;
	uint32_t ms;
	struct timeval pause;
	bool abort;
};

static void
job_free(struct job *j)
{
	event_free(j->timer);
	free(j);
}

static void
job_gone(void *arg, struct conn *c)
{
	(void)c;
	test.gone++;
	job_free(arg);
}

static struct job *
job_new(event_callback_fn run, size_t left, uint32_t ms)
{
	struct job *j = calloc(1, sizeof(*j));

	j->left = left;
	j->timer = event_new(base(), -1, EV_PERSIST, run, j);
	j->pause = (struct timeval){ms / 1000, (ms % 1000) * 1000};
	return j;
}

static uint32_t
number(const struct http_request *rq, const char *name, uint32_t otherwise)
{
	char text[32];

	if (!http_query(rq->query, name, text, sizeof(text), NULL))
		return otherwise;
	return (uint32_t)strtoul(text, NULL, 10);
}

static void
echo_handler(struct conn *c, const struct http_request *rq, struct span body)
{
	struct buf b = {0};
	char header[200];

	if (body.p[body.len] != '\0')
		abort();
	if (http_query(rq->query, "header", header, sizeof(header), NULL))
		conn_header(c, "X-Test", "%s", header);
	buf_span(&b, rq->method_text);
	buf_str(&b, " ");
	buf_span(&b, rq->path);
	buf_str(&b, "\n");
	buf_span(&b, body);
	conn_reply_buf(c, 200, "text/plain", &b);
	buf_free(&b);
}

static void
hello_handler(struct conn *c, const struct http_request *rq, struct span body)
{
	(void)rq;
	(void)body;
	conn_reply(c, 200, "text/plain", "hello, world\n", 13);
}

static void
slow_cb(evutil_socket_t fd, short what, void *arg)
{
	struct job *j = arg;

	(void)fd;
	(void)what;
	conn_reply(j->conn, 200, "text/plain", "slow\n", 5);
	job_free(j);
}

static const struct conn_ops slow_ops = {job_gone, NULL};

static void
slow_handler(struct conn *c, const struct http_request *rq, struct span body)
{
	struct job *j = job_new(slow_cb, 1, number(rq, "ms", 100));

	(void)body;
	j->conn = c;
	conn_later(c, &slow_ops, j);
	event_add(j->timer, &j->pause);
}

static void
stream_cb(evutil_socket_t fd, short what, void *arg)
{
	static const char event[] = "data: {\"type\":\"token\",\"data\":{\"token\":\" word\"}}\n\n";
	struct job *j = arg;

	(void)fd;
	(void)what;
	if (j->left > 0) {
		conn_stream_write(j->conn, event, sizeof(event) - 1);
		j->left--;
		return;
	}
	conn_stream_end(j->conn, j->abort);
	job_free(j);
}

static void
stream_handler(struct conn *c, const struct http_request *rq, struct span body)
{
	struct job *j = job_new(stream_cb, number(rq, "n", 3), number(rq, "ms", 10));

	(void)body;
	j->conn = c;
	j->abort = number(rq, "abort", 0) != 0;
	conn_header(c, "Cache-Control", "no-cache");
	conn_stream_start(c, 200, "text/event-stream", &slow_ops, j);
	if (number(rq, "flush", 0) != 0)
		conn_stream_flush(c);
	event_add(j->timer, &j->pause);
}

static void
big_writable(void *arg, struct conn *c)
{
	static char block[20000];
	struct job *j = arg;

	test.writable++;
	memset(block, 'x', sizeof(block));
	while (j->left > 0 && conn_queued(c) == 0) {
		size_t n = j->left < sizeof(block) ? j->left : sizeof(block);

		conn_stream_write(c, block, n);
		j->left -= n;
	}
	if (j->left == 0) {
		conn_stream_end(c, false);
		job_free(j);
	}
}

static void
big_cb(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	(void)arg;
}

static const struct conn_ops big_ops = {job_gone, big_writable};

/* 50 MB, no more of it in memory than the socket refused at once. */
static void
big_handler(struct conn *c, const struct http_request *rq, struct span body)
{
	struct job *j = job_new(big_cb, number(rq, "bytes", 50000000), 1000);

	(void)body;
	j->conn = c;
	conn_stream_start(c, 200, "application/octet-stream", &big_ops, j);
	big_writable(j, c);
}

/* The same as one plain reply: all of it queued. */
static void
plain_handler(struct conn *c, const struct http_request *rq, struct span body)
{
	size_t n = number(rq, "bytes", 5000000);
	char *text = malloc(n);

	(void)body;
	memset(text, 'y', n);
	conn_reply(c, 200, "text/plain", text, n);
	free(text);
}

static void
nothing_handler(struct conn *c, const struct http_request *rq, struct span body)
{
	(void)c;
	(void)rq;
	(void)body;
}

/* Hand over to ourselves, as one worker does to another. */
static void
hand_handler(struct conn *c, const struct http_request *rq, struct span body)
{
	struct buf input = {0};
	int fd;

	if (conn_adopted(c)) {
		echo_handler(c, rq, body);
		return;
	}
	buf_printf(&input, "%.*s %.*s HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n",
	    (int)rq->method_text.len, rq->method_text.p, (int)rq->target.len, rq->target.p,
	    body.len);
	buf_span(&input, body);
	fd = conn_detach(c, &input);
	conn_adopt(test.server, fd, input.data, input.len);
	buf_free(&input);
}

static void
who_handler(struct conn *c, const struct http_request *rq, struct span body)
{
	const struct account *a = conn_caller(c)->account;

	(void)rq;
	(void)body;
	conn_reply(c, 200, "text/plain", a->id, a->id_len);
}

/* gcc says it by a macro, clang by a feature. */
#ifdef __SANITIZE_ADDRESS__
#define HEAP_BY_SANITIZER
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HEAP_BY_SANITIZER
#endif
#endif

/* Bytes allocated and not yet freed. */
static size_t
heap(void)
{
#ifdef HEAP_BY_SANITIZER
	size_t __sanitizer_get_current_allocated_bytes(void);

	return __sanitizer_get_current_allocated_bytes();
#else
	struct mallinfo2 m = mallinfo2();

	return m.uordblks + m.hblkhd;
#endif
}

static void
stats_handler(struct conn *c, const struct http_request *rq, struct span body)
{
	struct buf b = {0};

	(void)rq;
	(void)body;
	buf_printf(&b, "{\"conns\":%zu,\"heap\":%zu,\"gone\":%u,\"writable\":%u,",
	    server_conns(test.server), heap(), test.gone, test.writable);
	buf_printf(&b, "\"requests\":[%u,%u,%u,%u,%u,%u]}", test.requests[0], test.requests[1],
	    test.requests[2], test.requests[3], test.requests[4], test.requests[5]);
	conn_reply_buf(c, 200, "application/json", &b);
	buf_free(&b);
}

static const struct route routes[] = {
    {"/", HTTP_GET, ROUTE_OPEN, ROUTE_PAGE, hello_handler},
    {"/echo", HTTP_GET | HTTP_POST | HTTP_DELETE | HTTP_PUT | HTTP_PATCH, ROUTE_OPEN, ROUTE_OTHER,
        echo_handler},
    {"/post", HTTP_POST, ROUTE_OPEN, ROUTE_SEND, echo_handler},
    {"/small", HTTP_POST | ROUTE_SMALL_BODY, ROUTE_OPEN, ROUTE_OTHER, echo_handler},
    {"/post", HTTP_DELETE, ROUTE_OPEN, ROUTE_SEND, hello_handler},
    {"/slow", HTTP_GET | HTTP_POST, ROUTE_OPEN, ROUTE_OTHER, slow_handler},
    {"/stream", HTTP_GET, ROUTE_OPEN, ROUTE_STREAM, stream_handler},
    {"/big", HTTP_GET, ROUTE_OPEN, ROUTE_OTHER, big_handler},
    {"/plain", HTTP_GET, ROUTE_OPEN, ROUTE_OTHER, plain_handler},
    {"/nothing", HTTP_GET, ROUTE_OPEN, ROUTE_OTHER, nothing_handler},
    {"/hand", HTTP_GET | HTTP_POST, ROUTE_OPEN, ROUTE_OTHER, hand_handler},
    {"/ws/chat/*", HTTP_GET, ROUTE_OPEN, ROUTE_WS, echo_handler},
    {"/who", HTTP_GET | HTTP_POST, ROUTE_ANY_KEY, ROUTE_BALANCE, who_handler},
    {"/v1/messages", HTTP_POST, KEY_SCOPE_CHAT, ROUTE_ANTHROPIC, who_handler},
    {"/mint", HTTP_POST, KEY_SCOPE_MINT, ROUTE_OTHER, who_handler},
    {"/stats", HTTP_GET, ROUTE_OPEN, ROUTE_OTHER, stats_handler},
    {0},
};

static void
keys(void)
{
	static const struct region_dims dims = {.workers = 1,
	    .max_accounts = 16,
	    .max_keys = 16,
	    .max_holds = 64,
	    .ring_records = 64,
	    .ring_arena = 4096};
	struct region *r = &test.heritage.region;
	struct account_books books = {0};
	struct key_entry k;

	if (region_anonymous(r, &dims) != 0 || region_grow_accounts(r, 1) != 0 ||
	    region_grow_keys(r, 4) != 0 || account_insert(r, "alice", 5, &books, 0) == NULL)
		exit(1);
	for (int i = 0; i < 4; i++) {
		memset(&k, 0, sizeof(k));
		auth_make_key(test.key[i], &k.key_id);
		auth_hash(test.heritage.key_secret, test.key[i], AUTH_KEY_LEN, k.hash);
		k.flags = i == 1 ? KEY_REVOKED : 0;
		k.expires_us = i == 2 ? 1 : 0;
		k.scopes = KEY_SCOPE_CHAT;
		/* The fourth is never inserted. */
		if (i < 3 && key_insert(r, &k) == NULL)
			exit(1);
		printf("key %s\n", test.key[i]);
	}
}

static int
listen_on(uint16_t port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
	socklen_t len = sizeof(a);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;

	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	if (bind(fd, (struct sockaddr *)&a, sizeof(a)) != 0 || listen(fd, 4096) != 0 ||
	    getsockname(fd, (struct sockaddr *)&a, &len) != 0)
		exit(1);
	printf("ready %u\n", ntohs(a.sin_port));
	fflush(stdout);
	return fd;
}

static void
tick_cb(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	(void)arg;
	server_tick(test.server);
	if (test.draining && server_conns(test.server) == 0)
		event_base_loopbreak(base());
}

static void
drain_cb(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	(void)arg;
	test.draining = 1;
	server_drain(test.server);
}

static void
options(int argc, char **argv)
{
	struct config *c = &test.config;
	struct rlimit files;

	c->max_body = 1048576;
	c->timeouts.header = 10;
	c->timeouts.request = 60;
	c->timeouts.idle = 60;
	for (int i = 2; i + 1 < argc; i += 2) {
		uint32_t n = (uint32_t)strtoul(argv[i + 1], NULL, 10);

		if (strcmp(argv[i], "header") == 0)
			c->timeouts.header = n;
		else if (strcmp(argv[i], "request") == 0)
			c->timeouts.request = n;
		else if (strcmp(argv[i], "idle") == 0)
			c->timeouts.idle = n;
		else if (strcmp(argv[i], "body") == 0)
			c->max_body = n;
		else if (strcmp(argv[i], "origin") == 0)
			c->origins[c->origin_count++] = argv[i + 1];
		else if (strcmp(argv[i], "files") == 0) {
			files.rlim_cur = files.rlim_max = n;
			setrlimit(RLIMIT_NOFILE, &files);
		}
	}
}

int
main(int argc, char **argv)
{
	static const struct timeval tick = {0, 50000};
	struct event *timer, *drain;

	if (argc < 2)
		return 2;
	log_init("echo", LOG_LOGFMT, LOG_INFO);
	options(argc, argv);
	test.config.listen_count = 1;
	test.heritage.config = &test.config;
	keys();
	test.heritage.listen_fd[0][0] = listen_on((uint16_t)atoi(argv[1]));
	test.base = event_base_new();
	test.server = server_new(test.base, &test.heritage, PROC_WORKER, routes, NULL);
	timer = event_new(test.base, -1, EV_PERSIST, tick_cb, NULL);
	drain = evsignal_new(test.base, SIGUSR1, drain_cb, NULL);
	event_add(timer, &tick);
	event_add(drain, NULL);
	event_base_dispatch(test.base);
	event_free(timer);
	event_free(drain);
	server_free(test.server);
	event_base_free(test.base);
	return 0;
}
