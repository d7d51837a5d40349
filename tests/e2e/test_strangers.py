"""Goal:   who has no key may ask only so often, counted by address across all workers; who has one is
        not held up by them; X-Forwarded-For counts from a trusted proxy alone.
Method: four workers; requests from different loopback addresses, by hand-made connections.
"""
import concurrent.futures
import http.client
import os
import socket
import time
import unittest

from tolld import PATIENCE, SLOW, Case

LIMIT = 3  # a minute: for twenty seconds nothing comes back
PROXY = "127.0.0.9"


class Strangers(Case):
    OPTIONS = dict(workers=4, sim=False, config=f'''
trusted_proxies = {{"{PROXY}", "10.0.0.0/8"}}
limits {{ unauthenticated_per_minute = {LIMIT} }}''')

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.key = cls.t.account("somebody", 10)

    def ask(self, source, key="tolld_" + "x" * 40, path="/balance", forwarded=(), listen=None):
        c = http.client.HTTPConnection("127.0.0.1", self.t.port, timeout=PATIENCE * SLOW,
                                       source_address=(source, 0))
        try:
            c.putrequest("GET", path)
            if key:
                c.putheader("Authorization", "Bearer " + key)
            for value in forwarded:
                c.putheader("X-Forwarded-For", value)
            c.endheaders()
            r = c.getresponse()
            return r.status, r.headers, r.read()
        finally:
            c.close()

    def exhaust(self, source, **how):
        statuses = [self.ask(source, **how)[0] for _ in range(LIMIT)]
        self.assertEqual(set(statuses), {401})
        self.assertEqual(self.ask(source, **how)[0], 429)

    def test_unknown_keys_are_limited_by_address(self):
        before = self.t.metrics()['tolld_rate_limited_total{limit="address"}']
        began = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda i: self.ask("127.0.0.2"), range(100)))
        statuses = [a[0] for a in answers]
        most = LIMIT + 1 + int((time.monotonic() - began) * LIMIT / 60)
        self.assertIn(statuses.count(401), range(LIMIT, most))
        self.assertEqual(statuses.count(401) + statuses.count(429), 100)
        for status, headers, body in answers:
            if status == 429:
                self.assertIn(b'"code":"rate_limit_exceeded"', body)
                self.assertIn(int(headers["Retry-After"]), range(1, 60 // LIMIT + 1))
        self.assertEqual(self.t.metrics()['tolld_rate_limited_total{limit="address"}'] - before,
                         statuses.count(429))
        # A key that is good is not looked at there now: nobody learns by guessing on.
        self.assertEqual(self.ask("127.0.0.2", self.key)[0], 429)
        self.assertEqual(self.ask("127.0.0.2", self.key, "/nothing")[0], 429)
        # Others are not held up.
        self.assertEqual(self.ask("127.0.0.3", self.key)[0], 200)
        self.assertEqual(self.ask("127.0.0.3")[0], 401)

    def test_paths_that_are_not_there(self):
        statuses = [self.ask("127.0.0.4", None, "/admin.php")[0] for _ in range(LIMIT)]
        self.assertEqual(set(statuses), {404})
        self.assertEqual(self.ask("127.0.0.4", None, "/admin.php")[0], 429)

    def test_who_has_a_key_is_no_stranger(self):
        for _ in range(3 * LIMIT):
            self.assertEqual(self.ask("127.0.0.5", self.key)[0], 200)
        for _ in range(3 * LIMIT):
            self.assertEqual(self.ask("127.0.0.5", self.key, "/nothing")[0], 404)

    def test_behind_a_trusted_proxy(self):
        self.exhaust(PROXY, forwarded=["203.0.113.7"])
        # Another client of the same proxy; the last address counts, in whichever header it is.
        self.assertEqual(self.ask(PROXY, forwarded=["203.0.113.7, 203.0.113.8"])[0], 401)
        self.assertEqual(self.ask(PROXY, forwarded=["203.0.113.7", "203.0.113.8"])[0], 401)
        for value in (["203.0.113.8, 203.0.113.7"], ["1.2.3.4", " 203.0.113.7 "],
                      ["1.2.3.4, 203.0.113.7, 10.1.2.3"], ["203.0.113.7", "10.1.2.3"]):
            self.assertEqual(self.ask(PROXY, forwarded=value)[0], 429, value)
        # By /64.
        self.exhaust(PROXY, forwarded=["2001:db8:1:2::1"])
        self.assertEqual(self.ask(PROXY, forwarded=["2001:db8:1:2:ffff::9"])[0], 429)
        self.assertEqual(self.ask(PROXY, forwarded=["2001:db8:1:3::1"])[0], 401)
        # No address at all: the proxy's own.
        self.assertEqual(self.ask(PROXY, forwarded=["unknown"])[0], 401)

    def test_others_cannot_forward(self):
        for i in range(LIMIT):
            self.assertEqual(self.ask("127.0.0.6", forwarded=[f"198.51.100.{i}"])[0], 401)
        self.assertEqual(self.ask("127.0.0.6", forwarded=["198.51.100.99"])[0], 429)


class UnixSocket(Case):
    OPTIONS = dict(sim=False, config="limits { unauthenticated_per_minute = 2 }")

    @classmethod
    def setUpClass(cls):
        from tolld import Tolld
        cls.t = Tolld(**cls.OPTIONS)
        cls.path = os.path.join(cls.t.folder, "http.sock")
        with open(cls.t.config_file) as f:
            text = f.read()
        with open(cls.t.config_file, "w") as f:
            f.write(text.replace('listen = {', f'listen = {{"unix:{cls.path}", ', 1))
        cls.t.start()

    def test_is_exempt(self):
        for _ in range(10):
            with socket.socket(socket.AF_UNIX) as s:
                s.connect(self.path)
                s.sendall(b"GET /balance HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                self.assertIn(b" 401 ", s.makefile("rb").readline())


if __name__ == "__main__":
    unittest.main()
