#ifndef TESTS_UNIT_JANSSON_BESIDE_H
#define TESTS_UNIT_JANSSON_BESIDE_H

/*
 * jansson and daemon/json.h both have a JSON_STRING and its like, so no file can include both as
 * they are.  Tests that compare the two get jansson's types under names of their own; its
 * json_is_...() macros must not be used (they would see ours), json_typeof() can.
 */
#define JSON_OBJECT JANSSON_OBJECT
#define JSON_ARRAY JANSSON_ARRAY
#define JSON_STRING JANSSON_STRING
#define JSON_INTEGER JANSSON_INTEGER
#define JSON_REAL JANSSON_REAL
#define JSON_TRUE JANSSON_TRUE
#define JSON_FALSE JANSSON_FALSE
#define JSON_NULL JANSSON_NULL
#include <jansson.h>
#undef JSON_OBJECT
#undef JSON_ARRAY
#undef JSON_STRING
#undef JSON_INTEGER
#undef JSON_REAL
#undef JSON_TRUE
#undef JSON_FALSE
#undef JSON_NULL

#include <stdbool.h>
#include <string.h>

/*
 * Is this refusal of jansson's one that we do not share?  We accept lone surrogate escapes, NUL
 * in keys, and numbers beyond int64 or double.
 */
static inline bool
jansson_alone(const json_error_t *e)
{
	return strstr(e->text, "nvalid Unicode '\\u") != NULL ||
	    strstr(e->text, "NUL byte in object key") != NULL ||
	    json_error_code(e) == json_error_numeric_overflow;
}

static inline json_t *
jansson_load(const char *text, size_t len, json_error_t *e)
{
	return json_loadb(text, len,
	    JSON_DECODE_ANY | JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, e);
}

#endif
