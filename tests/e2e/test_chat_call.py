"""Goal:   POST /api/chat/stream and POST /api/chat: one request, one answer, for clients without
        sessions; metered, cut and settled as any other stream, and ended when their client leaves.
Method: a real daemon with two workers and plain HTTP clients, the provider's own count of who left,
        and the books after each.
"""
import json
import socket
import unittest

from tolld import Case, Stream, cost, micro, wait_for

EXACT = "exact=o200k_base"


class ChatCall(Case):
    OPTIONS = dict(workers=2, models={
        "short": f"sim:tokens=12,{EXACT}",
        "long": f"sim:tokens=400,{EXACT}",
        "slow": f"sim:tokens=4000,rate=100,{EXACT}",
        "silent": "sim:first=60000",
        "tool": "sim:tool=weather",
        "refused": "sim:status=500",
        "broken": f"sim:tokens=20,fault=error@5,{EXACT}",
        "truncated": f"sim:tokens=20,fault=cut@5,{EXACT}",
        "echo": "sim:echo=1",
    }, ledger="slice_tokens = 50 reconnect_grace = 600", timeouts="first_token = 4")

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.key = cls.t.account("alice", "1000")

    def tearDown(self):
        self.invariants()

    def ask(self, model, messages=None, **fields):
        return dict(fields, model=model,
                    messages=messages or [{"role": "user", "content": "hello there"}])

    def stream(self, model, key=None, **fields):
        return Stream(self.t.port, "/api/chat/stream", method="POST",
                      body=json.dumps(self.ask(model, **fields)),
                      headers={"Authorization": "Bearer " + (key or self.key)})

    def whole(self, model, key=None, headers=None, **fields):
        return self.t.request("POST", "/api/chat", self.ask(model, **fields), key or self.key,
                              headers)

    def data(self, stream):
        try:
            return [d for _, d in stream.events()]
        finally:
            stream.close()

    def text_of(self, data):
        return "".join(json.loads(d)["content"] for d in data if d != "[DONE]")

    def balance(self, name="alice"):
        return micro(self.t.show(name)["balance"])

    def prompt(self, model, key=None):
        return self.t.request("POST", "/chat/preview", self.ask(model),
                              key or self.key)[2]["prompt_tokens"]

    def poor(self, name, model, tokens):
        """A key of an account that can pay the prompt and some so many tokens; exactly how many."""
        prompt = self.prompt(model)
        credits = cost(prompt, tokens)
        while cost(prompt, tokens + 1) <= credits:
            tokens += 1
        return self.t.account(name, f"{credits / 1000000:.6f}", 0), tokens

    # How it is said.

    def test_streams(self):
        before = self.balance()
        s = self.stream("short")
        self.assertEqual(s.status, 200)
        self.assertEqual(s.response.headers["Content-Type"], "text/event-stream")
        self.assertEqual(s.response.headers["Cache-Control"], "no-cache, no-transform")
        self.assertEqual(s.response.headers["X-Accel-Buffering"], "no")
        data = self.data(s)
        self.assertEqual(data[-1], "[DONE]")
        self.assertTrue(all(list(json.loads(d)) == ["content"] for d in data[:-1]), data)
        self.assertGreater(len(self.text_of(data).split()), 8)
        self.assertLess(self.balance(), before)

    def test_answers_whole(self):
        before = self.balance()
        status, headers, body = self.whole("short")
        self.assertEqual(status, 200)
        self.assertEqual(sorted(body), sorted([
            "message", "finish_reason", "usage", "cost", "balance", "model", "stream_id",
            "session_id", "message_id"]))
        self.assertEqual(body["message"], self.text_of(self.data(self.stream("short"))))
        self.assertEqual(body["finish_reason"], "stop")
        self.assertEqual(body["usage"]["completion_tokens"], 12)
        self.assertEqual(body["usage"]["total_tokens"], body["usage"]["prompt_tokens"] + 12)
        self.assertEqual(micro(body["cost"]), cost(body["usage"]["prompt_tokens"], 12))
        self.assertEqual(micro(body["balance"]), before - micro(body["cost"]))
        self.assertEqual(headers["x-tolld-finish"], "stop")
        self.assertEqual(micro(headers["x-tolld-cost"]), micro(body["cost"]))
        # Its stream can be read again, as any other.
        s = self.t.open(body["stream_id"])
        again = list(s.typed())
        s.close()
        self.assertEqual(again[-1]["data"]["full_text"], body["message"])

    def test_takes_what_send_takes(self):
        """`message` for `messages`, a session, sampling fields, the default model."""
        status, _, body = self.t.request("POST", "/api/chat", {
            "message": "say \"it\"", "temperature": 0.25, "max_tokens": 4000, "model": "echo"},
            self.key)
        self.assertEqual(status, 200)
        got = json.loads(body["message"])
        self.assertEqual(got["messages"], [{"role": "user", "content": "say \"it\""}])
        self.assertEqual((got["temperature"], got["max_tokens"]), (0.25, 4000))
        session = body["session_id"]
        status, _, body = self.whole("short", session_id=session)
        self.assertEqual((status, body["session_id"]), (200, session))
        status, _, body = self.t.request("POST", "/api/chat", {"message": "hi"}, self.key)
        self.assertEqual((status, body["model"]), (200, "sim"))

    def test_an_end_that_is_no_stop_is_said(self):
        data = self.data(self.stream("long", max_tokens=7))
        last = json.loads(data[-2])
        self.assertEqual((data[-1], last["content"], last["finish_reason"]),
                         ("[DONE]", "", "length"))
        self.assertEqual(last["usage"]["completion_tokens"], 7)
        self.assertEqual(micro(last["cost"]), cost(last["usage"]["prompt_tokens"], 7))
        self.assertEqual(micro(last["balance"]), self.balance())
        self.assertEqual(self.whole("long", max_tokens=7)[2]["finish_reason"], "length")
        self.assertEqual(json.loads(self.data(self.stream("tool"))[-2])["finish_reason"],
                         "tool_calls")

    # Credit.

    def test_cut_at_the_last_token_that_can_be_paid(self):
        for want, how in ((1, "stream"), (60, "stream"), (60, "whole"), (111, "whole")):
            with self.subTest(want=want, how=how):
                name = f"poor-{how}-{want}"
                key, n = self.poor(name, "long", want)
                if how == "stream":
                    data = self.data(self.stream("long", key=key))
                    got, last = self.text_of(data), json.loads(data[-2])
                    self.assertEqual(data[-1], "[DONE]")
                else:
                    status, _, last = self.whole("long", key=key)
                    self.assertEqual(status, 200)
                    got = last["message"]
                self.assertEqual(last["finish_reason"], "credit")
                self.assertEqual(last["usage"]["completion_tokens"], n)
                self.assertEqual(got, self.whole("long", max_tokens=n)[2]["message"])
                self.assertEqual(self.balance(name), micro(last["balance"]))
                self.assertEqual(micro(last["cost"]), cost(self.prompt("long"), n))

    def test_without_credit(self):
        key = self.t.account("broke", "0", 0)
        for path in ("/api/chat", "/api/chat/stream"):
            status, headers, body = self.t.request("POST", path, self.ask("short"), key)
            self.assertEqual((status, body["error"]["code"]), (402, "insufficient_credit"))
            self.assertEqual(headers["x-should-retry"], "false")
            self.assertGreater(body["error"]["required"], body["error"]["available"])

    # What goes wrong.

    def test_who_may(self):
        chat = self.t.ctl("key", "create", "alice", "--scope", "embeddings")["key"]
        for path in ("/api/chat", "/api/chat/stream"):
            def code(body, key=self.key):
                status, _, body = self.t.request("POST", path, body, key)
                return status, body["error"]["code"], body["error"]["param"]

            self.assertEqual(code(self.ask("short"), None), (401, "invalid_api_key", None))
            self.assertEqual(code(self.ask("short"), chat), (403, "insufficient_scope", None))
            self.assertEqual(code(self.ask("none")), (404, "model_not_found", "model"))
            self.assertEqual(code("{"), (400, "invalid_json", None))
            self.assertEqual(code({"model": "short"}), (400, "invalid_request", "message"))
            self.assertEqual(code(self.ask("short", n=2)), (400, "invalid_request", "n"))
            status, headers, _ = self.t.request("GET", path, None, self.key)
            self.assertEqual((status, headers["Allow"]), (405, "POST, OPTIONS"))
            status, _, body = self.t.request("POST", path, self.ask("short"), self.key,
                                             {"Idempotency-Key": "one"})
            self.assertEqual((status, body["error"]["param"]), (400, "Idempotency-Key"))

    def test_limits(self):
        key = self.t.account("hasty", "10")
        self.t.ctl("account", "set", "hasty", "--rpm", 2)
        self.assertEqual(self.whole("short", key=key)[0], 200)
        s = self.stream("short", key=key)
        self.assertEqual((s.status, self.data(s)[-1]), (200, "[DONE]"))
        status, headers, body = self.whole("short", key=key)
        self.assertEqual((status, body["error"]["code"]), (429, "rate_limit_exceeded"))
        self.assertGreaterEqual(int(headers["Retry-After"]), 1)
        self.assertEqual(headers["x-ratelimit-limit-requests"], "2")

    def test_a_failure_before_the_first_token_is_a_status(self):
        before = self.balance()
        for path in ("/api/chat", "/api/chat/stream"):
            for model, status, code in (("refused", 502, "upstream_error"),
                                        ("silent", 504, "upstream_timeout")):
                got, headers, body = self.t.request("POST", path, self.ask(model), self.key)
                self.assertEqual((got, body["error"]["code"]), (status, code))
                self.assertEqual(headers["x-tolld-provider"], "sim")
        self.assertEqual(self.balance(), before)

    def test_a_stream_that_fails_says_so(self):
        before = self.balance()
        for model, code in (("broken", "upstream_error"), ("truncated", "upstream_truncated")):
            data = self.data(self.stream(model))
            self.assertEqual(json.loads(data[-1])["error"]["code"], code)
            self.assertEqual(self.text_of(data[:-1]),
                             self.whole("long", max_tokens=5)[2]["message"])
        self.assertLess(self.balance(), before)

    def test_a_whole_answer_that_fails_costs_nothing(self):
        before = self.balance()
        for model, code in (("broken", "upstream_error"), ("truncated", "upstream_truncated")):
            status, _, body = self.whole(model)
            self.assertEqual((status, body["error"]["code"]), (502, code))
        self.assertEqual(self.balance(), before)

    # Leaving.

    def leave(self, path, model):
        """Ask, leave when the provider is at it: was its call ended at once?"""
        before = self.t.sim.stats()
        body = json.dumps(self.ask(model)).encode()
        with socket.create_connection(("127.0.0.1", self.t.port)) as s:
            s.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self.key}\r\n"
                      f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
            wait_for(lambda: self.t.sim.stats()["tokens"] > before["tokens"] + 10, 10,
                     "the provider to answer")
        # Far below reconnect_grace.
        wait_for(lambda: self.t.sim.stats()["cancelled"] > before["cancelled"], 10,
                 "the provider's call to be ended")
        wait_for(lambda: self.t.ctl("hold", "list") == [], 10, "the settlement")

    def test_who_leaves_ends_it(self):
        for path in ("/api/chat/stream", "/api/chat"):
            before = self.balance()
            self.leave(path, "slow")
            spent = before - self.balance()
            self.assertGreater(spent, cost(self.prompt("slow"), 8))
            self.assertLess(spent, cost(self.prompt("slow"), 2000))

    def test_an_operator_cancels(self):
        s = self.stream("slow")
        events = s.events()
        first = next(events)[1]
        wait_for(lambda: self.t.ctl("stream", "list"), 10, "the stream")
        self.t.ctl("stream", "cancel", self.t.ctl("stream", "list")[0]["stream_id"])
        data = [first] + [d for _, d in events]
        s.close()
        self.assertEqual(data[-1], "[DONE]")
        self.assertEqual(json.loads(data[-2])["finish_reason"], "cancelled")


if __name__ == "__main__":
    unittest.main()
