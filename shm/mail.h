#ifndef SHM_MAIL_H
#define SHM_MAIL_H

/*
 * What the admin process asks a worker to do with one of its holds.  Only a slot's live owner
 * changes its state, so the admin process posts to the owner and wakes it; what became of it is
 * seen on the hold.  One letter at a time fits into a process slot's box.
 *
 * The admin process alone posts (a new one only after the old one's death), the worker alone
 * takes.  A letter to a dead worker lies there until its successor throws it away: by then the
 * master has ended the hold.
 */
#include <stdbool.h>
#include <stdint.h>

#include "shm/region.h"

enum mail_verb {
	MAIL_NONE = 0, /* the box is empty */
	MAIL_VOID,     /* end the stream, charge nothing */
	MAIL_CANCEL,   /* end it at its meter */
};

struct mail {
	enum mail_verb verb;
	uint32_t slot;       /* the hold */
	uint32_t generation; /* of the worker that is meant */
	uint8_t stream_id[16]; /* a slot is used again and again: the stream that is meant */
};

/* Admin: false if the box is full.  Wake the worker afterwards. */
bool mail_post(struct region *, uint32_t proc, const struct mail *)
    __attribute__((warn_unused_result));
/* The worker: false if there is nothing. */
bool mail_take(struct region *, uint32_t proc, struct mail *) __attribute__((warn_unused_result));

#endif
