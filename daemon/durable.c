/*
 * Waiting for the keeper.  Worker process.
 *
 * The keeper publishes ring_durable() and writes our eventfd if our "asleep" flag is set.  The
 * flag is set again before the queue is looked at, so a record that becomes durable in between
 * writes the eventfd once more: no wake-up is lost, at the price of a spare one now and then.
 */
#include "daemon/durable.h"

#include <stdlib.h>
#include <unistd.h>

#include "daemon/log.h"
#include "shm/wake.h"

struct waiter {
	uint64_t position;
	durable_fn *fn;
	void *arg;
};

struct durable {
	struct heritage *heritage;
	struct ring *ring;
	uint32_t proc;
	struct event *ev;
	struct waiter *queue; /* a circle of cap entries, a power of two */
	size_t cap, head, count;
	void (*room)(void *arg);
	void *room_arg;
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
	if (d->queue == NULL || d->ev == NULL || event_add(d->ev, NULL) != 0) {
		durable_free(d);
		return NULL;
	}
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
	free(d->queue);
	free(d);
}

void
durable_wait(struct durable *d, uint64_t position, durable_fn *fn, void *arg)
{
	wake(&d->heritage->region, PROC_KEEPER, d->heritage->wake_fd[PROC_KEEPER]);
	if (fn == NULL)
		return;
	d->queue[(d->head + d->count) & (d->cap - 1)] = (struct waiter){position, fn, arg};
	d->count++;
}

void
durable_on_room(struct durable *d, void (*fn)(void *arg), void *arg)
{
	d->room = fn;
	d->room_arg = arg;
}
