/*
 * POST /chat/send: may it start?  Charges nothing, streams nothing.  Worker process.
 */
#include "daemon/begin.h"
#include "daemon/repeat.h"
#include "daemon/turn.h"
#include "daemon/worker.h"

static void
answer(struct stream *st, struct conn *c, int64_t available)
{
	repeat_write(c, &(struct send_answer){.stream_id = st->id_text,
	                    .session_id = st->session_text,
	                    .message_id = st->message_text,
	                    .reserved = st->reserved,
	                    .available = available,
	                    .expires_s = stream_expires_s(st)});
}

static bool
send_turn(struct conn *c, const struct http_request *h, struct span body,
    const struct journal_keyed *keyed)
{
	struct begin x = {.begun = answer, .keyed = keyed};

	return begin_chat(c, h, body, &x);
}

void
send_handler(struct conn *c, const struct http_request *h, struct span body)
{
	turn_request(c, h, body, "/chat/send", send_turn);
}
