/*
 * A session's past in front of a new message.  Worker process.
 *
 * Whole turns, a question with its answer, the newest first until one does not fit: so there is no
 * hole, and no answer to a question that is not there.  A turn without an answer is left out: nobody
 * is to pay again for what failed.  What is counted here is what the request will say, by the same
 * code that counts a client's own messages.
 */
#include "daemon/history_context.h"

#include <stdio.h>
#include <string.h>

#include "daemon/chat_tokens.h"
#include "daemon/history_text.h"
#include "daemon/journal_history.h"
#include "daemon/past.h"

/* Turns that are looked at, and that are taken. */
#define LOOK_MAX 1000
#define TURNS_MAX 256
/* What has more bytes for each token that is left is not counted: it does not fit. */
#define TOKEN_BYTES 32

struct gathering {
	struct history_view *view;
	struct chat_counter counter;
	uint32_t left; /* tokens */
	uint32_t taken;
	struct buf pieces;     /* the turns' messages, newest first, each with its comma */
	size_t end[TURNS_MAX]; /* where each ends in `pieces` */
	size_t turns;
	struct buf question, answer, scratch; /* of the turn that is looked at */
};

static int
unreadable(struct chat_fault *f)
{
	f->status = 503;
	f->code = "overloaded";
	f->param = NULL;
	(void)snprintf(f->message, sizeof f->message, "the session's past cannot be read now");
	return -1;
}

/* Nothing to say, which some providers refuse. */
static bool
blank(const struct buf *b)
{
	for (size_t i = 0; i < b->len; i++)
		if ((unsigned char)b->data[i] > ' ')
			return false;
	return true;
}

/* Append question and answer if they fit. */
static bool
take(struct gathering *g)
{
	const struct chat_counter *c = &g->counter;
	uint32_t tokens = 2 * CHAT_TOKENS_MESSAGE + chat_tokens_bytes(c, "user", 4) +
	                  chat_tokens_bytes(c, "assistant", 9);

	if (g->question.len + g->answer.len > (uint64_t)g->left * TOKEN_BYTES)
		return false;
	tokens += chat_tokens_bytes(c, g->question.data, g->question.len) +
	          chat_tokens_bytes(c, g->answer.data, g->answer.len);
	if (tokens > g->left)
		return false;
	buf_str(&g->pieces, "{\"role\":\"user\",\"content\":");
	buf_json(&g->pieces, g->question.data, g->question.len);
	buf_str(&g->pieces, "},{\"role\":\"assistant\",\"content\":");
	buf_json(&g->pieces, g->answer.data, g->answer.len);
	buf_str(&g->pieces, "},");
	g->end[g->turns++] = g->pieces.len;
	g->left -= tokens;
	g->taken += tokens;
	return true;
}

/* 1: go on with the one before it; 0: it does not fit, and none before it is wanted; -1. */
static int
look(struct gathering *g, const struct history_turn *t)
{
	struct history_said said;
	struct span json;
	size_t len;

	if (t->ended_us == 0)
		return 1;
	if (history_said(g->view, t->sequence, &json) < 0 ||
	    history_answer(g->view, t->sequence, NULL, &len) < 0)
		return -1;
	/* The JSON of a text is at most six times as long. */
	if (len > (uint64_t)g->left * TOKEN_BYTES || json.len > (uint64_t)g->left * TOKEN_BYTES * 6)
		return 0;
	g->question.len = g->answer.len = g->scratch.len = 0;
	if (history_answer(g->view, t->sequence, &g->answer, &len) < 0)
		return -1;
	/* What a client's program said in its own list (a tool's answer) makes no sense without it. */
	if (!history_said_read(json, &said) || strcmp(said.role, "user") != 0)
		return 1;
	history_said_write(&said, &g->scratch);
	if (!g->scratch.failed)
		json_decode_buf((struct json_value){JSON_STRING, g->scratch.data, g->scratch.len},
		    &g->question);
	if (g->scratch.failed || g->question.failed)
		return -1;
	return blank(&g->question) || blank(&g->answer) || take(g) ? 1 : 0;
}

static int
gather(struct gathering *g, const struct chat_request *r)
{
	struct history_session s;
	uint64_t before = UINT64_MAX;
	struct history_turn t;
	int rc = history_session_get(g->view, r->session_id, &s);

	for (int n = 0; rc > 0 && n < LOOK_MAX && g->turns < TURNS_MAX; n++) {
		rc = history_turn_before(g->view, &s, before, &t);
		if (rc > 0) {
			before = t.sequence;
			rc = look(g, &t);
		}
	}
	return rc < 0 || g->pieces.failed || g->answer.failed ? -1 : 0;
}

/* The oldest first, and the new message behind them. */
static void
put_together(const struct gathering *g, const struct chat_request *r, struct buf *b)
{
	buf_str(b, "[");
	for (size_t i = g->turns; i-- > 0;) {
		size_t from = i > 0 ? g->end[i - 1] : 0;

		buf_add(b, g->pieces.data + from, g->end[i] - from);
	}
	buf_str(b, "{\"role\":\"user\",\"content\":");
	buf_add(b, r->message.p, r->message.len);
	buf_str(b, "}]");
}

/* Tokens of the past that there is room for: an answer has as much as it was asked for, or half. */
static uint32_t
room(const struct config_model *m, const struct chat_request *r)
{
	uint32_t answer = r->max_tokens, left = UINT32_MAX;

	if (m->context > 0) {
		if (answer > m->context / 2)
			answer = m->context / 2;
		left = m->context - r->prompt_tokens;
		left = left > answer ? left - answer : 0;
	}
	return left < m->history_tokens ? left : m->history_tokens;
}

int
history_context(struct worker *w, const struct account *a, struct chat_request *r,
    struct buf *messages, struct chat_fault *f)
{
	const struct config_model *m = &w->config->model[r->model];
	struct gathering g = {.counter = chat_counter(m), .left = room(m, r)};
	struct journal_reader *journal;
	int rc;

	if (!w->config->history.enabled || !r->has_session || r->message.type != JSON_STRING ||
	    g.left == 0)
		return 0;
	journal = past_journal(w);
	if (journal == NULL || (g.view = history_view_new(journal, a->number)) == NULL)
		return unreadable(f);
	rc = gather(&g, r);
	if (rc == 0 && g.turns > 0)
		put_together(&g, r, messages);
	history_view_free(g.view);
	buf_free(&g.pieces);
	buf_free(&g.question);
	buf_free(&g.answer);
	buf_free(&g.scratch);
	if (rc < 0 || messages->failed)
		return unreadable(f);
	if (messages->len > 0)
		chat_request_put_past(w->config, r,
		    (struct json_value){JSON_ARRAY, messages->data, messages->len}, g.taken);
	return 0;
}
