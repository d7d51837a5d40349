"""Goal:   what the admin socket, tollctl and the metrics listener promise: every acknowledged change
        is booked once and for all, and no client, however slow or hostile, holds up another.
Method: tollctl and raw MessagePack-RPC frames against a real daemon; its admin process and its
        keeper killed in the middle; peers that stall, flood and lie.
"""
import concurrent.futures
import contextlib
import grp
import json
import os
import pwd
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import unittest

from tolld import BUILD, PATIENCE, SLOW, Case, Tolld, micro, wait_for


def pack(v):
    """MessagePack of nil, bool, int, str, list, dict."""
    if v is None:
        return b"\xc0"
    if v is True or v is False:
        return b"\xc3" if v else b"\xc2"
    if isinstance(v, int):
        if 0 <= v < 128:
            return struct.pack("B", v)
        return b"\xd3" + struct.pack(">q", v) if v < 2**63 else b"\xcf" + struct.pack(">Q", v)
    if isinstance(v, str):
        b = v.encode()
        return b"\xdb" + struct.pack(">I", len(b)) + b
    if isinstance(v, list):
        return b"\xdd" + struct.pack(">I", len(v)) + b"".join(map(pack, v))
    return (b"\xdf" + struct.pack(">I", len(v))
            + b"".join(pack(k) + pack(x) for k, x in v.items()))


class Client:
    """A peer of the admin socket."""

    def __init__(self, path, timeout=PATIENCE):
        self.s = socket.socket(socket.AF_UNIX)
        self.s.settimeout(timeout * SLOW)
        self.s.connect(path)
        self.f = self.s.makefile("rb")
        self.id = 0

    def close(self):
        self.f.close()
        self.s.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def take(self, n):
        b = self.f.read(n)
        if len(b) < n:
            raise EOFError
        return b

    def value(self):
        c = self.take(1)[0]
        if c < 0x80 or c >= 0xe0:
            return c if c < 0x80 else c - 256
        if c < 0x90:
            return self.map(c & 15)
        if c < 0xa0:
            return [self.value() for _ in range(c & 15)]
        if c < 0xc0:
            return self.take(c & 31).decode()
        fixed = {0xc0: None, 0xc2: False, 0xc3: True}
        if c in fixed:
            return fixed[c]
        fmt = {0xcc: "B", 0xcd: ">H", 0xce: ">I", 0xcf: ">Q", 0xd0: "b", 0xd1: ">h", 0xd2: ">i",
               0xd3: ">q", 0xd9: "B", 0xda: ">H", 0xdb: ">I", 0xdc: ">H", 0xdd: ">I",
               0xde: ">H", 0xdf: ">I"}[c]
        n = struct.unpack(fmt, self.take(struct.calcsize(fmt)))[0]
        if c <= 0xd3:
            return n
        if c <= 0xdb:
            return self.take(n).decode()
        return [self.value() for _ in range(n)] if c <= 0xdd else self.map(n)

    def map(self, n):
        out = {}
        for _ in range(n):
            key = self.value()
            out[key] = self.value()
        return out

    def send(self, method, **args):
        self.id += 1
        self.s.sendall(pack([0, self.id, method, [args] if args else []]))
        return self.id

    def answer(self):
        """(id, error, result) of the next answer."""
        while True:
            m = self.value()
            if m[0] == 1:
                return m[1], m[2], m[3]

    def call(self, method, **args):
        """The result; a refusal is raised."""
        self.send(method, **args)
        _, error, result = self.answer()
        if error is not None:
            raise Refused(error["code"], error.get("field"), error["message"])
        return result


class Refused(Exception):
    pass


class Admin(Case):
    OPTIONS = dict(workers=1, sim=False)

    def client(self, **kw):
        c = Client(self.t.socket, **kw)
        self.addCleanup(c.close)
        return c

    def refused(self, code, field, method, **args):
        with self.assertRaises(Refused) as r:
            self.client().call(method, **args)
        self.assertEqual(r.exception.args[:2], (code, field), r.exception)

    def tollctl(self, *args, env=None):
        p = subprocess.run([os.path.join(BUILD, "tollctl"), *map(str, args)], text=True,
                           capture_output=True, timeout=60 * SLOW,
                           env=dict(os.environ, TOLLD_SOCKET=self.t.socket, **(env or {})))
        return p.returncode, p.stdout, p.stderr

    # --- accounts and credit ---------------------------------------------------------------

    def test_an_account_is_as_it_was_made(self):
        c = self.client()
        a = c.call("account.create", id="made", balance=1500000, overdraft=0, rpm=5, tpm=6,
                   streams=7)
        self.assertEqual(a, {"id": "made", "balance": 1500000, "held": 0, "available": 1500000,
                             "overdraft": 0, "status": "open", "rpm": 5, "tpm": 6, "streams": 7,
                             "budget_day": None, "budget_month": None})
        self.assertEqual(c.call("account.show", id="made"), a)
        b = c.call("account.create", id="budgeted", budget_month=7000000)
        self.assertEqual((b["budget_day"], b["budget_month"]["limit"],
                          b["budget_month"]["left"]), (None, 7000000, 7000000))
        self.assertIn(a, c.call("account.list")["accounts"])
        d = c.call("account.create", id="default")
        self.assertEqual((d["balance"], d["overdraft"], d["available"]), (0, 200000000, 200000000))
        # The first balance is a top-up with a ref: to book it again is safe.
        again = c.call("credit.topup", id="made", amount=1500000, ref="initial")
        self.assertEqual((again["balance"], again["repeated"]), (1500000, True))

    def test_what_is_wrong_is_said(self):
        c = self.client()
        c.call("account.create", id="wrong")
        self.refused("account_exists", "id", "account.create", id="wrong")
        self.refused("account_not_found", "id", "account.show", id="nobody")
        self.refused("account_not_found", "id", "credit.topup", id="nobody", amount=1)
        self.refused("invalid_argument", "id", "account.create", id="a b")
        self.refused("invalid_argument", "id", "account.create", id="x" * 65)
        self.refused("invalid_argument", "id", "account.create", id="")
        self.refused("invalid_argument", "id", "account.create")
        self.refused("invalid_argument", "id", "account.create", id=5)
        self.refused("invalid_argument", "balance", "account.create", id="w2", balance=-1)
        self.refused("invalid_argument", "rpm", "account.create", id="w2", rpm=2**32)
        self.refused("invalid_argument", "amount", "credit.topup", id="wrong", amount=0)
        self.refused("invalid_argument", "amount", "credit.topup", id="wrong", amount=-5)
        self.refused("invalid_argument", "amount", "credit.topup", id="wrong", amount=2**63)
        self.refused("invalid_argument", "amount", "credit.adjust", id="wrong", amount=0,
                     reason="r")
        self.refused("invalid_argument", "reason", "credit.adjust", id="wrong", amount=1)
        self.refused("invalid_argument", "ref", "credit.topup", id="wrong", amount=1,
                     ref="x" * 129)
        self.refused("invalid_argument", "ref", "credit.topup", id="wrong", amount=1, ref="\n")
        self.refused("invalid_argument", None, "credit.topup", id="wrong", amount=1, rfe="x")
        self.refused("unknown_method", None, "account.destroy", id="wrong")
        self.refused("key_not_found", "key_id", "key.revoke", key_id="key_0000000000000000")
        self.refused("invalid_argument", "key_id", "key.revoke", key_id="wrong")
        self.refused("invalid_argument", "amount", "credit.topup", id="wrong", amount=2**60)
        c.call("credit.topup", id="wrong", amount=2**60 - 1)
        self.refused("invalid_argument", "amount", "credit.topup", id="wrong", amount=1)

    def test_a_repeated_ref_books_nothing(self):
        c = self.client()
        c.call("account.create", id="refs")
        c.call("account.create", id="refs2")
        first = c.call("credit.topup", id="refs", amount=5, ref="a")
        self.assertNotIn("repeated", first)
        c.call("credit.topup", id="refs", amount=7)
        for amount in (5, 6):  # another amount changes nothing either
            again = c.call("credit.topup", id="refs", amount=amount, ref="a")
            self.assertEqual((again["balance"], again["repeated"]), (5, True))
        self.assertEqual(c.call("account.show", id="refs")["balance"], 12)
        # Refs are an account's own.
        self.assertEqual(c.call("credit.topup", id="refs2", amount=5, ref="a")["balance"], 5)
        c.call("credit.adjust", id="refs", amount=-2, reason="oops", ref="b")
        self.assertTrue(c.call("credit.adjust", id="refs", amount=-2, reason="o", ref="b")
                        ["repeated"])
        self.assertEqual(c.call("account.show", id="refs")["balance"], 10)

    def test_sixteen_at_once_with_one_ref(self):
        self.client().call("account.create", id="race")

        def one(i):
            with Client(self.t.socket) as c:
                return c.call("credit.topup", id="race", amount=100, ref=f"r{i % 4}")

        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            out = list(pool.map(one, range(64)))
        self.assertEqual(sum("repeated" not in r for r in out), 4)
        self.assertEqual(self.client().call("account.show", id="race")["balance"], 400)

    def test_an_adjustment_may_cross_the_floor(self):
        c = self.client()
        c.call("account.create", id="floor", balance=10, overdraft=0)
        a = c.call("credit.adjust", id="floor", amount=-15, reason="correction")
        self.assertEqual((a["balance"], a["available"]), (-5, -5))
        self.t.audit()

    def test_requests_in_a_row_are_all_answered(self):
        c = self.client()
        c.call("account.create", id="row")
        out = b"".join(pack([0, 1000 + i, "credit.topup", [{"id": "row", "amount": 1 + i}]])
                       for i in range(2000))
        threading.Thread(target=c.s.sendall, args=(out,), daemon=True).start()
        ids = set()
        for _ in range(2000):
            number, error, _ = c.answer()
            self.assertIsNone(error)
            ids.add(number)
        self.assertEqual(ids, set(range(1000, 3000)))
        self.assertEqual(c.call("account.show", id="row")["balance"], 2000 * 2001 // 2)

    def test_answers_come_after_the_sender_closed_his_side(self):
        c = self.client()
        c.s.sendall(pack([0, 1, "account.create", [{"id": "half"}]])
                    + pack([0, 2, "daemon.ping", []]))
        c.s.shutdown(socket.SHUT_WR)
        self.assertEqual({c.answer()[0], c.answer()[0]}, {1, 2})
        with self.assertRaises(EOFError):
            c.answer()

    def test_lists_come_in_pages(self):
        c = self.client()
        for i in range(30):
            c.send("account.create", id=f"page{i:02}")
        for i in range(30):
            c.answer()
        seen, after = [], 0
        while after is not None:
            page = c.call("account.list", after=after, limit=7)
            self.assertLessEqual(len(page["accounts"]), 7)
            seen += [a["id"] for a in page["accounts"]]
            after = page["next"]
        self.assertEqual(len(seen), len(set(seen)))
        self.assertLessEqual({f"page{i:02}" for i in range(30)}, set(seen))
        self.assertEqual(sorted(seen), sorted(a["id"] for a in self.t.ctl("account", "list")))
        self.assertEqual(c.call("account.list", after=2**32 - 1), {"accounts": [], "next": None})

    # --- keys --------------------------------------------------------------------------------

    def test_keys_live_and_die(self):
        key = self.t.account("keys", "1")
        other = self.t.ctl("key", "create", "keys", "--ttl", "1h", "--label", "laptop ü")
        short = self.t.ctl("key", "create", "keys", "--ttl", "1s")
        self.assertAlmostEqual(other["expires_at"], time.time() + 3600, delta=60 * SLOW)
        self.assertEqual(self.t.request("GET", "/balance", key=key)[0], 200)
        rows = {r["key_id"]: r for r in self.t.ctl("key", "list", "keys")}
        self.assertEqual(len(rows), 3)
        self.assertEqual(rows[other["key_id"]]["label"], "laptop ü")
        self.assertNotIn(key, str(rows))
        self.t.ctl("key", "revoke", other["key_id"])
        self.assertEqual(self.t.request("GET", "/balance", key=other["key"])[0], 401)
        self.assertEqual(self.t.request("GET", "/balance", key=key)[0], 200)
        self.assertTrue(self.t.ctl("key", "revoke", other["key_id"])["repeated"])
        wait_for(lambda: self.t.request("GET", "/balance", key=short["key"])[0] == 401, 5)
        rows = {r["key_id"]: r["status"] for r in self.t.ctl("key", "list", "keys")}
        self.assertEqual(sorted(rows.values()), ["active", "expired", "revoked"])
        self.assertNotIn("tolld_", self.t.log())
        for name in os.listdir(self.t.folder + "/state"):
            with open(f"{self.t.folder}/state/{name}", "rb") as f:
                self.assertNotIn(key.encode(), f.read())

    # --- peers that do not behave ------------------------------------------------------------

    def last_word(self, data):
        """Send bytes; what comes back before the daemon closes."""
        with Client(self.t.socket) as c:
            c.s.sendall(data)
            out = []
            with contextlib.suppress(EOFError, ConnectionResetError):
                while True:
                    out.append(c.value())
            return out

    def test_what_is_no_request_ends_the_connection(self):
        good = pack([0, 9, "daemon.ping", []])
        for bad in (b"\xc1", b"\xdd\xff\xff\xff\xff", b"\xdb\x7f\xff\xff\xff", b"\x91" * 20,
                    b"\xd4\x01\x00", pack({}), pack([7]), pack("GET / HTTP/1.1\r\n"),
                    pack([1, 1, None, None]), pack([0, 2**32, "daemon.ping", []])):
            out = self.last_word(good + bad + good)
            self.assertEqual(len(out), 2, (bad, out))
            self.assertEqual(out[0][:3], [1, 9, None])
            self.assertEqual(out[1][:2], [2, "error"])
            self.assertEqual(out[1][2][0]["code"], "malformed")
        out = self.last_word(pack([0, 5, "daemon.ping", [1]]))
        self.assertEqual((out[0][1], out[0][2]["code"]), (5, "malformed"))
        self.assertEqual(self.client().call("daemon.ping")["version"],
                         self.t.ctl("ping")["version"])

    def test_a_notification_gets_no_answer(self):
        c = self.client()
        c.s.sendall(pack([2, "anything", []]))
        self.assertIn("version", c.call("daemon.ping"))

    def test_who_does_not_read_holds_up_nobody(self):
        deaf = self.client()
        deaf.s.settimeout(0.2)
        request = pack([0, 1, "stats.get", []]) * 1000
        with contextlib.suppress(socket.timeout):
            for _ in range(200):
                deaf.s.sendall(request)
        c = self.client()
        worst = 0
        for _ in range(50):
            began = time.monotonic()
            c.call("daemon.ping")
            worst = max(worst, time.monotonic() - began)
        self.assertLess(worst, 5 * SLOW)  # it would be for as long as he does not read
        rss = self.rss()
        self.assertLess(rss, 100 << 20)

    def rss(self):
        with open(f"/proc/{self.t.children()['tolld: admin']}/statm") as f:
            return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def test_a_request_in_small_pieces_is_a_request(self):
        c = self.client()
        for b in pack([0, 3, "daemon.ping", []]):
            c.s.sendall(bytes([b]))
        self.assertEqual(c.answer()[0], 3)

    def test_half_a_request_is_not_waited_for_long(self):
        c = self.client()
        began = time.monotonic()
        c.s.sendall(pack([0, 3, "daemon.ping", []])[:5])
        self.assertEqual(c.s.recv(100), b"")
        self.assertLess(9, time.monotonic() - began)

    def test_a_newcomer_replaces_an_idle_client(self):
        idle = [self.client() for _ in range(64)]
        for c in idle:
            c.call("daemon.ping")
        for _ in range(3):
            self.assertIn("version", self.client().call("daemon.ping"))
        self.assertIn("version", idle[-1].call("daemon.ping"))
        with self.assertRaises((EOFError, OSError)):
            idle[0].call("daemon.ping")

    @unittest.skipIf(os.geteuid() != 0, "needs root")
    def test_who_may(self):
        nobody = pwd.getpwnam("nobody")

        def ask(gid, groups=()):
            """As nobody, in these groups: bytes of an answer, 0 if closed, -1 if kept out."""
            r, w = os.pipe()
            pid = os.fork()  # not another python: nobody may not be let to it
            if pid == 0:
                try:
                    os.setgroups(list(groups))
                    os.setgid(gid)
                    os.setuid(nobody.pw_uid)
                    with socket.socket(socket.AF_UNIX) as s:
                        s.connect(self.t.socket)
                        s.sendall(pack([0, 1, "daemon.ping", []]))
                        os.write(w, str(len(s.recv(100))).encode())
                except PermissionError:
                    os.write(w, b"-1")
                except OSError:
                    os.write(w, b"0")
                finally:
                    os._exit(0)
            os.close(w)
            os.waitpid(pid, 0)
            with os.fdopen(r) as f:
                return int(f.read())

        self.assertEqual(os.stat(self.t.socket).st_mode & 0o777, 0o660)
        for d in (self.t.folder, self.t.folder + "/run"):
            os.chmod(d, 0o755)
        self.assertEqual(ask(nobody.pw_gid), -1)  # the file's mode
        os.chmod(self.t.socket, 0o666)
        self.addCleanup(os.chmod, self.t.socket, 0o660)
        gid = os.stat(self.t.socket).st_gid
        self.assertEqual(ask(nobody.pw_gid), 0)  # the daemon's own check
        wait_for(lambda: f"uid {nobody.pw_uid}" in self.t.log(), 5)
        self.assertGreater(ask(gid), 10)
        self.assertGreater(ask(nobody.pw_gid, [gid]), 10)

    @unittest.skipIf(os.geteuid() != 0, "needs root")
    def test_roles(self):
        """admin_full_group: who is not in it may look, and is not told what opens a stream."""
        groups = [g for g in grp.getgrall() if g.gr_gid not in (0, pwd.getpwnam("nobody").pw_gid)]
        may, full = groups[:2]
        t = Tolld(config=f'admin_group = "{may.gr_name}" admin_full_group = "{full.gr_name}"',
                  models={"slow": "sim:tokens=1000,rate=20"}, ledger="hold_ttl = 600")
        self.addCleanup(t.close)
        t.start()
        for d in (t.folder, t.folder + "/run"):
            os.chmod(d, 0o755)
        self.assertEqual(os.stat(t.socket).st_gid, may.gr_gid)
        sent = t.send(t.account("roles", 10), "hello", "slow")

        def call(groups, method, **args):
            r, w = os.pipe()
            pid = os.fork()
            if pid == 0:
                try:
                    os.setgroups(groups)
                    os.setgid(pwd.getpwnam("nobody").pw_gid)
                    os.setuid(pwd.getpwnam("nobody").pw_uid)
                    with Client(t.socket) as c:
                        c.s.sendall(pack([0, 1, method, [args]]))
                        os.write(w, json.dumps(c.answer()).encode())
                finally:
                    os._exit(0)
            os.close(w)
            os.waitpid(pid, 0)
            with os.fdopen(r) as f:
                return json.loads(f.read())[1:]

        reader, owner = [may.gr_gid], [may.gr_gid, full.gr_gid]
        self.assertEqual(call(reader, "daemon.ping")[1]["role"], "read")
        self.assertEqual(call(owner, "daemon.ping")[1]["role"], "full")
        for method, args in (("account.list", {}), ("account.show", {"id": "roles"}),
                             ("audit.run", {}), ("hold.list", {}), ("journal.read", {}),
                             ("key.list", {"id": "roles"}), ("price.list", {}),
                             ("stats.get", {}), ("stream.list", {}), ("workers.list", {})):
            error, result = call(reader, method, **args)
            self.assertEqual(error, None, method)
            self.assertNotIn(sent["stream_id"], json.dumps(result))
        self.assertIn(sent["stream_id"], json.dumps(call(owner, "stream.list")[1]))
        hold = call(reader, "hold.list")[1]["holds"][0]
        self.assertEqual((hold["account"], hold["stream_id"]), ("roles", None))
        for method, args in (
                ("account.create", {"id": "x"}), ("account.set", {"id": "roles", "rpm": 1}),
                ("account.close", {"id": "roles"}), ("credit.topup", {"id": "roles", "amount": 1}),
                ("credit.adjust", {"id": "roles", "amount": 1, "reason": "x"}),
                ("key.create", {"id": "roles"}), ("key.revoke", {"key_id": "key_0"}),
                ("price.set", {"model": "sim", "kind": "prompt", "price": 1}),
                ("hold.void", {"hold": hold["hold"]}),
                ("stream.cancel", {"stream_id": sent["stream_id"]}),
                ("journal.compact", {}), ("backup.run", {"dir": t.folder + "/copy"})):
            self.assertEqual(call(reader, method, **args)[0]["code"], "forbidden", method)
        self.assertEqual(t.show("roles")["balance"], 10)
        self.assertEqual(call(owner, "credit.topup", id="roles", amount=5)[0], None)
        # No method is forgotten: each is either above or none of the reader's.
        with open(os.path.join(os.path.dirname(__file__), "../../daemon/admin-method.c")) as f:
            table = f.read()
        for method in re.findall(r'^    {"([a-z.]+)"', table, re.M):
            if method not in re.search(r"names\[\] = {([^}]*)}", table).group(1):
                self.assertIn(call(reader, method)[0]["code"], ("forbidden",), method)

    def test_the_documents_example(self):
        """The Python of docs/admin-protocol.md, as it stands there."""
        python = next((p for p in (sys.executable, "/usr/bin/python3") if subprocess.run(
            [p, "-c", "import msgpack"], capture_output=True).returncode == 0), None)
        if python is None:
            self.skipTest("python3-msgpack is not installed")
        here = os.path.dirname(os.path.abspath(__file__))
        with open(os.path.join(here, "../../docs/admin-protocol.md")) as f:
            code = re.search(r"```python\n(.*?)```", f.read(), re.S).group(1)
        code = code.replace("/run/tolld/admin.sock", self.t.socket)
        self.client().call("account.create", id="alice")
        for _ in range(2):  # the same ref: booked once
            p = subprocess.run([python, "-c", code], capture_output=True, text=True,
                               timeout=PATIENCE * SLOW)
            self.assertEqual((p.stdout, p.stderr), ("5000000 1\n", ""))

    # --- deaths ------------------------------------------------------------------------------

    def kill_while_booking(self, title, account):
        """Top up in a row, one process being killed every now and then: what was acknowledged."""
        self.client().call("account.create", id=account)
        pid = self.t.children()[title]
        for n in range(300):
            if n % 60 == 30:
                os.kill(self.t.children().get(title, pid), signal.SIGKILL)
            end = time.monotonic() + 30 * SLOW
            while True:  # as a careful caller does: the same ref until there is an answer
                try:
                    with Client(self.t.socket) as c:
                        c.call("credit.topup", id=account, amount=3, ref=f"n{n}")
                    break
                except (EOFError, OSError):
                    self.assertLess(time.monotonic(), end)
                    time.sleep(0.01)
        self.assertEqual(self.client().call("account.show", id=account)["balance"], 900)
        self.assertEqual(self.client().call("account.show", id=account)["available"], 200000900)
        self.t.audit()

    def test_the_admin_process_dies(self):
        self.kill_while_booking("tolld: admin", "admindies")

    def test_the_keeper_dies(self):
        self.kill_while_booking("tolld: keeper", "keeperdies")

    def test_a_killed_admin_loses_no_acknowledged_and_books_no_half(self):
        self.client().call("account.create", id="pipe")
        c = self.client()
        out = b"".join(pack([0, i, "credit.topup", [{"id": "pipe", "amount": 1}]])
                       for i in range(20000))
        threading.Thread(target=self.quiet_send, args=(c, out), daemon=True).start()
        answered = 0
        with contextlib.suppress(EOFError, OSError):
            while True:
                c.answer()
                answered += 1
                if answered == 500:
                    os.kill(self.t.children()["tolld: admin"], signal.SIGKILL)

        def show():
            with contextlib.suppress(EOFError, OSError):
                return self.client().call("account.show", id="pipe")

        a = wait_for(show, 20, "the new admin process")
        self.assertGreaterEqual(a["balance"], answered)
        self.assertEqual(a["available"], a["balance"] + a["overdraft"])
        self.t.audit()
        # What may be reserved in shared memory is the same as what the books say.
        self.assertEqual(self.t.show("pipe")["held"], 0)

    @staticmethod
    def quiet_send(c, data):
        with contextlib.suppress(OSError):
            c.s.sendall(data)

    # --- tollctl -----------------------------------------------------------------------------

    def test_tollctl_for_people(self):
        code, out, _ = self.tollctl("account", "create", "people", "--balance", "12.5")
        self.assertEqual(code, 0)
        self.assertIn("balance       12.5\n", out)
        code, out, _ = self.tollctl("account", "set", "people", "--budget-day", "1.5")
        self.assertRegex(out, r"budget_day    limit 1.5, spent 0, left 1.5, resets_at "
                              r"\d{4}-\d\d-\d\dT00:00:00Z\nbudget_month  -\n")
        self.assertEqual(self.tollctl("topup", "people", "0.000001")[:2],
                         (0, "balance  12.500001\n"))
        self.assertEqual(self.tollctl("adjust", "people", "-0.5", "--reason", "x")[:2],
                         (0, "balance  12.000001\n"))
        code, out, err = self.tollctl("topup", "people", "1", "--ref", "z")
        code, out, err = self.tollctl("topup", "people", "1", "--ref=z")
        self.assertEqual((code, out), (0, "balance  13.000001\n"))
        self.assertIn("nothing changed", err)
        code, key, _ = self.tollctl("key", "create", "people")
        self.assertRegex(key, r"\Atolld_[A-Za-z0-9]{40}\n\Z")
        self.assertEqual(self.t.request("GET", "/balance", key=key.strip())[0], 200)
        for command in (["account", "list"], ["hold", "list"], ["workers"], ["stats"], ["ping"],
                        ["version"], ["key", "list", "people"], ["help"], ["help", "topup"],
                        ["topup", "--help"], ["--help"], ["-V"]):
            code, out, err = self.tollctl(*command)
            self.assertEqual((code, err), (0, ""), command)
            self.assertTrue(out, command)

    def test_tollctl_exit_statuses(self):
        self.tollctl("account", "create", "exits")
        for args in (["account", "create", "exits"], ["account", "show", "nix"],
                     ["topup", "exits", "0"], ["topup", "exits", "-1"],
                     ["key", "revoke", "nix"]):
            code, out, err = self.tollctl(*args)
            self.assertEqual((code, out), (1, ""), args)
            self.assertTrue(err)
        for args in ([], ["nix"], ["account"], ["account", "nix"], ["topup"], ["topup", "exits"],
                     ["topup", "exits", "1.0000001"], ["topup", "exits", "1e3"],
                     ["topup", "exits", "1", "2"], ["topup", "exits", "1", "--nix"],
                     ["topup", "exits", "1", "--ref"], ["adjust", "exits", "1"], ["--nix", "ping"],
                     ["key", "create", "exits", "--ttl", "soon"], ["help", "nix"]):
            code, out, err = self.tollctl(*args)
            self.assertEqual((code, out), (2, ""), args)
            self.assertTrue(err, args)
        code, _, err = self.tollctl("-s", "/nonexistent/admin.sock", "ping")
        self.assertEqual(code, 3)
        self.assertIn("/nonexistent/admin.sock", err)

    def test_json_is_money_in_credits(self):
        self.t.ctl("account", "create", "json", "--balance", "0.000001", "--overdraft", "3")
        p = self.t.ctl("--json", "account", "show", "json", check=False)
        self.assertIn('"balance":0.000001,"held":0,"available":3.000001,"overdraft":3', p.stdout)
        again = self.t.ctl("topup", "json", "7", "--ref", "initial")
        self.assertIs(again["repeated"], True)
        self.assertEqual(micro(again["balance"]), 1)
        stats = self.t.ctl("stats")
        self.assertEqual(stats["tolld_credits_uncollected_total"], 0)
        self.assertGreater(stats["tolld_accounts"], 0)
        self.assertEqual(stats["tolld_build_info"][0]["value"], 1)
        self.assertGreater(stats["tolld_journal_batch_records"]["count"], 0)
        audit = self.t.audit()
        self.assertEqual(set(audit) & {"ok", "accounts", "records", "first_difference"},
                         {"ok", "accounts", "records", "first_difference"})
        self.assertIsNone(audit["first_difference"])
        self.assertEqual(self.t.ctl("workers")[0]["state"], "running")

    # --- the metrics listener ----------------------------------------------------------------

    def http(self, data, port=None):
        with socket.create_connection(("127.0.0.1", self.t.admin_port), PATIENCE * SLOW) as s:
            s.sendall(data)
            out = b""
            while True:
                b = s.recv(65536)
                if not b:
                    return out
                out += b

    def test_metrics_listener(self):
        status, text = self.t.get_admin("/metrics")
        self.assertEqual(status, 200)
        self.assertIn("# TYPE tolld_requests_total counter\n", text)
        self.assertEqual(self.t.get_admin("/healthz"), (200, "ok\n"))
        self.assertEqual(self.t.get_admin("/readyz"), (200, '{"ready":true}\n'))
        self.assertEqual(self.t.get_admin("/nix")[0], 404)
        head = self.http(b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertTrue(head.endswith(b"\r\n\r\n"))
        self.assertIn(b"\r\nConnection: close\r\n", head)
        self.assertIn(b"version=0.0.4", head)
        self.assertIn(b"HTTP/1.1 405 ", self.http(b"POST /metrics HTTP/1.1\r\nHost: x\r\n"
                                                  b"Content-Length: 0\r\n\r\n"))
        self.assertIn(b" 400 ", self.http(b"GET  / HTTP/1.1\r\n\r\n"))
        self.assertIn(b" 431 ", self.http(b"GET / HTTP/1.1\r\nHost: x\r\n"
                                          + b"A: b\r\n" * 5000)[:20])
        self.assertIn(b" 200 ", self.http(b"GET /healthz HTTP/1.0\r\n\r\n"))

    def test_metrics_listener_waits_for_nobody(self):
        idle = [socket.create_connection(("127.0.0.1", self.t.admin_port), PATIENCE * SLOW)
                for _ in range(60)]
        try:
            for s in idle:
                s.sendall(b"GET /metrics HTTP/1.1\r\nHost:")
            self.assertEqual(self.t.get_admin("/healthz")[0], 200)
            for s in idle:  # they are all closed, without a further word
                with contextlib.suppress(ConnectionResetError):
                    self.assertEqual(s.recv(10), b"")
        finally:
            for s in idle:
                s.close()


class Tight(Case):
    OPTIONS = dict(workers=1, sim=False, ledger="max_holds = 24")

    def test_what_finds_no_room_waits(self):
        """Eight hold slots for 128 requests at once: none is refused, none is forgotten."""
        def one(i):
            with Client(self.t.socket) as c:
                for n in range(100):
                    c.send("account.create", id=f"t{i}-{n}", balance=5)
                    c.send("credit.topup", id="t", amount=1)
                for _ in range(200):
                    _, error, _ = c.answer()
                    self.assertIsNone(error)

        with Client(self.t.socket) as c:
            c.call("account.create", id="t")
            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                list(pool.map(one, range(4)))
            self.assertEqual(c.call("account.show", id="t")["balance"], 400)
            self.assertEqual(c.call("account.show", id="t3-99")["available"], 200000005)
        self.assertGreaterEqual(self.t.audit()["accounts"], 401)

    def test_asked_before_the_accounts_are_there(self):
        """tollctl right after the start: it waits instead of not finding the account."""
        self.t.ctl("account", "create", "early", "--balance", "1")
        self.assertEqual(self.t.stop(), 0)
        self.t.start(wait=False)
        wait_for(lambda: os.path.exists(self.t.socket), 10)
        a = wait_for(lambda: self.t.ctl("account", "show", "early", check=False), 10)
        self.assertEqual(a.returncode, 0, a.stderr)
        wait_for(self.t.ready, 20)


class Restart(Case):
    OPTIONS = dict(workers=1, sim=False)

    def test_everything_acknowledged_is_there_after_killing_all(self):
        key = self.t.account("after", "3.5", "1")
        revoked = self.t.ctl("key", "create", "after")
        self.t.ctl("key", "revoke", revoked["key_id"])
        self.t.ctl("topup", "after", "1", "--ref", "once")
        before = self.t.show("after")
        self.t.kill_all()
        self.t.start()
        self.assertEqual(self.t.show("after"), before)
        self.assertTrue(self.t.ctl("topup", "after", "1", "--ref", "once")["repeated"])
        self.assertEqual(self.t.request("GET", "/balance", key=key)[0], 200)
        self.assertEqual(self.t.request("GET", "/balance", key=revoked["key"])[0], 401)
        self.invariants()
        self.assertEqual(self.t.stop(), 0)
        self.t.start()
        self.assertEqual(self.t.show("after"), before)
        self.t.audit()


if __name__ == "__main__":
    unittest.main()
