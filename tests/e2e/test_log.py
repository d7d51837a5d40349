"""Goal:   the log is where, and of what, the operator says; it holds no secret and no text unless
        told so, and nobody from outside can write a line of it.
Method: real daemons with each kind of log; hostile values; a log file that is renamed under load; a
        stand-in for the journal's socket in a mount namespace.
"""
import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import unittest

from tolld import BUILD, PATIENCE, Case, Tolld, end_of, wait_for

SECRET = "the secret of the mill"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
# A line begins with its time and nothing else.
HEAD = re.compile(r"time=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z level=(debug|info|warn|error) proc=[a-z0-9-]+ msg=")


class Lines(Case):
    OPTIONS = {"config": 'log_levels = {"worker=debug", "master=warn", "attempt=debug"}'}

    def test_trace_context(self):
        key = self.t.account("alice", 10)
        for parent, trace in ((f"00-{TRACE}-00f067aa0ba902b7-01", TRACE),
                              (f"00-{'0' * 32}-00f067aa0ba902b7-01", None),
                              (f"00-{TRACE}-{'0' * 16}-01", None),
                              (f"ff-{TRACE}-00f067aa0ba902b7-01", None),
                              ("00-xyz", None)):
            with self.subTest(parent):
                status, headers, sent = self.t.request(
                    "POST", "/chat/send", {"message": "hello"}, key, {"traceparent": parent})
                self.assertEqual(status, 200)
                self.assertEqual(end_of(list(self.t.open(sent["stream_id"]).typed()))[0], "done")
                line = wait_for(lambda: [x for x in self.t.log().splitlines()
                                         if "stream ended" in x and sent["message_id"] in x], 10,
                                "its line")
                self.assertEqual(len(line), 1)
                found = re.search(r" trace_id=(\S+)", line[0])
                self.assertEqual(found and found.group(1), trace)

    def test_levels(self):
        """A module's own: debug lines of the worker's, no info lines of the master's."""
        wait_for(lambda: 'level=debug proc=worker-1 msg="worker runs" module=worker\n'
                 in self.t.log(), 10, "a line of the worker's")
        self.assertNotIn("msg=ready", self.t.log())
        self.assertIn("books loaded", self.t.log())

        self.assertEqual(end_of(self.t.run(self.t.account("levels", 10)))[0], "done")
        self.assertRegex(self.t.log(), r'level=debug proc=worker-1 msg=call request=\S+ provider=sim '
                         r'attempt=1 module=attempt\n')

    def test_injection(self):
        """Whatever comes from outside stays within its value."""
        key = self.t.account("bob", 10)
        forged = 'x\ntime=2026-01-01T00:00:00.000Z level=error proc=master msg=forged'
        self.t.request("POST", "/chat/send", {"message": forged, "model": forged}, key)
        self.t.request("GET", "/balance", key=key, headers={"x-request-id": 'a"\\ msg=forged'})
        self.t.request("POST", "/v1/chat/completions", {"model": "sim", "messages": [
            {"role": "user", "content": forged}], "user": forged}, key)
        p = self.t.ctl("topup", "bob", "1", "--ref", forged, check=False)
        self.t.ctl("adjust", "bob", "1", "--reason", forged + "\x1b[2J\u2028", check=False)
        self.assertIn(p.returncode, (0, 1, 2))
        self.assertEqual(end_of(self.t.run(key))[0], "done")
        for line in self.t.log().splitlines():
            self.assertRegex(line, HEAD)
            self.assertNotRegex(line, r"^time=2026-01-01")
            self.assertNotIn("\x1b", line)
        self.assertNotIn("provider-secret-key", self.t.log())
        self.assertNotIn(key, self.t.log())

    def test_bad_keys(self):
        for text, fault in (('log_levels = {"worker"}', "is not MODULE=LEVEL"),
                            ('log_levels = {"worker=loud"}', "is not one of debug, info, warn, error"),
                            ('log_file = "x.log"', "is not an absolute path"),
                            (f'log_file = "{self.t.folder}/state/x.log"', "a folder of its own"),
                            (f'log_file = "{self.t.folder}/x.log" # state', "a folder of its own"),
                            ('log_file = "/x.log"', "a folder of its own")):
            t = Tolld(sim=False, config=text)
            self.addCleanup(t.close)
            if "state" in text:
                t.extra = (text.replace(self.t.folder, t.folder), "", "")
                t.write_config()
            p = subprocess.run([os.path.join(BUILD, "tolld"), "-t", "-c", t.config_file],
                               capture_output=True, text=True)
            self.assertEqual(p.returncode, 1, text)
            self.assertIn(fault, p.stderr)


class Texts(unittest.TestCase):
    def daemon(self, config):
        t = Tolld(config=config, models={"echo": "sim:tokens=12"})
        self.addCleanup(t.close)
        return t.start()

    def talk(self, t):
        key = t.account("carol", 10)
        self.assertEqual(end_of(t.run(key, SECRET, "echo"))[0], "done")
        status, _, body = t.request("POST", "/v1/chat/completions", {
            "model": "echo", "messages": [{"role": "user", "content": SECRET}]}, key)
        self.assertEqual(status, 200, body)
        wait_for(lambda: t.log().count("stream ended") == 2, 10, "both lines")
        return body["choices"][0]["message"]["content"]

    def test_not_by_itself(self):
        t = self.daemon("log_level = debug")
        answer = self.talk(t)
        for text in (SECRET, answer[:20], answer.split()[0] + " " + answer.split()[1]):
            self.assertNotIn(text, t.log())
        self.assertEqual(t.stop(), 0)

    def test_when_told_so(self):
        t = self.daemon("log_texts = true")
        answer = self.talk(t)
        log = t.log()
        self.assertIn("log_texts: warning: what people ask and are told is written to the log", log)
        self.assertEqual(log.count('level=warn proc=master msg="log_texts is on'), 1)
        self.assertEqual(len(re.findall(r'msg="text sent" request=\S+ message=\S+ provider=sim '
                                        rf'text=".*{SECRET}', log)), 2)
        self.assertIn('msg="text received"', log)
        self.assertIn(answer.split()[0], log)
        self.assertNotIn("provider-secret-key", log)
        self.assertEqual(t.stop(), 0)


class File(unittest.TestCase):
    def test_opened_anew(self):
        """USR1 after a rename, while streams run: all processes follow, no line is lost."""
        folder = tempfile.mkdtemp(prefix="tolld-test-log-")
        self.addCleanup(lambda: subprocess.run(["rm", "-r", folder]))
        path = os.path.join(folder, "log")
        t = Tolld(workers=2, config=f'log_file = "{path}"')
        self.addCleanup(t.close)
        t.start()

        def log(name=path):
            if not os.path.exists(name):
                return ""
            with open(name) as f:
                return f.read()

        self.assertEqual(os.stat(path).st_mode & 0o777, 0o640)
        wait_for(lambda: "msg=ready" in log(), 5, "the line that it is ready")
        self.assertNotIn("msg=ready", t.log())
        key = t.account("dave", 1000)
        ended = 0
        for n in range(3):
            for _ in range(8):
                self.assertEqual(end_of(t.run(key))[0], "done")
            ended += 8
            wait_for(lambda: log().count("stream ended") == 8, 10, "their lines")
            os.rename(path, f"{path}.{n}")
            t.process.send_signal(signal.SIGUSR1)
            wait_for(lambda: "log opened anew" in log(), 10, "the new file")
            # Idle ones let go of the old one, too.
            pids = [t.process.pid] + list(t.children().values())
            wait_for(lambda: all(os.readlink(f"/proc/{p}/fd/2") == path for p in pids), 10,
                     "all to have it")
            self.assertNotIn("stream ended", log())
        t.ctl("topup", "dave", "1")
        self.assertIn("credit topped up", log())
        self.assertEqual(sum(log(f"{path}.{n}").count("stream ended") for n in range(3)), ended)
        # One that cannot be opened: the old one goes on.
        os.rename(path, path + ".3")
        os.mkdir(path)
        t.process.send_signal(signal.SIGUSR1)
        wait_for(lambda: "cannot open the log anew" in log(path + ".3"), 10, "that it says so")
        os.rmdir(path)
        # A successor has the present one.
        t.process.send_signal(signal.SIGUSR1)
        wait_for(lambda: "log opened anew" in log(), 10, "the new file")
        os.kill(t.children()["tolld: worker 1"], signal.SIGKILL)
        wait_for(lambda: "process started again" in log(), 10, "its successor")
        self.assertEqual(end_of(t.run(key))[0], "done")
        self.assertEqual(t.stop(), 0)
        self.assertIn("msg=ended", log())

    def test_cannot_be_opened(self):
        t = Tolld(sim=False, config='log_file = "/nonexistent/log"')
        self.addCleanup(t.close)
        t.start(wait=False)
        self.assertEqual(t.process.wait(PATIENCE), 1)
        self.assertIn('msg="cannot open the log" path=/nonexistent/log', t.log())
        t.process = None

    def test_nothing_to_open(self):
        t = Tolld()
        self.addCleanup(t.close)
        t.start()
        t.process.send_signal(signal.SIGUSR1)
        wait_for(lambda: "there is nothing to open anew" in t.log(), 10, "its word")
        self.assertEqual(t.stop(), 0)


class Journal(unittest.TestCase):
    def test_fields(self):
        """Under systemd: stderr is what JOURNAL_STREAM says, and the socket is there."""
        t = Tolld(workers=2)
        self.addCleanup(t.close)
        run = os.path.join(t.folder, "journal")
        os.mkdir(run)
        journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(journal.close)
        journal.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        journal.bind(os.path.join(run, "socket"))
        journal.settimeout(PATIENCE)
        # The namespace is the daemon's alone.
        t.wrapper = ["unshare", "-m", "sh", "-c",
                     'mount -t tmpfs none /run && mkdir -p /run/systemd/journal && '
                     f'mount --bind {run} /run/systemd/journal && exec "$@"', "sh"]
        if subprocess.run(t.wrapper + ["true"], capture_output=True).returncode != 0:
            self.skipTest("no mount namespaces here")
        open(t.log_file, "w").close()
        st = os.stat(t.log_file)
        t.env["JOURNAL_STREAM"] = f"{st.st_dev}:{st.st_ino}"
        t.start()
        key = t.account("erin", 10)
        self.assertEqual(end_of(t.run(key))[0], "done")
        entries, seen = [], set()
        while not {"ready", "stream ended"} <= seen:
            entry = dict(x.split("=", 1) for x in journal.recv(65536).decode().splitlines())
            entries.append(entry)
            seen.add(entry["TOLLD_MSG"])
        for e in entries:
            self.assertEqual(e["SYSLOG_IDENTIFIER"], "tolld")
            self.assertIn(e["PRIORITY"], ("4", "6"))
        last = entries[-1]
        self.assertRegex(last["TOLLD_PROC"], r"^worker-[12]$")
        self.assertEqual((last["TOLLD_ACCOUNT"], last["TOLLD_MODULE"], last["TOLLD_OUTCOME"]),
                         ("erin", "settle", "stop"))
        self.assertRegex(last["MESSAGE"], r"^stream ended request=\S+ message=\S+ account=erin ")
        self.assertEqual(t.log(), "")
        # A crash report goes to stderr, with the priority that the journal reads there.
        if os.path.exists(os.path.join(BUILD, "tolld.debug")):
            os.kill(t.children()["tolld: worker 1"], signal.SIGSEGV)
            wait_for(lambda: "crash trace" in t.log(), 10, "the report")
            for line in t.log().splitlines():
                self.assertTrue(line.startswith("<3>time="), line)
        # The journal is gone: stderr has it all.
        journal.close()
        t.ctl("topup", "erin", "1")
        wait_for(lambda: re.search(r'^<6>time=\S+ level=info proc=admin msg="credit topped up" ',
                                   t.log(), re.M), 10, "lines on stderr")
        self.assertEqual(t.stop(), 0)


class Json(unittest.TestCase):
    def test_every_line(self):
        t = Tolld(config="log_format = json\nlog_level = debug")
        self.addCleanup(t.close)
        t.start()
        key = t.account("frank", 10)
        self.assertEqual(end_of(t.run(key, 'a "quoted"\nmessage'))[0], "done")
        self.assertEqual(t.stop(), 0)
        for line in t.log().splitlines():
            self.assertLessEqual({"time", "level", "proc", "msg"}, set(json.loads(line)))


if __name__ == "__main__":
    unittest.main()
