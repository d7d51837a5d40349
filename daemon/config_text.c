/*
 * A config file's bytes, made fit for libConfuse 3.3.  Master.
 *
 * Its scanner has habits that would cost right line numbers or hide mistakes; all of them are
 * kept away from it here, in one pass that keeps every newline where it is:
 *   - a comment of several lines is counted as one line too many: comments become spaces;
 *   - a string or section that is never closed counts as closed by the end of the file (and a
 *     string leaves the scanner in that state for the next file): refused here;
 *   - characters that it doesn't know are dropped in silence: refused here;
 *   - ${VAR} becomes the empty string if VAR is not set: it gets marked instead, and expanded
 *     once the value has a name and a line to complain about;
 *   - an empty list is passed over without a call back: it gets a mark as its only value.
 */
#include "daemon/config_file.h"

#include <stdlib.h>
#include <string.h>

#include "daemon/config_source.h"
#include "daemon/utf8.h"

/* ${VAR} is handed through libConfuse as MARK_BEGIN VAR MARK_END: control bytes that a file
 * cannot have itself. */
#define MARK_BEGIN '\001'
#define MARK_END '\002'

#define DEPTH_MAX 16

struct scan {
	struct config_file *file;
	const char *p, *end; /* what is left */
	char *out;
	int line;
	int depth, opened[DEPTH_MAX]; /* lines of the open braces */
	bool in_word;                 /* the last character belongs to an unquoted word */
	bool assigned, empty;         /* the last token is '='; it is '{' right after that */
};

static bool
fail(struct scan *s, int line, const char *what)
{
	config_fault(s->file, line, "syntax", "%s", what);
	s->file->broken = true;
	return false;
}

/* Is the rest of the input this? */
static bool
at(const struct scan *s, const char *text)
{
	size_t len = strlen(text);
	return (size_t)(s->end - s->p) >= len && memcmp(s->p, text, len) == 0;
}

static bool
scan_variable(struct scan *s)
{
	s->p += 2;
	*s->out++ = MARK_BEGIN;
	while (s->p < s->end && *s->p != '}') {
		if (*s->p == '\n' || *s->p == '"' || *s->p == '\'')
			break;
		*s->out++ = *s->p++;
	}
	if (s->p == s->end || *s->p != '}')
		return fail(s, s->line, "${ without its }");
	s->p++;
	*s->out++ = MARK_END;
	return true;
}

static bool
scan_string(struct scan *s)
{
	char quote = *s->p;
	*s->out++ = *s->p++;
	while (s->p < s->end && *s->p != quote && *s->p != '\n') {
		if (quote == '"' && at(s, "${")) {
			if (!scan_variable(s))
				return false;
			continue;
		}
		if (*s->p == '\\' && s->p + 1 < s->end && s->p[1] != '\n') {
			if (quote == '"' && strchr("0123456789x", s->p[1]))
				return fail(s, s->line, "no numeric escapes in strings");
			*s->out++ = *s->p++;
		}
		*s->out++ = *s->p++;
	}
	if (s->p == s->end || *s->p == '\n')
		return fail(s, s->line, "a string is not closed on its line");
	*s->out++ = *s->p++;
	return true;
}

static bool
scan_comment(struct scan *s)
{
	int first = s->line;
	if (!at(s, "/*")) {
		while (s->p < s->end && *s->p != '\n')
			s->p++;
		return true;
	}
	for (s->p += 2; !at(s, "*/"); s->p++) {
		if (s->p == s->end)
			return fail(s, first, "a comment is not closed");
		if (*s->p == '\n') {
			*s->out++ = '\n';
			s->line++;
		}
	}
	s->p += 2;
	*s->out++ = ' ';
	return true;
}

static bool
scan_brace(struct scan *s)
{
	bool assigned = s->assigned, empty = s->empty;
	s->assigned = s->empty = false;
	if (*s->p == '{') {
		s->empty = assigned;
		if (s->depth == DEPTH_MAX)
			return fail(s, s->line, "too many braces inside each other");
		s->opened[s->depth++] = s->line;
	} else if (s->depth-- == 0) {
		return fail(s, s->line, "} without its {");
	} else if (empty) {
		*s->out++ = CONFIG_EMPTY[0];
	}
	*s->out++ = *s->p++;
	return true;
}

static bool
scan_one(struct scan *s)
{
	bool in_word = s->in_word;
	s->in_word = false;
	if (*s->p == '#' || (!in_word && (at(s, "//") || at(s, "/*"))))
		return scan_comment(s);
	if (*s->p == '{' || *s->p == '}')
		return scan_brace(s);
	if (!strchr(" \t\r\n", *s->p)) {
		s->assigned = *s->p == '=';
		s->empty = false;
	}
	if (*s->p == '"' || *s->p == '\'')
		return scan_string(s);
	if (at(s, "${")) {
		s->in_word = true;
		return scan_variable(s);
	}
	if (*s->p == '*')
		return fail(s, s->line, "unexpected '*'");
	if (*s->p == '\n')
		s->line++;
	s->in_word = !strchr(" \t\r\n=(),+", *s->p);
	*s->out++ = *s->p == '\r' ? ' ' : *s->p;
	s->p++;
	return true;
}

/* Only printable UTF-8, tabs and line ends: nothing that an editor would not show. */
static bool
check_bytes(struct config_file *f, const char *text, size_t len)
{
	struct scan s = { .file = f, .p = text, .end = text + len, .line = 1 };
	while (s.p < s.end) {
		size_t bad, n = utf8_char(s.p, (size_t)(s.end - s.p), &bad);
		if (n == 0)
			return fail(&s, s.line, "this is not UTF-8 text");
		if (*s.p == '\n')
			s.line++;
		else if (*s.p == 0x7f || ((unsigned char)*s.p < 0x20 && !strchr("\t\r", *s.p)) ||
		    *s.p == 0)
			return fail(&s, s.line, "a control character");
		s.p += n;
	}
	return true;
}

char *
config_text_prepare(struct config_file *f, const char *text, size_t len)
{
	/* Only empty lists grow, from two bytes to three. */
	char *out = config_realloc(NULL, len / 2 + 1, 3);
	struct scan s = { .file = f, .p = text, .end = text + len, .out = out, .line = 1 };
	bool good = check_bytes(f, text, len);
	if (at(&s, "\xef\xbb\xbf")) /* a byte order mark */
		s.p += 3;
	while (good && s.p < s.end)
		good = scan_one(&s);
	if (good && s.depth > 0)
		good = fail(&s, s.opened[s.depth - 1], "this { is never closed");
	if (!good) {
		free(out);
		return NULL;
	}
	*s.out = 0;
	return out;
}

/* The value of "VAR" or "VAR:-what to take if it is not set". */
static const char *
variable(struct config_file *f, const struct config_entry *e, char *spec)
{
	char *otherwise = strstr(spec, ":-");
	const char *value;
	if (otherwise)
		*otherwise = 0;
	value = config_source_variable(spec);
	if (value)
		return value;
	if (otherwise)
		return otherwise + 2;
	config_fault(f, e->line, e->key, "the environment variable %s is not set", spec);
	return NULL;
}

char *
config_text_expand(struct config_file *f, const struct config_entry *e)
{
	char *out = config_strdup(e->value), *begin, *end;
	size_t from = 0;
	while ((begin = strchr(out + from, MARK_BEGIN)) && (end = strchr(begin, MARK_END))) {
		const char *value;
		char *longer;
		size_t head = (size_t)(begin - out), len;
		*end = 0;
		value = variable(f, e, begin + 1);
		if (!value) {
			free(out);
			return NULL;
		}
		len = strlen(value);
		longer = config_realloc(NULL, head + len + strlen(end + 1) + 1, 1);
		memcpy(longer, out, head);
		memcpy(longer + head, value, len);
		memcpy(longer + head + len, end + 1, strlen(end + 1) + 1);
		free(out);
		out = longer;
		from = head + len; /* what a variable holds is not expanded again */
	}
	return out;
}
