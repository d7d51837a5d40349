#ifndef DAEMON_STREAM_H
#define DAEMON_STREAM_H

/*
 * One answer, from its reserve to some time after its settlement: the call to the provider, the
 * meter, the text so far, and who watches.  It belongs to the worker that took the send.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/attempt.h"
#include "daemon/buf.h"
#include "daemon/chat_request.h"
#include "daemon/decoder.h"
#include "daemon/emit.h"
#include "daemon/ids.h"
#include "daemon/limit.h"
#include "daemon/meter.h"
#include "daemon/worker.h"

enum stream_state {
	STREAM_RESERVING, /* its reserve is on the way to disk; ends when it is there */
	STREAM_WAITING,   /* reserved, acknowledged, not opened; ends by the first watcher, or its
			     deadline, or a cancel */
	STREAM_CALLING,   /* the provider was asked; ends with its first token or failure */
	STREAM_RUNNING,   /* text comes */
	STREAM_CLOSING,   /* no more text; waits for a slice's record or for ring room to settle */
	STREAM_SETTLING,  /* the settlement is on its way to disk */
	STREAM_ENDED,     /* settled; kept a while for those who come back */
	STREAM_STATES
};

/* A byte in stream->pieces: a piece's length, or that it is PIECE_MAX and goes on. */
#define PIECE_MAX 254
#define PIECE_MORE 255

struct api;
struct relay;
struct watcher;

/* Somebody to be told once when a stream has ended (after its settlement is durable; or before it,
 * the state says so, if the disk does not answer). */
struct end_waiter {
	struct end_waiter *next;
	void (*ended)(struct end_waiter *, struct stream *);
};

struct stream {
	struct worker *w;
	struct upstream_view *view;      /* what it began with, */
	const struct config *config;     /* and that one's: its model and provider, limits, times */
	struct stream *hash_next;        /* in the table by id */
	struct stream *prev, *next;      /* in the list of all */
	struct stream *dirty_next;
	struct stream *retry_next;
	enum stream_state state;
	bool dirty, retrying;
	bool stop_wanted;                /* its end was decided */
	bool void_wanted;                /* by an operator: nothing is to be charged */
	bool attended;                   /* its client cannot come back: it ends when that leaves */
	bool whole;                      /* that client wants all of it at once, or an error */

	struct stream_id id;
	char id_text[STREAM_ID_LEN + 1], session_text[ID_LEN + 1], message_text[ID_LEN + 1];
	int model, provider;
	bool include_usage, max_completion_tokens;
	struct account *account;
	struct hold *hold;               /* ours until ENDED */
	struct conn *sender;             /* RESERVING: who waits for its reserve */
	void (*begun)(struct stream *, struct conn *sender, int64_t available);
	const struct api *api;           /* whose dialect the client speaks; NULL: of /chat */
	struct key_entry *purse;         /* whose cap it is under, or NULL */
	struct journal_keyed keyed;      /* of its Idempotency-Key, if has_key */
	bool has_key;
	struct meter meter;
	uint64_t prompt_bytes;
	uint64_t hidden_bytes;           /* said, and not shown */
	int64_t reserved;
	uint32_t prompt_tokens, max_tokens;

	char request_id[65];             /* of the request that reserved; goes to the provider */
	char traceparent[56];            /* its W3C trace context; "" if it had none */
	char *beta;                      /* the client's anthropic-beta, or NULL */
	struct attempt attempt;
	struct call *call;               /* NULL between attempts, too */
	struct relay *relay;             /* of an api's stream: its frames.  Then there is no text */
	uint32_t choices;                /* answers asked for at once */
	/* The provider's request in each dialect that one of the model's providers speaks and that
	 * can carry it, until the first token; without its limit until it is opened. */
	struct buf request[DIALECTS];
	size_t request_bytes;            /* of them, as far as w->request_bytes knows */
	int status;                      /* the provider's */
	bool event_stream;
	uint32_t sent_limit;             /* the max_tokens that the provider got */
	bool credit_bound;               /* sent_limit is less than asked for, for want of credit */
	enum ledger_result short_of;     /* OUTCOME_CREDIT: whose want it was; LEDGER_OK: not known */
	struct decoder decoder;
	struct usage usage;              /* the provider's last word */
	uint8_t finish;                  /* enum journal_outcome, as the provider said it */
	bool done_seen;                  /* its end mark */
	bool usage_final;                /* the usage came with the finish reason, or after it */

	struct buf text;                 /* what is shown, decoded UTF-8 */
	struct buf pieces;               /* its pieces' lengths: 1..PIECE_MAX, or PIECE_MORE */
	bool piece_open;                 /* the last piece may grow: it was not shown yet */
	struct buf pending;              /* shown text that waits for its slice */
	struct buf pending_hidden;       /* tool calls and the like that wait for it */
	struct buf pending_thought;      /* reasoning that does */
	struct buf raw_error;            /* the body of a provider's refusal */
	size_t saved;                    /* bytes of text that are in the journal */

	struct watcher *watchers;
	struct end_waiter *end_waiters;
	struct limit_taken limited;      /* from the tokens a minute */
	int64_t retry_after;

	/* The end. */
	uint8_t outcome;
	const char *error_code;          /* NULL: ended well */
	const char *error_kind;          /* what failed at the provider; NULL: something else */
	int error_status;                /* for who has no status yet; 0: by the code */
	bool error_final;                /* to ask again would not help */
	char error_message[256];
	struct settlement settlement;
	struct journal_end told;         /* what the settlement says of how it went */
	uint64_t settle_position;
	int64_t balance;

	uint64_t created_us, opened_us, call_us, first_us, ended_us; /* monotonic */
	uint64_t created_s;              /* wall clock */
	uint64_t progress_us;            /* the provider's last content */
	uint64_t left_us;                /* when the last watcher left; 0: somebody watches */
	size_t left_len;                 /* bytes of text at that time */
	uint64_t deadline_us;            /* monotonic: void if not opened by then */
	uint64_t chunks, bytes, defects;
	bool saw_first;                  /* the first text came in this event */
	bool complete;                   /* the provider ended it well */
	bool usage_believed;             /* it is what was charged for */
	bool usage_odd;                  /* a usage of it went down, or could not be */
	bool usage_stale;                /* more was said after it */
	/* The provider's end came while text waited for its slice. */
	bool ended_early;
	enum call_result end_result;
};

struct streams *streams_new(struct worker *) __attribute__((warn_unused_result));
void streams_free(struct streams *);
/* Every 250 ms: time-outs, deadlines, keep-alives, forgetting. */
void streams_tick(struct streams *);
/* Streams that hold credit. */
size_t streams_open(const struct streams *);
/* End all that run, or only those that nobody opened. */
void streams_stop(struct streams *, bool all);

/* Until when, in seconds since the epoch, it may be opened. */
uint64_t stream_expires_s(const struct stream *);

/* Does something that the provider sent wait for a slice? */
bool stream_waits(const struct stream *);
/* A stream of this worker by its id, or NULL. */
struct stream *stream_find(struct streams *, const struct stream_id *);

/*
 * Make a stream with its id; NULL without memory.  The caller fills what it asks for, reserves,
 * and calls stream_acknowledged when that is durable, or stream_drop if nothing was reserved.
 */
struct stream *stream_new(struct streams *);
void stream_drop(struct stream *);
/* The reserve is durable: it may be opened from now on. */
void stream_acknowledged(struct stream *);

/* Call the provider; WAITING only. */
void stream_run(struct stream *);
/* End it now, at its meter. */
void stream_cancel(struct stream *, uint8_t outcome);
/* End it now and charge nothing. */
void stream_void(struct stream *);
/* stream_cancel with what went wrong: error_code NULL for a good end; the text is for the client. */
void stream_close(struct stream *, uint8_t outcome, const char *error_code, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* For decode.c and settle.c: the one place where states change, and pieces of text are noted. */
void stream_move(struct stream *, enum stream_state);
void stream_add_piece(struct stream *, size_t len);
/* Something changed for its watchers: flush them when the event is over. */
void stream_touch(struct stream *);
/* Pass on to watchers what was touched; after every event that may have. */
void streams_flush(struct streams *);
/*
 * Take over the requests for its providers; false: there are too many of them in this worker, they
 * stay the caller's.
 */
bool stream_take_requests(struct stream *, struct buf request[static DIALECTS])
    __attribute__((warn_unused_result));
/* Let go of the requests that were not sent. */
void stream_drop_requests(struct stream *);
/* Is its end to be told?  It is settled, or will be once the disk answers. */
bool stream_is_over(const struct stream *);
/* What ended or runs, for emitters. */
void stream_describe(const struct stream *, struct emit_stream *);
void stream_end(const struct stream *, struct emit_end *);
/* What it will be once the settlement, which was worked out, is durable; but for the balance. */
void stream_settled_end(const struct stream *, struct emit_end *);

/* For past.c: a stream that ended elsewhere, known from state.mdb, as an ENDED one here. */
struct stream *stream_from_row(struct streams *, const struct stream_id *,
    const struct stream_row *, struct buf *text);

#endif
