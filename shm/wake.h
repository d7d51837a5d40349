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

#endif
