/*
 * Clients of the admin socket: requests in, answers out.  Admin process.
 *
 * A client is read only while it reads: with much unsent, many calls under way, or a request
 * that found the ring full, its further requests stay in its socket.  A client is freed only in
 * client_run, at the top of an event; everything else marks it and activates that event.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/admin.h"
#include "daemon/log.h"
#include "shm/clock.h"

#define READ_SIZE (64u << 10)

TAILQ_HEAD(admin_calls, admin_call);

struct admin_client {
	struct admin *admin;
	TAILQ_ENTRY(admin_client) link;
	int fd;
	uid_t uid;
	pid_t pid;
	bool full;
	struct event *rd, *wr, *run;
	struct buf in, out;
	struct proto_scan scan; /* of the request at the start of `in` */
	struct admin_calls calls;
	unsigned call_count;
	uint64_t frame_us;    /* when the request at the start of `in` began; 0: none */
	uint64_t progress_us; /* when it last sent or took something */
	bool waiting; /* its next request found the ring full, or the accounts not loaded */
	bool hungry;  /* what is in `in` is no whole request */
	bool running; /* inside client_run */
	bool eof;     /* sends no more; gets its answers */
	bool closing; /* no further request is looked at; closed when all is sent */
	const char *drop; /* why it is to be dropped at once */
};

static void
client_free(struct admin_client *c)
{
	struct admin_call *call;

	TAILQ_REMOVE(&c->admin->clients, c, link);
	c->admin->client_count--;
	while ((call = TAILQ_FIRST(&c->calls)) != NULL) {
		TAILQ_REMOVE(&c->calls, call, link);
		call->client = NULL;
		if (call->cancel != NULL)
			call->cancel(call);
	}
	if (c->rd != NULL)
		event_free(c->rd);
	if (c->wr != NULL)
		event_free(c->wr);
	if (c->run != NULL)
		event_free(c->run);
	close(c->fd);
	buf_free(&c->in);
	buf_free(&c->out);
	free(c);
}

static void
client_send(struct admin_client *c, const struct proto_out *out)
{
	buf_add(&c->out, out->data, out->len);
	if (c->out.failed)
		c->drop = "out of memory";
	else if (c->out.len > ADMIN_OUT_MAX)
		c->drop = "it does not read its answers";
	if (!c->running)
		event_active(c->run, EV_TIMEOUT, 0);
}

/* Hand over the answer of a call that is complete, and free the call. */
static void
call_end(struct admin_call *call)
{
	struct admin_client *c = call->client;

	if (call->out.failed || call->out.len == 0) {
		proto_out_free(&call->out);
		proto_out_init(&call->out);
		proto_put_error(&call->out, call->id, "out_of_memory", "out of memory", NULL);
	}
	call->admin->calls--;
	if (c != NULL) {
		TAILQ_REMOVE(&c->calls, call, link);
		c->call_count--;
		client_send(c, &call->out);
	}
	explicit_bzero(call->key, sizeof call->key);
	if (call->out.data != NULL)
		explicit_bzero(call->out.data, call->out.len); /* perhaps with a key */
	proto_out_free(&call->out);
	free(call);
}

void
admin_finish(struct admin_call *call)
{
	call_end(call);
}

void
admin_notify(struct admin_call *call, const struct proto_out *out)
{
	if (call->client != NULL && !out->failed && call->client->out.len < ADMIN_OUT_PAUSE)
		client_send(call->client, out);
}

size_t
admin_unsent(const struct admin_call *call)
{
	return call->client == NULL ? 0 : call->client->out.len;
}

struct proto_out *
admin_result(struct admin_call *call)
{
	proto_put_result(&call->out, call->id);
	return &call->out;
}

enum admin_step
admin_error(struct admin_call *call, const char *code, const char *field, const char *fmt, ...)
{
	char message[256];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(message, sizeof message, fmt, ap);
	va_end(ap);
	proto_put_error(&call->out, call->id, code, message, field);
	return ADMIN_DONE;
}

static const struct admin_method *
method_find(const char *name, size_t len)
{
	for (const struct admin_method *m = admin_methods; m->name != NULL; m++)
		if (strlen(m->name) == len && memcmp(m->name, name, len) == 0)
			return m;
	return NULL;
}

static enum admin_step
call_start(struct admin_call *call, const struct proto_message *m)
{
	const struct region_header *h = call->admin->region->h;
	struct proto_value value[PROTO_ARGS_MAX];
	struct proto_fault fault;

	call->method = method_find(m->method, m->method_len);
	if (call->method == NULL)
		return admin_error(call, "unknown_method", NULL, "no such method");
	if (!call->full && !admin_method_reads(call->method))
		return admin_error(call, "forbidden", NULL,
		    "only members of admin_full_group may do this");
	if (!proto_args(call->method->args, m->args, value, &fault)) {
		if (fault.field == NULL)
			return admin_error(call, "invalid_argument", NULL, "%s", fault.why);
		return admin_error(call, "invalid_argument", fault.field, "%s %s", fault.field,
		    fault.why);
	}
	/* Acquire, pairs with the keeper's release after it has loaded everything. */
	if (call->method->needs_accounts &&
	    atomic_load_explicit(&h->filled, memory_order_acquire) != REGION_FILLED)
		return ADMIN_BUSY;
	if (call->method->needs_journal && (call->admin->stalled ||
	    atomic_load_explicit(&h->journal_ok, memory_order_relaxed) == 0))
		return admin_error(call, "journal_unavailable", NULL,
		    "the journal cannot be written; see the daemon's log");
	return call->method->fn(call, value);
}

/* One whole request.  False if it has to be asked again. */
static bool
client_request(struct admin_client *c, const struct proto_message *m)
{
	struct admin_call *call = calloc(1, sizeof *call);

	if (call == NULL) {
		c->drop = "out of memory";
		return true;
	}
	call->admin = c->admin;
	call->client = c;
	call->id = m->id;
	call->peer = c->uid;
	call->full = c->full;
	proto_out_init(&call->out);
	TAILQ_INSERT_TAIL(&c->calls, call, link);
	c->call_count++;
	c->admin->calls++;
	switch (call_start(call, m)) {
	case ADMIN_DONE:
		call_end(call);
		break;
	case ADMIN_LATER:
		break;
	case ADMIN_BUSY:
		TAILQ_REMOVE(&c->calls, call, link);
		c->call_count--;
		c->admin->calls--;
		proto_out_free(&call->out);
		free(call);
		return false;
	}
	return true;
}

/* The peer cannot be understood: say so, as far as that is possible, and close. */
static void
client_fault(struct admin_client *c, const struct proto_message *m, const char *why)
{
	struct proto_out out;

	proto_out_init(&out);
	if (m != NULL && m->has_id && m->kind == PROTO_REQUEST) {
		proto_put_error(&out, m->id, "malformed", why, NULL);
	} else {
		proto_put_notification(&out, "error");
		proto_put_map(&out, 2);
		proto_put_kstr(&out, "code", "malformed");
		proto_put_kstr(&out, "message", why);
	}
	client_send(c, &out);
	proto_out_free(&out);
	c->closing = true;
}

/* The request in bytes[0..len).  False if it has to wait. */
static bool
client_message(struct admin_client *c, const char *bytes, size_t len)
{
	struct proto_message m;
	const char *why = proto_decode(&m, bytes, len);
	bool done = true;

	if (why != NULL)
		client_fault(c, &m, why);
	else if (m.kind == PROTO_ANSWER)
		client_fault(c, NULL, "an answer to nothing");
	else if (m.kind == PROTO_REQUEST)
		done = client_request(c, &m);
	proto_message_free(&m);
	return done;
}

/* Take whole requests from the input, for one turn. */
static void
client_requests(struct admin_client *c)
{
	/* By a timer and not event_active, which would come before the others' sockets. */
	static const struct timeval at_once = {0, 0}, soon = {0, 20000};
	uint64_t until = monotonic_us() + ADMIN_TURN_US;
	size_t used = 0;

	c->hungry = false;
	while (!c->closing && c->drop == NULL && c->call_count < ADMIN_CALLS_MAX &&
	       c->out.len <= ADMIN_OUT_PAUSE) {
		switch (proto_scan(&c->scan, c->in.data + used, c->in.len - used,
		    PROTO_REQUEST_MAX)) {
		case PROTO_MORE:
			c->hungry = true;
			goto out;
		case PROTO_MALFORMED:
			client_fault(c, NULL, "not the MessagePack of a request");
			goto out;
		case PROTO_OVERSIZE:
			client_fault(c, NULL, "too large");
			goto out;
		case PROTO_WHOLE:
			break;
		}
		if (!client_message(c, c->in.data + used, c->scan.at)) {
			c->waiting = true;
			if (event_pending(c->admin->retry, EV_TIMEOUT, NULL) == 0)
				event_add(c->admin->retry, &soon);
			goto out;
		}
		used += c->scan.at;
		c->scan = (struct proto_scan){0};
		if (monotonic_us() > until) {
			event_add(c->run, &at_once);
			break;
		}
	}
out:
	if (used > 0) {
		buf_consume(&c->in, used);
		c->frame_us = 0;
	}
	if (c->frame_us == 0 && c->in.len > 0)
		c->frame_us = monotonic_us();
}

static void
client_write(struct admin_client *c)
{
	while (c->out.len > 0) {
		ssize_t n = send(c->fd, c->out.data, c->out.len, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			if (errno != EAGAIN && errno != EWOULDBLOCK)
				c->drop = "it went away";
			return;
		}
		buf_consume(&c->out, (size_t)n);
		c->progress_us = monotonic_us();
	}
}

/* Should more of its requests be looked at? */
static bool
client_open(const struct admin_client *c)
{
	return !c->closing && !c->waiting && c->call_count < ADMIN_CALLS_MAX &&
	       c->out.len <= ADMIN_OUT_PAUSE;
}

/*
 * Do all that can be done for a client now; but for make_room and the end of the process the
 * only place where one ends.  (It may end with `waiting`: then it is neither closing nor
 * hungry.)
 */
static void
client_run(struct admin_client *c)
{
	c->running = true;
	if (c->drop == NULL)
		client_write(c);
	if (c->drop == NULL && client_open(c))
		client_requests(c);
	if (c->drop == NULL)
		client_write(c);
	c->running = false;
	if (c->drop != NULL) {
		log_warnx("admin client of uid %u (pid %d) dropped: %s", (unsigned)c->uid,
		    (int)c->pid, c->drop);
		client_free(c);
		return;
	}
	if (c->out.len == 0 && c->call_count == 0 && (c->closing || (c->eof && c->hungry))) {
		client_free(c);
		return;
	}
	if (client_open(c) && !c->eof)
		event_add(c->rd, NULL);
	else
		event_del(c->rd);
	if (c->out.len > 0)
		event_add(c->wr, NULL);
	else
		event_del(c->wr);
}

static void
run_cb(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	client_run(arg);
}

static void
read_cb(evutil_socket_t fd, short what, void *arg)
{
	struct admin_client *c = arg;
	char *p = buf_reserve(&c->in, READ_SIZE);
	ssize_t n;

	(void)what;
	if (p == NULL) {
		c->drop = "out of memory";
		client_run(c);
		return;
	}
	n = recv(fd, p, READ_SIZE, 0);
	if (n > 0) {
		c->in.len += (size_t)n;
		c->progress_us = monotonic_us();
	} else if (n == 0)
		c->eof = true;
	else if (errno != EAGAIN && errno != EINTR)
		c->drop = "it went away";
	client_run(c);
}

void
admin_retry(void *arg)
{
	struct admin *a = arg;
	struct admin_client *c;

	admin_balances_retry(a);
	TAILQ_FOREACH(c, &a->clients, link)
		if (c->waiting) {
			c->waiting = false;
			event_active(c->run, EV_TIMEOUT, 0);
		}
}

/*
 * The journal takes nothing: its callers are told so instead of being kept waiting.  What is in
 * the ring may still be booked when the disk works again; the calls go on as those of clients who
 * left.
 */
static void
give_up_calls(struct admin_client *c)
{
	struct admin_call *call, *next;
	struct proto_out out;

	for (call = TAILQ_FIRST(&c->calls); call != NULL; call = next) {
		next = TAILQ_NEXT(call, link);
		/* What only reads and can be broken off does not wait for the journal. */
		if (!call->method->needs_journal && call->cancel != NULL)
			continue;
		TAILQ_REMOVE(&c->calls, call, link);
		c->call_count--;
		call->client = NULL;
		proto_out_init(&out);
		proto_put_error(&out, call->id, "journal_unavailable",
		    "the journal cannot be written now; what was asked for may still be done "
		    "later: look before you repeat it, or repeat it with the same ref", NULL);
		client_send(c, &out);
		proto_out_free(&out);
		if (call->cancel != NULL)
			call->cancel(call);
	}
}

void
admin_clients_tick(struct admin *a)
{
	uint64_t now = monotonic_us();
	struct admin_client *c;

	a->stalled = durable_stalled_us(a->durable, now) > ADMIN_JOURNAL_SECONDS * 1000000ull;
	TAILQ_FOREACH(c, &a->clients, link) {
		if (a->stalled)
			give_up_calls(c);
		if (c->out.len > 0 && now - c->progress_us > ADMIN_STALL_SECONDS * 1000000ull)
			c->drop = "it does not read its answers";
		else if (client_open(c) && c->in.len > 0 &&
			 now - c->frame_us > ADMIN_FRAME_SECONDS * 1000000ull)
			c->drop = "its request does not become whole";
		if (c->drop != NULL)
			event_active(c->run, EV_TIMEOUT, 0);
	}
	if (a->stalled)
		admin_retry(a); /* who found no room: to be refused */
}

void
admin_clients_close(struct admin *a, bool all)
{
	struct admin_client *c, *next;

	for (c = TAILQ_FIRST(&a->clients); c != NULL; c = next) {
		next = TAILQ_NEXT(c, link);
		c->closing = true;
		c->waiting = false;
		if (all || (c->call_count == 0 && c->out.len == 0))
			client_free(c);
	}
}

/* Full: the client that has waited for nothing the longest makes room. */
static bool
make_room(struct admin *a)
{
	struct admin_client *c, *idle = NULL;

	if (a->client_count < ADMIN_CLIENTS_MAX)
		return true;
	TAILQ_FOREACH(c, &a->clients, link)
		if (c->call_count == 0 && c->out.len == 0 && c->in.len == 0 &&
		    (idle == NULL || c->progress_us < idle->progress_us))
			idle = c;
	if (idle != NULL)
		client_free(idle);
	return idle != NULL;
}

bool
admin_client_new(struct admin *a, int fd, const struct ucred *peer, bool full)
{
	struct admin_client *c = make_room(a) ? calloc(1, sizeof *c) : NULL;

	if (c == NULL)
		return false;
	c->admin = a;
	c->fd = fd;
	c->uid = peer->uid;
	c->pid = peer->pid;
	c->full = full;
	c->progress_us = monotonic_us();
	TAILQ_INIT(&c->calls);
	TAILQ_INSERT_TAIL(&a->clients, c, link);
	a->client_count++;
	c->rd = event_new(a->base, fd, EV_READ | EV_PERSIST, read_cb, c);
	c->wr = event_new(a->base, fd, EV_WRITE, run_cb, c);
	c->run = event_new(a->base, -1, 0, run_cb, c);
	if (c->rd == NULL || c->wr == NULL || c->run == NULL || event_add(c->rd, NULL) != 0)
		client_free(c);
	return true;
}
