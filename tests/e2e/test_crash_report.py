"""Goal:   a process that a signal ends says where it was; its exit status stays the signal's.
Method: send SEGV and ABRT to each kind of process, read the log, resolve the report by the script
        that operators have; do it in both formats, under load, and with the debug info missing.
"""
import json
import os
import re
import signal
import subprocess
import unittest

from tolld import BUILD, ROOT, Case, Tolld, end_of, wait_for

TRACE = os.path.join(ROOT, "etc", "tolld-trace")
# A sanitizer's own report takes the place of ours.
SANITIZED = not os.path.exists(os.path.join(BUILD, "tolld.debug"))


def resolve(text, *args):
    return subprocess.run([TRACE, *args], input=text, capture_output=True, text=True,
                          env=dict(os.environ, BUILD=BUILD))


def build_id(path):
    notes = subprocess.run(["readelf", "-n", path], capture_output=True, text=True).stdout
    return re.search(r"Build ID: ([0-9a-f]+)", notes).group(1)


@unittest.skipIf(SANITIZED, "built with a sanitizer")
class CrashReport(Case):
    OPTIONS = {"workers": 2}
    name = "beside"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.t.account(cls.name)

    def crash(self, title, sig, who):
        """Kill a child by a signal, which is past its start; its two lines."""
        pid = self.t.children()[title]
        wait_for(lambda: self.t.metric("tolld_worker_up") == 2, 20, "the workers to run")
        self.t.ctl("adjust", self.name, "1", "--reason", "the keeper runs, and the admin process")
        os.kill(pid, sig)
        wait_for(lambda: f"process={who} pid={pid} signal={int(sig)} " in self.t.log()
                 or f'process={who} pid={pid} signal="{int(sig)} ' in self.t.log(), 10,
                 "its death to be logged, by this signal")
        wait_for(lambda: title in self.t.children() and self.t.ready(), 20, "its successor")
        lines = [x for x in self.t.log().splitlines() if f" pid={pid} " in x
                 and (" msg=\"crash" in x)]
        self.assertEqual(len(lines), 2, self.t.log())
        return pid, lines

    def test_each_process(self):
        for title, who, function in (("tolld: worker 1", "worker-1", "worker_main"),
                                     ("tolld: keeper", "keeper", "keeper_main"),
                                     ("tolld: admin", "admin", "admin_main")):
            for sig in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS):
                with self.subTest(who=who, sig=sig):
                    pid, (head, trace) = self.crash(title, sig, who)
                    self.assertIn(f" level=error proc={who} ", head)
                    self.assertIn(f" signal={sig.name} code=0 sender={os.getpid()} pc=", head)
                    self.assertIn(f" build_id={build_id(os.path.join(BUILD, 'tolld'))}", head)
                    self.assertIn(" version=", head)
                    p = resolve(trace + "\n")
                    self.assertEqual(p.returncode, 0, p.stderr)
                    self.assertIn(f" {function} (", p.stdout)
                    self.assertRegex(p.stdout, r" (master_)?run \(master\.c:\d+\)")

    def test_streams_go_on(self):
        key = self.t.account("witness", 10)
        self.crash("tolld: worker 2", signal.SIGSEGV, "worker-2")
        self.assertEqual(end_of(self.t.run(key))[1]["finish_reason"], "stop")
        self.invariants()

    def test_other_build(self):
        """A report of another build is not resolved to lines that are not its own."""
        line = 'time=x level=error proc=keeper msg="crash trace" pid=1 build_id=%s ' \
               'trace="tolld+0x1000 libc.so.6+0x10"\n' % ("ab" * 20)
        p = resolve(line)
        self.assertEqual(p.returncode, 1)
        self.assertIn("no debug info of this build", p.stderr)
        self.assertIn("    tolld+0x1000\n    libc.so.6+0x10\n", p.stdout)
        self.assertEqual(resolve("time=x level=info msg=ready\n").returncode, 1)


@unittest.skipIf(SANITIZED, "built with a sanitizer")
class Json(unittest.TestCase):
    def test_master(self):
        """The master's own, in JSON; and who started it sees the signal."""
        t = Tolld(config="log_format = json")
        try:
            t.start()
            t.process.send_signal(signal.SIGSEGV)
            self.assertEqual(t.process.wait(10), -signal.SIGSEGV)
            lines = [json.loads(x) for x in t.log().splitlines()]
            head, trace = [x for x in lines if x["msg"].startswith("crash")]
            self.assertEqual((head["msg"], head["proc"], head["signal"], head["level"]),
                             ("crash", "master", "SIGSEGV", "error"))
            self.assertEqual(head["pid"], str(t.process.pid))
            self.assertRegex(head["time"], r"^20\d\d-[01]\d-[0-3]\dT[0-2]\d:\d\d:\d\d\.\d{3}Z$")
            p = resolve("".join(x + "\n" for x in t.log().splitlines()))
            self.assertEqual(p.returncode, 0, p.stderr)
            self.assertRegex(p.stdout, r" (master_)?run \(master\.c:\d+\)")
            self.assertEqual(trace["build_id"], head["build_id"])
            t.process = None
        finally:
            t.close()


class Build(unittest.TestCase):
    @unittest.skipIf(SANITIZED, "built with a sanitizer")
    def test_debug_info_is_aside(self):
        program, debug = (os.path.join(BUILD, x) for x in ("tolld", "tolld.debug"))
        self.assertEqual(build_id(program), build_id(debug))
        sections = subprocess.run(["readelf", "-SW", program], capture_output=True,
                                  text=True).stdout
        self.assertNotIn(".debug_info", sections)
        self.assertNotIn(".symtab", sections)
        self.assertIn(".gnu_debuglink", sections)
        self.assertIn(".debug_info", subprocess.run(["readelf", "-SW", debug],
                                                    capture_output=True, text=True).stdout)


if __name__ == "__main__":
    unittest.main()
