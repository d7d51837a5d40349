/*
 * At rest: does the journal say what was told, does memory say what the journal says?
 * The records since the last time are entered beside what the players wrote down (`told`), then
 * every stream and credit since then is judged.  Last the project's own audit.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "daemon/audit.h"
#include "daemon/books.h"
#include "daemon/journal_history.h"
#include "shm/seat.h"
#include "shm/account.h"
#include "shm/ledger.h"
#include "shm/purse.h"
#include "tests/storm/examine.h"
#include "tests/storm/told.h"

static int64_t
cost(const struct told_stream *t, uint32_t tokens)
{
	return price_cost(&t->price, STORM_PROMPT, 0, tokens);
}

static bool
enter_price(const struct journal_entry *e)
{
	const char *model;
	size_t len;

	if (told->prices >= STORM_PRICES_MAX || e->record.price != told->prices ||
	    !books_price_of(&e->record, e->payload, &told->price[told->prices], &model, &len))
		WRONG("record %" PRIu64 ": price %u of %u", e->sequence, e->record.price,
		    told->prices);
	told->prices++;
	return true;
}

/* The key of a reserve: it has no other. */
static bool
enter_once(const struct journal_entry *e, uint16_t model_len, uint32_t account)
{
	struct told_once *o;
	uint32_t once;

	memcpy(&once, (const char *)e->payload + sizeof(struct journal_reserve) + model_len,
	    sizeof once);
	if (once >= STORM_ONCE_MAX || once >= atomic_load(&told->onces))
		WRONG("record %" PRIu64 ": key %u was never used", e->sequence, once);
	o = &told->once[once];
	if (++o->j_times > 1 || o->account != account)
		WRONG("record %" PRIu64 ": key %u, %u times, account %u", e->sequence, once,
		    o->j_times, account);
	o->j_sequence = e->sequence;
	return true;
}

static bool
enter_reserve(const struct journal_entry *e)
{
	struct journal_reserve head;
	uint32_t number, streams = atomic_load(&told->streams);
	struct told_stream *t;

	memcpy(&head, e->payload, sizeof head);
	memcpy(&number, head.stream_id, sizeof number);
	if (number >= streams)
		WRONG("record %" PRIu64 ": a reserve for stream %u of %u", e->sequence, number,
		    streams);
	t = &told->stream[number];
	if (t->j_reserved || t->account != e->record.account)
		WRONG("record %" PRIu64 ": stream %u is reserved twice or for account %u",
		    e->sequence, number, e->record.account);
	if (told->slot_stream[e->record.slot] != 0)
		WRONG("record %" PRIu64 ": slot %u is open", e->sequence, e->record.slot);
	if (e->record.price >= told->prices ||
	    memcmp(&told->price[e->record.price], &t->price, sizeof t->price) != 0)
		WRONG("record %" PRIu64 ": stream %u was reserved at other prices", e->sequence,
		    number);
	if (told->account[t->account].j_closed)
		WRONG("record %" PRIu64 ": a reserve of account %u, which is closed", e->sequence,
		    t->account);
	if (head.keyed && !enter_once(e, head.model_len, t->account))
		return false;
	t->j_reserved = 1;
	t->j_turn = storm_talks(number) ? e->sequence : 0;
	t->j_first = t->j_amount = e->record.amount;
	told->slot_stream[e->record.slot] = number + 1;
	told->held[t->account] += e->record.amount;
	return purses_enter(e, t) && purses_spend(e, t, e->record.amount);
}

static bool
enter_open(const struct journal_entry *e)
{
	const struct journal_record *r = &e->record;
	struct told_stream *t;

	if (told->slot_stream[r->slot] == 0)
		WRONG("record %" PRIu64 ": type %d for slot %u, which is free", e->sequence,
		    r->type, r->slot);
	t = &told->stream[told->slot_stream[r->slot] - 1];
	if (r->type == JOURNAL_EXTEND || r->type == JOURNAL_MARK) {
		if (r->completion > t->j_mark)
			t->j_mark = r->completion;
		if (r->type == JOURNAL_EXTEND) {
			t->j_amount += r->amount;
			told->held[t->account] += r->amount;
			return purses_spend(e, t, r->amount);
		}
		return true;
	}
	t->j_ended++;
	t->j_type = r->type;
	t->j_outcome = r->outcome;
	t->j_proc = r->proc;
	t->j_completion = r->completion;
	t->j_charge = r->amount;
	t->j_uncollected = r->extra;
	told->balance[t->account] -= r->amount;
	told->held[t->account] -= t->j_amount;
	told->slot_stream[r->slot] = 0;
	return purses_spend(e, t, r->amount - t->j_amount);
}

static bool
enter_credit(const struct journal_entry *e)
{
	struct journal_ref head;
	struct told_credit *t;
	char reason[16] = "";
	uint32_t number;

	memcpy(&head, e->payload, sizeof head);
	if (head.reason_len >= sizeof reason)
		WRONG("record %" PRIu64 ": what reason is that", e->sequence);
	memcpy(reason, (const char *)e->payload + sizeof head + head.ref_len, head.reason_len);
	number = (uint32_t)strtoul(reason, NULL, 10);
	if (number >= atomic_load(&told->credits))
		WRONG("record %" PRIu64 ": credit %u was never given", e->sequence, number);
	t = &told->credit[number];
	if (t->amount != e->record.amount || t->account != e->record.account)
		WRONG("record %" PRIu64 ": credit %u is another one", e->sequence, number);
	if (told->account[t->account].j_closed)
		WRONG("record %" PRIu64 ": credit for account %u, which is closed", e->sequence,
		    t->account);
	told->balance[t->account] += t->amount;
	t->j_times++;
	t->j_value = told->balance[t->account];
	if (t->ref != 0) {
		told->credit[t->ref - 1].j_ref_times++;
		told->credit[t->ref - 1].j_ref_value = t->j_value;
	}
	return true;
}

static bool
enter_setting(const struct journal_entry *e)
{
	struct journal_account_set set;
	struct journal_budgets budgets;
	struct told_account *a = &told->account[e->record.account];
	char reason[16] = "";
	struct told_setting *t;
	uint32_t number;

	if (!books_set_of(&e->record, e->payload, &set, &budgets) ||
	    set.reason_len >= sizeof reason)
		WRONG("record %" PRIu64 ": what reason is that", e->sequence);
	memcpy(reason, (const char *)e->payload + e->payload_len - set.reason_len, set.reason_len);
	number = (uint32_t)strtoul(reason, NULL, 10);
	if (number >= atomic_load(&told->settings))
		WRONG("record %" PRIu64 ": setting %u was never made", e->sequence, number);
	t = &told->setting[number];
	if (t->account != e->record.account || t->what != set.what ||
	    t->change != e->record.amount)
		WRONG("record %" PRIu64 ": setting %u is another one", e->sequence, number);
	t->j_times++;
	a->j_overdraft += e->record.amount;
	if (set.what == JOURNAL_SET_CLOSED)
		a->j_closed = 1;
	if ((set.what & JOURNAL_SET_OVERDRAFT) && set.overdraft != STORM_OVERDRAFT + a->j_overdraft)
		WRONG("record %" PRIu64 ": account %u has overdraft %lld, the record says %lld",
		    e->sequence, e->record.account, (long long)(STORM_OVERDRAFT + a->j_overdraft),
		    (long long)set.overdraft);
	return true;
}

static bool
enter_key(const struct journal_entry *e)
{
	bool revoked = e->record.type == JOURNAL_KEY_REVOKE;
	struct journal_key key = {.key_id = (uint64_t)e->record.extra};
	struct told_key *t;

	if (!revoked)
		memcpy(&key, e->payload, sizeof key);
	if (key.key_id == 0 || key.key_id > atomic_load(&told->keys))
		WRONG("record %" PRIu64 ": key %" PRIu64 " was never made", e->sequence, key.key_id);
	t = &told->key[key.key_id - 1];
	if (t->account != e->record.account || t->j_revoked || t->j_made != revoked)
		WRONG("record %" PRIu64 ": key %" PRIu64 " twice, or of another account", e->sequence,
		    key.key_id);
	t->j_made = 1;
	t->j_revoked = revoked;
	return true;
}

static bool
enter(const struct journal_entry *e)
{
	uint32_t account = e->record.account;

	switch ((enum journal_type)e->record.type) {
	case JOURNAL_RESERVE:
		if (!enter_reserve(e))
			return false;
		break;
	case JOURNAL_EXTEND:
	case JOURNAL_MARK:
	case JOURNAL_SETTLE:
	case JOURNAL_VOID:
		if (!enter_open(e))
			return false;
		break;
	case JOURNAL_TOPUP:
	case JOURNAL_ADJUST:
		if (!enter_credit(e))
			return false;
		break;
	case JOURNAL_ACCOUNT_SET:
		if (!enter_setting(e))
			return false;
		break;
	case JOURNAL_KEY:
	case JOURNAL_KEY_REVOKE:
		return enter_key(e);
	case JOURNAL_PRICE:
		return enter_price(e);
	case JOURNAL_FREEZE:
		WRONG("record %" PRIu64 ": account %u was frozen", e->sequence, account);
	default:
		return true;
	}
	if (!STORM_ADJUSTED(account) && told->balance[account] - told->held[account] +
	    STORM_OVERDRAFT + told->account[account].j_overdraft < 0)
		WRONG("record %" PRIu64 ": account %u is below its floor", e->sequence, account);
	return true;
}

static bool
walk(struct journal_reader *reader)
{
	struct journal_cursor *c = journal_cursor_new(reader, told->walked + 1);
	struct journal_entry e;
	bool good = c != NULL;

	while (good && journal_cursor_next(c, &e) == 1) {
		if (e.sequence != told->walked + 1) {
			storm_fail("the journal has a gap before %" PRIu64, e.sequence);
			good = false;
			break;
		}
		good = enter(&e);
		told->walked = e.sequence;
	}
	if (c != NULL)
		journal_cursor_free(c);
	return good;
}

/* Ended by the reaper: at the meter, or at what the hold paid of it. */
static bool
judge_reaped(uint32_t i, const struct told_stream *t)
{
	uint32_t most = atomic_load(&t->meter_before), least = atomic_load(&t->meter_after);
	int64_t paid = price_covers(&t->price, STORM_PROMPT, 0, t->j_amount);

	if (t->j_completion > most)
		WRONG("stream %u: charged for %u tokens, the meter said %u", i, t->j_completion,
		    most);
	if (t->j_completion < least && t->j_completion < paid)
		WRONG("stream %u: charged for %u tokens, the meter said %u and %lld were paid", i,
		    t->j_completion, least, (long long)paid);
	return true;
}

/* Ended by the keeper, after the memory was lost: at the last durable mark. */
static bool
judge_rebooted(uint32_t i, const struct told_stream *t)
{
	if (t->boot == atomic_load(&told->boots))
		WRONG("stream %u: ended by the keeper, although no memory was lost", i);
	if (t->j_completion != t->j_mark || t->j_completion < atomic_load(&t->marked) ||
	    t->j_completion > atomic_load(&t->meter_before))
		WRONG("stream %u: charged for %u tokens after a reboot; journaled mark %u, durable "
		    "mark %u, meter %u", i, t->j_completion, t->j_mark, atomic_load(&t->marked),
		    atomic_load(&t->meter_before));
	return true;
}

static bool
judge_stream(uint32_t i, const struct told_stream *t)
{
	uint32_t usage = atomic_load(&t->usage);
	int64_t due;

	if (!t->j_reserved) {
		if (atomic_load(&t->reserved) || atomic_load(&t->ended))
			WRONG("stream %u: acknowledged, but not in the journal", i);
		return true;
	}
	if (t->j_ended != 1)
		WRONG("stream %u: ended %u times", i, t->j_ended);
	if (t->j_amount - t->j_first < atomic_load(&t->extended))
		WRONG("stream %u: acknowledged extends of %lld, journaled %lld", i,
		    (long long)atomic_load(&t->extended), (long long)(t->j_amount - t->j_first));
	due = t->j_type == JOURNAL_VOID ? 0 : cost(t, t->j_completion);
	if (t->j_type == JOURNAL_VOID && t->j_completion != 0)
		WRONG("stream %u: voided with %u tokens", i, t->j_completion);
	if (t->j_charge + t->j_uncollected != due || t->j_charge < 0 ||
	    t->j_charge > t->j_amount ||
	    (t->j_uncollected > 0 && t->j_charge != t->j_amount))
		WRONG("stream %u: charge %lld, uncollected %lld, cost %lld, hold %lld", i,
		    (long long)t->j_charge, (long long)t->j_uncollected, (long long)due,
		    (long long)t->j_amount);
	if (atomic_load(&t->ended) && (t->j_outcome == OUTCOME_WORKER_DIED ||
	    atomic_load(&t->charge) != t->j_charge))
		WRONG("stream %u: charged %lld, the client was told %lld", i,
		    (long long)t->j_charge, (long long)atomic_load(&t->charge));
	if (t->j_outcome == OUTCOME_STOP || t->j_outcome == OUTCOME_EXPIRED ||
	    t->j_outcome == OUTCOME_CANCELLED) {
		if (t->j_completion != usage)
			WRONG("stream %u: settled for %u tokens, its worker said %u", i,
			    t->j_completion, usage);
		return true;
	}
	return t->j_proc == PROC_KEEPER ? judge_rebooted(i, t) : judge_reaped(i, t);
}

/* What the history has of it, however often the keeper died meanwhile. */
static bool
judge_turn(struct journal_reader *journal, uint32_t i, const struct told_stream *t)
{
	uint8_t id[16] = {(uint8_t)(i / 2 % STORM_SESSIONS)};
	struct history_session s;
	struct history_turn turn;
	struct history_view *v;
	char text[STORM_SAID];
	struct span said;
	bool good;

	if (t->j_turn == 0)
		return true;
	v = history_view_new(journal, t->account);
	good = v != NULL && history_session_get(v, id, &s) == 1 &&
	    history_turn_before(v, &s, t->j_turn + 1, &turn) == 1 && turn.sequence == t->j_turn &&
	    history_said(v, t->j_turn, &said) == 1 &&
	    said.len == (size_t)snprintf(text, sizeof text, "%u", i) &&
	    memcmp(said.p, text, said.len) == 0;
	history_view_free(v);
	if (!good)
		WRONG("stream %u: its turn %" PRIu64 " is not in the history", i, t->j_turn);
	if (turn.ended_us == 0 || turn.outcome != t->j_outcome ||
	    turn.charge != (t->j_type == JOURNAL_VOID ? 0 : t->j_charge))
		WRONG("stream %u: in the history it is charged %lld, outcome %d", i,
		    (long long)turn.charge, turn.outcome);
	return true;
}

static bool
judge_credit(uint32_t i, const struct told_credit *t)
{
	uint8_t status = atomic_load(&t->status);

	if (t->j_times > 1 || (t->ref == i + 1 && t->j_ref_times > 1))
		WRONG("credit %u: %u times in the journal, its ref %u times", i, t->j_times,
		    t->j_ref_times);
	if (status == RING_APPLIED && (t->j_times != 1 || atomic_load(&t->value) != t->j_value))
		WRONG("credit %u: acknowledged with balance %lld, journaled %u times with %lld", i,
		    (long long)atomic_load(&t->value), t->j_times, (long long)t->j_value);
	if (status == RING_REPEATED && (t->j_times != 0 ||
	    told->credit[t->ref - 1].j_ref_times != 1 ||
	    told->credit[t->ref - 1].j_ref_value != atomic_load(&t->value)))
		WRONG("credit %u: called a repetition with balance %lld; ref %u is journaled %u "
		    "times with %lld", i, (long long)atomic_load(&t->value), t->ref,
		    told->credit[t->ref - 1].j_ref_times,
		    (long long)told->credit[t->ref - 1].j_ref_value);
	return true;
}

/* Keys that may still be repeated are looked at again. */
static bool
judge_once(uint32_t i, const struct told_once *o)
{
	uint64_t first = atomic_load(&o->repeated_of);

	if (o->j_times < atomic_load(&o->granted))
		WRONG("key %u: granted, but not in the journal", i);
	if (first != 0 && (o->j_times != 1 || first != o->j_sequence))
		WRONG("key %u: a repetition was told of record %" PRIu64 ", it is %" PRIu64, i,
		    first, o->j_sequence);
	return true;
}

static bool
judge_setting(uint32_t i, const struct told_setting *t)
{
	uint8_t status = atomic_load(&t->status);

	if (t->j_times > 1 || (status != 0 && t->j_times != (status == RING_APPLIED)))
		WRONG("setting %u: %u times in the journal, acknowledged with %u", i, t->j_times,
		    status);
	return true;
}

/* All of them each time: they are few, and a key may be revoked at any time. */
static bool
judge_keys(const struct region *region)
{
	uint32_t n = atomic_load(&told->keys), made = 0;

	for (uint32_t i = 0; i < n; i++) {
		const struct told_key *t = &told->key[i];
		uint8_t said = atomic_load(&t->made);

		made += t->j_made;
		if ((said != 0 && t->j_made != (said == RING_APPLIED)) ||
		    t->j_revoked < atomic_load(&t->revoked))
			WRONG("key %u: made %d, revoked %d; told %d, %d", i, t->j_made, t->j_revoked,
			    said, atomic_load(&t->revoked));
	}
	if (made != atomic_load(&region->h->keys))
		WRONG("%u keys in the journal, %u in memory", made, atomic_load(&region->h->keys));
	for (uint32_t i = 0; i < made; i++) {
		const struct key_entry *k = key_at(region, i);
		const struct told_key *t = &told->key[k->key_id - 1];

		if (k->account != t->account ||
		    ((atomic_load(&k->flags) & KEY_REVOKED) != 0) != t->j_revoked)
			WRONG("key %" PRIu64 ": account %u, flags %x in memory", k->key_id,
			    k->account, atomic_load(&k->flags));
		for (unsigned w = 0; w < 2 && t->cap != 0; w++)
			if (!purses_agree(&k->purse, w, t->j_window[w], t->j_used[w]))
				WRONG("key %" PRIu64 ": %llx stands in its cap, by the journal %lld "
				      "in %x",
				    k->key_id, (unsigned long long)k->purse.word[w].available,
				    (long long)t->j_used[w], t->j_window[w]);
		if (seat_count(&k->seats) != 0)
			WRONG("key %" PRIu64 ": seats are taken by nobody", k->key_id);
	}
	return true;
}

static bool
judge_memory(const struct region *region)
{
	uint32_t n = atomic_load(&region->h->accounts);

	for (uint32_t slot = 0; slot < hold_count(region); slot++)
		if (HOLD_STATE(atomic_load(&hold_at(region, slot)->state)) != HOLD_FREE ||
		    told->slot_stream[slot] != 0)
			WRONG("slot %u: state %d at rest, journaled as stream %d", slot,
			    (int)HOLD_STATE(atomic_load(&hold_at(region, slot)->state)),
			    (int)told->slot_stream[slot] - 1);
	for (uint32_t p = PROC_ADMIN; p < region->h->procs; p++)
		if (ring_durable(region_ring(region, p)) != ring_head(region_ring(region, p)))
			WRONG("ring %u is not durable at rest", p);
	for (uint32_t i = 0; i < n; i++) {
		struct account_books books;
		int64_t available = account_available(account_at(region, i));

		account_books(account_at(region, i), &books);
		if (told->account[i].j_closed < atomic_load(&told->account[i].closed) ||
		    ((atomic_load(&account_at(region, i)->flags) & ACCOUNT_CLOSED) != 0) !=
			told->account[i].j_closed)
			WRONG("account %u: closed %d in the journal, told %d, flags %x", i,
			    told->account[i].j_closed, atomic_load(&told->account[i].closed),
			    atomic_load(&account_at(region, i)->flags));
		if (books.balance != told->balance[i] || books.held != 0 || told->held[i] != 0 ||
		    books.overdraft != STORM_OVERDRAFT + told->account[i].j_overdraft ||
		    available != books.balance + books.overdraft)
			WRONG("account %u: balance %lld, held %lld, available %lld; the journal "
			    "says %lld, %lld", i, (long long)books.balance,
			    (long long)books.held, (long long)available,
			    (long long)told->balance[i], (long long)told->held[i]);
		if (!purses_judge(region, i))
			return false;
		if (seat_count(&account_at(region, i)->seats) != 0)
			WRONG("account %u: %llu seats are taken by nobody", i,
			    (unsigned long long)seat_count(&account_at(region, i)->seats));
	}
	return true;
}

static bool
run_audit(struct journal_reader *journal, struct state_reader *state)
{
	struct audit *audit = audit_new(journal, state);
	struct audit_result result;

	if (audit == NULL)
		WRONG("audit_new");
	while (audit_step(audit, 10000))
		continue;
	audit_result(audit, &result);
	audit_free(audit);
	if (!result.ok)
		WRONG("audit: %s", result.first_difference);
	if (result.base.sequence != told->base)
		atomic_fetch_add(&told->compacted, 1);
	told->base = result.base.sequence;
	if (result.base.sequence + result.records != told->walked || result.holds_open != 0)
		WRONG("audit: %" PRIu64 " records, %u holds open; walked %" PRIu64,
		    result.records, result.holds_open, told->walked);
	return true;
}

bool
examine(const struct heritage *h)
{
	const char *why = "", *dir = h->config->state_dir;
	struct journal_reader *journal = journal_reader_open(dir, &why);
	struct state_reader *state = state_reader_open(dir, &why);
	bool good = journal != NULL && state != NULL;
	struct timespec now;
	uint32_t i;

	clock_gettime(CLOCK_REALTIME, &now);

	if (!good)
		storm_fail("readers: %s", why);
	good = good && walk(journal);
	for (i = told->streams_done; good && i < atomic_load(&told->streams); i++)
		good = judge_stream(i, &told->stream[i]) && judge_turn(journal, i, &told->stream[i]);
	told->streams_done = i;
	/* A ref of before may have been repeated since. */
	for (i = told->credits_done; good && i < atomic_load(&told->credits); i++)
		good = judge_credit(i, &told->credit[i]) &&
		    (told->credit[i].ref == 0 ||
			told->credit[told->credit[i].ref - 1].j_ref_times <= 1);
	told->credits_done = i;
	for (i = told->settings_done; good && i < atomic_load(&told->settings); i++)
		good = judge_setting(i, &told->setting[i]);
	told->settings_done = i;
	for (i = told->onces_done; good && i < atomic_load(&told->onces) && i < STORM_ONCE_MAX; i++)
		good = judge_once(i, &told->once[i]);
	told->onces_done = i > 16 ? i - 16 : 0;
	good = good && judge_keys(&h->region) && judge_memory(&h->region) && run_audit(journal, state);
	atomic_store(&told->walked_us,
	    (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000);
	journal_reader_close(journal);
	state_reader_close(state);
	return good;
}
