"""A daemon's clock that a test puts forward: clock.c, preloaded."""
import mmap
import os
import struct


class Clock:
    def __init__(self, build, folder):
        path = os.path.join(folder, "clock")
        with open(path, "wb") as f:
            f.write(bytes(16))
        with open(path, "r+b") as f:
            self.map = mmap.mmap(f.fileno(), 16)
        self.env = {"TOLLD_CLOCK": path,
                    "LD_PRELOAD": os.path.join(build, "e2e", "clock.so"),
                    # What is preloaded comes before a sanitizer's own.
                    "ASAN_OPTIONS": "verify_asan_link_order=0:" +
                                    os.environ.get("ASAN_OPTIONS", "")}

    def ahead(self):
        return struct.unpack("<q", self.map[:8])[0]

    def forward(self, seconds):
        self.map[:8] = struct.pack("<q", self.ahead() + seconds)

    def forward_monotonic(self, seconds):
        """Time-outs pass; what goes by the coarse clock stands still."""
        self.map[8:16] = struct.pack("<q", struct.unpack("<q", self.map[8:16])[0] + seconds)
