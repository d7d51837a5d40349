/*
 * libcurl's multi-socket interface on libevent.  Worker process.
 *
 * What bites (each learned the hard way by somebody):
 *  - libcurl closes its own descriptors: the event must go on CURL_POLL_REMOVE, before that.
 *  - A handle must not be removed from the multi inside one of its own callbacks; a cancel there
 *    is done when the callback is left.
 *  - CURLOPT_CAPATH must be NULL with Debian's build, or each verified connection costs 16 times
 *    the CPU.
 *  - HTTP/1.1 only: pausing a transfer on HTTP/2 does not stop its data.
 */
#include "daemon/upstream.h"

#include <curl/curl.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/log.h"

#define POOL_MAX 128         /* idle easy handles kept for reuse, a provider */
#define READ_SIZE 8192       /* libcurl's buffer, one per open call */
#define MEDIA_TYPE_MAX 64

struct upstream {
	struct event_base *base;
	const struct config *config;
	CURLM *multi;
	struct event *timer;
	struct curl_slist *headers[CONFIG_PROVIDERS_MAX];
	/* Handles with all options set that stay the same from call to call. */
	struct {
		CURL *easy[POOL_MAX];
		int n;
	} pool[CONFIG_PROVIDERS_MAX];
	size_t calls;
	struct call *dirty; /* calls that got data since the last flush */
	struct call *doomed; /* cancelled inside a callback */
	struct call *resumed; /* to be un-paused by the event below */
	struct event *resume;
	bool inside;        /* within a curl_multi_ call: handles can't be removed */
};

struct sock {
	struct event *ev;
	short what;
};

struct call {
	struct upstream *u;
	CURL *easy;
	int provider;
	struct buf body;
	const struct call_ops *ops;
	void *arg;
	struct call *next_dirty, *next_doomed, *next_resumed;
	char media_type[MEDIA_TYPE_MAX];
	bool is_dirty, head_given, paused, resuming, cancelled;
	char error[CURL_ERROR_SIZE];
};

static void check_done(struct upstream *);

static void
call_free(struct call *c)
{
	struct upstream *u = c->u;

	for (struct call **p = &u->dirty; c->is_dirty && *p != NULL; p = &(*p)->next_dirty) {
		if (*p == c) {
			*p = c->next_dirty;
			break;
		}
	}
	for (struct call **p = &u->resumed; c->resuming && *p != NULL; p = &(*p)->next_resumed) {
		if (*p == c) {
			*p = c->next_resumed;
			break;
		}
	}
	curl_multi_remove_handle(u->multi, c->easy);
	if (u->pool[c->provider].n < POOL_MAX) {
		/* It must not keep what goes with the call. */
		curl_easy_setopt(c->easy, CURLOPT_POSTFIELDS, NULL);
		curl_easy_setopt(c->easy, CURLOPT_ERRORBUFFER, NULL);
		u->pool[c->provider].easy[u->pool[c->provider].n++] = c->easy;
	} else {
		curl_easy_cleanup(c->easy);
	}
	buf_free(&c->body);
	u->calls--;
	free(c);
}

/* After every entry into libcurl: pass on flushes, bury the cancelled, report the ended. */
static void
after(struct upstream *u)
{
	while (u->dirty != NULL) {
		struct call *c = u->dirty;

		u->dirty = c->next_dirty;
		c->is_dirty = false;
		if (!c->cancelled)
			c->ops->flush(c->arg);
	}
	while (u->doomed != NULL) {
		struct call *c = u->doomed;

		u->doomed = c->next_doomed;
		call_free(c);
	}
	check_done(u);
}

static void
action(struct upstream *u, curl_socket_t s, int what)
{
	int running;

	u->inside = true;
	curl_multi_socket_action(u->multi, s, what, &running);
	u->inside = false;
	after(u);
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

/* libcurl wants to watch a socket, or no more. */
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

/*
 * Un-pausing delivers what libcurl kept back, at once and from inside the call, so it is done
 * here, where nobody else is on the stack.
 */
static void
resume_cb(evutil_socket_t fd, short what, void *arg)
{
	struct upstream *u = arg;

	(void)fd;
	(void)what;
	while (u->resumed != NULL) {
		struct call *c = u->resumed;

		u->resumed = c->next_resumed;
		c->resuming = false;
		if (c->paused || c->cancelled)
			continue;
		u->inside = true;
		curl_easy_pause(c->easy, CURLPAUSE_CONT);
		u->inside = false;
	}
	after(u);
}

static void
give_head(struct call *c)
{
	long status = 0;
	char *type = NULL;
	curl_off_t retry_after = 0;
	size_t n = 0;

	c->head_given = true;
	curl_easy_getinfo(c->easy, CURLINFO_RESPONSE_CODE, &status);
	curl_easy_getinfo(c->easy, CURLINFO_CONTENT_TYPE, &type);
	curl_easy_getinfo(c->easy, CURLINFO_RETRY_AFTER, &retry_after);
	if (type != NULL) {
		n = strcspn(type, "; \t");
		if (n >= sizeof c->media_type)
			n = sizeof c->media_type - 1;
		for (size_t i = 0; i < n; i++)
			c->media_type[i] =
			    (char)(type[i] >= 'A' && type[i] <= 'Z' ? type[i] + 32 : type[i]);
	}
	c->media_type[n] = '\0';
	c->ops->head(c->arg, (int)status, c->media_type, (int64_t)retry_after);
}

static size_t
write_function(char *bytes, size_t size, size_t n, void *arg)
{
	struct call *c = arg;

	n *= size;
	if (!c->cancelled && !c->head_given)
		give_head(c);
	if (c->cancelled)
		return n == 0 ? 1 : 0; /* an error: libcurl ends the transfer */
	if (!c->is_dirty) {
		c->is_dirty = true;
		c->next_dirty = c->u->dirty;
		c->u->dirty = c;
	}
	c->ops->data(c->arg, bytes, n);
	return c->cancelled ? (n == 0 ? 1 : 0) : n;
}

static enum call_result
result_of(const struct call *c, CURLcode code)
{
	switch (code) {
	case CURLE_OK:
		return CALL_COMPLETE;
	case CURLE_OPERATION_TIMEDOUT:
		return CALL_TIMEOUT;
	case CURLE_COULDNT_RESOLVE_HOST:
	case CURLE_COULDNT_CONNECT:
	case CURLE_SSL_CONNECT_ERROR:
	case CURLE_PEER_FAILED_VERIFICATION:
	case CURLE_SSL_CERTPROBLEM:
	case CURLE_SSL_CACERT_BADFILE:
		return CALL_CONNECT;
	case CURLE_UNSUPPORTED_PROTOCOL:
	case CURLE_WEIRD_SERVER_REPLY:
	case CURLE_HTTP2:
	case CURLE_BAD_CONTENT_ENCODING:
		return CALL_PROTOCOL;
	default:
		return c->head_given ? CALL_TRUNCATED : CALL_CONNECT;
	}
}

static void
check_done(struct upstream *u)
{
	CURLMsg *msg;
	int left;

	while ((msg = curl_multi_info_read(u->multi, &left)) != NULL) {
		struct call *c;
		CURLcode code = msg->data.result;
		enum call_result r;

		if (msg->msg != CURLMSG_DONE)
			continue;
		curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, (char **)&c);
		if (!c->cancelled && code == CURLE_OK && !c->head_given)
			give_head(c); /* an empty body */
		if (!c->cancelled) {
			c->cancelled = true; /* what end() cancels is freed here */
			r = result_of(c, code);
			c->ops->end(c->arg, r,
			    c->error[0] != '\0' ? c->error : curl_easy_strerror(code));
		}
		for (struct call **p = &u->doomed; *p != NULL; p = &(*p)->next_doomed) {
			if (*p == c) {
				*p = c->next_doomed;
				break;
			}
		}
		call_free(c);
	}
}

static struct curl_slist *
provider_headers(const struct config_provider *p)
{
	struct curl_slist *l = NULL;
	struct buf auth = {0};

	/* Without this libcurl waits a second for a 100 on larger bodies. */
	l = curl_slist_append(l, "Expect:");
	l = curl_slist_append(l, "Content-Type: application/json");
	l = curl_slist_append(l, "Accept: text/event-stream, application/json");
	if (p->api_key[0] != '\0') {
		buf_printf(&auth, "Authorization: Bearer %s", p->api_key);
		buf_add(&auth, "", 1);
		l = curl_slist_append(l, auth.data);
		buf_free(&auth);
	}
	return l;
}

struct upstream *
upstream_new(struct event_base *base, const struct config *config)
{
	struct upstream *u = calloc(1, sizeof *u);

	if (u == NULL)
		return NULL;
	curl_global_init(CURL_GLOBAL_DEFAULT);
	u->base = base;
	u->config = config;
	u->multi = curl_multi_init();
	u->timer = evtimer_new(base, timer_cb, u);
	u->resume = event_new(base, -1, 0, resume_cb, u);
	if (u->multi == NULL || u->timer == NULL || u->resume == NULL) {
		upstream_free(u);
		return NULL;
	}
	curl_multi_setopt(u->multi, CURLMOPT_SOCKETFUNCTION, socket_function);
	curl_multi_setopt(u->multi, CURLMOPT_SOCKETDATA, u);
	curl_multi_setopt(u->multi, CURLMOPT_TIMERFUNCTION, timer_function);
	curl_multi_setopt(u->multi, CURLMOPT_TIMERDATA, u);
	curl_multi_setopt(u->multi, CURLMOPT_MAXCONNECTS, 1024L);
	curl_multi_setopt(u->multi, CURLMOPT_PIPELINING, (long)CURLPIPE_NOTHING);
	for (int i = 0; i < config->provider_count; i++)
		u->headers[i] = provider_headers(&config->provider[i]);
	return u;
}

void
upstream_free(struct upstream *u)
{
	if (u == NULL)
		return;
	for (int i = 0; i < CONFIG_PROVIDERS_MAX; i++)
		while (u->pool[i].n > 0)
			curl_easy_cleanup(u->pool[i].easy[--u->pool[i].n]);
	if (u->multi != NULL)
		curl_multi_cleanup(u->multi);
	for (int i = 0; i < CONFIG_PROVIDERS_MAX; i++)
		curl_slist_free_all(u->headers[i]);
	if (u->timer != NULL)
		event_free(u->timer);
	if (u->resume != NULL)
		event_free(u->resume);
	free(u);
	curl_global_cleanup();
}

size_t
upstream_calls(const struct upstream *u)
{
	return u->calls;
}

/* A handle for calls to base_url + path of a provider; NULL without memory. */
static CURL *
make_handle(struct upstream *u, int provider, const char *path)
{
	const struct config *cfg = u->config;
	CURL *e = curl_easy_init();
	struct buf url = {0};

	buf_printf(&url, "%s%s", cfg->provider[provider].base_url, path);
	buf_add(&url, "", 1);
	if (e == NULL || url.failed || curl_easy_setopt(e, CURLOPT_URL, url.data) != CURLE_OK) {
		if (e != NULL)
			curl_easy_cleanup(e);
		buf_free(&url);
		return NULL;
	}
	buf_free(&url);
	curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(e, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	curl_easy_setopt(e, CURLOPT_FOLLOWLOCATION, 0L);
	curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(e, CURLOPT_NOPROXY, "*");
	curl_easy_setopt(e, CURLOPT_USERAGENT, "tolld/" TOLLD_VERSION);
	curl_easy_setopt(e, CURLOPT_HTTPHEADER, u->headers[provider]);
	curl_easy_setopt(e, CURLOPT_POST, 1L);
	curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS, (long)cfg->timeouts.connect * 1000);
	curl_easy_setopt(e, CURLOPT_TCP_NODELAY, 1L);
	curl_easy_setopt(e, CURLOPT_TCP_KEEPALIVE, 1L);
	curl_easy_setopt(e, CURLOPT_BUFFERSIZE, (long)READ_SIZE);
	curl_easy_setopt(e, CURLOPT_CAPATH, NULL);
	curl_easy_setopt(e, CURLOPT_ACCEPT_ENCODING, NULL);
	curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, write_function);
	return e;
}

static void
give_body(struct call *c)
{
	CURL *e = c->easy;

	curl_easy_setopt(e, CURLOPT_POSTFIELDS, c->body.data);
	curl_easy_setopt(e, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)c->body.len);
	curl_easy_setopt(e, CURLOPT_WRITEDATA, c);
	curl_easy_setopt(e, CURLOPT_PRIVATE, c);
	curl_easy_setopt(e, CURLOPT_ERRORBUFFER, c->error);
}

struct call *
upstream_post(struct upstream *u, int provider, const char *path, struct buf *body,
    const struct call_ops *ops, void *arg)
{
	struct call *c = calloc(1, sizeof *c);

	if (c != NULL && !body->failed)
		c->easy = u->pool[provider].n > 0 ? u->pool[provider].easy[--u->pool[provider].n]
						  : make_handle(u, provider, path);
	if (c == NULL || c->easy == NULL) {
		free(c);
		buf_free(body);
		return NULL;
	}
	c->u = u;
	c->provider = provider;
	c->ops = ops;
	c->arg = arg;
	c->body = *body;
	*body = (struct buf){0};
	give_body(c);
	u->calls++;
	/* Only arms a timer; the transfer starts from the event loop. */
	if (curl_multi_add_handle(u->multi, c->easy) != CURLM_OK) {
		call_free(c);
		return NULL;
	}
	return c;
}

void
call_pause(struct call *c)
{
	if (c->paused || c->cancelled)
		return;
	c->paused = true;
	curl_easy_pause(c->easy, CURLPAUSE_RECV);
}

void
call_resume(struct call *c)
{
	if (!c->paused || c->cancelled)
		return;
	c->paused = false;
	if (!c->resuming) {
		c->resuming = true;
		c->next_resumed = c->u->resumed;
		c->u->resumed = c;
	}
	event_active(c->u->resume, EV_TIMEOUT, 0);
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
	if (c->u->inside) {
		c->next_doomed = c->u->doomed;
		c->u->doomed = c;
	} else {
		call_free(c);
	}
}
