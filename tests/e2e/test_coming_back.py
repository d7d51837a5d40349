"""Goal:   who loses the connection at any moment and comes back with Last-Event-ID has every byte of
        the answer once and in its place, through whichever worker; so have all who watch beside it,
        and who come after the end. The charge is exact, whoever came and went.
Method: clients that read a random number of bytes, cut the connection (closed or reset, in the middle
        of a chunk, an event or a character), and come back at once or a little later; seeded. Every
        event's id is held against the bytes so far; the text against the end's full_text, the
        history's and what a watcher who never left has. TOLLD_CUTS=N: how many cuts in all.
"""
import json
import os
import random
import socket
import struct
import threading
import time
import unittest

from tolld import SLOW, Case, cost, micro, wait_for

CUTS = int(os.environ.get("TOLLD_CUTS", "150"))
SEED = int(os.environ.get("SEED", "1"))
AT_ONCE = 6          # streams
CUTS_EACH = 10       # of one stream; the rest of it is read to the end
MODELS = {f"{lang}-{pace}": f"sim:tokens=240,rate={pace},lang={lang}{more}"
          for lang, pace, more in (("ru", 240, ""), ("emoji", 300, ",batch=3"), ("zh", 200, ""),
                                   ("en", 400, ",pack=4"), ("json", 250, ",split=7"))}
MODELS["endless"] = "sim:tokens=9000,rate=100,lang=zh"
NOTHING = 60.0       # seconds without a byte are a failure


class Cut(Exception):
    """The client has read enough."""


class Reader:
    """One connection to /stream: events of the body as they come, at most `most` bytes of it."""

    def __init__(self, port, stream_id, last_id, rng, most=None):
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=NOTHING * SLOW)
        self.minor = rng.choice((0, 1))
        last = f"Last-Event-ID: {last_id}\r\n" if last_id is not None else ""
        self.sock.sendall((f"GET /stream?id={stream_id} HTTP/1.{self.minor}\r\nHost: h\r\n{last}"
                           "\r\n").encode())
        self.left = most
        self.data = b""
        self.rng = rng

    def more(self):
        """Some more bytes, b"" at the end."""
        if self.left is not None and self.left <= 0:
            raise Cut
        want = self.rng.choice((1, 7, 100, 4096))
        got = self.sock.recv(want if self.left is None else min(want, self.left))
        if self.left is not None:
            self.left -= len(got)
        return got

    def until(self, mark):
        while mark not in self.data:
            got = self.more()
            if not got:
                raise AssertionError(f"the connection ended in {self.data!r}")
            self.data += got
        head, self.data = self.data.split(mark, 1)
        return head

    def head(self):
        head = self.until(b"\r\n\r\n").decode()
        self.chunked = "transfer-encoding: chunked" in head.lower()
        return int(head.split(" ", 2)[1])

    def body(self):
        """Pieces of the body."""
        while not self.chunked:
            if self.data:
                piece, self.data = self.data, b""
            else:
                piece = self.more()
                if not piece:
                    return
            yield piece
        while True:
            n = int(self.until(b"\r\n"), 16)
            while len(self.data) < n + 2:
                got = self.more()
                if not got:
                    raise AssertionError("the connection ended in a chunk")
                # Part of a chunk is as good as the whole: an event may be in it.
                self.data += got
            piece, self.data = self.data[:n], self.data[n + 2:]
            if n == 0:
                return
            yield piece

    def events(self):
        """(id, object) of each whole event."""
        rest = b""
        for piece in self.body():
            rest += piece
            while b"\n\n" in rest:
                event, rest = rest.split(b"\n\n", 1)
                lines = event.decode().split("\n")  # strict: never half a character
                if lines[0].startswith(":"):
                    continue
                fields = dict(line.split(": ", 1) for line in lines)
                yield fields["id"], json.loads(fields["data"])
        if rest:
            raise AssertionError(f"half an event at the end: {rest!r}")

    def close(self, reset=False):
        if reset:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


class Watcher:
    """Somebody who puts an answer together, over any number of connections."""

    def __init__(self, port, stream_id, rng):
        self.port, self.stream_id, self.rng = port, stream_id, rng
        self.text = b""
        self.last_id = None
        self.end = None
        self.begun = 0

    def take(self, event_id, event):
        kind, data = event["type"], event["data"]
        offset = int(event_id.split("-")[0])
        if kind == "token":
            self.text += data["token"].encode()
        if kind == "metadata":
            self.begun += 1
        if offset != len(self.text):
            raise AssertionError(f"{kind} {event_id}: {len(self.text)} bytes are here")
        self.last_id = event_id
        if kind in ("done", "error"):
            self.end = event

    def read(self, most=None):
        """One connection; True when the end was seen."""
        r = Reader(self.port, self.stream_id, self.last_id, self.rng, most)
        try:
            status = r.head()
            if status != 200:
                raise AssertionError(f"status {status}")
            for event_id, event in r.events():
                if self.end is not None:
                    raise AssertionError(f"{event} after the end")
                self.take(event_id, event)
        except Cut:
            r.close(self.rng.random() < 0.5)
            return self.end is not None
        r.close()
        if self.end is None:
            raise AssertionError("it ended without an end")
        return True


class ComingBack(Case):
    OPTIONS = {"workers": 4, "models": MODELS,
               "ledger": "slice_tokens = 40 reconnect_grace = 4"}

    def status(self, stream_id, last_id):
        """What somebody who asks for this gets: (status, text)."""
        w = Watcher(self.t.port, stream_id, random.Random(0))
        r = Reader(self.t.port, stream_id, last_id, w.rng)
        try:
            status = r.head()
            text = b""
            if status == 200:
                text = b"".join(e["data"]["token"].encode() for _, e in r.events()
                                if e["type"] == "token")
            return status, text
        finally:
            r.close()

    def one(self, number, cuts):
        """A stream with so many cuts."""
        rng = random.Random(SEED * 1000003 + number)
        model = rng.choice([m for m in sorted(MODELS) if m != "endless"])
        sent = self.t.send(self.key, f"number {number}", model)
        w = Watcher(self.t.port, sent["stream_id"], rng)
        steady = Watcher(self.t.port, sent["stream_id"], random.Random(number))
        late = Watcher(self.t.port, sent["stream_id"], random.Random(number + 1))
        errors = []

        def beside(other):
            try:
                other.read()
            except Exception as e:  # told by the one who waits for it
                errors.append(e)

        threads = [threading.Thread(target=beside, args=(steady,))]
        threads[0].start()
        done = 0
        while done < cuts:
            # Anything from within the head to some kilobytes of events.
            ended = w.read(rng.choice((rng.randrange(1, 300), rng.randrange(1, 6000))))
            done += 1
            if done == cuts // 2:
                threads.append(threading.Thread(target=beside, args=(late,)))
                threads[-1].start()
            if ended:
                break
            if rng.random() < 0.3:
                time.sleep(rng.random() * 0.05)
        if w.end is None:
            w.read()
        for th in threads:
            th.join(60 * SLOW)
            self.assertFalse(th.is_alive())
        self.assertEqual(errors, [])
        self.check(sent, w, [x for x in (steady, late) if x.end is not None])
        return done

    def check(self, sent, w, others):
        self.assertEqual(w.end["type"], "done", w.end)
        end = w.end["data"]
        self.assertEqual(end["finish_reason"], "stop")
        self.assertEqual(w.text.decode(), end["full_text"])
        for x in others:
            self.assertEqual(x.text, w.text)
            self.assertEqual(x.end["data"]["cost"], end["cost"])
            self.assertEqual(x.last_id, w.last_id)
        # Who comes after the end.
        self.assertEqual(self.status(sent["stream_id"], w.last_id), (204, b""))
        self.assertEqual(self.status(sent["stream_id"], None), (200, w.text))
        # The end of a shorter text is another stream's.
        self.assertEqual(self.status(sent["stream_id"], "0-e"), (200, w.text))
        at = w.rng.randrange(len(w.text) + 1)
        from_there = w.text[at:]
        while from_there and from_there[0] & 0xc0 == 0x80:
            from_there = from_there[1:]  # a place inside of a character is none
        self.assertEqual(self.status(sent["stream_id"], str(at)), (200, from_there))
        usage = end["usage"]
        self.assertEqual(usage["completion_tokens"], 240)
        self.assertEqual(micro(end["cost"]), cost(usage["prompt_tokens"], 240))
        body = self.t.request("GET", f"/chat/history?session_id={sent['session_id']}",
                              key=self.key)[2]
        answer = body["messages"][1]
        self.assertEqual(answer["content"], end["full_text"])
        self.assertEqual((answer["status"], micro(answer["cost"])),
                         ("complete", micro(end["cost"])))
        with self.lock:
            self.charged += micro(end["cost"])
            self.ended.append((sent["stream_id"], w.text, w.last_id))

    def test_random_cuts(self):
        self.lock = threading.Lock()
        self.charged, self.cuts, self.number = 0, 0, 0
        self.ended = []
        self.key = self.t.account("alice", "100")
        before = self.t.sim.stats()["requests"]
        failures = []

        def work():
            while not failures:
                with self.lock:
                    if self.cuts >= CUTS:
                        return
                    self.number += 1
                    number = self.number
                try:
                    done = self.one(number, CUTS_EACH)
                except Exception as e:
                    failures.append(f"SEED={SEED}, stream {number}: {type(e).__name__}: {e}")
                    return
                with self.lock:
                    self.cuts += done
        threads = [threading.Thread(target=work) for _ in range(AT_ONCE)]
        for th in threads:
            th.start()
        for th in threads:
            th.join()
        self.assertEqual(failures, [])
        self.assertGreaterEqual(self.cuts, CUTS)
        self.invariants()
        self.assertEqual(micro(self.t.show("alice")["balance"]), 100000000 - self.charged)
        # Never a second run.
        self.assertEqual(self.t.sim.stats()["requests"] - before, self.number)
        # No worker has them any more: what is told is what was stored.
        self.assertEqual(self.t.stop(), 0)
        self.t.start()
        rng = random.Random(SEED)
        for stream_id, text, last_id in rng.sample(self.ended, min(10, len(self.ended))):
            self.assertEqual(self.status(stream_id, last_id), (204, b""))
            self.assertEqual(self.status(stream_id, None), (200, text))
            w = Watcher(self.t.port, stream_id, rng)
            at = rng.randrange(len(text))
            while text[at] & 0xc0 == 0x80:
                at -= 1
            w.text, w.last_id = text[:at], str(at)
            for _ in range(4):
                if w.read(rng.randrange(1, 2000)):
                    break
            if w.end is None:
                w.read()
            self.assertEqual((w.text, w.last_id), (text, last_id))
        self.assertEqual(micro(self.t.show("alice")["balance"]), 100000000 - self.charged)
        self.t.audit()

    def test_many_watchers(self):
        """A hundred at once, each from a place of its own; those who leave harm nobody."""
        key = self.t.account("crowd", "10")
        sent = self.t.send(key, "hello", "ru-240")
        watchers = [Watcher(self.t.port, sent["stream_id"], random.Random(n)) for n in range(100)]
        errors = []

        def watch(w, n):
            try:
                if n % 3 == 0:
                    w.read(200 + 20 * n)
                w.end or w.read()
            except Exception as e:
                errors.append(e)

        threads = [threading.Thread(target=watch, args=(w, n)) for n, w in enumerate(watchers)]
        for th in threads:
            th.start()
        for th in threads:
            th.join(60 * SLOW)
        self.assertEqual(errors, [])
        for w in watchers:
            self.assertEqual(w.end["type"], "done")
            self.assertEqual(w.text.decode(), w.end["data"]["full_text"])
        self.assertEqual(len({w.text for w in watchers}), 1)
        self.invariants()

    def test_nobody_comes_back(self):
        """After reconnect_grace the stream ends, and says so to who comes after all."""
        key = self.t.account("lazy", "10")
        sent = self.t.send(key, "hello", "endless")
        w = Watcher(self.t.port, sent["stream_id"], random.Random(1))
        self.assertFalse(w.read(3000))
        wait_for(lambda: self.t.ctl("hold", "list") == [], 10, "it to end")
        w.read()
        self.assertEqual(w.end["data"]["finish_reason"], "cancelled")
        self.assertEqual(w.text.decode(), w.end["data"]["full_text"])
        self.assertEqual(self.status(sent["stream_id"], w.last_id)[0], 204)
        balance = 10000000 - micro(w.end["data"]["cost"])
        self.assertEqual(micro(self.t.show("lazy")["balance"]), balance)
        self.invariants()


if __name__ == "__main__":
    unittest.main()
