"""Goal:   processes, signals and drain order as an operator sees them.
Method: ps, /proc, signals to the master, and clients with streams under way.
"""
import os
import signal
import subprocess
import threading
import unittest

from tolld import BUILD, PATIENCE, Tolld, end_of, micro, wait_for, worker_of

MODELS = {"slow": "sim:tokens=200,rate=100", "endless": "sim:tokens=100000,rate=50"}


class Process(unittest.TestCase):
    def setUp(self):
        self.t = Tolld(workers=2, models=MODELS, config="drain_timeout = 10").start()
        self.addCleanup(self.t.close)
        self.key = self.t.account("alice", "100")

    def test_titles_and_parentage(self):
        names = ["tolld: admin", "tolld: keeper", "tolld: worker 1", "tolld: worker 2"]
        wait_for(lambda: set(names) <= set(self.t.children()), 10, "all titles")
        kids = self.t.children()
        self.assertEqual(sorted(kids), names)
        args = subprocess.run(["ps", "-o", "args=", "-p", str(self.t.process.pid)],
                              capture_output=True, text=True).stdout.strip()
        self.assertEqual(args, "tolld: master")
        group = os.getpgid(self.t.process.pid)
        for pid in kids.values():
            self.assertEqual(os.getpgid(pid), group)
        # The group's signals (^C in a terminal) are the master's business alone.
        for pid in kids.values():
            for sig in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT):
                os.kill(pid, sig)
        self.assertEqual(end_of(self.t.run(self.key, "hi"))[0], "done")
        self.assertEqual(self.t.children(), kids)

    def test_term_drains(self):
        sent = self.t.send(self.key, "hi", "slow")
        out = []
        th = threading.Thread(target=lambda: out.extend(self.t.open(sent["stream_id"]).typed()))
        th.start()
        wait_for(lambda: len(out) > 3, 10, "the stream to run")
        self.t.send(self.key, "never opened")
        self.assertEqual(self.t.stop(), 0, self.t.log())
        th.join(PATIENCE)
        kind, done = end_of(out)
        self.assertEqual((kind, done["finish_reason"]), ("done", "stop"))
        self.t.start()
        show = self.t.show("alice")
        self.assertEqual(micro(show["held"]), 0)
        self.assertEqual(micro(show["balance"]), 100000000 - micro(done["cost"]))
        self.t.audit()

    def test_a_hung_process_is_killed(self):
        """Stopped, it hangs as far as anybody can see; what it held is settled, others go on."""
        self.t.stop()
        self.t.hang = 4
        self.t.write_config()
        self.t.start()
        streams = []
        wait_for(lambda: "tolld: worker 2" in self.t.children(), 10, "all titles")
        kids = self.t.children()
        owners = set()
        while len(streams) < 12 or owners != {1, 2}:  # they fall to both workers
            sent = self.t.send(self.key, "hi", "endless")["stream_id"]
            owners.add(worker_of(sent))
            s = self.t.open(sent)
            self.addCleanup(s.close)
            it = s.typed()
            while next(it)["type"] != "token":
                pass
            streams.append(it)
        os.kill(kids["tolld: worker 1"], signal.SIGSTOP)
        wait_for(lambda: "killing a process that hangs" in self.t.log(), 10, "the kill")
        wait_for(lambda: self.t.children().get("tolld: worker 1") not in (None, kids["tolld: worker 1"]),
                 10, "a new one")
        self.assertEqual(self.t.children()["tolld: worker 2"], kids["tolld: worker 2"])
        # (More than what a dead one had sent before it was stopped.)
        alive = [it for it in streams if all(next(it, None) is not None for _ in range(150))]
        self.assertTrue(0 < len(alive) < len(streams), len(alive))
        wait_for(lambda: len(self.t.ctl("hold", "list")) == len(alive), 10, "the others' settlement")
        for p in ("tolld: keeper", "tolld: admin"):
            os.kill(kids[p], signal.SIGSTOP)
            wait_for(lambda: self.t.children().get(p) not in (None, kids[p]), 15, f"a new {p}")
        wait_for(self.t.ready, 10, "the probe")
        self.assertEqual([next(it)["type"] for it in alive if next(it, None) is None], [])
        self.t.audit()

    def test_drain_is_bounded(self):
        self.t.stop()
        self.t.extra = ("drain_timeout = 1", "", "")
        self.t.write_config()
        self.t.start()
        sent = self.t.send(self.key, "hi", "endless")
        out = []
        th = threading.Thread(target=lambda: out.extend(self.t.open(sent["stream_id"]).typed()))
        th.start()
        wait_for(lambda: len(out) > 5 or self.t.metric("tolld_streams_active") >= 1, 10, "it runs")
        self.assertEqual(self.t.stop(), 0, self.t.log())
        th.join(PATIENCE)
        kind, end = end_of(out)
        self.assertEqual((kind, end["error"]["code"]), ("error", "draining"))
        self.t.start()
        self.assertEqual(micro(self.t.show("alice")["held"]), 0)
        self.t.audit()

    def test_quit_stops_now(self):
        for sig in (signal.SIGQUIT, signal.SIGINT):
            sent = self.t.send(self.key, "hi", "endless")
            s = self.t.open(sent["stream_id"])
            it = s.typed()
            while next(it)["type"] != "token":
                pass
            self.assertEqual(self.t.stop(sig), 0, self.t.log())
            rest = list(it)
            self.assertEqual(end_of(rest)[1]["error"]["code"], "draining")
            self.assertFalse(os.path.exists(os.path.join(self.t.folder, "run", "ledger.shm")))
            self.t.start()
            self.assertEqual(micro(self.t.show("alice")["held"]), 0)
            self.t.audit()

    def test_second_daemon_is_refused(self):
        p = subprocess.run([os.path.join(BUILD, "tolld"), "-c", self.t.config_file],
                           capture_output=True, text=True, timeout=PATIENCE)
        self.assertEqual(p.returncode, 1)
        self.assertIn(str(self.t.process.pid), p.stderr)
        self.assertEqual(end_of(self.t.run(self.key, "hi"))[0], "done")

    def test_probes(self):
        self.assertEqual(self.t.get_admin("/healthz")[0], 200)
        self.assertEqual(self.t.get_admin("/readyz")[0], 200)
        text = self.t.get_admin("/metrics")[1]
        for name in ("tolld_build_info", "tolld_requests_total", "tolld_accounts",
                     "tolld_journal_commit_seconds_bucket"):
            self.assertIn(name, text)
        self.assertEqual(self.t.get_admin("/nothing")[0], 404)


class Config(unittest.TestCase):
    def test_check_names_file_line_and_key(self):
        t = Tolld(sim=False)
        self.addCleanup(t.close)
        tolld = os.path.join(BUILD, "tolld")
        p = subprocess.run([tolld, "-t", "-c", t.config_file], capture_output=True, text=True)
        self.assertEqual(p.returncode, 0, p.stderr)
        with open(t.config_file) as f:
            lines = f.read().split("\n")
        at = next(i for i, x in enumerate(lines) if x.startswith("workers"))
        lines[at] = "workers = -3"
        with open(t.config_file, "w") as f:
            f.write("\n".join(lines))
        p = subprocess.run([tolld, "-t", "-c", t.config_file], capture_output=True, text=True)
        self.assertEqual(p.returncode, 1)
        self.assertIn(f"{t.config_file}:{at + 1}: workers: ", p.stdout + p.stderr)

    def test_shipped_config_is_good(self):
        root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        p = subprocess.run([os.path.join(BUILD, "tolld"), "-t", "-c", root + "/etc/tolld.conf"],
                           capture_output=True, text=True,
                           env=dict(os.environ, OPENAI_API_KEY="sk-test"))
        self.assertEqual(p.returncode, 0, p.stdout + p.stderr)


if __name__ == "__main__":
    unittest.main()
