/*
 * The master's children.  Master.
 *
 *   NONE --want--> WAITING --due--> RUNNING --death--> REAPING --all holds closed--> WAITING
 *                     ^                |(keeper: has no holds)                    or NONE
 *                     +----------------+
 *
 * A slot gets a new process only after the old one's holds are closed: they share the slot's
 * ring and holds.  Closing them needs the keeper (records must be durable), which therefore
 * never waits for anyone.
 */
#include "daemon/supervise.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include "daemon/log.h"
#include "daemon/metrics.h"
#include "daemon/spawn.h"
#include "daemon/version.h"
#include "shm/claim.h"
#include "shm/clock.h"
#include "shm/fault.h"
#include "shm/wake.h"

#define SECOND_US UINT64_C(1000000)
#define BACKOFF_US UINT64_C(100000)
#define BACKOFF_US_MAX (5 * SECOND_US)

static void
move(struct supervisor *s, uint32_t proc, enum child_state to)
{
	static const bool allowed[CHILD_STATES][CHILD_STATES] = {
		[CHILD_NONE] = { [CHILD_WAITING] = true, [CHILD_REAPING] = true },
		[CHILD_WAITING] = { [CHILD_RUNNING] = true, [CHILD_NONE] = true },
		[CHILD_RUNNING] = { [CHILD_REAPING] = true, [CHILD_WAITING] = true,
		    [CHILD_NONE] = true },
		[CHILD_REAPING] = { [CHILD_WAITING] = true, [CHILD_NONE] = true },
	};
	struct child *c = &s->child[proc];
	if (!allowed[c->state][to])
		log_warnx("process slot %u: no way from state %d to %d", (unsigned)proc,
		    (int)c->state, (int)to);
	c->state = to;
}

void
supervise_init(struct supervisor *s, struct heritage *h, const struct owner *owner, int signal_fd)
{
	memset(s, 0, sizeof(*s));
	s->heritage = h;
	s->owner = owner;
	s->signal_fd = signal_fd;
	s->procs = h->region.h->procs;
}

void
supervise_want(struct supervisor *s, uint32_t first, uint32_t end)
{
	for (uint32_t p = first; p < end; p++) {
		s->child[p].wanted = true;
		if (s->child[p].state == CHILD_NONE)
			move(s, p, CHILD_WAITING); /* due at once: start_us is 0 */
	}
}

void
supervise_unwant(struct supervisor *s, uint32_t first, uint32_t end)
{
	for (uint32_t p = first; p < end; p++) {
		s->child[p].wanted = false;
		if (s->child[p].state == CHILD_WAITING)
			move(s, p, CHILD_NONE);
	}
}

/* The slot's owner is dead, for certain: its holds are ours now. */
/* What a dead worker can't count any more; the slot's words may be forged, so only small sums. */
static void
count_ended(const struct hold *h)
{
	uint64_t now_us = realtime_us();

	if (h->model >= CONFIG_MODELS_MAX || h->outcome >= OUTCOME_MAX || h->actual < 0)
		return;
	metrics_stream(h->model, h->outcome,
	    h->reserved_us < now_us ? now_us - h->reserved_us : 0);
	metrics_tokens(h->model, TOKENS_PROMPT, h->voided ? 0 : h->settle_prompt);
	metrics_tokens(h->model, TOKENS_CACHED, h->voided ? 0 : h->settle_cached);
	metrics_tokens(h->model, TOKENS_COMPLETION, h->voided ? 0 : h->settle_completion);
	metrics_charged(h->model, h->actual, h->uncollected);
}

static void
start_reaping(struct supervisor *s, uint32_t proc)
{
	struct region *region = &s->heritage->region;
	struct proc_slot *slot = region_proc(region, proc);
	/* Relaxed: readers need no order among these; what is in the holds they never touch. */
	atomic_fetch_add_explicit(&slot->generation, 1, memory_order_relaxed);
	atomic_store_explicit(&slot->reaping, 1, memory_order_relaxed);
	atomic_store_explicit(&slot->pid, 0, memory_order_relaxed);
	atomic_store_explicit(&slot->streams, 0, memory_order_relaxed);
	atomic_store_explicit(&slot->leaving, 0, memory_order_relaxed);
	/* Full fence, pairs with the one in wake: either the keeper sees `reaping` and wakes us for
	 * what it publishes, or we see it published. */
	atomic_thread_fence(memory_order_seq_cst);
	reap_start(&s->child[proc].reap, region, proc, realtime_us());
	s->child[proc].reap.ended = count_ended;
	move(s, proc, CHILD_REAPING);
}

void
supervise_leave(struct supervisor *s, uint32_t proc)
{
	if (s->child[proc].state != CHILD_RUNNING)
		return;
	s->child[proc].leaving = true;
	atomic_store_explicit(
	    &region_proc(&s->heritage->region, proc)->leaving, 1, memory_order_relaxed);
}

void
supervise_leftover(struct supervisor *s, uint32_t proc)
{
	start_reaping(s, proc);
}

/* Only deaths soon after the start count against a slot, and the first of them is free. */
static void
set_restart(struct child *c, uint64_t now_us)
{
	uint64_t wait = 0;
	if (now_us - c->started_us >= SECOND_US) {
		c->quick = 0;
	} else if (++c->quick > 1) {
		wait = BACKOFF_US_MAX;
		if (c->quick - 2 < 6 && BACKOFF_US << (c->quick - 2) < wait)
			wait = BACKOFF_US << (c->quick - 2);
	}
	c->start_us = now_us + wait;
}

static void
log_death(const struct supervisor *s, uint32_t proc, uint64_t now_us)
{
	const struct child *c = &s->child[proc];
	bool well = (!c->wanted || c->leaving) && WIFEXITED(c->status) && WEXITSTATUS(c->status) == 0;
	char name[16], pid[16], how[64], lived[24], wait[24];
	snprintf(pid, sizeof(pid), "%d", (int)c->pid);
	if (WIFSIGNALED(c->status))
		snprintf(how, sizeof(how), "%d (%s)", WTERMSIG(c->status),
		    strsignal(WTERMSIG(c->status)));
	else
		snprintf(how, sizeof(how), "%d", WEXITSTATUS(c->status));
	snprintf(lived, sizeof(lived), "%llu", (unsigned long long)(now_us - c->started_us) / 1000);
	snprintf(wait, sizeof(wait), "%llu", (unsigned long long)(c->start_us - now_us) / 1000);
	log_event(well ? LOG_INFO : LOG_ERROR, well ? "process ended" : "process died", "process",
	    spawn_name(proc, name), "pid", pid, WIFSIGNALED(c->status) ? "signal" : "status", how,
	    "lived_ms", lived, "restart_in_ms", c->wanted ? wait : NULL, NULL);
}

static void
note_death(struct supervisor *s, uint32_t proc, int status)
{
	struct child *c = &s->child[proc];
	uint64_t now_us = monotonic_us();
	c->status = status;
	set_restart(c, now_us);
	log_death(s, proc, now_us);
	c->pid = 0;
	FAULT("master.told");
	if (proc != PROC_KEEPER) {
		start_reaping(s, proc);
		/* The end of the daemon does not wait for the keeper if nothing is held. */
		c->reap.last = !c->wanted && !c->leaving;
		FAULT("master.reaping");
		return;
	}
	struct proc_slot *slot = region_proc(&s->heritage->region, proc);
	atomic_fetch_add_explicit(&slot->generation, 1, memory_order_relaxed);
	atomic_store_explicit(&slot->pid, 0, memory_order_relaxed);
	move(s, proc, c->wanted ? CHILD_WAITING : CHILD_NONE);
}

void
supervise_collect(struct supervisor *s)
{
	int status;
	pid_t pid;
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0 || (pid < 0 && errno == EINTR)) {
		uint32_t p = PROC_KEEPER;
		while (p < s->procs &&
		       (s->child[p].state != CHILD_RUNNING || s->child[p].pid != pid))
			p++;
		if (pid > 0 && p < s->procs)
			note_death(s, p, status);
		/* A pid that is nobody's is an orphan that pid 1 of a container has inherited. */
		else if (pid > 0 && s->other)
			s->other(s->arg, pid, status);
	}
}

static void
start(struct supervisor *s, uint32_t proc, uint64_t now_us)
{
	struct child *c = &s->child[proc];
	struct proc_slot *slot = region_proc(&s->heritage->region, proc);
	char name[16], pid_text[16];
	atomic_store_explicit(&slot->bad, 0, memory_order_relaxed);
	/* The last one's says nothing of this one. */
	atomic_store_explicit(&slot->heartbeat_us, 0, memory_order_relaxed);
	atomic_store_explicit(&slot->connections, 0, memory_order_relaxed);
	atomic_store_explicit(&slot->started_s, realtime_us() / SECOND_US, memory_order_relaxed);
	atomic_store_explicit(&slot->restarts, c->starts, memory_order_relaxed);
	snprintf(slot->version, sizeof(slot->version), "%s", tolld_version);
	/* The keeper runs on a config once its prices are there: it says so itself. */
	atomic_store_explicit(&slot->config, proc == PROC_KEEPER ? 0 : s->heritage->generation,
	    memory_order_relaxed);
	atomic_store_explicit(&slot->config_refused, 0, memory_order_relaxed);
	atomic_store_explicit(&slot->leaving, 0, memory_order_relaxed);
	FAULT("master.respawning");
	pid_t pid = spawn(s->heritage, proc, s->owner, s->signal_fd);
	if (pid < 0) {
		log_warn("cannot start %s", spawn_name(proc, name));
		c->start_us = now_us + SECOND_US;
		return;
	}
	atomic_store_explicit(&slot->pid, (uint32_t)pid, memory_order_relaxed);
	FAULT("master.spawned");
	c->pid = pid;
	c->condemned = c->leaving = false;
	c->started_us = now_us;
	if (c->starts++ > 0 && proc >= PROC_WORKER)
		metrics_restart();
	move(s, proc, CHILD_RUNNING);
	snprintf(pid_text, sizeof(pid_text), "%d", (int)pid);
	log_event(c->starts > 1 ? LOG_INFO : LOG_DEBUG, c->starts > 1 ? "process started again"
	    : "process started", "process", spawn_name(proc, name), "pid", pid_text, NULL);
}

static void
log_reaped(const struct child *c, uint32_t proc)
{
	char name[16], settled[16], voided[16];
	if (c->reap.settled == 0 && c->reap.voided == 0)
		return;
	snprintf(settled, sizeof(settled), "%u", (unsigned)c->reap.settled);
	snprintf(voided, sizeof(voided), "%u", (unsigned)c->reap.voided);
	log_event(LOG_WARN, "finished a dead process's holds", "process", spawn_name(proc, name),
	    "settled", settled, "voided", voided, NULL);
}

/* As far as it goes without waiting. */
static void
step_reaping(struct supervisor *s, uint32_t proc)
{
	struct region *region = &s->heritage->region;
	struct child *c = &s->child[proc];
	int pushed = 0;
	enum reap_state before, after;
	do {
		int more = 0;
		before = c->reap.state;
		after = reap_step(&c->reap, &more);
		pushed |= more;
	} while (after != before && after != REAP_DONE);
	if (pushed)
		wake_keeper_now(region, s->heritage->wake_fd[PROC_KEEPER]);
	if (after != REAP_DONE)
		return;
	FAULT("master.reaped");
	claim_release_dead(region, proc);
	FAULT("master.released");
	log_reaped(c, proc);
	/* Release, pairs with whoever looks whether the slot may be used again. */
	atomic_store_explicit(&region_proc(region, proc)->reaping, 0, memory_order_release);
	c->leaving = false;
	move(s, proc, c->wanted ? CHILD_WAITING : CHILD_NONE);
	if (!c->wanted && s->emptied)
		s->emptied(s->arg, proc);
}

/* The keeper has seen a record that contradicts the books: its writer cannot be trusted. */
static void
kill_bad(const struct supervisor *s, uint32_t proc)
{
	struct proc_slot *slot = region_proc(&s->heritage->region, proc);
	char name[16];
	/* Acquire, pairs with the keeper's store; once for each time that it was set. */
	if (atomic_exchange_explicit(&slot->bad, 0, memory_order_acquire) == 0)
		return;
	log_event(LOG_ERROR, "killing a process that sent a forged record", "process",
	    spawn_name(proc, name), NULL);
	kill(s->child[proc].pid, SIGKILL);
}

/* When it will have hung for too long; UINT64_MAX: nothing is known of it yet. */
static uint64_t
hangs_at(const struct supervisor *s, uint32_t proc)
{
	/* Relaxed: compared with the clock. */
	uint64_t beat = atomic_load_explicit(&region_proc(&s->heritage->region, proc)->heartbeat_us,
	    memory_order_relaxed);
	uint64_t limit = s->heritage->config->timeouts.hang * SECOND_US;
	/* The keeper's first may take long: it loads the books. */
	if (beat == 0 && proc != PROC_KEEPER)
		beat = s->child[proc].started_us;
	return s->child[proc].condemned || limit == 0 || beat == 0 || beat > UINT64_MAX - limit
	    ? UINT64_MAX
	    : beat + limit;
}

/* The letter in a thread's stat file; 0: not known. */
static char
thread_state(pid_t pid, const char *thread)
{
	char path[64], text[512], *end;
	FILE *f;
	snprintf(path, sizeof(path), "/proc/%d/task/%.20s/stat", (int)pid, thread);
	if (!(f = fopen(path, "re")))
		return 0;
	end = fgets(text, sizeof(text), f) ? strrchr(text, ')') : NULL;
	fclose(f);
	return end && end[1] == ' ' ? end[2] : 0;
}

/* Does any of its threads wait for a disk, or for a debugger? */
static bool
is_held(pid_t pid)
{
	char path[32], state;
	struct dirent *e;
	bool held = false;
	DIR *d;
	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	if (!(d = opendir(path)))
		return false;
	while (!held && (e = readdir(d)) != NULL) {
		state = e->d_name[0] == '.' ? 0 : thread_state(pid, e->d_name);
		held = state == 'D' || state == 't';
	}
	closedir(d);
	return held;
}

/*
 * No sign of life for too long: its streams are better off settled.  Not while it waits for a
 * disk, which no signal ends and which may still answer, nor under a debugger.
 */
static void
kill_hung(struct supervisor *s, uint32_t proc, uint64_t now_us)
{
	struct child *c = &s->child[proc];
	char name[16], pid[16];
	if (hangs_at(s, proc) > now_us || is_held(c->pid))
		return;
	snprintf(pid, sizeof(pid), "%d", (int)c->pid);
	log_event(LOG_ERROR, "killing a process that hangs", "process", spawn_name(proc, name),
	    "pid", pid, NULL);
	c->condemned = true;
	kill(c->pid, SIGKILL);
}

void
supervise_step(struct supervisor *s)
{
	uint64_t now_us = monotonic_us();
	for (uint32_t p = PROC_KEEPER; p < s->procs; p++) {
		struct child *c = &s->child[p];
		if (c->state == CHILD_REAPING)
			step_reaping(s, p);
		if (c->state == CHILD_WAITING && c->start_us <= now_us)
			start(s, p, now_us);
		if (c->state == CHILD_RUNNING && p != PROC_KEEPER)
			kill_bad(s, p);
		if (c->state == CHILD_RUNNING)
			kill_hung(s, p, now_us);
	}
}

uint64_t
supervise_next_us(const struct supervisor *s)
{
	uint64_t next = UINT64_MAX, now_us = monotonic_us();
	for (uint32_t p = PROC_KEEPER; p < s->procs; p++) {
		const struct child *c = &s->child[p];
		uint64_t due = c->state == CHILD_WAITING ? c->start_us
		    : c->state == CHILD_RUNNING		 ? hangs_at(s, p)
							 : UINT64_MAX;
		/* It was left alone: look again in a while. */
		if (c->state == CHILD_RUNNING && due <= now_us)
			due = now_us + SECOND_US;
		if (due < next)
			next = due;
	}
	return next;
}

unsigned
supervise_left(const struct supervisor *s, uint32_t first, uint32_t end)
{
	unsigned n = 0;
	for (uint32_t p = first; p < end; p++)
		n += s->child[p].state == CHILD_RUNNING || s->child[p].state == CHILD_REAPING;
	return n;
}

bool
supervise_reaping(const struct supervisor *s)
{
	for (uint32_t p = PROC_KEEPER; p < s->procs; p++)
		if (s->child[p].state == CHILD_REAPING)
			return true;
	return false;
}

void
supervise_kill(const struct supervisor *s, uint32_t first, uint32_t end, int sig)
{
	for (uint32_t p = first; p < end; p++)
		if (s->child[p].state == CHILD_RUNNING)
			kill(s->child[p].pid, sig);
}
