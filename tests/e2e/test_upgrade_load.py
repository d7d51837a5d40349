"""Goal:   in an upgrade under load no client notices anything: no connection is refused, no stream
        cut, no byte or micro-credit wrong.  Whoever is killed in the middle of it, the books are
        right.
Method: streams all the time and a new connection for every request, while the program is replaced
        three times (TOLLD_TEST_STREAMS at once; 100); the master or a child killed at moments of
        the handover.
"""
import contextlib
import os
import signal
import threading
import time
import unittest

from test_upgrade import OTHER, VERSION, Upgrading
from tolld import PATIENCE, cost, end_of, micro, text_of, wait_for


class Load(Upgrading):
    OPTIONS = {"workers": 2, "models": {"load": "sim:tokens=120,prompt=10,rate=20",
                                        "quick": "sim:tokens=20,prompt=10"}}
    STREAMS = int(os.environ.get("TOLLD_TEST_STREAMS", "100"))

    def load(self):
        """Streams all the time, and a new connection for every request."""
        self.over, self.bad, self.done, self.asked = threading.Event(), [], [], 0

        def streamer():
            while not self.over.is_set():
                try:
                    events = self.t.run(self.key, "hi", "load")
                    kind, end = end_of(events)
                    if kind != "done" or text_of(events) != self.text or \
                            end["full_text"] != self.text or micro(end["cost"]) != cost(10, 120):
                        self.bad.append((kind, end))
                    self.done.append(1)
                except Exception as e:  # whatever it is, a client noticed
                    self.bad.append(repr(e))

        def asker():
            while not self.over.is_set():
                try:
                    status, _, body = self.t.request("GET", "/balance", key=self.key)
                    if status != 200:
                        self.bad.append((status, body))
                    self.asked += 1
                except Exception as e:
                    self.bad.append(repr(e))
        threads = [threading.Thread(target=streamer) for _ in range(self.STREAMS)]
        threads += [threading.Thread(target=asker) for _ in range(2)]
        for t in threads:
            t.start()
        return threads

    def text_alone(self):
        self.text = text_of(self.t.run(self.key, "hi", "load"))
        self.assertEqual(self.text, text_of(self.t.run(self.key, "hi", "load")))

    def test_nobody_notices(self):
        self.text_alone()
        threads = self.load()
        try:
            wait_for(lambda: self.t.metric("tolld_streams_active") > self.STREAMS / 2, 60,
                     "the load")
            for version in (OTHER, VERSION, OTHER):
                self.upgrade(version)
                asked = self.asked
                wait_for(lambda: self.asked > asked + 20, 30, "requests to the new ones")
        finally:
            self.over.set()
            for t in threads:
                t.join()
        self.assertEqual(self.bad[:3], [])
        self.assertGreater(len(self.done), self.STREAMS)
        wait_for(lambda: self.versions() == [("running", OTHER)] * 2, 90, "the old ones to leave")
        self.assertEqual(self.t.metric("tolld_worker_restarts_total"), 0)
        wait_for(lambda: self.t.ctl("hold", "list") == [], 20, "holds to be closed")
        charged = round(self.t.metric("tolld_credits_charged_total") * 1000000)
        self.assertEqual(charged, (len(self.done) + 2) * cost(10, 120))

    def test_kill_at_any_moment_of_it(self):
        """The master dies amid the handover: as at any other time."""
        self.text_alone()
        for delay in (0.0, 0.01, 0.03, 0.1, 0.3, 0.6):
            streams = []
            for _ in range(10):
                s = self.t.open(self.t.send(self.key, "hi", "load")["stream_id"])
                streams.append(s)
            self.install(OTHER)
            kids = self.t.children()
            self.usr2()
            time.sleep(delay)
            kids.update(self.t.children())
            self.t.process.kill()
            self.t.process.wait(PATIENCE)
            for pid in kids.values():
                wait_for(lambda: not os.path.exists(f"/proc/{pid}"), 10, f"{pid} to be gone")
            for s in streams:
                s.close()
            self.t.start()
            wait_for(lambda: self.t.ctl("hold", "list") == [], 20, "holds to be closed")
            self.t.audit()
        self.assertEqual(text_of(self.t.run(self.key, "hi", "load")), self.text)

    def test_children_die_meanwhile(self):
        for i, name in enumerate(("tolld: keeper", "tolld: admin", "tolld: worker 1",
                                  "tolld: worker 2", "tolld: keeper", "tolld: admin")):
            done = self.log_count("msg=upgraded")
            self.install((OTHER, VERSION)[i % 2])
            self.usr2()
            time.sleep(0.05 * i)
            pid = self.t.children().get(name)
            with contextlib.suppress(ProcessLookupError):  # it has been replaced by now
                if pid:
                    os.kill(pid, signal.SIGKILL)
            wait_for(lambda: self.log_count("msg=upgraded") > done, 60, "the upgrade")
            wait_for(self.t.ready, 20, "the daemon to be ready")
            self.assertEqual(end_of(self.t.run(self.key, "hi", "quick"))[0], "done")
        wait_for(lambda: {s for s, _ in self.versions()} == {"running"}, 30, "all to be there")


if __name__ == "__main__":
    unittest.main()
