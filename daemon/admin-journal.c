/*
 * journal.read: the journal's records as notifications, then the answer, which says where to go
 * on.  Admin process.
 *
 * A page at a time, so that a reader may take as long as it likes between two of them; and each
 * page in short turns with a snapshot of its own, so that no pages of the file stay pinned and
 * other clients are served meanwhile.  Who follows waits for its answer until there is a record.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/admin.h"
#include "daemon/ids.h"
#include "daemon/journal.h"
#include "shm/clock.h"

#define TURN_US 5000
#define TURN_RECORDS 64          /* between two looks at the clock */
#define PAGE_BYTES (64u << 10)   /* of notifications in one page */
#define UNSENT_MAX (128u << 10)  /* more than this waits: so none is ever dropped */
#define FOLLOW_MS 50
#define PROGRESS_US 500000
#define QUIET_US 10000000        /* who follows hears so often that we are there */

struct reading {
	struct admin_call *call;
	struct event *turn;
	uint64_t at;      /* the last sequence looked at */
	uint64_t since_us, told_us;
	uint32_t account; /* JOURNAL_NONE: all */
	uint32_t limit, sent;
	size_t bytes;
	bool follow;
};

/* A record's fields: collected first, since a map says how many it has. */
struct field {
	const char *key;
	const char *text; /* NULL: a number */
	size_t len;
	int64_t number;
};

struct fields {
	struct field f[28];
	size_t n;
};

static void
put_number(struct fields *fs, const char *key, int64_t number)
{
	fs->f[fs->n++] = (struct field){.key = key, .number = number};
}

/* Nothing, if there is none or it is not fit to be shown. */
static void
put_text(struct fields *fs, const char *key, const char *text, size_t len)
{
	if (len > 0 && proto_text_ok(text, len))
		fs->f[fs->n++] = (struct field){.key = key, .text = text, .len = len};
}

static void
put_str(struct fields *fs, const char *key, const char *text)
{
	put_text(fs, key, text, strlen(text));
}

static const char *
type_text(uint8_t type)
{
	static const char *const text[JOURNAL_TYPES] = {NULL, "reserve", "extend", "mark",
	    "settle", "void", "topup", "adjust", "account", "key", "key_revoke", "price", "sync",
	    "account_set", "freeze"};

	return type < JOURNAL_TYPES && text[type] != NULL ? text[type] : "unknown";
}

const char *
admin_outcome(uint8_t outcome)
{
	static const char *const text[OUTCOME_MAX] = {"none", "stop", "length", "tool_calls",
	    "content_filter", "credit", "cancelled", "upstream_error", "worker_died", "expired",
	    "shutdown"};

	return outcome < OUTCOME_MAX ? text[outcome] : "unknown";
}

struct texts { /* what is spelled out for a record */
	char session[ID_LEN + 1], message[ID_LEN + 1], key_id[AUTH_KEY_ID_LEN + 1];
};

static void
reserve_fields(struct fields *fs, const struct journal_entry *e, struct texts *t)
{
	const struct journal_record *r = &e->record;
	const char *payload = e->payload;
	struct journal_reserve head;

	put_number(fs, "amount", r->amount);
	put_number(fs, "prompt", r->prompt);
	put_number(fs, "price", r->price);
	if (e->payload_len < sizeof head)
		return;
	memcpy(&head, payload, sizeof head);
	if (sizeof head + head.model_len > e->payload_len)
		return;
	put_text(fs, "model", payload + sizeof head, head.model_len);
	/* Not the stream's id: whoever has that can read the answer. */
	id_format(head.session_id, t->session);
	id_format(head.message_id, t->message);
	put_str(fs, "session_id", t->session);
	put_str(fs, "message_id", t->message);
}

static void
credit_fields(struct fields *fs, const struct journal_entry *e)
{
	const char *payload = e->payload;
	struct journal_ref head;

	put_number(fs, "amount", e->record.amount);
	if (e->payload_len < sizeof head)
		return;
	memcpy(&head, payload, sizeof head);
	if (sizeof head + head.ref_len + head.reason_len > e->payload_len)
		return;
	put_text(fs, "ref", payload + sizeof head, head.ref_len);
	put_text(fs, "reason", payload + sizeof head + head.ref_len, head.reason_len);
}

static void
account_fields(struct fields *fs, const struct journal_entry *e)
{
	struct journal_account head;

	put_number(fs, "overdraft", e->record.amount);
	if (e->payload_len < sizeof head)
		return;
	memcpy(&head, e->payload, sizeof head);
	put_number(fs, "rpm", head.requests_per_minute);
	put_number(fs, "tpm", head.tokens_per_minute);
	put_number(fs, "streams", head.concurrent_streams);
}

static void
set_fields(struct fields *fs, const struct journal_entry *e)
{
	struct journal_account_set set;

	if (e->payload_len < sizeof set)
		return;
	memcpy(&set, e->payload, sizeof set);
	if (set.what & JOURNAL_SET_OVERDRAFT) {
		put_number(fs, "amount", e->record.amount);
		put_number(fs, "overdraft", set.overdraft);
	}
	if (set.what & JOURNAL_SET_REQUESTS)
		put_number(fs, "rpm", set.requests_per_minute);
	if (set.what & JOURNAL_SET_TOKENS)
		put_number(fs, "tpm", set.tokens_per_minute);
	if (set.what & JOURNAL_SET_STREAMS)
		put_number(fs, "streams", set.concurrent_streams);
	if (set.what & JOURNAL_SET_CLOSED)
		put_str(fs, "status", "closed");
	if (set.what & JOURNAL_SET_UNFROZEN)
		put_str(fs, "status", "unfrozen");
	if (sizeof set + set.reason_len <= e->payload_len)
		put_text(fs, "reason", (const char *)e->payload + sizeof set, set.reason_len);
}

static void
key_fields(struct fields *fs, const struct journal_entry *e, struct texts *t)
{
	struct journal_key head;

	if (e->payload_len < sizeof head)
		return;
	memcpy(&head, e->payload, sizeof head);
	auth_format_key_id(head.key_id, t->key_id);
	put_str(fs, "key_id", t->key_id);
	if (head.expires_us != 0)
		put_number(fs, "expires_at", (int64_t)(head.expires_us / 1000000));
	if (sizeof head + head.label_len <= e->payload_len)
		put_text(fs, "label", (const char *)e->payload + sizeof head, head.label_len);
}

static void
price_fields(struct fields *fs, const struct journal_entry *e)
{
	struct journal_price head;

	put_number(fs, "price", e->record.price);
	if (e->payload_len < sizeof head)
		return;
	memcpy(&head, e->payload, sizeof head);
	if (sizeof head + head.model_len <= e->payload_len)
		put_text(fs, "model", (const char *)e->payload + sizeof head, head.model_len);
	put_number(fs, "price_prompt", head.prompt);
	put_number(fs, "price_cached", head.cached);
	put_number(fs, "price_completion", head.completion);
}

/* EXTEND, MARK, SETTLE, VOID. */
static void
progress_fields(struct fields *fs, const struct journal_record *r)
{
	if (r->type == JOURNAL_EXTEND) {
		put_number(fs, "amount", r->amount);
		put_number(fs, "total", r->extra);
	}
	if (r->type == JOURNAL_SETTLE) {
		put_number(fs, "amount", r->amount);
		put_number(fs, "uncollected", r->extra);
		put_number(fs, "prompt", r->prompt);
		put_number(fs, "cached", r->cached);
	}
	if (r->type != JOURNAL_VOID)
		put_number(fs, "completion", r->completion);
	if (r->type == JOURNAL_SETTLE || r->type == JOURNAL_VOID)
		put_str(fs, "outcome", admin_outcome(r->outcome));
}

static void
record_fields(struct fields *fs, const struct region *region, const struct journal_entry *e,
    struct texts *t)
{
	const struct journal_record *r = &e->record;

	put_number(fs, "sequence", (int64_t)e->sequence);
	put_number(fs, "time_us", (int64_t)r->time_us);
	put_str(fs, "type", type_text(r->type));
	/* Acquire, pairs with the keeper's insert. */
	if (r->account < atomic_load_explicit(&region->h->accounts, memory_order_acquire)) {
		const struct account *a = account_at(region, r->account);

		put_text(fs, "account", a->id, a->id_len);
	}
	if (r->slot != JOURNAL_NONE) {
		put_number(fs, "slot", r->slot);
		put_number(fs, "op", (int64_t)r->op);
	}
	switch ((enum journal_type)r->type) {
	case JOURNAL_RESERVE:
		reserve_fields(fs, e, t);
		break;
	case JOURNAL_EXTEND:
	case JOURNAL_MARK:
	case JOURNAL_SETTLE:
	case JOURNAL_VOID:
		progress_fields(fs, r);
		break;
	case JOURNAL_TOPUP:
	case JOURNAL_ADJUST:
		credit_fields(fs, e);
		break;
	case JOURNAL_ACCOUNT:
		account_fields(fs, e);
		break;
	case JOURNAL_ACCOUNT_SET:
		set_fields(fs, e);
		break;
	case JOURNAL_FREEZE:
		put_text(fs, "reason", e->payload, e->payload_len);
		break;
	case JOURNAL_KEY:
		key_fields(fs, e, t);
		break;
	case JOURNAL_KEY_REVOKE:
		auth_format_key_id((uint64_t)r->extra, t->key_id);
		put_str(fs, "key_id", t->key_id);
		break;
	case JOURNAL_PRICE:
		price_fields(fs, e);
		break;
	default:
		break;
	}
}

static void
send_record(struct reading *r, const struct journal_entry *e)
{
	struct fields fs = {.n = 0};
	struct texts t;
	struct proto_out out;

	record_fields(&fs, r->call->admin->region, e, &t);
	proto_out_init(&out);
	proto_put_notification(&out, "journal.record");
	proto_put_map(&out, fs.n);
	for (size_t i = 0; i < fs.n; i++) {
		if (fs.f[i].text != NULL)
			proto_put_ktext(&out, fs.f[i].key, fs.f[i].text, fs.f[i].len);
		else
			proto_put_kint(&out, fs.f[i].key, fs.f[i].number);
	}
	admin_notify(r->call, &out);
	r->bytes += out.len;
	r->sent++;
	proto_out_free(&out);
}

static void
reading_end(struct reading *r)
{
	struct admin_call *call = r->call;

	event_free(r->turn);
	free(r);
	call->state = NULL;
	call->cancel = NULL;
	admin_finish(call);
}

static void
cancel(struct admin_call *call)
{
	reading_end(call->state);
}

static void
answer(struct reading *r, bool more)
{
	struct proto_out *out = admin_result(r->call);

	proto_put_map(out, 2);
	proto_put_kint(out, "records", r->sent);
	proto_put_str(out, "next");
	if (more)
		proto_put_int(out, (int64_t)r->at);
	else
		proto_put_nil(out);
	reading_end(r);
}

static uint64_t
journal_end(const struct admin *a)
{
	/* Acquire, pairs with the keeper's release after the commit. */
	return atomic_load_explicit(&a->region->h->journal_seq, memory_order_acquire);
}

static void
tell_progress(struct reading *r, uint64_t now_us, uint64_t every_us)
{
	struct proto_out out;

	if (now_us - r->told_us < every_us)
		return;
	r->told_us = now_us;
	proto_out_init(&out);
	proto_put_notification(&out, "journal.progress");
	proto_put_map(&out, 2);
	proto_put_kint(&out, "sequence", (int64_t)r->at);
	proto_put_kint(&out, "of", (int64_t)journal_end(r->call->admin));
	admin_notify(r->call, &out);
	proto_out_free(&out);
}

static bool
page_full(const struct reading *r)
{
	return r->sent >= r->limit || r->bytes >= PAGE_BYTES;
}

static bool
wanted(const struct reading *r, const struct journal_record *record)
{
	return (r->account == JOURNAL_NONE || record->account == r->account) &&
	    record->time_us >= r->since_us;
}

/* One turn's worth: 1 if the page is full or the time is up, 0 at the end, -1 with errno. */
static int
read_some(struct reading *r, uint64_t until_us)
{
	struct journal_cursor *c = journal_cursor_new(r->call->admin->journal, r->at + 1);
	struct journal_entry e;
	int more = 1;

	if (c == NULL)
		return -1;
	for (unsigned n = 1; !page_full(r) && (more = journal_cursor_next(c, &e)) > 0; n++) {
		r->at = e.sequence;
		if (wanted(r, &e.record))
			send_record(r, &e);
		if (n % TURN_RECORDS == 0 && monotonic_us() > until_us)
			break;
	}
	journal_cursor_free(c);
	return more;
}

static void
again(struct reading *r, int ms)
{
	struct timeval later = {0, ms * 1000};

	event_add(r->turn, &later);
}

static void
turn_cb(evutil_socket_t fd, short what, void *arg)
{
	struct reading *r = arg;
	uint64_t now_us = monotonic_us();
	int more;

	(void)fd;
	(void)what;
	if (admin_unsent(r->call) > UNSENT_MAX) {
		again(r, 10);
		return;
	}
	if (r->at >= journal_end(r->call->admin))
		more = 0;
	else
		more = read_some(r, now_us + TURN_US);
	if (more < 0) {
		(void)admin_error(r->call, "unavailable", NULL, "the journal cannot be read: %s",
		    strerror(errno));
		reading_end(r);
	} else if (page_full(r)) {
		answer(r, true);
	} else if (more > 0) {
		tell_progress(r, now_us, PROGRESS_US);
		again(r, 0);
	} else if (r->follow && r->sent == 0 && !r->call->admin->stopping) {
		tell_progress(r, now_us, QUIET_US);
		again(r, FOLLOW_MS);
	} else {
		answer(r, r->follow);
	}
}

static bool
open_reader(struct admin_call *call)
{
	struct admin *a = call->admin;
	const char *why = NULL;

	if (a->journal == NULL)
		a->journal = journal_reader_open(a->heritage->config->state_dir, &why);
	if (a->journal != NULL)
		return true;
	(void)admin_error(call, "unavailable", NULL, "the journal cannot be read: %s",
	    why != NULL ? why : strerror(errno));
	return false;
}

enum admin_step
admin_journal_read(struct admin_call *call, const struct proto_value *v)
{
	struct reading *r;

	/* after, limit, account, since, follow */
	if (v[2].given && (call->account = admin_account(call, &v[2])) == NULL)
		return ADMIN_DONE;
	if (!open_reader(call))
		return ADMIN_DONE;
	r = calloc(1, sizeof *r);
	if (r != NULL && (r->turn = event_new(call->admin->base, -1, 0, turn_cb, r)) == NULL) {
		free(r);
		r = NULL;
	}
	if (r == NULL)
		return admin_error(call, "out_of_memory", NULL, "out of memory");
	r->call = call;
	r->at = (uint64_t)v[0].number;
	r->limit = v[1].given ? (uint32_t)v[1].number : ADMIN_PAGE_MAX;
	r->account = call->account != NULL ? call->account->number : JOURNAL_NONE;
	r->since_us = (uint64_t)v[3].number * 1000000;
	r->follow = v[4].number != 0;
	r->told_us = monotonic_us();
	call->state = r;
	call->cancel = cancel;
	again(r, 0);
	return ADMIN_LATER;
}
