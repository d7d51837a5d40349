/*
 * Who sends with a key that somebody else is just sending with waits, and looks again every few
 * milliseconds: the other one may be in any process or dead, and the release of a claim wakes
 * nobody.  Within a worker the next one is woken at once.
 */
#include "daemon/turn.h"

#include <event2/event.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/http_copy.h"
#include "daemon/metrics.h"
#include "daemon/repeat.h"
#include "shm/account.h"
#include "shm/claim.h"
#include "shm/fault.h"

#define LOOK_AGAIN_MS 3
/* As long as a send waits for a silent disk. */
#define PATIENCE_US 5000000u
/* Of requests that wait, in a worker; one of any size may always wait. */
#define WAITING_MAX (16u << 20)

struct turn {
	struct turn *next;
	struct worker *w;
	struct conn *conn;
	struct journal_keyed keyed;
	struct http_request request; /* its spans and `body` point into `copy` */
	struct span body;
	struct buf copy;
	uint64_t since_us;
	turn_fn *fn;
};

static void gone(void *, struct conn *);

static const struct conn_ops ops = {gone, NULL};
static const struct timeval again = {0, LOOK_AGAIN_MS * 1000};

/* The key is half a SHA-256 of what the client chose. */
static uint16_t
word_of(uint32_t account, const struct journal_keyed *keyed)
{
	uint32_t n;

	memcpy(&n, keyed->key, sizeof n);
	return (uint16_t)(n ^ n >> 16 ^ account * UINT32_C(0x9e3779b1) >> 16);
}

static bool
take(struct worker *w, struct conn *c, const struct journal_keyed *keyed)
{
	if (!claim_take(w->region, w->proc, word_of(conn_caller(c)->account->number, keyed)))
		return false;
	FAULT("turn.claimed");
	return true;
}

void
turn_over(struct worker *w, uint32_t account, const struct journal_keyed *keyed)
{
	FAULT("turn.ending");
	claim_release(w->region, w->proc, word_of(account, keyed));
	if (w->turns != NULL)
		event_active(w->turn_timer, EV_TIMEOUT, 0);
}

static void
run(struct worker *w, struct conn *c, const struct http_request *h, struct span body,
    const struct journal_keyed *keyed, turn_fn *fn)
{
	/* Before a reply: that may be the end of the conn. */
	uint32_t account = conn_caller(c)->account->number;

	if (!fn(c, h, body, keyed))
		turn_over(w, account, keyed);
}

static size_t
size_of(const struct turn *t)
{
	return sizeof *t + t->copy.cap;
}

static void
forget(struct turn *t)
{
	t->w->turns_size -= size_of(t);
	buf_free(&t->copy);
	free(t);
}

static void
gone(void *arg, struct conn *c)
{
	struct turn *t = arg, **at = &t->w->turns;

	(void)c;
	while (*at != t)
		at = &(*at)->next;
	*at = t->next;
	forget(t);
}

static void
refuse(struct conn *c, enum reserve_kind kind, const char *why)
{
	metrics_reserve(kind);
	conn_header(c, "Retry-After", "1");
	conn_error(c, 503, "server_error", "overloaded", NULL, "%s", why);
}

static void
look_again(evutil_socket_t fd, short what, void *arg)
{
	struct worker *w = arg;
	struct turn **at = &w->turns, *t;
	uint64_t now_us = monotonic_us();

	(void)fd;
	(void)what;
	/* What a turn does takes nobody from the list: who is gone is told so from the loop. */
	while ((t = *at) != NULL) {
		bool tired = now_us - t->since_us >= PATIENCE_US;

		if (!tired && !take(w, t->conn, &t->keyed)) {
			at = &t->next;
			continue;
		}
		*at = t->next;
		if (tired)
			refuse(t->conn, RESERVE_BUSY,
			    "another request with this Idempotency-Key is on its way");
		else
			run(w, t->conn, &t->request, t->body, &t->keyed, t->fn);
		forget(t);
	}
	if (w->turns != NULL)
		evtimer_add(w->turn_timer, &again);
}

static struct turn *
turn_new(struct worker *w, struct conn *c, const struct http_request *h, struct span body)
{
	struct turn *t = malloc(sizeof *t);

	if (w->turn_timer == NULL)
		w->turn_timer = evtimer_new(w->base, look_again, w);
	if (t == NULL || w->turn_timer == NULL) {
		free(t);
		return NULL;
	}
	*t = (struct turn){.w = w, .conn = c, .request = *h, .body = body};
	if (!http_copy(&t->request, &t->body, &t->copy)) {
		buf_free(&t->copy);
		free(t);
		return NULL;
	}
	return t;
}

static void
wait(struct worker *w, struct turn *t)
{
	struct turn **at = &w->turns;

	while (*at != NULL)
		at = &(*at)->next;
	*at = t;
	w->turns_size += size_of(t);
	conn_later(t->conn, &ops, t);
	if (!evtimer_pending(w->turn_timer, NULL))
		evtimer_add(w->turn_timer, &again);
}

void
turn_request(struct conn *c, const struct http_request *h, struct span body, const char *endpoint,
    turn_fn *fn)
{
	struct worker *w = conn_arg(c);
	struct journal_keyed keyed;
	struct turn *t;
	bool has_key;

	if (!repeat_key(c, h, endpoint, body, &keyed, &has_key))
		return;
	if (!has_key) {
		(void)fn(c, h, body, NULL);
		return;
	}
	if (take(w, c, &keyed)) {
		run(w, c, h, body, &keyed, fn);
		return;
	}
	if (w->turns_size > WAITING_MAX || (t = turn_new(w, c, h, body)) == NULL) {
		refuse(c, RESERVE_MEMORY,
		    "too many requests wait for others with their Idempotency-Key");
		return;
	}
	t->keyed = keyed;
	t->fn = fn;
	t->since_us = monotonic_us();
	wait(w, t);
}

void
turn_fini(struct worker *w)
{
	struct turn *t;

	while ((t = w->turns) != NULL) {
		w->turns = t->next;
		forget(t);
	}
	if (w->turn_timer != NULL)
		event_free(w->turn_timer);
}
