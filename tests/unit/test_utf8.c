/*
 * Goal:   only well-formed UTF-8 counts as such, and what is not is replaced as WHATWG decodes.
 * Method: a table of sequences; then each code point, and each two- and three-byte sequence
 *         against a slow decoder written straight from RFC 3629.
 *
 * objs: daemon/utf8.o daemon/buf.o shm/money.o
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/utf8.h"

struct sample {
	struct span text;
	size_t prefix;  /* of it, valid */
	size_t partial; /* bytes at the end of an unfinished character */
	const char *repaired;
};

#define BAD UTF8_REPLACEMENT

static const struct sample samples[] = {
    {SPAN(""), 0, 0, ""},
    {SPAN("plain"), 5, 0, "plain"},
    {SPAN("\xc3\xa9"), 2, 0, "\xc3\xa9"},
    {SPAN("a\xc3"), 1, 1, "a" BAD},
    {SPAN("\xe2\x82\xac"), 3, 0, "\xe2\x82\xac"},
    {SPAN("\xe2\x82"), 0, 2, BAD},
    {SPAN("\xf0\x9f\x98\x80!"), 5, 0, "\xf0\x9f\x98\x80!"},
    {SPAN("\xf0\x9f\x98"), 0, 3, BAD},
    {SPAN("\xf0\x9f\x98x"), 0, 0, BAD "x"},
    {SPAN("\x80"), 0, 0, BAD},
    {SPAN("\x80\xbf"), 0, 0, BAD BAD},
    /* too long */
    {SPAN("\xc0\x80"), 0, 0, BAD BAD},
    {SPAN("\xc1\xbf"), 0, 0, BAD BAD},
    {SPAN("\xe0\x80\x80"), 0, 0, BAD BAD BAD},
    {SPAN("\xf0\x80\x80\x80"), 0, 0, BAD BAD BAD BAD},
    /* surrogates */
    {SPAN("\xed\xa0\x80"), 0, 0, BAD BAD BAD},
    {SPAN("\xed\xbf\xbf"), 0, 0, BAD BAD BAD},
    {SPAN("\xed\x9f\xbf"), 3, 0, "\xed\x9f\xbf"},
    /* past U+10FFFF */
    {SPAN("\xf4\x8f\xbf\xbf"), 4, 0, "\xf4\x8f\xbf\xbf"},
    {SPAN("\xf4\x90\x80\x80"), 0, 0, BAD BAD BAD BAD},
    {SPAN("\xf5\x80\x80\x80"), 0, 0, BAD BAD BAD BAD},
    {SPAN("\xff\xfe"), 0, 0, BAD BAD},
    /* Unicode's own example of maximal subparts */
    {SPAN("a\xf1\x80\x80\xe1\x80\xc2" "b\x80" "c\x80\xbf" "d"), 1, 0,
        "a" BAD BAD BAD "b" BAD "c" BAD BAD "d"},
    {SPAN("0123456789abcdef\xe4\xb8\xad\xe6\x96\x87" "0123456789abcdef\xff"), 38, 0,
        "0123456789abcdef\xe4\xb8\xad\xe6\x96\x87" "0123456789abcdef" BAD},
};

static void
test_samples(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(samples) / sizeof(samples[0]); i++) {
		const struct sample *s = &samples[i];
		struct buf b = {0};

		assert_int_equal(utf8_valid_prefix(s->text.p, s->text.len), s->prefix);
		assert_int_equal(utf8_valid(s->text.p, s->text.len), s->prefix == s->text.len);
		assert_int_equal(utf8_partial(s->text.p, s->text.len), s->partial);
		utf8_repair(&b, s->text.p, s->text.len);
		assert_int_equal(b.len, strlen(s->repaired));
		if (b.len > 0)
			assert_memory_equal(b.data, s->repaired, b.len);
		buf_free(&b);
	}
}

static size_t
encode(uint32_t c, unsigned char out[4])
{
	if (c < 0x80) {
		out[0] = (unsigned char)c;
		return 1;
	}
	if (c < 0x800) {
		out[0] = (unsigned char)(0xc0 | c >> 6);
		out[1] = (unsigned char)(0x80 | (c & 0x3f));
		return 2;
	}
	if (c < 0x10000) {
		out[0] = (unsigned char)(0xe0 | c >> 12);
		out[1] = (unsigned char)(0x80 | (c >> 6 & 0x3f));
		out[2] = (unsigned char)(0x80 | (c & 0x3f));
		return 3;
	}
	out[0] = (unsigned char)(0xf0 | c >> 18);
	out[1] = (unsigned char)(0x80 | (c >> 12 & 0x3f));
	out[2] = (unsigned char)(0x80 | (c >> 6 & 0x3f));
	out[3] = (unsigned char)(0x80 | (c & 0x3f));
	return 4;
}

/* RFC 3629 by the book: decode, then ask whether it was the shortest form of a scalar value. */
static int
slow_valid(const unsigned char *p, size_t n)
{
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	size_t at = 0;

	while (at < n) {
		size_t need = p[at] < 0x80 ? 1
		    : p[at] >= 0xc0 && p[at] < 0xe0 ? 2
		    : p[at] >= 0xe0 && p[at] < 0xf0 ? 3
		    : p[at] >= 0xf0 && p[at] < 0xf8 ? 4
		                                    : 0;
		uint32_t c = need == 1 ? p[at] : need > 1 ? p[at] & (0x7fu >> need) : 0;

		if (need == 0 || at + need > n)
			return 0;
		for (size_t i = 1; i < need; i++) {
			if ((p[at + i] & 0xc0) != 0x80)
				return 0;
			c = c << 6 | (p[at + i] & 0x3f);
		}
		if (c < least[need] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
			return 0;
		at += need;
	}
	return 1;
}

static void
test_each_code_point(void **state)
{
	unsigned char text[4];
	size_t n;

	(void)state;
	for (uint32_t c = 0; c < 0x120000; c++) {
		int good = c <= 0x10ffff && !(c >= 0xd800 && c < 0xe000);

		n = encode(c, text);
		if (utf8_valid((char *)text, n) != good)
			fail_msg("U+%04X", c);
		for (size_t cut = 1; good && cut < n; cut++)
			if (utf8_partial((char *)text, cut) != cut)
				fail_msg("U+%04X cut after %zu", c, cut);
	}
}

static void
test_each_short_sequence(void **state)
{
	unsigned char p[4];

	(void)state;
	for (uint32_t v = 0; v < 0x1000000; v++) {
		p[0] = (unsigned char)(v >> 16);
		p[1] = (unsigned char)(v >> 8);
		p[2] = (unsigned char)v;
		/* Three ASCII bytes teach nothing. */
		if (p[0] < 0x80)
			v |= 0x7fffff;
		else if (utf8_valid((char *)p, 3) != slow_valid(p, 3) ||
		    utf8_valid((char *)p, 2) != slow_valid(p, 2))
			fail_msg("%02x %02x %02x", p[0], p[1], p[2]);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_samples),
	    cmocka_unit_test(test_each_code_point),
	    cmocka_unit_test(test_each_short_sequence),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
