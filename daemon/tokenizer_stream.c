/*
 * The count of a text that grows.  Pure.
 *
 * Pieces that are certain to have ended are counted once.  The tail behind them is one piece, or
 * two that may become one (struct split): it is kept and counted anew after each text, which costs
 * less than remembering how it was counted.  A tail that outgrows its room is counted byte by byte
 * instead, as two pieces side by side, in a ring: no text takes more than that, and none more time
 * than in proportion to its length.
 */
#include "daemon/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "daemon/tokenizer_merge.h"
#include "daemon/tokenizer_table.h"
#include "daemon/tokenizer_vocab.h"

struct token_grown {
	struct merge_bytes bytes;
	struct merge_run run[2]; /* from the tail's start; from its middle */
	unsigned first;          /* which of them is the former */
	uint32_t mid_count;      /* tokens before the middle */
};

#define FIT_BYTES 1024 /* looked at together, and looked ahead, when a text is to be cut */

_Static_assert(TOKEN_TAIL >= PIECE_UNORDERED_MAX, "a piece of an unordered vocabulary fits");

void
token_stream_init(struct token_stream *ts, const struct tokenizer *t, uint32_t scale)
{
	ts->tokenizer = t;
	ts->grown = NULL;
	ts->scale = scale;
	ts->closed = ts->now = ts->count = 0;
	ts->split = (struct split){0};
}

void
token_stream_fini(struct token_stream *ts)
{
	free(ts->grown);
	ts->grown = NULL;
}

static inline uint32_t
scaled(uint32_t tokens, uint32_t scale)
{
	uint64_t n = ((uint64_t)tokens * scale + TOKENS_SCALE - 1) / TOKENS_SCALE;

	return n < UINT32_MAX ? (uint32_t)n : UINT32_MAX;
}

/* Bytes of the character at p, of `left` that are there. */
static inline size_t
char_len(const char *p, size_t left)
{
	size_t n = 1;

	while (n < left && n < 4 && ((unsigned char)p[n] & 0xc0) == 0x80)
		n++;
	return n;
}

/* As much of a text as fits in `room` bytes and ends on a whole character. */
static inline size_t
fitting(const char *p, size_t len, size_t room)
{
	if (len <= room)
		return len;
	/* No further than a character can be: of what is none, some part fits. */
	for (int i = 0; i < 3 && room > 0 && ((unsigned char)p[room] & 0xc0) == 0x80; i++)
		room--;
	return room;
}

/* Bytes of the tail have come; the split knows of them already, and its middle is new. */
static void
grow(struct token_stream *ts, const char *p, size_t len, bool mid_moved)
{
	const struct token_table *t = &ts->tokenizer->table;
	struct token_grown *g = ts->grown;
	struct merge_run *first = &g->run[g->first], *second = &g->run[!g->first];
	uint64_t mid = first->start + ts->split.mid;

	for (size_t i = 0; i < len; i++) {
		if (mid_moved && g->bytes.len == mid) {
			merge_run_start(second, mid);
			g->mid_count = merge_run_count(first, mid);
		}
		merge_bytes_add(&g->bytes, (uint8_t)p[i]);
		merge_run_step(t, first, &g->bytes);
		if (ts->split.mid > 0 && g->bytes.len > mid)
			merge_run_step(t, second, &g->bytes);
	}
	if (mid_moved && g->bytes.len == mid) {
		merge_run_start(second, mid);
		g->mid_count = merge_run_count(first, mid);
	}
}

/* The tail, which is `len` bytes at p, has no room.  False: no memory, or it is to be cut. */
static bool
begin_grown(struct token_stream *ts, const char *p, size_t len)
{
	if (!ts->tokenizer->table.h->ordered || (ts->grown = malloc(sizeof *ts->grown)) == NULL)
		return false;
	merge_bytes_init(&ts->grown->bytes);
	ts->grown->first = 0;
	ts->grown->mid_count = 0;
	merge_run_start(&ts->grown->run[0], 0);
	grow(ts, p, len, ts->split.mid > 0);
	return true;
}

/* A piece of the grown tail has ended; what is left of it is the tail. */
static void
close_grown(struct token_stream *ts, size_t closed, uint32_t old_mid)
{
	struct token_grown *g = ts->grown;
	struct merge_run *first = &g->run[g->first];

	/* The middle may be too far back for the ring.  All other ends are the last character's. */
	ts->closed +=
	    closed == old_mid ? g->mid_count : merge_run_count(first, first->start + closed);
	if (ts->split.len > TOKEN_TAIL) {
		g->first = !g->first;
		return;
	}
	for (uint32_t i = 0; i < ts->split.len; i++)
		ts->tail[i] = (char)g->bytes.byte[(g->bytes.len - ts->split.len + i) % MERGE_RING];
	token_stream_fini(ts);
}

/* Go on with a grown tail, character by character, until a piece ends. */
static size_t
advance_grown(struct token_stream *ts, const char *text, size_t len)
{
	size_t at = 0, took, closed = 0;

	while (at < len && closed == 0) {
		size_t n = char_len(text + at, len - at);
		uint32_t old_mid = ts->split.mid;

		took = split_next(&ts->tokenizer->rule, &ts->split, text + at, n, &closed);
		if (closed == 0) {
			grow(ts, text + at, took, ts->split.mid != old_mid);
		} else {
			struct split after = ts->split;

			/* The bytes first, under the old description. */
			ts->split.mid = old_mid;
			grow(ts, text + at, took, false);
			ts->split = after;
			close_grown(ts, closed, old_mid);
		}
		at += took;
	}
	return at;
}

/* The tail is cut here: it could grow no longer. */
static void
cut_tail(struct token_stream *ts, const char *p)
{
	ts->closed += merge_count(&ts->tokenizer->table, ts->tokenizer->cache, p, ts->split.len);
	ts->split = (struct split){0};
}

/* Go on with a tail that is in its room, until it is empty, grown, or the text has ended. */
static size_t
advance_tail(struct token_stream *ts, const char *text, size_t len)
{
	const struct token_table *t = &ts->tokenizer->table;
	size_t at = 0, took, closed, had, some;

	while (at < len && ts->split.len > 0) {
		had = ts->split.len;
		some = fitting(text + at, len - at, TOKEN_TAIL - had);
		if (some == 0) {
			if (begin_grown(ts, ts->tail, had))
				return at;
			cut_tail(ts, ts->tail);
			return at;
		}
		took = split_next(&ts->tokenizer->rule, &ts->split, text + at, some, &closed);
		memcpy(ts->tail + had, text + at, took);
		at += took;
		if (closed > 0) {
			ts->closed += merge_count(t, ts->tokenizer->cache, ts->tail, closed);
			memmove(ts->tail, ts->tail + closed, ts->split.len);
		}
	}
	return at;
}

/* With no tail: count where the text lies; what is left of it becomes the tail. */
static size_t
advance_text(struct token_stream *ts, const char *text, size_t len)
{
	const struct token_table *t = &ts->tokenizer->table;
	const char *start = text, *p = text, *end = text + len;
	size_t closed;

	while (p < end) {
		size_t some = (size_t)(end - p);

		if (!t->h->ordered) {
			some = fitting(p, some, PIECE_UNORDERED_MAX - ts->split.len);
			if (some == 0) {
				cut_tail(ts, start);
				start = p;
				continue;
			}
		}
		p += split_next(&ts->tokenizer->rule, &ts->split, p, some, &closed);
		if (closed > 0) {
			ts->closed += merge_count(t, ts->tokenizer->cache, start, closed);
			start += closed;
		}
	}
	if (ts->split.len <= TOKEN_TAIL)
		memcpy(ts->tail, start, ts->split.len);
	else if (!begin_grown(ts, start, ts->split.len))
		cut_tail(ts, start);
	return len;
}

static void
advance(struct token_stream *ts, const char *text, size_t len)
{
	const struct token_table *t = &ts->tokenizer->table;
	size_t at = 0;

	while (at < len) {
		if (ts->grown != NULL)
			at += advance_grown(ts, text + at, len - at);
		else if (ts->split.len > 0)
			at += advance_tail(ts, text + at, len - at);
		else
			at += advance_text(ts, text + at, len - at);
	}
	ts->now = ts->closed;
	if (ts->grown != NULL) {
		const struct token_grown *g = ts->grown;

		ts->now += split_in_two(&ts->split)
		               ? g->mid_count + merge_run_count(&g->run[!g->first], g->bytes.len)
		               : merge_run_count(&g->run[g->first], g->bytes.len);
	} else if (split_in_two(&ts->split)) {
		ts->now += merge_count(t, ts->tokenizer->cache, ts->tail, ts->split.mid) +
		           merge_count(t, ts->tokenizer->cache, ts->tail + ts->split.mid,
		               ts->split.len - ts->split.mid);
	} else {
		ts->now += merge_count(t, ts->tokenizer->cache, ts->tail, ts->split.len);
	}
}

uint32_t
token_stream_append(struct token_stream *ts, const char *text, size_t len)
{
	uint32_t n;

	advance(ts, text, len);
	n = scaled(ts->now, ts->scale);
	if (n > ts->count)
		ts->count = n;
	return ts->count;
}

uint32_t
token_stream_now(const struct token_stream *ts)
{
	return scaled(ts->now, ts->scale);
}

uint32_t
tokenizer_count(const struct tokenizer *t, uint32_t scale, const char *text, size_t len)
{
	struct token_stream ts;
	uint32_t n;

	token_stream_init(&ts, t, scale);
	n = token_stream_append(&ts, text, len);
	token_stream_fini(&ts);
	return n;
}

/* A state to come back to.  While it is kept, the stream's own room for a grown tail is its. */
struct saved {
	struct token_stream ts;
	struct token_grown grown;
};

static void
save(struct saved *to, const struct token_stream *ts)
{
	to->ts = *ts;
	if (ts->grown != NULL)
		to->grown = *ts->grown;
}

static void
restore(struct token_stream *ts, const struct saved *from)
{
	struct token_grown *room = ts->grown;

	if (from->ts.grown != NULL && room == NULL)
		room = malloc(sizeof *room);
	*ts = from->ts;
	ts->grown = room;
	if (from->ts.grown == NULL) {
		token_stream_fini(ts);
	} else if (room != NULL) {
		*room = from->grown;
	} else { /* no memory: the tail ends here, as it was counted */
		ts->closed = ts->now;
		ts->split = (struct split){0};
	}
}

/*
 * Search the place character by character, from the state in `best` on.  What lies behind it may be
 * fewer tokens again, but not fewer than those of ended pieces; and not after so many bytes.
 */
static size_t
fit_slowly(
    struct token_stream *ts, struct saved *best, const char *text, size_t len, uint32_t limit)
{
	size_t at = 0, fits = 0, n;

	for (; at < len && at - fits < FIT_BYTES && scaled(ts->closed, ts->scale) <= limit;
	     at += n) {
		n = char_len(text + at, len - at);
		advance(ts, text + at, n);
		if (scaled(ts->now, ts->scale) <= limit) {
			fits = at + n;
			save(best, ts);
		}
	}
	return fits;
}

/*
 * A part at a time, so that a long text of which little fits does not cost its length again and
 * again, each time that a bit of it is paid.
 */
size_t
token_stream_fit(struct token_stream *ts, const char *text, size_t len, uint32_t limit)
{
	struct saved best;
	size_t fits = 0, n;

	do {
		save(&best, ts);
		n = fitting(text + fits, len - fits, FIT_BYTES);
		advance(ts, text + fits, n);
		if (scaled(ts->now, ts->scale) > limit) {
			restore(ts, &best);
			fits += fit_slowly(ts, &best, text + fits, len - fits, limit);
			restore(ts, &best);
			break;
		}
		fits += n;
	} while (fits < len);
	if (scaled(ts->now, ts->scale) > ts->count)
		ts->count = scaled(ts->now, ts->scale);
	return fits;
}
