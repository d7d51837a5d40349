/*
 * Goal:   whatever is killed at whatever moment, under full load: the floor holds at every
 *         instant; at rest nothing is held, every acknowledged operation is there exactly once,
 *         every stream was charged what its meter said, and the audit agrees.
 * Method: daemons made of the real keeper, the real supervisor and reaper, the real ledger, and
 *         stand-in workers and admin (player_*.c), one after the other on the same state_dir.
 *         Within a daemon its children are SIGKILLed at random moments; then the daemon ends by a
 *         kill of its master, of all at once, with its region left over or thrown away (a
 *         reboot), or comes to rest and is examined (examine.c).
 *
 *     storm [--seed N] [--ops N] [--seconds S]
 *
 * Some streams are under a key's cap, some accounts have budgets: in memory and in the journal no
 * more is used of one than it is, at any instant, and at rest memory says what the journal does.
 *
 * The admin stands for operators as well (player_operator.c): settings, closing, keys, prices,
 * letters to workers.  Workers and keepers are replaced while they run, as in an upgrade.  Days and
 * months end in the midst of it (clock.c).  Now and then a keeper's disk fails (disk.c).
 *
 * The seed fixes every decision: which process does what next, who is killed, after how long, how
 * each daemon ends.  How the processes interleave is the kernel's, so a seed that failed is likely
 * to fail again, not certain.
 *
 * objs: daemon/keeper.o daemon/compact_make.o daemon/title.o daemon/compact.o daemon/keeper_batch.o daemon/recover.o daemon/keeper_prices.o daemon/audit.o daemon/proof.o daemon/checkpoint.o daemon/books_rows.o daemon/state.o daemon/state_job.o daemon/state_streams.o daemon/state_read.o daemon/journal.o daemon/journal_file.o daemon/journal_compact.o daemon/journal_chain.o daemon/journal_read.o daemon/books.o daemon/books_refs.o daemon/books_apply.o daemon/books_check.o daemon/metrics.o daemon/buf.o daemon/log.o daemon/utf8.o daemon/supervise.o shm/money.o shm/account.o shm/region.o shm/ring.o shm/hold.o shm/ledger.o shm/seat.o shm/claim.o shm/reap.o shm/mail.o shm/wake.o daemon/keeper_gone.o daemon/keeper_refs.o daemon/keeper_project.o daemon/projector.o shm/purse.o daemon/books_caps.o daemon/journal_history.o daemon/keeper_history.o daemon/journal_history_read.o daemon/journal_receipts.o
 * objs: daemon/order.o daemon/version.o daemon/renew.o daemon/config_record.o daemon/config.o
 * objs: daemon/config_file.o daemon/config_text.o daemon/config_value.o daemon/config_jwt.o
 * objs: daemon/config_check.o daemon/config_source.o daemon/config_change.o daemon/auth_scope.o
 * objs: daemon/secret.o daemon/address.o daemon/calibrate.o daemon/tokenizer.o
 * objs: daemon/tokenizer_stream.o daemon/tokenizer_merge.o daemon/tokenizer_split.o
 * objs: daemon/tokenizer_class.o daemon/tokenizer_table.o
 */
#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "daemon/supervise.h"
#include "shm/clock.h"
#include "tests/storm/daemon.h"
#include "tests/storm/told.h"

#define REST_SECONDS 60 /* by then a daemon that was told to end has done it */

static char dir[64], log_path[96];

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
		told_killed(KILL_MASTER_RECOVERY);
	if (atomic_load(&told->reaping))
		told_killed(KILL_WHILE_REAPING);
	/* Not waited for yet: neither its id nor its group's is anyone else's. */
	(void)kill(fate == FATE_MASTER ? pid : -pid, SIGKILL);
	told_killed(fate == FATE_MASTER ? KILL_MASTER : fate == FATE_ALL ? KILL_ALL : KILL_REBOOT);
	(void)waitpid(pid, NULL, 0);
	reap_orphans();
	if (fate == FATE_REBOOT)
		daemon_reboot();
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
		told_killed(KILL_AT_POINT); /* a named one: nobody else would */
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
		_exit(daemon_run(fate == FATE_REST));
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
	    "reboot", "who leaves", "master at a named point"};
	static const char *const op_name[OP_KINDS] = {"reserves", "refused for credit", "by a cap", "by a budget",
	    "extends",
	    "overdraws", "meter", "marks", "settles", "voids", "top-ups", "repeated refs",
	    "adjustments", "syncs", "compactions", "settings", "of budgets",
	    "accounts closed", "keys", "revocations", "prices set",
	    "keys refused", "letters", "streams ended by mail", "with a key", "repeated", "waited",
	    "asked about"};
	static const char *const disk_name[DISK_KINDS] = {"full", "write errors", "half writes",
	    "flush errors", "slow"};

	printf("seed %llu: %llu operations, %u streams, %u daemons, %llu examined at rest, "
	       "%llu looks at the floor, %llu processes started, %llu checkpoints seen, %.1f s\n",
	    (unsigned long long)seed, (unsigned long long)storm_ops(),
	    atomic_load(&told->streams), atomic_load(&told->life),
	    (unsigned long long)atomic_load(&told->rests),
	    (unsigned long long)atomic_load(&told->looks),
	    (unsigned long long)atomic_load(&told->spawned),
	    (unsigned long long)atomic_load(&told->compacted), seconds);
	printf("operations:");
	for (int i = 0; i < OP_KINDS; i++)
		printf(" %s %llu%s", op_name[i], (unsigned long long)atomic_load(&told->ops[i]),
		    i < OP_KINDS - 1 ? "," : "\n");
	printf("replaced: workers %llu, keepers %llu; midnights %llu\n",
	    (unsigned long long)atomic_load(&told->replaced),
	    (unsigned long long)atomic_load(&told->renewed),
	    (unsigned long long)atomic_load(&told->midnights));
	printf("keepers with a failing disk:");
	for (int i = 0; i < DISK_KINDS; i++)
		printf(" %s %llu%s", disk_name[i], (unsigned long long)atomic_load(&told->disk[i]),
		    i < DISK_KINDS - 1 ? "," : "\n");
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
	(void)snprintf(log_path, sizeof log_path, "%s/log", dir);
	daemon_init(dir);
	(void)prctl(PR_SET_CHILD_SUBREAPER, 1);
	if (freopen(log_path, "a", stderr) == NULL)
		exit(2);
}

static void
clear(void)
{
	DIR *d = opendir(dir);
	struct dirent *e;

	/* Also what a kill left of files that were being made. */
	while (d != NULL && (e = readdir(d)) != NULL)
		(void)unlinkat(dirfd(d), e->d_name, 0);
	if (d != NULL)
		(void)closedir(d);
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
	uint64_t seed = 1, ops = UINT64_MAX, rng, start_us = monotonic_us();
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
		double so_far = (double)(monotonic_us() - start_us) / 1e6;
		enum fate fate;
		uint32_t us;

		draw_fate(&rng, &fate, &us);
		if (storm_ops() >= ops || so_far >= seconds) {
			told->last = true;
			one_daemon(FATE_REST, 10000);
			break;
		}
		one_daemon(fate, us);
		if (fate <= FATE_REST_CLEAN)
			clock_begin(&rng);
	}
	report(seed, (double)(monotonic_us() - start_us) / 1e6);
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
