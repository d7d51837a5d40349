"""The test server and a raw client, which sees every byte that a real one would hide."""
import json
import os
import signal
import socket
import subprocess
import time
import unittest

BOUND = 60.0  # seconds that any single wait may take


def wait_for(what, condition):
    end = time.monotonic() + BOUND
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.005)
    raise AssertionError("timed out waiting for " + what)


class Server:
    """The test server, on a free port."""

    def __init__(self, *options):
        self.process = subprocess.Popen([os.environ["ECHO"], "0"] + [str(o) for o in options],
                                        stdout=subprocess.PIPE, text=True)
        self.keys = []
        for line in self.process.stdout:
            word, value = line.split()
            if word == "key":
                self.keys.append(value)
            else:
                self.port = int(value)
                break

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def connect(self, **options):
        return Client(self.port, **options)

    def stats(self):
        with self.connect() as c:
            return json.loads(c.ask(get("/stats")).body)


class Reply:
    def __init__(self, status, headers, body, version, chunks=0):
        self.status, self.headers, self.body = status, headers, body
        self.version, self.chunks = version, chunks

    @property
    def error(self):
        return json.loads(self.body)["error"]


class Client:
    def __init__(self, port, receive=None):
        self.socket = socket.socket()
        self.socket.settimeout(BOUND)
        if receive:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
        self.socket.connect(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.file.close()
        self.socket.close()

    def reset(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.close()

    def send(self, data):
        self.socket.sendall(data)

    def finish(self):
        self.socket.shutdown(socket.SHUT_WR)

    def chunk(self):
        size = int(self.file.readline(), 16)
        data = self.file.read(size)
        if self.file.read(2) != b"\r\n":
            raise AssertionError("chunk without its end")
        return data

    def head(self):
        line = self.file.readline()
        if not line:
            return None
        version, status = line.split(b" ")[:2]
        headers = {}
        while True:
            line = self.file.readline()
            if not line.endswith(b"\r\n"):
                raise AssertionError("head without its end")
            if line == b"\r\n":
                return Reply(int(status), headers, b"", version.decode())
            name, value = line.decode("latin-1").rstrip("\r\n").split(": ", 1)
            headers[name.lower()] = value

    def reply(self, head_only=False):
        r = self.head()
        if r is None or head_only or r.status in (204, 304) or r.status < 200:
            return r
        if r.headers.get("transfer-encoding") == "chunked":
            while True:
                data = self.chunk()
                if not data:
                    return r
                r.chunks += 1
                r.body += data
        if "content-length" in r.headers:
            size = int(r.headers["content-length"])
            r.body = self.file.read(size)
            if len(r.body) != size:
                raise AssertionError("short body")
        else:
            r.body = self.file.read()
        return r

    def ask(self, data, head_only=False):
        self.send(data)
        return self.reply(head_only)

    def closed(self):
        """Nothing more comes, and the other side has closed."""
        try:
            return self.file.read() == b""
        except ConnectionResetError:
            return True


def request(method, path, *headers, body=None, version="1.1"):
    lines = ["%s %s HTTP/%s" % (method, path, version), "Host: x", *headers]
    if body is not None:
        lines.append("Content-Length: %d" % len(body))
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + (body or b"")


def get(path, *headers, **more):
    return request("GET", path, *headers, **more)


class Case(unittest.TestCase):
    options = ()

    @classmethod
    def setUpClass(cls):
        cls.server = Server(*cls.options)

    @classmethod
    def tearDownClass(cls):
        # Drained, it ends by itself, and a sanitizer has its say.
        cls.server.process.send_signal(signal.SIGUSR1)
        try:
            status = cls.server.process.wait(BOUND)
        finally:
            cls.server.stop()
        if status != 0:
            raise AssertionError("the server ended with %d" % status)

    def client(self, **options):
        c = self.server.connect(**options)
        self.addCleanup(c.close)
        return c

    def ask(self, data, head_only=False):
        return self.client().ask(data, head_only)
