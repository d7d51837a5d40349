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
/* The key whose cap a reserve names, or NULL; *window is the one that it is in. */
const struct books_key *books_capped_by(const struct books *, const struct journal_record *,
    uint16_t *window);
/* What is used of a key's cap in a window; false if one after it has taken its place. */
bool books_key_used(const struct books_key *, uint16_t window, int64_t *used);
/* Use so much more of it, or less; -1: there is no such key. */
int books_key_use(struct books *, uint64_t key_id, uint16_t window, int64_t amount);
bool books_key_hash_taken(const struct books *, const uint8_t hash[static 32]);
/* A TOPUP's or ADJUST's ref inside its payload; false if the payload is not well-formed. */
bool books_ref_of(const struct journal_record *, const void *payload, const void **ref,
    size_t *len);
/* An ACCOUNT_SET's payload; false if it is not well-formed. */
bool books_set_of(const struct journal_record *, const void *payload,
    struct journal_account_set *);

/* What may still be reserved, by the books. */
int64_t books_available(const struct books_account *);

/* books_check.c */
bool books_slack_ended(const struct books_account *, uint64_t time_us);

#endif
