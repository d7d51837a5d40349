/*
 * The keeper: judges, commits, publishes; begins again after its own death or a power cut.
 *
 *	part here	stands for
 *	judge()		daemon/books_check.c	books_check
 *	ABOVE		daemon/books_check.c	above_floor
 *	enter()		daemon/books_apply.c	books_apply
 *	SLACK, ADVANCE	daemon/books_apply.c	credit_slot, slot_advance
 *	distrust()	daemon/keeper_batch.c	distrust, end_refused
 *	gone()		daemon/keeper_gone.c	keeper_end_gone, keeper_show_gone
 *	TOOFAR		daemon/books_check.c	too_far
 *	Keeper()	daemon/keeper_batch.c	keeper_batch
 *	publish()	daemon/keeper_batch.c	publish
 *	resume()	daemon/recover.c	resume_ring
 *	fill()		daemon/recover.c	fill, close_holds
 */

#define ENT(g, k) ring[g].r[(k) % RSIZE]
#define SL(g, k) ENT(g, k).sl

/* Which answers the slots are told (`journaled`): all but of marks.  Where nobody looks at the
 * others, credits only, for fewer states. */
#if AHEAD > 0 || defined(TURNED) || defined(LOST)
#define TELL(ty) ((ty) != R_MARK)
#else
#define TELL(ty) IS_CREDIT(ty)
#endif
/* Whose result a producer reads. */
#ifdef TURNED
#define READ(ty) true
#else
#define READ(ty) IS_CREDIT(ty)
#endif

#ifdef LOWERS
#ifdef NOSLACK				/* broken: what was granted meanwhile is a contradiction */
#define ABOVE(a) (dbal + dover - dheld - (a) >= FLOOR)
#else
#define ABOVE(a) (dbal + dover - dheld - (a) + dslack >= FLOOR)
#endif
#else
#ifdef NOFLOOR				/* broken: the keeper believes that the credit was there */
#define ABOVE(a) true
#else
#define ABOVE(a) (dbal + dover - dheld - (a) >= FLOOR)
#endif
#endif

#ifdef NOOWN				/* broken: anybody's slot */
#define OWN(g) true
#else
#define OWN(g) (RG(j) == g)
#endif

#if FORGE > 0 && !defined(NOTYPES)	/* broken: a worker's top-up */
#define FORGED(g, k) (IS_CREDIT(ENT(g, k).ty) ||	/* not for a worker to send */ \
	(ENT(g, k).ty == R_GONE && dead[g] != 1))
#else
#define FORGED(g, k) false
#endif

#if FORGE > 0 && !defined(NOTOOFAR)	/* broken: it may use up the slot */
#define TOOFAR(g, k) (ENT(g, k).sq >= SEQEND)
#else
#define TOOFAR(g, k) false
#endif
/* A tag has room for no more. */
#define NOSUCH(g, k) (ENT(g, k).sq >= 64)

#ifdef NOCHARGELIMIT			/* broken: a charge above its hold */
#define COVERED(g, k) true
#else
#define COVERED(g, k) (ENT(g, k).vl <= d[j].amt)
#endif

#ifdef TURNED
#ifdef NOCLOSED				/* broken: the books do not look, only memory does */
#define DCLOSED false
#else
#define DCLOSED dclosed
#endif
#else
#define DCLOSED false
#endif

#define GOOD(g, k) (ENT(g, k).ty != R_GONE && OWN(g) && !FORGED(g, k) && !TOOFAR(g, k) && !NOSUCH(g, k))

/* A slot's latest operation and its answer, stored or not. */
#define LATEST (d[j].last > aq[j] -> d[j].last : aq[j])

/* rs: the answer to entry k of ring g, whose slot is j; store: does it change the books? */
inline judge(g, k) {
	rs = APPLIED; store = true; odd = false;
	if
	:: ENT(g, k).ty == R_GONE -> store = false;
		if :: FORGED(g, k) -> rs = REFUSED :: else fi
	:: ENT(g, k).ty != R_GONE && (!OWN(g) || FORGED(g, k) || TOOFAR(g, k) || NOSUCH(g, k)) ->
		rs = REFUSED; odd = OWN(g) && !FORGED(g, k)
	:: GOOD(g, k) && ENT(g, k).ty == R_MARK ->		/* never alone, never above its hold */
		if
		:: d[j].amt > 0 && ENT(g, k).sq >= LATEST && COVERED(g, k)
		:: else -> rs = REFUSED
		fi
#ifndef NOIDEM				/* broken: the reaper's second settle counts again */
	:: GOOD(g, k) && ENT(g, k).ty != R_MARK && ENT(g, k).sq <= LATEST ->
		store = false;			/* exactly the last one again, or forged */
		odd = ENT(g, k).sq < LATEST;
		rs = (odd -> REFUSED : (aq[j] == LATEST -> as[j] : APPLIED))
	:: GOOD(g, k) && ENT(g, k).ty != R_MARK && ENT(g, k).sq > LATEST ->
#else
	:: GOOD(g, k) && ENT(g, k).ty != R_MARK ->
#endif
		if
		:: ENT(g, k).ty == R_RES ->
			if
			:: d[j].amt > 0 -> rs = REFUSED; odd = true	/* it is open already */
			:: d[j].amt == 0 && DCLOSED -> rs = TURNEDAWAY
			:: else -> if :: !ABOVE(ENT(g, k).am) -> rs = REFUSED :: else fi
			fi
		:: (ENT(g, k).ty == R_EXT || ENT(g, k).ty == R_SET) && d[j].amt == 0 ->
			if
			:: ENT(g, k).ty == R_SET && ENT(g, k).vl == 0 -> store = false
#ifdef TURNED
			:: else -> rs = (aq[j] > d[j].last && as[j] != APPLIED -> as[j] : REFUSED)
#else
			:: else -> rs = REFUSED
#endif
			fi
		:: ENT(g, k).ty == R_EXT && d[j].amt > 0 ->
			if :: COVERED(g, k) && ABOVE(ENT(g, k).am) :: else -> rs = REFUSED fi
		:: ENT(g, k).ty == R_SET && d[j].amt > 0 ->
			if :: COVERED(g, k) :: else -> rs = REFUSED fi
		:: IS_CREDIT(ENT(g, k).ty) && d[j].amt > 0 -> rs = REFUSED
		:: IS_CREDIT(ENT(g, k).ty) && d[j].amt == 0 ->
			if
			:: DCLOSED -> rs = (ENT(g, k).ty == R_CLS -> REPEATED : TURNEDAWAY)
#ifndef NOREFCHECK			/* broken: a repeated top-up is credited twice */
			:: !DCLOSED && ENT(g, k).ty == R_TOP && dref -> rs = REPEATED
#endif
#ifndef NOSTALE				/* broken: two changes add up to one that nobody asked for */
			:: ENT(g, k).ty == R_OVER && dover + ENT(g, k).am != ENT(g, k).vl -> rs = STALE
#endif
			:: else
			fi
		fi
	fi;
	if :: rs != APPLIED -> store = false :: else fi
}

/* What lowers it reaches memory after the record: until then, and a while, it is slack. */
#ifdef LOWERS
#define SLACK(g, k) \
	if \
	:: ENT(g, k).am < 0 -> d[j].slack = 0 - ENT(g, k).am; dslack = dslack + d[j].slack; \
		pend = pend + d[j].slack; low = low + d[j].slack \
	:: else \
	fi
/* The slot's next operation shows that it has reached memory. */
#define ADVANCE dending = dending + d[j].slack; d[j].slack = 0
#define JUDGED(g, k) if :: ENT(g, k).sq >= gap[j] -> unj[j] = 0 :: else fi
#else
#define SLACK(g, k) skip
#define ADVANCE skip
#define JUDGED(g, k) skip
#endif

#if MAILS > 0
#define OPENED row[s[j].id] = OPEN; d[j].id = s[j].id
#define ENDED(c) assert(row[d[j].id] == OPEN); \
	row[d[j].id] = (c == 0 -> VOIDED : CHARGED); d[j].id = 0
#else
#define OPENED skip
#define ENDED(c) skip
#endif

#define END(c) \
	dheld = dheld - d[j].amt; dbal = dbal - (c); charged = charged + (c); \
	gchg[j] = gchg[j] + (c); d[j].amt = 0; d[j].mrk = 0

inline enter(g, k) {
	if
	:: ENT(g, k).ty == R_MARK ->			/* only up */
#ifndef MARKSEQ				/* broken: "sequence above the last" asked of marks too */
		if :: ENT(g, k).vl > d[j].mrk -> d[j].mrk = ENT(g, k).vl :: else fi;
		/* of an extend that found nothing and has no record */
		d[j].last = (ENT(g, k).sq > d[j].last -> ENT(g, k).sq : d[j].last)
#else
		skip
#endif
	:: else ->
		d[j].last = ENT(g, k).sq;
		ADVANCE;
		if
		:: ENT(g, k).ty == R_RES ->
#ifdef TURNED
			assert(!told);		/* who was told "closed" finds none after that */
#endif
			d[j].amt = ENT(g, k).am; d[j].mrk = 0; OPENED;
			dheld = dheld + ENT(g, k).am
		:: ENT(g, k).ty == R_EXT ->
			d[j].amt = d[j].amt + ENT(g, k).am;
			d[j].mrk = (ENT(g, k).vl > d[j].mrk -> ENT(g, k).vl : d[j].mrk);
			dheld = dheld + ENT(g, k).am
		:: ENT(g, k).ty == R_SET ->
			ENDED(ENT(g, k).vl);
			END(ENT(g, k).vl)
		:: ENT(g, k).ty == R_TOP ->
			dref = true; gref++; assert(gref == 1);
			dbal = dbal + ENT(g, k).am; topups = topups + ENT(g, k).am
#if D0 + D1 > 0
		:: ENT(g, k).ty == R_ADJ ->
			dbal = dbal + ENT(g, k).am; topups = topups + ENT(g, k).am;
			SLACK(g, k)
#endif
#if V0 + V1 > 0
		:: ENT(g, k).ty == R_OVER ->
			dover = dover + ENT(g, k).am; assert(dover == ENT(g, k).vl);	/* as asked */
			SLACK(g, k)
#endif
#ifdef TURNED
		:: ENT(g, k).ty == R_CLS -> dclosed = true
#endif
		fi
	fi
}

/* Frozen, the sender to be killed; the end of a hold that was refused is ours, at its mark. */
inline distrust(g, k) {
#if FORGE > 0
	/* nobody else's slot is at odds with its owner; nor its successor's */
	assert(!odd || (g == 1 && dirty));
#ifndef NOFREEZE			/* broken: its account goes on */
	dclosed = true;
#endif
	told = true; bad[g] = true;
	if
	:: GOOD(g, k) && ENT(g, k).ty == R_SET && ENT(g, k).sq > LATEST && d[j].amt > 0 ->
		d[j].last = ENT(g, k).sq; END(d[j].mrk)
	:: OWN(g) && ENT(g, k).ty == R_SET && !(GOOD(g, k) && ENT(g, k).sq > LATEST) && d[j].amt > 0 && dead[g] == 1 ->
		ENT(g, k).sq = LATEST + 1;	/* the reaper's, of a slot at odds: it goes on from ours */
		d[j].last = ENT(g, k).sq; END(d[j].mrk)
	:: else
	fi
#else
	assert(false)			/* a correct process is never taken for a forger */
#endif
}

/*
 * The reaper has finished a dead process's slot: what the books still have open in it ends at its
 * mark, and the slot goes on from what they know.  (Its account is frozen too; left out, since there
 * is but one here, and the successor's are others.)
 */
inline gone(g, k) {
#if FORGE > 0
	if
	:: d[j].amt > 0 && s[j].st == FREE -> d[j].last = LATEST + 1; END(d[j].mrk)
	:: else
	fi;
	ENT(g, k).sq = LATEST
#else
	skip
#endif
}

/* Inside the transaction: ring g from its position to h. */
inline apply(g, p, h) {
	k = p;
	do
	:: k < h ->
		j = SL(g, k);
		judge(g, k);
		JUDGED(g, k);
		if
		:: store -> enter(g, k)
		:: !store && ENT(g, k).ty == R_GONE && rs == APPLIED && RG(j) == g -> gone(g, k)
		:: else -> if :: rs == REFUSED -> distrust(g, k) :: else fi
		fi;
		/* read only if it is committed, so written in the same step */
#ifndef RESULTLATE			/* broken: durable, and no result to read */
		ENT(g, k).rs = (READ(ENT(g, k).ty) || TELL(ENT(g, k).ty) -> rs : 0);
#endif
		if
		:: ENT(g, k).ty != R_MARK && ENT(g, k).sq > aq[j] && OWN(g) && TELL(ENT(g, k).ty) &&
		    !TOOFAR(g, k) && !NOSUCH(g, k) && (ENT(g, k).ty != R_GONE || rs == APPLIED) ->
			aq[j] = ENT(g, k).sq; as[j] = rs
		:: else
		fi;
		k++
	:: else -> break
	od;
	j = 0; k = 0; rs = 0; store = false; odd = false
}

/* After the commit: `journaled` of the slots, from the results in the entries. */
inline tell(g, p, h) {
	k = p;
	do
	:: k < h ->
		j = SL(g, k);
		if
		:: TELL(ENT(g, k).ty) && RG(j) == g && ENT(g, k).sq >= s[j].jseq && !TOOFAR(g, k) &&
		    !NOSUCH(g, k) && (ENT(g, k).ty != R_GONE || ENT(g, k).rs == APPLIED) ->
			s[j].jseq = ENT(g, k).sq; s[j].jst = ENT(g, k).rs
		:: else
		fi;
		k++
	:: else -> break
	od;
	j = 0; k = 0;
#if V0 + V1 > 0
	shover = dover;
#endif
#ifdef TURNED
	barred = dclosed;
#endif
}

/* Publish ring g up to h.  Nobody reads its entries again but their results: forget them. */
inline publish(g, h) {
	d_step {
#if !defined(PUBLISHFIRST) && !defined(POSFROMSHM)
		k = ring[g].dur;
		do
		:: k < h ->
			if
			:: !READ(ENT(g, k).ty) -> ENT(g, k).rs = 0
			:: else
			fi;
			ENT(g, k).ty = 0; ENT(g, k).sl = 0; ENT(g, k).sq = 0; ENT(g, k).am = 0; ENT(g, k).vl = 0;
			k++
		:: else -> break
		od;
		k = 0;
#endif
		ring[g].dur = h }
}

/* What the last keeper committed and did not get to publish. */
inline resume() {
#ifdef POSFROMSHM			/* broken: what was committed is decided again */
	d_step { p0 = ring[0].dur; p1 = ring[1].dur }
#else
	STEP { d_step { p0 = dpos[0]; p1 = dpos[1] };
#ifndef NOSHOWAGAIN			/* broken: the slots are never told */
		d_step { tell(0, ring[0].dur, p0); tell(1, ring[1].dur, p1) };
		DIE(K);
#endif
		publish(0, p0); DIE(K) };
	STEP { publish(1, p1); DIE(K) }
#endif
	; d_step { aq[0] = s[0].jseq; as[0] = s[0].jst; aq[1] = s[1].jseq; as[1] = s[1].jst }
}

#if CUTS > 0
/* A new region: what is open ends at its last mark; sequences go on after the journal's. */
inline fill() {
	STEP {
		d_step { p0 = dpos[0]; p1 = dpos[1] };
#ifdef SHOWEARLY			/* broken: what is held is not given back */
		if :: avail == 0 -> avail = dbal + dover - dheld :: else fi; DIE(K);
#endif
		j = 0; if :: d[0].amt > 0 -> d_step { d[0].last++; END(d[0].mrk) } :: else fi; DIE(K);
		j = 1; if :: d[1].amt > 0 -> d_step { d[1].last++; END(d[1].mrk) } :: else fi; DIE(K);
		j = 0;
#ifndef OLDPOSITIONS			/* broken: of the region that is gone */
		d_step { dpos[0] = 0; dpos[1] = 0; p0 = 0; p1 = 0 }; DIE(K);
#endif
#ifndef SHOWEARLY
		avail = dbal + dover - dheld; DIE(K);
#endif
#ifndef NORESUME			/* broken: a sequence that the journal knows comes again */
		s[0].seq = d[0].last; DIE(K);
		s[1].seq = d[1].last; DIE(K);
#endif
		d_step { gap[0] = s[0].seq; gap[1] = s[1].seq };
		filled = true };
	DIE(K)
}

proctype Cut() {
	byte k, j;

	do
	:: atomic { cuts > 0 && !rdone -> cuts--; cut = true };
		/* four processes are gone, and the memory */
		d_step { down[0] && down[1] && down[2] && down[3] ->
			down[0] = false; down[1] = false; down[2] = false; down[3] = false; filled = false; avail = 0; tag = NOTAG;
			k = 0;
			do
			:: k < 2 ->
				s[k].st = 0; s[k].seq = 0; s[k].amt = 0; s[k].base = 0; s[k].take = 0;
				s[k].act = 0; s[k].met = 0; s[k].applied = 0; s[k].jseq = 0; s[k].jst = 0;
				ring[k].head = 0; ring[k].dur = 0; dead[k] = 0;
				gap[k] = 0; gwant[k] = 0; gchg[k] = 0;
				j = 0;
				do
				:: j < RSIZE ->
					ring[k].r[j].ty = 0; ring[k].r[j].sl = 0; ring[k].r[j].sq = 0;
					ring[k].r[j].am = 0; ring[k].r[j].vl = 0; ring[k].r[j].rs = 0; j++
				:: else -> break
				od;
				k++
			:: else -> break
			od;
			k = 0; j = 0;
			cut = false }
	:: break
	od
}
#endif

proctype Keeper() {
	byte p0, p1, h0, h1, k, j, rs;
	byte aq[2], as[2];		/* the slots' latest answers */
	bool one, store, odd;		/* odd: the slot itself contradicts */

	{
	p0 = 0;			/* a label may not come first */
start:
#if CUTS > 0
	if
	:: atomic { !filled -> skip }; fill()
	:: atomic { filled -> skip }; resume()
	fi;
#else
	resume();
#endif
	do
	:: STEP { (ring[0].head != p0 || ring[1].head != p1) ->
		/* what it saw of each head may be old: both rings or one of them, in any order */
		if
		:: d_step { ring[0].head != p0 -> h0 = ring[0].head; h1 = p1 }
		:: d_step { ring[1].head != p1 -> h1 = ring[1].head; h0 = p0 }
		:: d_step { ring[0].head != p0 && ring[1].head != p1 -> h0 = ring[0].head; h1 = ring[1].head }
		:: d_step { ring[0].head != p0 && ring[1].head != p1 && T0 + T1 + C0 + C1 + V0 + V1 + D0 + D1 + FORGE > 1 ->
			h0 = ring[0].head; h1 = ring[1].head; one = true }
		fi;
#ifdef PUBLISHFIRST			/* broken: acknowledged, not durable */
		ring[0].dur = h0; ring[1].dur = h1; DIE(K);
#endif
		assert(h0 >= p0 && h1 >= p1);	/* or the ring would be taken for forged */
		d_step {		/* the commit */
			if
			:: one -> apply(1, p1, h1); apply(0, p0, h0)
			:: else -> apply(0, p0, h0); apply(1, p1, h1)
			fi;
			dpos[0] = h0; dpos[1] = h1;
			/* a power cut right here is inside the floor, at the marks and at the holds */
			assert(dbal + dover - dheld >= FLOOR - LOW);
			assert(dbal == BAL + topups - charged);
#if FORGE == 0
			assert(INSIDE);
#endif
			assert(d[0].mrk <= d[0].amt && d[1].mrk <= d[1].amt);
			assert(dbal + dover - d[0].mrk - d[1].mrk >= FLOOR - LOW)
		};
		DIE(K);
#ifdef RESULTLATE
		d_step { k = p1; do :: k < h1 -> ENT(1, k).rs = APPLIED; k++ :: else -> break od; k = 0 };
#endif
		d_step { tell(0, p0, h0); tell(1, p1, h1) };
		DIE(K);
		p0 = h0; one = false; h0 = 0; publish(0, p0); DIE(K) };
		STEP { p1 = h1; h1 = 0; publish(1, p1); DIE(K) }
#ifdef LOWERS
	/* ten seconds on: all that was granted before it was lowered has been judged */
#ifdef SLACKATONCE			/* broken: it ends with the slot's next operation */
	:: STEP { dending > 0 -> d_step { dslack = dslack - dending; dending = 0 } }
#else
	:: STEP { dending > 0 && unj[0] < 2 && unj[1] < 2 ->
		d_step { dslack = dslack - dending; dending = 0 } }
#endif
#endif
	:: rdone && ring[0].head == p0 && ring[1].head == p1 -> break
	od;
	/* quiescent */
	assert(s[0].st == FREE && s[1].st == FREE);		/* no hold leaked */
#if FORGE > 0
	assert(d[0].amt == 0 && topups == 0);
	assert(d[1].amt == 0 || dirty);
#else
	assert(dheld == 0 && d[0].amt == 0 && d[1].amt == 0);
	assert(avail == dbal + dover);			/* nothing lost, nothing invented */
#endif
	assert(dbal == BAL + topups - charged);			/* conservation */
	goto end
#if CUTS > 0
	} unless { cut };
#else
	};
#endif
died:	atomic { p0 = 0; p1 = 0; h0 = 0; h1 = 0; k = 0; j = 0; one = false; rs = 0; store = false;
		aq[0] = 0; aq[1] = 0; as[0] = 0; as[1] = 0;
#if CUTS > 0
		if :: cut -> goto dark :: else fi;
#endif
		goto start };
#if CUTS > 0
dark:	do
	:: atomic { !cut -> goto start }
	:: atomic { cut && !down[3] -> down[3] = true }
	od;
#endif
end:	skip
}
