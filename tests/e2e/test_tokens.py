"""Goal:   tokens in flight are the provider's own, to the token; a model whose tokenizer is the
        wrong one is named once; what an estimate learnt outlives a restart and a crash;
        `tollctl tokens` and `tokenizer build` do what they say.
Method: a simulated provider whose texts are cut by npm's tiktoken (beforehand); streams of many
        lengths that end, and that are cut by credit; the drift's histogram; tollctl on files.
"""
import concurrent.futures
import json
import os
import random
import resource
import subprocess
import tempfile
import unittest

from tolld import BUILD, Case, Tolld, cost, end_of, micro, text_of

LANGS = ("en", "ru", "zh", "code", "json", "emoji", "even")
MODELS = {f"{e[:-5]}-{lang}": (f"sim:lang={lang},exact={e},tokens=4000,prompt=8",
                               f'tokenizer = "{e}"')
          for e in ("o200k_base", "cl100k_base") for lang in LANGS}
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
with open(os.path.join(BUILD, "tollctl"), "rb") as program:
    SANITIZED = b"libasan" in program.read()  # its own memory is not to be limited
GOLDEN = os.path.join(ROOT, "tests/fixtures/tokenizer/golden.json")


def tollctl(*args, data=None):
    return subprocess.run([os.path.join(BUILD, "tollctl"), *args], input=data,
                          capture_output=True, timeout=300)


class Exact(Case):
    OPTIONS = dict(workers=2, models=MODELS, ledger="slice_tokens = 50")

    def test_drift_is_one(self):
        key = self.t.account("many", "1000")
        names = sorted(MODELS)

        def one(i):
            events = self.t.run(key, "hello", names[i % len(names)], max_tokens=1 + 7 * i)
            kind, done = end_of(events)
            self.assertEqual(kind, "done", done)
            return done["usage"]["completion_tokens"]

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            lengths = list(pool.map(one, range(210)))
        self.assertGreater(max(lengths), 1000)
        m = self.t.metrics()
        self.assertGreaterEqual(m["tolld_token_count_drift_count"], 200)
        self.assertEqual(m["tolld_token_count_drift_sum"], m["tolld_token_count_drift_count"])
        self.assertNotIn("counts otherwise", self.t.log())
        self.invariants()

    def test_prompt_is_the_provider_s(self):
        key = self.t.account("prompts", "1")
        # By hand: 3 + (3 + 1 + 1), and the cookbook's for a name.
        for body, tokens in (({"message": "hello"}, 8),
                             ({"messages": [{"role": "user", "content": "hello"}]}, 8),
                             ({"messages": [{"role": "user", "content": "hello",
                                             "name": "example_user"}]}, 11)):
            _, _, p = self.t.request("POST", "/chat/preview", dict(body, model="o200k-en"), key)
            self.assertEqual(p["prompt_tokens"], tokens, body)

    def test_cut_is_exact(self):
        """What was delivered is as many tokens as were paid, and one more was not payable."""
        for i, lang in enumerate(LANGS):
            for credit in (40, 77, 333):
                name = f"cut-{lang}-{credit}"
                key = self.t.account(name, overdraft=0)
                self.t.ctl("topup", name, f"{(cost(8, 0) + credit) / 1000000:.6f}")
                events = self.t.run(key, "hello", f"o200k-{lang}")
                kind, done = end_of(events)
                self.assertEqual((kind, done["finish_reason"]), ("done", "credit"))
                got = tollctl("tokens", "--json", data=text_of(events).encode())
                tokens = json.loads(got.stdout)["tokens"]
                self.assertEqual(tokens, done["usage"]["completion_tokens"], name)
                self.assertEqual(micro(done["cost"]), cost(8, tokens))
                # A character of several tokens (up to four, in emoji) is not cut.
                self.assertGreater(cost(8, tokens + (4 if lang in ("emoji", "zh") else 1)),
                                   cost(8, 0) + credit, name)
        self.invariants()


class Learning(unittest.TestCase):
    MODELS = {"wrong": ("sim:lang=ru,exact=cl100k_base,tokens=200", 'tokenizer = "o200k_base"'),
              "unknown": ("sim:lang=ru,exact=cl100k_base,tokens=200", 'tokenizer = "estimate"'),
              "right": ("sim:lang=ru,exact=o200k_base,tokens=200", 'tokenizer = "o200k_base"')}

    def factor(self, t, key):
        """Of the estimate, from what a preview says of a long text."""
        text = "слово " * 400
        exact = json.loads(tollctl("tokens", "--json", "--tokenizer", "cl100k_base",
                                   data=text.encode()).stdout)["tokens"]
        p = t.request("POST", "/chat/preview", {"model": "unknown", "message": text}, key)[2]
        return p["prompt_tokens"] / exact

    def test_it_learns_and_remembers(self):
        t = Tolld(workers=2, models=self.MODELS).start()
        self.addCleanup(t.close)
        key = t.account("alice", "1000")
        self.assertAlmostEqual(self.factor(t, key), 1.4, places=1)
        for model in self.MODELS:
            for _ in range(25):
                self.assertEqual(end_of(t.run(key, "hi", model))[0], "done")
        # The true factor is 1; a twentieth more is kept.
        self.assertAlmostEqual(self.factor(t, key), 1.05, places=1)
        said = [x for x in t.log().splitlines() if "counts otherwise" in x]
        self.assertEqual(len(said), 1, said)
        self.assertIn("model=wrong", said[0])
        self.assertIn("tokenizer=o200k_base", said[0])
        for how in ("stop", "kill"):
            if how == "stop":
                self.assertEqual(t.stop(), 0, t.log())
            else:
                t.kill_all()
            t.start()
            self.assertAlmostEqual(self.factor(t, key), 1.05, places=1, msg=how)
        self.assertEqual(t.stop(), 0, t.log())


class Command(unittest.TestCase):
    def setUp(self):
        d = tempfile.TemporaryDirectory(prefix="tolld-tokens-")
        self.addCleanup(d.cleanup)
        self.dir = d.name

    def file(self, name, data):
        path = os.path.join(self.dir, name)
        with open(path, "wb") as f:
            f.write(data)
        return path

    def test_counts(self):
        with open(GOLDEN) as f:
            samples = json.load(f)[:60]
        for tokenizer in ("o200k_base", "cl100k_base"):
            files = [self.file(str(i), s["text"].encode()) for i, s in enumerate(samples)]
            p = tollctl("tokens", "--json", "--tokenizer", tokenizer, *files)
            self.assertEqual(p.returncode, 0, p.stderr)
            self.assertEqual(json.loads(p.stdout), [
                {"file": f, "tokens": s[tokenizer]} for f, s in zip(files, samples)])
        one = self.file("one", "hello world".encode())
        self.assertEqual(json.loads(tollctl("tokens", "--json", one).stdout), {"tokens": 2})
        self.assertEqual(tollctl("tokens", one).stdout, b"2\n")
        self.assertEqual(tollctl("tokens", one, "-", data=b"a b c").stdout,
                         f"2 {one}\n3 -\n".encode())
        self.assertEqual(tollctl("tokens", data=b"").stdout, b"0\n")

    def test_any_bytes(self):
        """What is no UTF-8 counts as U+FFFD, as a decoder (and the daemon) replaces it; also where
        the reads cut it; and --prefixes ends with the count of the whole, whatever it is."""
        rare = random.Random(7)
        head = b"\xe4\xb8\xad" * 40000
        for data in (b"a\xff\xfeb", b"a\xe4\xb8", b"a\xe4\xb8b", b"\xf0\x9f\x98", b"\xed\xa0\x80x",
                     b"\0" * 1000, bytes(range(256)) * 300, rare.randbytes(70000),
                     b"x" * 65535 + "жаба".encode(), head[:65537], head[1:65539] + b"\xf4",
                     ("a" * 65534 + "😀" * 3).encode(), b"\r\n" * 40000):
            whole = data.decode(errors="replace").encode()
            for name in ("o200k_base", "estimate"):
                got = tollctl("tokens", "--tokenizer", name, data=data)
                self.assertEqual(got.stderr, b"")
                self.assertEqual(got.stdout, tollctl("tokens", "--tokenizer", name,
                                                     data=whole).stdout, data[:9])
                lines = tollctl("tokens", "--tokenizer", name, "--prefixes", data=data).stdout
                self.assertEqual(lines.splitlines()[-1], b"%d %s" % (len(data), got.stdout.strip()))

    def test_much_costs_no_memory(self):
        """100 MB are counted in little memory, and each kind of run in time in proportion."""
        def limited():
            resource.setrlimit(resource.RLIMIT_AS, (96 << 20, 96 << 20))

        for run, times in ((b"a", 100), (b" ", 4), (b"\n", 4), (b"1", 4), (b"!", 4),
                           (b"A", 4), (b"'", 4), ("Ж".encode(), 4), ("中".encode(), 4),
                           ("\u0301".encode(), 4), (b" \n", 4), (b"aA", 4), (b"\xff", 4)):
            with tempfile.TemporaryFile(dir=self.dir) as f:
                for _ in range(times):
                    f.write(run * (1000000 // len(run)))
                f.seek(0)
                p = subprocess.run([os.path.join(BUILD, "tollctl"), "tokens"], stdin=f,
                                   capture_output=True, timeout=300,
                                   preexec_fn=None if SANITIZED else limited)
            self.assertEqual((p.returncode, p.stderr), (0, b""), run)
            self.assertGreater(int(p.stdout), 0)
        huge = self.file("huge", b"")
        os.truncate(huge, (1 << 30) + 1)
        p = tollctl("tokens", "--tokenizer", "cl100k_base", huge)
        self.assertEqual((p.returncode, p.stdout), (2, b""))
        self.assertIn(b"File too large", p.stderr)

    def test_prefixes(self):
        with open(GOLDEN) as f:
            sample = next(s for s in json.load(f) if s["name"] == "late")
        p = tollctl("tokens", "--prefixes", data=sample["text"].encode())
        lines = [tuple(map(int, x.split())) for x in p.stdout.decode().splitlines()]
        self.assertEqual([n for _, n in lines], sample["prefixes"]["o200k_base"])
        self.assertEqual(lines[-1][0], len(sample["text"].encode()))
        p = tollctl("tokens", "--prefixes", "--json", data=sample["text"].encode())
        self.assertEqual(json.loads(p.stdout), {"tokens": lines[-1][1],
                                                "prefixes": [list(x) for x in lines]})
        self.assertEqual(json.loads(tollctl("tokens", "--prefixes", "--json", data=b"").stdout),
                         {"tokens": 0, "prefixes": []})

    def test_what_is_refused(self):
        missing = os.path.join(self.dir, "missing")
        for args in (("--tokenizer", "gpt2"), ("--tokenizer", missing),
                     ("--tokenizer", self.file("junk.tok", b"junk" * 1000)), (missing,),
                     (missing, "-"), ("--tokenizer",), ("-", self.dir), ("--json", "-", self.dir),
                     ("--tokenizer", self.flipped()), ("--prefixes", "-", "-")):
            p = tollctl("tokens", *args, data=b"x")
            self.assertEqual((p.returncode, p.stdout), (2, b""), args)
            self.assertTrue(p.stderr.startswith((b"tollctl: ", b"usage: ")), p.stderr)
            self.assertLess(p.stderr.count(missing.encode()), 2, p.stderr)

    def flipped(self):
        """A table with one other bit where its header says how text is split."""
        with open(os.path.join(BUILD, "tokenizers", "o200k_base.tok"), "rb") as f:
            data = bytearray(f.read())
        data[98] ^= 1
        return self.file("flipped.tok", data)

    def test_build_is_repeatable_and_shared(self):
        """The same list gives the same bytes; the table serves under its path, in a model too."""
        with open(os.path.join(BUILD, "tokenizers", "cl100k_base.tok"), "rb") as f:
            installed = f.read()
        packed = os.path.join(ROOT, "etc/tokenizers/cl100k_base.tiktoken.xz")
        listed = subprocess.run(["xz", "-dc", packed], capture_output=True, check=True).stdout
        path = self.file("cl100k_base.tiktoken", listed)
        out = os.path.join(self.dir, "cl100k_base.tok")
        p = tollctl("tokenizer", "build", path, "--split", "cl100k_base", "-o", out)
        self.assertEqual(p.returncode, 0, p.stderr)
        with open(out, "rb") as f:
            self.assertEqual(f.read(), installed)
        self.assertEqual(tollctl("tokens", "--tokenizer", out, data=b"hello world").stdout, b"2\n")
        t = Tolld(models={"mine": ("sim:lang=en,exact=cl100k_base", f'tokenizer = "{out}"')})
        self.addCleanup(t.close)
        t.start()
        key = t.account("alice", "1")
        self.assertEqual(end_of(t.run(key, "hello", "mine"))[0], "done")
        self.assertEqual(t.metric("tolld_token_count_drift_sum"), 1)
        self.assertEqual(t.stop(), 0)


if __name__ == "__main__":
    unittest.main()
