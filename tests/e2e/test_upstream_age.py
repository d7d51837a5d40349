"""Goal:   a connection to a provider is nobody's but its own: however old it is, whether a stream
        runs on it or it waits for the next one, it stays open when others are made, and none of its
        descriptors is closed behind the event loop's back.
Method: answers that go on for as long as they are read, with TLS and without; the clock that
        libraries go by leaps, then the same worker calls other providers.  In the end it answers as
        many clients at once as it takes to meet every descriptor.
"""
import json
import shutil
import socket
import tempfile
import threading
import unittest

from clock import Clock
from provider import ROLE, Answer, Provider, text
from test_upstream_tls import Authority
from tolld import BUILD, PATIENCE, SLOW, Tolld, end_of, wait_for

LEAP = 300  # libcurl closes what has been idle for 118 s
ENDLESS = dict(body=ROLE + text("one"), drip=text(" more"))


class Age(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="tolld-age-")
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        ca = Authority(cls.folder)

        def tls(name):
            return Provider(ca.context(name, "IP:127.0.0.1"))

        # Streams run on the first, the second waits, the third is called for the first time.
        cls.servers = {f"{kind}-{i}": tls(str(i)) if kind == "tls" else Provider()
                       for kind in ("plain", "tls") for i in range(4)}
        config = "".join(f'''
provider "{name}" {{
    base_url = "{"https" if name.startswith("tls") else "http"}://127.0.0.1:{server.port}/v1"
    api_key = "key-of-the-provider-0123456789"
    retries = 0
    ca_file = "{ca.file}"
}}
model "{name}" {{
    provider = {{"{name}"}}
    tokenizer = "o200k_base"
    price_prompt = 0.15  price_completion = 0.60
    context = 1000000  max_completion = 100000
}}
''' for name, server in cls.servers.items())
        cls.t = Tolld(sim=False, config=config, ledger="reconnect_grace = 1",
                      timeouts="idle = 3600 stream = 3600 first_token = 3600")
        cls.addClassCleanup(cls.t.close)
        cls.t.hang = 3600
        cls.t.write_config()
        cls.clock = Clock(BUILD, cls.t.folder)
        cls.t.env.update(cls.clock.env)
        cls.t.start()
        cls.key = cls.t.account("alice", "1000")

    def running(self, model):
        """A stream that has begun: its events."""
        self.servers[model].default = Answer(**ENDLESS)
        s = self.t.open(self.t.send(self.key, "hi", model)["stream_id"])
        self.addCleanup(s.close)
        # Comments come to a stream that says no more, so no read would ever time out.
        bound = threading.Timer(60 * SLOW, s.close)
        bound.start()
        self.addCleanup(bound.cancel)
        events = s.typed()
        self.tokens(events, 3)
        return events

    def tokens(self, events, n):
        while n > 0:
            event = next(events)
            self.assertIn(event["type"], ("metadata", "token", "meter"), event)
            n -= event["type"] == "token"

    def answers(self, model):
        self.assertEqual(end_of(self.t.run(self.key, "hi", model))[0], "done", model)

    def everyone_is_heard(self):
        """So many at once that any descriptor which came free is one of theirs."""
        request = (f"GET /balance HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self.key}\r\n"
                   "Connection: close\r\n\r\n").encode()
        clients = [socket.create_connection(("127.0.0.1", self.t.port), timeout=PATIENCE)
                   for _ in range(40)]
        for c in clients:
            c.sendall(request)
        for c in clients:
            got = b""
            while more := c.recv(65536):
                got += more
            c.close()
            self.assertIn("balance", json.loads(got.split(b"\r\n\r\n")[1]), got)

    def age(self, kind):
        runs, waits, new, last = (f"{kind}-{i}" for i in range(4))
        events = self.running(runs)
        self.answers(waits)
        self.clock.forward_monotonic(LEAP)
        self.answers(new)
        self.tokens(events, 5)
        self.everyone_is_heard()
        self.answers(waits)
        # One that its provider closed meanwhile: whoever hears of that first.
        self.servers[new].socket.close()
        self.clock.forward_monotonic(LEAP)
        self.answers(last)
        self.tokens(events, 5)
        self.everyone_is_heard()

    def test_plain(self):
        self.age("plain")

    def test_tls(self):
        self.age("tls")

    def tearDown(self):
        self.doCleanups()
        wait_for(lambda: self.t.ctl("hold", "list") == [], 20, "holds to be closed")
        self.t.audit()


if __name__ == "__main__":
    unittest.main()
