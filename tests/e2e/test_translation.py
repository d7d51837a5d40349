"""Goal:   a client of OpenAI's or Anthropic's API calls a model of a provider of any dialect, and
        gets text, thoughts, tool calls, usage, ends and errors in its own words; each is charged
        as the same answer on any other road, cut at the last token that is paid, and ended at once
        when the client leaves.
Method: the simulated provider in its three dialects under both clients, streamed and in one piece;
        a provider of a few lines for what it was asked.
"""
import http.client
import json
import os
import subprocess
import unittest

from test_dialects import STREAMS as BARE
from test_dialects import named
from test_odd_provider import Provider
from tolld import BUILD, Case, Stream, Tolld, cost, micro, wait_for

EXACT = "exact=o200k_base,prompt=9"
KINDS = {
    "ten": f"sim:tokens=10,{EXACT}",
    "long": f"sim:tokens=2000,{EXACT}",
    "slow": f"sim:tokens=100000,rate=50,{EXACT}",
    "tool": "sim:tool=weather,prompt=9",
    "think": f"sim:tokens=10,think=hm,{EXACT}",
    "cached": f"sim:tokens=10,cached=4,{EXACT}",
    "broken": f"sim:tokens=10,fault=error@5,{EXACT}",
    "cutoff": f"sim:tokens=10,fault=cut@5,{EXACT}",
    "refused": "sim:status=401",
    "fails": "sim:status=500",
    "busy": "sim:status=429,retryafter=7",
    "garbage": f"sim:tokens=10,fault=garbage@3,{EXACT}",
}
# The same as those of real providers, which end their blocks.
STREAMS = dict(BARE, anthropic=BARE["anthropic"][:2] + (BARE["anthropic"][2].replace(
    "event: message_delta", named("content_block_stop", index=0) + "event: message_delta"),))
DIALECTS = {"openai": "/v1", "ollama": "", "anthropic": ""}
WEATHER = {"type": "object", "required": ["city"], "properties": {
    "city": {"type": "string"}, "days": {"type": "integer"}}}
HELLO = [{"role": "user", "content": "hello there"}]


def tokens(text):
    p = subprocess.run([os.path.join(BUILD, "tollctl"), "--json", "tokens", "--tokenizer",
                        "o200k_base"], input=text, capture_output=True, text=True, check=True)
    return json.loads(p.stdout)["tokens"]


class Answer:
    """What a client makes of an answer, whichever it is."""

    def __init__(self):
        self.text = self.thoughts = self.reason = self.error = self.finish = None
        self.calls, self.usage, self.status, self.headers = [], None, 200, {}


def parsed(arguments):
    """A call's; one that was cut stays a text."""
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments


def openai_whole(body):
    a = Answer()
    choice = body["choices"][0]
    message = choice["message"]
    a.text, a.thoughts = message["content"] or "", message.get("reasoning_content", "")
    a.calls = [(c["function"]["name"], parsed(c["function"]["arguments"]))
               for c in message.get("tool_calls") or []]
    a.reason, a.usage = choice["finish_reason"], body["usage"]
    a.usage = (a.usage["prompt_tokens"], a.usage["completion_tokens"],
               a.usage.get("prompt_tokens_details", {}).get("cached_tokens", 0))
    return a


def openai_stream(events):
    a = Answer()
    a.text = a.thoughts = ""
    calls, done = [], False
    for _, data in events:
        assert not done, data
        if data == "[DONE]":
            done = True
            continue
        chunk = json.loads(data)
        a.finish = chunk.get("tolld", {}).get("finish", a.finish)
        if "error" in chunk:
            a.error = chunk["error"]
        if chunk.get("usage"):
            a.usage = (chunk["usage"]["prompt_tokens"], chunk["usage"]["completion_tokens"],
                       chunk["usage"].get("prompt_tokens_details", {}).get("cached_tokens", 0))
        for choice in chunk["choices"]:
            delta = choice["delta"]
            a.text += delta.get("content") or ""
            a.thoughts += delta.get("reasoning_content") or ""
            for c in delta.get("tool_calls") or []:
                if c["index"] == len(calls):
                    assert c["id"] and c["type"] == "function", c
                    calls.append([c["function"]["name"], ""])
                calls[c["index"]][1] += c["function"].get("arguments", "")
            a.reason = choice.get("finish_reason") or a.reason
    assert done == (a.error is None), (done, a.error)
    a.calls = [(n, parsed(x)) for n, x in calls]
    return a


def anthropic_whole(body):
    a = Answer()
    assert body["type"] == "message" and body["role"] == "assistant"
    a.text = "".join(c["text"] for c in body["content"] if c["type"] == "text")
    a.thoughts = "".join(c["thinking"] for c in body["content"] if c["type"] == "thinking")
    a.calls = [(c["name"], c["input"]) for c in body["content"] if c["type"] == "tool_use"]
    a.reason = body["stop_reason"]
    a.usage = anthropic_usage(body["usage"])
    return a


def anthropic_usage(u):
    cached = u.get("cache_read_input_tokens", 0)
    return u.get("input_tokens", 0) + cached, u["output_tokens"], cached


DELTAS = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}


def anthropic_stream(events):
    """As their SDKs read it: every block is begun, goes on, and is ended, in its turn."""
    a = Answer()
    a.text = a.thoughts = ""
    blocks, open_block, ended, started = [], None, False, False
    for _, data in events:
        e = json.loads(data)
        assert not ended, e
        kind = e["type"]
        if kind == "message_start":
            assert not started and e["message"].get("content", []) == [], e
            started, start = True, e["message"]["usage"]
        elif kind == "content_block_start":
            assert started and open_block is None and e["index"] == len(blocks), e
            open_block = e["index"]
            blocks.append([dict(e["content_block"]), ""])
        elif kind == "content_block_delta":
            assert e["index"] == open_block, e
            delta = e["delta"]
            blocks[open_block][1] += delta.get(DELTAS.get(delta["type"]), "")
        elif kind == "content_block_stop":
            assert e["index"] == open_block, e
            open_block = None
        elif kind == "message_delta":
            assert open_block is None, e
            a.reason = e["delta"]["stop_reason"]
            a.finish = e.get("tolld", {}).get("finish")
            a.usage = anthropic_usage(dict(start, **e["usage"]))
        elif kind == "message_stop":
            ended = True
        elif kind == "error":
            a.error, ended = e["error"], True
        else:
            assert kind == "ping", e
    assert ended, "no end"
    for block, text in blocks:
        if block["type"] == "text":
            a.text += text
        elif block["type"] == "thinking":
            a.thoughts += text
        elif block["type"] == "tool_use" and a.error is None:
            a.calls.append((block["name"], parsed(text or "{}")))
    return a


REASONS = {  # ours: (OpenAI's, Anthropic's)
    "stop": ("stop", "end_turn"), "length": ("length", "max_tokens"),
    "tool_calls": ("tool_calls", "tool_use"), "credit": ("length", "max_tokens"),
}


def config(port, models=True):
    text = ""
    for dialect, path in DIALECTS.items():
        text += f'''
provider "{dialect}" {{
    dialect = "{dialect}"
    base_url = "http://127.0.0.1:{port}{path}"
    api_key = "provider-secret-key"
    retries = 0
    breaker_failures = 0
}}
'''
        for name, upstream in KINDS.items() if models else ():
            text += model(f"{name}@{dialect}", upstream, dialect)
    return text


def model(name, upstream, *providers, more=""):
    return f'''
model "{name}" {{
    provider = {{{", ".join(f'"{p}"' for p in providers)}}}
    upstream = "{upstream}"
    tokenizer = "o200k_base"
    price_prompt = 0.15  price_cached = 0.075  price_completion = 0.60
    context = 1000000  max_completion = 100000
    {more}
}}
'''


class Clients:
    """Asks as either client does."""

    at = None

    def _formatMessage(self, msg, standard):
        return super()._formatMessage(f"{self.at} {msg or ''}", standard)

    def ask(self, client, model_name, key, whole=False, **fields):
        anthropic = client == "anthropic"
        path = "/v1/messages" if anthropic else "/v1/chat/completions"
        body = dict({"model": model_name, "messages": HELLO, "stream": not whole}, **fields)
        headers = {"x-api-key": key} if anthropic else {"Authorization": "Bearer " + key}
        if anthropic:
            body.setdefault("max_tokens", 3000)
            headers["anthropic-version"] = "2023-06-01"
        elif not whole:
            body["stream_options"] = {"include_usage": True}
        if whole:
            status, got, data = self.t.request("POST", path, body, headers=headers)
            a = (anthropic_whole if anthropic else openai_whole)(data) if status == 200 \
                else Answer()
            a.finish = got.get("x-tolld-finish")
            if status != 200:
                a.error = data["error"]
                assert not anthropic or data["type"] == "error" and data["request_id"], data
            a.status, a.headers = status, got
            return a
        s = Stream(self.t.port, path, headers, "POST", json.dumps(body))
        if s.status == 200:
            a = (anthropic_stream if anthropic else openai_stream)(s.events())
        else:
            a = Answer()
            a.error = json.loads(s.response.read())["error"]
        a.status, a.headers = s.status, s.response.headers
        s.close()
        return a

    def combinations(self):
        for client in ("openai", "anthropic"):
            for provider in DIALECTS:
                for whole in (False, True):
                    self.at = (client, provider, whole)  # for a failure's message
                    yield self.at

    def reason(self, client, ours):
        return REASONS[ours][client == "anthropic"]

    def balance(self, name):
        wait_for(lambda: self.t.ctl("hold", "list") == [], 10, "holds to be closed")
        return micro(self.t.show(name)["balance"])


class Translation(Clients, Case):
    @classmethod
    def setUpClass(cls):
        cls.t = Tolld(workers=2)
        cls.t.extra = (config(cls.t.sim.port), "slice_tokens = 50", "")
        cls.t.write_config()
        cls.t.start()
        cls.key = cls.t.account("alice", "100")
        body = {"model": KINDS["ten"], "messages": HELLO}
        c = Stream(cls.t.sim.port, "/v1/chat/completions", {}, "POST", json.dumps(body))
        cls.text = json.loads(c.response.read())["choices"][0]["message"]["content"]
        c.close()

    def tearDown(self):
        self.invariants()

    def charged(self, before):
        return before - self.balance("alice")

    def provider_busy(self):
        s = Stream(self.t.sim.port, "/sim/stats")
        busy = json.loads(s.response.read())["open"] > 0
        s.close()
        return busy

    def test_text(self):
        for client, provider, whole in self.combinations():
            before = self.balance("alice")
            a = self.ask(client, f"ten@{provider}", self.key, whole)
            self.assertEqual((a.text, a.thoughts, a.calls), (self.text, "", []))
            self.assertEqual((a.reason, a.usage), (self.reason(client, "stop"), (9, 10, 0)))
            self.assertEqual(self.charged(before), cost(9, 10))
            if whole:
                self.assertEqual(micro(a.headers["x-tolld-cost"]), cost(9, 10))
            self.assertEqual(a.headers["x-tolld-provider"], provider)

    def test_length(self):
        for client, provider, whole in self.combinations():
            before = self.balance("alice")
            a = self.ask(client, f"ten@{provider}", self.key, whole, max_tokens=4)
            self.assertEqual((a.reason, a.usage), (self.reason(client, "length"), (9, 4, 0)))
            self.assertEqual(a.finish, "length")
            self.assertEqual(tokens(a.text), 4)
            self.assertEqual(self.charged(before), cost(9, 4))

    def test_tools(self):
        functions = {"openai": [{"type": "function", "function": {"name": "weather",
                                                                  "parameters": WEATHER}}],
                     "anthropic": [{"name": "weather", "input_schema": WEATHER}]}
        for client, provider, whole in self.combinations():
            before = self.balance("alice")
            a = self.ask(client, f"tool@{provider}", self.key, whole, tools=functions[client])
            self.assertEqual(a.calls, [("weather", {"city": "Paris", "days": 3})])
            self.assertEqual((a.text, a.reason), ("", self.reason(client, "tool_calls")))
            self.assertEqual(self.charged(before), cost(9, a.usage[1]))

    def test_thoughts(self):
        for client, provider, whole in self.combinations():
            before = self.balance("alice")
            a = self.ask(client, f"think@{provider}", self.key, whole)
            self.assertEqual((a.thoughts, a.text), ("hm", self.text))
            self.assertEqual(self.charged(before), cost(9, 10))

    def test_cached_tokens(self):
        for client, provider, whole in self.combinations():
            if provider == "ollama":
                continue  # it does not say
            before = self.balance("alice")
            a = self.ask(client, f"cached@{provider}", self.key, whole)
            self.assertEqual(a.usage, (9, 10, 4))
            self.assertEqual(self.charged(before), cost(5, 10, 4))

    def test_failures_before_the_first_token(self):
        for client, provider, whole in self.combinations():
            before = self.balance("alice")
            for name, status, theirs in (("refused", 502, "api_error"), ("fails", 502, "api_error"),
                                         ("busy", 503, "overloaded_error")):
                a = self.ask(client, f"{name}@{provider}", self.key, whole)
                self.assertEqual(a.status, status, a.error)
                if client == "anthropic":
                    self.assertEqual(a.error["type"], theirs)
                if name == "busy":
                    self.assertEqual(a.headers["Retry-After"], "7")
            self.assertEqual(self.charged(before), 0)

    def test_failures_in_mid_answer(self):
        for client, provider, whole in self.combinations():
            for name, code in (("broken", "upstream_error"), ("cutoff", "upstream_truncated")):
                before = self.balance("alice")
                a = self.ask(client, f"{name}@{provider}", self.key, whole)
                # In one piece nothing was delivered of it.
                own = client == provider
                if whole:
                    self.assertEqual(a.status, 502, (name, a.error))
                    self.assertEqual(a.error["code"], "upstream_error" if own else code)
                    self.assertEqual(self.charged(before), 0)
                    continue
                self.assertEqual((a.status, a.error["code"]), (200, code))
                self.assertEqual(tokens(a.text), 5)
                if client == "anthropic":
                    self.assertEqual(a.error["type"], "api_error")
                self.assertGreaterEqual(self.charged(before), cost(9, 5))

    def test_garbage_is_passed_over(self):
        for client, provider, whole in self.combinations():
            if whole:
                continue
            a = self.ask(client, f"garbage@{provider}", self.key)
            self.assertEqual((a.text, a.error), (self.text, None))

    def test_cut_at_the_last_paid_token(self):
        n = 0
        for client, provider, whole in self.combinations():
            n += 1
            key = self.t.account(f"poor{n}", "0.0001", 0)  # some 160 tokens
            a = self.ask(client, f"long@{provider}", key, whole)
            self.assertEqual((a.status, a.finish), (200, "credit"))
            self.assertEqual(a.reason, self.reason(client, "credit"))
            self.assertEqual(tokens(a.text), a.usage[1])
            left = self.balance(f"poor{n}")
            self.assertEqual(100 - left, cost(a.usage[0], a.usage[1]))
            self.assertTrue(0 <= left <= 1, left)

    def test_no_credit(self):
        empty = self.t.account("empty", 0, 0)
        for client, provider, whole in self.combinations():
            a = self.ask(client, f"ten@{provider}", empty, whole)
            self.assertEqual((a.status, a.headers["x-should-retry"]), (402, "false"))
            self.assertEqual(a.error["type"], "billing_error" if client == "anthropic"
                             else "insufficient_quota")
            self.assertEqual(a.error["code"], "insufficient_credit")
            self.assertGreater(a.error["required"], 0)

    def test_who_leaves_is_not_waited_for(self):
        for client, provider, whole in self.combinations():
            before, seen = self.balance("alice"), len(self.t.sim.requests())
            path = "/v1/messages" if client == "anthropic" else "/v1/chat/completions"
            body = {"model": f"slow@{provider}", "max_tokens": 50000, "messages": HELLO,
                    "stream": not whole}
            if whole:
                s = http.client.HTTPConnection("127.0.0.1", self.t.port)
                s.request("POST", path, json.dumps(body), {"Authorization": "Bearer " + self.key})
                wait_for(self.provider_busy, 10, "the provider to be asked")
                s.close()
            else:
                s = Stream(self.t.port, path, {"Authorization": "Bearer " + self.key}, "POST",
                           json.dumps(body))
                next(s.events())
                s.close()
            wait_for(lambda: len(self.t.sim.requests()) > seen, 10, "the provider to be left")
            self.assertEqual(self.t.sim.requests()[-1]["end"], "client_closed")
            self.assertLess(self.charged(before), cost(100, 1000))

    def test_asked_again_with_the_same_key(self):
        """The first answer again, byte for byte, and paid once; also one that failed, or was cut."""
        for client, provider, whole in self.combinations():
            path = "/v1/messages" if client == "anthropic" else "/v1/chat/completions"
            poor = self.t.account(f"again-{client}-{provider}-{whole}", "0.0001", 0)
            for name, key in (("ten", self.key), ("tool", self.key), ("broken", self.key),
                              ("long", poor)):
                before = self.balance("alice")
                body = json.dumps({"model": f"{name}@{provider}", "max_tokens": 3000,
                                   "messages": HELLO, "stream": not whole})
                headers = {"Authorization": "Bearer " + key, "Idempotency-Key":
                           f"{client}-{provider}-{whole}-{name}"}
                answers, charged = [], []
                for _ in range(2):
                    s = Stream(self.t.port, path, headers, "POST", body)
                    answers.append((s.status, s.response.read()))
                    replayed = s.response.headers["idempotent-replayed"]
                    s.close()
                    charged.append(self.charged(before))
                self.assertEqual(answers[0], answers[1])
                self.assertEqual(charged[0], charged[1])
                self.assertEqual(replayed, "true")

    def test_what_a_key_may_be_called(self):
        status, headers, body = self.t.request("POST", "/v1/messages", {},
                                               headers={"x-api-key": "tk-no"})
        self.assertEqual((status, body["error"]["type"]), (401, "authentication_error"))
        # Under Anthropic's name, too, before anything of the request was read.
        self.assertEqual(headers["request-id"], body["request_id"])
        self.assertEqual(headers["request-id"], headers["x-request-id"])
        status, _, body = self.t.request("POST", "/v1/messages", {}, self.key)
        self.assertEqual((status, body["error"]["type"]), (400, "invalid_request_error"))
        status, headers, body = self.t.request("GET", "/v1/messages", None, self.key)
        self.assertEqual((status, headers["Allow"]), (405, "POST, OPTIONS"))

    def test_count_tokens(self):
        before = self.balance("alice")
        for provider in DIALECTS:
            ask = {"model": f"ten@{provider}", "messages": HELLO, "system": "be brief"}
            status, _, body = self.t.request("POST", "/v1/messages/count_tokens", ask, self.key)
            self.assertEqual((status, list(body)), (200, ["input_tokens"]))
            more = dict(ask, tools=[{"name": "weather", "input_schema": WEATHER}])
            _, _, tools = self.t.request("POST", "/v1/messages/count_tokens", more, self.key)
            self.assertGreater(tools["input_tokens"], body["input_tokens"])
            # The same as what a preview says of it.
            _, _, preview = self.t.request("POST", "/chat/preview", {
                "model": f"ten@{provider}", "messages": [
                    {"role": "system", "content": "be brief"}] + HELLO}, self.key)
            self.assertEqual(body["input_tokens"], preview["prompt_tokens"])
        status, _, body = self.t.request("POST", "/v1/messages/count_tokens",
                                         {"model": "none", "messages": HELLO}, self.key)
        self.assertEqual((status, body["error"]["type"]), (404, "not_found_error"))
        self.assertEqual(self.charged(before), 0)


class Asked(Clients, Case):
    """What a provider is asked, by one that keeps it."""

    @classmethod
    def setUpClass(cls):
        cls.provider = Provider()
        text = config(cls.provider.port, models=False).replace(
            f":{cls.provider.port}", f":{cls.provider.port}/base").replace("/base/v1", "/base")
        for name in DIALECTS:
            text += model(name, name, name)
        text += model("mixed", "mixed", "openai", "anthropic")
        text += model("unseen", "openai", "openai", more="hidden_tokens = true")
        text += '''
provider "auto" {
    dialect = "auto"
    base_url = "http://127.0.0.1:%d/base"
    api_key = "x"
    retries = 0
    breaker_failures = 0
}
''' % cls.provider.port + model("auto", "auto", "auto")
        cls.t = Tolld(config=text, sim=False, ledger="slice_tokens = 50").start()
        cls.addClassCleanup(cls.provider.close)
        cls.key = cls.t.account("alice", "100")

    def setUp(self):
        self.before = len(self.provider.asked)
        self.provider.answers.clear()
        for name, (path, media, answer) in STREAMS.items():
            self.provider.answers[name] = (200, media, answer, False)

    def tearDown(self):
        self.invariants()

    def asked(self):
        """The last request's head and body."""
        self.assertEqual(len(self.provider.asked), self.before + 1)
        self.before += 1
        return self.provider.asked[-1]

    def test_anthropics_fields_go_as_they_came(self):
        fields = {"system": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}],
                  "container": "c", "top_k": 5, "metadata": {"user_id": "u"}, "max_tokens": 77,
                  "tools": [{"type": "bash_20250124", "name": "bash"}],
                  "messages": [{"role": "user", "content": [
                      {"type": "document", "source": {"type": "text", "data": "x"}}]}]}
        status, _, body = self.t.request(
            "POST", "/v1/messages", dict(fields, model="anthropic", stream=True),
            headers={"x-api-key": self.key, "anthropic-beta": "a-1,b-2"})
        self.assertEqual(status, 200, body)
        head, body = self.asked()
        self.assertEqual(body, dict(fields, model="anthropic", stream=True))
        self.assertIn("\r\nanthropic-beta: a-1,b-2", head)
        self.assertEqual(head.count("anthropic-version"), 1)
        self.assertNotIn(self.key, head)
        # Only there.
        self.ask("anthropic", "openai", self.key)
        self.assertNotIn("anthropic-beta", self.asked()[0])

    def test_relayed_events_are_the_providers(self):
        a = self.ask("anthropic", "anthropic", self.key)
        self.assertEqual((a.text, a.reason, a.usage), ("yes", "end_turn", (9, 3, 0)))
        s = Stream(self.t.port, "/v1/messages", {"x-api-key": self.key}, "POST", json.dumps(
            {"model": "anthropic", "max_tokens": 9, "messages": HELLO, "stream": True}))
        lines = s.response.read().decode()
        s.close()
        theirs = STREAMS["anthropic"][2].split("\n\n")
        ours = lines.split("\n\n")
        self.assertEqual(ours[:-3], theirs[:-3])
        delta = json.loads(ours[-3].split("data: ")[1])
        self.assertEqual(delta.pop("tolld"), {"finish": "stop", "cost": cost(9, 3) / 1e6})
        self.assertEqual(delta, json.loads(theirs[-3].split("data: ")[1]))

    def test_in_one_piece_as_it_came(self):
        whole = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude",
                 "content": [{"type": "thinking", "thinking": "hm", "signature": "c2ln"},
                             {"type": "text", "text": "yes"}], "stop_reason": "end_turn",
                 "stop_sequence": None, "usage": {"input_tokens": 5, "output_tokens": 3,
                                                  "cache_read_input_tokens": 4,
                                                  "cache_creation_input_tokens": 2}}
        self.provider.answers["anthropic"] = (200, "application/json", json.dumps(whole), False)
        before = self.balance("alice")
        status, headers, body = self.t.request(
            "POST", "/v1/messages", {"model": "anthropic", "max_tokens": 9, "messages": HELLO},
            headers={"x-api-key": self.key})
        self.assertEqual((status, body), (200, whole))
        self.assertEqual(self.asked()[1]["stream"], False)
        self.assertEqual(before - self.balance("alice"), cost(7, 3, 4))
        self.assertEqual(micro(headers["x-tolld-cost"]), cost(7, 3, 4))

    def test_anthropics_words_for_others(self):
        fields = {
            "system": "be brief", "stop_sequences": ["END"], "temperature": 0.5, "max_tokens": 77,
            "messages": [
                {"role": "user", "content": [
                    {"type": "text", "text": "look"},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png",
                                                 "data": "QUJD"}}]},
                {"role": "assistant", "content": [
                    {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}}]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "content": "sun"}]}],
            "tools": [{"name": "f", "description": "d", "input_schema": WEATHER}],
            "tool_choice": {"type": "auto"}}
        self.ask("anthropic", "openai", self.key, **fields)
        function = {"name": "f", "description": "d", "parameters": WEATHER}
        self.assertEqual(self.asked()[1], {
            "model": "openai", "stream": True, "stream_options": {"include_usage": True},
            "max_tokens": 77, "stop": ["END"], "temperature": 0.5, "tool_choice": "auto",
            "tools": [{"type": "function", "function": function}],
            "messages": [
                {"role": "system", "content": "be brief"},
                {"role": "user", "content": [
                    {"type": "text", "text": "look"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}]},
                {"role": "assistant", "content": None, "tool_calls": [
                    {"id": "t1", "type": "function",
                     "function": {"name": "f", "arguments": '{"a": 1}'}}]},
                {"role": "tool", "tool_call_id": "t1", "content": "sun"}]})
        self.ask("anthropic", "ollama", self.key, **fields)
        self.assertEqual(self.asked()[1], {
            "model": "ollama", "stream": True,
            "options": {"stop": ["END"], "temperature": 0.5, "num_predict": 77},
            "tools": [{"type": "function", "function": function}],
            "messages": [
                {"role": "system", "content": "be brief"},
                {"role": "user", "content": "look", "images": ["QUJD"]},
                {"role": "assistant", "content": "", "tool_calls": [
                    {"id": "t1", "function": {"name": "f", "arguments": {"a": 1}}}]},
                {"role": "tool", "content": "sun", "tool_name": "f"}]})
        # A whole answer is streamed where it has to be put together, and its limit has the name
        # that the model knows.
        self.ask("anthropic", "unseen", self.key, whole=True)
        body = self.asked()[1]
        self.assertTrue(body["stream"])
        self.assertIn("max_completion_tokens", body)

    def test_openais_words_for_others(self):
        image = {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}
        fields = {"messages": [{"role": "user", "content": [image]}], "max_tokens": 77,
                  "thinking": {"type": "enabled", "budget_tokens": 1024}, "tool_choice": "required",
                  "tools": [{"type": "function", "function": {"name": "f", "parameters": WEATHER}}]}
        self.ask("openai", "anthropic", self.key, whole=True, **fields)
        self.assertEqual(self.asked()[1], {
            "model": "anthropic", "stream": True, "max_tokens": 77,
            "thinking": fields["thinking"], "tool_choice": {"type": "any"},
            "tools": [{"name": "f", "input_schema": WEATHER}],
            "messages": [{"role": "user", "content": [
                {"type": "image", "source": {"type": "url", "url": "https://x.example/a.png"}}]}]})

    def test_what_has_no_place_is_named(self):
        tool = [{"type": "function", "function": {"name": "f"}}]
        for provider, field, value, more in (
                ("anthropic", "seed", 5, {}), ("anthropic", "logprobs", True, {}),
                ("anthropic", "n", 2, {}), ("ollama", "n", 2, {}),
                ("ollama", "logit_bias", {"1": 2}, {}), ("ollama", "audio", {"voice": "x"}, {}),
                ("ollama", "tool_choice", "required", {"tools": tool}),
                ("ollama", "tools", [{"type": "custom", "custom": {"name": "f"}}], {}),
                ("ollama", "messages", [{"role": "user", "content": [
                    {"type": "image_url", "image_url": {"url": "https://x.example/a"}}]}], {}),
                ("anthropic", "messages", [{"role": "user", "content": [
                    {"type": "input_audio", "input_audio": {"data": "x"}}]}], {})):
            for whole in (False, True):
                a = self.ask("openai", provider, self.key, whole, **dict(more, **{field: value}))
                self.assertEqual((a.status, a.error["param"]), (400, field), a.error)
                self.assertIn(f"'{field}'", a.error["message"])
        for provider, field, value in (
                ("openai", "container", "c"), ("openai", "top_k", 5), ("ollama", "mcp_servers", [1]),
                ("ollama", "tools", [{"type": "bash_20250124", "name": "bash"}]),
                ("openai", "messages", [{"role": "user", "content": [
                    {"type": "document", "source": {}}]}]),
                ("ollama", "messages", [{"role": "user", "content": [
                    {"type": "image", "source": {"type": "url", "url": "https://x.example/a"}}]}]),
                ("anthropic", "max_tokens", 0), ("anthropic", "messages", []),
                ("anthropic", "stream", "yes")):
            a = self.ask("anthropic", provider, self.key, True, **{field: value}) \
                if field != "stream" else None
            if a is None:
                continue
            self.assertEqual((a.status, a.error["type"], a.error["param"]),
                             (400, "invalid_request_error", field), a.error)
            self.assertIn(f"'{field}'", a.error["message"])
        for headers in ({"anthropic-version": "2023-01-01"}, {"anthropic-beta": "x" * 2000}):
            status, _, body = self.t.request(
                "POST", "/v1/messages", {"model": "anthropic", "max_tokens": 9, "messages": HELLO},
                headers=dict(headers, **{"x-api-key": self.key}))
            self.assertEqual((status, body["error"]["param"]), (400, list(headers)[0]))
        self.assertEqual(len(self.provider.asked), self.before)
        self.assertEqual(self.t.ctl("hold", "list"), [])

    def test_a_stand_in_of_another_dialect(self):
        path, media, answer = STREAMS["anthropic"]
        self.provider.answers[path] = (200, media, answer, False)
        self.provider.answers["mixed"] = (500, "application/json", "{}", False)
        for client in ("openai", "anthropic"):
            for whole in (False, True):
                before = self.balance("alice")
                if client == "anthropic" and whole:
                    continue  # the stand-in is asked for one piece, and streams
                a = self.ask(client, "mixed", self.key, whole)
                self.assertEqual((a.text, a.usage), ("yes", (9, 3, 0)), (client, whole, a.error))
                self.assertEqual(before - self.balance("alice"), cost(9, 3))

    def test_auto(self):
        """What it speaks is found out by its answer, and translated if it must be."""
        for client in ("openai", "anthropic"):
            for spoken in STREAMS:
                self.provider.answers["auto"] = (200, STREAMS[spoken][1], STREAMS[spoken][2], False)
                a = self.ask(client, "auto", self.key)
                self.assertEqual((a.text, a.usage), ("yes", (9, 3, 0)), (client, spoken, a.error))
            self.provider.answers["auto"] = (200, STREAMS["openai"][1], STREAMS["openai"][2], False)
        a = self.ask("anthropic", "auto", self.key, whole=True)
        self.assertEqual((a.text, a.usage), ("yes", (9, 3, 0)), a.error)

    def test_calls_that_are_mixed_up(self):
        chunk = 'data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":%d%s}]}}]}\n\n'
        named = ',"id":"%s","function":{"name":"f","arguments":"{"}'
        more = ',"function":{"arguments":"}"}'
        self.provider.answers["openai"] = (200, "text/event-stream", (
            chunk % (0, named % "a") + chunk % (1, named % "b") + chunk % (0, more)), False)
        a = self.ask("anthropic", "openai", self.key)
        self.assertEqual((a.status, a.error["code"]), (200, "upstream_error"))
        self.assertIn("mixed up", a.error["message"])

    def endless(self, dialect, kind, words):
        """An answer that keeps to no limit, and never says how it ends: text, thoughts or a call
        in pieces of some words."""
        pieces = [words[i:i + 40] for i in range(0, len(words), 40)]
        if dialect == "openai":
            start = {"call": [{"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": {
                "name": "f", "arguments": ""}}]}]}.get(kind, [])
            deltas = start + [{"text": {"content": p}, "thought": {"reasoning_content": p}, "call": {
                "tool_calls": [{"index": 0, "function": {"arguments": p}}]}}[kind] for p in pieces]
            return "".join("data: " + json.dumps({"choices": [{
                "index": 0, "delta": d, "finish_reason": None}]}) + "\n\n" for d in deltas)
        if dialect == "ollama":
            return "".join(json.dumps({"message": dict({"role": "assistant", "content": ""}, **{
                "text": {"content": p}, "thought": {"thinking": p}, "call": {"tool_calls": [
                    {"function": {"name": "f", "arguments": {"p": p}}}]}}[kind]),
                "done": False}) + "\n" for p in pieces)
        block, delta = {
            "text": ({"type": "text", "text": ""}, ("text_delta", "text")),
            "thought": ({"type": "thinking", "thinking": ""}, ("thinking_delta", "thinking")),
            "call": ({"type": "tool_use", "id": "t", "name": "f", "input": {}},
                     ("input_json_delta", "partial_json"))}[kind]
        return (named("message_start", message={"usage": {"input_tokens": 9}}) +
                named("content_block_start", index=0, content_block=block) +
                "".join(named("content_block_delta", index=0,
                              delta={"type": delta[0], delta[1]: p}) for p in pieces))

    def test_a_provider_that_knows_no_limit_is_cut(self):
        """What was delivered is what was charged, to the token; every answer is well formed."""
        words = "some words of an answer that goes on and on, " * 200
        for provider, (_, media, _) in STREAMS.items():
            for kind in ("text", "thought", "call"):
                self.provider.answers[provider] = (
                    200, media, self.endless(provider, kind, words), False)
                for client, _, whole in self.combinations():
                    if whole and client == provider:
                        continue  # such a provider is not asked for a stream
                    self.at = client, provider, whole, kind
                    name = f"p-{client}-{provider}-{whole}-{kind}"
                    if self.t.ctl("account", "show", name, check=False).returncode == 0:
                        continue
                    key = self.t.account(name, "0.00005", 0)  # some 80 tokens
                    a = self.ask(client, provider, key, whole)
                    self.assertEqual((a.status, a.finish), (200, "credit"), a.error)
                    self.assertEqual(a.reason, self.reason(client, "credit"))
                    left = self.balance(name)
                    self.assertTrue(0 <= left <= 1, left)
                    self.assertEqual(50 - left, cost(a.usage[0], a.usage[1]))
                    if kind == "text" or (kind == "thought" and client != provider):
                        said = a.text if kind == "text" else a.thoughts
                        self.assertTrue(words.startswith(said))
                        self.assertEqual(tokens(said), a.usage[1])

    def test_what_tools_add_to_the_prompt_is_believed(self):
        """Anthropic's models read some hundred tokens more when there are tools, and what the
        provider's own tools found."""
        def answer(prompt):
            self.provider.answers["anthropic"] = (200, "text/event-stream", STREAMS["anthropic"][2]
                .replace('"input_tokens": 9', f'"input_tokens": {prompt}'), False)
        answer(500)
        before = self.balance("alice")
        self.ask("openai", "anthropic", self.key, tools=[
            {"type": "function", "function": {"name": "f"}}])
        self.assertEqual(before - self.balance("alice"), cost(500, 3))
        answer(50000)
        before = self.balance("alice")
        self.ask("anthropic", "anthropic", self.key, tools=[
            {"type": "web_search_20250305", "name": "web_search"}])
        self.assertEqual(before - self.balance("alice"), cost(50000, 3))
        # Without them nothing explains so much.
        answer(50000)
        before = self.balance("alice")
        self.ask("anthropic", "anthropic", self.key)
        self.assertLess(before - self.balance("alice"), cost(100, 100))

    def test_thinking_needs_its_budget(self):
        poor = self.t.account("poor", "0.0001", 0)
        thinking = {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 3000}
        a = self.ask("anthropic", "anthropic", poor, **thinking)
        self.assertEqual((a.status, a.error["type"]), (402, "billing_error"))
        a = self.ask("anthropic", "anthropic", self.key, **thinking)
        self.assertEqual((a.status, self.asked()[1]["max_tokens"]), (200, 3000))


if __name__ == "__main__":
    unittest.main()
