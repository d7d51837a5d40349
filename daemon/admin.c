/*
 * The admin process: its loop, its stop.  The control socket is admin-client.c's, /metrics is
 * metrics_http.c's, each group of methods has its own admin-*.c.
 *
 * It is the only producer of its ring and waits for the keeper like a worker does, through
 * daemon/durable.c: the loop never blocks on anything but its descriptors, the eventfd among
 * them.  No wake-up is lost: our "asleep" flag is cleared only between the eventfd's being read
 * and the look at the ring that follows at once, so a record that becomes durable later finds it
 * set and writes the eventfd, however busy we are.
 */
#include "daemon/admin.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/log.h"
#include "daemon/metrics.h"
#include "daemon/metrics_http.h"
#include "daemon/state.h"
#include "shm/clock.h"

/* Calls whose records are on their way get so long when the process is told to stop. */
#define STOP_SECONDS 5

static void
stop_step(struct admin *a)
{
	bool late = monotonic_us() > a->stop_by_us;

	admin_clients_close(a, late);
	if (late || (a->calls == 0 && a->client_count == 0))
		event_base_loopbreak(a->base);
}

static void
stop_cb(evutil_socket_t sig, short what, void *arg)
{
	static const struct timeval soon = {0, 10000};
	struct admin *a = arg;

	(void)what;
	if (a->stopping)
		return;
	log_info("%s", sig == CHILD_SIG_DRAIN ? "draining" : "stopping");
	a->stopping = true;
	a->stop_by_us = monotonic_us() + STOP_SECONDS * 1000000ull;
	event_del(a->listen);
	/* Both signals mean the same here: nothing runs that takes long, but for an audit, and
	 * that changes nothing. */
	event_add(a->retry, &soon);
}

/*
 * While requests wait (a wake-up by the keeper asks again too, but none comes when it has loaded
 * the accounts), and while stopping.
 */
static void
retry_cb(evutil_socket_t fd, short what, void *arg)
{
	static const struct timeval often = {0, 20000};
	struct admin *a = arg;

	(void)fd;
	(void)what;
	if (a->stopping) {
		stop_step(a);
		event_add(a->retry, &often);
		return;
	}
	admin_retry(a);
}

static void
room_cb(void *arg)
{
	struct admin *a = arg;

	a->stalled = false; /* most likely; the next tick looks */
	admin_retry(a);
}

static void
tick_cb(evutil_socket_t fd, short what, void *arg)
{
	struct admin *a = arg;

	(void)fd;
	(void)what;
	/* Relaxed: a sign of life. */
	atomic_store_explicit(&region_proc(a->region, PROC_ADMIN)->heartbeat_us,
	    monotonic_us(), memory_order_relaxed);
	log_tick();
	admin_clients_tick(a);
	admin_reloads_tick(a);
	metrics_http_tick(a->http);
	if (!a->stopping)
		event_add(a->listen, NULL); /* after a failed accept */
}

static void
endings_cb(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	admin_endings_tick(arg);
}

static struct event *
signal_event(struct admin *a, int sig)
{
	struct event *ev = event_new(a->base, sig, EV_SIGNAL | EV_PERSIST, stop_cb, a);

	if (ev == NULL || event_add(ev, NULL) != 0)
		fatalx("admin: no event for signal %d", sig);
	return ev;
}

static void
admin_events(struct admin *a)
{
	static const struct timeval second = {1, 0};
	sigset_t mine;

	a->drain = signal_event(a, CHILD_SIG_DRAIN);
	a->stop = signal_event(a, CHILD_SIG_STOP);
	/* The master may have blocked them around the fork, so that none was lost. */
	sigemptyset(&mine);
	sigaddset(&mine, CHILD_SIG_DRAIN);
	sigaddset(&mine, CHILD_SIG_STOP);
	sigprocmask(SIG_UNBLOCK, &mine, NULL);
	a->tick = event_new(a->base, -1, EV_PERSIST, tick_cb, a);
	a->retry = event_new(a->base, -1, 0, retry_cb, a);
	a->endings_timer = event_new(a->base, -1, 0, endings_cb, a);
	a->orders = event_new(a->base, a->heritage->order_theirs[PROC_ADMIN],
	    EV_READ | EV_PERSIST, admin_orders_cb, a);
	if (a->orders == NULL || event_add(a->orders, NULL) != 0)
		fatalx("admin: out of memory");
	if (a->tick == NULL || a->retry == NULL || a->endings_timer == NULL ||
	    event_add(a->tick, &second) != 0)
		fatalx("admin: out of memory");
}

static void
admin_fini(struct admin *a)
{
	struct event *const events[] = {a->listen, a->retry, a->tick, a->drain, a->stop,
	    a->endings_timer, a->orders};

	admin_clients_close(a, true);
	admin_backup_stop(a);
	metrics_http_free(a->http);
	durable_free(a->durable);
	state_reader_close(a->state);
	journal_reader_close(a->journal);
	ledger_free(a->ledger);
	for (size_t i = 0; i < sizeof events / sizeof events[0]; i++)
		event_free(events[i]);
	event_base_free(a->base);
}

int
admin_main(struct heritage *heritage)
{
	struct admin a = {.heritage = heritage, .region = &heritage->region, .uid = geteuid()};

	log_set_proc("admin");
	TAILQ_INIT(&a.starved);
	TAILQ_INIT(&a.endings);
	TAILQ_INIT(&a.reloads);
	metrics_init(a.region, PROC_ADMIN);
	a.base = event_base_new();
	a.ledger = ledger_new(a.region, PROC_ADMIN);
	if (a.base == NULL || a.ledger == NULL)
		fatalx("admin: out of memory");
	a.durable = durable_new(a.base, heritage, PROC_ADMIN, a.ledger);
	if (a.durable == NULL)
		fatalx("admin: out of memory");
	durable_on_room(a.durable, room_cb, &a);
	if (admin_listen(&a) != 0)
		fatal("admin: control socket");
	a.http = metrics_http_new(a.base, heritage->admin_http_fd, a.region, heritage->config);
	if (a.http == NULL)
		fatalx("admin: out of memory");
	admin_events(&a);
	event_base_dispatch(a.base);
	admin_fini(&a);
	return 0;
}
