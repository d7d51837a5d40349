#ifndef DAEMON_WS_MESSAGE_H
#define DAEMON_WS_MESSAGE_H

/*
 * What is said on /ws/chat, as JSON.  In: {"question","session_id"?,"model"?,...}, {"type":"cancel"}.
 * Out: chunk, end, error.  Pure.
 */
#include "daemon/buf.h"
#include "daemon/chat_request.h"
#include "daemon/conn.h"
#include "daemon/emit.h"

enum ws_kind { WS_INVALID, WS_QUESTION, WS_CANCEL };

/*
 * Read a message.  WS_QUESTION: the body of a /chat/send that asks it is appended to `body`;
 * WS_INVALID: *fault says why.
 */
enum ws_kind ws_message_read(struct span text, struct buf *body, struct chat_fault *fault);

/* A piece of an answer. */
void ws_message_chunk(struct buf *, const char *text, size_t len);
/* How it ended, well or not; a failure is an error that says what it cost. */
void ws_message_end(struct buf *, const struct emit_stream *, const struct emit_end *);
/* A question that is not answered. */
void ws_message_error(struct buf *, const struct conn_refusal *);

#endif
