"""Goal:   the main road: preview, send, stream, settle, in every dialect, with the contract's fields.
Method: a real daemon with two workers, so that requests land on either, and plain HTTP clients.
"""
import json
import re
import subprocess
import unittest

from tolld import PRICE_PROMPT, Case, Stream, cost, end_of, micro, text_of, wait_for


class Flow(Case):
    OPTIONS = dict(workers=2, models={
        "short": "sim:tokens=12",
        "russian": "sim:tokens=40,lang=ru",
        "emoji": "sim:tokens=30,lang=emoji,split=1",
        "slow": "sim:tokens=400,rate=40",
        "twice": "sim:tokens=40001,rate=200",
        "echo": "sim:echo=1",
        "crlf": "sim:tokens=20,eol=crlf,comments=1,pack=5,batch=2",
    }, ledger="slice_tokens = 50")

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.key = cls.t.account("alice", "1000")

    def test_preview_takes_nothing(self):
        before = self.t.show("alice")
        status, _, body = self.t.request("POST", "/chat/preview",
                                         {"model": "short", "message": "hi"}, self.key)
        self.assertEqual(status, 200)
        self.assertEqual(sorted(body), sorted([
            "model", "prompt_tokens", "max_completion_tokens", "estimated_cost", "max_cost",
            "balance", "held", "available", "overdraft", "allowed"]))
        self.assertIs(body["allowed"], True)
        self.assertEqual(micro(body["max_cost"]),
                         cost(body["prompt_tokens"], body["max_completion_tokens"]))
        self.assertEqual(self.t.show("alice"), before)

    def test_send_reserves_and_stream_settles(self):
        before = self.t.show("alice")
        sent = self.t.send(self.key, "tell me", "short")
        self.assertEqual(sorted(sent), sorted([
            "ok", "stream_id", "session_id", "message_id", "reserved", "available",
            "expires_at", "stream_url"]))
        held = self.t.show("alice")
        self.assertEqual(held["balance"], before["balance"])
        self.assertEqual(micro(held["held"]), micro(sent["reserved"]))
        s = Stream(self.t.port, sent["stream_url"])
        self.assertEqual(s.status, 200)
        self.assertEqual(s.response.headers["Content-Type"], "text/event-stream")
        self.assertEqual(s.response.headers["Cache-Control"], "no-cache, no-transform")
        self.assertEqual(s.response.headers["X-Accel-Buffering"], "no")
        events = list(s.typed())
        self.assertEqual(events[0]["type"], "metadata")
        for field in ("stream_id", "session_id", "message_id"):
            self.assertEqual(events[0]["data"][field], sent[field])
        kind, done = end_of(events)
        self.assertEqual(kind, "done")
        self.assertEqual(done["finish_reason"], "stop")
        self.assertEqual(done["full_text"], text_of(events))
        usage = done["usage"]
        self.assertEqual(usage["completion_tokens"], 12)
        self.assertEqual(usage["total_tokens"], usage["prompt_tokens"] + 12)
        self.assertEqual(micro(done["cost"]), cost(usage["prompt_tokens"], 12))
        after = self.t.show("alice")
        self.assertEqual(micro(after["balance"]), micro(before["balance"]) - micro(done["cost"]))
        self.assertEqual(micro(done["balance"]), micro(after["balance"]))
        self.invariants()

    def test_every_dialect_says_the_same(self):
        texts = {}
        for fmt in ("typed", "openai", "content", "text"):
            sent = self.t.send(self.key, "tell me", "russian")
            s = self.t.open(sent["stream_id"], fmt)
            if fmt == "typed":
                texts[fmt] = text_of(list(s.typed()))
            elif fmt == "text":
                texts[fmt] = s.response.read().decode()
            else:
                pairs = list(s.events())
                self.assertEqual(pairs[-1][1], "[DONE]")
                self.assertTrue(all(i is None for i, _ in pairs), "no id: lines")
                chunks = [json.loads(d) for _, d in pairs[:-1]]
                if fmt == "content":
                    texts[fmt] = "".join(c["content"] for c in chunks)
                else:
                    texts[fmt] = "".join(c["choices"][0]["delta"].get("content") or ""
                                         for c in chunks if c["choices"])
                    self.assertEqual(chunks[0]["object"], "chat.completion.chunk")
        self.assertEqual(len(set(texts.values())), 1, texts)

    def test_openai_dialect_gives_usage_when_asked(self):
        sent = self.t.send(self.key, "tell me", "short", stream_options={"include_usage": True})
        chunks = [json.loads(d) for _, d in self.t.open(sent["stream_id"], "openai").events()
                  if d != "[DONE]"]
        self.assertEqual(chunks[-1]["choices"], [])
        self.assertEqual(chunks[-1]["usage"]["completion_tokens"], 12)

    def test_post_stream_and_alias(self):
        sent = self.t.send(self.key, "tell me", "short")
        s = Stream(self.t.port, "/chat/stream", method="POST",
                   body=json.dumps({"id": sent["stream_id"]}))
        self.assertEqual(end_of(list(s.typed()))[0], "done")

    def test_split_characters_arrive_whole(self):
        for model in ("emoji", "crlf"):
            events = self.t.run(self.key, "tell me", model)
            kind, done = end_of(events)
            self.assertEqual(kind, "done")
            self.assertEqual(done["full_text"], text_of(events))
            self.assertNotIn("\ufffd", done["full_text"])

    def test_sampling_fields_reach_the_provider(self):
        events = self.t.run(self.key, "say \"it\"", "echo", temperature=0.25, seed=7,
                            stop=["\n\n"], max_tokens=4000)
        got = json.loads(end_of(events)[1]["full_text"])
        self.assertEqual(got["temperature"], 0.25)
        self.assertEqual(got["seed"], 7)
        self.assertEqual(got["stop"], ["\n\n"])
        self.assertEqual(got["max_tokens"], 4000)
        self.assertEqual(got["stream_options"], {"include_usage": True})
        self.assertEqual(got["messages"], [{"role": "user", "content": "say \"it\""}])
        self.assertNotIn("message", got)
        self.assertNotIn("session_id", got)

    def test_ids_are_offsets_and_resume(self):
        sent = self.t.send(self.key, "tell me", "russian")
        s = self.t.open(sent["stream_id"])
        seen, text = [], ""
        for event_id, data in s.events():
            seen.append((event_id, json.loads(data)))
        text = text_of([d for _, d in seen])
        offset = 0
        for event_id, d in seen:
            if d["type"] == "token":
                offset += len(d["data"]["token"].encode())
                self.assertEqual(event_id, str(offset))
            else:
                self.assertRegex(event_id, r"^\d+-[a-z]$")
        # From each event on: what is left, no more and no less.
        for event_id, d in seen[::7]:
            again = list(self.t.open(sent["stream_id"], last_id=event_id).typed())
            at = int(re.match(r"\d+", event_id).group())
            self.assertEqual(text_of(again), text.encode()[at:].decode())
        self.assertEqual(self.t.open(sent["stream_id"], last_id=seen[-1][0]).status, 204)

    def test_second_watcher_attaches_to_the_running_stream(self):
        sent = self.t.send(self.key, "tell me", "twice")
        first = self.t.open(sent["stream_id"])
        it = first.typed()
        while next(it)["type"] != "token":
            pass
        second = self.t.open(sent["stream_id"])
        also, b = second.typed(), []
        while not b or b[-1]["type"] != "meter":  # there is one at each slice
            b.append(next(also))
        self.t.request("DELETE", "/stream?id=" + sent["stream_id"])
        a, b = list(it), b + list(also)
        self.assertEqual(end_of(a)[1]["full_text"], end_of(b)[1]["full_text"])
        self.assertEqual(text_of(b), end_of(b)[1]["full_text"])
        wait_for(lambda: any("tokens=40001" in r["model"] for r in self.t.sim.requests()), 10,
                 "the provider to see its end")
        calls = [r for r in self.t.sim.requests() if "tokens=40001" in r["model"]]
        self.assertEqual(len(calls), 1)

    def test_balance_and_errors(self):
        status, _, body = self.t.request("GET", "/balance", key=self.key)
        self.assertEqual((status, sorted(body)),
                         (200, ["available", "balance", "held", "overdraft"]))
        for key in (None, "nonsense", "tolld_" + "x" * 40):
            status, headers, body = self.t.request("GET", "/balance", key=key)
            self.assertEqual(status, 401)
            self.assertEqual(body["error"]["code"], "invalid_api_key")
        for body, param, code, want in (
                ("{", None, "invalid_json", 400),
                ("[]", None, "invalid_json", 400),
                ('{"a":1,"a":2}', None, "invalid_json", 400),
                ({"model": "short"}, "message", "invalid_request", 400),
                ({"model": "none", "message": "x"}, "model", "model_not_found", 404),
                ({"model": "short", "message": 5}, "message", "invalid_request", 400),
                ({"model": "short", "message": "x", "messages": []}, "messages",
                 "invalid_request", 400),
                ({"model": "short", "messages": []}, "messages", "invalid_request", 400),
                ({"model": "short", "messages": [{"role": "x", "content": "y"}]}, "messages",
                 "invalid_request", 400),
                ({"model": "short", "message": "x", "max_tokens": 0}, "max_tokens",
                 "invalid_request", 400),
                ({"model": "short", "message": "x", "max_tokens": "5"}, "max_tokens",
                 "invalid_request", 400),
                ({"model": "short", "message": "x", "session_id": "../../x"}, "session_id",
                 "invalid_request", 400),
                ({"model": "short", "message": "x", "n": 2}, "n", "invalid_request", 400)):
            for path in ("/chat/preview", "/chat/send"):
                status, _, got = self.t.request("POST", path, body, self.key)
                self.assertEqual((status, got["error"]["code"], got["error"]["param"]),
                                 (want, code, param), f"{path} {body}")
        for path in ("/stream", "/stream?id=", "/stream?id=x&format=nope"):
            self.assertIn(self.t.request("GET", path)[0], (400, 404))
        self.assertEqual(self.t.request("GET", "/stream?id=" + "A" * 28)[0], 404)
        self.assertEqual(self.t.request("GET", "/nothing")[0], 404)
        status, headers, _ = self.t.request("PUT", "/chat/send", "x", self.key)
        self.assertEqual(status, 405)
        self.assertIn("POST", headers["Allow"])
        self.invariants()

    def test_revoked_key(self):
        self.t.ctl("account", "create", "revoked")
        made = self.t.ctl("key", "create", "revoked")
        self.assertEqual(self.t.request("GET", "/balance", key=made["key"])[0], 200)
        self.t.ctl("key", "revoke", made["key_id"])
        self.assertEqual(self.t.request("GET", "/balance", key=made["key"])[0], 401)

    def test_delete_cancels_at_once(self):
        sent = self.t.send(self.key, "tell me", "slow")
        s = self.t.open(sent["stream_id"])
        it = s.typed()
        while next(it)["type"] != "token":
            pass
        status, _, body = self.t.request("DELETE", "/stream?id=" + sent["stream_id"])
        self.assertEqual((status, body["finish_reason"]), (200, "cancelled"))
        kind, done = end_of(list(it))
        self.assertEqual((kind, done["finish_reason"]), ("done", "cancelled"))
        self.assertEqual(done["cost"], body["cost"])
        self.assertGreater(micro(done["cost"]), 0)
        wait_for(lambda: any(r["end"] == "client_closed" for r in self.t.sim.requests()), 10,
                 "the provider to see it")
        self.invariants()

    def test_head_does_not_run_it(self):
        sent = self.t.send(self.key, "tell me", "short")
        status, headers, _ = self.t.request("HEAD", "/stream?id=" + sent["stream_id"])
        self.assertEqual(status, 200)
        self.assertEqual(end_of(list(self.t.open(sent["stream_id"]).typed()))[0], "done")

    def test_curl(self):
        sent = self.t.send(self.key, "tell me", "short")
        p = subprocess.run(["curl", "-sN", f"http://127.0.0.1:{self.t.port}{sent['stream_url']}"],
                           capture_output=True, text=True, timeout=30)
        self.assertEqual(p.returncode, 0)
        self.assertIn('"type":"done"', p.stdout)

    def test_nothing_secret_in_the_log(self):
        self.t.run(self.key, "a very particular secret sentence", "short")
        log = self.t.log()
        for secret in (self.key, "provider-secret-key", "particular secret"):
            self.assertNotIn(secret, log)


if __name__ == "__main__":
    unittest.main()
