/*
 * Goal:   the JSON scanner accepts nothing that jansson refuses, and the other way round, but
 *         for the differences that are meant; and no bytes make it read out of bounds.
 * Method: libFuzzer; each input is checked by both, then walked and decoded.
 *
 * Ours accepts what jansson_alone() says; ours refuses nesting beyond
 * JSON_DEPTH_MAX, and a NUL byte, which jansson skips after a number.
 *
 * objs: daemon/json.o daemon/json_value.o daemon/buf.o shm/money.o
 */
#include <stdlib.h>
#include <string.h>

#include "tests/unit/jansson_beside.h"

#include "daemon/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(condition) \
	do { \
		if (!(condition)) \
			abort(); \
	} while (0)

/* Both walk the same document: the same values in the same places. */
static void
compare(struct json_value v, const json_t *j)
{
	struct json_value key, member;
	const char *it = NULL;
	char *text;
	int64_t n;
	size_t len, count = 0;
	bool integer;

	CHECK(j != NULL);
	integer = json_typeof(j) == JANSSON_INTEGER;
	switch (v.type) {
	case JSON_OBJECT:
		CHECK(json_typeof(j) == JANSSON_OBJECT);
		while (json_each(v, &it, &key, &member)) {
			text = malloc(key.len + 1);
			len = json_decode(key, text);
			text[len] = '\0';
			CHECK(len <= key.len && json_is_bytes(key, text, len));
			/* jansson refuses NUL in keys, so a C string is enough here. */
			compare(member, json_object_get(j, text));
			free(text);
			count++;
		}
		CHECK(count == json_object_size(j));
		break;
	case JSON_ARRAY:
		while (json_each(v, &it, &key, &member))
			compare(member, json_array_get(j, count++));
		CHECK(json_typeof(j) == JANSSON_ARRAY && count == json_array_size(j));
		break;
	case JSON_STRING:
		text = malloc(v.len);
		len = json_decode(v, text);
		CHECK(json_typeof(j) == JANSSON_STRING && len == json_string_length(j));
		CHECK(memcmp(text, json_string_value(j), len) == 0);
		free(text);
		break;
	case JSON_NUMBER:
		CHECK(integer || json_typeof(j) == JANSSON_REAL);
		CHECK(json_int(v, &n) == integer);
		CHECK(!integer || n == json_integer_value(j));
		break;
	case JSON_TRUE:
		CHECK(json_typeof(j) == JANSSON_TRUE);
		break;
	case JSON_FALSE:
		CHECK(json_typeof(j) == JANSSON_FALSE);
		break;
	case JSON_NULL:
		CHECK(json_typeof(j) == JANSSON_NULL);
		break;
	default:
		abort();
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *text = (const char *)data;
	struct json_value root;
	json_error_t e;
	size_t at;
	json_t *j = jansson_load(text, size, &e);
	enum json_error error = json_check(text, size, &root, &at);

	CHECK(at <= size);
	if (j != NULL && error == JSON_OK)
		compare(root, j);
	else if (j != NULL)
		CHECK(error == JSON_DEPTH || (at < size && text[at] == '\0'));
	else if (error == JSON_OK)
		CHECK(jansson_alone(&e));
	json_decref(j);
	return 0;
}
