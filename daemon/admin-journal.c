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
	struct journal_base base;
};

static void
send_record(struct reading *r, const struct journal_entry *e)
{
	struct proto_out out;

	proto_out_init(&out);
	proto_put_notification(&out, "journal.record");
	admin_put_record(&out, r->call->admin->region, e);
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

static uint64_t
journal_end(const struct admin *a)
{
	/* Acquire, pairs with the keeper's release after the commit. */
	return atomic_load_explicit(&a->region->h->journal_seq, memory_order_acquire);
}

static void
answer(struct reading *r, bool more)
{
	struct proto_out *out = admin_result(r->call);

	proto_put_map(out, 5);
	proto_put_kint(out, "records", r->sent);
	proto_put_kint(out, "last", (int64_t)journal_end(r->call->admin));
	/* Where the journal begins, for who asked for more. */
	proto_put_kint(out, "first", (int64_t)r->base.sequence + 1);
	proto_put_kint(out, "compacted_at", (int64_t)(r->base.time_us / 1000000));
	proto_put_str(out, "next");
	if (more)
		proto_put_int(out, (int64_t)r->at);
	else
		proto_put_nil(out);
	reading_end(r);
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
	r->base = *journal_cursor_base(c);
	if (r->at < r->base.sequence) {
		/* What is left of them is on its way out. */
		r->at = r->base.sequence;
		journal_cursor_from(c, r->at + 1);
	}
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
	if (journal_reader_base(call->admin->journal, &r->base) < 0) {
		event_free(r->turn);
		free(r);
		return admin_error(call, "unavailable", NULL, "the journal cannot be read: %s",
		    strerror(errno));
	}
	r->since_us = (uint64_t)v[3].number * 1000000;
	r->follow = v[4].number != 0;
	r->told_us = monotonic_us();
	call->state = r;
	call->cancel = cancel;
	again(r, 0);
	return ADMIN_LATER;
}
