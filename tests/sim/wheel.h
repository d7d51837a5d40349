/* Timers by the thousand for the price of one: a hashed wheel. */
#ifndef TOLLD_SIM_WHEEL_H
#define TOLLD_SIM_WHEEL_H

#include <stdbool.h>
#include <stdint.h>

struct event_base;

struct wheel_entry {
	struct wheel_entry *next, **prev; /* prev is NULL while it is in no slot */
	uint64_t tick;
};

/* fire_cb is called with an entry that is due and in no slot any more; it may free it. */
/* Slots of tick_us, at most 999,999. */
int wheel_init(struct event_base *, unsigned tick_us, void (*fire_cb)(struct wheel_entry *));
void wheel_fini(void);

/* Due at the first tick not before due_ns; an entry that waits is moved. */
void wheel_add(struct wheel_entry *, uint64_t due_ns);
void wheel_del(struct wheel_entry *);

#endif
