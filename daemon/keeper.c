/*
 * The keeper process: the only writer of LMDB.  It takes records from all rings, commits them in
 * one transaction and says that they are durable (keeper_batch.c).  One flush serves all who came
 * meanwhile.  Beside that a thread of its own brings state.mdb up to date (keeper_project.c).
 */
#include "daemon/keeper.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "daemon/compact.h"
#include "daemon/log.h"
#include "daemon/metrics.h"
#include "daemon/order.h"
#include "daemon/renew.h"
#include "shm/clock.h"
#include "shm/ring.h"
#include "shm/wake.h"

/* The projection waits so long: who is alone would otherwise find the disk flushing state.mdb. */
#define PROJECT_IDLE_MS 20
#define HEARTBEAT_MS 250
/*
 * Under load a commit waits for company: until as many records have come as the last one had, but
 * no longer than this after it.  Who is alone never waits.  (Without it the same load makes twice
 * the commits, each nearly as dear as one of twice the size.)
 */
#define GATHER_US 1000
#define GATHER_MIN 4 /* a batch of fewer is no load */
#define GATHER_STEP_US 50
/* Between two commits of a compaction's or the history's own: whoever comes meanwhile goes first. */
#define OWN_PAUSE_MS 1
/* After the disk failed: how long until it is tried again. */
#define RETRY_MS 500

uint64_t
keeper_realtime_us(void)
{
	return clock_us(CLOCK_REALTIME);
}

/* The process. */

void
keeper_heartbeat(struct keeper *k)
{
	log_tick();
	k->now_us = monotonic_us();
	/* Our own would hide that the other thread has none. */
	if (keeper_project_hangs(k))
		return;
	/* Relaxed: the master compares it with the clock. */
	atomic_store_explicit(&region_proc(k->region, PROC_KEEPER)->heartbeat_us, k->now_us,
	    memory_order_relaxed);
}

/* Was CHILD_SIG_STOP sent? */
static void
look_for_stop(struct keeper *k)
{
	struct signalfd_siginfo info;

	if (read(k->signal_fd, &info, sizeof info) == (ssize_t)sizeof info)
		k->stop = true;
}

/* Wait for work, a signal or the time. */
static void
sleep_for(struct keeper *k, int ms)
{
	int fd = k->heritage->wake_fd[PROC_KEEPER];
	struct pollfd fds[] = {{.fd = k->signal_fd, .events = POLLIN},
	    {.fd = fd, .events = POLLIN}, {.fd = compact_fd(k), .events = POLLIN},
	    {.fd = projector_fd(k->projector), .events = POLLIN},
	    {.fd = k->heritage->order_theirs[PROC_KEEPER], .events = POLLIN}};

	wake_prepare(k->region, PROC_KEEPER);
	if (!keeper_due(k))
		(void)poll(fds, sizeof fds / sizeof *fds, ms); /* an error is as good as a wake-up */
	wake_done(k->region, PROC_KEEPER, fd);
	look_for_stop(k);
}

/*
 * Another config is there: its prices first.  -1: the disk failed, as with any commit.  Not while
 * a batch is under way: what was judged by one config is committed by it.
 */
static int
renew(struct keeper *k)
{
	static struct order_received order;
	struct heritage *h = k->heritage;

	while (order_receive(h->order_theirs[PROC_KEEPER], &order) == 1) {
		struct config *next = renew_make(h, PROC_KEEPER, &order), *old = h->config;
		uint64_t last = journal_last(k->journal);
		bool good;

		if (next == NULL)
			continue;
		h->config = next;
		good = keeper_prices_enter(k) == 0;
		h->config = old;
		if (good && keeper_commit_own(k) < 0) {
			config_free(next);
			return -1;
		}
		if (good && journal_last(k->journal) > last)
			k->committed_us = monotonic_us();
		h->config = good ? next : old;
		if (good && keeper_prices_show(k, false) < 0)
			return -1;
		h->config = old;
		renew_done(h, PROC_KEEPER, next, order.order.generation, good);
	}
	return 0;
}

/* A look at what is shared before one at the socket: the keeper may never sleep under load. */
static bool
is_offered(struct keeper *k)
{
	/* Acquire, pairs with the master's release: the order is there. */
	uint32_t offered =
	    atomic_load_explicit(&k->region->h->config.offered, memory_order_acquire);

	if (offered == k->offered)
		return false;
	k->offered = offered;
	return true;
}

static void
gather(const struct keeper *k)
{
	const struct timespec step = {0, GATHER_STEP_US * 1000};
	uint64_t until = k->committed_us + GATHER_US;

	while (k->batch_records >= GATHER_MIN && keeper_waiting(k) < k->batch_records &&
	    monotonic_us() < until)
		(void)clock_nanosleep(CLOCK_MONOTONIC, 0, &step, NULL);
}

/* What is done beside the acknowledging path; -1 if the disk failed. */
static int
tend(struct keeper *k, bool idle)
{
	/* Between the end of one job and the start of the next: a fork finds the thread at rest. */
	if (keeper_projected(k) < 0 || compact_tend(k, idle) < 0 ||
	    keeper_history_tend(k, idle) < 0)
		return -1;
	keeper_project(k, idle && k->now_us - k->committed_us >= PROJECT_IDLE_MS * 1000);
	return 0;
}

static int
idle_ms(const struct keeper *k)
{
	if (k->taking)
		return 0;
	if (compact_busy(k) || keeper_history_busy(k))
		return OWN_PAUSE_MS;
	return keeper_unprojected(k) > 0 && !projector_busy(k->projector) ? PROJECT_IDLE_MS
									  : HEARTBEAT_MS;
}

/* All is committed and nothing more will come: 1 if a ring was held up by a SYNC.  -1: the disk. */
static int
finish(struct keeper *k)
{
	bool more = keeper_syncing(k);

	return keeper_project_all(k) < 0 ? -1 : more;
}

/* 0: stopped, or the master is gone; -1: the disk failed. */
static int
serve(struct keeper *k)
{
	pid_t parent = getppid();

	/* A keeper before us may have been told to hurry, and died. */
	k->due = k->serving = true;
	for (;;) {
		int done;

		keeper_heartbeat(k);
		done = 0;
		if (is_offered(k) && renew(k) < 0)
			return -1;
		if (keeper_due(k)) {
			gather(k);
			done = keeper_batch(k);
		}
		if (done < 0)
			return -1;
		if (k->stop && done == 0 && (done = finish(k)) <= 0)
			return done;
		/* Again: the commit's end, which ages are counted from, is later than the round's
		 * beginning. */
		keeper_heartbeat(k);
		if (tend(k, done == 0) < 0)
			return -1;
		if (done == 0)
			sleep_for(k, idle_ms(k));
		if (getppid() != parent) {
			log_warnx("the master is gone");
			return 0;
		}
	}
}

static int
signals(struct keeper *k)
{
	sigset_t set;

	/* It stops last, when nobody is left to hand it anything. */
	if (signal(CHILD_SIG_DRAIN, SIG_IGN) == SIG_ERR)
		return -1;
	(void)sigemptyset(&set);
	(void)sigaddset(&set, CHILD_SIG_STOP);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
		return -1;
	k->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return k->signal_fd < 0 ? -1 : 0;
}

/* The disk said no.  Wait before it is tried again. */
static void
wait_for_disk(struct keeper *k)
{
	struct pollfd fd = {.fd = k->signal_fd, .events = POLLIN};

	/* Relaxed: a report, and what keeps new requests away. */
	atomic_store_explicit(&k->region->h->journal_ok, 0, memory_order_relaxed);
	(void)poll(&fd, 1, RETRY_MS);
	keeper_heartbeat(k);
	look_for_stop(k);
}

/* Until the journal opens.  -1: told to stop, or trying again does not help. */
static int
open_journal(struct keeper *k)
{
	const char *why;
	bool said = false, hopeless = false;

	while ((k->journal = journal_open(k->heritage->config->state_dir, 0, &why)) == NULL) {
		hopeless = errno == EINVAL;
		if (!said)
			log_warnx("journal.mdb: %s", why);
		said = true;
		wait_for_disk(k);
		if (k->stop || hopeless)
			return -1;
	}
	return 0;
}

static int
run(struct keeper *k)
{
	struct region_header *h = k->region->h;

	/* Relaxed: a keeper before us wrote it, and it is dead.  It ended by the disk: not at
	 * once again. */
	if (atomic_load_explicit(&h->filled, memory_order_relaxed) != 0 &&
	    atomic_load_explicit(&h->journal_ok, memory_order_relaxed) == 0)
		wait_for_disk(k);
	if (k->stop || open_journal(k) < 0)
		return -1;
	keeper_history_begin(k);
	if (recover_books(k) < 0 || recover_region(k) < 0) {
		wait_for_disk(k);
		return -1;
	}
	/* If somebody waits already, the first batch has to show it. */
	if (!keeper_due(k))
		atomic_store_explicit(&h->journal_ok, 1, memory_order_relaxed);
	keeper_heartbeat(k);
	k->swept_us = k->now_us;
	if (keeper_unprojected(k) > 0)
		k->unprojected_us = k->now_us;
	compact_begin(k);
	/* Release, pairs with the master's look: the prices of this config are there. */
	atomic_store_explicit(&region_proc(k->region, PROC_KEEPER)->config, k->heritage->generation,
	    memory_order_release);
	wake(k->region, PROC_MASTER, k->heritage->wake_fd[PROC_MASTER]);
	if (serve(k) < 0) {
		atomic_store_explicit(&h->journal_ok, 0, memory_order_relaxed);
		return -1;
	}
	return 0;
}

int
keeper_main(struct heritage *heritage)
{
	struct keeper *k = calloc(1, sizeof *k);
	int status;

	log_set_proc("keeper");
	if (k == NULL)
		fatal("keeper");
	k->heritage = heritage;
	k->region = &heritage->region;
	metrics_init(k->region, PROC_KEEPER);
	/* The kernel rounds a sleep up by 50 us otherwise: as much as one of gather()'s steps. */
	(void)prctl(PR_SET_TIMERSLACK, 1000);
	if (signals(k) < 0)
		fatal("keeper: signals");
	status = run(k) < 0 && !k->stop ? 1 : 0;
	compact_end(k);
	keeper_project_end(k);
	books_free(k->books);
	state_close(k->state);
	journal_close(k->journal);
	buf_free(&k->payload);
	close(k->signal_fd);
	free(k);
	return status;
}
