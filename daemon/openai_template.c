/*
 * Chunks by template.  Pure.
 *
 * Why this is as strict as a full parse: the remembered chunk P"S"X was checked in full, with S
 * the value of choices[0].delta.content.  A chunk P"T"X with a valid string T between the same
 * bytes has the same tokens at the same places, so its parse differs in that value alone.
 */
#include "daemon/openai_template.h"

#include <string.h>

#include "daemon/delta_read.h"
#include "daemon/json.h"
#include "daemon/json_text.h"
#include "daemon/utf8.h"

#define AROUND_MAX 4096 /* longer chunks are not worth remembering */
#define MISSES_MAX 16

void
openai_template_free(struct openai_template *t)
{
	buf_free(&t->around);
	t->before = 0;
}

/* The string's closing quote, or NULL; *plain if nothing in it needs decoding or checking. */
static const char *
closing_quote(const char *p, const char *end, bool *plain, bool *escapes)
{
	*plain = true;
	*escapes = false;
	for (;;) {
		p = json_plain_end(p, end);
		if (p == end || *p == '"')
			return p == end ? NULL : p;
		*plain = false;
		if (*p == '\\') {
			*escapes = true;
			if (++p == end)
				return NULL;
		} else if ((unsigned char)*p < 0x20) {
			return NULL;
		}
		p++;
	}
}

/* Text with escapes: checked as a JSON document of its own, decoded into scratch. */
static bool
unescape(const char *quote, size_t len, struct buf *scratch, struct span *text)
{
	struct json_value v;
	size_t at;

	if (json_check(quote, len, &v, &at) != JSON_OK)
		return false;
	/* Half of a pair belongs to what is in another event. */
	if (delta_low_half(v) != 0 || (delta_ends_in_escape(v) && delta_high_half(v) != 0))
		return false;
	scratch->len = 0;
	json_decode_buf(v, scratch);
	if (scratch->failed)
		return false;
	*text = (struct span){scratch->data, scratch->len};
	return true;
}

bool
openai_template_match(struct openai_template *t, const char *data, size_t len,
    struct buf *scratch, struct span *text)
{
	const char *from = data + t->before, *end = data + len, *quote;
	size_t after = t->around.len - t->before;
	bool plain, escapes;

	if (t->before == 0)
		return false;
	if (len < t->around.len || memcmp(data, t->around.data, t->before) != 0)
		goto miss;
	quote = closing_quote(from, end, &plain, &escapes);
	if (quote == NULL || (size_t)(end - quote) != after ||
	    memcmp(quote, t->around.data + t->before, after) != 0)
		goto miss;
	*text = (struct span){from, (size_t)(quote - from)};
	if (escapes) {
		if (!unescape(from - 1, text->len + 2, scratch, text))
			goto miss;
	} else if (!plain && !utf8_valid(text->p, text->len)) {
		goto miss; /* the full decoder repairs it */
	}
	t->misses = 0;
	return true;
miss:
	t->misses++;
	return false;
}

/* choices[0].delta.content of a chunk that is known to be good JSON. */
static bool
find_content(const char *data, size_t len, struct json_value *content)
{
	struct json_value root, choices, choice, delta;
	const char *it = NULL;
	size_t at;

	return json_check(data, len, &root, &at) == JSON_OK &&
	    json_get(root, "choices", &choices) && json_each(choices, &it, NULL, &choice) &&
	    json_get(choice, "delta", &delta) && json_get(delta, "content", content) &&
	    content->type == JSON_STRING;
}

void
openai_template_learn(struct openai_template *t, const char *data, size_t len,
    const struct delta *d)
{
	struct json_value content;
	size_t rest;

	if (t->misses > MISSES_MAX || len > AROUND_MAX || d->kind != DELTA_PART)
		return;
	/* Only a chunk that says nothing but its text. */
	if (d->text.len == 0 || d->finish != OUTCOME_NONE || d->usage.present || d->usage_bad ||
	    d->utf8_repaired || d->refusal.len + d->reasoning.len + d->tool_arguments.len +
		    d->other.len > 0)
		return;
	if (!find_content(data, len, &content))
		return;
	t->before = (size_t)(content.p - data) + 1;
	rest = t->before + content.len - 2;
	t->around.len = 0;
	buf_add(&t->around, data, t->before);
	buf_add(&t->around, data + rest, len - rest);
	if (t->around.failed)
		openai_template_free(t);
}
