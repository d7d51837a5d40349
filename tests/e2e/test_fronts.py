"""Goal:   the examples of proxies in front do what they are for: streams pass token by token, a
        client that leaves is seen, addresses and WebSockets come through, nothing is sent twice.
Method: etc/nginx/tolld.conf and etc/caddy/Caddyfile, with other ports and without TLS, in front
        of a daemon; in front of a listener of the test's own where the raw bytes matter.
"""
import http.client
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import unittest

from tolld import PATIENCE, ROOT, SLOW, Stream, Tolld, free_port, wait_for

MODELS = {"slow": "sim:tokens=100000,rate=20"}


def read(name):
    with open(os.path.join(ROOT, name)) as f:
        return f.read()


def replaced(text, *pairs):
    """Each of them has to be there: else the example has changed, and this test with it."""
    for pattern, new in pairs:
        text, n = re.subn(pattern, new, text)
        assert n, pattern
    return text


class Front:
    """What is the same for both: a daemon, and a proxy started by self.front(backend port)."""

    TOO_LARGE = (413,)

    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="tolld-front-")
        self.addCleanup(shutil.rmtree, self.folder, True)
        self.t = Tolld(workers=2, models=MODELS, config='trusted_proxies = {"127.0.0.1"}\n'
                       "limits { unauthenticated_per_minute = 2 }")
        self.addCleanup(self.t.close)

    def run_front(self, backend):
        """The proxy's port; it is stopped at the end."""
        port = free_port()
        command, env = self.front(port, backend)
        log = open(os.path.join(self.folder, "front.log"), "w")
        self.addCleanup(log.close)
        p = subprocess.Popen(command, stdout=log, stderr=log, env=dict(os.environ, **env))
        def end():
            p.terminate()
            p.wait(PATIENCE)
        self.addCleanup(end)

        def up():
            self.assertIsNone(p.poll(), "the proxy ended")
            try:
                socket.create_connection(("127.0.0.1", port), 5).close()
                return True
            except OSError:
                return False
        wait_for(up, 20, "the proxy")
        return port

    def started(self):
        self.t.start()
        self.key = self.t.account("alice", "5")
        return self.run_front(self.t.port)

    def listener(self):
        s = socket.socket()
        self.addCleanup(s.close)
        s.bind(("127.0.0.1", 0))
        s.listen(8)
        s.settimeout(PATIENCE * SLOW)
        return s

    def test_tokens_come_one_by_one(self):
        port = self.started()
        for fmt in ("typed", "openai", "content", "text"):
            sent = self.t.send(self.key, "hi", "slow")
            # A compressor would gather it, where the client takes one.
            s = Stream(port, f"/stream?id={sent['stream_id']}&format={fmt}",
                       {"Accept-Encoding": "gzip"})
            self.assertEqual((s.status, s.response.headers["Content-Encoding"]), (200, None))
            # It would run for more than an hour: whatever comes has not been gathered.
            if fmt == "text":
                self.assertTrue(s.response.read1(1))
                self.assertTrue(s.response.read1(1))
            else:
                it = s.events()
                for _ in range(4):
                    next(it)
            # And who leaves is seen: /stream has a grace, so it is cancelled here.
            s.close()
            status, _, body = self.t.request("DELETE", f"/stream?id={sent['stream_id']}")
            self.assertEqual((status, body["finish_reason"]), (200, "cancelled"))

    def test_who_leaves_is_seen(self):
        port = self.started()
        s = Stream(port, "/v1/chat/completions", {"Authorization": "Bearer " + self.key}, "POST",
                   '{"model":"slow","stream":true,"messages":[{"role":"user","content":"hi"}]}')
        self.assertEqual(s.status, 200)
        it = s.events()
        for _ in range(3):
            next(it)
        wait_for(lambda: self.t.metric("tolld_streams_active") == 1, 10, "the stream to be counted")
        s.close()
        wait_for(lambda: self.t.metric("tolld_streams_active") == 0, 15, "the stream's end")
        self.assertEqual(self.t.metric('tolld_streams_total{model="slow",outcome="cancelled"}'), 1)

    def test_addresses(self):
        port = self.started()
        got = {}
        for host in ("127.0.0.2", "127.0.0.3"):
            got[host] = []
            for _ in range(4):
                c = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE * SLOW,
                                               source_address=(host, 0))
                # What a client says itself is not believed.
                c.request("GET", "/balance", headers={"X-Forwarded-For": "192.0.2.9"})
                got[host].append(c.getresponse().status)
                c.close()
        self.assertEqual(got, {h: [401, 401, 429, 429] for h in got})

    def test_a_websocket(self):
        s = self.listener()
        port = self.run_front(s.getsockname()[1])
        seen = {}

        def serve():
            c, _ = s.accept()
            head = b""
            while b"\r\n\r\n" not in head:
                head += c.recv(4096)
            seen["head"] = head.decode()
            c.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                      b"Connection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n")
            c.sendall(b"from the server")
            seen["data"] = c.recv(100)
            c.close()
        th = threading.Thread(target=serve)
        th.start()
        c = socket.create_connection(("127.0.0.1", port), PATIENCE * SLOW)
        c.sendall(b"GET /ws/chat/alice HTTP/1.1\r\nHost: chat.example\r\nUpgrade: websocket\r\n"
                  b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                  b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                  b"Sec-WebSocket-Protocol: tolld, bearer.x\r\nOrigin: https://a.example\r\n\r\n")
        data = b""
        while not data.endswith(b"from the server"):
            more = c.recv(4096)
            self.assertTrue(more, data)
            data += more
        self.assertTrue(data.startswith(b"HTTP/1.1 101 "), data)
        c.sendall(b"from the client")
        th.join(PATIENCE * SLOW)
        c.close()
        self.assertEqual(seen["data"], b"from the client")
        head = seen["head"].lower()
        for line in ("upgrade: websocket", "connection: upgrade", "origin: https://a.example",
                     "sec-websocket-protocol: tolld, bearer.x", "x-forwarded-for: 127.0.0.1",
                     "host: chat.example"):
            self.assertIn(line + "\r\n", head)
        self.assertTrue(head.startswith("get /ws/chat/alice http/1.1"), head)

    def test_nothing_is_sent_twice(self):
        """A backend that hangs up: the client hears of it, nobody tries again."""
        s = self.listener()
        port = self.run_front(s.getsockname()[1])
        asked = []

        def serve():
            while True:
                try:
                    c, _ = s.accept()
                except OSError:
                    return
                if c.recv(65536):
                    asked.append(1)
                c.close()
        th = threading.Thread(target=serve, daemon=True)
        th.start()
        c = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE * SLOW)
        c.request("POST", "/chat/send", body='{"message":"hi"}',
                  headers={"Content-Type": "application/json"})
        self.assertEqual(c.getresponse().status, 502)
        c.close()
        self.assertEqual(len(asked), 1)
        s.shutdown(socket.SHUT_RDWR)
        th.join(20)

    def test_a_large_body_is_refused(self):
        port = self.started()
        c = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE * SLOW)
        try:
            c.request("POST", "/chat/preview", body=b" " * (1 << 20) + b"{}",
                      headers={"Authorization": "Bearer " + self.key})
            self.assertIn(c.getresponse().status, self.TOO_LARGE)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it had been refused before all of it was sent
        c.close()


@unittest.skipUnless(shutil.which("nginx") or os.path.exists("/usr/sbin/nginx"),
                     "nginx is not here")
class Nginx(Front, unittest.TestCase):
    def front(self, port, backend):
        site = replaced(read("etc/nginx/tolld.conf"),
                        (r"listen 443 ssl;", f"listen 127.0.0.1:{port};"),
                        (r"\n *listen \[::\]:443 ssl;", ""), (r"\n *ssl_certificate.*;", ""),
                        # Twice, so that there is a next one that nginx could try.
                        (r"( *server )127\.0\.0\.1:8080;", rf"\g<1>127.0.0.1:{backend};" * 2))
        path = os.path.join(self.folder, "nginx.conf")
        with open(path, "w") as f:
            f.write(f"pid {self.folder}/pid; error_log stderr; daemon off; worker_processes 1;\n"
                    + ("user root;\n" if os.geteuid() == 0 else "")
                    + "events {}\nhttp {\naccess_log off;\n"
                    + "".join(f"{n}_temp_path {self.folder}/{n};\n" for n in (
                        "client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
                    + "gzip on; gzip_types *; gzip_proxied any; gzip_min_length 1;\n"
                    + site + "}\n")
        return [shutil.which("nginx") or "/usr/sbin/nginx", "-c", path, "-p", self.folder], {}


@unittest.skipUnless(shutil.which("caddy"), "caddy is not here")
class Caddy(Front, unittest.TestCase):
    TOO_LARGE = (413, 502)  # Debian 12's says the latter if it was sending already

    def front(self, port, backend):
        path = os.path.join(self.folder, "Caddyfile")
        with open(path, "w") as f:
            f.write("{\n\tadmin off\n\tauto_https off\n}\n" + replaced(
                read("etc/caddy/Caddyfile"), (r"(?m)^chat\.example", f"http://:{port}"),
                (r"127\.0\.0\.1:8080", f"127.0.0.1:{backend}")))
        return ["caddy", "run", "--config", path, "--adapter", "caddyfile"], {
            "XDG_DATA_HOME": self.folder, "XDG_CONFIG_HOME": self.folder, "HOME": self.folder}


if __name__ == "__main__":
    unittest.main()
