/*
 * GET /chat/history: an account's sessions, or the messages of one.  DELETE: forget one.
 * Worker process.
 *
 * A page is bounded in number and in bytes, whichever comes first; "next" says where to go on.  Who
 * asks for a session of another account hears what he would hear if there were none.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/emit.h"
#include "daemon/history_text.h"
#include "daemon/ids.h"
#include "daemon/journal_history.h"
#include "daemon/past.h"
#include "daemon/quote.h"
#include "daemon/worker.h"
#include "shm/ring.h"

#define SESSIONS_LIMIT 20 /* unless it is said */
#define SESSIONS_MAX 100
#define MESSAGES_LIMIT 50
#define MESSAGES_MAX 200
/* Of texts: a page ends with the item that goes beyond. */
#define PAGE_BYTES (1u << 20)
#define NUMBER_MAX 20

struct page {
	struct conn *conn;
	struct history_view *view;
	bool one; /* a session is named */
	uint8_t session_id[16];
	char session_text[ID_LEN + 1];
	uint64_t before;
	uint32_t limit;
};

/* A message of the page: a turn's question or its answer. */
struct item {
	struct history_turn turn;
	bool answer;
};

struct forgetter { /* who waits until it is on disk that a session is forgotten */
	struct forgetter *next;
	struct worker *w;
	struct conn *conn; /* NULL: gone, or answered */
};

static void
invalid(struct conn *c, const char *param, const char *what)
{
	conn_error(
	    c, 400, "invalid_request_error", "invalid_request", param, "'%s' %s", param, what);
}

static void
not_found(struct conn *c)
{
	conn_error(
	    c, 404, "invalid_request_error", "not_found", "session_id", "there is no such session");
}

static void
unreadable(struct conn *c)
{
	conn_header(c, "Retry-After", "1");
	conn_error(c, 503, "server_error", "overloaded", NULL, "the history cannot be read now");
}

/* A number of the query; false: answered. */
static bool
number(struct conn *c, const struct http_request *h, const char *name, uint64_t least,
    uint64_t most, uint64_t *value)
{
	char text[NUMBER_MAX + 2], what[80];
	uint64_t n = 0;
	size_t len = 0;
	bool good;

	if (!http_query_has(h->query, name))
		return true;
	good = http_query(h->query, name, text, sizeof text, &len) && len > 0;
	for (size_t i = 0; good && i < len; i++) {
		good = text[i] >= '0' && text[i] <= '9' &&
		       !__builtin_mul_overflow(n, UINT64_C(10), &n) &&
		       !__builtin_add_overflow(n, (uint64_t)(text[i] - '0'), &n);
	}
	if (good && n >= least && n <= most) {
		*value = n;
		return true;
	}
	if (most == UINT64_MAX)
		invalid(c, name, "must be what a page said as its \"next\"");
	else {
		(void)snprintf(what, sizeof what,
		    "must be a whole number from %" PRIu64 " to %" PRIu64, least, most);
		invalid(c, name, what);
	}
	return false;
}

/* False: answered. */
static bool
parse(struct conn *c, const struct http_request *h, struct page *p)
{
	const struct worker *w = conn_arg(c);
	uint64_t limit;
	size_t len;

	*p = (struct page){.conn = c, .before = UINT64_MAX};
	if (!w->config->history.enabled) {
		conn_error(
		    c, 404, "invalid_request_error", "not_found", NULL, "no history is kept here");
		return false;
	}
	p->one = http_query_has(h->query, "session_id");
	if (p->one &&
	    (!http_query(h->query, "session_id", p->session_text, sizeof p->session_text, &len) ||
	        !id_parse(p->session_text, len, p->session_id))) {
		not_found(c);
		return false;
	}
	limit = p->one ? MESSAGES_LIMIT : SESSIONS_LIMIT;
	if (!number(c, h, "limit", 1, p->one ? MESSAGES_MAX : SESSIONS_MAX, &limit) ||
	    !number(c, h, "before", 1, UINT64_MAX, &p->before))
		return false;
	p->limit = (uint32_t)limit;
	return true;
}

/* A look at what is there now; false: answered. */
static bool
begin(struct page *p)
{
	struct journal_reader *journal = past_journal(conn_arg(p->conn));

	if (journal != NULL)
		p->view = history_view_new(journal, conn_caller(p->conn)->account->number);
	if (p->view == NULL)
		unreadable(p->conn);
	return p->view != NULL;
}

static void
finish(struct page *p, int rc, struct buf *b)
{
	history_view_free(p->view);
	if (rc < 0 || b->failed)
		unreadable(p->conn);
	else {
		conn_header(p->conn, "Cache-Control", "no-store");
		conn_reply_buf(p->conn, 200, "application/json", b);
	}
	buf_free(b);
}

static void
add_time(struct buf *b, const char *name, uint64_t us)
{
	buf_printf(b, ",\"%s\":%" PRIu64, name, us / 1000000);
}

static void
add_next(struct buf *b, uint64_t next)
{
	if (next == 0)
		buf_str(b, "],\"next\":null}");
	else
		buf_printf(b, "],\"next\":\"%" PRIu64 "\"}", next);
}

/* Sessions. */

static int
add_session(struct page *p, const struct history_session *s, struct buf *b, size_t *bytes)
{
	struct history_said said;
	char id[ID_LEN + 1];
	struct span json;

	if (history_said(p->view, s->first, &json) < 0)
		return -1;
	*bytes += json.len;
	id_format(s->id, id);
	buf_printf(b, "{\"id\":\"%s\",\"title\":", id);
	if (history_said_read(json, &said))
		history_title_write(&said, b);
	else
		buf_str(b, "\"\"");
	add_time(b, "created_at", s->created_us);
	add_time(b, "updated_at", s->updated_us);
	buf_printf(b, ",\"messages\":%" PRIu64 "}", 2 * (uint64_t)s->turns);
	return 0;
}

static void
list_sessions(struct page *p)
{
	struct history_session s;
	struct buf b = {0};
	uint64_t next = 0;
	size_t bytes = 0;
	int rc;

	buf_str(&b, "{\"sessions\":[");
	for (uint32_t n = 0; (rc = history_session_before(p->view, p->before, &s)) > 0; n++) {
		if (n == p->limit || bytes >= PAGE_BYTES) {
			next = p->before;
			break;
		}
		if (n > 0)
			buf_str(&b, ",");
		if ((rc = add_session(p, &s, &b, &bytes)) < 0)
			break;
		p->before = s.latest;
	}
	add_next(&b, next);
	finish(p, rc, &b);
}

/* Messages. */

static const char *
status_of(const struct history_turn *t)
{
	if (t->ended_us == 0)
		return t->lost ? "failed" : "streaming";
	switch ((enum journal_outcome)t->outcome) {
	case OUTCOME_STOP:
	case OUTCOME_LENGTH:
	case OUTCOME_TOOL_CALLS:
	case OUTCOME_CONTENT_FILTER:
		return "complete";
	case OUTCOME_CREDIT:
		return "cut";
	case OUTCOME_CANCELLED:
	case OUTCOME_EXPIRED:
		return "cancelled";
	default:
		return "failed";
	}
}

static int
add_question(struct page *p, const struct history_turn *t, const char *id, struct buf *b)
{
	struct history_said said;
	struct span json;

	if (history_said(p->view, t->sequence, &json) < 0)
		return -1;
	if (!history_said_read(json, &said))
		said = (struct history_said){.role = "user"};
	buf_printf(b, "{\"id\":\"%s-q\",\"role\":\"%s\",\"content\":", id, said.role);
	history_said_write(&said, b);
	buf_str(b, ",\"status\":\"complete\"");
	add_time(b, "created_at", t->opened_us);
	buf_str(b, "}");
	return 0;
}

static int
add_answer(struct page *p, const struct history_turn *t, const char *id, struct buf *b)
{
	const char *status = status_of(t), *reason = emit_finish_reason(t->outcome);
	const char *short_of = quote_short_name(t->short_of);
	struct buf text = {0};
	size_t len;
	int rc = history_answer(p->view, t->sequence, &text, &len);

	buf_printf(b, "{\"id\":\"%s\",\"role\":\"assistant\",\"content\":", id);
	buf_json(b, text.data != NULL ? text.data : "", text.len);
	buf_free(&text);
	buf_printf(b, ",\"status\":\"%s\"", status);
	if (status[0] == 's') {
		struct stream_id stream = {.proc = t->proc, .generation = t->generation};
		char stream_text[STREAM_ID_LEN + 1];

		memcpy(stream.secret, t->stream_id, sizeof stream.secret);
		stream_id_format(&stream, stream_text);
		buf_printf(b, ",\"stream_id\":\"%s\"", stream_text);
	} else {
		buf_printf(b, ",\"finish_reason\":\"%s\"", reason != NULL ? reason : "error");
		if (short_of != NULL)
			buf_printf(b, ",\"short_of\":\"%s\"", short_of);
	}
	buf_str(b, ",\"model\":");
	buf_json(b, t->model, t->model_len);
	buf_printf(b, ",\"prompt_tokens\":%" PRIu32 ",\"tokens\":%" PRIu32 ",\"cost\":", t->prompt,
	    t->completion);
	buf_money(b, t->charge);
	add_time(b, "created_at", t->opened_us);
	if (t->ended_us != 0)
		add_time(b, "ended_at", t->ended_us);
	buf_str(b, "}");
	return rc < 0 ? -1 : 0;
}

/* A message's place: a question's is an even number, its answer's the next one. */
static uint64_t
place(const struct history_turn *t, bool answer)
{
	return 2 * t->sequence + answer;
}

/* The last ones before a place, the newest first: how many, or -1.  *next: there are more. */
static int
choose(struct page *p, const struct history_session *s, struct item *items, uint64_t *next)
{
	uint64_t before = p->before / 2 + 1; /* turns */
	struct history_turn t;
	uint32_t n = 0;
	size_t bytes = 0, len;
	struct span json;
	int rc;

	*next = 0;
	while ((rc = history_turn_before(p->view, s, before, &t)) > 0) {
		if (history_said(p->view, t.sequence, &json) < 0 ||
		    history_answer(p->view, t.sequence, NULL, &len) < 0)
			return -1;
		for (int answer = 1; answer >= 0; answer--) {
			if (place(&t, answer != 0) >= p->before)
				continue;
			if (n == p->limit || bytes >= PAGE_BYTES) {
				*next = place(&items[n - 1].turn, items[n - 1].answer);
				return (int)n;
			}
			items[n++] = (struct item){t, answer != 0};
			bytes += answer != 0 ? len : json.len;
		}
		before = t.sequence;
	}
	return rc < 0 ? -1 : (int)n;
}

static void
list_messages(struct page *p, const struct history_session *s)
{
	struct item *items = calloc(p->limit, sizeof *items);
	struct history_said said;
	struct buf b = {0};
	char id[ID_LEN + 1];
	struct span json;
	uint64_t next = 0;
	int n = items != NULL ? choose(p, s, items, &next) : -1, rc = n;

	buf_printf(&b, "{\"session_id\":\"%s\",\"title\":", p->session_text);
	if (rc >= 0 && history_said(p->view, s->first, &json) > 0 && history_said_read(json, &said))
		history_title_write(&said, &b);
	else
		buf_str(&b, "\"\"");
	buf_str(&b, ",\"messages\":[");
	/* In the order in which they were said. */
	for (int i = n - 1; i >= 0 && rc >= 0; i--) {
		const struct history_turn *t = &items[i].turn;

		id_format(t->message_id, id);
		rc = (items[i].answer ? add_answer : add_question)(p, t, id, &b);
		if (i > 0)
			buf_str(&b, ",");
	}
	add_next(&b, next);
	free(items);
	finish(p, rc, &b);
}

void
history_get_handler(struct conn *c, const struct http_request *h, struct span body)
{
	struct history_session s;
	struct page p;
	int found;

	(void)body;
	if (!parse(c, h, &p) || !begin(&p))
		return;
	if (!p.one) {
		list_sessions(&p);
		return;
	}
	found = history_session_get(p.view, p.session_id, &s);
	if (found > 0) {
		list_messages(&p, &s);
		return;
	}
	history_view_free(p.view);
	if (found < 0)
		unreadable(c);
	else
		not_found(c);
}

/* Forgetting. */

static void
gone(void *arg, struct conn *c)
{
	struct forgetter *x = arg;

	(void)c;
	x->conn = NULL;
}

static const struct conn_ops ops = {gone, NULL};

static void
forgotten_cb(void *arg, uint64_t position)
{
	struct forgetter *x = arg, **at = &x->w->forgetters;
	enum ring_status status = ring_result(ledger_ring(x->w->ledger), position, NULL);
	struct conn *c = x->conn;

	while (*at != x)
		at = &(*at)->next;
	*at = x->next;
	free(x);
	if (c == NULL)
		return;
	if (status == RING_APPLIED)
		conn_reply(c, 200, "application/json", "{\"ok\":true}", 11);
	else
		unreadable(c);
}

static void
forget(struct conn *c, const uint8_t session_id[static 16])
{
	struct worker *w = conn_arg(c);
	struct forgetter *x = malloc(sizeof *x);
	struct journal_record r = {
	    .type = JOURNAL_FORGET,
	    .version = JOURNAL_VERSION,
	    .slot = JOURNAL_NONE,
	    .account = conn_caller(c)->account->number,
	    .price = JOURNAL_NONE,
	    .time_us = realtime_us(),
	};
	uint64_t position = 0;

	if (x != NULL && !w->stalled)
		position = ring_push(ledger_ring(w->ledger), &r, session_id, JOURNAL_FORGET_LEN);
	if (position == 0) {
		free(x);
		conn_header(c, "Retry-After", w->stalled ? "5" : "1");
		conn_error(c, 503, "server_error", "overloaded", NULL,
		    "the journal cannot be written now");
		return;
	}
	*x = (struct forgetter){w->forgetters, w, c};
	w->forgetters = x;
	conn_later(c, &ops, x);
	durable_wait(w->durable, position, forgotten_cb, x);
}

void
history_delete_handler(struct conn *c, const struct http_request *h, struct span body)
{
	struct history_session s;
	struct page p;
	int found;

	(void)body;
	if (!parse(c, h, &p))
		return;
	if (!p.one) {
		invalid(c, "session_id", "is missing");
		return;
	}
	if (!begin(&p))
		return;
	found = history_session_get(p.view, p.session_id, &s);
	history_view_free(p.view);
	if (found < 0)
		unreadable(c);
	else if (found == 0)
		not_found(c);
	else
		forget(c, p.session_id);
}

void
history_give_up(struct worker *w)
{
	for (struct forgetter *x = w->forgetters; x != NULL; x = x->next) {
		struct conn *c = x->conn;

		x->conn = NULL;
		if (c == NULL)
			continue;
		conn_header(c, "Retry-After", "5");
		conn_error(c, 503, "server_error", "overloaded", NULL,
		    "the journal cannot be written; the session will be forgotten when it can");
	}
}

void
history_fini(struct worker *w)
{
	struct forgetter *x;

	while ((x = w->forgetters) != NULL) {
		w->forgetters = x->next;
		free(x);
	}
}
