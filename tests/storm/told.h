#ifndef TESTS_STORM_TOLD_H
#define TESTS_STORM_TOLD_H

/*
 * What the outside world knows: memory that no kill takes away.  The players write down what they
 * are about to do and what was acknowledged to them; examine.c compares that with the journal.
 */
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "daemon/heritage.h"
#include "shm/account.h"
#include "shm/money.h"
#include "shm/region.h"

#define STORM_WORKERS 3
#define STORM_ACCOUNTS 12     /* open at a time */
#define STORM_ACCOUNTS_MAX 60 /* with those that were closed */
#define STORM_KEYS_MAX 1024
#define STORM_SETTINGS_MAX (1u << 19)
#define STORM_STREAMS_MAX (1u << 21)
#define STORM_ONCE_MAX (1u << 19)
#define STORM_CREDITS_MAX (1u << 20)
#define STORM_SLOTS_MAX 1024
#define STORM_PROMPT 10
#define STORM_PRICES_MAX 256 /* in the journal; few that differ are ever set */
#define STORM_OVERDRAFT 300

/* Every fourth account gets adjustments below zero and lower overdrafts: they may cross its floor. */
#define STORM_ADJUSTED(account) ((account) % 4 == 3)

/* Every third account has budgets from its beginning, which stay; every third one's are changed. */
#define STORM_BUDGETED(account) ((account) % 3 == 0)
#define STORM_REBUDGETED(account) ((account) % 3 == 1)
/* Now the day's is the tighter one, now the month's. */
#define STORM_BUDGET(account, which) ((account) % 2 == (which) ? 300000 : 400000)

/* A stream.  Its number stands in its id.  Written by the worker that has it. */
struct told_stream {
	uint32_t account;
	uint32_t boot;                 /* told.boots when it began */
	struct price price;            /* of its reserve */
	_Atomic uint32_t meter_before; /* the meter is at most this */
	_Atomic uint32_t meter_after;  /* and at least this */
	_Atomic uint32_t marked;       /* said by a record that is durable */
	_Atomic uint32_t usage;        /* settled for so many tokens */
	_Atomic int64_t extended;      /* acknowledged extends together */
	_Atomic int64_t charge;        /* as acknowledged */
	_Atomic uint8_t reserved, ended; /* acknowledged */
	/* What the journal says (examine.c). */
	uint8_t j_reserved, j_ended, j_type, j_outcome, j_proc;
	uint32_t j_mark, j_completion;
	int64_t j_amount, j_first, j_charge, j_uncollected;
	uint32_t j_key; /* under whose cap, + 1 */
	uint16_t j_key_window;
	uint8_t j_budgets; /* a bit for each that it is under */
	uint16_t j_window[BUDGETS];
	uint64_t j_turn; /* of the history: its reserve's sequence; 0: it is in none */
};

/* Every other stream is a turn of a session, with its number as what was said. */
#define STORM_SESSIONS 8 /* of an account */
#define STORM_SAID 12
static inline bool
storm_talks(uint32_t number)
{
	return number % 2 == 0;
}

/* A key of repeated reserves (Idempotency-Key); by its number. */
struct told_once {
	uint32_t account;
	_Atomic uint8_t made;         /* account is set */
	_Atomic uint8_t granted;      /* acknowledged: it has a hold */
	_Atomic uint64_t claimant;    /* who reserves with it just now, and in which life */
	_Atomic uint64_t repeated_of; /* told to a repetition: the first one's sequence */
	uint32_t j_times;
	uint64_t j_sequence;
};

/* A top-up or adjustment. */
struct told_credit {
	uint32_t account;
	int64_t amount;
	uint32_t ref;           /* number of the first credit with that ref, + 1; 0: no ref */
	_Atomic uint8_t status; /* acknowledged; 0: not */
	_Atomic int64_t value;  /* as acknowledged */
	uint32_t j_times;
	uint32_t j_ref_times; /* of the ref that this one began */
	int64_t j_value;      /* the account's balance after it */
	int64_t j_ref_value;
};

/* An account; by its number. */
struct told_account {
	_Atomic uint8_t closing, closed; /* asked for, acknowledged */
	uint8_t j_closed;
	int64_t j_overdraft; /* less STORM_OVERDRAFT */
	/* Held and charged under its budgets, in the window and the one before. */
	struct {
		uint16_t window[2];
		int64_t spent[2];
	} j_budget[BUDGETS];
};

/* What an operator set. */
struct told_setting {
	uint32_t account, what; /* JOURNAL_SET_... */
	int64_t change;
	_Atomic uint8_t status; /* acknowledged; 0: not */
	uint32_t j_times;
};

struct told_key {
	uint32_t account;
	_Atomic uint8_t made, revoked; /* acknowledged: enum ring_status; yes or no */
	uint8_t j_made, j_revoked;
	int64_t cap; /* 0: none */
	uint32_t per; /* enum key_per */
	uint16_t j_window[2];
	int64_t j_used[2];
};

enum kill_kind {
	KILL_WORKER,
	KILL_ADMIN,
	KILL_KEEPER,
	KILL_KEEPER_RECOVERY, /* before it had loaded, or while a former daemon was reaped */
	KILL_WHILE_REAPING,   /* of the above: somebody's holds were being finished */
	KILL_MASTER,          /* its children go with it */
	KILL_ALL,             /* at once */
	KILL_MASTER_RECOVERY, /* of the last two: before it served */
	KILL_REBOOT,          /* all, and the region is gone */
	KILL_LEAVING,         /* a worker or keeper that another one takes the place of */
	KILL_AT_POINT,        /* the master, by itself (-DTOLLD_FAULTS) */
	KILL_KINDS
};

enum op_kind {
	OP_RESERVE,
	OP_SHORT,
	OP_CAPPED,
	OP_BUDGET,
	OP_EXTEND,
	OP_OVERDRAW,
	OP_METER,
	OP_MARK,
	OP_SETTLE,
	OP_VOID,
	OP_TOPUP,
	OP_REPEATED,
	OP_ADJUST,
	OP_SYNC,
	OP_COMPACT,
	OP_SETTING,
	OP_REBUDGET,
	OP_CLOSED,
	OP_KEY,
	OP_REVOKE,
	OP_PRICE,
	OP_TABLE_FULL,
	OP_LETTER,
	OP_BY_MAIL,
	OP_ONCE,
	OP_ONCE_AGAIN,
	OP_ONCE_WAITED,
	OP_ONCE_ASKED,
	OP_KINDS
};

/* How the disk failed a keeper (disk.c). */
enum disk_kind { DISK_FULL, DISK_ERROR, DISK_PART, DISK_FLUSH, DISK_SLOW, DISK_KINDS };

enum storm_phase { STORM_LOAD, STORM_RECOVER, STORM_SERVE, STORM_END };

struct told {
	uint64_t seed;
	bool kills_wanted;
	bool last; /* the last daemon is to be examined: nobody is killed at a point */
	_Atomic uint32_t life;  /* daemons so far */
	_Atomic uint32_t boots; /* regions thrown away in a crash */
	_Atomic uint32_t quiesce;
	_Atomic uint32_t phase;   /* of the present daemon */
	_Atomic uint32_t adopted; /* there is a region that must be found again */
	_Atomic uint32_t reaping; /* it is finishing a dead process's holds */
	_Atomic uint32_t leaving[PROC_WORKER + 2 * STORM_WORKERS]; /* generation that is to leave */
	_Atomic uint64_t replaced, renewed; /* workers and keepers, by a successor */
	_Atomic uint64_t ahead_us, midnights; /* clock.c */
	/* Keys of before, and refs, may be forgotten by now. */
	_Atomic uint32_t onces_from, credits_from;
	_Atomic uint32_t failed;
	char difference[512];
	_Atomic uint64_t kills[KILL_KINDS], ops[OP_KINDS], disk[DISK_KINDS], looks, rests, spawned;
	_Atomic uint32_t streams, credits, settings, keys, onces, accounts; /* numbers given out */
	_Atomic uint32_t active[STORM_ACCOUNTS]; /* accounts that are used now */
	/* examine.c's own. */
	uint64_t walked; /* journal records that were entered below */
	_Atomic uint64_t walked_us; /* those of before that time: they may be compacted */
	_Atomic uint64_t compacted; /* checkpoints that were seen at rest */
	uint64_t base;              /* the last one's sequence */
	uint32_t streams_done, credits_done, settings_done, onces_done;
	uint32_t slot_stream[STORM_SLOTS_MAX]; /* open hold: its stream + 1 */
	int64_t balance[STORM_ACCOUNTS_MAX], held[STORM_ACCOUNTS_MAX];
	struct price price[STORM_PRICES_MAX];
	uint32_t prices;
	struct told_account account[STORM_ACCOUNTS_MAX];
	struct told_key key[STORM_KEYS_MAX];
	struct told_setting setting[STORM_SETTINGS_MAX];
	struct told_stream stream[STORM_STREAMS_MAX];
	struct told_credit credit[STORM_CREDITS_MAX];
	struct told_once once[STORM_ONCE_MAX];
};

extern struct told *told;
/* What the config says; operators set others. */
extern const struct price storm_price;

/* Write down the first difference; everybody ends soon after. */
void storm_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Records that somebody was told of or sent: meters and refusals aside. */
uint64_t storm_ops(void);

/* Counting. */
void told_killed(enum kill_kind);
void told_count(enum op_kind);

/* splitmix64: the next of a row of random numbers below n. */
uint64_t storm_mix(uint64_t);
uint32_t storm_draw(uint64_t *state, uint32_t n);

/* player_worker.c, player_admin.c, floor.c.  None returns before told->quiesce is set (but for a failure). */
int player_worker(struct heritage *, uint32_t proc, uint64_t seed);
int player_admin(struct heritage *, uint64_t seed);
void player_checker(struct heritage *);
void storm_account_id(uint32_t account, char id[static 16]);

/* disk.c: in a keeper, before it begins: its disk may be about to fail. */
void disk_begin(uint64_t seed);

/* clock.c: nothing runs; the next midnight is near now and then. */
void clock_begin(uint64_t *rng);

/* examine.c: at rest, the keeper ended.  False after storm_fail. */
bool examine(const struct heritage *);

#endif
