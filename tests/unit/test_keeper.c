/*
 * Goal:   nothing acknowledged is lost and nothing is applied twice, whenever the keeper dies;
 *         what a power cut left open ends at its last mark; nobody who writes forged records
 *         gets anything for it.
 * Method: fork keeper_main on a region and act as worker, admin and master through shm/ledger.h.
 *         SIGKILL the keeper at random moments and fork another one; stop, and compare memory,
 *         journal and what was acknowledged.  A reboot is a new region on the same state_dir.
 * objs: daemon/keeper.o daemon/compact_make.o daemon/title.o daemon/compact.o daemon/keeper_batch.o daemon/keeper_gone.o daemon/keeper_refs.o daemon/keeper_project.o daemon/projector.o daemon/recover.o daemon/keeper_prices.o daemon/audit.o daemon/proof.o daemon/checkpoint.o daemon/books_rows.o daemon/state.o daemon/state_job.o daemon/state_streams.o daemon/state_read.o daemon/journal.o daemon/journal_file.o daemon/journal_compact.o daemon/journal_chain.o daemon/journal_read.o daemon/books.o daemon/books_refs.o daemon/books_apply.o daemon/books_check.o daemon/metrics.o daemon/buf.o daemon/log.o daemon/utf8.o tests/unit/records.o shm/money.o shm/account.o shm/region.o shm/ring.o shm/hold.o shm/ledger.o shm/seat.o shm/reap.o shm/wake.o shm/purse.o daemon/books_caps.o daemon/keeper_history.o daemon/journal_history.o daemon/journal_receipts.o
 * objs: daemon/order.o daemon/renew.o daemon/config_record.o daemon/config.o daemon/config_file.o
 * objs: daemon/config_text.o daemon/config_value.o daemon/config_jwt.o daemon/config_check.o
 * objs: daemon/config_source.o daemon/config_change.o daemon/auth_scope.o daemon/secret.o
 * objs: daemon/address.o daemon/calibrate.o daemon/tokenizer.o daemon/tokenizer_stream.o
 * objs: daemon/tokenizer_merge.o daemon/tokenizer_split.o daemon/tokenizer_class.o
 * objs: daemon/tokenizer_table.o
 */
#include <lmdb.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/audit.h"
#include "daemon/checkpoint.h"
#include "daemon/heritage.h"
#include "shm/clock.h"
#include "shm/hold.h"
#include "shm/reap.h"
#include "shm/ring.h"
#include "shm/wake.h"
#include "tests/unit/records.h"

#define WORKER PROC_WORKER
#define CREDIT INT64_C(1000000)

static const struct region_dims dims = {.workers = 2, .max_accounts = 64, .max_keys = 64,
    .max_holds = 5 * 16, .ring_records = 256, .ring_arena = 1 << 16};

static struct heritage *heritage;
static struct region *region;
static struct ledger *worker, *admin;
static char *dir;
static pid_t keeper;

static void
new_region(void)
{
	assert_int_equal(region_anonymous(region, &dims), 0);
	worker = admin = NULL;
}

static int
setup(void **state)
{
	static char model_name[] = "model";

	(void)state;
	heritage = calloc(1, sizeof *heritage);
	heritage->config = calloc(1, sizeof *heritage->config);
	dir = dir_new();
	heritage->config->state_dir = heritage->config->runtime_dir = dir;
	heritage->config->model_count = 1;
	heritage->config->model[0].name = model_name;
	heritage->config->model[0].price = rec_price;
	for (int i = 0; i < REGION_PROCS_MAX; i++)
		heritage->wake_fd[i] = i < PROC_WORKER + 4 ? eventfd(0, EFD_NONBLOCK) : -1;
	heritage->order_theirs[PROC_KEEPER] = -1;
	region = &heritage->region;
	new_region();
	return 0;
}

static void
kill_keeper(void)
{
	if (keeper > 0) {
		(void)kill(keeper, SIGKILL);
		(void)waitpid(keeper, NULL, 0);
	}
	keeper = 0;
}

static int
teardown(void **state)
{
	(void)state;
	kill_keeper();
	ledger_free(worker);
	ledger_free(admin);
	region_unmap(region);
	for (int i = 0; i < PROC_WORKER + 4; i++)
		close(heritage->wake_fd[i]);
	free(heritage->config);
	free(heritage);
	dir_remove(dir);
	return 0;
}

/* file_bytes 0: as many as it likes. */
static void
spawn(rlim_t file_bytes)
{
	keeper = fork();
	if (keeper != 0)
		return;
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	(void)signal(SIGXFSZ, SIG_IGN);
	if (getenv("VERBOSE") == NULL)
		(void)freopen("/dev/null", "w", stderr);
	if (file_bytes > 0) {
		struct rlimit limit = {file_bytes, file_bytes};

		if (setrlimit(RLIMIT_FSIZE, &limit) < 0)
			_exit(9);
	}
	_exit(keeper_main(heritage));
}

/* Wait until it is so; a test that waits longer has failed. */
#define WAIT_FOR(condition)                                                                       \
	do {                                                                                      \
		for (int tries = 0; !(condition); tries++) {                                      \
			struct pollfd pfd = {.fd = heritage->wake_fd[WORKER], .events = POLLIN};  \
			assert_true(tries < 60000);                                               \
			wake_prepare(region, WORKER);                                             \
			if (!(condition))                                                         \
				(void)poll(&pfd, 1, 1);                                           \
			wake_done(region, WORKER, heritage->wake_fd[WORKER]);                     \
		}                                                                                 \
	} while (0)

static void
start(void)
{
	spawn(0);
	WAIT_FOR(atomic_load(&region->h->filled) != 0);
	if (worker == NULL) {
		worker = ledger_new(region, WORKER);
		admin = ledger_new(region, PROC_ADMIN);
	}
}

static int
stop(void)
{
	int status;

	(void)kill(keeper, CHILD_SIG_STOP);
	assert_int_equal(waitpid(keeper, &status, 0), keeper);
	keeper = 0;
	return status;
}

static void
durable(struct ledger *l, uint64_t position)
{
	struct ring *ring = ledger_ring(l);

	assert_true(position > 0);
	wake_keeper_now(region, heritage->wake_fd[PROC_KEEPER]);
	WAIT_FOR(ring_durable(ring) >= position);
}

static enum ring_status
admin_push(struct rec rec, int64_t *value)
{
	struct ring *ring = ledger_ring(admin);
	uint64_t position = ring_push(ring, &rec.r, rec.payload, rec.r.payload_len);
	enum ring_status status;

	durable(admin, position);
	status = ring_result(ring, position, value);
	ring_ack(ring, position);
	return status;
}

static struct account *
new_account(const char *id, int64_t overdraft)
{
	int64_t number;

	assert_int_equal(admin_push(rec_account(JOURNAL_NONE, id, overdraft), &number),
	    RING_APPLIED);
	assert_ptr_equal(account_find(region, id, strlen(id)),
	    account_at(region, (uint32_t)number));
	return account_at(region, (uint32_t)number);
}

static enum ring_status
account_set(struct account *a, uint32_t what, int64_t change, int64_t overdraft)
{
	struct rec rec = rec_set(0, 0, 0, what, change, overdraft);
	struct hold *h;
	uint64_t position;
	enum ring_status status;

	assert_int_equal(ledger_account_set(admin, a, change, rec.payload, rec.r.payload_len, &h,
	    &position), LEDGER_OK);
	durable(admin, position);
	status = ledger_close(admin, h, position, NULL);
	ring_ack(ledger_ring(admin), position);
	return status;
}

static enum ring_status
credit(struct account *a, enum journal_type type, int64_t amount, const char *ref, int64_t *value)
{
	struct rec rec = rec_credit(type, 0, 0, 0, amount, ref);
	struct hold *h;
	uint64_t position;
	enum ring_status status;

	assert_int_equal(ledger_credit(admin, a, type, amount, rec.payload, rec.r.payload_len, &h,
	    &position), LEDGER_OK);
	durable(admin, position);
	status = ledger_close(admin, h, position, value);
	ring_ack(ledger_ring(admin), position);
	return status;
}

static struct hold *
reserve(struct account *a, uint8_t stream, uint64_t *position)
{
	struct rec rec = rec_reserve(0, stream, 0, 0, 0, stream);
	struct hold_terms t = {.account = a, .price = rec_price, .prompt = 10,
	    .max_tokens = 1000, .min_tokens = 1, .want_tokens = 30, .reserved_us = 1};
	struct hold *h;

	if (ledger_reserve(worker, &t, rec.payload, rec.r.payload_len, &h, position) != LEDGER_OK)
		return NULL;
	return h;
}

static uint64_t
settle(struct hold *h, uint32_t tokens)
{
	struct settlement s = {.charge = price_cost(&rec_price, 10, 0, tokens), .prompt = 10,
	    .completion = tokens, .outcome = OUTCOME_STOP};
	uint64_t position;

	assert_int_equal(ledger_settle(worker, h, &s, "end", 3, &position), LEDGER_OK);
	return position;
}

/* The journal, after the keeper has stopped; the audit must pass. */
static struct books *
durable_books(void)
{
	const char *why;
	struct journal_reader *r = journal_reader_open(dir, &why);
	struct state_reader *st = state_reader_open(dir, &why);
	struct audit_result result;
	struct books *b = books_new();
	struct journal_cursor *c;
	struct checkpoint_load *load;
	struct journal_entry e;
	struct audit *audit;

	assert_non_null(r);
	assert_non_null(st);
	c = journal_cursor_new(r, 1);
	load = checkpoint_load_new(c, b);
	assert_int_equal(checkpoint_load_step(load, 1000, &why), 0);
	checkpoint_load_free(load);
	journal_cursor_from(c, journal_cursor_base(c)->sequence + 1);
	while (journal_cursor_next(c, &e) == 1)
		assert_int_equal(books_apply(b, &e.record, e.payload, e.sequence), 0);
	journal_cursor_free(c);
	audit = audit_new(r, st);
	while (audit_step(audit, 1000))
		;
	audit_result(audit, &result);
	if (!result.ok)
		print_error("%s\n", result.first_difference);
	assert_true(result.ok);
	audit_free(audit);
	journal_reader_close(r);
	state_reader_close(st);
	return b;
}

/* Memory and journal say the same of every account. */
static void
memory_agrees(const struct books *b)
{
	assert_int_equal(books_accounts(b), atomic_load(&region->h->accounts));
	for (uint32_t i = 0; i < books_accounts(b); i++) {
		const struct books_account *a = books_account(b, i);
		struct account_books shown;

		account_books(account_at(region, i), &shown);
		assert_int_equal(shown.balance, a->balance);
		assert_int_equal(shown.held, a->held);
		assert_int_equal(account_available(account_at(region, i)),
		    a->balance - a->held + a->overdraft);
	}
}

static void
records_are_acknowledged_with_their_results(void **state)
{
	struct account *a;
	struct books *b;
	struct key_entry *key;
	struct rec rec;
	uint64_t position;
	struct hold *h;
	int64_t value;

	(void)state;
	start();
	assert_int_equal(atomic_load(&region->h->prices), 1);
	assert_int_equal(region_price(region, 0)->completion, rec_price.completion);
	a = new_account("alice", 200 * CREDIT);
	assert_int_equal(account_available(a), 200 * CREDIT);
	assert_int_equal(atomic_load(&a->requests_per_minute), 60);
	assert_int_equal(admin_push(rec_account(JOURNAL_NONE, "alice", 0), &value), RING_EXISTS);
	assert_int_equal(credit(a, JOURNAL_TOPUP, 1000, "r1", &value), RING_APPLIED);
	assert_int_equal(value, 1000);
	assert_int_equal(credit(a, JOURNAL_TOPUP, 500, "r1", &value), RING_REPEATED);
	assert_int_equal(value, 1000);
	assert_int_equal(credit(a, JOURNAL_ADJUST, -400, "r2", &value), RING_APPLIED);
	assert_int_equal(value, 600);
	assert_int_equal(account_available(a), 200 * CREDIT + 600);
	rec = rec_key(a->number, 77, "label");
	assert_int_equal(admin_push(rec, &value), RING_APPLIED);
	key = key_find(region, (const uint8_t *)rec.payload);
	assert_non_null(key);
	assert_int_equal(key->key_id, 77);
	assert_int_equal(admin_push(rec_revoke(77), &value), RING_APPLIED);
	assert_int_equal(atomic_load(&key->flags), KEY_REVOKED);
	assert_int_equal(admin_push(rec_revoke(78), &value), RING_UNKNOWN);

	h = reserve(a, 1, &position);
	durable(worker, position);
	assert_int_equal(ring_result(ledger_ring(worker), position, NULL), RING_APPLIED);
	assert_int_equal(atomic_load(&h->journaled) & 0xff, RING_APPLIED);
	position = settle(h, 20);
	durable(worker, position);
	assert_int_equal(ledger_close(worker, h, position, &value), RING_APPLIED);
	assert_int_equal(stop(), 0);
	b = durable_books();
	memory_agrees(b);
	assert_int_equal(books_account(b, 0)->charged, 75);
	books_free(b);
}

static void
a_sync_brings_the_projection_up_to_date(void **state)
{
	struct rec sync = {.r = {.type = JOURNAL_SYNC, .version = JOURNAL_VERSION,
	    .slot = JOURNAL_NONE}};
	struct account *a;
	uint64_t position;
	int64_t value;
	int status;
	pid_t pid;

	(void)state;
	start();
	a = new_account("alice", 200 * CREDIT);
	assert_non_null(reserve(a, 1, &position));
	durable(worker, position);
	assert_int_equal(admin_push(sync, &value), RING_APPLIED);
	assert_int_equal(atomic_load(&region->h->projected_seq),
	    atomic_load(&region->h->journal_seq));
	pid = fork();
	if (pid == 0) {
		const char *why;
		struct state_reader *r = state_reader_open(dir, &why);
		struct stream_row row;
		uint8_t id[16];

		rec_stream_id(1, 1, id);
		_exit(r != NULL && state_stream_get(r, id, &row, NULL) == 1 &&
		    row.reserved == 105 ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(stop(), 0);
}

/* Somebody else writes in state.mdb, so the keeper's job stands still until let_go. */
struct holder {
	pid_t pid;
	int go;
};

static struct holder
hold_projection(void)
{
	struct holder h;
	int came[2], go[2];
	char path[128], c;
	MDB_env *env;
	MDB_txn *txn;

	assert_int_equal(pipe(came), 0);
	assert_int_equal(pipe(go), 0);
	h.pid = fork();
	if (h.pid == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		(void)snprintf(path, sizeof path, "%s/" STATE_FILE, dir);
		if (mdb_env_create(&env) != 0 || mdb_env_set_maxdbs(env, 16) != 0 ||
		    mdb_env_open(env, path, MDB_NOSUBDIR | MDB_NOTLS, 0600) != 0 ||
		    mdb_txn_begin(env, NULL, 0, &txn) != 0 || write(came[1], "c", 1) != 1 ||
		    read(go[0], &c, 1) != 1)
			_exit(1);
		mdb_txn_abort(txn);
		_exit(0);
	}
	assert_int_equal(read(came[0], &c, 1), 1);
	close(came[0]);
	close(came[1]);
	close(go[0]);
	h.go = go[1];
	return h;
}

static void
let_go(struct holder h)
{
	int status;

	assert_int_equal(write(h.go, "g", 1), 1);
	assert_int_equal(waitpid(h.pid, &status, 0), h.pid);
	assert_int_equal(status, 0);
	close(h.go);
}

/* A pair of a reserve and a settle, each durable. */
static void
pair(struct account *a, uint8_t stream)
{
	uint64_t position;
	struct hold *h = reserve(a, stream, &position);

	assert_non_null(h);
	durable(worker, position);
	position = settle(h, 20);
	durable(worker, position);
	assert_int_equal(ledger_close(worker, h, position, NULL), RING_APPLIED);
	ring_ack(ledger_ring(worker), position);
}

static uint64_t
projected(void)
{
	return atomic_load(&region->h->projected_seq);
}

/* Only who asks for the projection waits for it: its ring, whatever comes behind the question. */
static void
nobody_waits_for_a_projection_that_stands_still(void **state)
{
	struct rec sync = {.r = {.type = JOURNAL_SYNC, .version = JOURNAL_VERSION,
	    .slot = JOURNAL_NONE}}, second = rec_account(JOURNAL_NONE, "bob", 0);
	struct holder holder;
	struct account *a;
	struct books *b;
	uint64_t asked, behind, was;
	int64_t value;

	(void)state;
	start();
	a = new_account("alice", 2000 * CREDIT);
	assert_int_equal(admin_push(sync, &value), RING_APPLIED);
	holder = hold_projection();
	was = projected();
	asked = ring_push(ledger_ring(admin), &sync.r, NULL, 0);
	for (uint8_t i = 1; i <= 20; i++)
		pair(a, i);
	behind = ring_push(ledger_ring(admin), &second.r, second.payload, second.r.payload_len);
	for (uint8_t i = 21; i <= 40; i++)
		pair(a, i);
	assert_int_equal(projected(), was);
	assert_true(atomic_load(&region->h->journal_seq) >= was + 80);
	assert_true(ring_durable(ledger_ring(admin)) < asked);
	assert_null(account_find(region, "bob", 3));
	let_go(holder);
	durable(admin, asked);
	assert_true(projected() > was);
	durable(admin, behind);
	assert_non_null(account_find(region, "bob", 3));
	assert_int_equal(stop(), 0);
	assert_int_equal(projected(), atomic_load(&region->h->journal_seq));
	b = durable_books();
	memory_agrees(b);
	assert_int_equal(books_account(b, 0)->charged, 40 * 75);
	books_free(b);
}

/* Killed in the middle of a job, a SYNC unanswered: the next one answers it, and has all rows. */
static void
a_keeper_killed_while_it_projects_loses_nothing(void **state)
{
	struct rec sync = {.r = {.type = JOURNAL_SYNC, .version = JOURNAL_VERSION,
	    .slot = JOURNAL_NONE}};
	struct account *a;
	struct books *b;

	(void)state;
	start();
	a = new_account("alice", 2000 * CREDIT);
	for (uint8_t round = 0; round < 3; round++) {
		struct holder holder = hold_projection();
		uint64_t asked = ring_push(ledger_ring(admin), &sync.r, NULL, 0);

		for (uint8_t i = 1; i <= 10; i++)
			pair(a, (uint8_t)(10 * round + i));
		assert_true(ring_durable(ledger_ring(admin)) < asked);
		kill_keeper();
		let_go(holder);
		spawn(0);
		durable(admin, asked);
		ring_ack(ledger_ring(admin), asked);
		assert_true(projected() >= asked);
	}
	assert_int_equal(stop(), 0);
	b = durable_books();
	memory_agrees(b);
	assert_int_equal(books_account(b, 0)->charged, 30 * 75);
	books_free(b);
}

/* Told to stop while a job stands still and a ring waits for it: all of it is done first. */
static void
a_stop_waits_for_the_projection(void **state)
{
	struct rec sync = {.r = {.type = JOURNAL_SYNC, .version = JOURNAL_VERSION,
	    .slot = JOURNAL_NONE}}, second = rec_account(JOURNAL_NONE, "bob", 0);
	struct holder holder;
	struct account *a;
	uint64_t asked, behind;
	int status;

	(void)state;
	start();
	a = new_account("alice", 2000 * CREDIT);
	holder = hold_projection();
	asked = ring_push(ledger_ring(admin), &sync.r, NULL, 0);
	pair(a, 1);
	behind = ring_push(ledger_ring(admin), &second.r, second.payload, second.r.payload_len);
	pair(a, 2);
	/* Whoever it is sent to has nobody left who hands him anything. */
	(void)kill(keeper, CHILD_SIG_STOP);
	assert_int_equal(waitpid(keeper, &status, WNOHANG), 0);
	assert_true(ring_durable(ledger_ring(admin)) < asked);
	let_go(holder);
	assert_int_equal(waitpid(keeper, &status, 0), keeper);
	keeper = 0;
	assert_int_equal(status, 0);
	assert_int_equal(ring_durable(ledger_ring(admin)), behind);
	assert_int_equal(projected(), atomic_load(&region->h->journal_seq));
	books_free(durable_books());
}

/* The first thread's sign of life does not hide that the second one has none. */
static void
a_projection_that_hangs_is_noticed(void **state)
{
	const struct proc_slot *slot = region_proc(region, PROC_KEEPER);
	struct holder holder;
	struct account *a;
	uint64_t beat;

	(void)state;
	heritage->config->timeouts.hang = 1;
	start();
	a = new_account("alice", 2000 * CREDIT);
	holder = hold_projection();
	pair(a, 1);
	WAIT_FOR(monotonic_us() > atomic_load(&slot->heartbeat_us) + 1500000);
	beat = atomic_load(&slot->heartbeat_us);
	pair(a, 2);
	assert_int_equal(atomic_load(&slot->heartbeat_us), beat);
	let_go(holder);
	WAIT_FOR(atomic_load(&slot->heartbeat_us) > beat);
	assert_int_equal(stop(), 0);
}

static uint32_t
price_now(void)
{
	return atomic_load(region_model_price(region, 0));
}

/* When a change is acknowledged it is in force; it stands over the config, whoever dies. */
static void
set_prices_are_in_force(void **state)
{
	int64_t value;

	(void)state;
	start();
	assert_int_equal(admin_push(rec_price_set("model", PRICE_COMPLETION, 77), &value),
	    RING_APPLIED);
	assert_int_equal(price_now(), 1);
	assert_int_equal(region_price(region, 1)->completion, 77);
	assert_int_equal(region_price(region, 1)->prompt, rec_price.prompt);
	assert_int_equal(atomic_load(&region->h->model_price_set[0]), 1u << PRICE_COMPLETION);
	assert_int_equal(atomic_load(&region->h->prices), 2);
	/* Of a model that the config does not have: kept, and nothing comes of it. */
	assert_int_equal(admin_push(rec_price_set("gone", PRICE_PROMPT, 1), &value), RING_APPLIED);
	assert_int_equal(atomic_load(&region->h->prices), 2);
	kill_keeper();
	start();
	assert_int_equal(admin_push(rec_price_set("gone", PRICE_PROMPT, 2), &value), RING_APPLIED);
	assert_int_equal(price_now(), 1);
	assert_int_equal(stop(), 0);
	region_unmap(region);
	ledger_free(worker);
	ledger_free(admin);
	worker = admin = NULL;
	new_region(); /* a reboot */
	start();
	assert_int_equal(price_now(), 1);
	assert_int_equal(region_price(region, 1)->completion, 77);
	assert_int_equal(
	    admin_push(rec_price_set("model", PRICE_KINDS, PRICE_UNSET), &value), RING_APPLIED);
	assert_int_equal(price_now(), 0);
	assert_int_equal(atomic_load(&region->h->model_price_set[0]), 0);
	assert_int_equal(stop(), 0);
}

/* No more than the table holds, and what it holds can still be gone back to. */
static void
prices_run_out(void **state)
{
	struct ring *ring;
	uint64_t position = 0;
	int64_t value;

	(void)state;
	start();
	ring = ledger_ring(admin);
	for (uint32_t n = 1; n < PRICE_MAX; n++) {
		struct rec rec = rec_price_set("model", PRICE_COMPLETION, n);

		position = ring_push(ring, &rec.r, rec.payload, rec.r.payload_len);
		assert_true(position != 0);
		if (n % 16 == 0 || n == PRICE_MAX - 1) {
			durable(admin, position);
			ring_ack(ring, position);
		}
	}
	assert_int_equal(price_now(), PRICE_MAX - 1);
	assert_int_equal(
	    admin_push(rec_price_set("model", PRICE_COMPLETION, PRICE_MAX), &value),
	    RING_NOSPACE);
	assert_int_equal(price_now(), PRICE_MAX - 1);
	assert_int_equal(
	    admin_push(rec_price_set("model", PRICE_COMPLETION, 5), &value), RING_APPLIED);
	assert_int_equal(price_now(), 5);
	kill_keeper();
	start();
	assert_int_equal(
	    admin_push(rec_price_set("model", PRICE_PROMPT, 9), &value), RING_NOSPACE);
	assert_int_equal(price_now(), 5);
	assert_int_equal(stop(), 0);
}

/* A price that changes gets a new id; one that comes back gets its old one. */
static void
prices_have_ids_for_ever(void **state)
{
	struct config_model *m = &heritage->config->model[0];

	(void)state;
	start();
	assert_int_equal(stop(), 0);
	m->price.completion++;
	start();
	WAIT_FOR(atomic_load(region_model_price(region, 0)) == 1);
	assert_int_equal(stop(), 0);
	assert_int_equal(region_price(region, 1)->completion, rec_price.completion + 1);
	m->price.completion--;
	start();
	WAIT_FOR(atomic_load(region_model_price(region, 0)) == 0);
	assert_int_equal(stop(), 0);
	assert_int_equal(atomic_load(&region->h->prices), 2);
}

/* The 4,097th is refused before it is in the journal, where it would be for ever. */
static void
one_price_too_many_is_refused(void **state)
{
	struct config *c = heritage->config;
	static char names[CONFIG_MODELS_MAX][8];
	int64_t dearer = 0;
	uint64_t last;
	int status;

	(void)state;
	c->model_count = CONFIG_MODELS_MAX;
	for (int i = 0; i < c->model_count; i++) {
		(void)snprintf(names[i], sizeof names[i], "m%d", i);
		c->model[i].name = names[i];
	}
	for (int n = 0; n < PRICE_MAX / CONFIG_MODELS_MAX; n++, dearer++) {
		for (int i = 0; i < c->model_count; i++) {
			c->model[i].price = rec_price;
			c->model[i].price.completion += dearer;
		}
		start();
		WAIT_FOR(atomic_load(&region->h->prices) ==
		    (unsigned)(n + 1) * CONFIG_MODELS_MAX);
		assert_int_equal(stop(), 0);
		last = atomic_load(&region->h->journal_seq);
	}
	c->model[0].price.completion++;
	spawn(0);
	assert_int_equal(waitpid(keeper, &status, 0), keeper);
	keeper = 0;
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 1);
	assert_int_equal(atomic_load(&region->h->prices), PRICE_MAX);
	/* With a price that was there once it goes on, and nothing was added. */
	c->model[0].price.completion--;
	start();
	WAIT_FOR(atomic_load(&region->h->journal_ok) == 1);
	assert_int_equal(atomic_load(&region->h->journal_seq), last);
	assert_int_equal(stop(), 0);
	books_free(durable_books());
}

#define STREAMS 8

struct stream {
	struct hold *h;
	uint64_t position; /* of its last record that has to be waited for */
	bool closing;
	uint32_t tokens;
};

static struct {
	int64_t topups, charged;
	unsigned refs, streams, accounts;
	uint32_t compactions;
} told;

static void
maybe_kill(unsigned int *seed, int one_in)
{
	struct timespec pause = {0, rand_r(seed) % 400000};

	if (rand_r(seed) % one_in != 0)
		return;
	wake_keeper_now(region, heritage->wake_fd[PROC_KEEPER]);
	/* A random moment of its work. */
	(void)nanosleep(&pause, NULL);
	kill_keeper();
	spawn(0);
}

/* What is older than now and needed by nobody. */
static enum ring_status
compact(void)
{
	struct rec rec = {.r = {.type = JOURNAL_COMPACT, .version = JOURNAL_VERSION,
	    .slot = JOURNAL_NONE, .account = JOURNAL_NONE, .price = JOURNAL_NONE}};
	struct timespec now;
	int64_t number;

	clock_gettime(CLOCK_REALTIME, &now);
	rec.r.extra = (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
	return admin_push(rec, &number);
}

/* How many there were so far. */
static uint32_t
checkpoints(void)
{
	const char *why;
	struct journal_reader *r = journal_reader_open(dir, &why);
	struct journal_base base;

	assert_non_null(r);
	assert_int_equal(journal_reader_base(r, &base), 0);
	journal_reader_close(r);
	return base.generation;
}

static void
step_stream(struct account *a, struct stream *s, unsigned int *seed)
{
	uint64_t done = ring_durable(ledger_ring(worker)), ignored;
	int64_t value;

	if (s->h == NULL) {
		if (ring_room(ledger_ring(worker), 200))
			s->h = reserve(a, (uint8_t)(told.streams % 200), &s->position);
		s->closing = false;
		s->tokens = 0;
	} else if (s->position > done)
		return;
	else if (s->closing) {
		assert_int_equal(ledger_close(worker, s->h, s->position, &value), RING_APPLIED);
		told.charged += price_cost(&rec_price, 10, 0, s->tokens);
		told.streams++;
		s->h = NULL;
	} else if (!ring_room(ledger_ring(worker), 200))
		return;
	else if (rand_r(seed) % 3 == 0) {
		s->position = settle(s->h, s->tokens);
		s->closing = true;
	} else {
		s->tokens = hold_covers(s->h, s->h->amount, false);
		ledger_meter(s->h, s->tokens, 0);
		if (rand_r(seed) % 2 == 0)
			assert_int_equal(ledger_mark(worker, s->h, "mark", 4, &ignored), LEDGER_OK);
		else
			assert_int_equal(ledger_extend(worker, s->h, s->tokens + 10, false, "more", 4,
			    &s->position), LEDGER_OK);
	}
}

static void
a_killed_keeper_loses_and_doubles_nothing(void **state)
{
	struct stream streams[STREAMS] = {0};
	unsigned int seed = 21;
	struct account *a;
	struct books *b;
	int64_t value;
	char text[32];

	(void)state;
	memset(&told, 0, sizeof told);
	start();
	a = new_account("alice", 0);
	assert_int_equal(credit(a, JOURNAL_TOPUP, 100 * CREDIT, "", &value), RING_APPLIED);
	told.topups = 100 * CREDIT;
	for (int i = 0; i < 6000; i++) {
		step_stream(a, &streams[rand_r(&seed) % STREAMS], &seed);
		ring_ack(ledger_ring(worker), ring_durable(ledger_ring(worker)));
		if (rand_r(&seed) % 8 == 0)
			wake_keeper_now(region, heritage->wake_fd[PROC_KEEPER]);
		maybe_kill(&seed, 60);
		if (rand_r(&seed) % 100 == 0) {
			(void)snprintf(text, sizeof text, "ref-%u", told.refs / 2);
			told.topups += told.refs % 2 == 0 ? 5 : 0;
			assert_int_equal(credit(a, JOURNAL_TOPUP, 5, text, &value),
			    told.refs++ % 2 == 0 ? RING_APPLIED : RING_REPEATED);
		}
		if (rand_r(&seed) % 300 == 0) {
			(void)snprintf(text, sizeof text, "user-%u", told.accounts++);
			(void)new_account(text, 7);
		}
		if (rand_r(&seed) % 150 == 0)
			told.compactions += compact() == RING_APPLIED;
		/* Now and then it may come to its end; the other times whoever dies dies. */
		if (rand_r(&seed) % 600 == 0)
			WAIT_FOR(atomic_load(&region->h->compaction.ended) ==
			    atomic_load(&region->h->compaction.asked));
	}
	for (int i = 0; i < STREAMS; i++)
		while (streams[i].h != NULL) {
			durable(worker, streams[i].position);
			step_stream(a, &streams[i], &seed);
		}
	assert_int_equal(stop(), 0);
	b = durable_books();
	memory_agrees(b);
	assert_int_equal(books_account(b, 0)->topups, told.topups);
	assert_int_equal(books_account(b, 0)->charged, told.charged);
	assert_int_equal(books_account(b, 0)->held, 0);
	assert_int_equal(books_accounts(b), told.accounts + 1);
	assert_true(told.streams > 200 && told.refs > 20);
	/* Most were asked for while holds were open; those that ended are in the journal. */
	assert_true(told.compactions > 3 && checkpoints() > 3);
	books_free(b);
}

/* What the master does for a dead worker, from the beginning; up to that state. */
static void
reap_worker(enum reap_state until)
{
	struct reap reap;
	int pushed;

	atomic_store(&region_proc(region, WORKER)->reaping, 1);
	reap_start(&reap, region, WORKER, 1);
	wake_prepare(region, PROC_MASTER);
	while (reap_step(&reap, &pushed) != until) {
		struct pollfd pfd = {.fd = heritage->wake_fd[PROC_MASTER], .events = POLLIN};

		if (pushed)
			wake_keeper_now(region, heritage->wake_fd[PROC_KEEPER]);
		/* Woken by the keeper, for the producer is dead. */
		assert_int_equal(poll(&pfd, 1, 60000), 1);
		wake_done(region, PROC_MASTER, pfd.fd);
		wake_prepare(region, PROC_MASTER);
	}
	wake_done(region, PROC_MASTER, heritage->wake_fd[PROC_MASTER]);
	if (until == REAP_DONE)
		atomic_store(&region_proc(region, WORKER)->reaping, 0);
}

/* A worker that died with open holds: the reaper and the keeper end them at their meters. */
static void
the_reaper_settles_through_the_keeper(void **state)
{
	struct hold *produced, *nothing;
	struct account *a;
	struct books *b;
	uint64_t position;
	int64_t value;

	(void)state;
	start();
	a = new_account("alice", 0);
	assert_int_equal(credit(a, JOURNAL_TOPUP, CREDIT, "", &value), RING_APPLIED);
	produced = reserve(a, 1, &position);
	nothing = reserve(a, 2, &position);
	assert_non_null(nothing);
	durable(worker, position);
	ledger_meter(produced, 12, 0);
	reap_worker(REAP_DONE);
	assert_int_equal(stop(), 0);
	b = durable_books();
	memory_agrees(b);
	assert_int_equal(books_account(b, 0)->charged, 15 + 36);
	books_free(b);
}

/* Push as the worker would, in a free slot of its own; the keeper's answer. */
static enum ring_status
forge(struct rec rec)
{
	struct ring *ring = region_ring(region, WORKER);
	uint64_t position = ring_push(ring, &rec.r, rec.payload, rec.r.payload_len);
	enum ring_status status;

	durable(worker, position);
	status = ring_result(ring, position, NULL);
	ring_ack(ring, position);
	return status;
}

/* The worker's next owner can use all slots, and nobody takes it for a forger. */
static void
next_owner_is_served(struct account *a, uint32_t slots)
{
	struct hold *h[16];
	uint64_t position;

	ledger_free(worker);
	worker = ledger_new(region, WORKER);
	assert_non_null(worker);
	atomic_store(&region_proc(region, WORKER)->bad, 0);
	assert_int_equal(ledger_holds_free(worker), slots);
	for (uint8_t i = 0; i < slots; i++) {
		h[i] = reserve(a, (uint8_t)(100 + i), &position);
		assert_non_null(h[i]);
		durable(worker, position);
		assert_int_equal(ring_result(ledger_ring(worker), position, NULL), RING_APPLIED);
	}
	for (uint8_t i = 0; i < slots; i++) {
		position = settle(h[i], 0);
		durable(worker, position);
		assert_int_equal(ledger_close(worker, h[i], position, NULL), RING_APPLIED);
		ring_ack(ledger_ring(worker), position);
	}
	assert_int_equal(atomic_load(&region_proc(region, WORKER)->bad), 0);
	assert_int_equal(atomic_load(&a->flags), 0);
}

/*
 * Reserves of its own making, one far ahead, one with a mark: each is possible in itself, none is
 * in memory.  With its death they end, and its successor starts clean; whoever is killed meanwhile.
 */
static void
what_a_forger_left_does_not_meet_its_successor(void **state)
{
	enum { NOBODY, BEFORE_COMMIT, AFTER_COMMIT } killed = (unsigned)(uintptr_t)*state;
	uint32_t first, slot;
	struct account *a, *named;
	struct books *b;
	struct ring *ring;
	uint64_t before, position;
	int64_t value;

	start();
	a = new_account("alice", 0);
	named = new_account("named", 0);
	assert_int_equal(credit(a, JOURNAL_TOPUP, CREDIT, "", &value), RING_APPLIED);
	assert_int_equal(credit(named, JOURNAL_TOPUP, CREDIT, "", &value), RING_APPLIED);
	ring = region_ring(region, WORKER);
	first = slot = hold_first(region, WORKER);
	assert_int_equal(forge(rec_reserve(slot++, 1, named->number, 500, 10, 1)), RING_APPLIED);
	assert_int_equal(forge(rec_reserve(slot, 7, named->number, 500, 10, 2)), RING_APPLIED);
	assert_int_equal(forge(rec_mark(slot++, 7, named->number, 20, "")), RING_APPLIED);
	assert_int_equal(forge(rec_reserve(slot, HOLD_SEQ_STEP, named->number, 500, 10, 3)),
	    RING_APPLIED);
	assert_int_equal(atomic_load(&region_proc(region, WORKER)->bad), 0);
	/* What would leave the slot no operations is refused, and forgotten. */
	assert_int_equal(forge(rec_reserve(slot + 1, HOLD_SEQ_END - 1, a->number, 5, 10, 4)),
	    RING_REFUSED);
	assert_int_equal(forge(rec_reserve(slot + 2, HOLD_SEQ_STEP + 1, a->number, 5, 10, 5)),
	    RING_REFUSED);
	assert_int_equal(atomic_load(&region_proc(region, WORKER)->bad), 1);
	assert_int_equal(account_set(a, JOURNAL_SET_UNFROZEN, 0, 0), RING_APPLIED);
	/* And it writes over what the reaper goes by. */
	atomic_store(&hold_at(region, slot + 1)->journaled, HOLD_WORD(HOLD_SEQ_END - 1, 1));
	atomic_store(&hold_at(region, slot + 1)->applied, HOLD_SEQ_END - 1);
	atomic_store(&hold_at(region, slot + 2)->state,
	    HOLD_WORD(HOLD_SEQ_END - 1, HOLD_FREE));
	assert_int_equal(ring_durable(ring), ring_head(ring));
	before = ring_head(ring);

	if (killed != NOBODY)
		reap_worker(REAP_GONE);
	assert_int_equal(ring_head(ring), before + (killed != NOBODY));
	if (killed == AFTER_COMMIT) {
		uint64_t journaled[3];

		for (uint32_t i = 0; i < 3; i++)
			journaled[i] = atomic_load(&hold_at(region, first + i)->journaled);
		durable(worker, before + 1);
		kill_keeper();
		/* It had committed, and told nobody. */
		atomic_store(&ring->durable, before);
		for (uint32_t i = 0; i < 3; i++)
			atomic_store(&hold_at(region, first + i)->journaled, journaled[i]);
		spawn(0);
	} else if (killed != NOBODY) {
		kill_keeper();
		spawn(0);
	}
	/* The master that was killed too begins anew; otherwise the same, and no harm. */
	reap_worker(REAP_DONE);
	assert_int_equal(atomic_load(&named->flags), ACCOUNT_FROZEN);
	assert_int_equal(atomic_load(&a->flags), 0);
	next_owner_is_served(a, region->h->holds_per_proc);
	/* Nor is what it holds at its own death judged by what the forger wrote there. */
	for (uint8_t i = 0; i < region->h->holds_per_proc; i++) {
		assert_non_null(reserve(a, (uint8_t)(200 + i), &position));
		durable(worker, position);
	}
	reap_worker(REAP_DONE);
	assert_int_equal(stop(), 0);
	b = durable_books();
	assert_int_equal(books_account(b, a->number)->held, 0);
	assert_int_equal(books_account(b, named->number)->held, 0);
	assert_int_equal(books_account(b, named->number)->charged, 15 + 60);
	assert_int_equal(books_account(b, named->number)->balance, CREDIT - 75);
	assert_int_equal(account_available(a), books_account(b, a->number)->balance);
	books_free(b);
}

/* Only the master may say that a process is gone, and of a slot that is finished. */
static void
a_worker_cannot_say_that_it_is_gone(void **state)
{
	struct rec gone = {.r = {.type = JOURNAL_GONE, .version = JOURNAL_VERSION,
	    .slot = JOURNAL_NONE, .account = JOURNAL_NONE, .price = JOURNAL_NONE}};
	struct account *a;
	struct books *b;
	struct hold *h;
	uint64_t position;
	int64_t value;

	(void)state;
	start();
	a = new_account("alice", 0);
	assert_int_equal(credit(a, JOURNAL_TOPUP, CREDIT, "", &value), RING_APPLIED);
	h = reserve(a, 1, &position);
	durable(worker, position);
	ledger_meter(h, 20, 0);
	assert_int_equal(forge(gone), RING_REFUSED);
	assert_int_equal(atomic_load(&region_proc(region, WORKER)->bad), 1);
	assert_int_equal(HOLD_STATE(atomic_load(&h->state)), HOLD_HELD);
	/* Pushed just before its death, it is taken when the reaper is there already. */
	position = ring_push(region_ring(region, WORKER), &gone.r, NULL, 0);
	assert_true(position > 0);
	reap_worker(REAP_DONE);
	assert_int_equal(atomic_load(&a->flags), 0);
	next_owner_is_served(a, region->h->holds_per_proc);
	assert_int_equal(stop(), 0);
	b = durable_books();
	memory_agrees(b);
	/* And the prompts of its successor's streams. */
	assert_int_equal(books_account(b, 0)->charged, 15 + 60 + 16 * 15);
	books_free(b);
}

/* Step by step a bad worker can use a slot up: then it has no next owner, who would be killed. */
static void
a_used_up_slot_is_left_alone(void **state)
{
	uint32_t slot = hold_first(region, WORKER);
	uint64_t op = 0;
	struct account *a;
	struct books *b;
	int64_t value;
	enum ring_status status;

	(void)state;
	start();
	a = new_account("alice", 0);
	assert_int_equal(credit(a, JOURNAL_TOPUP, CREDIT, "", &value), RING_APPLIED);
	do {
		op += HOLD_SEQ_STEP;
		status = forge(rec_void(slot, op, a->number));
	} while (status == RING_APPLIED);
	assert_int_equal(op, HOLD_SEQ_END - HOLD_SEQ_STEP);
	assert_int_equal(forge(rec_reserve(slot, op - 1, a->number, 500, 10, 1)), RING_CLOSED);
	assert_int_equal(account_set(a, JOURNAL_SET_UNFROZEN, 0, 0), RING_APPLIED);
	reap_worker(REAP_DONE);
	next_owner_is_served(a, region->h->holds_per_proc - 1);
	assert_int_equal(stop(), 0);
	b = durable_books();
	memory_agrees(b);
	books_free(b);
}

static void
after_a_power_cut_holds_end_at_their_marks(void **state)
{
	struct hold *marked, *extended, *silent;
	struct account *a;
	struct books *b;
	uint64_t position;
	int64_t value;

	(void)state;
	start();
	a = new_account("alice", 0);
	assert_int_equal(credit(a, JOURNAL_TOPUP, CREDIT, "", &value), RING_APPLIED);
	assert_int_equal(admin_push(rec_key(0, 77, "label"), &value), RING_APPLIED);
	assert_int_equal(admin_push(rec_revoke(77), &value), RING_APPLIED);
	assert_int_equal(admin_push(rec_key(0, 78, "label"), &value), RING_APPLIED);
	silent = reserve(a, 1, &position);
	marked = reserve(a, 2, &position);
	extended = reserve(a, 3, &position);
	durable(worker, position);
	assert_non_null(silent);
	ledger_meter(marked, 10, 0);
	assert_int_equal(ledger_mark(worker, marked, "ten", 3, &position), LEDGER_OK);
	ledger_meter(marked, 25, 0); /* lost */
	ledger_meter(extended, 30, 0);
	assert_int_equal(ledger_extend(worker, extended, 60, false, "thirty", 6, &position), LEDGER_OK);
	durable(worker, position);
	kill_keeper();
	region_unmap(region);
	ledger_free(worker);
	ledger_free(admin);

	new_region();
	start();
	assert_int_equal(atomic_load(&region->h->accounts), 1);
	assert_int_equal(atomic_load(&region->h->keys), 2);
	assert_int_equal(atomic_load(&key_at(region, 0)->flags) |
	    atomic_load(&key_at(region, 1)->flags) << 1,
	    key_at(region, 0)->key_id == 77 ? 1 : 2);
	a = account_at(region, 0);
	assert_int_equal(account_available(a), CREDIT - (15 + 30) - (15 + 90));
	/* The slots go on behind what the journal knows. */
	silent = reserve(a, 4, &position);
	durable(worker, position);
	assert_int_equal(ring_result(ledger_ring(worker), position, NULL), RING_APPLIED);
	position = settle(silent, 1);
	durable(worker, position);
	assert_int_equal(ledger_close(worker, silent, position, &value), RING_APPLIED);
	assert_int_equal(stop(), 0);
	b = durable_books();
	memory_agrees(b);
	assert_int_equal(books_account(b, 0)->charged, 45 + 105 + 18);
	books_free(b);
}

static enum ring_status
sight(uint64_t key_id, const char *id, int64_t *number)
{
	struct rec rec = rec_sight(key_id, id);
	struct ring *ring = ledger_ring(worker);
	uint64_t position = ring_push(ring, &rec.r, rec.payload, rec.r.payload_len);
	enum ring_status status;

	durable(worker, position);
	status = ring_result(ring, position, number);
	ring_ack(ring, position);
	return status;
}

static void
users_get_what_the_config_says_once(void **state)
{
	struct books *b;
	struct rec rec;
	uint64_t position;
	int64_t number, value;
	char id[32];

	(void)state;
	heritage->config->first_sight.grant = 7 * CREDIT;
	heritage->config->first_sight.overdraft = 2 * CREDIT;
	heritage->config->first_sight.max_accounts = 3;
	start();
	(void)new_account("alice", 0);
	assert_int_equal(admin_push(rec_trusted_key(0, 42), &value), RING_APPLIED);
	assert_int_equal(admin_push(rec_trusted_key(0, 43), &value), RING_APPLIED);
	assert_int_equal(sight(42, "owui:u1", &number), RING_APPLIED);
	assert_int_equal(number, 1);
	assert_int_equal(account_available(account_at(region, 1)), 9 * CREDIT);
	assert_int_equal(sight(42, "owui:u1", &value), RING_EXISTS);
	assert_int_equal(value, 1);
	/* The keeper after this one knows it too, and how many there were. */
	kill_keeper();
	heritage->config->first_sight.grant = CREDIT;
	start();
	assert_int_equal(sight(43, "owui:u1", &value), RING_EXISTS);
	assert_int_equal(value, 1);
	assert_int_equal(sight(42, "owui:u2", &value), RING_APPLIED);
	assert_int_equal(sight(42, "owui:u3", &value), RING_APPLIED);
	assert_int_equal(sight(42, "owui:u4", &value), RING_BOUND);
	assert_null(account_find(region, "owui:u4", 7));
	assert_int_equal(sight(42, "owui:u3", &value), RING_EXISTS);
	assert_int_equal(sight(43, "owui:u4", &value), RING_APPLIED);
	assert_int_equal(atomic_load(&region_proc(region, WORKER)->bad), 0);
	/* The table is full: said as that, and by nobody's fault. */
	heritage->config->first_sight.max_accounts = 1000;
	kill_keeper();
	start();
	for (uint32_t n = 5; n < dims.max_accounts; n++) {
		(void)snprintf(id, sizeof id, "owui:n%u", n);
		assert_int_equal(sight(42, id, &value), RING_APPLIED);
		assert_int_equal(value, n);
	}
	assert_int_equal(sight(42, "owui:late", &value), RING_NOSPACE);
	assert_int_equal(atomic_load(&region_proc(region, WORKER)->bad), 0);
	/* Whoever asks for more than that is found out. */
	rec = rec_sight(42, "owui:rich");
	rec.r.amount = 1000 * CREDIT;
	position = ring_push(ledger_ring(worker), &rec.r, rec.payload, rec.r.payload_len);
	durable(worker, position);
	assert_int_equal(ring_result(ledger_ring(worker), position, NULL), RING_REFUSED);
	assert_int_equal(atomic_load(&region_proc(region, WORKER)->bad), 1);
	assert_int_equal(stop(), 0);
	b = durable_books();
	memory_agrees(b);
	assert_int_equal(books_account(b, 1)->balance, 7 * CREDIT);
	assert_int_equal(books_account(b, 1)->topups, 7 * CREDIT);
	assert_int_equal(books_account(b, 2)->balance, CREDIT);
	books_free(b);
}

static void
forged_records_are_refused_and_their_sender_marked(void **state)
{
	struct account *a;
	struct books *b;
	struct hold *h;
	struct rec rec;
	uint64_t position;
	int64_t value;
	uint32_t slot;

	(void)state;
	start();
	a = new_account("alice", 0);
	assert_int_equal(credit(a, JOURNAL_TOPUP, CREDIT, "", &value), RING_APPLIED);
	h = reserve(a, 1, &position);
	ledger_meter(h, 20, 0);
	assert_int_equal(ledger_mark(worker, h, "twenty", 6, &position), LEDGER_OK);
	durable(worker, position);
	slot = hold_slot(region, h);
	assert_int_equal(atomic_load(&region_proc(region, WORKER)->bad), 0);
	/* It pretends that its stream cost nothing, then that it has money. */
	rec = rec_settle(slot, HOLD_SEQ(atomic_load(&h->state)) + 1, 0, 10, 20, "");
	rec.r.amount = 0;
	position = ring_push(ledger_ring(worker), &rec.r, NULL, 0);
	durable(worker, position);
	assert_int_equal(ring_result(ledger_ring(worker), position, NULL), RING_REFUSED);
	assert_int_equal(atomic_load(&h->journaled), HOLD_WORD(rec.r.op, RING_REFUSED));
	assert_int_equal(atomic_load(&region_proc(region, WORKER)->bad), 1);
	assert_int_equal(atomic_load(&a->flags), ACCOUNT_FROZEN);
	/* Said once more, as the reaper will. */
	position = ring_push(ledger_ring(worker), &rec.r, NULL, 0);
	durable(worker, position);
	assert_int_equal(ring_result(ledger_ring(worker), position, NULL), RING_REFUSED);
	rec = rec_credit(JOURNAL_TOPUP, slot, rec.r.op + 1, 0, 1000, "");
	position = ring_push(ledger_ring(worker), &rec.r, rec.payload, rec.r.payload_len);
	durable(worker, position);
	assert_int_equal(ring_result(ledger_ring(worker), position, NULL), RING_REFUSED);
	/* Frozen also for the keeper after this one, and (below) after a reboot. */
	kill_keeper();
	start();
	assert_int_equal(atomic_load(&a->flags), ACCOUNT_FROZEN);
	rec = rec_reserve(slot + 1, 100, 0, 10, 0, 9);
	position = ring_push(ledger_ring(worker), &rec.r, rec.payload, rec.r.payload_len);
	durable(worker, position);
	assert_int_equal(ring_result(ledger_ring(worker), position, NULL), RING_CLOSED);
	assert_int_equal(stop(), 0);
	b = durable_books();
	/* The hold was ended at its mark. */
	assert_int_equal(books_account(b, 0)->charged, 15 + 60);
	assert_int_equal(books_account(b, 0)->held, 0);
	assert_int_equal(books_account(b, 0)->flags, ACCOUNT_FROZEN);
	books_free(b);
	region_unmap(region);
	ledger_free(worker);
	ledger_free(admin);
	new_region();
	start();
	a = account_at(region, 0);
	assert_int_equal(atomic_load(&a->flags), ACCOUNT_FROZEN);
	assert_int_equal(account_set(a, JOURNAL_SET_UNFROZEN, 0, 0), RING_APPLIED);
	assert_int_equal(atomic_load(&a->flags), 0);
	kill_keeper();
	start();
	assert_int_equal(atomic_load(&a->flags), 0);
	durable(worker, (reserve(a, 3, &position), position));
	assert_int_equal(ring_result(ledger_ring(worker), position, NULL), RING_APPLIED);
	assert_int_equal(stop(), 0);
}

/* Limits, overdraft and closing: there for the next keeper, and after a reboot. */
static void
what_is_set_stays_set(void **state)
{
	struct account_books now;
	struct account *a;
	struct books *b;
	struct hold *open;
	uint64_t position;
	int64_t value;

	(void)state;
	start();
	a = new_account("alice", 500);
	assert_int_equal(credit(a, JOURNAL_TOPUP, 1000, "", &value), RING_APPLIED);
	open = reserve(a, 1, &position);
	durable(worker, position);
	assert_int_equal(account_set(a, JOURNAL_SET_OVERDRAFT | JOURNAL_SET_REQUESTS, -400, 100),
	    RING_APPLIED);
	assert_int_equal(account_available(a), 1100 - open->amount);
	account_books(a, &now);
	assert_int_equal(now.overdraft, 100);
	assert_int_equal(atomic_load(&a->requests_per_minute), 7);
	assert_int_equal(atomic_load(&a->tokens_per_minute), 0);
	/* Somebody's change that began with another overdraft changes nothing. */
	assert_int_equal(account_set(a, JOURNAL_SET_OVERDRAFT, -400, 100), RING_STALE);
	assert_int_equal(account_available(a), 1100 - open->amount);
	assert_int_equal(account_set(a, JOURNAL_SET_CLOSED, 0, 0), RING_APPLIED);
	assert_int_equal(atomic_load(&a->flags), ACCOUNT_CLOSED);
	assert_int_equal(credit(a, JOURNAL_TOPUP, 1, "", &value), RING_CLOSED);
	/* What runs ends as it would. */
	position = settle(open, 1);
	durable(worker, position);
	assert_int_equal(ledger_close(worker, open, position, &value), RING_APPLIED);
	kill_keeper();
	start();
	assert_int_equal(atomic_load(&a->flags), ACCOUNT_CLOSED);
	kill_keeper();
	region_unmap(region);
	ledger_free(worker);
	ledger_free(admin);
	new_region();
	start();
	a = account_at(region, 0);
	assert_int_equal(atomic_load(&a->flags), ACCOUNT_CLOSED);
	assert_int_equal(atomic_load(&a->requests_per_minute), 7);
	assert_int_equal(account_available(a), 1100 - 18);
	assert_int_equal(stop(), 0);
	b = durable_books();
	memory_agrees(b);
	books_free(b);
}

/* A keeper that died between its commit and telling anybody: memory as it was before. */
static void
what_was_committed_and_not_told_is_told_by_the_next(void **state)
{
	struct account *a, *late;
	struct books *b;
	struct hold *good, *forged;
	struct rec rec;
	uint64_t position;
	int64_t value;
	int status;

	(void)state;
	start();
	a = new_account("alice", 0);
	assert_int_equal(credit(a, JOURNAL_TOPUP, CREDIT, "", &value), RING_APPLIED);
	good = reserve(a, 1, &position);
	forged = reserve(a, 2, &position);
	durable(worker, position);
	position = settle(good, 20);
	rec = rec_settle(hold_slot(region, forged), HOLD_SEQ(atomic_load(&forged->state)) + 1,
	    0, 10, 20, "");
	rec.r.amount = 0;
	hold_move(forged, rec.r.op, HOLD_SETTLING);
	position = ring_push(ledger_ring(worker), &rec.r, NULL, 0);
	durable(worker, position);
	late = new_account("late", 5);
	kill_keeper();
	atomic_store(&ledger_ring(worker)->durable, position - 2);
	atomic_store(&good->journaled, HOLD_WORD(1, RING_APPLIED));
	atomic_store(&forged->journaled, HOLD_WORD(1, RING_APPLIED));
	atomic_store(&region->h->accounts, late->number);
	account_publish(a, &(struct account_books){0});

	spawn(0);
	/* Nobody sends anything more. */
	WAIT_FOR(ring_durable(ledger_ring(worker)) == position);
	assert_int_equal(atomic_load(&good->journaled), HOLD_WORD(2, RING_APPLIED));
	assert_int_equal(atomic_load(&forged->journaled), HOLD_WORD(2, RING_REFUSED));
	assert_ptr_equal(account_find(region, "late", 4), late);
	assert_int_equal(ledger_close(worker, good, position - 1, &value), RING_APPLIED);
	/* The reaper's repetition gets the same answer. */
	position = ring_push(ledger_ring(worker), &rec.r, NULL, 0);
	durable(worker, position);
	status = (int)ring_result(ledger_ring(worker), position, &value);
	assert_int_equal(status, RING_REFUSED);
	assert_int_equal(stop(), 0);
	b = durable_books();
	assert_int_equal(books_account(b, 0)->balance, CREDIT - 75);
	assert_int_equal(books_account(b, 0)->held, 0);
	books_free(b);
}

/* The same with a SYNC: it is not answered before its work is done, by whichever keeper. */
static void
a_sync_that_was_committed_and_not_told_is_done_first(void **state)
{
	struct rec sync = {.r = {.type = JOURNAL_SYNC, .version = JOURNAL_VERSION,
	    .slot = JOURNAL_NONE}};
	int64_t value;
	uint64_t was;

	(void)state;
	start();
	(void)new_account("alice", 0);
	was = atomic_load(&region->h->journal_seq);
	assert_int_equal(admin_push(sync, &value), RING_APPLIED);
	kill_keeper();
	atomic_fetch_sub(&ledger_ring(admin)->durable, 1);
	atomic_store(&region->h->projected_seq, 0);
	atomic_store(&region->h->journal_seq, 0);
	state_remove(dir);
	spawn(0);
	/* At the very moment: nothing else would wake us in time. */
	while (ring_durable(ledger_ring(admin)) < ring_head(ledger_ring(admin)))
		(void)sched_yield();
	assert_true(atomic_load(&region->h->journal_seq) >= was);
	assert_true(atomic_load(&region->h->projected_seq) >= was);
	assert_int_equal(stop(), 0);
}

/* A full disk, as a limit on file sizes: not one acknowledgement until it has gone. */
static void
a_full_disk_stops_all_acknowledgements(void **state)
{
	char text[2000];
	struct account *a;
	struct books *b;
	struct hold *h;
	uint64_t position = 0, was;
	int64_t value;
	int status;

	(void)state;
	memset(text, 'x', sizeof text);
	start();
	a = new_account("alice", 0);
	assert_int_equal(credit(a, JOURNAL_TOPUP, CREDIT, "", &value), RING_APPLIED);
	h = reserve(a, 1, &position);
	durable(worker, position);
	kill_keeper();
	was = ring_durable(ledger_ring(worker));
	ledger_meter(h, 1, 0);
	for (int i = 0; i < 30; i++)
		assert_int_equal(ledger_mark(worker, h, text, sizeof text, &position), LEDGER_OK);
	for (int i = 0; i < 2; i++) {
		spawn(80 << 10);
		assert_int_equal(waitpid(keeper, &status, 0), keeper);
		assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 1);
		assert_int_equal(atomic_load(&region->h->journal_ok), 0);
		assert_int_equal(ring_durable(ledger_ring(worker)), was);
	}
	spawn(0);
	durable(worker, position);
	assert_int_equal(atomic_load(&region->h->journal_ok), 1);
	position = settle(h, 1);
	durable(worker, position);
	assert_int_equal(ledger_close(worker, h, position, &value), RING_APPLIED);
	assert_int_equal(stop(), 0);
	b = durable_books();
	memory_agrees(b);
	books_free(b);
}

/* A region of another journal, and a journal that is older than the region. */
static void
what_does_not_belong_together_is_refused(void **state)
{
	int status;

	(void)state;
	start();
	(void)new_account("alice", 0);
	kill_keeper();
	region->h->epoch++;
	spawn(0);
	assert_int_equal(waitpid(keeper, &status, 0), keeper);
	assert_int_equal(WEXITSTATUS(status), 1);
	region->h->epoch--;
	atomic_fetch_add(&ledger_ring(admin)->durable, 1);
	spawn(0);
	assert_int_equal(waitpid(keeper, &status, 0), keeper);
	assert_int_equal(WEXITSTATUS(status), 1);
	keeper = 0;
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	    TEST(records_are_acknowledged_with_their_results),
	    TEST(a_sync_brings_the_projection_up_to_date),
	    TEST(nobody_waits_for_a_projection_that_stands_still),
	    TEST(a_keeper_killed_while_it_projects_loses_nothing),
	    TEST(a_stop_waits_for_the_projection),
	    TEST(a_projection_that_hangs_is_noticed),
	    TEST(prices_have_ids_for_ever),
	    TEST(one_price_too_many_is_refused),
	    TEST(set_prices_are_in_force),
	    TEST(prices_run_out),
	    TEST(a_killed_keeper_loses_and_doubles_nothing),
	    TEST(the_reaper_settles_through_the_keeper),
#define KILLED(i)                                                                                 \
	cmocka_unit_test_prestate_setup_teardown(what_a_forger_left_does_not_meet_its_successor,  \
	    setup, teardown, (void *)(uintptr_t)(i))
	    KILLED(0),
	    KILLED(1),
	    KILLED(2),
	    TEST(a_worker_cannot_say_that_it_is_gone),
	    TEST(a_used_up_slot_is_left_alone),
	    TEST(after_a_power_cut_holds_end_at_their_marks),
	    TEST(users_get_what_the_config_says_once),
	    TEST(forged_records_are_refused_and_their_sender_marked),
	    TEST(what_is_set_stays_set),
	    TEST(what_was_committed_and_not_told_is_told_by_the_next),
	    TEST(a_sync_that_was_committed_and_not_told_is_done_first),
	    TEST(a_full_disk_stops_all_acknowledgements),
	    TEST(what_does_not_belong_together_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
