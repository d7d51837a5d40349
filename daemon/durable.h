#ifndef DAEMON_DURABLE_H
#define DAEMON_DURABLE_H

/*
 * "Go on when this record is on disk": the queue of everything in a process that waits for the
 * keeper.  Ring positions become durable in order, so it is a plain FIFO.  Worker, admin.
 */
#include <event2/event.h>
#include <stdint.h>

#include "daemon/heritage.h"
#include "shm/ledger.h"

struct durable;

typedef void durable_fn(void *arg, uint64_t position);

struct durable *durable_new(struct event_base *, struct heritage *, uint32_t proc,
    struct ledger *) __attribute__((warn_unused_result));
void durable_free(struct durable *);

/*
 * Call fn(arg, position) once the record at `position`, just pushed, is durable; the keeper is
 * woken.  Positions must ascend.  fn NULL: nobody waits (a mark), its result is passed over.
 */
void durable_wait(struct durable *, uint64_t position, durable_fn *, void *arg);
/* The same for a mark or a slice asked for ahead: it may take some 10 ms longer. */
void durable_later(struct durable *, uint64_t position, durable_fn *, void *arg);
/* After all, somebody waits for what was put off. */
void durable_hurry(struct durable *);

/*
 * How long nothing has become durable although somebody waits, to one tick; to be asked in every
 * tick, with CLOCK_MONOTONIC.  It counts whatever the reason: the disk says no, or says nothing at all.
 */
uint64_t durable_stalled_us(struct durable *, uint64_t now_us);

/* Called after every wake-up, when the ring has room again: retry what found it full. */
void durable_on_room(struct durable *, void (*fn)(void *arg), void *arg);

#endif
