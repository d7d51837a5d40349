#ifndef DAEMON_DELTA_READ_H
#define DAEMON_DELTA_READ_H

/*
 * What the decoders of all dialects share: one JSON document, read in one pass into a delta.
 * Pure; for the decoders only.
 *
 * The scratch buffer has a region for each field, as long as the document itself, so pieces of a
 * field that lie apart (parts, tool calls, choices) join without being moved.
 */
#include <string.h>

#include "daemon/delta.h"
#include "daemon/json.h"

enum delta_field {
	FIELD_TEXT,
	FIELD_REFUSAL,
	FIELD_REASONING,
	FIELD_TOOL,
	FIELD_OTHER,
	FIELD_MESSAGE,
	FIELD_CALL_ID, /* of calls: not counted */
	DELTA_FIELDS
};

struct delta_reader {
	struct json_reader r;
	struct delta *d;
	void *state;  /* of the dialect: delta_read's argument */
	char *region; /* DELTA_FIELDS regions of `stride` bytes */
	size_t stride;
	size_t len[DELTA_FIELDS]; /* used of each */
	bool malformed;           /* JSON, but not of this shape */
	bool error;               /* the provider said so */
	struct delta_call now;    /* the call that is being read */
};

/*
 * A dialect's own part: reads a whole document from c->r.  It may be called twice for one event,
 * the second time after invalid UTF-8 was repaired; nothing of the first time counts.
 */
typedef void delta_read_fn(struct delta_reader *);

/*
 * Decode one event's data, trimmed, with `read`.  Spans of the delta point into scratch, which is
 * reset here, until the next call.  No data is DELTA_EMPTY.
 */
void delta_read(
    struct span data, delta_read_fn *read, void *state, struct buf *scratch, struct delta *);

/* An error: an object with a message, or just a text; null and false are none. */
void delta_read_error(struct delta_reader *);
/*
 * A call begins: what delta_read_call then reads belongs to it.  It counts as said only where it
 * has a name, arguments or an id.
 */
void delta_call_begin(struct delta_reader *, int64_t index);
void delta_call_index(struct delta_reader *, int64_t index); /* which may come last */
enum delta_call_part { CALL_ID, CALL_NAME, CALL_ARGUMENTS };
/* null is nothing; arguments may be an object, as some send them. */
void delta_read_call(struct delta_reader *, enum delta_call_part);
void delta_put_call(struct delta_reader *, enum delta_call_part, struct json_value);
void delta_call_end(struct delta_reader *);

/* A count of tokens into *count, which stays as it is where there is null. */
void delta_read_count(struct delta_reader *, int64_t *count);

#define DELTA_KEY(key, literal) json_is_bytes(key, JSON_LITERAL(literal))

/* Inline: what follows is in the way of every event. */

static inline bool
delta_is_space(char c)
{
	return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* Data without the white space around it. */
static inline struct span
delta_trim(struct span s)
{
	while (s.len > 0 && delta_is_space(s.p[0])) {
		s.p++;
		s.len--;
	}
	while (s.len > 0 && delta_is_space(s.p[s.len - 1]))
		s.len--;
	return s;
}

/*
 * Does a string end, or begin, with half of a surrogate pair?  Its other half is in another event
 * then.  Most strings are ruled out by a byte.
 */
uint16_t delta_high_half(struct json_value string);
uint16_t delta_low_half(struct json_value string);

static inline bool
delta_ends_in_escape(struct json_value v)
{
	return v.len >= 8 && v.p[v.len - 7] == '\\' && v.p[v.len - 6] == 'u';
}

static inline bool
delta_begins_with_escape(struct json_value v)
{
	return v.len >= 8 && v.p[1] == '\\' && v.p[2] == 'u';
}

static inline void
delta_put(struct delta_reader *c, enum delta_field to, struct json_value v)
{
	char *at = c->region + c->stride * to + c->len[to];

	if (v.type == JSON_STRING) {
		if (to == FIELD_TEXT) {
			if (c->len[to] == 0 && delta_begins_with_escape(v))
				c->d->low = delta_low_half(v);
			c->d->high = delta_ends_in_escape(v) ? delta_high_half(v) : 0;
		}
		c->len[to] += json_decode(v, at);
	} else {
		memcpy(at, v.p, v.len);
		c->len[to] += v.len;
	}
}

/* Strings become text; null is nothing; anything else is not what it should be. */
static inline void
delta_read_text(struct delta_reader *c, enum delta_field to)
{
	struct json_value v;

	if (!json_read(&c->r, &v))
		return;
	if (v.type == JSON_STRING)
		delta_put(c, to, v);
	else if (v.type != JSON_NULL)
		c->malformed = true;
}

/* Enter an object or array; null, where such a thing is optional, is skipped. */
static inline bool
delta_enter(struct delta_reader *c, enum json_type type, struct json_level *l)
{
	if (json_enter(&c->r, type, l))
		return true;
	if (json_peek(&c->r) != JSON_NULL)
		c->malformed = true;
	(void)json_skip(&c->r);
	return false;
}

#endif
