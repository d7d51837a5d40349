#ifndef DAEMON_METRICS_TABLE_H
#define DAEMON_METRICS_TABLE_H

/*
 * The one table of all metrics: name, help, type, labels and the place of their words.  It stands
 * in metrics.c, which adds by it; metrics_print.c prints by it (/metrics and tollctl stats).
 *
 * A family's series lie one behind the other, [label 1][label 2]; a counter takes one word, a
 * histogram its buckets, +Inf, and the sum.  A new family: one id, one row, and
 * an adder, or for a gauge a case in metrics_print.c.
 */
#include <stdint.h>

#include "daemon/config.h"
#include "daemon/metrics.h"
#include "shm/region.h"

enum metrics_family_id {
	M_REQUESTS,
	M_STREAMS_ACTIVE,
	M_STREAMS,
	M_TOKENS,
	M_CHARGED,
	M_UNCOLLECTED,
	M_RESERVE,
	M_LIMITED,
	M_FIRST_TOKEN_SECONDS,
	M_OVERHEAD_SECONDS,
	M_STREAM_SECONDS,
	M_UPSTREAM_ERRORS,
	M_UPSTREAM_RETRIES,
	M_BREAKER_OPENED,
	M_UPSTREAM_CHUNKS,
	M_UPSTREAM_BYTES,
	M_DEFECTS,
	M_DRIFT,
	M_COMMIT_SECONDS,
	M_BATCH_RECORDS,
	M_JOURNAL_SEQUENCE,
	M_JOURNAL_PROJECTED,
	M_JOURNAL_OK,
	M_RESTARTS,
	M_WORKER_UP,
	M_DRAINING,
	M_HOLDS_OPEN,
	M_ACCOUNTS,
	M_KEYS,
	M_ACCOUNTS_LIMIT,
	M_KEYS_LIMIT,
	M_HOLDS_LIMIT,
	M_TABLE_FULL,
	M_CONNECTIONS,
	M_REFUSED,
	M_ACCOUNTS_FROZEN,
	M_CONFIG_GENERATION,
	M_CONFIG_GOOD,
	M_CONFIG_TIME,
	M_BUILD_INFO,
	M_FAMILIES
};

enum metrics_type { METRIC_COUNTER, METRIC_GAUGE, METRIC_HISTOGRAM };

/* What a word counts; times, credits and ratios are printed as decimals of a millionth. */
enum metrics_unit { UNIT_ONE, UNIT_SECONDS, UNIT_CREDITS, UNIT_RATIO };

/* A label: its values are numbered 0..n-1. */
struct metrics_label {
	const char *name;
	uint32_t n;
	/* Value i's text, or NULL: there is no such series now (a model that the config lacks). */
	const char *(*text)(const struct config *, uint32_t i);
	uint32_t rest; /* number of "other", shown only when it counted something; or UINT32_MAX */
};

struct metrics_buckets {
	uint32_t n;
	uint64_t le[14]; /* upper bounds, in millionths, or as they are for UNIT_ONE */
};

struct metrics_family {
	const char *name, *help;
	enum metrics_type type;
	enum metrics_unit unit;
	const struct metrics_label *label[2]; /* NULL: none */
	const struct metrics_buckets *buckets;
	bool sparse;   /* series that are zero are left out */
	uint32_t base; /* first word; gauges have none, but for one that the keeper sets */
};

/* The statuses that the contract knows; any other is "other". */
#define METRICS_STATUSES 25
extern const int metrics_statuses[METRICS_STATUSES];

#define METRICS_WORDS REGION_COUNTERS
extern const uint32_t metrics_words_used;
extern const struct metrics_family metrics_families[M_FAMILIES];

/* Words of one series. */
static inline uint32_t
metrics_width(const struct metrics_family *f)
{
	return f->type == METRIC_HISTOGRAM ? f->buckets->n + 2 : 1;
}

static inline uint32_t
metrics_series(const struct metrics_family *f, uint32_t i, uint32_t j)
{
	return f->label[1] != NULL ? i * f->label[1]->n + j : i;
}

/* How many series there can be. */
static inline uint32_t
metrics_count(const struct metrics_family *f)
{
	return (f->label[0] != NULL ? f->label[0]->n : 1) *
	       (f->label[1] != NULL ? f->label[1]->n : 1);
}

/* Admin: everything as it is now, family by family. */
struct metrics_sample {
	const struct metrics_family *family;
	const char *value[2];  /* of the labels; valid during the call */
	const uint64_t *words; /* metrics_width() of them */
};

struct metrics_visitor {
	void (*family)(void *arg, const struct metrics_family *); /* may be NULL */
	void (*sample)(void *arg, const struct metrics_sample *);
	void *arg;
};

/* All numbers at one time, or NULL when out of memory. */
struct metrics_snapshot;
struct metrics_snapshot *metrics_snapshot(const struct region *)
    __attribute__((warn_unused_result));
void metrics_snapshot_free(struct metrics_snapshot *);
void metrics_visit(const struct metrics_visitor *, const struct metrics_snapshot *,
    const struct config *);

#endif
