/*
 * Streams of the past.  Worker process.
 *
 * state.mdb follows the journal a little behind, and a dead worker's streams are settled by the
 * master a little after its death.  So a stream is known not to exist only once state.mdb has
 * caught up with what the journal held when we were asked; and one that is found open is waited
 * for.  Both are conditions, looked at on every tick, with a bound.
 */
#include "daemon/past.h"

#include <stdlib.h>
#include <string.h>

#include "daemon/log.h"
#include "shm/clock.h"

#define WAIT_US (20 * UINT64_C(1000000))

struct past {
	struct past *next;
	struct worker *w;
	struct stream_id id;
	struct conn *conn;
	past_found_fn *found;
	void *arg;
	uint64_t asked_seq; /* the journal's last record when we were asked */
	uint64_t asked_us;
};

static void gone(void *, struct conn *);

static const struct conn_ops ops = {gone, NULL};

static void
unlink_past(struct past *x)
{
	for (struct past **p = &x->w->pasts; *p != NULL; p = &(*p)->next) {
		if (*p == x) {
			*p = x->next;
			return;
		}
	}
}

static void
gone(void *arg, struct conn *c)
{
	struct past *x = arg;

	(void)c;
	unlink_past(x);
	free(x->arg);
	free(x);
}

struct state_reader *
past_reader(struct worker *w)
{
	const char *why;

	if (w->state == NULL) {
		w->state = state_reader_open(w->config->state_dir, &why);
		if (w->state == NULL)
			log_warn("state.mdb can't be read: %s", why);
	}
	return w->state;
}

struct journal_reader *
past_journal(struct worker *w)
{
	const char *why;

	if (w->journal == NULL) {
		w->journal = journal_reader_open(w->config->state_dir, &why);
		if (w->journal == NULL)
			log_warn("journal.mdb can't be read: %s", why);
	}
	return w->journal;
}

/* 1: *st is it; 0: there is none; -1: not known yet. */
static int
look(struct past *x, struct stream **st)
{
	struct worker *w = x->w;
	struct state_reader *r = past_reader(w);
	struct stream_row row;
	struct buf text = {0};
	int found;

	*st = stream_find(w->streams, &x->id);
	if (*st != NULL)
		return 1;
	if (r == NULL)
		return -1;
	found = state_stream_get(r, x->id.secret, &row, &text);
	if (found == 1 && row.generation == x->id.generation && row.proc == x->id.proc) {
		/* What /v1 answered is no text of /stream. */
		if (row.keyed == JOURNAL_KEYED_ANSWER) {
			buf_free(&text);
			return 0;
		}
		if (row.outcome != OUTCOME_NONE) {
			*st = stream_from_row(w->streams, &x->id, &row, &text);
			return *st == NULL ? -1 : 1;
		}
		buf_free(&text);
		return -1;
	}
	buf_free(&text);
	if (found < 0)
		return -1;
	return atomic_load_explicit(&w->region->h->projected_seq, memory_order_acquire) >=
		x->asked_seq
	    ? 0
	    : -1;
}

/* True when it is done with. */
static bool
attempt(struct past *x)
{
	struct stream *st = NULL;
	int known = look(x, &st);

	if (known < 0 && monotonic_us() - x->asked_us < WAIT_US)
		return false;
	unlink_past(x);
	if (known < 0) {
		conn_header(x->conn, "Retry-After", "5");
		conn_error(x->conn, 503, "server_error", "overloaded", NULL,
		    "the stream's end is not known yet");
		free(x->arg);
	} else {
		x->found(x->conn, st, x->arg);
	}
	free(x);
	return true;
}

void
past_find(struct worker *w, const struct stream_id *id, struct conn *c, past_found_fn *found,
    void *arg)
{
	struct past *x = calloc(1, sizeof *x);

	if (x == NULL) {
		free(arg);
		conn_error(c, 503, "server_error", "overloaded", NULL, "out of memory");
		return;
	}
	x->w = w;
	x->id = *id;
	x->conn = c;
	x->found = found;
	x->arg = arg;
	x->asked_us = monotonic_us();
	x->asked_seq = atomic_load_explicit(&w->region->h->journal_seq, memory_order_acquire);
	x->next = w->pasts;
	w->pasts = x;
	if (!attempt(x))
		conn_later(c, &ops, x);
}

void
past_tick(struct worker *w)
{
	struct past *x, *next;

	for (x = w->pasts; x != NULL; x = next) {
		next = x->next;
		attempt(x);
	}
	streams_flush(w->streams);
}

void
past_fini(struct worker *w)
{
	while (w->pasts != NULL) {
		struct past *x = w->pasts;

		w->pasts = x->next;
		free(x->arg);
		free(x);
	}
	if (w->state != NULL)
		state_reader_close(w->state);
	w->state = NULL;
	journal_reader_close(w->journal);
	w->journal = NULL;
}
