"""The shared memory of a running daemon, as somebody sees it who writes where he should not.

Offsets are those of shm/region.h, shm/ledger.h, shm/ring.h and shm/journal_record.h; a test checks
them against what a living daemon has there.
"""
import ctypes
import mmap
import struct
import sys

RECORD = struct.Struct("<BBBBIQqqIIIIIIQ")
RESERVE, EXTEND, MARK, SETTLE, VOID, TOPUP, ADJUST, ACCOUNT, KEY, KEY_REVOKE, PRICE, SYNC, \
    ACCOUNT_SET, FREEZE = range(1, 15)
GONE, SIGHT = 18, 20
VERSION = 1
NONE = 0xffffffff
PROC_ADMIN, PROC_WORKER = 2, 3
STATES = ["free", "claimed", "held", "extending", "settling", "crediting"]
ENTRY, HOLD, ACCOUNT_SIZE = 96, 448, 320


class Region:
    def __init__(self, path):
        with open(path, "r+b") as f:
            self.m = mmap.mmap(f.fileno(), 0)
        assert self.m[:8] == b"TOLLDD01"
        (self.ring_records, self.ring_arena, self.procs, self.holds_per_proc) = \
            struct.unpack_from("<4I", self.m, 32)
        (self.procs_at, self.prices_at, _, self.rings_at, self.ring_stride, self.holds_at, _, _, _,
         self.accounts_at) = struct.unpack_from("<10Q", self.m, 112)

    def close(self):
        self.m.close()

    def u32(self, at, value=None):
        return self.word("@I", at, value)

    def u64(self, at, value=None):
        return self.word("@Q", at, value)

    def i64(self, at, value=None):
        return self.word("@q", at, value)

    def word(self, fmt, at, value):
        """In one go: struct.pack_into would have a reader see halves, or the zeros that it begins
        with."""
        if value is not None:
            data = struct.pack(fmt, value)
            kind = {4: ctypes.c_uint32, 8: ctypes.c_uint64}[len(data)]
            kind.from_buffer(self.m, at).value = int.from_bytes(data, sys.byteorder)
        return struct.unpack_from(fmt, self.m, at)[0]

    def hurry(self):
        """Have the keeper take what there is, at its next look."""
        self.u32(276, 1)

    # Holds.

    def hold(self, slot):
        return self.holds_at + slot * HOLD

    def slots(self, proc):
        first = (proc - PROC_ADMIN) * self.holds_per_proc
        return range(first, first + self.holds_per_proc)

    def state(self, slot):
        """(sequence, state)"""
        word = self.u64(self.hold(slot))
        return word >> 8, STATES[word & 255]

    def held(self, proc):
        """Slots of a process that are held."""
        return [s for s in self.slots(proc) if self.state(s)[1] == "held"]

    def free(self, proc):
        return [s for s in self.slots(proc) if self.state(s)[1] == "free"]

    def amount(self, slot, value=None):
        return self.i64(self.hold(slot) + 16, value)

    def account_of(self, slot):
        return self.u32(self.hold(slot) + 56)

    # Accounts.

    def account(self, number):
        return self.accounts_at + number * ACCOUNT_SIZE

    def number(self, name):
        for n in range(self.u32(256)):
            at = self.account(n)
            if self.m[at + 128:at + 128 + self.u32(at + 36)] == name.encode():
                return n
        raise KeyError(name)

    def available(self, number, value=None):
        return self.i64(self.account(number), value)

    def tag(self, number, value=None):
        return self.u64(self.account(number) + 8, value)

    def flags(self, number, value=None):
        return self.u32(self.account(number) + 16, value)

    def books(self, number, value):
        """Both copies of balance, held and overdraft."""
        for i in range(6):
            self.i64(self.account(number) + 72 + 8 * i, value)

    # Rings.

    def ring(self, proc):
        return self.rings_at + (proc - PROC_ADMIN) * self.ring_stride

    def head(self, proc, value=None):
        return self.u64(self.ring(proc), value)

    def durable(self, proc, value=None):
        return self.u64(self.ring(proc) + 64, value)

    def acked(self, proc, value=None):
        return self.u64(self.ring(proc) + 128, value)

    def entry(self, proc, position):
        return self.ring(proc) + 256 + (position - 1) % self.ring_records * ENTRY

    def push(self, proc, type, slot=NONE, op=0, amount=0, extra=0, account=NONE, price=0, prompt=0,
             cached=0, completion=0, payload=b"", payload_len=None, version=VERSION, outcome=0):
        """Publish a record in that process's name."""
        head = self.head(proc)
        at = 0
        if head > 0:
            last = self.entry(proc, head)
            at = self.u64(last + 64) + self.u32(last + 52)
        arena = self.ring(proc) + 256 + self.ring_records * ENTRY
        for i, byte in enumerate(payload):
            self.m[arena + (at + i) % self.ring_arena] = byte
        e = self.entry(proc, head + 1)
        RECORD.pack_into(self.m, e, type, version, outcome, proc, slot, op, amount, extra, account,
                         price, prompt, cached, completion,
                         len(payload) if payload_len is None else payload_len, 1)
        struct.pack_into("<QqI", self.m, e + 64, at, 0, 0)
        self.head(proc, head + 1)
        self.hurry()
        return head + 1
