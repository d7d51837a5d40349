/*
 * Goal:   what a reserve costs in memory, what it costs to have it on disk, and how long a
 *         restart takes; and the same work by Redis and SQLite (PostgreSQL has pgbench).
 * Method: one measurement a call, one JSON object on stdout; tests/bench/ledger-run calls it in
 *         turns.  The keeper is the real one, forked; the workers here do with shm/ledger.h what
 *         the daemon's do, without HTTP.
 *
 * A pair is: reserve, wait until that is durable, settle, wait until that is durable; on an
 * account drawn at random.  A process keeps its share of the outstanding pairs going and measures
 * from before the reserve until the settle is known to be on disk.
 *
 * One file for all, long as it is: they share the window, the figures and the shape of a pair,
 * and that is what makes them comparable.
 *
 * objs: daemon/keeper.o daemon/compact_make.o daemon/title.o daemon/compact.o daemon/keeper_batch.o daemon/keeper_gone.o daemon/keeper_refs.o daemon/keeper_project.o daemon/projector.o daemon/recover.o daemon/keeper_prices.o daemon/proof.o daemon/checkpoint.o daemon/books_rows.o daemon/state.o daemon/state_job.o daemon/state_streams.o daemon/state_read.o daemon/journal.o daemon/journal_file.o daemon/journal_compact.o daemon/journal_chain.o daemon/journal_read.o daemon/books.o daemon/books_refs.o daemon/books_apply.o daemon/books_caps.o shm/purse.o daemon/books_check.o daemon/metrics.o daemon/buf.o daemon/keeper_history.o daemon/journal_history.o daemon/journal_receipts.o
 * objs: daemon/log.o daemon/utf8.o shm/money.o shm/account.o shm/region.o shm/ring.o
 * objs: shm/hold.o shm/ledger.o shm/seat.o shm/wake.o shm/purse.o
 * objs: daemon/renew.o daemon/config_record.o daemon/order.o daemon/config.o daemon/config_file.o daemon/config_text.o
 * objs: daemon/config_value.o daemon/config_jwt.o daemon/config_check.o daemon/config_source.o
 * objs: daemon/config_change.o daemon/auth_scope.o daemon/secret.o daemon/address.o
 * objs: daemon/calibrate.o daemon/tokenizer.o daemon/tokenizer_stream.o daemon/tokenizer_merge.o
 * objs: daemon/tokenizer_split.o daemon/tokenizer_class.o daemon/tokenizer_table.o
 */
#include <dirent.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#if __has_include(<sqlite3.h>)
#include <sqlite3.h>
#define HAVE_SQLITE 1
#endif

#include "daemon/books.h"
#include "daemon/heritage.h"
#include "daemon/journal.h"
#include "daemon/state.h"
#include "shm/clock.h"
#include "shm/ledger.h"
#include "shm/ring.h"
#include "shm/wake.h"
#include "shm/word.h"
#include "tests/unit/project.h"

#define WORKERS 2
#define SAMPLES_MAX (1u << 22) /* of one process; a longer run keeps the first */
#define BATCH 64
#define TIMEOUT_NS (60 * INT64_C(1000000000))

/* 1.5, 0.5 and 3 micro-credits a token: 105 reserved, 75 charged. */
static const struct price price = {1500000, 500000, 3000000, 3000000, 1500000, 0};
#define PROMPT 10
#define WANT 30
#define USED 20
#define HOLD 105
#define CHARGE 75
#define CREDIT (INT64_C(1) << 50) /* nobody runs out */

static struct options {
	const char *dir, *socket;
	uint32_t accounts, records, outstanding;
	unsigned text; /* bytes of message and of answer that are journaled */
	int64_t warm_ns, run_ns;
	pid_t server;
	bool stop; /* restart: let the keeper project what is left */
	bool once; /* durable: one look whether the keeper sleeps a round, not one a record */
} opt = {.accounts = 10000,
    .records = 1000000,
    .outstanding = 64,
    .text = 40,
    .warm_ns = 500000000,
    .run_ns = 3000000000};

/* What the children write and the parent reads; each child has its own. */
struct tally { /* 64 bytes and the samples */
	_Alignas(64) uint64_t pairs, steps;
	double ns[5];
	uint32_t *pair_ns, *step_ns;
};

/* Of all of a measurement's processes. */
struct shared {
	_Alignas(64) _Atomic int64_t begin, end; /* the window, CLOCK_MONOTONIC */
	_Alignas(64) _Atomic uint32_t ready;
	_Alignas(64) _Atomic int64_t plain;
	_Alignas(64) pthread_mutex_t mutex;
	int64_t guarded;
	struct tally tally[WORKERS];
};
static struct shared *shared;

static pid_t children[WORKERS + 1]; /* the last is the keeper */

static _Noreturn void __attribute__((format(printf, 1, 2))) die(const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	fputs("bench-ledger: ", stderr);
	vfprintf(stderr, format, ap);
	fputc('\n', stderr);
	va_end(ap);
	/* The children have PR_SET_PDEATHSIG. */
	exit(1);
}

static int64_t
now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

static void
sleep_until(int64_t ns)
{
	struct timespec ts = {ns / 1000000000, ns % 1000000000};

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL) == EINTR)
		;
}

static void *
map(size_t bytes)
{
	void *p = mmap(
	    NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		die("mmap: %s", strerror(errno));
	return p;
}

static void
shared_new(void)
{
	shared = map(sizeof *shared);
	for (int i = 0; i < WORKERS; i++) {
		shared->tally[i].pair_ns = map(SAMPLES_MAX * sizeof(uint32_t));
		shared->tally[i].step_ns = map(SAMPLES_MAX * sizeof(uint32_t));
	}
}

static pid_t
fork_child(void)
{
	pid_t pid;

	(void)fflush(stdout);
	pid = fork();
	if (pid < 0)
		die("fork: %s", strerror(errno));
	if (pid == 0)
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	return pid;
}

static void
join(pid_t pid)
{
	int status;

	if (waitpid(pid, &status, 0) != pid || status != 0)
		die("process %d ended with status 0x%x", (int)pid, (unsigned)status);
}

/* CPU time that a process's threads have had. */
static double
cpu_ns(pid_t pid)
{
	char path[64];
	double all = 0, ns;
	struct dirent *e;
	FILE *f;
	DIR *d;

	(void)snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
	if (pid == 0 || (d = opendir(path)) == NULL)
		return 0;
	while ((e = readdir(d)) != NULL) {
		(void)snprintf(path, sizeof path, "/proc/%d/task/%.20s/schedstat", (int)pid,
		    e->d_name);
		if (e->d_name[0] == '.' || (f = fopen(path, "r")) == NULL)
			continue;
		if (fscanf(f, "%lf", &ns) == 1)
			all += ns;
		(void)fclose(f);
	}
	(void)closedir(d);
	return all;
}

static uint64_t
draw(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

/* Figures. */

static int
by_size(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

static void
percentiles(const char *name, bool steps)
{
	uint32_t *all;
	size_t n = 0;

	all = calloc(WORKERS * SAMPLES_MAX, sizeof *all);
	if (all == NULL)
		die("memory");
	for (int i = 0; i < WORKERS; i++) {
		const struct tally *t = &shared->tally[i];
		uint64_t count = steps ? t->steps : t->pairs;

		if (count > SAMPLES_MAX)
			count = SAMPLES_MAX;
		memcpy(all + n, steps ? t->step_ns : t->pair_ns, count * sizeof *all);
		n += count;
	}
	if (n == 0)
		die("nothing was done");
	qsort(all, n, sizeof *all, by_size);
	printf(", \"%s_p50_us\": %.1f, \"%s_p99_us\": %.1f", name, all[n / 2] / 1e3, name,
	    all[n * 99 / 100] / 1e3);
	free(all);
}

static void
count_step(struct tally *t, int64_t since, int64_t now)
{
	if (now < shared->begin || now >= shared->end)
		return;
	if (t->steps < SAMPLES_MAX)
		t->step_ns[t->steps] = (uint32_t)(now - since);
	t->steps++;
}

static void
count_pair(struct tally *t, int64_t since, int64_t now)
{
	if (now < shared->begin || now >= shared->end)
		return;
	if (t->pairs < SAMPLES_MAX)
		t->pair_ns[t->pairs] = (uint32_t)(now - since);
	t->pairs++;
}

/* Run one function in `n` processes for the window, and print what they did. */
static void
measure(int n, void (*run)(int, void *), void *arg, pid_t server)
{
	uint64_t pairs = 0;
	double cpu;

	shared->begin = now_ns() + opt.warm_ns;
	shared->end = shared->begin + opt.run_ns;
	for (int i = 0; i < n; i++)
		if ((children[i] = fork_child()) == 0) {
			run(i, arg);
			_exit(0);
		}
	sleep_until(shared->begin);
	cpu = cpu_ns(server);
	sleep_until(shared->end);
	cpu = cpu_ns(server) - cpu;
	for (int i = 0; i < n; i++) {
		join(children[i]);
		pairs += shared->tally[i].pairs;
	}
	printf("{\"pairs_s\": %.0f", (double)pairs * 1e9 / (double)opt.run_ns);
	percentiles("pair", false);
	percentiles("step", true);
	if (server != 0)
		printf(", \"server_cpu\": %.3f, \"server_us_pair\": %.2f", cpu / (double)opt.run_ns,
		    cpu / 1e3 / (double)pairs);
	printf("}\n");
}

/* A region, and the keeper on it. */

static struct heritage *heritage;
static struct region *region;

static void
region_new(uint32_t accounts)
{
	/* The rest as the daemon makes it by default. */
	const struct region_dims dims = {.workers = WORKERS,
	    .max_accounts = accounts + 16,
	    .max_keys = 64,
	    .max_holds = 1 << 16,
	    .ring_records = 1 << 13,
	    .ring_arena = 1 << 22};

	heritage = calloc(1, sizeof *heritage);
	if (heritage == NULL || (heritage->config = calloc(1, sizeof *heritage->config)) == NULL)
		die("memory");
	heritage->config->state_dir = heritage->config->runtime_dir = strdup(opt.dir);
	heritage->order_theirs[PROC_KEEPER] = -1;
	heritage->config->model_count = 1;
	heritage->config->model[0].name = strdup("model");
	heritage->config->model[0].price = price;
	for (int i = 0; i < REGION_PROCS_MAX; i++)
		heritage->wake_fd[i] =
		    i < PROC_WORKER + 2 * WORKERS ? eventfd(0, EFD_NONBLOCK) : -1;
	region = &heritage->region;
	if (region_anonymous(region, &dims) < 0)
		die("region: %s", strerror(errno));
}

/* Sleep until woken, unless it is so by now. */
#define SLEEP_UNLESS(proc, condition)                                                  \
	do {                                                                           \
		struct pollfd pfd = {.fd = heritage->wake_fd[proc], .events = POLLIN}; \
		wake_prepare(region, proc);                                            \
		if (!(condition) && poll(&pfd, 1, 10000) == 0)                         \
			die("nothing has become durable for 10 s");                    \
		wake_done(region, proc, pfd.fd);                                       \
	} while (0)

/* Seconds until it serves. */
static double
keeper_start(void)
{
	int64_t start = now_ns();
	pid_t pid = fork_child();

	if (pid == 0)
		_exit(keeper_main(heritage));
	children[WORKERS] = pid;
	while (atomic_load_explicit(&region->h->filled, memory_order_acquire) == 0) {
		struct pollfd pfd = {.fd = heritage->wake_fd[PROC_MASTER], .events = POLLIN};

		wake_prepare(region, PROC_MASTER);
		if (atomic_load_explicit(&region->h->filled, memory_order_acquire) == 0)
			(void)poll(&pfd, 1, 1000);
		wake_done(region, PROC_MASTER, pfd.fd);
		if (waitpid(pid, NULL, WNOHANG) != 0 || now_ns() - start > TIMEOUT_NS)
			die("the keeper does not start");
	}
	return (double)(now_ns() - start) / 1e9;
}

static void
keeper_stop(void)
{
	if (kill(children[WORKERS], CHILD_SIG_STOP) < 0)
		die("the keeper is gone");
	join(children[WORKERS]);
}

/* Records. */

struct reserve_payload {
	struct journal_reserve head;
	char rest[4096];
};

static size_t
reserve_payload(struct reserve_payload *p, uint32_t proc, uint64_t n)
{
	static const char model[] = "model";

	/* As random as the daemon's: what follows another is not beside it. */
	uint64_t scattered = (n << 8 | proc) * UINT64_C(0x9e3779b97f4a7c15);

	memset(&p->head, 0, sizeof p->head);
	scattered = __builtin_bswap64(scattered);
	memcpy(p->head.stream_id, &scattered, sizeof scattered);
	memcpy(p->head.message_id, p->head.stream_id, sizeof p->head.message_id);
	p->head.model_len = sizeof model - 1;
	memcpy(p->rest, model, sizeof model - 1);
	memset(p->rest + sizeof model - 1, 'x', opt.text);
	return sizeof p->head + sizeof model - 1 + opt.text;
}

static struct journal_record
account_record(uint32_t n, char payload[static 64])
{
	char id[16];
	struct journal_account head = {.id_len = (uint16_t)snprintf(id, sizeof id, "user-%u", n)};

	memcpy(payload, &head, sizeof head);
	memcpy(payload + sizeof head, id, head.id_len);
	return (struct journal_record){.type = JOURNAL_ACCOUNT,
	    .version = JOURNAL_VERSION,
	    .slot = JOURNAL_NONE,
	    .account = JOURNAL_NONE,
	    .price = JOURNAL_NONE,
	    .amount = CREDIT,
	    .payload_len = (uint32_t)sizeof head + head.id_len,
	    .time_us = 1};
}

/* Through the keeper, as the admin process does it. */
static void
make_accounts(void)
{
	struct ring *ring = region_ring(region, PROC_ADMIN);
	char payload[64];

	for (uint32_t i = 0; i < opt.accounts;) {
		struct journal_record r = account_record(i, payload);

		if (ring_push(ring, &r, payload, r.payload_len) != 0) {
			i++;
			continue;
		}
		wake(region, PROC_KEEPER, heritage->wake_fd[PROC_KEEPER]);
		SLEEP_UNLESS(PROC_ADMIN, ring_durable(ring) == ring_head(ring));
		ring_ack(ring, ring_durable(ring));
	}
	while (ring_durable(ring) < ring_head(ring)) {
		wake(region, PROC_KEEPER, heritage->wake_fd[PROC_KEEPER]);
		SLEEP_UNLESS(PROC_ADMIN, ring_durable(ring) == ring_head(ring));
	}
	if (atomic_load(&region->h->accounts) != opt.accounts)
		die("there are %u accounts", atomic_load(&region->h->accounts));
}

/* One worker's ledger, and what it needs for a pair. */
struct worker {
	struct ledger *ledger;
	struct ring *ring;
	struct hold_terms terms;
	struct settlement settlement;
	struct reserve_payload payload;
	char text[4096];
	uint32_t proc;
	uint64_t streams;
};

static void
worker_init(struct worker *w, uint32_t proc)
{
	memset(w, 0, sizeof *w);
	w->proc = proc;
	w->ledger = ledger_new(region, proc);
	if (w->ledger == NULL)
		die("memory");
	w->ring = ledger_ring(w->ledger);
	w->terms = (struct hold_terms){.price = price,
	    .prompt = PROMPT,
	    .max_tokens = 1000,
	    .min_tokens = 1,
	    .want_tokens = WANT,
	    .reserved_us = realtime_us()};
	w->settlement = (struct settlement){
	    .charge = CHARGE, .prompt = PROMPT, .completion = USED, .outcome = OUTCOME_STOP};
	memset(w->text, 'y', sizeof w->text);
}

static struct hold *
worker_reserve(struct worker *w, struct account *a, uint64_t *position)
{
	size_t len = reserve_payload(&w->payload, w->proc, ++w->streams);
	struct hold *h;
	enum ledger_result r;

	w->terms.account = a;
	r = ledger_reserve(w->ledger, &w->terms, &w->payload, len, &h, position);
	if (r != LEDGER_OK)
		die("reserve: %d", r);
	return h;
}

static uint64_t
worker_settle(struct worker *w, struct hold *h)
{
	uint64_t position;
	enum ledger_result r =
	    ledger_settle(w->ledger, h, &w->settlement, w->text, opt.text, &position);

	if (r != LEDGER_OK)
		die("settle: %d", r);
	return position;
}

/* --- memory: nothing is waited for, nobody consumes --- */

/*
 * What is timed, in nanoseconds an operation:
 *   0  plain    an int64 compare-and-swap loop on a word that is shared, for comparison
 *   1  mutex    a robust process-shared mutex around a subtraction, for comparison
 *   2  debit    word_read, help and the 16-byte compare-and-swap with a new tag: what a reserve
 *               does to an account
 *   3  reserve  the whole of ledger_reserve: terms into the slot, debit, clock, record and
 *               payload into the ring
 *   4  settle   ledger_settle, the same with its record, and ledger_close, the credit
 * The last two are timed by batches of 64 calls.  Between the timed batches the process itself
 * plays the keeper: it marks its own ring's records as applied, publishes and acks them.
 */
enum { PLAIN, MUTEX, DEBIT, WHOLE, SETTLE };

struct memory {
	int processes;
	bool apart; /* each its own account, neighbours in the table */
};

static void
pin(int n)
{
	cpu_set_t all, one;
	size_t seen = 0;

	if (sched_getaffinity(0, sizeof all, &all) < 0)
		return;
	CPU_ZERO(&one);
	for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, &all) && seen++ == (size_t)(n % CPU_COUNT(&all)))
			CPU_SET(cpu, &one);
	(void)sched_setaffinity(0, sizeof one, &one);
}

/* All begin together, run for a while and know how many they did. */
static void
rendezvous(uint32_t step, const struct memory *m)
{
	atomic_fetch_add(&shared->ready, 1);
	while (atomic_load(&shared->ready) < step * (uint32_t)m->processes)
		;
}

static void
plain_debits(_Atomic int64_t *word)
{
	for (int i = 0; i < BATCH; i++) {
		int64_t old = atomic_load_explicit(word, memory_order_relaxed);

		while (!atomic_compare_exchange_weak(word, &old, old - 1))
			;
	}
}

static void
mutex_debits(void)
{
	for (int i = 0; i < BATCH; i++) {
		if (pthread_mutex_lock(&shared->mutex) != 0)
			die("mutex");
		shared->guarded--;
		(void)pthread_mutex_unlock(&shared->mutex);
	}
}

static void
debits(struct account *a, uint32_t slot, uint64_t *seq)
{
	for (int i = 0; i < BATCH; i++) {
		struct account_word w;

		++*seq;
		do
			w = word_read(a);
		while (!word_replace(region, a, w, w.available - 1, tag_of(slot, *seq)));
	}
}

/* Time of reserves and of settles in one batch. */
static void
batch_of_pairs(struct worker *w, struct account *a, int64_t ns[2])
{
	struct hold *h[BATCH];
	uint64_t position[BATCH];
	int64_t t0 = now_ns(), t1;

	for (int i = 0; i < BATCH; i++)
		h[i] = worker_reserve(w, a, &position[i]);
	t1 = now_ns();
	ns[0] += t1 - t0;
	ring_publish(w->ring, ring_head(w->ring));
	t0 = now_ns();
	for (int i = 0; i < BATCH; i++)
		position[i] = worker_settle(w, h[i]);
	t1 = now_ns();
	ns[1] += t1 - t0;
	for (int i = 0; i < BATCH; i++)
		ring_peek(w->ring, position[i])->status = RING_APPLIED;
	ring_publish(w->ring, ring_head(w->ring));
	t0 = now_ns();
	for (int i = 0; i < BATCH; i++)
		if (ledger_close(w->ledger, h[i], position[i], NULL) != RING_APPLIED)
			die("close");
	t1 = now_ns();
	ns[1] += t1 - t0;
	ring_ack(w->ring, ring_head(w->ring));
}

static void
memory_run(int n, void *arg)
{
	const struct memory *m = arg;
	static struct worker w;
	struct account *a = account_at(region, m->apart ? (uint32_t)n : 0);
	uint64_t seq = 1, rounds;
	double *out = shared->tally[n].ns;
	int64_t ns[2] = {0}, start, t;

	pin(n);
	worker_init(&w, PROC_WORKER + (uint32_t)n);
	for (uint32_t what = PLAIN; what <= WHOLE; what++) {
		rendezvous(what + 1, m);
		rounds = 0;
		start = now_ns();
		do {
			if (what == PLAIN)
				plain_debits(&shared->plain);
			else if (what == MUTEX)
				mutex_debits();
			else if (what == DEBIT)
				debits(a, hold_first(region, w.proc), &seq);
			else
				batch_of_pairs(&w, a, ns);
			rounds++;
		} while ((t = now_ns()) - start < opt.run_ns / 4);
		out[what] = (double)(t - start) / (double)(rounds * BATCH);
	}
	out[WHOLE] = (double)ns[0] / (double)(rounds * BATCH);
	out[SETTLE] = (double)ns[1] / (double)(rounds * BATCH);
}

static double
mean(const struct memory *m, int what)
{
	double sum = 0;

	for (int i = 0; i < m->processes; i++)
		sum += shared->tally[i].ns[what];
	return sum / m->processes;
}

static void
memory(int processes, bool apart)
{
	struct memory m = {processes, apart};
	struct account_books books = {.overdraft = CREDIT};
	pthread_mutexattr_t attr;

	opt.dir = "/";
	region_new(16);
	if (region_grow_accounts(region, 2) < 0 ||
	    account_insert(region, "a", 1, &books, CREDIT) == NULL ||
	    account_insert(region, "b", 1, &books, CREDIT) == NULL ||
	    pthread_mutexattr_init(&attr) != 0 ||
	    pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED) != 0 ||
	    pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST) != 0 ||
	    pthread_mutex_init(&shared->mutex, &attr) != 0)
		die("accounts or mutex: %s", strerror(errno));
	for (int i = 0; i < processes; i++)
		if ((children[i] = fork_child()) == 0) {
			memory_run(i, &m);
			_exit(0);
		}
	for (int i = 0; i < processes; i++)
		join(children[i]);
	printf("{\"plain_ns\": %.1f, \"mutex_ns\": %.1f, \"debit_ns\": %.1f, "
	       "\"reserve_ns\": %.1f, \"settle_ns\": %.1f}\n",
	    mean(&m, PLAIN), mean(&m, MUTEX), mean(&m, DEBIT), mean(&m, WHOLE), mean(&m, SETTLE));
}

/* --- durable: the real keeper on the given folder --- */

struct op {
	struct hold *hold;
	uint64_t position;
	int64_t begun, step_begun;
	bool settling;
};

/* Outstanding operations in the order of their ring positions. */
struct queue {
	struct op *op;
	uint32_t first, count, size;
};

static struct queue
queue_new(uint32_t size)
{
	struct queue q = {.op = calloc(size, sizeof(struct op)), .size = size};

	if (q.op == NULL)
		die("memory");
	return q;
}

static struct op *
queue_put(struct queue *q)
{
	return &q->op[(q->first + q->count++) % q->size];
}

static struct op
queue_take(struct queue *q)
{
	struct op op = q->op[q->first];

	q->first = (q->first + 1) % q->size;
	q->count--;
	return op;
}

/* This process's part of what is outstanding; none for a second process when it is 1. */
static uint32_t
share(int n)
{
	return opt.outstanding / WORKERS + (n == 0 ? opt.outstanding % WORKERS : 0);
}

static int
processes(void)
{
	return opt.outstanding < WORKERS ? 1 : WORKERS;
}

/* The daemon looks after each record whether the keeper sleeps. */
static void
wake_keeper(bool now)
{
	if (now)
		wake(region, PROC_KEEPER, heritage->wake_fd[PROC_KEEPER]);
}

static void
durable_begin(struct worker *w, struct queue *q, uint64_t *seed)
{
	struct account *a = account_at(region, (uint32_t)(draw(seed) % opt.accounts));
	struct op *op = queue_put(q);

	op->begun = op->step_begun = now_ns();
	op->settling = false;
	/* A stream of long ago would not be projected. */
	w->terms.reserved_us = realtime_us();
	op->hold = worker_reserve(w, a, &op->position);
	wake_keeper(!opt.once);
}

/* Go on with everything that is durable by now. */
static void
durable_round(struct worker *w, struct queue *q, uint64_t *seed, struct tally *t)
{
	uint64_t durable = ring_durable(w->ring);

	while (q->count > 0 && q->op[q->first].position <= durable) {
		struct op op = queue_take(q), *next;
		int64_t now = now_ns();

		count_step(t, op.step_begun, now);
		if (op.settling) {
			if (ledger_close(w->ledger, op.hold, op.position, NULL) != RING_APPLIED)
				die("a settle was refused");
			count_pair(t, op.begun, now);
			if (now < shared->end)
				durable_begin(w, q, seed);
			continue;
		}
		if (ring_result(w->ring, op.position, NULL) != RING_APPLIED)
			die("a reserve was refused");
		next = queue_put(q);
		*next = op;
		next->settling = true;
		next->step_begun = now;
		next->position = worker_settle(w, op.hold);
		wake_keeper(!opt.once);
	}
	wake_keeper(opt.once);
	ring_ack(w->ring, durable);
}

static void
durable_run(int n, void *arg)
{
	static struct worker w;
	struct queue q = queue_new(share(n));
	uint64_t seed = 88172645463325252u + (uint64_t)n;

	(void)arg;
	worker_init(&w, PROC_WORKER + (uint32_t)n);
	while (q.count < q.size)
		durable_begin(&w, &q, &seed);
	wake_keeper(opt.once);
	while (q.count > 0) {
		uint64_t next = q.op[q.first].position;

		if (ring_durable(w.ring) < next)
			SLEEP_UNLESS(w.proc, ring_durable(w.ring) >= next);
		durable_round(&w, &q, &seed, &shared->tally[n]);
	}
}

static void
durable(void)
{
	region_new(opt.accounts);
	(void)keeper_start();
	make_accounts();
	measure(processes(), durable_run, NULL, children[WORKERS]);
	keeper_stop();
}

/* --- Redis: two scripts, by RESP over a unix socket --- */

static const char reserve_script[] = "local v = redis.call('HMGET', KEYS[1], 'balance', 'held')\n"
                                     "if v[1] - v[2] < tonumber(ARGV[1]) then return 0 end\n"
                                     "redis.call('HINCRBY', KEYS[1], 'held', ARGV[1])\n"
                                     "return 1";
static const char settle_script[] = "redis.call('HINCRBY', KEYS[1], 'held', -ARGV[1])\n"
                                    "redis.call('HINCRBY', KEYS[1], 'balance', -ARGV[2])\n"
                                    "return 1";

struct redis {
	int fd;
	char out[1 << 18], in[1 << 16];
	size_t out_len, in_len, in_at;
};

static char sha[2][41];

static void
redis_connect(struct redis *r)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};

	memset(r, 0, sizeof *r);
	if (strlen(opt.socket) >= sizeof addr.sun_path)
		die("the socket's name is too long");
	strcpy(addr.sun_path, opt.socket);
	r->fd = socket(AF_UNIX, SOCK_STREAM, 0);
	if (r->fd < 0 || connect(r->fd, (struct sockaddr *)&addr, sizeof addr) < 0)
		die("%s: %s", opt.socket, strerror(errno));
}

static void __attribute__((format(printf, 2, 3)))
redis_add(struct redis *r, const char *format, ...)
{
	size_t room = sizeof r->out - r->out_len;
	va_list ap;
	int n;

	va_start(ap, format);
	n = vsnprintf(r->out + r->out_len, room, format, ap);
	va_end(ap);
	if (n < 0 || (size_t)n >= room)
		die("redis: too much at once");
	r->out_len += (size_t)n;
}

static void
redis_flush(struct redis *r)
{
	for (size_t at = 0; at < r->out_len;) {
		ssize_t n = write(r->fd, r->out + at, r->out_len - at);

		if (n < 0)
			die("redis: %s", strerror(errno));
		at += (size_t)n;
	}
	r->out_len = 0;
}

/* The next line of what came, without its end; NULL if there is none yet. */
static char *
redis_line(struct redis *r)
{
	char *start = r->in + r->in_at;
	char *end = memchr(start, '\n', r->in_len - r->in_at);

	if (end == NULL)
		return NULL;
	end[-1] = 0;
	r->in_at = (size_t)(end + 1 - r->in);
	if (*start == '-')
		die("redis: %s", start);
	return start;
}

static void
redis_read(struct redis *r)
{
	ssize_t n;

	memmove(r->in, r->in + r->in_at, r->in_len - r->in_at);
	r->in_len -= r->in_at;
	r->in_at = 0;
	n = read(r->fd, r->in + r->in_len, sizeof r->in - r->in_len);
	if (n <= 0)
		die("redis: the connection has ended");
	r->in_len += (size_t)n;
}

static char *
redis_wait(struct redis *r)
{
	char *line;

	redis_flush(r);
	while ((line = redis_line(r)) == NULL)
		redis_read(r);
	return line;
}

static void
redis_load(struct redis *r, const char *script, char out[static 41])
{
	redis_add(r, "*3\r\n$6\r\nSCRIPT\r\n$4\r\nLOAD\r\n$%zu\r\n%s\r\n", strlen(script), script);
	(void)redis_wait(r); /* $40 */
	(void)snprintf(out, 41, "%s", redis_wait(r));
}

static void
redis_call(struct redis *r, const struct op *op)
{
	char account[24];
	int len = snprintf(account, sizeof account, "user-%" PRIu64, op->position);

	redis_add(r, "*%d\r\n$7\r\nEVALSHA\r\n$40\r\n%s\r\n$1\r\n1\r\n$%d\r\n%s\r\n$3\r\n%d\r\n",
	    op->settling ? 6 : 5, sha[op->settling], len, account, HOLD);
	if (op->settling)
		redis_add(r, "$2\r\n%d\r\n", CHARGE);
}

static void
redis_begin(struct redis *r, struct queue *q, uint64_t *seed)
{
	struct op *op = queue_put(q);

	op->position = draw(seed) % opt.accounts; /* here: the account */
	op->begun = op->step_begun = now_ns();
	op->settling = false;
	redis_call(r, op);
}

static void
redis_run(int n, void *arg)
{
	static struct redis r;
	struct queue q = queue_new(share(n));
	uint64_t seed = 88172645463325252u + (uint64_t)n;
	struct tally *t = &shared->tally[n];
	const char *line;

	(void)arg;
	redis_connect(&r);
	while (q.count < q.size)
		redis_begin(&r, &q, &seed);
	while (q.count > 0) {
		redis_flush(&r);
		redis_read(&r);
		while ((line = redis_line(&r)) != NULL) {
			struct op op = queue_take(&q), *next;
			int64_t now = now_ns();

			if (strcmp(line, ":1") != 0)
				die("redis: %s", line);
			count_step(t, op.step_begun, now);
			if (op.settling) {
				count_pair(t, op.begun, now);
				if (now < shared->end)
					redis_begin(&r, &q, &seed);
				continue;
			}
			next = queue_put(&q);
			*next = op;
			next->settling = true;
			next->step_begun = now;
			redis_call(&r, next);
		}
	}
}

static void
redis(void)
{
	static struct redis r;

	redis_connect(&r);
	redis_load(&r, reserve_script, sha[0]);
	redis_load(&r, settle_script, sha[1]);
	for (uint32_t i = 0; i < opt.accounts; i++) {
		char key[24], value[24];

		(void)snprintf(key, sizeof key, "user-%u", i);
		(void)snprintf(value, sizeof value, "%" PRId64, CREDIT);
		redis_add(&r,
		    "*6\r\n$4\r\nHSET\r\n$%zu\r\n%s\r\n$7\r\nbalance\r\n$%zu\r\n%s\r\n"
		    "$4\r\nheld\r\n$1\r\n0\r\n",
		    strlen(key), key, strlen(value), value);
		if (i % 500 != 499 && i + 1 < opt.accounts)
			continue;
		for (uint32_t k = 0; k <= i % 500; k++)
			(void)redis_wait(&r);
	}
	measure(processes(), redis_run, NULL, opt.server);
}

/* --- SQLite: one writer, one transaction a step --- */

#ifdef HAVE_SQLITE
static sqlite3_stmt *
sqlite_prepare(sqlite3 *db, const char *sql)
{
	sqlite3_stmt *s;

	if (sqlite3_prepare_v2(db, sql, -1, &s, NULL) != SQLITE_OK)
		die("sqlite: %s", sqlite3_errmsg(db));
	return s;
}

static void
sqlite_do(sqlite3 *db, const char *sql)
{
	if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK)
		die("sqlite: %s", sqlite3_errmsg(db));
}

static void
sqlite_step(sqlite3 *db, sqlite3_stmt *s, uint64_t account)
{
	sqlite3_bind_int64(s, 1, (int64_t)account);
	if (sqlite3_step(s) != SQLITE_DONE || sqlite3_changes(db) != 1)
		die("sqlite: %s", sqlite3_errmsg(db));
	sqlite3_reset(s);
}

static sqlite3 *
sqlite_new(void)
{
	char path[4096];
	sqlite3 *db;
	sqlite3_stmt *s;

	(void)snprintf(path, sizeof path, "%s/bench.sqlite", opt.dir);
	if (sqlite3_open(path, &db) != SQLITE_OK)
		die("sqlite: %s: %s", path, sqlite3_errmsg(db));
	sqlite_do(db,
	    "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; BEGIN;"
	    "CREATE TABLE account(id INTEGER PRIMARY KEY, balance INTEGER, held INTEGER)");
	s = sqlite_prepare(db, "INSERT INTO account VALUES(?, 1125899906842624, 0)");
	for (uint32_t i = 0; i < opt.accounts; i++)
		sqlite_step(db, s, i);
	sqlite3_finalize(s);
	sqlite_do(db, "COMMIT");
	return db;
}

static void
sqlite_run(int n, void *arg)
{
	sqlite3 *db = sqlite_new();
	sqlite3_stmt *reserve = sqlite_prepare(
	    db, "UPDATE account SET held = held + 105 WHERE id = ? AND balance - held >= 105");
	sqlite3_stmt *settle = sqlite_prepare(
	    db, "UPDATE account SET held = held - 105, balance = balance - 75 WHERE id = ?");
	struct tally *t = &shared->tally[n];
	uint64_t seed = 88172645463325252u;
	int64_t begun, middle, now;

	(void)arg;
	do {
		uint64_t account = draw(&seed) % opt.accounts;

		begun = now_ns();
		sqlite_step(db, reserve, account);
		middle = now_ns();
		count_step(t, begun, middle);
		sqlite_step(db, settle, account);
		now = now_ns();
		count_step(t, middle, now);
		count_pair(t, begun, now);
	} while (now < shared->end);
	sqlite3_finalize(reserve);
	sqlite3_finalize(settle);
	sqlite3_close(db);
}

static void
sqlite(void)
{
	measure(1, sqlite_run, NULL, 0);
}
#else
static void
sqlite(void)
{
	printf("{\"missing\": \"built without libsqlite3\"}\n");
}
#endif

/* --- restart --- */

/* A journal under way, as the keeper writes it. */
struct writer {
	struct journal *journal;
	struct state *state;
	struct books *books;
	struct journal_positions rings;
};

static void
write_commit(struct writer *w)
{
	if (journal_commit(w->journal, &w->rings) < 0)
		die("journal: %s", strerror(errno));
	journal_begin(w->journal);
}

static void
write_record(struct writer *w, const struct journal_record *r, const void *payload)
{
	uint64_t sequence = journal_append(w->journal, r, payload);

	if (books_apply(w->books, r, payload, sequence) < 0)
		die("the books do not take record %" PRIu64, sequence);
	if (journal_staged(w->journal) == 4096)
		write_commit(w);
}

static void
write_price(struct writer *w)
{
	struct {
		struct journal_price head;
		char model[5];
	} p = {{.former = {.prompt = price.prompt,
	            .cached = price.cached,
	            .completion = price.completion,
	            .model_len = 5},
	           .reasoning = price.reasoning,
	           .cache_write = price.cache_write},
	    "model"};

	write_record(w,
	    &(struct journal_record){.type = JOURNAL_PRICE,
	        .version = JOURNAL_VERSION_KINDS,
	        .slot = JOURNAL_NONE,
	        .account = JOURNAL_NONE,
	        .payload_len = sizeof p.head + 5,
	        .time_us = 1},
	    &p);
}

/* The n-th pair's reserve or settle; slots take turns. */
static void
write_step(struct writer *w, uint64_t n, bool settle, uint32_t account)
{
	static struct reserve_payload payload;
	static char text[4096];
	const uint32_t slots = 4096;
	struct timespec ts;
	struct journal_record r = {.type = settle ? JOURNAL_SETTLE : JOURNAL_RESERVE,
	    .version = JOURNAL_VERSION,
	    .proc = PROC_WORKER,
	    .slot = (uint32_t)(n % slots),
	    .op = 2 * (n / slots) + 1 + settle,
	    .account = account,
	    .prompt = PROMPT,
	    .amount = settle ? CHARGE : HOLD};

	clock_gettime(CLOCK_REALTIME, &ts);
	r.time_us = (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
	if (settle) {
		r.completion = USED;
		r.outcome = OUTCOME_STOP;
		r.payload_len = opt.text;
	} else
		r.payload_len = (uint32_t)reserve_payload(&payload, PROC_WORKER, n);
	write_record(w, &r, settle ? (void *)text : (void *)&payload);
}

/*
 * Accounts, each with its record, in the journal and in state.mdb; then reserves and settles in
 * the journal only.
 */
static void
fill(void)
{
	struct writer w = {0};
	const char *why;
	uint64_t seed = 88172645463325252u;
	char payload[64];

	w.journal = journal_open(opt.dir, 0, &why);
	if (w.journal == NULL || (w.state = state_open(opt.dir, 0, &why)) == NULL)
		die("%s: %s", opt.dir, why);
	w.books = books_new();
	journal_begin(w.journal);
	write_price(&w);
	for (uint32_t i = 0; i < opt.accounts; i++) {
		struct journal_record r = account_record(i, payload);

		r.account = i;
		write_record(&w, &r, payload);
	}
	write_commit(&w);
	do
		if (project_now(w.state, w.books, w.journal, 1 << 20, 1) < 0)
			die("state.mdb: %s", strerror(errno));
	while (state_progress(w.state)->streams < journal_last(w.journal));
	for (uint64_t n = 0; n < opt.records / 2; n++) {
		uint32_t account = (uint32_t)(draw(&seed) % opt.accounts);

		write_step(&w, n, false, account);
		write_step(&w, n, true, account);
	}
	if (journal_staged(w.journal) > 0)
		write_commit(&w);
	printf("{\"records\": %" PRIu64 "}\n", journal_last(w.journal));
	books_free(w.books);
	state_close(w.state);
	journal_close(w.journal);
}

static void
restart(void)
{
	double seconds;

	region_new(opt.accounts);
	seconds = keeper_start();
	if (atomic_load(&region->h->accounts) != opt.accounts)
		die("there are %u accounts", atomic_load(&region->h->accounts));
	printf("{\"seconds\": %.3f}\n", seconds);
	if (opt.stop) {
		keeper_stop();
		return;
	}
	(void)kill(children[WORKERS], SIGKILL);
	(void)waitpid(children[WORKERS], NULL, 0);
}

static _Noreturn void
usage(void)
{
	fputs("usage: bench-ledger WHAT [options]\n"
	      "WHAT: memory-one memory-same memory-apart durable redis sqlite fill restart\n"
	      "  --dir DIR          where files go (durable, sqlite, fill, restart)\n"
	      "  --socket PATH      of redis-server; --server PID: whose CPU time is counted\n"
	      "  --outstanding N    pairs at a time, in all (64)\n"
	      "  --accounts N       (10000)   --records N  of fill (1000000)\n"
	      "  --text BYTES       of each message and answer (40)\n"
	      "  --ms N             the window (3000)   --stop  restart: end the keeper in order\n"
	      "  --wake-once        durable: look once a round whether the keeper sleeps\n",
	    stderr);
	exit(2);
}

static void
options(int argc, char **argv)
{
	static const struct option known[] = {{"dir", 1, NULL, 'd'}, {"socket", 1, NULL, 's'},
	    {"outstanding", 1, NULL, 'o'}, {"accounts", 1, NULL, 'a'}, {"records", 1, NULL, 'r'},
	    {"text", 1, NULL, 't'}, {"ms", 1, NULL, 'm'}, {"server", 1, NULL, 'p'},
	    {"stop", 0, NULL, 'x'}, {"wake-once", 0, NULL, 'w'}, {NULL, 0, NULL, 0}};
	int c;

	while ((c = getopt_long(argc, argv, "", known, NULL)) != -1) {
		long n = optarg == NULL ? 0 : strtol(optarg, NULL, 10);

		switch (c) {
		case 'd':
			opt.dir = optarg;
			break;
		case 's':
			opt.socket = optarg;
			break;
		case 'o':
			opt.outstanding = (uint32_t)n;
			break;
		case 'a':
			opt.accounts = (uint32_t)n;
			break;
		case 'r':
			opt.records = (uint32_t)n;
			break;
		case 't':
			opt.text = (unsigned)n;
			break;
		case 'm':
			opt.run_ns = n * 1000000;
			break;
		case 'p':
			opt.server = (pid_t)n;
			break;
		case 'x':
			opt.stop = true;
			break;
		case 'w':
			opt.once = true;
			break;
		default:
			usage();
		}
	}
	if (optind + 1 != argc || opt.text > 4000 || opt.outstanding < 1 ||
	    opt.outstanding > 2048 || opt.accounts < 1)
		usage();
}

int
main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(void);
	} files[] = {
	    {"durable", durable}, {"sqlite", sqlite}, {"fill", fill}, {"restart", restart}};
	const char *what;

	options(argc, argv);
	what = argv[optind];
	shared_new();
	if (strncmp(what, "memory-", 7) == 0)
		return memory(strcmp(what, "memory-one") == 0 ? 1 : 2,
		           strcmp(what, "memory-apart") == 0),
		       0;
	if (strcmp(what, "redis") == 0 && opt.socket != NULL)
		return redis(), 0;
	for (size_t i = 0; i < sizeof files / sizeof files[0]; i++)
		if (strcmp(what, files[i].name) == 0 && opt.dir != NULL)
			return files[i].run(), 0;
	usage();
}
