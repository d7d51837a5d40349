#ifndef DAEMON_BOOKS_PRIVATE_H
#define DAEMON_BOOKS_PRIVATE_H

/* What the files of daemon/books.h share: the tables behind daemon/books.h. */
#include "daemon/books.h"

/* A growing array. */
struct table {
	void *data;
	size_t count, cap;
};

/* Open addressing: hash bits << 32 | index + 1, 0 for none; at most half full. */
struct lookup {
	uint64_t *entry;
	size_t mask, used;
};

struct books {
	struct table accounts, holds, keys, refs, prices, price_sets; /* struct books_... */
	struct table text;                                /* ids, labels, models: bytes */
	struct lookup by_id, by_key_id, by_key_hash, by_ref;
	struct table changed_accounts, changed_slots, changed_keys; /* uint32_t */
	uint32_t refs_from, prices_from;
	bool price_sets_changed;
	uint32_t refs_over; /* the first ones, over and forgotten by those who keep rows */
	uint32_t frozen; /* accounts */
};

/* Room for more rows at a table's end; not counted yet. */
void *books_room(struct table *, size_t more, size_t size);
void books_add_u32(struct table *, uint32_t value);
uint64_t books_hash(const void *, size_t len);
void books_lookup_add(struct lookup *, uint64_t hash, uint32_t index);
/* Walk the entries of a hash: start with *at = SIZE_MAX; JOURNAL_NONE after the last. */
uint32_t books_lookup_next(const struct lookup *, uint64_t hash, size_t *at);
void books_add_ref(struct books *, const struct books_ref *);
/* A slot's entry, made if need be; NULL if there can be no such slot. */
struct books_hold *books_slot(struct books *, uint32_t slot);
/* The id under which an account's ref is kept. */
void books_ref_id(uint32_t account, const void *ref, size_t len, uint8_t id[static 16]);
/* As it is known to a record of that time. */
const struct books_ref *books_ref_find(const struct books *, const uint8_t id[static 16],
    uint64_t time_us);
/* A RESERVE's or ASK's key, and its id; false if it has none or is not well-formed. */
bool books_keyed_of(const struct journal_record *, const void *payload, struct journal_keyed *,
    uint8_t id[static 16]);
bool books_key_hash_taken(const struct books *, const uint8_t hash[static 32]);
/* A TOPUP's or ADJUST's ref inside its payload; false if the payload is not well-formed. */
bool books_ref_of(const struct journal_record *, const void *payload, const void **ref,
    size_t *len);
/* What may still be reserved, by the books. */
int64_t books_available(const struct books_account *);

/* books_apply.c */
void books_key_changed(struct books *, uint32_t index);

/* books_caps.c */
/* Why a record cannot be under the cap and the budgets that it names, or its hold is under; or
 * NULL. */
const char *books_caps_reserve(const struct books *, const struct books_account *,
    const struct journal_record *);
const char *books_caps_extend(const struct books *, const struct books_hold *,
    const struct journal_record *);
/* Which ones a reserve's hold is under, in which windows; -1: there are none such. */
int books_caps_open(struct books *, struct books_hold *, const struct journal_record *);
/* Its hold uses so much more of them, or less; -1: there is no such key. */
int books_caps_use(struct books *, struct books_account *, const struct books_hold *,
    int64_t amount);
bool books_budgets_ok(const struct journal_budgets *, uint32_t what); /* JOURNAL_SET_... */
void books_budgets_set(struct books_account *, struct books_hold *,
    const struct journal_budgets *, uint32_t what, uint64_t time_us);
/* What this slot's last operation set of its account's is in memory now. */
void books_budgets_shown(struct books_account *, struct books_hold *, uint64_t time_us);

/* books_check.c */
bool books_slack_ended(const struct books_account *, uint64_t time_us);

#endif
