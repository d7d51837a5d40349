/*
 * Byte-pair encoding of a piece.  Pure.
 *
 * The definition: start from bytes; of all neighbours that together are a token, join those whose
 * token comes first in the vocabulary, the leftmost of equals; until there are none.  Done so, it
 * takes the square of the length.  Instead:
 *
 * A vocabulary is ordered if each token is made of two that come before it.  Then merges happen in
 * the order of tokens, and whether two tokens that stand side by side in a row of tokens would
 * have been joined differently depends on these two alone: follow the parts along their common
 * border back in time, and see whether any two that were there at the same time make a token
 * earlier than either was used up (merge_pair_stays).  A row in which every two neighbours stay is
 * the encoding of its bytes, and there is only one.  So it can be searched from any side: here
 * from the end, the longest token first, with a mark on places that lead nowhere; and for a piece
 * that grows, each prefix's last token is the one that stays behind the encoding of what is
 * before it.
 *
 * (The idea of deciding by neighbours alone was published with GitHub's "bpe" crate.)
 */
#include "daemon/tokenizer_merge.h"

#include <string.h>

#define BACK_MAX 256 /* longer pieces go through a ring */

/* What two tokens make, or TOKEN_NONE. */
static inline uint32_t
made_of(const struct token_table *t, uint32_t left, uint32_t right)
{
	uint64_t key = PAIR_KEY(left, right), hash = token_pair_hash(left, right);
	uint32_t bit = token_place(hash, t->h->filter_words * 64);

	if ((t->filter[bit >> 6] >> (bit & 63) & 1) == 0)
		return TOKEN_NONE;
	for (const uint64_t *p = &t->pair[token_place(hash, t->h->pairs - PAIR_SLACK)];
	     *p != PAIR_NONE; p++)
		if (PAIR_KEY_OF(*p) == key)
			return PAIR_MADE(*p);
	return TOKEN_NONE;
}

bool
merge_pair_stays(const struct token_table *t, uint32_t left, uint32_t right)
{
	/* left and right are joined to what surrounds them as these. */
	uint32_t left_until = UINT32_MAX, right_until = UINT32_MAX;

	for (;;) {
		uint32_t made = made_of(t, left, right);

		/* Of equal merges the leftmost comes first, which is the left one's own. */
		if (made < left_until && made <= right_until && made != TOKEN_NONE)
			return false;
		/* Back to what was there before the later of the two.  Bytes come first of all. */
		if (left > right) {
			if (t->token[left].left == TOKEN_NONE)
				return true;
			left_until = left;
			left = t->token[left].right;
		} else {
			if (t->token[right].left == TOKEN_NONE)
				return true;
			right_until = right;
			right = t->token[right].left;
		}
	}
}

/*
 * The longest token that ends a text, of at least one byte, whose byte i from the end is at
 * p[(end - i) & mask].
 */
static inline uint32_t
longest_suffix(
    const struct token_table *t, const uint8_t *p, uint64_t end, uint64_t mask, size_t len)
{
	uint32_t token = p[(end - 1) & mask], base = SUFFIX_BASE(t->suffix[0]);
	size_t deepest = 1;

	for (size_t i = 1; i <= len; i++) {
		uint8_t c = p[(end - i) & mask];
		uint64_t node = t->suffix[base ^ c];

		if ((node & (0xff | SUFFIX_USED)) != (c | SUFFIX_USED))
			break;
		base = SUFFIX_BASE(node);
		if (SUFFIX_TOKEN(node) != SUFFIX_NO_TOKEN) {
			token = SUFFIX_TOKEN(node);
			deepest = i;
		}
		if (base == 0)
			break;
	}
	/* Only a table that is not what it says puts a token at another depth than its length. */
	return t->token[token].len == deepest ? token : p[(end - 1) & mask];
}

/* A whole piece, from its end; at most BACK_MAX bytes. */
static uint32_t
count_back(const struct token_table *t, const uint8_t *p, size_t len)
{
	uint64_t dead[BACK_MAX / 64 + 1] = {0};
	uint32_t row[BACK_MAX]; /* the tokens found, last one first */
	uint32_t n = 0, token = longest_suffix(t, p, len, SIZE_MAX, len);
	size_t at = len; /* they cover what is behind it */

	for (;;) {
		size_t start = at - t->token[token].len;

		if ((dead[start >> 6] >> (start & 63) & 1) == 0 &&
		    (n == 0 || merge_pair_stays(t, token, row[n - 1]))) {
			row[n++] = token;
			if (start == 0)
				return n;
			at = start;
			token = longest_suffix(t, p, at, SIZE_MAX, at);
			continue;
		}
		token = t->token[token].shorter;
		while (token == TOKEN_NONE) {
			/* Nothing stays before this place: what begins here is wrong. */
			if (n == 0)
				return (uint32_t)len; /* not with a table that is what it says */
			dead[at >> 6] |= UINT64_C(1) << (at & 63);
			token = row[--n];
			at += t->token[token].len;
			token = t->token[token].shorter;
		}
	}
}

/* By the definition.  At most PIECE_UNORDERED_MAX bytes. */
static uint32_t
count_by_scanning(const struct token_table *t, const uint8_t *p, size_t len)
{
	uint32_t part[PIECE_UNORDERED_MAX], makes[PIECE_UNORDERED_MAX];
	size_t n = len, best;

	for (size_t i = 0; i < n; i++)
		part[i] = p[i];
	for (size_t i = 0; i + 1 < n; i++)
		makes[i] = made_of(t, part[i], part[i + 1]);
	while (n > 1) {
		best = 0;
		for (size_t i = 1; i + 1 < n; i++)
			if (makes[i] < makes[best])
				best = i;
		if (makes[best] == TOKEN_NONE)
			break;
		part[best] = makes[best];
		n--;
		memmove(&part[best + 1], &part[best + 2], (n - best - 1) * sizeof *part);
		memmove(&makes[best], &makes[best + 1], (n - best - 1) * sizeof *makes);
		if (best + 1 < n)
			makes[best] = made_of(t, part[best], part[best + 1]);
		if (best > 0)
			makes[best - 1] = made_of(t, part[best - 1], part[best]);
	}
	return (uint32_t)n;
}

/* A piece of 2 to 15 bytes as two words: its bytes, zeros, and the length in the last byte. */
static inline void
small_key(const uint8_t *p, size_t len, uint64_t key[2])
{
	uint64_t lo, hi = 0;

	if (len >= 8) {
		memcpy(&lo, p, 8);
		if (len > 8) {
			memcpy(&hi, p + len - 8, 8);
			hi >>= (16 - len) * 8; /* without what is in lo */
		}
	} else if (len >= 4) {
		uint32_t a, b;

		memcpy(&a, p, 4);
		memcpy(&b, p + len - 4, 4);
		lo = a | (uint64_t)b << (len - 4) * 8;
	} else {
		lo = p[0] | (uint64_t)p[len / 2] << len / 2 * 8 |
		     (uint64_t)p[len - 1] << (len - 1) * 8;
	}
	key[0] = lo;
	key[1] = hi | (uint64_t)len << 56;
}

static inline bool
is_token(const struct token_table *t, const uint64_t key[2], uint64_t hash)
{
	uint32_t i = token_place(hash, t->h->buckets);

	for (;;) {
		const struct token_bucket *b = &t->bucket[i];

		for (int k = 0; k < 4; k++)
			if (b->entry[k][0] == key[0] && b->entry[k][1] == key[1])
				return true;
		if (b->entry[3][1] == 0)
			return false;
		i = i + 1 < t->h->buckets ? i + 1 : 0;
	}
}

/* A piece of more than a byte that is not one token, or not known to be. */
static uint32_t
count_piece(const struct token_table *t, const uint8_t *p, size_t len)
{
	uint32_t n = 0;

	if (len > PIECE_INLINE_MAX && len <= TOKEN_BYTES_MAX &&
	    t->token[longest_suffix(t, p, len, SIZE_MAX, len)].len == len)
		return 1;
	if (t->h->ordered && len <= BACK_MAX)
		return count_back(t, p, len);
	if (t->h->ordered) {
		struct merge_bytes bytes;
		struct merge_run run;

		merge_bytes_init(&bytes);
		merge_run_start(&run, 0);
		for (size_t i = 0; i < len; i++) {
			merge_bytes_add(&bytes, p[i]);
			merge_run_step(t, &run, &bytes);
		}
		return merge_run_count(&run, len);
	}
	for (; len > PIECE_UNORDERED_MAX; len -= PIECE_UNORDERED_MAX, p += PIECE_UNORDERED_MAX)
		n += count_by_scanning(t, p, PIECE_UNORDERED_MAX);
	return n + count_by_scanning(t, p, len);
}

static inline uint32_t
count_small(const struct token_table *t, struct merge_cache *cache, const uint8_t *p, size_t len)
{
	uint64_t key[2], hash, *entry;
	uint32_t n;

	small_key(p, len, key);
	hash = token_piece_hash(key[0], key[1]);
	if (cache == NULL)
		return is_token(t, key, hash) ? 1 : count_piece(t, p, len);
	entry = cache->small[hash % (sizeof cache->small / sizeof *cache->small)];
	if (entry[0] == key[0] && (entry[1] & ~(UINT64_C(0xf0) << 56)) == key[1])
		return (uint32_t)(entry[1] >> 60);
	n = is_token(t, key, hash) ? 1 : count_piece(t, p, len);
	entry[0] = key[0];
	entry[1] = key[1] | (uint64_t)n << 60;
	return n;
}

static uint32_t
count_large(const struct token_table *t, struct merge_cache *cache, const uint8_t *p, size_t len)
{
	uint64_t key[4] = {0}, hash, *entry;
	uint32_t n;

	memcpy(key, p, len);
	key[3] |= (uint64_t)len << 48;
	hash = token_mix(
	    token_piece_hash(key[0], key[1]) ^ key[2], key[3] ^ UINT64_C(0x9e3779b97f4a7c15));
	entry = cache->large[hash % (sizeof cache->large / sizeof *cache->large)];
	if (entry[0] == key[0] && entry[1] == key[1] && entry[2] == key[2] &&
	    (entry[3] & (UINT64_MAX >> 8)) == key[3])
		return (uint32_t)(entry[3] >> 56);
	n = count_piece(t, p, len);
	memcpy(entry, key, sizeof key);
	entry[3] |= (uint64_t)n << 56;
	return n;
}

uint32_t
merge_count(const struct token_table *t, struct merge_cache *cache, const char *piece, size_t len)
{
	const uint8_t *p = (const uint8_t *)piece;

	if (len <= 1)
		return (uint32_t)len;
	if (len <= PIECE_INLINE_MAX)
		return count_small(t, cache, p, len);
	if (len <= 30 && cache != NULL)
		return count_large(t, cache, p, len);
	return count_piece(t, p, len);
}

void
merge_bytes_init(struct merge_bytes *bytes)
{
	bytes->len = bytes->same = 0;
}

void
merge_bytes_add(struct merge_bytes *bytes, uint8_t byte)
{
	bool again = bytes->len > 0 && bytes->byte[(bytes->len - 1) % MERGE_RING] == byte;

	bytes->same = again ? bytes->same + 1 : 1;
	bytes->byte[bytes->len++ % MERGE_RING] = byte;
}

void
merge_run_start(struct merge_run *run, uint64_t at)
{
	run->start = at;
	run->round = 0;
}

/*
 * In a long run of one byte, tokens come round: it becomes the same long token again and again,
 * and some others at the end; after a prefix that is shorter by that token, what stood at the end
 * stands there again.  If the one before it is the same as it was then, this pair is known to stay,
 * and nothing needs to be searched: else a run of blanks, which has a token of nearly every length,
 * would cost a hundred times what text does.
 */
static uint32_t
guess(const struct token_table *t, struct merge_run *run, const struct merge_bytes *bytes)
{
	uint64_t end = bytes->len, at, before, then;
	uint32_t token;

	if (bytes->same < MERGE_RING || end - run->start < MERGE_RING)
		return TOKEN_NONE;
	for (int again = 0; again < 2; again++) {
		/* What comes again and again is what stands far from the end. */
		for (at = end - 1; again && end - at <= MERGE_SEEN; at -= run->round)
			run->round = t->token[run->last[at % MERGE_RING]].len;
		if (run->round == 0)
			continue;
		token = run->last[(end - run->round) % MERGE_RING];
		before = end - t->token[token].len;
		then = before - run->round;
		if (then > run->start &&
		    run->last[before % MERGE_RING] == run->last[then % MERGE_RING])
			return token;
	}
	return TOKEN_NONE;
}

void
merge_run_step(const struct token_table *t, struct merge_run *run, const struct merge_bytes *bytes)
{
	uint64_t end = bytes->len, most = end - run->start;
	uint32_t token;

	token = guess(t, run, bytes);
	if (token != TOKEN_NONE) {
		run->last[end % MERGE_RING] = token;
		run->count[end % MERGE_RING] =
		    run->count[(end - t->token[token].len) % MERGE_RING] + 1;
		return;
	}
	if (most > TOKEN_BYTES_MAX)
		most = TOKEN_BYTES_MAX;
	token = longest_suffix(t, bytes->byte, end, MERGE_RING - 1, most);
	for (; token != TOKEN_NONE; token = t->token[token].shorter) {
		uint64_t before = end - t->token[token].len;

		if (before == run->start ||
		    merge_pair_stays(t, run->last[before % MERGE_RING], token)) {
			run->last[end % MERGE_RING] = token;
			run->count[end % MERGE_RING] = merge_run_count(run, before) + 1;
			return;
		}
	}
	/* Not with a table that is what it says: a byte always follows something. */
	run->last[end % MERGE_RING] = bytes->byte[(end - 1) % MERGE_RING];
	run->count[end % MERGE_RING] = merge_run_count(run, end - 1) + 1;
}

uint32_t
merge_run_count(const struct merge_run *run, uint64_t end)
{
	return end == run->start ? 0 : run->count[end % MERGE_RING];
}
