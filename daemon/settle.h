#ifndef DAEMON_SETTLE_H
#define DAEMON_SETTLE_H

/*
 * What a stream is charged in the end, and the way of that to disk.  Worker.
 */
#include "daemon/stream.h"

/* The stream's end was decided: work out the charge and journal it. */
void settle_begin(struct stream *);
/* The ring was full: settle_retry will take it up when there is room. */
void settle_later(struct stream *);
void settle_retry(struct worker *);
/* Fill an ENDED stream from what state.mdb knows. */
void settle_from_row(struct stream *, const struct stream_row *);

#endif
