#ifndef SHM_JOURNAL_RECORD_H
#define SHM_JOURNAL_RECORD_H

/*
 * The journal's record: what a worker, the admin process or the reaper hands to the keeper,
 * and what stands in journal.mdb under its sequence number.  64 bytes, little endian.
 * A change of size, order or meaning bumps JOURNAL_VERSION.  An EXTEND, MARK or SETTLE of
 * JOURNAL_VERSION_KINDS begins its payload with struct journal_split, a SETTLE or VOID of
 * JOURNAL_VERSION_TOLD with struct journal_end, else they are the same.
 *
 *   0        1        2        3        4                 8
 *   | type   | version| outcome| proc   | slot            |
 *   | op                                                  |  8
 *   | amount                                              | 16
 *   | extra                                               | 24
 *   | account         | price           |                   32
 *   | prompt          | cached          |                   40
 *   | completion      | payload_len     |                   48
 *   | time_us                                             | 56
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define JOURNAL_VERSION 1
#define JOURNAL_VERSION_KINDS 2
#define JOURNAL_VERSION_TOLD 3
#define JOURNAL_NONE UINT32_MAX /* "no account", "no slot", "no price" */

enum journal_type {
	/* A hold was opened.  amount: the hold; extra: deadline_us in its lower 56 bits; prompt;
	 * price; payload: struct journal_reserve with what follows it, then the user's message (JSON)
	 * as it was accepted, if it is to be kept.
	 * Under a key's cap: cached, completion: the lower and upper half of that key's id; outcome:
	 * the last 8 bits of the window's number (shm/purse.h).
	 * Under its account's budgets: the upper byte of extra, by JOURNAL_BUDGET; else 0. */
	JOURNAL_RESERVE = 1,
	/* A hold grew.  amount: by how much; extra: its new total; completion: the meter.  A mark
	 * too.  payload: the text delivered since the last record of this hold. */
	JOURNAL_EXTEND = 2,
	/* What a hold's meter said.  completion: the meter; payload as for EXTEND. */
	JOURNAL_MARK = 3,
	/* A hold ended.  amount: the charge; extra: uncollected; prompt, cached, completion: what
	 * was charged for; outcome; payload: the rest of the text. */
	JOURNAL_SETTLE = 4,
	/* A hold ended, nothing charged.  outcome; payload as for SETTLE. */
	JOURNAL_VOID = 5,
	/* Credit came in.  amount > 0; payload: struct journal_ref. */
	JOURNAL_TOPUP = 6,
	/* An operator's correction.  amount of either sign; payload: struct journal_ref. */
	JOURNAL_ADJUST = 7,
	/* An account was made.  amount: its overdraft; payload: struct journal_account.  account is
	 * JOURNAL_NONE on the way in; the keeper gives the number. */
	JOURNAL_ACCOUNT = 8,
	/* A key was made.  amount: its cap, prompt: enum key_per; its limits (0: none), cached:
	 * requests a minute, completion: tokens a minute, extra: streams at once; payload: struct
	 * journal_key. */
	JOURNAL_KEY = 9,
	/* A key was revoked.  extra: the key's id.  account is JOURNAL_NONE on the way in; the
	 * keeper gives the key's. */
	JOURNAL_KEY_REVOKE = 10,
	/* A price came into use (written by the keeper).  price: its id; payload: struct
	 * journal_price; of JOURNAL_VERSION 1 only its first 32 bytes. */
	JOURNAL_PRICE = 11,
	/* No change; the keeper brings state.mdb up to this record before it answers.  Not stored. */
	JOURNAL_SYNC = 12,
	/* An account's overdraft, limits, budget or flags were set.  amount: by how much the overdraft
	 * changed, of either sign; payload: struct journal_account_set, with what follows it. */
	JOURNAL_ACCOUNT_SET = 13,
	/* An account's books were contradicted (written by the keeper): it refuses everything.
	 * payload: what it was, as text. */
	JOURNAL_FREEZE = 14,
	/* A checkpoint stands for the records before (written by the keeper).  payload: struct
	 * journal_checkpoint. */
	JOURNAL_CHECKPOINT = 15,
	/* Remove what is older than extra, a time (CLOCK_REALTIME, us).  Not stored; answered when
	 * it is accepted, with the number of this compaction. */
	JOURNAL_COMPACT = 16,
	/* What became of a key?  Not stored.  payload: struct journal_keyed. */
	JOURNAL_ASK = 17,
	/* The ring's owner is dead and all its slots are finished (pushed by the master).  Not stored;
	 * what it brings to light is: the keeper ends holds that its books still have open. */
	JOURNAL_GONE = 18,
	/* An operator set what a kind of a model's tokens costs, over the config.  amount: the
	 * price, or PRICE_UNSET: as the config says; payload: struct journal_price_set. */
	JOURNAL_PRICE_SET = 19,
	/* A user whom a key may name was seen for the first time: an account was made, with a first
	 * credit.  amount: that credit, extra: the overdraft.  Both are 0 on the way in, and account
	 * JOURNAL_NONE: the keeper gives them.  payload: struct journal_sight. */
	JOURNAL_SIGHT = 20,
	/* An account forgets one of its sessions: all that was said in it before this record.
	 * payload: the session's id, 16 bytes. */
	JOURNAL_FORGET = 21,
	JOURNAL_TYPES
};

/* How a stream ended.  Zero while it runs. */
enum journal_outcome {
	OUTCOME_NONE = 0,
	OUTCOME_STOP = 1,           /* the model ended it */
	OUTCOME_LENGTH = 2,         /* max_tokens */
	OUTCOME_TOOL_CALLS = 3,
	OUTCOME_CONTENT_FILTER = 4,
	OUTCOME_CREDIT = 5,         /* cut: the account could not pay the next token */
	OUTCOME_CANCELLED = 6,      /* by the client or an operator */
	OUTCOME_UPSTREAM = 7,       /* the provider failed */
	OUTCOME_WORKER_DIED = 8,    /* settled by the reaper */
	OUTCOME_EXPIRED = 9,        /* nobody opened the stream in time */
	OUTCOME_SHUTDOWN = 10,      /* drained or stopped */
	OUTCOME_JOURNAL = 11,       /* the disk did not take its next slice */
	OUTCOME_MAX
};

/* As people and programs read it.  One list for all: the compiler says when a new one is not in it. */
static inline const char *
journal_outcome_text(uint8_t outcome)
{
	switch ((enum journal_outcome)outcome) {
	case OUTCOME_NONE:
		return "none";
	case OUTCOME_STOP:
		return "stop";
	case OUTCOME_LENGTH:
		return "length";
	case OUTCOME_TOOL_CALLS:
		return "tool_calls";
	case OUTCOME_CONTENT_FILTER:
		return "content_filter";
	case OUTCOME_CREDIT:
		return "credit";
	case OUTCOME_CANCELLED:
		return "cancelled";
	case OUTCOME_UPSTREAM:
		return "upstream_error";
	case OUTCOME_WORKER_DIED:
		return "worker_died";
	case OUTCOME_EXPIRED:
		return "expired";
	case OUTCOME_SHUTDOWN:
		return "shutdown";
	case OUTCOME_JOURNAL:
		return "journal_unavailable";
	case OUTCOME_MAX:
		break;
	}
	return "unknown";
}

/* That a hold claims from a budget (BUDGET_DAY, BUDGET_MONTH), with the last 3 bits of its window's
 * number: four bits for each. */
#define JOURNAL_BUDGET(which, window) ((8u | ((window) & 7u)) << 4 * (which))
/* A RESERVE's extra. */
#define JOURNAL_DEADLINE_BITS 56
#define JOURNAL_RESERVE_EXTRA(deadline_us, budget)                                                 \
	((int64_t)(((uint64_t)(budget) << JOURNAL_DEADLINE_BITS) |                                 \
	    ((deadline_us) & ((UINT64_C(1) << JOURNAL_DEADLINE_BITS) - 1))))
#define JOURNAL_RESERVE_BUDGETS(extra) ((uint8_t)((uint64_t)(extra) >> JOURNAL_DEADLINE_BITS))

struct journal_record {
	uint8_t type;    /* enum journal_type */
	uint8_t version; /* JOURNAL_VERSION */
	uint8_t outcome; /* enum journal_outcome */
	uint8_t proc;    /* process slot whose ring it came through */
	uint32_t slot;   /* hold slot, or JOURNAL_NONE */
	uint64_t op;     /* the slot's sequence: (slot, op) names an operation for ever */
	int64_t amount;  /* micro-credits */
	int64_t extra;
	uint32_t account; /* account number, or JOURNAL_NONE */
	uint32_t price;   /* price id, or JOURNAL_NONE */
	uint32_t prompt;  /* tokens */
	uint32_t cached;
	uint32_t completion;
	uint32_t payload_len; /* bytes in the payload database under the same sequence */
	uint64_t time_us;     /* CLOCK_REALTIME when it happened */
};
_Static_assert(sizeof(struct journal_record) == 64, "journal record");

/* Payloads.  Each starts at offset 0 of the payload; text follows without a NUL. */

struct journal_reserve {
	uint8_t stream_id[16]; /* random part of the stream's id */
	uint8_t session_id[16];
	uint8_t message_id[16];
	uint32_t generation; /* of the process slot */
	uint16_t model_len;  /* the model's name follows, */
	uint16_t keyed;      /* if not 0: then struct journal_keyed; then the message's text */
};
#define JOURNAL_KEYED 1
#define JOURNAL_KEYED_ANSWER 2 /* its text is the answer to the request: daemon/kept.h */
_Static_assert(sizeof(struct journal_reserve) == 56, "journal_reserve");

/* A request with an Idempotency-Key. */
struct journal_keyed {
	uint8_t key[16];    /* of endpoint and key: half a SHA-256 */
	uint8_t body[16];   /* of the body: half a SHA-256 */
	uint64_t expires_s; /* what it was told, seconds since 1970 */
};
_Static_assert(sizeof(struct journal_keyed) == 40, "journal_keyed");

struct journal_ref {
	uint16_t ref_len; /* 0: none; the ref follows, then the reason (ADJUST) */
	uint16_t reason_len;
};

struct journal_account {
	uint32_t requests_per_minute; /* 0: the config's default */
	uint32_t tokens_per_minute;
	uint32_t concurrent_streams;
	uint16_t id_len;  /* the id follows, */
	uint16_t budgets; /* if not 0: then struct journal_budgets */
};

/* What is set; the rest stays as it was. */
#define JOURNAL_SET_OVERDRAFT 1u
#define JOURNAL_SET_REQUESTS 2u
#define JOURNAL_SET_TOKENS 4u
#define JOURNAL_SET_STREAMS 8u
#define JOURNAL_SET_CLOSED 16u   /* for ever */
#define JOURNAL_SET_UNFROZEN 32u
#define JOURNAL_SET_DAY 64u      /* a budget: struct journal_budgets follows */
#define JOURNAL_SET_MONTH 128u
#define JOURNAL_SET_BUDGETS (JOURNAL_SET_DAY | JOURNAL_SET_MONTH)
#define JOURNAL_SET_BUDGET(which) (JOURNAL_SET_DAY << (which))
#define JOURNAL_SET_ALL 255u

struct journal_account_set {
	uint32_t what; /* JOURNAL_SET_... */
	uint32_t requests_per_minute, tokens_per_minute, concurrent_streams;
	int64_t overdraft;   /* the new one */
	uint16_t reason_len; /* the reason follows, at the end */
	uint16_t pad[3];
};
_Static_assert(sizeof(struct journal_account_set) == 32, "journal_account_set");

struct journal_budgets {
	int64_t cap[2]; /* micro-credits, of BUDGET_DAY and BUDGET_MONTH; 0: it has none */
};
_Static_assert(sizeof(struct journal_budgets) == 16, "journal_budgets");

struct journal_key {
	uint8_t hash[32]; /* HMAC-SHA-256 of the key */
	uint64_t key_id;  /* random, not secret */
	uint64_t expires_us; /* 0: never */
	uint32_t scopes;
	uint16_t label_len;  /* the label follows, */
	uint16_t models_len; /* then the names of the models that it may use (0: all), each but
				the last one followed by a line feed */
};
#define KEY_MODELS_TEXT_MAX 2064 /* KEY_MODELS_MAX names of 128 bytes, with their line feeds */
_Static_assert(sizeof(struct journal_key) == 56, "journal_key");

/* What stands before the user's id in the id of its account. */
#define SIGHT_PREFIX "owui:"

struct journal_sight {
	uint64_t key_id; /* whose user it is */
	uint16_t id_len; /* the account's id follows */
	uint16_t pad[3];
};
_Static_assert(sizeof(struct journal_sight) == 16, "journal_sight");

/* What JOURNAL_VERSION 1 had; then the model's name. */
struct journal_price_former {
	int64_t prompt, cached, completion; /* struct price */
	uint16_t model_len;
	uint16_t pad[3];
};
_Static_assert(sizeof(struct journal_price_former) == 32, "journal_price_former");

struct journal_price {
	struct journal_price_former former;
	int64_t reasoning, cache_write, request; /* struct price; the model's name follows */
};
_Static_assert(sizeof(struct journal_price) == 56, "journal_price");

struct journal_price_set {
	uint16_t kind;      /* enum price_kind; PRICE_KINDS, with PRICE_UNSET: all of them */
	uint16_t model_len; /* the model's name follows */
};
_Static_assert(sizeof(struct journal_price_set) == 4, "journal_price_set");

/* Tokens that have prices of their own, where there are any. */
struct journal_split {
	uint32_t reasoning;   /* of completion */
	uint32_t cache_write; /* of prompt */
};
_Static_assert(sizeof(struct journal_split) == 8, "journal_split");

/* Whose count of tokens a charge goes by. */
enum journal_counted {
	COUNTED_NOBODYS = 0, /* nothing was charged */
	COUNTED_OURS = 1,
	COUNTED_PROVIDERS = 2,
	COUNTED_MAX
};

/* OUTCOME_CREDIT: for want of what. */
enum journal_short {
	SHORT_UNKNOWN = 0, /* or it ended otherwise */
	SHORT_CREDIT = 1,  /* the account's */
	SHORT_KEY_CAP = 2,
	SHORT_BUDGET_DAY = 3,
	SHORT_BUDGET_MONTH = 4,
	SHORT_MAX
};

#define JOURNAL_PROVIDER_MAX 64

/*
 * How a stream went, as its worker saw it; none of it is money but for `split`.  Times are
 * milliseconds since the reserve, by a clock that nobody sets: no step of the wall clock puts a token
 * before its request, or makes an honest worker a forger.
 */
struct journal_end {
	struct journal_split split;
	uint32_t opened_ms;   /* JOURNAL_NONE: never */
	uint32_t first_ms;    /* the first token; JOURNAL_NONE: there was none */
	uint8_t counted;      /* enum journal_counted */
	uint8_t short_of;     /* enum journal_short */
	uint8_t attempts;     /* how often a provider was asked, up to 255 */
	uint8_t provider_len; /* the name of the last one asked follows; 0: none was */
};
_Static_assert(sizeof(struct journal_end) == 20, "journal_end");
#define JOURNAL_END_MAX (sizeof(struct journal_end) + JOURNAL_PROVIDER_MAX)

/* How much of an EXTEND's, MARK's, SETTLE's or VOID's payload stands before the text. */
static inline size_t
journal_head_len(const struct journal_record *r, const void *payload, size_t payload_len)
{
	struct journal_end end;

	if (r->version == JOURNAL_VERSION_KINDS && payload_len >= sizeof end.split)
		return sizeof end.split;
	if (r->version != JOURNAL_VERSION_TOLD || payload_len < sizeof end)
		return 0;
	memcpy(&end, payload, sizeof end);
	return payload_len - sizeof end < end.provider_len ? payload_len
							    : sizeof end + end.provider_len;
}

#define JOURNAL_FORGET_LEN 16

struct journal_checkpoint {
	uint64_t sequence; /* of the last record that it stands for */
	uint8_t link[32];  /* the chain's, there */
	uint8_t hash[32];  /* SHA-256 of the checkpoint */
};
_Static_assert(sizeof(struct journal_checkpoint) == 72, "journal_checkpoint");

#endif
