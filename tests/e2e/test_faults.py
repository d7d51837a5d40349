"""Goal:   a process killed at any named step between reserve and settle costs nobody anything:
        nothing stays held, nor claimed from a cap or a budget, each stream ends once and is charged
        what its client is told, top-ups and sends with an Idempotency-Key count once, other
        processes' streams go on, every client gets an end.
Method: the list of points is read from the source, so none is forgotten.  For each: arm it in a
        running daemon (built with -DTOLLD_FAULTS), let clients come until it has struck, wait
        for the recovery, then compare the balance with what the clients were told, and audit.

    make BUILD=build-faults CFLAGS=-DTOLLD_FAULTS all build-faults/tolld-sim
    BUILD=build-faults python3 tests/e2e/test_faults.py

FAULTS=name,name tries only these.  A build without the points skips the test.
"""
import base64
import http.client
import os
import queue
import re
import signal
import threading
import time
import unittest

from clock import Clock
from tolld import BUILD, ROOT, Tolld, end_of, micro, wait_for

DAEMONS = 3          # at a time; most of what they do is waiting
PROCESSES = 4        # of the master: keeper, admin, two workers
TRIES = 12           # rounds of clients until a point has struck
START = 1000000000   # the account's first balance

MODELS = {
    "slow": "sim:tokens=60,rate=80,lang=even",
    "fast": "sim:tokens=300",
    "over": "sim:tokens=20,usage=over:200",
}


def points():
    """Every FAULT("name") of the source; a name twice is a mistake."""
    names = []
    for folder in ("shm", "daemon"):
        for name in sorted(os.listdir(os.path.join(ROOT, folder))):
            if name.endswith((".c", ".h")) and name != "fault.h":
                with open(os.path.join(ROOT, folder, name)) as f:
                    names += re.findall(r'\bFAULT\("([a-z_.]+)"\)', f.read())
    return names


def built():
    try:
        with open(os.path.join(BUILD, "tolld"), "rb") as f:
            return b"reserve.claimed\0" in f.read()
    except OSError:
        return False


def owner(stream_id):
    """The title of the process that has this stream."""
    slot = base64.urlsafe_b64decode(stream_id + "====")[16]
    return f"tolld: worker {slot - 2}"


class Client(threading.Thread):
    """One send and its stream; whatever breaks is noted, not raised."""

    def __init__(self, place, model, **fields):
        super().__init__(daemon=True)
        self.place, self.model, self.fields = place, model, fields
        self.id = None
        self.once = {"Idempotency-Key": os.urandom(16).hex()}
        self.events = []
        self.broken = None
        self.start()

    def run(self):
        try:
            self.id = self.send()
            s = self.place.t.open(self.id)
            try:
                for e in s.typed():
                    self.events.append(e)
            finally:
                s.close()
        except Exception as e:  # the daemon was killed: that is what the test is about
            self.broken = e

    def send(self):
        status, _, body = self.place.t.request(
            "POST", "/chat/send", dict(self.fields, model=self.model, message="hello"),
            self.place.key, self.once)
        if status != 200:
            raise AssertionError(f"send: {status} {body}")
        return body["stream_id"]

    def ended(self):
        return bool(self.events) and self.events[-1]["type"] in ("done", "error")


class Place:
    """A daemon on which one point after the other is tried."""

    def __init__(self):
        self.t = Tolld(workers=2, models=MODELS, ledger="slice_tokens = 20")
        self.folder = os.path.join(self.t.folder, "faults")
        os.mkdir(self.folder)
        self.t.env["TOLLD_FAULTS"] = self.folder
        self.clock = Clock(BUILD, self.t.folder)
        self.t.env.update(self.clock.env)
        try:
            self.t.start()
            self.t.account("alice", START // 1000000)
            # Under all that a reserve can be under; none of it is ever short.
            self.t.ctl("account", "set", "alice", "--budget-day", "900", "--budget-month", "900")
            made = self.t.ctl("key", "create", "alice", "--cap", "900", "--per", "total",
                              "--streams", "100")
            self.key, self.key_id = made["key"], made["key_id"]
        except BaseException:
            self.t.close()
            raise
        self.topups = 0   # that were acknowledged in the end
        self.refs = 0
        self.charged = 0  # by streams that are over
        self.before = {}  # what was spent of a budget at the last check: when it ends, how much

    def path(self, point):
        return os.path.join(self.folder, point)

    def topup(self):
        """One credit; asked for again, as an operator would, until there is an answer."""
        self.refs += 1
        end = time.monotonic() + 20
        while True:
            p = self.t.ctl("topup", "alice", "1", "--ref", f"ref-{self.refs}", check=False)
            if p.returncode == 0:
                break
            self.revive()
            if time.monotonic() > end:
                raise AssertionError(f"no answer to a top-up: {p.stdout}{p.stderr}")
            time.sleep(0.02)
        self.topups += 1000000

    def revive(self):
        """Start the daemon again if its master is dead."""
        process = self.t.process
        if process.poll() is None:
            return False
        if process.returncode != -signal.SIGKILL:
            raise AssertionError(f"the master ended with {process.returncode}")
        self.t.start()
        return True

    def arm(self, point):
        with open(self.path(point), "w"):
            pass

    def armed(self, point):
        return os.path.exists(self.path(point))

    def provoke(self, point):
        """What brings the daemon to this point beside ordinary clients."""
        kids = self.t.children()
        if point.startswith(("reap.", "master.")) or point in ("keeper.gone", "keeper.forgotten"):
            time.sleep(0.15)  # there is something to reap
            self.kill(kids.get("tolld: worker 1"))
        elif point in ("recover.closing", "recover.closed"):
            # As after a power cut: the memory is gone.
            self.t.kill_all()
            os.unlink(os.path.join(self.t.folder, "run", "ledger.shm"))
            self.t.start()
        elif point.startswith("recover."):
            self.kill(kids.get("tolld: keeper"))
        elif point.startswith("compact."):
            threading.Thread(target=self.t.ctl, args=("compact", "--keep", "1d"),
                             kwargs={"check": False}, daemon=True).start()
        elif point == "history.swept":
            # A session of one who is over, or under way: it makes no difference.
            sessions = self.t.request("GET", "/chat/history?limit=100", key=self.key)[2]["sessions"]
            self.t.request("DELETE", f"/chat/history?session_id={sessions[-1]['id']}",
                           key=self.key)
        elif point == "keeper.synced":
            self.t.ctl("key", "list", "alice", check=False)  # reads state.mdb

    def kill(self, pid):
        if pid:
            os.kill(pid, signal.SIGKILL)

    def round(self, point):
        """Some clients at once; who was killed beside what we killed."""
        if point.startswith("compact."):
            # All that came before is old by now.  (No stream lasts for days: its budget's is over.)
            self.clock.forward(2 * 86400)
        # Two who are under way before: the bystanders.
        clients = [Client(self, "slow"), Client(self, "slow")]
        wait_for(lambda: all(len(c.events) > 3 or c.broken for c in clients), 15, "bystanders")
        # Before it can strike.
        before = wait_for(lambda: (lambda c: c if len(c) == PROCESSES else None)(
            self.t.children()), 10, "all processes")
        self.arm(point)
        clients += [Client(self, "slow", max_tokens=30), Client(self, "fast"),
                    Client(self, "over")]
        if point.startswith("handover."):
            # To whichever worker takes them: half of them belong to the other one.
            for c in clients[:2]:
                for _ in range(4):
                    threading.Thread(target=self.attach, args=(c.id,), daemon=True).start()
        late = point == "history.swept"  # with records to commit it goes with these
        if not late:
            self.provoke(point)
        if self.t.process.poll() is None:
            self.topup()
        end = time.monotonic() + 3
        while self.armed(point) and any(c.is_alive() for c in clients) and \
                time.monotonic() < end:
            time.sleep(0.01)
        if late:
            for c in clients:
                c.join(20)
            self.provoke(point)
            end = time.monotonic() + 3
            while self.armed(point) and time.monotonic() < end:
                time.sleep(0.01)
        struck = not self.armed(point)
        if not struck:
            os.unlink(self.path(point))
        for c in clients:
            c.join(20)
            if c.is_alive():
                raise AssertionError("a client waits for ever")
        revived = False

        def whole():
            # The master may die of it only now.
            nonlocal revived
            revived = self.revive() or revived
            return len(self.t.children()) == len(before)
        wait_for(whole, 10, "all processes")
        after = self.t.children()
        dead = {name for name, pid in before.items() if after.get(name) != pid}
        if not revived and len(dead) < 4:
            self.unharmed(clients[:2], dead)
        for c in clients:
            self.settle(c)
        return struck

    def attach(self, stream_id):
        try:
            s = self.t.open(stream_id)
            next(s.typed(), None)
            s.close()
        except Exception:
            pass

    def unharmed(self, bystanders, dead):
        for c in bystanders:
            if c.id is None or owner(c.id) in dead:
                continue
            # Its connection may have been a dead worker's on its way to the owner: then it is
            # asked for again.
            end = c.events[-1] if c.ended() else self.again(c)[-1]
            if end["type"] != "done" or end["data"]["finish_reason"] != "stop":
                raise AssertionError(f"a bystander of {owner(c.id)} was harmed, dead: {dead}, "
                                     f"end: {end}")

    def again(self, c):
        """The stream as its client finds it now."""
        def ask():
            try:
                s = self.t.open(c.id)
                try:
                    events = list(s.typed())
                finally:
                    s.close()
            except (OSError, http.client.HTTPException):
                return None
            return events if events and events[-1]["type"] in ("done", "error") else None
        return wait_for(ask, 15, "an end of a stream")

    def settle(self, c):
        """What this client is told that it has cost."""
        if c.id is None:
            self.repeat(c)
        kind, end = end_of(self.again(c))
        if c.ended() and micro(c.events[-1]["data"]["cost"]) != micro(end["cost"]):
            raise AssertionError(f"told {c.events[-1]['data']}, later {end}")
        self.charged += micro(end["cost"])

    def repeat(self, c):
        """Never acknowledged: what it holds, if it does, is what its repetition gets."""
        def ask():
            try:
                c.id = c.send()
                return c.send() == c.id
            except (OSError, http.client.HTTPException, AssertionError):
                return False
        wait_for(ask, 15, "an answer to a repeated send")

    def check(self):
        wait_for(lambda: self.t.ctl("hold", "list") == [], 15, "holds to be closed")
        self.t.audit()
        a = self.t.show("alice")
        want = START + self.topups - self.charged
        if micro(a["balance"]) != want or micro(a["held"]) != 0 or \
                micro(a["available"]) != want + micro(a["overdraft"]):
            raise AssertionError(f"{a}, but balance should be {want}")
        used = micro(next(k["used"] for k in self.t.ctl("key", "list", "alice")
                          if k["key_id"] == self.key_id))
        if used != self.charged:
            raise AssertionError(f"{used} is used of the cap, {self.charged} is charged")
        for which in ("budget_day", "budget_month"):
            now = a[which]["resets_at"], micro(a[which]["spent"]), self.charged
            ends, spent, charged = self.before.get(which, now)
            # If the clock was put forward a new one has begun.
            if ends == now[0] and now[1] - spent != now[2] - charged:
                raise AssertionError(f"{which}: {now}, at the last check {self.before[which]}")
            self.before[which] = now

    def attempt(self, point):
        for _ in range(TRIES):
            struck = self.round(point)
            if struck:
                break
        else:
            raise AssertionError("it was never reached")
        self.check()

    def close(self):
        self.t.close()


def work(todo, failures, done):
    place = None
    while True:
        try:
            point = todo.get_nowait()
        except queue.Empty:
            break
        start = time.monotonic()
        try:
            place = place or Place()
            place.attempt(point)
            done.append((point, time.monotonic() - start))
        except Exception as e:
            log = place.t.log()[-3000:] if place else ""
            failures.append(f"{point}: {type(e).__name__}: {e}\n{log}")
            if place:
                place.close()
            place = None
    if place:
        code = place.t.stop()
        if code != 0:
            failures.append(f"exit {code}\n{place.t.log()[-3000:]}")
        for bad in ("AddressSanitizer", "runtime error:", "level=fatal", "forged", "refused"):
            if bad in place.t.log():
                failures.append(f"{bad} in the log:\n" + "\n".join(
                    x for x in place.t.log().splitlines() if bad in x))
        place.close()


class Faults(unittest.TestCase):
    def test_each_name_stands_once(self):
        names = points()
        self.assertEqual(len(names), len(set(names)))
        self.assertGreater(len(names), 50)

    @unittest.skipUnless(built(), "not built with -DTOLLD_FAULTS")
    def test_every_point(self):
        only = os.environ.get("FAULTS")
        todo = queue.Queue()
        for p in only.split(",") if only else points():
            todo.put(p)
        count = todo.qsize()
        failures, done = [], []
        threads = [threading.Thread(target=work, args=(todo, failures, done))
                   for _ in range(min(DAEMONS, count))]
        for th in threads:
            th.start()
        for th in threads:
            th.join()
        if os.environ.get("VERBOSE"):
            for p, seconds in sorted(done):
                print(f"{p} {seconds:.1f} s")
        self.assertEqual(failures, [], "\n".join(failures))
        self.assertEqual(len(done), count)


if __name__ == "__main__":
    unittest.main()
