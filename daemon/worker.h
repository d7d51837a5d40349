#ifndef DAEMON_WORKER_H
#define DAEMON_WORKER_H

/* What the files of the worker process share. */
#include <event2/event.h>
#include <stdbool.h>
#include <stdint.h>

#include "daemon/buf.h"
#include "daemon/conn.h"
#include "daemon/durable.h"
#include "daemon/heritage.h"
#include "daemon/state.h"
#include "daemon/upstream.h"
#include "shm/clock.h"
#include "shm/ledger.h"

struct stream;
struct dialect;

struct worker {
	struct heritage *heritage;
	const struct config *config;
	struct region *region;
	uint32_t proc, generation;
	struct event_base *base;
	struct ledger *ledger;
	struct durable *durable;
	struct upstream *upstream;
	struct server *server;
	struct state_reader *state; /* opened when first needed */
	size_t request_bytes; /* of streams whose providers have said nothing yet */
	struct streams *streams;    /* daemon/stream.c */
	struct turn *turns;         /* daemon/turn.c: who waits for another send with its key */
	struct event *turn_timer;
	size_t turns_size;          /* their memory */
	struct repeat *repeats;     /* daemon/repeat.c: who waits for the keeper's word on a key */
	struct sight *sights;       /* daemon/sight.c: who waits for an account */
	size_t sights_size;         /* their memory */
	struct journal_reader *journal; /* opened when first needed */
	struct kept *kept;          /* daemon/kept.c: who waits for an answer that is kept */
	struct ws_chat *ws_chats;   /* daemon/ws_chat.c: its connections */
	struct past *pasts;         /* daemon/past.c: who waits for a dead worker's stream */
	struct forgetter *forgetters; /* daemon/history_route.c: who waits for a DELETE */
	struct handover *handover;  /* daemon/handover.c */
	struct event *orders;       /* the master's, daemon/renew.h */
	struct buf scratch;         /* frames on their way out; empty between events */
	struct buf decoded;         /* the decoder's */
	struct buf burst;           /* text of events that came together; empty between reads */
	const struct dialect *found[CONFIG_PROVIDERS_MAX]; /* what "auto" found, to log it once */
	uint64_t event_us;          /* CLOCK_MONOTONIC when the provider was last heard */
	struct stream *retry;       /* streams that found the journal's ring full */
	bool draining, stopping;
	bool leaving;               /* another one accepts: end with the last stream and connection */
	bool stalled;               /* nothing has become durable for long: nobody is kept waiting */
};

/* The handlers, one file each. */
conn_handler messages_handler, count_tokens_handler;
conn_handler preview_handler, send_handler, balance_handler, mint_handler;
/* STREAM_RESERVING, and the disk does not answer: neither does its sender wait any longer. */
void begin_give_up(struct stream *);
void begin_give_up_asked(struct worker *);
conn_handler history_get_handler, history_delete_handler;
/* The disk does not answer: neither does who asked to forget something wait any longer. */
void history_give_up(struct worker *);
void history_fini(struct worker *);
conn_handler openai_chat_handler, openai_models_handler, openai_model_handler;
conn_handler embeddings_handler;
conn_handler ws_chat_handler;
/* The WebSockets' clock, with the worker's; and at its end. */
void ws_chat_tick(struct worker *);
void ws_chat_fini(struct worker *);
conn_handler chat_call_handler, chat_call_stream_handler;
conn_handler page_handler, receipt_handler;
conn_handler stream_get_handler, stream_post_handler, stream_delete_handler;

#endif
