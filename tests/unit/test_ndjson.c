/*
 * Goal:   lines come out whole, however the bytes were cut, and none that is too long.
 * Method: a table of streams with the lines they hold; each is fed whole, byte by byte, and in two
 *         pieces at every place, each piece in memory of its own.
 *
 * objs: daemon/ndjson.o daemon/buf.o shm/money.o
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/ndjson.h"

#define LINE_BYTES_MAX 8
#define BOM "\xef\xbb\xbf"

static const struct sample {
	const char *stream, *lines; /* [line] each */
	enum ndjson_result result;
} samples[] = {
    {"", "", NDJSON_OK},
    {"{}\n", "[{}]", NDJSON_OK},
    {"{}", "[{}]", NDJSON_OK},
    {"{}\r\n{1}\r\n", "[{}][{1}]", NDJSON_OK},
    {"{}\r", "[{}]", NDJSON_OK},
    {"\n\r\n \t\n{}\n\n\n{}\n \n", "[{}][{}]", NDJSON_OK},
    {" {} \n", "[ {} ]", NDJSON_OK},
    {BOM "{}\n" BOM "\n", "[{}][" BOM "]", NDJSON_OK},
    {BOM, "", NDJSON_OK},
    {"\r{}\n", "[\r{}]", NDJSON_OK},
    {"12345678\n1\n", "[12345678][1]", NDJSON_OK},
    {"12345678\r\n1\n", "[12345678][1]", NDJSON_OK},
    {BOM "12345678\r\n1\n", "[12345678][1]", NDJSON_OK},
    {"12345678", "[12345678]", NDJSON_OK},
    {"1\n123456789\n1\n", "[1]", NDJSON_OVERSIZE},
    {"1\n12345678\r\r\n1\n", "[1]", NDJSON_OVERSIZE},
    {"1\n         \n1\n", "[1]", NDJSON_OVERSIZE},
    {"123456789", "", NDJSON_OVERSIZE},
    {"1\nstop\n2\n", "[1][stop]", NDJSON_STOPPED},
    {"1\nstop", "[1][stop]", NDJSON_STOPPED},
};

static bool
line_cb(void *arg, struct span line)
{
	struct buf *b = arg;

	buf_str(b, "[");
	buf_span(b, line);
	buf_str(b, "]");
	return !span_eq(line, "stop");
}

/* In pieces of `first` bytes, then of `more`. */
static void
check(const struct sample *s, size_t first, size_t more)
{
	struct ndjson n;
	struct buf seen = {0};
	size_t at, len, left = strlen(s->stream);

	ndjson_init(&n, LINE_BYTES_MAX);
	for (at = 0; left > 0; at += len, left -= len) {
		char *piece;

		len = at == 0 ? first : more;
		len = len < left ? len : left;
		piece = malloc(len);
		memcpy(piece, s->stream + at, len);
		(void)ndjson_feed(&n, piece, len, line_cb, &seen);
		free(piece);
	}
	if (ndjson_end(&n, line_cb, &seen) != s->result)
		fail_msg("%s (%zu, %zu): result %d", s->stream, first, more, (int)n.result);
	buf_add(&seen, "", 1);
	if (strcmp(seen.data, s->lines) != 0)
		fail_msg("%s (%zu, %zu): %s", s->stream, first, more, seen.data);
	/* What ended stays so. */
	if (s->result != NDJSON_OK)
		assert_int_equal(ndjson_feed(&n, "1\n", 2, line_cb, &seen), s->result);
	buf_free(&seen);
	ndjson_free(&n);
}

static void
test_every_cut(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(samples) / sizeof(samples[0]); i++) {
		check(&samples[i], SIZE_MAX, 1);
		check(&samples[i], 1, 1);
		for (size_t cut = 1; cut < strlen(samples[i].stream); cut++) {
			check(&samples[i], cut, SIZE_MAX);
			check(&samples[i], cut, 3);
		}
	}
}

static bool
where_cb(void *arg, struct span line)
{
	*(const char **)arg = line.p;
	return true;
}

static void
test_no_copy(void **state)
{
	static const char stream[] = "{}\n";
	const char *where = NULL;
	struct ndjson n;

	(void)state;
	ndjson_init(&n, LINE_BYTES_MAX);
	assert_int_equal(ndjson_feed(&n, stream, sizeof(stream) - 1, where_cb, &where), NDJSON_OK);
	assert_ptr_equal(where, stream);
	ndjson_free(&n);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_every_cut),
	    cmocka_unit_test(test_no_copy),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
