"""Goal:   connections to a provider are used again, and one that was closed meanwhile costs nobody
        an answer: the request goes out once more, on a new connection, and no more than that.
Method: a provider of a few lines that keeps connections open, and closes them at chosen moments.
"""
import json
import os
import signal
import socket
import threading
import time
import unittest

from tolld import Tolld, end_of, text_of, wait_for

BODY = ('data: {"choices":[{"index":0,"delta":{"content":"hello"},"finish_reason":null}]}\n\n'
        'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
        'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1}}\n\n'
        "data: [DONE]\n\n")
STALE = BODY.replace("hello", "another's").encode()


class Provider:
    """mode: keep (answer and keep open), drop (read a second request on a connection, close it
    unanswered), idle (close after each answer, without having said so), deaf (never answer)."""

    def __init__(self):
        self.mode = "keep"
        self.held = None  # the connection that was used last
        self.connections = self.requests = 0
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                c, _ = self.socket.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self.talk, args=(c,), daemon=True).start()

    def request(self, c):
        data = b""
        while b"\r\n\r\n" not in data:
            try:
                more = c.recv(65536)
            except ConnectionResetError:
                return False
            if not more:
                return False
            data += more
        head, body = data.split(b"\r\n\r\n", 1)
        length = next(int(x.split(b":")[1]) for x in head.split(b"\r\n")
                      if x.lower().startswith(b"content-length:"))
        while len(body) < length:
            body += c.recv(65536)
        json.loads(body)
        self.requests += 1
        return True

    def talk(self, c):
        first = True
        self.held = c
        while self.request(c):
            if self.mode == "deaf" or (self.mode == "drop" and not first):
                break
            c.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                      b"Transfer-Encoding: chunked\r\n\r\n" +
                      f"{len(BODY):x}\r\n{BODY}\r\n0\r\n\r\n".encode())
            if self.mode == "idle":
                break
            first = False
        c.close()


class Reuse(unittest.TestCase):
    def setUp(self):
        self.provider = Provider()
        self.addCleanup(self.provider.socket.close)
        self.t = Tolld(sim=False, models={}, config=f'''
provider "p" {{ base_url = "http://127.0.0.1:{self.provider.port}/v1" retries = 0 }}
model "m" {{
    provider = {{"p"}}
    tokenizer = "o200k_base"
    price_prompt = 0.15
    price_completion = 0.60
}}
''')
        self.t.start()
        self.addCleanup(self.t.close)
        self.key = self.t.account("alice", "10")

    def answers(self, n):
        for _ in range(n):
            events = self.t.run(self.key, "hi", "m")
            kind, done = end_of(events)
            self.assertEqual((kind, text_of(events)), ("done", "hello"), done)

    def test_kept(self):
        self.answers(10)
        self.assertEqual((self.provider.connections, self.provider.requests), (1, 10))

    def test_closed_unanswered(self):
        self.provider.mode = "drop"
        self.answers(5)
        # Each but the first is tried on the old connection, then on a new one.
        self.assertEqual((self.provider.connections, self.provider.requests), (5, 9))

    def test_closed_while_idle(self):
        self.provider.mode = "idle"
        self.answers(5)
        self.assertEqual(self.provider.connections, 5)

    def test_what_was_not_asked_for_is_no_answer(self):
        """An answer that comes while nobody asked must not become that of the next, whoever asks:
        not even if the worker sees the question first."""
        self.answers(1)
        sent = self.t.send(self.key, "hi", "m")
        worker = next(p for t, p in self.t.children().items() if "worker" in t)
        with socket.create_connection(("127.0.0.1", self.t.port)) as c:
            c.sendall(b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n")
            self.assertIn(b" 404 ", c.recv(65536))
            os.kill(worker, signal.SIGSTOP)
            try:
                # Linux tells of what is ready in the order in which it became so.
                c.sendall(f"GET /stream?id={sent['stream_id']} HTTP/1.1\r\nHost: x\r\n"
                          "Connection: close\r\n\r\n".encode())
                self.provider.held.sendall(
                    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                    b"Content-Length: %d\r\n\r\n%s" % (len(STALE), STALE))
            finally:
                os.kill(worker, signal.SIGCONT)
            got = b""
            while more := c.recv(65536):
                got += more
        self.assertIn(b'"full_text":"hello"', got)
        self.assertNotIn(b"another", got)
        self.assertEqual((self.provider.connections, self.provider.requests), (2, 2))
        self.t.audit()

    def test_never_twice_on_a_new_connection(self):
        self.provider.mode = "deaf"
        kind, end = end_of(self.t.run(self.key, "hi", "m"))
        self.assertEqual((kind, end["error"]["code"]), ("error", "upstream_error"))
        self.assertEqual((self.provider.connections, self.provider.requests), (1, 1))
        self.t.audit()


class Told:
    """A provider that says so much of an answer, and goes on, or closes, when it is told to."""

    def __init__(self):
        self.connections = {}  # by the first word of the question
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                c, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self.talk, args=(c,), daemon=True).start()

    def talk(self, c):
        data = b""
        while not data.endswith(b"}") or b"\r\n\r\n" not in data:
            more = c.recv(65536)
            if not more:
                return
            data += more
        asked = json.loads(data.split(b"\r\n\r\n", 1)[1])
        c.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        self.connections[asked["messages"][-1]["content"].split()[0]] = c

    def say(self, who, words):
        self.connections[who].sendall(b"data: " + json.dumps({"choices": [
            {"index": 0, "delta": {"content": words}, "finish_reason": None}]}).encode() + b"\n\n")

    def end(self, who):
        self.connections[who].sendall(BODY.split("\n\n", 1)[1].encode())
        self.connections[who].close()


class Closed(unittest.TestCase):
    """A connection that its provider closes while nobody looks at it is not another stream's."""

    def test_the_answer_of_another(self):
        told = Told()
        self.addCleanup(told.socket.close)
        t = Tolld(sim=False, ledger="slice_tokens = 20", config=f'''
provider "told" {{ dialect = "openai" base_url = "http://127.0.0.1:{told.port}/v1" api_key = "k"
    retries = 0 }}
model "told" {{ provider = {{"told"}} upstream = "told" tokenizer = "o200k_base"
    price_prompt = 0.15 price_completion = 0.60 max_completion = 1000 }}
''').start()
        self.addCleanup(t.close)
        key = t.account("alice", "100")
        events = {}

        def run(who, stream_id):
            events[who] = list(t.open(stream_id).typed())

        sent = {who: t.send(key, who, "told")["stream_id"] for who in ("a", "b", "c", "x", "y")}
        threads = {who: threading.Thread(target=run, args=(who, sent[who])) for who in sent}
        for who in "abc":
            threads[who].start()
        wait_for(lambda: len(told.connections) == 3, 10, "three calls")
        keeper = t.children()["tolld: keeper"]
        os.kill(keeper, signal.SIGSTOP)
        try:
            # More than was paid ahead: the rest waits for the keeper, and nothing is read.
            for who in "abc":
                told.say(who, "mine " * 60)
            wait_for(lambda: sum(h["metered"] for h in t.ctl("hold", "list")) >= 60, 5,
                     "what is paid ahead to be used up")
            for who in "abc":
                told.connections[who].close()
            # libcurl looks for dead connections when it makes another, once a second.
            begun = time.monotonic()
            wait_for(lambda: time.monotonic() - begun > 1.2, 5, "a second to pass")
            for who in "xy":
                threads[who].start()
            wait_for(lambda: len(told.connections) == 5, 3, "two more calls")
        finally:
            os.kill(keeper, signal.SIGCONT)
        for who in "abc":
            threads[who].join(20)
            self.assertFalse(threads[who].is_alive(), "it waits for what is not its own")
        for who in "xy":
            told.say(who, who + " alone")
            told.end(who)
            threads[who].join(20)
        for who in "abc":
            self.assertEqual(end_of(events[who])[1]["error"]["kind"], "truncated")
            self.assertEqual(text_of(events[who]), "mine " * 60)
        for who in "xy":
            self.assertEqual(end_of(events[who])[0], "done", events[who][-1])
            self.assertEqual(text_of(events[who]), who + " alone")
        t.audit()


if __name__ == "__main__":
    unittest.main()
