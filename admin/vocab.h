#ifndef ADMIN_VOCAB_H
#define ADMIN_VOCAB_H

/*
 * From a list of tokens to the table that counts by it (daemon/tokenizer_table.h): what
 * `tollctl tokenizer build` does.  The files may come from anywhere: whatever is in them, it ends
 * in a table or in a sentence that says what is wrong.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/tokenizer_split.h"

/* Longest file that is read, and most bytes that all tokens may have together. */
#define VOCAB_FILE_MAX (64u << 20)

struct vocab_token {
	uint32_t at; /* in bytes */
	uint32_t len;
	uint32_t rank; /* whose pair has the lower one is joined first */
	uint32_t cut;  /* the builder's: bytes of the first of the two that make it, or 0 */
};

struct vocab {
	char name[64];
	struct split_rule rule;
	bool has_rule;
	bool whole_pieces; /* a piece that is a token is one, even if merging would not get there */
	bool normalizes;   /* its text would be normalized first, which ours is not */
	char *bytes;
	size_t bytes_len, bytes_cap;
	struct vocab_token *token;
	uint32_t count, cap;
	/* The only pairs that may be joined, in this order, if the file lists them. */
	struct vocab_merge {
		uint32_t at;          /* in bytes: the left one, then the right one */
		uint32_t left, right; /* their lengths */
	} * merge;
	uint32_t merges, merges_cap;
	char fault[256];
};

/* Read a file (.tiktoken or tokenizer.json), as its content shows.  0, or -1 with ->fault. */
int vocab_read(struct vocab *, const char *data, size_t len);
/* The rule of a name (o200k_base, cl100k_base, qwen, tekken); false if there is none. */
bool vocab_rule(const char *name, struct split_rule *);
extern const char vocab_rules[]; /* their names, for messages */
void vocab_free(struct vocab *);

/* Add a token; for the readers. */
int vocab_add(struct vocab *, const void *bytes, size_t len, uint32_t rank);
int vocab_add_merge(struct vocab *, const void *left, size_t, const void *right, size_t);
int vocab_fault(struct vocab *, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int vocab_read_json(struct vocab *, const char *data, size_t len);

/* The table, which the caller frees; NULL with ->fault.  Changes the order of its tokens. */
void *vocab_build(struct vocab *, size_t *size);

#endif
