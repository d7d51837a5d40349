/*
 * The ledger's crash protocol: two slots on one account, the keeper, the reaper, letters from an
 * operator, and a kill of any of them after any store, or a power cut.  README.md says what is
 * modelled and why steps may be merged; ./run checks every configuration and that every rule
 * dropped (the switches marked "broken") is found out.
 *
 *	shm.pml		what survives a process, what survives a power cut
 *	mail.pml	letters to a worker
 *	worker.pml	a slot's owner
 *	reap.pml	what becomes of a dead one's slot
 *	keeper.pml	judging, committing, publishing, recovering
 *
 * Size, by -D:  BAL start  OVER overdraft  AMT reserve  WANT extend  TOPAMT top-up  DOWNAMT
 *   R0 R1 rounds of worker 0 and 1; how many of them may be:  T0 T1 top-ups (all of one ref)
 *     D0 D1 adjustments below zero   C0 C1 a closing of the account
 *     V0 V1 (1 more than) an overdraft that is set once
 *   E0 E1 extends a hold   M0 M1 marks a hold   O0 O1 may it overdraw at the end
 *   AHEAD how far the meter may run before what is paid
 *   MAILS letters   FORGE forged records, of a worker 1 that is somebody else's
 *   KW KR KK KA how many deaths of workers, reaper, keeper, admin process   CUTS power cuts
 *   SLICE what a power cut may leave uncharged (0: not checked)
 *   FINE no merging of private stores, loads of tag and available apart
 *   ONEPROC both slots belong to one process: one ring, one death
 */
#include "shm.pml"
#include "mail.pml"
#include "worker.pml"
#include "reap.pml"
#include "keeper.pml"

init {
	atomic {
		avail = BAL + OVER; dbal = BAL; dover = OVER;
		kb[W] = KW; kb[R] = KR; kb[K] = KK; kb[A] = KA;
#if V0 + V1 > 0
		shover = OVER;
#endif
		run Worker(0, R0, T0, D0, V0, C0, E0, M0, O0);
		run Worker(1, R1, T1, D1, V1, C1, E1, M1, O1);
#if MAILS > 0
		gen[0] = 1; gen[1] = 1;
		run Admin();
#endif
#if CUTS > 0
		filled = true;
		run Cut();
#endif
		run Reaper(); run Keeper()
	}
}
