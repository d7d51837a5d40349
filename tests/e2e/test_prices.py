"""Goal:   a price that an operator sets is in force for the next stream in every worker, and for no
        stream before it; it outlasts a restart and a kill; each kind of token is charged at its
        own price, every record says at which, and no account crosses its floor by any of them.
Method: tollctl beside running streams; the journal's settlements worked out again from what each
        says of itself; everything killed right after the acknowledgement.
"""
import concurrent.futures
import csv
import io
import json
import os
import signal
import subprocess
import threading
import unittest

from tolld import BUILD, Case, Tolld, cost, end_of, micro, wait_for

THOUGHT = "a thought of bridges "
MODELS = {
    "quick": "sim:tokens=20,prompt=10",
    "slow": "sim:tokens=60,prompt=10,rate=20",
    "fixed": ("sim:tokens=5,prompt=10", "price_request = 0.01"),
    "thinker": (f"sim:tokens=30,prompt=10,reason=12,think={THOUGHT * 3}",
                "price_reasoning = 2.4"),
    "cheap": (f"sim:tokens=30,prompt=10,reason=12,think={THOUGHT * 3}",
              "price_reasoning = 0.1 price_request = 0.000123"),
    # Its usage never comes: what it is charged is our own count.
    "endless": (f"sim:tokens=4000,prompt=10,usage=no,lang=even,think={THOUGHT * 8}",
                "price_reasoning = 3.3 price_request = 0.000777"),
    "deep": (f"sim:tokens=4000,prompt=10,usage=no,lang=even,think={THOUGHT * 9}",
             "price_reasoning = 0 price_request = 0.0005"),
    "set": "sim:tokens=4,prompt=10",
    "kept": "sim:tokens=4,prompt=10",
}
KINDS = ("prompt", "cached", "cache_write", "completion", "reasoning", "request")


def charge(r):
    """What a settlement's own tokens and prices come to, in micro-credits."""
    def price(kind):
        return micro(r.get("price_" + kind, 0))

    written, thought = r.get("cache_write", 0), r.get("reasoning", 0)
    total = ((r["prompt"] - written) * price("prompt") + written * price("cache_write") +
             r["cached"] * price("cached") + (r["completion"] - thought) * price("completion") +
             thought * price("reasoning"))
    return -(-total // 1000000) + price("request")


class Prices(Case):
    OPTIONS = dict(workers=2, models=MODELS, ledger="slice_tokens = 10")

    def price(self, model):
        return next(p for p in self.t.ctl("price", "list") if p["model"] == model)

    def settled(self, account):
        return [r for r in self.t.ctl("journal", "--account", account) if r["type"] == "settle"]

    def preview(self, model, key):
        return self.t.request("POST", "/chat/preview", {"model": model, "message": "hi"}, key)[2]

    def tearDown(self):
        for r in self.t.ctl("journal"):
            if r["type"] == "settle":
                self.assertEqual(charge(r), micro(r["amount"]) + micro(r["uncollected"]), r)
        self.invariants()

    def test_list_resolves_what_is_not_said(self):
        self.assertEqual(
            {k: self.price("quick")["price_" + k] for k in KINDS},
            {"prompt": 0.15, "cached": 0.075, "cache_write": 0.15, "completion": 0.6,
             "reasoning": 0.6, "request": 0})
        self.assertEqual(self.price("thinker")["price_reasoning"], 2.4)
        self.assertEqual(self.price("fixed")["price_request"], 0.01)
        self.assertTrue(all(p["set"] == "" for p in self.t.ctl("price", "list")
                            if p["model"] not in ("set", "kept")))
        text = subprocess.run([os.path.join(BUILD, "tollctl"), "-s", self.t.socket, "price",
                               "list"], capture_output=True, text=True).stdout.splitlines()
        self.assertEqual(text[0].split()[:3], ["MODEL", "PROMPT", "CACHED"])
        self.assertEqual(len(text), len(MODELS) + 2)

    def test_set_and_reset(self):
        """What follows another kind follows what is set of it."""
        got = self.t.ctl("price", "set", "set", "completion", "1.234567")
        self.assertEqual((got["price_completion"], got["price_reasoning"], got["set"]),
                         (1.234567, 1.234567, "completion"))
        got = self.t.ctl("price", "set", "set", "reasoning", "0")
        self.assertEqual((got["price_reasoning"], got["set"]), (0, "completion,reasoning"))
        got = self.t.ctl("price", "set", "set", "prompt", "3")
        self.assertEqual((got["price_cached"], got["price_cache_write"]), (0.075, 3))
        first = got["price"]
        got = self.t.ctl("price", "reset", "set", "completion")
        self.assertEqual((got["price_completion"], got["set"]), (0.6, "prompt,reasoning"))
        got = self.t.ctl("price", "reset", "set", "all")
        self.assertEqual((got["set"], got["price_prompt"], got["price_reasoning"]), ("", 0.15, 0.6))
        # The number of a price is its own for ever.
        self.t.ctl("price", "set", "set", "prompt", "3")
        self.t.ctl("price", "set", "set", "completion", "1.234567")
        self.assertEqual(self.t.ctl("price", "set", "set", "reasoning", "0")["price"], first)
        self.t.ctl("price", "reset", "set", "all")
        log = [x for x in self.t.log().splitlines() if "price set" in x and "model=set" in x]
        self.assertIn("model=set", log[0])
        self.assertIn("price=1.234567", log[0])
        sets = [r for r in self.t.ctl("journal") if r["type"] == "price_set"
                and r["model"] == "set"]
        self.assertEqual(sets[0]["kind"], "completion")
        self.assertEqual(sets[0]["price_completion"], 1.234567)
        self.assertEqual((sets[-1]["kind"], sets[-1]["status"]), ("all", "reset"))

    def test_what_is_refused(self):
        before = self.t.ctl("price", "list")
        for args, exit, word in ((("quick", "prompt", "-1"), 1, "price"),
                                 (("quick", "prompt", "0.0000001"), 2, "PRICE"),
                                 (("quick", "prompt", "1e3"), 2, "PRICE"),
                                 (("quick", "prompt", "2000000000000"), 1, "price"),
                                 (("quick", "prompt", "99999999999999999999"), 2, "PRICE"),
                                 (("quick", "prompt", ""), 2, "PRICE"),
                                 (("nosuch", "prompt", "1"), 1, "model"),
                                 (("quic", "prompt", "1"), 1, "model"),
                                 (("quick", "input", "1"), 1, "kind"),
                                 (("quick", "all", "1"), 1, "kind"),
                                 (("quick", "", "1"), 1, "kind"),
                                 (("quick", "prompt"), 2, "")):
            p = self.t.ctl("price", "set", *args, check=False)
            self.assertEqual(p.returncode, exit, (args, p.stderr))
            self.assertIn(word, p.stderr + p.stdout, args)
        for args in (("nosuch", "all"), ("quick", "every")):
            self.assertEqual(self.t.ctl("price", "reset", *args, check=False).returncode, 1)
        self.assertEqual(self.t.ctl("price", "list"), before)

    def test_new_streams_only(self):
        key = self.t.account("new", "100")
        sent = self.t.send(key, "hi", "slow")
        waits = self.t.send(key, "hi", "slow")  # reserved before, opened after
        s = self.t.open(sent["stream_id"])
        events = s.typed()
        while next(events)["type"] != "token":
            pass
        self.t.ctl("price", "set", "slow", "completion", "6")
        self.t.ctl("price", "set", "slow", "request", "0.5")
        # Every worker, from now on.
        previews = {self.preview("slow", key)["max_cost"] for _ in range(20)}
        self.assertEqual(len(previews), 1)
        self.assertGreater(previews.pop(), 0.5)
        end = [e for e in events if e["type"] == "done"][0]["data"]
        s.close()
        self.assertEqual(micro(end["cost"]), cost(10, 60))
        s = self.t.open(waits["stream_id"])
        self.assertEqual(micro(list(s.typed())[-1]["data"]["cost"]), cost(10, 60))
        s.close()
        kind, after = end_of(self.t.run(key, "hi", "slow"))
        self.assertEqual(micro(after["cost"]), 500000 + -(-(10 * 150000 + 60 * 6000000) // 1000000))
        self.t.ctl("price", "reset", "slow", "all")
        self.assertEqual(micro(end_of(self.t.run(key, "hi", "slow"))[1]["cost"]), cost(10, 60))
        prices = [r["price_completion"] for r in self.settled("new")]
        self.assertEqual(prices, [0.6, 0.6, 6, 0.6])

    def test_prices_change_under_load(self):
        """Whatever a stream was reserved at is what it is charged at; each is one that was set."""
        key = self.t.account("load", "1000")
        stop = threading.Event()
        said = {micro(0.6)}

        def change():
            n = 0
            while not stop.is_set():
                n += 1
                said.add(700000 + n % 50)
                # Together, in one step each: a torn price would be a mix of two.
                self.t.ctl("price", "set", "quick", "completion", f"{0.7 + n % 50 / 1e6:.6f}")

        t = threading.Thread(target=change)
        t.start()
        try:
            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                ends = list(pool.map(lambda i: end_of(self.t.run(key, "hi", "quick")),
                                     range(300)))
        finally:
            stop.set()
            t.join()
        self.assertTrue(all(kind == "done" for kind, _ in ends))
        settled = self.settled("load")
        self.assertEqual(len(settled), 300)
        used = {micro(r["price_completion"]) for r in settled}
        self.assertLessEqual(used, said)
        self.assertGreater(len(used), 2)
        self.assertEqual(sum(micro(r["amount"]) for r in settled),
                         sum(micro(end["cost"]) for _, end in ends))
        self.t.ctl("price", "reset", "quick", "all")

    def test_kinds(self):
        key = self.t.account("kinds", "100")
        for model, reasoning, request in (("thinker", 2400000, 0), ("cheap", 100000, 123),
                                          ("fixed", 600000, 10000)):
            kind, end = end_of(self.t.run(key, "hi", model))
            self.assertEqual(kind, "done")
            thought = 0 if model == "fixed" else 12
            text = end["usage"]["completion_tokens"] - thought
            want = -(-(10 * 150000 + text * 600000 + thought * reasoning) // 1000000) + request
            self.assertEqual(micro(end["cost"]), want, model)
            last = self.settled("kinds")[-1]
            self.assertEqual(last.get("reasoning", 0), thought)
            self.assertEqual(micro(last.get("price_request", 0)), request)
        # Nothing produced, nothing charged: the request neither.
        sent = self.t.send(key, "hi", "fixed")
        self.t.request("DELETE", f"/stream?id={sent['stream_id']}")
        wait_for(lambda: self.t.show("kinds")["held"] == 0)
        self.assertEqual(len(self.settled("kinds")), 3)

    def test_cut_by_two_prices(self):
        """The last token that can be paid, whichever kind it is; the floor holds."""
        one = {"endless": (600000, 3300000, 777), "deep": (600000, 0, 500)}
        for model, (text, thought, request) in one.items():
            for credit in (1000, 1003, 1234, 1400):
                name = f"cut-{model}-{credit}"
                key = self.t.account(name, overdraft=0)
                self.t.ctl("topup", name, f"{credit / 1000000:.6f}")
                need = request + -(-(10 * 150000 + max(text, thought)) // 1000000)
                got = self.t.request("POST", "/chat/send",
                                     {"model": model, "message": "hi", "max_tokens": 3000}, key)
                self.assertEqual(got[0], 200 if credit >= need else 402, got)
                s = self.t.open(got[2]["stream_id"])
                kind, end = end_of(list(s.typed()))
                s.close()
                self.assertEqual((kind, end["finish_reason"]), ("done", "credit"), end)
                last = self.settled(name)[-1]
                self.assertEqual(last["uncollected"], 0)
                self.assertGreater(last.get("reasoning", 0), 0)
                # What is left pays for no token of the kind that came next.
                left = credit - micro(last["amount"])
                self.assertEqual(micro(self.t.show(name)["balance"]), left)
                self.assertGreaterEqual(left, 0)
                thinking = last["completion"] == last["reasoning"]
                self.assertLessEqual(left, max(3, 4 * (thought if thinking else text) // 1000000))

    def test_request_must_be_payable(self):
        key = self.t.account("poor", overdraft=0)
        p = self.preview("fixed", key)
        tokens = p["prompt_tokens"]
        self.assertEqual(micro(p["max_cost"]), 10000 + cost(tokens, p["max_completion_tokens"]))
        need = 10000 + cost(tokens, 1)
        self.t.ctl("topup", "poor", f"{(need - 1) / 1000000:.6f}")
        status, _, body = self.t.request("POST", "/chat/send", {"model": "fixed", "message": "hi"},
                                         key)
        self.assertEqual((status, micro(body["error"]["required"])), (402, need))
        self.t.ctl("topup", "poor", "0.000001")
        kind, end = end_of(self.t.run(key, "hi", "fixed"))
        self.assertEqual((kind, micro(self.t.show("poor")["balance"])), ("done", 0))

    def test_export_and_journal_say_the_price(self):
        key = self.t.account("told", "10")
        self.t.run(key, "hi", "thinker")
        p = subprocess.run([os.path.join(BUILD, "tollctl"), "-s", self.t.socket, "export",
                            "--format", "csv", "--account", "told"], capture_output=True, text=True)
        rows = [r for r in csv.DictReader(io.StringIO(p.stdout)) if r["type"] == "settle"]
        self.assertEqual([(r["price_prompt"], r["price_completion"], r["price_reasoning"],
                           r["reasoning"], r["price_cached"]) for r in rows],
                         [("0.15", "0.6", "2.4", "12", "")])
        p = subprocess.run([os.path.join(BUILD, "tollctl"), "-s", self.t.socket, "journal",
                            "--account", "told"], capture_output=True, text=True)
        self.assertIn(" reasoning=12 ", p.stdout)
        self.assertIn("price_reasoning=2.4", p.stdout)


class Kept(unittest.TestCase):
    def test_outlasts_a_restart_and_a_kill(self):
        t = Tolld(workers=2, models=MODELS)
        self.addCleanup(t.close)
        t.start()
        key = t.account("kept", "10")

        def now():
            p = next(p for p in t.ctl("price", "list") if p["model"] == "kept")
            return p["price_completion"], p["set"]

        self.assertEqual(now(), (0.6, ""))
        t.ctl("price", "set", "kept", "completion", "7")
        self.assertEqual(t.stop(), 0)
        t.start()
        self.assertEqual(now(), (7, "completion"))
        for n, who in enumerate(("keeper", "all", "all")):
            value = 8 + n
            t.ctl("price", "set", "kept", "completion", value)
            if who == "keeper":  # acknowledged, and nobody used it yet
                pid = t.children()["tolld: keeper"]
                os.kill(pid, signal.SIGKILL)
                wait_for(lambda: t.children().get("tolld: keeper", pid) != pid)
            else:
                t.kill_all()
                if n == 2:  # from the journal alone
                    os.unlink(os.path.join(t.folder, "state", "state.mdb"))
                t.start()
            wait_for(lambda: now() == (value, "completion"))
            kind, end = end_of(t.run(key, "hi", "kept"))
            self.assertEqual(micro(end["cost"]), -(-(10 * 150000 + 4 * value * 1000000) // 1000000))
        t.ctl("price", "reset", "kept", "all")
        t.kill_all()
        t.start()
        self.assertEqual(now(), (0.6, ""))
        t.audit()
        self.assertEqual(t.stop(), 0)

    def test_the_config_changes_beneath(self):
        """What is set stays; the rest is the new configuration's."""
        t = Tolld(models={"m": "sim:tokens=4,prompt=10"})
        self.addCleanup(t.close)
        t.start()
        t.ctl("price", "set", "m", "prompt", "1")
        self.assertEqual(t.stop(), 0)
        with open(t.config_file) as f:
            text = f.read()
        with open(t.config_file, "w") as f:
            f.write(text.replace("price_prompt = 0.15", "price_prompt = 0.3")
                    .replace("price_completion = 0.60", "price_completion = 0.9"))
        t.start()
        p = next(p for p in t.ctl("price", "list") if p["model"] == "m")
        self.assertEqual((p["price_prompt"], p["price_completion"], p["set"]), (1, 0.9, "prompt"))
        p = t.ctl("price", "reset", "m", "prompt")
        self.assertEqual((p["price_prompt"], p["price_cache_write"]), (0.3, 0.3))
        t.audit()
        self.assertEqual(t.stop(), 0)


if __name__ == "__main__":
    unittest.main()
