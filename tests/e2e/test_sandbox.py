"""Goal:   who takes a process over gets nothing beyond what that process does anyway: it is stopped,
        the others serve on, its streams are settled, and the log says which call it was.
Method: make each kind of process call what it never calls, by ptrace, in the program as it is; look
        at what the kernel says of each; take parts of the sandbox away from under it.
        (That the lists are whole is proved by all other tests, which run under them.)
"""
import ctypes
import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import unittest

from tolld import BUILD, PATIENCE, Case, Tolld, end_of, wait_for, worker_of

SANITIZED = not os.path.exists(os.path.join(BUILD, "tolld.debug"))
INJECT = os.path.join(BUILD, "e2e", "inject")
LANDLOCK = ctypes.CDLL(None).syscall(444, None, 0, 1)

AF_UNIX, SOCK_STREAM, SOCK_DGRAM = 1, 1, 2
O_RDONLY, O_RDWR, AT_FDCWD = 0, 2, 2 ** 64 - 100
EPERM, EACCES, EAFNOSUPPORT, ENOSYS = -1, -13, -97, -38


def inject(pid, name, *args):
    """What the process is answered: a number, or "signal N"."""
    p = subprocess.run([INJECT, str(pid), name, *map(str, args)], capture_output=True, text=True,
                       timeout=PATIENCE)
    if p.returncode == 77:
        raise unittest.SkipTest("no ptrace here: " + p.stderr)
    assert p.returncode == 0, p.stderr
    out = p.stdout.strip()
    return int(out[2:]) if out.startswith("= ") else out


def status(pid):
    with open(f"/proc/{pid}/status") as f:
        return dict(x.rstrip("\n").split(":\t", 1) for x in f if ":\t" in x)


def memory_has(pid, what):
    """Is it in what the process could write itself?"""
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as mem:
        for line in maps:
            m = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw.p", line)
            if not m:
                continue
            start, end = (int(x, 16) for x in m.groups())
            try:
                mem.seek(start)
                if what in mem.read(end - start):
                    return True
            except (OSError, OverflowError):
                continue
    return False


@unittest.skipIf(SANITIZED, "a sanitizer's build has no sandbox")
class Sandbox(Case):
    BAD = ()
    OPTIONS = {"workers": 2, "models": {"slow": "sim:tokens=100000,rate=50"}}

    def pid(self, title):
        return wait_for(lambda: self.t.children().get(title), 20, title)

    def stopped(self, title, who, name, *args):
        """The call ends the process, with a report, and a successor comes."""
        pid = self.pid(title)
        self.assertEqual(inject(pid, name, *args), f"signal {int(signal.SIGSYS)}")
        wait_for(lambda: f"process={who} pid={pid} " in self.t.log(), 10, "its death in the log")
        self.assertRegex(self.t.log(), rf'proc={who} msg="crash" pid={pid} thread=\d+ '
                         rf"signal=SIGSYS code=1 syscall=\d+ name={name} pc=\S+ version=\S+ build_id=")
        self.assertRegex(self.t.log(), rf'process={who} pid={pid} signal="?{int(signal.SIGSYS)}\b')
        wait_for(lambda: self.t.children().get(title) not in (None, pid) and self.t.ready(), 30,
                 "its successor")

    def test_what_the_kernel_says(self):
        for title, pid in self.t.children().items():
            with self.subTest(title):
                wait_for(lambda: status(pid)["Seccomp"] == "2", 10, "it to be set up")
                s = status(pid)
                self.assertEqual(s["NoNewPrivs"], "1")
                for caps in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
                    self.assertEqual(int(s[caps], 16), 0, caps)
                with open(f"/proc/{pid}/limits") as f:
                    self.assertRegex(f.read(), r"Max core file size +0 +0 ")
        self.assertEqual(status(self.t.process.pid)["Seccomp"], "0")

    def test_worker_calls(self):
        for i, call in enumerate((
                ("execve", "/bin/sh", 0, 0), ("ptrace", 16, self.t.process.pid, 0, 0),
                ("kill", self.t.process.pid, 0), ("listen", 3, 5), ("fork",),
                ("socket", 17, 3, 0), ("process_vm_readv", self.t.process.pid, 0, 0, 0, 0, 0),
                ("rt_sigaction", int(signal.SIGSYS), 0, 0, 8),
                # The kernel does not look at the upper half.
                ("rt_sigaction", 2 ** 32 + int(signal.SIGSYS), 0, 0, 8), ("socket", 2 ** 32 + 17, 3, 0),
                ("unlink", "/tmp/x"),
                ("io_uring_setup", 1, 0), ("tgkill", self.t.process.pid, self.t.process.pid, 0))):
            with self.subTest(call):
                self.stopped(f"tolld: worker {i % 2 + 1}", f"worker-{i % 2 + 1}", *call)
        self.invariants()

    def test_keeper_and_admin_calls(self):
        for call in (("socket", 2, 1, 0), ("execve", "/bin/sh", 0, 0)):
            with self.subTest(call):
                self.stopped("tolld: keeper", "keeper", *call)
                self.stopped("tolld: admin", "admin", *call)
        self.invariants()

    def test_streams_of_a_stopped_worker(self):
        """One is stopped while all have streams: its own are settled, the others' go on."""
        key = self.t.account("carol", 1000)
        streams = []
        owners = set()
        while len(streams) < 8 or owners != {1, 2}:
            sent = self.t.send(key, model="slow", max_tokens=5000)["stream_id"]
            owners.add(worker_of(sent))
            s = self.t.open(sent)
            events = s.typed()
            while next(events)["type"] != "token":
                pass
            streams.append((s, events))
        before = self.t.ctl("hold", "list")
        self.assertEqual(len(before), len(streams))
        self.stopped("tolld: worker 1", "worker-1", "execve", "/bin/sh", 0, 0)
        others = [h for h in before if worker_of(h["stream_id"]) != 1]
        wait_for(lambda: len(self.t.ctl("hold", "list")) == len(others), 20,
                 "its streams to be settled")
        on = 0
        for s, events in streams:
            try:  # past what was on its way already
                on += len(list(itertools.islice(events, 100))) == 100
            except OSError:
                pass
        self.assertEqual(on, len(others))
        self.assertEqual(end_of(self.t.run(key))[1]["finish_reason"], "stop")
        for s, _ in streams:
            s.close()
        for h in self.t.ctl("hold", "list"):
            self.t.ctl("stream", "cancel", h["stream_id"], check=False)
        self.invariants()

    @unittest.skipIf(LANDLOCK < 1, "a kernel without Landlock")
    def test_files(self):
        state = os.path.join(self.t.folder, "state")
        worker, keeper, admin = (self.pid("tolld: " + x) for x in ("worker 1", "keeper", "admin"))
        mine = os.path.join(self.t.folder, "mine")
        with open(mine, "w") as f:
            f.write("nobody's business")
        for pid, path, flags, good in (
                (worker, mine, O_RDONLY, False),
                (worker, self.t.config_file, O_RDONLY, False),
                (worker, "/proc/1/environ", O_RDONLY, False),
                (worker, f"{state}/journal.mdb", O_RDWR, False),
                (worker, f"{state}/state.mdb", O_RDWR, False),
                (worker, f"{state}/key.secret", O_RDWR, False),
                (worker, f"{state}/state.mdb", O_RDONLY, True),
                (worker, f"{state}/state.mdb-lock", O_RDWR, True),
                (worker, "/etc/resolv.conf", O_RDONLY, True),
                (worker, "/etc/ssl/certs/ca-certificates.crt", O_RDONLY, True),
                (keeper, mine, O_RDONLY, False),
                (keeper, "/etc/passwd", O_RDONLY, False),
                (keeper, f"{state}/state.mdb", O_RDWR, True),
                (admin, f"{state}/journal.mdb", O_RDONLY, True)):
            if good and not os.path.exists(path):
                continue
            with self.subTest(path=path, flags=flags):
                result = inject(pid, "openat", AT_FDCWD, path, flags)
                if good:
                    self.assertGreater(result, 2)
                else:
                    self.assertEqual(result, EACCES)
        self.assertEqual(inject(admin, "execve", "/bin/sh", 0, 0), "signal 31")

    def test_refused(self):
        """What the C library asks for and can do without is an error."""
        worker, admin = self.pid("tolld: worker 2"), self.pid("tolld: admin")
        self.assertEqual(inject(worker, "socket", AF_UNIX, SOCK_STREAM, 0), EAFNOSUPPORT)
        self.assertEqual(inject(worker, "socket", AF_UNIX, SOCK_DGRAM, 0), EAFNOSUPPORT)
        # Readable, writable and executable, private and anonymous; and without the last.
        self.assertEqual(inject(worker, "mmap", 0, 4096, 7, 0x22, 2 ** 64 - 1, 0), EACCES)
        self.assertGreater(inject(worker, "mmap", 0, 4096, 3, 0x22, 2 ** 64 - 1, 0), 0)
        if LANDLOCK >= 6:
            self.assertEqual(inject(admin, "kill", self.t.process.pid, 0), EPERM)
        self.assertEqual(inject(worker, "getpid"), worker)

    def test_keys(self):
        """Providers' keys are in no process that does not call providers."""
        for title, pid in self.t.children().items():
            with self.subTest(title):
                self.assertEqual(memory_has(pid, b"provider-secret-key"), "worker" in title)


OUTER = """
import ctypes, os, sys
lib = ctypes.CDLL("libseccomp.so.2", use_errno=True)
lib.seccomp_init.restype = ctypes.c_void_p
ctx = ctypes.c_void_p(lib.seccomp_init(0x7fff0000))
for call in map(int, sys.argv[1].split(",")):
    rc = lib.seccomp_rule_add_array(ctx, 0x00050000 | 38, call, 0, None)
    assert rc == 0, rc
assert lib.seccomp_load(ctx) == 0
os.execv(sys.argv[2], sys.argv[2:])
"""
NR_SECCOMP, NR_LANDLOCK = 317, 444


@unittest.skipIf(SANITIZED or os.uname().machine != "x86_64", "a sanitizer's build, or no x86-64")
class Lacking(unittest.TestCase):
    """Kernels and containers without parts of it: their calls are answered with ENOSYS."""

    def daemon(self, without, config=""):
        t = Tolld(config=config, wrapper=[sys.executable, "-c", OUTER, without] if without else ())
        self.addCleanup(t.close)
        return t

    def serves(self, t):
        key = t.account("dave", 10)
        sent = t.send(key)
        self.assertEqual(end_of(list(t.open(sent["stream_id"]).typed()))[1]["finish_reason"], "stop")
        # Of the past, from state.mdb.
        self.assertEqual(t.open(sent["stream_id"]).status, 200)
        t.audit()

    def test_no_landlock(self):
        t = self.daemon(str(NR_LANDLOCK)).start()
        self.serves(t)
        self.assertEqual(t.log().count('msg="the sandbox is not whole here" lacks=Landlock'), 1)
        worker = t.children()["tolld: worker 1"]
        self.assertEqual(status(worker)["Seccomp"], "2")
        # Then it writes no file at all.
        path = os.path.join(t.folder, "state", "journal.mdb")
        self.assertEqual(inject(worker, "openat", AT_FDCWD, path, O_RDWR), EACCES)
        self.assertGreater(inject(worker, "openat", AT_FDCWD, path, O_RDONLY), 2)
        self.assertEqual(inject(worker, "openat", AT_FDCWD, path, 0o1001), "signal 31")  # O_TRUNC
        self.assertEqual(t.stop(), 0)

    def test_no_seccomp(self):
        t = self.daemon(str(NR_SECCOMP)).start()
        self.serves(t)
        self.assertEqual(t.log().count('msg="the sandbox is not whole here" lacks=seccomp'), 1)
        self.assertEqual(status(t.children()["tolld: worker 1"])["NoNewPrivs"], "1")
        self.assertEqual(t.stop(), 0)

    def test_nothing(self):
        t = self.daemon(f"{NR_SECCOMP},{NR_LANDLOCK}").start()
        self.serves(t)
        self.assertIn('lacks="seccomp, Landlock" sandbox=on', t.log())
        self.assertEqual(t.stop(), 0)

    def test_required(self):
        for without in (NR_LANDLOCK, NR_SECCOMP):
            t = self.daemon(str(without), "sandbox = require")
            t.start(wait=False)
            self.assertEqual(t.process.wait(PATIENCE), 1)
            self.assertIn("level=error proc=master msg=\"the sandbox is not whole here\"", t.log())
            self.assertFalse(os.path.exists(os.path.join(t.folder, "run", "ledger.shm")))
            t.process = None

    def test_another_user(self):
        """Started as root: what the master gives up, and what is listed, is the user's."""
        if os.geteuid() != 0:
            self.skipTest("not root")
        t = self.daemon("")
        os.chmod(t.folder, 0o755)
        with open(t.config_file) as f:
            text = f.read()
        with open(t.config_file, "w") as f:
            f.write(text.replace('user = ""', 'user = "nobody"'))
        t.start()
        self.serves(t)
        for pid in t.children().values():
            s = status(pid)
            self.assertEqual((s["Seccomp"], s["NoNewPrivs"]), ("2", "1"))
            self.assertEqual({int(s[x], 16) for x in ("CapPrm", "CapEff", "CapBnd", "CapAmb")}, {0})
            self.assertNotIn("0", s["Uid"].split())
        self.assertEqual(t.stop(), 0)

    def test_off_and_log(self):
        t = self.daemon("", "sandbox = off\ncore_files = true").start()
        self.serves(t)
        for pid in t.children().values():
            self.assertEqual((status(pid)["Seccomp"], status(pid)["NoNewPrivs"]), ("0", "1"))
        soft = subprocess.run(["sh", "-c", "ulimit -Hc"], capture_output=True, text=True).stdout
        if soft.strip() != "0":
            with open(f"/proc/{t.children()['tolld: keeper']}/limits") as f:
                self.assertNotRegex(f.read(), r"Max core file size +0 ")
        self.assertEqual(t.stop(), 0)
        t = self.daemon("", "sandbox = log").start()
        self.serves(t)
        worker = t.children()["tolld: worker 1"]
        self.assertEqual(status(worker)["Seccomp"], "2")
        self.assertGreater(inject(worker, "openat", AT_FDCWD, t.config_file, O_RDONLY), 2)
        self.assertEqual(inject(worker, "kill", t.process.pid, 0), 0)
        self.assertEqual(t.stop(), 0)

    def test_said_beforehand(self):
        t = self.daemon("")
        for mode, shown in (("on", "on (seccomp, Landlock"), ("off", "off (none)"),
                            ("log", "log (seccomp)")):
            t.extra = (f"sandbox = {mode}", "", "")
            t.write_config()
            p = subprocess.run([os.path.join(BUILD, "tolld"), "-t", "-c", t.config_file],
                               capture_output=True, text=True)
            self.assertIn(f"sandbox: {shown}", p.stdout)
        t.extra = ("sandbox = maybe", "", "")
        t.write_config()
        p = subprocess.run([os.path.join(BUILD, "tolld"), "-t", "-c", t.config_file],
                           capture_output=True, text=True)
        self.assertEqual(p.returncode, 1)
        self.assertIn(' sandbox: "maybe" is not one of off, log, on, require', p.stderr)


class NameServer(threading.Thread):
    """Answers every question for an A with 127.0.0.1, and for anything else with nothing."""

    def __init__(self, address):
        super().__init__(daemon=True)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((address, 53))
        self.asked = []

    def run(self):
        while True:
            try:
                question, peer = self.socket.recvfrom(4096)
            except OSError:
                return
            end = question.index(b"\0", 12) + 5
            kind = int.from_bytes(question[end - 4:end - 2], "big")
            self.asked.append(question[12:end - 4])
            answer = b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x7f\0\0\x01" if kind == 1 else b""
            self.socket.sendto(question[:2] + b"\x81\x80\0\x01" + (b"\0\x01" if answer else b"\0\0") +
                               b"\0\0\0\0" + question[12:end] + answer, peer)


@unittest.skipIf(SANITIZED, "a sanitizer's build has no sandbox")
class Names(unittest.TestCase):
    """Providers' names are looked up under the sandbox, by libcurl's threads."""

    def test_hosts_and_dns(self):
        address = "127.9.53.1"
        try:
            server = NameServer(address)
        except OSError as e:
            self.skipTest(f"no name server here: {e}")
        server.start()
        self.addCleanup(server.socket.close)
        t = Tolld(models={"named": ("x", ""), "asked": ("y", "")})
        self.addCleanup(t.close)
        resolv = os.path.join(t.folder, "resolv.conf")
        with open(resolv, "w") as f:
            f.write(f"nameserver {address}\noptions timeout:1 attempts:2\n")
        with open(t.config_file) as f:
            text = f.read()
        for model, host in (("named", "localhost"), ("asked", "provider.test")):
            text += f'''
provider "{model}" {{
    retries = 0
    dialect = "openai"
    base_url = "http://{host}:{t.sim.port}/v1"
    api_key = "k"
}}
'''
            at = text.index(f'model "{model}"')
            text = text[:at] + text[at:].replace('{"sim"}', f'{{"{model}"}}', 1)
        with open(t.config_file, "w") as f:
            f.write(text.replace('upstream = "x"', 'upstream = "sim"')
                    .replace('upstream = "y"', 'upstream = "sim"'))
        t.wrapper = ["unshare", "-m", "sh", "-c",
                     f'mount --bind {resolv} /etc/resolv.conf && exec "$@"', "sh"]
        if subprocess.run(t.wrapper + ["true"], capture_output=True).returncode != 0:
            self.skipTest("no mount namespaces here")
        t.start()
        key = t.account("erin", 10)
        for model in ("named", "asked"):
            with self.subTest(model):
                self.assertEqual(end_of(t.run(key, model=model))[1]["finish_reason"], "stop", t.log())
        self.assertIn(b"\x08provider\x04test\0", server.asked)
        self.assertEqual(t.stop(), 0)
        self.assertNotIn("SIGSYS", t.log())


if __name__ == "__main__":
    unittest.main()
