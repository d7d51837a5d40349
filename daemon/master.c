/*
 * The master: one small loop over signals, one eventfd and what the admin process passes on.  It
 * parses nothing that a peer sent, allocates nothing once it runs (but for a reload), and never
 * waits for a child.
 *
 * Its life is a row of phases; each says what must have happened before the next begins.
 */
#include "daemon/master.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/heritage.h"
#include "daemon/legacy.h"
#include "daemon/log.h"
#include "daemon/log_file.h"
#include "daemon/log_journal.h"
#include "daemon/notify.h"
#include "daemon/order.h"
#include "daemon/reload.h"
#include "daemon/sandbox.h"
#include "daemon/setup.h"
#include "daemon/sockets.h"
#include "daemon/supervise.h"
#include "daemon/takeover.h"
#include "daemon/title.h"
#include "daemon/tokenizer.h"
#include "daemon/version.h"
#include "shm/clock.h"
#include "shm/ring.h"
#include "shm/wake.h"

#define SECOND_US UINT64_C(1000000)
#define STOP_US_MAX (5 * SECOND_US) /* from "stop now" to SIGKILL */
#define REAP_US_MAX (10 * SECOND_US) /* from there until the keeper counts as stuck */
#define ORDERS_MAX 16
#define KEEPER_TRIES_MAX 5 /* exits by itself before it has loaded the books */
/* How often to look without being woken, in case a keeper dies between its work and its wake. */
#define LOOK_US UINT64_C(50000)

enum phase {
	PHASE_LOAD,         /* the keeper fills the tables; nobody else runs */
	PHASE_RECOVER,      /* a former daemon's holds are being finished */
	PHASE_SERVE,        /* all run */
	PHASE_DRAIN,        /* workers finish what runs; ends when all are gone, or in time */
	PHASE_STOP_WORKERS, /* workers settle at once; ends when all are gone and reaped */
	PHASE_STOP_ADMIN,   /* ends when it is gone and reaped */
	PHASE_STOP_KEEPER,  /* ends when it is gone and all records are durable */
	PHASE_CLEAN,        /* all holds closed, all records durable: the end */
	PHASE_UNFINISHED,   /* the end, too; the next start has something to recover */
};

static const char *const phase_name[] = { "load", "recover", "serve", "drain", "stop workers",
	"stop admin", "stop keeper", "clean", "unfinished" };

struct master {
	struct setup up;
	struct heritage *h; /* up.heritage */
	struct supervisor s;
	struct reload reload;
	struct takeover takeover;
	enum phase phase;
	uint64_t deadline_us; /* of the phase; UINT64_MAX: none */
	uint64_t started_us;
	bool killed;           /* this phase has used SIGKILL */
	bool keeper_told;      /* to stop */
	unsigned keeper_again; /* times it had to be started for its last commit */
	uint64_t watchdog_us;  /* how often the service manager is told that we live; 0: never */
	uint64_t told_us;
	bool leave;            /* an end was asked for before there was anyone to serve */
	bool failed;           /* the start failed, though nothing is left behind */
};

/* Phases. */

static void
enter(struct master *m, enum phase phase, uint64_t us_max)
{
	log_event(LOG_DEBUG, "phase", "from", phase_name[m->phase], "to", phase_name[phase], NULL);
	m->phase = phase;
	m->killed = false;
	m->deadline_us = us_max == UINT64_MAX ? UINT64_MAX : monotonic_us() + us_max;
}

static void
log_ready(const struct master *m)
{
	char workers[16], ms[24];
	snprintf(workers, sizeof(workers), "%u", (unsigned)(m->up.workers_end - PROC_WORKER));
	snprintf(ms, sizeof(ms), "%llu",
	    (unsigned long long)(monotonic_us() - m->started_us) / 1000);
	log_event(LOG_INFO, "ready", "version", tolld_version, "workers", workers, "listen",
	    m->h->config->listen[0], "startup_ms", ms, NULL);
}

static void
enter_stop_workers(struct master *m)
{
	supervise_kill(&m->s, PROC_WORKER, m->s.procs, CHILD_SIG_STOP);
	enter(m, PHASE_STOP_WORKERS, STOP_US_MAX);
}

static void
set_draining(struct master *m, uint32_t how)
{
	/* Relaxed: a flag that is looked at now and then. */
	atomic_store_explicit(&m->h->region.h->draining, how, memory_order_relaxed);
}

/* An operator keeps new work away, and later not any more. */
static void
keep_draining(struct master *m, bool on)
{
	if (m->phase != PHASE_SERVE)
		return; /* nobody is served, or nobody will be */
	log_event(LOG_INFO, on ? "draining: nothing new is taken until it is resumed"
	                       : "taking requests again", NULL);
	set_draining(m, on ? REGION_DRAIN_KEEP : REGION_DRAIN_NONE);
}

/* The end has been asked for: tell all who run. */
static void
enter_shutdown(struct master *m, bool drain)
{
	log_event(LOG_INFO, drain ? "draining" : "stopping", NULL);
	notify("STOPPING=1");
	set_draining(m, REGION_DRAIN_END);
	/* Now the workers' copies are the only ones: closing one refuses new connections. */
	sockets_stop_listening(m->h);
	supervise_unwant(&m->s, PROC_WORKER, m->s.procs);
	if (!drain) {
		enter_stop_workers(m);
		return;
	}
	supervise_kill(&m->s, PROC_WORKER, m->s.procs, CHILD_SIG_DRAIN);
	enter(m, PHASE_DRAIN, m->h->config->timeouts.drain * SECOND_US);
}

/* Before there is anyone to serve, a stop is short. */
static void
ask_shutdown(struct master *m, bool drain)
{
	switch (m->phase) {
	case PHASE_LOAD:
	case PHASE_RECOVER:
		m->leave = true;
		m->deadline_us = monotonic_us() + STOP_US_MAX; /* RECOVER's */
		break;
	case PHASE_SERVE:
		enter_shutdown(m, drain);
		break;
	case PHASE_DRAIN:
		log_info("told again: stopping now");
		enter_stop_workers(m);
		break;
	default:
		break; /* it is as quick as can be already */
	}
}

/* Nobody left in [first, end)?  Past the deadline: first SIGKILL, then no further hope. */
static bool
all_gone(struct master *m, uint32_t first, uint32_t end)
{
	if (supervise_left(&m->s, first, end) == 0)
		return true;
	if (monotonic_us() < m->deadline_us)
		return false;
	if (!m->killed) {
		log_warnx("killing %u processes that did not stop in time",
		    supervise_left(&m->s, first, end));
		supervise_kill(&m->s, first, end, SIGKILL);
		m->killed = true;
		m->deadline_us = monotonic_us() + REAP_US_MAX;
		return false;
	}
	log_event(LOG_ERROR, "holds cannot be finished now: left to the next start", NULL);
	enter(m, PHASE_UNFINISHED, UINT64_MAX);
	return false;
}

static void
step_load(struct master *m)
{
	const struct child *keeper = &m->s.child[PROC_KEEPER];
	if (m->leave) {
		/* Unrecovered holds are no clean end; without any there is nothing to keep. */
		supervise_unwant(&m->s, PROC_KEEPER, PROC_KEEPER + 1);
		enter(m, m->h->region.leftover ? PHASE_UNFINISHED : PHASE_STOP_KEEPER, STOP_US_MAX);
		return;
	}
	/* Acquire, pairs with the keeper's release: the tables are filled, by this keeper. */
	if (atomic_load_explicit(&m->h->region.h->filled, memory_order_acquire) !=
	    REGION_FILLED) {
		if (keeper->state == CHILD_WAITING && keeper->starts >= KEEPER_TRIES_MAX &&
		    WIFEXITED(keeper->status)) {
			log_event(LOG_ERROR, "the keeper cannot load the journal", NULL);
			m->failed = true;
			enter(m, m->h->region.leftover ? PHASE_UNFINISHED : PHASE_CLEAN,
			    UINT64_MAX);
		}
		return;
	}
	for (uint32_t p = PROC_ADMIN; m->h->region.leftover && p < m->s.procs; p++)
		supervise_leftover(&m->s, p);
	enter(m, PHASE_RECOVER, UINT64_MAX);
}

static void
step_recover(struct master *m)
{
	if (supervise_left(&m->s, PROC_ADMIN, m->s.procs) > 0) {
		if (m->leave && monotonic_us() >= m->deadline_us)
			enter(m, PHASE_UNFINISHED, UINT64_MAX);
		return;
	}
	if (m->h->region.leftover)
		log_info("recovered");
	if (m->leave) {
		enter(m, PHASE_STOP_KEEPER, STOP_US_MAX);
		return;
	}
	supervise_want(&m->s, PROC_ADMIN, PROC_ADMIN + 1);
	supervise_want(&m->s, PROC_WORKER, m->up.workers_end);
	supervise_step(&m->s); /* "ready" means that they are there */
	enter(m, PHASE_SERVE, UINT64_MAX);
	log_ready(m);
	notify("READY=1");
}

static bool
all_durable(const struct master *m)
{
	for (uint32_t p = PROC_ADMIN; p < m->s.procs; p++) {
		const struct ring *ring = region_ring(&m->h->region, p);
		if (ring_durable(ring) < ring_head(ring))
			return false;
	}
	return true;
}

static void
step_stop_keeper(struct master *m)
{
	struct child *keeper = &m->s.child[PROC_KEEPER];
	if (keeper->state == CHILD_RUNNING) {
		if (!m->keeper_told) {
			supervise_unwant(&m->s, PROC_KEEPER, PROC_KEEPER + 1);
			supervise_kill(&m->s, PROC_KEEPER, PROC_KEEPER + 1, CHILD_SIG_STOP);
			m->keeper_told = true;
			m->deadline_us = monotonic_us() + STOP_US_MAX;
		} else if (monotonic_us() >= m->deadline_us) {
			log_warnx("killing the keeper, which did not stop in time");
			supervise_kill(&m->s, PROC_KEEPER, PROC_KEEPER + 1, SIGKILL);
			m->deadline_us = UINT64_MAX;
		}
		return;
	}
	m->deadline_us = UINT64_MAX;
	if (all_durable(m)) {
		enter(m, PHASE_CLEAN, UINT64_MAX);
	} else if (keeper->state == CHILD_NONE && m->keeper_again++ < 3) {
		/* It died before its last commit: the next one makes that. */
		m->keeper_told = false;
		supervise_want(&m->s, PROC_KEEPER, PROC_KEEPER + 1);
	} else if (keeper->state == CHILD_NONE) {
		log_event(LOG_ERROR, "the last records are not durable", NULL);
		enter(m, PHASE_UNFINISHED, UINT64_MAX);
	}
}

static void
step_phase(struct master *m)
{
	switch (m->phase) {
	case PHASE_LOAD:
		step_load(m);
		break;
	case PHASE_RECOVER:
		step_recover(m);
		break;
	case PHASE_DRAIN:
		if (supervise_left(&m->s, PROC_WORKER, m->s.procs) == 0 ||
		    monotonic_us() >= m->deadline_us)
			enter_stop_workers(m);
		break;
	case PHASE_STOP_WORKERS:
		if (!all_gone(m, PROC_WORKER, m->s.procs))
			break;
		supervise_unwant(&m->s, PROC_ADMIN, PROC_ADMIN + 1);
		supervise_kill(&m->s, PROC_ADMIN, PROC_ADMIN + 1, CHILD_SIG_STOP);
		enter(m, PHASE_STOP_ADMIN, STOP_US_MAX);
		break;
	case PHASE_STOP_ADMIN:
		if (all_gone(m, PROC_ADMIN, PROC_ADMIN + 1))
			enter(m, PHASE_STOP_KEEPER, STOP_US_MAX);
		break;
	case PHASE_STOP_KEEPER:
		step_stop_keeper(m);
		break;
	case PHASE_SERVE:
	case PHASE_CLEAN:
	case PHASE_UNFINISHED:
		break;
	}
}

/* Signals. */

static void
read_signals(struct master *m)
{
	struct signalfd_siginfo si;
	while (read(m->up.signal_fd, &si, sizeof(si)) == (ssize_t)sizeof(si)) {
		switch ((int)si.ssi_signo) {
		case SIGCHLD:
			break; /* several may have become one: the loop asks for all */
		case SIGTERM:
			ask_shutdown(m, true);
			break;
		case SIGINT:
		case SIGQUIT:
			ask_shutdown(m, false);
			break;
		case SIGHUP:
			reload_ask(&m->reload, 0);
			break;
		case SIGUSR1:
			log_file_reopen();
			break;
		case SIGUSR2:
			takeover_ask(&m->takeover);
			break;
		default:
			break;
		}
	}
}

/* What operators ask for by way of the admin process. */
static void
read_orders(struct master *m)
{
	static struct order_received r;
	/* So many a turn: whatever has become of that process, it must not keep us busy. */
	for (int i = 0; i < ORDERS_MAX && order_receive(m->h->order_ours[PROC_ADMIN], &r) == 1;
	    i++) {
		order_close(&r);
		switch ((enum order_kind)r.order.kind) {
		case ORDER_RELOAD:
			reload_ask(&m->reload, r.order.number);
			break;
		case ORDER_DRAIN:
			if (m->phase == PHASE_SERVE)
				ask_shutdown(m, true);
			break;
		case ORDER_KEEP:
		case ORDER_RESUME:
			keep_draining(m, r.order.kind == ORDER_KEEP);
			break;
		default:
			break;
		}
	}
}

static void
other_ended(void *arg, pid_t pid, int status)
{
	struct master *m = arg;
	if (!reload_ended(&m->reload, pid, status))
		(void)takeover_ended(&m->takeover, pid, status);
}

/* Who was sent there while its worker was on its way out finds another one. */
static void
slot_emptied(void *arg, uint32_t proc)
{
	struct master *m = arg;
	if (proc < PROC_WORKER || m->phase != PHASE_SERVE)
		return;
	for (uint32_t p = PROC_WORKER; p < m->s.procs; p++)
		if (m->s.child[p].wanted) {
			sockets_forward(m->h, proc, p);
			return;
		}
}

static int
wait_ms(const struct master *m)
{
	uint64_t now = monotonic_us(), next = supervise_next_us(&m->s);
	if (m->deadline_us < next)
		next = m->deadline_us;
	if (reload_next_us(&m->reload) < next)
		next = reload_next_us(&m->reload);
	if (takeover_next_us(&m->takeover) < next)
		next = takeover_next_us(&m->takeover);
	if (m->watchdog_us > 0 && m->told_us + m->watchdog_us < next)
		next = m->told_us + m->watchdog_us;
	if ((m->phase == PHASE_LOAD || supervise_reaping(&m->s)) && now + LOOK_US < next)
		next = now + LOOK_US;
	if (next == UINT64_MAX)
		return -1;
	if (next <= now)
		return 0;
	return next - now > 60 * SECOND_US ? 60000 : (int)((next - now + 999) / 1000);
}

static void
tell_watchdog(struct master *m)
{
	uint64_t now = monotonic_us();
	if (m->watchdog_us == 0 || now < m->told_us + m->watchdog_us)
		return;
	m->told_us = now;
	notify("WATCHDOG=1");
}

/* One after the other: a reload that is asked for first is carried out first. */
static void
step_changes(struct master *m)
{
	bool serve = m->phase == PHASE_SERVE, alive = m->phase <= PHASE_SERVE;
	enum reload_state reload;
	enum takeover_state takeover;
	/* Again: what one's end lets begin would otherwise wait for the next event. */
	do {
		reload = m->reload.state;
		takeover = m->takeover.state;
		reload_step(&m->reload, serve && !takeover_pending(&m->takeover), alive);
		takeover_step(&m->takeover, serve && !reload_pending(&m->reload), alive);
	} while (m->reload.state != reload || m->takeover.state != takeover);
}

static void
loop(struct master *m)
{
	struct pollfd poll_fd[] = {
		{ .fd = m->up.signal_fd, .events = POLLIN },
		{ .fd = m->h->wake_fd[PROC_MASTER], .events = POLLIN },
		{ .fd = m->h->order_ours[PROC_ADMIN], .events = POLLIN },
	};
	for (;;) {
		enum phase before;
		/* First "I sleep", then a look at everything: a keeper that finds us awake sees
		 * to it that we look once more. */
		log_tick();
		wake_prepare(&m->h->region, PROC_MASTER);
		tell_watchdog(m);
		read_signals(m);
		read_orders(m);
		supervise_collect(&m->s);
		do {
			before = m->phase;
			supervise_step(&m->s);
			step_phase(m);
		} while (m->phase != before);
		step_changes(m);
		if (m->phase == PHASE_CLEAN || m->phase == PHASE_UNFINISHED)
			return;
		if (poll(poll_fd, 3, wait_ms(m)) < 0 && errno != EINTR)
			log_warn("poll");
		wake_done(&m->h->region, PROC_MASTER, m->h->wake_fd[PROC_MASTER]);
	}
}

/* The end. */

/* Whoever is left after an unfinished end: they must not outlive us. */
static void
kill_all(struct master *m)
{
	supervise_unwant(&m->s, PROC_KEEPER, m->s.procs);
	supervise_kill(&m->s, PROC_KEEPER, m->s.procs, SIGKILL);
	for (uint32_t p = PROC_KEEPER; p < m->s.procs; p++)
		if (m->s.child[p].state == CHILD_RUNNING)
			while (waitpid(m->s.child[p].pid, NULL, 0) < 0 && errno == EINTR)
				;
}

static struct master *
new_master(const struct config *config)
{
	static struct master m; /* large, and children inherit it */
	memset(&m, 0, sizeof(m));
	m.h = &m.up.heritage;
	m.started_us = monotonic_us();
	m.watchdog_us = notify_watchdog_us();
	log_init("master", config->log_format, config->log_level);
	log_set_modules(config->log_module, (size_t)config->log_modules);
	if (!*config->log_file && log_journal_there() && log_journal_open(LOG_JOURNAL_SOCKET) < 0)
		log_warn("%s: the journal gets lines without fields", LOG_JOURNAL_SOCKET);
	title_set("tolld: master");
	return &m;
}

static void
init_parts(struct master *m)
{
	supervise_init(&m->s, m->h, &m->up.owner, m->up.signal_fd);
	m->s.other = other_ended;
	m->s.emptied = slot_emptied;
	m->s.arg = m;
	reload_init(&m->reload, m->h, &m->s);
	takeover_init(&m->takeover, &m->up, &m->s, &m->reload);
	tokenizer_keep_files(); /* what is opened later is for those who run already */
}

/* The loop, and the end; the exit status. */
static int
run(struct master *m)
{
	bool clean;
	loop(m);
	clean = m->phase == PHASE_CLEAN;
	kill_all(m);
	reload_close(&m->reload);
	takeover_close(&m->takeover);
	setup_close(&m->up, clean);
	if (clean)
		log_event(LOG_INFO, "ended", NULL);
	else
		log_event(LOG_ERROR, "ended with work left to the next start", NULL);
	config_free(m->h->config);
	return clean && !m->failed ? 0 : 1;
}

int
master_run(struct config *config, int record)
{
	struct master *m = new_master(config);
	if (config->log_texts)
		log_warnx("log_texts is on: what people ask and are told is written here");
	if (sandbox_prepare(config) < 0) {
		config_free(config);
		return 1;
	}
	if (setup_open(&m->up, config, record) < 0) {
		setup_close(&m->up, !m->h->region.leftover); /* one that we made is still empty */
		config_free(config);
		return 1;
	}
	init_parts(m);
	enter(m, PHASE_LOAD, UINT64_MAX);
	supervise_want(&m->s, PROC_KEEPER, PROC_KEEPER + 1);
	return run(m);
}

int
master_resume(const char *path, int fd)
{
	const char *why;
	const struct legacy *l = legacy_read(fd, &why);
	struct config *config;
	struct master *m;

	if (!l) {
		log_warnx("upgrade: %s", why);
		return 1;
	}
	config = legacy_config(l, path);
	if (!config)
		return 1;
	m = new_master(config);
	/* Without us the children end, and the next start recovers: that is all that is left. */
	if (sandbox_prepare(config) < 0 || setup_adopt(&m->up, config, l) < 0)
		return 1;
	init_parts(m);
	legacy_children(l, &m->s);
	m->phase = PHASE_SERVE;
	m->deadline_us = UINT64_MAX;
	takeover_begin(&m->takeover, l);
	if (l->reload)
		reload_ask(&m->reload, l->reload_number);
	log_event(LOG_INFO, "upgrade: taken over", "version", tolld_version, "from", l->program,
	    NULL);
	notify("READY=1");
	return run(m);
}
