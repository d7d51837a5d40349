"""Goal:   whatever bytes a provider sends as HTTP, as events or as JSON: the client gets all that was
        good, is told the truth about the rest, and pays for what came.
Method: a provider that sends raw bytes, in the pieces that a table says, one row after the other
        through one daemon; text, end and charge of each are asserted, and the books afterwards.
"""
import gzip
import json
import socket
import threading
import time
import unittest

from provider import DONE, FINISH, event, text, usage
from tolld import SLOW, Tolld, cost, end_of, micro, text_of, wait_for

WORDS = "good answer"
GOOD = (text(WORDS) + FINISH + usage(9, 3) + DONE).encode()
SSE = b"Content-Type: text/event-stream\r\n"
OK = b"HTTP/1.1 200 OK\r\n" + SSE
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
UNTIL_CLOSE = OK + b"Connection: close\r\n\r\n"
MAX_LINE = 8192


def chunk(data, extension=b""):
    return b"%X%s\r\n%s\r\n" % (len(data), extension, data)


def content(raw):
    """An event whose content is this JSON text."""
    return b'data: {"choices":[{"index":0,"delta":{"content":%s}}]}\n\n' % raw


def whole(*events):
    return UNTIL_CLOSE + b"".join(events) + GOOD


def refusal(status, body, headers=b""):
    return (b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s\r\n%s" %
            (status, len(body), headers, body))


class Raw:
    """Sends what `answer` holds, each piece by itself; then closes, or hangs or floods until
    tolld does."""

    def __init__(self):
        self.answer, self.then, self.left = [], "close", 0
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                c, _ = self.socket.accept()
            except OSError:
                return
            c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self.talk, args=(c,), daemon=True).start()

    def talk(self, c):
        data = b""
        while b"\r\n\r\n" not in data:
            data += c.recv(65536)
        head, body = data.split(b"\r\n\r\n", 1)
        length = next(int(x.split(b":")[1]) for x in head.split(b"\r\n")
                      if x.lower().startswith(b"content-length:"))
        while len(body) < length:
            body += c.recv(65536)
        try:
            for piece in self.answer:
                c.sendall(piece)
            if self.then == "flood":
                while True:
                    c.sendall(b" " * 65536)
            while self.then == "hang" and c.recv(65536):
                pass
            if self.then != "close":
                self.left += 1
        except OSError:
            self.left += 1
        c.close()


# name: bytes sent, and the text if it is not WORDS.  All of them end well, by the usage.
WELL = {
    "HTTP/1.0, to the close": (b"HTTP/1.0 200 OK\r\n" + SSE + b"\r\n" + GOOD,),
    "no reason phrase": (UNTIL_CLOSE.replace(b" OK", b"") + GOOD,),
    "bare line feeds": (UNTIL_CLOSE.replace(b"\r", b"") + GOOD,),
    "interim responses": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nContent-Type: text/html"
                          b"\r\nContent-Length: 3\r\nRetry-After: 9\r\n\r\n" + UNTIL_CLOSE + GOOD,),
    "extensions and trailers": (CHUNKED + chunk(GOOD, b';a="b"; c') +
                                b"000;x\r\nServer-Timing: x\r\nContent-Length: 1\r\n\r\n",),
    "a length that is right": (OK + b"Content-Length: %d\r\n\r\n" % len(GOOD) + GOOD,),
    "a length that is too large": (OK + b"Content-Length: 999999\r\n\r\n" + GOOD,),
    "the last chunk is missing": (CHUNKED + chunk(GOOD),),
    "a bad chunk after the end mark": (CHUNKED + chunk(GOOD) + b"zz\r\n",),
    "media type in capitals": (whole().replace(b"text/event-stream",
                                               b"Text/Event-Stream\t; charset=utf-8"),),
    "BOM": (UNTIL_CLOSE + b"\xef\xbb\xbf" + GOOD,),
    "lines end with CR": (UNTIL_CLOSE + GOOD.replace(b"\n", b"\r"),),
    "no blank after the colon": (UNTIL_CLOSE + GOOD.replace(b"data: ", b"data:"),),
    "several data lines": (UNTIL_CLOSE + GOOD.replace(b'"delta":', b'\ndata:\ndata:"delta":'),),
    "comments and fields": (whole(b": x\n:\n\nretry: 5\nid: a\0b\nid\nevent\nodd: 1\n\ndata\n\n"),),
    "an event of blanks": (whole(b"data:  \n\n"),),
    "keys twice": (whole(b'data: {"choices":[],"choices":[],"id":1,"id":2}\n\n'),),
    "huge numbers": (whole(b'data: {"choices":[],"created":' + b"9" * 4000 + b',"x":1e999999}\n\n'),),
    "zero bytes": (whole(b'data: {"choices"\0:[]}\n\n', content(b'"\0"')),),
    "deep": (whole(b"data: " + b"[" * 4000 + b"\n\n", b'data: {"x":' + b'{"a":' * 1000 + b"\n\n"),),
    "not an object": (whole(b"data: 1\n\ndata: null\n\ndata: \"x\"\n\ndata: []\n\n"),),
    "half a pair alone": (whole(content(b'"a\\ud800b"'), content(b'"\\udc00 "')), "a\ufffdb\ufffd " + WORDS),
    "a pair in two events": (whole(content(b'"\\ud83d"'), content(b'"\\ude00 "')), "\U0001f600 " + WORDS),
    "two first halves": (whole(content(b'"\\ud83d"'), content(b'"\\ud83d"'), content(b'"\\ude00 "')),
                         "\ufffd\U0001f600 " + WORDS),
    "overlong and beyond": (whole(content(b'"\xc0\xaf\xf5\x80 \xed\xa0\x80 "')),
                            "\ufffd\ufffd\ufffd\ufffd \ufffd\ufffd\ufffd " + WORDS),
    "zero as an escape": (whole(content(b'"a\\u0000b "')), "a\0b " + WORDS),
    "after the end mark": (whole(text("x").encode()).replace(text("x").encode(), b"") +
                           text("more").encode() + event(error={"message": "late"}).encode(),),
}

# name: bytes sent; then the text, the code, the kind, and what the message has in it.  Charged
# by our count of the text.
BADLY = {
    "closed in the status line": (b"HTTP/1.1 20", "", "upstream_error", "connect", ""),
    "closed in the head": (OK + b"X: y", "", "upstream_error", "connect", ""),
    "closed at once": (b"", "", "upstream_error", "connect", ""),
    "closed in a chunk's size": (CHUNKED + chunk(text("one").encode()) + b"5", "one",
                                 "upstream_truncated", "truncated", ""),
    "a length that is too small": (OK + b"Content-Length: %d\r\n\r\n" % (len(GOOD) - 20) + GOOD,
                                   WORDS, "upstream_truncated", "truncated", ""),
    "no HTTP": (b"SSH-2.0-x\r\n\r\n", "", "upstream_error", "protocol", ""),
    "a head without end": (OK + b"X: " + b"y" * 70000, "", "upstream_error", "protocol", ""),
    "a zero byte in the head": (OK + b"X: \0\r\n\r\n" + GOOD, "", "upstream_error", "protocol", ""),
    "two lengths": (OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n" + GOOD, "",
                    "upstream_error", "protocol", ""),
    "a length beside chunks": (OK + b"Content-Length: 5\r\nTransfer-Encoding : chunked\r\n\r\n" +
                               chunk(GOOD), "", "upstream_error", "protocol", ""),
    "a bad chunk": (CHUNKED + chunk(text("one").encode()) + b"zz\r\n", "one", "upstream_error",
                    "protocol", ""),
    "gzip": (OK + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(GOOD), "", "upstream_error",
             "protocol", ""),
    "gzip, not said": (UNTIL_CLOSE + gzip.compress(GOOD), "", "upstream_error", "truncated", ""),
    "gzip of a refusal": (refusal(429, gzip.compress(b'{"error":"x"}'), b"Content-Encoding: gzip\r\n"),
                          "", "overloaded", "rate_limit", "429"),
    "UTF-16": (UNTIL_CLOSE + GOOD.decode().encode("utf-16"), "", "upstream_error", "truncated", ""),
    "a redirect": (b"HTTP/1.1 307 X\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
                   "", "upstream_error", "status", "307"),
    "a line over the limit": (UNTIL_CLOSE + text("one").encode() + b": " + b"x" * MAX_LINE, "one",
                              "upstream_error", "protocol", str(MAX_LINE)),
    "an event over the limit": (UNTIL_CLOSE + text("one").encode() + b"data: 1234567890\n" * 1000,
                                "one", "upstream_error", "protocol", str(MAX_LINE)),
    "an event without its end": (UNTIL_CLOSE + text("one").encode() + text(" two").encode()[:-1],
                                 "one", "upstream_truncated", "truncated", ""),
    # Errors as providers write them, in their streams...
    "error: an object": (UNTIL_CLOSE + text("one").encode() + event(
        error={"message": "it broke", "code": 502}, choices=[]).encode() + DONE.encode(),
        "one", "upstream_error", "error_event", "it broke"),
    "error: a text": (UNTIL_CLOSE + text("one").encode() + event(error="it broke").encode(), "one",
                      "upstream_error", "error_event", "it broke"),
    "error: vLLM's": (UNTIL_CLOSE + text("one").encode() + event(
        object="error", message="it broke", type="x", code=400).encode(), "one",
        "upstream_error", "error_event", "it broke"),
    "error: a finish reason": (UNTIL_CLOSE + text("one").encode() + event(choices=[
        {"index": 0, "delta": {"content": ""}, "finish_reason": "error"}]).encode(), "one",
        "upstream_error", "error_event", ""),
    "error: nothing in it": (UNTIL_CLOSE + text("one").encode() + event(error={}).encode(), "one",
                             "upstream_error", "error_event", "reported an error"),
    "error: its type is not a text": (UNTIL_CLOSE + text("one").encode() + event(
        error={"message": {"a": 1}, "type": 5}).encode(), "one", "upstream_error", "error_event", ""),
    # ...and as the body of a status.
    "status: OpenAI's": (refusal(400, b'{"error":{"message":"it broke","type":"t","param":null}}'), "",
                         "upstream_error", "status", "it broke"),
    "status: Anthropic's": (refusal(529, b'{"type":"error","error":{"type":"o","message":"it broke"}}'),
                            "", "upstream_error", "server_error", "it broke"),
    "status: Ollama's": (refusal(404, b'{"error":"it broke"}'), "", "upstream_error", "status",
                         "it broke"),
    "status: Mistral's": (refusal(422, b'{"object":"error","message":"it broke","code":null}'), "",
                          "upstream_error", "status", "it broke"),
    "status: FastAPI's": (refusal(422, b'{"detail":"it broke"}'), "", "upstream_error", "status",
                          "it broke"),
    "status: FastAPI's list": (refusal(422, b'{"detail":[{"loc":["body"],"msg":"it broke"}]}'), "",
                               "upstream_error", "status", "422"),
    "status: Google's": (refusal(400, b'[{"error":{"code":400,"message":"it broke"}}]'), "",
                         "upstream_error", "status", "it broke"),
    "status: not UTF-8": (refusal(400, b'{"error":{"message":"it\xff broke"}}'), "", "upstream_error",
                          "status", "it\ufffd broke"),
    "status: HTML": (refusal(502, b"<html><h1>it broke</h1>"), "", "upstream_error", "server_error",
                     "502"),
    "status: deep": (refusal(500, b"[" * 60000), "", "upstream_error", "server_error", "500"),
}


class WildProvider(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.p = Raw()
        cls.t = Tolld(sim=False, ledger="slice_tokens = 50",
                      timeouts="first_token = 20 idle = 20", config=f'''
provider "p" {{ base_url = "http://127.0.0.1:{cls.p.port}/v1"
    retries = 0 breaker_failures = 0 max_line = {MAX_LINE} }}
model "m" {{ provider = {{"p"}} tokenizer = "o200k_base"
    price_prompt = 0.15 price_cached = 0.075 price_completion = 0.60
    max_completion = 100 }}
''')
        cls.addClassCleanup(cls.t.close)
        cls.addClassCleanup(cls.p.socket.close)
        cls.t.start()
        cls.key = cls.t.account("alice", "1000")
        cls.prompt = cls.t.request("POST", "/chat/preview", {"model": "m", "message": "hello"},
                                   cls.key)[2]["prompt_tokens"]

    def run_one(self, pieces, then="close"):
        """The end's kind and data, the text, and what was taken off the balance."""
        self.p.answer, self.p.then = pieces, then
        before = micro(self.t.show("alice")["balance"])
        events = self.t.run(self.key, "hello", "m")
        wait_for(lambda: self.t.ctl("hold", "list") == [], 10, "holds to be closed")
        return end_of(events) + (text_of(events),
                                 before - micro(self.t.show("alice")["balance"]))

    def tearDown(self):
        self.t.audit()

    def good(self, where, pieces, wanted):
        kind, end, got, charged = self.run_one(pieces)
        self.assertEqual((kind, end.get("finish_reason"), got), ("done", "stop", wanted),
                         f"{where}: {end}")
        self.assertEqual((charged, micro(end["cost"])), (cost(9, 3),) * 2, where)

    def test_well(self):
        for where, (sent, *wanted) in WELL.items():
            self.good(where, [sent], wanted[0] if wanted else WORDS)

    def test_well_byte_by_byte(self):
        for where, (sent, *wanted) in WELL.items():
            if len(sent) < 2000:
                self.good(where, [sent[i:i + 1] for i in range(len(sent))],
                          wanted[0] if wanted else WORDS)

    def test_badly(self):
        for where, (sent, wanted, code, why, words) in BADLY.items():
            kind, end, got, charged = self.run_one([sent])
            self.assertEqual(kind, "error", f"{where}: {end}")
            error = end["error"]
            self.assertEqual((got, error["code"], error["kind"]), (wanted, code, why), where)
            self.assertIn(words, error["message"], where)
            self.assertEqual(charged, micro(end["cost"]), where)
            # These texts are of one token a word.
            self.assertEqual(charged, cost(self.prompt, len(got.split())) if got else 0, where)

    def test_refusal_without_end(self):
        """Its status is enough: neither its silence nor its flood is waited for."""
        head = (b"HTTP/1.1 429 X\r\nContent-Type: application/json\r\nRetry-After: 77\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n")
        for pieces, then, seconds in (([head + chunk(b'{"error"')], "hang", 5),
                                      ([head + b"fffffff\r\n"], "flood", 0)):
            left, began = self.p.left, time.monotonic()
            kind, end, got, charged = self.run_one(pieces, then)
            took = time.monotonic() - began
            self.assertEqual((kind, end["error"]["code"], end["error"]["kind"], charged),
                             ("error", "overloaded", "rate_limit", 0), end)
            self.assertEqual(end["error"]["retry_after"], 77)
            self.assertLess(took, seconds + 12 * SLOW)  # and not for a time-out of twenty seconds
            wait_for(lambda: self.p.left == left + 1, 5, "the provider to be left")

    def test_page_without_end(self):
        left = self.p.left
        kind, end, _, charged = self.run_one(
            [b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n"], "flood")
        self.assertEqual((kind, end["error"]["kind"], charged), ("error", "protocol", 0), end)
        wait_for(lambda: self.p.left == left + 1, 5, "the provider to be left")

    def test_thoughts_without_end(self):
        """A provider that never comes to its answer: it is left, and the bill has an end."""
        thought = event(choices=[{"index": 0, "delta": {"reasoning": "hm " * 300}}]).encode()
        left = self.p.left
        kind, end, got, charged = self.run_one([UNTIL_CLOSE] + [thought] * 200, "hang")
        self.assertEqual((kind, end["finish_reason"], got), ("done", "length", ""), end)
        self.assertEqual(charged, micro(end["cost"]))
        # Of 60,000 tokens no more than 100 * 128 bytes, and the event that went beyond.
        self.assertGreater(charged, cost(self.prompt, 0))
        self.assertLess(charged, cost(self.prompt, 100 * 128 // 3 + 600))
        wait_for(lambda: self.p.left == left + 1, 5, "the provider to be left")

    def test_line_of_just_the_limit(self):
        for over in (0, 1):
            line = content(b'"%s"' % (b" x" * MAX_LINE))
            excess = len(line) - 2 - MAX_LINE - over
            line = content(b'"%s"' % (b" x" * MAX_LINE)[:2 * MAX_LINE - excess])
            self.assertEqual(len(line) - 2, MAX_LINE + over)
            for cut in (1, 100, len(line)):
                sent = UNTIL_CLOSE + line + GOOD
                kind, end, _, _ = self.run_one([sent[i:i + cut * 64]
                                                for i in range(0, len(sent), cut * 64)])
                self.assertEqual(kind, "error" if over else "done", end)


if __name__ == "__main__":
    unittest.main()
