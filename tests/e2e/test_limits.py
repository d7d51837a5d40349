"""Goal:   every limit says so, and nothing else: a request that meets one gets 503 `overloaded` with
        Retry-After (tollctl: exit 1 and the reason), a metric tells which one it was, nothing is
        charged or lost, and it works again as soon as there is room.
Method: daemons with tiny limits.  Each limit is filled, met, freed and tried again; then the books
        are audited.
"""
import os
import signal
import socket
import subprocess
import tempfile
import threading
import shutil
import unittest

from disk import Disk
from tolld import BUILD, PATIENCE, SLOW, Case, Tolld, end_of, micro, wait_for

MODELS = {
    "slow": "sim:tokens=2000,rate=50,lang=even",
    "short": "sim:tokens=5,lang=even",
}


class Limits(Case):
    def overloaded(self, answer, retry_after):
        status, headers, body = answer
        self.assertEqual(status, 503, body)
        self.assertEqual(body["error"]["code"], "overloaded")
        self.assertEqual(headers["Retry-After"], retry_after)
        return body["error"]["message"]

    def refused(self, code, *args):
        """tollctl says no: exit 1, with this reason."""
        p = self.t.ctl(*args, check=False)
        self.assertEqual(p.returncode, 1, p.stdout + p.stderr)
        self.assertIn(code, p.stderr + p.stdout)
        return p.stderr + p.stdout

    def ask(self, key, model="slow", message="hello"):
        return self.t.request("POST", "/chat/send", {"model": model, "message": message}, key)

    def reserves(self, result):
        return self.t.metrics()[f'tolld_reserve_total{{result="{result}"}}']


class Tables(Limits):
    OPTIONS = dict(workers=1, sim=False, ledger="max_accounts = 4")

    def test_accounts_and_keys(self):
        for i in range(4):
            self.t.ctl("account", "create", f"a{i}", "--balance", "1")
        self.assertIn("max_accounts", self.refused("no_space", "account", "create", "a4",
                                                   "--balance", "1"))
        m = self.t.metrics()
        self.assertEqual(m['tolld_table_full_total{table="accounts"}'], 1)
        self.assertEqual(m["tolld_accounts"], m["tolld_accounts_limit"])
        self.refused("account_not_found", "account", "show", "a4")
        self.refused("account_exists", "account", "create", "a3")
        self.t.ctl("topup", "a3", "1")
        # A key for each account, and none is made free by revoking it.
        keys = [self.t.ctl("key", "create", f"a{i}") for i in range(4)]
        self.refused("no_space", "key", "create", "a0")
        self.t.ctl("key", "revoke", keys[3]["key_id"])
        self.refused("no_space", "key", "create", "a0")
        m = self.t.metrics()
        self.assertEqual(m['tolld_table_full_total{table="keys"}'], 2)
        self.assertEqual(m["tolld_keys"], m["tolld_keys_limit"])
        self.assertEqual(self.t.request("GET", "/balance", key=keys[0]["key"])[0], 200)
        self.invariants()
        # A kill keeps the memory as large as it was; an orderly end makes room.
        self.t.extra = ("", "max_accounts = 5", "")
        self.t.write_config()
        self.t.kill_all()
        self.t.start()
        self.refused("no_space", "account", "create", "a4")
        self.assertEqual(self.t.stop(), 0)
        self.t.start()
        self.t.ctl("account", "create", "a4", "--balance", "1")
        self.t.ctl("key", "create", "a4")
        self.assertEqual(micro(self.t.show("a3")["balance"]), 2000000)
        self.invariants()


class Holds(Limits):
    # Three process slots share them: eight for the worker.
    OPTIONS = dict(workers=1, ledger="max_holds = 24", models=MODELS)

    def test_holds_of_a_worker(self):
        key = self.t.account("holds", 5)
        self.assertEqual(self.t.metrics()["tolld_worker_holds_limit"], 8)
        ids = [self.t.send(key, "hello", "slow")["stream_id"] for _ in range(8)]
        before = self.t.show("holds")
        self.assertIn("streams", self.overloaded(self.ask(key), "1"))
        self.overloaded(self.ask(key), "1")
        self.assertEqual(self.reserves("full"), 2)
        self.assertEqual(self.t.show("holds"), before)
        # What takes no hold goes on.
        self.assertEqual(self.t.request("POST", "/chat/preview",
                                        {"message": "hello"}, key)[0], 200)
        self.t.ctl("topup", "holds", "1")
        self.assertEqual(self.t.request("DELETE", f"/stream?id={ids[0]}")[0], 200)
        self.assertEqual(end_of(self.t.run(key, "hello", "short"))[0], "done")
        for i in ids[1:]:
            self.assertEqual(self.t.request("DELETE", f"/stream?id={i}")[0], 200)
        self.invariants()
        self.assertEqual(micro(self.t.show("holds")["held"]), 0)


class Fairness(Limits):
    OPTIONS = dict(workers=1, ledger="max_holds = 384", models=MODELS)

    def test_nobody_takes_all_holds(self):
        greedy, other = self.t.account("greedy", 500), self.t.account("other", 5)
        ids = []
        while True:
            status, headers, body = self.t.request(
                "POST", "/chat/send", {"model": "slow", "message": "hello"}, greedy)
            if status != 200:
                break
            ids.append(body["stream_id"])
        self.assertEqual((status, body["error"]["code"], headers["Retry-After"]),
                         (429, "rate_limit_exceeded", "1"))
        # Of 128 that its worker has.
        self.assertEqual(len(ids), 96)
        for _ in range(8):
            ids.append(self.t.send(other, "hello", "slow")["stream_id"])
        self.assertEqual(self.ask(other)[0], 429)
        for i in ids:
            self.assertEqual(self.t.request("DELETE", f"/stream?id={i}")[0], 200)
        self.t.send(greedy, "hello", "slow")


class Descriptors(Limits):
    OPTIONS = dict(workers=1, models=MODELS, wrapper=["prlimit", "--nofile=64:64"])

    def test_descriptors(self):
        key = self.t.account("fds", 5)
        idle, said = [], b""
        try:
            for _ in range(100):
                s = socket.create_connection(("127.0.0.1", self.t.port), PATIENCE * SLOW)
                idle.append(s)
                # In the middle of a request, or it would be closed for the next one.
                s.sendall(b"POST /chat/send HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n"
                          b"Authorization: Bearer " + key.encode() + b"\r\n\r\n{")
            # The last ones are answered as soon as the worker has seen them.
            idle[-1].settimeout(PATIENCE * SLOW)
            while b"\r\n\r\n" not in said:
                more = idle[-1].recv(4096)
                if not more:
                    break
                said += more
            self.assertTrue(said.startswith(b"HTTP/1.1 503 "), said)
            self.assertIn(b"Retry-After: 1\r\n", said)
            while b"overloaded" not in said and (more := idle[-1].recv(4096)):
                said += more
            self.assertIn(b"overloaded", said)
            self.assertGreater(self.t.metric(
                'tolld_connections_refused_total{reason="descriptors"}'), 0)
        finally:
            for s in idle:
                s.close()

        def works():
            try:
                return self.t.request("GET", "/balance", key=key)[0] == 200
            except OSError:
                return False

        wait_for(works, 10, "connections to be taken again")
        self.assertEqual(end_of(self.t.run(key, "hello", "short"))[0], "done")
        self.invariants()


class Journal(Limits):
    """The keeper is stopped, which is what a disk that does not answer amounts to."""
    OPTIONS = dict(workers=1, models=MODELS)

    def setUp(self):
        self.key = self.t.account(self.id().rsplit(".", 1)[1], 100)
        self.keeper = self.t.children()["tolld: keeper"]
        self.addCleanup(os.kill, self.keeper, signal.SIGCONT)
        self.answers = []

    def send(self, message="hello"):
        def run():
            self.answers.append(self.ask(self.key, "short", message))

        th = threading.Thread(target=run, daemon=True)
        th.start()
        return th

    def test_the_ring_is_full(self):
        """Messages of a megabyte fill it; who found room is answered when the keeper goes on."""
        before = self.reserves("busy")
        os.kill(self.keeper, signal.SIGSTOP)
        # (Words, since a megabyte of one letter is more tokens than the model takes.)
        threads = [self.send("hello " * 150000) for _ in range(8)]
        wait_for(lambda: 0 < self.reserves("busy") - before == len(self.answers), 4,
                 "the ring to be full")
        os.kill(self.keeper, signal.SIGCONT)
        for th in threads:
            th.join(PATIENCE * SLOW)
            self.assertFalse(th.is_alive())
        taken = [a for a in self.answers if a[0] == 200]
        self.assertGreater(len(taken), 2)
        for a in self.answers:
            if a[0] != 200:
                self.assertIn("behind", self.overloaded(a, "1"))
        held = micro(self.t.show("test_the_ring_is_full")["held"])
        self.assertEqual(held, sum(micro(a[2]["reserved"]) for a in taken))
        for a in taken:
            self.t.request("DELETE", "/stream?id=" + a[2]["stream_id"])
        self.assertEqual(end_of(self.t.run(self.key, "hello", "short"))[0], "done")
        self.invariants()

    def test_nothing_becomes_durable(self):
        name = "test_nothing_becomes_durable"
        before = self.reserves("unavailable")
        os.kill(self.keeper, signal.SIGSTOP)
        th = self.send()
        topup = subprocess.Popen([os.path.join(BUILD, "tollctl"), "-s", self.t.socket, "topup", name,
                                  "1", "--ref", "r"], stderr=subprocess.PIPE, text=True)
        th.join(PATIENCE * SLOW)
        self.assertIn("cannot be written", self.overloaded(self.answers[0], "5"))
        # Now at once, and so is tollctl.
        self.overloaded(self.ask(self.key), "5")
        self.assertEqual(self.reserves("unavailable"), before + 2)
        said = topup.communicate(timeout=PATIENCE * SLOW)[1]
        self.assertEqual(topup.returncode, 1)
        self.assertIn("later", said)
        for args in (("topup", name, "1"), ("account", "create", "late"),
                     ("key", "create", name)):
            self.refused("journal_unavailable", *args)
        self.assertEqual(micro(self.t.show(name)["balance"]), 100000000)
        # What only reads is answered.
        self.assertEqual(len(self.t.ctl("key", "list", name)), 1)
        os.kill(self.keeper, signal.SIGCONT)
        # What was in the ring is booked; asked for again it is not booked twice.
        wait_for(lambda: self.t.ctl("topup", name, "1", "--ref", "r", check=False).returncode == 0,
                 10, "top-ups")
        self.assertEqual(micro(self.t.show(name)["balance"]), 101000000)
        wait_for(lambda: self.ask(self.key, "short")[0] == 200, 10, "sends")
        for s in self.t.ctl("stream", "list"):
            self.t.ctl("stream", "cancel", s["stream_id"], check=False)
        self.invariants()
        self.assertEqual(micro(self.t.show(name)["balance"]), 101000000)


class SlowDisk(Limits):
    """Each flush takes a quarter of a second: everybody waits, nobody is refused."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="tolld-limits-")
        cls.disk = Disk(BUILD, cls.folder, os.path.join(cls.folder, "state"))
        cls.OPTIONS = dict(workers=1, models=MODELS, folder=cls.folder, env=cls.disk.env)
        super().setUpClass()

    @classmethod
    def tearDownClass(cls):
        try:
            super().tearDownClass()
        finally:
            shutil.rmtree(cls.folder, ignore_errors=True)

    def test_nobody_is_refused(self):
        key = self.t.account("patient", 100)
        self.disk.slow(250)
        answers = []
        threads = [threading.Thread(target=lambda: answers.append(self.ask(key, "short")))
                   for _ in range(20)]
        for th in threads:
            th.start()
        for th in threads:
            th.join()
        self.assertEqual([a[0] for a in answers], [200] * 20, answers)
        self.t.ctl("topup", "patient", "1")
        self.disk.slow(0)
        for s in self.t.ctl("stream", "list"):
            self.t.ctl("stream", "cancel", s["stream_id"], check=False)
        self.invariants()
        self.assertEqual(micro(self.t.show("patient")["balance"]), 101000000)


if __name__ == "__main__":
    unittest.main()
