/*
 * Goal:   no config file, and nothing in a file that it names, makes who reads it crash, hang or leak;
 *         it is refused with its faults, or is the same config however often it is read.
 * Method: libFuzzer or AFL++; the input stands in a record (daemon/config_source.h) for every file that
 *         is read: before its first NUL the config, after it what its files hold.
 *
 * objs: daemon/config.o daemon/config_file.o daemon/config_text.o daemon/config_value.o
 * objs: daemon/config_jwt.o daemon/config_source.o daemon/config_change.o daemon/buf.o daemon/utf8.o
 * objs: daemon/auth_scope.o daemon/config_check.o daemon/secret.o daemon/address.o daemon/log.o
 * objs: shm/money.o
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/config.h"
#include "daemon/config_change.h"
#include "daemon/config_source.h"
#include "daemon/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(condition)          \
	do {                      \
		if (!(condition)) \
			abort();  \
	} while (0)
#define PATH "tolld.conf"
#define FILE_PATH "/f"

/* In place of daemon/tokenizer.c. */
struct tokenizer {
	const char *name;
};

const struct tokenizer *
tokenizer_find(const char *name)
{
	static const struct tokenizer one = {"o200k_base"};

	return strcmp(name, one.name) == 0 ? &one : NULL;
}

const struct tokenizer *
tokenizer_open(const char *name, char *why, size_t why_size)
{
	(void)snprintf(why, why_size, "there is no such tokenizer");
	return tokenizer_find(name);
}

/* A record's entry, as daemon/config_source.c writes it. */
static void
put(struct buf *b, uint32_t kind, const char *name, const void *bytes, size_t len)
{
	uint32_t head[4] = {kind, 0, (uint32_t)strlen(name), (uint32_t)len};

	buf_add(b, head, sizeof head);
	buf_str(b, name);
	buf_add(b, bytes, len);
}

static struct config *
load(char **said, size_t *size)
{
	FILE *errors = open_memstream(said, size);
	struct config *c;

	CHECK(errors != NULL);
	c = config_load(PATH, errors);
	CHECK(fclose(errors) == 0);
	return c;
}

/* A fault a line, in words that a terminal takes. */
static void
check_said(const char *said, size_t size, bool loaded)
{
	CHECK(strlen(said) == size && (loaded || size > 0));
	CHECK(size == 0 || said[size - 1] == '\n');
	for (size_t i = 0; i < size; i++)
		CHECK(said[i] == '\n' || ((unsigned char)said[i] >= 0x20 && said[i] != 0x7f));
}

static void
check_config(const struct config *c)
{
	CHECK(c->listen_count >= 1);
	CHECK(*c->default_model == '\0' ||
	      config_model(c, c->default_model, strlen(c->default_model)) >= 0);
	for (int i = 0; i < c->model_count; i++) {
		const struct config_model *m = &c->model[i];

		CHECK(m->provider_count >= 1 && m->tokenizer != NULL);
		CHECK(utf8_valid(m->name, strlen(m->name)));
		CHECK(m->price.prompt >= 0 && m->price.completion >= 0 && m->price.cached >= 0);
		for (int k = 0; k < m->provider_count; k++)
			CHECK(m->providers[k] >= 0 && m->providers[k] < c->provider_count);
	}
	for (int i = 0; i < c->provider_count; i++)
		CHECK(c->provider[i].base_urls >= 1 || c->provider[i].api_keys >= 0);
	for (int i = 0; i < c->jwt_count; i++)
		CHECK(c->jwt[i].key_len > 0);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const uint8_t *nul = size > 0 ? memchr(data, 0, size) : NULL;
	size_t len = nul != NULL ? (size_t)(nul - data) : size,
	       more = nul != NULL ? size - len - 1 : 0;
	char *said[2] = {NULL, NULL}, *exact;
	struct config *c[2];
	struct buf record = {0}, changes = {0};
	size_t said_len[2];

	put(&record, 0, PATH, data, len);
	put(&record, 0, FILE_PATH, nul != NULL ? nul + 1 : data, more);
	put(&record, 1, "V", nul != NULL ? nul + 1 : data, more < 100 ? more : 100);
	exact = malloc(record.len);
	CHECK(!record.failed && exact != NULL);
	memcpy(exact, record.data, record.len);
	config_source_replay(exact, record.len);
	for (int i = 0; i < 2; i++) {
		c[i] = load(&said[i], &said_len[i]);
		check_said(said[i], said_len[i], c[i] != NULL);
	}
	CHECK((c[0] == NULL) == (c[1] == NULL) && strcmp(said[0], said[1]) == 0);
	if (c[0] != NULL) {
		check_config(c[0]);
		config_describe(c[0], c[1], &changes);
		CHECK(changes.len == 0);
	}
	for (int i = 0; i < 2; i++) {
		if (c[i] != NULL)
			config_forget_secrets(c[i]);
		config_free(c[i]);
		free(said[i]);
	}
	config_source_replay(NULL, 0);
	free(exact);
	buf_free(&record);
	buf_free(&changes);
	return 0;
}
