/*
 * What a config's values mean: one table of keys for each section, and the rules that join
 * several keys.  Master.
 */
#include <grp.h>
#include <pwd.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "daemon/config.h"
#include "daemon/config_file.h"
#include "daemon/config_source.h"
#include "daemon/config_value.h"
#include "daemon/secret.h"
#include "shm/account.h"
#include "shm/region.h"

#define DAY 86400

/* The keys. */

#define C(field) offsetof(struct config, field)
#define P(field) offsetof(struct config_provider, field)
#define M(field) offsetof(struct config_model, field)
#define LARGE 1000000000

static const struct config_key top_keys[] = {
	{ "user", value_string, C(user), 0, 64, false },
	{ "default_model", value_string, C(default_model), 0, 128, false },
	{ "workers", value_int, C(workers), 0, REGION_WORKERS_MAX, false },
	{ "listen", value_listen, 0, 0, 0, true },
	{ "admin_listen", value_admin_listen, C(admin_listen), 0, 0, false },
	{ "admin_group", value_string, C(admin_group), 0, 64, false },
	{ "admin_full_group", value_string, C(admin_full_group), 0, 64, false },
	{ "state_dir", value_string, C(state_dir), 1, 1024, false },
	{ "runtime_dir", value_string, C(runtime_dir), 1, 90, false }, /* a socket's path */
	{ "cors_origins", value_origin, 0, 0, 0, true },
	{ "trusted_proxies", value_proxy, 0, 0, 0, true },
	{ "max_body", value_uint, C(max_body), 1024, 64 << 20, false },
	{ "history_tokens", value_uint, C(history_tokens), 0, LARGE, false },
	{ "flush_ms_max", value_uint, C(flush_ms_max), 0, 1000, false },
	{ "chat_page", value_bool, C(chat_page), 0, 0, false },
	{ "log_format", value_log_format, C(log_format), 0, 0, false },
	{ "log_level", value_log_level, C(log_level), 0, 0, false },
	{ "log_levels", value_log_module, 0, 0, 0, true },
	{ "log_file", value_log_file, C(log_file), 0, 0, false },
	{ "log_texts", value_bool, C(log_texts), 0, 0, false },
	{ "sandbox", value_sandbox, C(sandbox), 0, 0, false },
	{ "core_files", value_bool, C(core_files), 0, 0, false },
	{ "drain_timeout", value_uint, C(timeouts.drain), 0, DAY, false },
	{ "hang_timeout", value_uint, C(timeouts.hang), 0, DAY, false },
	{ 0 },
};

static const struct config_key ledger_keys[] = {
	{ "overdraft", value_money, C(ledger.overdraft), 0, 0, false },
	{ "slice_tokens", value_uint, C(ledger.slice_tokens), 1, 1000000, false },
	{ "hold_ttl", value_uint, C(ledger.hold_ttl), 1, DAY, false },
	{ "reconnect_grace", value_uint, C(ledger.reconnect_grace), 0, 3600, false },
	{ "max_accounts", value_uint, C(ledger.max_accounts), 1, 1 << 27, false },
	{ "max_refs", value_uint, C(ledger.max_refs), 1, 1 << 27, false },
	{ "max_holds", value_uint, C(ledger.max_holds), 1, (1 << 20) - 2, false },
	{ 0 },
};

static const struct config_key journal_keys[] = {
	{ "keep_days", value_uint, C(journal.keep_days), 0, 36500, false },
	{ 0 },
};

static const struct config_key limits_keys[] = {
	{ "requests_per_minute", value_uint, C(limits.requests_per_minute), 0, LARGE, false },
	{ "tokens_per_minute", value_uint, C(limits.tokens_per_minute), 0, LARGE, false },
	{ "concurrent_streams", value_uint, C(limits.concurrent_streams), 0, LARGE, false },
	{ "unauthenticated_per_minute", value_uint, C(limits.unauthenticated_per_minute), 0,
	    LARGE, false },
	{ "ws_questions_per_minute", value_uint, C(limits.ws_questions_per_minute), 0, LARGE,
	    false },
	{ 0 },
};

static const struct config_key first_sight_keys[] = {
	{ "grant", value_money, C(first_sight.grant), 0, PURSE_MAX, false },
	{ "overdraft", value_money, C(first_sight.overdraft), 0, PURSE_MAX, false },
	{ "max_accounts", value_uint, C(first_sight.max_accounts), 0, 1 << 27, false },
	{ 0 },
};

static const struct config_key timeouts_keys[] = {
	{ "connect", value_uint, C(timeouts.connect), 1, DAY, false },
	{ "first_token", value_uint, C(timeouts.first_token), 1, DAY, false },
	{ "idle", value_uint, C(timeouts.idle), 1, DAY, false },
	{ "stream", value_uint, C(timeouts.stream), 1, DAY, false },
	{ "request", value_uint, C(timeouts.request), 1, DAY, false },
	{ "header", value_uint, C(timeouts.header), 1, DAY, false },
	{ "ws_idle", value_uint, C(timeouts.ws_idle), 1, DAY, false },
	{ "ws_ping", value_uint, C(timeouts.ws_ping), 1, DAY, false },
	{ 0 },
};

static const struct config_key history_keys[] = {
	{ "enabled", value_bool, C(history.enabled), 0, 0, false },
	{ "keep_days", value_uint, C(history.keep_days), 0, 36500, false },
	{ "keep_sessions", value_uint, C(history.keep_sessions), 0, LARGE, false },
	{ 0 },
};

static const struct config_key provider_keys[] = {
	{ "dialect", value_dialect, P(dialect), 0, 0, false },
	{ "base_url", value_base_url, 0, 0, 0, true },
	{ "api_key", value_api_key, 0, 0, 0, true },
	{ "api_key_file", value_api_key_file, 0, 0, 0, true },
	{ "ca_file", value_ca_file, 0, 0, 0, false },
	{ "retries", value_int, P(retries), 0, 10, false },
	{ "breaker_failures", value_uint, P(breaker_failures), 0, 1000, false },
	{ "breaker_seconds", value_uint, P(breaker_seconds), 1, 3600, false },
	{ "refuse", value_refuse, 0, 0, 0, true },
	{ "max_line", value_uint, P(max_line), 4096, 8 << 20, false },
	{ 0 },
};

static const struct config_key model_keys[] = {
	{ "provider", value_nothing, 0, 0, 0, true },
	{ "upstream", value_string, M(upstream), 1, 256, false },
	{ "tokenizer", value_tokenizer, M(tokenizer), 0, 0, false },
	{ "price_prompt", value_money, M(price.prompt), 0, 0, false },
	{ "price_cached", value_money, M(price.cached), 0, 0, false },
	{ "price_completion", value_money, M(price.completion), 0, 0, false },
	{ "price_reasoning", value_money, M(price.reasoning), 0, 0, false },
	{ "price_cache_write", value_money, M(price.cache_write), 0, 0, false },
	{ "price_request", value_money, M(price.request), 0, 0, false },
	{ "context", value_uint, M(context), 1, LARGE, false },
	{ "max_completion", value_uint, M(max_completion), 1, LARGE, false },
	{ "history_tokens", value_uint, M(history_tokens), 0, LARGE, false },
	{ "image_tokens", value_uint, M(image_tokens), 0, 50000, false },
	{ "hidden_tokens", value_bool, M(hidden_tokens), 0, 0, false },
	{ 0 },
};

const struct config_shape config_shapes[] = {
	{ "", false, top_keys },
	{ "ledger", false, ledger_keys },
	{ "journal", false, journal_keys },
	{ "limits", false, limits_keys },
	{ "first_sight", false, first_sight_keys },
	{ "timeouts", false, timeouts_keys },
	{ "history", false, history_keys },
	{ "provider", true, provider_keys },
	{ "model", true, model_keys },
	{ "jwt", true, config_jwt_keys },
	{ 0 },
};

void
config_defaults(struct config *c)
{
	c->user = config_strdup("toll");
	c->default_model = config_strdup("");
	c->admin_listen = config_strdup("127.0.0.1:9464");
	c->admin_group = config_strdup("");
	c->admin_full_group = config_strdup("");
	c->state_dir = config_strdup("/var/lib/tolld");
	c->runtime_dir = config_strdup("/run/tolld");
	c->max_body = 1 << 20;
	c->flush_ms_max = 25;
	c->chat_page = true;
	c->log_format = LOG_LOGFMT;
	c->log_level = LOG_INFO;
	c->log_file = config_strdup("");
	c->sandbox = SANDBOX_ON;
	c->ledger.overdraft = 200 * INT64_C(1000000);
	c->ledger.slice_tokens = 300;
	c->ledger.hold_ttl = 60;
	c->ledger.reconnect_grace = 10;
	c->ledger.max_accounts = 1 << 20;
	c->ledger.max_refs = 1 << 22;
	c->ledger.max_holds = 1 << 16;
	c->first_sight.max_accounts = 1000;
	c->journal.keep_min = DAY;
	c->history.enabled = true;
	c->history.keep_days = 365;
	c->history.keep_sessions = 1000;
	c->history_tokens = 4000;
	c->timeouts.connect = 10;
	c->timeouts.first_token = 60;
	c->timeouts.idle = 60;
	c->timeouts.stream = 300;
	c->timeouts.request = 60;
	c->timeouts.header = 10;
	c->timeouts.drain = 30;
	c->timeouts.hang = 10;
	c->timeouts.ws_idle = 60;
	c->timeouts.ws_ping = 20;
	c->limits.ws_questions_per_minute = 10;
}

/* The rules. */

static const struct config_entry *
find(const struct config_file *f, size_t section, const char *key)
{
	for (size_t i = 0; i < f->entries; i++)
		if (f->entry[i].section == section && strcmp(f->entry[i].key, key) == 0)
			return &f->entry[i];
	return NULL;
}

/* The line of a key, or of its section where the key is left out. */
static int
line_of(const struct config_file *f, size_t section, const char *key)
{
	const struct config_entry *e = find(f, section, key);
	return e ? e->line : f->section[section].line;
}

static bool
has_control(const char *value)
{
	for (; *value; value++)
		if ((unsigned char)*value < 0x20 || *value == 0x7f)
			return true;
	return false;
}

static void
apply(struct config_file *f, const struct config_key *k, char *base,
    const struct config_entry *e)
{
	const struct config_entry *before = find(f, e->section, e->key);
	char *value;
	if (e->first && before != e) {
		config_fault(f, e->line, k->name, "is on line %d already", before->line);
		return;
	}
	value = config_text_expand(f, e);
	if (!value)
		return;
	if (has_control(value) && !(k->list && strcmp(value, CONFIG_EMPTY) == 0))
		config_fault(f, e->line, k->name, "holds a control character");
	else
		k->set(f, k, base + k->offset, e, value);
	config_trace(f, e->section, k->name, value);
	explicit_bzero(value, strlen(value));
	free(value);
}

/* Put all values of a section in their fields. */
static void
apply_section(struct config_file *f, size_t section, const struct config_key *keys, void *base)
{
	for (size_t i = 0; i < f->entries; i++) {
		if (f->entry[i].section != section)
			continue;
		for (const struct config_key *k = keys; k->name; k++)
			if (strcmp(k->name, f->entry[i].key) == 0)
				apply(f, k, base, &f->entry[i]);
	}
}

static bool
title_ok(struct config_file *f, const struct config_section *s, size_t max)
{
	if (*s->title && strlen(s->title) <= max && !has_control(s->title))
		return true;
	config_fault(f, s->line, s->name, "its name must have 1..%zu printable characters", max);
	return false;
}

static int
find_provider(const struct config *c, const char *name)
{
	for (int i = 0; i < c->provider_count; i++)
		if (strcmp(c->provider[i].name, name) == 0)
			return i;
	return -1;
}

/* A key that leaves the machine should not leave it in the clear. */
static void
warn_plain(struct config_file *f, const struct config_provider *p, int line)
{
	static const char *const here[] = { "http://127.", "http://localhost", "http://[::1]" };
	for (int i = 0; i < p->base_urls && *p->api_key[0]; i++) {
		bool local = strncasecmp(p->base_url[i], "http://", 7) != 0;
		for (size_t j = 0; j < sizeof(here) / sizeof(*here); j++)
			local = local || strncasecmp(p->base_url[i], here[j], strlen(here[j])) == 0;
		if (!local)
			config_warning(f, line, "base_url", "the key of provider \"%s\" goes out "
			    "unencrypted", p->name);
	}
}

static void
check_provider(struct config_file *f, struct config *c, size_t section)
{
	const struct config_section *s = &f->section[section];
	struct config_provider *p = &c->provider[c->provider_count];
	if (!title_ok(f, s, 64) || find_provider(c, s->title) >= 0)
		return;
	if (c->provider_count == CONFIG_PROVIDERS_MAX) {
		config_fault(f, s->line, s->name, "more than %d of them", CONFIG_PROVIDERS_MAX);
		return;
	}
	c->provider_count++;
	p->name = config_strdup(s->title);
	p->dialect = DIALECT_OPENAI;
	p->retries = 2;
	p->breaker_failures = 8;
	p->breaker_seconds = 10;
	p->max_line = 1 << 20;
	apply_section(f, section, provider_keys, p);
	if (p->base_urls == 0 && !find(f, section, "base_url") && !f->broken)
		config_fault(f, s->line, "base_url", "is missing in provider \"%s\"", p->name);
	if (p->api_keys == 0)
		p->api_key[p->api_keys++] = secret_strdup("");
	warn_plain(f, p, line_of(f, section, "base_url"));
}

/* The names in a model's list of providers. */
static void
check_fallbacks(struct config_file *f, const struct config *c, size_t section,
    struct config_model *m)
{
	for (size_t i = 0; i < f->entries; i++) {
		const struct config_entry *e = &f->entry[i];
		if (e->section != section || strcmp(e->key, "provider") != 0 ||
		    strcmp(e->value, CONFIG_EMPTY) == 0)
			continue;
		int p = find_provider(c, e->value);
		bool twice = false;
		for (int j = 0; j < m->provider_count; j++)
			twice = twice || m->providers[j] == p;
		if (p < 0)
			config_fault(f, e->line, e->key, "there is no provider \"%s\"", e->value);
		else if (twice)
			config_fault(f, e->line, e->key, "\"%s\" is there twice", e->value);
		else if (m->provider_count == CONFIG_FALLBACKS_MAX)
			config_fault(f, e->line, e->key, "more than %d of them",
			    CONFIG_FALLBACKS_MAX);
		else {
			m->providers[m->provider_count++] = p;
			continue;
		}
		return;
	}
	if (m->provider_count == 0)
		config_fault(f, line_of(f, section, "provider"), "provider",
		    "model \"%s\" needs at least one", m->name);
}

/* What stands for a tokenizer that is not named. */
static const struct config_key estimate_key = { "tokenizer", value_tokenizer, 0, 0, 0, false };

static void
check_model(struct config_file *f, struct config *c, size_t section)
{
	static const char *const needed[] = { "price_prompt", "price_completion" };
	const struct config_section *s = &f->section[section];
	struct config_model *m = &c->model[c->model_count];
	if (!title_ok(f, s, 128) || config_model(c, s->title, strlen(s->title)) >= 0)
		return;
	if (c->model_count == CONFIG_MODELS_MAX) {
		config_fault(f, s->line, s->name, "more than %d of them", CONFIG_MODELS_MAX);
		return;
	}
	c->model_count++;
	m->name = config_strdup(s->title);
	m->context = 128000;
	m->max_completion = 4096;
	m->history_tokens = c->history_tokens;
	/* What OpenAI says of a large one in full detail, at most of its models. */
	m->image_tokens = 1105;
	m->price = (struct price)PRICE_ALL_UNSET;
	apply_section(f, section, model_keys, m);
	if (!m->upstream)
		m->upstream = config_strdup(m->name);
	if (f->broken)
		return;
	if (!find(f, section, "tokenizer"))
		value_tokenizer(f, &estimate_key, &m->tokenizer,
		    &(struct config_entry){ .section = section, .line = s->line }, "estimate");
	check_fallbacks(f, c, section, m);
	for (size_t i = 0; i < sizeof(needed) / sizeof(*needed); i++)
		if (!find(f, section, needed[i]))
			config_fault(f, s->line, needed[i], "is missing in model \"%s\"", m->name);
	if (!find(f, section, "max_completion") && m->max_completion > m->context)
		m->max_completion = m->context;
	if (m->max_completion > m->context)
		config_fault(f, line_of(f, section, "max_completion"), "max_completion",
		    "%u is more than the context of %u", m->max_completion, m->context);
}

/* All processors that this process may run on. */
static int
processors(void)
{
	cpu_set_t set;
	int n = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
	return n < 1 ? 1 : n > REGION_WORKERS_MAX ? REGION_WORKERS_MAX : n;
}

/* Where the file is first read: later there may be no way to ask. */
static void
check_group(struct config_file *f, const char *key, const char *name)
{
	if (!config_source_replayed() && *name && find(f, 0, key) && geteuid() == 0 && !getgrnam(name))
		config_fault(f, line_of(f, 0, key), key, "there is no group \"%s\"", name);
}

/* Rules that join values of several sections. */
/* Is one in the other, or the same?  By where they really are, if both are there already. */
static bool
is_within(const char *path, const char *folder)
{
	char *real_path = realpath(path, NULL), *real_folder = realpath(folder, NULL);
	const char *p = real_path ? real_path : path, *f = real_folder ? real_folder : folder;
	size_t len = strlen(f);
	bool within;
	while (len > 0 && f[len - 1] == '/')
		len--;
	within = strncmp(p, f, len) == 0 && (p[len] == '/' || p[len] == 0);
	free(real_path);
	free(real_folder);
	return within;
}

/* Whatever runs may write where the log is, and must not where the journal is. */
static void
check_log_folder(struct config_file *f, const struct config *c)
{
	char *folder;
	if (!*c->log_file || config_source_replayed())
		return;
	folder = config_strdup(c->log_file);
	*(strrchr(folder, '/') + 1) = 0; /* "/" stays */
	if (is_within(folder, c->state_dir) || is_within(c->state_dir, folder))
		config_fault(f, line_of(f, 0, "log_file"), "log_file",
		    "needs a folder of its own, neither in state_dir nor around it");
	free(folder);
}

static void
check_together(struct config_file *f, struct config *c)
{
	uint32_t sharers = 1 + 2 * (uint32_t)c->workers;
	for (size_t i = 0; i < f->sections && c->ledger.max_holds < 8 * sharers; i++)
		if (strcmp(f->section[i].name, "ledger") == 0) {
			config_fault(f, line_of(f, i, "max_holds"), "max_holds",
			    "%u workers need at least %u", (unsigned)c->workers, 8 * sharers);
			break;
		}
	if (*c->default_model && config_model(c, c->default_model,
	    strlen(c->default_model)) < 0)
		config_fault(f, line_of(f, 0, "default_model"), "default_model",
		    "there is no model \"%s\"", c->default_model);
	check_log_folder(f, c);
	if (c->log_texts)
		config_warning(f, line_of(f, 0, "log_texts"), "log_texts",
		    "what people ask and are told is written to the log");
	if (c->model_count == 0)
		config_warning(f, 1, "model", "there is none: every request will be refused");
	check_group(f, "admin_group", c->admin_group);
	check_group(f, "admin_full_group", c->admin_full_group);
	/* Only who starts as root changes users.  The default user is no mistake of this file's;
	 * the start still refuses to go on without it. */
	if (!config_source_replayed() && geteuid() == 0 && *c->user && !getpwnam(c->user)) {
		if (find(f, 0, "user"))
			config_fault(f, line_of(f, 0, "user"), "user", "there is no user \"%s\"",
			    c->user);
		else
			config_warning(f, 1, "user", "there is no user \"%s\": tolld will not "
			    "start as root before it is made", c->user);
	}
}

void
config_check(struct config_file *f, struct config *c)
{
	static const struct config_key *const plain[] = { ledger_keys, journal_keys,
		limits_keys, first_sight_keys, timeouts_keys, history_keys };

	apply_section(f, 0, top_keys, c);
	/* value_listen and value_origin take the whole config: their tables' offset is 0. */
	if (c->listen_count == 0 && !find(f, 0, "listen"))
		c->listen[c->listen_count++] = config_strdup("127.0.0.1:8080");
	if (c->workers == 0)
		/* One that was recorded got its number where it was checked (config_carry). */
		c->workers = config_source_replayed() ? 1 : processors();
	for (size_t i = 1; i < f->sections; i++)
		for (size_t j = 0; j < sizeof(plain) / sizeof(*plain); j++)
			if (strcmp(f->section[i].name, config_shapes[j + 1].section) == 0)
				apply_section(f, i, plain[j], c);
	for (size_t i = 1; i < f->sections; i++)
		if (strcmp(f->section[i].name, "provider") == 0)
			check_provider(f, c, i);
	for (size_t i = 1; i < f->sections; i++)
		if (strcmp(f->section[i].name, "model") == 0)
			check_model(f, c, i);
	for (size_t i = 1; i < f->sections; i++)
		if (strcmp(f->section[i].name, "jwt") == 0 && config_jwt_begin(f, c, i)) {
			apply_section(f, i, config_jwt_keys, &c->jwt[c->jwt_count - 1]);
			config_jwt_end(f, c, i);
			config_trace(f, i, "key_file", ""); /* what it holds */
		}
	if (!f->broken)
		check_together(f, c);
}
