#ifndef DAEMON_GATHER_H
#define DAEMON_GATHER_H

/*
 * Reads providers' connections together when the worker is busy.  Worker.
 *
 * A token of a paced stream is a segment of its own, and most of what it costs is the kernel's:
 * waking a sleeping process for it, mostly.  So while the worker has CPU to spare, whoever is
 * readable is read at once; when it has not, all are read together every few milliseconds, which
 * leaves the process asleep in between.  How many milliseconds follows from how busy it is, never
 * more than flush_ms_max.  Only connections whose stream is well under way are put here; all else
 * (clients, first tokens, records that became durable) is never held up.
 */
#include <event2/event.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct gather;

struct gathered { /* in the owner's struct */
	int fd;
	/*
	 * It is readable; closing: the peer has closed it, or it failed.  The owner reads all that
	 * is there (until less comes than was asked for; when it is closing, until the end), or
	 * removes it and adds it again: it is told once.  May add and remove any.
	 */
	void (*ready)(struct gathered *, bool closing);
	bool in;
};

/* ms_max: flush_ms_max; 0: never hold anything up.  NULL with errno. */
struct gather *gather_new(struct event_base *, unsigned ms_max) __attribute__((warn_unused_result));
/* Another flush_ms_max. */
void gather_limit(struct gather *, unsigned ms_max);
/* All must have been removed. */
void gather_free(struct gather *);
/* Watch it; fd and ready are set.  -1 with errno. */
int gather_add(struct gather *, struct gathered *) __attribute__((warn_unused_result));
/* Watch it no more; before its descriptor is closed. */
void gather_remove(struct gather *, struct gathered *);

/* So many bytes were read of one of them: large reads need no gathering. */
void gather_note(struct gather *, size_t bytes);

/* How long it pauses now. */
uint32_t gather_pause_us(const struct gather *);

/* What was seen in some 50 ms. */
struct gather_load {
	uint32_t busy;  /* the share of its time that the worker computed, in thousandths */
	uint64_t wakes; /* how often there was something to read */
	uint64_t reads, bytes;
};

/* The next pause, from the present one (both in µs; 0: none).  Pure. */
uint32_t gather_next_pause(uint32_t pause_us, uint32_t max_us, const struct gather_load *);

#endif
