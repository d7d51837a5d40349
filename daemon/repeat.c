/*
 * Requests that are sent again.  Worker process.
 */
#include "daemon/repeat.h"

#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "daemon/ids.h"
#include "daemon/journal.h"
#include "daemon/kept.h"
#include "daemon/log.h"
#include "daemon/metrics.h"
#include "daemon/past.h"
#include "daemon/worker.h"
#include "shm/clock.h"

#define KEY_MAX 255
#define HEADER "Idempotency-Key"

struct repeat { /* who waits for the keeper's word on a key */
	struct repeat *next;
	struct worker *w;
	struct conn *conn; /* NULL: gone */
	void (*unknown)(struct conn *, void *arg);
	void *arg;
};

static void gone(void *, struct conn *);

static const struct conn_ops ops = {gone, NULL};

static void
half_sha256(const void *bytes, size_t len, uint8_t half[static 16])
{
	unsigned char digest[SHA256_DIGEST_LENGTH];

	SHA256(bytes, len, digest);
	memcpy(half, digest, 16);
}

static void
bad_key(struct conn *c, const char *what)
{
	conn_error(c, 400, "invalid_request_error", "invalid_request", HEADER, "%s %s", HEADER,
	    what);
}

bool
repeat_key(struct conn *c, const struct http_request *h, const char *endpoint, struct span body,
    struct journal_keyed *keyed, bool *has)
{
	struct span key = http_header(h, HEADER);
	char text[64 + KEY_MAX];
	size_t n = strlen(endpoint) + 1;
	int times = 0;

	*has = key.p != NULL;
	if (!*has)
		return true;
	for (int i = 0; i < h->headers; i++) {
		struct span name = h->header[i].name;

		times += name.len == strlen(HEADER) && strncasecmp(name.p, HEADER, name.len) == 0;
	}
	if (times > 1) {
		bad_key(c, "is there more than once");
		return false;
	}
	if (key.len == 0 || key.len > KEY_MAX) {
		bad_key(c, "has to have 1 to 255 characters");
		return false;
	}
	for (size_t i = 0; i < key.len; i++) {
		if (key.p[i] <= ' ' || key.p[i] > '~') {
			bad_key(c, "has to be of visible ASCII characters");
			return false;
		}
	}
	/* The NUL behind the endpoint keeps one's keys apart from another's. */
	memcpy(text, endpoint, n);
	memcpy(text + n, key.p, key.len);
	*keyed = (struct journal_keyed){0};
	half_sha256(text, n + key.len, keyed->key);
	half_sha256(body.p, body.len, keyed->body);
	return true;
}

void
repeat_write(struct conn *c, const struct send_answer *a)
{
	struct buf b = {0};

	buf_printf(&b,
	    "{\"ok\":true,\"stream_id\":\"%s\",\"session_id\":\"%s\",\"message_id\":\"%s\","
	    "\"reserved\":",
	    a->stream_id, a->session_id, a->message_id);
	buf_money(&b, a->reserved);
	buf_str(&b, ",\"available\":");
	buf_money(&b, a->available);
	buf_printf(&b, ",\"expires_at\":%llu,\"stream_url\":\"/stream?id=%s\"}",
	    (unsigned long long)a->expires_s, a->stream_id);
	conn_reply_buf(c, 200, "application/json", &b);
	buf_free(&b);
}

static void
not_now(struct conn *c)
{
	conn_header(c, "Retry-After", "1");
	conn_error(c, 503, "server_error", "overloaded", NULL,
	    "the first request with this " HEADER " cannot be looked up now");
}

/* Everything that the first answer said is in its record. */
static bool
answer_of(struct worker *w, const struct journal_record *r, const struct buf *payload,
    struct conn *c, int64_t available)
{
	char stream[STREAM_ID_LEN + 1], session[ID_LEN + 1], message[ID_LEN + 1];
	struct journal_reserve head;
	struct journal_keyed keyed;
	struct stream_id id;

	if (r->type != JOURNAL_RESERVE || payload->len < sizeof head)
		return false;
	memcpy(&head, payload->data, sizeof head);
	if (head.keyed == 0 || sizeof head + head.model_len + sizeof keyed > payload->len)
		return false;
	memcpy(&keyed, payload->data + sizeof head + head.model_len, sizeof keyed);
	memcpy(id.secret, head.stream_id, sizeof id.secret);
	id.proc = r->proc;
	id.generation = head.generation;
	if (head.keyed == JOURNAL_KEYED_ANSWER) {
		kept_replay(w, c, &id);
		return true;
	}
	stream_id_format(&id, stream);
	id_format(head.session_id, session);
	id_format(head.message_id, message);
	conn_header(c, "idempotent-replayed", "true");
	repeat_write(c, &(struct send_answer){.stream_id = stream, .session_id = session,
	    .message_id = message, .reserved = r->amount, .available = available,
	    .expires_s = keyed.expires_s});
	return true;
}

void
repeat_answer(struct worker *w, struct conn *c, uint64_t first, int64_t available)
{
	struct journal_record r;
	struct buf payload = {0};
	struct journal_reader *journal = past_journal(w);

	metrics_reserve(RESERVE_REPEATED);
	if (journal == NULL || journal_get(journal, first, &r, &payload) != 1 ||
	    payload.failed || !answer_of(w, &r, &payload, c, available))
		not_now(c);
	buf_free(&payload);
}

void
repeat_conflict(struct conn *c)
{
	conn_error(c, 409, "invalid_request_error", "idempotency_conflict", HEADER,
	    "this " HEADER " was used with another body");
}

static void
unlink_repeat(struct repeat *x)
{
	for (struct repeat **p = &x->w->repeats; *p != NULL; p = &(*p)->next) {
		if (*p == x) {
			*p = x->next;
			return;
		}
	}
}

/* Its record is on its way: the rest goes when that is durable. */
static void
gone(void *arg, struct conn *c)
{
	struct repeat *x = arg;

	(void)c;
	x->conn = NULL;
}

static void
asked_cb(void *arg, uint64_t position)
{
	struct repeat *x = arg;
	struct worker *w = x->w;
	struct conn *c = x->conn;
	int64_t available;
	enum ring_status status = ring_result(ledger_ring(w->ledger), position, &available);

	unlink_repeat(x);
	if (c != NULL && status == RING_REPEATED)
		repeat_answer(w, c, ring_first(ledger_ring(w->ledger), position), available);
	else if (c != NULL && status == RING_CONFLICT)
		repeat_conflict(c);
	else if (c != NULL)
		x->unknown(c, x->arg);
	free(x->arg);
	free(x);
}

void
repeat_ask(struct worker *w, struct conn *c, const struct journal_keyed *keyed,
    void (*unknown)(struct conn *, void *arg), void *arg)
{
	struct journal_record ask = {
	    .type = JOURNAL_ASK,
	    .version = JOURNAL_VERSION,
	    .slot = JOURNAL_NONE,
	    .account = conn_caller(c)->account->number,
	    .price = JOURNAL_NONE,
	    .time_us = realtime_us(),
	};
	struct repeat *x = malloc(sizeof *x);
	uint64_t position = x == NULL ? 0 :
	    ring_push(ledger_ring(w->ledger), &ask, keyed, sizeof *keyed);

	if (position == 0) {
		free(x);
		free(arg);
		not_now(c);
		return;
	}
	*x = (struct repeat){.next = w->repeats, .w = w, .conn = c, .unknown = unknown, .arg = arg};
	w->repeats = x;
	conn_later(c, &ops, x);
	durable_wait(w->durable, position, asked_cb, x);
}

void
repeat_give_up(struct worker *w, void (*refuse)(struct conn *))
{
	for (struct repeat *x = w->repeats; x != NULL; x = x->next) {
		struct conn *c = x->conn;

		x->conn = NULL;
		if (c != NULL)
			refuse(c);
	}
}

void
repeat_fini(struct worker *w)
{
	struct repeat *x;

	while ((x = w->repeats) != NULL) {
		w->repeats = x->next;
		free(x->arg);
		free(x);
	}
}
