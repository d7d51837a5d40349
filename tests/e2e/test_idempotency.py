"""Goal:   a send that is repeated with its Idempotency-Key changes nothing and gets the first answer:
        from any worker, at the same moment, after its stream's end, after any death.
Method: real daemons with two workers; every answer is compared whole, every account to the
        micro-credit.
"""
import concurrent.futures
import http.client
import json
import os
import signal
import time
import unittest

from clock import Clock
from tolld import BUILD, PATIENCE, Case, Tolld, end_of, micro, wait_for

MODELS = {"short": "sim:tokens=12", "slow": "sim:tokens=400,rate=40"}


def keyed(t, api_key, key, message="hello", **fields):
    return t.request("POST", "/chat/send", dict(fields, model=fields.get("model", "short"),
                                                message=message), api_key,
                     {"Idempotency-Key": key})


class Repeated(Case):
    OPTIONS = dict(workers=2, models=MODELS, ledger="hold_ttl = 600")
    accounts = 0

    def account(self, balance="100", overdraft=None):
        type(self).accounts += 1
        self.name = f"account{self.accounts}"
        return self.t.account(self.name, balance, overdraft)

    def test_the_first_answer_again(self):
        me = self.account()
        status, headers, first = keyed(self.t, me, "one")
        self.assertEqual(status, 200, first)
        self.assertNotIn("idempotent-replayed", headers)
        held = self.t.show(self.name)["held"]
        for _ in range(20):  # both workers have their turn
            status, headers, again = keyed(self.t, me, "one")
            self.assertEqual((status, again), (200, first))
            self.assertEqual(headers["idempotent-replayed"], "true")
        wait_for(lambda: self.t.show(self.name)["held"] == held, 10, "one hold to be left")
        wait_for(lambda: [h["account"] for h in self.t.ctl("hold", "list")].count(self.name) == 1,
                 10, "one hold to be left")
        end, done = end_of(list(self.t.open(first["stream_id"]).typed()))
        self.assertEqual(end, "done")
        status, _, again = keyed(self.t, me, "one")
        self.assertEqual((status, again), (200, first))
        self.assertEqual(end_of(list(self.t.open(again["stream_id"]).typed())), (end, done))
        self.assertEqual(micro(self.t.show(self.name)["balance"]), 100000000 - micro(done["cost"]))

    def test_another_body_or_account(self):
        me = self.account()
        _, _, first = keyed(self.t, me, "one")
        status, _, body = keyed(self.t, me, "one", "good bye")
        self.assertEqual((status, body["error"]["code"]), (409, "idempotency_conflict"))
        self.assertEqual(body["error"]["param"], "Idempotency-Key")
        other = self.account()
        status, _, theirs = keyed(self.t, other, "one")
        self.assertEqual(status, 200)
        self.assertNotEqual(theirs["stream_id"], first["stream_id"])
        status, _, second = keyed(self.t, me, "two")
        self.assertEqual(status, 200)
        self.assertNotEqual(second["stream_id"], first["stream_id"])

    def test_all_at_once(self):
        me = self.account()
        with concurrent.futures.ThreadPoolExecutor(24) as pool:
            for n in range(5):
                answers = list(pool.map(lambda _: keyed(self.t, me, f"race {n}".replace(" ", "-")),
                                        range(24)))
                self.assertEqual({a[0] for a in answers}, {200})
                self.assertEqual(len({json.dumps(a[2]) for a in answers}), 1)
                self.assertEqual(sum("idempotent-replayed" not in a[1] for a in answers), 1)
        wait_for(lambda: micro(self.t.show(self.name)["held"]) ==
                 5 * micro(answers[0][2]["reserved"]), 10, "five holds to be left")

    def test_credit_that_the_first_one_took(self):
        me = self.account("0", "0")
        status, _, body = keyed(self.t, me, "broke")
        self.assertEqual((status, body["error"]["code"]), (402, "insufficient_credit"))
        preview = self.t.request("POST", "/chat/preview",
                                 {"model": "short", "message": "hello"}, me)[2]
        self.assertIs(preview["allowed"], False)
        # What was refused is not remembered.  Now it is enough for one, not for two.
        self.t.ctl("topup", self.name, "0.0003")
        status, _, first = keyed(self.t, me, "broke")
        self.assertEqual(status, 200, first)
        self.assertLess(micro(first["available"]), micro(first["reserved"]))
        while True:
            status, _, body = self.t.request("POST", "/chat/send",
                                             {"model": "short", "message": "more"}, me)
            if status != 200:
                break
        self.assertEqual(status, 402)
        for _ in range(10):
            status, headers, again = keyed(self.t, me, "broke")
            self.assertEqual((status, again), (200, first))
        status, _, body = keyed(self.t, me, "broke", "something else")
        self.assertEqual(status, 409, body)
        self.t.ctl("account", "close", self.name)
        status, _, again = keyed(self.t, me, "broke")
        self.assertEqual((status, again), (200, first))

    def test_bad_keys(self):
        me = self.account()
        for bad in ("", "x" * 256, "a b", "tab\there", "\u00e9".encode().decode("latin-1"), "a\x7f"):
            status, _, body = keyed(self.t, me, bad)
            self.assertEqual(status, 400, (bad, body))
            if isinstance(body, dict) and body["error"]["param"]:
                self.assertEqual(body["error"]["param"], "Idempotency-Key")
        c = http.client.HTTPConnection("127.0.0.1", self.t.port, timeout=PATIENCE)
        c.putrequest("POST", "/chat/send")
        for name, value in (("Authorization", "Bearer " + me), ("Content-Length", "2"),
                            ("Idempotency-Key", "a"), ("idempotency-key", "b")):
            c.putheader(name, value)
        c.endheaders(b"{}")
        self.assertEqual(c.getresponse().status, 400)
        c.close()
        self.assertEqual(keyed(self.t, me, "x" * 255)[0], 200)
        self.assertEqual(micro(self.t.show(self.name)["balance"]), 100000000)

    def test_a_client_that_left_may_come_back(self):
        me = self.account()
        body = json.dumps({"model": "short", "message": "hello"})
        for n in range(10):
            c = http.client.HTTPConnection("127.0.0.1", self.t.port, timeout=PATIENCE)
            c.request("POST", "/chat/send", body, {"Authorization": "Bearer " + me,
                                                   "Idempotency-Key": f"left-{n}"})
            c.sock.close()
            c.close()
            status, _, sent = self.t.request("POST", "/chat/send", body, me,
                                             {"Idempotency-Key": f"left-{n}"})
            self.assertEqual(status, 200)
            self.assertEqual(end_of(list(self.t.open(sent["stream_id"]).typed()))[0], "done")


class Scarce(Case):
    OPTIONS = dict(workers=4, models=MODELS)

    def test_all_at_once(self):
        """Credit for one hold: who comes at the same moment waits for it, and is not refused."""
        me = self.t.account("alice", "0.0003", "0")
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            for n in range(60):
                answers = list(pool.map(lambda _: keyed(self.t, me, f"scarce-{n}"), range(8)))
                self.assertEqual({a[0] for a in answers}, {200}, answers)
                self.assertEqual(len({json.dumps(a[2]) for a in answers}), 1)
                self.t.request("DELETE", "/stream?id=" + answers[0][2]["stream_id"])
                wait_for(lambda: micro(self.t.show("alice")["available"]) == 300, 10,
                         "the hold to be given back")
        self.invariants()


class Day(unittest.TestCase):
    def begin(self, ledger):
        self.t = Tolld(workers=1, models=MODELS, ledger=ledger)
        self.addCleanup(self.t.close)
        self.clock = Clock(BUILD, self.t.folder)
        self.t.env.update(self.clock.env)
        self.t.start()
        self.key = self.t.account("alice")
        self.t.ctl("topup", "alice", "100")  # no ref: `--balance` would have one

    def test_a_full_table(self):
        self.begin("max_refs = 3")
        known = self.t.ctl("topup", "alice", "1", "--ref", "r")
        answers = [keyed(self.t, self.key, "k0")[2], keyed(self.t, self.key, "k1")[2]]
        before = self.t.show("alice")
        status, headers, body = keyed(self.t, self.key, "k2")
        self.assertEqual((status, body["error"]["code"]), (503, "overloaded"))
        self.assertIsNotNone(headers["Retry-After"])
        self.assertEqual(self.t.metric('tolld_table_full_total{table="refs"}'), 1)
        for n, first in enumerate(answers):
            self.assertEqual(keyed(self.t, self.key, f"k{n}")[2], first)
        again = self.t.ctl("topup", "alice", "1", "--ref", "r")
        self.assertEqual(again["balance"], known["balance"])
        wait_for(lambda: self.t.show("alice") == before, 10, "nothing more to be held")
        status, _, body = self.t.request("POST", "/chat/send",
                                         {"model": "short", "message": "no key"}, self.key)
        self.assertEqual(status, 200, body)

    def test_nobody_takes_all_of_the_table(self):
        self.begin("max_refs = 128")
        others = [self.t.account(f"other{i}") for i in range(20)]
        for i in range(20):
            self.t.ctl("topup", f"other{i}", "1")  # no ref

        def fill(key, name):
            n = 0
            while keyed(self.t, key, f"{name}{n}")[0] == 200:
                n += 1
            return n

        self.assertEqual(fill(self.key, "greedy"), 96)
        self.assertEqual([fill(key, "k") for key in others], [2] * 12 + [0] * 8)
        # What it knows it still knows; and the rest is the operator's.
        self.assertEqual(keyed(self.t, self.key, "greedy0")[0], 200)
        for i in range(8):
            self.t.ctl("topup", "alice", "1", "--ref", f"r{i}")
        p = self.t.ctl("topup", "alice", "1", "--ref", "one more", check=False)
        self.assertIn("no_space", p.stdout + p.stderr)

    def test_after_a_day(self):
        self.begin("max_refs = 2")
        first = keyed(self.t, self.key, "k")[2]
        self.t.ctl("topup", "alice", "1", "--ref", "r")
        self.clock.forward(86400 - 600)
        self.assertEqual(keyed(self.t, self.key, "k")[2], first)
        self.t.ctl("topup", "alice", "1", "--ref", "r")
        self.assertEqual(micro(self.t.show("alice")["balance"]), 101000000)
        self.assertEqual(keyed(self.t, self.key, "other")[0], 503)
        # Their room is for others a little later.
        self.clock.forward(7200)
        self.t.request("POST", "/chat/send", {"model": "short", "message": "no key"}, self.key)
        wait_for(lambda: keyed(self.t, self.key, "others")[0] == 200, 10, "room for another key")
        self.assertEqual(micro(self.t.ctl("topup", "alice", "1", "--ref", "r")["balance"]),
                         102000000)
        status, _, second = keyed(self.t, self.key, "others")
        self.assertEqual(status, 200, second)
        self.assertNotEqual(second["stream_id"], first["stream_id"])
        self.t.audit()
        # What was forgotten stays so, and what is known too.
        self.t.stop()
        self.t.start()
        self.assertEqual(keyed(self.t, self.key, "others")[2], second)
        self.assertEqual(micro(self.t.ctl("topup", "alice", "1", "--ref", "r")["balance"]),
                         102000000)
        self.t.audit()


class Deaths(unittest.TestCase):
    def setUp(self):
        self.t = Tolld(workers=2, models=MODELS)
        self.addCleanup(self.t.close)
        self.t.start()
        self.key = self.t.account("alice", "100")

    def test_the_first_one_s_worker_dies(self):
        """Its reserve is in the ring, and nobody commits it: those who wait get its answer."""
        poor = self.t.account("bob", "0.0003", "0")
        keeper = self.t.children()["tolld: keeper"]

        def client(n, key):
            for _ in range(100):
                try:
                    status, _, body = keyed(self.t, poor, key)
                except (OSError, http.client.HTTPException):
                    continue  # its own worker was the one
                if status != 503:
                    return status, json.dumps(body)
            raise AssertionError("no answer")

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            for n in range(4):
                title = f"tolld: worker {1 + n % 2}"
                pid = wait_for(lambda: self.t.children().get(title), 20, f"{title} to run")
                os.kill(keeper, signal.SIGSTOP)
                work = [pool.submit(client, i, f"dead-{n}") for i in range(8)]
                wait_for(lambda: self.t.ctl("hold", "list") != [], 4, "the first to reserve")
                os.kill(pid, signal.SIGKILL)
                os.kill(keeper, signal.SIGCONT)
                answers = {w.result() for w in work}
                self.assertEqual(len(answers), 1, answers)
                status, body = answers.pop()
                self.assertEqual(status, 200, body)
                self.t.request("DELETE", "/stream?id=" + json.loads(body)["stream_id"])
                wait_for(lambda: micro(self.t.show("bob")["available"]) == 300, 20,
                         "the hold to be given back")
        self.t.audit()

    def test_waiting_has_an_end(self):
        """A first one that gets no answer: who repeats is told so in time, and later gets one."""
        keeper = self.t.children()["tolld: keeper"]
        os.kill(keeper, signal.SIGSTOP)
        try:
            with concurrent.futures.ThreadPoolExecutor(6) as pool:
                start = time.monotonic()
                answers = list(pool.map(lambda _: keyed(self.t, self.key, "late"), range(6)))
                self.assertLess(time.monotonic() - start, 30)
            for status, headers, body in answers:
                self.assertEqual((status, body["error"]["code"]), (503, "overloaded"))
                self.assertIsNotNone(headers["Retry-After"])
        finally:
            os.kill(keeper, signal.SIGCONT)

        def again():
            status, _, body = keyed(self.t, self.key, "late")
            return body if status == 200 else None
        first = wait_for(again, 20, "an answer at last")
        self.assertEqual(again(), first)
        wait_for(lambda: [h["account"] for h in self.t.ctl("hold", "list")] == ["alice"], 10,
                 "one hold")
        self.t.request("DELETE", "/stream?id=" + first["stream_id"])
        self.t.audit()

    def test_restarts(self):
        _, _, first = keyed(self.t, self.key, "kept")
        _, done = end_of(list(self.t.open(first["stream_id"]).typed()))
        _, _, waiting = keyed(self.t, self.key, "waits")
        for end in (lambda: self.t.stop(), self.t.kill_all,
                    lambda: (self.t.kill_all(), os.unlink(f"{self.t.folder}/run/ledger.shm")),
                    lambda: (self.t.stop(), os.unlink(f"{self.t.folder}/state/state.mdb"))):
            end()
            self.t.start()
            status, _, again = keyed(self.t, self.key, "kept")
            self.assertEqual((status, again), (200, first))
            status, _, again = keyed(self.t, self.key, "waits")
            self.assertEqual((status, again), (200, waiting))
            self.assertEqual(keyed(self.t, self.key, "kept", "other")[0], 409)
        self.assertEqual(micro(self.t.show("alice")["balance"]), 100000000 - micro(done["cost"]))
        self.assertEqual(micro(self.t.show("alice")["held"]), 0)
        self.t.audit()

    def test_workers_that_die(self):
        """Whatever worker dies while keys are used, each key has one stream."""
        known = {}

        def client(n):
            for _ in range(200):
                try:
                    status, _, body = keyed(self.t, self.key, f"k{n}", model="slow")
                except (OSError, http.client.HTTPException):
                    continue
                if status == 200:
                    known.setdefault(n, set()).add(body["stream_id"])
                    if len(known[n]) > 1:
                        return
                    if client.over:
                        return
                elif status not in (503,):
                    raise AssertionError((status, body))

        client.over = False
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            work = [pool.submit(client, n) for n in range(8)]
            for n in range(6):
                title = f"tolld: worker {1 + n % 2}"
                pid = wait_for(lambda: self.t.children().get(title), 20, f"{title} to run")
                os.kill(pid, signal.SIGKILL)
                wait_for(lambda: self.t.children().get(title) not in (None, pid), 20,
                         f"another {title}")
            client.over = True
            for w in work:
                w.result()
        self.assertEqual(sorted(known), list(range(8)))
        self.assertEqual([len(v) for v in known.values()], [1] * 8)
        for ids in known.values():
            for stream in ids:
                self.t.request("DELETE", f"/stream?id={stream}")
        wait_for(lambda: micro(self.t.show("alice")["held"]) == 0, 20, "nothing to be held")
        self.t.audit()


if __name__ == "__main__":
    unittest.main()
