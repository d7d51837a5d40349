/*
 * Letters from the admin process (shm/mail.h).  Worker process.
 *
 * It comes by the same eventfd as the keeper's wake-ups, and is looked for after the "asleep"
 * flag was set again, so none is slept over.
 */
#include "daemon/mailbox.h"

#include <string.h>

#include "daemon/log.h"
#include "daemon/stream.h"
#include "shm/mail.h"

/* Model: letter() in tests/model/mail.pml. */
void
mailbox_poll(struct worker *w)
{
	struct mail m;

	while (mail_take(w->region, w->proc, &m)) {
		struct stream_id id = {.proc = (uint8_t)w->proc, .generation = m.generation};
		struct stream *st;

		memcpy(id.secret, m.stream_id, sizeof id.secret);
		/* Not found: it was for our predecessor, or the stream ended meanwhile. */
		if (m.generation != w->generation || (st = stream_find(w->streams, &id)) == NULL)
			continue;
		log_event(LOG_INFO, m.verb == MAIL_VOID ? "voided by the operator"
							: "cancelled by the operator",
		    "message", st->message_text, NULL);
		if (m.verb == MAIL_VOID)
			stream_void(st);
		else
			stream_cancel(st, OUTCOME_CANCELLED);
	}
	streams_flush(w->streams);
}
