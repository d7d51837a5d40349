"""Goal:   every charge is right to the micro-credit and no account ever crosses its floor.
Method: a thousand mixed streams against the prices; parallel sends for less credit than they
        want; streams run down to the floor; a provider that reports more than was reserved.
"""
import concurrent.futures
import threading
import unittest

from tolld import Case, cost, end_of, micro, text_of, wait_for

MODELS = {
    "m0": "sim:tokens=1", "m1": "sim:tokens=7,lang=ru", "m2": "sim:tokens=60,lang=code",
    "m3": "sim:tokens=25,cached=3,prompt=9", "m4": "sim:tokens=130,lang=zh",
    "m5": "sim:tokens=10,reason=5", "m6": "sim:tokens=15,usage=no",
    "m7": "sim:tokens=15,usage=zero", "m8": "sim:tokens=15,usage=neg",
    "m9": "sim:tokens=15,usage=huge",
    "big": "sim:tokens=5000,rate=4000,lang=even,exact=o200k_base,prompt=8",
    "over": "sim:tokens=40,lang=even,prompt=30",
    "unsaid": "sim:tokens=50,lang=ru,usage=no",
    "pricey": ("sim:tokens=40,prompt=4000", ""),
}


class Money(Case):
    OPTIONS = dict(workers=2, models=MODELS, ledger="slice_tokens = 40")

    def test_charges_are_price_times_usage(self):
        key = self.t.account("mixed", "1000")
        total, lock = 0, threading.Lock()

        def one(i):
            nonlocal total
            events = self.t.run(key, "word " * (i % 9 + 1), f"m{i % 10}")
            kind, done = end_of(events)
            self.assertEqual(kind, "done", done)
            usage = done["usage"]
            cached = 3 if i % 10 == 3 else 0
            want = cost(usage["prompt_tokens"] - cached, usage["completion_tokens"], cached)
            self.assertEqual(micro(done["cost"]), want, (i, done))
            if i % 10 == 5:
                self.assertEqual(usage["completion_tokens"], 15)  # 10 and 5 of reasoning
            self.assertEqual(done["full_text"], text_of(events))
            with lock:
                total += want

        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            list(pool.map(one, range(1000)))
        self.invariants()
        self.assertEqual(micro(self.t.show("mixed")["balance"]), 1000 * 1000000 - total)
        # Those without a usage, or with an impossible one, were counted as defects.
        self.assertGreater(self.t.metric("tolld_stream_defects_total"), 0)

    def test_sixty_four_sends_for_the_credit_of_ten(self):
        key = self.t.account("ten", overdraft=0)
        body = {"model": "over", "message": "the same for all", "max_tokens": 30}
        _, _, p = self.t.request("POST", "/chat/preview", body, key)
        each = cost(p["prompt_tokens"], 30)
        self.t.ctl("topup", "ten", f"{each * 10 / 1000000:.6f}")
        with concurrent.futures.ThreadPoolExecutor(64) as pool:
            results = list(pool.map(
                lambda _: self.t.request("POST", "/chat/send", body, key), range(64)))
        self.assertEqual(sum(s == 200 for s, _, _ in results), 10)
        refused = [(h, b) for s, h, b in results if s == 402]
        self.assertEqual(len(refused), 54)
        headers, error = refused[0]
        self.assertEqual(headers["x-should-retry"], "false")
        self.assertEqual(error["error"]["code"], "insufficient_credit")
        self.assertEqual(error["error"]["type"], "insufficient_quota")
        self.assertEqual(micro(error["error"]["required"]), cost(p["prompt_tokens"], 1))
        self.assertEqual(micro(self.t.show("ten")["available"]), 0)
        for s, _, b in results:
            if s == 200:
                self.t.request("DELETE", "/stream?id=" + b["stream_id"])
        self.invariants()
        self.assertEqual(micro(self.t.show("ten")["balance"]), each * 10)

    def test_preview_and_send_agree(self):
        key = self.t.account("edge", overdraft=0)
        body = {"model": "over", "message": "hello"}
        _, _, p = self.t.request("POST", "/chat/preview", body, key)
        self.assertIs(p["allowed"], False)
        status, _, refused = self.t.request("POST", "/chat/send", body, key)
        self.assertEqual(status, 402)
        required = micro(refused["error"]["required"])
        self.t.ctl("topup", "edge", f"{(required - 1) / 1000000:.6f}")
        self.assertIs(self.t.request("POST", "/chat/preview", body, key)[2]["allowed"], False)
        self.assertEqual(self.t.request("POST", "/chat/send", body, key)[0], 402)
        self.t.ctl("topup", "edge", "0.000001")
        self.assertIs(self.t.request("POST", "/chat/preview", body, key)[2]["allowed"], True)
        status, _, sent = self.t.request("POST", "/chat/send", body, key)
        self.assertEqual(status, 200)
        self.t.request("DELETE", "/stream?id=" + sent["stream_id"])

    def test_cut_at_the_last_payable_token(self):
        for i, credit in enumerate((1, 3, 7, 50, 123, 999)):
            name = f"cut{i}"
            key = self.t.account(name, overdraft=0)
            body = {"model": "big", "message": "hello"}
            _, _, p = self.t.request("POST", "/chat/preview", body, key)
            prompt = cost(p["prompt_tokens"], 0)
            self.t.ctl("topup", name, f"{(prompt + credit) / 1000000:.6f}")
            events = self.t.run(key, "hello", "big")
            kind, done = end_of(events)
            self.assertEqual((kind, done["finish_reason"]), ("done", "credit"), (credit, done))
            self.assertEqual(done["full_text"], text_of(events))
            got = done["usage"]["completion_tokens"]
            # It was charged for what it got, could pay that, and not one more.
            self.assertEqual(micro(done["cost"]), cost(p["prompt_tokens"], got))
            self.assertLessEqual(cost(p["prompt_tokens"], got), prompt + credit)
            self.assertGreater(cost(p["prompt_tokens"], got + 1), prompt + credit)
            show = self.t.show(name)
            self.assertGreaterEqual(micro(show["balance"]), 0)
            self.assertEqual(micro(show["held"]), 0)
        self.invariants()

    def test_floor_under_many_streams(self):
        key = self.t.account("crowd", "0.002", overdraft="0.001")
        stop = threading.Event()
        seen = []

        def watch():
            while not stop.is_set():
                b = self.t.request("GET", "/balance", key=key)[2]
                seen.append(micro(b["balance"]) - micro(b["held"]))

        def one(i):
            status, _, body = self.t.request(
                "POST", "/chat/send", {"model": "big", "message": "hello"}, key)
            if status == 402:
                return "refused"
            self.assertEqual(status, 200, body)
            return end_of(list(self.t.open(body["stream_id"]).typed()))[1]["finish_reason"]

        watcher = threading.Thread(target=watch)
        watcher.start()
        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            ends = list(pool.map(one, range(40)))
        stop.set()
        watcher.join()
        self.assertIn("credit", ends)
        self.assertGreaterEqual(min(seen), -1000)
        show = self.t.show("crowd")
        self.assertGreaterEqual(micro(show["balance"]), -1000)
        self.invariants()

    def test_usage_above_the_credit_is_uncollected(self):
        key = self.t.account("poor", overdraft=0)
        body = {"model": "over", "message": "hi", "max_tokens": 100}
        _, _, p = self.t.request("POST", "/chat/preview", body, key)
        # Our prompt estimate is below the 30 tokens that this provider reports.
        self.assertLess(p["prompt_tokens"], 30)
        credit = cost(p["prompt_tokens"], 100)
        self.t.ctl("topup", "poor", f"{credit / 1000000:.6f}")
        before = self.t.metric("tolld_credits_uncollected_total")
        events = self.t.run(key, "hi", "over", max_tokens=100)
        kind, done = end_of(events)
        self.assertEqual(kind, "done")
        full = cost(30, 40)
        self.assertEqual(micro(done["cost"]), min(full, credit))
        show = self.t.show("poor")
        self.assertGreaterEqual(micro(show["balance"]), 0)
        if full > credit:
            self.assertAlmostEqual(self.t.metric("tolld_credits_uncollected_total") - before,
                                   (full - credit) / 1000000, places=6)
        self.invariants()

    def test_never_more_than_quoted(self):
        """Our count may be above the provider's; the limit that was quoted holds all the same."""
        key = self.t.account("quoted", "10")
        body = {"model": "unsaid", "message": "hello", "max_tokens": 30}
        _, _, p = self.t.request("POST", "/chat/preview", body, key)
        events = self.t.run(key, "hello", "unsaid", max_tokens=30)
        kind, done = end_of(events)
        self.assertEqual((kind, done["finish_reason"]), ("done", "length"))
        self.assertEqual(done["full_text"], text_of(events))
        self.assertEqual(micro(done["cost"]), micro(p["max_cost"]))
        self.assertEqual(done["usage"]["completion_tokens"], 30)
        self.invariants()

    def test_refs_are_applied_once(self):
        self.t.ctl("account", "create", "ref")
        first = self.t.ctl("topup", "ref", "5.5", "--ref", "order-1")
        again = self.t.ctl("topup", "ref", "5.5", "--ref", "order-1")
        self.assertEqual(micro(first["balance"]), 5500000)
        self.assertNotIn("repeated", first)
        self.assertIs(again["repeated"], True)
        self.assertEqual(again["balance"], first["balance"])
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: self.t.ctl("topup", "ref", "1", "--ref", "order-2"),
                          range(8)))
        self.assertEqual(micro(self.t.show("ref")["balance"]), 6500000)
        self.invariants()


if __name__ == "__main__":
    unittest.main()
