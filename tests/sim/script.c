/*
 * Parses the steering string: the `model` of a request, `sim` or `sim:k=v,k=v,...`.  The table
 * below is the list of keys; README.md says what each one does.
 */
#include "script.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VALUE_MAX 63 /* bytes of any value but text and key */
#define MS_MAX 3600000

enum kind {
	KIND_INT,
	KIND_BOOL,
	KIND_RATE,
	KIND_LANG,
	KIND_EXACT,
	KIND_EOL,
	KIND_USAGE,
	KIND_FAULT,
	KIND_TEXT
};

static const struct key {
	const char *name;
	enum kind kind;
	size_t at; /* offset in struct script */
	int64_t min, max;
} keys[] = {
#define INT(name, member, min, max)                                       \
	{                                                                 \
		name, KIND_INT, offsetof(struct script, member), min, max \
	}
#define BOOL(name)                                                    \
	{                                                             \
#name, KIND_BOOL, offsetof(struct script, name), 0, 1 \
	}
    INT("tokens", tokens, 0, 10000000),
    {"rate", KIND_RATE, 0, 0, 0},
    INT("delay", delay_ms, 0, MS_MAX),
    INT("first", first_ms, 0, MS_MAX),
    INT("slowhdr", slowhdr_ms, 0, MS_MAX),
    {"lang", KIND_LANG, 0, 0, 0},
    {"exact", KIND_EXACT, 0, 0, 0},
    BOOL(stamp),
    INT("batch", batch, 1, 10000),
    INT("pack", pack, 1, 10000),
    INT("split", split, 0, 1 << 20),
    INT("gap", gap_ms, 0, MS_MAX),
    {"eol", KIND_EOL, 0, 0, 0},
    {"usage", KIND_USAGE, 0, 0, 0},
    INT("prompt", prompt, 0, INT_MAX),
    INT("cached", cached, 0, INT_MAX),
    INT("reason", reason, 0, INT_MAX),
    BOOL(role),
    BOOL(comments),
    BOOL(close),
    BOOL(echo),
    {"text", KIND_TEXT, offsetof(struct script, text), 0, 0},
    {"tool", KIND_TEXT, offsetof(struct script, tool), 0, 0},
    {"think", KIND_TEXT, offsetof(struct script, think), 0, 0},
    {"fault", KIND_FAULT, 0, 0, 0},
    INT("status", status, 200, 599),
    INT("retryafter", retry_after, 0, INT_MAX),
    BOOL(html),
    BOOL(json200),
    BOOL(empty),
    BOOL(badlen),
    {"key", KIND_TEXT, offsetof(struct script, key), 0, 0},
#undef INT
#undef BOOL
};

static const struct name {
	const char *name;
	int value;
} usage_names[] = {{"yes", USAGE_YES}, {"no", USAGE_NO}, {"zero", USAGE_ZERO}, {"null", USAGE_NULL},
    {"finish", USAGE_FINISH}, {"over", USAGE_OVER}, {"under", USAGE_UNDER}, {"neg", USAGE_NEG},
    {"huge", USAGE_HUGE}, {NULL, 0}},
  fault_names[] = {{"cut", FAULT_CUT}, {"reset", FAULT_RESET}, {"stall", FAULT_STALL},
      {"garbage", FAULT_GARBAGE}, {"badutf8", FAULT_BADUTF8}, {"halfutf8", FAULT_HALFUTF8},
      {"error", FAULT_ERROR}, {"errordone", FAULT_ERRORDONE}, {"giant", FAULT_GIANT},
      {"nodone", FAULT_NODONE}, {"nofinish", FAULT_NOFINISH}, {"dupdone", FAULT_DUPDONE},
      {NULL, 0}};

static int
name_find(const struct name *names, const char *s)
{
	for (; names->name != NULL; names++)
		if (strcmp(names->name, s) == 0)
			return names->value;
	return -1;
}

static int
int_parse(const char *s, int64_t min, int64_t max, int64_t *out)
{
	char *end;
	long long v;

	if (*s < '0' || *s > '9')
		return -1;
	v = strtoll(s, &end, 10); /* saturates beyond 64 bits */
	if (*end != '\0' || v < min || v > max)
		return -1;
	*out = v;
	return 0;
}

static int
hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c = (char)(c | 0x20);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Undo percent-encoding; what is no escape stays as it is. */
static char *
percent_decode(const char *s, size_t len, size_t *out_len)
{
	char *out = malloc(len + 1), *p = out;

	if (out == NULL)
		return NULL;
	for (size_t i = 0; i < len; i++) {
		if (s[i] == '%' && i + 2 < len && hex_digit(s[i + 1]) >= 0 &&
		    hex_digit(s[i + 2]) >= 0) {
			*p++ = (char)(hex_digit(s[i + 1]) * 16 + hex_digit(s[i + 2]));
			i += 2;
		} else
			*p++ = s[i];
	}
	*p = '\0';
	*out_len = (size_t)(p - out);
	return out;
}

/* `name`, or `name<sep>number`; *n keeps its value where there is none. */
static int
name_number_parse(const struct name *names, char *s, char sep, int64_t *n)
{
	char *rest = strchr(s, sep);

	if (rest != NULL) {
		*rest++ = '\0';
		if (int_parse(rest, 0, INT64_MAX / 4, n) != 0)
			return -1;
	}
	return name_find(names, s);
}

static int
value_parse(struct script *sc, const struct key *k, const char *value, size_t len)
{
	char buf[VALUE_MAX + 1], *end;
	void *member = (char *)sc + k->at;
	int64_t n;
	int v;

	if (k->kind == KIND_TEXT) {
		char **text = member;
		size_t text_len = 0;

		free(*text);
		*text = percent_decode(value, len, &text_len);
		if (text == &sc->text)
			sc->text_len = text_len;
		return *text != NULL ? 0 : -1;
	}
	if (len == 0 || len > VALUE_MAX)
		return -1;
	memcpy(buf, value, len);
	buf[len] = '\0';
	switch (k->kind) {
	case KIND_INT:
		return int_parse(buf, k->min, k->max, member);
	case KIND_BOOL:
		if (int_parse(buf, 0, 1, &n) != 0)
			return -1;
		*(bool *)member = n != 0;
		return 0;
	case KIND_RATE:
		sc->rate = strtod(buf, &end);
		return *end == '\0' && isfinite(sc->rate) && sc->rate >= 0 && sc->rate <= 1e6 ? 0
		                                                                              : -1;
	case KIND_LANG:
		if ((v = words_lang_find(buf, len)) < 0)
			return -1;
		sc->lang = (enum lang)v;
		return 0;
	case KIND_EXACT:
		if ((v = words_exact_find(buf)) < 0)
			return -1;
		sc->exact = (enum exact)v;
		return 0;
	case KIND_EOL:
		sc->crlf = strcmp(buf, "crlf") == 0;
		return sc->crlf || strcmp(buf, "lf") == 0 ? 0 : -1;
	case KIND_USAGE:
		if ((v = name_number_parse(usage_names, buf, ':', &sc->usage_n)) < 0)
			return -1;
		sc->usage = (enum usage_kind)v;
		return 0;
	case KIND_FAULT:
		if ((v = name_number_parse(fault_names, buf, '@', &sc->fault_at)) < 0)
			return -1;
		sc->fault = (enum fault)v;
		return 0;
	case KIND_TEXT:
		break;
	}
	return -1;
}

static const struct key *
key_find(const char *name, size_t len)
{
	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
		if (strlen(keys[i].name) == len && memcmp(keys[i].name, name, len) == 0)
			return &keys[i];
	return NULL;
}

int
script_parse(struct script *sc, const char *model, size_t len, char *err, size_t err_size)
{
	const char *p = model, *end = model + len;

	*sc = (struct script){.tokens = -1,
	    .batch = 1,
	    .pack = 1,
	    .prompt = -1,
	    .role = true,
	    .retry_after = -1,
	    .usage_n = 1};
	if (len < 3 || memcmp(p, "sim", 3) != 0 || (len > 3 && p[3] != ':'))
		return 1;
	p += len > 3 ? 4 : 3;
	while (p < end) {
		const char *comma = memchr(p, ',', (size_t)(end - p)), *eq;
		const struct key *k;

		if (comma == NULL)
			comma = end;
		eq = memchr(p, '=', (size_t)(comma - p));
		k = eq != NULL ? key_find(p, (size_t)(eq - p)) : NULL;
		if (k == NULL) {
			size_t shown = (size_t)((eq != NULL ? eq : comma) - p);

			snprintf(err, err_size, "tolld-sim: unknown key '%.*s' in model",
			    (int)(shown < 40 ? shown : 40), p);
			return -1;
		}
		if (value_parse(sc, k, eq + 1, (size_t)(comma - eq - 1)) != 0) {
			snprintf(
			    err, err_size, "tolld-sim: bad value for key '%s' in model", k->name);
			return -1;
		}
		p = comma < end ? comma + 1 : end;
	}
	return 0;
}

void
script_free(struct script *sc)
{
	free(sc->text);
	free(sc->key);
	free(sc->tool);
	free(sc->think);
	sc->text = sc->key = sc->tool = sc->think = NULL;
}
