/*
 * Renders answers: heads, OpenAI's stream events or a plain body, the HTTP chunks around them,
 * and every way of being wrong that a script can ask for.
 *
 * The hot path is content_event(): two copies of text that was rendered when the answer began,
 * and between them pieces that were escaped when the process began.
 */
#include "reply.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define GIANT_BYTES (3u << 20)
#define LITERAL_PIECE_MAX 32
/* What badlen=1 announces in front of a stream, whose length nobody knows beforehand. */
#define BADLEN_STREAM (1u << 30)

uint64_t
clock_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

void
buf_need(struct buf *b, size_t more)
{
	size_t cap = b->cap;

	if (b->cap - b->len >= more)
		return;
	while (cap - b->len < more)
		cap = cap < 512 ? 512 : cap * 2;
	b->p = realloc(b->p, cap);
	if (b->p == NULL) {
		perror("tolld-sim");
		exit(1);
	}
	b->cap = cap;
}

/* For a buffer that buf_need() has made large enough. */
static inline void
put(struct buf *b, const char *s, size_t len)
{
	memcpy(b->p + b->len, s, len);
	b->len += len;
}

void
buf_put(struct buf *b, const char *s, size_t len)
{
	if (len == 0)
		return;
	buf_need(b, len);
	put(b, s, len);
}

void
buf_printf(struct buf *b, const char *fmt, ...)
{
	va_list ap;
	int n;

	buf_need(b, 256);
	va_start(ap, fmt);
	n = vsnprintf(b->p + b->len, b->cap - b->len, fmt, ap);
	va_end(ap);
	if (n > 0 && (size_t)n >= b->cap - b->len) {
		buf_need(b, (size_t)n + 1);
		va_start(ap, fmt);
		n = vsnprintf(b->p + b->len, b->cap - b->len, fmt, ap);
		va_end(ap);
	}
	b->len += n > 0 ? (size_t)n : 0;
}

/*
 * An HTTP chunk's size stands before its data.  Room for as many digits as the last chunk had is
 * left open; a wrong guess costs a memmove.
 */
static void
chunk_begin(struct reply *r, struct buf *b)
{
	if (r->chunk_open)
		return;
	r->chunk_open = true;
	r->chunk_events = 0;
	r->chunk_at = b->len;
	if (r->chunked) {
		buf_need(b, r->chunk_digits + 2);
		b->len += r->chunk_digits + 2;
	}
}

static void
chunk_end(struct reply *r, struct buf *b)
{
	static const char hex[] = "0123456789abcdef";
	size_t data_at = r->chunk_at + r->chunk_digits + 2, len;
	unsigned digits = 1;
	char *p;

	if (!r->chunk_open)
		return;
	r->chunk_open = false;
	if (!r->chunked)
		return;
	len = b->len - data_at;
	for (size_t rest = len >> 4; rest != 0; rest >>= 4)
		digits++;
	buf_need(b, digits + 4);
	if (digits != r->chunk_digits) {
		memmove(b->p + r->chunk_at + digits + 2, b->p + data_at, len);
		b->len = r->chunk_at + digits + 2 + len;
		r->chunk_digits = digits;
	}
	p = b->p + r->chunk_at + digits;
	p[0] = '\r';
	p[1] = '\n';
	for (size_t rest = len; digits-- > 0; rest >>= 4)
		*--p = hex[rest & 15];
	put(b, "\r\n", 2);
}

static void
event_end(struct reply *r, struct buf *b)
{
	if (++r->chunk_events >= r->sc.pack)
		chunk_end(r, b);
}

/* One line as an event of its own. */
static void
line_event(struct reply *r, struct buf *b, const char *line)
{
	chunk_begin(r, b);
	buf_printf(b, "%s%s", line, r->sc.crlf ? "\r\n\r\n" : "\n\n");
	event_end(r, b);
}

static void
usage_put(const struct reply *r, struct buf *b)
{
	const struct script *sc = &r->sc;
	int64_t prompt = r->prompt, completion = r->sent + r->hidden, cached = sc->cached;
	int64_t hidden = r->hidden;

	switch (sc->usage) {
	case USAGE_ZERO:
		prompt = completion = cached = hidden = 0;
		break;
	case USAGE_OVER:
		completion += sc->usage_n;
		break;
	case USAGE_UNDER:
		completion -= sc->usage_n < completion ? sc->usage_n : completion;
		break;
	case USAGE_NEG:
		completion = -completion - 1;
		break;
	default:
		break;
	}
	buf_printf(b, "{\"prompt_tokens\":%lld,", (long long)prompt);
	if (sc->usage == USAGE_HUGE)
		buf_printf(b, "\"completion_tokens\":99999999999999999999,"
		              "\"total_tokens\":99999999999999999999,");
	else
		buf_printf(b, "\"completion_tokens\":%lld,\"total_tokens\":%lld,",
		    (long long)completion, (long long)(prompt + completion));
	buf_printf(b,
	    "\"prompt_tokens_details\":{\"cached_tokens\":%lld,\"audio_tokens\":0},"
	    "\"completion_tokens_details\":{\"reasoning_tokens\":%lld,"
	    "\"audio_tokens\":0}}",
	    (long long)cached, (long long)hidden);
}

static const char *
usage_null_text(const struct reply *r)
{
	return r->usage_null ? ",\"usage\":null" : "";
}

static const char *
eol_text(const struct reply *r)
{
	return r->sc.crlf ? "\r\n\r\n" : "\n\n";
}

static void
role_event(struct reply *r, struct buf *b)
{
	chunk_begin(r, b);
	buf_put(b, r->head, r->head_len);
	buf_printf(b,
	    "\"role\":\"assistant\",\"content\":\"\",\"refusal\":null},"
	    "\"logprobs\":null,\"finish_reason\":null}]%s}%s",
	    usage_null_text(r), eol_text(r));
	event_end(r, b);
}

static void
finish_event(struct reply *r, struct buf *b)
{
	chunk_begin(r, b);
	buf_put(b, r->head, r->head_len);
	buf_printf(b, "},\"logprobs\":null,\"finish_reason\":\"%s\"}]",
	    r->length_finish ? "length" : "stop");
	if (r->show_usage && r->sc.usage == USAGE_FINISH) {
		buf_printf(b, ",\"usage\":");
		usage_put(r, b);
	} else
		buf_printf(b, "%s", usage_null_text(r));
	buf_printf(b, "}%s", eol_text(r));
	event_end(r, b);
}

static void
usage_event(struct reply *r, struct buf *b)
{
	size_t n = r->head_len - strlen("{\"index\":0,\"delta\":{");

	chunk_begin(r, b);
	buf_put(b, r->head, n);
	buf_printf(b, "],\"usage\":");
	usage_put(r, b);
	buf_printf(b, "}%s", eol_text(r));
	event_end(r, b);
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

/* The next token's text. */
static inline void
token_put(struct reply *r, struct buf *b)
{
	if (r->sc.stamp) {
		b->len += number_put(b->p + b->len, clock_ns());
		b->p[b->len++] = ' ';
		return;
	}
	if (r->pieces->n != 0) {
		const struct piece *piece = &r->pieces->v[r->piece_at];

		put(b, piece->text, piece->len);
		if (++r->piece_at == r->pieces->n)
			r->piece_at = 0;
	}
}

static void
content_event(struct reply *r, struct buf *b, int64_t tokens)
{
	if (r->sc.comments)
		line_event(r, b, ": ping");
	chunk_begin(r, b);
	buf_need(b, r->event_max);
	put(b, r->head, r->head_len);
	put(b, "\"content\":\"", 11);
	for (int64_t i = 0; i < tokens; i++)
		token_put(r, b);
	put(b, r->tail, r->tail_len);
	r->sent += tokens;
	event_end(r, b);
}

/* A content event whose text is none of the answer's and is not counted as a token. */
static void
odd_event(struct reply *r, struct buf *b, const char *text, size_t len)
{
	chunk_begin(r, b);
	buf_put(b, r->head, r->head_len);
	buf_put(b, "\"content\":\"", 11);
	buf_put(b, text, len);
	buf_put(b, r->tail, r->tail_len);
	event_end(r, b);
}

static void
giant_event(struct reply *r, struct buf *b)
{
	chunk_begin(r, b);
	buf_need(b, GIANT_BYTES + 1024);
	put(b, r->head, r->head_len);
	put(b, "\"content\":\"", 11);
	memset(b->p + b->len, 'a', GIANT_BYTES);
	b->len += GIANT_BYTES;
	put(b, r->tail, r->tail_len);
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
	static const char error_line[] =
	    "data: {\"error\":{\"message\":\"The server had an error while processing your "
	    "request. "
	    "Sorry about that!\",\"type\":\"server_error\",\"param\":null,\"code\":null}}";

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
		line_event(r, b, "data: <<< this is not JSON >>> {\"choices\":[{]");
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
		line_event(r, b, error_line);
		if (r->sc.fault == FAULT_ERRORDONE)
			line_event(r, b, "data: [DONE]");
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

	if (fault != FAULT_NOFINISH)
		finish_event(r, b);
	if (r->show_usage && r->sc.usage != USAGE_FINISH)
		usage_event(r, b);
	if (fault != FAULT_NODONE)
		line_event(r, b, "data: [DONE]");
	if (fault == FAULT_DUPDONE)
		line_event(r, b, "data: [DONE]");
	chunk_end(r, b);
	if (r->chunked)
		buf_put(b, "0\r\n\r\n", 5);
	r->phase = PHASE_OVER;
	if (r->sc.badlen)
		return REPLY_CUT;
	return fault != FAULT_NONE ? REPLY_FAULT : REPLY_END;
}

static const char *
status_text(int status)
{
	switch (status) {
	case 200:
		return "OK";
	case 400:
		return "Bad Request";
	case 401:
		return "Unauthorized";
	case 403:
		return "Forbidden";
	case 404:
		return "Not Found";
	case 405:
		return "Method Not Allowed";
	case 413:
		return "Payload Too Large";
	case 429:
		return "Too Many Requests";
	case 431:
		return "Request Header Fields Too Large";
	case 500:
		return "Internal Server Error";
	case 502:
		return "Bad Gateway";
	case 503:
		return "Service Unavailable";
	case 504:
		return "Gateway Timeout";
	default:
		return "Other";
	}
}

static void
status_line_put(const struct reply *r, struct buf *b)
{
	buf_printf(b, "HTTP/1.1 %d %s\r\n", r->status, status_text(r->status));
}

static void
header_rest_put(const struct reply *r, struct buf *b)
{
	buf_printf(b, "Content-Type: %s\r\nx-request-id: req_%08llx\r\n", r->content_type,
	    (unsigned long long)r->id);
	if (r->stream)
		buf_printf(b, "Cache-Control: no-cache\r\n");
	if (r->retry_after >= 0)
		buf_printf(b, "Retry-After: %lld\r\n", (long long)r->retry_after);
	if (r->chunked)
		buf_printf(b, "Transfer-Encoding: chunked\r\n");
	else if (r->sc.badlen)
		buf_printf(
		    b, "Content-Length: %zu\r\n", r->stream ? BADLEN_STREAM : r->body.len + 100);
	else if (!r->stream && !r->sc.close)
		buf_printf(b, "Content-Length: %zu\r\n", r->body.len);
	buf_printf(b, "Connection: %s\r\n\r\n", r->keepalive ? "keep-alive" : "close");
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
				role_event(r, b);
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

static void
error_body(struct buf *b, int status, const char *code, const char *param, const char *message)
{
	const char *type = status == 429   ? "requests"
	                   : status >= 500 ? "server_error"
	                                   : "invalid_request_error";
	char text[1024];
	size_t len = strlen(message);

	len = words_escape(text, message, len < sizeof(text) / 6 ? len : sizeof(text) / 6);
	buf_printf(
	    b, "{\"error\":{\"message\":\"%.*s\",\"type\":\"%s\",\"param\":", (int)len, text, type);
	buf_printf(
	    b, param != NULL ? "\"%s\",\"code\":" : "%s,\"code\":", param != NULL ? param : "null");
	buf_printf(b, code != NULL ? "\"%s\"}}\n" : "%s}}\n", code != NULL ? code : "null");
}

void
reply_plain(struct reply *r, const struct request *rq, int status, const char *content_type)
{
	*r = (struct reply){.phase = PHASE_HEADER,
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
	error_body(&r->body, status, code, param, message);
}

/* The answer's text as one JSON body. */
static void
whole_body(struct reply *r)
{
	struct buf *b = &r->body;

	if (r->sc.fault == FAULT_GARBAGE) {
		buf_printf(b, "<<< this is not JSON >>>\n");
		return;
	}
	buf_printf(b,
	    "{\"id\":\"chatcmpl-sim%08llx\",\"object\":\"chat.completion\",\"created\":%ld,"
	    "\"model\":\"sim\",\"system_fingerprint\":\"fp_sim\",\"choices\":[{\"index\":0,"
	    "\"message\":{\"role\":\"assistant\",\"content\":\"",
	    (unsigned long long)r->id, r->created);
	for (; r->sent < r->visible; r->sent++) {
		buf_need(b, r->pieces->len_max + 32);
		token_put(r, b);
	}
	if (r->sc.fault == FAULT_BADUTF8)
		buf_put(b, " \xff\xfe\xc0\x80", 5);
	if (r->sc.fault == FAULT_HALFUTF8)
		buf_put(b, " \xf0\x9f\x98", 4);
	buf_printf(b, "\",\"refusal\":null},\"logprobs\":null");
	if (r->sc.fault != FAULT_NOFINISH)
		buf_printf(b, ",\"finish_reason\":\"%s\"", r->length_finish ? "length" : "stop");
	buf_printf(b, "}]");
	if (r->sc.usage != USAGE_NO) {
		buf_printf(b, ",\"usage\":");
		usage_put(r, b);
	}
	buf_printf(b, "}\n");
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
		error_body(&r->body, 500, NULL, NULL, "The server is overloaded (json200).");
	} else if (sc->empty) {
		r->content_type = r->stream ? "text/event-stream" : "application/json";
	} else if (sc->status != 0) {
		r->content_type = "application/json";
		error_body(&r->body, r->status, code, NULL, "The script asked for this status.");
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

	r->pieces = words_lang(sc->lang);
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

void
reply_chat(struct reply *r, struct script *sc, const struct chat *ch, const struct request *rq,
    const char *body, size_t body_len, uint64_t id, uint64_t now_ns)
{
	double delay_ms = (double)sc->delay_ms;
	int n;

	*r = (struct reply){.phase = PHASE_HEADER,
	    .sc = *sc,
	    .stream = ch->stream,
	    .keepalive = rq->keepalive,
	    .retry_after = sc->retry_after,
	    .id = id,
	    .chunk_digits = 3};
	*sc = (struct script){0};
	sc = &r->sc;
	r->created = (long)time(NULL);
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
		r->content_type = "text/event-stream; charset=utf-8";
		r->chunked = !sc->close && !sc->badlen && !rq->http10;
		r->keepalive = r->keepalive && r->chunked;
	} else {
		r->content_type = "application/json";
		if (sc->fault == FAULT_ERROR || sc->fault == FAULT_ERRORDONE) {
			r->status = 500;
			error_body(&r->body, 500, NULL, NULL, "The script asked for this error.");
		} else
			whole_body(r);
		delay_ms += (double)sc->first_ms + (double)r->visible * r->token_ns / 1e6;
	}
	if (delay_ms > 0) {
		r->phase = PHASE_DELAY;
		r->due_ns = now_ns + (uint64_t)(delay_ms * 1e6);
	}
	n = snprintf(r->head, sizeof(r->head),
	    "data: {\"id\":\"chatcmpl-sim%08llx\",\"object\":\"chat.completion.chunk\","
	    "\"created\":%ld,\"model\":\"sim\",\"system_fingerprint\":\"fp_sim\","
	    "\"choices\":[{\"index\":0,\"delta\":{",
	    (unsigned long long)id, r->created);
	r->head_len = (size_t)n;
	n = snprintf(r->tail, sizeof(r->tail),
	    "\"},\"logprobs\":null,\"finish_reason\":null}]%s}%s", usage_null_text(r), eol_text(r));
	r->tail_len = (size_t)n;
	r->event_max = r->head_len + r->tail_len + 64 +
	               (size_t)sc->batch * (r->pieces->len_max > 24 ? r->pieces->len_max : 24);
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
