#!/usr/bin/env python3
"""Goal:   after a power cut at any moment the daemon starts, and what it acknowledged is there.
Method: a real daemon under a real load, every write and flush of its state folder recorded in
        order (record.c), every acknowledgement noted with the place in that record.  Then the
        disk is rebuilt as a cut at some moment may have left it, again and again: what was
        flushed is there; of what was not, any part may be, down to single sectors; a name that
        was made is there for certain only after its folder was flushed; and what a failed flush
        should have written may be missing for ever.  A keeper recovers from each (check.c), and
        what it says is compared with what was acknowledged by then.

    tests/power/run.py [--points N] [--seed S] [--seconds S] [--only POINT]
"""
import argparse
import base64
import concurrent.futures
import errno
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
from clock import Clock  # noqa: E402
from disk import (CREATE, FOLDER, LOST, RANGE, RENAME, SIZE, SYNC, UNLINK,  # noqa: E402
                  WRITE, Disk, read_log, token_counts)
from tolld import BUILD, Tolld, micro, wait_for  # noqa: E402

SECTOR = 512
SLICE = 50
PIECE = 2           # tokens in a piece at most: `lang=even` makes pieces of five bytes
PIECE_BYTES = 5
OLD = 200           # accounts whose records are compacted
CANCELLED, WORKER_DIED = 6, 8     # shm/journal_record.h
MODELS = {
    "slow": "sim:tokens=400,rate=250,lang=even",
    "fast": "sim:tokens=600,lang=even",
    "short": "sim:tokens=5,lang=even",
}


# --- The disk.

class Write:
    """One write, as the sectors of it that are neither on disk for certain nor overwritten."""

    def __init__(self, offset, data):
        self.sectors = {}
        at = 0
        while at < len(data):
            sector = (offset + at) // SECTOR
            end = min(len(data), (sector + 1) * SECTOR - offset)
            self.sectors[sector] = (offset + at, data[at:end])
            at = end


class File:
    def __init__(self, data=b""):
        self.disk = bytearray(data)
        self.pending = []   # written, not flushed
        self.lost = []      # a flush of these failed: perhaps there, perhaps not, for ever

    def put(self, image, sectors):
        for offset, data in sectors:
            if len(image) < offset + len(data):
                image.extend(bytes(offset + len(data) - len(image)))
            image[offset:offset + len(data)] = data

    def settle(self, writes):
        """These are on disk now."""
        for w in writes:
            if isinstance(w, int):
                del self.disk[w:]
                self.disk.extend(bytes(w - len(self.disk)))
                continue
            self.put(self.disk, w.sectors.values())
            for x in self.lost:
                for sector in w.sectors:
                    x.sectors.pop(sector, None)
        self.lost = [x for x in self.lost if x.sectors]

    def after_cut(self, rng, mode):
        """What is found after a cut now."""
        image = bytearray(self.disk)
        lost = [x for x in self.lost if rng.random() < 0.5]
        if mode == "none":
            kept = []
        elif mode == "all":
            kept = list(self.pending)
        elif mode == "first":
            kept = self.pending[:rng.randint(0, len(self.pending))]
        elif mode == "missing":
            kept = list(self.pending)
            if kept:
                kept.pop(rng.randrange(len(kept)))
        else:
            kept = [w for w in self.pending if rng.random() < 0.5]
        torn = rng.choice(kept) if kept and rng.random() < 0.6 else None
        for w in lost + kept:
            if isinstance(w, int):
                del image[w:]
                image.extend(bytes(w - len(image)))
                continue
            sectors = list(w.sectors.values())
            if w is torn:
                sectors = [s for s in sectors if rng.random() < 0.5]
            self.put(image, sectors)
        return image


class Platter:
    """A folder's files and names, as far as they are on disk, and what is not yet."""

    def __init__(self):
        self.files = {}     # inode: File
        self.names = {}     # name: its file; those that are on disk
        self.moves = []     # changes of names that are not

    @classmethod
    def of_folder(cls, folder):
        p = cls()
        for name in os.listdir(folder):
            if not name.endswith("-lock"):
                path = os.path.join(folder, name)
                with open(path, "rb") as f:
                    p.names[name] = p.files[os.fstat(f.fileno()).st_ino] = File(f.read())
        return p

    @staticmethod
    def move(names, entry, made):
        text = entry.data.decode()
        if entry.event == CREATE:
            names[text] = made
        elif entry.event == UNLINK:
            names.pop(text, None)
        else:
            old, new = text.split("\0")
            if old in names:
                names[new] = names.pop(old)

    def play(self, e):
        if e.event == CREATE:
            # An inode's number may be used again: the old file keeps its own object.
            self.files[e.inode] = File()
            self.moves.append((e, self.files[e.inode]))
        elif e.event in (RENAME, UNLINK):
            self.moves.append((e, None))
        elif e.event == FOLDER:
            for move, made in self.moves:
                self.move(self.names, move, made)
            self.moves = []
        f = self.files.get(e.inode)
        if f is None:
            return
        if e.event == WRITE:
            f.pending.append(Write(e.offset, e.data))
        elif e.event == SIZE:
            f.pending.append(e.offset)
        elif e.event == SYNC:
            f.settle(f.pending)
            f.pending = []
        elif e.event == RANGE:
            f.settle(f.pending[-1:])
            f.pending.pop()
        elif e.event == LOST:
            f.lost += [w for w in f.pending if not isinstance(w, int)]
            f.pending = [w for w in f.pending if isinstance(w, int)]

    def cut(self, rng, folder):
        """Write the folder as a cut now leaves it."""
        mode = rng.choice(["none", "all", "first", "missing", "some", "some"])
        names = dict(self.names)
        # Names become durable in order.
        for move, made in self.moves[:rng.randint(0, len(self.moves))]:
            self.move(names, move, made)
        os.mkdir(folder, 0o700)
        for name, f in names.items():
            with open(os.path.join(folder, name), "wb", opener=lambda p, flags:
                      os.open(p, flags, 0o600)) as out:
                out.write(f.after_cut(rng, mode))
        return mode


# --- The load.

class Load:
    """Clients and an operator; what they were told, and when."""

    def __init__(self, t, disk):
        self.t, self.disk = t, disk
        self.lock = threading.Lock()
        self.told = []      # (position, what, ...)
        self.stop = False
        self.odd = []
        self.keys = {}
        self.count = 0
        self.texts = set()
        self.compacted = []

    def counts(self):
        """[n]: what the meter says of the first n pieces of an answer."""
        text = max(self.texts, key=len, default="")
        assert all(text.startswith(x) for x in self.texts), "answers differ"
        return token_counts(BUILD, text, PIECE_BYTES)

    def note(self, *what):
        # Taken after the answer came: all that it rests on is before this place.
        with self.lock:
            self.told.append((self.disk.position(),) + what)

    def number(self):
        with self.lock:
            self.count += 1
            return self.count

    def ctl(self, *args):
        """None if the answer was an error: the daemon may have done it or not."""
        p = self.t.ctl(*args, check=False)
        return json.loads(p.stdout) if p.returncode == 0 else None

    def account(self, name, balance, overdraft="0"):
        if self.ctl("account", "create", name, "--balance", balance, "--overdraft",
                    overdraft) is None:
            return
        self.note("account", name, micro(balance))
        key = self.ctl("key", "create", name)
        if key is not None:
            self.note("key", key["key_id"])
            self.keys[name] = key["key"]

    def operator(self):
        """Top-ups, accounts and keys, as fast as they are answered."""
        while not self.stop:
            n = self.number()
            name = random.choice(list(self.keys))
            if self.ctl("topup", name, f"0.{n:06}", "--ref", f"ref{n}") is not None:
                self.note("topup", f"ref{n}", n)
            if n % 7 == 0:
                self.account(f"acct{n}", "1")

    def watch(self, name, sent, cancel):
        """Read a stream; note each piece that came."""
        secret = base64.urlsafe_b64decode(sent["stream_id"] + "====")[:16].hex()
        s = self.t.open(sent["stream_id"])
        text = ""
        for e in s.typed():
            if e["type"] == "token":
                text += e["data"]["token"]
                self.note("delivered", secret, len(text) // PIECE_BYTES)
                if cancel and len(text) // PIECE_BYTES > cancel:
                    status, _, body = self.t.request(
                        "DELETE", f"/stream?id={sent['stream_id']}")
                    if status == 200:
                        self.note("settled", secret, micro(body["cost"]))
                    cancel = 0
            elif e["type"] == "done":
                self.note("settled", secret, micro(e["data"]["cost"]))
                self.texts.add(text)
        s.close()

    def forget(self, name, session):
        status, _, _ = self.t.request("DELETE", f"/chat/history?session_id={session}",
                                      key=self.keys[name])
        if status == 200:
            self.note("forgot", base64.urlsafe_b64decode(session + "==").hex())

    def client(self, seed):
        rng = random.Random(seed)
        while not self.stop:
            try:
                name = rng.choice(list(self.keys))
                status, _, sent = self.t.request(
                    "POST", "/chat/send", {"message": "hello " * rng.choice([1, 1, 200]),
                                           "model": rng.choice(list(MODELS))}, self.keys[name])
                if status != 200:
                    if status not in (402, 503):
                        self.odd.append(("send", status, sent))
                    time.sleep(0.01)
                    continue
                secret = base64.urlsafe_b64decode(sent["stream_id"] + "====")[:16].hex()
                self.note("reserved", secret)
                if rng.random() < 0.9:
                    self.watch(name, sent, rng.randint(0, 300) if rng.random() < 0.2 else 0)
                if rng.random() < 0.2:
                    self.forget(name, sent["session_id"])
            except (OSError, ValueError, KeyError, AssertionError) as e:
                if self.stop:
                    return
                if not isinstance(e, OSError) and "IncompleteRead" not in repr(e):
                    self.odd.append(repr(e))
                time.sleep(0.01)
            except Exception as e:  # http.client's own: the connection broke
                if self.stop:
                    return
                time.sleep(0.01)

    def old_times(self, clock):
        """Accounts of two days ago, whose records are old enough to be compacted."""
        for n in range(OLD):
            if self.ctl("account", "create", f"old{n}", "--balance", f"{n + 1}") is not None:
                self.note("old", f"old{n}", micro(n + 1))
        clock.forward(2 * 86400)

    def compact(self):
        """Under the load; where in the record it was."""
        start = self.disk.position()
        done = self.ctl("compact", "--keep", "1d")
        self.compacted.append((start, self.disk.position()))
        # After a failed flush the keeper dies, and the next one goes on.
        assert done is None or done["first"] > OLD, done

    def run(self, seconds, faults, compact=False):
        self.stop = False
        threads = [threading.Thread(target=self.client, args=(i,), daemon=True)
                   for i in range(5)]
        threads.append(threading.Thread(target=self.operator, daemon=True))
        for th in threads:
            th.start()
        if compact:
            self.compact()
        time.sleep(seconds / 2)
        for kind in faults:
            self.disk.fail(kind, errno.EIO, 1)
            wait_for(lambda: self.disk.hits(kind) > 0, 10, f"a {kind} to fail")
            time.sleep(0.2)
        time.sleep(seconds / 2)
        return threads

    def end(self, threads):
        self.stop = True
        for th in threads:
            th.join(30)


def record(folder, seconds):
    """Run the daemon; (log entries, what was told, token counts, where it compacted)."""
    os.mkdir(folder)
    t = Tolld(workers=2, models=MODELS, folder=folder,
              config="history { keep_days = 0 keep_sessions = 0 }",
              ledger=f"slice_tokens = {SLICE} max_holds = 1024 max_accounts = 4096")
    disk = Disk(BUILD, folder, os.path.join(folder, "state"), log=True)
    clock = Clock(BUILD, folder)
    t.env.update(clock.env)
    t.env.update(disk.env, LD_PRELOAD=disk.env["LD_PRELOAD"] + ":" + clock.env["LD_PRELOAD"])
    load = Load(t, disk)
    try:
        t.start()
        load.old_times(clock)
        load.account("rich", "1000", "200")
        load.account("poor", "0.002")
        load.account("middle", "10")
        threads = load.run(seconds / 2, ["sync", "meta"], compact=True)
        # All processes at once, and their memory: so there is a recovery in the record too.
        load.stop = True
        t.kill_all()
        load.end(threads)
        os.unlink(os.path.join(folder, "run", "ledger.shm"))
        t.start()
        threads = load.run(seconds / 2, ["meta", "part"])
        load.end(threads)
        t.audit()
        assert t.stop() == 0, t.log()
    except BaseException:
        print(t.log()[-4000:])
        raise
    finally:
        t.close()
    assert not load.odd, load.odd[:3]
    return disk.entries(), load.told, load.counts(), load.compacted


# --- Comparing.

def differences(found, told, position, counts):
    """What was acknowledged at `position` and is not found; or what must never be."""
    out = []
    if found["fault"] is not None:
        return [found["fault"]]
    if found["audit"] is not True:
        out.append("audit: " + found["audit"])
    if found["holds_open"] != 0:
        out.append(f"{found['holds_open']} holds open")
    for name, a in found["accounts"].items():
        if a["held"] != 0:
            out.append(f"{name}: {a['held']} held")
        if a["balance"] < -a["overdraft"]:
            out.append(f"{name}: below its floor: {a['balance']}")
    credits = {c["ref"]: c["amount"] for c in found["credits"] if c["ref"]}
    by_account = {}
    for c in found["credits"]:
        by_account.setdefault(c["account"], []).append(c["amount"])
    refs = [(c["account"], c["ref"]) for c in found["credits"] if c["ref"]]
    if len(set(refs)) != len(refs):
        out.append("a ref stands there twice")
    streams = found["streams"]
    if found["history"] is not None:
        out.append(f"the history: {found['history']}")
    if found["receipts"] is not None:
        out.append(f"the receipts: {found['receipts']}")
    for at, what, name, *rest in told:
        if at > position:
            continue
        if what == "account":
            a = found["accounts"].get(name)
            if a is None:
                out.append(f"account {name} is lost")
            elif rest[0] not in by_account.get(a["number"], []):
                out.append(f"account {name}'s first balance is lost")
        elif what == "old":
            # Its records may be gone: the checkpoint stands for them.
            a = found["accounts"].get(name)
            if a is None or a["balance"] != rest[0] + (1 if a["number"] == 0 else 0):
                out.append(f"account {name} of {rest[0]}: found {a}")
        elif what == "key" and name not in found["keys"]:
            out.append(f"key {name} is lost")
        elif what == "forgot" and name not in found["forgotten"]:
            out.append(f"session {name} was forgotten, and is not")
        elif what == "topup" and credits.get(name) != rest[0]:
            out.append(f"top-up {name} of {rest[0]}: found {credits.get(name)}")
        elif what == "reserved" and name not in streams:
            out.append(f"stream {name} is lost")
        elif what == "settled" and streams.get(name, {}).get("charge") != rest[0]:
            out.append(f"stream {name} settled at {rest[0]}: found {streams.get(name)}")
        elif what == "delivered":
            charged = streams.get(name, {}).get("completion", -1)
            # What ended well was charged by the provider's count, a token a piece.
            ours = streams.get(name, {}).get("outcome") in (CANCELLED, WORKER_DIED)
            delivered = counts[rest[0]] if ours else rest[0]
            if charged < 0 or delivered - charged > SLICE + PIECE:
                out.append(f"stream {name}: {delivered} tokens delivered, {charged} charged")
    return out


# --- The points.

class Checker:
    """Runs tests/power/check on folders, one process per thread."""

    def __init__(self):
        self.local = threading.local()

    def check(self, folder, env=None):
        p = getattr(self.local, "process", None)
        if env is not None or p is None:
            p = subprocess.Popen([os.path.join(BUILD, "power", "check")], stdin=subprocess.PIPE,
                                 stdout=subprocess.PIPE, text=True,
                                 env=dict(os.environ, **(env or {})))
            if env is None:
                self.local.process = p
        p.stdin.write(folder + "\n")
        p.stdin.flush()
        line = p.stdout.readline()
        if env is not None:
            p.stdin.close()
            p.wait(10)
            p.stdout.close()
        return json.loads(line)


def secret_fault(folder):
    """A journal without the secret of its keys would be refused."""
    names = os.listdir(folder)
    if "journal.mdb" not in names:
        return None
    path = os.path.join(folder, "key.secret")
    if not os.path.exists(path) or os.path.getsize(path) != 32:
        return "there is a journal and no whole key.secret"
    return None


def choose(entries, n, rng, compacted):
    """Places in the record: most of them where most is at stake."""
    last = len(entries) - 1
    sync = [i - 1 for i, e in enumerate(entries) if e.event == SYNC and i > 0]
    meta = [i - 1 for i, e in enumerate(entries) if e.event == RANGE]
    lost = [j for i, e in enumerate(entries) if e.event == LOST for j in range(i, i + 12)]
    during = [i for i, e in enumerate(entries)
              if any(start <= e.end <= end for start, end in compacted)]
    out = []
    for _ in range(n):
        kind = rng.random()
        if rng.random() < 0.25 and during:
            out.append(rng.choice(during))
        elif kind < 0.15:
            out.append(rng.randint(0, min(60, last)))        # the first start
        elif kind < 0.25 and lost:
            out.append(min(rng.choice(lost), last))
        elif kind < 0.55:
            out.append(rng.choice(sync))
        elif kind < 0.75:
            out.append(rng.choice(meta))
        else:
            out.append(rng.randint(0, last))
    return sorted(out)


def second_cut(checker, folder, told, position, counts, rng):
    """A cut in the recovery from a cut: record it, and cut once more."""
    log = folder + ".disk"
    before = Platter.of_folder(folder)
    checker.check(folder, {"LD_PRELOAD": os.path.join(BUILD, "power", "record.so"),
                           "TOLLD_DISK_DIR": folder, "TOLLD_DISK_LOG": log})
    entries = read_log(log) if os.path.exists(log) else []
    if not entries:
        return None, []
    stop = rng.randint(0, len(entries) - 1)
    for e in entries[:stop + 1]:
        before.play(e)
    again = folder + ".again"
    before.cut(rng, again)
    found = checker.check(again)
    # The first one's extra top-up is there or not; all else is as it was.
    for c in found.get("credits", []):
        if c["ref"] == "after":
            c["ref"] = ""
    return again, differences(found, told, position, counts)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--points", type=int, default=60)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    random.seed(args.seed)
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    work = tempfile.mkdtemp(prefix="tolld-power-", dir=base)
    start = time.monotonic()
    print(f"seed {args.seed}", flush=True)
    entries, told, counts, compacted = record(os.path.join(work, "daemon"), args.seconds)
    syncs = sum(1 for e in entries if e.event in (SYNC, RANGE))
    print(f"{len(entries)} events, {syncs} of them flushes; {len(told)} things told; "
          f"{compacted} compacted; "
          f"{time.monotonic() - start:.0f} s", flush=True)
    checker = Checker()
    platter = Platter()
    bad = []
    done = [0, 0]

    def judge(folder, index, mode, seed):
        mine = random.Random(seed)
        position = entries[index].end
        fault = secret_fault(folder)
        wrong = [fault] if fault else []
        twice = mine.random() < 0.1
        if twice:
            copy = folder + ".copy"
            shutil.copytree(folder, copy)
            again, more = second_cut(checker, copy, told, position, counts, mine)
            wrong += ["after a second cut: " + w for w in more]
            done[1] += 1
        wrong += differences(checker.check(folder), told, position, counts)
        done[0] += 1
        if wrong:
            bad.append((index, mode, folder, wrong))
            return
        for path in [folder, folder + ".copy", folder + ".copy.again"]:
            shutil.rmtree(path, ignore_errors=True)
            for more in (".log", ".disk"):
                if os.path.exists(path + more):
                    os.unlink(path + more)

    played = 0
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        waiting = []
        for n, index in enumerate(choose(entries, args.points, rng, compacted)):
            while played <= index:
                platter.play(entries[played])
                played += 1
            folder = os.path.join(work, f"point{n}")
            mode = platter.cut(rng, folder)
            waiting.append(pool.submit(judge, folder, index, mode, rng.random()))
            while len(waiting) > 2 * args.jobs:
                waiting.pop(0).result()
        for w in waiting:
            w.result()
    seconds = time.monotonic() - start
    for index, mode, folder, wrong in sorted(bad)[:10]:
        print(f"point at event {index} ({mode}), {folder}:")
        for w in wrong[:5]:
            print("   ", w)
        for log in (folder + ".log", folder + ".copy.again.log"):
            if os.path.exists(log):
                with open(log) as f:
                    print("    " + f.read()[-500:].replace("\n", "\n    "))
    print(f"{done[0]} points, {done[1]} of them cut again in the recovery; {len(bad)} wrong; "
          f"seed {args.seed}; {seconds:.0f} s")
    if not bad:
        shutil.rmtree(work)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
