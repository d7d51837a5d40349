"""Requests that two parsers might read differently (corpus.json), ours and llhttp's view."""
import contextlib
import json
import os
import shutil
import subprocess
import sys
import unittest

from client import Case, Client

HERE = os.path.dirname(os.path.abspath(__file__))


def corpus():
    with open(os.path.join(HERE, "corpus.json"), encoding="ascii") as f:
        for entry in json.load(f):
            raw = "".join(p if isinstance(p, str) else p[0] * p[1] for p in entry["raw"])
            yield entry, raw.encode("latin-1")


def statuses(port, raw):
    """The status of every reply to these bytes, up to the close."""
    c = Client(port)
    found = []
    try:
        with contextlib.suppress(OSError):
            c.send(raw)
            c.finish()
        while True:
            r = c.reply()
            if r is None:
                break
            if r.status >= 200:
                found.append(r.status)
    except (ConnectionResetError, AssertionError):
        pass
    finally:
        c.close()
    return found


class Corpus(Case):
    def test_ours(self):
        for entry, raw in corpus():
            with self.subTest(entry["name"]):
                got = statuses(self.server.port, raw)
                if entry["want"] == "accepted":
                    self.assertEqual(got, [200] * entry.get("replies", 1))
                    continue
                # Refused: a request before the bad one may have been served, none after it.
                if "status" in entry:
                    self.assertEqual(got, [entry["status"]])
                self.assertTrue(not got or got[-1] != 200 or len(got) < raw.count(b"HTTP/1."))
                self.assertLessEqual(got.count(200), 1)
                self.assertEqual([s for s in got[:-1] if s != 200], [])

    def test_every_cut_is_refused_alike(self):
        """The bytes in two pieces; the whole corpus, at a few cuts each."""
        for entry, raw in corpus():
            if len(raw) > 2000:
                continue
            whole = statuses(self.server.port, raw)
            for cut in range(1, len(raw), max(1, len(raw) // 7)):
                with self.subTest(entry["name"], cut=cut), self.server.connect() as c:
                    with contextlib.suppress(OSError):
                        c.send(raw[:cut])
                        c.send(raw[cut:])
                        c.finish()
                    got = []
                    with contextlib.suppress(ConnectionResetError, AssertionError):
                        while True:
                            r = c.reply()
                            if r is None:
                                break
                            got.append(r.status)
                    self.assertEqual([s for s in got if s != 100], whole)

    @unittest.skipUnless(shutil.which("node"), "node is not installed: llhttp not compared")
    def test_llhttp(self):
        node = subprocess.Popen(["node", os.path.join(HERE, "node_parser.js")],
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            port = int(node.stdout.readline())
            stricter = 0
            for entry, raw in corpus():
                statuses(port, raw)
                theirs = int(node.stdout.readline())
                ours = statuses(self.server.port, raw)
                with self.subTest(entry["name"], theirs=theirs, ours=ours):
                    # Each 200 is a request that was believed: never more of them than llhttp's.
                    self.assertLessEqual(ours.count(200), theirs)
                    stricter += ours.count(200) < theirs
            print("stricter than llhttp on %d entries" % stricter, file=sys.stderr)
        finally:
            node.stdin.close()
            node.wait()
            node.stdout.close()
