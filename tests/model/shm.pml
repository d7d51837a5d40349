/*
 * The shared memory and the disk, and how one word and one ring are changed.
 * Sizes and switches are told in ledger.pml.
 *
 *	part here	stands for
 *	move()		shm/word.h	word_read, help, word_replace
 *	push()		shm/ring.c	ring_push
 */
#ifndef BAL
#define BAL 3
#endif
#ifndef OVER
#define OVER 0
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
#ifndef DOWNAMT
#define DOWNAMT 2
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
#ifndef D0
#define D0 0
#endif
#ifndef D1
#define D1 0
#endif
#ifndef V0
#define V0 0
#endif
#ifndef V1
#define V1 0
#endif
#ifndef C0
#define C0 0
#endif
#ifndef C1
#define C1 0
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
#ifndef KA
#define KA 0
#endif
#ifndef SLICE
#define SLICE 0
#endif
#ifndef AHEAD
#define AHEAD 0
#endif
#ifndef CUTS
#define CUTS 0
#endif
#ifndef MAILS
#define MAILS 0
#endif
#ifndef FORGE
#define FORGE 0
#endif

#if D0 + D1 + V0 + V1 > 0
#define LOWERS			/* what is available may be lowered by an operator */
#define MONEY short
#else
#define MONEY byte
#endif
#if C0 + C1 + FORGE > 0
#define TURNED			/* a reserve may be turned away by the books */
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

#define FLOOR 0			/* of available, in which the overdraft is */
#define RSIZE 4			/* entries of a ring */
#define NOTAG 0
#define NONE 255		/* no snapshot of the account taken */
#define T(i, sq) (((i) + 1) * 64 + (sq))
#define MIN(a, b) ((a) < (b) -> (a) : (b))

/* slot states */
#define FREE 0
#define CLAIMED 1
#define HELD 2
#define EXTENDING 3
#define SETTLING 4
#define CREDITING 5
/* record types; a void is a settle that charges 0 */
#define R_RES 1
#define R_EXT 2
#define R_MARK 3
#define R_SET 4
#define R_TOP 5
#define R_ADJ 6			/* an adjustment below zero */
#define R_OVER 7		/* ACCOUNT_SET of an overdraft: am the change, vl the new one */
#define R_CLS 8			/* ACCOUNT_SET that closes */
#define R_GONE 9		/* the reaper's: the slot's owner is dead, the slot is FREE */
#define IS_CREDIT(ty) ((ty) >= R_TOP && (ty) != R_GONE)
#define SEQEND 40		/* HOLD_SEQ_END - HOLD_SEQ_STEP: nobody comes so far */
/* result of a record */
#define APPLIED 1
#define REPEATED 2
#define TURNEDAWAY 3		/* RING_CLOSED: closed or frozen meanwhile */
#define STALE 4
#define REFUSED 5		/* a contradiction: no correct process sends that */
/* kinds of move() */
#define DEBIT 1
#define TAKE 2
#define CREDIT 3
/* who may die: index of kb[] */
#define W 0
#define R 1
#define K 2
#define A 3
byte kb[4];			/* deaths left */
#ifdef ONEPROC
bool pdead;			/* the process of both slots is dead */
#define DIE(b) if :: skip :: atomic { kb[b] > 0 -> kb[b]--; pdead = pdead || b == W; goto died } fi
#else
#define DIE(b) if :: skip :: atomic { kb[b] > 0 -> kb[b]--; goto died } fi
#endif

/* ---- shared memory: survives every process, but no power cut ---- */
typedef Slot {
	byte st; byte seq;	/* the state word: one 64-bit store */
	byte amt; byte base; MONEY take; byte act; byte met;
	byte applied;		/* raised by whoever replaces the slot's tag */
#ifdef LOST
	bool out;		/* it had an outcome, or never a hold */
#endif
	byte jseq; byte jst	/* `journaled`: the keeper's last answer to the slot */
#if MAILS > 0
	; byte id; byte gen	/* stream, and the generation of the worker that runs it */
#endif
};
Slot s[2];
short avail; byte tag;		/* the account word: one 16-byte compare-and-swap */
#ifdef TURNED
bool barred;			/* the account's flags: closed or frozen */
#endif
#if V0 + V1 > 0
byte shover;			/* the books as published: the overdraft */
#endif
typedef Rec { byte ty; byte sl; byte sq; MONEY am; byte vl; byte rs };
typedef Ring { Rec r[RSIZE]; byte head; byte dur };
Ring ring[2];
byte dead[2];			/* 1 dead, 2 reaped */
bool done[2], rdone;
#if FORGE > 0
bool bad[2];			/* to be killed by the master */
byte forgeries = FORGE;
bool dirty;			/* ghost: worker 1 has forged, and nobody has reaped it since */
#define SUSPECT(i) (i == 1 && dirty)
#else
#define SUSPECT(i) false
#endif
#if CUTS > 0
bool cut, filled;		/* the power is off; the region is ready */
bool down[4];			/* whom the cut has ended: workers, reaper, keeper */
byte cuts = CUTS;
#endif

/* ---- durable: changed only by a commit ---- */
short dbal, dheld;
byte dover;
typedef Book {
	byte amt; byte mrk; byte last	/* amt > 0: the hold is open */
#ifdef LOWERS
	; byte slack			/* its part in the account's */
#endif
#if MAILS > 0
	; byte id
#endif
};
Book d[2];
byte dpos[2];			/* ring positions */
bool dref;			/* the one ref was used */
#ifdef LOWERS
byte dslack, dending;		/* what memory may be richer by; what of that is to end */
#endif
#ifdef TURNED
bool dclosed;			/* closed or frozen */
#endif

/* ---- ghosts: only asserted on ---- */
byte gap[2];			/* last sequence that moved the account, by slot */
byte gwant[2], gchg[2];		/* what the hold must cost; what it was charged */
short topups, charged;
byte gref;			/* top-ups credited for the ref */
#ifdef LOWERS
byte pend;			/* lowered on disk, not yet in memory */
byte low;			/* lowered by the operator in all */
byte unj[2];			/* a debit not yet judged: 1; granted before something was lowered: 2 */
#define PEND pend
#define LOW low
#else
#define PEND 0
#define LOW 0
#endif
#ifdef TURNED
bool told;			/* the operator was told that it is closed */
#endif

/* memory is never richer than the disk but for what is being lowered; neither is below the
 * floor but by what an operator lowered */
#define INSIDE (avail >= FLOOR - LOW && avail <= dbal + dover - dheld + PEND)

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
			s[i].take = 0; DIE(b);
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
			d_step {
			avail = (kind == CREDIT -> v + n : v - n);
			tag = T(i, q);
			assert(q > gap[i]); gap[i] = q;	/* at most once */
#ifdef LOWERS
			if
			:: kind == CREDIT && n < 0 ->
				pend = pend + n;
				if :: unj[1 - i] > 0 -> unj[1 - i] = 2 :: else fi
			:: kind != CREDIT && unj[i] == 0 -> unj[i] = 1
			:: else
			fi;
			assert(kind == CREDIT || avail >= FLOOR);
#endif
#if FORGE == 0
			assert(INSIDE);
#endif
			};
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
/* The answer to the record at `mine`; read once. */
#define RESULT(i) ring[RG(i)].r[(mine + RSIZE - 1) % RSIZE].rs

#define to(i, state) s[i].st = state; s[i].seq = q
