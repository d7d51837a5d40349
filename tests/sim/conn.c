/*
 * One client connection of the simulated provider: reads a request, lets reply.c produce the
 * answer, and sends it as fast or as slowly as script and socket want.
 *
 * A connection waits for at most one thing at a time: room in the socket (`wr` is armed), a moment
 * (`timer` is in the wheel), or the client.  `rd` is armed always, so that a client who leaves is
 * noticed at once.
 */
#include "conn.h"

#include <errno.h>
#include <event2/event.h>
#include <event2/event_struct.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "reply.h"
#include "wheel.h"

#define CONN_MAGIC 0x51a7c044u
#define FILL_BYTES 65536u
#define READ_BYTES 16384u
/* Pending memory above this is given back once it is sent. */
#define PEND_KEEP 131072u
/* What was sent has reached the client before an abort throws the rest away. */
#define RESET_AFTER_NS 20000000u

struct conn {
	uint32_t magic;
	int fd;
	struct conn *next, **prev;
	struct event rd, wr;
	bool rd_on, wr_on;
	struct wheel_entry timer;
	struct buf in;
	struct buf pend; /* rendered, not sent: from pend_at */
	size_t pend_at;
	bool busy;           /* an answer is under way */
	bool chat;           /* and it is a chat call, which counts */
	enum reply_next now; /* what comes once pend is empty */
	bool reset_waited;
	struct reply reply;
	/* for the log line */
	uint64_t n, start_ns, bytes;
	int64_t max_tokens;
	bool stream, include_usage, auth;
	enum speak dialect;
	char *model;
	char ua[128], id[80];
};

static struct event_base *base;
static FILE *log_file;
static struct stats stats;
static struct conn *conns;
static struct buf scratch; /* one for all: what the socket doesn't take moves to pend */

static void conn_pump(struct conn *);

static void
log_end(const struct conn *c, const char *end)
{
	static const char *const dialect[] = {"openai", "ollama", "anthropic"};
	char model[6 * 512], ua[6 * sizeof(c->ua)], id[6 * sizeof(c->id)], max[24] = "null";
	size_t len = strlen(c->model);

	if (log_file == NULL)
		return;
	len = words_escape(model, c->model, len < 512 ? len : 512);
	model[len] = '\0';
	ua[words_escape(ua, c->ua, strlen(c->ua))] = '\0';
	id[words_escape(id, c->id, strlen(c->id))] = '\0';
	if (c->max_tokens >= 0)
		snprintf(max, sizeof(max), "%lld", (long long)c->max_tokens);
	fprintf(log_file,
	    "{\"n\":%llu,\"model\":\"%s\",\"max_tokens\":%s,\"stream\":%s,\"include_usage\":%s,"
	    "\"status\":%d,\"tokens_sent\":%lld,\"bytes\":%llu,\"end\":\"%s\",\"ms\":%.1f,"
	    "\"auth\":%s,\"ua\":\"%s\",\"dialect\":\"%s\",\"prompt\":%lld,\"id\":\"%s\"}\n",
	    (unsigned long long)c->n, model, max, c->stream ? "true" : "false",
	    c->include_usage ? "true" : "false", c->reply.status != 0 ? c->reply.status : 200,
	    (long long)c->reply.sent, (unsigned long long)c->bytes, end,
	    (double)(clock_ns() - c->start_ns) / 1e6, c->auth ? "true" : "false", ua,
	    dialect[c->dialect], (long long)c->reply.prompt, id);
	fflush(log_file);
}

/* The answer is over, whoever ended it. */
static void
conn_answer_end(struct conn *c, const char *end)
{
	if (!c->busy)
		return;
	c->busy = false;
	wheel_del(&c->timer);
	if (c->chat) {
		stats.open--;
		if (*end == 'c' && end[1] == 'l')
			stats.cancelled++;
		else if (*end == 'f')
			stats.faults++;
		else
			stats.completed++;
		log_end(c, end);
	}
	reply_fini(&c->reply);
	free(c->model);
	c->model = NULL;
}

static void
conn_close(struct conn *c)
{
	conn_answer_end(c, "client_closed");
	wheel_del(&c->timer);
	event_del(&c->rd);
	event_del(&c->wr);
	close(c->fd);
	*c->prev = c->next;
	if (c->next != NULL)
		c->next->prev = c->prev;
	free(c->in.p);
	free(c->pend.p);
	c->magic = 0;
	free(c);
	stats.connections_open--;
}

static void
conn_write_watch(struct conn *c, bool on)
{
	if (c->wr_on == on)
		return;
	c->wr_on = on;
	if (on)
		event_add(&c->wr, NULL);
	else
		event_del(&c->wr);
}

static void
conn_read_watch(struct conn *c, bool on)
{
	if (c->rd_on == on)
		return;
	c->rd_on = on;
	if (on)
		event_add(&c->rd, NULL);
	else
		event_del(&c->rd);
}

/* Bytes that the socket took, 0 if it is full, -1 if the client is gone. */
static ssize_t
conn_send(struct conn *c, const char *p, size_t len)
{
	ssize_t n;

	do
		n = send(c->fd, p, len, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == EAGAIN ? 0 : -1;
	c->bytes += (uint64_t)n;
	stats.bytes += (uint64_t)n;
	return n;
}

/* Send what is pending.  1: all gone; 0: the rest waits; -1: the client is gone. */
static int
conn_flush(struct conn *c)
{
	size_t split = c->busy ? (size_t)c->reply.sc.split : 0;

	while (c->pend_at < c->pend.len) {
		size_t len = c->pend.len - c->pend_at;
		ssize_t n =
		    conn_send(c, c->pend.p + c->pend_at, split > 0 && len > split ? split : len);

		if (n < 0)
			return -1;
		c->pend_at += (size_t)n;
		if (n == 0 || c->pend_at == c->pend.len)
			break;
		if (split == 0)
			continue;
		/* A piece a millisecond, or a turn of the loop: so the client sees pieces. */
		if (c->reply.sc.gap_ms > 0) {
			conn_write_watch(c, false);
			wheel_add(&c->timer, clock_ns() + (uint64_t)c->reply.sc.gap_ms * 1000000u);
			return 0;
		}
		break;
	}
	if (c->pend_at < c->pend.len) {
		conn_write_watch(c, true);
		return 0;
	}
	c->pend.len = c->pend_at = 0;
	if (c->pend.cap > PEND_KEEP) {
		free(c->pend.p);
		c->pend = (struct buf){0};
	}
	return 1;
}

/* Render what is due and send it.  As conn_flush(). */
static int
conn_fill(struct conn *c)
{
	int64_t sent = c->reply.sent;
	ssize_t n = 0;

	scratch.len = 0;
	c->now = reply_fill(&c->reply, &scratch, FILL_BYTES);
	stats.tokens += (uint64_t)(c->reply.sent - sent);
	if (scratch.len == 0)
		return 1;
	if (c->reply.sc.split == 0) {
		n = conn_send(c, scratch.p, scratch.len);
		if (n < 0)
			return -1;
		if ((size_t)n == scratch.len)
			return 1;
	}
	buf_put(&c->pend, scratch.p + n, scratch.len - (size_t)n);
	return conn_flush(c);
}

/* The answer is all in the socket: on to the next request, or close. */
static void
conn_answer_done(struct conn *c, const char *end)
{
	bool keepalive = c->reply.keepalive;

	conn_answer_end(c, end);
	if (!keepalive) {
		conn_close(c);
		return;
	}
	conn_write_watch(c, false);
	conn_read_watch(c, true);
	if (c->in.len > 0) /* the next request has come already */
		event_active(&c->rd, EV_READ, 0);
}

static void
conn_reset(struct conn *c)
{
	struct linger linger = {.l_onoff = 1, .l_linger = 0};

	if (!c->reset_waited) {
		c->reset_waited = true;
		conn_write_watch(c, false);
		wheel_add(&c->timer, clock_ns() + RESET_AFTER_NS);
		return;
	}
	setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
	conn_answer_end(c, "fault");
	conn_close(c);
}

static void
conn_pump(struct conn *c)
{
	int r = c->pend.len > 0 ? conn_flush(c) : 1;

	if (r > 0 && (c->now == REPLY_MORE || c->now == REPLY_WAIT))
		r = conn_fill(c);
	if (r < 0) {
		conn_close(c);
		return;
	}
	if (r == 0)
		return;
	switch (c->now) {
	case REPLY_MORE: /* only after the others had a turn */
		conn_write_watch(c, true);
		break;
	case REPLY_WAIT:
		conn_write_watch(c, false);
		wheel_add(&c->timer, c->reply.due_ns);
		break;
	case REPLY_STALL:
		conn_write_watch(c, false);
		break;
	case REPLY_END:
		conn_answer_done(c, "complete");
		break;
	case REPLY_FAULT:
		conn_answer_done(c, "fault");
		break;
	case REPLY_CUT:
		conn_answer_end(c, "fault");
		conn_close(c);
		break;
	case REPLY_RESET:
		conn_reset(c);
		break;
	}
}

/* What an event or a timer hands back must be a connection that lives. */
static struct conn *
conn_of(void *p)
{
	struct conn *c = p;

	if (c->magic != CONN_MAGIC)
		abort();
	return c;
}

static void
timer_fire(struct wheel_entry *e)
{
	conn_pump(conn_of((char *)e - offsetof(struct conn, timer)));
}

static void
write_cb(evutil_socket_t fd, short what, void *arg)
{
	struct conn *c = conn_of(arg);

	(void)fd;
	(void)what;
	if (c->busy)
		conn_pump(c);
	else
		conn_write_watch(c, false);
}

static void
stats_body(struct buf *b)
{
	buf_printf(b,
	    "{\"requests\":%llu,\"open\":%llu,\"completed\":%llu,\"cancelled\":%llu,"
	    "\"faults\":%llu,\"tokens\":%llu,\"bytes\":%llu,\"connections\":%llu,"
	    "\"connections_open\":%llu,\"now_ns\":%llu}\n",
	    (unsigned long long)stats.requests, (unsigned long long)stats.open,
	    (unsigned long long)stats.completed, (unsigned long long)stats.cancelled,
	    (unsigned long long)stats.faults, (unsigned long long)stats.tokens,
	    (unsigned long long)stats.bytes, (unsigned long long)stats.connections,
	    (unsigned long long)stats.connections_open, (unsigned long long)clock_ns());
}

static void
chat_start(struct conn *c, const struct request *rq, const char *body, size_t len)
{
	const char *why = NULL, *param = NULL;
	char err[128];
	struct script sc = {0};
	struct chat ch;
	int r = 0;

	stats.requests++;
	stats.open++;
	c->chat = true;
	c->n = stats.requests;
	c->auth = rq->auth;
	c->dialect = rq->dialect;
	memcpy(c->ua, rq->ua, sizeof(c->ua));
	memcpy(c->id, rq->id, sizeof(c->id));
	if (chat_parse(rq->dialect, &ch, body, len, &why, &param) != 0)
		reply_error(&c->reply, rq, 400, NULL, param, why);
	else if ((r = script_parse(&sc, ch.model, ch.model_len, err, sizeof(err))) > 0)
		reply_error(&c->reply, rq, 404, "model_not_found", "model",
		    "The model does not exist or you do not have access to it.");
	else if (r < 0)
		reply_error(&c->reply, rq, 400, "invalid_script", "model", err);
	else if (sc.key != NULL &&
	         strcmp(sc.key, rq->dialect == SPEAK_ANTHROPIC ? rq->api_key : rq->bearer) != 0)
		reply_error(
		    &c->reply, rq, 401, "invalid_api_key", NULL, "Incorrect API key provided.");
	else if (rq->dialect == SPEAK_ANTHROPIC && rq->version[0] == '\0')
		reply_error(
		    &c->reply, rq, 400, NULL, NULL, "anthropic-version: header is required");
	else
		reply_chat(&c->reply, &sc, &ch, rq, body, len, c->n, c->start_ns);
	script_free(&sc); /* empty where the reply took it over */
	c->stream = ch.stream;
	c->include_usage = ch.include_usage;
	c->max_tokens = ch.max_tokens;
	c->model = ch.model != NULL ? ch.model : strdup("");
	if (c->model == NULL)
		abort();
}

static void
embed_start(struct conn *c, const struct request *rq, const char *body, size_t len)
{
	const char *why = NULL, *param = NULL;
	char err[128];
	struct script sc = {0};
	struct embed e;
	int r = 0;

	if (embed_parse(&e, body, len, &why, &param) != 0)
		reply_error(&c->reply, rq, 400, NULL, param, why);
	else if ((r = script_parse(&sc, e.model, e.model_len, err, sizeof(err))) > 0)
		reply_error(&c->reply, rq, 404, "model_not_found", "model",
		    "The model does not exist or you do not have access to it.");
	else if (r < 0)
		reply_error(&c->reply, rq, 400, "invalid_script", "model", err);
	else
		reply_embeddings(&c->reply, &sc, &e, rq);
	script_free(&sc);
	free(e.model);
}

static void
count_start(struct conn *c, const struct request *rq, const char *body, size_t len)
{
	const char *why = NULL, *param = NULL;
	struct chat ch;

	/* It is asked without a limit, which a chat call of this dialect must have. */
	if (chat_parse(SPEAK_OPENAI, &ch, body, len, &why, &param) != 0)
		reply_error(&c->reply, rq, 400, NULL, param, why);
	else
		reply_count(&c->reply, &ch, rq);
	free(ch.model);
}

static void
request_start(struct conn *c, const struct request *rq, const char *body, size_t len)
{
	bool get = strcmp(rq->method, "GET") == 0, post = strcmp(rq->method, "POST") == 0;
	const char *t = rq->target;
	bool chat = rq->dialect != SPEAK_OPENAI || strcmp(t, "/v1/chat/completions") == 0 ||
	            strcmp(t, "/chat/completions") == 0;
	bool models = strcmp(t, "/v1/models") == 0 || strcmp(t, "/models") == 0;

	bool embeddings = strcmp(t, "/v1/embeddings") == 0 || strcmp(t, "/embeddings") == 0;

	c->chat = false;
	if (rq->count && post) {
		count_start(c, rq, body, len);
	} else if (embeddings && post) {
		embed_start(c, rq, body, len);
	} else if (chat && post) {
		chat_start(c, rq, body, len);
	} else if (models && get) {
		reply_plain(&c->reply, rq, 200, "application/json");
		buf_printf(&c->reply.body, "{\"object\":\"list\",\"data\":[{\"id\":\"sim\","
		                           "\"object\":\"model\",\"created\":1700000000,"
		                           "\"owned_by\":\"tolld-sim\"}]}\n");
	} else if (strcmp(t, "/sim/stats") == 0 && get) {
		reply_plain(&c->reply, rq, 200, "application/json");
		stats_body(&c->reply.body);
	} else if (strcmp(t, "/sim/reset") == 0 && post) {
		stats =
		    (struct stats){.open = stats.open, .connections_open = stats.connections_open};
		reply_plain(&c->reply, rq, 200, "application/json");
		buf_printf(&c->reply.body, "{\"ok\":true}\n");
	} else if (chat || models || embeddings || strncmp(t, "/sim/", 5) == 0) {
		reply_error(&c->reply, rq, 405, NULL, NULL, "Wrong method, or no such page.");
	} else
		reply_error(&c->reply, rq, 404, NULL, NULL, "Invalid URL.");
}

/* Refuse a request that cannot even be read to its end. */
static void
request_refuse(struct conn *c, int status, const char *message)
{
	struct request rq = {0};

	c->chat = false;
	c->in.len = 0;
	reply_error(&c->reply, &rq, status, NULL, NULL, message);
}

/* Start the next request if all of it is here.  False if bytes are missing. */
static bool
conn_request(struct conn *c)
{
	struct request rq;
	ssize_t head = request_head(&rq, c->in.p, c->in.len);
	size_t used, body_len;

	if (head == 0)
		return false;
	c->start_ns = clock_ns();
	c->bytes = 0;
	c->reset_waited = false;
	c->now = REPLY_MORE;
	if (head < 0) {
		request_refuse(c, (int)-head, "Bad request head.");
		return c->busy = true;
	}
	used = (size_t)head;
	if (rq.chunked) {
		ssize_t took = request_unchunk(c->in.p + used, c->in.len - used, &body_len);

		if (took == 0 && c->in.len - used > REQUEST_BODY_MAX)
			took = -413;
		if (took == 0)
			goto partial;
		if (took < 0) {
			request_refuse(c, (int)-took, "Bad or too large body.");
			return c->busy = true;
		}
		used += (size_t)took;
	} else {
		if (rq.length > REQUEST_BODY_MAX) {
			request_refuse(c, 413, "The body is too large.");
			return c->busy = true;
		}
		body_len = (size_t)rq.length;
		if (c->in.len - used < body_len)
			goto partial;
		used += body_len;
	}
	c->busy = true;
	request_start(c, &rq, c->in.p + head, body_len);
	c->in.len -= used;
	memmove(c->in.p, c->in.p + used, c->in.len);
	return true;
partial:
	if (rq.expect && c->in.len == (size_t)head)
		(void)conn_send(c, "HTTP/1.1 100 Continue\r\n\r\n", 25);
	return false;
}

static void
read_cb(evutil_socket_t fd, short what, void *arg)
{
	struct conn *c = conn_of(arg);
	ssize_t n;

	(void)what;
	buf_need(&c->in, READ_BYTES);
	n = recv(fd, c->in.p + c->in.len, c->in.cap - c->in.len, 0);
	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
		conn_close(c);
		return;
	}
	if (n > 0)
		c->in.len += (size_t)n;
	if (c->busy) {
		/* Requests in advance are kept, within bounds; then the client has to wait. */
		if (c->in.len > REQUEST_BODY_MAX)
			conn_read_watch(c, false);
		return;
	}
	if (c->in.len > 0 && conn_request(c))
		conn_pump(c);
}

int
conn_init(struct event_base *b, FILE *log, unsigned tick_us)
{
	base = b;
	log_file = log;
	buf_need(&scratch, FILL_BYTES * 2);
	return wheel_init(base, tick_us, timer_fire);
}

void
conn_new(int fd)
{
	struct conn *c = calloc(1, sizeof(*c));

	if (c == NULL) {
		close(fd);
		return;
	}
	c->magic = CONN_MAGIC;
	c->fd = fd;
	event_assign(&c->rd, base, fd, EV_READ | EV_PERSIST, read_cb, c);
	event_assign(&c->wr, base, fd, EV_WRITE | EV_PERSIST, write_cb, c);
	c->next = conns;
	c->prev = &conns;
	if (c->next != NULL)
		c->next->prev = &c->next;
	conns = c;
	stats.connections++;
	stats.connections_open++;
	conn_read_watch(c, true);
}

void
conn_fini(void)
{
	while (conns != NULL)
		conn_close(conns);
	wheel_fini();
	free(scratch.p);
	scratch = (struct buf){0};
}
