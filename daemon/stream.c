/*
 * A stream's life: its states and who moves it from one to the next.  Worker process.
 *
 * Provider's bytes come in through decode.c, text goes out through watch.c, credit is metered by
 * meter.c and settled by settle.c; this file holds the table of streams, the moves, the clock,
 * and what opening, cancelling and ending mean.
 */
#include "daemon/stream.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/api.h"
#include "daemon/calibrate.h"
#include "daemon/decode.h"
#include "daemon/log.h"
#include "daemon/metrics.h"
#include "daemon/quote.h"
#include "daemon/relay.h"
#include "daemon/settle.h"
#include "daemon/watch.h"
#include "shm/clock.h"

#define BUCKETS 16384
#define KEEP_US (60 * UINT64_C(1000000)) /* an ended stream stays in memory so long */
#define KEEP_MAX 4096                    /* and at most so many of them */
#define KEEP_BYTES (64u << 20)           /* of text; who comes back later gets it from state.mdb */
/* Of requests whose providers have said nothing yet; short ones come beside it. */
#define REQUESTS_MAX (256u << 20)
#define REQUEST_SHORT 65536
#define KEEPALIVE_US (15 * UINT64_C(1000000))
/* So long may the journal take for a record before nobody is kept waiting for it any more: well
 * above a keeper's restart and what a busy disk takes for a flush. */
#define STALL_US (5 * UINT64_C(1000000))

struct streams {
	struct worker *w;
	struct stream *bucket[BUCKETS];
	struct stream *all;   /* newest first */
	struct stream *dirty; /* touched since the last flush */
	size_t open, ended;
	bool flushing;
};

static const char no_journal[] = "the gateway cannot write its journal now";

static const char *const state_name[STREAM_STATES] = {
    "reserving", "waiting", "calling", "running", "closing", "settling", "ended"};

/* moves[a] has bit b: a stream may go from a to b. */
static const unsigned moves[STREAM_STATES] = {
    [STREAM_RESERVING] = 1u << STREAM_WAITING,
    [STREAM_WAITING] = 1u << STREAM_CALLING | 1u << STREAM_CLOSING,
    [STREAM_CALLING] = 1u << STREAM_RUNNING | 1u << STREAM_CLOSING,
    [STREAM_RUNNING] = 1u << STREAM_CLOSING,
    [STREAM_CLOSING] = 1u << STREAM_SETTLING,
    [STREAM_SETTLING] = 1u << STREAM_ENDED,
};

struct streams *
streams_new(struct worker *w)
{
	struct streams *s = calloc(1, sizeof *s);

	if (s != NULL)
		s->w = w;
	return s;
}

static struct stream **
bucket(struct streams *s, const struct stream_id *id)
{
	uint32_t h;

	/* The secret is random: any of its bits are a hash. */
	memcpy(&h, id->secret, sizeof h);
	return &s->bucket[h % BUCKETS];
}

struct stream *
stream_find(struct streams *s, const struct stream_id *id)
{
	for (struct stream *st = *bucket(s, id); st != NULL; st = st->hash_next) {
		unsigned char differ = 0;

		for (size_t i = 0; i < sizeof id->secret; i++)
			differ |= (unsigned char)(st->id.secret[i] ^ id->secret[i]);
		if (differ == 0 && st->id.proc == id->proc &&
		    st->id.generation == id->generation)
			return st;
	}
	return NULL;
}

static void
insert(struct streams *s, struct stream *st)
{
	struct stream **b = bucket(s, &st->id);

	st->hash_next = *b;
	*b = st;
	st->next = s->all;
	if (s->all != NULL)
		s->all->prev = st;
	s->all = st;
	stream_id_format(&st->id, st->id_text);
}

/* Whatever is reloaded: it goes on as it began. */
static void
keep_config(struct stream *st)
{
	st->view = upstream_view(st->w->upstream);
	st->config = upstream_view_config(st->view);
}

struct stream *
stream_new(struct streams *s)
{
	struct stream *st = calloc(1, sizeof *st);

	if (st == NULL)
		return NULL;
	st->w = s->w;
	keep_config(st);
	st->state = STREAM_RESERVING;
	id_random(st->id.secret, sizeof st->id.secret);
	st->id.proc = (uint8_t)s->w->proc;
	st->id.generation = s->w->generation;
	st->created_us = monotonic_us();
	st->created_s = realtime_us() / 1000000;
	insert(s, st);
	s->open++;
	return st;
}

/* Out of the table and the memory. */
static void
forget(struct streams *s, struct stream *st)
{
	for (struct stream **p = bucket(s, &st->id); *p != NULL; p = &(*p)->hash_next) {
		if (*p == st) {
			*p = st->hash_next;
			break;
		}
	}
	for (struct stream **p = &s->dirty; st->dirty && *p != NULL; p = &(*p)->dirty_next) {
		if (*p == st) {
			*p = st->dirty_next;
			break;
		}
	}
	if (st->prev != NULL)
		st->prev->next = st->next;
	else
		s->all = st->next;
	if (st->next != NULL)
		st->next->prev = st->prev;
	meter_fini(&st->meter);
	attempt_fini(st);
	relay_free(st->relay);
	free(st->beta);
	buf_free(&st->text);
	buf_free(&st->pieces);
	buf_free(&st->pending);
	buf_free(&st->pending_hidden);
	buf_free(&st->pending_thought);
	buf_free(&st->raw_error);
	decoder_free(&st->decoder);
	upstream_view_free(st->view);
	free(st);
}

bool
stream_take_requests(struct stream *st, struct buf request[static DIALECTS])
{
	size_t n = 0;

	for (int i = 0; i < DIALECTS; i++)
		n += request[i].cap;
	if (n > REQUEST_SHORT && st->w->request_bytes + n > REQUESTS_MAX)
		return false;
	memcpy(st->request, request, sizeof st->request);
	st->request_bytes = n;
	st->w->request_bytes += n;
	return true;
}

void
stream_drop_requests(struct stream *st)
{
	st->w->request_bytes -= st->request_bytes;
	st->request_bytes = 0;
	for (int i = 0; i < DIALECTS; i++)
		buf_free(&st->request[i]);
}

void
stream_drop(struct stream *st)
{
	st->w->streams->open--;
	forget(st->w->streams, st);
}

struct stream *
stream_from_row(struct streams *s, const struct stream_id *id, const struct stream_row *row,
    struct buf *text)
{
	struct stream *st = calloc(1, sizeof *st);

	if (st == NULL) {
		buf_free(text);
		return NULL;
	}
	st->w = s->w;
	keep_config(st);
	st->state = STREAM_ENDED;
	st->id = *id;
	st->ended_us = st->left_us = st->created_us = monotonic_us();
	st->text = *text;
	*text = (struct buf){0};
	insert(s, st);
	s->ended++;
	settle_from_row(st, row);
	if (st->text.len > 0)
		stream_add_piece(st, st->text.len);
	if (st->pieces.failed) {
		s->ended--;
		forget(s, st);
		return NULL;
	}
	return st;
}

void
streams_free(struct streams *s)
{
	if (s == NULL)
		return;
	while (s->all != NULL) {
		watch_free(s->all);
		forget(s, s->all);
	}
	free(s);
}

uint64_t
stream_expires_s(const struct stream *st)
{
	return (st->deadline_us - st->created_us) / 1000000 + st->created_s;
}

size_t
streams_open(const struct streams *s)
{
	return s->open;
}

void
stream_move(struct stream *st, enum stream_state to)
{
	if ((moves[st->state] & 1u << to) == 0)
		fatalx("stream of message %s: no move from %s to %s", st->message_text,
		    state_name[st->state], state_name[to]);
	st->state = to;
	if (to == STREAM_ENDED) {
		st->ended_us = monotonic_us();
		st->w->streams->open--;
		st->w->streams->ended++;
	}
}

void
stream_acknowledged(struct stream *st)
{
	stream_move(st, STREAM_WAITING);
	if (st->stop_wanted)
		settle_begin(st);
}

void
stream_touch(struct stream *st)
{
	struct streams *s = st->w->streams;

	if (st->dirty)
		return;
	st->dirty = true;
	st->dirty_next = s->dirty;
	s->dirty = st;
}

bool
stream_waits(const struct stream *st)
{
	return st->pending.len + st->pending_hidden.len + st->pending_thought.len > 0 ||
	    (st->relay != NULL && relay_waits(st->relay));
}

/* The provider is read only while its text has somewhere to go. */
static void
update_flow(struct stream *st)
{
	size_t lag = watch_lag(st);
	bool stop;

	if (st->call == NULL)
		return;
	if (lag == SIZE_MAX)
		lag = st->text.len - st->left_len;
	stop = stream_waits(st) || lag > WATCH_LAG_MAX;
	if (stop && !call_paused(st->call)) {
		call_pause(st->call);
	} else if (!stop && call_paused(st->call)) {
		st->progress_us = monotonic_us(); /* its silence was our doing */
		call_resume(st->call);
	}
}

void
streams_flush(struct streams *s)
{
	/* Feeding may end replies, whose connections then may bring the next request. */
	if (s->flushing)
		return;
	s->flushing = true;
	while (s->dirty != NULL) {
		struct stream *st = s->dirty;

		s->dirty = st->dirty_next;
		st->dirty = false;
		st->piece_open = false;
		watch_feed(st);
		update_flow(st);
	}
	s->flushing = false;
}

void
stream_describe(const struct stream *st, struct emit_stream *es)
{
	*es = (struct emit_stream){
	    .stream_id = st->id_text,
	    .session_id = st->session_text,
	    .message_id = st->message_text,
	    .model = st->model >= 0 ? st->config->model[st->model].name : "",
	    .prompt_tokens = st->prompt_tokens,
	    .reserved = st->reserved,
	    .created = (int64_t)st->created_s,
	    .include_usage = st->include_usage,
	    .choices = st->choices,
	    .provider = st->first_us != 0 ? attempt_provider(st) : NULL,
	};
	if (st->relay != NULL)
		es->openai_head = (struct span){st->relay->head.data, st->relay->head.len};
}

bool
stream_is_over(const struct stream *st)
{
	return st->state == STREAM_ENDED || (st->state >= STREAM_CLOSING && st->w->stalled);
}

void
stream_settled_end(const struct stream *st, struct emit_end *end)
{
	const struct settlement *x = &st->settlement;

	*end = (struct emit_end){
	    .outcome = st->outcome,
	    .prompt_tokens = x->voided ? st->prompt_tokens : x->prompt + x->cached,
	    .cached_tokens = x->cached,
	    .completion_tokens = x->completion,
	    .cost = x->charge,
	    .balance = st->balance,
	    .full_text = {st->text.data, st->text.len},
	    .short_of = st->outcome == OUTCOME_CREDIT
		? quote_short_name(quote_short_code(st->short_of))
		: NULL,
	    .error_code = st->error_code,
	    .error_type = "server_error",
	    .error_kind = st->error_kind,
	    .retry_after = st->error_kind != NULL ? st->retry_after : 0,
	    .provider = attempt_provider(st),
	    .request_id = st->request_id,
	    .error_message = {st->error_message, strlen(st->error_message)},
	};
	if (end->full_text.p == NULL)
		end->full_text.p = "";
}

void
stream_end(const struct stream *st, struct emit_end *end)
{
	struct account_books books;

	stream_settled_end(st, end);
	if (st->state == STREAM_ENDED)
		return;
	/* Told before it is settled: what will be charged, of a balance that is not yet less. */
	account_books(st->account, &books);
	end->balance = books.balance;
	if (end->error_code == NULL) {
		end->error_code = "journal_unavailable";
		end->error_message = (struct span){no_journal, sizeof no_journal - 1};
	}
}

void
stream_add_piece(struct stream *st, size_t len)
{
	unsigned char more = PIECE_MORE, last, *open;

	/* Pieces that came together leave together, in one event: nobody has seen the last one
	 * yet, and a burst of a provider's is not worth a frame a token. */
	if (st->piece_open && st->pieces.len > 0) {
		open = (unsigned char *)st->pieces.data + st->pieces.len - 1;
		if (*open + len <= PIECE_MAX) {
			*open = (unsigned char)(*open + len);
			return;
		}
	}
	st->piece_open = true;
	for (; len > PIECE_MAX; len -= PIECE_MAX)
		buf_add(&st->pieces, &more, 1);
	last = (unsigned char)len;
	buf_add(&st->pieces, &last, 1);
}

void
stream_close(struct stream *st, uint8_t outcome, const char *error_code, const char *fmt, ...)
{
	va_list ap;

	if (st->state >= STREAM_CLOSING || st->stop_wanted)
		return;
	st->outcome = outcome;
	st->error_code = error_code;
	/* Of an answer in one piece that fails nothing was delivered. */
	if (error_code != NULL && (st->whole || (st->relay != NULL && st->relay->whole)))
		st->void_wanted = true;
	if (fmt != NULL) {
		va_start(ap, fmt);
		vsnprintf(st->error_message, sizeof st->error_message, fmt, ap);
		va_end(ap);
	}
	attempt_fini(st);
	buf_free(&st->pending);
	buf_free(&st->pending_hidden);
	buf_free(&st->pending_thought);
	if (st->relay != NULL)
		relay_drop(st->relay);
	decoder_free(&st->decoder);
	st->stop_wanted = true;
	/* A reserve that is not on disk yet is settled as soon as it is. */
	if (st->state != STREAM_RESERVING)
		settle_begin(st);
}

void
stream_cancel(struct stream *st, uint8_t outcome)
{
	stream_close(st, outcome, outcome == OUTCOME_SHUTDOWN ? "draining" : NULL,
	    outcome == OUTCOME_SHUTDOWN ? "the gateway is shutting down" : NULL);
}

void
stream_void(struct stream *st)
{
	/* What is being settled already is not undone. */
	if (st->state < STREAM_CLOSING && !st->stop_wanted)
		st->void_wanted = true;
	stream_cancel(st, OUTCOME_CANCELLED);
}

void
stream_run(struct stream *st)
{
	const struct config_model *m = &st->config->model[st->model];
	int64_t payable, available = quote_available(st->account, st->purse, &st->short_of);
	/* What can't be counted in flight ends where the hold does. */
	bool held_only = m->hidden_tokens || (st->relay != NULL && st->relay->prepaid);

	stream_move(st, STREAM_CALLING);
	st->opened_us = st->call_us = st->progress_us = monotonic_us();
	atomic_store_explicit(&st->hold->opened, 1, memory_order_release);
	/* No more than what the credit can pay, as far as that is known now: what is streamed is
	 * cut where it ends, whichever kind it is; of what is not nobody knows.  What is held is
	 * paid even where an operator put the account under its floor. */
	payable = (held_only ? price_covers_least : price_covers_most)(&st->hold->price,
	    st->prompt_tokens,
	    st->hold->amount + (available > 0 && !held_only ? available : 0));
	st->sent_limit = st->max_tokens;
	if (payable < st->max_tokens) {
		st->sent_limit = payable < 1 ? 1 : (uint32_t)payable;
		st->credit_bound = true;
	}
	meter_init(&st->meter, st->w->ledger, st->w->durable, st->hold, m->tokenizer,
	    calibrate_scale(m), st->config->ledger.slice_tokens, decode_resume, st);
	/* Each of several answers has the same limit; the last token may be nobody's. */
	if (st->choices > 1)
		st->sent_limit = st->sent_limit < st->choices ? 1 : st->sent_limit / st->choices;
	/* An answer that comes in one piece is not cut any more. */
	if (st->relay != NULL && st->relay->prepaid)
		meter_limit(&st->meter, st->sent_limit * st->choices);
	st->meter.unbounded = st->relay != NULL && st->relay->prepaid;
	if (st->api == NULL || !st->api->prompt_only)
		dialect_limit_all(st->request, st->max_completion_tokens, st->sent_limit);
	attempt_start(st);
}

static void
timed_out(struct stream *st, enum upstream_kind kind)
{
	char text[64];
	struct failure f = {.kind = kind, .status = st->status, .text = text};

	if (kind == UPSTREAM_STREAM_TIMEOUT)
		snprintf(text, sizeof text, "the answer took longer than %u s",
		    st->config->timeouts.stream);
	else
		snprintf(text, sizeof text, "the provider was silent for %u s",
		    st->config->timeouts.idle);
	attempt_failed(st, &f);
}

static void
tick_call(struct stream *st, uint64_t now)
{
	const struct config *cfg = st->config;

	if (call_paused(st->call))
		st->progress_us = now; /* its silence is our doing */
	/* After its end mark a provider has no more to say: one that keeps the connection open
	 * must not keep the client waiting. */
	if (st->done_seen) {
		call_cancel(st->call);
		decode_end(st, CALL_COMPLETE, "");
		return;
	}
	if (st->state == STREAM_CALLING)
		attempt_tick(st, now);
	else if (now - st->call_us > (uint64_t)cfg->timeouts.stream * 1000000)
		timed_out(st, UPSTREAM_STREAM_TIMEOUT);
	else if (now - st->progress_us > (uint64_t)cfg->timeouts.idle * 1000000)
		timed_out(st, UPSTREAM_IDLE_TIMEOUT);
}

static void
tick(struct stream *st, uint64_t now)
{
	const struct config *cfg = st->config;

	if (st->state == STREAM_WAITING && now >= st->deadline_us) {
		stream_close(st, OUTCOME_EXPIRED, "expired", "nobody opened the stream in time");
		return;
	}
	if ((st->state == STREAM_CALLING || st->state == STREAM_RUNNING) &&
	    st->watchers == NULL && st->left_us != 0 &&
	    now - st->left_us >= (uint64_t)cfg->ledger.reconnect_grace * 1000000) {
		stream_cancel(st, OUTCOME_CANCELLED);
		return;
	}
	if (st->call != NULL)
		tick_call(st, now);
	watch_keepalive(st, now, KEEPALIVE_US);
}

/*
 * The journal takes nothing.  Whoever waits for it is told so; what they hold stays in shared
 * memory and is settled at its meter when the disk works again.  A stream whose slice has not run
 * out goes on.
 */
static void
tick_stalled(struct stream *st)
{
	struct end_waiter *e;

	if (st->state == STREAM_RESERVING)
		begin_give_up(st);
	if ((st->state == STREAM_CALLING || st->state == STREAM_RUNNING) && stream_waits(st))
		stream_close(st, OUTCOME_JOURNAL, "journal_unavailable", "%s", no_journal);
	if (st->state != STREAM_CLOSING && st->state != STREAM_SETTLING)
		return;
	while ((e = st->end_waiters) != NULL) {
		st->end_waiters = e->next;
		e->ended(e, st);
	}
	stream_touch(st);
}

void
streams_tick(struct streams *s)
{
	uint64_t now = monotonic_us();
	size_t seen_ended = 0, seen_bytes = 0;
	struct stream *st, *next;

	s->w->stalled = durable_stalled_us(s->w->durable, now) > STALL_US;
	if (s->w->stalled) {
		begin_give_up_asked(s->w);
		history_give_up(s->w);
	}
	for (st = s->all; st != NULL; st = next) {
		next = st->next;
		if (st->state != STREAM_ENDED) {
			/* Before it has ended: who asks meanwhile must not find them free. */
			if (st->hold != NULL)
				limit_request_used(&st->limited, (uint64_t)st->prompt_tokens +
					METER_TOKENS(atomic_load_explicit(
					    &st->hold->meter, memory_order_relaxed)));
			tick(st, now);
			if (s->w->stalled)
				tick_stalled(st);
			continue;
		}
		/* Who comes back to an answer of /v1 gets what is kept of it. */
		if (st->watchers == NULL && st->end_waiters == NULL &&
		    (st->api != NULL || now - st->ended_us > KEEP_US || ++seen_ended > KEEP_MAX ||
		        (seen_bytes += st->text.cap) > KEEP_BYTES)) {
			s->ended--;
			forget(s, st);
		} else {
			watch_keepalive(st, now, KEEPALIVE_US);
		}
	}
	settle_retry(s->w);
	streams_flush(s);
}

void
streams_stop(struct streams *s, bool all)
{
	struct stream *st, *next;

	for (st = s->all; st != NULL; st = next) {
		next = st->next;
		if (all || st->state == STREAM_WAITING || st->state == STREAM_RESERVING)
			stream_cancel(st, OUTCOME_SHUTDOWN);
	}
	streams_flush(s);
}
