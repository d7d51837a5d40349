#ifndef DAEMON_PROJECTOR_H
#define DAEMON_PROJECTOR_H

/*
 * The keeper's second thread: it writes state.mdb, so that nobody waits for that who waits for the
 * journal.  The two share nothing but one job at a time (daemon/state.h): it is the keeper's until
 * projector_start, the thread's until projector_done, and the keeper's again.  All calls here are
 * the keeper's own thread's.
 *
 * The thread logs nothing, takes no signal but a crash's, and holds no lock while it has no job, so
 * that the keeper may fork then.  While it has one, nobody else uses state.mdb's environment, and
 * the journal's map must not grow: the job may have a snapshot open (journal_on_growth).
 */
#include <stdbool.h>
#include <stdint.h>

#include "daemon/state.h"

struct projector;

/* Start it; NULL with errno.  Both outlive it. */
struct projector *projector_new(struct state *, struct journal_reader *)
    __attribute__((warn_unused_result));
/* Wait for the end of its job, however it comes out, and end it. */
void projector_free(struct projector *);
/* The job, to be filled by state_take; not while it is busy. */
struct state_job *projector_job(struct projector *);
void projector_start(struct projector *);
/* From projector_start to projector_end. */
bool projector_busy(const struct projector *);
/* Is the job that was started through? */
bool projector_done(const struct projector *);
/* It is, or will be by then: false after ms milliseconds. */
bool projector_wait(struct projector *, int ms);
/* Readable once the job is through. */
int projector_fd(const struct projector *);
/* After projector_done: the job is the keeper's, who finishes it. */
void projector_end(struct projector *);

#endif
