/*
 * Goal:   the count of a text does not depend on how it arrived, never goes back, is cut exactly
 *         at a limit, and is not below what the real tokenizers say.
 * Method: texts of many kinds with the counts that o200k_base and cl100k_base give them; each
 *         appended whole, character by character and in seeded random pieces; random texts too.
 *
 * objs: daemon/tokenizer.o daemon/estimate.o daemon/utf8.o daemon/buf.o shm/money.o
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/tokenizer.h"
#include "daemon/utf8.h"

#define LEN(array) (sizeof(array) / sizeof((array)[0]))
#define TEXT_MAX 400

static const struct sample {
	const char *name, *text;
	uint32_t o200k, cl100k;
} samples[] = {
    {"English",
        "The gateway counts every token before it leaves, so nobody is charged for text that was "
        "never delivered. When the credit runs out in the middle of a sentence, the stream stops "
        "at the last token that can be paid, and the client is told why it ended.",
        53, 53},
    {"Russian",
        "Шлюз считает каждый токен до того, как он уйдёт клиенту, поэтому никто не платит за "
        "текст, который не был доставлен. Если средства закончились посреди предложения, поток "
        "останавливается на последнем оплаченном токене.",
        54, 90},
    {"Chinese",
        "网关在每个标记发送之前进行计数,因此没有人会为未送达的文本付费。如果余额在句子中间用完,"
        "数据流会在最后一个可以支付的标记处停止,并告诉客户端结束的原因。",
        56, 69},
    {"code",
        "static int\ncompare(const void *a, const void *b)\n{\n\tconst struct item *x = a, *y = b;"
        "\n\n\tif (x->size != y->size)\n\t\treturn x->size < y->size ? -1 : 1;\n\treturn "
        "strcmp(x->name, y->name);\n}\n",
        65, 65},
    {"JSON",
        "{\"id\":48213,\"name\":\"Widget\",\"price\":19.99,\"tags\":[\"new\",\"sale-2024\"],"
        "\"stock\":{\"oslo\":12,\"riga\":0},\"updated\":\"2024-03-07T11:45:09.120Z\",\"ok\":true,"
        "\"note\":null}",
        64, 63},
    {"base64",
        "kJ8vZ3Qx0mLr5TqYb1uN7eWcA9sHgD4fPiOoXtVzRn2yKwEjBlM6SaUCdGhFpI3QmZx8Tn5vLwYbRk0eJcHs1ODu"
        "AqXgPf9NiVt4GzC7rElKjM2dWyB6oUhS",
        100, 110},
    {"digits",
        "3141592653589793238462643383279502884197169399375105820974944592307816406286208998628034825"
        "3421170679",
        34, 34},
    {"emoji", "😀🎉🚀👍🏽❤️🇩🇪✅🔥🐙🍕🌍⚡🎸📚🧠", 30, 49},
};

/* xorshift: the same run everywhere. */
static uint32_t
next_random(void)
{
	static uint32_t x = 88172645u;

	x ^= x << 13;
	x ^= x >> 17;
	x ^= x << 5;
	return x;
}

static size_t
char_len(const char *p, size_t left)
{
	size_t bad, n = utf8_char(p, left, &bad);

	assert_true(n > 0);
	return n;
}

/* Appended in pieces of 1 to `most` characters. */
static void
check_pieces(const char *text, size_t len, uint32_t most)
{
	struct token_stream ts;
	uint32_t before = 0, count;
	size_t at = 0, n;

	token_stream_init(&ts, TOKENIZER_ESTIMATE);
	while (at < len) {
		n = 0;
		for (uint32_t i = next_random() % most + 1; i > 0 && at + n < len; i--)
			n += char_len(text + at + n, len - at - n);
		count = token_stream_append(&ts, text + at, n);
		assert_true(count >= before && count == ts.count);
		at += n;
		before = count;
	}
	assert_int_equal(ts.count, tokenizer_count(TOKENIZER_ESTIMATE, text, len));
}

/* After a prefix, what fits below each limit. */
static void
check_fit(const char *text, size_t len, size_t prefix)
{
	struct token_stream start, ts, one;
	size_t fit, n;

	token_stream_init(&start, TOKENIZER_ESTIMATE);
	(void)token_stream_append(&start, text, prefix);
	text += prefix;
	len -= prefix;
	for (uint32_t limit = 0;; limit++) {
		ts = one = start;
		fit = token_stream_fit(&ts, text, len, limit);
		assert_true(fit <= len && utf8_valid(text, fit));
		/* It was appended, and no more. */
		(void)token_stream_append(&one, text, fit);
		assert_int_equal(ts.count, one.count);
		assert_true(ts.state == one.state);
		assert_true(ts.count <= limit || (fit == 0 && start.count > limit));
		if (fit == len)
			break;
		n = char_len(text + fit, len - fit);
		assert_true(token_stream_append(&one, text + fit, n) > limit);
	}
}

/* Mixed kinds of characters, from U+0000 to past U+FFFF. */
static size_t
random_text(char *text, size_t max)
{
	static const char *const parts[] = {"a", "e", "t", "q", "B", "Z", "0", "7", " ", "\n", ".",
	    "-", "{", "\"", "+", "\x01", "é", "ж", "Ж", "א", "ω", "Ա", "中", "の", "한", "—", "ह",
	    "ก", "ქ", "😀", "\xef\xb8\x8f", "\xc2\xa0", "    ", "====", "000000", "the "};
	size_t len = 0, n;

	for (;;) {
		const char *part = parts[next_random() % LEN(parts)];

		n = strlen(part);
		for (uint32_t again = next_random() % 4; again > 0; again--) {
			if (len + n > max)
				return len;
			memcpy(text + len, part, n);
			len += n;
		}
	}
}

static void
test_names(void **state)
{
	(void)state;
	assert_int_equal(tokenizer_by_name("estimate"), TOKENIZER_ESTIMATE);
	assert_int_equal(tokenizer_by_name("o200k_base"), TOKENIZER_O200K_BASE);
	assert_int_equal(tokenizer_by_name("cl100k_base"), TOKENIZER_CL100K_BASE);
	assert_int_equal(tokenizer_by_name("gpt2"), -1);
	assert_int_equal(tokenizer_by_name(""), -1);
	for (int t = 0; t < TOKENIZER_COUNT; t++)
		assert_int_equal(tokenizer_by_name(tokenizer_name((enum tokenizer)t)), t);
	assert_false(tokenizer_exact(TOKENIZER_ESTIMATE));
}

static void
test_not_below_the_real_count(void **state)
{
	(void)state;
	for (size_t i = 0; i < LEN(samples); i++) {
		const struct sample *s = &samples[i];
		uint32_t real = s->o200k > s->cl100k ? s->o200k : s->cl100k;
		uint32_t count = tokenizer_count(TOKENIZER_ESTIMATE, s->text, strlen(s->text));

		if (count < real || count * 10 > real * 16)
			fail_msg("%s: %u for %u", s->name, count, real);
	}
}

static void
test_any_pieces(void **state)
{
	char text[TEXT_MAX];
	size_t len;

	(void)state;
	for (size_t i = 0; i < LEN(samples); i++)
		for (uint32_t most = 1; most < 30; most++)
			check_pieces(samples[i].text, strlen(samples[i].text), most);
	for (int round = 0; round < 3000; round++) {
		len = random_text(text, sizeof(text));
		check_pieces(text, len, 1 + next_random() % 20);
	}
}

static void
test_fit(void **state)
{
	char text[TEXT_MAX];
	size_t len, prefix;

	(void)state;
	for (size_t i = 0; i < LEN(samples); i++)
		check_fit(samples[i].text, strlen(samples[i].text), 0);
	for (int round = 0; round < 300; round++) {
		len = random_text(text, sizeof(text));
		prefix = len > 0 ? next_random() % len : 0;
		prefix -= utf8_partial(text, prefix);
		check_fit(text, len, prefix);
	}
}

static void
test_small(void **state)
{
	struct token_stream ts;

	(void)state;
	assert_int_equal(tokenizer_count(TOKENIZER_ESTIMATE, "", 0), 0);
	assert_int_equal(tokenizer_count(TOKENIZER_ESTIMATE, "a", 1), 1);
	token_stream_init(&ts, TOKENIZER_ESTIMATE);
	assert_int_equal(token_stream_append(&ts, NULL, 0), 0);
	assert_int_equal(token_stream_fit(&ts, NULL, 0, 0), 0);
	assert_int_equal(token_stream_fit(&ts, "a", 1, 0), 0);
	assert_int_equal(token_stream_fit(&ts, "a", 1, 1), 1);
}

/* What is not UTF-8 must not hang it or read beyond the end. */
static void
test_invalid_input(void **state)
{
	char text[4], *copy;

	(void)state;
	for (int round = 0; round < 20000; round++) {
		size_t n = next_random() % sizeof(text) + 1;

		for (size_t i = 0; i < n; i++)
			text[i] = (char)(0x70 + next_random() % 0x90);
		copy = malloc(n);
		memcpy(copy, text, n);
		assert_in_range(tokenizer_count(TOKENIZER_ESTIMATE, copy, n), 1, 4 * n);
		free(copy);
	}
}

/* Long runs cost in proportion: nothing wraps, nothing stops growing. */
static void
test_long_runs(void **state)
{
	static const char *const units[] = {"a", "7", " ", "=", "я", "中", "😀", "the "};
	struct token_stream ts;
	uint32_t half, whole;

	(void)state;
	for (size_t i = 0; i < LEN(units); i++) {
		token_stream_init(&ts, TOKENIZER_ESTIMATE);
		for (int n = 0; n < 100000; n++)
			(void)token_stream_append(&ts, units[i], strlen(units[i]));
		half = ts.count;
		for (int n = 0; n < 100000; n++)
			(void)token_stream_append(&ts, units[i], strlen(units[i]));
		whole = ts.count;
		assert_in_range(whole - half, half * 9 / 10, half * 11 / 10);
		assert_true(half >= 100);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_names),
	    cmocka_unit_test(test_not_below_the_real_count),
	    cmocka_unit_test(test_any_pieces),
	    cmocka_unit_test(test_fit),
	    cmocka_unit_test(test_small),
	    cmocka_unit_test(test_invalid_input),
	    cmocka_unit_test(test_long_runs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
