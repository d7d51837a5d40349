/*
 * A config file, from bytes to entries with their lines.  Master.
 *
 * libConfuse is the parser and nothing more: every key is declared as CFGT_PTR with a callback,
 * so that the raw text of each value arrives here with the line that the scanner is at.  Hence
 * 0.15 and "0.15" are the same, no amount ever becomes a float, and a wrong value doesn't end
 * the parsing.  What it would stop at, keys that it doesn't know, is declared and parsed anew.
 */
#include "daemon/config_file.h"

#include <confuse.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/config_source.h"
#include "daemon/log.h"

#define FILE_MAX (1 << 20)
#define UNKNOWN_MAX 64

/*
 * A list with a default in each section: libConfuse sets it when it enters the section, which
 * is how the section's first line gets known.  Parentheses keep the name apart from all others.
 */
#define ENTERED "(entered)"

/* Keys that were found and don't exist; declared in the next try. */
struct unknown {
	const char *section;
	char *key;
};

/* One parse.  libConfuse's callbacks have no argument of ours, hence the pointer to it. */
struct parse {
	struct config_file *file;
	const struct config_shape *shapes;
	cfg_t *top;
	struct unknown unknown[UNKNOWN_MAX];
	size_t unknowns;
	bool again; /* an unknown key stopped it */
};

static struct parse *parsing;

char *
config_strdup(const char *text)
{
	char *copy = strdup(text);
	if (!copy)
		fatal("config");
	return copy;
}

void *
config_realloc(void *old, size_t count, size_t size)
{
	void *new = reallocarray(old, count, size);
	if (!new)
		fatal("config");
	return new;
}

static void add_fault(struct config_file *f, int line, bool warning, const char *key,
    const char *fmt, va_list ap) __attribute__((format(printf, 5, 0)));

static void
add_fault(struct config_file *f, int line, bool warning, const char *key, const char *fmt,
    va_list ap)
{
	char what[512], text[640];
	vsnprintf(what, sizeof(what), fmt, ap);
	snprintf(text, sizeof(text), "%s: %s%s", key, warning ? "warning: " : "", what);
	for (char *p = text; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			*p = '?'; /* it goes to terminals, one line a fault */
	f->fault = config_realloc(f->fault, f->faults + 1, sizeof(*f->fault));
	f->fault[f->faults++] = (struct config_fault){ line, warning, config_strdup(text) };
}

void
config_fault(struct config_file *f, int line, const char *key, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	add_fault(f, line, false, key, fmt, ap);
	va_end(ap);
}

void
config_warning(struct config_file *f, int line, const char *key, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	add_fault(f, line, true, key, fmt, ap);
	va_end(ap);
}

static const char *
section_name(const cfg_t *cfg)
{
	return cfg == parsing->top || !parsing->top ? "" : cfg->name;
}

/* A value was read. */
static int
value_cb(cfg_t *cfg, cfg_opt_t *opt, const char *value, void *result)
{
	struct config_file *f = parsing->file;
	*(void **)result = NULL; /* nothing is kept in libConfuse's tree */
	f->entry = config_realloc(f->entry, f->entries + 1, sizeof(*f->entry));
	f->entry[f->entries++] = (struct config_entry){
		.section = cfg == parsing->top ? 0 : f->sections - 1,
		.key = config_strdup(opt->name),
		.value = config_strdup(value),
		.line = cfg->line,
		.first = opt->nvalues <= 1, /* the one being set is counted already */
	};
	return 0;
}

/* A section begins. */
static int
entered_cb(cfg_t *cfg, cfg_opt_t *opt, const char *value, void *result)
{
	struct config_file *f = parsing->file;
	(void)opt;
	(void)value;
	*(void **)result = NULL;
	for (size_t i = 1; i < f->sections; i++) {
		const struct config_section *s = &f->section[i];
		if (strcmp(s->name, cfg->name) != 0 || strcmp(s->title ? s->title : "",
		    cfg->title ? cfg->title : "") != 0)
			continue;
		if (cfg->title)
			config_fault(f, cfg->line, cfg->name, "there is a %s \"%s\" on line %d "
			    "already", cfg->name, cfg->title, s->line);
		else
			config_fault(f, cfg->line, cfg->name, "this section is on line %d already",
			    s->line);
		break;
	}
	f->section = config_realloc(f->section, f->sections + 1, sizeof(*f->section));
	f->section[f->sections] = (struct config_section){ .line = cfg->line,
		.title = cfg->title ? config_strdup(cfg->title) : NULL };
	for (const struct config_shape *s = parsing->shapes; s->section; s++)
		if (strcmp(s->section, cfg->name) == 0)
			f->section[f->sections].name = s->section;
	f->sections++;
	return 0;
}

/* Is this key one that an earlier try has found not to exist? */
static bool
is_unknown(const char *section, const char *key)
{
	for (size_t i = 0; i < parsing->unknowns; i++)
		if (strcmp(parsing->unknown[i].section, section) == 0 &&
		    strcmp(parsing->unknown[i].key, key) == 0)
			return true;
	return false;
}

static void
note_unknown(cfg_t *cfg, const char *key)
{
	const char *name = section_name(cfg);
	config_fault(parsing->file, cfg->line, key, "there is no such key%s%s",
	    *name ? " in section " : "", name);
	if (parsing->unknowns == UNKNOWN_MAX || is_unknown(name, key))
		return;
	for (const struct config_shape *s = parsing->shapes; s->section; s++)
		if (strcmp(s->section, name) == 0)
			name = s->section; /* one that outlives cfg */
	parsing->unknown[parsing->unknowns++] = (struct unknown){ name, config_strdup(key) };
	parsing->again = true;
}

static void error_cb(cfg_t *cfg, const char *fmt, va_list ap)
    __attribute__((format(printf, 2, 0)));

/* libConfuse gives up. */
static void
error_cb(cfg_t *cfg, const char *fmt, va_list ap)
{
	char text[256];
	if (parsing->again || parsing->file->broken)
		return; /* it says things twice on its way out */
	if (strcmp(fmt, "no such option '%s'") == 0) {
		note_unknown(cfg, va_arg(ap, const char *));
		if (parsing->again)
			return;
	} else {
		/* An unknown section was declared as a key; that it is unknown has been said. */
		vsnprintf(text, sizeof(text), fmt, ap);
		const char *quoted = strchr(text, '\'');
		char key[sizeof(text)] = "";
		if (quoted)
			snprintf(key, strcspn(quoted + 1, "'") + 1, "%s", quoted + 1);
		if (!is_unknown(section_name(cfg), key))
			config_fault(parsing->file, cfg->line, "syntax", "%s", text);
	}
	parsing->file->broken = true;
}

/* Declare the keys of one section; end-of-table entry included. */
static cfg_opt_t *
declare_keys(const struct config_shape *shape, size_t more)
{
	size_t keys = 0, n = 0;
	cfg_opt_t *opt;
	while (shape->keys[keys].name)
		keys++;
	opt = config_realloc(NULL, keys + parsing->unknowns + more + 2, sizeof(*opt));
	for (const struct config_key *k = shape->keys; k->name; k++)
		opt[n++] = k->list ? (cfg_opt_t)CFG_PTR_LIST_CB(k->name, 0, 0, value_cb, 0)
		                   : (cfg_opt_t)CFG_PTR_CB(k->name, 0, 0, value_cb, 0);
	for (size_t i = 0; i < parsing->unknowns; i++)
		if (strcmp(parsing->unknown[i].section, shape->section) == 0)
			opt[n++] = (cfg_opt_t)CFG_PTR_LIST_CB(parsing->unknown[i].key, 0, 0,
			    value_cb, 0);
	if (*shape->section)
		opt[n++] = (cfg_opt_t)CFG_PTR_LIST_CB(ENTERED, "{0}", 0, entered_cb, 0);
	opt[n] = (cfg_opt_t)CFG_END();
	return opt;
}

/* Parse the prepared text once; false if an unknown key asks for another try. */
static bool
parse_once(FILE *text)
{
	struct config_file *f = parsing->file;
	size_t shapes = 0, n = 0;
	cfg_opt_t *top, *sub[16] = { NULL };

	while (parsing->shapes[shapes].section)
		shapes++;
	parsing->again = false;
	parsing->top = NULL;
	top = declare_keys(&parsing->shapes[0], shapes);
	while (top[n].name)
		n++;
	for (size_t i = 1; i < shapes && i < 16; i++) {
		sub[i] = declare_keys(&parsing->shapes[i], 0);
		top[n++] = (cfg_opt_t)CFG_SEC(parsing->shapes[i].section, sub[i],
		    CFGF_MULTI | (parsing->shapes[i].titled ? CFGF_TITLE : 0));
	}
	top[n] = (cfg_opt_t)CFG_END();
	parsing->top = cfg_init(top, CFGF_NONE);
	if (!parsing->top)
		fatal("config");
	cfg_set_error_function(parsing->top, error_cb);
	if (cfg_parse_fp(parsing->top, text) != CFG_SUCCESS && !parsing->again && !f->broken) {
		config_fault(f, parsing->top->line, "syntax", "cannot be understood");
		f->broken = true;
	}
	cfg_free(parsing->top);
	free(top);
	for (size_t i = 1; i < 16; i++)
		free(sub[i]);
	return !parsing->again;
}

/* Forget what a try has read; its faults about unknown keys stay, the others come again. */
static void
forget(struct config_file *f)
{
	for (size_t i = 0; i < f->entries; i++) {
		free(f->entry[i].key);
		free(f->entry[i].value);
	}
	for (size_t i = 0; i < f->sections; i++)
		free(f->section[i].title);
	f->entries = 0;
	f->sections = 0;
}

static void
forget_faults(struct config_file *f, size_t keep)
{
	while (f->faults > keep)
		free(f->fault[--f->faults].text);
}

static void
parse(struct config_file *f, char *text, const struct config_shape *shapes)
{
	struct parse p = { .file = f, .shapes = shapes };
	parsing = &p;
	for (;;) {
		/* fmemopen refuses an empty buffer in some versions. */
		FILE *in = fmemopen(*text ? text : " ", *text ? strlen(text) : 1, "r");
		if (!in)
			fatal("config");
		forget(f);
		f->section = config_realloc(f->section, 1, sizeof(*f->section));
		f->section[f->sections++] = (struct config_section){ .name = "", .line = 1 };
		forget_faults(f, p.unknowns);
		bool done = parse_once(in);
		fclose(in);
		if (done)
			break;
		/* Of the faults of this try keep only the last, the unknown key. */
		struct config_fault last = f->fault[--f->faults];
		forget_faults(f, p.unknowns - 1);
		f->fault[f->faults++] = last;
	}
	for (size_t i = 0; i < p.unknowns; i++)
		free(p.unknown[i].key);
	parsing = NULL;
}

static char *
read_all(struct config_file *f, size_t *len)
{
	char *text = config_realloc(NULL, FILE_MAX + 1, 1);
	ssize_t n = config_source_file(f->path, text, FILE_MAX + 1);
	if (n < 0)
		config_fault(f, 1, "file", "cannot be read: %s", strerror(errno));
	else if (n > FILE_MAX)
		config_fault(f, 1, "file", "is larger than 1 MiB");
	*len = n < 0 ? 0 : (size_t)n;
	(void)config_source_hash(); /* of the whole file: that says nothing of a key */
	if (f->faults == 0)
		return text;
	f->broken = true;
	free(text);
	return NULL;
}

bool
config_file_read(struct config_file *f, const char *path, const struct config_shape *shapes)
{
	size_t len;
	char *text, *prepared;
	*f = (struct config_file){ .path = path };
	text = read_all(f, &len);
	prepared = text ? config_text_prepare(f, text, len) : NULL;
	if (prepared)
		parse(f, prepared, shapes);
	/* They may hold keys. */
	if (text)
		explicit_bzero(text, len);
	if (prepared)
		explicit_bzero(prepared, strlen(prepared));
	free(text);
	free(prepared);
	return !f->broken || f->entries > 0;
}

void
config_file_free(struct config_file *f)
{
	forget(f);
	forget_faults(f, 0);
	free(f->entry);
	free(f->section);
	free(f->fault);
	config_trace_free(f->trace, f->traces);
}

void
config_trace_free(struct config_trace *t, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		free(t[i].section);
		free(t[i].title);
		free(t[i].key);
	}
	free(t);
}

void
config_trace(struct config_file *f, size_t section, const char *key, const char *value)
{
	const struct config_section *s = &f->section[section];
	const char *title = s->title ? s->title : "";
	uint64_t files = config_source_hash();
	struct config_trace *t = NULL;
	for (size_t i = 0; i < f->traces && !t; i++)
		if (strcmp(f->trace[i].section, s->name) == 0 &&
		    strcmp(f->trace[i].title, title) == 0 && strcmp(f->trace[i].key, key) == 0)
			t = &f->trace[i];
	if (!t) {
		f->trace = config_realloc(f->trace, f->traces + 1, sizeof(*f->trace));
		t = &f->trace[f->traces++];
		*t = (struct config_trace){ config_strdup(s->name), config_strdup(title),
			config_strdup(key), 0 };
	}
	t->hash = config_source_mix(t->hash, value, strlen(value) + 1);
	t->hash = config_source_mix(t->hash, &files, sizeof(files));
}

size_t
config_file_report(struct config_file *f, FILE *errors)
{
	size_t faults = 0;
	/* Insertion sort by line: few, and it keeps the order within a line. */
	for (size_t i = 1; i < f->faults; i++)
		for (size_t j = i; j > 0 && f->fault[j].line < f->fault[j - 1].line; j--) {
			struct config_fault swap = f->fault[j];
			f->fault[j] = f->fault[j - 1];
			f->fault[j - 1] = swap;
		}
	for (size_t i = 0; i < f->faults; i++) {
		fprintf(errors, "%s:%d: %s\n", f->path, f->fault[i].line, f->fault[i].text);
		faults += !f->fault[i].warning;
	}
	return faults;
}
