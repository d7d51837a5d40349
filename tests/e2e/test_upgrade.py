"""Goal:   USR2 puts another program in the place of the one that runs: all processes are replaced,
        streams go on in the old workers and are reached through the new ones; a program that
        cannot take over is refused before anything is stopped.
Method: a copy of the daemon is replaced by one with another version in it; then by ones that have
        other layouts, are none, or die; beside reloads, drains and signals.
        (Under load: test_upgrade_load.py.)
"""
import http.client
import os
import shutil
import signal
import stat
import threading
import time
import unittest

from provider import DONE, FINISH, ROLE, Answer, Provider, text, usage
from tolld import BUILD, PATIENCE, SLOW, Tolld, cost, end_of, micro, wait_for

MODELS = {"slow": "sim:tokens=160,prompt=10,rate=40", "quick": "sim:tokens=20,prompt=10"}
HELD = """
provider "held" {{ base_url = "http://127.0.0.1:{port}/v1" }}
model "held" {{ provider = {{"held"}} price_prompt = 0.15 price_completion = 0.60 }}
"""
VERSION = open(os.path.join(os.path.dirname(__file__), "../../etc/VERSION")).read().strip()
OTHER = VERSION[:-1] + ("1" if VERSION[-1] != "1" else "2")


class Upgrading(unittest.TestCase):
    OPTIONS = {}

    def setUp(self):
        self.t = Tolld(**dict(dict(workers=2, models=MODELS, ledger="slice_tokens = 20"),
                              **self.OPTIONS))
        self.addCleanup(self.t.close)
        self.bin = os.path.join(self.t.folder, "bin")
        os.mkdir(self.bin)
        os.symlink(os.path.join(BUILD, "tokenizers"), os.path.join(self.bin, "tokenizers"))
        self.t.program = os.path.join(self.bin, "tolld")
        self.install()
        self.t.start()
        self.pid = self.t.process.pid
        self.key = self.t.account("alice", "100000")

    def tearDown(self):
        if self.t.process is not None:
            wait_for(lambda: self.t.ctl("hold", "list") == [], 20, "holds to be closed")
            self.t.audit()
            self.assertEqual(self.t.stop(seconds=2 * PATIENCE), 0, self.t.log())
        log = self.t.log()
        for bad in ("AddressSanitizer", "runtime error:", "LeakSanitizer", "level=fatal"):
            self.assertNotIn(bad, log)

    def install(self, version=VERSION):
        """Put a daemon with this version in its place, as a package manager does."""
        with open(os.path.join(BUILD, "tolld"), "rb") as f:
            program = f.read()
        patched = program.replace(VERSION.encode() + b"\0", version.encode() + b"\0")
        self.assertTrue(version == VERSION or patched != program)
        self.put(patched)

    def config(self):
        with open(self.t.config_file) as f:
            return f.read()

    def put(self, content):
        with open(self.t.program + ".new", "wb") as f:
            f.write(content)
            os.fchmod(f.fileno(), 0o755)
        os.rename(self.t.program + ".new", self.t.program)

    def script(self, text):
        real = os.path.join(BUILD, "tolld")
        self.put(f"#!/bin/sh\nREAL={real}\n{text}\n".encode())

    def log_count(self, text):
        return self.t.log().count(text)

    def usr2(self):
        self.t.process.send_signal(signal.SIGUSR2)

    def upgrade(self, version=OTHER):
        done = self.log_count("msg=upgraded")
        self.install(version)
        self.usr2()
        wait_for(lambda: self.log_count("msg=upgraded") > done, 60, "the upgrade")

    def versions(self):
        return sorted((w["state"], w["version"]) for w in self.t.ctl("workers"))

    def refused(self, why):
        wait_for(lambda: "tolld: master" not in self.t.children(), 10, "titles")
        before, kids = self.log_count("upgrade refused"), self.t.children()
        self.usr2()
        wait_for(lambda: self.log_count("upgrade refused") > before, 30, "the refusal")
        self.assertIn(why, self.t.log())
        self.assertEqual(self.t.children(), kids)
        self.assertEqual(end_of(self.t.run(self.key, "hi", "quick"))[0], "done")


class Upgrade(Upgrading):
    def test_all_processes_are_replaced(self):
        before = self.t.children()
        self.assertEqual(self.versions(), [("running", VERSION)] * 2)
        self.upgrade()
        wait_for(lambda: self.versions() == [("running", OTHER)] * 2, 30, "the old ones to leave")
        after = self.t.children()
        self.assertEqual(sorted(after), sorted(before))
        self.assertFalse(set(before.values()) & set(after.values()))
        self.assertEqual(self.t.process.pid, self.pid)
        self.assertIsNone(self.t.process.poll())
        self.assertEqual(self.t.ctl("ping")["version"], OTHER)
        self.assertEqual(self.t.ctl("ping")["pid"], self.pid)
        self.assertEqual([w["worker"] for w in self.t.ctl("workers")], [1, 2])
        self.assertEqual([w["restarts"] for w in self.t.ctl("workers")], [0, 0])
        self.assertEqual(self.t.metric("tolld_worker_restarts_total"), 0)
        self.assertEqual({k: v for k, v in self.t.metrics().items()
                          if k.startswith("tolld_worker_up")},
                         {'tolld_worker_up{worker="1"}': 1, 'tolld_worker_up{worker="2"}': 1})
        self.assertEqual(end_of(self.t.run(self.key, "hi", "quick"))[0], "done")
        # A worker that dies now is started anew, and another upgrade finds its way back.
        os.kill(after["tolld: worker 1"], signal.SIGKILL)
        wait_for(lambda: self.t.children().get("tolld: worker 1", 0) not in
                 (0, after["tolld: worker 1"]), 10, "a successor")
        self.upgrade(VERSION)
        wait_for(lambda: self.versions() == [("running", VERSION)] * 2, 30, "the old ones to leave")
        self.assertEqual(end_of(self.t.run(self.key, "hi", "quick"))[0], "done")
        # It ends as ever, and leaves nothing.
        self.assertEqual(self.t.stop(), 0)
        self.assertEqual(os.listdir(os.path.join(self.t.folder, "run")), [])
        self.t.start()

    def test_streams_go_on_in_the_old_workers(self):
        provider, go = Provider(), threading.Event()
        self.addCleanup(provider.close)
        provider.default = Answer(ROLE + text("one "), then=(
            go, text("two") + FINISH + usage(10, 400) + DONE))
        with open(self.t.config_file, "a") as f:
            f.write(HELD.format(port=provider.port))
        self.assertTrue(self.t.ctl("reload")["ok"])
        running = [self.t.open(self.t.send(self.key, "hi", "held")["stream_id"]) for _ in range(4)]
        events = [s.typed() for s in running]
        for e in events:
            next(e)
        waiting = [self.t.send(self.key, "hi", "quick") for _ in range(6)]
        self.upgrade()
        self.assertEqual({v for s, v in self.versions() if s == "running"}, {OTHER})
        self.assertIn(("leaving", VERSION), self.versions())
        self.assertIn("tolld: worker 1 (leaving)", self.t.children())
        # What was sent before is opened by way of the new ones; what runs can be come back to.
        for sent in waiting:
            s = self.t.open(sent["stream_id"])
            self.assertEqual(end_of(list(s.typed()))[0], "done")
            s.close()
        sent = self.t.ctl("stream", "list")
        again = self.t.open(sent[0]["stream_id"])
        self.assertEqual(len(sent), 4)
        go.set()
        for e, s in zip(events, running):
            kind, end = end_of(list(e))
            s.close()
            self.assertEqual((kind, end["usage"]["completion_tokens"]), ("done", 400))
            self.assertEqual(micro(end["cost"]), cost(10, 400))
        kind, end = end_of(list(again.typed()))
        again.close()
        self.assertEqual((kind, end["full_text"]), ("done", "one two"))
        wait_for(lambda: self.versions() == [("running", OTHER)] * 2, 30, "the old ones to leave")
        # After they are gone, too.
        s = self.t.open(sent[1]["stream_id"])
        self.assertEqual(end_of(list(s.typed()))[0], "done")
        s.close()

    def test_a_kept_connection_is_served(self):
        c = http.client.HTTPConnection("127.0.0.1", self.t.port, timeout=PATIENCE * SLOW)
        headers = {"Authorization": "Bearer " + self.key}
        c.request("GET", "/balance", headers=headers)
        self.assertEqual(c.getresponse().read()[:1], b"{")
        sock = c.sock
        self.upgrade()
        c.request("GET", "/balance", headers=headers)
        self.assertIs(c.sock, sock)
        r = c.getresponse()
        self.assertEqual((r.status, r.getheader("Connection")), (200, "close"))
        r.read()
        c.close()

    def test_the_config_in_force_stays(self):
        text = self.config()
        with open(self.t.config_file, "w") as f:
            f.write(text.replace("price_completion = 0.60", "price_completion = 6")
                    .replace("workers = 2", "workers = 3"))
        self.assertEqual(self.t.ctl("reload")["needs_restart"], ["workers"])
        with open(self.t.config_file, "w") as f:
            f.write("nonsense")
        self.upgrade()
        end = end_of(self.t.run(self.key, "hi", "quick"))[1]
        self.assertEqual(micro(end["cost"]), -(-(10 * 150000 + 20 * 6000000) // 1000000))
        self.assertEqual(self.t.metrics()["tolld_config_generation"], 2)
        self.assertFalse(self.t.ctl("reload", check=False).returncode == 0)
        with open(self.t.config_file, "w") as f:
            f.write(text)
        out = self.t.ctl("reload")
        self.assertEqual(len(out["changed"]), len(MODELS) + 1)
        self.assertEqual(end_of(self.t.run(self.key, "hi", "quick"))[0], "done")

    def test_programs_that_cannot(self):
        self.put(b"")
        self.refused("why=\"cannot be run: ")
        os.unlink(self.t.program)
        self.refused("No such file")
        self.script("exit 0")
        os.chmod(self.t.program, stat.S_IRUSR)
        self.refused("Permission denied")
        self.script('echo "tolld: what is this"; exit 2')
        self.refused("what is this")
        self.script("kill -9 $$")
        self.refused("killed")
        # Another layout: it compares what it is told with its own.
        self.script('shift; abi=$(echo "$1" | sed "s/region=[0-9]*/region=1/"); shift; '
                    'exec $REAL -U "$abi" "$@"')
        self.refused("its layouts are others")
        # A config that it does not understand.
        self.script('exec 3</dev/null; exec $REAL "$@"')
        self.refused("the record of it cannot be read")
        self.upgrade()

    def test_it_says_yes_and_dies(self):
        sent = self.t.send(self.key, "hi", "slow")
        s = self.t.open(sent["stream_id"])
        next(s.typed())
        self.script('[ "$1" = -U ] && exec $REAL "$@"; exit 1')
        self.usr2()
        self.assertEqual(self.t.process.wait(PATIENCE), 1)
        s.close()
        self.install(OTHER)
        self.t.start()
        wait_for(lambda: self.t.ctl("hold", "list") == [], 20, "holds to be closed")
        self.assertEqual(end_of(self.t.run(self.key, "hi", "quick"))[0], "done")

    def test_its_workers_do_not_live(self):
        """They die before they have done anything: the old ones never stop."""
        self.assertEqual(self.t.stop(), 0)
        dies = os.path.join(self.t.folder, "dies")
        self.t.env.update({"LD_PRELOAD": os.path.join(BUILD, "e2e", "dies.so"),
                           "TOLLD_DIES": dies,
                           "ASAN_OPTIONS": "verify_asan_link_order=0:" +
                                           os.environ.get("ASAN_OPTIONS", "")})
        self.t.start()
        with open(dies, "w"):
            pass
        old = self.t.ctl("workers")
        self.install(OTHER)
        self.usr2()
        wait_for(lambda: self.log_count("the old ones go on"), 60, "the upgrade to be given up")
        os.unlink(dies)
        wait_for(lambda: self.versions() == [("running", VERSION)] * 2, 10, "the old ones")
        self.assertEqual([w["pid"] for w in self.t.ctl("workers")], [w["pid"] for w in old])
        self.assertEqual(self.t.ctl("ping")["version"], OTHER)
        for _ in range(4):
            self.assertEqual(end_of(self.t.run(self.key, "hi", "quick"))[0], "done")
        # One that dies is replaced by a new one; and then it is tried again.
        os.kill(next(w["pid"] for w in self.t.ctl("workers") if w["worker"] == 1), signal.SIGKILL)
        wait_for(lambda: self.versions() == [("running", VERSION), ("running", OTHER)], 20,
                 "a successor")
        self.upgrade()
        wait_for(lambda: self.versions() == [("running", OTHER)] * 2, 30, "the old ones to leave")

    def test_usr2_during_a_reload_and_the_other_way_round(self):
        text = self.config()
        for i in range(8):
            with open(self.t.config_file + ".new", "w") as f:
                f.write(text.replace("price_completion = 0.60", f"price_completion = 0.6{i}"))
            os.rename(self.t.config_file + ".new", self.t.config_file)
            for sig in (signal.SIGHUP, signal.SIGUSR2, signal.SIGHUP, signal.SIGUSR2):
                self.t.process.send_signal(sig)
            time.sleep(0.02 * i)
        wait_for(lambda: self.log_count("msg=upgraded") > 0, 60, "an upgrade")

        def at_rest():
            p = self.t.ctl("reload", check=False)
            return p.returncode == 0 and {s for s, _ in self.versions()} == {"running"}
        wait_for(at_rest, 60, "all to be as it was")
        end = end_of(self.t.run(self.key, "hi", "quick"))[1]
        self.assertEqual(micro(end["cost"]), -(-(10 * 150000 + 20 * 670000) // 1000000))

    def test_term_during_an_upgrade(self):
        for delay in (0, 0.05, 0.2):
            s = self.t.open(self.t.send(self.key, "hi", "slow")["stream_id"])
            events = s.typed()
            next(events)
            self.install(OTHER)
            self.usr2()
            time.sleep(delay)
            self.t.process.send_signal(signal.SIGTERM)
            self.assertEqual(end_of(list(events))[0], "done")
            s.close()
            self.assertEqual(self.t.process.wait(PATIENCE), 0, self.t.log())
            self.t.start()


if __name__ == "__main__":
    unittest.main()
