/*
 * Newline-delimited JSON, from bytes to lines.  Pure.
 */
#include "daemon/ndjson.h"

#include <string.h>

void
ndjson_init(struct ndjson *n, size_t line_max)
{
	*n = (struct ndjson){.line_max = line_max};
}

void
ndjson_free(struct ndjson *n)
{
	buf_free(&n->line);
}

static bool
is_blank(struct span s)
{
	for (size_t i = 0; i < s.len; i++)
		if (s.p[i] != ' ' && s.p[i] != '\t' && s.p[i] != '\r')
			return false;
	return true;
}

static enum ndjson_result
take_line(struct ndjson *n, struct span line, ndjson_fn *fn, void *arg)
{
	if (!n->bom_checked) {
		n->bom_checked = true;
		if (line.len >= 3 && memcmp(line.p, "\xef\xbb\xbf", 3) == 0)
			line = (struct span){line.p + 3, line.len - 3};
	}
	if (line.len > 0 && line.p[line.len - 1] == '\r')
		line.len--;
	if (line.len > n->line_max)
		return NDJSON_OVERSIZE;
	if (is_blank(line))
		return NDJSON_OK;
	return fn(arg, line) ? NDJSON_OK : NDJSON_STOPPED;
}

/* A line that began in an earlier input ends here. */
static enum ndjson_result
take_joined_line(struct ndjson *n, struct span rest, ndjson_fn *fn, void *arg)
{
	enum ndjson_result result;

	buf_span(&n->line, rest);
	if (n->line.failed)
		return NDJSON_NOMEM;
	result = take_line(n, (struct span){n->line.data, n->line.len}, fn, arg);
	n->line.len = 0;
	return result;
}

/* What the input left unfinished must outlive it; a CR and a BOM do not count. */
static enum ndjson_result
keep(struct ndjson *n, struct span rest)
{
	size_t allowance = n->bom_checked ? 1 : 4;

	if (n->line.len + rest.len > n->line_max + allowance)
		return NDJSON_OVERSIZE;
	buf_span(&n->line, rest);
	return n->line.failed ? NDJSON_NOMEM : NDJSON_OK;
}

enum ndjson_result
ndjson_feed(struct ndjson *n, const char *bytes, size_t len, ndjson_fn *fn, void *arg)
{
	const char *p = bytes, *end = bytes + len, *lf;

	while (n->result == NDJSON_OK && p < end) {
		struct span line;

		lf = memchr(p, '\n', (size_t)(end - p));
		line = (struct span){p, (size_t)((lf != NULL ? lf : end) - p)};
		if (lf == NULL) {
			n->result = keep(n, line);
			break;
		}
		n->result = n->line.len > 0 ? take_joined_line(n, line, fn, arg)
		                            : take_line(n, line, fn, arg);
		p = lf + 1;
	}
	return n->result;
}

enum ndjson_result
ndjson_end(struct ndjson *n, ndjson_fn *fn, void *arg)
{
	if (n->result == NDJSON_OK && n->line.len > 0)
		n->result = take_joined_line(n, SPAN(""), fn, arg);
	return n->result;
}
