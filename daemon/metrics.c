/*
 * Counters and histograms: the words, the one table that names and places them, and adding.
 * Every process; printing is metrics_print.c's, in the admin process.
 *
 * A word has one writer, so adding is a relaxed load and store without a lock prefix; the reader
 * sums the words of all processes.  Layout is fixed by constants and not by the config, so words
 * mean the same before and after a reload.
 */
#include "daemon/metrics.h"

#include <stdatomic.h>
#include <stdio.h>

#include "daemon/metrics_table.h"
#include "shm/journal_record.h"

const int metrics_statuses[METRICS_STATUSES] = {101, 200, 204, 304, 400, 401, 402, 403, 404, 405,
    408, 409, 413, 414, 415, 417, 426, 429, 431, 500, 501, 502, 503, 504, 505};

static const char *
route_text(const struct config *c, uint32_t i)
{
	static const char *const text[ROUTE_COUNT] = {
	    [ROUTE_OTHER] = "other",
	    [ROUTE_PREVIEW] = "/chat/preview",
	    [ROUTE_SEND] = "/chat/send",
	    [ROUTE_STREAM] = "/stream",
	    [ROUTE_BALANCE] = "/balance",
	    [ROUTE_HISTORY] = "/chat/history",
	    [ROUTE_OPENAI_CHAT] = "/v1/chat/completions",
	    [ROUTE_OPENAI_MODELS] = "/v1/models",
	    [ROUTE_OPENAI_EMBEDDINGS] = "/v1/embeddings",
	    [ROUTE_ANTHROPIC] = "/v1/messages",
	    [ROUTE_API_CHAT] = "/api/chat",
	    [ROUTE_RECEIPT] = "/receipt",
	    [ROUTE_WS] = "/ws/chat",
	    [ROUTE_PAGE] = "/",
	    [ROUTE_KEYS] = "/keys",
	};

	(void)c;
	/* A route that was added without a name here still shows. */
	return text[i] != NULL ? text[i] : "unnamed";
}

static const char *
code_text(const struct config *c, uint32_t i)
{
	static char text[8];

	(void)c;
	if (i == METRICS_STATUSES)
		return "other";
	(void)snprintf(text, sizeof text, "%d", metrics_statuses[i]);
	return text;
}

static const struct region_names *names; /* of the region that metrics_init was given */

static const char *
model_text(const struct config *c, uint32_t i)
{
	if (i == CONFIG_MODELS_MAX)
		return "other";
	if ((int)i < c->model_count && c->model[i].name != NULL)
		return c->model[i].name;
	/* A counter does not end with its model. */
	return names != NULL && names->model[i][0] != '\0' ? names->model[i] : NULL;
}

static const char *
provider_text(const struct config *c, uint32_t i)
{
	if (i == CONFIG_PROVIDERS_MAX)
		return "other";
	if ((int)i < c->provider_count && c->provider[i].name != NULL)
		return c->provider[i].name;
	return names != NULL && names->provider[i][0] != '\0' ? names->provider[i] : NULL;
}

static const char *
outcome_text(const struct config *c, uint32_t i)
{
	(void)c;
	return i == OUTCOME_NONE ? "unknown" : journal_outcome_text((uint8_t)i);
}

/* Names of an enum, in its order. */
#define NAMES(fn, count, ...)                                                                      \
	static const char *fn(const struct config *c, uint32_t i)                                  \
	{                                                                                          \
		static const char *const text[count] = {__VA_ARGS__};                              \
		(void)c;                                                                           \
		return text[i];                                                                    \
	}
NAMES(token_text, 3, [TOKENS_PROMPT] = "prompt", [TOKENS_CACHED] = "cached",
    [TOKENS_COMPLETION] = "completion")
NAMES(reserve_text, RESERVE_KINDS, [RESERVE_OK] = "ok", [RESERVE_SHORT] = "short",
    [RESERVE_FULL] = "full", [RESERVE_BUSY] = "busy", [RESERVE_UNAVAILABLE] = "unavailable",
    [RESERVE_CLOSED] = "closed", [RESERVE_CAPPED] = "capped", [RESERVE_BUDGET] = "budget",
    [RESERVE_MEMORY] = "memory",
    [RESERVE_REPEATED] = "repeated", [RESERVE_LIMITED] = "limited", [RESERVE_REFS] = "refs")
NAMES(limited_text, LIMITED_KINDS, [LIMITED_REQUESTS] = "requests", [LIMITED_TOKENS] = "tokens",
    [LIMITED_STREAMS] = "streams", [LIMITED_ADDRESS] = "address")
NAMES(table_text, TABLE_KINDS, [TABLE_ACCOUNTS] = "accounts", [TABLE_KEYS] = "keys",
    [TABLE_REFS] = "refs", [TABLE_PRICES] = "prices")
NAMES(connection_text, CONNECTION_KINDS, [CONNECTION_DESCRIPTORS] = "descriptors",
    [CONNECTION_MEMORY] = "memory")
NAMES(refused_text, JOURNAL_TYPES + 1, [REFUSED_UNKNOWN] = "unknown",
    [JOURNAL_RESERVE] = "reserve", [JOURNAL_EXTEND] = "extend", [JOURNAL_MARK] = "mark",
    [JOURNAL_SETTLE] = "settle", [JOURNAL_VOID] = "void", [JOURNAL_TOPUP] = "topup",
    [JOURNAL_ADJUST] = "adjust", [JOURNAL_ACCOUNT] = "account", [JOURNAL_KEY] = "key",
    [JOURNAL_KEY_REVOKE] = "key_revoke", [JOURNAL_PRICE] = "price", [JOURNAL_PRICE_SET] = "price_set",
    [JOURNAL_SYNC] = "sync",
    [JOURNAL_ACCOUNT_SET] = "account_set", [JOURNAL_FREEZE] = "freeze", [JOURNAL_CHECKPOINT] = "checkpoint",
    [JOURNAL_COMPACT] = "compact", [JOURNAL_ASK] = "ask", [JOURNAL_GONE] = "gone",
    [JOURNAL_SIGHT] = "first_sight",
    [JOURNAL_FORGET] = "forget",
    [REFUSED_RING] = "ring")
NAMES(defect_text, DEFECT_KINDS, [DEFECT_UTF8] = "utf8", [DEFECT_JSON] = "json",
    [DEFECT_TRUNCATED] = "truncated", [DEFECT_OVERSIZE] = "oversize", [DEFECT_USAGE] = "usage")
NAMES(version_text, 1, TOLLD_VERSION)

static const char *
error_text(const struct config *c, uint32_t i)
{
	(void)c;
	return retry_kind_text((enum upstream_kind)i);
}

static const char *
worker_text(const struct config *c, uint32_t i)
{
	static char text[12];

	(void)c;
	(void)snprintf(text, sizeof text, "%u", i + 1);
	return text;
}

#define MODELS (CONFIG_MODELS_MAX + 1)
#define PROVIDERS (CONFIG_PROVIDERS_MAX + 1)
#define CODES (METRICS_STATUSES + 1)
#define NO_REST UINT32_MAX

static const struct metrics_label l_route = {"route", ROUTE_COUNT, route_text, NO_REST};
static const struct metrics_label l_code = {"code", CODES, code_text, NO_REST};
static const struct metrics_label l_model = {"model", MODELS, model_text, CONFIG_MODELS_MAX};
static const struct metrics_label l_outcome = {"outcome", OUTCOME_MAX, outcome_text, OUTCOME_NONE};
static const struct metrics_label l_token = {"kind", 3, token_text, NO_REST};
static const struct metrics_label l_limited = {"limit", LIMITED_KINDS, limited_text, NO_REST};
static const struct metrics_label l_reserve = {"result", RESERVE_KINDS, reserve_text, NO_REST};
static const struct metrics_label l_table = {"table", TABLE_KINDS, table_text, NO_REST};
static const struct metrics_label l_connection = {
    "reason", CONNECTION_KINDS, connection_text, NO_REST};
static const struct metrics_label l_refused = {
    "type", JOURNAL_TYPES + 1, refused_text, REFUSED_UNKNOWN};
static const struct metrics_label l_provider = {
    "provider", PROVIDERS, provider_text, CONFIG_PROVIDERS_MAX};
static const struct metrics_label l_error = {"kind", UPSTREAM_KINDS, error_text, NO_REST};
static const struct metrics_label l_defect = {"kind", DEFECT_KINDS, defect_text, NO_REST};
static const struct metrics_label l_worker = {
    "worker", 2 * REGION_WORKERS_MAX, worker_text, NO_REST};
static const struct metrics_label l_version = {"version", 1, version_text, NO_REST};

/* Bounds in millionths: microseconds of seconds. */
#define FIRST_TOKEN_BUCKETS 14
static const struct metrics_buckets b_first_token = {FIRST_TOKEN_BUCKETS,
    {10000, 25000, 50000, 100000, 250000, 500000, 750000, 1000000, 2500000, 5000000, 10000000,
        20000000, 30000000, 60000000}};
#define OVERHEAD_BUCKETS 12
static const struct metrics_buckets b_overhead = {OVERHEAD_BUCKETS,
    {100, 250, 500, 1000, 2500, 5000, 10000, 25000, 50000, 100000, 250000, 1000000}};
#define DURATION_BUCKETS 12
static const struct metrics_buckets b_duration = {DURATION_BUCKETS,
    {100000, 250000, 500000, 1000000, 2500000, 5000000, 10000000, 20000000, 30000000, 60000000,
        120000000, 300000000}};
#define DRIFT_BUCKETS 13
static const struct metrics_buckets b_drift = {DRIFT_BUCKETS,
    {500000, 750000, 900000, 950000, 980000, 990000, 1000000, 1010000, 1020000, 1050000, 1100000,
        1250000, 2000000}};
#define COMMIT_BUCKETS 13
static const struct metrics_buckets b_commit = {COMMIT_BUCKETS,
    {50, 100, 250, 500, 1000, 2500, 5000, 10000, 25000, 50000, 100000, 500000, 2500000}};
#define BATCH_BUCKETS 13
static const struct metrics_buckets b_batch = {BATCH_BUCKETS,
    {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096}};

/* Where each family's words begin. */
enum {
	W_NONE = 0, /* gauges */
	W_REQUESTS = 0,
	W_STREAMS = W_REQUESTS + ROUTE_COUNT * CODES,
	W_TOKENS = W_STREAMS + MODELS * OUTCOME_MAX,
	W_CHARGED = W_TOKENS + MODELS * 3,
	W_UNCOLLECTED = W_CHARGED + MODELS,
	W_RESERVE = W_UNCOLLECTED + 1,
	W_LIMITED = W_RESERVE + RESERVE_KINDS,
	W_FIRST_TOKEN = W_LIMITED + LIMITED_KINDS,
	W_OVERHEAD = W_FIRST_TOKEN + MODELS * (FIRST_TOKEN_BUCKETS + 2),
	W_DURATION = W_OVERHEAD + OVERHEAD_BUCKETS + 2,
	W_ERRORS = W_DURATION + DURATION_BUCKETS + 2,
	W_RETRIES = W_ERRORS + PROVIDERS * UPSTREAM_KINDS,
	W_OPENED = W_RETRIES + PROVIDERS,
	W_CHUNKS = W_OPENED + PROVIDERS,
	W_BYTES = W_CHUNKS + PROVIDERS,
	W_DEFECTS = W_BYTES + PROVIDERS,
	W_DRIFT = W_DEFECTS + PROVIDERS * DEFECT_KINDS,
	W_COMMIT = W_DRIFT + DRIFT_BUCKETS + 2,
	W_BATCH = W_COMMIT + COMMIT_BUCKETS + 2,
	W_RESTARTS = W_BATCH + BATCH_BUCKETS + 2,
	W_TABLE_FULL = W_RESTARTS + 1,
	W_CONNECTIONS = W_TABLE_FULL + TABLE_KINDS,
	W_REFUSED = W_CONNECTIONS + CONNECTION_KINDS,
	W_FROZEN = W_REFUSED + JOURNAL_TYPES + 1,
	W_END = W_FROZEN + 1,
};
_Static_assert(W_END <= METRICS_WORDS, "the counters' words do not hold all metrics");
const uint32_t metrics_words_used = W_END;

#define COUNTER METRIC_COUNTER
#define GAUGE METRIC_GAUGE
#define HISTOGRAM METRIC_HISTOGRAM

const struct metrics_family metrics_families[M_FAMILIES] = {
    [M_REQUESTS] = {"tolld_requests_total", "HTTP requests answered, by route and status.", COUNTER,
        UNIT_ONE, {&l_route, &l_code}, .base = W_REQUESTS, .sparse = true},
    [M_STREAMS_ACTIVE] = {"tolld_streams_active", "Streams that are open now.", GAUGE, UNIT_ONE,
        .base = W_NONE},
    [M_STREAMS] = {"tolld_streams_total", "Streams that ended, by model and how they ended.",
        COUNTER, UNIT_ONE, {&l_model, &l_outcome}, .base = W_STREAMS},
    [M_TOKENS] = {"tolld_tokens_total", "Tokens charged for; prompt excludes cached ones.", COUNTER,
        UNIT_ONE, {&l_model, &l_token}, .base = W_TOKENS},
    [M_CHARGED] = {"tolld_credits_charged_total", "Credits charged.", COUNTER, UNIT_CREDITS,
        {&l_model}, .base = W_CHARGED},
    [M_UNCOLLECTED] = {"tolld_credits_uncollected_total",
        "Credits that were used but that the floor forbade to charge.", COUNTER, UNIT_CREDITS,
        .base = W_UNCOLLECTED},
    [M_RESERVE] = {"tolld_reserve_total", "Attempts to open a hold, by result.", COUNTER, UNIT_ONE,
        {&l_reserve}, .base = W_RESERVE},
    [M_LIMITED] = {"tolld_rate_limited_total", "Requests refused by a limit (429), by which one.",
        COUNTER, UNIT_ONE, {&l_limited}, .base = W_LIMITED},
    [M_FIRST_TOKEN_SECONDS] = {"tolld_time_to_first_token_seconds",
        "From the opening of a stream until its first token.", HISTOGRAM, UNIT_SECONDS, {&l_model},
        .buckets = &b_first_token, .base = W_FIRST_TOKEN},
    [M_OVERHEAD_SECONDS] = {"tolld_gateway_overhead_seconds",
        "Time that the gateway itself added before the first token.", HISTOGRAM, UNIT_SECONDS,
        .buckets = &b_overhead, .base = W_OVERHEAD},
    [M_STREAM_SECONDS] = {"tolld_stream_duration_seconds", "How long streams ran.", HISTOGRAM,
        UNIT_SECONDS, .buckets = &b_duration, .base = W_DURATION},
    [M_UPSTREAM_ERRORS] = {"tolld_upstream_errors_total", "Failed calls to providers, by kind.",
        COUNTER, UNIT_ONE, {&l_provider, &l_error}, .base = W_ERRORS},
    [M_UPSTREAM_RETRIES] = {"tolld_upstream_retries_total",
        "Calls made because an earlier one of the stream had failed.", COUNTER, UNIT_ONE,
        {&l_provider}, .base = W_RETRIES},
    [M_BREAKER_OPENED] = {"tolld_upstream_breaker_opened_total",
        "Times that a worker's circuit breaker opened.", COUNTER, UNIT_ONE, {&l_provider},
        .base = W_OPENED},
    [M_UPSTREAM_CHUNKS] = {"tolld_upstream_chunks_total", "Events received from providers.",
        COUNTER, UNIT_ONE, {&l_provider}, .base = W_CHUNKS},
    [M_UPSTREAM_BYTES] = {"tolld_upstream_bytes_total", "Bytes received from providers.", COUNTER,
        UNIT_ONE, {&l_provider}, .base = W_BYTES},
    [M_DEFECTS] = {"tolld_stream_defects_total", "Faults in what providers sent, by kind.",
        COUNTER, UNIT_ONE, {&l_provider, &l_defect}, .base = W_DEFECTS},
    [M_DRIFT] = {"tolld_token_count_drift", "Our completion count over the provider's.", HISTOGRAM,
        UNIT_RATIO, .buckets = &b_drift, .base = W_DRIFT},
    [M_COMMIT_SECONDS] = {"tolld_journal_commit_seconds", "Time of one journal commit.", HISTOGRAM,
        UNIT_SECONDS, .buckets = &b_commit, .base = W_COMMIT},
    [M_BATCH_RECORDS] = {"tolld_journal_batch_records", "Records in one journal commit.", HISTOGRAM,
        UNIT_ONE, .buckets = &b_batch, .base = W_BATCH},
    [M_JOURNAL_SEQUENCE] = {"tolld_journal_sequence", "Last committed journal sequence.", GAUGE,
        UNIT_ONE, .base = W_NONE},
    [M_JOURNAL_PROJECTED] = {"tolld_journal_projected_sequence",
        "Journal sequence that the state database has reached.", GAUGE, UNIT_ONE, .base = W_NONE},
    [M_JOURNAL_OK] = {"tolld_journal_ok", "1 while the journal can be written.", GAUGE, UNIT_ONE,
        .base = W_NONE},
    [M_RESTARTS] = {"tolld_worker_restarts_total", "Workers that died and were started anew.",
        COUNTER, UNIT_ONE, .base = W_RESTARTS},
    [M_WORKER_UP] = {"tolld_worker_up", "1 while this worker runs.", GAUGE, UNIT_ONE, {&l_worker},
        .base = W_NONE},
    [M_DRAINING] = {"tolld_draining", "1 while no new work is taken.", GAUGE, UNIT_ONE,
        .base = W_NONE},
    [M_HOLDS_OPEN] = {"tolld_holds_open", "Holds that are open now.", GAUGE, UNIT_ONE,
        .base = W_NONE},
    [M_ACCOUNTS] = {"tolld_accounts", "Accounts.", GAUGE, UNIT_ONE, .base = W_NONE},
    [M_KEYS] = {"tolld_keys", "API keys, revoked ones included.", GAUGE, UNIT_ONE, .base = W_NONE},
    [M_ACCOUNTS_LIMIT] = {"tolld_accounts_limit", "Accounts that the table holds (max_accounts).",
        GAUGE, UNIT_ONE, .base = W_NONE},
    [M_KEYS_LIMIT] = {"tolld_keys_limit", "API keys that the table holds.", GAUGE, UNIT_ONE,
        .base = W_NONE},
    [M_HOLDS_LIMIT] = {"tolld_worker_holds_limit", "Holds that one worker can have open.", GAUGE,
        UNIT_ONE, .base = W_NONE},
    [M_TABLE_FULL] = {"tolld_table_full_total", "Accounts or keys refused for want of room.",
        COUNTER, UNIT_ONE, {&l_table}, .base = W_TABLE_FULL},
    [M_CONNECTIONS] = {"tolld_connections_refused_total",
        "Connections refused by a worker, by what it had run out of.", COUNTER, UNIT_ONE,
        {&l_connection}, .base = W_CONNECTIONS},
    [M_REFUSED] = {"tolld_records_refused_total",
        "Records that no correct process sends, by type; their sender is killed.", COUNTER,
        UNIT_ONE, {&l_refused}, .base = W_REFUSED, .sparse = true},
    [M_ACCOUNTS_FROZEN] = {"tolld_accounts_frozen",
        "Accounts whose books were contradicted and that an operator has to unfreeze.", GAUGE,
        UNIT_ONE, .base = W_FROZEN},
    [M_CONFIG_GENERATION] = {"tolld_config_generation",
        "Which config is in force: 1 is that of the start, one more with each reload.", GAUGE,
        UNIT_ONE, .base = W_NONE},
    [M_CONFIG_GOOD] = {"tolld_config_last_reload_successful",
        "0 if the last reload was refused; the config before it is in force.", GAUGE, UNIT_ONE,
        .base = W_NONE},
    [M_CONFIG_TIME] = {"tolld_config_last_reload_success_timestamp_seconds",
        "When the config that is in force was loaded.", GAUGE, UNIT_SECONDS, .base = W_NONE},
    [M_BUILD_INFO] = {"tolld_build_info", "Always 1; the version is the label.", GAUGE, UNIT_ONE,
        {&l_version}, .base = W_NONE},
};

/* Before metrics_init (and in unit tests of other modules) counts go nowhere. */
static _Atomic uint64_t nowhere[METRICS_WORDS];
static _Atomic uint64_t *words = nowhere;

void
metrics_init(const struct region *r, uint32_t proc)
{
	words = region_counters(r, proc);
	names = region_names(r);
}

static void
add(uint32_t word, uint64_t n)
{
	/* Relaxed: one writer, and a reader that is late by one is right a moment later. */
	atomic_store_explicit(&words[word],
	    atomic_load_explicit(&words[word], memory_order_relaxed) + n, memory_order_relaxed);
}

/* The first word of a series. */
static uint32_t
series(enum metrics_family_id id, uint32_t i, uint32_t j)
{
	const struct metrics_family *f = &metrics_families[id];

	return f->base + metrics_series(f, i, j) * metrics_width(f);
}

static void
observe(enum metrics_family_id id, uint32_t i, uint64_t value)
{
	const struct metrics_buckets *b = metrics_families[id].buckets;
	uint32_t at = series(id, i, 0), n = 0;

	while (n < b->n && value > b->le[n])
		n++;
	add(at + n, 1);
	add(at + b->n + 1, value);
}

static uint32_t
model_index(unsigned model)
{
	return model < CONFIG_MODELS_MAX ? model : CONFIG_MODELS_MAX;
}

static uint32_t
provider_index(unsigned provider)
{
	return provider < CONFIG_PROVIDERS_MAX ? provider : CONFIG_PROVIDERS_MAX;
}

void
metrics_request(enum route_id route, int status)
{
	uint32_t i = 0;

	while (i < METRICS_STATUSES && metrics_statuses[i] != status)
		i++;
	add(series(M_REQUESTS, (uint32_t)route < ROUTE_COUNT ? route : ROUTE_OTHER, i), 1);
}

void
metrics_stream(unsigned model, uint8_t outcome, uint64_t duration_us)
{
	add(series(M_STREAMS, model_index(model), outcome < OUTCOME_MAX ? outcome : 0), 1);
	observe(M_STREAM_SECONDS, 0, duration_us);
}

void
metrics_tokens(unsigned model, enum token_kind kind, uint64_t n)
{
	add(series(M_TOKENS, model_index(model), kind), n);
}

void
metrics_charged(unsigned model, int64_t microcredits, int64_t uncollected)
{
	if (microcredits > 0)
		add(series(M_CHARGED, model_index(model), 0), (uint64_t)microcredits);
	if (uncollected > 0)
		add(series(M_UNCOLLECTED, 0, 0), (uint64_t)uncollected);
}

void
metrics_reserve(enum reserve_kind kind)
{
	add(series(M_RESERVE, kind, 0), 1);
}

void
metrics_limited(enum limited_kind kind)
{
	add(series(M_LIMITED, kind, 0), 1);
}

void
metrics_table_full(enum table_kind kind)
{
	add(series(M_TABLE_FULL, kind, 0), 1);
}

void
metrics_connection_refused(enum connection_kind kind)
{
	add(series(M_CONNECTIONS, kind, 0), 1);
}

void
metrics_refused(unsigned type)
{
	add(series(M_REFUSED, type <= JOURNAL_TYPES ? type : REFUSED_UNKNOWN, 0), 1);
}

void
metrics_accounts_frozen(uint32_t accounts)
{
	/* Relaxed: a report. */
	atomic_store_explicit(&words[W_FROZEN], accounts, memory_order_relaxed);
}

void
metrics_first_token(unsigned model, uint64_t us)
{
	observe(M_FIRST_TOKEN_SECONDS, model_index(model), us);
}

void
metrics_overhead(uint64_t us)
{
	observe(M_OVERHEAD_SECONDS, 0, us);
}

void
metrics_upstream(unsigned provider, uint64_t chunks, uint64_t bytes)
{
	add(series(M_UPSTREAM_CHUNKS, provider_index(provider), 0), chunks);
	add(series(M_UPSTREAM_BYTES, provider_index(provider), 0), bytes);
}

void
metrics_upstream_error(unsigned provider, enum upstream_kind kind)
{
	add(series(M_UPSTREAM_ERRORS, provider_index(provider), kind), 1);
}

void
metrics_retry(unsigned provider)
{
	add(series(M_UPSTREAM_RETRIES, provider_index(provider), 0), 1);
}

void
metrics_breaker_opened(unsigned provider)
{
	add(series(M_BREAKER_OPENED, provider_index(provider), 0), 1);
}

void
metrics_defect(unsigned provider, enum defect_kind kind)
{
	add(series(M_DEFECTS, provider_index(provider), kind), 1);
}

void
metrics_drift(uint32_t ours, uint32_t theirs)
{
	if (theirs > 0)
		observe(M_DRIFT, 0, (uint64_t)ours * 1000000 / theirs);
}

void
metrics_commit(uint64_t us, uint64_t records)
{
	observe(M_COMMIT_SECONDS, 0, us);
	observe(M_BATCH_RECORDS, 0, records);
}

void
metrics_restart(void)
{
	add(series(M_RESTARTS, 0, 0), 1);
}

uint64_t
metrics_layout(void)
{
	uint64_t h = UINT64_C(0xcbf29ce484222325);

	for (int id = 0; id < M_FAMILIES; id++) {
		const struct metrics_family *f = &metrics_families[id];
		uint64_t place[] = {f->base, metrics_count(f), metrics_width(f)};

		for (const char *p = f->name; *p != '\0'; p++)
			h = (h ^ (unsigned char)*p) * UINT64_C(0x100000001b3);
		for (size_t i = 0; i < sizeof place / sizeof *place; i++)
			h = (h ^ place[i]) * UINT64_C(0x100000001b3);
	}
	return h;
}
