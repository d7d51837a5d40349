#ifndef DAEMON_TOKENIZER_TABLE_H
#define DAEMON_TOKENIZER_TABLE_H

/*
 * A vocabulary as a file that is mapped read-only and shared by all processes: "NAME.tok", made
 * by `tollctl tokenizer build` from the list of its tokens, the same bytes for the same list.
 * In the byte order of the machine.  Pure but for mapping the file.
 *
 *   header   256 bytes
 *   pieces   hash of tokens of up to 15 bytes: is this piece a token?  Buckets of 4, a cache
 *            line each; an entry is the bytes, zeros, and the length in the last byte
 *   suffixes trie of the tokens read from their ends, 8 bytes a node (below)
 *   tokens   what each is made of, by number: the 256 bytes first, then in the order of merging
 *   pairs    hash of the two tokens that make each: 8 bytes, right | left << 21 | made << 42,
 *            UINT64_MAX for none; linear probing, a run never goes round (PAIR_SLACK)
 *   filter   a bit for each pair's hash: most pairs make nothing, and this says so at once
 *
 * Sections start at multiples of 64, and the file ends with the last.
 *
 * A node of the trie stands at the exclusive or of its parent's base and its byte, so that a
 * node's children lie in one block of 256.  Bits 0-7: that byte, 8: in use, 9-29: its token, 30-53:
 * its base, or 0 if it has no children.  The root is node 0.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/tokenizer_split.h"

#define TOKEN_TABLE_MAGIC "TOLLTOK"
#define TOKEN_TABLE_VERSION 2
#define TOKEN_TABLE_ORDER 0x01020304u

#define TOKENS_MAX (1u << 20)
#define TOKEN_BYTES_MAX 128
#define TOKEN_NONE UINT32_MAX
#define PIECE_INLINE_MAX 15
#define PAIR_SLACK 1024 /* of the pairs: hashes lead before it, and runs end in it */

struct token_table_header { /* 256 bytes */
	char magic[8];
	uint32_t version, order;
	uint64_t size;     /* of the file */
	uint64_t checksum; /* of all but itself; token_table_checksum */
	char name[64];
	struct split_rule rule;
	/*
	 * Each token is made of two that were made before it.  Then whether two tokens may stand side
	 * by side depends on these two alone, and a piece of any length is counted in a bounded
	 * memory.  If not, pieces of more than PIECE_UNORDERED_MAX bytes are cut there.
	 */
	uint8_t ordered;
	uint8_t zero[4];
	uint32_t tokens, buckets, nodes, pairs, filter_words;
	uint32_t pieces_at, suffixes_at, tokens_at, pairs_at, filter_at;
	uint8_t rest[112];
};
_Static_assert(sizeof(struct token_table_header) == 256, "token table header");

struct token_bucket {
	uint64_t entry[4][2];
};
_Static_assert(sizeof(struct token_bucket) == 64, "token bucket");

struct token_row {
	uint32_t left,
	    right;        /* what it is made of; TOKEN_NONE for bytes, and if nothing makes it */
	uint32_t shorter; /* the longest token that it ends with, or TOKEN_NONE */
	uint32_t len;     /* bytes */
};

/* A node of the trie. */
#define SUFFIX_BYTE(node) ((uint8_t)(node))
#define SUFFIX_USED ((uint64_t)1 << 8)
#define SUFFIX_TOKEN(node) ((uint32_t)((node) >> 9) & 0x1fffffu) /* SUFFIX_NO_TOKEN: none */
#define SUFFIX_NO_TOKEN 0x1fffffu
#define SUFFIX_BASE(node) ((uint32_t)((node) >> 30) & 0xffffffu)
#define SUFFIX_BASE_MAX 0xffffffu

static inline uint64_t
suffix_node(uint8_t byte, uint32_t token, uint32_t base)
{
	return byte | SUFFIX_USED | (uint64_t)token << 9 | (uint64_t)base << 30;
}

struct token_table {
	const struct token_table_header *h;
	const struct token_bucket *bucket;
	const uint64_t *suffix, *pair, *filter;
	const struct token_row *token;
};

/*
 * Map a file and check that nothing in it can lead a reader astray, whoever made it.  0, or -1
 * with a sentence in why.  All mappings of a file share their memory.  keep: the file stays open,
 * with its descriptor there; NULL: it does not.
 */
int token_table_open(
    struct token_table *, const char *path, int *keep, char *why, size_t why_size);
/* Map one that another process has checked; -1 with errno. */
int token_table_map(struct token_table *, int fd);
void token_table_close(struct token_table *);
/* The same for a table in memory, which the caller keeps. */
int token_table_check(
    struct token_table *, const void *data, size_t size, char *why, size_t why_size);
/* Of a table of `size` bytes, its header among them. */
uint64_t token_table_checksum(const struct token_table_header *, size_t size);

/* 64 x 64 bits, folded. */
static inline uint64_t
token_mix(uint64_t a, uint64_t b)
{
	unsigned __int128 x = (unsigned __int128)a * b;

	return (uint64_t)x ^ (uint64_t)(x >> 64);
}

static inline uint64_t
token_piece_hash(uint64_t lo, uint64_t hi)
{
	return token_mix(lo ^ UINT64_C(0x9e3779b97f4a7c15), hi ^ UINT64_C(0xc2b2ae3d27d4eb4f));
}

static inline uint64_t
token_pair_hash(uint32_t left, uint32_t right)
{
	return ((uint64_t)left << 21 | right) * UINT64_C(0x9e3779b97f4a7c15);
}

/* A hash's place among n. */
static inline uint32_t
token_place(uint64_t hash, uint32_t n)
{
	return (uint32_t)((hash >> 32) * n >> 32);
}

#define PAIR_NONE UINT64_MAX
#define PAIR_KEY(left, right) ((uint64_t)(left) << 21 | (right))
#define PAIR_KEY_OF(entry) ((entry) & ((UINT64_C(1) << 42) - 1))
#define PAIR_MADE(entry) ((uint32_t)((entry) >> 42))

#endif
