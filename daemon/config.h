#ifndef DAEMON_CONFIG_H
#define DAEMON_CONFIG_H

/*
 * tolld.conf, parsed and checked (libConfuse).  Read by the master before any fork and inherited
 * by children; read again for a reload (daemon/reload.h), from which every process makes its own.
 * Nobody changes one that is in force.
 */
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "daemon/address.h"
#include "daemon/log.h"
#include "daemon/sandbox.h"
#include "daemon/tokenizer.h"
#include "shm/money.h"

#define CONFIG_LISTEN_MAX 16
#define CONFIG_MODELS_MAX 256
#define CONFIG_PROVIDERS_MAX 64
#define CONFIG_ORIGINS_MAX 64
#define CONFIG_REFUSE_MAX 32
#define CONFIG_PROXIES_MAX 64
#define CONFIG_FALLBACKS_MAX 8
#define CONFIG_URLS_MAX 8 /* of a provider */
#define CONFIG_KEYS_MAX 8
#define CONFIG_JWTS_MAX 16

enum config_dialect { DIALECT_OPENAI, DIALECT_OLLAMA, DIALECT_ANTHROPIC, DIALECT_AUTO };

struct config_provider {
	char *name;
	enum config_dialect dialect;
	char *base_url[CONFIG_URLS_MAX]; /* without a trailing slash; at least one */
	int base_urls;
	char *api_key[CONFIG_KEYS_MAX]; /* at least one, "" for none; secret.h; never logged */
	int api_keys;
	char *ca; /* PEM and a NUL: whom to trust for https; NULL: whom the system does */
	size_t ca_len;
	int retries;
	uint32_t breaker_failures; /* 0: it never opens */
	uint32_t breaker_seconds;
	uint32_t max_line; /* bytes of a line, or an event, of its answers */
	char *refuse[CONFIG_REFUSE_MAX]; /* fields of requests that it is not to get; lower case */
	int refused;
};

struct config_model {
	char *name;     /* as clients say it */
	char *upstream; /* as the provider says it */
	int providers[CONFIG_FALLBACKS_MAX], provider_count; /* indices, in order */
	const struct tokenizer *tokenizer; /* kept for the life of the process */
	_Atomic uint64_t *learnt; /* daemon/calibrate.h; NULL: nothing is known */
	struct price price; /* as it is written here, PRICE_UNSET where it is not; price_resolve */
	uint32_t context, max_completion; /* tokens */
	uint32_t history_tokens; /* of a session's past in front of a new message; 0: none */
	uint32_t image_tokens;            /* of a picture in the prompt, until the usage says it */
	bool hidden_tokens;
};

enum config_algorithm { CONFIG_RS256, CONFIG_ES256, CONFIG_HS256, CONFIG_ALGORITHMS };

struct config_jwt {
	char *name;
	enum config_algorithm algorithm;
	char *key_file, *audience;
	char *kid;       /* of the tokens that it is for; "": those that name none */
	uint32_t scopes; /* KEY_SCOPE_...: what they may do at most */
	char *key;       /* PEM, or the secret's bytes; secret.h; a NUL follows */
	size_t key_len;
};

struct config_trace;

/*
 * In force, models and providers stand at their numbers (shm/region.h, region_names): there may be
 * gaps between them, rows whose name is NULL.  A name has the same number in every config.
 */
struct config {
	unsigned refs; /* config_ref: how many beside the first */
	char *path; /* for messages; NULL for the embedded default */
	char *user, *default_model;
	int workers; /* resolved: at least 1 */
	char *listen[CONFIG_LISTEN_MAX];
	int listen_count;
	char *admin_listen; /* "" for none */
	char *admin_group; /* who may use admin.sock; "": "toll", if there is one */
	char *admin_full_group; /* who of them may change anything; "": all */
	char *state_dir, *runtime_dir;
	char *origins[CONFIG_ORIGINS_MAX];
	int origin_count;
	struct address_net proxy[CONFIG_PROXIES_MAX]; /* whose X-Forwarded-For is believed */
	int proxy_count;
	uint32_t max_body, flush_ms_max;
	uint32_t history_tokens; /* where a model does not say */
	bool chat_page; /* served at / */
	enum log_format log_format;
	enum log_level log_level;
	struct log_module log_module[LOG_MODULES_MAX];
	int log_modules;
	char *log_file;  /* "": stderr */
	bool log_texts;
	enum sandbox_mode sandbox;
	bool core_files;
	struct {
		int64_t overdraft; /* micro-credits */
		uint32_t slice_tokens, hold_ttl, reconnect_grace, max_accounts, max_holds;
		uint32_t max_refs;
	} ledger;
	struct {
		uint32_t requests_per_minute, tokens_per_minute, concurrent_streams; /* 0: none */
		uint32_t unauthenticated_per_minute; /* of an address; 0: none */
		uint32_t ws_questions_per_minute;    /* of an account, on WebSockets; 0: any */
	} limits;
	struct { /* accounts of users whom a key names: daemon/sight.h */
		int64_t grant, overdraft; /* micro-credits */
		uint32_t max_accounts;    /* that a key may make */
	} first_sight;
	struct {
		uint32_t keep_days;    /* 0: for ever */
		uint32_t keep_min;     /* seconds; no key: what nobody may go below */
	} journal;
	struct {
		bool enabled;
		uint32_t keep_days, keep_sessions; /* keep_sessions: of an account; 0: no bound */
	} history;
	struct { /* seconds */
		uint32_t connect, first_token, idle, stream, request, header, drain;
		uint32_t hang; /* 0: never */
		uint32_t ws_idle, ws_ping;
	} timeouts;
	struct config_provider provider[CONFIG_PROVIDERS_MAX];
	int provider_count;
	struct config_model model[CONFIG_MODELS_MAX];
	int model_count;
	struct config_jwt jwt[CONFIG_JWTS_MAX];
	int jwt_count;
	struct config_trace *trace; /* what each key was given: config_change.c */
	size_t traces;
};

/*
 * Read and check a file.  NULL after having written one line per fault to `errors`, each
 * "FILE:LINE: KEY: what is wrong"; warnings go there too.  Fatal when out of memory.
 */
struct config *config_load(const char *path, FILE *errors) __attribute__((warn_unused_result));
/* One more who needs it: each lets go of it by config_free, the last frees it.  One process. */
struct config *config_ref(const struct config *);
void config_free(struct config *); /* NULL is allowed */
/* Wipe providers' keys and those of tokens, in this process: who calls nobody needs none. */
void config_forget_secrets(struct config *);
/* Index of a model by its name, or -1. */
int config_model(const struct config *, const char *name, size_t len);

#endif
