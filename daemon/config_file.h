#ifndef DAEMON_CONFIG_FILE_H
#define DAEMON_CONFIG_FILE_H

/*
 * A config file as a list of sections and values with their lines, not yet understood, and the
 * faults found in it.  Between config.c, config_text.c, config_file.c and config_check.c only.
 * Master; fatal when out of memory.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct config_file;
struct config_key;

struct config_entry {
	size_t section; /* index in config_file.section */
	char *key;
	char *value; /* quotes and escapes resolved; ${VAR} by config_text_expand */
	int line;
	bool first; /* stands right after '=', or is the first of its list */
};

struct config_section {
	const char *name; /* "" is the top level, always section 0 */
	char *title;      /* NULL where there is none */
	int line;
};

struct config_fault {
	int line;
	bool warning;
	char *text; /* "KEY: what is wrong" */
};

/* What a key was given, as a hash: to tell which keys another file gives something else. */
struct config_trace {
	char *section, *title, *key; /* title: "" where there is none */
	uint64_t hash;
};

struct config_file {
	const char *path;
	struct config_trace *trace;
	size_t traces;
	struct config_section *section;
	struct config_entry *entry;
	struct config_fault *fault;
	size_t sections, entries, faults;
	bool broken; /* reading stopped at a syntax error: what follows it is not known */
};

/* Put a value, already expanded, into `field`; report a fault if it is wrong. */
typedef void config_set_fn(struct config_file *, const struct config_key *, void *field,
    const struct config_entry *, const char *value);

/* A key that may stand in a section, and what it may be.  Tables end with a NULL name. */
struct config_key {
	const char *name;
	config_set_fn *set;
	size_t offset; /* of its field, in what the section describes */
	int64_t min, max;
	bool list;
};

/* What sections there are.  Tables end with a NULL section; the first is the top level (""). */
struct config_shape {
	const char *section;
	bool titled;
	const struct config_key *keys;
};

/* config_file.c: read and parse; false if there is nothing to check (faults say why). */
bool config_file_read(struct config_file *, const char *path, const struct config_shape *);
void config_file_free(struct config_file *);
void config_fault(struct config_file *, int line, const char *key, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
void config_warning(struct config_file *, int line, const char *key, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* Write all faults and warnings in the order of their lines; how many were faults. */
size_t config_file_report(struct config_file *, FILE *);

/* The only value of an empty list. */
#define CONFIG_EMPTY "\003"

/* config_text.c: a file's bytes made fit for libConfuse (the caller's to free); NULL after a
 * fault. */
char *config_text_prepare(struct config_file *, const char *text, size_t len);
/* Replace ${VAR}; the caller frees the result.  NULL after a fault. */
char *config_text_expand(struct config_file *, const struct config_entry *);

/* Note a value of a key, and what its files hold (config_source.h); several make one hash. */
void config_trace_free(struct config_trace *, size_t);
void config_trace(struct config_file *, size_t section, const char *key, const char *value);

/* config_check.c. */
struct config;
extern const struct config_shape config_shapes[];
void config_defaults(struct config *);
void config_check(struct config_file *, struct config *);

/* config_jwt.c: a jwt block, before and after its keys are applied to the last of config.jwt. */
extern const struct config_key config_jwt_keys[];
bool config_jwt_begin(struct config_file *, struct config *, size_t section);
void config_jwt_end(struct config_file *, struct config *, size_t section);

/* As their namesakes, but fatal when out of memory. */
char *config_strdup(const char *);
void *config_realloc(void *, size_t count, size_t size);

#endif
