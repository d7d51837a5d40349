"""Goal:   what an operator does to accounts, holds, streams and the journal happens once, lasts, and
        costs nobody else anything.
Method: tollctl and the admin socket against a real daemon with streams under way; kills and
        restarts in between; the audit at the end of each.
"""
import base64
import contextlib
import csv
import io
import json
import os
import shutil
import pty
import signal
import struct
import subprocess
import tempfile
import threading
import time
import unittest

from disk import Disk
from test_admin import Client, Refused
from tolld import BUILD, PATIENCE, SLOW, Case, Tolld, cost, end_of, micro, wait_for

MODELS = {
    "slow": "sim:tokens=400,rate=100,lang=even",
    "endless": "sim:tokens=40000,rate=100,lang=even",
    "short": "sim:tokens=5",
    "silent": "sim:tokens=50,delay=20000",
}


class Operator(Case):
    """One daemon for all of a class's tests; each test has accounts of its own."""

    OPTIONS = dict(workers=2, models=MODELS, ledger="slice_tokens = 50")

    def client(self):
        c = Client(self.t.socket)
        self.addCleanup(c.close)
        return c

    def refused(self, code, field, method, **args):
        with self.assertRaises(Refused) as r:
            self.client().call(method, **args)
        self.assertEqual(r.exception.args[:2], (code, field), r.exception)

    def tollctl(self, *args, **kw):
        return subprocess.run([os.path.join(BUILD, "tollctl"), "-s", self.t.socket,
                               *map(str, args)], text=True, capture_output=True,
                              timeout=60 * SLOW, **kw)

    def may_send(self, key):
        return self.t.request("POST", "/chat/send", {"model": "short", "message": "hi"}, key)[0]

    def restart(self, how):
        if how == "kill":
            self.t.kill_all()
        elif how == "reboot":
            self.t.kill_all()
            os.unlink(os.path.join(self.t.folder, "run", "ledger.shm"))
        else:
            self.assertEqual(self.t.stop(), 0)
        if how == "rebuild":
            for name in ("state.mdb", "state.mdb-lock"):
                os.unlink(os.path.join(self.t.folder, "state", name))
        self.t.start()

    def stream(self, key, model="slow", tokens=20):
        """A stream under way: (send's answer, events so far, thread)."""
        sent = self.t.send(key, "hello", model)
        out = []

        def watch():
            with contextlib.suppress(Exception), \
                    contextlib.closing(self.t.open(sent["stream_id"])) as s:
                for e in s.typed():
                    out.append(e)

        th = threading.Thread(target=watch, daemon=True)
        th.start()
        wait_for(lambda: len(out) > tokens, 20, "tokens to come")
        return sent, out, th


class Accounts(Operator):
    def test_settings_are_set_and_last(self):
        self.t.account("set", "5")
        a = self.t.ctl("account", "set", "set", "--overdraft", "7.5", "--rpm", 11)
        self.assertEqual((micro(a["overdraft"]), micro(a["available"]), a["rpm"], a["tpm"]),
                         (7500000, 12500000, 11, 0))
        a = self.t.ctl("account", "set", "set", "--tpm", 12, "--streams", 13,
                       "--reason", "a larger plan")
        self.assertEqual((micro(a["overdraft"]), a["rpm"], a["tpm"], a["streams"]),
                         (7500000, 11, 12, 13))
        a = self.t.ctl("account", "set", "set", "--rpm", 0)
        self.assertEqual((a["rpm"], a["tpm"]), (0, 12))
        for how in ("clean", "kill", "reboot", "rebuild"):
            self.restart(how)
            self.assertEqual(self.t.show("set"), a, how)
        self.invariants()

    def test_what_may_be_reserved_follows_the_overdraft(self):
        key = self.t.account("follow", "0", "0")
        self.assertEqual(self.may_send(key), 402)
        self.t.ctl("account", "set", "follow", "--overdraft", 1)
        self.assertEqual(self.may_send(key), 200)
        wait_for(lambda: self.t.ctl("hold", "list"), 5)
        # Under its floor while something is held, and afterwards.
        a = self.t.ctl("account", "set", "follow", "--overdraft", 0)
        self.assertLess(micro(a["available"]), 0)
        self.assertEqual(self.may_send(key), 402)
        for h in self.t.ctl("hold", "list"):
            self.t.request("DELETE", "/stream?id=" + h["stream_id"])
        wait_for(lambda: self.t.ctl("hold", "list") == [], 10)
        self.assertEqual(micro(self.t.show("follow")["available"]), 0)
        self.t.ctl("topup", "follow", 1)
        self.assertEqual(self.may_send(key), 200)

    def test_below_the_floor_nothing_is_reserved(self):
        key = self.t.account("below", "1", "1")
        self.t.ctl("adjust", "below", "-1.5", "--reason", "a refund was taken back")
        a = self.t.ctl("account", "set", "below", "--overdraft", 0)
        self.assertEqual(micro(a["available"]), -500000)
        self.assertEqual(self.may_send(key), 402)
        self.restart("kill")
        self.assertEqual(self.may_send(key), 402)
        self.t.audit()
        self.t.ctl("topup", "below", "0.6")
        self.assertEqual(self.may_send(key), 200)

    def test_overdrafts_set_at_once_add_up(self):
        self.t.account("race", "1", "0")
        clients = [self.client() for _ in range(8)]
        for n in range(25):
            for i, c in enumerate(clients):
                c.send("account.set", id="race", overdraft=1000 * (n + i), rpm=i)
        for c in clients:
            for _ in range(25):
                self.assertIsNone(c.answer()[1])
        a = self.client().call("account.show", id="race")
        self.assertEqual(a["available"], 1000000 + a["overdraft"])
        # Memory agrees: exactly that much can be taken, and is there after a restart.
        self.client().call("account.set", id="race", overdraft=0)
        self.client().call("credit.adjust", id="race", amount=-1000000, reason="empty")
        key = self.t.ctl("key", "create", "race")["key"]
        self.assertEqual(self.may_send(key), 402)
        self.t.audit()

    def test_a_closed_account(self):
        key = self.t.account("shut", "5")
        _, out, th = self.stream(key)
        a = self.t.ctl("account", "close", "shut", "--reason", "left us")
        self.assertEqual((a["status"], a.get("repeated")), ("closed", None))
        self.assertEqual(self.may_send(key), 402)
        p = self.t.ctl("topup", "shut", 1, check=False)
        self.assertEqual(p.returncode, 1)
        self.assertIn("account_closed", p.stderr)
        self.refused("account_closed", "id", "key.create", id="shut")
        self.refused("account_closed", "id", "account.set", id="shut", overdraft=5)
        self.assertTrue(self.t.ctl("account", "close", "shut")["repeated"])
        # Its stream ends as it would, beyond the slice that it had.
        th.join(PATIENCE * SLOW)
        kind, end = end_of(out)
        self.assertEqual((kind, end["finish_reason"]), ("done", "stop"))
        self.assertEqual(end["usage"]["completion_tokens"], 400)
        for how in ("clean", "kill", "reboot", "rebuild"):
            self.restart(how)
            self.assertEqual(self.t.show("shut")["status"], "closed", how)
            self.assertEqual(self.may_send(key), 402)
        self.invariants()

    def test_a_frozen_account(self):
        """A stray write into a hold: its account is frozen until an operator lifts that."""
        key = self.t.account("ice", "50")
        sent, _, _ = self.stream(key, "endless", tokens=10)
        hold = next(h["hold"] for h in self.t.ctl("hold", "list")
                    if h["stream_id"] == sent["stream_id"])
        with open(self.t.folder + "/run/ledger.shm", "r+b") as f:
            f.seek(152)  # struct region_header: holds_at
            at = struct.unpack("<Q", f.read(8))[0] + int(hold.split("-")[0]) * 448 + 16
            f.seek(at)  # struct hold: amount
            amount = struct.unpack("<q", f.read(8))[0]
            f.seek(at)
            f.write(struct.pack("<q", amount - 8))
        wait_for(lambda: self.t.show("ice")["status"] == "frozen", 20)
        wait_for(lambda: self.t.ctl("hold", "list") == [], 20)
        for how in ("clean", "kill", "reboot", "rebuild"):
            self.restart(how)
            self.assertEqual(self.t.show("ice")["status"], "frozen", how)
            self.assertEqual(self.may_send(key), 402)
        p = self.t.ctl("topup", "ice", 1, check=False)
        self.assertIn("account_frozen", p.stderr)
        rows = self.t.ctl("journal", "--account", "ice")
        self.assertIn("the sum", next(r["reason"] for r in rows if r["type"] == "freeze"))
        # Settings are no money: they can be changed, and lift nothing.
        self.assertEqual(self.t.ctl("account", "set", "ice", "--rpm", 5)["status"], "frozen")
        p = self.t.ctl("account", "set", "ice", "--unfreeze", check=False)
        self.assertIn("reason", p.stderr)
        self.assertEqual(self.t.ctl("account", "set", "ice", "--unfreeze", "--reason", "looked at")
                         ["status"], "open")
        for how in ("kill", "reboot"):
            self.restart(how)
            self.assertEqual(self.t.show("ice")["status"], "open", how)
        self.assertEqual(self.may_send(key), 200)
        self.t.audit()

    def test_killed_while_setting(self):
        """The admin process and the keeper die among settings: all or nothing of each."""
        self.t.account("hit", "0", "0")
        for n in range(1, 120):
            if n % 30 == 15:
                os.kill(self.t.children()["tolld: admin"], signal.SIGKILL)
            elif n % 30 == 0:
                os.kill(self.t.children()["tolld: keeper"], signal.SIGKILL)
            end = time.monotonic() + 30 * SLOW
            while True:
                try:
                    with Client(self.t.socket) as c:
                        a = c.call("account.set", id="hit", overdraft=n * 1000 if n % 2 else 0)
                    break
                except (EOFError, OSError, KeyError, Refused):
                    self.assertLess(time.monotonic(), end)
                    time.sleep(0.02)
            self.assertEqual(a["available"], n * 1000 if n % 2 else 0)
        key = self.t.ctl("key", "create", "hit")["key"]
        self.t.ctl("account", "set", "hit", "--overdraft", 0)
        self.assertEqual(self.may_send(key), 402)
        self.t.audit()

    def test_what_is_wrong_is_said(self):
        self.t.account("wrong", "1")
        self.refused("account_not_found", "id", "account.set", id="nobody", rpm=1)
        self.refused("account_not_found", "id", "account.close", id="nobody")
        self.refused("invalid_argument", None, "account.set", id="wrong")
        self.refused("invalid_argument", "overdraft", "account.set", id="wrong", overdraft=-1)
        self.refused("invalid_argument", "overdraft", "account.set", id="wrong", overdraft=2**62)
        self.refused("invalid_argument", "unfreeze", "account.set", id="wrong", unfreeze=1)
        self.refused("invalid_argument", "reason", "account.set", id="wrong", unfreeze=True)
        self.refused("invalid_argument", "reason", "account.set", id="wrong", rpm=1,
                     reason="x" * 513)
        p = self.tollctl("account", "set", "wrong", "--unfreeze=yes")
        self.assertEqual(p.returncode, 2)
        # What is not frozen may be unfrozen: nothing happens.
        a = self.t.ctl("account", "set", "wrong", "--unfreeze", "--reason", "to be sure")
        self.assertEqual(a["status"], "open")

    def test_adjustments(self):
        self.t.account("adj", "10", "0")
        self.assertEqual(self.tollctl("adjust", "adj", "-5").returncode, 2)
        p = self.tollctl("adjust", "adj", "-12.000001", "--reason", "chargeback", "--ref", "c1")
        self.assertEqual((p.returncode, p.stdout), (0, "balance  -2.000001\n"))
        again = self.t.ctl("adjust", "adj", "-12.000001", "--reason", "chargeback", "--ref", "c1")
        self.assertIs(again["repeated"], True)
        self.assertEqual(again["balance"], -2.000001)
        self.t.ctl("adjust", "adj", "+0.5", "--reason", "goodwill")
        self.restart("kill")
        self.assertIs(self.t.ctl("adjust", "adj", "-12.000001", "--reason", "chargeback",
                                 "--ref", "c1")["repeated"], True)
        for how in ("reboot", "rebuild"):
            self.restart(how)
            self.assertEqual(micro(self.t.show("adj")["balance"]), -1500001)
            self.assertIs(self.t.ctl("adjust", "adj", 1, "--reason", "r", "--ref", "c1")
                          ["repeated"], True)
        self.t.audit()


class Streams(Operator):
    def hold_of(self, sent):
        return next(h["hold"] for h in self.t.ctl("hold", "list")
                    if h["stream_id"] == sent["stream_id"])

    def test_a_voided_hold_costs_nothing(self):
        key = self.t.account("void", "100")
        other, other_out, other_th = self.stream(key)
        sent, out, th = self.stream(key, "endless", tokens=120)
        hold = self.hold_of(sent)
        r = self.t.ctl("hold", "void", hold)
        self.assertEqual((r["hold"], r["account"], r["outcome"], r["charge"], r["voided"]),
                         (hold, "void", "cancelled", 0, True))
        # When the answer is there, it is done.
        self.assertNotIn(hold, [h["hold"] for h in self.t.ctl("hold", "list")])
        th.join(20 * SLOW)
        kind, end = end_of(out)
        self.assertEqual((kind, end["finish_reason"], end["cost"]), ("done", "cancelled", 0))
        p = self.t.ctl("hold", "void", hold, check=False)
        self.assertEqual(p.returncode, 1)
        self.assertIn("hold_not_found", p.stderr)
        other_th.join(PATIENCE * SLOW)
        self.assertEqual(end_of(other_out)[1]["finish_reason"], "stop")
        self.assertEqual(micro(self.t.show("void")["balance"]),
                         100000000 - micro(end_of(other_out)[1]["cost"]))
        self.invariants()

    def test_a_cancelled_stream_is_charged_at_its_meter(self):
        key = self.t.account("cancel", "100")
        sent, out, th = self.stream(key, "endless", tokens=60)
        row = next(s for s in self.t.ctl("stream", "list")
                   if s["stream_id"] == sent["stream_id"])
        self.assertEqual((row["account"], row["model"], row["state"]),
                         ("cancel", "endless", "running"))
        self.assertIn(row["worker"], (1, 2))
        self.assertGreater(row["metered"], 50)
        r = self.t.ctl("stream", "cancel", sent["stream_id"])
        self.assertEqual((r["outcome"], r["voided"]), ("cancelled", False))
        th.join(20 * SLOW)
        kind, end = end_of(out)
        self.assertEqual((kind, end["finish_reason"]), ("done", "cancelled"))
        self.assertEqual(micro(end["cost"]), micro(r["charge"]))
        self.assertEqual(micro(r["charge"]), cost(end["usage"]["prompt_tokens"],
                                                  end["usage"]["completion_tokens"]))
        self.assertEqual(micro(self.t.show("cancel")["balance"]), 100000000 - micro(r["charge"]))
        self.refused("stream_not_found", "stream_id", "stream.cancel", stream_id=sent["stream_id"])
        self.invariants()

    def test_what_nobody_opened_is_voided(self):
        key = self.t.account("wait", "100")
        sent = self.t.send(key, "hello", "slow")
        row = next(s for s in self.t.ctl("stream", "list")
                   if s["stream_id"] == sent["stream_id"])
        self.assertEqual((row["state"], row["metered"]), ("waiting", 0))
        r = self.t.ctl("stream", "cancel", sent["stream_id"])
        self.assertEqual((r["charge"], r["voided"]), (0, True))
        silent, _, _ = self.stream(key, "silent", tokens=0)
        r = self.t.ctl("hold", "void", self.hold_of(silent))
        self.assertEqual((r["charge"], r["voided"]), (0, True))
        self.assertEqual(micro(self.t.show("wait")["available"]), 300000000)
        self.invariants()

    def test_names_that_are_none(self):
        for bad in ("17", "-1-00000000", "x", "1-zzzzzzzz", "1-0000000", "99999999999-00000000",
                    " 1-00000000", "1--0000000", "0x1-00000000"):
            self.refused("invalid_argument", "hold", "hold.void", hold=bad)
        self.refused("hold_not_found", "hold", "hold.void", hold="0-00000000")
        self.refused("hold_not_found", "hold", "hold.void", hold="99999999-00000000")
        self.refused("invalid_argument", "stream_id", "stream.cancel", stream_id="nonsense")
        # Well-formed, of a process that never was.
        raw = bytes(16) + bytes([250]) + bytes(4)
        self.refused("stream_not_found", "stream_id", "stream.cancel",
                     stream_id=base64.urlsafe_b64encode(raw).decode())

    def test_many_at_once(self):
        """More letters than a box holds, and the same hold twice: each is answered."""
        key = self.t.account("many", "100")
        sent = [self.t.send(key, "hello", "slow") for _ in range(40)]
        holds = {h["stream_id"]: h["hold"] for h in self.t.ctl("hold", "list")}
        a, b = self.client(), self.client()
        for n, s in enumerate(sent):
            c = a if n % 2 else b
            c.send("hold.void", hold=holds[s["stream_id"]])
        a.send("hold.void", hold=holds[sent[0]["stream_id"]])
        answers = [c.answer() for c in (a, b) for _ in range(20)] + [a.answer()]
        bad = [e for _, e, _ in answers if e is not None]
        self.assertLessEqual({e["code"] for e in bad}, {"hold_not_found"})
        self.assertLessEqual(len(bad), 1)
        self.assertEqual(self.t.ctl("hold", "list"), [])
        self.assertEqual(micro(self.t.show("many")["balance"]), 100000000)
        self.t.audit()

    def post(self, c, method, **args):
        """The letter lies in its box: what was asked behind it is answered."""
        c.send(method, **args)
        number = c.send("daemon.ping")
        self.assertEqual(c.answer()[0], number)

    def test_its_worker_dies(self):
        """The worker is stopped when the letter comes, then killed: the master ends the hold."""
        key = self.t.account("dies", "100")
        sent, _, _ = self.stream(key, "endless", tokens=60)
        worker = base64.urlsafe_b64decode(sent["stream_id"] + "====")[16] - 2
        pid = self.t.children()[f"tolld: worker {worker}"]
        c, d = self.client(), self.client()
        hold = self.hold_of(sent)
        os.kill(pid, signal.SIGSTOP)
        self.post(c, "hold.void", hold=hold)
        self.post(d, "stream.cancel", stream_id=sent["stream_id"])
        os.kill(pid, signal.SIGKILL)
        _, error, _ = c.answer()
        self.assertEqual((error["code"], error["field"]), ("hold_closed", "hold"))
        _, error, result = d.answer()
        self.assertIsNone(error)
        self.assertEqual((result["outcome"], result["voided"]), ("worker_died", False))
        self.assertEqual(micro(self.t.show("dies")["balance"]), 100000000 - result["charge"])
        # The letter that lay in the box does its successor no harm.
        wait_for(lambda: f"tolld: worker {worker}" in self.t.children(), 10)
        for _ in range(6):
            self.assertEqual(end_of(self.t.run(key, "hi", "short"))[0], "done")
        self.invariants()

    def test_the_admin_process_dies_after_posting(self):
        key = self.t.account("poster", "100")
        sent, _, _ = self.stream(key, "endless", tokens=20)
        worker = base64.urlsafe_b64decode(sent["stream_id"] + "====")[16] - 2
        pid = self.t.children()[f"tolld: worker {worker}"]
        c = self.client()
        hold = self.hold_of(sent)
        os.kill(pid, signal.SIGSTOP)
        self.post(c, "hold.void", hold=hold)
        os.kill(self.t.children()["tolld: admin"], signal.SIGKILL)
        os.kill(pid, signal.SIGCONT)
        with self.assertRaises((EOFError, OSError)):
            c.answer()
        wait_for(lambda: self.t.ctl("hold", "list", check=False).stdout.strip() == "[]", 10)
        self.assertEqual(micro(self.t.show("poster")["balance"]), 100000000)
        self.invariants()


class Journal(Operator):
    def rows(self, *args):
        return self.t.ctl("journal", *args)

    def test_all_that_happened_is_told(self):
        key = self.t.account("told", "9")
        kind, end = end_of(self.t.run(key, "hi", "short"))
        self.t.ctl("adjust", "told", "-1", "--reason", 'a "fee", so to speak', "--ref", "f-1")
        self.t.ctl("account", "set", "told", "--overdraft", 3, "--rpm", 9, "--reason", "why")
        self.t.ctl("key", "revoke", self.t.ctl("key", "create", "told", "--label", "x")["key_id"])
        self.t.ctl("account", "close", "told")
        rows = self.rows("--account", "told")
        kinds = [r["type"] for r in rows]
        self.assertEqual([k for k in kinds if k != "mark"],
                         ["account", "topup", "key", "reserve", "settle", "adjust", "account_set",
                          "key", "key_revoke", "account_set"])
        revoked = rows[-2]
        self.assertEqual(revoked["key_id"], [r for r in rows if r["type"] == "key"][1]["key_id"])
        by = {r["type"]: r for r in reversed(rows)}
        self.assertEqual((by["topup"]["amount"], by["topup"]["ref"]), (9, "initial"))
        self.assertEqual((by["settle"]["outcome"], by["settle"]["amount"]), ("stop", end["cost"]))
        self.assertEqual(by["settle"]["completion"], end["usage"]["completion_tokens"])
        self.assertEqual((by["reserve"]["model"], len(by["reserve"]["message_id"])), ("short", 22))
        self.assertEqual((by["adjust"]["amount"], by["adjust"]["reason"], by["adjust"]["ref"]),
                         (-1, 'a "fee", so to speak', "f-1"))
        self.assertEqual((by["account_set"]["overdraft"], by["account_set"]["amount"],
                          by["account_set"]["rpm"], by["account_set"]["reason"]),
                         (3, -197, 9, "why"))
        self.assertEqual(rows[-1]["status"], "closed")
        # Everybody's, without a gap, and what an audit reads.
        everything = self.rows()
        self.assertEqual([r["sequence"] for r in everything],
                         list(range(1, self.t.audit()["records"] + 1)))
        self.assertIn("key_revoke", [r["type"] for r in everything])
        self.assertIn("price", [r["type"] for r in everything])
        told = self.show_sum(everything, "told")
        self.assertEqual(told, micro(self.t.show("told")["balance"]))
        # What can open a stream, and what was said, is not in it.
        text = json.dumps(everything)
        self.assertNotIn("stream_id", text)
        self.assertNotIn('"hi"', text)

    def show_sum(self, rows, account):
        """An account's balance by the journal."""
        sign = {"topup": 1, "adjust": 1, "settle": -1}
        return sum(sign[r["type"]] * micro(r["amount"]) for r in rows
                   if r.get("account") == account and r["type"] in sign)

    def test_since(self):
        self.t.account("early")
        time.sleep(1.1)
        now = int(time.time())
        self.t.account("late")
        iso = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
        for since in (iso, iso[:-1], str(now)):
            rows = self.rows("--since", since)
            self.assertIn("late", [r.get("account") for r in rows])
            self.assertNotIn("early", [r.get("account") for r in rows])
        accounts = {r.get("account") for r in self.rows("--since", "1h")}
        self.assertLessEqual({"early", "late"}, accounts)
        self.assertEqual(self.rows("--since", "2100-01-01"), [])
        for bad in ("yesterday", "2026-13-01", "2026-01-01T", "-5", "1w"):
            self.assertEqual(self.tollctl("journal", "--since", bad).returncode, 2, bad)
        self.refused("account_not_found", "id", "journal.read", account="nobody")

    def test_it_is_followed(self):
        self.t.account("fol", "1")
        p = subprocess.Popen([os.path.join(BUILD, "tollctl"), "-s", self.t.socket, "--json",
                              "journal", "--account", "fol", "--follow"],
                             stdout=subprocess.PIPE, text=True)
        self.addCleanup(p.stdout.close)
        self.addCleanup(p.wait)
        self.addCleanup(p.kill)
        seen = [json.loads(p.stdout.readline())["type"] for _ in range(3)]
        self.assertEqual(seen, ["account", "topup", "key"])
        for n in range(5):
            self.t.ctl("topup", "fol", n + 1)
            self.t.ctl("ping")
            self.assertEqual(json.loads(p.stdout.readline())["amount"], n + 1)
        # The daemon ends although somebody follows.
        self.assertEqual(self.t.stop(), 0)
        self.assertIn(p.wait(10 * SLOW), (1, 3))
        self.t.start()

    def test_pages_on_the_wire(self):
        c = self.client()
        c.call("account.create", id="wire")
        for n in range(20):
            c.call("credit.topup", id="wire", amount=n + 1, ref=f"n{n}")

        def page(**args):
            number, got = c.send("journal.read", account="wire", **args), []
            while True:
                m = c.value()
                if m[0] == 2:
                    self.assertIn(m[1], ("journal.record", "journal.progress"))
                    got += m[2] if m[1] == "journal.record" else []
                    continue
                self.assertEqual(m[:3], [1, number, None])
                self.assertEqual(m[3]["records"], len(got))
                return got, m[3]["next"]

        amounts, after = [], 0
        while after is not None:
            got, after = page(after=after, limit=6)
            self.assertLessEqual(len(got), 6)
            amounts += [r["amount"] for r in got if r["type"] == "topup"]
        self.assertEqual(amounts, list(range(1, 21)))
        self.assertEqual(page(after=2**62), ([], None))

    def test_export(self):
        key = self.t.account("exp", "5")
        self.t.run(key, "hi", "short")
        self.t.ctl("adjust", "exp", "0.000001", "--reason", 'a, "b"; c', "--ref", "r,1")
        p = self.tollctl("export", "--format", "jsonl")
        self.assertEqual(p.returncode, 0, p.stderr)
        lines = [json.loads(x) for x in p.stdout.splitlines()]
        self.assertEqual(lines, self.rows())
        p = self.tollctl("export", "--format", "csv")
        table = list(csv.DictReader(io.StringIO(p.stdout, newline="")))
        self.assertEqual(len(table), len(lines))
        for row, line in zip(table, lines):
            self.assertEqual({k: v for k, v in row.items() if v != ""},
                             {k: f"{v:f}".rstrip("0").rstrip(".") if isinstance(v, float)
                              else str(v) for k, v in line.items()})
        adjust = next(r for r in table if r["type"] == "adjust" and r["account"] == "exp")
        self.assertEqual((adjust["amount"], adjust["reason"], adjust["ref"]),
                         ("0.000001", 'a, "b"; c', "r,1"))
        self.assertEqual(self.tollctl("export").returncode, 2)
        self.assertEqual(self.tollctl("export", "--format", "xml").returncode, 2)

    def test_who_reads_slowly_or_leaves_holds_up_nobody(self):
        c = self.client()
        c.call("account.create", id="bulk")
        for _ in range(3000):
            c.send("credit.topup", id="bulk", amount=1, ref="x" * 100 + str(_))
        for _ in range(3000):
            c.answer()
        deaf = self.client()
        for _ in range(30):
            deaf.send("journal.read")
        gone = self.client()
        gone.send("journal.read", follow=True, after=2**62)
        gone.close()
        worst = 0
        for _ in range(50):
            began = time.monotonic()
            c.call("daemon.ping")
            worst = max(worst, time.monotonic() - began)
        self.assertLess(worst, 5 * SLOW)  # it would be for as long as he does not read
        # Nothing of it is lost: all pages are there when he reads.
        count = answers = 0
        while answers < 30:
            m = deaf.value()
            count += m[0] == 2 and m[1] == "journal.record"
            if m[0] == 1:
                self.assertIsNone(m[2])
                count -= m[3]["records"]
                answers += 1
        self.assertEqual(count, 0)


class Backup(Operator):
    """Of the folders that a backup goes to, one lies on a disk that can be made not to answer."""

    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.mkdtemp(prefix="tolld-backup-")
        cls.addClassCleanup(shutil.rmtree, cls.dir, ignore_errors=True)
        cls.disk = Disk(BUILD, cls.dir, cls.dir + "/slow")
        cls.OPTIONS = dict(Operator.OPTIONS, env=cls.disk.env)
        super().setUpClass()

    def tearDown(self):
        self.disk.slow(0)
        shutil.rmtree(self.dir + "/slow", ignore_errors=True)

    def under_way(self):
        """The helper of a backup to the slow folder, which has begun to write."""
        wait_for(lambda: os.path.isdir(self.dir + "/slow") and os.listdir(self.dir + "/slow"), 10,
                 "the backup to begin")
        pid, = self.helpers()
        return pid

    def revive(self, copy, look):
        """A daemon on a copy; look(it) says whether all is there."""
        t = Tolld(sim=False, folder=tempfile.mkdtemp(prefix="tolld-test-"))
        self.addCleanup(shutil.rmtree, t.folder, ignore_errors=True)
        self.addCleanup(t.close)
        shutil.copytree(copy, t.folder + "/state")
        os.chmod(t.folder + "/state", 0o700)
        t.start()
        t.audit()
        look(t)
        self.assertEqual(t.stop(), 0, t.log())

    def test_a_backup_under_load_starts(self):
        key = self.t.account("load", "50")
        stop = threading.Event()
        booked = []

        def book():
            n = 0
            while not stop.is_set():
                n += 1
                self.t.ctl("topup", "load", "1", "--ref", f"n{n}")
                booked.append(n)

        th = threading.Thread(target=book, daemon=True)
        th.start()
        self.stream(key)
        wait_for(lambda: len(booked) > 20, 20)
        known = len(booked)
        r = self.t.ctl("backup", self.dir + "/one")
        stop.set()
        th.join()
        self.assertEqual(sorted(os.listdir(self.dir + "/one")), ["journal.mdb", "key.secret"])
        for name in ("journal.mdb", "key.secret"):
            self.assertEqual(os.stat(f"{self.dir}/one/{name}").st_mode & 0o777, 0o600)
        self.assertEqual(os.stat(self.dir + "/one").st_mode & 0o777, 0o700)
        self.assertEqual(r["bytes"], os.stat(self.dir + "/one/journal.mdb").st_size)

        def look(t):
            a = t.show("load")
            self.assertGreaterEqual(a["balance"], 49 + known)
            self.assertEqual(a["held"], 0)  # what ran then ends at its last mark
            self.assertIs(t.ctl("topup", "load", "1", "--ref", "n1")["repeated"], True)
            self.assertEqual(t.request("GET", "/balance", key=key)[0], 200)
            self.assertGreaterEqual(t.audit()["records"], r["records"])

        self.revive(self.dir + "/one", look)
        for h in self.t.ctl("hold", "list"):
            self.t.ctl("hold", "void", h["hold"])
        self.invariants()

    def test_where_it_may_go(self):
        os.mkdir(self.dir + "/full")
        with open(self.dir + "/full/mine", "w") as f:
            f.write("x")
        for bad in (self.dir + "/full", self.dir + "/no/such", "/proc/nothing"):
            p = self.tollctl("backup", bad)
            self.assertEqual(p.returncode, 1, bad)
            self.assertIn("backup_failed", p.stderr)
        self.assertEqual(os.listdir(self.dir + "/full"), ["mine"])
        self.refused("invalid_argument", "dir", "backup.run", dir="relative")
        p = self.tollctl("backup", "here/", cwd=self.dir)  # a relative one is tollctl's own
        self.assertEqual(p.returncode, 0, p.stderr)
        self.assertRegex(p.stdout, r"^\d+ records, \d+ bytes in /")
        os.mkdir(self.dir + "/empty")
        self.assertEqual(self.tollctl("backup", self.dir + "/empty").returncode, 0)
        # No helper is left.
        self.assertEqual(self.helpers(), [])

    def helpers(self):
        """Pids of the admin process's children."""
        admin, out = str(self.t.children()["tolld: admin"]), []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            stat = self.stat(pid)
            if stat is not None and stat[1] == admin:
                out.append(pid)
        return out

    def stat(self, pid):
        """Fields of /proc/PID/stat from the state on; None if there is no such process."""
        try:
            with open(f"/proc/{pid}/stat") as f:
                return f.read().rsplit(")", 1)[1].split()
        except OSError:
            return None

    def test_it_is_broken_off_with_its_caller(self):
        self.disk.slow(1000000)
        with Client(self.t.socket) as c:
            c.send("backup.run", dir=self.dir + "/slow")
            self.under_way()
            self.refused_or_not(self.dir + "/beside")
        wait_for(lambda: self.helpers() == [], 10, "the helper to be gone")
        # Nothing that a daemon would start on.
        self.assertEqual(os.listdir(self.dir + "/slow"), [])
        self.disk.slow(0)
        self.assertEqual(self.tollctl("backup", self.dir + "/slow").returncode, 0)

    def test_progress_is_shown_when_it_takes_long(self):
        self.disk.slow(1000000)
        master, slave = pty.openpty()
        p = subprocess.Popen([os.path.join(BUILD, "tollctl"), "-s", self.t.socket, "backup",
                              self.dir + "/slow"], stdout=subprocess.PIPE, stderr=slave)
        os.close(slave)
        shown = b""
        while b"MiB" not in shown:
            shown += os.read(master, 1000)
        self.disk.slow(0)
        out = p.stdout.read()
        p.stdout.close()
        self.assertEqual(p.wait(PATIENCE * SLOW), 0)
        os.close(master)
        self.assertRegex(shown, rb"^\r\d+ of \d+ MiB")
        self.assertRegex(out, rb"records")

    def refused_or_not(self, path):
        """Another one at the same time."""
        try:
            self.client().call("backup.run", dir=path)
        except Refused as e:
            self.assertEqual(e.args[0], "busy")

    def test_killed_with_the_admin_process(self):
        self.disk.slow(1000000)
        with Client(self.t.socket) as c:
            c.send("backup.run", dir=self.dir + "/slow")
            pid = self.under_way()
            os.kill(self.t.children()["tolld: admin"], signal.SIGKILL)
        wait_for(lambda: (self.stat(pid) or "Z")[0] == "Z", 10, "the helper to die")
        self.disk.slow(0)
        wait_for(lambda: self.t.ctl("ping", check=False).returncode == 0, 10)
        self.t.audit()
        self.assertEqual(self.tollctl("backup", self.dir + "/again").returncode, 0)


if __name__ == "__main__":
    unittest.main()
