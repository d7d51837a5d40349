/*
 * audit.run: daemon/audit.c in small steps between other events.  Admin process.
 *
 * One at a time: it plays the whole journal into books of its own, as large as the keeper's, and
 * pins pages of both databases.  When its caller goes away, it ends.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/admin.h"
#include "daemon/audit.h"
#include "daemon/log.h"
#include "shm/clock.h"

#define STEP_RECORDS 256
#define TURN_US 5000
#define PROGRESS_US 500000

struct running {
	struct admin_call *call;
	struct audit *audit;
	struct event *turn;
	uint64_t told_us; /* when the caller last heard something */
};

static void
running_end(struct running *r)
{
	struct admin_call *call = r->call;

	audit_free(r->audit);
	event_free(r->turn);
	free(r);
	call->admin->audit = NULL;
	admin_finish(call);
}

static void
cancel(struct admin_call *call)
{
	running_end(call->state);
}

static void
tell_progress(struct running *r)
{
	struct audit_result now;
	struct proto_out out;

	audit_result(r->audit, &now);
	proto_out_init(&out);
	proto_put_notification(&out, "audit.progress");
	proto_put_map(&out, 2);
	proto_put_kint(&out, "records", (int64_t)now.records);
	/* Relaxed: for a percentage. */
	proto_put_kint(&out, "of",
	    (int64_t)(atomic_load_explicit(
			  &r->call->admin->region->h->journal_seq, memory_order_relaxed) -
		now.base.sequence));
	admin_notify(r->call, &out);
	proto_out_free(&out);
}

static void
answer(struct running *r)
{
	struct proto_out *out = admin_result(r->call);
	struct audit_result found;
	char text[ADMIN_LINK_LEN + 1];

	audit_result(r->audit, &found);
	if (!found.ok)
		log_event(
		    LOG_ERROR, "audit found a difference", "first", found.first_difference, NULL);
	proto_put_map(out, 9);
	proto_put_kbool(out, "ok", found.ok);
	proto_put_kint(out, "accounts", found.accounts);
	proto_put_kint(out, "records", (int64_t)found.records);
	proto_put_kint(out, "holds_open", found.holds_open);
	proto_put_kstr(out, "first_difference", found.ok ? NULL : found.first_difference);
	/* What to write down: by these two a later audit can be held against this one. */
	proto_put_kint(out, "head", (int64_t)found.head);
	proto_put_kstr(out, "link", admin_link(found.link, text));
	proto_put_str(out, "checkpoint");
	if (found.base.sequence > 0)
		proto_put_int(out, (int64_t)found.base.sequence);
	else
		proto_put_nil(out);
	proto_put_kstr(out, "checkpoint_hash",
	    found.base.sequence > 0 ? admin_link(found.base.hash, text) : NULL);
}

static void
turn_cb(evutil_socket_t fd, short what, void *arg)
{
	static const struct timeval at_once = {0, 0};
	struct running *r = arg;
	uint64_t began = monotonic_us(), now = began;

	(void)fd;
	(void)what;
	while (audit_step(r->audit, STEP_RECORDS)) {
		now = monotonic_us();
		if (now - began < TURN_US)
			continue;
		if (now - r->told_us >= PROGRESS_US) {
			tell_progress(r);
			r->told_us = now;
		}
		/* A timer, so that descriptors are looked at before the next turn. */
		event_add(r->turn, &at_once);
		return;
	}
	answer(r);
	running_end(r);
}

/* The readers, opened once; false after having answered why not. */
static bool
open_readers(struct admin_call *call)
{
	struct admin *a = call->admin;
	const char *dir = a->heritage->config->state_dir, *why = NULL;

	if (a->state == NULL)
		a->state = state_reader_open(dir, &why);
	if (a->state != NULL && a->journal == NULL)
		a->journal = journal_reader_open(dir, &why);
	if (a->state != NULL && a->journal != NULL)
		return true;
	(void)admin_error(call, "unavailable", NULL, "the databases cannot be read: %s",
	    why != NULL ? why : strerror(errno));
	return false;
}

/* "SEQUENCE:LINK", as an audit gave them. */
static bool
parse_link(const struct proto_value *v, uint64_t *sequence, uint8_t link[static JOURNAL_LINK_LEN])
{
	size_t at = 0;

	*sequence = 0;
	for (; at < v->len && v->text[at] >= '0' && v->text[at] <= '9'; at++)
		if (__builtin_mul_overflow(*sequence, UINT64_C(10), sequence) ||
		    __builtin_add_overflow(*sequence, (uint64_t)(v->text[at] - '0'), sequence))
			return false;
	if (at == 0 || *sequence == 0 || v->len != at + 1 + ADMIN_LINK_LEN || v->text[at] != ':')
		return false;
	for (size_t i = 0; i < ADMIN_LINK_LEN; i++) {
		char c = v->text[at + 1 + i];
		int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;

		if (digit < 0)
			return false;
		link[i / 2] = (uint8_t)(link[i / 2] << 4 | digit);
	}
	return true;
}

enum admin_step
admin_audit_run(struct admin_call *call, const struct proto_value *v)
{
	static const struct timeval at_once = {0, 0};
	struct admin *a = call->admin;
	uint8_t link[JOURNAL_LINK_LEN] = {0};
	uint64_t sequence = 0;
	struct running *r;

	if (v[0].given && !parse_link(&v[0], &sequence, link))
		return admin_error(call, "invalid_argument", "link",
		    "a record's number, a colon and 64 hexadecimal digits");
	if (a->audit != NULL)
		return admin_error(call, "busy", NULL, "another audit is running");
	if (!open_readers(call))
		return ADMIN_DONE;
	r = calloc(1, sizeof *r);
	if (r == NULL)
		return admin_error(call, "out_of_memory", NULL, "out of memory");
	r->call = call;
	r->told_us = monotonic_us();
	r->turn = event_new(a->base, -1, 0, turn_cb, r);
	r->audit = audit_new(a->journal, a->state);
	if (r->turn == NULL || r->audit == NULL) {
		(void)admin_error(
		    call, "unavailable", NULL, "the databases cannot be read: %s", strerror(errno));
		if (r->turn != NULL)
			event_free(r->turn);
		audit_free(r->audit);
		free(r);
		return ADMIN_DONE;
	}
	if (sequence != 0)
		audit_expect(r->audit, sequence, link);
	call->state = r;
	call->cancel = cancel;
	a->audit = call;
	event_add(r->turn, &at_once);
	return ADMIN_LATER;
}
