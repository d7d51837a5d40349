"""Goal:   an account's limits hold exactly, whichever worker is asked; who meets one is told what to
        wait for in OpenAI's words; nothing that dies keeps a stream's place.
Method: four workers and requests at once, counted; then single requests whose numbers are known.
        Workers, and then all processes, are killed with streams open.
"""
import concurrent.futures
import os
import signal
import time
import unittest

from tolld import Case, micro, wait_for

CHAT = {"model": "short", "max_tokens": 20, "messages": [{"role": "user", "content": "hello there"}]}
NAMES = [f"x-ratelimit-{what}-{unit}" for unit in ("requests", "tokens")
         for what in ("limit", "remaining", "reset")]


class RateLimits(Case):
    OPTIONS = dict(
        workers=4, models={"short": "sim:tokens=5,lang=even",
                           "slow": "sim:tokens=2000,rate=20,lang=even",
                           "long": "sim:tokens=20000,rate=4000,lang=even"},
        config="limits { requests_per_minute = 1000 }")

    def limited(self, name, **limits):
        key = self.t.account(name, 10)
        self.t.ctl("account", "set", name, *[x for k, v in limits.items() for x in (f"--{k}", v)])
        return key

    def refused(self, answer, kind):
        status, headers, body = answer
        self.assertEqual(status, 429, body)
        self.assertEqual(body["error"]["code"], "rate_limit_exceeded")
        self.assertEqual(body["error"]["type"], kind)
        self.assertRegex(headers["Retry-After"], r"^[1-9][0-9]*$")
        return headers

    def counted(self, limit):
        return self.t.metrics()[f'tolld_rate_limited_total{{limit="{limit}"}}']

    def send(self, key, model="short", **fields):
        return self.t.request("POST", "/chat/send",
                              dict(fields, model=model, message="hello there"), key)

    def test_who_has_none_left_is_not_read(self):
        # To count a long prompt takes a while, also of who is refused for it.
        long = "hello there " * 2000
        key = self.limited("reader", rpm=2)
        self.assertEqual(self.t.request("POST", "/chat/preview", {"message": "hi"}, key)[0], 200)
        # What was read counts, whatever it said; a short preview does not.
        self.assertEqual(self.t.request("POST", "/chat/send", "no JSON", key)[0], 400)
        self.assertEqual(self.t.request("POST", "/chat/preview", {"message": long}, key)[0], 200)
        for path in ("/chat/preview", "/chat/send", "/v1/chat/completions", "/v1/messages",
                     "/v1/messages/count_tokens", "/v1/embeddings", "/api/chat",
                     "/api/chat/stream"):
            status, headers, _ = self.t.request("POST", path, "no JSON" + long, key)
            self.assertEqual((status, headers["x-ratelimit-remaining-requests"]), (429, "0"), path)
            self.assertGreater(int(headers["Retry-After"]), 0)
        self.assertEqual(self.t.request("POST", "/chat/preview", {"message": "hi"}, key)[0], 200)

    def test_no_more_requests_than_the_limit_at_four_workers(self):
        key = self.limited("burst", rpm=10)
        before, began = self.counted("requests"), time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda i: self.send(key), range(80)))
        # One comes back each six seconds.
        most = 10 + int((time.monotonic() - began) // 6)
        allowed = [a for a in answers if a[0] == 200]
        self.assertGreaterEqual(len(allowed), 10)
        self.assertLessEqual(len(allowed), most)
        for a in answers:
            if a[0] != 200:
                self.assertLessEqual(int(self.refused(a, "requests")["Retry-After"]), 6)
        self.assertEqual(self.counted("requests") - before, 80 - len(allowed))
        # Each was told another number: nobody was let in twice on the same.
        left = [int(a[1]["x-ratelimit-remaining-requests"]) for a in allowed]
        if most == 10:
            self.assertEqual(sorted(left), list(range(10)))

    def test_headers(self):
        key = self.limited("told", rpm=60, tpm=60000)
        status, headers, _ = self.send(key)
        self.assertEqual(status, 200)
        self.assertEqual(headers["x-ratelimit-limit-requests"], "60")
        self.assertEqual(headers["x-ratelimit-remaining-requests"], "59")
        self.assertEqual(headers["x-ratelimit-reset-requests"], "1s")
        self.assertEqual(headers["x-ratelimit-limit-tokens"], "60000")
        left = int(headers["x-ratelimit-remaining-tokens"])
        self.assertTrue(59000 <= left < 60000, left)
        self.assertRegex(headers["x-ratelimit-reset-tokens"], r"^\d+ms$")
        headers = self.send(self.limited("slowly", rpm=1))[1]
        self.assertEqual(headers["x-ratelimit-reset-requests"], "1m0s")
        # The configuration's, where the account has none; and none at all.
        headers = self.send(self.t.account("default", 10))[1]
        self.assertEqual(headers["x-ratelimit-limit-requests"], "1000")
        self.assertNotIn("x-ratelimit-limit-tokens", headers)
        # On the other routes too, streamed and not.
        for stream in (False, True):
            status, headers, _ = self.t.request(
                "POST", "/v1/chat/completions", dict(CHAT, stream=stream), key)
            self.assertEqual(status, 200)
            self.assertEqual([n for n in NAMES if n not in headers], [])

    def test_tokens(self):
        key = self.limited("tokens", tpm=1000)
        # Prompt and the first slice of 300 are taken when it starts, ...
        status, headers, sent = self.send(key)
        first = 1000 - int(headers["x-ratelimit-remaining-tokens"])
        self.assertTrue(300 < first < 330, first)
        self.assertEqual(self.send(key)[0], 200)
        self.assertEqual(self.send(key)[0], 200)
        headers = self.refused(self.send(key), "tokens")
        self.assertLessEqual(int(headers["x-ratelimit-remaining-tokens"]), first)
        self.assertLessEqual(int(headers["Retry-After"]), 60)
        # ... and what five tokens of answer did not need comes back at its end.
        list(self.t.open(sent["stream_id"]).typed())
        status, headers, _ = self.send(key)
        self.assertEqual(status, 200)

    def test_a_prompt_that_is_larger_than_the_limit(self):
        key = self.limited("large", tpm=5)
        headers = self.refused(self.send(key), "tokens")
        self.assertEqual(headers["x-should-retry"], "false")
        self.assertEqual(headers["x-ratelimit-remaining-tokens"], "5")
        # One that may become larger takes all there is.
        self.t.ctl("account", "set", "large", "--tpm", 100)
        self.assertEqual(self.send(key)[1]["x-ratelimit-remaining-tokens"], "0")
        self.refused(self.send(key), "tokens")

    def test_a_long_answer_is_counted_while_it_runs(self):
        key = self.limited("long", tpm=3000)
        stream = self.t.open(self.send(key, "long")[2]["stream_id"])
        wait_for(lambda: self.send(key, max_tokens=1)[0] == 429, 10, "the tokens to be used")
        stream.close()

    def test_a_refused_request_takes_no_tokens_and_no_credit(self):
        key = self.limited("poor", tpm=1000)
        self.t.ctl("adjust", "poor", "-210", "--reason", "test")
        for _ in range(5):
            status, headers, body = self.send(key)
            self.assertEqual(status, 402, body)
            self.assertEqual(headers["x-ratelimit-limit-tokens"], "1000")
        self.t.ctl("topup", "poor", 10)
        left = int(self.send(key)[1]["x-ratelimit-remaining-tokens"])
        self.assertGreater(left, 600)

    def test_streams_at_once(self):
        key = self.limited("seats", streams=3)
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda i: self.send(key, "slow"), range(40)))
        self.assertEqual(sum(a[0] == 200 for a in answers), 3)
        for a in answers:
            if a[0] != 200:
                self.refused(a, "requests")
        self.assertEqual(micro(self.t.show("seats")["balance"]), micro("10"))
        # One ends: there is room for one.
        first = next(a[2]["stream_id"] for a in answers if a[0] == 200)
        self.assertEqual(self.t.request("DELETE", f"/stream?id={first}")[0] // 100, 2)
        list(self.t.open(first).events())
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda i: self.send(key, "slow"), range(20)))
        self.assertEqual(sum(a[0] == 200 for a in answers), 1)

    def fill(self, key, most):
        opened = []
        for _ in range(most):
            status, _, body = self.send(key, "slow")
            self.assertEqual(status, 200, body)
            opened.append(self.t.open(body["stream_id"]))
        self.refused(self.send(key, "slow"), "requests")
        return opened

    def key(self, account, *options):
        return self.t.ctl("key", "create", account, *options)["key"]

    def remaining(self, answer, unit="requests"):
        headers = answer[1]
        return tuple(int(headers[f"x-ratelimit-{what}-{unit}"]) for what in ("limit", "remaining"))

    def test_a_key_within_its_account(self):
        """Both count, and the client is told of the tighter one."""
        wide = self.limited("both", rpm=8)
        narrow = self.key("both", "--rpm", 3)
        loose = self.key("both", "--rpm", 500)
        self.assertEqual(self.remaining(self.send(narrow)), (3, 2))
        self.assertEqual(self.remaining(self.send(loose)), (8, 6))
        self.assertEqual(self.remaining(self.send(narrow)), (3, 1))
        self.assertEqual(self.remaining(self.send(narrow)), (3, 0))
        headers = self.refused(self.send(narrow), "requests")
        self.assertEqual(headers["x-ratelimit-limit-requests"], "3")
        self.assertLessEqual(int(headers["Retry-After"]), 20)
        # What the key refused was not taken from the account.
        self.assertEqual(self.remaining(self.send(wide)), (8, 3))
        for _ in range(3):
            self.assertEqual(self.send(loose)[0], 200)
        # Now both are short, and the one is waited for that takes longer: a third of a minute.
        headers = self.refused(self.send(narrow), "requests")
        self.assertEqual(headers["x-ratelimit-limit-requests"], "3")
        self.assertGreater(int(headers["Retry-After"]), 8)
        headers = self.refused(self.send(loose), "requests")
        self.assertEqual(headers["x-ratelimit-limit-requests"], "8")
        self.assertLessEqual(int(headers["Retry-After"]), 8)

    def test_a_key_at_four_workers(self):
        self.limited("burstkey", rpm=1000)
        key, began = self.key("burstkey", "--rpm", 10), time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda i: self.send(key), range(60)))
        allowed = [a for a in answers if a[0] == 200]
        self.assertGreaterEqual(len(allowed), 10)
        self.assertLessEqual(len(allowed), 10 + int((time.monotonic() - began) // 6))

    def test_tokens_of_a_key(self):
        wide = self.limited("tokenkey", tpm=10000)
        key, began = self.key("tokenkey", "--tpm", 1000), time.monotonic()
        status, headers, sent = self.send(key)
        limit, left = self.remaining((status, headers, sent), "tokens")
        self.assertEqual(limit, 1000)
        first = 1000 - left
        self.assertTrue(300 < first < 330, first)
        self.assertEqual([self.send(key)[0] for _ in range(3)], [200, 200, 429])
        limit, left = self.remaining(self.send(wide), "tokens")
        self.assertEqual(limit, 10000)
        # As many come back in a minute.
        most = 10000 - 4 * 300 + (time.monotonic() - began) / 60 * 10000
        self.assertTrue(10000 - 4 * 330 < left <= most, left)
        # What its answer did not need comes back to both.
        list(self.t.open(sent["stream_id"]).typed())
        self.assertEqual(self.send(key)[0], 200)
        # A prompt that is too large for the key takes nothing from the account.
        before = self.remaining(self.send(wide, max_tokens=1), "tokens")[1]
        headers = self.refused(self.send(self.key("tokenkey", "--tpm", 5)), "tokens")
        self.assertEqual(headers["x-should-retry"], "false")
        self.assertGreater(self.remaining(self.send(wide, max_tokens=1), "tokens")[1], before - 200)

    def test_streams_of_a_key(self):
        self.limited("seatkey", streams=5)
        key, other = self.key("seatkey", "--streams", 2), self.key("seatkey", "--streams", 100)
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda i: self.send(key, "slow"), range(30)))
        self.assertEqual(sum(a[0] == 200 for a in answers), 2)
        for a in answers:
            if a[0] != 200:
                self.refused(a, "requests")
                self.assertIn("the key has 2 streams", a[2]["error"]["message"])
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda i: self.send(other, "slow"), range(30)))
        self.assertEqual(sum(a[0] == 200 for a in answers), 3)
        self.assertIn("the account has 5 streams",
                      next(a for a in answers if a[0] != 200)[2]["error"]["message"])

    def test_minted_keys_share_their_makers_limits(self):
        self.t.account("minted", 10)
        maker = self.key("minted", "--scope", "mint,chat", "--rpm", 4, "--streams", 2)
        minted = [self.t.request("POST", "/keys", {"ttl": 60}, maker)[2]["key"] for _ in range(3)]
        self.assertEqual([self.remaining(self.send(k))[1] for k in minted[:2]], [3, 2])
        self.refused(self.send(minted[2]), "requests")  # the streams of the first two
        self.assertEqual(self.remaining(self.send(minted[2])), (4, 0))
        self.assertEqual(self.send(maker)[1]["x-ratelimit-remaining-requests"], "0")

    def test_a_keys_limits_last(self):
        self.t.account("lastkey", 10)
        made = self.t.ctl("key", "create", "lastkey", "--rpm", 50, "--tpm", 7000, "--streams", 3)
        for end in (self.t.kill_all, self.t.stop):
            end()
            self.t.start()
            row, = [r for r in self.t.ctl("key", "list", "lastkey")
                    if r["key_id"] == made["key_id"]]
            self.assertEqual((row["rpm"], row["tpm"], row["streams"]), (50, 7000, 3))
            self.assertEqual(self.send(made["key"])[1]["x-ratelimit-limit-requests"], "50")
        record, = [r for r in self.t.ctl("journal", "--account", "lastkey")
                   if r["type"] == "key" and r.get("key_id") == made["key_id"]]
        self.assertEqual((record["rpm"], record["tpm"], record["streams"]), (50, 7000, 3))
        # Nothing negative, nothing that is no number.
        for bad in ("-1", "x", "4294967296"):
            p = self.t.ctl("key", "create", "lastkey", "--rpm", bad, check=False)
            self.assertNotEqual(p.returncode, 0, bad)
            self.assertIn("rpm", p.stderr + p.stdout)

    def test_the_dead_keep_no_places(self):
        self.limited("dead", streams=4)
        self.dead_keep_none(self.t.ctl("key", "create", "dead")["key"])

    def test_the_dead_keep_no_places_of_a_key(self):
        self.t.account("deadkey", 10)
        self.dead_keep_none(self.key("deadkey", "--streams", 4))

    def dead_keep_none(self, key):
        opened = self.fill(key, 4)
        for name, pid in self.t.children().items():
            if "worker" in name:
                os.kill(pid, signal.SIGKILL)
        for s in opened:
            s.close()
        wait_for(lambda: self.t.ready() and not self.t.ctl("hold", "list"), 20,
                 "the dead workers' holds to be ended")
        opened = self.fill(key, 4)
        self.t.kill_all()
        for s in opened:
            s.close()
        self.t.start()
        for s in self.fill(key, 4):
            s.close()
        self.assertTrue(self.t.audit())


if __name__ == "__main__":
    unittest.main()
