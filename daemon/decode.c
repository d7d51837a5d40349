/*
 * What a provider sends, and what it means for the stream.  Worker process.
 *
 * Provider's bytes are hostile: framing and JSON are parsed by pure modules with bounds, and
 * nothing here asserts on what came.  Text is metered before it is appended, so that all that
 * stands in stream->text is paid for.
 */
#include "daemon/decode.h"

#include <stdio.h>
#include <string.h>

#include "daemon/log.h"
#include "daemon/metrics.h"
#include "daemon/openai.h"
#include "daemon/relay.h"
#include "daemon/settle.h"
#include "daemon/stream.h"
#include "daemon/watch.h"
#include "shm/clock.h"

#define BURST_MAX 4096
/* So long may a refusal take to say why: what its status says is known already. */
#define REFUSAL_US (5 * UINT64_C(1000000))
#define DECODED_KEPT (8u << 20) /* of the room that events are decoded in */
#define GATHER_AFTER 16 /* events, before it may be read together with others */

static void
defect(struct stream *st, enum defect_kind kind)
{
	metrics_defect((unsigned)st->provider, kind);
	st->defects++;
}

static void
failed(struct stream *st, enum upstream_kind kind, struct span message, const char *text)
{
	struct failure f = {
	    .kind = kind,
	    .status = st->status,
	    .retry_after = st->retry_after,
	    .message = message,
	    .text = text,
	};

	attempt_failed(st, &f);
}

/* It ended too early: before its first token it may be asked again. */
static void
broken_off(struct stream *st, const char *text)
{
	struct failure f = {
	    .kind = UPSTREAM_TRUNCATED,
	    .status = st->status,
	    .text = text,
	    .code = st->first_us != 0 ? "upstream_truncated" : NULL,
	};

	defect(st, DEFECT_TRUNCATED);
	attempt_failed(st, &f);
}

static void
append(struct stream *st, const char *text, size_t len, size_t unsaved_from, bool saved_now)
{
	if (saved_now)
		st->saved = unsaved_from;
	if (len == 0)
		return;
	buf_add(&st->text, text, len);
	/* A piece without its text would have watchers read beyond the text's end. */
	if (!st->text.failed)
		stream_add_piece(st, len);
}

/* Text that could not be kept is lost: the stream must not end as if it were whole. */
static void
check_memory(struct stream *st)
{
	if (st->text.failed || st->pieces.failed || st->pending.failed ||
	    st->pending_hidden.failed || st->pending_thought.failed)
		stream_close(st, OUTCOME_UPSTREAM, "overloaded", "out of memory");
}

void
decode_note_overrun(struct stream *st)
{
	defect(st, DEFECT_OVERSIZE);
	log_event(LOG_WARN, "provider says more than it was told to", "message", st->message_text,
	    "provider", st->config->provider[st->provider].name, "limit",
	    st->max_completion_tokens ? "max_completion_tokens" : "max_tokens", NULL);
}

void
decode_cut(struct stream *st, enum meter_result why)
{
	if (why == METER_OVER)
		decode_note_overrun(st);
	else
		st->short_of = st->meter.short_of;
	stream_close(st, why == METER_OVER ? OUTCOME_LENGTH : OUTCOME_CREDIT, NULL, NULL);
}

/* Where text of a kind waits. */
static struct buf *
pending(struct stream *st, enum meter_kind kind)
{
	return kind == METER_SHOWN  ? &st->pending
	       : kind == METER_HIDDEN ? &st->pending_hidden
	                              : &st->pending_thought;
}

/* Meter a piece and, if it is shown, append what is payable of it.  False: go no further. */
static bool
take(struct stream *st, enum meter_kind kind, const char *text, size_t len)
{
	struct span unsaved = {st->text.data + st->saved, st->text.len - st->saved};
	size_t before = st->text.len, taken;
	enum meter_result r;
	bool saved_now;

	if (unsaved.len == 0)
		unsaved.p = "";
	r = meter_take(&st->meter, kind, text, len, unsaved, &taken, &saved_now);
	append(st, text, kind == METER_SHOWN ? taken : 0, before, saved_now);
	if (r == METER_TAKEN)
		return true;
	if (r == METER_CUT || r == METER_OVER) {
		decode_cut(st, r);
		return false;
	}
	buf_add(pending(st, kind), text + taken, len - taken);
	if (st->call != NULL)
		call_pause(st->call);
	if (r == METER_BUSY)
		settle_later(st);
	return false;
}

/* Text has come.  False: too much of it, the stream is closed. */
static bool
note_text(struct stream *st, size_t before, size_t more)
{
	if (st->first_us == 0) {
		st->first_us = monotonic_us();
		st->saw_first = true;
		attempt_worked(st);
		stream_move(st, STREAM_RUNNING);
	}
	st->progress_us = st->w->event_us;
	/* No tokenizer has a token of more bytes: the provider does not keep to its limit. */
	if (before / TOKEN_BYTES_MAX > st->max_tokens) {
		stream_close(st, OUTCOME_LENGTH, NULL, NULL);
		return false;
	}
	if (before + more > STREAM_TEXT_MAX) {
		defect(st, DEFECT_OVERSIZE);
		stream_close(st, OUTCOME_UPSTREAM, "upstream_error", "the answer is too long");
		return false;
	}
	return true;
}

/* Events for an api's client have come: meter them, unless one waits already. */
static void
relayed(struct stream *st)
{
	struct relay *r = st->relay;

	if (relay_failed(r)) {
		stream_close(st, OUTCOME_UPSTREAM, "overloaded", "out of memory");
		return;
	}
	if (r->last.len > RELAY_END_MAX) {
		defect(st, DEFECT_OVERSIZE);
		failed(st, UPSTREAM_PROTOCOL, (struct span){0},
		    "the provider's answer does not end");
		return;
	}
	if (r->text.len > r->text_at && !note_text(st, r->said - (r->text.len - r->text_at),
					      r->text.len - r->text_at))
		return;
	if (!r->stuck)
		(void)relay_run(st);
	if (relay_failed(r))
		stream_close(st, OUTCOME_UPSTREAM, "overloaded", "out of memory");
	stream_touch(st);
}

/* Text that waits for its slice goes first; what comes meanwhile queues behind it. */
static void
arrived(struct stream *st, enum meter_kind kind, struct span text)
{
	if (text.len == 0 || st->stop_wanted ||
	    !note_text(st, st->text.len, st->pending.len + text.len))
		return;
	/* Some providers do not count their thoughts against max_tokens; but no model thinks for
	 * ever, and its client pays. */
	if (kind != METER_SHOWN && (st->hidden_bytes += text.len) / TOKEN_BYTES_MAX >
	        st->config->model[st->model].max_completion) {
		stream_close(st, OUTCOME_LENGTH, NULL, NULL);
		return;
	}
	if (stream_waits(st))
		buf_add(pending(st, kind), text.p, text.len);
	else
		take(st, kind, text.p, text.len);
	check_memory(st);
	stream_touch(st);
}

void
decode_retry(void *arg)
{
	decode_resume(arg, false);
}

static void
resume_text(struct stream *st)
{
	static const enum meter_kind order[] = {METER_THOUGHT, METER_HIDDEN, METER_SHOWN};
	bool room = true;

	for (size_t i = 0; i < sizeof order / sizeof *order && room; i++) {
		struct buf b = *pending(st, order[i]);

		*pending(st, order[i]) = (struct buf){0};
		room = b.len == 0 || take(st, order[i], b.data, b.len);
		buf_free(&b);
	}
	check_memory(st);
}

void
decode_resume(void *arg, bool slice_began)
{
	struct stream *st = arg;

	if (st->stop_wanted)
		return;
	/* Ahead of the text that waited for it: only who has all that came before is told. */
	if (slice_began)
		watch_slice(st);
	if (st->relay != NULL)
		(void)relay_run(st);
	else
		resume_text(st);
	/* What ended the provider's side while text waited can be acted on now. */
	if (!st->stop_wanted && !stream_waits(st) && st->ended_early)
		decode_end(st, st->end_result, "");
	stream_touch(st);
	streams_flush(st->w->streams);
}

static bool
says_something(const struct delta *d)
{
	return d->text.len + d->refusal.len + d->reasoning.len + d->tool_arguments.len +
	    d->other.len > 0;
}

static void
note_usage(struct stream *st, const struct delta *d)
{
	/* An impossible one discredits those before it too: they were not the last word. */
	if (d->usage_bad)
		st->usage_odd = true;
	if (!d->usage.present) {
		/* It was a running count: of this it knows nothing. */
		st->usage_stale |= st->usage.present && says_something(d);
		return;
	}
	/* Providers that repeat their usage may only raise it. */
	if (st->usage.present && (d->usage.completion < st->usage.completion ||
				     d->usage.prompt < st->usage.prompt))
		st->usage_odd = true;
	st->usage = d->usage;
	st->usage_stale = false;
	/* What comes with the finish reason or after it is no running count. */
	st->usage_final = st->finish != OUTCOME_NONE;
}

/*
 * Text of plain events that came together is metered in one go: it makes no difference to the
 * count, which goes by the text (but that it may have been a few more in between), nor to where a
 * cut falls, which is inside the piece.
 */
static void
burst_end(struct stream *st)
{
	struct buf *b = &st->w->burst;

	if (st->relay != NULL) {
		if (!st->stop_wanted && (relay_waits(st->relay) || relay_failed(st->relay)))
			relayed(st);
		return;
	}
	if (b->failed) {
		buf_free(b);
		stream_close(st, OUTCOME_UPSTREAM, "overloaded", "out of memory");
	}
	if (b->len > 0)
		arrived(st, METER_SHOWN, (struct span){b->data, b->len});
	b->len = 0;
}

static bool
on_text(void *arg, struct span text, const struct decoder_event *ev)
{
	struct stream *st = arg;

	if (st->stop_wanted)
		return false;
	st->chunks++;
	st->usage_stale |= st->usage.present && text.len > 0;
	if (st->relay != NULL) {
		relay_text(st, text, ev);
		if (st->relay->text.len - st->relay->text_at > BURST_MAX)
			burst_end(st);
		return !st->stop_wanted;
	}
	buf_span(&st->w->burst, text);
	if (st->w->burst.len > BURST_MAX)
		burst_end(st);
	return !st->stop_wanted;
}

static bool
on_invalid(struct stream *st, const struct delta *d)
{
	if (d->no_memory) {
		stream_close(st, OUTCOME_UPSTREAM, "overloaded", "out of memory");
		return false;
	}
	defect(st, DEFECT_JSON);
	return true;
}

static bool
on_delta(void *arg, const struct delta *d, const struct decoder_event *ev)
{
	struct stream *st = arg;

	if (st->stop_wanted)
		return false;
	st->chunks++;
	burst_end(st);
	if (st->stop_wanted)
		return false;
	if (d->utf8_repaired)
		defect(st, DEFECT_UTF8);
	if (d->kind == DELTA_INVALID)
		return on_invalid(st, d);
	if (d->kind == DELTA_ERROR) {
		failed(st, UPSTREAM_REPORTED, d->message, "the provider reported an error");
		return false;
	}
	st->done_seen |= d->kind == DELTA_DONE;
	if (d->finish != OUTCOME_NONE)
		st->finish = d->finish;
	note_usage(st, d);
	if (st->relay != NULL) {
		relay_delta(st, d, ev);
		burst_end(st);
		return !st->stop_wanted;
	}
	arrived(st, METER_THOUGHT, d->reasoning);
	arrived(st, METER_HIDDEN, d->tool_arguments);
	arrived(st, METER_HIDDEN, d->other);
	arrived(st, METER_SHOWN, d->refusal);
	arrived(st, METER_SHOWN, d->text);
	return !st->stop_wanted;
}

static const struct decoder_ops decoder_ops = {on_text, on_delta};

static const struct config_provider *
provider(const struct stream *st)
{
	return &st->config->provider[st->provider];
}

/* What "auto" found is worth a line when it is new. */
static void
note_dialect(struct stream *st)
{
	const struct dialect *found = st->decoder.dialect, **known = &st->w->found[st->provider];

	if (provider(st)->dialect != DIALECT_AUTO || found == NULL || found == *known)
		return;
	*known = found;
	log_event(LOG_INFO, "provider's dialect found", "provider", provider(st)->name, "dialect",
	    found->name, NULL);
}

/* Was the provider asked for its answer in one piece? */
static bool
in_one_piece(const struct stream *st)
{
	return st->relay != NULL && st->relay->whole &&
	    dialect_of(provider(st)->dialect) == dialect_of(st->api->dialect);
}

void
decode_head(void *arg, int status, const char *media_type, int64_t retry_after)
{
	struct stream *st = arg;
	enum config_dialect d = provider(st)->dialect;
	const struct dialect *dialect = d == DIALECT_AUTO ? NULL : dialect_of(d);

	st->status = status;
	st->retry_after = retry_after;
	st->event_stream = status == 200 && !in_one_piece(st) &&
	    decoder_accepts(dialect, media_type);
	decoder_free(&st->decoder);
	decoder_init(&st->decoder, dialect, media_type, provider(st)->max_line,
	    &st->w->decoded);
	if (status != 200)
		attempt_hurry(st, REFUSAL_US);
}

/* A body that is no stream: what it says is for the error.  One without end is not waited for. */
static void
keep_body(struct stream *st, const char *bytes, size_t len)
{
	size_t room = ERROR_BODY_MAX - st->raw_error.len;

	buf_add(&st->raw_error, bytes, len < room ? len : room);
	if (len >= room)
		decode_refused(st);
}

static void
decoded(struct stream *st, enum decoder_result result)
{
	char text[80];

	burst_end(st);
	note_dialect(st);
	switch (result) {
	case DECODER_OVERSIZE:
		defect(st, DEFECT_OVERSIZE);
		snprintf(text, sizeof text, "the provider sent a line of over %u bytes",
		    (unsigned)provider(st)->max_line);
		failed(st, UPSTREAM_PROTOCOL, (struct span){0}, text);
		break;
	case DECODER_NOMEM:
		stream_close(st, OUTCOME_UPSTREAM, "overloaded", "out of memory");
		break;
	default:
		break;
	}
}

/* A part of an answer that comes in one piece. */
static void
take_piece(struct stream *st, const char *bytes, size_t len)
{
	if (len > RELAY_BODY_MAX - st->relay->body.len) {
		defect(st, DEFECT_OVERSIZE);
		failed(st, UPSTREAM_TOO_LONG, (struct span){0},
		    "the provider's answer is too long");
		return;
	}
	buf_add(&st->relay->body, bytes, len);
}

void
decode_data(void *arg, const char *bytes, size_t len)
{
	struct stream *st = arg;
	enum decoder_result result;

	st->bytes += len;
	st->w->event_us = coarse_us();
	if (st->status == 200 && in_one_piece(st)) {
		take_piece(st, bytes, len);
		return;
	}
	if (!st->event_stream) {
		keep_body(st, bytes, len);
		return;
	}
	result = decoder_feed(&st->decoder, bytes, len, &decoder_ops, st);
	/* What a giant event took is not kept for the usual ones. */
	if (st->w->decoded.cap > DECODED_KEPT)
		buf_free(&st->w->decoded);
	if (result == DECODER_FOREIGN) {
		st->event_stream = false;
		keep_body(st, bytes, len);
		return;
	}
	decoded(st, result);
}

void
decode_flush(void *arg)
{
	struct stream *st = arg;
	uint64_t now;

	if (st->saw_first) {
		st->saw_first = false;
		stream_touch(st);
		streams_flush(st->w->streams);
		now = monotonic_us();
		metrics_first_token((unsigned)st->model, now - st->opened_us);
		metrics_overhead((now - st->first_us) + (st->call_us - st->opened_us));
		return;
	}
	/* Short answers are not worth the two system calls. */
	if (st->chunks >= GATHER_AFTER && st->call != NULL)
		call_gather(st->call);
	stream_touch(st);
	streams_flush(st->w->streams);
}

/* A refusal, or a 200 that is not a stream. */
void
decode_refused(struct stream *st)
{
	char text[64];
	struct span message = openai_error_message(st->raw_error.data == NULL ? "" :
	    st->raw_error.data, st->raw_error.len, &st->w->decoded);

	if (st->status == 200) {
		failed(st, UPSTREAM_PROTOCOL, message, "the provider sent no stream");
		return;
	}
	/* It is our key that was refused: for the operator to know, and such messages quote keys. */
	if (retry_kind_of_status(st->status) == UPSTREAM_AUTH)
		message.len = 0;
	snprintf(text, sizeof text, "the provider answered with status %d", st->status);
	failed(st, retry_kind_of_status(st->status), message, text);
}

static void
end_failed(struct stream *st, enum call_result result, const char *why)
{
	switch (result) {
	case CALL_TIMEOUT:
		failed(st, UPSTREAM_CONNECT_TIMEOUT, (struct span){0},
		    "no connection to the provider in time");
		break;
	case CALL_TRUNCATED:
		/* What a status says is whole without the rest of its body. */
		if (st->status != 200) {
			decode_refused(st);
			break;
		}
		broken_off(st, "the provider's answer broke off");
		break;
	case CALL_TLS:
		log_event(LOG_WARN, "no TLS with the provider", "provider",
		    provider(st)->name, "why", why, NULL);
		failed(st, UPSTREAM_TLS, (struct span){0},
		    "no trusted connection to the provider came about");
		break;
	case CALL_PROTOCOL:
		log_event(LOG_WARN, "provider does not speak HTTP", "provider",
		    provider(st)->name, "why", why, NULL);
		failed(st, UPSTREAM_PROTOCOL, (struct span){0},
		    "the provider's answer is not HTTP");
		break;
	default:
		failed(st, UPSTREAM_CONNECT, (struct span){0}, "the provider could not be reached");
	}
}

/* The provider's side is over and all its text was taken: did it end well? */
static void
end_complete(struct stream *st)
{
	uint8_t outcome = st->finish == OUTCOME_NONE ? OUTCOME_STOP : st->finish;

	if (!st->event_stream) {
		decode_refused(st);
		return;
	}
	if (!st->done_seen) {
		broken_off(st, "the provider's answer ended without its end mark");
		return;
	}
	/* An end mark alone is no answer. */
	if (st->finish == OUTCOME_NONE && st->first_us == 0) {
		broken_off(st, "the provider's answer is empty");
		return;
	}
	if (outcome == OUTCOME_LENGTH && st->credit_bound)
		outcome = OUTCOME_CREDIT;
	st->complete = true;
	attempt_worked(st); /* without a token, too */
	stream_close(st, outcome, NULL, NULL);
}

/* An answer in one piece is here: read and meter it.  False: it was none. */
static bool
end_piece(struct stream *st)
{
	struct relay *r = st->relay;
	struct delta d;

	if (relay_failed(r)) {
		stream_close(st, OUTCOME_UPSTREAM, "overloaded", "out of memory");
		return false;
	}
	st->api->decode_whole((struct span){r->body.data, r->body.len}, &st->w->decoded, &d);
	if (d.kind == DELTA_ERROR) {
		failed(st, UPSTREAM_REPORTED, d.message, "the provider reported an error");
		return false;
	}
	if (d.kind == DELTA_INVALID || d.kind == DELTA_EMPTY) {
		if (d.kind == DELTA_INVALID)
			(void)on_invalid(st, &d);
		if (!st->stop_wanted)
			failed(st, UPSTREAM_PROTOCOL, (struct span){0},
			    "the provider sent no answer");
		return false;
	}
	if (d.utf8_repaired)
		defect(st, DEFECT_UTF8);
	st->chunks++;
	st->done_seen = st->event_stream = true;
	st->finish = d.finish != OUTCOME_NONE ? d.finish : OUTCOME_STOP;
	note_usage(st, &d);
	relay_delta(st, &d, NULL);
	/* What a giant body took is not kept for the usual events. */
	if (st->w->decoded.cap > DECODED_KEPT)
		buf_free(&st->w->decoded);
	burst_end(st);
	return !st->stop_wanted;
}

/* What its last bytes hold; false if that was the end of the stream, or of this attempt. */
static bool
end_decoder(struct stream *st)
{
	enum decoder_result r = decoder_end(&st->decoder, &decoder_ops, st);

	decoded(st, r);
	return !st->stop_wanted && (r == DECODER_OK || r == DECODER_OVER);
}

void
decode_end(void *arg, enum call_result result, const char *why)
{
	struct stream *st = arg;

	st->call = NULL;
	if (st->stop_wanted)
		return;
	if (result == CALL_COMPLETE && st->event_stream && !st->done_seen && !end_decoder(st))
		goto out;
	if (result == CALL_COMPLETE && st->status == 200 && in_one_piece(st) && !st->done_seen &&
	    !end_piece(st))
		goto out;
	/* Its end mark is the provider's word that all was said: what HTTP makes of the rest (a
	 * length that was too large, a last chunk that is missing) changes nothing of that. */
	if (st->done_seen)
		result = CALL_COMPLETE;
	if (stream_waits(st)) {
		/* It has said all, but a part of it still waits for its slice. */
		st->ended_early = true;
		st->end_result = result;
		return;
	}
	if (result == CALL_COMPLETE)
		end_complete(st);
	else
		end_failed(st, result, why);
out:
	stream_touch(st);
	streams_flush(st->w->streams);
}
