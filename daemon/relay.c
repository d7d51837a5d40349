/*
 * Metering events whose frames are passed on.  Worker process.
 *
 * Events that hold nothing but text are metered many at a time, as far as they came in one read:
 * where the paid text ends within one of them, its frame waits, or is cut.
 */
#include "daemon/relay.h"

#include <stdlib.h>
#include <string.h>

#include "daemon/kept.h"
#include "daemon/settle.h"
#include "daemon/stream.h"

struct relay_mark {
	uint32_t hidden, shown; /* bytes of its text that are not metered yet */
	uint32_t paid;          /* bytes of what it shows that are */
	uint32_t frame;
};

struct relay *
relay_new(bool whole, bool keep)
{
	struct relay *r = calloc(1, sizeof *r);

	if (r != NULL) {
		r->whole = whole;
		r->keep = keep;
	}
	return r;
}

void
relay_drop(struct relay *r)
{
	buf_free(&r->text);
	buf_free(&r->frames);
	buf_free(&r->marks);
	r->mark_at = r->text_at = r->frame_at = 0;
	r->stuck = false;
}

void
relay_forget(struct relay *r)
{
	relay_drop(r);
	buf_free(&r->out);
	buf_free(&r->last);
	buf_free(&r->usage);
	buf_free(&r->head);
	buf_free(&r->body);
	r->said = 0;
	r->begun = r->usage_said = false;
	r->saved = r->body_at = 0;
}

void
relay_free(struct relay *r)
{
	if (r == NULL)
		return;
	relay_forget(r);
	free(r);
}

bool
relay_waits(const struct relay *r)
{
	return r->mark_at < r->marks.len;
}

bool
relay_failed(const struct relay *r)
{
	return r->text.failed || r->frames.failed || r->marks.failed || r->out.failed ||
	    r->last.failed || r->usage.failed || r->head.failed || r->body.failed;
}

static void
push(struct relay *r, size_t hidden, size_t shown, size_t frame)
{
	struct relay_mark m = {
	    .hidden = (uint32_t)hidden, .shown = (uint32_t)shown, .frame = (uint32_t)frame};

	r->said += hidden + shown;
	buf_add(&r->marks, &m, sizeof m);
}

static void
note_head(struct stream *st, const struct decoder_event *ev)
{
	if (st->relay->keep && !st->relay->whole)
		kept_begin(st);
	st->relay->begun = true;
	if (st->api->head != NULL)
		st->api->head(&st->relay->head, ev->data);
}

void
relay_text(struct stream *st, struct span text, const struct decoder_event *ev)
{
	struct relay *r = st->relay;
	size_t before = r->frames.len;

	if (!r->begun && ev->data.len > 0)
		note_head(st, ev);
	buf_span(&r->text, text);
	if (ev->data.len > 0)
		st->api->relay_text(&r->frames, ev);
	push(r, 0, text.len, r->frames.len - before);
}

/* The meter need not wait for these: nobody sees them before the settlement. */
static void
keep_for_end(struct stream *st, enum api_place place, size_t frame, bool usage)
{
	struct relay *r = st->relay;
	struct buf *to = place == API_END ? &r->last : &r->usage;

	r->usage_said |= place == API_END && usage && st->include_usage;
	/* Who says it more than once means the last one. */
	if (place == API_USAGE)
		to->len = 0;
	buf_add(to, r->frames.data + frame, r->frames.len - frame);
	r->frames.len = frame;
}

void
relay_delta(struct stream *st, const struct delta *d, const struct decoder_event *ev)
{
	struct relay *r = st->relay;
	size_t text = r->text.len, hidden, frame = r->frames.len;
	enum api_place place = API_NOWHERE;

	buf_span(&r->text, d->reasoning);
	buf_span(&r->text, d->tool_arguments);
	buf_span(&r->text, d->other);
	hidden = r->text.len - text;
	buf_span(&r->text, d->refusal);
	buf_span(&r->text, d->text);
	if (ev != NULL && ev->data.len > 0) {
		if (!r->begun)
			note_head(st, ev);
		place = st->api->relay(&r->frames, ev, d, st->include_usage);
	}
	/* The ends of other choices keep their place behind the first one's. */
	if (place == API_NOW && r->last.len > 0 && r->text.len == text)
		place = API_END;
	if (place == API_END || place == API_USAGE)
		keep_for_end(st, place, frame, d->usage.present || d->usage_bad);
	push(r, hidden, r->text.len - text - hidden, r->frames.len - frame);
}

static struct relay_mark *
mark(struct relay *r, size_t at)
{
	return (struct relay_mark *)(void *)(r->marks.data + at);
}

static void
bound(struct relay *r)
{
	if (r->keep && r->out.len > KEPT_STREAM_MAX) {
		r->keep = false;
		r->unkept = true;
	}
}

/* The present event is paid: its frame goes out. */
static void
let_out(struct relay *r)
{
	struct relay_mark *m = mark(r, r->mark_at);

	buf_add(&r->out, r->frames.data + r->frame_at, m->frame);
	r->frame_at += m->frame;
	r->mark_at += sizeof *m;
	bound(r);
}

/* Nothing more can be paid: what can be of the present event, in a frame of ours. */
static void
cut(struct stream *st)
{
	struct relay *r = st->relay;
	struct relay_mark *m = mark(r, r->mark_at);
	struct emit_stream es;

	if (m->paid > 0 && !r->whole) {
		stream_describe(st, &es);
		st->api->text(&r->out, &es,
		    (struct span){r->text.data + r->text_at - m->paid, m->paid});
	}
	stream_close(st, OUTCOME_CREDIT, NULL, NULL);
}

static bool
wait_or_end(struct stream *st, enum meter_result result)
{
	if (result == METER_CUT) {
		cut(st);
		return false;
	}
	st->relay->stuck = true;
	if (st->call != NULL)
		call_pause(st->call);
	if (result == METER_BUSY)
		settle_later(st);
	return false;
}

static enum meter_result
take(struct stream *st, bool shown, size_t len, size_t *taken)
{
	struct relay *r = st->relay;
	bool saved;
	enum meter_result result = meter_take(&st->meter, shown, r->text.data + r->text_at, len,
	    kept_unsaved(st), taken, &saved);

	if (saved)
		r->saved = r->out.len;
	r->text_at += *taken;
	return result;
}

/* The events from the present one on that show text alone, and how much in all. */
static size_t
shown_together(struct relay *r)
{
	size_t n = 0;

	for (size_t at = r->mark_at; at < r->marks.len; at += sizeof(struct relay_mark)) {
		struct relay_mark *m = mark(r, at);

		if (m->hidden > 0)
			break;
		n += m->shown;
	}
	return n;
}

/* All is paid. */
static void
let_all_out(struct relay *r)
{
	if (r->out.len == 0 && r->frame_at == 0) {
		struct buf empty = r->out;

		r->out = r->frames;
		r->frames = empty;
	} else {
		buf_add(&r->out, r->frames.data + r->frame_at, r->frames.len - r->frame_at);
		bound(r);
	}
	r->text.len = r->frames.len = r->marks.len = 0;
	r->mark_at = r->text_at = r->frame_at = 0;
}

/* So much of the text of the present events is paid. */
static void
account(struct relay *r, size_t taken)
{
	while (relay_waits(r)) {
		struct relay_mark *m = mark(r, r->mark_at);

		if (m->hidden > 0)
			return;
		if (taken < m->shown) {
			m->shown -= (uint32_t)taken;
			m->paid += (uint32_t)taken;
			return;
		}
		taken -= m->shown;
		m->shown = 0;
		let_out(r);
	}
}

bool
relay_run(struct stream *st)
{
	struct relay *r = st->relay;
	enum meter_result result;
	size_t taken, n;

	r->stuck = false;
	while (relay_waits(r)) {
		struct relay_mark *m = mark(r, r->mark_at);

		if (m->hidden > 0) {
			result = take(st, false, m->hidden, &taken);
			m->hidden -= (uint32_t)taken;
			if (result != METER_TAKEN)
				return wait_or_end(st, result);
			continue;
		}
		n = shown_together(r);
		taken = 0;
		result = n > 0 ? take(st, true, n, &taken) : METER_TAKEN;
		if (result == METER_TAKEN && r->text_at == r->text.len) {
			let_all_out(r);
			return true;
		}
		account(r, taken);
		if (result != METER_TAKEN)
			return wait_or_end(st, result);
	}
	let_all_out(r);
	return true;
}
