/*
 * From a list of tokens to the table that counts by it.
 *
 * What a token is made of is found by encoding its own bytes: nothing that surrounds them in a
 * text can change the order of the merges inside them, so if it ever comes about, then from these
 * two parts.  (One that does not come about is only ever a piece of its own.)
 *
 * The table is the same for the same list, byte for byte: where order matters it is that of the
 * tokens, and the hash with a random seed only finds them.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "admin/vocab.h"
#include "daemon/tokenizer_table.h"

#define NODES_MAX (SUFFIX_BASE_MAX + 1)
#define BLOCK 256
#define OPEN_BLOCKS 16 /* of the trie, that are still filled */

struct builder {
	struct vocab *v;
	uint32_t *map; /* token by its bytes; TOKEN_NONE where there is none */
	uint64_t mask, seed;
	struct pair_slot {
		uint64_t key;
		uint32_t rank, made;
	} * pair; /* merges by their two tokens, if the file lists them */
	uint64_t pair_mask;
	uint32_t *order; /* tokens by reversed bytes */
	uint64_t *node;  /* the trie */
	uint8_t *base_used;
	uint16_t *room; /* free nodes of each block */
	uint32_t nodes, nodes_cap, open;
	bool ordered;
	struct token_row *row;
};

int
vocab_fault(struct vocab *v, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(v->fault, sizeof v->fault, fmt, ap);
	va_end(ap);
	return -1;
}

static int
no_memory(struct builder *b)
{
	return vocab_fault(b->v, "out of memory");
}

static const uint8_t *
token_bytes(const struct builder *b, uint32_t i)
{
	return (const uint8_t *)b->v->bytes + b->v->token[i].at;
}

static uint64_t
bytes_hash(const struct builder *b, const uint8_t *p, size_t len)
{
	uint64_t h = b->seed ^ len, word;

	for (; len > 0; p += word, len -= word) {
		uint64_t part = 0;

		word = len < 8 ? len : 8;
		memcpy(&part, p, word);
		h = token_mix(h ^ part, UINT64_C(0x9e3779b97f4a7c15) ^ b->seed);
	}
	return h;
}

static uint32_t *
find_bytes(const struct builder *b, const uint8_t *p, size_t len)
{
	uint64_t i = bytes_hash(b, p, len) & b->mask;

	while (b->map[i] != TOKEN_NONE && (b->v->token[b->map[i]].len != len ||
	                                      memcmp(token_bytes(b, b->map[i]), p, len) != 0))
		i = (i + 1) & b->mask;
	return &b->map[i];
}

static int
by_rank(const void *x, const void *y)
{
	const struct vocab_token *a = x, *b = y;

	if (a->rank != b->rank)
		return a->rank < b->rank ? -1 : 1;
	return (a->at > b->at) - (a->at < b->at);
}

/* Bytes first, by their value, then by rank. */
static int
sort_tokens(struct builder *b)
{
	struct vocab *v = b->v;
	struct vocab_token *t = v->token, byte[256] = {{0}};
	uint32_t n = 0, missing = 0;

	for (uint32_t i = 0; i < v->count; i++) {
		if (t[i].len == 1) {
			struct vocab_token *to = &byte[(uint8_t)v->bytes[t[i].at]];

			if (to->len != 0)
				return vocab_fault(v, "the byte 0x%02x is there twice",
				    (uint8_t)v->bytes[t[i].at]);
			*to = t[i];
		} else {
			t[n++] = t[i];
		}
	}
	for (int i = 255; i >= 0; i--)
		if (byte[i].len == 0)
			missing = (uint32_t)i + 1;
	if (missing > 0)
		return vocab_fault(
		    v, "this is not byte-level: it has no token for the byte 0x%02x", missing - 1);
	qsort(t, n, sizeof *t, by_rank);
	for (uint32_t i = 1; i < n; i++)
		if (t[i].rank == t[i - 1].rank && t[i].rank != UINT32_MAX)
			return vocab_fault(v, "the rank %u is there twice", t[i].rank);
	memmove(&t[256], t, n * sizeof *t);
	memcpy(t, byte, sizeof byte);
	return 0;
}

static int
map_tokens(struct builder *b)
{
	struct vocab *v = b->v;

	for (b->mask = 1023; b->mask < 2 * (uint64_t)v->count; b->mask = 2 * b->mask + 1)
		;
	if (getrandom(&b->seed, sizeof b->seed, 0) != sizeof b->seed)
		return vocab_fault(v, "no random numbers");
	free(b->map);
	b->map = malloc((b->mask + 1) * sizeof *b->map);
	if (b->map == NULL)
		return no_memory(b);
	memset(b->map, 0xff, (b->mask + 1) * sizeof *b->map);
	for (uint32_t i = 0; i < v->count; i++) {
		uint32_t *at = find_bytes(b, token_bytes(b, i), v->token[i].len);

		if (*at != TOKEN_NONE)
			return vocab_fault(
			    v, "a token of %u bytes is there twice", v->token[i].len);
		*at = i;
	}
	return 0;
}

static struct pair_slot *
find_pair(const struct builder *b, uint32_t left, uint32_t right)
{
	uint64_t key = PAIR_KEY(left, right);
	uint64_t i = token_mix(key ^ b->seed, UINT64_C(0x9e3779b97f4a7c15)) & b->pair_mask;

	while (b->pair[i].made != TOKEN_NONE && b->pair[i].key != key)
		i = (i + 1) & b->pair_mask;
	return &b->pair[i];
}

/* The file's own list of merges, by the tokens' numbers as they stand now. */
static int
map_merges(struct builder *b)
{
	struct vocab *v = b->v;

	if (v->merges == 0)
		return 0;
	for (b->pair_mask = 1023; b->pair_mask < 2 * (uint64_t)v->merges;
	     b->pair_mask = 2 * b->pair_mask + 1)
		;
	b->pair = malloc((b->pair_mask + 1) * sizeof *b->pair);
	if (b->pair == NULL)
		return no_memory(b);
	for (uint64_t i = 0; i <= b->pair_mask; i++)
		b->pair[i].made = TOKEN_NONE;
	for (uint32_t i = 0; i < v->merges; i++) {
		const struct vocab_merge *m = &v->merge[i];
		const uint8_t *p = (const uint8_t *)v->bytes + m->at;
		uint32_t left = *find_bytes(b, p, m->left);
		uint32_t right = *find_bytes(b, p + m->left, m->right);
		uint32_t made = *find_bytes(b, p, m->left + m->right);
		struct pair_slot *slot;

		if (left == TOKEN_NONE || right == TOKEN_NONE || made == TOKEN_NONE)
			return vocab_fault(v, "merge %u is of or makes what is no token", i + 1);
		slot = find_pair(b, left, right);
		if (slot->made == TOKEN_NONE)
			*slot = (struct pair_slot){PAIR_KEY(left, right), i, made};
	}
	return 0;
}

/* What joining two neighbours makes, and when it is done; UINT32_MAX: never. */
static uint32_t
joined(const struct builder *b, uint32_t left, uint32_t right, const uint8_t *p, size_t len,
    uint32_t *made)
{
	if (b->v->merges > 0) {
		const struct pair_slot *slot = find_pair(b, left, right);

		*made = slot->made;
		return *made == TOKEN_NONE ? UINT32_MAX : slot->rank;
	}
	*made = *find_bytes(b, p, len);
	return *made == TOKEN_NONE ? UINT32_MAX : b->v->token[*made].rank;
}

/* Encode a token's own bytes, up to its last merge; that merge's rank, or UINT32_MAX. */
static uint32_t
split_token(const struct builder *b, uint32_t token, uint32_t *cut)
{
	const uint8_t *p = token_bytes(b, token);
	size_t n = b->v->token[token].len, best;
	uint32_t part[TOKEN_BYTES_MAX], rank[TOKEN_BYTES_MAX], made[TOKEN_BYTES_MAX];
	uint8_t at[TOKEN_BYTES_MAX + 1];

	for (size_t i = 0; i < n; i++) {
		part[i] = p[i];
		at[i] = (uint8_t)i;
	}
	at[n] = (uint8_t)n;
	for (size_t i = 0; i + 1 < n; i++)
		rank[i] = joined(b, part[i], part[i + 1], p + i, 2, &made[i]);
	for (;;) {
		best = 0;
		for (size_t i = 1; i + 1 < n; i++)
			if (rank[i] < rank[best])
				best = i;
		if (rank[best] == UINT32_MAX)
			return UINT32_MAX;
		if (n == 2) {
			*cut = at[1];
			return rank[0];
		}
		part[best] = made[best];
		n--;
		for (size_t i = best + 1; i < n; i++) {
			part[i] = part[i + 1];
			rank[i] = rank[i + 1];
			made[i] = made[i + 1];
		}
		for (size_t i = best + 1; i <= n; i++)
			at[i] = at[i + 1];
		if (best + 1 < n) {
			rank[best] = joined(b, part[best], part[best + 1], p + at[best],
			    (size_t)(at[best + 2] - at[best]), &made[best]);
		}
		if (best > 0)
			rank[best - 1] = joined(b, part[best - 1], part[best], p + at[best - 1],
			    (size_t)(at[best + 1] - at[best - 1]), &made[best - 1]);
	}
}

/*
 * What each token is made of.  With a list of merges, tokens then come in the order in which
 * theirs stand there.  Tokens that never come about go, unless they count as whole pieces.
 */
static int
split_tokens(struct builder *b)
{
	struct vocab *v = b->v;
	uint32_t n = 256;

	for (uint32_t i = 256; i < v->count; i++) {
		struct vocab_token *t = &v->token[i];
		uint32_t rank = split_token(b, i, &t->cut);

		if (rank == UINT32_MAX)
			t->cut = 0;
		if (v->merges > 0)
			t->rank = rank;
	}
	for (uint32_t i = 256; i < v->count; i++)
		if (v->token[i].cut > 0 || v->whole_pieces)
			v->token[n++] = v->token[i];
	v->count = n;
	qsort(&v->token[256], n - 256, sizeof *v->token, by_rank);
	return map_tokens(b);
}

static int
make_rows(struct builder *b)
{
	const struct vocab *v = b->v;

	b->row = malloc(v->count * sizeof *b->row);
	if (b->row == NULL)
		return no_memory(b);
	b->ordered = true;
	for (uint32_t i = 0; i < v->count; i++) {
		const struct vocab_token *t = &v->token[i];
		const uint8_t *p = token_bytes(b, i);
		struct token_row *r = &b->row[i];

		*r = (struct token_row){TOKEN_NONE, TOKEN_NONE, TOKEN_NONE, t->len};
		if (t->cut > 0) {
			r->left = *find_bytes(b, p, t->cut);
			r->right = *find_bytes(b, p + t->cut, t->len - t->cut);
		}
		for (uint32_t n = 1; n < t->len && r->shorter == TOKEN_NONE; n++)
			r->shorter = *find_bytes(b, p + n, t->len - n);
		if (i >= 256 && (t->cut == 0 || r->left >= i || r->right >= i))
			b->ordered = false;
	}
	return 0;
}

/* The trie of the tokens' ends. */

static const struct builder *sorting; /* qsort has no room for it */

static int
by_end(const void *x, const void *y)
{
	const uint32_t *i = x, *j = y;
	const uint8_t *p = token_bytes(sorting, *i), *q = token_bytes(sorting, *j);
	uint32_t n = sorting->v->token[*i].len, m = sorting->v->token[*j].len;

	while (n > 0 && m > 0)
		if (p[--n] != q[--m])
			return p[n] < q[m] ? -1 : 1;
	return (n > 0) - (m > 0);
}

static uint8_t
byte_from_end(const struct builder *b, uint32_t i, uint32_t depth)
{
	return token_bytes(b, i)[b->v->token[i].len - 1 - depth];
}

/* As realloc, but the old one stays in place if there is no memory. */
static bool
enlarge(void *array, size_t size)
{
	void **at = array, *p = realloc(*at, size);

	if (p != NULL)
		*at = p;
	return p != NULL;
}

static int
add_block(struct builder *b)
{
	uint32_t cap = b->nodes_cap == 0 ? 1u << 16 : 2 * b->nodes_cap;

	if (b->nodes + BLOCK > NODES_MAX)
		return vocab_fault(b->v, "the vocabulary is too large");
	if (b->nodes + BLOCK > b->nodes_cap) {
		if (!enlarge(&b->node, cap * sizeof *b->node) || !enlarge(&b->base_used, cap) ||
		    !enlarge(&b->room, cap / BLOCK * sizeof *b->room))
			return no_memory(b);
		b->nodes_cap = cap;
	}
	memset(&b->node[b->nodes], 0, BLOCK * sizeof *b->node);
	memset(&b->base_used[b->nodes], 0, BLOCK);
	b->room[b->nodes / BLOCK] = BLOCK;
	b->nodes += BLOCK;
	return 0;
}

/* A base in this block whose children's places are all free, or 0. */
static uint32_t
base_in(const struct builder *b, uint32_t block, const uint8_t *label, uint32_t labels)
{
	for (uint32_t s = 0; s < BLOCK; s++) {
		uint32_t base = (block + s) ^ label[0], k = 0;

		/* Node 0 is the root, base 0 means none. */
		if (base == 0 || b->base_used[base])
			continue;
		while (k < labels && (base ^ label[k]) != 0 && b->node[base ^ label[k]] == 0)
			k++;
		if (k == labels)
			return base;
	}
	return 0;
}

static int
find_base(struct builder *b, const uint8_t *label, uint32_t labels, uint32_t *base)
{
	for (uint32_t block = b->open; block < b->nodes; block += BLOCK)
		if (b->room[block / BLOCK] >= labels &&
		    (*base = base_in(b, block, label, labels)) != 0)
			return 0;
	if (add_block(b) != 0)
		return -1;
	if (b->nodes - b->open > OPEN_BLOCKS * BLOCK)
		b->open = b->nodes - OPEN_BLOCKS * BLOCK;
	*base = base_in(b, b->nodes - BLOCK, label, labels);
	return *base == 0 ? vocab_fault(b->v, "the trie has no room") : 0;
}

/* Tokens order[from..to) end with the same `depth` bytes, which are node `at`. */
struct branch {
	uint32_t from, to, at;
	uint8_t depth;
};

/* Put the children of a node; they go to the end of the queue. */
static int
put_children(struct builder *b, struct branch x, struct branch *queue, uint32_t *queued)
{
	uint8_t label[256];
	uint32_t begin[257], labels = 0, token = SUFFIX_NO_TOKEN, base = 0;

	if (x.depth > 0 && b->v->token[b->order[x.from]].len == x.depth)
		token = b->order[x.from++];
	for (uint32_t i = x.from; i < x.to; i++) {
		uint8_t c = byte_from_end(b, b->order[i], x.depth);

		if (labels == 0 || label[labels - 1] != c) {
			label[labels] = c;
			begin[labels++] = i;
		}
	}
	begin[labels] = x.to;
	if (labels > 0 && find_base(b, label, labels, &base) != 0)
		return -1;
	if (labels > 0) {
		b->base_used[base] = 1;
		b->room[base / BLOCK] = (uint16_t)(b->room[base / BLOCK] - labels);
	}
	b->node[x.at] = suffix_node(SUFFIX_BYTE(b->node[x.at]), token, base);
	for (uint32_t k = 0; k < labels; k++) {
		/* Its byte; the rest when its turn comes. */
		b->node[base ^ label[k]] = label[k] | SUFFIX_USED;
		queue[(*queued)++] = (struct branch){
		    begin[k], begin[k + 1], base ^ label[k], (uint8_t)(x.depth + 1)};
	}
	return 0;
}

static int
make_trie(struct builder *b)
{
	const struct vocab *v = b->v;
	size_t most = 1;
	struct branch *queue;
	uint32_t queued = 0;
	int result = -1;

	for (uint32_t i = 0; i < v->count; i++)
		most += v->token[i].len;
	most = most < NODES_MAX ? most : NODES_MAX;
	b->order = malloc(v->count * sizeof *b->order);
	queue = malloc(most * sizeof *queue);
	if (b->order == NULL || queue == NULL) {
		free(queue);
		return no_memory(b);
	}
	for (uint32_t i = 0; i < v->count; i++)
		b->order[i] = i;
	sorting = b;
	qsort(b->order, v->count, sizeof *b->order, by_end);
	if (add_block(b) != 0)
		goto out;
	b->node[0] = SUFFIX_USED;
	b->room[0]--;
	queue[queued++] = (struct branch){0, v->count, 0, 0};
	for (uint32_t next = 0; next < queued; next++)
		if (put_children(b, queue[next], queue, &queued) != 0)
			goto out;
	result = 0;
out:
	free(queue);
	return result;
}

/* The hashes. */

static void
put_piece(const struct builder *b, struct token_bucket *bucket, uint32_t buckets, uint32_t token)
{
	uint8_t key[16] = {0};
	uint64_t lo, hi;
	uint32_t i;

	memcpy(key, token_bytes(b, token), b->v->token[token].len);
	key[15] = (uint8_t)b->v->token[token].len;
	memcpy(&lo, key, 8);
	memcpy(&hi, key + 8, 8);
	i = token_place(token_piece_hash(lo, hi), buckets);
	for (;; i = i + 1 < buckets ? i + 1 : 0)
		for (int k = 0; k < 4; k++)
			if (bucket[i].entry[k][1] == 0) {
				bucket[i].entry[k][0] = lo;
				bucket[i].entry[k][1] = hi;
				return;
			}
}

/* False if a run of pairs reaches the end. */
static bool
put_pairs(const struct builder *b, uint64_t *pair, uint32_t pairs, uint64_t *filter, uint32_t words)
{
	memset(pair, 0xff, pairs * sizeof *pair);
	memset(filter, 0, words * sizeof *filter);
	for (uint32_t i = 256; i < b->v->count; i++) {
		uint32_t left = b->row[i].left, right = b->row[i].right, bit, at;
		uint64_t hash;

		if (left == TOKEN_NONE)
			continue;
		hash = token_pair_hash(left, right);
		bit = token_place(hash, words * 64);
		filter[bit >> 6] |= UINT64_C(1) << (bit & 63);
		at = token_place(hash, pairs - PAIR_SLACK);
		while (at < pairs - 1 && pair[at] != PAIR_NONE)
			at++;
		if (at == pairs - 1)
			return false;
		pair[at] = PAIR_KEY(left, right) | (uint64_t)i << 42;
	}
	return true;
}

static size_t
aligned(size_t n)
{
	return (n + 63) & ~(size_t)63;
}

static void *
put_together(struct builder *b, size_t *size)
{
	const struct vocab *v = b->v;
	struct token_table_header h = {
	    .magic = TOKEN_TABLE_MAGIC,
	    .version = TOKEN_TABLE_VERSION,
	    .order = TOKEN_TABLE_ORDER,
	    .rule = v->rule,
	    .ordered = b->ordered,
	    .tokens = v->count,
	    .buckets = v->count / 3 + 1,
	    .nodes = b->nodes,
	    .pairs = 2 * v->count + PAIR_SLACK,
	    .filter_words = v->count * 10 / 64 + 1,
	};
	unsigned char *p;

	(void)snprintf(h.name, sizeof h.name, "%s", v->name);
	h.pieces_at = sizeof h;
	h.suffixes_at = (uint32_t)(h.pieces_at + aligned(h.buckets * sizeof(struct token_bucket)));
	h.tokens_at = (uint32_t)(h.suffixes_at + aligned(h.nodes * sizeof(uint64_t)));
	h.pairs_at = (uint32_t)(h.tokens_at + aligned(h.tokens * sizeof(struct token_row)));
	h.filter_at = (uint32_t)(h.pairs_at + aligned(h.pairs * sizeof(uint64_t)));
	h.size = h.filter_at + aligned(h.filter_words * sizeof(uint64_t));
	p = calloc(1, h.size);
	if (p == NULL) {
		(void)no_memory(b);
		return NULL;
	}
	for (uint32_t i = 256; i < v->count; i++)
		if (v->token[i].len <= PIECE_INLINE_MAX)
			put_piece(b, (void *)(p + h.pieces_at), h.buckets, i);
	memcpy(p + h.suffixes_at, b->node, h.nodes * sizeof(uint64_t));
	memcpy(p + h.tokens_at, b->row, h.tokens * sizeof *b->row);
	if (!put_pairs(
	        b, (void *)(p + h.pairs_at), h.pairs, (void *)(p + h.filter_at), h.filter_words)) {
		free(p);
		(void)vocab_fault(b->v, "the table of pairs has no room");
		return NULL;
	}
	memcpy(p, &h, sizeof h);
	h.checksum = token_table_checksum((const void *)p, h.size);
	memcpy(p, &h, sizeof h);
	*size = h.size;
	return p;
}

void *
vocab_build(struct vocab *v, size_t *size)
{
	struct builder b = {.v = v};
	void *table = NULL;

	if (sort_tokens(&b) == 0 && map_tokens(&b) == 0 && map_merges(&b) == 0 &&
	    split_tokens(&b) == 0 && make_rows(&b) == 0 && make_trie(&b) == 0)
		table = put_together(&b, size);
	free(b.map);
	free(b.pair);
	free(b.order);
	free(b.node);
	free(b.base_used);
	free(b.room);
	free(b.row);
	return table;
}
