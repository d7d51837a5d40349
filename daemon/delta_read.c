/*
 * One event's JSON into a delta: room for its fields, the second try after a repair, and what all
 * dialects say alike.  Pure.
 */
#include "daemon/delta_read.h"

#include "daemon/hex.h"
#include "daemon/utf8.h"

/* The four hex digits of an escape that the scanner has checked. */
static uint16_t
escape_value(const char *digits)
{
	unsigned v = 0;

	for (int i = 0; i < 4; i++)
		v = v << 4 | (unsigned)hex_digit(digits[i]);
	return (uint16_t)v;
}

uint16_t
delta_high_half(struct json_value v)
{
	const char *escape = v.p + v.len - 7;
	unsigned before = 0;
	uint16_t c;

	/* An even number of backslashes before it are escapes of their own. */
	while (escape - before > v.p + 1 && escape[-(ptrdiff_t)before - 1] == '\\')
		before++;
	if (!delta_ends_in_escape(v) || before % 2 != 0)
		return 0;
	c = escape_value(escape + 2);
	return c >= 0xd800 && c <= 0xdbff ? c : 0;
}

uint16_t
delta_low_half(struct json_value v)
{
	uint16_t c;

	if (!delta_begins_with_escape(v))
		return 0;
	c = escape_value(v.p + 3);
	return c >= 0xdc00 && c <= 0xdfff ? c : 0;
}

void
delta_read_count(struct delta_reader *c, int64_t *count)
{
	struct json_value v;

	if (!json_read(&c->r, &v) || v.type == JSON_NULL)
		return;
	if (!json_int(v, count) || *count < 0 || *count > UINT32_MAX)
		c->d->usage_bad = true;
}

void
delta_read_error(struct delta_reader *c)
{
	struct json_level l;
	struct json_value key;
	enum json_type here = json_peek(&c->r);
	size_t before = c->len[FIELD_MESSAGE];

	if (here == JSON_STRING) {
		delta_read_text(c, FIELD_MESSAGE);
		c->error |= c->len[FIELD_MESSAGE] > before;
	} else if (json_enter(&c->r, JSON_OBJECT, &l)) {
		c->error = true;
		while (json_next(&c->r, &l, &key)) {
			if (DELTA_KEY(key, "message") && json_peek(&c->r) == JSON_STRING)
				delta_read_text(c, FIELD_MESSAGE);
			else
				(void)json_skip(&c->r);
		}
	} else {
		c->error |= here != JSON_NULL && here != JSON_FALSE;
		(void)json_skip(&c->r);
	}
}

void
delta_call_begin(struct delta_reader *c, int64_t index)
{
	c->now = (struct delta_call){
	    .index = index, .id = SPAN(""), .name = SPAN(""), .arguments = SPAN("")};
}

void
delta_call_index(struct delta_reader *c, int64_t index)
{
	c->now.index = index;
}

void
delta_put_call(struct delta_reader *c, enum delta_call_part part, struct json_value v)
{
	enum delta_field to = part == CALL_ID ? FIELD_CALL_ID : FIELD_TOOL;
	size_t before = c->len[to];
	struct span *what = part == CALL_ID     ? &c->now.id
	                    : part == CALL_NAME ? &c->now.name
	                                        : &c->now.arguments;

	delta_put(c, to, v);
	if (c->len[to] > before)
		*what = (struct span){c->region + c->stride * to + before, c->len[to] - before};
}

void
delta_read_call(struct delta_reader *c, enum delta_call_part part)
{
	struct json_value v;

	if (!json_read(&c->r, &v) || v.type == JSON_NULL)
		return;
	if (v.type == JSON_STRING || part == CALL_ARGUMENTS)
		delta_put_call(c, part, v);
	else
		c->malformed = true;
}

void
delta_call_end(struct delta_reader *c)
{
	struct delta *d = c->d;

	if (c->now.id.len + c->now.name.len + c->now.arguments.len == 0)
		return;
	if (d->calls < DELTA_CALLS_MAX)
		d->call[d->calls++] = c->now;
	else
		d->calls_missing = true;
}

static struct span
region(const struct delta_reader *c, enum delta_field f)
{
	return (struct span){c->len[f] > 0 ? c->region + c->stride * f : "", c->len[f]};
}

/* Read a document with room for its fields in scratch.  JSON_OK if it is JSON. */
static enum json_error
read_document(struct delta_reader *c, struct span text, delta_read_fn *read, bool repaired)
{
	enum json_error error;

	memset(c->len, 0, sizeof(c->len));
	c->malformed = c->error = false;
	delta_clear(c->d);
	c->d->utf8_repaired = repaired;
	json_read_init(&c->r, text.p, text.len);
	read(c);
	error = json_read_end(&c->r);
	if (error != JSON_OK || c->malformed) {
		delta_clear(c->d);
		c->d->kind = DELTA_INVALID;
		c->d->no_memory = error == JSON_NOMEM;
		c->d->utf8_repaired = repaired;
		memset(c->len, 0, sizeof(c->len));
	}
	return error;
}

static bool
make_room(struct delta_reader *c, struct buf *scratch, size_t len)
{
	c->stride = len;
	c->region =
	    len <= SIZE_MAX / DELTA_FIELDS ? buf_reserve(scratch, len * DELTA_FIELDS) : NULL;
	return c->region != NULL;
}

/* The same after invalid UTF-8 became U+FFFD: the rest of the event is still wanted. */
static bool
read_repaired(struct delta_reader *c, struct span text, delta_read_fn *read, struct buf *scratch)
{
	utf8_repair(scratch, text.p, text.len);
	if (scratch->failed || !make_room(c, scratch, scratch->len))
		return false;
	(void)read_document(c, (struct span){scratch->data, scratch->len}, read, true);
	return true;
}

static void
publish(struct delta_reader *c)
{
	struct delta *d = c->d;

	d->text = region(c, FIELD_TEXT);
	d->refusal = region(c, FIELD_REFUSAL);
	d->reasoning = region(c, FIELD_REASONING);
	d->tool_arguments = region(c, FIELD_TOOL);
	d->other = region(c, FIELD_OTHER);
	d->message = region(c, FIELD_MESSAGE);
	if (d->usage_bad)
		d->usage = (struct usage){0};
	if (d->kind == DELTA_INVALID)
		return;
	if (c->error)
		d->kind = DELTA_ERROR;
	else if (d->kind == DELTA_EMPTY &&
	         (d->finish != OUTCOME_NONE || d->usage.present || d->usage_bad ||
	             (c->len[FIELD_TEXT] | c->len[FIELD_REFUSAL] | c->len[FIELD_REASONING] |
	                 c->len[FIELD_TOOL] | c->len[FIELD_OTHER] | d->calls) != 0))
		d->kind = DELTA_PART;
}

void
delta_read(struct span text, delta_read_fn *read, void *state, struct buf *scratch, struct delta *d)
{
	struct delta_reader c;
	bool room;

	c.d = d;
	c.state = state;
	scratch->len = 0;
	scratch->failed = false; /* memory may be back */
	if (text.len == 0) {
		delta_clear(d);
		d->text = d->refusal = d->reasoning = d->tool_arguments = d->other = d->message =
		    SPAN("");
		return;
	}
	room = make_room(&c, scratch, text.len);
	if (room && read_document(&c, text, read, false) == JSON_UTF8)
		room = read_repaired(&c, text, read, scratch);
	if (!room) {
		delta_clear(d);
		d->kind = DELTA_INVALID;
		d->no_memory = true;
		memset(c.len, 0, sizeof(c.len));
		c.error = false;
	}
	publish(&c);
}
