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
 *	Judge()	daemon/books_check.c	repeated, check_ask
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
bool dead[N];			/* killed; a new process has the slot when this is false again */
bool known;			/* durable: the key, and with it its hold */
byte holds;			/* durable holds of the key, ever */
byte kw = KW, kk = KK, km = KM;
byte granted;			/* answers: with the one hold */
byte open;			/* it ends, and gives its credit back, when its process dies */

/* May it be told now that there is no credit?  Not if somebody is about to be granted it. */
#define OTHERS (debited[0] && 0 != me || debited[1] && 1 != me || MORE)
#if N > 2
#define MORE (debited[2] && 2 != me)
#else
#define MORE false
#endif

#define DIE if :: kw > 0 -> kw--; dead[me] = true; goto gone :: true fi

inline claim_take() {
#ifdef NOCLAIM				/* broken: nobody waits */
	skip
#else
	atomic { claim == 0 -> claim = me + 1 }
#endif
}

inline claim_release() {
#ifndef NOCLAIM
	atomic { assert(claim == me + 1); claim = 0 }
#endif
}

inline claim_release_dead(p) {
#ifndef NORELEASE			/* broken: a dead one's claim is for ever */
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
		:: else -> goto short
		fi
	};
	DIE;
	atomic { ring[me] = RES };
	DIE;
#ifdef RELEASEEARLY			/* broken: pushed is not durable */
	claim_release();
#endif
	atomic { ring[me] == NONE -> r = res[me]; res[me] = NONE };
	DIE;
	atomic {
		assert(r == APPLIED || r == REPEATED);
		if
		:: r == APPLIED -> open = me + 1
		:: r == REPEATED -> avail++; debited[me] = false
		fi
	};
#ifndef RELEASEEARLY
	claim_release();
#endif
	DIE;
	goto answered;
short:
#ifdef NOASK				/* broken: who has no credit is refused at once */
	atomic { assert(!known && !OTHERS) };
	claim_release();
	goto refused;
#else
	ring[me] = ASK;
	DIE;
#ifndef RELEASEASK
	/* Its answer is no other for those who come meanwhile, so the code waits for it without
	 * the claim: what is asked about is decided when the claim is given back. */
#endif
	claim_release();
	atomic {
		ring[me] == NONE -> r = res[me]; res[me] = NONE;
		if
		:: r == REPEATED -> assert(known); goto answered
		:: r == UNKNOWN -> goto refused
		fi
	};
#endif
answered:
	assert(known);
	granted++;
	goto done;
refused:
	skip;
	goto done;
gone:
	/* Its client sends again, to the process that comes in its place. */
	!dead[me];
	goto again;
done:
	skip
}

/* The keeper, and its successors: nothing is lost with it but what is not committed. */
active proctype Judge() {
	byte p;
end:	do
	:: atomic {
		p = 0;
		do
		:: p < N && ring[p] == NONE -> p++
		:: p < N && ring[p] != NONE -> break
		:: p < N - 1 -> p++		/* any ring first */
		:: p >= N -> break
		od;
		p < N && ring[p] != NONE
	   }
	   if
	   :: kk > 0 -> kk--			/* killed before the commit: judged again */
	   :: atomic {
		if
		:: ring[p] == ASK && known -> res[p] = REPEATED
		:: ring[p] == ASK && !known ->
			res[p] = UNKNOWN;
			/* What there is not: somebody's hold that is about to be granted. */
			assert(dead[p] || !(debited[0] && p != 0 || debited[1] && p != 1))
#ifdef NOKEYCHECK			/* broken: the keeper takes every reserve */
		:: ring[p] == RES -> res[p] = APPLIED; known = true; holds++
#else
		:: ring[p] == RES && known -> res[p] = REPEATED
		:: ring[p] == RES && !known -> res[p] = APPLIED; known = true; holds++
#endif
		fi;
		assert(holds <= 1);
		ring[p] = NONE
	      }
	   fi
	od
}

/* Finish a dead process's hold, release its claim, then its slot may be used again. */
active proctype Master() {
	byte p;
end:	do
	:: atomic {
		p = 0;
		do
		:: p < N && !dead[p] -> p++
		:: else -> break
		od;
		p < N
	   }
restart:
#ifdef RELEASEFIRST			/* broken: released while its record is on its way */
	   claim_release_dead(p);
#endif
	   ring[p] == NONE;
	   if :: km > 0 -> km--; goto restart :: true fi;
	   atomic {
		res[p] = NONE;
		if
		:: debited[p] -> debited[p] = false; avail++
		:: else
		fi
	   };
	   if :: km > 0 -> km--; goto restart :: true fi;
#ifndef RELEASEFIRST
	   claim_release_dead(p);
#endif
	   if :: km > 0 -> km--; goto restart :: true fi;
	   dead[p] = false
	od
}

init {
	atomic {
		byte i = 0;
		do
		:: i < N -> run Sender(i); i++
		:: else -> break
		od
	}
}
