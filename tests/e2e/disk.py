"""The disk between the daemon and its state folder: what it was told, and how it fails.

tests/power/record.c is loaded into the daemon; here is the other side of it: the environment to
start the daemon with, the control of faults, and the reader of what was recorded.
"""
import collections
import errno
import json
import mmap
import os
import struct
import subprocess

CREATE, WRITE, SYNC, RANGE, LOST, SIZE, RENAME, UNLINK, FOLDER = range(1, 10)
ENTRY = struct.Struct("<IIQQII")
FAULTS = ["write", "sync", "meta", "part"]
FILES = [None, "journal.mdb", "state.mdb"]

Entry = collections.namedtuple("Entry", "end event inode offset pid data")


class Disk:
    """Files beside the daemon's folder: the log of its writes, and the faults to come."""

    def __init__(self, build, folder, state_dir, log=False):
        self.log_path = os.path.join(folder, "disk.log") if log else None
        self.faults_path = os.path.join(folder, "disk.faults")
        with open(self.faults_path, "wb") as f:
            f.write(bytes(4096))
        with open(self.faults_path, "r+b") as f:
            self.faults = mmap.mmap(f.fileno(), 4096)
        self.env = {
            "LD_PRELOAD": os.path.join(build, "power", "record.so"),
            "TOLLD_DISK_DIR": state_dir,
            "TOLLD_DISK_FAULTS": self.faults_path,
            # A sanitizer wants to be the first library; it does not meet ours.
            "ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0",
        }
        if log:
            self.env["TOLLD_DISK_LOG"] = self.log_path

    def fail(self, kind, error=errno.EIO, times=-1):
        """From now on calls of that kind fail; so many, or until works() is called."""
        struct.pack_into("<iii", self.faults, 12 * FAULTS.index(kind), error, times, 0)

    def works(self):
        for kind in FAULTS:
            struct.pack_into("<ii", self.faults, 12 * FAULTS.index(kind), 0, 0)

    def slow(self, ms):
        """Each sync takes so much longer; what has begun no longer than until slow(0)."""
        struct.pack_into("<i", self.faults, 12 * len(FAULTS), ms)

    def only(self, name):
        """All that fails or is slow is this file; None: every file."""
        struct.pack_into("<i", self.faults, 12 * len(FAULTS) + 4, FILES.index(name))

    def hits(self, kind):
        """How many calls failed."""
        return struct.unpack_from("<i", self.faults, 12 * FAULTS.index(kind) + 8)[0]

    def position(self):
        """How long the log is: what comes later in it was not on disk before now."""
        return os.path.getsize(self.log_path)

    def entries(self):
        return read_log(self.log_path)


def token_counts(build, text, piece):
    """What the meter says of a text's first piece, its first two, and so on."""
    p = subprocess.run([os.path.join(build, "power", "check"), "tokens", str(piece)], input=text,
                       capture_output=True, text=True, check=True)
    return json.loads(p.stdout)


def read_log(path):
    out = []
    with open(path, "rb") as f:
        log = f.read()
    at = 0
    while at + ENTRY.size <= len(log):
        length, event, inode, offset, pid, _ = ENTRY.unpack_from(log, at)
        if at + length > len(log):
            break
        out.append(Entry(at + length, event, inode, offset, pid,
                         log[at + ENTRY.size:at + length]))
        at += length
    return out
