#ifndef DAEMON_BOOKS_H
#define DAEMON_BOOKS_H

/*
 * The keeper's own books: what the journal says about accounts, holds, keys, refs and prices,
 * in private memory.  Workers parse hostile bytes and write shared memory, so nothing in there
 * is believed: each record is judged by these books before it is committed.
 *
 * Pure over memory, no LMDB, no region.  The keeper owns one; an audit makes another one and
 * plays the journal into it.  Out of memory is fatal.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shm/account.h"
#include "shm/journal_record.h"
#include "shm/money.h"
#include "shm/ring.h"

#define BOOKS_SLOTS_MAX (1u << 20) /* hold slots; as many as a region can have */

struct books;

/* Charged and held under a cap or budget in the present window and the one before, by their
 * numbers' last bit: as in shm/purse.h. */
struct books_used {
	uint16_t window[2];
	int64_t used[2];
};

/* An account's budget of the day or of the month. */
struct books_budget {
	int64_t cap; /* 0: there is none */
	/* The highest one that a claim may still have gone by: such a claim is no contradiction.
	 * While `pending` slots hold a change that may not be shown in memory yet, and a while after
	 * the last of them was known to be (books_caps.c): since when, by the records' clocks. */
	int64_t former;
	uint64_t ending_us;
	uint32_t pending;
	struct books_used spent;
};

struct books_account {
	int64_t balance; /* topups + adjustments - charged */
	int64_t held;    /* sum of its open holds */
	int64_t overdraft;
	int64_t charged, topups, adjustments;
	int64_t uncollected; /* used, but above what its holds could pay: never charged */
	/* Debits by adjustments and lowered overdrafts that the admin process may not have applied
	 * in shared memory yet: a reserve that was granted there before them is no contradiction. */
	int64_t slack;
	/* What of it is applied by now: it lasts a while longer, for records that were granted
	 * before and are still on their way (books_check.c).  When that began, by their clocks. */
	int64_t ending;
	uint64_t ending_us;
	struct books_budget budget[BUDGETS];
	uint64_t id_at; /* books.c */
	uint32_t requests_per_minute, tokens_per_minute, concurrent_streams;
	uint8_t id_len;
	uint8_t flags; /* ACCOUNT_CLOSED, ACCOUNT_FROZEN */
	bool changed;
};

/* A hold slot: what its last operation left. */
struct books_hold {
	uint64_t op;    /* the last one in the journal */
	int64_t amount; /* open: what is held */
	int64_t slack;  /* its part in the account's */
	uint64_t key_id; /* under whose cap it is, or 0 */
	uint64_t opened_us;
	/* The last answer, given to records that were not stored too (refused, repeated). */
	uint64_t answered_op;
	int64_t answered_value;
	uint32_t account, price, prompt;
	uint32_t mark; /* completion tokens at the last mark */
	uint32_t mark_reasoning; /* of them */
	uint8_t type; /* of op; a mark that carries an earlier record's op leaves that record's */
	uint8_t answered_status;
	uint8_t answered_type; /* 0: not known any more */
	uint16_t window;       /* of its key's cap */
	uint16_t budget_window[BUDGETS];
	uint8_t budgets;     /* a bit for each that it is under */
	uint8_t budgets_set; /* those that its last operation changed: books_budget.pending */
	bool open;
	bool changed;
};

struct books_key {
	uint8_t hash[32];
	uint64_t key_id, expires_us, created_us;
	uint32_t account, scopes;
	uint32_t flags; /* KEY_REVOKED */
	uint32_t sighted; /* accounts that were made for its users */
	int64_t cap;
	uint32_t per; /* enum key_per */
	uint32_t requests_per_minute, tokens_per_minute, concurrent_streams; /* 0: no limit */
	struct books_used spent;
	uint32_t label_len, models_len; /* the label, then the models: struct journal_key */
	uint64_t text_at; /* books.c */
	bool changed;
};

/* Refs, and keys of requests, are known for so long; after that they are as if never used. */
#define BOOKS_REF_KEPT_US (UINT64_C(24) * 3600 * 1000000)

struct books_ref {
	uint8_t id[16];   /* of account and ref (or endpoint and key): half a SHA-256 */
	uint8_t body[16]; /* of a key's request */
	uint64_t sequence, time_us;
	int64_t amount, balance; /* balance: the answer that it got; of a key: what was available */
};

struct books_price {
	struct price price;
	uint64_t model_at; /* books.c */
	uint32_t model_len;
};

/* What an operator set of a model's prices, over the config; PRICE_UNSET for the rest. */
struct books_price_set {
	struct price price;
	uint64_t model_at; /* books.c */
	uint32_t model_len;
};

struct books *books_new(void) __attribute__((warn_unused_result));
void books_free(struct books *);

/* Which types a producer may send: only the admin process makes money, accounts and keys.  (What
 * a SIGHT makes is the keeper's to say.) */
#define BOOKS_TYPE(type) (1u << (type))
#define BOOKS_FROM_WORKER                                                                         \
	(BOOKS_TYPE(JOURNAL_RESERVE) | BOOKS_TYPE(JOURNAL_EXTEND) | BOOKS_TYPE(JOURNAL_MARK) |    \
	    BOOKS_TYPE(JOURNAL_SETTLE) | BOOKS_TYPE(JOURNAL_VOID) | BOOKS_TYPE(JOURNAL_SYNC) |     \
	    BOOKS_TYPE(JOURNAL_ASK) | BOOKS_TYPE(JOURNAL_SIGHT) | BOOKS_TYPE(JOURNAL_FORGET))
#define BOOKS_FROM_ADMIN                                                                          \
	(BOOKS_TYPE(JOURNAL_TOPUP) | BOOKS_TYPE(JOURNAL_ADJUST) | BOOKS_TYPE(JOURNAL_ACCOUNT) |   \
	    BOOKS_TYPE(JOURNAL_KEY) | BOOKS_TYPE(JOURNAL_KEY_REVOKE) | BOOKS_TYPE(JOURNAL_SYNC) | \
	    BOOKS_TYPE(JOURNAL_ACCOUNT_SET) | BOOKS_TYPE(JOURNAL_COMPACT) |                       \
	    BOOKS_TYPE(JOURNAL_PRICE_SET))
/* Beside these, in the ring of a process that is being reaped. */
#define BOOKS_FROM_REAPER BOOKS_TYPE(JOURNAL_GONE)
#define BOOKS_FROM_JOURNAL (~0u)

struct books_input {
	const struct journal_record *record;
	const void *payload;              /* record->payload_len bytes */
	unsigned types;                   /* BOOKS_FROM_... */
	uint32_t slot_first, slot_count;  /* hold slots of the producer */
};

struct books_verdict {
	enum ring_status status;
	bool store;              /* it goes to the journal and through books_apply */
	int64_t value;           /* ring_entry.value; ACCOUNT, SIGHT: the number to store it with */
	uint64_t first;          /* ring_entry.first */
	const char *contradicts; /* RING_REFUSED: what; a constant text */
	uint32_t freeze;         /* RING_REFUSED: the account whose books it contradicts, or NONE */
};

/* Does a record of this type belong to a hold slot's sequence? */
bool books_has_slot(uint8_t type);
/* Is it a new operation of one of the sender's slots? */
bool books_next(const struct books *, const struct books_input *);
/* Judge a record; changes nothing. */
void books_check(const struct books *, const struct books_input *, struct books_verdict *);
/*
 * Enter a record under its sequence.  -1 if it can't be entered at all (a damaged journal);
 * records that passed books_check always can.
 */
int books_apply(struct books *, const struct journal_record *, const void *payload,
    uint64_t sequence) __attribute__((warn_unused_result));
/* Remember the answer to a record that was not stored, so that its repetition gets it too. */
void books_answer(struct books *, uint32_t slot, uint64_t op, uint8_t type, enum ring_status,
    int64_t value);
/*
 * The record that ends an open hold at its last mark: when its own end was refused, or after a
 * power cut.  op is the caller's.
 */
void books_end_record(const struct books *, uint32_t slot, uint64_t op, uint64_t time_us,
    struct journal_record *, struct journal_split *payload);

/* Looking at them.  Numbers, slots, indices and ids beyond the end give NULL. */
uint32_t books_accounts(const struct books *);
uint32_t books_frozen(const struct books *); /* how many of them are frozen */
const struct books_account *books_account(const struct books *, uint32_t number);
const char *books_account_id(const struct books *, uint32_t number, size_t *len);
/* The number of that id, or JOURNAL_NONE. */
uint32_t books_account_find(const struct books *, const char *id, size_t len);
uint32_t books_slots(const struct books *);
const struct books_hold *books_hold(const struct books *, uint32_t slot);
uint32_t books_keys(const struct books *);
const struct books_key *books_key(const struct books *, uint32_t index);
/* Its label; its models stand right after it. */
const char *books_key_text(const struct books *, const struct books_key *);
/* One name after the other from struct journal_key's list of models; false at its end. */
struct books_models {
	const char *at, *end;
};
bool books_models_next(struct books_models *, const char **name, size_t *len);
/* Of a SIGHT: the key, or JOURNAL_NONE; *id and *len of its account are set if it is one. */
uint32_t books_sight_of(const struct books *, const struct journal_record *, const void *payload,
    const char **id, size_t *len);
/* Index of the key of that id, or JOURNAL_NONE. */
uint32_t books_key_find(const struct books *, uint64_t key_id);
/* Does the record make a ref, once it is entered? */
bool books_makes_ref(const struct journal_record *, const void *payload);
/* The oldest are first, but for a moment's disorder. */
uint32_t books_refs(const struct books *);
/* Without those that are forgotten, which may lie in the table until they are many. */
uint32_t books_refs_kept(const struct books *);
/* How many of the first ones, at most max, are over at that time and were not forgotten yet. */
uint32_t books_refs_over(const struct books *, uint64_t now_us, uint32_t max, uint32_t *from);
/* Forget so many of them; all that was made must have been projected. */
void books_refs_forget(struct books *, uint32_t n);
/* After loading rows in another order. */
void books_refs_sort(struct books *);
const struct books_ref *books_ref(const struct books *, uint32_t index);
uint32_t books_prices(const struct books *);
const struct books_price *books_price(const struct books *, uint32_t price_id);
const char *books_price_model(const struct books *, const struct books_price *);
/* The price id of exactly this model and price, or JOURNAL_NONE. */
uint32_t books_price_find(const struct books *, const char *model, size_t len,
    const struct price *);
uint32_t books_price_sets(const struct books *);
const struct books_price_set *books_price_set(const struct books *, uint32_t index);
const char *books_price_set_model(const struct books *, const struct books_price_set *);
/* What is set of a model's prices: all PRICE_UNSET if nothing is. */
struct price books_price_over(const struct books *, const char *model, size_t len);
/* An ACCOUNT_SET's payload; false if it is not well-formed. */
bool books_set_of(const struct journal_record *, const void *payload,
    struct journal_account_set *, struct journal_budgets *);
/* An ACCOUNT's payload, with where its id is; false if it is not well-formed. */
bool books_account_of(const struct journal_record *, const void *payload,
    struct journal_account *, struct journal_budgets *, const char **id);
/* A PRICE's payload, of either version; false if it is not well-formed. */
bool books_price_of(const struct journal_record *, const void *payload, struct price *,
    const char **model, size_t *model_len);
/*
 * What the payload of an EXTEND, MARK or SETTLE begins with, none of it in most; false if it is not
 * well-formed.
 */
bool books_split_of(
    const struct journal_record *, const void *payload, struct journal_split *);
/* What a SETTLE's or VOID's of JOURNAL_VERSION_TOLD begins with, and the provider's name; false if it is
 * not well-formed. */
bool books_end_of(const struct journal_record *, const void *payload, struct journal_end *,
    const char **provider);
/* A PRICE_SET's payload, and the model's name in it; false if it is not well-formed. */
bool books_price_set_of(const struct journal_record *, const void *payload,
    struct journal_price_set *, const char **model);
/* What `over` becomes by it. */
void books_price_change(struct price *over, const struct journal_price_set *, int64_t value);

/* Filling them from rows instead of records; -1 if a row does not fit in. */
int books_load_account(struct books *, uint32_t number, const struct books_account *,
    const char *id, size_t id_len) __attribute__((warn_unused_result));
int books_load_hold(struct books *, uint32_t slot, const struct books_hold *)
    __attribute__((warn_unused_result));
int books_load_key(struct books *, const struct books_key *, const char *label)
    __attribute__((warn_unused_result));
int books_load_ref(struct books *, const struct books_ref *) __attribute__((warn_unused_result));
int books_load_price(struct books *, uint32_t price_id, const struct price *, const char *model,
    size_t model_len) __attribute__((warn_unused_result));
int books_load_price_set(struct books *, uint32_t index, const struct price *, const char *model,
    size_t model_len) __attribute__((warn_unused_result));

/* What books_apply changed since books_changes_clear: the rows to project. */
struct books_changes {
	const uint32_t *account, *slot, *key;
	size_t accounts, slots, keys;
	uint32_t refs_from, prices_from; /* these and all after them */
	bool price_sets;                 /* all of them: they are few */
};
void books_changes(const struct books *, struct books_changes *);
/*
 * Some of them are dealt with: so many of the last accounts, slots and keys; refs and prices before
 * these; all price sets.
 */
void books_changes_taken(struct books *, const struct books_changes *);
void books_changes_clear(struct books *);
/* All rows are to be projected: the books are of a checkpoint. */
void books_changes_all(struct books *);

#endif
