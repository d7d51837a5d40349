/*
 * Requests with one Idempotency-Key that come at the same moment, with credit for one hold: the
 * claim, the keyed reserve, and who answers what (daemon/turn.h, daemon/repeat.h).  How a hold lives is
 * ledger.pml's; here a debit, a push and a commit are one step each.
 *
 *	part here	stands for
 *	claim_take()	shm/claim.c	claim_take
 *	claim_release()	shm/claim.c	claim_release
 *	claim_release_dead()	shm/claim.c	claim_release_dead
 *	Sender()	daemon/turn.c	turn_request, look_again, turn_over
 *	Sender()	daemon/begin.c	begin, reserved_cb, ask_or_refuse
 *	Judge()		daemon/books_check.c	repeated, check_ask
 *	Master()	daemon/supervise.c	start_reaping, step_reaping
 *
 * Size, by -D:  N processes (one request each, of one key)  BAL credit (a hold takes 1)
 *   KW KK KM how many deaths of workers, keeper, master
 */
#ifndef N
#define N 2
#endif
#ifndef BAL
#define BAL 1
#endif
#ifndef KW
#define KW 0
#endif
#ifndef KK
#define KK 0
#endif
#ifndef KM
#define KM 0
#endif

#define NONE 0
#define RES 1			/* records in a ring: one at a time is enough */
#define ASK 2

#define APPLIED 1		/* results */
#define REPEATED 2
#define UNKNOWN 3

byte avail = BAL;		/* in memory */
byte claim;			/* 0, or its claimant + 1 */
byte ring[N], res[N];		/* what is published and not durable; the result when it is */
bool debited[N];		/* its hold took credit, and is not ended */
bool dead[N];			/* killed, and not finished by the master */
bool known;			/* durable: the key, and with it its hold */
byte holds;			/* durable holds of the key, ever */
byte kw = KW, kk = KK, km = KM;

#define DIE if :: atomic { kw > 0 -> kw--; dead[me] = true }; goto gone :: true fi

inline claim_take() {
#ifdef NOCLAIM				/* broken: nobody waits */
	skip
#else
	atomic { claim == 0 -> claim = me + 1 }
#endif
}

inline claim_release() {
#ifdef NOCLAIM
	skip
#else
	atomic { assert(claim == me + 1); claim = 0 }
#endif
}

inline claim_release_dead(p) {
#ifdef NORELEASE			/* broken: a dead one's claim is for ever */
	skip
#else
	atomic { if :: claim == p + 1 -> claim = 0 :: else fi }
#endif
}

proctype Sender(byte me) {
	byte r;
again:
	claim_take();
	DIE;
	atomic {
		if
		:: avail > 0 -> avail--; debited[me] = true
		:: else -> goto poor
		fi
	};
	DIE;
	ring[me] = RES;
	DIE;
#ifdef RELEASEEARLY			/* broken: pushed is not durable */
	claim_release();
#endif
	atomic { ring[me] == NONE -> r = res[me]; res[me] = NONE };
	DIE;
	atomic {
		assert(r == APPLIED || r == REPEATED);
		if
		:: r == REPEATED -> avail++; debited[me] = false	/* void */
		:: else
		fi
	};
#ifndef RELEASEEARLY
	claim_release();
#endif
	DIE;
	goto answered;
poor:
#ifdef NOASK				/* broken: who finds no credit is refused at once */
	assert(false);
#endif
	ring[me] = ASK;
	DIE;
	claim_release();
	DIE;
	atomic { ring[me] == NONE -> r = res[me]; res[me] = NONE };
	/* There is credit for one hold, and all want the same one. */
	assert(r == REPEATED);
answered:
	assert(known);
	goto done;
gone:
	/* Its client sends again, to whoever comes in its place. */
	!dead[me];
	goto again;
done:
	skip
}

/* The keeper and its successors. */
active proctype Judge() {
	byte p;
end:
	if			/* the rings in any order */
	:: ring[0] != NONE -> p = 0
	:: ring[1] != NONE -> p = 1
#if N > 2
	:: ring[2] != NONE -> p = 2
#endif
	fi;
	if
	:: kk > 0 -> kk--; goto end	/* killed before the commit: judged again */
	:: true
	fi;
	atomic {
		if
#ifdef NOKEYCHECK			/* broken: every reserve is taken */
		:: ring[p] == RES -> res[p] = APPLIED; known = true; holds++
#else
		:: ring[p] == RES && !known -> res[p] = APPLIED; known = true; holds++
		:: ring[p] == RES && known -> res[p] = REPEATED
#endif
		:: ring[p] == ASK -> res[p] = (known -> REPEATED : UNKNOWN)
		fi;
		assert(holds <= 1);
		ring[p] = NONE
	};
	goto end
}

#define MASTERDIES if :: km > 0 -> km--; goto end :: true fi

/* Finish a dead process's hold, release its claim; then its slot may be used again. */
active proctype Master() {
	byte p;
end:
	if
	:: dead[0] -> p = 0
	:: dead[1] -> p = 1
#if N > 2
	:: dead[2] -> p = 2
#endif
	fi;
#ifdef RELEASEFIRST			/* broken: released while its record is on its way */
	claim_release_dead(p);
#endif
	ring[p] == NONE;
	MASTERDIES;
#ifdef RELEASELATER			/* broken: released while its credit is not back */
	claim_release_dead(p);
#endif
	atomic {
		res[p] = NONE;
		if
		:: debited[p] -> debited[p] = false; avail++
		:: else
		fi
	};
	MASTERDIES;
#ifndef RELEASEFIRST
	claim_release_dead(p);
#endif
	MASTERDIES;
	dead[p] = false;
	goto end
}

init {
	atomic {
		run Sender(0); run Sender(1)
#if N > 2
		; run Sender(2)
#endif
	}
}
