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

    def test_the_dead_keep_no_places(self):
        key = self.limited("dead", streams=4)
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
