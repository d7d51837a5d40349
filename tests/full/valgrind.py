#!/usr/bin/env python3
"""Goal:   no process leaks memory or reads what it must not, from start to drain.
Method: the real daemon under valgrind, some of everything sent at it, then TERM; valgrind's own
        logs must show no error and nothing definitely or indirectly lost.
"""
import concurrent.futures
import glob
import json
import os
import re
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
import tolld  # noqa: E402
import v1  # noqa: E402
import ws  # noqa: E402
from tolld import Tolld, end_of, wait_for  # noqa: E402

tolld.SLOW = v1.SLOW = ws.SLOW = 10

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
    use_v1(t, key)
    use_history(t, key)
    with ws.WebSocket(t.port, "/ws/chat/alice", key, timeout=300) as w:
        for model in ("short", "s500"):
            w.ask(model=model)
            w.answer()
        w.ask("")
        w.answer()
        w.close()


def use_v1(t, key):
    for model in ("short", "cut", "error", "s500"):
        v1.stream(t, key, model, usage=True)
        v1.chat(t, key, model)
        for stream in (True, False):
            t.request("POST", "/v1/messages", {
                "model": model, "stream": stream, "max_tokens": 50,
                "messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}],
            }, key)
    again = {"Idempotency-Key": f"{threading.get_ident()}-{time.monotonic_ns()}"}
    for _ in range(2):
        v1.chat(t, key, "short", headers=again)
    t.request("POST", "/v1/embeddings", {"model": "short", "input": ["hello", "there"]}, key)
    t.request("POST", "/api/chat", {"model": "short", "message": "hello"}, key)
    t.request("GET", "/v1/models", key=key)
    t.request("GET", "/balance", key=key)


def use_history(t, key):
    t.run(key, "hello", "short")
    session = t.request("GET", "/chat/history", key=key)[2]["sessions"][0]["id"]
    t.run(key, "and then?", "short", session_id=session)
    t.request("GET", f"/chat/history?session_id={session}", key=key)
    t.request("DELETE", f"/chat/history?session_id={session}", key=key)


def patiently(t, *args):
    """tollctl, also where valgrind's disk is slower than an operator is made to wait."""
    for _ in range(10):
        p = t.ctl(*args, check=False)
        if "journal_unavailable" not in p.stderr:
            break
    assert p.returncode == 0, (args, p.stdout, p.stderr)
    return json.loads(p.stdout)


def operate(t):
    """What an operator does meanwhile."""
    made = patiently(t, "key", "create", "alice", "--scope", "chat,mint")
    t.request("POST", "/keys", {"expires_in": 60}, made["key"])
    patiently(t, "key", "revoke", made["key_id"])
    patiently(t, "price", "set", "short", "prompt", "0.2")
    t.ctl("reload", check=False)  # on a busy machine it takes longer than it may
    patiently(t, "stream", "list")
    patiently(t, "journal")
    patiently(t, "backup", os.path.join(t.folder, "copy"))
    t.ctl("compact", "--keep", "1d", check=False)  # nothing is that old


def main():
    # valgrind makes code itself: that is what the sandbox forbids.
    t = Tolld(workers=2, models=MODELS, ledger="slice_tokens = 10", config="sandbox = off")
    logs = os.path.join(t.folder, "valgrind.%p")
    t.wrapper = ["valgrind", "--quiet", "--leak-check=full", "--errors-for-leak-kinds=definite,"
                 "indirect", "--show-leak-kinds=definite,indirect", "--child-silent-after-fork=no",
                 f"--log-file={logs}"]
    try:
        t.start()
        patiently(t, "account", "create", "alice", "--balance", "1000")
        key = patiently(t, "key", "create", "alice")["key"]
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: use(t, key), range(4)))
        operate(t)
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


if __name__ == "__main__":
    sys.exit(main())
