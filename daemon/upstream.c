/*
 * Calls to providers: libcurl on the worker's event loop.  Worker process.
 *
 * libcurl makes the connection (addresses, time-outs, TLS and its verification) through its
 * multi-socket interface on our event loop, and moves the bytes of TLS (curl_easy_send and _recv);
 * the HTTP on it is ours (response.c).  Letting libcurl do that too costs a poll() and some 3 us
 * for every paced token, and a buffer of 8 KB or more for every open stream; here one buffer
 * serves all.
 *
 * What bites: libcurl closes its own descriptors, so its events must go on CURL_POLL_REMOVE,
 * before that.
 */
#include <stdlib.h>
#include <string.h>

#include "daemon/secret.h"
#include "daemon/upstream_private.h"

struct sock { /* one that libcurl watches */
	struct event *ev;
	short what;
};

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
			link_connected(l, code);
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
	short want =
	    (short)((what & CURL_POLL_IN ? EV_READ : 0) | (what & CURL_POLL_OUT ? EV_WRITE : 0));

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

/* Each URL with each key. */
static bool
make_targets(struct upstream *u, int provider, const struct config_provider *p)
{
	int n = p->base_urls * p->api_keys;
	struct target *t = calloc((size_t)n, sizeof *t);
	bool good = t != NULL;

	u->provider[provider].target = t;
	for (int i = 0; i < n && good; i++) {
		u->provider[provider].targets = i + 1;
		good = target_init(&t[i], p, i % p->base_urls, i / p->base_urls);
	}
	return good;
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
	u->out = secret_new(WRITE_SIZE);
	for (int i = 0; i < config->provider_count && good; i++)
		good = make_targets(u, i, &config->provider[i]);
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
		for (int j = 0; j < u->provider[i].targets; j++)
			target_fini(&u->provider[i].target[j]);
		free(u->provider[i].target);
	}
	secret_free(u->out);
	if (u->multi != NULL)
		curl_multi_cleanup(u->multi);
	if (u->timer != NULL)
		event_free(u->timer);
	gather_free(u->gather);
	free(u);
	curl_global_cleanup();
}

const char *
upstream_ca_bundle(void)
{
	return curl_version_info(CURLVERSION_NOW)->cainfo;
}

size_t
upstream_calls(const struct upstream *u)
{
	return u->calls;
}
