/*
 * A process that owns a slot: a worker, or, in its credits, the admin process.
 *
 *	part here	stands for
 *	reserve()	shm/ledger.c	ledger_reserve
 *	meter()		shm/ledger.h	ledger_meter (how far: daemon/meter.c)
 *	mark()		shm/ledger.c	ledger_mark
 *	extend()	shm/ledger.c	take_more, ledger_extend, ledger_overdraw
 *	settle_push()	shm/ledger.c	ledger_settle (a void: nothing is charged)
 *	settle_close()	shm/ledger.c	ledger_close
 *	credit()	shm/ledger.c	credit, ledger_credit, ledger_account_set, ledger_close
 */

#ifdef TURNED
#define BARRED barred
#else
#define BARRED false
#endif

#if MAILS > 0
#define NAME(i) ids++; s[i].id = ids; s[i].gen = gen[i]; ggen[ids] = gen[i]
#else
#define NAME(i) skip
#endif

#ifdef STALEMETER			/* broken: the last hold's meter is still there */
#define METER0(i) skip
#else
#define METER0(i) s[i].met = 0
#endif

inline reserve(i) {
	STEP {
		if :: BARRED -> goto next :: else fi;
#ifdef LOSTEARLY			/* broken: the last hold's fields are still there */
		s[i].out = false; DIE(W);
#endif
		d_step { s[i].amt = 0; s[i].base = 0; s[i].take = 0; s[i].act = 0; METER0(i); NAME(i) };
		DIE(W);
#ifdef LOST
		s[i].out = false; DIE(W);
#endif
#ifdef SEQRESET				/* broken: a sequence is used again */
		q = 1;
#else
		q = s[i].seq + 1;
#endif
		d_step { to(i, CLAIMED); gwant[i] = 0; gchg[i] = 0; n = AMT };
		DIE(W);
		s[i].amt = AMT; DIE(W)
#ifdef DEBITLATE			/* broken: journaled before it is taken */
		; push(W, i, R_RES, AMT, 0)
#endif
	};
	move(W, i, DEBIT);
	STEP {
		n = 0;
		if
		:: !ok -> s[i].st = FREE; DIE(W); goto next
		:: ok -> s[i].st = HELD; DIE(W)
#ifdef STALEMETER
			; s[i].met = 0; DIE(W)
#endif
#ifndef DEBITLATE
			; push(W, i, R_RES, AMT, 0)
#endif
		fi };
	STEP { DURABLE(i) ->
		d_step {
#ifdef TURNED				/* turned away: void it, and the credit comes back */
		x = RESULT(i); RESULT(i) = 0; mine = 0;
		if
		:: x == APPLIED -> assert(SUSPECT(i) || (d[i].amt == AMT && d[i].last == q)); paid = AMT; exts = ne
		:: else
		fi;
		x = 0; dm = 0
#else
		mine = 0; assert(d[i].amt == AMT && d[i].last == q);	/* the ack is true */
		paid = AMT; dm = 0; marks = nm; exts = ne
#endif
		} }
}

/*
 * Text leaves only after its meter: up to `paid`, and SLICE beyond the durable mark.  AHEAD: a
 * count that runs before what is paid, of text that does not leave.
 */
#if SLICE > 0 && !defined(NOMARKLIMIT)	/* broken: more than a slice may be lost */
#define LIMIT (paid < dm + SLICE -> paid : dm + SLICE)
#else
#define LIMIT (paid > 0 -> paid + AHEAD : 0)
#endif
inline meter(i) {
	do
	:: s[i].met < LIMIT ->
		d_step {
			s[i].met++; gwant[i] = s[i].met;
			assert(SUSPECT(i) || s[i].met <= d[i].amt + AHEAD);
			assert(SLICE == 0 || s[i].met <= d[i].mrk + SLICE)
		};
		DIE(W)
	:: break
	od
}

/* A mark or none; it may be waited for (dm moves) or not. */
inline mark(i) {
	if
	:: marks > 0 && s[i].met > dm ->
		d_step { marks--; mk = MIN(s[i].met, s[i].amt) };
		push(W, i, R_MARK, 0, mk);
		if
		:: SLICE > 0 -> pm = mk; pp = mine
		:: skip
		fi;
		d_step { mine = 0; mk = 0 }
	:: skip
	fi
}

/* What a record says of the meter: as far as the keeper knows it to be paid. */
#ifdef METERRAW				/* broken: the whole meter */
#define METERED(i) s[i].met
#else
#define METERED(i) MIN(s[i].met, s[i].base)
#endif

inline extend(i, w) {
	STEP {
		s[i].take = 0; DIE(W);
		s[i].base = s[i].amt; DIE(W);
#ifndef EXTSAMESEQ			/* broken: the reserve's tag is taken for the extend's */
		q = q + 1;
#endif
		d_step { to(i, EXTENDING); want = w };
		DIE(W) };
	move(W, i, TAKE);
	STEP {
		want = 0;
		if
		:: !ok -> s[i].st = HELD; n = 0; DIE(W)		/* q is used, no record */
		:: ok ->
#ifdef TAKELATE
			s[i].take = n; DIE(W);
#endif
			s[i].amt = s[i].base + s[i].take; DIE(W);
			s[i].st = HELD; DIE(W);
#ifdef METERAHEAD			/* broken: text before the record that pays for it */
			s[i].met = s[i].amt; gwant[i] = s[i].met; DIE(W);
			push(W, i, R_EXT, n, s[i].met);
#else
			mk = METERED(i); push(W, i, R_EXT, n, mk);
#endif
			d_step { n = 0; mk = 0; pe = mine; pm = (SLICE > 0 -> s[i].met : 0); pp = (SLICE > 0 -> mine : 0); mine = 0 }
		fi }
}

inline settle_push(i) {			/* s.act is chosen by the caller's x */
#ifdef LOST
	s[i].out = true; DIE(W);
#endif
	s[i].act = x; DIE(W);
#ifndef SAMESEQ				/* broken: reserve and settle share a tag */
	q = q + 1;
#endif
	d_step { to(i, SETTLING); gwant[i] = x; x = 0; n = s[i].amt - s[i].act };
	DIE(W)
}

#ifdef TURNED				/* the void of a reserve that was turned away is not stored */
#define SETTLED(i) true
#else
#define SETTLED(i) (d[i].last == q)
#endif

inline settle_close(i) {
#ifndef EARLYCREDIT
	STEP { push(W, i, R_SET, 0, s[i].act) };
	LETTERS(i);
	STEP { DURABLE(i) -> d_step {
#ifdef TURNED
		x = RESULT(i); RESULT(i) = 0;
		if :: x != APPLIED -> n = 0 :: else fi;	/* nothing in the books, nothing here */
		x = 0;
#endif
		mine = 0; assert(SUSPECT(i) || (d[i].amt == 0 && SETTLED(i))) } };
#endif
	if
	:: n == 0
	:: n > 0 -> move(W, i, CREDIT)
	fi;
#ifdef EARLYCREDIT			/* broken: given back before it is durable */
	STEP { push(W, i, R_SET, 0, s[i].act) };
	STEP { DURABLE(i) -> mine = 0 };
#endif
	STEP { n = 0;
		assert(SUSPECT(i) || gchg[i] == gwant[i]);
		s[i].st = FREE; DIE(W) }
}
/* A top-up, or what an operator lowers, raises or closes: `ct` and, for an overdraft, `x`. */
inline credit(i) {
	STEP {
#if V0 + V1 > 0
		if :: ct == R_OVER -> n = x - shover :: else fi;	/* by the books, as published */
#endif
		d_step { s[i].amt = 0; s[i].base = 0; s[i].take = n; s[i].act = 0; s[i].met = 0 };
		DIE(W);
		q = s[i].seq + 1;
		d_step { to(i, CREDITING) };
		DIE(W)
#ifndef TOPEARLY
		; push(W, i, ct, n, x)
#endif
	};
#ifdef TOPEARLY				/* broken: credited before it is durable */
	move(W, i, CREDIT);
	STEP { push(W, i, R_TOP, TOPAMT, 1) };
	STEP { DURABLE(i) -> mine = 0 };
#else
	STEP { DURABLE(i) ->
		d_step {
			x = RESULT(i); RESULT(i) = 0;
			assert(x != 0);			/* a durable record has its result */
#ifdef TURNED
			told = told || ct == R_CLS;
#endif
			mine = 0
		} };
	if
#ifdef IGNORERESULT			/* broken: a repeated ref is credited */
	:: true
#else
	:: x == APPLIED && n != 0
#endif
		-> x = 0; move(W, i, CREDIT)
#ifndef IGNORERESULT
	:: else -> x = 0
#endif
	fi;
#endif
	STEP { n = 0; ct = 0; s[i].st = FREE; DIE(W) }
}

#if FORGE > 0
/* Somebody else has taken worker 1 over: it writes what it likes into its ring, and goes on. */
inline forge() {
	atomic { forgeries--; dirty = true;
		if
		:: fty = R_RES :: fty = R_EXT :: fty = R_MARK :: fty = R_SET :: fty = R_TOP
		:: fty = R_GONE
		fi;
		if :: fsl = 0 :: fsl = 1 fi;
		if
		:: fsq = s[fsl].seq :: fsq = s[fsl].seq + 1 :: fsq = s[fsl].seq + 3
		:: fsq = 63		/* the last one that there is */
		fi;
		if :: fam = 1 :: fam = BAL + 1 fi;
		if :: fvl = 0 :: fvl = 1 :: fvl = AMT + 1 fi };
	atomic { ring[1].head - ring[1].dur < RSIZE ->
		d_step {
			e = ring[1].head % RSIZE;
			ring[1].r[e].ty = fty; ring[1].r[e].sl = fsl; ring[1].r[e].sq = fsq;
			ring[1].r[e].am = fam; ring[1].r[e].vl = fvl; ring[1].r[e].rs = 0;
			ring[1].head++;
			e = 0; fty = 0; fsl = 0; fsq = 0; fam = 0; fvl = 0 } }
}
#endif

#define FORGET v = 0; t = NONE; n = 0; q = 0; e = 0; x = 0; mine = 0; want = 0; paid = 0; \
	dm = 0; pm = 0; pp = 0; pe = 0; mk = 0; marks = 0; exts = 0; ct = 0; ok = false

proctype Worker(byte i; byte rounds; byte tops; byte downs; byte sets; byte closes; byte ne; byte nm;
    bool over) {
	short v;
	MONEY n;
	byte t = NONE, q, e, x, mine, want, paid, dm, pm, pp, pe, mk, marks, exts, ct;
	bool ok;
#if MAILS > 0
	byte lv, lid, lgen, stop;
#endif
#if FORGE > 0
	byte fty, fsl, fsq, fam, fvl;
#endif

	{
next:	do
	:: atomic { rounds > 0 -> rounds--; q = 0; ok = false };
		if
		:: atomic { tops > 0 -> tops--; ct = R_TOP; n = TOPAMT }; credit(i)
#if D0 + D1 > 0
		:: atomic { downs > 0 -> downs--; ct = R_ADJ; n = 0 - DOWNAMT }; credit(i)
#endif
#if V0 + V1 > 0
		:: atomic { sets > 0 -> ct = R_OVER; x = sets - 1; sets = 0 }; credit(i)
#endif
#if C0 + C1 > 0
		:: atomic { closes > 0 -> closes--; ct = R_CLS; n = 0 }; credit(i)
#endif
#if FORGE > 0
		:: i == 1 && forgeries > 0 -> forge()
#endif
		:: true ->
			reserve(i);
			/* the stream */
			do
			:: STEP { exts > 0 && pe == 0 -> exts--; meter(i); mark(i) };
				extend(i, WANT); mark(i)
			:: STEP { pe != 0 && ring[RG(i)].dur >= pe ->	/* the new slice is paid */
				d_step { pe = 0; paid = s[i].amt; assert(SUSPECT(i) || d[i].amt == paid) } }
			:: STEP { pp != 0 && ring[RG(i)].dur >= pp ->	/* the mark is durable */
				d_step { pp = 0; dm = pm; pm = 0 };
				meter(i) }
			:: STEP { SLICE > 0 && marks > 0 && pp == 0 -> meter(i); mark(i) }
#if FORGE > 0
			:: i == 1 && forgeries > 0 -> forge()
			:: atomic { i == 1 && dirty -> goto died }
#endif
#if MAILS > 0
			:: box[i].verb != 0 && stop == 0 -> letter(i);
				if :: stop != 0 -> break :: else fi
#endif
			:: break
			od;
			/* its end; a settle may follow an extend whose record is not durable yet */
			atomic { pe = 0; pp = 0; pm = 0; exts = 0 };
			if
			:: STEP { STOP != M_VOID -> meter(i); mark(i); x = MIN(s[i].met, s[i].amt); settle_push(i) }
			:: STEP { MAYVOID -> meter(i); x = 0; settle_push(i) }		/* void */
			:: STEP { over && paid > 0 && STOP == 0 -> meter(i); skip };
				extend(i, WANT);
				STEP { pe = 0; pp = 0; pm = 0; x = s[i].amt; settle_push(i) }
			fi;
			atomic { paid = 0; dm = 0; marks = 0; pm = 0; pp = 0 };
			settle_close(i)
#if MAILS > 0
			; atomic { stop = 0 }
#endif
		fi
#if FORGE > 0
	:: atomic { i == 1 && dirty -> goto died }
#endif
	:: rounds == 0 -> break
	od;
	done[i] = true;
#if CUTS > 0
	!cut && rdone;
#endif
	goto end
#ifdef ONEPROC
	} unless { pdead };
#else
#if CUTS > 0
	} unless { cut };
#else
	};
#endif
#endif

died:	atomic {	/* what it knew is gone; a new worker takes the place after reaping */
#if CUTS > 0
		if :: cut -> FORGET; goto dark :: else fi;
#endif
		dead[i] = 1;
#if MAILS > 0
		lv = 0; lid = 0; lgen = 0; stop = 0;
#endif
		FORGET };
#ifdef EARLYREUSE			/* broken: the next worker does not wait for the reaper */
	goto next;
#endif
#if CUTS > 0
	if
	:: atomic { dead[i] == 0 && !cut -> goto next }
	:: atomic { cut -> skip }
	fi;
dark:	do
	:: atomic { !cut && filled -> goto next }
	:: atomic { cut && !down[i] -> down[i] = true }
	od;
#else
	atomic { dead[i] == 0 ->
#if MAILS > 0
		gen[i]++;
#endif
#if FORGE > 0
		bad[i] = false; dirty = dirty && i == 0;
#endif
		goto next };
#endif
end:	skip
}
