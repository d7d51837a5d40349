/*
 * Goal:   the history is what the records say: each account's sessions and turns, in their order,
 *         with all of their text; what is forgotten is not found again and leaves nothing behind;
 *         all of that across reopened files, a map that is full, and records of any kind between.
 * Method: random records of many streams beside a plain model of what they mean; after some of the
 *         commits the whole history is read and compared.  Then all is forgotten, and the databases
 *         are counted.
 * objs: daemon/journal.o daemon/journal_history.o daemon/journal_history_read.o daemon/journal_file.o daemon/journal_compact.o daemon/journal_chain.o daemon/journal_read.o daemon/buf.o daemon/log.o daemon/utf8.o shm/money.o daemon/journal_receipts.o
 */
#include <lmdb.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/journal_private.h"

#define ACCOUNTS 4
#define SESSIONS 12 /* names that are used, of each account */
#define SLOTS 16
#define TURNS_MAX 40000
#define ANSWER_MAX 400

struct turn {
	uint64_t sequence;
	uint32_t account, session;
	char said[40], answer[ANSWER_MAX];
	size_t answer_len;
	int64_t charge;
	uint64_t ended_us;
	uint8_t outcome;
	bool forgotten;
};

static struct turn *turns;
static size_t turn_count;
static int slot_turn[SLOTS]; /* the open turn of each, or -1; -2: an open one without a history */
static uint64_t slot_op[SLOTS];
static uint64_t time_us;
static unsigned seed;
static char dir[64];
static struct journal *journal;
static struct journal_positions rings = {.epoch = 1};

static unsigned
pick(unsigned n)
{
	return (unsigned)rand_r(&seed) % n;
}

static void
open_journal(size_t map_bytes, uint32_t keep)
{
	struct history_rules rules = {.on = true, .keep_sessions = keep};
	const char *why;

	journal = journal_open(dir, map_bytes, &why);
	assert_non_null(journal);
	journal_history_rules(journal, &rules);
}

static void
commit(void)
{
	assert_int_equal(journal_commit(journal, &rings), 0);
}

static int
setup(void **state)
{
	(void)state;
	(void)snprintf(dir, sizeof dir, "/tmp/tolld-history-XXXXXX");
	assert_non_null(mkdtemp(dir));
	turns = calloc(TURNS_MAX, sizeof *turns);
	assert_non_null(turns);
	turn_count = 0;
	time_us = 1000000;
	for (int i = 0; i < SLOTS; i++) {
		slot_turn[i] = -1;
		slot_op[i] = 0;
	}
	return 0;
}

static int
teardown(void **state)
{
	char command[128];

	(void)state;
	journal_close(journal);
	free(turns);
	(void)snprintf(command, sizeof command, "rm -rf %s", dir);
	return system(command);
}

static void
name_of(uint32_t session, uint8_t id[static 16])
{
	memset(id, 0, 16);
	memcpy(id, &session, sizeof session);
	id[15] = 0xff;
}

static uint64_t
append(uint8_t type, uint32_t slot, uint32_t account, int64_t amount, uint8_t outcome,
    const void *payload, size_t len)
{
	struct journal_record r = {.type = type,
	    .version = JOURNAL_VERSION,
	    .slot = slot,
	    .op = slot < SLOTS ? ++slot_op[slot] : 0,
	    .account = account,
	    .amount = amount,
	    .outcome = outcome,
	    .price = JOURNAL_NONE,
	    .prompt = 7,
	    .completion = 9,
	    .payload_len = (uint32_t)len,
	    .time_us = ++time_us};

	return journal_append(journal, &r, payload);
}

static void
reserve(uint32_t slot, uint32_t account, uint32_t session, bool v1)
{
	struct journal_reserve head = {.model_len = 5, .generation = 3};
	struct journal_keyed keyed = {.expires_s = 1};
	struct turn *t = &turns[turn_count];
	struct buf b = {0};

	head.keyed = pick(3) == 0 ? JOURNAL_KEYED : 0;
	name_of(session, head.session_id);
	memset(head.message_id, (int)turn_count & 0xff, 16);
	buf_add(&b, &head, sizeof head);
	buf_str(&b, "model");
	if (head.keyed != 0)
		buf_add(&b, &keyed, sizeof keyed);
	slot_turn[slot] = -2;
	if (!v1) {
		assert_true(turn_count < TURNS_MAX);
		*t = (struct turn){.account = account, .session = session};
		(void)snprintf(t->said, sizeof t->said, "\"said %zu\"", turn_count);
		buf_str(&b, t->said);
		slot_turn[slot] = (int)turn_count++;
	}
	t->sequence = append(JOURNAL_RESERVE, slot, account, 100, 0, b.data, b.len);
	buf_free(&b);
}

static void
progress(uint32_t slot, uint8_t type)
{
	struct turn *t = slot_turn[slot] >= 0 ? &turns[slot_turn[slot]] : NULL;
	bool end = type == JOURNAL_SETTLE || type == JOURNAL_VOID;
	struct journal_split split = {1, 2};
	uint32_t account = t != NULL ? t->account : 0;
	struct journal_record r = {.type = type,
	    .slot = slot,
	    .op = ++slot_op[slot],
	    .version = JOURNAL_VERSION,
	    .account = account,
	    .amount = end ? (int64_t)pick(1000) : 0,
	    .outcome = (uint8_t)(end ? 1 + pick(OUTCOME_MAX - 1) : 0),
	    .prompt = 7,
	    .completion = 9,
	    .price = JOURNAL_NONE,
	    .time_us = ++time_us};
	char text[64];
	struct buf b = {0};
	size_t len = pick(4) == 0 ? 0 : pick(60);

	/* Some begin with what is no text. */
	if (pick(3) == 0 && type != JOURNAL_VOID) {
		r.version = JOURNAL_VERSION_KINDS;
		buf_add(&b, &split, sizeof split);
	}
	for (size_t i = 0; i < len; i++)
		text[i] = (char)('a' + pick(26));
	buf_add(&b, text, len);
	r.payload_len = (uint32_t)b.len;
	(void)journal_append(journal, &r, b.data);
	buf_free(&b);
	if (t != NULL) {
		if (t->answer_len + len <= ANSWER_MAX) {
			memcpy(t->answer + t->answer_len, text, len);
			t->answer_len += len;
		} else {
			fail_msg("an answer grew too long");
		}
		if (end) {
			t->charge = r.amount;
			t->outcome = r.outcome;
			t->ended_us = r.time_us;
		}
	}
	if (end)
		slot_turn[slot] = -1;
}

static void
model_forget(uint32_t account, uint32_t session)
{
	for (size_t i = 0; i < turn_count; i++)
		if (turns[i].account == account && turns[i].session == session)
			turns[i].forgotten = true;
}

static void
forget(uint32_t account, uint32_t session)
{
	uint8_t id[16];

	name_of(session, id);
	(void)append(JOURNAL_FORGET, JOURNAL_NONE, account, 0, 0, id, sizeof id);
	model_forget(account, session);
}

/* The first and last turn of a session that is there; false: it is not. */
static bool
model_session(uint32_t account, uint32_t session, const struct turn **first,
    const struct turn **last, uint32_t *n)
{
	*first = *last = NULL;
	*n = 0;
	for (size_t i = 0; i < turn_count; i++) {
		if (turns[i].account != account || turns[i].session != session ||
		    turns[i].forgotten)
			continue;
		if (*first == NULL)
			*first = &turns[i];
		*last = &turns[i];
		++*n;
	}
	return *n > 0;
}

/* Beyond the newest `keep`. */
static void
model_keep(uint32_t account, uint32_t keep)
{
	for (;;) {
		const struct turn *first, *last, *oldest = NULL;
		uint32_t n, there = 0, which = 0;

		for (uint32_t s = 0; s < SESSIONS; s++) {
			if (!model_session(account, s, &first, &last, &n))
				continue;
			there++;
			if (oldest == NULL || last->sequence < oldest->sequence) {
				oldest = last;
				which = s;
			}
		}
		if (there <= keep)
			return;
		model_forget(account, which);
	}
}

static void
compare_turns(
    struct history_view *v, const struct history_session *s, uint32_t account, uint32_t session)
{
	struct history_turn t;
	uint64_t before = UINT64_MAX;
	struct buf text = {0};
	struct span said;
	size_t len;

	for (size_t i = turn_count; i-- > 0;) {
		const struct turn *m = &turns[i];
		bool open = m->ended_us == 0;

		if (m->account != account || m->session != session || m->forgotten)
			continue;
		assert_int_equal(history_turn_before(v, s, before, &t), 1);
		assert_int_equal(t.sequence, m->sequence);
		assert_int_equal(t.ended_us, m->ended_us);
		assert_int_equal(t.charge, m->charge);
		assert_int_equal(t.outcome, m->outcome);
		assert_int_equal(t.lost, false);
		assert_int_equal(t.completion, open ? 0 : 9);
		assert_int_equal(t.model_len, 5);
		assert_memory_equal(t.model, "model", 5);
		assert_int_equal(t.message_id[0], i & 0xff);
		assert_int_equal(history_said(v, t.sequence, &said), 1);
		assert_int_equal(said.len, strlen(m->said));
		assert_memory_equal(said.p, m->said, said.len);
		text.len = 0;
		assert_int_equal(history_answer(v, t.sequence, &text, &len), 1);
		assert_int_equal(len, m->answer_len);
		assert_int_equal(text.len, len);
		assert_memory_equal(text.data != NULL ? text.data : "", m->answer, len);
		before = t.sequence;
	}
	assert_int_equal(history_turn_before(v, s, before, &t), 0);
	buf_free(&text);
}

/* Everything, by every way to it. */
static void
compare(void)
{
	for (uint32_t account = 0; account < ACCOUNTS + 1; account++) {
		struct history_view *v = history_view_new(journal_reader(journal), account);
		struct history_session s;
		uint64_t before = UINT64_MAX;
		uint32_t there = 0, listed = 0;

		assert_non_null(v);
		for (uint32_t session = 0; session < SESSIONS; session++) {
			const struct turn *first, *last;
			uint8_t id[16];
			uint32_t n;
			bool is = model_session(account, session, &first, &last, &n);

			name_of(session, id);
			assert_int_equal(history_session_get(v, id, &s), is);
			if (!is)
				continue;
			there++;
			assert_int_equal(s.first, first->sequence);
			assert_int_equal(s.latest, last->sequence);
			assert_int_equal(s.turns, n);
			compare_turns(v, &s, account, session);
		}
		while (history_session_before(v, before, &s) == 1) {
			assert_true(s.latest < before);
			before = s.latest;
			listed++;
		}
		assert_int_equal(listed, there);
		history_view_free(v);
	}
}

static size_t
entries(MDB_dbi dbi)
{
	MDB_txn *txn;
	MDB_stat stat;

	assert_int_equal(mdb_txn_begin(journal->reader.env, NULL, MDB_RDONLY, &txn), 0);
	assert_int_equal(mdb_stat(txn, dbi, &stat), 0);
	mdb_txn_abort(txn);
	return stat.ms_entries;
}

/* Nothing is left of what nobody can find. */
static void
compare_empty(void)
{
	const struct journal_history_databases *h = &journal->reader.history;

	assert_int_equal(entries(h->sessions), 0);
	assert_int_equal(entries(h->list), 0);
	assert_int_equal(entries(h->counts), 0);
	assert_int_equal(entries(h->turns), 0);
	assert_int_equal(entries(h->texts), 0);
	assert_int_equal(entries(h->open), 0);
	assert_int_equal(entries(h->gone), 0);
}

static void
step(uint32_t keep)
{
	uint32_t slot = pick(SLOTS), account = pick(ACCOUNTS);
	const struct turn *t = slot_turn[slot] >= 0 ? &turns[slot_turn[slot]] : NULL;
	uint32_t session = pick(SESSIONS);

	if (pick(40) == 0) {
		forget(account, session);
	} else if (slot_turn[slot] == -1) {
		reserve(slot, account, session, pick(5) == 0);
		if (keep != 0)
			model_keep(account, keep);
	} else if (pick(3) == 0 || (t != NULL && t->answer_len > ANSWER_MAX - 120)) {
		progress(slot, pick(4) == 0 ? JOURNAL_VOID : JOURNAL_SETTLE);
	} else {
		progress(slot, pick(2) == 0 ? JOURNAL_MARK : JOURNAL_EXTEND);
	}
}

static void
play(size_t map_bytes, uint32_t keep, int commits)
{
	open_journal(map_bytes, keep);
	for (int i = 0; i < commits; i++) {
		for (unsigned n = pick(20); n > 0; n--)
			step(keep);
		if (journal_history_left(journal))
			journal_stage_sweep(journal, 1 + pick(30));
		commit();
		if (pick(20) == 0)
			compare();
		if (pick(60) == 0) {
			journal_close(journal);
			open_journal(map_bytes, keep);
		}
	}
	compare();
	for (uint32_t slot = 0; slot < SLOTS; slot++)
		if (slot_turn[slot] != -1)
			progress(slot, JOURNAL_SETTLE);
	commit();
	compare();
	for (uint32_t account = 0; account < ACCOUNTS; account++)
		for (uint32_t session = 0; session < SESSIONS; session++)
			forget(account, session);
	commit();
	for (int i = 0; journal_history_left(journal); i++) {
		assert_true(i < 100000);
		journal_stage_sweep(journal, 7);
		commit();
	}
	compare();
	compare_empty();
}

static void
test_random(void **state)
{
	(void)state;
	for (unsigned i = 1; i <= 3; i++) {
		seed = i;
		play(0, 0, 400);
		teardown(NULL);
		journal = NULL;
		setup(NULL);
	}
}

/* The same with a map that is full again and again: a commit is made anew, and says the same. */
static void
test_map_full(void **state)
{
	(void)state;
	seed = 7;
	play(256 << 10, 0, 400);
}

static void
test_keep(void **state)
{
	(void)state;
	seed = 11;
	play(0, 5, 400);
}

/* Forgotten in the middle of its stream: what comes after is nobody's. */
static void
test_forgotten_while_open(void **state)
{
	const struct journal_history_databases *h;

	(void)state;
	seed = 13;
	open_journal(0, 0);
	h = &journal->reader.history;
	reserve(0, 1, 1, false);
	progress(0, JOURNAL_MARK);
	commit();
	forget(1, 1);
	commit();
	/* Before it is removed, and after. */
	progress(0, JOURNAL_MARK);
	reserve(1, 1, 1, false);
	progress(1, JOURNAL_MARK);
	commit();
	assert_int_equal(entries(h->open), 2);
	while (journal_history_left(journal)) {
		journal_stage_sweep(journal, 1);
		commit();
	}
	assert_int_equal(entries(h->open), 1);
	progress(0, JOURNAL_MARK);
	progress(0, JOURNAL_SETTLE);
	progress(1, JOURNAL_SETTLE);
	commit();
	compare();
	assert_int_equal(entries(h->turns), 1);
	forget(1, 1);
	journal_stage_sweep(journal, 1000);
	commit();
	compare_empty();
}

/* Ten thousand messages in one session: read from any place, forgotten in small pieces. */
static void
test_long_session(void **state)
{
	struct history_session s;
	struct history_view *v;
	struct history_turn t;
	uint8_t id[16];
	int commits = 0;

	(void)state;
	seed = 17;
	open_journal(0, 0);
	for (int i = 0; i < 5000; i++) {
		reserve(0, 2, 3, false);
		progress(0, JOURNAL_MARK);
		progress(0, JOURNAL_SETTLE);
		if (i % 50 == 49)
			commit();
	}
	name_of(3, id);
	v = history_view_new(journal_reader(journal), 2);
	assert_non_null(v);
	assert_int_equal(history_session_get(v, id, &s), 1);
	assert_int_equal(s.turns, 5000);
	for (int i = 1; i < 5000; i += 497) {
		assert_int_equal(history_turn_before(v, &s, turns[i].sequence, &t), 1);
		assert_int_equal(t.sequence, turns[i - 1].sequence);
	}
	assert_int_equal(history_turn_before(v, &s, turns[0].sequence, &t), 0);
	compare_turns(v, &s, 2, 3);
	history_view_free(v);
	forget(2, 3);
	commit();
	compare();
	for (; journal_history_left(journal); commits++) {
		journal_stage_sweep(journal, 100);
		commit();
	}
	assert_in_range(commits, 100, 200);
	compare_empty();
}

/* The walk that looks for what is too old meets each session once, whatever the step. */
static void
test_walk(void **state)
{
	(void)state;
	seed = 19;
	open_journal(0, 0);
	for (uint32_t n = 0; n < ACCOUNTS * SESSIONS; n++) {
		reserve(0, n % ACCOUNTS, n / ACCOUNTS, false);
		progress(0, JOURNAL_SETTLE);
	}
	commit();
	for (size_t rows = 1; rows < 60; rows += 7) {
		struct history_walk w = {.begun = false};
		size_t old = 0;
		int more, steps = 0;

		/* Those whose turn was before the end of that one. */
		do {
			more =
			    journal_history_walk(journal, &w, rows, turns[24].ended_us, UINT32_MAX);
			assert_true(more >= 0);
			for (size_t i = 0; i < w.drops; i++) {
				uint32_t session;

				memcpy(&session, w.drop[i].session, sizeof session);
				assert_true(session * ACCOUNTS + w.drop[i].account <= 24);
			}
			old += w.drops;
			assert_true(steps++ < 100);
		} while (more > 0);
		assert_int_equal(old, 25);
		w = (struct history_walk){.begun = false};
		old = 0;
		do {
			more = journal_history_walk(journal, &w, rows, 0, 10);
			assert_true(more >= 0);
			old += w.drops;
		} while (more > 0);
		assert_int_equal(old, ACCOUNTS * (SESSIONS - 10));
	}
}

/* Switched off, nothing is added; on again, what ran meanwhile is not taken for running. */
static void
test_off(void **state)
{
	struct history_rules rules = {.on = false};
	struct history_session s;
	struct history_view *v;
	struct history_turn t;
	uint8_t id[16];

	(void)state;
	seed = 23;
	open_journal(0, 0);
	reserve(0, 1, 1, false);
	commit();
	journal_history_rules(journal, &rules);
	progress(0, JOURNAL_SETTLE);
	reserve(0, 1, 2, false);
	progress(0, JOURNAL_SETTLE);
	reserve(1, 1, 2, false);
	commit();
	rules.on = true;
	journal_history_rules(journal, &rules);
	reserve(0, 1, 3, true);
	progress(1, JOURNAL_SETTLE);
	commit();
	v = history_view_new(journal_reader(journal), 1);
	name_of(2, id);
	assert_int_equal(history_session_get(v, id, &s), 0);
	name_of(1, id);
	assert_int_equal(history_session_get(v, id, &s), 1);
	assert_int_equal(history_turn_before(v, &s, UINT64_MAX, &t), 1);
	assert_int_equal(t.ended_us, 0);
	assert_true(t.lost);
	history_view_free(v);
}

/* A file of before there was a history: it can be read, and the keeper adds what is missing. */
static void
test_former_file(void **state)
{
	const struct journal_history_databases *h;
	struct journal_reader *r;
	const char *why;
	MDB_txn *txn;

	(void)state;
	seed = 29;
	open_journal(0, 0);
	h = &journal->reader.history;
	reserve(0, 1, 1, true);
	commit();
	assert_int_equal(mdb_txn_begin(journal->reader.env, NULL, 0, &txn), 0);
	for (const MDB_dbi *dbi = &h->sessions; dbi <= &h->gone; dbi++)
		assert_int_equal(mdb_drop(txn, *dbi, 1), 0);
	assert_int_equal(mdb_txn_commit(txn), 0);
	journal_close(journal);
	r = journal_reader_open(dir, &why);
	assert_non_null(r);
	assert_null(history_view_new(r, 1));
	journal_reader_close(r);
	open_journal(0, 0);
	reserve(1, 1, 1, false);
	progress(0, JOURNAL_SETTLE);
	progress(1, JOURNAL_SETTLE);
	commit();
	compare();
}

/* Payloads that are not what they should be. */
static void
test_odd(void **state)
{
	static const char junk[80] = {1, 2, 3};
	struct journal_reserve head = {.model_len = 65535};
	const char *why;

	(void)state;
	open_journal(0, 0);
	for (size_t len = 0; len < sizeof junk; len++) {
		(void)append(JOURNAL_RESERVE, 1, 1, 1, 0, junk, len);
		(void)append(JOURNAL_MARK, 1, 1, 1, 0, junk, len);
		(void)append(JOURNAL_SETTLE, 1, 1, 1, 0, junk, len);
		if (len != JOURNAL_FORGET_LEN)
			(void)append(JOURNAL_FORGET, JOURNAL_NONE, 1, 1, 0, junk, len);
		commit();
	}
	(void)append(JOURNAL_RESERVE, 1, 1, 1, 0, &head, sizeof head);
	commit();
	journal_close(journal);
	journal = journal_open(dir, 0, &why);
	assert_non_null(journal);
	assert_false(journal_history_left(journal));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_random, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_map_full, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_keep, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_forgotten_while_open, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_long_session, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_walk, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_off, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_former_file, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_odd, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
