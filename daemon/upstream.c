/*
 * Calls to providers.  Worker process.
 *
 * libcurl makes the connection (addresses, time-outs, TLS and its verification) through its
 * multi-socket interface on our event loop, and moves the bytes of TLS (curl_easy_send and _recv);
 * the HTTP on it is ours (response.c).  Letting libcurl do that too costs a poll() and some 3 us
 * for every paced token, and a buffer of 8 KB or more for every open stream; here one buffer
 * serves all.
 *
 * A connection belongs to a libcurl handle (CONNECT_ONLY) that stays in the multi for as long as
 * it lives.  After a whole answer it waits in its provider's list for the next call.
 *
 * What bites: libcurl closes its own descriptors, so its events must go on CURL_POLL_REMOVE,
 * before that; CURLOPT_CAPATH must be NULL with Debian's build, or each verified connection costs
 * 16 times the CPU; TLS may hold bytes that epoll does not know of.
 */
#include "daemon/upstream.h"

#include <curl/curl.h>
#include <errno.h>
#include <event2/event_struct.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "daemon/gather.h"
#include "daemon/log.h"
#include "daemon/response.h"
#include "daemon/worker.h"
#include "shm/clock.h"

#define READ_SIZE 65536
#define READS_MAX 4        /* of one connection at a time, when more is there */
#define IDLE_MAX 256       /* connections kept for the next call, a provider */
#define IDLE_US (50 * UINT64_C(1000000)) /* and so long; many servers close after 60 s */

enum link_state {
	LINK_CONNECTING, /* libcurl watches its socket; ends with its word */
	LINK_BUSY,       /* a call is on it */
	LINK_IDLE,       /* in its provider's list; ends by a call, the peer's close, or its age */
};

struct link {
	struct upstream *u;
	CURL *easy;
	int provider;
	enum link_state state;
	int fd;              /* libcurl's, once it is connected */
	struct event rd, wr;
	bool closing;        /* the end is there, perhaps behind bytes that were not read yet */
	struct gathered gathered; /* instead of rd, once the call says so */
	struct call *call;
	struct link *next;   /* idle ones */
	uint64_t idle_us;
	char error[CURL_ERROR_SIZE];
};

struct target { /* a provider */
	char *url;       /* for the connection */
	struct buf head; /* of every request, up to and without Content-Length */
	struct link *idle;
	int idle_count;
	bool tls;
};

struct upstream {
	struct event_base *base;
	const struct config *config;
	CURLM *multi;
	struct event *timer;
	struct gather *gather;
	struct target target[CONFIG_PROVIDERS_MAX];
	size_t calls;
	char read[READ_SIZE];
};

struct sock { /* one that libcurl watches */
	struct event *ev;
	short what;
};

struct call {
	struct upstream *u;
	struct link *link;
	int provider;
	struct buf request; /* head and body; freed when the answer begins */
	size_t sent;
	struct response response;
	const struct call_ops *ops;
	void *arg;
	bool paused, reused, heard;
	bool gathered;
	bool busy, cancelled; /* cancelled while one of its callbacks runs: freed after that */
};

/* Connections. */

static void
link_watch(struct link *l)
{
	if (l->call == NULL || !l->call->gathered || gather_add(l->u->gather, &l->gathered) != 0)
		event_add(&l->rd, NULL);
}

static void
link_unwatch(struct link *l)
{
	event_del(&l->rd);
	gather_remove(l->u->gather, &l->gathered);
}

static void
link_free(struct link *l)
{
	if (l->state != LINK_CONNECTING) {
		link_unwatch(l);
		event_del(&l->wr);
	}
	/* With a connect-only handle its connection goes, too. */
	curl_multi_remove_handle(l->u->multi, l->easy);
	curl_easy_cleanup(l->easy);
	free(l);
}

static void
link_unlist(struct link *l)
{
	struct target *t = &l->u->target[l->provider];

	for (struct link **p = &t->idle; *p != NULL; p = &(*p)->next) {
		if (*p == l) {
			*p = l->next;
			t->idle_count--;
			return;
		}
	}
}

/* The answer is whole and the connection can take another request. */
static void
link_rest(struct link *l)
{
	struct upstream *u = l->u;
	struct target *t = &u->target[l->provider];

	if (t->idle_count >= IDLE_MAX) {
		link_free(l);
		return;
	}
	l->state = LINK_IDLE;
	l->call = NULL;
	l->idle_us = coarse_us();
	l->next = t->idle;
	t->idle = l;
	t->idle_count++;
	event_del(&l->wr);
	gather_remove(u->gather, &l->gathered);
	/* To hear of the peer's close. */
	event_add(&l->rd, NULL);
}

/* The connection used last is the one most likely to be still there. */
static struct link *
link_reuse(struct upstream *u, int provider)
{
	struct target *t = &u->target[provider];
	uint64_t now = coarse_us();
	struct link *l;

	while ((l = t->idle) != NULL) {
		t->idle = l->next;
		t->idle_count--;
		if (now - l->idle_us < IDLE_US) {
			l->state = LINK_BUSY;
			return l;
		}
		link_free(l);
	}
	return NULL;
}

static struct link *
link_new(struct upstream *u, int provider)
{
	struct link *l = calloc(1, sizeof *l);
	CURL *e;

	if (l == NULL || (l->easy = e = curl_easy_init()) == NULL) {
		free(l);
		return NULL;
	}
	l->u = u;
	l->provider = provider;
	l->state = LINK_CONNECTING;
	curl_easy_setopt(e, CURLOPT_CONNECT_ONLY, 1L);
	curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(e, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(e, CURLOPT_NOPROXY, "*");
	curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS, (long)u->config->timeouts.connect * 1000);
	curl_easy_setopt(e, CURLOPT_TCP_NODELAY, 1L);
	curl_easy_setopt(e, CURLOPT_TCP_KEEPALIVE, 1L);
	curl_easy_setopt(e, CURLOPT_CAPATH, NULL);
	curl_easy_setopt(e, CURLOPT_PRIVATE, l);
	curl_easy_setopt(e, CURLOPT_ERRORBUFFER, l->error);
	/* Only arms a timer; the connecting starts from the event loop. */
	if (curl_easy_setopt(e, CURLOPT_URL, u->target[provider].url) != CURLE_OK ||
	    curl_multi_add_handle(u->multi, e) != CURLM_OK) {
		curl_easy_cleanup(e);
		free(l);
		return NULL;
	}
	return l;
}

/* Calls. */

static void
call_free(struct call *c)
{
	if (c->link != NULL)
		link_free(c->link);
	buf_free(&c->request);
	response_fini(&c->response);
	c->u->calls--;
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
	if (l != NULL && result == CALL_COMPLETE && response_reusable(&c->response)) {
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
		l = link_new(c->u, c->provider);
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

/*
 * Read or write what is there to be read or taken.  Plain connections go straight to the socket:
 * libcurl looks for a handle's connection among all of them, at every call, and with a thousand
 * open that is 6 us.  With TLS there is no way around it.  CURLE_AGAIN: nothing now; *n 0: closed.
 */
static CURLcode
link_read(struct link *l, char *to, size_t len, size_t *n)
{
	ssize_t got;

	if (l->u->target[l->provider].tls)
		return curl_easy_recv(l->easy, to, len, n);
	do {
		got = recv(l->fd, to, len, 0);
	} while (got < 0 && errno == EINTR);
	*n = got > 0 ? (size_t)got : 0;
	return got >= 0			      ? CURLE_OK
	    : errno == EAGAIN || errno == EWOULDBLOCK ? CURLE_AGAIN
						      : CURLE_RECV_ERROR;
}

static CURLcode
link_write(struct link *l, const char *from, size_t len, size_t *n)
{
	ssize_t sent;

	if (l->u->target[l->provider].tls)
		return curl_easy_send(l->easy, from, len, n);
	do {
		sent = send(l->fd, from, len, MSG_NOSIGNAL);
	} while (sent < 0 && errno == EINTR);
	*n = sent > 0 ? (size_t)sent : 0;
	return sent >= 0		      ? CURLE_OK
	    : errno == EAGAIN || errno == EWOULDBLOCK ? CURLE_AGAIN
						      : CURLE_SEND_ERROR;
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

/* Bytes of the answer.  False: the call is over. */
static bool
heard(struct call *c, char *bytes, size_t len)
{
	enum response_result r;

	if (!c->heard) {
		c->heard = true;
		buf_free(&c->request);
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
	bool tls = u->target[l->provider].tls, over = false;
	CURLcode code = CURLE_OK;
	size_t n = 0;
	int i;

	if (l->state == LINK_IDLE) {
		/* Closed by the peer, or it speaks without having been asked. */
		link_unlist(l);
		link_free(l);
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
	while (c->sent < c->request.len) {
		code = link_write(l, c->request.data + c->sent, c->request.len - c->sent, &n);
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

/* libcurl's side. */

static enum call_result
result_of(CURLcode code)
{
	return code == CURLE_OPERATION_TIMEDOUT ? CALL_TIMEOUT : CALL_CONNECT;
}

static void
connected(struct link *l, CURLcode code)
{
	curl_socket_t fd = CURL_SOCKET_BAD;
	struct call *c = l->call;

	if (code == CURLE_OK)
		curl_easy_getinfo(l->easy, CURLINFO_ACTIVESOCKET, &fd);
	if (code == CURLE_OK && fd != CURL_SOCKET_BAD) {
		l->fd = fd;
		l->gathered = (struct gathered){.fd = fd, .ready = gathered_cb};
		event_assign(&l->rd, l->u->base, fd, EV_READ | EV_PERSIST, read_cb, l);
		event_assign(&l->wr, l->u->base, fd, EV_WRITE, write_cb, l);
		start_sending(l);
		return;
	}
	end(c, result_of(code), l->error[0] != '\0' ? l->error : curl_easy_strerror(code));
}

static void
check_done(struct upstream *u)
{
	CURLMsg *msg;
	int left;

	while ((msg = curl_multi_info_read(u->multi, &left)) != NULL) {
		CURLcode code = msg->data.result;
		struct link *l;

		if (msg->msg != CURLMSG_DONE)
			continue;
		curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, (char **)&l);
		if (l->state == LINK_CONNECTING)
			connected(l, code);
	}
}

static void
action(struct upstream *u, curl_socket_t s, int what)
{
	int running;

	curl_multi_socket_action(u->multi, s, what, &running);
	check_done(u);
}

static void
sock_cb(evutil_socket_t fd, short what, void *arg)
{
	action(arg, fd,
	    (what & EV_READ ? CURL_CSELECT_IN : 0) | (what & EV_WRITE ? CURL_CSELECT_OUT : 0));
}

static void
timer_cb(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	action(arg, CURL_SOCKET_TIMEOUT, 0);
}

/* libcurl wants to watch a socket (while it connects), or no more. */
static int
socket_function(CURL *easy, curl_socket_t s, int what, void *arg, void *sockp)
{
	struct upstream *u = arg;
	struct sock *k = sockp;
	short want = (short)((what & CURL_POLL_IN ? EV_READ : 0) |
	    (what & CURL_POLL_OUT ? EV_WRITE : 0));

	(void)easy;
	if (what == CURL_POLL_REMOVE || want == 0) {
		if (k != NULL) {
			event_free(k->ev);
			free(k);
			curl_multi_assign(u->multi, s, NULL);
		}
		return 0;
	}
	if (k != NULL && k->what == want)
		return 0;
	if (k == NULL) {
		k = calloc(1, sizeof *k);
		if (k == NULL || (k->ev = event_new(u->base, s, 0, sock_cb, u)) == NULL) {
			free(k);
			return -1;
		}
		curl_multi_assign(u->multi, s, k);
	} else {
		event_del(k->ev);
	}
	k->what = want;
	event_assign(k->ev, u->base, s, (short)(want | EV_PERSIST), sock_cb, u);
	return event_add(k->ev, NULL);
}

static int
timer_function(CURLM *multi, long ms, void *arg)
{
	struct upstream *u = arg;

	(void)multi;
	if (ms < 0) {
		evtimer_del(u->timer);
	} else {
		struct timeval tv = {ms / 1000, (ms % 1000) * 1000};

		evtimer_add(u->timer, &tv);
	}
	return 0;
}

/* Interface. */

/* What every request to a provider begins with; false if its URL is none. */
static bool
make_target(struct target *t, const struct config_provider *p, const char *path)
{
	CURLU *url = curl_url();
	char *scheme = NULL, *host = NULL, *port = NULL, *base = NULL;
	bool good = url != NULL &&
	    curl_url_set(url, CURLUPART_URL, p->base_url, 0) == CURLUE_OK &&
	    curl_url_get(url, CURLUPART_SCHEME, &scheme, 0) == CURLUE_OK &&
	    curl_url_get(url, CURLUPART_HOST, &host, 0) == CURLUE_OK &&
	    curl_url_get(url, CURLUPART_PATH, &base, 0) == CURLUE_OK;

	if (good) {
		size_t n = strlen(base);

		if (curl_url_get(url, CURLUPART_PORT, &port, 0) != CURLUE_OK)
			port = NULL;
		while (n > 0 && base[n - 1] == '/')
			n--;
		t->tls = strcmp(scheme, "https") == 0;
		buf_printf(&t->head, "POST %.*s%s HTTP/1.1\r\nHost: %s", (int)n, base, path, host);
		if (port != NULL)
			buf_printf(&t->head, ":%s", port);
		buf_str(&t->head, "\r\nUser-Agent: tolld/" TOLLD_VERSION
				  "\r\nContent-Type: application/json"
				  "\r\nAccept: text/event-stream, application/json\r\n");
		if (p->api_key[0] != '\0')
			buf_printf(&t->head, "Authorization: Bearer %s\r\n", p->api_key);
		t->url = strdup(p->base_url);
	}
	curl_free(scheme);
	curl_free(host);
	curl_free(port);
	curl_free(base);
	curl_url_cleanup(url);
	return good && t->url != NULL && !t->head.failed;
}

struct upstream *
upstream_new(struct event_base *base, const struct config *config)
{
	struct upstream *u = calloc(1, sizeof *u);
	bool good = u != NULL;

	if (u == NULL)
		return NULL;
	curl_global_init(CURL_GLOBAL_DEFAULT);
	u->base = base;
	u->config = config;
	u->multi = curl_multi_init();
	u->timer = evtimer_new(base, timer_cb, u);
	u->gather = gather_new(base, config->flush_ms_max);
	for (int i = 0; i < config->provider_count && good; i++)
		good = make_target(&u->target[i], &config->provider[i], "/chat/completions");
	if (u->multi == NULL || u->timer == NULL || u->gather == NULL || !good) {
		upstream_free(u);
		return NULL;
	}
	curl_multi_setopt(u->multi, CURLMOPT_SOCKETFUNCTION, socket_function);
	curl_multi_setopt(u->multi, CURLMOPT_SOCKETDATA, u);
	curl_multi_setopt(u->multi, CURLMOPT_TIMERFUNCTION, timer_function);
	curl_multi_setopt(u->multi, CURLMOPT_TIMERDATA, u);
	/* They are all in use: none is libcurl's to close. */
	curl_multi_setopt(u->multi, CURLMOPT_MAXCONNECTS, 1000000L);
	return u;
}

void
upstream_free(struct upstream *u)
{
	if (u == NULL)
		return;
	for (int i = 0; i < CONFIG_PROVIDERS_MAX; i++) {
		struct target *t = &u->target[i];
		struct link *l;

		while ((l = t->idle) != NULL) {
			t->idle = l->next;
			link_free(l);
		}
		buf_free(&t->head);
		free(t->url);
	}
	if (u->multi != NULL)
		curl_multi_cleanup(u->multi);
	if (u->timer != NULL)
		event_free(u->timer);
	gather_free(u->gather);
	free(u);
	curl_global_cleanup();
}

size_t
upstream_calls(const struct upstream *u)
{
	return u->calls;
}

struct call *
upstream_post(struct upstream *u, int provider, struct buf *body, const struct call_ops *ops,
    void *arg)
{
	struct call *c = calloc(1, sizeof *c);
	struct link *l = NULL;

	if (c != NULL) {
		buf_add(&c->request, u->target[provider].head.data, u->target[provider].head.len);
		buf_printf(&c->request, "Content-Length: %zu\r\n\r\n", body->len);
		buf_add(&c->request, body->data, body->len);
		if (!c->request.failed && !body->failed)
			l = link_reuse(u, provider);
		c->reused = l != NULL;
		if (l == NULL && !c->request.failed && !body->failed)
			l = link_new(u, provider);
	}
	buf_free(body);
	if (l == NULL) {
		if (c != NULL)
			buf_free(&c->request);
		free(c);
		return NULL;
	}
	c->u = u;
	c->link = l;
	c->provider = provider;
	c->ops = ops;
	c->arg = arg;
	response_init(&c->response);
	l->call = c;
	u->calls++;
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
	if (c->u->target[c->link->provider].tls)
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
