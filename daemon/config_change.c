/*
 * From one config to the next.  Any process.
 */
#include "daemon/config_change.h"

#include <stdlib.h>
#include <string.h>

#include "daemon/config_file.h"

_Static_assert(CONFIG_MODELS_MAX == REGION_MODELS_MAX, "a number for each model");
_Static_assert(CONFIG_PROVIDERS_MAX == REGION_PROVIDERS_MAX, "a number for each provider");

/* Numbers. */

/* A table of `n` names of `size` bytes each. */
struct names {
	char *first;
	size_t size;
	int n;
};

static struct names
models_of(struct region_names *names)
{
	return (struct names){names->model[0], REGION_MODEL_NAME, REGION_MODELS_MAX};
}

static struct names
providers_of(struct region_names *names)
{
	return (struct names){names->provider[0], REGION_PROVIDER_NAME, REGION_PROVIDERS_MAX};
}

static int
number_of(const struct names *t, const char *name)
{
	for (int i = 0; i < t->n; i++)
		if (strcmp(t->first + (size_t)i * t->size, name) == 0)
			return i;
	return -1;
}

/* The number of a name; one that is free if it has none and may be entered.  -1: there is none. */
static int
number(const struct names *t, const char *name, bool enter)
{
	int at = number_of(t, name);

	if (at >= 0 || !enter || (at = number_of(t, "")) < 0)
		return at;
	(void)strncpy(t->first + (size_t)at * t->size, name, t->size - 1);
	return at;
}

/* Room for all names that have no number yet? */
static bool
enough(const struct names *t, const char *const name[], int count)
{
	int wanted = 0, left = 0;

	for (int i = 0; i < count; i++)
		wanted += number_of(t, name[i]) < 0;
	for (int i = 0; i < t->n; i++)
		left += t->first[(size_t)i * t->size] == '\0';
	return wanted <= left;
}

static void
place_providers(struct config *c, const struct names *t, bool enter, int to[])
{
	struct config_provider *old = config_realloc(NULL, CONFIG_PROVIDERS_MAX, sizeof *old);
	int count = c->provider_count;

	memcpy(old, c->provider, sizeof c->provider);
	memset(c->provider, 0, sizeof c->provider);
	c->provider_count = 0;
	for (int i = 0; i < count; i++) {
		to[i] = number(t, old[i].name, enter);
		c->provider[to[i]] = old[i];
		if (to[i] >= c->provider_count)
			c->provider_count = to[i] + 1;
	}
	free(old);
}

static void
place_models(struct config *c, const struct names *t, bool enter, const int provider[])
{
	struct config_model *old = config_realloc(NULL, CONFIG_MODELS_MAX, sizeof *old);
	int count = c->model_count;

	memcpy(old, c->model, sizeof c->model);
	memset(c->model, 0, sizeof c->model);
	c->model_count = 0;
	for (int i = 0; i < count; i++) {
		int at = number(t, old[i].name, enter);
		struct config_model *m = &c->model[at];

		*m = old[i];
		for (int k = 0; k < m->provider_count; k++)
			m->providers[k] = provider[m->providers[k]];
		if (at >= c->model_count)
			c->model_count = at + 1;
	}
	free(old);
}

const char *
config_place(struct config *c, struct region_names *names, bool enter)
{
	struct names models = models_of(names), providers = providers_of(names);
	const char *model[CONFIG_MODELS_MAX], *provider[CONFIG_PROVIDERS_MAX];
	int to[CONFIG_PROVIDERS_MAX];

	for (int i = 0; i < c->model_count; i++)
		model[i] = c->model[i].name;
	for (int i = 0; i < c->provider_count; i++)
		provider[i] = c->provider[i].name;
	if (!enough(&models, model, enter ? c->model_count : 0))
		return "more than 256 models have been configured since the start: restart tolld";
	if (!enough(&providers, provider, enter ? c->provider_count : 0))
		return "more than 64 providers have been configured since the start: restart tolld";
	for (int i = 0; i < c->model_count && !enter; i++)
		if (number_of(&models, model[i]) < 0)
			return "a model has no number";
	for (int i = 0; i < c->provider_count && !enter; i++)
		if (number_of(&providers, provider[i]) < 0)
			return "a provider has no number";
	place_providers(c, &providers, enter, to);
	place_models(c, &models, enter, to);
	return NULL;
}

void
config_names_forget(const struct config *c, struct region_names *names)
{
	for (int i = 0; i < REGION_MODELS_MAX; i++)
		if (config_model(c, names->model[i], strlen(names->model[i])) < 0)
			memset(names->model[i], 0, REGION_MODEL_NAME);
	for (int i = 0; i < REGION_PROVIDERS_MAX; i++) {
		bool wanted = false;

		for (int k = 0; k < c->provider_count; k++)
			wanted |= strcmp(c->provider[k].name, names->provider[i]) == 0;
		if (!wanted)
			memset(names->provider[i], 0, REGION_PROVIDER_NAME);
	}
}

/* What stays. */

static void
changed(struct buf *restart, const char *key)
{
	if (restart != NULL)
		buf_printf(restart, "%s\n", key);
}

static void
keep_text(char **next, const char *now, const char *key, struct buf *restart)
{
	if (strcmp(*next, now) == 0)
		return;
	changed(restart, key);
	free(*next);
	*next = config_strdup(now);
}

static void
keep_number(uint32_t *next, uint32_t now, const char *key, struct buf *restart)
{
	if (*next != now)
		changed(restart, key);
	*next = now;
}

static void
keep_listen(struct config *next, const struct config *now, struct buf *restart)
{
	bool same = next->listen_count == now->listen_count;

	for (int i = 0; i < now->listen_count && same; i++)
		same = strcmp(next->listen[i], now->listen[i]) == 0;
	if (same)
		return;
	changed(restart, "listen");
	for (int i = 0; i < next->listen_count; i++)
		free(next->listen[i]);
	next->listen_count = now->listen_count;
	for (int i = 0; i < now->listen_count; i++)
		next->listen[i] = config_strdup(now->listen[i]);
}

void
config_carry(struct config *next, const struct config *now, uint32_t max_body_most,
    struct buf *restart)
{
	uint32_t workers = (uint32_t)next->workers;

	keep_text(&next->user, now->user, "user", restart);
	keep_number(&workers, (uint32_t)now->workers, "workers", restart);
	next->workers = (int)workers;
	keep_listen(next, now, restart);
	keep_text(&next->admin_listen, now->admin_listen, "admin_listen", restart);
	keep_text(&next->state_dir, now->state_dir, "state_dir", restart);
	keep_text(&next->runtime_dir, now->runtime_dir, "runtime_dir", restart);
	keep_text(&next->admin_group, now->admin_group, "admin_group", restart);
	keep_text(&next->admin_full_group, now->admin_full_group, "admin_full_group", restart);
	keep_text(&next->log_file, now->log_file, "log_file", restart);
	if (next->sandbox != now->sandbox)
		changed(restart, "sandbox");
	next->sandbox = now->sandbox;
	if (next->core_files != now->core_files)
		changed(restart, "core_files");
	next->core_files = now->core_files;
	keep_number(&next->ledger.max_accounts, now->ledger.max_accounts, "max_accounts", restart);
	keep_number(&next->ledger.max_holds, now->ledger.max_holds, "max_holds", restart);
	/* The rings were made for bodies of a size. */
	if (next->max_body > max_body_most)
		keep_number(&next->max_body, now->max_body, "max_body", restart);
}

/* What is new. */

/* Keys that config_carry speaks for. */
static bool
is_carried(const struct config_trace *t)
{
	static const char *const key[][2] = {{"", "user"}, {"", "workers"}, {"", "listen"},
	    {"", "admin_listen"}, {"", "state_dir"}, {"", "runtime_dir"}, {"", "admin_group"},
	    {"", "admin_full_group"}, {"", "log_file"}, {"", "sandbox"}, {"", "core_files"},
	    {"ledger", "max_accounts"}, {"ledger", "max_holds"}};

	for (size_t i = 0; i < sizeof key / sizeof *key; i++)
		if (strcmp(t->section, key[i][0]) == 0 && strcmp(t->key, key[i][1]) == 0)
			return true;
	return false;
}

static const struct config_trace *
find(const struct config *c, const struct config_trace *like)
{
	for (size_t i = 0; i < c->traces; i++)
		if (strcmp(c->trace[i].section, like->section) == 0 &&
		    strcmp(c->trace[i].title, like->title) == 0 &&
		    strcmp(c->trace[i].key, like->key) == 0)
			return &c->trace[i];
	return NULL;
}

static bool
has_section(const struct config *c, const struct config_trace *like)
{
	for (size_t i = 0; i < c->traces; i++)
		if (strcmp(c->trace[i].section, like->section) == 0 &&
		    strcmp(c->trace[i].title, like->title) == 0)
			return true;
	return false;
}

/* Where a section's first key stands: it speaks for the others. */
static bool
is_first(const struct config *c, const struct config_trace *t)
{
	for (const struct config_trace *before = c->trace; before < t; before++)
		if (strcmp(before->section, t->section) == 0 &&
		    strcmp(before->title, t->title) == 0)
			return false;
	return true;
}

static void
name_section(const struct config_trace *t, struct buf *b)
{
	buf_str(b, t->section);
	if (*t->title != '\0')
		buf_printf(b, " \"%s\"", t->title);
}

/* The keys of t's section that `here` has and `there` has not, or, with `both`, has otherwise. */
static bool
list_keys(const struct config *here, const struct config *there, const struct config_trace *t,
    bool both, bool any, struct buf *b)
{
	for (size_t i = 0; i < here->traces; i++) {
		const struct config_trace *x = &here->trace[i], *other;

		if (strcmp(x->section, t->section) != 0 || strcmp(x->title, t->title) != 0 ||
		    is_carried(x))
			continue;
		/* That it is another in the file does not change it (config_carry). */
		if (strcmp(x->key, "max_body") == 0 && here->max_body == there->max_body)
			continue;
		other = find(there, x);
		if (other != NULL && (!both || other->hash == x->hash))
			continue;
		if (!any && *t->section != '\0') {
			name_section(t, b);
			buf_str(b, ": ");
		} else if (any) {
			buf_str(b, ", ");
		}
		buf_str(b, x->key);
		any = true;
	}
	return any;
}

static bool
titled(const struct config_trace *t)
{
	return *t->title != '\0';
}

void
config_describe(const struct config *next, const struct config *now, struct buf *b)
{
	for (size_t i = 0; i < now->traces; i++) {
		const struct config_trace *t = &now->trace[i];

		if (!is_first(now, t) || has_section(next, t))
			continue;
		if (titled(t)) {
			name_section(t, b);
			buf_str(b, " is gone\n");
		} else if (list_keys(now, next, t, false, false, b)) {
			buf_str(b, "\n");
		}
	}
	for (size_t i = 0; i < next->traces; i++) {
		const struct config_trace *t = &next->trace[i];
		bool any;

		if (!is_first(next, t))
			continue;
		if (titled(t) && !has_section(now, t)) {
			name_section(t, b);
			buf_str(b, " is new\n");
			continue;
		}
		any = list_keys(next, now, t, true, false, b);
		if (list_keys(now, next, t, false, any, b))
			buf_str(b, "\n");
	}
}

static bool
same_texts(char *const a[], int n, char *const b[], int m)
{
	bool same = n == m;

	for (int i = 0; i < n && same; i++)
		same = strcmp(a[i], b[i]) == 0;
	return same;
}

bool
config_same_provider(const struct config_provider *a, const struct config_provider *b)
{
	return a->dialect == b->dialect &&
	       same_texts(a->base_url, a->base_urls, b->base_url, b->base_urls) &&
	       same_texts(a->api_key, a->api_keys, b->api_key, b->api_keys) &&
	       (a->ca == NULL) == (b->ca == NULL) && a->ca_len == b->ca_len &&
	       (a->ca == NULL || memcmp(a->ca, b->ca, a->ca_len) == 0);
}
