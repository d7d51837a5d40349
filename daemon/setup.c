/*
 * What has to be there before the first fork.  Master.
 *
 * Locks come first: whoever has them may remove what a former daemon left, nobody else.
 */
#include "daemon/setup.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "daemon/calibrate.h"
#include "daemon/config_change.h"
#include "daemon/legacy.h"
#include "daemon/log.h"
#include "daemon/log_file.h"
#include "daemon/metrics.h"
#include "daemon/sockets.h"
#include "daemon/spawn.h"

#define RING_RECORDS 8192
#define RING_ARENA_MIN (4u << 20)
#define KEYS_MAX (1u << 20)
#define NOFILE_ROOT 65536
#define NOFILE_MAX (1u << 20)
#define ORPHANS_MS_MAX 5000
#define ORPHANS_STEP_MS 10

static void
raise_nofile(void)
{
	struct rlimit limit;
	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return;
	if (geteuid() == 0 && limit.rlim_max < NOFILE_ROOT) {
		struct rlimit more = { .rlim_cur = NOFILE_ROOT, .rlim_max = NOFILE_ROOT };
		if (setrlimit(RLIMIT_NOFILE, &more) == 0)
			return;
	}
	/* Two for each stream.  Past NOFILE_MAX they would only cost who loops over them all. */
	limit.rlim_cur = limit.rlim_max < NOFILE_MAX ? limit.rlim_max : NOFILE_MAX;
	if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
		log_warn("cannot raise the limit of open files");
}

static int
open_signals(struct setup *s)
{
	static const int mine[] = { SIGCHLD, SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2 };
	struct sigaction usual = { .sa_handler = SIG_DFL }, ignore = { .sa_handler = SIG_IGN };
	sigset_t set;
	sigemptyset(&set);
	for (size_t i = 0; i < sizeof(mine) / sizeof(*mine); i++) {
		sigaddset(&set, mine[i]);
		sigaction(mine[i], &usual, NULL); /* a signalfd doesn't see ignored ones (nohup) */
	}
	sigaction(SIGPIPE, &ignore, NULL);
	sigaction(SIGXFSZ, &ignore, NULL);
	if (sigprocmask(SIG_SETMASK, &set, NULL) == 0)
		s->signal_fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	if (s->signal_fd < 0)
		log_event(LOG_ERROR, "cannot listen to signals", "error", strerror(errno), NULL);
	return s->signal_fd < 0 ? -1 : 0;
}

/* Without it estimates stay what they are: no reason not to start. */
static void
open_calibration(struct setup *s)
{
	char *path;
	if (asprintf(&path, "%s/calibration", s->heritage.config->state_dir) < 0)
		fatal("start");
	if (calibrate_open(s->heritage.config, path, s->owner.uid) < 0)
		log_warn("%s: token counts are not calibrated", path);
	free(path);
}

static void
name_files(struct setup *s)
{
	const struct config *c = s->heritage.config;
	if (asprintf(&s->pid_path, "%s/tolld.pid", c->runtime_dir) < 0 ||
	    asprintf(&s->region_path, "%s/ledger.shm", c->runtime_dir) < 0)
		fatal("start");
}

static int
open_dirs(struct setup *s)
{
	const struct config *c = s->heritage.config;
	char *state_lock;
	name_files(s);
	if (dirs_make(c->runtime_dir, 0755, &s->owner) < 0 ||
	    dirs_make(c->state_dir, 0700, &s->owner) < 0)
		return -1;
	if (asprintf(&state_lock, "%s/tolld.lock", c->state_dir) < 0)
		fatal("start");
	s->pid_fd = dirs_lock(s->pid_path);
	/* Two daemons with one state_dir and two runtime_dirs would write one journal. */
	s->state_fd = s->pid_fd < 0 ? -1 : dirs_lock(state_lock);
	free(state_lock);
	if (s->state_fd < 0)
		return -1;
	open_calibration(s);
	return dirs_secret(c->state_dir, &s->owner, s->heritage.key_secret);
}

static int
open_region(struct setup *s)
{
	const struct timespec step = { .tv_nsec = ORPHANS_STEP_MS * 1000000L };
	const struct config *c = s->heritage.config;
	int waited = 0;
	const char *why = NULL;
	struct region_dims dims = {
		.workers = (uint32_t)c->workers,
		.max_accounts = c->ledger.max_accounts,
		.max_keys = c->ledger.max_accounts < KEYS_MAX ? c->ledger.max_accounts : KEYS_MAX,
		.max_holds = c->ledger.max_holds,
		.ring_records = RING_RECORDS,
		.ring_arena = RING_ARENA_MIN,
	};
	while (dims.ring_arena < 4 * c->max_body)
		dims.ring_arena *= 2;
	/* Busy: we have the pid file, so these are a killed master's children, on their way out. */
	while (region_open(&s->heritage.region, s->region_path, &dims, &why) < 0) {
		int error = errno;
		if (error != EBUSY || waited >= ORPHANS_MS_MAX) {
			log_event(LOG_ERROR, "cannot set up the shared memory", "path",
			    s->region_path, "error", why ? why : strerror(error), NULL);
			return -1;
		}
		nanosleep(&step, NULL);
		waited += ORPHANS_STEP_MS;
	}
	if (s->heritage.region.leftover)
		log_event(LOG_WARN, "the last daemon did not end well: recovering", "path",
		    s->region_path, NULL);
	else if (why != NULL)
		log_event(LOG_WARN, "what the last daemon left in memory is not used: streams that "
		    "ran are charged up to their last mark", "path", s->region_path, "why", why,
		    NULL);
	if ((uint32_t)c->workers > s->heritage.region.h->dims.workers)
		log_warnx("the recovered shared memory has room for %u workers; the next start "
		    "after a clean end takes all %d", (unsigned)s->heritage.region.h->dims.workers,
		    c->workers);
	return 0;
}

/* A crashed daemon's holds and counters keep their models, whatever the config says now. */
static int
place_config(struct setup *s)
{
	struct region_names *names = region_names(&s->heritage.region);
	const char *why = config_place(s->heritage.config, names, true);
	if (why) {
		config_names_forget(s->heritage.config, names);
		why = config_place(s->heritage.config, names, true);
	}
	if (why)
		log_event(LOG_ERROR, "cannot number the models and providers", "error", why, NULL);
	return why ? -1 : 0;
}

/* What a killed daemon's marks must not say about this one. */
static void
reset_region(struct setup *s)
{
	struct region_header *h = s->heritage.region.h;
	/* Relaxed: there is no other process yet; fork orders all this before the children. */
	atomic_store_explicit(&h->draining, 0, memory_order_relaxed);
	for (uint32_t p = 0; p < h->procs; p++) {
		struct proc_slot *slot = region_proc(&s->heritage.region, p);
		atomic_store_explicit(&h->asleep[p], 0, memory_order_relaxed);
		atomic_store_explicit(&slot->pid, 0, memory_order_relaxed);
		atomic_store_explicit(&slot->bad, 0, memory_order_relaxed);
	}
	struct proc_slot *mine = region_proc(&s->heritage.region, PROC_MASTER);
	atomic_store_explicit(&mine->pid, (uint32_t)getpid(), memory_order_relaxed);
	atomic_fetch_add_explicit(&mine->generation, 1, memory_order_relaxed);
}

static int
open_log(const struct setup *s, const struct config *config)
{
	if (!*config->log_file)
		return 0;
	return log_file_open(config->log_file, s->owner.change ? s->owner.uid : geteuid(),
	    s->owner.change ? s->owner.gid : getegid());
}

static void
begin(struct setup *s, struct config *config)
{
	memset(s, 0, sizeof(*s));
	s->heritage.config = config;
	s->heritage.generation = 1;
	s->heritage.region.fd = -1;
	s->signal_fd = s->pid_fd = s->state_fd = -1;
	sockets_init(&s->heritage);
}

static void
adopt_fds(struct setup *s, const struct legacy_fds *f)
{
	struct heritage *h = &s->heritage;
	s->pid_fd = f->pid;
	s->state_fd = f->state;
	h->config_record = f->record;
	h->admin_http_fd = f->admin_http;
	h->admin_unix_fd = f->admin_unix;
	for (int i = 0; i < CONFIG_LISTEN_MAX; i++)
		for (int w = 0; w < 2 * REGION_WORKERS_MAX; w++)
			h->listen_fd[i][w] = f->listen[i][w];
	for (int p = 0; p < REGION_PROCS_MAX; p++) {
		h->wake_fd[p] = f->wake[p];
		h->inbox_rd[p] = f->inbox_rd[p];
		h->inbox_wr[p] = f->inbox_wr[p];
		h->order_ours[p] = f->order_ours[p];
		h->order_theirs[p] = f->order_theirs[p];
	}
}

static void
count_workers(struct setup *s)
{
	uint32_t room = s->heritage.region.h->dims.workers, n = (uint32_t)s->heritage.config->workers;
	s->workers_end = PROC_WORKER + (n < room ? n : room);
	spawn_workers(room);
}

int
setup_adopt(struct setup *s, struct config *config, const struct legacy *l)
{
	const char *why;
	begin(s, config);
	s->heritage.generation = l->generation;
	adopt_fds(s, &l->fd);
	s->heritage.admin_full_gid = (gid_t)l->admin_full_gid;
	for (int i = 0; i < CONFIG_LISTEN_MAX; i++)
		s->heritage.listen_passed[i] = l->listen_passed[i] != 0;
	name_files(s);
	if (spawn_owner(config->user, &s->owner) < 0 || open_log(s, config) < 0 ||
	    open_signals(s) < 0)
		return -1;
	why = region_adopt(&s->heritage.region, l->fd.region);
	if (why) {
		log_event(LOG_ERROR, "cannot go on with the shared memory", "path", s->region_path,
		    "error", why, NULL);
		return -1;
	}
	open_calibration(s);
	if (dirs_secret(config->state_dir, &s->owner, s->heritage.key_secret) < 0 ||
	    place_config(s) < 0)
		return -1;
	count_workers(s);
	metrics_init(&s->heritage.region, PROC_MASTER);
	return 0;
}

int
setup_open(struct setup *s, struct config *config, int record)
{
	struct inherited passed;
	int result = -1;

	begin(s, config);
	s->heritage.config_record = record;
	raise_nofile();
	/* First, before what is opened here could be taken for one that was not passed. */
	if (inherited_read(&passed) == 0 && spawn_owner(config->user, &s->owner) == 0 &&
	    open_log(s, config) == 0 && open_signals(s) == 0 && open_dirs(s) == 0 &&
	    open_region(s) == 0 && place_config(s) == 0) {
		reset_region(s);
		count_workers(s);
		metrics_init(&s->heritage.region, PROC_MASTER);
		result = sockets_open(&s->heritage, &passed, s->workers_end - PROC_WORKER,
		    &s->owner);
	}
	inherited_close(&passed);
	return result;
}

void
setup_close(struct setup *s, bool clean)
{
	sockets_close(&s->heritage);
	if (s->heritage.region.h && clean) {
		/* Seq_cst for a mark that is read after a crash at most once. */
		atomic_store(&s->heritage.region.h->clean, 1);
		region_remove(&s->heritage.region, s->region_path);
	} else if (s->heritage.region.h) {
		region_unmap(&s->heritage.region);
	}
	if (s->pid_fd >= 0) {
		unlink(s->pid_path);
		close(s->pid_fd);
	}
	if (s->state_fd >= 0)
		close(s->state_fd);
	if (s->signal_fd >= 0)
		close(s->signal_fd);
	explicit_bzero(s->heritage.key_secret, sizeof(s->heritage.key_secret));
	free(s->pid_path);
	free(s->region_path);
}
