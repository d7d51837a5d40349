#ifndef DAEMON_METRICS_H
#define DAEMON_METRICS_H

/*
 * Counters and histograms: each process adds to its own words in the region (relaxed, one
 * writer); the admin process sums them and prints Prometheus text.  metrics.c holds the one
 * table that names, describes and places them; REGION_COUNTERS bounds it.  The words outlive a
 * worker, so counters never go back while the daemon runs.
 */
#include <stddef.h>
#include <stdint.h>

#include "daemon/buf.h"
#include "daemon/config.h"
#include "daemon/retry.h"
#include "shm/journal_record.h"
#include "shm/region.h"

enum route_id {
	ROUTE_OTHER, /* 404s and refused heads */
	ROUTE_PREVIEW,
	ROUTE_SEND,
	ROUTE_STREAM,
	ROUTE_BALANCE,
	ROUTE_HISTORY,
	ROUTE_OPENAI_CHAT,
	ROUTE_OPENAI_MODELS,
	ROUTE_OPENAI_EMBEDDINGS,
	ROUTE_ANTHROPIC,
	ROUTE_API_CHAT,
	ROUTE_RECEIPT,
	ROUTE_WS,
	ROUTE_PAGE,
	ROUTE_KEYS,
	ROUTE_COUNT
};

enum token_kind { TOKENS_PROMPT, TOKENS_CACHED, TOKENS_COMPLETION };
enum reserve_kind {
	RESERVE_OK,
	RESERVE_SHORT,       /* of credit */
	RESERVE_FULL,        /* no free hold slot in this worker */
	RESERVE_BUSY,        /* the worker's ring is full: the journal is behind */
	RESERVE_UNAVAILABLE, /* the journal cannot be written */
	RESERVE_CLOSED,      /* or frozen */
	RESERVE_CAPPED,      /* the key's cap */
	RESERVE_BUDGET,      /* one of the account's budgets */
	RESERVE_MEMORY,      /* none left */
	RESERVE_REPEATED,    /* its Idempotency-Key was there: nothing is reserved */
	RESERVE_LIMITED,     /* as many holds open as the account may */
	RESERVE_REFS,        /* no room to remember another Idempotency-Key */
	RESERVE_KINDS
};
/* Tables of the shared memory that had no room for one more. */
enum table_kind { TABLE_ACCOUNTS, TABLE_KEYS, TABLE_REFS, TABLE_PRICES, TABLE_KINDS };
/* Why a connection was refused. */
enum connection_kind { CONNECTION_DESCRIPTORS, CONNECTION_MEMORY, CONNECTION_KINDS };
/* Which limit a request was refused by (429). */
enum limited_kind { LIMITED_REQUESTS, LIMITED_TOKENS, LIMITED_STREAMS, LIMITED_ADDRESS,
	LIMITED_KINDS };
/* metrics_refused: of no type that there is, and the ring itself; else enum journal_type. */
#define REFUSED_UNKNOWN 0
#define REFUSED_RING JOURNAL_TYPES
enum defect_kind { DEFECT_UTF8, DEFECT_JSON, DEFECT_TRUNCATED, DEFECT_OVERSIZE, DEFECT_USAGE,
	DEFECT_KINDS };

/* Which process's words to add to; once, after the fork. */
void metrics_init(const struct region *, uint32_t proc);

void metrics_request(enum route_id, int status);
void metrics_stream(unsigned model, uint8_t outcome, uint64_t duration_us);
void metrics_tokens(unsigned model, enum token_kind, uint64_t);
void metrics_charged(unsigned model, int64_t microcredits, int64_t uncollected);
void metrics_reserve(enum reserve_kind);
void metrics_limited(enum limited_kind);
void metrics_first_token(unsigned model, uint64_t us);
/* Time that the gateway itself added before the first token. */
void metrics_overhead(uint64_t us);
void metrics_upstream(unsigned provider, uint64_t chunks, uint64_t bytes);
void metrics_upstream_error(unsigned provider, enum upstream_kind);
/* A call after the first one of a stream, by the provider that it went to. */
void metrics_retry(unsigned provider);
void metrics_breaker_opened(unsigned provider);
void metrics_defect(unsigned provider, enum defect_kind);
void metrics_table_full(enum table_kind);         /* keeper */
void metrics_connection_refused(enum connection_kind);
void metrics_refused(unsigned type);              /* keeper: a forged record or ring */
void metrics_accounts_frozen(uint32_t accounts);  /* keeper: how many there are now */
/* Our count / the provider's. */
void metrics_drift(uint32_t ours, uint32_t theirs);
void metrics_commit(uint64_t us, uint64_t records); /* keeper */
void metrics_restart(void);                         /* master: a worker was respawned */

/* Admin: the whole exposition.  (tollctl stats walks the same table: daemon/metrics_table.h.) */
/* A hash of where each series stands in a process's counters: processes of two programs that add to
 * and read each other's must have the same. */
uint64_t metrics_layout(void);
void metrics_print(struct buf *, const struct region *, const struct config *);

#endif
