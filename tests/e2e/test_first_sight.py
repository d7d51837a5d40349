"""Goal:   a key that may name its users charges each user's own account, made once when the user is
        first seen, with the first credit once for ever; any other key and any other header do
        nothing; nobody gets more accounts or credit than the configuration says.
Method: two workers; many first requests of one user at once, with the keeper held still and then
        killed, or the worker that asked, or all; bad header values; keys of other kinds; bounds;
        restarts; what the journal and the audit say of it all.
"""
import json
import os
import signal
import socket
import threading
import unittest
from concurrent.futures import ThreadPoolExecutor

from tolld import PATIENCE, SLOW, Case, end_of, micro, wait_for

HEADER = "X-OpenWebUI-User-Id"
SIGHT = "first_sight { grant = 3 overdraft = 0.5 max_accounts = 40 }"


def trusted(t, account, *options):
    return t.ctl("key", "create", account, "--trust-user-header", *options)["key"]


def ask(t, key, user, path="/v1/chat/completions"):
    """(status, headers, body) of a chat in that user's name."""
    headers = user if isinstance(user, dict) else {HEADER: user}
    body = {"model": "short"}
    if path.startswith("/v1/"):
        body["messages"] = [{"role": "user", "content": "hi"}]
    else:
        body["message"] = "hi"
    return t.request("POST", path, body, key, headers)


def accounts(t):
    return {a["id"]: a for a in t.ctl("account", "list")}


def records(t, type):
    return [r for r in t.ctl("journal") if r["type"] == type]


class Asked:
    """Requests of one user that are all on their way at once."""

    def __init__(self, t, key, user, count):
        self.answers, self.broken = [], 0
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.one, args=(t, key, user), daemon=True)
                        for _ in range(count)]
        for thread in self.threads:
            thread.start()

    def one(self, t, key, user):
        try:
            answer = ask(t, key, user)
            with self.lock:
                self.answers.append(answer)
        except (OSError, EOFError, ValueError):
            with self.lock:
                self.broken += 1
        except Exception as e:  # http.client's: the server went away
            assert type(e).__module__ == "http.client", e
            with self.lock:
                self.broken += 1

    def join(self):
        for thread in self.threads:
            thread.join(2 * PATIENCE * SLOW)
            assert not thread.is_alive()
        return self.answers


class Sight(Case):
    OPTIONS = dict(workers=2, config=SIGHT, models={"short": "sim:tokens=5,lang=even"})

    def setUp(self):
        self.name = self.id().rsplit(".", 1)[1]
        self.t.ctl("account", "create", self.name, "--balance", "10")
        self.key = trusted(self.t, self.name)

    def own(self):
        return self.t.show(self.name)

    def account_of(self, user):
        return self.t.show("owui:" + user)

    def grant_once(self, user):
        """One account, one first credit, in the journal and in the sums."""
        made = [r for r in records(self.t, "first_sight") if r["account"] == "owui:" + user]
        self.assertEqual(len(made), 1, made)
        self.assertEqual((micro(made[0]["amount"]), micro(made[0]["overdraft"])),
                         (3000000, 500000))
        self.invariants()

    def test_a_user_pays(self):
        status, headers, body = ask(self.t, self.key, {
            HEADER: "ann", "X-OpenWebUI-User-Email": "ann@example.org",
            "X-OpenWebUI-User-Name": "Ann", "X-OpenWebUI-User-Role": "user"})
        self.assertEqual(status, 200, body)
        cost = micro(headers["x-tolld-cost"])
        self.assertGreater(cost, 0)
        a = self.account_of("ann")
        self.assertEqual((micro(a["balance"]), micro(a["overdraft"])), (3000000 - cost, 500000))
        self.assertEqual(self.own()["balance"], 10)
        # By another worker, another route, another connection: the same account.
        for path in ("/chat/preview", "/chat/send"):
            for _ in range(6):
                status, _, body = ask(self.t, self.key, "ann", path)
                self.assertEqual(status, 200, body)
                if path == "/chat/send":
                    s = self.t.open(body["stream_id"])
                    cost += micro(end_of(list(s.typed()))[1]["cost"])
                    s.close()
        status, _, body = self.t.request("GET", "/balance", None, self.key, {HEADER: "ann"})
        self.assertEqual((status, micro(body["balance"])), (200, 3000000 - cost))
        self.assertEqual(self.own()["balance"], 10)
        self.grant_once("ann")
        # Nothing of what the person is called is kept, or told to anybody.
        for name in os.listdir(os.path.join(self.t.folder, "state")):
            with open(os.path.join(self.t.folder, "state", name), "rb") as f:
                self.assertNotIn(b"ann@example.org", f.read(), name)
        self.assertNotIn("ann@example.org", self.t.log())

    def test_without_the_header(self):
        status, headers, _ = ask(self.t, self.key, {"X-OpenWebUI-User-Email": "x@example.org"})
        self.assertEqual(status, 200)
        self.assertEqual(micro(self.own()["balance"]), 10000000 - micro(headers["x-tolld-cost"]))

    def test_other_keys(self):
        before = set(accounts(self.t))
        plain = self.t.ctl("key", "create", self.name, "--scope", "chat,mint")["key"]
        maker = trusted(self.t, self.name, "--scope", "chat,mint")
        status, _, minted = self.t.request("POST", "/keys", {"ttl": 60}, maker)
        self.assertEqual(status, 200, minted)
        spent = 0
        for key in (plain, minted["key"]):
            for value in ("eve", "", "no blanks", "x" * 100):
                status, headers, body = ask(self.t, key, value)
                self.assertEqual(status, 200, body)
                spent += micro(headers["x-tolld-cost"])
        self.assertEqual(micro(self.own()["balance"]), 10000000 - spent)
        self.assertEqual(set(accounts(self.t)), before)
        rows = {r["trust_user_header"] for r in self.t.ctl("key", "list", self.name)}
        self.assertEqual(rows, {True, False})
        # A user's own key, minted by a trusted one in the user's name.
        status, _, minted = self.t.request("POST", "/keys", {"ttl": 60}, maker, {HEADER: "fay"})
        self.assertEqual((status, minted["account"]), (200, "owui:fay"))
        status, _, body = self.t.request("POST", "/keys", {"ttl": 60, "account": self.name}, maker,
                                         {HEADER: "fay"})
        self.assertEqual(status, 403, body)
        # A wrong key makes nobody.
        for key in ("tolld_" + "x" * 40, None):
            self.assertEqual(ask(self.t, key, "mallory")[0], 401)
        self.assertNotIn("owui:mallory", accounts(self.t))

    def test_bad_values(self):
        before = set(accounts(self.t))
        for value in ("", " ", "a b", "a,b", "a/b", "../x", "x" * 60, "é".encode(), "a\tb", "%41",
                      "a;b", '"a"'):
            status, headers, body = ask(self.t, self.key, value)
            self.assertEqual((status, body["error"]["param"]), (400, HEADER), value)
            self.assertIn(HEADER, body["error"]["message"])
        # Twice, as it came through somebody who adds his own.
        c = self.raw(f"{HEADER}: a\r\n{HEADER.lower()}: a\r\n")
        self.assertIn(b" 400 ", c.split(b"\r\n")[0])
        self.assertIn(HEADER.encode(), c)
        self.assertEqual(set(accounts(self.t)), before)
        self.assertEqual(self.own()["balance"], 10)
        # What just fits.
        status, _, body = ask(self.t, self.key, "x" * 59)
        self.assertEqual(status, 200, body)
        self.assertIn("owui:" + "x" * 59, accounts(self.t))

    def raw(self, headers, body=b""):
        with socket.create_connection(("127.0.0.1", self.t.port), timeout=PATIENCE * SLOW) as s:
            s.sendall((f"GET /balance HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self.key}\r\n"
                       f"{headers}Connection: close\r\n\r\n").encode() + body)
            out = b""
            while True:
                more = s.recv(65536)
                if not more:
                    return out
                out += more

    def test_a_body_in_pieces(self):
        """The head is looked at long before the body is whole; meanwhile another makes the user."""
        body = json.dumps({"model": "short", "message": "hi"}).encode()
        head = (f"POST /chat/send HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self.key}\r\n"
                f"{HEADER}: slow\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n")
        with socket.create_connection(("127.0.0.1", self.t.port), timeout=PATIENCE * SLOW) as s:
            s.sendall(head.encode() + body[:5])
            self.assertEqual(ask(self.t, self.key, "slow")[0], 200)
            s.sendall(body[5:])
            out = b""
            while more := s.recv(65536):
                out += more
        self.assertIn(b" 200 ", out.split(b"\r\n")[0], out)
        sent = json.loads(out.split(b"\r\n\r\n", 1)[1])
        self.t.request("DELETE", "/stream?id=" + sent["stream_id"])
        self.grant_once("slow")

    def test_twenty_at_once(self):
        for user in ("at-once-1", "at-once-2"):
            answers = Asked(self.t, self.key, user, 20).join()
            self.assertEqual([a[0] for a in answers], [200] * 20)
            spent = sum(micro(a[1]["x-tolld-cost"]) for a in answers)
            self.assertEqual(micro(self.account_of(user)["balance"]), 3000000 - spent)
            self.grant_once(user)
        self.assertEqual(self.own()["balance"], 10)

    def held_up(self, user, strike):
        """Twenty first requests wait for a keeper that stands still; then it strikes."""
        keeper = self.t.children()["tolld: keeper"]
        os.kill(keeper, signal.SIGSTOP)
        asked = Asked(self.t, self.key, user, 20)
        pushed = f'owui:{user}'.encode()
        ledger = os.path.join(self.t.folder, "run", "ledger.shm")

        def in_both_rings():
            with open(ledger, "rb") as f:
                return f.read().count(pushed) >= 20
        try:
            wait_for(in_both_rings, 10, "the workers to have asked")
        finally:
            strike(keeper)
        return asked

    def after(self, user, asked):
        spent = 0
        for status, headers, body in asked.join():
            self.assertIn(status, (200, 503), body)
            if status == 200:
                spent += micro(headers["x-tolld-cost"])
        wait_for(self.t.ready, 20, "the daemon to be ready")

        def again():
            try:
                status, headers, body = ask(self.t, self.key, user)
            except Exception:
                return None
            self.assertIn(status, (200, 503), body)
            return headers if status == 200 else None
        spent += micro(wait_for(again, 20, "the user to be served")["x-tolld-cost"])
        self.grant_once(user)
        # A killed worker's requests may be charged without its client knowing.
        balance = micro(self.account_of(user)["balance"])
        if asked.broken:
            self.assertLessEqual(balance, 3000000 - spent)
        else:
            self.assertEqual(balance, 3000000 - spent)
        self.assertEqual(self.own()["balance"], 10)

    def test_the_keeper_is_killed(self):
        def strike(keeper):
            os.kill(keeper, signal.SIGKILL)
        asked = self.held_up("keeper-killed", strike)
        self.after("keeper-killed", asked)

    def test_a_worker_is_killed(self):
        def strike(keeper):
            os.kill(self.t.children()["tolld: worker 1"], signal.SIGKILL)
            os.kill(keeper, signal.SIGCONT)
        asked = self.held_up("worker-killed", strike)
        self.after("worker-killed", asked)

    def test_both_workers_are_killed(self):
        """Nobody waits for the account any more, and it is made all the same, once."""
        def strike(keeper):
            for n in (1, 2):
                os.kill(self.t.children()[f"tolld: worker {n}"], signal.SIGKILL)
            os.kill(keeper, signal.SIGCONT)
        asked = self.held_up("workers-killed", strike)
        self.after("workers-killed", asked)

    def test_all_are_killed(self):
        asked = self.held_up("all-killed", lambda keeper: self.t.kill_all())
        # One dies before the other: that may still have said that there is no journal.
        self.assertEqual([a for a in asked.join() if a[0] != 503], [])
        self.t.start()
        self.after("all-killed", asked)

    def test_clients_that_leave(self):
        """Who asked is gone before the answer: the account is there for the next one."""
        keeper = self.t.children()["tolld: keeper"]
        os.kill(keeper, signal.SIGSTOP)
        try:
            for _ in range(5):
                s = socket.create_connection(("127.0.0.1", self.t.port))
                s.sendall((f"GET /balance HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self.key}"
                           f"\r\n{HEADER}: leaver\r\n\r\n").encode())
                s.close()
        finally:
            os.kill(keeper, signal.SIGCONT)
        self.assertEqual(ask(self.t, self.key, "leaver")[0], 200)
        self.grant_once("leaver")

    def test_a_silent_disk(self):
        """Five seconds, then 503; and the account is made once when the keeper is back."""
        keeper = self.t.children()["tolld: keeper"]
        os.kill(keeper, signal.SIGSTOP)
        try:
            asked = Asked(self.t, self.key, "patient", 3)
            answers = asked.join()
        finally:
            os.kill(keeper, signal.SIGCONT)
        self.assertEqual([(a[0], a[1]["Retry-After"]) for a in answers], [(503, "5")] * 3)
        self.after("patient", Asked(self.t, self.key, "patient", 0))

    def test_restart_and_rebuild(self):
        self.assertEqual(ask(self.t, self.key, "stays")[0], 200)
        before = self.account_of("stays")
        self.assertEqual(self.t.stop(), 0)
        for name in ("state.mdb", "state.mdb-lock"):
            path = os.path.join(self.t.folder, "state", name)
            if os.path.exists(path):
                os.unlink(path)
        self.t.start()
        self.assertEqual(self.account_of("stays"), before)
        status, headers, _ = ask(self.t, self.key, "stays")
        self.assertEqual(status, 200)
        self.assertEqual(micro(self.account_of("stays")["balance"]),
                         micro(before["balance"]) - micro(headers["x-tolld-cost"]))
        self.assertTrue([r for r in self.t.ctl("key", "list", self.name)
                         if r["trust_user_header"]])
        self.grant_once("stays")

    def test_an_operator_was_first(self):
        """An account that is there is charged as it is; a closed one is refused as that."""
        self.t.ctl("account", "create", "owui:known", "--balance", "1", "--overdraft", "0")
        status, headers, _ = ask(self.t, self.key, "known")
        self.assertEqual(status, 200)
        self.assertEqual(micro(self.account_of("known")["balance"]),
                         1000000 - micro(headers["x-tolld-cost"]))
        self.t.ctl("account", "close", "owui:known")
        status, _, body = ask(self.t, self.key, "known")
        self.assertEqual(status, 402, body)
        # And the other way round: the id is taken.
        self.assertEqual(ask(self.t, self.key, "first")[0], 200)
        p = self.t.ctl("account", "create", "owui:first", "--balance", "5", check=False)
        self.assertIn("account_exists", p.stdout + p.stderr)

    def test_a_keys_end(self):
        self.assertEqual(ask(self.t, self.key, "user-of-a-key")[0], 200)
        made = self.t.ctl("key", "create", self.name, "--trust-user-header")
        self.t.ctl("key", "revoke", made["key_id"])
        self.assertEqual(ask(self.t, made["key"], "too-late")[0], 401)
        # A key whose account is closed is good for nobody, old user or new.
        self.t.ctl("account", "close", self.name)
        for user in ("user-of-a-key", "too-late"):
            self.assertEqual(ask(self.t, self.key, user)[0], 402)
        self.assertNotIn("owui:too-late", accounts(self.t))

    def test_its_cap_is_for_all_its_users(self):
        key = trusted(self.t, self.name, "--cap", "0.000001", "--per", "total")
        status, _, body = ask(self.t, key, "capped")
        self.assertEqual((status, body["error"]["code"]), (402, "key_cap_reached"))


class Bounds(Case):
    OPTIONS = dict(workers=2, config="first_sight { max_accounts = 5 }",
                   ledger="max_accounts = 12", models={"short": "sim:tokens=5,lang=even"})

    def test_bounds(self):
        t = self.t
        t.ctl("account", "create", "site", "--balance", "10")
        first, second, third = (trusted(t, "site") for _ in range(3))
        # No grant, no overdraft: there, and without credit.
        status, _, body = ask(t, first, "u0")
        self.assertEqual((status, body["error"]["code"]), (402, "insufficient_credit"))
        self.assertEqual([micro(accounts(t)["owui:u0"][k]) for k in ("balance", "overdraft")],
                         [0, 0])
        # Thirty users at once, and five are made.
        with ThreadPoolExecutor(15) as pool:
            answers = list(pool.map(lambda i: ask(t, first, f"n{i}"), range(30)))
        codes = [a[2]["error"]["code"] for a in answers]
        self.assertEqual(sorted(set(codes)), ["insufficient_credit", "user_limit_reached"])
        self.assertEqual(codes.count("insufficient_credit"), 4)
        for status, headers, body in answers:
            if body["error"]["code"] == "user_limit_reached":
                self.assertEqual((status, headers["x-should-retry"], body["error"]["param"]),
                                 (403, "false", HEADER))
        self.assertEqual(len(accounts(t)), 6)
        # Those who are there go on, also after a restart that takes the bound with it.
        self.assertEqual(ask(t, first, "u0")[0], 402)
        t.stop()
        t.start()
        self.assertEqual(ask(t, first, "u1")[0], 403)
        # Another key has its own count, and knows the same users.
        self.assertEqual(ask(t, second, "u0")[0], 402)
        for i in range(5):
            self.assertEqual(ask(t, second, f"s{i}")[0], 402)
        self.assertEqual(ask(t, second, "s5")[0], 403)
        # The table of accounts is full.
        self.assertEqual(ask(t, third, "t0")[0], 402)
        status, headers, body = ask(t, third, "t1")
        self.assertEqual((status, body["error"]["code"], headers["Retry-After"]),
                         (503, "overloaded", "1"))
        self.assertEqual(len(accounts(t)), 12)
        self.assertGreater(t.metric('tolld_table_full_total{table="accounts"}'), 0)
        self.invariants()


if __name__ == "__main__":
    unittest.main()
