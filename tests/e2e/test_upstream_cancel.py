"""Goal:   whoever ends a stream, the call to the provider ends with it, at once: nobody pays for
        tokens that nobody will see.
Method: the simulated provider says when it was left, and how much it had sent by then.
"""
import http.client
import json
import signal
import time
import unittest

from tolld import SLOW, Case, Tolld, end_of, micro, wait_for

SLOWLY = "sim:tokens=5000,rate=100,lang=even"
SILENT = "sim:tokens=50,fault=stall"


class Cancel(Case):
    OPTIONS = dict(models={"slow": SLOWLY, "silent": SILENT, "late": "sim:delay=60000"},
                   ledger="slice_tokens = 20 reconnect_grace = 1",
                   timeouts="first_token = 30 idle = 30")

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.key = cls.t.account("alice", "1000")

    def stats(self, t=None):
        return (t or self.t).sim.stats()

    def open_slow(self, t=None, key=None, **fields):
        """A stream that runs: its id and its connection."""
        t = t or self.t
        sent = t.send(key or self.key, "hello", "slow", **fields)
        s = t.open(sent["stream_id"])
        next(e for e in s.typed() if e["type"] == "token")
        return sent["stream_id"], s

    def left(self, before, t=None, within=6.0):
        """The provider is left by one, long before a time-out, and no call is open."""
        began = time.monotonic()
        wait_for(lambda: self.stats(t)["cancelled"] == before + 1, 10, "the provider to be left")
        self.assertLess(time.monotonic() - began, within * SLOW)
        self.assertEqual(self.stats(t)["open"], 0)

    def last(self, t=None):
        return wait_for((t or self.t).sim.requests, 5, "the simulator's log")[-1]

    def test_delete(self):
        before = self.stats()["cancelled"]
        stream, s = self.open_slow()
        status, _, body = self.t.request("DELETE", "/stream?id=" + stream)
        self.left(before)
        self.assertEqual((status, body["finish_reason"]), (200, "cancelled"))
        kind, end = end_of(list(s.typed()))
        self.assertEqual((kind, end["finish_reason"]), ("done", "cancelled"))
        # All that it had sent is charged, and not much more had been sent.
        sent = self.last()["tokens_sent"]
        self.assertLessEqual(abs(sent - len(end["full_text"]) // 5), 500)
        self.invariants()

    def test_delete_before_the_first_token(self):
        for model in ("silent", "late"):
            before, balance = self.stats(), self.t.show("alice")["balance"]
            sent = self.t.send(self.key, "hello", model)
            s = self.t.open(sent["stream_id"])
            wait_for(lambda: self.stats()["open"] == 1, 5, "the call")
            self.t.request("DELETE", "/stream?id=" + sent["stream_id"])
            self.left(before["cancelled"])
            self.assertEqual(end_of(list(s.typed()))[0], "done")
            self.assertEqual(self.t.show("alice")["balance"], balance)
        self.invariants()

    def test_operator(self):
        before = self.stats()["cancelled"]
        stream, s = self.open_slow()
        self.t.ctl("stream", "cancel", self.t.ctl("stream", "list")[0]["stream_id"])
        self.left(before)
        self.assertEqual(end_of(list(s.typed()))[1]["finish_reason"], "cancelled")
        self.invariants()

    def test_credit_gone(self):
        before = self.stats()["cancelled"]
        key = self.t.account("poor", "0.01", "0")
        stream, s = self.open_slow(key=key)
        # Its limit is what the credit pays for: take what is left of it away.
        self.t.ctl("adjust", "poor", "-0.00999", "--reason", "test")
        sent = self.stats()["tokens"]
        kind, end = end_of(list(s.typed()))
        self.assertEqual((kind, end["finish_reason"]), ("done", "credit"))
        self.left(before)
        self.assertLess(self.stats()["tokens"] - sent, 600)
        self.invariants()

    def test_client_gone(self):
        before = self.stats()["cancelled"]
        stream, s = self.open_slow()
        s.close()
        # After its grace of a second.
        self.left(before, within=8)
        self.assertLess(self.last()["tokens_sent"], 1000 * SLOW)
        self.invariants()

    def test_drain(self):
        t = Tolld(models={"slow": SLOWLY}, config="drain_timeout = 1",
                  ledger="slice_tokens = 20")
        self.addCleanup(t.close)
        t.start()
        key = t.account("alice", "1000")
        stream, s = self.open_slow(t, key)
        began = time.monotonic()
        t.process.send_signal(signal.SIGTERM)
        kind, end = end_of(list(s.typed()))
        self.assertEqual((kind, end["error"]["code"]), ("error", "draining"))
        self.assertGreater(micro(end["cost"]), 0)
        wait_for(lambda: self.stats(t)["cancelled"] == 1, 5, "the provider to be left")
        self.assertGreater(time.monotonic() - began, 0.9)
        self.assertEqual(t.stop(), 0)


class Stop(unittest.TestCase):
    def test_stop_now(self):
        t = Tolld(models={"slow": SLOWLY})
        self.addCleanup(t.close)
        t.start()
        key = t.account("alice", "1000")
        sent = t.send(key, "hello", "slow")
        s = t.open(sent["stream_id"])
        next(e for e in s.typed() if e["type"] == "token")
        self.assertEqual(t.stop(signal.SIGINT), 0)
        self.assertEqual(end_of(list(s.typed()))[1]["error"]["code"], "draining")
        line = wait_for(t.sim.requests, 5, "the simulator's log")[-1]
        self.assertEqual(line["end"], "client_closed")
        self.assertLess(line["tokens_sent"], 1000 * SLOW)


if __name__ == "__main__":
    unittest.main()
