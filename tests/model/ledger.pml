/*
 * The ledger's crash protocol: two slots on one account, the keeper, the
 * reaper, and a kill of any of them after any store.  README.md says what is
 * modelled and why steps may be merged; ./run checks every configuration and
 * that every rule dropped (the switches marked "broken") is found out.
 *
 *	part here		stands for
 *	move()			shm/ledger.c	the 16-byte compare-and-swap with help
 *	reserve()		shm/ledger.c	ledger_reserve
 *	meter()			shm/ledger.c	ledger_meter
 *	mark()			shm/ledger.c	ledger_mark
 *	extend()		shm/ledger.c	ledger_extend
 *	settle_push()		shm/ledger.c	ledger_settle (void: actual 0)
 *	settle_close()		shm/ledger.c	ledger_close
 *	topup()			shm/ledger.c	ledger_credit
 *	reap()			shm/reap.c	reap_step, one call a STEP
 *	Keeper()		daemon/keeper.c	keeper_commit
 *	results(), apply()	daemon/books.c	books_apply
 *
 * Size, by -D:  BAL start  AMT reserve  WANT extend  TOPAMT top-up
 *   R0 R1 rounds of worker 0 and 1   T0 T1 how many of them may be top-ups
 *   E0 E1 extends a hold   M0 M1 marks a hold   O0 O1 may it overdraw at the end
 *   KW KR KK how many deaths of workers, reaper, keeper
 *   SLICE what a power cut may leave uncharged (0: not checked)
 *   FINE no merging of private stores, loads of tag and available apart
 *   ONEPROC both slots belong to one process: one ring, one death
 *   NOREWRITE a restarted keeper leaves `journaled` as it is
 *   SKIPZERO a credit of 0 skips its compare-and-swap
 */
#ifndef BAL
#define BAL 3
#endif
#ifndef AMT
#define AMT 2
#endif
#ifndef WANT
#define WANT 2
#endif
#ifndef TOPAMT
#define TOPAMT 1
#endif
#ifndef R0
#define R0 1
#endif
#ifndef R1
#define R1 1
#endif
#ifndef T0
#define T0 0
#endif
#ifndef T1
#define T1 0
#endif
#ifndef E0
#define E0 0
#endif
#ifndef E1
#define E1 0
#endif
#ifndef M0
#define M0 0
#endif
#ifndef M1
#define M1 0
#endif
#ifndef O0
#define O0 false
#endif
#ifndef O1
#define O1 false
#endif
#ifndef KW
#define KW 0
#endif
#ifndef KR
#define KR 0
#endif
#ifndef KK
#define KK 0
#endif
#ifndef SLICE
#define SLICE 0
#endif

#ifdef FINE
#define STEP			/* every store on its own */
#else
#define STEP atomic		/* one visible action, with the private stores around it */
#endif

#ifdef ONEPROC
#define RG(i) 0
#else
#define RG(i) i
#endif

#define FLOOR 0			/* of available; the overdraft is inside BAL */
#define RSIZE 4			/* entries of a ring */
#define NOTAG 0
#define NONE 255		/* no snapshot of the account taken */
#define T(i, sq) (((i) + 1) * 64 + (sq))

/* slot states */
#define FREE 0
#define CLAIMED 1
#define HELD 2
#define EXTENDING 3
#define SETTLING 4
#define CREDITING 5
/* record types */
#define R_RES 1
#define R_EXT 2
#define R_MARK 3
#define R_SET 4
#define R_TOP 5
/* result of a record */
#define APPLIED 1
#define REPEATED 2
/* kinds of move() */
#define DEBIT 1
#define TAKE 2
#define CREDIT 3
/* who may die: index of kb[] */
#define W 0
#define R 1
#define K 2
byte kb[3];			/* deaths left */
#ifdef ONEPROC
bool pdead;			/* the process of both slots is dead */
#define DIE(b) if :: skip :: atomic { kb[b] > 0 -> kb[b]--; pdead = pdead || b == W; goto died } fi
#else
#define DIE(b) if :: skip :: atomic { kb[b] > 0 -> kb[b]--; goto died } fi
#endif

/* ---- shared memory: survives every process ---- */
typedef Slot {
	byte st; byte seq;	/* the state word: one 64-bit store */
	byte amt; byte base; byte take; byte act; byte met;
	byte applied;		/* raised by whoever replaces the slot's tag */
	byte jseq; byte jst	/* `journaled`: the keeper's last top-up of the slot */
};
Slot s[2];
short avail; byte tag;		/* the account word: one 16-byte compare-and-swap */
typedef Rec { byte ty; byte sl; byte sq; byte am; byte vl; byte rs };
typedef Ring { Rec r[RSIZE]; byte head; byte dur };
Ring ring[2];
byte dead[2];			/* 1 dead, 2 reaped */
bool done[2], rdone;

/* ---- durable: changed only by a commit ---- */
short dbal, dheld;
typedef Book { byte amt; byte mrk; byte last; byte jseq; byte jst };
Book d[2];			/* amt > 0: the hold is open */
byte dpos[2];			/* ring positions */
bool dref;			/* the one ref was used */

/* ---- ghosts: only asserted on ---- */
byte gap[2];			/* last sequence that moved the account, by slot */
byte gwant[2], gchg[2];		/* what the hold must cost; what it was charged */
short topups, charged;
byte gref;			/* top-ups credited for the ref */

/* memory is never richer than the disk, and neither is below the floor */
#define INSIDE (avail >= FLOOR && avail <= dbal - dheld)

/* One load of {available, tag}. */
inline snap() {
#ifdef FINE
	do
	:: t = tag; v = avail; if :: tag == t -> break :: else fi
	od
#else
	t = tag; v = avail
#endif
}

#define HI (t / 64 - 1)
#define HQ (t % 64)
#ifdef HELPPROC				/* broken: the own process's other slots are not helped */
#define FOREIGN(i) (RG(HI) != RG(i))
#else
#define FOREIGN(i) (HI != i)
#endif
#define UNHELPED(i) (t != NOTAG && FOREIGN(i) && s[HI].applied < HQ)
#if defined(NOHELP) || defined(HELPAFTER)	/* broken: tag lost; raised too late */
#define NEEDHELP(i) false
#else
#define NEEDHELP(i) UNHELPED(i)
#endif

/*
 * Change the account by n with tag (i, q).  DEBIT takes all or nothing, TAKE
 * sets n to what there is of `want` and leaves it in the slot before trying.
 */
inline move(b, i, kind) {
	do
	:: STEP { t == NONE ->
		snap();
		if
		:: kind == DEBIT && v - n < FLOOR ->
			d_step { ok = false; v = 0; t = NONE }; break
		:: kind == TAKE && v <= FLOOR ->
			d_step { ok = false; v = 0; t = NONE }; break
		:: kind == TAKE && v > FLOOR ->
			n = (want < v - FLOOR -> want : v - FLOOR);
#ifndef TAKELATE		/* broken: the reaper finds an older take */
			s[i].take = n; DIE(b)
#endif
#ifdef AMOUNTEARLY		/* broken: a take that never happened is given back */
			; s[i].amt = s[i].base + n; DIE(b)
#endif
		:: kind == CREDIT || (kind == DEBIT && v - n >= FLOOR)
		fi }
	:: STEP { t != NONE && NEEDHELP(i) ->
		/* fetch-max, by compare-and-swap in the code */
		d_step { if :: UNHELPED(i) -> s[HI].applied = HQ :: else fi };
		DIE(b) }
	:: STEP { t != NONE && !NEEDHELP(i) ->
		if
		:: atomic { avail == v && tag == t ->
			avail = (kind == CREDIT -> v + n : v - n);
			tag = T(i, q);
			assert(q > gap[i]); gap[i] = q;	/* at most once */
			assert(INSIDE);
#ifdef HELPAFTER
			};
			DIE(b);
			atomic {
			if :: UNHELPED(i) -> s[HI].applied = HQ :: else fi;
#endif
			ok = true; v = 0; t = NONE };
			DIE(b);
			break
		:: atomic { else -> v = 0; t = NONE }
		fi }
	od
}

/* Append to the ring: the entry is invisible until head is published. */
inline push(b, i, type, a, x) {
	ring[RG(i)].head - ring[RG(i)].dur < RSIZE;
	d_step {
		e = ring[RG(i)].head % RSIZE;
		ring[RG(i)].r[e].ty = type; ring[RG(i)].r[e].sl = i;
		ring[RG(i)].r[e].sq = q; ring[RG(i)].r[e].am = a;
		ring[RG(i)].r[e].vl = x; ring[RG(i)].r[e].rs = 0;
		e = 0
	};
	DIE(b);
	d_step { ring[RG(i)].head++; mine = ring[RG(i)].head };
	DIE(b)
}

#define DURABLE(i) (ring[RG(i)].dur >= mine)

#define to(i, state) s[i].st = state; s[i].seq = q

/* ------------------------------------------------------------------ worker */

inline reserve(i) {
	STEP {
#ifdef STALEMETER			/* broken: the last hold's meter is still there */
		d_step { s[i].amt = AMT; s[i].base = 0; s[i].take = 0; s[i].act = 0 };
#else
		d_step { s[i].amt = AMT; s[i].base = 0; s[i].take = 0; s[i].act = 0; s[i].met = 0 };
#endif
		DIE(W);
#ifdef SEQRESET				/* broken: a sequence is used again */
		q = 1;
#else
		q = s[i].seq + 1;
#endif
		d_step { to(i, CLAIMED); gwant[i] = 0; gchg[i] = 0; n = AMT };
		DIE(W)
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
		d_step { mine = 0; assert(d[i].amt == AMT && d[i].last == q);	/* the ack is true */
		paid = AMT; dm = 0; marks = nm; exts = ne } }
}

/* Text leaves only after its meter: up to `paid`, and SLICE beyond the durable mark. */
#if SLICE > 0 && !defined(NOMARKLIMIT)	/* broken: more than a slice may be lost */
#define LIMIT (paid < dm + SLICE -> paid : dm + SLICE)
#else
#define LIMIT paid
#endif
inline meter(i) {
	do
	:: s[i].met < LIMIT ->
		d_step {
			s[i].met++; gwant[i] = s[i].met;
			assert(s[i].met <= d[i].amt);
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
		d_step { marks--; mk = s[i].met };
		push(W, i, R_MARK, 0, mk);
		if
		:: SLICE > 0 -> pm = mk; pp = mine
		:: skip
		fi;
		d_step { mine = 0; mk = 0 }
	:: skip
	fi
}

inline extend(i, w) {
	STEP {
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
#endif
			push(W, i, R_EXT, n, s[i].met);
			d_step { n = 0; pe = mine; pm = (SLICE > 0 -> s[i].met : 0); pp = (SLICE > 0 -> mine : 0); mine = 0 }
		fi }
}

inline settle_push(i) {			/* s.act is chosen by the caller's x */
	s[i].act = x; DIE(W);
#ifndef SAMESEQ				/* broken: reserve and settle share a tag */
	q = q + 1;
#endif
	d_step { to(i, SETTLING); gwant[i] = x; x = 0; n = s[i].amt - s[i].act };
	DIE(W)
}

inline settle_close(i) {
#ifndef EARLYCREDIT
	STEP { push(W, i, R_SET, 0, s[i].act) };
	STEP { DURABLE(i) -> d_step { mine = 0; assert(d[i].amt == 0 && d[i].last == q) } };
#endif
	if
#ifdef SKIPZERO
	:: n == 0
	:: n > 0 -> move(W, i, CREDIT)
#else
	:: true -> move(W, i, CREDIT)
#endif
	fi;
#ifdef EARLYCREDIT			/* broken: given back before it is durable */
	STEP { push(W, i, R_SET, 0, s[i].act) };
	STEP { DURABLE(i) -> mine = 0 };
#endif
	STEP { n = 0;
		assert(gchg[i] == gwant[i]);
		s[i].st = FREE; DIE(W) }
}

inline topup(i) {
	STEP {
		d_step { s[i].amt = TOPAMT; s[i].base = 0; s[i].take = 0; s[i].act = 0; s[i].met = 0 };
		DIE(W);
		q = s[i].seq + 1;
		d_step { to(i, CREDITING); n = TOPAMT };
		DIE(W)
#ifndef TOPEARLY
		; push(W, i, R_TOP, TOPAMT, 1)
#endif
	};
#ifdef TOPEARLY				/* broken: credited before it is durable */
	move(W, i, CREDIT);
	STEP { push(W, i, R_TOP, TOPAMT, 1) };
	STEP { DURABLE(i) -> mine = 0 };
#else
	STEP { DURABLE(i) ->
		d_step {
			x = ring[RG(i)].r[(mine + RSIZE - 1) % RSIZE].rs;
			ring[RG(i)].r[(mine + RSIZE - 1) % RSIZE].rs = 0;
			assert(x != 0);			/* a durable record has its result */
			mine = 0
		} };
	if
#ifdef IGNORERESULT			/* broken: a repeated ref is credited */
	:: true
#else
	:: x == APPLIED
#endif
		-> x = 0; move(W, i, CREDIT)
	:: x == REPEATED -> x = 0
	fi;
#endif
	STEP { n = 0; s[i].st = FREE; DIE(W) }
}

proctype Worker(byte i; byte rounds; byte tops; byte ne; byte nm; bool over) {
	short v;
	byte t = NONE, n, q, e, x, mine, want, paid, dm, pm, pp, pe, mk, marks, exts;
	bool ok, dr;

	{
next:	do
	:: atomic { rounds > 0 -> rounds--; q = 0; ok = false };
		if
		:: tops > 0 -> tops--; topup(i)
		:: true ->
			reserve(i);
			/* the stream */
			do
			:: STEP { exts > 0 && pe == 0 -> exts--; meter(i); mark(i) };
				extend(i, WANT); mark(i)
			:: STEP { pe != 0 && ring[RG(i)].dur >= pe ->	/* the new slice is paid */
				d_step { pe = 0; paid = s[i].amt; assert(d[i].amt == paid) } }
			:: STEP { pp != 0 && ring[RG(i)].dur >= pp ->	/* the mark is durable */
				d_step { pp = 0; dm = pm; pm = 0 };
				meter(i) }
			:: STEP { SLICE > 0 && marks > 0 && pp == 0 -> meter(i); mark(i) }
			:: break
			od;
			/* its end; a settle may follow an extend whose record is not durable yet */
			atomic { pe = 0; pp = 0; pm = 0; exts = 0 };
			if
			:: STEP { meter(i); mark(i); x = s[i].met; settle_push(i) }
			:: STEP { meter(i); x = 0; settle_push(i) }			/* void */
			:: STEP { over -> meter(i); skip };
				extend(i, WANT);
				STEP { pe = 0; pp = 0; pm = 0; x = s[i].amt; settle_push(i) }
			fi;
			atomic { paid = 0; dm = 0; marks = 0; pm = 0; pp = 0 };
			settle_close(i)
		fi
	:: rounds == 0 -> break
	od;
	done[i] = true;
	goto end
#ifdef ONEPROC
	} unless { pdead };
#else
	};
#endif

died:	atomic {	/* what it knew is gone; a new worker takes the place after reaping */
		dead[i] = 1;
		v = 0; t = NONE; n = 0; q = 0; e = 0; x = 0; mine = 0; want = 0; paid = 0;
		dm = 0; pm = 0; pp = 0; pe = 0; mk = 0; marks = 0; exts = 0; ok = false };
#ifdef EARLYREUSE			/* broken: the next worker does not wait for the reaper */
	goto next;
#endif
	atomic { dead[i] == 0 -> goto next };
end:	skip
}

/* ------------------------------------------------------------------ master */

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

inline reap(i) {
	/* what the dead had said is durable before its slot is read */
	STEP {
#ifndef NODRAIN				/* broken: a durable top-up is taken for none */
		ring[RG(i)].dur == ring[RG(i)].head ->
#endif
		q = s[i].seq; LOOK1(i) };
	STEP {
		if
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
			:: else
			fi;
			s[i].st = HELD; DIE(R)
		:: else
		fi;
		tt = 0 };
	STEP {
		if
		:: s[i].st == HELD ->
			s[i].act = s[i].met; DIE(R);
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
			:: else -> tt = 0; ok = false; n = s[i].amt - s[i].act
			fi };
		if
		:: ok
#ifdef SKIPZERO
		:: !ok && n == 0
		:: !ok && n > 0 -> move(R, i, CREDIT)
#else
		:: !ok -> move(R, i, CREDIT)
#endif
		fi;
		STEP { n = 0; ok = false;
			assert(s[i].st != SETTLING || gchg[i] == gwant[i]);	/* killed: what the meter said */
			s[i].st = FREE; DIE(R) }
	fi;
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
	byte t = NONE, tt, n, q, e, mine, want;
	bool ok;

again:	do
	:: GONE(0) -> reap(0)
	:: GONE(1) -> reap(1)
	:: done[0] && done[1] -> break
	od;
	rdone = true;
	goto end;
died:	atomic {	/* a new master starts all over */
		v = 0; t = NONE; tt = 0; n = 0; q = 0; e = 0; mine = 0; want = 0; ok = false;
		goto again };
end:	skip
}

/* ------------------------------------------------------------------ keeper */

#define ENT(g, k) ring[g].r[(k) % RSIZE]
#define SL(g, k) ENT(g, k).sl

/* The results of ring g from its position to h, by the books and `seen`. */
inline results(g, p, h) {
	k = p;
	do
	:: k < h ->
		if
		:: ENT(g, k).ty == R_TOP ->
			ENT(g, k).rs = (seen || d[SL(g, k)].last >= ENT(g, k).sq -> REPEATED : APPLIED);
			s[SL(g, k)].jseq = ENT(g, k).sq;
			s[SL(g, k)].jst = ENT(g, k).rs;
#ifndef NOREFCHECK			/* broken: a repeated top-up is credited twice */
			seen = true
#endif
		:: else
		fi;
		k++
	:: else -> break
	od
}

/* Inside the transaction: apply ring g from its position to h. */
inline apply(g, p, h) {
	k = p;
	do
	:: k < h ->
		j = SL(g, k);
		if
		:: ENT(g, k).ty == R_MARK ->		/* never alone, never above its hold, only up */
			assert(ENT(g, k).vl <= d[j].amt && ENT(g, k).sq >= d[j].last);
#ifndef MARKSEQ				/* broken: "sequence above the last" asked of marks too */
			if :: ENT(g, k).vl > d[j].mrk -> d[j].mrk = ENT(g, k).vl :: else fi
#endif
#ifndef NOIDEM				/* broken: the reaper's second settle counts again */
		:: ENT(g, k).ty != R_MARK && ENT(g, k).sq <= d[j].last -> skip
#endif
		:: else ->
			d[j].last = ENT(g, k).sq;
			if
			:: ENT(g, k).ty == R_RES ->
				assert(d[j].amt == 0);
				d[j].amt = ENT(g, k).am; d[j].mrk = 0;
				dheld = dheld + ENT(g, k).am
			:: ENT(g, k).ty == R_EXT ->
				assert(d[j].amt > 0 && ENT(g, k).vl <= d[j].amt);
				d[j].amt = d[j].amt + ENT(g, k).am; d[j].mrk = ENT(g, k).vl;
				dheld = dheld + ENT(g, k).am
			:: ENT(g, k).ty == R_SET ->
				/* no open hold: only as a void of what was never journaled */
				assert(ENT(g, k).vl <= d[j].amt);
				dheld = dheld - d[j].amt;
				dbal = dbal - ENT(g, k).vl; charged = charged + ENT(g, k).vl;
				gchg[j] = gchg[j] + ENT(g, k).vl;
				d[j].amt = 0; d[j].mrk = 0
			:: ENT(g, k).ty == R_TOP ->
				d[j].jseq = ENT(g, k).sq;
#ifdef NOREFCHECK
				d[j].jst = APPLIED;
#else
				d[j].jst = (dref -> REPEATED : APPLIED);
#endif
				if
				:: d[j].jst == APPLIED ->
					dref = true; gref++; assert(gref == 1);
					dbal = dbal + ENT(g, k).am; topups = topups + ENT(g, k).am
				:: else
				fi
			fi
		fi;
#ifndef POSFROMSHM
		/* nobody reads it again: forget it, for fewer states */
		ENT(g, k).ty = 0; ENT(g, k).sl = 0; ENT(g, k).sq = 0; ENT(g, k).am = 0; ENT(g, k).vl = 0;
#endif
		k++
	:: else -> break
	od;
	j = 0; k = 0
}

inline write_results() {
	d_step {
		seen = dref;
		if
		:: one -> results(1, p1, h1); results(0, p0, h0)
		:: else -> results(0, p0, h0); results(1, p1, h1)
		fi;
		seen = false; k = 0 }
}

proctype Keeper() {
	byte p0, p1, h0, h1, k, j;
	bool one, seen;

start:	/* a restart: private books, `journaled` and positions from the last commit */
	STEP {
#if !defined(RESULTLATE) && !defined(NOREWRITE)
		d_step { s[0].jseq = d[0].jseq; s[0].jst = d[0].jst };
		d_step { s[1].jseq = d[1].jseq; s[1].jst = d[1].jst };
		DIE(K);
#endif
#ifdef POSFROMSHM			/* broken: what was committed is decided again */
		d_step { p0 = ring[0].dur; p1 = ring[1].dur } };
#else
		d_step { p0 = dpos[0]; p1 = dpos[1] };
		ring[0].dur = p0; DIE(K) };
	STEP { ring[1].dur = p1; DIE(K) };
#endif
	do
	:: STEP { (ring[0].head != p0 || ring[1].head != p1) ->
		/* what it saw of each head may be old: both rings or one of them, in any order */
		if
		:: d_step { ring[0].head != p0 -> h0 = ring[0].head; h1 = p1 }
		:: d_step { ring[1].head != p1 -> h1 = ring[1].head; h0 = p0 }
		:: d_step { ring[0].head != p0 && ring[1].head != p1 -> h0 = ring[0].head; h1 = ring[1].head }
		:: d_step { ring[0].head != p0 && ring[1].head != p1 && T0 + T1 > 1 ->
			h0 = ring[0].head; h1 = ring[1].head; one = true }
		fi;
#ifndef RESULTLATE			/* broken: durable, and no result to read */
		write_results(); DIE(K);
#endif
#ifdef PUBLISHFIRST			/* broken: acknowledged, not durable */
		ring[0].dur = h0; ring[1].dur = h1; DIE(K);
#endif
		d_step {		/* the commit */
			if
			:: one -> apply(1, p1, h1); apply(0, p0, h0)
			:: else -> apply(0, p0, h0); apply(1, p1, h1)
			fi;
			dpos[0] = h0; dpos[1] = h1;
			/* a power cut right here is inside the floor, at the marks and at the holds */
			assert(dbal - dheld >= FLOOR && INSIDE);
			assert(d[0].mrk <= d[0].amt && d[1].mrk <= d[1].amt);
			assert(dbal - d[0].mrk - d[1].mrk >= FLOOR)
		};
		DIE(K);
#ifdef RESULTLATE
		write_results(); DIE(K);
#endif
		p0 = h0; one = false; h0 = 0; ring[0].dur = p0; DIE(K) };
		STEP { p1 = h1; h1 = 0; ring[1].dur = p1; DIE(K) }
	:: rdone && ring[0].head == p0 && ring[1].head == p1 -> break
	od;
	/* quiescent */
	assert(s[0].st == FREE && s[1].st == FREE);		/* no hold leaked */
	assert(dheld == 0 && d[0].amt == 0 && d[1].amt == 0);
	assert(dbal == BAL + topups - charged);			/* conservation */
	assert(avail == dbal);					/* nothing lost, nothing invented */
	goto end;
died:	atomic { p0 = 0; p1 = 0; h0 = 0; h1 = 0; k = 0; j = 0; one = false; seen = false; goto start };
end:	skip
}

init {
	atomic {
		avail = BAL; dbal = BAL;
		kb[W] = KW; kb[R] = KR; kb[K] = KK;
		run Worker(0, R0, T0, E0, M0, O0); run Worker(1, R1, T1, E1, M1, O1); run Reaper(); run Keeper()
	}
}
