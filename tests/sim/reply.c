/*
 * Renders answers: heads, a stream's events in their order or a plain body, and every way of being
 * wrong that a script can ask for.  What an event looks like is its dialect's (speech.h).
 *
 * The hot path is content_event(): two copies of text that was rendered when the answer began,
 * and between them pieces that were escaped when the process began.
 */
#include "reply.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "speech.h"

#define GIANT_BYTES (3u << 20)
#define LITERAL_PIECE_MAX 32

static const struct speech *
speech_of(enum speak dialect)
{
	return dialect == SPEAK_OLLAMA      ? &speech_ollama
	       : dialect == SPEAK_ANTHROPIC ? &speech_anthropic
	                                    : &speech_openai;
}

const char reply_error_message[] = "The server had an error while processing your request. "
                                   "Sorry about that!";

struct counts
reply_counts(const struct reply *r)
{
	const struct script *sc = &r->sc;
	struct counts n = {.prompt = r->prompt,
	    .cached = sc->cached,
	    .completion = r->sent * (int64_t)r->choices + r->hidden,
	    .hidden = r->hidden,
	    .huge = sc->usage == USAGE_HUGE};

	switch (sc->usage) {
	case USAGE_ZERO:
		n = (struct counts){0};
		break;
	case USAGE_OVER:
		n.completion += sc->usage_n;
		break;
	case USAGE_UNDER:
		n.completion -= sc->usage_n < n.completion ? sc->usage_n : n.completion;
		break;
	case USAGE_NEG:
		n.completion = -n.completion - 1;
		break;
	default:
		break;
	}
	return n;
}

int
reply_escape(char *text, size_t size, const char *message)
{
	size_t len = strlen(message);

	return (int)words_escape(text, message, len < size / 6 ? len : size / 6);
}

static size_t
number_put(char *dst, uint64_t n)
{
	char tmp[24], *p = tmp + sizeof(tmp);
	size_t len;

	do
		*--p = (char)('0' + n % 10);
	while ((n /= 10) != 0);
	len = (size_t)(tmp + sizeof(tmp) - p);
	memcpy(dst, p, len);
	return len;
}

/* The next piece's text; how many tokens it is, of at most `room`.  0: more than there is room. */
static inline int64_t
token_put(struct reply *r, struct buf *b, int64_t room)
{
	const struct piece *piece;

	if (r->sc.stamp) {
		b->len += number_put(b->p + b->len, clock_ns());
		b->p[b->len++] = ' ';
		return 1;
	}
	if (r->pieces->n == 0)
		return 1;
	piece = &r->pieces->v[r->piece_at];
	if (piece->tokens > room)
		return 0;
	buf_put_there(b, piece->text, piece->len);
	if (++r->piece_at == r->pieces->n)
		r->piece_at = 0;
	return piece->tokens;
}

void
reply_text(struct reply *r, struct buf *b)
{
	while (r->sent < r->visible) {
		int64_t n;

		buf_need(b, r->pieces->len_max + 32);
		n = token_put(r, b, r->visible - r->sent);
		r->sent += n;
		if (n == 0)
			r->visible = r->sent;
	}
	if (r->sc.fault == FAULT_BADUTF8)
		buf_put(b, " \xff\xfe\xc0\x80", 5);
	if (r->sc.fault == FAULT_HALFUTF8)
		buf_put(b, " \xf0\x9f\x98", 4);
}

static void
choice_event(struct reply *r, struct buf *b, int64_t tokens)
{
	chunk_begin(r, b);
	buf_need(b, r->event_max);
	buf_put_there(b, r->head, r->head_len);
	for (int64_t i = 0; i < tokens && r->sent < r->visible; i++) {
		int64_t n = token_put(r, b, r->visible - r->sent);

		r->sent += n;
		/* A character of several tokens, of which not all may come: none does. */
		if (n == 0)
			r->visible = r->sent;
	}
	buf_put_there(b, r->tail, r->tail_len);
	event_end(r, b);
}

/* With n > 1 every choice says the same, one after the other. */
static void
content_event(struct reply *r, struct buf *b, int64_t tokens)
{
	int64_t sent = r->sent;
	size_t piece_at = r->piece_at;

	if (r->sc.comments)
		r->speech->comment(r, b);
	choice_event(r, b, tokens);
	for (unsigned i = 1; i < r->choices; i++) {
		r->sent = sent;
		r->piece_at = piece_at;
		r->head[r->index_at] = (char)('0' + i);
		choice_event(r, b, tokens);
		r->head[r->index_at] = '0';
	}
}

/* A content event whose text is none of the answer's and is not counted as a token. */
static void
odd_event(struct reply *r, struct buf *b, const char *text, size_t len)
{
	chunk_begin(r, b);
	buf_put(b, r->head, r->head_len);
	buf_put(b, text, len);
	buf_put(b, r->tail, r->tail_len);
	event_end(r, b);
}

static void
giant_event(struct reply *r, struct buf *b)
{
	chunk_begin(r, b);
	buf_need(b, GIANT_BYTES + 1024);
	buf_put_there(b, r->head, r->head_len);
	memset(b->p + b->len, 'a', GIANT_BYTES);
	b->len += GIANT_BYTES;
	buf_put_there(b, r->tail, r->tail_len);
	event_end(r, b);
}

static bool
fault_due(const struct reply *r)
{
	if (r->sc.fault == FAULT_NONE || r->faulted)
		return false;
	return r->sc.fault_at <= r->sent || r->sent >= r->visible;
}

/* The fault's own bytes; says how the stream goes on (REPLY_MORE: as if nothing had been). */
static enum reply_next
fault_fill(struct reply *r, struct buf *b)
{
	switch (r->sc.fault) {
	case FAULT_NODONE: /* these three belong to the end, see finish_fill() */
	case FAULT_NOFINISH:
	case FAULT_DUPDONE:
	case FAULT_NONE:
		return REPLY_MORE;
	case FAULT_CUT:
		r->phase = PHASE_OVER;
		return REPLY_CUT;
	case FAULT_RESET:
		r->phase = PHASE_OVER;
		return REPLY_RESET;
	case FAULT_STALL:
		r->phase = PHASE_OVER;
		return REPLY_STALL;
	case FAULT_GARBAGE:
		r->speech->garbage(r, b);
		return REPLY_MORE;
	case FAULT_BADUTF8:
		odd_event(r, b, " \xff\xfe\xc0\x80", 5);
		return REPLY_MORE;
	case FAULT_HALFUTF8:
		odd_event(r, b, " \xf0\x9f\x98", 4);
		r->phase = PHASE_FINISH;
		return REPLY_MORE;
	case FAULT_GIANT:
		giant_event(r, b);
		return REPLY_MORE;
	case FAULT_ERROR:
	case FAULT_ERRORDONE:
		r->speech->error(r, b);
		if (r->sc.fault == FAULT_ERRORDONE)
			r->speech->mark(r, b);
		chunk_end(r, b);
		if (r->chunked)
			buf_put(b, "0\r\n\r\n", 5);
		r->phase = PHASE_OVER;
		return REPLY_FAULT;
	}
	return REPLY_MORE;
}

static enum reply_next
tokens_fill(struct reply *r, struct buf *b, size_t goal)
{
	const struct script *sc = &r->sc;

	for (;;) {
		if (fault_due(r)) {
			enum reply_next next;

			r->faulted = true;
			next = fault_fill(r, b);
			if (next != REPLY_MORE || r->phase != PHASE_TOKENS)
				return next;
			continue;
		}
		if (r->sent >= r->visible) {
			r->phase = PHASE_FINISH;
			return REPLY_MORE;
		}
		if (r->token_ns > 0 || (r->sent == 0 && sc->first_ms > 0)) {
			/* Against the schedule, not the last sending: lateness must not add up. */
			r->due_ns = r->first_due_ns + (uint64_t)((double)r->sent * r->token_ns);
			if (clock_ns() < r->due_ns) {
				chunk_end(r, b);
				return REPLY_WAIT;
			}
		}
		for (int64_t i = 0; i < sc->pack && r->sent < r->visible && !fault_due(r); i++) {
			int64_t n = sc->batch;

			if (n > r->visible - r->sent)
				n = r->visible - r->sent;
			if (sc->fault != FAULT_NONE && !r->faulted && n > sc->fault_at - r->sent)
				n = sc->fault_at - r->sent;
			content_event(r, b, n);
		}
		if (b->len >= goal && !r->chunk_open)
			return REPLY_MORE;
	}
}

static enum reply_next
finish_fill(struct reply *r, struct buf *b)
{
	enum fault fault = r->sc.fault;

	r->speech->finish(r, b, fault != FAULT_NOFINISH);
	if (fault != FAULT_NODONE)
		r->speech->mark(r, b);
	if (fault == FAULT_DUPDONE)
		r->speech->mark(r, b);
	chunk_end(r, b);
	if (r->chunked)
		buf_put(b, "0\r\n\r\n", 5);
	r->phase = PHASE_OVER;
	if (r->sc.badlen)
		return REPLY_CUT;
	return fault != FAULT_NONE ? REPLY_FAULT : REPLY_END;
}

static enum reply_next
body_fill(struct reply *r, struct buf *b)
{
	enum fault fault = r->sc.fault;
	bool half = fault == FAULT_CUT || fault == FAULT_RESET || fault == FAULT_STALL;

	buf_put(b, r->body.p, half ? r->body.len / 2 : r->body.len);
	r->phase = PHASE_OVER;
	if (fault == FAULT_RESET)
		return REPLY_RESET;
	if (fault == FAULT_STALL)
		return REPLY_STALL;
	if (half || r->sc.badlen)
		return REPLY_CUT;
	return fault != FAULT_NONE ? REPLY_FAULT : REPLY_END;
}

enum reply_next
reply_fill(struct reply *r, struct buf *b, size_t goal)
{
	enum reply_next next = REPLY_MORE;

	while (next == REPLY_MORE && b->len < goal) {
		switch (r->phase) {
		case PHASE_DELAY:
			if (clock_ns() < r->due_ns)
				return REPLY_WAIT;
			r->phase = PHASE_HEADER;
			break;
		case PHASE_HEADER:
			status_line_put(r, b);
			r->phase = PHASE_HEADER_REST;
			if (r->sc.slowhdr_ms == 0)
				break;
			r->due_ns = clock_ns() + (uint64_t)r->sc.slowhdr_ms * 1000000u;
			return REPLY_WAIT;
		case PHASE_HEADER_REST:
			header_rest_put(r, b);
			r->phase = r->stream ? PHASE_ROLE : PHASE_BODY;
			break;
		case PHASE_ROLE:
			if (r->sc.role)
				r->speech->first(r, b);
			r->first_due_ns = clock_ns() + (uint64_t)r->sc.first_ms * 1000000u;
			r->phase = PHASE_TOKENS;
			break;
		case PHASE_TOKENS:
			next = tokens_fill(r, b, goal);
			break;
		case PHASE_FINISH:
			next = finish_fill(r, b);
			break;
		case PHASE_BODY:
			next = body_fill(r, b);
			break;
		case PHASE_OVER:
			return REPLY_END;
		}
	}
	return next;
}

void
reply_plain(struct reply *r, const struct request *rq, int status, const char *content_type)
{
	*r = (struct reply){.phase = PHASE_HEADER,
	    .choices = 1,
	    .status = status,
	    .content_type = content_type,
	    .retry_after = -1,
	    .keepalive = rq->keepalive};
}

void
reply_error(struct reply *r, const struct request *rq, int status, const char *code,
    const char *param, const char *message)
{
	reply_plain(r, rq, status, "application/json");
	speech_of(rq->dialect)->refusal(&r->body, status, code, param, message);
}

/* The replies that are no answer at all: status=, html=, json200=, empty=.  True if it was one. */
static bool
refusal(struct reply *r)
{
	const struct script *sc = &r->sc;
	const char *code = sc->status == 429   ? "rate_limit_exceeded"
	                   : sc->status == 401 ? "invalid_api_key"
	                                       : NULL;

	r->status = sc->status != 0 ? (int)sc->status : 200;
	if (sc->html) {
		r->status = sc->status != 0 ? (int)sc->status : 502;
		r->content_type = "text/html";
		buf_printf(&r->body, "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n"
		                     "<body>\r\n<center><h1>502 Bad Gateway</h1></center>\r\n"
		                     "<hr><center>cloudflare</center>\r\n</body>\r\n</html>\r\n");
	} else if (sc->json200) {
		r->content_type = "application/json";
		r->speech->refusal(
		    &r->body, 500, NULL, NULL, "The server is overloaded (json200).");
	} else if (sc->empty) {
		r->content_type = r->stream ? r->speech->stream_type : "application/json";
	} else if (sc->status != 0) {
		r->content_type = "application/json";
		r->speech->refusal(
		    &r->body, r->status, code, NULL, "The script asked for this status.");
	} else
		return false;
	r->stream = false;
	return true;
}

/* How many tokens are shown and how many only reported, under the request's limit. */
static void
tokens_plan(struct reply *r, const struct chat *ch, const char *body, size_t body_len)
{
	const struct script *sc = &r->sc;
	int64_t want = sc->tokens >= 0 ? sc->tokens : 100;

	r->pieces =
	    sc->exact != EXACT_NONE ? words_exact(sc->lang, sc->exact) : words_lang(sc->lang);
	if (sc->echo || sc->text != NULL) {
		if (sc->echo)
			words_cut(&r->literal, body, body_len, LITERAL_PIECE_MAX);
		else
			words_cut(&r->literal, sc->text, sc->text_len, LITERAL_PIECE_MAX);
		r->pieces = &r->literal;
		if (sc->tokens < 0 || want > (int64_t)r->literal.n)
			want = (int64_t)r->literal.n;
	}
	r->visible = want;
	r->hidden = sc->reason;
	if (ch->max_tokens >= 0 && r->hidden + r->visible > ch->max_tokens) {
		r->length_finish = true;
		if (r->hidden > ch->max_tokens)
			r->hidden = ch->max_tokens;
		r->visible = ch->max_tokens - r->hidden;
	}
	r->prompt = sc->prompt >= 0 ? sc->prompt : (ch->prompt_bytes + 3) / 4;
}

#define TOOL_ARGUMENTS "{\"city\":\"Paris\",\"days\":3}"

/* Who calls a function has arguments for it. */
static void
tool_plan(struct script *sc)
{
	if (sc->tool == NULL || sc->text != NULL)
		return;
	sc->text = strdup(TOOL_ARGUMENTS);
	sc->text_len = sizeof(TOOL_ARGUMENTS) - 1;
	if (sc->text == NULL)
		abort();
}

void
reply_chat(struct reply *r, struct script *sc, const struct chat *ch, const struct request *rq,
    const char *body, size_t body_len, uint64_t id, uint64_t now_ns)
{
	double delay_ms = (double)sc->delay_ms;

	*r = (struct reply){.phase = PHASE_HEADER,
	    .sc = *sc,
	    .stream = ch->stream,
	    .keepalive = rq->keepalive,
	    .retry_after = sc->retry_after,
	    .id = id,
	    .speech = speech_of(rq->dialect),
	    .chunk_digits = 3};
	*sc = (struct script){0};
	sc = &r->sc;
	tool_plan(&r->sc);
	r->choices = ch->choices;
	r->logprobs = ch->logprobs;
	r->created = (long)time(NULL);
	r->eol = sc->crlf ? "\r\n" : "\n";
	r->event_eol = rq->dialect == SPEAK_OLLAMA ? r->eol : sc->crlf ? "\r\n\r\n" : "\n\n";
	tokens_plan(r, ch, body, body_len);
	r->token_ns = sc->rate > 0 ? 1e9 / sc->rate : 0;
	r->show_usage = sc->usage == USAGE_ASKED ? ch->include_usage : sc->usage != USAGE_NO;
	r->usage_null = sc->usage == USAGE_NULL;
	if (sc->close || sc->badlen)
		r->keepalive = false;
	if (refusal(r)) {
		/* Only the delay before it and the length in front of it are left of the script. */
		sc->fault = FAULT_NONE;
	} else if (r->stream) {
		r->content_type = r->speech->stream_type;
		r->chunked = !sc->close && !sc->badlen && !rq->http10;
		r->keepalive = r->keepalive && r->chunked;
	} else {
		r->content_type = "application/json";
		if (sc->fault == FAULT_ERROR || sc->fault == FAULT_ERRORDONE) {
			r->status = 500;
			r->speech->refusal(
			    &r->body, 500, NULL, NULL, "The script asked for this error.");
		} else if (sc->fault == FAULT_GARBAGE)
			buf_printf(&r->body, "<<< this is not JSON >>>\n");
		else
			r->speech->whole(r);
		delay_ms += (double)sc->first_ms + (double)r->visible * r->token_ns / 1e6;
	}
	if (delay_ms > 0) {
		r->phase = PHASE_DELAY;
		r->due_ns = now_ns + (uint64_t)(delay_ms * 1e6);
	}
	r->speech->prepare(r);
	r->event_max = r->head_len + r->tail_len + 64 +
	               (size_t)sc->batch * (r->pieces->len_max > 24 ? r->pieces->len_max : 24);
}

void
reply_count(struct reply *r, const struct chat *ch, const struct request *rq)
{
	reply_plain(r, rq, 200, "application/json");
	buf_printf(&r->body, "{\"input_tokens\":%lld}\n", (long long)((ch->prompt_bytes + 3) / 4));
}

/* Numbers that say which of a vector's they are: 0.5, 0.25 and so on, exact in 32 bits. */
static void
vector_put(struct buf *b, const struct embed *e)
{
	static const char digit[] =
	    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	unsigned bits = 0, have = 0, chars = 0;

	buf_printf(b, e->base64 ? "\"" : "[");
	for (int64_t i = 0; i < e->dimensions; i++) {
		float f = 1.0f / (float)(2u << (i % 8));
		unsigned char raw[sizeof f];

		if (!e->base64) {
			buf_printf(b, "%s%.9g", i > 0 ? "," : "", (double)f);
			continue;
		}
		memcpy(raw, &f, sizeof raw);
		for (size_t k = 0; k < sizeof raw; k++) {
			bits = bits << 8 | raw[k];
			for (have += 8; have >= 6; have -= 6, chars++)
				buf_put(b, &digit[bits >> (have - 6) & 63], 1);
		}
	}
	if (have > 0) {
		buf_put(b, &digit[bits << (6 - have) & 63], 1);
		chars++;
	}
	for (; e->base64 && chars % 4 != 0; chars++)
		buf_put(b, "=", 1);
	buf_printf(b, e->base64 ? "\"" : "]");
}

void
reply_embeddings(
    struct reply *r, const struct script *sc, const struct embed *e, const struct request *rq)
{
	long long n = (long long)(sc->prompt >= 0 ? sc->prompt : e->prompt_tokens);
	struct buf *b = &r->body;

	reply_plain(r, rq, 200, "application/json");
	buf_printf(b, "{\"object\":\"list\",\"data\":[");
	for (size_t i = 0; i < e->inputs; i++) {
		buf_printf(b,
		    "%s{\"object\":\"embedding\",\"index\":%zu,\"embedding\":", i > 0 ? "," : "",
		    i);
		vector_put(b, e);
		buf_printf(b, "}");
	}
	buf_printf(b, "],\"model\":\"sim\"");
	if (sc->usage != USAGE_NO)
		buf_printf(b, ",\"usage\":{\"prompt_tokens\":%lld,\"total_tokens\":%lld}", n, n);
	buf_printf(b, "}\n");
	if (sc->status != 0) {
		r->status = (int)sc->status;
		r->retry_after = sc->retry_after;
		b->len = 0;
		speech_openai.refusal(
		    b, r->status, NULL, NULL, "The script asked for this status.");
	}
	if (sc->delay_ms > 0) {
		r->phase = PHASE_DELAY;
		r->due_ns = clock_ns() + (uint64_t)sc->delay_ms * 1000000u;
	}
}

void
reply_fini(struct reply *r)
{
	script_free(&r->sc);
	if (r->literal.v != NULL)
		words_free(&r->literal);
	free(r->body.p);
	r->body = (struct buf){0};
}
