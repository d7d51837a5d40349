/*
 * Judging a record by the books before it is committed.  Keeper (and admin, for an audit).
 *
 * Two kinds of "no".  A contradiction (RING_REFUSED) is something that no correct process
 * sends, whatever was going on around it: somebody writes in shared memory who should not, and
 * the sender is killed for it.  Everything that a race or an operator's mistake can bring about
 * has a status of its own and costs nobody anything.
 */
#include <string.h>

#include "daemon/books_private.h"
#include "shm/account.h"
#include "shm/ledger.h"

static void
answer(struct books_verdict *v, enum ring_status status)
{
	v->status = status;
	v->store = false;
}

static void
contradicts(struct books_verdict *v, const char *what)
{
	answer(v, RING_REFUSED);
	v->contradicts = what;
}

bool
books_has_slot(uint8_t type)
{
	return (type >= JOURNAL_RESERVE && type <= JOURNAL_ADJUST) || type == JOURNAL_ACCOUNT_SET;
}

/* The latest operation of a slot, stored or not. */
static uint64_t
latest(const struct books_hold *h)
{
	if (h == NULL)
		return 0;
	return h->op > h->answered_op ? h->op : h->answered_op;
}

/* Its slot is one of the sender's, its operation a possible one. */
static bool
own_slot(const struct books_input *in)
{
	const struct journal_record *r = in->record;

	return r->slot >= in->slot_first && r->slot - in->slot_first < in->slot_count &&
	    r->op != 0 && r->op < HOLD_SEQ_END;
}

/*
 * Further on than the slot's owner can have come: taken, it would leave the slot's next owner no
 * operations.  What the keeper adds itself has room behind it; of the journal nothing is asked that
 * was not asked when it was written.
 */
static bool
too_far(const struct books *b, const struct books_input *in)
{
	const struct journal_record *r = in->record;
	uint64_t last = latest(books_hold(b, r->slot));

	return in->types != BOOKS_FROM_JOURNAL && r->op > last &&
	    (r->op - last > HOLD_SEQ_STEP || r->op >= HOLD_SEQ_END - HOLD_SEQ_STEP);
}

bool
books_next(const struct books *b, const struct books_input *in)
{
	const struct journal_record *r = in->record;

	return books_has_slot(r->type) && own_slot(in) && !too_far(b, in) &&
	    r->op > latest(books_hold(b, r->slot));
}

/*
 * Is this the slot's next operation?  If not, the answer is given.
 *
 * What the reaper sends again is always the slot's latest operation, and never another type of
 * it.  Anything older is forged: taken for a repetition it would be acknowledged and journaled
 * nowhere.  A mark has no operation of its own: it carries that of the reserve or extend before
 * it.
 */
static bool
check_slot(const struct books *b, const struct books_input *in, struct books_verdict *v)
{
	const struct journal_record *r = in->record;
	const struct books_hold *h = books_hold(b, r->slot);

	if (!own_slot(in)) {
		contradicts(v, "slot or operation are not the sender's");
		return false;
	}
	if (too_far(b, in)) {
		contradicts(v, "the operation is too far ahead");
		return false;
	}
	if (r->op > latest(h) || (r->type == JOURNAL_MARK && r->op == latest(h)))
		return true;
	if (r->op == h->answered_op &&
	    (h->answered_type == r->type || h->answered_type == 0)) {
		answer(v, (enum ring_status)h->answered_status);
		v->value = h->answered_value;
	} else
		contradicts(v, "the slot's operations are further on");
	return false;
}

/* How long slack lasts after it is known to be applied. */
#define SLACK_US UINT64_C(10000000)

/* Balances, sums and overdrafts stay within this, so that no sum of a few of them overflows. */
#define AMOUNT_MAX (INT64_MAX / 8)

static bool
in_range(int64_t amount)
{
	return amount >= -AMOUNT_MAX && amount <= AMOUNT_MAX;
}

/*
 * Is the account's ending slack over for a record of that time?  That the adjustment is applied
 * does not mean that all records which were granted before it have been judged: some are further
 * back in another ring, or their sender stands between taking the credit and pushing the record.
 * The record's own time, so that the keeper's answer is an audit's as well; a sender who dates
 * back gains no more than the adjustment.
 */
bool
books_slack_ended(const struct books_account *a, uint64_t time_us)
{
	return a->ending != 0 && time_us > a->ending_us && time_us - a->ending_us > SLACK_US;
}

/* Would the account still be above its floor with this much more held? */
static bool
above_floor(const struct books_account *a, int64_t amount, uint64_t time_us)
{
	int64_t slack = a->slack - (books_slack_ended(a, time_us) ? a->ending : 0);

	return (__int128)a->balance - a->held - amount + a->overdraft + slack >= 0;
}

int64_t
books_available(const struct books_account *a)
{
	return a->balance - a->held + a->overdraft;
}

/*
 * A request whose key was there already: the answer is the first one's.  Also for an account that
 * is closed by now: nothing is asked of it.
 */
static bool
repeated(const struct books *b, const struct books_input *in, struct books_verdict *v)
{
	const struct journal_record *r = in->record;
	const struct books_ref *known;
	struct journal_keyed keyed;
	uint8_t id[16];

	if (!books_keyed_of(r, in->payload, &keyed, id))
		return false;
	known = books_ref_find(b, id, r->time_us);
	if (known == NULL)
		return false;
	if (memcmp(known->body, keyed.body, sizeof known->body) != 0) {
		answer(v, RING_CONFLICT);
		return true;
	}
	answer(v, RING_REPEATED);
	v->value = known->balance;
	v->first = known->sequence;
	return true;
}

static void
check_ask(const struct books *b, const struct books_input *in, struct books_verdict *v)
{
	if (in->record->payload_len != sizeof(struct journal_keyed))
		contradicts(v, "the question's payload is cut off");
	else if (!repeated(b, in, v))
		v->store = false;
}

static void
check_reserve(const struct books *b, const struct books_input *in, struct books_verdict *v)
{
	const struct journal_record *r = in->record;
	const struct books_hold *h = books_hold(b, r->slot);
	const struct books_account *a = books_account(b, r->account);
	struct journal_reserve head;
	const char *why;
	size_t keyed;

	if (r->payload_len < sizeof head) {
		contradicts(v, "the reserve has no stream");
		return;
	}
	memcpy(&head, in->payload, sizeof head);
	keyed = head.keyed != 0 ? sizeof(struct journal_keyed) : 0;
	if (head.keyed > JOURNAL_KEYED_ANSWER || sizeof head + head.model_len + keyed > r->payload_len)
		contradicts(v, "the reserve's payload is cut off");
	else if (h != NULL && h->open)
		contradicts(v, "the hold is open already");
	else if (a == NULL)
		contradicts(v, "there is no such account");
	else if (r->amount < 0 || books_price(b, r->price) == NULL)
		contradicts(v, "there is no such amount or price");
	else if (repeated(b, in, v))
		return;
	else if ((a->flags & (ACCOUNT_CLOSED | ACCOUNT_FROZEN)) != 0)
		answer(v, RING_CLOSED); /* it was not when the sender looked */
	else if (!above_floor(a, r->amount, r->time_us))
		contradicts(v, "the account would be below its floor");
	else if ((why = books_caps_reserve(b, a, r)) != NULL)
		contradicts(v, why);
	else
		v->value = books_available(a) - r->amount;
}

/* Are the tokens of a mark ones that the hold had paid for? */
static bool
mark_paid(const struct books *b, const struct books_input *in, const struct books_hold *h)
{
	struct tokens t = {.prompt = h->prompt, .completion = in->record->completion};
	struct journal_split split;

	if (!books_split_of(in->record, in->payload, &split) || split.cache_write != 0)
		return false;
	t.reasoning = split.reasoning;
	return t.completion == 0 ||
	    price_cost_of(&books_price(b, h->price)->price, &t) <= h->amount;
}

static void
check_extend(const struct books *b, const struct books_input *in, const struct books_hold *h,
    struct books_verdict *v)
{
	const struct journal_record *r = in->record;
	const char *why;
	int64_t total;

	if (r->amount <= 0 || __builtin_add_overflow(h->amount, r->amount, &total) ||
	    total != r->extra)
		contradicts(v, "the hold's new total is not the sum");
	else if (!mark_paid(b, in, h))
		contradicts(v, "the meter is above what was paid");
	else if (!above_floor(books_account(b, h->account), r->amount, r->time_us))
		contradicts(v, "the account would be below its floor");
	else if ((why = books_caps_extend(b, h, r)) != NULL)
		contradicts(v, why);
}

/*
 * How a stream went.  No money: only what contradicts itself is refused.  (When something was, is
 * counted from the reserve, so nothing can be before it; nor is it held against the record's own time,
 * since the wall clock may have been set back in between.)
 */
static const char *
end_wrong(const struct books_input *in)
{
	const struct journal_record *r = in->record;
	struct journal_end end;
	const char *provider;

	if (r->version != JOURNAL_VERSION_TOLD)
		return NULL;
	if (!books_end_of(r, in->payload, &end, &provider))
		return "how the stream went is cut off, or no such thing";
	if (end.first_ms != JOURNAL_NONE &&
	    (end.opened_ms == JOURNAL_NONE || end.first_ms < end.opened_ms))
		return "the first token came before the stream was opened";
	if (end.counted >= COUNTED_MAX ||
	    (end.counted == COUNTED_NOBODYS) != (r->type == JOURNAL_VOID))
		return "nobody's count was charged";
	if (end.short_of >= SHORT_MAX ||
	    (end.short_of != SHORT_UNKNOWN && r->outcome != OUTCOME_CREDIT))
		return "the stream was not cut for such a want";
	return NULL;
}

static void
check_settle(const struct books *b, const struct books_input *in, const struct books_hold *h,
    struct books_verdict *v)
{
	const struct journal_record *r = in->record;
	struct journal_split split;
	struct tokens t = {.prompt = r->prompt, .cached = r->cached, .completion = r->completion};
	const char *wrong = end_wrong(in);
	int64_t cost;

	if (wrong != NULL) {
		contradicts(v, wrong);
		return;
	}
	if (!books_split_of(r, in->payload, &split)) {
		contradicts(v, "the kinds of tokens are more than the tokens");
		return;
	}
	t.reasoning = split.reasoning;
	t.cache_write = split.cache_write;
	cost = price_cost_of(&books_price(b, h->price)->price, &t);
	if (r->amount < 0 || r->amount > h->amount)
		contradicts(v, "the charge is above the hold");
	else if (r->extra < 0 || r->amount != cost - r->extra)
		contradicts(v, "charge and uncollected are not the cost");
	else if (r->extra > 0 && r->amount < h->amount)
		contradicts(v, "uncollected, although the hold has more");
	else if (r->outcome >= OUTCOME_MAX)
		contradicts(v, "there is no such outcome");
}

/* EXTEND, MARK, SETTLE, VOID. */
static void
check_open(const struct books *b, const struct books_input *in, struct books_verdict *v)
{
	const struct journal_record *r = in->record;
	const struct books_hold *h = books_hold(b, r->slot);
	const char *wrong;

	if (h == NULL || !h->open) {
		if (r->type == JOURNAL_VOID)
			answer(v, RING_APPLIED); /* nothing was held: its giving back is right */
		else if (h != NULL && h->answered_op > h->op && h->answered_status != RING_APPLIED)
			/* The reserve before it got this answer, not yet read when this was sent. */
			answer(v, (enum ring_status)h->answered_status);
		else
			contradicts(v, "the hold is not open");
		return;
	}
	if (r->account != h->account || r->price != h->price) {
		contradicts(v, "account or price are not the hold's");
		return;
	}
	switch (r->type) {
	case JOURNAL_EXTEND:
		check_extend(b, in, h, v);
		break;
	case JOURNAL_MARK:
		if (!mark_paid(b, in, h))
			contradicts(v, "the meter is above what was paid");
		break;
	case JOURNAL_SETTLE:
		check_settle(b, in, h, v);
		break;
	default:
		if (r->amount != 0 || r->outcome >= OUTCOME_MAX)
			contradicts(v, "a void charges nothing");
		else if ((wrong = end_wrong(in)) != NULL)
			contradicts(v, wrong);
		break;
	}
}

/* TOPUP, ADJUST. */
static void
check_credit(const struct books *b, const struct books_input *in, struct books_verdict *v)
{
	const struct journal_record *r = in->record;
	const struct books_account *a = books_account(b, r->account);
	const struct books_hold *h = books_hold(b, r->slot);
	const struct books_ref *known;
	const void *ref;
	size_t len;
	uint8_t id[16];
	int64_t sum;

	if (h != NULL && h->open)
		contradicts(v, "the hold is open");
	else if (r->type == JOURNAL_TOPUP && r->amount <= 0)
		contradicts(v, "a top-up is above zero");
	else if (!books_ref_of(r, in->payload, &ref, &len))
		contradicts(v, "the ref is cut off");
	else if (a == NULL)
		answer(v, RING_UNKNOWN);
	else if ((a->flags & ACCOUNT_CLOSED) != 0)
		answer(v, RING_CLOSED);
	if (v->status != RING_APPLIED)
		return;
	if (len > 0) {
		books_ref_id(r->account, ref, len, id);
		known = books_ref_find(b, id, r->time_us);
		if (known != NULL) {
			answer(v, RING_REPEATED);
			v->value = known->balance;
			return;
		}
	}
	sum = r->type == JOURNAL_TOPUP ? a->topups : a->adjustments;
	v->value = a->balance;
	if (!in_range(r->amount) || !in_range(a->balance + r->amount) ||
	    !in_range(sum + r->amount) || !in_range(a->slack - (r->amount < 0 ? r->amount : 0)))
		answer(v, RING_RANGE);
	else
		v->value += r->amount;
}

/*
 * Settings are no money, but an overdraft is: a lowered one may put the account under its floor,
 * like an adjustment.  Who sets a closed account came too late.
 */
static void
check_account_set(const struct books *b, const struct books_input *in, struct books_verdict *v)
{
	const struct journal_record *r = in->record;
	const struct books_account *a = books_account(b, r->account);
	const struct books_hold *h = books_hold(b, r->slot);
	struct journal_account_set set;
	struct journal_budgets budgets;

	if (h != NULL && h->open)
		contradicts(v, "the hold is open");
	else if (!books_set_of(r, in->payload, &set, &budgets) || set.what == 0 ||
	    set.what > JOURNAL_SET_ALL)
		contradicts(v, "the settings are cut off or unknown");
	else if ((set.what & JOURNAL_SET_OVERDRAFT) == 0 && r->amount != 0)
		contradicts(v, "the overdraft changes without being set");
	else if (a == NULL)
		answer(v, RING_UNKNOWN);
	else if ((a->flags & ACCOUNT_CLOSED) != 0 && set.what == JOURNAL_SET_CLOSED)
		answer(v, RING_REPEATED);
	else if ((a->flags & ACCOUNT_CLOSED) != 0 && set.what != JOURNAL_SET_UNFROZEN)
		answer(v, RING_CLOSED);
	else if ((set.what & JOURNAL_SET_OVERDRAFT) != 0 &&
	    (set.overdraft < 0 || !in_range(set.overdraft) || !in_range(r->amount)))
		answer(v, RING_RANGE);
	else if (!books_budgets_ok(&budgets, set.what))
		answer(v, RING_RANGE);
	else if ((set.what & JOURNAL_SET_OVERDRAFT) != 0 &&
	    a->overdraft + r->amount != set.overdraft)
		answer(v, RING_STALE);
	else if (!in_range(a->slack - (r->amount < 0 ? r->amount : 0)))
		answer(v, RING_RANGE);
	if (a != NULL)
		v->value = a->balance;
}

static void
check_account(const struct books *b, const struct books_input *in, struct books_verdict *v)
{
	const struct journal_record *r = in->record;
	struct journal_budgets budgets;
	struct journal_account head;
	const char *id;

	if (!books_account_of(r, in->payload, &head, &budgets, &id) ||
	    !account_id_ok(id, head.id_len))
		contradicts(v, "the account's id is not one");
	else if (!books_budgets_ok(&budgets, JOURNAL_SET_BUDGETS))
		answer(v, RING_RANGE);
	else if (r->amount < 0 || r->amount > AMOUNT_MAX)
		answer(v, RING_RANGE);
	else if ((v->value = books_account_find(b, id, head.id_len)) != JOURNAL_NONE)
		answer(v, RING_EXISTS);
	else
		v->value = books_accounts(b);
}

/*
 * A worker asks for an account for a user whom a key named; how much it is worth is not for it to
 * say.  That it is there already, or the key no more, can be a race.
 */
static void
check_sight(const struct books *b, const struct books_input *in, struct books_verdict *v)
{
	const struct journal_record *r = in->record;
	const char *id;
	size_t len;
	uint32_t index = books_sight_of(b, r, in->payload, &id, &len);
	const struct books_key *k = index == JOURNAL_NONE ? NULL : books_key(b, index);

	if (id == NULL || !account_id_ok(id, len) || len <= sizeof SIGHT_PREFIX - 1 ||
	    memcmp(id, SIGHT_PREFIX, sizeof SIGHT_PREFIX - 1) != 0)
		contradicts(v, "the account's id is not a user's");
	else if (in->types != BOOKS_FROM_JOURNAL &&
	    (r->amount != 0 || r->extra != 0 || r->account != JOURNAL_NONE))
		contradicts(v, "a user's account is not the sender's to number or to pay");
	else if (r->amount < 0 || r->amount > AMOUNT_MAX || r->extra < 0 || r->extra > AMOUNT_MAX)
		contradicts(v, "a user's account cannot begin like this");
	else if (k == NULL || (k->scopes & KEY_TRUST_USER) == 0)
		contradicts(v, "the key may not name users");
	else if ((v->value = books_account_find(b, id, len)) != JOURNAL_NONE)
		answer(v, RING_EXISTS);
	else if ((k->flags & KEY_REVOKED) != 0 ||
	    (k->expires_us != 0 && k->expires_us <= r->time_us) ||
	    (books_account(b, k->account)->flags & (ACCOUNT_CLOSED | ACCOUNT_FROZEN)) != 0)
		answer(v, RING_CLOSED);
	else
		v->value = books_accounts(b);
}

static void
check_key(const struct books *b, const struct books_input *in, struct books_verdict *v)
{
	const struct journal_record *r = in->record;
	const struct books_account *a = books_account(b, r->account);
	struct journal_key head;

	if (r->payload_len < sizeof head) {
		contradicts(v, "the key has no hash");
		return;
	}
	memcpy(&head, in->payload, sizeof head);
	if (sizeof head + head.label_len + head.models_len > r->payload_len)
		contradicts(v, "the key's label is cut off");
	else if (head.models_len > KEY_MODELS_TEXT_MAX || r->amount < 0 ||
	    r->amount > PURSE_MAX || r->prompt >= KEY_PERS ||
	    (r->amount > 0) != (r->prompt != KEY_PER_NONE) || r->extra < 0 ||
	    r->extra > UINT32_MAX)
		contradicts(v, "the key's rights are not such");
	else if (a == NULL)
		answer(v, RING_UNKNOWN);
	else if ((a->flags & ACCOUNT_CLOSED) != 0)
		answer(v, RING_CLOSED);
	else if (books_key_find(b, head.key_id) != JOURNAL_NONE ||
	    books_key_hash_taken(b, head.hash))
		answer(v, RING_EXISTS);
}

static void
check_revoke(const struct books *b, const struct journal_record *r, struct books_verdict *v)
{
	uint32_t key = books_key_find(b, (uint64_t)r->extra);

	if (key == JOURNAL_NONE)
		answer(v, RING_UNKNOWN);
	else if (r->account != JOURNAL_NONE && r->account != books_key(b, key)->account)
		contradicts(v, "the key is another account's");
	else if ((books_key(b, key)->flags & KEY_REVOKED) != 0)
		answer(v, RING_REPEATED);
	else
		v->value = books_key(b, key)->account;
}

static void
check_price(const struct books *b, const struct books_input *in, struct books_verdict *v)
{
	const struct journal_record *r = in->record;
	struct price price;
	const char *model;
	size_t len;

	if (!books_price_of(r, in->payload, &price, &model, &len))
		contradicts(v, "the price is cut off");
	else if (r->price != books_prices(b) || price.prompt < 0 || price.cached < 0 ||
	    price.completion < 0 || price.reasoning < 0 || price.cache_write < 0 ||
	    price.request < 0)
		contradicts(v, "the price is not the next one");
}

static void
check_price_set(const struct books_input *in, struct books_verdict *v)
{
	struct journal_price_set set;
	const char *model;

	if (!books_price_set_of(in->record, in->payload, &set, &model) ||
	    in->record->amount < PRICE_UNSET ||
	    (set.kind == PRICE_KINDS && in->record->amount != PRICE_UNSET))
		contradicts(v, "there is no such kind of a price");
}

/* Whose books does a contradiction concern? */
static uint32_t
concerned(const struct books *b, const struct books_input *in)
{
	const struct journal_record *r = in->record;
	const struct books_hold *h = books_hold(b, r->slot);

	if (books_has_slot(r->type) && own_slot(in) && h != NULL && h->open)
		return h->account;
	return r->account < books_accounts(b) ? r->account : JOURNAL_NONE;
}

static void
check_type(const struct books *b, const struct books_input *in, struct books_verdict *v)
{
	switch ((enum journal_type)in->record->type) {
	case JOURNAL_RESERVE:
		check_reserve(b, in, v);
		break;
	case JOURNAL_EXTEND:
	case JOURNAL_MARK:
	case JOURNAL_SETTLE:
	case JOURNAL_VOID:
		check_open(b, in, v);
		break;
	case JOURNAL_TOPUP:
	case JOURNAL_ADJUST:
		check_credit(b, in, v);
		break;
	case JOURNAL_ACCOUNT:
		check_account(b, in, v);
		break;
	case JOURNAL_SIGHT:
		check_sight(b, in, v);
		break;
	case JOURNAL_KEY:
		check_key(b, in, v);
		break;
	case JOURNAL_KEY_REVOKE:
		check_revoke(b, in->record, v);
		break;
	case JOURNAL_PRICE:
		check_price(b, in, v);
		break;
	case JOURNAL_PRICE_SET:
		check_price_set(in, v);
		break;
	case JOURNAL_SYNC:
	case JOURNAL_COMPACT:
	case JOURNAL_GONE:
		v->store = false;
		break;
	case JOURNAL_ASK:
		check_ask(b, in, v);
		break;
	case JOURNAL_CHECKPOINT:
		if (in->record->payload_len != sizeof(struct journal_checkpoint))
			contradicts(v, "the checkpoint's record is cut off");
		break;
	case JOURNAL_ACCOUNT_SET:
		check_account_set(b, in, v);
		break;
	case JOURNAL_FORGET:
		if (in->record->payload_len != JOURNAL_FORGET_LEN)
			contradicts(v, "no session is named");
		else if (books_account(b, in->record->account) == NULL)
			contradicts(v, "there is no such account");
		break;
	case JOURNAL_FREEZE:
		if (books_account(b, in->record->account) == NULL)
			contradicts(v, "there is no such account");
		break;
	case JOURNAL_TYPES:
		break;
	}
}

static bool
version_ok(const struct journal_record *r)
{
	return r->version == JOURNAL_VERSION ||
	    (r->version == JOURNAL_VERSION_KINDS &&
		(r->type == JOURNAL_EXTEND || r->type == JOURNAL_MARK ||
		    r->type == JOURNAL_SETTLE || r->type == JOURNAL_PRICE)) ||
	    (r->version == JOURNAL_VERSION_TOLD &&
		(r->type == JOURNAL_SETTLE || r->type == JOURNAL_VOID));
}

/* Model: judge() in tests/model/keeper.pml. */
void
books_check(const struct books *b, const struct books_input *in, struct books_verdict *v)
{
	const struct journal_record *r = in->record;

	*v = (struct books_verdict){
	    .status = RING_APPLIED, .store = true, .freeze = JOURNAL_NONE};
	if (!version_ok(r))
		contradicts(v, "the record is of another version");
	else if (r->type < JOURNAL_RESERVE || r->type >= JOURNAL_TYPES ||
	    (in->types & BOOKS_TYPE(r->type)) == 0)
		contradicts(v, "the sender may not send such a record");
	else if (!books_has_slot(r->type) || check_slot(b, in, v))
		check_type(b, in, v);
	if (v->status == RING_REFUSED && v->contradicts != NULL)
		v->freeze = concerned(b, in);
}
