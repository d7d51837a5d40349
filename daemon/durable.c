/*
 * Waiting for the keeper.  Worker and admin.
 *
 * The keeper publishes ring_durable() and writes our eventfd if our "asleep" flag is set.  The
 * flag is set again before the queue is looked at, so a record that becomes durable in between
 * writes the eventfd once more: no wake-up is lost, at the price of a spare one now and then.
 */
#include "daemon/durable.h"

#include <stdlib.h>
#include <unistd.h>

#include "daemon/log.h"
#include "shm/clock.h"
#include "shm/wake.h"

#define LATER_MS 10

struct waiter {
	uint64_t position;
	durable_fn *fn;
	void *arg;
};

struct durable {
	struct heritage *heritage;
	struct ring *ring;
	uint32_t proc;
	struct event *ev, *timer;
	bool later; /* the timer is set: what was put off is to be committed then */
	struct waiter *queue; /* a circle of cap entries, a power of two */
	size_t cap, head, count;
	void (*room)(void *arg);
	void *room_arg;
	uint64_t seen, seen_us; /* the ring's durable count when it last moved, or nobody waited */
};

static void
run(struct durable *d)
{
	uint64_t durable = ring_durable(d->ring);

	while (d->count > 0 && d->queue[d->head].position <= durable) {
		struct waiter w = d->queue[d->head];

		d->head = (d->head + 1) & (d->cap - 1);
		d->count--;
		if (w.fn != NULL)
			w.fn(w.arg, w.position);
	}
	/* Every result up to here has been read: its entry may be overwritten. */
	ring_ack(d->ring, durable);
	if (d->later && durable == ring_head(d->ring)) {
		d->later = false;
		evtimer_del(d->timer);
	}
}

static void
wake_cb(evutil_socket_t fd, short what, void *arg)
{
	struct durable *d = arg;

	(void)what;
	wake_done(&d->heritage->region, d->proc, fd);
	wake_prepare(&d->heritage->region, d->proc);
	run(d);
	if (d->room != NULL)
		d->room(d->room_arg);
}

static void
timer_cb(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	durable_hurry(arg);
}

struct durable *
durable_new(struct event_base *base, struct heritage *h, uint32_t proc, struct ledger *ledger)
{
	struct durable *d = calloc(1, sizeof *d);

	if (d == NULL)
		return NULL;
	d->heritage = h;
	d->proc = proc;
	d->ring = ledger_ring(ledger);
	/* As many as the ring holds: it is full before this is. */
	d->cap = d->ring->records;
	d->queue = calloc(d->cap, sizeof *d->queue);
	d->ev = event_new(base, h->wake_fd[proc], EV_READ | EV_PERSIST, wake_cb, d);
	d->timer = evtimer_new(base, timer_cb, d);
	if (d->queue == NULL || d->ev == NULL || d->timer == NULL || event_add(d->ev, NULL) != 0) {
		durable_free(d);
		return NULL;
	}
	/* From now on: a wait in front of the first look is not one since the clock began. */
	d->seen = ring_durable(d->ring);
	d->seen_us = monotonic_us();
	wake_prepare(&h->region, proc);
	return d;
}

void
durable_free(struct durable *d)
{
	if (d == NULL)
		return;
	if (d->ev != NULL)
		event_free(d->ev);
	if (d->timer != NULL)
		event_free(d->timer);
	free(d->queue);
	free(d);
}

static void
enqueue(struct durable *d, uint64_t position, durable_fn *fn, void *arg)
{
	if (fn == NULL)
		return;
	d->queue[(d->head + d->count) & (d->cap - 1)] = (struct waiter){position, fn, arg};
	d->count++;
}

void
durable_wait(struct durable *d, uint64_t position, durable_fn *fn, void *arg)
{
	enqueue(d, position, fn, arg);
	wake(&d->heritage->region, PROC_KEEPER, d->heritage->wake_fd[PROC_KEEPER]);
}

void
durable_hurry(struct durable *d)
{
	d->later = false;
	evtimer_del(d->timer);
	wake_keeper_now(&d->heritage->region, d->heritage->wake_fd[PROC_KEEPER]);
}

/*
 * A thousand paced streams ask for slices at a thousand moments: committed one by one, they cost
 * more than the relaying.  The keeper takes them along with whatever somebody waits for, or when
 * the timer says so.
 */
void
durable_later(struct durable *d, uint64_t position, durable_fn *fn, void *arg)
{
	static const struct timeval put_off = {0, LATER_MS * 1000};

	enqueue(d, position, fn, arg);
	if (d->later)
		return;
	d->later = true;
	evtimer_add(d->timer, &put_off);
}

uint64_t
durable_stalled_us(struct durable *d, uint64_t now_us)
{
	uint64_t durable = ring_durable(d->ring);

	/* Looked at now and then instead of timing each wait: those are many. */
	if (durable != d->seen || durable == ring_head(d->ring)) {
		d->seen = durable;
		d->seen_us = now_us;
	}
	return now_us - d->seen_us;
}

void
durable_on_room(struct durable *d, void (*fn)(void *arg), void *arg)
{
	d->room = fn;
	d->room_arg = arg;
}
