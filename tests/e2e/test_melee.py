"""Goal:   everything at once, and every micro-credit right: each request costs what its provider
        sent and its client got, at the prices of its reserve, once; no account goes below its floor.
Method: clients of every way in (typed streams that break and come back, second watchers, cancels,
        holds that wait or expire, /v1 with and without a key that repeats, WebSockets), on accounts
        that are rich, poor, under budgets and caps; beside them an operator who changes prices by
        reloads, tops up, adjusts, lowers and raises overdrafts and budgets, cancels, voids, backs
        up; and kills of each process, of all at once, and upgrades in place.  An independent
        referee (referee.py) judges.  TOLLD_MELEE seconds of each kind; TOLLD_SEED.
"""
import datetime
import http.client
import json
import os
import random
import shutil
import signal
import tempfile
import threading
import time
import unittest

from clock import Clock
from referee import Asked, Price, Replay, exported, judge
from test_upgrade import OTHER, VERSION
from tolld import BUILD, SLOW, Stream, Tolld, end_of, micro, wait_for
from ws import Closed, Refused, WebSocket

SECONDS = float(os.environ.get("TOLLD_MELEE", "4"))
SEED = int(os.environ.get("TOLLD_SEED", "1"))
EVEN = "lang=even,exact=o200k_base"
MODELS = {
    "quick": f"sim:tokens=30,{EVEN},prompt=20",
    "slow": f"sim:tokens=150,rate=100,{EVEN},prompt=20",
    "burst": f"sim:tokens=1500,rate=3000,batch=7,{EVEN},prompt=20",
    "cached": f"sim:tokens=40,rate=200,{EVEN},prompt=20,cached=12",
    "uncounted": f"sim:tokens=60,rate=200,{EVEN},prompt=20,usage=no",
    "broken": f"sim:tokens=60,rate=200,{EVEN},prompt=20,fault=cut@25",
    "zero": f"sim:tokens=40,{EVEN},prompt=20,usage=zero",
    "negative": f"sim:tokens=40,{EVEN},prompt=20,usage=neg",
    "over": f"sim:tokens=40,rate=200,{EVEN},prompt=20,usage=over:9",
    "under": f"sim:tokens=40,rate=200,{EVEN},prompt=20,usage=under:9",
    "silent": (f"sim:tokens=40,rate=400,{EVEN},prompt=20,reason=15",
               "hidden_tokens = true max_completion = 90"),
}
# The same by providers who speak otherwise.
OTHERS = '''
provider "{dialect}" {{ dialect = "{dialect}" base_url = "{url}" api_key = "k" retries = 0
    breaker_failures = 0 }}
model "{dialect}" {{ provider = {{"{dialect}"}} tokenizer = "o200k_base"
    upstream = "sim:tokens=60,rate=200,{even},prompt=20"
    price_prompt = 0.15
    price_cached = 0.075
    price_completion = 0.60
    max_completion = 1000 context = 100000 }}
'''
EVERY = (*MODELS, "anthropic", "ollama")
CACHED = {"cached": 12}
# Tokens that the provider says more, or less, than it sends.
SAID = {"over": 9, "under": -9, "silent": 15}
MESSAGE = "What is beyond the bridge?"
LOST = (OSError, http.client.HTTPException, ValueError, Closed)


class Market:
    """Which prices may have been in force when."""

    def __init__(self, t):
        self.t = t
        with open(t.config_file) as f:
            self.text = f.read()
        self.since = [(0.0, self.price(0))]  # (since when it may be in force, what)
        self.until = [float("inf")]

    @staticmethod
    def price(n):
        return Price(150000 * (1 + n % 3), 600000 * (1 + n % 5), 75000, n % 2 * 7)

    def change(self, n):
        p = self.price(n)

        def text(v):
            return f"{v / 1000000:.6f}"
        new = (self.text.replace("price_prompt = 0.15", f"price_prompt = {text(p.prompt)}")
               .replace("price_completion = 0.60", f"price_completion = {text(p.completion)}"
                        f"\n    price_request = {text(p.request)}")
               .replace("slice_tokens = 40", f"slice_tokens = {(40, 7, 300, 1)[n % 4]}"))
        self.since.append((time.monotonic(), p))
        self.until.append(float("inf"))
        at = len(self.until) - 1
        with open(self.t.config_file + ".new", "w") as f:
            f.write(new)
        os.rename(self.t.config_file + ".new", self.t.config_file)
        r = self.t.ctl("reload", check=False)
        if r.returncode == 0 and json.loads(r.stdout)["ok"] and not json.loads(r.stdout)["late"]:
            for i in range(at):
                self.until[i] = min(self.until[i], time.monotonic())

    def possible(self, start, end):
        return [p for (since, p), until in zip(list(self.since), list(self.until))
                if since <= end and until >= start]


class Melee(unittest.TestCase):
    CLIENTS = 10

    def setUp(self):
        self.t = Tolld(workers=2, models=MODELS,
                       ledger="slice_tokens = 40 hold_ttl = 2 reconnect_grace = 1 max_holds = 60",
                       config="limits { ws_questions_per_minute = 0 } history { keep_sessions = 3 }\n"
                              "first_sight { grant = 0.0005 overdraft = 0.0001 }",
                       timeouts="first_token = 20")
        self.addCleanup(self.t.close)
        self.clock = Clock(BUILD, self.t.folder)
        self.t.env.update(self.clock.env)
        self.keyed, self.backup = True, None
        folder = os.path.join(self.t.folder, "bin")
        os.mkdir(folder)
        os.symlink(os.path.join(BUILD, "tokenizers"), os.path.join(folder, "tokenizers"))
        self.t.program = os.path.join(folder, "tolld")
        shutil.copy(os.path.join(BUILD, "tolld"), self.t.program)
        if "hang" in self._testMethodName:
            self.t.hang = 3
        self.t.extra = (self.t.extra[0] + "".join(OTHERS.format(
            dialect=d, url=f"http://127.0.0.1:{self.t.sim.port}{path}", even=EVEN)
            for d, path in (("anthropic", "/v1"), ("ollama", ""))),) + self.t.extra[1:]
        self.t.write_config()
        self.t.start()
        self.market = Market(self.t)
        self.rng = random.Random(SEED)
        self.keys = {}
        for name, options in {
                "rich": ("--balance", "1000"), "other": ("--balance", "1000", "--streams", "5"),
                "poor": ("--balance", "0.0004", "--overdraft", "0.0002"),
                "edge": ("--balance", "0.0004", "--overdraft", "0"),
                "daily": ("--balance", "1000", "--budget-day", "0.02"),
                "both": ("--balance", "1000", "--budget-day", "0.02", "--budget-month", "0.03"),
        }.items():
            self.t.ctl("account", "create", name, *options)
            self.keys[name] = self.t.ctl("key", "create", name)["key"]
        self.opened = 0
        self.users = self.t.ctl("key", "create", "edge", "--trust-user-header", "--cap", "0.05",
                                "--per", "day")["key"]
        for i in range(4):
            self.keys[f"owui:user{i}"] = self.users
        self.t.ctl("account", "create", "capped", "--balance", "1000")
        self.keys["capped"] = self.t.ctl("key", "create", "capped", "--cap", "0.02", "--per",
                                         "day")["key"]
        self.prompt = {m: self.t.request("POST", "/chat/preview", {"model": m, "message": MESSAGE},
                                         self.keys["rich"])[2]["prompt_tokens"] for m in EVERY}
        # All models say the same words: what is not their beginning was somebody else's.
        done = end_of(self.t.run(self.keys["rich"], MESSAGE, "burst"))[1]
        self.words, self.before = done["full_text"], {"rich": micro(done["cost"])}
        self.asked, self.lock = [], threading.Lock()
        self.over, self.faults = threading.Event(), []
        self.voids = []  # (start, end) of an operator's

    # Clients.

    def new(self, rng, choices=1, models=EVERY):
        with self.lock:
            a = Asked(len(self.asked), rng.choice(list(self.keys)), rng.choice(models), [], 0,
                      choices)
            a.prompt = self.prompt[a.model]
            a.start = time.monotonic()
            a.reserved_by = float("inf")
            self.asked.append(a)
            return a

    def headers(self, a, **more):
        if a.account.startswith("owui:"):
            more["X-OpenWebUI-User-Id"] = a.account[5:]
        return dict({"Authorization": "Bearer " + self.key(a), "X-Request-Id": a.id}, **more)

    def key(self, a):
        return self.keys.get(a.account, "gone")

    def post(self, a, path, body, **headers):
        """(status, body), or None where the connection was lost."""
        c = http.client.HTTPConnection("127.0.0.1", self.t.port, timeout=20 * SLOW)
        try:
            c.request("POST", path, json.dumps(body), self.headers(a, **headers))
            r = c.getresponse()
            return r.status, json.loads(r.read())
        except LOST as e:
            a.notes.append(repr(e))
            return None
        finally:
            c.close()

    def send(self, a, **headers):
        got = self.post(a, "/chat/send", {"model": a.model, "message": MESSAGE}, **headers)
        if got is None:
            return False
        status, body = got
        if status == 200:
            assert a.message_id in (None, body["message_id"]), (a, body)
            a.stream_id, a.message_id = body["stream_id"], body["message_id"]
            a.reserved_by = min(a.reserved_by, time.monotonic())
            return True
        # 401: a key that was revoked or has expired by now.
        assert status in (401, 402, 429, 503), (a, status, body)
        a.notes.append(status)
        return False

    def read(self, a, stop_after=None, last_id=None):
        """Read a stream's events, to the end or so many; the last id."""
        s, at, text, begin = None, 0, "", int(last_id.split("-")[0]) if last_id else 0
        try:
            s = Stream(self.t.port, f"/stream?id={a.stream_id}",
                       {"Last-Event-ID": last_id} if last_id else {}, timeout=20)
            if s.status != 200:
                a.notes.append(s.status)
                return None
            for event_id, data in s.events():
                e = json.loads(data)
                last_id = event_id or last_id
                if e["type"] == "metadata":
                    of = {k: e["data"][k] for k in ("stream_id", "message_id", "model")}
                    assert of == {"stream_id": a.stream_id, "message_id": a.message_id,
                                  "model": a.model}, (a, e)
                elif e["type"] == "token" and last_id is not None:
                    text += e["data"]["token"]
                    assert self.words.startswith(text, begin), (a, text)
                    a.received = max(a.received, begin + len(text))
                    assert int(last_id.split("-")[0]) == begin + len(text), (a, last_id)
                elif e["type"] in ("done", "error"):
                    if "cost" in e["data"] and self.settled(e):
                        a.hear(e["data"]["cost"])
                    return None
                at += 1
                if stop_after is not None and at >= stop_after:
                    return last_id
        except LOST as e:
            a.notes.append(repr(e))
        finally:
            if s is not None:
                s.close()
        return last_id

    @staticmethod
    def settled(e):
        """One that is told before it is on disk may be another."""
        return e["type"] == "done" or e["data"]["error"]["code"] != "journal_unavailable"

    def chat(self, rng, a):
        if self.send(a):
            self.read(a)

    def chat_comes_back(self, rng, a):
        if not self.send(a):
            return
        last = None
        for _ in range(rng.randrange(1, 5)):
            last = self.read(a, rng.randrange(1, 40), rng.choice((None, last)))
            if last is None:
                return
            time.sleep(rng.random() * rng.choice((0.05, 1.2)))
        if rng.random() < 0.5:
            self.read(a)

    def chat_two(self, rng, a):
        """Two watchers, of whom one cancels; or two who start it at the same instant."""
        if not self.send(a):
            return
        if rng.random() < 0.5:  # as it expires
            time.sleep(2 + rng.random() * 0.4 - 0.2)
        others = [threading.Thread(target=self.guarded, args=(self.read, a))
                  for _ in range(rng.randrange(1, 4))]
        for o in others:
            o.start()
        if rng.random() < 0.6:
            time.sleep(rng.random() * rng.choice((0.01, 1.5)))
            try:
                self.t.request("DELETE", "/stream?id=" + a.stream_id)
            except LOST as e:
                a.notes.append(repr(e))
        for o in others:
            o.join()

    def chat_never(self, rng, a):
        self.send(a)

    def chat_keyed(self, rng, a):
        key = {"Idempotency-Key": a.id}
        threads = [threading.Thread(target=self.guarded, args=(self.send, a), kwargs=key)
                   for _ in range(rng.randrange(1, 4))]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        for _ in range(rng.randrange(3)):
            time.sleep(rng.random() * 0.5)
            self.send(a, **key)
            if rng.random() < 0.3 and a.stream_id:
                self.read(a, rng.choice((3, None)))
        if a.stream_id:
            self.read(a)

    def v1_body(self, a, **fields):
        return dict({"model": a.model, "messages": [{"role": "user", "content": MESSAGE}],
                     "n": a.choices}, **fields)

    def v1_stream(self, rng, a, leave=None, **headers):
        """One of /v1's streams: a list of chunks, or None."""
        c = http.client.HTTPConnection("127.0.0.1", self.t.port, timeout=20 * SLOW)
        size, chunks, text = 0, 0, ""
        try:
            c.request("POST", "/v1/chat/completions",
                      json.dumps(self.v1_body(a, stream=True)), self.headers(a, **headers))
            r = c.getresponse()
            if r.status != 200:
                body = json.loads(r.read())
                a.notes.append((r.status, body["error"]["code"]))
                return
            a.reserved_by = min(a.reserved_by, time.monotonic())
            while True:
                line = r.readline()
                if not line:
                    break
                if not line.startswith(b"data: {"):
                    continue
                x = json.loads(line[6:])
                for choice in x.get("choices", ()):
                    size += len((choice["delta"].get("content") or "").encode())
                    if choice["index"] == 0:
                        text += choice["delta"].get("content") or ""
                assert self.words.startswith(text), (a, text)
                a.received = max(a.received, size)
                code = (x.get("error") or {}).get("code")
                if "tolld" in x and code != "journal_unavailable":
                    a.hear(x["tolld"]["cost"])
                chunks += 1
                if leave is not None and chunks >= leave:
                    return
        except LOST as e:
            a.notes.append(repr(e))
        finally:
            c.close()

    def v1(self, rng, a):
        self.v1_stream(rng, a, rng.choice((None, None, 1, 20)))

    def v1_keyed(self, rng, a):
        for _ in range(rng.randrange(1, 4)):
            self.v1_stream(rng, a, rng.choice((None, 1, 10, 30)), **{"Idempotency-Key": a.id})
            time.sleep(rng.random() * 0.5)
        self.v1_stream(rng, a, None, **{"Idempotency-Key": a.id})

    def v1_whole(self, rng, a, **headers):
        got = self.post(a, "/v1/chat/completions", self.v1_body(a), **headers)
        if got is None or got[0] != 200:
            a.notes.append(got)
            return
        a.reserved_by = min(a.reserved_by, time.monotonic())
        a.received = max(a.received, sum(len(c["message"]["content"].encode())
                                         for c in got[1]["choices"]))

    def v1_whole_keyed(self, rng, a):
        for _ in range(rng.randrange(1, 4)):
            self.v1_whole(rng, a, **{"Idempotency-Key": a.id})
            time.sleep(rng.random() * 0.3)

    def ws(self, rng, a):
        w = None
        try:
            w = WebSocket(self.t.port, f"/ws/chat/{a.account}", self.key(a),
                          headers=[f"{k}: {v}" for k, v in self.headers(a).items()
                                   if k != "Authorization"], timeout=20)
            w.ask(MESSAGE, model=a.model)
            size, n, leave = 0, 0, rng.choice((None, None, 5, 30))
            while True:
                m = w.next()
                if m["type"] != "chunk":
                    break
                size += len(m["content"].encode())
                a.received = max(a.received, size)
                n += 1
                if n == leave and rng.random() < 0.5:
                    return
                if n == leave:
                    w.send({"type": "cancel"})
            a.reserved_by = min(a.reserved_by, time.monotonic())
            if "cost" in m and m.get("code") != "journal_unavailable":
                a.hear(m["cost"])
                a.message_id, a.stream_id = m["message_id"], m["stream_id"]
        except (Refused, *LOST) as e:
            a.notes.append(repr(e))
        finally:
            if w is not None:
                w.sock.close()

    def messages(self, rng, a, **headers):
        """Anthropic's API, streaming or whole."""
        stream = rng.random() < 0.7
        c = http.client.HTTPConnection("127.0.0.1", self.t.port, timeout=20 * SLOW)
        size, n, leave = 0, 0, rng.choice((None, None, 1, 20))
        try:
            c.request("POST", "/v1/messages", json.dumps(
                {"model": a.model, "max_tokens": 500, "stream": stream,
                 "messages": [{"role": "user", "content": MESSAGE}]}), self.headers(a, **headers))
            r = c.getresponse()
            if r.status != 200:
                a.notes.append((r.status, r.read()[:200]))
                return
            a.reserved_by = min(a.reserved_by, time.monotonic())
            for line in r:
                if not line.startswith((b"data: {", b"{")):
                    continue
                x = json.loads(line.removeprefix(b"data: "))
                parts = x.get("content", ()) if not stream else (x.get("delta") or {},)
                size += sum(len(p.get("text", "").encode()) for p in parts)
                a.received = max(a.received, size)
                code = (x.get("error") or {}).get("code")
                if "tolld" in x and code != "journal_unavailable":
                    a.hear(x["tolld"]["cost"])
                n += 1
                if n == leave:
                    return
        except LOST as e:
            a.notes.append(repr(e))
        finally:
            c.close()

    def messages_keyed(self, rng, a):
        state = rng.getstate()
        for _ in range(rng.randrange(1, 4)):
            again = random.Random()
            again.setstate(state)  # the same body
            self.messages(again, a, **{"Idempotency-Key": a.id})
            time.sleep(rng.random() * 0.3)

    def forgetful(self, rng, a):
        """Its conversation is deleted while it runs."""
        got = self.post(a, "/chat/send", {"model": a.model, "message": MESSAGE})
        if got is None or got[0] != 200:
            return
        a.stream_id, a.message_id = got[1]["stream_id"], got[1]["message_id"]
        a.reserved_by = time.monotonic()
        watcher = threading.Thread(target=self.guarded, args=(self.read, a))
        watcher.start()
        time.sleep(rng.random() * 0.5)
        try:
            self.t.request("DELETE", "/chat/history?session_id=" + got[1]["session_id"],
                           key=self.key(a))
        except LOST as e:
            a.notes.append(repr(e))
        watcher.join()

    def piece(self, rng, a):
        """/api/chat, and its stream."""
        stream = rng.random() < 0.5
        c = http.client.HTTPConnection("127.0.0.1", self.t.port, timeout=20 * SLOW)
        try:
            c.request("POST", "/api/chat" + ("/stream" if stream else ""), json.dumps(
                {"model": a.model, "messages": [{"role": "user", "content": MESSAGE}]}),
                self.headers(a))
            r = c.getresponse()
            if r.status == 200:
                a.reserved_by = time.monotonic()
            size, n, leave = 0, 0, rng.choice((None, 3, 20))
            for line in r:
                if line.startswith(b"data: {"):
                    size += len((json.loads(line[6:]).get("content") or "").encode())
                elif r.status == 200 and line.startswith(b"{"):
                    size = len(json.loads(line)["message"].encode())
                a.received = max(a.received, size)
                n += 1
                if n == leave:
                    return
        except LOST as e:
            a.notes.append(repr(e))
        finally:
            c.close()

    def guarded(self, f, a, **kw):
        try:
            f(a, **kw)
        except Exception as e:  # for the report
            self.faults.append(f"{a}: {e!r}")

    def client(self, number):
        rng = random.Random(SEED * 1000 + number)
        ways = [(self.chat, 1), (self.chat_comes_back, 1), (self.chat_two, 1),
                (self.chat_never, 1), (self.chat_keyed, 1), (self.v1, 0), (self.v1_keyed, 0),
                (self.v1_whole, 0), (self.v1_whole_keyed, 0), (self.ws, 1), (self.forgetful, 1),
                (self.piece, 1), (self.messages, 1), (self.messages_keyed, 1)]
        if not self.keyed:
            ways = [w for w in ways if "keyed" not in w[0].__name__]
        while not self.over.is_set():
            way, chat = rng.choice(ways)
            choices = 1 if chat or rng.random() < 0.7 else rng.randrange(2, 4)
            a = self.new(rng, choices)
            a.notes.append(way.__name__)
            try:
                way(rng, a)
            except Exception as e:  # for the report
                self.faults.append(f"{a}: {e!r}")
            a.end = min(time.monotonic(), a.reserved_by)
            # Nobody listens while all of it is dead.
            down = any("ConnectionRefused" in str(n) for n in a.notes)
            self.over.wait(0.2 if down else rng.random() * 0.05)

    # The operator.

    def ctl(self, *args):
        return self.t.ctl(*args, check=False)

    def list(self, what):
        p = self.ctl(what, "list")
        return json.loads(p.stdout) if p.returncode == 0 else []

    def op_price(self, rng, n):
        self.market.change(n)

    def op_topup(self, rng, n):
        self.ctl("topup", rng.choice(("poor", "edge", "owui:user1")), "0.0005", "--ref", f"t{n}")

    def op_adjust(self, rng, n):
        self.ctl("adjust", rng.choice(("poor", "rich")), rng.choice(("-0.0003", "0.0001")),
                 "--reason", "melee")

    def op_overdraft(self, rng, n):
        self.ctl("account", "set", rng.choice(("poor", "edge")), "--overdraft",
                 rng.choice(("0", "0.0002", "0.001")))

    def op_budget(self, rng, n):
        self.ctl("account", "set", rng.choice(("daily", "both")), "--budget-day",
                 rng.choice(("0.001", "0.01", "1", "none")))

    def op_cancel(self, rng, n):
        for s in self.list("stream")[:rng.randrange(1, 4)]:
            self.ctl("stream", "cancel", s["stream_id"])

    def op_void(self, rng, n):
        start = time.monotonic()
        for h in self.list("hold")[:rng.randrange(1, 3)]:
            self.ctl("hold", "void", h["hold"])
        self.voids.append((start, time.monotonic()))

    def op_backup(self, rng, n):
        where = os.path.join(self.t.folder, f"backup{n}")
        if self.ctl("backup", where).returncode == 0:
            if self.backup:
                shutil.rmtree(self.backup)
            self.backup = where

    def op_key(self, rng, n):
        """Another one, and the one before it is revoked in mid-stream."""
        a = rng.choice(("rich", "other", "poor"))
        old = self.list_keys(a)
        p = self.ctl("key", "create", a)
        if p.returncode == 0:
            self.keys[a] = json.loads(p.stdout)["key"]
            for k in old:
                self.ctl("key", "revoke", k)

    def op_expiring(self, rng, n):
        """A key that expires in mid-stream."""
        p = self.ctl("key", "create", "other", "--ttl", "1s")
        if p.returncode == 0:
            self.keys["other"] = json.loads(p.stdout)["key"]
            time.sleep(1)
        p = self.ctl("key", "create", "other")
        if p.returncode == 0:
            self.keys["other"] = json.loads(p.stdout)["key"]

    def op_close(self, rng, n):
        """An account that is closed in mid-stream, for a new one."""
        old = f"short{self.opened}"
        if self.ctl("account", "create", f"short{n}", "--balance", "0.01").returncode != 0:
            return
        p = self.ctl("key", "create", f"short{n}")
        if p.returncode == 0:
            self.keys[f"short{n}"] = json.loads(p.stdout)["key"]
            if self.opened:
                self.ctl("account", "close", old)
                self.keys.pop(old, None)
            self.opened = n

    def op_drain(self, rng, n):
        self.ctl("drain", "--keep")
        time.sleep(rng.random() * 0.2)
        while self.ctl("drain", "--resume").returncode == 3:
            time.sleep(0.05)

    def list_keys(self, a):
        p = self.ctl("key", "list", a)
        return [k["key_id"] for k in json.loads(p.stdout)] if p.returncode == 0 else []

    OPERATIONS = ("op_price", "op_price", "op_topup", "op_topup", "op_adjust", "op_overdraft",
                  "op_budget", "op_cancel", "op_void", "op_backup", "op_key", "op_expiring",
                  "op_close", "op_drain")

    def operator(self):
        rng, n = random.Random(SEED + 7), 0
        while not self.over.is_set():
            n += 1
            try:
                getattr(self, rng.choice(self.OPERATIONS))(rng, n)
            except Exception as e:
                self.faults.append(f"operator: {e!r}")
            self.over.wait(rng.random() * 0.2)

    # What happens to the daemon.

    def kill_child(self, rng):
        kids = self.t.children()
        if kids:
            try:
                os.kill(kids[rng.choice(sorted(kids))], signal.SIGKILL)
            except ProcessLookupError:
                pass

    def upgrade(self, rng):
        with open(os.path.join(BUILD, "tolld"), "rb") as f:
            program = f.read()
        version = rng.choice((OTHER, VERSION))
        with open(self.t.program + ".new", "wb") as f:
            f.write(program.replace(VERSION.encode() + b"\0", version.encode() + b"\0"))
            os.fchmod(f.fileno(), 0o755)
        os.rename(self.t.program + ".new", self.t.program)
        self.t.process.send_signal(signal.SIGUSR2)

    def die(self, rng):
        """All of it, or its master alone."""
        kids = self.t.children()
        if rng.random() < 0.5:
            self.t.kill_all()
        else:
            self.t.process.kill()
            self.t.process.wait(10)
            for pid in kids.values():
                wait_for(lambda: not os.path.exists(f"/proc/{pid}"), 10, f"{pid} to be gone")
        self.t.start()

    def restart(self, rng):
        self.t.process.send_signal(rng.choice((signal.SIGTERM, signal.SIGINT)))
        self.assertEqual(self.t.process.wait(40 * SLOW), 0)
        self.t.start()

    def days_pass(self, rng):
        self.clock.forward(86400 * rng.choice((1, 1, 2, 31)))

    def now(self):
        return datetime.datetime.fromtimestamp(time.time() + self.clock.ahead(),
                                               datetime.timezone.utc)

    def nothing_leaked(self, replay):
        """Each seat is free, and of a cap is used what was charged under it."""
        today = self.now().isoformat()[:10]
        key, = self.t.ctl("key", "list", "capped")
        self.assertEqual(micro(key["used"]), sum(
            charge for h, charge, _ in replay.settled.values()
            if h["account"] == "capped" and h["time"][:10] == today))
        self.ctl("account", "set", "other", "--overdraft", "200")
        key = self.t.ctl("key", "create", "other")["key"]
        sent = [self.t.request("POST", "/chat/send", {"model": "quick", "message": "hi"}, key)
                for _ in range(6)]
        self.assertEqual([s[0] for s in sent], [200] * 5 + [429], sent)
        for _, _, body in sent[:5]:
            self.t.request("DELETE", "/stream?id=" + body["stream_id"])

    def restored(self):
        """A backup of the midst of it is whole."""
        if not self.backup:
            return
        folder = tempfile.mkdtemp(prefix="tolld-test-")
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        shutil.copytree(self.backup, os.path.join(folder, "state"))
        t = Tolld(folder=folder, sim=False, models=MODELS, env=self.clock.env)
        self.addCleanup(t.close)
        t.start()
        wait_for(lambda: t.ctl("hold", "list") == [], 20, "holds to be closed")
        t.audit()
        replay = Replay(exported(t))
        self.assertEqual(replay.open, {})
        for a, balance in replay.balance.items():
            self.assertEqual(micro(t.show(a)["balance"]), balance)
        self.assertEqual(t.stop(), 0)

    def compacted(self):
        """Without its old records the books say the same."""
        self.clock.forward(3 * 86400)
        before = {a["id"]: a["balance"] for a in self.t.ctl("account", "list")}
        self.ctl("compact")
        self.t.audit()
        self.assertEqual({a["id"]: a["balance"] for a in self.t.ctl("account", "list")}, before)

    def stall(self, rng):
        """A process stands still for a while, as with a disk that is silent or a host that sleeps:
        a keeper so long that nobody is kept waiting for it."""
        kids = self.t.children()
        name = rng.choice(("tolld: keeper", "tolld: keeper", "tolld: worker 1", "tolld: admin"))
        pid = kids.get(name)
        if pid is None:
            return
        try:
            os.kill(pid, signal.SIGSTOP)
            self.over.wait(rng.choice((0.5, 6.5 if "keeper" in name else 2)) * rng.random())
            if rng.random() < 0.3:
                self.kill_child(rng)
        finally:
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                pass

    def wait(self, _):
        return None

    def melee(self, *fates):
        threads = [threading.Thread(target=self.client, args=(i,)) for i in range(self.CLIENTS)]
        threads.append(threading.Thread(target=self.operator))
        for t in threads:
            t.start()
        try:
            end = time.monotonic() + SECONDS
            while time.monotonic() < end and not self.faults:
                self.over.wait(self.rng.random() * 0.8)
                self.rng.choice(fates)(self.rng)
        finally:
            self.over.set()
            for t in threads:
                t.join()
        wait_for(self.t.ready, 30, "the daemon to be ready")
        self.at_rest()

    def at_rest(self):
        wait_for(lambda: self.t.ctl("hold", "list") == [], 30, "holds to be closed")
        wait_for(lambda: self.t.sim.stats()["open"] == 0, 20, "the provider to be left")
        self.t.audit()
        for a in self.asked:
            a.prices = self.market.possible(a.start, a.end)
            a.may_be_void = any(s <= a.end + 5 and e >= a.start for s, e in self.voids)
            if a.stream_id:
                self.read(a)  # what everybody is told, now that it is over
        self.assertEqual(self.faults, [])
        replay = judge(self.t, self.asked, CACHED, SAID, self.now(), self.before)
        told = sum(a.told is not None for a in self.asked)
        if os.environ.get("TOLLD_MELEE"):
            print(f"{len(self.asked)} requests, {told} told, {len(replay.settled)} holds")
        self.assertGreater(told, 0)
        self.nothing_leaked(replay)
        self.compacted()
        self.assertEqual(self.t.stop(seconds=40), 0)
        for bad in ("AddressSanitizer", "runtime error:", "level=fatal", "refused by the keeper",
                    "contradict", "killed for"):
            self.assertNotIn(bad, self.t.log())
        self.restored()

    def test_peace(self):
        self.melee(self.wait)

    def test_children_die(self):
        self.melee(self.kill_child)

    def test_upgrades(self):
        self.melee(self.upgrade, self.upgrade, self.kill_child)

    def test_stalls(self):
        self.melee(self.stall)

    def test_hangs(self):
        """As above, and the master does not wait so long."""
        self.melee(self.stall)

    def test_all_die(self):
        self.melee(self.die, self.kill_child, self.upgrade, self.restart)

    def test_days_pass(self):
        # A key is forgotten after a day.
        self.keyed = False
        self.melee(self.days_pass, self.kill_child, self.upgrade, self.die)


if __name__ == "__main__":
    unittest.main()
