/*
 * Goal:   a list of tokens becomes a table that counts by the definition of byte-pair encoding,
 *         ordered or not; every bad list is refused with a sentence; no damage to a table makes
 *         its reader crash.
 * Method: small vocabularies made at random, built, and compared with a plain merger on random
 *         texts; a table of bad files and what is said of them; random damage under a checksum
 *         that is right.
 *
 * objs: admin/vocab_build.o admin/vocab_read.o admin/vocab_json.o
 * objs: daemon/tokenizer.o daemon/tokenizer_stream.o daemon/tokenizer_merge.o
 * objs: daemon/tokenizer_split.o daemon/tokenizer_class.o daemon/tokenizer_table.o
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "admin/vocab.h"
#include "daemon/tokenizer.h"
#include "daemon/tokenizer_merge.h"
#include "daemon/tokenizer_vocab.h"

#define TOKENS_OF_OURS 60

/* xorshift: the same run everywhere. */
static uint32_t
any(uint32_t n)
{
	static uint32_t x = 2463534242u;

	x ^= x << 13;
	x ^= x >> 17;
	x ^= x << 5;
	return x % n;
}

/* The list that a vocabulary was made of. */
struct list {
	uint8_t token[TOKENS_OF_OURS][16];
	size_t len[TOKENS_OF_OURS];
	size_t n;
};

static int
listed(const struct list *l, const uint8_t *p, size_t len)
{
	for (size_t i = 0; i < l->n; i++)
		if (l->len[i] == len && memcmp(l->token[i], p, len) == 0)
			return (int)i;
	return -1;
}

/* By the definition. */
static uint32_t
plain_count(const struct list *l, const uint8_t *p, size_t len)
{
	size_t at[200], n = len;

	assert_true(len < 200);
	if (listed(l, p, len) >= 0)
		return 1;
	for (size_t i = 0; i <= n; i++)
		at[i] = i;
	for (;;) {
		int best = -1;
		size_t where = 0;

		for (size_t i = 0; i + 1 < n; i++) {
			int token = listed(l, p + at[i], at[i + 2] - at[i]);

			if (token >= 0 && (best < 0 || token < best)) {
				best = token;
				where = i;
			}
		}
		if (best < 0)
			return (uint32_t)n;
		memmove(&at[where + 1], &at[where + 2], (n - where - 1) * sizeof *at);
		n--;
	}
}

/* As vocabularies are trained: the pair that is there most often becomes a token. */
static void
train_list(struct list *l)
{
	uint8_t text[400];
	size_t at[401], n = sizeof text;

	for (size_t i = 0; i < sizeof text; i++)
		text[i] = (uint8_t)('a' + any(any(2) ? 3 : 1 + any(3)));
	for (size_t i = 0; i <= n; i++)
		at[i] = i;
	for (l->n = 0; l->n < TOKENS_OF_OURS; l->n++) {
		size_t best = 0, most = 0, to = 0;

		for (size_t i = 0; i + 1 < n; i++) {
			size_t len = at[i + 2] - at[i], times = 0;

			for (size_t k = i; k + 1 < n && len <= 16; k++)
				times += at[k + 2] - at[k] == len &&
				         at[k + 1] - at[k] == at[i + 1] - at[i] &&
				         memcmp(text + at[k], text + at[i], len) == 0;
			if (times > most) {
				most = times;
				best = i;
			}
		}
		l->len[l->n] = at[best + 2] - at[best];
		if (most == 0 || listed(l, text + at[best], l->len[l->n]) >= 0)
			return;
		memcpy(l->token[l->n], text + at[best], l->len[l->n]);
		for (size_t i = 0, left = at[best + 1] - at[best]; i < n; i++) {
			bool join = i + 1 < n && at[i + 1] - at[i] == left &&
			            at[i + 2] - at[i] == l->len[l->n] &&
			            memcmp(text + at[i], l->token[l->n], l->len[l->n]) == 0;

			at[to++] = at[i];
			i += join;
		}
		at[to] = sizeof text;
		n = to;
	}
}

/* Trained, or thrown together. */
static void
make_list(struct list *l, bool trained)
{
	if (trained) {
		train_list(l);
		return;
	}
	l->n = 0;
	while (l->n < TOKENS_OF_OURS) {
		uint8_t token[16];
		size_t len = 2 + any(7);

		for (size_t i = 0; i < len; i++)
			token[i] = (uint8_t)('a' + any(3));
		if (listed(l, token, len) >= 0)
			continue;
		memcpy(l->token[l->n], token, len);
		l->len[l->n++] = len;
	}
}

static void *
build_list(const struct list *l, size_t *size)
{
	struct vocab *v = calloc(1, sizeof *v);
	void *table;

	assert_non_null(v);
	assert_true(vocab_rule("cl100k_base", &v->rule));
	v->whole_pieces = true;
	for (unsigned i = 0; i < 256; i++)
		assert_int_equal(vocab_add(v, &(uint8_t){(uint8_t)i}, 1, i), 0);
	for (size_t i = 0; i < l->n; i++)
		assert_int_equal(vocab_add(v, l->token[i], l->len[i], 256 + (uint32_t)i), 0);
	table = vocab_build(v, size);
	if (table == NULL)
		fail_msg("%s", v->fault);
	vocab_free(v);
	free(v);
	return table;
}

static void
compare(const struct list *l, struct tokenizer *t)
{
	uint8_t text[190];

	for (int round = 0; round < 12; round++) {
		size_t most = t->table.h->ordered ? sizeof text : PIECE_UNORDERED_MAX;
		size_t len = 1 + any((uint32_t)most);
		uint32_t letters = 1 + any(3);
		struct token_stream ts;

		for (size_t i = 0; i < len; i++)
			text[i] = (uint8_t)('a' + any(letters));
		assert_int_equal(
		    tokenizer_count(t, TOKENS_SCALE, (char *)text, len), plain_count(l, text, len));
		token_stream_init(&ts, t, TOKENS_SCALE);
		for (size_t i = 0; i < len; i++) {
			(void)token_stream_append(&ts, (char *)text + i, 1);
			assert_int_equal(ts.now, plain_count(l, text, i + 1));
		}
		token_stream_fini(&ts);
	}
}

static void
test_random_vocabularies(void **state)
{
	unsigned ordered = 0, unordered = 0;

	(void)state;
	for (int round = 0; round < 30; round++) {
		struct tokenizer t = {0};
		struct list l;
		char why[128];
		size_t size;
		void *table, *again;

		make_list(&l, round % 2 == 0);
		table = build_list(&l, &size);
		if (token_table_check(&t.table, table, size, why, sizeof why) != 0)
			fail_msg("%s", why);
		t.rule = t.table.h->rule;
		t.cache = round % 3 == 0 ? NULL : calloc(1, sizeof *t.cache);
		ordered += t.table.h->ordered;
		unordered += !t.table.h->ordered;
		compare(&l, &t);
		again = build_list(&l, &size);
		assert_memory_equal(table, again, size);
		free(again);
		free(table);
		free(t.cache);
	}
	assert_true(ordered > 5 && unordered > 5);
}

/* Beyond their limit, pieces of an unordered vocabulary are cut, and in any pieces the same. */
static void
test_unordered_long_pieces(void **state)
{
	struct tokenizer t = {0};
	struct list l;
	char text[3000], why[128];
	size_t size;
	void *table;

	(void)state;
	do {
		make_list(&l, false);
		table = build_list(&l, &size);
		assert_int_equal(token_table_check(&t.table, table, size, why, sizeof why), 0);
		if (t.table.h->ordered)
			free(table);
	} while (t.table.h->ordered);
	t.rule = t.table.h->rule;
	for (int round = 0; round < 200; round++) {
		size_t len = 1 + any(sizeof text), n;
		struct token_stream ts;

		for (size_t i = 0; i < len; i++)
			text[i] = any(150) == 0 ? ' ' : (char)('a' + any(3));
		token_stream_init(&ts, &t, TOKENS_SCALE);
		for (size_t at = 0; at < len; at += n) {
			n = 1 + any(any(2) ? 10 : 300);
			n = n < len - at ? n : len - at;
			(void)token_stream_append(&ts, text + at, n);
		}
		assert_int_equal(ts.now, tokenizer_count(&t, TOKENS_SCALE, text, len));
		token_stream_fini(&ts);
	}
	free(table);
}

#define SPLIT_CL                                                                                   \
	"\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\","         \
	"\"pattern\":"                                                                             \
	"{\"Regex\":\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{" \
	"N}{1,3}|"                                                                                 \
	" ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"}}," \
	"{\"type\":\"ByteLevel\",\"use_regex\":false}]}"

static void
test_bad_files(void **state)
{
	static const struct {
		const char *text, *fault;
	} bad[] = {
	    {"", "empty"},
	    {" \n\n", "empty"},
	    {"hello", "line 1"},
	    {"YQ== 1\nYQ==\n", "line 2"},
	    {"YQ== -1\n", "line 1"},
	    {"YQ== 99999999999\n", "line 1"},
	    {"YQ== 1x\n", "line 1 has no rank"},
	    {"Y*== 1\n", "line 1"},
	    {"YQ= 1\n", "line 1"},
	    {"Y=Q= 1\n", "line 1"},
	    {" 1\n", "line 1"},
	    {"YWI= 1\n", "no token for the byte 0x00"},
	    {"YQ== 1\nYQ== 2\n", "0x61 is there twice"},
	    {"{", "line 1"},
	    {"{}", "not BPE"},
	    {"{\"model\":{\"type\":\"Unigram\"}}", "not BPE"},
	    {"{\"model\":{\"type\":\"BPE\",\"byte_fallback\":true}}", "falls back"},
	    {"{\"model\":{\"type\":\"BPE\"},\"normalizer\":{\"type\":\"Lowercase\"}}",
	        "normalizer"},
	    {"{\"model\":{\"type\":\"BPE\"}}", "pre_tokenizer"},
	    {"{\"model\":{\"type\":\"BPE\"},\"pre_tokenizer\":{\"pretokenizers\":[{},{\"type\":"
	     "\"ByteLevel\"}]}}",
	        "pattern"},
	    {"{\"model\":{\"type\":\"BPE\"}," SPLIT_CL "}", "model.vocab"},
	    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":\"x\"}}," SPLIT_CL "}",
	        "without a number"},
	    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":1}}," SPLIT_CL "}", "merges is empty"},
	    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":1},\"merges\":[7]}," SPLIT_CL "}",
	        "merge 1"},
	    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":1},\"merges\":[\"ab\"]}," SPLIT_CL "}",
	        "merge 1"},
	    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":1},\"merges\":[\"a "
	     "\xe4\xb8\xad\"]}," SPLIT_CL "}",
	        "merge 1"},
	    {"{\"a\":1,\"a\":2}", "line 1"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		struct vocab *v = calloc(1, sizeof *v);
		void *table = NULL;
		size_t size;

		assert_non_null(v);
		if (vocab_read(v, bad[i].text, strlen(bad[i].text)) == 0)
			table = vocab_build(v, &size);
		assert_null(table);
		if (strstr(v->fault, bad[i].fault) == NULL)
			fail_msg("%s: \"%s\"", bad[i].text, v->fault);
		vocab_free(v);
		free(v);
	}
}

/* tokenizer.json in both ways of writing merges; a merge that the file lacks is not made. */
static void
test_json(void **state)
{
	struct vocab *v = calloc(1, sizeof *v);
	char *text = malloc(1 << 16), *p = text;
	struct tokenizer t = {0};
	char why[128];
	size_t size;
	void *table;
	unsigned next = 0x100;

	(void)state;
	assert_true(v != NULL && text != NULL);
	p += sprintf(p,
	    "{\"normalizer\":{\"type\":\"NFC\"}," SPLIT_CL ",\"model\":{\"type\":\"BPE\","
	    "\"ignore_merges\":false,\"vocab\":{");
	for (unsigned i = 0; i < 256; i++) {
		unsigned c = (i >= 0x21 && i <= 0x7e) || (i >= 0xa1 && i != 0xad) ? i : next++;

		p += sprintf(p, "\"\\u%04x\":%u,", c, i);
	}
	p += sprintf(p, "\"ab\":256,\"bc\":257,\"abc\":258,\"\\u0120a\":259,\"cc\":260,"
	                "\"<|special|>\\u4e2d\":261},"
	                "\"merges\":[\"b c\",[\"a\",\"b\"],[\"\\u0120\",\"a\"],\"ab c\"]}}");
	assert_int_equal(vocab_read(v, text, (size_t)(p - text)), 0);
	assert_true(v->normalizes && v->has_rule && !v->whole_pieces);
	table = vocab_build(v, &size);
	if (table == NULL)
		fail_msg("%s", v->fault);
	assert_int_equal(token_table_check(&t.table, table, size, why, sizeof why), 0);
	t.rule = t.table.h->rule;
	/* bc comes before ab, and cc is never made. */
	assert_int_equal(tokenizer_count(&t, TOKENS_SCALE, "abc", 3), 2);
	assert_int_equal(tokenizer_count(&t, TOKENS_SCALE, "ab", 2), 1);
	assert_int_equal(tokenizer_count(&t, TOKENS_SCALE, "cc", 2), 2);
	assert_int_equal(tokenizer_count(&t, TOKENS_SCALE, "x ab", 4), 3);
	free(table);
	vocab_free(v);
	free(v);
	free(text);
}

static void
test_damaged_tables(void **state)
{
	struct token_table table;
	struct list l;
	char why[128], text[400];
	size_t size, head = sizeof(struct token_table_header), accepted = 0;
	uint8_t *good, *bytes;

	(void)state;
	make_list(&l, true);
	good = build_list(&l, &size);
	bytes = malloc(size);
	assert_non_null(bytes);
	for (size_t i = 0; i < sizeof text; i++)
		text[i] = (char)('a' + any(3));
	for (size_t cut = 0; cut < size; cut += 1 + cut / 3)
		assert_int_equal(token_table_check(&table, good, cut, why, sizeof why), -1);
	memcpy(bytes, good, size);
	bytes[size - 1] ^= 1;
	assert_int_equal(token_table_check(&table, bytes, size, why, sizeof why), -1);
	bytes[size - 1] ^= 1;
	assert_int_equal(token_table_check(&table, bytes, size, why, sizeof why), 0);
	/* In the header too, where one bit says how text is split. */
	for (size_t bit = 0; bit < 8 * head; bit++) {
		bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_int_equal(token_table_check(&table, bytes, size, why, sizeof why), -1);
		bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	for (int round = 0; round < 3000; round++) {
		const struct token_table_header *h = (const void *)good;
		const uint32_t at[] = {8, h->pieces_at, h->suffixes_at, h->tokens_at, h->pairs_at,
		    h->filter_at, (uint32_t)size};
		uint32_t part = any(6);

		memcpy(bytes, good, size);
		for (uint32_t n = 1 + any(4); n > 0; n--)
			bytes[at[part] + any(at[part + 1] - at[part])] = (uint8_t)any(256);
		((struct token_table_header *)bytes)->checksum =
		    token_table_checksum((const struct token_table_header *)bytes, size);
		if (token_table_check(&table, bytes, size, why, sizeof why) != 0)
			continue;
		accepted++;
		for (size_t len = 1; len <= sizeof text; len = len * 3 / 2 + 1) {
			struct tokenizer t = {.rule = table.h->rule, .table = table};
			struct token_stream ts;

			assert_true(tokenizer_count(&t, TOKENS_SCALE, text, len) <= 2 * len);
			token_stream_init(&ts, &t, TOKENS_SCALE);
			for (size_t i = 0; i < len; i++)
				(void)token_stream_append(&ts, text + i, 1);
			token_stream_fini(&ts);
		}
	}
	assert_true(accepted > 50);
	free(bytes);
	free(good);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_random_vocabularies),
	    cmocka_unit_test(test_unordered_long_pieces),
	    cmocka_unit_test(test_bad_files),
	    cmocka_unit_test(test_json),
	    cmocka_unit_test(test_damaged_tables),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
