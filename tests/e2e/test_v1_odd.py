"""Goal:   what a provider does wrong is told truly on /v1, and charged for what it is worth; an
        answer stops at the last token that can be paid, whatever the provider thinks of limits.
Method: a provider that answers from a script, and that remembers what it was asked.
"""
import json
import unittest

import provider
from provider import DONE, FINISH, ROLE, Answer, event, text, usage
from tolld import SLOW, Tolld, cost, micro, wait_for
from v1 import chat, post, stream

WORDS = [" one", " two", " three", " four", " five", " six", " seven", " eight", " nine", " ten"]
MARK = {"id": "chatcmpl-theirs", "object": "chat.completion.chunk", "created": 1700000000,
        "model": "their-model"}


def chunk(content, index=0, finish=None, field="content", **more):
    delta = {field: content} if content is not None else {}
    return event(**MARK, choices=[{"index": index, "delta": delta, "finish_reason": finish}], **more)


def tool(arguments):
    return chunk([{"index": 0, "function": {"arguments": arguments}}], field="tool_calls")


def whole(content="good answer", prompt=9, completion=3, finish="stop", **more):
    body = {"id": "chatcmpl-w", "object": "chat.completion", "created": 1, "model": "m",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": content},
                         "finish_reason": finish}]}
    if prompt is not None:
        body["usage"] = {"prompt_tokens": prompt, "completion_tokens": completion,
                         "total_tokens": prompt + completion}
    return Answer(json.dumps(dict(body, **more), indent=2), kind="application/json", end="length")


class Odd(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.p, cls.second = provider.Provider(), provider.Provider()
        both = "".join(f'''
provider "{name}" {{
    dialect = "openai"
    base_url = "http://127.0.0.1:{p.port}/v1"
    api_key = "provider-secret-key"
    retries = 0
    breaker_failures = 0
}}
''' for name, p in (("odd", cls.p), ("second", cls.second)))
        models = "".join(f'''
model "{name}" {{
    provider = {{{providers}}}
    upstream = "up-{name}"
    tokenizer = "o200k_base"
    price_prompt = 0.15
    price_cached = 0.075
    price_completion = 10
    context = 1000000
    max_completion = 100000
    {extra}
}}
''' for name, providers, extra in (("odd", '"odd"', ""), ("both", '"odd", "second"', ""),
                                   ("hidden", '"odd"', "hidden_tokens = true")))
        cls.t = Tolld(config=both + models, sim=False, ledger="slice_tokens = 4",
                      timeouts=f"first_token = {int(3 * SLOW)} idle = {int(3 * SLOW)} "
                               f"request = {int(2 * SLOW)}").start()
        cls.addClassCleanup(cls.t.close)
        cls.addClassCleanup(cls.p.close)
        cls.addClassCleanup(cls.second.close)
        cls.accounts = 0
        cls.key = cls.t.account("alice", "1000")
        cls.prompt = cls.t.request("POST", "/chat/preview", {"model": "odd", "message": "hello there"},
                                   cls.key)[2]["prompt_tokens"]

    def setUp(self):
        self.p.reset()
        self.second.reset()

    def tearDown(self):
        wait_for(lambda: self.t.ctl("hold", "list") == [], 10, "holds to be closed")
        self.t.audit()

    def account(self, credit="1000"):
        Odd.accounts += 1
        self.name = f"a{Odd.accounts}"
        return self.t.account(self.name, credit, 0)

    def charged(self, credit="1000"):
        wait_for(lambda: micro(self.t.show(self.name)["held"]) == 0, 10, "nothing to be held")
        return micro(credit) - micro(self.t.show(self.name)["balance"])

    def price(self, completion, prompt=None):
        prompt = self.prompt if prompt is None else prompt
        return -(-(prompt * 150000 + completion * 10000000) // 1000000)

    def says(self, *events, **more):
        self.p.default = Answer("".join(events), **more)

    # The last payable token.

    def cut(self, body, n, texts, **fields):
        """An answer of a provider that knows no limit, with credit for n tokens."""
        self.says(*body)
        credit = f"{self.price(n) / 1e6:.6f}"
        for asked in (False, True):
            key = self.account(credit)
            got = stream(self.t, key, "odd", usage=asked, **fields)
            what = (n, asked, got.body)
            self.assertEqual((got.status, got.done), (200, 1), what)
            self.assertEqual([got.text(i) for i in range(len(texts))], texts, what)
            self.assertEqual(self.charged(credit), self.price(n), what)
            self.assertEqual(got.finish(), ["length"], what)
            self.assertEqual(got.tolld(), {"finish": "credit", "short_of": "credit",
                                           "cost": self.price(n) / 1e6}, what)
            # What we wrote is of the same answer as what the provider wrote.
            self.assertEqual({(c["id"], c["model"], c["created"]) for c in got.chunks},
                             {("chatcmpl-theirs", "their-model", 1700000000)}, what)
            if asked:
                self.assertEqual(got.usage()["completion_tokens"], n, what)
            else:
                self.assertTrue(all(c["choices"] for c in got.chunks))
        return got

    def test_cut_at_every_token(self):
        role = event(**MARK, choices=[{"index": 0, "delta": {"role": "assistant"},
                                       "finish_reason": None}])
        one = [chunk(w) for w in WORDS]
        three = [chunk("".join(WORDS[i:i + 3])) for i in range(0, len(WORDS), 3)]
        at_once = [chunk("".join(WORDS), finish="stop")]  # with what would end it
        end = [chunk(None, finish="stop"), usage(9, 10), DONE]
        for n in range(1, len(WORDS)):
            for pieces in (one, three, at_once):
                for start in ([role], []):
                    self.cut(start + pieces + end, n, ["".join(WORDS[:n])])

    def test_cut_of_what_is_not_shown(self):
        """Arguments of a call, thoughts and other choices are paid like text, and cut by events."""
        for n in range(1, 10):
            got = self.cut([tool("".join(WORDS[i:i + 2])) for i in range(0, 10, 2)] + [DONE], n, [""])
            calls = "".join(c["function"]["arguments"] for x in got.chunks for y in x["choices"]
                            for c in y["delta"].get("tool_calls", []))
            self.assertEqual(calls, "".join(WORDS[:n // 2 * 2]))
            got = self.cut([chunk(w, field="reasoning_content") for w in WORDS] + [DONE], n, [""])
            self.assertEqual(got.text(field="reasoning_content"), "".join(WORDS[:n]))

    def test_cut_of_several_choices(self):
        pairs = [chunk(w, index=i) for w in WORDS for i in range(2)]
        for n in range(2, 19):
            self.says(*pairs, chunk(None, finish="stop"), chunk(None, 1, "stop"), usage(9, 20), DONE)
            credit = f"{self.price(n) / 1e6:.6f}"
            got = stream(self.t, self.account(credit), "odd", n=2)
            self.assertEqual(got.status, 200, got.body)
            self.assertEqual([got.text(0), got.text(1)],
                             ["".join(WORDS[:(n + 1) // 2]), "".join(WORDS[:n // 2])])
            self.assertEqual([got.finish(0), got.finish(1)], [["length"], ["length"]])
            self.assertEqual(self.charged(credit), self.price(n))

    def test_whole_characters_only(self):
        faces = "\U0001f9d1\u200d\U0001f680" * 6
        self.says(chunk(faces), chunk(None, finish="stop"), DONE)
        for n in range(1, 12):
            credit = f"{self.price(n) / 1e6:.6f}"
            got = stream(self.t, self.account(credit), "odd")
            self.assertTrue(faces.startswith(got.text()), got.text())
            self.assertLessEqual(self.charged(credit), self.price(n))
            self.assertNotIn("\ufffd", got.text())

    # Usage.

    def test_usage_in_the_finish_chunk(self):
        for said, believed in (({"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}, True),
                               ({"prompt_tokens": 9, "completion_tokens": -2}, False),
                               ({"prompt_tokens": 10**9, "completion_tokens": 2}, False),
                               ({"prompt_tokens": 9, "completion_tokens": 10**9}, False)):
            for asked in (False, True):
                self.says(chunk(" one"), chunk(" two", usage={"prompt_tokens": 9,
                                                              "completion_tokens": 2}),
                          chunk(None, finish="stop", usage=said), DONE)
                got = stream(self.t, self.account(), "odd", usage=asked)
                paid = self.price(2, 9) if believed else self.price(2)
                self.assertEqual(self.charged(), paid, said)
                self.assertEqual((got.text(), got.finish(), got.done), (" one two", ["stop"], 1))
                self.assertEqual(micro(got.tolld()["cost"]), paid)
                if asked:
                    self.assertEqual(got.usage()["completion_tokens"], 2, got.body)
                    self.assertEqual(got.usage()["prompt_tokens"], 9 if believed else self.prompt)
                else:
                    self.assertNotIn(b"usage", got.body)

    def test_groqs_usage(self):
        self.says(chunk(" one"), chunk(None, finish="stop", x_groq={
            "id": "req_1", "usage": {"prompt_tokens": 9, "completion_tokens": 1}}), DONE)
        got = stream(self.t, self.account(), "odd")
        self.assertEqual((got.finish(), self.charged()), (["stop"], self.price(1, 9)))
        self.assertNotIn(b"usage", got.body)
        # What else is in there stays.
        self.assertEqual(got.chunks[-1]["x_groq"], {"id": "req_1"})

    def test_usage_again_and_again(self):
        self.says(chunk(" one"), FINISH, *[usage(9, i) for i in (1, 2, 3)], DONE)
        got = stream(self.t, self.account(), "odd", usage=True)
        self.assertEqual(sum(bool(c.get("usage")) for c in got.chunks), 1)
        self.assertEqual(got.usage()["completion_tokens"], 3)
        self.assertEqual(self.charged(), self.price(3, 9))

    # Events that are odd.

    def test_lines_are_one(self):
        """Some write their JSON over several lines."""
        pretty = json.dumps(dict(MARK, choices=[{"index": 0, "delta": {"content": "a\nb"},
                                                 "finish_reason": None}]), indent=1)
        self.says("".join(f"data: {line}\n" for line in pretty.split("\n")), "\n",
                  "event: message\nid: 7\nretry: 3\n" + chunk(" one"), FINISH, usage(9, 4), DONE)
        got = stream(self.t, self.account(), "odd")
        self.assertEqual((got.text(), got.done), ("a\nb one", 1))
        self.assertNotIn(b"id: 7", got.body)

    def test_not_utf8(self):
        self.p.default = answer = Answer(chunk("a?b") + chunk(" one") + FINISH + usage(9, 4) + DONE)
        answer.body = answer.body.replace(b"?", b"\xff\xc3")
        got = stream(self.t, self.account(), "odd")
        self.assertEqual((got.text(), got.done), ("a\ufffd\ufffdb one", 1))

    def test_no_end_after_the_end(self):
        """Events after the end are kept for the settlement; not without a bound."""
        empty = event(**MARK, choices=[], x="y" * 1000)
        self.says(chunk(" one"), FINISH, empty * 3, usage(9, 1), DONE)
        got = stream(self.t, self.account(), "odd")
        self.assertEqual((got.text(), got.finish(), got.done), (" one", ["stop"], 1))
        self.says(chunk(" one"), FINISH, empty * 2000, usage(9, 1), DONE)
        got = stream(self.t, self.account(), "odd")
        self.assertEqual((got.text(), got.done), (" one", 0))
        self.assertEqual(got.error()["code"], "upstream_error")
        self.assertEqual(self.charged(), self.price(1))

    def test_empty_events_before_the_first_token(self):
        """Nobody reads yet: they must not grow without a bound either."""
        empty = event(**MARK, choices=[{"index": 0, "delta": {"role": "assistant"}}], x="y" * 1000)
        self.says(empty, drip=empty * 2000)
        got = stream(self.t, self.account(), "odd")
        self.assertEqual((got.status, got.error()["code"]), (504, "upstream_timeout"))
        self.assertEqual(self.charged(), 0)

    def test_unknown_members_stay(self):
        """What a provider says beside what we read, each number as it was written."""
        more = ('"system_fingerprint":"fp","service_tier":"default","citations":["https://a.example"]'
                ',"x_new":{"deep":[1.50,1e5,null,{"er":true}]}')
        choice = ('{"index":0,"native_finish_reason":%s,"finish_reason":%s,"content_filter_results":'
                  '{"hate":{"filtered":false}},"delta":{%s"annotations":[{"type":"url_citation"}]}}')
        mark = json.dumps(MARK)[:-1]
        said = {"prompt_tokens": 9, "completion_tokens": 1, "cost": 1.0e-05,
                "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
                "completion_tokens_details": {"image_tokens": 0, "new_tokens": 7}}
        first = "%s,%s,\"choices\":[%s]}" % (mark, more, choice % ("null", "null", '"content":" one",'))
        last = "%s,%s,\"choices\":[%s]}" % (mark, more, choice % ('"end"', '"stop"', ""))
        self.says(*(f"data: {x}\n\n" for x in (first, last)), event(**MARK, choices=[], usage=said),
                  DONE)
        for asked in (False, True):
            got = stream(self.t, self.account(), "odd", usage=asked)
            lines = got.body.decode().split("\n\n")
            self.assertEqual(lines[0], "data: " + first)
            self.assertTrue(lines[1].startswith("data: " + last[:-1]), lines[1])
            self.assertEqual(got.usage(), said if asked else None)
        self.p.default = answer = whole(system_fingerprint="fp", citations=["x"], x_new={"a": 1.5})
        self.assertEqual(chat(self.t, self.account(), "odd").body, answer.body)

    # Failures.

    def test_an_event_named_error(self):
        """Some only name it so."""
        for data, message in (({"message": "no more", "code": 500}, "no more"),
                              ({"error": {"message": "no more"}}, "no more"),
                              ({"detail": "no more"}, "no more"), ({}, "the provider")):
            named = "event: error\n" + event(**data)
            self.says(chunk(" one"), named, DONE)
            got = stream(self.t, self.account(), "odd")
            self.assertEqual((got.status, got.done, got.text()), (200, 0, " one"), got.body)
            self.assertEqual(got.error()["code"], "upstream_error")
            self.assertIn(message, got.error()["message"])
            self.assertEqual(len(got.chunks), 2)
            self.assertEqual(self.charged(), self.price(1))
            self.says(named)
            got = stream(self.t, self.account(), "odd")
            self.assertEqual((got.status, got.error()["kind"]), (502, "error_event"), got.body)
            self.assertEqual(self.charged(), 0)

    def test_what_asking_again_cannot_mend(self):
        """SDKs ask again after any 5xx; not where they are told that it is of no use."""
        for status, again in ((400, False), (401, False), (403, False), (413, False), (422, False),
                              (404, True), (408, True), (429, True), (500, True), (503, True)):
            for streamed in (True, False):
                self.p.default = provider.status(status)
                got = chat(self.t, self.account(), "odd", stream=streamed)
                self.assertIn(got.status, (502, 503))
                self.assertEqual(got.headers["x-should-retry"], None if again else "false", status)
        # All of them, not only the one that was asked last.
        for first, last, again in ((500, 401, True), (401, 400, False), (401, 429, True)):
            self.p.default, self.second.default = provider.status(first), provider.status(last)
            got = chat(self.t, self.account(), "both")
            self.assertEqual(got.headers["x-tolld-provider"], "second")
            self.assertEqual(got.headers["x-should-retry"], None if again else "false", (first, last))

    def test_failures_before_the_first_token(self):
        secret = "your key provider-secret-key is bad"
        for answer, status, code in (
                (provider.status(400), 502, "upstream_error"),
                (provider.status(401, secret), 502, "upstream_error"),
                (provider.status(403, secret), 502, "upstream_error"),
                (provider.status(404), 502, "upstream_error"),
                (provider.status(429, Retry_After=7), 503, "overloaded"),
                (provider.status(500, secret), 502, "upstream_error"),
                (Answer("<html>", 502, "text/html"), 502, "upstream_error"),
                (Answer("<html>", 200, "text/html"), 502, "upstream_error"),
                (Answer(json.dumps({"error": {"message": "no"}}), 200, "application/json"), 502,
                 "upstream_error"),
                (Answer("", 200), 502, "upstream_error"),
                (Answer("", 200, end="cut"), 502, "upstream_error"),
                (Answer("garbage", 200, "application/json"), 502, "upstream_error"),
                (Answer("[]", 200, "application/json"), 502, "upstream_error"),
                (Answer("null", 200, "application/json"), 502, "upstream_error"),
                (Answer(DONE), 502, "upstream_error"),
                (Answer(event(error={"message": secret})), 502, "upstream_error"),
                (Answer(hang="before"), 504, "upstream_timeout")):
            for streamed in (True, False):
                self.p.default = answer
                key = self.account()
                got = chat(self.t, key, "odd", stream=streamed)
                what = (answer.body, answer.code, streamed, got.body)
                self.assertEqual(got.status, status, what)
                self.assertEqual(got.error()["code"], code, what)
                self.assertEqual(got.headers["Content-Type"], "application/json", what)
                self.assertNotIn(b"secret", got.body)
                self.assertEqual(got.headers["Retry-After"], "7" if status == 503 else None)
                self.assertEqual(got.headers["x-tolld-provider"], "odd")
                self.assertIsNone(got.headers["x-tolld-cost"])
                self.assertEqual(self.charged(), 0, what)

    def test_failures_after_the_first_token(self):
        started = chunk(" one") + chunk(" two")
        for answer, code in ((Answer(started, end="cut"), "upstream_truncated"),
                             (Answer(started), "upstream_truncated"),
                             (Answer(started + event(error={"message": "no more"}) + DONE),
                              "upstream_error"),
                             (Answer(started + chunk(None, finish="error") + DONE), "upstream_error"),
                             (Answer(started + "data: " + "x" * (2 << 20) + "\n\n"),
                              "upstream_error"),
                             (Answer(started, hang="after"), "upstream_timeout")):
            for asked in (False, True):
                self.p.default = answer
                got = stream(self.t, self.account(), "odd", usage=asked)
                what = (answer.body[:300], asked, got.body)
                self.assertEqual((got.status, got.done, got.broken), (200, 0, False), what)
                self.assertEqual(got.text(), " one two", what)
                self.assertEqual(got.error()["code"], code, what)
                self.assertEqual(got.finish()[-1], "error", what)
                self.assertEqual(self.charged(), self.price(2), what)
                if asked:
                    said = got.chunks[-2]["usage"]
                    self.assertEqual((said["prompt_tokens"], said["completion_tokens"]),
                                     (self.prompt, 2))
                else:
                    self.assertNotIn(b'"usage"', got.body)

    def test_next_provider(self):
        for streamed in (True, False):
            self.p.default = provider.status(500)
            self.second.default = Answer(chunk(" one") + FINISH + usage(9, 1) + DONE) if streamed \
                else whole(" one", 9, 1)
            got = chat(self.t, self.account(), "both", stream=streamed)
            self.assertEqual((got.status, got.headers["x-tolld-provider"]), (200, "second"))
            self.assertEqual(self.charged(), self.price(1, 9))
            # It had begun with a role: that is nobody's any more.
            if streamed:
                self.says(ROLE, end="cut")
                got = stream(self.t, self.account(), "both")
                self.assertEqual((got.status, len(got.chunks), got.text()), (200, 2, " one"))
                self.assertEqual(got.chunks[0]["id"], "chatcmpl-theirs")

    def test_kept_with_huge_events(self):
        """What is kept goes into records that any ring takes, or is not kept."""
        big = chunk(" one", x="y" * (800 << 10))
        for pad, status in ((0, 200), (1, 410)):
            self.says(*[big] * 2, *[event(**MARK, choices=[], x="y" * (900 << 10))] * 4 * pad,
                      chunk(None, finish="stop"), usage(9, 3), DONE)
            body = {"model": "odd", "stream": True, "n": 1 + pad, "max_tokens": 100000,
                    "messages": [{"role": "user", "content": "hello"}]}
            key = self.account()
            head = {"Idempotency-Key": "big"}
            first = post(self.t, "/v1/chat/completions", body, key, head)
            self.assertEqual((first.status, first.done), (200, 1))
            paid = self.charged()
            again = post(self.t, "/v1/chat/completions", body, key, head)
            self.assertEqual(again.status, status)
            if status == 200:
                self.assertEqual(len(again.body), len(first.body))
                self.assertTrue(again.body == first.body)
            self.assertEqual(self.charged(), paid)

    # Whole answers.

    def test_whole_as_it_came(self):
        """Byte by byte, whatever its form."""
        for answer, paid in ((whole(), self.price(3, 9)), (whole(prompt=None), self.price(2)),
                             (whole(completion=-1), self.price(2)),
                             (whole(completion=10**7), self.price(2)),
                             (whole("", completion=0), self.price(0, 9)),
                             (whole(finish=None), self.price(3, 9)),
                             (whole(finish="something new"), self.price(3, 9))):
            self.p.default = answer
            got = chat(self.t, self.account(), "odd")
            self.assertEqual((got.status, got.body), (200, answer.body))
            self.assertEqual(self.charged(), paid, answer.body)
            self.assertEqual(micro(got.headers["x-tolld-cost"]), paid)
            asked = self.p.seen[-1].body
            self.assertIs(asked["stream"], False)
            self.assertNotIn("stream_options", asked)

    def test_whole_that_is_broken(self):
        for answer in (Answer('{"choices":[', kind="application/json"),
                       Answer(whole().body.decode()[:-20], kind="application/json", end="cut"),
                       Answer(chunk(" one") + FINISH + DONE),
                       Answer('{"choices":[]}', kind="application/json"),
                       Answer('{"choices":"x"}', kind="application/json"),
                       Answer(json.dumps({"choices": [{"index": 0, "message": {
                           "content": "x" * (17 << 20)}}]}), kind="application/json")):
            self.p.default = answer
            got = chat(self.t, self.account(), "odd")
            what = (answer.body[:80], got.body)
            self.assertEqual((got.status, got.error()["code"]), (502, "upstream_error"), what)
            self.assertEqual(self.charged(), 0, what)

    def test_whole_that_takes_too_long(self):
        before = self.t.metric('tolld_upstream_errors_total{provider="odd",kind="request_timeout"}')
        for answer in (Answer(hang="before"), Answer("{", kind="application/json", hang="after")):
            self.p.default = answer
            got = chat(self.t, self.account(), "odd")
            self.assertEqual((got.status, got.error()["code"]), (504, "upstream_timeout"))
            self.assertEqual(got.error()["kind"], "request_timeout")
            self.assertEqual(self.charged(), 0)
            wait_for(lambda: self.p.seen[-1].closed_at, 5, "the call to be left")
        after = self.t.metric('tolld_upstream_errors_total{provider="odd",kind="request_timeout"}')
        self.assertEqual(after - before, 2)

    def test_usage_above_what_was_held(self):
        """The floor holds: what is above it stays uncollected."""
        credit = f"{self.price(3) / 1e6:.6f}"
        self.p.default = whole("x", prompt=200, completion=3)
        got = post(self.t, "/v1/chat/completions", {"model": "odd", "user": "x" * 200, "messages": [
            {"role": "user", "content": "hello there"}]}, self.account(credit))
        self.assertEqual(got.status, 200, got.body)
        self.assertEqual(self.charged(credit), micro(credit))
        self.assertEqual(self.p.seen[-1].body["max_tokens"], 3)


if __name__ == "__main__":
    unittest.main()
