/*
 * Many readable connections, one wake-up.  Worker process.
 *
 * The connections are in an epoll set of their own.  Without a pause that set is one of the
 * worker's events, and is emptied whenever it has something.  With a pause it is not: nobody waits
 * for it, so an arriving segment only puts its socket on the set's ready list, and a timer has
 * the list worked off.
 *
 * Twenty times a second the worker looks how it went.  A busy worker that is woken for a few
 * connections at a time doubles its pause: the wake-ups are what can be saved.  Once some
 * WAKE_FULL are read at each, more delay would buy little, unless there is hardly any CPU left;
 * then a longer pause also lets tokens of one stream meet.  With CPU to spare the pause is halved,
 * down to none.  Measured: docs/performance.md.
 */
#include "daemon/gather.h"
#include "shm/clock.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define BATCH 256
#define ROUNDS_MAX 16     /* of BATCH, before others have their turn */
#define LOOK_US 50000
#define PAUSE_MIN_US 1000
/* Thousandths.  Pausing makes a worker less busy; the distance keeps it from swinging. */
#define BUSY_LOW 150
#define BUSY_HIGH 250
#define BUSY_FULL 700
#define WAKES_MANY 200    /* in LOOK_US: fewer are not what keeps it busy */
#define WAKE_FULL 16      /* reads a wake-up */
#define WAKE_OVER 64
#define READ_LARGE 16384  /* bytes a read: there is nothing left to be saved */

struct gather {
	int set, timer;
	struct event *set_event, *timer_event;
	uint32_t pause_us, max_us;
	struct epoll_event ready[BATCH];
	int count, at; /* of ready: those that are being worked off */
	uint64_t look_us, look_cpu_us;
	struct gather_load load; /* since then */
};

uint32_t
gather_next_pause(uint32_t pause_us, uint32_t max_us, const struct gather_load *l)
{
	uint64_t together = l->wakes == 0 ? 0 : l->reads / l->wakes;
	uint64_t size = l->reads == 0 ? 0 : l->bytes / l->reads;
	uint32_t next = pause_us;
	bool often = pause_us > 0 || l->wakes > WAKES_MANY;

	if (l->busy < BUSY_LOW || size > 2 * READ_LARGE ||
	    (l->busy < 2 * BUSY_HIGH && together > WAKE_OVER))
		next = pause_us > PAUSE_MIN_US ? pause_us / 2 : 0;
	else if (size < READ_LARGE &&
	    (l->busy > BUSY_FULL || (l->busy > BUSY_HIGH && often && together < WAKE_FULL)))
		next = pause_us == 0 ? PAUSE_MIN_US : pause_us * 2;
	return next < max_us ? next : max_us;
}

static void
set_pause(struct gather *g, uint32_t pause_us)
{
	struct timespec every = {pause_us / 1000000, (long)(pause_us % 1000000) * 1000};
	struct itimerspec t = {.it_interval = every, .it_value = every};

	if (pause_us == g->pause_us)
		return;
	if (timerfd_settime(g->timer, 0, &t, NULL) != 0)
		return;
	if (g->pause_us == 0) {
		event_del(g->set_event);
		event_add(g->timer_event, NULL);
	} else if (pause_us == 0) {
		event_del(g->timer_event);
		event_add(g->set_event, NULL);
	}
	g->pause_us = pause_us;
}

/* How busy has this process been? */
static void
look(struct gather *g)
{
	uint64_t now = clock_us(CLOCK_MONOTONIC_COARSE), cpu;

	/* The coarse clock may be behind the look itself. */
	if (g->max_us == 0 || now < g->look_us + LOOK_US)
		return;
	now = clock_us(CLOCK_MONOTONIC);
	cpu = clock_us(CLOCK_THREAD_CPUTIME_ID);
	g->load.busy = (uint32_t)((cpu - g->look_cpu_us) * 1000 / (now - g->look_us));
	set_pause(g, gather_next_pause(g->pause_us, g->max_us, &g->load));
	g->look_us = now;
	g->look_cpu_us = cpu;
	g->load = (struct gather_load){0};
}

static void
work_off(struct gather *g)
{
	g->load.wakes++;
	for (int round = 0; round < ROUNDS_MAX; round++) {
		int n = epoll_wait(g->set, g->ready, BATCH, 0);

		g->count = n > 0 ? n : 0;
		for (g->at = 0; g->at < g->count; g->at++) {
			struct gathered *x = g->ready[g->at].data.ptr;

			if (x != NULL)
				x->ready(x, (g->ready[g->at].events & ~(uint32_t)EPOLLIN) != 0);
		}
		if (g->count < BATCH)
			break;
	}
	g->count = g->at = 0;
	look(g);
}

static void
set_cb(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	work_off(arg);
}

static void
timer_cb(evutil_socket_t fd, short what, void *arg)
{
	uint64_t times;

	(void)what;
	/* How often it ran out meanwhile does not matter. */
	if (read(fd, &times, sizeof times) > 0)
		work_off(arg);
}

void
gather_limit(struct gather *g, unsigned ms_max)
{
	g->max_us = ms_max * 1000;
	if (g->pause_us > g->max_us)
		set_pause(g, g->max_us);
}

struct gather *
gather_new(struct event_base *base, unsigned ms_max)
{
	struct gather *g = calloc(1, sizeof *g);

	if (g == NULL)
		return NULL;
	g->max_us = ms_max * 1000;
	g->set = epoll_create1(EPOLL_CLOEXEC);
	g->timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	if (g->set >= 0 && g->timer >= 0) {
		g->set_event = event_new(base, g->set, EV_READ | EV_PERSIST, set_cb, g);
		g->timer_event = event_new(base, g->timer, EV_READ | EV_PERSIST, timer_cb, g);
	}
	if (g->set_event == NULL || g->timer_event == NULL ||
	    event_add(g->set_event, NULL) != 0) {
		gather_free(g);
		return NULL;
	}
	return g;
}

void
gather_free(struct gather *g)
{
	int e = errno;

	if (g == NULL)
		return;
	if (g->set_event != NULL)
		event_free(g->set_event);
	if (g->timer_event != NULL)
		event_free(g->timer_event);
	if (g->set >= 0)
		close(g->set);
	if (g->timer >= 0)
		close(g->timer);
	free(g);
	errno = e;
}

int
gather_add(struct gather *g, struct gathered *x)
{
	struct epoll_event ev = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.ptr = x};

	if (x->in)
		return 0;
	if (epoll_ctl(g->set, EPOLL_CTL_ADD, x->fd, &ev) != 0)
		return -1;
	x->in = true;
	return 0;
}

void
gather_remove(struct gather *g, struct gathered *x)
{
	if (!x->in)
		return;
	epoll_ctl(g->set, EPOLL_CTL_DEL, x->fd, NULL);
	x->in = false;
	/* It may be about to be told that it is readable. */
	for (int i = g->at + 1; i < g->count; i++) {
		if (g->ready[i].data.ptr == x)
			g->ready[i].data.ptr = NULL;
	}
}

void
gather_note(struct gather *g, size_t bytes)
{
	g->load.reads++;
	g->load.bytes += bytes;
}

uint32_t
gather_pause_us(const struct gather *g)
{
	return g->pause_us;
}
