#!/usr/bin/env python3
"""`make demo`: the whole of tolld in half a minute, on this machine and nothing else.

Starts the simulated provider and the daemon in a throw-away folder, and walks the road that a
chat front end would: account, key, preview, send, stream; then runs a small account down to its
floor, so that the cut can be seen, and lets the books be audited.  KEEP=1 leaves it running.
"""
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.path.join(ROOT, os.environ.get("BUILD", "build"))
KEEP = os.environ.get("KEEP", "") not in ("", "0")
COLOUR = sys.stdout.isatty()

CONFIG = '''# The demo's configuration; etc/tolld.conf explains every key.
user          = ""
default_model = "story"
listen        = {{"127.0.0.1:{port}"}}
admin_listen  = "127.0.0.1:{admin}"
state_dir     = "{folder}/state"
runtime_dir   = "{folder}/run"
ledger {{ slice_tokens = 60 }}   # small, so that the running cost is seen often

provider "simulated" {{
    dialect  = "openai"
    base_url = "http://127.0.0.1:{sim}/v1"
    api_key  = ""
}}
model "story" {{
    provider = {{"simulated"}}
    upstream = "sim:tokens=120,rate=60,lang=en,exact=o200k_base,prompt=17"
    tokenizer = "o200k_base"
    price_prompt = 500  price_cached = 250  price_completion = 2000
    context = 128000  max_completion = 4096
}}
model "epic" {{
    provider = {{"simulated"}}
    upstream = "sim:tokens=4000,rate=300,lang=en,exact=o200k_base,prompt=12"
    tokenizer = "o200k_base"
    price_prompt = 500  price_cached = 250  price_completion = 2000
    context = 128000  max_completion = 4096
}}
'''


def paint(code, text):
    return f"\033[{code}m{text}\033[0m" if COLOUR else text


def say(text):
    print("\n" + paint("1;36", "» " + text), flush=True)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Demo:
    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="tolld-demo-")
        self.processes = []
        self.port, self.admin = free_port(), free_port()
        self.socket = self.folder + "/run/admin.sock"
        self.conf = self.folder + "/tolld.conf"

    def start(self):
        # In a session of their own if they are to stay, so that the terminal's ^C spares them.
        sim = subprocess.Popen([BUILD + "/tolld-sim", "-l", "127.0.0.1:0"], text=True,
                               stdout=subprocess.PIPE, start_new_session=KEEP)
        self.processes.append(sim)
        sim_port = int(sim.stdout.readline().rsplit(":", 1)[1])
        with open(self.conf, "w") as f:
            f.write(CONFIG.format(port=self.port, admin=self.admin, sim=sim_port,
                                  folder=self.folder))
        with open(self.folder + "/tolld.log", "w") as log:
            daemon = subprocess.Popen([BUILD + "/tolld", "-c", self.conf], stderr=log,
                                      start_new_session=KEEP)
        self.processes.append(daemon)
        end = time.monotonic() + 20
        while True:
            if daemon.poll() is not None or time.monotonic() > end:
                with open(self.folder + "/tolld.log") as log:
                    sys.exit("tolld did not start:\n" + log.read())
            try:
                c = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=2)
                c.request("GET", "/readyz")
                if c.getresponse().status == 200:
                    return
            except OSError:
                pass
            time.sleep(0.02)

    def ctl(self, *args, show=True):
        if show:
            print(paint("2", "$ tollctl " + " ".join(args)))
        p = subprocess.run([BUILD + "/tollctl", "-s", self.socket, *args], text=True,
                           capture_output=True)
        if show:
            print(p.stdout, end="", flush=True)
        if p.returncode != 0:
            sys.exit(f"tollctl {' '.join(args)}: {p.stdout}{p.stderr}")
        return p.stdout.strip()

    def key(self, account):
        print(paint("2", f"$ tollctl key create {account}"))
        key = json.loads(self.ctl("--json", "key", "create", account, show=False))["key"]
        print(key)
        return key

    def post(self, key, path, body):
        print(paint("2", f"$ curl -H 'Authorization: Bearer …' "
                         f"http://127.0.0.1:{self.port}{path} -d '{json.dumps(body)}'"))
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        c.request("POST", path, json.dumps(body), {"Authorization": "Bearer " + key})
        r = c.getresponse()
        text = r.read().decode()
        print(text if r.status == 200 else f"{r.status} {text}", flush=True)
        return r.status, json.loads(text)

    def stream(self, stream_id, quiet=False):
        """Print an answer as it comes, with the running cost; its last event."""
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        c.request("GET", f"/stream?id={stream_id}")
        r = c.getresponse()
        last, tokens = None, 0
        for line in r:
            if not line.startswith(b"data: "):
                continue
            last = json.loads(line[6:])
            if last["type"] == "token":
                tokens += 1
                if not quiet:
                    print(last["data"]["token"], end="", flush=True)
                elif tokens % 100 == 0:
                    print(".", end="", flush=True)
            elif last["type"] == "meter":
                d = last["data"]
                print(paint("33", f" [{d['completion_tokens']} tokens, {d['cost']} credits] "),
                      end="", flush=True)
        print()
        return last

    def balance(self, key):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        c.request("GET", "/balance", headers={"Authorization": "Bearer " + key})
        d = json.loads(c.getresponse().read())
        print(f"balance {paint('1', d['balance'])}   held {d['held']}   "
              f"available {d['available']} (overdraft {d['overdraft']})")
        return d

    def end(self, last):
        d = last["data"]
        if last["type"] != "done":
            sys.exit(f"the stream ended in an error: {d}")
        print(paint("1;32", f"finish_reason={d['finish_reason']} "
                            f"tokens={d['usage']['total_tokens']} cost={d['cost']} credits"))
        return d

    def answer(self, key):
        say("Preview: what would it cost?  (takes nothing)")
        body = {"model": "story", "message": "Tell me a short story about a toll bridge."}
        self.post(key, "/chat/preview", body)
        say("Send: may it start?  (reserves, on disk before it answers)")
        _, sent = self.post(key, "/chat/send", body)
        self.balance(key)
        say("Stream: token by token, metered while it runs")
        done = self.end(self.stream(sent["stream_id"]))
        self.balance(key)
        if done["finish_reason"] != "stop":
            sys.exit("the answer did not end well")

    def floor(self):
        say("A small account: 1 credit, no overdraft; the answer would cost 8")
        self.ctl("account", "create", "bob", "--balance", "1", "--overdraft", "0")
        key = self.key("bob")
        _, sent = self.post(key, "/chat/send", {"model": "epic", "message": "An epic, please."})
        done = self.end(self.stream(sent["stream_id"], quiet=True))
        if done["finish_reason"] != "credit":
            sys.exit("the stream was not cut")
        print("cut at the last token that could be paid")
        books = self.balance(key)
        if books["balance"] < 0 or books["held"] != 0:
            sys.exit("the floor did not hold")
        say("and the next one is refused before it starts")
        status, _ = self.post(key, "/chat/send",
                              {"model": "epic", "message": "One more, please, and a long one."})
        if status != 402:
            sys.exit("it was let in")

    def run(self):
        say("tolld, the simulated provider and an empty ledger")
        self.start()
        print(f"listening on 127.0.0.1:{self.port}, state in {self.folder}")
        say("An account with credit, and a key")
        self.ctl("account", "create", "alice", "--balance", "5")
        key = self.key("alice")
        self.answer(key)
        self.floor()
        say("The journal proves every balance")
        self.ctl("audit")
        if KEEP:
            self.left_running(key)

    def left_running(self, key):
        base = f"http://127.0.0.1:{self.port}"
        say("Left running (KEEP=1).  Try:")
        print(f"""  KEY={key}
  curl -s {base}/chat/preview -H "Authorization: Bearer $KEY" -d '{{"message":"Hello"}}'
  ID=$(curl -s {base}/chat/send -H "Authorization: Bearer $KEY" -d '{{"message":"Hello"}}' \\
      | sed 's/.*"stream_id":"\\([^"]*\\)".*/\\1/')
  curl -N "{base}/stream?id=$ID"
  curl -s {base}/balance -H "Authorization: Bearer $KEY"
  curl -s http://127.0.0.1:{self.admin}/metrics
  {BUILD}/tollctl -s {self.socket} account list
Stop it:
  kill {self.processes[1].pid} {self.processes[0].pid}; rm -r {self.folder}""")

    def close(self):
        for p in reversed(self.processes):
            if p.poll() is None:
                p.send_signal(signal.SIGTERM)
                p.wait(40)
        shutil.rmtree(self.folder, ignore_errors=True)


demo = Demo()
good = False
try:
    demo.run()
    good = True
finally:
    if not (KEEP and good):
        demo.close()
