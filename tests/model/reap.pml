/*
 * The master finishes what a dead process left.
 *
 *	part here	stands for
 *	reap()		shm/reap.c	reap_step, push_slot, settle_at_meter, finish_slot, resume_seq
 *	LOSTHOLD	shm/reap.c	lost
 *	GIVE		shm/reap.c	ended
 *	TOOK		shm/ledger.c	ledger_took
 *	UNKNOWN		shm/reap.c	extend_unknown
 */

/* Did (i, q) move the account?  The tag first, then `applied`: look1 before look2. */
#ifdef TOOKORDER			/* broken: missed when helped in between */
#define LOOK1(i) tt = s[i].applied
#define TOOK(i) (tt >= q || tag == T(i, q))
#else
#ifdef PLAIN				/* broken: no tags, guess "did not happen" */
#define LOOK1(i) skip
#define TOOK(i) false
#else
#define LOOK1(i) tt = tag
#define TOOK(i) (tt == T(i, q) || s[i].applied >= q)
#endif
#endif

/* The charge needs an extend that the keeper does not know of (killed before the push). */
#if AHEAD > 0 && !defined(NOREEXTEND)	/* broken: a charge above the keeper's hold */
#define UNKNOWN(i) (s[i].st == HELD && s[i].take > 0 && s[i].base + s[i].take == s[i].amt && \
	MIN(s[i].met, s[i].amt) > s[i].base && s[i].jseq < q)
#else
#define UNKNOWN(i) false
#endif

/* FREE, but its last record opened or extended a hold, and it has no outcome. */
#ifdef LOST
#define LOSTHOLD(i) (s[i].st == FREE && !s[i].out && s[i].jseq == s[i].seq && s[i].jst == APPLIED)
#define ENDS(i) s[i].out = true; DIE(R)
#else
#define LOSTHOLD(i) false
#define ENDS(i) skip
#endif

#ifdef TURNED		/* its end is known to the keeper, and was not refused */
#define GIVE(i) (s[i].jseq == q && s[i].jst != REFUSED)
#else
#define GIVE(i) true
#endif

inline reap(i) {
	/* what the dead had said is durable before its slot is read */
	STEP {
#ifndef NODRAIN				/* broken: a durable top-up is taken for none */
		ring[RG(i)].dur == ring[RG(i)].head ->
#endif
		q = s[i].seq; LOOK1(i) };
	STEP {
		if
		:: LOSTHOLD(i) -> s[i].st = HELD; DIE(R)
		:: s[i].st == CLAIMED ->
			if :: TOOK(i) -> s[i].st = HELD :: else -> s[i].st = FREE fi;
			DIE(R)
		:: s[i].st == EXTENDING ->
			if
			:: TOOK(i) ->
#ifdef ADDTWICE				/* broken: not idempotent */
				s[i].amt = s[i].amt + s[i].take;
#else
				s[i].amt = s[i].base + s[i].take;
#endif
				DIE(R)
			:: else -> s[i].take = 0; DIE(R); s[i].amt = s[i].base; DIE(R)
			fi;
			s[i].st = HELD; DIE(R)
		:: else
		fi;
		tt = 0 };
	if
	:: STEP { UNKNOWN(i) -> mk = METERED(i); push(R, i, R_EXT, s[i].take, mk); mk = 0; mine = 0 }
	:: STEP { !UNKNOWN(i) -> skip }
	fi;
	STEP {
		if
		:: s[i].st == HELD ->
			ENDS(i); s[i].act = MIN(s[i].met, s[i].amt); DIE(R);
			/* what it must cost if its worker is killed: what the meter said */
			if :: AHEAD > 0 || FORGE > 0 -> gwant[i] = s[i].act :: else fi;
			q = q + 1; d_step { to(i, SETTLING) }; DIE(R)
		:: else
		fi;
		if
		:: s[i].st == SETTLING -> push(R, i, R_SET, 0, s[i].act)
		:: else
		fi };
	if
	:: STEP { s[i].st == FREE -> skip }
	:: STEP { s[i].st == CREDITING && !(s[i].jseq == q && s[i].jst == APPLIED) ->
		s[i].st = FREE; DIE(R) }
#ifdef REAPEARLY			/* broken: the reaper gives back before it is durable */
	:: STEP { s[i].st == SETTLING ||
#else
	:: STEP { (s[i].st == SETTLING && DURABLE(i)) ||
#endif
		    (s[i].st == CREDITING && s[i].jseq == q && s[i].jst == APPLIED) ->
		mine = 0; LOOK1(i) };
		STEP {
			if
			:: TOOK(i) -> tt = 0; ok = true
			:: else -> tt = 0; ok = false;
				n = (s[i].st == CREDITING -> s[i].take :
				    (GIVE(i) -> s[i].amt - s[i].act : 0))
			fi };
		if
		:: ok
		:: !ok && n == 0
		:: !ok && n != 0 -> move(R, i, CREDIT)
		fi;
		STEP { n = 0; ok = false;
			/* killed: what the meter said */
			assert(SUSPECT(i) || s[i].st != SETTLING || gchg[i] == gwant[i]);
			s[i].st = FREE; DIE(R) }
	fi;
#if FORGE > 0
#ifndef NOGONE				/* broken: what its owner forged stays open */
	STEP { mine = 0; push(R, i, R_GONE, 0, 0) };
	STEP { DURABLE(i) -> mine = 0 };
#endif
	/* the keeper knows of a later operation than the slot does */
	STEP { if :: s[i].jseq > s[i].seq -> s[i].seq = s[i].jseq; DIE(R) :: else fi };
#else
	/* a correct process leaves nothing that a R_GONE would find */
	assert(d[i].amt == 0);
#endif
	d_step {
		/* results that nobody will read */
		ring[RG(i)].r[0].rs = 0; ring[RG(i)].r[1].rs = 0; ring[RG(i)].r[2].rs = 0; ring[RG(i)].r[3].rs = 0;
		q = 0; mine = 0;
#ifdef ONEPROC
		dead[i] = 2;
		if
		:: (dead[0] == 2 || done[0]) && (dead[1] == 2 || done[1]) ->
			pdead = false; dead[0] = 0; dead[1] = 0
		:: else
		fi
#else
		dead[i] = 0
#endif
	}
}

#ifdef ONEPROC		/* waitpid() said so: neither slot moves any more */
#define GONE(i) (dead[i] == 1 && (dead[0] > 0 || done[0]) && (dead[1] > 0 || done[1]))
#else
#ifdef LIVEREAP				/* broken: reaped on a time-out, alive */
#define GONE(i) (dead[i] == 1 || s[i].st != FREE)
#else
#define GONE(i) (dead[i] == 1)
#endif
#endif

proctype Reaper() {
	short v;
	MONEY n;
	byte t = NONE, tt, q, e, mine, want, mk;
	bool ok;

	{
again:	do
	:: GONE(0) -> reap(0)
	:: GONE(1) -> reap(1)
	:: done[0] && done[1] -> break
	od;
#if CUTS > 0
	atomic { !cut && done[0] && done[1] -> rdone = true };
#else
	rdone = true;
#endif
	goto end
#if CUTS > 0
	} unless { cut };
#else
	};
#endif
died:	atomic {	/* a new master starts all over */
		v = 0; t = NONE; tt = 0; n = 0; q = 0; e = 0; mine = 0; want = 0; mk = 0; ok = false;
#if CUTS > 0
		if :: cut -> goto dark :: else fi;
#endif
		goto again };
#if CUTS > 0
dark:	do
	:: atomic { !cut && filled -> goto again }
	:: atomic { cut && !down[2] -> down[2] = true }
	od;
#endif
end:	skip
}
