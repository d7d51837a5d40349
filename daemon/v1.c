/*
 * POST /v1/chat/completions: OpenAI's own contract.  A stream that opens itself as soon as its
 * reserve is durable.  Worker process.
 */
#include "daemon/api.h"
#include "daemon/begin.h"
#include "daemon/watch.h"
#include "daemon/worker.h"

static void
open_at_once(struct stream *st, struct conn *c, int64_t available)
{
	(void)available;
	if (watch_start_api(st, c) != 0) {
		conn_error(c, 503, "server_error", "overloaded", NULL, "out of memory");
		stream_cancel(st, OUTCOME_CANCELLED);
		return;
	}
	stream_run(st);
	streams_flush(st->w->streams);
}

void
openai_chat_handler(struct conn *c, const struct http_request *h, struct span body)
{
	struct worker *w = conn_arg(c);
	struct begin x = {.begun = open_at_once, .api = &api_openai};
	struct chat_fault f;

	if (chat_request_parse_v1(w->config, body, &x.request, &f) != 0)
		begin_refuse(c, &f);
	else
		begin(c, h, &x);
}
