#!/usr/bin/env python3
"""The chat page in a real browser: Debian's Chromium, driven by playwright-core.

One daemon with the simulated provider, and a scripted one inside the tests for texts that the
simulated one cannot say; every test_*.mjs beside this file runs under node's own test runner.
Afterwards nothing may be held, and the audit must pass.

usage: run.py FOLDER-WITH-node_modules [word-in-a-file's-name]
"""
import json
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "e2e"))
import tolld  # noqa: E402

EXACT = "exact=o200k_base"
# What a model's provider does.
MODELS = {
    "story": f"sim:tokens=60,rate=30,{EXACT}",
    "quick": f"sim:tokens=12,{EXACT}",
    "slow": f"sim:tokens=1000,rate=50,{EXACT}",
    "broken": f"sim:tokens=30,fault=error@10,{EXACT}",
    "refused": "sim:status=401",
}
SCRIPTED = ("prose", "hostile", "wide", "long", "endless")


def config(port):
    text = f'''
provider "script" {{
    dialect = "openai"
    base_url = "http://127.0.0.1:{port}/v1"
    api_key = ""
    retries = 0
    breaker_failures = 0
}}
'''
    models = {name: ("sim", upstream) for name, upstream in MODELS.items()}
    models.update({name: ("script", name) for name in SCRIPTED})
    for name, (provider, upstream) in models.items():
        text += f'''
model "{name}" {{
    provider = {{"{provider}"}}
    upstream = "{upstream}"
    tokenizer = "o200k_base"
    price_prompt = 500
    price_completion = 2000
    context = 128000
    max_completion = {16384 if name in ("long", "endless") else 4096}
}}
'''
    return text


def run(t, npm, files, port):
    build = tolld.BUILD
    shots = os.path.join(build, "page-shots")
    os.makedirs(shots, exist_ok=True)
    names = [os.path.splitext(os.path.basename(f))[0][len("test_"):] for f in files]
    keys = {name: t.account(name, 1000) for name in ("rich", *names)}
    for name in ("poor", "needy"):
        keys[name] = t.account(name, "0.15", 0)
    keys["empty"] = t.account("empty", 0, 0)
    say = {"url": f"http://127.0.0.1:{t.port}", "sim": f"http://127.0.0.1:{t.sim.port}",
           "npm": npm, "provider": port, "keys": keys, "shots": shots,
           "tollctl": os.path.join(build, "tollctl"), "socket": t.socket}
    p = subprocess.run(["node", "--test", "--test-concurrency=1", *files], timeout=900,
                       env=dict(os.environ, TOLLD_PAGE=json.dumps(say)))
    tolld.wait_for(lambda: t.ctl("hold", "list") == [], 30, "holds to be closed")
    t.audit()
    return p.returncode


def main():
    npm = os.path.abspath(sys.argv[1])
    word = sys.argv[2] if len(sys.argv) > 2 else ""
    files = sorted(os.path.join(HERE, f) for f in os.listdir(HERE)
                   if f.startswith("test_") and f.endswith(".mjs") and word in f)
    port = tolld.free_port()
    t = tolld.Tolld(workers=2, config=config(port), ledger="slice_tokens = 20")
    try:
        t.start()
        code = run(t, npm, files, port)
        assert t.stop() == 0, t.log()
    finally:
        t.close()
    sys.exit(code)


if __name__ == "__main__":
    main()
