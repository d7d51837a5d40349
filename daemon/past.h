#ifndef DAEMON_PAST_H
#define DAEMON_PAST_H

/*
 * Streams that this worker does not have: their worker died, or they ended long ago.  What the
 * journal knows of them is read from state.mdb; they never run a second time.  Worker.
 */
#include "daemon/stream.h"

/* How the stream was found; the conn's own then. */
typedef void past_found_fn(struct conn *, struct stream *, void *arg);

/*
 * Look a stream up and call found() with it, now or when its settlement is known; found() gets
 * NULL if there never was one, and owns `arg`.  If the client leaves, `arg` is freed with free().
 */
void past_find(struct worker *, const struct stream_id *, struct conn *, past_found_fn *found,
    void *arg);
/* state.mdb, or NULL: it cannot be read now. */
struct state_reader *past_reader(struct worker *);
/* journal.mdb, or NULL. */
struct journal_reader *past_journal(struct worker *);
/* Every tick. */
void past_tick(struct worker *);
void past_fini(struct worker *);

#endif
