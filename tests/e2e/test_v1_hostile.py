"""Goal:   who has a key and wishes us ill gets nothing on /v1 that nobody pays for, and keeps nobody
        else from being served; what a provider says there stays JSON, whatever it says.
Method: a provider that answers from a script and remembers what it was asked; every charge checked.
"""
import json
import os
import unittest

import provider
from provider import DONE, FINISH, ROLE, Answer, good, text, usage
from tolld import Tolld, cost, micro, wait_for
from v1 import chat, post, stream


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
        got = chat(self.t, self.key, "m", stream=True, models=["x"], mode="y",
                   stream_options={"Include_Usage": False, "x": 1})
        self.assertEqual(got.status, 200)
        self.assertEqual(self.p.seen[0].body["stream_options"], {"include_usage": True, "x": 1})
        self.assertEqual(self.p.seen[0].body["models"], ["x"])


if __name__ == "__main__":
    unittest.main()
