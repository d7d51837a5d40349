"""Goal:   /v1/chat/completions is OpenAI's own contract, and is metered like /chat/send and /stream.
Method: what the simulated provider says to us and to who asks it directly is compared member by
        member; credit is given for every number of tokens; every charge is checked, the books too.
"""
import http.client
import json
import socket
import unittest

from tolld import PATIENCE, Case, Stream, cost, micro, rests, wait_for
from v1 import chat, post, stream

EXACT = "exact=o200k_base"
MODELS = {
    "ten": f"sim:tokens=10,prompt=8,{EXACT}",
    "cached": f"sim:tokens=10,prompt=8,cached=3,{EXACT}",
    "emoji": "sim:tokens=30,prompt=8,lang=emoji,split=3",
    "odd": "sim:tokens=20,prompt=8,eol=crlf,comments=1,pack=5,batch=3",
    "tool": "sim:tool=weather,prompt=8",
    "think": f"sim:tokens=10,prompt=8,think=let me see,{EXACT}",
    "echo": "sim:echo=1",
    "null": f"sim:tokens=10,prompt=8,usage=null,{EXACT}",
    "finish": f"sim:tokens=10,prompt=8,usage=finish,{EXACT}",
    "none": f"sim:tokens=10,prompt=8,usage=no,{EXACT}",
    "neg": f"sim:tokens=10,prompt=8,usage=neg,{EXACT}",
    "huge": f"sim:tokens=10,prompt=8,usage=huge,{EXACT}",
    "zero": f"sim:tokens=10,prompt=8,usage=zero,{EXACT}",
    "reason": f"sim:tokens=10,prompt=8,reason=5,{EXACT}",
    "empty": "sim:tokens=0,prompt=8",
    "slow": f"sim:tokens=5000,rate=100,{EXACT}",
    "flood": "sim:tokens=90000,lang=even",
    "long": f"sim:tokens=400,prompt=8,{EXACT}",
    "hidden": (f"sim:tokens=10,prompt=8,reason=30,{EXACT}",
               "hidden_tokens = true\n    max_completion = 200"),
    "small": (f"sim:tokens=400,prompt=8,{EXACT}", "max_completion = 50"),
}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]


def plain(chunks):
    """Without what differs from call to call, and without what we add."""
    out = []
    for c in chunks:
        c = dict(c)
        for name in ("id", "created", "tolld"):
            c.pop(name, None)
        c["choices"] = [dict(x, delta={k: v for k, v in x["delta"].items()}) if "delta" in x else x
                        for x in c.get("choices", [])]
        for choice in c["choices"]:
            for call in (choice.get("delta") or choice.get("message") or {}).get("tool_calls", []):
                call.pop("id", None)
        out.append(c)
    return out


class V1(Case):
    OPTIONS = dict(workers=2, models=MODELS, ledger="slice_tokens = 40")

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.key = cls.t.account("alice", "1000")
        cls.accounts = 0

    def account(self, credit="1000"):
        """A fresh account without an overdraft: its name and key."""
        V1.accounts += 1
        self.name = f"a{V1.accounts}"
        return self.t.account(self.name, credit, 0)

    def charged(self, credit="1000"):
        """What the fresh account paid, at rest."""
        wait_for(lambda: micro(self.t.show(self.name)["held"]) == 0, 10, "nothing to be held")
        return micro(credit) - micro(self.t.show(self.name)["balance"])

    def direct(self, model, **fields):
        """The provider's own answer."""
        body = dict({"model": MODELS[model], "messages": [{"role": "user", "content": "hello there"}]},
                    **fields)
        at = type("At", (), {"port": self.t.sim.port})
        return post(at, "/v1/chat/completions", body, newline="\r\n" if "eol=crlf" in
                    MODELS[model] else "\n")

    def ours(self, key, content="hello there"):
        """Our count of a prompt."""
        return self.t.request("POST", "/chat/preview", {"model": "ten", "message": content},
                              key)[2]["prompt_tokens"]

    # What passes through.

    def test_streams_as_the_provider_does(self):
        for model, fields in (("ten", {}), ("emoji", {}), ("odd", {}), ("think", {}),
                              ("tool", {"tools": TOOLS}), ("ten", {"n": 3}), ("tool", {"n": 2}),
                              ("ten", {"logprobs": True}), ("null", {}), ("empty", {}),
                              ("ten", {"max_tokens": 4}), ("ten", {"max_completion_tokens": 4})):
            for usage in (False, True):
                key = self.account()
                asked = dict(fields, stream=True)
                if usage:
                    asked["stream_options"] = {"include_usage": True}
                want = self.direct(model, **asked)
                if model == "null":
                    asked["stream_options"] = {"include_usage": True}
                got = stream(self.t, key, model, usage=usage, **fields)
                what = (model, fields, usage)
                self.assertEqual(got.status, 200, (what, got.body))
                self.assertEqual(got.done, 1, what)
                theirs, mine = plain(want.chunks), plain(got.chunks)
                if model == "null" and not usage:
                    theirs = [c for c in theirs if c["choices"]]  # it says its usage always
                self.assertEqual(mine, theirs, what)
                self.assertEqual(len({c["id"] for c in got.chunks}), 1)
                reason = got.finish()[0]
                self.assertEqual(got.tolld()["finish"], reason, what)
                paid = self.charged()
                self.assertEqual(micro(got.tolld()["cost"]), paid)
                if model not in ("emoji", "odd", "tool"):
                    n = min(fields.get("max_tokens", fields.get("max_completion_tokens", 10)),
                            0 if model == "empty" else 10) * fields.get("n", 1)
                    self.assertEqual(paid, cost(8, n), what)
                if usage:
                    self.assertEqual(
                        paid, cost(got.usage()["prompt_tokens"], got.usage()["completion_tokens"]))
        self.invariants()

    def test_answers_whole_as_the_provider_does(self):
        for model, fields in (("ten", {}), ("emoji", {}), ("think", {}), ("tool", {"tools": TOOLS}),
                              ("ten", {"n": 3}), ("ten", {"logprobs": True}), ("none", {}),
                              ("cached", {}), ("ten", {"max_tokens": 4}), ("ten", {"stream": False}),
                              ("ten", {"stream": None})):
            key = self.account()
            got, want = chat(self.t, key, model, **fields), self.direct(model, **fields)
            what = (model, fields)
            self.assertEqual(got.status, 200, (what, got.body))
            self.assertEqual(plain([got.json]), plain([want.json]), what)
            self.assertEqual(got.headers["Content-Type"], "application/json")
            reason = want.json["choices"][0]["finish_reason"]
            self.assertEqual(got.headers["x-tolld-finish"], reason)
            self.assertEqual(got.headers["x-tolld-provider"], "sim")
            self.assertEqual(micro(got.headers["x-tolld-cost"]), self.charged(), what)
            self.assertEqual(micro(got.headers["x-tolld-available"]),
                             1000000000 - self.charged(), what)
            self.assertGreaterEqual(float(got.headers["x-tolld-overhead-ms"]), 0)
            if "usage" in want.json:
                usage = want.json["usage"]
                cached = usage["prompt_tokens_details"]["cached_tokens"]
                self.assertEqual(self.charged(), cost(usage["prompt_tokens"] - cached,
                                                      usage["completion_tokens"], cached), what)
            else:
                self.assertEqual(self.charged(), cost(self.ours(key), 10), what)
        self.invariants()

    def test_request_passes_through(self):
        """What the provider got, as the provider says it."""
        fields = {
            "tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "weather"}},
            "parallel_tool_calls": False, "response_format": {"type": "json_object"},
            "reasoning_effort": "low", "reasoning": {"max_tokens": 5, "x": [None]}, "seed": 7,
            "logit_bias": {"50256": -100}, "top_logprobs": 2, "stop": ["\n", "end \u20ac"],
            "user": "someone", "metadata": {"a": "b"}, "temperature": 0.30000000000000004,
            "top_p": 1e-3, "service_tier": "auto", "modalities": ["text"], "store": False,
            "something_new": {"deep": [1, {"er": "\U0001f600"}]}, "big": 9007199254740993,
            # Ours elsewhere; not here.
            "message": "m", "session_id": "s",
        }
        messages = [
            {"role": "developer", "content": "be brief"},
            {"role": "user", "name": "bob", "content": [
                {"type": "text", "text": "what is this?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA",
                                                    "detail": "low"}},
                {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
                {"type": "file", "file": {"file_id": "file-1"}}]},
            {"role": "assistant", "content": None, "tool_calls": [
                {"id": "call_1", "type": "function",
                 "function": {"name": "weather", "arguments": "{\"city\":\"Paris\"}"}}]},
            {"role": "tool", "tool_call_id": "call_1", "content": "sun"},
        ]
        for whole in (False, True):
            body = dict(fields, model="echo", messages=messages, stream=not whole)
            if not whole:
                body["stream_options"] = {"include_usage": False, "include_obfuscation": False}
            got = post(self.t, "/v1/chat/completions", body, self.key)
            self.assertEqual(got.status, 200, got.body)
            text = got.json["choices"][0]["message"]["content"] if whole else got.text()
            sent = json.loads(text)
            want = dict(body, model=MODELS["echo"], max_tokens=sent["max_tokens"])
            if not whole:
                want["stream_options"] = {"include_usage": True, "include_obfuscation": False}
            self.assertEqual(sent, want)
            self.assertIn('"temperature":0.30000000000000004', text.replace(" ", ""))
            self.assertIn('"big":9007199254740993', text.replace(" ", ""))
        self.invariants()

    def test_limit_keeps_its_name_and_is_capped(self):
        for name in ("max_tokens", "max_completion_tokens"):
            got = chat(self.t, self.key, "echo", **{name: 100000000})
            self.assertEqual(json.loads(got.json["choices"][0]["message"]["content"])[name], 100000)
        escaped = ('{"model":"echo","messages":[{"role":"user","content":"x"}],'
                   '"max_tok\\u0065ns":7,"\\u0073tream":false}')
        got = post(self.t, "/v1/chat/completions", escaped, self.key)
        self.assertEqual(got.status, 200, got.body)
        self.assertLessEqual(got.json["usage"]["completion_tokens"], 7)

    # Usage.

    def test_usage_is_shown_to_who_asked(self):
        for model in ("ten", "null", "finish", "none", "neg", "huge", "zero", "reason", "cached"):
            for usage in (False, True):
                key = self.account()
                got = stream(self.t, key, model, usage=usage)
                what = (model, usage, got.chunks[-1])
                self.assertEqual((got.status, got.done, got.finish()), (200, 1, ["stop"]), what)
                believed = model in ("ten", "null", "finish", "reason", "cached")
                prompt = 8 if believed else self.ours(key)
                completion = 15 if model == "reason" else 10
                cached = 3 if model == "cached" else 0
                paid = cost(prompt - cached, completion, cached)
                self.assertEqual(self.charged(), paid, what)
                self.assertEqual(micro(got.tolld()["cost"]), paid, what)
                if not usage:
                    self.assertIsNone(got.usage(), what)
                    self.assertTrue(all(c["choices"] for c in got.chunks), what)
                    continue
                said = got.usage()
                self.assertEqual((said["prompt_tokens"], said["completion_tokens"]),
                                 (prompt, completion), what)
                self.assertEqual(said["total_tokens"], prompt + completion, what)
                self.assertEqual(sum(bool(c.get("usage")) for c in got.chunks), 1, what)
                self.assertEqual(bool(got.chunks[-1].get("usage")), True, what)
        self.invariants()

    # Credit.

    def test_cut_at_every_token(self):
        """With credit for n tokens, n are asked for, delivered, and paid."""
        whole = self.direct("long", stream=True).text()
        prompt = self.ours(self.key)
        pieces = [c["choices"][0]["delta"]["content"] for c in self.direct("long", stream=True).chunks
                  if c["choices"] and c["choices"][0]["delta"].get("content")]
        for n in [1, 2, 3, 7, 39, 41, 60, 100, 399]:
            credit = f"{cost(prompt, n) / 1e6:.6f}"
            while cost(prompt, n + 1) <= micro(credit):
                n += 1  # a micro-credit is more than a token
            for usage in (False, True):
                key = self.account(credit)
                got = stream(self.t, key, "long", usage=usage)
                paid = self.charged(credit)
                what = (n, usage, got.chunks[-1], paid)
                self.assertEqual((got.status, got.done), (200, 1), what)
                self.assertEqual(got.finish(), ["length"], what)
                self.assertEqual(got.tolld()["finish"], "credit", what)
                self.assertEqual(micro(got.tolld()["cost"]), paid, what)
                self.assertTrue(whole.startswith(got.text()), what)
                self.assertEqual(got.text(), "".join(pieces[:n]), what)
                self.assertLessEqual(paid, micro(credit))
                self.assertEqual(bool(got.usage()), usage)
        self.invariants()

    def test_credit_for_less_than_one_token(self):
        prompt = self.ours(self.key)
        required = cost(prompt, 1)
        key = self.account(f"{(required - 1) / 1e6:.6f}")
        for fields in ({"stream": True}, {}, {"n": 2}):
            got = chat(self.t, key, "ten", **fields)
            self.assertEqual(got.status, 402)
            self.assertEqual(got.error()["type"], "insufficient_quota")
            self.assertEqual(got.error()["code"], "insufficient_credit")
            self.assertEqual(micro(got.error()["required"]), cost(prompt, fields.get("n", 1)))
            self.assertEqual(micro(got.error()["available"]), required - 1)
            self.assertEqual(got.headers["x-should-retry"], "false")
        self.t.ctl("topup", self.name, "0.000001")
        got = chat(self.t, key, "none")
        self.assertEqual(got.status, 200, got.body)
        self.assertEqual(got.headers["x-tolld-finish"], "credit")
        self.assertEqual(got.json["choices"][0]["finish_reason"], "length")
        self.assertEqual(micro(self.t.show(self.name)["balance"]), 0)
        self.invariants()

    def test_whole_answer_is_bounded_by_credit(self):
        prompt = self.ours(self.key)
        for n in (1, 2, 5, 9, 10, 60, 200):
            credit = f"{cost(prompt, n) / 1e6:.6f}"
            key = self.account(credit)
            got = chat(self.t, key, "long")
            self.assertEqual(got.status, 200, got.body)
            self.assertEqual(got.headers["x-tolld-finish"], "credit")
            said = got.json["usage"]["completion_tokens"]
            self.assertIn(said, (n, n + 1, n + 2, n + 3))  # a micro-credit is more than a token
            self.assertEqual(self.charged(credit), cost(8, said))
        self.invariants()

    def test_all_of_a_whole_answer_is_reserved(self):
        key = self.account("1")
        c = http.client.HTTPConnection("127.0.0.1", self.t.port, timeout=PATIENCE)
        c.request("POST", "/v1/chat/completions", json.dumps({
            "model": "slow", "max_tokens": 1000, "n": 2,
            "messages": [{"role": "user", "content": "hello there"}]}),
            {"Authorization": "Bearer " + key})
        held = wait_for(lambda: micro(self.t.show(self.name)["held"]), 10, "the hold")
        self.assertEqual(held, cost(self.ours(key), 2000))
        c.close()
        self.assertEqual(self.charged("1"), 0)

    def test_hidden_tokens_reserve_the_cap(self):
        key = self.account("1")
        got = stream(self.t, key, "hidden")
        self.assertEqual((got.status, got.done), (200, 1))
        self.assertEqual(self.charged("1"), cost(8, 40))
        prompt = self.ours(key)
        credit = f"{cost(prompt, 35) / 1e6:.6f}"
        key = self.account(credit)
        got = stream(self.t, key, "hidden")
        self.assertEqual((got.status, got.tolld()["finish"]), (200, "credit"))
        self.assertLessEqual(self.charged(credit), micro(credit))
        self.invariants()

    def test_length_that_is_the_clients_own(self):
        got = stream(self.t, self.account(), "long", max_tokens=7)
        self.assertEqual((got.finish(), got.tolld()["finish"]), (["length"], "length"))
        self.assertEqual(self.charged(), cost(8, 7))
        got = chat(self.t, self.account(), "small")
        self.assertEqual(got.headers["x-tolld-finish"], "length")
        self.assertEqual(self.charged(), cost(8, 50))

    # Clients that leave.

    def test_client_that_leaves(self):
        for whole in (False, True):
            before = self.t.sim.stats()["cancelled"]
            key = self.account()
            body = json.dumps({"model": "slow", "stream": not whole,
                               "messages": [{"role": "user", "content": "hello there"}]})
            s = socket.create_connection(("127.0.0.1", self.t.port), timeout=PATIENCE)
            s.sendall(f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}"
                      f"\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
            got = b""
            while not whole and got.count(b'"content":"') < 6:
                got += s.recv(65536)
            if whole:
                wait_for(lambda: self.t.sim.stats()["open"] == 1, 10, "the call")
            s.close()
            wait_for(lambda: self.t.sim.stats()["cancelled"] == before + 1, 5, "the provider to be left")
            paid = self.charged()
            last = wait_for(self.t.sim.requests, 5, "the simulator's log")[-1]
            self.assertEqual(last["end"], "client_closed")
            prompt = self.ours(key)
            if whole:
                self.assertEqual(paid, 0)
            else:
                self.assertGreaterEqual(paid, cost(prompt, 5))
                self.assertLessEqual(paid, cost(prompt, last["tokens_sent"]))
        self.invariants()

    def test_no_other_reader(self):
        """A stream of /v1 is its client's alone; by DELETE it ends."""
        key = self.account()
        s = Stream(self.t.port, "/v1/chat/completions", {"Authorization": "Bearer " + key}, "POST",
                   json.dumps({"model": "slow", "stream": True, "stream_options": {
                       "include_usage": True}, "messages": [{"role": "user", "content": "hi"}]}))
        events = s.events()
        next(events)
        mine = wait_for(lambda: self.t.ctl("stream", "list"), 5, "the stream to be listed")
        self.t.ctl("stream", "cancel", mine[0]["stream_id"])
        rest = [d for _, d in events]
        self.assertEqual(rest[-1], "[DONE]")
        last = json.loads(rest[-2])
        self.assertEqual(last["tolld"]["finish"], "cancelled")
        self.assertEqual(self.charged(), micro(last["tolld"]["cost"]))
        self.assertEqual(cost(last["usage"]["prompt_tokens"], last["usage"]["completion_tokens"]),
                         self.charged())
        s.close()

    def test_slow_reader_holds_the_provider(self):
        key = self.account()
        body = json.dumps({"model": "flood", "stream": True, "max_tokens": 90000,
                           "messages": [{"role": "user", "content": "x"}]})
        with socket.socket() as s:
            s.settimeout(PATIENCE)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 131072)
            s.connect(("127.0.0.1", self.t.port))
            s.sendall(f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}"
                      f"\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode())

            def metered():
                holds = self.t.ctl("hold", "list")
                return holds[0]["metered"] if holds else 0

            # Kernel buffers and 64 KiB of ours, at some 190 bytes of frame for a token.
            self.assertLess(rests(metered, what="the provider to be held"), 60000)
            got = b""
            while True:
                piece = s.recv(65536)
                if not piece:
                    break
                got += piece
        self.assertEqual(got.count(b'"content":"') - 1, 90000)
        self.assertIn(b"data: [DONE]\n\n", got)
        self.charged()
        self.invariants()

    # Connections.

    def test_connection_goes_on(self):
        c = http.client.HTTPConnection("127.0.0.1", self.t.port, timeout=PATIENCE)
        for i in range(6):
            c.request("POST", "/v1/chat/completions", json.dumps({
                "model": "ten", "stream": i % 2 == 0,
                "messages": [{"role": "user", "content": "hello"}]}),
                {"Authorization": "Bearer " + self.key, "x-request-id": f"mine-{i}"})
            r = c.getresponse()
            body = r.read()
            self.assertEqual((r.status, r.headers["x-request-id"]), (200, f"mine-{i}"))
            if i % 2 == 0:
                self.assertTrue(body.endswith(b"data: [DONE]\n\n"))
                self.assertEqual(r.headers["x-tolld-provider"], "sim")
                self.assertLess(micro(r.headers["x-tolld-available"]), 1200000000)
                self.assertGreaterEqual(float(r.headers["x-tolld-overhead-ms"]), 0)
                self.assertIsNone(r.headers["x-tolld-cost"])
                self.assertIsNone(r.headers["x-tolld-finish"])
                self.assertEqual(r.headers["Cache-Control"], "no-cache, no-transform")
        c.close()
        got = chat(self.t, self.key, "ten")
        self.assertRegex(got.headers["x-request-id"], r"^req_[0-9a-f]{16}$")

    # What is refused.

    def test_bad_fields(self):
        good = {"model": "ten", "messages": [{"role": "user", "content": "hello"}]}
        before = self.t.show("alice")
        for fields, param in (
                ({"messages": None}, "messages"), ({"messages": []}, "messages"),
                ({"messages": "hello"}, "messages"), ({"messages": [1]}, "messages"),
                ({"messages": [{"content": "x"}]}, "messages"),
                ({"messages": [{"role": "wizard", "content": "x"}]}, "messages"),
                ({"messages": [{"role": "user", "content": 1}]}, "messages"),
                ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages"),
                ({"messages": [{"role": "user", "content": [7]}]}, "messages"),
                ({"model": 7}, "model"), ({"model": None}, "model"),
                ({"n": 0}, "n"), ({"n": -1}, "n"), ({"n": 129}, "n"), ({"n": 1.5}, "n"),
                ({"n": "2"}, "n"), ({"max_tokens": 0}, "max_tokens"),
                ({"max_tokens": -5}, "max_tokens"), ({"max_tokens": 1.5}, "max_tokens"),
                ({"max_tokens": "9"}, "max_tokens"),
                ({"max_completion_tokens": 0}, "max_completion_tokens"),
                ({"stream": "yes"}, "stream"), ({"stream": 1}, "stream"),
                ({"stream_options": {"include_usage": True}}, "stream_options"),
                ({"stream": True, "stream_options": []}, "stream_options"),
                ({"stream": True, "stream_options": True}, "stream_options")):
            got = post(self.t, "/v1/chat/completions", dict(good, **fields), self.key)
            self.assertEqual(got.status, 400, (fields, got.body))
            self.assertEqual(got.error()["param"], param, (fields, got.body))
            self.assertEqual(got.error()["type"], "invalid_request_error", fields)
            self.assertEqual(got.error()["code"], "invalid_request", fields)
        got = post(self.t, "/v1/chat/completions", dict(good, model="nothing"), self.key)
        self.assertEqual((got.status, got.error()["code"]), (404, "model_not_found"))
        for body in ("", "{", "[]", "null", '"x"', '{"model":"ten","model":"ten"}',
                     '{"n":1,"n":9,"model":"ten"}', b"\xff\xfe", "{}x", "[" * 5000,
                     '{"model":"ten","messages":[{"role":"user","content":"x"}],"x":01}'):
            got = post(self.t, "/v1/chat/completions", body, self.key)
            self.assertEqual((got.status, got.error()["code"]), (400, "invalid_json"), body[:80])
        for body in ("{}", '{"model":"ten"}', '{"model":"ten","message":"hello"}'):
            got = post(self.t, "/v1/chat/completions", body, self.key)
            self.assertEqual((got.status, got.error()["param"]), (400, "messages"), body)
        got = post(self.t, "/v1/chat/completions", "x" * (2 << 20), self.key)
        self.assertEqual(got.status, 413)
        for path in ("/v1/chat/completions", "/v1/embeddings"):
            self.assertEqual(self.t.request("GET", path, key=self.key)[0], 405)
        self.assertEqual(self.t.request("POST", "/v1/models", {}, self.key)[0], 405)
        self.assertEqual(self.t.request("GET", "/v1/none", key=self.key)[0], 404)
        for key in (None, "wrong"):
            got = post(self.t, "/v1/chat/completions", good, key)
            self.assertEqual((got.status, got.error()["code"]), (401, "invalid_api_key"))
        self.assertEqual(self.t.show("alice"), before)
        self.invariants()

    def test_prompt_that_is_no_text_is_paid_ahead(self):
        key = self.account("0.0001")
        image = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
        got = post(self.t, "/v1/chat/completions", {"model": "ten", "messages": [
            {"role": "user", "content": [image]}]}, key)
        self.assertEqual(got.status, 402)
        self.assertGreater(micro(got.error()["required"]), cost(1105, 1))
        self.assertEqual(self.charged("0.0001"), 0)


if __name__ == "__main__":
    unittest.main()
