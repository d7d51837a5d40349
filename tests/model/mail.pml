/*
 * Letters: an operator ends a hold that is somebody else's.
 *
 *	part here	stands for
 *	letter()	shm/mail.c	mail_take
 *	letter()	daemon/mailbox.c	mailbox_poll
 *	post()		shm/mail.c	mail_post
 *	Admin()		daemon/admin-hold.c	look, post, is_open
 */
#define M_VOID 1
#define M_CANCEL 2
#if MAILS > 0
typedef Box { byte verb; byte id; byte gen };
Box box[2];			/* one beside each process slot */
byte gen[2];			/* of the process slot: one more for each new owner */
byte ids;			/* streams named so far; a stream's id comes once ever */
byte row[8];			/* durable, by stream: open, voided, settled */
#define OPEN 1
#define VOIDED 2
#define CHARGED 3
byte ggen[8], gasked[8];	/* ghosts: whose stream; what was asked for it */

#define STOP stop
#define MAYVOID (stop != M_CANCEL)

/* The stream that is meant, and not ending yet: what is being settled is not undone. */
#ifdef SLOTONLY				/* broken: whatever runs in the slot by now */
#define MEANT(i) (s[i].st == HELD)
#else
#ifdef GENONLY				/* broken: this worker's, but perhaps its next stream */
#define MEANT(i) (s[i].st == HELD && lgen == gen[i])
#else
#ifdef VOIDANYTIME			/* broken: what is being settled, too */
#define MEANT(i) (lgen == gen[i] && lid == s[i].id)
#else
#define MEANT(i) (s[i].st == HELD && lgen == gen[i] && lid == s[i].id)
#endif
#endif
#endif

inline letter(i) {
#ifdef CLEARFIRST			/* broken: emptied before it is read */
	STEP { lv = box[i].verb; box[i].verb = 0; DIE(W) };
	STEP { d_step { lid = box[i].id; lgen = box[i].gen } };
#else
	STEP { d_step { lv = box[i].verb; lid = box[i].id; lgen = box[i].gen } };
	STEP { box[i].verb = 0; DIE(W) };
#endif
	d_step {
		assert(lid != 0 && lgen == ggen[lid] && gasked[lid] == lv);	/* whole */
		if
		:: MEANT(i) -> stop = lv; assert(gasked[s[i].id] != 0 && gen[i] == ggen[lid])
		:: else					/* thrown away */
		fi;
		lv = 0; lid = 0; lgen = 0
	}
}

#ifdef VOIDANYTIME
#define LETTERS(i) do \
	:: box[i].verb != 0 && stop == 0 -> letter(i); \
		if \
		:: stop == M_VOID -> STEP { x = 0; settle_push(i) }; STEP { push(W, i, R_SET, 0, 0) } \
		:: else \
		fi \
	:: break \
	od
#else
#define LETTERS(i) do :: box[i].verb != 0 -> letter(i) :: break od
#endif

inline post(j) {
#ifdef VERBFIRST			/* broken: half a letter can be read */
	STEP { box[j].verb = verb; DIE(A) };
#endif
	STEP { box[j].id = id; DIE(A) };
	STEP { box[j].gen = g; DIE(A) }
#ifndef VERBFIRST
	; STEP { box[j].verb = verb; DIE(A) }
#endif
}

#define RUNS(j) (s[j].st == HELD || s[j].st == EXTENDING || s[j].st == SETTLING)

proctype Admin() {
	byte letters = MAILS, j, id, g, verb;

again:	do
	:: letters > 0 ->
		if :: j = 0 :: j = 1 fi;
		if
		:: atomic { RUNS(j) -> letters--; id = s[j].id; g = s[j].gen;
			if
			:: gasked[id] != 0 -> verb = gasked[id]		/* asked again: the same */
			:: gasked[id] == 0 -> verb = M_VOID
			:: gasked[id] == 0 -> verb = M_CANCEL
			fi;
			gasked[id] = verb };
			if
			:: atomic { gen[j] == g && box[j].verb == 0 }; post(j)
			:: atomic { gen[j] != g || box[j].verb != 0 }	/* another one's, or full */
			fi;
			if	/* closed, whoever closed it; or out of patience */
			:: atomic { !(RUNS(j) && s[j].id == id && s[j].gen == g) ->
				assert(row[id] != OPEN) }	/* what is told is in the journal */
			:: true
			fi
		:: atomic { !RUNS(j) }
		fi;
		atomic { id = 0; g = 0; verb = 0; j = 0 }
	:: break
	od;
	goto end;
died:	atomic { id = 0; g = 0; verb = 0; j = 0; goto again };
end:	skip
}
#else
#define STOP 0
#define MAYVOID true
#define LETTERS(i) skip
#endif
