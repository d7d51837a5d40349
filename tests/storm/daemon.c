/*
 * One daemon of the storm, from fork to kill or rest: its master with the real supervisor and
 * reaper, children with the real keeper and the players as mains, kills of them at random.
 */
#include "tests/storm/daemon.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "daemon/metrics.h"
#include "daemon/spawn.h"
#include "daemon/state.h"
#include "daemon/supervise.h"
#include "shm/clock.h"
#include "shm/wake.h"
#include "tests/storm/told.h"

#define WORKERS_END (PROC_WORKER + STORM_WORKERS)

/* Rings with little room and few slots: their being full is a case as well. */
static const struct region_dims dims = {.workers = STORM_WORKERS, .max_accounts = 64,
    .max_keys = 64, .max_holds = (1 + 2 * STORM_WORKERS) * 12, .ring_records = 64,
    .ring_arena = 1 << 13};
static struct heritage heritage;
static struct supervisor supervisor;
static char region_path[96];

void
daemon_init(char *dir)
{
	static char model[] = "model";

	(void)snprintf(region_path, sizeof region_path, "%s/ledger.shm", dir);
	heritage.config = calloc(1, sizeof *heritage.config);
	heritage.config->state_dir = heritage.config->runtime_dir = dir;
	heritage.order_theirs[PROC_KEEPER] = -1;
	heritage.config->history.enabled = true;
	heritage.config->model_count = 1;
	heritage.config->model[0].name = model;
	heritage.config->model[0].price = storm_price;
}

void
daemon_reboot(void)
{
	atomic_fetch_add(&told->boots, 1);
	(void)unlink(region_path);
	atomic_store(&told->adopted, 0);
	/* Now and then its projection too: all there is then is the journal. */
	if (atomic_load(&told->boots) % 2 == 0)
		state_remove(heritage.config->state_dir);
}

const char *
spawn_name(uint32_t proc, char text[static 16])
{
	(void)snprintf(text, 16, "process-%u", proc);
	return text;
}

/*
 * In a build with -DTOLLD_FAULTS: the windows of a few instructions, which a signal from outside
 * hardly ever hits.  The master passes fewer of them.
 */
static void
die_at_points(uint64_t seed, const char *odds)
{
	char text[24];

	(void)unsetenv("TOLLD_FAULT_ODDS");
	if (!told->kills_wanted || told->last)
		return;
	(void)snprintf(text, sizeof text, "%llu", (unsigned long long)seed);
	(void)setenv("TOLLD_FAULT_SEED", text, 1);
	(void)setenv("TOLLD_FAULT_ODDS", odds, 1);
}

/* In place of daemon/spawn.c's: the same promises, other mains. */
pid_t
spawn(struct heritage *h, uint32_t proc, const struct owner *owner, int signal_fd)
{
	pid_t master = getpid(), pid;
	/* One of a kind: the daemon, the slot, how many were there before. */
	uint64_t seed = storm_mix(told->seed ^ storm_mix((uint64_t)atomic_load(&told->life) << 32 |
	    proc << 20 | supervisor.child[proc].starts));
	sigset_t set;

	(void)owner;
	(void)signal_fd;
	pid = fork();
	atomic_fetch_add(&told->spawned, pid > 0);
	if (pid != 0)
		return pid;
	(void)sigemptyset(&set);
	(void)sigaddset(&set, CHILD_SIG_DRAIN);
	(void)sigaddset(&set, CHILD_SIG_STOP);
	(void)sigprocmask(SIG_SETMASK, &set, NULL);
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != master)
		_exit(1);
	die_at_points(seed, "500");
	if (proc == PROC_KEEPER && told->kills_wanted && !told->last)
		disk_begin(seed);
	_exit(proc == PROC_KEEPER ? keeper_main(h)
	    : proc == PROC_ADMIN  ? player_admin(h, seed)
				  : player_worker(h, proc, seed));
}

static bool
kill_one(uint32_t proc)
{
	const struct child *c = &supervisor.child[proc];

	/* Only what waitpid has not taken yet: its id is nobody else's. */
	if (c->state != CHILD_RUNNING || kill(c->pid, SIGKILL) < 0)
		return false;
	if (c->leaving)
		told_killed(KILL_LEAVING);
	told_killed(proc == PROC_KEEPER ? KILL_KEEPER : proc == PROC_ADMIN ? KILL_ADMIN : KILL_WORKER);
	if (proc == PROC_KEEPER && atomic_load(&told->phase) < STORM_SERVE)
		told_killed(KILL_KEEPER_RECOVERY);
	if (supervise_reaping(&supervisor))
		told_killed(KILL_WHILE_REAPING);
	return true;
}

/* One or a few at once. */
static void
kill_some(uint64_t *rng)
{
	for (uint32_t n = storm_draw(rng, 6) == 0 ? 3 : 1; n > 0; n--) {
		uint32_t who = storm_draw(rng, 8);

		/* A keeper lives some ten milliseconds here: no compaction would ever get beyond
		 * its first step, which takes longer. */
		if (who < 3 && storm_draw(rng, 40) != 0 &&
		    atomic_load(&heritage.region.h->compaction.step) == 1)
			continue;
		(void)kill_one(who < 3 ? PROC_KEEPER : who == 3 ? PROC_ADMIN
		    : PROC_WORKER + storm_draw(rng, 2 * STORM_WORKERS));
	}
}

/*
 * What an upgrade does (daemon/takeover.c): a keeper ends in order and has a successor; a worker
 * gets one in the other half of the slots, and leaves with its last stream.
 */
static void
replace_one(uint64_t *rng)
{
	uint32_t i = storm_draw(rng, STORM_WORKERS + 1), old, new;

	if (i == STORM_WORKERS) {
		if (supervisor.child[PROC_KEEPER].state != CHILD_RUNNING)
			return;
		supervise_leave(&supervisor, PROC_KEEPER);
		supervise_kill(&supervisor, PROC_KEEPER, PROC_KEEPER + 1, CHILD_SIG_STOP);
		atomic_fetch_add(&told->renewed, 1);
		return;
	}
	old = PROC_WORKER + i;
	new = old + STORM_WORKERS;
	if (!supervisor.child[old].wanted) {
		old = new;
		new = PROC_WORKER + i;
	}
	if (supervisor.child[new].state != CHILD_NONE ||
	    supervisor.child[old].state != CHILD_RUNNING)
		return;
	supervise_want(&supervisor, new, new + 1);
	supervise_leave(&supervisor, old);
	supervise_unwant(&supervisor, old, old + 1);
	atomic_store(&told->leaving[old],
	    atomic_load(&region_proc(&heritage.region, old)->generation));
	atomic_fetch_add(&told->replaced, 1);
}

static void
step_phase(void)
{
	struct region *region = &heritage.region;

	switch ((enum storm_phase)atomic_load(&told->phase)) {
	case STORM_LOAD:
		if (atomic_load(&region->h->filled) != REGION_FILLED)
			return;
		for (uint32_t p = PROC_ADMIN; region->leftover && p < supervisor.procs; p++)
			supervise_leftover(&supervisor, p);
		atomic_store(&told->phase, STORM_RECOVER);
		return;
	case STORM_RECOVER:
		if (supervise_left(&supervisor, PROC_ADMIN, supervisor.procs) > 0)
			return;
		supervise_want(&supervisor, PROC_ADMIN, WORKERS_END);
		atomic_store(&told->phase, STORM_SERVE);
		return;
	case STORM_SERVE:
		if (!atomic_load(&told->quiesce))
			return;
		supervise_unwant(&supervisor, PROC_ADMIN, supervisor.procs);
		if (supervise_left(&supervisor, PROC_ADMIN, supervisor.procs) > 0)
			return;
		supervise_unwant(&supervisor, PROC_KEEPER, PROC_KEEPER + 1);
		supervise_kill(&supervisor, PROC_KEEPER, PROC_KEEPER + 1, CHILD_SIG_STOP);
		atomic_store(&told->phase, STORM_END);
		return;
	case STORM_END:
		return;
	}
}

/* A killed child starts again at once: this is no place for patience. */
static void
no_backoff(void)
{
	for (uint32_t p = PROC_KEEPER; p < supervisor.procs; p++)
		supervisor.child[p].quick = 0;
}

static void
fork_checker(void)
{
	pid_t master = getpid();

	if (fork() != 0)
		return;
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() == master)
		player_checker(&heritage);
	_exit(0);
}

static bool
adopt(void)
{
	const char *why;

	/* The last one's children may still be dying: they hold the lock. */
	for (int tries = 0; region_open(&heritage.region, region_path, &dims, &why) < 0; tries++) {
		if (errno != EBUSY || tries == 5000) {
			storm_fail("region_open: %s", why != NULL ? why : strerror(errno));
			return false;
		}
		(void)poll(NULL, 0, 1);
	}
	/* Only one that was still being made when its daemon was killed. */
	if (why != NULL && atomic_load(&told->adopted))
		storm_fail("the region was discarded: it %s", why);
	atomic_store(&told->adopted, 1);
	return true;
}

/* The master's life; it ends at rest, or by a kill from outside. */
int
daemon_run(bool keep_region)
{
	uint64_t rng = storm_mix(told->seed ^ storm_mix(atomic_load(&told->life)));
	uint64_t next_us = 0;

	die_at_points(rng, "1000");
	if (!adopt())
		return 1;
	for (int i = 0; i < PROC_WORKER + 2 * STORM_WORKERS; i++)
		heritage.wake_fd[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	metrics_init(&heritage.region, PROC_MASTER);
	supervise_init(&supervisor, &heritage, NULL, -1);
	supervise_want(&supervisor, PROC_KEEPER, PROC_KEEPER + 1);
	fork_checker();
	while (!atomic_load(&told->failed)) {
		struct pollfd fd = {.fd = heritage.wake_fd[PROC_MASTER], .events = POLLIN};
		bool quiet = atomic_load(&told->quiesce) != 0;

		wake_prepare(&heritage.region, PROC_MASTER);
		supervise_collect(&supervisor);
		no_backoff();
		supervise_step(&supervisor);
		atomic_store(&told->reaping, supervise_reaping(&supervisor));
		step_phase();
		if (atomic_load(&told->phase) == STORM_END &&
		    supervise_left(&supervisor, PROC_KEEPER, PROC_KEEPER + 1) == 0)
			break;
		if (told->kills_wanted && !quiet && monotonic_us() >= next_us) {
			if (next_us != 0 && storm_draw(&rng, 4) != 0)
				kill_some(&rng);
			else if (atomic_load(&told->phase) == STORM_SERVE)
				replace_one(&rng);
			/* The first ones early: while it recovers. */
			next_us = monotonic_us() +
			    storm_draw(&rng, atomic_load(&told->phase) < STORM_SERVE ? 6000 : 12000);
		}
		(void)poll(&fd, 1, 1);
		wake_done(&heritage.region, PROC_MASTER, fd.fd);
	}
	if (atomic_load(&told->failed) || !examine(&heritage))
		return 1;
	atomic_fetch_add(&told->rests, 1);
	if (!keep_region) {
		atomic_store(&told->adopted, 0);
		region_remove(&heritage.region, region_path);
	}
	return 0;
}
