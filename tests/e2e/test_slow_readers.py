"""Goal:   clients that read slowly or not at all cost others nothing, and one that stalled can come
        back to where it was.
Method: many slow readers beside as many fast ones, and a watcher that stops reading beside one
        that goes on.  TOLLD_TEST_READERS says how many of each kind.
"""
import concurrent.futures
import json
import os
import selectors
import socket
import time
import unittest

from tolld import PATIENCE, SLOW, Case, micro, rests, text_of, wait_for

READERS = int(os.environ.get("TOLLD_TEST_READERS", "200"))
TOKENS = 60 if READERS > 200 else 30
RATE = 20


class Reader:
    """A raw client of one stream; remembers when it got its first byte and its end."""

    def __init__(self, port, stream, room=0):
        self.s = socket.socket()
        if room:
            self.s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
        self.s.connect(("127.0.0.1", port))
        self.s.sendall(f"GET /stream?id={stream} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        self.s.setblocking(False)
        self.data = bytearray()
        self.ended = None

    def read(self, n=65536):
        """False: the answer is over."""
        try:
            more = self.s.recv(n)
        except BlockingIOError:
            return True
        self.data += more
        if not more or self.data.endswith(b"0\r\n\r\n"):
            self.ended = time.monotonic()
            return False
        return True


class ManyReaders(Case):
    OPTIONS = dict(
        models={"paced": f"sim:tokens={TOKENS},rate={RATE},lang=even",
                "flood": "sim:tokens=90000,lang=even"},
        ledger="slice_tokens = 2000 overdraft = 0 reconnect_grace = 1", timeouts="idle = 150 stream = 600")

    def memory(self):
        pid = next(p for t, p in self.t.children().items() if "worker" in t)
        with open(f"/proc/{pid}/status") as f:
            return next(int(x.split()[1]) for x in f if x.startswith("RssAnon:"))

    def sent(self, key, model, n):
        """Ids of so many streams, reserved and not opened."""
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            return list(pool.map(lambda _: self.t.send(key, "hello", model)["stream_id"],
                                 range(n)))

    def fast(self, key, n):
        """n paced streams read as they come: how long each took."""
        began, took, waiting = {}, [], selectors.DefaultSelector()
        for stream in self.sent(key, "paced", n):
            r = Reader(self.t.port, stream)
            began[r] = time.monotonic()
            waiting.register(r.s, selectors.EVENT_READ, r)
        end = time.monotonic() + 60 * SLOW
        while waiting.get_map() and time.monotonic() < end:
            for k, _ in waiting.select(1):
                if not k.data.read():
                    waiting.unregister(k.fileobj)
                    took.append(k.data.ended - began[k.data])
                    self.assertIn(b'"finish_reason":"stop"', k.data.data)
                    k.fileobj.close()
        self.assertEqual(len(took), n)
        return sorted(took)

    def test_slow_ones_do_not_slow_the_fast(self):
        key = self.t.account("alice", "100000")
        alone = self.fast(key, READERS)
        before = self.memory()
        slow = [Reader(self.t.port, s, room=4096) for s in self.sent(key, "flood", READERS)]
        # They read nothing: every one's provider is paused once its room is used up.
        paused = rests(lambda: sum(h["metered"] for h in self.t.ctl("hold", "list")),
                       what="the floods to be paused")
        self.assertLess(paused, READERS * 60000)
        # 64 KiB of lag, one frame, the pieces' lengths, and what growing buffers hold in advance.
        # 116 KB each were measured with a thousand.  (A sanitizer keeps what was freed.)
        self.assertLess((self.memory() - before) / READERS, 250 * SLOW)
        beside = self.fast(key, READERS)
        # What the provider's pace makes of it, and a little.
        self.assertLess(beside[len(beside) * 95 // 100],
                        alone[len(alone) * 95 // 100] * 1.3 + 4 * SLOW)
        # And the slow ones get all of theirs when they read.
        end = time.monotonic() + 60 * SLOW
        some = slow[:READERS // 40]
        while any(r.ended is None for r in some) and time.monotonic() < end:
            for r in some:
                while r.ended is None and r.read():
                    try:
                        r.s.recv(1, socket.MSG_PEEK)
                    except BlockingIOError:
                        break
        for r in some:
            self.assertIn(b'"finish_reason":"stop"', r.data)
        for r in slow:
            r.s.close()


class Stalled(Case):
    """Two watch one stream; one of them stops reading."""

    OPTIONS = dict(models={"long": "sim:tokens=30000,rate=30000,lang=even"},
                   ledger="slice_tokens = 5000 reconnect_grace = 4", timeouts="idle = 4")

    def test_stalled_watcher_is_dropped_and_resumes(self):
        key = self.t.account("alice", "1000")
        before = micro(self.t.show("alice")["balance"])
        sent = self.t.send(key, "hello", "long")
        stalled = Reader(self.t.port, sent["stream_id"], room=4096)
        wait_for(lambda: not stalled.read(2048) or len(stalled.data) > 2000, 10, "its first bytes")
        fast = self.t.open(sent["stream_id"])
        whole = list(fast.typed())
        self.assertEqual(whole[-1]["type"], "done")
        text = text_of(whole)
        self.assertEqual(len(text), 150000)

        # Dropped: what was sent is still there to be read, then the connection's end and not the
        # answer's.
        def dropped():
            try:
                while stalled.read():
                    stalled.s.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                return False
            except ConnectionError:
                return True
            return True
        fast.close()
        # It reads nothing for longer than `idle`.
        wait_for(lambda: self.connections() == 0, 15, "the stalled watcher to be dropped")
        wait_for(dropped, 10, "its connection to end")
        self.assertNotIn(b'"type":"done"', stalled.data)
        stalled.s.close()
        # It comes back to where it was, without a hole and without anything twice.
        body, rest = b"", bytes(stalled.data).split(b"\r\n\r\n", 1)[1]
        while b"\r\n" in rest:
            size, rest = rest.split(b"\r\n", 1)
            body += rest[:int(size, 16)]
            rest = rest[int(size, 16) + 2:]
        last, got = None, ""
        for frame in body.decode(errors="ignore").split("\n\n")[:-1]:
            lines = frame.split("\n")
            if not lines[0].startswith("id: "):
                continue
            event = json.loads(lines[1][6:])
            last = lines[0][4:]
            if event["type"] == "token":
                got += event["data"]["token"]
        self.assertTrue(text.startswith(got))
        self.assertLess(len(got), len(text))
        again = list(self.t.open(sent["stream_id"], last_id=last).typed())
        self.assertEqual(got + text_of(again), text)
        self.assertEqual(again[-1]["type"], "done")
        self.assertEqual(before - micro(self.t.show("alice")["balance"]),
                         micro(again[-1]["data"]["cost"]))
        self.invariants()

    def test_one_that_takes_a_byte_now_and_then_is_dropped(self):
        key = self.t.account("trickle", "1000")
        sent = self.t.send(key, "hello", "long")
        fast = self.t.open(sent["stream_id"])
        self.assertEqual(list(fast.typed())[-1]["type"], "done")
        fast.close()
        wait_for(lambda: self.connections() == 0, 10, "no connection")

        def reader():
            r = Reader(self.t.port, sent["stream_id"], room=4096)
            self.addCleanup(r.s.close)
            wait_for(lambda: r.read(20) and r.data, 10, "the first bytes")
            return r
        trickle, slow = reader(), reader()
        began, dropped_at = time.monotonic(), None
        # The kernel asks for more in pieces of some KB: that is the least in each `idle`.  One
        # that is slow, but reads, stays: more than twice `idle` for as much as this.
        while dropped_at is None or len(slow.data) < 110000:
            self.assertTrue(slow.read(8000))
            if dropped_at is None:
                trickle.read(5)
                dropped_at = time.monotonic() if self.connections() == 1 else None
                self.assertLess(time.monotonic() - began, PATIENCE * SLOW,
                                "who takes hardly anything was not dropped")
            # What it reads on average, whatever the machine is at.
            time.sleep(max(0.001, began + len(slow.data) / 12500 - time.monotonic()))
        self.assertLess(len(trickle.data), 100000)
        self.assertEqual(self.connections(), 1)

    def connections(self):
        """Established connections of clients, as the daemon's side has them."""
        n = 0
        with open("/proc/net/tcp") as f:
            for line in f.readlines()[1:]:
                fields = line.split()
                local, state = fields[1], fields[3]
                if int(local.split(":")[1], 16) == self.t.port and state == "01":
                    n += 1
        return n


if __name__ == "__main__":
    unittest.main()
