/*
 * Goal:   the admin socket's messages are what docs/admin-protocol.md says, to the byte, and
 *         nothing that a peer sends makes the decoder read, allocate or believe too much.
 * Method: the document's golden frames both ways; every cut of a message; each kind of fault.
 * objs: admin/proto.o
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "admin/proto.h"

static size_t
from_hex(const char *hex, char *out)
{
	size_t n = 0;
	unsigned v;

	for (; *hex != '\0'; hex++) {
		if (*hex == ' ')
			continue;
		assert_int_equal(sscanf(hex, "%2x", &v), 1);
		out[n++] = (char)v;
		hex++;
	}
	return n;
}

static void
assert_hex(const struct proto_out *out, const char *hex)
{
	char want[512];
	size_t n = from_hex(hex, want);

	assert_false(out->failed);
	assert_int_equal(out->len, n);
	assert_memory_equal(out->data, want, n);
}

/* The frames of docs/admin-protocol.md. */
#define TOPUP                                                                                      \
	"94 00 01 ac 63726564 69742e74 6f707570 91 83 a2 6964 a5 616c696365 a6 616d6f756e74"       \
	"ce 004c4b40 a3 726566 a5 696e762d37"
#define PING "94 00 07 ab 6461656d 6f6e2e70 696e67 90"
#define REFUSAL                                                                                    \
	"94 01 01 83 a4 636f6465 b1 6163636f756e745f6e6f745f666f756e64 a7 6d657373616765"          \
	"b0 6e6f206163636f756e7420616c696365 a5 6669656c64 a2 6964 c0"
#define PROGRESS                                                                                   \
	"93 02 ae 61756469742e70726f6772657373 91 82 a7 7265636f726473 cd 03e8 a2 6f66 cd 07d0"

static void
builds_golden_frames(void **state)
{
	struct proto_out out;

	(void)state;
	proto_out_init(&out);
	proto_put_request(&out, 1, "credit.topup");
	proto_put_map(&out, 3);
	proto_put_kstr(&out, "id", "alice");
	proto_put_kint(&out, "amount", 5000000);
	proto_put_kstr(&out, "ref", "inv-7");
	assert_hex(&out, TOPUP);
	proto_out_free(&out);

	proto_out_init(&out);
	proto_put_error(&out, 1, "account_not_found", "no account alice", "id");
	assert_hex(&out, REFUSAL);
	proto_out_free(&out);

	proto_out_init(&out);
	proto_put_notification(&out, "audit.progress");
	proto_put_map(&out, 2);
	proto_put_kint(&out, "records", 1000);
	proto_put_kint(&out, "of", 2000);
	assert_hex(&out, PROGRESS);
	proto_out_free(&out);
}

static void
decodes_golden_frames(void **state)
{
	struct proto_message m;
	char bytes[512];
	size_t n = from_hex(TOPUP, bytes), len;

	(void)state;
	assert_null(proto_decode(&m, bytes, n));
	assert_int_equal(m.kind, PROTO_REQUEST);
	assert_int_equal(m.id, 1);
	assert_int_equal(m.method_len, 12);
	assert_memory_equal(m.method, "credit.topup", 12);
	assert_int_equal(proto_get_int(m.args, "amount", 0), 5000000);
	assert_memory_equal(proto_get_text(m.args, "id", &len), "alice", 5);
	assert_int_equal(len, 5);
	proto_message_free(&m);

	n = from_hex(PING, bytes);
	assert_null(proto_decode(&m, bytes, n));
	assert_int_equal(m.id, 7);
	assert_null(m.args);
	proto_message_free(&m);

	n = from_hex(REFUSAL, bytes);
	assert_null(proto_decode(&m, bytes, n));
	assert_int_equal(m.kind, PROTO_ANSWER);
	assert_memory_equal(proto_get_text(m.error, "field", &len), "id", 2);
	proto_message_free(&m);

	n = from_hex(PROGRESS, bytes);
	assert_null(proto_decode(&m, bytes, n));
	assert_int_equal(m.kind, PROTO_NOTIFICATION);
	assert_int_equal(proto_get_int(m.args, "of", 0), 2000);
	proto_message_free(&m);
}

/* However the bytes arrive, the message ends at the same place. */
static void
finds_the_end(void **state)
{
	static const char *const frames[] = {TOPUP, PING, REFUSAL, PROGRESS};

	(void)state;
	for (size_t f = 0; f < 4; f++) {
		char bytes[512];
		size_t n = from_hex(frames[f], bytes);
		struct proto_scan one = {0};

		memset(bytes + n, 0xc1, 16); /* what follows is none of its business */
		for (size_t len = 0; len < n; len++) {
			struct proto_scan s = {0};

			assert_int_equal(proto_scan(&s, bytes, len, 1000), PROTO_MORE);
			assert_int_equal(proto_scan(&one, bytes, len, 1000), PROTO_MORE);
			assert_int_equal(proto_scan(&s, bytes, n + 16, 1000), PROTO_WHOLE);
			assert_int_equal(s.at, n);
		}
		assert_int_equal(proto_scan(&one, bytes, n + 16, 1000), PROTO_WHOLE);
		assert_int_equal(one.at, n);
	}
}

static enum proto_scan_result
scan_hex(const char *hex, size_t max)
{
	struct proto_scan s = {0};
	char bytes[512];
	size_t n = from_hex(hex, bytes);

	return proto_scan(&s, bytes, n, max);
}

static void
refuses_what_is_too_much(void **state)
{
	struct proto_scan s = {0};
	char deep[64];

	(void)state;
	/* Announced, not sent: refused at once. */
	assert_int_equal(scan_hex("dd ffffffff", 1 << 20), PROTO_OVERSIZE);
	assert_int_equal(scan_hex("df 7fffffff", 1 << 20), PROTO_OVERSIZE);
	assert_int_equal(scan_hex("df ffffffff", 1 << 20), PROTO_OVERSIZE);
	assert_int_equal(scan_hex("db ffffffff", 1 << 20), PROTO_OVERSIZE);
	assert_int_equal(scan_hex("c6 00100000", 1 << 20), PROTO_OVERSIZE);
	assert_int_equal(scan_hex("db 000ffffb", 1 << 20), PROTO_MORE);
	assert_int_equal(scan_hex("db 000ffffc", 1 << 20), PROTO_OVERSIZE);
	assert_int_equal(scan_hex("92 a3616263", 5), PROTO_OVERSIZE);
	/* Not of this protocol: the unused byte, extensions. */
	assert_int_equal(scan_hex("c1", 100), PROTO_MALFORMED);
	assert_int_equal(scan_hex("92 00 d6ff00000000", 100), PROTO_MALFORMED);
	assert_int_equal(scan_hex("c70100", 100), PROTO_MALFORMED);
	/* Depth. */
	memset(deep, 0x91, sizeof deep);
	assert_int_equal(proto_scan(&s, deep, PROTO_DEPTH_MAX, 100), PROTO_MORE);
	assert_int_equal(proto_scan(&s, deep, PROTO_DEPTH_MAX + 1, 100), PROTO_MALFORMED);
	/* An empty container is whole. */
	assert_int_equal(scan_hex("90", 100), PROTO_WHOLE);
	assert_int_equal(scan_hex("dd 00000000", 100), PROTO_WHOLE);
	assert_int_equal(scan_hex("92 80 dc0000", 100), PROTO_WHOLE);
}

/* Values of each kind, however long their length field. */
static void
scans_every_kind(void **state)
{
	(void)state;
	assert_int_equal(scan_hex("9f c0 c2 c3 c40161 c5000162 c6000000 0163 ca00000000"
				  "cb0000000000000000 cc01 cd0001 ce00000001 cf0000000000000001"
				  "d001 d10001 d200000001", 200),
	    PROTO_WHOLE);
	assert_int_equal(
	    scan_hex("98 d30000000000000001 d90161 da000162 db0000000163 e0 7f bf", 200),
	    PROTO_MORE);
	assert_int_equal(scan_hex("93 de0001 a16101 df00000001 a16201 8101 dd00000001 c0", 200),
	    PROTO_WHOLE);
}

static void
refuses_what_is_no_message(void **state)
{
	static const struct {
		const char *hex;
		bool has_id;
	} bad[] = {
	    {"c0", false},
	    {"80", false},
	    {"90", false},
	    {"93 00 01 a16d", false},         /* a request of three */
	    {"94 03 01 a16d 90", false},      /* no such kind */
	    {"94 c0 01 a16d 90", false},
	    {"94 00 ff a16d 90", false},      /* a negative id */
	    {"94 00 cf0000000100000000 a16d 90", false},
	    {"94 00 a131 a16d 90", false},
	    {"94 00 05 06 90", true},         /* the method is a number */
	    {"94 00 05 a16d 80", true},       /* arguments not in an array */
	    {"94 00 05 a16d 9101", true},     /* not named */
	    {"94 00 05 a16d 928080", true},   /* two maps */
	    {"94 01 05 01 c0", true},         /* an error that is no map */
	    {"94 02 a16d 90 c0", false},      /* a notification of four */
	    {"93 02 01 90", false},
	};

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		struct proto_message m;
		char bytes[64];
		size_t n = from_hex(bad[i].hex, bytes);

		assert_non_null(proto_decode(&m, bytes, n));
		assert_int_equal(m.has_id, bad[i].has_id);
		proto_message_free(&m);
	}
}

static const struct proto_arg list[] = {
    {"id", PROTO_TEXT, true, 1, 5},
    {"n", PROTO_NUMBER, false, -10, INT64_MAX},
    {"b", PROTO_BOOL, false, 0, 1},
    {NULL, PROTO_TEXT, false, 0, 0},
};

static void
check_args(const char *hex, const char *field, const char *why)
{
	struct proto_value v[PROTO_ARGS_MAX];
	struct proto_fault fault;
	struct proto_message m;
	char bytes[128], frame[128];
	size_t n;

	(void)snprintf(frame, sizeof frame, "94 00 01 a16d %s", hex);
	n = from_hex(frame, bytes);
	assert_null(proto_decode(&m, bytes, n));
	if (why == NULL) {
		assert_true(proto_args(list, m.args, v, &fault));
		assert_true(v[0].given);
	} else {
		assert_false(proto_args(list, m.args, v, &fault));
		assert_string_equal(fault.why, why);
		if (field == NULL)
			assert_null(fault.field);
		else
			assert_string_equal(fault.field, field);
	}
	proto_message_free(&m);
}

static void
matches_arguments(void **state)
{
	(void)state;
	check_args("91 81 a26964 a161", NULL, NULL);
	check_args("91 82 a26964 a161 a16e c0", NULL, NULL);
	check_args("91 82 a26964 a161 a16e f6", NULL, NULL);
	check_args("91 82 a26964 a161 a16e cf7fffffffffffffff", NULL, NULL);
	check_args("91 82 a26964 a161 a16e cf8000000000000000", "n", "is not an integer");
	check_args("91 82 a26964 a161 a16e f5", "n", "is out of range");
	check_args("91 82 a26964 a161 a16e cb3ff0000000000000", "n", "is not an integer");
	check_args("91 82 a26964 a161 a16e a131", "n", "is not an integer");
	check_args("91 82 a26964 a161 a162 01", "b", "is not true or false");
	check_args("91 82 a26964 a161 a162 a474727565", "b", "is not true or false");
	check_args("90", "id", "is missing");
	check_args("91 80", "id", "is missing");
	check_args("91 81 a26964 c0", "id", "is missing");
	check_args("91 81 a26964 a0", "id", "is empty");
	check_args("91 81 a26964 a6616263646566", "id", "is too long");
	check_args("91 81 a26964 01", "id", "is not a string");
	check_args("91 81 a26964 c40161", "id", "is not a string");
	check_args("91 81 a26964 a20a61", "id", "is not plain UTF-8 text");
	check_args("91 81 a26964 a2c080", "id", "is not plain UTF-8 text");
	check_args("91 81 a26964 a2c29b", "id", "is not plain UTF-8 text");
	check_args("91 82 a26964 a161 a26964 a162", "id", "is given twice");
	check_args("91 82 a26964 a161 a178 01", NULL, "unknown argument");
	check_args("91 82 a26964 a161 01 01", NULL, "unknown argument");
}

static void
knows_text(void **state)
{
	static const char *const good[] = {"", "a", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80",
	    "\xed\x9f\xbf", "\xf4\x8f\xbf\xbf", "\xc2\xa0"};
	static const char *const bad[] = {"\x1b[0m", "\x7f", "\x80", "\xc3", "\xc0\xaf",
	    "\xe0\x9f\xbf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xe2\x82",
	    "\xc2\x85", "\t"};

	(void)state;
	for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
		assert_true(proto_text_ok(good[i], strlen(good[i])));
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		assert_false(proto_text_ok(bad[i], strlen(bad[i])));
	assert_false(proto_text_ok("a\0b", 3));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(builds_golden_frames),
	    cmocka_unit_test(decodes_golden_frames),
	    cmocka_unit_test(finds_the_end),
	    cmocka_unit_test(refuses_what_is_too_much),
	    cmocka_unit_test(scans_every_kind),
	    cmocka_unit_test(refuses_what_is_no_message),
	    cmocka_unit_test(matches_arguments),
	    cmocka_unit_test(knows_text),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
