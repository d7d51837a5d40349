"""Goal:   a receipt says what a stream cost and why, to its own account alone: while it runs and
        however it ended, on every road, after a restart, for as long as its records are kept; and
        what it says adds up.
Method: streams of every end; each receipt is worked out again from its own tokens and prices, and
        held against the records that it names, as the operator's journal has them, against what the
        client was told, and against the balance.  Kills, lost memory, compaction, a deleted
        conversation, random prices, hostile parameters.
"""
import base64
import json
import os
import random
import signal
import subprocess
import unittest

import v1
import ws
from clock import Clock
from tolld import BUILD, Case, Tolld, end_of, micro, wait_for, within_a_day

RANDOM = random.Random(7)
KINDS = ("prompt", "cached", "cache_write", "completion", "reasoning", "request")


def priced(n):
    """A model of random prices, whose usage has every kind of token."""
    think = "a thought of bridges " * RANDOM.randrange(0, 4)
    prompt, tokens = RANDOM.randrange(10, 60), RANDOM.randrange(40, 90)
    script = (f"sim:tokens={tokens},prompt={prompt},cached={RANDOM.randrange(0, prompt)},"
              f"reason={RANDOM.randrange(0, 30)}")
    if think:
        script += f",think={think}"
    prices = " ".join(f"price_{k} = {RANDOM.randrange(0, 10 ** RANDOM.randrange(1, 8)) / 1e6:.6f}"
                      for k in ("cache_write", "reasoning", "request"))
    return script, prices


MODELS = {
    "short": "sim:tokens=5,prompt=10",
    "usageless": "sim:tokens=30,lang=even,usage=no",
    "slow": "sim:tokens=4000,rate=100,lang=even,usage=no",
    "dear": "sim:tokens=40000,lang=even,usage=no",
    "cut": "sim:fault=cut@12,tokens=40,lang=even,usage=no",
    "dead": "sim:status=500",
    "over": "sim:tokens=20,prompt=10,lang=even,usage=over:400",
    "nobody": "nobody",
    **{f"random{n}": priced(n) for n in range(12)},
}
OPTIONS = dict(workers=2, models=MODELS,
               ledger="slice_tokens = 20 reconnect_grace = 1 hold_ttl = 12")


def secret(stream_id):
    return bytearray(base64.urlsafe_b64decode(stream_id + "===="))


def share(lines):
    """What the lines come to by the rule: summed exactly, and rounded up once."""
    total = sum(line.get("tokens", 1000000) * micro(line["price"]) for line in lines)
    return -(-total // 1000000)


class Reader:
    """What a person does, and an operator who looks over his shoulder."""

    def person(self, *credit):
        Reader.people = getattr(Reader, "people", 0) + 1
        name = f"person{Reader.people}"
        return name, self.t.account(name, *(credit or ("100",)))

    def get(self, key, stream_id):
        return self.t.request("GET", f"/receipt?id={stream_id}", key=key)

    def receipt(self, key, stream_id):
        status, headers, body = self.get(key, stream_id)
        self.assertEqual(status, 200, body)
        self.assertEqual(headers["Cache-Control"], "no-store")
        self.assertEqual(body["id"], stream_id)
        return body

    def ended(self, key, stream_id):
        """A receipt of what has ended, which adds up and is what the journal says."""
        r = wait_for(lambda: (lambda x: x if x["state"] == "ended" else None)(
            self.receipt(key, stream_id)), 15, "the stream to be settled")
        self.adds_up(r)
        self.agrees(r)
        return r

    def adds_up(self, r):
        self.assertEqual(share(r["lines"]), micro(r["total"]), r)
        self.assertEqual(sum(micro(line["amount"]) for line in r["lines"]), micro(r["total"]), r)
        self.assertEqual(micro(r["total"]), micro(r["charged"]) + micro(r["uncollected"]), r)
        for line in r["lines"]:
            exact = line.get("tokens", 1000000) * micro(line["price"])
            self.assertLess(abs(micro(line["amount"]) * 1000000 - exact), 1000000, r)
        u = r["usage"]
        of = {line["kind"]: line.get("tokens") for line in r["lines"]}
        self.assertEqual(of.get("prompt", 0) + of.get("cache_write", 0) + of.get("cached", 0),
                         u["prompt_tokens"])
        self.assertEqual(of.get("completion", 0) + of.get("reasoning", 0), u["completion_tokens"])
        self.assertEqual((of.get("cached", 0), of.get("cache_write", 0), of.get("reasoning", 0)),
                         (u["cached_tokens"], u["cache_write_tokens"], u["reasoning_tokens"]))
        self.assertEqual(u["prompt_tokens"] + u["completion_tokens"], u["total_tokens"])
        times = [r[k] for k in ("created_at", "opened_at", "first_token_at", "ended_at")
                 if r[k] is not None]
        self.assertEqual(times, sorted(times))

    def agrees(self, r):
        """With the records that it names."""
        records = {x["sequence"]: x for x in self.t.ctl("journal")}
        reserve, end = (records[r["journal"][k]] for k in ("reserve", "settle"))
        self.assertEqual((reserve["type"], reserve["message_id"], reserve["model"],
                          micro(reserve["amount"])),
                         ("reserve", r["message_id"], r["model"], micro(r["reserved"])))
        self.assertEqual((end["slot"], end["account"], end["outcome"], end.get("provider"),
                          end.get("counted_by"), end.get("short_of")),
                         (reserve["slot"], reserve["account"], r["outcome"], r["provider"],
                          r["counted_by"] if r["provider"] else None, r.get("short_of")))
        if end["type"] == "void":
            self.assertEqual((r["charged"], r["lines"], r["total"]), (0, [], 0))
            return
        self.assertEqual((micro(end["amount"]), micro(end["uncollected"])),
                         (micro(r["charged"]), micro(r["uncollected"])))
        prices = {line["kind"]: line["price"] for line in r["lines"]}
        self.assertEqual(prices, {k: end["price_" + k] for k in KINDS if "price_" + k in end})

    def run_one(self, key, model, **fields):
        """(its id, the last event's type and data)"""
        sent = self.t.send(key, "hello " * 20, model, **fields)
        s = self.t.open(sent["stream_id"])
        events = list(s.typed())
        s.close()
        return sent["stream_id"], *end_of(events)


class Receipts(Reader, Case):
    OPTIONS = OPTIONS

    def tearDown(self):
        self.invariants()

    # However it ends.

    def test_it_ended_well(self):
        name, key = self.person()
        sent = self.t.send(key, "hello", "short")
        s = self.t.open(sent["stream_id"])
        _, done = end_of(list(s.typed()))
        s.close()
        r = self.ended(key, sent["stream_id"])
        self.assertEqual((r["session_id"], r["message_id"], r["model"], r["provider"]),
                         (sent["session_id"], sent["message_id"], "short", "sim"))
        self.assertEqual((r["finish_reason"], r["outcome"], r["counted_by"]),
                         (done["finish_reason"], done["finish_reason"], "provider"))
        self.assertEqual({k: r["usage"][k] for k in done["usage"]}, done["usage"])
        self.assertEqual(micro(r["charged"]), micro(done["cost"]))
        self.assertEqual(micro(r["reserved"]), micro(sent["reserved"]))
        self.assertEqual(r["uncollected"], 0)
        self.assertNotIn("short_of", r)
        self.assertNotIn("held", r)
        self.assertEqual(r["lines"], [
            {"kind": "prompt", "tokens": 10, "price": 0.15, "amount": 0.000002},
            {"kind": "completion", "tokens": 5, "price": 0.6, "amount": 0.000003}])
        for k in ("created_at", "opened_at", "first_token_at", "ended_at"):
            self.assertIsInstance(r[k], float)
        self.assertEqual(r, self.receipt(key, sent["stream_id"]))
        self.assertEqual(100000000 - micro(self.t.show(name)["balance"]), micro(r["charged"]))

    def test_our_count(self):
        _, key = self.person()
        stream, _, done = self.run_one(key, "usageless")
        r = self.ended(key, stream)
        self.assertEqual((r["counted_by"], r["usage"]["completion_tokens"]), ("tolld", 30))
        self.assertEqual(micro(r["charged"]), micro(done["cost"]))

    def test_random_prices(self):
        """And usages with nearly every kind (cache_write: test_dialects.py)."""
        name, key = self.person()
        charged, kinds, counted = 0, set(), set()
        for n in range(12):
            stream, kind, done = self.run_one(key, f"random{n}")
            self.assertEqual(kind, "done")
            r = self.ended(key, stream)
            self.assertEqual(micro(r["charged"]), micro(done["cost"]))
            charged += micro(r["charged"])
            kinds |= {line["kind"] for line in r["lines"]}
            counted.add(r["counted_by"])
        self.assertEqual(kinds, set(KINDS) - {"cache_write"})
        self.assertIn("provider", counted)
        self.assertEqual(100000000 - micro(self.t.show(name)["balance"]), charged)

    def test_prices_of_its_reserve(self):
        _, key = self.person()
        sent = self.t.send(key, "hello", "short")
        self.t.ctl("price", "set", "short", "completion", "600")
        try:
            s = self.t.open(sent["stream_id"])
            list(s.typed())
            s.close()
            first = self.ended(key, sent["stream_id"])
            second = self.ended(key, self.run_one(key, "short")[0])
        finally:
            self.t.ctl("price", "reset", "short", "all")
        self.assertEqual([x["lines"][1]["price"] for x in (first, second)], [0.6, 600])
        self.assertEqual([micro(x["charged"]) for x in (first, second)], [5, 3002])
        self.assertEqual(self.receipt(key, first["id"]), first)

    def test_cut_for_want_of_credit(self):
        within_a_day()
        for what, options, limits in (("credit", ("0.0005", "0"), ()),
                                      ("budget_day", (), ("--budget-day", "0.0005")),
                                      ("budget_month", (), ("--budget-month", "0.0005")),
                                      ("key_cap", (), None)):
            with self.subTest(what):
                name, key = self.person(*options)
                if limits:
                    self.t.ctl("account", "set", name, *limits)
                if limits is None:
                    key = self.t.ctl("key", "create", name, "--cap", "0.0005", "--per", "day")[
                        "key"]
                stream, _, done = self.run_one(key, "dear")
                r = self.ended(key, stream)
                self.assertEqual((done["finish_reason"], done["short_of"]), ("credit", what))
                self.assertEqual((r["finish_reason"], r["outcome"], r["short_of"]),
                                 ("credit", "credit", what))
                self.assertEqual((r["uncollected"], r["counted_by"]), (0, "tolld"))
                # And the history of it, too.
                page = self.t.request("GET", f"/chat/history?session_id={r['session_id']}",
                                      key=key)[2]
                self.assertEqual((page["messages"][1]["status"], page["messages"][1]["short_of"]),
                                 ("cut", what))

    def test_more_than_the_account_can_bear(self):
        name, key = self.person("0.00008", "0")
        stream, _, done = self.run_one(key, "over", max_tokens=100000)
        r = self.ended(key, stream)
        if r["counted_by"] == "provider":
            self.assertGreater(r["uncollected"], 0)
        self.assertEqual(micro(self.t.show(name)["balance"]), 80 - micro(r["charged"]))
        self.assertEqual(micro(r["charged"]), micro(done["cost"]))

    def test_cancelled(self):
        _, key = self.person()
        sent = self.t.send(key, "hello", "slow")
        s = self.t.open(sent["stream_id"])
        events = s.typed()
        while next(events)["type"] != "token":
            pass
        self.t.request("DELETE", f"/stream?id={sent['stream_id']}")
        s.close()
        r = self.ended(key, sent["stream_id"])
        self.assertEqual((r["finish_reason"], r["provider"], r["counted_by"]),
                         ("cancelled", "sim", "tolld"))
        self.assertGreater(r["charged"], 0)

    def test_never_opened(self):
        _, key = self.person()
        sent = self.t.send(key, "hello", "short")
        r = self.receipt(key, sent["stream_id"])
        self.assertEqual((r["state"], r["provider"], r["opened_at"], r["ended_at"]),
                         ("waiting", None, None, None))
        self.assertEqual((r["held"], r["lines"], r["total"]), (sent["reserved"], [], 0))
        r = self.ended(key, sent["stream_id"])
        self.assertEqual((r["outcome"], r["finish_reason"], r["charged"], r["provider"],
                          r["counted_by"]), ("expired", "error", 0, None, None))

    def test_the_provider_failed(self):
        _, key = self.person()
        for model, provider in (("dead", "sim"), ("nobody", "nobody")):
            stream, kind, _ = self.run_one(key, model)
            r = self.ended(key, stream)
            self.assertEqual((kind, r["outcome"], r["provider"], r["charged"]),
                             ("error", "upstream_error", provider, 0))
            self.assertIsNotNone(r["opened_at"])
            self.assertIsNone(r["first_token_at"])
            self.assertIsNone(r["counted_by"])
        stream, kind, end = self.run_one(key, "cut")
        r = self.ended(key, stream)
        self.assertEqual((kind, r["outcome"], r["finish_reason"], r["counted_by"]),
                         ("error", "upstream_error", "error", "tolld"))
        self.assertIsNotNone(r["first_token_at"])
        self.assertEqual(r["usage"]["completion_tokens"], 12)
        self.assertEqual(micro(r["charged"]), micro(end["cost"]))

    def test_voided_by_an_operator(self):
        name, key = self.person()
        sent = self.t.send(key, "hello", "slow")
        s = self.t.open(sent["stream_id"])
        events = s.typed()
        while next(events)["type"] != "token":
            pass
        hold = [h["hold"] for h in self.t.ctl("hold", "list") if h["account"] == name][0]
        self.t.ctl("hold", "void", hold)
        s.close()
        r = self.ended(key, sent["stream_id"])
        self.assertEqual((r["finish_reason"], r["charged"], r["provider"]), ("cancelled", 0, "sim"))
        self.assertIsNotNone(r["first_token_at"])

    def test_while_it_runs(self):
        """From every worker: what is held, what was metered, what it would cost so far."""
        _, key = self.person()
        sent = self.t.send(key, "hello", "slow")
        s = self.t.open(sent["stream_id"])
        events = s.typed()
        while next(events)["type"] != "meter":
            pass
        tokens = 0
        for _ in range(12):  # accepted by both workers
            r = self.receipt(key, sent["stream_id"])
            self.assertEqual((r["state"], r["ended_at"], r["counted_by"]),
                             ("running", None, "tolld"))
            self.assertNotIn("charged", r)
            self.assertNotIn("finish_reason", r)
            self.assertNotIn("settle", r["journal"])
            self.assertGreaterEqual(r["usage"]["completion_tokens"], tokens)
            tokens = r["usage"]["completion_tokens"]
            self.assertGreater(tokens, 0)
            self.assertEqual(share(r["lines"]), micro(r["total"]))
            self.assertLessEqual(micro(r["total"]), micro(r["held"]))
            self.assertGreater(micro(r["held"]), micro(r["reserved"]))
        self.t.request("DELETE", f"/stream?id={sent['stream_id']}")
        s.close()
        self.ended(key, sent["stream_id"])

    # On every road.

    def test_v1(self):
        _, key = self.person()
        chat = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
        for path, fields, model in (
                ("/v1/chat/completions", {}, "short"),
                ("/v1/chat/completions", {"stream": True}, "short"),
                ("/v1/messages", {}, "short"), ("/v1/messages", {"stream": True}, "short"),
                ("/v1/embeddings", {"input": "hello"}, "short"),
                ("/api/chat", {}, "short"), ("/api/chat/stream", {}, "short"),
                ("/v1/chat/completions", {}, "dead"), ("/v1/messages", {}, "dead"),
                ("/api/chat", {}, "dead")):
            with self.subTest(f"{path} {fields} {model}"):
                send = dict(chat, model=model, **fields)
                if "input" in send:
                    del send["messages"]
                status, headers, body = self.t.request("POST", path, send, key)
                self.assertEqual(status, 502 if model == "dead" else 200, body)
                r = self.ended(key, headers["x-tolld-stream-id"])
                self.assertEqual((r["model"], r["provider"]), (model, "sim"))
                self.assertEqual(r["charged"] > 0, model != "dead")
                if "x-tolld-cost" in headers:
                    self.assertEqual(micro(headers["x-tolld-cost"]), micro(r["charged"]))

    def test_a_request_that_is_repeated(self):
        """There is one stream, and one receipt."""
        _, key = self.person()
        again = {"Idempotency-Key": "one"}
        for fields in ({}, {"stream": True}):
            a, b = (v1.chat(self.t, key, "short", headers=again, **fields) for _ in range(2))
            self.assertEqual(b.headers["idempotent-replayed"], "true")
            self.assertEqual(a.headers["x-tolld-stream-id"], b.headers["x-tolld-stream-id"])
            self.ended(key, a.headers["x-tolld-stream-id"])
            again = {"Idempotency-Key": "two"}

    def test_a_web_socket(self):
        name, key = self.person()
        with ws.WebSocket(self.t.port, f"/ws/chat/{name}", key) as c:
            c.ask(model="short")
            _, end = c.answer()
        r = self.ended(key, end["stream_id"])
        self.assertEqual(micro(r["charged"]), micro(end["cost"]))

    # Whose it is.

    def test_other_accounts_and_keys(self):
        name, key = self.person()
        _, other = self.person()
        stream, _, _ = self.run_one(key, "short")
        r = self.ended(key, stream)
        never = self.get(other, "A" * 28)
        self.assertEqual(never[0], 404)
        got = self.get(other, stream)
        self.assertEqual((got[0], got[2]), (404, never[2]))
        # Any key of the account, whatever else it may do.
        for scope in ("chat", "embeddings"):
            k = self.t.ctl("key", "create", name, "--scope", scope)["key"]
            self.assertEqual(self.receipt(k, stream), r)
        dead = self.t.ctl("key", "create", name)
        self.t.ctl("key", "revoke", dead["key_id"])
        self.assertEqual(self.get(dead["key"], stream)[0], 401)
        self.assertEqual(self.get(None, stream)[0], 401)
        self.assertEqual(self.get("nonsense", stream)[0], 401)

    def test_ids_that_are_none(self):
        _, key = self.person()
        stream, _, _ = self.run_one(key, "short")
        self.ended(key, stream)
        for missing in ("", "?id=", "?ID=" + stream):
            status, _, body = self.t.request("GET", "/receipt" + missing, key=key)
            self.assertEqual((status, body["error"]["param"]), (400, "id"))
        for bad in ("x", stream[:-1], stream + "A", stream + "%00", "%zz", "../" + stream,
                    "A" * 28, "A" * 5000, "%ff" * 28, stream.swapcase()):
            status, _, body = self.t.request("GET", f"/receipt?id={bad}", key=key)
            self.assertEqual((status, body["error"]["code"]), (404, "not_found"), bad)
        # The right secret with another process or generation is another id.
        for at in (16, 17, 20):
            raw = secret(stream)
            raw[at] ^= 1
            forged = base64.urlsafe_b64encode(raw).decode().rstrip("=")
            self.assertEqual(self.get(key, forged)[0], 404)
        self.assertEqual(self.t.request("HEAD", f"/receipt?id={stream}", key=key)[0], 200)
        for method in ("POST", "PUT", "DELETE"):
            self.assertEqual(self.t.request(method, f"/receipt?id={stream}", key=key)[0], 405)

    def test_a_conversation_that_is_deleted(self):
        """The words go; the proof of the charge stays."""
        _, key = self.person()
        stream, _, _ = self.run_one(key, "short")
        r = self.ended(key, stream)
        self.assertEqual(self.t.request("DELETE", f"/chat/history?session_id={r['session_id']}",
                                        key=key)[0], 200)
        self.assertEqual(self.receipt(key, stream), r)

    def test_what_a_receipt_holds(self):
        """Nothing of what was said."""
        _, key = self.person()
        sent = self.t.send(key, "a secret of mine", "short")
        s = self.t.open(sent["stream_id"])
        _, done = end_of(list(s.typed()))
        s.close()
        text = json.dumps(self.ended(key, sent["stream_id"]))
        self.assertNotIn("a secret of mine", text)
        self.assertNotIn(done["full_text"], text)

    def test_operators_see_it_in_the_journal(self):
        name, key = self.person()
        stream, _, _ = self.run_one(key, "short")
        r = self.ended(key, stream)
        record = next(x for x in self.t.ctl("journal", "--account", name)
                      if x["sequence"] == r["journal"]["settle"])
        self.assertEqual((record["provider"], record["attempts"], record["counted_by"]),
                         ("sim", 1, "provider"))
        self.assertGreaterEqual(record["first_token_ms"], record["opened_ms"])
        p = subprocess.run([os.path.join(BUILD, "tollctl"), "-s", self.t.socket, "export",
                            "--format", "csv", "--account", name], capture_output=True, text=True)
        self.assertIn("provider,attempts,opened_ms,first_token_ms,counted_by,short_of", p.stdout)
        self.assertIn(",sim,1,", p.stdout)


class Deaths(Reader, unittest.TestCase):
    """A daemon for each test."""

    def setUp(self):
        self.t = Tolld(**dict(OPTIONS, ledger="slice_tokens = 20 hold_ttl = 60"))
        self.addCleanup(self.t.close)
        self.clock = Clock(BUILD, self.t.folder)
        self.t.env.update(self.clock.env)
        self.t.start()
        self.name, self.key = self.person()

    def tearDown(self):
        wait_for(lambda: self.t.ctl("hold", "list") == [], 10, "holds to be closed")
        self.t.audit()
        self.assertEqual(self.t.stop(), 0, self.t.log()[-2000:])

    def running(self):
        """A stream under way, past its first slice."""
        sent = self.t.send(self.key, "hello", "slow")
        s = self.t.open(sent["stream_id"])
        self.addCleanup(s.close)
        events, n = s.typed(), 0
        while n < 45:
            n += next(events)["type"] == "token"
        return sent["stream_id"]

    def restart(self):
        self.assertEqual(self.t.stop(), 0, self.t.log()[-2000:])
        self.t.start()

    def test_a_worker(self):
        stream = self.running()
        os.kill(self.t.children()[f"tolld: worker {secret(stream)[16] - 2}"], signal.SIGKILL)
        r = self.ended(self.key, stream)
        self.assertEqual((r["outcome"], r["finish_reason"], r["provider"], r["counted_by"]),
                         ("worker_died", "error", None, "tolld"))
        self.assertGreaterEqual(r["usage"]["completion_tokens"], 45)
        self.assertEqual(100000000 - micro(self.t.show(self.name)["balance"]), micro(r["charged"]))

    def test_everything(self):
        done, _, _ = self.run_one(self.key, "short")
        before = self.ended(self.key, done)
        stream, waiting = self.running(), self.t.send(self.key, "hello", "short")["stream_id"]
        self.t.kill_all()
        self.t.start()
        self.assertEqual(self.receipt(self.key, done), before)
        self.assertEqual(self.ended(self.key, stream)["outcome"], "worker_died")
        self.assertEqual(self.ended(self.key, waiting)["charged"], 0)

    def test_the_memory_lost(self):
        """As after a power cut: at its last mark."""
        stream = self.running()
        self.t.kill_all()
        os.unlink(os.path.join(self.t.folder, "run", "ledger.shm"))
        self.t.start()
        r = self.ended(self.key, stream)
        self.assertEqual((r["outcome"], r["counted_by"]), ("worker_died", "tolld"))
        self.assertGreaterEqual(r["usage"]["completion_tokens"], 20)

    def test_a_restart_and_a_rebuild(self):
        streams = [self.run_one(self.key, m)[0] for m in ("short", "cut", "dead", "random3")]
        before = [self.ended(self.key, s) for s in streams]
        self.restart()
        self.assertEqual([self.ended(self.key, s) for s in streams], before)
        self.assertEqual(self.t.stop(), 0)
        for name in ("state.mdb", "state.mdb-lock"):
            os.unlink(os.path.join(self.t.folder, "state", name))
        self.t.start()
        self.assertEqual([self.ended(self.key, s) for s in streams], before)
        # And long after its text is gone.
        self.clock.forward(40 * 86400)
        self.assertEqual([self.receipt(self.key, s) for s in streams], before)

    def test_a_compaction(self):
        """A receipt goes with its records, and no sooner."""
        old = [self.run_one(self.key, m)[0] for m in ("short", "cut", "dead")]
        before = [self.ended(self.key, s) for s in old]
        self.clock.forward(3 * 86400)
        new = self.run_one(self.key, "short")[0]
        after = self.ended(self.key, new)
        self.assertEqual([self.receipt(self.key, s) for s in old], before)
        running = self.running()
        p = subprocess.run([os.path.join(BUILD, "tollctl"), "-s", self.t.socket, "--json",
                            "compact", "--keep", "1d"], capture_output=True, text=True,
                           env=dict(os.environ, **self.clock.env), timeout=60)
        self.assertEqual(p.returncode, 0, p.stdout + p.stderr)
        self.assertGreater(json.loads(p.stdout)["removed"], 6)
        for s in old:
            self.assertEqual(self.get(self.key, s)[0], 404)
        self.assertEqual(self.receipt(self.key, new), after)
        self.assertEqual(self.receipt(self.key, running)["state"], "running")
        self.t.request("DELETE", f"/stream?id={running}")
        self.ended(self.key, running)
        self.restart()
        self.assertEqual(self.receipt(self.key, new), after)
        self.assertEqual(self.get(self.key, old[0])[0], 404)

    def test_a_want_is_known_after_a_restart(self):
        """Who comes back to a stream hears what cut it, whichever process answers."""
        self.t.ctl("account", "set", self.name, "--budget-day", "0.0005")
        stream, _, done = self.run_one(self.key, "dear")
        self.assertEqual(done["short_of"], "budget_day")
        self.restart()
        s = self.t.open(stream)
        _, again = end_of(list(s.typed()))
        s.close()
        self.assertEqual((again["finish_reason"], again["short_of"]), ("credit", "budget_day"))
        self.assertEqual(self.ended(self.key, stream)["short_of"], "budget_day")


if __name__ == "__main__":
    unittest.main()
