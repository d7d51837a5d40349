/*
 * The table of dialects.  Pure.
 */
#include "daemon/dialect.h"

#include <string.h>

#include "daemon/messages_request.h"
#include "daemon/ollama.h"
#include "daemon/openai.h"

static void
decode_openai(struct dialect_state *state, struct span data, struct buf *scratch, struct delta *d)
{
	(void)state;
	openai_decode(data.p, data.len, scratch, d);
}

static void
decode_ollama(struct dialect_state *state, struct span data, struct buf *scratch, struct delta *d)
{
	(void)state;
	ollama_decode(data, scratch, d);
}

static void
decode_anthropic(
    struct dialect_state *state, struct span data, struct buf *scratch, struct delta *d)
{
	anthropic_decode(&state->anthropic, data, scratch, d);
}

static const struct dialect dialects[DIALECTS] = {
    [DIALECT_OPENAI] =
        {
            .name = "openai",
            .path = "/chat/completions",
            .auth = "Authorization: Bearer ",
            .accept = "text/event-stream, application/json",
            .headers = "",
            .write = openai_write,
            .limit = openai_limit,
            .framing = FRAMING_SSE,
            .decode = decode_openai,
        },
    [DIALECT_OLLAMA] =
        {
            .name = "ollama",
            .path = "/api/chat",
            .auth = "Authorization: Bearer ",
            .accept = "application/x-ndjson, application/json",
            .headers = "",
            .write = ollama_write,
            .limit = ollama_limit,
            .framing = FRAMING_NDJSON,
            .decode = decode_ollama,
        },
    [DIALECT_ANTHROPIC] =
        {
            .name = "anthropic",
            .path = "/v1/messages",
            .auth = "x-api-key: ",
            .accept = "text/event-stream, application/json",
            .headers = "anthropic-version: 2023-06-01\r\n",
            .write = anthropic_write,
            .limit = anthropic_limit,
            .framing = FRAMING_SSE,
            .decode = decode_anthropic,
        },
};

unsigned
dialect_index(enum config_dialect d)
{
	return d == DIALECT_AUTO ? DIALECT_OPENAI : (unsigned)d;
}

const struct dialect *
dialect_of(enum config_dialect d)
{
	return &dialects[dialect_index(d)];
}

bool
dialect_streams(const struct dialect *d, const char *media_type)
{
	static const char *const sse[] = {"text/event-stream", NULL};
	static const char *const ndjson[] = {"application/x-ndjson", "application/ndjson",
	    "application/jsonl", "application/json-lines", "application/x-jsonlines", NULL};

	for (const char *const *p = d->framing == FRAMING_SSE ? sse : ndjson; *p != NULL; p++)
		if (strcmp(media_type, *p) == 0)
			return true;
	return false;
}

/* What the client's own words say that this dialect's cannot. */
static const struct chat_fault *
lost_in(const struct chat_request *r, unsigned dialect)
{
	if (r->native == NULL || dialect == DIALECT_ANTHROPIC)
		return NULL;
	if (r->native->lost.param != NULL)
		return &r->native->lost;
	return dialect == DIALECT_OPENAI && r->native->lost_openai.param != NULL
	           ? &r->native->lost_openai
	           : NULL;
}

int
dialect_write_all(const struct config *cfg, const struct chat_request *r,
    struct buf request[static DIALECTS], struct chat_fault *f)
{
	const struct config_model *m = &cfg->model[r->model];
	struct chat_fault unused;

	for (int i = 0; i < m->provider_count; i++) {
		enum config_dialect d = cfg->provider[m->providers[i]].dialect;
		struct buf *b = &request[dialect_index(d)];

		const struct chat_fault *lost = lost_in(r, dialect_index(d));

		if (b->len > 0 || (lost != NULL && i > 0))
			continue;
		if (lost != NULL) {
			*f = *lost;
			return -1;
		}
		if (dialect_of(d)->write(cfg, r, b, i == 0 ? f : &unused) == 0 && !b->failed)
			continue;
		if (i == 0 && b->failed)
			*f = (struct chat_fault){
			    .status = 503, .code = "overloaded", .message = "out of memory"};
		buf_free(b);
		if (i == 0)
			return -1;
	}
	return 0;
}

void
dialect_limit_all(
    struct buf request[static DIALECTS], bool max_completion_tokens, uint32_t max_tokens)
{
	for (int i = 0; i < DIALECTS; i++)
		if (request[i].len > 0)
			dialects[i].limit(&request[i], max_completion_tokens, max_tokens);
}
