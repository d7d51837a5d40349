#!/usr/bin/env python3
"""Goal:   no process leaks memory or reads what it must not, from start to drain.
Method: the real daemon under valgrind, some of everything sent at it, then TERM; valgrind's own
        logs must show no error and nothing definitely or indirectly lost.
"""
import concurrent.futures
import glob
import os
import re
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
import tolld  # noqa: E402
from tolld import Tolld, end_of, wait_for  # noqa: E402

tolld.SLOW = 10

MODELS = {
    "short": "sim:tokens=20,lang=ru", "split": "sim:tokens=30,lang=emoji,split=3",
    "cut": "sim:tokens=50,fault=cut@20", "error": "sim:tokens=50,fault=error@10",
    "bad": "sim:tokens=50,fault=badutf8@10", "s500": "sim:status=500", "nobody": "nobody",
    "slow": "sim:tokens=5000,rate=50",
}


def use(t, key):
    """A round of everything that a client can do."""
    for model in ("short", "split", "cut", "error", "bad", "s500", "nobody"):
        end_of(t.run(key, "hello", model))
    for fmt in ("openai", "content"):
        list(t.open(t.send(key, "hello", "short")["stream_id"], fmt).events())
    sent = t.send(key, "hello", "slow")
    s = t.open(sent["stream_id"])
    it = s.typed()
    while next(it)["type"] != "token":
        pass
    t.request("DELETE", "/stream?id=" + sent["stream_id"])
    list(it)
    t.request("POST", "/chat/send", "{", key)
    t.request("POST", "/chat/preview", {"message": "x"}, key)
    t.request("GET", "/stream?id=" + "A" * 28)
    t.request("GET", "/nothing")


def main():
    # valgrind makes code itself: that is what the sandbox forbids.
    t = Tolld(workers=2, models=MODELS, ledger="slice_tokens = 10", config="sandbox = off")
    logs = os.path.join(t.folder, "valgrind.%p")
    t.wrapper = ["valgrind", "--quiet", "--leak-check=full", "--errors-for-leak-kinds=definite,"
                 "indirect", "--show-leak-kinds=definite,indirect", "--child-silent-after-fork=no",
                 f"--log-file={logs}"]
    try:
        t.start()
        key = t.account("alice", "1000")
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: use(t, key), range(4)))
        left = t.send(key, "hello", "slow")
        s = t.open(left["stream_id"])
        next(s.typed())
        t.metrics()
        wait_for(lambda: t.ctl("stats"), 10)
        t.audit()
        s.close()
        code = t.stop(seconds=60)
        assert code == 0, t.log()
        found = ""
        for path in glob.glob(os.path.join(t.folder, "valgrind.*")):
            with open(path) as f:
                text = f.read()
            if re.search(r"==\d+== \S", text):
                found += f"{path}\n{text}\n"
        if found:
            print(found)
            return 1
        print("valgrind: no error, nothing lost")
        return 0
    finally:
        t.close()


sys.exit(main())
