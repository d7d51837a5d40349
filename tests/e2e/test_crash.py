"""Goal:   kill anything at any moment: every stream is settled at what its meter said, nothing
        acknowledged is lost, nobody else notices.
Method: kill -9 of a worker, the keeper, the admin process, the master and all at once in the
        middle of real streams; then look at the clients, the books and the audit.
"""
import os
import signal
import threading
import unittest

from tolld import PATIENCE, Tolld, cost, end_of, micro, text_of, wait_for

MODELS = {
    "slow": "sim:tokens=30000,rate=100,lang=even",  # until it is cancelled
    "short": "sim:tokens=5",
}


def watch(t, stream_id, out):
    """Read a stream until it ends or breaks."""
    try:
        for e in t.open(stream_id).typed():
            out.append(e)
    except Exception as e:  # the connection broke: that is what the test is about
        out.append({"type": "broken", "data": str(e)})


class Crash(unittest.TestCase):
    def setUp(self):
        self.t = Tolld(workers=2, models=MODELS, ledger="slice_tokens = 50").start()
        self.addCleanup(self.t.close)
        self.key = self.t.account("alice", "100")

    def tearDown(self):
        if self.t.process is not None and self.t.process.poll() is None:
            self.assertEqual(self.t.stop(), 0, self.t.log())
        for bad in ("AddressSanitizer", "runtime error:"):
            self.assertNotIn(bad, self.t.log())

    def start_streams(self, n, tokens=20):
        """n streams under way on both workers, each with at least `tokens` tokens seen."""
        streams = []
        for _ in range(n):
            sent = self.t.send(self.key, "hello", "slow")
            out = []
            th = threading.Thread(target=watch, args=(self.t, sent["stream_id"], out), daemon=True)
            th.start()
            streams.append((sent, out, th))
        wait_for(lambda: all(len(o) > tokens for _, o, _ in streams), 20, "tokens to come")
        return streams

    def goes_on(self, streams):
        """They go on; then they are cancelled, and charged as that."""
        counts = [len(out) for _, out, _ in streams]
        wait_for(lambda: all(len(out) > n + 20 for (_, out, _), n in zip(streams, counts)), 20,
                 "the others to go on")
        for sent, out, th in streams:
            self.t.request("DELETE", "/stream?id=" + sent["stream_id"])
            th.join(PATIENCE)
            kind, end = end_of(out)
            self.assertEqual((kind, end["finish_reason"]), ("done", "cancelled"))

    def settled(self):
        wait_for(lambda: self.t.ctl("hold", "list") == [], 15, "holds to be settled")
        self.t.audit()

    def owner(self, stream_id):
        """Process slot in a stream's id."""
        import base64
        return base64.urlsafe_b64decode(stream_id + "====")[16]

    def test_worker(self):
        streams = self.start_streams(8)
        kids = self.t.children()
        victim = self.owner(streams[0][0]["stream_id"])
        # Worker slots begin at 3: worker 1.
        pid = kids[f"tolld: worker {victim - 2}"]
        os.kill(pid, signal.SIGKILL)
        mine = [s for s in streams if self.owner(s[0]["stream_id"]) == victim]
        others = [s for s in streams if self.owner(s[0]["stream_id"]) != victim]
        for _, _, th in mine:
            th.join(PATIENCE)
            self.assertFalse(th.is_alive())
        self.goes_on(others)
        self.settled()
        charged = 0
        for sent, out, _ in mine:
            self.assertNotEqual(out[-1]["type"], "done")
            again = list(self.t.open(sent["stream_id"]).typed())
            kind, end = end_of(again)
            self.assertEqual(kind, "error", end)
            self.assertEqual(end["error"]["code"], "stream_lost")
            # What was delivered is paid, and no more than was decoded.
            seen = text_of(out)
            self.assertTrue(seen.startswith(text_of(again)) or text_of(again).startswith(seen))
            self.assertGreater(micro(end["cost"]), 0)
            self.assertLess(micro(end["cost"]), cost(100, 30000))
            charged += micro(end["cost"])
        charged += sum(micro(end_of(o)[1]["cost"]) for _, o, _ in others)
        self.assertEqual(micro(self.t.show("alice")["balance"]), 100000000 - charged)
        wait_for(lambda: f"tolld: worker {victim - 2}" in self.t.children(), 10, "its successor")
        self.assertEqual(end_of(self.t.run(self.key, "hi", "short"))[0], "done")
        self.assertEqual(self.t.metric("tolld_worker_restarts_total"), 1)

    def test_keeper(self):
        streams = self.start_streams(4)
        for _ in range(3):
            os.kill(wait_for(lambda: self.t.children().get("tolld: keeper"), 10, "keeper"),
                    signal.SIGKILL)
            self.t.ctl("topup", "alice", "1")
        self.goes_on(streams)
        self.settled()
        charged = sum(micro(end_of(o)[1]["cost"]) for _, o, _ in streams)
        self.assertEqual(micro(self.t.show("alice")["balance"]), 103000000 - charged)

    def test_admin(self):
        os.kill(self.t.children()["tolld: admin"], signal.SIGKILL)
        wait_for(lambda: self.t.ctl("ping", check=False).returncode == 0, 10, "admin to be back")
        self.t.ctl("topup", "alice", "2")
        self.settled()
        self.assertEqual(micro(self.t.show("alice")["balance"]), 102000000)

    def test_master(self):
        streams = self.start_streams(4)
        kids = list(self.t.children().values())
        self.t.process.kill()
        self.t.process.wait(10)
        for pid in kids:
            wait_for(lambda: not os.path.exists(f"/proc/{pid}"), 10, "children to die with it")
        self.t.start()
        self.settled()
        self.check_lost(streams)

    def test_everything_at_once(self):
        before = self.t.ctl("topup", "alice", "7", "--ref", "r1")
        self.assertEqual(micro(before["balance"]), 107000000)
        streams = self.start_streams(6)
        self.t.kill_all()
        self.t.start()
        self.settled()
        self.assertIs(self.t.ctl("topup", "alice", "7", "--ref", "r1")["repeated"], True)
        self.check_lost(streams, 107000000)
        self.assertEqual(end_of(self.t.run(self.key, "hi", "short"))[0], "done")

    def test_host_reset(self):
        """As after a power cut: the shared memory is gone, the disk has what was synced."""
        streams = self.start_streams(4, tokens=80)
        self.t.kill_all()
        os.unlink(os.path.join(self.t.folder, "run", "ledger.shm"))
        self.t.start()
        self.settled()
        charged = 100000000 - micro(self.t.show("alice")["balance"])
        least = sum(cost(0, max(0, len([e for e in o if e["type"] == "token"]) - 2 * 50))
                    for _, o, _ in streams)
        self.assertGreaterEqual(charged, least)
        self.assertEqual(end_of(self.t.run(self.key, "hi", "short"))[0], "done")

    def test_another_version_after_a_kill(self):
        """Shared memory of a layout that this one does not know: it says so, and loses no more than
        a power cut would."""
        self.start_streams(2, tokens=80)
        self.t.kill_all()
        with open(os.path.join(self.t.folder, "run", "ledger.shm"), "r+b") as f:
            f.seek(8)  # struct region_header: the magic, then the version
            version = int.from_bytes(f.read(4), "little")
            f.seek(8)
            f.write((version - 1).to_bytes(4, "little"))
        self.t.start()
        self.assertRegex(self.t.log(), "not used: .*why=\"has another version's layout\"")
        self.settled()
        self.assertLess(micro(self.t.show("alice")["balance"]), 100000000)

    def ended_by_a_dead_worker(self):
        """The id of a stream whose text is in state.mdb alone, and the text."""
        events = self.t.run(self.key, "hi", "short")
        stream_id = events[0]["data"]["stream_id"]
        title = f"tolld: worker {self.owner(stream_id) - 2}"
        pid = self.t.children()[title]
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: self.t.children().get(title, pid) != pid, 10, "its successor")
        wait_for(self.t.ready, 10)
        return stream_id, text_of(events)

    def has_open(self, title):
        """How many mappings of a state.mdb a process has: (of the present file, of removed ones)"""
        with open(f"/proc/{self.t.children()[title]}/maps") as f:
            lines = [x for x in f if "/state.mdb" in x and "-lock" not in x]
        gone = sum(" (deleted)" in x for x in lines)
        return len(lines) - gone, gone

    def test_a_rebuilt_projection_is_noticed(self):
        """The keeper makes state.mdb anew; who reads it does not go on with the old file."""
        readers = ["tolld: worker 1", "tolld: worker 2", "tolld: admin"]

        def all_read(stream_id, text):
            self.assertEqual(text_of(list(self.t.open(stream_id).typed())), text)
            self.t.ctl("key", "list", "alice")
            return all(self.has_open(x) == (1, 0) for x in readers)

        old = self.ended_by_a_dead_worker()
        wait_for(lambda: all_read(*old), 20, "everybody to have it open")
        path = os.path.join(self.t.folder, "state", "state.mdb")
        inode = os.stat(path).st_ino
        with open(path, "r+b") as f:
            f.write(os.urandom(8192))
        os.kill(self.t.children()["tolld: keeper"], signal.SIGKILL)
        wait_for(lambda: os.path.exists(path) and os.stat(path).st_ino != inode, 10, "a new one")
        labelled = self.t.ctl("key", "create", "alice", "--label", "after")
        new = self.ended_by_a_dead_worker()
        wait_for(lambda: all_read(*new), 20, "nobody to have the old one open")
        self.assertEqual(text_of(list(self.t.open(old[0]).typed())), old[1])
        self.assertIn("after", [k["label"] for k in self.t.ctl("key", "list", "alice")
                                if k["key_id"] == labelled["key_id"]])
        self.settled()

    def check_lost(self, streams, start=100000000):
        charged = 0
        for sent, out, th in streams:
            th.join(PATIENCE)
            self.assertNotEqual(out[-1]["type"], "done")
            kind, end = end_of(list(self.t.open(sent["stream_id"]).typed()))
            self.assertEqual(kind, "error")
            charged += micro(end["cost"])
            self.assertGreater(micro(end["cost"]), 0)
        self.assertEqual(micro(self.t.show("alice")["balance"]), start - charged)


if __name__ == "__main__":
    unittest.main()
