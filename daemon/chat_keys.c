/*
 * Keys of requests: what passes through must not undo what was checked here.  Pure.
 */
#include "daemon/chat_keys.h"

#include <string.h>

#include "daemon/utf8.h"

/*
 * Words of providers' own for what is ours to set: llama.cpp goes by its n_predict, whatever
 * max_tokens says, and OpenRouter by the models of a list where the one that was priced fails.  Who
 * set them would get more than was reserved, or dearer than what is charged.
 */
static const struct {
	const char *theirs, *ours;
} other_name[] = {
    {"n_predict", "max_tokens"},
    {"num_predict", "max_tokens"},
    {"max_new_tokens", "max_tokens"},
    {"max_output_tokens", "max_tokens"},
    {"max_gen_toks", "max_tokens"},
    {"max_length", "max_tokens"},
    {"n_cmpl", "n"},
    {"best_of", "n"},
    {"num_return_sequences", "n"},
    {"models", "model"},
    {"fallbacks", "model"},
};

/* The key's text, as far as there is room for it, never half a character. */
static const char *
field_of(struct json_value key, char field[static 64])
{
	struct buf name = {0};
	size_t n;

	json_decode_buf(key, &name);
	n = name.len < 63 ? name.len : 63;
	if (n > 0)
		memcpy(field, name.data, n);
	buf_free(&name);
	field[utf8_valid_prefix(field, n)] = '\0';
	return field;
}

int
chat_keys_check(struct json_value root, const char *const names[], struct chat_fault *f)
{
	const char *it = NULL;
	struct json_value key, v;

	while (json_each(root, &it, &key, &v))
		for (int i = 0; names[i] != NULL; i++)
			if (json_is_like(key, names[i]) && !json_is(key, names[i]))
				return chat_request_refuse(f, field_of(key, f->field),
				    "'%s' is not '%s', but a provider could take it for that",
				    f->field, names[i]);
	return 0;
}

int
chat_keys_check_words(struct json_value root, struct chat_fault *f)
{
	const char *it = NULL;
	struct json_value key, v;

	while (json_each(root, &it, &key, &v))
		for (size_t i = 0; i < sizeof other_name / sizeof *other_name; i++)
			if (v.type != JSON_NULL && json_is_like(key, other_name[i].theirs))
				return chat_request_refuse(f, field_of(key, f->field),
				    "'%s' is not known here: '%s' says it", f->field,
				    other_name[i].ours);
	return 0;
}

static bool
refused_by(const struct config_provider *p, struct json_value key)
{
	for (int i = 0; i < p->refused; i++)
		if (json_is_like(key, p->refuse[i]))
			return true;
	return false;
}

int
chat_keys_check_refused(
    const struct config *cfg, int model, struct json_value root, struct chat_fault *f)
{
	const struct config_model *m = &cfg->model[model];
	const char *it = NULL;
	struct json_value key, v;

	while (json_each(root, &it, &key, &v))
		for (int i = 0; i < m->provider_count; i++)
			if (refused_by(&cfg->provider[m->providers[i]], key))
				return chat_request_refuse(f, field_of(key, f->field),
				    "'%s' may not be asked for here", f->field);
	return 0;
}
