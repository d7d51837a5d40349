/*
 * journal.compact: ask the keeper for a compaction, tell how far it is, and what came of it.  Admin
 * process.
 *
 * When its caller goes away the compaction goes on; when the keeper dies, the next one goes on with
 * it.  What is known of it stands in the region.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/admin.h"
#include "daemon/journal.h"
#include "shm/clock.h"

#define LOOK_MS 20
#define PROGRESS_US 500000
#define STEPS 3

struct running {
	struct admin_call *call;
	struct event *tick;
	uint64_t number, first, told_us;
};

static struct region_compaction *
shown(const struct admin_call *call)
{
	return &call->admin->region->h->compaction;
}

static void
running_end(struct running *r)
{
	struct admin_call *call = r->call;

	if (r->tick != NULL)
		event_free(r->tick);
	free(r);
	call->state = NULL;
	call->cancel = NULL;
	admin_finish(call);
}

static void
cancel(struct admin_call *call)
{
	running_end(call->state);
}

/* Relaxed: a report. */
static void
tell_progress(struct running *r)
{
	const struct region_compaction *s = shown(r->call);
	uint64_t done = atomic_load_explicit(&s->done, memory_order_relaxed);
	uint64_t of = atomic_load_explicit(&s->of, memory_order_relaxed);
	uint64_t step = atomic_load_explicit(&s->step, memory_order_relaxed);
	uint64_t now_us = monotonic_us();
	struct proto_out out;

	if (now_us - r->told_us < PROGRESS_US || step == 0)
		return;
	r->told_us = now_us;
	if (done > of)
		done = of;
	done = (step - 1) * 100 / STEPS + (of == 0 ? 0 : done * 100 / of / STEPS);
	proto_out_init(&out);
	proto_put_notification(&out, "compact.progress");
	proto_put_map(&out, 2);
	proto_put_kint(&out, "done", (int64_t)done);
	proto_put_kint(&out, "of", 100);
	admin_notify(r->call, &out);
	proto_out_free(&out);
}

static void
put_base(struct proto_out *out, const struct journal_base *base)
{
	char text[ADMIN_LINK_LEN + 1];

	proto_put_str(out, "checkpoint");
	if (base->sequence > 0)
		proto_put_int(out, (int64_t)base->sequence);
	else
		proto_put_nil(out);
	proto_put_kstr(out, "link", base->sequence > 0 ? admin_link(base->link, text) : NULL);
	proto_put_kstr(out, "hash", base->sequence > 0 ? admin_link(base->hash, text) : NULL);
}

static void
answer(struct running *r)
{
	const struct region_compaction *s = shown(r->call);
	struct admin *a = r->call->admin;
	struct journal_base base;
	struct proto_out *out;
	const char *why = NULL;

	/* Relaxed, after `ended` with acquire. */
	if (atomic_load_explicit(&s->result, memory_order_relaxed) == COMPACTION_FAILED) {
		(void)admin_error(r->call, "compact_failed", NULL, "%.*s",
		    (int)strnlen(s->why, sizeof s->why), s->why);
		return;
	}
	if (a->journal == NULL)
		a->journal = journal_reader_open(a->heritage->config->state_dir, &why);
	if (a->journal == NULL || journal_reader_base(a->journal, &base) < 0) {
		(void)admin_error(r->call, "unavailable", NULL, "the journal cannot be read: %s",
		    why != NULL ? why : strerror(errno));
		return;
	}
	out = admin_result(r->call);
	proto_put_map(out, 5);
	proto_put_kint(out, "removed", (int64_t)(base.sequence + 1 - r->first));
	proto_put_kint(out, "first", (int64_t)base.sequence + 1);
	put_base(out, &base);
}

static void
tick_cb(evutil_socket_t fd, short what, void *arg)
{
	static const struct timeval later = {0, LOOK_MS * 1000};
	struct running *r = arg;

	(void)fd;
	(void)what;
	/* Acquire, pairs with the keeper's release: its result is there. */
	if (atomic_load_explicit(&shown(r->call)->ended, memory_order_acquire) >= r->number) {
		answer(r);
		running_end(r);
	} else if (r->call->admin->stopping) {
		(void)admin_error(r->call, "unavailable", NULL, "the daemon is stopping");
		running_end(r);
	} else {
		tell_progress(r);
		event_add(r->tick, &later);
	}
}

/* The keeper has it. */
static void
accepted_cb(void *arg, uint64_t position)
{
	static const struct timeval at_once = {0, 0};
	struct running *r = arg;
	int64_t number = 0;
	enum ring_status status =
	    ring_result(ledger_ring(r->call->admin->ledger), position, &number);

	if (status == RING_APPLIED && r->call->client != NULL) {
		admin_log(r->call, "compaction asked for");
		r->number = (uint64_t)number;
		r->call->state = r;
		r->call->cancel = cancel;
		event_add(r->tick, &at_once);
		return;
	}
	if (status == RING_EXISTS)
		(void)admin_error(r->call, "busy", NULL, "another compaction is running");
	else if (status != RING_APPLIED)
		(void)admin_refused(r->call, status);
	running_end(r);
}

/* Before what time?  0 after having answered why not. */
static uint64_t
time_of(struct admin_call *call, const struct proto_value *v)
{
	const struct config *c = call->admin->heritage->config;
	uint64_t now = realtime_us(), keep_min = c->journal.keep_min * UINT64_C(1000000);
	uint64_t before;

	if (v[0].given && v[1].given) {
		(void)admin_error(call, "invalid_argument", "keep", "before or keep, not both");
		return 0;
	}
	if (!v[0].given && !v[1].given && c->journal.keep_days == 0) {
		(void)admin_error(call, "invalid_argument", "keep",
		    "say how much to keep: the configuration's keep_days is 0");
		return 0;
	}
	if (v[0].given)
		before = (uint64_t)v[0].number * 1000000;
	else {
		uint64_t keep = v[1].given ? (uint64_t)v[1].number * 1000000
		                           : c->journal.keep_days * UINT64_C(86400000000);

		before = keep < now ? now - keep : 1;
	}
	if (before > now - keep_min) {
		(void)admin_error(call, "invalid_argument", v[0].given ? "before" : "keep",
		    "the last %u hours are always kept", c->journal.keep_min / 3600);
		return 0;
	}
	return before > 0 ? before : 1;
}

enum admin_step
admin_compact_run(struct admin_call *call, const struct proto_value *v)
{
	struct admin *a = call->admin;
	struct journal_record record = {
	    .type = JOURNAL_COMPACT,
	    .version = JOURNAL_VERSION,
	    .proc = PROC_ADMIN,
	    .slot = JOURNAL_NONE,
	    .account = JOURNAL_NONE,
	    .price = JOURNAL_NONE,
	    .time_us = realtime_us(),
	    .extra = (int64_t)time_of(call, v),
	};
	struct running *r;
	uint64_t position;

	if (record.extra == 0)
		return ADMIN_DONE;
	r = calloc(1, sizeof *r);
	if (r != NULL && (r->tick = event_new(a->base, -1, 0, tick_cb, r)) == NULL) {
		free(r);
		r = NULL;
	}
	if (r == NULL)
		return admin_error(call, "out_of_memory", NULL, "out of memory");
	r->call = call;
	/* Relaxed: the keeper's, which changes it only by a compaction. */
	r->first = atomic_load_explicit(&shown(call)->first_seq, memory_order_relaxed);
	r->told_us = monotonic_us();
	position = ring_push(ledger_ring(a->ledger), &record, NULL, 0);
	if (position == 0) {
		event_free(r->tick);
		free(r);
		return ADMIN_BUSY;
	}
	durable_wait(a->durable, position, accepted_cb, r);
	return ADMIN_LATER;
}
