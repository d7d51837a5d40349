/*
 * Goal:   whatever is killed at whatever moment, under full load: the floor holds at every
 *         instant; at rest nothing is held, every acknowledged operation is there exactly once,
 *         every stream was charged what its meter said, and the audit agrees.
 * Method: daemons made of the real keeper, the real supervisor and reaper, the real ledger, and
 *         stand-in workers and admin (players.c), one after the other on the same state_dir.
 *         Within a daemon its children are SIGKILLed at random moments; then the daemon ends by a
 *         kill of its master, of all at once, with its region left over or thrown away (a
 *         reboot), or comes to rest and is examined (examine.c).
 *
 *     storm [--seed N] [--ops N] [--seconds S]
 *
 * The seed fixes every decision: which process does what next, who is killed, after how long, how
 * each daemon ends.  How the processes interleave is the kernel's, so a seed that failed is likely
 * to fail again, not certain.
 *
 * objs: daemon/keeper.o daemon/keeper_batch.o daemon/recover.o daemon/audit.o daemon/state.o daemon/state_streams.o daemon/state_read.o daemon/journal.o daemon/journal_read.o daemon/books.o daemon/books_apply.o daemon/books_check.o daemon/metrics.o daemon/buf.o daemon/log.o daemon/utf8.o daemon/supervise.o shm/money.o shm/account.o shm/region.o shm/ring.o shm/ledger.o shm/reap.o shm/wake.o
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "daemon/log.h"
#include "daemon/metrics.h"
#include "daemon/spawn.h"
#include "daemon/supervise.h"
#include "shm/ring.h"
#include "shm/wake.h"
#include "tests/storm/told.h"

#define WORKERS_END (PROC_WORKER + STORM_WORKERS)
#define REST_SECONDS 60 /* by then a daemon that was told to end has done it */

/* Rings with little room and few slots: their being full is a case as well. */
static const struct region_dims dims = {.workers = STORM_WORKERS, .max_accounts = 64,
    .max_keys = 16, .max_holds = (1 + 2 * STORM_WORKERS) * 12, .ring_records = 64,
    .ring_arena = 1 << 13};

const struct price storm_price = {1500000, 500000, 3000000};
struct told *told;

static struct heritage heritage;
static struct supervisor supervisor;
static char dir[64], region_path[96], log_path[96];

uint64_t
storm_mix(uint64_t x)
{
	x += UINT64_C(0x9e3779b97f4a7c15);
	x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
	return x ^ x >> 31;
}

uint32_t
storm_draw(uint64_t *state, uint32_t n)
{
	*state += UINT64_C(0x9e3779b97f4a7c15);
	return (uint32_t)(storm_mix(*state) >> 32) % n;
}

void
storm_fail(const char *format, ...)
{
	uint32_t none = 0;
	va_list args;

	if (!atomic_compare_exchange_strong(&told->failed, &none, 1))
		return;
	va_start(args, format);
	(void)vsnprintf(told->difference, sizeof told->difference, format, args);
	va_end(args);
}

uint64_t
storm_ops(void)
{
	uint64_t n = 0;

	for (int i = 0; i < OP_KINDS; i++)
		if (i != OP_METER && i != OP_SHORT)
			n += atomic_load(&told->ops[i]);
	return n;
}

static void
killed(enum kill_kind kind)
{
	atomic_fetch_add(&told->kills[kind], 1);
}

/* --- the daemon ------------------------------------------------------------------------------ */

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
	killed(proc == PROC_KEEPER ? KILL_KEEPER : proc == PROC_ADMIN ? KILL_ADMIN : KILL_WORKER);
	if (proc == PROC_KEEPER && atomic_load(&told->phase) < STORM_SERVE)
		killed(KILL_KEEPER_RECOVERY);
	if (supervise_reaping(&supervisor))
		killed(KILL_WHILE_REAPING);
	return true;
}

/* One or a few at once. */
static void
kill_some(uint64_t *rng)
{
	for (uint32_t n = storm_draw(rng, 6) == 0 ? 3 : 1; n > 0; n--) {
		uint32_t who = storm_draw(rng, 8);

		(void)kill_one(who < 3 ? PROC_KEEPER : who == 3 ? PROC_ADMIN
		    : PROC_WORKER + storm_draw(rng, STORM_WORKERS));
	}
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
		supervise_unwant(&supervisor, PROC_ADMIN, WORKERS_END);
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
static int
daemon_main(bool keep_region)
{
	uint64_t rng = storm_mix(told->seed ^ storm_mix(atomic_load(&told->life)));
	uint64_t next_us = 0;

	die_at_points(rng, "400");
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
		if (told->kills_wanted && !quiet && supervise_now_us() >= next_us) {
			if (next_us != 0)
				kill_some(&rng);
			/* The first ones early: while it recovers. */
			next_us = supervise_now_us() +
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

/* --- the storm ------------------------------------------------------------------------------- */

/* The dead master's children, which have become ours; all are dying. */
static void
reap_orphans(void)
{
	while (waitpid(-1, NULL, 0) > 0 || errno == EINTR)
		continue;
}

static bool
ended_in_time(pid_t pid, int *status)
{
	for (int ms = 0; ms < REST_SECONDS * 1000; ms++) {
		if (waitpid(pid, status, WNOHANG) == pid)
			return true;
		(void)poll(NULL, 0, 1);
	}
	return false;
}

static void
pause_us(uint32_t us)
{
	const struct timespec ts = {us / 1000000, us % 1000000 * 1000};

	(void)nanosleep(&ts, NULL);
}

/* Until the daemon is to come to an end, or has failed. */
static void
let_it_run(pid_t pid, uint64_t ms)
{
	siginfo_t info = {0};

	for (uint64_t i = 0; i < ms && !atomic_load(&told->failed); i++) {
		if (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
		    info.si_pid == pid)
			return;
		pause_us(1000);
	}
}

enum fate { FATE_REST, FATE_REST_CLEAN, FATE_MASTER, FATE_ALL, FATE_REBOOT };

static void
kill_daemon(pid_t pid, enum fate fate)
{
	if (atomic_load(&told->phase) < STORM_SERVE)
		killed(KILL_MASTER_RECOVERY);
	if (atomic_load(&told->reaping))
		killed(KILL_WHILE_REAPING);
	/* Not waited for yet: neither its id nor its group's is anyone else's. */
	(void)kill(fate == FATE_MASTER ? pid : -pid, SIGKILL);
	killed(fate == FATE_MASTER ? KILL_MASTER : fate == FATE_ALL ? KILL_ALL : KILL_REBOOT);
	(void)waitpid(pid, NULL, 0);
	reap_orphans();
	if (fate == FATE_REBOOT) {
		atomic_fetch_add(&told->boots, 1);
		(void)unlink(region_path);
		atomic_store(&told->adopted, 0);
	}
}

static void
bring_to_rest(pid_t pid)
{
	int status = 0;

	atomic_store(&told->quiesce, 1);
	if (!ended_in_time(pid, &status)) {
		storm_fail("no rest within %d s, phase %u", REST_SECONDS,
		    atomic_load(&told->phase));
		(void)kill(-pid, SIGKILL);
		(void)waitpid(pid, NULL, 0);
	} else if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL && !told->last) {
		killed(KILL_AT_POINT); /* a named one: nobody else would */
	} else if (status != 0)
		storm_fail("the master ended with status %x", (unsigned)status);
	reap_orphans();
}

static void
one_daemon(enum fate fate, uint32_t us)
{
	pid_t pid;

	atomic_fetch_add(&told->life, 1);
	atomic_store(&told->quiesce, 0);
	atomic_store(&told->phase, STORM_LOAD);
	atomic_store(&told->reaping, 0);
	pid = fork();
	if (pid < 0) {
		storm_fail("fork: %s", strerror(errno));
		return;
	}
	if (pid == 0) {
		(void)setpgid(0, 0);
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		_exit(daemon_main(fate == FATE_REST));
	}
	(void)setpgid(pid, pid);
	let_it_run(pid, us / 1000);
	pause_us(us % 1000);
	if (fate <= FATE_REST_CLEAN || atomic_load(&told->failed))
		bring_to_rest(pid);
	else
		kill_daemon(pid, fate);
}

static void
report(uint64_t seed, double seconds)
{
	static const char *const kill_name[KILL_KINDS] = {"worker", "admin", "keeper",
	    "keeper in recovery", "while reaping", "master", "all at once", "daemon in recovery",
	    "reboot", "master at a named point"};
	static const char *const op_name[OP_KINDS] = {"reserves", "refused for credit", "extends",
	    "overdraws", "meter", "marks", "settles", "voids", "top-ups", "repeated refs",
	    "adjustments", "syncs"};

	printf("seed %llu: %llu operations, %u streams, %u daemons, %llu examined at rest, "
	       "%llu looks at the floor, %llu processes started, %.1f s\n",
	    (unsigned long long)seed, (unsigned long long)storm_ops(),
	    atomic_load(&told->streams), atomic_load(&told->life),
	    (unsigned long long)atomic_load(&told->rests),
	    (unsigned long long)atomic_load(&told->looks),
	    (unsigned long long)atomic_load(&told->spawned), seconds);
	printf("operations:");
	for (int i = 0; i < OP_KINDS; i++)
		printf(" %s %llu%s", op_name[i], (unsigned long long)atomic_load(&told->ops[i]),
		    i < OP_KINDS - 1 ? "," : "\n");
	printf("kills:");
	for (int i = 0; i < KILL_KINDS; i++)
		printf(" %s %llu%s", kill_name[i], (unsigned long long)atomic_load(&told->kills[i]),
		    i < KILL_KINDS - 1 ? "," : "\n");
}

static void
show_log(void)
{
	char command[256];

	printf("the end of the log:\n");
	(void)fflush(stdout);
	(void)snprintf(command, sizeof command, "grep -v '%s' %s | tail -n 40",
	    "process died\\|started\\|books loaded\\|finished a dead", log_path);
	if (system(command) != 0)
		printf("no log\n");
}

static void
set_up(uint64_t seed)
{
	const char *at = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";

	told = mmap(NULL, sizeof *told, PROT_READ | PROT_WRITE,
	    MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (told == MAP_FAILED) {
		perror("mmap");
		exit(2);
	}
	told->seed = seed;
	told->kills_wanted = getenv("STORM_CALM") == NULL;
	(void)snprintf(dir, sizeof dir, "%s/tolld-storm-XXXXXX", at);
	if (mkdtemp(dir) == NULL) {
		perror(dir);
		exit(2);
	}
	(void)snprintf(region_path, sizeof region_path, "%s/ledger.shm", dir);
	(void)snprintf(log_path, sizeof log_path, "%s/log", dir);
	heritage.config = calloc(1, sizeof *heritage.config);
	heritage.config->state_dir = heritage.config->runtime_dir = dir;
	heritage.config->model_count = 1;
	heritage.config->model[0].name = (char[]){"model"};
	heritage.config->model[0].price = storm_price;
	(void)prctl(PR_SET_CHILD_SUBREAPER, 1);
	if (freopen(log_path, "a", stderr) == NULL)
		exit(2);
}

static void
clear(void)
{
	static const char *const file[] = {"ledger.shm", "log", "journal.mdb", "journal.mdb-lock",
	    "state.mdb", "state.mdb-lock"};
	char path[128];

	for (size_t i = 0; i < sizeof file / sizeof *file; i++) {
		(void)snprintf(path, sizeof path, "%s/%s", dir, file[i]);
		(void)unlink(path);
	}
	if (rmdir(dir) < 0)
		printf("left: %s\n", dir);
}

/* How this daemon ends, and when: now and then before it has begun. */
static void
draw_fate(uint64_t *rng, enum fate *fate, uint32_t *us)
{
	static const enum fate fates[10] = {FATE_REST, FATE_REST, FATE_REST_CLEAN, FATE_MASTER,
	    FATE_MASTER, FATE_MASTER, FATE_ALL, FATE_ALL, FATE_REBOOT, FATE_REBOOT};

	*fate = fates[storm_draw(rng, 10)];
	*us = storm_draw(rng, 2) == 0 && *fate > FATE_REST_CLEAN ? storm_draw(rng, 10000)
								  : storm_draw(rng, 800000);
}

int
main(int argc, char **argv)
{
	uint64_t seed = 1, ops = UINT64_MAX, rng, start_us = supervise_now_us();
	double seconds = 10;

	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc) {
			seed = strtoull(argv[++i], NULL, 10);
		} else if (strcmp(argv[i], "--ops") == 0 && i + 1 < argc) {
			ops = strtoull(argv[++i], NULL, 10);
			seconds = 3600;
		} else if (strcmp(argv[i], "--seconds") == 0 && i + 1 < argc) {
			seconds = strtod(argv[++i], NULL);
		} else {
			fprintf(stderr, "usage: storm [--seed N] [--ops N] [--seconds S]\n");
			return 2;
		}
	}
	set_up(seed);
	rng = storm_mix(seed);
	while (!atomic_load(&told->failed)) {
		double so_far = (double)(supervise_now_us() - start_us) / 1e6;
		enum fate fate;
		uint32_t us;

		draw_fate(&rng, &fate, &us);
		if (storm_ops() >= ops || so_far >= seconds) {
			told->last = true;
			one_daemon(FATE_REST, 10000);
			break;
		}
		one_daemon(fate, us);
	}
	report(seed, (double)(supervise_now_us() - start_us) / 1e6);
	if (atomic_load(&told->failed)) {
		printf("FAILED, seed %llu, daemon %u: %s\n", (unsigned long long)seed,
		    atomic_load(&told->life), told->difference);
		show_log();
		if (getenv("STORM_KEEP") == NULL)
			clear();
		return 1;
	}
	clear();
	return 0;
}
