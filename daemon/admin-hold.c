/*
 * hold.list, hold.void, stream.list, stream.cancel.  Admin process.
 *
 * Lists are looks at shared memory.  To end a hold is its owner's: the admin process posts a
 * letter (shm/mail.h), wakes it, and then watches the hold until it is closed, be it by its owner
 * or, should that die, by the master.  What it came to is read from state.mdb after a sync.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/admin.h"
#include "daemon/ids.h"
#include "daemon/state.h"
#include "shm/clock.h"
#include "shm/mail.h"
#include "shm/wake.h"

#define LOOK_MS 10       /* between two looks at holds that are to close */
#define PATIENCE_S 20    /* then the caller is told that it is not done yet */
#define HOLD_NAME_LEN 32

/* What a report tells of a hold, copied while its owner may be at work on it. */
struct hold_report {
	uint32_t slot, account, generation;
	uint16_t model;
	bool opened, ending;
	int64_t amount;
	int64_t cost; /* of what it has up to now */
	uint32_t metered;
	uint64_t opened_us;
	uint8_t stream_id[16];
};

/*
 * Copy an open hold; false if the slot has none.  The owner writes these fields only in other
 * states, so they belong together if the state's word is the same before and after; amount may
 * be an extend older.
 */
static bool
hold_report(const struct admin *a, uint32_t slot, struct hold_report *out)
{
	const struct hold *h = hold_at(a->region, slot);

	for (int tries = 0; tries < 3; tries++) {
		/* Acquire, pairs with hold_move. */
		uint64_t word = atomic_load_explicit(&h->state, memory_order_acquire);
		enum hold_state st = HOLD_STATE(word);
		uint64_t meter;

		if (st != HOLD_HELD && st != HOLD_EXTENDING && st != HOLD_SETTLING)
			return false;
		*out = (struct hold_report){.slot = slot, .account = h->account,
		    .generation = h->generation, .amount = h->amount, .model = h->model,
		    .ending = st == HOLD_SETTLING};
		out->opened = atomic_load_explicit(&h->opened, memory_order_relaxed) != 0;
		meter = atomic_load_explicit(&h->meter, memory_order_relaxed);
		out->metered = METER_TOKENS(meter);
		/* Without a token it would be void. */
		if (out->metered > 0)
			out->cost = price_cost_of(&h->price,
			    &(struct tokens){.prompt = h->prompt, .completion = out->metered,
				.reasoning = METER_REASONING(meter)});
		out->opened_us = h->reserved_us;
		memcpy(out->stream_id, h->stream_id, sizeof out->stream_id);
		/* The second look must not slip in front of the copies. */
		atomic_thread_fence(memory_order_acquire);
		if (atomic_load_explicit(&h->state, memory_order_relaxed) == word)
			/* Acquire, pairs with the keeper's insert. */
			return out->account <
			       atomic_load_explicit(
				   &a->region->h->accounts, memory_order_acquire);
	}
	return false;
}


/* Slots are used again and again; with a piece of the stream's id the name is of one hold. */
static void
hold_name(uint32_t slot, const uint8_t stream_id[static 16], char name[static HOLD_NAME_LEN])
{
	(void)snprintf(name, HOLD_NAME_LEN, "%u-%02x%02x%02x%02x", slot, stream_id[0],
	    stream_id[1], stream_id[2], stream_id[3]);
}

static void
stream_name(const struct admin *a, const struct hold_report *h, char text[static STREAM_ID_LEN + 1])
{
	struct stream_id id = {.proc = (uint8_t)hold_proc(a->region, h->slot),
	    .generation = h->generation};

	memcpy(id.secret, h->stream_id, sizeof id.secret);
	stream_id_format(&id, text);
}

static int64_t
age_s(const struct hold_report *h)
{
	uint64_t now_us = realtime_us();

	return now_us > h->opened_us ? (int64_t)((now_us - h->opened_us) / 1000000) : 0;
}

static void
put_hold(const struct admin_call *call, struct proto_out *out, const struct hold_report *h)
{
	const struct admin *a = call->admin;
	const struct account *account = account_at(a->region, h->account);
	char stream[STREAM_ID_LEN + 1], name[HOLD_NAME_LEN];

	stream_name(a, h, stream);
	hold_name(h->slot, h->stream_id, name);
	proto_put_map(out, 6);
	proto_put_kstr(out, "hold", name);
	proto_put_ktext(out, "account", account->id, account->id_len);
	proto_put_kint(out, "amount", h->amount);
	proto_put_kint(out, "metered", h->metered);
	/* It opens the stream for whoever has it. */
	proto_put_kstr(out, "stream_id", call->full ? stream : NULL);
	proto_put_kint(out, "age", age_s(h));
}

static void
put_stream(const struct admin_call *call, struct proto_out *out, const struct hold_report *h)
{
	const struct admin *a = call->admin;
	const struct account *account = account_at(a->region, h->account);
	char stream[STREAM_ID_LEN + 1], name[HOLD_NAME_LEN];

	stream_name(a, h, stream);
	hold_name(h->slot, h->stream_id, name);
	proto_put_map(out, 10);
	proto_put_kstr(out, "stream_id", call->full ? stream : NULL);
	proto_put_ktext(out, "account", account->id, account->id_len);
	/* Also of a model that the config has no more. */
	proto_put_kstr(out, "model",
	    h->model < REGION_MODELS_MAX ? region_names(a->region)->model[h->model] : NULL);
	proto_put_kstr(out, "state", h->ending ? "ending" : h->opened ? "running" : "waiting");
	proto_put_kint(out, "worker", region_worker(a->region, hold_proc(a->region, h->slot)));
	proto_put_kint(out, "metered", h->metered);
	proto_put_kint(out, "cost", h->cost);
	proto_put_kint(out, "amount", h->amount);
	proto_put_kstr(out, "hold", name);
	proto_put_kint(out, "age", age_s(h));
}

/* A page: {key: [...], "next": the slot to go on with, or nil}. */
static enum admin_step
list(struct admin_call *call, const struct proto_value *v, const char *key,
    void (*put)(const struct admin_call *, struct proto_out *, const struct hold_report *))
{
	const struct admin *a = call->admin;
	uint32_t count = hold_count(a->region), at = (uint32_t)v[0].number;
	uint32_t limit = v[1].given ? (uint32_t)v[1].number : ADMIN_PAGE_MAX, n = 0;
	struct hold_report found[ADMIN_PAGE_MAX];
	struct proto_out *out = admin_result(call);

	for (; at < count && n < limit; at++)
		if (hold_report(a, at, &found[n]))
			n++;
	proto_put_map(out, 2);
	proto_put_str(out, key);
	proto_put_array(out, n);
	for (uint32_t i = 0; i < n; i++)
		put(call, out, &found[i]);
	proto_put_str(out, "next");
	if (at < count)
		proto_put_int(out, at);
	else
		proto_put_nil(out);
	return ADMIN_DONE;
}

enum admin_step
admin_hold_list(struct admin_call *call, const struct proto_value *v)
{
	return list(call, v, "holds", put_hold);
}

enum admin_step
admin_stream_list(struct admin_call *call, const struct proto_value *v)
{
	return list(call, v, "streams", put_stream);
}

/* Ending a hold. */

struct ending {
	TAILQ_ENTRY(ending) link;
	struct admin_call *call;
	struct hold_report hold;
	enum mail_verb verb;
	bool posted;
	uint64_t until_us;
};

static bool
is_open(const struct admin *a, const struct hold_report *of)
{
	struct hold_report now;

	return hold_report(a, of->slot, &now) && now.generation == of->generation &&
	    memcmp(now.stream_id, of->stream_id, sizeof now.stream_id) == 0;
}

static void
ending_free(struct ending *e)
{
	TAILQ_REMOVE(&e->call->admin->endings, e, link);
	e->call->state = NULL;
	e->call->cancel = NULL;
	free(e);
}

/* The caller is gone.  What was posted is done all the same. */
static void
cancel(struct admin_call *call)
{
	ending_free(call->state);
	admin_finish(call);
}

/* The hold is closed and state.mdb knows it. */
static void
ended_cb(void *arg, uint64_t position)
{
	struct admin_call *call = arg;
	struct admin *a = call->admin;
	struct ending *e = call->state;
	const char *why;
	struct stream_row row = {0};
	char stream[STREAM_ID_LEN + 1], name[HOLD_NAME_LEN], charge[MONEY_TEXT_MAX];
	struct proto_out *out;
	bool known, wants_void = e->verb == MAIL_VOID;

	(void)position;
	if (a->state == NULL)
		a->state = state_reader_open(a->heritage->config->state_dir, &why);
	known = a->state != NULL &&
	    state_stream_get(a->state, e->hold.stream_id, &row, NULL) == 1 && row.ended_us != 0;
	stream_name(a, &e->hold, stream);
	hold_name(e->hold.slot, e->hold.stream_id, name);
	free(e);
	call->state = NULL;
	call->amount = row.charge;
	if (known && wants_void && !row.voided) {
		(void)money_format(charge, row.charge);
		(void)admin_error(call, "hold_closed", "hold",
		    "too late: hold %s was settled for %s credits (%s)", name, charge,
		    journal_outcome_text(row.outcome));
		admin_finish(call);
		return;
	}
	admin_log(call, wants_void ? "hold voided" : "stream cancelled");
	out = admin_result(call);
	proto_put_map(out, 6);
	proto_put_kstr(out, "stream_id", stream);
	proto_put_kstr(out, "hold", name);
	proto_put_ktext(out, "account", call->account->id, call->account->id_len);
	proto_put_kstr(out, "outcome", known ? journal_outcome_text(row.outcome) : NULL);
	proto_put_kint(out, "charge", row.charge);
	proto_put_kbool(out, "voided", known ? row.voided != 0 : wants_void);
	admin_finish(call);
}

/* False if the ring is full. */
static bool
sync_state(struct ending *e)
{
	struct admin_call *call = e->call;
	struct admin *a = call->admin;
	const struct journal_record sync = {.type = JOURNAL_SYNC, .version = JOURNAL_VERSION,
	    .proc = PROC_ADMIN, .slot = JOURNAL_NONE, .account = JOURNAL_NONE,
	    .price = JOURNAL_NONE, .time_us = realtime_us()};
	uint64_t position = ring_push(ledger_ring(a->ledger), &sync, NULL, 0);

	if (position == 0)
		return false;
	/* From here on the record has the call: it cannot be cancelled. */
	TAILQ_REMOVE(&a->endings, e, link);
	call->cancel = NULL;
	durable_wait(a->durable, position, ended_cb, call);
	return true;
}

/* Post it, if its worker lives and its box is empty. */
static void
post(struct ending *e)
{
	struct region *r = e->call->admin->region;
	uint32_t proc = hold_proc(r, e->hold.slot);
	struct mail m = {.verb = e->verb, .slot = e->hold.slot, .generation = e->hold.generation};

	/* Relaxed: if it is another one's by now, the letter is thrown away. */
	if (atomic_load_explicit(&region_proc(r, proc)->generation, memory_order_relaxed) !=
	    m.generation)
		return;
	memcpy(m.stream_id, e->hold.stream_id, sizeof m.stream_id);
	e->posted = mail_post(r, proc, &m);
	/* Also when it is full: whoever posted may have died before it woke. */
	wake(r, proc, e->call->admin->heritage->wake_fd[proc]);
}

/* Model: Admin() in tests/model/mail.pml. */
static void
look(struct ending *e, uint64_t now_us)
{
	struct admin_call *call = e->call;

	if (!is_open(call->admin, &e->hold)) {
		(void)sync_state(e);
		return;
	}
	if (now_us > e->until_us) {
		(void)admin_error(call, "unavailable", "hold",
		    "%s, and it is not done yet; see hold list",
		    e->posted ? "it was asked for" : "its worker does not take it");
		ending_free(e);
		admin_finish(call);
		return;
	}
	if (!e->posted)
		post(e);
}

void
admin_endings_tick(struct admin *a)
{
	static const struct timeval soon = {0, LOOK_MS * 1000};
	uint64_t now_us = monotonic_us();
	struct ending *e, *next;

	for (e = TAILQ_FIRST(&a->endings); e != NULL; e = next) {
		next = TAILQ_NEXT(e, link);
		look(e, now_us);
	}
	if (!TAILQ_EMPTY(&a->endings))
		event_add(a->endings_timer, &soon);
}

static enum admin_step
end_hold(struct admin_call *call, const struct hold_report *h, enum mail_verb verb)
{
	struct admin *a = call->admin;
	struct ending *e = calloc(1, sizeof *e);

	if (e == NULL)
		return admin_error(call, "out_of_memory", NULL, "out of memory");
	e->call = call;
	e->hold = *h;
	e->verb = verb;
	e->until_us = monotonic_us() + PATIENCE_S * UINT64_C(1000000);
	call->account = account_at(a->region, h->account);
	call->state = e;
	call->cancel = cancel;
	TAILQ_INSERT_TAIL(&a->endings, e, link);
	/* By the timer and not from here: a look may finish the call. */
	event_active(a->endings_timer, EV_TIMEOUT, 0);
	return ADMIN_LATER;
}

/* "17-0a1b2c3d" */
static bool
parse_hold(const char *text, size_t len, uint32_t *slot, char name[static HOLD_NAME_LEN])
{
	size_t digits;
	unsigned n;
	int used = 0;

	if (len >= HOLD_NAME_LEN)
		return false;
	memcpy(name, text, len);
	name[len] = '\0';
	digits = strspn(name, "0123456789");
	if (digits < 1 || digits > 8 || name[digits] != '-' ||
	    sscanf(name, "%8u-%n", &n, &used) != 1)
		return false;
	*slot = n;
	return strlen(name + used) == 8 && strspn(name + used, "0123456789abcdef") == 8;
}

enum admin_step
admin_hold_void(struct admin_call *call, const struct proto_value *v)
{
	const struct admin *a = call->admin;
	char wanted[HOLD_NAME_LEN], name[HOLD_NAME_LEN];
	struct hold_report h;
	uint32_t slot;

	if (!parse_hold(v[0].text, v[0].len, &slot, wanted))
		return admin_error(call, "invalid_argument", "hold",
		    "a hold's name is as hold list shows it, such as 17-0a1b2c3d");
	if (slot < hold_count(a->region) && hold_report(a, slot, &h)) {
		hold_name(slot, h.stream_id, name);
		if (strcmp(name, wanted) == 0)
			return end_hold(call, &h, MAIL_VOID);
	}
	return admin_error(call, "hold_not_found", "hold",
	    "no open hold %s: it was closed, or never was", wanted);
}

enum admin_step
admin_stream_cancel(struct admin_call *call, const struct proto_value *v)
{
	const struct region *r = call->admin->region;
	struct stream_id id;
	struct hold_report h;

	if (!stream_id_parse(v[0].text, v[0].len, &id))
		return admin_error(call, "invalid_argument", "stream_id",
		    "a stream's id is as stream list shows it");
	if (id.proc >= PROC_WORKER && id.proc < r->h->procs) {
		uint32_t first = hold_first(r, id.proc);

		for (uint32_t i = first; i < first + r->h->holds_per_proc; i++)
			if (hold_report(call->admin, i, &h) && h.generation == id.generation &&
			    memcmp(h.stream_id, id.secret, sizeof id.secret) == 0)
				return end_hold(call, &h, MAIL_CANCEL);
	}
	return admin_error(call, "stream_not_found", "stream_id",
	    "no such stream is open: it has ended, or never was");
}
