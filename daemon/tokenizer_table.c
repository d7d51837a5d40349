/*
 * A vocabulary's table: mapped, and looked through once.  Pure but for the file.
 *
 * The engine follows numbers in the table without looking whether they can be; so all of them are
 * checked here.  (That a table counts as its source would is another matter: `make vocab-check`.)
 */
#include "daemon/tokenizer_table.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define TABLE_SIZE_MAX (UINT64_C(1) << 31)
#define ALIGNED 64

static uint64_t
checksum_of(const void *data, size_t size)
{
	const unsigned char *p = data;
	/* Four sums side by side: one alone would wait for its multiplication each time. */
	uint64_t sum[4] = {1, 2, 3, 4}, word[8];
	size_t at;

	for (at = 0; at + 64 <= size; at += 64) {
		memcpy(word, p + at, 64);
		for (int i = 0; i < 4; i++)
			sum[i] = token_mix(sum[i] ^ word[i],
			    word[i + 4] ^ (UINT64_C(0x9e3779b97f4a7c15) + (uint64_t)i));
	}
	memset(word, 0, 64);
	memcpy(word, p + at, size - at);
	for (int i = 0; i < 8; i++)
		sum[i % 4] = token_mix(sum[i % 4] ^ word[i], UINT64_C(0xc2b2ae3d27d4eb4f) ^ size);
	return token_mix(sum[0] ^ sum[2], sum[1] ^ sum[3] ^ UINT64_C(0x9e3779b97f4a7c15));
}

/* The header too: how text is split stands there, and a bit of it decides what all texts cost. */
uint64_t
token_table_checksum(const struct token_table_header *h, size_t size)
{
	struct token_table_header head = *h;
	uint64_t body = checksum_of(h + 1, size - sizeof head);

	head.checksum = body;
	return checksum_of(&head, sizeof head);
}

/* A section of n things, inside the file. */
static bool
section(const struct token_table_header *h, uint32_t at, uint64_t n, size_t each)
{
	return n > 0 && at >= sizeof *h && at % ALIGNED == 0 && at <= h->size &&
	       n <= (h->size - at) / each;
}

static const char *
check_header(const struct token_table_header *h, size_t size)
{
	if (size < sizeof *h || memcmp(h->magic, TOKEN_TABLE_MAGIC, sizeof h->magic) != 0)
		return "this is no tokenizer's table (see tollctl tokenizer build)";
	if (h->order != TOKEN_TABLE_ORDER)
		return "the table was made for machines of another byte order";
	if (h->version != TOKEN_TABLE_VERSION)
		return "the table is of another version: build it anew";
	if (h->size != size)
		return "the table is cut off";
	if (h->tokens < 256 || h->tokens > TOKENS_MAX || h->nodes < 256 || h->nodes % 256 != 0 ||
	    h->nodes - 1 > SUFFIX_BASE_MAX || h->rule.family > SPLIT_O200K ||
	    (h->rule.digits != 1 && h->rule.digits != 3) || h->rule.contractions > 1 ||
	    h->ordered > 1 || memchr(h->name, 0, sizeof h->name) == NULL ||
	    !section(h, h->pieces_at, h->buckets, sizeof(struct token_bucket)) ||
	    !section(h, h->suffixes_at, h->nodes, sizeof(uint64_t)) ||
	    !section(h, h->tokens_at, h->tokens, sizeof(struct token_row)) ||
	    !section(h, h->pairs_at, h->pairs, sizeof(uint64_t)) || h->pairs <= PAIR_SLACK ||
	    h->filter_words > (1u << 25) ||
	    !section(h, h->filter_at, h->filter_words, sizeof(uint64_t)))
		return "the table's header is damaged";
	if (token_table_checksum(h, size) != h->checksum)
		return "the table is damaged: its checksum is another";
	return NULL;
}

/* What each token is made of comes before it (if ordered), and what it ends with is shorter. */
static bool
check_tokens(const struct token_table *t)
{
	uint32_t n = t->h->tokens;

	for (uint32_t i = 0; i < n; i++) {
		const struct token_row *r = &t->token[i];
		uint32_t limit = t->h->ordered ? i : n;

		if (i < 256) {
			if (r->len != 1 || r->left != TOKEN_NONE || r->right != TOKEN_NONE ||
			    r->shorter != TOKEN_NONE)
				return false;
			continue;
		}
		if (r->len < 2 || r->len > TOKEN_BYTES_MAX || r->shorter >= n ||
		    t->token[r->shorter].len >= r->len)
			return false;
		if (!t->h->ordered && r->left == TOKEN_NONE && r->right == TOKEN_NONE)
			continue;
		if (r->left >= limit || r->right >= limit ||
		    t->token[r->left].len + t->token[r->right].len != r->len)
			return false;
	}
	return true;
}

/* No step leads out of the trie or to what is no token.  (That a token hangs as deep as it is long
 * is looked at where it is found: tokenizer_merge.c.) */
static bool
check_suffixes(const struct token_table *t)
{
	bool good = SUFFIX_BASE(t->suffix[0]) != 0;

	for (uint32_t i = 0; i < t->h->nodes; i++) {
		uint32_t token = SUFFIX_TOKEN(t->suffix[i]);

		good &= SUFFIX_BASE(t->suffix[i]) < t->h->nodes;
		good &= token < t->h->tokens || token == SUFFIX_NO_TOKEN;
	}
	return good;
}

/* A search ends: in each hash there is a free place, the pairs' last one among them. */
static bool
check_hashes(const struct token_table *t)
{
	const struct token_table_header *h = t->h;
	bool room = false;

	for (uint32_t i = 0; i < h->buckets; i++)
		room |= t->bucket[i].entry[3][1] == 0;
	if (!room || t->pair[h->pairs - 1] != PAIR_NONE)
		return false;
	for (uint32_t i = 0; i < h->pairs; i++)
		if (t->pair[i] != PAIR_NONE && PAIR_MADE(t->pair[i]) >= h->tokens)
			return false;
	return true;
}

static void
lay_out(struct token_table *t, const void *data)
{
	const struct token_table_header *h = data;
	const unsigned char *p = data;

	*t = (struct token_table){
	    .h = h,
	    .bucket = (const void *)(p + h->pieces_at),
	    .suffix = (const void *)(p + h->suffixes_at),
	    .token = (const void *)(p + h->tokens_at),
	    .pair = (const void *)(p + h->pairs_at),
	    .filter = (const void *)(p + h->filter_at),
	};
}

int
token_table_check(struct token_table *t, const void *data, size_t size, char *why, size_t why_size)
{
	const struct token_table_header *h = data;
	const char *fault = check_header(h, size);

	if (fault == NULL) {
		lay_out(t, data);
		if (!check_tokens(t) || !check_suffixes(t) || !check_hashes(t))
			fault = "the table does not hold together";
	}
	if (fault == NULL)
		return 0;
	*t = (struct token_table){0};
	(void)snprintf(why, why_size, "%s", fault);
	return -1;
}

int
token_table_map(struct token_table *t, int fd)
{
	struct stat st;
	void *data;

	*t = (struct token_table){0};
	if (fstat(fd, &st) != 0)
		return -1;
	data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0);
	if (data == MAP_FAILED)
		return -1;
	lay_out(t, data);
	return 0;
}

int
token_table_open(struct token_table *t, const char *path, int *keep, char *why, size_t why_size)
{
	struct stat st;
	void *data = MAP_FAILED;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	*t = (struct token_table){0};
	if (fd < 0 || fstat(fd, &st) != 0) {
		(void)snprintf(why, why_size, "%s", strerror(errno));
	} else if (!S_ISREG(st.st_mode) || st.st_size < (off_t)sizeof(struct token_table_header) ||
	           (uint64_t)st.st_size > TABLE_SIZE_MAX) {
		(void)snprintf(why, why_size, "this is no tokenizer's table");
	} else {
		/* Populated here, before the fork: the children's faults then find the pages. */
		data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0);
		if (data == MAP_FAILED)
			(void)snprintf(why, why_size, "cannot map it: %s", strerror(errno));
	}
	if (data != MAP_FAILED &&
	    token_table_check(t, data, (size_t)st.st_size, why, why_size) != 0) {
		munmap(data, (size_t)st.st_size);
		data = MAP_FAILED;
	}
	if (data != MAP_FAILED && keep != NULL)
		*keep = fd;
	else if (fd >= 0)
		close(fd);
	return data == MAP_FAILED ? -1 : 0;
}

void
token_table_close(struct token_table *t)
{
	if (t->h != NULL)
		munmap((void *)(uintptr_t)t->h, t->h->size);
	*t = (struct token_table){0};
}
