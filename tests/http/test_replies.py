"""Replies, routes, CORS and keys."""
import json

from client import Case, get, request


class Replies(Case):
    def test_get(self):
        r = self.ask(get("/echo?x"))
        self.assertEqual((r.status, r.body), (200, b"GET /echo\n"))
        self.assertEqual(r.headers["server"], "tolld")
        self.assertRegex(r.headers["date"], r"^\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT$")
        self.assertNotIn("connection", r.headers)

    def test_post(self):
        r = self.ask(request("POST", "/echo", body=b"a\0b"))
        self.assertEqual(r.body, b"POST /echo\na\0b")

    def test_keep_alive(self):
        c = self.client()
        for i in range(10):
            body = b"n%d" % i
            self.assertEqual(c.ask(request("POST", "/echo", body=body)).body,
                             b"POST /echo\n" + body)

    def test_connection_close(self):
        c = self.client()
        r = c.ask(get("/echo", "Connection: close"))
        self.assertEqual(r.headers["connection"], "close")
        self.assertTrue(c.closed())

    def test_http_1_0_closes(self):
        c = self.client()
        r = c.ask(b"GET /echo HTTP/1.0\r\n\r\n")
        self.assertEqual((r.status, r.headers["connection"], r.version), (200, "close", "HTTP/1.1"))
        self.assertTrue(c.closed())

    def test_http_1_0_keep_alive(self):
        c = self.client()
        for _ in range(3):
            r = c.ask(b"GET /echo HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n")
            self.assertEqual((r.status, r.headers["connection"]), (200, "keep-alive"))

    def test_http_1_0_stream_ends_by_close(self):
        c = self.client()
        r = c.ask(b"GET /stream?n=3 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        self.assertNotIn("transfer-encoding", r.headers)
        self.assertEqual(r.headers["connection"], "close")
        self.assertEqual(r.body.count(b"data: "), 3)

    def test_head(self):
        c = self.client()
        r = c.ask(request("HEAD", "/plain?bytes=1000"), head_only=True)
        self.assertEqual((r.status, r.headers["content-length"]), (200, "1000"))
        self.assertEqual(c.ask(get("/echo")).body, b"GET /echo\n")

    def test_head_of_a_stream(self):
        c = self.client()
        r = c.ask(request("HEAD", "/stream?n=3"), head_only=True)
        self.assertEqual(r.headers["transfer-encoding"], "chunked")
        self.assertEqual(c.ask(get("/echo")).body, b"GET /echo\n")

    def test_stream_sends_head_with_first_event(self):
        c = self.client()
        c.send(get("/stream?n=3&ms=20"))
        first = c.socket.recv(65536)
        self.assertRegex(first, rb"\r\n\r\n31\r\ndata: .*\n\n\r\n$")

    def test_stream(self):
        c = self.client()
        for path in ("/stream?n=5", "/stream?n=5&flush=1", "/stream?n=0"):
            r = c.ask(get(path))
            n = int(path[len("/stream?n="):][0])
            self.assertEqual((r.body.count(b"data: "), r.chunks), (n, n))
            self.assertEqual(r.headers["cache-control"], "no-cache")

    def test_aborted_stream_is_reset(self):
        c = self.client()
        with self.assertRaises((ConnectionResetError, ValueError)):
            c.ask(get("/stream?n=2&abort=1"))

    def test_later(self):
        self.assertEqual(self.ask(get("/slow?ms=30")).body, b"slow\n")

    def test_handler_without_answer(self):
        c = self.client()
        self.assertEqual(c.ask(get("/nothing")).status, 500)
        self.assertEqual(c.ask(get("/echo")).status, 200)

    def test_header_injection_is_left_out(self):
        r = self.ask(get("/echo?header=a%0d%0aSet-Cookie:%20b"))
        self.assertNotIn("x-test", r.headers)
        self.assertNotIn("set-cookie", r.headers)
        self.assertEqual(self.ask(get("/echo?header=a%20b")).headers["x-test"], "a b")

    def test_request_id(self):
        made = {self.ask(get("/echo")).headers["x-request-id"] for _ in range(10)}
        self.assertEqual(len(made), 10)
        ask = lambda v: self.ask(get("/echo", "X-Request-Id: " + v)).headers["x-request-id"]
        for good in ("a", "a-B_9.z", "x" * 64):
            self.assertEqual(ask(good), good)
        for bad in ("x" * 65, "a b", "a/b", "é", ""):
            self.assertRegex(ask(bad), r"^req_[0-9a-f]{16}$")
        self.assertEqual(self.ask(get("/nope", "x-request-id: q")).headers["x-request-id"], "q")

    def test_handed_over(self):
        c = self.client()
        c.send(request("POST", "/hand", body=b"one") + request("POST", "/hand", body=b"two") +
               get("/echo"))
        self.assertEqual(c.reply().body, b"POST /hand\none")
        self.assertEqual(c.reply().body, b"POST /hand\ntwo")
        self.assertEqual(c.reply().body, b"GET /echo\n")

    def test_requests_are_counted_once(self):
        before = self.server.stats()["requests"]
        self.ask(get("/echo"))
        self.ask(get("/stream?n=1"))
        self.ask(get("/nope"))
        self.ask(b"bad\r\n\r\n")
        self.ask(request("POST", "/echo", body=b"x" * 100000))
        after = self.server.stats()["requests"]
        # The first /stats is counted, the second not yet.
        self.assertEqual([b - a for a, b in zip(before, after)], [0, 0, 4, 0, 2, 0])


class Routes(Case):
    options = ("origin", "https://chat.example", "origin", "http://localhost:3000")

    def test_not_found(self):
        r = self.ask(get("/nope"))
        self.assertEqual((r.status, r.error["code"]), (404, "not_found"))
        self.assertEqual(set(r.error), {"message", "type", "param", "code"})
        self.assertEqual(r.headers["content-type"], "application/json")

    def test_method(self):
        r = self.ask(get("/post"))
        self.assertEqual((r.status, r.headers["allow"]), (405, "POST, DELETE, OPTIONS"))

    def test_one_path_several_routes(self):
        self.assertEqual(self.ask(request("POST", "/post")).body, b"POST /post\n")
        self.assertEqual(self.ask(request("DELETE", "/post")).body, b"hello, world\n")

    def test_prefix(self):
        self.assertEqual(self.ask(get("/ws/chat/alice")).body, b"GET /ws/chat/alice\n")
        self.assertEqual(self.ask(get("/ws/cha")).status, 404)

    def test_absolute_form(self):
        self.assertEqual(self.ask(get("http://y:1/echo?z")).body, b"GET /echo\n")

    def test_unknown_method_closes(self):
        c = self.client()
        self.assertEqual(c.ask(request("BREW", "/echo")).status, 405)
        self.assertTrue(c.closed())

    def test_refused_request_with_body_keeps_the_connection(self):
        c = self.client()
        chunked = ("POST /nope HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
                   "5\r\nhello\r\n0\r\n\r\n").encode()
        for data in (request("POST", "/nope", body=b"GET / HTTP/1.1\r\n\r\n"), chunked):
            for cut in (len(data), 40, len(data) - 3):
                c.send(data[:cut])
                c.send(data[cut:])
                self.assertEqual(c.reply().status, 404)
        self.assertEqual(c.ask(get("/echo")).status, 200)

    def test_options(self):
        r = self.ask(request("OPTIONS", "/post"))
        self.assertEqual((r.status, r.headers["allow"]), (204, "POST, DELETE, OPTIONS"))
        self.assertNotIn("access-control-allow-origin", r.headers)
        self.assertEqual(self.ask(request("OPTIONS", "*")).status, 204)
        self.assertEqual(self.ask(request("OPTIONS", "/nope")).status, 404)

    def preflight(self, origin, *more):
        return self.ask(request("OPTIONS", "/who", "Origin: " + origin,
                                "Access-Control-Request-Method: POST", *more))

    def test_preflight(self):
        r = self.preflight("https://chat.example",
                           "Access-Control-Request-Headers: authorization,x-stainless-os")
        self.assertEqual(r.status, 204)
        self.assertEqual(r.headers["access-control-allow-origin"], "https://chat.example")
        self.assertEqual(r.headers["vary"], "Origin")
        self.assertIn("POST", r.headers["access-control-allow-methods"])
        self.assertEqual(r.headers["access-control-allow-headers"], "authorization,x-stainless-os")
        self.assertIn("access-control-max-age", r.headers)

    def test_preflight_of_others(self):
        for origin in ("https://evil.example", "null", "https://chat.example.evil", "https://chat"):
            r = self.preflight(origin)
            self.assertEqual(r.status, 204)
            self.assertNotIn("access-control-allow-origin", r.headers)
            self.assertNotIn("access-control-allow-methods", r.headers)

    def test_cors_of_replies(self):
        for path in ("/echo", "/slow?ms=1", "/stream?n=1", "/nope"):
            r = self.ask(get(path, "Origin: http://localhost:3000"))
            self.assertEqual(r.headers["access-control-allow-origin"], "http://localhost:3000")
            exposed = r.headers["access-control-expose-headers"].split(", ")
            # Both names: Anthropic's SDK reads the second.
            self.assertTrue({"x-request-id", "request-id", "x-should-retry"} <= set(exposed))
            r = self.ask(get(path, "Origin: https://evil.example"))
            self.assertNotIn("access-control-allow-origin", r.headers)
            self.assertEqual(r.headers["vary"], "Origin")

    def test_cors_is_per_request(self):
        c = self.client()
        c.ask(get("/echo", "Origin: http://localhost:3000"))
        self.assertNotIn("access-control-allow-origin", c.ask(get("/echo")).headers)


class AnyOrigin(Case):
    options = ("origin", "*")

    def test_star(self):
        r = self.ask(get("/echo", "Origin: https://anything.example"))
        self.assertEqual(r.headers["access-control-allow-origin"], "*")
        self.assertNotIn("vary", r.headers)
        self.assertNotIn("access-control-allow-origin", self.ask(get("/echo")).headers)


class Keys(Case):
    def who(self, *headers, path="/who"):
        return self.ask(request("POST", path, *headers, body=b"{}"))

    def test_good(self):
        key = self.server.keys[0]
        for value in ("Bearer " + key, "bearer " + key, "BEARER   " + key + " "):
            self.assertEqual(self.who("Authorization: " + value).body, b"alice")

    def test_refused(self):
        good, revoked, expired, unknown = self.server.keys
        messages = set()
        for header, word in (("X: y", "no API key"), ("Authorization: Bearer", "no API key"),
                             ("Authorization: Basic " + good, "no API key"),
                             ("Authorization: " + good, "no API key"),
                             ("Authorization: Bearer " + unknown, "unknown"),
                             ("Authorization: Bearer " + good[:-1], "unknown"),
                             ("Authorization: Bearer " + good + "x", "unknown"),
                             ("Authorization: Bearer " + good.lower(), "unknown"),
                             ("x-api-key: " + unknown, "unknown"),
                                                          ("Authorization: Bearer " + revoked, "revoked"),
                             ("Authorization: Bearer " + expired, "expired")):
            r = self.who(header)
            self.assertEqual((r.status, r.error["code"]), (401, "invalid_api_key"), header)
            self.assertEqual(r.headers["www-authenticate"], "Bearer")
            self.assertIn(word, r.error["message"])
            self.assertNotIn("tolld_", r.body.decode())
            messages.add(r.error["message"])
        r = self.who("x-api-key: " + good, "x-api-key: " + good)
        self.assertEqual((r.status, r.error["code"]), (401, "invalid_api_key"))
        self.assertIn("more than one", r.error["message"])
        self.assertEqual(len(messages), 4)
        self.assertEqual(self.who("x-api-key: " + good).body, b"alice")

    def test_scope(self):
        r = self.who("x-api-key: " + self.server.keys[0], path="/mint")
        self.assertEqual((r.status, r.error["code"]), (403, "insufficient_scope"))
        self.assertIn('"mint"', r.error["message"])
        self.assertEqual(r.headers["www-authenticate"],
                         'Bearer error="insufficient_scope", scope="mint"')

    def test_anthropic(self):
        path = "/v1/messages"
        self.assertEqual(self.who("x-api-key: " + self.server.keys[0], path=path).body, b"alice")
        self.assertEqual(self.who("Authorization: Bearer " + self.server.keys[0], path=path).body,
                         b"alice")
        r = self.who("x-api-key: " + self.server.keys[1], path=path)
        shape = json.loads(r.body)
        self.assertEqual((r.status, shape["type"], shape["error"]["type"]),
                         (401, "error", "authentication_error"))
