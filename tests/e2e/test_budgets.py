"""Goal:   an account spends no more in a day or a month than its budget, and each micro-credit of it
        is counted, whoever is killed.
Method: four workers with accounts under budgets: streams that reach them, many at once, kills of
        each process, changes in mid-stream, days and months that pass by a clock put forward.
"""
import calendar
import csv
import os
import signal
import subprocess
import time
import unittest
from concurrent.futures import ThreadPoolExecutor

import test_keys
from clock import Clock
from tolld import BUILD, SLOW, Case, Tolld, cost, end_of, micro, wait_for, within_a_day


class Budgeted(Case):
    def setUp(self):
        within_a_day()

    def budgeted(self, account, *options, balance="1000"):
        self.t.ctl("account", "create", account, "--balance", balance, "--overdraft", "0",
                   *options)
        return self.t.ctl("key", "create", account)["key"]

    def budget(self, account, which="day"):
        shown = self.t.show(account)["budget_" + which]
        return shown and {k: v if k == "resets_at" else micro(v) for k, v in shown.items()}

    def spent(self, account, which="day"):
        return self.budget(account, which)["spent"]

    def charged(self, account):
        return 1000 * 1000000 - micro(self.t.show(account)["balance"])

    def refused(self, key, which="day", path="/chat/send", **body):
        status, headers, answer = self.t.request(
            "POST", path, dict({"message": "hello there", "model": "small"}, **body), key)
        self.assertEqual(status, 402, answer)
        self.assertEqual(headers["x-should-retry"], "false")
        error = answer["error"]
        self.assertEqual((error["type"], error["code"]), ("insufficient_quota", "budget_exceeded"))
        self.assertIn("for this " + which, error["message"])
        self.assertIn(time.strftime("%Y-%m-%dT%H:%M:%SZ",
                                    time.gmtime(error["budget_" + which]["resets_at"])),
                      error["message"])
        return error

    def at_rest(self):
        wait_for(lambda: self.t.ctl("hold", "list") == [], 10, "holds to be closed")

    rebuilt = test_keys.Keys.rebuilt


class Budgets(Budgeted):
    OPTIONS = {"workers": 4, "ledger": "slice_tokens = 50",
               "models": {"small": "sim:tokens=5", "long": "sim:tokens=5000,rate=0",
                          "slow": "sim:tokens=400,rate=100"}}

    def test_cut_at_the_last_token(self):
        key = self.budgeted("cut", "--budget-day", "0.0005")
        self.assertEqual(self.budget("cut", "month"), None)
        status, _, preview = self.t.request("POST", "/chat/preview", {"message": "hello there"},
                                            key)
        self.assertEqual((status, preview["allowed"]), (200, True))
        self.assertNotIn("short_of", preview)
        events = self.t.run(key, model="long")
        kind, end = end_of(events)
        self.assertEqual((kind, end["finish_reason"], end["short_of"]),
                         ("done", "credit", "budget_day"))
        prompt, tokens = (events[0]["data"]["prompt_tokens"], end["usage"]["completion_tokens"])
        self.assertLessEqual(cost(prompt, tokens), 500)
        self.assertGreater(cost(prompt, tokens + 1), 500)
        spent = micro(end["cost"])
        midnight = (int(time.time()) // 86400 + 1) * 86400
        self.assertEqual(self.budget("cut"), {"limit": 500, "spent": spent, "left": 500 - spent,
                                              "resets_at": midnight})
        error = self.refused(key)
        self.assertLess(micro(error["available"]), micro(error["required"]))
        self.assertEqual(micro(error["available"]), 500 - spent)
        self.assertEqual(micro(error["budget_day"]["spent"]), spent)
        status, _, preview = self.t.request("POST", "/chat/preview", {"message": "hello there"},
                                            key)
        self.assertEqual((status, preview["allowed"], preview["short_of"]),
                         (200, False, "budget_day"))
        _, _, balance = self.t.request("GET", "/balance", key=key)
        self.assertEqual(micro(balance["budget_day"]["left"]), 500 - spent)
        self.assertNotIn("budget_month", balance)
        # It is the account's: another key of it has no more.
        self.refused(self.t.ctl("key", "create", "cut")["key"])
        self.assertGreaterEqual(self.t.metric('tolld_reserve_total{result="budget"}'), 2)
        self.invariants()

    def test_the_tightest_binds(self):
        for name, options, cap, balance, want in (
                ("tight-month", ("--budget-day", "1", "--budget-month", "0.0005"), None, "1",
                 "budget_month"),
                ("tight-day", ("--budget-day", "0.0005", "--budget-month", "1"), "1", "1",
                 "budget_day"),
                ("tight-cap", ("--budget-day", "1", "--budget-month", "1"), "0.0005", "1",
                 "key_cap"),
                ("tight-credit", ("--budget-day", "1", "--budget-month", "1"), "1", "0.0005",
                 "credit")):
            key = self.budgeted(name, *options, balance=balance)
            if cap is not None:
                key = self.t.ctl("key", "create", name, "--cap", cap, "--per", "total")["key"]
            end = end_of(self.t.run(key, model="long"))[1]
            self.assertEqual((end["finish_reason"], end["short_of"]), ("credit", want))
            for which in ("day", "month"):
                self.assertEqual(self.spent(name, which), micro(end["cost"]), name)
            status, _, answer = self.t.request("POST", "/chat/send", {"message": "hello there"},
                                               key)
            self.assertEqual((status, answer["error"]["code"]), (402, {
                "credit": "insufficient_credit", "key_cap": "key_cap_reached"}.get(
                    want, "budget_exceeded")))
            # What was refused is claimed from none of them.
            for which in ("day", "month"):
                self.assertEqual(self.spent(name, which), micro(end["cost"]), name)
        self.invariants()

    def test_on_v1(self):
        key = self.budgeted("v1", "--budget-month", "0.0005")
        ask = {"model": "long", "messages": [{"role": "user", "content": "x"}]}
        status, headers, answer = self.t.request("POST", "/v1/chat/completions", ask, key)
        self.assertEqual((status, answer["choices"][0]["finish_reason"]), (200, "length"))
        self.assertEqual(headers["x-tolld-finish"], "credit")
        self.assertEqual(headers["x-tolld-short-of"], "budget_month")
        wait_for(lambda: self.charged("v1") > 0, 5)
        self.refused(key, "month", "/v1/chat/completions", messages=ask["messages"], message=None)
        status, headers, answer = self.t.request(
            "POST", "/v1/messages", dict(ask, max_tokens=100), key)
        self.assertEqual((status, headers["x-should-retry"]), (402, "false"))
        self.assertIn("for this month", answer["error"]["message"])
        self.assertEqual(self.spent("v1", "month"), self.charged("v1"))
        self.invariants()

    def test_never_passed_by_many(self):
        """Four workers, each of many connections; all reserve at once, twice."""
        key = self.budgeted("many", "--budget-day", "0.002", "--budget-month", "0.0035")
        for limit in (2000, 2000):
            with ThreadPoolExecutor(24) as pool:
                ends = list(pool.map(lambda _: self.t.request(
                    "POST", "/chat/send", {"message": "hello there", "model": "long"}, key),
                    range(96)))
            sent = [body for status, _, body in ends if status == 200]
            self.assertEqual({status for status, _, _ in ends}, {200, 402})
            self.assertLessEqual(sum(micro(s["reserved"]) for s in sent), limit)
            self.assertLessEqual(self.spent("many"), limit)
            with ThreadPoolExecutor(24) as pool:
                for s in pool.map(lambda s: self.t.open(s["stream_id"]), sent[:10]):
                    list(s.typed())
                    s.close()
            for s in sent[10:]:
                self.t.request("DELETE", "/stream?id=" + s["stream_id"])
            self.at_rest()
            self.assertEqual(self.spent("many"), self.charged("many"))
            self.assertEqual(self.spent("many", "month"), self.charged("many"))
            self.assertLessEqual(self.charged("many"), limit)
        self.invariants()

    def test_killed(self):
        """Each process, everything at once, a clean end, the loss of state.mdb: it stays used."""
        key = self.budgeted("killed", "--budget-day", "0.005", "--budget-month", "0.0051")

        def begin():
            s = self.t.open(self.t.send(key, model="slow")["stream_id"])
            events = s.typed()
            while next(events)["type"] != "token":
                pass
            return s

        def kill(what):
            def end():
                for name, pid in self.t.children().items():
                    if what in name:
                        os.kill(pid, signal.SIGKILL)
            return end
        ends = [kill("worker"), kill("worker"), kill("keeper"), kill("admin")]
        for end in ends + [self.t.kill_all, self.t.stop, self.rebuilt]:
            s = begin()
            end()
            if end not in ends:
                self.t.start()
            else:
                wait_for(self.t.ready, 10)
            # If it lives, it goes on; else it is settled.
            list(s.events()) if end in ends[2:] else None
            s.close()
            self.at_rest()
            for which in ("day", "month"):
                self.assertEqual(self.spent("killed", which), self.charged("killed"))
            self.assertGreater(self.charged("killed"), 0)
            self.assertLessEqual(self.charged("killed"), 5000)
        self.assertEqual(self.t.audit()["ok"], True)
        self.assertNotIn("forged", self.t.log())

    def test_changed(self):
        key = self.budgeted("changed")
        self.assertEqual((self.budget("changed"), self.budget("changed", "month")), (None, None))
        before = micro(end_of(self.t.run(key, model="small"))[1]["cost"])
        # What was reserved before it had one is not counted.
        s = self.t.open(self.t.send(key, model="slow")["stream_id"])
        shown = self.t.ctl("account", "set", "changed", "--budget-day", "0.002")
        self.assertEqual((micro(shown["budget_day"]["spent"]), shown["budget_month"]), (0, None))
        self.assertEqual(end_of(list(s.typed()))[1]["finish_reason"], "stop")
        s.close()
        self.at_rest()
        self.assertEqual(self.spent("changed"), 0)
        before = self.charged("changed")
        # Lowered in mid-stream: it ends with what is paid.  Raised: more.
        s = self.t.open(self.t.send(key, model="slow")["stream_id"])
        events = s.typed()
        while next(events)["type"] != "token":
            pass
        self.t.ctl("account", "set", "changed", "--budget-day", "0.0002")
        end = end_of(list(events))[1]
        s.close()
        self.assertEqual((end["finish_reason"], end["short_of"]), ("credit", "budget_day"))
        self.assertEqual(self.spent("changed"), micro(end["cost"]))
        self.assertEqual(self.budget("changed")["left"],
                         max(0, 200 - micro(end["cost"])))
        self.refused(key)
        self.t.ctl("account", "set", "changed", "--budget-day", "1", "--budget-month", "0.5")
        self.assertEqual(end_of(self.t.run(key, model="small"))[0], "done")
        self.assertEqual(self.spent("changed"), self.charged("changed") - before)
        self.assertLess(self.spent("changed", "month"), self.spent("changed"))
        # Taken away, it binds nobody; the other setting stays as it was.
        self.t.ctl("account", "set", "changed", "--budget-month", "0.000001")
        self.refused(key, "month")
        self.t.ctl("account", "set", "changed", "--budget-month", "0")
        self.assertEqual(self.budget("changed", "month"), None)
        self.assertEqual(self.budget("changed")["limit"], 1000000)
        self.assertEqual(end_of(self.t.run(key, model="small"))[0], "done")
        sets = [r for r in self.t.ctl("journal", "--account", "changed")
                if r["type"] == "account_set"]
        self.assertEqual([(r.get("budget_day"), r.get("budget_month")) for r in sets],
                         [(0.002, None), (0.0002, None), (1, 0.5), (None, 0.000001), (None, 0)])
        # As text and as a table, too.
        text = subprocess.run([os.path.join(BUILD, "tollctl"), "-s", self.t.socket, "journal",
                               "--account", "changed"], capture_output=True, text=True,
                              timeout=20 * SLOW).stdout
        self.assertRegex(text, r"account_set changed .*budget_day=1 budget_month=0\.5")
        table = subprocess.run([os.path.join(BUILD, "tollctl"), "-s", self.t.socket, "export",
                                "--format", "csv", "--account", "changed"], capture_output=True,
                               text=True, timeout=20 * SLOW).stdout
        rows = [r for r in csv.DictReader(table.splitlines()) if r["type"] == "account_set"]
        self.assertEqual([r["budget_month"] for r in rows], ["", "", "0.5", "0.000001", "0"])
        self.invariants()

    def test_changed_under_load(self):
        """An operator lowers and raises it while all reserve and extend: nobody is taken for a
        forger, and nothing is lost."""
        key = self.budgeted("load", "--budget-day", "900", "--budget-month", "900")
        with ThreadPoolExecutor(12) as pool:
            ends = [pool.submit(self.t.run, key, model="long", max_tokens=400)
                    for _ in range(60)]
            i = 0
            while not all(e.done() for e in ends):
                i += 1
                self.t.ctl("account", "set", "load", "--budget-day",
                           ("0.0001", "900", "0")[i % 3], "--budget-month",
                           ("900", "0.0001", "900", "0")[i % 4])
        self.at_rest()
        self.assertEqual(self.t.show("load")["status"], "open")
        self.assertNotIn("forged", self.t.log())
        self.assertEqual(self.t.metric('tolld_records_refused_total'), 0)
        self.invariants()

    def test_bad_budgets(self):
        self.t.account("bad", "1")
        for option in ("--budget-day", "--budget-month"):
            for value in ("-1", "x", "", "100000001", "0.0000001"):
                p = self.t.ctl("account", "set", "bad", option, value, check=False)
                self.assertNotEqual(p.returncode, 0, value)
                self.assertRegex(p.stdout + p.stderr, "budget.(day|month)", value)
        self.assertEqual((self.budget("bad"), self.budget("bad", "month")), (None, None))
        p = self.t.ctl("account", "create", "worse", "--budget-day", "-1", check=False)
        self.assertNotEqual(p.returncode, 0)


class Windows(Budgeted):
    """Days and months begin at midnight in UTC; a stream is paid from those of its reserve."""

    @classmethod
    def setUpClass(cls):
        cls.t = Tolld(workers=2, ledger="slice_tokens = 50 hold_ttl = 86400",
                      timeouts="stream = 86400",
                      models={"small": "sim:tokens=5", "long": "sim:tokens=5000,rate=0"})
        cls.clock = Clock(BUILD, cls.t.folder)
        cls.t.env.update(cls.clock.env)
        cls.t.start()

    def now(self):
        return time.time() + self.clock.ahead()

    def midnight(self):
        self.clock.forward(86400 - int(self.now()) % 86400 + 1)

    def cut(self, key, by):
        end = end_of(self.t.run(key, model="long"))[1]
        self.assertEqual((end["finish_reason"], end["short_of"]), ("credit", by))
        return micro(end["cost"])

    def test_windows(self):
        # From the second of a month on, and not in the midst of the last minutes of a day.
        self.midnight()
        while time.gmtime(self.now()).tm_mday != 2:
            self.clock.forward(86400)
        key = self.budgeted("paid", "--budget-day", "0.0005", "--budget-month", "0.0012")
        first = self.cut(key, "budget_day")
        now = time.gmtime(self.now())
        self.assertEqual(self.budget("paid")["resets_at"], calendar.timegm(now) // 86400 * 86400 +
                         86400)
        following = (now.tm_year + now.tm_mon // 12, now.tm_mon % 12 + 1, 1, 0, 0, 0)
        self.assertEqual(self.budget("paid", "month")["resets_at"], calendar.timegm(following))
        self.refused(key)
        self.midnight()
        self.assertEqual((self.spent("paid"), self.spent("paid", "month")), (0, first))
        # This one is reserved on the second day, and streamed on the third.
        sent = self.t.send(key, model="small")
        held = micro(sent["reserved"])
        self.assertEqual((self.spent("paid"), self.spent("paid", "month")), (held, first + held))
        self.midnight()
        self.assertEqual((self.spent("paid"), self.spent("paid", "month")), (0, first + held))
        s = self.t.open(sent["stream_id"])
        end = end_of(list(s.typed()))[1]
        s.close()
        self.assertEqual(end["finish_reason"], "stop")
        total = first + micro(end["cost"])
        self.assertEqual((self.spent("paid"), self.spent("paid", "month")), (0, total))
        third = self.cut(key, "budget_day")
        total += third
        # Killed and started anew, it is the same day; then it is the next.
        for end in (self.t.kill_all, self.t.stop, self.rebuilt):
            end()
            self.t.start()
            self.assertEqual((self.spent("paid"), self.spent("paid", "month")), (third, total))
            self.refused(key)
        self.midnight()
        total += self.cut(key, "budget_month")
        self.assertLessEqual(total, 1200)
        self.refused(key, "month")
        # What is old enough becomes a checkpoint: it says the same.
        self.clock.forward(3 * 86400)
        self.t.ctl("compact", "--keep", "1d")
        for end in (self.t.stop, self.rebuilt):
            end()
            self.t.start()
            self.assertEqual((self.spent("paid"), self.spent("paid", "month")), (0, total))
            self.refused(key, "month")
        # The next month.
        self.clock.forward(31 * 86400)
        self.assertEqual((self.spent("paid"), self.spent("paid", "month")), (0, 0))
        self.cut(key, "budget_day")
        self.invariants()


if __name__ == "__main__":
    unittest.main()
