#ifndef DAEMON_TOKENIZER_MERGE_H
#define DAEMON_TOKENIZER_MERGE_H

/*
 * Byte-pair encoding of one piece, of which only the number of tokens is wanted.  Pure; no
 * allocation, and time in proportion to the length whatever the bytes are.
 */
#include <stddef.h>
#include <stdint.h>

#include "daemon/tokenizer_table.h"

/* A vocabulary that is not ordered (tokenizer_table.h) has pieces cut at this length. */
#define PIECE_UNORDERED_MAX 96

/*
 * Counts of pieces that were seen lately, of one table.  Texts repeat themselves, and a table is
 * larger than a processor's cache.  A process's own, and of one thread.  An entry is the piece's
 * bytes, zeros, its length and its count; an empty one has no length.
 */
struct merge_cache {
	uint64_t small[8192]
	              [2]; /* up to 15 bytes; length and count in the last byte, 4 bits each */
	uint64_t large[4096][4]; /* up to 30 bytes; in the last two bytes */
};

/* Tokens of a whole piece.  The cache may be NULL. */
uint32_t merge_count(
    const struct token_table *, struct merge_cache *, const char *piece, size_t len);

/*
 * A piece that grows without bound, of an ordered vocabulary: the count of each of its last
 * MERGE_SEEN prefixes.
 */
#define MERGE_RING 256
#define MERGE_SEEN (MERGE_RING - TOKEN_BYTES_MAX)

struct merge_bytes { /* what all pieces that grow at one place of a text share */
	uint64_t len;
	uint64_t same; /* so many of the last ones are alike */
	uint8_t byte[MERGE_RING];
};

struct merge_run {
	uint64_t start;            /* where in the bytes the piece begins */
	uint32_t round;            /* in a run of one byte: of its token's length, or 0 */
	uint32_t last[MERGE_RING]; /* by end: the last token of the prefix */
	uint32_t count[MERGE_RING];
};

void merge_bytes_init(struct merge_bytes *);
void merge_bytes_add(struct merge_bytes *, uint8_t);
void merge_run_start(struct merge_run *, uint64_t at);
/* The byte at bytes->len - 1 has come. */
void merge_run_step(const struct token_table *, struct merge_run *, const struct merge_bytes *);
/* Tokens of what lies between the start and an end that is not more than MERGE_SEEN back. */
uint32_t merge_run_count(const struct merge_run *, uint64_t end);

/* For who builds a table: would the two stay apart?  Of an ordered one. */
bool merge_pair_stays(const struct token_table *, uint32_t left, uint32_t right);

#endif
