/*
 * Server-Sent Events, from bytes to events.  Pure.
 *
 * While an event's lines all lie within one input, its fields are spans of that input; only what
 * an input leaves unfinished is copied, into sse->line (a line) or sse->data and sse->event.
 */
#include "daemon/sse.h"

#include <string.h>

/* One call of sse_feed. */
struct feed {
	struct sse *s;
	const char *p, *end;
	const char *lf, *cr; /* the next of each from p on, or end: looked for once, not per line */
	struct span data;    /* data of the event under way: in the input, or in s->data */
	struct span event;   /* likewise */
	sse_event_fn *fn;
	void *arg;
};

void
sse_init(struct sse *s, size_t line_max)
{
	*s = (struct sse){.line_max = line_max};
}

void
sse_free(struct sse *s)
{
	buf_free(&s->line);
	buf_free(&s->data);
	buf_free(&s->event);
	buf_free(&s->id);
}

static bool
has_bom(const char *p, size_t len)
{
	return len >= 3 && memcmp(p, "\xef\xbb\xbf", 3) == 0;
}

static void
set(struct buf *b, struct span s)
{
	if (s.p == b->data)
		return;
	b->len = 0;
	buf_span(b, s);
}

static struct span
whole(const struct buf *b)
{
	return (struct span){b->len > 0 ? b->data : "", b->len};
}

static enum sse_result
add_data(struct feed *f, struct span value)
{
	struct sse *s = f->s;

	if (!s->has_data) {
		s->has_data = true;
		f->data = value;
	} else {
		if (f->data.len + 1 + value.len > s->line_max)
			return SSE_OVERSIZE;
		set(&s->data, f->data);
		buf_add(&s->data, "\n", 1);
		buf_span(&s->data, value);
		f->data = whole(&s->data);
	}
	return SSE_OK;
}

static enum sse_result
dispatch(struct feed *f)
{
	struct sse *s = f->s;
	struct sse_event event = {.event = f->event, .data = f->data, .id = whole(&s->id)};
	bool go_on = true;

	/* Out of memory on the way: what is here is not whole. */
	if (s->data.failed || s->event.failed || s->id.failed)
		return SSE_NOMEM;
	if (s->has_data)
		go_on = f->fn(f->arg, &event);
	s->has_data = false;
	f->data = f->event = SPAN("");
	s->data.len = s->event.len = 0;
	return go_on ? SSE_OK : SSE_STOPPED;
}

static enum sse_result
take_line(struct feed *f, struct span line)
{
	struct sse *s = f->s;
	struct span value = SPAN("");
	const char *colon;
	size_t name;

	if (!s->bom_checked) {
		s->bom_checked = true;
		if (has_bom(line.p, line.len))
			line = (struct span){line.p + 3, line.len - 3};
	}
	if (line.len > s->line_max)
		return SSE_OVERSIZE;
	if (line.len == 0)
		return dispatch(f);
	/* Nearly all of them. */
	if (line.len > 6 && memcmp(line.p, "data: ", 6) == 0)
		return add_data(f, (struct span){line.p + 6, line.len - 6});
	colon = memchr(line.p, ':', line.len);
	name = colon != NULL ? (size_t)(colon - line.p) : line.len;
	if (colon != NULL) {
		value = (struct span){colon + 1, line.len - name - 1};
		if (value.len > 0 && value.p[0] == ' ')
			value = (struct span){value.p + 1, value.len - 1};
	}
	line.len = name;
	if (span_eq(line, "data"))
		return add_data(f, value);
	if (span_eq(line, "event"))
		f->event = value;
	else if (span_eq(line, "id") &&
	    (value.len == 0 || memchr(value.p, '\0', value.len) == NULL))
		set(&s->id, value);
	return SSE_OK;
}

/* A line that began in an earlier input ends here. */
static enum sse_result
take_joined_line(struct feed *f, struct span rest)
{
	struct sse *s = f->s;
	enum sse_result result;

	buf_span(&s->line, rest);
	if (s->line.failed)
		return SSE_NOMEM;
	result = take_line(f, whole(&s->line));
	/* s->line is about to be used again. */
	if (s->has_data && f->data.len > 0) {
		set(&s->data, f->data);
		f->data = whole(&s->data);
	}
	set(&s->event, f->event);
	f->event = whole(&s->event);
	s->line.len = 0;
	return result;
}

/* What the input left unfinished must outlive it. */
static enum sse_result
keep(struct feed *f)
{
	struct sse *s = f->s;
	size_t bom = s->bom_checked ? 0 : 3;

	buf_add(&s->line, f->p, (size_t)(f->end - f->p));
	if (s->line.len > s->line_max + bom)
		return SSE_OVERSIZE;
	set(&s->data, f->data);
	set(&s->event, f->event);
	return SSE_OK;
}

static const char *
find(const char *p, const char *end, char c)
{
	const char *at = p < end ? memchr(p, c, (size_t)(end - p)) : NULL;

	return at != NULL ? at : end;
}

/*
 * The usual event, a single data line with its blank line behind it and nothing before it that
 * waits: what take_line would make of both lines, without asking what they are.
 */
static inline bool
is_whole_event(const struct feed *f, struct span line)
{
	const struct sse *s = f->s;

	return f->p < f->end && f->p[0] == '\n' && f->p[-1] == '\n' && line.len > 6 &&
	    memcmp(line.p, "data: ", 6) == 0 && line.len <= s->line_max && !s->has_data &&
	    s->line.len == 0 && f->event.len == 0 && s->bom_checked;
}

static enum sse_result
take_whole_event(struct feed *f, struct span line)
{
	struct sse *s = f->s;
	struct sse_event event = {
	    .event = SPAN(""), .data = {line.p + 6, line.len - 6}, .id = whole(&s->id)};

	f->p++;
	if (s->id.failed || s->event.failed)
		return SSE_NOMEM;
	return f->fn(f->arg, &event) ? SSE_OK : SSE_STOPPED;
}

static enum sse_result
take_lines(struct feed *f)
{
	struct sse *s = f->s;
	enum sse_result result;
	const char *eol;
	struct span line;

	for (;;) {
		if (f->lf < f->p)
			f->lf = f->p < f->end && *f->p == '\n' ? f->p : find(f->p, f->end, '\n');
		if (f->cr < f->p)
			f->cr = find(f->p, f->end, '\r');
		eol = f->lf < f->cr ? f->lf : f->cr;
		if (eol == f->end)
			return keep(f);
		line = (struct span){f->p, (size_t)(eol - f->p)};
		f->p = eol + 1;
		if (*eol == '\r') {
			if (f->p == f->end)
				s->skip_lf = true;
			else if (*f->p == '\n')
				f->p++;
		}
		if (is_whole_event(f, line))
			result = take_whole_event(f, line);
		else
			result = s->line.len > 0 ? take_joined_line(f, line) : take_line(f, line);
		if (result != SSE_OK)
			return result;
	}
}

enum sse_result
sse_feed(struct sse *s, const char *bytes, size_t len, sse_event_fn *fn, void *arg)
{
	struct feed f = {.s = s, .fn = fn, .arg = arg};

	if (s->result != SSE_OK || len == 0)
		return s->result;
	f.p = bytes;
	f.end = bytes + len;
	f.data = whole(&s->data);
	f.event = whole(&s->event);
	if (s->skip_lf && *f.p == '\n')
		f.p++;
	s->skip_lf = false;
	f.lf = find(f.p, f.end, '\n');
	f.cr = find(f.p, f.end, '\r');
	s->result = take_lines(&f);
	if (s->result == SSE_OK &&
	    (s->line.failed || s->data.failed || s->event.failed || s->id.failed))
		s->result = SSE_NOMEM;
	return s->result;
}
