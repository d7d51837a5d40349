/*
 * daemon.reload and daemon.drain: wishes that are the master's to fulfil.  Admin process.
 *
 * A reload's wish has a number (the time, so that those of an admin process before us are smaller);
 * the master's report names the last one that it is the answer to.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/admin.h"
#include "daemon/log.h"
#include "daemon/metrics_http.h"
#include "daemon/order.h"
#include "daemon/renew.h"
#include "shm/clock.h"

#define REPORT_MAX (2u << 20)
#define PATIENCE_US UINT64_C(60000000)

/* Lists of an answer, by the kind that a line of the report begins with. */
static const struct {
	const char *kind, *key;
} lists[] = {
    {"changed", "changed"},
    {"restart", "needs_restart"},
    {"error", "errors"},
    {"warning", "warnings"},
    {"late", "late"},
};

/* The next line of a kind, without its kind; NULL: there is none. */
static const char *
next_line(const char **at, const char *kind, size_t *len)
{
	size_t n = strlen(kind);

	while (**at != '\0') {
		const char *line = *at;
		size_t whole = strcspn(line, "\n");

		*at = line + whole + (line[whole] == '\n');
		if (whole > n && memcmp(line, kind, n) == 0 && line[n] == '\t') {
			*len = whole - n - 1;
			return line + n + 1;
		}
	}
	return NULL;
}

static bool
has(const char *report, const char *kind)
{
	size_t len;

	return next_line(&report, kind, &len) != NULL;
}

static void
put_list(struct proto_out *out, const char *report, const char *kind, const char *key)
{
	const char *at = report, *line;
	size_t len, n = 0;

	while (next_line(&at, kind, &len) != NULL)
		n++;
	proto_put_str(out, key);
	proto_put_array(out, n);
	for (at = report; (line = next_line(&at, kind, &len)) != NULL;)
		proto_put_text(out, line, len);
}

static void
answer(struct admin_call *call, const char *report, uint32_t generation)
{
	struct proto_out *out = admin_result(call);

	proto_put_map(out, 2 + sizeof lists / sizeof *lists);
	proto_put_kbool(out, "ok", has(report, "ok"));
	proto_put_kint(out, "generation", generation);
	for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
		put_list(out, report, lists[i].kind, lists[i].key);
	admin_finish(call);
}

static void
forget(struct admin_call *call)
{
	TAILQ_REMOVE(&call->admin->reloads, call, starved);
	call->cancel = NULL;
}

static void
cancel(struct admin_call *call)
{
	forget(call);
	admin_finish(call);
}

enum admin_step
admin_daemon_reload(struct admin_call *call, const struct proto_value *v)
{
	struct admin *a = call->admin;
	struct order o = {.kind = ORDER_RELOAD, .number = monotonic_us()};

	(void)v;
	if (order_send(a->heritage->order_theirs[PROC_ADMIN], &o, NULL, 0, NULL, 0) != 0)
		return admin_error(call, "busy", NULL, "the master is not told: %s", strerror(errno));
	call->key_id = o.number;
	call->cancel = cancel;
	TAILQ_INSERT_TAIL(&a->reloads, call, starved);
	admin_log(call, "reload asked for");
	return ADMIN_LATER;
}

/* A report, for all whose wish it answers. */
static void
reported(struct admin *a, const struct order *o, int fd)
{
	struct admin_call *call, *next;
	struct stat st;
	char *text;
	ssize_t n;

	if (fstat(fd, &st) != 0 || (uint64_t)st.st_size > REPORT_MAX ||
	    (text = malloc((size_t)st.st_size + 1)) == NULL)
		return;
	n = pread(fd, text, (size_t)st.st_size, 0);
	text[n < 0 ? 0 : n] = '\0';
	for (call = TAILQ_FIRST(&a->reloads); call != NULL; call = next) {
		next = TAILQ_NEXT(call, starved);
		if (call->key_id > o->number)
			continue;
		forget(call);
		answer(call, text, o->generation);
	}
	free(text);
}

void
admin_reloads_tick(struct admin *a)
{
	uint64_t now = monotonic_us();
	struct admin_call *call, *next;

	for (call = TAILQ_FIRST(&a->reloads); call != NULL; call = next) {
		next = TAILQ_NEXT(call, starved);
		if (now - call->key_id < PATIENCE_US)
			continue;
		forget(call);
		(void)admin_error(call, "timeout", NULL,
		    "the reload is still under way: the log will say what became of it");
		admin_finish(call);
	}
}

void
admin_orders_cb(evutil_socket_t fd, short what, void *arg)
{
	static struct order_received order;
	struct admin *a = arg;

	(void)what;
	while (order_receive(fd, &order) == 1) {
		struct heritage *h = a->heritage;
		struct config *next;

		if (order.order.kind == ORDER_REPORT) {
			if (order.fds == 1)
				reported(a, &order.order, order.fd[0]);
			order_close(&order);
			continue;
		}
		next = renew_make(h, PROC_ADMIN, &order);
		if (next == NULL)
			continue;
		metrics_http_renew(a->http, next);
		renew_done(h, PROC_ADMIN, next, order.order.generation, true);
	}
}

/* {"draining", "streams", "seconds"}: what is asked for, what runs, how long that may. */
enum admin_step
admin_daemon_drain(struct admin_call *call, const struct proto_value *v)
{
	struct admin *a = call->admin;
	const struct region *r = a->region;
	bool keep = v[0].given && v[0].number != 0, resume = v[1].given && v[1].number != 0;
	struct order o = {.kind = resume ? ORDER_RESUME : keep ? ORDER_KEEP : ORDER_DRAIN};
	/* Relaxed, here and below: reports. */
	uint32_t draining = atomic_load_explicit(&r->h->draining, memory_order_relaxed);
	uint64_t streams = 0;
	struct proto_out *out;

	if (keep && resume)
		return admin_error(call, "invalid_argument", "resume", "either keep or resume");
	if (draining == REGION_DRAIN_END)
		return admin_error(call, "draining", NULL, "tolld is about to end");
	if (order_send(a->heritage->order_theirs[PROC_ADMIN], &o, NULL, 0, NULL, 0) != 0)
		return admin_error(call, "busy", NULL, "the master is not told: %s", strerror(errno));
	for (uint32_t p = PROC_WORKER; p < r->h->procs; p++)
		streams += atomic_load_explicit(&region_proc(r, p)->streams, memory_order_relaxed);
	admin_log(call, resume ? "resume asked for" : keep ? "drain asked for, to be kept"
							   : "drain asked for");
	out = admin_result(call);
	proto_put_map(out, 3);
	proto_put_kbool(out, "draining", !resume);
	proto_put_kint(out, "streams", (int64_t)streams);
	proto_put_kint(out, "seconds", keep || resume ? 0 : a->heritage->config->timeouts.drain);
	return ADMIN_DONE;
}
