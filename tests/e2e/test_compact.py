"""Goal:   an operator compacts the journal and nothing but its size changes: balances, audits,
        idempotent repeats, streams, a rebuild from the journal alone.
Method: a daemon with a clock that is put forward by days; `tollctl compact` and keep_days, before
        and after restarts, kills and a lost state.mdb, always with an audit.
"""
import json
import os
import shutil
import signal
import subprocess
import unittest

from clock import Clock
from tolld import BUILD, Tolld, micro, wait_for

DAY = 86400


class Compacted(unittest.TestCase):
    config = ""

    def setUp(self):
        self.t = Tolld(workers=2, config=self.config,
                       models={"slow": "sim:tokens=40000,rate=100"})
        self.addCleanup(self.t.close)
        self.clock = Clock(BUILD, self.t.folder)
        self.t.env.update(self.clock.env)
        self.t.start()

    def tollctl(self, *args):
        """tollctl, which has the daemon's clock."""
        return subprocess.run([os.path.join(BUILD, "tollctl"), "-s", self.t.socket, *args],
                              capture_output=True, text=True, timeout=60,
                              env=dict(os.environ, **self.clock.env))

    def fill(self, accounts=3, rounds=4):
        self.keys = {}
        for i in range(accounts):
            self.keys[f"a{i}"] = self.t.account(f"a{i}", 10 + i, 1)
        for n in range(rounds):
            for name, key in self.keys.items():
                self.t.run(key, max_tokens=20)
                self.t.ctl("topup", name, "0.25", "--ref", f"r{n}")
        self.t.ctl("adjust", "a0", "-0.5", "--reason", "a slip")

    def balances(self):
        return {n: self.t.show(n) for n in self.keys}

    def compact(self, *args):
        p = self.tollctl("--json", "compact", *args)
        self.assertEqual(p.returncode, 0, p.stdout + p.stderr)
        return json.loads(p.stdout)

    def kill_and_lose_state(self):
        self.t.kill_all()
        for name in ("state.mdb", "state.mdb-lock"):
            os.unlink(os.path.join(self.t.folder, "state", name))
        self.t.start()


class Repeated(Compacted):
    def test_an_account_is_made_once_for_ever(self):
        """Its first balance's ref is forgotten after a day, the account is not."""
        self.t.ctl("account", "create", "once", "--balance", "5")
        for days in (0, 1, 2):
            self.clock.forward(days * DAY)
            for how in ("as it was", "restarted"):
                p = self.tollctl("account", "create", "once", "--balance", "5")
                self.assertEqual(p.returncode, 1, how)
                self.assertIn("account_exists", p.stdout + p.stderr)
                self.assertEqual(self.t.show("once")["balance"], 5)
                if how == "as it was":
                    self.assertEqual(self.t.stop(), 0)
                    self.t.start()
        # Nor after its records are gone, nor closed.
        self.compact("--keep", "1d")
        self.assertEqual(self.tollctl("account", "create", "once", "--balance", "5").returncode, 1)
        self.t.ctl("account", "close", "once", "--reason", "tested")
        self.assertEqual(self.tollctl("account", "create", "once", "--balance", "5").returncode, 1)
        self.assertEqual(self.t.show("once")["balance"], 5)
        self.t.audit()


class Operator(Compacted):
    def test_the_books_stay_and_the_journal_goes(self):
        self.fill()
        before, first = self.balances(), self.t.audit()
        self.assertIsNone(first["checkpoint"])
        self.clock.forward(2 * DAY)
        topup = self.t.ctl("topup", "a0", "1", "--ref", "late")
        done = self.compact("--keep", "1d")
        self.assertGreater(done["removed"], 30)
        self.assertEqual(done["first"], done["removed"] + 1)
        after = self.balances()
        self.assertEqual(micro(after["a0"]["balance"]), micro(topup["balance"]))
        self.assertEqual(after["a1"], before["a1"])
        audit = self.t.audit()
        self.assertEqual(audit["accounts"], 3)
        self.assertEqual(audit["checkpoint"], done["checkpoint"])
        self.assertEqual(audit["checkpoint_hash"], done["hash"])
        self.assertLess(audit["records"], 10)
        # What was written down before holds: the record that it is about is the checkpoint's last.
        self.assertEqual(done["checkpoint"], first["head"])
        self.assertEqual(done["link"], first["link"])
        for head, link in ((first["head"], first["link"]), (audit["head"], audit["link"])):
            self.assertEqual(self.tollctl("audit", "--link", f"{head}:{link}").returncode, 0)
        wrong = first["link"][:-1] + ("0" if first["link"][-1] != "0" else "1")
        p = self.tollctl("audit", "--link", f"{first['head']}:{wrong}")
        self.assertEqual(p.returncode, 1)
        self.assertIn("not the one that was written down", p.stdout)
        p = self.tollctl("audit", "--link", f"5:{first['link']}")
        self.assertEqual(p.returncode, 1)
        self.assertIn("it was compacted", p.stdout)
        for bad in ("5", "x:" + first["link"], "0:" + first["link"], "5:" + "g" * 64):
            p = self.tollctl("audit", "--link", bad)
            self.assertEqual(p.returncode, 1, bad)
            self.assertIn("hexadecimal", p.stderr)
        # Twice is no harm.
        again = self.compact("--keep", "1d")
        self.assertEqual((again["removed"], again["first"]), (0, done["first"]))

    def test_from_the_journal_alone(self):
        self.fill()
        self.clock.forward(2 * DAY)
        self.compact("--keep", "1d")
        self.t.run(self.keys["a0"], max_tokens=10)
        before = self.balances()
        self.kill_and_lose_state()
        self.assertEqual(self.balances(), before)
        self.t.audit()
        # Keys work, refs are known, a second compaction builds on the first.
        self.t.run(self.keys["a2"], max_tokens=10)
        self.t.ctl("topup", "a2", "1", "--ref", "again")
        before = self.balances()
        self.clock.forward(2 * DAY)
        second = self.compact("--keep", "1d")
        self.assertGreater(second["removed"], 3)
        self.t.stop()
        os.unlink(os.path.join(self.t.folder, "state", "state.mdb"))
        self.t.start()
        self.assertEqual(self.balances(), before)
        self.t.audit()

    def test_what_an_open_hold_needs_is_kept(self):
        self.fill(rounds=1)
        sent = self.t.send(self.keys["a0"], model="slow")
        s = self.t.open(sent["stream_id"])
        events = s.typed()
        for _ in range(3):
            next(events)
        opened = next(x["sequence"] for x in self.t.ctl("journal") if
                      x.get("message_id") == sent["message_id"])
        self.clock.forward(2 * DAY)
        done = self.compact("--keep", "1d")
        self.assertLess(done["checkpoint"], opened)
        self.assertGreater(done["checkpoint"], 5)
        self.t.request("DELETE", "/stream?id=" + sent["stream_id"])
        rest = list(events)
        s.close()
        self.assertEqual(rest[-1]["type"], "done")
        self.t.audit()
        self.assertEqual(self.t.ctl("hold", "list"), [])

    def test_lists_say_where_they_begin(self):
        self.fill(rounds=1)
        self.clock.forward(2 * DAY)
        self.t.ctl("topup", "a0", "1")
        p = self.tollctl("journal", "--since", "7d")
        self.assertEqual(p.stderr, "")
        done = self.compact("--before", "1d")
        text = f"begins with record {done['first']};"
        for args in (["journal"], ["journal", "--since", "7d"], ["export", "--format", "csv"]):
            p = self.tollctl(*args)
            self.assertEqual(p.returncode, 0)
            self.assertIn(text, p.stderr)
            self.assertIn("checkpoint", p.stdout)
        p = self.tollctl("--json", "journal", "--since", "1h")
        self.assertEqual(p.stderr, "")
        rows = json.loads(p.stdout)
        self.assertEqual([r["type"] for r in rows], ["topup", "checkpoint"])
        self.assertEqual(rows[1]["covers"], done["checkpoint"])
        self.assertEqual((rows[1]["hash"], rows[1]["link"]), (done["hash"], done["link"]))
        self.assertEqual(rows[0]["sequence"], done["first"])

    def test_a_backup_starts(self):
        self.fill()
        self.clock.forward(2 * DAY)
        self.compact("--keep", "1d")
        before, head = self.balances(), self.t.audit()
        copy = os.path.join(self.t.folder, "copy")
        self.t.ctl("backup", copy)
        self.t.stop()
        shutil.rmtree(os.path.join(self.t.folder, "state"))
        os.rename(copy, os.path.join(self.t.folder, "state"))
        self.t.start()
        self.assertEqual(self.balances(), before)
        audit = self.t.audit()
        self.assertEqual(audit["checkpoint_hash"], head["checkpoint_hash"])
        self.assertEqual(self.tollctl("audit", "--link",
                                      f"{head['head']}:{head['link']}").returncode, 0)

    def test_bad_input(self):
        self.fill(accounts=1, rounds=1)
        for args, field, status in (
                (["--keep", "1h"], "last 24 hours", 1), (["--before", "1h"], "last 24 hours", 1),
                ([], "keep_days is 0", 1), (["--keep", "x"], "keep", 2),
                (["--keep", "2d", "--before", "3d"], "not both", 2),
                (["--before", "nonsense"], "before", 2)):
            p = self.tollctl("compact", *args)
            self.assertEqual(p.returncode, status, (args, p.stdout, p.stderr))
            self.assertIn(field, p.stderr)
        p = self.tollctl("compact", "--keep", "1d")
        self.assertEqual(p.returncode, 0)
        self.assertIn("nothing to remove", p.stdout)
        self.t.audit()

    def test_a_damaged_journal_keeps_its_evidence(self):
        """What does not prove is not removed."""
        self.fill(accounts=1, rounds=1)
        # An account's id in the journal's file: not in any row of what was acknowledged since.
        self.t.stop()
        path = os.path.join(self.t.folder, "state", "journal.mdb")
        with open(path, "r+b") as f:
            data = f.read()
            at = data.find(b"a slip")
            self.assertGreater(at, 0)
            while at >= 0:
                f.seek(at)
                f.write(b"a trip")
                at = data.find(b"a slip", at + 1)
        self.t.start()
        self.clock.forward(2 * DAY)
        p = self.tollctl("compact", "--keep", "1d")
        self.assertEqual(p.returncode, 1)
        self.assertIn("nothing is removed", p.stderr)
        self.assertEqual(self.t.ctl("journal")[0]["sequence"], 1)
        p = self.tollctl("audit")
        self.assertEqual(p.returncode, 1)
        self.assertIn("the chain is broken", p.stdout)

    def test_the_keeper_dies_meanwhile(self):
        self.fill()
        before = self.balances()
        for n in range(8):
            self.clock.forward(2 * DAY)
            for i in range(30):
                self.t.ctl("topup", "a0", "0.000001", "--ref", f"n{n}-{i}")
            p = subprocess.Popen([os.path.join(BUILD, "tollctl"), "-s", self.t.socket, "--json",
                                  "compact", "--keep", "1d"], stdout=subprocess.PIPE, text=True,
                                 env=dict(os.environ, **self.clock.env))
            keeper = self.t.children().get("tolld: keeper")
            if keeper:
                os.kill(keeper, signal.SIGKILL)
            out, _ = p.communicate(timeout=60)
            self.assertEqual(p.returncode, 0)
            self.assertEqual(json.loads(out)["first"], self.t.audit()["checkpoint"] + 1)
        after = self.balances()
        self.assertEqual(micro(after["a0"]["balance"]),
                         micro(before["a0"]["balance"]) + 8 * 30)
        self.kill_and_lose_state()
        self.assertEqual(self.balances(), after)
        self.t.audit()


class Retention(Compacted):
    config = "journal { keep_days = 2 }"

    def test_old_records_go_by_themselves(self):
        self.fill(rounds=1)
        before = self.balances()
        # Younger than keep_days: nothing, not even when asked.
        p = self.tollctl("compact")
        self.assertIn("nothing to remove", p.stdout)
        self.clock.forward(3 * DAY)
        self.t.ctl("topup", "a0", "1")
        # It looks once a minute, and when it starts.
        self.t.stop()
        self.t.start()
        wait_for(lambda: "journal compacted" in self.t.log(), 20, "the compaction")
        self.assertIsNotNone(self.t.audit()["checkpoint"])
        self.assertEqual(self.t.ctl("journal")[0]["type"], "topup")
        self.assertEqual(micro(self.t.show("a0")["balance"]),
                         micro(before["a0"]["balance"]) + 1000000)


if __name__ == "__main__":
    unittest.main()
