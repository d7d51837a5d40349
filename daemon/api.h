#ifndef DAEMON_API_H
#define DAEMON_API_H

/*
 * The dialects that clients speak on /v1, as a table each of how an answer is put into it.  Where
 * the provider speaks the same one, its events go out as they came; else they are written anew
 * from what they say.  Pure: all of it appends to a buf.
 */
#include <stdbool.h>

#include "daemon/answer.h"
#include "daemon/buf.h"
#include "daemon/decoder.h"
#include "daemon/emit.h"

/* What became of a relayed event. */
enum api_place {
	API_NOW,    /* the frame goes out as soon as it is paid */
	API_END,    /* it says how the answer ended: after the settlement */
	API_USAGE,  /* the same, and it is the usage alone */
	API_NOWHERE /* nothing was written */
};

/* What the end of an answer adds to what the provider said of it. */
struct api_end {
	struct emit_end end;
	struct span last;    /* frames that said how it ended, API_END; may be empty */
	struct span usage;   /* those of API_USAGE; empty if it was not believed */
	bool usage_said;     /* `last` has it */
	bool believed;       /* it is what was charged for */
};

struct api {
	const char *path; /* of its route */
	enum config_dialect dialect;
	const char *upstream_path; /* below a provider's URL; NULL: where its dialect has chat */
	bool prompt_only;          /* nothing is made that costs by the token, and no limit is sent */
	/* Its request, where it is not a chat that every dialect can write. */
	int (*write)(const struct config *, const struct chat_request *, struct buf *,
	    struct chat_fault *);

	/* An event as it came.  usage: the client wants to see it; the place becomes that after it. */
	enum api_place (*relay)(struct buf *, const struct decoder_event *, const struct delta *,
	    bool usage, struct answer_place *);
	/* Text alone, in a frame as it came. */
	void (*relay_text)(struct buf *, const struct decoder_event *);
	/* How frames of ours begin, from the first event: they are of the same answer.  May be
	 * NULL, or write nothing. */
	void (*head)(struct buf *, struct span data);
	/*
	 * A piece in frames of ours: what a provider of another dialect says, or the part of an
	 * event that could be paid.  False: it continues nothing that was begun.
	 */
	bool (*say)(struct buf *, const struct emit_stream *, struct answer *,
	    const struct answer_piece *);
	/* The end, good or bad, with its mark. */
	void (*end)(
	    struct buf *, const struct emit_stream *, struct answer *, const struct api_end *);
	/* An answer that was put together, once it has ended well. */
	void (*say_whole)(
	    struct buf *, const struct emit_stream *, struct answer *, const struct emit_end *);

	/* A whole body, from JSON to a delta; spans point into scratch. */
	void (*decode_whole)(struct span body, struct buf *scratch, struct delta *);
	/* An error as a body, before anything was sent. */
	void (*refuse)(struct buf *, const struct emit_end *);
};

extern const struct api api_openai, api_embeddings, api_anthropic;

/* The parts of these tables that write answers of other dialects' providers. */
bool answer_openai_say(
    struct buf *, const struct emit_stream *, struct answer *, const struct answer_piece *);
void answer_openai_end(
    struct buf *, const struct emit_stream *, struct answer *, const struct emit_end *);
void answer_openai_whole(
    struct buf *, const struct emit_stream *, struct answer *, const struct emit_end *);
bool answer_anthropic_say(
    struct buf *, const struct emit_stream *, struct answer *, const struct answer_piece *);
void answer_anthropic_end(
    struct buf *, const struct emit_stream *, struct answer *, const struct emit_end *);
void answer_anthropic_whole(
    struct buf *, const struct emit_stream *, struct answer *, const struct emit_end *);

#endif
