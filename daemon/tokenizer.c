/*
 * Tokenizers by name.  Pure but for the files that it maps.
 *
 * Tables are looked for beside the program (a build) and in ../share/tolld/tokenizers from it (an
 * installation): so both find their own, wherever they were put.
 */
#include "daemon/tokenizer.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/tokenizer_vocab.h"

#define OPEN_MAX_TOKENIZERS 64
/* What of a model nothing is known may count more than cl100k_base: docs/metering.md. */
#define ESTIMATE_SCALE (TOKENS_SCALE * 7 / 5)

static struct tokenizer opened[OPEN_MAX_TOKENIZERS];
static int opened_count;
static int file[OPEN_MAX_TOKENIZERS]; /* of each, or -1 */
static bool keep_files;

/* The path of an installed table; false if there is none. */
static bool
find_installed(const char *name, char path[static PATH_MAX])
{
	static const char *const places[] = {
	    "tokenizers", "../tokenizers", "../share/tolld/tokenizers"};
	char self[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
	char *slash;

	self[n < 0 ? 0 : n] = '\0';
	slash = strrchr(self, '/');
	if (slash == NULL)
		return false;
	*slash = '\0';
	for (size_t i = 0; i < sizeof places / sizeof *places; i++)
		if (snprintf(path, PATH_MAX, "%s/%s/%s.tok", self, places[i], name) < PATH_MAX &&
		    access(path, R_OK) == 0)
			return true;
	return false;
}

static bool
is_name(const char *s)
{
	size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-");

	return n > 0 && n < 64 && s[n] == '\0' && s[0] != '.';
}

const struct tokenizer *
tokenizer_find(const char *name)
{
	for (int i = 0; i < opened_count; i++)
		if (strcmp(opened[i].name, name) == 0)
			return &opened[i];
	return NULL;
}

/* A table was mapped into the next row: the rest of it.  False without memory. */
static bool
complete(const char *name, int fd)
{
	struct tokenizer *t = &opened[opened_count];
	bool estimate = strcmp(name, "estimate") == 0;

	t->name = strdup(name);
	t->cache = calloc(1, sizeof *t->cache);
	if (t->name == NULL || t->cache == NULL) {
		free(t->name);
		free(t->cache);
		token_table_close(&t->table);
		return false;
	}
	t->exact = !estimate;
	t->rule = t->table.h->rule;
	if (estimate)
		t->rule.digits = 1; /* many newer vocabularies have no numbers of several digits */
	file[opened_count++] = fd;
	return true;
}

const struct tokenizer *
tokenizer_open(const char *name, char *why, size_t why_size)
{
	bool estimate = strcmp(name, "estimate") == 0;
	struct tokenizer *t = &opened[opened_count];
	const struct tokenizer *known = tokenizer_find(name);
	char path[PATH_MAX], fault[128];
	int fd = -1;

	if (known != NULL)
		return known;
	if (opened_count == OPEN_MAX_TOKENIZERS) {
		(void)snprintf(why, why_size, "more than %d tokenizers", OPEN_MAX_TOKENIZERS);
		return NULL;
	}
	if (strchr(name, '/') != NULL) {
		(void)snprintf(path, sizeof path, "%s", name);
	} else if (!is_name(name)) {
		(void)snprintf(why, why_size, "this is no tokenizer's name");
		return NULL;
	} else if (!find_installed(estimate ? "cl100k_base" : name, path)) {
		(void)snprintf(why, why_size,
		    estimate ? "there is no cl100k_base.tok, which the estimate needs"
		             : "there is no tokenizer of this name");
		return NULL;
	}
	if (token_table_open(&t->table, path, keep_files ? &fd : NULL, fault, sizeof fault) != 0) {
		if (strcmp(name, path) == 0) /* who complains names it */
			(void)snprintf(why, why_size, "%s", fault);
		else
			(void)snprintf(why, why_size, "%s: %s", path, fault);
		return NULL;
	}
	if (!complete(name, fd)) {
		if (fd >= 0)
			close(fd);
		(void)snprintf(why, why_size, "out of memory");
		return NULL;
	}
	return t;
}

int
tokenizer_adopt(const char *name, int fd)
{
	if (tokenizer_find(name) != NULL)
		return 0;
	if (opened_count == OPEN_MAX_TOKENIZERS) {
		errno = ENOSPC;
		return -1;
	}
	if (token_table_map(&opened[opened_count].table, fd) != 0)
		return -1;
	if (complete(name, -1))
		return 0;
	errno = ENOMEM;
	return -1;
}

void
tokenizer_keep_files(void)
{
	keep_files = true;
}

int
tokenizer_opened(void)
{
	return opened_count;
}

int
tokenizer_file(int number, const char **name)
{
	*name = opened[number].name;
	return file[number];
}

void
tokenizer_drop_files(void)
{
	for (int i = 0; i < opened_count; i++) {
		if (keep_files && file[i] >= 0)
			close(file[i]);
		file[i] = -1;
	}
}

const char *
tokenizer_name(const struct tokenizer *t)
{
	return t->name;
}

bool
tokenizer_exact(const struct tokenizer *t)
{
	return t->exact;
}

uint32_t
tokenizer_scale(const struct tokenizer *t)
{
	return t->exact ? TOKENS_SCALE : ESTIMATE_SCALE;
}
