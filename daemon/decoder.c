/*
 * A provider's body, from bytes to deltas.  Pure.
 *
 * The usual chunk of OpenAI's dialect is taken by its template (openai_template.h) before anything
 * else is asked: this is in the way of every token.
 */
#include "daemon/decoder.h"

#include <string.h>

#include "daemon/openai.h"
#include "daemon/utf8.h"

static const struct decoder_event nothing = {{"", 0}, {"", 0}};

/* One call of decoder_feed or decoder_end. */
struct feed {
	struct decoder *d;
	const struct decoder_ops *ops;
	void *arg;
};

bool
decoder_accepts(const struct dialect *dialect, const char *media_type)
{
	if (dialect != NULL)
		return dialect_streams(dialect, media_type);
	/* An error of the provider's or a proxy's; streams of both are said to be something else. */
	return strcmp(media_type, "application/json") != 0 && strcmp(media_type, "text/html") != 0;
}

static void
begin(struct decoder *d, enum framing framing)
{
	d->framing = framing == FRAMING_SSE ? DECODER_SSE : DECODER_NDJSON;
	if (framing == FRAMING_SSE) {
		sse_init(&d->sse, d->line_max);
	} else {
		ndjson_init(&d->ndjson, d->line_max);
		d->dialect = dialect_of(DIALECT_OLLAMA);
	}
}

void
decoder_init(struct decoder *d, const struct dialect *dialect, const char *media_type,
    size_t line_max, struct buf *scratch)
{
	*d = (struct decoder){.dialect = dialect, .line_max = line_max, .scratch = scratch};
	if (dialect != NULL)
		begin(d, dialect->framing);
	else if (dialect_streams(dialect_of(DIALECT_OPENAI), media_type))
		begin(d, FRAMING_SSE);
	else if (dialect_streams(dialect_of(DIALECT_OLLAMA), media_type))
		begin(d, FRAMING_NDJSON);
}

void
decoder_free(struct decoder *d)
{
	if (d->framing == DECODER_SSE)
		sse_free(&d->sse);
	else if (d->framing == DECODER_NDJSON)
		ndjson_free(&d->ndjson);
	openai_template_free(&d->template);
}

/*
 * Auto: the first byte that tells.  What stood before it is dropped, in this input as it was in
 * earlier ones.  False: it is none that a stream begins with.
 */
static bool
look(struct decoder *d, struct span *bytes)
{
	for (; bytes->len > 0; bytes->p++, bytes->len--) {
		char c = bytes->p[0];

		if (c == '\0' || strchr(" \t\r\n\xef\xbb\xbf:deir{", c) == NULL)
			return false;
		if (strchr(" \t\r\n\xef\xbb\xbf", c) != NULL)
			continue;
		begin(d, c == '{' ? FRAMING_NDJSON : FRAMING_SSE);
		return true;
	}
	return true;
}

/* Auto: only Anthropic's events say at once what type they are of. */
static const struct dialect *
dialect_by_event(struct span data)
{
	static const char *const types[] = {"message_start", "ping", "error", "content_block_start",
	    "content_block_delta", "content_block_stop", "message_delta", "message_stop"};
	struct json_value root, type;

	if (json_check(data.p, data.len, &root, NULL) == JSON_OK && json_get(root, "type", &type))
		for (size_t i = 0; i < sizeof types / sizeof *types; i++)
			if (json_is(type, types[i]))
				return dialect_of(DIALECT_ANTHROPIC);
	return dialect_of(DIALECT_OPENAI);
}

/*
 * Halves of a surrogate pair in two events, as servers send them that cut UTF-16 anywhere: the
 * first waits for the second.  Each was decoded to U+FFFD where the other should be.
 */
static bool
join_halves(struct feed *f, struct delta *delta)
{
	static const size_t fffd = sizeof UTF8_REPLACEMENT - 1;
	struct decoder *d = f->d;
	uint16_t high = d->high;
	char pair[4] = UTF8_REPLACEMENT;
	struct span text = {pair, fffd};

	if (delta->text.len == 0 && delta->kind != DELTA_DONE && delta->kind != DELTA_ERROR)
		return true;
	d->high = delta->high;
	if (delta->high != 0)
		delta->text.len -= fffd;
	if (high == 0)
		return true;
	if (delta->low != 0) {
		uint32_t c = 0x10000 + ((uint32_t)(high & 0x3ff) << 10) + (delta->low & 0x3ff);

		pair[0] = (char)(0xf0 | c >> 18);
		pair[1] = (char)(0x80 | (c >> 12 & 0x3f));
		pair[2] = (char)(0x80 | (c >> 6 & 0x3f));
		pair[3] = (char)(0x80 | (c & 0x3f));
		text.len = sizeof pair;
		delta->text = (struct span){delta->text.p + fffd, delta->text.len - fffd};
	}
	return f->ops->text(f->arg, text, &nothing);
}

static bool
take_event(struct feed *f, const struct decoder_event *ev)
{
	struct decoder *d = f->d;
	struct span data = ev->data;
	struct delta delta;

	if (d->dialect == NULL)
		d->dialect = dialect_by_event(data);
	d->dialect->decode(&d->state, data, d->scratch, &delta);
	/* Named so, it need not say it once more in its data. */
	if (d->dialect == dialect_of(DIALECT_OPENAI) && span_eq(ev->type, "error") &&
	    delta.kind != DELTA_ERROR && delta.kind != DELTA_DONE) {
		delta_clear(&delta);
		delta.kind = DELTA_ERROR;
		delta.message = openai_error_message(data.p, data.len, d->scratch);
	}
	if (d->ending && d->framing == DECODER_SSE && delta.kind != DELTA_DONE)
		return true;
	if (d->dialect == dialect_of(DIALECT_OPENAI))
		openai_template_learn(&d->template, data.p, data.len, &delta);
	d->marked = delta.kind == DELTA_DONE;
	if ((d->high | delta.high) != 0 && !join_halves(f, &delta))
		return false;
	/* After its end mark a stream has nothing more to say. */
	return f->ops->delta(f->arg, &delta, ev) && !d->marked;
}

static bool
sse_cb(void *arg, const struct sse_event *ev)
{
	struct feed *f = arg;
	struct decoder *d = f->d;
	const struct decoder_event raw = {ev->event, ev->data};
	struct span text;

	if (d->high == 0 &&
	    openai_template_match(&d->template, ev->data.p, ev->data.len, d->scratch, &text))
		return f->ops->text(f->arg, text, &raw);
	return take_event(f, &raw);
}

static bool
ndjson_cb(void *arg, struct span line)
{
	return take_event(arg, &(struct decoder_event){SPAN(""), line});
}

/* Both framings name their results alike. */
_Static_assert((int)SSE_STOPPED == DECODER_STOPPED && (int)NDJSON_STOPPED == DECODER_STOPPED &&
                   (int)SSE_OVERSIZE == DECODER_OVERSIZE &&
                   (int)NDJSON_OVERSIZE == DECODER_OVERSIZE && (int)SSE_NOMEM == DECODER_NOMEM &&
                   (int)NDJSON_NOMEM == DECODER_NOMEM,
    "the results of both framings are the decoder's");

enum decoder_result
decoder_feed(struct decoder *d, const char *bytes, size_t len, const struct decoder_ops *ops,
    void *arg)
{
	struct feed f = {d, ops, arg};
	struct span in = {bytes, len};

	if (d->result != DECODER_OK)
		return d->result;
	if (d->framing == DECODER_LOOKING && !look(d, &in))
		d->result = DECODER_FOREIGN;
	else if (d->framing == DECODER_SSE)
		d->result = (enum decoder_result)sse_feed(&d->sse, in.p, in.len, sse_cb, &f);
	else if (d->framing == DECODER_NDJSON)
		d->result =
		    (enum decoder_result)ndjson_feed(&d->ndjson, in.p, in.len, ndjson_cb, &f);
	if (d->result == DECODER_STOPPED && d->marked)
		d->result = DECODER_OVER;
	return d->result;
}

enum decoder_result
decoder_end(struct decoder *d, const struct decoder_ops *ops, void *arg)
{
	struct feed f = {d, ops, arg};

	if (d->result != DECODER_OK)
		return d->result;
	d->ending = true;
	openai_template_free(&d->template); /* what is unfinished is not taken as usual */
	/* The ends of a line and of an event; the first goes unseen after a CR. */
	if (d->framing == DECODER_SSE)
		d->result = (enum decoder_result)sse_feed(&d->sse, "\n\n", 2, sse_cb, &f);
	else if (d->framing == DECODER_NDJSON)
		d->result = (enum decoder_result)ndjson_end(&d->ndjson, ndjson_cb, &f);
	if (d->result == DECODER_STOPPED && d->marked)
		d->result = DECODER_OVER;
	if (d->result == DECODER_OK && d->high != 0) {
		d->high = 0;
		if (!ops->text(arg, SPAN(UTF8_REPLACEMENT), &nothing))
			d->result = DECODER_STOPPED;
	}
	return d->result;
}
