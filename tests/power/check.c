/*
 * What the daemon makes of a state folder after a power cut, as JSON: for tests/power/run.py.
 *
 * Each line of standard input names a folder; for each one line goes out.  A keeper is started
 * on it with new shared memory, as after a reboot; it recovers, takes one more top-up, and stops;
 * then the folder is audited and what the journal says is printed.  Only the keeper runs, since
 * nothing else of the daemon writes or reads these files while it recovers: some thirty times as
 * many points in a minute as with whole daemons.
 * objs: daemon/keeper.o daemon/compact_make.o daemon/title.o daemon/compact.o daemon/keeper_batch.o daemon/keeper_gone.o daemon/keeper_refs.o daemon/keeper_project.o daemon/projector.o daemon/recover.o daemon/keeper_prices.o daemon/audit.o daemon/proof.o daemon/checkpoint.o daemon/books_rows.o daemon/state.o daemon/state_job.o daemon/state_streams.o daemon/state_read.o daemon/journal.o daemon/journal_file.o daemon/journal_compact.o daemon/journal_chain.o daemon/journal_read.o daemon/books.o daemon/books_refs.o daemon/books_apply.o daemon/books_check.o daemon/metrics.o daemon/buf.o daemon/log.o daemon/utf8.o shm/money.o shm/account.o shm/region.o shm/ring.o shm/hold.o shm/ledger.o shm/seat.o shm/reap.o shm/wake.o shm/purse.o daemon/books_caps.o daemon/keeper_history.o daemon/journal_history.o daemon/journal_history_read.o daemon/journal_receipts.o
 * objs: daemon/tokenizer.o daemon/tokenizer_stream.o daemon/tokenizer_merge.o daemon/tokenizer_split.o
 * objs: daemon/tokenizer_class.o daemon/tokenizer_table.o
 * objs: daemon/renew.o daemon/config_record.o daemon/order.o daemon/config.o daemon/config_file.o daemon/config_text.o
 * objs: daemon/config_value.o daemon/config_jwt.o daemon/config_check.o daemon/config_source.o
 * objs: daemon/config_change.o daemon/auth_scope.o daemon/secret.o daemon/address.o
 * objs: daemon/calibrate.o
 */
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/audit.h"
#include "daemon/heritage.h"
#include "daemon/journal_history.h"
#include "daemon/journal_receipts.h"
#include "daemon/tokenizer.h"
#include "shm/account.h"
#include "shm/ledger.h"
#include "shm/ring.h"
#include "shm/wake.h"

#define TRIES 3        /* the master tries a keeper as often */
#define WAIT_MS 20000

static const struct region_dims dims = {.workers = 2, .max_accounts = 1 << 16, .max_keys = 1 << 16,
    .max_holds = 5 * 256, .ring_records = 256, .ring_arena = 1 << 16};

static struct heritage heritage;
static struct config config;
static pid_t keeper;

static void
spawn(const char *folder)
{
	char log[4096 + 8];
	int fd;

	keeper = fork();
	if (keeper != 0)
		return;
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	(void)snprintf(log, sizeof log, "%s.log", folder);
	fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
	if (fd >= 0)
		(void)dup2(fd, 2);
	_exit(keeper_main(&heritage));
}

/* 1: it ended; 0: the time is up or `ready`. */
static int
keeper_ended(bool (*ready)(void), int *status)
{
	for (int ms = 0; ms < WAIT_MS; ms++) {
		if (waitpid(keeper, status, WNOHANG) == keeper)
			return 1;
		if (ready())
			return 0;
		(void)poll(NULL, 0, 1);
	}
	return 0;
}

static bool
filled(void)
{
	return atomic_load(&heritage.region.h->filled) == REGION_FILLED;
}

static struct ring *
admin_ring(void)
{
	return region_ring(&heritage.region, PROC_ADMIN);
}

static bool
durable(void)
{
	return ring_durable(admin_ring()) == ring_head(admin_ring());
}

static bool
never(void)
{
	return false;
}

/* One micro-credit for the first account: does it go on? */
static const char *
top_up(struct account *account)
{
	static const char after[] = "after";
	struct ledger *admin = ledger_new(&heritage.region, PROC_ADMIN);
	struct journal_ref ref = {.ref_len = sizeof after - 1};
	char payload[sizeof ref + sizeof after];
	struct hold *slot;
	uint64_t position;
	int status;
	int64_t value;

	if (admin == NULL)
		return "no memory";
	memcpy(payload, &ref, sizeof ref);
	memcpy(payload + sizeof ref, after, sizeof after);
	if (ledger_credit(admin, account, JOURNAL_TOPUP, 1, payload, sizeof payload - 1, &slot,
		&position) != LEDGER_OK)
		return "the ledger takes no top-up";
	wake(&heritage.region, PROC_KEEPER, heritage.wake_fd[PROC_KEEPER]);
	if (keeper_ended(durable, &status) || !durable())
		return "a top-up after it does not become durable";
	/* Repeated: a run before this one did it, and was cut. */
	if (ledger_close(admin, slot, position, &value) > RING_REPEATED)
		return "a top-up after it is refused";
	ledger_free(admin);
	return NULL;
}

/* NULL, or what is wrong. */
static const char *
recover(const char *folder, int *tries)
{
	static char why[96];
	const char *fault = NULL;
	int status = 0;

	for (*tries = 1; *tries <= TRIES; ++*tries) {
		spawn(folder);
		if (!keeper_ended(filled, &status))
			break;
	}
	if (*tries > TRIES) {
		(void)snprintf(why, sizeof why, "the keeper ends: status %d", status);
		return why;
	}
	if (!filled())
		return "the keeper does not get ready";
	if (atomic_load(&heritage.region.h->accounts) > 0)
		fault = top_up(account_at(&heritage.region, 0));
	if (fault != NULL)
		return fault;
	(void)kill(keeper, CHILD_SIG_STOP);
	if (!keeper_ended(never, &status))
		return "the keeper does not stop";
	return status == 0 ? NULL : "the keeper does not end well";
}

static void
hex(char *text, const uint8_t *bytes, size_t n)
{
	for (size_t i = 0; i < n; i++)
		(void)sprintf(text + 2 * i, "%02x", bytes[i]);
}

/* What happened, by the journal: top-ups by ref, keys, streams by id. */
static void
tell_journal(json_t *out, struct journal_reader *r)
{
	struct journal_cursor *c = journal_cursor_new(r, 1);
	json_t *credits = json_array(), *keys = json_array(), *streams = json_object();
	json_t *forgotten = json_array();
	char (*stream)[33] = calloc(dims.max_holds * 64, sizeof *stream), text[33];
	struct journal_entry e;

	while (c != NULL && stream != NULL && journal_cursor_next(c, &e) == 1) {
		const struct journal_record *j = &e.record;

		if (j->type == JOURNAL_TOPUP || j->type == JOURNAL_ADJUST) {
			const struct journal_ref *ref = e.payload;

			json_array_append_new(credits, json_pack("{s:i,s:s#,s:I}", "account",
			    (int)j->account, "ref", (const char *)e.payload + sizeof *ref,
			    (int)ref->ref_len, "amount", (json_int_t)j->amount));
		} else if (j->type == JOURNAL_KEY) {
			const struct journal_key *k = e.payload;

			(void)snprintf(text, sizeof text, "key_%016" PRIx64, k->key_id);
			json_array_append_new(keys, json_string(text));
		} else if (j->type == JOURNAL_FORGET) {
			hex(text, e.payload, JOURNAL_FORGET_LEN);
			json_array_append_new(forgotten, json_string(text));
		} else if (j->slot >= dims.max_holds * 64) {
			continue;
		} else if (j->type == JOURNAL_RESERVE) {
			hex(stream[j->slot], ((const struct journal_reserve *)e.payload)->stream_id,
			    16);
			json_object_set_new(streams, stream[j->slot], json_pack("{s:b}", "open", 1));
		} else if (j->type == JOURNAL_SETTLE || j->type == JOURNAL_VOID) {
			json_object_set_new(streams, stream[j->slot],
			    json_pack("{s:b,s:I,s:i,s:i}", "open", 0, "charge",
				(json_int_t)(j->type == JOURNAL_VOID ? 0 : j->amount), "completion",
				j->type == JOURNAL_VOID ? 0 : (int)j->completion, "outcome",
				(int)j->outcome));
		}
	}
	journal_cursor_free(c);
	free(stream);
	json_object_set_new(out, "credits", credits);
	json_object_set_new(out, "keys", keys);
	json_object_set_new(out, "streams", streams);
	json_object_set_new(out, "forgotten", forgotten);
}

/* The history beside the records that it is made of, as far back as there are any. */

struct turn {
	uint64_t sequence, forgotten; /* forgotten: a FORGET of its session after it, or 0 */
	uint32_t account;
	uint8_t session[16];
	struct buf said, answer;
	int64_t charge;
	bool ended;
};

struct turns {
	struct turn *turn;
	size_t count;
	size_t *open; /* of each slot: its turn's number, from 1; 0: none */
};

static void
take_reserve(struct turns *t, const struct journal_entry *e)
{
	struct turn *turn = &t->turn[t->count];
	struct journal_reserve head;
	size_t at = sizeof head;

	memcpy(&head, e->payload, sizeof head);
	at += head.model_len + (head.keyed != 0 ? sizeof(struct journal_keyed) : 0);
	t->open[e->record.slot] = 0;
	if (at >= e->payload_len)
		return;
	*turn = (struct turn){.sequence = e->sequence, .account = e->record.account};
	memcpy(turn->session, head.session_id, sizeof turn->session);
	buf_add(&turn->said, (const char *)e->payload + at, e->payload_len - at);
	t->open[e->record.slot] = ++t->count;
}

static void
take_progress(struct turns *t, const struct journal_entry *e)
{
	size_t at = journal_head_len(&e->record, e->payload, e->payload_len), n = t->open[e->record.slot];
	struct turn *turn = n == 0 ? NULL : &t->turn[n - 1];

	if (turn == NULL)
		return;
	if (e->payload_len > at)
		buf_add(&turn->answer, (const char *)e->payload + at, e->payload_len - at);
	if (e->record.type != JOURNAL_SETTLE && e->record.type != JOURNAL_VOID)
		return;
	turn->charge = e->record.amount;
	turn->ended = true;
	t->open[e->record.slot] = 0;
}

static void
take_forget(struct turns *t, const struct journal_entry *e)
{
	for (size_t i = 0; i < t->count; i++)
		if (t->turn[i].account == e->record.account &&
		    memcmp(t->turn[i].session, e->payload, JOURNAL_FORGET_LEN) == 0)
			t->turn[i].forgotten = e->sequence;
}

static const char *
compare_turn(struct history_view *v, const struct turn *m)
{
	struct history_session s;
	struct history_turn t;
	struct buf answer = {0};
	struct span said;
	size_t len;
	bool same;
	int there = history_session_get(v, m->session, &s);

	if (m->forgotten != 0)
		return there == 0 || (there == 1 && s.first > m->forgotten)
		           ? NULL
		           : "it has what was forgotten";
	if (there != 1)
		return "a session is lost";
	if (history_turn_before(v, &s, m->sequence + 1, &t) != 1 || t.sequence != m->sequence)
		return "a turn is lost";
	if (t.lost || (t.ended_us != 0) != m->ended || t.charge != m->charge)
		return "a turn's end is not its record's";
	if (history_said(v, t.sequence, &said) != 1 || said.len != m->said.len ||
	    memcmp(said.p, m->said.data, said.len) != 0)
		return "a question is not its record's";
	same = history_answer(v, t.sequence, &answer, &len) == 1 && len == m->answer.len &&
	       (len == 0 || memcmp(answer.data, m->answer.data, len) == 0);
	buf_free(&answer);
	return same ? NULL : "an answer is not its records'";
}

static const char *
compare_turns(struct journal_reader *r, const struct turns *t)
{
	const char *fault = NULL;

	for (size_t i = 0; i < t->count && fault == NULL; i++) {
		struct history_view *v = history_view_new(r, t->turn[i].account);

		fault = v == NULL ? "it cannot be read" : compare_turn(v, &t->turn[i]);
		history_view_free(v);
	}
	return fault;
}

/* From each stream's id to its records, as far back as there are any. */
static const char *
compare_receipts(struct journal_reader *r)
{
	struct journal_cursor *c = journal_cursor_new(r, 1);
	size_t slots = dims.max_holds * 64;
	struct {
		uint64_t reserve;
		uint8_t id[16];
	} *open = calloc(slots, sizeof *open);
	const char *fault = c == NULL || open == NULL ? "they cannot be read" : NULL;
	struct journal_receipt x;
	struct journal_entry e;

	while (fault == NULL && journal_cursor_next(c, &e) == 1) {
		uint32_t slot = e.record.slot;

		if (slot < slots && e.record.type == JOURNAL_RESERVE) {
			open[slot].reserve = e.sequence;
			memcpy(open[slot].id, e.payload, sizeof open[slot].id);
		} else if (slot < slots && open[slot].reserve != 0 &&
		    (e.record.type == JOURNAL_SETTLE || e.record.type == JOURNAL_VOID)) {
			if (journal_receipt_get(r, open[slot].id, &x) != 1 ||
			    x.reserve_seq != open[slot].reserve || x.settle_seq != e.sequence)
				fault = "a stream's end is not to be found";
			open[slot].reserve = 0;
		}
	}
	for (uint32_t slot = 0; slot < slots && fault == NULL; slot++)
		if (open[slot].reserve != 0 &&
		    (journal_receipt_open(r, slot, open[slot].id, &x) != 1 ||
		        x.reserve_seq != open[slot].reserve))
			fault = "an open stream is not to be found";
	journal_cursor_free(c);
	free(open);
	return fault;
}

static void
tell_history(json_t *out, struct journal_reader *r)
{
	struct journal_cursor *c = journal_cursor_new(r, 1);
	struct turns t = {0};
	struct journal_entry e;
	const char *fault;

	t.turn = c == NULL ? NULL : calloc(journal_cursor_last(c) + 1, sizeof *t.turn);
	t.open = calloc(dims.max_holds * 64, sizeof *t.open);
	while (t.turn != NULL && t.open != NULL && journal_cursor_next(c, &e) == 1) {
		if (e.record.type == JOURNAL_FORGET)
			take_forget(&t, &e);
		else if (e.record.slot >= dims.max_holds * 64)
			continue;
		else if (e.record.type == JOURNAL_RESERVE)
			take_reserve(&t, &e);
		else if (e.record.type >= JOURNAL_EXTEND && e.record.type <= JOURNAL_VOID)
			take_progress(&t, &e);
	}
	journal_cursor_free(c);
	fault = compare_turns(r, &t);
	json_object_set_new(out, "history", fault == NULL ? json_null() : json_string(fault));
	json_object_set_new(out, "turns", json_integer((json_int_t)t.count));
	fault = compare_receipts(r);
	json_object_set_new(out, "receipts", fault == NULL ? json_null() : json_string(fault));
	/* The process ends now: what it has goes with it. */
}

static const char *
tell(json_t *out, const char *folder)
{
	const char *why = NULL;
	struct journal_reader *r = journal_reader_open(folder, &why);
	struct state_reader *st = r == NULL ? NULL : state_reader_open(folder, &why);
	struct audit *audit = st == NULL ? NULL : audit_new(r, st);
	struct audit_result result;
	struct state_account a;
	json_t *accounts = json_object();
	uint32_t from = 0;

	if (audit == NULL)
		return why == NULL ? "no audit" : why;
	while (audit_step(audit, 100000))
		;
	audit_result(audit, &result);
	audit_free(audit);
	json_object_set_new(out, "audit",
	    result.ok ? json_true() : json_string(result.first_difference));
	json_object_set_new(out, "holds_open", json_integer(result.holds_open));
	json_object_set_new(out, "records", json_integer((json_int_t)result.records));
	while (state_account_next(st, from, &a) == 1) {
		char id[ACCOUNT_ID_MAX + 1];

		(void)snprintf(id, sizeof id, "%.*s", (int)a.id_len, a.id);
		json_object_set_new(accounts, id, json_pack("{s:i,s:I,s:I,s:I}", "number",
		    (int)a.number, "balance", (json_int_t)a.balance, "held", (json_int_t)a.held,
		    "overdraft", (json_int_t)a.overdraft));
		from = a.number + 1;
	}
	json_object_set_new(out, "accounts", accounts);
	tell_journal(out, r);
	tell_history(out, r);
	state_reader_close(st);
	journal_reader_close(r);
	return NULL;
}

static int
check(char *folder)
{
	json_t *out = json_object();
	const char *fault;
	int tries = 0;

	config.state_dir = config.runtime_dir = folder;
	config.history.enabled = true;
	heritage.config = &config;
	if (region_anonymous(&heritage.region, &dims) < 0)
		return 1;
	for (uint32_t p = 0; p < REGION_PROCS_MAX; p++)
		heritage.wake_fd[p] = p < PROC_WORKER + 4 ? eventfd(0, EFD_NONBLOCK) : -1;
	fault = recover(folder, &tries);
	if (fault == NULL)
		fault = tell(out, folder);
	if (fault != NULL && keeper > 0)
		(void)kill(keeper, SIGKILL);
	json_object_set_new(out, "fault", fault == NULL ? json_null() : json_string(fault));
	json_object_set_new(out, "tries", json_integer(tries));
	return json_dumpf(out, stdout, JSON_COMPACT) < 0 || puts("") < 0 || fflush(stdout) != 0;
}

/* The text on standard input: what the meter says of its first piece, its first two, and so on. */
static int
tell_tokens(size_t piece)
{
	struct token_stream ts;
	char text[64];
	size_t len;
	char why[256];
	const struct tokenizer *t = tokenizer_open("o200k_base", why, sizeof why);

	if (piece > sizeof text || t == NULL)
		return 2;
	token_stream_init(&ts, t, TOKENS_SCALE);
	printf("[0");
	while ((len = fread(text, 1, piece, stdin)) > 0)
		printf(",%u", token_stream_append(&ts, text, len));
	token_stream_fini(&ts);
	return puts("]") < 0;
}

int
main(int argc, char **argv)
{
	char line[4096];
	int status;

	if (argc == 3 && strcmp(argv[1], "tokens") == 0)
		return tell_tokens((size_t)atoi(argv[2]));
	while (fgets(line, sizeof line, stdin) != NULL) {
		pid_t child;

		line[strcspn(line, "\n")] = '\0';
		(void)fflush(stdout);
		/* A process for each: LMDB and the keeper have much that is once a process. */
		child = fork();
		if (child == 0) {
			(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
			_exit(check(line));
		}
		if (child < 0 || waitpid(child, &status, 0) != child)
			return 1;
		if (status != 0) {
			printf("{\"fault\":\"the checker ends: %d\"}\n", status);
			(void)fflush(stdout);
		}
	}
	return 0;
}
