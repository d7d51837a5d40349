/*
 * Goal:   whatever comes in on the admin socket, its decoder neither crashes nor leaks, and finds
 *         the end of a message at the same place however the bytes are cut.
 * Method: libFuzzer; scan in one piece and in two, decode what is whole, match it against a
 *         method's arguments, build an answer from it and decode that.
 * objs: admin/proto.o
 */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "admin/proto.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct proto_arg list[] = {
    {"id", PROTO_TEXT, true, 1, 64},
    {"amount", PROTO_NUMBER, true, -1000000, INT64_MAX},
    {"ref", PROTO_TEXT, false, 0, 128},
    {NULL, PROTO_TEXT, false, 0, 0},
};

static void
answer(const struct proto_message *m, const struct proto_value *v, bool good,
    const struct proto_fault *fault)
{
	struct proto_message back;
	struct proto_scan scan = {0};
	struct proto_out out;
	const char *why;

	proto_out_init(&out);
	if (good) {
		assert(v[0].given && v[0].len >= 1 && v[0].len <= 64 && v[1].given);
		assert(proto_text_ok(v[0].text, v[0].len));
		proto_put_result(&out, m->id);
		proto_put_map(&out, 2);
		proto_put_ktext(&out, "id", v[0].text, v[0].len);
		proto_put_kint(&out, "amount", v[1].number);
	} else
		proto_put_error(&out, m->id, "invalid_argument", fault->why, fault->field);
	assert(!out.failed);
	assert(proto_scan(&scan, out.data, out.len, PROTO_ANSWER_MAX) == PROTO_WHOLE);
	assert(scan.at == out.len);
	why = proto_decode(&back, out.data, out.len);
	assert(why == NULL && back.id == m->id && (back.error == NULL) == good);
	if (good)
		assert(proto_get_int(back.result, "amount", 0) == v[1].number);
	proto_message_free(&back);
	proto_out_free(&out);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct proto_scan whole = {0}, cut = {0};
	struct proto_value v[PROTO_ARGS_MAX];
	struct proto_fault fault;
	struct proto_message m;
	char *bytes;

	if (size == 0)
		return 0;
	/* A copy of its own size, so that a byte read too far is seen. */
	bytes = malloc(size);
	assert(bytes != NULL);
	memcpy(bytes, data, size);
	if (proto_scan(&whole, bytes, size, 4096) == PROTO_WHOLE) {
		assert(whole.at > 0 && whole.at <= size);
		(void)proto_scan(&cut, bytes, data[size - 1] % (whole.at + 1), 4096);
		assert(proto_scan(&cut, bytes, size, 4096) == PROTO_WHOLE && cut.at == whole.at);
		if (proto_decode(&m, bytes, whole.at) == NULL && m.kind == PROTO_REQUEST)
			answer(&m, v, proto_args(list, m.args, v, &fault), &fault);
		proto_message_free(&m);
	}
	free(bytes);
	return 0;
}
