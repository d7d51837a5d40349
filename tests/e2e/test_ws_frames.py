"""Goal:   a WebSocket's handshake and frames are those of RFC 6455, and nothing else is taken for them.
Method: a client of our own that can send what no library would (ws.py), and the cases of the
        Autobahn test suite that a server of text messages can be asked.
"""
import json
import socket
import struct
import unittest

from tolld import PATIENCE, SLOW, wait_for
from ws import (ANY, BINARY, CLOSE, CONT, MODELS, PING, PONG, TEXT, Refused, WebSocket, WsCase,
                frame)

MAX = 4096


class Handshake(WsCase):
    OPTIONS = dict(workers=2, models=MODELS,
                   config=ANY + '\ncors_origins = {"https://chat.example"}')

    def refused(self, status, code="invalid_request", param=None, key=None, **kw):
        kw.setdefault("account", "alice")
        with self.assertRaises(Refused) as e:
            self.ws(key, **kw)
        x = e.exception
        self.assertEqual((x.status, x.code, x.body["error"]["param"]), (status, code, param))
        return x

    def test_the_key(self):
        # By an offer, whose name alone is answered; by either header.
        w = self.ws()
        self.assertEqual(w.headers["sec-websocket-protocol"], "tolld")
        self.lives(w)
        w = self.ws(offer=False)
        self.assertNotIn("sec-websocket-protocol", w.headers)
        self.lives(w)
        self.lives(self.ws(authorization=None, headers=[f"x-api-key: {self.key}"], offer=False))
        for offer in (f"bearer.{self.key} ,tolld", f"a, tolld,b,bearer.{self.key}"):
            self.lives(self.ws(sec_websocket_protocol=offer))
        self.lives(self.ws(sec_websocket_protocol="tolld",
                           headers=[f"Sec-WebSocket-Protocol: bearer.{self.key}"]))

        def bad(**kw):
            self.refused(401, "invalid_api_key", sec_websocket_protocol=kw.pop("offers", None), **kw)

        bad()
        bad(offers="tolld")
        bad(offers="tolld, bearer.")
        bad(offers="tolld, Bearer." + self.key)
        bad(offers="tolld, bearer." + self.key[:-1])
        bad(offers=f"tolld, bearer.{self.key}, bearer.{self.key}")
        # Only here: elsewhere the offers are nobody's business.
        status, _, body = self.t.request("GET", "/balance", headers={
            "Sec-WebSocket-Protocol": f"tolld, bearer.{self.key}"})
        self.assertEqual((status, body["error"]["code"]), (401, "invalid_api_key"))

    def test_the_offers(self):
        param = "Sec-WebSocket-Protocol"
        self.refused(400, param=param, sec_websocket_protocol=f"bearer.{self.key}")
        self.refused(400, param=param, sec_websocket_protocol="chat",
                     headers=[f"Authorization: Bearer {self.key}"])
        self.refused(400, param=param, sec_websocket_protocol="TOLLD",
                     headers=[f"Authorization: Bearer {self.key}"])

    def test_the_account(self):
        bob = self.t.account("b.o:b@x-y_z", "1")
        self.refused(403, "account_mismatch", key=bob)
        self.refused(403, "account_mismatch", account="nobody")
        self.refused(403, "account_mismatch", account="")
        self.refused(403, "account_mismatch", account="alice/")
        self.refused(403, "account_mismatch", account="alice%00")
        self.refused(403, "account_mismatch", account="a" * 200)
        with self.assertRaises(Refused) as e:
            WebSocket(self.t.port, "/ws/chat", self.key)
        self.assertEqual(e.exception.status, 404)
        self.lives(self.ws(bob, "b.o%3Ab%40x-y_z"))
        self.lives(self.ws(bob, "b.o:b@x-y_z"))

    def test_scopes_and_revoked_keys(self):
        self.refused(403, "insufficient_scope",
                     key=self.t.ctl("key", "create", "alice", "--scope", "embeddings")["key"])
        made = self.t.ctl("key", "create", "alice")
        w = self.ws(made["key"])
        self.lives(w)
        self.t.ctl("key", "revoke", made["key_id"])
        self.refused(401, "invalid_api_key", key=made["key"])
        # Nor for who is connected.
        w.ask(model="short")
        self.assertEqual(w.next()["code"], "invalid_api_key")
        self.assertEqual(w.closed(), 1008)

    def test_the_origin(self):
        self.lives(self.ws(origin="https://chat.example"))
        # A page of the same host, whatever is before it.
        self.lives(self.ws(origin="https://tolld"))
        self.lives(self.ws(host="Chat.example:8080", origin="http://chat.example:8080"))
        for origin in ("https://evil.example", "null", "", "https://chat.example.evil",
                       "https://chat.example:1", "http://chat.example", "tolld", "https://",
                       "https://tolld:1", "https://x/https://tolld"):
            self.refused(403, "origin_not_allowed", "Origin", origin=origin)
        self.refused(400, param="Origin", origin="https://chat.example",
                     headers=["Origin: https://chat.example"])

    def test_the_headers(self):
        for upgrade in ("WebSocket", "h2c, websocket", "websocket,x/1"):
            self.lives(self.ws(upgrade=upgrade))
        for connection in ("upgrade", "keep-alive, Upgrade", "Upgrade,close"):
            self.lives(self.ws(connection=connection))
        self.lives(self.ws(connection="keep-alive", headers=["Connection: Upgrade"]))
        for name, value, status in (
                ("upgrade", None, 426), ("upgrade", "h2c", 426), ("upgrade", "websocket/13", 426),
                ("connection", None, 426), ("connection", "keep-alive", 426),
                ("connection", "upgraded", 426)):
            x = self.refused(status, param="Upgrade", **{name: value})
            self.assertEqual(x.headers["upgrade"], "websocket")
        for value in (None, "8", "12", "13, 8", "013", "14", ""):
            x = self.refused(426, param="Sec-WebSocket-Version", sec_websocket_version=value)
            self.assertEqual(x.headers["sec-websocket-version"], "13")
        self.refused(426, param="Sec-WebSocket-Version", headers=["Sec-WebSocket-Version: 13"])
        nonce = "dGhlIHNhbXBsZSBub25jZQ=="
        for value in (None, "", nonce[:-1], nonce + "=", "x" * 24, "=" * 24, nonce[:-3] + "*==",
                      nonce[:20], " " + "A" * 21 + "=="):
            self.refused(400, param="Sec-WebSocket-Key", sec_websocket_key=value)
        self.refused(400, param="Sec-WebSocket-Key", headers=[f"Sec-WebSocket-Key: {nonce}"])
        self.lives(self.ws(headers=["Sec-WebSocket-Extensions: permessage-deflate"]))

    def test_the_request(self):
        path = "/ws/chat/alice"
        self.refused(405, "method_not_allowed", request=f"POST {path} HTTP/1.1",
                     headers=["Content-Length: 0"])
        self.refused(400, request=f"GET {path} HTTP/1.0")
        self.refused(400, headers=["Content-Length: 1"], after=b"x")
        with self.assertRaises(Refused) as e:
            self.ws(request=f"HEAD {path} HTTP/1.1")
        self.assertEqual(e.exception.status, 405)
        # Nothing but a question: an ordinary GET is told what this is.
        status, headers, body = self.t.request("GET", path, None, self.key)
        self.assertEqual((status, headers["Upgrade"]), (426, "websocket"))

    def test_frames_right_behind_the_handshake(self):
        ask = json.dumps({"question": "hello there", "model": "short"}).encode()
        w = self.ws(after=frame(PING, b"x") + frame(TEXT, ask))
        self.assertEqual(w.pong(), b"x")
        self.assertEqual(w.answer()[1]["type"], "end")

    def test_after_other_requests(self):
        """On a connection that was kept alive."""
        w = WebSocket.__new__(WebSocket)
        first = (f"GET /balance HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self.key}\r\n\r\n")
        s = socket.create_connection(("127.0.0.1", self.t.port), PATIENCE)
        self.addCleanup(s.close)
        s.sendall(first.encode())
        while b"}" not in s.recv(65536):
            pass
        w.sock, w.buffer, w.pings = s, b"", 0
        nonce = "dGhlIHNhbXBsZSBub25jZQ=="
        s.sendall(("GET /ws/chat/alice HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
                   f"Connection: Upgrade\r\nSec-WebSocket-Key: {nonce}\r\n"
                   "Sec-WebSocket-Version: 13\r\n"
                   f"Authorization: Bearer {self.key}\r\n\r\n").encode())
        w.handshake(nonce)
        self.lives(w)


class Frames(WsCase):
    """By the numbers of the Autobahn suite; where that wants an echo, a question is answered."""

    OPTIONS = dict(workers=2, models=MODELS, config=ANY + f"\nmax_body = {MAX}")

    def question(self, length=None, text="hello there", model="short"):
        q = {"model": model, "question": text}
        q = json.dumps(q, ensure_ascii=False).encode()
        if length is not None:
            q = q[:-1] + b" " * (length - len(q)) + b"}"
        return q

    def ends_with(self, code, *frames):
        w = self.ws()
        try:
            for f in frames:
                w.raw(f)
        except ConnectionError:
            pass
        self.assertEqual(w.closed(), code)

    def chopped(self, w, data):
        for i in range(len(data)):
            w.raw(data[i:i + 1])

    def test_1_framing(self):
        w = self.ws()
        for n in (65, 125, 126, 127, 128, 255, 1024, MAX):
            w.frame(TEXT, self.question(n))
            self.assertEqual(w.answer()[1]["type"], "end", n)
        self.chopped(w, frame(TEXT, self.question(130)))
        self.assertEqual(w.answer()[1]["type"], "end")
        w.frame(TEXT, self.question(), key=b"\0\0\0\0")
        self.assertEqual(w.answer()[1]["type"], "end")
        w.frame(TEXT, b"")  # 1.1.1: no echo, but no JSON either
        self.assertEqual(w.next()["code"], "invalid_json")
        for n in (0, 125, MAX):
            self.ends_with(1003, frame(BINARY, b"x" * n))
        # Lengths that are not the shortest.
        self.ends_with(1002, frame(TEXT, b"{}", length=2))
        self.ends_with(1002, frame(TEXT, b"{}", length=8))
        self.ends_with(1002, frame(TEXT, b"{" + b" " * 300, length=8))
        self.ends_with(1002, b"\x81\xff" + b"\xff" * 8)

    def test_2_pings(self):
        w = self.ws()
        for payload in (b"", b"hello", b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff", b"\xfe" * 125):
            w.frame(PING, payload)
            self.assertEqual(w.pong(), payload)
        self.chopped(w, frame(PING, b"\xfe" * 125))
        self.assertEqual(w.pong(), b"\xfe" * 125)
        w.frame(PONG)
        w.frame(PONG, b"unsolicited")
        w.frame(PING, b"x")
        self.assertEqual(w.pong(), b"x")
        w.raw(b"".join(frame(PING, b"payload-%d" % i) for i in range(1000)))
        for i in range(1000):
            self.assertEqual(w.pong(), b"payload-%d" % i)
        self.lives(w)
        self.ends_with(1002, frame(PING, b"\xfe" * 126))

    def test_3_reserved_bits(self):
        for rsv in range(1, 8):
            self.ends_with(1002, frame(TEXT, self.question(), rsv=rsv))
            self.ends_with(1002, frame(PING, b"x", rsv=rsv))
            self.ends_with(1002, frame(CLOSE, rsv=rsv))
        w = self.ws()  # what was said before it is answered
        w.raw(frame(TEXT, b"{}") + frame(TEXT, b"{}", rsv=4))
        self.assertEqual(w.next()["code"], "invalid_request")
        self.assertEqual(w.closed(), 1002)

    def test_4_opcodes(self):
        for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15):
            self.ends_with(1002, frame(opcode))
            self.ends_with(1002, frame(opcode, b"x" * 20))
            w = self.ws()
            self.chopped(w, frame(PING, b"y"))
            self.assertEqual(w.pong(), b"y")
            w.frame(opcode, b"x")
            self.assertEqual(w.closed(), 1002)

    def test_5_fragments(self):
        q = self.question()
        w = self.ws()
        w.raw(frame(TEXT, q[:9], fin=False) + frame(CONT, q[9:]))  # 5.3
        self.assertEqual(w.answer()[1]["type"], "end")
        w.raw(frame(TEXT, b"", fin=False) + frame(CONT, b"", fin=False) + frame(CONT, q))
        self.assertEqual(w.answer()[1]["type"], "end")
        for i in range(len(q)):  # one byte each, a ping behind each: 5.19
            w.frame(TEXT if i == 0 else CONT, q[i:i + 1], fin=i == len(q) - 1)
            if i < len(q) - 1:
                w.frame(PING, b"%d" % i)
                self.assertEqual(w.pong(), b"%d" % i)
        self.assertEqual(w.answer()[1]["type"], "end")
        self.ends_with(1002, frame(PING, b"a", fin=False), frame(CONT, b"b"))  # 5.1
        self.ends_with(1002, frame(PONG, b"a", fin=False))
        self.ends_with(1002, frame(CLOSE, b"", fin=False))
        for fin in (True, False):  # 5.9 to 5.14
            self.ends_with(1002, frame(CONT, b"x", fin=fin))
        self.ends_with(1002, frame(TEXT, q[:9], fin=False), frame(TEXT, q[9:]))  # 5.18
        self.ends_with(1002, frame(TEXT, q[:9], fin=False), frame(BINARY, b"x"))
        self.ends_with(1003, frame(BINARY, b"x", fin=False), frame(CONT, b"y"))

    def test_5_not_masked(self):
        self.ends_with(1002, frame(TEXT, self.question(), mask=False))
        self.ends_with(1002, frame(PING, b"x", mask=False))
        self.ends_with(1002, frame(CLOSE, mask=False))

    def test_6_utf8(self):
        good = ["κόσμε", "\u00e9", "\u0800", "\U00010000", "\ud7ff", "\ue000", "\ufffd",
                "\U0010ffff", "\ufffe\uffff", "\u0000"]
        w = self.ws()
        for text in good:
            w.frame(TEXT, self.question(text=text, model="echo"))
            said = json.loads(w.answer()[0])["messages"][0]["content"]
            self.assertEqual(said, text)
        q = self.question(text="κόσμε", model="echo")
        for i in range(1, len(q)):  # 6.2.3: a cut inside a character is none
            if q[i] & 0xc0 == 0x80:
                w.raw(frame(TEXT, q[:i], fin=False) + frame(CONT, q[i:]))
                self.assertEqual(json.loads(w.answer()[0])["messages"][0]["content"], "κόσμε")
        bad = [b"\x80", b"\xbf", b"\xc0\xaf", b"\xc1\xbf", b"\xe0\x80\xaf", b"\xf0\x80\x80\xaf",
               b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xf4\x90\x80\x80", b"\xf8\x88\x80\x80\x80",
               b"\xfe", b"\xff", b"\xce\xba\xe1\xbd\xb9\xed\xa0\x80edited", b"\xc3(", b"\xe2\x28\xa1"]
        for x in bad:
            self.ends_with(1007, frame(TEXT, b'{"question":"' + x + b'"}'))
            # 6.4: at once, not at the message's end.
            self.ends_with(1007, frame(TEXT, b'{"question":"' + x, fin=False))
        whole = frame(TEXT, b'"' + b"\xce\xba\xe1\xbd\xb9\xf4\x90" + b"x" * 50, key=b"1234")
        self.ends_with(1007, whole[:14])  # in the middle of a frame
        self.ends_with(1007, frame(TEXT, b'"\xe2\x82'))  # ends within a character
        self.ends_with(1007, frame(TEXT, b'"\xe2\x82', fin=False), frame(CONT, b""))

    def test_7_close(self):
        w = self.ws()
        self.assertEqual(w.close(1000, b"bye"), 1000)
        w = self.ws()
        w.frame(CLOSE)
        self.assertIsNone(w.closed())
        for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999):
            self.assertEqual(self.ws().close(code), code)
        self.assertEqual(self.ws().close(1000, b"x" * 123), 1000)
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535):
            self.ends_with(1002, frame(CLOSE, struct.pack(">H", code)))
        self.ends_with(1002, frame(CLOSE, b"x"))
        self.ends_with(1002, frame(CLOSE, struct.pack(">H", 1000) + b"x" * 124))
        self.ends_with(1007, frame(CLOSE, struct.pack(">H", 1000) + b"\xce\xba\xed\xa0\x80"))
        # Behind a close there is nothing: neither a ping, nor a question.
        self.ends_with(None, frame(CLOSE) + frame(PING, b"x") + frame(TEXT, self.question()))
        self.ends_with(1000, frame(TEXT, self.question()[:5], fin=False)
                       + frame(CLOSE, struct.pack(">H", 1000)))

    def test_9_limits(self):
        """A message may be as long as a body may; one that says it is longer is not waited for."""
        w = self.ws()
        w.frame(TEXT, self.question(MAX))
        self.assertEqual(w.answer()[1]["type"], "end")
        self.ends_with(1009, frame(TEXT, b"x" * (MAX + 1))[:40])
        self.ends_with(1009, b"\x81\xff" + struct.pack(">Q", 1 << 62) + b"1234xxxx")
        q = self.question(MAX + 1)
        self.ends_with(1009, *(frame(TEXT if i == 0 else CONT, q[i:i + 512], fin=i + 512 > MAX)
                               for i in range(0, MAX + 1, 512)))
        w = self.ws()
        for i in range(0, MAX, 64):
            w.frame(TEXT if i == 0 else CONT, self.question(MAX)[i:i + 64], fin=i + 64 >= MAX)
        self.assertEqual(w.answer()[1]["type"], "end")

    def taken(self):
        """KiB of memory, by all workers, but for files (the tokenizer's table)."""
        total = 0
        for name, pid in self.t.children().items():
            if name.startswith("tolld: worker"):
                with open(f"/proc/{pid}/status") as f:
                    total += sum(int(x.split()[1]) for x in f if x.startswith("RssAnon"))
        return total

    @unittest.skipIf(SLOW > 1, "sanitizers and valgrind have memory of their own")
    def test_what_a_connection_takes(self):
        before = self.taken()
        for _ in range(400):
            self.ws()
        self.assertLess(self.taken() - before, 400 * 16)

    @unittest.skipIf(SLOW > 1, "sanitizers and valgrind have memory of their own")
    def test_many_fragments_are_no_memory(self):
        """Neither empty ones, nor those of a byte."""
        w = self.ws()
        self.lives(w)
        before = self.taken()
        w.frame(TEXT, b'{"question":"', fin=False)
        for _ in range(40):
            w.raw(frame(CONT, b"", fin=False, key=b"abcd") * 5000)
        w.raw(frame(CONT, b"x", fin=False, key=b"abcd") * (MAX - 100) + frame(PING))
        w.pong()
        self.assertLess(self.taken() - before, 512)
        w.frame(CONT, b'","model":"short"}')
        self.assertEqual(w.answer()[1]["type"], "end")

    def test_who_pings_and_does_not_read(self):
        """It is not read either; once it reads, all of its pings are answered."""
        w = self.ws(receive_buffer=4096)
        w.sock.setblocking(False)
        data = b"".join(frame(PING, b"%0120d" % i, key=b"abcd") for i in range(200))
        sent = 0

        def full():
            nonlocal sent
            try:
                for _ in range(200):
                    sent += w.sock.send(data[sent % len(data):])
            except BlockingIOError:
                return True

        wait_for(full, 20, "the sockets to be full")
        self.assertLess(sent, 64 << 20)
        w.sock.settimeout(PATIENCE)
        for i in range(sent // 126):
            self.assertEqual(w.pong(), b"%0120d" % (i % 200))
        rest = (126 - sent % 126) % 126
        if rest:
            w.raw(data[sent % len(data):][:rest])
            w.pong()
        self.lives(w)


if __name__ == "__main__":
    unittest.main()
