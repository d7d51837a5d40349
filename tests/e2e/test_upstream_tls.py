"""Goal:   a provider over TLS is called only if its certificate is good for its name and time, and
        signed by whom the config trusts; nothing is sent to another.  Streams and charges are the
        same as without TLS.
Method: an authority and certificates made by openssl, servers that show them, and what those saw.
"""
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import unittest
import warnings

from provider import DONE, FINISH, ROLE, Answer, Provider, good, text, usage
from tolld import PATIENCE, Tolld, cost, end_of, micro, rests, text_of, wait_for

PRICES = "price_prompt = 0.15 price_cached = 0.075 price_completion = 0.60\n" \
         "context = 1000000 max_completion = 100000"


class Authority:
    """A certificate authority in a folder."""

    def __init__(self, folder):
        self.folder = folder
        self.file = self.path("ca.pem")
        self.openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
                     "-nodes", "-keyout", self.path("ca.key"), "-out", self.file, "-days", "2",
                     "-subj", "/CN=an authority for tests")

    def path(self, name):
        return os.path.join(self.folder, name)

    @staticmethod
    def openssl(*args):
        subprocess.run(["openssl", *args], check=True, capture_output=True)

    def context(self, name, san, days="2", signed=True):
        """A server's TLS context with a certificate for these names."""
        key, request, cert, ext = (self.path(name + x) for x in (".key", ".csr", ".pem", ".ext"))
        with open(ext, "w") as f:
            f.write(f"subjectAltName={san}\nbasicConstraints=CA:FALSE\n")
        self.openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                     "-keyout", key, "-out", request, "-subj", "/CN=" + name)
        if signed:
            by = ["-CA", self.file, "-CAkey", self.path("ca.key"), "-CAcreateserial"]
        else:
            by = ["-signkey", key]
        self.openssl("x509", "-req", "-in", request, "-out", cert, "-days", days, "-extfile", ext,
                     *by)
        c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        c.load_cert_chain(cert, key)
        return c


class Tls(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="tolld-tls-")
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        ca = Authority(cls.folder)
        here = "IP:127.0.0.1,DNS:localhost"
        old = ca.context("old", here)
        old.set_ciphers("ALL:@SECLEVEL=0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        cls.servers = {
            "good": Provider(ca.context("good", here)),
            "wrong-host": Provider(ca.context("wrong-host", "DNS:other.example,IP:127.0.0.2")),
            "expired": Provider(ca.context("expired", here, days="-1")),
            "self-signed": Provider(ca.context("self-signed", here, signed=False)),
            "old": Provider(old),
        }
        config = ""
        for name, server in cls.servers.items():
            config += cls.provider(name, server.port, ca.file)
        # A good certificate of an authority that the system does not know.
        config += cls.provider("unknown", cls.servers["good"].port, None)
        config += f'model "fallback" {{ provider = {{"expired", "good"}}\n{PRICES} }}\n'
        cls.t = Tolld(sim=False, config=config, ledger="slice_tokens = 50 reconnect_grace = 1",
                      timeouts="connect = 5 first_token = 10 idle = 60")
        cls.addClassCleanup(cls.t.close)
        for server in cls.servers.values():
            cls.addClassCleanup(server.close)
        cls.t.start()
        cls.key = cls.t.account("alice", "1000")

    @staticmethod
    def provider(name, port, ca_file):
        trust = f'ca_file = "{ca_file}"' if ca_file else ""
        return f'''
provider "{name}" {{
    base_url = "https://127.0.0.1:{port}/v1"
    api_key = "key-for-tls-0123456789"
    retries = 1
    breaker_failures = 0
    {trust}
}}
model "{name}" {{ provider = {{"{name}"}}
{PRICES} }}
'''

    def setUp(self):
        for server in self.servers.values():
            server.reset()

    def tearDown(self):
        wait_for(lambda: self.t.ctl("hold", "list") == [], 10, "holds to be closed")
        self.t.audit()

    def test_good(self):
        before = micro(self.t.show("alice")["balance"])
        events = self.t.run(self.key, "hello", "good")
        kind, end = end_of(events)
        self.assertEqual((kind, text_of(events), end.get("provider")),
                         ("done", "good answer", "good"), end)
        self.assertEqual(micro(end["cost"]), cost(9, 3))
        self.assertEqual(before - micro(self.t.show("alice")["balance"]), cost(9, 3))
        self.assertEqual(self.servers["good"].seen[0].key, "key-for-tls-0123456789")

    def test_connections_are_reused(self):
        server = self.servers["good"]
        self.t.run(self.key, "hello", "good")
        before = server.connections
        for _ in range(10):
            self.assertEqual(end_of(self.t.run(self.key, "hello", "good"))[0], "done")
        self.assertEqual(server.connections, before)

    def test_bad_certificates(self):
        for name, why in (("wrong-host", "matches target host name"),
                          ("expired", "certificate has expired"),
                          ("self-signed", "self-signed certificate"),
                          ("unknown", "unable to get local issuer certificate"),
                          ("old", "rotocol")):
            with self.subTest(name):
                before = self.t.metrics()
                kind, end = end_of(self.t.run(self.key, "hello", name))
                self.assertEqual((kind, end["error"]["code"], end["error"]["kind"]),
                                 ("error", "upstream_error", "tls"), end)
                self.assertEqual(micro(end["cost"]), 0)
                # Once: it will not be better a moment later.
                metric = f'tolld_upstream_errors_total{{provider="{name}",kind="tls"}}'
                self.assertEqual(self.t.metrics()[metric] - before.get(metric, 0), 1)
                line = [x for x in self.t.log().splitlines()
                        if "no TLS with the provider" in x and f"provider={name}" in x][-1]
                self.assertIn(why, line.replace("self signed", "self-signed"))
                server = self.servers.get(name, self.servers["good"])
                self.assertEqual(server.seen, [])
                sent = self.t.send(self.key, "hello", name)
                status, _, body = self.t.request(
                    "GET", f"/stream?id={sent['stream_id']}&format=openai")
                self.assertEqual((status, body["error"]["kind"]), (502, "tls"))

    def test_next_provider(self):
        kind, end = end_of(self.t.run(self.key, "hello", "fallback"))
        self.assertEqual((kind, end.get("provider")), ("done", "good"), end)
        self.assertEqual(self.servers["expired"].seen, [])

    def test_large_both_ways(self):
        """Many records, larger than any buffer, and a client that does not read for a while."""
        words = "".join(text(f"word{i:05} ") for i in range(40000))
        self.servers["good"].reset(Answer(ROLE + words + FINISH + usage(9, 80000) + DONE))
        message = "a long prompt \u6f22 " * 20000
        sent = self.t.send(self.key, message, "good")
        got = []
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            s.connect(("127.0.0.1", self.t.port))
            s.sendall(f"GET /stream?id={sent['stream_id']}&format=text HTTP/1.0\r\n"
                      "Host: x\r\n\r\n".encode())

            def metered():
                return (self.t.ctl("hold", "list") or [{"metered": 0}])[0]["metered"]
            # Of 120,000.
            self.assertLess(rests(metered, what="the provider to be paused"), 110000)
            s.settimeout(PATIENCE)
            while data := s.recv(65536):
                got.append(data)
        body = b"".join(got).split(b"\r\n\r\n", 1)[1].decode()
        self.assertEqual(body, "".join(f"word{i:05} " for i in range(40000)))
        self.assertEqual(self.servers["good"].seen[0].body["messages"][-1]["content"], message)

    def test_cut(self):
        """A connection that ends without TLS's own end is no end of an answer."""
        for end in ("cut", "close"):
            self.servers["good"].reset(Answer(text("begun"), end=end))
            kind, last = end_of(self.t.run(self.key, "hello", "good"))
            self.assertEqual((kind, last["error"]["code"]), ("error", "upstream_truncated"))

    def test_silent_handshake(self):
        """A server that accepts and says nothing: the time for a connection covers TLS."""
        with socket.create_server(("127.0.0.1", 0)) as s:
            config = self.provider("silent", s.getsockname()[1], None)
            t = Tolld(sim=False, config=config, timeouts="connect = 1 first_token = 10")
            self.addCleanup(t.close)
            t.start()
            key = t.account("alice", "10")
            kind, end = end_of(t.run(key, "hello", "silent"))
            self.assertEqual((kind, end["error"]["code"], end["error"]["kind"]),
                             ("error", "upstream_timeout", "connect_timeout"))
            self.assertIn('tolld_upstream_errors_total{provider="silent",kind="connect_timeout"}',
                          t.metrics())

    def test_many_at_once(self):
        ends = []

        def one():
            ends.append(end_of(self.t.run(self.key, "hello", "good"))[0])
        threads = [threading.Thread(target=one) for _ in range(32)]
        for x in threads:
            x.start()
        for x in threads:
            x.join(PATIENCE)
        self.assertEqual(ends, ["done"] * 32)


if __name__ == "__main__":
    unittest.main()
