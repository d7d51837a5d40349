/*
 * Accounts for users who are seen for the first time.  Worker process.
 */
#include "daemon/sight.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/http_copy.h"
#include "daemon/log.h"
#include "shm/account.h"
#include "shm/clock.h"

/* Of requests that wait, in a worker; one of any size may always wait. */
#define WAITING_MAX (16u << 20)

struct sight { /* who waits for the keeper's word on a user */
	struct sight *next;
	struct worker *w;
	struct conn *conn;           /* NULL: gone, or refused */
	struct http_request request; /* its spans and `body` point into `copy` */
	struct span body;
	struct buf copy;
	size_t size;
};

static void gone(void *, struct conn *);

static const struct conn_ops ops = {gone, NULL};

static void
refuse_busy(struct conn *c, const char *after, const char *why)
{
	conn_header(c, "Retry-After", "%s", after);
	conn_error(c, 503, "server_error", "overloaded", NULL, "%s", why);
}

static void
refuse_journal(struct conn *c)
{
	refuse_busy(c, "5", "the journal cannot be written");
}

static void
refuse(struct conn *c, enum ring_status status)
{
	switch (status) {
	case RING_BOUND:
		conn_header(c, "x-should-retry", "false");
		conn_error(c, 403, "permission_error", "user_limit_reached", AUTH_USER_HEADER,
		    "this API key has made as many accounts for users as it may "
		    "(first_sight.max_accounts)");
		return;
	case RING_CLOSED: /* since the worker looked */
		route_refuse_key(c, "this API key is no longer good");
		return;
	case RING_NOSPACE:
		refuse_busy(c, "1", "the table of accounts is full");
		return;
	default:
		refuse_busy(c, "1", "the gateway could not take the request");
		return;
	}
}

/* The request is not needed any more; the record is on its way all the same. */
static void
drop_request(struct sight *x)
{
	x->w->sights_size -= x->size;
	x->size = 0;
	x->conn = NULL;
	buf_free(&x->copy);
}

static void
gone(void *arg, struct conn *c)
{
	(void)c;
	drop_request(arg);
}

static void
unlink_sight(struct sight *x)
{
	struct sight **at = &x->w->sights;

	while (*at != x)
		at = &(*at)->next;
	*at = x->next;
}

static void
log_made(const struct worker *w, const struct account *a, const struct conn *c)
{
	char id[ACCOUNT_ID_MAX + 1], grant[MONEY_TEXT_MAX], key_id[AUTH_KEY_ID_LEN + 1];

	(void)snprintf(id, sizeof id, "%.*s", (int)a->id_len, a->id);
	(void)money_format(grant, w->config->first_sight.grant);
	auth_format_key_id(conn_caller(c)->key->key_id, key_id);
	log_event(LOG_INFO, "account made on first sight", "account", id, "amount", grant, "key_id",
	    key_id, NULL);
}

static void
sighted_cb(void *arg, uint64_t position)
{
	struct sight *x = arg;
	struct conn *c = x->conn;
	struct worker *w = x->w;
	int64_t number;
	enum ring_status status = ring_result(ledger_ring(w->ledger), position, &number);

	unlink_sight(x);
	if (c != NULL && (status == RING_APPLIED || status == RING_EXISTS)) {
		struct account *a = account_at(w->region, (uint32_t)number);

		if (status == RING_APPLIED)
			log_made(w, a, c);
		conn_seen(c, a, &x->request, x->body);
	} else if (c != NULL)
		refuse(c, status);
	drop_request(x);
	free(x);
}

static uint64_t
push(struct worker *w, const struct key_entry *key, const char *id, size_t len)
{
	struct journal_record record = {
	    .type = JOURNAL_SIGHT,
	    .version = JOURNAL_VERSION,
	    .slot = JOURNAL_NONE,
	    .account = JOURNAL_NONE,
	    .price = JOURNAL_NONE,
	    .time_us = realtime_us(),
	};
	struct journal_sight head = {.key_id = key->key_id, .id_len = (uint16_t)len};

	return ring_push2(ledger_ring(w->ledger), &record, &head, sizeof head, id, len);
}

static struct sight *
sight_new(struct worker *w, struct conn *c, const struct http_request *h, struct span body)
{
	struct sight *x = w->sights_size > WAITING_MAX ? NULL : malloc(sizeof *x);

	if (x == NULL)
		return NULL;
	*x = (struct sight){.w = w, .conn = c, .request = *h, .body = body};
	if (!http_copy(&x->request, &x->body, &x->copy)) {
		buf_free(&x->copy);
		free(x);
		return NULL;
	}
	x->size = sizeof *x + x->copy.cap;
	return x;
}

void
sight_handler(struct conn *c, const struct http_request *h, struct span body)
{
	struct worker *w = conn_arg(c);
	struct account *known;
	char id[ACCOUNT_ID_MAX];
	struct sight *x;
	uint64_t position;
	size_t len;

	/* It was good when the head came. */
	if (auth_user(h, id, &len) != AUTH_OK)
		fatalx("sight: a user that was named is named no more");
	known = account_find(w->region, id, len);
	if (known != NULL) { /* somebody else's request has made it since */
		conn_seen(c, known, h, body);
		return;
	}
	/* Relaxed: a hint; without it the answer would only wait for the disk. */
	if (w->stalled ||
	    atomic_load_explicit(&w->region->h->journal_ok, memory_order_relaxed) == 0) {
		refuse_journal(c);
		return;
	}
	x = sight_new(w, c, h, body);
	if (x == NULL) {
		refuse_busy(c, "1", "too many requests wait for an account");
		return;
	}
	position = push(w, conn_caller(c)->key, id, len);
	if (position == 0) {
		buf_free(&x->copy);
		free(x);
		refuse_busy(c, "1", "the journal is behind");
		return;
	}
	x->next = w->sights;
	w->sights = x;
	w->sights_size += x->size;
	conn_later(c, &ops, x);
	durable_wait(w->durable, position, sighted_cb, x);
}

void
sight_give_up(struct worker *w)
{
	for (struct sight *x = w->sights; x != NULL; x = x->next) {
		struct conn *c = x->conn;

		if (c == NULL)
			continue;
		drop_request(x);
		refuse_journal(c);
	}
}

void
sight_fini(struct worker *w)
{
	struct sight *x;

	while ((x = w->sights) != NULL) {
		w->sights = x->next;
		drop_request(x);
		free(x);
	}
}
