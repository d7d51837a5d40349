/*
 * Goal:   a WebSocket's handshake is answered as RFC 6455 says, and nothing else is one.
 * Method: the RFC's own example; that example with one line changed, and what is said of it.
 *
 * objs: daemon/ws_handshake.o daemon/http.o daemon/http_chunked.o daemon/buf.o shm/money.o
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/ws_handshake.h"

#define LEN(array) (sizeof(array) / sizeof((array)[0]))

static struct config config = {
    .origins = {(char *)(uintptr_t) "https://chat.example"}, .origin_count = 1};

/* RFC 6455, 1.3. */
static const char *const sample[] = {
    "GET /chat HTTP/1.1",
    "Host: server.example.com",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Origin: http://server.example.com",
    "Sec-WebSocket-Protocol: chat, tolld",
    "Sec-WebSocket-Version: 13",
};

/* The sample with line `at` in other words (NULL: without it), and one more. */
static int
check(size_t at, const char *line, const char *more, struct ws_handshake *hs)
{
	char head[2000] = "";
	struct http_request rq;
	struct http_fault bad;
	struct ws_fault f = {0};
	size_t scanned = 0, len;

	for (size_t i = 0; i < LEN(sample); i++) {
		if (i == at && line == NULL)
			continue;
		strcat(head, i == at ? line : sample[i]);
		strcat(head, "\r\n");
	}
	strcat(head, more);
	strcat(head, "\r\n");
	assert_int_equal(
	    http_parse_head(head, strlen(head), &scanned, &rq, &len, &bad), HTTP_PARSE_OK);
	if (ws_handshake_check(&rq, &config, hs, &f)) {
		assert_int_equal(strlen(hs->accept), WS_ACCEPT_LEN);
		return 101;
	}
	assert_true(f.message != NULL && f.code != NULL);
	return f.status;
}

static void
the_rfcs_example(void **state)
{
	struct ws_handshake hs;

	(void)state;
	assert_int_equal(check(LEN(sample), NULL, "", &hs), 101);
	assert_string_equal(hs.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
	assert_true(hs.subprotocol);
	assert_int_equal(check(6, NULL, "", &hs), 101);
	assert_false(hs.subprotocol);
}

static void
one_line_changed(void **state)
{
	static const struct {
		int status;
		size_t at;
		const char *line, *more;
	} cases[] = {
	    {405, 0, "POST /chat HTTP/1.1", ""},
	    {405, 0, "HEAD /chat HTTP/1.1", ""},
	    {400, 0, "GET /chat HTTP/1.0", ""},
	    {400, 0, sample[0], "Content-Length: 3\r\n"},
	    {400, 0, sample[0], "Transfer-Encoding: chunked\r\n"},
	    {101, 0, sample[0], "Content-Length: 0\r\n"},
	    {426, 2, NULL, ""},
	    {426, 2, "Upgrade:", ""},
	    {426, 2, "Upgrade: websockets", ""},
	    {101, 2, "upgrade: ,, foo/2 , WebSocket\t,", ""},
	    {426, 3, NULL, ""},
	    {426, 3, "Connection: keep-alive", ""},
	    {101, 3, "connection: keep-alive, UPGRADE", ""},
	    {101, 3, "Connection: keep-alive", "Connection: x,upgrade\r\n"},
	    {400, 4, NULL, ""},
	    {400, 4, "Sec-WebSocket-Key: ", ""},
	    {400, 4, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=", ""},
	    {400, 4, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQAA", ""},
	    {400, 4, "Sec-WebSocket-Key: dGhlIHNhbXBs SBub25jZQ==", ""},
	    {400, 4, sample[4], "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"},
	    {101, 5, NULL, ""},
	    {101, 5, "Origin: https://SERVER.example.com", ""},
	    {101, 5, "Origin: https://chat.example", ""},
	    {403, 5, "Origin: https://chat.example.org", ""},
	    {403, 5, "Origin: https://server.example.com:81", ""},
	    {403, 5, "Origin: null", ""},
	    {403, 5, "Origin: ", ""},
	    {403, 5, "Origin: ://", ""},
	    {400, 5, sample[5], "Origin: http://server.example.com\r\n"},
	    {400, 6, "Sec-WebSocket-Protocol: chat", ""},
	    {400, 6, "Sec-WebSocket-Protocol: ", ""},
	    {400, 6, "Sec-WebSocket-Protocol: tolld2, bearer.tolld", ""},
	    {101, 6, "Sec-WebSocket-Protocol: chat", "Sec-WebSocket-Protocol: tolld\r\n"},
	    {426, 7, NULL, ""},
	    {426, 7, "Sec-WebSocket-Version: 8", ""},
	    {426, 7, "Sec-WebSocket-Version: 13, 8", ""},
	    {426, 7, sample[7], "Sec-WebSocket-Version: 13\r\n"},
	    {101, 7, sample[7], "Sec-WebSocket-Extensions: permessage-deflate\r\n"},
	};
	struct ws_handshake hs;

	(void)state;
	for (size_t i = 0; i < LEN(cases); i++) {
		int status = check(cases[i].at, cases[i].line, cases[i].more, &hs);

		if (status != cases[i].status)
			fail_msg("case %zu: %d, not %d", i, status, cases[i].status);
	}
}

static void
any_origin(void **state)
{
	static char any[] = "*";
	struct ws_handshake hs;

	(void)state;
	config.origins[0] = any;
	assert_int_equal(check(5, "Origin: null", "", &hs), 101);
	config.origin_count = 0;
	assert_int_equal(check(5, "Origin: https://chat.example", "", &hs), 403);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(the_rfcs_example),
	    cmocka_unit_test(one_line_changed),
	    cmocka_unit_test(any_origin),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
