"""The harness of the end-to-end tests: a real daemon, a simulated provider, real clients.

Everything lives in one temporary folder and on free loopback ports; only processes that were
started here are ended, by their ids.  Nothing waits for a fixed time: wait_for() polls a
condition with a bound.  Python's standard library only.
"""
import base64
import http.client
import errno
import json
import random
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("BUILD", os.path.join(ROOT, "build"))
if not os.path.isabs(BUILD):
    BUILD = os.path.join(ROOT, BUILD)
# Sanitizers and valgrind make everything slower; bounds stretch, conditions stay.
SLOW = float(os.environ.get("TOLLD_TEST_SLOW", "1"))
PATIENCE = 60  # seconds, for what comes at once on a machine that has nothing else to do

PRICE_PROMPT = 150000        # micro-credits per million tokens, as in the config below
PRICE_CACHED = 75000
PRICE_COMPLETION = 600000


def wait_for(condition, seconds=10.0, what="condition"):
    """Poll until condition() is true; its value.  Fails the test after the bound, which is no
    proof of anything: on a machine with other work half a minute is soon over."""
    seconds = max(seconds, PATIENCE)
    end = time.monotonic() + seconds * SLOW
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds * SLOW:.0f} s for {what}")
        time.sleep(0.01)


def cost(prompt, completion, cached=0):
    """What the contract says that tokens cost, in micro-credits."""
    total = prompt * PRICE_PROMPT + cached * PRICE_CACHED + completion * PRICE_COMPLETION
    return -(-total // 1000000)


def micro(credits):
    """Credits as JSON gave them (a Decimal-exact float text) in micro-credits."""
    return round(float(credits) * 1000000)


def free_port():
    """Below those that the kernel gives to connections, or one of these could have it by the time
    that it is listened on; and for this test alone, also while its daemon is down."""
    with open("/proc/sys/net/ipv4/ip_local_port_range") as f:
        end = int(f.read().split()[0])
    while True:
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", random.randrange(5000, end) if end > 10000 else 0))
                port = s.getsockname()[1]
                # A name that the kernel forgets with the process that has it.
                name = socket.socket(socket.AF_UNIX)
                name.bind(f"\0tolld-test-port-{port}")
                name.detach()  # and so it stays open
                return port
            except OSError as e:
                if e.errno != errno.EADDRINUSE:
                    raise


class Sim:
    """tests/sim: the simulated provider."""

    def __init__(self, folder):
        self.log = os.path.join(folder, "sim.log")
        self.process = subprocess.Popen(
            [os.path.join(BUILD, "tolld-sim"), "-l", "127.0.0.1:0", "--log", self.log],
            stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        self.port = int(line.rsplit(":", 1)[1])

    def requests(self):
        """What it logged: one object per request that ended."""
        if not os.path.exists(self.log):
            return []
        with open(self.log) as f:
            return [json.loads(x) for x in f if x.endswith("\n")]

    def stats(self):
        """Its counters, as they are now."""
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE * SLOW)
        try:
            c.request("GET", "/sim/stats")
            return json.loads(c.getresponse().read())
        finally:
            c.close()

    def stop(self):
        self.process.terminate()
        self.process.wait(PATIENCE)
        self.process.stdout.close()


class Stream:
    """A server-sent event stream being read, over its own connection."""

    def __init__(self, port, path, headers=None, method="GET", body=None, timeout=PATIENCE):
        self.conn = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout * SLOW)
        self.conn.request(method, path, body=body, headers=headers or {})
        self.response = self.conn.getresponse()
        self.status = self.response.status
        self.buffer = b""
        self.last_id = None

    def events(self):
        """(id, data) of every event, to the end of the body; comments are skipped."""
        event_id, data = None, []
        while True:
            line = self.response.readline()
            if not line:
                return
            line = line.rstrip(b"\r\n")
            if not line:
                if data:
                    if event_id is not None:
                        self.last_id = event_id
                    yield event_id, "\n".join(data)
                event_id, data = None, []
            elif line.startswith(b"id:"):
                event_id = line[3:].strip().decode()
            elif line.startswith(b"data:"):
                data.append(line[5:].lstrip(b" ").decode())

    def typed(self):
        """The typed dialect's events as objects."""
        for _, data in self.events():
            yield json.loads(data)

    def close(self):
        # shutdown() as well: a response object may keep the descriptor open.
        try:
            self.conn.sock.shutdown(socket.SHUT_RDWR)
        except (OSError, AttributeError):
            pass
        self.response.close()
        self.conn.close()


class Tolld:
    """One daemon with its simulated provider."""

    def __init__(self, workers=1, config="", ledger="", timeouts="", models=None, sim=True,
                 folder=None, env=None, wrapper=(), provider="retries = 0 breaker_failures = 0"):
        self.folder = folder or tempfile.mkdtemp(prefix="tolld-test-")
        self.own_folder = folder is None
        self.workers = workers
        self.sim = Sim(self.folder) if sim else None
        self.port = free_port()
        self.admin_port = free_port()
        self.socket = os.path.join(self.folder, "run", "admin.sock")
        self.config_file = os.path.join(self.folder, "tolld.conf")
        self.log_file = os.path.join(self.folder, "tolld.log")
        self.models = models or {}
        self.extra = (config, ledger, timeouts)
        # Keys of provider "sim".  By itself it is asked once, so that a test knows what it asked.
        self.provider = provider
        self.env = dict(os.environ, **(env or {}))
        self.wrapper = list(wrapper)  # of the daemon: valgrind, strace
        self.program = os.path.join(BUILD, "tolld")
        self.pass_fds = ()  # descriptors that the daemon inherits, as they are numbered here
        self.process = None
        self.hang = 60  # tests stop processes for longer than is right
        self.write_config()

    def write_config(self):
        config, ledger, timeouts = self.extra
        models = dict({"sim": "sim"}, **self.models)
        text = f'''
user = ""
default_model = "sim"
workers = {self.workers}
listen = {{"127.0.0.1:{self.port}"}}
admin_listen = "127.0.0.1:{self.admin_port}"
state_dir = "{self.folder}/state"
runtime_dir = "{self.folder}/run"
hang_timeout = {self.hang}
{config}
ledger {{ {ledger} }}
timeouts {{ {timeouts} }}
provider "sim" {{
    dialect = "openai"
    base_url = "http://127.0.0.1:{self.sim.port if self.sim else 1}/v1"
    api_key = "provider-secret-key"
    {self.provider}
}}
provider "nobody" {{
    retries = 0
    dialect = "openai"
    base_url = "http://127.0.0.1:1/v1"
    api_key = ""
}}
'''
        for name, upstream in models.items():
            extra = ""
            provider = "sim"
            if isinstance(upstream, tuple):
                upstream, extra = upstream
            if "tokenizer" not in extra:
                extra += '\n    tokenizer = "o200k_base"'
            if "max_completion" not in extra:
                extra += "\n    max_completion = 100000"
            if "context" not in extra:
                extra += "\n    context = 1000000"
            if upstream == "nobody":
                provider = "nobody"
            text += f'''
model "{name}" {{
    provider = {{"{provider}"}}
    upstream = "{upstream}"
    price_prompt = 0.15
    price_cached = 0.075
    price_completion = 0.60
    {extra}
}}
'''
        with open(self.config_file, "w") as f:
            f.write(text)

    def start(self, wait=True):
        with open(self.log_file, "a") as log:
            self.process = subprocess.Popen(
                self.wrapper + [self.program, "-c", self.config_file],
                stderr=log, stdout=log, env=self.env, pass_fds=self.pass_fds)
        if wait:
            wait_for(self.ready, 20, "the daemon to be ready")
            # Who was forked a moment ago has its parent's title.
            wait_for(lambda: "tolld: master" not in self.children(), 10, "titles")
        return self

    def ready(self):
        if self.process.poll() is not None:
            raise AssertionError("tolld exited:\n" + self.log())
        try:
            return self.get_admin("/readyz")[0] == 200
        except OSError:
            return False

    def log(self):
        with open(self.log_file) as f:
            return f.read()

    def get_admin(self, path):
        c = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=PATIENCE * SLOW)
        try:
            c.request("GET", path)
            r = c.getresponse()
            return r.status, r.read().decode()
        finally:
            c.close()

    def metrics(self):
        """{'name{labels}': value}"""
        out = {}
        for line in self.get_admin("/metrics")[1].splitlines():
            if line and not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                out[name] = float(value)
        return out

    def metric(self, prefix):
        return sum(v for k, v in self.metrics().items() if k.startswith(prefix))

    def ctl(self, *args, check=True):
        """tollctl --json; its parsed output."""
        p = subprocess.run(
            [os.path.join(BUILD, "tollctl"), "-s", self.socket, "--json", *map(str, args)],
            capture_output=True, text=True, timeout=2 * PATIENCE * SLOW)
        if check and p.returncode != 0:
            raise AssertionError(f"tollctl {args}: exit {p.returncode}\n{p.stdout}{p.stderr}")
        if not check:
            return p
        return json.loads(p.stdout)

    def account(self, name, balance=None, overdraft=None):
        """Make an account; a key for it."""
        args = ["account", "create", name]
        if balance is not None:
            args += ["--balance", balance]
        if overdraft is not None:
            args += ["--overdraft", overdraft]
        self.ctl(*args)
        return self.ctl("key", "create", name)["key"]

    def request(self, method, path, body=None, key=None, headers=None):
        """One request: (status, headers, parsed body)."""
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE * SLOW)
        headers = dict(headers or {})
        if key:
            headers["Authorization"] = "Bearer " + key
        if body is not None and not isinstance(body, (str, bytes)):
            body = json.dumps(body)
            headers.setdefault("Content-Type", "application/json")
        try:
            c.request(method, path, body=body, headers=headers)
            r = c.getresponse()
            data = r.read()
            try:
                data = json.loads(data)
            except ValueError:
                pass
            return r.status, r.headers, data
        finally:
            c.close()

    def send(self, key, message="hello there", model="sim", **fields):
        status, _, body = self.request(
            "POST", "/chat/send", dict(fields, model=model, message=message), key)
        if status != 200:
            raise AssertionError(f"send: {status} {body}")
        return body

    def open(self, stream_id, fmt=None, last_id=None, path="/stream"):
        headers = {"Last-Event-ID": last_id} if last_id else {}
        return Stream(self.port, f"{path}?id={stream_id}" + (f"&format={fmt}" if fmt else ""),
                      headers)

    def run(self, key, message="hello there", model="sim", **fields):
        """Send and stream to the end: the typed events."""
        sent = self.send(key, message, model, **fields)
        s = self.open(sent["stream_id"])
        events = list(s.typed())
        s.close()
        return events

    def show(self, name):
        return self.ctl("account", "show", name)

    def audit(self):
        p = self.ctl("audit", check=False)
        out = json.loads(p.stdout)
        if p.returncode != 0 or not out["ok"]:
            raise AssertionError(f"audit: {out}")
        return out

    def children(self):
        """{title: pid} of the daemon's processes."""
        out = {}
        for pid in os.listdir("/proc"):
            if not pid.isdigit():
                continue
            try:
                with open(f"/proc/{pid}/stat") as f:
                    stat = f.read().rsplit(")", 1)[1].split()
                if int(stat[1]) != self.process.pid or stat[0] == "Z":
                    continue
                with open(f"/proc/{pid}/cmdline", "rb") as f:
                    out[f.read().split(b"\0")[0].decode().strip()] = int(pid)
            except (OSError, ValueError):
                continue
        return out

    def stop(self, sig=signal.SIGTERM, seconds=PATIENCE):
        if self.process is None:
            return None
        if self.process.poll() is None:
            self.process.send_signal(sig)
        code = self.process.wait(seconds * SLOW)
        self.process = None
        return code

    def kill_all(self):
        """SIGKILL every process of the daemon at once."""
        pids = list(self.children().values()) + [self.process.pid]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        self.process.wait(PATIENCE)
        for pid in pids[:-1]:
            wait_for(lambda: not os.path.exists(f"/proc/{pid}"), 10, f"{pid} to be gone")
        self.process = None

    def close(self):
        try:
            if self.process is not None and self.process.poll() is None:
                self.process.kill()
                self.process.wait(PATIENCE)
        finally:
            if self.sim:
                self.sim.stop()
            if self.own_folder:
                shutil.rmtree(self.folder, ignore_errors=True)


class Case(unittest.TestCase):
    """A test with one daemon per class; what a test starts beside it is closed by it."""

    OPTIONS = {}
    # What no log may hold.
    BAD = ("AddressSanitizer", "runtime error:", "LeakSanitizer", "level=fatal", "signal=SIGSYS")

    @classmethod
    def setUpClass(cls):
        cls.t = Tolld(**cls.OPTIONS)
        try:
            cls.t.start()
        except BaseException:
            print(cls.t.log())
            cls.t.close()
            raise

    @classmethod
    def tearDownClass(cls):
        try:
            if cls.t.process is not None:
                code = cls.t.stop()
                assert code == 0, f"exit {code}\n{cls.t.log()}"
        finally:
            log = cls.t.log()
            cls.t.close()
        for bad in cls.BAD:
            assert bad not in log, log

    def invariants(self):
        """What must hold at rest: nothing held, books right."""
        wait_for(lambda: self.t.ctl("hold", "list") == [], 10, "holds to be closed")
        self.t.audit()


def rests(value, seconds=2, what="it to rest"):
    """What value() has come to, above 0, when it has been the same for so long."""
    last = [None, 0.0]

    def rested():
        now = value()
        if now != last[0]:
            last[:] = [now, time.monotonic()]
        return now and time.monotonic() - last[1] > seconds and now
    return wait_for(rested, 60, what)


def worker_of(stream_id):
    """The number of the worker that has a stream, as it is in the process's title."""
    return base64.urlsafe_b64decode(stream_id + "====")[16] - 2  # process slots: workers from 3


def within_a_day(seconds=120):
    """Days and months end at midnight in UTC: not in the midst of what needs one day."""
    wait_for(lambda: time.time() % 86400 < 86400 - seconds, seconds + 10, "the next day")


def end_of(events):
    """The last event's type and data."""
    return events[-1]["type"], events[-1]["data"]


def text_of(events):
    return "".join(e["data"]["token"] for e in events if e["type"] == "token")
