"""Goal:   sockets that a service manager passes are served, and outlive the daemon: a restart
        refuses nobody.
Method: a launcher that passes descriptors as systemd does, clients that connect all the time while
        the daemon is restarted; sockets that cannot be used; systemd's own launcher where it is.
"""
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import unittest

from tolld import SLOW, Tolld, wait_for

LAUNCH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "launch.py")


def listener(reuse=False, backlog=4096, address=("127.0.0.1", 0)):
    s = socket.socket()
    if reuse:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    s.bind(address)
    if backlog:
        s.listen(backlog)
    return s


class Inherited(unittest.TestCase):
    def daemon(self, sockets, names="tolld.socket", workers=2, port=None, pid=None, **options):
        t = Tolld(workers=workers, config="drain_timeout = 5", **options)
        self.addCleanup(t.close)
        fds = [s.fileno() for s in sockets]
        for s in sockets:
            self.addCleanup(s.close)
        t.port = port or sockets[0].getsockname()[1]
        t.write_config()
        t.pass_fds = fds
        t.wrapper = [sys.executable, "-B", LAUNCH, *(["--pid", str(pid)] if pid else []),
                     ",".join(map(str, fds)), names]
        return t

    def refused(self, t):
        t.start(wait=False)
        self.assertEqual(t.process.wait(20 * SLOW), 1, t.log())
        return t.log()

    def ask(self, t, key):
        status, _, body = t.request("GET", "/balance", key=key)
        self.assertEqual((status, body["balance"]), (200, 5), body)

    def test_a_restart_refuses_nobody(self):
        t = self.daemon([listener()]).start()
        key = t.account("alice", "5")
        self.assertIn("tolld.socket 127.0.0.1:", t.log())
        stop, asked, wrong = threading.Event(), [0], []

        def client():
            while not stop.is_set():
                try:
                    self.ask(t, key)
                    asked[0] += 1
                except Exception as e:  # a reset or refused connection, a status: all are told
                    wrong.append(repr(e))
                    return

        clients = [threading.Thread(target=client) for _ in range(8)]
        for c in clients:
            c.start()
        try:
            for _ in range(3):
                before = asked[0]
                wait_for(lambda: asked[0] > before + 50, 20, "clients to be served")
                self.assertEqual(t.stop(), 0, t.log())
                # Nobody runs: who comes now stands in the queue.
                with socket.create_connection(("127.0.0.1", t.port), 5):
                    t.start()
            before = asked[0]
            wait_for(lambda: asked[0] > before + 50 or wrong, 20, "clients to be served again")
        finally:
            stop.set()
            for c in clients:
                c.join(30 * SLOW)
        self.assertEqual(wrong, [])
        t.audit()

    def test_one_socket_serves_all_workers(self):
        t = self.daemon([listener()]).start()
        key = t.account("alice", "5")
        wait_for(lambda: {"tolld: worker 1", "tolld: worker 2"} <= set(t.children()), 10, "titles")
        for name in ("tolld: worker 1", "tolld: worker 2"):
            # The other one is alone with it, and the successor has it again.
            pid = t.children()[name]
            os.kill(pid, signal.SIGKILL)
            self.ask(t, key)
            wait_for(lambda: t.children().get(name, pid) != pid, 10, "a new worker")
            self.ask(t, key)

    def test_as_many_as_workers(self):
        first = listener(reuse=True)
        second = listener(reuse=True, address=first.getsockname())
        t = self.daemon([first, second], names="a:b").start()
        key = t.account("alice", "5")
        for _ in range(20):  # the kernel deals them out to both
            self.ask(t, key)
        self.assertEqual(t.log().count("listening on a socket that was passed"), 2)

    def test_more_than_workers(self):
        first = listener(reuse=True)
        second = listener(reuse=True, address=first.getsockname())
        log = self.refused(self.daemon([first, second], workers=1))
        self.assertIn("more sockets were passed", log)
        self.assertIn(f"127.0.0.1:{first.getsockname()[1]}", log)

    def test_not_in_listen(self):
        other = listener()
        log = self.refused(self.daemon([listener(), other], names="web:odd"))
        self.assertIn("a socket was passed that `listen` does not name", log)
        self.assertIn(f"odd 127.0.0.1:{other.getsockname()[1]}", log)

    def test_what_cannot_be_used(self):
        datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagram.bind(("127.0.0.1", 0))
        self.assertIn("it is not a stream socket", self.refused(self.daemon([datagram])))
        self.assertIn("it does not listen", self.refused(self.daemon([listener(backlog=0)])))
        with open("/dev/null") as f:
            log = self.refused(self.daemon([f], names="a b\nc", port=1))
            self.assertIn("it is not a stream socket", log)
            self.assertNotIn("\nc", log)
        for fds, word in (("2", "it is not open"), ("65", "LISTEN_FDS"), ("-1", "LISTEN_FDS"),
                          ("1x", "LISTEN_FDS"), ("", "LISTEN_FDS")):
            self.assertIn(word, self.refused(self.daemon([listener()], env={"FDS": fds})), fds)

    def test_meant_for_another_process(self):
        """A shell between has kept the variables: they are not about us."""
        s = listener()
        t = self.daemon([s], pid=1)
        self.assertIn("cannot listen", self.refused(t))

    def test_unix(self):
        folder = tempfile.mkdtemp(prefix="tolld-test-")
        self.addCleanup(shutil.rmtree, folder, True)
        path = os.path.join(folder, "clients.sock")
        s = socket.socket(socket.AF_UNIX)
        s.bind(path)
        s.listen(16)
        t = self.daemon([s], port=1)
        with open(t.config_file) as f:
            text = f.read()
        with open(t.config_file, "w") as f:
            f.write(text.replace('"127.0.0.1:1"', f'"unix:{path}"'))
        t.start()
        for _ in range(2):
            c = socket.socket(socket.AF_UNIX)
            c.settimeout(10 * SLOW)
            c.connect(path)
            if t.process is None:
                t.start()
            c.sendall(b"GET /balance HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            self.assertIn(b" 401 ", c.recv(4096))
            c.close()
            self.assertEqual(t.stop(), 0)
            self.assertTrue(os.path.exists(path), "the service manager's file was removed")

    @unittest.skipUnless(shutil.which("systemd-socket-activate"), "systemd is not here")
    def test_as_systemd_passes_it(self):
        t = Tolld(workers=2)
        self.addCleanup(t.close)
        t.wrapper = ["systemd-socket-activate", "-l", f"127.0.0.1:{t.port}", "--fdname", "web"]
        t.start(wait=False)  # it starts the daemon when somebody comes
        def knock():
            try:
                socket.create_connection(("127.0.0.1", t.port), 1).close()
                return True
            except OSError:
                return False
        wait_for(knock, 10, "systemd-socket-activate")
        wait_for(t.ready, 20, "the daemon to be ready")
        self.ask(t, t.account("alice", "5"))
        self.assertIn(f"web 127.0.0.1:{t.port}", t.log())
        self.assertEqual(t.stop(), 0)


if __name__ == "__main__":
    unittest.main()
