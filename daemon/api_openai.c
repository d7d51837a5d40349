/*
 * OpenAI's chat completions, as clients of /v1/chat/completions get them.  Pure.
 *
 * A chunk goes out as it came, on one line.  Those that say how the answer ended wait for the
 * settlement, which writes into the last of them what it was for us: "tolld":{"finish","cost"}.
 */
#include <string.h>

#include "daemon/api.h"
#include "daemon/json.h"
#include "daemon/openai.h"
#include "daemon/utf8.h"

/*
 * As it came, but for the ends of lines that an event of several had: in a JSON document they
 * stand only between its parts.
 */
static void
line(struct buf *b, struct span data)
{
	size_t at = b->len;
	char *p;

	buf_span(b, data);
	if (b->failed)
		return;
	for (p = b->data + at; (p = memchr(p, '\n', (size_t)(b->data + b->len - p))) != NULL;)
		*p = ' ';
}

/* What has just text is known to be valid UTF-8. */
static void
relay_text(struct buf *b, const struct decoder_event *ev)
{
	buf_add(b, "data: ", 6);
	line(b, ev->data);
	buf_add(b, "\n\n", 2);
}

static void
relay_repaired(struct buf *b, const struct decoder_event *ev)
{
	struct buf good = {0};

	utf8_repair(&good, ev->data.p, ev->data.len);
	b->failed |= good.failed;
	relay_text(b, &(struct decoder_event){.data = {good.data, good.len}});
	buf_free(&good);
}

/* An object but for its usage, and for that in Groq's own member. */
static void
object_without_usage(struct buf *b, struct json_value object)
{
	const char *it = NULL;
	struct json_value key, value;
	bool first = true;

	buf_str(b, "{");
	while (json_each(object, &it, &key, &value)) {
		if (json_is(key, "usage"))
			continue;
		if (!first)
			buf_str(b, ",");
		first = false;
		line(b, (struct span){key.p, key.len});
		buf_str(b, ":");
		if (json_is(key, "x_groq") && value.type == JSON_OBJECT)
			object_without_usage(b, value);
		else
			line(b, (struct span){value.p, value.len});
	}
	buf_str(b, "}");
}

/* A chunk without its usage; false if it says nothing else. */
static bool
without_usage(struct buf *b, struct json_value root)
{
	struct json_value choices;

	buf_str(b, "data: ");
	object_without_usage(b, root);
	buf_str(b, "\n\n");
	return json_get(root, "choices", &choices) &&
	    (choices.type != JSON_ARRAY || choices.len > 2);
}

static bool
has_choices(struct json_value root)
{
	struct json_value choices, first;
	const char *it = NULL;

	return json_get(root, "choices", &choices) && choices.type == JSON_ARRAY &&
	    json_each(choices, &it, NULL, &first);
}

static enum api_place
relay(struct buf *b, const struct decoder_event *ev, const struct delta *d, bool usage,
    struct answer_place *at)
{
	struct json_value root, member;
	const char *it = NULL;
	size_t before = b->len;
	bool choices;

	if (d->kind == DELTA_DONE || d->kind == DELTA_ERROR || d->kind == DELTA_INVALID)
		return API_NOWHERE;
	at->begun = true;
	if (json_check(ev->data.p, ev->data.len, &root, NULL) != JSON_OK) {
		/* It was read after a repair. */
		relay_repaired(b, ev);
		return d->finish != OUTCOME_NONE ? API_END : API_NOW;
	}
	/* Nothing is in it, and nothing could be written into it. */
	if (root.type != JSON_OBJECT || !json_each(root, &it, NULL, &member))
		return API_NOWHERE;
	choices = has_choices(root);
	if (usage || !(d->usage.present || d->usage_bad)) {
		relay_text(b, ev);
		return !choices && (d->usage.present || d->usage_bad) ? API_USAGE
		    : d->finish != OUTCOME_NONE			      ? API_END
								      : API_NOW;
	}
	if (!without_usage(b, root)) {
		b->len = before;
		return API_NOWHERE;
	}
	return d->finish != OUTCOME_NONE ? API_END : API_NOW;
}

static void
head(struct buf *b, struct span data)
{
	static const char *const keys[] = {"id", "object", "created", "model"};
	struct json_value root, v[4];

	if (json_check(data.p, data.len, &root, NULL) != JSON_OK)
		return;
	json_get_many(root, keys, v, 4);
	if (v[0].type != JSON_STRING || v[1].type != JSON_STRING || v[2].type != JSON_NUMBER ||
	    v[3].type != JSON_STRING)
		return;
	for (int i = 0; i < 4; i++) {
		buf_printf(b, "%s\"%s\":", i == 0 ? "data: {" : ",", keys[i]);
		buf_add(b, v[i].p, v[i].len);
	}
}

/* Frames of the provider's, and in the last one what it was for us. */
static void
frames_with(struct buf *b, struct span frames, const struct emit_end *e)
{
	size_t n = frames.len;

	while (n > 0 && frames.p[n - 1] != '}')
		n--;
	if (n == 0)
		return;
	buf_add(b, frames.p, n - 1);
	emit_tolld(b, e);
	buf_str(b, "}\n\n");
}

/* Frames of the provider's but for the usage in them. */
static void
frames_without_usage(struct buf *b, struct span frames)
{
	static const char begin[] = "data: ", end[] = "\n\n";
	struct json_value root;

	while (frames.len > 0) {
		const char *stop = memmem(frames.p, frames.len, end, sizeof end - 1);
		size_t n = (size_t)(stop - frames.p) + sizeof end - 1;

		if (json_check(frames.p + sizeof begin - 1,
			(size_t)(stop - frames.p) - (sizeof begin - 1), &root, NULL) == JSON_OK)
			(void)without_usage(b, root);
		else
			buf_add(b, frames.p, n);
		frames = (struct span){frames.p + n, frames.len - n};
	}
}

static void
end(struct buf *b, const struct emit_stream *es, struct answer *a, const struct api_end *e)
{
	if (emit_finish_reason(e->end.outcome) == NULL || e->end.error_code != NULL) {
		emit_error(b, EMIT_OPENAI, es, &e->end, 0);
		return;
	}
	if (e->last.len == 0) {
		answer_openai_end(b, es, a, &e->end);
		return;
	}
	if (es->include_usage && e->usage.len > 0) {
		buf_span(b, e->last);
		frames_with(b, e->usage, &e->end);
	} else if (es->include_usage && !(e->usage_said && e->believed)) {
		if (e->usage_said)
			frames_without_usage(b, e->last);
		else
			buf_span(b, e->last);
		emit_usage(b, es, &e->end);
	} else {
		frames_with(b, e->last, &e->end);
	}
	buf_str(b, "data: [DONE]\n\n");
}

static void
refuse(struct buf *b, const struct emit_end *e)
{
	emit_error_end(b, e);
}

const struct api api_openai = {
    .path = "/v1/chat/completions",
    .dialect = DIALECT_OPENAI,
    .relay = relay,
    .relay_text = relay_text,
    .head = head,
    .say = answer_openai_say,
    .end = end,
    .say_whole = answer_openai_whole,
    .decode_whole = openai_decode_whole,
    .refuse = refuse,
};
