/*
 * Goal:   no file of tokens and no table, whoever made it, makes who reads it crash or hang, or
 *         count what cannot be.
 * Method: libFuzzer; the input is a .tiktoken or tokenizer.json file for the builder, where a
 *         first byte may stand for the 256 single bytes that every vocabulary needs; or bytes to
 *         put over a good table's, with its checksum made right again.  What is accepted counts
 *         some texts.
 *
 * objs: admin/vocab_build.o admin/vocab_read.o admin/vocab_json.o
 * objs: daemon/tokenizer.o daemon/tokenizer_stream.o daemon/tokenizer_merge.o
 * objs: daemon/tokenizer_split.o daemon/tokenizer_class.o daemon/tokenizer_table.o
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "admin/vocab.h"
#include "daemon/tokenizer.h"
#include "daemon/tokenizer_merge.h"
#include "daemon/tokenizer_vocab.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(condition)          \
	do {                      \
		if (!(condition)) \
			abort();  \
	} while (0)

static void
count_texts(const struct token_table *table, const uint8_t *data, size_t size)
{
	static const char *const texts[] = {
	    "", "a", "abc abcabc  \n\n x", "the end of the text", "жжж 中中AB"};
	struct tokenizer t = {.rule = table->h->rule, .table = *table};
	struct token_stream ts;
	char run[700];

	for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
		CHECK(tokenizer_count(&t, TOKENS_SCALE, texts[i], strlen(texts[i])) <=
		      strlen(texts[i]));
	for (int i = 0; i < 2; i++) {
		for (size_t k = 0; k < sizeof run; k++)
			run[k] = i == 0 || size == 0 ? 'a' : (char)(data[k % size] & 0x7f);
		token_stream_init(&ts, &t, TOKENS_SCALE);
		for (size_t at = 0; at < sizeof run; at += 7)
			(void)token_stream_append(&ts, run + at, 7);
		CHECK(ts.now <= sizeof run);
		CHECK(tokenizer_count(&t, TOKENS_SCALE, run, sizeof run) <= sizeof run);
		token_stream_fini(&ts);
	}
}

static void *
build(const uint8_t *data, size_t size, bool with_bytes, size_t *table_size)
{
	struct vocab *v = calloc(1, sizeof *v);
	void *table = NULL;

	CHECK(v != NULL);
	(void)vocab_rule("o200k_base", &v->rule);
	for (unsigned i = 0; i < 256 && with_bytes; i++)
		CHECK(vocab_add(v, &(uint8_t){(uint8_t)i}, 1, 1000000 + i) == 0);
	if (vocab_read(v, (const char *)data, size) == 0)
		table = vocab_build(v, table_size);
	CHECK((table == NULL) == (v->fault[0] != '\0'));
	vocab_free(v);
	free(v);
	return table;
}

static void
damage(const uint8_t *data, size_t size)
{
	static const char list[] =
	    "YWE= 1\nYWI= 2\nYWFhYQ== 3\nYmM= 4\nYWJj 5\n2LY= 6\nYWFhYWFhYWE= 7\n";
	static void *good;
	static size_t good_size;
	struct token_table table;
	char why[128];
	uint8_t *bytes;

	if (good == NULL)
		good = build((const uint8_t *)list, sizeof list - 1, true, &good_size);
	CHECK(good != NULL);
	bytes = malloc(good_size);
	CHECK(bytes != NULL);
	memcpy(bytes, good, good_size);
	/* Offsets of three bytes, and a byte to put there. */
	for (; size >= 4; data += 4, size -= 4)
		bytes[(data[0] | (size_t)data[1] << 8 | (size_t)data[2] << 16) % good_size] =
		    data[3];
	((struct token_table_header *)bytes)->checksum =
	    token_table_checksum((const struct token_table_header *)bytes, good_size);
	if (token_table_check(&table, bytes, good_size, why, sizeof why) == 0)
		count_texts(&table, data, size);
	free(bytes);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct token_table table;
	char why[128];
	size_t table_size;
	void *bytes;

	if (size < 1)
		return 0;
	if (data[0] == 0) {
		damage(data + 1, size - 1);
		return 0;
	}
	bytes = build(data + 1, size - 1, data[0] & 1, &table_size);
	if (bytes == NULL)
		return 0;
	CHECK(token_table_check(&table, bytes, table_size, why, sizeof why) == 0);
	count_texts(&table, data, size);
	free(bytes);
	return 0;
}
