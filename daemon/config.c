/*
 * The config: from a file to struct config, by way of config_file.c (what the file says) and
 * config_check.c (what it means).  Any process.
 */
#include "daemon/config.h"

#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/config_file.h"
#include "daemon/secret.h"

struct config *
config_load(const char *path, FILE *errors)
{
	struct config_file file;
	struct config *c = config_realloc(NULL, 1, sizeof(*c));

	/* What has held the file's text, in stdio and in libConfuse's scanner, holds keys when it is freed:
	 * glibc fills it then. */
	(void)mallopt(M_PERTURB, 0xff);
	memset(c, 0, sizeof(*c));
	c->path = config_strdup(path);
	config_defaults(c);
	if (config_file_read(&file, path, config_shapes))
		config_check(&file, c);
	if (config_file_report(&file, errors) > 0) {
		config_free(c);
		c = NULL;
	}
	if (c) {
		c->trace = file.trace;
		c->traces = file.traces;
		file.trace = NULL;
		file.traces = 0;
	}
	config_file_free(&file);
	(void)mallopt(M_PERTURB, 0);
	return c;
}

struct config *
config_ref(const struct config *c)
{
	struct config *mine = (struct config *)(uintptr_t)c;

	mine->refs++;
	return mine;
}

void
config_free(struct config *c)
{
	if (!c || c->refs-- > 0)
		return;
	for (int i = 0; i < c->listen_count; i++)
		free(c->listen[i]);
	for (int i = 0; i < c->origin_count; i++)
		free(c->origins[i]);
	for (int i = 0; i < c->provider_count; i++) {
		free(c->provider[i].name);
		for (int j = 0; j < c->provider[i].base_urls; j++)
			free(c->provider[i].base_url[j]);
		for (int j = 0; j < c->provider[i].api_keys; j++)
			secret_free(c->provider[i].api_key[j]);
		free(c->provider[i].ca);
		for (int j = 0; j < c->provider[i].refused; j++)
			free(c->provider[i].refuse[j]);
	}
	for (int i = 0; i < c->model_count; i++) {
		free(c->model[i].name);
		free(c->model[i].upstream);
	}
	for (int i = 0; i < c->jwt_count; i++) {
		free(c->jwt[i].name);
		free(c->jwt[i].key_file);
		free(c->jwt[i].audience);
		free(c->jwt[i].kid);
		secret_free(c->jwt[i].key);
	}
	config_trace_free(c->trace, c->traces);
	free(c->path);
	free(c->user);
	free(c->default_model);
	free(c->admin_listen);
	free(c->admin_group);
	free(c->admin_full_group);
	free(c->log_file);
	free(c->state_dir);
	free(c->runtime_dir);
	free(c);
}

void
config_forget_secrets(struct config *c)
{
	for (int i = 0; i < c->provider_count; i++)
		for (int j = 0; j < c->provider[i].api_keys; j++)
			explicit_bzero(
			    c->provider[i].api_key[j], strlen(c->provider[i].api_key[j]));
	for (int i = 0; i < c->jwt_count; i++)
		if (c->jwt[i].key != NULL)
			explicit_bzero(c->jwt[i].key, c->jwt[i].key_len);
}

int
config_model(const struct config *c, const char *name, size_t len)
{
	for (int i = 0; i < c->model_count; i++) {
		const char *known = c->model[i].name;

		if (known && strlen(known) == len && memcmp(known, name, len) == 0)
			return i;
	}
	return -1;
}
