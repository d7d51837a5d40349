"""Clients that leave, stall or flood; memory, descriptors, drain."""
import contextlib
import select
import signal
import sys
import time
import unittest

from client import BOUND, Case, Client, Server, get, request, wait_for


class Gone(Case):
    def gone(self):
        return self.server.stats()["gone"]

    def leaves(self, path, how, wait=False):
        before = self.gone()
        c = self.client()
        c.send(get(path))
        if wait:
            c.socket.recv(100)
        how(c)
        wait_for("gone", lambda: self.gone() == before + 1)

    def test_during_a_slow_reply(self):
        self.leaves("/slow?ms=60000", Client.close)
        self.leaves("/slow?ms=60000", Client.finish)
        self.leaves("/slow?ms=60000", Client.reset)

    def test_during_a_stream(self):
        self.leaves("/stream?n=1000000&ms=5", Client.close, wait=True)
        self.leaves("/stream?n=1000000&ms=5", Client.reset, wait=True)
        self.leaves("/stream?n=1000000&ms=60000&flush=1", Client.close, wait=True)

    def test_during_a_big_one(self):
        for how in (Client.close, Client.reset):
            before = self.server.stats()["conns"]
            c = self.client(receive=4096)
            c.send(get("/big"))
            c.socket.recv(100)
            how(c)
            # The test server's loop may write the rest into the void and end by itself.
            wait_for("the end", lambda: self.server.stats()["conns"] == before)

    def test_with_bytes_unread(self):
        before = self.gone()
        c = self.client()
        c.send(get("/stream?n=1000000&ms=5"))
        c.socket.recv(100)
        with contextlib.suppress(ConnectionError):
            c.send(b"x" * 100000)
        c.reset()
        wait_for("gone", lambda: self.gone() == before + 1)


class Memory(Case):
    def test_streams_are_small(self):
        before = self.server.stats()
        clients = [self.client() for _ in range(400)]
        for c in clients:
            c.send(get("/stream?n=1000000&ms=200"))
        for c in clients:
            self.assertEqual(c.head().status, 200)
            c.chunk()
        now = self.server.stats()
        self.assertEqual(now["conns"], before["conns"] + 400)
        each = (now["heap"] - before["heap"]) / 400
        print("heap of a stream: %d bytes (with the test's own timer)" % each, file=sys.stderr)
        self.assertLess(each, 2048)

    def test_idle_connections_are_small(self):
        before = self.server.stats()
        clients = [self.client() for _ in range(400)]
        for c in clients:
            self.assertEqual(c.ask(request("POST", "/echo", body=b"x" * 50000)).status, 200)
        each = (self.server.stats()["heap"] - before["heap"]) / 400
        self.assertLess(each, 2048)

    def flood(self, first, garbage, end):
        """Send 100 MB behind a request; how much went, and the most heap it took."""
        c = self.client()
        before = self.server.stats()["heap"]
        c.send(first)
        c.head()
        sent = most = 0
        c.socket.setblocking(False)
        while sent < 100_000_000 and not end(c):
            with contextlib.suppress(BlockingIOError):
                sent += c.socket.send(garbage)
            most = max(most, self.server.stats()["heap"] - before)
        c.socket.settimeout(BOUND)
        return c, sent, most

    def test_flood_behind_a_stream(self):
        until = time.monotonic() + 2
        c, sent, most = self.flood(get("/stream?n=200&ms=15"), b"GET /echo HTTP/1.1\r\n" * 50000,
                                   lambda c: time.monotonic() > until)
        self.assertLess(sent, 90_000_000)
        self.assertLess(most, 200_000)
        while c.chunk():
            pass
        self.assertEqual(c.reply().status, 431)  # no line of it ends a head

    def test_flood_of_requests_without_reading(self):
        c = self.client(receive=4096)
        before = self.server.stats()["heap"]
        c.socket.setblocking(False)
        most = sent = 0
        until = time.monotonic() + 2
        while time.monotonic() < until and sent < 100_000_000:
            with contextlib.suppress(BlockingIOError):
                sent += c.socket.send(get("/plain?bytes=100000") * 1000)
            most = max(most, self.server.stats()["heap"] - before)
        self.assertLess(most, 500_000)

    def test_big_is_bounded(self):
        before = self.server.stats()
        c = self.client(receive=4096)
        c.send(get("/big"))
        c.head()
        wait_for("a full socket", lambda: self.server.stats()["heap"] > before["heap"] + 1000)
        self.assertLess(self.server.stats()["heap"] - before["heap"], 100_000)
        size = 0
        while True:
            data = c.chunk()
            if not data:
                break
            size += len(data)
        self.assertEqual(size, 50_000_000)
        self.assertGreater(self.server.stats()["writable"], before["writable"])

    def test_nothing_is_left(self):
        before = self.server.stats()
        for _ in range(3):
            clients = [self.client() for _ in range(50)]
            for i, c in enumerate(clients):
                c.send((get("/stream?n=100000"), get("/slow?ms=99999"), b"GET /part",
                        request("POST", "/echo", "Content-Length: 9") + b"x", b"bad\r\n")[i % 5])
            for c in clients:
                c.close()
        wait_for("all closed", lambda: self.server.stats()["conns"] == before["conns"])
        self.assertLess(self.server.stats()["heap"] - before["heap"], 16384)


class Descriptors(unittest.TestCase):
    def test_out_of_descriptors(self):
        server = Server("files", 40)
        self.addCleanup(server.stop)
        # Those in the middle of a request do not make room.
        clients = []
        for _ in range(60):
            clients.append(server.connect())
            with contextlib.suppress(ConnectionError):
                clients[-1].send(request("POST", "/echo", "Content-Length: 2") + b"x")
        for c in clients[45:]:
            r = c.reply()
            self.assertEqual((r.status, r.headers["retry-after"]), (503, "1"))
            self.assertEqual(r.error["code"], "overloaded")
            self.assertTrue(c.closed())
        for c in clients[:20]:
            self.assertIn(b"xy", c.ask(b"y").body)
        for c in clients:
            c.close()
        with server.connect() as c:
            self.assertEqual(c.ask(get("/echo")).status, 200)

    def test_idle_ones_make_room(self):
        for first in (get("/echo"), b"", b"GET /ec"):
            server = Server("files", 60)
            self.addCleanup(server.stop)
            with contextlib.ExitStack() as stack:
                idle = [stack.enter_context(server.connect()) for _ in range(30)]
                for c in idle:
                    c.send(first)
                    if first.endswith(b"\r\n"):
                        self.assertEqual(c.reply().status, 200)
                busy = stack.enter_context(server.connect())
                busy.send(get("/stream?n=1000000&ms=5"))
                self.assertEqual(busy.head().status, 200)
                if not first.endswith(b"\r\n"):
                    # Who has just come may be about to ask.
                    time.sleep(1.2)
                # Every one of many newcomers is served, though nobody leaves.
                for _ in range(60):
                    c = stack.enter_context(server.connect())
                    self.assertEqual(c.ask(get("/echo")).status, 200)
                # Those that have been idle the longest were closed, and nobody in mid-answer.
                self.assertTrue(idle[0].closed())
                self.assertTrue(busy.chunk())


class HalfSent(unittest.TestCase):
    """Bodies that never end, from many at once."""

    def test_all_together_are_bounded(self):
        server = Server("body", 64 << 20, "request", 600)
        self.addCleanup(server.stop)
        with contextlib.ExitStack() as stack:
            clients = []
            head = request("POST", "/echo", "Content-Length: %d" % (60 << 20))
            for _ in range(6):
                c = stack.enter_context(server.connect())
                clients.append(c)
                with contextlib.suppress(ConnectionError):
                    c.send(head + b"x" * (50 << 20))
            answered, _, _ = select.select([c.socket for c in clients], [], [], BOUND)
            refused = [c for c in clients if c.socket in answered]
            self.assertGreater(len(refused), 0)
            for c in refused:
                r = c.reply()
                self.assertEqual((r.status, r.headers["retry-after"]), (503, "1"))
            self.assertLess(server.stats()["heap"], 450 << 20)
            # Others are served meanwhile, also with bodies that come in pieces.
            with server.connect() as c:
                c.send(request("POST", "/echo", "Content-Length: 30000") + b"x" * 10000)
                c.send(b"x" * 20000)
                self.assertEqual(c.reply().status, 200)
        wait_for("all gone", lambda: server.stats()["conns"] == 1)
        with server.connect() as c:
            self.assertEqual(c.ask(request("POST", "/echo", body=b"x" * (2 << 20))).status, 200)

    def test_of_a_route(self):
        server = Server()
        self.addCleanup(server.stop)
        for body in (b"x" * 4096, b"x" * 4097):
            status = 200 if len(body) == 4096 else 413
            with server.connect() as c:
                self.assertEqual(c.ask(request("POST", "/small", body=body)).status, status)
            with server.connect() as c:
                c.send(request("POST", "/small", "Transfer-Encoding: chunked") +
                       b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
                r = c.reply()
                self.assertEqual(r.status, status)

    def test_of_who_is_refused(self):
        server = Server("header", 1, "request", 600)
        self.addCleanup(server.stop)
        with server.connect() as c:
            started = time.monotonic()
            c.send(request("POST", "/nowhere", "Content-Length: 1000") + b"x")
            self.assertEqual(c.reply().status, 408)
            self.assertLess(time.monotonic() - started, BOUND)  # and not 600


class Drain(unittest.TestCase):
    def test_drain(self):
        server = Server("header", 1)
        self.addCleanup(server.stop)
        idle, busy, slow, fresh = [server.connect() for _ in range(4)]
        for c in (idle, busy, slow, fresh):
            self.addCleanup(c.close)
        self.assertEqual(idle.ask(get("/echo")).status, 200)
        busy.send(get("/stream?n=50&ms=60") + get("/echo"))
        self.assertEqual(busy.head().status, 200)
        slow.send(get("/slow?ms=3000"))
        wait_for("all of them", lambda: server.stats()["conns"] == 5)
        server.process.send_signal(signal.SIGUSR1)
        self.assertTrue(idle.closed())
        self.assertEqual(fresh.ask(get("/echo")).headers["connection"], "close")
        events = 0
        while busy.chunk():
            events += 1
        self.assertEqual(events, 50)
        self.assertTrue(busy.closed())
        self.assertEqual(slow.reply().headers["connection"], "close")
        self.assertTrue(slow.closed())
        self.assertEqual(server.process.wait(BOUND), 0)
