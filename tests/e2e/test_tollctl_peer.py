"""Goal:   tollctl beside a daemon that says what none says, or takes its time: its screen stays a
        screen, its JSON stays JSON, nobody wonders whether it still goes on.
Method: a peer of our own on a unix socket, which answers as the test wants.
"""
import contextlib
import json
import os
import pty
import socket
import subprocess
import tempfile
import threading
import unittest

from test_admin import Client, pack
from tolld import BUILD, PATIENCE, SLOW

HUGE = (2**63 - 1, -2**63, 2**64 - 1, -1, 0)


class Peer(Client):
    """One connection of tollctl, from the daemon's side."""

    def __init__(self, s):
        self.s = s
        self.s.settimeout(PATIENCE * SLOW)
        self.f = s.makefile("rb")


class Fake:
    """answer(method, args, n) -> (notifications, result); n counts the calls."""

    def __init__(self, answer):
        self.answer = answer
        self.folder = tempfile.TemporaryDirectory(prefix="tolld-peer-")
        self.path = os.path.join(self.folder.name, "s")
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(self.path)
        self.socket.listen()
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self):
        s, _ = self.socket.accept()
        n = 0
        with Peer(s) as peer, contextlib.suppress(EOFError, OSError):
            while True:
                _, number, method, args = peer.value()
                notes, result = self.answer(method, args[0] if args else {}, n)
                n += 1
                for name, arg in notes:
                    peer.s.sendall(pack([2, name, [arg]]))
                peer.s.sendall(pack([1, number, None, result]))

    def close(self):
        self.thread.join(2 * PATIENCE * SLOW)
        self.socket.close()
        self.folder.cleanup()

    def tollctl(self, *args):
        return [os.path.join(BUILD, "tollctl"), "-s", self.path, *args]


def family(name, *series):
    return {"name": name, "bounds": [10000, 20000], "series": list(series)}


def model(name, value, buckets=()):
    return {"labels": {"model": name, "kind": "completion"}, "value": value,
            "buckets": list(buckets)}


class TestTollctlPeer(unittest.TestCase):
    def fake(self, answer):
        f = Fake(answer)
        self.addCleanup(f.close)
        return f

    def test_top_of_numbers_that_cannot_be(self):
        def answer(method, _, n):
            if method == "stream.list":
                return [], {"streams": [
                    {"hold": f"{i}", "account": "a\033[2J\u202e" + "x" * 300, "model": "m\n",
                     "metered": HUGE[(i + n) % 5], "cost": HUGE[(i + n + 1) % 5],
                     "state": "running"} for i in range(10)] + [7, None, {}], "next": -5}
            return [], [family(name, model("m\n", HUGE[n % 5], [HUGE[n % 5]] * 40),
                               model("other", HUGE[(n + 2) % 5], HUGE), 3, {"labels": []})
                        for name in ("tolld_tokens_total", "tolld_credits_charged_total",
                                     "tolld_time_to_first_token_seconds")] + [
                {"name": 1}, "x", {"series": 5, "name": "tolld_tokens_total"}]
        f = self.fake(answer)
        p = subprocess.run(f.tollctl("--json", "top", "--count", "3"), capture_output=True,
                           timeout=60 * SLOW)
        self.assertEqual((p.returncode, p.stderr), (0, b""))
        for line in p.stdout.splitlines():
            self.assertNotIn(b"\033", line)
            report = json.loads(line)
            for row in [report] + report["models"] + report["accounts"]:
                self.assertGreaterEqual(row["tokens_per_second"], 0)
                self.assertGreaterEqual(row["credits_per_second"], 0)

    def test_top_of_a_model_that_goes(self):
        """With a reload: its counters go with it, and take nothing from the others'."""
        def answer(method, _, n):
            look = n // 2
            if method == "stream.list":
                return [], {"streams": [], "next": None}
            left = [] if look >= 2 else [model("old", 10**6)]
            return [], [family("tolld_tokens_total", model("stays", 100 * look), *left)]
        f = self.fake(answer)
        p = subprocess.run(f.tollctl("--json", "top", "--count", "3"), capture_output=True,
                           timeout=60 * SLOW)
        reports = [json.loads(line) for line in p.stdout.splitlines()]
        self.assertEqual([[m["model"] for m in r["models"]] for r in reports],
                         [["stays", "old"], ["stays"], ["stays"]])
        for r in reports:
            # 100 in each look, which are a second apart or, where others work, more.
            self.assertGreater(r["tokens_per_second"], 0)
            self.assertEqual(r["tokens_per_second"], r["models"][0]["tokens_per_second"])

    def test_export_shows_how_far_it_is(self):
        master, slave = pty.openpty()
        shown = threading.Event()

        def answer(_, args, n):
            # Pages until it was shown, or too many.
            after = args.get("after", 0)
            record = {"sequence": after + 1, "time_us": 0, "type": "topup", "amount": 5}
            shown.wait(0.01)
            end = shown.is_set() or n > 5000 * SLOW
            return [("journal.record", record)], {
                "records": 1, "last": 10**6, "first": 1, "compacted_at": 0,
                "next": None if end else after + 1}
        f = self.fake(answer)
        p = subprocess.Popen(f.tollctl("export", "--format", "jsonl"), stdout=subprocess.PIPE,
                             stderr=slave)
        os.close(slave)
        records = []
        reader = threading.Thread(target=lambda: records.extend(p.stdout.readlines()))
        reader.start()
        text = b""
        with contextlib.suppress(OSError):  # its end
            while True:
                text += os.read(master, 1000)
                if b"records" in text:
                    shown.set()
        self.assertEqual(p.wait(PATIENCE * SLOW), 0)
        reader.join()
        p.stdout.close()
        os.close(master)
        self.assertRegex(text, rb"^\r\d+ of 1000000 records")
        self.assertTrue(text.endswith(b"\r\033[K"), text)
        self.assertEqual([json.loads(r)["sequence"] for r in records],
                         list(range(1, len(records) + 1)))


if __name__ == "__main__":
    unittest.main()
