"""Goal:   what an operator writes into the config is in force after a reload, for all that begins
        then, and for nothing that runs; a file with a fault changes nothing; nobody is cut.
Method: the file is rewritten beside running streams; `tollctl reload` and HUP; charges, the
        provider's view, metrics and the books say who went by which config.  Then the hostile
        ones: storms of HUP, processes killed meanwhile, files that are gone or a FIFO, another
        user who may read neither the config nor the keys.
"""
import base64
import hashlib
import hmac
import http.client
import json
import os
import pwd
import signal
import subprocess
import tempfile
import threading
import time
import unittest

from provider import Provider, good
from tolld import BUILD, PATIENCE, Tolld, cost, end_of, micro, wait_for

MODELS = {"slow": "sim:tokens=120,prompt=10,rate=40", "endless": "sim:tokens=40000,prompt=10,rate=40",
          "quick": "sim:tokens=20,prompt=10"}


def fds(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def rss_kb(pid):
    with open(f"/proc/{pid}/status") as f:
        return next(int(x.split()[1]) for x in f if x.startswith("VmRSS"))


def sanitized():
    with open(os.path.join(BUILD, "tolld"), "rb") as f:
        return b"libasan" in f.read()


class Counting(Provider):
    """Knows how many of its connections have ended."""
    ended = 0

    def _serve(self, c, number):
        super()._serve(c, number)
        self.ended += 1


class Reloading(unittest.TestCase):
    OPTIONS = {}

    def setUp(self):
        self.t = Tolld(**dict(dict(workers=2, models=MODELS, ledger="slice_tokens = 20"),
                              **self.OPTIONS)).start()
        self.addCleanup(self.t.close)
        self.key = self.t.account("alice", "1000")
        self.text = self.read()

    def tearDown(self):
        if self.t.process is not None:
            wait_for(lambda: self.t.ctl("hold", "list") == [], 20, "holds to be closed")
            self.t.audit()
            self.assertEqual(self.t.stop(), 0, self.t.log())
        log = self.t.log()
        for bad in ("AddressSanitizer", "runtime error:", "LeakSanitizer", "level=fatal"):
            self.assertNotIn(bad, log)

    def read(self):
        with open(self.t.config_file) as f:
            return f.read()

    def write(self, text):
        """As an editor does: a reload never sees half a file."""
        with open(self.t.config_file + ".new", "w") as f:
            f.write(text)
        os.rename(self.t.config_file + ".new", self.t.config_file)

    def change(self, *pairs):
        text = self.read()
        for old, new in pairs:
            self.assertIn(old, text)
            text = text.replace(old, new)
        self.write(text)

    def model(self, name, extra="", upstream="sim:tokens=20,prompt=10", provider="sim"):
        return f'''
model "{name}" {{ provider = {{"{provider}"}} upstream = "{upstream}"
    tokenizer = "o200k_base" price_prompt = 0.15 price_completion = 0.60 {extra} }}
'''

    def reload(self):
        out = self.t.ctl("reload")
        self.assertTrue(out["ok"])
        self.assertEqual(out["errors"], [])
        self.assertEqual(out["late"], [])
        return out

    def refused(self):
        p = self.t.ctl("reload", check=False)
        self.assertEqual(p.returncode, 1, p.stdout + p.stderr)
        out = json.loads(p.stdout)
        self.assertFalse(out["ok"])
        return out

    def on_current(self):
        """Do all processes run on the config that is in force?"""
        generation = self.t.metrics()["tolld_config_generation"]
        return all(w["config"] == generation for w in self.t.ctl("workers")
                   if w["state"] == "running")


class Reload(Reloading):
    def test_prices_are_for_new_streams_only(self):
        sent = self.t.send(self.key, "hi", "slow")
        stream = self.t.open(sent["stream_id"])
        events = stream.typed()
        self.assertEqual(next(events)["type"], "metadata")
        self.change(("price_completion = 0.60", "price_completion = 6000"))
        out = self.reload()
        self.assertEqual(sorted(out["changed"]),
                         [f'model "{m}": price_completion' for m in ("endless", "quick", "sim", "slow")])
        self.assertEqual(out["needs_restart"], [])
        self.assertEqual(out["generation"], 2)
        dear = end_of(self.t.run(self.key, "hi", "quick"))[1]
        self.assertEqual(micro(dear["cost"]), -(-(10 * 150000 + 20 * 6000000000) // 1000000))
        kind, end = end_of(list(events))
        stream.close()
        self.assertEqual((kind, micro(end["cost"])), ("done", cost(10, 120)))

    def test_prices_of_operators_stand(self):
        self.t.ctl("price", "set", "quick", "completion", "1")
        self.change(("price_completion = 0.60", "price_completion = 0.90"))
        self.reload()
        end = end_of(self.t.run(self.key, "hi", "quick"))[1]
        self.assertEqual(micro(end["cost"]), -(-(10 * 150000 + 20 * 1000000) // 1000000))
        self.t.ctl("price", "reset", "quick", "completion")
        end = end_of(self.t.run(self.key, "hi", "quick"))[1]
        self.assertEqual(micro(end["cost"]), -(-(10 * 150000 + 20 * 900000) // 1000000))

    def test_models_come_and_go(self):
        sent = self.t.send(self.key, "hi", "endless")
        stream = self.t.open(sent["stream_id"])
        events = stream.typed()
        next(events)
        gone = self.text.index('model "endless"')
        self.write(self.text[:gone] + self.text[self.text.index('model "quick"'):] +
                   self.model("young"))
        out = self.reload()
        self.assertEqual(sorted(out["changed"]), ['model "endless" is gone', 'model "young" is new'])
        names = [m["id"] for m in self.t.request("GET", "/v1/models", key=self.key)[2]["data"]]
        self.assertEqual(sorted(names), ["quick", "sim", "slow", "young"])
        status, _, body = self.t.request("POST", "/chat/send", {"model": "endless", "message": "x"},
                                         self.key)
        self.assertEqual((status, body["error"]["code"]), (404, "model_not_found"))
        self.assertEqual([s["model"] for s in self.t.ctl("stream", "list")], ["endless"])
        self.assertEqual(end_of(self.t.run(self.key, "hi", "young"))[0], "done")
        self.assertEqual(sorted(p["model"] for p in self.t.ctl("price", "list")),
                         ["quick", "sim", "slow", "young"])
        self.t.request("DELETE", "/stream?id=" + sent["stream_id"])
        kind, end = end_of(list(events))
        stream.close()
        self.assertEqual((kind, micro(end["cost"])),
                         ("done", cost(end["usage"]["prompt_tokens"],
                                       end["usage"]["completion_tokens"])))
        # What it charged is still told, and it comes back where it was.
        self.assertEqual(self.t.metric('tolld_streams_total{model="endless"'), 1)
        self.write(self.text)
        self.reload()
        self.assertEqual(end_of(self.t.run(self.key, "hi", "endless", max_tokens=5))[0], "done")
        self.assertEqual(self.t.metric('tolld_streams_total{model="endless"'), 2)

    def test_more_models_than_there_are_numbers(self):
        for round in range(3):
            self.write(self.text + "".join(self.model(f"m{round}-{i}") for i in range(100)))
            if round < 2:
                self.reload()
        out = self.refused()
        self.assertIn("more than 256 models", out["errors"][0])
        self.assertEqual(end_of(self.t.run(self.key, "hi", "m1-99"))[0], "done")
        self.write(self.text)
        self.reload()

    def test_a_provider_moves(self):
        here, there = Counting(), Counting()
        self.addCleanup(here.close)
        self.addCleanup(there.close)
        block = f'''
provider "p" {{ base_url = "http://127.0.0.1:%d/v1" api_key = "%s" retries = 0 }}
''' + self.model("m", provider="p")
        self.write(self.text + block % (here.port, "one"))
        self.reload()
        here.script = [good("old words"), lambda seen: slowly(good("still the old ones"))]
        self.assertEqual(end_of(self.t.run(self.key, "hi", "m"))[0], "done")
        began, go = threading.Event(), threading.Event()

        def slowly(answer):
            began.set()
            go.wait(PATIENCE)
            return answer
        out = []
        runner = threading.Thread(target=lambda: out.extend(self.t.run(self.key, "hi", "m")))
        runner.start()
        self.assertTrue(began.wait(PATIENCE))
        # Something else changes: the connection stays.
        self.write(self.text + block % (here.port, "one") + self.model("other"))
        self.reload()
        self.assertEqual(here.ended, 0)
        self.write(self.text + block % (there.port, "two"))
        self.assertEqual(self.reload()["changed"],
                         ['model "other" is gone', 'provider "p": base_url, api_key'])
        self.assertEqual(end_of(self.t.run(self.key, "hi", "m"))[0], "done")
        self.assertEqual([s.key for s in there.seen], ["two"])
        go.set()
        runner.join()
        self.assertEqual(end_of(out)[0], "done")
        self.assertEqual([s.key for s in here.seen], ["one", "one"])
        # Nobody will call it again: no connection waits for that.
        wait_for(lambda: here.ended == here.connections, 10, "connections to be closed")

    def test_limits_and_origins_are_in_force_at_once(self):
        def origin():
            return self.t.request("GET", "/balance", key=self.key,
                                  headers={"Origin": "https://b.example"})[1].get(
                                      "Access-Control-Allow-Origin")
        self.assertIsNone(origin())
        self.write(self.text + 'limits { requests_per_minute = 1 }\n'
                   'cors_origins = {"https://a.example", "https://b.example"}\n')
        out = self.reload()
        self.assertEqual(sorted(out["changed"]), ["cors_origins", "limits: requests_per_minute"])
        self.assertEqual(origin(), "https://b.example")
        asked = {"model": "quick", "messages": [{"role": "user", "content": "hi"}]}
        codes = [self.t.request("POST", "/v1/chat/completions", asked, self.key)[0]
                 for _ in range(3)]
        self.assertIn(429, codes)
        self.write(self.text)
        self.reload()
        self.assertIsNone(origin())
        self.assertEqual(end_of(self.t.run(self.key))[0], "done")

    def test_what_cannot_change_is_named(self):
        self.change((f'listen = {{"127.0.0.1:{self.t.port}"}}', 'listen = {"127.0.0.1:1"}'),
                    ("workers = 2", "workers = 3"), ('user = ""', 'user = "root"'),
                    ("ledger { ", "ledger { max_accounts = 77 max_holds = 4096 "),
                    (f'state_dir = "{self.t.folder}/state"', 'state_dir = "/nowhere"'),
                    ("timeouts { ", "timeouts { header = 7 "),
                    ("slice_tokens = 20", "slice_tokens = 30"),
                    ('user = "root"', 'user = "root"\nmax_body = 60000000'))
        out = self.reload()
        self.assertEqual(sorted(out["needs_restart"]),
                         ["listen", "max_accounts", "max_body", "max_holds", "state_dir", "user",
                          "workers"])
        self.assertEqual(sorted(out["changed"]), ["ledger: slice_tokens", "timeouts: header"])
        self.assertEqual(end_of(self.t.run(self.key))[0], "done")
        text = subprocess.run([os.path.join(BUILD, "tollctl"), "-s", self.t.socket, "reload"],
                              capture_output=True, text=True)
        self.assertEqual(text.returncode, 0)
        self.assertIn("nothing has changed\n", text.stdout)
        self.assertIn("needs a restart listen\n", text.stdout)
        self.assertIn("need_restart=", self.t.log())

    def test_a_file_with_faults_is_refused_whole(self):
        before = self.t.metrics()
        self.assertEqual(before["tolld_config_last_reload_successful"], 1)
        self.write(self.model("young") + "nonsense = 1\n" +
                   self.text.replace("price_prompt = 0.15", "price_prompt = -3", 1))
        out = self.refused()
        lines = self.read().splitlines()
        self.assertEqual(len(out["errors"]), 2)
        for error, key in zip(out["errors"], ("nonsense", "price_prompt")):
            file, line, rest = error.split(":", 2)
            self.assertEqual(file, self.t.config_file)
            self.assertIn(key, lines[int(line) - 1])
            self.assertTrue(rest.startswith(f" {key}: "), error)
        after = self.t.metrics()
        self.assertEqual(after["tolld_config_last_reload_successful"], 0)
        for name in ("tolld_config_generation",
                     "tolld_config_last_reload_success_timestamp_seconds"):
            self.assertEqual(after[name], before[name])
        self.assertEqual(self.t.request("POST", "/chat/send", {"model": "young", "message": "x"},
                                        self.key)[0], 404)
        self.assertEqual(micro(end_of(self.t.run(self.key, "hi", "quick"))[1]["cost"]),
                         cost(10, 20))
        # The same by a signal: the log has it.
        already = self.t.log().count("config refused")
        self.t.process.send_signal(signal.SIGHUP)
        wait_for(lambda: self.t.log().count("config refused") > already, 10, "the refusal")
        self.write(self.text)
        self.reload()
        self.assertEqual(self.t.metrics()["tolld_config_last_reload_successful"], 1)

    def test_files_that_are_none(self):
        kept = self.t.config_file + ".kept"
        os.rename(self.t.config_file, kept)
        self.assertIn("cannot be read", self.refused()["errors"][0])
        os.mkfifo(self.t.config_file)
        self.assertIn("no model would be left", self.refused()["errors"][0])
        os.unlink(self.t.config_file)
        os.mkdir(self.t.config_file)
        self.assertIn("cannot be read", self.refused()["errors"][0])
        os.rmdir(self.t.config_file)
        with open(self.t.config_file, "wb") as f:
            f.write(b"\xff\0" * 1000)
        self.refused()
        with open(self.t.config_file, "w") as f:
            f.write("# " + "x" * (1 << 20))
        self.assertIn("larger than", self.refused()["errors"][0])
        os.rename(kept, self.t.config_file)
        self.assertEqual(self.reload()["changed"], [])
        self.assertEqual(end_of(self.t.run(self.key))[0], "done")

    def test_the_log(self):
        self.write(self.text + 'log_level = "debug"\n')
        self.assertEqual(self.reload()["changed"], ["log_level"])
        self.t.run(self.key)
        wait_for(lambda: "level=debug proc=worker" in self.t.log(), 10, "a worker's debug line")
        self.write(self.text + 'log_format = "json"\n')
        self.reload()
        at = len(self.t.log())
        self.t.run(self.key)
        line = wait_for(lambda: next((x for x in self.t.log()[at:].splitlines()
                                      if "stream ended" in x), None), 10, "a line")
        self.assertEqual(json.loads(line)["level"], "info")

    def test_a_successor_has_the_newest(self):
        self.write(self.text + self.model("young"))
        self.reload()
        for name in ("tolld: worker 1", "tolld: worker 2", "tolld: keeper", "tolld: admin"):
            pid = self.t.children()[name]
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda: self.t.children().get(name, pid) != pid, 10, name)
        wait_for(self.t.ready, 20, "the daemon to be ready")
        for _ in range(4):
            self.assertEqual(end_of(self.t.run(self.key, "hi", "young"))[0], "done")
        wait_for(self.on_current, 10, "all to say so")
        out = self.reload()
        self.assertEqual(out["changed"], [])

    def test_after_a_crash_numbers_are_the_same(self):
        """A hold that the reaper finishes is counted for its model, whatever the file says now."""
        sent = self.t.send(self.key, "hi", "slow")
        stream = self.t.open(sent["stream_id"])
        next(stream.typed())
        self.t.kill_all()
        stream.close()
        self.write(self.model("first") + self.text)
        self.t.start()
        wait_for(lambda: self.t.metric('tolld_streams_total{model="slow"') == 1, 10, "the count")
        self.assertEqual(self.t.metric('tolld_streams_total{model="first"'), 0)

    def test_a_web_token_by_a_new_secret(self):
        def token(secret):
            def part(b):
                return base64.urlsafe_b64encode(b).rstrip(b"=")
            text = part(b'{"alg":"HS256","typ":"JWT"}') + b"." + part(json.dumps(
                {"sub": "alice", "aud": "here", "exp": int(time.time()) + 600}).encode())
            return (text + b"." + part(hmac.new(secret, text, hashlib.sha256).digest())).decode()
        one, two = b"1" * 40, b"2" * 40
        path = os.path.join(self.t.folder, "jwt.key")
        with open(path, "wb") as f:
            f.write(one)
        self.write(self.text + f'jwt "mine" {{ algorithm = "HS256" key_file = "{path}" '
                               'audience = "here" }\n')
        self.assertEqual(self.reload()["changed"], ['jwt "mine" is new'])
        self.assertEqual(self.t.request("GET", "/balance", key=token(one))[0], 200)
        self.assertEqual(self.t.request("GET", "/balance", key=token(two))[0], 401)
        with open(path, "wb") as f:
            f.write(two)
        self.assertEqual(self.reload()["changed"], ['jwt "mine": key_file'])
        self.assertEqual(self.t.request("GET", "/balance", key=token(one))[0], 401)
        self.assertEqual(self.t.request("GET", "/balance", key=token(two))[0], 200)

    def test_a_new_tokenizer(self):
        text = "antidisestablishmentarianism naïve 12345 über"
        self.write(self.text + self.model("young").replace("o200k_base", "cl100k_base"))
        self.reload()
        want = int(subprocess.run([os.path.join(BUILD, "tollctl"), "tokens", "--tokenizer",
                                   "cl100k_base"], input=text, capture_output=True,
                                  text=True, check=True).stdout.split()[0])
        other = self.t.request("POST", "/chat/preview", {"model": "young", "message": "a"},
                               self.key)[2]["prompt_tokens"]
        got = self.t.request("POST", "/chat/preview", {"model": "young", "message": text},
                             self.key)[2]["prompt_tokens"]
        self.assertEqual(got - other, want - 1)


class Storm(Reloading):
    OPTIONS = {"workers": 2}

    def variants(self):
        """Configs that differ in models, prices, providers and limits; a bad one among them."""
        sim = f"http://127.0.0.1:{self.t.sim.port}/v1"
        out = []
        for i in range(6):
            out.append(self.text.replace("price_completion = 0.60", f"price_completion = 0.6{i}") +
                       f'provider "p{i % 3}" {{ base_url = "{sim}" api_key = "k{i}" }}\n' +
                       self.model(f"v{i}", provider=f"p{i % 3}") +
                       f"limits {{ concurrent_streams = {1000 + i} }}\n")
        out.append(self.text + "not a config")
        return out

    def storm(self, seconds, beside):
        """HUPs with another file each, streams all the time, and what `beside` does."""
        stop, bad, done = threading.Event(), [], []

        def client():
            while not stop.is_set():
                try:
                    kind, end = end_of(self.t.run(self.key, "hi", "slow"))
                    if kind == "done" and end["usage"]["completion_tokens"] == 120:
                        done.append(micro(end["cost"]))
                    else:
                        bad.append((kind, end))
                except (OSError, http.client.HTTPException, AssertionError, IndexError) as e:
                    bad.append(repr(e))
        threads = [threading.Thread(target=client) for _ in range(20)]
        for t in threads:
            t.start()
        end = time.monotonic() + seconds
        files, hups = self.variants(), 0
        while time.monotonic() < end or hups <= 100:
            self.write(files[hups % len(files)])
            self.t.process.send_signal(signal.SIGHUP)
            hups += 1
            if hups % 10 == 0:
                beside(hups)
            time.sleep(0.003)
        stop.set()
        for t in threads:
            t.join()
        return bad, done, hups

    def test_hups_without_end(self):
        self.t.run(self.key)
        bad, done, hups = self.storm(4, lambda n: None)
        self.assertEqual(bad, [])
        self.assertGreater(len(done), 10)
        possible = {-(-(10 * 150000 + 120 * p) // 1000000) for p in range(600000, 660000, 10000)}
        self.assertLessEqual(set(done), possible)
        self.assertGreater(self.t.log().count("config reloaded"), 5)
        # Nothing piles up: descriptors, and memory but for what malloc keeps.
        self.write(self.text)
        self.reload()
        wait_for(self.on_current, 10, "all to have taken the config")
        pids = [self.t.process.pid] + list(self.t.children().values())
        before = [(fds(p), rss_kb(p)) for p in pids]
        for i in range(30):
            self.write(self.variants()[i % 6])
            self.reload()
        self.write(self.text)
        self.reload()
        for pid, (n, kb) in zip(pids, before):
            self.assertLessEqual(fds(pid), n + 4)
            if not sanitized():  # it keeps what was freed
                self.assertLess(rss_kb(pid), kb + 8192)

    def test_the_last_one_counts(self):
        """A change that comes while another one is put into force is not forgotten."""
        for i in range(20):
            self.write(self.text + f"limits {{ concurrent_streams = {1000 + i} }}\n")
            self.t.process.send_signal(signal.SIGHUP)
            time.sleep(0.001 * (i % 7))
        self.write(self.text + self.model("last"))
        self.t.process.send_signal(signal.SIGHUP)
        wait_for(lambda: 'model \\"last\\" is new' in self.t.log(), 5, "the last change")

    def test_processes_die_meanwhile(self):
        victims = ["tolld: keeper", "tolld: admin", "tolld: keeper", "tolld: worker 2"]

        def kill(n):
            if n % 50 == 0:
                pid = self.t.children().get(victims[n // 50 % len(victims)])
                if pid:
                    os.kill(pid, signal.SIGKILL)
        self.storm(4, kill)
        wait_for(self.t.ready, 20, "the daemon to be ready")
        self.write(self.text + self.model("young"))
        wait_for(lambda: self.t.ctl("reload", check=False).returncode == 0, 20, "a reload")
        wait_for(self.on_current, 20, "all to have taken the config")
        self.assertEqual(end_of(self.t.run(self.key, "hi", "young"))[0], "done")

    def test_hup_during_a_drain(self):
        sent = self.t.send(self.key, "hi", "slow")
        out = []
        stream = self.t.open(sent["stream_id"])
        reader = threading.Thread(target=lambda: out.extend(stream.typed()))
        reader.start()
        wait_for(lambda: out, 10, "the stream")
        self.write(self.text + self.model("young"))
        for _ in range(5):
            self.t.process.send_signal(signal.SIGHUP)
        self.t.process.send_signal(signal.SIGTERM)
        for _ in range(50):
            self.t.process.send_signal(signal.SIGHUP)
        reader.join()
        self.assertEqual(end_of(out)[0], "done")
        self.assertEqual(self.t.process.wait(PATIENCE), 0, self.t.log())
        self.assertIn("not while the daemon ends", self.t.log())
        self.t.process = None


@unittest.skipUnless(os.geteuid() == 0, "needs to change users")
class Dropped(Reloading):
    """Children are another user, who may read neither the config nor the keys."""

    def setUp(self):
        folder = tempfile.mkdtemp(prefix="tolld-test-")
        self.addCleanup(subprocess.run, ["rm", "-rf", folder])
        os.chmod(folder, 0o755)
        self.provider = Counting()
        self.addCleanup(self.provider.close)
        self.keys = os.path.join(folder, "key")
        self.rotate("first-key")
        self.OPTIONS = dict(folder=folder, config=f'''
provider "p" {{ base_url = "http://127.0.0.1:{self.provider.port}/v1"
    api_key_file = "{self.keys}" }}
''' + self.model("m", provider="p"))
        original = Tolld.write_config

        def as_nobody(t):
            original(t)
            with open(t.config_file) as f:
                text = f.read()
            with open(t.config_file, "w") as f:
                f.write(text.replace('user = ""', 'user = "nobody"'))
            os.chmod(t.config_file, 0o600)
        Tolld.write_config = as_nobody
        try:
            super().setUp()
        finally:
            Tolld.write_config = original

    def rotate(self, key):
        with open(self.keys + ".new", "w") as f:
            os.fchmod(f.fileno(), 0o600)
            f.write(key + "\n")
        os.rename(self.keys + ".new", self.keys)

    def write(self, text):
        super().write(text)
        os.chmod(self.t.config_file, 0o600)

    def test_a_key_is_rotated(self):
        worker = self.t.children()["tolld: worker 1"]
        self.assertEqual(os.stat(f"/proc/{worker}/fd").st_uid in (0, pwd.getpwnam("nobody").pw_uid),
                         True)
        self.t.run(self.key, "hi", "m")
        self.rotate("second-key")
        self.assertEqual(self.reload()["changed"], ['provider "p": api_key_file'])
        for _ in range(4):
            self.assertEqual(end_of(self.t.run(self.key, "hi", "m"))[0], "done")
        self.assertEqual([s.key for s in self.provider.seen], ["first-key"] + ["second-key"] * 4)
        # A tokenizer that was not open when they were forked; and one that has no file.
        self.write(self.text + self.model("young", provider="p").replace("o200k_base",
                                                                         "cl100k_base"))
        self.reload()
        self.assertEqual(end_of(self.t.run(self.key, "hi", "young"))[0], "done")
        os.unlink(self.keys)
        self.assertIn("api_key_file", self.refused()["errors"][0])
        self.assertEqual(end_of(self.t.run(self.key, "hi", "m"))[0], "done")
        self.assertNotIn("-key", "".join(x for x in self.t.log().splitlines() if "cannot" not in x))
        self.rotate("second-key")
        self.write(self.text)
        self.reload()


class Drain(Reloading):
    def test_keep_and_resume(self):
        sent = self.t.send(self.key, "hi", "endless")
        stream = self.t.open(sent["stream_id"])
        events = stream.typed()
        next(events)
        waiting = self.t.send(self.key, "hi", "quick")
        wait_for(lambda: sum(w["streams"] for w in self.t.ctl("workers")) == 2, 10, "the counts")
        out = self.t.ctl("drain", "--keep")
        self.assertEqual((out["draining"], out["streams"]), (True, 2))
        wait_for(lambda: self.t.get_admin("/readyz")[0] == 503, 10, "readyz")
        status, headers, body = self.t.request("POST", "/chat/send", {"message": "x"}, self.key)
        self.assertEqual((status, body["error"]["code"]), (503, "draining"))
        self.assertGreaterEqual(int(headers["Retry-After"]), 1)
        status, _, body = self.t.request(
            "POST", "/v1/chat/completions",
            {"model": "quick", "messages": [{"role": "user", "content": "x"}]}, self.key)
        self.assertEqual(status, 503)
        # What was taken is run; what costs nothing is answered; a reload is one of an operator's.
        late = self.t.open(waiting["stream_id"])
        self.assertEqual(end_of(list(late.typed()))[0], "done")
        late.close()
        self.assertEqual(self.t.request("GET", "/balance", key=self.key)[0], 200)
        self.write(self.text + self.model("young"))
        self.reload()
        self.t.request("DELETE", "/stream?id=" + sent["stream_id"])
        self.assertEqual(end_of(list(events))[0], "done")
        stream.close()
        self.assertEqual(self.t.metrics()["tolld_draining"], 1)
        self.assertEqual(self.t.ctl("drain", "--resume")["draining"], False)
        wait_for(self.t.ready, 10, "readyz")
        self.assertEqual(end_of(self.t.run(self.key, "hi", "young"))[0], "done")
        self.assertEqual(self.t.ctl("drain", "--keep", "--resume", check=False).returncode, 1)

    def test_drain_ends(self):
        sent = self.t.send(self.key, "hi", "slow")
        stream = self.t.open(sent["stream_id"])
        events = stream.typed()
        next(events)
        out = self.t.ctl("drain")
        self.assertTrue(out["draining"])
        self.assertEqual(out["seconds"], 30)
        self.assertEqual(end_of(list(events))[0], "done")
        stream.close()
        self.assertEqual(self.t.process.wait(PATIENCE), 0)
        self.t.process = None
        self.t.start()


class Workers(Reloading):
    def test_what_is_told_of_them(self):
        os.kill(self.t.children()["tolld: worker 2"], signal.SIGKILL)
        wait_for(lambda: [w["restarts"] for w in self.t.ctl("workers")] == [0, 1], 10, "a restart")
        sent = self.t.send(self.key, "hi", "endless")["stream_id"]
        stream = self.t.open(sent)
        events = stream.typed()
        next(events)

        def seen():
            workers = self.t.ctl("workers")
            return sum(w["streams"] for w in workers) == 1 and \
                sum(w["connections"] for w in workers) == 1 and workers
        for w in wait_for(seen, 10, "one stream on one connection"):
            self.assertEqual(w["state"], "running")
            self.assertEqual(w["config"], 1)
            self.assertLess(w["heartbeat_ms"], 30000)
            self.assertLess(w["up"], 600)
            self.assertRegex(w["version"], r"^\d+\.\d+\.\d+")
        self.t.request("DELETE", "/stream?id=" + sent)
        list(events)
        stream.close()
        text = subprocess.run([os.path.join(BUILD, "tollctl"), "-s", self.t.socket, "workers"],
                              capture_output=True, text=True).stdout.splitlines()
        self.assertEqual(text[0].split(), ["WORKER", "PID", "STATE", "UP_S", "STREAMS",
                                           "CONNECTIONS", "HOLDS", "RESTARTS", "HEARTBEAT_MS",
                                           "CONFIG", "VERSION"])


if __name__ == "__main__":
    unittest.main()
