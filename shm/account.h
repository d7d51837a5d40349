#ifndef SHM_ACCOUNT_H
#define SHM_ACCOUNT_H

/*
 * Accounts in shared memory: an append-only array and an index of 8-byte entries over it.
 * Only the keeper inserts and writes the books; workers, admin and master change `word`, each
 * by one 16-byte compare-and-swap (shm/ledger.c).
 */
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shm/limit.h"
#include "shm/region.h"

#define ACCOUNT_ID_MAX 64

#define ACCOUNT_CLOSED 1u /* refuses reserves; open streams finish */
#define ACCOUNT_FROZEN 2u /* its books were contradicted: refuses everything */

/* What the keeper's books say at one commit: balance - held >= -overdraft. */
struct account_books {
	int64_t balance;
	int64_t held;
	int64_t overdraft;
};

struct account_word {
	_Alignas(16) int64_t available; /* balance - held + overdraft, never below 0 by us */
	uint64_t tag; /* the last operation: hold slot + 1 and its sequence */
};

/* Of an account or a key (shm/seat.h). */
struct seats {
	_Alignas(16) uint64_t taken; /* open holds */
	uint64_t tag;                /* the last operation: hold slot + 1, its sequence */
};

/* For how long a key's cap or an account's budget is. */
enum key_per { KEY_PER_NONE, KEY_PER_DAY, KEY_PER_MONTH, KEY_PER_TOTAL, KEY_PERS };

#define PURSE_MAX INT64_C(100000000000000) /* no cap is above it, in micro-credits */

/* What a key may spend, or an account in a day or month (shm/purse.h). */
struct purse { /* 48 bytes */
	_Alignas(16) struct account_word word[2]; /* by the window's number: workers, 16-byte CAS */
	int64_t cap;  /* micro-credits; of a budget, 0: there is none (keeper, atomic) */
	uint32_t per; /* of a key: enum key_per; KEY_PER_NONE: there is no cap */
};
_Static_assert(sizeof(struct purse) == 48, "purse");

/* An account's budgets: its purses, by index.  enum key_per of one is KEY_PER_DAY + that. */
#define BUDGET_DAY 0
#define BUDGET_MONTH 1
#define BUDGETS 2

/*
 *   0    word        {available, tag}: any process, 16-byte CAS
 *   16   flags       keeper (atomic)
 *   20   limits      keeper (atomic)
 *   32   number, id_len
 *   40   questions   on WebSockets; any process (shm/limit.h)
 *   64   books_gen   keeper: copy books[gen & 1] is valid; a killed writer blocks nobody
 *   72   books[2]
 *   128  id
 *   192  seats, requests, tokens   any process (shm/seat.h, shm/limit.h)
 *   224  budget[2]   the day's and the month's: workers; `cap` keeper (shm/purse.h)
 */
struct account { /* 320 bytes, five lines */
	_Alignas(64) struct account_word word;
	_Atomic uint32_t flags;
	_Atomic uint32_t requests_per_minute, tokens_per_minute, concurrent_streams;
	uint32_t number;
	uint32_t id_len;
	struct limit questions;
	_Alignas(64) _Atomic uint64_t books_gen;
	struct account_books books[2];
	_Alignas(64) char id[ACCOUNT_ID_MAX];
	_Alignas(64) struct seats seats;
	struct limit requests, tokens;
	struct purse budget[BUDGETS]; /* `per` means nothing */
};
_Static_assert(sizeof(struct account) == 320, "account");

/* Is this a well-formed id?  [A-Za-z0-9._:@-]{1,64} */
bool account_id_ok(const char *id, size_t len);

struct account *account_at(const struct region *, uint32_t number);
/* Any process: the account of that id, or NULL. */
struct account *account_find(const struct region *, const char *id, size_t len);
/*
 * Keeper: append an account whose number is the present count, with these books, and publish
 * it.  NULL with errno ENOSPC when the table is full or EEXIST.
 */
struct account *account_insert(struct region *, const char *id, size_t len,
    const struct account_books *, int64_t available);
/* Keeper: publish new books. */
void account_publish(struct account *, const struct account_books *);
/* Any process: one consistent copy of the books; everything acknowledged is in it. */
void account_books(const struct account *, struct account_books *);
/* Any process: what may still be reserved at this instant. */
int64_t account_available(const struct account *);

/* Keys: same pattern.  Looked up by HMAC, compared in constant time. */
#define KEY_REVOKED 1u

/* What a key may be used for; never changes. */
#define KEY_SCOPE_CHAT 1u
#define KEY_SCOPE_EMBEDDINGS 2u
#define KEY_SCOPE_MINT 4u /* make keys that are no wider than itself */
#define KEY_SCOPES 7u
/* Beside them in `scopes`. */
#define KEY_MINT_OTHERS 0x10000u /* with KEY_SCOPE_MINT: for any account */
#define KEY_TRUST_USER 0x20000u  /* whom it names in a header is charged (daemon/sight.h) */

#define KEY_MODELS_MAX 16

/*
 *   0    hash, key_id, expires_us, account
 *   52   flags       keeper (atomic)
 *   56   scopes, models
 *   64   model[]     key_model of each name
 *   192  purse       workers
 *   240  seats, requests, tokens   workers (shm/seat.h, shm/limit.h)
 *   272  its own limits, beside its account's; 0: none
 */
struct key_entry { /* 320 bytes */
	_Alignas(64) uint8_t hash[32];
	uint64_t key_id;
	uint64_t expires_us; /* CLOCK_REALTIME; 0: never */
	uint32_t account;
	_Atomic uint32_t flags; /* keeper */
	uint32_t scopes;        /* KEY_SCOPE_... */
	uint32_t models;        /* 0: it may use every model */
	_Alignas(64) uint64_t model[KEY_MODELS_MAX];
	struct purse purse;
	struct seats seats; /* counted only if it has a limit, which never changes */
	struct limit requests, tokens;
	uint32_t requests_per_minute, tokens_per_minute, concurrent_streams;
};
_Static_assert(sizeof(struct key_entry) == 320, "key");

/* What stands for a model's name in key_entry.  (Names are the operator's, not the client's.) */
uint64_t key_model(const char *name, size_t len);

/* The key of that id, by the first bytes of its hash; NULL if it is not there. */
struct key_entry *key_find_id(const struct region *, uint64_t hash, uint64_t key_id);
struct key_entry *key_at(const struct region *, uint32_t index);
uint32_t key_number(const struct region *, const struct key_entry *);
struct key_entry *key_find(const struct region *, const uint8_t hash[static 32]);
/* Keeper; NULL with errno ENOSPC or EEXIST. */
struct key_entry *key_insert(struct region *, const struct key_entry *);

#endif
