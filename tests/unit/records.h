#ifndef TESTS_UNIT_RECORDS_H
#define TESTS_UNIT_RECORDS_H

/* Journal records for tests, one maker per type, and a temporary state_dir. */
#include <stddef.h>
#include <stdint.h>

#include "daemon/books.h"
#include "daemon/journal.h"
#include "shm/journal_record.h"
#include "shm/money.h"

struct rec {
	struct journal_record r;
	char payload[256];
};

/* 1.5, 0.5 and 3 micro-credits a token. */
extern const struct price rec_price;

struct rec rec_account(uint32_t number, const char *id, int64_t overdraft);
/* what: JOURNAL_SET_...; an overdraft of `overdraft`, `change` more than before; limits 7, 8, 9. */
struct rec rec_set(uint32_t slot, uint64_t op, uint32_t account, uint32_t what, int64_t change,
    int64_t overdraft);
/* JOURNAL_SET_DAY, _MONTH, with these budgets. */
struct rec rec_budgets(uint32_t slot, uint64_t op, uint32_t account, uint32_t what, int64_t day,
    int64_t month);
/* The same RESERVE, under budgets (a bit for each), in the windows of its time. */
struct rec rec_under(struct rec, unsigned budgets);
struct rec rec_freeze(uint32_t account);
struct rec rec_key(uint32_t account, uint64_t key_id, const char *label);
/* As a worker sends it; the key is trusted if it was made by rec_trusted_key. */
struct rec rec_sight(uint64_t key_id, const char *id);
struct rec rec_trusted_key(uint32_t account, uint64_t key_id);
struct rec rec_revoke(uint64_t key_id);
struct rec rec_price_of(uint32_t price_id, const char *model, const struct price *);
struct rec rec_credit(enum journal_type, uint32_t slot, uint64_t op, uint32_t account,
    int64_t amount, const char *ref);
/* The stream's id is 16 times the byte `stream` but for the last 4 bytes, which are the op. */
struct rec rec_reserve(uint32_t slot, uint64_t op, uint32_t account, int64_t amount,
    uint32_t prompt, uint8_t stream);
/* With an Idempotency-Key, 16 times the byte `key`, and a body likewise. */
struct rec rec_keyed(uint32_t slot, uint64_t op, uint32_t account, int64_t amount, uint8_t key,
    uint8_t body);
struct rec rec_ask(uint32_t account, uint8_t key, uint8_t body);
struct rec rec_extend(uint32_t slot, uint64_t op, uint32_t account, int64_t amount, int64_t total,
    uint32_t completion, const char *text);
struct rec rec_mark(uint32_t slot, uint64_t op, uint32_t account, uint32_t completion,
    const char *text);
struct rec rec_settle(uint32_t slot, uint64_t op, uint32_t account, uint32_t prompt,
    uint32_t completion, const char *text);
/* The same EXTEND, MARK or SETTLE with so many tokens of these kinds. */
struct rec rec_kinds(struct rec, uint32_t reasoning, uint32_t cache_write);
/* The same SETTLE or VOID, saying how the stream went. */
struct rec rec_told(struct rec, const struct journal_end *, const char *provider);
struct rec rec_price_set(const char *model, unsigned kind, int64_t value);
struct rec rec_void(uint32_t slot, uint64_t op, uint32_t account);
void rec_stream_id(uint8_t stream, uint64_t op, uint8_t id[static 16]);

/* Judge; enter under the next sequence if it is to be stored. */
struct books_verdict rec_enter(struct books *, struct rec *, uint64_t *sequence);
/* The same, and stage it in a journal. */
void rec_journal(struct journal *, struct books *, struct rec *);

/*
 * The next of an endless row of valid random records on `accounts` accounts and `slots` slots;
 * the books, in which it is not entered yet, say what is valid.  0 if it found none this time.
 */
int rec_random(const struct books *, unsigned int *seed, uint32_t accounts, uint32_t slots,
    struct rec *);

/* A new directory on tmpfs if there is one; removed with all in it by dir_remove. */
char *dir_new(void);
void dir_remove(char *);

#endif
