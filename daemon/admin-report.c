/*
 * workers.list, stats.get, daemon.ping: reports from shared memory.  Admin process.
 */
#include <stdio.h>
#include <string.h>

#include "daemon/admin.h"
#include "daemon/ids.h"
#include "daemon/metrics_table.h"
#include "daemon/version.h"
#include "shm/clock.h"

static const char *
proc_state(const struct proc_slot *p)
{
	/* Relaxed: words that only the master changes. */
	if (atomic_load_explicit(&p->reaping, memory_order_relaxed) != 0)
		return "reaping";
	if (atomic_load_explicit(&p->leaving, memory_order_relaxed) != 0)
		return "leaving";
	return atomic_load_explicit(&p->pid, memory_order_relaxed) != 0 ? "running" : "down";
}

static bool
is_there(const struct region *r, uint32_t proc)
{
	return strcmp(proc_state(region_proc(r, proc)), "down") != 0;
}

static uint32_t
holds_of(const struct region *r, uint32_t proc)
{
	uint32_t first = hold_first(r, proc), n = 0;

	for (uint32_t i = 0; i < r->h->holds_per_proc; i++)
		/* Relaxed: a report. */
		n += HOLD_STATE(atomic_load_explicit(
			 &hold_at(r, first + i)->state, memory_order_relaxed)) != HOLD_FREE;
	return n;
}

/*
 * [{"worker", "pid", "state", "generation", "up", "streams", "connections", "holds", "restarts",
 * "heartbeat_ms", "config", "version"}].
 */
enum admin_step
admin_workers_list(struct admin_call *call, const struct proto_value *v)
{
	const struct region *r = call->admin->region;
	uint32_t shown[2 * REGION_WORKERS_MAX], n = 0, half = r->h->dims.workers;
	struct proto_out *out = admin_result(call);

	(void)v;
	/* Each worker, wherever it is now, and those that leave. */
	for (uint32_t p = PROC_WORKER; p < PROC_WORKER + half; p++) {
		bool other = is_there(r, p + half);

		if (is_there(r, p) || !other)
			shown[n++] = p;
		if (other)
			shown[n++] = p + half;
	}
	proto_put_array(out, n);
	for (uint32_t i = 0; i < n; i++) {
		const struct proc_slot *p = region_proc(r, shown[i]);
		/* Relaxed, all of them: a report. */
		uint32_t pid = atomic_load_explicit(&p->pid, memory_order_relaxed);
		uint64_t since = atomic_load_explicit(&p->started_s, memory_order_relaxed);
		uint64_t beat = atomic_load_explicit(&p->heartbeat_us, memory_order_relaxed);
		uint64_t now_s = realtime_us() / 1000000, now_us = monotonic_us();
		char version[REGION_PROGRAM_LEN];

		(void)snprintf(version, sizeof version, "%.*s", (int)sizeof version - 1, p->version);
		proto_put_map(out, 12);
		proto_put_kint(out, "worker", region_worker(r, shown[i]));
		proto_put_kint(out, "pid", pid);
		proto_put_kstr(out, "state", proc_state(p));
		proto_put_kint(out, "generation",
		    atomic_load_explicit(&p->generation, memory_order_relaxed));
		proto_put_kint(out, "streams",
		    pid == 0 ? 0
			     : (int64_t)atomic_load_explicit(&p->streams, memory_order_relaxed));
		proto_put_kint(out, "holds", holds_of(r, shown[i]));
		proto_put_kint(out, "up", pid == 0 || since > now_s ? 0 : (int64_t)(now_s - since));
		proto_put_kint(out, "connections",
		    pid == 0 ? 0 : atomic_load_explicit(&p->connections, memory_order_relaxed));
		proto_put_kint(
		    out, "restarts", atomic_load_explicit(&p->restarts, memory_order_relaxed));
		proto_put_kint(out, "heartbeat_ms",
		    pid == 0 || beat == 0 || beat > now_us ? 0 : (int64_t)(now_us - beat) / 1000);
		proto_put_kint(out, "config", atomic_load_explicit(&p->config, memory_order_relaxed));
		proto_put_kstr(out, "version", version);
	}
	return ADMIN_DONE;
}

/* stats.get is made in two passes: MessagePack wants counts before contents. */
struct stats {
	uint32_t series[M_FAMILIES]; /* counted by the first */
	struct proto_out *out;       /* the second writes */
	bool failed;
};

static void
count_sample(void *arg, const struct metrics_sample *s)
{
	struct stats *st = arg;

	st->series[s->family - metrics_families]++;
}

static const char *
unit_text(enum metrics_unit unit)
{
	static const char *const text[] = {[UNIT_ONE] = "one", [UNIT_SECONDS] = "microseconds",
	    [UNIT_CREDITS] = "microcredits", [UNIT_RATIO] = "millionths"};

	return text[unit];
}

static void
put_family(void *arg, const struct metrics_family *f)
{
	struct stats *st = arg;
	uint32_t n = st->series[f - metrics_families];

	proto_put_map(st->out, f->type == METRIC_HISTOGRAM ? 4 : 3);
	proto_put_kstr(st->out, "name", f->name);
	proto_put_kstr(st->out, "unit", unit_text(f->unit));
	if (f->type == METRIC_HISTOGRAM) {
		proto_put_str(st->out, "bounds");
		proto_put_array(st->out, f->buckets->n);
		for (uint32_t i = 0; i < f->buckets->n; i++)
			proto_put_int(st->out, (int64_t)f->buckets->le[i]);
	}
	proto_put_str(st->out, "series");
	proto_put_array(st->out, n);
}

static void
put_sample(void *arg, const struct metrics_sample *s)
{
	struct stats *st = arg;
	const struct metrics_family *f = s->family;
	bool histogram = f->type == METRIC_HISTOGRAM;
	size_t labels = (s->value[0] != NULL) + (size_t)(s->value[1] != NULL);
	uint64_t count = 0;

	proto_put_map(st->out, histogram ? 4 : 2);
	proto_put_str(st->out, "labels");
	proto_put_map(st->out, labels);
	for (size_t i = 0; i < labels; i++)
		proto_put_kstr(st->out, f->label[i]->name, s->value[i]);
	if (!histogram) {
		proto_put_kint(st->out, "value", (int64_t)s->words[0]);
		return;
	}
	for (uint32_t i = 0; i <= f->buckets->n; i++)
		count += s->words[i];
	proto_put_kint(st->out, "count", (int64_t)count);
	proto_put_kint(st->out, "sum", (int64_t)s->words[f->buckets->n + 1]);
	proto_put_str(st->out, "buckets");
	proto_put_array(st->out, f->buckets->n + 1);
	for (uint32_t i = 0; i <= f->buckets->n; i++)
		proto_put_int(st->out, (int64_t)s->words[i]);
}

/* [{"name", "unit", "series": [{"labels": {}, "value"}]}]; histograms: "bounds", and for "value"
 * "count", "sum" and "buckets". */
enum admin_step
admin_stats_get(struct admin_call *call, const struct proto_value *v)
{
	const struct admin *a = call->admin;
	const struct config *c = a->heritage->config;
	struct metrics_snapshot *snapshot = metrics_snapshot(a->region);
	struct stats st = {.out = &call->out};

	(void)v;
	if (snapshot == NULL)
		return admin_error(call, "out_of_memory", NULL, "out of memory");
	metrics_visit(&(struct metrics_visitor){NULL, count_sample, &st}, snapshot, c);
	(void)admin_result(call);
	proto_put_array(st.out, M_FAMILIES);
	metrics_visit(&(struct metrics_visitor){put_family, put_sample, &st}, snapshot, c);
	metrics_snapshot_free(snapshot);
	return ADMIN_DONE;
}

/* {"version", "protocol", "role", "pid", "accounts_loaded", "journal_ok", "draining"}. */
enum admin_step
admin_daemon_ping(struct admin_call *call, const struct proto_value *v)
{
	const struct region *r = call->admin->region;
	struct proto_out *out = admin_result(call);

	(void)v;
	proto_put_map(out, 7);
	proto_put_kstr(out, "version", tolld_version);
	proto_put_kint(out, "protocol", PROTO_VERSION);
	proto_put_kstr(out, "role", call->full ? "full" : "read");
	/* Relaxed: single words, for a look. */
	proto_put_kint(out, "pid",
	    atomic_load_explicit(&region_proc(r, PROC_MASTER)->pid, memory_order_relaxed));
	proto_put_kbool(out, "accounts_loaded",
	    atomic_load_explicit(&r->h->filled, memory_order_relaxed) != 0);
	proto_put_kbool(out, "journal_ok",
	    atomic_load_explicit(&r->h->journal_ok, memory_order_relaxed) != 0);
	proto_put_kbool(
	    out, "draining", atomic_load_explicit(&r->h->draining, memory_order_relaxed) != 0);
	return ADMIN_DONE;
}
