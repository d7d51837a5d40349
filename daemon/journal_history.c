/*
 * The history as part of a commit: what each record of a batch says of a conversation, forgetting,
 * and removing what is forgotten, a bounded number of rows at a time.  Runs in the keeper.
 *
 * It keeps nothing in memory, so a commit that is tried again, with a larger map or by the next
 * keeper, does the same again.  Nothing of it is money: a row that is missing, or not what it
 * should be, is passed over, and never a reason not to commit.
 */
#include <string.h>

#include "daemon/journal_history_rows.h"

/* Of an account, by one new session: more than one only after keep_sessions was lowered. */
#define DROPS_AT_ONCE 16

struct apply {
	MDB_txn *txn;
	const struct journal_history_databases *db;
	struct journal_history *history;
};

static struct apply
apply_in(struct journal *j, MDB_txn *txn)
{
	return (struct apply){txn, &j->reader.history, &j->history};
}

static void
make_session_key(struct history_session_key *k, uint32_t account, const uint8_t session[static 16])
{
	journal_put_be32(k->account, account);
	memcpy(k->session, session, sizeof k->session);
}

/* A row of a known size, or MDB_NOTFOUND. */
static int
get(struct apply *a, MDB_dbi dbi, void *key, size_t key_len, void *row, size_t row_len)
{
	MDB_val k = {key_len, key}, v;
	int rc = mdb_get(a->txn, dbi, &k, &v);

	if (rc != 0)
		return rc;
	if (v.mv_size != row_len)
		return MDB_NOTFOUND;
	memcpy(row, v.mv_data, row_len);
	return 0;
}

static int
put(struct apply *a, MDB_dbi dbi, void *key, size_t key_len, const void *row, size_t row_len)
{
	MDB_val k = {key_len, key}, v = {row_len, (void *)(uintptr_t)row};

	return mdb_put(a->txn, dbi, &k, &v, 0);
}

static int
del(struct apply *a, MDB_dbi dbi, void *key, size_t key_len)
{
	MDB_val k = {key_len, key};
	int rc = mdb_del(a->txn, dbi, &k, NULL);

	return rc == MDB_NOTFOUND ? 0 : rc;
}

/* The first entry at or after a key. */
static int
first_from(struct apply *a, MDB_dbi dbi, MDB_val *key, MDB_val *value)
{
	MDB_cursor *cursor;
	int rc = mdb_cursor_open(a->txn, dbi, &cursor);

	if (rc == 0) {
		rc = mdb_cursor_get(cursor, key, value, MDB_SET_RANGE);
		mdb_cursor_close(cursor);
	}
	return rc;
}

/* Forgetting. */

static int
add_count(struct apply *a, uint32_t account, int change, uint32_t *count)
{
	int rc = get(a, a->db->counts, &account, sizeof account, count, sizeof *count);

	if (rc == MDB_NOTFOUND)
		*count = 0;
	else if (rc != 0)
		return rc;
	if (change > 0 || *count > 0)
		*count += (uint32_t)change;
	if (*count == 0)
		return del(a, a->db->counts, &account, sizeof account);
	return put(a, a->db->counts, &account, sizeof account, count, sizeof *count);
}

/* From here on nobody finds the session; its turns up to `upto` are removed later. */
static int
drop(struct apply *a, const struct history_session_key *session, uint64_t upto)
{
	struct history_session_key key = *session;
	struct history_list_key list;
	struct history_session_row row;
	uint32_t count;
	int rc = get(a, a->db->sessions, &key, sizeof key, &row, sizeof row);

	if (rc != 0)
		return rc == MDB_NOTFOUND ? 0 : rc;
	memcpy(list.account, key.account, sizeof list.account);
	journal_put_be64(list.latest, row.latest);
	if ((rc = del(a, a->db->list, &list, sizeof list)) != 0 ||
	    (rc = del(a, a->db->sessions, &key, sizeof key)) != 0 ||
	    (rc = add_count(a, journal_get_be32(key.account), -1, &count)) != 0)
		return rc;
	/* One of the same name that was forgotten before ends earlier. */
	a->history->left_then = true;
	return put(a, a->db->gone, &key, sizeof key, &upto, sizeof upto);
}

/* A session was begun: those of its account that are too many by now. */
static int
keep_newest(struct apply *a, uint32_t account, uint32_t count, uint64_t sequence)
{
	uint32_t keep = a->history->rules.keep_sessions;
	int rc = 0;

	for (int n = 0; keep != 0 && count > keep && n < DROPS_AT_ONCE && rc == 0; n++, count--) {
		struct history_list_key oldest = {.latest = {0}};
		struct history_session_key session;
		MDB_val key = {sizeof oldest, &oldest}, value;

		journal_put_be32(oldest.account, account);
		rc = first_from(a, a->db->list, &key, &value);
		if (rc != 0 || memcmp(key.mv_data, oldest.account, sizeof oldest.account) != 0 ||
		    value.mv_size != sizeof(struct history_list_row))
			break;
		make_session_key(&session, account, value.mv_data);
		rc = drop(a, &session, sequence);
	}
	return rc == MDB_NOTFOUND ? 0 : rc;
}

/* What records say. */

/* A turn is in its session; the session is the account's latest now. */
static int
touch_session(struct apply *a, const struct history_session_key *session,
    const struct journal_record *r, uint64_t sequence)
{
	struct history_session_key key = *session;
	struct history_list_row listed = {.updated_us = r->time_us};
	struct history_list_key list;
	struct history_session_row row;
	uint32_t count = 0;
	int rc = get(a, a->db->sessions, &key, sizeof key, &row, sizeof row);
	bool new = rc == MDB_NOTFOUND;

	memcpy(list.account, key.account, sizeof list.account);
	memcpy(listed.session, key.session, sizeof listed.session);
	if (new) {
		row = (struct history_session_row){.first = sequence, .created_us = r->time_us};
		rc = add_count(a, r->account, 1, &count);
	} else if (rc == 0) {
		journal_put_be64(list.latest, row.latest);
		rc = del(a, a->db->list, &list, sizeof list);
	}
	if (rc != 0)
		return rc;
	row.latest = sequence;
	row.updated_us = r->time_us;
	row.turns++;
	journal_put_be64(list.latest, sequence);
	if ((rc = put(a, a->db->sessions, &key, sizeof key, &row, sizeof row)) != 0 ||
	    (rc = put(a, a->db->list, &list, sizeof list, &listed, sizeof listed)) != 0)
		return rc;
	return new ? keep_newest(a, r->account, count, sequence) : 0;
}

static int
put_text(struct apply *a, uint64_t turn, uint64_t sequence, const char *text, size_t len)
{
	struct history_text_key key;

	journal_put_be64(key.turn, turn);
	journal_put_be64(key.sequence, sequence);
	return put(a, a->db->texts, &key, sizeof key, text, len);
}

static int
put_turn(struct apply *a, const struct history_turn_key *turn, const struct history_turn_row *row,
    const char *model)
{
	MDB_val key = {sizeof *turn, (void *)(uintptr_t)turn};
	MDB_val value = {sizeof *row + row->model_len, NULL};
	int rc = mdb_put(a->txn, a->db->turns, &key, &value, MDB_RESERVE);

	if (rc == 0) {
		memcpy(value.mv_data, row, sizeof *row);
		memcpy((char *)value.mv_data + sizeof *row, model, row->model_len);
	}
	return rc;
}

/* The end of a payload: what the user said.  Empty for what is no conversation of ours (/v1). */
static bool
said_of(const struct journal_record *r, const char *payload, struct journal_reserve *head,
    struct span *said)
{
	size_t at = sizeof *head;

	if (r->payload_len < at)
		return false;
	memcpy(head, payload, sizeof *head);
	at += head->model_len + (head->keyed != 0 ? sizeof(struct journal_keyed) : 0);
	if (r->payload_len <= at || head->keyed == JOURNAL_KEYED_ANSWER)
		return false;
	*said = (struct span){payload + at, r->payload_len - at};
	return true;
}

static int
put_reserve(struct apply *a, const struct journal_record *r, const char *payload, uint64_t sequence)
{
	struct journal_reserve head;
	struct history_open_row open = {.turn = sequence};
	struct history_turn_key turn;
	struct history_turn_row row;
	uint32_t slot = r->slot;
	struct span said;
	int rc;

	if (!said_of(r, payload, &head, &said))
		/* What was open there, ended while no history was kept. */
		return del(a, a->db->open, &slot, sizeof slot);
	make_session_key(&turn.session, r->account, head.session_id);
	journal_put_be64(turn.turn, sequence);
	open.session = turn.session;
	row = (struct history_turn_row){
	    .opened_us = r->time_us,
	    .slot = slot,
	    .generation = head.generation,
	    .prompt = r->prompt,
	    .proc = r->proc,
	    .model_len =
	        (uint8_t)(head.model_len < HISTORY_MODEL_MAX ? head.model_len : HISTORY_MODEL_MAX),
	};
	memcpy(row.stream_id, head.stream_id, sizeof row.stream_id);
	memcpy(row.message_id, head.message_id, sizeof row.message_id);
	if ((rc = touch_session(a, &turn.session, r, sequence)) != 0 ||
	    (rc = put_text(a, sequence, sequence, said.p, said.len)) != 0 ||
	    (rc = put_turn(a, &turn, &row, payload + sizeof head)) != 0)
		return rc;
	return put(a, a->db->open, &slot, sizeof slot, &open, sizeof open);
}

/* For want of what it was cut, enum journal_short. */
static uint8_t
short_of(const struct journal_record *r, const char *payload)
{
	struct journal_end end;

	if (r->version != JOURNAL_VERSION_TOLD || r->payload_len < sizeof end)
		return SHORT_UNKNOWN;
	memcpy(&end, payload, sizeof end);
	return end.short_of < SHORT_MAX ? end.short_of : SHORT_UNKNOWN;
}

static int
end_turn(struct apply *a, const struct history_open_row *open, const struct journal_record *r,
    const char *payload)
{
	struct history_turn_key turn = {.session = open->session};
	char model[HISTORY_MODEL_MAX];
	struct history_turn_row row;
	uint32_t slot = r->slot;
	MDB_val key = {sizeof turn, &turn}, value;
	int rc;

	if ((rc = del(a, a->db->open, &slot, sizeof slot)) != 0)
		return rc;
	journal_put_be64(turn.turn, open->turn);
	rc = mdb_get(a->txn, a->db->turns, &key, &value);
	if (rc != 0 || value.mv_size < sizeof row || value.mv_size > sizeof row + sizeof model)
		return rc == 0 || rc == MDB_NOTFOUND ? 0 : rc;
	memcpy(&row, value.mv_data, sizeof row);
	row.model_len = (uint8_t)(value.mv_size - sizeof row);
	memcpy(model, (const char *)value.mv_data + sizeof row, row.model_len);
	row.ended = (uint8_t)(r->type == JOURNAL_VOID ? HISTORY_VOIDED : 0);
	row.ended |= (uint8_t)(short_of(r, payload) << HISTORY_SHORT_SHIFT);
	row.outcome = r->outcome;
	row.charge = r->amount;
	row.cached = r->cached;
	row.completion = r->completion;
	if (r->type != JOURNAL_VOID)
		row.prompt = r->prompt;
	row.ended_us = r->time_us;
	return put_turn(a, &turn, &row, model);
}

/* EXTEND, MARK, SETTLE, VOID. */
static int
put_progress(
    struct apply *a, const struct journal_record *r, const char *payload, uint64_t sequence)
{
	size_t head = journal_head_len(r, payload, r->payload_len);
	struct history_open_row open;
	uint32_t slot = r->slot;
	int rc = get(a, a->db->open, &slot, sizeof slot, &open, sizeof open);

	if (rc == 0 && r->payload_len > head)
		rc = put_text(a, open.turn, sequence, payload + head, r->payload_len - head);
	if (rc == 0 && (r->type == JOURNAL_SETTLE || r->type == JOURNAL_VOID))
		rc = end_turn(a, &open, r, payload);
	return rc == MDB_NOTFOUND ? 0 : rc;
}

static int
put_record(struct apply *a, const struct journal_staged *s, const char *payload)
{
	const struct journal_record *r = &s->record;
	bool on = a->history->rules.on;

	if (r->type == JOURNAL_RESERVE)
		return on ? put_reserve(a, r, payload, s->sequence) : 0;
	if (r->type >= JOURNAL_EXTEND && r->type <= JOURNAL_VOID)
		return on ? put_progress(a, r, payload, s->sequence) : 0;
	if (r->type == JOURNAL_FORGET && r->payload_len == JOURNAL_FORGET_LEN) {
		struct history_session_key session;

		make_session_key(&session, r->account, (const uint8_t *)payload);
		return drop(a, &session, s->sequence);
	}
	return 0;
}

/* Removing what is forgotten. */

/* A turn's texts; *budget goes down by their number. */
static int
remove_texts(struct apply *a, const uint8_t turn[static 8], size_t *budget)
{
	MDB_cursor *cursor;
	int rc = mdb_cursor_open(a->txn, a->db->texts, &cursor);

	if (rc != 0)
		return rc;
	for (; *budget > 0; --*budget) {
		struct history_text_key first = {.sequence = {0}};
		MDB_val key = {sizeof first, &first}, value;

		/* Looked for anew: what a cursor points at after a deletion is not said. */
		memcpy(first.turn, turn, sizeof first.turn);
		rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
		if (rc != 0 || memcmp(key.mv_data, turn, sizeof first.turn) != 0 ||
		    (rc = mdb_cursor_del(cursor, 0)) != 0)
			break;
	}
	mdb_cursor_close(cursor);
	return rc == MDB_NOTFOUND ? 0 : rc;
}

/* It may run still: what its stream says from now on is nobody's. */
static int
close_turn(struct apply *a, const MDB_val *value, uint64_t turn)
{
	struct history_open_row open;
	struct history_turn_row row;
	int rc;

	if (value->mv_size < sizeof row)
		return 0;
	memcpy(&row, value->mv_data, sizeof row);
	if (row.ended_us != 0)
		return 0;
	rc = get(a, a->db->open, &row.slot, sizeof row.slot, &open, sizeof open);
	if (rc == 0 && open.turn == turn)
		rc = del(a, a->db->open, &row.slot, sizeof row.slot);
	return rc == MDB_NOTFOUND ? 0 : rc;
}

/* The turns of a forgotten session; *done: none of them is left. */
static int
remove_turns(struct apply *a, const struct history_session_key *session, uint64_t upto,
    size_t *budget, bool *done)
{
	struct history_turn_key turn;
	int rc = 0;

	*done = false;
	while (*budget > 0 && rc == 0) {
		MDB_val key = {sizeof turn, &turn}, value;

		turn = (struct history_turn_key){.session = *session};
		rc = first_from(a, a->db->turns, &key, &value);
		if (rc == 0 && key.mv_size == sizeof turn)
			memcpy(&turn, key.mv_data, sizeof turn);
		if (rc != 0 || key.mv_size != sizeof turn ||
		    memcmp(&turn.session, session, sizeof turn.session) != 0 ||
		    journal_get_be64(turn.turn) > upto) {
			*done = rc == 0 || rc == MDB_NOTFOUND;
			break;
		}
		if ((rc = close_turn(a, &value, journal_get_be64(turn.turn))) != 0 ||
		    (rc = remove_texts(a, turn.turn, budget)) != 0 || *budget == 0)
			break;
		rc = del(a, a->db->turns, &turn, sizeof turn);
		--*budget;
	}
	return rc == MDB_NOTFOUND ? 0 : rc;
}

static int
sweep(struct apply *a, size_t budget)
{
	int rc = 0;

	while (budget > 0 && rc == 0) {
		struct history_session_key session = {.account = {0}};
		MDB_val key = {sizeof session, &session}, value;
		uint64_t upto = UINT64_MAX;
		bool done;

		rc = first_from(a, a->db->gone, &key, &value);
		if (rc == MDB_NOTFOUND) {
			a->history->left_then = false;
			return 0;
		}
		if (rc != 0)
			break;
		if (key.mv_size != sizeof session) /* nothing of ours */
			return mdb_del(a->txn, a->db->gone, &key, NULL);
		memcpy(&session, key.mv_data, sizeof session);
		if (value.mv_size == sizeof upto)
			memcpy(&upto, value.mv_data, sizeof upto);
		rc = remove_turns(a, &session, upto, &budget, &done);
		if (rc == 0 && done)
			rc = del(a, a->db->gone, &session, sizeof session);
	}
	return rc;
}

/* The commit. */

int
journal_put_history(struct journal *j, MDB_txn *txn)
{
	struct apply a = apply_in(j, txn);
	struct journal_history *h = &j->history;
	int rc = 0;

	h->left_then = h->left;
	for (size_t i = 0; i < j->count && rc == 0; i++)
		rc = put_record(&a, &j->staged[i], j->payloads.data + j->staged[i].payload_at);
	for (size_t i = 0; i < h->drops && rc == 0; i++) {
		struct history_session_key session;

		make_session_key(&session, h->drop[i].account, h->drop[i].session);
		rc = drop(&a, &session, j->last + j->count);
	}
	if (rc == 0 && h->sweep > 0)
		rc = sweep(&a, h->sweep);
	return rc;
}

void
journal_history_done(struct journal *j)
{
	j->history.left = j->history.left_then;
}

int
journal_history_open(struct journal *j, MDB_txn *txn)
{
	struct apply a = apply_in(j, txn);
	struct history_session_key any = {.account = {0}};
	MDB_val key = {sizeof any, &any}, value;
	int rc = first_from(&a, a.db->gone, &key, &value);

	j->history.left = rc == 0;
	return rc == MDB_NOTFOUND ? 0 : rc;
}

void
journal_history_rules(struct journal *j, const struct history_rules *rules)
{
	j->history.rules = *rules;
}

void
journal_stage_drop(struct journal *j, const struct history_name *name)
{
	if (j->history.drops < HISTORY_DROPS_MAX)
		j->history.drop[j->history.drops++] = *name;
}

void
journal_stage_sweep(struct journal *j, size_t max)
{
	j->history.sweep = max;
}

bool
journal_history_left(const struct journal *j)
{
	return j->history.left;
}

/* Looking for what is too old. */

static void
look(struct history_walk *w, const MDB_val *key, const MDB_val *value, uint64_t before_us,
    uint32_t keep)
{
	struct history_list_row row;
	uint32_t account;

	memcpy(w->at, key->mv_data, sizeof w->at);
	account = journal_get_be32(w->at);
	if (!w->begun || account != w->account)
		w->seen = 0;
	w->begun = true;
	w->account = account;
	w->seen++;
	if (value->mv_size != sizeof row)
		return;
	memcpy(&row, value->mv_data, sizeof row);
	if (row.updated_us >= before_us && w->seen <= keep)
		return;
	w->drop[w->drops].account = account;
	memcpy(w->drop[w->drops++].session, row.session, sizeof row.session);
}

int
journal_history_walk(
    struct journal *j, struct history_walk *w, size_t rows, uint64_t before_us, uint32_t keep)
{
	MDB_val key = {sizeof w->at, w->at}, value;
	MDB_cursor *cursor = NULL;
	MDB_txn *txn;
	int rc = journal_snapshot(&j->reader, &txn);

	w->drops = 0;
	if (rc != 0)
		return -1;
	if ((rc = mdb_cursor_open(txn, j->reader.history.list, &cursor)) != 0)
		goto out;
	/* Backwards: to the last one before `at`, which may be gone by now. */
	rc = w->begun ? mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE) : MDB_NOTFOUND;
	if (rc == MDB_NOTFOUND)
		rc = mdb_cursor_get(cursor, &key, &value, MDB_LAST);
	else if (rc == 0)
		rc = mdb_cursor_get(cursor, &key, &value, MDB_PREV);
	for (; rc == 0 && rows > 0 && w->drops < HISTORY_DROPS_MAX; rows--) {
		if (key.mv_size == sizeof w->at)
			look(w, &key, &value, before_us, keep);
		rc = mdb_cursor_get(cursor, &key, &value, MDB_PREV);
	}
out:
	if (cursor != NULL)
		mdb_cursor_close(cursor);
	mdb_txn_abort(txn);
	return rc == 0 ? 1 : rc == MDB_NOTFOUND ? 0 : -1;
}
