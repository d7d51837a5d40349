#!/usr/bin/env python3
"""The clients that people already have, against the daemon: npm's SDKs, unchanged.

One daemon with a simulated provider in each of its dialects; every test_*.mjs beside this file runs
under node's own test runner.  Afterwards nothing may be held, and the audit must pass.

usage: run.py FOLDER-WITH-node_modules [word-in-a-file's-name]
"""
import json
import os
import subprocess
import sys
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "e2e"))
import tolld  # noqa: E402

EXACT = "exact=o200k_base"
# What a model's provider does.
MODELS = {
    "ten": f"sim:tokens=10,{EXACT}",
    "thousand": f"sim:tokens=1000,{EXACT}",
    "slow": "sim:tokens=100000,rate=50",
    "late": "sim:delay=30000",
    "broken": f"sim:tokens=10,fault=error@5,{EXACT}",
    "weather": "sim:tool=weather",
    # Its text in URL encoding: the script's own commas are another thing.
    "object": "sim:text=%7b%22city%22:%22Paris%22%2c%22days%22:3%7d",
    "thinking": f"sim:tokens=10,think=hm,{EXACT}",
    "busy": "sim:status=429,retryafter=1",
    "refused": "sim:status=401",
    "vectors": "sim",
}
PATHS = {"openai": "/v1", "anthropic": "", "ollama": ""}


def config(sim_port):
    text = ""
    for dialect, path in PATHS.items():
        text += f'''
provider "{dialect}" {{
    dialect = "{dialect}"
    base_url = "http://127.0.0.1:{sim_port}{path}"
    api_key = "provider-secret-key"
    retries = 0
    breaker_failures = 0
}}
'''
        for name, upstream in MODELS.items():
            text += f'''
model "{name}@{dialect}" {{
    provider = {{"{dialect}"}}
    upstream = "{upstream}"
    tokenizer = "o200k_base"
    price_prompt = 0.15
    price_completion = 0.60
    context = 128000
    max_completion = 16384
}}
'''
    return text


def text_of(sim_port, tokens):
    """The provider's text of so many tokens."""
    body = {"model": f"sim:tokens={tokens},{EXACT}", "messages": [{"role": "user", "content": "x"}]}
    r = urllib.request.urlopen(urllib.request.Request(
        f"http://127.0.0.1:{sim_port}/v1/chat/completions", json.dumps(body).encode()), timeout=60)
    return json.load(r)["choices"][0]["message"]["content"]


def run(t, npm, files):
    port = t.sim.port
    keys = {"rich": t.account("rich", balance=1000), "empty": t.account("empty", 0, 0)}
    for name in ("poor", "poor_anthropic", "poor_ai"):
        keys[name] = t.account(name, "0.0001", 0)  # some 160 tokens
    say = {"url": f"http://127.0.0.1:{t.port}", "sim": f"http://127.0.0.1:{port}", "npm": npm,
           "keys": keys, "texts": {"ten": text_of(port, 10), "five": text_of(port, 5)}}
    p = subprocess.run(["node", "--test", "--test-concurrency=1", *files], timeout=900,
                       env=dict(os.environ, TOLLD_CLIENTS=json.dumps(say), LANGSMITH_TRACING="false",
                                AI_SDK_LOG_WARNINGS="false"))
    tolld.wait_for(lambda: t.ctl("hold", "list") == [], 10, "holds to be closed")
    t.audit()
    return p.returncode


def main():
    npm = os.path.abspath(sys.argv[1])
    word = sys.argv[2] if len(sys.argv) > 2 else ""
    files = sorted(os.path.join(HERE, f) for f in os.listdir(HERE)
                   if f.startswith("test_") and f.endswith(".mjs") and word in f)
    t = tolld.Tolld(workers=2)
    t.extra = (config(t.sim.port), "", "")
    t.write_config()
    try:
        t.start()
        code = run(t, npm, files)
        assert t.stop() == 0, t.log()
    finally:
        t.close()
    sys.exit(code)


if __name__ == "__main__":
    main()
