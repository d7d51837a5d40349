#ifndef DAEMON_BOOKS_ROWS_H
#define DAEMON_BOOKS_ROWS_H

/*
 * The books as rows: what stands in state.mdb (daemon/state_rows.h) and in a checkpoint of the
 * journal (daemon/checkpoint.h).  Rows are of fixed size, then text of the length that they say.
 *
 *   accounts  number (32 bits)     -> struct account_row, id
 *   prices    price id (32 bits)   -> struct price, model
 *   price_sets  index (32 bits)    -> struct price, model: what an operator set
 *   holds     slot (32 bits)       -> struct hold_row
 *   keys      key id (64 bits)     -> struct key_row, label, models
 *   refs      16 bytes             -> struct ref_row
 *
 * state.mdb is rebuilt when a row changes (STATE_FORMAT).  A checkpoint cannot be: the records
 * that it was made of are gone.  So a changed row bumps CHECKPOINT_FORMAT too, and needs a way to
 * read the former one.  Pure over memory.
 */
#include <stddef.h>
#include <stdint.h>

#include "daemon/books.h"

/* In the order in which they are loaded: the later ones refer to the first two. */
enum books_table {
	ROWS_ACCOUNTS,
	ROWS_PRICES,
	ROWS_HOLDS,
	ROWS_KEYS,
	ROWS_REFS,
	ROWS_PRICE_SETS,
	ROWS_TABLES
};

struct account_row {
	int64_t balance, held, overdraft, charged, topups, adjustments, uncollected, slack, ending;
	uint64_t ending_us;
	uint32_t requests_per_minute, tokens_per_minute, concurrent_streams;
	uint32_t flags; /* ACCOUNT_... */
	uint32_t id_len, pad;
	/* To here: up to CHECKPOINT_FORMAT 4. */
	struct budget_row {
		int64_t cap, former, used[2];
		uint64_t ending_us;
		uint16_t window[2];
		uint32_t pending;
	} budget[BUDGETS];
};
#define ACCOUNT_ROW_1 104

struct hold_row {
	uint64_t op;
	int64_t amount, slack;
	uint64_t opened_us;
	uint32_t account, price, prompt, mark, open;
	uint32_t type; /* of op */
	/* To here: CHECKPOINT_FORMAT 1. */
	uint64_t key_id; /* under whose cap it is, or 0 */
	uint32_t window;
	uint32_t mark_reasoning; /* 0 before CHECKPOINT_FORMAT 3 */
	/* To here: CHECKPOINT_FORMAT 2 to 4. */
	uint16_t budget_window[BUDGETS];
	uint8_t budgets, budgets_set, pad[2];
};
#define HOLD_ROW_1 56
#define HOLD_ROW_2 72

struct key_row {
	uint8_t hash[32];
	uint64_t key_id, expires_us, created_us;
	uint32_t account, scopes, flags, label_len;
	/* To here: CHECKPOINT_FORMAT 1.  A row that ends with its label there is one of those. */
	int64_t cap;
	uint32_t per, models_len;
	int64_t used[2];
	uint16_t window[2];
	uint32_t sighted; /* 0 where it was padding */
	/* To here: CHECKPOINT_FORMAT 2 and 3. */
	uint32_t requests_per_minute, tokens_per_minute, concurrent_streams, pad3;
};
#define KEY_ROW_1 72
#define KEY_ROW_2 112

struct ref_row {
	uint8_t body[16];
	uint64_t sequence, time_us;
	int64_t amount, balance;
};

/* A row that was made; its text lies in the books. */
struct books_row {
	unsigned char key[16];
	size_t key_len;
	union {
		struct account_row account;
		struct hold_row hold;
		struct key_row key;
		struct ref_row ref;
		struct price price;
	} fixed;
	size_t fixed_len;
	const char *text;
	size_t text_len;
};

/* How many rows a table has.  Accounts, slots, indices of keys and refs, price ids: 0, 1, ... */
uint32_t books_rows(const struct books *, enum books_table);
void books_row_make(const struct books *, enum books_table, uint32_t index, struct books_row *);
/* Enter a row; -1 if it is malformed or does not fit in. */
int books_row_load(struct books *, enum books_table, const void *key, size_t key_len,
    const void *value, size_t len) __attribute__((warn_unused_result));
/* The same for a row as checkpoints before CHECKPOINT_SIX_PRICES have it. */
int books_row_load_former(struct books *, enum books_table, const void *key, size_t key_len,
    const void *value, size_t len) __attribute__((warn_unused_result));

#endif
