/*
 * Summing the words of all processes and printing them: Prometheus text, or a visitor for
 * tollctl stats.  Admin process.
 */
#include <stdatomic.h>
#include <stdlib.h>

#include "daemon/metrics_table.h"
#include "shm/ledger.h"

/* Streams that are open, by what the workers themselves say. */
static int64_t
streams_active(const struct region *r)
{
	uint64_t n = 0;

	/* A dead worker's number stays until its successor starts; it is nobody's. */
	for (uint32_t i = PROC_WORKER; i < r->h->procs; i++) {
		const struct proc_slot *p = region_proc(r, i);

		if (atomic_load_explicit(&p->pid, memory_order_relaxed) != 0)
			n += atomic_load_explicit(&p->streams, memory_order_relaxed);
	}
	return (int64_t)n;
}

static int64_t
holds_open(const struct region *r)
{
	uint32_t total = hold_count(r);
	int64_t n = 0;

	for (uint32_t s = 0; s < total; s++) {
		/* Relaxed: a report, true of no instant in particular. */
		enum hold_state st = HOLD_STATE(
		    atomic_load_explicit(&hold_at(r, s)->state, memory_order_relaxed));

		n += st == HOLD_HELD || st == HOLD_EXTENDING || st == HOLD_SETTLING;
	}
	return n;
}

static int64_t
worker_up(const struct region *r, uint32_t i)
{
	uint32_t half = r->h->dims.workers, p = PROC_WORKER + i;

	/* In one of its two slots: the other is for the overlap of an upgrade. */
	return i >= half ? -1
	    : atomic_load_explicit(&region_proc(r, p)->pid, memory_order_relaxed) != 0 ||
	        atomic_load_explicit(&region_proc(r, p + half)->pid, memory_order_relaxed) != 0;
}

/* The value of a gauge's series i, or -1: there is no such series. */
static int64_t
gauge(const struct region *r, enum metrics_family_id id, uint32_t i)
{
	const struct region_header *h = r->h;

	switch (id) {
	case M_STREAMS_ACTIVE:
		return streams_active(r);
	case M_HOLDS_OPEN:
		return holds_open(r);
	case M_WORKER_UP:
		return worker_up(r, i);
	case M_JOURNAL_SEQUENCE:
		return (int64_t)atomic_load_explicit(&h->journal_seq, memory_order_relaxed);
	case M_JOURNAL_PROJECTED:
		return (int64_t)atomic_load_explicit(&h->projected_seq, memory_order_relaxed);
	case M_JOURNAL_OK:
		return (int64_t)atomic_load_explicit(&h->journal_ok, memory_order_relaxed);
	case M_DRAINING:
		return atomic_load_explicit(&h->draining, memory_order_relaxed) != 0;
	case M_ACCOUNTS:
		return (int64_t)atomic_load_explicit(&h->accounts, memory_order_relaxed);
	case M_KEYS:
		return (int64_t)atomic_load_explicit(&h->keys, memory_order_relaxed);
	case M_ACCOUNTS_LIMIT:
		return h->dims.max_accounts;
	case M_KEYS_LIMIT:
		return h->dims.max_keys;
	case M_HOLDS_LIMIT:
		return h->holds_per_proc;
	case M_ACCOUNTS_FROZEN:
		return (int64_t)atomic_load_explicit(
		    &region_counters(r, PROC_KEEPER)[metrics_families[id].base],
		    memory_order_relaxed);
	case M_CONFIG_GENERATION:
		return (int64_t)atomic_load_explicit(&h->config.generation, memory_order_relaxed);
	case M_CONFIG_GOOD:
		return atomic_load_explicit(&h->config.failed, memory_order_relaxed) == 0;
	case M_CONFIG_TIME: /* in microseconds, as all times are here */
		return (int64_t)atomic_load_explicit(&h->config.loaded_s, memory_order_relaxed) *
		    1000000;
	case M_BUILD_INFO:
		return 1;
	default:
		return -1;
	}
}

struct metrics_snapshot {
	int64_t gauge[M_FAMILIES][2 * REGION_WORKERS_MAX];
	uint64_t sum[METRICS_WORDS];
};

struct metrics_snapshot *
metrics_snapshot(const struct region *r)
{
	struct metrics_snapshot *s = calloc(1, sizeof *s);

	if (s == NULL)
		return NULL;
	/* Process by process, so that memory is read in order. */
	for (uint32_t p = 0; p < r->h->procs; p++) {
		const _Atomic uint64_t *w = region_counters(r, p);

		for (uint32_t i = 0; i < metrics_words_used; i++)
			s->sum[i] += atomic_load_explicit(&w[i], memory_order_relaxed);
	}
	for (int id = 0; id < M_FAMILIES; id++)
		if (metrics_families[id].type == METRIC_GAUGE)
			for (uint32_t i = 0; i < metrics_count(&metrics_families[id]); i++)
				s->gauge[id][i] = gauge(r, (enum metrics_family_id)id, i);
	return s;
}

void
metrics_snapshot_free(struct metrics_snapshot *s)
{
	free(s);
}

static bool
all_zero(const uint64_t *w, uint32_t n)
{
	while (n > 0 && w[n - 1] == 0)
		n--;
	return n == 0;
}

/* One series, if it exists and should be shown. */
static void
visit_series(const struct metrics_visitor *v, const struct metrics_family *f,
    const struct config *c, const uint32_t at[2], const uint64_t *w)
{
	struct metrics_sample s = {.family = f, .words = w};
	bool rest = f->sparse;

	for (int k = 0; k < 2 && f->label[k] != NULL; k++) {
		s.value[k] = f->label[k]->text(c, at[k]);
		if (s.value[k] == NULL)
			return;
		rest = rest || at[k] == f->label[k]->rest;
	}
	if (rest && all_zero(w, metrics_width(f)))
		return;
	v->sample(v->arg, &s);
}

static void
visit_family(const struct metrics_visitor *v, enum metrics_family_id id,
    const struct metrics_snapshot *s, const struct config *c)
{
	const struct metrics_family *f = &metrics_families[id];
	uint32_t per = f->label[1] != NULL ? f->label[1]->n : 1;

	if (v->family != NULL)
		v->family(v->arg, f);
	for (uint32_t i = 0; i < metrics_count(f); i++) {
		const uint32_t at[2] = {i / per, i % per};
		uint64_t now;

		if (f->type != METRIC_GAUGE) {
			visit_series(v, f, c, at, s->sum + f->base + i * metrics_width(f));
			continue;
		}
		now = (uint64_t)s->gauge[id][i];
		if (s->gauge[id][i] >= 0)
			visit_series(v, f, c, at, &now);
	}
}

void
metrics_visit(const struct metrics_visitor *v, const struct metrics_snapshot *s,
    const struct config *c)
{
	for (int id = 0; id < M_FAMILIES; id++)
		visit_family(v, (enum metrics_family_id)id, s, c);
}

static void
print_value(struct buf *b, enum metrics_unit unit, uint64_t v)
{
	/* Micro-credits, microseconds and millionths all print as decimals, exactly. */
	if (unit == UNIT_ONE)
		buf_u64(b, v);
	else
		buf_money(b, v > INT64_MAX ? INT64_MAX : (int64_t)v);
}

static void
print_escaped(struct buf *b, const char *text)
{
	for (; *text != '\0'; text++) {
		if (*text == '\n')
			buf_str(b, "\\n");
		else if (*text == '\\' || *text == '"')
			buf_printf(b, "\\%c", *text);
		else
			buf_add(b, text, 1);
	}
}

/* name_suffix{labels,le="..."} and the space before the value; le: NULL, or its text. */
static void
print_name(struct buf *b, const struct metrics_sample *s, const char *suffix, const char *le)
{
	const char *sep = "{";

	buf_str(b, s->family->name);
	buf_str(b, suffix);
	for (int k = 0; k < 2 && s->value[k] != NULL; k++) {
		buf_printf(b, "%s%s=\"", sep, s->family->label[k]->name);
		print_escaped(b, s->value[k]);
		buf_str(b, "\"");
		sep = ",";
	}
	if (le != NULL)
		buf_printf(b, "%sle=\"%s\"", sep, le);
	buf_str(b, s->value[0] != NULL || le != NULL ? "} " : " ");
}

static void
print_histogram(struct buf *b, const struct metrics_sample *s)
{
	const struct metrics_family *f = s->family;
	uint64_t count = 0;

	for (uint32_t i = 0; i <= f->buckets->n; i++) {
		struct buf le = {0};

		count += s->words[i];
		if (i == f->buckets->n)
			buf_str(&le, "+Inf");
		else
			print_value(&le, f->unit, f->buckets->le[i]);
		buf_add(&le, "", 1);
		if (!le.failed)
			print_name(b, s, "_bucket", le.data);
		buf_free(&le);
		buf_u64(b, count);
		buf_str(b, "\n");
	}
	print_name(b, s, "_sum", NULL);
	print_value(b, f->unit, s->words[f->buckets->n + 1]);
	buf_str(b, "\n");
	print_name(b, s, "_count", NULL);
	buf_u64(b, count);
	buf_str(b, "\n");
}

static void
print_sample(void *arg, const struct metrics_sample *s)
{
	struct buf *b = arg;

	if (s->family->type == METRIC_HISTOGRAM) {
		print_histogram(b, s);
		return;
	}
	print_name(b, s, "", NULL);
	print_value(b, s->family->unit, s->words[0]);
	buf_str(b, "\n");
}

static void
print_family(void *arg, const struct metrics_family *f)
{
	static const char *const type[] = {
	    [METRIC_COUNTER] = "counter",
	    [METRIC_GAUGE] = "gauge",
	    [METRIC_HISTOGRAM] = "histogram",
	};

	buf_printf(arg, "# HELP %s %s\n# TYPE %s %s\n", f->name, f->help, f->name, type[f->type]);
}

void
metrics_print(struct buf *b, const struct region *r, const struct config *c)
{
	const struct metrics_visitor v = {print_family, print_sample, b};
	struct metrics_snapshot *s = metrics_snapshot(r);

	if (s == NULL) {
		b->failed = true;
		return;
	}
	metrics_visit(&v, s, c);
	metrics_snapshot_free(s);
}
