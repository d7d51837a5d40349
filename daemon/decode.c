/*
 * What a provider sends, and what it means for the stream.  Worker process.
 *
 * Provider's bytes are hostile: framing and JSON are parsed by pure modules with bounds, and
 * nothing here asserts on what came.  Text is metered before it is appended, so that all that
 * stands in stream->text is paid for.
 */
#include "daemon/decode.h"

#include <string.h>

#include "daemon/log.h"
#include "daemon/metrics.h"
#include "daemon/settle.h"
#include "daemon/stream.h"
#include "daemon/watch.h"
#include "shm/clock.h"

#define BURST_MAX 4096
#define GATHER_AFTER 16 /* events, before it may be read together with others */

static void
defect(struct stream *st, enum defect_kind kind)
{
	metrics_defect((unsigned)st->provider, kind);
	st->defects++;
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
	if (st->text.failed || st->pieces.failed || st->pending.failed || st->pending_hidden.failed)
		stream_close(st, OUTCOME_UPSTREAM, "overloaded", "out of memory");
}

/* Meter a piece and, if it is shown, append what is payable of it.  False: go no further. */
static bool
take(struct stream *st, bool shown, const char *text, size_t len)
{
	struct span unsaved = {st->text.data + st->saved, st->text.len - st->saved};
	size_t before = st->text.len, taken;
	enum meter_result r;
	bool saved_now;

	if (unsaved.len == 0)
		unsaved.p = "";
	r = meter_take(&st->meter, shown, text, len, unsaved, &taken, &saved_now);
	append(st, text, shown ? taken : 0, before, saved_now);
	if (r == METER_TAKEN)
		return true;
	if (r == METER_CUT) {
		stream_close(st, OUTCOME_CREDIT, NULL, NULL);
		return false;
	}
	buf_add(shown ? &st->pending : &st->pending_hidden, text + taken, len - taken);
	if (st->call != NULL)
		call_pause(st->call);
	if (r == METER_BUSY)
		settle_later(st);
	return false;
}

/* Text that waits for its slice goes first; what comes meanwhile queues behind it. */
static void
arrived(struct stream *st, bool shown, struct span text)
{
	if (text.len == 0 || st->stop_wanted)
		return;
	if (st->first_us == 0) {
		st->first_us = monotonic_us();
		st->saw_first = true;
		stream_move(st, STREAM_RUNNING);
	}
	st->progress_us = st->w->event_us;
	/* No tokenizer has a token of more bytes: the provider does not keep to its limit. */
	if (st->text.len / TOKEN_BYTES_MAX > st->max_tokens) {
		stream_close(st, OUTCOME_LENGTH, NULL, NULL);
		return;
	}
	if (st->text.len + st->pending.len + text.len > STREAM_TEXT_MAX) {
		defect(st, DEFECT_OVERSIZE);
		stream_close(st, OUTCOME_UPSTREAM, "upstream_error", "the answer is too long");
		return;
	}
	if (st->pending.len + st->pending_hidden.len > 0)
		buf_add(shown ? &st->pending : &st->pending_hidden, text.p, text.len);
	else
		take(st, shown, text.p, text.len);
	check_memory(st);
	stream_touch(st);
}

void
decode_retry(void *arg)
{
	decode_resume(arg, false);
}

void
decode_resume(void *arg, bool slice_began)
{
	struct stream *st = arg;
	struct buf hidden = st->pending_hidden, shown = st->pending;

	if (st->stop_wanted)
		return;
	/* Ahead of the text that waited for it: only who has all that came before is told. */
	if (slice_began)
		watch_slice(st);
	st->pending_hidden = st->pending = (struct buf){0};
	if (hidden.len > 0 && !take(st, false, hidden.data, hidden.len)) {
		if (!st->stop_wanted)
			buf_add(&st->pending, shown.data, shown.len);
	} else if (shown.len > 0) {
		take(st, true, shown.data, shown.len);
	}
	buf_free(&hidden);
	buf_free(&shown);
	check_memory(st);
	/* What ended the provider's side while text waited can be acted on now. */
	if (!st->stop_wanted && st->pending.len + st->pending_hidden.len == 0 && st->ended_early)
		decode_end(st, st->end_result, "");
	stream_touch(st);
	streams_flush(st->w->streams);
}

static void
note_usage(struct stream *st, const struct delta *d)
{
	/* An impossible one discredits those before it too: they were not the last word. */
	if (d->usage_bad)
		st->usage_odd = true;
	if (!d->usage.present)
		return;
	/* Providers that repeat their usage may only raise it. */
	if (st->usage.present && (d->usage.completion < st->usage.completion ||
				     d->usage.prompt < st->usage.prompt))
		st->usage_odd = true;
	st->usage = d->usage;
}

/*
 * Text of plain events that came together is metered in one go: it makes no difference to the
 * count, which goes by the text, nor to where a cut falls, which is inside the piece.
 */
static void
burst_end(struct stream *st)
{
	struct buf *b = &st->w->burst;

	if (b->failed) {
		buf_free(b);
		stream_close(st, OUTCOME_UPSTREAM, "overloaded", "out of memory");
	}
	if (b->len > 0)
		arrived(st, true, (struct span){b->data, b->len});
	b->len = 0;
}

static bool
on_event(void *arg, const struct sse_event *ev)
{
	struct stream *st = arg;
	struct span text;
	struct delta d;

	if (st->stop_wanted)
		return false;
	st->chunks++;
	if (!st->done_seen && openai_template_match(&st->template, ev->data.p, ev->data.len,
				  &st->w->decoded, &text)) {
		buf_span(&st->w->burst, text);
		if (st->w->burst.len > BURST_MAX)
			burst_end(st);
		return !st->stop_wanted;
	}
	burst_end(st);
	if (st->stop_wanted)
		return false;
	openai_decode(ev->data.p, ev->data.len, &st->w->decoded, &d);
	openai_template_learn(&st->template, ev->data.p, ev->data.len, &d);
	if (d.utf8_repaired)
		defect(st, DEFECT_UTF8);
	switch (d.kind) {
	case DELTA_INVALID:
		if (d.no_memory) {
			stream_close(st, OUTCOME_UPSTREAM, "overloaded", "out of memory");
			return false;
		}
		defect(st, DEFECT_JSON);
		return true;
	case DELTA_DONE:
		st->done_seen = true;
		return true;
	case DELTA_ERROR:
		metrics_upstream_error((unsigned)st->provider, UPSTREAM_MIDSTREAM);
		settle_provider_message(st, d.message);
		if (d.message.len > 0)
			stream_close(st, OUTCOME_UPSTREAM, "upstream_error", NULL);
		else
			stream_close(st, OUTCOME_UPSTREAM, "upstream_error",
			    "the provider reported an error");
		return false;
	default:
		break;
	}
	/* After its end mark a stream has nothing more to say. */
	if (st->done_seen)
		return true;
	note_usage(st, &d);
	if (d.finish != OUTCOME_NONE)
		st->finish = d.finish;
	arrived(st, false, d.reasoning);
	arrived(st, false, d.tool_arguments);
	arrived(st, false, d.other);
	arrived(st, true, d.refusal);
	arrived(st, true, d.text);
	return !st->stop_wanted;
}

void
decode_head(void *arg, int status, const char *media_type, int64_t retry_after)
{
	struct stream *st = arg;

	st->status = status;
	st->retry_after = retry_after;
	st->event_stream = status == 200 && strcmp(media_type, "text/event-stream") == 0;
}

void
decode_data(void *arg, const char *bytes, size_t len)
{
	struct stream *st = arg;
	enum sse_result result;

	st->bytes += len;
	st->w->event_us = coarse_us();
	buf_free(&st->request); /* no retry can need it any more */
	if (!st->event_stream) {
		if (st->raw_error.len < ERROR_BODY_MAX)
			buf_add(&st->raw_error, bytes,
			    len < ERROR_BODY_MAX - st->raw_error.len
				? len
				: ERROR_BODY_MAX - st->raw_error.len);
		return;
	}
	result = sse_feed(&st->sse, bytes, len, on_event, st);
	burst_end(st);
	switch (result) {
	case SSE_OVERSIZE:
		defect(st, DEFECT_OVERSIZE);
		stream_close(st, OUTCOME_UPSTREAM, "upstream_error",
		    "the provider sent a line over 1 MiB");
		break;
	case SSE_NOMEM:
		stream_close(st, OUTCOME_UPSTREAM, "overloaded", "out of memory");
		break;
	default:
		break;
	}
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
static void
end_refused(struct stream *st)
{
	const char *code;
	struct span message = openai_error_message(st->raw_error.data == NULL ? "" :
	    st->raw_error.data, st->raw_error.len, &st->w->decoded);

	metrics_upstream_error((unsigned)st->provider,
	    st->status == 200 ? UPSTREAM_PROTOCOL : UPSTREAM_STATUS);
	code = st->status == 429 ? "overloaded" : "upstream_error";
	/* It is our key that was refused: for the operator to know, and such messages quote keys. */
	if (st->status == 401 || st->status == 403) {
		log_event(LOG_WARN, "provider refuses the key", "provider",
		    st->w->config->provider[st->provider].name, NULL);
		message.len = 0;
	}
	settle_provider_message(st, message);
	if (message.len > 0)
		stream_close(st, OUTCOME_UPSTREAM, code, NULL);
	else if (st->status == 200)
		stream_close(st, OUTCOME_UPSTREAM, code, "the provider sent no event stream");
	else
		stream_close(st, OUTCOME_UPSTREAM, code, "the provider answered with status %d",
		    st->status);
}

static void
end_failed(struct stream *st, enum call_result result, const char *why)
{
	bool begun = st->first_us != 0;

	switch (result) {
	case CALL_TIMEOUT:
		metrics_upstream_error((unsigned)st->provider, UPSTREAM_TIMEOUT);
		stream_close(st, OUTCOME_UPSTREAM, "upstream_timeout",
		    "no connection to the provider in time");
		break;
	case CALL_TRUNCATED:
		metrics_upstream_error((unsigned)st->provider, UPSTREAM_MIDSTREAM);
		if (begun)
			defect(st, DEFECT_TRUNCATED);
		stream_close(st, OUTCOME_UPSTREAM, begun ? "upstream_truncated" : "upstream_error",
		    "the provider's answer broke off");
		break;
	default:
		metrics_upstream_error((unsigned)st->provider,
		    result == CALL_PROTOCOL ? UPSTREAM_PROTOCOL : UPSTREAM_CONNECT);
		log_event(LOG_WARN, "provider call failed", "provider",
		    st->w->config->provider[st->provider].name, "why", why, NULL);
		stream_close(st, OUTCOME_UPSTREAM, "upstream_error",
		    "the provider could not be reached");
	}
}

/* The provider's side is over and all its text was taken: did it end well? */
static void
end_complete(struct stream *st)
{
	if (!st->event_stream) {
		end_refused(st);
	} else if (st->finish == OUTCOME_NONE && !st->done_seen) {
		defect(st, DEFECT_TRUNCATED);
		metrics_upstream_error((unsigned)st->provider, UPSTREAM_MIDSTREAM);
		stream_close(st, OUTCOME_UPSTREAM,
		    st->first_us != 0 ? "upstream_truncated" : "upstream_error",
		    "the provider's answer ended without its end mark");
	} else {
		uint8_t outcome = st->finish == OUTCOME_NONE ? OUTCOME_STOP : st->finish;

		if (outcome == OUTCOME_LENGTH && st->credit_bound)
			outcome = OUTCOME_CREDIT;
		st->complete = true;
		stream_close(st, outcome, NULL, NULL);
	}
}

void
decode_end(void *arg, enum call_result result, const char *why)
{
	struct stream *st = arg;

	st->call = NULL;
	if (st->stop_wanted)
		return;
	if (st->pending.len + st->pending_hidden.len > 0) {
		/* It has said all, but a part of it still waits for its slice. */
		st->ended_early = true;
		st->end_result = result;
		return;
	}
	if (result == CALL_COMPLETE)
		end_complete(st);
	else
		end_failed(st, result, why);
	stream_touch(st);
	streams_flush(st->w->streams);
}
