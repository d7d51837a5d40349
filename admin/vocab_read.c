/*
 * Lists of tokens: .tiktoken files here, tokenizer.json in vocab_json.c.
 */
#include <stdlib.h>
#include <string.h>

#include "admin/vocab.h"
#include "daemon/tokenizer_table.h"

static const struct {
	const char *name;
	struct split_rule rule;
} rules[] = {
    {"cl100k_base", {SPLIT_CL100K, 3, 1}},
    {"o200k_base", {SPLIT_O200K, 3, 1}},
    {"qwen", {SPLIT_CL100K, 1, 1}},
    {"tekken", {SPLIT_O200K, 1, 0}},
};
const char vocab_rules[] = "cl100k_base (also Llama 3), o200k_base, qwen, tekken (Mistral Nemo)";

bool
vocab_rule(const char *name, struct split_rule *rule)
{
	for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
		if (strcmp(rules[i].name, name) == 0) {
			*rule = rules[i].rule;
			return true;
		}
	return false;
}

static int
add_bytes(struct vocab *v, const void *bytes, size_t len)
{
	if (len > VOCAB_FILE_MAX - v->bytes_len)
		return vocab_fault(v, "its tokens are more than %u bytes", VOCAB_FILE_MAX);
	if (v->bytes_len + len > v->bytes_cap) {
		size_t cap = 2 * (v->bytes_len + len) + 65536;
		char *p = realloc(v->bytes, cap);

		if (p == NULL)
			return vocab_fault(v, "out of memory");
		v->bytes = p;
		v->bytes_cap = cap;
	}
	memcpy(v->bytes + v->bytes_len, bytes, len);
	v->bytes_len += len;
	return 0;
}

/* Room for one more thing of an array; -1 without memory. */
static int
make_room(struct vocab *v, void **array, uint32_t count, uint32_t *cap, size_t size)
{
	uint32_t more = 2 * *cap + 1024;
	void *p;

	if (count < *cap)
		return 0;
	p = realloc(*array, more * size);
	if (p == NULL)
		return vocab_fault(v, "out of memory");
	*array = p;
	*cap = more;
	return 0;
}

int
vocab_add(struct vocab *v, const void *bytes, size_t len, uint32_t rank)
{
	void *array = v->token;

	if (len == 0 || len > TOKEN_BYTES_MAX)
		return vocab_fault(v, "the token of rank %u has %zu bytes, not 1 to %d", rank, len,
		    TOKEN_BYTES_MAX);
	if (v->count == TOKENS_MAX)
		return vocab_fault(v, "more than %u tokens", TOKENS_MAX);
	if (make_room(v, &array, v->count, &v->cap, sizeof *v->token) != 0)
		return -1;
	v->token = array;
	v->token[v->count++] =
	    (struct vocab_token){.at = (uint32_t)v->bytes_len, .len = (uint32_t)len, .rank = rank};
	return add_bytes(v, bytes, len);
}

int
vocab_add_merge(
    struct vocab *v, const void *left, size_t left_len, const void *right, size_t right_len)
{
	void *array = v->merge;

	if (left_len == 0 || right_len == 0 || left_len + right_len > TOKEN_BYTES_MAX)
		return vocab_fault(v, "merge %u makes more than %d bytes, or is of none",
		    v->merges + 1, TOKEN_BYTES_MAX);
	if (v->merges == 4 * TOKENS_MAX)
		return vocab_fault(v, "more than %u merges", 4 * TOKENS_MAX);
	if (make_room(v, &array, v->merges, &v->merges_cap, sizeof *v->merge) != 0)
		return -1;
	v->merge = array;
	v->merge[v->merges++] =
	    (struct vocab_merge){(uint32_t)v->bytes_len, (uint32_t)left_len, (uint32_t)right_len};
	if (add_bytes(v, left, left_len) != 0)
		return -1;
	return add_bytes(v, right, right_len);
}

/* Six bits; 64: padding, 65: anything else. */
static unsigned
base64_digit(char c)
{
	static const char digits[] =
	    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=";
	const char *p = c == '\0' ? NULL : strchr(digits, c);

	return p == NULL ? 65 : (unsigned)(p - digits);
}

/* Bytes decoded into out, or -1. */
static int
base64_decode(const char *p, size_t len, uint8_t *out)
{
	int n = 0;

	if (len == 0 || len % 4 != 0 || len / 4 * 3 > TOKEN_BYTES_MAX + 2)
		return -1;
	for (size_t i = 0; i < len; i += 4) {
		unsigned d[4], pad = 0;

		for (int k = 0; k < 4; k++) {
			d[k] = base64_digit(p[i + (size_t)k]);
			if (d[k] == 64 && k >= 2 && i + 4 == len)
				pad++;
			else if (d[k] >= 64 || pad > 0)
				return -1;
		}
		out[n++] = (uint8_t)(d[0] << 2 | d[1] >> 4);
		if (pad < 2)
			out[n++] = (uint8_t)((d[1] & 15) << 4 | d[2] >> 2);
		if (pad < 1)
			out[n++] = (uint8_t)((d[2] & 3) << 6 | d[3]);
	}
	return n;
}

/* A line: base64, a blank, the rank. */
static int
read_line(struct vocab *v, const char *p, size_t len, unsigned line)
{
	const char *blank = memchr(p, ' ', len);
	uint8_t bytes[TOKEN_BYTES_MAX + 4];
	uint64_t rank = 0;
	int n = blank == NULL ? -1 : base64_decode(p, (size_t)(blank - p), bytes);

	if (n < 0 || blank + 1 == p + len || p + len - blank > 10)
		return vocab_fault(v,
		    "line %u is not \"base64 rank\" of a token of at most %d bytes", line,
		    TOKEN_BYTES_MAX);
	for (const char *q = blank + 1; q < p + len; q++) {
		if (*q < '0' || *q > '9')
			return vocab_fault(v, "line %u has no rank", line);
		rank = rank * 10 + (uint64_t)(*q - '0');
	}
	return vocab_add(v, bytes, (size_t)n, (uint32_t)rank);
}

static int
read_tiktoken(struct vocab *v, const char *data, size_t len)
{
	const char *p = data, *end = data + len;

	v->whole_pieces = true;
	for (unsigned line = 1; p < end; line++) {
		const char *eol = memchr(p, '\n', (size_t)(end - p));
		size_t n = (size_t)((eol == NULL ? end : eol) - p);

		if (n > 0 && p[n - 1] == '\r')
			n--;
		if (n > 0 && read_line(v, p, n, line) != 0)
			return -1;
		p = eol == NULL ? end : eol + 1;
	}
	return 0;
}

int
vocab_read(struct vocab *v, const char *data, size_t len)
{
	size_t at = 0;

	if (len > VOCAB_FILE_MAX)
		return vocab_fault(v, "the file has more than %u bytes", VOCAB_FILE_MAX);
	while (at < len && (data[at] == ' ' || data[at] == '\n' || data[at] == '\r'))
		at++;
	if (at == len)
		return vocab_fault(v, "the file is empty");
	return data[at] == '{' ? vocab_read_json(v, data, len) : read_tiktoken(v, data, len);
}

void
vocab_free(struct vocab *v)
{
	free(v->bytes);
	free(v->token);
	free(v->merge);
}
