"""Goal:   each provider is asked in its own dialect, with its own headers, for no more than the
        credit can pay; what has no place there is refused before anything is reserved; "auto"
        finds out what is spoken and says so in the log.
Method: a provider of a few lines that keeps what it was asked and answers what a test puts down.
"""
import json
import os
import re
import subprocess
import unittest

from test_odd_provider import DONE, FINISH, Provider, text, usage
from tolld import BUILD, Tolld, cost, end_of, micro, text_of, wait_for

KEY = "provider-secret-key-0123456789"


def line(content="", **fields):
    message = {"role": "assistant", "content": content}
    return json.dumps(dict({"model": "m", "message": message, "done": False}, **fields)) + "\n"


def lines(content, prompt, completion, reason="stop"):
    return line(content) + line(done=True, done_reason=reason, prompt_eval_count=prompt,
                                eval_count=completion)


def named(kind, **fields):
    return f"event: {kind}\ndata: {json.dumps(dict(type=kind, **fields))}\n\n"


def message(content, prompt, completion, reason="end_turn", **cache):
    return (named("message_start", message={"usage": dict(input_tokens=prompt, output_tokens=1,
                                                          **cache)}) +
            named("content_block_start", index=0, content_block={"type": "text", "text": ""}) +
            named("ping") +
            named("content_block_delta", index=0, delta={"type": "text_delta", "text": content}) +
            named("message_delta", delta={"stop_reason": reason},
                  usage={"output_tokens": completion}) +
            named("message_stop"))


STREAMS = {  # dialect: (its path, media type, an answer)
    "openai": ("/base/chat/completions", "text/event-stream",
               text("yes") + FINISH + usage(9, 3) + DONE),
    "ollama": ("/base/api/chat", "application/x-ndjson", lines("yes", 9, 3)),
    "anthropic": ("/base/v1/messages", "text/event-stream", message("yes", 9, 3)),
}


class Dialects(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.provider = Provider()
        config = ""
        for name in ("openai", "ollama", "anthropic", "auto", "keyless", "again"):
            dialect = "ollama" if name in ("keyless", "again") else name
            config += f'''
provider "{name}" {{
    dialect = "{dialect}"
    base_url = "http://127.0.0.1:{cls.provider.port}/base/"
    api_key = "{"" if name == "keyless" else KEY}"
    retries = {1 if name == "again" else 0}
    breaker_failures = 0
}}
'''
        models = {n: [n] for n in ("openai", "ollama", "anthropic", "auto", "keyless",
                                      "again")}
        models["mixed"] = ["openai", "anthropic"]
        for name, providers in models.items():
            config += f'''
model "{name}" {{
    provider = {{{", ".join(f'"{p}"' for p in providers)}}}
    upstream = "{name}"
    price_prompt = 0.15  price_cached = 0.075  price_completion = 0.60
    context = 1000000  max_completion = 5000
}}
'''
        cls.t = Tolld(config=config, sim=False, ledger="slice_tokens = 50").start()
        cls.addClassCleanup(cls.t.close)
        cls.addClassCleanup(cls.provider.close)
        cls.key = cls.t.account("alice", "100")

    def ask(self, model, answer, media, key=None, **fields):
        """One stream against this answer: its typed events, and the head and body it was asked."""
        before = len(self.provider.asked)
        self.provider.answers[model] = (200, media, answer, False)
        if "messages" in fields:
            status, _, sent = self.t.request(
                "POST", "/chat/send", dict(fields, model=model), key or self.key)
            self.assertEqual(status, 200, sent)
            events = list(self.t.open(sent["stream_id"]).typed())
        else:
            events = self.t.run(key or self.key, "hello", model, **fields)
        self.assertEqual(len(self.provider.asked), before + 1)
        return events, *self.provider.asked[-1]

    def test_paths_headers_and_charge(self):
        for dialect, (path, media, answer) in STREAMS.items():
            events, head, body = self.ask(dialect, answer, media, max_tokens=77)
            kind, end = end_of(events)
            self.assertEqual((kind, end.get("finish_reason"), text_of(events)),
                             ("done", "stop", "yes"), end)
            self.assertEqual(micro(end["cost"]), cost(9, 3))
            self.assertTrue(head.startswith(f"POST {path} HTTP/1.1\r\n"), head)
            auth = f"x-api-key: {KEY}" if dialect == "anthropic" else f"Authorization: Bearer {KEY}"
            self.assertIn(auth, head)
            self.assertEqual(head.count(KEY), 1)
            self.assertEqual("anthropic-version: 2023-06-01" in head, dialect == "anthropic")
            self.assertIn(media, re.search(r"(?m)^Accept: (.*)$", head)[1])
            limit = body["options"]["num_predict"] if dialect == "ollama" else body["max_tokens"]
            self.assertEqual((limit, body["stream"]), (77, True))
        _, head, _ = self.ask("keyless", STREAMS["ollama"][2], STREAMS["ollama"][1])
        self.assertNotIn("Authorization", head)
        self.assertNotIn("x-api-key", head)

    def test_messages_are_translated(self):
        ask = dict(messages=[{"role": "system", "content": "Be brief."},
                             {"role": "user", "content": "a"},
                             {"role": "assistant", "content": "b"},
                             {"role": "user", "content": [{"type": "text", "text": "c\u00e9"}]}],
                   temperature=0.5, top_p=0.9, stop="END")
        _, _, body = self.ask("ollama", *STREAMS["ollama"][:0:-1], **ask)
        self.assertEqual(body, {
            "model": "ollama", "stream": True,
            "messages": [{"role": "system", "content": "Be brief."},
                         {"role": "user", "content": "a"},
                         {"role": "assistant", "content": "b"},
                         {"role": "user", "content": "c\u00e9"}],
            "options": {"temperature": 0.5, "top_p": 0.9, "stop": ["END"], "num_predict": 5000}})
        _, _, body = self.ask("anthropic", *STREAMS["anthropic"][:0:-1], **ask)
        self.assertEqual(body, {
            "model": "anthropic", "stream": True, "system": [{"type": "text", "text": "Be brief."}],
            "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
                         {"role": "user", "content": [{"type": "text", "text": "c\u00e9"}]}],
            "temperature": 0.5, "top_p": 0.9, "stop_sequences": ["END"], "max_tokens": 5000})

    def test_no_place_for_a_field(self):
        before, asked = self.t.show("alice"), len(self.provider.asked)
        for model, field, value in (("anthropic", "seed", 5), ("anthropic", "temperature", 1.5),
                                    ("anthropic", "presence_penalty", 1),
                                    ("ollama", "user", "u"), ("ollama", "tools", [{"x": 1}]),
                                    ("ollama", "logit_bias", {"1": 2})):
            for path in ("/chat/preview", "/chat/send"):
                status, _, body = self.t.request(
                    "POST", path, {"model": model, "message": "hello", field: value}, self.key)
                self.assertEqual((status, body["error"]["code"], body["error"]["param"]),
                                 (400, "invalid_request", field), body)
                self.assertIn(f"'{field}'", body["error"]["message"])
        self.assertEqual(self.t.show("alice"), before)
        self.assertEqual(self.t.ctl("hold", "list"), [])
        self.assertEqual(len(self.provider.asked), asked)

    def test_a_stand_in_need_not_take_all(self):
        """What the first provider takes is not refused for the sake of a fallback."""
        events, head, _ = self.ask("mixed", STREAMS["openai"][2], STREAMS["openai"][1], seed=5)
        self.assertEqual(end_of(events)[0], "done")
        self.assertTrue(head.startswith("POST /base/chat/completions "))

    def test_a_stand_in_is_asked_in_its_own_dialect(self):
        path, media, answer = STREAMS["anthropic"]
        self.provider.answers[path] = (200, media, answer, False)
        self.provider.answers["mixed"] = (500, "application/json", "{}", False)
        self.addCleanup(self.provider.answers.pop, path)
        before = len(self.provider.asked)
        kind, end = end_of(self.t.run(self.key, "hello", "mixed", max_tokens=77))
        self.assertEqual((kind, micro(end["cost"])), ("done", cost(9, 3)), end)
        first, second = self.provider.asked[before:]
        self.assertTrue(first[0].startswith("POST /base/chat/completions "))
        self.assertTrue(second[0].startswith("POST /base/v1/messages "))
        self.assertEqual(second[1], {"model": "mixed", "stream": True, "max_tokens": 77,
                                     "messages": [{"role": "user", "content": "hello"}]})
        # One that cannot carry the request is not asked.
        before = len(self.provider.asked)
        kind, end = end_of(self.t.run(self.key, "hello", "mixed", seed=5))
        self.assertEqual((kind, micro(end["cost"])), ("error", 0), end)
        self.assertEqual(len(self.provider.asked), before + 1)

    def test_an_error_in_the_last_line_is_one_failure(self):
        """Without its line end it is found when the body ends: it must not count twice, as an
        error and as a stream that broke off, or it takes two retries."""
        self.provider.answers["again"] = (200, "application/x-ndjson", '{"error": "gone"}', False)
        before = len(self.provider.asked)
        end = end_of(self.t.run(self.key, "hello", "again"))[1]
        self.assertEqual(end["error"]["message"], "gone")
        self.assertEqual(len(self.provider.asked), before + 2)
        self.assertEqual(self.t.metric('tolld_upstream_errors_total{provider="again"'), 2)

    def test_no_more_than_the_credit_can_pay(self):
        for dialect, answer in (("ollama", lines("yes", 9, 3, "length")),
                                ("anthropic", message("yes", 9, 3, "max_tokens"))):
            key = self.t.account(f"poor-{dialect}", "0.0001", 0)
            events, _, body = self.ask(dialect, answer, STREAMS[dialect][1], key=key)
            limit = body["options"]["num_predict"] if dialect == "ollama" else body["max_tokens"]
            self.assertTrue(0 < limit < 200, limit)
            self.assertEqual(end_of(events)[1]["finish_reason"], "credit")

    def test_cache_is_charged_at_its_price(self):
        big = "word " * 500
        self.provider.answers["anthropic"] = (
            200, "text/event-stream", message("yes", 12, 3, cache_read_input_tokens=400,
                                              cache_creation_input_tokens=100), False)
        events = self.t.run(self.key, big, "anthropic")
        end = end_of(events)[1]
        self.assertEqual(micro(end["cost"]), cost(112, 3, 400))
        self.assertEqual(end["usage"]["prompt_tokens"], 512)
        self.t.ctl("price", "set", "anthropic", "cache_write", "0.1875")
        sent = self.t.send(self.key, big, "anthropic")
        s = self.t.open(sent["stream_id"])
        end = end_of(list(s.typed()))[1]
        s.close()
        self.t.ctl("price", "reset", "anthropic", "all")
        self.assertEqual(micro(end["cost"]),
                         -(-(12 * 150000 + 100 * 187500 + 400 * 75000 + 3 * 600000) // 1000000))
        settled = [r for r in self.t.ctl("journal") if r["type"] == "settle"][-1]
        self.assertEqual((settled["prompt"], settled["cache_write"], settled["cached"],
                          settled["price_cache_write"]), (112, 100, 400, 0.1875))
        r = self.t.request("GET", f"/receipt?id={sent['stream_id']}", key=self.key)[2]
        self.assertEqual([(x["kind"], x["tokens"], x["price"]) for x in r["lines"]],
                         [("prompt", 12, 0.15), ("cached", 400, 0.075),
                          ("cache_write", 100, 0.1875), ("completion", 3, 0.6)])
        self.assertEqual(sum(micro(x["amount"]) for x in r["lines"]), micro(end["cost"]))
        self.assertEqual((r["usage"]["prompt_tokens"], r["usage"]["cache_write_tokens"],
                          r["counted_by"]), (512, 100, "provider"))

    def test_thinking_and_calls_are_counted_and_not_shown(self):
        thought = (named("message_start", message={"usage": {"input_tokens": 9}}) +
                   named("content_block_delta", index=0,
                         delta={"type": "thinking_delta", "thinking": "some words of thought"}) +
                   named("content_block_delta", index=0,
                         delta={"type": "signature_delta", "signature": "x" * 400}) +
                   named("content_block_delta", index=1,
                         delta={"type": "input_json_delta", "partial_json": "{\"a\": [1, 2]}"}) +
                   named("content_block_delta", index=2,
                         delta={"type": "text_delta", "text": "yes"}) + named("message_stop"))
        events, *_ = self.ask("anthropic", thought, "text/event-stream")
        kind, end = end_of(events)
        self.assertEqual((kind, text_of(events)), ("done", "yes"))
        counted = end["usage"]["completion_tokens"]
        self.assertTrue(10 < counted < 60, counted)  # and not the signature
        events, *_ = self.ask("ollama", line(message={"thinking": "some words of thought"}) +
                              line("yes") + line(done=True), "application/x-ndjson")
        self.assertEqual(text_of(events), "yes")
        self.assertGreater(end_of(events)[1]["usage"]["completion_tokens"], 5)

    def test_auto(self):
        cases = [("openai", "text/event-stream"), ("openai", "text/plain"),
                 ("anthropic", "text/event-stream"), ("ollama", "application/x-ndjson"),
                 ("ollama", "application/octet-stream"), ("anthropic", "text/plain")]
        for spoken, media in cases:
            events, head, _ = self.ask("auto", STREAMS[spoken][2], media)
            kind, end = end_of(events)
            self.assertEqual((kind, text_of(events)), ("done", "yes"), (spoken, media, end))
            self.assertEqual(micro(end["cost"]), cost(9, 3))
            self.assertTrue(head.startswith("POST /base/chat/completions "))
        found = re.findall(r"provider's dialect found.*provider=auto.*dialect=(\w+)", self.t.log())
        self.assertEqual(found, ["openai", "anthropic", "ollama", "anthropic"])

    def test_auto_refuses_what_is_none(self):
        for body, media in (("<html>hello</html>", "text/plain"), ("<html></html>", "text/html"),
                            ('{"error": {"message": "no such path"}}', "application/json"),
                            ("", "text/plain"), ("gone", "")):
            events, *_ = self.ask("auto", body, media)
            kind, end = end_of(events)
            self.assertEqual((kind, end["error"]["code"], micro(end["cost"])),
                             ("error", "upstream_error", 0))
            if "no such path" in body:
                self.assertEqual(end["error"]["message"], "no such path")

    def test_200_with_an_error_says_what_it_was(self):
        for dialect, body in (("ollama", '{"error": "model is not there"}\n'),
                              ("anthropic", '{"type": "error", "error": {"type": "x", '
                                            '"message": "model is not there"}}')):
            for media in ("application/json", STREAMS[dialect][1]):
                if dialect == "anthropic" and media == "text/event-stream":
                    body = "event: error\ndata: " + body + "\n\n"
                end = end_of(self.ask(dialect, body, media)[0])[1]
                self.assertEqual((end["error"]["code"], end["error"]["message"]),
                                 ("upstream_error", "model is not there"))
                self.assertEqual(micro(end["cost"]), 0)

    def test_an_end_mark_alone_is_no_answer(self):
        for dialect, body in (("openai", DONE), ("anthropic", named("message_stop"))):
            kind, end = end_of(self.ask(dialect, body, "text/event-stream")[0])
            self.assertEqual((kind, end["error"]["code"], micro(end["cost"])),
                             ("error", "upstream_error", 0))

    def test_nothing_after_the_end_mark(self):
        """An error after it, or more text, changes nothing of a whole answer."""
        for dialect, more in (("openai", 'data: {"error": {"message": "late"}}\n\n' + text("x")),
                              ("ollama", '{"error": "late"}\n' + line("x")),
                              ("anthropic", named("error", error={"message": "late"}))):
            _, media, answer = STREAMS[dialect]
            events, *_ = self.ask(dialect, answer + more, media)
            kind, end = end_of(events)
            self.assertEqual((kind, text_of(events)), ("done", "yes"), end)
            self.assertEqual(micro(end["cost"]), cost(9, 3))

    def test_broken_off_after_the_final_usage(self):
        """Charged by what the provider had said it took; a running count is not that."""
        end = end_of(self.ask("openai", text("yes") + FINISH + usage(9, 3),
                              "text/event-stream")[0])[1]
        self.assertEqual((end["error"]["code"], micro(end["cost"])),
                         ("upstream_truncated", cost(9, 3)))
        running = text("some words of an answer").replace(
            '"choices"', '"usage": {"prompt_tokens": 9, "completion_tokens": 1}, "choices"')
        end = end_of(self.ask("openai", running, "text/event-stream")[0])[1]
        self.assertEqual(end["error"]["code"], "upstream_truncated")
        self.assertGreater(micro(end["cost"]), cost(9, 3))

    def test_configuration_is_taken_without_a_warning(self):
        p = subprocess.run([os.path.join(BUILD, "tolld"), "-t", "-c", self.t.config_file],
                           capture_output=True, text=True)
        self.assertEqual(p.returncode, 0, p.stderr)
        self.assertNotIn("dialect", p.stderr)

    def tearDown(self):
        wait_for(lambda: self.t.ctl("hold", "list") == [], 10, "holds to be closed")
        self.t.audit()


if __name__ == "__main__":
    unittest.main()
