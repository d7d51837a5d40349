/*
 * Replacing the program in place.  Master; takeover_answer runs in the new program, which the old
 * one asks.
 */
#include "daemon/takeover.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/config_record.h"
#include "daemon/log.h"
#include "daemon/notify.h"
#include "daemon/order.h"
#include "daemon/spawn.h"
#include "daemon/version.h"
#include "shm/clock.h"

#define SECOND_US UINT64_C(1000000)
#define ASK_US_MAX (10 * SECOND_US)
#define LOOK_US UINT64_C(20000) /* a new process's first sign of life wakes nobody */
#define TRIES_MAX 5             /* deaths of a new worker, then the old ones go on */
#define RECORD_FD 3
#define SAID_MAX 16384

static char program[PATH_MAX];
static char **arguments;

void
takeover_program(char **argv)
{
	char folder[PATH_MAX];
	ssize_t n;

	arguments = argv;
	/* As it was named: what is there may be a link to another version by then.  Started by a
	 * search in PATH it has no better name than its own. */
	if (argv[0] != NULL && argv[0][0] == '/') {
		snprintf(program, sizeof program, "%s", argv[0]);
	} else if (argv[0] != NULL && strchr(argv[0], '/') != NULL &&
	           getcwd(folder, sizeof folder) != NULL &&
	           strlen(folder) + 1 + strlen(argv[0]) < sizeof program) {
		strcpy(program, folder);
		strcat(program, "/");
		strcat(program, argv[0]);
	} else {
		n = readlink("/proc/self/exe", program, sizeof program - 1);
		program[n < 0 ? 0 : n] = '\0';
	}
}

int
takeover_answer(const char *abi, const char *path)
{
	char ours[LEGACY_ABI];
	struct config *c;

	if (strcmp(legacy_abi(ours), abi) != 0) {
		printf("its layouts are others, so it takes a restart: running %s, it has %s\n", abi,
		    ours);
		return 1;
	}
	c = config_record_read(RECORD_FD, path, true, stdout);
	if (c == NULL)
		return 1;
	config_free(c);
	return fflush(stdout) == 0 ? 0 : 1;
}

void
takeover_init(
    struct takeover *u, struct setup *up, struct supervisor *s, const struct reload *reload)
{
	memset(u, 0, sizeof *u);
	u->up = up;
	u->s = s;
	u->reload = reload;
	u->said = -1;
	u->deadline_us = UINT64_MAX;
}

void
takeover_ask(struct takeover *u)
{
	u->again = true;
}

bool
takeover_pending(const struct takeover *u)
{
	return u->state != TAKEOVER_IDLE && !u->waits_said;
}

/* Asking. */

static void
rest(struct takeover *u)
{
	if (u->said >= 0)
		close(u->said);
	u->said = -1;
	u->asked = 0;
	u->deadline_us = UINT64_MAX;
	u->state = TAKEOVER_IDLE;
}

static void
refuse(struct takeover *u, const char *why)
{
	log_event(LOG_ERROR, "upgrade refused: this program goes on", "program", program, "why", why,
	    NULL);
	rest(u);
}

static void ask(const struct takeover *, pid_t master) __attribute__((noreturn));

/* In a child: become the new program, with its question. */
static void
ask(const struct takeover *u, pid_t master)
{
	char abi[LEGACY_ABI], option_u[] = "-U", option_c[] = "-c", name[] = "tolld";
	char *argv[] = {name, option_u, abi, option_c, u->up->heritage.config->path, NULL};
	int record = fcntl(u->up->heritage.config_record, F_DUPFD_CLOEXEC, 10);
	int said = fcntl(u->said, F_DUPFD_CLOEXEC, 10);
	sigset_t none;

	legacy_abi(abi);
	sigemptyset(&none);
	if (record < 0 || said < 0 || sigprocmask(SIG_SETMASK, &none, NULL) != 0 ||
	    prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != master ||
	    dup2(record, RECORD_FD) < 0 || dup2(said, STDOUT_FILENO) < 0 ||
	    dup2(said, STDERR_FILENO) < 0)
		_exit(1);
	execve(program, argv, environ);
	dprintf(STDOUT_FILENO, "cannot be run: %s\n", strerror(errno));
	_exit(1);
}

static void
begin(struct takeover *u)
{
	pid_t master = getpid();

	u->again = false;
	u->began_us = monotonic_us();
	if (u->up->heritage.config_record < 0) {
		refuse(u, "there is no record of the config");
		return;
	}
	u->said = memfd_create("tolld: upgrade", MFD_CLOEXEC);
	fflush(NULL);
	u->asked = u->said < 0 ? -1 : fork();
	if (u->asked == 0)
		ask(u, master);
	if (u->asked < 0) {
		refuse(u, strerror(errno));
		return;
	}
	log_event(LOG_INFO, "upgrade: asking the program", "program", program, NULL);
	u->deadline_us = u->began_us + ASK_US_MAX;
	u->state = TAKEOVER_ASKING;
}

bool
takeover_ended(struct takeover *u, pid_t pid, int status)
{
	char text[SAID_MAX], *line, *rest_of = text;
	const char *last = NULL;
	ssize_t n;

	if (u->state != TAKEOVER_ASKING || pid != u->asked)
		return false;
	n = pread(u->said, text, sizeof text - 1, 0);
	text[n < 0 ? 0 : n] = '\0';
	u->asked = 0;
	u->deadline_us = UINT64_MAX;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
		u->state = TAKEOVER_READY;
		return true;
	}
	while ((line = strsep(&rest_of, "\n")) != NULL)
		if (*line != '\0') {
			log_warnx("upgrade: %s", line);
			last = last == NULL ? line : last;
		}
	refuse(u, last != NULL         ? last
	        : WIFSIGNALED(status) ? "it was killed, or took too long to answer"
	                              : "it says no, and not why");
	return true;
}

/* The exec. */

/* No slot is between two processes: what is known of those is not handed on. */
static bool
all_run(const struct supervisor *s)
{
	for (uint32_t p = PROC_KEEPER; p < s->procs; p++)
		if (s->child[p].state != CHILD_RUNNING &&
		    (s->child[p].state != CHILD_NONE || s->child[p].wanted))
			return false;
	return true;
}

static void
replace(struct takeover *u)
{
	static struct legacy l;
	char text[64];
	int fd, error;

	memset(&l, 0, sizeof l);
	l.reload = u->reload->again;
	l.reload_number = u->reload->asked;
	l.upgrade = u->again;
	fd = legacy_write(&l, u->up, u->s);
	if (fd < 0) {
		refuse(u, strerror(errno));
		return;
	}
	snprintf(text, sizeof text, "RELOADING=1\nMONOTONIC_USEC=%llu",
	    (unsigned long long)monotonic_us());
	notify(text);
	snprintf(text, sizeof text, "%d", fd);
	setenv(LEGACY_VARIABLE, text, 1);
	legacy_inherit(u->up, true);
	log_event(LOG_INFO, "upgrade: the program takes over", "program", program, NULL);
	execve(program, arguments, environ);
	error = errno;
	legacy_inherit(u->up, false);
	unsetenv(LEGACY_VARIABLE);
	close(fd);
	notify("READY=1");
	refuse(u, strerror(error));
}

/* After it. */

void
takeover_begin(struct takeover *u, const struct legacy *l)
{
	snprintf(u->from, sizeof u->from, "%.*s", (int)sizeof u->from - 1, l->program);
	u->began_us = monotonic_us();
	u->worker = 0;
	u->old = 0;
	u->again = l->upgrade != 0;
	u->state = TAKEOVER_KEEPER;
}

static void
log_replaced(uint32_t proc, pid_t from, pid_t to)
{
	char name[16], old[16], new[16];

	snprintf(old, sizeof old, "%d", (int)from);
	snprintf(new, sizeof new, "%d", (int)to);
	log_event(LOG_INFO, "process replaced", "process", spawn_name(proc, name), "from", old, "to",
	    new, NULL);
}

/* The keeper, then the admin process: the old one ends, the new one takes its slot. */
static bool
replace_in_place(struct takeover *u, uint32_t proc)
{
	struct child *c = &u->s->child[proc];
	struct proc_slot *slot = region_proc(&u->up->heritage.region, proc);
	bool runs;

	if (u->old == 0) {
		if (c->state != CHILD_RUNNING)
			return false; /* it has died: a successor is on its way */
		u->old = c->pid;
		supervise_leave(u->s, proc);
		supervise_kill(u->s, proc, proc + 1, CHILD_SIG_STOP);
		return false;
	}
	/* The keeper has loaded the books; the admin process's loop runs. */
	runs = proc == PROC_KEEPER
	    ? atomic_load_explicit(&slot->config, memory_order_acquire) != 0
	    : atomic_load_explicit(&slot->heartbeat_us, memory_order_relaxed) != 0;
	if (c->state != CHILD_RUNNING || c->pid == u->old || !runs)
		return false;
	log_replaced(proc, u->old, c->pid);
	u->old = 0;
	return true;
}

static void
share_listeners(struct heritage *h, uint32_t from, uint32_t to)
{
	for (int i = 0; i < CONFIG_LISTEN_MAX; i++)
		h->listen_fd[i][to - PROC_WORKER] = h->listen_fd[i][from - PROC_WORKER];
}

static void
forget_listeners(struct heritage *h, uint32_t proc)
{
	for (int i = 0; i < CONFIG_LISTEN_MAX; i++)
		h->listen_fd[i][proc - PROC_WORKER] = -1;
}

static void
finish(struct takeover *u)
{
	char ms[24];

	snprintf(ms, sizeof ms, "%llu", (unsigned long long)(monotonic_us() - u->began_us) / 1000);
	log_event(LOG_INFO, "upgraded", "from", u->from, "to", tolld_version, "took_ms", ms, NULL);
	rest(u);
}

/* The new worker dies again and again: the old one has never stopped to serve. */
static void
give_up(struct takeover *u)
{
	supervise_unwant(u->s, u->comer, u->comer + 1);
	supervise_kill(u->s, u->comer, u->comer + 1, SIGKILL);
	forget_listeners(&u->up->heritage, u->comer);
	log_event(LOG_ERROR, "upgrade: the new program's workers do not run; the old ones go on",
	    "program", program, NULL);
	rest(u);
}

/* Start the new one beside it; false if there is no slot for it yet. */
static bool
start_worker(struct takeover *u)
{
	struct heritage *h = &u->up->heritage;
	uint32_t half = h->region.h->dims.workers, a = PROC_WORKER + u->worker;

	u->leaver = u->s->child[a + half].wanted ? a + half : a;
	u->comer = u->leaver == a ? a + half : a;
	if (u->s->child[u->comer].state != CHILD_NONE) {
		if (!u->waits_said)
			log_info("upgrade: waits for a worker that leaves since the last one");
		u->waits_said = true;
		return false;
	}
	u->old = u->s->child[u->leaver].pid;
	u->s->child[u->comer].starts = u->s->child[u->comer].quick = 0;
	share_listeners(h, u->leaver, u->comer);
	supervise_want(u->s, u->comer, u->comer + 1);
	u->started = true;
	return true;
}

/* One of them; true when it is replaced. */
static bool
replace_worker(struct takeover *u)
{
	struct heritage *h = &u->up->heritage;
	struct child *c;
	struct order leave = {.kind = ORDER_LEAVE};

	if (!u->started) {
		(void)start_worker(u);
		return false;
	}
	c = &u->s->child[u->comer];
	/* However long each took: on a busy machine a start may. */
	if (c->starts - (c->state == CHILD_RUNNING) >= TRIES_MAX) {
		give_up(u);
		return false;
	}
	if (c->state != CHILD_RUNNING ||
	    atomic_load_explicit(&region_proc(&h->region, u->comer)->heartbeat_us,
	        memory_order_relaxed) == 0)
		return false;
	if (u->s->child[u->leaver].state == CHILD_RUNNING &&
	    order_send(h->order_ours[u->leaver], &leave, NULL, 0, NULL, 0) != 0)
		return false;
	supervise_leave(u->s, u->leaver);
	supervise_unwant(u->s, u->leaver, u->leaver + 1);
	forget_listeners(h, u->leaver);
	log_replaced(u->comer, u->old, c->pid);
	u->started = u->waits_said = false;
	u->old = 0;
	return true;
}

static void
step_workers(struct takeover *u)
{
	uint32_t n = u->up->workers_end - PROC_WORKER;

	while (u->state == TAKEOVER_WORKERS && u->worker < n) {
		if (!replace_worker(u))
			return;
		u->worker++;
	}
	if (u->state == TAKEOVER_WORKERS)
		finish(u);
}

/* Before the exec an end of the daemon is the end of it, and after it, too. */
static void
abandon(struct takeover *u)
{
	if (u->again || u->state != TAKEOVER_IDLE)
		log_warnx("upgrade: not while the daemon ends");
	if (u->asked > 0)
		kill(u->asked, SIGKILL);
	u->again = false;
	rest(u);
}

void
takeover_step(struct takeover *u, bool may, bool alive)
{
	if (!alive) {
		abandon(u);
		return;
	}
	switch (u->state) {
	case TAKEOVER_IDLE:
		if (u->again && may)
			begin(u);
		break;
	case TAKEOVER_ASKING:
		if (monotonic_us() >= u->deadline_us) {
			u->deadline_us = UINT64_MAX; /* SIGCHLD follows */
			kill(u->asked, SIGKILL);
		}
		break;
	case TAKEOVER_READY:
		if (all_run(u->s))
			replace(u);
		break;
	case TAKEOVER_KEEPER:
		if (replace_in_place(u, PROC_KEEPER))
			u->state = TAKEOVER_ADMIN;
		break;
	case TAKEOVER_ADMIN:
		if (replace_in_place(u, PROC_ADMIN))
			u->state = TAKEOVER_WORKERS;
		break;
	case TAKEOVER_WORKERS:
		step_workers(u);
		break;
	}
}

uint64_t
takeover_next_us(const struct takeover *u)
{
	if (u->state < TAKEOVER_READY)
		return u->deadline_us;
	/* Streams may take long. */
	return monotonic_us() + (u->waits_said ? 10 * LOOK_US : LOOK_US);
}

void
takeover_close(struct takeover *u)
{
	if (u->asked > 0)
		kill(u->asked, SIGKILL);
	rest(u);
}
