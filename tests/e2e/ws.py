"""A WebSocket client that can do everything wrong: raw frames, by the standard library alone."""
import base64
import hashlib
import json
import os
import select
import socket
import struct

from tolld import PATIENCE, SLOW, Case, micro

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
EXACT = "exact=o200k_base"
MODELS = {
    "short": f"sim:tokens=12,{EXACT}",
    "long": f"sim:tokens=400,{EXACT}",
    "huge": f"sim:tokens=60000,{EXACT}",
    "slow": f"sim:tokens=4000,rate=100,{EXACT}",
    "emoji": "sim:tokens=3000,lang=emoji",
    "silent": "sim:first=60000",
    "refused": "sim:status=500",
    "broken": f"sim:tokens=20,fault=error@5,{EXACT}",
    "echo": "sim:echo=1",
    "echo-uncounted": "sim:echo=1,usage=no",
}
ANY = "limits { ws_questions_per_minute = 0 }"
CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


class Closed(Exception):
    """The connection's end: the code of the close frame, None if it had none, or 1006."""

    def __init__(self, code, reason=""):
        super().__init__(f"closed: {code} {reason}")
        self.code, self.reason = code, reason


class Refused(Exception):
    def __init__(self, status, headers, body):
        super().__init__(f"{status} {body}")
        self.status, self.headers, self.body = status, headers, body

    @property
    def code(self):
        return self.body["error"]["code"]


def frame(opcode, payload=b"", fin=True, mask=True, rsv=0, length=None, key=None):
    """Bytes of a frame; `length`: how many bytes its length takes (0, 2, 8) instead of the least."""
    if length is None:
        length = 0 if len(payload) < 126 else 2 if len(payload) < 65536 else 8
    head = bytes([fin << 7 | rsv << 4 | opcode])
    bit = 128 if mask else 0
    if length == 0:
        head += bytes([bit | len(payload)])
    elif length == 2:
        head += bytes([bit | 126]) + struct.pack(">H", len(payload))
    else:
        head += bytes([bit | 127]) + struct.pack(">Q", len(payload))
    if not mask:
        return head + payload
    key = key or os.urandom(4)
    return head + key + masked(payload, key)


def masked(payload, key):
    n = len(payload)
    whole = int.from_bytes(payload, "big") ^ int.from_bytes((key * (n // 4 + 1))[:n], "big")
    return whole.to_bytes(n, "big")


class WebSocket:
    def __init__(self, port, path, key=None, headers=(), offer=True, timeout=PATIENCE, after=b"",
                 receive_buffer=None, **change):
        """headers: more lines; change: values of the handshake's own headers, None leaves one out.
        after: bytes that go out together with the handshake."""
        self.sock = socket.socket()
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(timeout * SLOW)
        self.sock.connect(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        self.pings = 0
        nonce = base64.b64encode(os.urandom(16)).decode()
        own = {"host": "tolld", "upgrade": "websocket", "connection": "Upgrade",
               "sec-websocket-key": nonce, "sec-websocket-version": "13"}
        if key and offer:
            own["sec-websocket-protocol"] = f"tolld, bearer.{key}"
        elif key:
            own["authorization"] = f"Bearer {key}"
        request = change.pop("request", f"GET {path} HTTP/1.1")
        own.update({k.replace("_", "-"): v for k, v in change.items()})
        lines = [request] + [f"{k}: {v}" for k, v in own.items() if v is not None] + list(headers)
        try:
            self.sock.sendall("\r\n".join(lines + ["", ""]).encode() + after)
            self.handshake(own["sec-websocket-key"], request.startswith("HEAD"))
        except BaseException:
            self.sock.close()
            raise

    def handshake(self, nonce, head_only=False):
        while b"\r\n\r\n" not in self.buffer:
            data = self.sock.recv(65536)
            if not data:
                raise Closed(1006)
            self.buffer += data
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        lines = head.decode().split("\r\n")
        status = int(lines[0].split()[1])
        self.headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines[1:])}
        if status != 101:
            left = 0 if head_only else int(self.headers.get("content-length", 0))
            while len(self.buffer) < left:
                self.buffer += self.sock.recv(65536)
            body = json.loads(self.buffer[:left]) if left else None
            raise Refused(status, self.headers, body)
        want = base64.b64encode(hashlib.sha1((nonce + GUID).encode()).digest()).decode()
        assert self.headers["sec-websocket-accept"] == want, self.headers
        assert self.headers["upgrade"] == "websocket", self.headers
        assert self.headers["connection"] == "Upgrade", self.headers
        assert "sec-websocket-extensions" not in self.headers, self.headers

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def raw(self, data):
        self.sock.sendall(data)

    def frame(self, *args, **kw):
        self.raw(frame(*args, **kw))

    def send(self, message):
        if not isinstance(message, (str, bytes)):
            message = json.dumps(message)
        self.frame(TEXT, message.encode() if isinstance(message, str) else message)

    def ask(self, question="hello there", **fields):
        self.send(dict(fields, question=question))

    def read(self, n):
        while len(self.buffer) < n:
            try:
                data = self.sock.recv(262144)
            except ConnectionError:
                data = b""
            if not data:
                raise Closed(1006)
            self.buffer += data
        data, self.buffer = self.buffer[:n], self.buffer[n:]
        return data

    def next_frame(self):
        """(opcode, payload); what a server must never send is an AssertionError."""
        a, b = self.read(2)
        n = b & 127
        if n == 126:
            n, = struct.unpack(">H", self.read(2))
            assert n > 125
        elif n == 127:
            n, = struct.unpack(">Q", self.read(8))
            assert n > 65535
        assert a & 0x70 == 0 and b & 128 == 0, (a, b)
        assert a & 128, "a server that has no need of fragments"
        return a & 15, self.read(n)

    def next(self):
        """The next text message.  Pings are answered; a close is a Closed."""
        while True:
            opcode, payload = self.next_frame()
            if opcode == PING:
                self.pings += 1
                self.frame(PONG, payload)
            elif opcode == CLOSE:
                code = struct.unpack(">H", payload[:2])[0] if payload else None
                raise Closed(code, payload[2:].decode())
            elif opcode == TEXT:
                return json.loads(payload.decode())
            else:
                assert opcode == PONG, opcode

    def pong(self):
        opcode, payload = self.next_frame()
        while opcode == PING:
            self.pings += 1
            self.frame(PONG, payload)
            opcode, payload = self.next_frame()
        assert opcode == PONG, (opcode, payload)
        return payload

    def answer(self):
        """(the text of all chunks, the end or the error)."""
        text = ""
        while True:
            m = self.next()
            if m["type"] != "chunk":
                return text, m
            assert sorted(m) == ["content", "type"], m
            text += m["content"]

    def closed(self):
        """The close that comes now, and nothing else before or after it; its code."""
        try:
            m = self.next()
        except Closed as e:
            if e.code != 1006:
                try:
                    self.frame(CLOSE, struct.pack(">H", 1000))
                except ConnectionError:
                    pass
                self.gone()
            return e.code
        raise AssertionError(f"{m} and no close")

    def gone(self):
        """The server's end of the connection."""
        try:
            rest = self.buffer + self.sock.recv(65536)
        except ConnectionError:
            rest = b""
        assert rest == b"", rest

    def silent(self):
        """Has nothing come, by now?"""
        return not self.buffer and not select.select([self.sock], [], [], 0)[0]

    def close(self, code=1000, reason=b""):
        self.frame(CLOSE, struct.pack(">H", code) + reason)
        return self.closed()


class WsCase(Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.key = cls.t.account("alice", "1000")

    def tearDown(self):
        self.invariants()

    def ws(self, key=None, account="alice", **kw):
        w = WebSocket(self.t.port, f"/ws/chat/{account}", key or self.key, **kw)
        self.addCleanup(w.sock.close)
        return w

    def balance(self, name="alice"):
        return micro(self.t.show(name)["balance"])

    def prompt(self, model, message="hello there"):
        return self.t.request("POST", "/chat/preview", {"model": model, "message": message},
                              self.key)[2]["prompt_tokens"]

    def lives(self, w):
        """It answers a question."""
        w.ask(model="short")
        self.assertEqual(w.answer()[1]["type"], "end")
