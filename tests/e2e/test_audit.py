"""Goal:   what an auditor asks of the whole: every route under every kind of key; paths and bodies made
        to be misread; thousands of connections that say nothing; and that nothing secret, and nothing
        that anybody said, is in the log or the metrics, whatever went wrong.
Method: the table of routes is read from the source, so that a new route is asked the same; raw
        sockets; a provider that quotes what it was sent; TOLLD_TEST_IDLE connections (default 2,000,
        `make check-full`: 10,000).
"""
import base64
import hashlib
import hmac
import http.client
import json
import os
import re
import resource
import socket
import time
import unittest

import provider
from provider import DONE, FINISH, ROLE, Answer, good, status, text, usage
from tolld import PATIENCE, ROOT, SLOW, Case, micro, wait_for

IDLE = int(os.environ.get("TOLLD_TEST_IDLE", "2000"))

# Who needs no key has an unguessable id, or sees a page.
OPEN = {"/stream", "/chat/stream", "/", "/ws/chat/*"}
ROW = re.compile(r'\{"(/[^"]*)",\s*([A-Z_ |]+),\s*(ROUTE_OPEN|ROUTE_ANY_KEY|KEY_SCOPE_[A-Z]+),')


def routes():
    """(method, path, scope) of every row of the workers' table."""
    with open(os.path.join(ROOT, "daemon", "worker.c")) as f:
        rows = ROW.findall(f.read())
    assert len(rows) >= 18, rows
    for path, methods, scope in rows:
        for m in methods.split("|"):
            m = m.strip()
            if m.startswith("HTTP_"):
                yield m.removeprefix("HTTP_"), path, scope


def token(secret, sub, alg="HS256", **claims):
    def part(data):
        return base64.urlsafe_b64encode(json.dumps(data).encode()).rstrip(b"=")
    claims = dict({"sub": sub, "aud": "chat", "exp": int(time.time()) + 3000}, **claims)
    said = part({"alg": alg}) + b"." + part(claims)
    mac = hmac.new(secret, said, hashlib.sha256).digest()
    return (said + b"." + base64.urlsafe_b64encode(mac).rstrip(b"=")).decode()


class Raw:
    """One connection, byte by byte."""

    def __init__(self, t):
        self.socket = socket.create_connection(("127.0.0.1", t.port), PATIENCE * SLOW)
        self.file = self.socket.makefile("rb")

    def ask(self, data):
        """(status, body) of the next reply."""
        self.socket.sendall(data)
        line = self.file.readline()
        length = 0
        while (field := self.file.readline()) not in (b"\r\n", b""):
            name, _, value = field.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        return int(line.split()[1]), self.file.read(length)

    def close(self):
        self.file.close()
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Routes(Case):
    SECRET = b"a secret of more than thirty-two bytes, for tests"
    OPTIONS = dict(workers=2)

    @classmethod
    def setUpClass(cls):
        import tempfile
        folder = tempfile.mkdtemp(prefix="tolld-test-")
        with open(f"{folder}/jwt.key", "wb") as f:
            f.write(cls.SECRET)
        cls.OPTIONS = dict(workers=2, folder=folder, config=f'jwt "j" {{ algorithm = "HS256" '
                           f'audience = "chat" key_file = "{folder}/jwt.key" }}')
        super().setUpClass()
        cls.t.own_folder = True
        cls.t.account("a", "5")

    def key(self, *options):
        return self.t.ctl("key", "create", "a", *options)

    def test_every_route_under_every_kind_of_key(self):
        expired = self.key("--ttl", "1s")["key"]
        revoked = self.key()
        self.t.ctl("key", "revoke", revoked["key_id"])
        by_scope = {s: self.key("--scope", s)["key"] for s in ("chat", "embeddings", "mint")}
        every = self.key("--scope", "chat,embeddings,mint")["key"]
        minted = self.t.request("POST", "/keys", {"ttl": 3000, "scope": "chat"},
                                self.key("--scope", "mint,chat")["key"])[2]["key"]
        good_token = token(self.SECRET, "a")
        nobody = {"nothing": {}, "garbage": "x", "another": "tolld_" + "a" * 40,
                  "as basic": {"Authorization": "Basic " + every}, "revoked": revoked["key"],
                  "expired": expired, "minted, changed": minted[:-1] + ("A" if minted[-1] != "A" else "B"),
                  "minted, cut": minted[:-2], "token of nobody's": token(b"x" * 40, "a"),
                  "token without alg": token(self.SECRET, "a", alg="none"),
                  "token too old": token(self.SECRET, "a", exp=1),
                  "token too new": token(self.SECRET, "a", nbf=int(time.time()) + 3600),
                  "token elsewhere": token(self.SECRET, "a", aud="x"),
                  "token without end": token(self.SECRET, "a", exp=None),
                  "token in a float": token(self.SECRET, "a", exp=1e300),
                  "two": {"Authorization": "Bearer " + every, "authorization": "Bearer " + every},
                  "in the query": {}}
        some = {s: ({s}, k) for s, k in by_scope.items()}
        some |= {"all": ({"chat", "embeddings", "mint"}, every), "minted": ({"chat"}, minted),
                 "token": ({"chat", "embeddings"}, good_token),
                 "token for less": ({"chat"}, token(self.SECRET, "a", scope="chat x"))}
        wait_for(lambda: self.ask("GET", "/balance", expired)[0] == 401, 5, "a key to expire")
        asked = 0
        for method, path, scope in routes():
            path = path.replace("*", "x")
            for who, key in nobody.items():
                got, code = self.ask(method, path + ("?key=" + every if who == "in the query" else ""), key)
                asked += 1
                if scope == "ROUTE_OPEN":
                    self.assertNotIn(got, (401, 403), (method, path, who))
                else:
                    self.assertEqual((got, code), (401, "invalid_api_key"), (method, path, who))
            for who, (scopes, key) in some.items():
                got, code = self.ask(method, path, key)
                asked += 1
                needed = scope.removeprefix("KEY_SCOPE_").lower()
                if scope.startswith("KEY_SCOPE_") and needed not in scopes:
                    self.assertEqual((got, code), (403, "insufficient_scope"), (method, path, who))
                else:
                    self.assertNotIn(got, (401, 403), (method, path, who))
            if scope == "ROUTE_OPEN":
                self.assertIn(path.replace("x", "*") if "/ws/" in path else path, OPEN)
        self.assertGreater(asked, 400)

    def ask(self, method, path, key):
        """Status and code; with a body that no route takes, so that nothing is done."""
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n"
        if isinstance(key, dict):
            head += "".join(f"{k}: {v}\r\n" for k, v in key.items())
        else:
            head += f"Authorization: Bearer {key}\r\n"
        with Raw(self.t) as c:
            got, body = c.ask(head.encode() + b"\r\n[]")
        try:
            error = json.loads(body)["error"]
            return got, error.get("code")
        except (ValueError, KeyError, TypeError):
            return got, None

    def test_paths_that_are_not_quite_one(self):
        key = self.key()["key"]
        auth = f"Host: x\r\nAuthorization: Bearer {key}\r\n\r\n".encode()
        with Raw(self.t) as c:
            for path in (b"//balance", b"/balance/", b"/./balance", b"/x/../balance", b"/balance;x",
                         b"/%62alance", b"/balance%00", b"/balance%20", b"/BALANCE", b"/balance%3f",
                         b"/v1/models/..%2f..%2fbalance", b"/v1/models/%2e%2e/balance", b"/v1//models",
                         b"/v1%2fmodels", b"/v1/models/sim/", b"/v1/models/%", b"/v1/models/%zz",
                         b"/v1/models/sim%00", b"http://x//balance", b"/stream/", b"/keys/"):
                self.assertEqual(c.ask(b"GET " + path + b" HTTP/1.1\r\n" + auth)[0], 404, path)
            # In the absolute form it is the path that counts, whoever the host is.
            for path in (b"http://elsewhere.example/balance", b"HTTPS://x:99/balance?y"):
                self.assertEqual(c.ask(b"GET " + path + b" HTTP/1.1\r\n" + auth)[0], 200, path)
                self.assertEqual(c.ask(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")[0], 401, path)
        for path in (b"/bal\x00ance", b"/b\xc3\xa4", b"balance", b"ftp://x/balance", b"http:///balance",
                     b"http://a@x/balance", b"/ HTTP/1.1\r\nX: y\r\n\r\nGET /balance"):
            with Raw(self.t) as c:
                self.assertEqual(c.ask(b"GET " + path + b" HTTP/1.1\r\n" + auth)[0] // 100, 4, path)

    def test_bodies_that_could_be_read_in_two_ways(self):
        key = self.key("--scope", "chat,embeddings,mint")["key"]
        hi = b'"messages":[{"role":"user","content":"hi"}]'
        bodies = (b"", b"\0", b"{}\0", b"[" * 100000, b'{"a":' * 100000, b"[" * 64 + b"]" * 64,
                  b'{"model":"sim","model":"sim",' + hi + b"}",
                  b'{"model":"sim","mod\\u0065l":"sim",' + hi + b"}",
                  b'{"messages":[{"role":"user","content":"a","content":"b"}]}',
                  b'{"message":"\xff"}', b'{"message":"\xed\xa0\x80"}', b'{"message":"\xc0\x80"}',
                  b'\xef\xbb\xbf{"message":"x"}', b"{'message':'x'}", b'{"message":"a\nb"}',
                  b'{"message":"x"}{"message":"y"}', b'{"message":"x",}', b'{"message":NaN}',
                  b'{"max_tokens":1e999,"message":5}', b'{"ttl":1e3}', b'{"input":[[[]]]}')
        for method, path, scope in set(routes()):
            if method != "POST":
                continue
            for body in bodies:
                with Raw(self.t) as c:
                    got, said = c.ask(f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
                                      f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
                    self.assertIn(got, (400, 413), (path, body[:60]))
                    json.loads(said.decode())
        # Half of a pair is U+FFFD everywhere, and a NUL in a text is a character like any other.
        for said in ("\\ud800", "\\udc00x", "a\\u0000b"):
            got = self.t.request("POST", "/chat/preview", '{"message":"%s"}' % said, key)
            self.assertEqual(got[0], 200, said)
        self.invariants()


class Idle(Case):
    OPTIONS = dict(workers=2, timeouts="header = 600")

    @classmethod
    def setUpClass(cls):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        if hard < IDLE + 1000:
            raise unittest.SkipTest(f"only {hard} descriptors, {IDLE + 1000} are needed")
        super().setUpClass()

    def memory(self):
        total = 0
        for title, pid in self.t.children().items():
            if "worker" in title:
                with open(f"/proc/{pid}/status") as f:
                    total += int(next(x for x in f if x.startswith("RssAnon")).split()[1])
        return total * 1024

    def test_thousands_that_say_nothing(self):
        key = self.t.account("busy", "5")
        began = time.monotonic()
        self.assertEqual(self.t.run(key)[-1]["type"], "done")
        alone = time.monotonic() - began
        before, idle = self.memory(), []
        try:
            for i in range(IDLE):
                s = socket.create_connection(("127.0.0.1", self.t.port), PATIENCE * SLOW)
                idle.append(s)
                # Nothing, or half a head, or one request and then nothing.
                s.sendall((b"", b"GET /bal", b"GET /balance HTTP/1.1\r\nHost: x\r\n\r\n")[i % 3])
            for s in idle[2::3]:
                self.assertTrue(s.recv(4096).startswith(b"HTTP/1.1 401 "))
            each = (self.memory() - before) / IDLE
            print(f"{IDLE} idle connections: {each:.0f} bytes each in the workers", flush=True)
            if SLOW == 1:
                self.assertLess(each, 2048)
            worst = 0
            for _ in range(10):
                began = time.monotonic()
                self.assertEqual(self.t.run(key)[-1]["type"], "done")
                worst = max(worst, time.monotonic() - began)
            print(f"a stream beside them: {worst * 1000:.0f} ms at worst, {alone * 1000:.0f} alone")
            self.assertLess(worst, 15 * SLOW)
            # All of them are still there.
            for s in idle[::97]:
                s.sendall(b"ance HTTP/1.1\r\nHost: x\r\n\r\n" if s in idle[1::3] else
                          b"GET /balance HTTP/1.1\r\nHost: x\r\n\r\n")
                self.assertTrue(s.recv(4096).startswith(b"HTTP/1.1 401 "))
        finally:
            for s in idle:
                s.close()
        self.assertEqual(self.t.run(key)[-1]["type"], "done")
        self.invariants()


class Said(unittest.TestCase):
    """Whatever is asked and whatever fails: the log has no key, no id that opens anything, no text."""
    WORD = "xyzzy"  # in everything that anybody says

    @classmethod
    def setUpClass(cls):
        from tolld import Tolld
        cls.p = provider.Provider()
        cls.t = Tolld(workers=2, config=f'''
log_level = "debug"
provider "script" {{
    dialect = "openai"
    base_url = "http://127.0.0.1:{cls.p.port}/v1"
    api_key = "sk-provider-Secret-1234567890"
    retries = 1
}}
model "m" {{
    provider = {{"script"}}
    tokenizer = "o200k_base"
    price_prompt = 1  price_completion = 1
    context = 100000
    max_completion = 1000
}}
''')
        cls.t.start()

    @classmethod
    def tearDownClass(cls):
        cls.t.close()
        cls.p.close()

    def test_nothing_of_it_is_logged_or_counted(self):
        word, t = self.WORD, self.t
        secrets = [word, "sk-provider-Secret-1234567890", "provider-secret-key"]
        key = t.account("said", "100")
        maker = t.ctl("key", "create", "said", "--scope", "mint,chat", "--label", "l")["key"]
        minted = t.request("POST", "/keys", {"ttl": 60}, maker)[2]["key"]
        secrets += [key, maker, minted, key[6:], minted[6:]]
        body = {"model": "m", "messages": [{"role": "user", "content": f"{word} says"}]}
        tools = dict(body, tools=[{"type": "function", "function": {"name": word, "parameters": {}}}],
                     user=word, metadata={"a": word})
        quoting = status(400, f"{word}: bad key sk-provider-Secret-1234567890, sk-prov**********7890")
        answers = [good(f"{word} answers"), quoting, status(401, word), status(500, word),
                   status(429, word), Answer(ROLE + text(word), end="cut"),
                   Answer(f"data: {word}\n\n" + ROLE + text(word) + "data: {" + word + "\n\n" + DONE),
                   Answer(ROLE + text(word) + provider.event(error={"message": word})),
                   Answer(f"HTTP/{word}", kind="text/html"), Answer(word, kind=word),
                   Answer(ROLE + text(word * 50) + FINISH + usage(-1, 5) + DONE),
                   Answer(ROLE + text((word + " ") * 5000) + FINISH + DONE),
                   Answer(json.dumps({word: word}), kind="application/json", end="length")]
        ids = []
        for answer in answers:
            for path, more in (("/v1/chat/completions", {"stream": True, "max_tokens": 20}),
                               ("/v1/chat/completions", {"max_completion_tokens": 20}),
                               ("/v1/messages", {"max_tokens": 20}), ("/v1/embeddings", {"input": word})):
                self.p.reset()
                self.p.default = answer
                asked = dict(tools if path.endswith("completions") else body, **more)
                got = t.request("POST", path, asked, key, {
                    "x-request-id": word + " not one", "traceparent": word, "User-Agent": word,
                    "Idempotency-Key": f"{word}-{len(ids)}-{path}-{len(more)}", "X-Other": word})
                self.assertNotIn("sk-provider-Secret", json.dumps(str(got[2])))
            sent = t.send(key, word, "m")
            ids += [sent["stream_id"]]
            self.p.default = answer
            try:
                t.request("GET", f"/stream?id={ids[-1]}", headers={"Last-Event-ID": word})
            except http.client.HTTPException:
                pass
            t.request("DELETE", f"/stream?id={ids[-1]}")
        secrets += ids
        for method, path, data, who, headers in (
                ("GET", "/" + word, None, None, {}), ("GET", f"/stream?id={word}", None, None, {}),
                ("POST", "/chat/send", word, key, {}), ("POST", "/chat/send", {word: word}, key, {}),
                ("POST", "/v1/chat/completions", dict(body, model=word), key, {}),
                ("POST", "/v1/messages", dict(body, model=word), key, {}),
                ("GET", "/v1/models/" + word, None, key, {}),
                ("POST", "/keys", {"ttl": 5, "account": word}, maker, {}),
                ("GET", "/balance", None, word + "-no-key", {}),
                ("GET", "/balance", None, f"tolld_{word}" + "a" * 35, {}),
                ("GET", "/balance", None, f"{word}.{word}.{word}", {}),
                ("GET", "/balance", None, None, {"x-api-key": word}),
                ("OPTIONS", "/balance", None, None, {"Origin": "http://" + word})):
            t.request(method, path, data, who, headers)
        for raw in (f"{word} / HTTP/1.1\r\n\r\n", f"GET / HTTP/{word}\r\n\r\n",
                    f"GET / HTTP/1.1\r\nHost: x\r\n{word}\r\n\r\n", f"GET /{word} HTTP/1.1\r\nHost: "):
            with socket.create_connection(("127.0.0.1", t.port), 10 * SLOW) as s:
                s.sendall(raw.encode())
                s.shutdown(socket.SHUT_WR)
                while s.recv(4096):
                    pass
        metrics = t.get_admin("/metrics")[1]
        wait_for(lambda: micro(t.show("said")["held"]) == 0, 20, "nothing to be held")
        self.assertEqual(t.stop(), 0)
        log = t.log()
        self.assertGreater(log.count("stream ended"), 20)
        self.assertIn("level=debug", log)
        for secret in secrets:
            self.assertNotIn(secret.lower(), log.lower())
            self.assertNotIn(secret.lower(), metrics.lower())
        for line in log.splitlines():
            self.assertRegex(line, r"^time=\S+Z level=(debug|info|warn|error) proc=")
        # Whatever clients say, there are as many series as the config makes.
        self.assertLess(len(metrics.splitlines()), 2000)


if __name__ == "__main__":
    unittest.main()
