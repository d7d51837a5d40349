/*
 * Goal:   no bytes of a peer crash a WebSocket, no cut of them changes the messages in them, and
 *         all that is sent back is whole frames of a server's.
 * Method: libFuzzer.  The first byte chooses: a handshake; a message; or frames, given to daemon/ws.c
 *         whole and cut by the second byte, with a connection that takes everything.
 *
 * objs: daemon/tokenizer.o daemon/tokenizer_stream.o daemon/tokenizer_merge.o
 * objs: daemon/tokenizer_split.o daemon/tokenizer_class.o daemon/tokenizer_table.o
 * objs: daemon/chat_request.o daemon/chat_keys.o daemon/chat_tokens.o daemon/calibrate.o daemon/ids.o daemon/log.o
 * objs: daemon/ws.o daemon/ws_handshake.o daemon/ws_message.o
 * objs: daemon/emit.o daemon/openai.o daemon/delta_read.o daemon/http.o daemon/http_chunked.o
 * objs: daemon/json.o daemon/json_value.o daemon/utf8.o daemon/buf.o shm/money.o
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/json.h"
#include "daemon/utf8.h"
#include "daemon/ws.h"
#include "daemon/ws_handshake.h"
#include "daemon/ws_message.h"

#define MESSAGE_MAX 300
#define CHECK(condition) ((condition) ? (void)0 : abort())

int LLVMFuzzerTestOneInput(const uint8_t *, size_t);

/* In place of daemon/config.c. */
int
config_model(const struct config *c, const char *name, size_t len)
{
	(void)c;
	(void)name;
	(void)len;
	return -1;
}

/* In place of daemon/conn.c: what was sent, and whether it is over. */
struct conn {
	struct ws *ws;
	struct buf sent, messages;
	unsigned closings;
	bool ended;
};

void
conn_write(struct conn *c, const char *data, size_t len)
{
	CHECK(!c->ended);
	buf_add(&c->sent, data, len);
}

size_t
conn_queued(const struct conn *c)
{
	(void)c;
	return 0;
}

void
conn_upgrade_end(struct conn *c, bool unread)
{
	(void)unread;
	CHECK(!c->ended);
	c->ended = true;
}

static void
on_text(void *arg, struct span text)
{
	struct conn *c = arg;

	CHECK(c->closings == 0 && text.len <= MESSAGE_MAX && text.p[text.len] == '\0');
	CHECK(utf8_valid(text.p, text.len));
	buf_add(&c->messages, &text.len, sizeof text.len);
	buf_span(&c->messages, text);
	/* Some of them end it, some are answered, some both. */
	if (text.len > 0 && text.p[0] == 'e')
		ws_send(c->ws, text.p, text.len);
	if (text.len > 1 && text.p[1] == 'c')
		ws_close(c->ws, WS_GOING_AWAY, "so it was asked");
}

static void
on_closing(void *arg)
{
	struct conn *c = arg;

	CHECK(c->closings++ == 0);
}

static const struct ws_owner owner = {on_text, on_closing};

/* Whole frames, neither masked nor in fragments, nothing behind a close. */
static void
check_sent(const struct conn *c)
{
	const uint8_t *p = (const uint8_t *)c->sent.data;
	size_t left = c->sent.len, head, len;
	bool closed = false;

	while (left > 0) {
		unsigned opcode = p[0] & 15;

		CHECK(!closed && left >= 2 && (p[0] & 0xf0) == 0x80 && p[1] < 127);
		CHECK(opcode == 1 || opcode == 8 || opcode == 10);
		head = p[1] == 126 ? 4 : 2;
		CHECK(left >= head);
		len = head == 4 ? (size_t)p[2] << 8 | p[3] : p[1];
		CHECK(left >= head + len && (opcode == 1 || len <= 125));
		closed = opcode == 8;
		p += head + len;
		left -= head + len;
	}
}

static void
run(struct conn *c, const char *bytes, size_t len, size_t cut)
{
	*c = (struct conn){0};
	c->ws = ws_new(c, MESSAGE_MAX, &owner, c);
	CHECK(c->ws != NULL);
	for (size_t at = 0, n; at < len && !c->ended; at += n) {
		char *exact;

		n = cut > 0 && cut < len - at ? cut : len - at;
		exact = malloc(n);
		CHECK(exact != NULL);
		memcpy(exact, bytes + at, n);
		CHECK(ws_input(c->ws, exact, n) == n);
		free(exact);
	}
	CHECK(!c->ended || c->closings == 1);
	check_sent(c);
	ws_free(c->ws);
}

static void
fuzz_frames(const char *bytes, size_t len, size_t cut)
{
	struct conn whole, pieces;

	run(&whole, bytes, len, 0);
	run(&pieces, bytes, len, cut + 1);
	CHECK(whole.messages.len == pieces.messages.len);
	CHECK(whole.messages.len == 0 ||
	      memcmp(whole.messages.data, pieces.messages.data, whole.messages.len) == 0);
	buf_free(&whole.sent);
	buf_free(&whole.messages);
	buf_free(&pieces.sent);
	buf_free(&pieces.messages);
}

static void
fuzz_message(const char *bytes, size_t len)
{
	struct chat_fault f;
	struct buf body = {0};
	struct json_value root, v;

	if (ws_message_read((struct span){bytes, len}, &body, &f) == WS_QUESTION) {
		CHECK(json_check(body.data, body.len, &root, NULL) == JSON_OK);
		CHECK(json_get(root, "message", &v) && v.type == JSON_STRING && v.len > 2);
		CHECK(!json_get(root, "question", &v) && !json_get(root, "messages", &v));
	}
	buf_free(&body);
}

static void
fuzz_handshake(const char *bytes, size_t len)
{
	static char origin[] = "https://chat.example";
	static const struct config config = {.origins = {origin}, .origin_count = 1};
	struct http_request rq;
	struct http_fault fault;
	struct ws_handshake hs;
	struct ws_fault f;
	size_t scanned = 0, head_len;

	if (http_parse_head(bytes, len, &scanned, &rq, &head_len, &fault) != HTTP_PARSE_OK)
		return;
	if (ws_handshake_check(&rq, &config, &hs, &f))
		CHECK(strlen(hs.accept) == WS_ACCEPT_LEN && rq.method == HTTP_GET);
	else
		CHECK(f.status >= 400 && f.message != NULL);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *bytes = (const char *)data;

	if (size < 2)
		return 0;
	if (data[0] == 'h')
		fuzz_handshake(bytes + 1, size - 1);
	else if (data[0] == 'm')
		fuzz_message(bytes + 1, size - 1);
	else
		fuzz_frames(bytes + 2, size - 2, data[1]);
	return 0;
}
