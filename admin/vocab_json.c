/*
 * Hugging Face's tokenizer.json, as far as it is byte-level BPE over a pattern that we know.
 *
 * Its tokens are written in an alphabet of 256 printable characters, one for each byte.  Merges
 * are listed; with "ignore_merges" a piece that is a token is one, even so.
 */
#include <jansson.h>
#include <string.h>

#include "admin/vocab.h"
#include "daemon/tokenizer_table.h"

/* The patterns' texts, and the rules that do the same. */
static const struct {
	const char *regex, *rule;
} patterns[] = {
    {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|"
     " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
        "cl100k_base"},
    {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|"
     " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
        "qwen"},
    {"[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*"
     "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
     "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+"
     "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\\p{N}{1,3}|"
     " ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
        "o200k_base"},
    {"[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*"
     "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|"
     "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+"
     "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|\\p{N}|"
     " ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
        "tekken"},
};

static bool
is_text(const json_t *v, const char *text)
{
	return json_is_string(v) && strcmp(json_string_value(v), text) == 0;
}

/* Characters from U+0100 on stand for the bytes that are not printable, in their order. */
static int
alphabet_byte(unsigned c)
{
	unsigned next = 0x100;

	if ((c >= 0x21 && c <= 0x7e) || (c >= 0xa1 && c <= 0xff && c != 0xad))
		return (int)c;
	for (unsigned byte = 0; byte < 256; byte++) {
		if ((byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad))
			continue;
		if (next++ == c)
			return (int)byte;
	}
	return -1;
}

/* A token's bytes; how many, 0 if it is not written in that alphabet, or beyond the limit. */
static size_t
decode(const char *text, size_t len, uint8_t out[static TOKEN_BYTES_MAX + 1])
{
	const unsigned char *p = (const unsigned char *)text, *end = p + len;
	size_t n = 0;

	while (p < end && n <= TOKEN_BYTES_MAX) {
		unsigned c = *p++;
		int byte;

		if (c >= 0x80 && (c < 0xc0 || c >= 0xe0 || p == end))
			return 0;
		if (c >= 0x80)
			c = (c & 0x1f) << 6 | (*p++ & 0x3fu);
		byte = alphabet_byte(c);
		if (byte < 0)
			return 0;
		out[n++] = (uint8_t)byte;
	}
	return n;
}

static int
read_vocabulary(struct vocab *v, json_t *vocabulary)
{
	const char *key;
	json_t *id;
	uint8_t bytes[TOKEN_BYTES_MAX + 1];

	if (!json_is_object(vocabulary))
		return vocab_fault(v, "model.vocab is not an object");
	json_object_foreach(vocabulary, key, id)
	{
		size_t n = decode(key, strlen(key), bytes);

		if (!json_is_integer(id) || json_integer_value(id) < 0 ||
		    json_integer_value(id) >= UINT32_MAX)
			return vocab_fault(v, "model.vocab has a token without a number");
		if (n == 0) /* a special one, which text never becomes */
			continue;
		if (vocab_add(v, bytes, n, (uint32_t)json_integer_value(id)) != 0)
			return -1;
	}
	return 0;
}

/* "left right" or ["left", "right"]. */
static int
read_merge(struct vocab *v, const json_t *merge)
{
	const char *left = NULL, *right = NULL;
	size_t left_len = 0, right_len = 0, n, m;
	uint8_t l[TOKEN_BYTES_MAX + 1], r[TOKEN_BYTES_MAX + 1];

	if (json_is_string(merge)) {
		const char *text = json_string_value(merge), *blank = strchr(text, ' ');

		if (blank != NULL) {
			left = text;
			left_len = (size_t)(blank - text);
			right = blank + 1;
			right_len = json_string_length(merge) - left_len - 1;
		}
	} else if (json_array_size(merge) == 2) {
		left = json_string_value(json_array_get(merge, 0));
		right = json_string_value(json_array_get(merge, 1));
		left_len = json_string_length(json_array_get(merge, 0));
		right_len = json_string_length(json_array_get(merge, 1));
	}
	n = left == NULL ? 0 : decode(left, left_len, l);
	m = right == NULL ? 0 : decode(right, right_len, r);
	if (n == 0 || m == 0)
		return vocab_fault(v, "merge %u is not of two byte-level tokens", v->merges + 1);
	return vocab_add_merge(v, l, n, r, m);
}

static int
read_pattern(struct vocab *v, json_t *pre)
{
	json_t *list = json_object_get(pre, "pretokenizers"), *regex, *last;

	if (json_array_size(list) != 2)
		return vocab_fault(v, "pre_tokenizer is not a Split and a ByteLevel in sequence");
	last = json_array_get(list, 1);
	if (!is_text(json_object_get(last, "type"), "ByteLevel") ||
	    json_is_true(json_object_get(last, "use_regex")) ||
	    json_is_true(json_object_get(last, "add_prefix_space")))
		return vocab_fault(v, "pre_tokenizer does not end with a plain ByteLevel");
	regex = json_object_get(json_object_get(json_array_get(list, 0), "pattern"), "Regex");
	for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++)
		if (is_text(regex, patterns[i].regex)) {
			v->has_rule = vocab_rule(patterns[i].rule, &v->rule);
			return 0;
		}
	return vocab_fault(v, "its pattern is none of those known: %s", vocab_rules);
}

/* What would make it count otherwise than ours does. */
static int
check_model(struct vocab *v, json_t *root, json_t *model)
{
	json_t *normalizer = json_object_get(root, "normalizer");

	if (!is_text(json_object_get(model, "type"), "BPE"))
		return vocab_fault(v, "its model is not BPE");
	if (json_is_true(json_object_get(model, "byte_fallback")) ||
	    json_string_length(json_object_get(model, "continuing_subword_prefix")) > 0 ||
	    json_string_length(json_object_get(model, "end_of_word_suffix")) > 0)
		return vocab_fault(v, "this is not byte-level BPE: it falls back to bytes, or its "
		                      "tokens have prefixes or suffixes");
	if (normalizer == NULL || json_is_null(normalizer))
		return 0;
	v->normalizes = is_text(json_object_get(normalizer, "type"), "NFC");
	return v->normalizes ? 0 : vocab_fault(v, "its normalizer is not NFC or none");
}

int
vocab_read_json(struct vocab *v, const char *data, size_t len)
{
	json_error_t error;
	json_t *root = json_loadb(data, len, JSON_REJECT_DUPLICATES, &error), *model, *merges, *m;
	size_t i;
	int result = -1;

	if (root == NULL)
		return vocab_fault(v, "line %d: %s", error.line, error.text);
	model = json_object_get(root, "model");
	merges = json_object_get(model, "merges");
	if (check_model(v, root, model) != 0 ||
	    read_pattern(v, json_object_get(root, "pre_tokenizer")) != 0 ||
	    read_vocabulary(v, json_object_get(model, "vocab")) != 0)
		goto out;
	v->whole_pieces = json_is_true(json_object_get(model, "ignore_merges"));
	result = json_array_size(merges) > 0 ? 0 : vocab_fault(v, "model.merges is empty");
	json_array_foreach(merges, i, m) if (result == 0) result = read_merge(v, m);
out:
	json_decref(root);
	return result;
}
