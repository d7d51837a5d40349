#ifndef DAEMON_DECODER_H
#define DAEMON_DECODER_H

/*
 * The body of a provider's answer, from bytes to deltas: framing and dialect together, fed any
 * number of bytes at a time; how they are cut never shows.  Pure.
 *
 * Without a dialect ("auto") it is found by the media type, and where that leaves it open by the
 * first bytes: a '{' begins NDJSON, a field's name or a comment server-sent events; of these the
 * first one tells OpenAI's dialect from Anthropic's.
 */
#include "daemon/dialect.h"
#include "daemon/ndjson.h"
#include "daemon/openai_template.h"
#include "daemon/sse.h"

/* An event as it came, for who passes it on. */
struct decoder_event {
	struct span type; /* of a server-sent event; "" if it has none */
	struct span data; /* "" for text that was found to be whole only by a later event */
};

struct decoder_ops {
	/* An event that is nothing but text; false: stop. */
	bool (*text)(void *arg, struct span, const struct decoder_event *);
	/* Any other, DELTA_EMPTY ones included; false: stop. */
	bool (*delta)(void *arg, const struct delta *, const struct decoder_event *);
};

enum decoder_result {
	DECODER_OK,
	DECODER_STOPPED,  /* a callback said so */
	DECODER_OVERSIZE, /* a line, or an event, over the limit */
	DECODER_NOMEM,
	DECODER_FOREIGN, /* auto: this begins like no stream; it was not decoded */
	DECODER_OVER,    /* the end mark was told: what follows says nothing */
};

struct decoder {
	const struct dialect *dialect; /* NULL: auto, and not found yet */
	enum decoder_framing {
		DECODER_LOOKING, /* auto: no byte yet that tells */
		DECODER_SSE,
		DECODER_NDJSON,
	} framing;
	union {
		struct sse sse;
		struct ndjson ndjson;
	};
	struct openai_template template;
	struct dialect_state state;
	struct buf *scratch; /* the caller's */
	size_t line_max;
	uint16_t high;              /* the text so far ends with this half of a surrogate pair */
	bool marked;                /* the end mark was seen */
	bool ending;                /* the input is over */
	enum decoder_result result; /* once it is not DECODER_OK, nothing is decoded any more */
};

/* May a body of this media type be a stream?  dialect NULL: auto. */
bool decoder_accepts(const struct dialect *, const char *media_type);

/* dialect NULL: auto.  scratch must outlive the decoder; its contents may change between calls. */
void decoder_init(struct decoder *, const struct dialect *, const char *media_type, size_t line_max,
    struct buf *scratch);
void decoder_free(struct decoder *);
enum decoder_result decoder_feed(
    struct decoder *, const char *bytes, size_t len, const struct decoder_ops *, void *arg);
/*
 * The whole body was fed.  A last line without its end counts; a server-sent event without its
 * blank line does not, as the standard has it, unless it is the end mark.
 */
enum decoder_result decoder_end(struct decoder *, const struct decoder_ops *, void *arg);

#endif
