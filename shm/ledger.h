#ifndef SHM_LEDGER_H
#define SHM_LEDGER_H

/*
 * Holds: taking credit from an account before a token is produced, and giving the rest back.
 * tests/model/ledger.pml is a model of exactly this file and shm/reap.c; docs/ledger.md tells
 * what a crash at each step leaves.
 *
 * Two rules make a kill at any instruction harmless:
 *   help         before another operation's tag in an account is replaced, that operation's
 *                slot is told that it was applied;
 *   debit first, credit last
 *                what lowers `available` is applied in memory before it is journaled, what
 *                raises it only after its record is durable.
 *
 * Every call is for the process whose handle it is, never blocks, and costs some ten
 * nanoseconds.  A call that pushes a record gives its ring position: acknowledge nothing to
 * anyone before ring_durable() has reached it.
 */
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shm/account.h"
#include "shm/journal_record.h"
#include "shm/region.h"

enum hold_state {
	HOLD_FREE = 0,      /* nobody's; its owner process may claim it */
	HOLD_CLAIMED = 1,   /* fields written, the debit may or may not be applied */
	HOLD_HELD = 2,      /* `amount` is debited; ends by extend or settle */
	HOLD_EXTENDING = 3, /* `base` is debited, `take` may or may not be */
	HOLD_SETTLING = 4,  /* record pushed or about to be; the credit may or may not be applied */
	HOLD_CREDITING = 5, /* a top-up, an adjustment or a new overdraft on its way: `take` is to
			       be credited */
};

/*
 * A slot belongs to one process slot for ever; its live owner alone writes it (but for
 * `applied`, which helpers raise, and `journaled`, the keeper's).  After waitpid it is the
 * master's.
 *
 *   0    state       sequence << 8 | enum hold_state: one 64-bit store moves a hold
 *   8    meter       completion tokens produced, stored before their bytes are queued; how
 *                    many of them are reasoning << 32
 *   16   amount, base, take, actual, uncollected
 *   56   account, price_id
 *   64   applied     highest sequence known to have been applied to the account (helpers)
 *   72   journaled   last sequence of this slot that the keeper committed, << 8 | ring_status
 *                    (keeper: stored after the commit and before ring_publish; all types but
 *                    MARK)
 *   80   prompt, settle_prompt, settle_cached, settle_completion, max_tokens
 *   100  model, outcome, opened, generation, voided, reserved_us
 *   128  stream_id, session_id, price (6 x 8), deadline_us
 *   216  settle_reasoning, settle_cache_write, capped_by
 *   256  seat[2]     shm/seat.h: its account's, and its key's
 *   304  purse[3]    shm/purse.h: of its key's cap, and of its account's budgets
 */
struct hold { /* 448 bytes */
	_Alignas(64) _Atomic uint64_t state;
	_Atomic uint64_t meter;
	int64_t amount;      /* debited for this hold, all extends included */
	int64_t base;        /* `amount` when the extend under way began */
	int64_t take;        /* what the extend under way takes, or the credit under way gives */
	int64_t actual;      /* SETTLING: the charge */
	int64_t uncollected; /* SETTLING: what the floor forbade to charge */
	uint32_t account;
	uint32_t price_id;
	_Alignas(64) _Atomic uint64_t applied;
	_Atomic uint64_t journaled;
	uint32_t prompt; /* tokens, uncached and cached together as counted by us */
	uint32_t settle_prompt, settle_cached, settle_completion; /* SETTLING: what is charged for */
	uint32_t max_tokens;
	uint16_t model; /* index in the config */
	uint8_t outcome;
	_Atomic uint8_t opened; /* the provider was called */
	uint32_t generation;    /* of the owning process slot */
	uint32_t voided;        /* SETTLING: the record is a VOID, not a SETTLE */
	uint64_t reserved_us;   /* CLOCK_REALTIME of its reserve */
	_Alignas(64) uint8_t stream_id[16];
	uint8_t session_id[16];
	struct price price;
	uint64_t deadline_us; /* CLOCK_REALTIME: void it if nobody opened it by then */
	uint32_t settle_reasoning, settle_cache_write; /* SETTLING: of the above */
	uint64_t capped_by; /* the id of the key under whose cap it is, if it is under one */
	_Alignas(64) struct hold_seat {
		_Atomic uint64_t state;   /* sequence << 8 | enum seat_state; owner and reaper */
		_Atomic uint64_t applied; /* highest sequence known to have been applied (helpers) */
		uint32_t whose;           /* the account's number, or the key's index */
	} seat[2]; /* by enum seat_kind */
	struct hold_purse { /* 48 bytes */
		_Atomic uint64_t state;   /* sequence << 8, and whether an operation is under way */
		_Atomic uint64_t applied; /* highest sequence known to have been applied (helpers) */
		int64_t claimed;          /* at least `amount` */
		int64_t base, delta;      /* `claimed` before the operation, and what it adds */
		uint32_t whose;           /* the key's index or the account's number, + 1; 0: none */
		uint32_t window;
	} purse[3]; /* by enum purse_kind */
};
_Static_assert(sizeof(struct hold) == 448, "hold");

#define HOLD_STATE(word) ((enum hold_state)((word) & 0xff))
#define HOLD_SEQ(word) ((word) >> 8)
#define HOLD_WORD(seq, st) ((uint64_t)(seq) << 8 | (uint64_t)(st))

/*
 * How far a slot's sequence goes: as far as a tag has room (shm/word.h).  Between two of its records
 * lie at most HOLD_SEQ_STEP of them, since each reserve that finds no credit uses one up (40 days of
 * 20,000 a second); the keeper refuses what is further on, or less than that from the end.  A slot
 * that is used up has no next owner.
 */
#define HOLD_SEQ_END (UINT64_C(1) << 44)
#define HOLD_SEQ_STEP (UINT64_C(1) << 36)
#define HOLD_SEQ_USED_UP (HOLD_SEQ_END - 2 * HOLD_SEQ_STEP)

/* The meter word: completion tokens (a stream of none is void), and how many are reasoning. */
#define METER_TOKENS(word) ((uint32_t)(word))
#define METER_REASONING(word) ((uint32_t)((word) >> 32))

/* Not to be paid: by the account's credit, the cap of its key, or one of its budgets. */
#define LEDGER_CANNOT_PAY(result)                                                                 \
	((result) == LEDGER_SHORT || ((result) >= LEDGER_CAPPED && (result) <= LEDGER_BUDGET_MONTH))

enum ledger_result {
	LEDGER_OK = 0,
	LEDGER_SHORT,  /* the account cannot pay what is needed at least */
	LEDGER_FULL,   /* this process has no free hold slot */
	LEDGER_BUSY,   /* the journal is behind: its ring is full; try again after a wake-up */
	LEDGER_CLOSED, /* account closed or frozen */
	LEDGER_SEATS,  /* the account has as many holds open as it may */
	LEDGER_KEY_SEATS, /* the key has */
	LEDGER_CAPPED, /* the key's cap does not cover what is needed at least */
	LEDGER_BUDGET_DAY, /* the account's budget of the day does not */
	LEDGER_BUDGET_MONTH, /* its budget of the month does not */
};

/*
 * A process's own handle; not shared.  It knows what each of its holds is, so that a stray
 * write into a hold is noticed before the next record of that hold: what it was is put
 * back, and the keeper is told in a way that makes it freeze the account and have us killed.
 */
struct ledger;

/* Take over this process slot's holds (all FREE, or the reaper has not been here), but for those
 * whose sequences are used up. */
struct ledger *ledger_new(struct region *, uint32_t proc) __attribute__((warn_unused_result));
void ledger_free(struct ledger *);
struct region *ledger_region(const struct ledger *);
struct ring *ledger_ring(const struct ledger *);
uint32_t ledger_holds_free(const struct ledger *);

static inline struct hold *
hold_at(const struct region *region, uint32_t slot)
{
	return (struct hold *)(void *)(region->base + region->h->holds_at) + slot;
}

static inline uint32_t
hold_slot(const struct region *region, const struct hold *h)
{
	return (uint32_t)(h - hold_at(region, 0));
}

/* All processes' holds together; slots are 0 .. that - 1. */
static inline uint32_t
hold_count(const struct region *region)
{
	return region->h->holds_per_proc * (region->h->procs - PROC_ADMIN);
}

/* A process slot's holds: hold_first .. hold_first + region->h->holds_per_proc - 1. */
static inline uint32_t
hold_first(const struct region *region, uint32_t proc)
{
	return (proc - PROC_ADMIN) * region->h->holds_per_proc;
}

static inline uint32_t
hold_proc(const struct region *region, uint32_t slot)
{
	return PROC_ADMIN + slot / region->h->holds_per_proc;
}

/*
 * Keeper, before any process takes holds of a new region: this slot's sequence goes on after
 * `seq`, the highest that the journal knows.  Does nothing to a slot that is not free or is
 * further on.
 */
void hold_resume(struct region *, uint32_t slot, uint64_t seq);

struct hold_terms {
	struct account *account;
	struct key_entry *purse; /* the key under whose cap it is, or NULL */
	struct price price;
	uint32_t price_id;
	uint32_t prompt;     /* tokens */
	uint32_t max_tokens; /* completion tokens, capped */
	uint32_t min_tokens; /* fewer payable completion tokens than this: LEDGER_SHORT */
	uint32_t want_tokens; /* reserve for so many if they can be paid, else for what can be;
				 each at the price of the dearer kind */
	uint32_t seats;       /* open holds that the account may have with this one; 0: any number */
	struct key_entry *key; /* whose limit is key_seats; not looked at if that is 0 */
	uint32_t key_seats;
	uint16_t model;
	uint8_t stream_id[16], session_id[16];
	uint64_t reserved_us, deadline_us; /* CLOCK_REALTIME */
};

/*
 * Open a hold for the prompt and min(want_tokens, payable) completion tokens, at least
 * min_tokens, or nothing.  The payload goes with its JOURNAL_RESERVE record.  On LEDGER_OK the
 * caller owns the hold and settles it exactly once; if it dies first, the master does.
 */
enum ledger_result ledger_reserve(struct ledger *, const struct hold_terms *, const void *payload,
    size_t payload_len, struct hold **, uint64_t *position) __attribute__((warn_unused_result));

/*
 * Grow a held hold so that it pays `tokens` completion tokens in all, those that the meter has not
 * yet being reasoning or not, or as many as the account can.  Always whole tokens.  LEDGER_SHORT,
 * _CAPPED, _BUDGET_...: not one more token is payable by that one, nothing changed.
 * The new tokens may be used once `position` is durable; *position is 0 if the hold paid so many
 * already.  The record is a mark too; the payload is the text since the last one.
 */
enum ledger_result ledger_extend(struct ledger *, struct hold *, uint32_t tokens, bool reasoning,
    const void *payload, size_t payload_len, uint64_t *position)
    __attribute__((warn_unused_result));

/*
 * Before a settle above the hold: take min(amount - hold->amount, available), to the
 * micro-credit.  LEDGER_OK even if nothing could be taken (then *position is 0).
 */
enum ledger_result ledger_overdraw(struct ledger *, struct hold *, int64_t amount,
    uint64_t *position) __attribute__((warn_unused_result));

/*
 * Completion tokens in all that so much of a hold pays for, those that the meter has not yet being
 * reasoning or not.
 */
uint32_t hold_covers(const struct hold *, int64_t amount, bool reasoning);

/* Store the count of tokens produced.  Before any of their bytes enters a queue; never lowers. */
/* Model: meter() in tests/model/worker.pml. */
static inline void
ledger_meter(struct hold *h, uint32_t tokens, uint32_t reasoning)
{
	/* Release: whoever reaps reads it after waitpid; the order against our own later writes to
	 * sockets is what counts, and a system call is not moved before a release store. */
	if (tokens > METER_TOKENS(atomic_load_explicit(&h->meter, memory_order_relaxed)))
		atomic_store_explicit(
		    &h->meter, (uint64_t)reasoning << 32 | tokens, memory_order_release);
}

/* Journal the meter (not waited for). */
enum ledger_result ledger_mark(struct ledger *, struct hold *, const void *payload,
    size_t payload_len, uint64_t *position) __attribute__((warn_unused_result));

struct settlement {
	int64_t charge;      /* <= hold->amount; 0 with `voided` */
	int64_t uncollected;
	uint32_t prompt, cached, completion; /* what is charged for; prompt without cached */
	uint32_t reasoning;                  /* of completion */
	uint32_t cache_write;                /* of prompt */
	uint8_t outcome;                     /* enum journal_outcome */
	bool voided;
	/* How it went, or NULL; its split and provider_len are filled in here.  The name that goes
	 * with it has up to JOURNAL_PROVIDER_MAX bytes of UTF-8, printable. */
	const struct journal_end *end;
	const char *provider;
	uint8_t provider_len;
};

/*
 * End a hold: journal it.  When `position` is durable the caller must call ledger_close.
 * LEDGER_BUSY leaves it held: wake the keeper and try again after a wake-up, with the charge
 * worked out anew.
 */
enum ledger_result ledger_settle(struct ledger *, struct hold *, const struct settlement *,
    const void *payload, size_t payload_len, uint64_t *position)
    __attribute__((warn_unused_result));

/*
 * Credit or debit an account: type JOURNAL_TOPUP or JOURNAL_ADJUST (adjustments below zero are
 * applied as credits of a negative amount once durable; they may cross the floor).  When
 * `position` is durable the caller calls ledger_close, which applies it if the keeper did.
 */
enum ledger_result ledger_credit(struct ledger *, struct account *, enum journal_type,
    int64_t amount, const void *payload, size_t payload_len, struct hold **,
    uint64_t *position) __attribute__((warn_unused_result));

/*
 * Set an account: `change` is what its overdraft changes by (of either sign, or 0), the payload
 * (struct journal_account_set) says the rest.  Applied like a credit of that amount; frozen
 * accounts too.  ledger_close when `position` is durable.
 */
enum ledger_result ledger_account_set(struct ledger *, struct account *, int64_t change,
    const void *payload, size_t payload_len, struct hold **, uint64_t *position)
    __attribute__((warn_unused_result));

/*
 * The settle's or credit's record at `position` is durable: give back, free the slot.  To be
 * called before the position is acked; acking, in order, is the caller's.
 */
enum ring_status ledger_close(struct ledger *, struct hold *, uint64_t position, int64_t *value);

/* Shared with shm/reap.c, like shm/hold.h. */
bool ledger_took(const struct account *, uint32_t slot, const struct hold *, uint64_t seq);
void ledger_give(struct region *, struct account *, uint32_t slot, uint64_t seq, int64_t amount);

#endif
