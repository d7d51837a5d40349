"""Goal:   a request of /v1 that is sent again with its Idempotency-Key is run once, paid once, and
        answered with the same bytes, whichever worker is asked, also after a restart or a death.
Method: the same bytes sent twice, in a row and at once; workers killed in between; answers that are
        too long to be kept; every charge is checked, the books too.
"""
import concurrent.futures
import json
import os
import signal
import socket
import unittest

from tolld import PATIENCE, Case, Tolld, cost, micro, wait_for
from v1 import post

MODELS = {"ten": "sim:tokens=10,prompt=8,exact=o200k_base", "long": "sim:tokens=3000,prompt=8",
          "slow": "sim:tokens=5000,rate=100,lang=even", "second": "sim:tokens=30,rate=30,prompt=8",
          "refused": "sim:status=400", "busy": "sim:status=429,retryafter=7",
          "broken": "sim:tokens=10,fault=error@5", "huge": "sim:tokens=25000,prompt=8",
          "tool": "sim:tool=weather,prompt=8", "vectors": "sim", "late": "sim:delay=60000"}
SAID = ("Content-Type", "x-tolld-cost", "x-tolld-finish", "x-tolld-provider")


def ask(t, key, name, model="ten", path="/v1/chat/completions", content="hello", **fields):
    body = {"model": model, "input": content} if path == "/v1/embeddings" else \
        {"model": model, "messages": [{"role": "user", "content": content}]}
    return post(t, path, dict(body, **fields), key, {"Idempotency-Key": name})


class Again(Case):
    OPTIONS = dict(workers=2, models=MODELS, ledger="slice_tokens = 40")

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.accounts = 0

    def setUp(self):
        Again.accounts += 1
        self.name = f"a{Again.accounts}"
        self.key = self.t.account(self.name, "100", 0)

    def paid(self):
        self.invariants()
        return 100000000 - micro(self.t.show(self.name)["balance"])

    def calls(self):
        return self.t.sim.stats()["requests"]

    def same(self, first, again):
        self.assertEqual((again.status, again.body), (first.status, first.body))
        self.assertEqual({k: again.headers[k] for k in SAID}, {k: first.headers[k] for k in SAID})
        # An SDK that tries again by itself would get the same for ever.
        self.assertEqual(again.headers["x-should-retry"], None if first.status == 200 else "false")
        self.assertIsNone(again.headers["Retry-After"])
        self.assertEqual(again.headers["idempotent-replayed"], "true")

    def test_same_bytes(self):
        total = 0
        for n, (model, fields) in enumerate((
                ("ten", {}), ("ten", {"stream": True}), ("ten", {"n": 3}), ("long", {}),
                ("ten", {"stream": True, "stream_options": {"include_usage": True}}),
                ("long", {"stream": True}), ("tool", {"stream": True}), ("tool", {}),
                ("refused", {}), ("refused", {"stream": True}), ("busy", {}), ("busy", {"stream": True}),
                ("broken", {"stream": True}), ("broken", {}),
                ("vectors", {"path": "/v1/embeddings"}),
                ("refused", {"path": "/v1/embeddings"}))):
            first = ask(self.t, self.key, f"k{n}", model, **fields)
            self.assertIsNone(first.headers["idempotent-replayed"])
            paid = self.paid()
            self.assertGreaterEqual(paid, total)
            if first.status == 200 and "stream" not in fields:
                self.assertEqual(micro(first.headers["x-tolld-cost"]), paid - total)
            total, calls = paid, self.calls()
            for _ in range(4):  # some at the other worker
                self.same(first, ask(self.t, self.key, f"k{n}", model, **fields))
            self.assertEqual(self.paid(), total, (model, fields))
            self.assertEqual(self.calls(), calls)
            other = ask(self.t, self.key, f"k{n}", model, content="good bye", **fields)
            self.assertEqual((other.status, other.error()["code"]), (409, "idempotency_conflict"))
            self.assertEqual(other.error()["param"], "Idempotency-Key")
        # A key is its endpoint's, and its account's.
        got = ask(self.t, self.key, "k0", "vectors", path="/v1/embeddings")
        self.assertEqual((got.status, got.headers["idempotent-replayed"]), (200, None))
        got = ask(self.t, self.t.account(self.name + "x", "1"), "k0")
        self.assertEqual((got.status, got.headers["idempotent-replayed"]), (200, None))

    def test_all_at_once(self):
        """The others wait for the first one's end."""
        for stream in (False, True):
            before = self.paid()
            calls = self.calls()
            with concurrent.futures.ThreadPoolExecutor(12) as pool:
                got = list(pool.map(lambda _: ask(self.t, self.key, f"at-once-{stream}", "second",
                                                  stream=stream), range(12)))
            self.assertEqual({g.status for g in got}, {200})
            self.assertEqual(len({g.body for g in got}), 1)
            self.assertEqual(sum(g.headers["idempotent-replayed"] is None for g in got), 1)
            self.assertEqual(self.calls() - calls, 1)
            self.assertEqual(self.paid() - before, cost(8, 30))

    def test_cut_by_credit(self):
        poor = self.t.account(self.name + "p", "0.00002", 0)
        for stream in (True, False):
            first = ask(self.t, poor, f"cut-{stream}", "long", stream=stream)
            self.assertEqual(first.status, 200, first.body)
            again = ask(self.t, poor, f"cut-{stream}", "long", stream=stream)
            if stream:
                self.assertEqual(first.tolld()["finish"], "credit")
            self.same(first, again)
            # Without the credit for a second one it is asked for, too.
            self.t.ctl("topup", self.name + "p", "0.00002")
        # What was refused is not kept.
        empty = self.t.account(self.name + "e", "0", 0)
        self.assertEqual(ask(self.t, empty, "k").status, 402)
        self.t.ctl("topup", self.name + "e", "1")
        self.assertEqual(ask(self.t, empty, "k").status, 200)

    def test_too_long_to_be_kept(self):
        for n, fields in enumerate(({"stream": True}, {"n": 4})):
            first = ask(self.t, self.key, f"huge-{n}", "huge", **fields)
            self.assertEqual(first.status, 200, first.body[:200])
            self.assertGreater(len(first.body), 4 << 20 if "stream" in fields else 256 << 10)
            paid = self.paid()
            again = ask(self.t, self.key, f"huge-{n}", "huge", **fields)
            self.assertEqual((again.status, again.error()["code"]), (410, "answer_not_kept"))
            self.assertEqual(again.headers["x-should-retry"], "false")
            self.assertEqual(self.paid(), paid)

    def test_client_that_left(self):
        """It ended its request; who asks again is told what had come."""
        for n, (model, stream) in enumerate((("slow", True), ("late", False), ("late", True))):
            body = json.dumps({"model": model, "messages": [{"role": "user", "content": "hello"}],
                               "stream": stream})
            with socket.create_connection(("127.0.0.1", self.t.port), timeout=PATIENCE) as s:
                s.sendall((f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "
                           f"{self.key}\r\nIdempotency-Key: left-{n}\r\nContent-Length: {len(body)}"
                           f"\r\n\r\n{body}").encode())
                got = b""
                while model == "slow" and got.count(b'"content":"') < 6:
                    got += s.recv(65536)
                wait_for(lambda: self.t.ctl("stream", "list"), 10, "the stream")
            paid, calls = self.paid(), self.calls()
            again = post(self.t, "/v1/chat/completions", body, self.key,
                         {"Idempotency-Key": f"left-{n}"})
            self.assertEqual((self.paid(), self.calls()), (paid, calls))
            if not stream:
                self.assertEqual((again.status, again.error()["code"]), (503, "cancelled"))
                self.assertEqual(again.headers["x-should-retry"], "false")
                continue
            self.assertEqual((again.status, again.done), (200, 1), again.body)
            self.assertEqual(again.tolld()["finish"], "cancelled")
            if model == "slow":
                self.assertTrue(again.body.startswith(got.split(b"\r\n\r\n", 1)[1].split(
                    b"\r\n", 1)[1][:100]))

    def test_not_a_text_of_stream(self):
        """What /v1 answered is nothing for /stream, and the journal shows it as it shows texts."""
        ask(self.t, self.key, "k", "ten", stream=True)
        self.paid()
        seen = [r for r in self.t.ctl("journal", "--account", self.name) if r["type"] == "reserve"]
        self.assertEqual(len(seen), 1, seen)


class Deaths(unittest.TestCase):
    def setUp(self):
        self.t = Tolld(workers=2, models=MODELS, ledger="slice_tokens = 40")
        self.addCleanup(self.t.close)
        self.t.start()
        self.key = self.t.account("alice", "100", 0)

    def test_restarts(self):
        first = [ask(self.t, self.key, "k", "long", stream=True), ask(self.t, self.key, "w", "long"),
                 ask(self.t, self.key, "r", "refused")]
        balance = wait_for(lambda: micro(self.t.show("alice")["held"]) == 0 and
                           self.t.show("alice")["balance"], 10, "the settlements")
        for end in (lambda: self.t.stop(), self.t.kill_all,
                    lambda: (self.t.stop(), os.unlink(f"{self.t.folder}/state/state.mdb"))):
            end()
            self.t.start()
            for name, model, stream, want in (("k", "long", True, first[0]),
                                              ("w", "long", None, first[1]),
                                              ("r", "refused", None, first[2])):
                got = ask(self.t, self.key, name, model, **({"stream": True} if stream else {}))
                self.assertEqual((got.status, got.body), (want.status, want.body), name)
                self.assertEqual(got.headers["x-tolld-cost"], want.headers["x-tolld-cost"])
            self.assertEqual(self.t.show("alice")["balance"], balance)
        self.t.audit()

    def test_worker_that_dies(self):
        """Who asks again is told what had been told, and that it broke off; it is not run again."""
        body = json.dumps({"model": "slow", "messages": [{"role": "user", "content": "hello"}],
                           "stream": True})
        head = {"Idempotency-Key": "dies"}
        with socket.create_connection(("127.0.0.1", self.t.port), timeout=PATIENCE) as s:
            s.sendall((f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "
                       f"{self.key}\r\nIdempotency-Key: dies\r\nContent-Length: {len(body)}"
                       f"\r\n\r\n{body}").encode())
            got = b""
            while got.count(b'"content":"') < 100:
                got += s.recv(65536)
            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                waiting = [pool.submit(post, self.t, "/v1/chat/completions", body, self.key, head)
                           for _ in range(4)]
                wait_for(lambda: self.t.metric('tolld_reserve_total{result="repeated"}') >= 1, 10,
                         "somebody to wait")
                busy = [p for k, p in self.t.children().items() if "worker" in k]
                for pid in busy:
                    os.kill(pid, signal.SIGKILL)
                for w in waiting:
                    try:
                        w.result()
                    except OSError:
                        pass  # it was at a worker that died
        wait_for(lambda: self.t.ready(), 20, "workers")
        wait_for(lambda: self.t.ctl("hold", "list") == [], 20, "the hold to be closed")
        calls = self.t.sim.stats()["requests"]
        again = post(self.t, "/v1/chat/completions", body, self.key, head)
        self.assertEqual((again.status, again.done), (200, 0), again.body[:500])
        self.assertEqual(again.error()["code"], "stream_lost")
        self.assertGreater(len(again.text()), 100)
        self.assertEqual(self.t.sim.stats()["requests"], calls)
        self.t.audit()


if __name__ == "__main__":
    unittest.main()
