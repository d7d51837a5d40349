/*
 * Goal:   a chunk that goes by the template means exactly what the full decoder makes of it.
 * Method: learn from one chunk, then compare both ways of decoding for many texts, for chunks
 *         that differ elsewhere, and for chunks mutated at random.
 *
 * objs: daemon/delta_read.o
 * objs: daemon/openai_template.o daemon/openai.o daemon/json.o daemon/json_value.o daemon/utf8.o
 * objs: daemon/buf.o shm/money.o
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/openai_template.h"

#define CHUNK(text)                                                                            \
	"{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,"           \
	"\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"" text             \
	"\"},\"logprobs\":null,\"finish_reason\":null}],\"usage\":null}"

static struct buf full_scratch, fast_scratch;

static void
learn(struct openai_template *t, const char *chunk)
{
	struct delta d;

	openai_decode(chunk, strlen(chunk), &full_scratch, &d);
	openai_template_learn(t, chunk, strlen(chunk), &d);
}

/* If the template takes it, the full decoder must say the same. */
static bool
same(struct openai_template *t, const char *data, size_t len)
{
	struct span text;
	struct delta d;

	if (!openai_template_match(t, data, len, &fast_scratch, &text))
		return false;
	openai_decode(data, len, &full_scratch, &d);
	assert_true(d.kind == DELTA_PART || (d.kind == DELTA_EMPTY && text.len == 0));
	assert_int_equal(d.text.len, text.len);
	assert_memory_equal(d.text.p, text.p, text.len);
	assert_int_equal(d.finish, OUTCOME_NONE);
	assert_false(d.usage.present || d.utf8_repaired);
	assert_int_equal(d.other.len + d.reasoning.len + d.tool_arguments.len, 0);
	return true;
}

static void
takes_what_differs_in_text_only(void **state)
{
	static const char *const good[] = {CHUNK("a"), CHUNK(" the"), CHUNK("\\n\\\"x\\\\"),
	    CHUNK("\xd0\xbf\xd1\x80\xd0\xb8"), CHUNK("\\u043f\\ud83d\\ude00"),
	    CHUNK("\\ud800x"), CHUNK("\\\\ud800"), CHUNK(""),
	    CHUNK("0123456789abcdef0123456789abcdef"), CHUNK("\xf0\x9f\x98\x80")};
	struct openai_template t = {0};

	(void)state;
	assert_false(same(&t, good[0], strlen(good[0])));
	learn(&t, good[0]);
	for (size_t i = 0; i < sizeof good / sizeof *good; i++)
		assert_true(same(&t, good[i], strlen(good[i])));
	openai_template_free(&t);
}

static void
leaves_the_rest_alone(void **state)
{
	static const char *const other[] = {CHUNK("\xff"), CHUNK("\n"), CHUNK("\\x"),
	    CHUNK("a\",\"refusal\":\"b"), CHUNK("\\"), CHUNK("\xed\xa0\x80"),
	    CHUNK("\\ud800"), CHUNK("x\\ud83d"), CHUNK("\\ude00x"), /* halves of a pair */
	    "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,"
	    "\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{},\"logprobs\":null,"
	    "\"finish_reason\":\"stop\"}],\"usage\":null}",
	    "[DONE]", "", "{"};
	struct openai_template t = {0};

	(void)state;
	learn(&t, CHUNK("a"));
	for (size_t i = 0; i < sizeof other / sizeof *other; i++)
		assert_false(same(&t, other[i], strlen(other[i])));
	openai_template_free(&t);
}

static void
learns_only_plain_chunks(void **state)
{
	static const char *const other[] = {
	    "{\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"finish_reason\":\"stop\"}]}",
	    "{\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\",\"reasoning\":\"b\"}}]}",
	    "{\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}],"
	    "\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":1}}",
	    "{\"choices\":[{\"index\":1,\"delta\":{\"content\":\"a\"}}]}"};
	struct openai_template t = {0};

	(void)state;
	for (size_t i = 0; i < sizeof other / sizeof *other; i++) {
		learn(&t, other[i]);
		assert_int_equal(t.before, 0);
	}
	openai_template_free(&t);
}

static void
gives_up_on_chunks_that_never_match(void **state)
{
	struct openai_template t = {0};
	struct span text;
	char chunk[200];

	(void)state;
	for (int i = 0; i < 100; i++) {
		int n = snprintf(chunk, sizeof chunk, "{\"n\":%d,\"choices\":[{\"index\":0,\"delta\":"
						      "{\"content\":\"a\"}}]}", i);

		assert_false(openai_template_match(&t, chunk, (size_t)n, &fast_scratch, &text));
		learn(&t, chunk);
	}
	assert_true(t.misses > 16);
	openai_template_free(&t);
}

static void
agrees_on_random_changes(void **state)
{
	struct openai_template t = {0};
	char base[] = CHUNK("some \\n text \xd0\xbf"), changed[sizeof base];
	static const char bytes[] = "\"\\{}[]:,x0 \n\xff\xd0\xbf";
	unsigned taken = 0;

	(void)state;
	srand(1);
	learn(&t, base);
	for (int i = 0; i < 200000; i++) {
		size_t at = (size_t)rand() % (sizeof base - 1);

		memcpy(changed, base, sizeof base);
		changed[at] = bytes[(size_t)rand() % (sizeof bytes - 1)];
		taken += same(&t, changed, sizeof base - 1);
	}
	assert_true(taken > 1000);
	openai_template_free(&t);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(takes_what_differs_in_text_only),
	    cmocka_unit_test(leaves_the_rest_alone),
	    cmocka_unit_test(learns_only_plain_chunks),
	    cmocka_unit_test(gives_up_on_chunks_that_never_match),
	    cmocka_unit_test(agrees_on_random_changes),
	};
	int failed = cmocka_run_group_tests(tests, NULL, NULL);

	buf_free(&full_scratch);
	buf_free(&fast_scratch);
	return failed;
}
