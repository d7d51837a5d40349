#ifndef SHM_CAS16_H
#define SHM_CAS16_H

/*
 * The 16-byte compare-and-swap under every account.  Inline assembly, because gcc sends the
 * 16-byte builtins to libatomic, which picks its method at run time and may pick a lock: a lock
 * that is no part of the shared mapping, and one that a kill would leave taken.
 *
 * Ordering: x86's lock prefix is a full barrier.  aarch64's pair acquires with the load and
 * releases with the store: what we wrote before is visible to whoever reads the new word with
 * acquire.  Stores after it may become visible before it; nothing rests on their order, because
 * only a slot's owner, or after waitpid its reaper, acts on a slot's fields.
 *
 * May fail although the word is equal (aarch64: a torn load pair reads as a difference).
 * Callers loop.
 */
#include <stdbool.h>
#include <stdint.h>

#include "shm/account.h"

#if defined(__x86_64__)

static inline bool
cas16(struct account_word *word, struct account_word old, struct account_word new)
{
	bool done;

	__asm__ volatile("lock cmpxchg16b %1"
	    : "=@ccz"(done), "+m"(*word), "+a"(old.available), "+d"(old.tag)
	    : "b"(new.available), "c"(new.tag)
	    : "memory");
	return done;
}

#elif defined(__aarch64__)

static inline bool
cas16(struct account_word *word, struct account_word old, struct account_word new)
{
	uint64_t available, tag;
	uint32_t failed;

	__asm__ volatile("1:	ldaxp	%[a], %[t], %[w]\n"
			 "	cmp	%[a], %[oa]\n"
			 "	ccmp	%[t], %[ot], #0, eq\n"
			 "	b.ne	2f\n"
			 "	stlxp	%w[f], %[na], %[nt], %[w]\n"
			 "	cbnz	%w[f], 1b\n"
			 "	b	3f\n"
			 "2:	clrex\n"
			 "	mov	%w[f], #1\n"
			 "3:"
	    : [a] "=&r"(available), [t] "=&r"(tag), [f] "=&r"(failed), [w] "+Q"(*word)
	    : [oa] "r"(old.available), [ot] "r"(old.tag), [na] "r"(new.available),
	    [nt] "r"(new.tag)
	    : "cc", "memory");
	return failed == 0;
}

#else
#error "no 16-byte compare-and-swap for this processor: see shm/cas16.h"
#endif

#endif
