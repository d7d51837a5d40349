#ifndef SHM_WAKE_H
#define SHM_WAKE_H

/*
 * Wake-ups between processes: an eventfd per process slot and an "asleep" flag in the region, so
 * that a busy process is never written to.  Sleeper: wake_prepare, look for work once more,
 * then block in poll/epoll; after it, wake_done.  Waker: publish, then wake().  The full fences
 * in both make one of them see the other (Dekker).
 */
#include <stdbool.h>
#include <stdint.h>

#include "shm/region.h"

void wake_prepare(struct region *, uint32_t proc);
void wake_done(struct region *, uint32_t proc, int eventfd);
/* Write the eventfd if that process sleeps. */
void wake(struct region *, uint32_t proc, int eventfd);

/*
 * Marks and slices asked for ahead (EXTEND, MARK) can wait: the keeper commits them with the next
 * record that somebody waits for.  This wakes it to commit them now: for whoever waits for one
 * after all, and for a ring that has to be drained.
 */
void wake_keeper_now(struct region *, int eventfd);

#endif
