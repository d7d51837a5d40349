"""Goal:   /v1/models and /v1/embeddings are OpenAI's own contract with our prices and charges; and
        streams of /v1 end truly and are paid when processes die, stop or lose their disk.
Method: plain HTTP against two workers and the simulated provider; processes are killed in
        mid-answer; every charge is checked, the books too.
"""
import base64
import concurrent.futures
import http.client
import json
import os
import signal
import struct
import unittest

from tolld import PATIENCE, Case, Stream, Tolld, cost, micro, wait_for
from v1 import post, stream

MODELS = {"vectors": "sim", "five": "sim:prompt=5", "silent": "sim:usage=no",
          "refused": "sim:status=400", "late": "sim:delay=60000",
          "a/b c": "sim:tokens=3", "slow": "sim:tokens=5000,rate=100,lang=even"}


def embed(t, key, input="hello there", model="vectors", **fields):
    return post(t, "/v1/embeddings", dict({"model": model, "input": input}, **fields), key)


class Embeddings(Case):
    OPTIONS = dict(workers=2, models=MODELS)

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.key = cls.t.account("alice", "100", 0)

    def paid(self, ask):
        """An answer, and what it cost."""
        before = micro(self.t.show("alice")["balance"])
        got = ask()
        self.invariants()
        return got, before - micro(self.t.show("alice")["balance"])

    def test_as_the_provider_says_it(self):
        for input, fields in (("hello", {}), (["a", "b", "c"], {}), ([1, 2, 3], {}),
                              ([[1, 2], [3]], {}), ("hello", {"dimensions": 3}),
                              ("hello", {"encoding_format": "base64"}),
                              ("hello", {"encoding_format": "float", "user": "u", "new": [1]})):
            got, paid = self.paid(lambda: embed(self.t, self.key, input, **fields))
            self.assertEqual(got.status, 200, got.body)
            at = type("At", (), {"port": self.t.sim.port})
            want = post(at, "/v1/embeddings", dict({"model": "sim", "input": input}, **fields))
            self.assertEqual(got.body, want.body)
            self.assertEqual(got.headers["Content-Type"], "application/json")
            self.assertEqual(paid, cost(got.json["usage"]["prompt_tokens"], 0))
            self.assertEqual(micro(got.headers["x-tolld-cost"]), paid)
            self.assertEqual(got.headers["x-tolld-provider"], "sim")
            self.assertEqual(micro(got.headers["x-tolld-available"]),
                             micro(self.t.show("alice")["available"]))
        vector = got.json["data"][0]["embedding"]
        packed = embed(self.t, self.key, "hello", encoding_format="base64").json["data"][0]["embedding"]
        self.assertEqual(list(struct.unpack(f"<{len(vector)}f", base64.b64decode(packed))), vector)

    def test_charges(self):
        got, paid = self.paid(lambda: embed(self.t, self.key, model="five"))
        self.assertEqual(paid, cost(5, 0))
        # Without a usage it is our count: "hello there" are two tokens.
        got, paid = self.paid(lambda: embed(self.t, self.key, model="silent"))
        self.assertEqual((got.status, paid), (200, cost(2, 0)))
        got, paid = self.paid(lambda: embed(self.t, self.key, [7] * 1000, model="silent"))
        self.assertEqual((got.status, paid), (200, cost(1000, 0)))
        got, paid = self.paid(lambda: embed(self.t, self.key, ["hello there"] * 500, model="silent"))
        self.assertEqual((got.status, paid), (200, cost(1000, 0)))

    def test_failures_are_free(self):
        got, paid = self.paid(lambda: embed(self.t, self.key, model="refused"))
        self.assertEqual((got.status, got.error()["code"], paid), (502, "upstream_error", 0))
        got, paid = self.paid(lambda: embed(self.t, self.key, model="none"))
        self.assertEqual((got.status, got.error()["code"], paid), (404, "model_not_found", 0))
        for key in (None, "wrong"):
            got, paid = self.paid(lambda: embed(self.t, key))
            self.assertEqual((got.status, got.error()["code"], paid), (401, "invalid_api_key", 0))

    def test_bad_inputs(self):
        for input in (None, "", [], {}, 7, True, [""], ["a", 7], [7, "a"], [[]], [["a"]],
                      [-1], [1.5], [[1, -1]], ["a"] * 2049, [None]):
            got, paid = self.paid(lambda: embed(self.t, self.key, input))
            self.assertEqual((got.status, paid), (400, 0), (input if input != ["a"] * 2049 else "",
                                                            got.body))
            self.assertEqual(got.error()["param"], "input", got.body)
        self.assertEqual(post(self.t, "/v1/embeddings", {"model": "vectors"}, self.key)
                         .error()["param"], "input")
        self.assertEqual(post(self.t, "/v1/embeddings", "{", self.key).error()["code"],
                         "invalid_json")

    def test_credit(self):
        poor = self.t.account("poor", "0", 0)
        text = "word " * 1000
        got = embed(self.t, poor, text)
        self.assertEqual((got.status, got.error()["type"]), (402, "insufficient_quota"))
        self.assertEqual(got.headers["x-should-retry"], "false")
        required = micro(got.error()["required"])
        self.assertIn(required, (cost(1000, 0), cost(1001, 0)))
        self.t.ctl("topup", "poor", f"{(required - 1) / 1e6:.6f}")
        self.assertEqual(embed(self.t, poor, text).status, 402)
        self.t.ctl("topup", "poor", "0.000001")
        self.assertEqual(embed(self.t, poor, text, model="silent").status, 200)
        self.assertEqual(micro(self.t.show("poor")["available"]), 0)
        self.invariants()

    def test_client_that_leaves(self):
        c = http.client.HTTPConnection("127.0.0.1", self.t.port, timeout=PATIENCE)
        c.request("POST", "/v1/embeddings", json.dumps({"model": "late", "input": "x"}),
                  {"Authorization": "Bearer " + self.key})
        wait_for(lambda: self.t.ctl("hold", "list"), 10, "the hold")
        _, paid = self.paid(c.close)
        self.assertEqual(paid, 0)


    def test_operators_cancel(self):
        """Nobody takes an error for an answer, or a part of one."""
        body = {"model": "late", "messages": [{"role": "user", "content": "hello"}]}
        for path, body in (("/v1/embeddings", {"model": "late", "input": "x"}),
                           ("/v1/chat/completions", body)):
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                asked = pool.submit(post, self.t, path, body, self.key)
                open_now = wait_for(lambda: [s for s in self.t.ctl("stream", "list")
                                             if s["state"] == "running"], 10, "the stream")
                _, paid = self.paid(lambda: self.t.ctl("stream", "cancel", open_now[0]["stream_id"]))
                got = asked.result()
            self.assertEqual((got.status, got.error()["code"], paid), (503, "cancelled", 0))
            self.assertEqual(got.headers["x-should-retry"], "false")


class Models(Case):
    OPTIONS = dict(models=MODELS)

    def test_list(self):
        key = self.t.account("alice", "1")
        status, _, body = self.t.request("GET", "/v1/models", key=key)
        self.assertEqual((status, body["object"]), (200, "list"))
        self.assertEqual({m["id"] for m in body["data"]}, set(MODELS) | {"sim"})
        for m in body["data"]:
            self.assertEqual((m["object"], m["owned_by"]), ("model", "sim"))
            self.assertIsInstance(m["created"], int)
            self.assertEqual(m["price"], {"prompt": 0.15, "cached": 0.075, "completion": 0.6,
                                           "reasoning": 0.6, "cache_write": 0.15, "request": 0})
            self.assertEqual((m["context_length"], m["max_completion_tokens"]), (1000000, 100000))
            path = "/v1/models/" + m["id"].replace(" ", "%20")
            self.assertEqual(self.t.request("GET", path, key=key)[2], m)
        self.assertEqual(self.t.request("GET", "/v1/models/a%2Fb%20c", key=key)[2]["id"], "a/b c")
        for path in ("/v1/models/none", "/v1/models/", "/v1/models/%00", "/v1/models/sim%00",
                     "/v1/models/" + "x" * 3000, "/v1/models/%zz"):
            status, _, body = self.t.request("GET", path, key=key)
            self.assertIn(status, (400, 404), path)
            self.assertIn("error", body)
        for key in (None, "wrong"):
            self.assertEqual(self.t.request("GET", "/v1/models", key=key)[0], 401)
            self.assertEqual(self.t.request("GET", "/v1/models/sim", key=key)[0], 401)


class Ends(unittest.TestCase):
    def setUp(self):
        self.t = Tolld(workers=2, models=MODELS, ledger="slice_tokens = 20",
                       config="drain_timeout = 1")
        self.addCleanup(self.t.close)
        self.t.start()
        self.key = self.t.account("alice", "100")

    def open(self):
        """A stream that runs."""
        s = Stream(self.t.port, "/v1/chat/completions", {"Authorization": "Bearer " + self.key},
                   "POST", json.dumps({"model": "slow", "stream": True,
                                       "messages": [{"role": "user", "content": "hello there"}]}))
        s.seen = s.events()
        s.text = ""
        while len(s.text) < 50:
            self.read(s)
        return s

    def read(self, s):
        data = next(s.seen)[1]
        if data != "[DONE]":
            data = json.loads(data)
            for c in data.get("choices", []):
                s.text += c["delta"].get("content") or ""
        return data

    def rest(self, s):
        last = None
        try:
            while True:
                last = self.read(s)
        except (StopIteration, OSError, http.client.HTTPException):
            return last

    def settled(self):
        wait_for(lambda: self.t.ctl("hold", "list") == [], 20, "holds to be closed")
        self.t.audit()
        return 100000000 - micro(self.t.show("alice")["balance"])

    def test_worker_that_dies(self):
        streams = []
        while len(streams) < 6 or {s["worker"] for s in self.t.ctl("stream", "list")} != {1, 2}:
            streams.append(self.open())
        living = sum(s["worker"] == 2 for s in self.t.ctl("stream", "list"))
        pid = self.t.children()["tolld: worker 1"]
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: self.t.children().get("tolld: worker 1") not in (None, pid), 20,
                 "another worker")
        # Those of the other worker go on, until they are told to stop.
        wait_for(lambda: len(self.t.ctl("stream", "list")) == living, 10, "streams that go on")
        self.t.process.send_signal(signal.SIGTERM)
        last = [self.rest(s) for s in streams]
        told = [x for x in last if x and x.get("error", {}).get("code") == "draining"]
        self.assertEqual(len(told), living)
        for s in streams:
            s.close()
        self.assertEqual(self.t.process.wait(PATIENCE), 0)
        self.t.process = None
        self.t.start()
        prompt = self.t.request("POST", "/chat/preview", {"model": "slow", "message": "hello there"},
                                self.key)[2]["prompt_tokens"]
        paid = self.settled()
        self.assertGreaterEqual(paid, sum(cost(prompt, len(s.text) // 5) for s in streams))
        self.assertLessEqual(paid, sum(cost(prompt, len(s.text) // 5 + 40) for s in streams))

    def test_drain_ends_with_an_error(self):
        s = self.open()
        self.t.process.send_signal(signal.SIGTERM)
        last = self.rest(s)
        self.assertEqual(last["error"]["code"], "draining")
        self.assertEqual(last["choices"][0]["finish_reason"], "error")
        s.close()
        self.assertEqual(self.t.process.wait(PATIENCE), 0)
        self.t.process = None
        self.t.start()
        self.settled()

    def test_all_die(self):
        s = self.open()
        self.t.kill_all()
        self.assertNotEqual(self.rest(s), "[DONE]")
        s.close()
        self.t.start()
        paid = self.settled()
        self.assertGreaterEqual(paid, cost(0, len(s.text) // 5))
        got = stream(self.t, self.key, "a/b c")
        self.assertEqual((got.status, got.done), (200, 1))
        self.settled()


if __name__ == "__main__":
    unittest.main()
