/*
 * The worker process: one event loop over clients, providers and the keeper's wake-ups.
 *
 * It starts with everything inherited (daemon/heritage.h), makes what must not be shared
 * (event base, curl handles), and ends by draining (CHILD_SIG_DRAIN) or at once, settling
 * (CHILD_SIG_STOP).  If it dies instead, the master settles its holds.
 */
#include "daemon/worker.h"

#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/config_change.h"
#include "daemon/handover.h"
#include "daemon/log.h"
#include "daemon/mailbox.h"
#include "daemon/metrics.h"
#include "daemon/kept.h"
#include "daemon/order.h"
#include "daemon/page_files.h"
#include "daemon/past.h"
#include "daemon/renew.h"
#include "daemon/repeat.h"
#include "daemon/sandbox.h"
#include "daemon/turn.h"
#include "daemon/settle.h"
#include "daemon/sight.h"
#include "daemon/stream.h"
#include "daemon/title.h"
#include "shm/clock.h"

#define TICK_MS 250
#define STOP_MS 3000 /* after a stop: so long for the last bytes to clients */

static const struct route routes[] = {
    {"/chat/preview", HTTP_POST, KEY_SCOPE_CHAT, ROUTE_PREVIEW, preview_handler},
    {"/chat/send", HTTP_POST, KEY_SCOPE_CHAT, ROUTE_SEND, send_handler},
    {"/stream", HTTP_GET, ROUTE_OPEN, ROUTE_STREAM, stream_get_handler},
    {"/stream", HTTP_POST | ROUTE_SMALL_BODY, ROUTE_OPEN, ROUTE_STREAM,
        stream_post_handler},
    {"/stream", HTTP_DELETE, ROUTE_OPEN, ROUTE_STREAM, stream_delete_handler},
    {"/chat/stream", HTTP_GET, ROUTE_OPEN, ROUTE_STREAM, stream_get_handler},
    {"/chat/stream", HTTP_POST | ROUTE_SMALL_BODY, ROUTE_OPEN, ROUTE_STREAM,
        stream_post_handler},
    {"/chat/stream", HTTP_DELETE, ROUTE_OPEN, ROUTE_STREAM, stream_delete_handler},
    {"/chat/history", HTTP_GET, KEY_SCOPE_CHAT, ROUTE_HISTORY, history_get_handler},
    {"/chat/history", HTTP_DELETE, KEY_SCOPE_CHAT, ROUTE_HISTORY, history_delete_handler},
    {"/v1/chat/completions", HTTP_POST, KEY_SCOPE_CHAT, ROUTE_OPENAI_CHAT, openai_chat_handler},
    {"/v1/models", HTTP_GET, ROUTE_ANY_KEY, ROUTE_OPENAI_MODELS, openai_models_handler},
    {"/v1/models/*", HTTP_GET, ROUTE_ANY_KEY, ROUTE_OPENAI_MODELS, openai_model_handler},
    {"/v1/embeddings", HTTP_POST, KEY_SCOPE_EMBEDDINGS, ROUTE_OPENAI_EMBEDDINGS,
	embeddings_handler},
    {"/v1/messages", HTTP_POST, KEY_SCOPE_CHAT, ROUTE_ANTHROPIC, messages_handler},
    {"/v1/messages/count_tokens", HTTP_POST, KEY_SCOPE_CHAT, ROUTE_ANTHROPIC,
	count_tokens_handler},
    {"/api/chat", HTTP_POST, KEY_SCOPE_CHAT, ROUTE_API_CHAT, chat_call_handler},
    {"/api/chat/stream", HTTP_POST, KEY_SCOPE_CHAT, ROUTE_API_CHAT, chat_call_stream_handler},
    {"/ws/chat/*", HTTP_GET, KEY_SCOPE_CHAT, ROUTE_WS, ws_chat_handler},
    {"/keys", HTTP_POST, KEY_SCOPE_MINT, ROUTE_KEYS, mint_handler},
    {"/balance", HTTP_GET, ROUTE_ANY_KEY, ROUTE_BALANCE, balance_handler},
    {"/receipt", HTTP_GET, ROUTE_ANY_KEY, ROUTE_RECEIPT, receipt_handler},
#define PAGE_ROUTE(id, path, file, type) {path, HTTP_GET, ROUTE_OPEN, ROUTE_PAGE, page_handler},
    PAGE_FILES(PAGE_ROUTE) /* the last ones: without the page the table ends before them */
#undef PAGE_ROUTE
    {NULL, 0, ROUTE_OPEN, 0, NULL},
};

#define PAGE_COUNT(id, path, file, type) +1
#define ROUTES (sizeof(routes) / sizeof(routes[0]))
#define ROUTES_WITHOUT_PAGE (ROUTES - 1 - (size_t)(0 PAGE_FILES(PAGE_COUNT)))

struct loop {
	struct worker w;
	struct route routes[ROUTES];
	struct event *tick, *drain, *stop;
	uint64_t stop_us; /* when the stop came */
};

static void
maybe_done(struct loop *l)
{
	struct worker *w = &l->w;

	if ((!w->draining && !w->leaving) || streams_open(w->streams) > 0)
		return;
	if (server_conns(w->server) == 0 ||
	    (w->stopping && monotonic_us() - l->stop_us > STOP_MS * UINT64_C(1000)))
		event_base_loopbreak(w->base);
}

static void
tick_cb(evutil_socket_t fd, short what, void *arg)
{
	struct loop *l = arg;
	struct worker *w = &l->w;
	struct proc_slot *slot = region_proc(w->region, w->proc);

	(void)fd;
	(void)what;
	atomic_store_explicit(&slot->heartbeat_us, monotonic_us(), memory_order_relaxed);
	log_tick();
	streams_tick(w->streams);
	past_tick(w);
	kept_tick(w);
	ws_chat_tick(w);
	server_tick(w->server);
	atomic_store_explicit(&slot->streams, streams_open(w->streams), memory_order_relaxed);
	atomic_store_explicit(
	    &slot->connections, (uint32_t)server_conns(w->server), memory_order_relaxed);
	maybe_done(l);
}

static void
drain_cb(evutil_socket_t fd, short what, void *arg)
{
	struct loop *l = arg;

	(void)fd;
	(void)what;
	if (l->w.draining)
		return;
	l->w.draining = true;
	server_drain(l->w.server);
	/* Who has not opened its stream by now won't get a connection to do it with. */
	streams_stop(l->w.streams, false);
	maybe_done(l);
}

static void
stop_cb(evutil_socket_t fd, short what, void *arg)
{
	struct loop *l = arg;

	drain_cb(fd, what, arg);
	if (l->w.stopping)
		return;
	l->w.stopping = true;
	l->stop_us = monotonic_us();
	streams_stop(l->w.streams, true);
	maybe_done(l);
}

static void
room_cb(void *arg)
{
	struct worker *w = arg;

	w->stalled = false; /* most likely; the next tick looks */
	settle_retry(w);
	mailbox_poll(w);
}

/* A request that is being read may point at the row that ends the table: all of it but its path stays. */
static void
offer_page(struct loop *l)
{
	l->routes[ROUTES_WITHOUT_PAGE].path =
	    l->w.config->chat_page ? routes[ROUTES_WITHOUT_PAGE].path : NULL;
}

/*
 * Another config: for whatever begins from now on.  Streams have theirs, with all that it takes to
 * end as they began.
 */
static void
renew(struct loop *l, struct config *next, uint32_t generation)
{
	struct worker *w = &l->w;
	const struct config *now = w->config;

	if (upstream_renew(w->upstream, next) != 0) {
		renew_done(w->heritage, w->proc, next, generation, false);
		return;
	}
	for (int i = 0; i < CONFIG_PROVIDERS_MAX; i++)
		if (now->provider[i].name == NULL || next->provider[i].name == NULL ||
		    !config_same_provider(&now->provider[i], &next->provider[i]))
			w->found[i] = NULL;
	server_renew(w->server, next);
	w->config = next;
	offer_page(l);
	renew_done(w->heritage, w->proc, next, generation, true);
}

/* Whatever it has accepted is served as ever; who is sent here by others, too. */
static void
leave(struct loop *l)
{
	struct worker *w = &l->w;
	char title[48];

	if (w->leaving)
		return;
	w->leaving = true;
	(void)snprintf(title, sizeof title, "tolld: worker %u (leaving)",
	    (unsigned)region_worker(w->region, w->proc));
	title_set(title);
	log_event(LOG_INFO, "leaving", NULL);
	server_leave(w->server);
	maybe_done(l);
}

static void
orders_cb(evutil_socket_t fd, short what, void *arg)
{
	static struct order_received order;
	struct loop *l = arg;
	struct worker *w = &l->w;

	(void)what;
	while (order_receive(fd, &order) == 1) {
		struct config *next;

		if (order.order.kind == ORDER_LEAVE) {
			order_close(&order);
			leave(l);
			continue;
		}
		next = renew_make(w->heritage, w->proc, &order);
		if (next != NULL)
			renew(l, next, order.order.generation);
	}
}

static int
init(struct loop *l)
{
	struct worker *w = &l->w;
	struct timeval tick = {0, TICK_MS * 1000};

	w->base = event_base_new();
	w->ledger = ledger_new(w->region, w->proc);
	if (w->base == NULL || w->ledger == NULL)
		return -1;
	w->durable = durable_new(w->base, w->heritage, w->proc, w->ledger);
	w->upstream = upstream_new(w->base, w->config);
	w->streams = streams_new(w);
	memcpy(l->routes, routes, sizeof routes);
	offer_page(l);
	w->server = server_new(w->base, w->heritage, w->proc, l->routes, w);
	if (w->durable == NULL || w->upstream == NULL || w->streams == NULL || w->server == NULL)
		return -1;
	server_on_unseen(w->server, sight_handler);
	durable_on_room(w->durable, room_cb, w);
	mailbox_poll(w); /* what was meant for our predecessor */
	l->tick = event_new(w->base, -1, EV_PERSIST, tick_cb, l);
	l->drain = evsignal_new(w->base, CHILD_SIG_DRAIN, drain_cb, l);
	l->stop = evsignal_new(w->base, CHILD_SIG_STOP, stop_cb, l);
	w->orders = event_new(
	    w->base, w->heritage->order_theirs[w->proc], EV_READ | EV_PERSIST, orders_cb, l);
	if (l->tick == NULL || l->drain == NULL || l->stop == NULL || w->orders == NULL)
		return -1;
	if (event_add(l->tick, &tick) != 0 || event_add(l->drain, NULL) != 0 ||
	    event_add(l->stop, NULL) != 0 || event_add(w->orders, NULL) != 0)
		return -1;
	return handover_listen(w);
}

static void
fini(struct loop *l)
{
	struct worker *w = &l->w;

	past_fini(w);
	kept_fini(w);
	repeat_fini(w);
	history_fini(w);
	turn_fini(w);
	sight_fini(w);
	handover_close(w);
	server_free(w->server);
	ws_chat_fini(w);
	streams_free(w->streams);
	upstream_free(w->upstream);
	durable_free(w->durable);
	ledger_free(w->ledger);
	event_free(l->tick);
	event_free(l->drain);
	event_free(l->stop);
	event_free(w->orders);
	event_base_free(w->base);
	buf_free(&w->scratch);
	buf_free(&w->decoded);
	buf_free(&w->burst);
}

int
worker_main(struct heritage *h, uint32_t proc)
{
	struct loop l = {.w = {
			     .heritage = h,
			     .config = h->config,
			     .region = &h->region,
			     .proc = proc,
			     .generation = atomic_load(&region_proc(&h->region, proc)->generation),
			 }};
	sigset_t ours;

	metrics_init(&h->region, proc);
	/* glibc's trimming costs half a brk() for every chunk otherwise. */
	mallopt(M_TRIM_THRESHOLD, 64 << 20);
	mallopt(M_TOP_PAD, 1 << 20);
	if (init(&l) != 0)
		fatal("worker: out of memory");
	sigemptyset(&ours);
	sigaddset(&ours, CHILD_SIG_DRAIN);
	sigaddset(&ours, CHILD_SIG_STOP);
	sigprocmask(SIG_UNBLOCK, &ours, NULL);
	/* Where there is no Landlock no file can be opened for writing any more: these ones' locks. */
	(void)past_reader(&l.w);
	(void)past_journal(&l.w);
	sandbox_enter(h->config, SANDBOX_WORKER);
	log_event(LOG_DEBUG, "worker runs", NULL);
	event_base_dispatch(l.w.base);
	fini(&l);
	return 0;
}
