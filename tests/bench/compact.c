/*
 * What a compaction costs those who wait for the disk: a keeper with many accounts, one client
 * whose records are committed one after the other, and its waits before, during and after a
 * compaction of the journal; how the file grew and was used again.
 *
 *     compact FOLDER [ACCOUNTS [RECORDS]]       by itself a million accounts and two million records
 *
 * objs: daemon/keeper.o daemon/compact_make.o daemon/title.o daemon/compact.o daemon/keeper_batch.o daemon/keeper_gone.o daemon/keeper_refs.o daemon/keeper_project.o daemon/projector.o daemon/recover.o daemon/keeper_prices.o daemon/proof.o daemon/checkpoint.o daemon/books_rows.o daemon/state.o daemon/state_job.o daemon/state_streams.o daemon/state_read.o daemon/journal.o daemon/journal_file.o daemon/journal_compact.o daemon/journal_chain.o daemon/journal_read.o daemon/books.o daemon/books_refs.o daemon/books_apply.o daemon/books_check.o daemon/metrics.o daemon/buf.o daemon/log.o daemon/utf8.o tests/unit/records.o shm/money.o shm/account.o shm/region.o shm/ring.o shm/hold.o shm/ledger.o shm/seat.o shm/reap.o shm/wake.o shm/purse.o daemon/books_caps.o daemon/keeper_history.o daemon/journal_history.o daemon/journal_receipts.o
 * objs: daemon/renew.o daemon/config_record.o daemon/order.o daemon/config.o daemon/config_file.o
 * objs: daemon/config_text.o daemon/config_value.o daemon/config_jwt.o daemon/config_check.o
 * objs: daemon/config_source.o daemon/config_change.o daemon/auth_scope.o daemon/secret.o
 * objs: daemon/address.o daemon/calibrate.o daemon/tokenizer.o daemon/tokenizer_stream.o
 * objs: daemon/tokenizer_merge.o daemon/tokenizer_split.o daemon/tokenizer_class.o
 * objs: daemon/tokenizer_table.o
 */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/heritage.h"
#include "daemon/journal.h"
#include "shm/clock.h"
#include "shm/ledger.h"
#include "shm/ring.h"
#include "shm/wake.h"
#include "tests/unit/records.h"

#define BATCH 1000
#define SAMPLES 20000
#define OVERDRAFT INT64_C(1000000000)

static struct heritage heritage;
static struct config config;
static struct region *region = &heritage.region;

static void
must(bool good, const char *what)
{
	if (good)
		return;
	perror(what);
	exit(1);
}

static double
file_mib(const char *name)
{
	char path[4096];
	struct stat st;

	(void)snprintf(path, sizeof path, "%s/%s", config.state_dir, name);
	return stat(path, &st) == 0 ? (double)st.st_size / (1 << 20) : 0;
}

/* Accounts, then reserves and settles with a text of 200 bytes. */
static void
fill(uint32_t accounts, uint64_t records)
{
	static char text[201];
	struct journal_positions rings = {.epoch = 1};
	const char *why = "";
	struct journal *j = journal_open(config.state_dir, 0, &why);
	struct rec rec = rec_price_of(0, "model", &rec_price);
	uint64_t n = 1;

	must(j != NULL, why);
	(void)journal_append(j, &rec.r, rec.payload);
	for (uint32_t i = 0; i < accounts; i++, n++) {
		(void)snprintf(text, sizeof text, "account-%u", i);
		rec = rec_account(i, text, OVERDRAFT);
		(void)journal_append(j, &rec.r, rec.payload);
		if (journal_staged(j) >= BATCH)
			must(journal_commit(j, &rings) == 0, "commit");
	}
	must(journal_commit(j, &rings) == 0, "commit");
	printf("%u accounts made: journal.mdb %.0f MiB\n", accounts, file_mib("journal.mdb"));
	memset(text, 'x', sizeof text - 1);
	for (uint64_t i = 0; i < records / 2; i++, n += 2) {
		rec = rec_reserve(0, 2 * i + 1, (uint32_t)(i % accounts), 100000, 10, 1);
		(void)journal_append(j, &rec.r, rec.payload);
		rec = rec_settle(0, 2 * i + 2, (uint32_t)(i % accounts), 10, 20, text);
		(void)journal_append(j, &rec.r, rec.payload);
		if (journal_staged(j) >= BATCH)
			must(journal_commit(j, &rings) == 0, "commit");
	}
	must(journal_commit(j, &rings) == 0, "commit");
	printf("%llu records more: journal.mdb %.0f MiB\n", (unsigned long long)records,
	    file_mib("journal.mdb"));
	journal_close(j);
}

static void
wait_durable(struct ledger *l, uint64_t position)
{
	struct pollfd fd = {.fd = heritage.wake_fd[PROC_ADMIN], .events = POLLIN};

	must(position > 0, "ring");
	wake_keeper_now(region, heritage.wake_fd[PROC_KEEPER]);
	while (ring_durable(ledger_ring(l)) < position) {
		wake_prepare(region, PROC_ADMIN);
		if (ring_durable(ledger_ring(l)) < position)
			(void)poll(&fd, 1, 1000);
		wake_done(region, PROC_ADMIN, fd.fd);
	}
	ring_ack(ledger_ring(l), position);
}

static int
compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

/* Keys are made, one after the other, for so long or while a compaction runs. */
static void
measure(struct ledger *admin, const char *what, uint64_t for_us, uint32_t step)
{
	static uint64_t wait[SAMPLES], key_id = 1;
	const struct region_compaction *c = &region->h->compaction;
	uint64_t until = monotonic_us() + for_us, n = 0, sum = 0;

	while (n < SAMPLES && (step == 0 ? monotonic_us() < until
	                                 : atomic_load(&c->ended) != atomic_load(&c->asked) &&
	                                       atomic_load(&c->step) == step)) {
		struct rec rec = rec_key((uint32_t)(key_id % 1000), key_id, "key");
		uint64_t start = monotonic_us();

		key_id++;
		wait_durable(
		    admin, ring_push(ledger_ring(admin), &rec.r, rec.payload, rec.r.payload_len));
		sum += wait[n++] = monotonic_us() - start;
	}
	if (n == 0)
		return;
	qsort(wait, n, sizeof *wait, compare);
	printf("%-22s %6llu commits, wait us: mean %llu, p50 %llu, p99 %llu, max %llu; "
	       "journal.mdb %.0f MiB\n",
	    what, (unsigned long long)n, (unsigned long long)(sum / n),
	    (unsigned long long)wait[n / 2], (unsigned long long)wait[n * 99 / 100],
	    (unsigned long long)wait[n - 1], file_mib("journal.mdb"));
}

static void
wait_filled(void)
{
	while (atomic_load(&region->h->filled) == 0)
		(void)poll(NULL, 0, 10);
	while (atomic_load(&region->h->projected_seq) < atomic_load(&region->h->journal_seq))
		(void)poll(NULL, 0, 10);
}

static void
run(void)
{
	struct rec rec = {.r = {.type = JOURNAL_COMPACT,
	                      .version = JOURNAL_VERSION,
	                      .slot = JOURNAL_NONE,
	                      .account = JOURNAL_NONE,
	                      .price = JOURNAL_NONE,
	                      .extra = INT64_MAX}};
	const struct region_compaction *c = &region->h->compaction;
	struct ledger *admin;
	uint64_t start = monotonic_us(), bytes = 0;

	wait_filled();
	printf("loaded and projected in %.1f s: state.mdb %.0f MiB\n",
	    (double)(monotonic_us() - start) / 1e6, file_mib("state.mdb"));
	admin = ledger_new(region, PROC_ADMIN);
	must(admin != NULL, "ledger");
	measure(admin, "before", 5000000, 0);
	start = monotonic_us();
	wait_durable(admin, ring_push(ledger_ring(admin), &rec.r, NULL, 0));
	while (atomic_load(&c->ended) != atomic_load(&c->asked)) {
		measure(admin, "proving", 0, 1);
		if (atomic_load(&c->step) == 2)
			bytes = atomic_load(&c->of);
		measure(admin, "storing", 0, 2);
		measure(admin, "removing", 0, 3);
	}
	printf("compacted in %.1f s, result %u %s; checkpoint %.0f MiB\n",
	    (double)(monotonic_us() - start) / 1e6, atomic_load(&c->result), c->why,
	    (double)bytes / (1 << 20));
	measure(admin, "after", 5000000, 0);
	ledger_free(admin);
}

int
main(int argc, char **argv)
{
	uint32_t accounts = argc > 2 ? (uint32_t)atoi(argv[2]) : 1000000;
	uint64_t records = argc > 3 ? (uint64_t)atoll(argv[3]) : 2000000;
	struct region_dims dims = {.workers = 1,
	    .max_accounts = accounts + 1,
	    .max_keys = 1 << 18,
	    .max_holds = 64,
	    .ring_records = 256,
	    .ring_arena = 1 << 16};
	pid_t keeper;

	must(argc > 1, "usage: compact FOLDER [ACCOUNTS [RECORDS]]");
	config.state_dir = config.runtime_dir = argv[1];
	heritage.config = &config;
	fill(accounts, records);
	must(region_anonymous(region, &dims) == 0, "region");
	for (int i = 0; i < REGION_PROCS_MAX; i++)
		heritage.wake_fd[i] = i < PROC_WORKER + 2 ? eventfd(0, EFD_NONBLOCK) : -1;
	(void)fflush(stdout);
	keeper = fork();
	if (keeper == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		_exit(keeper_main(&heritage));
	}
	run();
	(void)kill(keeper, CHILD_SIG_STOP);
	(void)waitpid(keeper, NULL, 0);
	return 0;
}
