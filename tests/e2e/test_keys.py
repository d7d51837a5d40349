"""Goal:   a key opens what it was made for, and nothing else, in every worker.
Method: keys of several kinds against four workers; revocation while a stream runs; restart and
        crash; what stands in the files.
"""
import base64
import hashlib
import hmac
import json
import os
import signal
import tempfile
import time
import unittest
from concurrent.futures import ThreadPoolExecutor

from clock import Clock
from tolld import BUILD, SLOW, Case, Tolld, cost, end_of, micro, wait_for, within_a_day


class Keys(Case):
    OPTIONS = {"workers": 4, "models": {"small": "sim:tokens=5", "slow": "sim:tokens=60,rate=30"}}

    def tearDown(self):
        for s in self.t.ctl("stream", "list"):
            self.t.ctl("stream", "cancel", s["stream_id"], check=False)
        self.invariants()

    def key(self, account, *options):
        return self.t.ctl("key", "create", account, *options)

    def status(self, key, path="/balance", body=None):
        status, _, answer = self.t.request("POST" if body else "GET", path, body, key)
        code = answer["error"]["code"] if status >= 400 else None
        return status, code

    def test_scope(self):
        self.t.account("scope", "1")
        body = {"model": "small", "message": "x"}
        for scope, allowed in (("chat", True), ("chat,embeddings", True), ("embeddings", False),
                               ("mint", False), ("mint,chat", True)):
            key = self.key("scope", "--scope", scope)["key"]
            self.assertEqual(self.status(key), (200, None), scope)
            for path in ("/chat/preview", "/chat/send"):
                self.assertEqual(self.status(key, path, body),
                                 (200, None) if allowed else (403, "insufficient_scope"), scope)
        for bad in ("", "chat,", "chatt", "Chat", "chat mint", ",", "all"):
            p = self.t.ctl("key", "create", "scope", "--scope", bad, check=False)
            self.assertNotEqual(p.returncode, 0, bad)
            self.assertIn("scope", p.stdout + p.stderr, bad)

    def test_models(self):
        self.t.account("models", "1")
        key = self.key("models", "--model", "small,slow")
        def told(model, path, k=key["key"]):
            return self.t.request("POST", path, {"model": model, "message": "x"}, k)[::2]
        for path in ("/chat/preview", "/chat/send"):
            self.assertEqual(told("small", path)[0], 200)
            self.assertEqual(told("slow", path)[0], 200)
            # A model that it may not use is one that there isn't.
            refused = told("sim", path)
            self.assertEqual((refused[0], refused[1]["error"]["code"]), (404, "model_not_found"))
            self.assertEqual(refused, told("nonesuch", path))
            # Nor does the default model help.
            self.assertEqual(self.status(key["key"], path, {"message": "x"}),
                             (404, "model_not_found"))
        for bad in ("nonesuch", "small,", "small,nonesuch", ","):
            p = self.t.ctl("key", "create", "models", "--model", bad, check=False)
            self.assertEqual((p.returncode, "model" in p.stdout + p.stderr), (1, True), bad)

    def test_list(self):
        self.t.account("list", "1")
        made = self.key("list", "--scope", "mint,chat", "--model", "slow,small,slow",
                        "--label", "laptop")
        rows = {r["key_id"]: r for r in self.t.ctl("key", "list", "list")}
        row = rows.pop(made["key_id"])
        self.assertEqual((row["scope"], row["model"], row["label"]),
                         ("chat,mint", "slow,small", "laptop"))
        row, = rows.values()
        self.assertEqual((row["scope"], row["model"]), ("chat,embeddings", None))

    def test_revoked_everywhere_at_once(self):
        """New requests are refused by every worker, and what runs is finished and charged."""
        self.t.account("revoked", "5")
        made = self.key("revoked")
        sent = self.t.send(made["key"], model="slow")
        waiting = self.t.send(made["key"], model="small")
        s = self.t.open(sent["stream_id"])
        events = s.typed()
        first = [next(events)]
        while first[-1]["type"] != "token":
            first.append(next(events))
        for _ in range(40):  # each a new connection: to any worker
            self.assertEqual(self.status(made["key"]), (200, None))
        self.t.ctl("key", "revoke", made["key_id"])
        for _ in range(40):
            self.assertEqual(self.status(made["key"]), (401, "invalid_api_key"))
        self.assertEqual(self.status(made["key"], "/chat/send", {"message": "x"}),
                         (401, "invalid_api_key"))
        kind, end = end_of(first + list(events))
        s.close()
        self.assertEqual((kind, end["finish_reason"]), ("done", "stop"))
        self.assertGreater(end["cost"], 0)
        # What was reserved before is held, and its id opens it.
        s = self.t.open(waiting["stream_id"])
        self.assertEqual(end_of(list(s.typed()))[0], "done")
        s.close()
        self.invariants()

    def test_nothing_of_a_key_is_kept(self):
        self.t.account("kept", "1")
        key = self.key("kept", "--label", "findme")["key"]
        self.assertEqual(self.status(key), (200, None))
        wait_for(lambda: self.t.ctl("key", "list", "kept"), 5)
        for folder in ("state", "run"):
            for name in os.listdir(f"{self.t.folder}/{folder}"):
                path = f"{self.t.folder}/{folder}/{name}"
                if os.path.isfile(path):
                    with open(path, "rb") as f:
                        data = f.read()
                    self.assertNotIn(key.encode(), data, path)
                    self.assertNotIn(key[6:].encode(), data, path)
        self.assertNotIn(key[6:], self.t.log())

    def test_what_lasts(self):
        self.t.account("lasts", "1")
        narrow = self.key("lasts", "--model", "small", "--scope", "chat")
        dead = self.key("lasts")
        self.t.ctl("key", "revoke", dead["key_id"])
        before = self.listed("lasts")
        for end in (self.t.kill_all, self.t.stop, self.rebuilt):
            end()
            self.t.start()
            self.assertEqual(self.status(narrow["key"]), (200, None))
            self.assertEqual(self.status(dead["key"]), (401, "invalid_api_key"))
            for model, want in (("small", 200), ("slow", 404)):
                self.assertEqual(self.status(narrow["key"], "/chat/preview",
                                             {"model": model, "message": "x"})[0], want)
            self.assertEqual(self.listed("lasts"), before)

    def listed(self, account):
        return sorted(self.t.ctl("key", "list", account), key=lambda r: r["key_id"])

    def rebuilt(self):
        self.t.stop()
        for name in os.listdir(self.t.folder + "/state"):
            if name.startswith("state.mdb"):
                os.unlink(f"{self.t.folder}/state/{name}")


class Caps(Case):
    """A key's cap is a floor of its own."""
    OPTIONS = {"workers": 4, "ledger": "slice_tokens = 50",
               "models": {"small": "sim:tokens=5", "long": "sim:tokens=5000,rate=0",
                          "slow": "sim:tokens=400,rate=100"}}

    def setUp(self):
        within_a_day()

    def capped(self, account, cap, per="total"):
        self.t.account(account, "1000")
        return self.t.ctl("key", "create", account, "--cap", cap, "--per", per)

    def used(self, account, key):
        row, = [r for r in self.t.ctl("key", "list", account) if r["key_id"] == key["key_id"]]
        return micro(row["used"])

    def charged(self, account):
        return 1000 * 1000000 - micro(self.t.show(account)["balance"])

    def refused(self, key, **body):
        status, headers, answer = self.t.request(
            "POST", "/chat/send", dict({"message": "hello there", "model": "small"}, **body), key)
        self.assertEqual(status, 402, answer)
        self.assertEqual(headers["x-should-retry"], "false")
        error = answer["error"]
        self.assertEqual((error["type"], error["code"]), ("insufficient_quota", "key_cap_reached"))
        return error

    def test_cut_at_the_last_token(self):
        key = self.capped("cut", "0.0005")
        events = self.t.run(key["key"], model="long")
        kind, end = end_of(events)
        self.assertEqual((kind, end["finish_reason"]), ("done", "credit"))
        prompt, tokens = (events[0]["data"]["prompt_tokens"], end["usage"]["completion_tokens"])
        self.assertLessEqual(cost(prompt, tokens), 500)
        self.assertGreater(cost(prompt, tokens + 1), 500)
        self.assertEqual(self.used("cut", key), micro(end["cost"]))
        error = self.refused(key["key"])
        self.assertLess(micro(error["available"]), micro(error["required"]))
        self.assertEqual(micro(error["available"]), 500 - micro(end["cost"]))
        status, _, preview = self.t.request("POST", "/chat/preview", {"message": "hello there"},
                                            key["key"])
        self.assertEqual((status, preview["allowed"]), (200, False))
        # The account has all the credit of the world, for another key.
        other = self.t.ctl("key", "create", "cut")["key"]
        self.assertEqual(end_of(self.t.run(other, model="small"))[0], "done")
        self.assertEqual(self.used("cut", key), micro(end["cost"]))
        self.invariants()

    def test_the_account_may_be_the_poorer(self):
        self.t.ctl("account", "create", "poor", "--balance", "0.0003", "--overdraft", "0")
        key = self.t.ctl("key", "create", "poor", "--cap", "1", "--per", "day")
        end = end_of(self.t.run(key["key"], model="long"))[1]
        self.assertEqual(end["finish_reason"], "credit")
        self.assertEqual(self.used("poor", key), micro(end["cost"]))
        status, _, answer = self.t.request("POST", "/chat/send", {"message": "hello there"},
                                           key["key"])
        self.assertEqual((status, answer["error"]["code"]), (402, "insufficient_credit"))
        self.assertEqual(self.used("poor", key), micro(end["cost"]))
        self.invariants()

    def test_what_is_not_charged_is_given_back(self):
        key = self.capped("back", "0.01")
        sent = self.t.send(key["key"], model="slow")
        self.assertEqual(self.used("back", key), micro(sent["reserved"]))
        self.t.request("DELETE", "/stream?id=" + sent["stream_id"])
        wait_for(lambda: self.used("back", key) == 0, 5)
        end = end_of(self.t.run(key["key"], model="small"))[1]
        self.assertEqual(self.used("back", key), micro(end["cost"]))

    def test_never_passed_by_many(self):
        """Four workers, each of many connections; all reserve at once, twice."""
        key = self.capped("many", "0.002")
        for _ in range(2):
            with ThreadPoolExecutor(24) as pool:
                ends = list(pool.map(lambda _: self.t.request(
                    "POST", "/chat/send", {"message": "hello there", "model": "long"},
                    key["key"]), range(96)))
            sent = [body for status, _, body in ends if status == 200]
            self.assertEqual({status for status, _, _ in ends}, {200, 402})
            held = sum(micro(s["reserved"]) for s in sent)
            self.assertLessEqual(held, 2000)
            self.assertLessEqual(self.used("many", key), 2000)
            with ThreadPoolExecutor(24) as pool:
                for s in pool.map(lambda s: self.t.open(s["stream_id"]), sent[:10]):
                    list(s.typed())
                    s.close()
            for s in sent[10:]:
                self.t.request("DELETE", "/stream?id=" + s["stream_id"])
            wait_for(lambda: self.t.ctl("hold", "list") == [], 10)
            self.assertEqual(self.used("many", key), self.charged("many"))
            self.assertLessEqual(self.charged("many"), 2000)
        self.invariants()

    def test_killed(self):
        """A worker, everything at once, a clean end, the loss of state.mdb: it stays used."""
        key = self.capped("killed", "0.005", "month")
        def begin():
            s = self.t.open(self.t.send(key["key"], model="slow")["stream_id"])
            events = s.typed()
            while next(events)["type"] != "token":
                pass
            return s
        for _ in range(6):
            s = begin()
            worker = [p for name, p in self.t.children().items() if "worker" in name]
            for pid in worker:
                os.kill(pid, signal.SIGKILL)
            s.close()
            wait_for(lambda: self.t.ctl("hold", "list") == [], 10)
            self.assertGreater(self.charged("killed"), 0)
            self.assertEqual(self.used("killed", key), self.charged("killed"))
            wait_for(self.t.ready, 10)
        for end in (self.t.kill_all, self.t.stop, self.rebuilt):
            s = begin()
            end()
            s.close()
            self.t.start()
            wait_for(lambda: self.t.ctl("hold", "list") == [], 10)
            self.assertEqual(self.used("killed", key), self.charged("killed"), end.__name__)
            self.assertLessEqual(self.charged("killed"), 5000)
        self.assertEqual(self.t.audit()["ok"], True)
        self.assertNotIn("forged", self.t.log())

    rebuilt = Keys.rebuilt

    def test_on_v1(self):
        """OpenAI's routes: the same scopes, models and caps."""
        key = self.capped("openai", "0.0005")["key"]
        status, _, answer = self.t.request(
            "POST", "/v1/chat/completions",
            {"model": "long", "messages": [{"role": "user", "content": "x"}]}, key)
        self.assertEqual((status, answer["choices"][0]["finish_reason"]), (200, "length"))
        status, headers, answer = self.t.request(
            "POST", "/v1/chat/completions",
            {"model": "long", "messages": [{"role": "user", "content": "x"}]}, key)
        self.assertEqual((status, answer["error"]["code"], answer["error"]["type"]),
                         (402, "key_cap_reached", "insufficient_quota"))
        self.assertEqual(headers["x-should-retry"], "false")
        wait_for(lambda: self.charged("openai") > 0, 5)
        self.assertLessEqual(self.charged("openai"), 500)
        narrow = self.t.ctl("key", "create", "openai", "--scope", "chat", "--model", "small")["key"]
        status, _, answer = self.t.request("GET", "/v1/models", key=narrow)
        self.assertEqual([m["id"] for m in answer["data"]], ["small"])
        self.assertEqual(self.t.request("GET", "/v1/models/small", key=narrow)[0], 200)
        self.assertEqual(self.t.request("GET", "/v1/models/long", key=narrow)[0], 404)
        for path, body, want in (
                ("/v1/chat/completions", {"model": "small", "messages": [
                    {"role": "user", "content": "x"}]}, (200, None)),
                ("/v1/chat/completions", {"model": "long", "messages": [
                    {"role": "user", "content": "x"}]}, (404, "model_not_found")),
                ("/v1/embeddings", {"model": "small", "input": "x"}, (403, "insufficient_scope"))):
            status, _, answer = self.t.request("POST", path, body, narrow)
            self.assertEqual((status, answer["error"]["code"] if status >= 400 else None), want)
        embeds = self.t.ctl("key", "create", "openai", "--scope", "embeddings", "--model",
                            "small")["key"]
        status, _, answer = self.t.request("POST", "/v1/embeddings",
                                           {"model": "long", "input": "x"}, embeds)
        self.assertEqual((status, answer["error"]["code"]), (404, "model_not_found"))
        status, _, answer = self.t.request("POST", "/v1/embeddings",
                                           {"model": "small", "input": "x"}, embeds)
        self.assertNotIn(status, (401, 403, 404), answer)
        self.invariants()

    def test_bad_caps(self):
        self.t.account("bad", "1")
        for options in (("--cap", "1"), ("--per", "day"), ("--cap", "0", "--per", "day"),
                        ("--cap", "-1", "--per", "day"), ("--cap", "1", "--per", "week"),
                        ("--cap", "1", "--per", ""), ("--cap", "100000001", "--per", "day")):
            p = self.t.ctl("key", "create", "bad", *options, check=False)
            self.assertNotEqual(p.returncode, 0, options)
            self.assertRegex(p.stdout + p.stderr, "cap|per", options)


class Minted(Case):
    """A key with the scope mint makes short-lived ones, never wider than itself."""
    OPTIONS = {"workers": 4,
               "models": {"small": "sim:tokens=5", "long": "sim:tokens=5000,rate=0"}}

    def setUp(self):
        self.name = self._testMethodName
        self.t.account(self.name, "5")

    def maker(self, *options):
        return self.t.ctl("key", "create", self.name, "--scope", "chat,mint", *options)

    def mint(self, key, **body):
        return self.t.request("POST", "/keys", dict({"ttl": 600}, **body), key)[::2]

    def minted(self, key, **body):
        status, answer = self.mint(key, **body)
        self.assertEqual(status, 200, answer)
        return answer

    def test_for_its_own_account(self):
        maker = self.maker()
        made = self.minted(maker["key"])
        self.assertEqual((made["account"], made["scope"], made["made_by"]),
                         (self.name, ["chat"], maker["key_id"]))
        self.assertAlmostEqual(made["expires_at"], time.time() + 600, delta=60 * SLOW)
        for _ in range(12):  # any worker
            self.assertEqual(self.t.request("GET", "/balance", key=made["key"])[0], 200)
        self.assertEqual(end_of(self.t.run(made["key"], model="small"))[0], "done")
        status, headers, _ = self.t.request("POST", "/keys", {"ttl": 1}, maker["key"])
        self.assertEqual(headers["cache-control"], "no-store")
        # It makes no others, and outlasts a crash.
        self.assertEqual(self.mint(made["key"])[0], 403)
        self.t.kill_all()
        self.t.start()
        self.assertEqual(self.t.request("GET", "/balance", key=made["key"])[0], 200)
        # Nothing of it is written, nor in the log.
        self.assertNotIn("tolldm_", self.t.log())
        # With its maker it ends.
        self.t.ctl("key", "revoke", maker["key_id"])
        for _ in range(12):
            status, _, answer = self.t.request("GET", "/balance", key=made["key"])
            self.assertEqual((status, answer["error"]["code"]), (401, "invalid_api_key"))

    def test_expires(self):
        made = self.minted(self.maker()["key"], ttl=1)
        wait_for(lambda: self.t.request("GET", "/balance", key=made["key"])[0] == 401, 5)
        short = self.maker("--ttl", "30s")
        self.assertLessEqual(self.minted(short["key"], ttl=3600)["expires_at"],
                             short["expires_at"])

    def test_never_wider(self):
        self.t.ctl("account", "create", "another" + self.name)
        maker = self.maker("--model", "small,long")["key"]
        for body, status, code, param in (
                ({"scope": "embeddings"}, 403, "insufficient_scope", "scope"),
                ({"scope": "chat,embeddings"}, 403, "insufficient_scope", "scope"),
                ({"scope": ["mint"]}, 400, "invalid_request", "scope"),
                ({"scope": []}, 400, "invalid_request", "scope"),
                ({"scope": ""}, 400, "invalid_request", "scope"),
                ({"scope": [7]}, 400, "invalid_request", "scope"),
                ({"model": "sim"}, 400, "invalid_request", "model"),
                ({"model": "none"}, 400, "invalid_request", "model"),
                ({"model": []}, 400, "invalid_request", "model"),
                ({"model": {}}, 400, "invalid_request", "model"),
                ({"account": "another" + self.name}, 403, "insufficient_scope", "account"),
                ({"account": "nobody"}, 403, "insufficient_scope", "account"),
                ({"account": 7}, 400, "invalid_request", "account"),
                ({"ttl": 0}, 400, "invalid_request", "ttl"),
                ({"ttl": 86401}, 400, "invalid_request", "ttl"),
                ({"ttl": 1.5}, 400, "invalid_request", "ttl"),
                ({"ttl": None}, 400, "invalid_request", "ttl"),
                ({"cap": 1}, 400, "invalid_request", "cap"),
                ({"models": ["small"]}, 400, "invalid_request", None)):
            got, answer = self.mint(maker, **body)
            self.assertEqual((got, answer["error"]["code"], answer["error"]["param"]),
                             (status, code, param), body)
        # Its maker's models, or fewer.
        for body, models in (({}, ("small", "long")), ({"model": "small"}, ("small",)),
                             ({"model": ["long"], "scope": ["chat"]}, ("long",))):
            key = self.minted(maker, **body)["key"]
            for model in ("sim", "small", "long"):
                status = self.t.request("POST", "/chat/preview",
                                        {"model": model, "message": "x"}, key)[0]
                self.assertEqual(status, 200 if model in models else 404, (body, model))
        only = self.t.ctl("key", "create", self.name, "--scope", "mint")["key"]
        self.assertEqual(self.mint(only)[0], 403)
        plain = self.t.ctl("key", "create", self.name)["key"]
        self.assertEqual(self.mint(plain)[0], 403)

    def test_for_others(self):
        other = "another" + self.name
        self.t.ctl("account", "create", other)
        maker = self.maker("--mint-others")["key"]
        made = self.minted(maker, account=other)
        self.assertEqual(made["account"], other)
        end = end_of(self.t.run(made["key"], model="small"))[1]
        self.assertEqual(micro(self.t.show(other)["balance"]), -micro(end["cost"]))
        self.assertEqual(self.mint(maker, account="nobody")[0], 404)
        p = self.t.ctl("key", "create", self.name, "--mint-others", check=False)
        self.assertEqual(p.returncode, 1)

    def test_under_its_makers_cap(self):
        maker = self.maker("--cap", "0.0005", "--per", "total")
        keys = [self.minted(maker["key"])["key"] for _ in range(3)]
        for key in keys:
            status, _, answer = self.t.request(
                "POST", "/chat/send", {"message": "x", "model": "long"}, key)
            if status == 200:
                s = self.t.open(answer["stream_id"])
                self.assertEqual(end_of(list(s.typed()))[1]["finish_reason"], "credit")
                s.close()
        self.assertLessEqual(5000000 - micro(self.t.show(self.name)["balance"]), 500)
        for key in keys + [maker["key"]]:
            status, _, answer = self.t.request(
                "POST", "/chat/send", {"message": "x", "model": "long"}, key)
            self.assertEqual((status, answer["error"]["code"]), (402, "key_cap_reached"))
        self.invariants()


class Tokens(Case):
    """Tokens that somebody else signs: by HS256 here, tests/unit/test_jwt.c has the others."""
    SECRETS = {"old": b"the secret of last year, 32 bytes", "new": os.urandom(40).hex().encode()}

    @classmethod
    def setUpClass(cls):
        folder = tempfile.mkdtemp(prefix="tolld-test-")
        cls.t = Tolld(workers=3, folder=folder, models={"small": "sim:tokens=5"})
        cls.t.own_folder = True
        cls.configure("old", "new")
        cls.t.start()

    @classmethod
    def configure(cls, *kids):
        blocks = ""
        for kid in kids:
            with open(f"{cls.t.folder}/{kid}.key", "wb") as f:
                f.write(cls.SECRETS[kid] + b"\n")
            blocks += (f'jwt "{kid}" {{ algorithm = "HS256" audience = "chat" kid = "{kid}" '
                       f'key_file = "{cls.t.folder}/{kid}.key" }}\n')
        cls.t.extra = (blocks, "", "")
        cls.t.write_config()

    def token(self, kid, sub, **claims):
        def part(data):
            return base64.urlsafe_b64encode(data).rstrip(b"=")
        claims = dict({"sub": sub, "aud": "chat", "exp": int(time.time()) + 3000}, **claims)
        text = (part(json.dumps({"alg": "HS256", "kid": kid}).encode()) + b"." +
                part(json.dumps(claims).encode()))
        mac = hmac.new(self.SECRETS[kid], text, hashlib.sha256).digest()
        return (text + b"." + part(mac)).decode()

    def test_account_scopes_and_rotation(self):
        key = self.t.account("jwt", "5")
        for kid in self.SECRETS:
            token = self.token(kid, "jwt")
            for _ in range(6):
                self.assertEqual(self.t.request("GET", "/balance", key=token)[0], 200)
        self.assertEqual(end_of(self.t.run(token, model="small"))[0], "done")
        self.assertEqual(self.t.request("GET", "/balance", headers={"x-api-key": token})[0], 200)
        for token, status, code in (
                (self.token("new", "nobody"), 401, "invalid_api_key"),
                (self.token("new", "jwt", aud="else"), 401, "invalid_api_key"),
                (self.token("new", "jwt", exp=1), 401, "invalid_api_key"),
                (token[:-2], 401, "invalid_api_key"), ("a.b.c", 401, "invalid_api_key"),
                (self.token("new", "jwt", x="x" * 4000), 401, "invalid_api_key"),
                (self.token("new", "jwt", scope="embeddings"), 403, "insufficient_scope"),
                (self.token("new", "jwt", models=["sim"]), 404, "model_not_found")):
            got, _, answer = self.t.request("POST", "/chat/preview",
                                            {"model": "small", "message": "x"}, token)
            self.assertEqual((got, answer["error"]["code"]), (status, code), answer)
        # It makes no keys, and keys of our own go on beside it.
        self.assertEqual(self.t.request("POST", "/keys", {"ttl": 1}, self.token("new", "jwt"))[0],
                         403)
        self.assertEqual(self.t.request("GET", "/balance", key=key)[0], 200)
        # The old block is taken out: its tokens are over.
        self.t.stop()
        self.configure("new")
        self.t.start()
        self.assertEqual(self.t.request("GET", "/balance", key=self.token("old", "jwt"))[0], 401)
        self.assertEqual(self.t.request("GET", "/balance", key=self.token("new", "jwt"))[0], 200)
        self.assertNotIn("eyJ", self.t.log())
        self.invariants()


class Midnight(Case):
    """A day's cap is new at midnight in UTC; a stream is paid from the day of its reserve."""

    @classmethod
    def setUpClass(cls):
        cls.t = Tolld(workers=2, ledger="slice_tokens = 50 hold_ttl = 86400",
                      timeouts="stream = 86400",
                      models={"small": "sim:tokens=5", "long": "sim:tokens=5000,rate=0"})
        cls.clock = Clock(BUILD, cls.t.folder)
        cls.t.env.update(cls.clock.env)
        cls.t.start()

    def now(self):
        return time.time() + self.clock.ahead()

    def midnight(self):
        self.clock.forward(86400 - int(self.now()) % 86400 + 1)

    used = Caps.used
    refused = Caps.refused

    def test_midnight(self):
        if int(self.now()) % 86400 > 86400 - 120 * SLOW:
            self.midnight()  # not in the midst of the test
        self.t.account("day", "1000")
        key = self.t.ctl("key", "create", "day", "--cap", "0.0005", "--per", "day")
        other = self.t.ctl("key", "create", "day", "--cap", "0.0005", "--per", "total")
        for k in (key, other):
            self.assertEqual(end_of(self.t.run(k["key"], model="long"))[1]["finish_reason"],
                             "credit")
            self.refused(k["key"])
        self.midnight()
        self.refused(other["key"])
        self.assertEqual(self.used("day", key), 0)
        # This one is reserved on the second day, and streamed on the third.
        sent = self.t.send(key["key"], model="small")
        self.assertEqual(self.used("day", key), micro(sent["reserved"]))
        self.midnight()
        self.assertEqual(self.used("day", key), 0)
        full = end_of(self.t.run(key["key"], model="long"))[1]
        self.assertEqual(full["finish_reason"], "credit")
        s = self.t.open(sent["stream_id"])
        self.assertEqual(end_of(list(s.typed()))[1]["finish_reason"], "stop")
        s.close()
        self.assertEqual(self.used("day", key), micro(full["cost"]))
        # Killed and started anew, it is the same day; then it is the next.
        self.t.kill_all()
        self.t.start()
        self.assertEqual(self.used("day", key), micro(full["cost"]))
        self.t.stop()
        self.t.start()
        self.assertEqual(self.used("day", key), micro(full["cost"]))
        self.refused(key["key"])
        self.midnight()
        self.assertEqual(end_of(self.t.run(key["key"], model="small"))[0], "done")
        self.invariants()


if __name__ == "__main__":
    unittest.main()
