"""Goal:   a provider that fails, lies or stalls costs nobody anything but what was produced, and
        the client is told the truth.
Method: the simulated provider's faults, one by one, with the outcome and the charge asserted;
        clients that leave, come back, or read slowly.
"""
import json
import os
import socket
import unittest

from tolld import Case, cost, end_of, micro, rests, text_of, wait_for

N = 20
FAULTS = {
    # model: (upstream, error code, produced)
    "cut": (f"sim:tokens=50,lang=even,fault=cut@{N}", "upstream_truncated", True),
    "reset": (f"sim:tokens=50,lang=even,fault=reset@{N}", "upstream_truncated", True),
    "error": (f"sim:tokens=50,lang=even,fault=error@{N}", "upstream_error", True),
    "errordone": (f"sim:tokens=50,lang=even,fault=errordone@{N}", "upstream_error", True),
    "giant": (f"sim:tokens=50,lang=even,fault=giant@{N}", "upstream_error", True),
    "stall": (f"sim:tokens=50,lang=even,fault=stall@{N}", "upstream_timeout", True),
    "cut0": ("sim:fault=cut", "upstream_error", False),
    "stall0": ("sim:fault=stall", "upstream_timeout", False),
    "error0": ("sim:fault=error", "upstream_error", False),
    "s401": ("sim:key=other", "upstream_error", False),
    "s500": ("sim:status=500", "upstream_error", False),
    "s429": ("sim:status=429,retryafter=7", "overloaded", False),
    "html": ("sim:html=1", "upstream_error", False),
    "html200": ("sim:html=1,status=200", "upstream_error", False),
    "json200": ("sim:json200=1", "upstream_error", False),
    "empty": ("sim:empty=1", "upstream_error", False),
    "nodone": (f"sim:tokens={N},lang=even,fault=nodone", "upstream_truncated", True),
    "refused": ("nobody", "upstream_error", False),
}
GOOD = {
    "garbage": f"sim:tokens=50,lang=even,fault=garbage@{N}",
    "badutf8": f"sim:tokens=50,lang=even,fault=badutf8@{N}",
    "badlen": "sim:tokens=50,lang=even,badlen=1",
    "dupdone": "sim:tokens=50,lang=even,fault=dupdone",
    "close": "sim:tokens=50,lang=even,close=1",
}


class Upstream(Case):
    OPTIONS = dict(
        models=dict({k: v[0] for k, v in FAULTS.items()}, **GOOD,
                    slow="sim:tokens=2000,rate=100,lang=even",
                    flood="sim:tokens=90000,lang=even",
                    short="sim:tokens=5"),
        ledger="slice_tokens = 50 reconnect_grace = 3 hold_ttl = 6",
        timeouts="connect = 4 first_token = 4 idle = 4")

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.key = cls.t.account("alice", "1000")

    def balance(self):
        return micro(self.t.show("alice")["balance"])

    def test_faults(self):
        for name, (_, code, produced) in FAULTS.items():
            with self.subTest(name):
                before = self.balance()
                events = self.t.run(self.key, "hello", name)
                kind, end = end_of(events)
                self.assertEqual(kind, "error", events[-1])
                if code:
                    self.assertEqual(end["error"]["code"], code)
                self.assertEqual(sum(e["type"] in ("done", "error") for e in events), 1)
                self.assertEqual(before - self.balance(), micro(end["cost"]))
                if produced is False:
                    self.assertEqual(micro(end["cost"]), 0)
                    self.assertEqual(text_of(events), "")
                elif produced:
                    self.assertGreater(micro(end["cost"]), 0)
                    self.assertEqual(len(text_of(events)) // 5, N)
                self.assertNotIn("provider-secret-key", json.dumps(end))
        self.invariants()
        self.assertGreater(self.t.metric("tolld_upstream_errors_total"), 10)

    def test_mends(self):
        for name in GOOD:
            with self.subTest(name):
                kind, end = end_of(self.t.run(self.key, "hello", name))
                self.assertEqual((kind, end.get("finish_reason")), ("done", "stop"), end)
                self.assertGreaterEqual(len(end["full_text"]), 250)
        self.invariants()

    def test_no_done_after_an_error(self):
        for fmt in ("openai", "content"):
            sent = self.t.send(self.key, "hello", "errordone",
                               stream_options={"include_usage": True})
            data = [d for _, d in self.t.open(sent["stream_id"], fmt).events()]
            self.assertNotIn("[DONE]", data)
            last = json.loads(data[-1])
            self.assertIn("error", last)
            if fmt == "openai":
                self.assertIn("usage", json.loads(data[-2]))
        sent = self.t.send(self.key, "hello", "errordone")
        s = self.t.open(sent["stream_id"], "text")
        with self.assertRaises(Exception):
            s.response.read()

    def test_client_gone_has_its_grace(self):
        sent = self.t.send(self.key, "hello", "slow")
        s = self.t.open(sent["stream_id"])
        it = s.events()
        last, text = None, ""
        for event_id, data in it:
            e = json.loads(data)
            if e["type"] == "token":
                last, text = event_id, text + e["data"]["token"]
                if len(text) > 100:
                    break
        s.close()
        # Back in time: it goes on where it was.
        s = self.t.open(sent["stream_id"], last_id=last)
        for _, data in s.events():
            e = json.loads(data)
            if e["type"] == "token":
                text += e["data"]["token"]
                if len(text) > 300:
                    break
        s.close()
        # And gone for good: the provider's call ends, the stream is settled at its meter.
        wait_for(lambda: any(r["end"] == "client_closed" and "rate=100" in r["model"]
                             for r in self.t.sim.requests()), 10, "the call to be cancelled")
        self.invariants()
        kind, end = end_of(list(self.t.open(sent["stream_id"]).typed()))
        self.assertEqual((kind, end["finish_reason"]), ("done", "cancelled"))
        self.assertTrue(end["full_text"].startswith(text))
        self.assertGreater(micro(end["cost"]), 0)

    def test_never_opened_is_voided(self):
        before = self.balance()
        sent = self.t.send(self.key, "hello", "short")
        self.assertGreater(micro(self.t.show("alice")["held"]), 0)
        wait_for(lambda: micro(self.t.show("alice")["held"]) == 0, 10, "hold_ttl to pass")
        self.assertEqual(self.balance(), before)
        kind, end = end_of(list(self.t.open(sent["stream_id"]).typed()))
        self.assertEqual((kind, end["error"]["code"]), ("error", "expired"))

    def test_client_gone_during_send(self):
        for _ in range(50):
            s = socket.create_connection(("127.0.0.1", self.t.port))
            body = json.dumps({"model": "short", "message": "hello"}).encode()
            s.sendall(b"POST /chat/send HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " +
                      self.key.encode() + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            s.close()
        self.invariants()

    def test_connections_are_reused(self):
        def connections():
            return self.t.sim.stats()["connections"]

        self.t.run(self.key, "hello", "short")
        before = connections()
        for _ in range(20):
            self.t.run(self.key, "hello", "short")
        self.assertLessEqual(connections() - before, 4)


class SlowClient(Case):
    """A client that does not read: the provider is paused, memory stays bounded."""

    OPTIONS = dict(models={"flood": "sim:tokens=90000,lang=even"},
                   ledger="slice_tokens = 2000 reconnect_grace = 1", timeouts="idle = 6")

    def test_provider_is_paused(self):
        key = self.t.account("alice", "1000")
        sent = self.t.send(key, "hello", "flood")
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        s.connect(("127.0.0.1", self.t.port))
        s.sendall(f"GET /stream?id={sent['stream_id']} HTTP/1.1\r\nHost: x\r\n\r\n".encode())

        def metered():
            return next((h["metered"] for h in self.t.ctl("hold", "list")), None)

        paused = rests(metered, 1, "the meter to rest")
        # 64 KiB of lag, what the connection and the kernel hold; 90,000 tokens are 450 KB.
        self.assertLess(paused, 40000)
        # It stays stalled: it is dropped after `idle`, the stream after its grace.
        wait_for(lambda: metered() is None, 20, "the stream to be settled")
        kind, end = end_of(list(self.t.open(sent["stream_id"]).typed()))
        self.assertEqual((kind, end["finish_reason"]), ("done", "cancelled"))
        self.assertGreaterEqual(end["usage"]["completion_tokens"], paused)
        s.close()
        self.invariants()


if __name__ == "__main__":
    unittest.main()
