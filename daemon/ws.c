/*
 * WebSocket framing, by libwslay's event interface.  Worker.
 *
 * What to know of libwslay 1.1:
 * - With its own buffering it takes memory for as long as a frame's header says, and some 100 bytes
 *   for each fragment: so it buffers control frames only, and messages are put together here, as
 *   they come.  Then its bound is one for frames, and that of a message is ours.
 * - A frame that is none (a control frame that is too long or in fragments, a length that is not
 *   the shortest) it would answer with a close that has no code: we say 1002 in its place.
 * - A close with one byte it takes for one with none.
 * - What is queued behind a close is not sent; what was queued before it goes first only if it
 *   was sent before: hence everything is sent at once.  There is no second queue behind the
 *   connection's.
 * - It may be made to send from inside its callbacks; not to read.
 * - A ping is answered by itself.  Peers that ping and do not read are not read, either: see
 *   QUEUE_MAX and TURN_MAX.
 */
#include "daemon/ws.h"

#include <stdlib.h>
#include <string.h>
#include <wslay/wslay.h>

#include "shm/clock.h"

/* Nothing more is looked at while more than this waits for the socket. */
#define QUEUE_MAX 32768
/* Bytes looked at before what they caused is sent. */
#define TURN_MAX 4096
/* Memory for a message that is kept for the next one. */
#define KEEP_MAX 4096

struct ws {
	struct conn *conn;
	wslay_event_context_ptr ctx;
	const struct ws_owner *owner;
	void *arg;
	struct buf message; /* so much of it as has come */
	size_t message_max;
	struct span in;  /* what is being looked at */
	size_t turn;     /* bytes of it that may be, before something is sent */
	struct buf *out; /* flush()'s */
	bool in_data;    /* the frame that comes is a message's */
	bool failed;     /* by the peer's fault, or for want of memory: nothing is read any more */
	bool told;       /* the owner knows that it closes */
	bool broken;     /* a frame could not be sent: ends at the next tick */
	bool ended;      /* the connection is not ours any more */
	uint64_t heard_us, closing_us;
};

static void
tell_closing(struct ws *ws)
{
	if (ws->told)
		return;
	ws->told = true;
	ws->closing_us = monotonic_us();
	ws->owner->closing(ws->arg);
}

static void
end(struct ws *ws)
{
	tell_closing(ws);
	if (ws->ended)
		return;
	ws->ended = true;
	conn_upgrade_end(ws->conn, !wslay_event_get_close_received(ws->ctx));
}

/* The peer's fault: it is told which, and that is all. */
static void
fail(struct ws *ws, enum ws_code code, const char *reason)
{
	ws->failed = true;
	(void)wslay_event_queue_close(
	    ws->ctx, (uint16_t)code, (const uint8_t *)reason, strlen(reason));
	wslay_event_shutdown_read(ws->ctx);
}

/* libwslay's callbacks. */

static ssize_t
recv_cb(wslay_event_context_ptr ctx, uint8_t *to, size_t len, int flags, void *arg)
{
	struct ws *ws = arg;

	(void)flags;
	if (len > ws->in.len)
		len = ws->in.len;
	if (len > ws->turn)
		len = ws->turn;
	if (len == 0) {
		wslay_event_set_error(ctx, WSLAY_ERR_WOULDBLOCK);
		return -1;
	}
	memcpy(to, ws->in.p, len);
	ws->in = (struct span){ws->in.p + len, ws->in.len - len};
	ws->turn -= len;
	return (ssize_t)len;
}

static ssize_t
send_cb(wslay_event_context_ptr ctx, const uint8_t *data, size_t len, int flags, void *arg)
{
	struct ws *ws = arg;

	(void)ctx;
	(void)flags;
	buf_add(ws->out, data, len);
	return (ssize_t)len;
}

static void
frame_start_cb(
    wslay_event_context_ptr ctx, const struct wslay_event_on_frame_recv_start_arg *f, void *arg)
{
	struct ws *ws = arg;

	(void)ctx;
	ws->in_data = !wslay_is_ctrl_frame(f->opcode);
	if (ws->failed || ws->told)
		return;
	if (f->opcode == WSLAY_BINARY_FRAME)
		fail(ws, WS_NO_TEXT, "messages are text");
	else if (f->opcode == WSLAY_CONNECTION_CLOSE && f->payload_length == 1)
		fail(ws, WS_PROTOCOL, "half a close code");
	else if (ws->in_data && f->payload_length > ws->message_max - ws->message.len)
		fail(ws, WS_TOO_LONG, "the message is too long");
}

static void
frame_chunk_cb(
    wslay_event_context_ptr ctx, const struct wslay_event_on_frame_recv_chunk_arg *f, void *arg)
{
	struct ws *ws = arg;

	(void)ctx;
	if (!ws->in_data || ws->failed || ws->told)
		return;
	buf_add(&ws->message, f->data, f->data_length);
	if (ws->message.failed)
		fail(ws, WS_INTERNAL, "out of memory");
}

static void
message_cb(wslay_event_context_ptr ctx, const struct wslay_event_on_msg_recv_arg *m, void *arg)
{
	struct ws *ws = arg;

	(void)ctx;
	if (m->opcode != WSLAY_TEXT_FRAME || ws->failed || ws->told)
		return;
	if (buf_reserve(&ws->message, 1) == NULL) {
		fail(ws, WS_INTERNAL, "out of memory");
		return;
	}
	ws->message.data[ws->message.len] = '\0';
	ws->owner->text(ws->arg, (struct span){ws->message.data, ws->message.len});
	ws->message.len = 0;
	if (ws->message.cap > KEEP_MAX)
		buf_free(&ws->message);
}

static const struct wslay_event_callbacks callbacks = {
    .recv_callback = recv_cb,
    .send_callback = send_cb,
    .on_frame_recv_start_callback = frame_start_cb,
    .on_frame_recv_chunk_callback = frame_chunk_cb,
    .on_msg_recv_callback = message_cb,
};

struct ws *
ws_new(struct conn *c, size_t message_max, const struct ws_owner *owner, void *arg)
{
	struct ws *ws = calloc(1, sizeof *ws);

	if (ws == NULL || wslay_event_context_server_init(&ws->ctx, &callbacks, ws) != 0) {
		free(ws);
		return NULL;
	}
	wslay_event_config_set_no_buffering(ws->ctx, 1);
	wslay_event_config_set_max_recv_msg_length(ws->ctx, message_max);
	ws->conn = c;
	ws->message_max = message_max;
	ws->owner = owner;
	ws->arg = arg;
	ws->heard_us = monotonic_us();
	return ws;
}

void
ws_free(struct ws *ws)
{
	if (ws == NULL)
		return;
	wslay_event_context_free(ws->ctx);
	buf_free(&ws->message);
	free(ws);
}

/* Send what is queued, in one piece.  Ends nothing: who writes is not to be told so in there. */
static void
flush(struct ws *ws)
{
	struct buf out = {0};

	if (ws->ended || ws->broken)
		return;
	ws->out = &out;
	if (wslay_event_send(ws->ctx) != 0 || out.failed)
		ws->broken = true;
	else
		conn_write(ws->conn, out.data, out.len);
	ws->out = NULL;
	buf_free(&out);
}

/* What did a turn of reading come to? */
static void
read_turn(struct ws *ws)
{
	static const char protocol_error[] = {
	    '\x88', 2, WS_PROTOCOL >> 8, (char)(WS_PROTOCOL & 0xff)};
	int r;

	ws->turn = TURN_MAX;
	r = wslay_event_recv(ws->ctx);
	if (r == WSLAY_ERR_NOMEM)
		ws->broken = true;
	if (r == 0 && wslay_event_get_read_enabled(ws->ctx)) {
		flush(ws);
		return;
	}
	/* Whoever began it, there is nothing more to be read. */
	tell_closing(ws);
	if (r == 0 || ws->failed)
		flush(ws);
	else if (!ws->broken && !wslay_event_get_close_sent(ws->ctx))
		conn_write(ws->conn, protocol_error, sizeof protocol_error);
	end(ws);
}

size_t
ws_input(struct ws *ws, const char *p, size_t len)
{
	size_t left;

	ws->heard_us = monotonic_us();
	ws->in = (struct span){p, len};
	while (ws->in.len > 0 && !ws->ended && conn_queued(ws->conn) <= QUEUE_MAX)
		read_turn(ws);
	left = ws->ended ? 0 : ws->in.len;
	ws->in = (struct span){NULL, 0};
	return len - left;
}

static void
queue(struct ws *ws, uint8_t opcode, const char *data, size_t len)
{
	struct wslay_event_msg m = {opcode, (const uint8_t *)data, len};

	if (ws->told || ws->broken)
		return;
	if (wslay_event_queue_msg(ws->ctx, &m) == WSLAY_ERR_NOMEM)
		ws->broken = true;
	flush(ws);
}

void
ws_send(struct ws *ws, const char *data, size_t len)
{
	queue(ws, WSLAY_TEXT_FRAME, data, len);
}

void
ws_ping(struct ws *ws)
{
	queue(ws, WSLAY_PING, NULL, 0);
}

void
ws_close(struct ws *ws, enum ws_code code, const char *reason)
{
	if (ws->told)
		return;
	(void)wslay_event_queue_close(
	    ws->ctx, (uint16_t)code, (const uint8_t *)reason, strlen(reason));
	flush(ws);
	tell_closing(ws);
}

bool
ws_is_closing(const struct ws *ws)
{
	return ws->told;
}

uint64_t
ws_heard_us(const struct ws *ws)
{
	return ws->heard_us;
}

void
ws_tick(struct ws *ws, uint64_t now_us, uint64_t patience_us)
{
	if (ws->broken || (ws->told && now_us - ws->closing_us > patience_us))
		end(ws);
}
