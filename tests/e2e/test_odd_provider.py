"""Goal:   a provider that is odd in ways that real ones are: it keeps the connection after its end
        mark, contradicts its own usage, shows our key in an error; and what a client can hide in
        a request is paid for.
Method: a provider of a few lines that answers with whatever the test has put down for a model.
"""
import json
import signal
import socket
import threading
import time
import unittest

from tolld import Case, Tolld, cost, end_of, micro, text_of, wait_for

KEY = "provider-secret-key-0123456789"


def event(**fields):
    return "data: " + json.dumps(fields) + "\n\n"


def text(s):
    return event(choices=[{"index": 0, "delta": {"content": s}, "finish_reason": None}])


FINISH = event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
DONE = "data: [DONE]\n\n"


def usage(prompt, completion):
    return event(choices=[], usage={"prompt_tokens": prompt, "completion_tokens": completion,
                                    "total_tokens": prompt + completion})


class Provider:
    """Answers with answers[model], or of the path: (status, content type, body, hang); closes
    unless it hangs."""

    def __init__(self):
        self.answers = {}
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.left = 0  # connections that hung until tolld closed them
        self.asked = []  # (head, body) of every request
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                c, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self.answer, args=(c,), daemon=True).start()

    def answer(self, c):
        data = b""
        while b"\r\n\r\n" not in data:
            data += c.recv(65536)
        head, body = data.split(b"\r\n\r\n", 1)
        length = next(int(x.split(b":")[1]) for x in head.split(b"\r\n")
                      if x.lower().startswith(b"content-length:"))
        while len(body) < length:
            body += c.recv(65536)
        self.asked.append((head.decode(), json.loads(body)))
        path = head.split(b" ")[1].decode()
        key = path if path in self.answers else json.loads(body)["model"]
        status, kind, out, hang = self.answers[key]
        c.sendall(f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nConnection: close\r\n\r\n"
                  .encode() + out.encode())
        if hang:
            while c.recv(65536):
                pass
            self.left += 1
        c.close()

    def close(self):
        self.socket.close()


class OddProvider(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.provider = Provider()
        config = f'''
provider "odd" {{
    dialect = "openai"
    base_url = "http://127.0.0.1:{cls.provider.port}/v1"
    api_key = "{KEY}"
}}
model "odd" {{
    provider = {{"odd"}}
    upstream = "odd"
    tokenizer = "o200k_base"
    price_prompt = 0.15
    price_cached = 0.075
    price_completion = 0.60
    context = 1000000
    max_completion = 100000
}}
'''
        cls.t = Tolld(config=config, sim=False, ledger="slice_tokens = 50").start()
        cls.addClassCleanup(cls.t.close)
        cls.addClassCleanup(cls.provider.close)
        cls.key = cls.t.account("alice", "100")

    def odd(self, body, status=200, kind="text/event-stream", hang=False, **fields):
        """Run one stream against this answer: its last event's type and data, and the text."""
        self.provider.answers["odd"] = (status, kind, body, hang)
        events = self.t.run(self.key, fields.pop("message", "hello"), "odd", **fields)
        wait_for(lambda: self.t.ctl("hold", "list") == [], 10, "holds to be closed")
        self.t.audit()
        return end_of(events) + (text_of(events),)

    def ours(self):
        """Our count of the prompt "hello"."""
        return self.t.request("POST", "/chat/preview", {"model": "odd", "message": "hello"},
                              self.key)[2]["prompt_tokens"]

    def test_connection_that_stays_open_after_the_end(self):
        began = time.monotonic()
        kind, end, got = self.odd(text("whole") + FINISH + usage(9, 3) + DONE, hang=True)
        self.assertEqual((kind, end.get("finish_reason"), got), ("done", "stop", "whole"), end)
        self.assertEqual(micro(end["cost"]), cost(9, 3))
        self.assertLess(time.monotonic() - began, 50)  # not after the time-out of 60 s
        wait_for(lambda: self.provider.left == 1, 10, "the connection to be closed")

    def test_usage_that_turns_impossible_is_not_believed(self):
        """What came before the impossible one was not the last word."""
        for last in (usage(9, -1), usage(9, 2), event(choices=[], usage={"prompt_tokens": "x"})):
            before = self.t.metric("tolld_stream_defects_total")
            kind, end, got = self.odd(
                usage(9, 3) + text("some words of an answer") + FINISH + last + DONE)
            self.assertEqual((kind, got), ("done", "some words of an answer"))
            self.assertEqual(end["usage"]["prompt_tokens"], self.ours(), last)
            self.assertNotEqual(end["usage"]["completion_tokens"], 3)
            self.assertEqual(self.t.metric("tolld_stream_defects_total") - before, 1)
        self.assertIn("usage not believed", self.t.log())

    def test_usage_that_more_was_said_after_is_not_the_last_word(self):
        """A running count that was not brought to its end, or a beginning's: what came later would
        be for nothing.  On every way; and of what an event says the count in it is the count."""
        words = "some words of an answer " * 20
        running = event(choices=[{"index": 0, "delta": {"content": words}, "finish_reason": None}],
                        usage={"prompt_tokens": 9, "completion_tokens": 70})
        called = event(choices=[{"index": 0, "delta": {"tool_calls": [
            {"index": 0, "id": "c", "type": "function",
             "function": {"name": "f", "arguments": '"' + words + '"'}}]}, "finish_reason": None}])
        thought = event(choices=[{"index": 0, "delta": {"reasoning_content": words},
                                  "finish_reason": None}])
        for body in (usage(9, 1) + text(words) + FINISH + DONE,
                     text("so") + usage(9, 1) + text(words) + DONE,
                     usage(9, 1) + called + text("x") + FINISH + DONE,
                     usage(9, 1) + thought + text("x") + FINISH + DONE,
                     text("so") + FINISH + usage(9, 1) + text(words) + DONE,
                     running + text(words) + FINISH + DONE):
            before = self.t.metric("tolld_stream_defects_total")
            kind, end, _ = self.odd(body)
            self.assertEqual((kind, end["usage"]["prompt_tokens"]), ("done", self.ours()), body)
            self.assertGreater(end["usage"]["completion_tokens"], 90)
            self.assertEqual(self.t.metric("tolld_stream_defects_total") - before, 1)
        for body in (text(words) + running + FINISH + DONE,
                     running + running + text("") + FINISH + DONE):
            _, end, _ = self.odd(body)
            self.assertEqual(micro(end["cost"]), cost(9, 70))
        before = micro(self.t.show("alice")["balance"])
        self.provider.answers["odd"] = (
            200, "text/event-stream", usage(9, 1) + text(words) + FINISH + DONE, False)
        status, _, body = self.t.request("POST", "/v1/chat/completions", {
            "model": "odd", "messages": [{"role": "user", "content": "hello"}],
            "stream": True}, self.key)
        self.assertEqual(status, 200, body)
        wait_for(lambda: self.t.ctl("hold", "list") == [], 10, "holds to be closed")
        self.assertGreater(before - micro(self.t.show("alice")["balance"]), cost(9, 90))

    def test_usage_without_a_prompt_is_not_believed(self):
        for odd in (usage(0, 5), event(choices=[], usage={"completion_tokens": 5})):
            _, end, _ = self.odd(text("some words of an answer") + FINISH + odd + DONE)
            self.assertEqual(end["usage"]["prompt_tokens"], self.ours())

    def test_prompt_in_any_field_is_paid(self):
        """An assistant's function call is prompt to the provider, whatever we make of it."""
        for extra in ({"function_call": {"name": "f", "arguments": "word " * 4000}},
                      {"reasoning_content": "word " * 4000}):
            messages = [dict({"role": "assistant", "content": None}, **extra),
                        {"role": "user", "content": "go on"}]
            self.provider.answers["odd"] = (
                200, "text/event-stream", text("yes") + FINISH + usage(4100, 1) + DONE, False)
            status, _, sent = self.t.request(
                "POST", "/chat/send", {"model": "odd", "messages": messages}, self.key)
            self.assertEqual(status, 200, sent)
            kind, end = end_of(list(self.t.open(sent["stream_id"]).typed()))
            self.assertEqual(kind, "done")
            self.assertEqual(micro(end["cost"]), cost(4100, 1))

    def test_key_is_never_shown_in_part(self):
        for pad in (0, 100, 230, 240, 250, 254):
            body = json.dumps({"error": {"message": "x" * pad + KEY + " is no key \u00e9" * 30}})
            kind, end, _ = self.odd(body, status=400, kind="application/json")
            self.assertEqual((kind, end["error"]["code"]), ("error", "upstream_error"))
            self.assertNotIn(KEY[:4], end["error"]["message"], pad)
            self.assertIn("x" * min(pad, 200), end["error"]["message"])
            self.assertNotIn("\ufffd", end["error"]["message"])

    def test_refused_key_is_the_operators_matter(self):
        body = json.dumps({"error": {"message": "Incorrect API key provided: prov***6789"}})
        kind, end, _ = self.odd(body, status=401, kind="application/json")
        self.assertEqual((kind, end["error"]["code"]), ("error", "upstream_error"))
        self.assertNotIn("6789", end["error"]["message"])
        self.assertIn("provider refuses the key", self.t.log())

    def test_error_without_a_message_has_one(self):
        kind, end, got = self.odd(text("a") + event(error={}))
        self.assertEqual((kind, end["error"]["code"], got), ("error", "upstream_error", "a"))
        self.assertNotEqual(end["error"]["message"], "")

    def test_no_stream_id_in_the_log(self):
        self.provider.answers["odd"] = (200, "text/event-stream",
                                        text("abc") + FINISH + usage(10**6, 5) + DONE, False)
        sent = self.t.send(self.key, "hello", "odd")
        list(self.t.open(sent["stream_id"]).typed())
        wait_for(lambda: sent["message_id"] in self.t.log(), 10, "the stream's line")
        self.assertNotIn(sent["stream_id"], self.t.log())


class Resume(Case):
    """Who comes back and leaves at once must not be sent to the start by the first event's id."""

    OPTIONS = dict(models={"short": "sim:tokens=30,lang=even"})

    def test_first_event_keeps_the_place(self):
        key = self.t.account("alice", "100")
        sent = self.t.send(key, "hello", "short")
        whole = text_of(list(self.t.open(sent["stream_id"]).typed()))
        s = self.t.open(sent["stream_id"], last_id="50")
        event_id, data = next(s.events())
        s.close()
        self.assertEqual(json.loads(data)["type"], "metadata")
        again = list(self.t.open(sent["stream_id"], last_id=event_id).typed())
        self.assertEqual(text_of(again), whole[50:])


class StopWithStalledClient(Case):
    """A stop does not wait for a client that reads nothing, and leaves nothing behind."""

    OPTIONS = dict(models={"flood": "sim:tokens=90000,lang=even"},
                   ledger="slice_tokens = 2000")

    def test_stop(self):
        key = self.t.account("alice", "1000")
        sent = self.t.send(key, "hello", "flood")
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            s.connect(("127.0.0.1", self.t.port))
            s.sendall(f"GET /stream?id={sent['stream_id']} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            wait_for(lambda: (self.t.ctl("hold", "list") or [{"metered": 0}])[0]["metered"] > 5000,
                     20, "text to queue up")
            self.assertEqual(self.t.stop(signal.SIGINT), 0)


if __name__ == "__main__":
    unittest.main()
