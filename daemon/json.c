/*
 * A strict JSON reader: checks a document in one pass, value by value.  Pure.
 *
 * Duplicate keys are found without quadratic work: an object of up to KEYS_LINEAR keys compares
 * a new key with the others only if a 64-bit filter cannot rule it out; a larger one sorts its
 * keys once it is complete.  Sorting rather than hashing, because no choice of keys makes it slow.
 */
#include "daemon/json.h"

#include <stdlib.h>
#include <string.h>

#include "daemon/hex.h"
#include "daemon/json_text.h"
#include "daemon/utf8.h"

#define KEYS_LINEAR 16

static bool
fail(struct json_reader *r, enum json_error error, const char *at)
{
	if (r->error == JSON_OK) {
		r->error = error;
		r->error_at = at;
	}
	return false;
}

static inline void
skip_space(struct json_reader *r)
{
	const char *p = r->p;

	/* Providers send none: one comparison is the usual cost. */
	if (p == r->end || (unsigned char)*p > ' ')
		return;
	while (p < r->end && (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t'))
		p++;
	r->p = p;
}

/* p is at a backslash: the end of its escape, or NULL if it is none. */
static const char *
escape_end(const char *p, const char *end)
{
	if (end - p < 2)
		return NULL;
	if (p[1] != 'u')
		return p[1] != '\0' && strchr("\"\\/bfnrt", p[1]) != NULL ? p + 2 : NULL;
	if (end - p < 6)
		return NULL;
	for (int i = 2; i < 6; i++)
		if (hex_digit(p[i]) < 0)
			return NULL;
	return p + 6;
}

/* r->p is at the opening quote; on success it is past the closing one. */
static inline bool
scan_string(struct json_reader *r, bool *escaped)
{
	const char *p = r->p + 1, *next;
	size_t n, bad;

	*escaped = false;
	for (;;) {
		p = json_plain_end(p, r->end);
		if (p == r->end)
			return fail(r, JSON_SYNTAX, p);
		if (*p == '"') {
			r->p = p + 1;
			return true;
		}
		if (*p == '\\') {
			next = escape_end(p, r->end);
			if (next == NULL)
				return fail(r, JSON_SYNTAX, p);
			*escaped = true;
			p = next;
			continue;
		}
		if ((unsigned char)*p < 0x20)
			return fail(r, JSON_SYNTAX, p);
		do {
			n = utf8_char(p, (size_t)(r->end - p), &bad);
			if (n == 0)
				return fail(r, JSON_UTF8, p);
			p += n;
		} while (p < r->end && (unsigned char)*p >= 0x80);
	}
}

static bool
scan_number(struct json_reader *r)
{
	const char *p = r->p, *end = r->end;

	if (*p == '-')
		p++;
	if (p == end || !json_is_digit(*p))
		return fail(r, JSON_SYNTAX, p);
	if (*p == '0')
		p++;
	else
		while (p < end && json_is_digit(*p))
			p++;
	if (p < end && *p == '.') {
		p++;
		if (p == end || !json_is_digit(*p))
			return fail(r, JSON_SYNTAX, p);
		while (p < end && json_is_digit(*p))
			p++;
	}
	if (p < end && (*p | 0x20) == 'e') {
		p++;
		if (p < end && (*p == '+' || *p == '-'))
			p++;
		if (p == end || !json_is_digit(*p))
			return fail(r, JSON_SYNTAX, p);
		while (p < end && json_is_digit(*p))
			p++;
	}
	r->p = p;
	return true;
}

static bool
scan_word(struct json_reader *r, const char *word, size_t len)
{
	if ((size_t)(r->end - r->p) < len || memcmp(r->p, word, len) != 0)
		return fail(r, JSON_SYNTAX, r->p);
	r->p += len;
	return true;
}

static inline uint32_t
mix_digest(size_t len, unsigned char first, unsigned char middle, unsigned char last)
{
	uint32_t bytes = (uint32_t)first | (uint32_t)middle << 8 | (uint32_t)last << 16;

	return (bytes + (uint32_t)len * 0x85ebca6bu) * 0x9e3779b1u;
}

static uint32_t
escaped_key_digest(const struct json_key *k)
{
	struct json_decoded d = {.p = k->p, .end = k->p + k->len}, again = d;
	unsigned char first = 0, middle = 0, last = 0;
	size_t len = 0;
	int c;

	while (json_decoded_next(&d) >= 0)
		len++;
	for (size_t i = 0; (c = json_decoded_next(&again)) >= 0; i++) {
		if (i == 0)
			first = (unsigned char)c;
		if (i == len / 2)
			middle = (unsigned char)c;
		last = (unsigned char)c;
	}
	return mix_digest(len, first, middle, last);
}

/* Length, first, middle and last byte tell most keys of an object apart. */
static inline uint32_t
key_digest(const struct json_key *k)
{
	if (k->escaped)
		return escaped_key_digest(k);
	if (k->len == 0)
		return mix_digest(0, 0, 0, 0);
	return mix_digest(k->len, (unsigned char)k->p[0], (unsigned char)k->p[k->len / 2],
	    (unsigned char)k->p[k->len - 1]);
}

static int
key_compare(const void *pa, const void *pb)
{
	const struct json_key *a = pa, *b = pb;
	size_t len = a->len < b->len ? a->len : b->len;
	int order;

	if (a->digest != b->digest)
		return a->digest < b->digest ? -1 : 1;
	if (a->escaped || b->escaped)
		return json_text_compare(a->p, a->len, b->p, b->len);
	order = len > 0 ? memcmp(a->p, b->p, len) : 0;
	if (order != 0 || a->len == b->len)
		return order;
	return a->len < b->len ? -1 : 1;
}

static bool
keys_grow(struct json_reader *r)
{
	size_t cap = r->keys_cap * 2;
	struct json_key *keys = realloc(r->keys == r->fixed ? NULL : r->keys, cap * sizeof(*keys));

	if (keys == NULL)
		return fail(r, JSON_NOMEM, r->p);
	if (r->keys == r->fixed)
		memcpy(keys, r->fixed, sizeof(r->fixed));
	r->keys = keys;
	r->keys_cap = cap;
	return true;
}

/* Remember a key of the object; false if it was there already. */
static inline bool
key_add(struct json_reader *r, struct json_level *l, const char *p, size_t len, bool escaped)
{
	struct json_key *k;
	uint64_t bit;

	if (r->keys_len == r->keys_cap && !keys_grow(r))
		return false;
	k = &r->keys[r->keys_len];
	k->p = p;
	k->len = len;
	k->escaped = escaped;
	k->digest = key_digest(k);
	bit = (uint64_t)1 << (k->digest >> 26);
	if ((l->seen & bit) != 0 && r->keys_len - l->keys_from < KEYS_LINEAR)
		for (size_t i = l->keys_from; i < r->keys_len; i++)
			if (key_compare(&r->keys[i], k) == 0)
				return fail(r, JSON_DUPLICATE, p - 1);
	l->seen |= bit;
	r->keys_len++;
	return true;
}

/* The object is complete: compare what key_add left to this, and forget its keys. */
static bool
keys_close(struct json_reader *r, struct json_level *l)
{
	struct json_key *keys = r->keys + l->keys_from;
	size_t n = r->keys_len - l->keys_from;

	r->keys_len = l->keys_from;
	if (n <= KEYS_LINEAR)
		return true;
	qsort(keys, n, sizeof(*keys), key_compare);
	for (size_t i = 1; i < n; i++)
		if (key_compare(&keys[i - 1], &keys[i]) == 0)
			return fail(r, JSON_DUPLICATE,
			    (keys[i - 1].p > keys[i].p ? keys[i - 1].p : keys[i].p) - 1);
	return true;
}

void
json_read_init(struct json_reader *r, const char *text, size_t len)
{
	r->text = r->p = r->error_at = text;
	r->end = len > 0 ? text + len : text;
	r->error = JSON_OK;
	r->depth = 0;
	r->keys = r->fixed;
	r->keys_len = 0;
	r->keys_cap = JSON_KEYS;
}

/* What a value begins with; JSON_NONE is zero. */
static const uint8_t type_of[256] = {
    ['{'] = JSON_OBJECT,
    ['['] = JSON_ARRAY,
    ['"'] = JSON_STRING,
    ['t'] = JSON_TRUE,
    ['f'] = JSON_FALSE,
    ['n'] = JSON_NULL,
    ['-'] = JSON_NUMBER,
    ['0'] = JSON_NUMBER,
    ['1'] = JSON_NUMBER,
    ['2'] = JSON_NUMBER,
    ['3'] = JSON_NUMBER,
    ['4'] = JSON_NUMBER,
    ['5'] = JSON_NUMBER,
    ['6'] = JSON_NUMBER,
    ['7'] = JSON_NUMBER,
    ['8'] = JSON_NUMBER,
    ['9'] = JSON_NUMBER,
};

static inline enum json_type
peek(struct json_reader *r)
{
	if (r->error != JSON_OK)
		return JSON_NONE;
	skip_space(r);
	return r->p < r->end ? (enum json_type)type_of[(unsigned char)*r->p] : JSON_NONE;
}

enum json_type
json_peek(struct json_reader *r)
{
	return peek(r);
}

bool
json_enter(struct json_reader *r, enum json_type type, struct json_level *l)
{
	enum json_type here = peek(r);

	l->type = JSON_NONE;
	if (here == JSON_NONE)
		return fail(r, JSON_SYNTAX, r->p);
	if (here != type)
		return false;
	if (r->depth == JSON_DEPTH_MAX)
		return fail(r, JSON_DEPTH, r->p);
	r->depth++;
	r->p++;
	l->type = type;
	l->first = true;
	l->keys_from = r->keys_len;
	l->seen = 0;
	return true;
}

/* The container ends at r->p. */
static bool
leave(struct json_reader *r, struct json_level *l)
{
	r->p++;
	r->depth--;
	l->type = JSON_NONE;
	(void)keys_close(r, l);
	return false;
}

bool
json_next(struct json_reader *r, struct json_level *l, struct json_value *key)
{
	const char *from, *p;
	bool escaped = false;

	if (r->error != JSON_OK || l->type == JSON_NONE)
		return false;
	skip_space(r);
	if (r->p == r->end)
		return fail(r, JSON_SYNTAX, r->p);
	if (*r->p == (l->type == JSON_OBJECT ? '}' : ']'))
		return leave(r, l);
	if (!l->first) {
		if (*r->p != ',')
			return fail(r, JSON_SYNTAX, r->p);
		r->p++;
		skip_space(r);
	}
	l->first = false;
	if (l->type == JSON_ARRAY) {
		*key = (struct json_value){0};
		return true;
	}
	from = r->p;
	if (from == r->end || *from != '"')
		return fail(r, JSON_SYNTAX, from);
	/* Nearly every key is plain. */
	p = json_plain_end(from + 1, r->end);
	if (p < r->end && *p == '"')
		r->p = ++p;
	else if (!scan_string(r, &escaped))
		return false;
	else
		p = r->p;
	*key = (struct json_value){JSON_STRING, from, (size_t)(p - from)};
	if (!key_add(r, l, from + 1, (size_t)(p - from) - 2, escaped))
		return false;
	skip_space(r);
	if (r->p == r->end || *r->p != ':')
		return fail(r, JSON_SYNTAX, r->p);
	r->p++;
	return true;
}

/* Recursion is as deep as the document: at most JSON_DEPTH_MAX. */
static bool
skip_value(struct json_reader *r, enum json_type type)
{
	struct json_level l;
	struct json_value key;
	bool escaped;

	switch (type) {
	case JSON_STRING:
		return scan_string(r, &escaped);
	case JSON_NUMBER:
		return scan_number(r);
	case JSON_TRUE:
		return scan_word(r, JSON_LITERAL("true"));
	case JSON_FALSE:
		return scan_word(r, JSON_LITERAL("false"));
	case JSON_NULL:
		return scan_word(r, JSON_LITERAL("null"));
	case JSON_OBJECT:
	case JSON_ARRAY:
		if (!json_enter(r, type, &l))
			return false;
		while (json_next(r, &l, &key))
			if (!skip_value(r, peek(r)))
				return false;
		return r->error == JSON_OK;
	default:
		return fail(r, JSON_SYNTAX, r->p);
	}
}

bool
json_skip(struct json_reader *r)
{
	return skip_value(r, peek(r));
}

bool
json_read(struct json_reader *r, struct json_value *v)
{
	enum json_type type = peek(r);
	const char *from = r->p;

	*v = (struct json_value){0};
	if (!skip_value(r, type))
		return false;
	*v = (struct json_value){type, from, (size_t)(r->p - from)};
	return true;
}

enum json_error
json_read_end(struct json_reader *r)
{
	skip_space(r);
	if (r->p < r->end)
		(void)fail(r, JSON_TRAILING, r->p);
	if (r->keys != r->fixed)
		free(r->keys);
	r->keys = r->fixed;
	return r->error;
}

enum json_error
json_check(const char *text, size_t len, struct json_value *root, size_t *at)
{
	struct json_reader r;
	struct json_value v;
	enum json_error error;

	json_read_init(&r, text, len);
	(void)json_read(&r, &v);
	error = json_read_end(&r);
	if (root != NULL)
		*root = error == JSON_OK ? v : (struct json_value){0};
	if (at != NULL)
		*at = error == JSON_OK ? len : (size_t)(r.error_at - text);
	return error;
}
