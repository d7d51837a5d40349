/*
 * What a key is to be good for.  Pure; for the admin process and for workers that mint keys.
 */
#include "daemon/key_rights.h"

#include <string.h>

#include "daemon/auth.h"

bool
key_rights_scope(struct key_rights *k, const char *name, size_t len, const char **why)
{
	uint32_t scope = auth_parse_scope(name, len);

	k->scopes |= scope;
	*why = "may be \"chat\", \"embeddings\" and \"mint\"";
	return scope != 0;
}

bool
key_rights_model(
    struct key_rights *k, const struct config *cfg, const char *name, size_t len, const char **why)
{
	struct books_models m = {k->models, k->models + k->models_len};
	size_t count = 0, other_len;
	const char *other;

	*why = "is not the name of a model here";
	if (config_model(cfg, name, len) < 0)
		return false;
	for (; books_models_next(&m, &other, &other_len); count++)
		if (other_len == len && memcmp(other, name, len) == 0)
			return true;
	*why = "has more than 16 models";
	if (count == KEY_MODELS_MAX || k->models_len + 1 + len > sizeof k->models)
		return false;
	if (count > 0)
		k->models[k->models_len++] = '\n';
	memcpy(k->models + k->models_len, name, len);
	k->models_len += len;
	return true;
}

/* The next of some names with commas between them; `at` beyond `len`: there are no more. */
static const char *
next_name(const char *names, size_t len, size_t *at, size_t *name_len)
{
	const char *name = names + *at;
	const char *comma = memchr(name, ',', len - *at);

	*name_len = comma != NULL ? (size_t)(comma - name) : len - *at;
	*at += *name_len + 1;
	return name;
}

bool
key_rights_scopes(struct key_rights *k, const char *names, size_t len, const char **why)
{
	size_t at = 0, n;

	while (at <= len) {
		const char *name = next_name(names, len, &at, &n);

		if (!key_rights_scope(k, name, n, why))
			return false;
	}
	return true;
}

bool
key_rights_models(
    struct key_rights *k, const struct config *cfg, const char *names, size_t len, const char **why)
{
	size_t at = 0, n;

	while (at <= len) {
		const char *name = next_name(names, len, &at, &n);

		if (!key_rights_model(k, cfg, name, n, why))
			return false;
	}
	return true;
}

static const char *const per_name[KEY_PERS] = {"none", "day", "month", "total"};

enum key_per
key_rights_per(const char *name, size_t len)
{
	for (unsigned i = KEY_PER_NONE + 1; i < KEY_PERS; i++)
		if (strlen(per_name[i]) == len && memcmp(per_name[i], name, len) == 0)
			return (enum key_per)i;
	return KEY_PER_NONE;
}

const char *
key_rights_per_name(uint32_t per)
{
	return per_name[per < KEY_PERS ? per : KEY_PER_NONE];
}
