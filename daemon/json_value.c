/*
 * Values of a JSON document that json.c has checked: finding members, decoding strings and
 * numbers.  Pure.  What was checked is not checked again: any other text must not come here.
 */
#include <string.h>

#include "daemon/hex.h"
#include "daemon/json.h"
#include "daemon/json_text.h"

/* Decode the escape at p (a checked one): its bytes into out, their number in *n; what follows. */
static const char *
escape_decode(const char *p, const char *end, char out[4], size_t *n)
{
	static const char from[] = "bfnrt", to[] = "\b\f\n\r\t";
	const char *which;
	uint32_t c = 0, low = 0;

	if (p[1] != 'u') {
		which = strchr(from, p[1]);
		out[0] = which != NULL ? to[which - from] : p[1];
		*n = 1;
		return p + 2;
	}
	for (int i = 2; i < 6; i++)
		c = c << 4 | (uint32_t)hex_digit(p[i]);
	p += 6;
	if (c >= 0xd800 && c <= 0xdbff && end - p >= 6 && p[0] == '\\' && p[1] == 'u') {
		for (int i = 2; i < 6; i++)
			low = low << 4 | (uint32_t)hex_digit(p[i]);
		if (low >= 0xdc00 && low <= 0xdfff) {
			c = 0x10000 + ((c & 0x3ff) << 10) + (low & 0x3ff);
			p += 6;
		}
	}
	if (c >= 0xd800 && c <= 0xdfff)
		c = 0xfffd;
	if (c < 0x80) {
		out[0] = (char)c;
		*n = 1;
	} else if (c < 0x800) {
		out[0] = (char)(0xc0 | c >> 6);
		out[1] = (char)(0x80 | (c & 0x3f));
		*n = 2;
	} else if (c < 0x10000) {
		out[0] = (char)(0xe0 | c >> 12);
		out[1] = (char)(0x80 | (c >> 6 & 0x3f));
		out[2] = (char)(0x80 | (c & 0x3f));
		*n = 3;
	} else {
		out[0] = (char)(0xf0 | c >> 18);
		out[1] = (char)(0x80 | (c >> 12 & 0x3f));
		out[2] = (char)(0x80 | (c >> 6 & 0x3f));
		out[3] = (char)(0x80 | (c & 0x3f));
		*n = 4;
	}
	return p;
}

int
json_decoded_next(struct json_decoded *d)
{
	if (d->at < d->len)
		return (unsigned char)d->out[d->at++];
	if (d->p == d->end)
		return -1;
	if (*d->p != '\\')
		return (unsigned char)*d->p++;
	d->p = escape_decode(d->p, d->end, d->out, &d->len);
	d->at = 1;
	return (unsigned char)d->out[0];
}

int
json_text_compare(const char *a, size_t a_len, const char *b, size_t b_len)
{
	struct json_decoded x = {.p = a, .end = a + a_len}, y = {.p = b, .end = b + b_len};
	int c, d;

	do {
		c = json_decoded_next(&x);
		d = json_decoded_next(&y);
	} while (c == d && c >= 0);
	return c - d;
}

/* p is at an opening quote: what follows the closing one. */
static const char *
string_end(const char *p, const char *end)
{
	for (p++;;) {
		p = json_plain_end(p, end);
		if (p >= end)
			return end;
		if (*p == '"')
			return p + 1;
		p += *p == '\\' ? 2 : 1;
	}
}

static const char *
value_end(const char *p, const char *end)
{
	unsigned depth = 0;

	if (*p == '"')
		return string_end(p, end);
	if (*p != '{' && *p != '[') {
		while (p < end && strchr(",]} \t\r\n", *p) == NULL)
			p++;
		return p;
	}
	do {
		if (*p == '"') {
			p = string_end(p, end);
			continue;
		}
		if (*p == '{' || *p == '[')
			depth++;
		else if (*p == '}' || *p == ']')
			depth--;
		p++;
	} while (depth > 0 && p < end);
	return p;
}

static enum json_type
type_of(char c)
{
	switch (c) {
	case '{':
		return JSON_OBJECT;
	case '[':
		return JSON_ARRAY;
	case '"':
		return JSON_STRING;
	case 't':
		return JSON_TRUE;
	case 'f':
		return JSON_FALSE;
	case 'n':
		return JSON_NULL;
	default:
		return JSON_NUMBER;
	}
}

static const char *
after_space(const char *p, const char *end)
{
	while (p < end && (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t'))
		p++;
	return p;
}

static const char *
take(const char *p, const char *end, struct json_value *v)
{
	const char *next = value_end(p, end);

	*v = (struct json_value){type_of(*p), p, (size_t)(next - p)};
	return next;
}

bool
json_each_string(struct json_value v, const char **it, struct json_value *string)
{
	const char *p = *it == NULL ? v.p : *it, *end = v.p + v.len, *next;

	while (p < end && (p = memchr(p, '"', (size_t)(end - p))) != NULL) {
		next = string_end(p, end);
		*it = after_space(next, end);
		if (*it == end || **it != ':') {
			*string = (struct json_value){JSON_STRING, p, (size_t)(next - p)};
			return true;
		}
		p = *it;
	}
	return false;
}

bool
json_each(struct json_value container, const char **it, struct json_value *key,
    struct json_value *value)
{
	const char *p, *end;
	struct json_value name = {0};

	*value = name;
	if (key != NULL)
		*key = name;
	if (container.type != JSON_OBJECT && container.type != JSON_ARRAY)
		return false;
	end = container.p + container.len;
	p = after_space(*it == NULL ? container.p + 1 : *it, end);
	if (p < end && *p == ',')
		p = after_space(p + 1, end);
	if (p >= end || *p == '}' || *p == ']')
		return false;
	if (container.type == JSON_OBJECT) {
		p = after_space(take(p, end, &name), end);
		p = after_space(p + 1, end); /* the colon */
		if (p >= end)
			return false;
	}
	*it = take(p, end, value);
	if (key != NULL)
		*key = name;
	return true;
}

void
json_get_many(struct json_value object, const char *const keys[], struct json_value out[], size_t n)
{
	struct json_value key, value;
	const char *it = NULL;
	size_t left = n;

	for (size_t i = 0; i < n; i++)
		out[i] = (struct json_value){0};
	if (object.type != JSON_OBJECT)
		return;
	while (left > 0 && json_each(object, &it, &key, &value))
		for (size_t i = 0; i < n; i++)
			if (out[i].type == JSON_NONE && json_is(key, keys[i])) {
				out[i] = value;
				left--;
				break;
			}
}

bool
json_get(struct json_value object, const char *key, struct json_value *out)
{
	json_get_many(object, &key, out, 1);
	return out->type != JSON_NONE;
}

size_t
json_decode(struct json_value v, char *out)
{
	const char *p, *end, *next;
	char *to = out, bytes[4];
	size_t n;

	if (v.type != JSON_STRING)
		return 0;
	p = v.p + 1;
	end = v.p + v.len - 1;
	while (p < end) {
		next = memchr(p, '\\', (size_t)(end - p));
		if (next == NULL)
			next = end;
		memcpy(to, p, (size_t)(next - p));
		to += next - p;
		/* Most escapes come in runs: "\n\n", or text that is all \u. */
		for (p = next; p < end && *p == '\\'; to += n) {
			p = escape_decode(p, end, bytes, &n);
			memcpy(to, bytes, n);
		}
	}
	return (size_t)(to - out);
}

void
json_decode_buf(struct json_value v, struct buf *out)
{
	char *to;

	if (v.type != JSON_STRING)
		return;
	to = buf_reserve(out, v.len);
	if (to != NULL)
		out->len += json_decode(v, to);
}

bool
json_is_escaped(struct json_value v, const char *text, size_t len)
{
	struct json_decoded d = {.p = v.p + 1, .end = v.p + v.len - 1};

	if (memchr(d.p, '\\', v.len - 2) == NULL)
		return v.len - 2 == len && memcmp(d.p, text, len) == 0;
	for (size_t i = 0; i < len; i++)
		if (json_decoded_next(&d) != (unsigned char)text[i])
			return false;
	return json_decoded_next(&d) < 0;
}

bool
json_is(struct json_value v, const char *text)
{
	return json_is_bytes(v, text, strlen(text));
}

/* The next character as Go's reader compares it, 0 at the end, -1 for what is like no ASCII. */
static int
folded_next(struct json_decoded *d)
{
	int c = json_decoded_next(d);

	if (c < 0)
		return 0;
	if (c >= 'A' && c <= 'Z')
		return c - 'A' + 'a';
	if (c == 0xc5) /* the long s */
		return json_decoded_next(d) == 0xbf ? 's' : -1;
	if (c == 0xe2) /* the sign of kelvins */
		return json_decoded_next(d) == 0x84 && json_decoded_next(d) == 0xaa ? 'k' : -1;
	return c < 0x80 ? c : -1;
}

bool
json_is_like(struct json_value v, const char *text)
{
	struct json_decoded d;

	if (v.type != JSON_STRING)
		return false;
	d = (struct json_decoded){.p = v.p + 1, .end = v.p + v.len - 1};
	for (; *text != '\0'; text++)
		if (folded_next(&d) != *text)
			return false;
	return folded_next(&d) == 0;
}

bool
json_int(struct json_value v, int64_t *out)
{
	bool negative = v.type == JSON_NUMBER && v.p[0] == '-';
	int64_t n = 0;

	if (v.type != JSON_NUMBER)
		return false;
	/* Downwards: INT64_MIN has no positive counterpart. */
	for (size_t i = negative ? 1 : 0; i < v.len; i++)
		if (!json_is_digit(v.p[i]) || __builtin_mul_overflow(n, 10, &n) ||
		    __builtin_sub_overflow(n, v.p[i] - '0', &n))
			return false;
	if (!negative && n == INT64_MIN)
		return false;
	*out = negative ? n : -n;
	return true;
}

const char *
json_error_text(enum json_error error)
{
	static const char *const text[] = {
	    [JSON_OK] = "no error",
	    [JSON_SYNTAX] = "not JSON",
	    [JSON_UTF8] = "invalid UTF-8",
	    [JSON_DEPTH] = "nested too deeply",
	    [JSON_DUPLICATE] = "a key occurs twice in one object",
	    [JSON_TRAILING] = "text after the end of the document",
	    [JSON_NOMEM] = "out of memory",
	};

	return (size_t)error < sizeof(text) / sizeof(text[0]) ? text[error] : "unknown error";
}

