/*
 * Goal:   whatever text comes, in whatever pieces, the count of a stream is that of the whole
 *         text; and that is what the definition of byte-pair encoding says.
 * Method: libFuzzer; the first bytes choose the vocabulary and how the rest, made valid UTF-8 and
 *         with runs made longer, is cut.  Beside it a plain merger over the table's own tokens, for
 *         pieces that the splitter finds, as long as they are short; limits and look-ahead.
 *
 * objs: daemon/utf8.o daemon/buf.o shm/money.o
 * objs: daemon/tokenizer.o daemon/tokenizer_stream.o daemon/tokenizer_merge.o
 * objs: daemon/tokenizer_split.o daemon/tokenizer_class.o daemon/tokenizer_table.o
 */
#include <stdlib.h>
#include <string.h>

#include "daemon/buf.h"
#include "daemon/tokenizer.h"
#include "daemon/tokenizer_merge.h"
#include "daemon/tokenizer_vocab.h"
#include "daemon/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(condition)          \
	do {                      \
		if (!(condition)) \
			abort();  \
	} while (0)
#define TEXT_MAX 8192
#define PLAIN_MAX 200

/* A token by its bytes, found the slow way: down the trie of ends.  TOKEN_NONE. */
static uint32_t
find(const struct token_table *t, const uint8_t *p, size_t len)
{
	uint32_t base = SUFFIX_BASE(t->suffix[0]);
	uint64_t node = 0;

	while (len > 0) {
		uint8_t c = p[--len];

		if (base == 0)
			return TOKEN_NONE;
		node = t->suffix[base ^ c];
		if ((node & (0xff | SUFFIX_USED)) != (c | SUFFIX_USED))
			return TOKEN_NONE;
		base = SUFFIX_BASE(node);
	}
	return SUFFIX_TOKEN(node) == SUFFIX_NO_TOKEN ? TOKEN_NONE : SUFFIX_TOKEN(node);
}

/* The definition: join the two that make the first token of the list, until none do. */
static uint32_t
plain_count(const struct token_table *t, const uint8_t *p, size_t len)
{
	size_t at[PLAIN_MAX + 1], n = len;

	if (find(t, p, len) != TOKEN_NONE)
		return 1;
	for (size_t i = 0; i <= n; i++)
		at[i] = i;
	for (;;) {
		uint32_t best = TOKEN_NONE;
		size_t where = 0;

		for (size_t i = 0; i + 1 < n; i++) {
			uint32_t token = find(t, p + at[i], at[i + 2] - at[i]);

			if (token < best) {
				best = token;
				where = i;
			}
		}
		if (best == TOKEN_NONE)
			return (uint32_t)n;
		memmove(&at[where + 1], &at[where + 2], (n - where - 1) * sizeof *at);
		n--;
	}
}

/* Pieces one by one; 0 if one is too long to be counted plainly. */
static uint32_t
plain_text(const struct tokenizer *t, const char *text, size_t len)
{
	struct split s = {0};
	size_t start = 0, at = 0, closed;
	uint32_t n = 0;

	while (at < len) {
		at += split_next(&t->rule, &s, text + at, len - at, &closed);
		if (closed > PLAIN_MAX)
			return 0;
		if (closed > 0)
			n += plain_count(&t->table, (const uint8_t *)text + start, closed);
		start += closed;
	}
	if (s.len > PLAIN_MAX)
		return 0;
	CHECK(start + s.len == len && s.mid <= s.len);
	if (split_in_two(&s))
		return n + plain_count(&t->table, (const uint8_t *)text + start, s.mid) +
		       plain_count(&t->table, (const uint8_t *)text + start + s.mid, s.len - s.mid);
	return s.len == 0 ? n : n + plain_count(&t->table, (const uint8_t *)text + start, s.len);
}

/* Valid text of the input; a byte 0xf8 and up makes the character before it a run. */
static size_t
make_text(char *text, const uint8_t *data, size_t size)
{
	size_t len = 0, last = 0, bad, n;

	for (size_t i = 0; i < size && len < TEXT_MAX - 8;) {
		if (data[i] >= 0xf8 && len > 0) {
			size_t again = (size_t)1 << (data[i++] & 7);

			while (again-- > 0 && len + last < TEXT_MAX) {
				memcpy(text + len, text + len - last, last);
				len += last;
			}
			continue;
		}
		n = utf8_char((const char *)data + i, size - i, &bad);
		last = n > 0 ? n : 3;
		memcpy(text + len, n > 0 ? (const char *)data + i : "\xef\xbf\xbd", last);
		len += last;
		i += n > 0 ? n : bad;
	}
	return len;
}

static size_t
cut_at(const char *text, size_t at, size_t len, size_t n)
{
	if (n > len - at)
		return len - at;
	while (at + n < len && ((unsigned char)text[at + n] & 0xc0) == 0x80)
		n++;
	return n;
}

static void
check_limit(const struct tokenizer *t, const char *text, size_t len, uint32_t limit, size_t half)
{
	struct token_stream ts;
	uint32_t before;
	size_t fit;

	token_stream_init(&ts, t, TOKENS_SCALE);
	before = token_stream_append(&ts, text, half);
	fit = token_stream_fit(&ts, text + half, len - half, limit);
	CHECK(half + fit <= len && utf8_valid(text + half, fit));
	CHECK(ts.count <= limit || (before > limit && fit == 0) || before > limit);
	CHECK(ts.now == tokenizer_count(t, TOKENS_SCALE, text, half + fit));
	(void)token_stream_append(&ts, text + half + fit, len - half - fit);
	CHECK(ts.now == tokenizer_count(t, TOKENS_SCALE, text, len));
	token_stream_fini(&ts);
}

/* The bytes as they are: no text, but nothing is read beyond them, and it ends. */
static void
check_raw(const struct tokenizer *t, const uint8_t *data, size_t size, size_t piece)
{
	struct token_stream ts;
	char *copy;

	token_stream_init(&ts, t, TOKENS_SCALE);
	for (size_t at = 0; at < size; at += piece) {
		size_t n = piece < size - at ? piece : size - at;

		copy = malloc(n);
		CHECK(copy != NULL);
		memcpy(copy, data + at, n);
		if (at % 2 == 0)
			(void)token_stream_append(&ts, copy, n);
		else
			CHECK(token_stream_fit(&ts, copy, n, ts.count + 3) <= n);
		free(copy);
	}
	token_stream_fini(&ts);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const names[] = {"o200k_base", "cl100k_base", "estimate"};
	static const struct tokenizer *all[3];
	const struct tokenizer *t;
	struct token_stream ts;
	char text[TEXT_MAX], why[256];
	size_t len, at = 0, i = 1, n;
	uint32_t whole, plain, before = 0;

	for (int k = 0; k < 3 && all[k] == NULL; k++)
		CHECK((all[k] = tokenizer_open(names[k], why, sizeof why)) != NULL);
	if (size < 8)
		return 0;
	t = all[data[0] % 3];
	check_raw(t, data + 8, size - 8, data[4] + 1u);
	len = make_text(text, data + 8, size - 8);
	whole = tokenizer_count(t, TOKENS_SCALE, text, len);
	plain = plain_text(t, text, len);
	CHECK(plain == 0 || plain == whole);
	token_stream_init(&ts, t, TOKENS_SCALE);
	while (at < len) {
		n = data[i++ % 8];
		n = cut_at(text, at, len, n < 200 ? n % 9 + 1 : n);
		CHECK(token_stream_append(&ts, text + at, n) >= before);
		before = ts.count;
		at += n;
		if (len < 600 || i % 32 == 0)
			CHECK(ts.now == tokenizer_count(t, TOKENS_SCALE, text, at));
		CHECK(ts.grown == NULL || ts.split.len > TOKEN_TAIL - 4);
	}
	CHECK(ts.now == whole);
	token_stream_fini(&ts);
	check_limit(t, text, len, whole * data[1] / 256, 0);
	check_limit(t, text, len, whole * data[2] / 256, cut_at(text, 0, len, len * data[3] / 256));
	return 0;
}
