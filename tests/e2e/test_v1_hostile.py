"""Goal:   who has a key and wishes us ill gets nothing on /v1 that nobody pays for, and keeps nobody
        else from being served; what a provider says there stays JSON, whatever it says.
Method: a provider that answers from a script and remembers what it was asked; every charge checked.
"""
import http.client
import json
import select
import socket
import unittest

import provider
from provider import DONE, FINISH, ROLE, Answer, good, text, usage
from tolld import SLOW, Tolld, cost, micro, wait_for
from v1 import chat, post, stream


SILENT = 40


def embeddings(said, size=1):
    body = {"object": "list", "data": [{"index": 0, "embedding": [0.5] * size}], "usage": said}
    return Answer(json.dumps(body), kind="application/json", end="length")


class Hostile(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.p = provider.Provider()
        cls.t = Tolld(workers=2, config=f'''
provider "script" {{
    dialect = "openai"
    base_url = "http://127.0.0.1:{cls.p.port}/v1"
    api_key = "provider-secret-key"
    retries = 2
    breaker_failures = 2
    refuse = {{"service_tier", "Speed"}}
}}
model "m" {{
    provider = {{"script"}}
    upstream = "cheap"
    tokenizer = "o200k_base"
    price_prompt = 0.15
    price_cached = 0.075
    price_completion = 0.60
    context = 1000000
    max_completion = 1000
    image_tokens = 36835
}}
model "long" {{
    provider = {{"script"}}
    upstream = "cheap"
    tokenizer = "estimate"
    price_prompt = 0.15
    price_cached = 0.075
    price_completion = 0.60
    context = 10000000
    max_completion = 1000000
}}
''')
        cls.t.start()
        cls.accounts = 0

    @classmethod
    def tearDownClass(cls):
        try:
            assert cls.t.stop() == 0, cls.t.log()
        finally:
            log = cls.t.log()
            cls.t.close()
            cls.p.close()
        for bad in ("AddressSanitizer", "runtime error:", "LeakSanitizer", "level=fatal"):
            assert bad not in log, log

    def setUp(self):
        self.p.reset()
        Hostile.accounts += 1
        self.name = f"h{Hostile.accounts}"
        self.key = self.t.account(self.name, "1000", 0)

    def charged(self):
        wait_for(lambda: micro(self.t.show(self.name)["held"]) == 0, 10, "nothing to be held")
        return micro("1000") - micro(self.t.show(self.name)["balance"])

    def test_embeddings_whose_usage_is_zero_are_paid_by_our_count(self):
        self.p.reset(embeddings({"prompt_tokens": 0, "total_tokens": 0}))
        body = {"model": "m", "input": "one two three four five six seven eight nine ten"}
        self.assertEqual(post(self.t, "/v1/embeddings", body, self.key).status, 200)
        self.assertEqual(self.charged(), cost(10, 0))

    def test_an_empty_object_at_the_end_is_none_of_the_answer(self):
        for wanted in (False, True):
            self.p.reset(Answer(ROLE + text("good answer") + FINISH + "data: {}\n\n" +
                                usage(9, 3) + DONE))
            got = stream(self.t, self.key, "m", usage=wanted)
            self.assertEqual((got.text(), got.finish(), got.done), ("good answer", ["stop"], 1))
            self.assertEqual(got.tolld()["finish"], "stop")

    def test_answers_that_are_too_long_are_nobodys_breaker(self):
        # Who asks for them is refused; the provider was not at fault, and is not asked again.
        long = embeddings({"prompt_tokens": 7}, 4 << 20)
        for _ in range(3):
            self.p.reset(long)
            got = post(self.t, "/v1/embeddings", {"model": "m", "input": "hi"}, self.key)
            self.assertEqual((got.status, got.error()["kind"]), (502, "too_long"))
            self.assertEqual(len(self.p.seen), 1)
        self.assertEqual(self.charged(), 0)
        self.p.reset(good())
        self.assertEqual(stream(self.t, self.key, "m").status, 200)
        self.assertEqual(self.t.metric('tolld_upstream_errors_total{provider="script",kind="too_long"'), 3)

    def test_a_stream_told_again_to_who_does_not_read(self):
        words = "word " * 400
        self.p.reset(Answer(ROLE + "".join(text(words) for _ in range(1500)) + FINISH +
                            usage(9, 900) + DONE))
        raw = json.dumps({"model": "long", "stream": True,
                          "messages": [{"role": "user", "content": "hi"}]})
        again = {"Idempotency-Key": "told-again"}
        first = post(self.t, "/v1/chat/completions", raw, self.key, again)
        self.assertEqual((first.status, first.done), (200, 1))
        self.assertGreater(len(first.body), 3000000)
        wait_for(lambda: micro(self.t.show(self.name)["held"]) == 0, 10, "nothing to be held")
        same = post(self.t, "/v1/chat/completions", raw, self.key, again)
        self.assertEqual((same.headers["idempotent-replayed"], same.body), ("true", first.body))

        def memory():
            total = 0
            for title, pid in self.t.children().items():
                if "worker" in title:
                    with open(f"/proc/{pid}/status") as f:
                        total += int(next(x for x in f if x.startswith("RssAnon")).split()[1])
            return total * 1024
        before, silent = memory(), []
        try:
            for _ in range(SILENT):
                c = http.client.HTTPConnection("127.0.0.1", self.t.port, timeout=30 * SLOW)
                c.sock = socket.socket()
                c.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                c.sock.settimeout(30 * SLOW)
                c.sock.connect(("127.0.0.1", self.t.port))
                c.request("POST", "/v1/chat/completions", raw,
                          dict(again, Authorization="Bearer " + self.key))
                silent.append((c, c.getresponse()))
            if SLOW == 1:  # sanitizers keep what was freed
                self.assertLess(memory() - before, SILENT * 600000)
            # Who reads at last gets all of it, and the connection goes on.
            c, response = silent[0]
            self.assertEqual(response.read(), first.body)
            c.request("GET", "/v1/models", None, {"Authorization": "Bearer " + self.key})
            self.assertEqual(c.getresponse().status, 200)
        finally:
            for c, response in silent:
                response.close()
                c.close()

    def test_a_provider_that_does_not_know_the_limit(self):
        # DeepSeek and Ollama know max_tokens only: by the other name a client could have had
        # thousands of tokens for the price of one.
        words = 4000
        said = "word " * words
        over = 10 + 10 // 2 + 16
        for name in ("max_completion_tokens", "max_tokens"):
            for events in ([said], ["word " for _ in range(words)]):
                for end in (usage(9, words), ""):
                    self.p.reset(Answer(ROLE + "".join(map(text, events)) + FINISH + end + DONE))
                    got = stream(self.t, self.key, "m", **{name: 10})
                    self.assertEqual((got.status, got.finish(), got.done), (200, ["length"], 1))
                    self.assertLessEqual(len(got.text().split()), over)
                    self.assertGreaterEqual(len(got.text().split()), 10)
                    self.assertEqual(got.tolld()["finish"], "length")
        self.assertIn("provider says more than it was told to", self.t.log())
        self.charged()
        # Calls of tools, and answers behind the first one, are no way around it.
        call = provider.event(choices=[{"index": 0, "delta": {"tool_calls": [
            {"index": 0, "id": "a", "function": {"name": "f", "arguments": said}}]}}])
        other = provider.event(choices=[{"index": 1, "delta": {"content": said}}])
        for answer in (call, other):
            self.p.reset(Answer(ROLE + answer + FINISH + DONE))
            got = stream(self.t, self.key, "m", max_completion_tokens=10)
            self.assertNotIn("word word", got.body.decode())
        # By any other name it is the same, and a little more than the limit is nobody's fault.
        self.p.reset(Answer(ROLE + text("word " * 11) + FINISH + usage(9, 10) + DONE))
        got = stream(self.t, self.key, "m", max_tokens=10)
        self.assertEqual((len(got.text().split()), got.finish()), (11, ["stop"]))

    def test_an_answer_in_one_piece_beyond_its_limit_costs_what_it_is(self):
        def whole(words, said):
            return Answer(json.dumps({"id": "x", "object": "chat.completion", "created": 1,
                "model": "cheap", "choices": [{"index": 0, "finish_reason": "stop", "message": {
                    "role": "assistant", "content": "word " * words}}], "usage": said}),
                kind="application/json", end="length")
        for said, charged in ((4000, 4000), (9000, 4001), (None, 4001), (7, 7)):
            said = {"prompt_tokens": 9, "completion_tokens": said} if said else None
            self.p.reset(whole(4000, said))
            before = self.charged()
            got = chat(self.t, self.key, "m", max_completion_tokens=10)
            self.assertEqual(got.status, 200)
            self.assertEqual(self.charged() - before, cost(9, charged), said)
        # No more than there is.
        name, key = self.name + "-poor", self.t.account(self.name + "-poor", "0.001", 0)
        self.p.reset(whole(4000, {"prompt_tokens": 9, "completion_tokens": 4000}))
        self.assertEqual(chat(self.t, key, "m", max_completion_tokens=10).status, 200)
        wait_for(lambda: micro(self.t.show(name)["held"]) == 0, 10, "nothing to be held")
        self.assertEqual(micro(self.t.show(name)["balance"]), 0)

    def test_keys_that_a_provider_could_take_for_ours(self):
        # Readers of JSON in Go take a key in any case, the last one counts; cJSON ends it at a NUL.
        for name in ("Model", "MODEL", "N", "Stream", "Max_Tokens", "max_to\u212aens",
                     "me\u017f\u017fages", "model\0", "max_completion_tokenS"):
            got = chat(self.t, self.key, "m", **{name: "dear"})
            self.assertEqual((got.status, got.error()["code"]), (400, "invalid_request"), name)
            self.assertEqual(got.error()["param"], name.split("\0")[0])
        # As it is written in JSON does not matter: the same key, with an escape.
        raw = '{"model":"m","messages":[{"role":"user","content":"hi"}],"\\u004dodel":"dear"}'
        self.assertEqual(post(self.t, "/v1/chat/completions", raw, self.key).status, 400)
        # Other words for the limit and the choices, by which some provider goes instead.
        # And for the model: OpenRouter's and LiteLLM's, where the one that was priced fails.
        for name in ("n_predict", "N_Predict", "max_new_tokens", "n_cmpl", "best_of", "models",
                     "fallbacks"):
            got = chat(self.t, self.key, "m", **{name: 9})
            self.assertEqual((got.status, got.error()["param"]), (400, name))
        for name in ("Model", "INPUT"):
            got = post(self.t, "/v1/embeddings", {"model": "m", "input": "hi", name: "x"}, self.key)
            self.assertEqual((got.status, got.error()["param"]), (400, name))
        for name in ("Model", "Max_Tokens", "Stream"):
            got = post(self.t, "/v1/messages", {"model": "m", "max_tokens": 5, "messages": [
                {"role": "user", "content": "hi"}], name: 9}, self.key)
            self.assertEqual((got.status, got.json["error"]["type"]), (400, "invalid_request_error"))
            self.assertIn(name, got.json["error"]["message"])
        got = self.t.request("POST", "/chat/send", {"model": "m", "message": "hi", "MODEL": "x"},
                             self.key)
        self.assertEqual((got[0], got[2]["error"]["param"]), (400, "MODEL"))
        self.assertEqual(self.p.seen, [])
        # Others are the provider's business; and usage cannot be asked away.
        self.p.reset(good())
        got = chat(self.t, self.key, "m", stream=True, modes=["x"], mode="y",
                   stream_options={"Include_Usage": False, "x": 1})
        self.assertEqual(got.status, 200)
        self.assertEqual(self.p.seen[0].body["stream_options"], {"include_usage": True, "x": 1})
        self.assertEqual(self.p.seen[0].body["modes"], ["x"])

    def test_what_a_provider_is_not_to_be_asked_for(self):
        for path, extra in (("/v1/chat/completions", {}), ("/v1/messages", {"max_tokens": 5})):
            for name in ("service_tier", "speed", "SPEED"):
                body = dict({"model": "m", "messages": [{"role": "user", "content": "hi"}],
                             name: "fast"}, **extra)
                got = post(self.t, path, body, self.key)
                self.assertEqual(got.status, 400)
                self.assertIn(f"'{name}' may not be asked for", got.json["error"]["message"])
        got = post(self.t, "/v1/embeddings", {"model": "m", "input": "hi", "speed": 1}, self.key)
        self.assertEqual((got.status, got.error()["param"]), (400, "speed"))
        got = self.t.request("POST", "/chat/send", {"model": "m", "message": "hi", "speed": 1},
                             self.key)
        self.assertEqual((got[0], got[2]["error"]["param"]), (400, "speed"))
        self.assertEqual(self.p.seen, [])

    def test_a_prompt_in_a_field_that_only_the_provider_knows(self):
        # vLLM reads "documents"; who leaves when the answer is there, and before the usage, pays
        # by our count.
        words = "one two three four five six seven eight nine ten " * 1000
        parts = [{"type": "document", "source": {"type": "text", "data": words}}]
        plain = self.prompt()
        for fields in ({"documents": [{"text": words, "title": "a"}]}, {"prefix": words},
                       {"prediction": {"type": "content", "content": words}},
                       {"messages": [{"role": "user", "content": parts}]}):
            counted = self.prompt(**fields)
            self.assertGreaterEqual(counted, 10000, fields.keys())
            self.assertLess(counted, 10100)
        # What a picture may be is the config's to say.
        picture = [{"type": "image_url", "image_url": {"url": "https://x.example/y.png"}}]
        counted = self.prompt(messages=[{"role": "user", "content": picture}])
        self.assertLess(abs(counted - 36835), 20)
        # What is no text, or is known to be no prompt.
        for fields in ({"data": "QUJD" * 400}, {"metadata": {"a": words}}, {"user": words},
                       {"logit_bias": {str(n): 1 for n in range(300)}}):
            self.assertLess(self.prompt(**fields), plain + 101, fields.keys())

    def prompt(self, **fields):
        """What a cancelled stream with these fields is charged for."""
        before = self.charged()
        self.p.reset(Answer(ROLE + text("a"), hang="after"))
        body = dict({"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]},
                    **fields)
        c = http.client.HTTPConnection("127.0.0.1", self.t.port, timeout=30 * SLOW)
        c.request("POST", "/v1/chat/completions", json.dumps(body),
                  {"Authorization": "Bearer " + self.key})
        r = c.getresponse()
        while b'"a"' not in r.readline():
            pass
        r.close()
        c.close()
        return ((self.charged() - before - cost(0, 1)) * 1000000) // 150000


class Memory(unittest.TestCase):
    """What many requests at once may have a worker hold."""

    @classmethod
    def setUpClass(cls):
        cls.p = provider.Provider()
        cls.t = Tolld(workers=1, timeouts="first_token = 600", ledger="slice_tokens = 1000000", config=f'''
max_body = 67108864
provider "script" {{
    dialect = "openai"
    base_url = "http://127.0.0.1:{cls.p.port}/v1"
    max_line = 4194304
}}
model "m" {{
    provider = {{"script"}}
    tokenizer = "estimate"
    price_prompt = 0.001
    price_completion = 0.001
    context = 1000000000
    max_completion = 100000000
}}
''')
        cls.t.start()
        cls.key = cls.t.account("mem", "100000", 0)

    @classmethod
    def tearDownClass(cls):
        try:
            assert cls.t.stop() == 0, cls.t.log()
        finally:
            log = cls.t.log()
            cls.t.close()
            cls.p.close()
        for bad in ("AddressSanitizer", "runtime error:", "LeakSanitizer", "level=fatal"):
            assert bad not in log, log

    def anonymous(self):
        total = 0
        for title, pid in self.t.children().items():
            if "worker" in title:
                with open(f"/proc/{pid}/status") as f:
                    total += int(next(x for x in f if x.startswith("RssAnon")).split()[1])
        return total * 1024

    def test_requests_whose_provider_says_nothing(self):
        self.p.default = Answer(hang="before")
        picture = "data:image/png;base64," + "QUJD" * (10 << 20)
        raw = json.dumps({"model": "m", "stream": True, "max_tokens": 9, "messages": [
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": picture}}]}]})
        waiting, refused = [], None
        try:
            while refused is None:
                self.assertLess(len(waiting), 12)
                c = http.client.HTTPConnection("127.0.0.1", self.t.port, timeout=60 * SLOW)
                c.request("POST", "/v1/chat/completions", raw, {"Authorization": "Bearer " + self.key})
                waiting.append(c)
                seen = len(waiting)
                wait_for(lambda: len(self.p.seen) == seen or
                         select.select([c.sock], [], [], 0)[0], 60, "the provider to be asked")
                if select.select([c.sock], [], [], 0)[0]:
                    refused = c.getresponse()
            self.assertEqual((refused.status, refused.headers["Retry-After"]), (503, "1"))
            self.assertEqual(json.loads(refused.read())["error"]["code"], "overloaded")
            self.assertGreater(len(waiting), 2)
            # Others are served meanwhile.
            self.p.default = good()
            self.assertEqual(stream(self.t, self.key, "m").status, 200)
        finally:
            for c in waiting:
                c.close()
        wait_for(lambda: micro(self.t.show("mem")["held"]) == 0, 20, "all to be given up")
        self.p.default = good()
        self.assertEqual(post(self.t, "/v1/chat/completions", raw, self.key).status, 200)

    def test_texts_of_streams_that_ended(self):
        line = "word " * (200 << 10)
        before, ids = self.anonymous(), []
        for _ in range(20):
            self.p.default = Answer(ROLE + text(line) * 7 + FINISH + usage(9, 1433600) + DONE)
            sent = self.t.send(self.key, "hi", "m")
            got = self.t.request("GET", f"/stream?id={sent['stream_id']}&format=text")
            self.assertEqual(len(got[2]), len(line) * 7)
            ids.append(sent["stream_id"])
        if SLOW == 1:
            wait_for(lambda: self.anonymous() - before < 110 << 20, 5, "texts to be let go")
        # They are still told, from disk.
        for i in ids[0], ids[-1]:
            self.assertEqual(len(self.t.request("GET", f"/stream?id={i}&format=text")[2]),
                             len(line) * 7)


if __name__ == "__main__":
    unittest.main()
