/*
 * The simulator's clock: a wheel of slots (a millisecond each by itself), turned by one timerfd that ticks while
 * anything waits.  libevent's own timers would cost a heap operation for each token and, with the
 * precise clock they need here, a system call for each turn of the loop.
 */
#include "wheel.h"

#include <event2/event.h>
#include <event2/event_struct.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "reply.h"

#define SLOTS 4096u /* a longer wait passes its slot more than once */

static struct wheel_entry *slots[SLOTS];
static uint64_t tick_ns;
static uint64_t tick_done; /* all slots up to this one are empty of what was due */
static size_t waiting;
static bool ticking;
static int timer_fd = -1;
static struct event timer_event;
static void (*fire)(struct wheel_entry *);

static void
tick_switch(bool on)
{
	struct itimerspec its = {0};

	if (on == ticking)
		return;
	if (on) {
		its.it_interval.tv_nsec = (long)tick_ns;
		its.it_value.tv_nsec = (long)tick_ns;
		tick_done = clock_ns() / tick_ns;
	}
	if (timerfd_settime(timer_fd, 0, &its, NULL) != 0)
		perror("tolld-sim: timerfd_settime");
	ticking = on;
}

void
wheel_del(struct wheel_entry *e)
{
	if (e->prev == NULL)
		return;
	*e->prev = e->next;
	if (e->next != NULL)
		e->next->prev = e->prev;
	e->prev = NULL;
	waiting--;
}

static void
slot_push(struct wheel_entry **slot, struct wheel_entry *e)
{
	e->next = *slot;
	e->prev = slot;
	if (e->next != NULL)
		e->next->prev = &e->next;
	*slot = e;
}

void
wheel_add(struct wheel_entry *e, uint64_t due_ns)
{
	wheel_del(e);
	tick_switch(true);
	e->tick = (due_ns + tick_ns - 1) / tick_ns;
	/* A slot that was passed already would only come round again with the next turn. */
	if (e->tick <= tick_done)
		e->tick = tick_done + 1;
	slot_push(&slots[e->tick % SLOTS], e);
	waiting++;
}

static void
slot_run(uint64_t tick)
{
	struct wheel_entry **slot = &slots[tick % SLOTS], *todo = *slot, *e;

	/* Taken aside first: what fires may add to this very slot, a whole turn ahead. */
	*slot = NULL;
	if (todo != NULL)
		todo->prev = &todo;
	while ((e = todo) != NULL) {
		wheel_del(e);
		if (e->tick <= tick) {
			fire(e);
		} else {
			slot_push(slot, e);
			waiting++;
		}
	}
}

static void
tick_cb(evutil_socket_t fd, short what, void *arg)
{
	uint64_t expired, now = clock_ns() / tick_ns;

	(void)what;
	(void)arg;
	if (read(fd, &expired, sizeof(expired)) < 0)
		return;
	while (tick_done < now)
		slot_run(++tick_done);
	if (waiting == 0)
		tick_switch(false);
}

int
wheel_init(struct event_base *base, unsigned tick_us, void (*fire_cb)(struct wheel_entry *))
{
	tick_ns = tick_us * UINT64_C(1000);
	fire = fire_cb;
	timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	if (timer_fd < 0)
		return -1;
	if (event_assign(&timer_event, base, timer_fd, EV_READ | EV_PERSIST, tick_cb, NULL) != 0)
		return -1;
	return event_add(&timer_event, NULL);
}

void
wheel_fini(void)
{
	if (timer_fd < 0)
		return;
	event_del(&timer_event);
	close(timer_fd);
	timer_fd = -1;
}
