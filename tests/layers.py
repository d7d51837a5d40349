#!/usr/bin/env python3
"""Goal:   dependencies point one way, as docs/architecture.md draws them.
Method: read every #include "..." and hold it against the rules.
"""
import os
import re
import sys

# folder: what it may include of the project, and what of the libraries it must not.
RULES = {
    "shm": (("shm/",), ("event2/", "lmdb.h", "curl/", "msgpack", "confuse.h")),
    "admin": (("admin/", "shm/money.h", "daemon/tokenizer", "daemon/utf8.h"),
              ("event2/", "lmdb.h", "curl/")),
    "daemon": (("daemon/", "shm/", "admin/proto.h"), ()),
}
# Pure parts of the daemon that tollctl shares: they include nothing but each other.
PURE = ("daemon/tokenizer",)
# One library, one neighbour: who may talk to it.
ONLY = {
    "curl/": ("daemon/upstream",),
    "confuse.h": ("daemon/config",),
    "jwt.h": ("daemon/jwt.c",),
    "wslay/": ("daemon/ws.c",),
    "seccomp.h": ("daemon/sandbox",),
    "lmdb.h": ("daemon/journal", "daemon/state", "daemon/audit"),
}

bad = 0
for folder, (may, never) in RULES.items():
    for name in sorted(os.listdir(folder)):
        if not name.endswith((".c", ".h")):
            continue
        path = f"{folder}/{name}"
        with open(path) as f:
            includes = re.findall(r'#include\s+["<]([^">]+)[">]', f.read())
        for inc in includes:
            ours = re.match(r"(shm|admin|daemon|tests)/", inc)
            if ours and path.startswith(PURE) and not inc.startswith(PURE):
                print(f"{path}: pure, and must not include {inc}")
                bad += 1
            if ours and not inc.startswith(may):
                print(f"{path}: must not include {inc}")
                bad += 1
            if inc.startswith(never):
                print(f"{path}: {folder}/ knows nothing of {inc}")
                bad += 1
            for library, who in ONLY.items():
                if inc.startswith(library) and not path.startswith(who):
                    print(f"{path}: {inc} belongs to {', '.join(who)}")
                    bad += 1
print("layers: " + (f"{bad} wrong" if bad else "good"))
sys.exit(1 if bad else 0)
