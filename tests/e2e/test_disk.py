"""Goal:   a disk that says no, says nothing or is full costs nobody anything: nothing is
        acknowledged that is not on it, clients are told instead of kept waiting, and when it
        works again everything is settled without a restart.
Method: a library between the daemon and its state folder (tests/power/record.c) lets writes and
        flushes fail on demand; then real ones: a tiny file system, a limit on file sizes, a
        folder that can't be written; then folders that are not this daemon's.
"""
import concurrent.futures
import errno
import os
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest

from disk import LOST, RANGE, SYNC, WRITE, Disk, token_counts
from tolld import BUILD, PATIENCE, Tolld, cost, end_of, micro, text_of, wait_for

MODELS = {
    "slow": "sim:tokens=40000,rate=100,lang=even",
    "four seconds": "sim:tokens=400,rate=100,lang=even",
    "short": "sim:tokens=5,lang=even",
}
SLICE = 50
LEDGER = f"slice_tokens = {SLICE}"


class Watcher(threading.Thread):
    """Reads a stream to its end."""

    def __init__(self, t, stream_id, fmt=None):
        super().__init__(daemon=True)
        self.t, self.stream_id, self.fmt = t, stream_id, fmt
        self.events = []
        self.broken = None
        self.start()

    def run(self):
        try:
            s = self.t.open(self.stream_id, self.fmt)
            for e in s.typed():
                self.events.append(e)
            s.close()
        except Exception as e:
            self.broken = e

    def tokens(self):
        return len(text_of(self.events)) // 5

    def cost(self):
        """Of what came, by the estimate that the meter goes by."""
        tokens = token_counts(BUILD, text_of(self.events), 5)[-1]
        return cost(self.events[0]["data"]["prompt_tokens"], tokens)


class DiskCase(unittest.TestCase):
    def begin(self, log=False, **options):
        folder = tempfile.mkdtemp(prefix="tolld-disk-",
                                  dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
        self.addCleanup(shutil.rmtree, folder, True)
        self.disk = Disk(BUILD, folder, os.path.join(folder, "state"), log=log)
        self.t = Tolld(workers=2, models=MODELS, ledger=LEDGER, folder=folder,
                       env=self.disk.env, **options)
        self.addCleanup(self.t.close)
        self.t.start()
        self.key = self.t.account("alice", "100")
        self.balance = 100000000

    def tearDown(self):
        t = getattr(self, "t", None)
        if t is None or t.process is None:
            return
        if hasattr(self, "disk"):
            self.disk.works()
        code = t.stop()
        for bad in ("AddressSanitizer", "runtime error:", "level=fatal"):
            self.assertNotIn(bad, t.log())
        self.assertEqual(code, 0, t.log())

    def unready(self):
        wait_for(lambda: self.t.get_admin("/readyz")[0] == 503, 20, "/readyz to say 503")

    def refused(self):
        status, headers, body = self.t.request(
            "POST", "/chat/send", {"message": "hi", "model": "short"}, self.key)
        self.assertEqual(status, 503, body)
        self.assertGreater(int(headers["Retry-After"]), 0)

    def run_short(self):
        status, _, sent = self.t.request(
            "POST", "/chat/send", {"message": "hi", "model": "short"}, self.key)
        return status == 200 and list(self.t.open(sent["stream_id"]).typed())

    def works_again(self, watchers=()):
        """No restart: everything is settled at what was delivered, and it goes on."""
        master = self.t.process.pid
        self.disk.works()
        wait_for(self.t.ready, 20, "the daemon to be ready again")
        wait_for(lambda: self.t.ctl("hold", "list") == [], 20, "holds to be settled")
        self.t.audit()
        self.assertEqual(self.t.process.pid, master)
        # A worker may hear of it a moment after everybody else.
        events = wait_for(self.run_short, 5, "a send to be taken")
        self.assertEqual(end_of(events)[0], "done")
        charged = micro(end_of(events)[1]["cost"])
        for x in watchers:
            kind, end = end_of(list(self.t.open(x.stream_id).typed()))
            # It came to its end or was stopped: what was seen of it is paid, exactly once.
            charged += micro(end["cost"])
            if kind == "error":
                self.assertEqual(end["error"]["code"], "journal_unavailable")
                self.assertEqual(micro(end["cost"]), x.cost())
        self.assertEqual(micro(self.t.show("alice")["balance"]), self.balance - charged)
        # And how they ended can be read.
        stopped = [r for r in self.t.ctl("journal", "--account", "alice")
                   if r.get("outcome") == "journal_unavailable"]
        self.assertEqual(len(stopped), sum(end_of(x.events)[0] == "error" for x in watchers))


class Faults(DiskCase):
    """The library says no."""

    def outage(self, kind, error=errno.EIO, log=False):
        self.begin(log=log)
        watchers = [Watcher(self.t, self.t.send(self.key, "hello", "slow")["stream_id"])
                    for _ in range(4)]
        wait_for(lambda: all(x.tokens() > 20 for x in watchers), 20, "tokens to come")
        keeper = self.t.children()["tolld: keeper"]
        self.disk.fail(kind, error)
        wait_for(lambda: self.disk.hits(kind) > 0, 20, "it to fail")
        before = [x.tokens() for x in watchers]
        self.unready()
        self.refused()
        p = self.t.ctl("topup", "alice", "1", "--ref", "down", check=False)
        self.assertNotEqual(p.returncode, 0, p.stdout)
        # What is paid is delivered; then the clients are told.
        for x, tokens in zip(watchers, before):
            x.join(PATIENCE)
            self.assertFalse(x.is_alive(), "a client hangs")
            self.assertIsNone(x.broken)
            name, end = end_of(x.events)
            self.assertEqual((name, end["error"]["code"]), ("error", "journal_unavailable"))
            self.assertLessEqual(x.tokens(), tokens + 3 * SLICE)
            self.assertEqual(micro(end["cost"]), x.cost())
        self.refused()
        self.assertNotEqual(self.t.children().get("tolld: keeper"), keeper)
        # Nothing of it is acknowledged anywhere, however often it was tried.
        self.assertEqual(micro(self.t.show("alice")["balance"]), self.balance)
        self.works_again(watchers)
        again = self.t.ctl("topup", "alice", "1", "--ref", "down")
        self.assertNotIn("repeated", [k for k, v in again.items() if v is True])
        self.assertEqual(self.t.metric("tolld_worker_restarts_total"), 0)

    def test_no_space_to_write(self):
        self.outage("write", errno.ENOSPC)

    def test_read_only(self):
        """As the kernel makes it after an error of its own."""
        self.outage("write", errno.EROFS)

    def test_write_error(self):
        self.outage("write")

    def test_half_of_a_write(self):
        self.outage("part")

    def test_flush_error(self):
        self.outage("sync", log=True)
        # Who was told that a flush failed never believes a later one.
        failed = {e.pid for e in self.disk.entries() if e.event == LOST}
        self.assertTrue(failed)
        # But it may write all of that anew.  Each file for itself: they are two threads'.
        pending, lost, last = {}, {}, {}
        for e in self.disk.entries():
            written = pending.setdefault(e.inode, set())
            missing = lost.setdefault((e.pid, e.inode), set())
            if e.event == WRITE:
                last[e.inode] = e.offset // 4096
                written.add(last[e.inode])
                missing.discard(last[e.inode])
            elif e.event in (SYNC, LOST):
                if e.event == LOST:
                    missing.update(written)
                written.clear()
            elif e.event == RANGE:
                written.discard(last[e.inode])
                self.assertFalse(missing, "a commit on what a flush failed to write")

    def test_last_page_error(self):
        self.outage("meta")

    def test_once(self):
        """A single failure: nobody notices more than a pause."""
        for kind in ("write", "sync", "meta", "part"):
            with self.subTest(kind):
                self.begin()
                keeper = self.t.children()["tolld: keeper"]
                watchers = [Watcher(self.t, self.t.send(self.key, "hi", "four seconds")["stream_id"])
                            for _ in range(3)]
                self.disk.fail(kind, times=1)
                # Whoever comes while the keeper is being replaced is told to come again.
                wait_for(lambda: self.t.ctl("topup", "alice", "1", "--ref", kind,
                                            check=False).returncode == 0, 10, "a top-up")
                self.assertEqual(self.disk.hits(kind), 1)
                self.balance += 1000000
                for x in watchers:
                    x.join(PATIENCE)
                    self.assertEqual(end_of(x.events)[0], "done")
                self.assertNotEqual(self.t.children()["tolld: keeper"], keeper)
                self.works_again(watchers)
                self.tearDown()
                self.t.close()

    def test_the_projection_alone_fails(self):
        """What was acknowledged stays so; the keeper is replaced until it works."""
        for kind, error in (("write", errno.ENOSPC), ("sync", errno.EIO), ("part", errno.EIO)):
            with self.subTest(kind):
                self.begin()
                keeper = self.t.children()["tolld: keeper"]
                x = Watcher(self.t, self.t.send(self.key, "hi", "four seconds")["stream_id"])
                wait_for(lambda: x.tokens() > 20, 20, "tokens to come")
                self.disk.only("state.mdb")
                self.disk.fail(kind, error)
                wait_for(lambda: self.disk.hits(kind) > 0, 20, "it to fail")
                self.unready()
                self.disk.works()
                wait_for(self.t.ready, 20, "the daemon to be ready again")
                self.assertNotEqual(self.t.children()["tolld: keeper"], keeper)
                self.t.ctl("topup", "alice", "1", "--ref", kind)
                self.balance += 1000000
                x.join(PATIENCE)
                self.works_again([x])
                self.tearDown()
                self.t.close()

    def test_the_projection_alone_stands_still(self):
        """Nobody waits for it but who asks for what it holds."""
        self.begin()
        self.disk.only("state.mdb")
        self.disk.slow(4000)
        before = self.t.metric("tolld_journal_projected_sequence")
        events = self.run_short()
        self.assertEqual(end_of(events)[0], "done")
        for n in range(20):
            self.t.ctl("topup", "alice", "1", "--ref", f"r{n}")
        self.assertEqual(self.t.metric("tolld_journal_projected_sequence"), before)
        self.assertTrue(self.t.ready())
        self.balance += 20000000 - micro(end_of(events)[1]["cost"])
        self.disk.slow(0)
        self.works_again()

    def test_a_disk_that_does_not_answer(self):
        """No error either: clients are not kept waiting for it."""
        self.begin()
        x = Watcher(self.t, self.t.send(self.key, "hi", "slow")["stream_id"])
        wait_for(lambda: x.tokens() > 20, 20, "tokens to come")
        self.disk.slow(1000000)  # it is waited for as long as that, or until slow(0)
        statuses = []

        def send():
            statuses.append(self.t.request("POST", "/chat/send",
                                           {"message": "hi", "model": "short"}, self.key)[:2])

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        sender.join(PATIENCE)
        self.assertFalse(sender.is_alive(), "a sender hangs")
        self.assertEqual(statuses[0][0], 503)
        self.assertTrue(statuses[0][1]["Retry-After"])
        self.unready()
        x.join(PATIENCE)
        self.assertFalse(x.is_alive(), "a client hangs")
        self.assertEqual(end_of(x.events)[1]["error"]["code"], "journal_unavailable")
        status, headers, body = self.t.request("DELETE", f"/stream?id={x.stream_id}")
        self.assertEqual(status, 503, body)
        self.disk.slow(0)
        self.works_again([x])

    def test_stopped_while_it_is_down(self):
        """What could not be written is left to the next start, and found by it."""
        self.begin()
        x = Watcher(self.t, self.t.send(self.key, "hi", "slow")["stream_id"])
        wait_for(lambda: x.tokens() > 70, 20, "tokens to come")
        self.disk.fail("write", errno.ENOSPC)
        wait_for(lambda: self.disk.hits("write") > 0, 20, "it to fail")
        self.assertEqual(self.t.stop(2, 60), 1, self.t.log())
        self.disk.works()
        x.join(PATIENCE)
        self.t.start()
        self.works_again_after_stop(x)

    def works_again_after_stop(self, x):
        wait_for(lambda: self.t.ctl("hold", "list") == [], 20, "holds to be settled")
        self.t.audit()
        charged = self.balance - micro(self.t.show("alice")["balance"])
        self.assertGreaterEqual(charged, x.cost())
        self.assertLessEqual(charged, x.cost() + cost(0, SLICE))


class Real(DiskCase):
    """No library: the kernel says no."""

    def begin_plain(self, state=None, wrapper=()):
        folder = tempfile.mkdtemp(prefix="tolld-disk-")
        self.addCleanup(shutil.rmtree, folder, True)
        if state:
            state(os.path.join(folder, "state"))
        self.t = Tolld(workers=1, models=MODELS, ledger=LEDGER, folder=folder, wrapper=wrapper)
        self.addCleanup(self.t.close)
        return folder

    @unittest.skipUnless(os.geteuid() == 0 and shutil.which("mount"), "needs root")
    def test_full_file_system(self):
        def tiny(path):
            os.mkdir(path, 0o700)
            p = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=0700", "tolld-test",
                                path], capture_output=True)
            if p.returncode != 0:
                self.skipTest("cannot mount")
            self.addCleanup(subprocess.run, ["umount", path], capture_output=True)

        folder = self.begin_plain(tiny)
        self.t.start()
        self.key = self.t.account("alice", "100")
        self.balance = 100000000
        filler = os.path.join(folder, "state", "filler")
        try:
            with open(filler, "wb", buffering=0) as f:
                while f.write(bytes(4096)) == 4096:
                    pass
        except OSError:
            pass
        refs = []
        end = time.monotonic() + PATIENCE
        while self.t.get_admin("/readyz")[0] == 200 and time.monotonic() < end:
            refs.append(f"r{len(refs)}")
            self.t.ctl("topup", "alice", "0.001", "--ref", refs[-1], check=False)
        self.unready()
        os.unlink(filler)
        wait_for(self.t.ready, 20, "the daemon to be ready again")
        for ref in refs:
            self.t.ctl("topup", "alice", "0.001", "--ref", ref)
        self.assertEqual(micro(self.t.show("alice")["balance"]), 100000000 + 1000 * len(refs))
        self.t.audit()
        self.assertEqual(self.t.stop(), 0, self.t.log())

    def test_limit_on_file_sizes(self):
        """RLIMIT_FSIZE: a signal comes with the error, and kills nobody."""
        self.begin_plain()
        self.t.start()
        self.key = self.t.account("alice", "100")
        # Below every page but LMDB's first two.
        for pid in [self.t.process.pid] + list(self.t.children().values()):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY))
        out = []
        topup = threading.Thread(daemon=True, target=lambda: out.append(
            self.t.ctl("topup", "alice", "0.001", "--ref", "r", check=False)))
        topup.start()
        self.unready()
        for pid in [self.t.process.pid] + list(self.t.children().values()):
            try:
                resource.prlimit(pid, resource.RLIMIT_FSIZE,
                                 (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            except ProcessLookupError:
                pass
        wait_for(self.t.ready, 20, "the daemon to be ready again")
        # It waited, and was booked at last; or its client was sent away, and can repeat it,
        # whether it was booked or not.
        topup.join(PATIENCE)
        p = out[0]
        again = self.t.ctl("topup", "alice", "0.001", "--ref", "r")
        self.assertTrue(again.get("repeated", False) or p.returncode != 0)
        self.assertEqual(micro(self.t.show("alice")["balance"]), 100001000)
        self.t.audit()
        self.assertEqual(self.t.stop(), 0, self.t.log())


class Refused(unittest.TestCase):
    """Folders that are not this daemon's."""

    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="tolld-disk-")
        self.addCleanup(shutil.rmtree, self.folder, True)
        self.state = os.path.join(self.folder, "state")
        self.t = Tolld(workers=1, folder=self.folder, sim=False)
        self.addCleanup(self.t.close)

    def filled(self):
        self.t.start()
        self.t.account("alice", "5")
        self.assertEqual(self.t.stop(), 0)

    def refused(self, *reasons):
        before = self.t.log() if os.path.exists(self.t.log_file) else ""
        self.t.start(wait=False)
        self.assertEqual(self.t.process.wait(PATIENCE), 1, self.t.log())
        self.t.process = None
        said = self.t.log()[len(before):]
        for reason in reasons:
            self.assertIn(reason, said)

    def change(self, name, at, data):
        with open(os.path.join(self.state, name), "r+b") as f:
            f.seek(at)
            f.write(data)

    def test_not_a_database(self):
        self.filled()
        self.change("journal.mdb", 0, os.urandom(8192))
        size = os.path.getsize(os.path.join(self.state, "journal.mdb"))
        self.refused("journal.mdb")
        # Refused, and left as it is: somebody may be able to mend it.
        self.assertEqual(os.path.getsize(os.path.join(self.state, "journal.mdb")), size)

    def test_another_version(self):
        self.filled()
        path = os.path.join(self.state, "journal.mdb")
        with open(path, "rb") as f:
            whole = f.read()
        key = whole.rfind(b"version")
        while key >= 0:
            if struct.unpack_from("<I", whole, key + 7)[0] in (1, 2):
                self.change("journal.mdb", key + 7, struct.pack("<I", 77))
            key = whole.rfind(b"version", 0, key)
        self.refused("journal.mdb is of another version")

    def test_another_lmdb(self):
        self.filled()
        for page in (0, 4096):
            self.change("journal.mdb", page + 16 + 4, struct.pack("<I", 9))
        self.refused("journal.mdb", "VERSION_MISMATCH")

    def test_a_lost_secret(self):
        self.filled()
        os.unlink(os.path.join(self.state, "key.secret"))
        self.refused("key.secret", "is missing though there is a journal")

    def test_another_daemon_runs_on_it(self):
        self.t.start()
        other = Tolld(workers=1, folder=tempfile.mkdtemp(prefix="tolld-disk-"), sim=False)
        self.addCleanup(shutil.rmtree, other.folder, True)
        self.addCleanup(other.close)
        with open(other.config_file) as f:
            text = f.read()
        with open(other.config_file, "w") as f:
            f.write(text.replace(f'state_dir = "{other.folder}/state"',
                                 f'state_dir = "{self.state}"'))
        other.start(wait=False)
        self.assertEqual(other.process.wait(PATIENCE), 1, other.log())
        other.process = None
        self.assertIn("another tolld is running", other.log())
        self.t.account("alice", "5")
        self.t.audit()
        self.assertEqual(self.t.stop(), 0)

    @unittest.skipUnless(os.geteuid() == 0 and shutil.which("mount"), "needs root")
    def test_a_folder_that_cannot_be_written(self):
        self.filled()
        p = subprocess.run(["mount", "--bind", self.state, self.state], capture_output=True)
        if p.returncode != 0:
            self.skipTest("cannot mount")
        self.addCleanup(subprocess.run, ["umount", self.state], capture_output=True)
        subprocess.run(["mount", "-o", "remount,ro,bind", self.state], check=True)
        self.refused("Read-only file system")
        subprocess.run(["mount", "-o", "remount,rw,bind", self.state], check=True)
        self.t.start()
        self.assertEqual(micro(self.t.show("alice")["balance"]), 5000000)
        self.assertEqual(self.t.stop(), 0)

    def test_damaged_projection(self):
        """state.mdb is thrown away and made again: no reason to refuse."""
        self.filled()
        for damage in (lambda: self.change("state.mdb", 0, os.urandom(8192)),
                       lambda: os.truncate(os.path.join(self.state, "state.mdb"), 4096)):
            damage()
            self.t.start()
            self.assertEqual(micro(self.t.show("alice")["balance"]), 5000000)
            self.t.audit()
            self.assertEqual(self.t.stop(), 0)


def all_at_once():
    """Each test in a process of its own, several at a time: they wait most of their time."""
    names = [f"{c.__name__}.{n}" for c in (Faults, Real, Refused)
             for n in unittest.TestLoader().getTestCaseNames(c)]

    def run(name):
        p = subprocess.run([sys.executable, "-B", "-W", "ignore::ResourceWarning", __file__,
                            name], capture_output=True, text=True)
        return p.returncode, p.stderr

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        results = list(pool.map(run, names))
    for name, (code, said) in zip(names, results):
        if code != 0:
            print(said)
    print(f"{len(names)} tests, {sum(1 for code, _ in results if code != 0)} failed")
    return max(code for code, _ in results)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        unittest.main()
    sys.exit(all_at_once())
