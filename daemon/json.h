#ifndef DAEMON_JSON_H
#define DAEMON_JSON_H

/*
 * A strict JSON scanner (RFC 8259) for the hot path: validates a whole document and walks it in
 * place.  It checks UTF-8, depth, number syntax and duplicate keys, and allocates only where
 * more than JSON_KEYS keys are open at once.  Pure; any process.
 *
 *   struct json_value root, v;
 *   size_t at;
 *   if (json_check(text, len, &root, &at) != JSON_OK) ...
 *   if (json_get(root, "model", &v) && v.type == JSON_STRING) n = json_decode(v, out);
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "daemon/buf.h"

#define JSON_DEPTH_MAX 64

enum json_type {
	JSON_NONE = 0,
	JSON_OBJECT,
	JSON_ARRAY,
	JSON_STRING,
	JSON_NUMBER,
	JSON_TRUE,
	JSON_FALSE,
	JSON_NULL,
};

enum json_error {
	JSON_OK = 0,
	JSON_SYNTAX,
	JSON_UTF8,
	JSON_DEPTH,
	JSON_DUPLICATE, /* a key twice in one object */
	JSON_TRAILING,
	JSON_NOMEM,
};

/* A validated value: its exact text.  Only values of a document that json_check passed. */
struct json_value {
	enum json_type type;
	const char *p; /* first byte ('"' of a string, '{' of an object) */
	size_t len;
};

/* Check a whole document; on an error *at is its offset.  A lone surrogate escape is allowed
 * (decoded as U+FFFD).  root and at may be NULL. */
enum json_error json_check(const char *text, size_t len, struct json_value *root, size_t *at);
const char *json_error_text(enum json_error);

/* Member of an object; false (and type JSON_NONE) if it is not an object or has no such key. */
bool json_get(struct json_value object, const char *key, struct json_value *out);
/* Several members in one pass: keys[i] -> out[i] (JSON_NONE where absent). */
void json_get_many(struct json_value object, const char *const keys[], struct json_value out[],
    size_t n);

/* Walk an array's or object's members: start with *it = NULL; false at the end.  key may be
 * NULL; it is JSON_NONE in an array. */
bool json_each(struct json_value container, const char **it, struct json_value *key,
    struct json_value *value);

/*
 * Walk the strings of a document, in their order and at whatever depth, but for the keys of
 * objects: in one pass, however deep they lie.  Start with *it = NULL; false at the end.
 */
bool json_each_string(struct json_value, const char **it, struct json_value *string);

/* Decode a string's text into out (at least v.len bytes are always enough); its length. */
size_t json_decode(struct json_value, char *out);
/* The same appended to a buf. */
void json_decode_buf(struct json_value, struct buf *);
/* Is it this string (after decoding)? */
bool json_is(struct json_value, const char *text);
/*
 * Is it this string (lower case), or what some reader of JSON takes for it: in other cases, with a
 * letter that Unicode folds to one of ASCII's, or with a NUL behind it?
 */
bool json_is_like(struct json_value, const char *text);
/* The integer value of a number without fraction or exponent; false if not one or beyond int64. */
bool json_int(struct json_value, int64_t *out);

#define JSON_LITERAL(literal) (literal), sizeof(literal) - 1
/* Is this string's text (after decoding) these bytes?  Inline: a key is asked this many times. */
bool json_is_escaped(struct json_value, const char *text, size_t len);
static inline bool
json_is_bytes(struct json_value v, const char *text, size_t len)
{
	/* Decoding only shortens, and changes no first byte but a backslash. */
	if (v.type != JSON_STRING || v.len < len + 2 ||
	    (len > 0 && v.p[1] != text[0] && v.p[1] != '\\'))
		return false;
	if (v.len == len + 2 && memchr(text, '\\', len) == NULL)
		return memcmp(v.p + 1, text, len) == 0;
	return json_is_escaped(v, text, len);
}

/*
 * Reading and checking in one pass, for who knows what to look for:
 *
 *   json_read_init(&r, text, len);
 *   for (json_enter(&r, JSON_OBJECT, &l); json_next(&r, &l, &key);)
 *           if (json_is_bytes(key, JSON_LITERAL("id"))) json_read(&r, &v); else json_skip(&r);
 *   if (json_read_end(&r) != JSON_OK) ... nothing that was read counts
 *
 * After json_next the member's value must be taken by exactly one of json_enter (and its
 * members read to the end), json_read or json_skip.  After an error all of them do nothing.
 */
#define JSON_KEYS 48

struct json_key {
	const char *p; /* the raw key, without quotes */
	size_t len;
	uint32_t digest; /* of the decoded key */
	bool escaped;
};

struct json_reader {
	const char *p, *end, *text;
	enum json_error error;
	const char *error_at;
	unsigned depth;
	/* Keys of the open objects, innermost last: fixed until that is too small. */
	struct json_key *keys;
	size_t keys_len, keys_cap;
	struct json_key fixed[JSON_KEYS];
};

/* A container that is being read. */
struct json_level {
	enum json_type type; /* JSON_NONE once it ended */
	bool first;
	size_t keys_from;
	uint64_t seen; /* a bit for each key's digest: clear means that the key is new */
};

void json_read_init(struct json_reader *, const char *text, size_t len);
/* What comes next; JSON_NONE at the end or after an error. */
enum json_type json_peek(struct json_reader *);
/* Take the '{' or '['; false (an error only if it is not even JSON) if something else is here. */
bool json_enter(struct json_reader *, enum json_type, struct json_level *);
bool json_next(struct json_reader *, struct json_level *, struct json_value *key);
/* The value that comes next, checked as a whole. */
bool json_read(struct json_reader *, struct json_value *);
bool json_skip(struct json_reader *);
/* The document must end here.  Frees what was allocated; must be called. */
enum json_error json_read_end(struct json_reader *);

#endif
