/*
 * Reloading the config.  Master; the checker runs in a child.
 */
#include "daemon/reload.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/calibrate.h"
#include "daemon/config_change.h"
#include "daemon/config_record.h"
#include "daemon/log.h"
#include "daemon/notify.h"
#include "daemon/order.h"
#include "daemon/spawn.h"
#include "daemon/title.h"
#include "daemon/tokenizer.h"
#include "shm/clock.h"

#define SECOND_US UINT64_C(1000000)
#define CHECK_US_MAX (10 * SECOND_US) /* a file on a disk that does not answer */
#define ALL_US_MAX (10 * SECOND_US)   /* until the rest is reported as late */
#define SAID_MAX (1u << 20)
#define LOGGED_MAX 2000 /* bytes of changes in a log line */

void
reload_init(struct reload *r, struct heritage *h, struct supervisor *s)
{
	struct region_config *c = &h->region.h->config;

	memset(r, 0, sizeof *r);
	r->h = h;
	r->s = s;
	r->record = r->said = -1;
	r->generation = h->generation;
	r->deadline_us = UINT64_MAX;
	/* Relaxed, here and below: reports, but for `offered`. */
	atomic_store_explicit(&c->generation, h->generation, memory_order_relaxed);
	atomic_store_explicit(&c->offered, h->generation, memory_order_relaxed);
	/* After an exec it is that of before. */
	if (h->generation > 1)
		return;
	atomic_store_explicit(&c->failed, 0, memory_order_relaxed);
	atomic_store_explicit(&c->loaded_s, realtime_us() / SECOND_US, memory_order_relaxed);
}

void
reload_ask(struct reload *r, uint64_t number)
{
	r->again = true;
	if (number > r->asked)
		r->asked = number;
}

/* The end of a reload. */

static void
close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static void
drop(struct reload *r)
{
	close_fd(&r->record);
	close_fd(&r->said);
	config_free(r->next);
	r->next = NULL;
	r->checker = r->keeper = 0;
	buf_free(&r->changed);
	buf_free(&r->restart);
	buf_free(&r->report);
	tokenizer_drop_files();
	r->deadline_us = UINT64_MAX;
	r->state = RELOAD_IDLE;
}

/* Lines as lines of a kind in the report. */
static void
report(struct reload *r, const char *kind, const char *lines, size_t len)
{
	while (len > 0) {
		const char *end = memchr(lines, '\n', len);
		size_t n = end == NULL ? len : (size_t)(end - lines);

		if (n > 0)
			buf_printf(&r->report, "%s\t%.*s\n", kind, (int)n, lines);
		len -= n + (end != NULL);
		lines += n + (end != NULL);
	}
}

static void
report_text(struct reload *r, const char *kind, const char *text)
{
	report(r, kind, text, strlen(text));
}

/* Lines for a log line: "a; b; c". */
static void
join(const struct buf *lines, char text[static LOGGED_MAX])
{
	size_t at = 0, i = 0;

	for (; i < lines->len && !lines->failed && at < LOGGED_MAX - 8; i++) {
		if (lines->data[i] != '\n') {
			text[at++] = lines->data[i];
		} else if (i + 1 < lines->len) {
			text[at++] = ';';
			text[at++] = ' ';
		}
	}
	(void)snprintf(text + at, LOGGED_MAX - at, "%s", i < lines->len ? " ..." : "");
}

static void
send_report(struct reload *r)
{
	struct order o = {.kind = ORDER_REPORT, .generation = r->h->generation, .number = r->served};
	int fd = memfd_create("tolld: report", MFD_CLOEXEC);

	if (fd >= 0 && !r->report.failed &&
	    write(fd, r->report.data, r->report.len) == (ssize_t)r->report.len &&
	    order_send(r->h->order_ours[PROC_ADMIN], &o, NULL, 0, &fd, 1) != 0)
		log_warn("reload: the admin process does not hear what became of it");
	close_fd(&fd);
}

static void
refuse(struct reload *r)
{
	struct region_config *c = &r->h->region.h->config;

	atomic_store_explicit(&c->failed, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&c->reloads, 1, memory_order_relaxed);
	log_event(LOG_ERROR, "config refused: the one before it stays", "config",
	    r->h->config->path, NULL);
	report_text(r, "refused", "-");
	send_report(r);
	drop(r);
	notify("READY=1");
}

static void
refuse_for(struct reload *r, const char *why)
{
	log_warnx("reload: %s", why);
	report_text(r, "error", why);
	refuse(r);
}

/* Checking. */

static void check(const struct reload *, pid_t master) __attribute__((noreturn));

/* In the child. */
static void
check(const struct reload *r, pid_t master)
{
	FILE *said = fdopen(r->said, "w");
	sigset_t none;
	bool good;

	title_set("tolld: reload");
	log_set_proc("reload");
	sigemptyset(&none);
	if (said == NULL || sigprocmask(SIG_SETMASK, &none, NULL) != 0 ||
	    prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != master)
		_exit(1);
	good = config_record_load(r->record, r->h->config->path, said) != NULL;
	_exit(fflush(said) == 0 && good ? 0 : 1);
}

static void
begin(struct reload *r)
{
	pid_t master = getpid();
	char us[64];

	r->again = false;
	r->served = r->asked;
	r->began_us = monotonic_us();
	snprintf(us, sizeof us, "RELOADING=1\nMONOTONIC_USEC=%llu", (unsigned long long)r->began_us);
	notify(us);
	r->record = config_record_new();
	r->said = memfd_create("tolld: faults", MFD_CLOEXEC);
	fflush(NULL);
	r->checker = r->record < 0 || r->said < 0 ? -1 : fork();
	if (r->checker == 0)
		check(r, master);
	if (r->checker < 0) {
		r->checker = 0;
		refuse_for(r, strerror(errno));
		return;
	}
	r->deadline_us = r->began_us + CHECK_US_MAX;
	r->state = RELOAD_CHECKING;
}

/* What the checker said, line by line into the log and the report. */
static void
repeat(struct reload *r, const char *kind)
{
	struct stat st;
	char *text, *line, *rest;
	ssize_t n;

	if (fstat(r->said, &st) != 0 || st.st_size == 0)
		return;
	text = malloc((st.st_size < SAID_MAX ? (size_t)st.st_size : SAID_MAX) + 1);
	if (text == NULL)
		return;
	n = pread(r->said, text, (size_t)st.st_size < SAID_MAX ? (size_t)st.st_size : SAID_MAX, 0);
	text[n < 0 ? 0 : n] = '\0';
	for (rest = text; (line = strsep(&rest, "\n")) != NULL;) {
		if (*line == '\0')
			continue;
		log_warnx("%s", line);
		/* A file with faults has warnings, too. */
		report_text(r, strstr(line, ": warning: ") != NULL ? "warning" : kind, line);
	}
	free(text);
}

/* The master's own, from the record; what is wrong, or NULL. */
static const char *
make(struct reload *r)
{
	struct heritage *h = r->h;
	FILE *errors = fopen("/dev/null", "we");

	if (errors == NULL)
		return "/dev/null cannot be opened";
	r->tokenizers = tokenizer_opened();
	r->next = config_record_read(r->record, h->config->path, true, errors);
	fclose(errors);
	if (r->next == NULL)
		return "what was good when it was checked is not any more; try again";
	/* A file that is just being written is empty for a moment. */
	if (r->next->model_count == 0 && h->config->model_count > 0)
		return "no model would be left: every request would be refused (a restart does that)";
	config_carry(r->next, h->config, h->region.h->dims.ring_arena / 4, &r->restart);
	config_describe(r->next, h->config, &r->changed);
	return config_place(r->next, region_names(&h->region), true);
}

static void finish(struct reload *);

static void
checked(struct reload *r, int status)
{
	bool good = WIFEXITED(status) && WEXITSTATUS(status) == 0;
	const char *why;

	r->checker = 0;
	r->deadline_us = UINT64_MAX;
	repeat(r, good ? "warning" : "error");
	if (WIFSIGNALED(status)) {
		refuse_for(r, WTERMSIG(status) == SIGKILL
		    ? "reading the config took too long, or was killed"
		    : "reading the config made the process that did it crash");
		return;
	}
	if (!good) {
		refuse(r);
		return;
	}
	why = make(r);
	if (why != NULL) {
		refuse_for(r, why);
		return;
	}
	calibrate_config(r->next, true);
	if (r->changed.len == 0) {
		finish(r);
		return;
	}
	r->generation++;
	r->state = RELOAD_KEEPER;
}

bool
reload_ended(struct reload *r, pid_t pid, int status)
{
	if (r->state != RELOAD_CHECKING || pid != r->checker)
		return false;
	checked(r, status);
	return true;
}

/* Telling the others. */

static bool
offer(struct reload *r, uint32_t proc)
{
	struct order o = {
	    .kind = ORDER_CONFIG, .generation = r->generation, .number = (uint64_t)r->tokenizers};
	static char names[ORDER_TEXT_MAX];
	int fds[ORDER_FDS_MAX], n = 0;
	size_t len = 0;
	char text[16];

	fds[n++] = r->record;
	for (int i = r->tokenizers; i < tokenizer_opened(); i++) {
		const char *name;
		int fd = tokenizer_file(i, &name);
		size_t size;

		if (fd < 0)
			continue;
		size = strlen(name) + 1;
		if (size > sizeof names - len || n == ORDER_FDS_MAX)
			break;
		memcpy(names + len, name, size);
		len += size;
		fds[n++] = fd;
	}
	if (order_send(r->h->order_ours[proc], &o, names, len, fds, n) == 0) {
		/* Release: who sees it finds the order. */
		atomic_store_explicit(
		    &r->h->region.h->config.offered, r->generation, memory_order_release);
		return true;
	}
	log_warn("reload: cannot tell %s", spawn_name(proc, text));
	return false;
}

static uint32_t
taken(const struct reload *r, uint32_t proc)
{
	/* Acquire, pairs with renew_done. */
	return atomic_load_explicit(&region_proc(&r->h->region, proc)->config, memory_order_acquire);
}

static bool
refused(const struct reload *r, uint32_t proc)
{
	return atomic_load_explicit(&region_proc(&r->h->region, proc)->config_refused,
	           memory_order_acquire) == r->generation;
}

static bool
waits_for(const struct reload *r, uint32_t proc)
{
	return r->s->child[proc].state == CHILD_RUNNING && !r->s->child[proc].leaving &&
	    taken(r, proc) != r->generation && !refused(r, proc);
}

static void
put_in_force(struct reload *r)
{
	struct heritage *h = r->h;
	struct region_config *c = &h->region.h->config;
	struct config *old = h->config;

	h->config = r->next;
	h->generation = r->generation;
	r->next = NULL;
	log_set_level(h->config->log_level);
	log_set_modules(h->config->log_module, (size_t)h->config->log_modules);
	log_set_format(h->config->log_format);
	atomic_store_explicit(&c->generation, r->generation, memory_order_relaxed);
	config_free(old);
	for (uint32_t p = PROC_ADMIN; p < r->s->procs; p++)
		if (waits_for(r, p))
			(void)offer(r, p);
	close_fd(&h->config_record);
	h->config_record = r->record;
	r->record = -1;
	r->deadline_us = monotonic_us() + ALL_US_MAX;
	r->state = RELOAD_ALL;
}

/* Who dies in this state takes the new config with it: its successor goes by the one in force. */
static void
step_keeper(struct reload *r)
{
	const struct child *keeper = &r->s->child[PROC_KEEPER];

	if (r->keeper == 0) {
		if (keeper->state != CHILD_RUNNING || taken(r, PROC_KEEPER) == 0)
			return; /* it is on its way */
		r->keeper = keeper->pid;
		if (!offer(r, PROC_KEEPER))
			refuse_for(r, "the keeper cannot be told");
		return;
	}
	if (keeper->state != CHILD_RUNNING || keeper->pid != r->keeper)
		refuse_for(r, "the keeper died meanwhile (a full disk?); try again");
	else if (refused(r, PROC_KEEPER))
		refuse_for(r, "the keeper cannot take it; its log line says why");
	else if (taken(r, PROC_KEEPER) == r->generation)
		put_in_force(r);
}

static void
finish(struct reload *r)
{
	struct region_config *c = &r->h->region.h->config;
	char changed[LOGGED_MAX], restart[LOGGED_MAX], generation[16], ms[24], name[16];

	for (uint32_t p = PROC_ADMIN; p < r->s->procs && r->state == RELOAD_ALL; p++) {
		if (r->s->child[p].state != CHILD_RUNNING || r->s->child[p].leaving ||
		    taken(r, p) == r->generation)
			continue;
		log_warnx("reload: %s has not taken the config", spawn_name(p, name));
		report_text(r, "late", name);
	}
	report(r, "changed", r->changed.data, r->changed.len);
	report(r, "restart", r->restart.data, r->restart.len);
	report_text(r, "ok", "-");
	atomic_store_explicit(&c->failed, 0, memory_order_relaxed);
	atomic_store_explicit(&c->loaded_s, realtime_us() / SECOND_US, memory_order_relaxed);
	atomic_fetch_add_explicit(&c->reloads, 1, memory_order_relaxed);
	join(&r->changed, changed);
	join(&r->restart, restart);
	snprintf(generation, sizeof generation, "%u", (unsigned)r->h->generation);
	snprintf(ms, sizeof ms, "%llu", (unsigned long long)(monotonic_us() - r->began_us) / 1000);
	log_event(LOG_INFO, r->state == RELOAD_ALL ? "config reloaded" : "config unchanged",
	    "config", r->h->config->path, "generation", generation, "changed",
	    *changed ? changed : NULL, "need_restart", *restart ? restart : NULL, "took_ms", ms,
	    NULL);
	send_report(r);
	drop(r);
	notify("READY=1");
}

static void
step_all(struct reload *r)
{
	bool late = monotonic_us() >= r->deadline_us;

	for (uint32_t p = PROC_ADMIN; p < r->s->procs; p++)
		if (waits_for(r, p) && !late)
			return;
	finish(r);
}

static void
step_checking(struct reload *r)
{
	if (monotonic_us() < r->deadline_us)
		return;
	r->deadline_us = UINT64_MAX; /* SIGCHLD follows, but where it waits for a disk */
	kill(r->checker, SIGKILL);
}

void
reload_step(struct reload *r, bool serving, bool alive)
{
	switch (r->state) {
	case RELOAD_IDLE:
		if (r->again && !alive) {
			r->again = false;
			r->served = r->asked;
			log_warnx("reload: not while the daemon ends");
			report_text(r, "error", "tolld is about to end");
			report_text(r, "refused", "-");
			send_report(r);
			buf_free(&r->report);
		} else if (r->again && serving) {
			begin(r);
		}
		break;
	case RELOAD_CHECKING:
		step_checking(r);
		break;
	case RELOAD_KEEPER:
		step_keeper(r);
		break;
	case RELOAD_ALL:
		step_all(r);
		break;
	}
}

bool
reload_pending(const struct reload *r)
{
	return r->again || r->state != RELOAD_IDLE;
}

uint64_t
reload_next_us(const struct reload *r)
{
	return r->deadline_us;
}

void
reload_close(struct reload *r)
{
	if (r->state == RELOAD_CHECKING)
		kill(r->checker, SIGKILL);
	if (r->h != NULL)
		drop(r);
}
