"""Goal:   docs/openapi.yaml is what the daemon does: its routes, fields, headers and errors.
Method: the worker's table of routes against the paths, both ways; every operation is called, with
        and without what it needs, and each answer is held against the schema of its status, each
        event of a stream against its own; the requests that are sent fit their schemas, too.
"""
import json
import os
import re
import unittest

import jsonschema  # Debian's python3-jsonschema and python3-yaml
import yaml

from tolld import ROOT, Case, Stream

with open(os.path.join(ROOT, "docs/openapi.yaml")) as f:
    API = yaml.safe_load(f)
# What any path may answer, by the introduction.
ANYWHERE = {"400", "405", "408", "414", "417", "431", "500", "501", "505"}
METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")


def resolve(node):
    """A reference's target, where it is one."""
    while isinstance(node, dict) and set(node) == {"$ref"}:
        target = API
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part.replace("~1", "/").replace("~0", "~")]
        node = target
    return node


def operations():
    for path, item in API["paths"].items():
        for method, op in resolve(item).items():
            if method in METHODS:
                yield path, method, op


def check(schema, value):
    """As JSON Schema 2020-12, with references into the document."""
    schema = dict(schema, **{"$schema": "https://json-schema.org/draft/2020-12/schema",
                             "components": API["components"]})
    jsonschema.Draft202012Validator(schema).validate(value)


class Document(unittest.TestCase):
    def test_all_routes(self):
        with open(os.path.join(ROOT, "daemon/worker.c")) as f:
            table = f.read().split("routes[] = {")[1].split("};")[0]
        have = {(path.replace("/*", "/{id}"), method.lower())
                for path, method in re.findall(r'\{"([^"]+)",\s*HTTP_([A-Z]+)', table)}
        self.assertGreater(len(have), 10)
        self.assertEqual({(p, m) for p, m, _ in operations()}, have)

    def test_references_and_schemas(self):
        """Each reference has a target, each schema is one, nothing lies about unused."""
        used = set()

        def walk(node, path):
            if isinstance(node, dict):
                if "$ref" in node:
                    used.add(node["$ref"])
                    resolve({"$ref": node["$ref"]})
                for k, v in node.items():
                    walk(v, path + [k])
                if "schema" in node and path[-1:] != ["properties"]:
                    jsonschema.Draft202012Validator.check_schema(node["schema"])
            elif isinstance(node, list):
                for v in node:
                    walk(v, path)
        walk(API, [])
        for kind, parts in API["components"].items():
            for name, part in parts.items():
                if kind == "schemas":
                    jsonschema.Draft202012Validator.check_schema(part)
                if kind != "securitySchemes":
                    self.assertIn(f"#/components/{kind}/{name}", used)

    def test_the_version(self):
        with open(os.path.join(ROOT, "etc/VERSION")) as f:
            self.assertEqual(API["info"]["version"], f.read().strip())

    def test_codes(self):
        """Whatever the sources call an error's code is in the list."""
        codes = set()
        for name in os.listdir(os.path.join(ROOT, "daemon")):
            if name.endswith(".c") and not name.startswith("admin"):
                with open(os.path.join(ROOT, "daemon", name)) as f:
                    codes |= set(re.findall(r'\.?code = "([a-z_]+)"', f.read()))
        self.assertGreater(len(codes), 2)
        self.assertLessEqual(codes, set(API["components"]["schemas"]["Code"]["enum"]))


class Running(Case):
    OPTIONS = {"models": {"slow": "sim:tokens=100000,rate=20", "dead": "nobody",
                          "cut": "sim:tokens=20,fault=cut@8", "much": "sim:tokens=5000"},
               "config": "limits { requests_per_minute = 100000 tokens_per_minute = 100000000 }\n"
                         "first_sight { grant = 1 max_accounts = 1 }"}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.key = cls.t.account("alice", "50")
        cls.poor = cls.t.account("bob", overdraft="0")
        cls.minter = cls.t.ctl("key", "create", "alice", "--scope", "mint,chat")["key"]
        cls.answered = set()

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        good = {(p, m) for p, m, s in cls.answered if s.startswith("2")}
        missing = {(p, m) for p, m, op in operations()
                   if any(s.startswith("2") for s in op["responses"])} - good
        assert not missing, f"never answered: {missing}"

    def operation(self, path, method):
        return resolve(API["paths"][path])[method]

    def headers(self, answer, headers):
        for name, header in answer.get("headers", {}).items():
            header = resolve(header)
            value = headers.get(name)
            if value is None:
                self.assertFalse(header.get("required"), f"{name} is missing")
                continue
            number = resolve(header["schema"]).get("type") == "integer"
            check(header["schema"], int(value) if number else value)

    def call(self, path, method, status, body=None, key=None, headers=None, query="", at=None,
             good=True):
        """Call it; its answer has to have this status, and to be as the document says."""
        op = self.operation(path, method)
        if body is not None and good:
            check(resolve(op["requestBody"])["content"]["application/json"]["schema"], body)
        got, h, data = self.t.request(method.upper(), (at or path) + query, body, key, headers)
        self.assertEqual(got, status, data)
        self.assertIn(str(status), set(op["responses"]) | ANYWHERE)
        if str(status) in op["responses"]:
            answer = resolve(op["responses"][str(status)])
            self.headers(answer, h)
            kind = (h.get("Content-Type") or "").split(";")[0]
            content = answer.get("content", {})
            if content or kind:
                self.assertIn(kind, content)
            if kind == "application/json":
                check(content[kind]["schema"], data)
            elif kind == "text/event-stream":
                schema = content[kind]["x-event"]
                self.events(schema.get((re.findall("format=([a-z]+)", query) or ["typed"])[0],
                                       schema), data.decode())
        self.answered.add((path, method, str(status)))
        return data

    def events(self, schema, text):
        seen = [line[6:] for line in text.split("\n") if line.startswith("data: ")]
        self.assertTrue(seen)
        for data in seen:
            if data != "[DONE]":
                check(schema, json.loads(data))

    def test_preview_and_send(self):
        chat = {"message": "hi there", "max_tokens": 5, "temperature": 0.5}
        more = {"model": "sim", "messages": [{"role": "user", "content": [
            {"type": "text", "text": "hi"}]}]}
        for path in ("/chat/preview", "/chat/send"):
            for body in (chat, more):
                self.call(path, "post", 200, body, self.key)
            self.call(path, "post", 401, chat)
            self.call(path, "post", 400, {"messages": "x"}, self.key, good=False)
            self.call(path, "post", 400, {}, self.key, good=False)
            self.call(path, "post", 404, dict(chat, model="none"), self.key)
            self.call(path, "post", 413, {"message": "x" * (1 << 20)}, self.key)
            narrow = self.t.ctl("key", "create", "alice", "--scope", "embeddings")["key"]
            self.call(path, "post", 403, chat, narrow)
        self.call("/chat/send", "post", 402, chat, self.poor)
        again = {"Idempotency-Key": "one"}
        a = self.call("/chat/send", "post", 200, chat, self.key, again)
        self.assertEqual(self.call("/chat/send", "post", 200, chat, self.key, again), a)
        self.call("/chat/send", "post", 409, more, self.key, again)
        capped = self.t.ctl("key", "create", "alice", "--cap", "0.000001", "--per", "day")["key"]
        self.call("/chat/send", "post", 402, chat, capped)

    def test_budgets(self):
        """All that a budget adds to an answer is in the document, on each road."""
        key = self.t.account("thrifty", "5")
        said = {"messages": [{"role": "user", "content": "hi"}]}
        for name in ("day", "month"):
            for text, allowed in (("0.0005", True), ("0.000001", False)):
                self.t.ctl("account", "set", "thrifty", f"--budget-{name}", text)
                self.assertIn(f"budget_{name}", self.call("/balance", "get", 200, key=key))
                preview = self.call("/chat/preview", "post", 200, {"message": "hi"}, key)
                self.assertEqual((preview["allowed"], preview.get("short_of")),
                                 (allowed, None if allowed else f"budget_{name}"))
                if allowed:
                    sent = self.call("/chat/send", "post", 200, {"message": "hi", "model": "slow"},
                                     key)
                    self.call("/stream", "delete", 200, query=f"?id={sent['stream_id']}")
            for path, body in (("/chat/send", {"message": "hi"}), ("/api/chat", {"message": "hi"}),
                               ("/v1/chat/completions", said)):
                e = self.call(path, "post", 402, body, key)["error"]
                self.assertEqual(e["code"], "budget_exceeded")
                self.assertIn(f"budget_{name}", e)
            self.t.ctl("account", "set", "thrifty", f"--budget-{name}", "0")
        # Cut by one: the end says it.
        self.t.ctl("account", "set", "thrifty", "--budget-day", "0.0005")
        answer = self.call("/api/chat", "post", 200, {"message": "hi", "model": "much"}, key)
        self.assertEqual((answer["finish_reason"], answer["short_of"]), ("credit", "budget_day"))
        self.t.ctl("account", "set", "thrifty", "--budget-day", "0.001")
        sent = self.call("/chat/send", "post", 200, {"message": "hi", "model": "much"}, key)
        text = self.call("/stream", "get", 200, query=f"?id={sent['stream_id']}")
        self.assertIn('"short_of":"budget_day"', text.decode())
        self.t.ctl("account", "set", "thrifty", "--budget-day", "0.0015")
        text = self.call("/v1/chat/completions", "post", 200,
                         dict(said, model="much", stream=True), key)
        self.assertIn('"short_of":"budget_day"', text.decode())

    def test_a_web_sockets_handshake(self):
        at = "/ws/chat/alice"
        self.call("/ws/chat/{id}", "get", 426, key=self.key, at=at)
        self.call("/ws/chat/{id}", "get", 401, at=at)
        good = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
        self.call("/ws/chat/{id}", "get", 400, key=self.key, at=at, headers=good)
        good["Sec-WebSocket-Key"] = "AAAAAAAAAAAAAAAAAAAAAA=="
        e = self.call("/ws/chat/{id}", "get", 403, key=self.key, at=at,
                      headers=dict(good, Origin="https://elsewhere.example"))
        self.assertEqual(e["error"]["code"], "origin_not_allowed")
        e = self.call("/ws/chat/{id}", "get", 403, key=self.key, at="/ws/chat/bob", headers=good)
        self.assertEqual(e["error"]["code"], "account_mismatch")

    def test_roles_in_the_history(self):
        for role in ("system", "developer", "tool", "user"):
            sent = self.call("/chat/send", "post", 200, {"messages": [
                {"role": role, "content": "x", "tool_call_id": "1"}]}, self.key, good=False)
            self.t.request("DELETE", f"/stream?id={sent['stream_id']}")
            page = self.call("/chat/history", "get", 200, key=self.key,
                             query=f"?session_id={sent['session_id']}")
            self.assertEqual(page["messages"][0]["role"], role)

    def test_limits(self):
        key = self.t.account("carol", "5")
        self.t.ctl("account", "set", "carol", "--rpm", "1")
        body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
        self.call("/chat/send", "post", 200, {"message": "hi"}, key)
        self.call("/chat/send", "post", 429, {"message": "hi"}, key)
        self.call("/v1/chat/completions", "post", 429, body, key)
        self.call("/v1/embeddings", "post", 429, {"input": "hi"}, key)
        self.call("/v1/messages", "post", 429, body, key)

    def test_stream(self):
        for path in ("/stream", "/chat/stream"):
            for fmt in ("typed", "openai", "content", "text"):
                sent = self.t.send(self.key, "hi", stream_options={"include_usage": True})
                query = f"?id={sent['stream_id']}&format={fmt}"
                self.call(path, "get", 200, query=query)
                self.call(path, "post", 200, {"id": sent["stream_id"]})
            s = Stream(self.t.port, f"{path}?id={sent['stream_id']}")
            list(s.events())
            s.close()
            self.call(path, "get", 204, query=query, headers={"Last-Event-ID": s.last_id})
            self.call(path, "get", 400)
            self.call(path, "get", 400, query=query + "x")
            self.call(path, "get", 404, query="?id=" + "A" * 28)
            self.call(path, "post", 404, {"id": "A" * 28})
            self.call(path, "post", 400, {}, good=False)
            self.call(path, "delete", 404, query="?id=" + "A" * 28)
            self.call(path, "delete", 400)
            slow = self.t.send(self.key, "hi", "slow")
            self.call(path, "delete", 200, query=f"?id={slow['stream_id']}")

    def test_streams_that_fail(self):
        for model in ("cut", "dead"):
            for fmt in ("typed", "content"):
                sent = self.t.send(self.key, "hi", model)
                self.call("/stream", "get", 200, query=f"?id={sent['stream_id']}&format={fmt}")
        sent = self.t.send(self.key, "hi", "cut")
        self.call("/stream", "get", 200, query=f"?id={sent['stream_id']}&format=openai")
        sent = self.t.send(self.key, "hi", "dead")
        self.call("/stream", "get", 502, query=f"?id={sent['stream_id']}&format=openai")

    def test_history(self):
        key = self.t.account("dora", "5")
        for model in ("sim", "cut"):
            sent = self.t.send(key, "hi", model)
            list(self.t.open(sent["stream_id"]).events())
        slow = self.t.send(key, "hi", "slow", session_id=sent["session_id"])
        running = self.t.open(slow["stream_id"])
        next(running.events())
        one = f"?session_id={sent['session_id']}"
        self.call("/chat/history", "get", 200, key=key)
        self.call("/chat/history", "get", 200, key=key, query=one)
        page = self.call("/chat/history", "get", 200, key=key, query=one + "&limit=1")
        self.call("/chat/history", "get", 200, key=key,
                  query=one + f"&limit=1&before={page['next']}")
        self.t.request("DELETE", f"/stream?id={slow['stream_id']}")
        running.close()
        self.call("/chat/history", "get", 401)
        self.call("/chat/history", "get", 400, key=key, query="?limit=0")
        self.call("/chat/history", "get", 404, key=key, query="?session_id=" + "A" * 22)
        self.call("/chat/history", "delete", 200, key=key, query=one)
        self.call("/chat/history", "delete", 400, key=key)

    def test_receipts(self):
        for model in ("sim", "cut", "dead"):
            sent = self.t.send(self.key, "hi", model)
            query = f"?id={sent['stream_id']}"
            self.assertEqual(self.call("/receipt", "get", 200, key=self.key, query=query)["state"],
                             "waiting")
            list(self.t.open(sent["stream_id"]).events())
            self.assertEqual(self.call("/receipt", "get", 200, key=self.key, query=query)["state"],
                             "ended")
        slow = self.t.send(self.key, "hi", "slow")
        running = self.t.open(slow["stream_id"])
        while "token" not in next(running.events())[1]:
            pass
        self.assertEqual(self.call("/receipt", "get", 200, key=self.key,
                                   query=f"?id={slow['stream_id']}")["state"], "running")
        self.t.request("DELETE", f"/stream?id={slow['stream_id']}")
        running.close()
        self.call("/receipt", "get", 400, key=self.key)
        self.call("/receipt", "get", 401, query=query)
        self.call("/receipt", "get", 404, key=self.poor, query=query)
        capped = self.t.account("erin", "0.0002", "0")
        sent = self.t.send(capped, "hi", "much")
        list(self.t.open(sent["stream_id"]).events())
        r = self.call("/receipt", "get", 200, key=capped, query=f"?id={sent['stream_id']}")
        self.assertEqual(r["short_of"], "credit")
        self.call("/chat/history", "get", 200, key=capped, query=f"?session_id={r['session_id']}")

    def test_api_chat(self):
        chat = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
        for path in ("/api/chat/stream", "/api/chat"):
            self.call(path, "post", 200, chat, self.key)
            self.call(path, "post", 200, {"message": "hi"}, self.key)
            for status, change, key in ((401, {}, None), (402, {}, self.poor),
                                        (404, {"model": "none"}, self.key),
                                        (502, {"model": "dead"}, self.key)):
                self.call(path, "post", status, dict(chat, **change), key)
            self.call(path, "post", 400, {}, self.key, good=False)
        self.call("/api/chat/stream", "post", 200, dict(chat, model="cut", max_tokens=15), self.key)

    def test_users(self):
        """That a key names: the first one is let in, a second one is one too many."""
        key = self.t.ctl("key", "create", "alice", "--trust-user-header")["key"]
        for status, user in ((200, "u1"), (403, "u2"), (400, "u 3")):
            self.call("/chat/preview", "post", status, {"message": "hi"}, key,
                      {"X-OpenWebUI-User-Id": user})

    def test_account(self):
        self.call("/balance", "get", 200, key=self.key)
        self.call("/balance", "get", 401)
        self.call("/keys", "post", 200, {"ttl": 60}, self.minter)
        self.call("/keys", "post", 200, {"ttl": 60, "scope": ["chat"], "model": "sim,slow"},
                  self.minter)
        self.call("/keys", "post", 400, {"ttl": 0}, self.minter, good=False)
        self.call("/keys", "post", 400, {"ttl": 5, "cap": 1}, self.minter, good=False)
        self.call("/keys", "post", 401, {"ttl": 5})
        self.call("/keys", "post", 403, {"ttl": 5}, self.key)
        self.call("/keys", "post", 403, {"ttl": 5, "account": "bob"}, self.minter)

    def test_openai(self):
        body = {"model": "sim", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
        path = "/v1/chat/completions"
        self.call(path, "post", 200, body, self.key)
        self.call(path, "post", 200, dict(body, stream=True), self.key)
        self.call(path, "post", 200, dict(body, stream=True,
                                          stream_options={"include_usage": True}), self.key)
        self.call(path, "post", 200, dict(body, model="cut", stream=True, max_tokens=15), self.key)
        for status, change, key in ((401, {}, None), (402, {}, self.poor),
                                    (404, {"model": "none"}, self.key),
                                    (502, {"model": "dead"}, self.key)):
            self.call(path, "post", status, dict(body, **change), key)
        self.call(path, "post", 400, dict(body, n=0), self.key, good=False)
        again = {"Idempotency-Key": "two"}
        self.call(path, "post", 200, body, self.key, again)
        self.call(path, "post", 200, body, self.key, again)
        self.call(path, "post", 409, dict(body, max_tokens=4), self.key, again)
        self.call("/v1/models", "get", 200, key=self.key)
        self.call("/v1/models", "get", 401)
        self.call("/v1/models/{id}", "get", 200, key=self.key, at="/v1/models/sim")
        self.call("/v1/models/{id}", "get", 404, key=self.key, at="/v1/models/none")
        self.call("/v1/embeddings", "post", 200, {"model": "sim", "input": "hi"}, self.key)
        self.call("/v1/embeddings", "post", 200, {"model": "sim", "input": ["a", "b"]}, self.key)
        self.call("/v1/embeddings", "post", 400, {"input": []}, self.key, good=False)
        self.call("/v1/embeddings", "post", 402, {"input": "hi"}, self.poor)

    def test_anthropic(self):
        body = {"model": "sim", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
        path = "/v1/messages"
        self.call(path, "post", 200, body, headers={"x-api-key": self.key})
        self.call(path, "post", 200, dict(body, stream=True), self.key)
        self.call(path, "post", 200, dict(body, stream=True, model="cut", max_tokens=15), self.key)
        for p in (path, path + "/count_tokens"):
            self.call(p, "post", 401, body)
            self.call(p, "post", 404, dict(body, model="none"), self.key)
            self.call(p, "post", 400, dict(body, messages=[]), self.key, good=False)
        self.call(path, "post", 402, body, self.poor)
        self.call(path, "post", 502, dict(body, model="dead"), self.key)
        self.call(path + "/count_tokens", "post", 200, body, self.key)

    def test_any_path_refuses_other_methods(self):
        for path in API["paths"]:
            takes = {m.upper() for m in resolve(API["paths"][path]) if m in METHODS}
            status, h, data = self.t.request("PATCH", path.replace("{id}", "sim"), key=self.key)
            self.assertEqual(status, 405)
            check(API["components"]["schemas"]["AnthropicError" if "messages" in path else "Error"],
                  data)
            allowed = {m.strip() for m in h["Allow"].split(",")}
            self.assertEqual(allowed - {"HEAD", "OPTIONS"}, takes)
            status, _, _ = self.t.request("OPTIONS", path.replace("{id}", "sim"))
            self.assertEqual(status, 204)


if __name__ == "__main__":
    unittest.main()
