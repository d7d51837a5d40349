"""Goal:   `tollctl top` tells what goes on: streams, tokens and credits a second by model and by
        account, the time to the first token; sorted as asked; and it leaves the terminal as it
        found it, however it ends.
Method: streams of a known pace; its reports as JSON, and a terminal of our own that it draws on.
"""
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
import unittest

from tolld import BUILD, PATIENCE, SLOW, Case, wait_for

MODELS = {"slow": "sim:tokens=100000,prompt=10,rate=20,lang=even",
          "fast": "sim:tokens=100000,prompt=10,rate=60,lang=even",
          "waits": "sim:tokens=5,prompt=10,first=300"}


class Terminal:
    """tollctl top on a terminal: what it wrote, and keys for it."""

    def __init__(self, t, *args, size=(24, 100)):
        self.fd, slave = pty.openpty()
        self.resize(*size)
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        self.text = ""
        self.p = subprocess.Popen([os.path.join(BUILD, "tollctl"), "-s", t.socket, "top", *args],
                                  stdin=slave, stdout=slave, stderr=slave,
                                  env=dict(os.environ, LC_ALL="C.UTF-8"),
                                  preexec_fn=os.setsid)

    def resize(self, rows, columns):
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read(self):
        while select.select([self.fd], [], [], 0.05)[0]:
            self.text += os.read(self.fd, 65536).decode(errors="replace")
        return self.text

    def read_some(self):
        if select.select([self.fd], [], [], 0)[0]:
            self.text += os.read(self.fd, 65536).decode(errors="replace")

    def shows(self, pattern):
        """On the last whole screen."""
        def found():
            screens = self.read().split("\033[H")
            return len(screens) > 1 and re.search(pattern, screens[-1])
        return wait_for(found, 10, f"{pattern} on the screen")

    def key(self, k):
        os.write(self.fd, k.encode())

    def end(self):
        code = self.p.wait(timeout=PATIENCE * SLOW)
        self.read()
        after = termios.tcgetattr(self.slave)
        os.close(self.fd)
        os.close(self.slave)
        return code, after


class Top(Case):
    OPTIONS = dict(workers=2, models=MODELS)

    def setUp(self):
        super().setUp()
        # Those of the test before have some seconds to be come back to.
        for stream in self.t.ctl("stream", "list"):
            self.t.request("DELETE", "/stream?id=" + stream["stream_id"])
        wait_for(lambda: not self.t.ctl("stream", "list"), 10, "no stream")

    def reports(self, *args, count=2):
        p = subprocess.run([os.path.join(BUILD, "tollctl"), "-s", self.t.socket, "--json", "top",
                            "--count", str(count), *args], capture_output=True, text=True,
                           timeout=PATIENCE * SLOW)
        self.assertEqual((p.returncode, p.stderr), (0, ""))
        return [json.loads(line) for line in p.stdout.splitlines()]

    def start(self, model, account, n):
        key = self.t.account(account, 100)
        for _ in range(n):
            sent = self.t.send(key, "hello", model)
            s = self.t.open(sent["stream_id"])
            self.addCleanup(s.close)
            self.assertEqual(next(s.typed())["type"], "metadata")

    def test_rates(self):
        self.start("slow", "many-slow", 6)
        self.start("fast", "one-fast", 1)
        key = self.t.account("who-waits", 10)
        waiting = self.t.send(key, "hello", "slow")["stream_id"]
        running = lambda: len([s for s in self.t.ctl("stream", "list") if s["metered"] > 5]) == 7
        wait_for(running, 10, "all to run")
        before, at = self.metered(), time.monotonic()
        # The sum of some seconds, since a look may fall into a provider's pause.
        reports = self.reports(count=4)
        elapsed, took = time.monotonic() - at, self.metered() - before
        for r in reports:
            self.assertEqual((r["streams"], r["waiting"]), (7, 1))
            models = {m["model"]: m for m in r["models"]}
            self.assertEqual((models["slow"]["streams"], models["slow"]["waiting"]), (6, 1))
            self.assertEqual((models["fast"]["streams"], models["fast"]["waiting"]), (1, 0))
            accounts = {a["account"]: a for a in r["accounts"]}
            self.assertEqual({a: accounts[a]["streams"] for a in accounts},
                             {"many-slow": 6, "one-fast": 1, "who-waits": 0})
            self.assertEqual(accounts["who-waits"]["tokens_per_second"], 0)
            # What the parts have, the whole has.
            self.assertLessEqual(abs(r["tokens_per_second"] - sum(
                m["tokens_per_second"] for m in r["models"])), 2)
            self.assertLessEqual(abs(r["tokens_per_second"] - sum(
                a["tokens_per_second"] for a in r["accounts"])), 4)
            # 0.60 a million tokens.
            self.assertAlmostEqual(r["credits_per_second"], r["tokens_per_second"] * 0.6e-6,
                                   delta=0.6e-6 * 8 + 1e-5)
        told = sum(r["tokens_per_second"] for r in reports)
        self.assertGreater(told, 0)
        # They lie within the time that was measured from outside.
        self.assertLessEqual(told, took + 10)
        self.assertGreater(told, took / elapsed * len(reports) * 0.5)
        self.t.request("DELETE", "/stream?id=" + waiting)

    def metered(self):
        return sum(s["metered"] for s in self.t.ctl("stream", "list"))

    def test_nothing_is_missed(self):
        """Streams that begin and end between two looks count in the rates by model."""
        key = self.t.account("short", 10)
        p = subprocess.Popen([os.path.join(BUILD, "tollctl"), "-s", self.t.socket, "--json", "top",
                              "--count", "1", "--interval", "4s"], stdout=subprocess.PIPE, text=True)
        n = 0
        while p.poll() is None:  # each a small part of the interval
            self.t.run(key, "hello", "waits")
            n += 1
        report = json.loads(p.communicate()[0])
        m = {m["model"]: m for m in report["models"]}["waits"]
        self.assertGreater(m["tokens_per_second"], 0)
        self.assertLessEqual(m["tokens_per_second"], 5 * n)
        # The simulator's first token came after 300 ms; buckets are coarse.
        self.assertGreater(m["first_token_p50_ms"], 100)
        self.assertGreaterEqual(m["first_token_p99_ms"], m["first_token_p50_ms"])
        self.assertLessEqual(m["streams"], 1)

    def test_order(self):
        self.start("slow", "b-two", 2)
        self.start("slow", "a-one", 1)
        for by, expected in (("name", ["a-one", "b-two"]), ("streams", ["b-two", "a-one"])):
            accounts = [a["account"] for a in self.reports("--sort", by, count=1)[0]["accounts"]]
            self.assertEqual([a for a in accounts if a in expected], expected)

    def test_terminal(self):
        self.start("slow", "on-screen", 2)
        term = Terminal(self.t)
        term.shows(r"streams 2, 0 waiting")
        term.shows(r"(?s)MODEL .*slow +2 +0 +\d+.*ACCOUNT .*on-screen +2 ")
        term.shows(r"tokens/s .*[▁▂▃▄▅▆▇█]")
        term.shows(r"by tokens ")
        term.key("n")
        term.shows(r"by name ")
        term.key(" ")
        term.shows(r"PAUSED")
        term.key(" ")
        term.resize(12, 70)
        for _ in range(500):  # also in the midst of a write
            os.kill(term.p.pid, signal.SIGWINCH)
            term.read_some()
        term.shows(r"\033\[12;1Hby name")
        term.key("q")
        code, after = term.end()
        self.assertEqual((code, after), (0, term.before), term.text[-200:])
        self.assertTrue(term.text.rstrip().endswith("\033[?7h\033[?25h\033[?1049l"),
                        term.text[-100:])

    def test_signals_leave_the_terminal(self):
        for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            term = Terminal(self.t)
            term.shows("MODEL")
            os.kill(term.p.pid, sig)
            code, after = term.end()
            self.assertEqual((code, after), (0, term.before))
            self.assertIn("\033[?25h\033[?1049l", term.text)

    def test_tiny_terminal(self):
        for size in ((1, 1), (3, 20), (4, 500)):
            term = Terminal(self.t, size=size)
            term.shows("by tokens")
            term.key("q")
            self.assertEqual(term.end()[0], 0)

    def test_bad_options(self):
        for args in (("--interval", "0s"), ("--interval", "2h"), ("--sort", "luck"),
                     ("--count", "-1")):
            p = subprocess.run([os.path.join(BUILD, "tollctl"), "-s", self.t.socket, "top", *args],
                               capture_output=True, text=True, timeout=PATIENCE)
            self.assertEqual(p.returncode, 2, args)
            self.assertIn(args[0], p.stderr)
        p = subprocess.run([os.path.join(BUILD, "tollctl"), "-s", "/nonexistent", "top"],
                           capture_output=True, text=True, timeout=PATIENCE)
        self.assertEqual(p.returncode, 3)


class Gone(Case):
    def test_the_daemon_ends(self):
        """It says so, on the screen that was there before."""
        term = Terminal(self.t)
        term.shows("MODEL")
        self.t.kill_all()
        code, after = term.end()
        self.assertEqual((code, after), (3, term.before))
        self.assertRegex(term.text, r"\033\[\?1049l\s*tollctl: the daemon does not answer")
        self.t.start()


if __name__ == "__main__":
    unittest.main()
