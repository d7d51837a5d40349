"""How requests are read: pieces, pipelines, expectations, limits, time-outs."""
import contextlib
import socket

from client import Case, get, request, wait_for


class Reading(Case):
    options = ("body", 100000)

    def test_byte_by_byte(self):
        data = request("POST", "/echo", body=b"hello") + (
            "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            "5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n").encode() + get("/echo")
        c = self.client()
        for i in range(len(data)):
            c.send(data[i:i + 1])
        self.assertEqual(c.reply().body, b"POST /echo\nhello")
        self.assertEqual(c.reply().body, b"POST /echo\nhello")
        self.assertEqual(c.reply().body, b"GET /echo\n")

    def test_large_bodies(self):
        body = bytes(range(256)) * 390
        c = self.client()
        for _ in range(3):
            self.assertEqual(c.ask(request("POST", "/echo", body=body)).body,
                             b"POST /echo\n" + body)
            c.send(b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            for at in range(0, len(body), 999):
                piece = body[at:at + 999]
                c.send(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.assertEqual(c.ask(b"0\r\n\r\n").body, b"POST /echo\n" + body)

    def test_pipelining(self):
        c = self.client()
        c.send(b"".join(request("POST", "/echo", body=b"%d" % i) for i in range(500)))
        for i in range(500):
            self.assertEqual(c.reply().body, b"POST /echo\n%d" % i)

    def test_pipelining_behind_slow_and_large_replies(self):
        c = self.client()
        c.send(get("/slow?ms=30") + get("/echo") + get("/plain?bytes=3000000") + get("/echo") +
               get("/stream?n=2") + get("/echo"))
        self.assertEqual(c.reply().body, b"slow\n")
        self.assertEqual(c.reply().body, b"GET /echo\n")
        self.assertEqual(len(c.reply().body), 3000000)
        self.assertEqual(c.reply().body, b"GET /echo\n")
        self.assertEqual(c.reply().chunks, 2)
        self.assertEqual(c.reply().body, b"GET /echo\n")

    def test_half_close(self):
        c = self.client()
        c.send(get("/echo") + request("POST", "/echo", body=b"x"))
        c.finish()
        self.assertEqual(c.reply().status, 200)
        self.assertEqual(c.reply().body, b"POST /echo\nx")
        self.assertTrue(c.closed())

    def test_half_close_behind_a_large_reply(self):
        c = self.client(receive=4096)
        c.send(get("/plain?bytes=8000000") + get("/echo"))
        c.finish()
        self.assertEqual(len(c.reply().body), 8000000)
        self.assertEqual(c.reply().body, b"GET /echo\n")
        self.assertTrue(c.closed())

    def test_half_close_in_mid_request(self):
        c = self.client()
        c.send(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhel")
        c.finish()
        self.assertTrue(c.closed())


class Expect(Case):
    options = ("body", 1000)
    HEAD = ("POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-Continue\r\n"
            "Content-Length: 5\r\n\r\n").encode()

    def test_continue(self):
        c = self.client()
        self.assertEqual(c.ask(self.HEAD).status, 100)
        self.assertEqual(c.ask(b"hello").body, b"POST /echo\nhello")

    def test_continue_chunked(self):
        c = self.client()
        r = c.ask(self.HEAD.replace(b"Content-Length: 5", b"Transfer-Encoding: chunked"))
        self.assertEqual(r.status, 100)
        self.assertEqual(c.ask(b"1\r\nx\r\n0\r\n\r\n").body, b"POST /echo\nx")

    def test_none_when_the_body_is_there(self):
        self.assertEqual(self.ask(self.HEAD + b"hello").status, 200)

    def test_none_in_http_1_0(self):
        c = self.client()
        c.send(self.HEAD.replace(b"HTTP/1.1", b"HTTP/1.0"))
        c.send(b"hello")
        self.assertEqual(c.reply().status, 200)

    def test_none_without_a_body(self):
        self.assertEqual(self.ask(get("/echo", "Expect: 100-continue")).status, 200)

    def refused_at_once(self, data, status):
        c = self.client()
        r = c.ask(data)
        self.assertEqual((r.status, r.headers["connection"]), (status, "close"))
        c.finish()
        self.assertTrue(c.closed())

    def test_refused_first(self):
        self.refused_at_once(self.HEAD.replace(b"gth: 5", b"gth: 1001"), 413)
        self.refused_at_once(self.HEAD.replace(b"/echo", b"/nope"), 404)
        self.refused_at_once(self.HEAD.replace(b"/echo", b"/who"), 401)

    def test_other_expectations(self):
        c = self.client()
        self.assertEqual(c.ask(get("/echo", "Expect: wonders")).status, 417)
        self.assertEqual(c.ask(get("/echo")).status, 200)
        self.assertEqual(c.ask(get("/echo", "Expect: 100-continue, x")).status, 417)


class Limits(Case):
    options = ("body", 1000)

    def refused(self, data, status, code):
        c = self.client()
        with contextlib.suppress(ConnectionError):
            c.send(data)
        r = c.reply()
        self.assertEqual((r.status, r.headers["connection"]), (status, "close"))
        self.assertEqual(r.error["code"], code)
        with contextlib.suppress(OSError):
            c.finish()
        self.assertTrue(c.closed())

    def test_body(self):
        self.refused(request("POST", "/echo", body=b"x" * 1001), 413, "body_too_large")
        self.assertEqual(self.ask(request("POST", "/echo", body=b"x" * 1000)).status, 200)

    def test_chunked_body(self):
        head = b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        chunk = b"64\r\n" + b"x" * 100 + b"\r\n"
        self.assertEqual(self.ask(head + chunk * 10 + b"0\r\n\r\n").status, 200)
        self.refused(head + chunk * 10 + b"1\r\nx\r\n0\r\n\r\n", 413, "body_too_large")

    def test_body_of_a_refused_request(self):
        head = b"POST /nope HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        self.refused(head + b"64\r\n" + (b"x" * 100 + b"\r\n64\r\n") * 10 + b"x", 413,
                     "body_too_large")

    def test_large_upload_hears_the_refusal(self):
        c = self.client()
        c.send(request("POST", "/echo", "Content-Length: 3000000"))
        with contextlib.suppress(ConnectionError):
            for _ in range(3000):
                c.send(b"x" * 1000)
        self.assertEqual(c.reply().status, 413)

    def test_lines_without_end_are_refused_at_once(self):
        self.refused(b"GET /" + b"a" * 8192, 414, "uri_too_long")
        self.refused(b"GET / HTTP/1.1\r\nX: " + b"a" * 8192, 431, "headers_too_large")
        self.refused(b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 2731, 431, "headers_too_large")

    def test_header_bomb(self):
        before = self.server.stats()["heap"]
        for _ in range(20):
            self.refused(b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 10000, 431,
                         "headers_too_large")
        self.assertLess(self.server.stats()["heap"] - before, 65536)


class Timeouts(Case):
    options = ("header", 1, "request", 1, "idle", 1)

    def drip(self, data, first=b""):
        """Send a byte now and then until the server has enough of it."""
        c = self.client()
        if first:
            self.assertEqual(c.ask(first).status, 200)
        c.socket.settimeout(0.05)
        for i in range(len(data)):
            c.send(data[i:i + 1])
            with contextlib.suppress(socket.timeout):
                got = c.socket.recv(65536)
                self.assertTrue(got.startswith(b"HTTP/1.1 408 "), got)
                return
        self.fail("never refused")

    def test_slow_head(self):
        self.drip(get("/" + "a" * 2000))

    def test_slow_further_head(self):
        self.drip(get("/" + "a" * 2000), first=get("/echo"))

    def test_slow_body(self):
        head = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
        c = self.client()
        c.send(head)
        self.assertEqual(c.reply().status, 408)

    def test_silence(self):
        c = self.client()
        self.assertTrue(c.closed())

    def test_idle_connection_is_kept(self):
        c = self.client()
        self.assertEqual(c.ask(get("/echo")).status, 200)
        with self.client() as other:  # outlives the header time-out by itself
            self.assertTrue(other.closed())
        self.assertEqual(c.ask(get("/echo")).status, 200)

    def test_slow_reply_has_no_time_out(self):
        self.assertEqual(self.ask(get("/slow?ms=2500")).status, 200)

    def test_stalled_reader_is_dropped(self):
        for path in ("/big", "/plain?bytes=20000000"):
            before = self.server.stats()
            c = self.client(receive=4096)
            c.send(get(path))
            self.assertEqual(c.head().status, 200)
            wait_for("the drop", lambda: self.server.stats()["conns"] == before["conns"])
            gone = self.server.stats()["gone"] - before["gone"]
            self.assertEqual(gone, 1 if path == "/big" else 0)
