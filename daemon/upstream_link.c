/*
 * Connections to providers.  Worker process.
 *
 * libcurl connects them (CONNECT_ONLY).  A plain one is ours from then on, and its handle goes; one
 * with TLS belongs to its handle, which stays in the multi for as long as it lives.  After a whole
 * answer either waits in its provider's list for the next call.
 *
 * What bites: CURLOPT_CAPATH must be NULL with Debian's build, or each verified connection costs
 * 16 times the CPU; TLS may hold bytes that epoll does not know of.
 *
 * And libcurl takes a connection without a transfer for an idle one, which those of CONNECT_ONLY
 * always are.  Whoever connects sweeps the idle ones of the same cache first: what is older than
 * 118 s is closed, and what is dead, or with later versions has bytes that nobody has read.  So
 * none of ours may lie in a cache with another: in the middle of an answer its descriptor would be
 * closed, and given to the next client, whose events libevent would not ask for.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/upstream_private.h"
#include "shm/clock.h"

#define IDLE_MAX 256                     /* connections kept for the next call, a provider */
#define IDLE_US (50 * UINT64_C(1000000)) /* and so long; many servers close after 60 s */

void
link_watch(struct link *l)
{
	if (l->call == NULL || !l->call->gathered || gather_add(l->u->gather, &l->gathered) != 0)
		event_add(&l->rd, NULL);
}

void
link_unwatch(struct link *l)
{
	event_del(&l->rd);
	gather_remove(l->u->gather, &l->gathered);
}

/* With a connect-only handle its connection goes, too, unless that is ours. */
static void
let_go(struct link *l)
{
	curl_multi_remove_handle(l->u->multi, l->easy);
	curl_easy_cleanup(l->easy);
	l->easy = NULL;
	if (l->alone != NULL)
		curl_share_cleanup(l->alone);
	l->alone = NULL;
}

void
link_free(struct link *l)
{
	if (l->state != LINK_CONNECTING) {
		link_unwatch(l);
		event_del(&l->wr);
	}
	if (l->easy != NULL)
		let_go(l);
	if (l->fd >= 0 && !l->target->tls)
		close(l->fd);
	free(l);
}

static void
unlist(struct link *l)
{
	struct target *t = l->target;

	for (struct link **p = &t->idle; *p != NULL; p = &(*p)->next) {
		if (*p == l) {
			*p = l->next;
			t->idle_count--;
			return;
		}
	}
}

void
link_rest(struct link *l)
{
	struct target *t = l->target;

	if (t->idle_count >= IDLE_MAX || t->pool->retired) {
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
	gather_remove(l->u->gather, &l->gathered);
	/* To hear of the peer's close. */
	event_add(&l->rd, NULL);
}

/*
 * Has the peer said nothing, nor closed?  What it says before it is asked is no answer to the next
 * call, and the event loop may not have come to it yet.
 */
static bool
is_quiet(const struct link *l)
{
	char c;

	return recv(l->fd, &c, 1, MSG_PEEK | MSG_DONTWAIT) < 0 &&
	    (errno == EAGAIN || errno == EWOULDBLOCK);
}

/* The connection used last is the one most likely to be still there. */
struct link *
link_reuse(struct target *t)
{
	uint64_t now = coarse_us();
	struct link *l;

	while ((l = t->idle) != NULL) {
		t->idle = l->next;
		t->idle_count--;
		if (now - l->idle_us < IDLE_US && is_quiet(l)) {
			l->state = LINK_BUSY;
			return l;
		}
		link_free(l);
	}
	return NULL;
}

/* libcurl would close a socket; not one that is ours. */
static int
close_function(void *arg, curl_socket_t s)
{
	const struct link *l = arg;

	return s == l->fd && !l->target->tls ? 0 : close(s);
}

/* A cache for the one connection of a handle that is to keep it. */
static bool
keep_alone(struct link *l)
{
	l->alone = curl_share_init();
	return l->alone != NULL &&
	    curl_share_setopt(l->alone, CURLSHOPT_SHARE, CURL_LOCK_DATA_CONNECT) == CURLSHE_OK &&
	    curl_easy_setopt(l->easy, CURLOPT_SHARE, l->alone) == CURLE_OK;
}

struct link *
link_new(struct upstream *u, struct target *t)
{
	struct link *l = calloc(1, sizeof *l);
	/* The pool outlives all links. */
	struct curl_blob ca = {t->pool->ca, t->pool->ca_len, CURL_BLOB_NOCOPY};
	CURL *e;

	if (l == NULL || (l->easy = e = curl_easy_init()) == NULL) {
		free(l);
		return NULL;
	}
	l->u = u;
	l->target = t;
	l->state = LINK_CONNECTING;
	l->fd = -1;
	if (t->tls && !keep_alone(l)) {
		let_go(l);
		free(l);
		return NULL;
	}
	curl_easy_setopt(e, CURLOPT_CLOSESOCKETFUNCTION, close_function);
	curl_easy_setopt(e, CURLOPT_CLOSESOCKETDATA, l);
	curl_easy_setopt(e, CURLOPT_CONNECT_ONLY, 1L);
	curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(e, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(e, CURLOPT_NOPROXY, "*");
	curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS, (long)u->view->config->timeouts.connect * 1000);
	curl_easy_setopt(e, CURLOPT_TCP_NODELAY, 1L);
	curl_easy_setopt(e, CURLOPT_TCP_KEEPALIVE, 1L);
	/* All of this is libcurl's default, or should be. */
	curl_easy_setopt(e, CURLOPT_SSL_VERIFYPEER, 1L);
	curl_easy_setopt(e, CURLOPT_SSL_VERIFYHOST, 2L);
	curl_easy_setopt(e, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
	curl_easy_setopt(e, CURLOPT_CAPATH, NULL);
	if (t->pool->ca != NULL && curl_easy_setopt(e, CURLOPT_CAINFO_BLOB, &ca) != CURLE_OK) {
		let_go(l);
		free(l);
		return NULL;
	}
	curl_easy_setopt(e, CURLOPT_PRIVATE, l);
	curl_easy_setopt(e, CURLOPT_ERRORBUFFER, l->error);
	/* Only arms a timer; the connecting starts from the event loop. */
	if (curl_easy_setopt(e, CURLOPT_URL, t->url) != CURLE_OK ||
	    curl_multi_add_handle(u->multi, e) != CURLM_OK) {
		let_go(l);
		free(l);
		return NULL;
	}
	return l;
}

void
link_discard(struct link *l)
{
	unlist(l);
	link_free(l);
}

CURLcode
link_read(struct link *l, char *to, size_t len, size_t *n)
{
	ssize_t got;

	if (l->target->tls)
		return curl_easy_recv(l->easy, to, len, n);
	do {
		got = recv(l->fd, to, len, 0);
	} while (got < 0 && errno == EINTR);
	*n = got > 0 ? (size_t)got : 0;
	return got >= 0                                  ? CURLE_OK
	       : errno == EAGAIN || errno == EWOULDBLOCK ? CURLE_AGAIN
	                                                 : CURLE_RECV_ERROR;
}

CURLcode
link_write(struct link *l, const char *from, size_t len, size_t *n)
{
	ssize_t sent;

	if (l->target->tls)
		return curl_easy_send(l->easy, from, len, n);
	do {
		sent = send(l->fd, from, len, MSG_NOSIGNAL);
	} while (sent < 0 && errno == EINTR);
	*n = sent > 0 ? (size_t)sent : 0;
	return sent >= 0                                 ? CURLE_OK
	       : errno == EAGAIN || errno == EWOULDBLOCK ? CURLE_AGAIN
	                                                 : CURLE_SEND_ERROR;
}

static enum call_result
result_of(CURLcode code)
{
	switch (code) {
	case CURLE_OPERATION_TIMEDOUT:
		return CALL_TIMEOUT;
	case CURLE_SSL_CONNECT_ERROR:
	case CURLE_PEER_FAILED_VERIFICATION:
	case CURLE_SSL_CIPHER:
	case CURLE_SSL_CERTPROBLEM:
	case CURLE_SSL_CACERT_BADFILE:
	case CURLE_SSL_ISSUER_ERROR:
	case CURLE_SSL_INVALIDCERTSTATUS:
		return CALL_TLS;
	default:
		return CALL_CONNECT;
	}
}

void
link_connected(struct link *l, CURLcode code)
{
	curl_socket_t fd = CURL_SOCKET_BAD;

	if (code == CURLE_OK)
		curl_easy_getinfo(l->easy, CURLINFO_ACTIVESOCKET, &fd);
	if (code == CURLE_OK && fd != CURL_SOCKET_BAD) {
		l->fd = fd;
		if (!l->target->tls)
			let_go(l);
		call_connected(l->call);
		return;
	}
	call_failed(
	    l->call, result_of(code), l->error[0] != '\0' ? l->error : curl_easy_strerror(code));
}
