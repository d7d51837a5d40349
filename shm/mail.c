/*
 * The box of a process slot.  Its verb is the lock: whoever finds it MAIL_NONE and is the poster
 * may write, whoever finds it set and is the owner may read.  A kill between two steps leaves an
 * empty box or a whole letter.
 */
#include "shm/mail.h"

#include <string.h>

/* Model: post() in tests/model/mail.pml. */
bool
mail_post(struct region *region, uint32_t proc, const struct mail *m)
{
	struct proc_box *box = &region_proc(region, proc)->box;

	/* Acquire, pairs with mail_take's release: its copy is made. */
	if (atomic_load_explicit(&box->verb, memory_order_acquire) != MAIL_NONE)
		return false;
	box->slot = m->slot;
	box->generation = m->generation;
	memcpy(box->stream_id, m->stream_id, sizeof box->stream_id);
	/* Release, pairs with mail_take's acquire: the letter is whole. */
	atomic_store_explicit(&box->verb, (uint32_t)m->verb, memory_order_release);
	return true;
}

/* Model: letter() in tests/model/mail.pml. */
bool
mail_take(struct region *region, uint32_t proc, struct mail *m)
{
	struct proc_box *box = &region_proc(region, proc)->box;
	/* Acquire, pairs with mail_post's release. */
	uint32_t verb = atomic_load_explicit(&box->verb, memory_order_acquire);

	if (verb == MAIL_NONE)
		return false;
	m->verb = (enum mail_verb)verb;
	m->slot = box->slot;
	m->generation = box->generation;
	memcpy(m->stream_id, box->stream_id, sizeof m->stream_id);
	/* Release: the box is read before it is empty. */
	atomic_store_explicit(&box->verb, MAIL_NONE, memory_order_release);
	return true;
}
