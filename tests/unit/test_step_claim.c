/*
 * Goal:   a process killed after any machine instruction of taking or releasing a claim, or the
 *         master of releasing a dead one's, leaves no claim that nobody ends and none that two
 *         have.
 * Method: step each through its calls by ptrace.  After each instruction release a copy as the
 *         master would, and look who may take the word then; again with another process that takes
 *         and releases the same word before each instruction in turn.
 * objs: shm/claim.o shm/region.o shm/ring.o shm/money.o shm/account.o tests/unit/trace.o
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "shm/claim.h"
#include "tests/unit/trace.h"

#define VICTIM PROC_WORKER
#define RIVAL (PROC_WORKER + 1)
#define WORD 4711

static const struct region_dims dims = {.workers = 1,
    .max_accounts = 4,
    .max_keys = 4,
    .max_holds = 12,
    .ring_records = 8,
    .ring_arena = 1024};
static struct region live, copy;
static long points;
static struct {
	_Atomic int took, done; /* by the victim */
} * said;

static uint32_t *
words(const struct region *r)
{
	return (uint32_t *)(void *)(r->base + r->h->claims_at);
}

static void
take_and_release(void)
{
	for (int i = 0; i < 2; i++) {
		bool took = claim_take(&live, VICTIM, WORD);

		said->took = took;
		if (took) {
			said->took = 0;
			claim_release(&live, VICTIM, WORD);
		}
	}
	said->done = 1;
}

static void
release_dead(void)
{
	claim_release_dead(&live, VICTIM);
}

/* The victim is killed here, and the master is through with it. */
static void
check_death(void)
{
	uint32_t others;

	copy.h->procs = live.h->procs;
	memcpy(words(&copy), words(&live), CLAIM_WORDS * sizeof(uint32_t));
	others = words(&copy)[WORD] == RIVAL ? RIVAL : 0;
	assert_true(words(&copy)[WORD] == others || words(&copy)[WORD] == VICTIM);
	claim_release_dead(&copy, VICTIM);
	for (uint32_t i = 0; i < CLAIM_WORDS; i++)
		if (words(&copy)[i] != (i == WORD ? others : 0))
			fail_msg("word %u is left to %u", i, words(&copy)[i]);
	assert_int_equal(claim_take(&copy, RIVAL, WORD), others == 0);
	points++;
}

static void
begin(void)
{
	assert_int_equal(region_anonymous(&live, &dims), 0);
	assert_int_equal(region_anonymous(&copy, &dims), 0);
	said = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(said, MAP_FAILED);
	points = 0;
}

static void
end(void)
{
	region_unmap(&live);
	region_unmap(&copy);
	munmap(said, 4096);
}

static void
a_claimant_may_die_anywhere(void **state)
{
	pid_t pid;

	(void)state;
	begin();
	pid = trace_start(take_and_release);
	do
		check_death();
	while (trace_step(pid));
	assert_int_equal(words(&live)[WORD], 0);
	print_message("claim: %ld points\n", points);
	end();
}

/* Another process takes the word before instruction k, and releases it before a later one. */
static long
with_a_rival(long k, long hold)
{
	bool took = false;
	long n = 0;
	pid_t pid;

	begin();
	pid = trace_start(take_and_release);
	do {
		if (n == k) {
			bool victims = words(&live)[WORD] == VICTIM;

			took = claim_take(&live, RIVAL, WORD);
			assert_int_equal(took, !victims);
		}
		if (took && n >= k && n < k + hold && said->took)
			fail_msg("both have it, instruction %ld, taken at %ld", n, k);
		if (took && n == k + hold) {
			assert_int_equal(words(&live)[WORD], RIVAL);
			claim_release(&live, RIVAL, WORD);
			took = false;
		}
		check_death();
		n++;
	} while (trace_step(pid));
	assert_int_equal(said->done, 1);
	assert_int_equal(words(&live)[WORD], took ? RIVAL : 0);
	end();
	return n;
}

static void
one_of_two_has_it(void **state)
{
	long all = 0, n = 1;

	(void)state;
	for (long k = 0; k < n; k++) {
		n = with_a_rival(k, 1 + k % 29);
		all += points;
	}
	print_message("claim beside a rival: %ld runs, %ld points\n", n, all);
}

/* It is a walk over all words: only where it changes one it is looked at closely. */
static void
the_master_may_die_anywhere(void **state)
{
	static const uint16_t word[] = {0, 1, WORD, 65535};
	long n = 0;
	uint32_t left = 0, was = 4;
	pid_t pid;

	(void)state;
	begin();
	for (int i = 0; i < 4; i++)
		assert_true(claim_take(&live, VICTIM, word[i]));
	assert_true(claim_take(&live, RIVAL, 2));
	pid = trace_start(release_dead);
	for (n = 0; n < 1500; n++) {
		left = 0;
		for (int i = 0; i < 4; i++)
			left += words(&live)[word[i]] == VICTIM;
		assert_true(left <= was);
		was = left;
		assert_int_equal(words(&live)[2], RIVAL);
		memcpy(words(&copy), words(&live), CLAIM_WORDS * sizeof(uint32_t));
		claim_release_dead(&copy, VICTIM);
		for (int i = 0; i < 4; i++)
			assert_int_equal(
			    words(&copy)[word[i]], words(&live)[word[i]] == RIVAL ? RIVAL : 0);
		assert_int_equal(words(&copy)[2], RIVAL);
		/* One that was released may be another's at once, and stays so. */
		if (left == 3 && words(&live)[0] == 0)
			assert_true(claim_take(&live, RIVAL, 0));
		assert_true(trace_step(pid));
	}
	assert_int_equal(left, 2);
	trace_kill(pid);
	claim_release_dead(&live, VICTIM);
	assert_int_equal(words(&live)[0], RIVAL);
	assert_int_equal(words(&live)[WORD] + words(&live)[65535], 0);
	end();
}

static void
a_stray_word_is_nobodys(void **state)
{
	(void)state;
	begin();
	words(&live)[7] = live.h->procs;
	assert_true(claim_take(&live, VICTIM, 7));
	words(&live)[7] = 0xdeadbeef;
	assert_true(claim_take(&live, RIVAL, 7));
	/* Who had it before does not release it for who has it now. */
	claim_release(&live, VICTIM, 7);
	assert_false(claim_take(&live, VICTIM, 7));
	claim_release(&live, RIVAL, 7);
	assert_true(claim_take(&live, VICTIM, 7));
	end();
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_claimant_may_die_anywhere),
	    cmocka_unit_test(one_of_two_has_it),
	    cmocka_unit_test(the_master_may_die_anywhere),
	    cmocka_unit_test(a_stray_word_is_nobodys),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
