/*
 * Wake-ups between processes.  Any process.
 *
 * The flag is set and cleared by the sleeper alone.  If wakers cleared it (to write the eventfd
 * only once), one killed between clearing and writing would leave a sleeper whom nobody wakes;
 * a few superfluous writes are the cheaper evil.
 */
#include "shm/wake.h"

#include <errno.h>
#include <stdatomic.h>
#include <unistd.h>

void
wake_prepare(struct region *region, uint32_t proc)
{
	atomic_store_explicit(&region->h->asleep[proc], 1, memory_order_relaxed);
	/* Full fence, pairs with the one in wake: store "I sleep", then look for work.  Either
	 * we see the waker's work or it sees our flag; release and acquire would allow neither. */
	atomic_thread_fence(memory_order_seq_cst);
}

void
wake_done(struct region *region, uint32_t proc, int eventfd)
{
	uint64_t count;

	/* Relaxed: a waker that still sees 1 writes once too often, no more. */
	atomic_store_explicit(&region->h->asleep[proc], 0, memory_order_relaxed);
	/* Non-blocking: empty (EAGAIN) is the ordinary case after a time-out. */
	while (read(eventfd, &count, sizeof count) < 0 && errno == EINTR)
		;
}

void
wake(struct region *region, uint32_t proc, int eventfd)
{
	const uint64_t one = 1;

	/* Full fence, pairs with the one in wake_prepare: work published, then the flag read. */
	atomic_thread_fence(memory_order_seq_cst);
	if (atomic_load_explicit(&region->h->asleep[proc], memory_order_relaxed) == 0)
		return;
	/* EAGAIN means that the counter is full: it is awake as can be. */
	while (write(eventfd, &one, sizeof one) < 0 && errno == EINTR)
		;
}

void
wake_keeper_now(struct region *region, int eventfd)
{
	/* Release, pairs with the keeper's acquiring exchange: the records are there when it
	 * sees this.  That it is seen before it sleeps again is up to wake's full fence. */
	atomic_store_explicit(&region->h->hurry, 1, memory_order_release);
	wake(region, PROC_KEEPER, eventfd);
}
