"""Goal:   a provider's key is in no log, no error, no core file, and in no memory that one would
        hold.
Method: run streams with keys given in each way, then read all memory of every process that a core
        takes (all but what is marked "dd"), and a core made by gcore, where that is installed.
"""
import os
import re
import shutil
import signal
import subprocess
import tempfile
import unittest

from provider import Provider, good, status
from test_upstream_tls import Authority, PRICES
from tolld import BUILD, Tolld, end_of, wait_for


def dumped(pid):
    """The contents of the mappings that a core of the process holds: private, not marked."""
    out = []
    with open(f"/proc/{pid}/smaps") as f:
        text = f.read()
    with open(f"/proc/{pid}/mem", "rb", 0) as mem:
        for part in re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", text):
            m = re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \S+ *(.*)", part)
            if not m or not re.match("r..p", m[3]) or m[4] in ("[vvar]", "[vsyscall]"):
                continue
            if re.search(r"(?m)^VmFlags:.* dd\b", part):
                continue
            if re.search(r"(?m)^Rss: +0 kB", part):
                continue  # never touched
            start, end = int(m[1], 16), int(m[2], 16)
            mem.seek(start)
            try:
                out.append(mem.read(end - start))
            except OSError:
                continue
    return b"".join(out)


def sanitized():
    """A sanitizer keeps what was freed, and its shadow memory would make a core of terabytes."""
    with open(os.path.join(BUILD, "tolld"), "rb") as f:
        return b"libasan" in f.read()


@unittest.skipIf(sanitized(), "built with a sanitizer")
@unittest.skipUnless(os.geteuid() == 0, "needs to read the memory of a process that forbids it")
class Secret(unittest.TestCase):
    KEYS = {"file": "filekey-8f14e45fceea167a5a36", "env": "envkey-c9f0f895fb98ab9159f5",
            "tls": "tlskey-45c48cce2e2d7fbdea1a"}

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="tolld-secret-")
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        ca = Authority(cls.folder)
        cls.plain, cls.tls = Provider(), Provider(ca.context("here", "IP:127.0.0.1"))
        config = ""
        for name, scheme, port in (("file", "http", cls.plain.port), ("tls", "https", cls.tls.port),
                                   ("env", "http", cls.plain.port)):
            path = os.path.join(cls.folder, name)
            with open(path, "w") as f:
                f.write(cls.KEYS[name] + "\n")
            how = 'api_key = "${TEST_PROVIDER_KEY}"' if name == "env" else \
                f'api_key_file = "{path}"'
            config += f'''
provider "{name}" {{ base_url = "{scheme}://127.0.0.1:{port}/v1"
    {how}
    ca_file = "{ca.file}"
    retries = 0
}}
model "{name}" {{ provider = {{"{name}"}}
{PRICES} }}
'''
        cls.t = Tolld(workers=2, sim=False, config=config,
                      env={"TEST_PROVIDER_KEY": cls.KEYS["env"]})
        cls.addClassCleanup(cls.t.close)
        cls.addClassCleanup(cls.plain.close)
        cls.addClassCleanup(cls.tls.close)
        cls.t.start()
        cls.key = cls.t.account("alice", "1000")

    def run_all(self, *answers):
        for name, key in self.KEYS.items():
            provider = self.tls if name == "tls" else self.plain
            provider.reset(*[status(x.code, x.words + key) for x in answers])
            for _ in answers:
                kind, end = end_of(self.t.run(self.key, "hello", name))
                self.assertEqual(kind, "error")
                self.assertNotIn(key[:10], str(end))
            self.assertEqual(end_of(self.t.run(self.key, "hello", name))[0], "done")
            self.assertEqual({x.key for x in provider.seen}, {key})

    def processes(self):
        return dict(self.t.children(), **{"tolld: master": self.t.process.pid})

    # Before the test of errors: what a provider itself says is read like all that it says.

    def test_a_memory(self):
        self.run_all()
        found = []
        for title, pid in self.processes().items():
            memory = dumped(pid)
            self.assertGreater(len(memory), 1 << 20, title)
            # The method finds what is there: this string is in every process.
            self.assertTrue(self.t.folder.encode() in memory, title)
            for name, key in self.KEYS.items():
                # The master alone keeps the environment that it was started with.
                if title == "tolld: master" and name == "env":
                    continue
                if key.encode() in memory:
                    found.append((title, name))
        self.assertEqual(found, [])

    def test_a_core_by_a_debugger(self):
        if shutil.which("gcore") is None:
            self.skipTest("gcore is not installed")
        self.run_all()
        path = os.path.join(self.folder, "core")
        worker = next(p for t, p in self.t.children().items() if "worker" in t)
        subprocess.run(["gcore", "-o", path, str(worker)], check=True, capture_output=True,
                       timeout=100)
        with open(f"{path}.{worker}", "rb") as f:
            core = f.read()
        os.unlink(f"{path}.{worker}")
        self.assertTrue(self.t.folder.encode() in core)
        self.assertEqual([n for n, key in self.KEYS.items() if key.encode() in core], [])

    def test_log_and_metrics(self):
        # A provider that shows it in its errors, too.
        self.run_all(status(401, "bad key "), status(400, "you sent Authorization: Bearer "))
        text = self.t.log() + self.t.get_admin("/metrics")[1]
        for key in self.KEYS.values():
            self.assertNotIn(key[:10], text)


class NoCore(unittest.TestCase):
    """The kernel writes none of these processes, whatever the limits say."""

    def test_abort(self):
        with open("/proc/sys/kernel/core_pattern") as f:
            if f.read().startswith(("|", "/")):
                self.skipTest("cores do not go to the working directory here")
        with tempfile.TemporaryDirectory(prefix="tolld-core-") as folder:
            # A process that may be dumped leaves a core here, or the test proves nothing.
            probe = subprocess.run(["sh", "-c", "ulimit -c unlimited; kill -ABRT $$"], cwd=folder)
            if probe.returncode != -signal.SIGABRT or not os.listdir(folder):
                self.skipTest("no cores on this machine")
            for name in os.listdir(folder):
                os.unlink(os.path.join(folder, name))
            t = Tolld(sim=False, wrapper=["sh", "-c", f"ulimit -c unlimited; cd {folder}; "
                                          'exec "$0" "$@"'])
            self.addCleanup(t.close)
            t.start()
            worker = next(p for x, p in t.children().items() if "worker" in x)
            os.kill(worker, signal.SIGABRT)
            wait_for(lambda: any("worker" in x and p != worker for x, p in t.children().items()),
                     20, "the worker to be replaced")
            self.assertEqual(os.listdir(folder), [])


if __name__ == "__main__":
    unittest.main()
