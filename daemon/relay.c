/*
 * Metering events whose frames are passed on.  Worker process.
 *
 * Events that hold nothing but text are metered many at a time, as far as they came in one read:
 * where the paid text ends within one of them, its frame waits, or is cut.
 */
#include "daemon/relay.h"

#include <stdlib.h>
#include <string.h>

#include "daemon/decode.h"
#include "daemon/kept.h"
#include "daemon/settle.h"
#include "daemon/stream.h"

struct relay_mark {
	/* Bytes of its text that are not metered yet. */
	uint32_t thought, hidden, shown;
	uint32_t paid;          /* bytes that are: of what it shows, or of a piece */
	uint32_t len;           /* of its text */
	uint32_t frame;
	bool anew;              /* the frame is a struct relay_piece: it is written when it is out */
	struct answer_place at; /* once it is out, if it is not written anew */
};

/* Whose text a piece is; id and name follow it. */
struct relay_piece {
	int64_t index;
	uint32_t id_len, name_len;
	uint8_t kind; /* enum answer_kind */
};

struct relay *
relay_new(bool whole, bool keep)
{
	struct relay *r = calloc(1, sizeof *r);

	if (r != NULL) {
		r->whole = r->answer.whole = whole;
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
	r->mark_at = r->text_at = r->frame_at = r->begin_at = 0;
	r->stuck = r->some_anew = false;
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
	answer_forget(&r->answer);
	r->pushed = (struct answer_place){0};
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
	    r->last.failed || r->usage.failed || r->head.failed || r->body.failed ||
	    answer_failed(&r->answer);
}

static void
push(struct relay *r, size_t thought, size_t hidden, size_t shown, size_t frame, bool anew)
{
	struct relay_mark m = {
	    .thought = (uint32_t)thought,
	    .hidden = (uint32_t)hidden,
	    .shown = (uint32_t)shown,
	    .len = (uint32_t)(thought + hidden + shown),
	    .frame = (uint32_t)frame,
	    .anew = anew,
	    .at = r->pushed,
	};

	r->said += thought + hidden + shown;
	buf_add(&r->marks, &m, sizeof m);
}

/* The first event is here. */
static void
note_begin(struct stream *st)
{
	if (st->relay->keep && !st->relay->whole)
		kept_begin(st);
	st->relay->begun = true;
}

static void
note_head(struct stream *st, const struct decoder_event *ev)
{
	note_begin(st);
	if (st->api->head != NULL)
		st->api->head(&st->relay->head, ev->data);
}

/* Is what the provider streams to be said in other words, or put together? */
static bool
written_anew(const struct stream *st)
{
	const struct dialect *spoken = st->decoder.dialect;

	return st->relay->whole ||
	    (spoken != NULL && spoken != dialect_of(st->api->dialect));
}

/* A call's text is its name, then its arguments. */
static void
push_piece(struct relay *r, const struct answer_piece *p)
{
	struct relay_piece head = {
	    .index = p->index,
	    .id_len = (uint32_t)p->id.len,
	    .name_len = (uint32_t)p->name.len,
	    .kind = (uint8_t)p->kind,
	};
	size_t frame = sizeof head + p->id.len + p->name.len, len = p->name.len + p->text.len;
	bool shown = p->kind == ANSWER_TEXT, thought = p->kind == ANSWER_REASONING;

	if (len + p->id.len == 0)
		return;
	buf_add(&r->frames, &head, sizeof head);
	buf_span(&r->frames, p->id);
	buf_span(&r->frames, p->name);
	buf_span(&r->text, p->name);
	buf_span(&r->text, p->text);
	push(r, thought ? len : 0, shown || thought ? 0 : len, shown ? len : 0, frame, true);
	r->some_anew = true;
}

static void
push_text(struct relay *r, enum answer_kind kind, struct span text)
{
	push_piece(r, &(struct answer_piece){
	    .kind = kind, .id = SPAN(""), .name = SPAN(""), .text = text});
}

void
relay_text(struct stream *st, struct span text, const struct decoder_event *ev)
{
	struct relay *r = st->relay;
	size_t before = r->frames.len;

	if (written_anew(st)) {
		if (!r->begun)
			note_begin(st);
		push_text(r, ANSWER_TEXT, text);
		return;
	}
	if (!r->begun && ev->data.len > 0)
		note_head(st, ev);
	buf_span(&r->text, text);
	if (ev->data.len > 0) {
		r->pushed.begun = true;
		st->api->relay_text(&r->frames, ev);
	}
	push(r, 0, 0, text.len, r->frames.len - before, false);
}

/* In the order in which such answers are given. */
static void
relay_pieces(struct stream *st, const struct delta *d)
{
	struct relay *r = st->relay;

	push_text(r, ANSWER_REASONING, d->reasoning);
	push_text(r, ANSWER_TEXT, d->refusal);
	push_text(r, ANSWER_TEXT, d->text);
	for (unsigned i = 0; i < d->calls; i++)
		push_piece(r, &(struct answer_piece){.kind = ANSWER_CALL,
		    .index = d->call[i].index,
		    .id = d->call[i].id,
		    .name = d->call[i].name,
		    .text = d->call[i].arguments});
	buf_span(&r->text, d->other);
	if (d->other.len > 0)
		push(r, 0, d->other.len, 0, 0, false);
	if (d->calls_missing)
		stream_close(st, OUTCOME_UPSTREAM, "upstream_error",
		    "the provider sent too many tool calls at once");
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
	size_t text = r->text.len, thought, hidden, frame = r->frames.len;
	enum api_place place = API_NOWHERE;

	if (ev != NULL && written_anew(st)) {
		if (!r->begun)
			note_begin(st);
		relay_pieces(st, d);
		return;
	}
	buf_span(&r->text, d->reasoning);
	thought = r->text.len - text;
	buf_span(&r->text, d->tool_arguments);
	buf_span(&r->text, d->other);
	hidden = r->text.len - text - thought;
	buf_span(&r->text, d->refusal);
	buf_span(&r->text, d->text);
	if (ev != NULL && ev->data.len > 0) {
		if (!r->begun)
			note_head(st, ev);
		place = st->api->relay(&r->frames, ev, d, st->include_usage, &r->pushed);
	}
	/* The ends of other choices keep their place behind the first one's. */
	if (place == API_NOW && r->last.len > 0 && r->text.len == text)
		place = API_END;
	if (place == API_END || place == API_USAGE)
		keep_for_end(st, place, frame, d->usage.present || d->usage_bad);
	push(r, thought, hidden, r->text.len - text - thought - hidden, r->frames.len - frame, false);
}

static struct relay_mark *
mark(struct relay *r, size_t at)
{
	return (struct relay_mark *)(void *)(r->marks.data + at);
}

static void
bound(struct relay *r)
{
	if (r->keep &&
	    (r->out.len > KEPT_STREAM_MAX || r->out.len - r->saved > KEPT_RECORD_MAX)) {
		r->keep = false;
		r->unkept = true;
	}
}

/* Write so much of the present piece as is paid; a call's name is said as a whole. */
static void
say(struct stream *st, const struct relay_mark *m, size_t paid)
{
	struct relay *r = st->relay;
	const char *frame = r->frames.data + r->frame_at, *text = r->text.data + r->begin_at;
	struct relay_piece head;
	struct answer_piece p;
	struct emit_stream es;

	memcpy(&head, frame, sizeof head);
	if (paid < head.name_len)
		return;
	p = (struct answer_piece){
	    .kind = (enum answer_kind)head.kind,
	    .index = head.index,
	    .id = {frame + sizeof head, head.id_len},
	    .name = {frame + sizeof head + head.id_len, head.name_len},
	    .text = {m->len > 0 ? text + head.name_len : "", paid - head.name_len},
	};
	stream_describe(st, &es);
	if (!st->api->say(&r->out, &es, &r->answer, &p))
		stream_close(st, OUTCOME_UPSTREAM, "upstream_error",
		    "the provider's tool calls are mixed up");
}

/* The present event is paid: its frame goes out. */
static void
let_out(struct stream *st)
{
	struct relay *r = st->relay;
	struct relay_mark m = *mark(r, r->mark_at);

	if (m.anew) {
		say(st, &m, m.len);
		if (st->stop_wanted)
			return;
	} else {
		buf_add(&r->out, r->frames.data + r->frame_at, m.frame);
		if (m.frame > 0)
			r->answer.at = m.at;
	}
	r->frame_at += m.frame;
	r->begin_at += m.len;
	r->mark_at += sizeof m;
	bound(r);
}

/* Nothing more can be paid, or may be: what can be of the present event, in a frame of ours. */
static void
cut(struct stream *st, enum meter_result why)
{
	struct relay *r = st->relay;
	struct relay_mark m = *mark(r, r->mark_at);
	struct answer_piece p = {.kind = ANSWER_TEXT, .id = SPAN(""), .name = SPAN("")};
	struct emit_stream es;

	if (m.paid > 0 && m.anew) {
		say(st, &m, m.paid);
	} else if (m.paid > 0 && !r->whole) {
		stream_describe(st, &es);
		p.text = (struct span){r->text.data + r->text_at - m.paid, m.paid};
		(void)st->api->say(&r->out, &es, &r->answer, &p);
	}
	decode_cut(st, why);
}

static bool
wait_or_end(struct stream *st, enum meter_result result)
{
	if (result == METER_CUT || result == METER_OVER) {
		cut(st, result);
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
take(struct stream *st, enum meter_kind kind, size_t len, size_t *taken)
{
	struct relay *r = st->relay;
	bool saved;
	enum meter_result result = meter_take(&st->meter, kind, r->text.data + r->text_at, len,
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

		if (m->thought + m->hidden > 0)
			break;
		n += m->shown;
	}
	return n;
}

/* All is paid, and what is written anew is written. */
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
	r->answer.at = r->some_anew ? r->answer.at : r->pushed;
	r->text.len = r->frames.len = r->marks.len = 0;
	r->mark_at = r->text_at = r->frame_at = r->begin_at = 0;
	r->some_anew = false;
}

/* So much of the text of the present events is paid. */
static void
account(struct stream *st, size_t taken)
{
	struct relay *r = st->relay;

	while (relay_waits(r) && !st->stop_wanted) {
		struct relay_mark *m = mark(r, r->mark_at);

		if (m->thought + m->hidden > 0)
			return;
		if (taken < m->shown) {
			m->shown -= (uint32_t)taken;
			m->paid += (uint32_t)taken;
			return;
		}
		taken -= m->shown;
		m->shown = 0;
		let_out(st);
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

		if (m->thought > 0) {
			result = take(st, METER_THOUGHT, m->thought, &taken);
			m->thought -= (uint32_t)taken;
			m->paid += m->anew ? (uint32_t)taken : 0;
			if (result != METER_TAKEN)
				return wait_or_end(st, result);
		}
		if (m->hidden > 0) {
			result = take(st, METER_HIDDEN, m->hidden, &taken);
			m->hidden -= (uint32_t)taken;
			m->paid += m->anew ? (uint32_t)taken : 0;
			if (result != METER_TAKEN)
				return wait_or_end(st, result);
			continue;
		}
		n = shown_together(r);
		taken = 0;
		result = n > 0 ? take(st, METER_SHOWN, n, &taken) : METER_TAKEN;
		if (result == METER_TAKEN && r->text_at == r->text.len && !r->some_anew) {
			let_all_out(r);
			return true;
		}
		account(st, taken);
		if (st->stop_wanted)
			return false;
		if (result != METER_TAKEN)
			return wait_or_end(st, result);
	}
	let_all_out(r);
	return true;
}
