/*
 * Goal:   the master starts, restarts and ends its processes in the right order, and leaves
 *         nothing behind: no process, no socket, no open hold.
 * Method: a real master in a process of its own with stand-ins for the keeper's, the admin's and
 *         the workers' mains, which write down what happens to them in shared memory and
 *         misbehave on demand.  All waits are for a condition, with a bound.
 * objs: daemon/master.o daemon/setup.o daemon/supervise.o daemon/spawn.o daemon/secret.o daemon/sockets.o daemon/inherited.o
 * objs: daemon/calibrate.o daemon/tokenizer.o daemon/tokenizer_stream.o daemon/tokenizer_merge.o
 * objs: daemon/tokenizer_split.o daemon/tokenizer_class.o daemon/tokenizer_table.o
 * objs: daemon/dirs.o daemon/title.o daemon/notify.o daemon/log_file.o daemon/log_journal.o daemon/address.o daemon/log.o shm/region.o
 * objs: daemon/version.o daemon/reload.o daemon/takeover.o daemon/legacy.o daemon/order.o
 * objs: daemon/buf.o daemon/utf8.o
 * objs: shm/claim.o shm/reap.o shm/wake.o shm/hold.o shm/ledger.o shm/seat.o shm/account.o shm/ring.o shm/money.o shm/purse.o
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "daemon/config_change.h"
#include "daemon/config_record.h"
#include "daemon/heritage.h"
#include "daemon/master.h"
#include "daemon/metrics.h"
#include "daemon/order.h"
#include "daemon/supervise.h"
#include "daemon/title.h"
#include "shm/clock.h"
#include "shm/ledger.h"
#include "shm/ring.h"
#include "shm/wake.h"

#define WORKERS 2
#define SLOTS (PROC_WORKER + WORKERS)
#define EVENTS 256

enum event { EV_START, EV_DRAIN, EV_STOP };

/* Shared by all processes of a test. */
static struct control {
	/* What stand-ins are to do; set by the test before they look. */
	_Atomic int ignore_drain, ignore_stop; /* workers */
	_Atomic int die_at_start;              /* so many starts of a worker end at once */
	_Atomic int keeper_fails;              /* it exits before it has loaded anything */
	_Atomic int keeper_slow;               /* it loads only once this is 0 */
	_Atomic int open_hold;                 /* worker 1 opens one when it starts */
	/* What happened. */
	_Atomic int pid[SLOTS], starts[SLOTS], restarts, died;
	_Atomic uint64_t tokens;
	_Atomic int64_t charged;
	_Atomic uint64_t started_us[SLOTS][16];
	_Atomic int events;
	struct {
		enum event event;
		uint32_t proc;
	} event[EVENTS];
	_Atomic int64_t available; /* of the only account, as the keeper sees it */
	_Atomic uint32_t hold_word;
	_Atomic uint32_t generation[SLOTS];
	_Atomic int bad; /* the keeper marks worker 1 as bad */
} *control;

static char dir[] = "/tmp/test_master.XXXXXX";
static struct config config;
static char unix_address[128];
static pid_t master;
static in_port_t port;

/* Stand-ins. */

/*
 * Most of them run in the master or its children, where a failed assertion of cmocka's would go on
 * with the tests: in a second process, over the first one's files.  This is seen as a death.
 */
#define MUST(condition)                                                                           \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			log_warnx("test_master.c:%d: %s", __LINE__, #condition);               \
			_exit(70);                                                             \
		}                                                                                  \
	} while (0)

int
sandbox_prepare(const struct config *c)
{
	(void)c;
	return 0;
}

void
sandbox_bound_capabilities(void)
{
}

void
sandbox_enter(const struct config *c, enum sandbox_role role)
{
	(void)c;
	(void)role;
}

void
config_forget_secrets(struct config *c)
{
	(void)c;
}

void
metrics_init(const struct region *r, uint32_t proc)
{
	(void)r;
	(void)proc;
}

void
metrics_restart(void)
{
	control->restarts++;
}

void
metrics_stream(unsigned model, uint8_t outcome, uint64_t duration_us)
{
	(void)model;
	(void)duration_us;
	if (outcome == OUTCOME_WORKER_DIED)
		control->died++;
}

void
metrics_tokens(unsigned model, enum token_kind kind, uint64_t n)
{
	(void)model;
	if (kind == TOKENS_COMPLETION)
		control->tokens += n;
}

void
metrics_charged(unsigned model, int64_t charged, int64_t uncollected)
{
	(void)model;
	control->charged += charged + uncollected;
}

struct config *
config_load(const char *path, FILE *errors)
{
	struct config *c = calloc(1, sizeof(*c));
	(void)path;
	fprintf(errors, "tolld.conf:1: model: warning: from the test\n");
	c->log_level = LOG_DEBUG;
	return c;
}

int
config_record_new(void)
{
	return open("/dev/null", O_RDWR | O_CLOEXEC);
}

struct config *
config_record_load(int record, const char *path, FILE *errors)
{
	(void)record;
	return config_load(path, errors);
}

struct config *
config_record_read(int record, const char *path, bool tokenizers, FILE *errors)
{
	(void)record;
	MUST(tokenizers);
	return config_load(path, errors);
}

uint64_t
metrics_layout(void)
{
	return 1;
}

const char *
config_place(struct config *c, struct region_names *names, bool enter)
{
	(void)c;
	(void)names;
	MUST(enter);
	return NULL;
}

void
config_names_forget(const struct config *c, struct region_names *names)
{
	(void)c;
	(void)names;
}

void
config_carry(struct config *next, const struct config *now, uint32_t max_body_most,
    struct buf *restart)
{
	(void)max_body_most;
	next->timeouts = now->timeouts;
	buf_str(restart, "listen\n");
}

void
config_describe(const struct config *next, const struct config *now, struct buf *b)
{
	if (next->log_level != now->log_level)
		buf_str(b, "log_level\n");
}

/* What children do with a config. */
static void
take_orders(struct heritage *h, uint32_t proc)
{
	static struct order_received r;
	while (order_receive(h->order_theirs[proc], &r) == 1) {
		MUST(r.fds == 1);
		order_close(&r);
		if (r.order.kind == ORDER_REPORT && proc == PROC_ADMIN)
			continue; /* what became of the reload */
		MUST(r.order.kind == ORDER_CONFIG);
		/* The keeper before all others. */
		MUST(proc == PROC_KEEPER ||
		    region_proc(&h->region, PROC_KEEPER)->config == r.order.generation);
		region_proc(&h->region, proc)->config = r.order.generation;
		wake(&h->region, PROC_MASTER, h->wake_fd[PROC_MASTER]);
	}
}

void
config_free(struct config *c)
{
	if (c != &config)
		free(c);
}

static void
note(enum event event, uint32_t proc)
{
	int i = control->events++;
	MUST(i < EVENTS);
	control->event[i].event = event;
	control->event[i].proc = proc;
}

static void
note_start(const struct heritage *h, uint32_t proc)
{
	int n = control->starts[proc];
	if (n < 16)
		control->started_us[proc][n] = monotonic_us();
	control->pid[proc] = (int)getpid();
	control->generation[proc] = region_proc(&h->region, proc)->generation;
	control->starts[proc] = n + 1;
	note(EV_START, proc);
}

/* The signal that came within so many ms, or 0. */
static int
told(int ms)
{
	const struct timespec t = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L };
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, CHILD_SIG_DRAIN);
	sigaddset(&set, CHILD_SIG_STOP);
	int sig = sigtimedwait(&set, NULL, &t);
	return sig < 0 ? 0 : sig;
}

/* Declare all that is published durable and done, without writing it anywhere. */
static void
keep(struct heritage *h)
{
	for (uint32_t p = PROC_ADMIN; p < h->region.h->procs; p++) {
		struct ring *ring = region_ring(&h->region, p);
		if (ring_durable(ring) == ring_head(ring))
			continue;
		for (uint64_t at = ring_durable(ring) + 1; at <= ring_head(ring); at++) {
			const struct journal_record *r = &ring_peek(ring, at)->record;
			if (r->slot != JOURNAL_NONE)
				atomic_store(&hold_at(&h->region, r->slot)->journaled,
				    HOLD_WORD(r->op, RING_APPLIED));
		}
		ring_publish(ring, ring_head(ring));
		wake(&h->region, p, h->wake_fd[p]);
		wake(&h->region, PROC_MASTER, h->wake_fd[PROC_MASTER]);
	}
}

int
keeper_main(struct heritage *h)
{
	struct region_header *header = h->region.h;
	const struct account_books books = { .balance = 100 * MONEY_CREDIT };
	note_start(h, PROC_KEEPER);
	if (control->keeper_fails)
		return 1;
	while (control->keeper_slow)
		if (told(5) == CHILD_SIG_STOP)
			return 0;
	if (header->filled == 0) {
		if (region_grow_accounts(&h->region, 1) < 0 ||
		    !account_insert(&h->region, "a", 1, &books, books.balance))
			return 1;
	}
	atomic_store(&header->filled, REGION_FILLED);
	region_proc(&h->region, PROC_KEEPER)->config = h->generation;
	wake(&h->region, PROC_MASTER, h->wake_fd[PROC_MASTER]);
	for (;;) {
		keep(h);
		take_orders(h, PROC_KEEPER);
		control->available = account_available(account_at(&h->region, 0));
		if (atomic_exchange(&control->bad, 0)) {
			atomic_store(&region_proc(&h->region, PROC_WORKER)->bad, 1);
			wake(&h->region, PROC_MASTER, h->wake_fd[PROC_MASTER]);
		}
		if (told(2) == CHILD_SIG_STOP)
			break;
	}
	keep(h);
	control->available = account_available(account_at(&h->region, 0));
	note(EV_STOP, PROC_KEEPER);
	return 0;
}

int
admin_main(struct heritage *h)
{
	note_start(h, PROC_ADMIN);
	while (told(20) != CHILD_SIG_STOP)
		take_orders(h, PROC_ADMIN);
	note(EV_STOP, PROC_ADMIN);
	return 0;
}

static void
open_hold(struct heritage *h, uint32_t proc)
{
	struct ledger *l = ledger_new(&h->region, proc);
	struct hold_terms terms = {
		.account = account_at(&h->region, 0),
		.price = { 1000000, 1000000, 1000000 },
		.prompt = 1000, .max_tokens = 1000, .min_tokens = 1, .want_tokens = 1000,
	};
	struct hold *hold;
	uint64_t position;
	if (ledger_reserve(l, &terms, "", 0, &hold, &position) != LEDGER_OK)
		_exit(9);
	ledger_meter(hold, 500, 0);
}

int
worker_main(struct heritage *h, uint32_t proc)
{
	bool dies = control->die_at_start > 0;
	if (dies)
		control->die_at_start--;
	if (!dies && proc == PROC_WORKER && atomic_exchange(&control->open_hold, 0))
		open_hold(h, proc);
	note_start(h, proc);
	if (dies)
		return 7;
	for (;;) {
		int sig = told(20);
		take_orders(h, proc);
		if (sig != 0)
			note(sig == CHILD_SIG_DRAIN ? EV_DRAIN : EV_STOP, proc);
		if ((sig == CHILD_SIG_DRAIN && !control->ignore_drain) ||
		    (sig == CHILD_SIG_STOP && !control->ignore_stop))
			return 0;
	}
}

/* Driving a master. */

static const char *
in_dir(const char *name)
{
	static char path[4][160];
	static int next;
	next = (next + 1) % 4;
	snprintf(path[next], sizeof(path[0]), "%s/%s", dir, name);
	return path[next];
}

static bool
exists(const char *name)
{
	struct stat st;
	return lstat(in_dir(name), &st) == 0;
}

/* All of it: at level debug there is a line of each thing that is done, and time for many. */
static const char *
log_text(void)
{
	static char *text;
	int fd = open(in_dir("log"), O_RDONLY);
	struct stat st = {0};
	ssize_t n = -1;
	if (fd >= 0 && fstat(fd, &st) == 0) {
		text = realloc(text, (size_t)st.st_size + 1);
		assert_non_null(text);
		n = read(fd, text, (size_t)st.st_size);
	}
	if (fd >= 0)
		close(fd);
	if (n < 0)
		return "";
	text[n] = 0;
	return text;
}

/* Wait for a condition, a minute at most. */
#define AWAIT(condition)                                                                          \
	do {                                                                                       \
		uint64_t end_ = monotonic_us() + 60000000;                                     \
		while (!(condition)) {                                                             \
			if (monotonic_us() > end_) {                                           \
				print_message("%s", log_text());                               \
				fail_msg("waited in vain for: %s", #condition);                    \
			}                                                                      \
			poll(NULL, 0, 2);                                                          \
		}                                                                                  \
	} while (0)

static bool
said(const char *what)
{
	return strstr(log_text(), what) != NULL;
}

static pid_t
start_master(void)
{
	fflush(NULL);
	pid_t pid = fork();
	if (pid == 0) {
		int log = open(in_dir("log"), O_WRONLY | O_CREAT | O_APPEND, 0600);
		dup2(log, 2);
		close(log);
		setpgid(0, 0);
		_exit(master_run(&config, -1));
	}
	setpgid(pid, pid);
	return pid;
}

/* Start one and wait until all run. */
static void
start(void)
{
	unlink(in_dir("log"));
	master = start_master();
	AWAIT(said("msg=ready"));
	for (uint32_t p = PROC_KEEPER; p < SLOTS; p++)
		AWAIT(control->starts[p] > 0);
}

static int
exit_status(pid_t pid)
{
	int status = -1;
	AWAIT(waitpid(pid, &status, WNOHANG) == pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static int
end(int sig)
{
	kill(master, sig);
	int status = exit_status(master);
	if (status != 0)
		print_message("%s", log_text());
	master = 0;
	return status;
}

static void
assert_nothing_left(void)
{
	assert_false(exists("run/tolld.pid"));
	assert_false(exists("run/ledger.shm"));
	assert_false(exists("run/admin.sock"));
	assert_false(exists("listen.sock"));
	for (uint32_t p = PROC_KEEPER; p < SLOTS; p++)
		assert_int_equal(kill(control->pid[p], 0), -1);
}

/* Where an event of a process stands in the row; -1 if it never came. */
static int
event_at(enum event event, uint32_t proc)
{
	for (int i = 0; i < control->events; i++)
		if (control->event[i].event == event && control->event[i].proc == proc)
			return i;
	return -1;
}

static in_port_t
free_port(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(a);
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	getsockname(fd, (struct sockaddr *)&a, &len);
	close(fd);
	return ntohs(a.sin_port);
}

static int
connect_tcp(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
		.sin_port = htons(port) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int result = connect(fd, (struct sockaddr *)&a, sizeof(a));
	close(fd);
	return result;
}

static int
bind_unix(const char *path, bool listening)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	if (listening)
		assert_int_equal(listen(fd, 5), 0);
	return fd;
}

static void
read_file(const char *path, char *text, size_t cap)
{
	int fd = open(path, O_RDONLY);
	ssize_t n = fd < 0 ? 0 : read(fd, text, cap - 1);
	if (fd >= 0)
		close(fd);
	text[n > 0 ? n : 0] = 0;
}

/* The value of "Name:" in /proc/PID/status. */
static unsigned long long
proc_status(int pid, const char *name, int base)
{
	char path[64], text[4096];
	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	read_file(path, text, sizeof(text));
	char *at = strstr(text, name);
	assert_non_null(at);
	return strtoull(at + strlen(name), NULL, base);
}

static void
assert_title(int pid, const char *title)
{
	char path[64], text[4096];
	snprintf(path, sizeof(path), "/proc/%d/cmdline", pid);
	read_file(path, text, sizeof(text));
	assert_string_equal(text, title);
}

/* Tests. */

static void
starts_in_order_and_serves(void **state)
{
	char path[100], text[64];
	struct stat st;
	(void)state;
	snprintf(path, sizeof(path), "%s/notify", dir);
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
	int notified = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(notified, (struct sockaddr *)&a, sizeof(a)), 0);
	setenv("NOTIFY_SOCKET", path, 1);
	close(bind_unix(in_dir("listen.sock"), false)); /* a stale one is in the way */
	start();
	unsetenv("NOTIFY_SOCKET");

	assert_int_equal(event_at(EV_START, PROC_KEEPER), 0);
	for (uint32_t p = PROC_ADMIN; p < SLOTS; p++)
		assert_true(event_at(EV_START, p) > 0);
	assert_title((int)master, "tolld: master");
	assert_title(control->pid[PROC_KEEPER], "tolld: keeper");
	assert_title(control->pid[PROC_ADMIN], "tolld: admin");
	assert_title(control->pid[PROC_WORKER], "tolld: worker 1");
	assert_title(control->pid[PROC_WORKER + 1], "tolld: worker 2");
	for (uint32_t p = PROC_KEEPER; p < SLOTS; p++) {
		int pid = control->pid[p];
		unsigned long long ignored = proc_status(pid, "SigIgn:", 16);
		assert_int_equal(proc_status(pid, "PPid:", 10), master);
		assert_int_equal(getpgid(pid), master);
		assert_int_equal(getsid(pid), getsid(0));
		assert_true(ignored & 1u << (SIGINT - 1) && ignored & 1u << (SIGHUP - 1) &&
		    ignored & 1u << (SIGTERM - 1) && ignored & 1u << (SIGQUIT - 1));
	}
	assert_int_equal(recv(notified, text, sizeof(text), 0), 7);
	assert_memory_equal(text, "READY=1", 7);
	close(notified);
	assert_int_equal(connect_tcp(), 0);
	assert_int_equal(lstat(in_dir("run/admin.sock"), &st), 0);
	assert_int_equal(st.st_mode, S_IFSOCK | 0660);
	assert_int_equal(lstat(in_dir("listen.sock"), &st), 0);
	assert_int_equal(st.st_mode, S_IFSOCK | 0660);
	assert_int_equal(lstat(in_dir("state"), &st), 0);
	assert_int_equal(st.st_mode, S_IFDIR | 0700);
	assert_int_equal(lstat(in_dir("state/key.secret"), &st), 0);
	assert_int_equal(st.st_mode, S_IFREG | 0600);
	assert_int_equal(st.st_size, 32);
	read_file(in_dir("run/tolld.pid"), text, sizeof(text));
	assert_int_equal(atoi(text), master);
	assert_int_equal(end(SIGTERM), 0);
	assert_nothing_left();
}

static void
a_dead_worker_is_replaced_at_once(void **state)
{
	(void)state;
	start();
	int old = control->pid[PROC_WORKER], other = control->pid[PROC_WORKER + 1];
	uint32_t generation = control->generation[PROC_WORKER];
	kill(old, SIGKILL);
	AWAIT(control->starts[PROC_WORKER] == 2);
	assert_int_equal(control->generation[PROC_WORKER], generation + 1);
	assert_int_not_equal(control->pid[PROC_WORKER], old);
	assert_int_equal(control->pid[PROC_WORKER + 1], other);
	assert_int_equal(kill(other, 0), 0);
	assert_int_equal(control->restarts, 1);
	assert_true(said("signal=\"9 (Killed)\"") && said("restart_in_ms=0"));
	assert_int_equal(connect_tcp(), 0);
	/* The same for the other two. */
	kill(control->pid[PROC_ADMIN], SIGKILL);
	AWAIT(control->starts[PROC_ADMIN] == 2);
	kill(control->pid[PROC_KEEPER], SIGKILL);
	AWAIT(control->starts[PROC_KEEPER] == 2);
	assert_int_equal(control->restarts, 1);
	assert_int_equal(end(SIGTERM), 0);
	assert_nothing_left();
}

static void
repeated_deaths_back_off(void **state)
{
	(void)state;
	config.workers = 1;
	control->die_at_start = 5;
	unlink(in_dir("log"));
	master = start_master();
	AWAIT(control->starts[PROC_WORKER] == 6);
	uint64_t gap[6];
	for (int i = 1; i < 6; i++)
		gap[i] = control->started_us[PROC_WORKER][i] -
		    control->started_us[PROC_WORKER][i - 1];
	assert_true(gap[1] < 100000 || said("restart_in_ms=0"));
	assert_true(gap[2] >= 100000 && gap[3] >= 200000 && gap[4] >= 400000 && gap[5] >= 800000);
	assert_true(said("status=7"));
	assert_int_equal(end(SIGTERM), 0);
}

static void
a_drain_goes_from_the_workers_to_the_keeper(void **state)
{
	(void)state;
	start();
	kill(-master, SIGTERM); /* the whole group, as a service manager does */
	assert_int_equal(exit_status(master), 0);
	master = 0;
	int admin = event_at(EV_STOP, PROC_ADMIN), keeper = event_at(EV_STOP, PROC_KEEPER);
	for (uint32_t p = PROC_WORKER; p < SLOTS; p++) {
		assert_true(event_at(EV_DRAIN, p) >= 0 && event_at(EV_DRAIN, p) < admin);
		assert_int_equal(control->starts[p], 1);
	}
	assert_true(admin < keeper);
	assert_nothing_left();
}

static void
a_long_drain_is_stopped(void **state)
{
	(void)state;
	config.timeouts.drain = 1;
	control->ignore_drain = 1;
	start();
	assert_int_equal(end(SIGTERM), 0);
	for (uint32_t p = PROC_WORKER; p < SLOTS; p++)
		assert_true(event_at(EV_DRAIN, p) < event_at(EV_STOP, p));
	assert_nothing_left();
}

static void
a_second_signal_stops_a_drain(void **state)
{
	(void)state;
	control->ignore_drain = 1;
	start();
	kill(master, SIGTERM);
	AWAIT(event_at(EV_DRAIN, PROC_WORKER) >= 0);
	/* A worker that dies now is not replaced. */
	kill(control->pid[PROC_WORKER], SIGKILL);
	AWAIT(said("signal=\"9 (Killed)\""));
	assert_int_equal(end(SIGTERM), 0);
	assert_int_equal(control->starts[PROC_WORKER], 1);
	assert_nothing_left();
}

static void
who_does_not_stop_is_killed(void **state)
{
	(void)state;
	control->ignore_stop = 1;
	control->open_hold = 1;
	start();
	AWAIT(control->available == 100 * MONEY_CREDIT - 2000);
	assert_int_equal(end(SIGINT), 0);
	assert_true(said("did not stop in time"));
	/* Its hold was settled at its meter: 1,000 + 500 tokens of a micro-credit each. */
	assert_int_equal(control->available, 100 * MONEY_CREDIT - 1500);
	assert_nothing_left();
}

static void
a_dead_workers_hold_is_settled(void **state)
{
	(void)state;
	control->open_hold = 1;
	start();
	AWAIT(control->available == 100 * MONEY_CREDIT - 2000);
	kill(control->pid[PROC_WORKER], SIGKILL);
	AWAIT(control->available == 100 * MONEY_CREDIT - 1500);
	AWAIT(control->starts[PROC_WORKER] == 2);
	assert_true(said("settled=1"));
	/* And counted, since its own counters never saw the end of it. */
	assert_int_equal(control->died, 1);
	assert_int_equal(control->tokens, 500);
	assert_int_equal(control->charged, 1500);
	assert_int_equal(end(SIGTERM), 0);
}

static void
children_die_with_the_master_and_the_next_recovers(void **state)
{
	(void)state;
	control->open_hold = 1;
	start();
	AWAIT(control->available == 100 * MONEY_CREDIT - 2000);
	kill(master, SIGKILL);
	assert_int_equal(exit_status(master), 1000 + SIGKILL);
	for (uint32_t p = PROC_KEEPER; p < SLOTS; p++)
		AWAIT(kill(control->pid[p], 0) < 0);
	assert_true(exists("run/ledger.shm") && exists("run/admin.sock"));
	start();
	assert_true(said("recovering"));
	AWAIT(control->available == 100 * MONEY_CREDIT - 1500);
	assert_int_equal(end(SIGTERM), 0);
	assert_nothing_left();
}

static void
a_start_right_after_a_kill_succeeds(void **state)
{
	(void)state;
	start();
	for (int i = 0; i < 5; i++) {
		kill(master, SIGKILL);
		assert_int_equal(exit_status(master), 1000 + SIGKILL);
		start(); /* while its children may still be dying */
	}
	assert_int_equal(end(SIGTERM), 0);
	assert_nothing_left();
}

static void
a_second_daemon_is_refused(void **state)
{
	char pid[32];
	(void)state;
	start();
	snprintf(pid, sizeof(pid), "pid=%d", (int)master);
	assert_int_equal(exit_status(start_master()), 1);
	assert_true(said("another tolld is running") && said(pid));
	/* The same state_dir from elsewhere. */
	char *run = config.runtime_dir;
	config.runtime_dir = strdup(in_dir("run2"));
	assert_int_equal(exit_status(start_master()), 1);
	assert_true(said("state/tolld.lock"));
	assert_false(exists("run2/tolld.pid"));
	/* The same address from another folder. */
	char *state_dir = config.state_dir;
	config.state_dir = strdup(in_dir("state2"));
	assert_int_equal(exit_status(start_master()), 1);
	assert_true(said("Address already in use") || said("another process does"));
	assert_false(exists("run2/tolld.pid") || exists("run2/admin.sock") ||
	    exists("run2/ledger.shm"));
	free(config.runtime_dir);
	free(config.state_dir);
	config.runtime_dir = run;
	config.state_dir = state_dir;
	assert_true(exists("run/admin.sock") && exists("listen.sock"));
	assert_int_equal(connect_tcp(), 0);
	assert_int_equal(end(SIGTERM), 0);
}

static void
a_bad_start_says_why_and_leaves_nothing(void **state)
{
	(void)state;
	/* A live socket is not taken away. */
	unlink(in_dir("log"));
	int live = bind_unix(in_dir("listen.sock"), true);
	assert_int_equal(exit_status(start_master()), 1);
	assert_true(said("another process does"));
	assert_true(exists("listen.sock"));
	assert_false(exists("run/admin.sock") || exists("run/tolld.pid") ||
	    exists("run/ledger.shm"));
	close(live);
	unlink(in_dir("listen.sock"));
	/* A journal without its secret. */
	close(open(in_dir("state/journal.mdb"), O_CREAT | O_WRONLY, 0600));
	unlink(in_dir("state/key.secret"));
	assert_int_equal(exit_status(start_master()), 1);
	assert_true(said("is missing though there is a journal"));
	unlink(in_dir("state/journal.mdb"));
	/* A secret that others may read, or of the wrong size. */
	int fd = open(in_dir("state/key.secret"), O_CREAT | O_WRONLY, 0600);
	assert_int_equal(exit_status(start_master()), 1);
	assert_true(said("not a file of 32 bytes"));
	assert_int_equal(ftruncate(fd, 32), 0);
	assert_int_equal(fchmod(fd, 0644), 0);
	close(fd);
	assert_int_equal(exit_status(start_master()), 1);
	assert_true(said("must have mode 0600"));
	unlink(in_dir("state/key.secret"));
	/* A keeper that cannot load. */
	control->keeper_fails = 1;
	assert_int_equal(exit_status(start_master()), 1);
	assert_true(said("cannot load the journal"));
	control->keeper_fails = 0;
	/* And after all that a good start. */
	start();
	assert_int_equal(end(SIGTERM), 0);
	assert_nothing_left();
}

static void
an_end_before_the_start_is_over(void **state)
{
	(void)state;
	control->keeper_slow = 1;
	unlink(in_dir("log"));
	master = start_master();
	AWAIT(control->starts[PROC_KEEPER] == 1);
	assert_int_equal(end(SIGTERM), 0);
	assert_int_equal(control->starts[PROC_WORKER], 0);
	assert_false(exists("run/ledger.shm") || exists("run/tolld.pid"));
}

static void
a_forger_is_killed(void **state)
{
	(void)state;
	start();
	control->bad = 1;
	AWAIT(control->starts[PROC_WORKER] == 2);
	assert_true(said("forged record"));
	assert_int_equal(end(SIGQUIT), 0);
}

static void
other_signals_are_answered(void **state)
{
	(void)state;
	start();
	assert_false(said("level=debug"));
	kill(master, SIGHUP);
	AWAIT(said("config reloaded"));
	assert_true(said("generation=2 changed=log_level need_restart=listen"));
	assert_true(said("from the test"));
	kill(master, SIGHUP);
	AWAIT(said("config unchanged"));
	kill(master, SIGUSR1);
	AWAIT(said("nothing to open anew"));
	kill(master, SIGUSR2); /* this test is no tolld */
	AWAIT(said("upgrade refused"));
	assert_int_equal(end(SIGTERM), 0);
	assert_true(said("level=debug")); /* the new level was in force */
	assert_false(said("process died"));
}

static void
privileges_are_dropped(void **state)
{
	const struct passwd *pw = getpwnam("nobody");
	(void)state;
	if (geteuid() != 0 || !pw)
		skip();
	config.user = (char *)"nobody";
	start();
	assert_int_equal(proc_status((int)master, "Uid:", 10), 0);
	for (uint32_t p = PROC_KEEPER; p < SLOTS; p++) {
		assert_int_equal(proc_status(control->pid[p], "Uid:", 10), pw->pw_uid);
		assert_int_equal(proc_status(control->pid[p], "Gid:", 10), pw->pw_gid);
		assert_int_equal(proc_status(control->pid[p], "CapEff:", 16), 0);
	}
	struct stat st;
	assert_int_equal(stat(in_dir("state/key.secret"), &st), 0);
	assert_int_equal(st.st_uid, pw->pw_uid);
	kill(master, SIGKILL); /* the death signal survives the change of user */
	assert_int_equal(exit_status(master), 1000 + SIGKILL);
	for (uint32_t p = PROC_KEEPER; p < SLOTS; p++)
		AWAIT(kill(control->pid[p], 0) < 0);
	start();
	assert_int_equal(end(SIGTERM), 0);
	assert_nothing_left();
}

static int
setup(void **state)
{
	(void)state;
	strcpy(dir + sizeof(dir) - 7, "XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	memset(control, 0, sizeof(*control));
	static char run[160], state_dir[160], tcp[64];
	port = free_port();
	snprintf(run, sizeof(run), "%s/run", dir);
	snprintf(state_dir, sizeof(state_dir), "%s/state", dir);
	snprintf(tcp, sizeof(tcp), "127.0.0.1:%d", port);
	snprintf(unix_address, sizeof(unix_address), "unix:%s/listen.sock", dir);
	config = (struct config){
		.path = (char *)"tolld.conf", .user = (char *)"", .workers = WORKERS,
		.listen = { tcp, unix_address }, .listen_count = 2, .admin_listen = (char *)"", .admin_group = "", .admin_full_group = "",
		.state_dir = state_dir, .runtime_dir = run, .max_body = 1 << 20,
		.log_level = LOG_INFO, .log_file = "", .ledger = { .max_accounts = 100, .max_holds = 100 },
		.timeouts = { .drain = 30 },
	};
	return 0;
}

static int
teardown(void **state)
{
	char command[200];
	(void)state;
	if (master > 0) { /* the test failed half-way */
		print_message("%s", log_text());
		kill(master, SIGKILL);
		waitpid(master, NULL, 0);
		master = 0;
	}
	snprintf(command, sizeof(command), "rm -rf '%s'", dir);
	return system(command);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		TEST(starts_in_order_and_serves),
		TEST(a_dead_worker_is_replaced_at_once),
		TEST(repeated_deaths_back_off),
		TEST(a_drain_goes_from_the_workers_to_the_keeper),
		TEST(a_long_drain_is_stopped),
		TEST(a_second_signal_stops_a_drain),
		TEST(who_does_not_stop_is_killed),
		TEST(a_dead_workers_hold_is_settled),
		TEST(children_die_with_the_master_and_the_next_recovers),
		TEST(a_start_right_after_a_kill_succeeds),
		TEST(a_second_daemon_is_refused),
		TEST(a_bad_start_says_why_and_leaves_nothing),
		TEST(an_end_before_the_start_is_over),
		TEST(a_forger_is_killed),
		TEST(other_signals_are_answered),
		TEST(privileges_are_dropped),
	};
	title_init(argc, argv);
	control = mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
	    -1, 0);
	if (control == MAP_FAILED)
		return 1;
	return cmocka_run_group_tests_name("master", tests, NULL, NULL);
}
