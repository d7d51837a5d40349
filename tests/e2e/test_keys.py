"""Goal:   a key opens what it was made for, and nothing else, in every worker.
Method: keys of several kinds against four workers; revocation while a stream runs; restart and
        crash; what stands in the files.
"""
import os
import unittest

from tolld import Case, end_of, wait_for


class Keys(Case):
    OPTIONS = {"workers": 4, "ledger": "hold_ttl = 5", "models": {"small": "sim:tokens=5", "slow": "sim:tokens=60,rate=30"}}

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


if __name__ == "__main__":
    unittest.main()
