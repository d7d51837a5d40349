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
 * before that; and it closes them without a word, see upstream_link.c.
 */
#include <stdlib.h>
#include <string.h>

#include "daemon/config_change.h"
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

struct upstream_view *
upstream_view(struct upstream *u)
{
	u->view->refs++;
	return u->view;
}

const struct config *
upstream_view_config(const struct upstream_view *v)
{
	return v->config;
}

void
upstream_view_free(struct upstream_view *v)
{
	if (v == NULL || --v->refs > 0)
		return;
	for (int i = 0; i < CONFIG_PROVIDERS_MAX; i++)
		pool_free(v->pool[i]);
	config_free(v->config);
	free(v);
}

/* A provider's pool, if it may stay as it is. */
static struct pool *
keep_pool(const struct upstream_view *before, const struct config *config, int i)
{
	if (before == NULL || before->pool[i] == NULL ||
	    !config_same_provider(&before->config->provider[i], &config->provider[i]))
		return NULL;
	before->pool[i]->refs++;
	return before->pool[i];
}

int
upstream_renew(struct upstream *u, const struct config *config)
{
	struct upstream_view *v = calloc(1, sizeof *v), *before = u->view;
	bool good = v != NULL;

	if (v == NULL)
		return -1;
	v->refs = 1;
	v->u = u;
	v->config = config_ref(config);
	for (int i = 0; i < config->provider_count && good; i++) {
		if (config->provider[i].name == NULL)
			continue;
		v->pool[i] = keep_pool(before, config, i);
		if (v->pool[i] == NULL)
			v->pool[i] = pool_new(&config->provider[i]);
		good = v->pool[i] != NULL;
	}
	if (!good) {
		upstream_view_free(v);
		return -1;
	}
	for (int i = 0; i < CONFIG_PROVIDERS_MAX && before != NULL; i++)
		if (before->pool[i] != NULL && before->pool[i] != v->pool[i])
			pool_retire(before->pool[i]);
	u->view = v;
	gather_limit(u->gather, config->flush_ms_max);
	upstream_view_free(before);
	return 0;
}

struct upstream *
upstream_new(struct event_base *base, const struct config *config)
{
	struct upstream *u = calloc(1, sizeof *u);

	if (u == NULL)
		return NULL;
	curl_global_init(CURL_GLOBAL_DEFAULT);
	u->base = base;
	u->multi = curl_multi_init();
	u->timer = evtimer_new(base, timer_cb, u);
	u->gather = gather_new(base, config->flush_ms_max);
	u->out = secret_new(WRITE_SIZE);
	if (u->multi == NULL || u->timer == NULL || u->gather == NULL ||
	    upstream_renew(u, config) != 0) {
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
	upstream_view_free(u->view);
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
